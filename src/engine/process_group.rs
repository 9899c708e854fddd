//! How the worker processes of an engine are started: program, arguments, environment, limits, kernels.

use std::process::Command;
use std::time::Duration;

use super::handshake::KernelName;
use super::remote::WORKER_VARIABLE;
use crate::error::Result;
use crate::os::process::Limits;

/// How worker processes are started.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessGroup {
    pub(crate) kernels: Vec<KernelName>,
    pub(crate) limits: Limits,
    /// What to run; this very program unless stated.
    pub(crate) program: Option<std::path::PathBuf>,
    pub(crate) arguments: Vec<std::ffi::OsString>,
    pub(crate) environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    pub(crate) directory: Option<std::path::PathBuf>,
    /// How long a kernel may go on after it was told to stop, before its process is killed.
    pub(crate) kill_after: Duration,
}

impl ProcessGroup {
    /// The command that starts one of them.
    pub(super) fn command(&self) -> Result<Command> {
        let program = match &self.program {
            Some(program) => program.clone(),
            // The link stays right when the file was replaced meanwhile by a newer build.
            None => std::path::PathBuf::from("/proc/self/exe"),
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
        Ok(command)
    }
}
