//! Floor 3, the lock-free protocols: safe code over the records of floor 2, checked by loom (`loom_models/`).
//!
//! Nothing here knows a mapping, a process or a kernel: the functions take references to records, which the engine finds in
//! the control segment and the models put on the heap.
//!
//! Pairs of release and acquire, named where they stand:
//!
//! | release | acquire | what becomes visible |
//! |---|---|---|
//! | R1 publish a descriptor as queued (`job::publish`) | A1 claim it (`job::claim`) | kernel, parameters, batches |
//! | R2 fill a ring cell (`ring::push`) | A2 read it (`ring::take`) | that the descriptor is queued |
//! | R3 finish a job (`job::finish`) | A3 see it done (`job::is_done`, `job::set_flag`) | outputs, status, failure text |
//! | R4 set a flag (`job::set_flag`) | A4 finish a job (`job::finish`) | the port, the waker, what a detached job held |
//! | R5 free a descriptor (`job::retire`) | A5 reserve it (`job::reserve`) | that the last holder has read everything |
//! | R6 return an index (`free_list::push`) | A6 take it (`free_list::pop`) | the link to the next free index |
//! | R7 report to a port (`port::report`) | A7 collect (`port::collect`) | that the job is done |
//! | R8 notify a waiter (`job::notify_waiter`) | A8 announce a sleep (`job::sleep_until_done`) | that the job is done |
//! | R9 publish the tail (`lane::publish`, `lane::move_tail`) | A9 read it (`lane::messages`) | the messages |
//! | R10 move the head over messages (`lane::move_head`) | A10 read it (`lane::room`) | that the messages were read |
//! | R11 post a message to a process (`spsc::post`) | A11 read it (`spsc::read`) | the message |
//! | R12 give its cell back (`spsc::free`) | A12 look for room (`spsc::has_capacity`) | that the message was read |
//! | R13 take an announcement back (`announcement::take_back`) | A13 find none (`announcement::is_at`) | all that the thread did at the job |
//! | R14 push a forked job (`deque::push`) | A14 steal it (`deque::steal`) | the closure |
//! | R15 set the latch of a forked job (`latch::set`) | A15 see it set (`latch::is_set`) | what the closure returned |
//!
//! Nine handshakes need a total order of a store and a later load on each side, hence `fence(SeqCst)`: a submitter and a worker
//! about to sleep ([`sleep`]), a finisher and a collector about to sleep ([`port`]), the two sides of a lane ([`bell`]), those of a channel between two
//! processes ([`doorbell`]), a thread about to claim with the thread that asks what it is at ([`announcement`]), a task about to wait with the thread
//! that looks in its place ([`look_wish`]), the owner of a lock with the thread that revokes its bias ([`biased_lock`]), the owner of a deque with a
//! thief ([`deque`]), and a member of a team about to sleep with a thread that has work for it ([`latch`]). Where one side of it comes often and the
//! other rarely, the fences are [`barrier::light`] and [`barrier::heavy`].

pub(crate) mod announcement;
pub(crate) mod bell;
pub(crate) mod biased_lock;
pub(crate) mod deque;
pub(crate) mod doorbell;
pub(crate) mod free_list;
pub(crate) mod job;
pub(crate) mod lane;
pub(crate) mod latch;
pub(crate) mod look_wish;
pub(crate) mod port;
pub(crate) mod prefetch;
pub(crate) mod progress;
pub(crate) mod range;
pub(crate) mod redelivery;
pub(crate) mod ring;
pub(crate) mod sleep;
pub(crate) mod spsc;
pub(crate) mod waiters;

#[cfg(workring_loom)]
pub(crate) mod loom_futex;
#[cfg(all(test, workring_loom))]
mod loom_models;
#[cfg(all(test, not(workring_loom)))]
mod store_buffers;

/// Fences of handshakes whose sides are not alike: the system's, or those of the model, where either is a whole one.
pub(crate) mod barrier {
    #[cfg(not(workring_loom))]
    pub(crate) use crate::os::barrier::{heavy, is_ready, light, light_once_ready, request};
    #[cfg(workring_loom)]
    use crate::sync::{Ordering, fence};

    #[cfg(workring_loom)]
    pub(crate) fn is_ready() -> bool {
        true
    }

    #[cfg(workring_loom)]
    pub(crate) fn request() {}

    #[cfg(workring_loom)]
    pub(crate) fn light() {
        fence(Ordering::SeqCst);
    }

    #[cfg(workring_loom)]
    pub(crate) fn light_once_ready() {
        fence(Ordering::SeqCst);
    }

    #[cfg(workring_loom)]
    pub(crate) fn heavy() {
        fence(Ordering::SeqCst);
    }
}

/// Waiting on a word: the system's futex, or the model's.
pub(crate) mod futex {
    #[cfg(workring_loom)]
    #[allow(unused_imports, reason = "the floors that wait are not built with the models")]
    pub(crate) use super::loom_futex::{wait, wake_all};
    #[cfg(not(workring_loom))]
    use crate::{
        os::futex,
        sync::{AtomicU32, Scope},
    };

    /// Sleeps while `word` holds `expected`; may return for no reason.
    #[cfg(not(workring_loom))]
    pub(crate) fn wait(word: &AtomicU32, expected: u32, scope: Scope) {
        futex::wait(word, expected, scope);
    }

    /// Wakes every sleeper of the scope.
    #[cfg(not(workring_loom))]
    pub(crate) fn wake_all(word: &AtomicU32, scope: Scope) {
        futex::wake_all(word, scope);
    }
}
