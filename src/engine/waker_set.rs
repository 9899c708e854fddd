//! Tasks that wait for something: their wakers, each of which is gone when its future is.
//!
//! A set wakes all tasks that wait for the same at once, so that none has to pass on a wake-up that it did not use: a task that still
//! waits comes back. Where one call is for one task, as at the lanes of a channel, a task that leaves passes it on
//! (`lockfree::lane::Bell`).

use crate::sync::lock;
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;

use crate::lockfree::waiters::{Ticket, Waiters};
use crate::panics;

/// The wakers of tasks, by what they wait for.
#[derive(Debug)]
pub(crate) struct WakerSet<S = ()> {
    list: Mutex<Waiters<Waker, S>>,
}

impl<S> Default for WakerSet<S> {
    fn default() -> Self {
        Self { list: Mutex::default() }
    }
}

impl<S: Ord + Copy> WakerSet<S> {
    fn list(&self) -> MutexGuard<'_, Waiters<Waker, S>> {
        // No foreign code runs under the lock: wakers are cloned, woken and dropped outside of it.
        lock(&self.list)
    }

    /// Keeps a task's waker instead of the one that its ticket stands for. `announce` is called under the lock, when the waker is in place.
    pub(in crate::engine) fn keep(&self, of: S, ticket: &mut Option<Ticket<S>>, waker: &Waker, announce: impl Fn()) {
        let mut fresh = ticket.is_none().then(|| waker.clone());
        loop {
            let mut list = self.list();
            let place = ticket.and_then(|ticket| list.get_mut(ticket));
            let mut replaced = None;
            match (place, fresh) {
                (Some(kept), _) if kept.will_wake(waker) => {}
                (Some(kept), Some(fresh)) => replaced = Some(core::mem::replace(kept, fresh)),
                (None, Some(fresh)) => *ticket = Some(list.add(of, fresh)),
                (_, None) => {
                    drop(list);
                    fresh = Some(waker.clone());
                    continue;
                }
            }
            announce();
            drop(list);
            drop(replaced);
            return;
        }
    }

    /// Forgets a task that waits no more. `nobody_left` is called under the lock if it was the last one of all.
    pub(in crate::engine) fn forget(&self, ticket: &mut Option<Ticket<S>>, nobody_left: impl FnOnce()) {
        let Some(ticket) = ticket.take() else { return };
        let mut list = self.list();
        let forgotten = list.remove(ticket);
        if forgotten.is_some() && list.is_empty() {
            nobody_left();
        }
        drop(list);
        drop(forgotten);
    }

    /// Wakes all tasks that wait for `of`; each comes back if it still does. `nobody_left` is called under the lock if none waits then.
    pub(in crate::engine) fn wake(&self, of: S, nobody_left: impl FnOnce()) {
        let mut list = self.list();
        let woken = list.take_of(of);
        if list.is_empty() {
            nobody_left();
        }
        drop(list);
        for waker in woken {
            // A waker is foreign code, whose panic must not end a worker.
            let _ = panics::catch(move || waker.wake());
        }
    }

    /// How many tasks wait.
    #[cfg(test)]
    pub(in crate::engine) fn len(&self) -> usize {
        self.list().len()
    }
}
