//! Jobs and tokens on engines, looked at from inside: what is kept, and for how long.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::Engine;
use crate::engine::runtime::Core;
use crate::front::job::CancelToken;
use crate::os::host::Deadline;

fn gone(core: &Weak<Core>) -> bool {
    // Workers let go of the engine a moment after they ended, which is no event that could be waited for.
    let patience = Deadline::after(Duration::from_secs(3600));
    while core.strong_count() > 0 && !patience.is_past() {
        thread::yield_now();
    }
    core.strong_count() == 0
}

fn engine() -> (Engine, Weak<Core>) {
    let engine = Engine::builder().threads(2).queue_capacity(64).build().unwrap();
    let core = Arc::downgrade(engine.core());
    (engine, core)
}

/// A descriptor keeps the engine for its next holder: with nobody left that would be for ever.
#[test]
fn an_engine_ends_with_the_last_of_its_handles() {
    let (engine, core) = engine();
    let jobs: Vec<_> = (0..64).map(|number| engine.run(move || number).unwrap()).collect();
    jobs.into_iter().enumerate().for_each(|(number, job)| assert_eq!(job.wait().unwrap(), number));
    assert!(core.strong_count() > 64, "free descriptors keep the engine");
    drop(engine);
    assert!(gone(&core), "no job was open");
}

#[test]
fn jobs_that_outlive_the_engine_keep_it_to_their_ends() {
    let (engine, core) = engine();
    let again: Vec<_> = (0..8).map(|number| engine.run(move || number)).collect();
    again.into_iter().for_each(|job| drop(job.unwrap().wait()));
    let mut jobs: Vec<_> = (0..8).map(|number| engine.run(move || number).unwrap()).collect();
    // Detached, read by now, cancelled by the end of the engine, dropped after it.
    drop(jobs.pop());
    jobs.pop().unwrap().wait().unwrap();
    let handle = jobs[0].cancel_handle();
    drop(engine);
    let last = jobs.pop();
    jobs.into_iter().for_each(|job| drop(job.wait()));
    assert!(core.strong_count() > 0, "one is left");
    drop(last);
    drop(handle);
    assert!(gone(&core));
}

/// Holders that return their descriptors while the engine ends, over and over: the descriptor is either in the list that the
/// engine clears, or the holder is told.
#[test]
fn results_are_read_while_the_engine_ends() {
    for _ in 0..200 {
        let (engine, core) = engine();
        let jobs: Vec<_> = (0..32).map(|number| engine.run(move || number).unwrap()).collect();
        jobs.iter().for_each(|job| {
            while !job.is_finished() {
                thread::yield_now();
            }
        });
        thread::scope(|scope| {
            scope.spawn(move || drop(engine));
            jobs.into_iter().for_each(|job| drop(job.wait()));
        });
        assert!(gone(&core));
    }
}

/// A token that lives as long as a server must not grow with every job.
#[test]
fn jobs_that_are_over_are_forgotten() {
    let engine = Engine::builder().threads(1).build().unwrap();
    let token = CancelToken::new();
    let open: Vec<_> = (0..100).map(|number| engine.run(move || number).unwrap()).collect();
    open.iter().for_each(|job| token.add(job));
    for number in 0..2000 {
        let job = engine.run(move || number).unwrap();
        token.add(&job);
        drop(job.wait());
        assert!(token.listed() <= 201 + 64, "{}", token.listed());
    }
    drop(open);
    drop(engine);
    assert_eq!(token.cancel(), 0);
}
