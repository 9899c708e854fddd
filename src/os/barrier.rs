//! A memory fence in every running thread of this process, made by one of them (membarrier(2)): it lets one side of a handshake do without.
//!
//! A handshake in which each side stores a word and then loads that of the other one needs a fence between the two on both sides. Where one
//! side does so all the time and the other one rarely, [`light`] stands on the frequent side and [`heavy`] on the rare one. Of two threads
//! that each make one of them, with a heavy one on at least one side, one sees what the other stored, as if both were
//! `fence(SeqCst)`. Two light ones promise nothing.
//!
//! | state of the process | `light` | `heavy` |
//! |---|---|---|
//! | nobody asked yet, or the system has no such call | a fence | a fence |
//! | asked | a fence | a fence and the call |
//! | ready | nothing, as the processor goes | a fence and the call |
//!
//! The state in the middle ends with a call of its own: a heavy side that had not seen it has its stores visible to every light one after it.

use core::sync::atomic::{AtomicU32, Ordering, compiler_fence, fence};

/// Nobody asked.
const UNASKED: u32 = 0;
/// The system is being told, or has no such call.
const ASKED: u32 = 1;
/// Heavy sides make the call, light ones still their fences.
#[cfg(all(target_os = "linux", not(miri)))]
const CALLING: u32 = 2;
/// Light sides need no fence.
const READY: u32 = 3;

static STATE: AtomicU32 = AtomicU32::new(UNASKED);

/// Whether a light fence costs nothing. It stays so.
#[inline]
pub(crate) fn is_ready() -> bool {
    // Acquire: pairs with the release in `register`; what a heavy side stored before the call that ended the state before is visible.
    STATE.load(Ordering::Acquire) == READY
}

/// Has the process made ready, some time. Does not block: the system takes ten milliseconds for it in a process of several threads, which
/// are those of a thread of its own. Without effect where there is no such call, or no thread for it.
#[cold]
pub(crate) fn request() {
    if STATE.compare_exchange(UNASKED, ASKED, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = std::thread::Builder::new().name("workring-fences".into()).stack_size(64 << 10).spawn(linux::register);
    }
}

/// The fence of the side that often has to make one.
#[inline]
pub(crate) fn light() {
    if is_ready() { compiler_fence(Ordering::SeqCst) } else { fence(Ordering::SeqCst) }
}

/// The same where the process is known to be ready.
#[inline]
pub(crate) fn light_once_ready() {
    compiler_fence(Ordering::SeqCst);
}

/// The fence of the side that rarely has to make one. A system call of a microsecond where light ones cost nothing.
pub(crate) fn heavy() {
    fence(Ordering::SeqCst);
    #[cfg(all(target_os = "linux", not(miri)))]
    if STATE.load(Ordering::Relaxed) >= CALLING {
        linux::fence_everywhere();
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod linux {
    use core::sync::atomic::Ordering;
    use core::time::Duration;

    use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};

    use super::{CALLING, READY, STATE};

    /// Longer than a store waits in a processor before others see it, by any measure.
    const SETTLING: Duration = Duration::from_millis(10);

    pub(super) fn register() {
        if !membarrier_query().contains(MembarrierQuery::PRIVATE_EXPEDITED)
            || membarrier(MembarrierCommand::RegisterPrivateExpedited).is_err()
        {
            return;
        }
        // Relaxed: the call is a fence.
        STATE.store(CALLING, Ordering::Relaxed);
        if membarrier(MembarrierCommand::PrivateExpedited).is_ok() {
            // Release: pairs with the acquire in `is_ready`.
            STATE.store(READY, Ordering::Release);
        }
    }

    #[cold]
    pub(super) fn fence_everywhere() {
        if membarrier(MembarrierCommand::PrivateExpedited).is_err() {
            // A sandbox that was put on since. There is no way to refuse a pause.
            std::thread::sleep(SETTLING);
        }
    }
}
