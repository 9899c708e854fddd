//! How many worker processes there are, and when they are replaced although nothing is wrong with them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use workring::{Context, Error, Retry, kernel, kernels, kernels::KernelInfo};

use crate::kernels::{patient, process_id, slow_process_id};
use crate::support::{Checked, STEP, Tests, eventually, kill};

/// Writes a file when it is dropped.
struct Note(std::path::PathBuf);

impl Drop for Note {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, std::process::id().to_string());
    }
}

/// Leaks so many bytes and says in which process.
#[kernel]
fn leak(y: &mut [u32], bytes: &u64) {
    std::mem::forget(vec![1_u8; *bytes as usize]);
    y.fill(std::process::id());
}

/// Counts the calls of its worker.
#[kernel]
fn count(y: &mut [u64], ctx: &mut Context) {
    let calls = ctx.state(|| AtomicU64::new(0));
    y.fill(calls.fetch_add(1, Ordering::Relaxed) + 1);
}

/// Leaves a note in the file of the descriptor when the worker ends.
#[kernel]
fn leave_note(y: &mut [u64], ctx: &mut Context) {
    let path = std::env::var_os("WORKRING_NOTE").unwrap_or_default();
    ctx.state(|| Note(path.into()));
    y.fill(1);
}

pub(crate) fn listed() -> Vec<&'static KernelInfo> {
    kernels![leak, count, leave_note].to_vec()
}

pub(crate) fn tests() -> Tests {
    vec![
        ("crew::processes_come_when_all_are_busy_and_go_when_idle", processes_come_when_all_are_busy_and_go_when_idle),
        ("crew::no_job_is_left_lying_while_processes_come_and_go", no_job_is_left_lying_while_processes_come_and_go),
        ("crew::a_process_is_replaced_after_so_many_jobs", a_process_is_replaced_after_so_many_jobs),
        ("crew::a_process_that_leaks_is_replaced", a_process_that_leaks_is_replaced),
        ("crew::what_a_process_keeps_is_dropped_at_its_end", what_a_process_keeps_is_dropped_at_its_end),
        ("crew::a_death_beyond_the_least_number_is_replaced_when_needed", a_death_is_replaced_when_needed),
    ]
}

fn processes_come_when_all_are_busy_and_go_when_idle() {
    let engine = Checked::with(3, |builder| builder.min_processes(1).idle_timeout(Duration::from_millis(50)));
    assert_eq!(engine.pids().len(), 1);
    for _ in 0..2 {
        let jobs: Vec<_> =
            (0..3).map(|_| engine.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap()).collect();
        eventually("all three are there", || engine.pids().len() == 3);
        // They go on until they are told to stop.
        for job in jobs {
            job.cancel();
            assert!(matches!(job.wait().unwrap_err().error, Error::Cancelled));
        }
        eventually("two of three go", || engine.pids().len() == 1);
    }
}

fn no_job_is_left_lying_while_processes_come_and_go() {
    let engine = Checked::with(3, |builder| builder.min_processes(1).idle_timeout(Duration::from_millis(1)));
    for turn in 0..60_u64 {
        let jobs: Vec<_> = (0..turn % 7 + 1)
            .map(|_| engine.submit(slow_process_id, engine.batch::<u32>(1).unwrap(), ()).unwrap())
            .collect();
        jobs.into_iter().for_each(|job| assert!(job.wait().unwrap()[0] > 0));
        match turn % 4 {
            // Submitted just as some go.
            0 => eventually("some go", || engine.pids().len() < 3),
            1 => eventually("all that may go", || engine.pids().len() == 1),
            _ => {}
        }
    }
    eventually("they go", || engine.pids().len() == 1);
}

fn a_process_is_replaced_after_so_many_jobs() {
    let engine = Checked::with(1, |builder| builder.recycle_after(5));
    let mut pids = HashSet::new();
    for round in 0..4 {
        // The states of kernels go with their process.
        for call in 1..=4 {
            let job = engine.submit(count, engine.batch::<u64>(1).unwrap(), ()).unwrap();
            assert_eq!(job.wait().unwrap()[..], [call]);
        }
        let job = engine.submit(process_id, engine.batch::<u32>(1).unwrap(), ()).unwrap();
        assert!(pids.insert(job.wait().unwrap()[0]), "round {round}: the same process again");
    }
    // Without a pause for anybody, and nothing is lost, nor retried.
    let jobs: Vec<_> = (0..200)
        .map(|_| engine.job().retry(Retry::never()).submit(process_id, engine.batch::<u32>(1).unwrap(), ()).unwrap())
        .collect();
    let mut runs: Vec<u32> = jobs.into_iter().map(|job| job.wait().unwrap()[0]).collect();
    runs.dedup();
    assert_eq!(runs.len(), 40);
}

fn a_process_that_leaks_is_replaced() {
    const LEAK: u64 = 16 << 20;
    let engine = Checked::with(1, |builder| builder.recycle_above(4 * LEAK));
    let pid_after = |bytes| engine.submit(leak, engine.batch::<u32>(1).unwrap(), bytes).unwrap().wait().unwrap()[0];
    let pids: Vec<u32> = (0..20).map(|_| pid_after(LEAK)).collect();
    let distinct = pids.iter().collect::<HashSet<_>>().len();
    assert!((4..=10).contains(&distinct), "{pids:?}");
    // Shared memory does not count.
    let mut batch = engine.batch::<u32>((8 * LEAK / 4) as usize).unwrap();
    let before = pid_after(1);
    for _ in 0..3 {
        batch = engine.submit(process_id, batch, ()).unwrap().wait().unwrap();
        assert_eq!(batch[0], before);
    }
}

fn what_a_process_keeps_is_dropped_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("note");
    let program = workring::process::WorkerProgram::this().environment("WORKRING_NOTE", &path);
    let engine = Checked::with(1, |builder| builder.worker_program(program).recycle_after(2));
    let pid = engine.pids()[0];
    for _ in 0..2 {
        engine.submit(leave_note, engine.batch::<u64>(1).unwrap(), ()).unwrap().wait().unwrap();
    }
    let noted = || std::fs::read_to_string(&path).ok().and_then(|text| text.parse::<u32>().ok());
    eventually("the first one left a note", || noted() == Some(pid));
    eventually("it was replaced", || engine.pids().first().is_some_and(|&new| new != pid));
    let pid = engine.pids()[0];
    engine.submit(leave_note, engine.batch::<u64>(1).unwrap(), ()).unwrap().wait().unwrap();
    engine.close(STEP).unwrap();
    assert_eq!(noted(), Some(pid), "closing waits for it");
}

fn a_death_is_replaced_when_needed() {
    let engine = Checked::with(2, |builder| builder.min_processes(1).idle_timeout(STEP));
    kill(engine.pids()[0]);
    let job = engine.job().retry(Retry::up_to(1)).submit(process_id, engine.batch::<u32>(1).unwrap(), ()).unwrap();
    assert!(job.wait().unwrap()[0] > 0);
    eventually("there is one again", || !engine.pids().is_empty());
}
