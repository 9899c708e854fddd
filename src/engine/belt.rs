//! What is done in case words in shared memory are not what the protocol makes of them: bounded waits for other processes, and
//! breaking the engine off.
//!
//! The protocol needs none of this. A worker process can write anything, though, and then nobody may hang.

use std::time::Duration;

use super::core::{Core, JobReference, Summons};
use crate::error::Error;
use crate::ids::DescriptorIndex;
use crate::layout::words::{DescriptorWord, park};
use crate::lockfree::futex;
use crate::lockfree::job;
use crate::os::futex::{Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, Ordering, fence};

/// How long a wait for another process lasts before the waiter looks by itself.
pub(crate) const BELT: Duration = Duration::from_secs(1);

/// Why nothing can be run any more.
#[derive(Clone, Debug)]
pub(crate) enum Broken {
    NoWorkers { reason: String },
    Corrupt { what: &'static str, offset: u64, expected: u64, found: u64 },
}

impl Broken {
    fn error(&self) -> Error {
        match self.clone() {
            Self::NoWorkers { reason } => Error::NoWorkers { reason },
            Self::Corrupt { what, offset, expected, found } => Error::Corrupt { what, offset, expected, found },
        }
    }
}

impl Core {
    /// The error of every job from the moment on when the engine broke: it lost its last worker and cannot start one, or found its
    /// shared memory damaged.
    #[inline]
    pub(crate) fn broken(&self) -> Option<Error> {
        self.broken.get().map(Broken::error)
    }

    /// Gives up: nothing can be run any more. Queued jobs end, submitters that wait for room are told. The supervisor ends all
    /// worker processes.
    pub(crate) fn give_up(&self, reason: Broken) {
        if self.broken.set(reason).is_err() {
            return;
        }
        // SeqCst: pairs with the fence in `publish`, as in `start_closing_now`: a job that is published by a submitter which
        // still read "sound" is seen by the walk that follows, any other is taken back by its submitter.
        fence(Ordering::SeqCst);
        super::recovery::fail_queued(self);
        self.wake_space();
        self.call_supervisor();
    }

    /// Says that no worker process runs any more.
    pub(crate) fn set_quiet(&self) {
        if self.quiet.swap(1, Ordering::AcqRel) == 1 {
            return;
        }
        futex::wake_all(&self.quiet, Scope::Private);
        // Tasks whose jobs' words were damaged would hear of nothing else.
        for at in 0..self.config.queue_capacity {
            self.wake_task(DescriptorIndex::new(at));
        }
        self.wake_collectors();
        self.tell_if_drained();
        for descriptor in self.control.descriptors() {
            job::call_waiter(&descriptor.wait, self.scope);
        }
    }

    /// Whether the engine broke and no worker process runs any more.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Acquire) == 1
    }

    /// Waits until no worker process runs any more, after the engine broke: what was handed over can go back then.
    pub(crate) fn wait_until_quiet(&self) {
        while self.quiet.load(Ordering::Acquire) == 0 && self.workers_alive.load(Ordering::Acquire) > 0 {
            let _ = wait_until(&self.quiet, 0, Deadline::after(BELT), Scope::Private);
        }
    }

    /// Breaks the engine off: a ring cell holds what nobody writes.
    #[cold]
    pub(crate) fn found_bad_cell(&self, found: u64) {
        match self.bell.get() {
            Some(bell) if !self.is_origin() => bell(Summons::Corrupt { found }),
            Some(_) => self.give_up(Broken::Corrupt { what: "cell of a ring", offset: 0, expected: 0, found }),
            // Without worker processes nobody else writes there: the other rings still give jobs.
            _ => {}
        }
    }

    /// Sleeps while a worker's park word says so, at most until `until`.
    ///
    /// Where there are worker processes it does so for a second at most: the protocol needs no such belt, and counts every time it
    /// held.
    pub(crate) fn park(&self, word: &AtomicU32, until: Option<Deadline>) {
        if self.scope == Scope::Private {
            match until {
                None => futex::wait(word, park::PARKED, self.scope),
                Some(until) => drop(wait_until(word, park::PARKED, until, self.scope)),
            }
            return;
        }
        let taken = self.taken_hint();
        let belt = Deadline::after(BELT);
        let first = until.map_or(belt, |until| until.min(belt));
        if wait_until(word, park::PARKED, first, self.scope) == Waited::TimedOut
            && word.load(Ordering::Acquire) == park::PARKED
            && self.has_work()
            // Jobs that flow past a worker that is not needed are no reason to count: there is nearly always one on its way.
            && self.taken_hint() == taken
        {
            self.count_rescue();
        }
    }

    /// Sleeps while a port's park word says so; whether that ended with the time, which it does only where there are worker
    /// processes.
    pub(crate) fn park_collector(&self, word: &AtomicU32) -> bool {
        if self.scope == Scope::Private {
            futex::wait(word, park::PARKED, self.scope);
            return false;
        }
        wait_until(word, park::PARKED, Deadline::after(BELT), self.scope) == Waited::TimedOut
            && word.load(Ordering::Acquire) == park::PARKED
    }

    /// Counts a wait that ended with the time although what it waited for was there.
    pub(crate) fn count_rescue(&self) {
        self.control.engine_line().rescues.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits that ended only because they were bounded.
    pub(crate) fn rescues(&self) -> u64 {
        self.control.engine_line().rescues.load(Ordering::Relaxed)
    }

    /// Breaks the engine off: a job's word holds what nobody writes.
    pub(crate) fn found_corrupt(&self, reference: JobReference, word: DescriptorWord) {
        self.give_up(Broken::Corrupt {
            what: "word of a job",
            offset: self.control.offset_of_descriptor(reference.index),
            expected: u64::from(reference.generation),
            found: word.bits(),
        });
    }
}
