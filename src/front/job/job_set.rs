//! Jobs in the order they finish.

use core::fmt;
use std::collections::HashMap;
use std::sync::Arc;

use super::job::{Job, Payload};
use crate::engine::handle::CompletionPort;
use crate::engine::runtime::Core;
use crate::error::{Failed, Result};

/// Jobs whose results are given in the order they finish, each with the key it was put in under.
///
/// Costs nothing per job that grows with the number of jobs: a finished job sets one bit, which the set collects. As an
/// iterator it ends when the set is empty.
///
/// # Examples
/// ```
/// # fn main() -> workring::Result<()> {
/// let engine = workring::Engine::builder().threads(2).build()?;
/// let mut set = engine.job_set()?;
/// for n in 0..10_u64 {
///     set.insert(n, engine.run(move || n * n)?);
/// }
/// let mut total = 0;
/// for (n, result) in &mut set {
///     assert_eq!(result?, n * n);
///     total += 1;
/// }
/// assert_eq!(total, 10);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a set lets go of its jobs, and their results are lost"]
pub struct JobSet<P: Payload, K = u64> {
    /// By descriptor. Before the port: they detach before it can be another's.
    jobs: HashMap<u32, (K, Job<P>)>,
    port: CompletionPort,
}

/// The key of a job and what it ended with.
pub type Completed<K, P> = (K, Result<<P as Payload>::Output, Failed<<P as Payload>::Returned>>);

impl<P: Payload, K> JobSet<P, K> {
    pub(in crate::front) fn new(core: &Arc<Core>) -> Result<Self> {
        Ok(Self { jobs: HashMap::new(), port: CompletionPort::new(core)? })
    }

    /// Puts a job in. Does not block. A job of another engine is never seen to finish: see the panic.
    ///
    /// # Panics
    /// When the job belongs to another engine.
    pub fn insert(&mut self, key: K, job: Job<P>) {
        let handle = job.handle().filter(|handle| self.port.is_of(handle));
        let handle = handle.expect("a job was put into a set of another engine");
        let jobs = &self.jobs;
        self.port.add(handle, jobs.len(), |key| jobs.get(&key)?.1.handle());
        self.jobs.insert(handle.key(), (key, job));
    }

    /// Jobs whose results were not given yet.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether all results were given.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The next result if a job is finished. Does not block.
    pub fn try_next(&mut self) -> Option<Completed<K, P>> {
        if self.port.check_process().is_err() {
            // In a forked child no job ends any more, and the bits are the parent's: every job says so itself.
            let index = *self.jobs.keys().next()?;
            return self.jobs.remove(&index).map(|(key, job)| (key, job.wait()));
        }
        self.port.collect();
        while let Some(index) = self.port.next_reported() {
            // A bit may belong to a job that an earlier owner of this port let go of.
            let Some((_, job)) = self.jobs.get(&index) else { continue };
            if !job.is_finished() {
                continue;
            }
            if let Some((key, job)) = self.jobs.remove(&index) {
                return Some((key, job.wait()));
            }
        }
        None
    }

    /// Waits for the next result; `None` when the set is empty. Blocks; unless the engine's [`WaitPolicy`](crate::WaitPolicy) is [`WaitPolicy::Never`](crate::WaitPolicy::Never), and always inside a
    /// kernel, the thread runs jobs of the set that nobody has started meanwhile. It runs others with [`WaitPolicy::AnyJob`](crate::WaitPolicy::AnyJob) alone.
    ///
    /// # Panics
    /// Inside a job of the set, when it has no other.
    pub fn wait_next(&mut self) -> Option<Completed<K, P>> {
        loop {
            if let Some(next) = self.try_next() {
                return Some(next);
            }
            if self.jobs.is_empty() || !self.port.wait(self.jobs.values().filter_map(|(_, job)| job.handle())) {
                return None;
            }
        }
    }
}

impl<P: Payload, K> Iterator for JobSet<P, K> {
    type Item = Completed<K, P>;

    fn next(&mut self) -> Option<Completed<K, P>> {
        self.wait_next()
    }
}

impl<P: Payload, K> fmt::Debug for JobSet<P, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSet").field("len", &self.jobs.len()).finish_non_exhaustive()
    }
}
