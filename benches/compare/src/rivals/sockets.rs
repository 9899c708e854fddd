//! A Unix socket: bytes, copied into the system and out of it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::measure::Sample;
use crate::pace::Pace;
use crate::peer::{self, Peer};
use crate::place::Pair;
use crate::work::{double, microseconds_each};

/// A connected stream to the other process.
fn connect(pair: Pair, how: &str) -> Result<(UnixStream, Peer), String> {
    let path = std::env::temp_dir().join(format!("workring-compare-{}.socket", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|error| error.to_string())?;
    let peer = Peer::start("socket", pair, &[&path.display().to_string(), how]);
    let (stream, _) = listener.accept().map_err(|error| error.to_string())?;
    let _ = std::fs::remove_file(&path);
    Ok((stream, peer))
}

/// Round trips of a number.
pub fn round_trip(pair: Pair, pace: Pace) -> Sample {
    let (mut stream, peer) = connect(pair, "number")?;
    let nanoseconds = pace.measure(pair, |number| {
        stream.write_all(&number.to_le_bytes()).expect("the other process is there");
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).expect("the other process is there");
        u64::from_le_bytes(bytes)
    });
    drop(stream);
    peer.join();
    Ok(nanoseconds)
}

/// Microseconds for a batch there and back, sent as the bytes that it is.
pub fn hand_over(pair: Pair, len: usize, turns: usize) -> Sample {
    let (mut stream, peer) = connect(pair, &len.to_string())?;
    let mut values = vec![0.0f64; len];
    let sample = pair.with_caller(|| {
        microseconds_each(turns, &mut values, |values| {
            stream.write_all(bytemuck::cast_slice(values)).expect("the other process is there");
            stream.read_exact(bytemuck::cast_slice_mut(values)).expect("the other process is there");
        })
    });
    drop(stream);
    peer.join();
    Ok(sample)
}

/// The other process; ends with the stream.
pub fn play(arguments: &[String]) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(&arguments[0])?;
    peer::is_ready();
    if let Ok(len) = arguments[1].parse() {
        let mut values = vec![0.0f64; len];
        while stream.read_exact(bytemuck::cast_slice_mut(&mut values)).is_ok() {
            double(&mut values);
            stream.write_all(bytemuck::cast_slice(&values))?;
        }
        return Ok(());
    }
    let mut bytes = [0; 8];
    while stream.read_exact(&mut bytes).is_ok() {
        stream.write_all(&(u64::from_le_bytes(bytes) + 1).to_le_bytes())?;
    }
    Ok(())
}
