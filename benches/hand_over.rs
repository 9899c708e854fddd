//! What it costs to hand a batch over, by its size: the same for 64 KiB and for 1 GiB, because only its place travels.
//!
//! The worker is awake and the caller looks until the job is finished, so that nobody's sleep, whose length depends on how
//! long the kernel runs, is counted. First whole round trips of a kernel that touches nothing; then a kernel that doubles every
//! element and reads the clock as it starts and ends: the way there alone, and what is left of the round trip without the
//! kernel.
//!
//! A caller that looks for a tenth of a second while a gibibyte is doubled loses its core now and then on a machine that does
//! other things too, and is then late to see the end. Therefore a sample of the last two tables is the smallest of several
//! turns, the same number for every size.

mod support;

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::{Mode, Placement, Table, Target, close, cores, nanoseconds_each, poll_until_finished};
use workring::{Batch, Engine, IdleStrategy, WaitPolicy, kernel};

/// When the benchmark began; kernels count nanoseconds from here.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

fn now_ns() -> u64 {
    ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Touches nothing.
#[kernel]
pub fn untouched(y: &mut [f64]) {
    std::hint::black_box(y.len());
}

/// Doubles every element and says when it began and when it was done.
#[kernel]
pub fn double(y: &mut [f64], clock: &mut [u64]) {
    clock[0] = now_ns();
    for value in y {
        *value *= 2.0;
    }
    clock[1] = now_ns();
}

/// As `double`, and streams through memory of the worker's own besides: a control that leaves the caches and the
/// translations as cold as a large batch does, while only a small one is handed over.
#[kernel]
pub fn double_and_stream(y: &mut [f64], clock: &mut [u64], p: &u64) {
    clock[0] = now_ns();
    for value in y {
        *value *= 2.0;
    }
    OWN.with_borrow_mut(|own| {
        own.resize(*p as usize, f64::MIN_POSITIVE);
        own.iter_mut().for_each(|value| *value *= 2.0);
        std::hint::black_box(own);
    });
    clock[1] = now_ns();
}

thread_local! {
    /// What [`double_and_stream`] streams through.
    static OWN: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

fn size_name(bytes: usize) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes >> 10)
    } else if bytes < 1 << 30 {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{} GiB", bytes >> 30)
    }
}

/// What a round trip costs outside its kernel, in nanoseconds.
struct Doubled {
    there: f64,
    there_and_back: f64,
}

/// Round trips of which the fastest counts.
const TURNS: usize = 6;

/// A batch that is handed over and comes back, again and again.
struct Traveller {
    batch: Option<Batch<f64>>,
    clock: Option<Batch<u64>>,
}

impl Traveller {
    fn new(engine: &Engine, bytes: usize) -> Self {
        let len = bytes / size_of::<f64>();
        let batch = engine.batch_uninit::<f64>(len).expect("memory for the batch").fill(f64::MIN_POSITIVE);
        Self { batch: Some(batch), clock: Some(engine.batch(2).expect("a small batch")) }
    }

    fn untouched(&mut self, engine: &Engine) {
        let batch = self.batch.take().expect("the batch came back");
        let job = engine.submit(untouched, batch, ()).expect("room for one job");
        poll_until_finished(&job);
        self.batch = Some(job.wait().expect("the kernel cannot fail"));
    }

    /// One round trip, in nanoseconds: from before `submit` to the kernel's start, and all that is outside the kernel.
    fn doubled(&mut self, engine: &Engine, streamed: usize) -> Doubled {
        let (mut batch, clock) =
            (self.batch.take().expect("the batch came back"), self.clock.take().expect("so did this"));
        let last = batch.len() - 1;
        batch[last] = 3.0;
        let start = now_ns();
        let job = match streamed {
            0 => engine.submit(double, (batch, clock), ()),
            bytes => engine.submit(double_and_stream, (batch, clock), (bytes / size_of::<f64>()) as u64),
        }
        .expect("room for one job");
        poll_until_finished(&job);
        let (batch, clock) = job.wait().expect("the kernel cannot fail");
        let end = now_ns();
        assert_eq!(batch[last], 6.0, "the kernel doubled to the end");
        let (began, done) = (clock[0], clock[1]);
        assert!(start <= began && began <= done && done <= end, "the kernel ran inside the round trip");
        (self.batch, self.clock) = (Some(batch), Some(clock));
        Doubled { there: (began - start) as f64, there_and_back: (end - start - (done - began)) as f64 }
    }
}

fn main() {
    let mode = Mode::from_arguments();
    mode.announce("hand_over");
    let sizes: [usize; 4] = mode.pick([64 << 10, 1 << 20, 64 << 20, 1 << 30], [64 << 10, 128 << 10, 1 << 20, 2 << 20]);
    let everywhere = cores::allowed();
    let idle = IdleStrategy::Spin(Duration::from_secs(60));
    let engine = Engine::builder()
        .threads(1)
        .idle_strategy(idle)
        .wait_policy(WaitPolicy::Never)
        .build()
        .expect("an engine of threads");
    if let Some(split) = Placement::split() {
        cores::pin_workers(&engine, &[split.worker]);
        cores::pin(&[split.caller]);
    }
    let engine = &engine;

    let smallest = size_name(sizes[0]);
    let mut table = Table::new("hand-over, kernel touches nothing", "ns", mode.pick(21, 1));
    for bytes in sizes {
        let mut traveller = Traveller::new(engine, bytes);
        let turns = mode.pick(20_000, 20);
        table.case(size_name(bytes), move || nanoseconds_each(turns, || traveller.untouched(engine)));
        table.against(smallest.clone()).target(Target::RatioAtMost(1.2));
    }
    table.run(&mode);

    type Part = fn(&Doubled) -> f64;
    let parts: [(&str, Part); 2] = [
        ("hand-over, kernel doubles in place: from submit to the kernel's start", |doubled| doubled.there),
        ("hand-over, kernel doubles in place: round trip without the kernel", |doubled| doubled.there_and_back),
    ];
    for (title, part) in parts {
        let mut table = Table::new(title, "ns", mode.pick(11, 1));
        let control = format!("{smallest}, kernel streams {} of its own", size_name(sizes[3]));
        let of = |bytes: usize, streamed: usize| {
            let mut traveller = Traveller::new(engine, bytes);
            move || {
                let turns = (0..TURNS).map(|_| part(&traveller.doubled(engine, streamed)));
                turns.fold(f64::INFINITY, f64::min)
            }
        };
        for bytes in sizes {
            table.case(size_name(bytes), of(bytes, 0)).against(smallest.clone());
        }
        // A kernel that goes through a gibibyte leaves the caches cold for whatever comes after it. The target is about what is
        // handed over, so it is held against a kernel that leaves them as cold.
        table.case(control.clone(), of(sizes[0], sizes[3])).against(smallest.clone());
        let largest = format!("{} again", size_name(sizes[3]));
        table.case(largest, of(sizes[3], 0)).against(control).target(Target::RatioAtMost(1.2));
        table.run(&mode);
    }
    cores::pin(&everywhere);
    close(engine);
}
