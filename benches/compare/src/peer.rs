//! Other processes: copies of this program that play a role.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::place::{self, Pair};
use crate::{bare, questions, rivals};

const ROLE: &str = "WORKRING_COMPARE_ROLE";

/// A process that plays a role; ended when it is dropped.
pub struct Peer {
    child: Child,
}

impl Peer {
    /// Starts it on the core of the answering side, and waits until it is ready.
    pub fn start(role: &str, pair: Pair, arguments: &[&str]) -> Self {
        let mut command = command(role, pair, arguments);
        let mut child = command.spawn().expect("a copy of this program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
        let peer = Self { child };
        assert_eq!(line, "ready\n", "{role} did not get ready");
        peer
    }

    /// Waits for its end.
    pub fn join(mut self) {
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "a peer ended with {status}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Without effect on one that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(role: &str, pair: Pair, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(arguments).env(ROLE, format!("{role}:{}", pair.worker));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let parent = rustix::process::getpid();
    // SAFETY: the closure makes system calls only, and so may run between fork and exec.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have gone before that.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
        });
    }
    command
}

/// Runs a process that plays a role to its end, on the core of the answering side, and returns what it printed.
pub fn run(role: &str, pair: Pair, arguments: &[&str]) -> Result<String, String> {
    let output = command(role, pair, arguments).stderr(Stdio::inherit()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{role} ended with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

/// Says to the starter of this process that it can be asked.
pub fn is_ready() {
    let mut output = std::io::stdout();
    writeln!(output, "ready").and_then(|()| output.flush()).expect("somebody listens");
}

/// Plays the role this process was started for, if any, and ends then.
pub fn play_if_asked() {
    let Ok(asked) = std::env::var(ROLE) else { return };
    let (role, core) = asked.split_once(':').expect("role and core");
    place::pin(&[core.parse().expect("a core")]);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match role {
        "words" => bare::play(&arguments),
        "memory" => questions::memory::play(&arguments),
        role => rivals::play(role, &arguments),
    }
    std::process::exit(0);
}
