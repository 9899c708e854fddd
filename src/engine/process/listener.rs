//! Where processes that others started come in: the engine's side of [`attach`](crate::engine::process::external).
//!
//! Whoever connects, or holds an invitation, is an *arrival* until it has said who it is; the supervisor reads what it says when
//! it says it, and waits for nobody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::process::handshake::{Join, ToOutsider};
use crate::error::{Error, Result};
use crate::os::channel::{Channel, Received};
use crate::os::credentials::{Sender, peer, sender_of_next, tell_senders};
use crate::os::events::EventFd;
use crate::os::host::Deadline;
use crate::os::listener::Listener;
use crate::os::pidfd::ProcessHandle;

/// Arrivals that connected, at a time. For a further one another is sent away: the one that has been silent longest, of the process that has most.
const ARRIVALS_MAX: usize = 64;
/// Arrivals that one process connected, at a time.
const ARRIVALS_PER_PROCESS: usize = 16;
/// Connections that are accepted before the workers have their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Invitations that nobody has taken up, at a time.
const INVITATIONS_MAX: usize = 256;
/// How long who connected may take to say who it is.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);
/// How long nobody is accepted after the system refused.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the threads that use the engine share with its supervisor.
#[derive(Debug)]
pub(crate) struct Door {
    /// Their ends here; `None` when the supervisor has ended.
    invited: Mutex<Option<Vec<Channel>>>,
    bell: Arc<EventFd>,
}

impl Door {
    /// A door that is open until its [`Hall`] is gone.
    pub(in crate::engine) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self { invited: Mutex::new(Some(Vec::new())), bell: Arc::new(EventFd::new()?) }))
    }

    /// What the supervisor waits for besides its workers.
    pub(in crate::engine) fn bell(&self) -> &Arc<EventFd> {
        &self.bell
    }

    /// One end of a connected pair of sockets; the supervisor has the other.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::InvalidArgument`] for too many at once; [`Error::Io`] when the system refuses.
    pub(crate) fn invite(&self) -> Result<OwnedFd> {
        let (channel, theirs) = Channel::pair()?;
        tell_senders(&channel, true)?;
        let mut guard = self.invited.lock().unwrap_or_else(PoisonError::into_inner);
        let invited = guard.as_mut().ok_or(Error::Closed)?;
        if invited.len() >= INVITATIONS_MAX {
            return Err(Error::invalid(format!("at most {INVITATIONS_MAX} invitations may be made at once")));
        }
        invited.push(channel);
        drop(guard);
        self.bell.notify()?;
        Ok(theirs)
    }
}

/// Somebody who has not said yet who it is.
struct Arrival {
    channel: Channel,
    /// Until when; an invitation has no end.
    until: Option<Deadline>,
    /// The process that connected, where the system tells. Its number may be another's by now; it only counts.
    process: Option<u32>,
}

/// A process that wants to join, and the engine's end of its socket.
pub(in crate::engine) type Joining = (Channel, ProcessHandle);

/// What became of an arrival that was listened to.
enum Heard {
    Nothing(Arrival),
    Join(Joining),
    /// It said something else, or is gone.
    Over,
}

impl Arrival {
    /// Hears what it has said, if it has. Whoever wants to join is told why it cannot.
    fn listen(self) -> Heard {
        // Its sender is looked at first and no longer told with the message itself.
        let sender = match sender_of_next(&self.channel) {
            Ok(Sender::Nobody) => return Heard::Nothing(self),
            Ok(Sender::Process(sender)) => Some(sender),
            Ok(Sender::Unknown) => None,
            Err(_) => return Heard::Over,
        };
        if tell_senders(&self.channel, false).is_err() {
            return Heard::Over;
        }
        let mut buffer = Vec::new();
        match self.channel.receive(&mut buffer) {
            Ok(Received::Message(fds)) => match identify(&buffer, fds, sender) {
                Ok(process) => Heard::Join((self.channel, process)),
                Err(error) => {
                    refuse(&self.channel, error);
                    Heard::Over
                }
            },
            // It gave up, or its message cannot be read.
            Ok(Received::WouldBlock | Received::PeerGone) | Err(_) => Heard::Over,
        }
    }
}

/// Which of the processes that connected is sent away for one more of process `next`, if one has to be: the place of its oldest connection.
fn who_makes_room(processes: &[Option<u32>], next: Option<u32>) -> Option<usize> {
    let count = |process: Option<u32>| processes.iter().filter(|&&other| other == process).count();
    let loser = if count(next) >= ARRIVALS_PER_PROCESS {
        next
    } else if processes.len() >= ARRIVALS_MAX {
        // The first of several that have as many.
        *processes.iter().rev().max_by_key(|&&process| count(process))?
    } else {
        return None;
    };
    processes.iter().position(|&process| process == loser)
}

/// Who came in and has no seat yet. Of the supervisor alone.
pub(in crate::engine) struct Hall {
    door: Arc<Door>,
    listener: Option<Listener>,
    arrivals: Vec<Arrival>,
    accept_after: Deadline,
}

impl Hall {
    /// Behind a door, and behind a socket at `path` as well if there is one.
    pub(in crate::engine) fn new(door: Arc<Door>, path: Option<&Path>) -> Result<Self> {
        let listener = path.map(Listener::bind).transpose()?;
        Ok(Self { door, listener, arrivals: Vec::new(), accept_after: Deadline::now() })
    }

    /// The door's own descriptor, unless the system has just refused.
    pub(in crate::engine) fn listener(&self) -> Option<BorrowedFd<'_>> {
        let listener = self.listener.as_ref()?;
        self.accept_after.is_past().then(|| listener.as_fd())
    }

    /// The descriptors of the arrivals, in their order.
    pub(in crate::engine) fn arrivals(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.arrivals.iter().map(|arrival| arrival.channel.as_fd())
    }

    /// When something is due although nobody calls.
    pub(in crate::engine) fn next_time(&self) -> Option<Deadline> {
        let limits = self.arrivals.iter().filter_map(|arrival| arrival.until);
        let pause = (!self.accept_after.is_past()).then_some(self.accept_after);
        limits.chain(pause).min()
    }

    /// Takes in who was invited, and sends away who said nothing for too long.
    pub(in crate::engine) fn look_around(&mut self) {
        self.arrivals.retain(|arrival| arrival.until.is_none_or(|until| !until.is_past()));
        let mut invited = self.door.invited.lock().unwrap_or_else(PoisonError::into_inner);
        let invited = invited.iter_mut().flat_map(|invited| invited.drain(..));
        self.arrivals.extend(invited.map(|channel| Arrival { channel, until: None, process: None }));
    }

    /// Lets nobody in any more. Who waits, or holds an invitation, sees the connection end.
    pub(in crate::engine) fn close(&mut self) {
        self.listener = None;
        self.arrivals.clear();
        self.door.invited.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Accepts those who connected, sending away others who are silent where there are too many. Returns those who want to join.
    pub(in crate::engine) fn accept(&mut self) -> Vec<Joining> {
        let mut joining = Vec::new();
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { break };
            let channel = match listener.accept() {
                Ok(Some(channel)) => channel,
                Ok(None) => break,
                // The connection waits on, and would wake the supervisor again at once. Descriptors may lack.
                Err(_) => {
                    self.accept_after = Deadline::after(ACCEPT_PAUSE);
                    let oldest = self.arrivals.iter().position(|arrival| arrival.until.is_some());
                    joining.extend(oldest.and_then(|at| self.send_away(at)));
                    break;
                }
            };
            let process = peer(&channel);
            match (Arrival { channel, until: Some(Deadline::after(ARRIVAL_LIMIT)), process }).listen() {
                Heard::Join(join) => joining.push(join),
                Heard::Over => {}
                Heard::Nothing(arrival) => {
                    let connected = |arrival: &(usize, &Arrival)| arrival.1.until.is_some();
                    let (places, processes): (Vec<usize>, Vec<Option<u32>>) = self
                        .arrivals
                        .iter()
                        .enumerate()
                        .filter(connected)
                        .map(|(place, arrival)| (place, arrival.process))
                        .unzip();
                    let loser = who_makes_room(&processes, process).map(|at| places[at]);
                    joining.extend(loser.and_then(|at| self.send_away(at)));
                    self.arrivals.push(arrival);
                }
            }
        }
        joining
    }

    /// Ends the connection of an arrival, unless it has just said that it wants to join.
    fn send_away(&mut self, at: usize) -> Option<Joining> {
        match self.arrivals.remove(at).listen() {
            Heard::Join(join) => Some(join),
            Heard::Nothing(_) | Heard::Over => None,
        }
    }

    /// Hears those arrivals that spoke: returns the processes that want to join, and forgets whoever said anything else.
    pub(in crate::engine) fn hear(&mut self, spoke: &[bool]) -> Vec<Joining> {
        let mut joining = Vec::new();
        let mut waiting = Vec::new();
        for (at, arrival) in core::mem::take(&mut self.arrivals).into_iter().enumerate() {
            let heard = if spoke.get(at) == Some(&true) { arrival.listen() } else { Heard::Nothing(arrival) };
            match heard {
                Heard::Nothing(arrival) => waiting.push(arrival),
                Heard::Join(join) => joining.push(join),
                Heard::Over => {}
            }
        }
        self.arrivals = waiting;
        joining
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        self.close();
    }
}

/// The process that says it wants to join, which must be the sender of the message.
///
/// # Errors
/// [`Error::WorkerStart`] when it does not fit, [`Error::InvalidArgument`] for a descriptor that is not the sender's own.
fn identify(message: &[u8], fds: Vec<OwnedFd>, sender: Option<u32>) -> Result<ProcessHandle> {
    let refuse = |reason: &str| Error::WorkerStart { reason: reason.into() };
    Join::check(message)?;
    let [pidfd] =
        <[OwnedFd; 1]>::try_from(fds).map_err(|_| refuse("the first message must come with one descriptor"))?;
    let sender =
        sender.ok_or_else(|| refuse("the process must be one that is seen from the engine's PID namespace"))?;
    let process = ProcessHandle::received(pidfd, sender)?;
    if process.pid() == std::process::id() {
        return Err(refuse("this process built the engine: give it threads"));
    }
    Ok(process)
}

/// Says why somebody cannot join. Who does not read it sees the connection end.
pub(in crate::engine) fn refuse(channel: &Channel, error: Error) {
    let _ = channel.send(&ToOutsider::Refused(error.into_reason()).to_bytes(), &[]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Nobody is sent away for the connections of others while these have more.
        #[test]
        fn who_has_most_makes_room(connections in proptest::collection::vec(proptest::option::of(0_u32..6), 1..600)) {
            let mut waiting: Vec<Option<u32>> = Vec::new();
            let count = |waiting: &[Option<u32>], process| waiting.iter().filter(|&&other| other == process).count();
            for next in connections {
                let before = waiting.clone();
                if let Some(loser) = who_makes_room(&waiting, next) {
                    let process = waiting.remove(loser);
                    prop_assert!(!before[..loser].contains(&process), "its oldest one");
                    let is_full = before.len() == ARRIVALS_MAX
                        && before.iter().all(|&other| count(&before, other) <= count(&before, process));
                    let has_all = process == next && count(&before, next) == ARRIVALS_PER_PROCESS;
                    prop_assert!(is_full || has_all);
                }
                waiting.push(next);
                prop_assert!(waiting.len() <= ARRIVALS_MAX && count(&waiting, next) <= ARRIVALS_PER_PROCESS);
            }
        }
    }
}
