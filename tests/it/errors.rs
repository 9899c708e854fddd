//! Every error says what happened, hands back what was given, and leaves an engine that goes on.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{self, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use workring::{Backpressure, Chunking, Context, Engine, Error, Failed, batch::PerChunk, kernel, reducer};

use crate::support::{Blocker, Checked, Gate, LIMIT, STEP, eventually, watched};

/// The line of the panic in `explode`.
static EXPLODED_AT: AtomicU32 = AtomicU32::new(0);

#[kernel]
fn add(a: &[u32], b: &[u32], y: &mut [u32]) {
    for i in 0..y.len() {
        y[i] = a[i] + b[i];
    }
}

#[kernel]
fn bump(y: &mut [u32]) {
    for y in y {
        *y += 1;
    }
}

#[kernel]
fn shift(y: &mut [u32], p: &[u64; 8]) {
    for y in y {
        *y += p[0] as u32;
    }
}

#[kernel]
fn explode(y: &mut [u32], p: &u32) {
    y[0] = 7;
    EXPLODED_AT.store(line!() + 1, Ordering::Relaxed);
    panic!("{p} is too many");
}

/// Fails on rows of nines.
#[kernel]
fn no_nines(y: &mut [u32]) -> Result<(), String> {
    for y in y {
        match *y {
            9 => return Err(format!("a nine, and this many bytes: {}", "x".repeat(20))),
            8 => panic!("an eight"),
            _ => *y += 1,
        }
    }
    Ok(())
}

/// Says a lot when it fails, after so many bytes of a start.
#[kernel]
fn verbose(y: &mut [u32], how: &[u32; 2]) -> Result<(), String> {
    let [panics, start] = *how;
    y[0] += 1;
    let text = format!("{}{}", "s".repeat(start as usize), "\u{4e16}".repeat(4000));
    if panics == 1 {
        panic!("{text}")
    }
    Err(text)
}

#[reducer(combine = |left, right| if left + right > 1_000_000 { panic!("too much: {left} and {right}") } else { left + right })]
fn total(x: &[u32]) -> u64 {
    x.iter().map(|&x| u64::from(x)).sum()
}

/// Shows that the engine does everything it did before.
#[track_caller]
fn goes_on(engine: &Engine) {
    let start = Instant::now();
    let jobs: Vec<_> = (0..2 * engine.threads())
        .map(|_| engine.submit(bump, engine.batch::<u32>(3).unwrap(), ()).expect("there is room"))
        .collect();
    for job in jobs {
        let done = job.wait_timeout(STEP).unwrap_or_else(|_| panic!("no worker does a job any more"));
        assert_eq!(*done.unwrap(), [1; 3]);
    }
    let mut y = engine.batch::<u32>(30_000).unwrap();
    engine.map(bump, (), &mut y, &()).unwrap();
    assert_eq!(engine.reduce(total, &y).unwrap(), 30_000);
    assert_eq!(engine.run(|| 5).unwrap().wait().unwrap(), 5);
    assert!(start.elapsed() < LIMIT);
}

#[track_caller]
fn mismatch(error: &Error) -> (&str, u64, u64) {
    match error {
        Error::LengthMismatch { what, found, expected } => (what, *found, *expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused_before_anything_runs() {
    let engine = Checked::threads(2);
    let (a, b) = (engine.batch_from_slice(&[1, 1, 1]).unwrap(), engine.batch_from_slice(&[1, 1]).unwrap());
    let mut y = engine.batch::<u32>(3).unwrap();
    let error = engine.map(add, (&a, &b), &mut y, &()).unwrap_err();
    assert_eq!(mismatch(&error), ("input 1", 2, 3));
    assert_eq!(error.to_string(), "input 1 has 2 elements where 3 are needed");
    let mut short = engine.batch::<u32>(2).unwrap();
    assert_eq!(mismatch(&engine.map(add, (&a, &a), &mut short, &()).unwrap_err()), ("output 0", 2, 3));
    // Five elements in chunks of two are three chunks: an output has 5 elements, or so many for each chunk if the caller says so.
    let five = engine.batch::<u32>(5).unwrap();
    let mut four = engine.batch::<u32>(4).unwrap();
    let error = engine.map_chunks(add, (&five, &five), &mut four, &(), Chunking::of(2)).unwrap_err();
    assert_eq!(mismatch(&error), ("output 0", 4, 5));
    let mut six = engine.batch::<u32>(6).unwrap();
    let error = engine.map_chunks(add, (&five, &five), &mut six, &(), Chunking::of(2)).unwrap_err();
    assert_eq!(mismatch(&error), ("output 0", 6, 5), "it is no output per chunk: nobody said so");
    let error = engine.map_chunks(add, (&five, &five), PerChunk(&mut four), &(), Chunking::of(2)).unwrap_err();
    assert_eq!(mismatch(&error), ("output 0", 4, 6));
    let none = engine.batch::<u32>(0).unwrap();
    let error = engine.map_chunks(add, (&none, &none), PerChunk(&mut four), &(), Chunking::of(2)).unwrap_err();
    assert_eq!(mismatch(&error), ("output 0", 4, 0), "no chunk has no elements");
    let error = engine.map_chunks(bump, (), PerChunk(&mut four), &(), Chunking::of(2)).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "how many chunks? {error}");
    let error = engine.map_with(&[1, 2, 3], &mut [0, 0], |_, _: &mut [i32]| unreachable!()).unwrap_err();
    assert_eq!(mismatch(&error), ("output", 2, 3));
    assert_eq!((&*y, &*short, &*four), (&[0, 0, 0][..], &[0, 0][..], &[0, 0, 0, 0][..]));
    goes_on(&engine);
}

#[test]
fn rows_that_do_not_fit_come_back() {
    let engine = Checked::threads(1);
    let failed = engine.submit_many(bump, engine.batch::<u32>(10).unwrap(), 3).unwrap_err();
    assert_eq!(mismatch(&failed.error), ("output 0", 10, 12));
    assert_eq!((failed.returned.0.len(), failed.returned.1), (10, 3));
    let failed = engine.submit_many(bump, engine.batch::<u32>(1).unwrap(), 0).unwrap_err();
    assert_eq!(mismatch(&failed.error), ("output 0", 1, 0));
    let [a, b, y] = [2, 3, 2].map(|len| engine.batch::<u32>(len).unwrap());
    let failed = engine.submit_many(add, (a, b, y), 2).unwrap_err();
    assert_eq!(mismatch(&failed.error), ("input 1", 3, 4));
    goes_on(&engine);
}

#[test]
fn chunks_that_cannot_be_are_refused() {
    let engine = Checked::threads(1);
    let mut y = engine.batch::<u32>(10).unwrap();
    for error in [
        engine.map_chunks(bump, (), &mut y, &(), Chunking::of(0)).unwrap_err(),
        engine.job().chunk_len(0).map(bump, (), &mut y, &()).unwrap_err(),
        engine.map_chunks(bump, (), &mut y, &(), Chunking::of(1).halo(1 << 33)).unwrap_err(),
        engine.for_each_chunk(&mut [0_u8; 3], Chunking::of(1).halo(1), |_, _| unreachable!()).unwrap_err(),
    ] {
        assert!(matches!(&error, Error::InvalidArgument { what } if what.len() > 20), "{error:?}");
    }
    goes_on(&engine);
}

#[test]
fn limits_out_of_range_are_refused_by_build() {
    for builder in [
        Engine::builder().threads(0),
        Engine::builder().threads(workring::MAX_THREADS + 1),
        Engine::builder().threads(1).queue_capacity(0),
        Engine::builder().threads(1).queue_capacity(u32::MAX),
        Engine::builder().threads(1).queue_capacity((1 << 20) + 1),
        Engine::builder().threads(1).capacity(0),
        Engine::builder().threads(1).capacity(u64::MAX),
    ] {
        let error = builder.clone().build().unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{builder:?}: {error:?}");
        assert!(error.to_string().len() > 20, "{error}");
    }
    let engine = Checked::new(|builder| builder.queue_capacity(65));
    assert_eq!(engine.statistics().queue_capacity, 128, "rounded up to a power of two");
}

#[test]
fn batches_of_another_engine_are_refused_and_come_back() {
    let (engine, other) = (Checked::threads(1), Checked::threads(1));
    let foreign = other.batch_from_slice(&[1, 2, 3]).unwrap();
    let shared = other.batch_from_slice(&[4, 5, 6]).unwrap().freeze();
    let own = engine.batch_from_slice(&[7, 8, 9]).unwrap();
    let mut y = engine.batch::<u32>(3).unwrap();
    let is_foreign = |error: &Error| assert!(matches!(error, Error::ForeignBatch), "{error:?}");
    is_foreign(&engine.map(add, (&foreign, &own), &mut y, &()).unwrap_err());
    is_foreign(&engine.map(add, (&own, &shared), &mut y, &()).unwrap_err());
    is_foreign(&engine.reduce(total, &foreign).unwrap_err());
    let Failed { error, returned: (own, shared, y) } = engine.submit(add, (own, shared, y), ()).unwrap_err();
    is_foreign(&error);
    assert!(error.to_string().contains("another engine"), "{error}");
    assert_eq!((&*own, &*shared, &*y), (&[7, 8, 9][..], &[4, 5, 6][..], &[0, 0, 0][..]));
    let params = other.batch_from_slice(&[1_u32]).unwrap();
    let Failed { error, returned: (y, params) } = engine.submit_many(explode, y, params).unwrap_err();
    is_foreign(&error);
    assert_eq!((&*y, &*params), (&[0, 0, 0][..], &[1][..]));
    let mut foreign = foreign;
    is_foreign(&engine.map(bump, (), &mut foreign, &()).unwrap_err());
    goes_on(&engine);
    goes_on(&other);
}

/// Fills the queue of an engine of one worker, 64 places, with the worker held at `gate`; nothing of it is ever read.
fn fill_queue(engine: &Engine) -> Gate {
    let gate = Gate::default();
    let at_gate = gate.clone();
    drop(engine.run(move || at_gate.pass()).unwrap());
    gate.await_arrivals(1);
    for _ in 1..64 {
        drop(engine.run(|| ()).unwrap());
    }
    gate
}

#[test]
fn a_full_queue_hands_everything_back() {
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(1).queue_capacity(64));
        let gate = fill_queue(&engine);
        let is_full = |error: &Error| assert!(matches!(error, Error::QueueFull { capacity: 64 }), "{error:?}");
        let batch = engine.batch_from_slice(&[1_u32, 2]).unwrap();
        let address = batch.as_ptr();

        let Failed { error, returned: batch } =
            engine.job().backpressure(Backpressure::Reject).submit(bump, batch, ()).unwrap_err();
        is_full(&error);
        assert!(error.to_string().contains("64 jobs are unfinished"), "{error}");
        let limit = Duration::from_millis(30);
        let start = Instant::now();
        let Failed { error, returned: batch } =
            engine.job().backpressure(Backpressure::WaitFor(limit)).submit(shift, batch, [5; 8]).unwrap_err();
        is_full(&error);
        assert!(start.elapsed() >= limit, "it waits first");
        let Failed { error, returned: (batch, rows) } =
            engine.job().backpressure(Backpressure::Reject).submit_many(bump, batch, 2).unwrap_err();
        is_full(&error);
        assert_eq!((rows, &*batch, batch.as_ptr()), (2, &[1, 2][..], address), "the very same batch");
        let ran = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ran);
        let closure = move || seen.store(true, Ordering::Relaxed);
        let Failed { error, returned: closure } =
            engine.job().backpressure(Backpressure::Reject).run(closure).unwrap_err();
        is_full(&error);
        assert!(!ran.load(Ordering::Relaxed));
        closure();
        assert!(ran.load(Ordering::Relaxed), "the closure comes back ready to run");

        // Blocking calls do without the queue: the caller runs what it cannot hand over.
        let mut y = engine.batch::<u32>(50_000).unwrap();
        engine.map(bump, (), &mut y, &()).unwrap();
        assert!(y.iter().all(|&y| y == 1));
        gate.open();
        // Now there is room, and waiting for it works.
        let jobs: Vec<_> = (0..40).map(|_| engine.submit(bump, engine.batch::<u32>(1).unwrap(), ()).unwrap()).collect();
        jobs.into_iter().for_each(|job| assert_eq!(*job.wait().unwrap(), [1]));
        goes_on(&engine);
    });
}

#[test]
fn a_submit_waits_for_room_as_long_as_somebody_makes_it() {
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(1).queue_capacity(64));
        let gate = fill_queue(&engine);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let job = engine.job().backpressure(Backpressure::Wait).run(|| 3).unwrap();
                let timed = engine.job().backpressure(Backpressure::WaitFor(STEP)).run(|| 4).unwrap();
                job.wait().unwrap() + timed.wait().unwrap()
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiting.is_finished(), "the queue is full");
            gate.open();
            assert_eq!(waiting.join().unwrap(), 7);
        });
        goes_on(&engine);
    });
}

#[test]
fn a_closed_engine_hands_everything_back() {
    let engine = Checked::threads(1);
    let batch = engine.batch_from_slice(&[1_u32, 2]).unwrap();
    let mut y = engine.batch::<u32>(2).unwrap();
    engine.close(STEP).unwrap();
    let is_closed = |error: &Error| assert!(matches!(error, Error::Closed), "{error:?}");
    let Failed { error, returned: batch } = engine.submit(bump, batch, ()).unwrap_err();
    is_closed(&error);
    assert_eq!(error.to_string(), "the engine is closed");
    let Failed { error, returned: (batch, _) } = engine.submit_many(bump, batch, 2).unwrap_err();
    is_closed(&error);
    let Failed { error, returned: closure } = engine.run(|| 11).unwrap_err();
    is_closed(&error);
    assert_eq!(closure(), 11);
    let Failed { error, returned: batch } = pollster::block_on(engine.submit_async(bump, batch, ())).unwrap_err();
    is_closed(&error);
    is_closed(&engine.map(bump, (), &mut y, &()).unwrap_err());
    is_closed(&engine.reduce(total, &batch).unwrap_err());
    is_closed(&engine.map_with(&[1], &mut [0], |_, _: &mut [i32]| unreachable!()).unwrap_err());
    is_closed(&engine.for_each_chunk(&mut [0], Chunking::of(1), |_, _| unreachable!()).unwrap_err());
    is_closed(&engine.reduce_with(&[1], |_| -> u8 { unreachable!() }, |left, _| left).unwrap_err());
    assert_eq!((&*batch, &*y), (&[1, 2][..], &[0, 0][..]));
    // Memory is not the workers' business.
    assert_eq!(engine.batch::<u8>(10).unwrap().len(), 10);
}

#[test]
fn a_kernel_that_fails_says_why() {
    let engine = Checked::threads(2);
    let Failed { error, returned } =
        engine.submit(no_nines, engine.batch_from_slice(&[1, 9, 1]).unwrap(), ()).unwrap().wait().unwrap_err();
    let Error::KernelFailed { kernel, message } = &error else { panic!("{error:?}") };
    assert_eq!((kernel.as_str(), message.starts_with("a nine, and")), ("no_nines", true));
    assert_eq!(error.to_string(), format!("kernel no_nines failed: {message}"));
    assert_eq!(*returned, [2, 9, 1], "what it wrote so far is there");
    let mut y = engine.batch_from_slice(&[1, 9, 1]).unwrap();
    let error = engine.map(no_nines, (), &mut y, &()).unwrap_err();
    assert!(matches!(error, Error::KernelFailed { .. }), "{error:?}");
    goes_on(&engine);
}

#[test]
fn a_kernel_that_panics_says_what_and_where() {
    for engine in [Checked::threads(2), Checked::unhelped(1)] {
        let Failed { error, returned } =
            engine.submit(explode, engine.batch_from_slice(&[1, 2]).unwrap(), 30).unwrap().wait().unwrap_err();
        let Error::KernelPanicked { kernel, message, location } = &error else { panic!("{error:?}") };
        assert_eq!((kernel.as_str(), message.as_str()), ("explode", "30 is too many"));
        let at = format!("tests/it/errors.rs:{}:", EXPLODED_AT.load(Ordering::Relaxed));
        assert!(location.starts_with(&at), "{location}, not {at}");
        assert_eq!(error.to_string(), format!("kernel explode panicked at {location}: 30 is too many"));
        assert_eq!(*returned, [7, 2]);
        let mut y = engine.batch_from_slice(&[1, 2]).unwrap();
        let error = engine.map(explode, (), &mut y, &31).unwrap_err();
        assert!(error.to_string().ends_with(": 31 is too many") && error.to_string().contains(&at), "{error}");
        goes_on(&engine);
    }
}

#[test]
fn a_closure_that_panics_says_what_and_where() {
    let engine = Checked::threads(2);
    let line = line!() + 1;
    let Failed { error, returned } = engine.run(|| -> u8 { panic!("no {}", 1) }).unwrap().wait().unwrap_err();
    assert!(returned.unstarted().is_none(), "a closure that ran cannot come back");
    let Error::KernelPanicked { kernel, message, location } = &error else { panic!("{error:?}") };
    assert_eq!((kernel.as_str(), message.as_str()), ("closure", "no 1"));
    assert!(location.starts_with(&format!("tests/it/errors.rs:{line}:")), "{location}");
    let error = engine.run(|| -> u8 { std::panic::panic_any(5) }).unwrap().wait().unwrap_err().error;
    assert!(error.to_string().ends_with(": a panic without text"), "{error}");
    let error = engine.reduce_with(&[1; 10], |_| -> u8 { panic!("in a fold") }, |left, _| left).unwrap_err();
    assert!(error.to_string().ends_with(": in a fold"), "{error}");
    let two = engine.job().chunk_len(5);
    let error = two.reduce_with(&[1; 10], |_| 1, |_, _| -> i32 { panic!("in a combine") }).unwrap_err();
    assert!(error.to_string().ends_with(": in a combine"), "{error}");
    let x = engine.batch_from_fn(20_000, |_| 1_000_000_u32).unwrap();
    let error = engine.reduce(total, &x).unwrap_err();
    assert!(error.to_string().contains("kernel total panicked at tests/it/errors.rs"), "{error}");
    assert!(error.to_string().contains(": too much: "), "{error}");
    goes_on(&engine);
}

/// Chunks that failed, as they happened.
static FAILED_CHUNKS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Fails, or panics, from some chunk on.
#[kernel]
fn fragile(y: &mut [u32], from: &[u32; 2], ctx: &mut Context) -> Result<(), String> {
    y.fill(1);
    let chunk = ctx.chunk_index();
    if chunk < from[0] as usize {
        return Ok(());
    }
    FAILED_CHUNKS.lock().unwrap().push(chunk);
    let text = format!("chunk {chunk}");
    if from[1] == 1 {
        panic!("{text}")
    }
    Err(text)
}

#[test]
fn of_several_failing_chunks_the_lowest_is_reported() {
    watched(|| {
        for engine in [Checked::threads(1), Checked::threads(4), Checked::unhelped(3)] {
            let mut y = engine.batch::<u32>(400).unwrap();
            for round in 0..60 {
                let (from, panics) = (round % 20, round & 1);
                let result = engine.map_chunks(fragile, (), &mut y, &[from, panics], Chunking::of(10));
                let error = result.unwrap_err();
                let lowest = std::mem::take(&mut *FAILED_CHUNKS.lock().unwrap()).into_iter().min();
                let wanted = format!("chunk {}", lowest.expect("a chunk failed"));
                let message = match (&error, panics) {
                    (Error::KernelPanicked { message, .. }, 1) | (Error::KernelFailed { message, .. }, 0) => message,
                    _ => panic!("{error:?}"),
                };
                assert_eq!(*message, wanted, "round {round} on {} threads", engine.threads());

                let failed = Mutex::new(Vec::new());
                let error = engine
                    .for_each_chunk(&mut y, Chunking::of(10), |first, _| {
                        if first >= from as usize * 10 {
                            failed.lock().unwrap().push(first);
                            panic!("element {first}");
                        }
                    })
                    .unwrap_err();
                let lowest = failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_iter().min();
                assert!(error.to_string().ends_with(&format!(": element {}", lowest.unwrap())), "{error}");
            }
            goes_on(&engine);
        }
    });
}

#[test]
fn a_row_that_fails_fails_alone() {
    for engine in [Checked::threads(2), Checked::unhelped(1)] {
        let value = |row: usize| match row % 100 {
            17 => 9,
            50 => 8,
            _ => 1,
        };
        let rows = 1000;
        let y = engine.batch_from_fn(rows, value).unwrap();
        let many = engine.submit_many(no_nines, y, rows).unwrap().wait().unwrap();
        let bad: Vec<usize> = (0..rows).filter(|row| value(*row) != 1).collect();
        assert_eq!(many.failures.iter().map(|failure| failure.row).collect::<Vec<_>>(), bad, "in order of the rows");
        for failure in &many.failures {
            match (&failure.error, value(failure.row)) {
                (Error::KernelFailed { kernel, message }, 9) => {
                    assert_eq!((kernel.as_str(), message.starts_with("a nine")), ("no_nines", true));
                }
                (Error::KernelPanicked { message, location, .. }, 8) => {
                    assert_eq!((message.as_str(), location.starts_with("tests/it/errors.rs:")), ("an eight", true));
                }
                (error, _) => panic!("row {}: {error:?}", failure.row),
            }
            let text = failure.to_string();
            assert!(text.starts_with(&format!("job {}: kernel no_nines ", failure.row)), "{text}");
        }
        assert!((0..rows).all(|row| many.batches[row] == if value(row) == 1 { 2 } else { value(row) }));

        // Of more failures than texts are kept every one is still named, with its kind.
        let many = engine.submit_many(no_nines, engine.batch_from_fn(200, |row| 8 + row as u32 % 2).unwrap(), 200);
        let many = many.unwrap().wait().unwrap();
        assert_eq!(many.failures.len(), 200);
        for failure in &many.failures {
            let is_panic = matches!(failure.error, Error::KernelPanicked { .. });
            assert_eq!(is_panic, failure.row % 2 == 0, "{failure}");
        }
        let full = many.failures.iter().filter(|failure| !failure.to_string().contains("more rows failed")).count();
        assert_eq!(full, 32);
        // The block of texts is used again: nothing of before may show.
        let y = engine.batch_from_fn(200, |row| if row == 3 { 9 } else { 1 }).unwrap();
        let many = engine.submit_many(no_nines, y, 200).unwrap().wait().unwrap();
        assert_eq!(many.failures.len(), 1);
        assert!(many.failures[0].to_string().starts_with("job 3: kernel no_nines failed: a nine"));
        goes_on(&engine);
    }
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let engine = Checked::threads(1);
    // Starts of all lengths modulo the three bytes of a character: the room ends everywhere in one.
    for how in (0..12).map(|round| [round % 2, round / 2]) {
        let job = engine.submit(verbose, engine.batch::<u32>(1).unwrap(), how).unwrap();
        let (message, location) = match job.wait().unwrap_err().error {
            Error::KernelFailed { message, .. } => (message, String::new()),
            Error::KernelPanicked { message, location, .. } => (message, location),
            error => panic!("{error:?}"),
        };
        let used = message.len() + location.len();
        assert!((478..=480).contains(&used), "{used} bytes are used of 480: no more than a character is given away");
        let rest = message.trim_start_matches('s');
        assert_eq!(message.len() - rest.len(), how[1] as usize);
        assert!(rest.chars().all(|character| character == '\u{4e16}'), "{rest}");
    }
    goes_on(&engine);
}

#[test]
fn too_large_a_parameter_is_out_of_memory_and_hands_back() {
    let engine = Checked::new(|builder| builder.threads(1).capacity(1 << 20));
    // Everything there is, whatever the arena keeps for itself.
    let mut held = Vec::new();
    for len in [1 << 20, 1 << 16, 4096, 64] {
        while let Ok(batch) = engine.batch_uninit::<u8>(len) {
            held.push(batch.assume_filled());
        }
    }
    let y = engine.batch::<u32>(1);
    assert!(matches!(y, Err(Error::OutOfMemory { .. })), "{y:?}");
    let last = held.pop().expect("something was had");
    drop(last);
    let y = engine.batch_uninit::<u32>(1).unwrap().fill(3);
    match engine.submit(shift, y, [4; 8]) {
        // The engine may keep room for itself; then the call succeeds.
        Ok(job) => assert_eq!(*job.wait().unwrap(), [7]),
        Err(Failed { error, returned }) => {
            assert!(matches!(error, Error::OutOfMemory { .. }), "{error:?}");
            assert_eq!(*returned, [3]);
        }
    }
    drop(held);
    goes_on(&engine);
}

/// Panics when it is dropped while armed.
struct Bomb {
    armed: bool,
    dropped: Arc<AtomicUsize>,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        assert!(!self.armed, "a bomb went off");
    }
}

fn bomb(dropped: &Arc<AtomicUsize>) -> Bomb {
    Bomb { armed: true, dropped: Arc::clone(dropped) }
}

#[test]
fn panics_in_drops_of_closures_end_no_worker() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let dropped = Arc::new(AtomicUsize::new(0));
        // Dropped at the end of the closure's run: its own panic.
        let carried = bomb(&dropped);
        let error = engine.run(move || drop(carried)).unwrap().wait().unwrap_err().error;
        assert!(error.to_string().ends_with(": a bomb went off"), "{error}");
        let mut expected = 1;
        // Dropped by the worker, when a job that nobody waits for is cancelled or detached: inline and boxed closures.
        for padding in [0_usize, 1] {
            let blocker = Blocker::all(&engine);
            let carried = (bomb(&dropped), vec![0; padding], [0_u64; 1]);
            let boxed = (bomb(&dropped), [0_u64; 20]);
            let jobs = [engine.run(move || drop(carried)).unwrap(), engine.run(move || drop(boxed)).unwrap()];
            for job in jobs {
                assert_eq!(job.cancel(), workring::job::CancelOutcome::BeforeStart);
                drop(job);
            }
            expected += 2;
            assert_eq!(dropped.load(Ordering::Relaxed), expected);
            blocker.release();
        }
        goes_on(&engine);
    });
}

#[test]
fn panics_in_drops_of_results_end_no_worker() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let dropped = Arc::new(AtomicUsize::new(0));
        for large in [false, true] {
            dropped.store(0, Ordering::Relaxed);
            let (gate, carried) = (Gate::default(), Arc::clone(&dropped));
            let inside = gate.clone();
            // Detached while it runs: the worker drops the result.
            let job = engine.run(move || {
                inside.pass();
                (bomb(&carried), if large { [0_u64; 30].to_vec() } else { Vec::new() })
            });
            drop(job.unwrap());
            gate.open();
            eventually("the result is dropped", || dropped.load(Ordering::Relaxed) == 1);
            // Finished, then dropped: this thread drops it, and does not panic either.
            let carried = Arc::clone(&dropped);
            let job = engine.run(move || bomb(&carried)).unwrap();
            eventually("the job is done", || job.is_finished());
            drop(job);
            assert_eq!(dropped.load(Ordering::Relaxed), 2);
            goes_on(&engine);
        }
    });
}

#[test]
fn panics_in_drops_of_results_that_came_too_late_keep_no_place() {
    watched(|| {
        let engine =
            Checked::new(|builder| builder.threads(1).queue_capacity(64).wait_policy(workring::WaitPolicy::Never));
        let dropped = Arc::new(AtomicUsize::new(0));
        let gate = Gate::default();
        let mut limit = Duration::from_millis(1);
        // More than there are places, and until one has begun in time: a busy machine may begin none so soon.
        for round in 1.. {
            if round > 70 && dropped.load(Ordering::Relaxed) > 0 {
                break;
            }
            if round % 70 == 0 {
                limit *= 2;
            }
            let (carried, inside) = (Arc::clone(&dropped), gate.clone());
            let late = move || {
                inside.pass();
                std::thread::sleep(2 * limit);
                bomb(&carried)
            };
            let call = engine.job().deadline(limit).backpressure(Backpressure::Reject);
            let job = call.run(late).expect("the places of the jobs before are free");
            gate.open();
            // One that never started comes back, and so does the result of one that did; the engine drops what nobody waits for.
            if round % 2 == 0 {
                drop(job);
                engine.wait_idle_timeout(STEP).unwrap();
                continue;
            }
            let failed = job.wait().map(|_| ()).expect_err("it is late");
            assert!(matches!(failed.error, Error::DeadlineExceeded), "round {round}: {failed}");
            if let Some(late) = failed.returned.late() {
                assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(late))).is_err(), "it is ours");
            }
        }
        goes_on(&engine);
    });
}

/// Wakers that panic.
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("an alarm");
    }
}

#[test]
fn panics_of_wakers_end_no_worker() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let alarm = Arc::new(Alarm(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&alarm));
        let blocker = Blocker::all(&engine);
        let mut job = pin!(engine.run(|| 5).unwrap());
        assert!(job.as_mut().poll(&mut task::Context::from_waker(&waker)).is_pending());
        blocker.release();
        eventually("the waker is called", || alarm.0.load(Ordering::Relaxed) == 1);
        let Poll::Ready(result) = job.as_mut().poll(&mut task::Context::from_waker(&waker)) else {
            panic!("it is done")
        };
        assert_eq!(result.unwrap(), 5);
        goes_on(&engine);
    });
}

#[test]
fn panics_of_wakers_that_wait_for_room_end_no_worker() {
    watched(|| {
        let engine =
            Checked::new(|builder| builder.threads(1).queue_capacity(64).wait_policy(workring::WaitPolicy::Never));
        let gate = fill_queue(&engine);
        let alarm = Arc::new(Alarm(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&alarm));
        let mut submit = pin!(engine.submit_async(bump, engine.batch::<u32>(2).unwrap(), ()));
        assert!(submit.as_mut().poll(&mut task::Context::from_waker(&waker)).is_pending());
        gate.open();
        eventually("the waker is called", || alarm.0.load(Ordering::Relaxed) > 0);
        let Poll::Ready(job) = submit.as_mut().poll(&mut task::Context::from_waker(&waker)) else {
            panic!("there is room")
        };
        let done = job.unwrap().wait_timeout(STEP).unwrap_or_else(|_| panic!("the worker is gone"));
        assert_eq!(*done.unwrap(), [1, 1]);
        goes_on(&engine);
    });
}

#[test]
fn errors_are_errors_of_the_usual_kind() {
    fn is_error<E: std::error::Error + Send + Sync + 'static>() {}
    is_error::<Error>();
    is_error::<Failed<workring::Batch<u8>>>();
    let engine = Checked::threads(1);
    let ask = || -> Result<(), Box<dyn std::error::Error>> {
        engine.submit(no_nines, engine.batch_from_slice(&[9])?, ())?.wait()?;
        Ok(())
    };
    assert!(ask().unwrap_err().to_string().starts_with("kernel no_nines failed"));
    let plain = || -> workring::Result<()> {
        engine.submit(no_nines, engine.batch_from_slice(&[8])?, ())?.wait()?;
        Ok(())
    };
    assert!(matches!(plain().unwrap_err(), Error::KernelPanicked { .. }));
}
