//! Engines of processes whose arena is checked at the end, a watchdog, killing by process id, roles for copies of the program.

use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use workring::{Batch, Builder, Engine, Error, Failed, JobBuilder};

/// How long a test may take before it counts as hanging: longer than the slowest machine needs while others keep it busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(3600);
/// How long one step of a test may take.
pub(crate) const STEP: Duration = Duration::from_secs(1800);
/// Names the role a copy of this program plays.
const ROLE: &str = "WORKRING_TEST_ROLE";

pub(crate) type Tests = Vec<(&'static str, fn())>;

/// The limit of this run: the soak, or the jobs with deadlines, may have been asked to take longer.
fn limit() -> Duration {
    #[cfg(feature = "fault")]
    return LIMIT
        + Duration::from_millis(500) * crate::faults::kills_wanted()
        + Duration::from_millis(10) * crate::faults::jobs_wanted();
    #[cfg(not(feature = "fault"))]
    LIMIT
}

/// Runs a test on a thread of its own; a hang is a failure.
pub(crate) fn watched(test: Box<dyn FnOnce() + Send>) {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        let _ = sender.send(result);
    });
    let limit = limit();
    match receiver.recv_timeout(limit) {
        Ok(Ok(())) => {}
        Ok(Err(payload)) => std::panic::resume_unwind(payload),
        Err(RecvTimeoutError::Timeout) => panic!("the test hangs: it is not over after {limit:?}"),
        Err(RecvTimeoutError::Disconnected) => panic!("the test's thread ended without a result"),
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < STEP, "{what}: not so after {STEP:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An engine that is closed at the end of its test; nothing may be left in its arena, none of its workers may live on, and no
/// wait may have ended only because it was bounded.
pub(crate) struct Checked(Engine);

impl Checked {
    pub(crate) fn new(processes: usize) -> Self {
        Self::with(processes, |builder| builder)
    }

    pub(crate) fn with(processes: usize, say: impl FnOnce(Builder) -> Builder) -> Self {
        let builder = Engine::builder().processes(processes).kernels(crate::kernels::ALL()).capacity(1 << 30);
        Self(say(builder).build().expect("an engine of processes can be built"))
    }

    /// Process ids of the engine's own workers that live.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.workers()
            .iter()
            .filter(|worker| worker.is_process && !worker.is_external && worker.is_alive)
            .map(|worker| worker.pid)
            .collect()
    }
}

impl Deref for Checked {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.0
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let pids = self.pids();
        self.0.close(STEP).expect("the engine closes");
        let statistics = self.0.statistics();
        assert_eq!(statistics.arena.in_use, 0, "bytes are left in the arena");
        assert_eq!(statistics.missed_wakeups, 0, "waits ended only because they were bounded");
        for pid in pids {
            assert!(!is_alive(pid), "worker process {pid} outlived its engine");
        }
    }
}

/// Has a kernel hang until its deadline has ended it with its process, and gives what its caller hears. On a busy machine the kernel may
/// not have begun by then; the job is then handed over again, with more time.
pub(crate) fn hang_until_killed(
    engine: &Engine,
    hand_over: impl Fn(JobBuilder<'_>, Batch<u32>) -> Failed<Batch<u32>>,
) -> Error {
    let mut limit = Duration::from_millis(20);
    loop {
        let failed = hand_over(engine.job().deadline(limit), engine.batch(1).expect("there is room"));
        // The kernel writes that before it hangs.
        if failed.returned[0] == 1 || limit > STEP {
            return failed.error;
        }
        limit *= 2;
    }
}

/// As [`hang_until_killed`], for a thread that waits.
pub(crate) fn hang(engine: &Engine) -> Error {
    hang_until_killed(engine, |call, batch| {
        call.submit(crate::kernels::hang, batch, ()).expect("there is room").wait().expect_err("it hangs")
    })
}

/// Whether a process is there and not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

fn signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, signal).is_ok()
}

/// Kills a process of this test.
pub(crate) fn kill(pid: u32) -> bool {
    signal(pid, Signal::KILL)
}

/// Stops a process of this test.
pub(crate) fn stop(pid: u32) {
    assert!(signal(pid, Signal::STOP));
}

/// Lets a stopped process go on.
pub(crate) fn go_on(pid: u32) {
    assert!(signal(pid, Signal::CONT));
}

/// Has `command`, which starts a copy of this program, give it a role.
pub(crate) fn in_role(mut command: Command, role: &str) -> Command {
    command.env(ROLE, role).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What starts a copy of this program in a role, without input and with its output piped.
pub(crate) fn role_command(role: &str) -> Command {
    in_role(Command::new(std::env::current_exe().expect("this program has a path")), role)
}

/// Starts a copy of this program in a role.
pub(crate) fn start_role(role: &str) -> Child {
    role_command(role).spawn().expect("a copy of this program starts")
}

/// Plays a role if this copy of the program was started in one, and ends.
pub(crate) fn play_a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.as_str() {
        "engine" => crate::deaths::be_an_engine(),
        "listening engine" => crate::outside::be_a_listening_engine(),
        role if role.starts_with("outsider ") => crate::outside::be_an_outsider(&role["outsider ".len()..]),
        "family" => crate::descendants::be_an_engine_with_a_family(),
        "builder" => crate::limits::build_and_drop(),
        "talkative" => crate::limits::let_workers_talk(),
        "forgetful" => crate::limits::forget_the_entry(),
        "frugal" => crate::workers::count_what_workers_cost(),
        "forking" => crate::workers::fork_with_workers(),
        "crowded" => crate::workers::run_out_of_descriptors(),
        role if role.starts_with("part ") => crate::parts::play(&role["part ".len()..]),
        #[cfg(feature = "fault")]
        "soak" => crate::faults::be_a_soak(),
        #[cfg(feature = "fault")]
        role if role.starts_with("engine_with_fault ") => {
            crate::faults::be_an_engine_with_fault(&role["engine_with_fault ".len()..]);
        }
        #[cfg(feature = "fault")]
        role if role.starts_with("talk_with_fault ") => {
            crate::faults::talk_with_fault(&role["talk_with_fault ".len()..])
        }
        #[cfg(feature = "fault")]
        role if role.starts_with("engine_with_deadlines ") => {
            crate::faults::be_an_engine_with_deadlines(&role["engine_with_deadlines ".len()..]);
        }
        #[cfg(feature = "fault")]
        role if role.starts_with("engine_at_a_moment ") => {
            crate::faults::be_an_engine_at_a_moment(&role["engine_at_a_moment ".len()..]);
        }
        other => panic!("no role {other}"),
    }
    std::process::exit(0);
}
