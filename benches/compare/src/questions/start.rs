//! From nothing to the first result of a tiny job: what a program pays that starts a pool for one thing.
//!
//! Everything is made anew for each sample; taking it down again is not counted. Between processes the other side is a copy of this
//! program.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use iceoryx2::prelude::*;
use ipc_channel::ipc::{IpcOneShotServer, IpcReceiver, IpcSender};
use workring::{Engine, WaitPolicy};

use super::Effort;
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::ours::{self, close};
use crate::peer::Peer;
use crate::place::Pair;
use crate::rivals::threads::{rayon_pool, tokio_runtime};
use crate::statistics::Summary;

const WORKERS: usize = 2;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let Some(pair) = Pair::split() else { return Err("starting needs two cores".into()) };
    let starts = effort.pick(9, 1);
    Ok(vec![effort.run(of_threads(starts))?, effort.run(of_processes(starts, pair))?])
}

/// Milliseconds until there is an answer: the median of some starts. What was made is taken down by `end`.
fn milliseconds<T>(starts: usize, from_nothing: impl Fn(u64) -> Result<(u64, T), String>, end: impl Fn(T)) -> Sample {
    let mut samples = Vec::with_capacity(starts);
    for number in 0..starts as u64 {
        let start = Instant::now();
        let (answer, made) = from_nothing(number)?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        end(made);
        assert_eq!(answer, number + 1, "the answer to this very question");
    }
    Ok(Summary::of(&samples).median)
}

fn of_threads(starts: usize) -> Table<'static> {
    let mut table = Table::new("2 threads and the first result", "ms", Better::Lower);
    table.limit("2 threads that begin and end", move || {
        let from_nothing = |number| {
            let others = [0, 1].map(|_| thread::spawn(move || number + 1));
            Ok((others.map(|other| other.join().expect("it does not panic"))[0], ()))
        };
        milliseconds(starts, from_nothing, drop)
    });
    let ours = move |help: WaitPolicy| {
        let from_nothing = |number| {
            let engine =
                Engine::builder().threads(WORKERS).wait_policy(help).build().map_err(|error| error.to_string())?;
            let job = engine.run(move || number + 1).map_err(|failed| failed.error.to_string())?;
            Ok((job.wait().expect("the closure cannot panic"), engine))
        };
        milliseconds(starts, from_nothing, close)
    };
    // The waiting thread may run the job itself: nothing waits for the threads.
    table.ours("run, as built by default", move || ours(WaitPolicy::default()));
    table.ours("run, by a worker", move || ours(WaitPolicy::Never));
    table.rival("rayon install", move || {
        let from_nothing = |number| {
            let pool = rayon_pool(WORKERS, None);
            Ok((pool.install(|| number + 1), pool))
        };
        milliseconds(starts, from_nothing, drop)
    });
    table.rival("tokio spawn_blocking", move || {
        let from_nothing = |number| {
            let runtime = tokio_runtime(WORKERS, None);
            let job = runtime.spawn_blocking(move || number + 1);
            Ok((runtime.block_on(job).expect("it does not panic"), runtime))
        };
        milliseconds(starts, from_nothing, drop)
    });
    table.rival("threadpool", move || {
        let from_nothing = |number| {
            let pool = threadpool::ThreadPool::new(WORKERS);
            let (reply, replied) = crossbeam_channel::bounded(1);
            pool.execute(move || reply.send(number + 1).expect("somebody waits"));
            Ok((replied.recv().expect("a reply"), pool))
        };
        milliseconds(starts, from_nothing, |pool| pool.join())
    });
    table.rival("rusty_pool", move || {
        let from_nothing = |number| {
            let pool = rusty_pool::ThreadPool::new(WORKERS, WORKERS, Duration::from_secs(60));
            Ok((pool.evaluate(move || number + 1).await_complete(), pool))
        };
        milliseconds(starts, from_nothing, rusty_pool::ThreadPool::shutdown_join)
    });
    table
}

fn of_processes(starts: usize, pair: Pair) -> Table<'static> {
    let mut table = Table::new("processes and the first result", "ms", Better::Lower);
    table.limit("the program `true`, to its end", move || {
        let from_nothing = |number| {
            let status = Command::new("true").stdin(Stdio::null()).status().map_err(|error| error.to_string())?;
            Ok((number + u64::from(status.success()), ()))
        };
        milliseconds(starts, from_nothing, drop)
    });
    let ours = move |processes: usize| {
        let from_nothing = |number| {
            let builder = Engine::builder().processes(processes).kernels(&ours::known()).wait_policy(WaitPolicy::Never);
            let engine = builder.build().map_err(|error| error.to_string())?;
            let batch = engine.batch::<u64>(1).map_err(|error| error.to_string())?;
            let job = engine.submit(ours::tiny, batch, number).map_err(|failed| failed.error.to_string())?;
            let batch = job.wait().map_err(|failed| failed.error.to_string())?;
            Ok((batch[0], (batch, engine)))
        };
        milliseconds(starts, from_nothing, |(batch, engine)| {
            drop(batch);
            close(engine);
        })
    };
    table.ours("submit, 1 process", move || ours(1)).goal(With::BestOf(&["iceoryx2"]), 1.0);
    table.ours("submit, 2 processes", move || ours(2));
    table.rival("iceoryx2, node, services and 1 process", move || {
        let failed = |error: Box<dyn core::error::Error>| error.to_string();
        milliseconds(starts, |number| iceoryx(pair, number).map_err(failed), |end| end().expect("it ends"))
    });
    table.rival("ipc-channel and 1 process", move || {
        let from_nothing = |number| {
            type Ends = (IpcSender<u64>, IpcReceiver<u64>);
            let (server, name) = IpcOneShotServer::<Ends>::new().map_err(|error| error.to_string())?;
            let peer = Peer::start("ipc", pair, &[&name]);
            let (_, (ask, replied)) = server.accept().map_err(|error| error.to_string())?;
            ask.send(number).map_err(|error| error.to_string())?;
            Ok((replied.recv().map_err(|error| error.to_string())?, (ask, peer)))
        };
        milliseconds(starts, from_nothing, |(ask, peer)| {
            drop(ask);
            peer.join();
        })
    });
    table
}

type Failure = Box<dyn core::error::Error>;

/// The answer, and what ends the other process.
fn iceoryx(pair: Pair, number: u64) -> Result<(u64, impl FnOnce() -> Result<(), Failure>), Failure> {
    // The other process answers what comes by the one service through the other, and ends at the largest number.
    let name = format!("workring-compare-start-{}", std::process::id());
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let service = |end: &str| -> Result<_, Failure> {
        let name = ServiceName::new(&format!("{name}-{end}"))?;
        Ok(node.service_builder(&name).publish_subscribe::<u64>().open_or_create()?)
    };
    let (there, back) = (service("there")?, service("back")?);
    let (ask, replied) = (there.publisher_builder().create()?, back.subscriber_builder().create()?);
    let peer = Peer::start("iceoryx", pair, &[&name, "poll"]);
    ask.loan_uninit()?.write_payload(number).send()?;
    let answer = loop {
        match replied.receive()? {
            Some(answer) => break *answer,
            // The other process may need this core.
            None => thread::yield_now(),
        }
    };
    let end = move || {
        let _hold = (node, there, back, replied);
        ask.loan_uninit()?.write_payload(u64::MAX).send()?;
        peer.join();
        Ok(())
    };
    Ok((answer, end))
}
