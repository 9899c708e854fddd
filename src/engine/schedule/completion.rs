//! What is owed when a job is over, and how jobs are told to end: wake-ups, reports, freeing, cancels, deadlines, closing.

use crate::engine::exec::distributed_rows;
use crate::engine::job::local_slot::LocalSlot;
use crate::engine::runtime::core::{Core, JobReference};
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::geometry::COLLECTOR_PORT;
use crate::layout::words::{DescriptorWord, FLAG_DETACHED, FLAG_PORT, FLAG_WAITER, FLAG_WAKER, State, park};
use crate::lockfree::job::{self, Cancel};
use crate::lockfree::port;
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::{Ordering, fence, fence_after_exchange};

impl Core {
    /// What is owed after a job became done: wake, report, and free it when nobody holds it.
    #[inline]
    pub(crate) fn serve(&self, index: DescriptorIndex, done: DescriptorWord) {
        const ANY: u64 = FLAG_WAITER | FLAG_PORT | FLAG_WAKER | FLAG_DETACHED;
        self.job_is_over();
        if !done.has(ANY) {
            return;
        }
        let Some(descriptor) = self.control.descriptor(index) else { return };
        if done.has(FLAG_PORT) {
            // Relaxed: the port was stored before the flag was set (R4/A4). If the holder has let go of the job meanwhile,
            // the number may be another job's: the bit then reaches a collector that holds no such job and ignores it.
            let number = descriptor.port.load(Ordering::Relaxed);
            if let Some((port, bits)) = self.control.port(number) {
                port::report(&port.park, bits, index, self.scope);
            }
        }
        if done.has(FLAG_WAITER) {
            job::notify_waiter(&descriptor.wait, self.scope);
        }
        if self.config.is_shared() {
            // Wakers, and what a detached job holds, lie in the origin's private memory. There, too, one thread alone serves
            // them, so that no job is freed twice: the supervisor.
            if done.has(FLAG_WAKER | FLAG_DETACHED) {
                self.hand_to_collector(index);
            }
            return;
        }
        if done.has(FLAG_WAKER) {
            self.wake_task(index);
        }
        if done.has(FLAG_DETACHED) {
            self.dispose(index, done);
        }
    }

    /// A thread has left a job that it was at: it writes to nothing of it any more.
    #[inline]
    pub(in crate::engine) fn left(&self, who: ParticipantSlot, index: DescriptorIndex) {
        self.running.left(who, index);
        if self.broken.get().is_some() {
            self.tell_left(index);
        }
    }

    pub(in crate::engine) fn wake_task(&self, index: DescriptorIndex) {
        if let Some(waker) = self.local.slot(index).and_then(LocalSlot::take_waker) {
            // A waker is foreign code: its panic must not end the worker.
            let _ = panics::catch(move || waker.wake());
        }
        self.watchers.wake(index);
    }

    /// Wakes every thread that collects finished jobs, whatever the words say.
    pub(in crate::engine) fn wake_collectors(&self) {
        for number in 0..COLLECTOR_PORT {
            if let Some((port, _)) = self.control.port(number) {
                port::call_collector(&port.park, self.scope);
            }
        }
    }

    pub(in crate::engine) fn hand_to_collector(&self, index: DescriptorIndex) {
        let Some((port, bits)) = self.control.port(COLLECTOR_PORT) else { return };
        if let Some(word) = bits.get(index.get() as usize / 64) {
            word.fetch_or(1 << (index.get() % 64), Ordering::Release);
        }
        fault::point(Point::F25_collector_bit);
        // AcqRel: pairs with the swap in `serve_collected`. If this swap comes first, that one sees it and with it the bit; if
        // it comes later, it finds the word cleared and calls.
        if port.park.swap(park::NOTIFIED, Ordering::AcqRel) != park::NOTIFIED {
            fault::point(Point::F25_collector_notified);
            self.call_supervisor();
        }
    }

    /// Serves what the collector port reports: wakes tasks, frees jobs that nobody holds. Only the supervisor calls it.
    pub(crate) fn serve_collected(&self) {
        let Some((port, bits)) = self.control.port(COLLECTOR_PORT) else { return };
        port.park.swap(park::RUNNING, Ordering::AcqRel);
        port::collect(bits, |index| self.serve_private(index));
    }

    /// Serves the private half of a job if it is done. Only the supervisor calls it.
    pub(crate) fn serve_private(&self, index: DescriptorIndex) {
        let Some(descriptor) = self.control.descriptor(index) else { return };
        let done = job::snapshot(&descriptor.word);
        if !done.is(State::Done) {
            // The holder has read it and freed it, or the bit was another job's; or a running one reports how far it is.
            return self.watchers.wake(index);
        }
        if done.has(FLAG_WAKER) {
            self.wake_task(index);
        }
        if done.has(FLAG_DETACHED) {
            self.dispose(index, done);
        }
    }

    /// Frees a finished job that nobody will read, with everything it held.
    pub(crate) fn dispose(&self, index: DescriptorIndex, done: DescriptorWord) {
        if let Some(slot) = self.local.slot(index) {
            slot.discard();
            let held = slot.release();
            if let Some(gather) = distributed_rows::hear_share(self, index, done, held.as_deref()) {
                drop(held);
                self.release(index, done);
                return distributed_rows::share_is_over(self, &gather);
            }
            let _ = panics::catch(move || drop(held));
        }
        self.release(index, done);
    }

    /// Frees the descriptor of a finished job whose outcome was read.
    #[inline]
    pub(crate) fn release(&self, index: DescriptorIndex, done: DescriptorWord) {
        if let Some(descriptor) = self.control.descriptor(index) {
            fault::point(Point::F27_read);
            job::retire(&descriptor.word, done);
            self.return_index(index);
        }
    }

    /// As [`Core::cancel`], for the supervisor, which knows of a job from its word.
    #[cfg(target_os = "linux")]
    pub(crate) fn cancel_generation(&self, index: DescriptorIndex, generation: u32) {
        let _ = self.cancel(JobReference { index, generation });
    }

    /// Has the supervisor look at a deadline when it comes.
    pub(crate) fn expect_deadline(&self, deadline: Deadline) {
        if self.config.is_shared() && self.is_origin() {
            // AcqRel: pairs with the swap in `forget_deadlines`; a deadline that is stored after it is seen by the next look.
            let before = self.next_deadline.fetch_min(deadline.nanoseconds(), Ordering::AcqRel);
            if before > deadline.nanoseconds() {
                self.call_supervisor();
            }
        }
    }

    /// The first deadline somebody expects.
    #[cfg(target_os = "linux")]
    pub(crate) fn next_deadline(&self) -> Option<Deadline> {
        match self.next_deadline.load(Ordering::Acquire) {
            u64::MAX => None,
            nanoseconds => Some(Deadline::from_nanoseconds(nanoseconds)),
        }
    }

    /// Forgets all expected deadlines, right before the supervisor looks at every job and expects those that are left.
    #[cfg(target_os = "linux")]
    pub(crate) fn forget_deadlines(&self) {
        self.next_deadline.swap(u64::MAX, Ordering::AcqRel);
    }

    /// Has the supervisor look after jobs from time to time, for a task that waits for one: it cannot look itself. The caller has just
    /// changed the job's word by an exchange.
    #[inline]
    pub(crate) fn want_looks(&self) {
        if self.config.is_shared() {
            // SeqCst: pairs with the fence in `look_after_jobs`. If the flag is not seen here, the job is seen there.
            fence_after_exchange();
            if self.looks_wanted.load(Ordering::Relaxed) == 1 && self.looks_wanted.swap(0, Ordering::AcqRel) == 1 {
                self.call_supervisor();
            }
        }
    }

    /// Looks after every job that is under way, as its holder would: tasks, and whoever dropped a handle, do not. When to do so again;
    /// `None` when nothing is under way, and somebody calls when that changes. The first look, `before` which there was none, only
    /// sees whether anything is: what has just been handed over needs nobody's help. Only the supervisor calls it.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn look_after_jobs(&self, before: Option<Deadline>) -> Option<Deadline> {
        let mut is_any = self.look_after_all(before.is_some());
        if !is_any {
            self.looks_wanted.store(1, Ordering::Relaxed);
            // SeqCst: pairs with the fence in `want_looks`.
            fence(Ordering::SeqCst);
            is_any = self.look_after_all(false);
            if is_any {
                self.looks_wanted.store(0, Ordering::Relaxed);
            }
        }
        self.job_is_over();
        is_any.then(|| Deadline::after(crate::watchdog::WATCHDOG_INTERVAL))
    }

    #[cfg(target_os = "linux")]
    fn look_after_all(&self, acts: bool) -> bool {
        let mut is_any = false;
        for (at, descriptor) in self.control.descriptors().iter().enumerate() {
            let word = job::snapshot(&descriptor.word);
            let is_under_way = match word.state() {
                // Of a damaged word, too, the flags say whether somebody relies on others for it.
                Some(State::Done) | None => word.has(FLAG_WAKER | FLAG_DETACHED),
                Some(State::Free | State::Reserved) => false,
                Some(State::Queued | State::Running) => true,
            };
            is_any |= is_under_way;
            if is_under_way && acts {
                let reference = JobReference { index: DescriptorIndex::new(at as u32), generation: word.generation() };
                crate::engine::schedule::wait::look_after_one(self, reference);
            }
        }
        is_any && !self.is_broken()
    }

    /// Whether jobs were told to stop since this was asked last.
    #[cfg(target_os = "linux")]
    pub(crate) fn take_attention(&self) -> bool {
        self.attention.swap(0, Ordering::AcqRel) != 0
    }

    /// Asks for the end of a job, serving what is owed when that ends it at once.
    pub(crate) fn cancel(&self, reference: JobReference) -> Cancel {
        // The segment may be shared with the parent of a forked child, which has no say in it.
        let (Some(descriptor), Ok(())) = (self.control.descriptor(reference.index), self.check_process()) else {
            return Cancel::TooLate;
        };
        let cancel = job::request_cancel(&descriptor.word, reference.generation);
        match cancel {
            Cancel::Ended(done) => self.serve(reference.index, done),
            Cancel::Requested if self.config.is_shared() => {
                // The supervisor sees to it that the job ends.
                if let Some(gather) = distributed_rows::of(self, reference) {
                    gather.cancel(self);
                }
                self.attention.store(1, Ordering::Release);
                self.call_supervisor();
            }
            Cancel::Requested | Cancel::TooLate => {}
        }
        cancel
    }

    /// Stops taking jobs and lets the workers end when the queue is empty.
    pub(crate) fn start_closing(&self) {
        self.set_closing();
        self.wake_for_closing();
    }

    /// Stops taking jobs, cancels every queued one, asks every running one to stop, and lets the workers end.
    pub(crate) fn start_closing_now(&self) {
        self.set_closing();
        // SeqCst: pairs with the fence in `publish`. A job that is published after its submitter read "open" is seen by the
        // walk below; any other is taken back by its submitter.
        fence(Ordering::SeqCst);
        // The queued ones first: a worker whose job is told to stop would take the next one.
        self.cancel_all_in(State::Queued);
        self.cancel_all_in(State::Running);
        self.wake_for_closing();
    }

    fn wake_for_closing(&self) {
        // The fence in `wake_everybody` pairs with the one in `publish`.
        self.wake_workers();
        self.wake_space();
        self.call_supervisor();
    }

    fn cancel_all_in(&self, state: State) {
        for (at, descriptor) in self.control.descriptors().iter().enumerate() {
            let word = job::snapshot(&descriptor.word);
            if word.is(state) {
                let index = DescriptorIndex::new(at as u32);
                let _ = self.cancel(JobReference { index, generation: word.generation() });
            }
        }
    }
}
