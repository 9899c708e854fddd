//! Which jobs a thread is inside of: what they wait for must not be their own end.
//!
//! Kernels nest where one waits for a job that its thread then runs. Callbacks (wakers, listeners, destructors) run outside of every
//! job but for those on whose stack they are: they count in [`panics::depth`] alone.

use core::cell::RefCell;

use crate::engine::job::JobReference;
use crate::engine::runtime::core::Core;
use crate::panics;

/// One kernel or closure on the stack of a thread.
#[derive(Clone, Copy)]
struct Level {
    /// The address of the engine, which lives as long as its jobs run.
    engine: usize,
    /// `None` for what is no job of its own: the caller's part of a blocking call, a hook.
    job: Option<JobReference>,
}

thread_local! {
    static LEVELS: RefCell<Vec<Level>> = const { RefCell::new(Vec::new()) };
}

/// The identity of an engine, for as long as it lives.
fn address(core: &Core) -> usize {
    core::ptr::from_ref(core).addr()
}

/// Runs `body` as a job, or a part, of an engine.
#[inline]
pub(crate) fn run<R>(core: &Core, job: Option<JobReference>, body: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            let _ = LEVELS.try_with(|levels| levels.borrow_mut().pop());
        }
    }
    // A thread that ends runs no more jobs than those its own destructors wait for, and these are told of no level.
    let entered = LEVELS.try_with(|levels| levels.borrow_mut().push(Level { engine: address(core), job }));
    let _leave = entered.is_ok().then_some(Leave);
    body()
}

fn any(is_meant: impl Fn(&Level) -> bool) -> bool {
    LEVELS.try_with(|levels| levels.borrow().iter().any(is_meant)).unwrap_or(false)
}

/// How many kernels and closures of whatever engine this thread is inside of.
#[inline]
pub(crate) fn depth() -> usize {
    LEVELS.try_with(|levels| levels.borrow().len()).unwrap_or(0)
}

impl Core {
    /// Whether this thread is inside a kernel or closure of this engine.
    pub(crate) fn is_around(&self) -> bool {
        any(|level| level.engine == address(self))
    }

    /// Whether this thread is inside this very job.
    pub(crate) fn is_around_as(&self, job: JobReference) -> bool {
        any(|level| level.engine == address(self) && level.job == Some(job))
    }

    /// Whether a thread that blocks here may be one that this engine's jobs, or its end, need: inside a kernel of it, or in a callback of
    /// whatever engine, which may run on a worker of this one.
    pub(crate) fn may_need_this_thread(&self) -> bool {
        self.is_around() || panics::depth() as usize > depth()
    }
}

/// Says that a job waits for its own end, which never comes: inside it nothing can be given back that it still works on, so there is no
/// error to return.
#[cold]
pub(crate) fn waits_for_itself() -> ! {
    panic!("a job waits for its own end: its handle was waited for, or polled, inside its own kernel or closure")
}
