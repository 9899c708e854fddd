//! The biased lock (`biased_lock.rs`), with what is done under it as memory that is not atomic.

use super::*;
use crate::lockfree::biased_lock::{BiasedLock, LockUser};

struct Room {
    lock: BiasedLock,
    place: Shadow,
    taken: Tally,
}

impl Room {
    fn new() -> Arc<Self> {
        Arc::new(Self { lock: BiasedLock::new(), place: Shadow::new(), taken: Tally::default() })
    }

    fn visit(&self, user: Option<&Arc<LockUser>>, biased: &Seen) {
        let held = self.lock.lock(user);
        if held.is_biased() {
            biased.mark();
        }
        self.place.write();
        self.taken.add();
        self.lock.unlock(held);
    }
}

/// F7 and F8: the owner, and a thread that revokes the bias.
fn a_bias_is_revoked(visits: usize, bound: Option<usize>) {
    explore_reaching(bound, ["the owner has the lock", "the bias was revoked"], move |seen| {
        let room = Room::new();
        let owner = Arc::new(LockUser::new());
        room.lock.bias_to(Some(&owner));
        let other = beside(&room, |room| room.visit(Some(&Arc::new(LockUser::new())), &Seen::default()));
        for _ in 0..visits {
            room.visit(Some(&owner), &seen[0]);
        }
        if !room.lock.is_biased() {
            seen[1].mark();
        }
        other.join().unwrap();
        assert_eq!(room.taken.get(), visits as u32 + 1);
    });
}

#[test]
fn a_bias_is_revoked_between_visits() {
    a_bias_is_revoked(2, Some(3));
}

/// Two want what is biased to a third one, and what the other has.
#[test]
fn three_threads_have_one_lock() {
    explore(Some(2), || {
        let room = Room::new();
        let owner = Arc::new(LockUser::new());
        room.lock.bias_to(Some(&owner));
        let others = [1, 2].map(|_| beside(&room, |room| room.visit(None, &Seen::default())));
        room.visit(Some(&owner), &Seen::default());
        join(others);
        assert_eq!(room.taken.get(), 3);
    });
}

/// The lock is biased to another one as soon as the bias was revoked: the mark of each is its own.
#[test]
fn a_lock_is_biased_to_one_after_the_other() {
    explore(Some(3), || {
        let room = Room::new();
        let owners = [Arc::new(LockUser::new()), Arc::new(LockUser::new())];
        room.lock.bias_to(Some(&owners[0]));
        let second = beside(&room, {
            let owner = owners[1].clone();
            move |room| {
                let held = room.lock.lock(Some(&owner));
                room.place.write();
                room.lock.bias_to(Some(&owner));
                room.lock.unlock(held);
                room.visit(Some(&owner), &Seen::default());
            }
        });
        room.visit(Some(&owners[0]), &Seen::default());
        second.join().unwrap();
    });
}
