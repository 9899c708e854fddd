//! A look at an engine while it works: [`Engine::statistics`] and [`Engine::workers`].

use crate::engine::job::meta;
use crate::engine::schedule::health;
use crate::engine::schedule::progress;
use std::time::Duration;

use super::engine::Engine;
use super::progress::Progress;
use crate::arena::ArenaStatistics;
use crate::engine::job::call;
use crate::error::Error;
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::records::{Descriptor, Participant, kind};
use crate::layout::words::{ParticipantWord, State};
use crate::lockfree::job;
use crate::os::host::Deadline;
use crate::sync::Ordering;

/// What an engine does at one moment. Counts are read one after the other while work goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EngineStatistics {
    /// Worker threads.
    pub threads: usize,
    /// The most jobs that may be unfinished or unread.
    pub queue_capacity: u32,
    /// Entries in the queue, among them those of cancelled jobs no worker has passed yet.
    pub queued: u64,
    /// Jobs and shares of calls that workers finished.
    pub finished: u64,
    /// System calls made to wake workers.
    pub wake_calls: u32,
    /// Waits for another process that ended only because none lasts longer than a second. The protocol needs no such bound, so
    /// this stays 0 unless something damaged the shared bookkeeping.
    pub missed_wakeups: u64,
    /// The arena.
    pub arena: ArenaStatistics,
}

/// One worker of an engine at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its number among the workers, from 1 on; what [`Context::worker_id`](crate::Context::worker_id) gives.
    pub worker: u32,
    /// The process it is, or in which it is a thread; 0 before there was one.
    pub pid: u32,
    /// Whether it is a process of its own, or one of the workers of such a process that runs
    /// [several jobs at a time](crate::Builder::jobs_per_process) and dies as a whole.
    pub is_process: bool,
    /// Whether it is for a process that others start; see [`attach`](crate::process::attach).
    pub is_outside: bool,
    /// Whether it takes jobs: not where fewer workers are enough ([`Builder::min_threads`](crate::Builder::min_threads)), nor a process
    /// that is starting, has died or left and was not replaced yet.
    pub is_alive: bool,
    /// Processes that had this number before it.
    pub replaced: u32,
    /// Jobs it finished, with those of its predecessors.
    pub finished: u64,
    /// How long it has been taking jobs; of those that were replaced the present one. Zero before it began.
    pub alive_for: Duration,
    /// How long of that it had nothing to do.
    pub idle_for: Duration,
}

impl WorkerStatus {
    /// The part of its time in which it had something to do, from 0 to 1. Between two looks: the difference of what was busy over the
    /// difference of what was alive.
    pub fn utilization(&self) -> f64 {
        let alive = self.alive_for.as_secs_f64();
        if alive > 0.0 { 1.0 - (self.idle_for.as_secs_f64() / alive).min(1.0) } else { 0.0 }
    }
}

/// Where a job is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobState {
    /// It waits for a worker.
    Queued,
    /// A worker is at it.
    Running,
    /// It is over, and its result was not read yet.
    Unread,
}

/// One job of an engine at one moment.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct JobStatus {
    /// Where it is.
    pub state: JobState,
    /// The kernel's name; `closure` for a closure.
    pub kernel: &'static str,
    /// What its submitter calls it ([`JobBuilder::tag`](crate::JobBuilder::tag)); 0 unless that was said.
    pub tag: u64,
    /// The worker that runs it, or ran it: 0 for a thread that helps while it waits, and before it was started.
    pub worker: u32,
    /// How often it was started before, and its worker died.
    pub retried: u32,
    /// How far it says it is.
    pub progress: Option<Progress>,
}

impl Engine {
    /// Counts of the moment. Takes the arena's lock for a moment; workers are not held up.
    pub fn statistics(&self) -> EngineStatistics {
        let participants = self.core.control.participants();
        EngineStatistics {
            threads: self.core.config.threads,
            queue_capacity: self.core.config.queue_capacity,
            queued: self.core.queued_hint(),
            finished: participants.iter().map(|row| row.finished.load(Ordering::Relaxed)).sum(),
            wake_calls: self.core.threads.wake_calls(),
            missed_wakeups: health::missed_wakeups(&self.core),
            arena: self.core.arena.statistics(),
        }
    }

    /// Why no worker process can be started at the moment, while none runs and nobody else could run jobs: the error that calls get which do
    /// not wait for the end of such a shortage. `None` as a rule. Does not block.
    ///
    /// Workers are started again for as long as the engine lives, in pauses of up to a second.
    pub fn worker_shortage(&self) -> Option<Error> {
        self.core.shortage()
    }

    /// The workers: threads, then processes, then the seats of outside workers. Does not block.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let threads = self.core.config.threads;
        let now = Deadline::now().nanoseconds();
        let since = |began: u64| if began == 0 { 0 } else { now.saturating_sub(began) };
        let status = |(at, row): (usize, &Participant)| {
            // Relaxed: figures for people.
            let word = ParticipantWord::from_bits(row.word.load(Ordering::Relaxed));
            WorkerStatus {
                worker: at as u32,
                pid: row.pid.load(Ordering::Relaxed),
                is_process: at > threads,
                is_outside: at > self.core.config.workers(),
                is_alive: if at <= threads {
                    self.core.threads.is_taken(ParticipantSlot::new(at as u16))
                } else {
                    word.state() == ParticipantWord::ALIVE
                },
                replaced: word.incarnation(),
                finished: row.finished.load(Ordering::Relaxed),
                alive_for: Duration::from_nanos(since(row.began_ns.load(Ordering::Relaxed))),
                idle_for: {
                    let idle_now = since(row.idle_since_ns.load(Ordering::Relaxed));
                    Duration::from_nanos(row.idle_ns.load(Ordering::Relaxed).saturating_add(idle_now))
                },
            }
        };
        let workers = 1..=self.core.config.rows();
        workers.clone().zip(self.core.control.participants().iter().skip(1)).map(status).collect()
    }

    /// The jobs that were handed over and not read yet, in no order: for people who look, as it takes a look at every place of the
    /// queue. The parts of blocking calls are not among them. Does not block.
    pub fn jobs(&self) -> Vec<JobStatus> {
        let core = &self.core;
        let of = |(at, descriptor): (usize, &Descriptor)| {
            let word = job::snapshot(&descriptor.word);
            let state = match word.state()? {
                State::Queued => JobState::Queued,
                State::Running => JobState::Running,
                State::Done => JobState::Unread,
                State::Free | State::Reserved => return None,
            };
            let kernel = match call::kind_of(descriptor) {
                kind::CLOSURE => "closure",
                kind::WHOLE | kind::ROWS => core.kernel(descriptor.kernel.load(Ordering::Relaxed))?.name(),
                _ => return None,
            };
            let index = DescriptorIndex::new(at as u32);
            let (tag, progress) =
                (meta::tag_of(&core.control, index), progress::progress_of(core, index).map(Progress::from));
            let (worker, retried) = (u32::from(word.owner().get()), u32::from(word.attempt()));
            Some(JobStatus { state, kernel, tag, worker, retried, progress })
        };
        core.control.descriptors().iter().enumerate().filter_map(of).collect()
    }
}
