//! What is asked, one file for each question.

use crate::measure::{Measured, Table};

pub mod event_loop;
pub mod fork_join;
pub mod growth;
pub mod hand_over;
pub mod kernels;
pub mod limits;
pub mod memory;
pub mod messages;
pub mod round_trip;
pub mod start;
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
}

pub const ALL: &[Question] = &[
    Question { key: "limits", title: "What the machine gives", ask: limits::ask },
    Question { key: "hand_over", title: "A batch there and back", ask: hand_over::ask },
    Question { key: "round_trip", title: "Round trip of one tiny job", ask: round_trip::ask },
    Question { key: "tiny_jobs", title: "A million tiny jobs", ask: tiny_jobs::ask },
    Question { key: "messages", title: "Items through a bounded queue", ask: messages::ask },
    Question { key: "kernels", title: "Kernels over large arrays", ask: kernels::ask },
    Question { key: "fork_join", title: "Recursion and sorting", ask: fork_join::ask },
    Question { key: "event_loop", title: "An event loop beside the work", ask: event_loop::ask },
    Question { key: "start", title: "From nothing to the first result", ask: start::ask },
    Question { key: "memory", title: "Page faults and memory of a steady state", ask: memory::ask },
    Question { key: "growth", title: "Cost as it grows", ask: growth::ask },
];
