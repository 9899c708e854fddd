//! The command and what is around it: files that are none, signals, streams that are closed or full, terminals, modes.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, Signal};

use crate::processes::children_of;
use crate::support::{ARRIVALS, COMMAND, fail, json, path, repository, run, succeed, text, workring};
use crate::time::{eventually, watched};

const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// How often a test tries again what needs two things to happen close to each other.
const ATTEMPTS: usize = 20;

/// Undoes for children what a shell does to commands it starts in the background, and nohup(1) to all: ignoring signals. What is
/// caught has its default action again in a program that is started.
pub(crate) fn with_default_signals() {
    let always = Arc::new(AtomicBool::new(true));
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        // In this process it has the default action, too.
        signal_hook::flag::register_conditional_default(signal.as_raw(), Arc::clone(&always))
            .expect("it can be caught");
    }
}

fn pid_of(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id")
}

fn send(child: &Child, signal: Signal) {
    rustix::process::kill_process(pid_of(child), signal).expect("it was not waited for");
}

/// Whether a process has a file open in `folder`, be it one without a name.
fn has_open(pid: u32, folder: &Path) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).any(|target| target.starts_with(folder))
}

fn names_in(folder: &Path) -> Vec<String> {
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string().expect("UTF-8");
    let mut names: Vec<_> = fs::read_dir(folder).expect("listed").map(name).collect();
    names.sort();
    names
}

/// Whether files can be made without a name in a folder.
fn has_unnamed_files(folder: &Path) -> bool {
    rustix::fs::open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, PRIVATE).is_ok()
}

/// A command that makes a file for many seconds, once it has begun.
fn start_making(folder: &Path, file: &str, more: &[&str]) -> Child {
    let mut child = workring()
        .args(["gen", "normal", "-n", "2e8", "-o", file])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command can be started");
    eventually("it makes a file", || {
        assert!(child.try_wait().expect("a child").is_none(), "the command ended by itself");
        has_open(child.id(), folder)
    });
    child
}

/// A FIFO as an input blocked in open(2) for ever, and neither SIGTERM nor the first Ctrl-C ended that.
#[test]
fn what_is_no_regular_file_is_an_error_at_once() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = path(folder.path(), "fifo.npy");
        mknodat(CWD, &fifo, FileType::Fifo, PRIVATE, 0).expect("made");
        let socket = path(folder.path(), "socket.npy");
        let _listener = UnixListener::bind(&socket).expect("bound");
        let out = path(folder.path(), "out.npy");
        for (file, kind) in [
            (&*fifo, "it is a FIFO (named pipe)"),
            (&socket, "it is a socket"),
            ("/dev/zero", "it is a character device"),
            ("/tmp", "it is a directory"),
        ] {
            for workers in [&["--threads", "1"], &["--processes", "1"]] {
                for command in [
                    &["stats", file][..],
                    &["reduce", "sum", file],
                    &["reduce", "dot", ARRIVALS, file],
                    &["map", "abs", file, "-o", &out],
                    &["map", "abs", file, "-o", "-"],
                ] {
                    let reason = fail(&[command, workers].concat());
                    assert!(reason.contains(file) && reason.contains(kind), "{command:?}: {reason}");
                    assert!(reason.contains("not a regular file"), "{command:?}: {reason}");
                }
            }
        }
        // What made a file out of nothing, and has a length of 0, is no empty file.
        assert!(fail(&["stats", "/proc/self/status"]).contains("/proc"));
        assert!(!Path::new(&out).exists());
    });
}

#[test]
fn what_is_no_regular_file_is_not_replaced() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = path(folder.path(), "fifo");
        mknodat(CWD, &fifo, FileType::Fifo, PRIVATE, 0).expect("made");
        for (file, kind) in [(&*fifo, "a FIFO (named pipe)"), ("/dev/null", "a character device")] {
            for command in [&["gen", "uniform", "-n", "10", "-o", file][..], &["map", "abs", ARRIVALS, "-o", file]] {
                let reason = fail(command);
                assert!(reason.contains(file) && reason.contains(kind), "{reason}");
            }
        }
        assert!(fs::metadata(&fifo).expect("there").file_type().is_fifo());
        assert!(fs::metadata("/dev/null").expect("there").file_type().is_char_device());
        assert_eq!(names_in(folder.path()), ["fifo"]);
    });
}

/// The command ended with status 1, which a shell takes for a command that failed and not for one that was interrupted.
#[test]
fn a_command_dies_of_the_signal_it_got_and_leaves_nothing() {
    watched(|| {
        with_default_signals();
        for (signal, more) in [
            (Signal::INT, &["--threads", "1"]),
            (Signal::TERM, &["--threads", "2"]),
            (Signal::HUP, &["--threads", "1"]),
            (Signal::INT, &["--processes", "2"]),
            (Signal::TERM, &["--processes", "1"]),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let file = path(folder.path(), "large.npy");
            let child = start_making(folder.path(), &file, more);
            send(&child, signal);
            let output = child.wait_with_output().expect("it ends");
            assert_eq!(output.status.signal(), Some(signal.as_raw()), "{more:?}: {}", text(&output.stderr));
            assert_eq!((text(&output.stdout), text(&output.stderr)), ("", ""));
            assert!(names_in(folder.path()).is_empty());
        }
    });
}

/// A file that is written to a pipe nobody reads, until it is stuck in write(2).
fn start_stuck(folder: &Path, more: &[&str]) -> Child {
    let input = path(folder, "in.npy");
    if !Path::new(&input).exists() {
        // More than a pipe holds.
        succeed(&["gen", "sequence", "-n", "100000", "-o", &input, "-q"]);
    }
    let mut command = workring();
    command.args(["map", "abs", &input, "-o", "-"]).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the command can be started");
    let pipe = child.stdout.as_ref().expect("a pipe").as_fd();
    // A pipe holds 64 KiB unless the user has very many.
    eventually("the pipe is full", || rustix::io::ioctl_fionread(pipe).expect("a pipe") >= 4096);
    child
}

/// A signal that found the command inside a system call was not seen before that came back: never.
#[test]
fn a_signal_ends_a_command_that_is_inside_a_system_call() {
    watched(|| {
        with_default_signals();
        let folder = tempfile::tempdir().expect("a folder");
        for (signal, workers) in [
            (Signal::INT, "--threads"),
            (Signal::TERM, "--threads"),
            (Signal::HUP, "--threads"),
            (Signal::TERM, "--processes"),
        ] {
            let mut child = start_stuck(folder.path(), &[workers, "1"]);
            let workers = children_of(child.id());
            send(&child, signal);
            // Its pipe stays open, and nobody reads.
            let status = child.wait().expect("it ends");
            assert_eq!(status.signal(), Some(signal.as_raw()));
            eventually("its workers are gone", || {
                workers.iter().all(|&pid| !Path::new(&format!("/proc/{pid}")).exists())
            });
        }
    });
}

/// Which one a command that got two signals dies of says whether it waited after the second: for the first one's sake it would.
#[test]
fn a_second_signal_ends_a_command_at_once() {
    watched(|| {
        with_default_signals();
        let folder = tempfile::tempdir().expect("a folder");
        let died_of_the_second = (0..ATTEMPTS).any(|_| {
            let mut child = start_stuck(folder.path(), &["--threads", "1"]);
            send(&child, Signal::TERM);
            // Long enough for the command to have begun to wait, and short beside how long it waits.
            std::thread::sleep(Duration::from_millis(100));
            send(&child, Signal::INT);
            let status = child.wait().expect("it ends");
            // On a machine that has no time for this test, the grace after the first one may be over.
            status.signal() == Some(Signal::INT.as_raw())
        });
        assert!(died_of_the_second);
    });
}

/// The shell went on with the next command of the loop.
#[test]
fn a_shell_loop_stops_at_the_first_interrupt() {
    watched(|| {
        with_default_signals();
        let folder = tempfile::tempdir().expect("a folder");
        // Dash leaves a loop whatever its commands die of; bash asks them.
        let shell = ["bash", "sh"]
            .into_iter()
            .find(|shell| Command::new(shell).args(["-c", "exit"]).status().is_ok_and(|status| status.success()));
        let script = r#"for i in 1 2 3; do "$0" gen normal -n 2e8 --threads 1 -o "$1/$i.npy"; echo went on; done"#;
        let mut child = Command::new(shell.expect("a shell"))
            .args(["-c", script, COMMAND, folder.path().to_str().expect("UTF-8")])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the shell can be started");
        eventually("the command makes a file", || {
            assert!(child.try_wait().expect("a child").is_none(), "the shell ended by itself");
            children_of(child.id()).iter().any(|&pid| has_open(pid, folder.path()))
        });
        // As the terminal does: to the whole group.
        rustix::process::kill_process_group(pid_of(&child), Signal::INT).expect("the group is there");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((output.status.signal(), text(&output.stdout)), (Some(Signal::INT.as_raw()), ""));
        assert!(names_in(folder.path()).is_empty());
    });
}

/// What nohup(1) and shells do to commands in the background: the command caught the signals all the same, and ended.
#[test]
fn ignored_signals_stay_ignored() {
    watched(|| {
        with_default_signals();
        let folder = tempfile::tempdir().expect("a folder");
        let input = path(folder.path(), "in.npy");
        succeed(&["gen", "sequence", "-n", "100000", "-o", &input, "-q"]);
        let mut child = Command::new("sh")
            .args(["-c", r#"trap '' HUP INT; exec "$0" "$@""#, COMMAND, "map", "abs", &input])
            .args(["-o", "-", "--threads", "1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the shell can be started");
        let mut pipe = child.stdout.take().expect("a pipe");
        eventually("the pipe is full", || rustix::io::ioctl_fionread(&pipe).expect("a pipe") >= 4096);
        send(&child, Signal::HUP);
        send(&child, Signal::INT);
        let mut written = Vec::new();
        pipe.read_to_end(&mut written).expect("read");
        assert!(child.wait().expect("it ends").success());
        assert_eq!(written.len(), 128 + 800_000);
    });
}

/// A temporary file as long as the result stayed for ever.
#[test]
fn a_command_that_is_killed_leaves_nothing() {
    watched(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = path(folder.path(), "large.npy");
        fs::write(&file, "old").expect("written");
        for more in [&["--threads", "1"], &["--processes", "1"]] {
            let mut child = start_making(folder.path(), &file, more);
            send(&child, Signal::KILL);
            assert_eq!(child.wait().expect("it ends").signal(), Some(Signal::KILL.as_raw()));
            assert_eq!(fs::read(&file).expect("there"), b"old");
            if has_unnamed_files(folder.path()) {
                assert_eq!(names_in(folder.path()), ["large.npy"]);
            }
        }
    });
}

fn mode_of(file: &str) -> u32 {
    fs::metadata(file).expect("there").permissions().mode() & 0o7777
}

/// A private file could be read by everybody after it had been replaced.
#[test]
fn a_replaced_file_keeps_its_mode_and_a_new_one_follows_the_umask() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = path(folder.path(), "x.npy");
    let with_umask = |umask: &str, arguments: &[&str]| {
        let script = format!(r#"umask {umask}; exec "$0" "$@""#);
        let status = Command::new("sh").args(["-c", &script, COMMAND]).args(arguments).status();
        assert!(status.expect("the shell can be started").success());
    };
    let gen_new = ["gen", "uniform", "-n", "1000", "-o", &file, "-q"];
    with_umask("027", &gen_new);
    assert_eq!(mode_of(&file), 0o640);
    for mode in [0o600, 0o644, 0o400] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("changed");
        with_umask("022", &gen_new);
        assert_eq!(mode_of(&file), mode);
        with_umask("077", &["map", "abs", &file, "-o", &file, "-q"]);
        assert_eq!(mode_of(&file), mode);
        with_umask("022", &["map", "abs", &file, "-o", &file, "-q", "--processes", "1"]);
        assert_eq!(mode_of(&file), mode);
    }
    assert_eq!(names_in(folder.path()), ["x.npy"]);
}

/// Runs the command with its streams as a shell's redirection says.
fn redirected(arguments: &[&str], redirection: &str) -> Output {
    let script = format!(r#"exec "$0" "$@" {redirection}"#);
    let mut command = Command::new("sh");
    command.current_dir(repository());
    command.args(["-c", &script, COMMAND]).args(arguments);
    command.output().expect("the shell can be started")
}

/// Results went to a closed or full standard output, and the command said that all was well.
#[test]
fn a_standard_output_that_takes_nothing_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = path(folder.path(), "x.npy");
    let reports = [
        &["stats", ARRIVALS][..],
        &["stats", ARRIVALS, ARRIVALS],
        &["stats", ARRIVALS, "--json"],
        &["reduce", "sum", ARRIVALS],
        &["info"],
        &["map", "abs", ARRIVALS, "-o", "-"],
        &["gen", "uniform", "-n", "10", "-o", "-", "--quiet"],
        &["gen", "uniform", "-n", "10", "-o", &file, "--quiet", "--json"],
        &["--help"],
        &["--version"],
        &["help", "stats"],
    ];
    for arguments in reports {
        for (redirection, said) in [(">&-", "standard output is closed"), (">/dev/full", "No space left")] {
            let output = redirected(arguments, redirection);
            assert_eq!(output.status.code(), Some(1), "{arguments:?} {redirection}");
            let reason = text(&output.stderr);
            assert!(reason.contains(said) && reason.matches('\n').count() == 1, "{arguments:?}: {reason}");
        }
        assert!(redirected(arguments, ">/dev/null").status.success(), "{arguments:?}");
        // As subprocess.DEVNULL of Python has it, and the standard library in the place of a closed stream.
        assert!(redirected(arguments, "1<>/dev/null").status.success(), "{arguments:?}");
    }
    // What prints nothing needs no standard output.
    fs::remove_file(&file).expect("there");
    assert!(redirected(&["gen", "uniform", "-n", "10", "-o", &file, "--quiet"], ">&-").status.success());
    assert_eq!(json(&["stats", &file, "--json"])["len"], 10);
    // And nothing is begun for a report that nobody can get.
    fs::remove_file(&file).expect("there");
    assert_eq!(redirected(&["gen", "uniform", "-n", "10", "-o", &file], ">&-").status.code(), Some(1));
    assert!(!Path::new(&file).exists());
}

/// Errors that could not be printed were a panic with status 101.
#[test]
fn a_standard_error_that_takes_nothing_leaves_the_exit_code() {
    for redirection in ["2>&-", "2>/dev/full"] {
        for (arguments, code) in [
            (&["stats", "no/such.npy"][..], 1),
            (&["stats", ARRIVALS, "no/such.npy"], 1),
            (&["frobnicate"], 2),
            (&["info"], 0),
        ] {
            assert_eq!(redirected(arguments, redirection).status.code(), Some(code), "{arguments:?} {redirection}");
        }
    }
}

/// A pipe whose reader is gone: the command said that all was well. Other programs die of SIGPIPE, without a word.
#[test]
fn a_pipe_that_nobody_reads_ends_a_command_quietly() {
    for arguments in [
        &["stats", ARRIVALS][..],
        &["info", "--json"],
        &["map", "abs", ARRIVALS, "-o", "-"],
        &["stats", ARRIVALS, "--processes", "1"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = workring().args(arguments).stdout(writer).output().expect("the command can be started");
        assert_eq!(output.status.signal(), Some(Signal::PIPE.as_raw()), "{arguments:?}");
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
    }
}

/// One file that is missing, and nothing was printed of all the others.
#[test]
fn of_several_files_the_good_ones_are_described_and_the_others_reported() {
    let good = json(&["stats", ARRIVALS, "--json"]);
    for workers in [&["--threads", "2"], &["--processes", "1"]] {
        let arguments = ["stats", "no/such.npy", ARRIVALS, "Cargo.toml", ARRIVALS];
        let output = run(&[&arguments[..], workers, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(1));
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        assert_eq!(printed["files"], serde_json::Value::from(vec![good.clone(), good.clone()]));
        let reasons: Vec<&str> = text(&output.stderr).lines().collect();
        assert!(reasons.len() == 2 && reasons.iter().all(|reason| reason.starts_with("workring: ")), "{reasons:?}");
        assert!(reasons[0].contains("no/such.npy") && reasons[1].contains("Cargo.toml"), "{reasons:?}");
    }
    // A single good one of several is still one of several.
    let output = run(&["stats", ARRIVALS, "no/such.npy", "--json"]);
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
    assert_eq!(printed["files"][0], good);
    let output = run(&["stats", ARRIVALS, "no/such.npy"]);
    assert!(text(&output.stdout).starts_with("file") && text(&output.stdout).lines().count() == 2);
    // Where none is good, nothing is printed.
    let output = run(&["stats", "no/such.npy", "nor/this.npy", "--json"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
    let output = run(&["reduce", "dot", "no/such.npy", "nor/this.npy"]);
    let reason = text(&output.stderr);
    assert!(reason.contains("no/such.npy") && reason.contains("nor/this.npy"), "{reason}");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
}

/// `-o -` wrote a file called `-`.
#[test]
fn an_array_goes_to_standard_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (path(folder.path(), "one.npy"), path(folder.path(), "other.npy"));
    let bytes = |arguments: &[&str]| {
        let output = workring().current_dir(folder.path()).args(arguments).output().expect("it can be started");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{arguments:?}");
        output.stdout
    };
    // Several parts, the last one shorter and not a whole block of random numbers.
    for kind in [
        &["gen", "uniform", "--high", "100", "-n", "1050001", "--dtype", "int8"][..],
        &["gen", "sequence", "-n", "1050001", "--dtype", "uint32"],
        &["gen", "uniform", "-n", "0"],
        &["gen", "uniform", "-n", "4099"],
    ] {
        succeed(&[kind, &["-q", "-o", &one]].concat());
        let expected = fs::read(&one).expect("written");
        assert!(bytes(&[kind, &["-o", "-"]].concat()) == expected, "{kind:?}");
        assert!(bytes(&[kind, &["-o", "-", "--processes", "2"]].concat()) == expected, "{kind:?}");
    }
    succeed(&["gen", "sequence", "-n", "1050001", "--dtype", "float32", "-q", "-o", &one]);
    succeed(&["map", "affine", &one, "--a", "3", "-q", "-o", &other]);
    let expected = fs::read(&other).expect("written");
    // The last ones have no memory for the usual parts.
    for workers in [&["--threads", "2"][..], &["--processes", "2"], &["--threads", "1", "--capacity", "1MiB"]] {
        assert!(bytes(&[&["map", "affine", &one, "--a", "3", "-o", "-"][..], workers].concat()) == expected);
    }
    // A redirected file can be mapped, a pipe cannot.
    let from_file = workring().args(["stats", "/dev/stdin", "--json"]).stdin(File::open(&one).expect("there")).output();
    let from_file: serde_json::Value = serde_json::from_slice(&from_file.expect("run").stdout).expect("JSON");
    assert_eq!(from_file["len"], 1_050_001);
    let mut child =
        workring().args(["stats", "/dev/stdin"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
    // The command may be over before.
    let _ = child.stdin.take().expect("a pipe").write_all(b"x");
    assert!(text(&child.wait_with_output().expect("it ends").stderr).contains("FIFO"));
    assert_eq!(run(&["map", "abs", ARRIVALS, "-o", "-", "--json"]).status.code(), Some(2));
    // What to do instead is part of the answer, and of the help.
    for usage in [
        &["stats", "-"][..],
        &["stats", ARRIVALS, "-"],
        &["reduce", "dot", ARRIVALS, "-"],
        &["map", "abs", "-", "-o", &one],
    ] {
        let output = run(usage);
        assert_eq!(output.status.code(), Some(2), "{usage:?}");
        assert!(text(&output.stderr).contains("Save what comes through a pipe to a file first"), "{usage:?}");
    }
    for help in [&["stats", "--help"][..], &["map", "abs", "--help"], &["reduce", "sum", "--help"]] {
        assert!(succeed(help).contains("no pipe and no -"), "{help:?}");
    }
    assert_eq!(names_in(folder.path()), ["one.npy", "other.npy"]);
    // A file of that name has a path.
    bytes(&["gen", "uniform", "-n", "4099", "-o", "./-", "-q"]);
    assert_eq!(names_in(folder.path()), ["-", "one.npy", "other.npy"]);
}

/// The names of files in errors drove the terminal, where those in results do not.
#[test]
fn errors_do_not_drive_the_terminal() {
    let reason = fail(&["stats", "no\x1b[31m\r\nsuch.npy"]);
    assert!(!reason.contains(['\x1b', '\r']) && reason.contains("[31m"), "{reason:?}");
}

/// A terminal: what a command writes to it, and the end to be given to the command.
struct Terminal {
    ours: File,
    theirs: File,
}

impl Terminal {
    fn new() -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&ours).expect("granted");
        unlockpt(&ours).expect("unlocked");
        let name = ptsname(&ours, Vec::new()).expect("a name");
        let theirs = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        Self { ours: File::from(ours), theirs: File::from(theirs.expect("opened")) }
    }

    /// What is written until nobody has the other end any more.
    fn read(self) -> String {
        let Self { mut ours, theirs } = self;
        drop(theirs);
        let mut written = Vec::new();
        // The end of a terminal is an error, EIO; what came before it is there.
        let _ = ours.read_to_end(&mut written);
        String::from_utf8(written).expect("the command writes UTF-8")
    }
}

#[test]
fn an_array_does_not_go_to_a_terminal() {
    for command in [&["gen", "uniform", "-n", "10", "-o", "-"][..], &["map", "abs", ARRIVALS, "-o", "-"]] {
        let terminal = Terminal::new();
        let stdout = terminal.theirs.try_clone().expect("cloned");
        let output = workring().args(command).stdout(stdout).stderr(Stdio::piped()).spawn().expect("started");
        let output = output.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("is a terminal"), "{}", text(&output.stderr));
        assert_eq!(terminal.read(), "");
    }
}

/// The bar said 2.46 GiB/s where the line at the end said 818 MB/s, and "0s left" from the first moment to the last.
#[test]
fn the_bar_has_one_unit_and_an_end_in_sight() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = path(folder.path(), "x.npy");
    // Fast machines are given more, until there is a bar that is not at its end.
    let shown = (0..6).find_map(|power| {
        let len = (2_000_000_u64 << (2 * power)).to_string();
        let terminal = Terminal::new();
        let stderr = terminal.theirs.try_clone().expect("cloned");
        let arguments = ["gen", "normal", "-n", &len, "-o", &file, "--threads", "1", "--dtype", "int8"];
        let mut child = workring().args(arguments).stdout(Stdio::null()).stderr(stderr).spawn().expect("started");
        let shown = terminal.read();
        assert!(child.wait().expect("it ends").success(), "{shown}");
        shown.contains(" left").then_some(shown)
    });
    let shown = shown.expect("there is a bar");
    assert!(!shown.contains("iB"), "{shown:?}");
    let looks: Vec<&str> = shown.split('\r').filter(|look| look.contains('%')).collect();
    for look in &looks {
        assert!(look.contains("B/s"), "{look:?}");
        assert!(!look.contains(" 0 s left") && !look.contains("0s left"), "{look:?}");
    }
    assert!(looks.iter().any(|look| look.contains(" s left")), "{looks:?}");
    let end = shown.lines().last().expect("a line at the end");
    assert!(end.contains("normal x.npy: ") && end.contains("B/s)"), "{end:?}");
}
