//! Catching panics of kernels with their message and location.
//!
//! `catch_unwind` gives the message; the location is known only to the panic hook. The first engine of a process therefore
//! puts a hook in front of the one that is there: inside a kernel it notes message and location and prints nothing (the job's
//! error says it all), elsewhere it passes the panic on. A hook set later by the program replaces it; kernels then still fail
//! with their message, without a location. With `panic = "abort"` nothing can be caught.

use core::any::Any;
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
    /// The depth at which a panic of this thread is passed on to the program's own hook: outside of kernels, and in what a program runs in
    /// parallel there. [`NOWHERE`] on a [`Worker`](crate::Worker), whose end tells of its panic.
    static HEARD_AT: Cell<u32> = const { Cell::new(0) };
}

/// No depth.
const NOWHERE: u32 = u32::MAX;

/// Puts the hook in place, once a process.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            if is_heard() {
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
    HEARD_AT.set(NOWHERE);
    panic::catch_unwind(AssertUnwindSafe(body)).map_err(panicked)
}

/// Whether a panic of this thread, where it is now, is passed on to the program's own hook.
#[inline]
pub(crate) fn is_heard() -> bool {
    DEPTH.try_with(Cell::get).unwrap_or(0) == HEARD_AT.try_with(Cell::get).unwrap_or(0)
}

/// Runs `body` on this thread as a part of what was begun where panics are `heard`, or are not.
#[inline]
pub(crate) fn as_part<R>(heard: bool, body: impl FnOnce() -> R) -> R {
    struct Restore(u32);
    impl Drop for Restore {
        fn drop(&mut self) {
            HEARD_AT.set(self.0);
        }
    }
    let _restore = Restore(HEARD_AT.replace(if heard { depth() } else { NOWHERE }));
    body()
}

/// Runs `body` as a kernel whose panics are those of its caller: they are heard where the caller's are, and go on.
#[inline]
pub(crate) fn inside<R>(body: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            DEPTH.with(|depth| depth.set(depth.get() - 1));
        }
    }
    let heard = is_heard();
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let _leave = Leave;
    as_part(heard, body)
}

/// A panic on its way from one thread to another.
pub(crate) struct Unwound {
    payload: Box<dyn Any + Send>,
    location: Option<String>,
}

/// Runs `body` and holds its panic up, if there is one.
///
/// # Errors
/// The panic.
#[inline]
pub(crate) fn hold_up<R>(body: impl FnOnce() -> R) -> Result<R, Unwound> {
    panic::catch_unwind(AssertUnwindSafe(body)).map_err(|payload| {
        let location = LAST.with(|last| last.borrow_mut().take());
        Unwound { payload, location }
    })
}

impl Unwound {
    /// Lets the panic go on, on this thread. The hook has seen it where it happened.
    pub(crate) fn go_on(self) -> ! {
        LAST.with(|last| *last.borrow_mut() = self.location);
        panic::resume_unwind(self.payload)
    }

    /// Forgets the panic, because another one goes on in its place.
    pub(crate) fn forget(self) {
        drop_payload(self.payload);
    }
}

/// A payload whose destructor panics must not take the worker down; what that panic carries is leaked.
fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        core::mem::forget(second);
    }
}

#[cold]
fn panicked(payload: Box<dyn Any + Send>) -> Panicked {
    let message = match payload.downcast_ref::<&str>() {
        Some(text) => (*text).to_owned(),
        None => match payload.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => "a panic without text".to_owned(),
        },
    };
    drop_payload(payload);
    let location = LAST.with(|last| last.borrow_mut().take()).unwrap_or_default();
    Panicked { message, location }
}
