//! Teams: threads that work on one call which forks, and the places where their forked jobs wait.
//!
//! A team is data: a place for each member, with its deque, and a word that says which members new work could be shown to. What they run is in
//! `engine/fork_join`. Jobs are numbers here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crossbeam_utils::CachePadded;

use crate::lockfree::deque::{Deque, Pushed, Stolen};
use crate::lockfree::latch::{self, Latch, ParkWord};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, lock};

/// Forked jobs that wait at one place; the member that forks more runs them itself.
const DEQUE_LEN: usize = 256;
/// The most members of one team.
const PLACES_MAX: usize = 63;
/// The bit beside those of members that sleep: another helper could be recruited.
const RECRUIT: u64 = 1 << 63;
/// Teams that an engine keeps for the next calls.
const KEPT_MAX: usize = 64;

struct MemberPlace {
    deque: Deque,
    park: CachePadded<ParkWord>,
}

/// See the head of this file.
pub(in crate::engine) struct Team {
    places: Box<[MemberPlace]>,
    /// A bit for each place that has a member.
    taken: AtomicU64,
    /// A bit for each member that sleeps, and [`RECRUIT`]: looked at by every fork.
    idle: CachePadded<AtomicU64>,
    /// Helpers that were recruited and have not left.
    helpers: AtomicU32,
    /// Jobs that found no room in a deque, or were forked by threads that are not members.
    others: Mutex<VecDeque<u64>>,
    /// How many those are.
    others_len: AtomicU32,
}

impl Team {
    /// A team of a caller and up to so many helpers.
    pub(in crate::engine) fn new(helpers: usize) -> Self {
        let place = |_| MemberPlace { deque: Deque::new(DEQUE_LEN), park: CachePadded::new(ParkWord::new()) };
        Self {
            places: (0..=helpers.min(PLACES_MAX - 1)).map(place).collect(),
            taken: AtomicU64::new(1),
            idle: CachePadded::new(AtomicU64::new(0)),
            helpers: AtomicU32::new(0),
            others: Mutex::new(VecDeque::new()),
            others_len: AtomicU32::new(0),
        }
    }

    /// The most members that it can have.
    pub(in crate::engine) fn places(&self) -> usize {
        self.places.len()
    }

    fn may_recruit(&self) -> bool {
        // Acquire: pairs with the release in `helper_left`.
        (self.helpers.load(Ordering::Acquire) as usize) < self.places.len() - 1
    }

    /// Lets helpers be recruited from now on, as far as there are places for them.
    pub(in crate::engine) fn allow_helpers(&self) {
        if self.may_recruit() {
            self.idle.fetch_or(RECRUIT, Ordering::Release);
        }
    }

    /// Counts a helper that the caller is about to recruit; `false` when there are enough.
    pub(in crate::engine) fn begin_recruiting(&self) -> bool {
        // AcqRel: acquire pairs with the release in `helper_left`: the count that follows is no older than the bit.
        if self.idle.fetch_and(!RECRUIT, Ordering::AcqRel) & RECRUIT == 0 {
            return false;
        }
        let most = self.places.len() as u32 - 1;
        let mut before = self.helpers.load(Ordering::Acquire);
        while before < most {
            // AcqRel: as above.
            match self.helpers.compare_exchange_weak(before, before + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.allow_helpers();
                    return true;
                }
                Err(now) => before = now,
            }
        }
        false
    }

    /// Uncounts a helper that could not be recruited; the next one is tried when a helper leaves, or with the next call.
    pub(in crate::engine) fn recruiting_failed(&self) {
        self.helpers.fetch_sub(1, Ordering::Release);
        self.idle.fetch_and(!RECRUIT, Ordering::Relaxed);
    }

    /// Uncounts a helper that has left. The caller then looks whether there is work ([`Team::has_work`]): a fork that came meanwhile may have
    /// counted on it.
    pub(in crate::engine) fn helper_left(&self) {
        // Release, both: pair with the acquires in `begin_recruiting`.
        self.helpers.fetch_sub(1, Ordering::Release);
        self.idle.fetch_or(RECRUIT, Ordering::Release);
        // SeqCst: pairs with the fences in `push` and `push_other`.
        fence(Ordering::SeqCst);
    }

    /// Takes a place for a helper.
    pub(in crate::engine) fn take_place(&self) -> Option<u32> {
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let free = taken.trailing_ones();
            if free as usize >= self.places.len() {
                return None;
            }
            // Acquire: pairs with the release in `leave_place`; the deque is as its last owner left it.
            match self.taken.compare_exchange_weak(taken, taken | 1 << free, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(free),
                Err(now) => taken = now,
            }
        }
    }

    /// Gives a place back whose deque is empty.
    pub(in crate::engine) fn leave_place(&self, place: u32) {
        self.taken.fetch_and(!(1 << place), Ordering::Release);
    }

    /// Puts a job where the others find it; `false` when there is no room. Only for the member at `place`.
    #[inline]
    pub(in crate::engine) fn push(&self, place: u32, job: u64) -> bool {
        match self.places[place as usize].deque.push(job) {
            Pushed::Not => return false,
            // SeqCst: F1 in `lockfree/latch.rs`. Of a job behind others the thief of those hears: it looks once more before it sleeps.
            Pushed::Only => fence(Ordering::SeqCst),
            Pushed::Behind => {}
        }
        true
    }

    /// Takes the job that the member at `place` forked last. Only for that member.
    #[inline]
    pub(in crate::engine) fn pop(&self, place: u32) -> Option<u64> {
        self.places[place as usize].deque.pop()
    }

    /// Puts a job where all members find it, from whatever thread. The caller then calls somebody.
    pub(in crate::engine) fn push_other(&self, job: u64) {
        let mut others = lock(&self.others);
        others.push_back(job);
        self.others_len.store(others.len() as u32, Ordering::Relaxed);
        drop(others);
        // SeqCst: F1 in `lockfree/latch.rs`: nobody else may ever look.
        fence(Ordering::SeqCst);
    }

    fn take_other(&self) -> Option<u64> {
        if self.others_len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut others = lock(&self.others);
        let job = others.pop_front();
        self.others_len.store(others.len() as u32, Ordering::Relaxed);
        job
    }

    /// Steals a job for the member at `place`.
    pub(in crate::engine) fn steal(&self, place: u32) -> Option<u64> {
        loop {
            let mut is_lost = false;
            let members = self.taken.load(Ordering::Relaxed) & !(1 << place);
            // From the place behind one's own on, so that not all thieves come to the same one first.
            let behind = (u64::MAX << place) << 1;
            for mut bits in [members & behind, members & !behind] {
                while bits != 0 {
                    let victim = &self.places[bits.trailing_zeros() as usize].deque;
                    bits &= bits - 1;
                    if victim.looks_empty() {
                        continue;
                    }
                    match victim.steal() {
                        Stolen::Entry(job) => return Some(job),
                        Stolen::Empty => {}
                        Stolen::Lost => is_lost = true,
                    }
                }
            }
            if let Some(job) = self.take_other() {
                return Some(job);
            }
            if !is_lost {
                return None;
            }
        }
    }

    /// Whether a job waits anywhere. A hint, but for a thread that has made a fence after it announced itself.
    pub(in crate::engine) fn has_work(&self) -> bool {
        self.others_len.load(Ordering::Relaxed) > 0 || self.places.iter().any(|place| !place.deque.looks_empty())
    }

    /// Whether somebody could be called, or recruited, for a job that was just pushed.
    #[inline]
    pub(in crate::engine) fn is_short_of_work(&self) -> bool {
        // Relaxed: a hint. The thread that forks runs the job itself if nobody else does.
        self.idle.load(Ordering::Relaxed) != 0
    }

    /// Calls a member that sleeps; whether there was one.
    pub(in crate::engine) fn call_sleeper(&self) -> bool {
        latch::call_one(&self.idle, !RECRUIT, |place| self.park(place))
    }

    /// Calls the member at `place`, whose latch said that it sleeps.
    pub(in crate::engine) fn call(&self, place: u32) {
        if let Some(park) = self.park(place) {
            park.call();
        }
    }

    fn park(&self, place: u32) -> Option<&ParkWord> {
        self.places.get(place as usize).map(|place| &*place.park)
    }

    /// Puts the member at `place` to sleep until the latch is set or there is work; may return for no reason.
    pub(in crate::engine) fn sleep(&self, place: u32, latch: &Latch) {
        let own = &self.places[place as usize];
        latch::sleep(latch, &own.park, &self.idle, 1 << place, || self.has_work());
    }
}

/// The teams that no call has at the moment.
pub(in crate::engine) struct Teams {
    /// Helpers of one.
    helpers: usize,
    free: Mutex<Vec<Arc<Team>>>,
}

impl Teams {
    pub(super) fn new(helpers: usize) -> Self {
        Self { helpers, free: Mutex::new(Vec::new()) }
    }

    /// A team for one call. A helper of an earlier call may still look for work in it.
    pub(in crate::engine) fn acquire(&self) -> Arc<Team> {
        let free = lock(&self.free).pop();
        free.unwrap_or_else(|| Arc::new(Team::new(self.helpers)))
    }

    /// Takes a team back in which no job waits.
    pub(in crate::engine) fn release(&self, team: Arc<Team>) {
        let mut free = lock(&self.free);
        if free.len() < KEPT_MAX {
            free.push(team);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_helpers_are_recruited_as_have_places() {
        let team = Team::new(2);
        assert!(!team.begin_recruiting(), "nobody has allowed it");
        team.allow_helpers();
        assert!(team.begin_recruiting() && team.begin_recruiting() && !team.begin_recruiting());
        assert!(!team.is_short_of_work());
        team.helper_left();
        assert!(team.is_short_of_work() && team.begin_recruiting() && !team.begin_recruiting());
        assert_eq!([team.take_place(), team.take_place(), team.take_place()], [Some(1), Some(2), None]);
        team.leave_place(1);
        assert_eq!(team.take_place(), Some(1));
        let caller_only = Team::new(0);
        caller_only.allow_helpers();
        assert!(!caller_only.is_short_of_work() && !caller_only.begin_recruiting());
    }

    #[test]
    fn a_member_finds_the_jobs_of_all_others() {
        let team = Team::new(3);
        let places = [0, team.take_place().unwrap(), team.take_place().unwrap()];
        for (place, job) in places.into_iter().zip(1..) {
            assert!(team.push(place, job));
        }
        team.push_other(4);
        assert!(team.has_work());
        assert_eq!([team.steal(1), team.steal(1), team.steal(1), team.steal(1)], [Some(3), Some(1), Some(4), None]);
        assert_eq!((team.pop(1), team.pop(1), team.has_work()), (Some(2), None, false));
    }
}
