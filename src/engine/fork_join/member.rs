//! A thread as a member of a team: what it forks, what it finds, how it waits, and how workers become members.
//!
//! Laws of this file:
//! 1. The pointer of a thread leads to a member that lies in a frame of that very thread, which puts the pointer before it back when it is left, in
//!    whatever way. A reference to it is lent for the time of a call, during which the frame stays.
//! 2. A member belongs to the engine whose address it has, and is lent for calls of that engine only: for that time both engine and team live.
//! 3. What is in the deques of a team was put there by this room: numbers of job addresses.
#![allow(unsafe_code)]

use core::cell::Cell;
use core::ptr;
use std::sync::{Arc, Weak};

use super::forked_job::JobAddress;
use crate::engine::job::closure_slot;
use crate::engine::options::{IdleStrategy, Priority};
use crate::engine::runtime::Core;
use crate::engine::runtime::nesting;
use crate::engine::runtime::team::Team;
use crate::engine::schedule::{completion, queue, wakeup};
use crate::lockfree::latch::Latch;
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::spin_hint;

/// How long a member that finds nothing stays awake.
const SPIN: core::time::Duration = core::time::Duration::from_micros(50);
/// The longest pause between two looks at the others' deques, which cost their owners a line each.
const PAUSE_MAX: u32 = 32;

/// A thread that works in a team.
pub(super) struct Member<'m> {
    pub(super) core: &'m Arc<Core>,
    pub(super) team: &'m Arc<Team>,
    pub(super) place: u32,
}

thread_local! {
    /// The member that this thread is at the moment; null for none.
    static CURRENT: Cell<*const Member<'static>> = const { Cell::new(ptr::null()) };
}

/// Calls `body` with the member that this thread is in a call of this engine, or with none.
#[inline]
pub(super) fn with_current<R>(core: &Arc<Core>, body: impl FnOnce(Option<&Member<'_>>) -> R) -> R {
    let current = CURRENT.with(Cell::get);
    // SAFETY: not null, and so it leads to a member in a frame below this one (law 1).
    let member = unsafe { current.as_ref() };
    body(member.filter(|member| ptr::eq(Arc::as_ptr(member.core), Arc::as_ptr(core))))
}

#[inline]
fn job_of(number: u64) -> JobAddress {
    // SAFETY: members put nothing else into the deques of a team (law 3).
    unsafe { JobAddress::of_number(number) }
}

impl Member<'_> {
    /// Runs `body` with this thread as the member.
    pub(super) fn enter<R>(&self, body: impl FnOnce() -> R) -> R {
        struct ComeBack(*const Member<'static>);
        impl Drop for ComeBack {
            fn drop(&mut self) {
                CURRENT.with(|current| current.set(self.0));
            }
        }
        let this = ptr::from_ref(self).cast::<Member<'static>>();
        let _restore = ComeBack(CURRENT.with(|current| current.replace(this)));
        body()
    }

    /// Shows a job to the others; `false` when there is no room for it.
    #[inline]
    pub(super) fn push(&self, job: &JobAddress) -> bool {
        let is_pushed = self.team.push(self.place, job.number());
        if is_pushed && self.team.is_short_of_work() {
            self.call_others();
        }
        is_pushed
    }

    /// Has a member look that sleeps, or one more worker help.
    #[cold]
    pub(super) fn call_others(&self) {
        if !self.team.call_sleeper() {
            recruit(self.core, self.team);
        }
    }

    /// Takes back the job that was forked last.
    #[inline]
    pub(super) fn pop(&self) -> Option<JobAddress> {
        self.team.pop(self.place).map(job_of)
    }

    /// Runs a job of the team.
    pub(super) fn run(&self, job: JobAddress) {
        job.run(self.team, self.place);
    }

    /// Takes back what is left of the `most` jobs that were forked last; how many that were. What was spawned into a scope around them
    /// meanwhile lies above them, and is run.
    pub(super) fn take_back(&self, most: usize, is_own: impl Fn(&JobAddress) -> bool) -> usize {
        let mut back = 0;
        while back < most
            && let Some(job) = self.pop()
        {
            match is_own(&job) {
                true => back += 1,
                false => self.run(job),
            }
        }
        back
    }

    /// A job of this member, or else of another one.
    pub(super) fn find(&self) -> Option<JobAddress> {
        self.pop().or_else(|| self.team.steal(self.place).map(job_of))
    }

    /// Runs jobs of the team while there are any and `is_over` does not say that it is enough; it is asked after each.
    pub(super) fn work(&self, mut is_over: impl FnMut() -> bool) {
        while !is_over()
            && let Some(job) = self.find()
        {
            self.run(job);
        }
    }

    /// Works, and looks for more for a while; until `is_over`, or until there was nothing for that while.
    pub(super) fn work_and_spin(&self, mut is_over: impl FnMut() -> bool) {
        let mut until = None;
        let mut pause = 1;
        loop {
            if let Some(job) = (!is_over()).then(|| self.find()).flatten() {
                self.run(job);
                (until, pause) = (None, 1);
                continue;
            }
            if is_over() || !self.may_spin() || until.get_or_insert_with(|| Deadline::after(SPIN)).is_past() {
                return;
            }
            (0..pause).for_each(|_| spin_hint());
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn may_spin(&self) -> bool {
        self.core.config.idle != IdleStrategy::Park && self.core.config.cores > 1
    }

    /// Waits until a latch of a call of this member is set, and runs jobs of the team meanwhile.
    #[cold]
    pub(super) fn wait(&self, latch: &Latch) {
        loop {
            self.work_and_spin(|| latch.is_set());
            if latch.is_set() {
                return;
            }
            self.team.sleep(self.place, latch);
        }
    }
}

/// Runs `body` with this thread as the first member of a team, which is one more level of calls of this engine.
#[cold]
pub(super) fn with_team<R>(core: &Arc<Core>, body: impl FnOnce(&Member<'_>) -> R) -> R {
    struct GiveBack<'c>(&'c Core, Option<Arc<Team>>);
    impl Drop for GiveBack<'_> {
        fn drop(&mut self) {
            if let Some(team) = self.1.take() {
                self.0.teams.release(team);
            }
        }
    }
    // The list may be locked for ever in a forked child.
    let is_own = core.check_process().is_ok();
    let team = if is_own { core.teams.acquire() } else { Arc::new(Team::new(0)) };
    if core.check_open().is_ok() && core.check_closures().is_ok() {
        team.allow_helpers();
    }
    let _release = GiveBack(core, is_own.then(|| Arc::clone(&team)));
    let member = Member { core, team: &team, place: 0 };
    nesting::run(core, None, || panics::inside(|| member.enter(|| body(&member))))
}

/// A helper that was counted; dropped when it leaves, or its job ends without having been run.
struct CountedHelper(Arc<Team>);

impl Drop for CountedHelper {
    fn drop(&mut self) {
        self.0.helper_left();
    }
}

/// Publishes the job by which one more worker joins the team, if there may be one. Waits for nothing: without room in the queue the team has to do.
#[cold]
fn recruit(core: &Arc<Core>, team: &Arc<Team>) {
    if !core.is_open() || !team.begin_recruiting() {
        return;
    }
    let Some(mut reservation) = core.jobs.try_reserve(&core.control) else { return team.recruiting_failed() };
    reservation.set_closure();
    // The job lies in the engine, so that it must not keep the engine.
    let (engine, counted) = (Arc::downgrade(core), CountedHelper(Arc::clone(team)));
    let index = reservation.index;
    let _ = closure_slot::keep(reservation.slot().closure(), move || help(&engine, counted));
    reservation.detach();
    match queue::publish_keeping(core, reservation, Priority::Normal) {
        // The workers of an engine that closes may all have looked for the last time.
        Ok(reference) if !core.is_open() => drop(completion::cancel(core, reference)),
        Ok(_) => wakeup::notify_published(core, 1),
        Err((_, done)) => completion::drop_detached(core, index, done),
    }
}

/// What a worker does that was recruited.
fn help(engine: &Weak<Core>, counted: CountedHelper) {
    let Some(core) = engine.upgrade() else { return };
    let team = Arc::clone(&counted.0);
    if let Some(place) = team.take_place() {
        let member = Member { core: &core, team: &team, place };
        // Other jobs of the engine go before the mere hope of finding something.
        member.enter(|| {
            loop {
                member.work(|| false);
                member.work_and_spin(|| core.has_work() || core.is_stopping() || team.has_work());
                if !team.has_work() {
                    break;
                }
            }
        });
        team.leave_place(place);
    }
    drop(counted);
    if team.has_work() {
        recruit(&core, &team);
    }
}
