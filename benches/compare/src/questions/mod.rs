//! What is asked, one file for each question.

use crate::measure::{Measured, Table};

pub mod demo;
pub mod event_loop;
pub mod fork_join;
pub mod grids;
pub mod growth;
pub mod hand_over;
pub mod irregular;
pub mod kernels;
pub mod limits;
pub mod memory;
pub mod messages;
pub mod npb;
pub mod prk;
pub mod round_trip;
pub mod start;
mod suite;
pub mod tiny_jobs;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    /// Small sizes and one round: shows that everything works, its figures mean nothing.
    pub is_quick: bool,
}

impl Effort {
    pub fn pick<T>(self, full: T, quick: T) -> T {
        if self.is_quick { quick } else { full }
    }

    pub fn run(self, table: Table<'_>) -> Result<Measured, String> {
        table.run(self.rounds)
    }
}

pub struct Question {
    pub key: &'static str,
    pub title: &'static str,
    pub ask: fn(Effort) -> Result<Vec<Measured>, String>,
    /// Asked when it is named, or when all that is wanted is that everything works: suites whose figures take long.
    pub is_by_name: bool,
}

impl Question {
    const fn new(key: &'static str, title: &'static str, ask: fn(Effort) -> Result<Vec<Measured>, String>) -> Self {
        Self { key, title, ask, is_by_name: false }
    }

    const fn by_name(self) -> Self {
        Self { is_by_name: true, ..self }
    }
}

pub const ALL: &[Question] = &[
    Question::new("limits", "What the machine gives", limits::ask),
    Question::new("hand_over", "A batch there and back", hand_over::ask),
    Question::new("round_trip", "Round trip of one tiny job", round_trip::ask),
    Question::new("tiny_jobs", "A million tiny jobs", tiny_jobs::ask),
    Question::new("messages", "Items through a bounded queue", messages::ask),
    Question::new("kernels", "Kernels over large arrays", kernels::ask),
    Question::new("fork_join", "Recursion and sorting", fork_join::ask),
    Question::new("irregular", "Places that other numbers say", irregular::ask),
    Question::new("grids", "Grids, phases and parts of batches", grids::ask),
    Question::new("event_loop", "An event loop beside the work", event_loop::ask),
    Question::new("start", "From nothing to the first result", start::ask),
    Question::new("memory", "Page faults and memory of a steady state", memory::ask),
    Question::new("growth", "Cost as it grows", growth::ask),
    Question::new("npb", "NAS Parallel Benchmarks", npb::ask).by_name(),
    Question::new("prk", "Parallel Research Kernels", prk::ask).by_name(),
    Question::new("demo", "Programs of demonstrations", demo::ask).by_name(),
];
