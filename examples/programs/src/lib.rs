//! What the programs of this package try themselves out with: a client that speaks as much HTTP/1.1 as that takes.
//!
//! It blocks, and has no part in what the programs show. Every read has a limit of time, so that a server that does not answer ends a
//! program with an error.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest a client waits for the next byte of a response.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest body that is read.
const BODY_MAX: usize = 1 << 20;

/// The square roots of the numbers from 1 to 50,000,000, added up in this order as 64-bit floating-point numbers. Every machine and
/// language that keeps to IEEE 754 has the same digits.
pub const SUM_OF_ROOTS: &str = "235702263930.8374";

/// A connection that is kept open from request to request.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// What a server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The lines of the head after the first, as they came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks for a path and waits for the response.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::receive`].
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(path)?;
        self.receive()
    }

    /// Asks for a path. Dropping the client before it received the response is what a visitor does who closes the page.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, path: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
    }

    /// Waits for the response to the oldest request that has none.
    ///
    /// # Errors
    /// When the connection is gone, nothing comes for a minute, or what comes is not HTTP with a length.
    pub fn receive(&mut self) -> io::Result<Response> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| invalid(&first))?;
        let (mut head, mut len) = (String::new(), None);
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                len = value.trim().parse().ok().filter(|&len| len <= BODY_MAX);
            }
            head += &line;
            head.push('\n');
        }
        let mut body = vec![0; len.ok_or_else(|| invalid(&head))?];
        self.stream.read_exact(&mut body)?;
        Ok(Response { status, head, body: String::from_utf8(body).map_err(|error| invalid(&error.to_string()))? })
    }

    /// A line without its end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if (&mut self.stream).take(8192).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no response that this client understands: {what}"))
}
