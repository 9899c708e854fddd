//! Models of progress: a watcher hears of what is said after it looked.

use std::sync::Arc;

use super::super::loom_futex as futex;
use super::super::progress::{Reported, read, report, watch};
use super::{Seen, beside, explore, explore_reaching};
use crate::layout::records::JobMeta;
use crate::sync::{AtomicU32, AtomicU64, Ordering, Scope};

/// The job that speaks, and one that the descriptor served before.
const JOB: u32 = 7;
const EARLIER: u32 = 6;

struct Desk {
    meta: JobMeta,
    /// What a waker does: 1 once it was called.
    called: AtomicU32,
    /// 1 once there is a waker: nobody is called before.
    any: AtomicU32,
}

impl Desk {
    fn new() -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        let meta = JobMeta {
            queued_ns: zero(),
            started_ns: zero(),
            time_limit_ns: zero(),
            deadline_ns: zero(),
            tag: zero(),
            progress_done: AtomicU64::new(99),
            progress_total: AtomicU64::new(99),
            progress_of: AtomicU32::new(EARLIER),
            watched: AtomicU32::new(0),
        };
        Arc::new(Self { meta, called: AtomicU32::new(0), any: AtomicU32::new(0) })
    }

    fn report(&self, done: u64) {
        // Relaxed: as the list of wakers has it.
        if report(&self.meta, JOB, Reported { done, total: 2 }) && self.any.load(Ordering::Relaxed) == 1 {
            self.called.store(1, Ordering::Release);
            futex::wake_all(&self.called, Scope::Private);
        }
    }

    /// Waits until the job has said at least `done`.
    fn wait_for(&self, done: u64, look: impl Fn(&JobMeta) -> Option<Reported>, slept: &Seen) {
        self.any.store(1, Ordering::Relaxed);
        while look(&self.meta).is_none_or(|reported| reported.done < done) {
            slept.mark();
            while self.called.swap(0, Ordering::AcqRel) == 0 {
                futex::wait(&self.called, 0, Scope::Private);
            }
        }
        assert_eq!(read(&self.meta, JOB), Some(Reported { done: 2, total: 2 }));
    }
}

#[test]
fn a_watcher_hears_the_last_word() {
    explore_reaching(Some(3), ["the watcher slept"], move |seen| {
        let desk = Desk::new();
        let worker = beside(&desk, move |desk| (1..=2).for_each(|done| desk.report(done)));
        let look = |meta: &JobMeta| {
            watch(meta, JOB);
            read(meta, JOB)
        };
        desk.wait_for(2, look, &seen[0]);
        worker.join().unwrap();
    });
}

/// Numbers of the job before are no progress of this one.
#[test]
fn what_an_earlier_job_said_is_not_believed() {
    explore(None, || {
        let desk = Desk::new();
        let worker = beside(&desk, move |desk| desk.report(2));
        let found = read(&desk.meta, JOB);
        assert!(found.is_none() || found == Some(Reported { done: 2, total: 2 }));
        worker.join().unwrap();
    });
}

/// Without the second look the last word can come between the first one and the announcement.
#[test]
#[should_panic = "deadlock"]
fn without_the_second_look_the_last_word_is_missed() {
    explore(Some(3), || {
        let desk = Desk::new();
        let worker = beside(&desk, move |desk| desk.report(2));
        let look = |meta: &JobMeta| {
            let found = read(meta, JOB);
            watch(meta, JOB);
            found
        };
        desk.wait_for(2, look, &Seen::default());
        worker.join().unwrap();
    });
}
