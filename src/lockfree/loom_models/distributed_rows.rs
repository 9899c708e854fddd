//! Jobs of rows whose partitions end them, as `engine::exec::distributed_rows` has them (`docs/protocol.md`, "Distributed rows").

use super::*;
use crate::layout::words::FLAG_WAITER;
use crate::sync::fence;

struct Rows {
    desk: Desk,
    generation: u32,
    done: [AtomicU64; 2],
    results: [Shadow; 2],
    ended: Tally,
}

impl Rows {
    fn new() -> Self {
        let desk = Desk::new();
        let reserved = desk.fill().expect("the descriptor is free");
        job::publish_running(&desk.word, reserved);
        Self {
            desk,
            generation: reserved.generation(),
            done: [AtomicU64::new(0), AtomicU64::new(0)],
            results: [Shadow::new(), Shadow::new()],
            ended: Tally::default(),
        }
    }

    /// Runs the last row of a partition, counts it, and looks whether the other's is done as well.
    fn run_partition(&self, partition: usize, is_fenced: bool) {
        self.results[partition].write();
        self.done[partition].store(1, Ordering::Release);
        if is_fenced {
            fence(Ordering::SeqCst);
        }
        if self.done.iter().all(|done| done.load(Ordering::Acquire) == 1) {
            self.end();
        }
    }

    fn end(&self) {
        if let Some(done) = job::finish_generation(&self.desk.word, self.generation, false) {
            self.ended.add();
            if done.has(FLAG_WAITER) {
                job::notify_waiter(&self.desk.wait, Scope::Private);
            }
        }
    }
}

fn run(is_fenced: bool) {
    explore(Some(3), move || {
        let rows = Arc::new(Rows::new());
        let partitions = [0, 1].map(|partition| {
            let rows = rows.clone();
            thread::spawn(move || rows.run_partition(partition, is_fenced))
        });
        // Asleep until somebody ends the job: a job that nobody ends is a deadlock here.
        rows.desk.sleep_until_done();
        rows.results.iter().for_each(Shadow::read);
        join(partitions);
        assert_eq!(rows.ended.get(), 1);
    });
}

#[test]
fn the_last_row_ends_the_job_once() {
    run(true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_each_partition_may_leave_the_end_to_the_other() {
    run(false);
}
