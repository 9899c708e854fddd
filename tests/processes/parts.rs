//! Parts that copies of this program play, each in an environment of its own, and what they have in common.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use workring::{Engine, Error, process::WorkerProgram};

use crate::kernels::{die, increment};
use crate::support::{eventually, in_role, kill};

/// How long a part may take before it counts as hanging.
const PART_LIMIT: Duration = crate::support::STEP;

/// Lists tests that are parts, each with the programs it is played below. The first line names the file.
macro_rules! parts {
    ($file:literal: $($part:ident below $wrapper:expr;)*) => {
        pub(crate) fn tests() -> crate::support::Tests {
            vec![$((concat!($file, "::", stringify!($part)), || {
                crate::parts::have_played(concat!($file, "::", stringify!($part)), &$wrapper);
            })),*]
        }

        /// Plays a part of this file; `false` if it has none of that name.
        pub(crate) fn play(part: &str) -> bool {
            let parts: &[(&str, fn())] = &[$((concat!($file, "::", stringify!($part)), $part)),*];
            let found = parts.iter().find(|(name, _)| *name == part);
            found.map(|(_, play)| play()).is_some()
        }
    };
}
pub(crate) use parts;

/// Plays a part, bounded in time.
pub(crate) fn play(part: &str) {
    std::thread::spawn(|| {
        std::thread::sleep(PART_LIMIT + crate::environment::storm_limit().unwrap_or_default());
        eprintln!("the part hangs");
        // By an exit: the first process of a PID namespace takes no signal of its own.
        std::process::exit(99);
    });
    let files = [crate::confined::play, crate::descendants::play, crate::environment::play, crate::hosts::play];
    assert!(files.iter().any(|play| play(part)), "no part {part}");
    println!("fine");
}

/// `unshare` with these arguments, for users without rights too.
pub(crate) fn unshare(arguments: &[&'static str]) -> Vec<&'static str> {
    let user: &[_] = if rustix::process::getuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    [&["unshare"], user, arguments].concat()
}

/// A user for whom limits on processes hold, as they do not for root.
pub(crate) fn nobody() -> Vec<&'static str> {
    let wrapper = ["setpriv", "--reuid", "1999999999", "--regid", "1999999999", "--clear-groups"];
    if rustix::process::getuid().is_root() { wrapper.to_vec() } else { Vec::new() }
}

/// Has a copy of this program play a part below a program that runs what its arguments end with. Where the machine refuses that
/// program, says so and does nothing.
pub(crate) fn have_played(part: &str, wrapper: &[&str]) {
    // A copy, where every user may run it and one part deletes it.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("program");
    if fs::hard_link(std::env::current_exe().unwrap(), &program).is_err() {
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    }
    let command = |program: &Path| match wrapper {
        [] => Command::new(program),
        [first, arguments @ ..] => {
            let mut command = Command::new(first);
            command.args(arguments).arg(program).current_dir(&folder);
            command
        }
    };
    if !command(Path::new("true")).output().is_ok_and(|output| output.status.success()) {
        println!("skipped {part}: this machine does not run `{}`", wrapper.join(" "));
        return;
    }
    let mut command = in_role(command(&program), &format!("part {part}"));
    let output = command.current_dir(&folder).output().unwrap();
    let [said, warned] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success() && said.trim_end().ends_with("fine"), "{}\n{said}\n{warned}", output.status);
    for line in said.lines().filter(|line| line.starts_with("skipped")) {
        println!("{line}");
    }
}

/// The error and its causes.
pub(crate) fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

pub(crate) fn build() -> workring::Result<Engine> {
    Engine::builder().processes(2).kernels(crate::kernels::ALL()).capacity(1 << 24).build()
}

pub(crate) fn pids(engine: &Engine) -> Vec<u32> {
    engine.workers().iter().filter(|worker| worker.is_alive).map(|worker| worker.pid).collect()
}

/// Runs a job and gives back its error.
pub(crate) fn run(engine: &Engine) -> Result<(), Error> {
    let done = engine.submit(increment, engine.batch::<u64>(100)?, ())?.wait()?;
    assert!(done.iter().all(|&value| value == 1));
    Ok(())
}

/// A worker is killed, and another comes in its place.
#[track_caller]
pub(crate) fn lose(engine: &Engine) {
    let before = pids(engine);
    kill(before[0]);
    eventually("the worker is replaced", || {
        let now = pids(engine);
        now.len() == 2 && !now.contains(&before[0])
    });
    run(engine).unwrap();
}

pub(crate) fn open_descriptors() -> usize {
    // Without the one that reads the folder.
    fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Children of this process, zombies among them.
pub(crate) fn children() -> BTreeSet<u32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parent == Some(std::process::id())
    };
    numbers.filter(is_child).collect()
}

/// Closes an engine; nothing is left of it in this process.
#[track_caller]
pub(crate) fn close(engine: Engine, descriptors: usize) {
    engine.close(crate::support::STEP).unwrap();
    assert_eq!(engine.statistics().arena.in_use, 0);
    drop(engine);
    nothing_is_left(descriptors);
}

#[track_caller]
pub(crate) fn nothing_is_left(descriptors: usize) {
    eventually("no process and no descriptor is left", || children().is_empty() && open_descriptors() == descriptors);
}

/// A limit on this process until it is dropped.
pub(crate) struct Limited(Resource, Rlimit);

impl Limited {
    pub(crate) fn to(resource: Resource, limit: u64) -> Self {
        let before = rustix::process::getrlimit(resource);
        rustix::process::setrlimit(resource, Rlimit { current: Some(limit), ..before }).unwrap();
        Self(resource, before)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        rustix::process::setrlimit(self.0, self.1).unwrap();
    }
}

/// A worker program that runs this one behind a line of shell.
pub(crate) fn behind(line: &str) -> WorkerProgram {
    let program = WorkerProgram::at("/bin/sh").argument("-c").argument(format!("{line} exec \"$0\""));
    program.argument(std::env::current_exe().unwrap())
}

/// Workers die by a kill and by themselves, and hang; then the engine closes.
pub(crate) fn lose_some_and_close(engine: Engine, descriptors: usize) {
    lose(&engine);
    let error = engine.submit(die, engine.batch::<u32>(1).unwrap(), 1).unwrap().wait().unwrap_err().error;
    assert!(matches!(error, Error::WorkerDied { .. }), "{error}");
    let error = crate::support::hang(&engine);
    assert!(matches!(error, Error::DeadlineExceeded), "{error}");
    eventually("both workers are there", || pids(&engine).len() == 2);
    run(&engine).unwrap();
    close(engine, descriptors);
}
