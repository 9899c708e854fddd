//! Which jobs the threads of this process are at, by their own announcement in private memory.
//!
//! A sound word says which participant runs the job. When the word is damaged, and the engine breaks off because of it, what the
//! job works on may go back to its holder only when no participant writes there any more. Worker processes are ended, which the system
//! confirms; threads cannot be, and this table says when they are through.
//!
//! A thread announces a job *before* it tries to claim it and takes that back when it has left the job, so that a job without an
//! announcement is run by no thread. Two orders make that a proof, see `queue::take` and `health::is_abandoned`:
//! - A damaged word cannot be claimed. Every claim precedes the damage, so its announcement is seen by the thread that sees the damage: the
//!   claim is a release, reading the word an acquire.
//! - Where other processes can write a word that passes for a sound one, a thread makes a fence between announcing and claiming and
//!   looks whether the engine broke, and so does, the other way round, a thread that looks for announcements.
//!
//! What the holder of a job runs itself (`queue::claim_own`) needs no announcement: no other thread could read that job.

use std::sync::{Mutex, MutexGuard};

use crossbeam_utils::CachePadded;

use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::lockfree::announcement;
use crate::sync::lock;
use crate::sync::{AtomicU32, Ordering};

/// The announcements of an engine's process.
pub(crate) struct Running {
    /// What each worker thread is at, by row, the first of which is row 1.
    threads: Box<[CachePadded<AtomicU32>]>,
    /// How many entries `helpers` has, so that a thread without one there need not lock.
    helping: AtomicU32,
    /// What other threads are at, which took a job from the queue while they wait.
    helpers: Mutex<Vec<u32>>,
}

impl Running {
    /// For so many worker threads.
    pub(in crate::engine) fn new(threads: usize) -> Self {
        let threads = (0..threads).map(|_| CachePadded::new(AtomicU32::new(announcement::NOTHING))).collect();
        Self { threads, helping: AtomicU32::new(0), helpers: Mutex::default() }
    }

    fn helpers(&self) -> MutexGuard<'_, Vec<u32>> {
        // No foreign code runs under the lock.
        lock(&self.helpers)
    }

    #[inline]
    fn of_thread(&self, who: ParticipantSlot) -> Option<&AtomicU32> {
        // Row 0 is nobody's own. Rows of worker processes lie beyond the table, which is empty in those processes.
        self.threads.get(usize::from(who.get()).wrapping_sub(1)).map(|word| &**word)
    }

    /// The calling thread is about to claim a job, and runs it if it gets it.
    #[inline]
    pub(in crate::engine) fn announce(&self, who: ParticipantSlot, index: DescriptorIndex) {
        if let Some(word) = self.of_thread(who) {
            announcement::announce(word, index);
        } else if who == ParticipantSlot::HOST {
            self.helpers().push(index.get());
            // Relaxed: read by the same thread only.
            self.helping.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The calling thread has left the job that it announced last, or did not get it.
    #[inline]
    pub(in crate::engine) fn left(&self, who: ParticipantSlot, index: DescriptorIndex) {
        if let Some(word) = self.of_thread(who) {
            announcement::take_back(word);
        } else if who == ParticipantSlot::HOST && self.helping.load(Ordering::Relaxed) > 0 {
            let mut helpers = self.helpers();
            if let Some(at) = helpers.iter().rposition(|&other| other == index.get()) {
                helpers.swap_remove(at);
                self.helping.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether a thread may be at a job of this descriptor.
    pub(in crate::engine) fn contains(&self, index: DescriptorIndex) -> bool {
        self.threads.iter().any(|word| announcement::is_at(word, index)) || self.helpers().contains(&index.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against a table of each thread's job: a job is announced exactly while it is the last announcement of a thread.
        #[test]
        fn announcements_stand_until_they_are_taken_back(
            steps in proptest::collection::vec((0u16..5, 0u32..4, any::<bool>()), 0..60),
        ) {
            let running = Running::new(3);
            let mut threads = BTreeMap::new();
            let mut helpers: Vec<u32> = Vec::new();
            for (who, index, comes) in steps {
                let (slot, job) = (ParticipantSlot::new(who), DescriptorIndex::new(index));
                if comes { running.announce(slot, job) } else { running.left(slot, job) }
                match who {
                    0 if comes => helpers.push(index),
                    0 => {
                        if let Some(at) = helpers.iter().position(|&other| other == index) {
                            helpers.swap_remove(at);
                        }
                    }
                    1..=3 if comes => drop(threads.insert(who, index)),
                    1..=3 => drop(threads.remove(&who)),
                    // Worker processes announce nothing here.
                    _ => {}
                }
                for index in 0..4 {
                    let expected = threads.values().any(|&other| other == index) || helpers.contains(&index);
                    prop_assert_eq!(running.contains(DescriptorIndex::new(index)), expected);
                }
            }
        }
    }
}
