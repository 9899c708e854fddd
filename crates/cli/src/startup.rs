//! What a process can only be told before `main`: whether it was started without a standard output.
//!
//! Before `main` the standard library opens /dev/null in the place of each closed standard stream, so that no file gets its number.
//! Afterwards `workring stats x.npy >&-` cannot be told from `>/dev/null`, and all that is written is lost without an error.
//!
//! Laws of this file, which its unsafe attribute relies on:
//! 1. What stands in the section `.init_array` is a pointer to a function of the C calling convention. The loader calls it once, on the
//!    only thread, before `main`; it may ignore the arguments it gets.
//! 2. The standard library is not set up then: the function calls the system by rustix, stores to an atomic, and does nothing else. It
//!    cannot panic.
#![allow(unsafe_code)]

/// Whether standard output was closed when the process was started. Elsewhere than on Linux nobody has looked.
pub(crate) fn stdout_was_closed() -> bool {
    #[cfg(target_os = "linux")]
    return linux::STDOUT_WAS_CLOSED.load(std::sync::atomic::Ordering::Relaxed);
    #[cfg(not(target_os = "linux"))]
    false
}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::atomic::{AtomicBool, Ordering};

    pub(super) static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

    // SAFETY: laws 1 and 2; the name is that of the section, and the static is a pointer to such a function.
    #[expect(clippy::unnecessary_safety_comment, reason = "the attribute is unsafe, which clippy does not see")]
    #[unsafe(link_section = ".init_array")]
    #[used]
    static LOOK: extern "C" fn() = look;

    extern "C" fn look() {
        let closed = rustix::io::fcntl_getfd(rustix::stdio::stdout()) == Err(rustix::io::Errno::BADF);
        // Relaxed: `main` runs on the same thread afterwards.
        STDOUT_WAS_CLOSED.store(closed, Ordering::Relaxed);
    }
}
