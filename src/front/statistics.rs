//! A look at an engine while it works: [`Engine::statistics`] and [`Engine::workers`].

use super::engine::Engine;
use crate::arena::ArenaStatistics;
use crate::layout::records::Participant;
use crate::layout::words::ParticipantWord;
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
    pub timeout_rescues: u64,
    /// The arena.
    pub arena: ArenaStatistics,
}

/// One worker of an engine at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its number among the workers, from 1 on; what [`Context::worker_id`](crate::Context::worker_id) gives.
    pub worker: u32,
    /// The process it is, or in whose thread it is; 0 before there was one.
    pub pid: u32,
    /// Whether it is a process of its own.
    pub is_process: bool,
    /// Whether it is for a process that others start; see [`attach`](crate::attach).
    pub is_outside: bool,
    /// Whether it takes jobs: always for threads; not for a process that is starting, has died or left and was not replaced yet.
    pub is_alive: bool,
    /// Processes that had this number before it.
    pub replaced: u32,
    /// Jobs it finished, with those of its predecessors.
    pub finished: u64,
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
            wake_calls: self.core.wake_calls(),
            timeout_rescues: self.core.rescues(),
            arena: self.core.arena.statistics(),
        }
    }

    /// The workers: threads, then processes, then the seats of outside workers. Does not block.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let threads = self.core.config.threads;
        let status = |(at, row): (usize, &Participant)| {
            // Relaxed: figures for people.
            let word = ParticipantWord::from_bits(row.word.load(Ordering::Relaxed));
            WorkerStatus {
                worker: at as u32,
                pid: row.pid.load(Ordering::Relaxed),
                is_process: at > threads,
                is_outside: at > self.core.config.workers(),
                is_alive: at <= threads || word.state() == ParticipantWord::ALIVE,
                replaced: word.incarnation(),
                finished: row.finished.load(Ordering::Relaxed),
            }
        };
        let workers = 1..=self.core.config.rows();
        workers.clone().zip(self.core.control.participants().iter().skip(1)).map(status).collect()
    }
}
