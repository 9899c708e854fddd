//! A process by its descriptor: [`ProcessHandle`] goes on meaning the same process when its number has been given to another.
//!
//! The end of a process is a fact the system tells, never a guess from silence. A handle is made by the parent, or received from
//! the process itself: its number is then the one the system tells of the descriptor, not what the sender says.
//!
//! Sources: pidfd_open(2), pidfd_send_signal(2), proc_pid_stat(5), proc_pid_fdinfo(5).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{Error, Result};
use crate::os::events::above_standard_streams;
use crate::os::host::Deadline;

/// A process that may be watched and signalled. Does nothing to it when dropped.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pidfd: OwnedFd,
    pid: u32,
    /// /proc/PID/stat, open from the start: a process must be paused and killed when no descriptor is left as well.
    stat: File,
}

fn open_stat(pid: u32) -> Result<File> {
    File::open(format!("/proc/{pid}/stat"))
        .and_then(|stat| Ok(File::from(above_standard_streams(stat.into())?)))
        .map_err(|error| Error::io("open the state of a worker process", error))
}

/// The number of the process that a descriptor names, as /proc says it, which lives.
///
/// # Errors
/// [`Error::InvalidArgument`] if it has ended, lives in another PID namespace, or the descriptor names no process; [`Error::Io`] if the system
/// does not tell.
fn number_of(pidfd: &OwnedFd) -> Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(format!("read {path}"), error))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    // 0 says that it lives in a namespace whose processes are not seen from here, -1 that it has ended.
    match number.and_then(|number| number.trim().parse::<i32>().ok()) {
        Some(pid @ 1..) => Ok(pid.unsigned_abs()),
        Some(0) => Err(Error::invalid("the process must be one that is seen from the engine's PID namespace")),
        Some(_) => Err(Error::invalid("the process has ended")),
        None => Err(Error::invalid("the descriptor must be one of a process (pidfd)")),
    }
}

/// A descriptor of the process that has this number now, closed on exec.
///
/// # Errors
/// As [`ProcessHandle::open`].
pub(crate) fn descriptor_of(pid: Pid) -> Result<OwnedFd> {
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::NOSYS) => Err(Error::Unsupported { what: "worker processes on Linux before 5.3".into() }),
        pidfd => pidfd
            .map_err(std::io::Error::from)
            .and_then(above_standard_streams)
            .map_err(|error| Error::io("open a descriptor of a process", error)),
    }
}

/// A descriptor that names this process, closed on exec, for another process that shall watch it.
///
/// # Errors
/// [`Error::Io`] if the system refuses; [`Error::Unsupported`] on kernels before 5.3.
pub(crate) fn of_this_process() -> Result<OwnedFd> {
    descriptor_of(rustix::process::getpid())
}

impl ProcessHandle {
    /// Of the process that has this number now: for one's own child that is not reaped, and for oneself.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses; [`Error::Unsupported`] on kernels before 5.3.
    pub(crate) fn open(pid: Pid) -> Result<Self> {
        let pidfd = descriptor_of(pid)?;
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        Ok(Self { pidfd, pid, stat: open_stat(pid)? })
    }

    /// Of the process that a received descriptor names, which must be the one that sent it: `sender`, by the system's word. From now on it is closed on
    /// exec.
    ///
    /// A number alone may have been given to another process since the message was sent, and a descriptor alone may name any process of the
    /// user. Together they are proof: while it sent, the sender alone had its number, so a process that has this number now, and to which a
    /// descriptor was there at that time, is the sender.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is no descriptor of a process, or of another one than the sender, of one that has ended, or that this
    /// process cannot see because it lives in another PID namespace; [`Error::Io`] if the system does not tell. The descriptor is closed then.
    pub(crate) fn received(pidfd: OwnedFd, sender: u32) -> Result<Self> {
        rustix::io::fcntl_setfd(&pidfd, FdFlags::CLOEXEC)
            .map_err(|error| Error::io("have a descriptor of a process closed on exec", error))?;
        let other = || {
            Error::invalid(format!("the descriptor must be of the process that sends it, {sender}, not of another one"))
        };
        let own = i32::try_from(sender).ok().and_then(Pid::from_raw).ok_or_else(other)?;
        let own = match rustix::process::pidfd_open(own, PidfdFlags::empty()) {
            Err(Errno::SRCH | Errno::INVAL) => return Err(Error::invalid("the process has ended")),
            own => own.map_err(|error| Error::io("open a descriptor of a process that wants to join", error))?,
        };
        // In this order: a process that has the number before and after the other descriptor was looked at had it then.
        let number = number_of(&pidfd)?;
        if number_of(&own)? != number {
            return Err(other());
        }
        Ok(Self { pidfd, pid: number, stat: open_stat(number)? })
    }

    /// The number of the process. It names this process until it is reaped.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor that is ready once the process has ended, and stays so.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Ends the process, stopped or not, as far as nothing in the system holds it up; does nothing to one that has
    /// ended. Does not wait for the end.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses, as it does when the process has taken another user's rights.
    pub(crate) fn kill(&self) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::io(format!("kill worker process {}", self.pid()), error)),
        }
    }

    /// Stops the process and waits until the system says that it has stopped; `false` if it has ended instead.
    ///
    /// Blocks for as long as the system needs, a few microseconds as a rule and a second at most.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses, or the process did not stop within that time; it has the signal then.
    pub(crate) fn pause(&self) -> Result<bool> {
        let failed = |error: std::io::Error| Error::io(format!("stop worker process {}", self.pid()), error);
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::STOP) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(false),
            Err(error) => return Err(failed(error.into())),
        }
        let until = Deadline::after(Duration::from_secs(1));
        loop {
            let mut stat = [0_u8; 512];
            let len = match self.stat.read_at(&mut stat, 0) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Ok(false),
                answer => answer.map_err(failed)?,
            };
            let stat = &stat[..len];
            // proc_pid_stat(5): the state follows the name, which stands in parentheses and may itself contain some.
            let state = stat.iter().rposition(|&byte| byte == b')').and_then(|end| stat.get(end + 2));
            match state {
                Some(b'T' | b't') => return Ok(true),
                Some(b'Z' | b'X') | None => return Ok(false),
                _ if until.is_past() => return Err(failed(std::io::ErrorKind::TimedOut.into())),
                _ => std::thread::yield_now(),
            }
        }
    }

    /// Lets a stopped process go on.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(crate) fn resume(&self) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::CONT) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::io(format!("let worker process {} go on", self.pid()), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_received_handle_has_the_number_the_system_tells() {
        let handle = ProcessHandle::received(of_this_process().unwrap(), std::process::id()).unwrap();
        assert_eq!(handle.pid(), std::process::id());
        assert!(rustix::io::fcntl_getfd(handle.pidfd()).unwrap().contains(FdFlags::CLOEXEC));
        assert!(!crate::os::events::wait_until_readable(handle.pidfd(), Some(Deadline::now())).unwrap());
    }

    #[test]
    fn what_names_no_living_process_is_refused() {
        let refusal = |pidfd, sender| ProcessHandle::received(pidfd, sender).unwrap_err().to_string();
        let text = refusal(tempfile::tempfile().unwrap().into(), std::process::id());
        assert!(text.contains("pidfd"), "{text}");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let handle = ProcessHandle::open(Pid::from_child(&child)).unwrap();
        child.wait().unwrap();
        let text = refusal(handle.pidfd.try_clone().unwrap(), child.id());
        assert!(text.contains("has ended"), "{text}");
        let text = refusal(handle.pidfd, std::process::id());
        assert!(text.contains("has ended"), "{text}");
        assert!(refusal(of_this_process().unwrap(), 0).contains("of the process that sends it"));
    }

    /// Else a process that may connect could have any process of the user taken for itself, and killed.
    #[test]
    fn a_process_that_is_not_the_sender_is_refused() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = ProcessHandle::open(Pid::from_child(&child)).unwrap().pidfd;
        for (pidfd, sender) in [(pidfd, std::process::id()), (of_this_process().unwrap(), child.id())] {
            let text = ProcessHandle::received(pidfd, sender).unwrap_err().to_string();
            assert!(text.contains("of the process that sends it"), "{text}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
