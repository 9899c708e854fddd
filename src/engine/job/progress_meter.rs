//! Progress of work that many partitions share: counted where their ranges lie, by the thread that asks. It costs the workers nothing.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::arena::Arena;
use crate::engine::job::chunk_plan::Plan;
use crate::engine::job::ranges::finished_chunks;
use crate::layout::records::RangeLine;
use crate::lockfree::progress::Reported;
use crate::sync::lock;

/// What is done of some calls, in elements.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    state: Mutex<Metering>,
}

#[derive(Debug, Default)]
struct Metering {
    /// What was done of calls that are over, and of how much.
    over: (u64, u64),
    under_way: Vec<UnderWay>,
    /// The number of the next one.
    next: u64,
    /// The job that the calls belong to, and what was done of the last one that is over, where a job counts its rows.
    of: u32,
    last: u64,
}

#[derive(Debug)]
struct UnderWay {
    number: u64,
    plan: Plan,
    /// `None` where one participant runs one chunk.
    ranges: Option<RangesAt>,
}

/// Where the ranges of a call lie.
#[derive(Debug)]
pub(crate) struct RangesAt {
    pub(crate) arena: Arc<Arena>,
    pub(crate) block: u64,
    pub(crate) partitions: u32,
}

impl UnderWay {
    fn done(&self) -> u64 {
        // The block is the call's for as long as it is listed: see `Metered`.
        let ranges = self.ranges.as_ref().and_then(|at| Some(at.arena.fan_out(at.block, at.partitions).ok()?.1));
        ranges.map_or(0, |ranges| elements_done(&self.plan, ranges))
    }
}

/// Elements in chunks that were finished; too many by part of a chunk if the last, shorter one is among them.
pub(in crate::engine) fn elements_done(plan: &Plan, ranges: &[RangeLine]) -> u64 {
    finished_chunks(ranges).saturating_mul(plan.chunk_len as u64).min(plan.total_len as u64)
}

impl Meter {
    fn state(&self) -> MutexGuard<'_, Metering> {
        // No foreign code runs under the lock.
        lock(&self.state)
    }

    /// Lists a call, until the value is dropped, which must be before the ranges are.
    pub(crate) fn begin(&self, plan: Plan, ranges: Option<RangesAt>) -> Metered<'_> {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.under_way.push(UnderWay { number, plan, ranges });
        Metered { progress: self, number, is_done: false }
    }

    /// What is done of all calls that were begun, and of how much.
    pub(crate) fn read(&self) -> Reported {
        let state = self.state();
        let (mut done, mut total) = state.over;
        for call in &state.under_way {
            done = done.saturating_add(call.done());
            total = total.saturating_add(call.plan.total_len as u64);
        }
        Reported { done, total }
    }

    /// Counts for a job from now on, by the name under which its progress is kept.
    pub(in crate::engine) fn serve(&self, of: u32) {
        let mut state = self.state();
        (state.of, state.last) = (of, 0);
    }

    /// What is done of the job, also between the end of its call and its own.
    pub(in crate::engine) fn present(&self, of: u32) -> Option<u64> {
        let state = self.state();
        (state.of == of).then(|| state.under_way.first().map_or(state.last, UnderWay::done))
    }
}

/// A call that a meter lists.
pub(crate) struct Metered<'m> {
    progress: &'m Meter,
    number: u64,
    /// Whether all of it is done, where no ranges say so.
    is_done: bool,
}

impl Metered<'_> {
    /// Counts all of it as done, where no ranges say so.
    pub(crate) fn count_all(mut self) {
        self.is_done = true;
    }
}

impl Drop for Metered<'_> {
    fn drop(&mut self) {
        let mut state = self.progress.state();
        if let Some(at) = state.under_way.iter().position(|call| call.number == self.number) {
            let call = state.under_way.swap_remove(at);
            let len = call.plan.total_len as u64;
            let done = if self.is_done { len } else { call.done() };
            let (all_done, total) = &mut state.over;
            *all_done = all_done.saturating_add(done);
            *total = total.saturating_add(len);
            state.last = done;
        }
    }
}
