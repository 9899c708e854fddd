//! Forked jobs: closures that are known to a team by their address, in the frame that forked them (`join`) or in a box.
//!
//! Laws of this file:
//! 1. An address is in a deque, or in somebody's hands, once: the deque gives it to one thread, which runs the job, or takes it back and runs it
//!    in place. So its closure is taken out once.
//! 2. Where an address leads there is a job until it was run: a caller that makes one from a reference sees to that.
//! 3. What a job in a box borrows outlives it.
#![allow(unsafe_code)]

use core::ptr;

use crate::engine::runtime::team::Team;
use crate::panics;

/// Runs the job of a header on a member of the team, at a place of it.
pub(super) type RunJob = unsafe fn(*const JobHeader, &Team, u32);

/// What every forked job begins with.
#[repr(C)]
pub(super) struct JobHeader {
    run: RunJob,
    /// Whether panics are heard where it was forked.
    heard: bool,
}

impl JobHeader {
    /// That of a job which is forked here, and run by `run`.
    pub(super) fn new(run: RunJob) -> Self {
        Self { run, heard: panics::is_heard() }
    }
}

/// A forked job that nobody has run. Not to be copied but into the deque and out of it.
#[derive(PartialEq, Eq)]
pub(super) struct JobAddress(*const JobHeader);

impl JobAddress {
    /// The address of a job by that of its header.
    ///
    /// # Safety
    /// It is the header that a job begins with, whose `run` fits it, and the job is there until it was run or taken back (law 2).
    pub(super) unsafe fn of_header(header: *const JobHeader) -> Self {
        Self(header)
    }

    /// The entry of a deque for it.
    pub(super) fn number(&self) -> u64 {
        self.0.expose_provenance() as u64
    }

    /// The job of an entry.
    ///
    /// # Safety
    /// The number is that of an address, and came out of a deque of the team that it was put into (law 1).
    pub(super) unsafe fn of_number(number: u64) -> Self {
        Self(ptr::with_exposed_provenance(number as usize))
    }

    /// Whether it is the address of a job between two addresses.
    pub(super) fn lies_between(&self, first: *const JobHeader, behind: *const JobHeader) -> bool {
        (first..behind).contains(&self.0)
    }

    /// Runs the job on this thread, which is the member of the team at `place`.
    pub(super) fn run(self, team: &Team, place: u32) {
        // SAFETY: the address is that of a job which nobody has run (law 1), so that it is still there (law 2).
        unsafe {
            let (run, heard) = ((*self.0).run, (*self.0).heard);
            panics::as_part(heard, || run(self.0, team, place));
        }
    }
}

/// Ends the program if a frame is left that jobs of other threads lead to: no code of this library panics there, and that of users is caught.
pub(super) struct FrameGuard;

impl FrameGuard {
    /// No job leads to the frame any more.
    pub(super) fn release(self) {
        core::mem::forget(self);
    }
}

impl Drop for FrameGuard {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// A job in a box.
#[repr(C)]
struct HeapJob<F> {
    header: JobHeader,
    closure: F,
}

impl<F: FnOnce(&Team) + Send> HeapJob<F> {
    /// # Safety
    /// `job` is the header of a job of this type, which the caller got out of a deque (law 1).
    unsafe fn run_boxed(job: *const JobHeader, team: &Team, _: u32) {
        // SAFETY: the address came from a box, which is the caller's (law 1).
        let job = unsafe { Box::from_raw(job.cast_mut().cast::<Self>()) };
        (job.closure)(team);
    }
}

/// A job in a box for a closure that does not panic.
///
/// # Safety
/// What the closure borrows outlives the job (law 3), which the caller pushes once.
pub(super) unsafe fn boxed(closure: impl FnOnce(&Team) + Send) -> JobAddress {
    fn of<F: FnOnce(&Team) + Send>(closure: F) -> JobAddress {
        let header = JobHeader::new(HeapJob::<F>::run_boxed);
        JobAddress(Box::into_raw(Box::new(HeapJob { header, closure })).cast_const().cast())
    }
    of(closure)
}
