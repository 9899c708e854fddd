//! The `workring` command: statistics, reductions and element-wise functions over large `.npy` files.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    // First of all: a copy of this program that an engine starts as a worker never gets beyond this line.
    workring::worker_entry(&cli::kernels::known());
    let arguments = cli::args::Arguments::parse_checked();
    // Without a handler Ctrl-C still ends the process; only an unfinished output file's temporary name would stay.
    let _ = cli::progress::catch_interrupts();
    match cli::commands::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // One line, whatever a message holds.
            eprintln!("workring: {}", failure.to_string().replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}
