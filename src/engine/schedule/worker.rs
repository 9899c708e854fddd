//! The worker's loop: take, run, look around, sleep.

use crate::engine::schedule::health;
use crate::engine::schedule::queue;
use crate::engine::schedule::shift;
use crate::engine::schedule::wakeup;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::exec::execute::execute;
use crate::engine::options::{IdleStrategy, WaitPolicy};
use crate::engine::runtime::Core;
use crate::engine::schedule::shift::Shift;
use crate::engine::schedule::start_worker::{Assignment, StartWorker, ThreadStarter};
use crate::error::Result;
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::records::participant_kind;
use crate::layout::words::park;
use crate::os::futex::wait_until;
use crate::os::host::{self, Deadline};
use crate::sync::{Ordering, spin_hint};

/// Looks at the rings between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;
/// How many workers a worker wakes that found more work than it can take: two, so that many wake up quickly.
const CHAIN: u32 = 2;
/// How long a worker dozes: about what waking it would take, and long beside the jobs that flow past it meanwhile.
const DOZE: Duration = Duration::from_micros(100);

/// How long a worker stays awake without work, learnt from how long it took until work came.
///
/// The bounds come from measurements of a futex sleep and wake across cores, some 60 microseconds: staying awake for less
/// than a few microseconds saves nothing, for more than a few wake-ups costs more than it saves.
struct SpinBudget {
    idle: IdleStrategy,
    allowed: bool,
    /// Moving average of the time without work, in nanoseconds.
    gap_ns: u64,
    /// When the last job was found, and how long it took.
    found_ns: u64,
    job_ns: u64,
    /// Whether the threads that call run no jobs themselves.
    callers_wait: bool,
    flow: Flow,
}

/// How fast the others take jobs, looked at by a worker that finds none.
///
/// Jobs that are over before another worker could be awake are best left to the workers that run them: a wake-up costs what
/// fifty such jobs cost, and the woken worker takes a core from somebody. So a worker that finds nothing while jobs flow past it
/// dozes instead of parking: it counts as searching, which spares everybody else the wake-ups, and looks again after [`DOZE`].
#[derive(Clone, Copy)]
struct Flow {
    at_ns: u64,
    taken: u64,
    brisk: bool,
}

impl Flow {
    /// Jobs that take less than this each are brisk.
    const BRISK_NS: u64 = 1_000;
    /// A shorter time says nothing about the flow.
    const SHORTEST_NS: u64 = 5_000;

    fn new(now_ns: u64, taken: u64) -> Self {
        Self { at_ns: now_ns, taken, brisk: false }
    }

    /// Whether others have been taking jobs briskly since the last look. `taken` says how many were taken so far; it is asked
    /// only when enough time has passed.
    fn is_brisk(&mut self, now_ns: u64, taken: impl FnOnce() -> u64) -> bool {
        let passed = now_ns.saturating_sub(self.at_ns);
        if passed >= Self::SHORTEST_NS {
            let taken = taken();
            let jobs = taken.wrapping_sub(self.taken);
            *self = Self { at_ns: now_ns, taken, brisk: jobs.saturating_mul(Self::BRISK_NS) > passed };
        }
        self.brisk
    }
}

impl SpinBudget {
    const SHORT: u64 = 10_000;
    const LONG: u64 = 150_000;
    const HOPELESS: u64 = 1_000_000;
    /// A job after which a worker stays awake beside another one, and for how long at most.
    const LONG_JOB: u64 = 20_000;
    const SECOND: u64 = 50_000;

    fn new(core: &Core) -> Self {
        let flow = Flow::new(Deadline::now().nanoseconds(), core.taken_hint());
        let callers_wait = core.config.help == WaitPolicy::Never;
        let (idle, allowed) = (core.config.idle, core.may_spin());
        Self { idle, allowed, gap_ns: Self::SHORT * 4, found_ns: 0, job_ns: 0, callers_wait, flow }
    }

    /// How long to stay awake now; `searchers` others are awake already.
    fn limit(&self, searchers: u32) -> Option<Duration> {
        match self.idle {
            IdleStrategy::Park => None,
            IdleStrategy::Spin(limit) => Some(limit),
            IdleStrategy::Adaptive if !self.allowed => None,
            // Waking it for the next call of a series takes longer than half of such a job.
            IdleStrategy::Adaptive if searchers > 0 && self.callers_wait && self.job_ns >= Self::LONG_JOB => {
                Some(Duration::from_nanos((self.job_ns / 2).min(Self::SECOND)))
            }
            IdleStrategy::Adaptive if searchers > 0 => None,
            IdleStrategy::Adaptive if self.gap_ns > Self::HOPELESS => Some(Duration::from_nanos(Self::SHORT)),
            IdleStrategy::Adaptive => Some(Duration::from_nanos((self.gap_ns * 2).clamp(Self::SHORT, Self::LONG))),
        }
    }

    /// Notes that a job has ended, unless there was none.
    fn end_job(&mut self, now_ns: u64) {
        self.job_ns = if self.found_ns == 0 { 0 } else { now_ns.saturating_sub(self.found_ns) };
        self.found_ns = 0;
    }

    fn learn(&mut self, gap_ns: u64) {
        // A gap counts for at most so much that a few short ones bring the average back down.
        self.gap_ns = (self.gap_ns * 7 + gap_ns.min(Self::HOPELESS * 4)) / 8;
    }
}

/// Starts the worker thread of a slot.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when the system gives no thread.
pub(in crate::engine) fn start(core: &Arc<Core>, slot: ParticipantSlot) -> Result<()> {
    core.threads.count_started(1);
    if let Some(row) = core.control.participant(slot) {
        // Relaxed: for observers.
        row.pid.store(std::process::id(), Ordering::Relaxed);
        row.kind.store(participant_kind::THREAD, Ordering::Relaxed);
    }
    let started = ThreadStarter { stack_len: None, work }.start(core, Assignment::of_thread(slot));
    started.map(drop).inspect_err(|_| ended(core))
}

pub(in crate::engine) fn ended(core: &Core) {
    core.threads.count_ended();
    // It ends after all others.
    core.ask_for_look();
}

/// Has the calling worker run where it shall: on its own core if workers are pinned, else where the thread that built the engine could.
/// A worker that was started later has inherited the cores and the niceness of its starter: another worker, or a submitting thread.
/// Where the system refuses, it runs elsewhere, which is only slower.
fn settle_down(core: &Core, me: ParticipantSlot) {
    let setup = core.threads.setup();
    let cores = setup.map_or(&[][..], |setup| &setup.cores);
    if core.config.own.pin {
        if let Some(&own) = cores.get((usize::from(me.get()) - 1) % cores.len().max(1)) {
            let _ = host::pin_current_thread(own);
        }
    } else if host::allowed_cores() != cores {
        host::run_on_any_of(cores);
    }
    #[cfg(target_os = "linux")]
    if let Some(nice) = core.config.own.nice.or(setup.and_then(|setup| setup.nice)) {
        // Checked when the engine was built. Where the system refuses all the same, the worker is only less or more polite.
        let _ = crate::os::process::set_nice(nice);
    }
}

fn work(core: &Arc<Core>, me: ParticipantSlot) {
    settle_down(core, me);
    // The slot stays its own until the thread that follows has it. Where the system has none to give, this one goes on.
    while run_until_closed(core, me) == ShiftEnd::Recycle {
        if start(core, me).is_ok() {
            return ended(core);
        }
    }
    shift::is_gone(core, me);
    ended(core);
}

/// Why a worker runs jobs no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ShiftEnd {
    /// It is not needed any more, or its engine closes.
    Over,
    /// It is a thread that has run as many jobs as one shall.
    Recycle,
}

/// The whole life of a worker process, once it has attached.
#[cfg(target_os = "linux")]
pub(crate) fn work_as_process(core: &Arc<Core>, me: ParticipantSlot) {
    run_until_closed(core, me);
}

/// Runs jobs until the engine closes and the queue is empty, this worker is told to leave, or it is to be recycled.
fn run_until_closed(core: &Arc<Core>, me: ParticipantSlot) -> ShiftEnd {
    let mut budget = SpinBudget::new(core);
    let row = core.control.participant(me);
    if let Some(row) = row {
        // Relaxed, as all times of a row: figures for people.
        row.idle_ns.store(0, Ordering::Relaxed);
        row.idle_since_ns.store(0, Ordering::Relaxed);
        row.began_ns.store(Deadline::now().nanoseconds(), Ordering::Relaxed);
    }
    let mut shift = Shift::begin(core, me);
    let mut end = ShiftEnd::Over;
    'shift: loop {
        while !core.is_leaving()
            && let Some(index) = queue::take(core, me)
        {
            // One that has just been started may have been started for the first of several jobs.
            wakeup::grow_from_within(core);
            execute(core, me, index);
            if shift.count_job() {
                end = ShiftEnd::Recycle;
                break 'shift;
            }
        }
        match next_job(core, me, &mut budget) {
            Some(index) => execute(core, me, index),
            None => break,
        }
        if shift.count_job() {
            end = ShiftEnd::Recycle;
            break;
        }
    }
    core.sleepers().retire(me);
    fault::point(Point::F15_retired);
    // A push that relied on this worker's last search is either seen here or finds it gone.
    if core.has_work() {
        wakeup::notify(core, CHAIN);
        // The successor of a recycled worker looks itself.
        while end == ShiftEnd::Over
            && !core.is_leaving()
            && let Some(index) = queue::take(core, me)
        {
            execute(core, me, index);
        }
    }
    end
}

/// Looks for a job, awake and then asleep; `None` when the engine is closing and nothing is left, this worker leaves, or it had
/// nothing to do for so long that it is not needed.
fn next_job(core: &Core, me: ParticipantSlot, budget: &mut SpinBudget) -> Option<DescriptorIndex> {
    let sleepers = core.sleepers();
    let mut others = sleepers.start_searching(me);
    let idle_since = Deadline::now();
    budget.end_job(idle_since.nanoseconds());
    let mut long_idle = shift::may_shrink(core).then(|| idle_since.plus(core.config.own.idle_timeout));
    let row = core.control.participant(me);
    if let Some(row) = row {
        row.idle_since_ns.store(idle_since.nanoseconds(), Ordering::Relaxed);
    }
    // When this worker was last known to have nothing to do. A job that is found is not kept waiting for another reading of the clock.
    let mut looked = idle_since;
    loop {
        if core.is_leaving() {
            return None;
        }
        let found = search(core, me, budget.limit(others), others, &mut budget.flow, &mut looked);
        if let Found::Job(index) = found {
            sleepers.found_job(me);
            fault::point(Point::F10_found);
            if core.has_work() {
                wakeup::notify(core, CHAIN);
            }
            let idle_for = looked.nanoseconds().saturating_sub(idle_since.nanoseconds());
            budget.learn(idle_for);
            budget.found_ns = looked.nanoseconds();
            if let Some(row) = row {
                let before = row.idle_ns.load(Ordering::Relaxed);
                row.idle_ns.store(before.wrapping_add(idle_for), Ordering::Relaxed);
                row.idle_since_ns.store(0, Ordering::Relaxed);
            }
            return Some(index);
        }
        // What the search saw counts, though the flow may have ebbed since: a worker that shall stay awake for longer has not, yet.
        let mut is_brisk = || budget.flow.is_brisk(Deadline::now().nanoseconds(), || core.taken_hint());
        if !core.is_stopping() && (found == Found::Flow || is_brisk()) {
            let until = Deadline::after(DOZE);
            sleepers.doze(me, |word| {
                // How it ends does not matter: the worker looks at the rings next.
                let _ = wait_until(word, park::RUNNING, until, core.scope());
            });
            (others, looked) = (0, Deadline::now());
            continue;
        }
        // Read before the fence in `prepare_to_park`, which precedes the last look at the rings: a job whose submitter still
        // saw the engine open is found by that look (see `Core::publish`).
        let stopping = core.is_stopping();
        sleepers.prepare_to_park(me);
        // The lifecycle is read again after the fence: an engine that began to close before it could see this worker as parked
        // has not woken it (see `Core::start_closing`, whose fence comes first then).
        let stopping_now = core.is_stopping();
        if core.has_work() || stopping_now != stopping {
            sleepers.resume(me);
            continue;
        }
        if stopping || shift::is_asked_to_leave(core, me) {
            sleepers.resume(me);
            if !stopping {
                // A process goes with all its workers: one that stayed would keep the worker slot, with the others' rows empty.
                core.leave();
            }
            return None;
        }
        fault::point(Point::F13_rechecked);
        sleepers.sleep(me, |word| health::park(core, word, long_idle));
        fault::point(Point::F15_woken);
        sleepers.resume(me);
        if long_idle.is_some_and(Deadline::is_past) && !core.has_work() {
            if shift::may_go(core, me) {
                return None;
            }
            long_idle = Some(Deadline::after(core.config.own.idle_timeout));
        }
        (others, looked) = (0, Deadline::now());
    }
}

/// How a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Job(DescriptorIndex),
    /// None in the time there was, or the worker is to stop.
    Nothing,
    /// Others take jobs so fast that none is left for this worker.
    Flow,
}

/// Looks at the rings for as long as `limit` says, at least once; `looked` becomes the time of the last look at the clock. One that searches beside
/// others does so on cores that nothing else needs.
fn search(
    core: &Core,
    me: ParticipantSlot,
    limit: Option<Duration>,
    others: u32,
    flow: &mut Flow,
    looked: &mut Deadline,
) -> Found {
    let until = limit.map(Deadline::after);
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            if core.has_work()
                && let Some(index) = queue::take(core, me)
            {
                return Found::Job(index);
            }
            if until.is_none() {
                return Found::Nothing;
            }
            spin_hint();
        }
        if others > 0 {
            core.let_others_run();
        }
        let now = Deadline::now();
        *looked = now;
        if until.is_none_or(|until| until <= now) || core.is_stopping() {
            return Found::Nothing;
        }
        if flow.is_brisk(now.nanoseconds(), || core.taken_hint()) {
            return Found::Flow;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is asked to leave while jobs come: were one worker to leave and the other to find work, its slot would be neither
    /// full nor vacant.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_of_which_one_worker_leaves_goes_whole() {
        use crate::arena::{Arena, ArenaConfig, Backing};
        use crate::engine::runtime::WorkerRole;
        use crate::ids::ParticipantSlots;
        use crate::layout::view::Control;
        use crate::layout::words::lifecycle;

        let config = crate::engine::options::EngineConfig { jobs_per_process: 2, ..Core::without_workers(0, 1).config };
        let arena = ArenaConfig {
            placement: Default::default(),
            capacity: 4096,
            retain: 0,
            backing: Backing::SharedMemory,
            large_pages: false,
            prefault: false,
        };
        let control =
            Control::create(config.queue_capacity, config.rows() as u32 + 1, false).expect("a control segment");
        let slots = ParticipantSlots::new(ParticipantSlot::new(1), 2);
        let role = WorkerRole::new(slots, 0, Vec::new());
        let core = Arc::new(Core::attached(config, control, Arena::create(&arena).expect("a page"), role));
        core.control.engine_line().lifecycle.store(lifecycle::OPEN, Ordering::Relaxed);
        shift::ask_to_leave(&core, slots.first());
        assert_eq!(run_until_closed(&core, slots.first()), ShiftEnd::Over);
        assert!(core.is_leaving(), "the other one takes no more jobs either");
    }

    /// A worker beside a flow of tiny jobs is not woken for every few hundred of them: it would take the submitter's core, and two
    /// workers would run a third of what one runs.
    #[test]
    fn a_worker_dozes_while_tiny_jobs_flow_past_it_and_parks_when_they_stop() {
        let us = |number: u64| number * 1_000;
        let mut flow = Flow::new(us(0), u64::MAX - 4);
        assert!(!flow.is_brisk(us(4), || unreachable!("too early to look")));
        // Ten jobs in five microseconds, over the wrap of the count.
        assert!(flow.is_brisk(us(5), || 5));
        assert!(flow.is_brisk(us(9), || unreachable!("too early to look")));
        assert!(flow.is_brisk(us(105), || 205));
        // One job of a hundred microseconds.
        assert!(!flow.is_brisk(us(205), || 206));
        assert!(!flow.is_brisk(us(305), || 206));
        // As many jobs as microseconds are not brisk, one more is.
        assert!(!flow.is_brisk(us(315), || 216));
        assert!(flow.is_brisk(us(325), || 227));
    }
}
