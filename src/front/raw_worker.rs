//! Workers that run a function of their own and talk to whoever started them by messages.

use core::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytemuck::Pod;

use super::message_port::{DEFAULT_CAPACITY, Message, MessagePort};
use crate::arena::any_batch::AnyBatch;
use crate::engine::kernel::KernelOutcome;
use crate::engine::panics;
use crate::error::{Error, Failed, Result, WorkerExit};
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, Ordering};

/// How a [`Worker`] ended.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ExitStatus {
    /// Its function returned.
    Finished,
    /// Its function returned an error.
    Failed {
        /// What the error says.
        message: String,
    },
    /// Its function panicked.
    Panicked {
        /// The panic's message.
        message: String,
        /// `file:line:column` of the panic; empty when a panic hook set later hides it.
        location: String,
    },
    /// Its function returned after [`Worker::terminate`].
    Terminated,
    /// Its process died.
    Died {
        /// Process id it had.
        pid: u32,
        /// How it ended.
        exit: WorkerExit,
    },
}

impl ExitStatus {
    /// Whether its function returned without an error, by itself or because it was told to.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Finished | Self::Terminated)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Failed { message } => write!(f, "failed: {message}"),
            Self::Panicked { message, location } if location.is_empty() => write!(f, "panicked: {message}"),
            Self::Panicked { message, location } => write!(f, "panicked at {location}: {message}"),
            Self::Terminated => f.write_str("terminated"),
            Self::Died { pid, exit } => write!(f, "process {pid} died: {exit}"),
        }
    }
}

type Listener = Box<dyn FnOnce(&ExitStatus) + Send>;

/// What a worker and its handle share.
struct Life {
    /// 1 once it was told to end.
    terminate: AtomicU32,
    end: Mutex<End>,
    ended: Condvar,
}

#[derive(Default)]
struct End {
    status: Option<ExitStatus>,
    listeners: Vec<Listener>,
}

impl Life {
    fn new() -> Self {
        Self { terminate: AtomicU32::new(0), end: Mutex::default(), ended: Condvar::new() }
    }

    fn end(&self) -> MutexGuard<'_, End> {
        // No foreign code runs under the lock.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_terminated(&self) -> bool {
        // Acquire: pairs with the release in `terminate`; what its caller did before is visible.
        self.terminate.load(Ordering::Acquire) != 0
    }

    fn finish(&self, status: ExitStatus) {
        let mut end = self.end();
        let listeners = core::mem::take(&mut end.listeners);
        end.status = Some(status.clone());
        drop(end);
        self.ended.notify_all();
        for listener in listeners {
            tell(listener, &status);
        }
    }
}

fn tell(listener: Listener, status: &ExitStatus) {
    // Foreign code, whose panic would hide the worker's end from the others.
    let _ = panics::catch(|| listener(status));
}

/// How a [`Worker`] is started. Made by [`Worker::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is started until `spawn`"]
pub struct WorkerBuilder {
    name: String,
    capacity: usize,
    stack_size: Option<usize>,
}

impl WorkerBuilder {
    /// Name of its thread, for people and debuggers; `worker` unless said.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Messages that may wait in each direction; 256 unless said, rounded up to a power of two.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages;
        self
    }

    /// Bytes of its thread's stack; as the standard library chooses unless said.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Starts a worker that runs `body` on a thread of its own. It receives messages of type `S` and posts those of type `R`.
    ///
    /// What the worker shall start with, `workerData` elsewhere, is moved into the closure: batches too, without a copy.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name with a zero byte or a capacity out of range, [`Error::Io`] when the system starts no
    /// thread.
    pub fn spawn<S, R, O, F>(self, body: F) -> Result<Worker<S, R>>
    where
        S: Pod + Send,
        R: Pod + Send,
        O: KernelOutcome,
        F: FnOnce(&WorkerScope<S, R>) -> O + Send + 'static,
    {
        if self.name.contains('\0') {
            return Err(Error::invalid("the name of a worker must not contain a zero byte"));
        }
        let (here, there) = MessagePort::<S, R>::pair(self.capacity)?;
        let life = Arc::new(Life::new());
        let scope = WorkerScope { port: there, life: Arc::clone(&life), name: self.name.clone() };
        let mut thread = thread::Builder::new().name(self.name.clone());
        if let Some(bytes) = self.stack_size {
            thread = thread.stack_size(bytes);
        }
        let run = move || {
            let life = Arc::clone(&scope.life);
            let outcome = panics::catch_in_worker(|| body(&scope).into_outcome());
            let status = match outcome {
                Err(panicked) => ExitStatus::Panicked { message: panicked.message, location: panicked.location },
                Ok(_) if life.is_terminated() => ExitStatus::Terminated,
                Ok(Ok(())) => ExitStatus::Finished,
                Ok(Err(error)) => ExitStatus::Failed { message: error.message().unwrap_or_default().to_owned() },
            };
            // The port first: who hears of the end finds the worker's end of the channel gone.
            drop(scope);
            life.finish(status);
        };
        let handle = thread.spawn(run).map_err(|error| Error::io(format!("start the worker {}", self.name), error))?;
        Ok(Worker { port: here, life, name: self.name, thread: Some(handle) })
    }
}

/// A worker with a function of its own, on a thread of its own, and a [`MessagePort`] to it.
///
/// For work that is no job over batches: something with state, a conversation, a loop. For batches an [`Engine`](crate::Engine) is
/// simpler: it spreads them, queues them and retries them.
///
/// Dropping the handle lets the worker go on; its port hears that nobody is at the other end any more.
///
/// # Examples
/// ```
/// use workring::{ExitStatus, Worker};
///
/// # fn main() -> workring::Result<()> {
/// let offset = 100; // What it starts with is moved into the closure.
/// let worker = Worker::<u32, u32>::spawn(move |scope| {
///     while let Ok(message) = scope.recv() {
///         scope.post(message.value + offset)?;
///     }
///     Ok::<(), workring::Error>(())
/// })?;
/// worker.post(1)?;
/// assert_eq!(worker.recv()?.value, 101);
/// worker.terminate();
/// assert_eq!(worker.join(), ExitStatus::Terminated);
/// # Ok(())
/// # }
/// ```
pub struct Worker<S, R> {
    port: MessagePort<S, R>,
    life: Arc<Life>,
    name: String,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker<(), ()> {
    /// Name, capacity and the like, then [`WorkerBuilder::spawn`].
    pub fn builder() -> WorkerBuilder {
        WorkerBuilder { name: "worker".to_owned(), capacity: DEFAULT_CAPACITY, stack_size: None }
    }
}

impl<S: Pod + Send, R: Pod + Send> Worker<S, R> {
    /// Starts a worker as [`WorkerBuilder::spawn`] does, with nothing said.
    ///
    /// # Errors
    /// As there.
    pub fn spawn<O, F>(body: F) -> Result<Self>
    where
        O: KernelOutcome,
        F: FnOnce(&WorkerScope<S, R>) -> O + Send + 'static,
    {
        Worker::<(), ()>::builder().spawn(body)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This end of its channel: every way to post and to receive, and another handle of it for another thread by cloning.
    pub fn port(&self) -> &MessagePort<S, R> {
        &self.port
    }

    /// As [`MessagePort::post`]: posts a value to the worker. Blocks while the channel is full.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the worker has ended, with the message.
    pub fn post(&self, value: S) -> Result<(), Failed<Message<S>>> {
        self.port.post(value)
    }

    /// As [`MessagePort::post_with`].
    ///
    /// # Errors
    /// As [`Worker::post`].
    pub fn post_with(&self, value: S, batches: Vec<AnyBatch>) -> Result<(), Failed<Message<S>>> {
        self.port.post_with(value, batches)
    }

    /// As [`MessagePort::recv`]: receives the worker's next message. Blocks until there is one.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the worker has ended and all its messages were received.
    pub fn recv(&self) -> Result<Message<R>> {
        self.port.recv()
    }

    /// Posts a value to each of several workers, one after the other. Blocks while one has no room.
    ///
    /// Returns those that did not get it, by their place in the sequence, each with the error and the message.
    pub fn broadcast<'w>(workers: impl IntoIterator<Item = &'w Self>, value: S) -> Vec<(usize, Failed<Message<S>>)>
    where
        S: 'w,
        R: 'w,
    {
        let posted = workers.into_iter().map(|worker| worker.post(value)).enumerate();
        posted.filter_map(|(at, posted)| posted.err().map(|failed| (at, failed))).collect()
    }

    /// Tells the worker to end. Does not block; calling it again has no effect.
    ///
    /// Its next call at its port is [`Error::Terminated`], one that blocks there ends at once, and
    /// [`WorkerScope::is_terminated`] says so. A thread cannot be forced: a function that neither looks nor receives goes on. What was
    /// posted to it and not received comes back by [`MessagePort::undelivered`] once it has ended.
    pub fn terminate(&self) {
        // Release: pairs with the acquire in `is_terminated`. Whoever sleeps at the port is called after it and looks again.
        self.life.terminate.store(1, Ordering::Release);
        self.port.channel().outgoing(0).call_everybody();
        self.port.channel().incoming(0).call_everybody();
    }

    /// How it ended, if it has. Does not block.
    pub fn status(&self) -> Option<ExitStatus> {
        self.life.end().status.clone()
    }

    /// Waits for its end, at most for `limit`. `None` when it goes on.
    pub fn wait_timeout(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Deadline::after(limit);
        let mut end = self.life.end();
        loop {
            if let Some(status) = &end.status {
                return Some(status.clone());
            }
            let left = deadline.remaining()?;
            end = self.life.ended.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Calls `listener` when the worker has ended, on its thread, or at once if it has. Several are called in the order given.
    pub fn on_exit(&self, listener: impl FnOnce(&ExitStatus) + Send + 'static) {
        let mut end = self.life.end();
        match end.status.clone() {
            None => end.listeners.push(Box::new(listener)),
            Some(status) => {
                drop(end);
                tell(Box::new(listener), &status);
            }
        }
    }

    /// As [`Worker::on_exit`], only for an end that is no success: an error, a panic, a death.
    pub fn on_error(&self, listener: impl FnOnce(&ExitStatus) + Send + 'static) {
        self.on_exit(move |status| {
            if !status.is_success() {
                listener(status);
            }
        });
    }

    /// Waits for its end. Blocks as long as the worker goes on: it hears that nobody will post any more when its port is gone, so a
    /// worker whose loop ends with [`Error::Disconnected`] ends by itself.
    pub fn join(self) -> ExitStatus {
        let Self { port, life, mut thread, .. } = self;
        drop(port);
        if let Some(thread) = thread.take() {
            // Its panics are caught, so this cannot fail but for a panic of the runtime itself, which leaves no status.
            let _ = thread.join();
        }
        let status = life.end().status.take();
        status.unwrap_or_else(|| ExitStatus::Failed { message: "its thread ended without a word".to_owned() })
    }
}

impl<S, R> fmt::Debug for Worker<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).field("port", &self.port).finish_non_exhaustive()
    }
}

/// What a [`Worker`] has of its own: its end of the channel, and whether it was told to end.
pub struct WorkerScope<S, R> {
    port: MessagePort<R, S>,
    life: Arc<Life>,
    name: String,
}

impl<S: Pod + Send, R: Pod + Send> WorkerScope<S, R> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was told to end. Cheap enough for an inner loop.
    pub fn is_terminated(&self) -> bool {
        self.life.is_terminated()
    }

    /// The worker's end of the channel. Its calls do not know of [`Worker::terminate`], those of the scope do.
    pub fn port(&self) -> &MessagePort<R, S> {
        &self.port
    }

    /// Receives the next message. Blocks until there is one.
    ///
    /// # Errors
    /// [`Error::Terminated`] when the worker was told to end, whatever waits; [`Error::Disconnected`] when the handle is gone and
    /// everything it had posted was received.
    pub fn recv(&self) -> Result<Message<S>> {
        self.port.recv_unless(|| self.is_terminated())
    }

    /// Posts a value to whoever holds the handle. Blocks while the channel is full.
    ///
    /// # Errors
    /// With the message: [`Error::Terminated`], [`Error::Disconnected`].
    pub fn post(&self, value: R) -> Result<(), Failed<Message<R>>> {
        self.post_with(value, Vec::new())
    }

    /// As [`WorkerScope::post`], with batches.
    ///
    /// # Errors
    /// As there.
    pub fn post_with(&self, value: R, batches: Vec<AnyBatch>) -> Result<(), Failed<Message<R>>> {
        self.port.post_unless(value, batches, || self.is_terminated())
    }
}

impl<S, R> fmt::Debug for WorkerScope<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerScope").field("name", &self.name).field("port", &self.port).finish_non_exhaustive()
    }
}
