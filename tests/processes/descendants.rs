//! What kernels start: it ends with the worker, however that ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use workring::{Engine, Error, kernel, kernels, kernels::KernelInfo, process::WorkerProgram};

use crate::parts::*;
use crate::support::{eventually, go_on, is_alive, kill, role_command, stop};

/// Names the file in which a kernel writes the processes it has started.
const FAMILY: &str = "WORKRING_TEST_FAMILY";

parts! {
    "descendants":
    what_a_kernel_started_ends_at_its_deadline below [];
    what_a_kernel_started_ends_by_a_cancel below [];
    what_a_kernel_started_ends_with_a_crash below [];
    who_was_given_another_environment_outlives_a_crash below [];
    what_a_kernel_started_ends_with_the_engine below [];
    what_a_kernel_started_ends_with_a_killed_engine below [];
    a_stopped_worker_ends_with_a_killed_engine below [];
    who_holds_the_output_of_a_worker_holds_nobody_up below [];
}

/// Starts a program, one in a session of its own, and one whose parent ends; then ends itself as it is told: 0 returns, 1 crashes, 2 never ends, 3
/// crashes when those outside of its group have another environment.
#[kernel]
fn start_family(y: &mut [u32], how: &u32) {
    let run = if *how == 3 { "exec env -i setsid sleep 1000" } else { "exec setsid sleep 1000" };
    let script = format!("sleep 1000 & a=$!; ({run}) & b=$!; (({run}) & echo $! > orphan); echo $a $b $(cat orphan)");
    let folder = tempfile::tempdir().expect("a folder");
    // The shell's own output is not the worker's, which the programs hold.
    let said = folder.path().join("said");
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        &format!("cd {}; {{ {script}; }} 3>&1 > said.part; mv said.part said; wait", folder.path().display()),
    ]);
    #[expect(clippy::zombie_processes, reason = "it shall outlive the kernel")]
    let _shell = shell.spawn().expect("a shell starts");
    while !said.exists() {
        std::thread::yield_now();
    }
    if *how == 3 {
        // Until they are what they shall be they are copies of the shell, `env` or `setsid`. By the name, which is that of a program whose start is
        // over: in the middle of one the environment reads as empty.
        let pids = fs::read_to_string(&said).expect("the file is there");
        let is_asleep = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
        pids.split_whitespace().skip(1).for_each(|pid| {
            while !is_asleep(pid) {
                std::thread::yield_now();
            }
        });
    }
    let told = std::env::var_os(FAMILY).expect("a file");
    let part = Path::new(&told).with_extension("part");
    fs::copy(&said, &part).and_then(|_| fs::rename(&part, &told)).expect("the file is written");
    y[0] = 1;
    match how {
        0 => {}
        1 | 3 => std::process::abort(),
        _ => loop {
            std::thread::park();
        },
    }
}

pub(crate) fn listed() -> [&'static KernelInfo; 1] {
    *kernels![start_family]
}

/// An engine of one worker, whose kernels tell of their families in a file here.
fn engine(program: WorkerProgram) -> Engine {
    let _ = fs::remove_file("family");
    let told = std::env::current_dir().unwrap().join("family");
    let builder = Engine::builder().processes(1).kernels(crate::kernels::ALL()).capacity(1 << 24);
    builder.worker_program(program.environment(FAMILY, told)).build().unwrap()
}

/// The processes that a kernel told of, if it has.
fn told_family() -> Option<[u32; 3]> {
    let text = fs::read_to_string("family").ok()?;
    let pids: Vec<u32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    Some(pids.try_into().unwrap())
}

fn family() -> [u32; 3] {
    let mut family = None;
    eventually("the family is there", || {
        family = told_family();
        family.is_some()
    });
    family.unwrap()
}

#[track_caller]
fn is_gone(pids: &[u32]) {
    eventually("what the kernel started is gone", || !pids.iter().any(|&pid| is_alive(pid)));
}

/// A `sleep` that a kernel had started went on for ever when its worker was killed for its deadline.
fn what_a_kernel_started_ends_at_its_deadline() {
    let (before, engine) = (open_descriptors(), engine(WorkerProgram::this()));
    let mut limit = Duration::from_millis(200);
    let family = loop {
        let call = engine.job().deadline(limit);
        let failed = call.submit(start_family, engine.batch::<u32>(1).unwrap(), 2).unwrap().wait().unwrap_err();
        assert!(matches!(failed.error, Error::DeadlineExceeded), "{}", failed.error);
        // On a slow machine the time was over before the programs were started.
        if let Some(family) = told_family() {
            break family;
        }
        limit *= 2;
    };
    is_gone(&family);
    run(&engine).unwrap();
    close(engine, before);
}

fn what_a_kernel_started_ends_by_a_cancel() {
    let (before, engine) = (open_descriptors(), engine(WorkerProgram::this()));
    let job = engine.submit(start_family, engine.batch::<u32>(1).unwrap(), 2).unwrap();
    let family = family();
    assert!(family.iter().all(|&pid| is_alive(pid)));
    job.cancel();
    let failed = job.wait().unwrap_err();
    assert!(matches!(failed.error, Error::Cancelled), "{}", failed.error);
    drop(failed);
    is_gone(&family);
    run(&engine).unwrap();
    close(engine, before);
}

/// Programs that have left the group of a worker that dies by itself are found, though no process that knows of them is their parent any more.
fn what_a_kernel_started_ends_with_a_crash() {
    let (before, engine) = (open_descriptors(), engine(WorkerProgram::this()));
    let failed = engine.submit(start_family, engine.batch::<u32>(1).unwrap(), 1).unwrap().wait().unwrap_err();
    assert!(matches!(failed.error, Error::WorkerDied { .. }), "{}", failed.error);
    drop(failed);
    is_gone(&family());
    run(&engine).unwrap();
    close(engine, before);
}

/// Crashes a worker whose kernel has started programs outside of its group and with another environment; they live.
fn crash_apart(engine: &Engine) -> [u32; 2] {
    let failed = engine.submit(start_family, engine.batch::<u32>(1).unwrap(), 3).unwrap().wait().unwrap_err();
    assert!(matches!(failed.error, Error::WorkerDied { .. }), "{}", failed.error);
    drop(failed);
    let [plain, outside @ ..] = family();
    is_gone(&[plain]);
    // The next worker is started after all that is done about the one before.
    run(engine).unwrap();
    outside
}

/// What is not promised: nobody can say of these that the worker had anything to do with them.
fn who_was_given_another_environment_outlives_a_crash() {
    let (before, engine) = (open_descriptors(), engine(WorkerProgram::this()));
    let outside = crash_apart(&engine);
    outside.into_iter().for_each(|pid| assert!(is_alive(pid) && kill(pid), "it left the group and the environment"));
    close(engine, before);
}

fn what_a_kernel_started_ends_with_the_engine() {
    let (before, engine) = (open_descriptors(), engine(WorkerProgram::this()));
    engine.submit(start_family, engine.batch::<u32>(1).unwrap(), 0).unwrap().wait().unwrap();
    let [plain, outside @ ..] = family();
    // The job is over, and what it started may go on.
    assert!([plain].iter().chain(&outside).all(|&pid| is_alive(pid)));
    close(engine, before);
    is_gone(&[plain]);
    outside.into_iter().for_each(|pid| assert!(kill(pid), "it left the group"));
}

/// The role of an engine whose kernel has started a family and goes on.
pub(crate) fn be_an_engine_with_a_family() {
    let engine = engine(WorkerProgram::this());
    let _job = engine.submit(start_family, engine.batch::<u32>(1).unwrap(), 2).unwrap();
    let family = family();
    println!("{} {} {} {}", pids(&engine)[0], family[0], family[1], family[2]);
    loop {
        std::thread::park();
    }
}

fn kill_an_engine_with_a_family(before: impl FnOnce(u32)) {
    let mut role = role_command("family").spawn().unwrap();
    let mut line = String::new();
    BufReader::new(role.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 4 && pids.iter().all(|&pid| is_alive(pid)), "{line}");
    before(pids[0]);
    kill(role.id());
    role.wait().unwrap();
    is_gone(&pids);
}

/// The worker was killed by the system in the moment in which its engine ended, and could take nobody with it.
fn what_a_kernel_started_ends_with_a_killed_engine() {
    kill_an_engine_with_a_family(|_| {});
}

fn a_stopped_worker_ends_with_a_killed_engine() {
    kill_an_engine_with_a_family(stop);
    // So it does where one was let go on before.
    kill_an_engine_with_a_family(|worker| {
        stop(worker);
        go_on(worker);
    });
}

/// The threads that pass on what a worker prints waited for the last process that held the pipe.
fn who_holds_the_output_of_a_worker_holds_nobody_up() {
    let (before, engine) = (open_descriptors(), engine(WorkerProgram::this().prefix_output()));
    let outside = crash_apart(&engine);
    let holds =
        |pid: &u32| fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|to| to.to_string_lossy().starts_with("pipe"));
    assert!(outside.iter().all(|pid| is_alive(*pid) && holds(pid)));
    // Nothing is open any more, though they hold their ends.
    close(engine, before);
    outside.into_iter().for_each(|pid| assert!(kill(pid)));
}
