//! Models of waiting until nothing is left to do (`engine/schedule/drain.rs`): tasks that come and go, and the flag that says that there are some.

use std::sync::Arc;

use super::super::loom_futex as futex;
use super::super::waiters::{Ticket, Waiters};
use super::{beside, explore_reaching};
use crate::sync::{AtomicU32, Mutex, Ordering, Scope, fence};

/// A word that a task sleeps on: 1 once it was woken.
type Task = Arc<AtomicU32>;

struct Drains {
    list: Mutex<Waiters<Task>>,
    watched: AtomicU32,
    /// Jobs that are not over.
    jobs: AtomicU32,
}

impl Drains {
    fn new(jobs: u32) -> Arc<Self> {
        let list = Mutex::new(Waiters::default());
        Arc::new(Self { list, watched: AtomicU32::new(0), jobs: AtomicU32::new(jobs) })
    }

    /// `Core::watch_drain`.
    fn watch(&self, task: &Task) -> (Ticket, bool) {
        let mut list = self.list.lock().unwrap();
        let ticket = list.add((), task.clone());
        self.watched.store(1, Ordering::Relaxed);
        drop(list);
        fence(Ordering::SeqCst);
        (ticket, self.jobs.load(Ordering::Relaxed) > 0)
    }

    /// `Core::unwatch_drain`, with the flag taken back under the lock, or after it.
    fn unwatch(&self, ticket: Ticket, under_lock: bool) {
        let mut list = self.list.lock().unwrap();
        list.remove(ticket);
        let is_empty = list.is_empty();
        if is_empty && under_lock {
            self.watched.store(0, Ordering::Relaxed);
        }
        drop(list);
        if is_empty && !under_lock {
            self.watched.store(0, Ordering::Relaxed);
        }
    }

    /// `Core::job_is_over`, after the end of a job.
    fn end_job(&self) {
        self.jobs.fetch_add(u32::MAX, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if self.watched.load(Ordering::Relaxed) == 0 || self.jobs.load(Ordering::Acquire) > 0 {
            return;
        }
        let mut list = self.list.lock().unwrap();
        let woken = list.take_of(());
        self.watched.store(0, Ordering::Relaxed);
        drop(list);
        for task in woken {
            task.store(1, Ordering::Release);
            futex::wake_all(&task, Scope::Private);
        }
    }
}

/// One task waits, another one is dropped, the last job ends.
fn one_waits_and_one_leaves(under_lock: bool) {
    explore_reaching(Some(3), ["the task waits"], move |seen| {
        let drains = Drains::new(1);
        let (leaver, _) = drains.watch(&Arc::new(AtomicU32::new(0)));
        let worker = beside(&drains, move |drains| drains.end_job());
        let leaving = beside(&drains, move |drains| drains.unwatch(leaver, under_lock));
        let task: Task = Arc::new(AtomicU32::new(0));
        let (ticket, must_wait) = drains.watch(&task);
        if must_wait {
            seen[0].mark();
            while task.load(Ordering::Acquire) == 0 {
                futex::wait(&task, 0, Scope::Private);
            }
        }
        drains.unwatch(ticket, under_lock);
        worker.join().unwrap();
        leaving.join().unwrap();
        assert!(drains.list.lock().unwrap().is_empty(), "nobody is left");
    });
}

#[test]
fn a_task_that_leaves_takes_no_notice_from_another() {
    one_waits_and_one_leaves(true);
}

/// The flag of a task that came in between would be taken back.
#[test]
#[should_panic]
fn a_flag_that_is_taken_back_without_the_lock_is_another_s() {
    one_waits_and_one_leaves(false);
}
