//! How long a health check takes while a web server computes: what one measures with autocannon in the Node world, for servers side by
//! side in one run.
//!
//! `load NAME=COMMAND..` starts each command, which prints the address it listens at as the last word of its first line. Then, round
//! by round and server by server: a window in which nothing but the health check `/` is asked for, and one in which so many visitors
//! ask for `/compute`, again and again, as well. Medians over the windows are printed. Without a command it tries itself out on `server`.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use workring_programs::{BlockingClient, SUM_OF_ROOTS};

mod quiet;
use quiet::undisturbed;

#[derive(Parser)]
#[command(about = "Measures how long a health check takes while a web server computes")]
struct Options {
    /// Windows of each kind for each server
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of a window
    #[arg(long, default_value_t = 5000)]
    window: u64,
    /// Milliseconds from one health check to the next
    #[arg(long, default_value_t = 2)]
    every: u64,
    /// Visitors that have the server compute
    #[arg(long, default_value_t = 8)]
    visitors: usize,
    /// A window in which other programs took more than so many percent of the cores is measured again
    #[arg(long, default_value_t = 5.0)]
    others: f64,
    /// How often at most, before it counts all the same
    #[arg(long, default_value_t = 10)]
    again: usize,
    /// Servers, each as NAME=COMMAND
    servers: Vec<String>,
}

/// A running server and what was seen of it: a row for each window.
struct Server {
    name: String,
    child: Child,
    address: SocketAddr,
    idle: Vec<[f64; 3]>,
    busy: Vec<[f64; 3]>,
    computed: Vec<[f64; 2]>,
}

impl Server {
    fn start(description: &str) -> io::Result<Self> {
        let (name, command) = description.split_once('=').ok_or(io::ErrorKind::InvalidInput)?;
        let mut words = command.split(' ');
        let mut child = Command::new(words.next().unwrap_or_default()).args(words).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut line)?;
        let address = line.split_whitespace().last().and_then(|word| word.parse().ok());
        let address = address.ok_or_else(|| io::Error::other(format!("{name} gave no address: {line}")))?;
        Ok(Self { name: name.to_owned(), child, address, idle: vec![], busy: vec![], computed: vec![] })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Politely, so that it ends its workers; a server that does not listen is ended all the same. It may have ended already.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        for _ in 0..500 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Milliseconds of health checks: the median, the 99th percentile, the longest.
fn check_health(server: SocketAddr, options: &Options) -> io::Result<[f64; 3]> {
    let (window, every) = (Duration::from_millis(options.window), Duration::from_millis(options.every));
    let mut client = BlockingClient::connect(server)?;
    let (start, mut due, mut answered) = (Instant::now(), Instant::now(), Instant::now());
    let mut times = Vec::new();
    while due < start + window {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A check that had to wait for the answer to the one before counts from when it was due; if it is late because this program
        // woke late, that is not the server's time.
        let asked = if answered > due { due } else { Instant::now() };
        let response = client.get("/")?;
        answered = Instant::now();
        assert!(response.status == 200 && response.body == "ok\n", "{response:?}");
        times.push((answered - asked).as_secs_f64() * 1e3);
        due += every;
    }
    times.sort_by(f64::total_cmp);
    Ok([0.5, 0.99, 1.0].map(|share| times[(times.len() as f64 * share).ceil() as usize - 1]))
}

/// The same while visitors have it compute; their computations a second, and the milliseconds of the longest.
fn check_health_busy(server: SocketAddr, options: &Options) -> io::Result<([f64; 3], [f64; 2])> {
    let (stop, start, together) = (AtomicBool::new(false), Instant::now(), Barrier::new(options.visitors + 1));
    let visit = || -> io::Result<(u32, f64)> {
        let client = BlockingClient::connect(server);
        // Before an error is told of, or the others would wait.
        together.wait();
        let (mut client, mut count, mut longest) = (client?, 0, 0.0_f64);
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let response = client.get("/compute?n=50000000")?;
            assert!(response.status == 200 && response.body == SUM_OF_ROOTS, "{response:?}");
            (count, longest) = (count + 1, longest.max(asked.elapsed().as_secs_f64() * 1e3));
        }
        Ok((count, longest))
    };
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..options.visitors).map(|_| scope.spawn(visit)).collect();
        // All of them are connected, and ask now.
        together.wait();
        let health = check_health(server, options);
        stop.store(true, Ordering::Relaxed);
        let visits = visitors.into_iter().map(|visitor| visitor.join().expect("right answers"));
        let visits = visits.collect::<io::Result<Vec<_>>>()?;
        let count: u32 = visits.iter().map(|visit| visit.0).sum();
        let longest = visits.iter().map(|visit| visit.1).fold(0.0, f64::max);
        Ok((health?, [f64::from(count) / start.elapsed().as_secs_f64(), longest]))
    })
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn medians<const N: usize>(rows: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|column| median(rows.iter().map(|row| row[column])))
}

fn main() -> io::Result<()> {
    let mut options = Options::parse();
    if options.servers.is_empty() {
        let server = std::env::current_exe()?.with_file_name("server");
        options.servers = vec![format!("server={} --port 0", server.display())];
        (options.rounds, options.window, options.again) = (1, 500, 0);
    }
    let mut servers = options.servers.iter().map(|server| Server::start(server)).collect::<io::Result<Vec<_>>>()?;
    let mut disturbed = 0;
    // Round 0 warms them up.
    for round in 0..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        let again = if round == 0 { 0 } else { options.again };
        for server in &mut servers {
            let (idle, is_quiet) = undisturbed(options.others, again, || check_health(server.address, &options))?;
            let ((busy, computed), is_quiet_too) =
                undisturbed(options.others, again, || check_health_busy(server.address, &options))?;
            assert!(computed[0] > 0.0, "{} computed nothing", server.name);
            if round > 0 {
                disturbed += usize::from(!is_quiet) + usize::from(!is_quiet_too);
                server.idle.push(idle);
                server.busy.push(busy);
                server.computed.push(computed);
            }
        }
    }
    println!(
        "| server | idle p50 / p99 / max, ms | busy p50 / p99 / max, ms | busy p99 by idle p99 | computed/s | longest, ms |"
    );
    println!("|---|---|---|---|---|---|");
    for Server { name, idle, busy, computed, .. } in &servers {
        let ratios: Vec<f64> = idle.iter().zip(busy).map(|(idle, busy)| busy[1] / idle[1]).collect();
        let (least, most) = ratios.iter().fold((f64::MAX, 0.0), |(least, most), &r| (r.min(least), r.max(most)));
        let ([i50, i99, i100], [b50, b99, b100], [rate, longest]) = (medians(idle), medians(busy), medians(computed));
        println!(
            "| {name} | {i50:.3} / {i99:.3} / {i100:.2} | {b50:.3} / {b99:.3} / {b100:.2} | \
             {:.2} ({least:.2} to {most:.2}) | {rate:.1} | {longest:.0} |",
            median(ratios)
        );
    }
    let windows = 2 * options.rounds * servers.len();
    println!("\n{disturbed} of {windows} windows were disturbed by other programs");
    Ok(())
}
