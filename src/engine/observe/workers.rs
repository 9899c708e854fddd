//! An engine and its workers at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::arena::ArenaStatistics;
use crate::engine::runtime::Core;
use crate::engine::schedule::health;
use crate::ids::ParticipantSlot;
use crate::layout::records::Participant;
use crate::layout::words::ParticipantWord;
use crate::os::host::{self, Deadline};
use crate::os::topology::Topology;
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
    /// Jobs and partitions of calls that workers finished.
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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
    pub is_external: bool,
    /// Whether it takes jobs: not where fewer workers are enough ([`Builder::min_threads`](crate::Builder::min_threads)), nor a process
    /// that is starting, has died or left and was not replaced yet.
    pub is_alive: bool,
    /// The [memory node](crate::stats::MemoryNode) on whose cores alone its process may run: where it is told to keep to cores
    /// ([`WorkerProgram::cores`](crate::process::WorkerProgram::cores)), or the machine has one node. `None` if there is none, or the system does not tell. Threads that are
    /// [pinned](crate::Builder::pin) are counted with their process.
    pub memory_node: Option<usize>,
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

/// The engine's counts.
pub(crate) fn statistics(core: &Core) -> EngineStatistics {
    let participants = core.control.participants();
    EngineStatistics {
        threads: core.config.threads,
        queue_capacity: core.config.queue_capacity,
        queued: core.queued_hint(),
        // Relaxed, here and below: figures for people.
        finished: participants.iter().map(|row| row.finished.load(Ordering::Relaxed)).sum(),
        wake_calls: core.threads.wake_calls(),
        missed_wakeups: health::missed_wakeups(core),
        arena: core.arena.statistics(),
    }
}

/// The workers: threads, then processes, then the slots for external workers.
pub(crate) fn workers(core: &Core) -> Vec<WorkerStatus> {
    let threads = core.config.threads;
    let now = Deadline::now().nanoseconds();
    let since = |began: u64| if began == 0 { 0 } else { now.saturating_sub(began) };
    let topology = Topology::read();
    let mut nodes = BTreeMap::new();
    let status = |(at, row): (usize, &Participant)| {
        let pid = row.pid.load(Ordering::Relaxed);
        let node_of = || topology.node_of(&host::cores_of_process(pid)?);
        let word = ParticipantWord::from_bits(row.word.load(Ordering::Relaxed));
        WorkerStatus {
            worker: at as u32,
            pid,
            memory_node: *nodes.entry(pid).or_insert_with(node_of),
            is_process: at > threads,
            is_external: at > core.config.workers(),
            is_alive: if at <= threads {
                core.threads.is_taken(ParticipantSlot::new(at as u16))
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
    let workers = 1..=core.config.rows();
    workers.zip(core.control.participants().iter().skip(1)).map(status).collect()
}
