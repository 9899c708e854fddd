//! What a thread is at, announced in a word of its own before it claims a job (`docs/protocol.md`, "Breaking off").
//!
//! ```text
//! thread                                    asker for what the job works on
//!   announce the job                          the engine is broken
//!   fence(SeqCst)             F1              fence(SeqCst)             F2
//!   the engine is not broken: claim, run      no thread announces the job: take it
//!   take the announcement back
//! ```
//!
//! The fences are totally ordered. If F1 comes first, the asker sees the announcement and waits until it is taken back. If F2 comes
//! first, the thread sees that the engine is broken and leaves the job alone. Without either fence both may read the old state.
//!
//! Where a job's word cannot be forged into one that can be claimed, only damaged, the thread needs no fence: every claim precedes the
//! damage, and is a release; a thread that has read the damaged word, with acquire, sees the announcement that preceded the claim.

use crate::ids::DescriptorIndex;
use crate::sync::{AtomicU32, Ordering, fence};

/// The word of a thread that is at nothing; no descriptor has this index.
pub(crate) const NOTHING: u32 = u32::MAX;

/// The calling thread, whose word this is, is about to claim a job.
#[inline]
pub(crate) fn announce(word: &AtomicU32, index: DescriptorIndex) {
    // Relaxed: published by the claim, or by the fence in `may_claim`.
    word.store(index.get(), Ordering::Relaxed);
}

/// Whether the job that was announced may be claimed.
#[inline]
pub(crate) fn may_claim(is_poisoned: impl FnOnce() -> bool) -> bool {
    // SeqCst fence F1, see the head of this file.
    fence(Ordering::SeqCst);
    !is_poisoned()
}

/// The calling thread is at nothing any more.
#[inline]
pub(crate) fn take_back(word: &AtomicU32) {
    // Release: pairs with the acquire in `is_at`; a thread that finds nothing announced sees all that the thread did at the job. If the
    // asker's load comes first it finds the announcement, and asks again.
    word.store(NOTHING, Ordering::Release);
}

/// Comes between seeing that the engine is broken and asking whether a thread is at a job.
pub(crate) fn before_asking() {
    // SeqCst fence F2, see the head of this file.
    fence(Ordering::SeqCst);
}

/// Whether a thread may be at a job.
pub(crate) fn is_at(word: &AtomicU32, index: DescriptorIndex) -> bool {
    word.load(Ordering::Acquire) == index.get()
}
