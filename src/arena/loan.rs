//! Batches of another process that are in the hands of this one for a while.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::{Access, Arena};
use crate::error::Result;

/// The end that a loan goes back to. Called once for each, from a destructor: it must not block.
pub(crate) trait Lender: Send + Sync {
    /// The borrower has dropped the loan and everything that was made of it.
    fn dropped(&self, number: u32, serial: u32);
}

/// What names a loan, and the memory it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LoanTerms {
    /// Its place in the lender's loan table, and which loan of that place it is.
    pub(crate) number: u32,
    pub(crate) serial: u32,
    pub(crate) handle: u64,
    pub(crate) len_bytes: u64,
    pub(crate) writable: bool,
}

/// Bytes that another process keeps out of its own hands while this lives.
pub(crate) struct Loan {
    arena: Arc<Arena>,
    lender: Arc<dyn Lender>,
    terms: LoanTerms,
    /// Address of the first byte in this process.
    start: usize,
    /// Whether the lender knows already that the loan is over.
    settled: AtomicBool,
}

impl Loan {
    /// Finds the bytes of a loan in the arena of the lender, as this process maps it.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when they do not lie there; those of fetching a mapped file. There is no loan then that
    /// would have to go back.
    pub(crate) fn accept(arena: &Arc<Arena>, lender: &Arc<dyn Lender>, terms: LoanTerms) -> Result<Self> {
        let access = if terms.writable { Access::Write } else { Access::Read };
        let start = arena.resolve_for(terms.handle, terms.len_bytes, access)?;
        Ok(Self {
            arena: Arc::clone(arena),
            lender: Arc::clone(lender),
            terms,
            start: start.as_ptr().expose_provenance(),
            settled: AtomicBool::new(false),
        })
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Where the bytes lie, and how many there are.
    pub(super) fn bytes(&self) -> (NonNull<u8>, usize) {
        let start = core::ptr::with_exposed_provenance_mut(self.start);
        // What was resolved has an address, and fits the address space.
        (NonNull::new(start).unwrap_or(NonNull::dangling()), self.terms.len_bytes as usize)
    }

    /// Whether the borrower may write.
    pub(crate) fn is_writable(&self) -> bool {
        self.terms.writable
    }

    /// What names it.
    pub(crate) fn terms(&self) -> LoanTerms {
        self.terms
    }

    /// Whether it is of this lender.
    pub(crate) fn is_of(&self, lender: *const ()) -> bool {
        core::ptr::eq(Arc::as_ptr(&self.lender).cast(), lender)
    }

    /// Says that the lender learns of the end in another way than by the drop.
    pub(crate) fn settle(&self) {
        // Relaxed: the destructor has the loan to itself, and the thread that runs it was handed the loan.
        self.settled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if !*self.settled.get_mut() {
            self.lender.dropped(self.terms.number, self.terms.serial);
        }
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").field("terms", &self.terms).finish_non_exhaustive()
    }
}
