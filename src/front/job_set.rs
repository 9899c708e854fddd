//! Jobs in the order they finish.

use crate::engine::schedule::health;
use crate::engine::schedule::look_after;
use crate::engine::schedule::queue;
use core::fmt;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use super::job::{Job, Payload};
use crate::engine::exec::execute::execute;
use crate::engine::exec::help::{self, Ran};
use crate::engine::job::reference::JobReference;
use crate::engine::options::WaitPolicy;
use crate::engine::runtime::core::Core;
use crate::engine::runtime::nesting;
use crate::error::{Error, Failed, Result};
use crate::ids::ParticipantSlot;
use crate::layout::geometry::PORTS;
use crate::layout::words::FLAG_PORT;
use crate::lockfree::job::{self, FlagSet};
use crate::lockfree::port;
use crate::panics;
use crate::sync::Ordering;

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
pub struct JobSet<P: Payload, K = u64> {
    core: Arc<Core>,
    port: u32,
    /// By descriptor.
    jobs: HashMap<u32, (K, Job<P>)>,
    /// Descriptors of jobs known to be finished, in the order they were seen.
    ready: VecDeque<u32>,
    /// Jobs that nobody may have started, in the order they came: the thread that waits tries each once.
    unstarted: VecDeque<JobReference>,
}

/// References that may be left behind before they are looked through.
const UNSTARTED_SLACK: usize = 64;

/// The key of a job and what it ended with.
pub type Completed<K, P> = (K, Result<<P as Payload>::Output, Failed<<P as Payload>::Returned>>);

impl<P: Payload, K> JobSet<P, K> {
    pub(crate) fn new(core: &Arc<Core>) -> Result<Self> {
        core.check_process()?;
        let mut taken = core.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let port = taken.trailing_ones();
        if port as usize >= PORTS {
            return Err(Error::Unsupported { what: format!("more than {PORTS} job sets of one engine at a time") });
        }
        *taken |= 1 << port;
        Ok(Self {
            core: Arc::clone(core),
            port,
            jobs: HashMap::new(),
            ready: VecDeque::new(),
            unstarted: VecDeque::new(),
        })
    }

    /// Puts a job in. Does not block. A job of another engine is never seen to finish: see the panic.
    ///
    /// # Panics
    /// When the job belongs to another engine.
    pub fn insert(&mut self, key: K, job: Job<P>) {
        assert!(job.belongs_to(&self.core), "a job was put into a set of another engine");
        let index = job.reference().index;
        if let Some(descriptor) = self.core.control.descriptor(index) {
            // Relaxed: the flag's release (R4) publishes it.
            descriptor.port.store(self.port, Ordering::Relaxed);
            if job::set_flag(&descriptor.word, FLAG_PORT) != FlagSet::Set {
                self.ready.push_back(index.get());
            }
        }
        if self.unstarted.len() > 2 * self.jobs.len() + UNSTARTED_SLACK {
            // Those that were given are left behind where nobody waits.
            let jobs = &self.jobs;
            self.unstarted.retain(|old| jobs.get(&old.index.get()).is_some_and(|(_, job)| job.reference() == *old));
        }
        self.unstarted.push_back(job.reference());
        self.jobs.insert(index.get(), (key, job));
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
        if self.core.check_process().is_err() {
            // In a forked child no job ends any more, and the bits are the parent's: every job says so itself.
            let index = *self.jobs.keys().next()?;
            return self.jobs.remove(&index).map(|(key, job)| (key, job.wait()));
        }
        if self.ready.is_empty() {
            self.collect();
        }
        while let Some(index) = self.ready.pop_front() {
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

    fn collect(&mut self) {
        let ready = &mut self.ready;
        if let Some((_, bits)) = self.core.control.port(self.port) {
            port::collect(bits, |index| ready.push_back(index.get()));
        }
    }

    /// Waits for the next result; `None` when the set is empty. Blocks; unless the engine's [`WaitPolicy`] is [`WaitPolicy::Never`], and always inside a
    /// kernel, the thread runs jobs of the set that nobody has started meanwhile. It runs others with [`WaitPolicy::AnyJob`] alone.
    ///
    /// # Panics
    /// Inside a job of the set, when it has no other.
    pub fn wait_next(&mut self) -> Option<Completed<K, P>> {
        loop {
            if let Some(next) = self.try_next() {
                return Some(next);
            }
            if self.jobs.is_empty() {
                return None;
            }
            if self.help() {
                continue;
            }
            if nesting::depth() > 0 && self.jobs.values().all(|(_, job)| self.core.is_around_as(job.reference())) {
                nesting::waits_for_itself();
            }
            let (port, bits) = self.core.control.port(self.port)?;
            port::prepare_to_sleep(&port.park);
            let mut late = false;
            if bits.iter().all(|word| word.load(Ordering::Relaxed) == 0) {
                late = health::park_collector(&self.core, &port.park);
            }
            port::wake_up(&port.park);
            if late || self.core.health.is_poisoned() {
                self.look_at_all();
            }
        }
    }

    /// Looks at every job itself: after a second without a report, whose words can be damaged, and when the engine broke.
    fn look_at_all(&mut self) {
        // A job whose worker died waits to be started again.
        self.unstarted = self.jobs.values().map(|(_, job)| job.reference()).collect();
        let is_over = |(_, (_, job)): &(&u32, &(K, Job<P>))| job.is_finished();
        let over = self.jobs.iter().filter(is_over).map(|(&index, _)| index);
        self.ready.extend(over);
        if !self.core.health.is_poisoned() && !self.ready.is_empty() {
            health::count_missed_wakeup(&self.core);
        }
        for (_, job) in self.jobs.values() {
            look_after::look_after(&self.core, job.reference());
        }
    }

    /// Runs one job: one of the set's own that nobody has started, or, where that is allowed, the first in the queue.
    fn help(&mut self) -> bool {
        let in_kernel = panics::depth() > 0;
        if !in_kernel && self.core.config.help == WaitPolicy::Never {
            return false;
        }
        while let Some(own) = self.unstarted.pop_front() {
            if help::run_own(&self.core, own) != Ran::Nothing {
                return true;
            }
        }
        if !in_kernel
            && self.core.config.help == WaitPolicy::AnyJob
            && let Some(index) = queue::take(&self.core, ParticipantSlot::HOST)
        {
            execute(&self.core, ParticipantSlot::HOST, index);
            return true;
        }
        false
    }
}

impl<P: Payload, K> Iterator for JobSet<P, K> {
    type Item = Completed<K, P>;

    fn next(&mut self) -> Option<Completed<K, P>> {
        self.wait_next()
    }
}

impl<P: Payload, K> Drop for JobSet<P, K> {
    fn drop(&mut self) {
        // The jobs detach first. A finisher that still reports to this port leaves a bit that its next owner ignores.
        self.jobs.clear();
        if self.core.check_process().is_err() {
            return;
        }
        let mut taken = self.core.ports.lock().unwrap_or_else(PoisonError::into_inner);
        *taken &= !(1 << self.port);
    }
}

impl<P: Payload, K> fmt::Debug for JobSet<P, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSet").field("len", &self.jobs.len()).finish_non_exhaustive()
    }
}
