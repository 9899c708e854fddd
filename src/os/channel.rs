//! Messages with descriptors between two processes: [`Channel`], one end of a pair of connected sockets.
//!
//! The sockets are Unix `SOCK_SEQPACKET`: a message arrives whole, in order, and with its descriptors, or not at all;
//! and the end of the other side is seen as soon as the last descriptor of its end is closed, however that process
//! ended. What was sent before the end is received before it. A process that is just being started by another thread
//! holds copies of all descriptors until its program begins, so that an end may be seen that much later.
//!
//! What arrives was written by another process: lengths are checked here, contents are the receiver's matter.
//!
//! Sources: unix(7), socketpair(2), sendmsg(2), recvmsg(2), cmsg(3).

use core::mem::MaybeUninit;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, FdFlags, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};

use crate::error::{Error, Result};
use crate::os::events;
use crate::os::host::Deadline;

/// The longest message, in bytes.
pub(crate) const MESSAGE_LEN_MAX: usize = 64 << 10;

/// The most descriptors that travel with one message.
pub(crate) const FDS_MAX: usize = 4;

/// One end of a pair of connected sockets that carry messages and descriptors, closed on exec.
///
/// Any number of threads may send and receive; each message goes to one receiver.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

/// What became of a message that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[expect(clippy::enum_variant_names, reason = "`Sent::Sent` is what a caller hopes for")]
pub(crate) enum Sent {
    /// The system has taken it. Nobody need have received it yet.
    Sent,
    /// The other side has too many messages waiting; nothing was sent. Only where the channel does not block.
    WouldBlock,
    /// The other end is closed; nothing was sent, and nothing ever will be.
    PeerGone,
}

/// What came in.
#[derive(Debug)]
#[must_use]
pub(crate) enum Received {
    /// A message, whose bytes are in the buffer, with the descriptors that travelled with it, closed on exec.
    Message(Vec<OwnedFd>),
    /// No message is there yet: the channel does not block, or the deadline has passed.
    WouldBlock,
    /// The other end is closed, every message it sent has been received, and no other will come.
    PeerGone,
}

impl Channel {
    /// Creates a connected pair: an end that does not block, and the descriptor of one that does, for another process.
    ///
    /// Both are closed on exec; the way to hand the second one on is to make it a standard stream of a new process, or
    /// to send it. Does not block.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses, for example because too many files are open.
    pub(crate) fn pair() -> Result<(Channel, OwnedFd)> {
        let (here, there) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)
                .and_then(|(here, there)| Ok((events::above_standard_streams(here)?, there)))
                .map_err(|error| Error::io("create a pair of sockets", error))?;
        let channel = Channel { socket: here };
        channel.set_nonblocking(true)?;
        Ok((channel, there))
    }

    /// Takes over the descriptor of one end, which from now on is closed on exec. It blocks or not as it did before.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is not a Unix socket of type `SOCK_SEQPACKET`; [`Error::Io`] if the system
    /// refuses. The descriptor is closed then.
    pub(crate) fn from_fd(fd: OwnedFd) -> Result<Channel> {
        let kind = rustix::net::sockopt::socket_domain(&fd)
            .and_then(|family| Ok((family, rustix::net::sockopt::socket_type(&fd)?)));
        match kind {
            Ok((AddressFamily::UNIX, SocketType::SEQPACKET)) => {}
            Ok(_) | Err(Errno::NOTSOCK) => {
                return Err(Error::invalid(
                    "the descriptor must be a Unix socket of type SOCK_SEQPACKET, as the engine gives its workers",
                ));
            }
            Err(error) => return Err(Error::io("read the type of a socket", error)),
        }
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)
            .map_err(|error| Error::io("have a socket closed on exec", error))?;
        Ok(Channel { socket: fd })
    }

    /// Chooses whether [`send`](Self::send) and [`receive`](Self::receive) block.
    ///
    /// The choice belongs to this end and holds for all its descriptors, in whatever process; the other end has its
    /// own.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> Result<()> {
        rustix::io::ioctl_fionbio(&self.socket, nonblocking)
            .map_err(|error| Error::io("choose whether a socket blocks", error))
    }

    /// Tells the other side that nothing more will be sent; it can still be heard. Does nothing when the other side is gone.
    pub(crate) fn finish_sending(&self) {
        // The only refusal is that there is nobody to tell.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Sends one message with copies of the descriptors, which stay open here.
    ///
    /// Raises no SIGPIPE. A channel that blocks waits, without limit, for room at the other side.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the message is empty, which could not be told from the end, longer than
    /// [`MESSAGE_LEN_MAX`], or has more than [`FDS_MAX`] descriptors; [`Error::Io`] if the system refuses, for example
    /// because too many descriptors are under way. Nothing was sent then.
    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Sent> {
        if bytes.is_empty() || bytes.len() > MESSAGE_LEN_MAX || fds.len() > FDS_MAX {
            return Err(Error::invalid(format!(
                "a message has 1 to {MESSAGE_LEN_MAX} bytes and at most {FDS_MAX} descriptors, not {} bytes and {} \
                 descriptors; send several",
                bytes.len(),
                fds.len()
            )));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            // The space is for FDS_MAX descriptors, so that this is not reached.
            return Err(Error::invalid("the descriptors do not fit into a message"));
        }
        let slices = [IoSlice::new(bytes)];
        match retry_on_intr(|| rustix::net::sendmsg(&self.socket, &slices, &mut control, SendFlags::NOSIGNAL)) {
            Ok(_) => Ok(Sent::Sent),
            Err(Errno::AGAIN) => Ok(Sent::WouldBlock),
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(Sent::PeerGone),
            Err(error) => Err(Error::io(format!("send a message of {} bytes", bytes.len()), error)),
        }
    }

    /// Receives the next message into `buffer`, whose old contents are lost in any case.
    ///
    /// A channel that blocks waits without limit for a message or the end. An empty message, which
    /// [`send`](Self::send) refuses, counts as the end.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses; with [`io::ErrorKind::InvalidData`] if a message is longer than
    /// [`MESSAGE_LEN_MAX`] or has more descriptors than [`FDS_MAX`] or than this process may open. That message is
    /// lost, and the descriptors that came with it are closed.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>) -> Result<Received> {
        self.receive_with(buffer, RecvFlags::empty())
    }

    /// Receives the next message, waiting for it until the deadline at most, whether or not the channel blocks.
    ///
    /// A deadline that has passed takes what is there and does not block.
    ///
    /// # Errors
    /// Those of [`receive`](Self::receive).
    pub(crate) fn receive_until(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<Received> {
        loop {
            match self.receive_with(buffer, RecvFlags::DONTWAIT)? {
                Received::WouldBlock => {}
                received => return Ok(received),
            }
            // Another thread may take the message, hence the loop, which ends with the deadline.
            if !events::wait_until_readable(self.as_fd(), Some(deadline))? {
                return Ok(Received::WouldBlock);
            }
        }
    }

    fn receive_with(&self, buffer: &mut Vec<u8>, flags: RecvFlags) -> Result<Received> {
        buffer.resize(MESSAGE_LEN_MAX, 0);
        let received = match receive_message(&self.socket, buffer, flags) {
            // The system says once that the other side ended without reading everything, and says it before it hands
            // out what that side had sent.
            Err(Errno::CONNRESET) => receive_message(&self.socket, buffer, flags),
            received => received,
        };
        let (message, fds) = match received {
            Ok(received) => received,
            Err(error) => {
                buffer.clear();
                return match error {
                    Errno::AGAIN => Ok(Received::WouldBlock),
                    Errno::CONNRESET => Ok(Received::PeerGone),
                    _ => Err(Error::io("receive a message", error)),
                };
            }
        };
        buffer.truncate(message.bytes);
        let wrong = if message.flags.contains(ReturnFlags::TRUNC) {
            format!("it is longer than {MESSAGE_LEN_MAX} bytes")
        } else if message.flags.contains(ReturnFlags::CTRUNC) || fds.len() > FDS_MAX {
            format!("it has more than {FDS_MAX} descriptors, or this process has no room for them (ulimit -n)")
        } else if message.bytes == 0 {
            return Ok(Received::PeerGone);
        } else {
            return Ok(Received::Message(fds));
        };
        buffer.clear();
        Err(Error::io("receive a message", io::Error::new(io::ErrorKind::InvalidData, wrong)))
    }
}

/// recvmsg(2), begun again after signals, with every descriptor that came along.
fn receive_message(
    socket: &OwnedFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> rustix::io::Result<(RecvMsg, Vec<OwnedFd>)> {
    // Rounding leaves room for more descriptors than FDS_MAX, so the caller counts them.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let mut slices = [IoSliceMut::new(buffer)];
    let message = retry_on_intr(|| rustix::net::recvmsg(socket, &mut slices, &mut control, flags))?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    Ok((message, fds))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::fs::OFlags;

    use super::*;

    fn connected() -> (Channel, Channel) {
        let (here, there) = Channel::pair().unwrap();
        (here, Channel::from_fd(there).unwrap())
    }

    fn patient() -> Deadline {
        Deadline::after(Duration::from_secs(3600))
    }

    /// The descriptors of the message that must be there.
    #[track_caller]
    fn message(received: Result<Received>) -> Vec<OwnedFd> {
        match received {
            Ok(Received::Message(fds)) => fds,
            other => panic!("a message is due: {other:?}"),
        }
    }

    /// Closes one end and waits until the other sees it: children that other tests are starting may hold copies.
    fn close(there: Channel, here: &Channel) {
        drop(there);
        // Hang-ups are reported without being asked for, and nothing else is.
        let mut entries = [PollFd::new(here, PollFlags::empty())];
        let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut entries, Some(&limit)), Ok(1));
    }

    fn is_close_on_exec(fd: impl AsFd) -> bool {
        rustix::io::fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC)
    }

    fn blocks(fd: impl AsFd) -> bool {
        !rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
    }

    #[test]
    fn a_pair_is_closed_on_exec_and_blocks_at_the_other_end_only() {
        let (here, there) = Channel::pair().unwrap();
        assert!(is_close_on_exec(&here) && is_close_on_exec(&there));
        assert!(!blocks(&here) && blocks(&there));
        rustix::io::fcntl_setfd(&there, FdFlags::empty()).unwrap();
        let there = Channel::from_fd(there).unwrap();
        assert!(is_close_on_exec(&there) && blocks(&there));
        there.set_nonblocking(true).unwrap();
        assert!(!blocks(&there));
        here.set_nonblocking(false).unwrap();
        assert!(blocks(&here) && !blocks(&there));
    }

    #[test]
    fn only_a_socket_of_packets_becomes_a_channel() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let internet = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for fd in [stream.into(), UnixDatagram::unbound().unwrap().into(), file.into(), OwnedFd::from(internet)] {
            let error = Channel::from_fd(fd).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
        }
    }

    #[test]
    fn messages_beyond_the_limits_are_not_sent() {
        let (here, there) = connected();
        let longest = vec![7; MESSAGE_LEN_MAX + 1];
        for (bytes, fds) in [(&longest[..0], 0), (&longest[..], 0), (&longest[..1], FDS_MAX + 1), (&longest[..0], 1)] {
            let error = here.send(bytes, &vec![here.as_fd(); fds]).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
        }
        let mut buffer = vec![1, 2, 3];
        assert!(matches!(there.receive_until(&mut buffer, Deadline::now()), Ok(Received::WouldBlock)));
        assert_eq!(here.send(&longest[1..], &[here.as_fd(); FDS_MAX]).unwrap(), Sent::Sent);
        assert_eq!(message(there.receive(&mut buffer)).len(), FDS_MAX);
        assert_eq!(buffer, longest[1..]);
    }

    #[test]
    fn descriptors_arrive_open_in_order_and_closed_on_exec() {
        let (here, there) = connected();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(here.send(b"two", &[reader.as_fd(), file.as_fd()]).unwrap(), Sent::Sent);
        drop((reader, file));
        let mut buffer = Vec::new();
        let fds = message(there.receive(&mut buffer));
        assert_eq!((buffer.as_slice(), fds.len()), (b"two".as_slice(), 2));
        assert!(fds.iter().all(is_close_on_exec));
        let mut fds = fds.into_iter().map(File::from);
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        fds.next().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert!(fds.next().unwrap().metadata().unwrap().is_file());
    }

    /// Sends past the checks of [`Channel::send`], as a process of another kind could.
    fn send_unchecked(channel: &Channel, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = rustix::net::sendmsg(channel, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, bytes.len());
    }

    #[test]
    fn messages_that_are_too_large_are_errors_and_leave_nothing_open() {
        let (here, there) = connected();
        let mut buffer = Vec::new();
        // More descriptors than the space that rounding adds, and as few as fit into it.
        for (len, count) in [(MESSAGE_LEN_MAX + 1, 1), (1, 32), (1, FDS_MAX + 1), (1, FDS_MAX + 2)] {
            let (reader, writer) = std::io::pipe().unwrap();
            send_unchecked(&here, &vec![7; len], &vec![writer.as_fd(); count]);
            drop(writer);
            match there.receive(&mut buffer) {
                Err(Error::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::InvalidData),
                other => panic!("{len} {count}: {other:?}"),
            }
            assert!(buffer.is_empty());
            let closed = events::wait_until_readable(reader.as_fd(), Some(patient())).unwrap();
            assert!(closed, "no writer is left: {len} {count}");
        }
        assert_eq!(here.send(b"next", &[]).unwrap(), Sent::Sent);
        assert!(message(there.receive(&mut buffer)).is_empty());
        assert_eq!(buffer, b"next", "the channel goes on");
    }

    #[test]
    fn what_was_sent_before_the_end_is_received_before_it() {
        let (here, there) = connected();
        assert_eq!(there.send(b"first", &[]).unwrap(), Sent::Sent);
        assert_eq!(there.send(b"second", &[]).unwrap(), Sent::Sent);
        // A message the other side never read makes the system say ECONNRESET once.
        assert_eq!(here.send(b"unread", &[]).unwrap(), Sent::Sent);
        close(there, &here);
        let mut buffer = Vec::new();
        for expected in [b"first".as_slice(), b"second"] {
            assert!(message(here.receive(&mut buffer)).is_empty());
            assert_eq!(buffer, expected);
        }
        for _ in 0..3 {
            assert!(matches!(here.receive(&mut buffer), Ok(Received::PeerGone)));
            assert!(matches!(here.receive_until(&mut buffer, patient()), Ok(Received::PeerGone)));
            assert_eq!(here.send(b"late", &[]).unwrap(), Sent::PeerGone);
        }
    }

    #[test]
    fn an_end_with_unread_messages_is_an_end_for_the_sender_too() {
        for blocking in [false, true] {
            let (here, there) = connected();
            here.set_nonblocking(!blocking).unwrap();
            assert_eq!(here.send(b"unread", &[]).unwrap(), Sent::Sent);
            close(there, &here);
            assert_eq!(here.send(b"late", &[]).unwrap(), Sent::PeerGone);
            assert!(matches!(here.receive(&mut Vec::new()), Ok(Received::PeerGone)));
        }
    }

    #[test]
    fn an_end_that_does_not_block_says_so() {
        let (here, there) = connected();
        let mut buffer = vec![1];
        assert!(matches!(here.receive(&mut buffer), Ok(Received::WouldBlock)));
        assert!(buffer.is_empty());
        let mut sent = 0;
        while here.send(&[0; 1000], &[]).unwrap() == Sent::Sent {
            sent += 1;
            assert!(sent < 1_000_000, "the system keeps a limit");
        }
        for _ in 0..sent {
            assert!(message(there.receive(&mut buffer)).is_empty());
        }
        assert_eq!(here.send(b"room", &[]).unwrap(), Sent::Sent);
    }

    #[test]
    fn a_wait_for_a_message_ends_with_it_or_at_the_deadline() {
        let (here, there) = connected();
        let mut buffer = Vec::new();
        let soon = Deadline::after(Duration::from_millis(20));
        for channel in [&here, &there] {
            assert!(matches!(channel.receive_until(&mut buffer, soon), Ok(Received::WouldBlock)));
            assert!(soon.is_past());
        }
        std::thread::scope(|threads| {
            let echo = threads.spawn(|| {
                let mut buffer = Vec::new();
                assert!(message(there.receive(&mut buffer)).is_empty());
                there.send(&buffer, &[]).unwrap()
            });
            assert_eq!(here.send(b"ping", &[]).unwrap(), Sent::Sent);
            assert!(message(here.receive_until(&mut buffer, patient())).is_empty());
            assert_eq!(echo.join().unwrap(), Sent::Sent);
        });
        assert_eq!(buffer, b"ping");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_arrive_whole_and_in_order(
            lens in prop::collection::vec((prop_oneof![1..200_usize, 1..=MESSAGE_LEN_MAX], 0..=FDS_MAX), 1..20)
        ) {
            let (here, there) = connected();
            let contents = |index: usize, len: usize| (0..len).map(|at| (at * 7 + index) as u8).collect::<Vec<_>>();
            let (mut queued, mut next, mut buffer) = (std::collections::VecDeque::new(), 0, Vec::new());
            while next < lens.len() || !queued.is_empty() {
                if let Some(&(len, count)) = lens.get(next)
                    && here.send(&contents(next, len), &vec![here.as_fd(); count]).unwrap() == Sent::Sent
                {
                    queued.push_back((next, len, count));
                    next += 1;
                    continue;
                }
                let (index, len, count) = queued.pop_front().expect("a message that is there makes the other wait");
                let fds = message(there.receive(&mut buffer));
                prop_assert_eq!(fds.len(), count);
                prop_assert!(buffer == contents(index, len));
            }
        }
    }
}
