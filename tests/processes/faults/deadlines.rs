//! Kernels that go on after their deadline: the supervisor stops their worker, looks again, and kills it. Meanwhile the worker may
//! finish, die or be killed by others, and the engine's own process may fall.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use workring::__private::fault::{self, Point};
use workring::{Batch, Engine, Error, Failed, Job, JobBuilder, job::Held, kernel, process::WorkerProgram};

use super::matrix::workers_of;
use super::{Mark, deaths, state_of, wanted};
use crate::kernels::increment;
use crate::support::{Checked, eventually, go_on, is_alive, kill, start_role};

/// How long a kernel may go on after its deadline.
const GRACE: Duration = Duration::from_millis(1);
/// Jobs with deadlines in the storm, unless `WORKRING_DEADLINES` says another number.
const JOBS: u32 = 2000;
/// Rounds within which a point must be reached.
const ROUNDS_MAX: u32 = 100;
/// Names the folder in which a worker says that it has begun a job, and is told to end it.
const FOLDER: &str = "WORKRING_TEST_FOLDER";

/// Counts its beginning and, after so many microseconds, its end; heeds nothing.
#[kernel]
pub(super) fn stubborn(y: &mut [u64], p: &u64) {
    y[0] += 1;
    thread::sleep(Duration::from_micros(*p));
    y[1] += 1;
}

/// As `stubborn`, but says that it has begun, and ends when it is told to.
#[kernel]
pub(super) fn held(y: &mut [u64]) {
    y[0] += 1;
    let folder = std::env::var_os(FOLDER).expect("the folder is named");
    std::fs::write(Path::new(&folder).join("begun"), "").expect("the folder is there");
    while !Path::new(&folder).join("go").exists() {
        thread::sleep(Duration::from_millis(1));
    }
    y[1] += 1;
}

/// What has a test of its own.
pub(super) fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("deadlines::jobs_end_once_and_bystanders_end_well", || storm(false)),
        ("deadlines::jobs_end_once_while_workers_are_killed", || storm(true)),
        ("deadlines::a_worker_finishes_before_it_is_stopped", || meet(Moment::FinishesBefore)),
        ("deadlines::a_worker_dies_before_it_is_stopped", || meet(Moment::DiesBefore)),
        ("deadlines::a_worker_dies_when_it_is_stopped", || meet(Moment::DiesStopped)),
        ("deadlines::a_worker_goes_on_when_it_is_stopped", || meet(Moment::GoesOn)),
        ("deadlines::a_cancelled_worker_dies_when_it_is_stopped", || meet(Moment::DiesCancelled)),
    ]
}

/// How jobs ended.
#[derive(Clone, Copy, Default, Debug)]
struct Ends {
    well: u32,
    late: u32,
    cancelled: u32,
    died: u32,
}

impl Ends {
    /// Counts the end of a job of [`stubborn`] or [`held`], which was begun at most once and comes with its batch.
    fn count(&mut self, result: Result<Batch<u64>, Failed<Batch<u64>>>) {
        match result {
            Ok(batch) => {
                assert_eq!(*batch, [1, 1], "done once");
                self.well += 1;
            }
            Err(Failed { error, returned }) => {
                assert_eq!(returned.len(), 2);
                assert!(returned[0] <= 1 && returned[1] <= returned[0], "begun once: {returned:?}");
                match error {
                    Error::DeadlineExceeded => self.late += 1,
                    Error::Cancelled => self.cancelled += 1,
                    Error::WorkerDied { .. } => self.died += 1,
                    other => panic!("{other}"),
                }
            }
        }
    }

    fn all(self) -> u32 {
        self.well + self.late + self.cancelled + self.died
    }
}

fn stubborn_job(engine: &Engine, call: &JobBuilder<'_>, micros: u64) -> Job<Held<Batch<u64>>> {
    call.submit(stubborn, engine.batch::<u64>(2).unwrap(), micros).unwrap()
}

/// Jobs that end at about the time at which their worker would be killed, jobs that are cancelled then, and bystanders, which a
/// worker begins in the moment it has finished one of the others.
struct Crowd {
    random: u64,
    /// Jobs with deadlines.
    timed: Ends,
    cancelled: Ends,
    bystanders: Ends,
}

impl Crowd {
    fn new() -> Self {
        let none = Ends::default();
        Self { random: 0x9E37_79B9_7F4A_7C15, timed: none, cancelled: none, bystanders: none }
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        // Xorshift; any generator would do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    fn round(&mut self, engine: &Engine) {
        let grace = GRACE.as_micros() as u64;
        let due = 1000 + self.below(4000);
        // The worker is told at the deadline and killed a grace later, or a little after that. Few take much longer.
        let micros = match self.below(10) {
            0 => 30_000,
            1 | 2 => due / 2,
            _ => due + grace / 2 + self.below(grace),
        };
        let call = engine.job().deadline(Duration::from_micros(due));
        let timed: Vec<_> = (0..2).map(|_| stubborn_job(engine, &call, micros)).collect();
        let bystanders: Vec<_> = (0..6).map(|_| stubborn_job(engine, &engine.job(), 100)).collect();
        let told = self.below(4) == 0;
        let cancelled = told.then(|| stubborn_job(engine, &engine.job(), micros));
        if let Some(job) = &cancelled {
            thread::sleep(Duration::from_micros(micros.saturating_sub(self.below(2 * grace))));
            job.cancel();
        }
        for (at, job) in timed.into_iter().enumerate() {
            self.timed.count(if at == 0 { job.wait() } else { pollster::block_on(job) });
        }
        if let Some(job) = cancelled {
            self.cancelled.count(job.wait());
        }
        bystanders.into_iter().for_each(|job| self.bystanders.count(job.wait()));
        drop(stubborn_job(engine, &call, micros));
    }
}

/// Both workers are there, and everything is right and freed.
fn goes_on(engine: &Checked) {
    eventually("both workers are there", || engine.pids().len() == 2);
    let capacity = engine.statistics().queue_capacity;
    eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
    let submit = |_| engine.submit(increment, engine.batch::<u64>(1).unwrap(), ()).unwrap();
    let jobs: Vec<_> = (0..capacity).map(submit).collect();
    for job in jobs {
        assert_eq!(*job.wait().unwrap(), [1], "every descriptor takes a job");
    }
}

fn build() -> Checked {
    Checked::with(2, |builder| builder.kill_after(GRACE).capacity(1 << 24).queue_capacity(64))
}

/// How many jobs with deadlines the storms make.
pub(crate) fn jobs_wanted() -> u32 {
    wanted("WORKRING_DEADLINES", JOBS)
}

/// Thousands of jobs whose deadlines come at about their end; also while others kill workers.
fn storm(killing: bool) {
    let engine = build();
    let mut crowd = Crowd::new();
    let enough = AtomicBool::new(false);
    let killed = thread::scope(|scope| {
        let killer = scope.spawn(|| if killing { kill_now_and_then(&engine, &enough) } else { 0 });
        while crowd.timed.all() < jobs_wanted() / 2 {
            crowd.round(&engine);
        }
        enough.store(true, Ordering::Relaxed);
        killer.join().unwrap()
    });
    let Crowd { timed, cancelled, bystanders, .. } = crowd;
    goes_on(&engine);
    println!(
        "timed {timed:?}, cancelled {cancelled:?}, bystanders {bystanders:?}, {killed} killed, {} deaths",
        deaths(&engine)
    );
    assert!(timed.well > 0 && timed.late > 0 && timed.cancelled == 0, "{timed:?}");
    assert!(cancelled.cancelled > 0, "{cancelled:?}");
    assert_eq!((bystanders.late, bystanders.cancelled), (0, 0), "{bystanders:?}");
    let died = timed.died + cancelled.died + bystanders.died;
    assert!(died <= killed, "{died} jobs failed of {killed} kills from outside");
    // Some that were killed from outside were dead already.
    assert!(killing || deaths(&engine) > 0, "no worker was killed for its job");
}

/// Kills a worker every few milliseconds.
fn kill_now_and_then(engine: &Checked, enough: &AtomicBool) -> u32 {
    let (mut killed, mut turn) = (0, 0);
    while !enough.load(Ordering::Relaxed) {
        turn += 1;
        thread::sleep(Duration::from_millis(3 + turn % 5));
        let pids = engine.pids();
        if let Some(&pid) = pids.get(turn as usize % pids.len().max(1)) {
            killed += u32::from(kill(pid));
        }
    }
    killed
}

/// The engine's process falls at a step of the supervisor. Killed, it leaves no worker, not even a stopped one.
pub(super) fn engine_falls(point: Point, hit: u32, what: &str) {
    super::matrix::role_falls("engine_with_deadlines", point, hit, what);
}

/// The role of such an engine: `point:hit:what` and the mark.
pub(crate) fn be_an_engine_with_deadlines(argument: &str) {
    let (what, mark) = argument.split_once(' ').expect("two words");
    let engine = build();
    fault::arm(what, mark.into());
    let mut crowd = Crowd::new();
    for _ in 0..ROUNDS_MAX {
        crowd.round(&engine);
        if !Path::new(mark).exists() {
            break;
        }
    }
    goes_on(&engine);
    assert_eq!(crowd.bystanders.all(), crowd.bystanders.well, "{:?}", crowd.bystanders);
}

/// What happens to the worker whose kernel goes on after its deadline, while the engine's process stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    /// It finishes that job and begins another one before it is stopped.
    FinishesBefore,
    DiesBefore,
    DiesStopped,
    DiesCancelled,
    /// Somebody else lets it go on, so that it finishes that job and begins another one.
    GoesOn,
}

impl Moment {
    const ALL: [Self; 5] =
        [Self::FinishesBefore, Self::DiesBefore, Self::DiesStopped, Self::DiesCancelled, Self::GoesOn];

    fn point(self) -> Point {
        match self {
            Self::FinishesBefore | Self::DiesBefore => Point::F43_due,
            Self::DiesStopped | Self::DiesCancelled | Self::GoesOn => Point::F44_paused,
        }
    }

    fn dies(self) -> bool {
        matches!(self, Self::DiesBefore | Self::DiesStopped | Self::DiesCancelled)
    }
}

fn meet(moment: Moment) {
    let mark = Mark::new();
    mark.arm();
    let engine = start_role(&format!("engine_at_a_moment {moment:?} {}", mark.path().display()));
    let stopped = mark.stopped();
    assert_eq!(stopped, engine.id());
    let workers = workers_of(stopped);
    let [worker] = workers[..] else { panic!("one worker: {workers:?}") };
    let folder = mark.path().parent().unwrap().to_owned();
    let begun = || folder.join("begun").exists();
    if moment.dies() {
        assert!(!begun());
        kill(worker);
        eventually("it is dead", || !is_alive(worker));
    } else {
        if moment == Moment::GoesOn {
            assert_eq!(state_of(worker), Some('T'));
            go_on(worker);
        }
        eventually("it runs the next job", begun);
    }
    go_on(stopped);
    // The supervisor looks at the worker while it runs a job that nobody wants to end.
    eventually("the next job is begun", begun);
    thread::sleep(Duration::from_millis(20));
    std::fs::write(folder.join("go"), "").unwrap();
    let output = engine.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{moment:?}: {} {said}", output.status);
}

/// The role of such an engine: the moment's name and the mark.
pub(crate) fn be_an_engine_at_a_moment(argument: &str) {
    let (name, mark) = argument.split_once(' ').expect("two words");
    let moment = Moment::ALL.into_iter().find(|moment| format!("{moment:?}") == name).expect("a moment");
    let folder = Path::new(mark).parent().unwrap();
    let engine = Checked::with(1, |builder| {
        let program = WorkerProgram::this().environment(FOLDER, folder);
        builder.kill_after(GRACE).worker_program(program).capacity(1 << 24)
    });
    fault::arm(&format!("{}:1:stop", fault::name(moment.point())), mark.into());
    let late = engine.job().deadline(Duration::from_millis(500));
    let cancels = moment == Moment::DiesCancelled;
    // Longer than the engine's process needs to stand still, which it does while this job runs.
    let overdue = stubborn_job(&engine, &if cancels { engine.job() } else { late }, 3_000_000);
    let next = engine.submit(held, engine.batch::<u64>(2).unwrap(), ()).unwrap();
    if cancels {
        eventually("it runs", || engine.statistics().queued == 1);
        overdue.cancel();
    }
    let (mut first, mut second) = (Ends::default(), Ends::default());
    first.count(overdue.wait());
    second.count(next.wait());
    assert_eq!(if cancels { first.cancelled } else { first.late }, 1, "{first:?}");
    assert_eq!(second.well, 1, "{second:?}");
    assert_eq!(deaths(&engine), u32::from(moment.dies()), "deaths");
    assert_eq!(engine.pids().len(), 1);
}
