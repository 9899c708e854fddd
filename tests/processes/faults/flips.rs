//! Single flipped bits in the control segment of an engine that is at work: whatever is flipped, every call ends, and what it says is
//! right or an error that gives back what was handed over. Channels between processes are damaged in `messages.rs`, shared arrays in
//! `arrays.rs`; messages between threads are memory of one process, which has no checks.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use workring::__private::fault::{bits, flip, flip_waking, peek};
use workring::{Batch, Builder, Chunking, Engine, Error, Failed, IdleStrategy, SharedBatch, WaitPolicy};

use crate::kernels::{affine, below, increment, sum};
use crate::support::{eventually, kill};

/// Rounds of each kind of engine unless `WORKRING_FLIPS` says another number.
const ROUNDS: u32 = 40;
/// Elements of the long batch.
const LEN: usize = 20_000;
/// Elements of a small job's batches.
const SMALL: usize = 64;
/// Bits that say something of a worker, in the bitmaps of sleepers and searchers, of an engine with two.
const BITS_OF_WORKERS: usize = 4;
/// Threads and processes that wait in an engine with two workers: they, and the holder of a job.
const WAITERS: u64 = 3;
/// Times the load is run in a round.
const LOADS: u32 = 6;

/// Xorshift; any generator would do.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Engines whose segments are damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Threads,
    Processes,
    Mixed,
}

impl Kind {
    fn builder(self) -> Builder {
        let builder: Builder = Engine::builder().queue_capacity(64).capacity(1 << 27).wait_policy(WaitPolicy::Never);
        match self {
            Self::Threads => builder.threads(2),
            Self::Processes => builder.processes(2).kernels(crate::kernels::ALL()),
            Self::Mixed => builder.processes(1).threads(1).kernels(crate::kernels::ALL()),
        }
    }

    fn build(self) -> Engine {
        self.builder().build().expect("an undamaged engine can be built")
    }

    fn has_threads(self) -> bool {
        self != Self::Processes
    }
}

/// What jobs that did not succeed said, with how often.
#[derive(Default)]
struct Complaints(BTreeMap<String, u32>);

impl Complaints {
    fn note(&mut self, what: &str, error: &Error) {
        let error = error.to_string();
        let kind = error.split([':', '(']).next().unwrap_or_default().to_owned();
        *self.0.entry(format!("{what}: {kind}")).or_default() += 1;
    }

    fn of<T>(&mut self, what: &str, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.note(what, &error)).ok()
    }

    /// As above, for calls that give back what was handed over, which is looked at.
    fn of_job<T, R>(&mut self, what: &str, result: Result<T, Failed<R>>, look_at: impl FnOnce(&R)) -> Option<T> {
        result
            .map_err(|failed| {
                self.note(what, &failed.error);
                look_at(&failed.returned);
            })
            .ok()
    }
}

/// Every kind of call that is made while bits flip; what comes of each is checked against the obvious loop.
struct Load {
    x: SharedBatch<f64>,
    total: f64,
}

impl Load {
    fn new(engine: &Engine) -> Self {
        let x = engine.batch_from_fn(LEN, |at| at as f64).expect("an undamaged engine has memory").freeze();
        // Integers far below 2^53: every order of adding gives this.
        let total = (LEN as f64) * (LEN as f64 - 1.0) / 2.0;
        Self { x, total }
    }

    fn run(&self, engine: &Engine, kind: Kind, turn: u32, complaints: &mut Complaints) {
        self.blocking_calls(engine, turn, complaints);
        small_jobs(engine, turn, complaints);
        sets_of_jobs(engine, complaints);
        shortened_outputs(engine, complaints);
        rows(engine, complaints);
        awaited_jobs(engine, turn, complaints);
        if kind.has_threads() {
            closures(engine, complaints);
        }
    }

    fn blocking_calls(&self, engine: &Engine, turn: u32, complaints: &mut Complaints) {
        let Some(mut y) = complaints.of("batch", engine.batch::<f64>(LEN)) else { return };
        y.fill(-1.0);
        let factors = [f64::from(turn), 1.0];
        if complaints.of("map", engine.job().chunk_len(500).map(affine, &self.x, &mut y, &factors)).is_some() {
            assert!((0..LEN).all(|at| y[at] == factors[0] * at as f64 + 1.0), "map is not what the loop gives");
        }
        if let Some(total) = complaints.of("reduce", engine.job().chunk_len(500).reduce(sum, &self.x, &())) {
            assert_eq!(total, self.total, "reduce is not what the loop gives");
        }
    }
}

fn pair(engine: &Engine, complaints: &mut Complaints) -> Option<(Batch<f64>, Batch<f64>)> {
    let x = complaints.of("batch", engine.batch_from_fn(SMALL, |at| at as f64))?;
    Some((x, complaints.of("batch", engine.batch::<f64>(SMALL))?))
}

fn has_both((x, y): &(Batch<f64>, Batch<f64>)) {
    assert_eq!((x.len(), y.len()), (SMALL, SMALL), "what was handed over comes back");
    assert!((0..SMALL).all(|at| x[at] == at as f64), "an input was written");
}

fn is_affine((x, y): &(Batch<f64>, Batch<f64>), factor: f64) {
    assert_eq!((x.len(), y.len()), (SMALL, SMALL), "what was handed over comes back");
    assert!((0..SMALL).all(|at| y[at] == factor * at as f64 + 1.0), "a job is not what the loop gives");
}

/// Jobs with handles, some of them in place, whose batches come back with every error.
fn small_jobs(engine: &Engine, turn: u32, complaints: &mut Complaints) {
    let mut jobs = Vec::new();
    for number in 0..16 {
        let factor = f64::from(turn * 16 + number);
        let Some(batches) = pair(engine, complaints) else { continue };
        let submitted = engine.submit(affine, batches, [factor, 1.0]);
        jobs.extend(complaints.of_job("submit", submitted, has_both).map(|job| (factor, job)));
    }
    let in_place: Vec<_> = (0..4)
        .filter_map(|_| {
            let mut batch = complaints.of("batch", engine.batch::<u64>(SMALL))?;
            batch.fill(7);
            complaints.of_job("submit", engine.submit(increment, batch, ()), |batch| assert_eq!(batch.len(), SMALL))
        })
        .collect();
    for (factor, job) in jobs {
        if let Some(batches) = complaints.of_job("wait", job.wait(), has_both) {
            is_affine(&batches, factor);
        }
    }
    for job in in_place {
        let once_or_not = |batch: &Batch<u64>| assert!(batch.iter().all(|&value| value == 7 || value == 8));
        if let Some(batch) = complaints.of_job("wait", job.wait(), once_or_not) {
            assert!(batch.iter().all(|&value| value == 8), "a job in place ran once");
        }
    }
}

fn sets_of_jobs(engine: &Engine, complaints: &mut Complaints) {
    let Some(mut set) = complaints.of("job set", engine.job_set()) else { return };
    let mut put_in = 0;
    for key in 0..8_u64 {
        let Some(batches) = pair(engine, complaints) else { continue };
        let submitted = engine.submit(affine, batches, [key as f64, 1.0]);
        if let Some(job) = complaints.of_job("submit", submitted, has_both) {
            set.insert(key, job);
            put_in += 1;
        }
    }
    let mut came_out = 0;
    for (key, result) in &mut set {
        came_out += 1;
        if let Some(batches) = complaints.of_job("set", result, has_both) {
            is_affine(&batches, key as f64);
        }
    }
    assert_eq!(came_out, put_in, "every job of a set comes out of it");
}

/// Results whose lengths the kernel says.
fn shortened_outputs(engine: &Engine, complaints: &mut Complaints) {
    for limit in [0, 5, SMALL as u64] {
        let Some(x) = complaints.of("batch", engine.batch_from_fn(SMALL, |at| at as u64)) else { continue };
        let Some(y) = complaints.of("batch", engine.batch::<u64>(SMALL)) else { continue };
        let Some(job) = complaints.of_job("submit", engine.submit(below, (x, y), limit), |_| {}) else { continue };
        if let Some((_, kept)) = complaints.of_job("wait", job.wait(), |(x, _)| assert_eq!(x.len(), SMALL)) {
            assert_eq!(*kept, (0..limit).collect::<Vec<_>>(), "a shortened output is not what the loop gives");
        }
    }
}

fn rows(engine: &Engine, complaints: &mut Complaints) {
    const ROWS: usize = 1000;
    let Some(x) = complaints.of("batch", engine.batch_from_fn(2 * ROWS, |at| at as f64)) else { return };
    let Some(y) = complaints.of("batch", engine.batch::<f64>(2 * ROWS)) else { return };
    let Some(params) = complaints.of("batch", engine.batch_from_fn(ROWS, |row| [row as f64, 1.0])) else { return };
    type Handed = ((Batch<f64>, Batch<f64>), Batch<[f64; 2]>);
    let has_all = |((x, y), params): &Handed| {
        assert_eq!((x.len(), y.len(), params.len()), (2 * ROWS, 2 * ROWS, ROWS), "what was handed over comes back");
    };
    let Some(job) = complaints.of_job("rows", engine.submit_many(affine, (x, y), params), has_all) else { return };
    if let Some(many) = complaints.of_job("rows", job.wait(), has_all) {
        for failure in &many.failures {
            complaints.note("row", &failure.error);
        }
        let failed: Vec<usize> = many.failures.iter().map(|failure| failure.row).collect();
        let (x, y) = &many.batches;
        let is_right = |at: usize| failed.contains(&(at / 2)) || y[at] == (at / 2) as f64 * x[at] + 1.0;
        assert!((0..2 * ROWS).all(is_right), "rows are not what the loop gives");
    }
}

fn awaited_jobs(engine: &Engine, turn: u32, complaints: &mut Complaints) {
    for number in 0..4 {
        let factor = f64::from(turn + number);
        let Some(batches) = pair(engine, complaints) else { continue };
        let submitted = engine.submit(affine, batches, [factor, 1.0]);
        let Some(job) = complaints.of_job("submit", submitted, has_both) else { continue };
        if let Some(batches) = complaints.of_job("await", pollster::block_on(job), has_both) {
            is_affine(&batches, factor);
        }
    }
}

fn closures(engine: &Engine, complaints: &mut Complaints) {
    let mut numbers = vec![0_u32; LEN];
    let body = |start: usize, part: &mut [u32]| {
        part.iter_mut().enumerate().for_each(|(at, number)| *number += (start + at) as u32);
    };
    let each = engine.job().for_each_chunk(&mut numbers, Chunking::of(300), body);
    if complaints.of("for_each_chunk", each).is_some() {
        assert!((0..LEN).all(|at| numbers[at] == at as u32), "for_each_chunk is not what the loop gives");
    } else {
        numbers.iter_mut().enumerate().for_each(|(at, number)| *number = at as u32);
    }
    let fold = |part: &[u32]| part.iter().map(|&number| u64::from(number)).sum::<u64>();
    let total = engine.job().chunk_len(300).reduce_with(&numbers, fold, |left, right| left + right);
    if let Some(total) = complaints.of("reduce_with", total) {
        assert_eq!(total, (LEN as u64) * (LEN as u64 - 1) / 2, "reduce_with is not what the loop gives");
    }
    for number in 0..8_u64 {
        let submitted = engine.run(move || number * 2);
        let Some(job) = submitted.map_err(|failed| complaints.note("run", &failed.error)).ok() else { continue };
        match job.wait() {
            Ok(doubled) => assert_eq!(doubled, number * 2, "a closure is not what it gives"),
            Err(failed) => complaints.note("wait", &failed.error),
        }
    }
}

/// Chooses a bit: mostly of a word that says something, now and then any.
fn choose(engine: &Engine, random: &mut Random) -> u64 {
    for _ in 0..400 {
        let bit = random.next() % bits(engine);
        if peek(engine, bit) != Some(0) || random.next().is_multiple_of(100) {
            return bit;
        }
    }
    random.next() % bits(engine)
}

fn damage(kind: Kind, seed: u64) {
    let rounds: u32 = super::wanted("WORKRING_FLIPS", ROUNDS);
    let first: u32 = super::wanted("WORKRING_FLIPS_FROM", 0);
    let mut complaints = Complaints::default();
    let (mut broken, mut slowest) = (0, Duration::ZERO);
    for round in first..first + rounds {
        let mut random = Random::new(seed ^ (u64::from(round) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let engine = kind.build();
        let load = Load::new(&engine);
        let started = Instant::now();
        // The load of a round takes some milliseconds on a machine of today.
        let moment = Duration::from_micros(random.next() % 12_000);
        thread::scope(|scope| {
            let flipper = scope.spawn(|| {
                thread::sleep(moment);
                let bit = choose(&engine, &mut random);
                flip(&engine, bit).map(|before| (bit, before))
            });
            for turn in 0..LOADS {
                load.run(&engine, kind, turn, &mut complaints);
            }
            let flipped = flipper.join().expect("flipping a bit does not panic");
            let took = started.elapsed();
            slowest = slowest.max(took);
            if took > Duration::from_secs(4) {
                println!("{kind:?} round {round}: {took:?} after {flipped:?}");
            }
        });
        let probe = engine.submit(increment, engine.batch::<u64>(1).expect("there is memory"), ());
        broken += u32::from(matches!(probe.map(|job| job.wait()), Err(Failed { error: Error::Corrupt { .. }, .. })));
        drop(load);
        drop(engine);
    }
    println!("{kind:?}: {rounds} rounds, {broken} engines broken off, slowest {slowest:?}, {:?}", complaints.0);
}

/// Flips each bit of the words by which sleepers are found, one after the other in one engine, none of them back, and has jobs run after
/// each: one job at most is found by waits that end by their bound, and then the words are right again; for most bits none is.
fn bits_that_say_who_sleeps(kind: Kind) {
    let engine = kind.builder().idle_strategy(IdleStrategy::Park).build().expect("an undamaged engine can be built");
    let rescues = |engine: &Engine| engine.statistics().missed_wakeups;
    let mut rescued = BTreeMap::new();
    for bit in 0.. {
        // Asleep, most often, before the bit flips.
        thread::sleep(Duration::from_millis(1));
        let before = rescues(&engine);
        let Some(what) = flip_waking(&engine, bit) else { break };
        for _ in 0..=WAITERS {
            let batch = engine.batch::<u64>(SMALL).expect("there is memory");
            let job = engine.submit(increment, batch, ()).expect("an engine takes jobs whoever sleeps");
            assert!(job.wait().expect("a job runs whoever sleeps").iter().all(|&value| value == 1));
        }
        let more = rescues(&engine) - before;
        // Of one job left lying each may hear by its bound; were the words not right again, the next jobs would be left lying as well.
        assert!(more <= WAITERS, "{more} waits ended by their bound alone after {what}");
        if more > 0 {
            rescued.insert(bit, what);
        }
        // A bit of a row that has a worker can say of it what is not so; no other bit means anything.
        assert!(rescued.len() <= BITS_OF_WORKERS, "waits that ended by their bound alone: {rescued:?}");
    }
    println!("{kind:?}: waits that ended by their bound: {rescued:?}");
}

/// A bit that made a row without a worker look as if it searched was never taken back, and every job waited for the bound of a worker's
/// sleep: one round of 2,100 took 23 s.
pub(super) fn bits_that_say_who_sleeps_of_processes() {
    bits_that_say_who_sleeps(Kind::Processes);
}

/// As above, where threads and processes share the words.
pub(super) fn bits_that_say_who_sleeps_of_a_mixed_engine() {
    bits_that_say_who_sleeps(Kind::Mixed);
}

/// Words of 32 bits of the control segment's header.
const HEADER_WORDS: u64 = 12;

/// Flips a bit of each word of the header, one after the other and none of them back, and kills a worker after each: its replacement starts
/// over memory that says nothing true of itself any more.
pub(super) fn damaged_headers_keep_no_replacement_out() {
    let builder = Engine::builder().processes(1).queue_capacity(64).capacity(1 << 20).kernels(crate::kernels::ALL());
    let engine = builder.build().expect("an undamaged engine can be built");
    let pid_of_worker = || engine.workers().iter().find(|worker| worker.is_alive).map(|worker| worker.pid);
    let mut random = Random::new(0xA5A5_0004);
    for word in 0..HEADER_WORDS {
        let bit = word * 32 + random.next() % 32;
        flip(&engine, bit).expect("a segment begins with its header");
        let killed = pid_of_worker().expect("the worker is there");
        assert!(kill(killed));
        eventually("another worker is there", || {
            let shortage = engine.worker_shortage();
            assert!(shortage.is_none(), "after a flip of bit {bit}: {shortage:?}");
            pid_of_worker().is_some_and(|pid| pid != killed)
        });
        let batch = engine.batch_from_slice(&[word]).expect("there is memory");
        let job = engine.submit(increment, batch, ()).expect("a worker is there");
        assert_eq!(*job.wait().expect("it runs"), [word + 1]);
    }
}

/// Of 520 such rounds 4 hung and 16 gave a wrong result without an error, when words were believed as they were read.
pub(super) fn flipped_bits_of_an_engine_of_threads() {
    damage(Kind::Threads, 0xA5A5_0001);
}

/// As above; an output could land in somebody else's batch.
pub(super) fn flipped_bits_of_an_engine_of_processes() {
    damage(Kind::Processes, 0xA5A5_0002);
}

/// As above; batches came back while a thread still wrote them, and closures over chunks said that they had seen all.
pub(super) fn flipped_bits_of_a_mixed_engine() {
    damage(Kind::Mixed, 0xA5A5_0003);
}
