//! Processes that die or stop at one chosen step, for every step that has a point, and engines that go on as if nothing had
//! been; and worker processes that are killed at random for as long as one likes.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use workring::__private::fault::{self, POINTS, Point};
use workring::{Batch, Call, Chunking, Engine, Error, Failed, Finish, Held, Idle, Job};
use workring::{KernelInfo, Retry, SharedBatch, WorkerProgram, kernel, kernels};

use crate::kernels::{affine, sum};
use crate::support::{Checked, eventually, go_on, is_alive, kill, start_role};

/// How long a stopped process stays so.
const STOPPED: Duration = Duration::from_millis(300);
/// Rounds of the load within which a point must be reached.
const ROUNDS_MAX: usize = 100;
/// Elements of the load's long batch, in chunks of so many.
const LEN: usize = 6000;
const CHUNK: usize = 200;
/// Kills of the soak unless `WORKRING_KILLS` says another number.
const KILLS: u32 = 50;

kernel! {
    /// y[i] = 2 x[i] + 1, passing the points of kernels. Chunks that begin below `p` take longer, so that the shares of a call
    /// end at different times.
    fn uneven(x: &[f64], y: &mut [f64], p: &f64) {
        fault::point(Point::F20_computing);
        let half = y.len() / 2;
        for (at, (y, x)) in y.iter_mut().zip(x).enumerate() {
            if at == half {
                fault::point(Point::F21_half_written);
            }
            *y = 2.0 * x + 1.0;
        }
        if x.first().is_some_and(|first| first < p) {
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Adds one to every element in place, passing the points of kernels.
    fn count_up(y: &mut [u64]) {
        fault::point(Point::F20_computing);
        let half = y.len() / 2;
        for (at, y) in y.iter_mut().enumerate() {
            if at == half {
                fault::point(Point::F21_half_written);
                // Long enough to be hit by a kill at random.
                thread::sleep(Duration::from_micros(50));
            }
            *y += 1;
        }
    }
}

/// The kernels of this file.
pub(crate) fn kernels() -> Vec<&'static KernelInfo> {
    kernels![uneven, count_up].to_vec()
}

/// Which process passes a point, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// A worker, once, before it is ready.
    Attach,
    /// A worker, again and again.
    Work,
    /// A worker, after another one died.
    AfterDeath,
    /// A worker, once, when the engine closes.
    Close,
    /// The engine's process, again and again.
    Engine,
    /// The engine's process, after a worker died.
    EngineAfterDeath,
}

/// Where each point is tested. There is no default: a new point has no row until it has one here.
fn place(point: Point) -> Place {
    match point {
        Point::F3_joined | Point::F4_received | Point::F4_mapped => Place::Attach,
        Point::F4_ready => Place::Attach,
        Point::F10_found | Point::F10_pending | Point::F11_called => Place::Work,
        Point::F12_parked | Point::F13_rechecked | Point::F15_woken => Place::Work,
        Point::F15_retired => Place::Close,
        Point::F16_cell_read | Point::F17_claimed | Point::F18_cell_cleared | Point::F18_taken => Place::Work,
        Point::F19_bit_read | Point::F19_claimed | Point::F19_cleared | Point::F19_scanned => Place::AfterDeath,
        Point::F20_computing | Point::F21_half_written => Place::Work,
        Point::F22_status_written | Point::F23_done => Place::Work,
        Point::F24_port_bit | Point::F24_port_notified | Point::F24_waiter_notified => Place::Work,
        Point::F25_collector_bit | Point::F25_collector_notified => Place::Work,
        Point::F35_asked => Place::Work,
        Point::F37_announced | Point::F38_taken | Point::F39_stolen | Point::F40_refilled => Place::Work,
        Point::F41_run | Point::F42_counted => Place::Work,
        Point::F5_reserved | Point::F6_filled | Point::F7_queued | Point::F8_cell_filled => Place::Engine,
        Point::F9_pushed | Point::F26_collected | Point::F27_read => Place::Engine,
        Point::F29_dead_stored | Point::F30_requeued | Point::F30_bit_set => Place::EngineAfterDeath,
        Point::F31_mid_table | Point::F32_swept | Point::F33_reaped => Place::EngineAfterDeath,
    }
}

/// One test for each point, and the soak: name and test.
pub(crate) fn tests() -> Vec<(String, Box<dyn FnOnce() + Send>)> {
    let mut tests: Vec<(String, Box<dyn FnOnce() + Send>)> = Vec::new();
    for &point in POINTS {
        tests.push((format!("faults::{}", fault::name(point)), Box::new(move || test_point(point))));
    }
    tests.push(("faults::F14_asleep".into(), Box::new(workers_are_replaced_in_their_sleep)));
    tests.push((
        "faults::old_entries_lead_no_worker_to_closures".into(),
        Box::new(old_entries_lead_no_worker_to_closures),
    ));
    tests.push(("faults::soak".into(), Box::new(soak)));
    tests
}

fn test_point(point: Point) {
    for what in ["kill", "stop"] {
        match place(point) {
            Place::Attach => {
                fall_at_the_start(point, what);
                fall_as_a_replacement(point, what);
            }
            Place::Close => fall_at_work(point, 1, what),
            Place::Work | Place::AfterDeath => {
                [1, 3].into_iter().for_each(|hit| fall_at_work(point, hit, what));
                if what == "kill" && place(point) == Place::Work {
                    fall_for_good(point);
                    fall_in_each_kind(point);
                }
            }
            Place::Engine | Place::EngineAfterDeath => {
                [1, 3].into_iter().for_each(|hit| engine_falls(point, hit, what));
            }
        }
    }
}

/// The file that gives one process the right to fall, in a folder of its own.
struct Mark {
    folder: tempfile::TempDir,
}

impl Mark {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mark")
    }

    fn arm(&self) {
        std::fs::write(self.path(), "").unwrap();
    }

    /// The process that fell, if one did.
    fn fallen(&self) -> Option<u32> {
        fallen(self.folder.path())
    }
}

fn fallen(folder: &Path) -> Option<u32> {
    let mut names = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    names.find_map(|path| path.extension()?.to_str()?.parse().ok())
}

/// Lets the process that stops at a point go on after a while.
struct Reviver {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reviver {
    fn new(mark: &Mark) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (enough, folder) = (Arc::clone(&over), mark.folder.path().to_owned());
        let thread = thread::spawn(move || {
            while !enough.load(Ordering::Relaxed) {
                if let Some(pid) = fallen(&folder) {
                    // It may also have been killed by the test meanwhile.
                    eventually("the process has stopped", || state_of(pid).is_none_or(|state| "TZX".contains(state)));
                    thread::sleep(STOPPED);
                    if is_alive(pid) {
                        go_on(pid);
                    }
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Reviver {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the stopped process could not go on");
    }
}

/// The letter of proc_pid_stat(5), if the process exists.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Kinds of jobs that are told of their end in different ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Calls,
    Sets,
    Dropped,
    Awaited,
    Waited,
}

/// What the load's jobs of two batches hold.
type InAndOut = Held<(SharedBatch<f64>, Batch<f64>)>;

/// Every kind of job, again and again.
struct Load {
    x: SharedBatch<f64>,
    sum_bits: u64,
    folder: tempfile::TempDir,
}

impl Load {
    fn new(engine: &Engine) -> Self {
        let value = |at: usize| at as f64;
        let x = engine.batch_from_fn(LEN, value).unwrap().freeze();
        let serial = Engine::builder().threads(1).capacity(1 << 24).build().unwrap();
        let sum_bits = serial.reduce(sum, &serial.batch_from_fn(LEN, value).unwrap()).unwrap().to_bits();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.bin"), bytemuck::cast_slice(&x)).unwrap();
        Self { x, sum_bits, folder }
    }

    /// One job or call of each kind and many of some. Each must end right, or, where it may not be repeated, with the death of
    /// its worker and with its batches. Returns how many ended so.
    fn round(&self, engine: &Engine) -> u32 {
        let again = engine.job().retry(Retry::up_to(30));
        self.calls(engine, &again);
        self.collect(engine, &again);
        // Dropped at once; what they hold is freed when they end, which the end of the test looks at.
        for _ in 0..4 {
            drop(engine.submit(count_up, engine.batch::<u64>(100).unwrap(), ()).unwrap());
            drop(again.submit(affine, (self.x.clone(), engine.batch(LEN).unwrap()), [1.0, 1.0]).unwrap());
        }
        let in_place: Vec<_> =
            (0..8).map(|_| engine.submit(count_up, engine.batch::<u64>(1000).unwrap(), ()).unwrap()).collect();
        let in_order: Vec<_> = (0..8).map(|_| self.submit(engine, &again)).collect();
        let rows = |call: Call<'_>| {
            let params = engine.batch_from_fn(LEN / 10, |row| [row as f64, 1.0]).unwrap();
            call.submit_many(affine, (self.x.clone(), engine.batch::<f64>(LEN).unwrap()), params).unwrap()
        };
        let (rows_again, rows_once) = (rows(again), rows(engine.job()));
        let mut failed = 0;
        for job in in_place {
            failed += check_in_place(job.wait());
        }
        for job in in_order {
            self.check(&job.wait().unwrap().1);
        }
        self.check(&pollster::block_on(self.submit(engine, &again)).unwrap().1);
        failed += check_in_place(pollster::block_on(
            engine.submit(count_up, engine.batch::<u64>(1000).unwrap(), ()).unwrap(),
        ));
        let many = rows_again.wait().unwrap();
        assert!(many.failures.is_empty());
        self.check_rows(&many.batches.1);
        match rows_once.wait() {
            Ok(many) => self.check_rows(&many.batches.1),
            Err(Failed { error, returned: ((x, y), params) }) => {
                assert!(matches!(error, Error::WorkerDied { .. }), "{error}");
                assert_eq!((x.len(), y.len(), params.len()), (LEN, LEN, LEN / 10));
                failed += 1;
            }
        }
        failed
    }

    /// Jobs of one kind only; otherwise as [`Load::round`].
    fn only(&self, kind: Kind, engine: &Engine) -> u32 {
        let again = engine.job().retry(Retry::up_to(30));
        let count_up_once = || engine.submit(count_up, engine.batch::<u64>(1000).unwrap(), ()).unwrap();
        match kind {
            Kind::Calls => self.calls(engine, &again),
            Kind::Sets => self.collect(engine, &again),
            Kind::Dropped => {
                let before = engine.statistics().arena.in_use;
                (0..4).for_each(|_| drop(count_up_once()));
                eventually("dropped jobs are freed", || engine.statistics().arena.in_use == before);
            }
            Kind::Awaited => return check_in_place(pollster::block_on(count_up_once())),
            Kind::Waited => return check_in_place(count_up_once().wait()),
        }
        0
    }

    /// The calls that block.
    fn calls(&self, engine: &Engine, again: &Call<'_>) {
        let mut y = engine.batch::<f64>(LEN).unwrap();
        let slow_half = (LEN / 2) as f64;
        again.map_chunks(uneven, &self.x, &mut y, &slow_half, Chunking::of(CHUNK)).unwrap();
        self.check(&y);
        assert_eq!(again.reduce(sum, &self.x, &()).unwrap().to_bits(), self.sum_bits);
        let file = engine.map_file::<f64>(self.folder.path().join("x.bin")).unwrap();
        y.fill(0.0);
        again.map_chunks(uneven, &file, &mut y, &0.0, Chunking::of(CHUNK)).unwrap();
        self.check(&y);
    }

    /// A set of jobs, whose collector sleeps until they end.
    fn collect(&self, engine: &Engine, again: &Call<'_>) {
        let mut set = engine.job_set().unwrap();
        for key in 0..8 {
            set.insert(key, self.submit(engine, again));
        }
        let check = |(key, result): Finish<u64, InAndOut>| -> u64 {
            let (_, y) = result.unwrap();
            self.check(&y);
            key
        };
        let mut keys: Vec<u64> = set.map(check).collect();
        keys.sort_unstable();
        assert_eq!(keys, (0..8).collect::<Vec<_>>(), "every job of a set ends once");
    }

    fn submit(&self, engine: &Engine, call: &Call<'_>) -> Job<InAndOut> {
        call.submit(uneven, (self.x.clone(), engine.batch::<f64>(LEN).unwrap()), f64::MAX).unwrap()
    }

    fn check(&self, y: &[f64]) {
        assert_eq!(y.len(), LEN);
        assert!(y.iter().zip(&*self.x).all(|(y, x)| *y == 2.0 * x + 1.0), "not what the serial loop gives");
    }

    fn check_rows(&self, y: &[f64]) {
        assert!((0..LEN).all(|at| y[at] == (at / 10) as f64 * self.x[at] + 1.0), "not what the serial loop gives");
    }
}

/// A job that changes its batch in place was done once, or its worker died and half of it may be done. Whether it was the latter.
fn check_in_place(result: Result<Batch<u64>, Failed<Batch<u64>>>) -> u32 {
    match result {
        Ok(batch) => {
            assert!(batch.iter().all(|&value| value == 1));
            0
        }
        Err(Failed { error, returned }) => {
            assert!(matches!(error, Error::WorkerDied { .. }), "{error}");
            assert_eq!(returned.len(), 1000);
            assert!(returned.iter().all(|&value| value <= 1));
            1
        }
    }
}

fn deaths(engine: &Engine) -> u32 {
    engine.workers().iter().map(|worker| worker.replaced).sum()
}

/// An engine of two workers, the first of which that passes `point` for the `hit`th time falls.
fn engine_with_fault(mark: &Mark, program: WorkerProgram, point: Point, hit: u32, what: &str) -> Checked {
    let program = program
        .environment("WORKRING_FAULT", format!("{}:{hit}:{what}", fault::name(point)))
        .environment("WORKRING_FAULT_MARK", mark.path());
    // Workers that park at once pass the points of sleeping and waking often.
    Checked::with(2, |builder| builder.worker_program(program).idle(Idle::Park).capacity(1 << 26).queue_capacity(64))
}

/// Both workers are there, as many died as should have, and the next rounds are right.
fn goes_on(engine: &Checked, load: &Load, killed: u32) {
    eventually("both workers are there", || engine.pids().len() == 2);
    assert_eq!(load.round(engine), 0, "jobs failed though nobody died");
    assert_eq!(load.round(engine), 0, "jobs failed though nobody died");
    assert_eq!(deaths(engine), killed, "deaths");
}

fn fall_at_work(point: Point, hit: u32, what: &str) {
    let row = format!("{} hit {hit} {what}", fault::name(point));
    let (mark, by_fault) = (Mark::new(), u32::from(what == "kill"));
    mark.arm();
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    {
        let engine = engine_with_fault(&mark, WorkerProgram::this(), point, hit, what);
        let load = Load::new(&engine);
        if place(point) == Place::Close {
            load.round(&engine);
        } else {
            let enough = AtomicBool::new(false);
            let (failed, killed) = thread::scope(|scope| {
                let killer =
                    scope.spawn(|| if place(point) == Place::AfterDeath { kill_first(&engine, &enough) } else { 0 });
                let mut failed = 0;
                for _ in 0..ROUNDS_MAX {
                    failed += load.round(&engine);
                    if mark.fallen().is_some() {
                        break;
                    }
                }
                enough.store(true, Ordering::Relaxed);
                (failed, killer.join().unwrap())
            });
            assert!(mark.fallen().is_some(), "{row}: the point was not reached");
            let deaths = killed + by_fault;
            assert!(failed <= deaths, "{row}: {failed} jobs failed of {deaths} deaths");
            if killed == 0 {
                goes_on(&engine, &load, by_fault);
            } else {
                eventually("both workers are there", || engine.pids().len() == 2);
                load.round(&engine);
            }
        }
        drop(load);
        eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
    }
    drop(reviver);
    assert!(mark.fallen().is_some(), "{row}: the point was not reached");
}

/// A worker falls in a job of each kind that passes the point: who is told of the end, and how, differs.
fn fall_in_each_kind(point: Point) {
    let (mark, mut fell) = (Mark::new(), 0);
    let engine = engine_with_fault(&mark, WorkerProgram::this(), point, 1, "kill");
    let load = Load::new(&engine);
    for kind in [Kind::Calls, Kind::Sets, Kind::Dropped, Kind::Awaited, Kind::Waited] {
        mark.arm();
        let mut failed = 0;
        for _ in 0..5 {
            failed += load.only(kind, &engine);
            if mark.fallen().is_some() {
                break;
            }
        }
        // Not every kind passes every point. Who cannot take the mark away falls at this very moment.
        if std::fs::remove_file(mark.path()).is_err() {
            fell += 1;
            let pid = mark.fallen().expect("a mark that is gone was renamed");
            std::fs::remove_file(mark.path().with_extension(pid.to_string())).unwrap();
        }
        assert!(failed <= 1, "{kind:?}: {failed} jobs failed of one death");
        eventually("the death is noticed", || deaths(&engine) == fell);
        goes_on(&engine, &load, fell);
    }
    drop(load);
    eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
}

/// A worker falls that cannot be replaced: the other one alone finishes what both were doing. Replacements, which look at
/// everything when they start, would hide that it was not woken.
fn fall_for_good(point: Point) {
    let mark = Mark::new();
    {
        let program = mark.folder.path().join("worker");
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &program).unwrap();
        let engine = engine_with_fault(&mark, WorkerProgram::at(&program), point, 1, "kill");
        std::fs::remove_file(&program).unwrap();
        let load = Load::new(&engine);
        assert_eq!(load.round(&engine), 0);
        mark.arm();
        let mut failed = 0;
        for _ in 0..ROUNDS_MAX {
            failed += load.round(&engine);
            if mark.fallen().is_some() {
                break;
            }
        }
        assert!(mark.fallen().is_some(), "{} for good: the point was not reached", fault::name(point));
        assert!(failed <= 1, "{failed} jobs failed of one death");
        eventually("one worker is left", || engine.pids().len() == 1);
        assert_eq!(load.round(&engine), 0, "jobs failed though nobody died");
    }
}

/// Kills the worker of the first row every few milliseconds; the other one thus lives long enough to pass a point three times.
fn kill_first(engine: &Engine, enough: &AtomicBool) -> u32 {
    let mut killed = 0;
    while !enough.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
        if let Some(worker) = engine.workers().iter().find(|worker| worker.worker == 1 && worker.is_alive) {
            killed += u32::from(kill(worker.pid));
        }
    }
    killed
}

/// One of the first two workers falls before it is ready, or right after.
fn fall_at_the_start(point: Point, what: &str) {
    let mark = Mark::new();
    mark.arm();
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    if what == "kill" && point != Point::F4_ready {
        let program = WorkerProgram::this()
            .environment("WORKRING_FAULT", format!("{}:1:{what}", fault::name(point)))
            .environment("WORKRING_FAULT_MARK", mark.path());
        let built = Engine::builder().processes(2).kernels(crate::kernels::ALL()).worker_program(program).build();
        let error = built.expect_err("a worker died before it was ready");
        assert!(matches!(error, Error::WorkerStart { .. }), "{error}");
        assert!(mark.fallen().is_some_and(|pid| !is_alive(pid)));
        return;
    }
    {
        let engine = engine_with_fault(&mark, WorkerProgram::this(), point, 1, what);
        assert!(mark.fallen().is_some() || point == Point::F4_ready, "the point was not reached");
        let load = Load::new(&engine);
        load.round(&engine);
        eventually("the point is reached", || mark.fallen().is_some());
        goes_on(&engine, &load, u32::from(what == "kill"));
    }
    drop(reviver);
}

/// A worker dies, and the one that replaces it falls before it is ready, or right after.
fn fall_as_a_replacement(point: Point, what: &str) {
    let mark = Mark::new();
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    {
        let engine = engine_with_fault(&mark, WorkerProgram::this(), point, 1, what);
        let load = Load::new(&engine);
        assert_eq!(load.round(&engine), 0);
        mark.arm();
        kill(engine.pids()[0]);
        load.round(&engine);
        eventually("the point is reached", || mark.fallen().is_some());
        load.round(&engine);
        goes_on(&engine, &load, 1 + u32::from(what == "kill"));
    }
    drop(reviver);
}

/// In a mixed engine a worker process read a job's entry and was held up; a thread ran that job; the descriptor went to a closure,
/// which the process then claimed, could not run, and ended with an error about a damaged descriptor.
fn old_entries_lead_no_worker_to_closures() {
    let mark = Mark::new();
    let program = WorkerProgram::this()
        .environment("WORKRING_FAULT", format!("{}:1:stop", fault::name(Point::F16_cell_read)))
        .environment("WORKRING_FAULT_MARK", mark.path());
    let engine =
        Checked::with(1, |builder| builder.threads(1).worker_program(program).idle(Idle::Park).queue_capacity(64));
    mark.arm();
    // Until the process stops with the entry of a job in its hand; a thread runs them all.
    while mark.fallen().is_none() {
        let job = engine.submit(count_up, engine.batch::<u64>(1).unwrap(), ()).unwrap();
        assert_eq!(job.wait().unwrap()[0], 1);
    }
    // The thread is busy, and every descriptor that is free gets a closure.
    let (release, busy) = std::sync::mpsc::channel::<()>();
    let blocker = engine.run(move || busy.recv().is_err()).unwrap();
    let me = std::process::id();
    let closures: Vec<_> = (0..63).map(|_| engine.run(std::process::id).unwrap()).collect();
    let stopped = mark.fallen().expect("it fell");
    eventually("the process has stopped", || state_of(stopped) == Some('T'));
    go_on(stopped);
    thread::sleep(Duration::from_millis(20));
    drop(release);
    assert!(blocker.wait().unwrap());
    for closure in closures {
        assert_eq!(closure.wait().unwrap(), me);
    }
}

/// F14 has no point: who sleeps passes none.
fn workers_are_replaced_in_their_sleep() {
    let engine = Checked::with(2, |builder| builder.idle(Idle::Park).capacity(1 << 26));
    let load = Load::new(&engine);
    for turn in 1..=6 {
        let pid = engine.pids()[turn as usize % 2];
        eventually("the worker sleeps", || state_of(pid) == Some('S'));
        kill(pid);
        load.round(&engine);
        eventually("it is replaced", || deaths(&engine) == turn);
        goes_on(&engine, &load, turn);
    }
}

/// Processes that were started as workers of the engine in process `engine`.
fn workers_of(engine: u32) -> Vec<u32> {
    let wanted = format!("WORKRING_WORKER={engine}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes()) && is_alive(*pid)
    })
    .collect()
}

/// The engine's process falls: killed it takes all its workers with it, stopped it goes on later and everything is right.
fn engine_falls(point: Point, hit: u32, what: &str) {
    let row = format!("{} hit {hit} {what}", fault::name(point));
    let mark = Mark::new();
    mark.arm();
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    let argument = format!("{}:{hit}:{what}", fault::name(point));
    let engine = start_role(&format!("engine_with_fault {argument} {}", mark.path().display()));
    let pid = engine.id();
    let output = engine.wait_with_output().unwrap();
    drop(reviver);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(mark.fallen(), Some(pid), "{row}: the point was not reached: {said}");
    if what == "kill" {
        assert_eq!(output.status.signal(), Some(9), "{row}: {said}");
    } else {
        assert!(output.status.success(), "{row}: {} {said}", output.status);
    }
    eventually("no worker is left", || workers_of(pid).is_empty());
}

/// The role of such an engine: `point:hit:what` and the mark.
pub(crate) fn be_an_engine_with_fault(argument: &str) {
    let (what, mark) = argument.split_once(' ').expect("two words");
    let point = *POINTS.iter().find(|point| what.starts_with(&format!("{}:", fault::name(**point)))).expect("a point");
    let engine = Checked::with(2, |builder| builder.capacity(1 << 26).queue_capacity(64));
    let load = Load::new(&engine);
    fault::arm(what, mark.into());
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| if place(point) == Place::EngineAfterDeath { kill_first(&engine, &enough) } else { 0 });
        for _ in 0..ROUNDS_MAX {
            load.round(&engine);
            if !Path::new(mark).exists() {
                break;
            }
        }
        enough.store(true, Ordering::Relaxed);
    });
    eventually("both workers are there", || engine.pids().len() == 2);
    load.round(&engine);
}

/// Kills from outside, at random moments, in a process of its own, which nothing else disturbs.
fn soak() {
    let output = start_role("soak").wait_with_output().unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{} {said} {complaint}", output.status);
}

/// How many kills the soak makes.
pub(crate) fn kills_wanted() -> u32 {
    std::env::var("WORKRING_KILLS").map_or(KILLS, |text| text.parse().expect("WORKRING_KILLS is a number"))
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of this process, zombies among them.
fn children() -> usize {
    let me = std::process::id().to_string();
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(&*me)).count()
}

/// The role of the soak.
pub(crate) fn be_a_soak() {
    let before = (open_descriptors(), children());
    let started = Instant::now();
    let (mut killed, mut failed, mut rounds) = (0, 0, 0);
    {
        let engine = Checked::with(2, |builder| builder.capacity(1 << 26).queue_capacity(64));
        let load = Load::new(&engine);
        let enough = AtomicBool::new(false);
        thread::scope(|scope| {
            let killer = scope.spawn(|| {
                kill_at_random(&engine);
                enough.store(true, Ordering::Relaxed);
            });
            while !enough.load(Ordering::Relaxed) {
                failed += load.round(&engine);
                rounds += 1;
            }
            killer.join().unwrap();
        });
        eventually("both workers are there", || engine.pids().len() == 2);
        killed += deaths(&engine);
        assert_eq!(load.round(&engine), 0, "jobs failed though nobody died");
        assert!(failed <= killed, "{failed} jobs failed of {killed} deaths");
        drop(load);
        eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
    }
    // The supervisor's thread, which has the last share in the engine, may end a little after the call that closes it.
    eventually("no descriptor and no child is left", || (open_descriptors(), children()) == before);
    println!("{killed} deaths, {failed} jobs failed, {rounds} rounds, {:?}", started.elapsed());
}

/// Kills one of the workers every 50 to 200 milliseconds.
fn kill_at_random(engine: &Engine) {
    let (mut killed, mut random) = (0, 0x9E37_79B9_7F4A_7C15_u64);
    while killed < kills_wanted() {
        // Xorshift; any generator would do.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        thread::sleep(Duration::from_millis(50 + random % 151));
        let alive: Vec<u32> =
            engine.workers().iter().filter(|worker| worker.is_alive).map(|worker| worker.pid).collect();
        if let Some(&pid) = alive.get((random >> 32) as usize % alive.len().max(1)) {
            assert!(kill(pid), "a worker that was not killed is gone");
            killed += 1;
            eventually("the death is noticed", || deaths(engine) == killed);
        }
    }
}
