//! Completion ports (`port.rs`), as `front::job_set::JobSet` uses them.

use super::*;
use crate::layout::words::FLAG_PORT;
use crate::lockfree::port;

struct Set {
    park: AtomicU32,
    bits: [AtomicU64; 2],
    desks: [Desk; 2],
}

impl Set {
    /// The bit of each job: in one word, or in two.
    fn index(at: usize, stride: u32) -> DescriptorIndex {
        DescriptorIndex::new(at as u32 * stride)
    }

    fn finish(&self, at: usize, stride: u32) {
        if self.desks[at].finish().has(FLAG_PORT) {
            port::report(&self.park, &self.bits, Self::index(at, stride), Scope::Private);
        }
    }

    /// `JobSet::wait_next` until `left` jobs were given.
    fn wait_for(&self, mut left: usize, stride: u32) {
        while left > 0 {
            port::collect(&self.bits, |index| {
                let desk = &self.desks[(index.get() / stride) as usize];
                // A set drops the bit of a job that is not finished, so the bit must never come before the finish.
                assert!(job::is_done(&desk.word));
                desk.read_and_retire();
                left -= 1;
            });
            if left == 0 {
                break;
            }
            port::prepare_to_sleep(&self.park);
            if self.bits.iter().all(|word| word.load(Ordering::Relaxed) == 0) {
                futex::wait(&self.park, park::PARKED, Scope::Private);
            }
            port::wake_up(&self.park);
        }
    }
}

/// Every job is reported once, or found done when it is put in; the collector never sleeps on a report.
fn collect(jobs: usize, stride: u32, seen: &[Seen; 2]) {
    let set = Arc::new(Set {
        park: AtomicU32::new(park::RUNNING),
        bits: core::array::from_fn(|_| AtomicU64::new(0)),
        desks: core::array::from_fn(|_| Desk::new()),
    });
    let mut runners = Vec::new();
    let mut left = 0;
    for at in 0..jobs {
        let desk = &set.desks[at];
        desk.submit_claimed(worker(1));
        runners.push(beside(&set, move |set| set.finish(at, stride)));
        if job::set_flag(&desk.word, FLAG_PORT) == FlagSet::AlreadyDone {
            desk.read_and_retire();
            seen[0].mark();
        } else {
            left += 1;
            seen[1].mark();
        }
    }
    set.wait_for(left, stride);
    join(runners);
    for desk in &set.desks[..jobs] {
        assert_eq!(desk.freed.get(), 1);
    }
}

fn check(bound: Option<usize>, jobs: usize, stride: u32) {
    explore_reaching(bound, ["a job is done when it is put in", "a job is reported"], move |seen| {
        collect(jobs, stride, seen)
    });
}

#[test]
fn a_report_reaches_the_collector() {
    check(None, 1, 1);
}

#[test]
fn two_reports_in_one_word_reach_the_collector() {
    check(Some(3), 2, 1);
}

#[test]
fn two_reports_in_two_words_reach_the_collector() {
    check(Some(3), 2, 64);
}
