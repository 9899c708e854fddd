//! The entrance for processes that others started: the engine's side of [`AttachedWorker::attach`](crate::engine::process::AttachedWorker::attach).
//!
//! A process that connects, or holds an invitation, has a *pending connection* until its first message; the supervisor reads that when it is
//! there, and waits for none.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::process::handshake::{Join, ToExternalWorker};
use crate::error::{Error, Result};
use crate::os::channel::{Channel, Received};
use crate::os::credentials::{Sender, peer, sender_of_next, tell_senders};
use crate::os::events::EventFd;
use crate::os::host::Deadline;
use crate::os::listener::Listener;
use crate::os::pidfd::ProcessHandle;
use crate::sync::lock;

/// Pending connections that were accepted, at a time. For a further one another is dropped: the oldest of the process that has most.
const PENDING_MAX: usize = 64;
/// Pending connections of one process, at a time.
const PENDING_PER_PROCESS: usize = 16;
/// Connections that are accepted before the workers have their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Invitations that are open, at a time.
const INVITATIONS_MAX: usize = 256;
/// The time from a connection to its first message.
const JOIN_LIMIT: Duration = Duration::from_secs(10);
/// The pause of accepting after the system refused.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Invitations on their way from the threads that use the engine to its supervisor.
#[derive(Debug)]
pub(crate) struct InvitationQueue {
    /// The engine's ends of their sockets; `None` when the supervisor has ended.
    invited: Mutex<Option<Vec<Channel>>>,
    supervisor: Arc<EventFd>,
}

impl InvitationQueue {
    /// A queue that is open until its [`PendingConnections`] are gone; `supervisor` is notified of each invitation.
    pub(in crate::engine) fn new(supervisor: Arc<EventFd>) -> Self {
        Self { invited: Mutex::new(Some(Vec::new())), supervisor }
    }

    /// One end of a connected pair of sockets; the supervisor has the other.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::InvalidArgument`] for too many at once; [`Error::Io`] when the system refuses.
    pub(crate) fn invite(&self) -> Result<OwnedFd> {
        let (channel, theirs) = Channel::pair()?;
        tell_senders(&channel, true)?;
        let mut guard = lock(&self.invited);
        let invited = guard.as_mut().ok_or(Error::Closed)?;
        if invited.len() >= INVITATIONS_MAX {
            return Err(Error::invalid(format!("at most {INVITATIONS_MAX} invitations may be made at once")));
        }
        invited.push(channel);
        drop(guard);
        self.supervisor.notify()?;
        Ok(theirs)
    }

    /// Takes the invitations of a queue that is open.
    fn take(&self) -> Vec<Channel> {
        lock(&self.invited).as_mut().map(core::mem::take).unwrap_or_default()
    }

    fn close(&self) {
        lock(&self.invited).take();
    }
}

/// A connection whose process has not asked to join yet.
struct PendingConnection {
    channel: Channel,
    /// The end of its time; an invitation has none.
    until: Option<Deadline>,
    /// The process that connected, where the system tells. Its number may be another's by now; it only counts.
    process: Option<u32>,
}

/// A process that asks to join, and the engine's end of its socket.
pub(in crate::engine) struct JoinRequest {
    pub(in crate::engine) channel: Channel,
    pub(in crate::engine) process: ProcessHandle,
}

impl JoinRequest {
    /// Tells the process why it cannot join.
    pub(in crate::engine) fn refuse(&self, reason: impl Into<String>) {
        refuse(&self.channel, reason.into());
    }
}

/// Tells the process at the other end why it cannot join. One that does not read sees the connection end.
fn refuse(channel: &Channel, reason: String) {
    let _ = channel.send(&ToExternalWorker::Refused(reason).to_bytes(), &[]);
}

/// What became of a pending connection that was read.
enum FirstMessage {
    /// None is there.
    Missing(PendingConnection),
    Join(JoinRequest),
    /// The process said something else, or is gone.
    Over,
}

impl PendingConnection {
    /// Reads the first message, if it is there. A process that cannot join is told why.
    fn recv(self) -> FirstMessage {
        // Its sender is looked at first and no longer told with the message itself.
        let sender = match sender_of_next(&self.channel) {
            Ok(Sender::Nobody) => return FirstMessage::Missing(self),
            Ok(Sender::Process(sender)) => Some(sender),
            Ok(Sender::Unknown) => None,
            Err(_) => return FirstMessage::Over,
        };
        if tell_senders(&self.channel, false).is_err() {
            return FirstMessage::Over;
        }
        let mut buffer = Vec::new();
        match self.channel.receive(&mut buffer) {
            Ok(Received::Message(fds)) => match identify(&buffer, fds, sender) {
                Ok(process) => FirstMessage::Join(JoinRequest { channel: self.channel, process }),
                Err(error) => {
                    refuse(&self.channel, error.into_reason());
                    FirstMessage::Over
                }
            },
            // It gave up, or its message cannot be read.
            Ok(Received::WouldBlock | Received::PeerGone) | Err(_) => FirstMessage::Over,
        }
    }
}

/// The place, among the processes of the pending connections, of the one that is dropped for another of process `next`, if one has to be: the
/// oldest of its process.
fn dropped_for(processes: &[Option<u32>], next: Option<u32>) -> Option<usize> {
    let count = |process: Option<u32>| processes.iter().filter(|&&other| other == process).count();
    let loser = if count(next) >= PENDING_PER_PROCESS {
        next
    } else if processes.len() >= PENDING_MAX {
        // The first of several that have as many.
        *processes.iter().rev().max_by_key(|&&process| count(process))?
    } else {
        return None;
    };
    processes.iter().position(|&process| process == loser)
}

/// The connections of processes that have no worker slot yet. Of the supervisor alone.
pub(in crate::engine) struct PendingConnections {
    invitations: Arc<InvitationQueue>,
    listener: Option<Listener>,
    pending: Vec<PendingConnection>,
    accept_after: Deadline,
}

impl PendingConnections {
    /// Those of a queue, and of a socket at `path` as well if there is one.
    pub(in crate::engine) fn new(invitations: Arc<InvitationQueue>, path: Option<&Path>) -> Result<Self> {
        let listener = path.map(Listener::bind).transpose()?;
        Ok(Self { invitations, listener, pending: Vec::new(), accept_after: Deadline::now() })
    }

    /// The descriptor of the listening socket, unless the system has just refused.
    pub(in crate::engine) fn listener(&self) -> Option<BorrowedFd<'_>> {
        let listener = self.listener.as_ref()?;
        self.accept_after.is_past().then(|| listener.as_fd())
    }

    /// The descriptors of the pending connections, in their order.
    pub(in crate::engine) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pending.iter().map(|pending| pending.channel.as_fd())
    }

    /// When something is due without a message.
    pub(in crate::engine) fn next_time(&self) -> Option<Deadline> {
        let limits = self.pending.iter().filter_map(|pending| pending.until);
        let pause = (!self.accept_after.is_past()).then_some(self.accept_after);
        limits.chain(pause).min()
    }

    /// Takes in invitations, and drops connections that were silent for too long.
    pub(in crate::engine) fn refresh(&mut self) {
        self.pending.retain(|pending| pending.until.is_none_or(|until| !until.is_past()));
        let invited = self.invitations.take().into_iter();
        self.pending.extend(invited.map(|channel| PendingConnection { channel, until: None, process: None }));
    }

    /// Admits no process any more: pending connections and open invitations end.
    pub(in crate::engine) fn close(&mut self) {
        self.listener = None;
        self.pending.clear();
        self.invitations.close();
    }

    /// Accepts connections, dropping others that are silent where there are too many. Returns the processes that ask to join.
    pub(in crate::engine) fn accept(&mut self) -> Vec<JoinRequest> {
        let mut requests = Vec::new();
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { break };
            let channel = match listener.accept() {
                Ok(Some(channel)) => channel,
                Ok(None) => break,
                // The connection waits on, and would wake the supervisor again at once. Descriptors may lack.
                Err(_) => {
                    self.accept_after = Deadline::after(ACCEPT_PAUSE);
                    let oldest = self.pending.iter().position(|pending| pending.until.is_some());
                    requests.extend(oldest.and_then(|at| self.drop_connection(at)));
                    break;
                }
            };
            let process = peer(&channel);
            let accepted = PendingConnection { channel, until: Some(Deadline::after(JOIN_LIMIT)), process };
            match accepted.recv() {
                FirstMessage::Join(request) => requests.push(request),
                FirstMessage::Over => {}
                FirstMessage::Missing(accepted) => {
                    requests.extend(self.make_room_for(process));
                    self.pending.push(accepted);
                }
            }
        }
        requests
    }

    /// Drops a connection for another one of `process`, if one has to be.
    fn make_room_for(&mut self, process: Option<u32>) -> Option<JoinRequest> {
        let accepted = self.pending.iter().enumerate().filter(|(_, pending)| pending.until.is_some());
        let (places, processes): (Vec<usize>, Vec<Option<u32>>) =
            accepted.map(|(place, pending)| (place, pending.process)).unzip();
        dropped_for(&processes, process).and_then(|at| self.drop_connection(places[at]))
    }

    /// Drops a connection, unless its process has just asked to join.
    fn drop_connection(&mut self, at: usize) -> Option<JoinRequest> {
        match self.pending.remove(at).recv() {
            FirstMessage::Join(request) => Some(request),
            FirstMessage::Missing(_) | FirstMessage::Over => None,
        }
    }

    /// Reads the pending connections that are `readable`, by their order. Returns the processes that ask to join, and drops those that said
    /// anything else.
    pub(in crate::engine) fn recv(&mut self, readable: &[bool]) -> Vec<JoinRequest> {
        let mut requests = Vec::new();
        let mut pending = Vec::new();
        for (at, connection) in core::mem::take(&mut self.pending).into_iter().enumerate() {
            let is_readable = readable.get(at) == Some(&true);
            let first = if is_readable { connection.recv() } else { FirstMessage::Missing(connection) };
            match first {
                FirstMessage::Missing(connection) => pending.push(connection),
                FirstMessage::Join(request) => requests.push(request),
                FirstMessage::Over => {}
            }
        }
        self.pending = pending;
        requests
    }
}

impl Drop for PendingConnections {
    fn drop(&mut self) {
        self.close();
    }
}

/// The process that asks to join, which must be the sender of the message.
///
/// # Errors
/// [`Error::WorkerStart`] when it does not fit, [`Error::InvalidArgument`] for a descriptor that is not the sender's own.
fn identify(message: &[u8], fds: Vec<OwnedFd>, sender: Option<u32>) -> Result<ProcessHandle> {
    Join::check(message)?;
    let [pidfd] = <[OwnedFd; 1]>::try_from(fds)
        .map_err(|_| Error::worker_start("the first message must come with one descriptor"))?;
    let sender = sender
        .ok_or_else(|| Error::worker_start("the process must be one that is seen from the engine's PID namespace"))?;
    let process = ProcessHandle::received(pidfd, sender)?;
    if process.pid() == std::process::id() {
        return Err(Error::worker_start("this process built the engine: give it threads"));
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No process loses a connection to others while these have more.
        #[test]
        fn the_process_with_most_connections_loses_one(connections in proptest::collection::vec(proptest::option::of(0_u32..6), 1..600)) {
            let mut waiting: Vec<Option<u32>> = Vec::new();
            let count = |waiting: &[Option<u32>], process| waiting.iter().filter(|&&other| other == process).count();
            for next in connections {
                let before = waiting.clone();
                if let Some(loser) = dropped_for(&waiting, next) {
                    let process = waiting.remove(loser);
                    prop_assert!(!before[..loser].contains(&process), "its oldest one");
                    // By process, and not by connection: most of the time of this test would go there.
                    let mut others = (0..6).map(Some).chain([None]);
                    let is_full = before.len() == PENDING_MAX
                        && others.all(|other| count(&before, other) <= count(&before, process));
                    let has_all = process == next && count(&before, next) == PENDING_PER_PROCESS;
                    prop_assert!(is_full || has_all);
                }
                waiting.push(next);
                prop_assert!(waiting.len() <= PENDING_MAX && count(&waiting, next) <= PENDING_PER_PROCESS);
            }
        }
    }
}
