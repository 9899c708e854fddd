//! Processes that die or stop at one chosen step, for every step that has a point, and engines that go on as if nothing had
//! been; and worker processes that are killed at random for as long as one likes.

mod arrays;
mod break_off;
mod deadlines;
mod flips;
mod load;
mod matrix;
mod messages;
mod mixed;
mod outside;
mod soak;
mod tasks;
mod together;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use workring::__private::fault::{self, POINTS, Point};
use workring::{Engine, IdleStrategy, process::WorkerProgram};

use crate::support::{eventually, go_on, is_alive};

pub(crate) use deadlines::{be_an_engine_at_a_moment, be_an_engine_with_deadlines, jobs_wanted};
pub(crate) use load::kernels;
pub(crate) use matrix::be_an_engine_with_fault;
pub(crate) use messages::listed;
pub(crate) use messages::talk_with_fault;
pub(crate) use soak::{be_a_soak, kills_wanted};

/// Milliseconds for which a stopped process stays so, unless `WORKRING_STOPPED` says another number.
const STOPPED: u64 = 300;

/// Rounds of the load within which a point must be reached.
const ROUNDS_MAX: usize = 100;

/// Which process passes a point, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// A worker, once, before it is ready.
    Attach,
    /// A worker, again and again.
    Work,
    /// A worker, after another one died.
    AfterDeath,
    /// A worker, once, when the engine closes.
    Close,
    /// The engine's process, again and again.
    Engine,
    /// The engine's process, after a worker died.
    EngineAfterDeath,
    /// The engine's process, when a kernel goes on after its deadline.
    Killing,
    /// A worker with a port, or the process at the other end, again and again.
    Messages,
}

/// Where each point is tested. There is no default: a new point has no row until it has one here.
fn place(point: Point) -> Place {
    match point {
        Point::F3_joined | Point::F4_received | Point::F4_mapped => Place::Attach,
        Point::F4_ready => Place::Attach,
        Point::F10_found | Point::F10_pending | Point::F11_called => Place::Work,
        Point::F12_parked | Point::F13_rechecked | Point::F15_woken => Place::Work,
        Point::F15_retired => Place::Close,
        Point::F16_cell_read | Point::F17_claimed | Point::F18_cell_cleared | Point::F18_taken => Place::Work,
        Point::F19_bit_read | Point::F19_claimed | Point::F19_cleared | Point::F19_scanned => Place::AfterDeath,
        Point::F20_computing | Point::F21_half_written => Place::Work,
        Point::F22_status_written | Point::F23_done => Place::Work,
        Point::F24_port_bit | Point::F24_port_notified | Point::F24_waiter_notified => Place::Work,
        Point::F25_collector_bit | Point::F25_collector_notified => Place::Work,
        Point::F35_asked => Place::Work,
        Point::F37_announced | Point::F38_taken | Point::F39_stolen | Point::F40_refilled => Place::Work,
        Point::F41_run | Point::F42_counted => Place::Work,
        Point::F5_reserved | Point::F6_filled | Point::F7_queued | Point::F8_cell_filled => Place::Engine,
        Point::F9_pushed | Point::F26_collected | Point::F27_read => Place::Engine,
        Point::F29_dead_stored | Point::F30_requeued | Point::F30_bit_set => Place::EngineAfterDeath,
        Point::F43_due | Point::F44_paused | Point::F45_killed => Place::Killing,
        Point::F46_message_written | Point::F47_message_posted | Point::F48_bell_answered => Place::Messages,
        Point::F49_message_read | Point::F50_message_taken | Point::F51_bell_announced => Place::Messages,
        Point::F52_bell_heard | Point::F53_loan_dropped => Place::Messages,
        Point::F31_mid_table | Point::F32_swept | Point::F33_reaped => Place::EngineAfterDeath,
    }
}

/// Tests of this folder: name and test.
type Tests = Vec<(String, Box<dyn FnOnce() + Send>)>;

/// The tests of each point, and those of particular moments.
pub(crate) fn tests() -> Tests {
    let mut tests: Tests = Vec::new();
    for &point in POINTS {
        let name = fault::name(point);
        tests.push((format!("faults::{name}"), Box::new(move || matrix::test_point(point))));
        if mixed::is_passed(point) {
            tests.push((format!("faults::mixed::{name}"), Box::new(move || mixed::test_point(point))));
        }
        if outside::is_passed(point) {
            tests.push((format!("faults::outside::{name}"), Box::new(move || outside::test_point(point))));
        }
        if together::is_passed(point) {
            tests.push((format!("faults::together::{name}"), Box::new(move || together::test_point(point))));
        }
    }
    let mut more = |name: &str, test: fn()| tests.push((format!("faults::{name}"), Box::new(test)));
    more("F14_asleep", matrix::workers_are_replaced_in_their_sleep);
    more("old_entries_lead_no_worker_to_closures", mixed::old_entries_lead_no_worker_to_closures);
    more("mixed::rows_are_computed_or_their_job_fails", mixed::rows_are_computed_or_their_job_fails);
    more(
        "mixed::rows_that_were_lost_are_computed_though_another_worker_dies",
        mixed::rows_that_were_lost_are_computed_though_another_worker_dies,
    );
    break_off::tests().into_iter().for_each(|(name, test)| more(name, test));
    arrays::tests().into_iter().for_each(|(name, test)| more(name, test));
    tasks::tests().into_iter().for_each(|(name, test)| more(name, test));
    deadlines::tests().into_iter().for_each(|(name, test)| more(name, test));
    more("flipped_bits_of_an_engine_of_threads", flips::flipped_bits_of_an_engine_of_threads);
    more("flipped_bits_of_an_engine_of_processes", flips::flipped_bits_of_an_engine_of_processes);
    more("flipped_bits_of_a_mixed_engine", flips::flipped_bits_of_a_mixed_engine);
    more("bits_that_say_who_sleeps_of_an_engine_of_processes", flips::bits_that_say_who_sleeps_of_processes);
    more("bits_that_say_who_sleeps_of_a_mixed_engine", flips::bits_that_say_who_sleeps_of_a_mixed_engine);
    more("damaged_headers_keep_no_replacement_out", flips::damaged_headers_keep_no_replacement_out);
    more("flipped_bits_of_a_channel", messages::flipped_bits_of_a_channel);
    more("soak", soak::soak);
    tests
}

/// A number from the environment, by which a run can be made longer than in the checks.
fn wanted<T: std::str::FromStr>(variable: &str, usual: T) -> T {
    let Ok(text) = std::env::var(variable) else { return usual };
    text.parse().unwrap_or_else(|_| panic!("{variable} is not a number"))
}

/// The file that gives one process the right to fall, in a folder of its own.
struct Mark {
    folder: tempfile::TempDir,
}

impl Mark {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mark")
    }

    fn arm(&self) {
        std::fs::write(self.path(), "").unwrap();
    }

    /// Forgets the fallen processes, and takes the right to fall away.
    fn clear(&self) {
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
    }

    /// What arms a process for a point.
    fn variables(&self, point: Point, hit: u32, what: &str) -> [(&'static str, OsString); 2] {
        let told = format!("{}:{hit}:{what}", fault::name(point));
        [("WORKRING_FAULT", told.into()), ("WORKRING_FAULT_MARK", self.path().into())]
    }

    /// The program of workers that are armed for a point.
    fn program(&self, program: WorkerProgram, point: Point, hit: u32, what: &str) -> WorkerProgram {
        self.variables(point, hit, what)
            .into_iter()
            .fold(program, |program, (name, value)| program.environment(name, value))
    }

    /// Waits until a process has stopped at a point, and says which.
    fn stopped(&self) -> u32 {
        eventually("the point is reached", || self.fallen().is_some());
        let pid = self.fallen().expect("a process that fell stays so");
        eventually("the process has stopped", || state_of(pid) == Some('T'));
        pid
    }

    /// The process that fell, if one did.
    fn fallen(&self) -> Option<u32> {
        fallen(self.folder.path())
    }
}

fn fallen(folder: &Path) -> Option<u32> {
    let mut names = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    names.find_map(|path| path.extension()?.to_str()?.parse().ok())
}

/// Lets the process that stops at a point go on after a while.
struct Reviver {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reviver {
    fn new(mark: &Mark) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (enough, folder) = (Arc::clone(&over), mark.folder.path().to_owned());
        let thread = thread::spawn(move || {
            loop {
                // Read first: the thread that says that it is over may have seen the process fall only just now.
                let is_over = enough.load(Ordering::Acquire);
                if let Some(pid) = fallen(&folder) {
                    // It may also have been killed by the test meanwhile.
                    eventually("the process has stopped", || state_of(pid).is_none_or(|state| "TZX".contains(state)));
                    thread::sleep(Duration::from_millis(wanted("WORKRING_STOPPED", STOPPED)));
                    if is_alive(pid) {
                        go_on(pid);
                    }
                    return;
                }
                if is_over {
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Reviver {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the stopped process could not go on");
    }
}

/// The letter of proc_pid_stat(5), if the process exists.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// How the workers of an engine idle in which only the one of the last row falls.
fn idle_for(point: Point) -> IdleStrategy {
    match point {
        // It wakes another one only if it was awake itself when jobs came: else their submitter has woken both.
        Point::F10_pending | Point::F11_called => IdleStrategy::Spin(Duration::from_micros(200)),
        // Workers that park at once pass the points of sleeping and waking often.
        _ => IdleStrategy::Park,
    }
}

/// Workers that died and were replaced.
fn deaths(engine: &Engine) -> u32 {
    engine.workers().iter().map(|worker| worker.replaced).sum()
}
