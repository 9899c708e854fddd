//! Programs that worker processes are started from: file, arguments, environment, limits.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::os::process::Limits;

/// The variable that tells a process that it was started as a worker: the process id of its starter.
pub(super) const WORKER_VARIABLE: &str = "WORKRING_WORKER";

/// What a worker process is started from, and what it may take of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) limits: Limits,
    /// What to run; this very program unless stated.
    pub(crate) program: Option<PathBuf>,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<PathBuf>,
    /// Whether what workers print is passed on line by line, each with the worker's number before it.
    pub(crate) prefix_output: bool,
}

impl Program {
    /// The command that starts it.
    pub(super) fn command(&self) -> Command {
        let program = match &self.program {
            Some(program) => program.clone(),
            // The link stays right when the file was replaced meanwhile by a newer build.
            None => PathBuf::from("/proc/self/exe"),
        };
        let mut command = Command::new(&program);
        if self.program.is_none() {
            use std::os::unix::process::CommandExt;
            if let Some(name) = std::env::args_os().next() {
                command.arg0(name);
            }
        }
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env(WORKER_VARIABLE, std::process::id().to_string());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if self.prefix_output {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        command
    }
}
