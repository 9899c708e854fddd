//! Running the command and reading what it says.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Where the command was built to.
pub(crate) const COMMAND: &str = env!("CARGO_BIN_EXE_workring");
/// Columns of real data, from the root of the repository on.
pub(crate) const ARRIVALS: &str = "examples/data/flights_arr_delay.npy";
pub(crate) const DISTANCES: &str = "examples/data/flights_distance.npy";

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The command in the root of the repository, with nothing to read.
pub(crate) fn workring() -> Command {
    let mut command = Command::new(COMMAND);
    command.current_dir(repository()).stdin(Stdio::null());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    workring().args(arguments).output().expect("the command can be started")
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the command prints UTF-8")
}

pub(crate) fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    text(&output.stdout).to_owned()
}

pub(crate) fn json(arguments: &[&str]) -> Value {
    let printed = succeed(arguments);
    assert_eq!(printed.matches('\n').count(), 1, "one line: {printed}");
    serde_json::from_str(&printed).expect("one JSON value")
}

/// The command fails with status 1, prints nothing on stdout and one line on stderr, which is returned.
pub(crate) fn fail(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    let reason = text(&output.stderr);
    assert_eq!(reason.matches('\n').count(), 1, "{reason}");
    assert!(reason.starts_with("workring: "), "{reason}");
    reason.to_owned()
}

pub(crate) fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("test paths are UTF-8").to_owned()
}

/// A version 1 `.npy` file, written by hand so that the reader is not tested with its own writer.
pub(crate) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + dictionary.len() + 1) % 64 != 0 {
        dictionary.push(' ');
    }
    dictionary.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((dictionary.len() as u16).to_le_bytes());
    file.extend(dictionary.as_bytes());
    file.extend(data);
    file
}

pub(crate) fn doubles(values: &[f64]) -> Vec<u8> {
    npy(
        "<f8",
        &format!("({},)", values.len()),
        &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>(),
    )
}
