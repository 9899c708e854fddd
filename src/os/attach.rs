//! Mapping what another process sent: [`Mapping::attach`] and [`Mapping::attach_file`].
//!
//! A received descriptor is whatever the sender chose, so its kind, its size and, for shared memory, its seals are
//! checked before anything is mapped. What the bytes mean is the receiver's matter.
//!
//! Sources: mmap(2), fcntl(2) (file sealing), fstat(2).

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, SealFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, Result};
use crate::os::claim::{Claim, Use};
use crate::os::host;
use crate::os::map::{Mapping, MemoryKind, Protection, nonzero_pages, whole_pages};
use crate::os::region::Region;

impl Mapping {
    /// Maps the first `len` bytes of shared memory that another process created and sent.
    ///
    /// The memory must be sealed against shrinking, as [`shared_memory`](Self::shared_memory) makes it: then no holder
    /// of a descriptor can make an access inside `len` raise SIGBUS by cutting it. A part of it must end at a page, so
    /// that giving back the last page takes nothing from others. Only a writable mapping keeps the descriptor, for
    /// [`give_back`](Self::give_back), and may be written.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `len` is 0 or does not fit the address space, or the descriptor is not shared
    /// memory, is not sealed, or is shorter than `len` or longer and `len` not a multiple of the page size;
    /// [`Error::Io`] if the system refuses, for example to write what was opened for reading. The descriptor is closed
    /// then.
    pub(crate) fn attach(fd: OwnedFd, len: usize, writable: bool) -> Result<Mapping> {
        let what = "received shared memory";
        let mapped_len = nonzero_pages(what, len)?;
        require_regular_file(&fd, what)?;
        // The seals come first: they cannot be taken off again, so the size that is read under them stays.
        match rustix::fs::fcntl_get_seals(&fd) {
            Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
            Ok(seals) => {
                return Err(Error::invalid(format!("{what} must be sealed against shrinking, found only {seals:?}")));
            }
            Err(Errno::INVAL) => return Err(Error::invalid(format!("{what} must be a memfd, found a file"))),
            Err(error) => return Err(Error::io(format!("read the seals of {what}"), error)),
        }
        let size = require_size(&fd, what, len)?;
        if size > len as u64 && len != mapped_len {
            return Err(Error::invalid(format!(
                "a part of {what} must be a multiple of {} bytes long, found {len} of {size}",
                host::page_size()
            )));
        }
        map_received(fd, len, mapped_len, writable, MemoryKind::SharedMemory)
    }

    /// Maps the first `len` bytes of a file that another process opened and sent; `len` 0 gives an empty mapping.
    ///
    /// Nothing stops a process from cutting the file: touching a page past its new end raises SIGBUS. Only a writable
    /// mapping keeps the descriptor and may be written; what is written reaches the file.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is not a regular file, is shorter than `len`, or `len` does not fit the address
    /// space; [`Error::Io`] if the system refuses, for example to write what was opened for reading. The descriptor is
    /// closed then.
    pub(crate) fn attach_file(fd: OwnedFd, len: usize, writable: bool) -> Result<Mapping> {
        let what = "a received file";
        let Some(mapped_len) = whole_pages(len) else {
            return Err(Error::invalid(format!("{len} bytes of {what} do not fit the address space")));
        };
        require_regular_file(&fd, what)?;
        require_size(&fd, what, len)?;
        map_received(fd, len, mapped_len, writable, MemoryKind::File)
    }
}

/// Bytes for other processes to read, in shared memory that cannot change length; closed on exec.
///
/// # Errors
/// [`Error::InvalidArgument`] if there are none; [`Error::Io`] if the system gives no memory or descriptor.
pub(crate) fn memory_of(name: &str, bytes: &[u8]) -> Result<Mapping> {
    let memory = Mapping::shared_memory(name, bytes.len())?;
    let failed = |error| Error::io(format!("write {} bytes of shared memory named {name:?}", bytes.len()), error);
    let fd = memory.fd().ok_or_else(|| failed(Errno::BADF))?;
    let mut written = 0;
    while written < bytes.len() {
        match retry_on_intr(|| rustix::io::pwrite(fd, &bytes[written..], written as u64)).map_err(failed)? {
            0 => return Err(failed(Errno::NOSPC)),
            count => written += count,
        }
    }
    Ok(memory)
}

/// Copies the first `len` bytes of shared memory that another process sent; what it writes there later changes nothing.
///
/// # Errors
/// [`Error::InvalidArgument`] if it has fewer bytes, or `len` exceeds `limit`; [`Error::Io`] if the system refuses.
pub(crate) fn copy_of(fd: &OwnedFd, len: u64, limit: u64) -> Result<Vec<u8>> {
    let what = "a received table";
    if len > limit {
        return Err(Error::invalid(format!("{what} must have at most {limit} bytes, found {len}")));
    }
    require_regular_file(fd, what)?;
    let mut bytes = vec![0; len as usize];
    require_size(fd, what, bytes.len())?;
    let mut read = 0;
    while read < bytes.len() {
        match retry_on_intr(|| rustix::io::pread(fd, &mut bytes[read..], read as u64)) {
            Ok(0) => return Err(Error::invalid(format!("{what} must have {len} bytes, found {read}"))),
            Ok(count) => read += count,
            Err(error) => return Err(Error::io(format!("read {what}"), error)),
        }
    }
    Ok(bytes)
}

fn require_regular_file(fd: &OwnedFd, what: &str) -> Result<()> {
    let status = rustix::fs::fstat(fd).map_err(|error| Error::io(format!("read the kind of {what}"), error))?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => Ok(()),
        kind => Err(Error::invalid(format!("{what} must be a regular file, found {kind:?}"))),
    }
}

/// The size in bytes, if it is at least `len`.
fn require_size(fd: &OwnedFd, what: &str, len: usize) -> Result<u64> {
    let status = rustix::fs::fstat(fd).map_err(|error| Error::io(format!("read the size of {what}"), error))?;
    match u64::try_from(status.st_size) {
        Ok(size) if size >= len as u64 => Ok(size),
        _ => Err(Error::invalid(format!("{what} must have at least {len} bytes, found {}", status.st_size))),
    }
}

/// Maps `mapped_len` bytes, `len` rounded up to whole pages, of a checked descriptor.
fn map_received(fd: OwnedFd, len: usize, mapped_len: usize, writable: bool, kind: MemoryKind) -> Result<Mapping> {
    let failed = |error| Error::io(format!("map {len} bytes of a received descriptor"), error);
    // A file is claimed by the caller, which knows whether it is read or written.
    let claim = match kind {
        MemoryKind::SharedMemory => Some(Claim::to(&fd, Use::Written).map_err(failed)?),
        MemoryKind::Anonymous | MemoryKind::File => None,
    };
    let region = match mapped_len {
        0 => None,
        _ => Some(Region::of_file(&fd, mapped_len, writable).map_err(failed)?),
    };
    let (protection, kept) = if writable { (Protection::ReadWrite, Some(fd)) } else { (Protection::ReadOnly, None) };
    Ok(Mapping::of_parts(region, len, kind, protection, kept).with_claim(claim))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use rustix::fs::MemfdFlags;

    use super::*;
    use crate::os::map::linux_tests::{peek, poke, smaps};

    fn duplicate(fd: impl AsFd) -> OwnedFd {
        fd.as_fd().try_clone_to_owned().unwrap()
    }

    /// The descriptor of new shared memory, as it would be received.
    fn sent(len: usize) -> (Mapping, OwnedFd) {
        let mapping = Mapping::shared_memory("sent", len).unwrap();
        let fd = duplicate(mapping.fd().unwrap());
        (mapping, fd)
    }

    /// A memfd with these seals.
    fn memory_file(len: usize, seals: SealFlags) -> OwnedFd {
        let fd = rustix::fs::memfd_create("sent", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, len as u64).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    /// A file of this name for reading only.
    fn read_only(path: &str) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    /// What an error that blames the argument says.
    #[track_caller]
    fn refusal(answer: Result<Mapping>) -> String {
        match answer {
            Err(error @ Error::InvalidArgument { .. }) => error.to_string(),
            other => panic!("a refusal is due: {other:?}"),
        }
    }

    #[test]
    fn attached_memory_is_the_memory_that_was_sent() {
        let len = 3 * host::page_size() + 5;
        let (first, fd) = sent(len);
        let written = Mapping::attach(duplicate(&fd), len, true).unwrap();
        let read = Mapping::attach(fd, len, false).unwrap();
        for mapping in [&written, &read] {
            assert_eq!((mapping.len(), mapping.kind()), (len, MemoryKind::SharedMemory));
        }
        assert!(written.fd().is_some() && read.fd().is_none());
        assert!(smaps(&written)[0].contains(" rw-s ") && smaps(&read)[0].contains(" r--s "));
        poke(&first, len - 3, b"abc");
        poke(&written, 0, b"xyz");
        for mapping in [&first, &written, &read] {
            assert_eq!((peek(mapping, 0, 3), peek(mapping, len - 3, 3)), (b"xyz".to_vec(), b"abc".to_vec()));
        }
        drop(first);
        assert!(matches!(read.give_back(0, len), Err(Error::Unsupported { .. })));
        assert_eq!(peek(&read, len - 3, 3), b"abc");
        written.give_back(0, len).unwrap();
        assert_eq!(peek(&read, len - 3, 3), [0; 3]);
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        for seals in [SealFlags::empty(), SealFlags::GROW | SealFlags::SEAL, SealFlags::WRITE] {
            let text = refusal(Mapping::attach(memory_file(4096, seals), 4096, false));
            assert!(text.contains("sealed against shrinking"), "{text}");
        }
        drop(Mapping::attach(memory_file(4096, SealFlags::SHRINK), 4096, true).unwrap());
    }

    #[test]
    fn only_memory_is_attached_as_memory() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        // A file of a tmpfs has seals, but none against shrinking; others have none at all.
        refusal(Mapping::attach(duplicate(&file), 4096, false));
        let (reader, _writer) = std::io::pipe().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        for fd in [reader.into(), read_only("/dev/zero"), read_only(folder.path().to_str().unwrap()), event] {
            for attach in [Mapping::attach, Mapping::attach_file] {
                let text = refusal(attach(duplicate(&fd), 1, false));
                assert!(text.contains("must be a regular file"), "{text}");
            }
        }
    }

    #[test]
    fn the_length_must_lie_in_what_was_sent() {
        let page = host::page_size();
        for len in [0, usize::MAX, isize::MAX as usize] {
            refusal(Mapping::attach(sent(4096).1, len, false));
        }
        let text = refusal(Mapping::attach(sent(2 * page).1, 2 * page + 1, false));
        assert!(text.contains(&format!("at least {} bytes, found {}", 2 * page + 1, 2 * page)), "{text}");
        refusal(Mapping::attach(memory_file(0, SealFlags::SHRINK), 1, false));

        let file = tempfile::tempfile().unwrap();
        file.set_len(4000).unwrap();
        for len in [4001, usize::MAX, isize::MAX as usize] {
            refusal(Mapping::attach_file(duplicate(&file), len, false));
        }
        assert_eq!(file.metadata().unwrap().len(), 4000, "looking changes nothing");
    }

    #[test]
    fn what_was_opened_for_reading_is_not_written() {
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(named.path(), b"keep").unwrap();
        let path = named.path().to_str().unwrap();
        let error = Mapping::attach_file(read_only(path), 4, true).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        assert_eq!(peek(&Mapping::attach_file(read_only(path), 4, false).unwrap(), 0, 4), b"keep");

        let frozen = memory_file(4096, SealFlags::SHRINK | SealFlags::WRITE);
        let error = Mapping::attach(frozen, 4096, true).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }

    #[test]
    fn an_attached_file_is_the_file_that_was_sent() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 9000]).unwrap();
        let written = Mapping::attach_file(duplicate(&file), 9000, true).unwrap();
        let read = Mapping::attach_file(duplicate(&file), 8999, false).unwrap();
        assert_eq!((written.kind(), written.len(), read.len()), (MemoryKind::File, 9000, 8999));
        assert!(written.fd().is_some() && read.fd().is_none());
        poke(&written, 8990, b"new");
        assert_eq!(peek(&read, 8989, 5), b"\x07new\x07");
        for mapping in [written, read] {
            assert!(matches!(mapping.give_back(0, 8000), Err(Error::Unsupported { .. })));
        }
        let empty = Mapping::attach_file(duplicate(&file), 0, true).unwrap();
        assert_eq!((empty.len(), file.metadata().unwrap().len()), (0, 9000));
    }

    #[test]
    fn bytes_are_copied_as_they_were_sent() {
        let sent: Vec<u8> = (0..10_000).map(|at| (at % 251) as u8).collect();
        let memory = memory_of("bytes", &sent).unwrap();
        let fd = duplicate(memory.fd().unwrap());
        assert_eq!(copy_of(&fd, 10_000, 1 << 20).unwrap(), sent);
        assert_eq!(copy_of(&fd, 10, 10).unwrap(), sent[..10]);
        for (len, limit) in [(10_001, 1 << 20), (10_000, 9_999), (u64::MAX, 9_999)] {
            assert!(matches!(copy_of(&fd, len, limit), Err(Error::InvalidArgument { .. })), "{len}");
        }
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(matches!(copy_of(&reader.into(), 1, 10), Err(Error::InvalidArgument { .. })));
    }

    #[test]
    fn a_refused_descriptor_is_closed() {
        let (reader, writer) = std::io::pipe().unwrap();
        refusal(Mapping::attach(writer.into(), 1, false));
        // A child that another test is starting may hold a copy for a moment.
        let patient = Some(host::Deadline::after(core::time::Duration::from_secs(3600)));
        assert!(crate::os::events::wait_until_readable(reader.as_fd(), patient).unwrap(), "no writer is left");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_part_is_attached_exactly_if_it_is_pages_or_everything(size in 1..20_000_usize, len in 0..24_000_usize) {
            let page = host::page_size();
            let fits = len != 0 && (len == size || len < size && len.is_multiple_of(page));
            let (first, fd) = sent(size);
            poke(&first, 0, &vec![7; size]);
            let answer = Mapping::attach(fd, len, true);
            prop_assert_eq!(answer.is_ok(), fits);
            if let Ok(part) = answer {
                // What a part gives back is its own bytes and no others.
                part.give_back(0, len).unwrap();
                prop_assert!(peek(&first, 0, size) == [vec![0; len], vec![7; size - len]].concat());
            }
        }
    }
}
