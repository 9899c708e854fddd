//! Which jobs a thread is inside of: what they wait for must not be their own end.
//!
//! Kernels nest where one waits for a job that its thread then runs. Callbacks (wakers, listeners, destructors) run outside of every
//! job but for those on whose stack they are: they count in [`panics::depth`] alone.

use core::cell::{Cell, RefCell};

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

/// LevelStack that are kept without a heap: more than any program nests that does not recurse through the engine.
const SHALLOW: usize = 8;

struct LevelStack {
    depth: Cell<usize>,
    shallow: [Cell<Option<Level>>; SHALLOW],
}

thread_local! {
    static LEVELS: LevelStack =
        const { LevelStack { depth: Cell::new(0), shallow: [const { Cell::new(None) }; SHALLOW] } };
    /// Those beyond. Apart, so that the others need no destructor; of a thread that ends they are not told.
    static DEEP: RefCell<Vec<Level>> = const { RefCell::new(Vec::new()) };
}

impl LevelStack {
    #[inline]
    fn enter(&self, level: Level) {
        let depth = self.depth.get();
        match self.shallow.get(depth) {
            Some(place) => place.set(Some(level)),
            None => drop(DEEP.try_with(|deep| deep.borrow_mut().push(level))),
        }
        self.depth.set(depth + 1);
    }

    #[inline]
    fn leave(&self) {
        let depth = self.depth.get() - 1;
        self.depth.set(depth);
        if depth >= SHALLOW {
            let _ = DEEP.try_with(|deep| deep.borrow_mut().pop());
        }
    }

    fn any(&self, is_meant: impl Fn(&Level) -> bool) -> bool {
        let shallow = self.shallow.iter().take(self.depth.get()).filter_map(Cell::get);
        shallow.into_iter().any(|level| is_meant(&level))
            || DEEP.try_with(|deep| deep.borrow().iter().any(is_meant)).unwrap_or(false)
    }
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
        #[inline]
        fn drop(&mut self) {
            LEVELS.with(LevelStack::leave);
        }
    }
    LEVELS.with(|levels| levels.enter(Level { engine: address(core), job }));
    let _leave = Leave;
    body()
}

fn any(is_meant: impl Fn(&Level) -> bool) -> bool {
    LEVELS.with(|levels| levels.any(is_meant))
}

/// How many kernels and closures of whatever engine this thread is inside of.
#[inline]
pub(crate) fn depth() -> usize {
    LEVELS.with(|levels| levels.depth.get())
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
