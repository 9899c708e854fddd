//! The command on worker processes: the same results, whatever becomes of the workers, and nobody left behind.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::support::{ARRIVALS, DISTANCES, json, path, succeed, text, workring};
use crate::system::with_default_signals;
use crate::time::{STEP, eventually, watched};

/// How often a test begins anew when the command was over before the test had done what it wanted to its workers.
const ATTEMPTS: usize = 30;
/// Length of the files of long commands: a build without optimisation takes as long over the tenth part.
const LEN: &str = if cfg!(debug_assertions) { "1e6" } else { "1e7" };
/// Half of [`LEN`].
const LEN_HALF: &str = if cfg!(debug_assertions) { "5e5" } else { "5e6" };
/// How long an attempt waits for a worker to get hold of a job before the next one: longer each time, as a busy machine takes longer.
fn patience(attempt: usize) -> Duration {
    Duration::from_secs(1 << attempt.min(6))
}

/// Deaths of its worker that a share of a call survives.
const DEATHS_SURVIVED: usize = 3;

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // A process that is gone by now is as good as one that was signalled.
    let _ = rustix::process::kill_process(pid, signal);
}

/// State and parent of a process, as proc_pid_stat(5) has them; `None` if there is no such process.
fn state_and_parent(pid: u32) -> Option<(u8, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    Some((*fields.next()?.as_bytes().first()?, fields.next()?.parse().ok()?))
}

fn is_alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != b'Z' && state != b'X')
}

pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let names = fs::read_dir("/proc").expect("a system with /proc").flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| is_alive(pid) && state_and_parent(pid).is_some_and(|(_, other)| other == parent)).collect()
}

/// Whether a child of a command has become a worker, which has no arguments; before, it is a copy of the command with the
/// command's memory.
fn is_worker(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.iter().filter(|&&byte| byte == 0).count() == 1
}

/// A running command, killed with its workers when a test gives up.
struct Running(Option<Child>);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = workring();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Self(Some(command.spawn().expect("the command can be started")))
    }

    fn pid(&self) -> u32 {
        self.0.as_ref().expect("it was not waited for").id()
    }

    fn is_over(&mut self) -> bool {
        self.0.as_mut().is_none_or(|child| child.try_wait().expect("a child").is_some())
    }

    /// Stops a worker, other than those of `known`, as soon as it has mapped a file below `folder`: it has a job then. `None`
    /// if the command ends before, or none comes because the others hold all that is left to do.
    fn stop_a_worker(&mut self, folder: &Path, known: &[u32], patience: Duration) -> Option<u32> {
        let folder = folder.to_str().expect("test paths are UTF-8");
        let begun = Instant::now();
        while begun.elapsed() < patience && !self.is_over() {
            let found = children_of(self.pid()).into_iter().find(|&pid| {
                let maps = || fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
                !known.contains(&pid) && is_worker(pid) && maps().contains(folder)
            });
            if let Some(pid) = found {
                signal(pid, Signal::STOP);
                // The command may have ended between the look and the signal.
                return (!self.is_over()).then_some(pid);
            }
            std::thread::yield_now();
        }
        None
    }

    fn output(mut self) -> Output {
        let child = self.0.take().expect("it is waited for once");
        let pid = child.id();
        let output = child.wait_with_output().expect("it ends");
        eventually("no worker is left", || children_of(pid).is_empty());
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command on `processes` workers, stops each of them in the middle of its job and kills so many, one after the other and
/// each as soon as it has got hold of a job, before it lets the others go on. `None` if the command was faster, or if none got hold of a
/// job within the patience.
fn run_with_deaths(
    arguments: &[&str],
    folder: &Path,
    (processes, deaths): (usize, usize),
    patience: Duration,
) -> Option<Output> {
    let count = processes.to_string();
    let mut command = Running::start(&[arguments, &["--processes", &count]].concat());
    // In the order they were stopped; the first `killed` of them are dead or dying.
    let mut stopped = Vec::new();
    for _ in 0..processes {
        stopped.push(command.stop_a_worker(folder, &stopped, patience)?);
    }
    for killed in 0..deaths {
        signal(stopped[killed], Signal::KILL);
        // After the last death nobody need come: the command may be over with an error.
        if killed + 1 < deaths {
            stopped.push(command.stop_a_worker(folder, &stopped, patience)?);
        }
    }
    for &pid in &stopped[deaths..] {
        signal(pid, Signal::CONT);
    }
    Some(command.output())
}

/// As [`run_with_deaths`], until the command was slow enough once.
#[track_caller]
fn survive(arguments: &[&str], folder: &Path, processes: usize, deaths: usize) -> Output {
    let outcome =
        (0..ATTEMPTS).find_map(|turn| run_with_deaths(arguments, folder, (processes, deaths), patience(turn)));
    outcome.expect("the command was over too soon each time")
}

#[track_caller]
fn assert_success(output: &Output) -> String {
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    text(&output.stdout).to_owned()
}

#[test]
fn folds_have_the_same_bits_as_on_threads() {
    watched(|| {
        for file in [ARRIVALS, DISTANCES] {
            for arguments in [
                &["stats", file, "--json"][..],
                &["reduce", "sum", file, "--json"],
                &["reduce", "min", file, "--json"],
                &["reduce", "max", file, "--json"],
                &["reduce", "mean", file, "--json"],
                &["reduce", "dot", file, DISTANCES, "--json"],
            ] {
                let threads = json(&[arguments, &["--threads", "2"]].concat());
                for processes in ["1", "2", "3"] {
                    assert_eq!(json(&[arguments, &["--processes", processes]].concat()), threads, "{arguments:?}");
                }
            }
        }
        let info = json(&["info", "--json", "--processes", "2"]);
        assert_eq!((&info["threads"], &info["processes"]), (&0.into(), &2.into()));
    });
}

#[test]
fn every_element_type_is_generated_and_folded_as_on_threads() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (path(folder.path(), "one.npy"), path(folder.path(), "other.npy"));
        let distributions = [
            &["uniform", "--low", "3", "--high", "100"][..],
            &["normal", "--mean", "50", "--std", "30"],
            &["exponential", "--rate", "0.01"],
            &["sequence", "--start", "-7", "--step", "3"],
            &["constant", "--value", "42"],
        ];
        let types = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"];
        for (at, dtype) in types.into_iter().enumerate() {
            // Not a multiple of chunks or blocks.
            let kind =
                &[&["gen"], distributions[at % distributions.len()], &["-n", "100003", "--dtype", dtype]].concat();
            succeed(&[kind, &["-o", &one, "--threads", "2"][..]].concat());
            for processes in ["1", "2", "3"] {
                succeed(&[kind, &["-o", &other, "--processes", processes][..]].concat());
                assert!(fs::read(&one).expect("written") == fs::read(&other).expect("written"), "{kind:?}");
            }
            for fold in [
                &["stats", &one][..],
                &["reduce", "sum", &one],
                &["reduce", "min", &one],
                &["reduce", "max", &one],
                &["reduce", "dot", &one, &other],
            ] {
                let value = |workers: &[&str]| json(&[fold, &["--json"], workers].concat());
                assert_eq!(value(&["--processes", "2"]), value(&["--threads", "2"]), "{dtype} {fold:?}");
            }
        }
    });
}

#[test]
fn functions_write_the_same_bytes_as_on_threads() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (path(folder.path(), "one.npy"), path(folder.path(), "other.npy"));
        for dtype in ["float64", "float32"] {
            let input = path(folder.path(), "in.npy");
            succeed(&["gen", "normal", "-n", "100003", "-o", &input, "--dtype", dtype, "--quiet"]);
            for function in [
                &["affine", "--a", "1.1", "--b", "-0.3"][..],
                &["sqrt"],
                &["exp"],
                &["ln"],
                &["abs"],
                &["square"],
                &["negate"],
                &["reciprocal"],
                &["clamp", "--lower", "-0.7"],
                &["clamp", "--upper", "0.7"],
            ] {
                let map = &[&["map"], function, &[&input, "--quiet", "-o"]].concat();
                succeed(&[map, &[&one, "--threads", "2"][..]].concat());
                for processes in ["1", "2", "3"] {
                    succeed(&[map, &[&other, "--processes", processes][..]].concat());
                    assert!(fs::read(&one).expect("written") == fs::read(&other).expect("written"), "{map:?}");
                }
            }
        }
        let (empty, out) = (path(folder.path(), "empty.npy"), path(folder.path(), "out.npy"));
        succeed(&["gen", "normal", "-n", "0", "-o", &empty, "--processes", "2"]);
        succeed(&["map", "abs", &empty, "-o", &out, "--processes", "2"]);
        assert_eq!(json(&["stats", &out, "--json", "--processes", "2"])["len"], 0);
    });
}

#[test]
fn errors_are_the_same_as_on_threads() {
    let failure = |workers: &[&str]| {
        let output = workring().args(["map", "sqrt", "no/such.npy", "-o", "x.npy"]).args(workers).output();
        let output = output.expect("it can be started");
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr).to_owned()
    };
    assert_eq!(failure(&["--processes", "2"]), failure(&["--threads", "2"]));
}

#[test]
fn a_fold_survives_the_death_of_its_workers() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = path(folder.path(), "x.npy");
        succeed(&["gen", "normal", "-n", LEN_HALF, "-o", &file, "--quiet"]);
        // One file many times, so that the command is not over before its workers are found.
        let stats: Vec<&str> = ["stats", "--json"].into_iter().chain([&*file; 40]).collect();
        let threads = succeed(&[&stats[..], &["--threads", "2"]].concat());
        let output = survive(&stats, folder.path(), 2, DEATHS_SURVIVED);
        assert!(assert_success(&output) == threads, "{}", text(&output.stdout));
    });
}

#[test]
fn files_are_right_although_their_workers_died() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (generated, expected) = (path(folder.path(), "g.npy"), path(folder.path(), "expected.npy"));
        let generate = ["gen", "normal", "-n", LEN, "--std", "30", "--dtype", "int8", "--quiet", "-o"];
        succeed(&[&generate[..], &[&*expected, "--threads", "2"]].concat());
        assert_success(&survive(&[&generate[..], &[&*generated]].concat(), folder.path(), 2, DEATHS_SURVIVED));
        assert!(fs::read(&generated).expect("written") == fs::read(&expected).expect("written"));

        let input = path(folder.path(), "in.npy");
        succeed(&["gen", "uniform", "-n", LEN_HALF, "-o", &input, "--quiet"]);
        let map = ["map", "exp", &input, "--quiet", "-o"];
        succeed(&[&map[..], &[&*expected, "--threads", "2"]].concat());
        assert_success(&survive(&[&map[..], &[&*generated]].concat(), folder.path(), 2, DEATHS_SURVIVED));
        assert!(fs::read(&generated).expect("written") == fs::read(&expected).expect("written"));
    });
}

#[test]
fn too_many_deaths_are_an_error_and_no_file() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = path(folder.path(), "x.npy");
        let generate = ["gen", "normal", "-n", LEN, "--dtype", "int8", "--quiet", "-o", &file];
        // All of them work on the one share, unless the last one is found when the share is done.
        let die = |turn| run_with_deaths(&generate, folder.path(), (1, DEATHS_SURVIVED + 1), patience(turn));
        let output = (0..ATTEMPTS).find_map(|turn| die(turn).filter(|output| !output.status.success()));
        let output = output.expect("the command survives every death");
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
        let reason = text(&output.stderr);
        assert!(reason.contains("signal 9 (SIGKILL) while it ran kernel generate (attempt 4)"), "{reason}");
        assert!(!Path::new(&file).exists());
    });
}

/// On threads this is the end of the command by SIGBUS.
#[test]
fn a_file_that_is_cut_short_ends_workers_only() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = path(folder.path(), "x.npy");
        let output = (0..ATTEMPTS).find_map(|turn| {
            succeed(&["gen", "uniform", "-n", LEN_HALF, "-o", &file, "--quiet"]);
            let stats: Vec<&str> = ["stats", "--processes", "1"].into_iter().chain([&*file; 40]).collect();
            let mut command = Running::start(&stats);
            let worker = command.stop_a_worker(folder.path(), &[], patience(turn))?;
            fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(4096)).expect("cut short");
            signal(worker, Signal::CONT);
            let output = command.output();
            // Between two of its files the command notices it by itself.
            text(&output.stderr).contains("could not map a file").then_some(output)
        });
        let output = output.expect("the command was over too soon each time");
        assert_eq!(output.status.code(), Some(1));
        // The next of its files are as short.
        let reason = text(&output.stderr).lines().find(|line| line.contains("could not map a file"));
        assert!(reason.is_some_and(|reason| reason.contains("found 4096")), "{reason:?}");
    });
}

/// Ctrl-C: the terminal signals the whole group of the command.
#[test]
fn an_interrupt_leaves_neither_file_nor_worker() {
    watched(|| {
        for goes_on in [true, false] {
            let folder = tempfile::tempdir().expect("a folder");
            let file = path(folder.path(), "large.npy");
            // Takes seconds, so that the signal comes in the middle of it.
            with_default_signals();
            let mut command = Running::start(&["gen", "normal", "-n", "2e8", "-o", &file, "--processes", "2"]);
            let first = command.stop_a_worker(folder.path(), &[], STEP).expect("it takes longer");
            let workers = [first, command.stop_a_worker(folder.path(), &[first], STEP).expect("it takes longer")];
            let group = i32::try_from(command.pid()).ok().and_then(Pid::from_raw).expect("a process id");
            for worker in workers {
                let worker = i32::try_from(worker).ok().and_then(Pid::from_raw);
                assert_ne!(rustix::process::getpgid(worker).expect("it lives"), group, "the terminal signals workers");
            }
            if goes_on {
                workers.iter().for_each(|&worker| signal(worker, Signal::CONT));
            }
            rustix::process::kill_process_group(group, Signal::INT).expect("the group is there");
            let output = command.output();
            assert_eq!((output.status.signal(), text(&output.stderr)), (Some(Signal::INT.as_raw()), ""));
            assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
            eventually("the workers are gone", || !workers.iter().any(|&worker| is_alive(worker)));
        }
    });
}

#[test]
fn workers_do_not_outlive_a_command_that_is_killed() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = path(folder.path(), "large.npy");
        let mut command = Running::start(&["gen", "normal", "-n", "2e8", "-o", &file, "--processes", "2"]);
        let running = command.stop_a_worker(folder.path(), &[], STEP).expect("it takes longer");
        let stopped = command.stop_a_worker(folder.path(), &[running], STEP).expect("it takes longer");
        signal(running, Signal::CONT);
        signal(command.pid(), Signal::KILL);
        // Their output ends, too: nobody holds the pipe.
        assert_eq!(command.output().status.code(), None);
        eventually("the workers are gone", || !is_alive(running) && !is_alive(stopped));
        assert!(!Path::new(&file).exists());
    });
}
