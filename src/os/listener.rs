//! A place in the file system where processes that somebody else started connect: [`Listener`], and [`connect`].
//!
//! Only the owner of the process that listens, and root, can connect: the socket's file has mode 0600 from the moment it exists.
//! A process that is killed leaves the file behind; the next one that listens there takes the place of a file nobody answers at.
//!
//! Sources: unix(7), bind(2), listen(2), accept(2), connect(2).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::os::channel::Channel;
use crate::os::credentials::tell_senders;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// How long [`connect`] waits for a place among them.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A socket at a path that accepts [`Channel`]s, closed on exec. Its file is removed on drop.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file, so that nobody else's is removed.
    file: (u64, u64),
}

impl Listener {
    /// Listens at `path`, where no file may be but the socket of a process that is gone. Does not block.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the path is too long for a socket (107 bytes), or something is there already; [`Error::Io`] if
    /// the system refuses, for example because the folder does not exist.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let failed = |error| Error::io(format!("listen at {}", path.display()), error);
        let address = address(path)?;
        let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        // The mode of the socket's own inode is what the file gets; there is no moment at which others may connect.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        match rustix::net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_if_abandoned(path, &address)?;
                rustix::net::bind(&socket, &address).map_err(failed)?;
            }
            answer => answer.map_err(failed)?,
        }
        let file = identity(path).map_err(failed)?;
        let listener = Self { socket, path: path.to_owned(), file };
        // Sockets that are accepted inherit it.
        tell_senders(&listener.socket, true)?;
        rustix::net::listen(&listener.socket, BACKLOG).map_err(failed)?;
        Ok(listener)
    }

    /// The next connection, if one waits: an end that does not block, and at which the senders of messages
    /// [are told](crate::os::credentials::tell_senders). A connection that was given up meanwhile counts as none.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses, for example because too many files are open: the connection waits on.
    pub(crate) fn accept(&self) -> Result<Option<Channel>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match retry_on_intr(|| rustix::net::accept_with(&self.socket, flags)) {
            Ok(socket) => Channel::from_fd(socket).map(Some),
            Err(Errno::AGAIN | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(Error::io(format!("accept a connection at {}", self.path.display()), error)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path) == Ok(self.file) {
            // Somebody else may have removed it; there is nobody to tell.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// Connects to a [`Listener`] of another process: an end that blocks. Blocks for ten seconds at most while that process accepts
/// nobody.
///
/// # Errors
/// [`Error::InvalidArgument`] if the path is too long; [`Error::Io`] if nobody listens there or the system refuses.
pub(crate) fn connect(path: &Path) -> Result<Channel> {
    let socket = new_socket(SocketFlags::CLOEXEC)?;
    let failed = |error| Error::io(format!("connect to {}", path.display()), error);
    // It limits connecting too; every later message of this end is sent without waiting.
    rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_LIMIT)).map_err(failed)?;
    let address = address(path)?;
    retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(|error| match error {
        Errno::AGAIN => Error::io(format!("connect to {}", path.display()), std::io::ErrorKind::TimedOut),
        error => failed(error),
    })?;
    Channel::from_fd(socket)
}

fn new_socket(flags: SocketFlags) -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|error| Error::io("create a socket", error))
}

fn address(path: &Path) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(|error| match error {
        Errno::NAMETOOLONG => Error::invalid(format!(
            "the path of a socket must have at most 107 bytes, {} has {}",
            path.display(),
            path.as_os_str().len()
        )),
        _ => Error::invalid(format!("{} cannot be the path of a socket", path.display())),
    })
}

/// Device and inode of the file at `path`, not followed if it is a link.
fn identity(path: &Path) -> rustix::io::Result<(u64, u64)> {
    rustix::fs::lstat(path).map(|status| (status.st_dev, status.st_ino))
}

/// Removes the socket of a process that is gone.
///
/// # Errors
/// [`Error::InvalidArgument`] if it is no socket or somebody answers there; [`Error::Io`] if the system refuses.
fn remove_if_abandoned(path: &Path, address: &SocketAddrUnix) -> Result<()> {
    let failed = |error| Error::io(format!("look at {}", path.display()), error);
    let taken = |what: &str| Err(Error::invalid(format!("{what} at {}: choose another path", path.display())));
    match rustix::fs::lstat(path) {
        Ok(status) if FileType::from_raw_mode(status.st_mode) == FileType::Socket => {}
        Ok(_) => return taken("there is a file already"),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    let probe = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => match rustix::fs::unlink(path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io(format!("remove {}, at which nobody listens", path.display()), error)),
        },
        Err(Errno::NOENT) => Ok(()),
        // A full backlog is somebody, and so is a socket of another type.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => taken("somebody listens already"),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::os::channel::{Received, Sent};
    use crate::os::host::Deadline;

    fn patient() -> Deadline {
        Deadline::after(Duration::from_secs(3600))
    }

    #[test]
    fn who_connects_is_accepted_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&path).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let there = connect(&path).unwrap();
        assert!(crate::os::events::wait_until_readable(listener.as_fd(), Some(patient())).unwrap());
        let here = listener.accept().unwrap().expect("one waits");
        assert!(listener.accept().unwrap().is_none());
        assert_eq!(there.send(b"hello", &[]).unwrap(), Sent::Sent);
        let mut buffer = Vec::new();
        assert!(
            matches!(here.receive_until(&mut buffer, patient()).unwrap(), Received::Message(fds) if fds.is_empty())
        );
        assert_eq!(buffer, b"hello");
        drop(there);
        assert!(matches!(here.receive_until(&mut buffer, patient()).unwrap(), Received::PeerGone));
    }

    #[test]
    fn the_file_is_for_its_owner_alone_and_goes_with_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
        // Somebody else's file of the same name stays.
        let listener = Listener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(listener);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn an_abandoned_socket_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // A listener of the standard library leaves its file behind, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let inode = path.metadata().unwrap().ino();
        let listener = Listener::bind(&path).unwrap();
        let text = Listener::bind(&path).unwrap_err().to_string();
        assert!(text.contains("somebody listens already"), "{text}");
        connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists(), "inode {inode} was replaced");
        std::fs::write(&path, "precious").unwrap();
        let text = Listener::bind(&path).unwrap_err().to_string();
        assert!(text.contains("there is a file already"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let stream = folder.path().join("stream");
        let _other = std::os::unix::net::UnixListener::bind(&stream).unwrap();
        assert!(matches!(Listener::bind(&stream), Err(Error::InvalidArgument { .. })));
    }

    #[test]
    fn places_that_cannot_be_are_errors() {
        let long = PathBuf::from("x".repeat(200));
        assert!(matches!(Listener::bind(&long), Err(Error::InvalidArgument { .. })));
        assert!(matches!(connect(&long), Err(Error::InvalidArgument { .. })));
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no").join("socket");
        assert!(matches!(Listener::bind(&missing), Err(Error::Io { .. })));
        assert!(matches!(connect(&missing), Err(Error::Io { .. })));
    }
}
