//! Worker processes: [`WorkerProcess`] is what the process that starts one knows of it, and the functions below are
//! what a worker does to itself.
//!
//! How a process is watched and signalled is [`ProcessHandle`]'s matter.
//!
//! Sources: wait(2), prctl(2) (`PR_SET_PDEATHSIG`), setrlimit(2), setpriority(2),
//! sched_setaffinity(2).

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result, WorkerExit as Exit};
use crate::os::descendants::{self, FamilyMark};
use crate::os::events::wait_until_readable;
use crate::os::host;
use crate::os::pidfd::{self, ProcessHandle};

/// The range of nice values (setpriority(2)); the system would silently take the nearest end for others.
const NICE_MIN: i32 = -20;
/// See [`NICE_MIN`].
const NICE_MAX: i32 = 19;

/// Sets the nice value of the calling thread, which the threads it starts inherit.
///
/// # Errors
/// [`Error::InvalidArgument`] if there is no such value, [`Error::Io`] if the system refuses: to become less nice needs a privilege.
pub(crate) fn set_nice(nice: i32) -> Result<()> {
    if !(NICE_MIN..=NICE_MAX).contains(&nice) {
        return Err(Error::invalid(format!("a nice value is {NICE_MIN} to {NICE_MAX}, not {nice}")));
    }
    // To the system a process of no number is the calling thread (setpriority(2), "C library/kernel differences").
    rustix::process::setpriority_process(None, nice)
        .map_err(|error| Error::io(format!("set the nice value {nice}"), error))
}

/// The calling thread's nice value; `None` where the system does not tell.
pub(crate) fn nice() -> Option<i32> {
    rustix::process::getpriority_process(None).ok()
}

/// Checks a nice value that threads of this process shall have.
///
/// # Errors
/// [`Error::InvalidArgument`] if there is no such value, or it is below the calling thread's own, which needs a privilege.
pub(crate) fn check_thread_nice(nice: i32) -> Result<()> {
    // Where the system does not tell, the lowest.
    let own = self::nice().unwrap_or(NICE_MIN);
    if (own..=NICE_MAX).contains(&nice) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "worker threads can have nice values from this thread's own, {own}, to {NICE_MAX}, not {nice}"
    )))
}

/// Bytes of memory that this process has for itself, in pages that are present and are neither of files nor shared; `None` where the
/// system does not tell (proc(5), `/proc/self/statm`).
pub(crate) fn private_memory() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = pages.split_whitespace().skip(1).map_while(|pages| pages.parse::<u64>().ok());
    let (resident, shared) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(shared).saturating_mul(host::page_size() as u64))
}

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
    /// Reaps, and remembers the exit afterwards. Never signals: the handle does.
    child: Child,
    handle: ProcessHandle,
    /// By which its descendants are known when it has died.
    family: FamilyMark,
    /// Whether this process has killed it, with all that were its descendants then.
    is_killed: AtomicBool,
}

impl WorkerProcess {
    /// Starts `command` with `socket` as its standard input, which is closed here.
    ///
    /// Whatever standard input the command had is replaced; afterwards it has `/dev/null`, so that it can be used
    /// again and keeps no descriptor of the socket open. Descriptors of this process that are closed on exec, as all of
    /// this floor are, do not reach the child. Blocks until the system has started the program.
    ///
    /// The child leads a process group of its own, with what it starts. Ctrl-C sends its signal to the terminal's foreground group: were the
    /// child in it, it would die before the program that started it has decided whether to end. When the child has ended, however that came,
    /// what is left of its group is killed.
    ///
    /// A child that wants to [`die_with_parent`] dies with the *thread* that calls this.
    ///
    /// # Errors
    /// [`Error::Io`] if the program cannot be started, for example because it does not exist, or too many files or
    /// processes are there; [`Error::Unsupported`] on kernels before 5.3. No process is left behind.
    pub(crate) fn spawn(command: &mut Command, socket: OwnedFd) -> Result<WorkerProcess> {
        command.stdin(Stdio::from(socket)).process_group(0);
        let family = FamilyMark::on(command);
        // Where SIGCHLD is ignored the standard library, which waits for a child that could not run the program, panics. The
        // caller's thread looks after all other workers.
        let spawned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| command.spawn())).unwrap_or_else(|_| {
            Err(std::io::Error::other("it cannot be run, and why is lost where SIGCHLD is ignored"))
        });
        // The command owns what it was given: while it lived, nobody would see the end of the child's socket.
        command.stdin(Stdio::null());
        let mut child = spawned
            .map_err(|error| Error::io(format!("start {} as a worker", command.get_program().display()), error))?;
        // The child is not reaped, so the number still is its own.
        match ProcessHandle::open(Pid::from_child(&child)) {
            Ok(handle) => Ok(WorkerProcess { child, handle, family, is_killed: AtomicBool::new(false) }),
            Err(error) => {
                // Best effort: the error of the descriptor is the one worth reporting.
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    /// The process, to look at and to signal.
    pub(crate) fn handle(&self) -> &ProcessHandle {
        &self.handle
    }

    /// The reading ends of the standard output and error of a child whose command piped them; `None` the second time.
    pub(crate) fn take_outputs(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Kills the process and all its descendants, stopped or not. Blocks for as long as the system needs to stop and to end them: two seconds at
    /// most, and well below a millisecond as a rule.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses to kill the process itself, as it does when it has taken another user's rights.
    pub(crate) fn kill(&self) -> Result<()> {
        // Stopped, it starts nothing more.
        if let Ok(true) = self.handle.pause() {
            descendants::kill_below(self.pid());
            // Relaxed: read by the owner, at the end.
            self.is_killed.store(true, Ordering::Relaxed);
            // It lives, so the number is its own.
            descendants::kill_group(self.pid());
        }
        self.handle.kill()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Kills what is left of the process's group if the process has ended and nobody has taken its exit: its number is that of its group until then.
    /// Where somebody else takes it, its descendants go on.
    fn kill_rest_of_group(&self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if let Ok(Some(_)) = rustix::process::waitid(WaitId::PidFd(self.handle.pidfd()), options) {
            descendants::kill_group(self.pid());
        }
    }

    /// Whether the process has ended by itself, and not of its own free will: then descendants may go on that had left its group.
    fn has_died(&mut self) -> bool {
        let by_itself = !self.is_killed.load(Ordering::Relaxed);
        // One whose exit others took may have died.
        by_itself && !matches!(self.try_reap(), Ok(None | Some(Exit::Code(0))))
    }

    /// How the process ended, or `None` while it has not. Does not block; answers as often as it is asked.
    ///
    /// # Errors
    /// [`Error::Io`] if somebody else took the exit: SIGCHLD is ignored, or another part of the program waits for every
    /// child. The process has ended then.
    pub(crate) fn try_reap(&mut self) -> Result<Option<Exit>> {
        self.kill_rest_of_group();
        let status = self.child.try_wait();
        Ok(status.map_err(|error| self.not_reaped(error))?.map(exit_of))
    }

    /// Waits for the process to end and says how it did. Blocks without limit; answers as often as it is asked.
    ///
    /// # Errors
    /// Those of [`try_reap`](Self::try_reap).
    pub(crate) fn reap(&mut self) -> Result<Exit> {
        // Only a system out of memory lets this fail, and then the wait below is as long.
        let _ = wait_until_readable(self.handle.pidfd(), None);
        self.kill_rest_of_group();
        let status = self.child.wait();
        Ok(exit_of(status.map_err(|error| self.not_reaped(error))?))
    }

    fn not_reaped(&self, error: std::io::Error) -> Error {
        Error::io(
            format!("learn how worker process {} ended; leave SIGCHLD and its exit to the engine", self.handle.pid()),
            error,
        )
    }
}

impl Drop for WorkerProcess {
    /// Kills and reaps the process, and kills what it has started, also if it has died before. Blocks until it has ended, unless it may not be
    /// killed: then it stays.
    fn drop(&mut self) {
        if self.has_died() {
            return self.family.kill_family();
        }
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

/// Has a thread of this process end it, and all that it has started, when process `engine`, which must be its parent, has ended. Does not
/// block. [`die_with_parent`] comes before it and would leave behind what this process has started; where no thread can be had it stays in
/// force.
///
/// A process that is stopped then is let go on by the system, and ends as well.
///
/// # Errors
/// [`Error::Io`] if the system refuses, [`Error::Unsupported`] on kernels before 5.3. `false` if the parent has ended already.
pub(crate) fn end_family_with_parent(engine: u32) -> Result<bool> {
    let Some(parent) = i32::try_from(engine).ok().and_then(Pid::from_raw) else { return Ok(false) };
    let parent_fd = pidfd::descriptor_of(parent)?;
    // Asked afterwards: if it is the parent still, the descriptor is of it and of no other process by that number.
    if rustix::process::getppid() != Some(parent) {
        return Ok(false);
    }
    descendants::adopt_orphans()?;
    let watch = move || {
        // Only a system out of memory lets the wait fail. A worker that nobody watches is better gone.
        let _ = wait_until_readable(parent_fd.as_fd(), None);
        end_family_at_once()
    };
    let watcher = std::thread::Builder::new().name("workring-watch".into()).stack_size(WATCHER_STACK_LEN).spawn(watch);
    if watcher.is_ok() {
        rustix::process::set_parent_process_death_signal(Some(Signal::CONT))
            .map_err(|error| Error::io("be told when the parent process ends", error))?;
    }
    Ok(true)
}

/// The stack of the thread that watches the engine: it reads a few files.
const WATCHER_STACK_LEN: usize = 128 << 10;

/// Ends this process now, with all its threads, and with what it has started; see [`end_at_once`].
pub(crate) fn end_family_at_once() -> ! {
    let own = rustix::process::getpid();
    descendants::kill_below(own);
    if rustix::process::getpgrp() == own {
        descendants::kill_group(own);
    }
    end_at_once()
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
    /// Memory of its own, in bytes (`RLIMIT_DATA`: heap, stacks of threads, private writable mappings). Shared memory and mapped
    /// files do not count.
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
        set_nice(nice)?;
    }
    // Last, as it may leave little room for anything else.
    if let Some(memory) = limits.memory {
        let old = rustix::process::getrlimit(Resource::Data);
        let strictest = [old.current, old.maximum].into_iter().flatten().fold(memory, u64::min);
        let limit = Rlimit { current: Some(strictest), maximum: Some(strictest) };
        rustix::process::setrlimit(Resource::Data, limit)
            .map_err(|error| Error::io(format!("limit memory to {strictest} bytes"), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;
    use rustix::process::{WaitId, WaitIdOptions, WaitOptions};

    use std::os::fd::{AsFd, BorrowedFd};

    use rustix::io::Errno;

    use super::*;
    use crate::os::channel::{Channel, Received, Sent};
    use crate::os::events::{EventFd, wait_for_events, wait_until_readable};
    use crate::os::host::Deadline;
    use crate::os::map::Mapping;
    use crate::os::map::linux_tests::{peek, poke};

    /// The variable that tells a child its role, and that it is one.
    const ROLE: &str = "WORKRING_TEST_ROLE";

    /// A limit on memory far above what a test program maps, and far below what it tries to.
    const MEMORY_LIMIT: u64 = 16 << 30;

    /// A deadline that only a hang reaches.
    fn patient() -> Deadline {
        Deadline::after(Duration::from_secs(3600))
    }

    fn has_ended(pidfd: impl AsFd) -> bool {
        wait_until_readable(pidfd.as_fd(), Some(Deadline::from_nanoseconds(0))).unwrap()
    }

    /// Runs this program again, where nothing but [`a_role_for_other_tests`] is run.
    fn command(role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["os::process::tests::a_role_for_other_tests", "--exact", "--ignored", "--nocapture"]);
        command.env(ROLE, role).stdout(Stdio::null());
        command
    }

    fn start(role: &str) -> (WorkerProcess, Channel) {
        let (channel, socket) = Channel::pair().unwrap();
        (WorkerProcess::spawn(&mut command(role), socket).unwrap(), channel)
    }

    #[track_caller]
    fn send(channel: &Channel, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        assert_eq!(channel.send(bytes, fds).unwrap(), Sent::Sent);
    }

    /// The message and the descriptors that the other side is about to send.
    #[track_caller]
    fn receive(channel: &Channel) -> (String, Vec<OwnedFd>) {
        let mut buffer = Vec::new();
        match channel.receive_until(&mut buffer, patient()) {
            Ok(Received::Message(fds)) => (String::from_utf8(buffer).unwrap(), fds),
            other => panic!("a message is due: {other:?}"),
        }
    }

    #[track_caller]
    fn assert_peer_gone(channel: &Channel) {
        let received = channel.receive_until(&mut Vec::new(), patient());
        assert!(matches!(received, Ok(Received::PeerGone)), "{received:?}");
    }

    /// How the process ends, which it must do soon.
    #[track_caller]
    fn end_of(worker: &mut WorkerProcess) -> Exit {
        assert!(wait_until_readable(worker.handle().pidfd(), Some(patient())).unwrap(), "the process goes on");
        worker.try_reap().unwrap().expect("a process whose descriptor is ready has ended")
    }

    fn link_of(fd: i32) -> Option<String> {
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
        Some(link.to_str()?.to_owned())
    }

    #[test]
    #[ignore = "what the children of the other tests do; without a role it does nothing"]
    fn a_role_for_other_tests() {
        let Ok(role) = std::env::var(ROLE) else { return };
        let socket = take_standard_input().unwrap();
        assert!(socket.as_raw_fd() > 2 && rustix::io::fcntl_getfd(&socket).unwrap().bits() != 0, "closed on exec");
        assert_eq!(link_of(0).as_deref(), Some("/dev/null"));
        let channel = Channel::from_fd(socket).unwrap();
        let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
        match role {
            "attach" => attach(&channel),
            "crowded" => crowded(&channel),
            "descriptors" => send(&channel, descriptors().join("\n").as_bytes(), &[]),
            "echo" => echo(&channel),
            "end" => end_at_once(),
            "exit" => std::process::exit(argument.parse().unwrap()),
            "inherit" => inherit(&channel),
            "limits" => limits(&channel),
            "orphan" => orphan(&channel, argument.parse().unwrap()),
            "parent" => parent(&channel),
            "stop" => stop(&channel),
            "terminate" => rustix::process::kill_process(rustix::process::getpid(), Signal::TERM).unwrap(),
            _ => panic!("there is no role {role}"),
        }
    }

    fn sleep_for_ever() -> ! {
        loop {
            std::thread::park();
        }
    }

    /// Role: sends back what it receives, until the other side ends.
    fn echo(channel: &Channel) {
        let mut buffer = Vec::new();
        while let Received::Message(fds) = channel.receive(&mut buffer).unwrap() {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            send(channel, &buffer, &fds);
        }
    }

    /// Role: stops itself.
    fn stop(channel: &Channel) {
        send(channel, b"about to stop", &[]);
        rustix::process::kill_process(rustix::process::getpid(), Signal::STOP).unwrap();
    }

    /// Role: sleeps until its parent, which must have this number, ends.
    fn orphan(channel: &Channel, parent: u32) {
        if !die_with_parent(parent).unwrap() {
            std::process::exit(7);
        }
        send(channel, b"ready", &[]);
        sleep_for_ever();
    }

    /// Role: starts an orphan to be and passes on how to tell its end.
    fn parent(channel: &Channel) {
        let (orphan, inner) = start(&format!("orphan {}", std::process::id()));
        assert_eq!(receive(&inner).0, "ready");
        send(channel, b"ready", &[orphan.handle().pidfd()]);
        sleep_for_ever();
    }

    /// Role: doubles the bytes of shared memory whose length the message says.
    fn attach(channel: &Channel) {
        let (text, mut fds) = receive(channel);
        let mapping = Mapping::attach(fds.pop().unwrap(), text.parse().unwrap(), true).unwrap();
        let doubled: Vec<u8> = peek(&mapping, 0, mapping.len()).iter().map(|byte| byte.wrapping_mul(2)).collect();
        poke(&mapping, 0, &doubled);
        send(channel, b"done", &[]);
    }

    /// Role: may open no file while a descriptor arrives, and may again when another does.
    fn crowded(channel: &Channel) {
        let old = rustix::process::getrlimit(Resource::Nofile);
        // The standard streams are open, so that every further descriptor would be 3 or more.
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..old }).unwrap();
        let mut buffer = Vec::new();
        let lost = channel.receive(&mut buffer);
        rustix::process::setrlimit(Resource::Nofile, old).unwrap();
        match lost {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::InvalidData),
            other => panic!("a message without its descriptor: {other:?}"),
        }
        let (text, fds) = receive(channel);
        assert_eq!((text.as_str(), fds.len()), ("second", 1));
        send(channel, b"done", &[]);
    }

    /// The open descriptors of this process and what they are.
    fn descriptors() -> Vec<String> {
        let numbers = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
        let numbers: Vec<i32> = numbers.map(|number| number.to_str().unwrap().parse().unwrap()).collect();
        numbers.into_iter().filter_map(|number| Some(format!("{number} {}", link_of(number)?))).collect()
    }

    /// Role: holds one of everything this floor opens, starts a child, and reports what the child has of it.
    fn inherit(channel: &Channel) {
        let (_, received) = receive(channel);
        let event = EventFd::new().unwrap();
        let file = tempfile::tempfile().unwrap();
        let mapped_file = Mapping::file_read_write(&file, 4096, std::path::Path::new("f")).unwrap();
        let (mut echo, to_echo) = start("echo");
        let (kept, _writer) = std::io::pipe().unwrap();
        rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).unwrap();
        let (mut child, inner) = start("descriptors");
        let theirs = receive(&inner).0;
        let has = |fd: BorrowedFd<'_>| theirs.contains(&link_of(fd.as_raw_fd()).unwrap());
        assert!(has(kept.as_fd()), "what is not closed on exec is seen: {theirs}");
        let mine = [
            channel.as_fd(),
            event.as_fd(),
            mapped_file.fd().unwrap(),
            to_echo.as_fd(),
            inner.as_fd(),
            echo.handle().pidfd(),
            child.handle().pidfd(),
            received[0].as_fd(),
        ];
        for fd in mine {
            assert!(!has(fd), "{:?} in\n{theirs}", link_of(fd.as_raw_fd()));
        }
        assert!(theirs.lines().any(|line| line == "0 /dev/null"), "{theirs}");
        assert_eq!(end_of(&mut child), Exit::Code(0));
        drop(to_echo);
        assert_eq!(end_of(&mut echo), Exit::Code(0), "nobody else holds the other end");
        send(channel, b"done", &[]);
    }

    /// Role: limits itself and looks what it may do then.
    fn limits(channel: &Channel) {
        let nice = (rustix::process::getpriority_process(None).unwrap() + 1).min(NICE_MAX);
        let cores = host::allowed_cores();
        let core = *cores.last().unwrap();
        let is_limited = |nice: i32, cores: &[usize], memory: Option<u64>| {
            let limit = rustix::process::getrlimit(Resource::Data);
            (rustix::process::getpriority_process(None).unwrap(), host::allowed_cores().as_slice()) == (nice, cores)
                && (limit.current, limit.maximum) == (memory, memory)
        };
        apply(&Limits::default()).unwrap();
        for wrong in [
            Limits { nice: Some(NICE_MAX + 1), ..Limits::default() },
            Limits { nice: Some(NICE_MIN - 1), ..Limits::default() },
            Limits { cores: Some(Vec::new()), ..Limits::default() },
            Limits { cores: Some(vec![core, usize::MAX]), ..Limits::default() },
        ] {
            let answer = apply(&wrong);
            assert!(matches!(answer, Err(Error::InvalidArgument { .. })), "{answer:?}");
        }
        assert_eq!(host::allowed_cores(), cores);

        apply(&Limits { memory: Some(MEMORY_LIMIT), nice: Some(nice), cores: Some(vec![core]) }).unwrap();
        assert!(is_limited(nice, &[core], Some(MEMORY_LIMIT)));
        assert!(std::thread::spawn(move || is_limited(nice, &[core], Some(MEMORY_LIMIT))).join().unwrap());
        let too_much = Mapping::anonymous(2 * MEMORY_LIMIT as usize);
        assert!(matches!(too_much, Err(Error::Io { .. })), "{too_much:?}");
        // Shared memory is not the worker's own.
        drop(Mapping::shared_memory("test", 2 * MEMORY_LIMIT as usize).unwrap());
        drop(Mapping::anonymous(1 << 20).unwrap());

        apply(&Limits { memory: Some(MEMORY_LIMIT + 1), ..Limits::default() }).unwrap();
        assert!(is_limited(nice, &[core], Some(MEMORY_LIMIT)), "the stricter one stays");
        apply(&Limits { memory: Some(MEMORY_LIMIT - 1), ..Limits::default() }).unwrap();
        assert!(is_limited(nice, &[core], Some(MEMORY_LIMIT - 1)));
        send(channel, b"done", &[]);
    }

    #[test]
    fn a_worker_answers_and_ends_when_its_engine_does() {
        let (mut worker, channel) = start("echo");
        let (reader, writer) = std::io::pipe().unwrap();
        send(&channel, b"ping", &[writer.as_fd()]);
        drop(writer);
        let (text, mut fds) = receive(&channel);
        assert_eq!((text.as_str(), fds.len()), ("ping", 1));
        rustix::io::write(fds.pop().unwrap(), b"x").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 2]).unwrap(), 1, "the descriptor went there and back");
        assert_eq!(worker.try_reap().unwrap(), None);
        drop(channel);
        assert_eq!(end_of(&mut worker), Exit::Code(0));
    }

    #[test]
    fn the_exit_says_how_a_worker_ended() {
        for (role, exit) in [
            ("exit 0", Exit::Code(0)),
            ("exit 3", Exit::Code(3)),
            ("exit 255", Exit::Code(255)),
            ("terminate", Exit::Signal(15)),
            ("end", Exit::Signal(9)),
        ] {
            let (mut worker, channel) = start(role);
            assert_peer_gone(&channel);
            assert_eq!(worker.reap().unwrap(), exit);
            assert_eq!((worker.reap().unwrap(), worker.try_reap().unwrap()), (exit, Some(exit)), "as often as asked");
            worker.handle().kill().unwrap();
            assert!(has_ended(worker.handle().pidfd()), "and stays so");
        }
    }

    #[test]
    fn a_worker_is_not_in_the_group_that_the_terminal_signals() {
        let (worker, channel) = start("echo");
        let pid = Pid::from_raw(worker.handle().pid() as i32).unwrap();
        assert_eq!(rustix::process::getpgid(Some(pid)).unwrap(), pid);
        assert_ne!(rustix::process::getpgid(None).unwrap(), pid);
        drop(channel);
    }

    #[test]
    fn the_end_of_a_worker_is_an_event() {
        let (worker, channel) = start("echo");
        let (other, event) = (start("echo"), EventFd::new().unwrap());
        let mut ready = Vec::new();
        send(&channel, b"up", &[]);
        assert_eq!(receive(&channel).0, "up");
        let fds = [event.as_fd(), other.0.handle().pidfd(), worker.handle().pidfd(), channel.as_fd()];
        wait_for_events(&fds, Some(Deadline::from_nanoseconds(0)), &mut ready).unwrap();
        assert_eq!(ready, [false; 4]);
        worker.handle().kill().unwrap();
        wait_for_events(&fds[..3], Some(patient()), &mut ready).unwrap();
        assert_eq!(ready, [false, false, true]);
        assert_peer_gone(&channel);
    }

    #[test]
    fn a_stopped_worker_is_alive_and_can_be_killed() {
        let (mut worker, channel) = start("stop");
        assert_eq!(receive(&channel).0, "about to stop");
        let stopped = rustix::process::waitid(WaitId::PidFd(worker.handle().pidfd()), WaitIdOptions::STOPPED);
        assert!(stopped.unwrap().unwrap().stopped());
        assert!(!has_ended(worker.handle().pidfd()));
        assert_eq!(worker.try_reap().unwrap(), None);
        worker.handle().kill().unwrap();
        assert_eq!(end_of(&mut worker), Exit::Signal(9));
    }

    #[test]
    fn a_dropped_worker_leaves_neither_a_process_nor_a_zombie() {
        for role in ["echo", "stop", "exit 1"] {
            let (worker, channel) = start(role);
            let pidfd = worker.handle().pidfd().try_clone_to_owned().unwrap();
            drop(worker);
            assert!(has_ended(&pidfd));
            let reaped = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            assert_eq!(reaped.unwrap_err(), Errno::CHILD, "{role}");
            drop(channel);
        }
    }

    #[test]
    fn an_exit_that_somebody_else_took_is_an_error_and_drop_returns() {
        let (mut worker, _channel) = start("exit 0");
        let pid = Pid::from_raw(worker.handle().pid() as i32).unwrap();
        rustix::process::waitpid(Some(pid), WaitOptions::empty()).unwrap();
        for _ in 0..2 {
            assert!(matches!(worker.try_reap(), Err(Error::Io { .. })));
            assert!(matches!(worker.reap(), Err(Error::Io { .. })));
        }
        worker.handle().kill().unwrap();
    }

    #[test]
    fn a_program_that_cannot_be_started_is_an_error() {
        let (channel, socket) = Channel::pair().unwrap();
        let mut command = Command::new("/no/such/program");
        let error = WorkerProcess::spawn(&mut command, socket).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        // The command still lives and must not hold the socket.
        assert_peer_gone(&channel);
        drop(command);
    }

    #[test]
    fn a_command_does_not_keep_the_socket_open() {
        let (channel, socket) = Channel::pair().unwrap();
        let mut command = command("exit 0");
        let mut worker = WorkerProcess::spawn(&mut command, socket).unwrap();
        assert_eq!(end_of(&mut worker), Exit::Code(0));
        assert_peer_gone(&channel);
        let (_again, socket) = Channel::pair().unwrap();
        assert_eq!(WorkerProcess::spawn(&mut command, socket).unwrap().reap().unwrap(), Exit::Code(0));
    }

    #[test]
    fn a_message_whose_descriptor_finds_no_room_is_an_error() {
        let (mut worker, channel) = start("crowded");
        let (reader, writer) = std::io::pipe().unwrap();
        send(&channel, b"first", &[writer.as_fd()]);
        send(&channel, b"second", &[writer.as_fd()]);
        assert_eq!(receive(&channel).0, "done");
        assert_eq!(end_of(&mut worker), Exit::Code(0));
        drop(writer);
        assert!(wait_until_readable(reader.as_fd(), Some(patient())).unwrap(), "no writer is left");
    }

    #[test]
    fn a_child_of_a_worker_inherits_nothing_of_the_engine() {
        let (mut worker, channel) = start("inherit");
        let memory = Mapping::shared_memory(&format!("inherit-{}", worker.handle().pid()), 4096).unwrap();
        send(&channel, b"this", &[memory.fd().unwrap()]);
        assert_eq!(receive(&channel).0, "done");
        assert_eq!(end_of(&mut worker), Exit::Code(0));
    }

    #[test]
    fn shared_memory_is_the_same_in_both_processes() {
        let (mut worker, channel) = start("attach");
        let mapping = Mapping::shared_memory("test", 10_001).unwrap();
        let contents: Vec<u8> = (0..10_001).map(|index| (index % 127) as u8).collect();
        poke(&mapping, 0, &contents);
        let view = mapping.second_view().unwrap();
        send(&channel, b"10001", &[mapping.fd().unwrap()]);
        assert_eq!(receive(&channel).0, "done");
        let doubled: Vec<u8> = contents.iter().map(|byte| byte * 2).collect();
        assert!(peek(&mapping, 0, 10_001) == doubled && peek(&view, 0, 10_001) == doubled);
        assert_eq!(end_of(&mut worker), Exit::Code(0));
    }

    #[test]
    fn a_worker_dies_with_the_process_that_started_it() {
        let (mut worker, channel) = start("parent");
        let (_, mut fds) = receive(&channel);
        let orphan = fds.pop().unwrap();
        assert!(!has_ended(&orphan));
        worker.handle().kill().unwrap();
        assert_eq!(end_of(&mut worker), Exit::Signal(9), "without a chance to take its child along");
        let ended = wait_until_readable(orphan.as_fd(), Some(Deadline::after(Duration::from_secs(3600)))).unwrap();
        let _ = rustix::process::pidfd_send_signal(&orphan, Signal::KILL);
        assert!(ended, "the child of a killed process goes on");
    }

    #[test]
    fn a_worker_dies_with_the_thread_that_started_it() {
        let role = format!("orphan {}", std::process::id());
        let thread = std::thread::spawn(move || {
            let (worker, channel) = start(&role);
            assert_eq!(receive(&channel).0, "ready");
            (worker, channel)
        });
        let (mut worker, _channel) = thread.join().unwrap();
        assert_eq!(end_of(&mut worker), Exit::Signal(9));
    }

    #[test]
    fn a_worker_whose_parent_is_another_is_told() {
        for stranger in [0, 1 << 31, u32::MAX] {
            let (mut worker, _channel) = start(&format!("orphan {stranger}"));
            assert_eq!(end_of(&mut worker), Exit::Code(7));
        }
    }

    #[test]
    fn a_worker_keeps_the_limits_it_puts_on_itself() {
        let (mut worker, channel) = start("limits");
        assert_eq!(receive(&channel).0, "done");
        assert_eq!(end_of(&mut worker), Exit::Code(0));
    }

    #[test]
    fn exits_are_said_in_words() {
        let text = |exit: Exit| exit.to_string();
        assert_eq!(text(Exit::Code(3)), "exit code 3");
        assert_eq!(text(Exit::Code(-1)), "exit code -1");
        assert_eq!(text(Exit::Signal(9)), "signal 9 (SIGKILL)");
        assert_eq!(text(Exit::Signal(Signal::SEGV.as_raw())), "signal 11 (SIGSEGV)");
        assert_eq!(text(Exit::Signal(Signal::BUS.as_raw())), format!("signal {} (SIGBUS)", Signal::BUS.as_raw()));
        assert_eq!(text(Exit::Signal(64)), "signal 64");
    }

    proptest! {
        #[test]
        fn every_word_is_one_exit(bits in any::<u32>()) {
            prop_assert_eq!(Exit::from_bits(bits).to_bits(), bits);
        }

        #[test]
        fn exits_survive_packing(number in prop_oneof![0..256, -(1 << 30)..1 << 30]) {
            for exit in [Exit::Code(number), if number == 0 { Exit::Unknown } else { Exit::Signal(number) }] {
                prop_assert_eq!(Exit::from_bits(exit.to_bits()), exit);
            }
        }
    }
}
