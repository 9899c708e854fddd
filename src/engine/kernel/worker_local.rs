//! What kernels keep on a worker from job to job: one value of each type for each thread, made by the first kernel that asks.

use core::any::{Any, TypeId};
use core::cell::RefCell;

use crate::panics;

type Kept = (TypeId, Box<dyn Any>);

thread_local! {
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

/// What the thread keeps, lent to one call. It goes back when the call is over; what a call made that ran inside another one replaces
/// nothing of the outer one.
#[derive(Default)]
pub(in crate::engine) struct WorkerLocals(Vec<Kept>);

impl WorkerLocals {
    /// The value of type `S`, made now if there is none.
    pub(in crate::engine) fn get<S: 'static>(&mut self, make: impl FnOnce() -> S) -> &mut S {
        if self.0.is_empty() {
            let kept = KEPT.with(|kept| kept.try_borrow_mut().map(|mut kept| core::mem::take(&mut *kept)));
            self.0 = kept.unwrap_or_default();
        }
        let id = TypeId::of::<S>();
        let at = self.0.iter().position(|(kept, _)| *kept == id).unwrap_or_else(|| {
            self.0.push((id, Box::new(make())));
            self.0.len() - 1
        });
        self.0[at].1.downcast_mut().expect("a value is kept under its own type")
    }

    /// Drops everything, because a kernel panicked that may have left it half changed.
    pub(in crate::engine) fn forget(&mut self) {
        drop_quietly(core::mem::take(&mut self.0));
    }
}

impl Drop for WorkerLocals {
    fn drop(&mut self) {
        if self.0.is_empty() {
            return;
        }
        let mut lent = core::mem::take(&mut self.0);
        let made_inside = KEPT.try_with(|kept| match kept.try_borrow_mut() {
            Ok(mut kept) => {
                let inner = core::mem::take(&mut *kept);
                let (twice, new): (Vec<Kept>, Vec<Kept>) =
                    inner.into_iter().partition(|(id, _)| lent.iter().any(|(lent, _)| lent == id));
                lent.extend(new);
                *kept = core::mem::take(&mut lent);
                twice
            }
            Err(_) => Vec::new(),
        });
        drop_quietly(made_inside.unwrap_or_default());
        // The thread is ending, or what it keeps is in use: nobody can ask for these any more.
        drop_quietly(lent);
    }
}

/// Drops what this thread keeps, at the end of a worker.
pub(in crate::engine) fn end() {
    let kept =
        KEPT.try_with(|kept| kept.try_borrow_mut().map(|mut kept| core::mem::take(&mut *kept)).unwrap_or_default());
    drop_quietly(kept.unwrap_or_default());
}

/// Destructors are foreign code, whose panic must not end a worker.
fn drop_quietly(kept: Vec<Kept>) {
    for value in kept {
        let _ = panics::catch(move || drop(value));
    }
}
