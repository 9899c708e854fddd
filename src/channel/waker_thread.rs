//! The thread that sleeps at doorbells for tasks: one for all channels to other processes that this process has tasks at.
//!
//! It is started with the first task that has to wait, and ends when every channel it serves is over. It sleeps at many words at once
//! (futex_waitv(2)), of which the system takes 128: another thread is started for every 127 channels, and where the system has no such
//! call for each of them.
//!
//! Wakers run on it. One that blocks keeps the tasks of all channels from being woken; it must not, here as anywhere.

use core::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::channel::waker_registry::{Alarm, Look, WakerRegistry};
use crate::error::Result;
use crate::os::fork::PerProcess;
use crate::os::futex::{self, Scope};
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::lock;

/// Bytes of a thread's stack; wakers run on it.
const STACK_LEN: usize = 256 << 10;

/// The threads of this process.
static SERVICE: PerProcess<Service> = PerProcess::new();

struct Service {
    groups: Mutex<Vec<Arc<Group>>>,
    /// Registries that one thread serves at most.
    group_len: usize,
}

/// What one thread serves.
#[derive(Default)]
struct Group {
    alarm: Arc<Alarm>,
    registries: Mutex<Vec<Arc<WakerRegistry>>>,
}

/// Has a thread serve the tasks of a registry that none serves; how the thread is told that there are some. `None` when the system gives no
/// thread.
pub(super) fn attend(registry: &Arc<WakerRegistry>) -> Option<Arc<Alarm>> {
    SERVICE.get(Service::new).ok()?.attend(registry)
}

impl Service {
    fn new() -> Result<Self> {
        let group_len = if futex::can_wait_for_many() { futex::WAIT_WORDS_MAX - 1 } else { 1 };
        Ok(Self { groups: Mutex::default(), group_len })
    }

    fn attend(self: Arc<Self>, registry: &Arc<WakerRegistry>) -> Option<Arc<Alarm>> {
        let mut groups = lock(&self.groups);
        for group in groups.iter() {
            let mut registries = lock(&group.registries);
            if registries.len() < self.group_len {
                registries.push(Arc::clone(registry));
                return Some(Arc::clone(&group.alarm));
            }
        }
        let group = Arc::new(Group::default());
        lock(&group.registries).push(Arc::clone(registry));
        let (service, its) = (Arc::clone(&self), Arc::clone(&group));
        let thread = thread::Builder::new().name("workring-wakers".into()).stack_size(STACK_LEN);
        thread.spawn(move || service.serve(&its)).ok()?;
        let alarm = Arc::clone(&group.alarm);
        groups.push(group);
        Some(alarm)
    }

    /// What a thread does.
    fn serve(&self, group: &Arc<Group>) {
        loop {
            let seen = group.alarm.seen();
            let registries = lock(&group.registries).clone();
            let mut words: Vec<(&AtomicU32, u32, Scope)> = vec![(group.alarm.word(), seen, Scope::Private)];
            let mut until: Option<Deadline> = None;
            let mut is_still = true;
            for registry in &registries {
                let called = match registry.look() {
                    Look::Nobody => continue,
                    Look::Pending(word, value, look_by) => {
                        words.push((word, value, Scope::Shared));
                        until = Some(until.map_or(look_by, |until| until.min(look_by)));
                        continue;
                    }
                    Look::Called(called) => called,
                    Look::Over(called) => {
                        lock(&group.registries).retain(|other| !Arc::ptr_eq(other, registry));
                        called
                    }
                };
                is_still = false;
                for waker in called {
                    // Foreign code, whose panic is no reason for the others to wait for ever.
                    let _ = panics::catch(move || waker.wake());
                }
            }
            if registries.is_empty() && self.let_go(group) {
                return;
            }
            if is_still {
                // A call changes a word first, so that none is slept through. Nothing relies on the bound: see `Waiting::look_by`.
                match words[..] {
                    // Its end is told there as well.
                    [_, (word, value, scope)] if self.group_len == 1 => {
                        futex::wait_for_any(&[(word, value, scope)], until)
                    }
                    _ => futex::wait_for_any(&words, until),
                }
            }
        }
    }

    /// Takes a group out that serves nobody any more; `false` when somebody came.
    fn let_go(&self, group: &Arc<Group>) -> bool {
        let mut groups = lock(&self.groups);
        let is_empty = lock(&group.registries).is_empty();
        if is_empty {
            groups.retain(|other| !Arc::ptr_eq(other, group));
        }
        is_empty
    }
}
