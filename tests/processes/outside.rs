//! Workers in processes that the engine did not start.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};
use rustix::process::{Pid, PidfdFlags};
use tempfile::TempDir;
use workring::{
    Chunking, Engine, Error, Retry, kernel, kernels,
    process::{ServeEnd, WorkerExit, attach},
};

use crate::kernels::{affine, below, die, patient, process_id, slow_affine, sum};
use crate::support::{Checked, STEP, Tests, eventually, go_on, is_alive, kill, role_command, start_role, stop};

pub(crate) fn tests() -> Tests {
    vec![
        ("outside::all_calls_give_the_bits_of_threads", all_calls_give_the_bits_of_threads),
        ("outside::an_invitation_is_for_one_process", an_invitation_is_for_one_process),
        ("outside::jobs_wait_until_somebody_attaches", jobs_wait_until_somebody_attaches),
        ("outside::workers_leave_and_others_take_their_seats", workers_leave_and_others_take_their_seats),
        ("outside::a_death_is_noticed_and_repaired", a_death_is_noticed_and_repaired),
        ("outside::maps_survive_workers_that_come_and_die", maps_survive_workers_that_come_and_die),
        ("outside::only_killable_workers_are_killed", only_killable_workers_are_killed),
        ("outside::a_stopped_worker_keeps_its_job", a_stopped_worker_keeps_its_job),
        ("outside::workers_outlive_a_killed_engine_and_its_successor_takes_the_path", workers_outlive_a_killed_engine),
        ("outside::mapped_files_come_on_request", mapped_files_come_on_request),
        ("outside::what_does_not_fit_is_refused", what_does_not_fit_is_refused),
        ("outside::strangers_and_dawdlers_do_no_harm", strangers_and_dawdlers_do_no_harm),
        ("outside::the_door_kills_nobody_for_others", the_door_kills_nobody_for_others),
        ("outside::silent_connections_keep_nobody_out", silent_connections_keep_nobody_out),
        ("outside::who_attached_and_serves_nothing_holds_nobody_up", who_attached_and_serves_nothing_holds_nobody_up),
        ("outside::seats_and_paths_are_checked", seats_and_paths_are_checked),
    ]
}

/// Not listed by any external worker of these tests.
#[kernel]
fn unlisted(y: &mut [u64]) {
    y.fill(1);
}

/// The role `outsider HOW WHERE`: attaches, says so, serves, and says how that ended. A line on standard input stops it.
pub(crate) fn be_an_outsider(how_and_where: &str) {
    let (how, at) = how_and_where.split_once(' ').expect("how and where");
    let all = crate::kernels::ALL();
    let worker = match at {
        "stdin" => {
            let invitation: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            // SAFETY: the engine at the other end is one of these tests.
            unsafe { attach(invitation, all) }
        }
        // SAFETY: as above.
        path => unsafe { attach(path, all) },
    };
    let worker = match worker {
        Ok(worker) if how == "killable" => worker.killable(),
        Ok(worker) => worker,
        Err(error) => return println!("{error}"),
    };
    println!("attached");
    let stop_handle = worker.stop_handle();
    let wait_for_line = move || {
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            stop_handle.stop();
        }
    };
    match how {
        "idle" => {
            let mut line = String::new();
            let _ = std::io::stdin().read_line(&mut line);
            return println!("{:?}", worker.serve().unwrap());
        }
        "stoppable" => drop(std::thread::spawn(wait_for_line)),
        _ => {}
    }
    println!("{:?}", worker.serve().unwrap());
    // No byte of the engine's memory is mapped any more.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("memfd:workring"), "{maps}");
}

/// A process in the role of an outside worker, whose lines are read one by one.
pub(crate) struct Outsider {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Outsider {
    /// Starts one that comes in by a path.
    pub(crate) fn start(how: &str, path: &Path) -> Self {
        Self::start_with(how, path, [])
    }

    /// As [`start`](Self::start), with more variables.
    pub(crate) fn start_with<const N: usize>(how: &str, path: &Path, variables: [(&str, OsString); N]) -> Self {
        let mut command = role_command(&format!("outsider {how} {}", path.display()));
        Self::of(command.envs(variables).stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap())
    }

    /// Starts one that comes in by an invitation, and is in.
    pub(crate) fn invited(how: &str, engine: &Engine) -> Self {
        let mut command = role_command(&format!("outsider {how} stdin"));
        let before = engine.external_workers();
        let mut outsider = Self::of(command.stdin(engine.invite().unwrap()).stderr(Stdio::inherit()).spawn().unwrap());
        assert_eq!(outsider.line(), "attached");
        eventually("the invited worker serves", || engine.external_workers() == before + 1);
        outsider
    }

    fn of(mut process: Child) -> Self {
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Stops one that can be stopped, or lets an idle one begin.
    pub(crate) fn nudge(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Waits for the end of one that ends by itself; how its service ended.
    pub(crate) fn end(mut self) -> String {
        let line = self.line();
        assert!(self.process.wait().unwrap().success());
        line
    }

    /// Waits for the end of one that does not end by itself; the signal that ended it.
    #[cfg(feature = "fault")]
    pub(crate) fn signal(mut self) -> Option<i32> {
        std::os::unix::process::ExitStatusExt::signal(&self.process.wait().unwrap())
    }

    fn kill(mut self) {
        kill(self.pid());
        self.process.wait().unwrap();
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// An engine of outside workers alone, with this many of them at work.
fn engine_with(outsiders: usize) -> (Checked, Vec<Outsider>) {
    let engine = Checked::with(0, |builder| builder.threads(0).external_workers(outsiders.max(1)));
    let outsiders = (0..outsiders).map(|_| Outsider::invited("plain", &engine)).collect();
    (engine, outsiders)
}

fn all_end_as_closed(engine: Checked, outsiders: Vec<Outsider>) {
    drop(engine);
    for outsider in outsiders {
        assert_eq!(outsider.end(), "Closed");
    }
}

fn all_calls_give_the_bits_of_threads() {
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let engine = Checked::with(0, |builder| builder.threads(0).external_workers(2).listen(&path));
    let outsiders: Vec<Outsider> = (0..2).map(|_| Outsider::start("plain", &path)).collect();
    eventually("both serve", || engine.external_workers() == 2);
    let threads = Engine::builder().threads(2).capacity(1 << 30).build().unwrap();
    {
        let value = |i: usize| ((i * 7919) % 1_000_003) as f64 / 7.0;
        let (x, twin) = (engine.batch_from_fn(500_000, value).unwrap(), threads.batch_from_fn(500_000, value).unwrap());
        let (mut y, mut z) = (engine.batch(x.len()).unwrap(), threads.batch(x.len()).unwrap());
        engine.map(affine, &x, &mut y, &[3.0, 0.1]).unwrap();
        threads.map(affine, &twin, &mut z, &[3.0, 0.1]).unwrap();
        assert!(*y == *z);
        assert_eq!(engine.reduce(sum, &y).unwrap().to_bits(), threads.reduce(sum, &z).unwrap().to_bits());
        let pids = engine.submit(process_id, engine.batch::<u32>(3).unwrap(), ()).unwrap().wait().unwrap();
        assert!(outsiders.iter().any(|outsider| *pids == [outsider.pid(); 3]));
        let numbers = engine.batch_from_fn(100, |i| i as u64).unwrap();
        let kept = engine.submit(below, (numbers, engine.batch(100).unwrap()), 10).unwrap().wait().unwrap().1;
        assert_eq!(*kept, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let params = engine.batch_from_fn(5000, |i| [i as f64, 1.0]).unwrap();
        let ones = (engine.batch_from_fn(5000, |_| 1.0).unwrap(), engine.batch::<f64>(5000).unwrap());
        let rows = engine.submit_many(affine, ones, params).unwrap().wait().unwrap();
        assert!(rows.batches.1.iter().enumerate().all(|(i, &y)| y == i as f64 + 1.0));
    }
    let both = engine.workers().iter().filter(|worker| worker.is_external && worker.is_alive).count();
    assert_eq!(both, 2);
    drop(engine);
    assert!(!path.exists(), "the socket goes with the engine");
    for mut outsider in outsiders {
        assert_eq!(outsider.line(), "attached");
        assert_eq!(outsider.end(), "Closed");
    }
}

fn an_invitation_is_for_one_process() {
    let (engine, outsiders) = engine_with(2);
    let pids: Vec<u32> = outsiders.iter().map(Outsider::pid).collect();
    let listed: Vec<u32> = engine.workers().iter().map(|worker| worker.pid).collect();
    assert_eq!(listed, pids, "the system's word, not the worker's");
    // One that is dropped unused, and one that finds no seat.
    drop(engine.invite().unwrap());
    let mut late = Outsider::of(role_command("outsider plain stdin").stdin(engine.invite().unwrap()).spawn().unwrap());
    let line = late.line();
    assert!(line.contains("all 2 slots") && line.contains("external_workers"), "{line}");
    late.process.wait().unwrap();
    all_end_as_closed(engine, outsiders);
}

fn jobs_wait_until_somebody_attaches() {
    let (engine, _) = engine_with(0);
    let job = engine.submit(process_id, engine.batch::<u32>(1).unwrap(), ()).unwrap();
    let late = engine.job().deadline(Duration::from_millis(20));
    let end = late.submit(process_id, engine.batch::<u32>(1).unwrap(), ()).unwrap().wait();
    assert!(matches!(end.map_err(Error::from), Err(Error::DeadlineExceeded)));
    assert!(!job.is_finished());
    let outsider = Outsider::invited("plain", &engine);
    assert_eq!(job.wait().map(|pids| pids[0]).unwrap(), outsider.pid());
    all_end_as_closed(engine, vec![outsider]);
}

fn workers_leave_and_others_take_their_seats() {
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let engine = Checked::with(0, |builder| builder.threads(0).external_workers(1).listen(&path));
    for turn in 0..5 {
        let mut outsider = Outsider::start("stoppable", &path);
        assert_eq!(outsider.line(), "attached");
        let pids = engine.submit(process_id, engine.batch::<u32>(1).unwrap(), ()).unwrap().wait().unwrap();
        assert_eq!(*pids, [outsider.pid()]);
        assert_eq!(engine.workers()[0].replaced, turn);
        // Once while it sleeps, once while it works: the job it is at is finished first.
        let job = (turn % 2 == 1).then(|| {
            let x = engine.batch_from_slice(&[20.0]).unwrap();
            let job = engine.submit(slow_affine, (x, engine.batch(1).unwrap()), 20_000).unwrap();
            eventually("the job runs", || engine.statistics().queued == 0);
            job
        });
        outsider.nudge();
        assert_eq!(outsider.end(), "Stopped");
        if let Some(job) = job {
            assert_eq!(*job.wait().unwrap().1, [41.0]);
        }
        eventually("the seat is free", || engine.external_workers() == 0);
    }
}

fn a_death_is_noticed_and_repaired() {
    let (engine, mut outsiders) = engine_with(2);
    let failed = engine.submit(die, engine.batch::<u32>(1).unwrap(), 1).unwrap().wait().unwrap_err();
    assert_eq!(*failed.returned, [1], "what was written until then");
    let Error::WorkerDied { pid, exit: WorkerExit::Unknown, attempt: 1, .. } = Error::from(failed) else {
        panic!("the error says how it ended")
    };
    let dead = outsiders.iter().position(|outsider| outsider.pid() == pid).expect("it was one of ours");
    outsiders.remove(dead).process.wait().unwrap();
    eventually("one is left", || engine.external_workers() == 1);
    // The other one does what may be done again.
    let job = engine.job().retry(Retry::up_to(1)).submit(process_id, engine.batch::<u32>(1).unwrap(), ()).unwrap();
    assert_eq!(job.wait().map(|pids| pids[0]).unwrap(), outsiders[0].pid());
    all_end_as_closed(engine, outsiders);
}

fn maps_survive_workers_that_come_and_die() {
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let engine = Checked::with(0, |builder| builder.threads(1).external_workers(3).listen(&path));
    let x = engine.batch_from_fn(200_000, |i| i as f64).unwrap();
    let mut outsiders: Vec<Outsider> = Vec::new();
    for turn in 0..40 {
        if outsiders.len() < 3 {
            outsiders.push(Outsider::start("plain", &path));
        }
        if turn % 3 == 2 {
            outsiders.remove(turn % outsiders.len()).kill();
        }
        let mut y = engine.batch::<f64>(x.len()).unwrap();
        let call = engine.job().retry(Retry::up_to(60));
        call.map_chunks(slow_affine, &x, &mut y, &100, Chunking::of(4000)).unwrap();
        assert!(y.iter().zip(&*x).all(|(y, x)| *y == 2.0 * x + 1.0), "turn {turn}");
    }
    drop(x);
    drop(engine);
    for mut outsider in outsiders {
        // One that came last may have come too late.
        outsider.process.wait().unwrap();
    }
}

fn only_killable_workers_are_killed() {
    let engine = Checked::with(0, |builder| builder.threads(0).external_workers(1));
    let killable = Outsider::invited("killable", &engine);
    let late = engine.job().deadline(Duration::from_millis(20));
    assert!(matches!(crate::support::hang(&engine), Error::DeadlineExceeded));
    eventually("the worker is gone", || !is_alive(killable.pid()));
    killable.kill();
    // The next one is asked, and goes on until its kernel returns.
    let plain = Outsider::invited("plain", &engine);
    let mut limit = Duration::from_millis(20);
    let failed = loop {
        let call = engine.job().deadline(limit);
        let failed = call.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap().wait().unwrap_err();
        // One that a busy machine has not begun in time says nothing.
        if failed.returned[0] > 0 || limit > STEP {
            break failed;
        }
        limit *= 2;
    };
    assert!(failed.returned[0] > 0, "the kernel has written its output");
    assert!(matches!(Error::from(failed), Error::DeadlineExceeded));
    let columns = (engine.batch_from_slice(&[1.0]).unwrap(), engine.batch(1).unwrap());
    let end = late.submit(slow_affine, columns, 200_000).unwrap().wait().map(|columns| columns.1[0]);
    assert!(matches!(end.map_err(Error::from), Ok(3.0) | Err(Error::DeadlineExceeded)));
    assert_eq!(engine.external_workers(), 1);
    all_end_as_closed(engine, vec![plain]);
}

fn a_stopped_worker_keeps_its_job() {
    let (engine, outsiders) = engine_with(1);
    let x = engine.batch_from_slice(&[1.0]).unwrap();
    let job = engine.submit(slow_affine, (x, engine.batch(1).unwrap()), 50_000).unwrap();
    eventually("the job runs", || engine.statistics().queued == 0);
    stop(outsiders[0].pid());
    let job = job.wait_timeout(Duration::from_millis(200)).expect_err("a stopped worker finishes nothing");
    go_on(outsiders[0].pid());
    assert_eq!(*job.wait().unwrap().1, [3.0]);
    all_end_as_closed(engine, outsiders);
}

/// The role of an engine that waits for outside workers, at a path it says, until it is killed.
pub(crate) fn be_a_listening_engine() {
    let path = std::env::var("WORKRING_TEST_PATH").unwrap();
    let engine = Engine::builder().threads(0).external_workers(2).listen(path).kernels(crate::kernels::ALL());
    let engine = engine.build().unwrap();
    println!("listening");
    eventually("two serve", || engine.external_workers() == 2);
    println!("two");
    loop {
        std::thread::park();
    }
}

fn workers_outlive_a_killed_engine() {
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let mut command = role_command("listening engine");
    let mut engine = Outsider::of(command.env("WORKRING_TEST_PATH", &path).spawn().unwrap());
    assert_eq!(engine.line(), "listening");
    let outsiders: Vec<Outsider> = (0..2).map(|_| Outsider::start("plain", &path)).collect();
    assert_eq!(engine.line(), "two");
    engine.kill();
    for mut outsider in outsiders {
        assert_eq!(outsider.line(), "attached");
        assert_eq!(outsider.end(), "EngineGone");
    }
    // The next engine takes the place over.
    let engine = Checked::with(0, |builder| builder.threads(1).external_workers(1).listen(&path));
    let mut outsider = Outsider::start("plain", &path);
    assert_eq!(outsider.line(), "attached");
    all_end_as_closed(engine, vec![outsider]);
}

fn mapped_files_come_on_request() {
    let (engine, outsiders) = engine_with(1);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytemuck::cast_slice(&[1.0_f64, 2.0, 3.0, 4.0])).unwrap();
    let x = engine.map_file::<f64>(file.path()).unwrap();
    assert_eq!(engine.reduce(sum, &x).unwrap(), 10.0);
    let mut y = engine.batch::<f64>(4).unwrap();
    engine.map(affine, &x, &mut y, &[2.0, 0.5]).unwrap();
    assert_eq!(*y, [2.5, 4.5, 6.5, 8.5]);
    drop((x, y));
    all_end_as_closed(engine, outsiders);
}

fn what_does_not_fit_is_refused() {
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let engine =
        Checked::with(0, |builder| builder.threads(1).external_workers(1).listen(&path).kernels(kernels![unlisted]));
    for _ in 0..3 {
        let line = Outsider::start("plain", &path).end();
        assert!(line.starts_with("could not attach") && line.contains("unlisted"), "{line}");
    }
    assert_eq!(engine.external_workers(), 0);
    // The process of the engine itself has threads.
    // SAFETY: it is the engine of this test.
    let error = unsafe { attach(&*path, crate::kernels::ALL()) }.unwrap_err();
    assert!(matches!(&error, Error::Attach { reason } if reason.contains("threads")), "{error}");
    let batch = engine.submit(unlisted, engine.batch::<u64>(1).unwrap(), ()).unwrap().wait().unwrap();
    assert_eq!(*batch, [1]);
    drop(batch);
    drop(engine);
    // SAFETY: nobody is there.
    let error = unsafe { attach(&*path, crate::kernels::ALL()) }.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

fn strangers_and_dawdlers_do_no_harm() {
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let engine = Checked::with(0, |builder| builder.threads(1).external_workers(1).listen(&path));
    // Some say nothing, some say nonsense, some are gone at once; all of them see the connection end or a refusal.
    let dawdlers: Vec<_> = (0..20).map(|_| connect(&path)).collect();
    for len in [1, 8, 24, 25, 4096] {
        let socket = connect(&path);
        rustix::net::send(&socket, &vec![len as u8; len], SendFlags::NOSIGNAL).unwrap();
        let mut answer = Vec::new();
        std::fs::File::from(socket).take(4096).read_to_end(&mut answer).unwrap();
        assert!(answer.len() > 1, "{len}: a refusal says why");
        drop(connect(&path));
    }
    // One in front of them comes in all the same, and works.
    let mut outsider = Outsider::start("plain", &path);
    assert_eq!(outsider.line(), "attached");
    eventually("it serves", || engine.external_workers() == 1);
    let x = engine.batch_from_fn(100_000, |i| i as f64).unwrap();
    assert_eq!(engine.reduce(sum, &x).unwrap(), 4_999_950_000.0);
    drop((x, dawdlers));
    all_end_as_closed(engine, vec![outsider]);
}

/// A socket of the kind that engines and workers talk over, connected to an engine.
fn connect(path: &Path) -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// The first message of a worker that wants to join, as any listener gets it.
fn first_message(folder: &Path) -> Vec<u8> {
    let path = folder.join("false.sock");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let outsider = Outsider::start("plain", &path);
    let socket = rustix::net::accept(&listener).unwrap();
    let mut message = vec![0; 4096];
    let (len, _) = rustix::net::recv(&socket, &mut message[..], RecvFlags::empty()).unwrap();
    message.truncate(len);
    outsider.kill();
    message
}

/// Says a first message with a descriptor of another process, and then what a worker says that may be killed, and what none says.
fn name_another(socket: &OwnedFd, join: &[u8], victim: &Child) -> Vec<u8> {
    let pidfd = rustix::process::pidfd_open(Pid::from_child(victim), PidfdFlags::empty()).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [pidfd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(socket, &[IoSlice::new(join)], &mut control, SendFlags::NOSIGNAL).unwrap();
    let mut answer = vec![0; 4096];
    let (len, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty()).unwrap();
    answer.truncate(len);
    // The last word of the first message is the hash that the second one says again.
    for message in [[&[2, 1], &join[join.len() - 8..]].concat(), b"nonsense".to_vec()] {
        let _ = rustix::net::send(socket, &message, SendFlags::NOSIGNAL);
    }
    // The engine has read that when it has hung up.
    while rustix::net::recv(socket, &mut [0; 4096][..], RecvFlags::empty()).is_ok_and(|(len, _)| len > 0) {}
    answer
}

/// A process that connects can hand over a descriptor of any process of the user. The engine must not take that one for its worker,
/// and kill it as soon as something is said that no worker says.
fn the_door_kills_nobody_for_others() {
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let engine = Checked::with(0, |builder| builder.threads(1).external_workers(2).listen(&path));
    let join = first_message(folder.path());
    let mut victim = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for socket in [connect(&path), engine.invite().unwrap().into()] {
        let answer = name_another(&socket, &join, &victim);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("of the process that sends it"), "{text}");
    }
    assert!(is_alive(victim.id()));
    assert_eq!(engine.external_workers(), 0);
    victim.kill().unwrap();
    victim.wait().unwrap();
    let mut outsider = Outsider::start("plain", &path);
    assert_eq!(outsider.line(), "attached");
    all_end_as_closed(engine, vec![outsider]);
}

/// Forty connections that said nothing delayed an honest one by ten seconds, and a hundred kept it out.
fn silent_connections_keep_nobody_out() {
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let engine = Checked::with(0, |builder| builder.threads(1).external_workers(1).listen(&path));
    let silent: Vec<_> = (0..200).map(|_| connect(&path)).collect();
    let mut outsider = Outsider::start("plain", &path);
    assert_eq!(outsider.line(), "attached");
    eventually("it serves", || engine.external_workers() == 1);
    // Those at the other end are open all the while, and more come.
    let more: Vec<_> = (0..100).map(|_| connect(&path)).collect();
    let x = engine.batch_from_fn(100_000, |i| i as f64).unwrap();
    assert_eq!(engine.reduce(sum, &x).unwrap(), 4_999_950_000.0);
    drop((x, silent, more));
    all_end_as_closed(engine, vec![outsider]);
}

fn who_attached_and_serves_nothing_holds_nobody_up() {
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let engine = Checked::with(0, |builder| builder.threads(1).external_workers(2).listen(&path));
    let mut idle = Outsider::start("idle", &path);
    assert_eq!(idle.line(), "attached");
    // One that dies before it serves gives its seat back as well.
    let mut dying = Outsider::start("idle", &path);
    assert_eq!(dying.line(), "attached");
    dying.kill();
    let x = engine.batch_from_fn(100_000, |i| i as f64).unwrap();
    assert_eq!(engine.reduce(sum, &x).unwrap(), 4_999_950_000.0);
    let mut second = Outsider::start("plain", &path);
    assert_eq!(second.line(), "attached");
    drop(x);
    all_end_as_closed(engine, vec![second]);
    // It begins when everything is over.
    idle.nudge();
    assert_eq!(idle.end(), "Closed");
}

fn seats_and_paths_are_checked() {
    let builder = || Engine::builder().threads(1).capacity(1 << 20).kernels(crate::kernels::ALL());
    let folder = folder();
    let path = folder.path().join("engine.sock");
    let text = |error: Error| {
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
        error.to_string()
    };
    assert!(text(builder().listen(&path).build().unwrap_err()).contains("external_workers"));
    assert!(text(builder().external_workers(255).build().unwrap_err()).contains("255 from outside"));
    std::fs::write(&path, "precious").unwrap();
    assert!(text(builder().external_workers(1).listen(&path).build().unwrap_err()).contains("there is a file already"));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert!(text(builder().build().unwrap().invite().unwrap_err()).contains("external_workers"));
    let engine = builder().external_workers(1).build().unwrap();
    let invitation = engine.invite().unwrap();
    engine.close(STEP).unwrap();
    assert!(matches!(engine.invite(), Err(Error::Closed)));
    // SAFETY: the engine was one of this test.
    assert!(matches!(unsafe { attach(invitation, crate::kernels::ALL()) }, Err(Error::EngineGone)));
    assert_eq!(format!("{:?}", ServeEnd::Closed), "Closed");
    let mut role = start_role("outsider plain /nowhere");
    let mut said = String::new();
    role.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("connect to /nowhere"), "{said}");
    role.wait().unwrap();
}
