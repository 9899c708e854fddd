//! A model of handshakes with a light and a heavy fence, which the model checker does not know: to it either is a whole one.
//!
//! Threads run under every schedule over a memory as x86's (total store order): a store waits in its thread's buffer, of which its own loads know, and
//! reaches the others in order, at some time. A fence empties the buffer of its thread; a heavy one those of all threads, one after the other,
//! while these go on. What the processor may reorder beyond that (on others than x86) it may not across a light fence either, as membarrier(2)
//! makes a whole fence of whichever place each thread is at.

use std::collections::HashSet;

#[derive(Clone, Copy)]
enum Step {
    Store(usize, u8),
    /// Into the thread's register of this number.
    Load(usize, usize),
    /// Empties the buffer of a thread, if the register of this number holds no such value.
    Empty(usize, Option<(usize, u8)>),
}

use Step::{Empty, Load, Store};

#[derive(Clone, PartialEq, Eq, Hash)]
struct Thread {
    at: usize,
    buffer: Vec<(usize, u8)>,
    registers: [u8; 2],
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    memory: [u8; 3],
    threads: Vec<Thread>,
}

impl World {
    fn drain_one(&mut self, thread: usize) {
        let (word, value) = self.threads[thread].buffer.remove(0);
        self.memory[word] = value;
    }

    fn run(&mut self, thread: usize, step: Step) {
        match step {
            Store(word, value) => self.threads[thread].buffer.push((word, value)),
            Load(word, register) => {
                let own = self.threads[thread].buffer.iter().rev().find(|(to, _)| *to == word).map(|(_, value)| *value);
                self.threads[thread].registers[register] = own.unwrap_or(self.memory[word]);
            }
            Empty(whose, unless) => {
                if unless.is_none_or(|(register, value)| self.threads[thread].registers[register] != value) {
                    (0..self.threads[whose].buffer.len()).for_each(|_| self.drain_one(whose));
                }
            }
        }
        self.threads[thread].at += 1;
    }
}

/// What is in the registers of the threads at the end of every schedule.
fn outcomes(programs: &[Vec<Step>], memory: [u8; 3]) -> HashSet<Vec<[u8; 2]>> {
    let thread = Thread { at: 0, buffer: Vec::new(), registers: [0; 2] };
    let mut pending = vec![World { memory, threads: vec![thread; programs.len()] }];
    let (mut seen, mut ends) = (HashSet::new(), HashSet::new());
    while let Some(world) = pending.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        for (number, program) in programs.iter().enumerate() {
            if let Some(&step) = program.get(world.threads[number].at) {
                let mut next = world.clone();
                next.run(number, step);
                pending.push(next);
            }
            if !world.threads[number].buffer.is_empty() {
                let mut next = world.clone();
                next.drain_one(number);
                pending.push(next);
            }
        }
        if world.threads.iter().zip(programs).all(|(thread, program)| thread.at == program.len()) {
            ends.insert(world.threads.iter().map(|thread| thread.registers).collect());
        }
    }
    ends
}

/// The words, and the states of a lane's bells, which are those of the process for the fences themselves as well.
const TAIL: usize = 0;
const COUNT: usize = 1;
const STATE: usize = 2;
const EVEN: u8 = 0;
const CHANGING: u8 = 1;
const UNEVEN: u8 = 2;

/// A heavy fence of one of three threads: its own first, as the system makes it.
fn heavy(of: usize, unless: Option<(usize, u8)>) -> [Step; 3] {
    [of, (of + 1) % 3, (of + 2) % 3].map(|whose| Empty(whose, unless))
}

/// Whether a sleeper can be left beside a message: it sees no message, and the poster no sleeper.
fn is_left_asleep(poster: Vec<Step>, sleeper: Vec<Step>, changer: Vec<Step>, state: u8) -> bool {
    let ends = outcomes(&[poster, sleeper, changer], [0, 0, state]);
    assert!(ends.len() > 1, "it was run in one order");
    ends.iter().any(|registers| registers[0][1] == 0 && registers[1][1] == 0)
}

/// Fence F3 of `bell.rs`, which is a whole one except in the uneven state.
fn poster() -> Vec<Step> {
    vec![Store(TAIL, 1), Load(STATE, 0), Empty(0, Some((0, UNEVEN))), Load(COUNT, 1)]
}

/// Fence F4, with a heavy one except in the even state.
fn sleeper() -> Vec<Step> {
    let mut steps = vec![Store(COUNT, 1), Empty(1, None), Load(STATE, 0)];
    steps.extend(heavy(1, Some((0, EVEN))));
    steps.push(Load(TAIL, 1));
    steps
}

fn changer(to: u8) -> Vec<Step> {
    let mut steps = vec![Store(STATE, CHANGING)];
    steps.extend(heavy(2, None));
    steps.push(Store(STATE, to));
    steps
}

#[test]
fn no_sleeper_is_left_while_the_state_changes() {
    for (from, to) in [(EVEN, UNEVEN), (UNEVEN, EVEN), (EVEN, EVEN), (UNEVEN, UNEVEN)] {
        assert!(!is_left_asleep(poster(), sleeper(), changer(to), from), "{from} to {to}");
        assert!(!is_left_asleep(poster(), sleeper(), Vec::new(), from), "in {from}");
    }
}

/// The model sees what each part is for.
#[test]
fn without_a_part_of_it_a_sleeper_is_left() {
    let without = |steps: Vec<Step>, left_out: fn(&Step) -> bool| -> Vec<Step> {
        steps.into_iter().filter(|step| !left_out(step)).collect()
    };
    let is_heavy = |step: &Step| matches!(step, Empty(0 | 2, _) | Empty(1, Some(_)));
    assert!(
        is_left_asleep(poster(), without(sleeper(), is_heavy), Vec::new(), UNEVEN),
        "no heavy fence of the sleeper"
    );
    let is_fence = |step: &Step| matches!(step, Empty(..));
    assert!(is_left_asleep(without(poster(), is_fence), sleeper(), Vec::new(), EVEN), "no whole fence of the poster");
    // The other way the whole fence of the sleeper, which precedes its reading of the state, would do.
    assert!(is_left_asleep(poster(), sleeper(), vec![Store(STATE, EVEN)], UNEVEN), "at once");
    assert!(is_left_asleep(poster(), sleeper(), without(changer(EVEN), is_fence), UNEVEN), "without a fence");
}

/// Fences F7 and F8 of `biased_lock.rs`: the owner does not see that it is none any more, and is not seen inside.
#[test]
fn a_bias_is_revoked_with_the_owner_outside() {
    const INSIDE: usize = 0;
    const OWNER: usize = 1;
    let owner = vec![Store(INSIDE, 1), Load(OWNER, 1)];
    let both_in = |other: Vec<Step>| {
        let ends = outcomes(&[owner.clone(), other, Vec::new()], [0, 1, 0]);
        ends.iter().any(|registers| registers[0][1] == 1 && registers[1][1] == 0)
    };
    let fence = [Empty(1, None)];
    let with = |fence: &[Step]| [&[Store(OWNER, 0)], fence, &[Load(INSIDE, 1)]].concat();
    assert!(!both_in(with(&heavy(1, None))));
    assert!(both_in(with(&fence)), "the model sees what the heavy fence is for");
}
