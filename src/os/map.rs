//! Mapped memory: [`Mapping`] is what the floors above know of it.
//!
//! A mapping never hands out a reference to its bytes. A caller that makes one from [`Mapping::base`] keeps the mapping
//! alive, stays below [`Mapping::len`], writes nothing to a read-only mapping, and answers for every other access to
//! the same bytes, be it from this program, from another process or by [`Mapping::give_back`], which counts as a write
//! of zeros.
//!
//! Sources: mmap(2), madvise(2), memfd_create(2), fallocate(2), fcntl(2) (file sealing).

use core::ops::Range;
use core::ptr::{self, NonNull};
use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::error::{Error, Result};
#[cfg(target_os = "linux")]
use crate::os::claim::{Claim, Use};
use crate::os::host::{self, LARGE_PAGE};
use crate::os::region::{self, Region};

/// The longest name of a shared memory segment, in bytes (memfd_create(2)).
pub(crate) const NAME_LEN_MAX: usize = 249;

/// The address an empty mapping reports: never accessed, aligned like a page of every usual size.
const EMPTY_BASE: NonNull<u8> = NonNull::new(ptr::without_provenance_mut(1 << 16)).expect("the address is not 0");

/// What stands behind the bytes of a [`Mapping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum MemoryKind {
    /// A sealed memfd on Linux; private memory of this process elsewhere.
    SharedMemory,
    /// Private memory of this process.
    Anonymous,
    /// A file of a file system.
    File,
}

/// Whether the pages of a [`Mapping`] may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    ReadOnly,
    ReadWrite,
}

/// A range of mapped memory, unmapped on drop.
///
/// `Send` and `Sync`: its methods only pass addresses to the system. What a caller that makes a reference to its bytes
/// has to promise stands at the head of this module.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// `None` only for an empty file, which has no pages to map.
    region: Option<Region>,
    /// Bytes the caller asked for; the region is this long, rounded up to whole pages.
    len: usize,
    kind: MemoryKind,
    protection: Protection,
    /// The memfd or file behind the bytes: always there for shared memory that may be written.
    #[cfg(target_os = "linux")]
    descriptor: Option<OwnedFd>,
    /// That to shared memory, whose descriptor has a path as files have. Dropped after the region.
    #[cfg(target_os = "linux")]
    _claim: Option<Claim>,
}

impl Mapping {
    /// Creates `len` bytes of zeroed memory that other processes can map.
    ///
    /// On Linux this is a memfd: closed on exec, not executable where the kernel can enforce that (Linux 6.3), and
    /// sealed against shrinking, growing and further sealing, so that no holder of the descriptor can make an access
    /// inside `len` raise SIGBUS by truncation. Holes can still be punched by any process that may write it. `name` is for
    /// readers of /proc; it need not be unique. Elsewhere the memory is private to the process and the name is not used.
    ///
    /// Pages are taken on first touch; running out of memory then kills the process, so [`populate`](Self::populate)
    /// first where that matters. The range starts at a multiple of 2 MiB where one is free, so that large pages fit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `len` is 0 or does not fit the address space, or `name` is longer than
    /// [`NAME_LEN_MAX`] bytes or contains a NUL; [`Error::Io`] if the system refuses.
    pub(crate) fn shared_memory(name: &str, len: usize) -> Result<Self> {
        let mapped_len = nonzero_pages("shared memory", len)?;
        if name.len() > NAME_LEN_MAX || name.contains('\0') {
            return Err(Error::invalid(format!(
                "the name of shared memory must have at most {NAME_LEN_MAX} bytes and no NUL, found {name:?}"
            )));
        }
        let what = format!("create {len} bytes of memory that worker processes can share, named {name:?}");
        #[cfg(target_os = "linux")]
        let what = what + " (memfd_create(2))";
        let failed = |error| Error::io(what.clone(), error);
        #[cfg(all(target_os = "linux", not(miri)))]
        {
            let memory_file = region::sealed_memory_file(name, len).map_err(failed)?;
            let claim = Claim::to(&memory_file, Use::Written).map_err(failed)?;
            let region = Region::of_file(&memory_file, mapped_len, true).map_err(failed)?;
            let mapping =
                Self::of_parts(Some(region), len, MemoryKind::SharedMemory, Protection::ReadWrite, Some(memory_file));
            Ok(mapping.with_claim(Some(claim)))
        }
        #[cfg(all(target_os = "linux", miri))]
        {
            let region = Region::anonymous(mapped_len).map_err(failed)?;
            Ok(Self::of_parts(Some(region), len, MemoryKind::SharedMemory, Protection::ReadWrite, None))
        }
        #[cfg(not(target_os = "linux"))]
        {
            let region = Region::anonymous(mapped_len).map_err(failed)?;
            Ok(Self { region: Some(region), len, kind: MemoryKind::SharedMemory, protection: Protection::ReadWrite })
        }
    }

    /// Reserves `len` bytes of zeroed memory private to this process.
    ///
    /// Only address space is taken (`MAP_NORESERVE`); pages come on first touch. A kernel that never overcommits
    /// (`vm.overcommit_memory` 2) ignores that and counts the whole length at once. On Linux the range starts at a
    /// multiple of 2 MiB, so that large pages fit; elsewhere at a multiple of the page size.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `len` is 0 or does not fit the address space; [`Error::Io`] if the system refuses,
    /// for example because of `RLIMIT_AS`.
    pub(crate) fn anonymous(len: usize) -> Result<Self> {
        let mapped_len = nonzero_pages("anonymous memory", len)?;
        let region = Region::anonymous(mapped_len)
            .map_err(|error| Error::io(format!("map {len} bytes of anonymous memory"), error))?;
        Ok(Self {
            region: Some(region),
            len,
            kind: MemoryKind::Anonymous,
            protection: Protection::ReadWrite,
            #[cfg(target_os = "linux")]
            descriptor: None,
            #[cfg(target_os = "linux")]
            _claim: None,
        })
    }

    /// Maps the whole of `file` for reading, with the length it has now; an empty file gives an empty mapping.
    ///
    /// `path` is only used in errors. Later writes to the file show through. Nothing stops another process from cutting
    /// the file: touching a page past its new end raises SIGBUS. The file may be closed afterwards.
    ///
    /// On Linux the mapping keeps a descriptor of its own, for [`fd`](Self::fd): locks of the open file (flock(2)) stay
    /// until the mapping is dropped as well, and dropping it lets go of the process' POSIX locks on the file.
    ///
    /// # Errors
    /// [`Error::Format`] if it is not a regular file or longer than the address space; [`Error::Io`] if the system
    /// refuses.
    pub(crate) fn file_read_only(file: &File, path: &Path) -> Result<Self> {
        let failed = |error| Error::io(format!("map {}", path.display()), error);
        let len = address_space_len(regular_file_len(file, path)?, path)?;
        let Some(mapped_len) = whole_pages(len) else { return Err(too_long(len as u64, path)) };
        let region = match len {
            0 => None,
            _ => Some(Region::of_file(file, mapped_len, false).map_err(failed)?),
        };
        Ok(Self {
            region,
            len,
            kind: MemoryKind::File,
            protection: Protection::ReadOnly,
            #[cfg(target_os = "linux")]
            descriptor: Some(file.as_fd().try_clone_to_owned().map_err(failed)?),
            #[cfg(target_os = "linux")]
            _claim: None,
        })
    }

    /// Makes `file` exactly `len` bytes long and maps all of it for reading and writing; writes reach the file.
    ///
    /// A shorter file grows with zeros, a longer one is cut; `len` 0 gives an empty file and an empty mapping. `path`
    /// is only used in errors. The file must be open for reading and writing.
    ///
    /// On Linux the blocks are reserved first, so that a full disk is an error here and not a SIGBUS at a later write.
    /// A file system that cannot reserve (fallocate(2) says `EOPNOTSUPP`, as NFS before 4.2 and ramfs do) gets a sparse
    /// file, and there, as on systems other than Linux, a disk that fills up later still ends the process.
    /// Copy-on-write file systems may need room beyond the reservation. What was written is on the disk only after
    /// [`File::sync_all`]. A descriptor is kept as by [`file_read_only`](Self::file_read_only).
    ///
    /// # Errors
    /// [`Error::Format`] if it is not a regular file; [`Error::InvalidArgument`] if `len` does not fit the address
    /// space; [`Error::Io`] if the system refuses. When blocks cannot be reserved, a file that had grown gets its old
    /// length back.
    pub(crate) fn file_read_write(file: &File, len: usize, path: &Path) -> Result<Self> {
        let failed = |error| Error::io(format!("map {} for writing {len} bytes", path.display()), error);
        let Some(mapped_len) = whole_pages(len) else {
            return Err(Error::invalid(format!("{}: {len} bytes do not fit the address space", path.display())));
        };
        let old_len = regular_file_len(file, path)?;
        if len != 0 {
            let reserved = region::reserve_blocks(file, len as u64);
            if let Err(error) = reserved {
                // Best effort: the reservation may have grown the file, and its error is the one worth reporting.
                let _ = file.set_len(old_len);
                return Err(failed(error));
            }
        }
        if regular_file_len(file, path)? != len as u64 {
            file.set_len(len as u64).map_err(failed)?;
        }
        let region = match len {
            0 => None,
            _ => Some(Region::of_file(file, mapped_len, true).map_err(failed)?),
        };
        Ok(Self {
            region,
            len,
            kind: MemoryKind::File,
            protection: Protection::ReadWrite,
            #[cfg(target_os = "linux")]
            descriptor: Some(file.as_fd().try_clone_to_owned().map_err(failed)?),
            #[cfg(target_os = "linux")]
            _claim: None,
        })
    }

    /// The address of the first byte, page-aligned; for an empty mapping an aligned address that must not be accessed.
    ///
    /// The pointer may be read through for [`len`](Self::len) bytes as long as the mapping lives, and written through
    /// unless the mapping is read-only.
    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        match &self.region {
            Some(region) => region.base(),
            None => EMPTY_BASE,
        }
    }

    /// The number of bytes that may be accessed: what was asked for, or the length of the file; at most [`isize::MAX`].
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the bytes may be written.
    pub(crate) fn is_writable(&self) -> bool {
        self.protection == Protection::ReadWrite
    }

    /// What stands behind the bytes.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests check it; engines know what they asked for"))]
    #[inline]
    pub(crate) fn kind(&self) -> MemoryKind {
        self.kind
    }

    /// The memfd or file behind the bytes, for handing to another process; `None` for anonymous memory and for what was
    /// attached for reading only. Closed on exec.
    #[cfg(target_os = "linux")]
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// Maps the same bytes a second time, for reading only. It lives independently of the first and keeps no
    /// descriptor.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is no [`fd`](Self::fd); [`Error::Io`] if the system refuses.
    #[cfg(target_os = "linux")]
    pub(crate) fn second_view(&self) -> Result<Mapping> {
        let Some(descriptor) = &self.descriptor else {
            return Err(Error::Unsupported { what: "a second view of memory without a descriptor".into() });
        };
        let region = match (&self.region, whole_pages(self.len)) {
            (Some(_), Some(mapped_len)) => Some(
                Region::of_file(descriptor, mapped_len, false)
                    .map_err(|error| self.failed("map again", 0..self.len, error))?,
            ),
            _ => None,
        };
        Ok(Self::of_parts(region, self.len, self.kind, Protection::ReadOnly, None))
    }

    /// A mapping of `len` bytes, of which `region` holds the whole pages. What may be written of shared memory has its
    /// descriptor.
    #[cfg(target_os = "linux")]
    pub(super) fn of_parts(
        region: Option<Region>,
        len: usize,
        kind: MemoryKind,
        protection: Protection,
        descriptor: Option<OwnedFd>,
    ) -> Self {
        Self { region, len, kind, protection, descriptor, _claim: None }
    }

    /// The mapping, which keeps a claim to what is mapped.
    #[cfg(target_os = "linux")]
    pub(super) fn with_claim(self, claim: Option<Claim>) -> Self {
        Self { _claim: claim, ..self }
    }

    /// Asks for large pages behind the whole mapping (`MADV_HUGEPAGE`) and says whether the system may use them.
    ///
    /// `true` means that the kernel took the advice and large pages are not switched off for this kind of memory; it
    /// does not promise that any page will be large. `false` for files and on systems other than Linux. Pages already
    /// present stay as they are, so call it before the first touch.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses for a reason other than not having large pages.
    pub(crate) fn advise_large_pages(&self) -> Result<bool> {
        let modes = host::transparent_large_pages();
        let mode = match self.kind {
            MemoryKind::Anonymous => modes.anonymous,
            MemoryKind::SharedMemory => modes.shared_memory,
            MemoryKind::File => return Ok(false),
        };
        let Some(region) = &self.region else { return Ok(false) };
        let taken =
            region.advise_large_pages().map_err(|error| self.failed("advise large pages for", 0..self.len, error))?;
        Ok(taken && mode.allows_advice())
    }

    /// Has the pages of the whole mapping spread over memory nodes as they are taken; those that are there stay. For shared memory
    /// that holds for every process.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on systems other than Linux; [`Error::Io`] if the system refuses, as it does if there is no node.
    pub(crate) fn interleave(&self, nodes: &[usize]) -> Result<()> {
        let Some(region) = &self.region else { return Ok(()) };
        region.interleave(nodes).map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => {
                Error::Unsupported { what: "spreading memory over nodes on this system".into() }
            }
            _ => self.failed("spread over memory nodes", 0..self.len, error),
        })
    }

    /// Has the large pages of an aligned range taken now (`MADV_COLLAPSE`), whatever the system's setting for shared memory is,
    /// short of `deny`. Contents stay, other threads and processes may use the memory meanwhile, and after an error the pages
    /// that could not be had are small.
    ///
    /// The system moves what is there, and takes a large page of zeros where little is; where nothing is it refuses, so that one
    /// small page of each large one is brought in first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the range does not lie in the mapping or is not aligned in memory; [`Error::Unsupported`] unless this is shared memory that may be
    /// written; [`Error::Io`] if the system has no large page left, or none at all (Linux before 6.1, other systems).
    pub(crate) fn take_large_pages(&self, offset: usize, len: usize) -> Result<()> {
        let range = self.check_range(offset, len)?;
        let aligned = |address: usize| address.is_multiple_of(LARGE_PAGE);
        if !aligned(self.base().addr().get()) || !aligned(range.start) || !aligned(range.end) {
            return Err(Error::invalid(format!("{len} bytes from offset {offset} are no whole large pages")));
        }
        let (Some(region), MemoryKind::SharedMemory, true) = (&self.region, self.kind, self.is_writable()) else {
            return Err(Error::Unsupported { what: "large pages on demand for memory that is not shared".into() });
        };
        for page in range.clone().step_by(LARGE_PAGE) {
            self.populate(page, 1)?;
        }
        region.collapse(range.clone()).map_err(|error| self.failed("take large pages for", range, error))
    }

    /// Tells the system that the bytes will be read once, from front to back (`MADV_SEQUENTIAL`); a hint, without
    /// effect on systems other than Linux.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(crate) fn advise_sequential(&self) -> Result<()> {
        let Some(region) = &self.region else { return Ok(()) };
        region.advise_sequential().map_err(|error| self.failed("advise sequential reading of", 0..self.len, error))
    }

    /// Brings in every page that holds a byte of `offset..offset + len`, ready to be written; contents stay as they
    /// are.
    ///
    /// After `Ok`, the first access to these bytes takes no page fault that can fail, until pages are given back or
    /// swapped out. Takes as long as the system needs to clear the pages; may be called while other threads use the
    /// memory. Read-only mappings are brought in for reading. On systems other than Linux this does nothing and pages
    /// come on first touch.
    ///
    /// Kernels before 5.14 lack `MADV_POPULATE_WRITE`. There each page is written by a futex operation that adds no bit
    /// to its first word, so that here, too, a page the system cannot provide is an error and not a SIGBUS.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the range does not lie in the mapping; [`Error::Io`] with
    /// [`io::ErrorKind::OutOfMemory`] (for files [`io::ErrorKind::StorageFull`]) if the system has no pages left. A
    /// memory cgroup at its limit may have the process killed instead: that is the kernel's choice and cannot be caught
    /// here.
    pub(crate) fn populate(&self, offset: usize, len: usize) -> Result<()> {
        let range = self.check_range(offset, len)?;
        let (Some(region), false) = (&self.region, range.is_empty()) else { return Ok(()) };
        let populated = match self.protection {
            Protection::ReadWrite => region.populate_write(outer_pages(&range)),
            Protection::ReadOnly => region.populate_read(outer_pages(&range)),
        };
        populated.map_err(|error| self.failed("populate", range, self.no_page_left(error)))
    }

    /// Returns the pages that lie wholly inside `offset..offset + len` to the system; their bytes read as zero
    /// afterwards.
    ///
    /// Bytes of the range on pages that are only partly inside it keep their contents. A range that reaches the end of
    /// the mapping includes the rest of its last page. For shared memory the pages vanish for every process that maps
    /// them. No other thread or process may be using the whole pages of the range: to them this is a write of zeros.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the range does not lie in the mapping; [`Error::Unsupported`] for files, whose
    /// contents are the user's, for what is mapped for reading only, and on systems other than Linux, where the bytes
    /// keep their contents; [`Error::Io`] if the system refuses, after which the pages hold either zeros or their old
    /// contents.
    pub(crate) fn give_back(&self, offset: usize, len: usize) -> Result<()> {
        let range = self.check_range(offset, len)?;
        if self.kind == MemoryKind::File {
            return Err(Error::Unsupported { what: "giving back the pages of a file".into() });
        }
        if self.protection == Protection::ReadOnly {
            return Err(Error::Unsupported { what: "giving back pages that are mapped for reading only".into() });
        }
        let pages = self.inner_pages(&range);
        let (Some(region), false) = (&self.region, pages.is_empty()) else { return Ok(()) };
        #[cfg(target_os = "linux")]
        {
            let given_back = match &self.descriptor {
                Some(memory_file) => region::punch_hole(memory_file, &pages),
                None => region.discard(pages),
            };
            given_back.map_err(|error| self.failed("give back", range, error))
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = region;
            Err(Error::Unsupported { what: "giving back pages on this system".into() })
        }
    }

    /// `offset..offset + len`, if that lies in the mapping.
    fn check_range(&self, offset: usize, len: usize) -> Result<Range<usize>> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(offset..end),
            _ => Err(Error::invalid(format!(
                "the range of {len} bytes from offset {offset} does not lie in a mapping of {} bytes",
                self.len
            ))),
        }
    }

    /// The whole pages inside a checked range; the bytes behind the end of the mapping on its last page belong to
    /// nobody, so a range that ends there takes that page whole.
    fn inner_pages(&self, range: &Range<usize>) -> Range<usize> {
        let page = host::page_size();
        // `check_range` holds, and `whole_pages(self.len)` did not overflow at creation: neither does rounding up below
        // it.
        let start = range.start.next_multiple_of(page);
        let end = if range.end == self.len { range.end.next_multiple_of(page) } else { range.end - range.end % page };
        start..end.max(start)
    }

    fn failed(&self, verb: &str, range: Range<usize>, error: io::Error) -> Error {
        let kind = match self.kind {
            MemoryKind::SharedMemory => "shared memory",
            MemoryKind::Anonymous => "anonymous memory",
            MemoryKind::File => "a mapped file",
        };
        Error::io(format!("{verb} {} bytes from offset {} of {kind}", range.len(), range.start), error)
    }

    /// Says what `EFAULT` means for an address range that is known to be mapped: the page behind it could not be had.
    fn no_page_left(&self, error: io::Error) -> io::Error {
        match region::is_bad_address(&error) {
            true if self.kind == MemoryKind::File => io::Error::new(
                io::ErrorKind::StorageFull,
                "the file was cut or its file system has no room for the page",
            ),
            true => io::Error::new(io::ErrorKind::OutOfMemory, "the system has no memory for the page"),
            false => error,
        }
    }
}

/// `len` rounded up to whole pages, or `None` if that exceeds what an object in memory may span.
pub(super) fn whole_pages(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(host::page_size()).filter(|&rounded| isize::try_from(rounded).is_ok())
}

/// `len` rounded up to whole pages for memory, which has no empty mappings.
pub(super) fn nonzero_pages(what: &str, len: usize) -> Result<usize> {
    match whole_pages(len) {
        Some(0) => Err(Error::invalid(format!("{what} must have at least 1 byte"))),
        Some(rounded) => Ok(rounded),
        None => Err(Error::invalid(format!("{len} bytes of {what} do not fit the address space"))),
    }
}

/// The pages that hold a byte of a checked, not empty range.
fn outer_pages(range: &Range<usize>) -> Range<usize> {
    let page = host::page_size();
    // As in `inner_pages`, the end of the mapping was rounded up at creation without overflow.
    range.start - range.start % page..range.end.next_multiple_of(page)
}

fn regular_file_len(file: &File, path: &Path) -> Result<u64> {
    let metadata = file.metadata().map_err(|error| Error::io(format!("read the size of {}", path.display()), error))?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    Err(Error::Format { path: path.display().to_string(), reason: "not a regular file, so it cannot be mapped".into() })
}

fn address_space_len(len: u64, path: &Path) -> Result<usize> {
    usize::try_from(len).map_err(|_| too_long(len, path))
}

fn too_long(len: u64, path: &Path) -> Error {
    Error::Format { path: path.display().to_string(), reason: format!("{len} bytes do not fit the address space") }
}

#[cfg(all(test, target_os = "linux"))]
impl Mapping {
    /// Bytes of the pages around `offset..offset + len` that this process has in memory or in swap (/proc/pid/pagemap).
    ///
    /// Anonymous pages that were only read count, although all of them are the kernel's one page of zeros; pages of
    /// shared memory count once this process has touched them.
    pub(crate) fn resident_bytes(&self, offset: usize, len: usize) -> Result<u64> {
        use std::os::unix::fs::FileExt;

        /// Bits 63 (present) and 62 (swapped) of an entry of pagemap.
        const HELD: u64 = 3 << 62;

        let range = self.check_range(offset, len)?;
        if range.is_empty() {
            return Ok(0);
        }
        let failed = |error| Error::io("read /proc/self/pagemap", error);
        let (page, pages) = (host::page_size(), outer_pages(&range));
        let mut entries = vec![0; pages.len() / page * 8];
        let first = (self.base().addr().get() + pages.start) / page;
        File::open("/proc/self/pagemap")
            .and_then(|map| map.read_exact_at(&mut entries, first as u64 * 8))
            .map_err(failed)?;
        let held = entries.chunks_exact(8).filter(|entry| u64::from_ne_bytes((*entry).try_into().unwrap()) & HELD != 0);
        Ok(held.count() as u64 * page as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Read, Seek, Write};

    use super::*;

    fn file_of(contents: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(contents).unwrap();
        file
    }

    fn contents_of(mut file: &File) -> Vec<u8> {
        let mut contents = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut contents).unwrap();
        contents
    }

    #[test]
    fn memory_is_never_empty_nor_longer_than_the_address_space() {
        for len in [0, usize::MAX, usize::MAX - host::page_size(), isize::MAX as usize, 1 << (usize::BITS - 1)] {
            let error = Mapping::anonymous(len).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{len}: {error:?}");
            let error = Mapping::shared_memory("test", len).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{len}: {error:?}");
        }
        // A whole number of pages below `isize::MAX` is a valid length, but more than any system maps.
        let error = Mapping::anonymous(isize::MAX as usize + 1 - host::page_size()).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }

    #[test]
    fn names_have_a_limit_and_no_nul() {
        Mapping::shared_memory(&"n".repeat(NAME_LEN_MAX), 1).unwrap();
        Mapping::shared_memory("", 1).unwrap();
        for name in ["n".repeat(NAME_LEN_MAX + 1), "a\0b".into()] {
            let error = Mapping::shared_memory(&name, 1).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
        }
    }

    #[test]
    fn the_length_is_the_one_asked_for() {
        for len in [1, 4095, 4096, 4097, (2 << 20) + 1] {
            let (anonymous, shared) = (Mapping::anonymous(len).unwrap(), Mapping::shared_memory("test", len).unwrap());
            assert_eq!((anonymous.len(), anonymous.kind()), (len, MemoryKind::Anonymous));
            assert_eq!((shared.len(), shared.kind()), (len, MemoryKind::SharedMemory));
            assert_eq!(anonymous.base().addr().get() % 4096, 0);
            assert_eq!(shared.base().addr().get() % 4096, 0);
        }
    }

    #[test]
    fn ranges_outside_the_mapping_are_refused() {
        let mapping = Mapping::anonymous(10_000).unwrap();
        for (offset, len) in
            [(0, 10_001), (10_000, 1), (10_001, 0), (usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX)]
        {
            for answer in [mapping.populate(offset, len), mapping.give_back(offset, len)] {
                assert!(matches!(answer, Err(Error::InvalidArgument { .. })), "{offset} {len}: {answer:?}");
            }
        }
        mapping.populate(0, 10_000).unwrap();
        mapping.populate(10_000, 0).unwrap();
        mapping.give_back(10_000, 0).ok();
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        let file = file_of(b"");
        let path = Path::new("empty");
        for mapping in [Mapping::file_read_only(&file, path), Mapping::file_read_write(&file, 0, path)] {
            let mapping = mapping.unwrap();
            assert_eq!((mapping.len(), mapping.kind()), (0, MemoryKind::File));
            assert_eq!(mapping.base().addr().get() % 4096, 0, "aligned for any element type");
            mapping.populate(0, 0).unwrap();
            mapping.advise_sequential().unwrap();
            assert!(!mapping.advise_large_pages().unwrap());
            assert!(mapping.populate(0, 1).is_err());
        }
    }

    #[test]
    fn a_written_file_gets_exactly_the_length_asked_for() {
        let path = Path::new("result");
        let file = file_of(b"abcdef");
        drop(Mapping::file_read_write(&file, 10_000, path).unwrap());
        assert_eq!(contents_of(&file), [b"abcdef".as_slice(), &[0; 9_994]].concat(), "grown with zeros");
        drop(Mapping::file_read_write(&file, 3, path).unwrap());
        assert_eq!(contents_of(&file), b"abc", "cut");
        drop(Mapping::file_read_write(&file, 0, path).unwrap());
        assert_eq!(contents_of(&file), b"", "emptied");
    }

    #[test]
    fn giving_back_a_file_is_refused() {
        let file = file_of(&[7; 20_000]);
        for mapping in
            [Mapping::file_read_only(&file, Path::new("f")), Mapping::file_read_write(&file, 20_000, Path::new("f"))]
        {
            assert!(matches!(mapping.unwrap().give_back(0, 20_000), Err(Error::Unsupported { .. })));
        }
        assert_eq!(contents_of(&file), [7; 20_000]);
    }

    #[test]
    #[cfg(unix)]
    fn only_regular_files_are_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let directory = File::open(folder.path()).unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/zero").unwrap();
        for answer in [
            Mapping::file_read_only(&directory, folder.path()),
            Mapping::file_read_only(&device, Path::new("/dev/zero")),
            Mapping::file_read_write(&device, 4096, Path::new("/dev/zero")),
        ] {
            assert!(matches!(answer, Err(Error::Format { .. })), "{answer:?}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_file_open_for_reading_is_not_mapped_for_writing() {
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(named.path(), b"keep").unwrap();
        let file = File::open(named.path()).unwrap();
        let error = Mapping::file_read_write(&file, 4096, named.path()).unwrap_err();
        assert!(matches!(&error, Error::Io { .. }), "{error:?}");
        assert!(error.to_string().contains(named.path().to_str().unwrap()), "{error}");
        assert_eq!(contents_of(&file), b"keep");
    }
}

#[cfg(all(test, target_os = "linux"))]
pub(super) mod linux_tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, SealFlags};
    use rustix::io::{Errno, FdFlags};

    use super::*;

    /// Memory seen from outside the program (/proc/pid/mem): what the kernel has mapped, without a reference to it.
    fn process_memory() -> File {
        File::options().read(true).write(true).open("/proc/self/mem").unwrap()
    }

    pub(in crate::os) fn peek(mapping: &Mapping, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        process_memory().read_exact_at(&mut bytes, (mapping.base().addr().get() + offset) as u64).unwrap();
        bytes
    }

    pub(in crate::os) fn poke(mapping: &Mapping, offset: usize, bytes: &[u8]) {
        process_memory().write_all_at(bytes, (mapping.base().addr().get() + offset) as u64).unwrap();
    }

    /// What /proc/self/smaps says about the range that starts where the mapping does.
    pub(in crate::os) fn smaps(mapping: &Mapping) -> Vec<String> {
        let start = format!("{:x}-", mapping.base().addr());
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
        let mut range = vec![lines.next().expect("the mapping starts a range").to_owned()];
        // The flags are the last line of every range.
        while !range.last().unwrap().starts_with("VmFlags:") {
            range.push(lines.next().unwrap().to_owned());
        }
        range
    }

    /// The trimmed text behind a name of a line such as `Rss:`.
    fn smaps_field(mapping: &Mapping, name: &str) -> String {
        smaps(mapping).iter().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    }

    /// Whether the range has a flag of two letters.
    fn has_flag(mapping: &Mapping, flag: &str) -> bool {
        smaps_field(mapping, "VmFlags:").split(' ').any(|other| other == flag)
    }

    fn memory_of_every_kind(len: usize) -> [Mapping; 2] {
        [Mapping::anonymous(len).unwrap(), Mapping::shared_memory("test", len).unwrap()]
    }

    fn allocated_bytes(mapping: &Mapping) -> u64 {
        rustix::fs::fstat(mapping.fd().unwrap()).unwrap().st_blocks as u64 * 512
    }

    #[test]
    fn shared_memory_is_sealed() {
        let mapping = Mapping::shared_memory("sealed", 10_000).unwrap();
        let fd = mapping.fd().unwrap();
        let seals = rustix::fs::fcntl_get_seals(fd).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL), "{seals:?}");
        assert!(!seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE), "{seals:?}");
        for len in [0, 9_999, 10_001, 1 << 30] {
            assert_eq!(rustix::fs::ftruncate(fd, len), Err(Errno::PERM), "{len}");
        }
        assert_eq!(rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE), Err(Errno::PERM));
        assert_eq!(rustix::fs::fstat(fd).unwrap().st_size, 10_000);
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
        if rustix::fs::memfd_create("probe", MemfdFlags::NOEXEC_SEAL).is_ok() {
            assert_eq!(rustix::fs::fstat(fd).unwrap().st_mode & 0o111, 0, "not executable");
            assert_eq!(rustix::fs::fchmod(fd, rustix::fs::Mode::RWXU), Err(Errno::PERM), "and never will be");
        }
        let range = &smaps(&mapping)[0];
        assert!(range.contains(" rw-s ") && range.contains("/memfd:sealed"), "{range}");
    }

    #[test]
    fn all_but_anonymous_memory_has_a_descriptor() {
        assert!(Mapping::anonymous(1).unwrap().fd().is_none());
        assert!(Mapping::shared_memory("test", 1).unwrap().fd().is_some());
        let file = tempfile::tempfile().unwrap();
        let identity = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|status| (status.st_dev, status.st_ino)).unwrap();
        for len in [0, 1, 5000] {
            let written = Mapping::file_read_write(&file, len, Path::new("f")).unwrap();
            for mapping in [written, Mapping::file_read_only(&file, Path::new("f")).unwrap()] {
                let fd = mapping.fd().unwrap();
                assert_eq!(identity(fd), identity(file.as_fd()));
                assert_ne!(std::os::fd::AsRawFd::as_raw_fd(&fd), std::os::fd::AsRawFd::as_raw_fd(&file), "its own");
                assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
            }
        }
    }

    #[test]
    fn a_second_view_shows_the_same_bytes_and_writes_none() {
        let file = tempfile::tempfile().unwrap();
        let len = 3 * host::page_size() + 77;
        for first in [
            Mapping::shared_memory("test", len).unwrap(),
            Mapping::file_read_write(&file, len, Path::new("f")).unwrap(),
        ] {
            let second = first.second_view().unwrap();
            assert_eq!((second.len(), second.kind()), (len, first.kind()));
            assert!(second.fd().is_none());
            poke(&first, len - 5, b"later");
            assert_eq!(peek(&second, len - 5, 5), b"later");
            assert!(smaps(&second)[0].contains(" r--s "), "{:?}", smaps(&second));
            // To give its pages back would only take them out of this mapping's tables and leave the bytes.
            assert!(matches!(second.give_back(0, len), Err(Error::Unsupported { .. })));
            second.populate(0, len).unwrap();
            assert!(matches!(second.second_view(), Err(Error::Unsupported { .. })));
            drop(first);
            assert_eq!(peek(&second, len - 5, 5), b"later");
        }
        assert!(matches!(Mapping::anonymous(1).unwrap().second_view(), Err(Error::Unsupported { .. })));
        let empty = Mapping::file_read_write(&file, 0, Path::new("f")).unwrap();
        assert_eq!(empty.second_view().unwrap().len(), 0);
    }

    #[test]
    fn what_is_written_to_shared_memory_is_in_its_memfd() {
        let mapping = Mapping::shared_memory("test", 10_000).unwrap();
        poke(&mapping, 9_990, b"0123456789");
        let file = File::from(mapping.fd().unwrap().try_clone_to_owned().unwrap());
        let mut bytes = [0; 12];
        file.read_exact_at(&mut bytes[..], 9_989).unwrap_err();
        file.read_exact_at(&mut bytes[..10], 9_990).unwrap();
        assert_eq!(&bytes[..10], b"0123456789");
    }

    #[test]
    fn anonymous_memory_is_aligned_for_large_pages() {
        for index in 0..100 {
            let mapping = Mapping::anonymous((index % 5 + 1) * host::page_size()).unwrap();
            assert_eq!(mapping.base().addr().get() % (2 << 20), 0);
        }
    }

    // One test and not two, as each would disturb the other's count.
    #[test]
    fn a_mapping_takes_no_more_address_space_than_it_needs_and_returns_it() {
        let address_space = || {
            let figures = std::fs::read_to_string("/proc/self/statm").unwrap();
            figures.split(' ').next().unwrap().parse::<usize>().unwrap() * host::page_size()
        };
        let before = address_space();
        let mappings: Vec<_> = (0..2_000).map(|_| Mapping::anonymous(1).unwrap()).collect();
        // 8 MB are asked for. Without the trimming it would be 4 GB; other tests map far less at the same time.
        assert!(address_space().saturating_sub(before) < 1 << 30);
        drop(mappings);

        // A kernel that never overcommits refuses lengths as those below.
        if std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2") {
            return;
        }
        // Together far more than the 128 TiB a process has.
        for _ in 0..64 {
            drop(Mapping::anonymous(8 << 40).unwrap());
            drop(Mapping::shared_memory("test", 4 << 40).unwrap());
        }
    }

    #[test]
    fn populated_pages_are_resident_and_keep_their_contents() {
        let page = host::page_size();
        for mapping in memory_of_every_kind(64 * page) {
            poke(&mapping, 10 * page + 5, b"kept");
            assert_eq!(mapping.resident_bytes(0, mapping.len()).unwrap(), page as u64, "only the touched page");
            mapping.populate(9 * page + 1, 4 * page).unwrap();
            assert_eq!(mapping.resident_bytes(9 * page, 5 * page).unwrap(), 5 * page as u64);
            assert_eq!(mapping.resident_bytes(0, mapping.len()).unwrap(), 5 * page as u64);
            mapping.populate(0, mapping.len()).unwrap();
            assert_eq!(mapping.resident_bytes(0, mapping.len()).unwrap(), 64 * page as u64);
            assert_eq!(peek(&mapping, 10 * page + 4, 6), b"\0kept\0");
        }
    }

    #[test]
    fn populated_memory_is_ready_to_be_written() {
        let page = host::page_size();
        let mapping = Mapping::anonymous(64 * page).unwrap();
        // Keeps the kernel from joining the range with another test's.
        mapping.advise_sequential().unwrap();
        mapping.populate(0, 32 * page).unwrap();
        // Reading would have brought in the zero page, which does not count here.
        let kibibytes = smaps_field(&mapping, "Private_Dirty:");
        assert_eq!(kibibytes, format!("{} kB", 32 * page / 1024));
    }

    #[test]
    fn pages_given_back_are_neither_resident_nor_allocated() {
        let page = host::page_size();
        let len = 64 * page - 100;
        for mapping in memory_of_every_kind(len) {
            poke(&mapping, 0, &vec![7; len]);
            assert_eq!(mapping.resident_bytes(0, len).unwrap(), 64 * page as u64);
            mapping.give_back(page - 1, 10 * page).unwrap();
            assert_eq!(mapping.resident_bytes(0, len).unwrap(), 55 * page as u64, "9 whole pages lie in the range");
            if mapping.kind() == MemoryKind::SharedMemory {
                assert_eq!(allocated_bytes(&mapping), 55 * page as u64);
            }
            assert_eq!(peek(&mapping, 0, page), vec![7; page]);
            assert_eq!(peek(&mapping, page, 9 * page), vec![0; 9 * page]);
            assert_eq!(peek(&mapping, 10 * page, page), vec![7; page]);
            mapping.give_back(0, len).unwrap();
            assert_eq!(peek(&mapping, len - 1, 1), [0], "the last page goes although the mapping ends inside it");
            mapping.give_back(0, len).unwrap();
            assert_eq!(mapping.resident_bytes(0, len).unwrap(), 0);
            if mapping.kind() == MemoryKind::SharedMemory {
                assert_eq!(allocated_bytes(&mapping), 0);
            }
            poke(&mapping, len - 1, b"x");
            assert_eq!(peek(&mapping, len - 1, 1), b"x", "still mapped");
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(usize, usize, u8),
        GiveBack(usize, usize),
        Populate(usize, usize),
    }

    fn step(len: usize) -> impl Strategy<Value = Step> {
        let range = (0..=len).prop_flat_map(move |offset| (Just(offset), 0..=len - offset));
        prop_oneof![
            (range.clone(), 1..=u8::MAX).prop_map(|((offset, len), byte)| Step::Write(offset, len, byte)),
            range.clone().prop_map(|(offset, len)| Step::GiveBack(offset, len)),
            range.prop_map(|(offset, len)| Step::Populate(offset, len)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn memory_behaves_like_a_vector(steps in prop::collection::vec(step(6 * 4096 + 77), 1..12)) {
            let (page, len) = (host::page_size(), 6 * 4096 + 77);
            for mapping in memory_of_every_kind(len) {
                let mut twin = vec![0; len];
                for step in &steps {
                    match *step {
                        Step::Write(offset, len, byte) => {
                            poke(&mapping, offset, &vec![byte; len]);
                            twin[offset..offset + len].fill(byte);
                        }
                        Step::GiveBack(offset, count) => {
                            mapping.give_back(offset, count).unwrap();
                            for start in (0..len).step_by(page) {
                                let end = (start + page).min(len);
                                if offset <= start && end <= offset + count {
                                    twin[start..end].fill(0);
                                }
                            }
                        }
                        Step::Populate(offset, len) => mapping.populate(offset, len).unwrap(),
                    }
                    prop_assert!(peek(&mapping, 0, len) == twin, "{:?} after {:?}", mapping.kind(), step);
                }
            }
        }
    }

    #[test]
    fn shared_memory_and_its_views_are_aligned_for_large_pages() {
        for len in [LARGE_PAGE, 3 * LARGE_PAGE + 5] {
            let mapping = Mapping::shared_memory("test", len).unwrap();
            let received = Mapping::attach(mapping.fd().unwrap().try_clone_to_owned().unwrap(), len, true).unwrap();
            // Another test may take an address that is wished for, all of them it cannot.
            let views: Vec<_> = (0..20).map(|_| mapping.second_view().unwrap()).collect();
            let views = || views.iter().chain([&received, &mapping]);
            let aligned = views().filter(|view| view.base().addr().get().is_multiple_of(LARGE_PAGE)).count();
            assert!(aligned > views().count() / 2, "{aligned}");
        }
    }

    #[test]
    fn large_pages_taken_on_demand_keep_contents_and_are_large_in_other_views() {
        let len = 3 * LARGE_PAGE + 100;
        let mapping = Mapping::shared_memory("test", len).unwrap();
        poke(&mapping, LARGE_PAGE + 4095, b"kept");
        poke(&mapping, 3 * LARGE_PAGE - 2, b"edge");
        let taken = mapping.take_large_pages(LARGE_PAGE, 2 * LARGE_PAGE);
        let allocated = allocated_bytes(&mapping);
        let mut twin = vec![0; len];
        twin[LARGE_PAGE + 4095..][..4].copy_from_slice(b"kept");
        twin[3 * LARGE_PAGE - 2..][..4].copy_from_slice(b"edge");
        assert!(peek(&mapping, 0, len) == twin);
        if let Err(error) = &taken {
            assert!(matches!(error, Error::Io { .. }), "{error}");
            return;
        }
        assert_eq!(allocated, 2 * LARGE_PAGE as u64 + host::page_size() as u64);
        // Memory that is short may be broken up again at any time, but not a moment after.
        assert_eq!(smaps_field(&mapping, "ShmemPmdMapped:"), format!("{} kB", (2 * LARGE_PAGE) >> 10));
        let view = mapping.second_view().unwrap();
        if view.base().addr().get().is_multiple_of(LARGE_PAGE) {
            view.populate(LARGE_PAGE, 2 * LARGE_PAGE).unwrap();
            assert_eq!(smaps_field(&view, "ShmemPmdMapped:"), format!("{} kB", (2 * LARGE_PAGE) >> 10));
        }
        assert!(peek(&view, 0, len) == twin);
        // A part of a large page is given back like any other.
        let page = host::page_size();
        mapping.give_back(LARGE_PAGE, page).unwrap();
        twin[LARGE_PAGE..LARGE_PAGE + page].fill(0);
        assert!(peek(&view, 0, len) == twin);
    }

    #[test]
    fn memory_is_spread_over_the_nodes_it_is_told() {
        let nodes = crate::os::topology::Topology::read().with_memory();
        // The policy of the range that starts where the mapping does.
        let policy = |mapping: &Mapping| {
            let text = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
            let start = format!("{:x} ", mapping.base().addr());
            let line = text.lines().find_map(|line| line.strip_prefix(&start)).expect("the mapping has a line");
            line.split(' ').next().unwrap().to_owned()
        };
        for mapping in memory_of_every_kind(3 * LARGE_PAGE) {
            if nodes.is_empty() || !Path::new("/proc/self/numa_maps").exists() {
                return;
            }
            // Keeps the kernel from joining the range with another test's.
            mapping.advise_sequential().unwrap();
            assert!(!policy(&mapping).starts_with("interleave"));
            match mapping.interleave(&nodes) {
                Ok(()) => assert!(policy(&mapping).starts_with("interleave"), "{}", policy(&mapping)),
                // Filters of system calls forbid it, as those of containers do.
                Err(Error::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::PermissionDenied),
                Err(error) => panic!("{error}"),
            }
            for none in [vec![], vec![1023]] {
                assert!(matches!(mapping.interleave(&none), Err(Error::Io { .. })), "{none:?}");
            }
            poke(&mapping, LARGE_PAGE - 2, b"works");
            assert_eq!(peek(&mapping, LARGE_PAGE - 2, 5), b"works");
        }
    }

    #[test]
    fn what_has_no_large_pages_on_demand_is_refused() {
        let shared = Mapping::shared_memory("test", 2 * LARGE_PAGE).unwrap();
        for (offset, len) in [(1, LARGE_PAGE), (0, LARGE_PAGE - 4096), (LARGE_PAGE, 2 * LARGE_PAGE), (usize::MAX, 2)] {
            let answer = shared.take_large_pages(offset, len);
            assert!(matches!(answer, Err(Error::InvalidArgument { .. })), "{offset} {len}: {answer:?}");
        }
        let anonymous = Mapping::anonymous(LARGE_PAGE).unwrap();
        assert!(matches!(anonymous.take_large_pages(0, LARGE_PAGE), Err(Error::Unsupported { .. })));
        assert_eq!(anonymous.resident_bytes(0, LARGE_PAGE).unwrap(), 0);
    }

    #[test]
    fn large_pages_are_advised_where_the_kernel_has_them() {
        let modes = host::transparent_large_pages();
        let [anonymous, shared] = memory_of_every_kind(4 << 20);
        for (mapping, mode) in [(anonymous, modes.anonymous), (shared, modes.shared_memory)] {
            assert_eq!(mapping.advise_large_pages().unwrap(), mode.allows_advice(), "{mode:?}");
            if host::large_page_size().is_some() {
                assert!(has_flag(&mapping, "hg"));
            }
        }
    }

    #[test]
    fn a_file_is_mapped_read_only_and_populated_for_reading() {
        let page = host::page_size();
        let file = tempfile::tempfile().unwrap();
        let contents: Vec<u8> = (0..3 * page + 9).map(|index| (index % 251) as u8).collect();
        file.write_all_at(&contents, 0).unwrap();
        let mapping = Mapping::file_read_only(&file, Path::new("f")).unwrap();
        drop(file);
        mapping.advise_sequential().unwrap();
        mapping.populate(page, 2 * page + 9).unwrap();
        assert!(mapping.resident_bytes(page, 2 * page + 9).unwrap() == 3 * page as u64);
        assert_eq!(peek(&mapping, 0, mapping.len()), contents);
        assert!(smaps(&mapping)[0].contains(" r--s "), "{:?}", smaps(&mapping));
        assert!(has_flag(&mapping, "sr"));
    }

    #[test]
    fn writes_to_a_mapped_file_reach_the_file() {
        let file = tempfile::tempfile().unwrap();
        let mapping = Mapping::file_read_write(&file, 9_000, Path::new("f")).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= 9_000, "blocks are reserved");
        mapping.populate(0, 9_000).unwrap();
        poke(&mapping, 8_995, b"12345");
        drop(mapping);
        let mut bytes = vec![1; 9_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [[0; 8_995].as_slice(), b"12345"].concat());
    }

    #[test]
    fn populating_past_the_end_of_a_cut_file_is_an_error_and_no_signal() {
        let page = host::page_size();
        let file = tempfile::tempfile().unwrap();
        let written = Mapping::file_read_write(&file, 4 * page, Path::new("f")).unwrap();
        let read = Mapping::file_read_only(&file, Path::new("f")).unwrap();
        file.set_len(page as u64).unwrap();
        for mapping in [written, read] {
            mapping.populate(0, page).unwrap();
            let Err(Error::Io { operation, source }) = mapping.populate(0, 4 * page) else { panic!("an error is due") };
            assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{operation}: {source}");
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_the_file_as_it_was() {
        // A tmpfs compares the length with its limit before it reserves anything, so that this fills no memory.
        const FOLDER: &str = "/dev/shm";
        let Ok(system) = rustix::fs::statvfs(FOLDER) else { return };
        let Ok(file) = tempfile::tempfile_in(FOLDER) else { return };
        let is_tmpfs = rustix::fs::fstatfs(&file).unwrap().f_type as u64 == 0x0102_1994;
        if !is_tmpfs || system.f_blocks == 0 {
            return;
        }
        file.write_all_at(b"kept", 0).unwrap();
        let len = ((system.f_blocks + 1) * system.f_frsize) as usize;
        let error = Mapping::file_read_write(&file, len, Path::new("result.npy")).unwrap_err();
        assert!(error.to_string().contains("result.npy"), "{error}");
        let Error::Io { source, .. } = error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, file.metadata().unwrap().len()), (b"kept", 4));
    }
}
