//! What a worker process has started itself: programs that a kernel runs, and what these run.
//!
//! A worker leads a process group. Whatever stays in it is killed in one call, by its number, while the leader has not been reaped: until
//! then the number means this group and no other. Programs that leave the group (setsid(2), setpgid(2), shells with job control) are found as
//! descendants, for which the worker is a *subreaper*: orphans among them become its own children and not those of a process far above.
//! That takes a worker that lives. Of one that has died, programs that left its group belong to other processes already. They are known by a
//! *family mark* in the environment that they were started with, as build servers know what a build has left behind; one that was given another
//! environment is not found.
//!
//! Sources: setpgid(2), kill(2), prctl(2) (`PR_SET_CHILD_SUBREAPER`), proc_pid_task(5) (`children`), proc_pid_stat(5), proc_pid_environ(5),
//! pidfd_open(2).

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{Error, Result};
use crate::os::events::wait_until_readable;
use crate::os::host::Deadline;

/// How long the system may need to end processes that were killed.
const END_LIMIT: Duration = Duration::from_secs(1);
/// Processes that are killed before their ends are waited for: so many descriptors are open at a time.
const KILLS_AT_ONCE: usize = 32;

/// The variable with the marks of the families that a process belongs to, outermost first: a worker may have workers of its own.
const FAMILY_VARIABLE: &str = "WORKRING_FAMILY";
/// What stands between two marks.
const BETWEEN_MARKS: char = ':';

/// What tells the descendants of one process from all other processes of this machine, until the next start of the system.
#[derive(Debug)]
pub(crate) struct FamilyMark(String);

impl FamilyMark {
    /// Marks what `command` will start, and all that this starts. No two commands of this system have the same mark.
    pub(crate) fn on(command: &mut Command) -> Self {
        // A process id has one process at a time, and a clock that does not go back.
        static LATEST: AtomicU64 = AtomicU64::new(0);
        let now = Deadline::now().nanoseconds();
        // Relaxed: the number alone counts.
        let before = LATEST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |latest| Some(now.max(latest + 1)));
        let moment = now.max(before.unwrap_or_default() + 1);
        let mark = format!("{}.{moment}", std::process::id());
        let marks = match std::env::var(FAMILY_VARIABLE) {
            Ok(outer) => format!("{outer}{BETWEEN_MARKS}{mark}"),
            Err(_) => mark.clone(),
        };
        command.env(FAMILY_VARIABLE, marks);
        Self(mark)
    }

    /// Whether a process was started with the mark in its environment; `false` if that may not be read.
    fn is_on(&self, process: Pid) -> bool {
        let Ok(environment) = std::fs::read(format!("/proc/{}/environ", process.as_raw_nonzero())) else {
            return false;
        };
        environment.split(|&byte| byte == 0).filter_map(|entry| std::str::from_utf8(entry).ok()).any(|entry| {
            let marks = entry.strip_prefix(FAMILY_VARIABLE).and_then(|rest| rest.strip_prefix('='));
            marks.is_some_and(|marks| marks.split(BETWEEN_MARKS).any(|mark| mark == self.0))
        })
    }

    /// Kills every process with the mark, and waits until they have ended, a second at most: for the family of a process that has ended.
    ///
    /// Best effort: a process that was given another environment, or writes over the memory of its own, is not found, and one that took
    /// other rights is not killed. Looks at all processes of the system, some microseconds for each.
    pub(crate) fn kill_family(&self) {
        let until = Deadline::after(END_LIMIT);
        let mut killed = BTreeSet::new();
        // Until nobody is found any more: one may start another while it is looked for.
        while !until.is_past() {
            let is_fresh = |process: &Pid| !killed.contains(&process.as_raw_nonzero()) && self.is_on(*process);
            let fresh: Vec<Pid> = processes().into_iter().filter(is_fresh).collect();
            if fresh.is_empty() {
                return;
            }
            for some in fresh.chunks(KILLS_AT_ONCE) {
                let kill = |&process: &Pid| kill_if(process, || self.is_on(process));
                let ending: Vec<OwnedFd> = some.iter().filter_map(kill).collect();
                killed.extend(some.iter().map(|process| process.as_raw_nonzero()));
                for process in ending {
                    let _ = wait_until_readable(process.as_fd(), Some(until));
                }
            }
        }
    }
}

/// All processes that the system tells of, but this one.
fn processes() -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let number = |entry: std::fs::DirEntry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
    let this = rustix::process::getpid();
    entries.flatten().filter_map(number).filter(|&process| process != this).collect()
}

/// Has orphans among the descendants of this process become its children.
///
/// They stay zombies after their end for as long as this process lives, unless it waits for them.
///
/// # Errors
/// [`Error::Io`] if the system refuses.
pub(crate) fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Error::io("become the parent of orphaned descendants", error))
}

/// Kills every process of the group that a process leads, which must not have been reaped. Does nothing if there is no such group.
pub(crate) fn kill_group(leader: Pid) {
    // The only refusals are that nobody is there, or that all took other rights.
    let _ = rustix::process::kill_process_group(leader, Signal::KILL);
}

/// Kills all descendants of a process, and waits until they have ended, a second at most. The process itself, which must live, goes on, unless it
/// is stopped, as it should be lest it start others meanwhile.
///
/// Best effort: where the system tells of no children (a kernel without `CONFIG_PROC_CHILDREN`, no descriptor left), or where a descendant took other
/// rights, there is nothing to be done.
pub(crate) fn kill_below(root: Pid) {
    let until = Deadline::after(END_LIMIT);
    let mut killed = BTreeSet::new();
    // Once everybody known has ended, all their orphans are children of the root; nobody is on the way from one list to another.
    while !until.is_past() {
        let mut fresh: Vec<(Pid, Pid)> =
            descendants(root).into_iter().filter(|(process, _)| !killed.contains(&process.as_raw_nonzero())).collect();
        // Children before their parents: they are known by these, and have others once they are orphans.
        fresh.reverse();
        if fresh.is_empty() {
            return;
        }
        for some in fresh.chunks(KILLS_AT_ONCE) {
            let ending: Vec<OwnedFd> =
                some.iter().filter_map(|&(process, parent)| kill_child(process, &[parent, root])).collect();
            // A process that could not be killed is not tried for ever.
            killed.extend(some.iter().map(|(process, _)| process.as_raw_nonzero()));
            for process in ending {
                let _ = wait_until_readable(process.as_fd(), Some(until));
            }
        }
    }
}

/// Kills a process if one of `parents` is its parent, and it has not ended; returns its descriptor.
fn kill_child(process: Pid, parents: &[Pid]) -> Option<OwnedFd> {
    kill_if(process, || parent_of(process).is_some_and(|parent| parents.contains(&parent)))
}

/// Kills a process if what is read of it by its number says that it `is_meant`, and it has not ended; returns its descriptor.
fn kill_if(process: Pid, is_meant: impl FnOnce() -> bool) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty()).ok()?;
    let is_meant = is_meant();
    // If it has not ended by now, what was read between was its own, and no successor's by the same number.
    let has_ended = wait_until_readable(pidfd.as_fd(), Some(Deadline::now())).unwrap_or(true);
    let is_killed = is_meant && !has_ended && rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok();
    is_killed.then_some(pidfd)
}

/// The parent of a process that is there and no zombie.
fn parent_of(process: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // The name, which may hold anything, ends with the last parenthesis.
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?;
    Pid::from_raw(fields.next()?.parse().ok()?).filter(|_| state != "Z" && state != "X")
}

/// Processes below another one that are no zombies, each with its parent.
fn descendants(root: Pid) -> Vec<(Pid, Pid)> {
    let mut found = Vec::new();
    let mut parents = vec![root];
    let mut seen = BTreeSet::from([root.as_raw_nonzero()]);
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            if seen.insert(child.as_raw_nonzero()) {
                parents.push(child);
                found.push((child, parent));
            }
        }
    }
    found.retain(|&(process, _)| parent_of(process).is_some());
    found
}

/// The children of all threads of a process.
fn children(process: Pid) -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Stdio};

    use super::*;

    /// A shell that runs a script and then sleeps; the script's first line of output has come.
    fn shell(script: &str) -> (Child, String) {
        shell_of(Command::new("sh"), script)
    }

    fn shell_of(mut command: Command, script: &str) -> (Child, String) {
        command.args(["-c", &format!("{script}\nwait; exec sleep 1000")]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (shell, line)
    }

    fn pid(number: &str) -> Pid {
        Pid::from_raw(number.trim().parse().unwrap()).unwrap()
    }

    #[test]
    fn descendants_of_any_group_and_session_are_killed_and_nobody_else() {
        let (mut other, _) = shell("echo there");
        // A child, one of its own session, and a grandchild.
        let (mut shell, line) =
            shell("sleep 1000 & a=$!; setsid sleep 1000 & b=$!; sh -c 'sleep 1000; :' & c=$!; echo $a $b $c");
        let root = Pid::from_child(&shell);
        let named: Vec<Pid> = line.split_whitespace().map(pid).collect();
        assert_eq!(named.len(), 3);
        let until = Deadline::after(Duration::from_secs(60));
        while descendants(root).len() < 4 && !until.is_past() {
            std::thread::yield_now();
        }
        let below: Vec<Pid> = descendants(root).into_iter().map(|(process, _)| process).collect();
        assert!(below.len() >= 4 && named.iter().all(|process| below.contains(process)), "{below:?} {named:?}");
        rustix::process::kill_process(root, Signal::STOP).unwrap();
        kill_below(root);
        assert_eq!(descendants(root), []);
        assert!(below.into_iter().all(|process| parent_of(process).is_none()));
        assert!(parent_of(Pid::from_child(&other)).is_some() && parent_of(root).is_some());
        for shell in [&mut shell, &mut other] {
            shell.kill().unwrap();
            shell.wait().unwrap();
        }
    }

    /// Two families side by side, one of which ends, by the mark that its members have after they have left its process.
    #[test]
    fn who_has_the_mark_of_a_family_is_killed_wherever_it_is() {
        let script = "(setsid sleep 1000 & echo $! >&3) 3>&1 | { read a; sh -c 'sleep 1000; :' & env -i setsid sleep 1000 & \
                      echo $a $!; }";
        let start = || {
            let mut command = Command::new("sh");
            let mark = FamilyMark::on(&mut command);
            let (shell, line) = shell_of(command, script);
            let named: Vec<Pid> = line.split_whitespace().map(pid).collect();
            assert_eq!(named.len(), 2, "{line}");
            (mark, shell, named)
        };
        let families = [start(), start()];
        assert_ne!(families[0].0.0, families[1].0.0);
        for (number, (mark, mut shell, named)) in (0..).zip(families) {
            let [orphan, unmarked] = named[..] else { unreachable!("they are two") };
            let root = Pid::from_child(&shell);
            assert!(mark.is_on(root) && parent_of(orphan).is_some(), "family {number}");
            let until = Deadline::after(Duration::from_secs(60));
            // Until then it is a copy of the shell.
            while mark.is_on(unmarked) && !until.is_past() {
                std::thread::yield_now();
            }
            mark.kill_family();
            assert_eq!(processes().into_iter().filter(|&process| mark.is_on(process)).collect::<Vec<_>>(), []);
            assert!(parent_of(root).is_none() && parent_of(orphan).is_none(), "family {number}");
            assert!(parent_of(unmarked).is_some(), "it has another environment");
            rustix::process::kill_process(unmarked, Signal::KILL).unwrap();
            shell.wait().unwrap();
        }
    }

    #[test]
    fn a_process_of_another_parent_is_not_killed() {
        let (mut shell, _) = shell("echo there");
        let process = Pid::from_child(&shell);
        assert!(kill_child(process, &[process]).is_none());
        assert!(parent_of(process).is_some());
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(kill_child(process, &[rustix::process::getpid()]).is_none());
    }
}
