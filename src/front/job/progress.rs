//! How far running jobs are: as a number, a stream, a call.

use core::pin::Pin;
use core::task::{Context as TaskContext, Poll};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use futures_core::Stream;

use super::job::{CancelHandle, Job, Payload};
use crate::engine::handle::JobObserver;
use crate::engine::job::Meter;
use crate::engine::observe::Progress;
use crate::engine::runtime::WatchTicket;
use crate::panics;
use crate::sync::lock;

/// How far calls are that block their thread, for other threads to read: from [`JobBuilder::meter`](crate::JobBuilder::meter). Clones share what they
/// count.
///
/// Counts the elements of finished chunks. One meter may be used for several calls, one after the other or at the same time, and sums them
/// up; what was done of a call that failed stays counted. The number goes back only when worker processes have died in a way that has chunks
/// done again.
///
/// # Examples
/// ```
/// use workring::{Engine, kernels, job::ProgressMeter};
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(2).build()?;
/// let x = engine.batch_from_fn(1_000_000, |index| index as f64)?;
/// let meter = ProgressMeter::new();
/// std::thread::scope(|scope| {
///     let sum = scope.spawn(|| engine.job().meter(&meter).reduce(kernels::f64::sum, &x, &()));
///     while !sum.is_finished() {
///         eprint!("\r{}", meter.get()); // 37 %
///         std::thread::sleep(std::time::Duration::from_millis(10));
///     }
/// });
/// assert_eq!(meter.get().done, 1_000_000);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ProgressMeter {
    meter: Arc<Meter>,
}

impl ProgressMeter {
    /// One that has counted nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Elements that are done, of those of all calls that were begun with it. Does not block, but for a lock that is held for moments.
    pub fn get(&self) -> Progress {
        self.meter.read().into()
    }

    pub(in crate::front) fn inner(&self) -> &Meter {
        &self.meter
    }
}

/// Tells from anywhere how far one job is. Cheap to clone; outlives the job harmlessly. From [`Job::progress_handle`].
#[derive(Clone, Debug)]
pub struct ProgressHandle {
    job: CancelHandle,
}

impl<P: Payload> Job<P> {
    /// How far the job last said it is; `None` while it has said nothing. Of a job of rows ([`Engine::submit_many`](crate::Engine::submit_many))
    /// it is how many rows are done, which nobody has to say. Does not block.
    pub fn progress(&self) -> Option<Progress> {
        self.progress_handle().get()
    }

    /// A handle that tells how far the job is, for another thread or task.
    pub fn progress_handle(&self) -> ProgressHandle {
        ProgressHandle { job: self.cancel_handle() }
    }
}

impl ProgressHandle {
    /// How far the job last said it is. `None` while it has said nothing, and some time after its result was read. Does not block.
    pub fn get(&self) -> Option<Progress> {
        self.job.job()?.progress()
    }

    /// Whether the job is over. Does not block.
    pub fn is_over(&self) -> bool {
        self.job.is_over()
    }

    /// The job's progress, each time it has changed since it was last looked at, until the job is over. Reports that follow each other
    /// faster than the task is run come as one, the latest.
    ///
    /// # Examples
    /// ```
    /// # use futures_executor::{block_on, block_on_stream};
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(1).build()?;
    /// let job = engine.run_with(|job| {
    ///     for step in 1..=10 {
    ///         job.progress(step, 10);
    ///     }
    /// })?;
    /// let last = block_on_stream(job.progress_handle().changes()).last();
    /// assert_eq!(last.unwrap().fraction(), Some(1.0));
    /// job.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn changes(&self) -> ProgressChanges {
        ProgressChanges { handle: self.clone(), last: None, is_over: false, ticket: None }
    }

    /// Calls `listener` when the progress has changed, until the job is over: on the thread that runs the job, on one of those that run
    /// rows of it, or with worker processes on the engine's supervisor. It must not block: other threads that would call it wait, and so
    /// do deadlines. Reports that come while it runs are told of as one, the latest.
    pub fn on_change(&self, listener: impl FnMut(Progress) + Send + 'static) {
        let told = Told { changes: self.changes(), listener: Box::new(listener) };
        Arc::new(Listener { told: Mutex::new(Some(told)) }).tell();
    }
}

/// See [`ProgressHandle::changes`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct ProgressChanges {
    handle: ProgressHandle,
    last: Option<Progress>,
    is_over: bool,
    /// Where the task's waker is kept, while it may be woken.
    ticket: Option<WatchTicket>,
}

impl ProgressChanges {
    /// Gives up the place among the watchers of the job.
    fn leave(&mut self) {
        if let Some(job) = self.handle.job.job() {
            job.unwatch(&mut self.ticket);
        }
    }

    fn changed(&mut self, now: Option<Progress>) -> Option<Progress> {
        let changed = now.filter(|_| now != self.last);
        self.last = changed.or(self.last);
        changed
    }
}

impl Drop for ProgressChanges {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Stream for ProgressChanges {
    type Item = Progress;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Progress>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let Self { handle, ticket, .. } = &mut *self;
        let job = handle.job.job();
        let mut now = job.and_then(|job| job.watch(ticket, context.waker()));
        let is_over = !job.is_some_and(JobObserver::call_watchers_at_end);
        if is_over {
            self.leave();
            // Once more: its last word may have come after the first look.
            now = self.handle.get().or(now);
        }
        self.is_over = is_over;
        match self.changed(now) {
            Some(progress) => Poll::Ready(Some(progress)),
            None if is_over => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

struct Told {
    changes: ProgressChanges,
    listener: Box<dyn FnMut(Progress) + Send>,
}

/// A listener as a task that runs wherever it is woken.
struct Listener {
    /// `None` when the job is over.
    told: Mutex<Option<Told>>,
}

impl Listener {
    fn tell(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let mut context = TaskContext::from_waker(&waker);
        // A listener whose call panicked is called no more.
        let mut told = lock(&self.told);
        while let Some(Told { changes, listener }) = &mut *told {
            match Pin::new(changes).poll_next(&mut context) {
                Poll::Ready(Some(progress)) if panics::catch(|| listener(progress)).is_ok() => {}
                Poll::Ready(_) => *told = None,
                Poll::Pending => return,
            }
        }
    }
}

impl Wake for Listener {
    fn wake(self: Arc<Self>) {
        self.tell();
    }
}
