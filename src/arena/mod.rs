//! Floor 4, the arena: one mapping of user data, a private allocator over it, and the batches that own its blocks.
//!
//! The allocator lives on the private heap of the process that submits: only pages are shared, so nothing a worker does, or
//! fails to finish, can tear it. The arena knows no jobs.
//!
//! Laws of this file, which hands out addresses inside mappings:
//! 1. An address is made only from an offset and a length that were checked, without overflow, against the mapped length.
//! 2. References to records in the arena are made only for types that consist of atomics.
//! 3. A mapping lives as long as anything that points into it: batches hold the arena, jobs hold their batches.
#![allow(unsafe_code)]

pub(crate) mod alloc;
pub(crate) mod any_batch;
#[cfg(target_os = "linux")]
pub(crate) mod attached;
pub(crate) mod batch;
mod batch_traits;
mod config;
mod file;
pub(crate) mod loan;
pub(crate) mod shared;
pub(crate) mod uninit;

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
#[cfg(target_os = "linux")]
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use self::alloc::{Allocation, Allocator, Block, Release};
pub(crate) use self::config::{Access, ArenaConfig};
pub use self::config::{ArenaStatistics, Backing, Placement};
pub(crate) use self::file::FileSegment;
use self::shared::table::SharedTable;
use self::shared::{Registrar, SharedHandle, SharedSegment};
use crate::error::{Error, Result};
use crate::layout::records::{
    FailureText, FanOutHeader, MAX_SEGMENTS, MAX_SHARED, RangeLine, Segment as SegmentRecord,
};
use crate::os::fork::ForkGuard;
use crate::os::host::{self, LARGE_PAGE};
use crate::os::large_pages::LargePages;
use crate::os::map::Mapping;
use crate::os::memory;
use crate::os::topology::Topology;
use crate::sync::lock;

/// Every block starts at, and is padded to, a multiple of this many bytes (the Arrow columnar format's recommendation).
pub const ALIGNMENT: usize = 64;

/// Bits of a handle that hold the offset; the 16 above hold the segment, 0 being the arena itself.
const OFFSET_BITS: u32 = 48;

/// What the arena holds beyond its capacity, for the engine's own small blocks: a call on batches that fill the capacity to
/// the last byte still finds room for its bookkeeping.
const BOOKKEEPING_LEN: u64 = 2 << 20;

/// Length of the table of mapped files at the end of the mapping.
const SEGMENT_TABLE_LEN: u64 = (MAX_SEGMENTS * size_of::<SegmentRecord>()) as u64;
/// Length of both tables, that of shared arrays first.
const TABLES_LEN: u64 = SEGMENT_TABLE_LEN + (MAX_SHARED * size_of::<SegmentRecord>()) as u64;

/// A mapped file that handles can refer to. Slot `n` serves segment `n + 1`.
struct SegmentSlot {
    base: AtomicPtr<u8>,
    len: AtomicU64,
    writable: AtomicBool,
}

/// The allocator, and how much of what it gave out is the engine's own.
struct CountedAllocator {
    allocator: Allocator,
    bookkeeping: u64,
}

/// The arena. Batches, jobs and the engine share it.
pub(crate) struct Arena {
    mapping: Mapping,
    /// What the user asked for, rounded to pages; the mapping is longer by the bookkeeping.
    capacity: u64,
    counted: Mutex<CountedAllocator>,
    segments: Box<[SegmentSlot]>,
    free_segments: Mutex<Vec<u16>>,
    /// Descriptors of the mapped files, for worker processes that ask.
    #[cfg(target_os = "linux")]
    files: Mutex<BTreeMap<u16, attached::SegmentFile>>,
    /// Shared arrays that handles can name.
    shared: SharedTable,
    /// Where large pages were asked for, if they shall be: for shared memory, which has them by no other way on most systems.
    large_pages: Option<LargePages>,
    /// Knows a forked child: there the locks may be held by threads that do not exist, and the memory is the parent's.
    fork: ForkGuard,
    /// Set in a worker process, which looks into the arena of the process that built the engine and allocates nothing.
    #[cfg(target_os = "linux")]
    attached: Option<attached::Attached>,
}

/// Spreads a mapping over all nodes with memory. Kernels that know no nodes have but one, over which everything is spread.
fn interleave(mapping: &Mapping) -> Result<()> {
    let nodes = Topology::read().with_memory();
    if nodes.is_empty() && cfg!(target_os = "linux") { Ok(()) } else { mapping.interleave(&nodes) }
}

impl Arena {
    /// Maps an arena. Address space only, unless `prefault` asks for the pages at once.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a capacity of zero or beyond 2^48 bytes, [`Error::Io`] when the system refuses.
    pub(crate) fn create(config: &ArenaConfig) -> Result<Arc<Self>> {
        let page = host::page_size() as u64;
        if config.capacity == 0 || config.capacity > 1 << (OFFSET_BITS - 1) {
            return Err(Error::invalid(format!(
                "the arena's capacity must be from 1 byte to 2^{} bytes, not {}",
                OFFSET_BITS - 1,
                config.capacity
            )));
        }
        let capacity = config.capacity.next_multiple_of(page);
        let mapped = capacity + BOOKKEEPING_LEN;
        // The tables lie behind everything the allocator knows of.
        let len = usize::try_from(mapped + TABLES_LEN)
            .map_err(|_| Error::invalid("the arena's capacity exceeds the address space"))?;
        let mapping = match config.backing {
            Backing::SharedMemory => Mapping::shared_memory("workring-arena", len)?,
            Backing::Automatic | Backing::Anonymous => Mapping::anonymous(len)?,
        };
        if config.placement == Placement::Interleave {
            interleave(&mapping)?;
        }
        if config.large_pages {
            // Whether the system grants large pages is its business: the arena works without.
            let _ = mapping.advise_large_pages();
        }
        let shared = matches!(config.backing, Backing::SharedMemory);
        let large_pages = (config.large_pages && shared).then(|| LargePages::new(mapping.len()));
        if config.prefault {
            memory::prefault(&mapping, large_pages.as_ref())?;
        }
        Ok(Arc::new(Self {
            counted: Mutex::new(CountedAllocator {
                allocator: Allocator::new(mapped, config.retain, page),
                bookkeeping: 0,
            }),
            capacity,
            mapping,
            segments: (0..MAX_SEGMENTS)
                .map(|_| SegmentSlot {
                    base: AtomicPtr::new(core::ptr::null_mut()),
                    len: AtomicU64::new(0),
                    writable: AtomicBool::new(false),
                })
                .collect(),
            shared: SharedTable::new(),
            large_pages,
            fork: ForkGuard::new()?,
            #[cfg(target_os = "linux")]
            attached: None,
            #[cfg(target_os = "linux")]
            files: Mutex::new(BTreeMap::new()),
            free_segments: Mutex::new((1..=MAX_SEGMENTS as u16).rev().collect()),
        }))
    }

    /// The arena of another process, over two mappings of its memory: one to write, one that can only be read. With `large_pages`
    /// what is written first here gets large pages.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the memory is too short, [`Error::Io`] when the system refuses.
    #[cfg(target_os = "linux")]
    pub(crate) fn attach(mapping: Mapping, attached: attached::Attached, large_pages: bool) -> Result<Arc<Self>> {
        if (mapping.len() as u64) < TABLES_LEN || !mapping.len().is_multiple_of(8) {
            return Err(Error::invalid(format!("an arena of {} bytes has no room for its table", mapping.len())));
        }
        Ok(Arc::new(Self {
            counted: Mutex::new(CountedAllocator {
                allocator: Allocator::new(0, 0, host::page_size() as u64),
                bookkeeping: 0,
            }),
            capacity: 0,
            segments: Box::default(),
            shared: SharedTable::new(),
            large_pages: large_pages.then(|| LargePages::new(mapping.len())),
            mapping,
            fork: ForkGuard::new()?,
            attached: Some(attached),
            files: Mutex::new(BTreeMap::new()),
            free_segments: Mutex::new(Vec::new()),
        }))
    }

    /// Takes a block of at least `len_bytes` for a batch.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the numbers, [`Error::Forked`] in a forked child.
    pub(crate) fn allocate(&self, len_bytes: u64) -> Result<Allocation> {
        self.check_process()?;
        let mut counted = lock(&self.counted);
        let free = self.capacity.saturating_sub(counted.allocator.statistics().in_use - counted.bookkeeping);
        let requested = len_bytes.max(1).checked_next_multiple_of(ALIGNMENT as u64).unwrap_or(u64::MAX);
        let exhausted = Error::OutOfMemory { requested, free, capacity: self.capacity };
        if requested > free {
            return Err(exhausted);
        }
        counted.allocator.allocate(len_bytes).map_err(|_| exhausted)
    }

    /// Takes a block for the engine's own use, beyond the capacity if need be.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when that room is used up as well, [`Error::Forked`] in a forked child.
    pub(crate) fn allocate_bookkeeping(&self, len_bytes: u64) -> Result<Block> {
        self.check_process()?;
        let mut counted = lock(&self.counted);
        let allocation = counted.allocator.allocate(len_bytes).map_err(|exhausted| Error::OutOfMemory {
            requested: exhausted.requested,
            free: exhausted.free.min(self.capacity),
            capacity: self.capacity,
        })?;
        counted.bookkeeping += allocation.block.len;
        Ok(allocation.block)
    }

    /// Gives a block of the engine's own back.
    pub(crate) fn free_bookkeeping(&self, block: Block) {
        if self.check_process().is_ok() {
            lock(&self.counted).bookkeeping -= block.len;
            self.free(block);
        }
    }

    /// Gives a block back, and its pages to the system when the allocator says so.
    ///
    /// A forked child gives nothing back: what it has is a copy, or the parent's.
    pub(crate) fn free(&self, block: Block) {
        if self.check_process().is_err() {
            return;
        }
        let mut counted = lock(&self.counted);
        match counted.allocator.free(block) {
            Ok(None) => {}
            Ok(Some(release)) => {
                // Under the lock: the range must not be handed out again before its pages are gone.
                let _ = self.give_back(release);
            }
            Err(_) => debug_assert!(false, "a block was freed that is not live: {block:?}"),
        }
    }

    /// Gives every free page back to the system.
    pub(crate) fn trim(&self) -> Result<()> {
        self.check_process()?;
        let mut counted = lock(&self.counted);
        for release in counted.allocator.trim() {
            self.give_back(release)?;
        }
        Ok(())
    }

    /// Gives the pages of free bytes back to the system.
    fn give_back(&self, release: Release) -> Result<()> {
        let (offset, len) = (release.offset as usize, release.len as usize);
        self.mapping.give_back(offset, len)?;
        if let Some(large_pages) = &self.large_pages {
            large_pages.forget(offset..offset + len);
        }
        Ok(())
    }

    /// Takes large pages for bytes of a block that its owner is about to fill from end to end.
    pub(crate) fn prepare_to_fill(&self, block: Block) {
        let len = block.len as usize;
        if let Some(large_pages) = self.large_pages.as_ref().filter(|_| len >= LARGE_PAGE) {
            let start = block.offset as usize;
            large_pages.take(&self.mapping, start..start + len, start..start + len);
        }
    }

    /// Whether large pages were asked for.
    #[cfg(target_os = "linux")]
    pub(crate) fn wants_large_pages(&self) -> bool {
        self.large_pages.is_some()
    }

    /// What the arena holds; in a forked child only its capacity is known.
    pub(crate) fn statistics(&self) -> ArenaStatistics {
        if self.check_process().is_err() {
            return ArenaStatistics { capacity: self.capacity, ..ArenaStatistics::default() };
        }
        let statistics = lock(&self.counted).allocator.statistics();
        let large_pages = self.large_pages.as_ref().map(LargePages::counts).unwrap_or_default();
        ArenaStatistics {
            capacity: self.capacity,
            in_use: statistics.in_use,
            peak_in_use: statistics.peak_in_use,
            blocks: statistics.live_blocks,
            high_water: statistics.high_water,
            allocations: statistics.allocations,
            large_pages: large_pages.taken,
            large_pages_refused: large_pages.refused,
        }
    }

    /// Whether this process made the arena, and not one it was forked from.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.fork.is_forked_child() { Err(Error::Forked) } else { Ok(()) }
    }

    /// The address of a block's first byte.
    pub(crate) fn address(&self, block: Block) -> NonNull<u8> {
        assert!(block.offset.checked_add(block.len).is_some_and(|end| end <= self.mapping.len() as u64));
        // SAFETY: the block lies inside the mapping, just checked (law 1).
        unsafe { self.mapping.base().add(block.offset as usize) }
    }

    /// The handle of bytes inside the arena, or `None` for an address elsewhere.
    #[inline]
    pub(crate) fn handle_of(&self, address: NonNull<u8>) -> Option<u64> {
        let offset = (address.as_ptr() as usize).checked_sub(self.mapping.base().as_ptr() as usize)?;
        // One past the end is an address of the arena too: an empty batch may start there.
        (offset <= self.mapping.len()).then_some(offset as u64)
    }

    /// The address of `len_bytes` bytes at `handle`.
    ///
    /// The bytes stay mapped only while the batch of the handle lives (law 3).
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the handle does not name that many bytes that may be written.
    #[inline]
    pub(crate) fn resolve(&self, handle: u64, len_bytes: u64) -> Result<NonNull<u8>> {
        self.resolve_for(handle, len_bytes, Access::Write)
    }

    /// As [`Arena::resolve`], for bytes that are only read: in a worker process they cannot be written by way of the address.
    #[inline]
    pub(crate) fn resolve_for(&self, handle: u64, len_bytes: u64, access: Access) -> Result<NonNull<u8>> {
        let (segment, offset) = ((handle >> OFFSET_BITS) as usize, handle & ((1 << OFFSET_BITS) - 1));
        #[cfg(target_os = "linux")]
        let (base, len, writable) = match &self.attached {
            Some(attached) if segment > 0 || access == Access::Read => {
                let (base, len, writable) = attached.segment(self.segment_records(), segment as u16)?;
                (Some(base), len, writable)
            }
            Some(_) => (Some(self.mapping.base()), self.mapping.len() as u64, true),
            None => self.own_segment(segment),
        };
        #[cfg(not(target_os = "linux"))]
        let (base, len, writable) = self.own_segment(segment);
        // A write to a file that was mapped for reading would end the process.
        if access == Access::Write && !writable {
            return Err(Error::Corrupt {
                what: "handle of bytes to be written",
                offset: handle,
                expected: 1,
                found: 0,
            });
        }
        let (Some(base), true) = (base, offset.checked_add(len_bytes).is_some_and(|end| end <= len)) else {
            return Err(Error::Corrupt { what: "batch handle", offset: handle, expected: len, found: len_bytes });
        };
        // SAFETY: `offset` was checked against the segment's length (law 1).
        Ok(unsafe { base.add(offset as usize) })
    }

    /// Brings in the pages of a part of a resolved batch that is going to be used, in a worker process; elsewhere it only takes large
    /// pages of shared memory for what is going to be written.
    ///
    /// A worker process maps what others have filled, and each page it touches first is a fault: a call for many pages is a tenth
    /// of their cost. Bytes outside the arena are left alone.
    #[inline]
    pub(crate) fn fault_in(&self, batch: NonNull<[u8]>, part: NonNull<[u8]>, access: Access) {
        #[cfg(target_os = "linux")]
        if let Some(attached) = &self.attached {
            return attached.fault_in(&self.mapping, self.large_pages.as_ref(), access, batch, part);
        }
        if let (Some(large_pages), Access::Write) = (&self.large_pages, access) {
            let within = |bytes: NonNull<[u8]>| {
                let start = self.handle_of(bytes.cast())? as usize;
                Some(start..start.checked_add(bytes.len()).filter(|&end| end <= self.mapping.len())?)
            };
            if let (Some(batch), Some(part)) = (within(batch), within(part)) {
                large_pages.take(&self.mapping, batch, part);
            }
        }
    }

    /// Address and length of a segment in the process that built the engine, and whether it may be written.
    #[inline]
    fn own_segment(&self, segment: usize) -> (Option<NonNull<u8>>, u64, bool) {
        if segment == 0 {
            (Some(self.mapping.base()), self.mapping.len() as u64, true)
        } else {
            match self.segments.get(segment - 1) {
                // Relaxed: the segment was registered before the job that names it was published (R1), and is removed only
                // after its last batch is gone.
                Some(slot) => (
                    NonNull::new(slot.base.load(Ordering::Relaxed)),
                    slot.len.load(Ordering::Relaxed),
                    slot.writable.load(Ordering::Relaxed),
                ),
                None => (None, 0, true),
            }
        }
    }

    /// The table of mapped files, which worker processes read.
    pub(crate) fn segment_records(&self) -> &[SegmentRecord] {
        let offset = self.mapping.len() - SEGMENT_TABLE_LEN as usize;
        debug_assert!(offset.is_multiple_of(8));
        // SAFETY: the table's bytes are the last of the mapping, aligned since the mapping's length is a multiple of 8, and its
        // records consist of atomics (laws 1 and 2); the mapping lives as long as `self`.
        unsafe {
            let table = self.mapping.base().add(offset).cast::<SegmentRecord>();
            core::slice::from_raw_parts(table.as_ptr(), MAX_SEGMENTS)
        }
    }

    /// The arena's mapping, to be handed to another process.
    #[cfg(target_os = "linux")]
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Descriptor, length and generation of a mapped file or shared array, and whether it may be written.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] or [`Error::UnknownArray`] when there is none of this number, [`Error::Io`] when no descriptor is left.
    #[cfg(target_os = "linux")]
    pub(crate) fn file_of(&self, segment: u16) -> Result<attached::SegmentFile> {
        if let Some(number) = segment.checked_sub(attached::FIRST_NUMBER) {
            return self.shared.file_of(number);
        }
        let files = lock(&self.files);
        let file =
            files.get(&segment).ok_or_else(|| Error::invalid(format!("no file is mapped as number {segment}")))?;
        file.again()
    }

    /// Makes a mapped file known under a segment number.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when too many files are mapped at once, [`Error::Io`] when no descriptor is left.
    fn register(&self, mapping: &Mapping) -> Result<u16> {
        self.check_process()?;
        let segment = lock(&self.free_segments).pop().ok_or_else(|| Error::Unsupported {
            what: format!("more than {MAX_SEGMENTS} files mapped by one engine at the same time"),
        })?;
        let slot = &self.segments[usize::from(segment) - 1];
        slot.len.store(mapping.len() as u64, Ordering::Relaxed);
        slot.writable.store(mapping.is_writable(), Ordering::Relaxed);
        slot.base.store(mapping.base().as_ptr(), Ordering::Relaxed);
        // Relaxed, both: published with the job that names the segment (R1). The number changes, so that a worker process which
        // knows an earlier file under it asks for this one.
        let record = &self.segment_records()[usize::from(segment) - 1];
        record.len.store(mapping.len() as u64, Ordering::Relaxed);
        let generation = record.generation.load(Ordering::Relaxed).wrapping_add(1);
        record.generation.store(generation, Ordering::Relaxed);
        #[cfg(target_os = "linux")]
        match attached::SegmentFile::of(mapping, generation) {
            Ok(file) => drop(lock(&self.files).insert(segment, file)),
            Err(error) => {
                self.unregister(segment);
                return Err(error);
            }
        }
        Ok(segment)
    }

    fn unregister(&self, segment: u16) {
        if self.check_process().is_err() {
            return;
        }
        let slot = &self.segments[usize::from(segment) - 1];
        slot.base.store(core::ptr::null_mut(), Ordering::Relaxed);
        slot.len.store(0, Ordering::Relaxed);
        #[cfg(target_os = "linux")]
        lock(&self.files).remove(&segment);
        lock(&self.free_segments).push(segment);
    }

    /// The header and ranges of a fan-out block.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they do not lie inside the arena.
    pub(crate) fn fan_out(&self, handle: u64, partitions: u32) -> Result<(&FanOutHeader, &[RangeLine])> {
        let ranges_len = u64::from(partitions) * size_of::<RangeLine>() as u64;
        let header_len = size_of::<FanOutHeader>() as u64;
        let base = self.resolve(handle, header_len + ranges_len)?;
        if handle >> OFFSET_BITS != 0 || !handle.is_multiple_of(ALIGNMENT as u64) {
            return Err(Error::Corrupt { what: "fan-out handle", offset: handle, expected: 0, found: handle });
        }
        // SAFETY: the bytes lie inside the arena's own mapping, are aligned to 64 bytes, and both types consist of atomics
        // (laws 1 and 2); the mapping lives as long as `self`.
        unsafe {
            let header = base.cast::<FanOutHeader>().as_ref();
            let ranges = base.add(size_of::<FanOutHeader>()).cast::<RangeLine>();
            Ok((header, core::slice::from_raw_parts(ranges.as_ptr(), partitions as usize)))
        }
    }
}

impl Arena {
    /// One failure text inside the arena.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it does not lie there.
    pub(crate) fn failure_text(&self, handle: u64) -> Result<&FailureText> {
        let base = self.resolve(handle, size_of::<FailureText>() as u64)?;
        if handle >> OFFSET_BITS != 0 || !handle.is_multiple_of(ALIGNMENT as u64) {
            return Err(Error::Corrupt { what: "failure text handle", offset: handle, expected: 0, found: handle });
        }
        // SAFETY: inside the arena's own mapping, aligned to 64 bytes, atomics only (laws 1 and 2).
        Ok(unsafe { base.cast::<FailureText>().as_ref() })
    }
}

impl Arena {
    /// The handle under which the engine of this arena knows a segment, which it does from the first call on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it knows too many, in a worker process, or when worker processes could not be given this process's own memory; [`Error::Forked`] in a forked child.
    pub(crate) fn share<T>(self: &Arc<Self>, segment: &Arc<SharedSegment>) -> Result<SharedHandle<T>> {
        let (number, generation) = self.share_as_number(segment)?;
        Ok(SharedHandle::new(number, generation, segment.shape().kind))
    }

    /// As [`Arena::share`]: number and generation.
    fn share_as_number(self: &Arc<Self>, segment: &Arc<SharedSegment>) -> Result<(u32, u64)> {
        self.check_process()?;
        #[cfg(target_os = "linux")]
        if self.mapping.fd().is_some() && segment.mapping().fd().is_none() {
            // Worker processes could be told of it and not be given it.
            return Err(attached::unshared());
        }
        let registrar = Arc::downgrade(self);
        segment.registered_by(registrar, || self.shared.enter(segment, self.shared_records()))
    }

    /// The segment of a number in its generation.
    ///
    /// # Errors
    /// [`Error::UnknownArray`]; in a worker process also the errors of fetching it.
    pub(crate) fn shared_segment(&self, number: u32, generation: u64) -> Result<Arc<SharedSegment>> {
        self.check_process()?;
        if number as usize >= MAX_SHARED || generation == 0 {
            return Err(Error::UnknownArray { reason: "it is no handle that an engine made" });
        }
        #[cfg(target_os = "linux")]
        if let Some(attached) = &self.attached {
            return attached.shared_segment(self.shared_records(), number as u16, generation);
        }
        self.shared.segment(number, generation)
    }

    /// The table of shared arrays, which worker processes read.
    fn shared_records(&self) -> &[SegmentRecord] {
        let offset = self.mapping.len() - TABLES_LEN as usize;
        debug_assert!(offset.is_multiple_of(8) && TABLES_LEN > SEGMENT_TABLE_LEN);
        // SAFETY: the table lies before that of mapped files at the end of the arena's mapping, which is a multiple of 8 long and
        // has room for both (`create`, `attach`); its records consist of atomics; the mapping lives as long as `self`.
        unsafe {
            let table = self.mapping.base().add(offset).cast::<SegmentRecord>();
            core::slice::from_raw_parts(table.as_ptr(), MAX_SHARED)
        }
    }
}

impl Registrar for Arena {
    fn forget(&self, number: u32) {
        // A forked child has a copy of the table, and the parent's records.
        if self.check_process().is_ok() {
            self.shared.remove(number, self.shared_records());
        }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use core::sync::atomic::AtomicU32;
    use std::os::fd::OwnedFd;

    use super::attached::{Attached, FIRST_NUMBER, SegmentFile};
    use super::shared::Shape;
    use super::*;

    fn origin() -> Arc<Arena> {
        let backing = Backing::SharedMemory;
        let config = ArenaConfig {
            placement: Default::default(),
            capacity: 4096,
            retain: 0,
            backing,
            large_pages: false,
            prefault: false,
        };
        Arena::create(&config).unwrap()
    }

    fn descriptor(mapping: &Mapping) -> OwnedFd {
        mapping.fd().unwrap().try_clone_to_owned().unwrap()
    }

    fn attach(origin: &Arc<Arena>, fetch: impl Fn(u16) -> Result<SegmentFile> + Send + Sync + 'static) -> Arc<Arena> {
        let mapping = Mapping::attach(descriptor(origin.mapping()), origin.mapping().len(), true).unwrap();
        let attached = Attached::new(mapping.second_view().unwrap(), Box::new(fetch));
        Arena::attach(mapping, attached, origin.wants_large_pages()).unwrap()
    }

    fn segment() -> Arc<SharedSegment> {
        let shape = Shape { kind: 6, element_size: 4, max_len: 100, growable: false, sequences: false };
        Arc::new(SharedSegment::create(shape, 100).unwrap())
    }

    /// Checks how many large pages an arena has asked for; after a refusal, which memory in pieces brings about, it asks for fewer.
    #[track_caller]
    fn check_asked(arena: &Arena, expected: u64) {
        let counts = arena.large_pages.as_ref().map(LargePages::counts).unwrap_or_default();
        let asked = counts.taken + counts.refused;
        assert!(asked == expected || (asked < expected && counts.refused > 0), "{counts:?}, not {expected}");
    }

    #[test]
    fn whoever_writes_a_batch_first_asks_for_its_large_pages() {
        for large_pages in [false, true] {
            let backing = Backing::SharedMemory;
            let config = ArenaConfig {
                placement: Default::default(),
                capacity: 64 << 20,
                retain: 0,
                backing,
                large_pages,
                prefault: false,
            };
            let origin = Arena::create(&config).unwrap();
            let pages = |whole: u64| if large_pages { whole } else { 0 };
            let prepared = |len: usize| {
                let block = origin.allocate(len as u64).unwrap().block;
                origin.prepare_to_fill(block);
                block
            };
            let long = prepared(4 * LARGE_PAGE);
            check_asked(&origin, pages(4));
            // A block that is no large page long has none.
            let _ = prepared(LARGE_PAGE - 64);
            check_asked(&origin, pages(4));

            // What is left of a large page before or behind a batch is not the batch's.
            let len = 3 * LARGE_PAGE + (300 << 10);
            let handle = origin.allocate(len as u64).unwrap().block.offset;
            let first = handle.next_multiple_of(LARGE_PAGE as u64) - handle;
            let whole = (handle + len as u64) / LARGE_PAGE as u64 - (handle + first) / LARGE_PAGE as u64;
            let (first, end) = (first as usize, first as usize + whole as usize * LARGE_PAGE);
            let worker = attach(&origin, |_| panic!("no file is named"));
            let ask = |access, from: usize, to: usize, expected| {
                let start = worker.resolve_for(handle, len as u64, access).unwrap();
                let from_here = worker.resolve_for(handle + from as u64, (to - from) as u64, access).unwrap();
                let batch = NonNull::slice_from_raw_parts(start, len);
                worker.fault_in(batch, NonNull::slice_from_raw_parts(from_here, to - from), access);
                check_asked(&worker, expected);
            };
            // What is read was its writer's to take.
            ask(Access::Read, 0, len, 0);
            ask(Access::Write, first, first + (256 << 10), pages(1));
            ask(Access::Write, 0, first, pages(1));
            ask(Access::Write, end, len, pages(1));
            ask(Access::Write, 0, len, pages(whole));
            ask(Access::Write, 0, len, pages(whole));

            // Memory that went back to the system is asked for again.
            origin.free(long);
            assert_eq!(prepared(4 * LARGE_PAGE), long);
            check_asked(&origin, pages(8));
        }
    }

    #[test]
    fn batches_cannot_name_shared_arrays_and_arrays_cannot_name_files() {
        let origin = origin();
        let files = Arc::clone(&origin);
        let worker = attach(&origin, move |segment| files.file_of(segment));
        let segment = segment();
        let (number, generation) = origin.share_as_number(&segment).unwrap();
        segment.words::<AtomicU32>()[7].store(8, Ordering::Relaxed);
        for _ in 0..2 {
            let there = worker.shared_segment(number, generation).unwrap();
            assert_eq!(there.words::<AtomicU32>()[7].load(Ordering::Relaxed), 8);
            assert!(!Arc::ptr_eq(&there, &segment));
        }
        for arena in [&origin, &worker] {
            for named in [FIRST_NUMBER + number as u16, FIRST_NUMBER - 1, MAX_SHARED as u16 + 1, u16::MAX] {
                let refused = arena.resolve_for(u64::from(named) << 48, 4, Access::Read);
                assert!(matches!(refused, Err(Error::Corrupt { .. })), "{named:#x} {refused:?}");
            }
            for (number, generation) in
                [(1024, generation), (u32::MAX, generation), (0, generation ^ 1), (1, 0), (5, 5)]
            {
                let refused = arena.shared_segment(number, generation);
                assert!(matches!(refused, Err(Error::UnknownArray { .. })), "{number} {refused:?}");
            }
        }
    }

    /// A worker process believes neither the table, which others can write, nor the answer, nor the memory that came with it.
    #[test]
    fn what_does_not_fit_the_handle_is_refused() {
        let origin = origin();
        let (known, other) = (segment(), segment());
        let (number, generation) = origin.share_as_number(&known).unwrap();
        let (_, other_generation) = origin.share_as_number(&other).unwrap();
        let len = known.mapping().len();
        type Answer = Box<dyn Fn() -> (OwnedFd, u64, u64) + Send + Sync>;
        let memory = |len| descriptor(&Mapping::shared_memory("other", len).unwrap());
        let whole = len as u64;
        let answers: Vec<(Answer, &str)> = vec![
            (
                {
                    let fd = descriptor(known.mapping());
                    Box::new(move || (fd.try_clone().unwrap(), whole, other_generation))
                },
                "gone",
            ),
            (
                {
                    let fd = memory(len);
                    Box::new(move || (fd.try_clone().unwrap(), whole, generation))
                },
                "first word",
            ),
            (
                {
                    let fd = descriptor(known.mapping());
                    Box::new(move || (fd.try_clone().unwrap(), whole + 1, generation))
                },
                "at least",
            ),
            (
                {
                    let fd = descriptor(known.mapping());
                    Box::new(move || (fd.try_clone().unwrap(), 0, generation))
                },
                "at least 1 byte",
            ),
            (Box::new(move || (std::fs::File::open("/dev/zero").unwrap().into(), whole, generation)), "regular file"),
        ];
        for (answer, says) in answers {
            let worker = attach(&origin, move |_| {
                let (fd, len, generation) = answer();
                Ok(SegmentFile::received(fd, len, generation, true))
            });
            let text = worker.shared_segment(number, generation).unwrap_err().to_string();
            assert!(text.contains(says), "{text}");
        }
        // A table that says otherwise than the host process.
        let record = &origin.shared_records()[number as usize];
        record.generation.store(77, Ordering::Relaxed);
        let files = Arc::clone(&origin);
        let worker = attach(&origin, move |segment| files.file_of(segment));
        assert!(worker.shared_segment(number, generation).is_err() && worker.shared_segment(number, 77).is_err());
        assert!(origin.shared_segment(number, generation).is_ok());
    }

    #[test]
    fn a_forked_child_leaves_the_table_of_its_parent_alone() {
        use rustix::process::{Pid, WaitOptions, waitpid};

        unsafe extern "C" {
            /// fork(2).
            fn fork() -> i32;
            /// _exit(2): ends the process without running anything of the parent's.
            safe fn _exit(status: i32) -> !;
        }

        let arena = origin();
        let mut kept = Some(segment());
        let (number, generation) = arena.share_as_number(kept.as_ref().unwrap()).unwrap();
        let recorded = || arena.shared_records()[number as usize].generation.load(Ordering::Relaxed);
        // SAFETY: the child of a process with threads may use only what is async-signal-safe, and with glibc also the heap, whose locks
        // fork(2) takes. It drops what no other thread knows, and ends by _exit(2).
        let child = unsafe { fork() };
        if child == 0 {
            drop(kept.take());
            _exit(7);
        }
        let (_, status) = waitpid(Pid::from_raw(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(7));
        assert_eq!(recorded(), generation);
        assert!(arena.shared_segment(number, generation).is_ok());
        drop(kept);
        assert_eq!(recorded(), 0);
    }
}
