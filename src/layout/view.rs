//! The only place where bytes of the control segment become references.
//!
//! Laws of this file:
//! 1. A reference is made only to a record type of `records.rs`: those consist of atomics alone, so that any bit pattern is a
//!    value and concurrent writes by anybody are not data races.
//! 2. Offsets come from a private [`Geometry`] that was planned and held against the mapped length, never from the mapping.
//! 3. A reference never outlives the [`Control`] that owns the mapping.
//! 4. The header is written before the segment is shared, and never read.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use super::geometry::{Geometry, Header, PORTS, PRIORITIES, Span};
use super::records::{
    Arguments, Descriptor, EngineLine, FailureText, IdleLine, JobMeta, Participant, Port, RingHeader, Timing,
};
use crate::error::{Error, Result};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::os::map::Mapping;
use crate::sync::AtomicU64;

/// A table of records inside the mapping.
struct Table<T> {
    base: NonNull<T>,
    len: usize,
}

impl<T> Table<T> {
    /// Points at `span` of `mapping`.
    ///
    /// # Safety
    /// `span` must be one of the spans of a geometry whose total length is at most the mapping's, and hold records of type `T`.
    unsafe fn new(mapping: &Mapping, span: Span) -> Self {
        // SAFETY: the span lies inside the mapping by the caller's promise, so the offset stays in the same object.
        let base = unsafe { mapping.base().add(span.offset as usize) }.cast::<T>();
        debug_assert!(base.is_aligned());
        Self { base, len: span.count as usize }
    }
}

/// The control segment, mapped and cut up.
pub(crate) struct Control {
    geometry: Geometry,
    participants: Table<Participant>,
    engine: Table<EngineLine>,
    idle: Table<IdleLine>,
    ring_headers: Table<RingHeader>,
    ring_cells: [Table<AtomicU64>; PRIORITIES],
    descriptors: Table<Descriptor>,
    arguments: Table<Arguments>,
    job_metas: Table<JobMeta>,
    failures: Table<FailureText>,
    ports: Table<Port>,
    port_bits: Table<AtomicU64>,
    redelivery_bits: Table<AtomicU64>,
    timings: Table<Timing>,
    /// Kept for as long as the tables point into it (law 3).
    mapping: Mapping,
}

// SAFETY: the tables point into the mapping, which `Control` owns and which may be used from any thread; everything reached
// through them is atomic (law 1).
unsafe impl Send for Control {}
// SAFETY: as above; shared references only ever reach atomics.
unsafe impl Sync for Control {}

impl Control {
    /// Makes a new control segment: all words zero, which is every record's initial value, and the header written. Other processes can be given it if
    /// `is_shared`; else it is private memory, for which the system need not have memory files and which nobody else can reach.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for limits out of range, [`Error::Io`] when the system gives no memory.
    pub(crate) fn create(descriptors: u32, participants: u32, is_shared: bool) -> Result<Self> {
        let geometry = Geometry::plan(descriptors, participants)?;
        let len =
            usize::try_from(geometry.total_len).map_err(|_| Error::invalid("the control segment is too large"))?;
        let mapping =
            if is_shared { Mapping::shared_memory("workring-control", len)? } else { Mapping::anonymous(len)? };
        let header = geometry.header(std::process::id());
        // SAFETY: the mapping is at least a header long, page-aligned, writable and not yet shared with anybody (law 4).
        unsafe { mapping.base().cast::<Header>().write(header) };
        Self::cut_up(mapping, geometry)
    }

    /// Takes the mapping of a segment that was made for so many descriptors and participants. Its maker says so by a way of its own: the
    /// segment can be written by every worker, and damage to it must not keep the next one out.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for limits out of range, [`Error::Corrupt`] when the mapping is too short for them.
    pub(crate) fn over(mapping: Mapping, descriptors: u32, participants: u32) -> Result<Self> {
        Self::cut_up(mapping, Geometry::plan(descriptors, participants)?)
    }

    fn cut_up(mapping: Mapping, geometry: Geometry) -> Result<Self> {
        if (mapping.len() as u64) < geometry.total_len {
            return Err(Error::Corrupt {
                what: "mapped length",
                offset: 0,
                expected: geometry.total_len,
                found: mapping.len() as u64,
            });
        }
        // SAFETY: for all tables: the spans come from the geometry held against this mapping's length, and each is given
        // the record type it was planned for (law 2).
        unsafe {
            Ok(Self {
                participants: Table::new(&mapping, geometry.participants),
                engine: Table::new(&mapping, geometry.engine),
                idle: Table::new(&mapping, geometry.idle),
                ring_headers: Table::new(&mapping, geometry.ring_headers),
                ring_cells: geometry.ring_cells.map(|span| Table::new(&mapping, span)),
                descriptors: Table::new(&mapping, geometry.descriptors),
                arguments: Table::new(&mapping, geometry.arguments),
                job_metas: Table::new(&mapping, geometry.job_metas),
                failures: Table::new(&mapping, geometry.failures),
                ports: Table::new(&mapping, geometry.ports),
                port_bits: Table::new(&mapping, geometry.port_bits),
                redelivery_bits: Table::new(&mapping, geometry.redelivery_bits),
                timings: Table::new(&mapping, geometry.timings),
                geometry,
                mapping,
            })
        }
    }

    fn all<'a, T>(&'a self, table: &'a Table<T>) -> &'a [T] {
        // SAFETY: the table lies inside the mapping (law 2), its records are atomics valid for any bit pattern (law 1), and
        // the mapping lives as long as `self` (law 3).
        unsafe { core::slice::from_raw_parts(table.base.as_ptr(), table.len) }
    }

    /// All descriptors.
    #[inline]
    pub(crate) fn descriptors(&self) -> &[Descriptor] {
        self.all(&self.descriptors)
    }

    /// One descriptor, or `None` outside the table.
    #[inline]
    pub(crate) fn descriptor(&self, index: DescriptorIndex) -> Option<&Descriptor> {
        self.descriptors().get(index.get() as usize)
    }

    /// Where a descriptor lies in the segment, in bytes, for messages.
    pub(crate) fn offset_of_descriptor(&self, index: DescriptorIndex) -> u64 {
        self.geometry.descriptors.offset + u64::from(index.get()) * size_of::<Descriptor>() as u64
    }

    /// The further batches of one descriptor.
    pub(crate) fn arguments(&self, index: DescriptorIndex) -> Option<&Arguments> {
        self.all(&self.arguments).get(index.get() as usize)
    }

    /// What is known of the job in one descriptor.
    #[inline]
    pub(crate) fn meta(&self, index: DescriptorIndex) -> Option<&JobMeta> {
        self.all(&self.job_metas).get(index.get() as usize)
    }

    /// What each participant noted of the jobs it ran.
    pub(crate) fn timings(&self) -> &[Timing] {
        self.all(&self.timings)
    }

    /// The failure record of one descriptor.
    pub(crate) fn failure(&self, index: DescriptorIndex) -> Option<&FailureText> {
        self.all(&self.failures).get(index.get() as usize)
    }

    /// All participants.
    #[inline]
    pub(crate) fn participants(&self) -> &[Participant] {
        self.all(&self.participants)
    }

    /// One participant; `None` outside the table.
    #[inline]
    pub(crate) fn participant(&self, slot: ParticipantSlot) -> Option<&Participant> {
        self.participants().get(usize::from(slot.get()))
    }

    /// The bitmaps of sleeping and searching workers.
    #[inline]
    pub(crate) fn idle_line(&self) -> &IdleLine {
        &self.all(&self.idle)[0]
    }

    /// Positions and cells of the ring of `priority`, `0..PRIORITIES`.
    #[inline]
    pub(crate) fn ring(&self, priority: usize) -> (&RingHeader, &[AtomicU64]) {
        (&self.all(&self.ring_headers)[priority], self.all(&self.ring_cells[priority]))
    }

    /// A completion port and its bitmap; `None` outside the table.
    pub(crate) fn port(&self, port: u32) -> Option<(&Port, &[AtomicU64])> {
        let at = port as usize;
        let words = self.geometry.descriptor_count as usize / 64;
        let bits = self.all(&self.port_bits).get(at.checked_mul(words)?..at.checked_add(1)?.checked_mul(words)?)?;
        (at < PORTS).then(|| (&self.all(&self.ports)[at], bits))
    }

    /// What concerns the whole engine.
    #[inline]
    pub(crate) fn engine_line(&self) -> &EngineLine {
        &self.all(&self.engine)[0]
    }

    /// The segment as words, for the project's own tests, which damage it.
    #[cfg(all(feature = "fault", target_os = "linux"))]
    fn damageable(&self) -> &[core::sync::atomic::AtomicU32] {
        // SAFETY: the whole mapping is mapped for writing as long as `self` lives (law 3), aligned to a page, and atomics have no
        // invalid bits (law 1). That some records have wider words than these is beyond the language's model of memory, as is what
        // is modelled here: damage by the hardware. Nothing but tests is built with the feature.
        unsafe { core::slice::from_raw_parts(self.mapping.base().cast().as_ptr(), self.mapping.len() / 4) }
    }

    /// Length of the segment in bits.
    #[cfg(all(feature = "fault", target_os = "linux"))]
    pub(crate) fn bits(&self) -> u64 {
        self.mapping.len() as u64 * 8
    }

    /// Flips one bit, in one step; what the word of 32 bits around it was before. Nothing happens outside the segment.
    #[cfg(all(feature = "fault", target_os = "linux"))]
    pub(crate) fn flip(&self, bit: u64) -> Option<u32> {
        let word = self.damageable().get(usize::try_from(bit / 32).ok()?)?;
        Some(word.fetch_xor(1 << (bit % 32), core::sync::atomic::Ordering::Relaxed))
    }

    /// The word of 32 bits around a bit.
    #[cfg(all(feature = "fault", target_os = "linux"))]
    pub(crate) fn peek(&self, bit: u64) -> Option<u32> {
        let word = self.damageable().get(usize::try_from(bit / 32).ok()?)?;
        Some(word.load(core::sync::atomic::Ordering::Relaxed))
    }

    /// The mapping itself, to be handed to another process.
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// One bit per job that must be looked at apart from the rings.
    #[inline]
    pub(crate) fn redelivery_bits(&self) -> &[AtomicU64] {
        self.all(&self.redelivery_bits)
    }
}
