//! Messages between two processes (`spsc.rs`, `doorbell.rs`). Threads stand for processes; those of one process share a position.

use super::*;
use crate::lockfree::doorbell::{Doorbell, Slept, bell};
use crate::lockfree::spsc::Cells;

const CELLS: usize = 2;

struct ChannelModel {
    cells: Vec<AtomicU64>,
    /// What the words of a cell lead to.
    cargo: [Shadow; CELLS],
    /// The doorbells of the producer and of the consumer.
    bells: [AtomicU32; 2],
    /// The positions of both sides, each under its side's lock.
    tail: loom::sync::Mutex<u64>,
    head: loom::sync::Mutex<u64>,
    taken: [Tally; 4],
}

const PRODUCER: usize = 0;
const CONSUMER: usize = 1;

impl ChannelModel {
    fn new() -> Arc<Self> {
        let model = Self {
            cells: (0..Cells::words(CELLS, 1)).map(|_| AtomicU64::new(0)).collect(),
            cargo: [Shadow::new(), Shadow::new()],
            bells: [AtomicU32::new(0), AtomicU32::new(0)],
            tail: loom::sync::Mutex::new(0),
            head: loom::sync::Mutex::new(0),
            taken: core::array::from_fn(|_| Tally::default()),
        };
        model.cells().init();
        Arc::new(model)
    }

    fn cells(&self) -> Cells<'_> {
        Cells::new(&self.cells, CELLS, 1)
    }

    fn bell(&self, side: usize) -> Doorbell<'_> {
        Doorbell::new(&self.bells[side], Scope::Private)
    }

    fn put(&self, number: u64) -> Option<()> {
        let mut tail = self.tail.lock().unwrap();
        if !self.cells().has_capacity(*tail).unwrap() {
            return None;
        }
        self.cargo[*tail as usize % CELLS].write();
        self.cells().post(*tail, &[number], false);
        *tail = Cells::next(*tail);
        Some(())
    }

    fn get(&self) -> Option<u64> {
        let mut head = self.head.lock().unwrap();
        let mut message = [u64::MAX];
        self.cells().read(*head, &mut message).unwrap()?;
        self.cargo[*head as usize % CELLS].read();
        self.cargo[*head as usize % CELLS].write();
        self.cells().free(*head);
        *head = Cells::next(*head);
        self.taken[message[0] as usize].add();
        Some(message[0])
    }

    fn try_send(&self, number: u64) -> Option<()> {
        self.put(number)?;
        self.bell(CONSUMER).ring(bell::MESSAGE);
        Some(())
    }

    fn post(&self, number: u64, slept: &Seen) {
        self.bell(PRODUCER).wait(bell::ROOM, || self.put(number), sleep(slept)).unwrap();
        self.bell(CONSUMER).ring(bell::MESSAGE);
    }

    fn take(&self, slept: &Seen) -> u64 {
        let found = self.bell(CONSUMER).wait(bell::MESSAGE, || self.get(), sleep(slept)).unwrap();
        self.bell(PRODUCER).ring(bell::ROOM);
        found
    }

    fn check(&self, messages: usize) {
        assert!(self.taken[..messages].iter().all(|taken| taken.get() == 1), "taken once");
    }
}

fn sleep(slept: &Seen) -> impl FnMut(&AtomicU32, u32) -> Slept + '_ {
    |word, value| {
        slept.mark();
        futex::wait(word, value, Scope::Private);
        Slept::Woken
    }
}

/// R11/A11 and R12/A12: three messages go through two cells, so that one is filled twice.
#[test]
fn a_message_is_taken_once_and_whole() {
    explore(Some(3), || {
        let model = ChannelModel::new();
        let poster = beside(&model, move |model| [0, 1, 2].map(|number| model.try_send(number).is_some()));
        let first = model.get();
        let second = model.get();
        let posted = poster.join().unwrap();
        let mut taken: Vec<u64> = first.into_iter().chain(second).collect();
        taken.extend(core::iter::from_fn(|| model.get()));
        let expected: Vec<u64> = (0..3).filter(|&number| posted[number as usize]).collect();
        assert_eq!(taken, expected, "in order");
        assert!(posted[0] && posted[1]);
    });
}

/// F5 and F6: the consumer sleeps for each message; the producer sleeps for room.
#[test]
fn both_sides_sleep_and_are_called() {
    explore_reaching(Some(2), ["the consumer sleeps", "the producer sleeps"], move |seen| {
        let model = ChannelModel::new();
        let poster = thread::spawn({
            let (model, slept) = (model.clone(), seen[1].clone());
            move || (0..3).for_each(|number| model.post(number, &slept))
        });
        for number in 0..3 {
            assert_eq!(model.take(&seen[0]), number);
        }
        poster.join().unwrap();
        model.check(3);
    });
}

/// Two threads of one process sleep on one word, and one bit speaks for both.
#[test]
fn two_sleepers_of_a_side_are_both_called() {
    explore_reaching(Some(2), ["a consumer sleeps"], move |seen| {
        let model = ChannelModel::new();
        let takers = [1, 2].map(|_| {
            let (model, slept) = (model.clone(), seen[0].clone());
            thread::spawn(move || model.take(&slept))
        });
        model.try_send(0).unwrap();
        model.try_send(1).unwrap();
        join(takers);
        model.check(2);
    });
}

/// One thread of a process posts while another one receives: one word tells of both, to threads that wait for different things.
#[test]
fn a_side_waits_for_a_message_and_for_room_at_once() {
    explore_reaching(Some(2), ["one of them sleeps"], move |seen| {
        let model = ChannelModel::new();
        let (ready, room) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let waiting = [(bell::MESSAGE, ready.clone()), (bell::ROOM, room.clone())].map(|(what, flag)| {
            let (model, slept) = (model.clone(), seen[0].clone());
            thread::spawn(move || {
                let look = || (flag.load(Ordering::Acquire) == 1).then_some(());
                model.bell(CONSUMER).wait(what, look, sleep(&slept)).unwrap();
            })
        });
        ready.store(1, Ordering::Release);
        model.bell(CONSUMER).ring(bell::MESSAGE);
        room.store(1, Ordering::Release);
        model.bell(CONSUMER).ring(bell::ROOM);
        join(waiting);
    });
}

/// A process that dies between the count of a call and the wake leaves a sleeper, which the word of its end wakes.
#[test]
fn a_call_that_died_with_its_caller_is_made_up_for() {
    explore_reaching(Some(3), ["the consumer sleeps"], move |seen| {
        let model = ChannelModel::new();
        let gone = Arc::new(AtomicU32::new(0));
        let taker = thread::spawn({
            let (model, gone, slept) = (model.clone(), gone.clone(), seen[0].clone());
            move || {
                let look = || {
                    let is_gone = gone.load(Ordering::Acquire) == 1;
                    model.get().map(Some).or(is_gone.then_some(None))
                };
                model.bell(CONSUMER).wait(bell::MESSAGE, look, sleep(&slept)).unwrap()
            }
        });
        // It posts, takes the bit away if it is there, and is killed before the wake.
        model.put(0).unwrap();
        crate::sync::fence(Ordering::SeqCst);
        let word = &model.bells[CONSUMER];
        let found = word.load(Ordering::Relaxed);
        if found & bell::MESSAGE != 0 {
            let _ = word.compare_exchange(found, (found & !bell::MESSAGE) + 4, Ordering::Release, Ordering::Relaxed);
        }
        // The supervisor hears of it.
        gone.store(1, Ordering::Release);
        model.bell(CONSUMER).call();
        assert_eq!(taker.join().unwrap(), Some(0), "what was posted before the end comes first");
    });
}

/// Without the look between the bit and the sleep a consumer sleeps beside a message.
#[test]
#[should_panic]
fn without_the_second_look_a_message_is_left_lying() {
    explore(Some(2), || {
        let model = ChannelModel::new();
        let poster = beside(&model, move |model| model.try_send(0).unwrap());
        if model.get().is_none() {
            let since = model.bell(CONSUMER).announce(bell::MESSAGE);
            while let Some(word) = model.bell(CONSUMER).uncalled(since) {
                futex::wait(&model.bells[CONSUMER], word, Scope::Private);
            }
        }
        poster.join().unwrap();
    });
}

/// Without a count of calls one that was about to sleep does so when another thread has set the bit again by then.
#[test]
#[should_panic]
fn without_the_count_a_call_is_missed() {
    explore(Some(3), || {
        let model = ChannelModel::new();
        let takers = [1, 2].map(|_| {
            let model = model.clone();
            thread::spawn(move || {
                let word = &model.bells[CONSUMER];
                loop {
                    let _ = model.bell(CONSUMER).announce(bell::MESSAGE);
                    if let Some(found) = model.get() {
                        return found;
                    }
                    // As if the word were nothing but bits.
                    futex::wait(word, bell::MESSAGE, Scope::Private);
                }
            })
        });
        for number in 0..2 {
            model.put(number).unwrap();
            crate::sync::fence(Ordering::SeqCst);
            let word = &model.bells[CONSUMER];
            if word.load(Ordering::Relaxed) == bell::MESSAGE {
                word.store(0, Ordering::Release);
                futex::wake_all(word, Scope::Private);
            }
        }
        join(takers);
    });
}
