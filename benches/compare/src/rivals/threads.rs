//! Round trips of a number to a thread and back, by channels and pools.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::measure::Sample;
use crate::pace::Pace;
use crate::place::Pair;

/// A thread that answers until its channel ends, between a sender and a receiver of ours.
macro_rules! channel_of {
    ($name:ident, $new:expr) => {
        pub fn $name(pair: Pair, pace: Pace) -> Sample {
            let ((ask, asked), (reply, replied)) = ($new, $new);
            thread::scope(|scope| {
                scope.spawn(move || {
                    pair.pin_worker();
                    while let Ok(number) = asked.recv() {
                        if reply.send(number + 1u64).is_err() {
                            return;
                        }
                    }
                });
                let nanoseconds = pace.measure(pair, |number: u64| {
                    ask.send(number).expect("the thread is there");
                    replied.recv().expect("the thread is there")
                });
                drop(ask);
                Ok(nanoseconds)
            })
        }
    };
}

channel_of!(crossbeam_channel, crossbeam_channel::bounded(64));
channel_of!(kanal, kanal::bounded(64));
channel_of!(flume, flume::bounded(64));
channel_of!(std_channel, mpsc::sync_channel(64));

/// A pool of one thread, in its place.
pub fn rayon_pool(threads: usize, pair: Option<Pair>) -> rayon::ThreadPool {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let builder = builder.start_handler(move |_| {
        if let Some(pair) = pair {
            pair.pin_worker();
        }
    });
    builder.build().expect("a pool")
}

pub fn rayon_install(pair: Pair, pace: Pace) -> Sample {
    let pool = rayon_pool(1, Some(pair));
    Ok(pace.measure(pair, |number| pool.install(|| number + 1)))
}

pub fn rayon_spawn(pair: Pair, pace: Pace) -> Sample {
    let pool = rayon_pool(1, Some(pair));
    let (reply, replied) = crossbeam_channel::bounded(64);
    Ok(pace.measure(pair, |number| {
        let reply = reply.clone();
        pool.spawn(move || reply.send(number + 1).expect("somebody waits"));
        replied.recv().expect("a reply")
    }))
}

pub fn tokio_runtime(threads: usize, pair: Option<Pair>) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).max_blocking_threads(threads).thread_keep_alive(Duration::from_secs(60));
    builder.on_thread_start(move || {
        if let Some(pair) = pair {
            pair.pin_worker();
        }
    });
    builder.build().expect("a runtime")
}

pub fn tokio_spawn_blocking(pair: Pair, pace: Pace) -> Sample {
    let runtime = tokio_runtime(1, Some(pair));
    Ok(pace.measure(pair, |number| {
        let job = runtime.spawn_blocking(move || number + 1);
        runtime.block_on(job).expect("it does not panic")
    }))
}

pub fn threadpool(pair: Pair, pace: Pace) -> Sample {
    let pool = threadpool::ThreadPool::new(1);
    pool.execute(move || pair.pin_worker());
    pool.join();
    let (reply, replied) = crossbeam_channel::bounded(64);
    Ok(pace.measure(pair, |number| {
        let reply = reply.clone();
        pool.execute(move || reply.send(number + 1).expect("somebody waits"));
        replied.recv().expect("a reply")
    }))
}

pub fn rusty_pool(pair: Pair, pace: Pace) -> Sample {
    let pool = rusty_pool::ThreadPool::new(1, 1, Duration::from_secs(60));
    pool.evaluate(move || pair.pin_worker()).await_complete();
    let nanoseconds = pace.measure(pair, |number| pool.evaluate(move || number + 1).await_complete());
    pool.shutdown_join();
    Ok(nanoseconds)
}
