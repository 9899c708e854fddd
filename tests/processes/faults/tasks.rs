//! Tasks whose jobs are lost to damaged words: they have no thread that could look, and no worker comes by.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use pollster::block_on;
use workring::__private::fault::{flip_waking, forget_who_waits_for_all, lose_entries};
use workring::{Batch, Engine, Error, Failed, IdleStrategy, Job, job::Returns};

use crate::kernels::increment;
use crate::support::{STEP, eventually};

/// The tests of this file.
pub(super) fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("tasks::jobs_to_which_no_entry_leads_are_done", jobs_to_which_no_entry_leads_are_done),
        ("tasks::workers_that_cannot_be_found_are_called", workers_that_cannot_be_found_are_called),
        (
            "tasks::the_end_of_all_jobs_is_told_whatever_the_word_says",
            the_end_of_all_jobs_is_told_whatever_the_word_says,
        ),
        (
            "tasks::jobs_that_are_lost_come_back_when_their_engine_closes",
            jobs_that_are_lost_come_back_when_their_engine_closes,
        ),
    ]
}

/// An engine of one thread, held by a closure until the sender is dropped.
fn held() -> (Engine, Job<Returns<()>>, Sender<()>) {
    let engine = Engine::builder().threads(1).queue_capacity(64).capacity(1 << 20).build().expect("it can be built");
    let (sender, gate) = mpsc::channel::<()>();
    let holder = engine.run(move || wait_at(&gate)).expect("there is room");
    eventually("the worker is at the closure", || engine.statistics().queued == 0);
    (engine, holder, sender)
}

fn wait_at(gate: &Receiver<()>) {
    // It opens when the sender is dropped.
    let _ = gate.recv();
}

fn batch(engine: &Engine) -> Batch<u64> {
    engine.batch(8).expect("there is memory")
}

fn is_incremented(batch: &Batch<u64>) {
    assert!(batch.iter().all(|&value| value == 1), "it ran once");
}

/// Without a look from time to time such tasks wait until a thread does, too.
fn jobs_to_which_no_entry_leads_are_done() {
    for _ in 0..3 {
        let (engine, holder, sender) = held();
        let plain = engine.submit(increment, batch(&engine), ()).expect("there is room");
        let rows = engine.submit_many(increment, batch(&engine), 4).expect("there is room");
        let closure = engine.run(|| 7).expect("there is room");
        lose_entries(&engine);
        drop(sender);
        is_incremented(&block_on(plain).expect("it runs"));
        is_incremented(&block_on(rows).expect("it runs").batches);
        assert_eq!(block_on(closure).expect("it runs"), 7);
        holder.wait().expect("it was let go on");
        // What looked after them does so again after a time without tasks.
        eventually("the engine is idle", || engine.is_idle());
        let (sender, gate) = mpsc::channel::<()>();
        let holder = engine.run(move || wait_at(&gate)).expect("there is room");
        let late = engine.submit(increment, batch(&engine), ()).expect("there is room");
        lose_entries(&engine);
        drop(sender);
        is_incremented(&block_on(late).expect("it runs"));
        block_on(engine.wait_idle()).expect("it is not inside a job");
        holder.wait().expect("it was let go on, or was lost as well and looked after");
    }
}

/// Flips each bit of the words by which sleepers are found, one after the other in one engine, none of them back, while nothing but a task
/// waits for the job that comes next.
fn workers_that_cannot_be_found_are_called() {
    let builder = Engine::builder().threads(2).queue_capacity(64).capacity(1 << 20).idle_strategy(IdleStrategy::Park);
    let engine = builder.build().expect("it can be built");
    for bit in 0.. {
        // Asleep, most often, before the bit flips.
        thread::sleep(std::time::Duration::from_millis(1));
        if flip_waking(&engine, bit).is_none() {
            break;
        }
        for _ in 0..3 {
            let job = engine.submit(increment, batch(&engine), ()).expect("it takes jobs");
            is_incremented(&block_on(job).expect("it runs"));
        }
    }
}

/// A task that waits until nothing is left is told when the bit is lost that says so, in engines of processes as well.
fn the_end_of_all_jobs_is_told_whatever_the_word_says() {
    let processes = Engine::builder().processes(1).kernels(crate::kernels::ALL()).threads(1);
    for builder in [Engine::builder().threads(1), processes] {
        let engine = builder.queue_capacity(64).capacity(1 << 24).build().expect("it can be built");
        let (sender, gate) = mpsc::channel::<()>();
        let holder = engine.run(move || wait_at(&gate)).expect("there is room");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| block_on(engine.wait_idle()));
            // That the task has come to its wait is no event: it may find the job over, and the test then shows nothing.
            thread::sleep(std::time::Duration::from_millis(50));
            forget_who_waits_for_all(&engine);
            drop(sender);
            waiting.join().expect("it does not panic").expect("it is not inside a job");
        });
        holder.wait().expect("it was let go on");
    }
}

/// Workers end when they find nothing left: what they have not found is looked for after them.
fn jobs_that_are_lost_come_back_when_their_engine_closes() {
    for is_awaited_before in [true, false] {
        let (engine, holder, sender) = held();
        let job = engine.submit(increment, batch(&engine), ()).expect("there is room");
        lose_entries(&engine);
        let result = thread::scope(|scope| {
            let waiting = is_awaited_before.then(|| scope.spawn(|| block_on(engine.wait_idle())));
            thread::sleep(std::time::Duration::from_millis(20));
            drop(sender);
            engine.close(STEP).expect("its worker ends");
            waiting.into_iter().for_each(|waiting| drop(waiting.join().expect("it does not panic")));
            block_on(job)
        });
        match result {
            Ok(batch) => is_incremented(&batch),
            Err(Failed { error: Error::Cancelled, returned, .. }) => assert!(returned.iter().all(|&value| value == 0)),
            Err(failed) => panic!("{}", failed.error),
        }
        holder.wait().expect("it was let go on");
    }
}
