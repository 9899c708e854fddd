//! A worker's end of its socket, the memory that it is sent over it, and what the other end answers.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::arena::Arena;
use crate::arena::attached::{Attached, SegmentFile};
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::os::channel::{Channel, Received, Sent};
use crate::os::host::Deadline;
use crate::os::map::Mapping;
use crate::process_host::messages::{FileAnswer, FromWorker};
use crate::sync::lock;

/// How long a worker waits for the next word of the process that started it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a worker does that finds the other side gone: ends its process, or says so by an error.
type Gone = fn() -> Error;

/// The worker's end of its socket. A thread that asks for a file holds it until the answer is there.
#[derive(Clone)]
pub(crate) struct Connection {
    channel: Arc<Mutex<Channel>>,
    gone: Gone,
}

impl Connection {
    /// Over an end that from now on does not block: a worker never waits for the other side to read.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(crate) fn new(channel: Channel, gone: Gone) -> Result<Self> {
        channel.set_nonblocking(true)?;
        Ok(Self { channel: Arc::new(Mutex::new(channel)), gone })
    }

    /// Looks at the socket while nobody else does.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&Channel) -> R) -> R {
        look(&lock(&self.channel))
    }

    /// Sends a message without waiting for it to be read.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(crate) fn send(&self, message: &FromWorker) -> Result<Sent> {
        self.with(|channel| channel.send(&message.to_bytes(), &[]))
    }

    /// Sends the last message, waiting until there is room for it or nobody is there to read it.
    pub(crate) fn send_last(&self, message: &FromWorker) {
        // Whatever goes wrong, there is nobody to tell.
        let _ =
            self.with(|channel| channel.set_nonblocking(false).and_then(|()| channel.send(&message.to_bytes(), &[])));
    }

    /// The next message of the other side. Blocks for half a minute at most.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] when none comes; what the worker does when nobody is there; [`Error::Io`] if the system refuses.
    pub(crate) fn recv(&self, buffer: &mut Vec<u8>) -> Result<Vec<OwnedFd>> {
        self.with(|channel| self.recv_at(channel, buffer))
    }

    fn recv_at(&self, channel: &Channel, buffer: &mut Vec<u8>) -> Result<Vec<OwnedFd>> {
        match channel.receive_until(buffer, Deadline::after(PATIENCE))? {
            Received::Message(fds) => Ok(fds),
            Received::PeerGone => Err((self.gone)()),
            Received::WouldBlock => Err(Error::WorkerStart {
                reason: format!("the engine said nothing for {PATIENCE:?} while a worker started"),
            }),
        }
    }

    /// Asks for the file of a segment and waits for the answer.
    fn fetch(&self, segment: u16) -> Result<SegmentFile> {
        let lost = |what: &str| Error::Io {
            operation: format!("fetch mapped file {segment} from the engine"),
            source: std::io::Error::other(what.to_owned()),
        };
        self.with(|channel| {
            match channel.send(&FromWorker::Fetch(segment).to_bytes(), &[])? {
                Sent::Sent => {}
                Sent::WouldBlock => return Err(lost("it does not read")),
                Sent::PeerGone => return Err((self.gone)()),
            }
            fault::point(Point::F35_asked);
            let mut buffer = Vec::new();
            let fds = self.recv_at(channel, &mut buffer)?;
            match (FileAnswer::from_bytes(&buffer), <[OwnedFd; 1]>::try_from(fds)) {
                (Some(Ok(answer)), Ok([fd])) if answer.segment == segment => {
                    Ok(SegmentFile::received(fd, answer.len, answer.generation, answer.writable))
                }
                (Some(Err(reason)), _) => Err(lost(&reason)),
                _ => Err(lost("it answers with something else")),
            }
        })
    }

    /// Maps an arena that was sent: for reading and writing, and a second time for reading only. Its mapped files are asked for here.
    /// With `large_pages`, what jobs here write first gets large pages.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::InvalidArgument`] when it cannot be mapped.
    pub(crate) fn map_arena(&self, fd: OwnedFd, len: usize, large_pages: bool) -> Result<Arc<Arena>> {
        let writable = Mapping::attach(fd, len, true)?;
        let read_only = writable.second_view()?;
        let asking = self.clone();
        let attached = Attached::new(read_only, Box::new(move |segment| asking.fetch(segment)));
        Arena::attach(writable, attached, large_pages)
    }
}

/// Answers a worker that wants a mapped file of an arena.
pub(crate) fn answer_fetch(arena: Option<&Arena>, channel: &Channel, segment: u16) {
    let file = match arena {
        Some(arena) => arena.file_of(segment).map_err(|error| error.with_causes()),
        None => Err("it was given no arena".to_owned()),
    };
    // A worker that cannot be answered is gone, or waits in vain and ends its job with an error.
    let _ = match file {
        Ok(file) => {
            let SegmentFile { len, generation, writable, .. } = file;
            let answer = FileAnswer { segment, len, generation, writable };
            channel.send(&FileAnswer::to_bytes(Ok(&answer)), &[file.fd()])
        }
        Err(reason) => channel.send(&FileAnswer::to_bytes(Err(&reason)), &[]),
    };
}
