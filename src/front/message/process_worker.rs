//! Workers that are processes: how one is started and ends, and what it does (`spawn_process.rs` is what a user sees).
//!
//! Such a worker is a process that runs no jobs (`process_host`), with one end of a channel. It is told which of its functions it is to
//! run, with which data; how its function ends it says itself, and how its process ends the system.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use bytemuck::{Pod, Zeroable};

use super::exit_status::{ExitStatus, Life};
use super::message_port::MessagePort;
use super::raw_worker::{Worker, WorkerBuilder, WorkerScope};
use super::worker_main::{WorkerMain, WorkerOf};
use crate::arena::Arena;
use crate::arena::any_batch::AnyBatch;
use crate::arena::shared::SharedSegment;
use crate::channel::Channel;
use crate::engine::kernel::KernelName;
use crate::engine::kernel::{KernelError, KernelOutcome};
use crate::engine::kernel::{KernelInfo, MainFunction, check_identities};
use crate::error::{Error, Failed, Result};
use crate::front::process::{KILL_AFTER, check_no_worker};
use crate::os::attach::{copy_of, memory_of};
use crate::os::channel::Sent;
use crate::os::map::Mapping;
use crate::os::process;
use crate::panics;
use crate::process_host::{self, Connection, FromWorker, MainOutcome, Order, ProcessEnd, Start, WorkerStart};

/// What a worker does in its process: see [`spawn_process::serve`](super::spawn_process::serve).
pub(super) fn serve<M, O, F>(start: WorkerStart, body: F) -> Result<(), KernelError>
where
    M: WorkerMain,
    O: KernelOutcome,
    F: FnOnce(&WorkerScope<M::Receives, M::Posts, M::Data>) -> O,
{
    let WorkerStart { name, data, begins_with_batches, segment, arena } = start;
    let data = bytemuck::try_pod_read_unaligned(&data)
        .map_err(|_| KernelError::new("its program has another type for the data that it was started with"))?;
    let lens = MessagePort::<M::Receives, M::Posts>::VALUE_LENS;
    let channel = Channel::from_process(arena.as_ref(), segment, lens).map_err(KernelError::new)?;
    let port = MessagePort::<M::Posts, M::Receives>::of_process(channel, 1);
    let first = if begins_with_batches { port.try_recv().map_err(KernelError::new)? } else { None };
    let batches = first.map(|message| message.batches).unwrap_or_default();
    let scope = WorkerScope { port, name, data, batches: Mutex::new(batches) };
    body(&scope).into_outcome()
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct WhatHead {
    main_len: u64,
    name_len: u64,
    data_len: u64,
    begins_with_batches: u64,
}

/// What a worker is to run: the name of its main function, its own name, its data.
#[derive(Clone, PartialEq, Eq, Debug)]
struct What {
    main: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    begins_with_batches: bool,
}

impl What {
    fn to_bytes(&self) -> Vec<u8> {
        let head = WhatHead {
            main_len: self.main.len() as u64,
            name_len: self.name.len() as u64,
            data_len: self.data.len() as u64,
            begins_with_batches: u64::from(self.begins_with_batches),
        };
        [bytemuck::bytes_of(&head), &self.main, &self.name, &self.data].concat()
    }

    /// Reads the bytes back.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] when they are none.
    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = || Error::worker_start("what the worker is to run was not told");
        let (head, rest) = bytes.split_at_checked(size_of::<WhatHead>()).ok_or_else(wrong)?;
        let head: WhatHead = bytemuck::pod_read_unaligned(head);
        let take = |rest: &mut &[u8], len: u64| -> Result<Vec<u8>> {
            let len = usize::try_from(len).map_err(|_| wrong())?;
            let (taken, left) = rest.split_at_checked(len).ok_or_else(wrong)?;
            *rest = left;
            Ok(taken.to_vec())
        };
        let mut rest = rest;
        let (main, name, data) =
            (take(&mut rest, head.main_len)?, take(&mut rest, head.name_len)?, take(&mut rest, head.data_len)?);
        if !rest.is_empty() || head.begins_with_batches > 1 {
            return Err(wrong());
        }
        Ok(Self { main, name, data, begins_with_batches: head.begins_with_batches == 1 })
    }
}

/// Runs this process, whose first message was the start of a worker, as that.
pub(crate) fn run_main(connection: &Connection, first: &[u8], fds: Vec<OwnedFd>, known: &[&'static KernelInfo]) -> ! {
    let (main, start) = match prepare(connection, first, fds, known) {
        Ok(prepared) => prepared,
        Err(error) => process_host::refuse(connection, error),
    };
    // The process that started it may kill it whenever it sees fit.
    match connection.send(&FromWorker::Ready { killable: true }) {
        Ok(Sent::Sent) => {}
        Ok(Sent::WouldBlock | Sent::PeerGone) | Err(_) => process::end_family_at_once(),
    }
    let ended = match panics::catch_in_worker(|| main(start)) {
        Err(panicked) => MainOutcome::Panicked { message: panicked.message, location: panicked.location },
        Ok(Ok(())) => MainOutcome::Finished,
        Ok(Err(error)) => MainOutcome::Failed { message: error.message().unwrap_or_default().to_owned() },
    };
    connection.send_last(&FromWorker::Ended(ended));
    std::process::exit(0)
}

/// Finds the function that this process is to run, and maps what it needs.
fn prepare(
    connection: &Connection,
    first: &[u8],
    fds: Vec<OwnedFd>,
    known: &[&'static KernelInfo],
) -> Result<(MainFunction, WorkerStart)> {
    check_identities(known)?;
    let start = Start::from_bytes(first)?;
    let mut fds = fds.into_iter();
    let (Some(what), Some(segment)) = (fds.next(), fds.next()) else {
        return Err(Error::worker_start("the first message must come with two descriptors"));
    };
    let len = |len: u64| usize::try_from(len).map_err(|_| Error::worker_start("what was sent is too long"));
    let What { main, name, data, begins_with_batches } =
        What::from_bytes(&copy_of(&what, start.order_len, isize::MAX as u64)?)?;
    let names = KernelName::read_table(&main)?;
    let [name_of_main] = &names[..] else { return Err(Error::worker_start("a worker runs one function")) };
    let info = name_of_main.find(known)?;
    let main = info.main().ok_or_else(|| Error::worker_start(format!("{} is no #[worker_main]", info.path())))?;
    let segment = Arc::new(SharedSegment::attach(Mapping::attach(segment, len(start.segment_len)?, true)?)?);
    let arena = match (start.arena_len, fds.next()) {
        (0, None) => None,
        (arena_len, Some(arena)) if arena_len > 0 => Some(connection.map_arena(arena, len(arena_len)?, false)?),
        _ => return Err(Error::worker_start("the first message contradicts itself")),
    };
    // After the mappings, which a limit on memory must not keep out.
    process::apply(&start.limits)?;
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok((main, WorkerStart { name, data, begins_with_batches, segment, arena }))
}

/// This end of the channel of a worker that is not started yet, and the arena whose batches go through it.
struct Endpoints<S, R> {
    port: MessagePort<S, R>,
    arena: Option<Arc<Arena>>,
}

/// See [`WorkerBuilder::spawn_process_with`].
pub(super) fn start<M: WorkerMain>(
    builder: WorkerBuilder,
    main: M,
    data: M::Data,
    mut batches: Vec<AnyBatch>,
) -> Result<WorkerOf<M>, Failed<Vec<AnyBatch>>> {
    let begins_with_batches = !batches.is_empty();
    let endpoints = builder.endpoints::<M>().and_then(|endpoints| {
        if begins_with_batches && let Some(process) = endpoints.port.channel().process() {
            process.post_start(&mut batches)?;
        }
        Ok(endpoints)
    });
    let endpoints = match endpoints {
        Ok(endpoints) => endpoints,
        Err(error) => return Err(Failed::new(error, batches)),
    };
    let channel = Arc::clone(endpoints.port.channel());
    let what = |main: Vec<u8>, name: &str| What {
        main,
        name: name.as_bytes().to_vec(),
        data: bytemuck::bytes_of(&data).to_vec(),
        begins_with_batches,
    };
    start_over::<M>(builder, main.info(), what, endpoints).map_err(|error| {
        // No process has the channel.
        let returned = channel.process().map(|process| {
            process.set_process_gone();
            process.reclaim()
        });
        Failed::new(error, returned.unwrap_or_default())
    })
}

/// Starts the process, as the last of what can fail.
fn start_over<M: WorkerMain>(
    builder: WorkerBuilder,
    main: &'static KernelInfo,
    what: impl FnOnce(Vec<u8>, &str) -> What,
    endpoints: Endpoints<M::Receives, M::Posts>,
) -> Result<WorkerOf<M>> {
    let Endpoints { port, arena } = endpoints;
    check_no_worker("started one itself")?;
    let Some(process) = port.channel().process() else { return Err(Error::invalid("a channel between processes")) };
    let what = what(KernelName::table(&[KernelName::of(main)?]), &builder.name);
    let life = Arc::new(Life::new());
    let on_end = {
        let (channel, life) = (Arc::clone(port.channel()), Arc::clone(&life));
        move |end: ProcessEnd| {
            // Before anybody hears of it: what the worker had is nobody else's then.
            if let Some(process) = channel.process() {
                process.set_process_gone();
            }
            let status = status_of(end, &channel);
            // Batches that lie in it are free by then, unless somebody still has the port.
            drop(channel);
            life.finish(status)
        }
    };
    let hosted = process_host::start(Order {
        program: builder.program.unwrap_or_default().into_program(),
        kill_after: builder.kill_after.unwrap_or(KILL_AFTER),
        what: Some(memory_of("workring-start", &what.to_bytes())?),
        segment: Arc::clone(process.segment()),
        arena,
        on_end: Box::new(on_end),
    })?;
    let peer = hosted.clone();
    process.set_end_peer(Box::new(move || peer.end()));
    Ok(Worker { port, life, name: builder.name, thread: None, process: Some(hosted) })
}

impl WorkerBuilder {
    /// The channel of a worker, which nobody has the other end of yet.
    fn endpoints<M: WorkerMain>(&self) -> Result<Endpoints<M::Receives, M::Posts>> {
        self.check_name()?;
        if self.stack_size.is_some() {
            return Err(Error::invalid(
                "stack_size means nothing to spawn_process: a process has the stack that the system gives it",
            ));
        }
        let arena = self.arena()?;
        let lens = MessagePort::<M::Receives, M::Posts>::VALUE_LENS;
        let channel = Channel::to_process(arena.as_ref(), self.capacity, lens)?;
        Ok(Endpoints { arena, port: MessagePort::of_process(channel, 0) })
    }

    /// The arena whose batches the worker shall see.
    fn arena(&self) -> Result<Option<Arc<Arena>>> {
        let Some(core) = &self.memory else { return Ok(None) };
        core.check_process()?;
        if core.arena.mapping().fd().is_none() {
            return Err(Error::invalid(
                "the engine's memory is its process's own: build it with processes, or with Backing::SharedMemory",
            ));
        }
        Ok(Some(Arc::clone(&core.arena)))
    }
}

/// How a worker ended whose process is gone.
fn status_of(end: ProcessEnd, channel: &Channel) -> ExitStatus {
    let terminated = channel.is_terminated();
    let damage = channel.process().and_then(|process| process.damage());
    match end.outcome {
        Some(MainOutcome::Panicked { message, location }) => ExitStatus::Panicked { message, location },
        Some(_) if terminated => ExitStatus::Terminated,
        Some(MainOutcome::Finished) => ExitStatus::Finished,
        Some(MainOutcome::Failed { message }) => ExitStatus::Failed { message },
        None if terminated => ExitStatus::Terminated,
        None => match damage.filter(|_| end.asked_to_end) {
            // What was found in the channel is why the process was ended.
            Some(damage) => ExitStatus::Failed { message: damage.with_causes() },
            None => ExitStatus::Died { pid: end.pid, exit: end.exit },
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn what() -> What {
        What { main: b"main".to_vec(), name: b"name".to_vec(), data: vec![7; 20], begins_with_batches: true }
    }

    proptest! {
        #[test]
        fn what_is_to_be_run_arrives_as_it_was_sent(main: Vec<u8>, name: Vec<u8>, data: Vec<u8>, begins_with_batches: bool) {
            let what = What { main, name, data, begins_with_batches };
            prop_assert_eq!(What::from_bytes(&what.to_bytes()).unwrap(), what);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100), at in 0usize..100, change: u8) {
            let _ = What::from_bytes(&bytes);
            let mut broken = what().to_bytes();
            let len = broken.len();
            broken[at % len] ^= change;
            let _ = What::from_bytes(&broken);
            broken.truncate(at);
            let is_refused = at >= len || What::from_bytes(&broken).is_err();
            prop_assert!(is_refused);
        }
    }
}
