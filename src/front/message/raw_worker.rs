//! Workers that run a function of their own and talk to the holder of their handle by messages.

use core::fmt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytemuck::Pod;

use super::exit_status::{ExitStatus, Life};
use super::message_port::{DEFAULT_CAPACITY, Message, MessagePort};
use crate::arena::any_batch::AnyBatch;
use crate::engine::kernel::KernelOutcome;
use crate::engine::runtime::Core;
use crate::error::{Error, Failed, Result};
use crate::front::engine::Engine;
use crate::front::process::WorkerProgram;
use crate::os::host::Deadline;
use crate::panics;
#[cfg(target_os = "linux")]
use crate::process_host::HostedProcess;
use crate::sync::lock;

/// How a [`Worker`] is started. Made by [`Worker::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is started until `spawn`"]
pub struct WorkerBuilder {
    pub(super) name: String,
    pub(super) capacity: usize,
    pub(super) stack_size: Option<usize>,
    /// The engine whose batches a process shall see.
    pub(super) memory: Option<Arc<Core>>,
    pub(super) program: Option<WorkerProgram>,
    pub(super) kill_after: Option<Duration>,
}

impl WorkerBuilder {
    /// Name of its thread, or of the worker that is a process, for people and debuggers; `worker` unless said.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Messages that may wait in each direction; 256 unless said, rounded up to a power of two.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages;
        self
    }

    /// The engine whose batches can be posted to a worker that is a process, and back; none unless said. Its arena must be memory that
    /// other processes can map: that of an engine with worker processes is, and that of any engine built with
    /// [`Backing::SharedMemory`](crate::batch::Backing::SharedMemory). Threads see every engine's batches without it.
    ///
    /// The worker is none of the engine's workers: it has a process of its own, runs none of the engine's jobs, and does not end with it.
    pub fn memory(mut self, engine: &Engine) -> Self {
        self.memory = Some(Arc::clone(engine.core()));
        self
    }

    /// What a worker that is a process is started from, and with which environment and limits; this very program unless said.
    pub fn program(mut self, program: WorkerProgram) -> Self {
        self.program = Some(program);
        self
    }

    /// How long a worker that is a process may go on after [`Worker::terminate`] before it is killed; 20 ms unless said.
    pub fn kill_after(mut self, grace: Duration) -> Self {
        self.kill_after = Some(grace);
        self
    }

    /// Bytes of the stack of a worker that is a thread; as the standard library chooses unless said.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Starts a worker that runs `body` on a thread of its own. It receives messages of type `S` and posts those of type `R`.
    ///
    /// What the worker shall start with, `workerData` elsewhere, is moved into the closure: batches too, without a copy.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name with a zero byte, a capacity out of range, or what means something to processes only
    /// (`program`, `kill_after`); [`Error::Io`] when the system starts no thread.
    pub fn spawn<S, R, O, F>(self, body: F) -> Result<Worker<S, R>>
    where
        S: Pod + Send,
        R: Pod + Send,
        O: KernelOutcome,
        F: FnOnce(&WorkerScope<S, R>) -> O + Send + 'static,
    {
        self.check_name()?;
        for (option, is_said) in [("program", self.program.is_some()), ("kill_after", self.kill_after.is_some())] {
            if is_said {
                return Err(Error::invalid(format!(
                    "{option} means nothing to spawn: a thread is neither started from a program nor killed"
                )));
            }
        }
        let (here, there) = MessagePort::<S, R>::pair(self.capacity)?;
        let life = Arc::new(Life::new());
        let scope = WorkerScope { port: there, name: self.name.clone(), data: (), batches: Mutex::default() };
        let mut thread = thread::Builder::new().name(self.name.clone());
        if let Some(bytes) = self.stack_size {
            thread = thread.stack_size(bytes);
        }
        let its_life = Arc::clone(&life);
        let run = move || {
            let outcome = panics::catch_in_worker(|| body(&scope).into_outcome());
            let status = match outcome {
                Err(panicked) => ExitStatus::Panicked { message: panicked.message, location: panicked.location },
                Ok(_) if scope.is_terminated() => ExitStatus::Terminated,
                Ok(Ok(())) => ExitStatus::Finished,
                Ok(Err(error)) => ExitStatus::Failed { message: error.message().unwrap_or_default().to_owned() },
            };
            // The port first: a thread that hears of the end finds the worker's end of the channel gone.
            drop(scope);
            if let Some(tell) = its_life.finish(status) {
                tell();
            }
        };
        let handle = thread.spawn(run).map_err(|error| Error::io(format!("start the worker {}", self.name), error))?;
        Ok(Worker {
            port: here,
            life,
            name: self.name,
            thread: Some(handle),
            #[cfg(target_os = "linux")]
            process: None,
        })
    }

    pub(super) fn check_name(&self) -> Result<()> {
        match self.name.contains('\0') {
            true => Err(Error::invalid("the name of a worker must not contain a zero byte")),
            false => Ok(()),
        }
    }
}

/// A worker with a function of its own, on a thread of its own or in a process of its own, and a [`MessagePort`] to it.
///
/// [`Worker::spawn`] starts a thread, [`WorkerBuilder::spawn_process`] a process, which may crash, or be killed, alone. The handle is the
/// same.
///
/// For work that is no job over batches: something with state, a conversation, a loop. For batches an [`Engine`] is
/// simpler: it spreads them, queues them and retries them.
///
/// Dropping the handle lets the worker go on; its port hears that nobody is at the other end any more.
///
/// # Examples
/// ```
/// use workring::{Worker, message::ExitStatus};
///
/// # fn main() -> workring::Result<()> {
/// let offset = 100; // What it starts with is moved into the closure.
/// let worker = Worker::<u32, u32>::spawn(move |scope| {
///     while let Ok(message) = scope.recv() {
///         scope.send(message.value + offset)?;
///     }
///     Ok::<(), workring::Error>(())
/// })?;
/// worker.send(1)?;
/// assert_eq!(worker.recv()?.value, 101);
/// worker.terminate();
/// assert_eq!(worker.join(), ExitStatus::Terminated);
/// # Ok(())
/// # }
/// ```
pub struct Worker<S, R> {
    pub(super) port: MessagePort<S, R>,
    pub(super) life: Arc<Life>,
    pub(super) name: String,
    /// Its own one, if it is a thread.
    pub(super) thread: Option<thread::JoinHandle<()>>,
    #[cfg(target_os = "linux")]
    pub(super) process: Option<HostedProcess>,
}

impl Worker<(), ()> {
    /// Name, capacity and the like, then [`WorkerBuilder::spawn`].
    pub fn builder() -> WorkerBuilder {
        WorkerBuilder {
            name: "worker".to_owned(),
            capacity: DEFAULT_CAPACITY,
            stack_size: None,
            memory: None,
            program: None,
            kill_after: None,
        }
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

    /// As [`MessagePort::send`]: posts a value to the worker. Blocks while the channel is full.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the worker has ended, with the message.
    pub fn send(&self, value: S) -> Result<(), Failed<Message<S>>> {
        self.port.send(value)
    }

    /// As [`MessagePort::send_with`].
    ///
    /// # Errors
    /// As [`Worker::send`].
    pub fn send_with(&self, value: S, batches: Vec<AnyBatch>) -> Result<(), Failed<Message<S>>> {
        self.port.send_with(value, batches)
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
        let posted = workers.into_iter().map(|worker| worker.send(value)).enumerate();
        posted.filter_map(|(at, posted)| posted.err().map(|failed| (at, failed))).collect()
    }

    /// Tells the worker to end. Does not block; calling it again has no effect.
    ///
    /// Its next call at its port is [`Error::Terminated`], one that blocks there ends at once, and
    /// [`WorkerScope::is_terminated`] says so. A thread cannot be forced: a function that neither looks nor receives goes on. A process
    /// is killed if it still runs after [`WorkerBuilder::kill_after`]. What was posted to it and not received comes back by
    /// [`MessagePort::undelivered`] once it has ended.
    pub fn terminate(&self) {
        if self.port.channel().check_process().is_err() {
            return;
        }
        self.port.channel().terminate();
        #[cfg(target_os = "linux")]
        if let Some(process) = &self.process {
            process.end();
        }
    }

    /// The process it runs in, if that is one of its own. It may be gone by now.
    pub fn process_id(&self) -> Option<u32> {
        #[cfg(target_os = "linux")]
        return self.process.as_ref().map(HostedProcess::pid);
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Takes the batches that a worker in a process of its own had when it ended: those that it had received and neither dropped nor posted
    /// back, and those that it was [started with](WorkerBuilder::spawn_process_with) and had not come to. They hold what was written until
    /// then. None while it goes on, and none of a thread, which drops them itself. Does not block.
    ///
    /// The values of the messages they came with are gone with the process. Messages that it had not received are another matter: see
    /// [`MessagePort::undelivered`]. Each batch comes back once, by one of the two or with a message. If the worker had damaged the channel,
    /// batches of messages that cannot be received come back here too, once a receive or a post has met the damage: ask again after that.
    pub fn reclaimed(&self) -> Vec<AnyBatch> {
        #[cfg(target_os = "linux")]
        return self.port.channel().process().map(|process| process.reclaim()).unwrap_or_default();
        #[cfg(not(target_os = "linux"))]
        Vec::new()
    }

    /// How it ended, if it has. Does not block.
    pub fn status(&self) -> Option<ExitStatus> {
        self.life.status()
    }

    /// Waits for its end, at most for `limit`. `None` when it goes on.
    pub fn wait_timeout(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Deadline::after(limit);
        self.life.wait_until(deadline)
    }

    /// Calls `listener` when the worker has ended, on its thread, or for a process on one that is started for it, or at once if it has. Several are
    /// called in the order given.
    pub fn on_exit(&self, listener: impl FnOnce(&ExitStatus) + Send + 'static) {
        self.life.listen(Box::new(listener));
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
        if port.channel().check_process().is_err() {
            // The thread is the parent's.
            return ExitStatus::Failed { message: Error::Forked.to_string() };
        }
        drop(port);
        if let Some(thread) = thread.take() {
            // Its panics are caught, so this cannot fail but for a panic of the runtime itself, which leaves no status.
            let failed = thread.join().is_err();
            if failed && life.status().is_none() {
                return ExitStatus::Failed { message: "its thread ended without a word".to_owned() };
            }
        }
        life.wait_until_told()
    }
}

impl<S, R> fmt::Debug for Worker<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).field("port", &self.port).finish_non_exhaustive()
    }
}

/// What a [`Worker`] has of its own: its end of the channel, whether it was told to end, and the data it was started with.
///
/// A thread's closure has taken its data along, and has none here; a [`#[worker_main]`](macro@crate::worker_main) has a value of type `D`.
pub struct WorkerScope<S, R, D = ()> {
    pub(super) port: MessagePort<R, S>,
    pub(super) name: String,
    pub(super) data: D,
    /// Batches that it was started with and has not taken.
    pub(super) batches: Mutex<Vec<AnyBatch>>,
}

impl<S: Pod + Send, R: Pod + Send, D> WorkerScope<S, R, D> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was told to end. Cheap enough for an inner loop.
    pub fn is_terminated(&self) -> bool {
        self.port.channel().is_terminated()
    }

    /// What it was started with.
    pub fn data(&self) -> &D {
        &self.data
    }

    /// Takes the batches that it was started with ([`WorkerBuilder::spawn_process_with`]): all of them the first time, none after that, and
    /// none on a thread, whose closure has taken what it needs along.
    pub fn take_batches(&self) -> Vec<AnyBatch> {
        core::mem::take(&mut lock(&self.batches))
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

    /// Posts a value to the holder of the handle. Blocks while the channel is full.
    ///
    /// # Errors
    /// With the message: [`Error::Terminated`], [`Error::Disconnected`].
    pub fn send(&self, value: R) -> Result<(), Failed<Message<R>>> {
        self.send_with(value, Vec::new())
    }

    /// As [`WorkerScope::send`], with batches.
    ///
    /// # Errors
    /// As there.
    pub fn send_with(&self, value: R, batches: Vec<AnyBatch>) -> Result<(), Failed<Message<R>>> {
        self.port.post_unless(value, batches, || self.is_terminated())
    }
}

impl<S, R, D> fmt::Debug for WorkerScope<S, R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerScope").field("name", &self.name).field("port", &self.port).finish_non_exhaustive()
    }
}
