//! A place at an engine, on its way to the process that is to have it.

#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;

/// One end of a socket, where processes can be given one.
#[cfg(unix)]
pub(super) type Socket = OwnedFd;
/// None, on a system that has no such thing.
#[cfg(not(unix))]
pub(super) type Socket = core::convert::Infallible;

/// A place at an engine for one process, from [`Engine::invite`](crate::Engine::invite). Dropping it takes the invitation back.
///
/// It is a socket, which goes to the process in any way: as its standard input for example, which every [`Command`](std::process::Command)
/// takes it for.
#[derive(Debug)]
#[must_use = "dropping it takes the invitation back"]
pub struct Invitation(Socket);

impl Invitation {
    #[cfg(target_os = "linux")]
    pub(in crate::front) fn new(socket: Socket) -> Self {
        Self(socket)
    }

    #[cfg(unix)]
    pub(super) fn into_socket(self) -> Socket {
        self.0
    }

    /// There is none on such a system.
    #[cfg(not(unix))]
    pub(super) fn never(self) -> ! {
        match self.0 {}
    }
}

impl From<Invitation> for Stdio {
    /// For the standard input of a process that is about to be started.
    fn from(invitation: Invitation) -> Self {
        #[cfg(unix)]
        return Self::from(invitation.0);
        #[cfg(not(unix))]
        match invitation.0 {}
    }
}

#[cfg(unix)]
impl From<Invitation> for OwnedFd {
    fn from(invitation: Invitation) -> Self {
        invitation.0
    }
}

#[cfg(unix)]
impl AsFd for Invitation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
