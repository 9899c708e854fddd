//! What a kernel may return, and what becomes of an error.

use core::fmt;

/// Why a kernel did not succeed: what it returned as its error, as text.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelError {
    message: Option<String>,
}

impl KernelError {
    /// An error with a message.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: Some(message.to_string()) }
    }

    /// The job's batches do not have the types the kernel takes: the descriptor was damaged.
    pub(crate) fn mismatch() -> Self {
        Self { message: None }
    }

    /// The message, or `None` for a damaged descriptor.
    pub(crate) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }
}

/// What a kernel may return: nothing, or a `Result` whose error can be displayed.
#[diagnostic::on_unimplemented(
    message = "a kernel cannot return `{Self}`",
    note = "it returns nothing, or `Result<(), E>` where `E: Display`"
)]
pub trait KernelOutcome {
    /// As the engine sees it.
    ///
    /// # Errors
    /// When the kernel returned one.
    fn into_outcome(self) -> Result<(), KernelError>;
}

impl KernelOutcome for () {
    fn into_outcome(self) -> Result<(), KernelError> {
        Ok(())
    }
}

impl<E: fmt::Display> KernelOutcome for Result<(), E> {
    fn into_outcome(self) -> Result<(), KernelError> {
        self.map_err(KernelError::new)
    }
}
