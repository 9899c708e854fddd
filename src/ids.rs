//! Integers that cross modules, each with a type of its own.

use core::fmt;

/// Position of a job descriptor in the descriptor table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DescriptorIndex(u32);

impl DescriptorIndex {
    /// The descriptor at `index`; whether it lies inside the table is checked where it is used.
    pub(crate) const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The position as a plain number.
    pub(crate) const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for DescriptorIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor {}", self.0)
    }
}

/// The holder of a claim: the row of a participant in the participant table. Row 0 is the process that built the engine,
/// whose waiting threads claim jobs under it; workers have the rows from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ParticipantSlot(u16);

impl ParticipantSlot {
    /// The process that built the engine.
    pub(crate) const HOST: Self = Self(0);

    /// Row `slot`; at most 12 bits fit into a descriptor word.
    pub(crate) const fn new(slot: u16) -> Self {
        assert!(slot < 1 << 12);
        Self(slot)
    }

    /// The row as a plain number.
    pub(crate) const fn get(self) -> u16 {
        self.0
    }
}

/// Consecutive rows of one process: one for each job that it runs at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ParticipantSlots {
    first: ParticipantSlot,
    count: u16,
}

impl ParticipantSlots {
    /// `count` rows from `first` on.
    pub(crate) const fn new(first: ParticipantSlot, count: u16) -> Self {
        // The last one is a row as well.
        assert!(count > 0 && count <= (1 << 12) - first.get());
        Self { first, count }
    }

    /// The first of them, after which the process is named.
    pub(crate) const fn first(self) -> ParticipantSlot {
        self.first
    }

    /// How many there are.
    pub(crate) const fn len(self) -> u16 {
        self.count
    }

    /// Whether a row is one of them.
    pub(crate) const fn contains(self, slot: ParticipantSlot) -> bool {
        slot.get().wrapping_sub(self.first.get()) < self.count
    }

    /// Each of them.
    pub(crate) fn iter(self) -> impl Iterator<Item = ParticipantSlot> + use<> {
        let first = self.first.get();
        (first..first + self.count).map(ParticipantSlot::new)
    }
}
