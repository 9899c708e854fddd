//! Worker processes, as a program's author sees them: the list of kernels, what workers are started from.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(target_os = "linux")]
use crate::engine::kernel::KernelInfo;
#[cfg(target_os = "linux")]
use crate::engine::kernel::KernelName;
#[cfg(target_os = "linux")]
use crate::engine::process::ProcessGroup;
#[cfg(target_os = "linux")]
use crate::error::{Error, Result};
#[cfg(target_os = "linux")]
use crate::os::process::Limits;
#[cfg(target_os = "linux")]
use crate::process_host::{Program, is_unclaimed_worker};

/// How long a kernel may go on after it was told to stop, unless stated.
#[cfg(target_os = "linux")]
pub(crate) const KILL_AFTER: Duration = Duration::from_millis(20);

/// What worker processes are started from, where and with which limits. Made by [`WorkerProgram::this`] or
/// [`WorkerProgram::at`]; given to [`Builder::worker_program`](crate::Builder::worker_program).
///
/// # What kernels start
///
/// Programs that a kernel starts end with its worker. Each worker leads a process group of its own; what is in it is killed when the worker has ended,
/// in whatever way: by its own crash, with the engine, [recycled](crate::Builder::recycle_after), or killed for a deadline or a cancel. When the engine kills it,
/// and when the engine's process ends, even by `kill -9`, so are descendants that have left the group (`setsid`, daemons): the worker is a
/// subreaper, so that those whose parent ends become its own children. They stay zombies then until the worker ends.
///
/// When a worker died by itself (by a signal, or with an exit other than 0), descendants that have left its group are known by the variable
/// `WORKRING_FAMILY`, which they inherit, and killed as soon as its jobs are settled. So is every descendant where the host ignores SIGCHLD or waits for every
/// child, as nobody knows there how the worker ended. Out of reach are then those that were started with another environment (`env -i`, `sudo`, by a
/// service manager), that write over the memory of their environment, or that took another user's rights. What has left the group of a worker that
/// ended in order goes on.
///
/// # Terminals
///
/// Being in groups of their own, workers get no Ctrl-C and no Ctrl-Z: these are for the program that built the engine, with whose end its workers end, and
/// whose stop leaves them at their jobs. To the terminal they are in the background: a kernel that reads from it (`/dev/tty`; standard input is
/// `/dev/null`) is stopped by SIGTTIN, and where `stty tostop` is set so is one that prints, until somebody sends SIGCONT or the job's deadline ends
/// the worker. Use [`prefix_output`](Self::prefix_output) there.
#[derive(Clone, Debug, Default)]
#[must_use = "it does nothing until it is given to a builder"]
pub struct WorkerProgram {
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    prefix_output: bool,
    memory_limit: Option<u64>,
    nice: Option<i32>,
    cores: Option<Vec<usize>>,
}

impl WorkerProgram {
    /// As what starts it takes it.
    #[cfg(target_os = "linux")]
    pub(crate) fn into_program(self) -> Program {
        let Self { program, arguments, environment, directory, prefix_output, memory_limit, nice, cores } = self;
        let limits = Limits { memory: memory_limit, nice, cores };
        Program { limits, program, arguments, environment, directory, prefix_output }
    }

    /// The running program itself, without arguments.
    pub fn this() -> Self {
        Self::default()
    }

    /// Another program, which calls [`worker_entry`](crate::worker_entry) first in `main` and lists the same kernels.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: Some(program.into()), ..Self::default() }
    }

    /// Adds an argument.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable for the workers; the others are inherited.
    pub fn environment(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The workers' working directory; that of this process unless stated. One that does not exist is an error of
    /// [`Builder::build`](crate::Builder::build).
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Passes on what workers print line by line, with the worker's number and process id before each line, instead of letting
    /// them write to this program's own output, where their lines may mix. Lines of more than 8 KiB are cut. What others print that a worker has
    /// started is passed on until the worker has ended.
    pub fn prefix_output(mut self) -> Self {
        self.prefix_output = true;
        self
    }

    /// The most memory of its own that a worker may take, in bytes (`RLIMIT_DATA`); shared memory and mapped files do not count.
    ///
    /// A worker that asks for more usually ends itself (Rust programs by `SIGABRT`): its job then fails with
    /// [`Error::WorkerDied`].
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// The workers' nice value, from -20 to 19, where more is nicer; below the present one it needs a privilege.
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = Some(nice);
        self
    }

    /// The cores the workers may run on, by the system's numbers.
    pub fn cores(mut self, cores: impl Into<Vec<usize>>) -> Self {
        self.cores = Some(cores.into());
        self
    }
}

/// Refuses what would start processes without end.
///
/// # Errors
/// [`Error::WorkerStart`] in a process that was itself started as a worker.
#[cfg(target_os = "linux")]
pub(crate) fn check_no_worker(what_it_did: &str) -> Result<()> {
    if !is_unclaimed_worker() {
        return Ok(());
    }
    Err(Error::WorkerStart {
        reason: format!(
            "this process was itself started as a worker, but its main did not call workring::worker_entry(kernels![..]) before it {what_it_did}"
        ),
    })
}

/// What a builder gathers about worker processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerOptions {
    /// This very program unless stated.
    pub(crate) program: Option<WorkerProgram>,
    pub(crate) kill_after: Option<Duration>,
    pub(crate) listen_at: Option<PathBuf>,
}

#[cfg(target_os = "linux")]
impl WorkerOptions {
    /// What the supervisor needs, checked; `None` for an engine of threads alone.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] in a process that was itself started as a worker, which would start workers without end;
    /// [`Error::InvalidArgument`] when there is no kernel.
    pub(crate) fn group(
        &self,
        kernels: &[&'static KernelInfo],
        processes: usize,
        external_workers: usize,
        least: usize,
        idle_timeout: Duration,
    ) -> Result<Option<ProcessGroup>> {
        if processes + external_workers == 0 {
            return Ok(None);
        }
        check_no_worker("built an engine")?;
        if kernels.is_empty() {
            return Err(Error::invalid("worker processes need kernels: list them with Builder::kernels(kernels![..])"));
        }
        let kernels = kernels.iter().map(|info| KernelName::of(info)).collect::<Result<Vec<_>>>()?;
        let Self { kill_after, listen_at, .. } = self.clone();
        let program = self.program.clone().unwrap_or_default().into_program();
        let kill_after = kill_after.unwrap_or(KILL_AFTER);
        Ok(Some(ProcessGroup { program, kernels, kill_after, listen_at, least, idle_timeout }))
    }
}
