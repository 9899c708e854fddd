//! One process of an engine with two worker processes falls at one point: a worker, or the engine's own process.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use workring::__private::fault::{self, POINTS, Point};
use workring::{Engine, IdleStrategy, process::WorkerProgram};

use super::load::{Kind, Load};
use super::{Mark, Place, ROUNDS_MAX, Reviver, deaths, place, state_of};
use crate::support::{Checked, eventually, is_alive, kill, start_role};

pub(super) fn test_point(point: Point) {
    if place(point) == Place::Messages {
        return super::messages::test_point(point);
    }
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
                    fall_for_good(point, 1);
                    fall_in_each_kind(point);
                }
            }
            Place::Engine | Place::EngineAfterDeath => {
                [1, 3].into_iter().for_each(|hit| engine_falls(point, hit, what));
            }
            Place::Messages => {}
            Place::Killing => [1, 3].into_iter().for_each(|hit| super::deadlines::engine_falls(point, hit, what)),
        }
    }
}

/// An engine of two workers, the first of which that passes `point` for the `hit`th time falls.
pub(super) fn engine_with_fault(mark: &Mark, program: WorkerProgram, point: Point, hit: u32, what: &str) -> Checked {
    let program = mark.program(program, point, hit, what);
    // Workers that park at once pass the points of sleeping and waking often.
    Checked::with(2, |builder| {
        builder.worker_program(program).idle_strategy(IdleStrategy::Park).capacity(1 << 26).queue_capacity(64)
    })
}

/// Both workers are there, as many died as should have, and the next rounds are right.
pub(super) fn goes_on(engine: &Checked, load: &Load, killed: u32) {
    eventually("both workers are there", || engine.pids().len() == 2);
    assert_eq!(load.round(engine), 0, "jobs failed though nobody died");
    assert_eq!(load.round(engine), 0, "jobs failed though nobody died");
    assert_eq!(deaths(engine), killed, "deaths");
}

pub(super) fn fall_at_work(point: Point, hit: u32, what: &str) {
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

/// A worker falls in a job of each kind that passes the point: each tells of its end in its own way.
pub(super) fn fall_in_each_kind(point: Point) {
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
        // Not every kind passes every point. If the mark cannot be taken away, a worker falls at this very moment.
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

/// A process that runs so many jobs at a time falls and cannot be replaced: the other one alone finishes what both were doing.
/// Replacements, which look at everything when they start, would hide that it was not woken.
pub(super) fn fall_for_good(point: Point, jobs: usize) {
    let mark = Mark::new();
    {
        let program = mark.folder.path().join("worker");
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &program).unwrap();
        let program_with_fault = mark.program(WorkerProgram::at(&program), point, 1, "kill");
        let engine = Checked::with(2, |builder| {
            let builder =
                builder.jobs_per_process(jobs).worker_program(program_with_fault).idle_strategy(IdleStrategy::Park);
            builder.capacity(1 << 26).queue_capacity(64)
        });
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
        assert!(failed as usize <= jobs, "{failed} jobs failed of one death");
        eventually("one process is left", || engine.pids().len() == jobs);
        assert_eq!(load.round(&engine), 0, "jobs failed though nobody died");
    }
}

/// Kills the worker of the first row every few milliseconds; the other one thus lives long enough to pass a point three times.
pub(super) fn kill_first(engine: &Engine, enough: &AtomicBool) -> u32 {
    // By number: a process whose death is not noticed yet takes signals as well.
    let mut killed = BTreeSet::new();
    while !enough.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
        let first = engine.workers().into_iter().find(|worker| worker.worker == 1 && worker.is_alive);
        killed.extend(first.map(|worker| worker.pid).filter(|&pid| kill(pid)));
    }
    killed.len() as u32
}

/// One of the first two workers falls before it is ready, or right after. The engine is built all the same: the next one may live.
pub(super) fn fall_at_the_start(point: Point, what: &str) {
    let mark = Mark::new();
    mark.arm();
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
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
pub(super) fn fall_as_a_replacement(point: Point, what: &str) {
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

/// F14 has no point: a sleeping worker passes none.
pub(super) fn workers_are_replaced_in_their_sleep() {
    let engine = Checked::with(2, |builder| builder.idle_strategy(IdleStrategy::Park).capacity(1 << 26));
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
pub(super) fn workers_of(engine: u32) -> Vec<u32> {
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
pub(super) fn engine_falls(point: Point, hit: u32, what: &str) {
    role_falls("engine_with_fault", point, hit, what);
}

/// The engine of a role falls; in no case a worker of it is left, not even a stopped one.
pub(super) fn role_falls(role: &str, point: Point, hit: u32, what: &str) {
    let row = format!("{} hit {hit} {what}", fault::name(point));
    let mark = Mark::new();
    mark.arm();
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    let argument = format!("{}:{hit}:{what}", fault::name(point));
    let engine = start_role(&format!("{role} {argument} {}", mark.path().display()));
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
