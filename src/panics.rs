//! Catching panics of kernels with their message and location.
//!
//! `catch_unwind` gives the message; the location is known only to the panic hook. The first engine of a process therefore
//! puts a hook in front of the one that is there: inside a kernel it notes message and location and prints nothing (the job's
//! error says it all), elsewhere it passes the panic on. A hook set later by the program replaces it; kernels then still fail
//! with their message, without a location. With `panic = "abort"` nothing can be caught.

use core::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// What a caught panic said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Panicked {
    pub(crate) message: String,
    /// `file:line:column`, empty when unknown.
    pub(crate) location: String,
}

thread_local! {
    /// How many kernels this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Whether this thread is a [`Worker`](crate::Worker), whose end tells of its panic.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Puts the hook in place, once a process.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            if DEPTH.try_with(Cell::get).unwrap_or(0) == 0 && !IS_WORKER.try_with(Cell::get).unwrap_or(false) {
                previous(information);
                return;
            }
            let location = information.location().map(ToString::to_string).unwrap_or_default();
            let _ = LAST.try_with(|last| {
                if let Ok(mut last) = last.try_borrow_mut() {
                    *last = Some(location);
                }
            });
        }));
    });
}

/// How deep this thread is inside kernels: above 0, a wait must not run foreign jobs.
#[inline]
pub(crate) fn depth() -> u32 {
    DEPTH.with(Cell::get)
}

/// Runs `body` as a kernel.
///
/// # Errors
/// [`Panicked`] when it panics, in a box, so that successes are not moved about in room for it. The caller treats whatever `body` was writing
/// as unfinished.
#[inline]
pub(crate) fn catch<R>(body: impl FnOnce() -> R) -> Result<R, Box<Panicked>> {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            DEPTH.with(|depth| depth.set(depth.get() - 1));
        }
    }
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let leave = Leave;
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    drop(leave);
    result.map_err(|payload| Box::new(panicked(payload)))
}

/// Runs `body` as all that this thread does. Unlike a kernel it may wait for jobs and run them.
///
/// # Errors
/// [`Panicked`] when it panics.
pub(crate) fn catch_in_worker<R>(body: impl FnOnce() -> R) -> Result<R, Panicked> {
    install_hook();
    IS_WORKER.set(true);
    panic::catch_unwind(AssertUnwindSafe(body)).map_err(panicked)
}

#[cold]
fn panicked(payload: Box<dyn core::any::Any + Send>) -> Panicked {
    let message = match payload.downcast_ref::<&str>() {
        Some(text) => (*text).to_owned(),
        None => match payload.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => "a panic without text".to_owned(),
        },
    };
    // A payload whose destructor panics must not take the worker down; what that panic carries is leaked.
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        core::mem::forget(second);
    }
    let location = LAST.with(|last| last.borrow_mut().take()).unwrap_or_default();
    Panicked { message, location }
}
