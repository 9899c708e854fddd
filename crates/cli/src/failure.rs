//! What can go wrong with a command, and telling the user.

use std::fmt::{self, Display};
use std::io::{Write, stderr};
use std::process::ExitCode;

use workring::Error;

use super::output::printable;
use super::signals::{die_of_broken_pipe, is_interrupted};

/// Why a command failed; `Display` prints the one line the user sees.
#[derive(Debug)]
pub(crate) enum Failure {
    Engine(Error),
    Message(String),
    /// A signal asked for the end: the process dies of it.
    Interrupted,
    /// The reader of the output has closed it.
    BrokenPipe,
    /// The user was told of each thing that went wrong.
    Told,
}

impl Failure {
    /// Tells the user and gives the exit code.
    pub(crate) fn tell(&self) -> ExitCode {
        match self {
            Self::Engine(_) | Self::Message(_) => complain(self),
            Self::BrokenPipe => die_of_broken_pipe(),
            Self::Interrupted | Self::Told => {}
        }
        ExitCode::FAILURE
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => {
                write!(f, "{error}")?;
                match std::error::Error::source(error) {
                    Some(cause) => write!(f, ": {cause}"),
                    None => Ok(()),
                }
            }
            Self::Message(message) => f.write_str(message),
            Self::Interrupted => f.write_str("interrupted"),
            Self::BrokenPipe => f.write_str("nobody reads standard output"),
            Self::Told => f.write_str("failed"),
        }
    }
}

pub(crate) type Outcome<T> = Result<T, Failure>;

/// Fails if a signal asked for the end.
pub(crate) fn give_up_if_interrupted() -> Outcome<()> {
    if is_interrupted() { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Tells the user what went wrong: one line, whatever the message holds. If there is nobody to be told, the exit code says it.
pub(crate) fn complain(failure: impl Display) {
    let line = printable(&failure.to_string().replace('\n', " "));
    let _ = writeln!(stderr(), "workring: {line}");
}
