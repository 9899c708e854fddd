//! Waiting for descriptors: [`wait_for_events`], [`wait_until_readable`], and [`EventFd`], which one thread has another
//! wait for.
//!
//! Readiness is a state and no message: a descriptor stays ready until somebody takes what made it so, and a wait that
//! begins later returns at once. So nothing is lost between looking and waiting.
//!
//! Sources: poll(2), eventfd(2), pidfd_open(2), unix(7).

use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, Result};
use crate::os::host::Deadline;

/// The same file under a number that is not one of the standard streams'.
///
/// Where those are closed, a new descriptor takes their place: what the program prints would go into it, and it would be closed
/// when somebody opens the streams again.
pub(crate) fn above_standard_streams(fd: OwnedFd) -> std::io::Result<OwnedFd> {
    // A duplicate has a number of 3 at least.
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fd.try_clone() }
}

/// The most descriptors one wait takes: two for each of several hundred processes, in 8 KiB of the caller's stack.
pub(crate) const WAIT_FDS_MAX: usize = 1024;

/// Waits until at least one descriptor has something to read, is closed by its peer or is in error, or the deadline
/// passes; then `ready` holds one `bool` for each descriptor, in their order.
///
/// A descriptor of a process is ready once the process has ended. All are `false` only when the deadline has passed.
/// `until` of `None` blocks without limit; a deadline that has passed looks and does not block. Signals do not end the
/// wait. Allocates only where `ready` has no room.
///
/// # Errors
/// [`Error::InvalidArgument`] if there is no descriptor or more than [`WAIT_FDS_MAX`]; [`Error::Io`] if the system
/// refuses, for example because there are more of them than the process may have open. `ready` then is as it was.
pub(crate) fn wait_for_events(fds: &[BorrowedFd<'_>], until: Option<Deadline>, ready: &mut Vec<bool>) -> Result<()> {
    let (Some(first), true) = (fds.first(), fds.len() <= WAIT_FDS_MAX) else {
        return Err(Error::invalid(format!(
            "a wait takes 1 to {WAIT_FDS_MAX} descriptors, not {}; wait in several threads",
            fds.len()
        )));
    };
    // The places behind the last descriptor are never shown to the system; they only need to hold something.
    let mut table: [PollFd<'_>; WAIT_FDS_MAX] =
        core::array::from_fn(|index| PollFd::from_borrowed_fd(*fds.get(index).unwrap_or(first), PollFlags::IN));
    let entries = &mut table[..fds.len()];
    poll_until(entries, until)?;
    ready.clear();
    ready.extend(entries.iter().map(|entry| !entry.revents().is_empty()));
    Ok(())
}

/// Waits until a descriptor has something to read, is closed by its peer or is in error; `false` if the deadline passed
/// first.
///
/// Blocks like [`wait_for_events`]. Allocates nothing.
///
/// # Errors
/// [`Error::Io`] if the system refuses.
pub(crate) fn wait_until_readable(fd: BorrowedFd<'_>, until: Option<Deadline>) -> Result<bool> {
    let mut entries = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll_until(&mut entries, until)?;
    Ok(!entries[0].revents().is_empty())
}

/// Bytes that wait to be read from a pipe. Does not block.
///
/// # Errors
/// [`std::io::Error`] if the system does not tell.
pub(crate) fn bytes_waiting(pipe: impl AsFd) -> std::io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(pipe)?)
}

/// Waits until the other side of a socket has finished sending or is gone, or `event` is notified; `true` for the former. Messages
/// that wait to be received do not end it. Blocks without limit.
///
/// # Errors
/// [`Error::Io`] if the system refuses.
pub(crate) fn wait_for_hang_up(socket: BorrowedFd<'_>, event: &EventFd) -> Result<bool> {
    let mut entries =
        [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP), PollFd::from_borrowed_fd(event.as_fd(), PollFlags::IN)];
    poll_until(&mut entries, None)?;
    Ok(!entries[0].revents().is_empty())
}

/// poll(2) with a point in time, begun again after signals. Hang-ups and errors are reported without being asked for.
fn poll_until(entries: &mut [PollFd<'_>], until: Option<Deadline>) -> Result<()> {
    loop {
        let left = until.map(|until| until.remaining().unwrap_or(Duration::ZERO));
        // Every count of nanoseconds in 64 bits is a time the system can express.
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(entries, timeout.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::io(format!("wait for {} descriptors", entries.len()), error)),
        }
    }
}

/// A descriptor that is ready between [`notify`](Self::notify) and [`clear`](Self::clear), closed on exec.
///
/// The waiting thread clears first and looks for work afterwards: work that is announced later makes it ready again.
#[derive(Debug)]
pub(crate) struct EventFd {
    descriptor: OwnedFd,
}

impl EventFd {
    /// Creates one that is not ready. Does not block.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses, for example because too many files are open.
    pub(crate) fn new() -> Result<Self> {
        let descriptor = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(above_standard_streams)
            .map_err(|error| Error::io("create an event descriptor", error))?;
        Ok(Self { descriptor })
    }

    /// Makes it ready and so ends every wait for it. Does not block.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses, which no state of the descriptor is a reason for.
    pub(crate) fn notify(&self) -> Result<()> {
        match retry_on_intr(|| rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes())) {
            // The counter is at its end: it is ready already.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(Error::io("notify an event descriptor", error)),
        }
    }

    /// Makes it not ready; `true` if it was ready. Does not block.
    ///
    /// Any number of notifications before it are one.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses, which no state of the descriptor is a reason for.
    pub(crate) fn clear(&self) -> Result<bool> {
        match retry_on_intr(|| rustix::io::read(&self.descriptor, &mut [0_u8; 8])) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(Error::io("clear an event descriptor", error)),
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::io::FdFlags;

    use super::*;

    /// A deadline that only a hang reaches.
    fn patient() -> Option<Deadline> {
        Some(Deadline::after(Duration::from_secs(3600)))
    }

    /// A deadline in the past.
    fn at_once() -> Option<Deadline> {
        Some(Deadline::from_nanoseconds(0))
    }

    #[test]
    fn an_event_is_ready_between_notify_and_clear() {
        let event = EventFd::new().unwrap();
        assert!(!wait_until_readable(event.as_fd(), at_once()).unwrap());
        assert!(!event.clear().unwrap());
        event.notify().unwrap();
        event.notify().unwrap();
        assert!(wait_until_readable(event.as_fd(), patient()).unwrap());
        assert!(wait_until_readable(event.as_fd(), None).unwrap(), "waiting takes nothing away");
        assert!(event.clear().unwrap());
        assert!(!event.clear().unwrap(), "two notifications before it are one");
        assert!(!wait_until_readable(event.as_fd(), at_once()).unwrap());
    }

    #[test]
    fn an_event_at_the_end_of_its_counter_takes_notifications() {
        let event = EventFd::new().unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.notify().unwrap();
        assert!(event.clear().unwrap());
    }

    #[test]
    fn an_event_is_closed_on_exec_and_never_blocks() {
        let event = EventFd::new().unwrap();
        assert!(rustix::io::fcntl_getfd(&event).unwrap().contains(FdFlags::CLOEXEC));
        assert!(rustix::fs::fcntl_getfl(&event).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    }

    #[test]
    fn a_notification_ends_a_wait_that_has_begun() {
        let (here, there) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        std::thread::scope(|threads| {
            let waiter = threads.spawn(|| {
                here.notify().unwrap();
                wait_until_readable(there.as_fd(), patient()).unwrap()
            });
            assert!(wait_until_readable(here.as_fd(), patient()).unwrap());
            there.notify().unwrap();
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn a_wait_without_an_event_ends_at_its_deadline() {
        let event = EventFd::new().unwrap();
        let (soon, mut ready) = (Deadline::after(Duration::from_millis(20)), vec![true; 3]);
        wait_for_events(&[event.as_fd()], Some(soon), &mut ready).unwrap();
        assert_eq!((soon.is_past(), ready), (true, vec![false]));
    }

    #[test]
    fn a_closed_pipe_is_ready() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!wait_until_readable(reader.as_fd(), at_once()).unwrap());
        drop(writer);
        assert!(wait_until_readable(reader.as_fd(), patient()).unwrap());
    }

    #[test]
    fn the_number_of_descriptors_has_limits() {
        let event = EventFd::new().unwrap();
        let mut ready = vec![true];
        for count in [0, WAIT_FDS_MAX + 1] {
            let error = wait_for_events(&vec![event.as_fd(); count], at_once(), &mut ready).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
        }
        assert_eq!(ready, [true], "untouched");
        // poll(2) refuses more descriptors than the process may have open, however few they are.
        if crate::os::host::limits().open_files.is_none_or(|limit| limit >= WAIT_FDS_MAX as u64) {
            event.notify().unwrap();
            wait_for_events(&[event.as_fd(); WAIT_FDS_MAX], patient(), &mut ready).unwrap();
            assert_eq!(ready, [true; WAIT_FDS_MAX]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn exactly_the_notified_are_ready(notified in prop::collection::vec(any::<bool>(), 1..40)) {
            let events: Vec<_> = notified.iter().map(|_| EventFd::new().unwrap()).collect();
            for (event, _) in events.iter().zip(&notified).filter(|(_, notified)| **notified) {
                event.notify().unwrap();
            }
            let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
            let mut ready = Vec::new();
            wait_for_events(&fds, at_once(), &mut ready).unwrap();
            prop_assert_eq!(ready, notified);
        }
    }
}
