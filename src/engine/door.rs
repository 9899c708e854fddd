//! Where processes that others started come in: the engine's side of [`attach`](super::outsider).
//!
//! Whoever connects, or holds an invitation, is an *arrival* until it has said who it is; the supervisor reads what it says when
//! it says it, and waits for nobody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::handshake::{Join, ToOutsider};
use crate::error::{Error, Result};
use crate::os::channel::{Channel, Received};
use crate::os::events::EventFd;
use crate::os::host::Deadline;
use crate::os::listener::Listener;
use crate::os::pidfd::ProcessHandle;

/// Arrivals at a time; more wait to be accepted.
const ARRIVALS_MAX: usize = 32;
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
    pub(super) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self { invited: Mutex::new(Some(Vec::new())), bell: Arc::new(EventFd::new()?) }))
    }

    /// What the supervisor waits for besides its workers.
    pub(super) fn bell(&self) -> &Arc<EventFd> {
        &self.bell
    }

    /// One end of a connected pair of sockets; the supervisor has the other.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::InvalidArgument`] for too many at once; [`Error::Io`] when the system refuses.
    pub(crate) fn invite(&self) -> Result<OwnedFd> {
        let (channel, theirs) = Channel::pair()?;
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
}

/// Who came in and has no seat yet. Of the supervisor alone.
pub(super) struct Hall {
    door: Arc<Door>,
    listener: Option<Listener>,
    arrivals: Vec<Arrival>,
    accept_after: Deadline,
}

impl Hall {
    /// Behind a door, and behind a socket at `path` as well if there is one.
    pub(super) fn new(door: Arc<Door>, path: Option<&Path>) -> Result<Self> {
        let listener = path.map(Listener::bind).transpose()?;
        Ok(Self { door, listener, arrivals: Vec::new(), accept_after: Deadline::now() })
    }

    /// The door's own descriptor, while somebody may be accepted.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        let connected = self.arrivals.iter().filter(|arrival| arrival.until.is_some()).count();
        let listener = self.listener.as_ref()?;
        (connected < ARRIVALS_MAX && self.accept_after.is_past()).then(|| listener.as_fd())
    }

    /// The descriptors of the arrivals, in their order.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.arrivals.iter().map(|arrival| arrival.channel.as_fd())
    }

    /// When something is due although nobody calls.
    pub(super) fn next_time(&self) -> Option<Deadline> {
        let limits = self.arrivals.iter().filter_map(|arrival| arrival.until);
        let pause = (!self.accept_after.is_past()).then_some(self.accept_after);
        limits.chain(pause).min()
    }

    /// Takes in who was invited, and sends away who said nothing for too long.
    pub(super) fn look_around(&mut self) {
        self.arrivals.retain(|arrival| arrival.until.is_none_or(|until| !until.is_past()));
        let mut invited = self.door.invited.lock().unwrap_or_else(PoisonError::into_inner);
        let invited = invited.iter_mut().flat_map(|invited| invited.drain(..));
        self.arrivals.extend(invited.map(|channel| Arrival { channel, until: None }));
    }

    /// Lets nobody in any more. Who waits, or holds an invitation, sees the connection end.
    pub(super) fn close(&mut self) {
        self.listener = None;
        self.arrivals.clear();
        self.door.invited.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Accepts one connection.
    pub(super) fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        match listener.accept() {
            Ok(Some(channel)) => {
                self.arrivals.push(Arrival { channel, until: Some(Deadline::after(ARRIVAL_LIMIT)) });
            }
            Ok(None) => {}
            // The connection waits on, and would wake the supervisor again at once.
            Err(_) => self.accept_after = Deadline::after(ACCEPT_PAUSE),
        }
    }

    /// Hears those arrivals that spoke: returns the processes that want to join, and forgets whoever said anything else.
    pub(super) fn hear(&mut self, spoke: &[bool]) -> Vec<(Channel, ProcessHandle)> {
        let mut joining = Vec::new();
        let mut waiting = Vec::new();
        for (at, arrival) in core::mem::take(&mut self.arrivals).into_iter().enumerate() {
            if spoke.get(at) != Some(&true) {
                waiting.push(arrival);
                continue;
            }
            let mut buffer = Vec::new();
            match arrival.channel.receive(&mut buffer) {
                Ok(Received::WouldBlock) => waiting.push(arrival),
                // It gave up, or its message cannot be read.
                Ok(Received::PeerGone) | Err(_) => {}
                Ok(Received::Message(fds)) => match identify(&buffer, fds) {
                    Ok(process) => joining.push((arrival.channel, process)),
                    Err(error) => refuse(&arrival.channel, error),
                },
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

/// The process that says it wants to join.
fn identify(message: &[u8], fds: Vec<OwnedFd>) -> Result<ProcessHandle> {
    Join::check(message)?;
    let [pidfd] = <[OwnedFd; 1]>::try_from(fds)
        .map_err(|_| Error::WorkerStart { reason: "the first message must come with one descriptor".into() })?;
    let process = ProcessHandle::received(pidfd)?;
    if process.pid() == std::process::id() {
        return Err(Error::WorkerStart { reason: "this process built the engine: give it threads".into() });
    }
    Ok(process)
}

/// Says why somebody cannot join. Who does not read it sees the connection end.
pub(super) fn refuse(channel: &Channel, error: Error) {
    let _ = channel.send(&ToOutsider::Refused(error.into_reason()).to_bytes(), &[]);
}
