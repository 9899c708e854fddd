//! How many worker processes there are, where fewer than the most may be enough.

use crate::engine::process::supervisor::Supervisor;
use crate::engine::process::worker_slot::Seat;
use crate::engine::schedule::shift;
use crate::engine::schedule::thread_pool;
use crate::engine::schedule::wakeup;
use crate::layout::records::Participant;
use crate::os::host::Deadline;
use crate::sync::Ordering;

impl Supervisor {
    /// Wants more workers while jobs wait for one, and asks those to leave that had nothing to do for long enough.
    pub(in crate::engine) fn fit_to_load(&mut self) {
        if self.group.least >= self.core.config.processes || !self.core.is_open() {
            return;
        }
        self.core.threads.hear_request();
        if wakeup::is_short_of_workers(&self.core) {
            self.want_more();
        }
        let mut spare = self.spare();
        for at in 0..self.seats.len() {
            if spare > 0 && self.idle_until(at).is_some_and(Deadline::is_past) {
                spare -= 1;
                let seat = &mut self.seats[at];
                if let Some(worker) = &mut seat.worker {
                    worker.asked_to_leave = true;
                    seat.slots.iter().for_each(|slot| shift::ask_to_leave(&self.core, slot));
                }
            }
        }
    }

    /// Wants workers for all jobs that wait, those counted that are being started.
    fn want_more(&mut self) {
        // One that is ready and has not looked for jobs yet has its share of those that wait still before it.
        let looks = |seat: &Seat| seat.rows(&self.core).all(|row| row.began_ns.load(Ordering::Relaxed) != 0);
        let is_starting = |seat: &&Seat| !seat.outside && seat.wanted && !(seat.is_ready() && looks(seat));
        let starting = self.seats.iter().filter(is_starting).count() as u64;
        let wanted = self.core.queued_hint().div_ceil(self.core.config.jobs_per_process.max(1) as u64);
        let lacking = wanted.saturating_sub(starting);
        let vacant = self.seats.iter_mut().filter(|seat| !seat.outside && !seat.wanted && !seat.ended);
        for seat in vacant.take(usize::try_from(lacking).unwrap_or(usize::MAX)) {
            seat.wanted = true;
            seat.not_before = Deadline::now();
            thread_pool::count_vacant_process(&self.core, false);
        }
    }

    /// Workers beyond the least number that stay as far as is known.
    fn spare(&self) -> usize {
        let stays = |worker: &crate::engine::process::worker_slot::Worker| worker.ready && !worker.asked_to_leave;
        let staying = self.seats.iter().filter(|seat| !seat.outside && seat.worker.as_ref().is_some_and(stays));
        staying.count().saturating_sub(self.group.least)
    }

    /// Until when the worker of a seat may have nothing to do, if it is one that stays and has nothing to do. What its rows say are
    /// figures that it wrote: at worst a worker leaves too early or stays.
    fn idle_until(&self, seat: usize) -> Option<Deadline> {
        let seat = &self.seats[seat];
        let worker = seat.worker.as_ref().filter(|worker| worker.ready && !worker.asked_to_leave && !seat.outside)?;
        let idle_since = |row: &Participant| match row.idle_since_ns.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Deadline::from_nanoseconds(since)),
        };
        // It is idle when none of its rows has a job, and has been since the last of them ended.
        let idle: Option<Vec<Deadline>> = seat.rows(&self.core).map(idle_since).collect();
        let since = idle?.into_iter().fold(worker.since, Deadline::max);
        Some(since.plus(self.group.idle_timeout))
    }

    /// When to look again whether a worker had nothing to do for long enough.
    pub(in crate::engine) fn next_idle(&self) -> Option<Deadline> {
        if self.group.least >= self.core.config.processes || self.spare() == 0 {
            return None;
        }
        // One that is busy now begins to be idle later.
        let later = Deadline::after(self.group.idle_timeout);
        (0..self.seats.len()).map(|at| self.idle_until(at).unwrap_or(later)).min()
    }
}
