//! The system calls behind [`Mapping`](super::map::Mapping), and the only unsafe code about mappings.
//!
//! Sources: mmap(2), madvise(2), memfd_create(2), fallocate(2), fcntl(2) (file sealing), futex(2).
//!
//! # Laws
//! 1. A [`Region`] is the only owner of its address range: the range was returned by the system for this region,
//!    nothing else unmaps, remaps or protects any page of it, and it stays mapped, at the same address, until the
//!    region is dropped.
//! 2. This module neither reads nor writes a mapped byte and never lets a reference to one be used. A caller that makes a
//!    reference from [`Region::base`] keeps the region alive and answers for every other access to the same bytes,
//!    where [`Region::discard`] and [`punch_hole`] count as writes of zeros.
//! 3. Every range becomes an address in [`Region::pages`] alone, which refuses one that does not lie in the region.
//! 4. No call changes what a mapped byte holds, except the two named in law 2.

#![allow(unsafe_code)]

#[cfg(any(miri, not(target_os = "linux")))]
pub(crate) use elsewhere::*;
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) use linux::*;
#[cfg(miri)]
pub(crate) use miri::*;
#[cfg(all(not(target_os = "linux"), not(miri)))]
pub(crate) use portable::*;

/// What is asked of the system on Linux only.
#[cfg(any(miri, not(target_os = "linux")))]
mod elsewhere {
    use core::ops::Range;
    use std::fs::File;
    use std::io;

    use super::Region;

    impl Region {
        /// Large pages cannot be asked for here.
        pub(crate) fn advise_large_pages(&self) -> io::Result<bool> {
            Ok(false)
        }

        /// Pages lie where the system puts them here.
        pub(crate) fn interleave(&self, _nodes: &[usize]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        /// No page can be made large here.
        pub(crate) fn collapse(&self, _range: Range<usize>) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        /// A hint that goes nowhere here.
        pub(crate) fn advise_sequential(&self) -> io::Result<()> {
            Ok(())
        }

        /// Pages come on first touch here, or are all there.
        pub(crate) fn populate_write(&self, _range: Range<usize>) -> io::Result<()> {
            Ok(())
        }

        /// As above.
        pub(crate) fn populate_read(&self, _range: Range<usize>) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks cannot be reserved here; the caller sets the length.
    pub(crate) fn reserve_blocks(_file: &File, _len: u64) -> io::Result<()> {
        Ok(())
    }

    /// No call of this module answers with a bad address here.
    pub(crate) fn is_bad_address(_error: &io::Error) -> bool {
        false
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod linux {
    use core::ffi::c_void;
    use core::ops::Range;
    use core::ptr::{self, NonNull};
    use core::sync::atomic::AtomicU32;
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
    use rustix::io::{Errno, retry_on_intr};
    use rustix::mm::{Advice, MapFlags, ProtFlags};
    use rustix::thread::futex;

    use crate::os::{events, host};

    /// The alignment of regions that may get large pages, in bytes.
    const LARGE_PAGE_ALIGNMENT: usize = host::LARGE_PAGE;

    /// Advice that rustix has no value for (Linux 6.1, madvise(2)).
    const MADV_COLLAPSE: nix::libc::c_int = 25;

    /// Whole pages of address space, owned (law 1).
    #[derive(Debug)]
    pub(crate) struct Region {
        base: NonNull<u8>,
        len: usize,
    }

    impl Region {
        /// Maps `len` bytes (whole pages) of private memory at a multiple of [`LARGE_PAGE_ALIGNMENT`].
        pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
            Self::aligned(len, ProtFlags::READ | ProtFlags::WRITE)
        }

        /// As [`Region::anonymous`], with a protection.
        fn aligned(len: usize, protection: ProtFlags) -> io::Result<Self> {
            // A page-aligned range this much longer holds an aligned one of `len` bytes; the rest is unmapped again.
            let spare = LARGE_PAGE_ALIGNMENT.saturating_sub(host::page_size());
            let reserved = len.checked_add(spare).ok_or(Errno::NOMEM)?;
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: without MAP_FIXED and with a null address the system picks a range that nothing uses.
            let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), reserved, protection, flags) }?;
            let mut region = Self::own(base, reserved)?;
            let address = region.base.addr().get();
            let unaligned = address % LARGE_PAGE_ALIGNMENT;
            region.trim_front(if unaligned == 0 { 0 } else { LARGE_PAGE_ALIGNMENT - unaligned })?;
            region.trim_back(len)?;
            Ok(region)
        }

        /// Maps the first `len` bytes (whole pages) of a file or memfd, shared with its other mappings; at a multiple of
        /// [`LARGE_PAGE_ALIGNMENT`] if one is free.
        pub(crate) fn of_file(file: impl AsFd, len: usize, writable: bool) -> io::Result<Self> {
            let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
            let wish = Self::aligned_wish(len);
            // SAFETY: without MAP_FIXED the system picks a range that nothing uses, whatever address is wished for.
            let base = unsafe { rustix::mm::mmap(wish, len, protection, MapFlags::SHARED, file, 0) }?;
            Self::own(base, len)
        }

        /// An aligned address with `len` free bytes, or null. Other threads may map something there before the caller does,
        /// which then gets an address that is aligned to pages only: nothing but the size of pages depends on it.
        fn aligned_wish(len: usize) -> *mut c_void {
            if len < LARGE_PAGE_ALIGNMENT {
                return ptr::null_mut();
            }
            // Without access, so that no limit on private memory counts it.
            Self::aligned(len, ProtFlags::empty()).map_or(ptr::null_mut(), |free| free.base.as_ptr().cast())
        }

        /// Takes ownership of what mmap(2) returned.
        fn own(base: *mut c_void, len: usize) -> io::Result<Self> {
            // mmap(2) never picks address 0 by itself (vm.mmap_min_addr), so the error is not reached.
            let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
            Ok(Self { base, len })
        }

        /// Unmaps the first `count` bytes, a whole number of pages below the length.
        fn trim_front(&mut self, count: usize) -> io::Result<()> {
            if count == 0 {
                return Ok(());
            }
            // SAFETY: law 1: the pages are ours, and the region has not left its constructor, so nobody uses them.
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), count) }?;
            // SAFETY: `count` is below the length of the region, so the sum stays inside the range mmap(2) returned.
            self.base = unsafe { self.base.add(count) };
            self.len -= count;
            Ok(())
        }

        /// Unmaps everything behind the first `keep` bytes, a whole number of pages up to the length.
        fn trim_back(&mut self, keep: usize) -> io::Result<()> {
            let count = self.len - keep;
            if count == 0 {
                return Ok(());
            }
            // SAFETY: `keep + count` is the length of the region, and as in `trim_front` nobody uses the pages.
            unsafe { rustix::mm::munmap(self.base.as_ptr().add(keep).cast(), count) }?;
            self.len = keep;
            Ok(())
        }

        /// The address of the first byte, page-aligned.
        #[inline]
        pub(crate) fn base(&self) -> NonNull<u8> {
            self.base
        }

        /// The address and length of a range of bytes of the region (law 3).
        ///
        /// # Errors
        /// `ERANGE` if the range does not lie in the region. Callers check ranges against the length they know, so that
        /// this answer would be a bug of theirs and not of their users.
        fn pages(&self, range: Range<usize>) -> Result<(*mut c_void, usize), Errno> {
            let len = range.end.checked_sub(range.start).ok_or(Errno::RANGE)?;
            if range.end > self.len {
                return Err(Errno::RANGE);
            }
            // SAFETY: `start <= end <= self.len`, so the address lies in the region or one past its last byte.
            Ok((unsafe { self.base.add(range.start) }.as_ptr().cast(), len))
        }

        /// Passes `advice` about whole pages to the system.
        ///
        /// # Safety
        /// The advice changes no byte of the range, or only bytes that law 2 lets the caller overwrite.
        unsafe fn advise(&self, range: Range<usize>, advice: Advice) -> Result<(), Errno> {
            let (address, len) = self.pages(range)?;
            // SAFETY: the range lies in the region (law 3), which is mapped (law 1); the effect is the caller's
            // promise.
            retry_on_intr(|| unsafe { rustix::mm::madvise(address, len, advice) })
        }

        /// Asks for large pages; `false` if the kernel was built without them.
        pub(crate) fn advise_large_pages(&self) -> io::Result<bool> {
            // SAFETY: MADV_HUGEPAGE changes no byte.
            match unsafe { self.advise(0..self.len, Advice::LinuxHugepage) } {
                Ok(()) => Ok(true),
                Err(Errno::INVAL) => Ok(false),
                Err(error) => Err(error.into()),
            }
        }

        /// Has pages that are taken from now on spread over memory nodes, page by page in turn (mbind(2)); for shared memory,
        /// whichever process takes them.
        pub(crate) fn interleave(&self, nodes: &[usize]) -> io::Result<()> {
            const BITS: usize = nix::libc::c_ulong::BITS as usize;
            let (address, len) = self.pages(0..self.len)?;
            let words = nodes.iter().map(|node| node / BITS + 1).max().unwrap_or(0);
            let mut mask: Vec<nix::libc::c_ulong> = vec![0; words];
            nodes.iter().for_each(|node| mask[node / BITS] |= 1 << (node % BITS));
            // The system reads one bit less than it is told of.
            let bits = words * BITS + 1;
            let (call, mode, flags) = (nix::libc::SYS_mbind, nix::libc::MPOL_INTERLEAVE, 0);
            // SAFETY: the range is the region (law 3), which is mapped (law 1); where pages will lie changes no byte of it (law 4).
            // The call reads `bits - 1` bits of the mask, which has as many.
            match unsafe { nix::libc::syscall(call, address, len, mode, mask.as_ptr(), bits, flags) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }

        /// Moves what lies in an aligned range to large pages, all of it or a part.
        pub(crate) fn collapse(&self, range: Range<usize>) -> io::Result<()> {
            let (address, len) = self.pages(range)?;
            // SAFETY: the range lies in the region (law 3), which is mapped (law 1). MADV_COLLAPSE changes where bytes lie in
            // memory and neither their addresses nor what they hold (law 4).
            match unsafe { nix::libc::madvise(address, len, MADV_COLLAPSE) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }

        /// Announces one pass from front to back.
        pub(crate) fn advise_sequential(&self) -> io::Result<()> {
            // SAFETY: MADV_SEQUENTIAL changes no byte.
            Ok(unsafe { self.advise(0..self.len, Advice::Sequential) }?)
        }

        /// Brings in whole pages of a writable region for writing, keeping their contents.
        pub(crate) fn populate_write(&self, range: Range<usize>) -> io::Result<()> {
            // SAFETY: MADV_POPULATE_WRITE prepares for writes and makes none.
            match unsafe { self.advise(range.clone(), Advice::LinuxPopulateWrite) } {
                // Linux before 5.14 does not know the advice.
                Err(Errno::INVAL) => self.populate_page_by_page(range),
                answer => Ok(answer?),
            }
        }

        /// Brings in whole pages for reading; on kernels before 5.14 only starts to read them from the file.
        pub(crate) fn populate_read(&self, range: Range<usize>) -> io::Result<()> {
            // SAFETY: MADV_POPULATE_READ changes no byte.
            match unsafe { self.advise(range.clone(), Advice::LinuxPopulateRead) } {
                // SAFETY: MADV_WILLNEED changes no byte.
                Err(Errno::INVAL) => Ok(unsafe { self.advise(range, Advice::WillNeed) }?),
                answer => Ok(answer?),
            }
        }

        /// Has the kernel store to every page what its first word already holds, for kernels without
        /// `MADV_POPULATE_WRITE`.
        ///
        /// `FUTEX_WAKE_OP` does `word |= 0` as one atomic step in the kernel. An atomic operation of this program would
        /// not do: where a page cannot be had it raises SIGBUS instead of returning `EFAULT`, it would race with plain
        /// writes of other threads, and compilers may turn an or with 0 into a load. The call may wake a waiter on the
        /// word, which every futex wait allows for.
        pub(crate) fn populate_page_by_page(&self, range: Range<usize>) -> io::Result<()> {
            let (address, len) = self.pages(range)?;
            let nobody_waits_here = AtomicU32::new(0);
            for offset in (0..len).step_by(host::page_size()) {
                // SAFETY: the range consists of whole pages of the region (law 3), so the word is mapped while `self`
                // lives, and aligned. The reference is an address for the kernel; this program accesses nothing through
                // it (law 2).
                let word = unsafe { AtomicU32::from_ptr(address.cast::<u8>().add(offset).cast()) };
                let (or, less, private) = (futex::WakeOp::Or, futex::WakeOpCmp::Lt, futex::Flags::PRIVATE);
                retry_on_intr(|| futex::wake_op(&nobody_waits_here, private, 0, 0, word, or, less, 0, 0))?;
            }
            Ok(())
        }

        /// Drops whole pages of an anonymous region; they read as zero afterwards (law 2).
        pub(crate) fn discard(&self, range: Range<usize>) -> io::Result<()> {
            // SAFETY: MADV_DONTNEED on private anonymous memory is a write of zeros, which law 2 makes the callers'
            // matter.
            Ok(unsafe { self.advise(range, Advice::LinuxDontNeed) }?)
        }
    }

    // SAFETY: law 1: the range belongs to the value and not to a thread, and may be unmapped from any thread.
    unsafe impl Send for Region {}
    // SAFETY: law 2: `&Region` gives no access to the bytes, and the system calls made through it are thread-safe.
    unsafe impl Sync for Region {}

    impl Drop for Region {
        fn drop(&mut self) {
            // A refusal (`ENOMEM`, when the kernel would have to split a range and the process already has
            // `vm.max_map_count` of them) leaks address space and harms nothing else.
            // SAFETY: the range is ours (law 1), and no reference into it is left (law 2).
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }

    /// A memfd of `len` bytes that can neither shrink nor grow.
    pub(crate) fn sealed_memory_file(name: &str, len: usize) -> io::Result<OwnedFd> {
        host::check_file_size(len as u64)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory_file = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 does not know MFD_NOEXEC_SEAL.
            Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
            answer => answer?,
        };
        let memory_file = events::above_standard_streams(memory_file)?;
        retry_on_intr(|| rustix::fs::ftruncate(&memory_file, len as u64))?;
        rustix::fs::fcntl_add_seals(&memory_file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(memory_file)
    }

    /// Frees the pages of a memfd; they read as zero afterwards, in every mapping.
    pub(crate) fn punch_hole(memory_file: &OwnedFd, pages: &Range<usize>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(retry_on_intr(|| rustix::fs::fallocate(memory_file, flags, pages.start as u64, pages.len() as u64))?)
    }

    /// Reserves blocks for the first `len` bytes of a file and makes it at least that long, where the file system can.
    pub(crate) fn reserve_blocks(file: &File, len: u64) -> io::Result<()> {
        if len > file.metadata()?.len() {
            host::check_file_size(len)?;
        }
        match retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)) {
            // The file stays sparse, as the documentation of `Mapping::file_read_write` says. posix_fallocate(3) would
            // write a byte to every block instead, which races with other writers of the file.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            answer => Ok(answer?),
        }
    }

    /// Whether the system said `EFAULT`: it could not make a page of a mapped range accessible.
    pub(crate) fn is_bad_address(error: &io::Error) -> bool {
        Errno::from_io_error(error) == Some(Errno::FAULT)
    }
}

/// Memory of the allocator in the place of mappings, for Miri, which knows the former only: all that is private to one process works.
#[cfg(miri)]
mod miri {
    use core::ops::Range;
    use core::ptr::NonNull;
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use crate::os::host;

    /// Whole pages of the allocator's, owned (law 1).
    #[derive(Debug)]
    pub(crate) struct Region {
        base: NonNull<u8>,
        layout: Layout,
    }

    fn unsupported() -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, "Miri maps no files")
    }

    impl Region {
        /// `len` bytes of zeros at a page's alignment.
        pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
            let layout = Layout::from_size_align(len, host::page_size()).map_err(io::Error::other)?;
            // SAFETY: the length is not 0: callers round it up to whole pages.
            let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { base, layout })
        }

        /// No file is mapped here.
        pub(crate) fn of_file(_file: impl AsFd, _len: usize, _writable: bool) -> io::Result<Self> {
            Err(unsupported())
        }

        /// The address of the first byte, page-aligned.
        pub(crate) fn base(&self) -> NonNull<u8> {
            self.base
        }

        /// Writes zeros, as dropped pages read (law 2).
        pub(crate) fn discard(&self, range: Range<usize>) -> io::Result<()> {
            assert!(range.start <= range.end && range.end <= self.layout.size());
            // SAFETY: the range lies in the region (just checked); other accesses to it are the callers' matter (law 2).
            unsafe { self.base.add(range.start).as_ptr().write_bytes(0, range.len()) };
            Ok(())
        }
    }

    // SAFETY: law 1: the range belongs to the value and not to a thread.
    unsafe impl Send for Region {}
    // SAFETY: law 2: `&Region` gives no access to the bytes.
    unsafe impl Sync for Region {}

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: allocated with this layout (law 1), and no reference into it is left (law 2).
            unsafe { dealloc(self.base.as_ptr(), self.layout) };
        }
    }

    /// There is no shared memory here.
    pub(crate) fn sealed_memory_file(_name: &str, _len: usize) -> io::Result<OwnedFd> {
        Err(unsupported())
    }

    /// As above.
    pub(crate) fn punch_hole(_memory_file: &OwnedFd, _pages: &Range<usize>) -> io::Result<()> {
        Err(unsupported())
    }
}

#[cfg(all(not(target_os = "linux"), not(miri)))]
mod portable {
    use core::ptr::NonNull;
    use std::fs::File;
    use std::io;

    use memmap2::{MmapOptions, MmapRaw};

    /// Address space owned by memmap2, which never lets go of it before it is dropped (law 1) and is `Send` and `Sync`.
    #[derive(Debug)]
    pub(crate) struct Region(MmapRaw);

    impl Region {
        /// Maps `len` bytes of private memory at a multiple of the page size.
        pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
            Ok(Self(MmapOptions::new().len(len).no_reserve_swap().map_anon()?.into()))
        }

        /// Maps the whole of a file; the rounded length is not used, as Windows maps no byte behind the end of a file.
        pub(crate) fn of_file(file: &File, _len: usize, writable: bool) -> io::Result<Self> {
            let options = MmapOptions::new();
            Ok(Self(if writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? }))
        }

        /// The address of the first byte, page-aligned.
        #[inline]
        pub(crate) fn base(&self) -> NonNull<u8> {
            // No system maps anything at address 0; the second value only keeps a panic out of the code.
            NonNull::new(self.0.as_mut_ptr()).unwrap_or(NonNull::dangling())
        }
    }
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use core::time::Duration;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::os::futex::{self, Scope, Waited};
    use crate::os::host::{self, Deadline};

    #[test]
    fn a_range_outside_the_region_never_reaches_the_system() {
        let page = host::page_size();
        let region = Region::anonymous(2 * page).unwrap();
        region.populate_write(0..2 * page).unwrap();
        for range in [0..3 * page, 2 * page..3 * page, page..0, 0..usize::MAX] {
            let range_error = Some(rustix::io::Errno::RANGE.raw_os_error());
            assert_eq!(region.populate_write(range.clone()).unwrap_err().raw_os_error(), range_error);
            assert_eq!(region.populate_read(range.clone()).unwrap_err().raw_os_error(), range_error);
            assert_eq!(region.populate_page_by_page(range.clone()).unwrap_err().raw_os_error(), range_error);
            assert_eq!(region.discard(range).unwrap_err().raw_os_error(), range_error);
        }
    }

    #[test]
    fn populating_page_by_page_brings_in_every_page_and_changes_no_byte() {
        let page = host::page_size();
        let memory_file = sealed_memory_file("test", 16 * page).unwrap();
        for region in [Region::anonymous(16 * page).unwrap(), Region::of_file(memory_file, 16 * page, true).unwrap()] {
            let bytes = region.base().as_ptr();
            // SAFETY: both bytes lie in the region, which nobody else accesses.
            unsafe {
                bytes.add(3 * page).write(0x80);
                bytes.add(4 * page + 3).write(0x81);
            }
            region.populate_page_by_page(2 * page..16 * page).unwrap();
            let resident: Vec<bool> = (0..16).map(|index| is_resident(bytes.addr() / page + index)).collect();
            assert_eq!(resident, [[false; 2].as_slice(), &[true; 14]].concat());
            for offset in 0..16 * page {
                // SAFETY: the byte lies in the region, which nobody else accesses.
                let byte = unsafe { bytes.add(offset).read() };
                let expected = match offset {
                    _ if offset == 3 * page => 0x80,
                    _ if offset == 4 * page + 3 => 0x81,
                    _ => 0,
                };
                assert_eq!(byte, expected, "{offset}");
            }
        }
    }

    /// Whether the process has the page of this number in memory or swap (/proc/pid/pagemap, bits 63 and 62).
    fn is_resident(number: usize) -> bool {
        let mut entry = [0; 8];
        let map = std::fs::File::open("/proc/self/pagemap").unwrap();
        map.read_exact_at(&mut entry, number as u64 * 8).unwrap();
        u64::from_ne_bytes(entry) >> 62 != 0
    }

    #[test]
    fn populating_page_by_page_past_the_end_of_a_cut_file_is_an_error_and_no_signal() {
        let page = host::page_size();
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * page as u64).unwrap();
        let region = Region::of_file(file.as_fd(), 4 * page, true).unwrap();
        file.set_len(page as u64).unwrap();
        region.populate_page_by_page(0..page).unwrap();
        assert!(is_bad_address(&region.populate_page_by_page(0..2 * page).unwrap_err()));
    }

    /// Wakes `wake` of scope `scope` until the sleeper on `wait` has returned, at most until `poison`; says why it
    /// returned.
    fn sleep_and_wake(wait: &AtomicU32, wake: &AtomicU32, scope: Scope, poison: Deadline) -> Waited {
        let returned = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let sleeper = threads.spawn(|| {
                let waited = futex::wait_until(wait, 0, poison, scope);
                // Release: pairs with the Acquire below, which only ends the waking.
                returned.store(true, Ordering::Release);
                waited
            });
            // Acquire: pairs with the Release above. Seeing it late costs another wake.
            while !returned.load(Ordering::Acquire) {
                futex::wake_all(wake, scope);
                std::thread::sleep(Duration::from_millis(1));
            }
            sleeper.join().unwrap()
        })
    }

    #[test]
    fn only_a_shared_wake_reaches_another_mapping_of_the_same_word() {
        let page = host::page_size();
        let memory_file = sealed_memory_file("test", page).unwrap();
        let [here, there] = [(); 2].map(|()| Region::of_file(&memory_file, page, true).unwrap());
        assert_ne!(here.base(), there.base());
        // SAFETY: both point to the same word of zeroed shared memory, mapped for as long as `here` and `there` live,
        // aligned, and accessed only atomically.
        let (here, there): (&AtomicU32, &AtomicU32) =
            unsafe { (here.base().cast().as_ref(), there.base().cast().as_ref()) };
        let patient = Deadline::after(Duration::from_secs(3600));
        assert_eq!(sleep_and_wake(here, there, Scope::Shared, patient), Waited::Woken);
        assert_eq!(sleep_and_wake(here, here, Scope::Private, patient), Waited::Woken);
        let soon = Deadline::after(Duration::from_millis(200));
        assert_eq!(sleep_and_wake(here, there, Scope::Private, soon), Waited::TimedOut);
    }
}
