//! Why the work of a kernel or closure is of no use.

use crate::engine::kernel::KernelError;
use crate::error::Error;
use crate::layout::records::{Descriptor, status};
use crate::layout::words::{DescriptorWord, FLAG_UNSTARTED};
use crate::panics::Panicked;
use crate::sync::Ordering;

/// Why a kernel's work is of no use.
#[derive(Debug)]
pub(crate) enum RunError {
    Failed(String),
    Panicked(Box<Panicked>),
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

/// What a finished job whose word has the outcome flag ended with: one of `records::status`, or anything in a damaged descriptor.
pub(crate) fn status_of(descriptor: &Descriptor, done: DescriptorWord) -> u32 {
    // Relaxed: acquired with the word that says Done (A3).
    if done.has(FLAG_UNSTARTED) { status::CANCELLED } else { descriptor.status.load(Ordering::Relaxed) }
}

/// The error of a call whose kernel is of that name, for a caller that met it on its own thread.
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
