//! Points at which a process can be made to die or to stop, for the project's own tests of recovery.
//!
//! Recovery is about what lies between two steps. A kill from outside hardly ever falls there, so the steps themselves have
//! *points*, and a test names the one at which a worker process shall fall: by the variable `WORKRING_FAULT`, of the form
//! `point:hit:what`, where `hit` counts from 1 in each process and `what` is `kill` (the process sends itself SIGKILL) or `stop` (SIGSTOP;
//! somebody else lets it go on). `WORKRING_FAULT_MARK` names a file: the process that is about to fall renames it, with its
//! process id appended as an extension, and does not fall if it cannot. Hits count while the file is there. So one process of many falls, once, and its replacement
//! does not; and the test knows that the point was reached.
//!
//! Without the feature `fault`, under the model checker and on systems without worker processes a point is nothing at all. With
//! it a point counts only in a process that was armed: worker processes arm themselves, others ignore the variables.

/// Declares the points: the enum, and the list of all of them.
macro_rules! points {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// Where a process can fall. The numbers are those of the project's list of faults.
        #[allow(non_camel_case_types, reason = "a point has one name in the code, the variable and the tests' output")]
        #[cfg_attr(
            not(all(feature = "fault", target_os = "linux", not(workring_loom))),
            allow(dead_code, unreachable_pub)
        )]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Point { $($(#[doc = $text])+ $name,)+ }

        /// Every point, in the order of the list.
        #[cfg(all(feature = "fault", target_os = "linux", not(workring_loom)))]
        pub const POINTS: &[Point] = &[$(Point::$name,)+];
    };
}

points! {
    /// Attach: started by the engine, which has not been heard yet.
    F3_joined,
    /// Attach: the descriptors have arrived and are not mapped.
    F4_received,
    /// Attach: everything is mapped, the engine has not been told.
    F4_mapped,
    /// Attach: the engine has been told, no job was looked for.
    F4_ready,
    /// Submit: a descriptor is reserved.
    F5_reserved,
    /// Submit: a descriptor is filled and not published.
    F6_filled,
    /// Submit: the job is queued and in no ring.
    F7_queued,
    /// Submit: the ring's cell is filled, its tail not moved.
    F8_cell_filled,
    /// Submit: the job is in the ring, nobody was woken.
    F9_pushed,
    /// Wake chain: a worker that found a job has stopped searching and not looked whether more is left.
    F10_found,
    /// Wake: another worker was taken from parked to pending and not called.
    F10_pending,
    /// Wake: it was called, and is still pending.
    F11_called,
    /// Sleep: the park word says parked, the idle bit is not set.
    F12_parked,
    /// Sleep: the rings were looked at once more.
    F13_rechecked,
    /// Sleep: awake again, with the park word as the waker left it.
    F15_woken,
    /// End: no longer searching, while the engine closes.
    F15_retired,
    /// Take: an entry of the ring was read, its job not claimed.
    F16_cell_read,
    /// Take: the job is claimed, its entry still in the ring.
    F17_claimed,
    /// Take: the entry is cleared, the head not moved.
    F18_cell_cleared,
    /// Take: the job is claimed and out of the ring, and not begun.
    F18_taken,
    /// Redelivery: a bit was read, its job not claimed.
    F19_bit_read,
    /// Redelivery: the job is claimed, its bit still set.
    F19_claimed,
    /// Redelivery: the bit is cleared, the job not begun or not looked at again.
    F19_cleared,
    /// Redelivery: no bit was found, the summary still says that there may be one.
    F19_scanned,
    /// Kernel: before anything is written. The kernels of tests pass it.
    F20_computing,
    /// Kernel: half of the output is written. The kernels of tests pass it.
    F21_half_written,
    /// Finish: the status is written, the job still running.
    F22_status_written,
    /// Finish: the job is done, nobody was told.
    F23_done,
    /// Finish: the port's bit is set, its collector not looked at.
    F24_port_bit,
    /// Finish: the port's collector is marked as notified and not called.
    F24_port_notified,
    /// Finish: the waiter is marked as notified and not called.
    F24_waiter_notified,
    /// Finish: the collector's bit is set, the supervisor not marked as notified.
    F25_collector_bit,
    /// Finish: the supervisor is marked as notified and not called.
    F25_collector_notified,
    /// Reap: a port's bits are taken, their jobs not read.
    F26_collected,
    /// Reap: the result is read, the descriptor not free.
    F27_read,
    /// Sweep: the dead worker's row says so.
    F29_dead_stored,
    /// Sweep: a job is queued again, its redelivery bit not set.
    F30_requeued,
    /// Sweep: a redelivery bit is set, the summary not moved. Workers pass it as well when they set a bit again.
    F30_bit_set,
    /// Sweep: between two descriptors.
    F31_mid_table,
    /// Sweep: all descriptors were seen, nobody was woken.
    F32_swept,
    /// Sweep: the process is reaped, its row not in its next life.
    F33_reaped,
    /// Files: the engine was asked for a mapped file.
    F35_asked,
    /// Fan-out: a chunk is named in the partition's progress word and not taken out of its range.
    F37_announced,
    /// Fan-out: a chunk is taken and named, and not begun.
    F38_taken,
    /// Fan-out: chunks are stolen and in no range.
    F39_stolen,
    /// Fan-out: all stolen chunks but the first are in the thief's range, the first is named nowhere.
    F40_refilled,
    /// Fan-out: a chunk was run and not counted.
    F41_run,
    /// Fan-out: a chunk was counted, no other one named.
    F42_counted,
    /// Deadline: a worker is to be killed because its kernel goes on, and is not stopped.
    F43_due,
    /// Deadline: it is stopped, its job not looked at again.
    F44_paused,
    /// Deadline: it is killed, and not swept.
    F45_killed,
    /// Message: it is written, its stamp not stored.
    F46_message_written,
    /// Message: it is posted, nobody was called.
    F47_message_posted,
    /// Message: a sleeper's call is counted, and nobody woken.
    F48_bell_answered,
    /// Message: it is copied, its cell not given back.
    F49_message_read,
    /// Message: its cell is given back, nobody was called.
    F50_message_taken,
    /// Message: somebody is about to sleep, and has not looked again.
    F51_bell_announced,
    /// Message: awake after a call, and has not looked.
    F52_bell_heard,
    /// Message: a batch is dropped, and not counted.
    F53_loan_dropped,
}

/// Falls here if this process was armed for this hit of `point`.
#[cfg(not(all(feature = "fault", target_os = "linux", not(workring_loom))))]
#[inline(always)]
pub(crate) fn point(_point: Point) {}

/// Arms nothing.
#[cfg(not(all(feature = "fault", target_os = "linux", not(workring_loom))))]
#[cfg_attr(any(workring_loom, not(target_os = "linux")), allow(dead_code))]
pub(crate) fn arm_as_told() {}

/// As [`point`], if `reached`.
#[inline(always)]
pub(crate) fn point_if(reached: bool, at: Point) {
    if reached {
        point(at);
    }
}

#[cfg(all(feature = "fault", target_os = "linux", not(workring_loom)))]
pub(crate) use armed::arm_as_told;
#[cfg(all(feature = "fault", target_os = "linux", not(workring_loom)))]
pub use armed::{arm, name, point};

#[cfg(all(feature = "fault", target_os = "linux", not(workring_loom)))]
mod armed {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use rustix::process::Signal;

    use super::{POINTS, Point};

    /// Far longer than the system needs to stop all threads of a process.
    const SETTLING: Duration = Duration::from_millis(20);

    /// What this process was armed with.
    struct DeathPlan {
        point: Point,
        hits_left: AtomicU32,
        signal: Signal,
        mark: PathBuf,
    }

    static PLAN: OnceLock<DeathPlan> = OnceLock::new();

    /// The name of a point, as the variable spells it.
    pub fn name(point: Point) -> String {
        format!("{point:?}")
    }

    /// Arms this process as the variables say; without them, or a second time, it does nothing.
    ///
    /// # Panics
    /// When the variable says what cannot be understood: a test that waits for a fault must not pass without one.
    pub(crate) fn arm_as_told() {
        if let Some((what, mark)) = std::env::var("WORKRING_FAULT").ok().zip(std::env::var_os("WORKRING_FAULT_MARK")) {
            arm(&what, mark.into());
        }
    }

    /// Arms this process with `point:hit:what` and the file that gives the right to fall.
    ///
    /// # Panics
    /// As [`arm_as_told`].
    pub fn arm(what: &str, mark: PathBuf) {
        let plan =
            parse(what, mark).unwrap_or_else(|| panic!("WORKRING_FAULT: \"{what}\" is not point:hit:kill or stop"));
        let _ = PLAN.set(plan);
    }

    fn parse(what: &str, mark: PathBuf) -> Option<DeathPlan> {
        let mut words = what.split(':');
        let (word, hits, signal) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let point = *POINTS.iter().find(|point| name(**point) == word)?;
        let signal = match signal {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            _ => return None,
        };
        let is_whole = words.next().is_none() && hits > 0;
        is_whole.then_some(DeathPlan { point, hits_left: AtomicU32::new(hits), signal, mark })
    }

    /// Falls here if this process was armed for this hit of `point`.
    #[inline]
    pub fn point(point: Point) {
        if let Some(plan) = PLAN.get()
            && plan.point == point
        {
            plan.hit();
        }
    }

    impl DeathPlan {
        #[cold]
        fn hit(&self) {
            // A count that has passed zero comes back to it after 2^32 hits only, and the mark is gone by then.
            if !self.mark.exists() || self.hits_left.fetch_sub(1, Ordering::Relaxed) != 1 {
                return;
            }
            let fallen = self.mark.with_extension(std::process::id().to_string());
            if std::fs::rename(&self.mark, fallen).is_ok() {
                // SIGKILL ends every thread before the call returns.
                let _ = rustix::process::kill_process(rustix::process::getpid(), self.signal);
                // SIGSTOP may be taken by another thread, which then stops this one. It must not be past the point by then.
                std::thread::sleep(SETTLING);
            }
        }
    }
}

#[cfg(all(test, feature = "fault", target_os = "linux", not(workring_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_armed_passes_every_point() {
        for &at in POINTS {
            point(at);
            point_if(true, at);
        }
    }

    #[test]
    #[should_panic(expected = "is not point:hit:kill or stop")]
    fn a_fault_that_does_not_exist_is_refused() {
        arm("F99_nowhere:1:kill", "mark".into());
    }
}
