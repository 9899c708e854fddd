//! Several server processes on one port, and one set of worker processes that computes for all of them.
//!
//! What `cluster` is in the Node world, where each of the processes would have a pool of its own. Here a server that dies takes no
//! worker along, and one that is started in its place finds the workers that are there.
//!
//! Which way the sharing goes: an engine belongs to one process, and only that process hands jobs to it. So each server has an engine
//! without workers but with seats, and each worker process attaches itself to all of them. It has a thread for each server and lets
//! them compute one at a time: however many servers there are, no more is computed at once than there are workers. What is not shared is the
//! queue. Each server bounds its own, and a job that a worker took from one server may wait for the worker's job of another.
//! The servers bind one port with `SO_REUSEPORT`: the system spreads new connections over them by the visitor's address and port.
//!
//! Run with `cargo run --release --bin cluster`: the program starts itself as two servers and two workers, and tries them out.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{env, fs, process, thread};

use axum::http::StatusCode;
use axum::{Router, routing::get};
use tokio::net::TcpSocket;
use workring::{Backpressure, Engine, kernel, kernels};
use workring_programs::BlockingClient;

/// Held by the job that a worker process computes at the moment.
static TURN: Mutex<()> = Mutex::new(());

/// The sum of the square roots of the numbers up to `n`, and the process that computed it.
#[kernel]
fn sum_of_roots(sum: &mut [f64], worker: &mut [u32], n: &u64) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    sum[0] = (1..=*n).map(|number| (number as f64).sqrt()).sum();
    worker[0] = process::id();
}

fn shared_port(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A server: ends, when it has answered what it accepted, at the end of its standard input.
fn serve(address: SocketAddr, path: &Path) -> Result<(), Box<dyn Error>> {
    let builder = Engine::builder().threads(0).external_workers(8).queue_capacity(64);
    let engine = Arc::new(builder.listen(path).kernels(kernels![sum_of_roots]).build()?);
    let shared = Arc::clone(&engine);
    let compute = async move || -> Result<String, (StatusCode, String)> {
        let unavailable = |error: workring::Error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        let batches = (shared.batch(1).map_err(unavailable)?, shared.batch(1).map_err(unavailable)?);
        let job = shared.job().backpressure(Backpressure::Reject).submit(sum_of_roots, batches, 1_000_000);
        let (sum, worker) = job.map_err(|failed| unavailable(failed.error))?.await.map_err(|f| unavailable(f.error))?;
        Ok(format!("{} {} {}", process::id(), worker[0], sum[0]))
    };
    let routes = Router::new().route("/", get(async || process::id().to_string())).route("/compute", get(compute));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = shared_port(address)?.listen(1024)?;
        println!("listening on {address}");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        thread::spawn(|| stop.send(io::stdin().read_to_end(&mut Vec::new())));
        axum::serve(listener, routes).with_graceful_shutdown(async { drop(stopped.await) }).await
    })?;
    Ok(engine.close(Duration::from_secs(10))?)
}

/// A worker: computes for the servers that listen at these paths, now or later, until the end of its standard input.
fn work(paths: impl Iterator<Item = PathBuf>) -> Result<(), Box<dyn Error>> {
    for path in paths {
        thread::spawn(move || {
            loop {
                // SAFETY: the engines at these paths are those of `serve` above: of this very program, started by its primary.
                #[expect(unsafe_code, reason = "whoever attaches vouches for the engine")]
                let attached = unsafe { workring::process::attach(path.as_path(), kernels![sum_of_roots]) };
                // However that ended: a server that is started in the place of this one will listen there again.
                let _ = attached.and_then(|worker| worker.serve());
                thread::sleep(Duration::from_millis(5));
            }
        });
    }
    println!("at work");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// This program in another part, which says when it is there. It ends when this process does, because its standard input does then.
fn start(arguments: &[&str]) -> io::Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut String::new())?;
    Ok(child)
}

/// Ends a process in order.
fn end(mut child: Child) -> io::Result<()> {
    drop(child.stdin.take());
    assert!(child.wait()?.success());
    Ok(())
}

/// Has each of the servers add up a million roots: the system chooses which one gets a connection, so it takes some.
fn visit(address: SocketAddr, servers: &[&Child], workers: &[Child]) -> io::Result<()> {
    for server in servers {
        let mut clients = (0..1000).map(|_| BlockingClient::connect(address));
        let answer = loop {
            let mut client = clients.next().expect("one connection in a thousand")?;
            if client.get("/")?.body == server.id().to_string() {
                break client.get("/compute")?.body;
            }
        };
        let [by, worker, sum] = answer.split(' ').collect::<Vec<_>>()[..] else { panic!("{answer}") };
        assert_eq!((by, sum), (server.id().to_string().as_str(), "666667166.4588418"));
        assert!(workers.iter().any(|known| known.id().to_string() == worker), "{worker} is no worker");
        println!("server {by} had worker {worker} compute");
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address, path] => return serve(address.parse()?, Path::new(path)),
        ["work", ref paths @ ..] => return work(paths.iter().map(PathBuf::from)),
        _ => {}
    }
    // Holds the port without listening, so that nobody else takes it while no server is there.
    let holder = shared_port("127.0.0.1:0".parse()?)?;
    let port = holder.local_addr()?;
    let paths = [0, 1].map(|number| env::temp_dir().join(format!("workring-cluster-{}-{number}", process::id())));
    let [one, two] = paths.each_ref().map(|path| path.to_str().expect("a plain path"));

    let workers = [start(&["work", one, two])?, start(&["work", one, two])?];
    let (mut first, second) = (start(&["serve", &port.to_string(), one])?, start(&["serve", &port.to_string(), two])?);
    visit(port, &[&first, &second], &workers)?;

    // A server that is killed takes neither port nor workers along; its successor has both.
    first.kill().and_then(|()| first.wait())?;
    visit(port, &[&second], &workers)?;
    let third = start(&["serve", &port.to_string(), one])?;
    visit(port, &[&second, &third], &workers)?;

    [second, third].into_iter().chain(workers).try_for_each(end)?;
    assert!(!fs::exists(&paths[0])? && !fs::exists(&paths[1])?, "servers clean up");
    Ok(())
}
