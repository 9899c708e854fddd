//! The segment of a channel between two processes, as one end sees it: its words, its lanes, its doorbells.

use std::sync::Arc;

use crate::arena::shared::SharedSegment;
use crate::channel::types::For;
use crate::error::Error;
use crate::layout::channel::{ChannelPlan, at};
use crate::lockfree::doorbell::{Doorbell, bell};
use crate::lockfree::spsc::Cells;
use crate::os::futex::Scope;
use crate::sync::{AtomicU32, AtomicU64};

/// The end of the process that made the channel.
pub(crate) const ENGINE: usize = 0;
/// The end of the worker process.
pub(crate) const WORKER: usize = 1;

/// A value that no end that keeps to the protocol writes where it was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damage {
    pub(super) what: &'static str,
    /// Which word of the segment.
    pub(super) word: usize,
    pub(super) expected: u64,
    pub(super) found: u64,
}

impl Damage {
    pub(super) fn error(self) -> Error {
        let Self { what, word, expected, found } = self;
        Error::Corrupt { what, offset: SharedSegment::offset_of(word), expected, found }
    }
}

/// The bit by which an end says what it waits for.
pub(super) fn bit(what: For) -> u32 {
    match what {
        For::Message => bell::MESSAGE,
        For::Room => bell::ROOM,
    }
}

/// A segment, where everything lies in it, and which end of it this is.
#[derive(Clone)]
pub(super) struct ChannelMemory {
    pub(super) segment: Arc<SharedSegment>,
    pub(super) plan: ChannelPlan,
    pub(super) end: usize,
}

impl ChannelMemory {
    /// One word of the segment, which the plan has.
    #[inline]
    pub(super) fn word(&self, at: usize) -> &AtomicU64 {
        &self.segment.words()[at]
    }

    /// The lane that leads away from an end has its number.
    #[inline]
    pub(super) fn cells(&self, lane: usize) -> Cells<'_> {
        let lane = lane & 1;
        let words = &self.segment.words::<AtomicU64>()[self.plan.lanes[lane].clone()];
        Cells::new(words, self.plan.cells, self.plan.message_words(lane))
    }

    /// The doorbell of an end.
    #[inline]
    pub(super) fn bell(&self, end: usize) -> Doorbell<'_> {
        Doorbell::new(&self.segment.sequences_as::<AtomicU32>()[at::BELLS[end & 1]], Scope::Shared)
    }

    /// The number of the other end.
    #[inline]
    pub(super) fn other(&self) -> usize {
        self.end ^ 1
    }

    /// Where an end says how many messages it posted, and behind it how many it took. Hints for the other one.
    pub(super) fn counts(end: usize) -> usize {
        if end == ENGINE { at::ENGINE_COUNTS } else { at::WORKER_COUNTS }
    }
}
