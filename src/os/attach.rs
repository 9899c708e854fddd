//! Mapping what another process sent: [`Mapping::attach`] and [`Mapping::attach_file`].
//!
//! A received descriptor is whatever the sender chose, so its kind, its size and, for shared memory, its seals are
//! checked before anything is mapped. What the bytes mean is the receiver's matter.
//!
//! Sources: mmap(2), fcntl(2) (file sealing), fstat(2).

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, SealFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::os::host;
use crate::os::map::{Access, Kind, Mapping, nonzero_pages, whole_pages};
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
        map_received(fd, len, mapped_len, writable, Kind::SharedMemory)
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
        map_received(fd, len, mapped_len, writable, Kind::File)
    }
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
fn map_received(fd: OwnedFd, len: usize, mapped_len: usize, writable: bool, kind: Kind) -> Result<Mapping> {
    let region = match mapped_len {
        0 => None,
        _ => Some(
            Region::of_file(&fd, mapped_len, writable)
                .map_err(|error| Error::io(format!("map {len} bytes of a received descriptor"), error))?,
        ),
    };
    let (access, kept) = if writable { (Access::ReadWrite, Some(fd)) } else { (Access::ReadOnly, None) };
    Ok(Mapping::of_parts(region, len, kind, access, kept))
}
