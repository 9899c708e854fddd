//! Errors of workers that do not come to work name what is wrong, and not what might be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use workring::{Engine, Error, process::WorkerProgram};

use crate::parts::*;
use crate::support::Tests;

pub(crate) fn tests() -> Tests {
    vec![
        ("causes::a_program_that_cannot_be_started_is_looked_at", a_program_that_cannot_be_started_is_looked_at),
        ("causes::a_directory_that_is_missing_is_named", a_directory_that_is_missing_is_named),
        ("causes::an_environment_that_is_too_long_is_named", an_environment_that_is_too_long_is_named),
        ("causes::an_end_before_work_says_what_ended_it", an_end_before_work_says_what_ended_it),
    ]
}

/// What building an engine of one worker of this program says.
fn refusal(program: WorkerProgram) -> String {
    let builder = Engine::builder().processes(1).kernels(crate::kernels::ALL()).capacity(1 << 20);
    let error = builder.worker_program(program).build().expect_err("no worker can come of it");
    assert!(matches!(error, Error::Io { .. } | Error::WorkerStart { .. }), "{error:?}");
    told(&error)
}

fn write(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn a_program_that_cannot_be_started_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut other = own[..4096].to_vec();
    other[18] ^= 0xFF;
    write(&path("plain"), "text", 0o644);
    write(&path("text"), "echo\n", 0o755);
    write(&path("script"), "#!/no/such/shell -x\n", 0o755);
    write(&path("damaged"), &own[..100], 0o755);
    write(&path("foreign"), other, 0o755);
    let said = [
        ("missing", "cannot be found: No such file"),
        ("plain", "is not marked executable"),
        ("text", "is neither a program nor a script"),
        ("script", "is for /no/such/shell: No such file"),
        ("damaged", "is damaged"),
        ("foreign", "is a program for another kind of machine"),
        ("plain/below", "cannot be found: Not a directory"),
        (".", "is no file"),
    ];
    for (name, what) in said {
        let text = refusal(WorkerProgram::at(path(name)));
        assert!(text.contains(what) && text.contains(folder.path().to_str().unwrap()), "{name}: {text}");
    }
    let text = refusal(WorkerProgram::at("no-such-program-anywhere"));
    assert!(text.contains("no folder of PATH has a program of the name no-such-program-anywhere"), "{text}");
}

/// The error was that /proc/self/exe could not be started.
fn a_directory_that_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write(&file, "", 0o644);
    for (directory, what) in
        [("/no/such/folder", "cannot be entered: No such file"), (file.to_str().unwrap(), "is none")]
    {
        let text = refusal(WorkerProgram::this().directory(directory));
        assert!(text.contains(&format!("the workers' directory {directory}")) && text.contains(what), "{text}");
    }
}

fn an_environment_that_is_too_long_is_named() {
    // The system takes 32 pages of one string at most.
    let text = refusal(WorkerProgram::this().environment("WORKRING_TEST_LONG", "x".repeat(1 << 20)));
    assert!(text.contains("arguments and environment together"), "{text}");
}

/// Whatever ended a worker before it was ready, the error was that its program must call `worker_entry`.
fn an_end_before_work_says_what_ended_it() {
    let said = [
        ("kill -SYS $$;", "a filter (seccomp) forbids a system call"),
        ("kill -SEGV $$;", "signal 11 (SIGSEGV) before it was ready"),
        ("exit 127;", "they find no such program"),
        ("exit 126;", "they cannot run the program"),
        ("exit 3;", "exit code 3 before it was ready: its program must call"),
        // Descriptors for what it is sent.
        ("ulimit -n 5;", "ulimit -n"),
    ];
    // A shell that waits for the worker instead of becoming it.
    let text = refusal(behind("\"$0\"; exit $?;"));
    assert!(text.contains("must become it (exec)"), "{text}");
    for (line, what) in said {
        let text = refusal(behind(line));
        let calls = text.contains("worker_entry");
        assert!(text.contains(what) && calls == what.contains("must call"), "{line} {text}");
    }
}
