//! Loops of a call that has many, one after the other: the parts of each are shared among the members of one team, which stay between them.
//!
//! A loop is a job in the deque of its caller for each other member, by which that one takes parts until none is left. Parts lie in a range for each
//! place of the team: a member begins with the same parts in every loop, which are still in its caches, and then steals. The barrier at the end
//! counts jobs that were stolen, not members: a member that does not come is not waited for, and the caller takes the jobs of those back.
//!
//! Laws of this file:
//! 1. The address of a job is in a deque, or in somebody's hands, once.
//! 2. The block of a loop, and what it borrows, lies in the frame of `run`, which is not left before each of its jobs was taken back or is over (`FrameGuard`). A
//!    thread that counts a job as over touches nothing of the block behind the exchange that sets the latch.
//! 3. One loop of a team of phases runs at a time: it borrows the jobs. So the ranges are its own.
#![allow(unsafe_code)]

use core::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};

use crossbeam_utils::CachePadded;

use super::forked_job::{FrameGuard, JobAddress, JobHeader};
use super::member::{Member, with_current, with_team};
use crate::engine::runtime::Core;
use crate::engine::runtime::team::Team;
use crate::error::{Error, Result};
use crate::layout::words::RangeWord;
use crate::lockfree::latch::Latch;
use crate::lockfree::range;
use crate::panics::{self, Unwound};
use crate::sync::{AtomicU32, AtomicU64, Ordering, ignore_poison, lock};

/// Whether a loop came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LoopEnd {
    Complete,
    /// Parts are left, because `halt` said so.
    Halted,
}

/// The parts that a place of the team has left.
type PlaceRange = CachePadded<AtomicU64>;

/// A loop, for the members that work on it.
struct LoopBlock<'a> {
    ranges: &'a [PlaceRange],
    body: &'a (dyn Fn(u32) + Sync),
    halt: &'a (dyn Fn() -> bool + Sync),
    /// 0, or why no further part is begun.
    stop: AtomicU32,
    /// The panic of the lowest part that had one.
    first_panic: Mutex<Option<(u32, Unwound)>>,
    /// Jobs that are neither over nor taken back, and 1 for the caller.
    pending: AtomicU32,
    latch: Latch,
    /// Where in the team the caller is.
    place: u32,
}

const HALTED: u32 = 1;
const PANICKED: u32 = 2;

impl LoopBlock<'_> {
    /// Takes parts until none is left or somebody says stop.
    fn work(&self, place: u32) {
        let part = Cell::new(0);
        let worked = panics::hold_up(|| {
            // Relaxed: the word carries no data; a stop seen late costs a part.
            while self.stop.load(Ordering::Relaxed) == 0
                && let Some(next) = self.next(place)
            {
                part.set(next);
                if (self.halt)() {
                    self.stop_for(HALTED);
                    return;
                }
                (self.body)(next);
            }
        });
        if let Err(unwound) = worked {
            self.stop_for(PANICKED);
            self.keep(part.get(), unwound);
        }
    }

    /// The first reason stands.
    fn stop_for(&self, reason: u32) {
        let _ = self.stop.compare_exchange(0, reason, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn keep(&self, part: u32, unwound: Unwound) {
        let mut first = lock(&self.first_panic);
        let other = match &mut *first {
            Some((lowest, kept)) if part < *lowest => {
                *lowest = part;
                Some(core::mem::replace(kept, unwound))
            }
            Some(_) => Some(unwound),
            None => {
                *first = Some((part, unwound));
                None
            }
        };
        drop(first);
        if let Some(other) = other {
            other.forget();
        }
    }

    /// The next part of a place's own range, or the first one stolen from another's.
    fn next(&self, place: u32) -> Option<u32> {
        let place = place as usize;
        let own = self.ranges.get(place)?;
        range::take_front(own, |_| {}).or_else(|| {
            let (before, behind) = self.ranges.split_at(place);
            behind[1..].iter().chain(before).find_map(|victim| range::steal(own, victim))
        })
    }
}

/// What brings a member to a loop.
#[repr(C)]
struct LoopJob {
    header: JobHeader,
    block: *const LoopBlock<'static>,
}

impl LoopJob {
    /// # Safety
    /// `job` is the header of a job of this type, which the caller got out of a deque (law 1).
    unsafe fn run_stolen(job: *const JobHeader, team: &Team, place: u32) {
        // SAFETY: job and block are there until this job is counted (law 2).
        let block = unsafe { (*job.cast::<Self>()).block };
        // SAFETY: as above.
        unsafe { (*block).work(place) };
        // SAFETY: as above; behind the exchange nothing of the block is touched.
        let (must_call, caller) = unsafe {
            let caller = (*block).place;
            // AcqRel: the one that counts the last down has seen all that the others did, and hands it on by the latch.
            let is_last = (*block).pending.fetch_sub(1, Ordering::AcqRel) == 1;
            (is_last && (*block).latch.set(), caller)
        };
        if must_call {
            team.call(caller);
        }
    }
}

/// A team for loops that follow each other, on the thread that is its member.
pub(crate) struct PhaseTeam<'m> {
    member: &'m Member<'m>,
    ranges: Box<[PlaceRange]>,
    /// The jobs of the loop that runs, for the next one to use their memory again.
    jobs: RefCell<Vec<LoopJob>>,
}

/// Runs `body` with a team for loops, which stays together until it returns.
pub(crate) fn phases<R>(core: &Arc<Core>, body: impl FnOnce(&PhaseTeam<'_>) -> R) -> R {
    with_current(core, |member| match member {
        Some(member) => body(&PhaseTeam::new(member)),
        None => with_team(core, |member| body(&PhaseTeam::new(member))),
    })
}

impl<'m> PhaseTeam<'m> {
    fn new(member: &'m Member<'m>) -> Self {
        let ranges = (0..member.team.places()).map(|_| CachePadded::new(AtomicU64::new(0))).collect();
        Self { member, ranges, jobs: RefCell::new(Vec::new()) }
    }

    /// Runs `body` for each number below `parts`, once, on all members that come, and returns when all that was begun is over. `halt` is asked before each.
    ///
    /// A panic of a part goes on then; of several, that of the lowest. No part is begun after one.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] inside of a part of a loop of this team.
    pub(crate) fn run(
        &self,
        parts: u32,
        halt: &(dyn Fn() -> bool + Sync),
        body: &(dyn Fn(u32) + Sync),
    ) -> Result<LoopEnd> {
        let Ok(mut jobs) = self.jobs.try_borrow_mut() else {
            return Err(Error::invalid("a phase cannot begin inside a part of another phase of the same call"));
        };
        let block = LoopBlock {
            ranges: &self.ranges,
            body,
            halt,
            stop: AtomicU32::new(0),
            first_panic: Mutex::new(None),
            pending: AtomicU32::new(0),
            latch: Latch::new(),
            place: self.member.place,
        };
        self.member.enter(|| self.run_block(&block, parts, &mut jobs));
        if let Some((_, unwound)) = ignore_poison(block.first_panic.into_inner()) {
            drop(jobs);
            unwound.go_on();
        }
        // Relaxed: all members are done, which was heard of by the latch.
        Ok(if block.stop.load(Ordering::Relaxed) == 0 { LoopEnd::Complete } else { LoopEnd::Halted })
    }

    fn run_block(&self, block: &LoopBlock<'_>, parts: u32, jobs: &mut Vec<LoopJob>) {
        let partitions = parts.min(self.ranges.len() as u32);
        for (place, range) in (0..).zip(&self.ranges) {
            let initial =
                if place < partitions { range::initial(parts, place, partitions) } else { RangeWord::new(0, 0) };
            // Relaxed: the push below publishes it.
            range.store(initial.bits(), Ordering::Relaxed);
        }
        let others = partitions.saturating_sub(1);
        // Relaxed: as above.
        block.pending.store(others + 1, Ordering::Relaxed);
        let block_address = core::ptr::from_ref(block).cast::<LoopBlock<'static>>();
        jobs.clear();
        jobs.extend((0..others).map(|_| LoopJob { header: JobHeader::new(LoopJob::run_stolen), block: block_address }));
        let addresses = jobs.as_ptr_range();
        let address_of = |job: *const LoopJob| {
            // SAFETY: the jobs stay where they are until each was taken back or is over, below (law 2), and each is pushed once.
            unsafe { JobAddress::of_header(job.cast()) }
        };
        let guard = FrameGuard;
        let mut pushed = 0;
        while pushed < jobs.len() && self.member.push(&address_of(addresses.start.wrapping_add(pushed))) {
            pushed += 1;
        }
        block.work(block.place);
        let is_own = |found: &JobAddress| found.lies_between(addresses.start.cast(), addresses.end.cast());
        let back = self.member.take_back(pushed, is_own);
        let uncounted = (others as usize - pushed + back) as u32 + 1;
        // AcqRel: acquire, if all others have counted themselves down: what they did is seen.
        if block.pending.fetch_sub(uncounted, Ordering::AcqRel) != uncounted {
            self.member.wait(&block.latch);
        }
        guard.release();
    }
}
