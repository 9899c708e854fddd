//! Workers that are processes: messages and batches there and back, and every way to end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use workring::bytemuck::{Pod, Zeroable};
use workring::{
    Batch, Engine, Error, MessagePort, SharedBatch, Worker,
    batch::{AnyBatch, Backing},
    kernel, kernels,
    kernels::KernelInfo,
    message::{ExitStatus, WorkerScope},
    process::{WorkerExit, WorkerProgram},
    worker_main,
};

use crate::support::{Tests, eventually, go_on, is_alive, kill, stop};

pub(crate) fn tests() -> Tests {
    vec![
        ("workers::a_conversation", a_conversation),
        ("workers::data_of_any_size_arrives", data_of_any_size_arrives),
        ("workers::every_way_to_end_is_told", every_way_to_end_is_told),
        ("workers::a_worker_that_is_told_to_end_does_or_is_killed", a_worker_that_is_told_to_end_does_or_is_killed),
        ("workers::a_port_that_is_dropped_ends_the_worker", a_port_that_is_dropped_ends_the_worker),
        ("workers::a_handle_that_is_dropped_does_not", a_handle_that_is_dropped_does_not),
        ("workers::what_a_dead_worker_did_not_receive_comes_back", what_a_dead_worker_did_not_receive_comes_back),
        ("workers::what_a_worker_posted_outlives_it", what_a_worker_posted_outlives_it),
        ("workers::everybody_who_waits_hears_of_a_death", everybody_who_waits_hears_of_a_death),
        ("workers::batches_go_there_and_back", batches_go_there_and_back),
        ("workers::a_worker_may_shorten_and_drop_and_keep", a_worker_may_shorten_and_drop_and_keep),
        ("workers::batches_of_the_dead_come_back_once", batches_of_the_dead_come_back_once),
        ("workers::batches_that_cannot_go_are_refused", batches_that_cannot_go_are_refused),
        ("workers::more_batches_than_there_may_be_wait", more_batches_than_there_may_be_wait),
        ("workers::mapped_files_are_lent_too", mapped_files_are_lent_too),
        ("workers::a_stopped_worker_fills_its_channel", a_stopped_worker_fills_its_channel),
        ("workers::tasks_wait_for_processes", tasks_wait_for_processes),
        ("workers::many_threads_at_both_ends", many_threads_at_both_ends),
        ("workers::values_of_every_size_arrive_whole", values_of_every_size_arrive_whole),
        ("workers::slices_go_there_and_back", slices_go_there_and_back),
        ("workers::what_is_left_of_a_slice_comes_back", what_is_left_of_a_slice_comes_back),
        ("workers::a_forked_child_has_no_worker", a_forked_child_has_no_worker),
        ("workers::batches_are_there_from_the_start", batches_are_there_from_the_start),
        ("workers::batches_of_a_start_that_fails_come_back", batches_of_a_start_that_fails_come_back),
        ("workers::a_program_without_the_worker_is_refused", a_program_without_the_worker_is_refused),
        ("workers::the_engine_may_go_first", the_engine_may_go_first),
        ("workers::nothing_is_left_behind", nothing_is_left_behind),
        ("workers::kills_at_random_lose_nothing", kills_at_random_lose_nothing),
        ("workers::many_workers_share_what_looks_after_them", many_workers_share_what_looks_after_them),
        ("workers::listeners_may_wait_for_other_workers", listeners_may_wait_for_other_workers),
        ("workers::a_worker_that_does_not_exit_is_killed", a_worker_that_does_not_exit_is_killed),
        ("workers::a_worker_lives_where_and_how_it_is_told", a_worker_lives_where_and_how_it_is_told),
        ("workers::starts_that_somebody_kills_are_tried_again", starts_that_somebody_kills_are_tried_again),
        ("workers::a_forked_child_may_have_workers_of_its_own", a_forked_child_may_have_workers_of_its_own),
        ("workers::a_start_without_descriptors_fails_alone", a_start_without_descriptors_fails_alone),
    ]
}

/// Longer than anything here takes.
const PATIENCE: Duration = crate::support::STEP;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Offset {
    offset: u32,
}

#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Large {
    numbers: [u64; 512],
    odd: [u8; 8],
}

/// A value as large as a message carries.
type Line = [u64; 8];

/// Fails if a wait of the worker ended only because it was bounded.
fn heard_everything<S: Pod + Send, R: Pod + Send, D>(scope: &WorkerScope<S, R, D>) -> Result<(), Error> {
    match scope.port().missed_wakeups() {
        0 => Ok(()),
        _ => Err(Error::TimedOut { waited: Duration::from_secs(1) }),
    }
}

/// Adds an offset.
#[worker_main]
pub(crate) fn adder(scope: &WorkerScope<u32, u32, Offset>) -> Result<(), Error> {
    while let Ok(message) = scope.recv() {
        scope.send(message.value + scope.data().offset)?;
    }
    heard_everything(scope)
}

/// Says what it was started with.
#[worker_main]
pub(crate) fn reader(scope: &WorkerScope<(), u64, Large>) -> Result<(), Error> {
    for number in scope.data().numbers {
        scope.send(number)?;
    }
    scope.send(u64::from_le_bytes(scope.data().odd))?;
    scope.send(scope.name().len() as u64)?;
    Ok(())
}

/// Adds up the batches that it was started with, says how many there are the second time, and ends as it is told: 0 with them, 1 after
/// posting them back, 2 by dying. Does not touch them if its data say so.
#[worker_main]
pub(crate) fn starter(scope: &WorkerScope<u32, f64, u32>) -> Result<(), Error> {
    if *scope.data() == 1 {
        return scope.recv().map(drop);
    }
    let batches: Vec<Batch<f64>> =
        scope.take_batches().into_iter().map(|batch| batch.into_batch::<f64>().expect("f64")).collect();
    scope.send(batches.iter().flat_map(|batch| batch.iter()).sum())?;
    scope.send(scope.take_batches().len() as f64)?;
    match scope.recv()?.value {
        0 => {}
        1 => scope.send_with(1.0, batches.into_iter().map(AnyBatch::from).collect())?,
        _ => std::process::abort(),
    }
    Ok(())
}

/// Ends as it is told: 0 by returning, 1 by an error, 2 by a panic, 3 by exit, 4 by abort, 5 by writing where nothing is.
#[worker_main]
pub(crate) fn ender(scope: &WorkerScope<u32, u32>) -> Result<(), String> {
    let how = scope.recv().map_err(|error| error.to_string())?.value;
    scope.send(std::process::id()).map_err(|error| error.to_string())?;
    match how {
        0 => Ok(()),
        1 => Err("an error on purpose".into()),
        2 => panic!("a panic on purpose"),
        3 => std::process::exit(7),
        4 => std::process::abort(),
        // SAFETY: none; the process is meant to end here.
        _ => unsafe {
            core::ptr::write_volatile(core::ptr::without_provenance_mut::<u32>(8), 1);
            Ok(())
        },
    }
}

/// Never ends by itself, and neither looks nor receives if its data say so.
#[worker_main]
pub(crate) fn stubborn(scope: &WorkerScope<u32, u32, u32>) {
    let _ = scope.send(1);
    while *scope.data() == 1 || !scope.is_terminated() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for a message, or for room, and returns why it went on.
#[worker_main]
pub(crate) fn patient(scope: &WorkerScope<u32, u32, u32>) -> Result<(), Error> {
    scope.send(1)?;
    let end = match *scope.data() {
        0 => scope.recv().map(drop),
        _ => loop {
            if let Err(failed) = scope.send(2) {
                break Err(failed.error);
            }
        },
    };
    // What the scope refuses by now the port does not.
    let _ = scope.port().try_send(100 + scope.port().missed_wakeups() as u32, Vec::new());
    end
}

/// Receives so many messages, says so, and then does nothing any more.
#[worker_main]
pub(crate) fn glutton(scope: &WorkerScope<u32, u32, u32>) -> Result<(), Error> {
    let mut held = Vec::new();
    for _ in 0..*scope.data() {
        held.push(scope.recv()?);
    }
    scope.send(held.len() as u32)?;
    loop {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Doubles every batch of f64 in place and sends all of them back, with the sum of what it could only read.
#[worker_main]
pub(crate) fn doubler(scope: &WorkerScope<u32, f64>) -> Result<(), Error> {
    while let Ok(message) = scope.recv() {
        let mut sum = 0.0;
        let mut back: Vec<AnyBatch> = Vec::new();
        for batch in message.batches {
            match batch.into_batch::<f64>() {
                Ok(mut batch) => {
                    batch.iter_mut().for_each(|value| *value *= 2.0);
                    back.push(batch.into());
                }
                Err(batch) => {
                    let shared: SharedBatch<f64> = batch.into_shared().map_err(|_| Error::ForeignBatch)?;
                    sum += shared.iter().sum::<f64>();
                    back.push(shared.into());
                }
            }
        }
        scope.send_with(sum, back)?;
    }
    heard_everything(scope)
}

/// What it does with the batches of a message is what the value says.
#[worker_main]
pub(crate) fn handler(scope: &WorkerScope<u32, i32>) -> Result<(), Error> {
    let mut kept = Vec::new();
    while let Ok(message) = scope.recv() {
        let mut batches = message.batches;
        match message.value {
            // Drops them.
            0 => drop(batches),
            // Sends them back in the other order.
            1 => {
                batches.reverse();
                scope.send_with(1, batches)?;
                continue;
            }
            // Shortens each to its first half.
            2 => {
                let halves = batches.into_iter().map(|batch| {
                    let mut batch = batch.into_batch::<u16>().expect("a batch of u16");
                    let half = batch.len() / 2;
                    batch.truncate(half);
                    batch.into()
                });
                scope.send_with(2, halves.collect())?;
                continue;
            }
            // Keeps them until it ends.
            3 => kept.extend(batches),
            // Sends a part while it holds the rest, which cannot be, and then the whole.
            4 => {
                let batch: Batch<u16> = batches.remove(0).into_batch().expect("a batch of u16");
                let (first, second) = batch.into_split_at(1);
                let failed = scope.send_with(0, vec![first.into()]).expect_err("a part cannot go");
                let is_right = matches!(failed.error, Error::InvalidArgument { .. });
                drop(second);
                let first = failed.into_parts().1.batches;
                scope.send_with(if is_right { 4 } else { -4 }, first)?;
                continue;
            }
            // Sends a clone of one that it has frozen, and the original.
            5 => {
                let shared = batches.remove(0).into_batch::<u16>().expect("a batch of u16").freeze();
                let failed = scope.send_with(0, vec![shared.clone().into()]).expect_err("a clone cannot go");
                drop(failed);
                let back = shared.try_into_batch().expect("the only one");
                scope.send_with(5, vec![back.into()])?;
                continue;
            }
            // Looks at them as something else than they are.
            6 => {
                let wrong = batches.remove(0).into_batch::<f32>().expect_err("it is none of f32");
                scope.send_with(wrong.len_bytes() as i32, vec![wrong])?;
                continue;
            }
            _ => {}
        }
        scope.send(message.value as i32)?;
    }
    Ok(())
}

/// Two threads receive and two post.
#[worker_main]
pub(crate) fn crowd(scope: &WorkerScope<u64, u64>) -> Result<(), Error> {
    thread::scope(|threads| {
        for _ in 0..2 {
            let port = scope.port().clone();
            threads.spawn(move || {
                for message in port.iter() {
                    let _ = port.send(message.value + 1);
                }
            });
        }
    });
    Ok(())
}

/// Sends what it receives back in slices, one more of each.
#[worker_main]
pub(crate) fn slicer(scope: &WorkerScope<u64, u64>) -> Result<(), Error> {
    let mut values = [0; 37];
    while let Ok(count) = scope.port().recv_many(&mut values) {
        values[..count].iter_mut().for_each(|value| *value += 1);
        scope.port().send_many(&values[..count]).map_err(|failed| failed.error)?;
    }
    Ok(())
}

/// Sends lines back.
#[worker_main]
pub(crate) fn liner(scope: &WorkerScope<Line, Line>) -> Result<(), Error> {
    while let Ok(message) = scope.recv() {
        scope.send(message.value.map(|word| !word))?;
    }
    Ok(())
}

/// Sends bytes back.
#[worker_main]
pub(crate) fn byter(scope: &WorkerScope<u8, [u8; 3]>) -> Result<(), Error> {
    while let Ok(message) = scope.recv() {
        scope.send([message.value, !message.value, 7])?;
    }
    Ok(())
}

/// Answers by a task of its own.
#[worker_main]
pub(crate) fn tasker(scope: &WorkerScope<u32, u32>) -> Result<(), Error> {
    pollster::block_on(async {
        while let Ok(message) = scope.port().recv_async().await {
            scope.port().send_async(message.value * 2, Vec::new()).await?;
        }
        Ok(())
    })
}

unsafe extern "C" {
    /// atexit(3).
    fn atexit(function: extern "C" fn()) -> i32;
}

extern "C" fn never_return() {
    loop {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns, and hangs in what its program does at its exit.
#[worker_main]
pub(crate) fn clinger(scope: &WorkerScope<u32, u32>) -> Result<(), Error> {
    // SAFETY: the function has the form that is wanted, and neither unwinds nor touches anything.
    unsafe { atexit(never_return) };
    scope.send(1)?;
    scope.recv().map(drop)
}

/// Says its nice value, and whether it finds what was put into its environment.
#[worker_main]
pub(crate) fn surveyor(scope: &WorkerScope<(), i64>) -> Result<(), Error> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Field 19; the second one, in brackets, may have blanks.
    let nice = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16)?.parse().ok());
    scope.send(nice.unwrap_or(i64::MIN))?;
    scope.send(std::env::var("SURVEY").map_or(0, |value| value.len() as i64))?;
    Ok(())
}

/// Is in no list.
#[worker_main]
pub(crate) fn unlisted(_scope: &WorkerScope<u32, u32>) {}

/// Something for the engines of these tests to list.
#[kernel]
pub(crate) fn nothing(y: &mut [u8]) {
    y.fill(0);
}

/// What the workers of these tests run.
pub(crate) fn listed() -> [&'static KernelInfo; 17] {
    *kernels![
        adder, reader, ender, stubborn, patient, glutton, doubler, handler, crowd, liner, byter, tasker, nothing,
        slicer, starter, clinger, surveyor
    ]
}

/// An engine without worker processes whose memory these can map.
fn memory() -> Engine {
    Engine::builder().threads(1).backing(Backing::SharedMemory).capacity(1 << 26).build().unwrap()
}

fn pid<S: Pod + Send, R: Pod + Send>(worker: &Worker<S, R>) -> u32 {
    worker.process_id().expect("it has a process")
}

fn ended<S: Pod + Send, R: Pod + Send>(worker: &Worker<S, R>) -> ExitStatus {
    let status = worker.wait_timeout(PATIENCE).expect("it ends");
    assert_eq!(worker.port().missed_wakeups(), 0, "waits ended only because they were bounded");
    assert!(!is_alive(pid(worker)), "its process is gone by then");
    status
}

fn a_conversation() {
    let worker = Worker::builder().name("adder").spawn_process(adder, Offset { offset: 100 }).unwrap();
    assert_ne!(pid(&worker), std::process::id());
    assert_eq!(worker.name(), "adder");
    for number in 0..2000 {
        worker.send(number).unwrap();
        assert_eq!(worker.recv().unwrap().value, number + 100);
        if number % 100 == 0 {
            // Both sides sleep.
            assert!(worker.port().recv_timeout(Duration::from_millis(1)).unwrap().is_none());
        }
    }
    (0..256).for_each(|number| worker.send(number).unwrap());
    assert!((0..256).all(|number| worker.recv().unwrap().value == number + 100));
    assert_eq!((worker.port().unreceived(), worker.port().waiting()), (0, 0));
    assert_eq!(worker.port().capacity(), 256);
    assert_eq!(worker.status(), None);
    let its = pid(&worker);
    let (sender, told) = mpsc::channel();
    worker.on_exit({
        let sender = sender.clone();
        move |status| sender.send(status.clone()).unwrap()
    });
    worker.on_error(move |status| sender.send(status.clone()).unwrap());
    assert_eq!(worker.join(), ExitStatus::Finished);
    assert_eq!(told.iter().collect::<Vec<_>>(), [ExitStatus::Finished], "an end by itself is no error");
    assert!(!is_alive(its));
}

fn data_of_any_size_arrives() {
    let mut large = Large { numbers: [0; 512], odd: *b"odd data" };
    large.numbers.iter_mut().enumerate().for_each(|(at, number)| *number = at as u64 * at as u64);
    for engine in [None, Some(memory())] {
        let builder = Worker::builder().name("seven--").capacity(8);
        let builder = engine.iter().fold(builder, |builder, engine| builder.memory(engine));
        let worker = builder.spawn_process(reader, large).unwrap();
        for number in large.numbers {
            assert_eq!(worker.recv().unwrap().value, number);
        }
        assert_eq!(worker.recv().unwrap().value, u64::from_le_bytes(large.odd));
        assert_eq!(worker.recv().unwrap().value, 7);
        assert!(matches!(worker.recv(), Err(Error::Disconnected)));
        assert_eq!(ended(&worker), ExitStatus::Finished);
        let left = engine.map_or(0, |engine| engine.statistics().arena.in_use);
        assert_eq!(left, 0, "the data are given back");
    }
}

fn every_way_to_end_is_told() {
    for (how, exit) in [(3, WorkerExit::Code(7)), (4, WorkerExit::Signal(6)), (5, WorkerExit::Signal(11))] {
        let worker = Worker::builder().spawn_process(ender, ()).unwrap();
        worker.send(how).unwrap();
        let its = worker.recv().unwrap().value;
        let status = ended(&worker);
        assert_eq!(status, ExitStatus::Died { pid: its, exit });
        assert!(!status.is_success());
        assert_eq!(worker.process_id(), Some(its), "it was not replaced");
        let failed = worker.send(1).unwrap_err();
        assert!(matches!(failed.error, Error::Disconnected));
        assert_eq!(failed.returned.value, 1);
        assert!(matches!(worker.recv(), Err(Error::Disconnected)));
    }
    let told = |how| {
        let worker = Worker::builder().spawn_process(ender, ()).unwrap();
        worker.send(how).unwrap();
        worker.recv().unwrap();
        let (sender, told) = mpsc::channel();
        worker.on_error(move |status| sender.send(status.clone()).unwrap());
        let status = ended(&worker);
        assert_eq!(told.iter().next().is_none(), how == 0);
        status
    };
    assert_eq!(told(0), ExitStatus::Finished);
    assert_eq!(told(1), ExitStatus::Failed { message: "an error on purpose".into() });
    match told(2) {
        ExitStatus::Panicked { message, location } => {
            assert_eq!(message, "a panic on purpose");
            assert!(location.contains("workers.rs"), "{location}");
        }
        other => panic!("{other}"),
    }
    // By somebody else.
    let worker = Worker::builder().spawn_process(adder, Offset { offset: 0 }).unwrap();
    let its = pid(&worker);
    kill(its);
    assert_eq!(ended(&worker), ExitStatus::Died { pid: its, exit: WorkerExit::Signal(9) });
}

fn a_worker_that_is_told_to_end_does_or_is_killed() {
    // By then the worker looks, yields or sleeps.
    for (data, sleeps, delay) in [(0, true, 0), (0, true, 20), (1, true, 20), (0, false, 5), (1, false, 5)] {
        let worker = match sleeps {
            // It sleeps at its port: woken, it gets an error, which is no failure then.
            true => Worker::builder().kill_after(PATIENCE).capacity(2).spawn_process(patient, data).unwrap(),
            // It looks, or does not.
            false => {
                let grace = if data == 0 { PATIENCE } else { Duration::from_millis(1) };
                Worker::builder().kill_after(grace).spawn_process(stubborn, data).unwrap()
            }
        };
        assert_eq!(worker.recv().unwrap().value, 1);
        thread::sleep(Duration::from_millis(delay));
        worker.terminate();
        worker.terminate();
        let status = ended(&worker);
        assert_eq!(status, ExitStatus::Terminated, "{data} {sleeps}");
        if (data, sleeps) == (0, true) {
            assert_eq!(worker.recv().unwrap().value, 100, "it was woken");
        }
        assert!(status.is_success());
    }
    // A stopped one as well, whether it has come to its function or not.
    for begun in [true, false] {
        let worker = Worker::builder().spawn_process(stubborn, 0).unwrap();
        if begun {
            assert_eq!(worker.recv().unwrap().value, 1);
        }
        stop(pid(&worker));
        worker.terminate();
        assert_eq!(ended(&worker), ExitStatus::Terminated, "{begun}");
    }
}

fn a_port_that_is_dropped_ends_the_worker() {
    let worker = Worker::builder().spawn_process(adder, Offset { offset: 1 }).unwrap();
    let its = pid(&worker);
    worker.send(1).unwrap();
    assert_eq!(worker.recv().unwrap().value, 2);
    // It sleeps by then.
    thread::sleep(Duration::from_millis(20));
    assert_eq!(worker.join(), ExitStatus::Finished);
    assert!(!is_alive(its));
}

fn a_handle_that_is_dropped_does_not() {
    let worker = Worker::builder().spawn_process(adder, Offset { offset: 1 }).unwrap();
    let (its, port) = (pid(&worker), worker.port().clone());
    let (sender, told) = mpsc::channel();
    worker.on_exit(move |status| sender.send(status.clone()).unwrap());
    drop(worker);
    for number in 0..100 {
        port.send(number).unwrap();
        assert_eq!(port.recv().unwrap().value, number + 1);
    }
    drop(port);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), ExitStatus::Finished);
    assert!(!is_alive(its));
}

fn what_a_dead_worker_did_not_receive_comes_back() {
    let worker = Worker::builder().capacity(8).spawn_process(glutton, 3).unwrap();
    (0..3).for_each(|number| worker.send(number).unwrap());
    assert_eq!(worker.recv().unwrap().value, 3);
    (10..18).for_each(|number| worker.send(number).unwrap());
    let failed = worker.port().try_send(18, Vec::new()).unwrap_err();
    assert!(matches!(failed.error, Error::ChannelFull { capacity: 8 }));
    assert_eq!(worker.port().unreceived(), 8);
    assert!(worker.port().undelivered().is_empty(), "it may still receive them");
    kill(pid(&worker));
    assert!(matches!(ended(&worker), ExitStatus::Died { .. }));
    let back: Vec<u32> = worker.port().undelivered().into_iter().map(|message| message.value).collect();
    assert_eq!(back, (10..18).collect::<Vec<_>>());
    assert!(worker.port().undelivered().is_empty(), "once");
}

fn what_a_worker_posted_outlives_it() {
    let worker = Worker::builder().spawn_process(patient, 1).unwrap();
    eventually("it has filled the channel", || worker.port().waiting() == 256);
    kill(pid(&worker));
    assert!(matches!(ended(&worker), ExitStatus::Died { .. }));
    let values: Vec<u32> = worker.port().iter().map(|message| message.value).collect();
    assert_eq!(values.len(), 256);
    assert!(values[0] == 1 && values[1..].iter().all(|&value| value == 2));
    assert!(matches!(worker.recv(), Err(Error::Disconnected)));
}

fn everybody_who_waits_hears_of_a_death() {
    for delay in [0, 1, 30] {
        let worker = Worker::builder().capacity(2).spawn_process(stubborn, 0).unwrap();
        assert_eq!(worker.recv().unwrap().value, 1);
        (0..2).for_each(|number| worker.send(number).unwrap());
        thread::scope(|threads| {
            let receiving: Vec<_> = (0..2).map(|_| threads.spawn(|| worker.recv())).collect();
            let posting = threads.spawn(|| worker.send(7));
            let task = threads.spawn(|| pollster::block_on(worker.port().recv_async()));
            thread::sleep(Duration::from_millis(delay));
            kill(pid(&worker));
            for receiver in receiving {
                assert!(matches!(receiver.join().unwrap(), Err(Error::Disconnected)));
            }
            assert!(matches!(task.join().unwrap(), Err(Error::Disconnected)));
            let failed = posting.join().unwrap().unwrap_err();
            assert!(matches!(failed.error, Error::Disconnected));
            assert_eq!(failed.returned.value, 7);
        });
        let _ = ended(&worker);
        assert_eq!(worker.port().undelivered().len(), 2);
    }
}

fn batches_go_there_and_back() {
    let engine = memory();
    let worker = Worker::builder().memory(&engine).spawn_process(doubler, ()).unwrap();
    let blocks = engine.statistics().arena.blocks;
    let shared = engine.batch_from_fn(1000, |index| index as f64).unwrap().freeze();
    for round in 0..50 {
        let batch = engine.batch_from_fn(10_000, |index| (index + round) as f64).unwrap();
        let (address, part) = (batch.as_ptr(), shared.slice(10..20));
        worker.send_with(1, vec![batch.into(), part.into(), shared.clone().into()]).unwrap();
        let answer = worker.recv().unwrap();
        assert_eq!(answer.value, shared[10..20].iter().sum::<f64>() + shared.iter().sum::<f64>());
        let [batch, part, whole] = <[AnyBatch; 3]>::try_from(answer.batches).unwrap();
        let batch = batch.into_batch::<f64>().unwrap();
        assert_eq!(batch.as_ptr(), address, "the very same memory");
        assert!(batch.iter().enumerate().all(|(index, &value)| value == 2.0 * (index + round) as f64));
        assert_eq!(*part.into_shared::<f64>().unwrap(), shared[10..20]);
        assert_eq!(whole.into_shared::<f64>().unwrap().len(), 1000);
    }
    drop(shared);
    assert_eq!(engine.statistics().arena.blocks, blocks);
    assert_eq!(worker.join(), ExitStatus::Finished);
    assert_eq!(engine.statistics().arena.in_use, 0);
}

fn a_worker_may_shorten_and_drop_and_keep() {
    let engine = memory();
    let worker = Worker::builder().memory(&engine).spawn_process(handler, ()).unwrap();
    let base = engine.statistics().arena.blocks;
    let blocks = || engine.statistics().arena.blocks - base;
    let batch = |len: usize| AnyBatch::from(engine.batch_from_fn(len, |index| index as u16).unwrap());
    let ask = |what, batches| {
        worker.send_with(what, batches).unwrap();
        worker.recv().unwrap()
    };
    // Dropped there, the memory is free here by the next call.
    assert_eq!(ask(0, vec![batch(100), batch(7)]).value, 0);
    assert!(worker.port().try_recv().unwrap().is_none());
    assert_eq!(blocks(), 0);
    let answer = ask(1, vec![batch(1), batch(2), batch(3)]);
    let lens: Vec<usize> = answer.batches.iter().map(AnyBatch::len_bytes).collect();
    assert_eq!(lens, [6, 4, 2]);
    drop(answer);
    let answer = ask(2, vec![batch(10), batch(11)]);
    let halves: Vec<Vec<u16>> =
        answer.batches.into_iter().map(|batch| batch.into_batch::<u16>().unwrap().to_vec()).collect();
    assert_eq!(halves, [(0..5).collect::<Vec<_>>(), (0..5).collect()]);
    let answer = ask(4, vec![batch(9)]);
    assert_eq!((answer.value, answer.batches[0].len_bytes()), (4, 2), "it kept the first element");
    drop(answer);
    let answer = ask(5, vec![batch(9)]);
    assert_eq!(answer.batches.into_iter().next().unwrap().into_batch::<u16>().unwrap().len(), 9);
    let answer = ask(6, vec![batch(9)]);
    assert_eq!((answer.value, answer.batches[0].element_name()), (18, "u16"));
    drop(answer);
    // An empty one goes as well.
    let answer = ask(1, vec![batch(0)]);
    assert_eq!(answer.batches[0].len_bytes(), 0);
    drop(answer);
    assert_eq!(blocks(), 0);
    // What it keeps it drops at its end.
    assert_eq!(ask(3, vec![batch(5), batch(6)]).value, 3);
    assert_eq!(blocks(), 2);
    assert!(worker.reclaimed().is_empty(), "it is still there");
    let port = worker.port().clone();
    drop(port);
    assert_eq!(worker.join(), ExitStatus::Finished);
    assert_eq!(engine.statistics().arena.in_use, 0);
}

fn batches_of_the_dead_come_back_once() {
    let engine = memory();
    let worker = Worker::builder().memory(&engine).capacity(8).spawn_process(handler, ()).unwrap();
    let batch = |number: u16| vec![AnyBatch::from(engine.batch_from_slice(&[number; 10]).unwrap())];
    let number = |batch: AnyBatch| batch.into_batch::<u16>().unwrap()[0];
    // Kept, sent back and not received, dropped.
    for what in [(3, 30), (1, 10), (3, 31), (0, 0)] {
        worker.send_with(what.0, batch(what.1)).unwrap();
    }
    eventually("it has answered", || worker.port().waiting() == 4);
    stop(pid(&worker));
    // Not received there.
    worker.send_with(0, batch(40)).unwrap();
    worker.send_with(1, batch(41)).unwrap();
    assert!(worker.reclaimed().is_empty() && worker.port().undelivered().is_empty(), "it may go on");
    kill(pid(&worker));
    assert!(matches!(ended(&worker), ExitStatus::Died { .. }));
    let reclaimed: Vec<u16> = worker.reclaimed().into_iter().map(number).collect();
    assert_eq!(reclaimed, [30, 31]);
    let undelivered: Vec<(u32, u16)> = worker
        .port()
        .undelivered()
        .into_iter()
        .map(|message| (message.value, number(message.batches.into_iter().next().unwrap())))
        .collect();
    assert_eq!(undelivered, [(0, 40), (1, 41)]);
    let received: Vec<(i32, Vec<u16>)> = worker
        .port()
        .iter()
        .map(|message| (message.value, message.batches.into_iter().map(number).collect()))
        .collect();
    assert_eq!(received, [(3, vec![]), (1, vec![10]), (3, vec![]), (0, vec![])]);
    assert!(worker.reclaimed().is_empty(), "once");
    drop(worker);
    eventually("nothing is left", || engine.statistics().arena.in_use == 0);
}

fn batches_that_cannot_go_are_refused() {
    let engine = memory();
    let other = memory();
    let threads = Engine::builder().threads(1).build().unwrap();
    let error = Worker::builder().memory(&threads).spawn_process(doubler, ()).unwrap_err();
    assert!(error.to_string().contains("Backing::SharedMemory"), "{error}");
    let worker = Worker::builder().memory(&engine).spawn_process(doubler, ()).unwrap();
    let alone = Worker::builder().spawn_process(doubler, ()).unwrap();
    for (worker, from) in [(&worker, &other), (&worker, &threads), (&alone, &engine)] {
        let mine = AnyBatch::from(engine.batch_from_slice(&[1.0]).unwrap());
        let foreign = AnyBatch::from(from.batch_from_slice(&[1.0]).unwrap());
        let failed = worker.send_with(5, vec![mine, foreign]).unwrap_err();
        assert!(matches!(failed.error, Error::ForeignBatch), "{}", failed.error);
        assert_eq!((failed.returned.value, failed.returned.batches.len()), (5, 2));
        let failed = worker.port().try_send(5, failed.returned.batches).unwrap_err();
        let failed = pollster::block_on(worker.port().send_async(5, failed.returned.batches)).unwrap_err();
        assert_eq!(failed.returned.batches.len(), 2);
    }
    let many: Vec<AnyBatch> = (0..1025).map(|_| engine.batch::<u8>(1).unwrap().into()).collect();
    let failed = worker.send_with(5, many).unwrap_err();
    assert!(failed.error.to_string().contains("1024"), "{}", failed.error);
    // Nothing was posted by any of it.
    worker.send(1).unwrap();
    let answer = worker.recv().unwrap();
    assert_eq!((answer.value, answer.batches.len()), (0.0, 0));
}

fn more_batches_than_there_may_be_wait() {
    let engine = memory();
    let worker = Worker::builder().memory(&engine).spawn_process(handler, ()).unwrap();
    let batches =
        |count: usize| -> Vec<AnyBatch> { (0..count).map(|_| engine.batch::<u16>(4).unwrap().into()).collect() };
    worker.send_with(3, batches(1000)).unwrap();
    assert_eq!(worker.recv().unwrap().value, 3);
    let failed = worker.port().try_send(1, batches(25)).unwrap_err();
    assert!(matches!(failed.error, Error::ChannelFull { .. }));
    assert_eq!(failed.returned.batches.len(), 25);
    drop(failed);
    worker.send_with(1, batches(24)).unwrap();
    thread::scope(|threads| {
        // There is room when these are back.
        let posting = threads.spawn(|| worker.send_with(1, batches(24)));
        thread::sleep(Duration::from_millis(5));
        assert_eq!(worker.recv().unwrap().batches.len(), 24);
        posting.join().unwrap().unwrap();
    });
    assert_eq!(worker.recv().unwrap().batches.len(), 24);
    // And when the worker drops some.
    worker.send_with(0, batches(24)).unwrap();
    worker.send_with(1, batches(24)).unwrap();
    assert_eq!(worker.recv().unwrap().value, 0);
    assert_eq!(worker.recv().unwrap().batches.len(), 24);
    assert_eq!(worker.port().missed_wakeups(), 0);
}

fn mapped_files_are_lent_too() {
    let engine = memory();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers.raw");
    let numbers: Vec<u8> = (0..1000).flat_map(|index| f64::from(index).to_le_bytes()).collect();
    std::fs::write(&path, numbers).unwrap();
    let worker = Worker::builder().memory(&engine).spawn_process(doubler, ()).unwrap();
    for _ in 0..3 {
        let file = engine.map_file::<f64>(&path).unwrap();
        let tail = file.slice(500..);
        worker.send_with(0, vec![file.into(), tail.into()]).unwrap();
        let answer = worker.recv().unwrap();
        assert_eq!(answer.value, (0..1000).chain(500..1000).map(f64::from).sum::<f64>());
        assert_eq!(answer.batches.len(), 2);
    }
}

fn a_stopped_worker_fills_its_channel() {
    let worker = Worker::builder().capacity(4).spawn_process(adder, Offset { offset: 1 }).unwrap();
    worker.send(0).unwrap();
    assert_eq!(worker.recv().unwrap().value, 1);
    let its = pid(&worker);
    stop(its);
    let mut posted = 0;
    let failed = loop {
        match worker.port().send_timeout(posted, Vec::new(), Duration::from_millis(20)) {
            Ok(()) => posted += 1,
            Err(failed) => break failed,
        }
    };
    assert!(matches!(failed.error, Error::ChannelFull { capacity: 4 }), "{}", failed.error);
    assert_eq!((failed.returned.value, posted), (4, 4));
    assert!(worker.port().recv_timeout(Duration::from_millis(5)).unwrap().is_none());
    go_on(its);
    assert!((0..4).all(|number| worker.recv().unwrap().value == number + 1));
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn tasks_wait_for_processes() {
    // Tasks at both ends.
    let worker = Worker::builder().capacity(4).spawn_process(tasker, ()).unwrap();
    pollster::block_on(async {
        for number in 0..500 {
            worker.port().send_async(number, Vec::new()).await.unwrap();
            assert_eq!(worker.port().recv_async().await.unwrap().value, 2 * number);
        }
    });
    // Many tasks wait at once, for messages and for room.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let port = worker.port().clone();
    let mut sums: Vec<u32> = runtime.block_on(async move {
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let port = port.clone();
                tokio::spawn(async move {
                    let mut received = Vec::new();
                    for number in 0..50 {
                        port.send_async(task * 50 + number, Vec::new()).await.unwrap();
                        received.push(port.recv_async().await.unwrap().value);
                    }
                    received
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    });
    sums.sort_unstable();
    assert!(sums.into_iter().eq((0..800).map(|number| number * 2)));
    // One that gives up takes no call with it, and is not called.
    let counter = Arc::new(Counter::default());
    let waker = Waker::from(Arc::clone(&counter));
    {
        let mut given_up = pin!(worker.port().recv_async());
        assert!(given_up.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    let mut kept = pin!(worker.port().recv_async());
    assert!(kept.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    worker.send(4).unwrap();
    eventually("the task is woken", || counter.0.load(Ordering::Relaxed) > 0);
    let found = kept.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(matches!(found, Poll::Ready(Ok(message)) if message.value == 8));
    assert_eq!(counter.0.load(Ordering::Relaxed), 1);
}

fn many_threads_at_both_ends() {
    const EACH: u64 = 5_000;
    let worker = Worker::builder().capacity(16).spawn_process(crowd, ()).unwrap();
    let mut received: Vec<u64> = thread::scope(|threads| {
        for poster in 0..2 {
            let worker = &worker;
            threads.spawn(move || (0..EACH).for_each(|number| worker.send(poster << 32 | number).unwrap()));
        }
        let receivers: Vec<_> = (0..2)
            .map(|_| threads.spawn(|| (0..EACH).map(|_| worker.recv().unwrap().value).collect::<Vec<_>>()))
            .collect();
        receivers.into_iter().flat_map(|receiver| receiver.join().unwrap()).collect()
    });
    received.sort_unstable();
    assert!(received.into_iter().eq((0..2).flat_map(|poster| (1..=EACH).map(move |number| poster << 32 | number))));
    assert_eq!(worker.port().missed_wakeups(), 0);
    assert_eq!(worker.join(), ExitStatus::Finished);
}

/// In order and each once, however the slices are cut and however little room there is.
fn slices_go_there_and_back() {
    const NUMBERS: u64 = 20_000;
    for capacity in [1, 16, 1000] {
        let worker = Worker::builder().capacity(capacity).spawn_process(slicer, ()).unwrap();
        let numbers: Vec<u64> = (0..NUMBERS).collect();
        let received = thread::scope(|threads| {
            threads.spawn(|| {
                let mut left = &numbers[..];
                for len in (1..90).cycle() {
                    let (slice, rest) = left.split_at(len.min(left.len()));
                    worker.port().send_many(slice).unwrap();
                    left = rest;
                    if left.is_empty() {
                        break;
                    }
                }
            });
            let (mut received, mut values) = (Vec::new(), [0; 53]);
            while received.len() < numbers.len() {
                let count = worker.port().recv_many(&mut values).unwrap();
                assert!(count > 0, "no message has batches");
                received.extend_from_slice(&values[..count]);
            }
            received
        });
        assert!(received.into_iter().eq(1..=NUMBERS), "capacity {capacity}");
        assert_eq!(worker.port().missed_wakeups(), 0);
        assert_eq!(worker.join(), ExitStatus::Finished);
    }
}

/// A slice that is on its way when its receiver is killed: so many were posted, and of these what was not received comes back in order.
fn what_is_left_of_a_slice_comes_back() {
    let numbers: Vec<u32> = (100..200).collect();
    for delay in [0, 1, 30] {
        let worker = Worker::builder().capacity(8).spawn_process(stubborn, 0).unwrap();
        assert_eq!(worker.recv().unwrap().value, 1);
        let failed = thread::scope(|threads| {
            let posting = threads.spawn(|| worker.port().send_many(&numbers).unwrap_err());
            thread::sleep(Duration::from_millis(delay));
            kill(pid(&worker));
            posting.join().unwrap()
        });
        assert!(matches!(failed.error, Error::Disconnected));
        assert!(failed.returned <= 8, "there is room for eight, and its worker receives none");
        assert!(matches!(ended(&worker), ExitStatus::Died { .. }));
        let back: Vec<u32> = worker.port().undelivered().into_iter().map(|message| message.value).collect();
        assert_eq!(back, numbers[..failed.returned]);
        assert!(matches!(worker.port().try_send_many(&numbers), Err(Error::Disconnected)));
    }
}

fn values_of_every_size_arrive_whole() {
    let worker = Worker::builder().capacity(2).spawn_process(liner, ()).unwrap();
    for number in 0..100_u64 {
        let line = [number; 8].map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        worker.send(line).unwrap();
        assert_eq!(worker.recv().unwrap().value, line.map(|word| !word));
    }
    let worker = Worker::builder().capacity(2).spawn_process(byter, ()).unwrap();
    for number in 0..=255 {
        worker.send(number).unwrap();
        assert_eq!(worker.recv().unwrap().value, [number, !number, 7]);
    }
}

unsafe extern "C" {
    /// fork(2).
    fn fork() -> i32;
    /// waitpid(2).
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    /// _exit(2).
    fn _exit(status: i32) -> !;
}

fn a_forked_child_has_no_worker() {
    let engine = memory();
    let worker = Worker::builder().memory(&engine).spawn_process(adder, Offset { offset: 1 }).unwrap();
    worker.send(1).unwrap();
    assert_eq!(worker.recv().unwrap().value, 2);
    // SAFETY: the child makes calls that take no lock another thread may hold, and ends.
    let child = unsafe { fork() };
    if child == 0 {
        let forked = |failed: Result<(), Error>| matches!(failed, Err(Error::Forked));
        let posts = forked(worker.send(5).map_err(|failed| failed.error));
        let receives = forked(worker.recv().map(drop));
        worker.terminate();
        let is_right = posts && receives && worker.port().undelivered().is_empty() && worker.reclaimed().is_empty();
        let joined = matches!(worker.join(), ExitStatus::Failed { .. });
        // SAFETY: ends the child at once.
        unsafe { _exit(if is_right && joined { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: waits for the child that was just made.
    unsafe { waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the child is refused");
    // What the child did has not been heard of here.
    worker.send(7).unwrap();
    assert_eq!(worker.recv().unwrap().value, 8);
    assert_eq!(worker.join(), ExitStatus::Finished);
}

fn batches_are_there_from_the_start() {
    let engine = memory();
    let numbers = |batches: Vec<AnyBatch>| -> Vec<f64> {
        batches.into_iter().flat_map(|batch| batch.into_batch::<f64>().expect("f64").to_vec()).collect()
    };
    for how in [0, 1, 2] {
        let batches: Vec<AnyBatch> =
            [1.0, 2.0, 4.0].map(|value| engine.batch_from_slice(&[value; 10]).unwrap().into()).into();
        // A channel that has room for them and for nothing else.
        let worker = Worker::builder().memory(&engine).capacity(1).spawn_process_with(starter, 0, batches).unwrap();
        assert_eq!((worker.recv().unwrap().value, worker.recv().unwrap().value), (70.0, 0.0));
        worker.send(how).unwrap();
        if how == 1 {
            assert_eq!(numbers(worker.recv().unwrap().batches).len(), 30);
        }
        let status = ended(&worker);
        let held = numbers(worker.reclaimed());
        match how {
            2 => assert!(matches!(status, ExitStatus::Died { .. }) && held.iter().sum::<f64>() == 70.0, "{status}"),
            _ => assert!(status == ExitStatus::Finished && held.is_empty(), "{status}"),
        }
        assert!(worker.port().undelivered().is_empty());
        drop(worker);
        assert_eq!(engine.statistics().arena.in_use, 0, "{how}");
    }
    // One that takes nothing drops what it was given at its end.
    let worker = Worker::builder().memory(&engine);
    let worker = worker.spawn_process_with(starter, 1, vec![engine.batch::<f64>(10).unwrap().into()]).unwrap();
    worker.send(0).unwrap();
    assert_eq!(ended(&worker), ExitStatus::Finished);
    assert!(worker.reclaimed().is_empty());
    drop(worker);
    assert_eq!(engine.statistics().arena.in_use, 0);
    // Without batches it has none, and a thread has none.
    let worker = Worker::builder().spawn_process(starter, 0).unwrap();
    assert_eq!((worker.recv().unwrap().value, worker.recv().unwrap().value), (0.0, 0.0));
    let thread = Worker::<(), ()>::spawn(|scope| assert!(scope.take_batches().is_empty())).unwrap();
    assert_eq!(thread.join(), ExitStatus::Finished);
}

fn batches_of_a_start_that_fails_come_back() {
    let engine = memory();
    let one = || -> Vec<AnyBatch> { vec![engine.batch_from_slice(&[7.0]).unwrap().into()] };
    let check = |mut returned: Vec<AnyBatch>| {
        assert_eq!(returned.len(), 1);
        assert_eq!(returned.remove(0).into_batch::<f64>().expect("f64")[..], [7.0]);
    };
    let builder = || Worker::builder().memory(&engine);
    let failed = builder().name("a\0b").spawn_process_with(starter, 0, one()).unwrap_err();
    assert!(matches!(failed.error, Error::InvalidArgument { .. }), "{}", failed.error);
    check(failed.returned);
    let failed = Worker::builder().spawn_process_with(starter, 0, one()).unwrap_err();
    assert!(matches!(failed.error, Error::ForeignBatch), "{}", failed.error);
    check(failed.returned);
    let none = builder().program(WorkerProgram::at("/nowhere"));
    let failed = none.spawn_process_with(starter, 0, one()).unwrap_err();
    assert!(matches!(failed.error, Error::Io { .. }), "{}", failed.error);
    check(failed.returned);
    let failed = builder().spawn_process_with(unlisted, (), one()).unwrap_err();
    assert!(matches!(failed.error, Error::WorkerStart { .. }), "{}", failed.error);
    check(failed.returned);
    let many = (0..1025).map(|_| engine.batch::<u8>(1).unwrap().into()).collect();
    let failed = builder().spawn_process_with(starter, 0, many).unwrap_err();
    assert!(matches!(failed.error, Error::InvalidArgument { .. }), "{}", failed.error);
    assert_eq!(failed.returned.len(), 1025);
    drop(failed);
    eventually("nothing is left", || engine.statistics().arena.in_use == 0);
}

fn a_program_without_the_worker_is_refused() {
    let error = Worker::builder().spawn_process(unlisted, ()).unwrap_err();
    assert!(matches!(&error, Error::WorkerStart { reason } if reason.contains("unlisted")), "{error}");
    let program = WorkerProgram::at("/bin/true");
    let error = Worker::builder().program(program).spawn_process(adder, Offset { offset: 1 }).unwrap_err();
    assert!(matches!(error, Error::WorkerStart { .. }), "{error}");
    // As a job it is refused where it runs: by a thread and by a process.
    let engines =
        [memory(), Engine::builder().processes(1).kernels(kernels![adder]).capacity(1 << 20).build().unwrap()];
    for engine in engines {
        let failed = engine.submit(adder, (), ()).unwrap().wait().unwrap_err();
        assert!(failed.error.to_string().contains("spawn_process"), "{}", failed.error);
    }
}

fn the_engine_may_go_first() {
    let engine = memory();
    let worker = Worker::builder().memory(&engine).spawn_process(doubler, ()).unwrap();
    let batch = engine.batch_from_slice(&[1.0, 2.0]).unwrap();
    drop(engine);
    worker.send_with(0, vec![batch.into()]).unwrap();
    let answer = worker.recv().unwrap();
    let batch = answer.batches.into_iter().next().unwrap().into_batch::<f64>().unwrap();
    assert_eq!(*batch, [2.0, 4.0]);
    assert_eq!(worker.join(), ExitStatus::Finished);
}

/// Descriptors and mappings of this process that belong to channels.
fn traces() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = fds.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let is_ours = |text: &str| text.contains("workring-shared") || text.contains("workring-control");
    maps.lines().filter(|line| is_ours(line)).count() + links.filter(|link| is_ours(&link.to_string_lossy())).count()
}

fn nothing_is_left_behind() {
    let before = traces();
    let engine = memory();
    for round in 0..8 {
        let worker = Worker::builder().memory(&engine).spawn_process(handler, ()).unwrap();
        let batch = engine.batch::<u16>(10).unwrap();
        worker.send_with(3, vec![batch.into()]).unwrap();
        worker.recv().unwrap();
        if round % 2 == 0 {
            thread::scope(|threads| {
                let waiting = threads.spawn(|| pollster::block_on(worker.port().recv_async()));
                kill(pid(&worker));
                assert!(waiting.join().unwrap().is_err());
            });
        }
        drop(worker);
    }
    eventually("the batches are free", || engine.statistics().arena.in_use == 0);
    drop(engine);
    // Other tests have such things, too, and come and go.
    eventually("the memory is unmapped", || traces() <= before + 4);
}

/// A worker is killed while messages with batches flow both ways; what was posted comes out once, wherever it was.
fn kills_at_random_lose_nothing() {
    let engine = memory();
    for round in 0..30_u64 {
        let worker = Worker::builder().memory(&engine).capacity(8).spawn_process(doubler, ()).unwrap();
        let its = pid(&worker);
        let (mut posted, mut seen) = (0_u32, Vec::new());
        let number = |batch: AnyBatch| batch.into_batch::<f64>().unwrap()[0].abs();
        thread::scope(|threads| {
            threads.spawn(move || {
                thread::sleep(Duration::from_micros(500 + round * 97));
                kill(its);
            });
            loop {
                let batch = engine.batch_from_slice(&[f64::from(posted)]).unwrap();
                match worker.port().try_send(posted, vec![batch.into()]) {
                    Ok(()) => posted += 1,
                    Err(failed) if matches!(failed.error, Error::Disconnected) => break,
                    Err(_) => {}
                }
                while let Ok(Some(message)) = worker.port().try_recv() {
                    seen.extend(message.batches.into_iter().map(number));
                }
            }
        });
        assert!(matches!(ended(&worker), ExitStatus::Died { .. }));
        seen.extend(worker.port().iter().flat_map(|message| message.batches).map(number));
        // Those were doubled.
        seen.iter_mut().for_each(|number| *number /= 2.0);
        let undelivered = worker.port().undelivered();
        assert!(undelivered.iter().all(|message| message.batches.len() == 1));
        seen.extend(undelivered.into_iter().flat_map(|message| message.batches).map(number));
        // A batch that the worker had in its hands may have been doubled, or not.
        let mut held: Vec<f64> = worker.reclaimed().into_iter().map(number).collect();
        assert!(held.len() <= 1, "{held:?}");
        seen.sort_by(f64::total_cmp);
        let missing: Vec<f64> = (0..posted).map(f64::from).filter(|number| !seen.contains(number)).collect();
        assert_eq!(missing.len(), held.len(), "{missing:?} {held:?}");
        assert_eq!(seen.len() + held.len(), posted as usize);
        if let (Some(missing), Some(held)) = (missing.first(), held.pop()) {
            assert!(held == *missing || held == 2.0 * missing);
        }
    }
    eventually("nothing is left", || engine.statistics().arena.in_use == 0);
}

/// What this process has: threads, descriptors, mappings and their bytes.
fn held() -> [usize; 4] {
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let len = |line: &str| {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        usize::from_str_radix(to, 16).unwrap() - usize::from_str_radix(from, 16).unwrap()
    };
    [count("/proc/self/task"), count("/proc/self/fd"), maps.lines().count(), maps.lines().map(len).sum()]
}

/// The role of a program that does nothing but start workers, so that nobody else has threads or descriptors: says what it has with none,
/// with one and with sixteen of them, with a task that waits at each, and when all are gone; and how long a start took.
pub(crate) fn count_what_workers_cost() {
    let say = |what: &str| {
        let [threads, descriptors, mappings, bytes] = held();
        println!("{what} {threads} {descriptors} {mappings} {bytes}");
    };
    let spawn = || Worker::builder().capacity(4).spawn_process(adder, Offset { offset: 1 }).unwrap();
    // What the allocator and the standard library keep from a first time on.
    drop(thread::spawn(|| {}).join());
    say("none");
    let start = std::time::Instant::now();
    let mut workers = vec![spawn()];
    let first = start.elapsed();
    say("one");
    workers.extend((1..16).map(|_| spawn()));
    let all = start.elapsed();
    say("sixteen");
    println!("start {} {} 0 0", first.as_micros(), (all - first).as_micros() / 15);
    {
        let mut waiting: Vec<_> = workers.iter().map(|worker| Box::pin(worker.port().recv_async())).collect();
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.iter_mut().all(|waiting| waiting.as_mut().poll(&mut context).is_pending()));
        say("tasks");
    }
    for worker in workers {
        assert_eq!(worker.join(), ExitStatus::Finished);
    }
    // Threads that were told of by their last word may take a moment to be gone.
    eventually("the threads are gone", || held()[0] == 1);
    say("gone");
}

/// Each worker had an engine of its own, with a supervisor, a thread that waited for the job that it was, and one for its tasks: sixteen
/// workers cost their program 48 threads and 160 descriptors.
fn many_workers_share_what_looks_after_them() {
    let text = said_by("frugal");
    let of = |what: &str| -> Vec<usize> {
        let line = text.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_else(|| panic!("{what}: {text}"));
        line.split_whitespace().map(|number| number.parse().unwrap()).collect()
    };
    println!("{text}");
    let [none, one, sixteen, tasks, gone] = ["none ", "one ", "sixteen ", "tasks ", "gone "].map(of);
    // One thread looks after all of them, and one serves all tasks.
    assert_eq!([one[0], sixteen[0], tasks[0]], [none[0] + 1, none[0] + 1, none[0] + 2], "{text}");
    // What the allocator has mapped for a thread it keeps.
    assert_eq!(gone[..2], none[..2], "{text}");
}

/// All worker processes of a program are looked after by one thread. A listener that ran on it, and waited for the end of another worker,
/// would have kept that thread from ever telling of it.
fn listeners_may_wait_for_other_workers() {
    let spawn = || Worker::builder().spawn_process(adder, Offset { offset: 1 }).unwrap();
    let (first, second) = (spawn(), spawn());
    let (its, (sender, told)) = (pid(&first), mpsc::channel());
    let say = sender.clone();
    first.on_exit(move |_| {
        let other = pid(&second);
        kill(other);
        // Another one can be started and heard from here, too.
        let third = Worker::builder().spawn_process(adder, Offset { offset: 2 }).unwrap();
        third.send(1).unwrap();
        assert_eq!(third.recv().unwrap().value, 3);
        say.send((other, second.join())).unwrap();
    });
    first.on_exit(|_| panic!("a listener's own matter"));
    first.on_exit(move |status| sender.send((0, status.clone())).unwrap());
    kill(its);
    // A wait for the end returns after the listeners have.
    let status = first.join();
    assert_eq!(status, ExitStatus::Died { pid: its, exit: WorkerExit::Signal(9) });
    let (other, its_end) = told.try_recv().unwrap();
    assert_eq!(its_end, ExitStatus::Died { pid: other, exit: WorkerExit::Signal(9) });
    assert_eq!(told.try_recv().unwrap(), (0, status));
    // One that waits for the end of its own worker does not wait for itself.
    let (worker, (sender, told)) = (Arc::new(std::sync::Mutex::new(None)), mpsc::channel());
    *worker.lock().unwrap() = Some(spawn());
    let its = pid(worker.lock().unwrap().as_ref().unwrap());
    let same = Arc::clone(&worker);
    worker.lock().unwrap().as_ref().unwrap().on_exit(move |_| {
        let worker = same.lock().unwrap().take().unwrap();
        sender.send(worker.join()).unwrap();
    });
    kill(its);
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), ExitStatus::Died { .. }));
}

fn a_worker_that_does_not_exit_is_killed() {
    let worker = Worker::builder().spawn_process(clinger, ()).unwrap();
    assert_eq!(worker.recv().unwrap().value, 1);
    worker.send(1).unwrap();
    assert_eq!(ended(&worker), ExitStatus::Finished, "its function was over");
}

fn a_worker_lives_where_and_how_it_is_told() {
    let nice = |program: WorkerProgram| {
        let worker = Worker::builder().program(program).spawn_process(surveyor, ()).unwrap();
        (worker.recv().unwrap().value, worker.recv().unwrap().value)
    };
    let (own, found) = nice(WorkerProgram::this());
    assert_eq!(found, 0);
    assert_eq!(nice(WorkerProgram::this().nice(19).environment("SURVEY", "four")), (19.max(own), 4));
    let error = Worker::builder().program(WorkerProgram::this().nice(77)).spawn_process(surveyor, ()).unwrap_err();
    assert!(matches!(&error, Error::WorkerStart { reason } if reason.contains("77")), "{error}");
}

fn starts_that_somebody_kills_are_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (starts, this) = (folder.path().join("starts"), std::env::current_exe().unwrap());
    let script = |condition: &str| {
        let (starts, this) = (starts.display(), this.display());
        let text =
            format!("echo >> {starts}; if [ $(wc -l < {starts}) {condition} ]; then kill -9 $$; fi; exec {this}");
        WorkerProgram::at("/bin/sh").argument("-c").argument(text)
    };
    let count = || std::fs::read_to_string(&starts).unwrap().lines().count();
    // The fourth one lives.
    let worker = Worker::builder().program(script("-lt 4")).spawn_process(adder, Offset { offset: 1 }).unwrap();
    assert_eq!(count(), 4);
    worker.send(1).unwrap();
    assert_eq!(worker.recv().unwrap().value, 2);
    assert_eq!(worker.join(), ExitStatus::Finished);
    // None does, and what it was to begin with comes back.
    std::fs::write(&starts, "").unwrap();
    let engine = memory();
    let batches = vec![engine.batch_from_slice(&[7.0]).unwrap().into()];
    let builder = Worker::builder().memory(&engine).program(script("-lt 99"));
    let failed = builder.spawn_process_with(starter, 0, batches).unwrap_err();
    assert!(matches!(&failed.error, Error::WorkerStart { reason } if reason.contains("signal 9")), "{}", failed.error);
    assert_eq!((failed.returned.len(), count()), (1, 5));
}

/// The role of a program that forks while it has a worker process and a task at it: the child is refused the worker, and starts one of its
/// own. It has none of its parent's threads, of which one looks after workers and another serves tasks.
pub(crate) fn fork_with_workers() {
    let spawn = || Worker::builder().spawn_process(tasker, ()).unwrap();
    let talk = |worker: &Worker<u32, u32>| {
        pollster::block_on(async {
            worker.port().send_async(4, Vec::new()).await.unwrap();
            assert_eq!(worker.port().recv_async().await.unwrap().value, 8);
        });
    };
    let worker = spawn();
    talk(&worker);
    // SAFETY: this process has no thread of its own that could hold a lock of the allocator but those that sleep.
    let child = unsafe { fork() };
    if child == 0 {
        assert!(matches!(worker.port().try_recv(), Err(Error::Forked)));
        drop(worker);
        let own = spawn();
        talk(&own);
        kill(pid(&own));
        assert!(matches!(own.join(), ExitStatus::Died { .. }));
        // SAFETY: ends the child at once.
        unsafe { _exit(0) };
    }
    let mut status = -1;
    // SAFETY: waits for the child that was just made.
    unsafe { waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the child had a worker of its own");
    talk(&worker);
    assert_eq!(worker.join(), ExitStatus::Finished);
    println!("done");
}

/// What the standard output of a role says that has ended well.
fn said_by(role: &str) -> String {
    let output = crate::support::start_role(role).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn a_forked_child_may_have_workers_of_its_own() {
    assert_eq!(said_by("forking").trim(), "done");
}

/// The role of a program that runs out of descriptors.
pub(crate) fn run_out_of_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let engine = memory();
    let spawn = || {
        let batches = vec![engine.batch_from_slice(&[2.0]).unwrap().into()];
        Worker::builder().memory(&engine).spawn_process_with(starter, 0, batches)
    };
    let worker = spawn().unwrap();
    let (before, old) = (held()[1] as u64, getrlimit(Resource::Nofile));
    // So many are free that each step of a start fails once, and the last one with all that it needs.
    let mut starts = Vec::new();
    for free in 0..16 {
        setrlimit(Resource::Nofile, Rlimit { current: Some(before + free), ..old }).unwrap();
        match spawn() {
            Ok(worker) => starts.push(worker),
            Err(failed) => {
                assert!(matches!(failed.error, Error::Io { .. } | Error::WorkerStart { .. }), "{}", failed.error);
                assert_eq!(failed.returned.len(), 1, "{}", failed.error);
            }
        }
        // The others are looked after as ever.
        assert_eq!(worker.status(), None);
        setrlimit(Resource::Nofile, old).unwrap();
        starts.clear();
    }
    assert_eq!((worker.recv().unwrap().value, worker.recv().unwrap().value), (2.0, 0.0));
    worker.send(0).unwrap();
    assert_eq!(worker.join(), ExitStatus::Finished);
    eventually("nothing is left", || engine.statistics().arena.in_use == 0);
    println!("done");
}

fn a_start_without_descriptors_fails_alone() {
    assert_eq!(said_by("crowded").trim(), "done");
}

/// That the two kinds of port have one type is what a caller relies on.
#[expect(dead_code, reason = "it is enough that it compiles")]
fn one_type_for_both(worker: &Worker<u32, u32>) -> &MessagePort<u32, u32> {
    worker.port()
}
