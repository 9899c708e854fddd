//! The first line of `main` in a program that may be started as a worker.

use crate::engine::kernel::KernelInfo;
use crate::engine::process::work_as_child;
use crate::front::message;
use crate::process_host::{self, Start};

/// Turns this process into a worker if an engine started it as one, and does nothing otherwise.
///
/// Call it first in `main`, before threads are started, arguments are read or anything is printed. In a worker it never returns:
/// the worker runs jobs until the engine closes, and then the process ends. `kernels` are those that this program can run, listed
/// by [`kernels!`](macro@crate::kernels); they must contain all that are given to [`Builder::kernels`](crate::Builder::kernels), and no two of
/// one [identity](macro@crate::kernel#which-kernel): a worker whose list has them refuses to start and says which.
///
/// A worker is recognised by an environment variable together with a socket as its standard input, so programs that a worker
/// starts are not taken for workers.
///
/// # Examples
/// ```
/// use workring::{kernel, kernels};
///
/// /// Doubles in place.
/// #[kernel]
/// pub fn double(y: &mut [f64]) { for value in y { *value *= 2.0; } }
///
/// fn main() {
///     workring::worker_entry(kernels![double]);
///     // The program begins here.
/// }
/// ```
pub fn worker_entry(kernels: &[&'static KernelInfo]) {
    let Some(connection) = process_host::enter() else { return };
    let mut first = Vec::new();
    let fds = connection.recv(&mut first).unwrap_or_else(|error| process_host::refuse(&connection, error));
    if Start::is_one(&first) {
        message::run_main(&connection, &first, fds, kernels);
    }
    work_as_child(&connection, &first, fds, kernels);
}
