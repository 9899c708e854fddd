//! The threads that stand in the queues of elements for asynchronous waits (Linux).
//!
//! One thread for each pending wait, because a place in a queue of the kernel is a thread's. The caller that begins a wait puts the
//! thread into the element's queue itself: the thread goes to sleep at two words of its ticket, one of which is the *park word*,
//! and the caller moves it from the park word's queue to that of the element. So the wait has its place in the queue, behind all that
//! came earlier and before all that come later, when the call returns. The other word takes the thread back out.

use core::sync::atomic::{AtomicU32, Ordering};
use core::task::Waker;
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use super::SharedSegment;
use super::wait::WaitOutcome;
use crate::error::{Error, Result};
use crate::os::fork::ForkGuard;
use crate::os::futex_queue::{Either, Ended, move_one, wait_either, wake};
use crate::os::host::Deadline;
use crate::sync::{ignore_poison, lock};

/// Threads at most, and so pending waits.
const THREADS_MAX: usize = 256;
/// How long a thread without a wait stays.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Bytes of a thread's stack; a waker runs on it.
const STACK_LEN: usize = 256 << 10;

/// The park word while the thread may be moved from its queue, and afterwards.
const ARMED: u32 = 0;
const MOVED: u32 = 1;

/// One asynchronous wait, shared by the future and its thread.
pub(crate) struct Ticket {
    segment: Arc<SharedSegment>,
    index: usize,
    expected: u64,
    deadline: Option<Deadline>,
    park: AtomicU32,
    /// Not 0: the thread shall leave the queue.
    cancel: AtomicU32,
    end: Mutex<WaitEnd>,
    ended: Condvar,
}

/// What the thread says when it has left the queue, and the task that it tells.
#[derive(Default)]
struct WaitEnd {
    ending: Option<Result<Ending>>,
    waker: Option<Waker>,
    /// Whether the ending was taken.
    taken: bool,
}

/// Why the thread left the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Woken,
    TimedOut,
    /// The element does not hold the expected value any more. Only after a signal that took the thread out of its queue.
    NotEqual,
    /// It was told to.
    Left,
}

impl Ticket {
    /// How the wait ended, if it has; else `waker` is called when it does.
    pub(super) fn poll(&self, waker: &Waker) -> Option<Result<WaitOutcome>> {
        let mut end = lock(&self.end);
        match end.ending.take() {
            None => {
                if !end.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
                    end.waker = Some(waker.clone());
                }
                None
            }
            Some(ending) => {
                end.taken = true;
                Some(ending.map(|ending| match ending {
                    Ending::Woken => WaitOutcome::Ok,
                    Ending::TimedOut => WaitOutcome::TimedOut,
                    Ending::NotEqual | Ending::Left => WaitOutcome::NotEqual,
                }))
            }
        }
    }

    /// Takes the thread out of the queue and says how that left it.
    fn withdraw(&self) -> Result<Ending> {
        if pool().is_none_or(|pool| pool.guard.is_forked_child()) {
            // The thread is the parent's.
            return Err(Error::Forked);
        }
        // Nobody is to hear of this end.
        let unheard = lock(&self.end).waker.take();
        drop(unheard);
        self.cancel.store(1, Ordering::SeqCst);
        let _ = wake(&self.cancel, 1);
        let mut end = lock(&self.end);
        while end.ending.is_none() && !end.taken {
            end = ignore_poison(self.ended.wait(end));
        }
        end.taken = true;
        end.ending.take().unwrap_or(Ok(Ending::Left))
    }

    /// Ends the wait, whose outcome nobody wants any more. A notify that had counted it goes to the next waiter.
    pub(super) fn poison(&self) {
        if let Ok(Ending::Woken) = self.withdraw() {
            let _ = self.segment.notify(self.index, 1);
        }
    }

    /// The thread's part: sleeps until the wait is over.
    fn run(&self) -> Result<Ending> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::Unsupported => Error::Unsupported {
                what: "asynchronous waits on shared arrays, which need futex_waitv (Linux 5.16)".into(),
            },
            _ => Error::io("wait on a shared array", error),
        };
        loop {
            let ended = if self.park.load(Ordering::SeqCst) == ARMED {
                wait_either((&self.park, ARMED), (&self.cancel, 0), self.deadline)
            } else {
                // A signal took it out of the queue: it goes to the end of it, by itself.
                let Some(seen) = self.segment.look(self.index, self.expected)? else { return Ok(Ending::NotEqual) };
                wait_either((self.segment.queue(self.index)?, seen), (&self.cancel, 0), self.deadline)
            };
            match ended.map_err(failed)? {
                // Nobody wakes at the park word.
                Either::First => return Ok(Ending::Woken),
                Either::Second => return Ok(Ending::Left),
                Either::Neither(Ended::TimedOut) => return Ok(Ending::TimedOut),
                Either::Neither(_) if self.cancel.load(Ordering::SeqCst) != 0 => return Ok(Ending::Left),
                Either::Neither(_) => {}
            }
        }
    }

    fn tell(&self, ending: Result<Ending>) {
        let waker = {
            let mut end = lock(&self.end);
            end.ending = Some(ending);
            self.ended.notify_all();
            end.waker.take()
        };
        if let Some(waker) = waker {
            // Whose panic is the executor's, and no reason for the thread to end.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    fn has_ended(&self) -> bool {
        lock(&self.end).ending.is_some()
    }

    /// Puts the thread into the element's queue, from which on the wait counts; then looks whether it should.
    fn enter(&self) -> Result<()> {
        let queue = self.segment.queue(self.index)?;
        let refused = |error| Error::io("enter the queue of an element of a shared array", error);
        let mut tries = 0_u32;
        while !move_one(&self.park, ARMED, queue).map_err(refused)? {
            if self.has_ended() {
                // Its time was up before it was there, or the system cannot do this.
                return Ok(());
            }
            // The thread is on its way to the park word.
            tries = tries.saturating_add(1);
            match tries {
                0..100 => std::thread::yield_now(),
                // Nobody could tell that it has arrived but the kernel, which does not.
                _ => std::thread::sleep(Duration::from_micros(20)),
            }
        }
        // A signal may have sent the thread back to the park word. It cannot go there from now on; if it is there, it is moved again.
        self.park.store(MOVED, Ordering::SeqCst);
        move_one(&self.park, MOVED, queue).map_err(refused)?;
        if self.segment.look(self.index, self.expected)?.is_none() {
            // The element changed while the thread was on its way. A notify that counted it meanwhile is the wait's end.
            let ending = match self.withdraw() {
                Ok(Ending::Left) => Ok(Ending::NotEqual),
                other => other,
            };
            let mut end = lock(&self.end);
            (end.ending, end.taken) = (Some(ending), false);
        }
        Ok(())
    }
}

/// A thread of the pool: where it finds its next wait.
#[derive(Default)]
struct Seat {
    next: Mutex<Option<Arc<Ticket>>>,
    called: Condvar,
}

#[derive(Default)]
struct Seats {
    idle: Vec<Arc<Seat>>,
    threads: usize,
}

struct Pool {
    seats: Mutex<Seats>,
    guard: ForkGuard,
}

fn pool() -> Option<&'static Pool> {
    static POOL: OnceLock<Option<Pool>> = OnceLock::new();
    POOL.get_or_init(|| Some(Pool { seats: Mutex::default(), guard: ForkGuard::new().ok()? })).as_ref()
}

/// Begins a wait: when this returns, a thread of the pool stands in the element's queue, or the wait is over.
pub(super) fn begin(
    segment: &Arc<SharedSegment>,
    index: usize,
    expected: u64,
    deadline: Option<Deadline>,
) -> Result<Arc<Ticket>> {
    let pool =
        pool().ok_or_else(|| Error::Unsupported { what: "asynchronous waits without memory for a page".into() })?;
    if pool.guard.is_forked_child() {
        return Err(Error::Forked);
    }
    let ticket = Arc::new(Ticket {
        segment: Arc::clone(segment),
        index,
        expected,
        deadline,
        park: AtomicU32::new(ARMED),
        cancel: AtomicU32::new(0),
        end: Mutex::default(),
        ended: Condvar::new(),
    });
    pool.seat(&ticket)?;
    match ticket.enter() {
        Ok(()) => Ok(ticket),
        Err(error) => {
            let _ = ticket.withdraw();
            Err(error)
        }
    }
}

impl Pool {
    /// Gives the wait to an idle thread or a new one.
    fn seat(&'static self, ticket: &Arc<Ticket>) -> Result<()> {
        let mut seats = lock(&self.seats);
        if let Some(seat) = seats.idle.pop() {
            *lock(&seat.next) = Some(Arc::clone(ticket));
            seat.called.notify_one();
            return Ok(());
        }
        if seats.threads == THREADS_MAX {
            return Err(Error::TooManyWaits { limit: THREADS_MAX });
        }
        let seat = Arc::new(Seat { next: Mutex::new(Some(Arc::clone(ticket))), called: Condvar::new() });
        let thread = std::thread::Builder::new().name("workring-wait".into()).stack_size(STACK_LEN);
        thread
            .spawn(move || self.serve(&seat))
            .map_err(|error| Error::io("start a thread for an asynchronous wait", error))?;
        seats.threads += 1;
        Ok(())
    }

    /// The life of a thread.
    fn serve(&self, seat: &Arc<Seat>) {
        loop {
            let next = {
                let next = lock(&seat.next);
                let waited = seat.called.wait_timeout_while(next, IDLE_MAX, |next| next.is_none());
                ignore_poison(waited).0.take()
            };
            if let Some(ticket) = next {
                let ending = ticket.run();
                // Idle before the end is told, so that a wait that begins then finds this thread.
                lock(&self.seats).idle.push(Arc::clone(seat));
                ticket.tell(ending);
                continue;
            }
            let mut seats = lock(&self.seats);
            if let Some(at) = seats.idle.iter().position(|idle| Arc::ptr_eq(idle, seat)) {
                seats.idle.swap_remove(at);
                seats.threads -= 1;
                return;
            }
            // It was called at the last moment.
        }
    }
}
