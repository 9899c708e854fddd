//! Hints to the processor about lines that will be touched soon: it fetches several at a time, where a queue's own accesses wait for one after
//! the other.
//!
//! Laws of this file:
//! 1. A hint reads and writes nothing that the program could see, whatever the address, and changes no register.
//! 2. Every x86-64 processor decodes it; one that does not know it does nothing.

#![allow(unsafe_code)]

use crate::sync::AtomicU64;

/// A line that will be written: others lose it.
#[inline]
pub(crate) fn for_writing(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(workring_loom)))]
    // SAFETY: laws 1 and 2. The intrinsic for it becomes a hint to read where the target's baseline does not say that there is this one.
    unsafe {
        core::arch::asm!(
            "prefetchw [{}]",
            in(reg) core::ptr::from_ref(word),
            options(readonly, nostack, preserves_flags)
        );
    }
    let _ = word;
}

/// A line that will be read.
#[inline]
pub(crate) fn for_reading(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(workring_loom)))]
    // SAFETY: laws 1 and 2.
    unsafe {
        core::arch::asm!(
            "prefetcht0 [{}]",
            in(reg) core::ptr::from_ref(word),
            options(readonly, nostack, preserves_flags)
        );
    }
    let _ = word;
}
