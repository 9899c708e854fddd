//! A web server that stays responsive while it computes: tokio waits for the sockets, the workers of an engine do the work.
//!
//! What an HTTP server with a Piscina pool is in the Node world (`benches/node/server.js` is that program). `/` is the health check,
//! `/compute?n=` adds up the square roots of the numbers up to n, `/metrics` is for Prometheus. The queue is bounded: what does not fit
//! is refused with 503 and may be tried again. Closing the connection cancels the job. At the end what was accepted is answered.
//!
//! `cargo run --release --bin server -- --port 8080` serves until SIGTERM or Ctrl-C; without a port the program tries itself out.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get, serve::ListenerExt};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use workring::{
    Backpressure, Context, Engine, Error,
    job::{CancelHandle, CancelOutcome},
    kernel, kernels,
    process::WorkerProgram,
};

mod try_out;
use try_out::try_out;

/// The sum of the square roots of the numbers up to `n`, one after the other; looks now and then whether anybody still wants it.
#[kernel]
fn sum_of_roots(sum: &mut [f64], n: &u64, ctx: &mut Context) {
    for first in (1..=*n).step_by(1 << 16) {
        if ctx.is_cancelled() {
            return;
        }
        for number in first..=(first + 0xFFFF).min(*n) {
            sum[0] += (number as f64).sqrt();
        }
    }
}

#[derive(Parser)]
#[command(about = "A web server that stays responsive while it computes")]
struct Options {
    /// Port on loopback, 0 for any; without it the program tries itself out and ends
    #[arg(long)]
    port: Option<u16>,
    /// Workers
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Nice value of the workers: at 19 the system gives them what is left of the cores
    #[arg(long, default_value_t = 19)]
    nice: i32,
    /// Have worker threads instead of processes
    #[arg(long)]
    threads: bool,
}

static ACCEPTED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static CANCELLED: AtomicU64 = AtomicU64::new(0);

/// Dropped with the request, whether that was answered or its client is gone.
struct CancelOnDrop(CancelHandle);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if self.0.cancel() != CancelOutcome::TooLate {
            CANCELLED.fetch_add(1, Relaxed);
        }
    }
}

async fn compute(State(engine): State<Arc<Engine>>, Query(query): Query<HashMap<String, u64>>) -> Response {
    let n = query.get("n").copied().unwrap_or(50_000_000);
    let call = engine.job().backpressure(Backpressure::Reject).deadline(Duration::from_secs(60));
    let job = match engine.batch(1).and_then(|sum| Ok(call.submit(sum_of_roots, sum, n)?)) {
        Ok(job) => job,
        Err(error) => return refuse(&error),
    };
    ACCEPTED.fetch_add(1, Relaxed);
    let _guard = CancelOnDrop(job.cancel_handle());
    match job.await {
        Ok(sum) => sum[0].to_string().into_response(),
        Err(failed) => refuse(&failed.error),
    }
}

fn refuse(error: &Error) -> Response {
    REFUSED.fetch_add(1, Relaxed);
    let text = format!("{error}\n");
    match error {
        Error::QueueFull { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response()
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
    }
}

async fn metrics(State(engine): State<Arc<Engine>>) -> impl IntoResponse {
    let (all, workers, mut text) = (engine.statistics(), engine.workers(), String::new());
    let busy = workers.iter().map(|worker| worker.alive_for.saturating_sub(worker.idle_for).as_secs_f64()).sum();
    for (name, kind, help, value) in [
        ("workring_jobs_queued", "gauge", "Jobs that wait for a worker.", all.queued as f64),
        ("workring_jobs_finished_total", "counter", "Jobs that workers finished.", all.finished as f64),
        ("workring_busy_seconds_total", "counter", "Time of workers that had something to do.", busy),
        ("workring_workers", "gauge", "Workers.", workers.len() as f64),
        ("server_accepted_total", "counter", "Computations that were begun.", ACCEPTED.load(Relaxed) as f64),
        ("server_refused_total", "counter", "Computations refused or failed.", REFUSED.load(Relaxed) as f64),
        ("server_cancelled_total", "counter", "Computations nobody waited for.", CANCELLED.load(Relaxed) as f64),
    ] {
        text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let known = kernels![sum_of_roots];
    workring::worker_entry(known);
    let options = Options::parse();
    // Processes unless told otherwise: `docs/benchmarks.md` says what that does for the health check.
    let (threads, processes) = if options.threads { (options.workers, 0) } else { (0, options.workers) };
    let builder = Engine::builder().queue_capacity(64).threads(threads).processes(processes).kernels(known);
    let builder = match options.threads {
        true => builder.thread_nice(options.nice),
        false => builder.worker_program(WorkerProgram::this().nice(options.nice)),
    };
    let engine = Arc::new(builder.build()?);
    let routes = Router::new().route("/", get(async || "ok\n")).route("/compute", get(compute));
    let routes = routes.route("/metrics", get(metrics)).with_state(Arc::clone(&engine));

    // One thread is enough for tasks that only wait.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port.unwrap_or(0))).await?;
        let address = listener.local_addr()?;
        println!("listening on {address}");
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let visitor = options.port.is_none().then(|| tokio::spawn(try_out(address, stop)));
        let end = async move {
            tokio::select! { _ = stopped, if options.port.is_none() => {}, _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, routes).with_graceful_shutdown(end).await?;
        if let Some(visitor) = visitor {
            visitor.await??;
        }
        Ok::<(), Box<dyn std::error::Error>>(())
    })?;
    engine.close(Duration::from_secs(10))?;
    println!("{} computations accepted, {} cancelled", ACCEPTED.load(Relaxed), CANCELLED.load(Relaxed));
    Ok(())
}
