//! What a fuzz target's bytes say: which words of the two segments are changed, how, and when.

use std::fs::File;
use std::os::unix::fs::FileExt;

use self::Meaning::{Handle, Number, State};
use crate::layout::geometry::{Geometry, PRIORITIES};

/// Bytes of one patch.
const PATCH_LEN: usize = 12;
/// Patches that are made at most.
const PATCHES_MAX: usize = 24;

/// The front of an input is read byte by byte, zero beyond its end; the rest are patches.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// The patches of the rest.
    pub(super) fn patches(&self) -> Vec<Patch> {
        self.0.chunks_exact(PATCH_LEN).take(PATCHES_MAX).filter_map(Patch::read).collect()
    }
}

/// How a word is changed.
#[derive(Clone, Copy, Debug)]
enum Change {
    Store,
    Xor,
    Add,
    /// Stores one of the values that mean something in that word, plus a little.
    Meaningful,
}

/// One word that is changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patch {
    pub(super) place: u8,
    /// Which record of a table, and which field of it.
    pub(super) record: u8,
    pub(super) field: u8,
    /// Before everything, or before so many loads of the code that reads.
    pub(super) when: u8,
    change: Change,
    value: u64,
}

impl Patch {
    fn read(bytes: &[u8]) -> Option<Self> {
        let &[place, record, field, when, ref value @ ..] = bytes else { return None };
        let change = match place >> 4 {
            0..4 => Change::Store,
            4..8 => Change::Xor,
            8..12 => Change::Add,
            _ => Change::Meaningful,
        };
        let value = u64::from_le_bytes(value.try_into().ok()?);
        Some(Self { place: place & 0xF, record, field, when, change, value })
    }

    /// What it makes of a word, in which these values mean something.
    pub(super) fn change(&self, before: u64, values: &[u64]) -> u64 {
        match self.change {
            Change::Store => self.value,
            Change::Xor => before ^ self.value,
            Change::Add => before.wrapping_add(self.value),
            Change::Meaningful => {
                let [which, delta, ..] = self.value.to_le_bytes();
                let base = values.get(usize::from(which) % values.len().max(1)).copied().unwrap_or(0);
                base.wrapping_add_signed(i64::from(delta.cast_signed()))
            }
        }
    }

    /// Whether checks over what it writes are made anew, so that what lies behind them is read, too. Bits that are flipped are left to the
    /// checks.
    pub(super) fn fits_checks(&self) -> bool {
        !matches!(self.change, Change::Xor)
    }

    /// Whether it changes the word that decides about a job. A job's holder waits for its worker when that word says so.
    pub(super) fn hits_a_descriptor_word(&self) -> bool {
        matches!(self.place, 0 | 1) && self.field.is_multiple_of(16) || self.place >= 10
    }
}

/// What a word says: which values mean something in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    /// Where something lies.
    Handle,
    /// A length, a count, an index.
    Number,
    /// The state of a job.
    State,
}

/// Offset, width in bytes and meaning of a word.
type Word = (u64, usize, Meaning);

/// The fields of `Descriptor`, without its batches.
const DESCRIPTOR: [Word; 16] = [
    (0, 8, State),
    (8, 4, Number),
    (12, 4, Number),
    (16, 4, Number),
    (20, 4, Number),
    (24, 8, Number),
    (32, 8, Handle),
    (40, 8, Handle),
    (48, 8, Number),
    (56, 8, Number),
    (64, 8, Number),
    (72, 4, Number),
    (76, 4, Number),
    (80, 8, Handle),
    (88, 4, Number),
    (92, 4, Number),
];
/// Those of `FanOutHeader`.
const FAN_OUT: [Word; 10] = [
    (0, 4, Number),
    (4, 4, Number),
    (8, 8, Number),
    (16, 8, Number),
    (24, 4, Number),
    (28, 4, Number),
    (32, 8, Handle),
    (40, 8, Handle),
    (48, 8, Number),
    (56, 8, Number),
];

/// Both segments, as a process with their descriptors can write them, and what lies where.
pub(super) struct Ground {
    pub(super) control: File,
    pub(super) arena: File,
    pub(super) geometry: Geometry,
    pub(super) arena_len: u64,
    pub(super) jobs: Vec<PublishedJob>,
    /// Values that mean something, by meaning.
    pub(super) handles: Vec<u64>,
    pub(super) numbers: Vec<u64>,
    pub(super) states: Vec<u64>,
}

/// A published job that is to be damaged.
pub(super) struct PublishedJob {
    /// Index of its descriptor.
    pub(super) index: u32,
    pub(super) batches: u64,
    /// Handle of its fan-out block, or 0.
    pub(super) block: u64,
}

impl Ground {
    /// The word that a patch changes.
    fn locate(&self, patch: &Patch) -> (&File, Word) {
        let Patch { record, field, .. } = *patch;
        let PublishedJob { index, batches, block } = self.jobs[usize::from(record) % self.jobs.len()];
        let geometry = &self.geometry;
        // The second number of a table's place means any descriptor, also a free one.
        let index = if patch.place == 1 { u64::from(record) % geometry.descriptors.count } else { u64::from(index) };
        let control = |offset: u64, width| (&self.control, (offset, width, Number));
        let meaning = |(file, (offset, width, _)), meaning| (file, (offset, width, meaning));
        match patch.place {
            0 | 1 => {
                let (offset, width, says) = DESCRIPTOR[usize::from(field) % DESCRIPTOR.len()];
                meaning(control(geometry.descriptors.offset + index * 128 + offset, width), says)
            }
            2 | 3 => {
                // Handle or length of one of the job's batches.
                let at = u64::from(field / 2) % batches.max(1);
                let offset = match at.checked_sub(2) {
                    None => geometry.descriptors.offset + index * 128 + 96 + at * 16,
                    Some(further) => geometry.arguments.offset + index * 192 + further * 16,
                };
                if field.is_multiple_of(2) { meaning(control(offset, 8), Handle) } else { control(offset + 8, 8) }
            }
            4 => {
                let (offset, width, says) = FAN_OUT[usize::from(field) % FAN_OUT.len()];
                (&self.arena, (block + offset, width, says))
            }
            5 => (&self.arena, (block + 64 + u64::from(field / 3 % 4) * 64 + u64::from(field % 3) * 8, 8, Number)),
            6 => {
                let priority = usize::from(record) % PRIORITIES;
                match field {
                    0 => control(geometry.ring_headers.offset + priority as u64 * 256, 8),
                    1 => control(geometry.ring_headers.offset + priority as u64 * 256 + 128, 8),
                    cell => {
                        let span = geometry.ring_cells[priority];
                        control(span.offset + u64::from(cell - 2) % span.count * 8, 8)
                    }
                }
            }
            7 => match field % 4 {
                0 => control(geometry.engine.offset + u64::from(record % 6) * 4, 4),
                1 => control(geometry.redelivery_bits.offset, 8),
                2 => control(geometry.port_bits.offset + u64::from(record % 64) * 8, 8),
                _ => control(geometry.ports.offset + u64::from(record % 64) * 64, 4),
            },
            // Output lengths and failure texts.
            8 => match field % 2 {
                0 => control(geometry.arguments.offset + index * 192 + 160 + u64::from(field / 2 % 4) * 8, 8),
                _ => control(geometry.failures.offset + index * 512 + u64::from(field / 2) * 4, 4),
            },
            // The record of the mapped file, in the table at the end of the arena.
            9 => (&self.arena, (self.arena_len - (16 << 10) + u64::from(field % 4) * 8, 8, Number)),
            10..13 => control(u64::from(record) << 10 | u64::from(field) << 2, 4),
            _ => (&self.arena, (u64::from(record) << 10 | u64::from(field) << 2, 4, Number)),
        }
    }

    /// Makes a change. Words outside the segments are left alone: writing there would make them longer.
    pub(super) fn apply(&self, patch: &Patch) {
        let (file, (offset, width, meaning)) = self.locate(patch);
        let len = if core::ptr::eq(file, &self.arena) { self.arena_len } else { self.geometry.total_len };
        if offset + width as u64 > len {
            return;
        }
        let mut bytes = [0; 8];
        if file.read_exact_at(&mut bytes[..width], offset).is_err() {
            return;
        }
        let before = u64::from_le_bytes(bytes);
        let values = match meaning {
            Handle => &self.handles,
            Number => &self.numbers,
            State => &self.states,
        };
        let after = patch.change(before, values);
        let _ = file.write_all_at(&after.to_le_bytes()[..width], offset);
    }
}
