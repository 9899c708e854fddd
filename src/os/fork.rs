//! Telling a forked child from its parent: [`ForkGuard`]; and what each has of its own: [`PerProcess`].
//!
//! A child of fork(2) has a copy of the memory and of the handles but none of the threads, so whatever relies on worker
//! threads must notice. On Linux the system clears a marked page in the child (`MADV_WIPEONFORK`, madvise(2), Linux
//! 4.14), so asking costs a few loads and no system call. Elsewhere, and on older kernels, the process id is compared.
//!
//! # Laws
//! 1. The marked page belongs to its guard alone, from before the mark is set until the guard is dropped, and every
//!    access to it is an atomic access to its first word through [`mark`].
//! 2. The word is written once, by the constructor; afterwards only the system changes it, by giving a child a zero
//!    page.

#![cfg_attr(target_os = "linux", allow(unsafe_code))]

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use crate::error::{Error, Result};
#[cfg(target_os = "linux")]
use crate::os::map::Mapping;
use crate::sync::lock;

/// What the marked page holds in the process that built the guard; a child reads 0.
#[cfg(target_os = "linux")]
const MARK: u32 = 1;

/// Knows whether the current process was forked from the one that built it.
///
/// Says nothing about children that share the memory of their parent (vfork(2), `CLONE_VM`): to them they are the
/// parent.
#[derive(Debug)]
pub(crate) struct ForkGuard {
    witness: Witness,
}

#[derive(Debug)]
enum Witness {
    /// A page that the system clears in children.
    #[cfg(target_os = "linux")]
    Page(Mapping),
    /// The id of the process that built the guard.
    ProcessId(u32),
}

impl ForkGuard {
    /// Builds a guard for the current process. Does not block.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no memory for the page.
    pub(crate) fn new() -> Result<Self> {
        // Miri knows no advice about pages.
        #[cfg(all(target_os = "linux", not(miri)))]
        if let Some(page) = marked_page()? {
            return Ok(Self { witness: Witness::Page(page) });
        }
        Ok(Self { witness: Witness::ProcessId(std::process::id()) })
    }

    /// Whether this process is a child, of any degree, forked after the guard was built.
    ///
    /// A few loads and no system call on Linux 4.14 and later; elsewhere a call that asks for the process id, which a
    /// system might by then have given to a later descendant. Does not block.
    #[inline]
    pub(crate) fn is_forked_child(&self) -> bool {
        match &self.witness {
            // Relaxed: pairs with nothing. The parent stored its mark before it could share the guard, so whatever made
            // the guard visible to this thread made the mark visible too, and reads 1; the child's thread of control
            // continues the one that forked and finds the page already cleared by the kernel, and reads 0.
            #[cfg(target_os = "linux")]
            Witness::Page(page) => mark(page).load(Ordering::Relaxed) != MARK,
            Witness::ProcessId(id) => *id != std::process::id(),
        }
    }
}

/// What a process has, and how a child of it knows that it is not its own.
type Own<T> = Option<(ForkGuard, Arc<T>)>;

/// Something of which each process has its own, made at the first use: a forked child, which has none of its parent's threads, gets a new
/// one, and leaves that of its parent alone.
#[derive(Debug)]
pub(crate) struct PerProcess<T> {
    value: Mutex<Own<T>>,
    /// The process that used it last; 0 for none.
    user: AtomicU32,
}

/// Looks of a forked child at a lock, a millisecond apart, before it takes the lock to be one that a thread of its parent held.
const LOOKS: u32 = 1000;

impl<T> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self { value: Mutex::new(None), user: AtomicU32::new(0) }
    }

    /// This process's own, which `make` makes if there is none. Blocks while another thread makes it.
    ///
    /// # Errors
    /// Those of `make`; [`Error::Io`] when there is no memory for a guard; [`Error::Forked`]
    /// in a child that was forked while another thread of its parent was in this very call.
    pub(crate) fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut value = self.lock()?;
        if let Some((guard, found)) = &*value
            && !guard.is_forked_child()
        {
            return Ok(Arc::clone(found));
        }
        let made = Arc::new(make()?);
        let of_parent = value.replace((ForkGuard::new()?, Arc::clone(&made)));
        // Relaxed: a hint by which a child knows that it is one before it has the lock.
        self.user.store(std::process::id(), Ordering::Relaxed);
        // Its destructor would end what is the parent's.
        core::mem::forget(of_parent);
        Ok(made)
    }

    fn lock(&self) -> Result<MutexGuard<'_, Own<T>>> {
        let user = self.user.load(Ordering::Relaxed);
        if user == 0 || user == std::process::id() {
            return Ok(lock(&self.value));
        }
        // A thread that is not here may have it.
        for _ in 0..LOOKS {
            match self.value.try_lock() {
                Ok(value) => return Ok(value),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(core::time::Duration::from_millis(1)),
            }
        }
        Err(Error::Forked)
    }
}

/// A page with the mark that children find cleared, or `None` if the kernel cannot clear pages on fork.
#[cfg(target_os = "linux")]
fn marked_page() -> Result<Option<Mapping>> {
    use rustix::io::Errno;

    let page = Mapping::anonymous(crate::os::host::page_size())?;
    // SAFETY: the range is the whole of a mapping that nobody else knows (law 1), and the advice changes no byte of it
    // now.
    let wiped =
        unsafe { rustix::mm::madvise(page.base().as_ptr().cast(), page.len(), rustix::mm::Advice::LinuxWipeOnFork) };
    match wiped {
        Ok(()) => {}
        Err(Errno::INVAL) => return Ok(None),
        Err(error) => return Err(Error::io("have a page cleared on fork", error)),
    }
    // Relaxed: pairs with nothing; see `ForkGuard::is_forked_child`.
    mark(&page).store(MARK, Ordering::Relaxed);
    Ok(Some(page))
}

/// The first word of the marked page.
#[cfg(target_os = "linux")]
#[inline]
fn mark(page: &Mapping) -> &AtomicU32 {
    // SAFETY: the page is mapped for reading and writing for as long as the borrow of it lasts, aligned for any word
    // and longer than one, and every access to it is atomic (law 1).
    unsafe { page.base().cast::<AtomicU32>().as_ref() }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::{Pid, WaitOptions, waitpid};

    use super::*;

    unsafe extern "C" {
        /// fork(2).
        fn fork() -> i32;
        /// _exit(2): ends the process without running anything of the parent's.
        safe fn _exit(status: i32) -> !;
    }

    /// What `question` answers in a forked child.
    fn in_child(question: impl Fn() -> bool) -> bool {
        // The first call reads and keeps the page size, which must not happen in the child.
        let _ = crate::os::host::page_size();
        // SAFETY: the child of a process with threads may only do what is async-signal-safe (fork(2)). It runs the
        // question, which makes system calls and loads but takes no lock and no heap memory, and ends by _exit(2).
        let child = unsafe { fork() };
        if child == 0 {
            _exit(if question() { 101 } else { 100 });
        }
        let child = Pid::from_raw(child).expect("fork(2) gives a process id");
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().expect("waited without NOHANG");
        match status.exit_status() {
            Some(101) => true,
            Some(100) => false,
            _ => panic!("the child died: {status:?}"),
        }
    }

    fn guards() -> [ForkGuard; 2] {
        [ForkGuard::new().unwrap(), ForkGuard { witness: Witness::ProcessId(std::process::id()) }]
    }

    /// What a child gets is tested where a program forks that has worker processes (`tests/processes/workers.rs`).
    #[test]
    fn a_process_makes_what_it_has_of_its_own_once() {
        static OWN: PerProcess<u32> = PerProcess::new();
        assert!(OWN.get(|| Err(Error::Closed)).is_err());
        let first = OWN.get(|| Ok(7)).unwrap();
        let again = OWN.get(|| panic!("it is there")).unwrap();
        assert!(Arc::ptr_eq(&first, &again) && *again == 7);
    }

    #[test]
    fn the_kernel_clears_the_page() {
        assert!(matches!(ForkGuard::new().unwrap().witness, Witness::Page(_)), "Linux 4.14 or later");
    }

    #[test]
    fn a_child_knows_that_it_was_forked_and_its_parent_that_it_was_not() {
        for guard in guards() {
            assert!(!guard.is_forked_child());
            assert!(in_child(|| guard.is_forked_child()));
            assert!(!guard.is_forked_child(), "the child's page is its own");
            assert!(in_child(|| guard.is_forked_child()), "every child");
        }
    }

    #[test]
    fn a_grandchild_knows_too() {
        for guard in guards() {
            assert!(in_child(|| in_child(|| guard.is_forked_child())));
        }
    }

    #[test]
    fn a_guard_built_in_a_child_belongs_to_the_child() {
        assert!(!in_child(|| ForkGuard::new().is_ok_and(|guard| guard.is_forked_child()) || ForkGuard::new().is_err()));
        assert!(in_child(|| ForkGuard::new().is_ok_and(|guard| in_child(|| guard.is_forked_child()))));
    }

    #[test]
    fn threads_of_the_same_process_are_not_children() {
        for guard in guards() {
            assert!(!std::thread::scope(|threads| threads.spawn(|| guard.is_forked_child()).join().unwrap()));
        }
    }
}
