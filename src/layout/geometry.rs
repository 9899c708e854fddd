//! How the control segment is cut up: every offset computed once, in checked arithmetic, from a few limits.
//!
//! A participant never follows an offset it finds in the mapping, nor believes a limit that stands there: it is told the limits by the
//! process that made the segment, computes the same geometry itself and holds it against the length of the memory.

use core::mem::size_of;

use super::records::{
    Arguments, Descriptor, EngineLine, FailureText, FanOutHeader, IdleLine, JobMeta, MAX_PARTICIPANTS, MAX_SEGMENTS,
    MAX_SHARED, Participant, Port, RangeLine, RingHeader, Segment, SharedHeader, Timing,
};
use crate::error::{Error, Result};

/// First eight bytes of every control segment.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"workring");
/// Written as a native integer: a reader with the other byte order sees it reversed.
pub(crate) const ENDIAN_TAG: u32 = 0x0102_0304;
/// Increased by every change of the layout.
pub(crate) const LAYOUT_VERSION: u32 = 8;
/// Number of priorities, each with a ring of its own.
pub(crate) const PRIORITIES: usize = 3;
/// Completion ports in the table.
pub(crate) const PORTS: usize = 64;
/// The port to which worker processes report what only the host process can serve: wakers and detached jobs.
pub(crate) const COLLECTOR_PORT: u32 = PORTS as u32 - 1;
/// The most descriptors an engine may have.
pub(crate) const MAX_DESCRIPTORS: u32 = 1 << 20;
/// The fewest descriptors: one word of every bitmap.
pub(crate) const MIN_DESCRIPTORS: u32 = 64;
/// Bytes of the header.
pub(crate) const HEADER_LEN: u64 = 4096;

/// The first page of the control segment, written once before anybody else can see it. It says what the memory is to people and tools that
/// find it; participants know from the process that made it, and none reads this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: u64,
    pub(crate) endian_tag: u32,
    pub(crate) layout_version: u32,
    /// Fingerprint of every record size and offset and of the two limits below: see [`stamp`].
    pub(crate) layout_hash: u64,
    /// Bytes of the whole segment.
    pub(crate) total_len: u64,
    pub(crate) descriptors: u32,
    pub(crate) participants: u32,
    pub(crate) creator_pid: u32,
    pub(crate) zero: u32,
}

const _: () = assert!(size_of::<Header>() == 48);

/// Where one table lies in the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    /// First byte.
    pub(crate) offset: u64,
    /// Number of entries.
    pub(crate) count: u64,
}

/// Where everything lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    pub(crate) descriptor_count: u32,
    pub(crate) participant_count: u32,
    pub(crate) participants: Span,
    pub(crate) engine: Span,
    pub(crate) idle: Span,
    pub(crate) ring_headers: Span,
    pub(crate) ring_cells: [Span; PRIORITIES],
    pub(crate) descriptors: Span,
    pub(crate) arguments: Span,
    pub(crate) job_metas: Span,
    pub(crate) failures: Span,
    pub(crate) ports: Span,
    /// Bitmaps of the ports, one after the other.
    pub(crate) port_bits: Span,
    pub(crate) redelivery_bits: Span,
    pub(crate) timings: Span,
    pub(crate) total_len: u64,
}

struct Cursor(u64);

impl Cursor {
    /// Reserves `count` entries of `size` bytes on a boundary of 128 bytes.
    fn take(&mut self, count: u64, size: usize) -> Option<Span> {
        let offset = self.0.checked_next_multiple_of(128)?;
        self.0 = offset.checked_add(count.checked_mul(size as u64)?)?;
        Some(Span { offset, count })
    }
}

impl Geometry {
    /// Cuts up a segment for `descriptors` jobs and `participants` rows.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when a limit is out of range: descriptors a power of two in `64..=2^20`, participants in
    /// `1..=256`.
    pub(crate) fn plan(descriptors: u32, participants: u32) -> Result<Self> {
        if !descriptors.is_power_of_two() || !(MIN_DESCRIPTORS..=MAX_DESCRIPTORS).contains(&descriptors) {
            return Err(Error::invalid(format!(
                "the queue capacity must be a power of two from {MIN_DESCRIPTORS} to {MAX_DESCRIPTORS}, not {descriptors}"
            )));
        }
        if participants == 0 || participants as usize > MAX_PARTICIPANTS {
            return Err(Error::invalid(format!(
                "an engine has 1 to {MAX_PARTICIPANTS} participants, not {participants}"
            )));
        }
        Self::cut(descriptors, participants)
            .ok_or_else(|| Error::invalid("the control segment would not fit into 64 bits"))
    }

    fn cut(descriptors: u32, participants: u32) -> Option<Self> {
        let jobs = u64::from(descriptors);
        let mut cursor = Cursor(HEADER_LEN);
        let participants_span = cursor.take(u64::from(participants), size_of::<Participant>())?;
        let engine = cursor.take(1, size_of::<EngineLine>())?;
        let idle = cursor.take(1, size_of::<IdleLine>())?;
        let ring_headers = cursor.take(PRIORITIES as u64, size_of::<RingHeader>())?;
        // Twice as many cells as descriptors: a cancelled or helped job leaves its cell behind until a worker passes it.
        let mut ring_cells = [Span { offset: 0, count: 0 }; PRIORITIES];
        for span in &mut ring_cells {
            *span = cursor.take(jobs.checked_mul(2)?, 8)?;
        }
        let descriptors_span = cursor.take(jobs, size_of::<Descriptor>())?;
        let arguments = cursor.take(jobs, size_of::<Arguments>())?;
        let job_metas = cursor.take(jobs, size_of::<JobMeta>())?;
        let failures = cursor.take(jobs, size_of::<FailureText>())?;
        let ports = cursor.take(PORTS as u64, size_of::<Port>())?;
        let port_bits = cursor.take(PORTS as u64 * (jobs / 64), 8)?;
        let redelivery_bits = cursor.take(jobs / 64, 8)?;
        let timings = cursor.take(u64::from(participants), size_of::<Timing>())?;

        Some(Self {
            descriptor_count: descriptors,
            participant_count: participants,
            participants: participants_span,
            engine,
            idle,
            ring_headers,
            ring_cells,
            descriptors: descriptors_span,
            arguments,
            job_metas,
            failures,
            ports,
            port_bits,
            redelivery_bits,
            timings,
            total_len: cursor.0.checked_next_multiple_of(4096)?,
        })
    }

    /// The header that describes this geometry.
    pub(crate) fn header(&self, creator_pid: u32) -> Header {
        Header {
            magic: MAGIC,
            endian_tag: ENDIAN_TAG,
            layout_version: LAYOUT_VERSION,
            layout_hash: stamp(self.descriptor_count, self.participant_count),
            total_len: self.total_len,
            descriptors: self.descriptor_count,
            participants: self.participant_count,
            creator_pid,
            zero: 0,
        }
    }
}

/// Folds every size and offset that two builds must agree on into one number (FNV-1a over the values).
pub(crate) const LAYOUT_HASH: u64 = {
    use core::mem::offset_of;
    let facts = [
        size_of::<Header>(),
        size_of::<Participant>(),
        offset_of!(Participant, park),
        size_of::<EngineLine>(),
        offset_of!(EngineLine, redelivery),
        size_of::<IdleLine>(),
        offset_of!(IdleLine, searching),
        size_of::<RingHeader>(),
        offset_of!(RingHeader, tail),
        size_of::<Descriptor>(),
        offset_of!(Descriptor, wait),
        offset_of!(Descriptor, param),
        offset_of!(Descriptor, kernel),
        offset_of!(Descriptor, fan_out),
        offset_of!(Descriptor, batches),
        offset_of!(Descriptor, status),
        offset_of!(Descriptor, epoch),
        size_of::<Arguments>(),
        size_of::<JobMeta>(),
        offset_of!(JobMeta, progress_of),
        size_of::<Timing>(),
        size_of::<FailureText>(),
        size_of::<Port>(),
        size_of::<Segment>(),
        size_of::<FanOutHeader>(),
        size_of::<RangeLine>(),
        offset_of!(RangeLine, progress),
        PRIORITIES,
        PORTS,
        MAX_SEGMENTS,
        size_of::<SharedHeader>(),
        offset_of!(SharedHeader, len),
        MAX_SHARED,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < facts.len() {
        hash = fold(hash, facts[at] as u64);
        at += 1;
    }
    hash
};

/// One step of FNV-1a over whole values. For a given hash it maps different values to different hashes.
const fn fold(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0100_0000_01b3)
}

/// The layout hash of a segment with these limits.
const fn stamp(descriptors: u32, participants: u32) -> u64 {
    fold(fold(LAYOUT_HASH, descriptors as u64), participants as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spans(geometry: &Geometry) -> Vec<(u64, u64)> {
        let jobs = u64::from(geometry.descriptor_count);
        let mut all = vec![
            (0, HEADER_LEN),
            (geometry.participants.offset, geometry.participants.count * 128),
            (geometry.engine.offset, 64),
            (geometry.idle.offset, 64),
            (geometry.ring_headers.offset, PRIORITIES as u64 * 256),
            (geometry.descriptors.offset, jobs * 128),
            (geometry.arguments.offset, jobs * 192),
            (geometry.job_metas.offset, jobs * 64),
            (geometry.timings.offset, geometry.timings.count * 5248),
            (geometry.failures.offset, jobs * 512),
            (geometry.ports.offset, PORTS as u64 * 64),
            (geometry.port_bits.offset, geometry.port_bits.count * 8),
            (geometry.redelivery_bits.offset, geometry.redelivery_bits.count * 8),
        ];
        all.extend(geometry.ring_cells.iter().map(|span| (span.offset, span.count * 8)));
        all.sort_unstable();
        all
    }

    proptest! {
        #[test]
        fn tables_never_overlap_and_fit(exponent in 6u32..=20, participants in 1u32..=256) {
            let geometry = Geometry::plan(1 << exponent, participants).unwrap();
            let all = spans(&geometry);
            for pair in all.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0);
            }
            let last = all[all.len() - 1];
            prop_assert!(last.0 + last.1 <= geometry.total_len);
            prop_assert_eq!(geometry.header(1).total_len, geometry.total_len);
        }
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        for (descriptors, participants) in [(0, 1), (63, 1), (65, 1), (1 << 21, 1), (64, 0), (64, 257)] {
            assert!(matches!(Geometry::plan(descriptors, participants), Err(Error::InvalidArgument { .. })));
        }
    }
}
