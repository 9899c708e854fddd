//! A batch of f64 goes to a worker, which changes every value, and comes back.
//!
//! The batch is warm: what is measured is the steady state, in which the same memory goes there and back. The floor is the kernel
//! alone, on the core of the worker.

use std::thread;

use workring::Engine;

use super::Effort;
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::ours::{self, close, one_process, one_thread};
use crate::place::Pair;
use crate::rivals::scripts::{self, Ask, Script};
use crate::rivals::threads::rayon_pool;
use crate::rivals::{iceoryx, ipc, sockets};
use crate::work::{self, check, double, microseconds_each};

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let Some(pair) = Pair::split() else { return Err("handing over needs two cores".into()) };
    let sizes: &[(usize, &str, usize)] = match effort.is_quick {
        true => &[(1 << 16, "64 KiB", 3)],
        // Enough turns for some milliseconds, and few enough that numbers stay below the largest.
        false => &[(1 << 16, "64 KiB", 900), (1 << 20, "1 MiB", 100), (1 << 26, "64 MiB", 5), (1 << 30, "1 GiB", 2)],
    };
    let mut measured = Vec::new();
    for &(bytes, size, turns) in sizes {
        measured.push(effort.run(to_a_thread(effort, pair, bytes / 8, size, turns))?);
        measured.push(effort.run(to_a_process(effort, pair, bytes / 8, size, turns))?);
    }
    Ok(measured)
}

const FLOOR: &str = "the kernel alone, in place";

fn kernel_alone(pair: Pair, len: usize, turns: usize) -> f64 {
    let work = move || {
        pair.pin_worker();
        microseconds_each(turns, &mut vec![0.0; len], double)
    };
    thread::spawn(work).join().expect("it does not panic")
}

fn engine(engine: Engine, pair: Pair, len: usize, turns: usize) -> Sample {
    let mut batch = Some(engine.batch::<f64>(len).map_err(|error| error.to_string())?);
    // The values stay in the batch: what is counted here are the turns.
    let mut ends = [0.0; 2];
    let sample = pair.with_caller(|| {
        microseconds_each(turns, &mut ends, |ends| {
            let handed = batch.take().expect("the batch came back");
            let back = engine.submit(ours::double, handed, ()).expect("room for a job").wait().expect("it cannot fail");
            ends.copy_from_slice(&[back[0], back[len - 1]]);
            batch = Some(back);
        })
    });
    check(turns + 2, batch.as_ref().expect("the batch came back"));
    drop(batch);
    close(engine);
    Ok(sample)
}

fn to_a_thread(effort: Effort, pair: Pair, len: usize, size: &str, turns: usize) -> Table<'static> {
    let mut table = Table::new(format!("{size} to a thread and back"), "us", Better::Lower);
    table.limit(FLOOR, move || Ok(kernel_alone(pair, len, turns))).is_floor();
    let moved = "crossbeam-channel, the Vec is moved";
    // The worker's thread does the work here, as in all the others: a caller that helps would do it itself.
    table.ours("engine", move || {
        engine(
            one_thread(Engine::builder().capacity(room(len)).wait_policy(workring::WaitPolicy::Never), pair),
            pair,
            len,
            turns,
        )
    });
    table.goal(With::Case(moved.into()), 1.0);
    table.rival(moved, move || crossbeam(pair, len, turns, |values| values));
    table.rival("crossbeam-channel, cloned both ways", move || crossbeam(pair, len, turns, |values| values.clone()));
    table.rival("rayon install", move || {
        let pool = rayon_pool(1, Some(pair));
        let mut values = vec![0.0; len];
        Ok(pair.with_caller(|| microseconds_each(turns, &mut values, |values| pool.install(|| double(values)))))
    });
    add_scripts(&mut table, effort, pair, (len, turns), THREAD_SCRIPTS);
    table
}

/// Interpreters and their pools.
const THREAD_SCRIPTS: &[(&str, Script)] = &[
    ("Node worker_threads, cloned", scripts::NODE_CLONE),
    ("Node worker_threads, transferred", scripts::NODE_TRANSFER),
    ("Node worker_threads, SharedArrayBuffer", scripts::NODE_SHARED),
    ("Piscina, transferred", scripts::PISCINA_TRANSFER),
    ("Piscina, SharedArrayBuffer", scripts::PISCINA_SHARED),
    ("workerpool thread, transferred", scripts::WORKERPOOL_THREAD),
];

const PROCESS_SCRIPTS: &[(&str, Script)] = &[
    ("Node fork", scripts::NODE_FORK),
    ("workerpool process", scripts::WORKERPOOL_PROCESS),
    ("Python Pool, pickle", scripts::PYTHON_POOL),
    ("Python shared_memory", scripts::PYTHON_SHARED),
];

/// Copies of a GiB would take minutes: only rivals that share memory hand one over.
fn add_scripts(
    table: &mut Table<'_>,
    effort: Effort,
    pair: Pair,
    (len, turns): (usize, usize),
    all: &[(&'static str, Script)],
) {
    for (name, script) in scripts::of_run(effort.is_quick, all) {
        if len * size_of::<f64>() < 1 << 30 || script.shares_memory() {
            table.rival(name, move || {
                scripts::sample(script, Ask::HandOver { len, turns }, Some(pair), effort.is_quick)
            });
        }
    }
}

/// The arena: the batch, and a little.
fn room(len: usize) -> u64 {
    (len as u64 * 8).max(1 << 20) + (1 << 20)
}

fn crossbeam(pair: Pair, len: usize, turns: usize, hand: fn(Vec<f64>) -> Vec<f64>) -> Sample {
    let (ask, asked) = crossbeam_channel::bounded::<Vec<f64>>(64);
    let (reply, replied) = crossbeam_channel::bounded::<Vec<f64>>(64);
    thread::scope(|scope| {
        scope.spawn(move || {
            pair.pin_worker();
            for mut values in asked {
                work::double(&mut values);
                reply.send(hand(values)).expect("somebody waits");
            }
        });
        let mut values = vec![0.0; len];
        let mut ends = [0.0; 2];
        let sample = pair.with_caller(|| {
            microseconds_each(turns, &mut ends, |ends| {
                ask.send(hand(core::mem::take(&mut values))).expect("the thread is there");
                values = replied.recv().expect("the thread is there");
                ends.copy_from_slice(&[values[0], values[len - 1]]);
            })
        });
        drop(ask);
        Ok(sample)
    })
}

fn to_a_process(effort: Effort, pair: Pair, len: usize, size: &str, turns: usize) -> Table<'static> {
    let mut table = Table::new(format!("{size} to a process and back"), "us", Better::Lower);
    table.limit(FLOOR, move || Ok(kernel_alone(pair, len, turns))).is_floor();
    table.ours("engine", move || engine(one_process(Engine::builder().capacity(room(len)), pair), pair, len, turns));
    table.goal(With::BestOf(&["iceoryx2"]), 1.0);
    if len == 1 << 23 {
        table.goal(With::BestOf(&["ipc-channel", "Unix socket", "Node fork", "Python Pool"]), 0.2);
    }
    table.rival("iceoryx2, loan and publish, polling", move || iceoryx::hand_over(pair, len, turns, false));
    table.rival("iceoryx2, loan and publish, events", move || iceoryx::hand_over(pair, len, turns, true));
    table.rival("ipc-channel, bytes", move || ipc::hand_over(pair, len, turns));
    table.rival("Unix socket", move || sockets::hand_over(pair, len, turns));
    add_scripts(&mut table, effort, pair, (len, turns), PROCESS_SCRIPTS);
    table
}
