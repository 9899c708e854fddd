//! References to the engine that lie in free descriptors, so that a job's handle counts none.
//!
//! Laws of this file:
//! 1. A reference lies only in the slot of a descriptor that is free, of a private table, and belongs to the thread that takes the descriptor's
//!    index off the list, or closes the list with it in it.
//! 2. A thread that returns an index touches nothing of the engine once it is returned: the engine may be gone by then.
#![allow(unsafe_code)]

use std::sync::Arc;

use crate::engine::job::LocalSlot;
use crate::engine::runtime::core::Core;
use crate::ids::DescriptorIndex;

/// A reference to the engine, for the handle of a job that the caller has reserved a descriptor for.
#[inline]
pub(crate) fn take(core: &Arc<Core>, index: DescriptorIndex) -> Arc<Core> {
    let left = core.jobs.slot(index).and_then(LocalSlot::take_engine_ref);
    left.unwrap_or_else(|| Arc::clone(core))
}

/// Returns the index of a job that its holder has read, and leaves the holder's reference to the engine in the slot for the next one.
/// Where that cannot be, the reference comes back, and the descriptor is still the caller's.
#[inline]
pub(in crate::engine) fn give_back(core: Arc<Core>, index: DescriptorIndex) -> Option<Arc<Core>> {
    if !core.jobs.slot(index).is_some_and(LocalSlot::is_private) {
        return Some(core);
    }
    let engine = Arc::into_raw(core);
    // SAFETY: the reference that was counted for `engine` is in the slot, which is private (just checked), and only the thread that has
    // the index takes it out again (law 1): this one, or after `return_quietly` another one. The engine may be gone before that call has
    // returned; it touches nothing of it after the exchange that returns the index (law 2).
    unsafe {
        let slot = (*engine).jobs.slot(index);
        if let Some(slot) = slot {
            slot.leave_engine_ref(Arc::from_raw(engine));
        }
        if (*engine).jobs.return_quietly(index) { None } else { slot.and_then(LocalSlot::take_engine_ref) }
    }
}
