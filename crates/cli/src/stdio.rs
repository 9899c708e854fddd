//! Standard output and standard error: what does not get there is an error, and never a panic.

use std::io::{self, IsTerminal, Write, stdout};

use super::failure::Failure;
use super::startup::stdout_was_closed;

/// Refuses a standard output that is closed, before any work is done for it.
pub(crate) fn check_stdout() -> Result<(), Failure> {
    if stdout_was_closed() {
        return Err(Failure::Message("standard output is closed; redirect it, to /dev/null if need be".to_owned()));
    }
    Ok(())
}

/// Refuses a standard output that is closed or a terminal: what is not text is for a file or a pipe.
pub(crate) fn check_stdout_takes_data() -> Result<(), Failure> {
    check_stdout()?;
    if stdout().is_terminal() {
        let advice = "redirect it, or name a file with --output";
        return Err(Failure::Message(format!(
            "standard output is a terminal, which is no place for an array; {advice}"
        )));
    }
    Ok(())
}

/// Writes all of `bytes` to standard output.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = stdout().lock();
    outcome(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Prints help, a version or a usage error, and gives the exit code that belongs to it.
pub(crate) fn print_instead(error: &clap::Error) -> Result<u8, Failure> {
    if !error.use_stderr() {
        check_stdout()?;
    }
    let printed = error.print().and_then(|()| stdout().flush());
    // A usage error that cannot be shown is one all the same.
    if error.use_stderr() { Ok(2) } else { outcome(printed).map(|()| 0) }
}

fn outcome(written: io::Result<()>) -> Result<(), Failure> {
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::Message(format!("could not write to standard output: {error}")),
    })
}
