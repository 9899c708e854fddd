//! How far work is that many share: counted where their ranges lie, by whoever wants to know. Those who do the work do nothing for it.

use crate::engine::job::meta;
use crate::sync::lock;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::arena::Arena;
use crate::engine::exec::fan_out::finished_chunks;
use crate::engine::job::chunk_plan::Plan;
use crate::engine::runtime::core::Core;
use crate::ids::DescriptorIndex;
use crate::layout::records::{RangeLine, kind};
use crate::layout::words::{DescriptorWord, FLAG_OUTCOME, State};
use crate::lockfree::job;
use crate::lockfree::progress::{self, Reported};
use crate::sync::Ordering;

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
    pub(crate) shares: u32,
}

impl UnderWay {
    fn done(&self) -> u64 {
        // The block is the call's for as long as it is listed: see `Metered`.
        let ranges = self.ranges.as_ref().and_then(|at| Some(at.arena.fan_out(at.block, at.shares).ok()?.1));
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
        Metered { meter: self, number, is_done: false }
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
    fn present(&self, of: u32) -> Option<u64> {
        let state = self.state();
        (state.of == of).then(|| state.under_way.first().map_or(state.last, UnderWay::done))
    }
}

/// A call that a meter lists.
pub(crate) struct Metered<'m> {
    meter: &'m Meter,
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
        let mut state = self.meter.state();
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

/// How far a job is: what it said, or in a job of rows how many rows are done.
pub(crate) fn progress_of(core: &Core, index: DescriptorIndex) -> Option<Reported> {
    let descriptor = core.control.descriptor(index)?;
    let word = job::snapshot(&descriptor.word);
    if crate::engine::job::call::kind_of(descriptor) != kind::ROWS {
        return meta::said_progress(core, index);
    }
    // The number of rows, which stays as long as the job.
    let total = descriptor.fan_out.load(Ordering::Relaxed);
    let done = match word.state()? {
        State::Queued => Some(0),
        State::Running => {
            rows_done(core, index, word).or_else(|| Some(meta::said_progress(core, index).map_or(0, |said| said.done)))
        }
        State::Done if !word.has(FLAG_OUTCOME) => Some(total),
        State::Done | State::Free | State::Reserved => None,
    };
    let reported =
        done.map(|done| Reported { done: done.min(total), total }).or_else(|| meta::said_progress(core, index));
    // Another job may have come in between, and be what was counted.
    reported.filter(|_| job::snapshot(&descriptor.word).generation() == word.generation())
}

/// Rows that are done of a job that is running, if it was spread by this process.
fn rows_done(core: &Core, index: DescriptorIndex, word: DescriptorWord) -> Option<u64> {
    let slot = core.local.slot(index)?;
    let of_gathered = || slot.distributed()?.rows_done(word.generation());
    slot.rows().present(meta::progress_name(core, index)).or_else(of_gathered)
}

/// Wakes those who watch a job of rows, some of which this thread has done.
pub(in crate::engine) fn tell_of_rows(core: &Core, index: DescriptorIndex) {
    if let Some(meta) = core.control.meta(index)
        && progress::takes_announcement(meta, meta::progress_name(core, index))
    {
        meta::call_watchers(core, index);
    }
}
