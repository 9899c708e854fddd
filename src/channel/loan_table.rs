//! Batches in messages between two processes: the engine's process *lends* them to the worker.
//!
//! A batch that is posted to a worker process stays in the books of the process whose arena it lies in, where nobody can reach it. The
//! segment has a record for each, the *loan*: what is lent, and whether the worker has dropped it. The worker gets a batch over its own
//! mapping of the memory. It posts it back, and the books give out the very batch that was lent; or it drops it, and the record says so;
//! or it dies, and everything that is still in the books comes back.
//!
//! The books decide. A record that does not fit them is damage; none is followed to memory here.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::arena::any_batch::AnyBatch;
use crate::arena::loan::{Lender, Loan, LoanTerms};
use crate::channel::cross_process::{Damage, ProcessChannel, WORKER, lock};
use crate::channel::types::VALUE_WORDS_MAX;
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::layout::channel::{BATCHES_WORDS, LoanWord, at, loan, loans_of, loans_word};
use crate::layout::words::{opened_len, sealed_len};
use crate::lockfree::doorbell::bell;
use crate::lockfree::spsc::Cells;
use crate::sync::Ordering;

/// The books of the process that lends.
pub(super) struct Books {
    entries: Vec<Entry>,
    /// Numbers that are not in use.
    free: Vec<u32>,
    /// Numbers that are.
    lent: BTreeSet<u32>,
}

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

impl Books {
    pub(super) fn new(loans: u32) -> Self {
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

    /// Whether the loan is in the books, and not another one of its number.
    fn has(&self, name: LoanName) -> bool {
        self.get(name.number).is_some_and(|(_, serial)| serial == name.serial)
    }

    /// Takes out every batch whose loan is neither among these nor has one of these numbers, in the order of their numbers.
    pub(super) fn settle_all_but(&mut self, names: &[LoanName], numbers: &BTreeSet<u32>) -> Vec<AnyBatch> {
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

impl ProcessChannel {
    /// Whether batches can be posted here.
    ///
    /// # Errors
    /// [`Error::ForeignBatch`] when one does not lie in the arena of this channel, or was not lent by it; [`Error::InvalidArgument`] when
    /// there are too many, or when a part of one that goes back is still held.
    pub(crate) fn check_batches(&self, batches: &[AnyBatch]) -> Result<()> {
        if batches.len() > self.plan.loans {
            return Err(Error::invalid(format!(
                "a message to another process carries up to {} batches, not {}",
                self.plan.loans,
                batches.len()
            )));
        }
        for batch in batches {
            if !Arc::ptr_eq(batch.arena(), &self.arena) {
                return Err(Error::ForeignBatch);
            }
            if self.end == WORKER {
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
        let names = if self.end == WORKER { self.give_back(batches) } else { self.lend(batches)? };
        for pair in names.windows(2) {
            if let Some(record) = self.plan.loan(pair[0].number) {
                // Relaxed, as all that is written to records: the stamp of the message orders it.
                self.word(record + loan::NEXT).store(sealed_len(u64::from(pair[1].number)), Ordering::Relaxed);
            }
        }
        let first = names.first().map_or(0, |name| name.number);
        Some((loans_word(first, names.len() as u32), names))
    }

    fn lend(&self, batches: &mut Vec<AnyBatch>) -> Option<Vec<LoanName>> {
        let mut books = lock(&self.books);
        if books.free.len() < batches.len() {
            return None;
        }
        let mut names = Vec::with_capacity(batches.len());
        for batch in batches.drain(..) {
            // Checked before.
            let (handle, len_bytes) = batch.reference().unwrap_or((0, 0));
            let (state, tag) = (state_of(&batch), batch.tag());
            let Some(name) = books.enter(batch) else { continue };
            names.push(name);
            let Some(record) = self.plan.loan(name.number) else { continue };
            let write = |field: usize, value: u64| self.word(record + field).store(value, Ordering::Relaxed);
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
            if let Some(record) = self.plan.loan(number) {
                let len = sealed_len(batch.len_bytes() as u64);
                self.word(record + loan::LEN_BYTES).store(len, Ordering::Relaxed);
            }
            names.push(LoanName { number, serial });
        }
        names
    }

    /// The loans that a message names, with the lengths that their records say, each of them lent by this end.
    pub(super) fn loans_in(&self, word: u64) -> Result<Vec<(u32, u64)>, Damage> {
        let books = lock(&self.books);
        let (mut number, count) = loans_of(word);
        let damage = |what, word, expected, found| Damage { what, word, expected, found };
        if count == 0 || count as usize > self.plan.loans {
            return Err(damage("number of batches of a message", 0, self.plan.loans as u64, u64::from(count)));
        }
        let mut found: Vec<(u32, u64)> = Vec::with_capacity(count as usize);
        let mut seen = BTreeSet::new();
        for _ in 0..count {
            let entry = books.get(number).filter(|_| seen.insert(number));
            let (Some((batch, serial)), Some(record)) = (entry, self.plan.loan(number)) else {
                return Err(damage("batch of a message", 0, 0, u64::from(number)));
            };
            // Relaxed: the stamp of the message was acquired. Each word is read once.
            let read = |field: usize| self.word(record + field).load(Ordering::Relaxed);
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
    pub(super) fn take_back(&self, word: u64) -> Result<Vec<AnyBatch>> {
        let loans = self.loans_in(word).map_err(|damage| self.break_off(damage))?;
        let mut books = lock(&self.books);
        let taken = loans.into_iter().filter_map(|(number, len_bytes)| {
            let mut batch = books.settle(number)?;
            batch.shorten(len_bytes);
            Some(batch)
        });
        Ok(taken.collect())
    }

    /// Takes loans out of the books, those that are still there: of one that the worker says it has dropped, the number may name another
    /// one by now.
    pub(super) fn settle(&self, names: &[LoanName]) -> Vec<AnyBatch> {
        let mut books = lock(&self.books);
        let settle = |name: &LoanName| if books.has(*name) { books.settle(name.number) } else { None };
        names.iter().filter_map(settle).collect()
    }

    /// Batches that the worker had when its process ended: it had taken them and neither dropped nor posted them, or posted them behind
    /// damage, where they cannot be received. Nothing before that.
    pub(crate) fn reclaim(&self) -> Vec<AnyBatch> {
        if self.process_gone.load(Ordering::Acquire) == 0 || self.fork.is_forked_child() {
            return Vec::new();
        }
        self.notice_drops();
        let mut undelivered: Vec<LoanName> = Vec::new();
        {
            let outgoing = lock(&self.outgoing);
            let cells = self.cells(self.end);
            // One whose cell is damaged does not, as nobody knows what was posted.
            let comes_back = |position: u64| {
                !cells.was_taken(position)
                    && !outgoing.is_start(position)
                    && cells.read_again(position, &mut []).is_ok()
            };
            let not_taken = outgoing.lent.iter().filter(|(position, _)| comes_back(**position));
            undelivered.extend(not_taken.flat_map(|(_, names)| names));
        }
        let _taking = lock(&self.taking);
        let (cells, mut position) = (self.cells(self.other()), self.head.load(Ordering::Relaxed));
        let words = self.plan.message_words(self.other());
        let mut posted: BTreeSet<u32> = BTreeSet::new();
        // Up to the first message that nobody can receive, it or something before it being damaged: there the channel ends.
        let receivable = if self.damage.get().is_some() { 0 } else { self.plan.cells };
        for _ in 0..receivable {
            let mut message = [0; VALUE_WORDS_MAX + BATCHES_WORDS];
            let Ok(Some(has_batches)) = cells.read(position, &mut message[..words]) else { break };
            if has_batches {
                let Ok(loans) = self.loans_in(message[words - BATCHES_WORDS]) else { break };
                if loans.iter().any(|(number, _)| posted.contains(number)) {
                    break;
                }
                posted.extend(loans.into_iter().map(|(number, _)| number));
            }
            position = Cells::next(position);
        }
        lock(&self.books).settle_all_but(&undelivered, &posted)
    }

    /// Lets go of the batches that the worker has dropped since this was done last.
    #[inline]
    pub(super) fn notice_drops(&self) {
        if self.end == WORKER {
            return;
        }
        // Acquire: pairs with the release in `dropped`, with which the states come.
        let dropped = self.word(at::DROPPED).load(Ordering::Acquire);
        if dropped != self.dropped.load(Ordering::Relaxed) {
            self.dropped.store(dropped, Ordering::Relaxed);
            self.let_go();
        }
    }

    #[cold]
    fn let_go(&self) {
        let mut books = lock(&self.books);
        let is_dropped = |number: &u32| {
            let record = self.plan.loan(*number)?;
            let (_, serial) = books.get(*number)?;
            // Acquire: the worker's last access comes before the memory is used again.
            let state = self.word(record + loan::STATE).load(Ordering::Acquire);
            (state == LoanWord::new(serial, LoanWord::DROPPED).bits()).then_some(*number)
        };
        let numbers: Vec<u32> = books.lent.iter().filter_map(is_dropped).collect();
        for number in numbers {
            drop(books.settle(number));
        }
    }

    /// The batches of a message, in the worker.
    pub(super) fn borrow(self: &Arc<Self>, word: u64) -> Result<Vec<AnyBatch>> {
        let (mut number, count) = loans_of(word);
        let lender: Arc<dyn Lender> = Arc::clone(self) as Arc<dyn Lender>;
        let mut batches: Vec<AnyBatch> = Vec::new();
        for _ in 0..count.min(self.plan.loans as u32) {
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
    fn accept(&self, lender: &Arc<dyn Lender>, number: u32) -> Result<(AnyBatch, u32)> {
        let damage = |what, word, expected, found| Damage { what, word, expected, found };
        let record = self.plan.loan(number).ok_or_else(|| {
            self.break_off(damage("batch of a message", 0, self.plan.loans as u64, u64::from(number)))
        })?;
        // Relaxed: the stamp of the message was acquired. Each word is read once.
        let read = |field: usize| self.word(record + field).load(Ordering::Relaxed);
        let state = LoanWord::from_bits(read(loan::STATE));
        let writable = match state.state() {
            LoanWord::LENT_TO_WRITE => true,
            LoanWord::LENT_TO_READ => false,
            _ => return Err(self.break_off(damage("state of a loan", record, 0, state.bits()))),
        };
        let (handle, element) = (read(loan::HANDLE), read(loan::ELEMENT));
        let (check, expected) = (read(loan::CHECK), loan::check(state.bits(), handle, element));
        if check != expected {
            return Err(self.break_off(damage("record of a loan", record + loan::CHECK, expected, check)));
        }
        let len = read(loan::LEN_BYTES);
        let Some(len_bytes) = opened_len(len) else {
            return Err(self.break_off(damage("length of a loan", record + loan::LEN_BYTES, 0, len)));
        };
        let terms = LoanTerms { number, serial: state.serial(), handle, len_bytes, writable };
        let batch = AnyBatch::lent(Loan::accept(&self.arena, lender, terms)?, element);
        Ok((batch, next_of(read(loan::NEXT))))
    }
}

impl Lender for ProcessChannel {
    fn dropped(&self, number: u32, serial: u32) {
        // A forked child has a copy of the batch, and its parent's segment.
        if self.fork.is_forked_child() {
            return;
        }
        let Some(record) = self.plan.loan(number) else { return };
        let state = self.word(record + loan::STATE);
        // Release: pairs with the acquire in `let_go`. Only if it is this loan: the other end may have broken off and begun anew.
        for lent in [LoanWord::LENT_TO_WRITE, LoanWord::LENT_TO_READ] {
            let (lent, dropped) = (LoanWord::new(serial, lent), LoanWord::new(serial, LoanWord::DROPPED));
            if state.compare_exchange(lent.bits(), dropped.bits(), Ordering::Release, Ordering::Relaxed).is_ok() {
                fault::point(Point::F53_loan_dropped);
                self.word(at::DROPPED).fetch_add(1, Ordering::Release);
                // Who waits for room may wait for a number.
                self.bell(self.end ^ 1).ring(bell::ROOM);
                return;
            }
        }
    }
}
