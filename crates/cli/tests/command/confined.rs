//! The command where the system refuses memory that processes can share.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::support::{path, repository, succeed, text, workring};

/// The command below a filter that forbids memory files.
fn without_memory_files(arguments: &[&str]) -> Output {
    let rules = BTreeMap::from([(libc::SYS_memfd_create, Vec::new())]);
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let machine = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, machine).unwrap().try_into().unwrap();
    let mut command = workring();
    // SAFETY: between fork and exec it makes two system calls and takes no lock; the filter was made before.
    unsafe {
        command.pre_exec(move || seccompiler::apply_filter(&filter).map_err(|_| io::Error::from(io::ErrorKind::Other)))
    };
    command.args(arguments).output().expect("the command can be started")
}

/// The command behind a limit of 0 bytes on files.
fn without_file_bytes(arguments: &[&str]) -> Output {
    let command = workring();
    let mut shell = Command::new("sh");
    shell.current_dir(repository()).args(["-c", "ulimit -f 0; exec \"$@\"", "sh"]);
    shell.arg(command.get_program()).args(arguments).output().expect("the command can be started")
}

/// Even `stats` failed there, which shares nothing with anybody.
#[test]
fn the_command_needs_no_memory_that_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let (x, y) = (path(folder.path(), "x.npy"), path(folder.path(), "y.npy"));
    succeed(&["gen", "sequence", "-n", "1000", "-o", &x]);
    let expected = succeed(&["stats", &x, "--json"]);
    type Confined = fn(&[&str]) -> Output;
    for confined in [without_memory_files as Confined, without_file_bytes] {
        for arguments in [&["stats", &x, "--json"][..], &["reduce", "sum", &x]] {
            let output = confined(arguments);
            assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        }
        // Times differ, results do not.
        let output = confined(&["stats", &x, "--json"]);
        assert_eq!(text(&output.stdout).contains("\"count\":1000"), expected.contains("\"count\":1000"));
        let output = confined(&["--processes", "1", "stats", &x]);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains("memory that worker processes can share"), "{}", text(&output.stderr));
    }
    let output = without_memory_files(&["map", "sqrt", &x, "-o", &y]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(fs::exists(&y).unwrap());
}
