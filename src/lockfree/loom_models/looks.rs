//! Models of looking in the place of tasks: a thread goes to sleep while a task comes that has nobody else to look for it.

use std::sync::Arc;

use super::super::look_wish::LookWish;
use super::super::loom_futex as futex;
use super::{beside, explore, explore_reaching};
use crate::sync::{AtomicU32, Ordering, Scope};

struct Looks {
    wish: LookWish,
    /// 1 while a job is under way.
    job: AtomicU32,
    /// Calls of the thread, a futex word.
    calls: AtomicU32,
    /// What the thread wrote down before it left the wish.
    note: AtomicU32,
}

impl Looks {
    fn new(is_left: bool) -> Arc<Self> {
        let [job, calls, note] = [0, 0, 0].map(AtomicU32::new);
        Arc::new(Self { wish: LookWish::new(is_left), job, calls, note })
    }

    /// A task that waits: its job's word is changed by an exchange, and then it may have to call. Whether it did.
    fn wait_for_job(&self) -> bool {
        self.job.swap(1, Ordering::AcqRel);
        let asks = self.wish.take();
        if asks {
            assert_eq!(self.note.load(Ordering::Relaxed), 7, "what was written before the wish");
            self.calls.fetch_add(1, Ordering::Release);
            futex::wake_all(&self.calls, Scope::Private);
        }
        asks
    }

    /// The thread, which sleeps until it has seen the job.
    fn look(&self) {
        loop {
            let calls = self.calls.load(Ordering::Acquire);
            let is_under_way = || self.job.load(Ordering::Relaxed) == 1;
            self.note.store(7, Ordering::Relaxed);
            if is_under_way() || self.wish.leave_and_look(is_under_way) {
                return;
            }
            futex::wait(&self.calls, calls, Scope::Private);
        }
    }
}

/// Else the task would wait for a job that no thread looks at.
#[test]
fn a_job_is_seen_or_its_task_asks() {
    explore_reaching(Some(3), ["the task asks"], |seen| {
        let looks = Looks::new(false);
        let thread = beside(&looks, |looks| looks.look());
        if looks.wait_for_job() {
            seen[0].mark();
        }
        thread.join().unwrap();
    });
}

/// Two would start two threads.
#[test]
fn one_task_of_two_asks() {
    explore(None, || {
        let looks = Looks::new(true);
        let other = beside(&looks, |looks| looks.wish.take());
        let asks = looks.wish.take();
        assert!(asks != other.join().unwrap());
    });
}
