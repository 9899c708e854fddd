//! The word of a job, as its handles and observers read it.

use crate::engine::job::JobReference;
use crate::engine::runtime::Core;
use crate::layout::words::{DescriptorWord, State};
use crate::lockfree::job;

/// The word of a job's descriptor.
#[inline]
pub(super) fn word_of(core: &Core, reference: JobReference) -> DescriptorWord {
    match core.control.descriptor(reference.index) {
        Some(descriptor) => job::snapshot(&descriptor.word),
        None => DescriptorWord::from_bits(0).with_state(State::Done),
    }
}
