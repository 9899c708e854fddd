//! The arena as a worker process sees it: somebody else's memory, mapped twice, and files that are fetched when a job names them.
//!
//! Inputs are resolved through a mapping that cannot be written, so a kernel that writes to an input anyway ends its own process
//! and nothing else. Files come from the process that built the engine, once for each time it maps one.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use super::{Access, Arena, lock};
use crate::error::{Error, Result};
use crate::os::map::Mapping;

/// Pages are brought in by blocks of so many bytes.
const GRANULE: usize = 256 << 10;

/// A file that the engine has mapped, for worker processes that ask for it.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    fd: OwnedFd,
    /// Length of the mapping in bytes.
    pub(crate) len: u64,
    /// How often the segment's number was given out.
    pub(crate) generation: u64,
    /// Whether the mapping may be written.
    pub(crate) writable: bool,
}

impl SegmentFile {
    /// Of a mapping that has a descriptor.
    pub(crate) fn of(mapping: &Mapping, generation: u64) -> Option<Self> {
        let fd = mapping.fd()?.try_clone_to_owned().ok()?;
        Some(Self { fd, len: mapping.len() as u64, generation, writable: mapping.is_writable() })
    }

    /// Received from another process.
    pub(crate) fn received(fd: OwnedFd, len: u64, generation: u64, writable: bool) -> Self {
        Self { fd, len, generation, writable }
    }

    /// A second descriptor of the same file.
    pub(crate) fn again(&self) -> Option<Self> {
        Some(Self { fd: self.fd.try_clone().ok()?, ..*self })
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Where a worker process gets files from.
pub(crate) type FetchFile = Box<dyn Fn(u16) -> Result<SegmentFile> + Send + Sync>;

/// What a worker process adds to the memory of an arena.
pub(crate) struct Attached {
    read_only: Mapping,
    fetch: FetchFile,
    /// Mapped files by segment, with the generation they were fetched in.
    files: Mutex<HashMap<u16, (u64, Mapping)>>,
    /// One bit for each granule of the two mappings that was brought in.
    present: [Box<[AtomicU64]>; 2],
}

impl Attached {
    /// Over a mapping that cannot be written.
    pub(crate) fn new(read_only: Mapping, fetch: FetchFile) -> Self {
        let words = read_only.len().div_ceil(GRANULE * 64);
        let bits = || (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { present: [bits(), bits()], read_only, fetch, files: Mutex::new(HashMap::new()) }
    }

    /// Address and length of a segment, and whether it may be written: of the arena, for reading only, or of a file.
    ///
    /// # Errors
    /// When the file cannot be fetched or mapped.
    pub(super) fn segment(&self, arena: &Arena, segment: u16) -> Result<(NonNull<u8>, u64, bool)> {
        let found = |mapping: &Mapping| (mapping.base(), mapping.len() as u64, mapping.is_writable());
        if segment == 0 {
            return Ok(found(&self.read_only));
        }
        let corrupt =
            |found| Error::Corrupt { what: "segment of a handle", offset: u64::from(segment), expected: 0, found };
        let record =
            arena.segment_records().get(usize::from(segment) - 1).ok_or_else(|| corrupt(u64::from(segment)))?;
        // Relaxed: published with the job that names the segment.
        let generation = record.generation.load(Ordering::Relaxed);
        let mut files = lock(&self.files);
        match files.get(&segment) {
            Some((known, mapping)) if *known == generation => Ok(found(mapping)),
            _ => {
                let file = (self.fetch)(segment)?;
                if file.generation != generation {
                    return Err(corrupt(file.generation));
                }
                let len = usize::try_from(file.len).map_err(|_| corrupt(file.len))?;
                let mapping = Mapping::attach_file(file.fd, len, file.writable)?;
                let found = found(&mapping);
                // The mapping it replaces belongs to a file that no live job names: its number was given out again.
                files.insert(segment, (generation, mapping));
                Ok(found)
            }
        }
    }

    /// Brings in the pages of bytes of the arena that are going to be used, a granule at a time, the first time they are named.
    /// Where the system refuses, the pages come on first touch.
    pub(super) fn bring_in(&self, writable: &Mapping, access: Access, start: NonNull<u8>, len: usize) {
        let (mapping, present) = match access {
            Access::Read => (&self.read_only, &self.present[0]),
            Access::Write => (writable, &self.present[1]),
        };
        let Some(begin) = (start.as_ptr() as usize).checked_sub(mapping.base().as_ptr() as usize) else { return };
        let Some(end) = begin.checked_add(len).filter(|&end| end <= mapping.len()) else { return };
        // A few pages are not worth a call.
        if len < GRANULE {
            return;
        }
        for granule in begin / GRANULE..end.div_ceil(GRANULE) {
            let Some(word) = present.get(granule / 64) else { return };
            let bit = 1 << (granule % 64);
            // Relaxed: a hint; pages that were given back since come on first touch.
            if word.load(Ordering::Relaxed) & bit != 0 {
                continue;
            }
            let (from, to) = ((granule * GRANULE).max(begin), ((granule + 1) * GRANULE).min(end));
            if mapping.populate(from, to - from).is_err() {
                return;
            }
            if to - from == GRANULE {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }
}

impl core::fmt::Debug for Attached {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Attached").field("len", &self.read_only.len()).finish_non_exhaustive()
    }
}
