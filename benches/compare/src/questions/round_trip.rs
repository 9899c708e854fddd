//! How long one tiny job takes there and back, when its worker is awake and when it sleeps.

use std::time::Duration;

use workring::{Builder, Engine, WaitPolicy, Worker};

use super::Effort;
use crate::bare::{self, Waiting};
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::ours::{self, close, one_process, one_thread};
use crate::pace::Pace;
use crate::place::Pair;
use crate::rivals::scripts::{self, Ask, Script};
use crate::rivals::{iceoryx, ipc, sockets, threads};

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let Some(split) = Pair::split() else { return Err("round trips need two cores".into()) };
    let awake = Pace::BackToBack(effort.pick(20_000, 20));
    // No rival polls for a millisecond, but those that poll for ever.
    let asleep = Pace::AfterWork { trips: effort.pick(100, 3), work: Duration::from_millis(1) };
    Ok(vec![
        effort.run(between_threads(
            effort,
            "threads, one job after the other",
            split,
            awake,
            Waiting::SpinThenSleep,
        ))?,
        effort.run(between_threads(
            effort,
            "threads, after 1 ms of the caller's own work",
            split,
            asleep,
            Waiting::Sleep,
        ))?,
        effort.run(between_processes(
            effort,
            "processes, one job after the other",
            split,
            awake,
            Waiting::SpinThenSleep,
        ))?,
        effort.run(between_processes(
            effort,
            "processes, after 1 ms of the caller's own work",
            split,
            asleep,
            Waiting::Sleep,
        ))?,
    ])
}

/// Round trips of a rival.
type Trip = fn(Pair, Pace) -> Sample;

/// The same batch there and back.
fn engine_trip(engine: Engine, pair: Pair, pace: Pace) -> Sample {
    let mut batch = Some(engine.batch::<u64>(1).expect("a small batch"));
    let nanoseconds = pace.measure(pair, |number| {
        let handed = batch.take().expect("the batch came back");
        let back = engine.submit(ours::tiny, handed, number).expect("room for a job").wait().expect("tiny cannot fail");
        let answer = back[0];
        batch = Some(back);
        answer
    });
    drop(batch);
    close(engine);
    Ok(nanoseconds)
}

/// A message to a worker with a function of its own, and its answer.
fn message_trip(pair: Pair, pace: Pace) -> Sample {
    let worker = Worker::<u64, u64>::spawn(move |scope| {
        pair.pin_worker();
        while let Ok(message) = scope.recv() {
            scope.send(message.value + 1)?;
        }
        Ok::<(), workring::Error>(())
    });
    let worker = worker.map_err(|error| error.to_string())?;
    let nanoseconds = pace.measure(pair, |number| {
        worker.send(number).map_err(|failed| failed.error).expect("the worker is there");
        worker.recv().expect("the worker is there").value
    });
    worker.join();
    Ok(nanoseconds)
}

fn bare_name(waiting: Waiting) -> &'static str {
    match waiting {
        Waiting::Spin => "bare words, both spin",
        Waiting::SpinThenSleep => "bare words, spin, then futex",
        Waiting::SpinThenAnnounce => "bare words, spin, then futex, no idle wake calls",
        Waiting::Sleep => "bare words, futex",
    }
}

/// What stands beside it: ways that never sleep, and where jobs follow each other two that do when nothing comes.
fn limits(bare: Waiting) -> &'static [Waiting] {
    match bare {
        Waiting::Sleep => &[Waiting::Spin, Waiting::Sleep],
        _ => &[Waiting::Spin, Waiting::SpinThenAnnounce, Waiting::SpinThenSleep],
    }
}

/// What a hand-over costs at least, with the bound for ours.
fn bound(waiting: Waiting) -> (With, f64) {
    let bound = if waiting == Waiting::Sleep { 1.15 } else { 2.0 };
    (With::Case(bare_name(waiting).into()), bound)
}

const THREAD_SCRIPTS: &[(&str, Script)] = &[
    ("Node worker_threads, postMessage", scripts::NODE_CLONE),
    ("Node worker_threads, SharedArrayBuffer, Atomics.wait", scripts::NODE_SHARED),
    ("Piscina", scripts::PISCINA_SHARED),
    ("workerpool thread", scripts::WORKERPOOL_THREAD),
];

const PROCESS_SCRIPTS: &[(&str, Script)] = &[
    ("Node fork", scripts::NODE_FORK),
    ("workerpool process", scripts::WORKERPOOL_PROCESS),
    ("Python Pool", scripts::PYTHON_POOL),
];

fn add_scripts(table: &mut Table<'_>, effort: Effort, pair: Pair, pace: Pace, all: &[(&'static str, Script)]) {
    for (name, script) in scripts::of_run(effort.is_quick, all) {
        table.rival(name, move || scripts::sample(script, Ask::RoundTrip(pace), Some(pair), effort.is_quick));
    }
}

fn between_threads(effort: Effort, title: &str, pair: Pair, pace: Pace, bare: Waiting) -> Table<'static> {
    let mut table = Table::new(title, "ns", Better::Lower);
    for &waiting in limits(bare) {
        table.limit(bare_name(waiting), move || Ok(bare::between_threads(pair, pace, waiting)));
    }
    let engine =
        |change: fn(Builder) -> Builder| move || engine_trip(one_thread(change(Engine::builder()), pair), pair, pace);
    let (with, bound) = bound(bare);
    table.ours("engine", engine(|builder| builder)).goal(With::BestRival, 1.0);
    table.ours("engine, the worker runs it", engine(|builder| builder.wait_policy(WaitPolicy::Never)));
    table.goal(with, bound).goal(With::BestRival, 1.0);
    table
        .ours("messages of a Worker", move || message_trip(pair, pace))
        .goal(With::Case(bare_name(bare).into()), if bare == Waiting::Sleep { 1.3 } else { 2.0 });
    table.goal(With::BestRival, 1.0);
    let rivals: [(&str, Trip); 9] = [
        ("crossbeam-channel", threads::crossbeam_channel),
        ("kanal", threads::kanal),
        ("flume", threads::flume),
        ("std sync_channel", threads::std_channel),
        ("rayon install", threads::rayon_install),
        ("rayon spawn, crossbeam-channel", threads::rayon_spawn),
        ("tokio spawn_blocking", threads::tokio_spawn_blocking),
        ("threadpool, crossbeam-channel", threads::threadpool),
        ("rusty_pool evaluate", threads::rusty_pool),
    ];
    for (name, trip) in rivals {
        table.rival(name, move || trip(pair, pace));
    }
    add_scripts(&mut table, effort, pair, pace, THREAD_SCRIPTS);
    table
}

fn between_processes(effort: Effort, title: &str, pair: Pair, pace: Pace, bare: Waiting) -> Table<'static> {
    let mut table = Table::new(title, "ns", Better::Lower);
    for &waiting in limits(bare) {
        table.limit(bare_name(waiting), move || Ok(bare::between_processes(pair, pace, waiting)));
    }
    let (with, bound) = bound(bare);
    table.ours("engine", move || engine_trip(one_process(Engine::builder(), pair), pair, pace));
    table.goal(with, bound);
    // One that polls for ever takes a core of its own: those that sleep are compared with those that sleep.
    let asleep: &[&str] = &["event", "ipc-channel", "socket", "Node fork", "workerpool process", "Python Pool"];
    let alike = if bare == Waiting::Sleep { asleep } else { &[] };
    table.goal(if alike.is_empty() { With::BestRival } else { With::BestOf(alike) }, 1.0);
    table.rival("iceoryx2 publish-subscribe, polling", move || iceoryx::round_trip(pair, pace, false));
    table.rival("iceoryx2 publish-subscribe, events", move || iceoryx::round_trip(pair, pace, true));
    table.rival("ipc-channel", move || ipc::round_trip(pair, pace));
    table.rival("Unix socket", move || sockets::round_trip(pair, pace));
    add_scripts(&mut table, effort, pair, pace, PROCESS_SCRIPTS);
    table
}
