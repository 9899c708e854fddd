//! Pools of Node.js and of Python: a script for each, started once for a sample, which measures its own turns.
//!
//! What a script is asked, and how it answers, is written at the top of `node/asking.js` and of `python/asking.py`.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use serde_json::Value;

use crate::measure::Sample;
use crate::pace::Pace;
use crate::place::Pair;

/// A sample takes no longer.
const LIMIT: Duration = Duration::from_secs(120);

/// A file of the folder of its interpreter, and the way it hands over.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    interpreter: Interpreter,
    file: &'static str,
    how: &'static str,
    /// Part of a quick run, too: all of them together would take longer than one may.
    is_quick: bool,
}

#[derive(Clone, Copy, Debug)]
enum Interpreter {
    Node,
    Python,
}

impl Script {
    const fn node(file: &'static str, how: &'static str) -> Self {
        Self { interpreter: Interpreter::Node, file, how, is_quick: false }
    }

    const fn python(file: &'static str, how: &'static str) -> Self {
        Self { interpreter: Interpreter::Python, file, how, is_quick: false }
    }

    /// Whether values stay where they are, and are not sent.
    pub fn shares_memory(self) -> bool {
        self.how == "shared"
    }

    const fn also_quick(self) -> Self {
        Self { is_quick: true, ..self }
    }
}

pub const NODE_CLONE: Script = Script::node("worker_threads.js", "clone").also_quick();
pub const NODE_TRANSFER: Script = Script::node("worker_threads.js", "transfer");
pub const NODE_SHARED: Script = Script::node("worker_threads.js", "shared").also_quick();
pub const NODE_FORK: Script = Script::node("fork.js", "advanced");
pub const PISCINA_TRANSFER: Script = Script::node("piscina.js", "transfer");
pub const PISCINA_SHARED: Script = Script::node("piscina.js", "shared");
pub const WORKERPOOL_THREAD: Script = Script::node("workerpool.js", "thread");
pub const WORKERPOOL_PROCESS: Script = Script::node("workerpool.js", "process");
pub const PYTHON_POOL: Script = Script::python("pool.py", "pickle").also_quick();
pub const PYTHON_SHARED: Script = Script::python("shared_memory.py", "shared");

/// What a script is asked.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// Microseconds for a batch there and back.
    HandOver { len: usize, turns: usize },
    /// Nanoseconds for a number there and back.
    RoundTrip(Pace),
    /// Millions of jobs a second, by one submitter.
    TinyJobs { jobs: usize, workers: usize, window: usize },
}

impl Ask {
    fn arguments(self) -> Vec<String> {
        let (question, numbers) = match self {
            Self::HandOver { len, turns } => ("hand_over", vec![len, turns]),
            // A trip takes many times as long as those of the others: a tenth of them is as much time.
            Self::RoundTrip(Pace::BackToBack(trips)) => ("round_trip", vec![trips / 10 + 1, 0]),
            Self::RoundTrip(Pace::AfterWork { trips, work }) => ("round_trip", vec![trips, work.as_micros() as usize]),
            Self::TinyJobs { jobs, workers, window } => ("tiny_jobs", vec![jobs, workers, window]),
        };
        core::iter::once(question.to_owned()).chain(numbers.iter().map(usize::to_string)).collect()
    }
}

/// Those of some named scripts that belong to a run.
pub fn of_run<'a>(
    is_quick: bool,
    scripts: &'a [(&'static str, Script)],
) -> impl Iterator<Item = (&'static str, Script)> + 'a {
    scripts.iter().copied().filter(move |(_, script)| script.is_quick || !is_quick)
}

/// One sample. Caller and worker are put in their places, if there are any.
pub fn sample(script: Script, ask: Ask, pair: Option<Pair>, is_quick: bool) -> Sample {
    // Compilers of the interpreters compile what has run for a while.
    let warm_up = if is_quick { 0 } else { 300 };
    let (program, folder, missing) = match script.interpreter {
        Interpreter::Node => ("node", "node", "node is not installed"),
        Interpreter::Python => ("python3", "python", "python3 is not installed"),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(script.file);
    let mut command = Command::new(program);
    command.arg(path).arg(script.how).arg(warm_up.to_string()).args(ask.arguments());
    // Python would leave compiled files beside its scripts.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    run(command, LIMIT, pair).map_err(|failure| match failure {
        Failure::NoProgram => missing.to_owned(),
        Failure::Reason(reason) => reason,
    })
}

/// Why there is no figure.
#[derive(PartialEq, Eq, Debug)]
enum Failure {
    NoProgram,
    Reason(String),
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

/// What comes out of a script.
enum Line {
    Output(String),
    Error(String),
}

/// A started script; ended when it is dropped, if it has not.
struct Running {
    child: Child,
    limit: Duration,
    end: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Without effect on one that has been waited for. Its workers end when the channels to it do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn is_late(&self) -> Failure {
        Failure::Reason(format!("no answer within {} s", self.limit.as_secs_f64()))
    }

    /// What it ends with, after it has closed its output.
    fn wait(&mut self) -> Result<ExitStatus, Failure> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() >= self.end => return Err(self.is_late()),
                // The standard library has no wait with a limit; the figures are in by then.
                Ok(None) => thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(error.to_string().into()),
            }
        }
    }
}

fn run(mut command: Command, limit: Duration, pair: Option<Pair>) -> Result<f64, Failure> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::NoProgram,
        _ => Failure::Reason(error.to_string()),
    })?;
    let mut running = Running { child, limit, end: Instant::now() + limit };
    let (send, lines) = mpsc::channel();
    pass_on(running.child.stdout.take().expect("piped"), send.clone(), Line::Output);
    pass_on(running.child.stderr.take().expect("piped"), send, Line::Error);
    let input = running.child.stdin.take().expect("piped");
    let (answer, last_error) = listen(&running, &lines, input, pair)?;
    let status = running.wait()?;
    match answer {
        Some(sample) if status.success() => sample.map_err(Failure::Reason),
        _ if last_error.is_empty() => Err(format!("no answer; it ended with {status}").into()),
        _ => Err(format!("{last_error} ({status})").into()),
    }
}

/// Reads to the end, in a thread: what a script started may hold its output open after its end, and is not waited for.
fn pass_on(from: impl std::io::Read + Send + 'static, to: Sender<Line>, as_line: fn(String) -> Line) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(as_line(line)).is_err() {
                break;
            }
        }
    });
}

/// The answer, if there was one, and the most telling line of errors; when the script has closed its outputs.
fn listen(
    running: &Running,
    lines: &Receiver<Line>,
    mut input: ChildStdin,
    pair: Option<Pair>,
) -> Result<(Option<Sample>, String), Failure> {
    let (mut answer, mut error) = (None, String::new());
    loop {
        match lines.recv_timeout(running.end.saturating_duration_since(Instant::now())) {
            Ok(Line::Output(line)) => {
                let said: Value = serde_json::from_str(&line).map_err(|_| format!("not an answer: {line}"))?;
                if let Some(threads) = said.get("threads") {
                    if let Some(pair) = pair {
                        put_in_place(threads, pair)?;
                    }
                    // One that has just failed reads no more; its errors tell why.
                    let _ = input.write_all(b"\n");
                } else if let Some(reason) = said.get("skipped").and_then(Value::as_str) {
                    answer = Some(Err(reason.to_owned()));
                } else if let Some(value) = said.get("value").and_then(Value::as_f64) {
                    answer = Some(Ok(value));
                } else {
                    return Err(format!("not an answer: {line}").into());
                }
            }
            // The line with the name of the error: its last one in Python, somewhere among others in Node.js.
            Ok(Line::Error(line)) if line.contains("Error: ") || error.is_empty() => error = line.trim().to_owned(),
            Ok(Line::Error(_)) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok((answer, error)),
            Err(RecvTimeoutError::Timeout) => return Err(running.is_late()),
        }
    }
}

fn put_in_place(threads: &Value, pair: Pair) -> Result<(), Failure> {
    for (who, core) in [("caller", pair.caller), ("workers", pair.worker)] {
        let ids = threads.get(who).and_then(Value::as_array).filter(|ids| !ids.is_empty());
        for id in ids.ok_or_else(|| format!("no threads of {who}: {threads}"))? {
            let id = id.as_i64().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            let id = id.ok_or_else(|| format!("not a thread: {threads}"))?;
            let mut set = CpuSet::new();
            set.set(core);
            sched_setaffinity(Some(id), &set)
                .map_err(|error| format!("a thread could not be put in its place: {error}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<f64, Failure> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, limit, None)
    }

    fn reason(script: &str) -> String {
        match shell(script, Duration::from_secs(60)) {
            Err(Failure::Reason(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_counts_only_with_a_good_end() {
        assert_eq!(shell(r#"echo '{"value": 1.5}'"#, Duration::from_secs(60)), Ok(1.5));
        assert!(reason(r#"echo '{"value": 1.5}'; exit 3"#).contains('3'));
        assert!(reason(r#"echo '{"value": 1.5}'; kill -9 $$"#).contains('9'));
        assert!(reason("true").contains("no answer"));
    }

    #[test]
    fn reasons_and_errors_are_passed_on() {
        assert_eq!(reason(r#"echo '{"skipped": "no time"}'"#), "no time");
        assert_eq!(reason("echo hello"), "not an answer: hello");
        assert_eq!(reason(r#"echo '{"other": 1}'"#), r#"not an answer: {"other": 1}"#);
        let said = reason("{ echo first; echo 'Error: wrong result: 1 for 2'; echo '    at there'; } >&2; exit 1");
        assert!(said.starts_with("Error: wrong result: 1 for 2 ("), "{said}");
    }

    #[test]
    fn who_asks_for_places_gets_an_answer() {
        let script = r#"echo '{"threads": {}}'; read line && echo '{"value": 2}'"#;
        assert_eq!(shell(script, Duration::from_secs(60)), Ok(2.0));
    }

    #[test]
    fn threads_are_put_in_place_or_refused() {
        let Some(pair) = Pair::split() else { return };
        let script = r#"echo "{\"threads\": {\"caller\": [$$], \"workers\": [$$]}}"; read line
            echo "{\"value\": $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/$$/status)}""#;
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        // The worker's place comes last; a core of zero is a figure here.
        assert_eq!(run(command, Duration::from_secs(60), Some(pair)), Ok(pair.worker as f64));
        for threads in
            [r#"{"caller": [], "workers": [1]}"#, r#"{"caller": [0], "workers": [1]}"#, r#"{"caller": [1e9]}"#]
        {
            let threads = serde_json::from_str(threads).expect("JSON");
            assert!(put_in_place(&threads, pair).is_err(), "{threads}");
        }
    }

    #[test]
    fn one_that_is_late_is_ended() {
        let marker = std::env::temp_dir().join(format!("workring-compare-late-{}", std::process::id()));
        let script = format!("echo $$ > {}; exec sleep 1000", marker.display());
        let late = shell(&script, Duration::from_secs(2));
        assert_eq!(late, Err(Failure::Reason("no answer within 2 s".into())));
        let id = std::fs::read_to_string(&marker).expect("the script began");
        std::fs::remove_file(&marker).expect("the marker is there");
        assert!(!Path::new("/proc").join(id.trim()).exists(), "it is still there");
        // The same when it has closed its outputs.
        assert_eq!(
            shell("exec >&- 2>&-; exec sleep 1000", Duration::from_secs(2)),
            Err(Failure::Reason("no answer within 2 s".into()))
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_told_from_others() {
        assert_eq!(
            run(Command::new("workring-no-such-program"), Duration::from_secs(60), None),
            Err(Failure::NoProgram)
        );
    }
}
