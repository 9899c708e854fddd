//! How the worker processes of an engine are started: program, arguments, environment, limits, kernels.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crate::engine::kernel::table::KernelName;
use crate::engine::process::child::WORKER_VARIABLE;
use crate::error::{Result, WorkerExit};
use crate::os::attach::memory_of;
use crate::os::events::{bytes_waiting, wait_for_events};
use crate::os::map::Mapping;
use crate::os::process::{Limits, WorkerProcess};

/// The first death of a worker: its process id, and how it ended.
pub(crate) type FirstDeath = Arc<OnceLock<(u32, WorkerExit)>>;

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
    /// Whether what workers print is passed on line by line, each with the worker's number before it.
    pub(crate) prefix_output: bool,
    /// Where processes that others start may connect.
    pub(crate) listen_at: Option<std::path::PathBuf>,
    /// Where the first death of a worker is noted, with which the engine closes instead of replacing it.
    pub(crate) first_death: Option<FirstDeath>,
    /// How long a kernel may go on after it was told to stop, before its process is killed.
    pub(crate) kill_after: Duration,
    /// How many processes there are at least.
    pub(crate) least: usize,
    /// How long one beyond those may have nothing to do.
    pub(crate) idle_timeout: Duration,
}

impl ProcessGroup {
    /// The command that starts one of them.
    pub(in crate::engine) fn command(&self) -> Result<Command> {
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
        if self.prefix_output {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        Ok(command)
    }

    /// The table of kernels as workers are given it.
    pub(in crate::engine) fn kernel_table(&self) -> Result<Mapping> {
        memory_of("workring-kernels", &KernelName::table(&self.kernels))
    }
}

/// The longest line that is passed on whole.
const LINE_LEN_MAX: u64 = 8192;

/// Passes on what a worker prints, until it ends: standard output to standard output, standard error to standard error. Does
/// nothing for a worker whose output was not piped.
pub(in crate::engine) fn pass_on_output(process: &mut WorkerProcess, worker: u16) {
    let prefix = format!("worker {worker} [{}]: ", process.handle().pid());
    let (output, error) = process.take_outputs();
    // Without a thread the worker's output is lost, and it is told so by a closed pipe; the engine goes on.
    if let Some(output) = output {
        let (prefix, output) = (prefix.clone(), WhileAlive::new(output, process));
        let _ = thread::Builder::new()
            .name(format!("workring-out-{worker}"))
            .spawn(move || pass_on(output, &prefix, |line| io::stdout().lock().write_all(line)));
    }
    if let Some(error) = error {
        let error = WhileAlive::new(error, process);
        let _ = thread::Builder::new()
            .name(format!("workring-err-{worker}"))
            .spawn(move || pass_on(error, &prefix, |line| io::stderr().lock().write_all(line)));
    }
}

/// A pipe that ends when the process at its other end has ended, and what was in it then has been read, though others that it started
/// may hold the pipe open and write on.
struct WhileAlive<P> {
    pipe: P,
    /// Ready when the process has ended. Without one, because no descriptor was left, the pipe ends when its last holder is gone.
    process: Option<OwnedFd>,
    /// Bytes to be read still, once the process has ended.
    left: Option<u64>,
}

impl<P> WhileAlive<P> {
    fn new(pipe: P, process: &WorkerProcess) -> Self {
        Self { pipe, process: process.handle().pidfd().try_clone_to_owned().ok(), left: None }
    }
}

impl<P: Read + AsFd> Read for WhileAlive<P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let (Some(process), None) = (&self.process, self.left) {
            let mut ready = Vec::new();
            // A wait that fails is one for the pipe alone.
            let _ = wait_for_events(&[self.pipe.as_fd(), process.as_fd()], None, &mut ready);
            if let [_, true] = ready[..] {
                self.left = Some(bytes_waiting(&self.pipe)?);
            }
        }
        let Some(left) = &mut self.left else { return self.pipe.read(buffer) };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        // Nothing is left, or this is the pipe's only reader, so that what is there can be read.
        let read = if most == 0 { 0 } else { self.pipe.read(&mut buffer[..most])? };
        *left -= read as u64;
        Ok(read)
    }
}

/// Reads lines until the end and writes each with the prefix, in one piece; a line that is too long is cut into several.
fn pass_on(from: impl Read, prefix: &str, mut write: impl FnMut(&[u8]) -> io::Result<()>) {
    let mut from = BufReader::new(from);
    loop {
        let mut line = prefix.as_bytes().to_vec();
        match from.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        // An output of this process that is not read is no reason to stop: the worker may print all the same.
        let _ = write(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_gets_its_prefix_and_long_ones_are_cut() {
        let long = "x".repeat(LINE_LEN_MAX as usize + 5);
        let text = format!("one\n\n{long}\nlast");
        let mut lines = Vec::new();
        pass_on(text.as_bytes(), "w: ", |line| {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
            Ok(())
        });
        let cut = format!("w: {}\n", "x".repeat(LINE_LEN_MAX as usize));
        assert_eq!(lines, ["w: one\n", "w: \n", &cut, "w: xxxxx\n", "w: last\n"]);
    }
}
