//! Forked jobs: the deques they wait in (`deque.rs`), and the sleep of a thread that waits for one (`latch.rs`).

use super::*;
use crate::lockfree::deque::{Deque, Pushed, Stolen};
use crate::lockfree::latch::{self, Latch, ParkWord};
use crate::sync::fence;

struct Forked {
    deque: Deque,
    /// The closure of each job; the thread that takes a job is alone with it.
    closures: [Shadow; 4],
    taken: [Tally; 4],
}

impl Forked {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            deque: Deque::new(2),
            closures: core::array::from_fn(|_| Shadow::new()),
            taken: core::array::from_fn(|_| Tally::default()),
        })
    }

    fn push(&self, entry: u64) -> bool {
        self.closures[entry as usize].write();
        self.deque.push(entry) != Pushed::Not
    }

    fn run(&self, entry: u64) {
        self.closures[entry as usize].write();
        self.taken[entry as usize].add();
        assert_eq!(self.taken[entry as usize].get(), 1, "a job was had twice");
    }

    fn steal(&self) -> bool {
        match self.deque.steal() {
            Stolen::Entry(entry) => {
                self.run(entry);
                true
            }
            Stolen::Empty | Stolen::Lost => false,
        }
    }
}

/// R14/A14, and the last entry, which owner and thieves take by the same exchange.
#[test]
fn each_forked_job_is_had_once() {
    explore_reaching(Some(3), ["both are stolen", "none is stolen"], |seen| {
        let forked = Forked::new();
        assert!(forked.push(1) && forked.push(2));
        let thief = beside(&forked, |forked| u32::from(forked.steal()) + u32::from(forked.steal()));
        let mut popped = 0;
        while let Some(entry) = forked.deque.pop() {
            forked.run(entry);
            popped += 1;
        }
        let stolen = thief.join().unwrap();
        assert_eq!(popped + stolen, 2, "a job was lost");
        match stolen {
            2 => seen[0].mark(),
            0 => seen[1].mark(),
            _ => {}
        }
    });
}

/// R14/A14 alone: the thief has no other way to see the closure, and nothing of the owner comes behind the push.
#[test]
fn a_thief_sees_what_was_forked() {
    explore_reaching(Some(3), ["it is stolen", "the thief comes too early"], |seen| {
        let forked = Forked::new();
        let thief = beside(&forked, |forked| forked.steal());
        assert!(forked.push(1));
        seen[usize::from(!thief.join().unwrap())].mark();
    });
}

/// A cell is used again while a thief may be at it.
#[test]
fn a_cell_is_overwritten_only_when_its_entry_was_read() {
    explore_reaching(Some(3), ["there is room for a third", "there is none"], |seen| {
        let forked = Forked::new();
        assert!(forked.push(1) && forked.push(2));
        let thief = beside(&forked, |forked| u32::from(forked.steal()));
        let has_room = forked.push(3);
        seen[usize::from(!has_room)].mark();
        let mut popped = 0;
        while let Some(entry) = forked.deque.pop() {
            forked.run(entry);
            popped += 1;
        }
        assert_eq!(popped + thief.join().unwrap(), 2 + u32::from(has_room));
    });
}

/// Two thieves and the owner, at one job.
#[test]
fn two_thieves_and_the_owner_want_one_job() {
    explore(Some(3), || {
        let forked = Forked::new();
        assert!(forked.push(1));
        let thieves = [1, 2].map(|_| beside(&forked, |forked| u32::from(forked.steal())));
        let popped = forked.deque.pop();
        popped.into_iter().for_each(|entry| forked.run(entry));
        let stolen: u32 = join(thieves).into_iter().sum();
        assert_eq!(stolen + u32::from(popped.is_some()), 1);
    });
}

struct Team {
    latch: Latch,
    result: Shadow,
    park: ParkWord,
    idle: AtomicU64,
    /// Work that a stranger to the team hands over.
    work: AtomicU32,
}

impl Team {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            latch: Latch::new(),
            result: Shadow::new(),
            park: ParkWord::new(),
            idle: AtomicU64::new(0),
            work: AtomicU32::new(0),
        })
    }

    fn end_job(&self) {
        self.result.write();
        if self.latch.set() {
            self.park.call();
        }
    }

    fn hand_over(&self, is_fenced: bool) {
        self.work.fetch_add(1, Ordering::Release);
        if is_fenced {
            fence(Ordering::SeqCst);
        }
        latch::call_one(&self.idle, 1, |_| Some(&self.park));
    }

    fn take_work(&self) -> bool {
        let waits = self.work.load(Ordering::Relaxed);
        waits > 0 && self.work.compare_exchange(waits, waits - 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn sleep(&self, slept: &Seen) {
        latch::sleep(&self.latch, &self.park, &self.idle, 1, || {
            let has_work = self.work.load(Ordering::Relaxed) > 0;
            if !has_work {
                slept.mark();
            }
            has_work
        });
    }
}

/// R15/A15, and no lost call: the waiting thread would sleep for ever.
#[test]
fn the_end_of_a_forked_job_is_heard() {
    explore_reaching(Some(3), ["the waiting thread sleeps"], |seen| {
        let team = Team::new();
        let thief = beside(&team, |team| team.end_job());
        while !team.latch.is_set() {
            team.sleep(&seen[0]);
        }
        // What the latch lies in is the waiting thread's again.
        team.result.write();
        thief.join().unwrap();
    });
}

/// Work of a stranger is found by a member that sleeps, beside a call for the end of another job.
fn handed_over(is_fenced: bool) {
    explore_reaching(Some(3), ["the waiting thread sleeps"], move |seen| {
        let team = Team::new();
        let stranger = beside(&team, move |team| team.hand_over(is_fenced));
        while !team.take_work() {
            team.sleep(&seen[0]);
        }
        let thief = beside(&team, |team| team.end_job());
        while !team.latch.is_set() {
            team.sleep(&seen[0]);
        }
        team.result.write();
        stranger.join().unwrap();
        thief.join().unwrap();
    });
}

#[test]
fn work_of_a_stranger_is_found() {
    handed_over(true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_its_fence_a_stranger_is_not_heard() {
    handed_over(false);
}
