//! Every option with every call, and every option of a builder with every kind of engine: each does what it says, or is refused by name.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context as TaskContext, Waker};
use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use workring::{
    Backpressure, Builder, Chunking, Engine, Error, IdleStrategy, JobBuilder, Priority, Retry, SharedArray, WaitPolicy,
    Worker,
    batch::{Backing, Placement},
    job::ProgressMeter,
    kernels,
    message::WorkerScope,
    process::WorkerProgram,
    shared::WaitOutcome,
    stats::Timing,
};

use crate::support::{Blocker, Checked, Gate, LIMIT, STEP, eventually, watched};

/// Elements of each call, of which every chunk and every row makes a mark.
const LEN: usize = 4;
static MARKS: Mutex<Vec<&str>> = Mutex::new(Vec::new());
/// The marks are the whole program's: one test at a time makes them.
static MARKING: Mutex<()> = Mutex::new(());

fn mark(what: &'static str) {
    MARKS.lock().unwrap().push(what);
}

fn marks() -> Vec<&'static str> {
    std::mem::take(&mut MARKS.lock().unwrap())
}

#[workring::kernel]
fn note(_y: &mut [u64]) {
    mark("call");
}

#[workring::reducer(combine = |left, right| left + right)]
fn count(x: &[u64]) -> u64 {
    mark("call");
    x.len() as u64
}

/// What a call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A job of a kernel.
    Job,
    /// One of a closure.
    Closure,
    /// It blocks, over chunks of a length that the option says or the engine chooses.
    Blocking,
    /// The same with a closure.
    BlockingClosure,
    /// It blocks, over chunks that an argument describes.
    Chunked,
    ChunkedClosure,
}

impl Kind {
    fn gives_job(self) -> bool {
        matches!(self, Self::Job | Self::Closure)
    }

    fn runs_closure(self) -> bool {
        matches!(self, Self::Closure | Self::BlockingClosure | Self::ChunkedClosure)
    }
}

type Perform = fn(&Engine, JobBuilder<'_>) -> Result<(), Error>;

/// Every call, to its end.
const CALLS: [(&str, Kind, Perform); 16] = [
    ("submit", Kind::Job, |engine, call| {
        let batch = engine.batch::<u64>(LEN)?;
        call.submit(note, batch, ()).map_err(Error::from)?.wait().map_err(Error::from).map(drop)
    }),
    ("submit_async", Kind::Job, |engine, call| {
        let batch = engine.batch::<u64>(LEN)?;
        block_on(call.submit_async(note, batch, ())).map_err(Error::from)?.wait().map_err(Error::from).map(drop)
    }),
    ("submit_named", Kind::Job, |engine, call| {
        let batches = vec![engine.batch::<u64>(LEN)?.into()];
        call.submit_named("note", batches, &[]).map_err(Error::from)?.wait().map_err(Error::from).map(drop)
    }),
    ("submit_many", Kind::Job, |engine, call| {
        let batch = engine.batch::<u64>(LEN)?;
        call.submit_many(note, batch, LEN).map_err(Error::from)?.wait().map_err(Error::from).map(drop)
    }),
    ("run", Kind::Closure, |_, call| call.run(|| mark("call")).map_err(Error::from)?.wait().map_err(Error::from)),
    ("run_with", Kind::Closure, |_, call| {
        call.run_with(|_| mark("call")).map_err(Error::from)?.wait().map_err(Error::from)
    }),
    ("map", Kind::Blocking, |engine, call| call.map(note, (), &mut engine.batch::<u64>(LEN)?, &())),
    ("map_chunks", Kind::Chunked, |engine, call| {
        call.map_chunks(note, (), &mut engine.batch::<u64>(LEN)?, &(), Chunking::of(3))
    }),
    ("reduce", Kind::Blocking, |engine, call| {
        assert_eq!(call.reduce(count, &engine.batch::<u64>(LEN)?, &())?, LEN as u64);
        Ok(())
    }),
    ("map_with", Kind::BlockingClosure, |_, call| call.map_with(&[0; LEN], &mut [0; LEN], |_, _| mark("call"))),
    ("for_each_chunk", Kind::ChunkedClosure, |_, call| {
        call.for_each_chunk(&mut [0; LEN], Chunking::of(3), |_, _| mark("call"))
    }),
    ("for_each_index", Kind::BlockingClosure, |_, call| call.for_each_index(0..LEN, |_| mark("call"))),
    ("map_zip_with", Kind::BlockingClosure, |_, call| {
        call.map_zip_with((&[0; LEN], &mut [0; LEN]), |(_, _)| mark("call"))
    }),
    ("for_each_zip_chunk", Kind::ChunkedClosure, |_, call| {
        call.for_each_zip_chunk((&[0; LEN], &mut [0; LEN]), Chunking::of(3), |_, (_, _)| mark("call"))
    }),
    ("reduce_zip_with", Kind::BlockingClosure, |_, call| {
        call.reduce_zip_with((&[0; LEN], &mut [0; LEN]), |(_, _)| mark("call"), |(), ()| ())
    }),
    ("reduce_with", Kind::BlockingClosure, |_, call| call.reduce_with(&[0; LEN], |_| mark("call"), |(), ()| ())),
];

/// An option: its name in errors, how it is said, and for which calls it is.
type Said<'a> = (&'static str, Box<dyn Fn(JobBuilder<'a>) -> JobBuilder<'a> + 'a>, fn(&str, Kind) -> bool);

fn options<'a>(meter: &'a ProgressMeter) -> Vec<Said<'a>> {
    let all = |_: &str, _: Kind| true;
    vec![
        ("priority", Box::new(|call| call.priority(Priority::High)), all),
        ("deadline", Box::new(|call| call.deadline(LIMIT)), all),
        ("time_limit", Box::new(|call| call.time_limit(LIMIT)), all),
        ("backpressure(Reject)", Box::new(|call| call.backpressure(Backpressure::Reject)), all),
        ("backpressure(Wait)", Box::new(|call| call.backpressure(Backpressure::Wait)), all),
        ("backpressure(WaitFor)", Box::new(|call| call.backpressure(Backpressure::WaitFor(LIMIT))), |name, _| {
            name != "submit_async"
        }),
        ("tag", Box::new(|call| call.tag(7)), |_, kind| kind.gives_job()),
        ("retry", Box::new(|call| call.retry(Retry::up_to(2))), |_, kind| !kind.runs_closure()),
        ("chunk_len", Box::new(|call| call.chunk_len(2)), |_, kind| {
            matches!(kind, Kind::Blocking | Kind::BlockingClosure)
        }),
        ("meter", Box::new(move |call| call.meter(meter)), |_, kind| !kind.gives_job()),
    ]
}

fn engine() -> Checked {
    Checked::new(|builder| builder.threads(1).queue_capacity(64).wait_policy(WaitPolicy::Never).kernels(kernels![note]))
}

/// Makes a call on another thread while the worker is held, and `look`s when it waits.
fn while_queued(engine: &Engine, name: &str, perform: Perform, call: JobBuilder<'_>, look: impl FnOnce()) {
    let blocker = Blocker::all(engine);
    let before = engine.run(|| mark("before")).unwrap();
    let queued = engine.statistics().queued;
    thread::scope(|scope| {
        let done = scope.spawn(|| perform(engine, call));
        // Shares are no jobs that anybody sees, but they wait in the queue.
        eventually(&format!("{name} waits"), || engine.statistics().queued > queued);
        look();
        blocker.release();
        done.join().unwrap().unwrap();
    });
    before.wait().unwrap();
}

/// Options that mean nothing to a call were taken and forgotten: a tag of a `map`, a chunk length of a `submit`, a meter of a job, retries
/// of a closure; and `submit_async` waited although it was told to be rejected.
#[test]
fn every_option_works_with_a_call_or_is_refused_by_it() {
    watched(|| {
        let _marking = MARKING.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = engine();
        for (name, kind, perform) in CALLS {
            let meter = ProgressMeter::new();
            for (option, say, is_for) in options(&meter) {
                let result = perform(&engine, say(engine.job()));
                if is_for(name, kind) {
                    assert!(result.is_ok(), "{option} with {name}: {result:?}");
                    assert!(!marks().is_empty(), "{option} with {name}");
                    continue;
                }
                let Err(error @ Error::InvalidArgument { .. }) = result else {
                    panic!("{option} with {name}: {result:?}")
                };
                let text = error.to_string();
                assert!(text.contains(option) && text.contains(name), "{option} with {name}: {text}");
                assert!(marks().is_empty(), "{option} with {name} was refused, and the call made");
            }
            effects(&engine, name, kind, perform);
        }
        what_is_handed_over_comes_back(&engine);
        rows_are_spread_at_the_priority_of_their_job();
    });
}

/// What the options do that a call takes.
fn effects(engine: &Engine, name: &str, kind: Kind, perform: Perform) {
    // Before what waited longer.
    while_queued(engine, name, perform, engine.job().priority(Priority::High), || ());
    assert_eq!(marks().first(), Some(&"call"), "priority with {name}");
    while_queued(engine, name, perform, engine.job().priority(Priority::Low), || ());
    assert_eq!(marks().first(), Some(&"before"), "priority with {name}");
    for (limit, call) in [
        ("deadline", engine.job().deadline(Duration::from_nanos(1))),
        ("time_limit", engine.job().time_limit(Duration::from_nanos(1))),
    ] {
        let result = perform(engine, call);
        assert!(matches!(result, Err(Error::DeadlineExceeded)), "{limit} with {name}: {result:?}");
    }
    if kind.gives_job() {
        while_queued(engine, name, perform, engine.job().tag(7), || {
            assert!(engine.jobs().iter().any(|job| job.tag == 7), "tag with {name}");
        });
    } else {
        let meter = ProgressMeter::new();
        perform(engine, engine.job().meter(&meter)).unwrap();
        assert_eq!(meter.get().done, LEN as u64, "meter with {name}");
    }
    marks();
    if matches!(kind, Kind::Blocking | Kind::BlockingClosure) {
        let no_chunk = perform(engine, engine.job().chunk_len(0));
        assert!(matches!(no_chunk, Err(Error::InvalidArgument { .. })), "chunk_len with {name}");
        for (len, chunks) in [(1, 4), (3, 2), (4, 1)] {
            perform(engine, engine.job().chunk_len(len)).unwrap();
            // One is told of indices, not of chunks.
            let expected = if name == "for_each_index" { LEN } else { chunks };
            assert_eq!(marks().len(), expected, "chunk_len with {name}");
        }
    }
    // With a queue that is full.
    let blocker = Blocker::all(engine);
    let rest: Vec<_> = (0..63).map(|_| engine.run(|| ()).unwrap()).collect();
    let mut policies = vec![Backpressure::Reject, Backpressure::WaitFor(Duration::from_millis(1))];
    policies.truncate(if name == "submit_async" { 1 } else { 2 });
    for backpressure in policies {
        let result = perform(engine, engine.job().backpressure(backpressure));
        if kind.gives_job() {
            assert!(
                matches!(result, Err(Error::QueueFull { capacity: 64 })),
                "{backpressure:?} with {name}: {result:?}"
            );
        } else {
            // It needs no place: the calling thread does all of it.
            assert!(result.is_ok() && !marks().is_empty(), "{backpressure:?} with {name}: {result:?}");
        }
    }
    blocker.release();
    rest.into_iter().for_each(|job| job.wait().unwrap());
    marks();
}

fn what_is_handed_over_comes_back(engine: &Engine) {
    let batch = || engine.batch_from_slice(&[1_u64, 2]).unwrap();
    assert_eq!(*engine.job().chunk_len(1).submit(note, batch(), ()).unwrap_err().returned, [1, 2]);
    let failed = engine.job().chunk_len(1).submit_many(note, batch(), 2).unwrap_err();
    assert_eq!((&failed.returned.0[..], failed.returned.1), (&[1, 2][..], 2));
    let named = engine.job().chunk_len(1).submit_named("note", vec![batch().into()], &[]).unwrap_err();
    assert_eq!(named.returned.len(), 1);
    assert_eq!(*block_on(engine.job().chunk_len(1).submit_async(note, batch(), ())).unwrap_err().returned, [1, 2]);
    assert_eq!((engine.job().chunk_len(1).run(|| 5).unwrap_err().returned)(), 5);
    assert_eq!((engine.job().chunk_len(1).run_with(|_| 6).unwrap_err().returned)(), 6);
    // An engine that rejects says nothing about calls whose purpose is to wait; the call itself does.
    let rejects = Checked::new(|builder| {
        builder.threads(1).queue_capacity(64).backpressure(Backpressure::Reject).wait_policy(WaitPolicy::Never)
    });
    let blocker = Blocker::all(&rejects);
    let rest: Vec<_> = (0..63).map(|_| rejects.run(|| ()).unwrap()).collect();
    let mut waits = pin!(rejects.submit_async(note, rejects.batch::<u64>(1).unwrap(), ()));
    let mut context = TaskContext::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    let call = rejects.job().backpressure(Backpressure::Reject);
    let failed = block_on(call.submit_async(note, rejects.batch_from_slice(&[3_u64]).unwrap(), ())).unwrap_err();
    assert!(matches!(failed.error, Error::QueueFull { .. }) && *failed.returned == [3]);
    blocker.release();
    rest.into_iter().for_each(|job| job.wait().unwrap());
    block_on(waits).unwrap().wait().unwrap();
    marks();
}

/// The shares of a job of rows were queued at the usual priority, whatever its own was: a low one then held up others.
fn rows_are_spread_at_the_priority_of_their_job() {
    static IS_FIRST: AtomicBool = AtomicBool::new(true);
    static BEGUN: Mutex<Option<Gate>> = Mutex::new(None);
    #[workring::kernel]
    fn row(_y: &mut [u64]) {
        if IS_FIRST.swap(false, Ordering::AcqRel) {
            // The one that spreads the rows stays at the first of them until somebody else has begun something.
            let begun = BEGUN.lock().unwrap().clone().unwrap();
            begun.pass();
            eventually("the other worker does something", || !MARKS.lock().unwrap().is_empty());
        } else {
            mark("row");
        }
    }
    let engine = Checked::unhelped(2);
    let begun = Gate::default();
    begun.open();
    *BEGUN.lock().unwrap() = Some(begun.clone());
    let gate = Gate::default();
    let inside = gate.clone();
    let busy = engine.run(move || inside.pass()).unwrap();
    gate.await_arrivals(1);
    let many = engine.job().priority(Priority::Low).submit_many(row, engine.batch::<u64>(8).unwrap(), 8).unwrap();
    begun.await_arrivals(1);
    let other = engine.run(|| mark("other")).unwrap();
    gate.open();
    busy.wait().unwrap();
    other.wait().unwrap();
    assert!(many.wait().unwrap().failures.is_empty());
    assert_eq!(marks().first(), Some(&"other"));
}

type Say = fn(Builder) -> Builder;

/// Which workers an engine has.
const KINDS: [(&str, Say); 4] = [
    ("threads", |builder| builder.threads(2)),
    ("processes", |builder| builder.processes(2)),
    ("both", |builder| builder.threads(2).processes(2)),
    ("outside", |builder| builder.threads(0).external_workers(2)),
];

/// What errors are about that an option meets which is not for an engine, if not about its own name.
const LEAST: &str = "the least number of worker";
const NO_SHARING: &str = "need memory that can be shared";

/// Each option of a builder with a value, for which kinds it is, in the order of [`KINDS`], and what an error names where it is not.
fn builder_options() -> Vec<(&'static str, Say, [bool; 4], &'static str)> {
    const ALL: [bool; 4] = [true; 4];
    const THREADS: [bool; 4] = [true, false, true, false];
    const PROCESSES: [bool; 4] = [false, true, true, false];
    vec![
        ("capacity", |builder| builder.capacity(1 << 20), ALL, ""),
        ("queue_capacity", |builder| builder.queue_capacity(64), ALL, ""),
        ("backpressure", |builder| builder.backpressure(Backpressure::Reject), ALL, ""),
        ("idle_strategy", |builder| builder.idle_strategy(IdleStrategy::Park), ALL, ""),
        ("wait_policy", |builder| builder.wait_policy(WaitPolicy::OwnJob), ALL, ""),
        ("timing", |builder| builder.timing(Timing::All), ALL, ""),
        ("ageing", |builder| builder.ageing(3), ALL, ""),
        ("large_pages", |builder| builder.large_pages(false), ALL, ""),
        ("placement", |builder| builder.placement(Placement::Interleave), ALL, ""),
        ("prefault", |builder| builder.capacity(1 << 20).prefault(true), ALL, ""),
        ("retain", |builder| builder.retain(0), ALL, ""),
        ("backing", |builder| builder.backing(Backing::SharedMemory), ALL, ""),
        ("backing", |builder| builder.backing(Backing::Anonymous), [true, false, false, false], NO_SHARING),
        ("jobs_per_process", |builder| builder.jobs_per_process(2), PROCESSES, "one job at a time"),
        ("min_threads", |builder| builder.min_threads(1), THREADS, LEAST),
        ("min_processes", |builder| builder.min_processes(1), PROCESSES, LEAST),
        ("idle_timeout", |builder| builder.idle_timeout(STEP), [false; 4], "idle_timeout"),
        ("idle_timeout", |builder| builder.min_threads(1).idle_timeout(STEP), THREADS, LEAST),
        ("idle_timeout", |builder| builder.min_processes(1).idle_timeout(STEP), PROCESSES, LEAST),
        ("recycle_after", |builder| builder.recycle_after(3), [true, true, true, false], "recycle_after"),
        ("recycle_above", |builder| builder.recycle_above(1 << 20), PROCESSES, "recycle_above"),
        ("on_worker_start", |builder| builder.on_worker_start(|_| ()), THREADS, "on_worker_start"),
        ("on_worker_end", |builder| builder.on_worker_end(|_| ()), THREADS, "on_worker_end"),
        ("pin", |builder| builder.pin(true), THREADS, "pin"),
        ("thread_nice", |builder| builder.thread_nice(19), THREADS, "thread_nice"),
        ("listen", |builder| builder.listen("/nowhere/at/all"), [false, false, false, true], "listen"),
        ("worker_program", |builder| builder.worker_program(WorkerProgram::this()), PROCESSES, "worker_program"),
        ("kill_after", |builder| builder.kill_after(STEP), [false, true, true, true], "kill_after"),
    ]
}

/// `on_worker_end` of an engine of processes was never called, and nobody said so: what the workers there will be have no use for is an
/// error of `build`.
#[cfg(target_os = "linux")]
#[test]
fn every_option_of_a_builder_works_with_an_engine_or_is_refused_by_it() {
    for (option, say, is_for, refused) in builder_options() {
        for ((kind, workers), is_for) in KINDS.into_iter().zip(is_for) {
            // Memory is looked at after all that is said about workers, and kernels are missed before it.
            let listed: &[_] = if refused == NO_SHARING { kernels![note] } else { &[] };
            let built = say(workers(Engine::builder().capacity(1 << 20))).kernels(listed).build();
            let text = match built {
                Ok(engine) => {
                    assert!(is_for && kind == "threads", "{option} with {kind}");
                    engine.close(LIMIT).unwrap();
                    continue;
                }
                Err(error @ Error::InvalidArgument { .. }) => error.to_string(),
                Err(other) => panic!("{option} with {kind}: {other}"),
            };
            if is_for {
                // Nothing was started: that no kernel is listed comes to light after all that is said about workers.
                assert!(text.contains("need kernels") && kind != "threads", "{option} with {kind}: {text}");
            } else {
                assert!(text.contains(refused) && !text.contains("need kernels"), "{option} with {kind}: {text}");
            }
        }
    }
}

/// Names of the methods of a source file that take their value by itself: with `mut` those that give it back changed, without it those that
/// end the description.
fn methods_by_value(source: &str, takes: &str) -> BTreeSet<String> {
    let methods = source.split("pub fn ").skip(1);
    let by_value = methods.filter(|text| {
        let arguments = text.split_once('(').map_or("", |(_, arguments)| arguments.trim_start());
        arguments.strip_prefix(takes).is_some_and(|rest| rest.starts_with([',', ')']))
    });
    by_value.map(|text| text.split(['(', '<']).next().unwrap().to_owned()).collect()
}

/// A table of options that lacks one proves nothing about it.
#[test]
fn the_tables_have_every_option_and_every_call() {
    let read = |path: &str| {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/front").join(path)).unwrap()
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let jobs = ["submit/job_builder.rs", "submit/blocking.rs", "submit/named.rs", "submit/zip.rs"].map(read).concat();
    let meter = ProgressMeter::new();
    let said: Vec<&str> =
        options(&meter).iter().map(|(option, ..)| option.split_once('(').map_or(*option, |(name, _)| name)).collect();
    assert_eq!(methods_by_value(&jobs, "mut self"), names(&said));
    assert_eq!(methods_by_value(&jobs, "self"), names(&CALLS.map(|(name, ..)| name)));
    let builder = ["engine/builder.rs", "engine/workers.rs"].map(read).concat();
    let mut said: Vec<&str> = builder_options().iter().map(|(option, ..)| *option).collect();
    // What the kinds are made of, and what is missed if it is not said.
    said.extend(["threads", "processes", "external_workers", "kernels"]);
    assert_eq!(methods_by_value(&builder, "mut self"), names(&said));
    let found = methods_by_value("pub fn a(mut self, b: u8) {} pub fn c<T>(self) {} pub fn d(&self) {}", "mut self");
    assert_eq!(found, names(&["a"]));
}

/// No limit was said in three ways: by the longest duration, by none, and by another method.
#[test]
fn the_longest_duration_is_no_limit_of_any_call() {
    const NONE: Duration = Duration::MAX;
    watched(|| {
        let _marking = MARKING.lock().unwrap_or_else(PoisonError::into_inner);
        marks();
        let engine = engine();
        for (name, kind, perform) in CALLS {
            perform(&engine, engine.job().deadline(NONE).time_limit(NONE))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            if name != "submit_async" {
                let waits = engine.job().backpressure(Backpressure::WaitFor(NONE));
                perform(&engine, waits).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            if kind.gives_job() {
                // A place comes free while it waits.
                let blocker = Blocker::all(&engine);
                let rest: Vec<_> = (0..63).map(|_| engine.run(|| ()).unwrap()).collect();
                thread::scope(|scope| {
                    let waits = engine.job().backpressure(Backpressure::WaitFor(NONE));
                    let waits = if name == "submit_async" { engine.job() } else { waits };
                    let engine = &engine;
                    let done = scope.spawn(move || perform(engine, waits));
                    blocker.release();
                    rest.into_iter().for_each(|job| job.wait_timeout(NONE).expect("it ends").unwrap());
                    done.join().unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
                });
            }
        }
        engine.wait_idle_timeout(NONE).unwrap();
        let array = SharedArray::<i32>::new(1).unwrap();
        assert_eq!(array.wait(0, 1, NONE).unwrap(), WaitOutcome::NotEqual);
        thread::scope(|scope| {
            let waits = scope.spawn(|| array.wait(0, 0, NONE));
            eventually("it waits", || array.notify(0, 1).unwrap() == 1);
            assert_eq!(waits.join().unwrap().unwrap(), WaitOutcome::Ok);
        });
        let worker = Worker::builder().capacity(1).spawn(|scope: &WorkerScope<u64, u64>| {
            let message = scope.port().recv_timeout(NONE).unwrap().expect("no limit, and a message");
            scope.port().send_timeout(message.value + 1, Vec::new(), NONE).unwrap();
        });
        let worker = worker.unwrap();
        worker.port().send_timeout(1, Vec::new(), NONE).unwrap();
        assert_eq!(worker.port().recv_timeout(NONE).unwrap().unwrap().value, 2);
        assert!(worker.wait_timeout(NONE).is_some());
        let closing = Engine::builder().threads(1).build().unwrap();
        closing.close(NONE).unwrap();
        closing.close_now(NONE).unwrap();
        marks();
    });
}

/// As for engines.
#[cfg(target_os = "linux")]
#[test]
fn options_of_a_worker_are_refused_by_the_kind_that_has_no_use_for_them() {
    let none = |_: &WorkerScope<u64, u64>| ();
    for (option, builder) in [
        ("program", Worker::builder().program(WorkerProgram::this())),
        ("kill_after", Worker::builder().kill_after(STEP)),
    ] {
        let error = builder.spawn(none).err().unwrap();
        let text = error.to_string();
        assert!(
            matches!(error, Error::InvalidArgument { .. }) && text.contains(option) && text.contains("spawn"),
            "{text}"
        );
    }
    Worker::builder().stack_size(1 << 20).name("small").capacity(1).spawn(none).unwrap().join();
}
