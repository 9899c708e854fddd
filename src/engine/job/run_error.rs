//! Why the work of a kernel or closure is of no use.

use crate::engine::kernel::KernelError;
use crate::error::Error;
use crate::panics::Panicked;

/// Why a kernel's work is of no use.
#[derive(Debug)]
pub(crate) enum RunError {
    Failed(String),
    Panicked(Panicked),
    Corrupt,
    Cancelled,
    Deadline,
    OutOfMemory,
}

impl From<KernelError> for RunError {
    fn from(error: KernelError) -> Self {
        match error.message() {
            Some(message) => Self::Failed(message.to_owned()),
            None => Self::Corrupt,
        }
    }
}

/// The error of a call whose kernel is of that name, for a caller who met it on its own thread.
pub(crate) fn error_of(kernel: &str, run_error: RunError) -> Error {
    let kernel = kernel.to_owned();
    match run_error {
        RunError::Failed(message) => Error::KernelFailed { kernel, message },
        RunError::Panicked(panicked) => {
            Error::KernelPanicked { kernel, message: panicked.message, location: panicked.location }
        }
        RunError::Cancelled => Error::Cancelled,
        RunError::Deadline => Error::DeadlineExceeded,
        RunError::Corrupt | RunError::OutOfMemory => Error::Corrupt { what: "call", offset: 0, expected: 0, found: 0 },
    }
}
