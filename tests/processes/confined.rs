//! Where the system refuses memory that processes can share: engines of threads run there, and others say what they lack.

use std::collections::BTreeMap;

use nix::libc;
use rustix::process::Resource;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use workring::{Engine, Error, SharedArray, batch::Backing};

use crate::kernels::{affine, increment, sum};
use crate::parts::*;

parts! {
    "confined":
    engines_of_threads_run_where_memory_files_are_forbidden below [];
    engines_of_threads_run_where_no_file_may_have_a_byte below [];
}

/// Has the system refuse memory files to this thread and those that it starts.
fn forbid_memory_files() {
    let rules = BTreeMap::from([(libc::SYS_memfd_create, Vec::new())]);
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let machine = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, machine).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
}

/// Every kind of call on threads, and the errors of what needs processes.
fn run_on_threads(cause: &str) {
    let before = open_descriptors();
    let engine = Engine::builder().threads(2).kernels(crate::kernels::ALL()).build().unwrap();
    let x = engine.batch_from_fn(100_000, |i| i as f64).unwrap();
    let mut y = engine.batch::<f64>(x.len()).unwrap();
    engine.map(affine, &x, &mut y, &[2.0, 1.0]).unwrap();
    assert!(y.iter().zip(&*x).all(|(y, x)| *y == 2.0 * x + 1.0));
    assert_eq!(engine.reduce(sum, &x).unwrap(), 4_999_950_000.0);
    assert_eq!(engine.run(|| 6 * 7).unwrap().wait().unwrap(), 42);
    assert_eq!(*engine.submit(increment, engine.batch::<u64>(2).unwrap(), ()).unwrap().wait().unwrap(), [1, 1]);
    let array = SharedArray::<i32>::new(10).unwrap();
    assert_eq!(array.fetch_add(3, 5).unwrap(), 0);
    assert_eq!(array.load(3).unwrap(), 5);
    // Threads know the array by its handle; no process could be given it.
    let handle = engine.share(&array).unwrap();
    drop((x, y, handle, array));
    close(engine, before);
    let builder = Engine::builder().threads(1).capacity(1 << 20).kernels(crate::kernels::ALL());
    for builder in [builder.clone().backing(Backing::SharedMemory), builder.processes(1)] {
        let error = builder.build().unwrap_err();
        let text = told(&error);
        assert!(matches!(error, Error::Io { .. }), "{text}");
        assert!(text.contains("memory that worker processes can share") && text.contains(cause), "{text}");
        nothing_is_left(before);
    }
}

/// Nothing ran there, though threads share no memory with anybody.
fn engines_of_threads_run_where_memory_files_are_forbidden() {
    forbid_memory_files();
    run_on_threads("memfd_create");
}

fn engines_of_threads_run_where_no_file_may_have_a_byte() {
    let limited = Limited::to(Resource::Fsize, 0);
    run_on_threads("ulimit -f");
    // An array of that time stays this process's own.
    let array = SharedArray::<i32>::new(10).unwrap();
    drop(limited);
    let before = open_descriptors();
    let engine = build().unwrap();
    let error = engine.share(&array).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }) && told(&error).contains("memfd_create"), "{}", told(&error));
    engine.share(&SharedArray::<i32>::new(10).unwrap()).unwrap();
    close(engine, before);
}
