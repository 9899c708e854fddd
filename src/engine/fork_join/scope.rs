//! Scopes: closures that are spawned one by one, and that are all over when the scope ends.
//!
//! Laws of this file:
//! 1. A scope lies in the frame of `scope`, which is not left before its latch is set: whatever happens, also by a panic (`FrameGuard`).
//! 2. The latch is set when no job of the scope is left and its body has ended. Each job counts until it has dropped its closure, and the thread
//!    that counts the last one down touches nothing of the scope behind the exchange that sets the latch.
#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use std::sync::{Arc, Mutex};

use super::forked_job::{FrameGuard, boxed};
use super::member::{Member, with_current, with_team};
use crate::engine::runtime::Core;
use crate::engine::runtime::team::Team;
use crate::lockfree::latch::Latch;
use crate::panics::{self, Unwound};
use crate::sync::{AtomicU64, Ordering, ignore_poison, lock};

/// What a scope is asked to run.
type Spawned<'scope> = dyn FnOnce(&JoinScope<'scope>) + Send + Sync + 'scope;

/// Lets closures that borrow run on workers, until its call ends: from [`Engine::scope`](crate::Engine::scope).
pub struct JoinScope<'scope> {
    core: Arc<Core>,
    team: Arc<Team>,
    /// Where in the team the thread is that waits.
    place: u32,
    /// Jobs that are not over, and 1 for the body.
    pending: AtomicU64,
    latch: Latch,
    first_panic: Mutex<Option<Unwound>>,
    /// Invariant in the lifetime: a closure may borrow no less than that.
    borrows: PhantomData<Box<Spawned<'scope>>>,
}

/// A scope, for a job of it.
struct ScopePointer<'scope>(*const JoinScope<'scope>);

// SAFETY: a scope is for all threads (`Sync`), and is there as long as its jobs are (law 1).
unsafe impl Send for ScopePointer<'_> {}

impl<'scope> ScopePointer<'scope> {
    /// # Safety
    /// The caller is a job of the scope that still counts (law 2).
    unsafe fn get(&self) -> &JoinScope<'scope> {
        // SAFETY: it is there as long as a job counts.
        unsafe { &*self.0 }
    }
}

impl<'scope> JoinScope<'scope> {
    /// Has `body` run at some time before the scope ends: on a worker, or on a thread that waits for the scope or forks in it. Never blocks.
    ///
    /// The closure may borrow what outlives the scope, and may spawn more. One heap allocation. A panic goes on at the end of the scope, which
    /// waits for all others first; of several, the first one does.
    pub fn spawn(&self, body: impl FnOnce(&JoinScope<'scope>) + Send + 'scope) {
        // Relaxed: the body of the scope, or a job of it, counts meanwhile.
        self.pending.fetch_add(1, Ordering::Relaxed);
        let scope = ScopePointer(self);
        let closure = move |team: &Team| {
            let pointer = scope;
            // SAFETY: this job counts until `over` below.
            let scope = unsafe { pointer.get() };
            if let Err(unwound) = panics::hold_up(|| body(scope)) {
                scope.keep(unwound);
            }
            scope.over(team);
        };
        // SAFETY: what the closure borrows outlives the scope ('scope), and the scope waits for the job (law 1). It is pushed once, here.
        let job = unsafe { boxed(closure) };
        let is_pushed = with_current(&self.core, |member| {
            member.is_some_and(|member| Arc::ptr_eq(member.team, &self.team) && member.push(&job))
        });
        if !is_pushed {
            self.team.push_other(job.number());
            Member { core: &self.core, team: &self.team, place: self.place }.call_others();
        }
    }

    fn keep(&self, unwound: Unwound) {
        let mut first = lock(&self.first_panic);
        if first.is_none() {
            *first = Some(unwound);
            return;
        }
        drop(first);
        unwound.forget();
    }

    /// Counts a job, or the body, as over. The scope may be gone when this returns.
    fn over(&self, team: &Team) {
        let place = self.place;
        // AcqRel: the one that counts the last down has seen all that the others did, and hands it on by the latch.
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 && self.latch.set() {
            team.call(place);
        }
    }
}

/// Runs `body` here with a scope, and returns when all that was spawned into it is over.
pub(crate) fn scope<'scope, R>(core: &Arc<Core>, body: impl FnOnce(&JoinScope<'scope>) -> R) -> R {
    with_current(core, |member| match member {
        Some(member) => scope_in(member, body),
        None => with_team(core, |member| scope_in(member, body)),
    })
}

fn scope_in<'scope, R>(member: &Member<'_>, body: impl FnOnce(&JoinScope<'scope>) -> R) -> R {
    let scope = JoinScope {
        core: Arc::clone(member.core),
        team: Arc::clone(member.team),
        place: member.place,
        pending: AtomicU64::new(1),
        latch: Latch::new(),
        first_panic: Mutex::new(None),
        borrows: PhantomData,
    };
    let guard = FrameGuard;
    let result = panics::hold_up(|| body(&scope));
    let result = result.map_err(|unwound| scope.keep(unwound));
    scope.over(member.team);
    if !scope.latch.is_set() {
        member.wait(&scope.latch);
    }
    guard.release();
    match (result, ignore_poison(scope.first_panic.into_inner())) {
        (Ok(result), None) => result,
        (_, Some(unwound)) => unwound.go_on(),
        (Err(()), None) => unreachable!("a panic is kept until here"),
    }
}

impl fmt::Debug for JoinScope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinScope")
    }
}
