//! Why a program could not be started: the system says one number for many reasons.
//!
//! What is looked at here was perhaps other at the moment of the start. So the number is told as well, and what cannot be told apart is not
//! guessed.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::io::Errno;

use crate::error::Error;
use crate::process_host::program::Program;

/// The first bytes of programs in the system's own format (elf(5)).
const ELF: &[u8] = b"\x7fELF";

/// The error of a start that the system refused, with what can be found out about its reason.
pub(super) fn explain(started: &Program, error: Error) -> Error {
    let Error::Io { operation, source } = error else { return error };
    let number = source.raw_os_error().map(Errno::from_raw_os_error);
    let reason = number
        .filter(|number| matches!(*number, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::NOEXEC))
        .and_then(|number| reason(started, number));
    Error::Io { operation: reason.map_or(operation.clone(), |reason| format!("{operation}: {reason}")), source }
}

/// What is wrong with the working directory or the program, if anything is.
fn reason(started: &Program, number: Errno) -> Option<String> {
    if let Some(directory) = &started.directory
        && let Some(reason) = reason_of_directory(directory)
    {
        return Some(reason);
    }
    let Some(program) = &started.program else {
        return (!Path::new("/proc/self/exe").exists())
            .then(|| "/proc is not mounted: name the program of the workers".into());
    };
    // A name without a slash is looked for in PATH, which the system's own search does.
    if !program.as_os_str().as_bytes().contains(&b'/') {
        let found =
            std::env::split_paths(&path_of(started)).map(|folder| folder.join(program)).find(|path| path.is_file());
        return match found {
            None => Some(format!("no folder of PATH has a program of the name {}", program.display())),
            Some(found) => reason_of_program(&found, number),
        };
    }
    reason_of_program(&started.directory.as_deref().unwrap_or(Path::new("")).join(program), number)
}

/// Where programs of the workers are looked for.
fn path_of(started: &Program) -> std::ffi::OsString {
    let stated = started.environment.iter().rev().find(|(name, _)| name == OsStr::new("PATH"));
    stated.map(|(_, path)| path.clone()).or_else(|| std::env::var_os("PATH")).unwrap_or_default()
}

fn reason_of_directory(directory: &Path) -> Option<String> {
    let shown = directory.display();
    match fs::metadata(directory) {
        Err(error) => Some(format!("the workers' directory {shown} cannot be entered: {error}")),
        Ok(found) if !found.is_dir() => Some(format!("the workers' directory {shown} is none")),
        // Whether it may be entered.
        Ok(_) => fs::metadata(directory.join("."))
            .err()
            .map(|error| format!("the workers' directory {shown} cannot be entered: {error}")),
    }
}

fn reason_of_program(program: &Path, number: Errno) -> Option<String> {
    let shown = program.display();
    let found = match fs::metadata(program) {
        Err(error) => return Some(format!("the program {shown} cannot be found: {error}")),
        Ok(found) => found,
    };
    if !found.is_file() {
        return Some(format!("{shown} is no file"));
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Some(format!("{shown} is not marked executable (chmod +x)"));
    }
    let mut head = Vec::new();
    if let Ok(file) = fs::File::open(program) {
        let _ = file.take(256).read_to_end(&mut head);
    }
    let is_ours = head.starts_with(ELF);
    if is_ours && machine_of(&head) != machine_of(&own_head()) {
        return Some(format!("{shown} is a program for another kind of machine"));
    }
    Some(match (&head[..], number) {
        (_, Errno::ACCESS) => format!("this user may not run {shown}, or its file system allows no programs (noexec)"),
        ([b'#', b'!', line @ ..], _) => {
            let line = String::from_utf8_lossy(line.split(|&byte| byte == b'\n').next().unwrap_or_default());
            let interpreter = line.split_whitespace().next().unwrap_or_default();
            let found = fs::metadata(interpreter);
            return found.err().map(|error| format!("the script {shown} is for {interpreter}: {error}"));
        }
        (_, Errno::NOEXEC) if is_ours => format!("the program {shown} is damaged"),
        (_, Errno::NOEXEC) => format!("{shown} is neither a program nor a script that begins with #!"),
        _ if is_ours => format!("the program {shown} is there, and what loads it is not"),
        _ => return None,
    })
}

/// Word length, byte order and machine of a program (elf(5): the fifth and sixth byte, and the nineteenth and twentieth).
fn machine_of(head: &[u8]) -> Option<[u8; 4]> {
    Some([*head.get(4)?, *head.get(5)?, *head.get(18)?, *head.get(19)?])
}

/// The first bytes of this very program.
fn own_head() -> Vec<u8> {
    let mut head = Vec::new();
    if let Ok(file) = fs::File::open("/proc/self/exe") {
        let _ = file.take(64).read_to_end(&mut head);
    }
    head
}
