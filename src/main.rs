//! The `workring` command: statistics, reductions and element-wise functions over large `.npy` files.
#![deny(unsafe_code)]

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    // First of all: a copy of this program that an engine starts as a worker never gets beyond this line.
    workring::worker_entry(&cli::kernels::known());
    // Without it signals still end the process; only the temporary name of an unfinished file would stay where there is one.
    let _ = cli::signals::catch();
    let outcome = match cli::args::Arguments::parse_checked() {
        Ok(arguments) => cli::commands::run(&arguments).map(|()| 0),
        Err(error) => cli::stdio::print_instead(&error),
    };
    // Engines and files are gone by now: a signal that came in the meantime is what the process dies of, however it went.
    cli::signals::die_if_interrupted();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.tell(),
    }
}
