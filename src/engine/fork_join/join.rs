//! Two closures at once.
//!
//! Laws of this file:
//! 1. The address of a job is in a deque, or in somebody's hands, once: a thread that has it is alone with the closure and the result, until it sets
//!    the latch.
//! 2. A job lies in the frame that forks it, and stays there until it was taken back or its latch is set: no panic leaves the frame before (`FrameGuard`).
//!    Its thief touches nothing of it behind the exchange that sets the latch.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use std::sync::Arc;

use super::forked_job::{FrameGuard, JobAddress, JobHeader};
use super::member::{Member, with_current, with_team};
use crate::engine::runtime::Core;
use crate::engine::runtime::team::Team;
use crate::lockfree::latch::Latch;
use crate::panics::{self, Unwound};

/// Runs both closures, the second one on another thread if one has time, and returns when both have ended. A panic of either goes on then; of both,
/// that of the first.
#[inline]
pub(crate) fn join<A, B, RA, RB>(core: &Arc<Core>, a: A, b: B) -> (RA, RB)
where
    A: FnOnce() -> RA,
    B: FnOnce() -> RB + Send,
    RB: Send,
{
    with_current(core, |member| match member {
        Some(member) => join_in(member, a, b),
        None => with_team(core, |member| join_in(member, a, b)),
    })
}

#[inline]
fn join_in<A, B, RA, RB>(member: &Member<'_>, a: A, b: B) -> (RA, RB)
where
    A: FnOnce() -> RA,
    B: FnOnce() -> RB + Send,
    RB: Send,
{
    match run_both(member, a, b) {
        (Ok(first), Ok(second)) => (first, second),
        (Ok(_), Err(unwound)) => unwound.go_on(),
        (Err(unwound), second) => {
            if let Err(other) = second {
                other.forget();
            }
            unwound.go_on()
        }
    }
}

/// A job in the frame of the thread that forked it and will wait for it.
#[repr(C)]
struct StackJob<F, R> {
    header: JobHeader,
    latch: Latch,
    /// Where in the team the thread is that waits.
    place: u32,
    closure: UnsafeCell<Option<F>>,
    result: UnsafeCell<Option<Result<R, Unwound>>>,
}

impl<F: FnOnce() -> R + Send, R: Send> StackJob<F, R> {
    fn new(closure: F, place: u32) -> Self {
        Self {
            header: JobHeader::new(Self::run_stolen),
            latch: Latch::new(),
            place,
            closure: UnsafeCell::new(Some(closure)),
            result: UnsafeCell::new(None),
        }
    }

    /// # Safety
    /// `job` is the header of a job of this type, which the caller got out of a deque (law 1).
    unsafe fn run_stolen(job: *const JobHeader, team: &Team, _: u32) {
        let job = job.cast::<Self>();
        // SAFETY: the job is there until its latch is set (law 2), and the caller alone has its closure and result until then (law 1).
        let (must_call, place) = unsafe {
            let closure = (*(*job).closure.get()).take();
            *(*job).result.get() = closure.map(panics::hold_up);
            let place = (*job).place;
            ((*job).latch.set(), place)
        };
        if must_call {
            team.call(place);
        }
    }

    /// Runs the job here.
    ///
    /// # Safety
    /// The caller has forked it, and it was not pushed or was taken back (law 1).
    unsafe fn run_here(&self) -> Result<R, Unwound> {
        // SAFETY: by the caller's promise nobody else has the closure.
        let closure = unsafe { (*self.closure.get()).take() };
        panics::hold_up(closure.expect("nobody else has run it"))
    }

    /// What the job gave.
    ///
    /// # Safety
    /// The latch is set.
    unsafe fn take_result(&self) -> Result<R, Unwound> {
        // SAFETY: the thief, which set the latch, touches it no more, and wrote the result before.
        let result = unsafe { (*self.result.get()).take() };
        result.expect("its thief left the result")
    }
}

/// Runs `a` here while others may run `b`, and `b` here if nobody did.
#[inline]
fn run_both<A, B, RA, RB>(member: &Member<'_>, a: A, b: B) -> (Result<RA, Unwound>, Result<RB, Unwound>)
where
    A: FnOnce() -> RA,
    B: FnOnce() -> RB + Send,
    RB: Send,
{
    let job = StackJob::new(b, member.place);
    // SAFETY: the job is there until it was taken back or its latch is set, below (law 2).
    let address = unsafe { JobAddress::of_header((&raw const job).cast()) };
    let guard = FrameGuard;
    let is_pushed = member.push(&address);
    let first = panics::hold_up(a);
    let mut is_here = !is_pushed;
    while !is_here {
        // What `a` has spawned into a scope around this call lies above the job.
        match member.pop() {
            Some(found) if found == address => is_here = true,
            Some(other) => member.run(other),
            None => break,
        }
    }
    let second = if is_here {
        // SAFETY: it is here (law 1).
        unsafe { job.run_here() }
    } else {
        member.wait(&job.latch);
        // SAFETY: that is what was waited for.
        unsafe { job.take_result() }
    };
    guard.release();
    (first, second)
}
