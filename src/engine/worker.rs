//! The worker's loop: take, run, look around, sleep.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::core::Core;
use super::execute::execute;
use super::options::Idle;
use crate::error::{Error, Result};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::lockfree::futex;
use crate::os::host::{self, Deadline};
use crate::sync::{Ordering, spin_hint};

/// Looks at the rings between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;
/// How many workers a worker wakes that found more work than it can take: two, so that many wake up quickly.
const CHAIN: u32 = 2;

/// How long a worker stays awake without work, learnt from how long it took until work came.
///
/// The bounds come from measurements of a futex sleep and wake across cores, some 60 microseconds: staying awake for less
/// than a few microseconds saves nothing, for more than a few wake-ups costs more than it saves.
struct SpinBudget {
    idle: Idle,
    allowed: bool,
    /// Moving average of the time without work, in nanoseconds.
    gap_ns: u64,
}

impl SpinBudget {
    const SHORT: u64 = 10_000;
    const LONG: u64 = 150_000;
    const HOPELESS: u64 = 1_000_000;

    fn new(core: &Core) -> Self {
        Self { idle: core.config.idle, allowed: core.may_spin(), gap_ns: Self::SHORT * 4 }
    }

    /// How long to stay awake now; `searchers` others are awake already.
    fn limit(&self, searchers: u32) -> Option<Duration> {
        match self.idle {
            Idle::Park => None,
            Idle::Spin(limit) => Some(limit),
            Idle::Adaptive if !self.allowed || searchers > 0 => None,
            Idle::Adaptive if self.gap_ns > Self::HOPELESS => Some(Duration::from_nanos(Self::SHORT)),
            Idle::Adaptive => Some(Duration::from_nanos((self.gap_ns * 2).clamp(Self::SHORT, Self::LONG))),
        }
    }

    fn learn(&mut self, gap_ns: u64) {
        // A gap counts for at most so much that a few short ones bring the average back down.
        self.gap_ns = (self.gap_ns * 7 + gap_ns.min(Self::HOPELESS * 4)) / 8;
    }
}

/// Starts the workers of an engine.
///
/// # Errors
/// [`Error::Io`] when the system gives no thread; those that were started end again.
pub(crate) fn start(core: &Arc<Core>) -> Result<()> {
    for slot in core.worker_slots() {
        let shared = Arc::clone(core);
        core.workers_alive.fetch_add(1, Ordering::Relaxed);
        let started =
            thread::Builder::new().name(format!("workring-{}", slot.get())).spawn(move || work(&shared, slot));
        if let Err(error) = started {
            ended(core);
            core.start_closing();
            return Err(Error::io(format!("start worker thread {} of {}", slot.get(), core.config.threads), error));
        }
    }
    Ok(())
}

fn ended(core: &Core) {
    // Release: pairs with the acquire of whoever waits for the workers' end.
    core.workers_alive.fetch_sub(1, Ordering::Release);
    futex::wake_all(&core.workers_alive);
}

/// Ties the calling worker to its core. Where the system refuses it runs anywhere, which is only slower.
fn pin(me: ParticipantSlot) {
    let cores = host::allowed_cores();
    if let Some(&core) = cores.get((usize::from(me.get()) - 1) % cores.len().max(1)) {
        let _ = host::pin_current_thread(core);
    }
}

fn work(core: &Arc<Core>, me: ParticipantSlot) {
    if core.config.pin {
        pin(me);
    }
    let mut budget = SpinBudget::new(core);
    loop {
        while let Some((index, _)) = core.take(me) {
            execute(core, me, index);
        }
        match next_job(core, me, &mut budget) {
            Some(index) => execute(core, me, index),
            None => break,
        }
    }
    core.sleepers().retire(me);
    // A push that relied on this worker's last search is either seen here or finds it gone.
    if core.has_work() {
        core.notify(CHAIN);
        while let Some((index, _)) = core.take(me) {
            execute(core, me, index);
        }
    }
    ended(core);
}

/// Looks for a job, awake and then asleep; `None` when the engine is closing and nothing is left.
fn next_job(core: &Core, me: ParticipantSlot, budget: &mut SpinBudget) -> Option<DescriptorIndex> {
    let sleepers = core.sleepers();
    let mut others = sleepers.start_searching(me);
    let idle_since = Deadline::now();
    loop {
        if let Some(index) = search(core, me, budget.limit(others)) {
            sleepers.found_job(me);
            if core.has_work() {
                core.notify(CHAIN);
            }
            budget.learn(Deadline::now().nanoseconds().saturating_sub(idle_since.nanoseconds()));
            return Some(index);
        }
        // Read before the fence in `prepare_to_park`, which precedes the last look at the rings: a job whose submitter still
        // saw the engine open is found by that look (see `Core::publish`).
        let closing = !core.is_open();
        sleepers.prepare_to_park(me);
        // The lifecycle is read again after the fence: an engine that began to close before it could see this worker as parked
        // has not woken it (see `Core::start_closing`, whose fence comes first then).
        if core.has_work() || core.is_open() == closing {
            sleepers.resume(me);
            continue;
        }
        if closing {
            sleepers.resume(me);
            return None;
        }
        sleepers.sleep(me);
        sleepers.resume(me);
        others = 0;
    }
}

/// Looks at the rings for as long as `limit` says, at least once.
fn search(core: &Core, me: ParticipantSlot, limit: Option<Duration>) -> Option<DescriptorIndex> {
    let until = limit.map(Deadline::after);
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            if core.has_work()
                && let Some((index, _)) = core.take(me)
            {
                return Some(index);
            }
            until?;
            spin_hint();
        }
        if until.is_none_or(|until| until.is_past()) || !core.is_open() {
            return None;
        }
    }
}
