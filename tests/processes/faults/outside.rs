//! Workers in processes that others started: one falls beside a worker of the engine, which goes on; the seat is free again then.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use workring::__private::fault::{self, Point};

use super::load::Load;
use super::matrix::kill_first;
use super::{Mark, Place, ROUNDS_MAX, Reviver, idle_for, place};
use crate::outside::Outsider;
use crate::support::{Checked, STEP, eventually};

/// Whether an outside worker passes the point. It is armed when it has asked for a seat.
pub(super) fn is_passed(point: Point) -> bool {
    match place(point) {
        Place::Attach => point != Point::F3_joined,
        Place::Work | Place::AfterDeath | Place::Close => true,
        Place::Engine | Place::EngineAfterDeath | Place::Killing | Place::Messages => false,
    }
}

pub(super) fn test_point(point: Point) {
    for what in ["kill", "stop"] {
        match place(point) {
            Place::Attach => fall_at_the_start(point, what),
            Place::Close => {
                fall_when_told_to_leave(point, what);
                fall_when_the_engine_closes(point, what);
            }
            _ => [1, 3].into_iter().for_each(|hit| fall_at_work(point, hit, what)),
        }
    }
}

/// Where an engine with one worker process of its own and one seat for others is reached.
struct House {
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    fn engine(&self, point: Point) -> Checked {
        Checked::with(1, |builder| {
            let builder = builder.threads(0).external_workers(1).listen(self.path());
            builder.idle_strategy(idle_for(point)).capacity(1 << 26).queue_capacity(64)
        })
    }

    /// An outside worker that falls at a point.
    fn armed(&self, mark: &Mark, point: Point, hit: u32, what: &str) -> Outsider {
        mark.arm();
        Outsider::start_with("stoppable", &self.path(), mark.variables(point, hit, what))
    }

    /// An outside worker that has done a share of the load, and will fall at a point that only leaving passes.
    fn serving(&self, engine: &Checked, load: &Load, mark: &Mark, point: Point, what: &str) -> Outsider {
        let mut outsider = self.armed(mark, point, 1, what);
        assert_eq!(outsider.line(), "attached");
        eventually("it serves", || engine.external_workers() == 1);
        assert_eq!(load.round(engine), 0);
        outsider
    }

    /// One that does not, as soon as a seat is free.
    fn next(&self) -> Outsider {
        let mut seated = None;
        eventually("the seat is free", || {
            let mut outsider = Outsider::start("stoppable", &self.path());
            let line = outsider.line();
            assert!(line == "attached" || line.contains("all 1 slots"), "{line}");
            if line == "attached" {
                seated = Some(outsider);
            } else {
                outsider.end();
            }
            seated.is_some()
        });
        seated.expect("it has a seat")
    }
}

/// The engine without the worker that fell, or has come back and been told to leave; then with another one in its seat.
fn goes_on(house: &House, engine: Checked, load: Load, outsider: Outsider, what: &str) {
    if what == "kill" {
        assert_eq!(outsider.signal(), Some(9));
    } else {
        assert_eq!(outsider.end(), "Stopped");
    }
    eventually("nobody serves from outside", || engine.external_workers() == 0);
    eventually("the worker of the engine is there", || engine.pids().len() == 1);
    assert_eq!(load.round(&engine), 0, "jobs failed though nobody died");
    let next = house.next();
    eventually("the next one serves", || engine.external_workers() == 1);
    let finished = || engine.workers()[1].finished;
    let before = finished();
    eventually("the next one does its share", || {
        assert_eq!(load.round(&engine), 0, "jobs failed though nobody died");
        finished() > before
    });
    drop(load);
    eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
    drop(engine);
    assert_eq!(next.end(), "Closed");
}

fn fall_at_work(point: Point, hit: u32, what: &str) {
    let row = format!("{} hit {hit} {what}", fault::name(point));
    let (house, mark) = (House::new(), Mark::new());
    let engine = house.engine(point);
    let (load, own) = (Load::new(&engine), engine.pids());
    let mut outsider = house.armed(&mark, point, hit, what);
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    assert_eq!(outsider.line(), "attached");
    let (enough, after_death) = (AtomicBool::new(false), place(point) == Place::AfterDeath);
    let (failed, killed) = thread::scope(|scope| {
        let killer = scope.spawn(|| if after_death { kill_first(&engine, &enough) } else { 0 });
        let mut failed = 0;
        // How many rounds it takes depends on what else the machine does: the engine's own worker can do all of the work.
        let begun = Instant::now();
        while mark.fallen().is_none() && begun.elapsed() < STEP {
            failed += load.round(&engine);
        }
        enough.store(true, Ordering::Relaxed);
        (failed, killer.join().unwrap())
    });
    assert_eq!(mark.fallen(), Some(outsider.pid()), "{row}: the point was not reached");
    let deaths = killed + u32::from(what == "kill");
    assert!(failed <= deaths, "{row}: {failed} jobs failed of {deaths} deaths");
    assert!(killed > 0 || engine.pids() == own, "{row}: the engine's own worker was replaced");
    drop(reviver);
    if what == "stop" {
        outsider.nudge();
    }
    goes_on(&house, engine, load, outsider, what);
}

/// It falls before it serves, or right after the engine has let it.
fn fall_at_the_start(point: Point, what: &str) {
    let (house, mark) = (House::new(), Mark::new());
    let engine = house.engine(point);
    let (load, own) = (Load::new(&engine), engine.pids());
    let mut outsider = house.armed(&mark, point, 1, what);
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    eventually("the point is reached", || mark.fallen().is_some());
    assert!(load.round(&engine) <= u32::from(what == "kill"));
    drop(reviver);
    if what == "stop" || point == Point::F4_ready {
        assert_eq!(outsider.line(), "attached");
    }
    if what == "stop" {
        eventually("it serves after all", || engine.external_workers() == 1);
        assert_eq!(load.round(&engine), 0);
        outsider.nudge();
    }
    assert_eq!(engine.pids(), own, "the engine's own worker was replaced");
    goes_on(&house, engine, load, outsider, what);
}

/// It falls while it leaves of its own accord.
fn fall_when_told_to_leave(point: Point, what: &str) {
    let (house, mark) = (House::new(), Mark::new());
    let engine = house.engine(point);
    let load = Load::new(&engine);
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    let mut outsider = house.serving(&engine, &load, &mark, point, what);
    outsider.nudge();
    for _ in 0..ROUNDS_MAX {
        assert_eq!(load.round(&engine), 0, "it runs no job any more");
        if mark.fallen().is_some() {
            break;
        }
    }
    assert_eq!(mark.fallen(), Some(outsider.pid()), "the point was not reached");
    drop(reviver);
    goes_on(&house, engine, load, outsider, what);
}

fn fall_when_the_engine_closes(point: Point, what: &str) {
    let (house, mark) = (House::new(), Mark::new());
    let engine = house.engine(point);
    let load = Load::new(&engine);
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    let outsider = house.serving(&engine, &load, &mark, point, what);
    drop(load);
    drop(engine);
    drop(reviver);
    assert_eq!(mark.fallen(), Some(outsider.pid()), "the point was not reached");
    if what == "kill" {
        assert_eq!(outsider.signal(), Some(9));
    } else {
        assert_eq!(outsider.end(), "Closed");
    }
}
