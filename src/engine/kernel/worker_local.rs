//! What kernels keep on a worker from job to job: one value of each type for each thread, made by the first kernel that asks.

use core::any::{Any, TypeId};
use core::cell::RefCell;

use crate::panics;

type Value = (TypeId, Box<dyn Any>);

/// Values of a thread, one for each type.
#[derive(Default)]
struct Kept {
    values: Vec<Value>,
}

thread_local! {
    static KEPT: RefCell<Option<Box<Kept>>> = const { RefCell::new(None) };
}

/// What the thread keeps, lent to one call. It goes back when the call is over; what a call made that ran inside another one replaces
/// nothing of the outer one. Behind a pointer, which most calls find empty at their end and leave at that.
#[derive(Default)]
pub(in crate::engine) struct WorkerLocals(Option<Box<Kept>>);

impl WorkerLocals {
    /// The value of type `S`, made now if there is none.
    pub(in crate::engine) fn get<S: 'static>(&mut self, make: impl FnOnce() -> S) -> &mut S {
        let lent = self.0.get_or_insert_with(|| take_kept().unwrap_or_default());
        let id = TypeId::of::<S>();
        let values = &mut lent.values;
        let at = values.iter().position(|(kept, _)| *kept == id).unwrap_or_else(|| {
            values.push((id, Box::new(make())));
            values.len() - 1
        });
        values[at].1.downcast_mut().expect("a value is kept under its own type")
    }

    /// Drops everything, because a kernel panicked that may have left it half changed.
    pub(in crate::engine) fn forget(&mut self) {
        drop_quietly(self.0.take());
    }
}

impl Drop for WorkerLocals {
    #[inline]
    fn drop(&mut self) {
        if let Some(lent) = self.0.take() {
            give_back(lent);
        }
    }
}

/// What the thread keeps, and keeps no more; nothing when the thread is ending.
fn take_kept() -> Option<Box<Kept>> {
    KEPT.try_with(|kept| kept.try_borrow_mut().ok().and_then(|mut kept| kept.take())).ok().flatten()
}

fn give_back(mut lent: Box<Kept>) {
    let inner = take_kept().unwrap_or_default().values;
    // What a call made that ran inside this one, and of which this one has none.
    let (twice, new): (Vec<Value>, Vec<Value>) =
        inner.into_iter().partition(|(id, _)| lent.values.iter().any(|(lent, _)| lent == id));
    lent.values.extend(new);
    let mut lent = Some(lent);
    let _ = KEPT.try_with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut() {
            *kept = lent.take();
        }
    });
    drop_each_quietly(twice);
    // The thread is ending: nobody can ask for these any more.
    drop_quietly(lent);
}

/// Drops what this thread keeps, at the end of a worker.
pub(in crate::engine) fn end() {
    drop_quietly(take_kept());
}

/// Destructors are foreign code, whose panic must not end a worker.
fn drop_quietly(kept: Option<Box<Kept>>) {
    kept.into_iter().for_each(|kept| drop_each_quietly(kept.values));
}

fn drop_each_quietly(kept: Vec<Value>) {
    for value in kept {
        let _ = panics::catch(move || drop(value));
    }
}
