//! What worker processes print, passed on line by line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use crate::os::events::{bytes_waiting, wait_for_events};
use crate::os::process::WorkerProcess;

/// The longest line that is passed on whole.
const LINE_LEN_MAX: u64 = 8192;

/// Passes on what a worker prints, until it ends: standard output to standard output, standard error to standard error. Does
/// nothing for a worker whose output was not piped.
pub(super) fn pass_on_output(process: &mut WorkerProcess, worker: u16) {
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
