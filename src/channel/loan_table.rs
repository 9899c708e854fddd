//! Batches in messages between two processes: the engine's process *lends* them to the worker.
//!
//! A batch that is posted to a worker process stays in the table of the process whose arena it lies in, where nobody can reach it. The
//! segment has a record for each, the *loan*: what is lent, and whether the worker has dropped it. The worker gets a batch over its own
//! mapping of the memory. It posts it back, and the table gives out the very batch that was lent; or it drops it, and the record says so;
//! or it dies, and everything that is still in the table comes back.
//!
//! The table decides. A record that does not fit it is damage; none is followed to memory here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::arena::Arena;
use crate::arena::any_batch::AnyBatch;
use crate::arena::loan::{Lender, Loan, LoanTerms};
use crate::channel::memory::{ChannelMemory, Damage, ENGINE, WORKER};
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::layout::channel::{LoanWord, at, loan, loans_of, loans_word};
use crate::layout::words::{opened_len, sealed_len};
use crate::lockfree::doorbell::bell;
use crate::os::fork::ForkGuard;
use crate::sync::{AtomicU64, Ordering, lock};

/// What names a loan: its number, and which loan of that number it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LoanName {
    number: u32,
    serial: u32,
}

struct Entry {
    /// How often the number was used.
    serial: u32,
    batch: Option<AnyBatch>,
}

/// The batches that are lent, by number.
struct Lent {
    entries: Vec<Entry>,
    /// Numbers that are not in use.
    free: Vec<u32>,
    /// Numbers that are.
    lent: BTreeSet<u32>,
}

impl Lent {
    fn new(loans: u32) -> Self {
        let entries = (0..loans).map(|_| Entry { serial: 0, batch: None }).collect();
        Self { entries, free: (0..loans).rev().collect(), lent: BTreeSet::new() }
    }

    /// Enters a batch, under a number that is free.
    fn enter(&mut self, batch: AnyBatch) -> Option<LoanName> {
        let number = self.free.pop()?;
        let entry = self.entries.get_mut(number as usize)?;
        entry.serial = entry.serial.wrapping_add(1);
        entry.batch = Some(batch);
        self.lent.insert(number);
        Some(LoanName { number, serial: entry.serial })
    }

    /// The batch of a number, and which loan of that number it is.
    fn get(&self, number: u32) -> Option<(&AnyBatch, u32)> {
        let entry = self.entries.get(number as usize)?;
        Some((entry.batch.as_ref()?, entry.serial))
    }

    /// Takes a batch out.
    fn settle(&mut self, number: u32) -> Option<AnyBatch> {
        let batch = self.entries.get_mut(number as usize)?.batch.take()?;
        self.lent.remove(&number);
        self.free.push(number);
        Some(batch)
    }

    /// Whether the loan is in the table, and not another one of its number.
    fn has(&self, name: LoanName) -> bool {
        self.get(name.number).is_some_and(|(_, serial)| serial == name.serial)
    }

    /// Takes out every batch whose loan is neither among these nor has one of these numbers, in the order of their numbers.
    fn settle_all_but(&mut self, names: &[LoanName], numbers: &BTreeSet<u32>) -> Vec<AnyBatch> {
        let named: BTreeSet<u32> = names.iter().filter(|name| self.has(**name)).map(|name| name.number).collect();
        let is_free = |number: &u32| !named.contains(number) && !numbers.contains(number);
        let all: Vec<u32> = self.lent.iter().copied().filter(is_free).collect();
        all.into_iter().filter_map(|number| self.settle(number)).collect()
    }
}

/// The number in a record's word for the next loan; none that there is, when a bit of it was flipped.
fn next_of(word: u64) -> u32 {
    opened_len(word).and_then(|number| u32::try_from(number).ok()).unwrap_or(u32::MAX)
}

/// The state that says how a batch is lent.
fn state_of(batch: &AnyBatch) -> u32 {
    if batch.is_writable() { LoanWord::LENT_TO_WRITE } else { LoanWord::LENT_TO_READ }
}

/// Why a batch could not be borrowed.
pub(super) enum NotBorrowed {
    Damaged(Damage),
    Failed(Error),
}

/// The batches of one end that are at the other, or that it has from there.
pub(super) struct LoanTable {
    memory: ChannelMemory,
    /// Where batches lie that can be posted; none can without one.
    arena: Option<Arc<Arena>>,
    /// What is lent, in the engine's process.
    lent: Mutex<Lent>,
    /// Batches whose drop was noticed.
    dropped: AtomicU64,
    fork: Arc<ForkGuard>,
}

impl LoanTable {
    pub(super) fn new(memory: ChannelMemory, arena: Option<Arc<Arena>>, fork: Arc<ForkGuard>) -> Self {
        let lent = Lent::new(if memory.end == ENGINE { memory.plan.loans as u32 } else { 0 });
        Self { memory, arena, lent: Mutex::new(lent), dropped: AtomicU64::new(0), fork }
    }

    /// Whether batches can be posted here.
    ///
    /// # Errors
    /// [`Error::ForeignBatch`] when one does not lie in the arena of this channel, or was not lent by it; [`Error::InvalidArgument`] when
    /// there are too many, or when a part of one that goes back is still held.
    pub(super) fn check(&self, batches: &[AnyBatch]) -> Result<()> {
        if batches.len() > self.memory.plan.loans {
            return Err(Error::invalid(format!(
                "a message to another process carries up to {} batches, not {}",
                self.memory.plan.loans,
                batches.len()
            )));
        }
        for batch in batches {
            if !self.arena.as_ref().is_some_and(|arena| Arc::ptr_eq(batch.arena(), arena)) {
                return Err(Error::ForeignBatch);
            }
            if self.memory.end == WORKER {
                let loan = batch.loan().ok_or_else(|| {
                    Error::invalid("a batch goes back whole, or its first part when the rest of it was dropped")
                })?;
                if !loan.is_of(core::ptr::from_ref(self).cast()) {
                    return Err(Error::ForeignBatch);
                }
            } else if batch.reference().is_none() {
                return Err(Error::ForeignBatch);
            }
        }
        Ok(())
    }

    /// Hands the batches of a message over, leaving `batches` empty: lends them, or gives them back. What the message says of them, and
    /// the names of their loans; `None` when too many are lent at the moment. They were checked.
    pub(super) fn hand_over(&self, batches: &mut Vec<AnyBatch>) -> Option<(u64, Vec<LoanName>)> {
        let names = if self.memory.end == WORKER { self.give_back(batches) } else { self.lend(batches)? };
        for pair in names.windows(2) {
            if let Some(record) = self.memory.plan.loan(pair[0].number) {
                // Relaxed, as all that is written to records: the stamp of the message orders it.
                self.memory.word(record + loan::NEXT).store(sealed_len(u64::from(pair[1].number)), Ordering::Relaxed);
            }
        }
        let first = names.first().map_or(0, |name| name.number);
        Some((loans_word(first, names.len() as u32), names))
    }

    fn lend(&self, batches: &mut Vec<AnyBatch>) -> Option<Vec<LoanName>> {
        let mut table = lock(&self.lent);
        if table.free.len() < batches.len() {
            return None;
        }
        let mut names = Vec::with_capacity(batches.len());
        for batch in batches.drain(..) {
            // Checked before.
            let (handle, len_bytes) = batch.reference().unwrap_or((0, 0));
            let (state, tag) = (state_of(&batch), batch.tag());
            let Some(name) = table.enter(batch) else { continue };
            names.push(name);
            let Some(record) = self.memory.plan.loan(name.number) else { continue };
            let write = |field: usize, value: u64| self.memory.word(record + field).store(value, Ordering::Relaxed);
            let state = LoanWord::new(name.serial, state).bits();
            write(loan::STATE, state);
            write(loan::HANDLE, handle);
            write(loan::LEN_BYTES, sealed_len(len_bytes));
            write(loan::ELEMENT, tag);
            write(loan::CHECK, loan::check(state, handle, tag));
        }
        Some(names)
    }

    /// The worker's part: their loans are over, without a drop.
    fn give_back(&self, batches: &mut Vec<AnyBatch>) -> Vec<LoanName> {
        let mut names = Vec::with_capacity(batches.len());
        for batch in batches.drain(..) {
            // Checked before.
            let Some(held) = batch.loan() else { continue };
            let LoanTerms { number, serial, .. } = held.terms();
            held.settle();
            if let Some(record) = self.memory.plan.loan(number) {
                self.memory
                    .word(record + loan::LEN_BYTES)
                    .store(sealed_len(batch.len_bytes() as u64), Ordering::Relaxed);
            }
            names.push(LoanName { number, serial });
        }
        names
    }

    /// The loans that a message names, with the lengths that their records say, each of them lent by this end.
    pub(super) fn loans_in(&self, word: u64) -> Result<Vec<(u32, u64)>, Damage> {
        let table = lock(&self.lent);
        let (mut number, count) = loans_of(word);
        let damage = |what, word, expected, found| Damage { what, word, expected, found };
        if count == 0 || count as usize > self.memory.plan.loans {
            return Err(damage("number of batches of a message", 0, self.memory.plan.loans as u64, u64::from(count)));
        }
        let mut found: Vec<(u32, u64)> = Vec::with_capacity(count as usize);
        let mut seen = BTreeSet::new();
        for _ in 0..count {
            let entry = table.get(number).filter(|_| seen.insert(number));
            let (Some((batch, serial)), Some(record)) = (entry, self.memory.plan.loan(number)) else {
                return Err(damage("batch of a message", 0, 0, u64::from(number)));
            };
            // Relaxed: the stamp of the message was acquired. Each word is read once.
            let read = |field: usize| self.memory.word(record + field).load(Ordering::Relaxed);
            let (expected, state) = (LoanWord::new(serial, state_of(batch)), LoanWord::from_bits(read(loan::STATE)));
            if state != expected {
                return Err(damage("state of a loan", record, expected.bits(), state.bits()));
            }
            let len = read(loan::LEN_BYTES);
            let Some(len_bytes) = opened_len(len).filter(|len_bytes| batch.may_be(*len_bytes)) else {
                let whole = sealed_len(batch.len_bytes() as u64);
                return Err(damage("length of a loan", record + loan::LEN_BYTES, whole, len));
            };
            found.push((number, len_bytes));
            number = next_of(read(loan::NEXT));
        }
        Ok(found)
    }

    /// The batches that a message brings back to the process that lent them.
    pub(super) fn take_back(&self, word: u64) -> Result<Vec<AnyBatch>, Damage> {
        let loans = self.loans_in(word)?;
        let mut table = lock(&self.lent);
        let taken = loans.into_iter().filter_map(|(number, len_bytes)| {
            let mut batch = table.settle(number)?;
            batch.shorten(len_bytes);
            Some(batch)
        });
        Ok(taken.collect())
    }

    /// Takes loans out of the table, those that are still there: of one that the worker says it has dropped, the number may name another
    /// one by now.
    pub(super) fn settle(&self, names: &[LoanName]) -> Vec<AnyBatch> {
        let mut table = lock(&self.lent);
        let settle = |name: &LoanName| if table.has(*name) { table.settle(name.number) } else { None };
        names.iter().filter_map(settle).collect()
    }

    /// Takes out every batch whose loan is neither among these nor has one of these numbers, in the order of their numbers.
    pub(super) fn settle_all_but(&self, names: &[LoanName], numbers: &BTreeSet<u32>) -> Vec<AnyBatch> {
        lock(&self.lent).settle_all_but(names, numbers)
    }

    /// Lets go of the batches that the worker has dropped since this was done last.
    #[inline]
    pub(super) fn notice_drops(&self) {
        if self.memory.end == WORKER {
            return;
        }
        // Acquire: pairs with the release in `dropped`, with which the states come.
        let dropped = self.memory.word(at::DROPPED).load(Ordering::Acquire);
        if dropped != self.dropped.load(Ordering::Relaxed) {
            self.dropped.store(dropped, Ordering::Relaxed);
            self.let_go();
        }
    }

    #[cold]
    fn let_go(&self) {
        let mut table = lock(&self.lent);
        let is_dropped = |number: &u32| {
            let record = self.memory.plan.loan(*number)?;
            let (_, serial) = table.get(*number)?;
            // Acquire: the worker's last access comes before the memory is used again.
            let state = self.memory.word(record + loan::STATE).load(Ordering::Acquire);
            (state == LoanWord::new(serial, LoanWord::DROPPED).bits()).then_some(*number)
        };
        let numbers: Vec<u32> = table.lent.iter().filter_map(is_dropped).collect();
        for number in numbers {
            drop(table.settle(number));
        }
    }

    /// The batches of a message, in the worker.
    pub(super) fn borrow(self: &Arc<Self>, word: u64) -> Result<Vec<AnyBatch>, NotBorrowed> {
        let (mut number, count) = loans_of(word);
        let lender: Arc<dyn Lender> = Arc::clone(self) as Arc<dyn Lender>;
        let mut batches: Vec<AnyBatch> = Vec::new();
        for _ in 0..count.min(self.memory.plan.loans as u32) {
            match self.accept(&lender, number) {
                Ok((batch, next)) => {
                    batches.push(batch);
                    number = next;
                }
                Err(error) => {
                    // The message stays where it is, and so do its loans.
                    batches.iter().filter_map(AnyBatch::loan).for_each(Loan::settle);
                    return Err(error);
                }
            }
        }
        Ok(batches)
    }

    /// One batch of a message, and the number of the next one.
    fn accept(&self, lender: &Arc<dyn Lender>, number: u32) -> Result<(AnyBatch, u32), NotBorrowed> {
        let damage = |what, word, expected, found| NotBorrowed::Damaged(Damage { what, word, expected, found });
        let loans = if self.arena.is_some() { self.memory.plan.loans as u64 } else { 0 };
        let (Some(arena), Some(record)) = (&self.arena, self.memory.plan.loan(number)) else {
            return Err(damage("batch of a message", 0, loans, u64::from(number)));
        };
        // Relaxed: the stamp of the message was acquired. Each word is read once.
        let read = |field: usize| self.memory.word(record + field).load(Ordering::Relaxed);
        let state = LoanWord::from_bits(read(loan::STATE));
        let writable = match state.state() {
            LoanWord::LENT_TO_WRITE => true,
            LoanWord::LENT_TO_READ => false,
            _ => return Err(damage("state of a loan", record, 0, state.bits())),
        };
        let (handle, element) = (read(loan::HANDLE), read(loan::ELEMENT));
        let (check, expected) = (read(loan::CHECK), loan::check(state.bits(), handle, element));
        if check != expected {
            return Err(damage("record of a loan", record + loan::CHECK, expected, check));
        }
        let len = read(loan::LEN_BYTES);
        let Some(len_bytes) = opened_len(len) else {
            return Err(damage("length of a loan", record + loan::LEN_BYTES, 0, len));
        };
        let terms = LoanTerms { number, serial: state.serial(), handle, len_bytes, writable };
        let held = Loan::accept(arena, lender, terms).map_err(NotBorrowed::Failed)?;
        Ok((AnyBatch::lent(held, element), next_of(read(loan::NEXT))))
    }
}

impl Lender for LoanTable {
    fn dropped(&self, number: u32, serial: u32) {
        // A forked child has a copy of the batch, and its parent's segment.
        if self.fork.is_forked_child() {
            return;
        }
        let Some(record) = self.memory.plan.loan(number) else { return };
        let state = self.memory.word(record + loan::STATE);
        // Release: pairs with the acquire in `let_go`. Only if it is this loan: the other end may have broken off and begun anew.
        for lent in [LoanWord::LENT_TO_WRITE, LoanWord::LENT_TO_READ] {
            let (lent, dropped) = (LoanWord::new(serial, lent), LoanWord::new(serial, LoanWord::DROPPED));
            if state.compare_exchange(lent.bits(), dropped.bits(), Ordering::Release, Ordering::Relaxed).is_ok() {
                fault::point(Point::F53_loan_dropped);
                self.memory.word(at::DROPPED).fetch_add(1, Ordering::Release);
                // A sender that waits for room may wait for the number of a loan.
                self.memory.bell(self.memory.end ^ 1).ring(bell::ROOM);
                return;
            }
        }
    }
}
