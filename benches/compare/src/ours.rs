//! Engines, as users build them.

use std::time::Duration;

use workring::{Builder, Engine, kernel, kernels, kernels::KernelInfo, process::WorkerProgram};

use crate::place::Pair;
use crate::questions::{demo, npb, prk};

/// One addition.
#[kernel]
pub fn tiny(y: &mut [u64], p: &u64) {
    y[0] = p + 1;
}

/// Nothing.
#[kernel]
pub fn untouched(y: &mut [u64]) {
    let _ = y;
}

/// About so many tenths of a millisecond of computing, one at least.
#[kernel]
pub fn computing(y: &mut [u64], p: &u64) {
    y[0] = (0..(*p).max(1)).fold(0, |sum, _| sum ^ crate::work::compute()) | 1;
}

/// y[i] = 2 y[i] + 1, in place
#[kernel]
pub fn double(y: &mut [f64]) {
    crate::work::double(y);
}

/// What every worker process of this program knows.
pub fn known() -> Vec<&'static KernelInfo> {
    [
        kernels![tiny, double, untouched, computing].to_vec(),
        crate::kernels::known(),
        crate::questions::irregular::known(),
        npb::known(),
        prk::known(),
        demo::known(),
    ]
    .concat()
}

/// An engine of one worker thread, in its place.
pub fn one_thread(builder: Builder, pair: Pair) -> Engine {
    let engine = builder.threads(1).build().expect("an engine of threads");
    let pinned = engine.run(move || pair.pin_worker()).expect("an idle engine takes a job");
    // Waiting for it could run it here.
    while !pinned.is_finished() {
        std::thread::sleep(Duration::from_micros(50));
    }
    engine
}

/// An engine of one worker process, in its place.
pub fn one_process(builder: Builder, pair: Pair) -> Engine {
    let program = WorkerProgram::this().cores([pair.worker]);
    builder.processes(1).kernels(&known()).worker_program(program).build().expect("an engine of processes")
}

/// Its workers are gone afterwards.
pub fn close(engine: Engine) {
    engine.close(Duration::from_secs(60)).expect("the workers end");
}
