//! The `workring` command: statistics, reductions and element-wise functions over large `.npy` files.
#![deny(unsafe_code)]

use std::process::ExitCode;

mod args;
mod arrays;
mod commands;
mod distributions;
mod failure;
mod functions;
mod kernels;
mod number;
mod output;
mod progress;
mod signals;
mod startup;
mod stdio;
mod units;

fn main() -> ExitCode {
    // First of all: a copy of this program that an engine starts as a worker never gets beyond this line.
    workring::worker_entry(&kernels::known());
    // Without it signals still end the process; only the temporary name of an unfinished file would stay where there is one.
    let _ = signals::catch();
    let outcome = match args::Arguments::parse_checked() {
        Ok(arguments) => commands::run(&arguments).map(|()| 0),
        Err(error) => stdio::print_instead(&error),
    };
    // Engines and files are gone by now: a signal that came in the meantime is what the process dies of, however it went.
    signals::die_if_interrupted();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.tell(),
    }
}
