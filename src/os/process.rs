//! Worker processes: [`WorkerProcess`] is what the process that starts one knows of it, and the functions below are
//! what a worker does to itself.
//!
//! A process is named by a pidfd, which goes on meaning the same process when its number has been given to another. The
//! end of a process is a fact the system tells, never a guess from silence.
//!
//! Sources: pidfd_open(2), pidfd_send_signal(2), wait(2), prctl(2) (`PR_SET_PDEATHSIG`), setrlimit(2), setpriority(2),
//! sched_setaffinity(2).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};

use crate::error::{Error, Result, WorkerExit as Exit};
use crate::os::host::{self, Deadline};

/// The range of nice values (setpriority(2)); the system would silently take the nearest end for others.
const NICE_MIN: i32 = -20;
/// See [`NICE_MIN`].
const NICE_MAX: i32 = 19;

/// The exit of a process that was reaped.
fn exit_of(status: ExitStatus) -> Exit {
    match status.code() {
        Some(code) => Exit::Code(code),
        // A process that is reaped and has no code has a signal: nobody asks for stops and continuations.
        None => Exit::Signal(status.signal().unwrap_or(0)),
    }
}

/// A child of this process, killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct WorkerProcess {
    /// Reaps, and remembers the exit afterwards. Never signals: the pidfd does.
    child: Child,
    pidfd: OwnedFd,
}

impl WorkerProcess {
    /// Starts `command` with `socket` as its standard input, which is closed here.
    ///
    /// Whatever standard input the command had is replaced; afterwards it has `/dev/null`, so that it can be used
    /// again and keeps no descriptor of the socket open. Descriptors of this process that are closed on exec, as all of
    /// this floor are, do not reach the child. Blocks until the system has started the program.
    ///
    /// A child that wants to [`die_with_parent`] dies with the *thread* that calls this.
    ///
    /// # Errors
    /// [`Error::Io`] if the program cannot be started, for example because it does not exist, or too many files or
    /// processes are there; [`Error::Unsupported`] on kernels before 5.3. No process is left behind.
    pub(crate) fn spawn(command: &mut Command, socket: OwnedFd) -> Result<WorkerProcess> {
        let spawned = command.stdin(Stdio::from(socket)).spawn();
        // The command owns what it was given: while it lived, nobody would see the end of the child's socket.
        command.stdin(Stdio::null());
        let mut child = spawned
            .map_err(|error| Error::io(format!("start {} as a worker", command.get_program().display()), error))?;
        // The child is not reaped, so the number still is its own.
        match rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(WorkerProcess { child, pidfd }),
            Err(error) => {
                // Best effort: the error of the descriptor is the one worth reporting.
                let _ = child.kill().and_then(|()| child.wait());
                Err(match error {
                    Errno::NOSYS => Error::Unsupported { what: "worker processes on Linux before 5.3".into() },
                    _ => Error::io("open a descriptor of a worker process", error),
                })
            }
        }
    }

    /// The number of the process. It names this process until it is reaped.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
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
            let stat = std::fs::read(format!("/proc/{}/stat", self.pid())).map_err(failed)?;
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

    /// How the process ended, or `None` while it has not. Does not block; answers as often as it is asked.
    ///
    /// # Errors
    /// [`Error::Io`] if somebody else took the exit: SIGCHLD is ignored, or another part of the program waits for every
    /// child. The process has ended then.
    pub(crate) fn try_reap(&mut self) -> Result<Option<Exit>> {
        let status = self.child.try_wait();
        Ok(status.map_err(|error| self.not_reaped(error))?.map(exit_of))
    }

    /// Waits for the process to end and says how it did. Blocks without limit; answers as often as it is asked.
    ///
    /// # Errors
    /// Those of [`try_reap`](Self::try_reap).
    pub(crate) fn reap(&mut self) -> Result<Exit> {
        let status = self.child.wait();
        Ok(exit_of(status.map_err(|error| self.not_reaped(error))?))
    }

    fn not_reaped(&self, error: std::io::Error) -> Error {
        Error::io(
            format!("learn how worker process {} ended; leave SIGCHLD and its exit to the engine", self.pid()),
            error,
        )
    }
}

impl Drop for WorkerProcess {
    /// Kills and reaps the process. Blocks until it has ended, unless it may not be killed: then it stays.
    fn drop(&mut self) {
        // Whatever goes wrong, there is nobody to tell.
        let _ = match self.kill() {
            Ok(()) => self.reap().map(Some),
            Err(_) => self.try_reap(),
        };
    }
}

/// Takes the socket a worker was started with: a duplicate of standard input, closed on exec, in whose place comes
/// `/dev/null`. Does not block.
///
/// So nothing that reads standard input disturbs the channel, and no child of the worker inherits it. Meant to be
/// called once, before other threads start.
///
/// # Errors
/// [`Error::Io`] if standard input is closed or the system refuses.
pub(crate) fn take_standard_input() -> Result<OwnedFd> {
    let failed = |error: std::io::Error| Error::io("take over standard input", error);
    // Below 3 a duplicate would take the place of a standard stream that is closed.
    let taken = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(|error| failed(error.into()))?;
    let nothing = File::open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdin(&nothing).map_err(|error| failed(error.into()))?;
    Ok(taken)
}

/// Has the system kill this process as soon as its parent ends; `false` if the parent is not process
/// `expected_parent`, that is, has ended already. Does not block.
///
/// "Parent" is the *thread* that started this process: the signal comes when that thread ends, even where its process
/// goes on. So workers are started by a thread that lives as long as they should. "This process" is the calling
/// thread's wish: it is forgotten if that thread ends, so it is for the main thread to call. A program that gains
/// rights on exec loses it too.
///
/// On `false` the signal will never come, and the caller should end by itself. A parent in another PID namespace has no
/// number here and counts as gone.
///
/// # Errors
/// [`Error::Io`] if the system refuses.
pub(crate) fn die_with_parent(expected_parent: u32) -> Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Error::io("be killed when the parent process ends", error))?;
    // Asked afterwards: a parent that ended before the wish was known sends nothing, but is no longer the parent.
    let parent = rustix::process::getppid().and_then(|parent| u32::try_from(parent.as_raw_pid()).ok());
    Ok(parent == Some(expected_parent))
}

/// Ends this process now, with all its threads.
///
/// By SIGKILL to itself: no handler registered for the exit runs, so that none can wait for a lock that a thread of
/// this process holds in the middle of a job, and nothing is written to shared memory on the way. The parent sees
/// [`Exit::Signal`] of 9.
pub(crate) fn end_at_once() -> ! {
    // The system ends every thread before the call returns. Only the first process of a PID namespace goes on, as it
    // takes no signal of its own, and abort(3) knows other ways.
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    std::process::abort()
}

/// What a worker may take of the machine; `None` leaves what it inherited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    /// Address space, in bytes (`RLIMIT_AS`). Counts mapped files and shared memory as well as memory of its own.
    pub(crate) memory: Option<u64>,
    /// Nice value, -20 to 19, where more is nicer. To go below the inherited one needs a privilege.
    pub(crate) nice: Option<i32>,
    /// The cores it may run on, by the system's numbers.
    pub(crate) cores: Option<Vec<usize>>,
}

/// Puts limits on this process. Does not block.
///
/// Nice value and cores are the calling thread's and inherited by the threads it starts, so this is called before there
/// is any other thread. The limit on memory is set for good (soft and hard); a stricter one that is in force stays.
///
/// # Errors
/// [`Error::InvalidArgument`] if a nice value does not exist or a core does not exist or is not allowed; [`Error::Io`]
/// if the system refuses. Limits may have been set in part then.
pub(crate) fn apply(limits: &Limits) -> Result<()> {
    if let Some(cores) = &limits.cores {
        host::pin_current_thread_to(cores)?;
    }
    if let Some(nice) = limits.nice {
        if !(NICE_MIN..=NICE_MAX).contains(&nice) {
            return Err(Error::invalid(format!("a nice value is {NICE_MIN} to {NICE_MAX}, not {nice}")));
        }
        rustix::process::setpriority_process(None, nice)
            .map_err(|error| Error::io(format!("set the nice value {nice}"), error))?;
    }
    // Last, as it may leave little room for anything else.
    if let Some(memory) = limits.memory {
        let old = rustix::process::getrlimit(Resource::As);
        let strictest = [old.current, old.maximum].into_iter().flatten().fold(memory, u64::min);
        let limit = Rlimit { current: Some(strictest), maximum: Some(strictest) };
        rustix::process::setrlimit(Resource::As, limit)
            .map_err(|error| Error::io(format!("limit memory to {strictest} bytes"), error))?;
    }
    Ok(())
}
