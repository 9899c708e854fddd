//! The segment of a channel between the engine's process and a worker process, damaged while both ends use it.
//!
//! Both ends lie in this process, the worker's over mappings of its own. What is held against the engine's end is what
//! `docs/protocol.md` says under "Messages between processes": whatever the worker writes, each call returns, each batch that was lent
//! comes out once, as it was lent, unless the segment said that the worker has dropped it, and in the end none is left in the table.
//! Where nothing is damaged, the channel does as two queues and a list do.

mod ends;
mod ground;

use core::mem::take;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use self::ends::{Ends, Reached};
use super::patch::{Input, Patch};
use super::watch;
use crate::sync::watched;

/// Steps of an input at most.
const STEPS_MAX: u8 = 64;
/// Batches of a message that is meant to use up the loans: two of them do.
const MANY: u64 = 600;
/// From this on, a patch is made again before every load. Before, it says before which load it is made once.
const AGAIN: u8 = 224;
/// Loads in one step after which it is taken to go on for ever: the longest ones that end make some ten thousand.
const LOADS_MAX: u64 = 1 << 20;

impl Ends {
    /// One step of somebody at one of the ends.
    fn step(&mut self, step: u8, damages: &mut dyn Iterator<Item = Patch>) {
        let argument = u64::from(step >> 4);
        let has_worker = !self.worker_left && !self.gone;
        match step % 16 {
            0 | 1 => self.post(argument % 4, argument / 4),
            2 | 3 if has_worker => self.take(),
            4 | 5 if has_worker => self.give_back(argument as usize % 4, argument >= 8),
            6 if has_worker => {
                let batches = self.held.drain(..1.min(self.held.len())).collect();
                self.drop_held(batches);
            }
            7 => {
                self.hear(argument % 4 == 3);
            }
            8 | 9 => {
                if let Some(patch) = damages.next() {
                    self.ground.apply(&patch);
                }
            }
            10 => self.keep_task(),
            11 => match self.tasks.pop() {
                Some((_, ticket)) => {
                    let _ = self.engine.drop_waker(&ticket);
                }
                None => self.post(MANY, 0),
            },
            12 => self.attach(),
            13 => {
                match argument % 4 {
                    0 => self.engine.terminate(),
                    1 if has_worker => {
                        self.worker.leave();
                        self.worker_left = true;
                    }
                    2 => self.engine.leave(),
                    _ => assert!(!self.sound || self.engine.is_gone() == (self.worker_left || self.gone)),
                }
                assert!(self.engine.len(true).max(self.worker.len(false)) <= self.engine.capacity());
                assert!(self.engine.len(false).max(self.worker.len(true)) <= self.engine.capacity());
                let _ = (self.worker.is_gone(), self.worker.is_terminated(), self.engine.missed_wakeups());
            }
            14 if self.engine.is_gone() => {
                self.undelivered();
            }
            15 if argument == 15 => self.die(),
            _ => self.reclaim(),
        }
    }

    /// The worker's process is gone, and its waiters are called.
    fn die(&mut self) {
        self.engine.set_process_gone();
        self.gone = true;
        self.tasks_are_called();
    }

    /// Everything that was lent comes out, and what was made of it gives its memory back.
    fn end(mut self) -> BTreeSet<Reached> {
        self.die();
        let capacity = self.engine.capacity();
        let messages = (0..=capacity).take_while(|_| self.hear(false)).count();
        assert!(messages <= capacity, "more messages than cells");
        let messages = (0..=capacity).take_while(|_| self.undelivered()).count();
        assert!(messages <= capacity, "more messages than cells");
        self.reclaim();
        let rest = take(&mut self.lent);
        if !rest.is_empty() {
            self.vanish(rest.len());
        }
        let (vanished, drops) = (self.vanished, self.drops + self.ground.drops.get());
        assert!(vanished <= drops && (vanished == drops || !self.sound), "{vanished} vanished, {drops} were dropped");
        self.kept.clear();
        assert_eq!(self.arena.statistics().in_use, 0, "a batch is left in the table");
        assert!(self.engine.reclaim().is_empty() && !self.undelivered());
        watch::calls();
        drop((take(&mut self.held), self.worker));
        assert_eq!(Arc::strong_count(&self.engine), 1, "somebody keeps the channel");
        drop(self.engine);
        // The thread that called tasks lets go of the memory when nobody is at the other end.
        while Arc::strong_count(&self.ground.segment) > 1 {
            std::thread::yield_now();
        }
        self.reached
    }
}

/// One input; what it led to. Its first byte says of what shape the channel is, the second how many steps follow, a byte each; the rest
/// are patches. Those that say no load are made by steps, in their order.
fn play(data: &[u8]) -> BTreeSet<Reached> {
    let mut input = Input::new(data);
    let (shape, count) = (input.byte(), input.byte() % (STEPS_MAX + 1));
    let steps: Vec<u8> = (0..count).map(|_| input.byte()).collect();
    let patches = input.patches();
    let mut ends = Ends::new(shape, patches.is_empty());
    // Those that the steps make, one after the other, and those that come between two loads.
    let (damages, late): (Vec<Patch>, Vec<Patch>) = patches.into_iter().partition(|patch| patch.when == 0);
    let ground = Rc::clone(&ends.ground);
    let hook = move || {
        let now = ground.loads.get() + 1;
        ground.loads.set(now);
        ground.of_step.set(ground.of_step.get() + 1);
        assert!(ground.of_step.get() < LOADS_MAX, "a call goes on for ever");
        let is_due = |patch: &&Patch| match patch.when {
            AGAIN.. => now > u64::from(patch.when - AGAIN) * 8,
            when => u64::from(when) == now,
        };
        late.iter().filter(is_due).for_each(|patch| ground.apply(patch));
    };
    let mut damages = damages.into_iter();
    watched::with_hook(Box::new(hook), || {
        for step in steps {
            ends.ground.of_step.set(0);
            ends.step(step, &mut damages);
        }
    });
    damages.for_each(|patch| ends.ground.apply(&patch));
    ends.end()
}

/// A channel whose segment others write to while both ends use it.
///
/// # Panics
/// With what it found.
pub fn channel(data: &[u8]) {
    play(data);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use proptest::prelude::*;

    use super::super::tests::{files_of, patch, replay};
    use super::*;

    /// What inputs led to that are not in the corpus, and how many of them.
    static SEEN: Mutex<BTreeMap<Reached, u32>> = Mutex::new(BTreeMap::new());
    static CORPUS: LazyLock<BTreeSet<Vec<u8>>> =
        LazyLock::new(|| files_of("channel").into_iter().map(|file| std::fs::read(file).unwrap()).collect());

    /// A byte for each step, with any argument.
    fn step() -> impl Strategy<Value = u8> {
        let kind = prop_oneof![
            8 => Just(0u8),
            6 => Just(2),
            6 => Just(4),
            3 => Just(6),
            6 => Just(7),
            6 => Just(8),
            6 => 9u8..16,
        ];
        (kind, 0u8..16).prop_map(|(kind, argument)| kind | argument << 4)
    }

    /// Batches that are on their way back when something is changed that says which they are.
    fn damaged_returns() -> impl Strategy<Value = Vec<u8>> {
        let place = prop_oneof![4 => Just(0u8), 2 => Just(7), 1 => Just(3)];
        let patch = (patch(Just(0)), place, 0u8..3).prop_map(|(mut patch, place, record)| {
            patch[0] = patch[0] & 0xF0 | place;
            patch[1] = record;
            patch
        });
        let steps = (1u8..12, 1u8..16, prop::collection::vec(step(), 0..20)).prop_map(|(kinds, count, rest)| {
            let damaged = [kinds << 4, 2, count << 4 | 4, 8, 7];
            [&damaged, rest.as_slice()].concat()
        });
        (any::<u8>(), steps, prop::collection::vec(patch, 1..4)).prop_map(|(shape, steps, patches)| {
            [&[shape, steps.len() as u8], steps.as_slice(), &patches.concat()].concat()
        })
    }

    fn inputs() -> BoxedStrategy<Vec<u8>> {
        let steps = prop::collection::vec(step(), 0..40);
        let when = prop_oneof![3 => Just(0u8), 2 => 1u8..AGAIN, 1 => AGAIN..=u8::MAX];
        let any = (any::<u8>(), steps, prop::collection::vec(patch(when), 0..5)).prop_map(|(shape, steps, patches)| {
            [&[shape, steps.len() as u8], steps.as_slice(), &patches.concat()].concat()
        });
        prop_oneof![3 => any, 1 => damaged_returns()].boxed()
    }

    /// What was written by hand leads where its name says.
    #[test]
    fn named_damage_is_found() {
        let damage = |what| Reached::Damage(what, false);
        for (name, reached) in [
            ("valid", Reached::Reclaimed),
            ("valid_tasks", Reached::TaskCalled),
            ("valid_loans_used_up", Reached::LoansUsedUp),
            ("garbled_stamp", damage("stamp of a message")),
            ("garbled_stamp_of_room", Reached::Damage("stamp of a message", true)),
            ("loan_that_is_not_lent", damage("batch of a message")),
            ("loans_in_a_circle", damage("batch of a message")),
            ("too_many_loans", damage("number of batches of a message")),
            ("loan_of_another_serial", damage("state of a loan")),
            ("loan_that_grows", damage("length of a loan")),
            ("drop_of_what_was_not_taken", Reached::Vanished),
            ("drop_of_another_serial", Reached::Undelivered),
            ("bell_that_never_rests", Reached::WaitedInVain),
            ("handle_beyond_the_arena", Reached::WorkerRefused),
            ("no_such_shape", Reached::AttachRefused),
        ] {
            let file = files_of("channel").into_iter().find(|file| file.ends_with(name));
            let found = play(&std::fs::read(file.unwrap_or_else(|| panic!("{name} is gone"))).unwrap());
            assert!(found.contains(&reached), "{name}: {found:?}");
        }
    }

    /// Also every branch that damage leads to is taken, or the inputs would not come behind the checks.
    #[test]
    fn channels_survive_the_corpus_and_chance() {
        use Reached::*;

        fn run(data: &[u8]) {
            let reached = play(data);
            if !CORPUS.contains(data) {
                let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
                reached.into_iter().for_each(|what| *seen.entry(what).or_default() += 1);
            }
        }
        replay("channel", run, 6000, inputs);
        let expected = [
            Posted,
            Lent,
            Full,
            LoansUsedUp,
            Taken,
            GivenBack,
            Shortened,
            Heard,
            CameBack,
            WaitedInVain,
            TaskCalled,
            Undelivered,
            Reclaimed,
            Vanished,
            WorkerRefused,
            AttachRefused,
            LentAtDamage,
        ];
        let heard = [
            "stamp of a message",
            "number of batches of a message",
            "batch of a message",
            "state of a loan",
            "length of a loan",
        ];
        let damages = heard.map(|what| Damage(what, false)).into_iter().chain([Damage("stamp of a message", true)]);
        let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = expected.into_iter().chain(damages).filter(|what| !seen.contains_key(what));
        assert_eq!(missing.collect::<Vec<_>>(), [], "nothing came there");
    }
}
