//! The process at the other end of a socket, by the system's word: [`peer`] is the one that connected, [`sender_of_next`] the one that
//! sent a message.
//!
//! The peer is fixed when it connects: the process may have ended since, and its number may be another's. The sender is told of each
//! message: it had that number while it sent.
//!
//! By nix, and not by rustix as elsewhere: the system says 0 for a process that this one cannot see, because it lives in another PID
//! namespace, and rustix holds the number in a type that has no 0.
//!
//! Sources: unix(7) (`SO_PASSCRED`, `SO_PEERCRED`, `SCM_CREDENTIALS`), recvmsg(2), cmsg(3).

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, getsockopt, recvmsg, setsockopt, sockopt};

use crate::error::{Error, Result};

/// Bytes before the credentials in a control message: its length, level and type (cmsg(3)).
const HEAD_LEN: usize = size_of::<libc::cmsghdr>();
/// Bytes that it takes with them.
const CREDENTIALS_LEN: usize = HEAD_LEN + size_of::<libc::ucred>().next_multiple_of(size_of::<usize>());

/// The process that connected, or made the pair of sockets; `None` if it cannot be seen from here, or the system does not tell.
pub(crate) fn peer(socket: &impl AsFd) -> Option<u32> {
    let credentials = getsockopt(socket, sockopt::PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok().filter(|&pid| pid > 0)
}

/// Whether the system shall tell the sender of each message at this end. Of what is sent before this is asked for it does not, unless
/// the other end was not accepted yet.
///
/// # Errors
/// [`Error::Io`] if the system refuses.
pub(crate) fn tell_senders(socket: &impl AsFd, shall: bool) -> Result<()> {
    setsockopt(socket, sockopt::PassCred, &shall)
        .map_err(|error| Error::io("have the senders of messages told", std::io::Error::from(error)))
}

/// The sender of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sender {
    /// The process of this number.
    Process(u32),
    /// One that cannot be seen from here, or one of which nothing was told.
    Unknown,
    /// No message is there.
    Nobody,
}

/// The sender of the next message, which stays where it is. Does not block.
///
/// # Errors
/// [`Error::Io`] if the system refuses.
pub(crate) fn sender_of_next(socket: &impl AsFd) -> Result<Sender> {
    let (mut byte, mut control) = ([0_u8; 1], [0_u64; CREDENTIALS_LEN.div_ceil(8)]);
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let space = &mut bytemuck::cast_slice_mut(&mut control)[..CREDENTIALS_LEN];
    // The credentials come first and fill the space, so that no descriptor that comes with the message is opened here.
    let received = loop {
        match recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut [IoSliceMut::new(&mut byte)], Some(&mut *space), flags) {
            Err(Errno::EINTR) => {}
            received => break received.map(drop),
        }
    };
    match received {
        Ok(()) => Ok(sender_in(&bytemuck::cast_slice(&control)[..CREDENTIALS_LEN])),
        Err(Errno::EAGAIN) => Ok(Sender::Nobody),
        Err(error) => Err(Error::io("see who sent a message", std::io::Error::from(error))),
    }
}

/// The process that a control message of credentials names.
fn sender_in(control: &[u8]) -> Sender {
    let number = |at: usize| control.get(at..at + 4).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    let is_credentials =
        number(HEAD_LEN - 8) == Some(libc::SOL_SOCKET) && number(HEAD_LEN - 4) == Some(libc::SCM_CREDENTIALS);
    // unix(7): the process comes first, then user and group.
    match number(HEAD_LEN) {
        Some(pid @ 1..) if is_credentials => Sender::Process(pid.unsigned_abs()),
        _ => Sender::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::os::channel::{Channel, Received, Sent};
    use crate::os::host::Deadline;

    #[test]
    fn a_message_has_the_sender_that_the_system_tells() {
        let (here, there) = Channel::pair().unwrap();
        tell_senders(&here, true).unwrap();
        assert_eq!(sender_of_next(&here).unwrap(), Sender::Nobody);
        let there = Channel::from_fd(there).unwrap();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(there.send(b"hello", &[file.as_fd()]).unwrap(), Sent::Sent);
        // Looking takes nothing away and opens nothing.
        for _ in 0..2 {
            assert_eq!(sender_of_next(&here).unwrap(), Sender::Process(std::process::id()));
        }
        tell_senders(&here, false).unwrap();
        let mut buffer = Vec::new();
        assert!(matches!(here.receive(&mut buffer).unwrap(), Received::Message(fds) if fds.len() == 1));
        assert_eq!(buffer, b"hello");
        assert_eq!(there.send(b"more", &[]).unwrap(), Sent::Sent);
        assert_eq!(sender_of_next(&here).unwrap(), Sender::Unknown, "nobody asked");
    }

    /// The end that this process made may have been handed on.
    #[test]
    fn a_message_of_a_child_is_the_childs() {
        let (here, there) = Channel::pair().unwrap();
        tell_senders(&here, true).unwrap();
        let mut command = Command::new("sh");
        command.arg0("sh").args(["-c", "printf hello"]).stdin(Stdio::null()).stdout(Stdio::from(there));
        let mut child = command.spawn().unwrap();
        drop(command);
        let until = Some(Deadline::after(core::time::Duration::from_secs(60)));
        assert!(crate::os::events::wait_until_readable(here.as_fd(), until).unwrap());
        assert_eq!(sender_of_next(&here).unwrap(), Sender::Process(child.id()));
        child.wait().unwrap();
        // It has the number it had, also of a process that is gone.
        assert_eq!(sender_of_next(&here).unwrap(), Sender::Process(child.id()));
        assert_eq!(peer(&here), Some(std::process::id()), "who made the pair");
    }

    #[test]
    fn other_control_messages_name_nobody() {
        for control in [&[][..], &[0; 8], &[0; CREDENTIALS_LEN], &[0xFF; CREDENTIALS_LEN]] {
            assert_eq!(sender_in(control), Sender::Unknown);
        }
    }
}
