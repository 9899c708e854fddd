//! The workers of an engine: the part of its builder that says how many threads and processes there are, and how they live.

use std::sync::Arc;
use std::time::Duration;

use super::builder::Builder;
use crate::error::{Error, Result};
use crate::front::process::WorkerProgram;

impl Builder {
    /// Worker threads; together with the [jobs](Builder::jobs_per_process) of worker processes and seats for external workers 1 to 255.
    /// Unless said: one for each core the process may use, the CPU quota of its control group counted, or none where there are worker
    /// processes.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Workers in processes of their own; 0 unless stated, and then no worker threads unless stated as well.
    ///
    /// A crash, a leak or a kernel that never ends then takes down one worker and not the program: see
    /// [the chapter on worker processes](crate#worker-processes). The workers are copies of the running program, whose `main`
    /// must begin with [`worker_entry`](crate::worker_entry); every kernel that is used must be listed there and in
    /// [`Builder::kernels`]. Linux only: elsewhere `build` fails with [`Error::Unsupported`].
    pub fn processes(mut self, processes: usize) -> Self {
        self.processes = processes;
        self
    }

    /// Jobs that each worker process runs at a time, each on a thread of its own; 1 unless stated.
    ///
    /// Its threads share what a program has once: a model that a `static` [`LazyLock`](std::sync::LazyLock) loads takes memory once for
    /// each process and not once for each job; and jobs that mostly wait, for a disk or for another service, need no process each. They
    /// share the end as well. A crash takes all jobs of the process with it, and so does a kernel that is killed because it would not
    /// stop: each of them is started again if its [retries](crate::JobBuilder::retry) allow it, and otherwise fails with
    /// [`Error::WorkerDied`]. The limits of a [`WorkerProgram`] and of [recycling](Builder::recycle_after) are those of
    /// the process. [`Context::state`](crate::Context::state) stays each thread's own.
    ///
    /// Each counts as a worker, here and in [`Engine::workers`](crate::Engine::workers). For workers that are threads ask for more [threads](Builder::threads);
    /// without processes more than one is an error of `build`.
    ///
    /// # Examples
    /// ```no_run
    /// # use std::sync::LazyLock;
    /// # use workring::{Engine, kernel, kernels};
    /// // Takes memory twice below, and not eight times.
    /// static WEIGHTS: LazyLock<Vec<f32>> = LazyLock::new(|| vec![0.5; 1 << 28]);
    ///
    /// #[kernel]
    /// fn weigh(y: &mut [f32]) {
    ///     y.iter_mut().zip(&*WEIGHTS).for_each(|(y, weight)| *y *= weight);
    /// }
    ///
    /// fn main() -> workring::Result<()> {
    ///     workring::worker_entry(kernels![weigh]); // first in `main`
    ///     let engine = Engine::builder().processes(2).jobs_per_process(4).kernels(kernels![weigh]).build()?;
    ///     let first = engine.submit(weigh, engine.batch_from_slice(&[1.0, 2.0])?, ())?;
    ///     let second = engine.submit(weigh, engine.batch_from_slice(&[3.0])?, ())?; // beside it, perhaps in the same process
    ///     assert_eq!((&first.wait()?[..], &second.wait()?[..]), (&[0.5, 1.0][..], &[1.5][..]));
    ///     Ok(())
    /// }
    /// ```
    pub fn jobs_per_process(mut self, jobs: usize) -> Self {
        self.jobs_per_process = jobs;
        self
    }

    /// Seats for workers in processes that others start and that [`attach`](crate::process::attach) themselves, one worker each; none unless
    /// stated.
    ///
    /// They come and go as they like: by [`Builder::listen`] or [`Engine::invite`](crate::Engine::invite). What they run must be listed in
    /// [`Builder::kernels`]. An engine that has no other workers keeps its jobs until one attaches. Linux only: elsewhere `build`
    /// fails with [`Error::Unsupported`].
    pub fn external_workers(mut self, seats: usize) -> Self {
        self.external_workers = seats;
        self
    }

    /// The least number of worker threads: the engine begins with so many, starts one more, up to [`Builder::threads`], whenever a job
    /// is handed over and all are busy, and ends one that had nothing to do for the [idle timeout](Builder::idle_timeout). As many as
    /// there may be unless said.
    ///
    /// Starting one takes the submitter some 30 to 60 microseconds. Threads run on the cores that the building thread had, whichever
    /// thread has them started.
    pub fn min_threads(mut self, threads: usize) -> Self {
        self.own.least = Some(threads);
        self
    }

    /// As [`Builder::min_threads`], for worker processes, of which there are up to [`Builder::processes`]. Starting one takes some
    /// milliseconds, and no thread of the program waits for it.
    pub fn min_processes(mut self, processes: usize) -> Self {
        self.least_processes = Some(processes);
        self
    }

    /// How long a worker beyond the least number may have nothing to do before it ends; ten seconds unless said, and [`Duration::MAX`] for as
    /// long as the engine lives. An error of `build` where
    /// [`Builder::min_threads`] and [`Builder::min_processes`] leave none beyond it.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Replaces a worker when it has run so many jobs: a partition of a `map` or a `reduce` counts as one. For kernels that leak.
    ///
    /// A worker process ends, and another one takes its place a few milliseconds later. A thread is followed by another one, which takes
    /// some 50 microseconds, and ends with all that was its own: what kernels keep on it ([`Context::state`](crate::Context::state)) and
    /// what libraries keep in thread-local variables. Not for workers that others start: an error of `build` where there are no others.
    ///
    /// A process that runs [several jobs at a time](Builder::jobs_per_process) begins no more of them once it is to be replaced, and is
    /// followed by the next one when the last of those it has is over: a long one keeps the places beside it empty for so long, and must not
    /// wait for one that is queued behind it.
    pub fn recycle_after(mut self, jobs: u64) -> Self {
        self.recycle.jobs = jobs;
        self
    }

    /// Replaces a worker process that has more than so many bytes of memory of its own after a job; shared memory, batches among it,
    /// does not count. Looked at once a millisecond at most. Without effect on threads, and an error of
    /// `build` where there are no processes.
    pub fn recycle_above(mut self, bytes: u64) -> Self {
        self.recycle.bytes = bytes;
        self
    }

    /// Has each worker thread call `hook` with its number before its first job, which waits for the hook's return. A panic of the hook is written to standard
    /// error, and the worker begins all the same.
    ///
    /// What a worker process does first is what its `main` does before [`worker_entry`](crate::worker_entry). The hook is a closure of this
    /// process, which no other can call: an error of `build` where there are no worker threads.
    pub fn on_worker_start(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.hooks.start = Some(Arc::new(hook));
        self
    }

    /// Has each worker thread call `hook` with its number after its last job, when what kernels keep on it is dropped.
    /// [`Engine::close`](crate::Engine::close) waits for it. As [`Builder::on_worker_start`] an error of `build` where there are no threads;
    /// what a worker process keeps, its kernels' [states](crate::Context::state), is dropped at its end.
    pub fn on_worker_end(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.hooks.end = Some(Arc::new(hook));
        self
    }

    /// A path at which [external workers](Builder::external_workers) attach: a Unix socket that only this user and root can connect
    /// to.
    ///
    /// There must be no file, or the socket of a process that is gone. It is removed when the engine has closed; a killed engine
    /// leaves it to its successor.
    ///
    /// A process joins as itself alone: the system's word about the sender of its messages has to agree with the process that they name.
    /// Connections that say nothing end after ten seconds, or sooner to make room for others.
    pub fn listen(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.workers.listen_at = Some(path.into());
        self
    }

    /// What worker processes are started from, and with which environment and limits; this very program unless stated. An error of `build`
    /// where there are no [processes](Builder::processes).
    pub fn worker_program(mut self, program: WorkerProgram) -> Self {
        self.workers.program = Some(program);
        self
    }

    /// How long a kernel in a worker process may go on after its deadline or after it was cancelled, before the process is
    /// killed and replaced; 20 ms unless stated. An error of `build` where there are neither [processes](Builder::processes) nor
    /// [external workers](Builder::external_workers): threads cannot be killed.
    pub fn kill_after(mut self, grace: Duration) -> Self {
        self.workers.kill_after = Some(grace);
        self
    }

    /// Whether each worker shall stay on one core: worker `n` on the `n`th the process may use, starting again after the
    /// last. No unless said; worth it where nothing else runs on the machine, harmful where something does. Without effect
    /// on systems other than Linux, and an error of `build` where there are no worker threads.
    pub fn pin(mut self, wanted: bool) -> Self {
        self.own.pin = wanted;
        self
    }

    /// Nice value of the worker threads, up to 19, where more is nicer; the building thread's own unless stated, below which it cannot
    /// be. One that is started later for a nicer thread stays as nice as that where the system does not allow it to be less so.
    ///
    /// Threads that answer requests then get a core before the workers do: the system prefers them where both want one. A thread that
    /// helps while it waits keeps its own value. Worker processes have [`WorkerProgram::nice`](crate::process::WorkerProgram::nice). Linux only;
    /// without effect elsewhere. An error of `build` where there are no worker threads.
    pub fn thread_nice(mut self, nice: i32) -> Self {
        self.own.nice = Some(nice);
        self
    }

    /// Whether everything that was said means something to the workers there will be.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that names the option.
    pub(super) fn check_meaning(&self, threads: usize) -> Result<()> {
        let Self { processes, external_workers, .. } = *self;
        let is_less = |least: Option<usize>, most: usize| least.is_some_and(|least| least < most);
        let some_may_end = is_less(self.own.least, threads) || is_less(self.least_processes, processes);
        let no_threads = "the engine has no worker threads";
        let no_processes = "the engine has no worker processes";
        let said = [
            ("on_worker_start", self.hooks.start.is_some(), threads > 0, no_threads),
            ("on_worker_end", self.hooks.end.is_some(), threads > 0, no_threads),
            ("pin", self.own.pin, threads > 0, no_threads),
            ("thread_nice", self.own.nice.is_some(), threads > 0, no_threads),
            ("recycle_above", self.recycle.bytes > 0, processes > 0, no_processes),
            (
                "recycle_after",
                self.recycle.jobs > 0,
                threads + processes > 0,
                "others start all of the engine's workers",
            ),
            (
                "idle_timeout",
                self.idle_timeout.is_some(),
                some_may_end,
                "no worker is beyond the least number: say min_threads or min_processes",
            ),
            (
                "listen",
                self.workers.listen_at.is_some(),
                external_workers > 0,
                "there are no seats for who comes: say how many with Builder::external_workers",
            ),
            ("worker_program", self.workers.program.is_some(), processes > 0, no_processes),
            ("kill_after", self.workers.kill_after.is_some(), processes + external_workers > 0, no_processes),
        ];
        match said.into_iter().find(|(_, is_said, has_use, _)| *is_said && !has_use) {
            None => Ok(()),
            Some((option, _, _, why)) => Err(Error::invalid(format!("Builder::{option} means nothing here: {why}"))),
        }
    }
}
