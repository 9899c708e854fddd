//! What can go wrong, said in types: [`Error`], and [`Failed`], which hands back whatever was given.

use core::fmt;
use std::time::Duration;

/// The result of a call that hands nothing back on failure.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why a call or a job did not succeed.
///
/// `Display` prints one line that says what happened, with the numbers, and what to do about it where there is something
/// to do. The cause, where there is one, is reached through [`std::error::Error::source`].
///
/// # Examples
/// ```
/// use workring::{Engine, Error};
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).capacity(1 << 20).build()?;
/// let error = engine.batch::<f64>(1 << 30).unwrap_err();
/// assert!(matches!(error, Error::OutOfMemory { capacity: 1_048_576, .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The arena has no block that large. Sizes are in bytes.
    OutOfMemory {
        /// Bytes asked for, after rounding up to the arena's alignment.
        requested: u64,
        /// Bytes not in use; they may lie in several pieces.
        free: u64,
        /// Bytes the arena was built with.
        capacity: u64,
    },
    /// The queue holds as many unfinished jobs as it may.
    QueueFull {
        /// The most unfinished jobs the queue may hold.
        capacity: u32,
    },
    /// As many messages as the channel has room for wait to be received.
    ChannelFull {
        /// The most messages that may wait.
        capacity: usize,
    },
    /// The other side of the channel is gone: no message will be received or posted there any more.
    Disconnected,
    /// The worker was told to end: [`Worker::terminate`](crate::Worker::terminate).
    Terminated,
    /// The engine was closed; it takes no new jobs.
    Closed,
    /// The job was cancelled, or given back by a closing engine before it ran.
    Cancelled,
    /// The job was not finished at its deadline.
    DeadlineExceeded,
    /// The wait ended before the job did. The job goes on.
    TimedOut {
        /// How long the call waited.
        waited: Duration,
    },
    /// The kernel returned an error.
    KernelFailed {
        /// Name of the kernel.
        kernel: String,
        /// What the kernel said, cut at a fixed number of bytes.
        message: String,
    },
    /// The kernel or closure panicked. The worker that ran it goes on.
    KernelPanicked {
        /// Name of the kernel, or of the closure's type.
        kernel: String,
        /// The panic message, cut at a fixed number of bytes.
        message: String,
        /// `file:line:column` of the panic.
        location: String,
    },
    /// Batches given to one call have lengths that do not fit together.
    LengthMismatch {
        /// Which batch, e.g. `input 1` or `output 0`.
        what: String,
        /// Its length, in elements.
        found: u64,
        /// The length it had to have, in elements.
        expected: u64,
    },
    /// An index of a [`gather`](crate::Engine::gather) or [`scatter`](crate::Engine::scatter), or of their like, is that of no element.
    IndexOutOfBounds {
        /// The index.
        index: u64,
        /// Which of the indices it is, from 0: the first that is wrong.
        position: u64,
        /// How many elements there are.
        len: u64,
    },
    /// A batch belongs to another engine than the one it was given to.
    ForeignBatch,
    /// A parameter lies outside what the call allows.
    InvalidArgument {
        /// Which parameter and what it must be.
        what: String,
    },
    /// A shared array has no element of this index.
    OutOfRange {
        /// The index, or the end of a range.
        index: usize,
        /// Elements the array had.
        len: usize,
    },
    /// A handle names no shared array of this engine: it is of another engine, the array is gone, or it is no handle at all.
    UnknownArray {
        /// Which of these.
        reason: &'static str,
    },
    /// A handle names a shared array whose elements are of another type.
    ElementTypeMismatch {
        /// The tag of the array's element type.
        found: u32,
        /// The tag of the type that was asked for.
        expected: u32,
    },
    /// As many asynchronous waits on shared arrays are pending as there may be in one process.
    TooManyWaits {
        /// The most there may be.
        limit: usize,
    },
    /// The process of the worker that ran the job died, and the job may not be started again: see
    /// [`Retry`](crate::Retry). Everything that was handed over comes back; outputs hold what was written until then.
    WorkerDied {
        /// Process id of the worker.
        pid: u32,
        /// How it ended.
        exit: WorkerExit,
        /// The kernel it was running.
        kernel: String,
        /// How often the job had been started, this time included.
        attempt: u32,
    },
    /// No worker process runs and none can be started at the moment. The engine tries again for as long as it lives: jobs wait for that,
    /// unless they have a deadline or were given with [`Backpressure::Reject`](crate::Backpressure::Reject).
    NoWorkers {
        /// Why the last one could not be started.
        reason: String,
    },
    /// A worker process could not be started, or does not fit this program.
    WorkerStart {
        /// What went wrong, and what to do about it.
        reason: String,
    },
    /// This process could not become a worker of the engine it wanted to [`attach`](crate::process::attach) to.
    Attach {
        /// What does not fit, and what to do about it.
        reason: String,
    },
    /// The process of the engine that this worker attached to is gone.
    EngineGone,
    /// The process was forked after the engine was built: the child has the memory but none of the worker threads.
    Forked,
    /// This platform or engine cannot do what was asked.
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// A word in shared memory holds what no participant can have written.
    Corrupt {
        /// Which structure.
        what: &'static str,
        /// Its byte offset in the mapping.
        offset: u64,
        /// What had to be there.
        expected: u64,
        /// What was there.
        found: u64,
    },
    /// A file is not what the call needs: wrong type, order, size, or not readable as its format.
    Format {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    Io {
        /// What was being done, e.g. `map /data/prices.npy`.
        operation: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// How a worker process ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum WorkerExit {
    /// It ended by itself with this code.
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
    /// Only its parent was told: the worker was started by others.
    Unknown,
}

impl WorkerExit {
    /// Bit 31 of [`to_bits`](Self::to_bits).
    const SIGNAL: u32 = 1 << 31;

    /// The exit as one word: bit 31 is set for a signal, the others are the number in two's complement.
    ///
    /// [`from_bits`](Self::from_bits) gives back every exit whose number fits 31 bits, and so every one the system reports. Signal 0,
    /// which does not exist, is the unknown exit.
    pub(crate) const fn to_bits(self) -> u32 {
        match self {
            Self::Code(code) => code as u32 & !Self::SIGNAL,
            Self::Signal(signal) => signal as u32 | Self::SIGNAL,
            // There is no signal 0.
            Self::Unknown => Self::SIGNAL,
        }
    }

    /// The exit of a word that [`to_bits`](Self::to_bits) gave; every word is one.
    pub(crate) const fn from_bits(bits: u32) -> Self {
        // Shifted out and back as a signed number, bit 30 becomes the sign.
        let number = (bits << 1) as i32 >> 1;
        match (bits & Self::SIGNAL, number) {
            (0, _) => Self::Code(number),
            (_, 0) => Self::Unknown,
            _ => Self::Signal(number),
        }
    }
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(6) => f.write_str("signal 6 (SIGABRT)"),
            Self::Signal(9) => f.write_str("signal 9 (SIGKILL)"),
            Self::Signal(11) => f.write_str("signal 11 (SIGSEGV)"),
            Self::Signal(7) => f.write_str("signal 7 (SIGBUS)"),
            Self::Signal(31) => f.write_str("signal 31 (SIGSYS)"),
            Self::Signal(15) => f.write_str("signal 15 (SIGTERM)"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("an exit that only its parent was told"),
        }
    }
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { operation: operation.into(), source: source.into() }
    }

    /// The error and its causes in one line, for places that take a text instead of an error.
    #[cfg(target_os = "linux")]
    pub(crate) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }

    /// Why something cannot be started, for the other side of a handshake, which gives the text a type of its own.
    #[cfg(target_os = "linux")]
    pub(crate) fn into_reason(self) -> String {
        match self {
            Self::WorkerStart { reason } => reason,
            other => other.with_causes(),
        }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::InvalidArgument { what: what.into() }
    }

    pub(crate) fn worker_start(reason: impl Into<String>) -> Self {
        Self::WorkerStart { reason: reason.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { requested, free, capacity } => write!(
                f,
                "out of arena memory: {requested} bytes requested, {free} of {capacity} free; drop batches or build the engine with a larger capacity"
            ),
            Self::QueueFull { capacity } => {
                write!(
                    f,
                    "the queue is full: {capacity} jobs are unfinished; wait for some or build the engine with a larger queue"
                )
            }
            Self::ChannelFull { capacity } => write!(
                f,
                "the channel is full: {capacity} messages wait to be received; wait for room or make the channel with a larger capacity"
            ),
            Self::Disconnected => f.write_str("the other side of the channel is gone"),
            Self::Terminated => f.write_str("the worker was told to end"),
            Self::Closed => f.write_str("the engine is closed"),
            Self::Cancelled => f.write_str("the job was cancelled"),
            Self::DeadlineExceeded => f.write_str("the job was not finished at its deadline"),
            Self::TimedOut { waited } => write!(f, "not finished after {waited:?}; the job goes on"),
            Self::KernelFailed { kernel, message } => write!(f, "kernel {kernel} failed: {message}"),
            Self::KernelPanicked { kernel, message, location } => {
                write!(f, "kernel {kernel} panicked at {location}: {message}")
            }
            Self::LengthMismatch { what, found, expected } => {
                write!(f, "{what} has {found} elements where {expected} are needed")
            }
            Self::IndexOutOfBounds { index, position, len } => {
                write!(f, "index {index}, number {position} of the indices, is out of bounds: there are {len} elements")
            }
            Self::ForeignBatch => f.write_str("a batch belongs to another engine; copy it into this one first"),
            Self::InvalidArgument { what } => f.write_str(what),
            Self::OutOfRange { index, len } => write!(f, "index {index} is out of range: the array has {len} elements"),
            Self::UnknownArray { reason } => write!(f, "the handle names no shared array of this engine: {reason}"),
            Self::ElementTypeMismatch { found, expected } => {
                write!(f, "the handle names a shared array with elements of type {found}, not {expected}")
            }
            Self::TooManyWaits { limit } => write!(
                f,
                "{limit} asynchronous waits on shared arrays are pending in this process; wait on threads, or for fewer elements"
            ),
            Self::WorkerDied { pid, exit, kernel, attempt } => write!(
                f,
                "worker process {pid} ended with {exit} while it ran kernel {kernel} (attempt {attempt}); allow retries if the kernel writes all of its outputs"
            ),
            Self::NoWorkers { reason } => {
                write!(f, "no worker process runs and none can be started at the moment: {reason}")
            }
            Self::WorkerStart { reason } => write!(f, "could not start a worker process: {reason}"),
            Self::Attach { reason } => write!(f, "could not attach to the engine: {reason}"),
            Self::EngineGone => f.write_str("the engine's process is gone"),
            Self::Forked => {
                f.write_str("the process was forked after the engine was built; build a new engine in the child")
            }
            Self::Unsupported { what } => write!(f, "not supported here: {what}"),
            Self::Corrupt { what, offset, expected, found } => {
                write!(
                    f,
                    "shared memory is corrupt: {what} at offset {offset:#x} holds {found:#x}, expected {expected:#x}"
                )
            }
            Self::Format { path, reason } => write!(f, "{path}: {reason}"),
            Self::Io { operation, source } => {
                write!(f, "could not {operation}")?;
                remedy(source).map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
            }
        }
    }
}

/// What to do about the system's answer, where a limit of this process or of the system is its reason.
fn remedy(source: &std::io::Error) -> Option<&'static str> {
    if cfg!(not(target_os = "linux")) {
        return None;
    }
    // The numbers of errno(3) on Linux.
    Some(match source.raw_os_error()? {
        // E2BIG
        7 => "arguments and environment together are longer than a program may be given: shorten them",
        // EAGAIN, which among this crate's calls only starting a thread or process hands on.
        11 => "end some processes or threads, or raise their limit (ulimit -u)",
        // ENFILE
        23 => "the whole system has too many files open: close some, or raise fs.file-max",
        // EMFILE
        24 => "close some files or raise the limit on open ones (ulimit -n)",
        // EFBIG
        27 => "raise the limit on the length of files (ulimit -f)",
        _ => return None,
    })
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An [`Error`] together with what was handed over: nothing given to the engine is ever lost.
///
/// Turns into a plain [`Error`] with `?`, dropping what was handed back.
///
/// # Examples
/// ```
/// use workring::Failed;
///
/// fn keep(failed: Failed<Vec<f64>>) -> Vec<f64> {
///     eprintln!("{}", failed.error);
///     failed.returned
/// }
/// # let _ = keep;
/// ```
pub struct Failed<B> {
    /// Why.
    pub error: Error,
    /// What was handed over, unchanged in ownership; its contents may have been written by a kernel that started.
    pub returned: B,
}

impl<B> Failed<B> {
    /// An error with what goes back to the caller.
    pub fn new(error: Error, returned: B) -> Self {
        Self { error, returned }
    }

    /// The error and what was handed over.
    pub fn into_parts(self) -> (Error, B) {
        (self.error, self.returned)
    }

    /// The same error with something else handed back.
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Failed<C> {
        Failed { error: self.error, returned: change(self.returned) }
    }
}

// `B` need not be `Debug`: a failed call must be printable whatever was handed over.
impl<B> fmt::Debug for Failed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<B> fmt::Display for Failed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<B> std::error::Error for Failed<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl<B> From<Failed<B>> for Error {
    fn from(failed: Failed<B>) -> Self {
        failed.error
    }
}
