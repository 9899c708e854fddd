//! The arena as a worker process sees it: somebody else's memory, mapped twice, and files that are fetched when a job names them.
//!
//! Inputs are resolved through a mapping that cannot be written, so a kernel that writes to an input anyway ends its own process
//! and nothing else. Files come from the process that built the engine, once for each time it maps one.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::config::Access;
use super::shared::{GONE, SharedSegment};
use crate::error::{Error, Result};
use crate::layout::records::Segment as SegmentRecord;
use crate::os::claim::{Claim, Use};
use crate::os::large_pages::LargePages;
use crate::os::map::Mapping;
use crate::sync::lock;

/// Pages are brought in by blocks of so many bytes.
const GRANULE: usize = 256 << 10;

/// What is added to the number of a shared array where those of mapped files may stand. Handles of batches with such a number are
/// refused: there is no file of it.
pub(super) const FIRST_NUMBER: u16 = 0x8000;

/// A file that the engine has mapped, for worker processes that ask for it.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(super) fd: OwnedFd,
    /// Length of the mapping in bytes.
    pub(crate) len: u64,
    /// How often the segment's number was given out.
    pub(crate) generation: u64,
    /// Whether the mapping may be written.
    pub(crate) writable: bool,
}

impl SegmentFile {
    /// Of a mapping.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it is memory of this process alone; [`Error::Io`] when no descriptor is left.
    pub(crate) fn of(mapping: &Mapping, generation: u64) -> Result<Self> {
        let fd = mapping.fd().ok_or_else(unshared)?.try_clone_to_owned().map_err(no_descriptor)?;
        Ok(Self { fd, len: mapping.len() as u64, generation, writable: mapping.is_writable() })
    }

    /// Received from another process.
    pub(crate) fn received(fd: OwnedFd, len: u64, generation: u64, writable: bool) -> Self {
        Self { fd, len, generation, writable }
    }

    /// A second descriptor of the same file.
    ///
    /// # Errors
    /// [`Error::Io`] when no descriptor is left.
    pub(crate) fn again(&self) -> Result<Self> {
        Ok(Self { fd: self.fd.try_clone().map_err(no_descriptor)?, ..*self })
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn no_descriptor(error: std::io::Error) -> Error {
    Error::io("copy the descriptor of a mapped file for a worker", error)
}

/// The error of memory that was to be given to other processes.
pub(super) fn unshared() -> Error {
    Error::Unsupported {
        what: "giving other processes memory that is this one's own: memfd_create(2) was refused when it was made"
            .into(),
    }
}

/// Where a worker process gets files from.
pub(crate) type FetchFile = Box<dyn Fn(u16) -> Result<SegmentFile> + Send + Sync>;

/// A file as this process has it mapped, and the claim to it, which ends after the mapping.
type FetchedFile = (Mapping, Claim);

/// What a worker process adds to the memory of an arena.
pub(crate) struct Attached {
    read_only: Mapping,
    fetch: FetchFile,
    /// Mapped files by segment, with the generation they were fetched in.
    files: Mutex<HashMap<u16, (u64, FetchedFile)>>,
    /// Shared arrays by number, with the generation of the handle they were fetched for.
    shared: Mutex<HashMap<u16, (u64, Arc<SharedSegment>)>>,
    /// One bit for each granule of the two mappings that was brought in.
    present: [Box<[AtomicU64]>; 2],
}

impl Attached {
    /// Over a mapping that cannot be written.
    pub(crate) fn new(read_only: Mapping, fetch: FetchFile) -> Self {
        let words = read_only.len().div_ceil(GRANULE * 64);
        let bits = || (0..words).map(|_| AtomicU64::new(0)).collect();
        let (files, shared) = (Mutex::default(), Mutex::default());
        Self { present: [bits(), bits()], read_only, fetch, files, shared }
    }

    /// Address and length of a segment, and whether it may be written: of the arena, for reading only, or of a file. `records` is the
    /// arena's table of mapped files.
    ///
    /// # Errors
    /// When the file cannot be fetched or mapped.
    pub(super) fn segment(&self, records: &[SegmentRecord], segment: u16) -> Result<(NonNull<u8>, u64, bool)> {
        let found = |mapping: &Mapping| (mapping.base(), mapping.len() as u64, mapping.is_writable());
        if segment == 0 {
            return Ok(found(&self.read_only));
        }
        let corrupt =
            |found| Error::Corrupt { what: "segment of a handle", offset: u64::from(segment), expected: 0, found };
        let record = records.get(usize::from(segment) - 1).ok_or_else(|| corrupt(u64::from(segment)))?;
        // Relaxed: published with the job that names the segment.
        let generation = record.generation.load(Ordering::Relaxed);
        let known = |files: &HashMap<u16, (u64, FetchedFile)>| match files.get(&segment) {
            Some((known, (mapping, _))) if *known == generation => Some(found(mapping)),
            _ => None,
        };
        if let Some(found) = known(&lock(&self.files)) {
            return Ok(found);
        }
        // Without the lock: other jobs of this process need files that are here.
        let file = (self.fetch)(segment)?;
        if file.generation != generation {
            return Err(corrupt(file.generation));
        }
        let len = usize::try_from(file.len).map_err(|_| corrupt(file.len))?;
        let wanted = if file.writable { Use::Written } else { Use::Frozen };
        let claim = Claim::to(&file.fd, wanted)
            .map_err(|error| Error::io(format!("map {len} bytes of a received file"), error))?;
        let mapping = Mapping::attach_file(file.fd, len, file.writable)?;
        let mut files = lock(&self.files);
        // Another job of this process may have fetched it as well, and use it already: that mapping stays.
        if let Some(found) = known(&files) {
            return Ok(found);
        }
        let found = found(&mapping);
        // The mapping it replaces belongs to a file that no live job names: its number was given out again.
        files.insert(segment, (generation, (mapping, claim)));
        Ok(found)
    }

    /// The shared array of a number in its generation, from the engine if need be. `records` is the arena's table of shared arrays.
    ///
    /// # Errors
    /// [`Error::UnknownArray`]; those of fetching and mapping it.
    pub(super) fn shared_segment(
        &self,
        records: &[SegmentRecord],
        number: u16,
        generation: u64,
    ) -> Result<Arc<SharedSegment>> {
        let is_current = |number: u16, generation: u64| {
            // Relaxed: the handle came by a way that orders the stores to its record.
            records
                .get(usize::from(number))
                .is_some_and(|record| record.generation.load(Ordering::Relaxed) == generation)
        };
        // What this process has of arrays that are gone is unmapped: their numbers stand for others, or for none.
        let let_go = |known: &mut HashMap<u16, (u64, Arc<SharedSegment>)>| {
            known.retain(|&number, (known, _)| is_current(number, *known));
        };
        let mut known = lock(&self.shared);
        if !is_current(number, generation) {
            let_go(&mut known);
            return Err(GONE);
        }
        if let Some((_, segment)) = known.get(&number).filter(|(known, _)| *known == generation) {
            return Ok(Arc::clone(segment));
        }
        let_go(&mut known);
        let file = (self.fetch)(FIRST_NUMBER + number)?;
        if file.generation != generation {
            return Err(GONE);
        }
        let len = usize::try_from(file.len).map_err(|_| {
            Error::invalid(format!("{} bytes of a shared array do not fit the address space", file.len))
        })?;
        let segment = Arc::new(SharedSegment::attach(Mapping::attach(file.fd, len, true)?)?);
        known.insert(number, (generation, Arc::clone(&segment)));
        Ok(segment)
    }

    /// Brings in the pages of a part of a batch that is going to be used, a granule at a time, the first time one is named: all of
    /// the granule that belongs to the batch, because parts seldom begin where granules do. Where the system refuses, the pages come
    /// on first touch. What is to be written gets large pages if there are `large_pages`; what is to be read has them if its writer
    /// took them.
    pub(super) fn fault_in(
        &self,
        writable: &Mapping,
        large_pages: Option<&LargePages>,
        access: Access,
        batch: NonNull<[u8]>,
        part: NonNull<[u8]>,
    ) {
        let (mapping, present) = match access {
            Access::Read => (&self.read_only, &self.present[0]),
            Access::Write => (writable, &self.present[1]),
        };
        let base = mapping.base().as_ptr() as usize;
        let within = |bytes: NonNull<[u8]>| {
            let begin = (bytes.as_ptr().cast::<u8>() as usize).checked_sub(base)?;
            let end = begin.checked_add(bytes.len()).filter(|&end| end <= mapping.len())?;
            Some((begin, end))
        };
        let (Some((first, last)), Some((begin, end))) = (within(batch), within(part)) else { return };
        // A few pages are not worth a call.
        if end - begin < GRANULE {
            return;
        }
        for granule in begin / GRANULE..end.div_ceil(GRANULE) {
            let Some(word) = present.get(granule / 64) else { return };
            let bit = 1 << (granule % 64);
            // Relaxed: a hint; pages that were given back since come on first touch.
            if word.load(Ordering::Relaxed) & bit != 0 {
                continue;
            }
            let (from, to) = ((granule * GRANULE).max(first), ((granule + 1) * GRANULE).min(last));
            if let Some(large_pages) = large_pages.filter(|_| access == Access::Write) {
                large_pages.take(mapping, first..last, from..to);
            }
            if mapping.populate(from, to - from).is_err() {
                return;
            }
            // Also where the granule holds another batch besides: its few pages there come on first touch.
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }
}

impl core::fmt::Debug for Attached {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Attached").field("len", &self.read_only.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks of a call seldom begin where granules do. A granule that a chunk covers in part must be remembered all the same: a system
    /// call for every chunk of every call takes a third of the time of a dot product.
    #[test]
    fn a_granule_is_brought_in_once_by_parts_that_cover_some_of_it() {
        let writable = Mapping::shared_memory("granules", 4 * GRANULE).unwrap();
        let attached = Attached::new(writable.second_view().unwrap(), Box::new(|_| panic!("no file is named")));
        let bytes = |mapping: &Mapping, from: usize, to: usize| {
            let start = mapping.base().as_ptr().wrapping_add(from);
            NonNull::slice_from_raw_parts(NonNull::new(start).unwrap(), to - from)
        };
        let present = |access| attached.present[usize::from(access == Access::Write)][0].load(Ordering::Relaxed);
        let read = |batch: (usize, usize), part: (usize, usize)| {
            let [batch, part] = [batch, part].map(|(from, to)| bytes(&attached.read_only, from, to));
            attached.fault_in(&writable, None, Access::Read, batch, part);
        };
        // A few pages are not worth it.
        read((0, 4 * GRANULE), (100, GRANULE));
        assert_eq!(present(Access::Read), 0);
        read((0, 4 * GRANULE), (GRANULE + 100, 2 * GRANULE + 200));
        assert_eq!(present(Access::Read), 0b0110);
        // Also at the ends of a batch, which are no granule's.
        read((300, 4 * GRANULE - 300), (2 * GRANULE + 5, 4 * GRANULE - 300));
        assert_eq!(present(Access::Read), 0b1110);
        assert_eq!(present(Access::Write), 0);
        let all = bytes(&writable, 0, 4 * GRANULE);
        attached.fault_in(&writable, None, Access::Write, all, all);
        assert_eq!(present(Access::Write), 0b1111);
        // Bytes of other memory are left alone, and so is what is no part of the mapping.
        let local = vec![0u8; 2 * GRANULE];
        let local = NonNull::from(&local[..]);
        attached.fault_in(&writable, None, Access::Read, local, local);
        assert_eq!(present(Access::Read), 0b1110);
    }
}
