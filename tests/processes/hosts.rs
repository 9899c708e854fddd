//! What the program that builds an engine may do to itself, and where it may live: namespaces, clocks, signals, waits for children,
//! closed streams, its own file.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::WaitOptions;
use rustix::time::{ClockId, Timespec};
use workring::{
    Engine, Error,
    job::CancelOutcome,
    process::{WorkerExit, WorkerProgram},
};

use crate::kernels::{die, hang, increment, patient};
use crate::parts::*;
use crate::support::{STEP, eventually, is_alive};

/// Says, when it is set, that the clock of the machine may be set.
const CLOCK: &str = "WORKRING_TEST_CLOCK";
/// Leaves the place of the first process to the shell.
const CHILD: &str = "\"$0\"; exit $?";

parts! {
    "hosts":
    engines_live_in_a_pid_namespace below unshare(&["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", CHILD]);
    engines_are_the_first_process_of_a_namespace below unshare(&["--pid", "--fork", "--kill-child", "--mount-proc"]);
    workers_in_pid_namespaces_are_refused below unshare(&["--pid", "--fork", "--kill-child", "--mount-proc"]);
    deadlines_hold_where_the_clock_was_set below unshare(&["--time", "--monotonic", "1000000", "--fork", "--kill-child"]);
    deadlines_hold_while_the_clock_is_set below [];
    deaths_are_noticed_where_sigchld_is_ignored below ["env", "--ignore-signal=CHLD"];
    deaths_are_noticed_where_the_host_waits_for_every_child below [];
    engines_run_where_the_standard_streams_are_closed below [];
    engines_run_where_all_signals_are_blocked below ["env", "--block-signal"];
    workers_are_replaced_when_the_program_is_gone below [];
    no_source_reads_the_clock_on_the_wall below [];
}

fn engines_live_in_a_pid_namespace() {
    assert!((2..10).contains(&std::process::id()));
    let before = open_descriptors();
    lose_some_and_close(build().unwrap(), before);
}

/// The first process of a namespace becomes the parent of every orphan and is not ended by signals of its own.
fn engines_are_the_first_process_of_a_namespace() {
    assert_eq!(std::process::id(), 1);
    let before = open_descriptors();
    let builder = Engine::builder().processes(2).kernels(crate::kernels::ALL()).capacity(1 << 24);
    let engine = builder.worker_program(behind("sleep 0.01 & sleep 1000 &")).build().unwrap();
    for _ in 0..3 {
        lose(&engine);
    }
    let error = engine.submit(die, engine.batch::<u32>(1).unwrap(), 1).unwrap().wait().unwrap_err().error;
    assert!(matches!(error, Error::WorkerDied { exit: WorkerExit::Signal(6), .. }), "{error}");
    eventually("both workers are there", || pids(&engine).len() == 2);
    engine.close(STEP).unwrap();
    drop(engine);
    // Two for each of the six workers: they ended with these, are the host's to wait for, and no worker is among them.
    let orphans = children();
    assert_eq!(orphans.len(), 12);
    eventually("what the workers had started is gone", || !orphans.iter().any(|&pid| is_alive(pid)));
    while matches!(rustix::process::wait(WaitOptions::empty()), Ok(Some(_))) {}
    nothing_is_left(before);
    lose_some_and_close(build().unwrap(), before);
}

/// Such a worker cannot know that its engine has ended, and ends, though it takes no signal of its own.
fn workers_in_pid_namespaces_are_refused() {
    let before = open_descriptors();
    let mut program = WorkerProgram::at("unshare");
    for argument in ["--pid", "--fork", "--kill-child"] {
        program = program.argument(argument);
    }
    let builder = Engine::builder().processes(1).kernels(crate::kernels::ALL()).capacity(1 << 24);
    let error = builder.worker_program(program.argument(std::env::current_exe().unwrap())).build().unwrap_err();
    assert!(matches!(error, Error::WorkerStart { .. }) && error.to_string().contains("PID namespace"), "{error}");
    // Its death is that of the worker in the namespace, which only then has nothing left.
    while matches!(rustix::process::wait(WaitOptions::empty()), Ok(Some(_))) {}
    nothing_is_left(before);
}

fn deadlines_hold_where_the_clock_was_set() {
    assert!(rustix::time::clock_gettime(ClockId::Monotonic).tv_sec > 1_000_000);
    let (before, engine) = (open_descriptors(), build().unwrap());
    let call = engine.job().deadline(Duration::from_secs(3600));
    call.submit(increment, engine.batch::<u64>(1).unwrap(), ()).unwrap().wait().unwrap();
    lose_some_and_close(engine, before);
}

/// The clock on the wall is set an hour forth and back while jobs run and while workers sleep.
fn deadlines_hold_while_the_clock_is_set() {
    if std::env::var_os(CLOCK).is_none() {
        println!("skipped setting the clock: {CLOCK} does not say that this machine is the tests' own");
        return;
    }
    let (before, engine) = (open_descriptors(), build().unwrap());
    let hour = 3600;
    let set = |seconds: i64| {
        let now = rustix::time::clock_gettime(ClockId::Realtime);
        rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec: now.tv_sec + seconds, ..now }).unwrap();
    };
    for jump in [hour, -hour] {
        // A deadline that the jump must not bring about, and one that it must not put off beyond the limit of this part.
        let long = engine.job().deadline(Duration::from_secs(hour as u64 / 2));
        let long = long.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap();
        let hasty = engine.job().deadline(Duration::from_millis(300));
        let hasty = hasty.submit(hang, engine.batch::<u32>(1).unwrap(), ()).unwrap();
        eventually("both run", || engine.statistics().queued == 0);
        set(jump);
        let error = hasty.wait().unwrap_err().error;
        assert!(matches!(error, Error::DeadlineExceeded), "{error}");
        run(&engine).unwrap();
        assert!(!long.is_finished(), "its time is not over");
        assert_eq!(long.cancel(), CancelOutcome::WhileRunning);
        let error = long.wait().unwrap_err().error;
        assert!(matches!(error, Error::Cancelled), "{error}");
        lose(&engine);
    }
    lose_some_and_close(engine, before);
}

/// A clock that somebody sets must not end or prolong a wait: what waits and what runs jobs knows the monotonic one alone.
fn no_source_reads_the_clock_on_the_wall() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    let mut folders = ["arena", "engine", "front", "layout", "lockfree", "os"].map(|name| source.join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
            for (at, line) in code.enumerate() {
                let clock = ["SystemTime", "UNIX_EPOCH", "Realtime", "CLOCK_REALTIME", "ClockRealtime"];
                let found = clock.into_iter().find(|&clock| line.contains(clock));
                assert_eq!(found, None, "{}:{}", path.display(), at + 1);
                seen += usize::from(line.contains("ClockId::Monotonic"));
            }
        }
    }
    assert!(seen > 0, "deadlines read a clock somewhere");
}

/// Signals that this process treats in a way, as a mask.
fn signals(treated: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix(treated)).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}

fn deaths_are_noticed_where_sigchld_is_ignored() {
    assert_ne!(signals("SigIgn:") & 1 << 16, 0);
    let before = open_descriptors();
    lose_some_and_close(build().unwrap(), before);
    // A program that cannot be started must not end the thread that looks after workers.
    let program = WorkerProgram::at("nowhere").environment("PATH", "/nowhere");
    let builder = Engine::builder().processes(1).kernels(crate::kernels::ALL()).capacity(1 << 24);
    let error = builder.worker_program(program).build().unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("nowhere"), "{error}");
    nothing_is_left(before);
}

fn deaths_are_noticed_where_the_host_waits_for_every_child() {
    let (before, enough) = (open_descriptors(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut taken = 0;
            while !enough.load(Ordering::Relaxed) {
                taken += usize::from(matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))));
                std::hint::spin_loop();
            }
            taken
        });
        for _ in 0..5 {
            lose_some_and_close(build().unwrap(), before);
        }
        enough.store(true, Ordering::Relaxed);
        assert!(waiter.join().unwrap() > 0, "the host took no exit");
    });
}

fn engines_run_where_the_standard_streams_are_closed() {
    let kept = [0, 1, 2].map(|number| fs::read_link(format!("/proc/self/fd/{number}")).unwrap());
    let streams = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let [input, output, errors] =
        [streams.0.as_fd(), streams.1.as_fd(), streams.2.as_fd()].map(|fd| fd.try_clone_to_owned().unwrap());
    for number in 0..3 {
        // SAFETY: nothing owns the standard streams, and nothing of this part uses them before they are open again.
        unsafe { rustix::io::close(number) };
    }
    let before = open_descriptors();
    let result = std::panic::catch_unwind(|| {
        let engine = build().unwrap();
        // What a host prints that does not know of its closed streams must not reach the engine's memory.
        println!("{}", "scribble".repeat(1000));
        eprintln!("{}", "scribble".repeat(1000));
        lose_some_and_close(engine, before);
    });
    rustix::stdio::dup2_stdin(&input).unwrap();
    rustix::stdio::dup2_stdout(&output).unwrap();
    rustix::stdio::dup2_stderr(&errors).unwrap();
    assert_eq!(kept, [0, 1, 2].map(|number| fs::read_link(format!("/proc/self/fd/{number}")).unwrap()));
    if let Err(panic) = result {
        panic!("{:?}", panic.downcast_ref::<String>());
    }
}

fn engines_run_where_all_signals_are_blocked() {
    assert_ne!(signals("SigBlk:") & 1 << 14, 0);
    let before = open_descriptors();
    lose_some_and_close(build().unwrap(), before);
}

fn workers_are_replaced_when_the_program_is_gone() {
    let (before, engine) = (open_descriptors(), build().unwrap());
    let program = std::env::current_exe().unwrap();
    fs::remove_file(&program).unwrap();
    lose(&engine);
    fs::write(&program, "something else").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    lose(&engine);
    fs::remove_dir_all(std::env::current_dir().unwrap()).unwrap();
    assert!(std::env::current_dir().is_err());
    lose_some_and_close(engine, before);
}
