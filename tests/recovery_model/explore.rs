//! The search: every state that can be reached, each once, nearest first, so that the first violation has a shortest trace.

use std::fmt::Write;
use std::hash::{Hash, Hasher};

use super::rules::{Model, Move, Violation};
use super::state::State;

/// A multiplicative hash of bytes: states are short and nobody chooses them to collide.
struct StateHasher(u64);

impl Hasher for StateHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(padded));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

fn hash_of(state: &State) -> u64 {
    let mut hasher = StateHasher(0);
    state.hash(&mut hasher);
    hasher.finish()
}

/// All states found so far, by number, and a table from states to numbers: every state is stored once.
struct Found {
    states: Vec<State>,
    /// Which state each was found from, and by which move. The first was found from itself.
    parents: Vec<(u32, Move)>,
    /// Numbers of states plus one, at the place that the hash says or behind it. Its length is a power of two.
    table: Vec<u32>,
}

impl Found {
    fn new(start: State) -> Self {
        let mut found = Self { states: Vec::new(), parents: Vec::new(), table: vec![0; 1 << 12] };
        found.insert(start, 0, Move::Supervisor);
        found
    }

    /// The number of a state, which is new or known.
    fn insert(&mut self, state: State, parent: u32, by: Move) -> u32 {
        if self.states.len() * 2 >= self.table.len() {
            self.grow();
        }
        let mask = self.table.len() - 1;
        let mut place = hash_of(&state) as usize & mask;
        while let Some(number) = self.table[place].checked_sub(1) {
            if self.states[number as usize] == state {
                return number;
            }
            place = (place + 1) & mask;
        }
        let number = u32::try_from(self.states.len()).expect("fewer than 2^32 states");
        self.states.push(state);
        self.parents.push((parent, by));
        self.table[place] = number + 1;
        number
    }

    fn grow(&mut self) {
        let mask = self.table.len() * 2 - 1;
        self.table = vec![0; mask + 1];
        for (number, state) in self.states.iter().enumerate() {
            let mut place = hash_of(state) as usize & mask;
            while self.table[place] != 0 {
                place = (place + 1) & mask;
            }
            self.table[place] = number as u32 + 1;
        }
    }
}

/// The steps without accidents: the numbers of the states that they lead to, state by state.
struct Ways {
    targets: Vec<u32>,
    /// Where the targets of each state end; they begin where those of the state before end.
    ends: Vec<usize>,
}

impl Ways {
    /// The first state from which no way leads to one without steps.
    fn first_without_end(&self) -> Option<u32> {
        let begin = |at: usize| at.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut is_good = vec![false; self.ends.len()];
        // Targets mostly have higher numbers, so that one turn from the back settles nearly everything.
        loop {
            let mut is_changed = false;
            for at in (0..is_good.len()).rev().filter(|&at| begin(at) == self.ends[at]).chain((0..is_good.len()).rev())
            {
                let targets = &self.targets[begin(at)..self.ends[at]];
                if !is_good[at] && (targets.is_empty() || targets.iter().any(|&target| is_good[target as usize])) {
                    (is_good[at], is_changed) = (true, true);
                }
            }
            if !is_changed {
                return is_good.iter().position(|is_good| !is_good).map(|at| at as u32);
            }
        }
    }
}

/// What a search came to.
pub(crate) struct Report {
    /// Distinct states that were reached.
    pub(crate) states: usize,
    /// States in which nobody can take a step.
    pub(crate) ends: usize,
    /// The first violation and the way to it, a line for each move.
    pub(crate) violation: Option<(Violation, String)>,
}

/// Explores a model to the end, or to the first violation.
///
/// # Panics
/// When there are more than `states_max` states: the bounds of the model are too wide for what it is used for.
pub(crate) fn explore(model: &Model, states_max: usize) -> Report {
    let moves = Move::all();
    let mut found = Found::new(model.start());
    let mut ways = Ways { targets: Vec::new(), ends: Vec::new() };
    let mut ends = 0;
    let mut at = 0;
    while at < found.states.len() {
        assert!(found.states.len() <= states_max, "more than {states_max} states: {model:?}");
        let mut steps = Vec::with_capacity(moves.len());
        for &by in &moves {
            let mut next = found.states[at];
            let failed = match model.make(&mut next, by) {
                Ok(None) => continue,
                Ok(Some(_)) => model.check(&next).err(),
                Err(violation) => Some(violation),
            };
            if let Some(violation) = failed {
                let trace = trace(model, &found, at as u32, Some(by));
                return Report { states: found.states.len(), ends, violation: Some((violation, trace)) };
            }
            let number = found.insert(next, at as u32, by);
            if by.is_step() {
                steps.push(by);
                ways.targets.push(number);
            }
        }
        ways.ends.push(ways.targets.len());
        ends += usize::from(steps.is_empty());
        if let Err(violation) = model.check_rest(&found.states[at], &steps) {
            let trace = trace(model, &found, at as u32, None);
            return Report { states: found.states.len(), ends, violation: Some((violation, trace)) };
        }
        at += 1;
    }
    let stray = ways.first_without_end();
    let violation = stray.map(|at| (Violation::NoWayToTheEnd, trace(model, &found, at, None)));
    Report { states: found.states.len(), ends, violation }
}

/// The way to a state, and what the move after it does.
fn trace(model: &Model, found: &Found, to: u32, last: Option<Move>) -> String {
    let mut way: Vec<Move> = last.into_iter().collect();
    let mut at = to;
    while at != 0 {
        let (parent, by) = found.parents[at as usize];
        way.push(by);
        at = parent;
    }
    let mut state = model.start();
    let mut text = String::new();
    for (line, by) in way.into_iter().rev().enumerate() {
        let before = state;
        let did = match model.make(&mut state, by) {
            Ok(did) => did.unwrap_or("does nothing").to_owned(),
            Err(violation) => format!("{violation:?}"),
        };
        let _ = writeln!(text, "{:4}  {:<12} {did}{}", line + 1, name(by), changes(&before, &state));
    }
    text
}

fn name(by: Move) -> String {
    match by {
        Move::Submitter(at) | Move::Drop(at) | Move::HolderReturns(at) => format!("submitter {at}"),
        Move::Worker(at) | Move::Kill(at) | Move::WorkerReturns(at) | Move::Mistake(at) => format!("worker {at}"),
        Move::Supervisor => "supervisor".to_owned(),
    }
}

/// What of the shared memory differs.
fn changes(before: &State, after: &State) -> String {
    let mut text = String::new();
    for (at, (old, new)) in before.descriptors.iter().zip(&after.descriptors).enumerate() {
        if old.word != new.word {
            let word = new.word;
            let _ = write!(text, "; descriptor {at}: {:?}", word.state);
            if word.owner != old.word.owner || word.incarnation != old.word.incarnation {
                let _ = write!(text, " of worker {} incarnation {}", word.owner, word.incarnation);
            }
            for (name, is_set) in [("waiter", word.waiter), ("detached", word.detached)] {
                text.push_str(if is_set { " " } else { "" });
                text.push_str(if is_set { name } else { "" });
            }
            if word.attempt > 0 {
                let _ = write!(text, " attempt {}", word.attempt);
            }
        }
        if old.wait != new.wait {
            let _ = write!(text, "; wait word {at}: {:?}", new.wait);
        }
    }
    for (at, (old, new)) in before.ring.cells.iter().zip(&after.ring.cells).enumerate() {
        if old != new {
            let _ =
                write!(text, "; cell {at}: lap {} {}", new.turn, if new.index < u8::MAX { "full" } else { "empty" });
        }
    }
    for (at, (old, new)) in before.workers.iter().zip(&after.workers).enumerate() {
        if old.park != new.park {
            let _ = write!(text, "; park word {at}: {:?}", new.park);
        }
        if old.incarnation != new.incarnation {
            let _ = write!(text, "; worker {at} joins, incarnation {}", new.incarnation);
        }
    }
    let numbers = |state: &State| {
        let State { searching, idle, redelivery, summary, collector, .. } = *state;
        [
            ("searching", searching),
            ("idle", idle),
            ("redelivery", redelivery),
            ("summary", summary),
            ("collector", collector),
        ]
    };
    for ((name, old), (_, new)) in numbers(before).into_iter().zip(numbers(after)) {
        if old != new {
            let _ =
                if name == "summary" { write!(text, "; {name}: {new}") } else { write!(text, "; {name}: {new:#05b}") };
        }
    }
    text
}
