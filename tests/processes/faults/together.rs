//! Processes that run two jobs at a time: whatever one of their threads was at, both jobs go on elsewhere or come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use workring::__private::fault::{self, Point};
use workring::{IdleStrategy, process::WorkerProgram};

use super::load::Load;
use super::matrix::{fall_for_good, kill_first};
use super::{Mark, Place, ROUNDS_MAX, deaths, place};
use crate::support::{Checked, eventually, kill};

/// Jobs that a process runs at a time, and that end with it.
const JOBS: usize = 2;

/// Whether a worker passes the point; what the engine's own process passes does not depend on which engines share a process.
pub(super) fn is_passed(point: Point) -> bool {
    matches!(place(point), Place::Attach | Place::Work | Place::AfterDeath | Place::Close)
}

pub(super) fn test_point(point: Point) {
    for processes in [1, 2] {
        fall(point, processes);
    }
    if place(point) == Place::Work {
        fall_for_good(point, JOBS);
    }
}

/// The engine's processes run two jobs each; the first that passes `point` falls.
fn fall(point: Point, processes: usize) {
    let row = format!("{} of {processes}", fault::name(point));
    let mark = Mark::new();
    {
        let program = mark.program(WorkerProgram::this(), point, 1, "kill");
        let engine = Checked::with(processes, |builder| {
            let builder = builder.jobs_per_process(JOBS).worker_program(program).idle_strategy(IdleStrategy::Park);
            builder.capacity(1 << 26).queue_capacity(64)
        });
        let load = Load::new(&engine);
        assert_eq!(load.round(&engine), 0, "{row}: jobs failed though nobody died");
        mark.arm();
        match place(point) {
            // It falls when the engine closes.
            Place::Close => {}
            Place::Attach => {
                assert!(kill(engine.pids()[0]));
                let failed = load.round(&engine);
                eventually("the replacement falls", || mark.fallen().is_some());
                goes_on(&engine, &load, processes, failed, Some(2), &row);
            }
            Place::AfterDeath => {
                let enough = AtomicBool::new(false);
                let (failed, killed) = thread::scope(|scope| {
                    let killer = scope.spawn(|| kill_first(&engine, &enough));
                    let failed = rounds(&engine, &load, &mark);
                    enough.store(true, Ordering::Relaxed);
                    (failed, killer.join().unwrap())
                });
                assert!(mark.fallen().is_some(), "{row}: the point was not reached");
                assert!(failed as usize <= (killed as usize + 1) * JOBS, "{row}: {failed} failed of {killed} deaths");
                goes_on(&engine, &load, processes, 0, None, &row);
            }
            _ => {
                let failed = rounds(&engine, &load, &mark);
                assert!(mark.fallen().is_some(), "{row}: the point was not reached");
                goes_on(&engine, &load, processes, failed, Some(1), &row);
            }
        }
        drop(load);
        eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
    }
    assert!(mark.fallen().is_some(), "{row}: the point was not reached");
}

/// Load until the point is reached; how many jobs ended with their process.
fn rounds(engine: &Checked, load: &Load, mark: &Mark) -> u32 {
    let mut failed = 0;
    for _ in 0..ROUNDS_MAX {
        failed += load.round(engine);
        if mark.fallen().is_some() {
            break;
        }
    }
    failed
}

/// All workers are there, no more jobs failed than the processes had that died, and the next rounds are right.
fn goes_on(engine: &Checked, load: &Load, processes: usize, failed: u32, died: Option<u32>, row: &str) {
    eventually("all workers are there", || engine.pids().len() == processes * JOBS);
    if let Some(died) = died {
        assert!(failed <= died * JOBS as u32, "{row}: {failed} jobs failed of {died} deaths");
        assert_eq!(deaths(engine), died * JOBS as u32, "{row}: each worker of a process dies with it");
        for _ in 0..2 {
            assert_eq!(load.round(engine), 0, "{row}: jobs failed though nobody died");
        }
    } else {
        load.round(engine);
    }
}
