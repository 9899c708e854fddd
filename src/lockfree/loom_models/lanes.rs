//! Messages (`lane.rs`), with cells whose words are memory that is not atomic.

use super::*;
use crate::lockfree::bell::{Bell, Sleeper, Ticket};
use crate::lockfree::lane::{Full, Lane, side};

const CELLS: usize = 2;
/// Words of messages of which two lie in one group, and of those that have each a group of its own.
const TOGETHER: usize = 3;
const APART: usize = 4;

struct LaneModel {
    lane: Lane,
    /// What a message leads to: written before it is posted, read and let go of when it is taken.
    cargo: [Shadow; CELLS],
    taken: [Tally; 4],
}

impl LaneModel {
    fn new() -> Arc<Self> {
        Self::of(TOGETHER)
    }

    fn of(message_words: usize) -> Arc<Self> {
        let lane = Lane::new(CELLS, message_words);
        assert_eq!(lane.cells(), CELLS);
        Arc::new(Self {
            lane,
            cargo: [Shadow::new(), Shadow::new()],
            taken: core::array::from_fn(|_| Tally::default()),
        })
    }

    fn lane(&self) -> &Lane {
        &self.lane
    }

    fn put(&self, number: u64) -> Result<(), Full> {
        self.lane.try_send(None, false, |at, words| {
            self.cargo[at].write();
            words[0].store(number, Ordering::Relaxed);
        })
    }

    fn try_send(&self, number: u64) -> Result<(), Full> {
        self.put(number)?;
        wake(self.lane.message_bell());
        Ok(())
    }

    fn post(&self, number: u64, slept: &Seen) {
        wait(self.lane.room_bell(), || self.put(number).ok(), slept).unwrap();
        wake(self.lane.message_bell());
    }

    fn try_take(&self) -> Option<u64> {
        let number = self.lane.try_take(None, |at, _, words| {
            self.cargo[at].read();
            self.cargo[at].write();
            Some(words[0].load(Ordering::Relaxed))
        })?;
        self.taken[number as usize].add();
        Some(number)
    }

    /// A message, or `None` when the sender is gone and nothing is left.
    fn take(&self, slept: &Seen) -> Option<u64> {
        let look = || {
            // The order matters: what was posted before the sender left is seen by a look that comes after.
            let is_gone = self.lane().is_gone(side::SENDER);
            self.try_take().map(Some).or(is_gone.then_some(None))
        };
        let found = wait(self.lane().message_bell(), look, slept).unwrap();
        wake(self.lane().room_bell());
        found
    }

    fn check(&self, messages: usize) {
        assert!(self.taken[..messages].iter().all(|taken| taken.get() == 1), "taken once");
    }
}

fn wake(bell: Bell<'_>) {
    bell.call().into_iter().for_each(Sleeper::wake);
}

fn wait<T>(bell: Bell<'_>, look: impl FnMut() -> Option<T>, slept: &Seen) -> Option<T> {
    let sleep = |word: &AtomicU32, seen| {
        slept.mark();
        futex::wait(word, seen, Scope::Private);
        true
    };
    bell.wait(&Arc::new(AtomicU32::new(0)), look, sleep, || wake(bell))
}

/// R9/A9 and R10/A10: three messages go through two cells, so that one is filled twice.
fn messages_are_taken_once_and_whole(message_words: usize) {
    explore(Some(3), move || {
        let model = LaneModel::of(message_words);
        let poster = beside(&model, move |model| [0, 1, 2].map(|number| model.try_send(number).is_ok()));
        let first = model.try_take();
        let second = model.try_take();
        let posted = poster.join().unwrap();
        let mut taken: Vec<u64> = first.into_iter().chain(second).collect();
        taken.extend(core::iter::from_fn(|| model.try_take()));
        let expected: Vec<u64> = (0..3).filter(|&number| posted[number as usize]).collect();
        assert_eq!(taken, expected, "in order");
        assert!(posted[0] && posted[1]);
    });
}

#[test]
fn a_message_is_taken_once_and_whole() {
    messages_are_taken_once_and_whole(TOGETHER);
}

#[test]
fn a_message_of_a_group_of_its_own_is_taken_once_and_whole() {
    messages_are_taken_once_and_whole(APART);
}

/// Several at a time, behind which the tail is moved once, and the stamp of each group before.
#[test]
fn messages_are_posted_and_taken_several_at_a_time() {
    for message_words in [TOGETHER, APART] {
        explore(Some(3), move || {
            let model = LaneModel::of(message_words);
            let poster = beside(&model, move |model| {
                let mut next = 0;
                for wanted in [2, 1] {
                    let lane = &model.lane;
                    next += lane.try_send_many(None, wanted, |first, count, words| {
                        for at in 0..count {
                            let number = next + first + at;
                            model.cargo[number % CELLS].write();
                            words[at * message_words].store(number as u64, Ordering::Relaxed);
                        }
                    });
                }
                next
            });
            let take = |wanted: usize, next: &mut usize| {
                let taken = model.lane.try_take_many(None, wanted, |_, count, words| {
                    for at in 0..count {
                        model.cargo[*next % CELLS].read();
                        model.cargo[*next % CELLS].write();
                        assert_eq!(words[at * message_words].load(Ordering::Relaxed), *next as u64);
                        *next += 1;
                    }
                });
                assert!(taken <= wanted);
            };
            let mut next = 0;
            take(1, &mut next);
            take(2, &mut next);
            let posted = poster.join().unwrap();
            take(3, &mut next);
            assert!(posted == next && posted >= 2);
        });
    }
}

#[test]
fn two_posters_and_two_takers() {
    explore(Some(2), || {
        let model = LaneModel::new();
        let poster = beside(&model, move |model| model.try_send(0).unwrap());
        let taker = beside(&model, move |model| {
            let _ = model.try_take();
        });
        model.try_send(1).unwrap();
        let _ = model.try_take();
        poster.join().unwrap();
        taker.join().unwrap();
        while model.try_take().is_some() {}
        model.check(2);
    });
}

/// A receiver sleeps for each message; a poster sleeps for room.
#[test]
fn both_sides_sleep_and_are_called() {
    explore_reaching(Some(2), ["the receiver sleeps", "the poster sleeps"], move |seen| {
        let model = LaneModel::new();
        let poster = thread::spawn({
            let (model, slept) = (model.clone(), seen[1].clone());
            move || (0..3).for_each(|number| model.post(number, &slept))
        });
        for number in 0..3 {
            assert_eq!(model.take(&seen[0]), Some(number));
        }
        poster.join().unwrap();
        model.check(3);
    });
}

/// One call for each message: two that sleep get one each, a thread that was counted and had not gone to sleep yet.
#[test]
fn two_receivers_sleep_and_both_are_called() {
    explore_reaching(Some(2), ["a receiver sleeps"], move |seen| {
        let model = LaneModel::new();
        let takers = [1, 2].map(|_| {
            let (model, slept) = (model.clone(), seen[0].clone());
            thread::spawn(move || model.take(&slept).unwrap())
        });
        model.try_send(0).unwrap();
        model.try_send(1).unwrap();
        join(takers);
        model.check(2);
    });
}

/// One that was called for a message and had found another one without the call passes the call on.
#[test]
fn a_call_that_was_not_needed_is_passed_on() {
    explore_reaching(Some(3), ["a call is passed on"], move |seen| {
        let model = LaneModel::new();
        let sleeper = beside(&model, move |model| model.take(&Seen::default()).unwrap());
        let poster = beside(&model, move |model| (0..2).for_each(|number| model.try_send(number).unwrap()));
        let bell = model.lane().message_bell();
        let look = || model.try_take();
        let sleep = |word: &AtomicU32, seen| {
            futex::wait(word, seen, Scope::Private);
            true
        };
        let pass_on = || {
            seen[0].mark();
            wake(bell);
        };
        bell.wait(&Arc::new(AtomicU32::new(0)), look, sleep, pass_on).unwrap();
        sleeper.join().unwrap();
        poster.join().unwrap();
        model.check(2);
    });
}

/// A thread sleeps on one word all its life. A call that is late, for a wait that ended without it, may hit the next wait: that one
/// must not leave itself in the list, where it would take the call meant for a sleeper.
#[test]
fn a_late_call_hits_the_next_wait_harmlessly() {
    explore_reaching(Some(3), ["the receiver sleeps"], move |seen| {
        let model = LaneModel::new();
        let bell = model.lane().message_bell();
        let word = Arc::new(AtomicU32::new(0));
        // The call is made, and not heard, as by a wait whose look found a message that was there.
        let _ = bell.announce(Sleeper::Thread(word.clone()));
        let late = bell.call().expect("one is announced");
        let waker = thread::spawn(move || late.wake());
        let poster = beside(&model, move |model| (0..2).for_each(|number| model.try_send(number).unwrap()));
        let sleep = |word: &AtomicU32, value| {
            seen[0].mark();
            futex::wait(word, value, Scope::Private);
            true
        };
        bell.wait(&word, || model.try_take(), sleep, || wake(bell)).unwrap();
        waker.join().unwrap();
        assert!(bell.call().is_none(), "nobody sleeps now");
        poster.join().unwrap();
    });
}

/// A sender that leaves is heard of, and what it posted before comes first.
#[test]
fn a_receiver_hears_of_the_end() {
    explore_reaching(Some(3), ["the receiver sleeps"], move |seen| {
        let model = LaneModel::new();
        let sender = beside(&model, move |model| {
            model.try_send(0).unwrap();
            model.lane().leave(side::SENDER);
            model.lane().message_bell().call_all().for_each(Sleeper::wake);
        });
        assert_eq!(model.take(&seen[0]), Some(0));
        assert_eq!(model.take(&seen[0]), None);
        sender.join().unwrap();
    });
}

/// What any thread of a side posted before another one said that the side is gone is there for the thread that hears that: the release of
/// `Lane::leave`, as the thread that leaves has made no fence since.
#[test]
fn the_end_comes_after_every_message() {
    explore_reaching(None, ["the receiver hears of the end"], move |seen| {
        let model = LaneModel::new();
        let poster = beside(&model, move |model| model.try_send(0).unwrap());
        let leaver = beside(&model, move |model| {
            // As the last handle of the side comes after all that others of it did.
            poster.join().unwrap();
            model.lane().leave(side::SENDER);
        });
        if model.lane().is_gone(side::SENDER) {
            seen[0].mark();
            assert_eq!(model.try_take(), Some(0), "a message is lost behind the end");
        }
        leaver.join().unwrap();
    });
}

/// Without the look between counting itself and sleeping a receiver sleeps beside a message.
#[test]
#[should_panic]
fn without_the_second_look_a_message_is_left_lying() {
    explore(Some(2), || {
        let model = LaneModel::new();
        let poster = beside(&model, move |model| model.try_send(0).unwrap());
        if model.try_take().is_none() {
            let word = Arc::new(AtomicU32::new(1));
            let _ = model.lane().message_bell().announce(Sleeper::Thread(word.clone()));
            futex::wait(&word, 1, Scope::Private);
        }
        poster.join().unwrap();
    });
}

/// A task as the bell knows it, and its own word.
fn task(bell: Bell<'_>) -> (Ticket, Arc<AtomicU32>) {
    let word = Arc::new(AtomicU32::new(1));
    (bell.announce(Sleeper::Thread(word.clone())), word)
}

/// A task that was called, and is dropped instead of being run, has taken the call from the next one.
fn a_task_leaves_while_a_message_comes(passes_on: bool) {
    explore_reaching(
        Some(3),
        ["the task is called before it leaves", "the task leaves before it is called"],
        move |seen| {
            let model = LaneModel::new();
            let bell = model.lane().message_bell();
            let (leaver, _) = task(bell);
            let (stayer, word) = task(bell);
            let poster = beside(&model, move |model| model.try_send(0).unwrap());
            let leaving = thread::spawn({
                let (model, seen) = (model.clone(), seen.clone());
                move || {
                    if model.lane().message_bell().withdraw(&leaver) {
                        seen[1].mark();
                    } else {
                        seen[0].mark();
                        if passes_on {
                            wake(model.lane().message_bell());
                        }
                    }
                }
            });
            // The look that follows the announcement, then the sleep.
            while model.try_take().is_none() {
                while word.load(Ordering::Acquire) == 1 {
                    futex::wait(&word, 1, Scope::Private);
                }
            }
            model.lane().message_bell().withdraw(&stayer);
            poster.join().unwrap();
            leaving.join().unwrap();
            model.check(1);
        },
    );
}

#[test]
fn a_task_that_was_called_and_leaves_passes_the_call_on() {
    a_task_leaves_while_a_message_comes(true);
}

#[test]
#[should_panic]
fn without_passing_on_the_next_task_sleeps_beside_the_message() {
    a_task_leaves_while_a_message_comes(false);
}
