//! What the programs of this package try themselves out with: the client of hyper, the HTTP library below axum, on one connection.
//!
//! It has no part in what the programs show. Every response has a limit of time and length, so that a server that does not answer ends a
//! program with an error.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The longest a client waits for a response.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest body that is read.
const BODY_MAX: usize = 1 << 20;

/// The square roots of the numbers from 1 to 50,000,000, added up in this order as 64-bit floating-point numbers. Every machine and
/// language that keeps to IEEE 754 has the same digits.
pub const SUM_OF_ROOTS: &str = "235702263930.8374";

/// A connection that is kept open from request to request. Dropping it, in the middle of a request too, closes it, as closing the
/// page does.
#[derive(Debug)]
pub struct Client {
    requests: SendRequest<Empty<Bytes>>,
    /// The task that reads and writes; it is aborted with the set.
    _connection: JoinSet<()>,
}

/// What a server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The lines of the head after the first.
    pub head: HeaderMap,
    /// The body.
    pub body: String,
}

impl Client {
    /// Connects. Inside a runtime of tokio.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(server)).await??;
        stream.set_nodelay(true)?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let mut tasks = JoinSet::new();
        // How it ended, the request under way says too.
        tasks.spawn(async { drop(connection.await) });
        Ok(Self { requests, _connection: tasks })
    }

    /// Asks for a path and waits for the response.
    ///
    /// # Errors
    /// When the connection is gone, no response is there after a minute, or what comes is not HTTP, too long or not UTF-8.
    pub async fn get(&mut self, path: &str) -> io::Result<Response> {
        let request = Request::get(path).header(HOST, "localhost").body(Empty::new()).map_err(io::Error::other)?;
        let answer = async {
            self.requests.ready().await.map_err(io::Error::other)?;
            let (head, body) = self.requests.send_request(request).await.map_err(io::Error::other)?.into_parts();
            let body = Limited::new(body, BODY_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
            let body = String::from_utf8(body.into()).map_err(io::Error::other)?;
            Ok(Response { status: head.status.as_u16(), head: head.headers, body })
        };
        timeout(PATIENCE, answer).await?
    }
}

/// The same for a thread that waits: with a runtime of its own, so that nothing passes from thread to thread.
#[derive(Debug)]
pub struct BlockingClient {
    // Before the runtime, which it needs to end.
    client: Client,
    runtime: Runtime,
}

impl BlockingClient {
    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect(server: SocketAddr) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { client: runtime.block_on(Client::connect(server))?, runtime })
    }

    /// Asks for a path and waits for the response.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.runtime.block_on(self.client.get(path))
    }
}
