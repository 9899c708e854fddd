//! The event loop of an async server, on one thread, while eight jobs that compute are always under way on two workers.
//!
//! What a client of the server feels is how late the loop comes to its request. A thread sends one every millisecond; the figure is the
//! time until the loop has it, in the worst of a hundred cases. The loop and two workers share the cores of the machine, so where there
//! are two the scheduler of the system decides as well: the limit is the loop alone.

use std::cell::Cell;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::LocalSet;
use workring::{Engine, process::WorkerProgram};

use super::Effort;
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::ours::{self, close, known};
use crate::rivals::threads::rayon_pool;
use crate::work::compute;

/// Jobs under way at a time.
const JOBS: usize = 8;
const WORKERS: usize = 2;
/// Tenths of a millisecond of computing in each.
const TENTHS: u64 = 20;
/// Between two requests of the client.
const PAUSE: Duration = Duration::from_millis(1);

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    Ok(vec![effort.run(requests(Duration::from_millis(effort.pick(1000, 30))))?])
}

fn work() -> u64 {
    (0..TENTHS).fold(0, |sum, _| sum ^ compute()) | 1
}

fn requests(time: Duration) -> Table<'static> {
    let mut table =
        Table::new(format!("from a request to the loop, 99th percentile, {JOBS} jobs of 2 ms"), "us", Better::Lower);
    table.limit("no job", move || {
        runtime(0).block_on(worst_of_a_hundred(time, None::<fn() -> std::future::Ready<u64>>))
    });
    table.ours("threads", move || {
        let engine = Engine::builder().threads(WORKERS).build().expect("an engine of threads");
        let job = || async { engine.run(work).expect("room").await.expect("it cannot fail") };
        let sample = runtime(0).block_on(worst_of_a_hundred(time, Some(job)));
        close(engine);
        sample
    });
    table.goal(With::BestRival, 1.0);
    for (name, nice) in [("processes", 0), ("processes that are nice", 10)] {
        table.ours(name, move || {
            let program = WorkerProgram::this().nice(nice);
            let engine = Engine::builder().processes(WORKERS).kernels(&known()).worker_program(program).build();
            let engine = engine.expect("an engine of processes");
            let job = || async {
                let batch = engine.batch::<u64>(1).expect("a small batch");
                engine.submit(ours::computing, batch, TENTHS).expect("room").await.expect("it cannot fail")[0]
            };
            let sample = runtime(0).block_on(worst_of_a_hundred(time, Some(job)));
            close(engine);
            sample
        });
        table.goal(With::BestRival, 1.0);
    }
    table.rival("tokio spawn_blocking", move || {
        let job = || async { tokio::task::spawn_blocking(work).await.expect("it does not panic") };
        runtime(WORKERS).block_on(worst_of_a_hundred(time, Some(job)))
    });
    table.rival("rayon spawn, oneshot", move || {
        let pool = rayon_pool(WORKERS, None);
        let job = || async {
            let (reply, replied) = oneshot::channel();
            pool.spawn(move || reply.send(work()).expect("somebody waits"));
            replied.await.expect("a reply")
        };
        runtime(0).block_on(worst_of_a_hundred(time, Some(job)))
    });
    table.rival("threadpool, oneshot", move || {
        let pool = threadpool::ThreadPool::new(WORKERS);
        let job = || async {
            let (reply, replied) = oneshot::channel();
            pool.execute(move || reply.send(work()).expect("somebody waits"));
            replied.await.expect("a reply")
        };
        runtime(0).block_on(worst_of_a_hundred(time, Some(job)))
    });
    table
}

/// One thread that runs the loop, and so many for what blocks.
fn runtime(blocking: usize) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.max_blocking_threads(blocking.max(1)).build().expect("a runtime")
}

/// Microseconds.
async fn worst_of_a_hundred<F, J>(time: Duration, job: Option<F>) -> Sample
where
    F: Fn() -> J,
    J: Future<Output = u64>,
{
    let stop = Rc::new(Cell::new(false));
    let finished = Cell::new(0u64);
    let keep_one_under_way = async || {
        while let (false, Some(job)) = (stop.get(), &job) {
            let is_computed = job().await > 0;
            finished.set(finished.get() + u64::from(is_computed));
        }
    };
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel::<Instant>();
    let client = thread::spawn(move || {
        let end = Instant::now() + time;
        while Instant::now() < end && ask.send(Instant::now()).is_ok() {
            thread::sleep(PAUSE);
        }
    });
    let answers = async {
        let mut late = Vec::new();
        while let Some(sent) = asked.recv().await {
            late.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        stop.set(true);
        late
    };
    let local = LocalSet::new();
    let (mut late, ..) = local
        .run_until(async {
            tokio::join!(
                answers,
                keep_one_under_way(),
                keep_one_under_way(),
                keep_one_under_way(),
                keep_one_under_way(),
                keep_one_under_way(),
                keep_one_under_way(),
                keep_one_under_way(),
                keep_one_under_way()
            )
        })
        .await;
    client.join().expect("the client does not panic");
    if job.is_some() && finished.get() < JOBS as u64 {
        return Err("the jobs made no progress".into());
    }
    late.sort_by(f64::total_cmp);
    Ok(late[late.len() * 99 / 100].max(0.1))
}
