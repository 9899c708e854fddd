//! The monitor: a thread that an engine of threads alone has from the first task on that waits for it. It ends jobs at their deadlines, and
//! looks after those that are under way once a second, as a thread that waits does for its own job. A task has no thread to do so with.
//!
//! Where other processes take part the supervisor does both. Nobody else needs the monitor: without tasks there is none.

use std::sync::Arc;
use std::thread;

use crate::engine::job::JobReference;
use crate::engine::job::meta;
use crate::engine::runtime::Core;
use crate::engine::schedule::look_after::JobLooks;
use crate::engine::schedule::{completion, look_after, worker};
use crate::layout::records::Descriptor;
use crate::layout::words::FLAG_CANCEL;
use crate::lockfree::job;
use crate::os::host::Deadline;

/// Sees to it that a task hears of its job's deadline, and that somebody looks after the job. The caller has just changed the job's word by
/// an exchange.
#[inline]
pub(in crate::engine) fn task_waits(core: &Arc<Core>, reference: JobReference, descriptor: &Descriptor) {
    // Where other processes take part the submitter has told the supervisor.
    if !core.config.is_shared()
        && let Some(due) = meta::first_check(&core.control, reference.index, descriptor)
    {
        expect_deadline(core, reference, descriptor, due);
    }
    want_looks(core);
}

fn expect_deadline(core: &Core, reference: JobReference, descriptor: &Descriptor, due: Deadline) {
    if !due.is_past() {
        core.expect_deadline(due);
    } else if !job::snapshot(&descriptor.word).has(FLAG_CANCEL) {
        // As a thread does that waits for it. That the job ended calls this very task.
        let _ = completion::cancel(core, reference);
    }
}

/// Sees to it that somebody looks after jobs from time to time, for a task that waits for one or for all of them. The caller has just
/// changed a word by an exchange, or made a fence, after it knew that a job is under way.
#[inline]
pub(in crate::engine) fn want_looks(core: &Arc<Core>) {
    if core.looks.wish.take() {
        begin_looks(core);
    }
}

#[cold]
fn begin_looks(core: &Arc<Core>) {
    if core.processes.is_some() {
        core.notify_supervisor();
    } else if core.monitor.runs() {
        core.monitor.call();
    } else if core.monitor.has_ended() || !start(core) {
        core.looks.wish.leave();
        if core.threads.all_ended() {
            // The engine has closed: what is still queued was lost, and no worker is left that could find it.
            look_after::look_after_all(core);
        }
    }
}

/// Starts the monitor; `false` when the system has no thread to give, or the engine has closed. Another task tries again.
fn start(core: &Arc<Core>) -> bool {
    // It counts as the supervisor does: a close waits for its end, too.
    if !core.threads.join_alive() {
        return false;
    }
    let of_thread = Arc::clone(core);
    // Before it runs: it may have gone to sleep, and another task be here, before this thread goes on.
    core.monitor.set_running(true);
    let started = thread::Builder::new().name("workring-monitor".into()).spawn(move || run(&of_thread));
    if started.is_err() {
        core.monitor.set_running(false);
        worker::ended(core);
    }
    started.is_ok()
}

fn run(core: &Arc<Core>) {
    let mut looks = JobLooks::default();
    loop {
        let calls = core.monitor.calls();
        if core.looks.next_deadline().is_some_and(Deadline::is_past) {
            look_after::end_late_jobs(core, |_, _| ());
        }
        looks.look_if_due(core);
        if !core.is_open() && core.threads.is_last() {
            break;
        }
        core.monitor.sleep(calls, looks.next().into_iter().chain(core.looks.next_deadline()).min());
    }
    core.monitor.set_ended();
    core.looks.wish.leave_and_look(|| {
        // No worker is left. A task that comes too late for this finds the wish.
        completion::fail_queued(core);
        false
    });
    worker::ended(core);
}
