//! What is done in case words in shared memory are not what the protocol makes of them: bounded waits for other processes, and
//! breaking the engine off.
//!
//! The protocol needs none of this. A worker process can write anything, though, and then nobody may hang.
//!
//! An engine that broke runs nothing any more: queued jobs end, worker processes are ended by the supervisor, threads finish the jobs
//! they are at and take no others. What was handed over goes back as soon as nobody can touch it any more, job by job
//! ([`Core::is_readable`]).

use crate::engine::exec::distributed_rows;
use crate::engine::runtime::core::{Core, JobReference, Summons};
use crate::error::Error;
use crate::ids::DescriptorIndex;
use crate::layout::words::{DescriptorWord, State, park};
use crate::lockfree::announcement;
use crate::lockfree::futex;
use crate::lockfree::job;
use crate::os::futex::{Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, Ordering, fence};
use crate::watchdog::WATCHDOG_INTERVAL;

/// Why nothing can be run any more.
#[derive(Clone, Debug)]
pub(crate) enum Broken {
    Corrupt { what: &'static str, offset: u64, expected: u64, found: u64 },
}

impl Broken {
    fn error(&self) -> Error {
        match self.clone() {
            Self::Corrupt { what, offset, expected, found } => Error::Corrupt { what, offset, expected, found },
        }
    }
}

impl Core {
    /// The error of every job from the moment on when the engine broke: its shared memory was found damaged.
    #[inline]
    pub(crate) fn broken(&self) -> Option<Error> {
        self.broken.get().map(Broken::error)
    }

    /// Whether the engine broke.
    #[inline]
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get().is_some()
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
        crate::engine::process::recovery::fail_queued(self);
        self.wake_space();
        if self.bell.get().is_some() {
            self.call_supervisor();
        } else {
            // There are no worker processes.
            self.set_quiet();
        }
    }

    /// Says that no worker process runs any more.
    pub(crate) fn set_quiet(&self) {
        if self.quiet.swap(1, Ordering::AcqRel) == 1 {
            return;
        }
        self.tell_settled();
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

    fn tell_settled(&self) {
        // Release: pairs with the acquire in `wait_until_settled`; who sees the new number sees what was settled.
        self.settled.fetch_add(1, Ordering::Release);
        futex::wake_all(&self.settled, Scope::Private);
    }

    /// Whether the engine broke and nobody is at a job any more, nor ever will be: no worker process, and no thread of this one.
    ///
    /// For jobs whose words do not say that they are done.
    pub(crate) fn is_abandoned(&self, reference: JobReference) -> bool {
        if !self.is_quiet() {
            return false;
        }
        announcement::before_asking();
        let is_left = |job: JobReference| !self.running.contains(job.index);
        is_left(reference)
            && distributed_rows::of(self, reference).is_none_or(|gather| gather.shares().iter().copied().all(is_left))
    }

    /// Whether the holder of a job may read it and have back what it handed over. Does not block.
    ///
    /// Breaks the engine off when the word of the job says what nobody wrote.
    #[inline]
    pub(crate) fn is_readable(&self, reference: JobReference) -> bool {
        let Some(descriptor) = self.control.descriptor(reference.index) else { return true };
        let word = job::snapshot(&descriptor.word);
        if word.generation() == reference.generation {
            match word.state() {
                Some(State::Done) => return true,
                Some(State::Queued | State::Running) => {
                    return self.broken.get().is_some() && self.is_abandoned(reference);
                }
                _ => {}
            }
        }
        self.is_readable_in_spite_of(reference, word)
    }

    /// As above, for a word that is not this job's, though nobody but its holder frees a job.
    #[cold]
    fn is_readable_in_spite_of(&self, reference: JobReference, word: DescriptorWord) -> bool {
        if self.check_process().is_err() {
            // In a forked child the descriptor is the parent's.
            return false;
        }
        self.found_corrupt(reference.index, word);
        self.is_abandoned(reference)
    }

    /// Waits until the holder of a job may read it, after the engine broke, at most until `limit`; whether it may.
    #[cold]
    pub(crate) fn wait_until_settled(&self, reference: JobReference, limit: Option<Deadline>) -> bool {
        loop {
            // Acquire: pairs with the release in `tell_settled`.
            let settled = self.settled.load(Ordering::Acquire);
            if self.is_readable(reference) {
                return true;
            }
            if limit.is_some_and(Deadline::is_past) {
                return false;
            }
            let belt = Deadline::after(WATCHDOG_INTERVAL);
            let _ = wait_until(&self.settled, settled, limit.map_or(belt, |limit| limit.min(belt)), Scope::Private);
        }
    }

    /// A thread of this process has left a job, after the engine broke: whoever waits for it looks again.
    #[cold]
    pub(in crate::engine) fn tell_left(&self, index: DescriptorIndex) {
        self.tell_settled();
        self.wake_task(index);
        self.wake_collectors();
        if let Some(descriptor) = self.control.descriptor(index) {
            job::call_waiter(&descriptor.wait, self.scope);
        }
    }

    /// Breaks the engine off: a ring cell holds what nobody writes.
    #[cold]
    pub(crate) fn found_bad_cell(&self, found: u64) {
        self.break_off(Broken::Corrupt { what: "cell of a ring", offset: 0, expected: 0, found }, found);
    }

    /// Gives up, or has the process do so that built the engine.
    fn break_off(&self, reason: Broken, found: u64) {
        if self.is_origin() {
            self.give_up(reason);
        } else if let Some(bell) = self.bell.get() {
            bell(Summons::Corrupt { found });
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
        let belt = Deadline::after(WATCHDOG_INTERVAL);
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

    /// Sleeps while a port's park word says so, for a second at most; whether that ended with the time.
    pub(crate) fn park_collector(&self, word: &AtomicU32) -> bool {
        wait_until(word, park::PARKED, Deadline::after(WATCHDOG_INTERVAL), self.scope) == Waited::TimedOut
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
    #[cold]
    pub(crate) fn found_corrupt(&self, index: DescriptorIndex, word: DescriptorWord) {
        let (offset, found) = (self.control.offset_of_descriptor(index), word.bits());
        self.break_off(Broken::Corrupt { what: "word of a job", offset, expected: 0, found }, found);
    }
}
