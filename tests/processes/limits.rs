//! What an engine of processes refuses, and what workers may take of the machine.

use std::io::{BufRead, BufReader, Read};

use workring::{Backpressure, Engine, Error, kernels, process::WorkerProgram};

use crate::kernels::{affine, allocate, increment, look_around, talk};
use crate::support::{Checked, STEP, Tests, eventually, kill, start_role};

pub(crate) fn tests() -> Tests {
    vec![
        ("limits::a_program_without_the_entry_is_told", a_program_without_the_entry_is_told),
        ("limits::a_program_that_is_no_worker_is_an_error", a_program_that_is_no_worker_is_an_error),
        ("limits::a_program_that_is_not_there_is_an_error", a_program_that_is_not_there_is_an_error),
        ("limits::another_kernel_of_the_same_name_is_refused", another_kernel_of_the_same_name_is_refused),
        ("limits::no_kernels_and_private_memory_are_refused", no_kernels_and_private_memory_are_refused),
        ("limits::workers_live_where_and_how_they_are_told", workers_live_where_and_how_they_are_told),
        ("limits::what_workers_print_says_who_printed_it", what_workers_print_says_who_printed_it),
        ("limits::a_worker_over_its_memory_fails_its_job", a_worker_over_its_memory_fails_its_job),
        ("limits::workers_have_few_descriptors_open", workers_have_few_descriptors_open),
        (
            "limits::jobs_that_do_not_wait_fail_when_no_worker_can_be_started",
            jobs_that_do_not_wait_fail_when_no_worker_can_be_started,
        ),
        (
            "limits::building_and_dropping_leaves_no_descriptor_and_no_thread",
            building_and_dropping_leaves_no_descriptor_and_no_thread,
        ),
    ]
}

/// The role of a program whose main does not begin with `worker_entry`: its workers build engines as well.
pub(crate) fn forget_the_entry() {
    let built = Engine::builder().processes(1).kernels(kernels![affine]).worker_program(WorkerProgram::this()).build();
    match built {
        Ok(_) => println!("built"),
        Err(error) => println!("{error}"),
    }
}

fn a_program_without_the_entry_is_told() {
    // `/bin/true` stands for a program that knows nothing of workers.
    let built =
        Engine::builder().processes(1).kernels(kernels![affine]).worker_program(WorkerProgram::at("/bin/true")).build();
    let error = built.expect_err("it is no worker");
    let text = error.to_string();
    assert!(matches!(error, Error::WorkerStart { .. }) && text.contains("worker_entry"), "{text}");
    // A copy of this program in that role begins with the entry, so it builds.
    let output = start_role("forgetful").wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "built");
}

fn a_program_that_is_no_worker_is_an_error() {
    let program = WorkerProgram::at("/bin/sh").argument("-c").argument("exit 7");
    let error = Engine::builder().processes(2).kernels(kernels![affine]).worker_program(program).build().err().unwrap();
    assert!(error.to_string().contains("exit code 7"), "{error}");
}

fn a_program_that_is_not_there_is_an_error() {
    let program = WorkerProgram::at("/nowhere/at/all");
    let error = Engine::builder().processes(1).kernels(kernels![affine]).worker_program(program).build().err().unwrap();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

mod other {
    /// A kernel of the same name in another version.
    #[workring::kernel(version = 2, path = "processes::kernels::affine")]
    pub(super) fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
        let _ = (x, y, p);
    }
}

mod another {
    /// A kernel of the same name with other arguments.
    #[workring::kernel(path = "processes::kernels::affine")]
    pub(super) fn affine(x: &[f32], y: &mut [f64], p: &[f64; 2]) {
        let _ = (x, y, p);
    }
}

mod unknown {
    /// A kernel the workers do not have.
    #[workring::kernel]
    pub(super) fn unheard_of(y: &mut [f64]) {
        let _ = y;
    }

    /// Nor this one: what they have under this name is another kernel.
    #[workring::kernel]
    pub(super) fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
        let _ = (x, y, p);
    }
}

fn another_kernel_of_the_same_name_is_refused() {
    let build = |kernels: &[&'static workring::kernels::KernelInfo]| {
        Engine::builder().processes(1).kernels(kernels).build().expect_err("the worker refuses").to_string()
    };
    let text = build(kernels![other::affine]);
    assert!(text.contains("kernel processes::kernels::affine has version 2 in the engine and version 1"), "{text}");
    let text = build(kernels![another::affine]);
    assert!(text.contains("kernel processes::kernels::affine has other arguments"), "{text}");
    let text = build(kernels![unknown::unheard_of]);
    assert!(text.contains("does not list kernel processes::limits::unknown::unheard_of"), "{text}");
    // Two programs that have a kernel in their own `main.rs` meet this: the answer says what to do.
    let text = build(kernels![unknown::affine]);
    let wanted = "does not list kernel processes::limits::unknown::affine";
    let hint = "it lists processes::kernels::affine, workring::kernels::f64::affine. Two programs agree";
    assert!(text.contains(wanted) && text.contains(hint), "{text}");
}

fn no_kernels_and_private_memory_are_refused() {
    let error = Engine::builder().processes(1).build().err().unwrap();
    assert!(error.to_string().contains("Builder::kernels"), "{error}");
    let builder = Engine::builder().processes(1).kernels(kernels![affine]).backing(workring::batch::Backing::Anonymous);
    assert!(matches!(builder.build().err().unwrap(), Error::InvalidArgument { .. }));
    let error = Engine::builder().processes(300).kernels(kernels![affine]).build().err().unwrap();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

fn workers_live_where_and_how_they_are_told() {
    let program = WorkerProgram::this().environment("WORKRING_TEST", "said").directory("/").nice(7).cores([0]);
    let engine = Checked::with(1, |builder| builder.worker_program(program));
    let seen = engine.submit(look_around, engine.batch::<i64>(5).unwrap(), ()).unwrap().wait().unwrap();
    assert_eq!((seen[0], seen[1], seen[3], seen[4]), (7, 1, 1, 1), "nice, variable, folder, cores");
    let near = |node: &&workring::stats::MemoryNode| node.cores.contains(&0);
    let nodes = workring::stats::HostInfo::read().memory_nodes;
    assert_eq!(engine.workers()[0].memory_node, nodes.iter().find(near).map(|node| node.number));
}

/// The role of a program whose workers print.
pub(crate) fn let_workers_talk() {
    let builder = Engine::builder().processes(2).kernels(crate::kernels::ALL()).capacity(1 << 24);
    let engine = builder.worker_program(WorkerProgram::this().prefix_output()).build().unwrap();
    for turn in 0..10 {
        engine.submit(talk, engine.batch::<u64>(1).unwrap(), turn).unwrap().wait().unwrap();
    }
    engine.close(STEP).unwrap();
    // The threads that pass lines on end after the workers: the test kills this process when it has seen every line.
    loop {
        std::thread::park();
    }
}

fn what_workers_print_says_who_printed_it() {
    let mut role = start_role("talkative");
    let streams: [(Box<dyn Read>, &str); 2] =
        [(Box::new(role.stdout.take().unwrap()), "said"), (Box::new(role.stderr.take().unwrap()), "warned")];
    for (stream, word) in streams {
        let mut missing: Vec<String> = (0..10).map(|turn| format!("]: {word} {turn}")).collect();
        // Lines of different workers come in any order.
        for line in BufReader::new(stream).lines().map(Result::unwrap) {
            assert!(line.starts_with("worker "), "{line}");
            missing.retain(|ending| !line.ends_with(ending));
            if missing.is_empty() {
                break;
            }
        }
        assert!(missing.is_empty(), "these lines did not come: {missing:?}");
    }
    kill(role.id());
    role.wait().unwrap();
}

fn a_worker_over_its_memory_fails_its_job() {
    let program = WorkerProgram::this().memory_limit(64 << 20);
    let engine = Checked::with(1, |builder| builder.worker_program(program));
    let small = engine.submit(allocate, engine.batch::<u64>(1).unwrap(), 1 << 20).unwrap().wait().unwrap();
    assert_eq!(small[0], 1 << 20);
    let failed = engine.submit(allocate, engine.batch::<u64>(1).unwrap(), 1 << 30).unwrap().wait().unwrap_err();
    assert!(matches!(failed.error, Error::WorkerDied { .. }), "{}", failed.error);
    // A batch larger than the limit is no trouble: it is not the worker's own.
    let large = engine.submit(increment, engine.batch::<u64>(16 << 20).unwrap(), ()).unwrap().wait().unwrap();
    assert!(large.iter().all(|&value| value == 1));
}

/// Descriptors of the engine's process do not leak into its workers.
fn workers_have_few_descriptors_open() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let _noise: Vec<_> = (0..50).map(|_| std::fs::File::open(file.path()).unwrap()).collect();
    let program = WorkerProgram::this().environment("WORKRING_NOISE", file.path());
    let engine = Checked::with(2, |builder| builder.worker_program(program));
    let seen = engine.submit(look_around, engine.batch::<i64>(5).unwrap(), ()).unwrap().wait().unwrap();
    assert_eq!(seen[2], 0, "descriptors of the file are open in the worker");
}

fn jobs_that_do_not_wait_fail_when_no_worker_can_be_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker");
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    let engine = Checked::with(1, |builder| builder.worker_program(WorkerProgram::at(&path)));
    let away = folder.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    kill(engine.pids()[0]);
    eventually("there is a shortage", || engine.worker_shortage().is_some());
    let call = engine.job().backpressure(Backpressure::Reject);
    let failed = call.submit(increment, engine.batch::<u64>(1).unwrap(), ()).unwrap_err();
    let text = failed.error.to_string();
    assert!(matches!(failed.error, Error::NoWorkers { .. }), "{text}");
    assert!(text.contains("none can be started") && text.contains(path.to_str().unwrap()), "{text}");
    // The program comes back, as it does when somebody installs another build.
    let job = engine.submit(increment, failed.returned, ()).unwrap();
    std::fs::rename(&away, &path).unwrap();
    assert_eq!(*job.wait().unwrap(), [1]);
}

/// The role of a program that does nothing but build engines and drop them, so that nobody else opens descriptors.
pub(crate) fn build_and_drop() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    for _ in 0..10 {
        drop(Checked::new(2));
        // The supervisor's thread ends a moment after its engine is closed.
        eventually("all descriptors are closed", || count() == before);
    }
    // An engine that cannot listen has started its threads before it finds out.
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let taken = tempfile::NamedTempFile::new().unwrap();
    for _ in 0..10 {
        let builder = Engine::builder().threads(2).external_workers(1).listen(taken.path());
        let built = builder.capacity(1 << 20).kernels(crate::kernels::ALL()).build();
        assert!(matches!(built, Err(Error::InvalidArgument { .. })));
    }
    drop(taken);
    eventually("all threads have ended", || threads() <= before);
    println!("nothing left");
}

fn building_and_dropping_leaves_no_descriptor_and_no_thread() {
    let output = start_role("builder").wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), "nothing left", "{}", String::from_utf8_lossy(&output.stderr));
}
