//! ipc-channel: messages through sockets of the system.

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender};

use crate::measure::Sample;
use crate::pace::Pace;
use crate::peer::{self, Peer};
use crate::place::Pair;
use crate::work::{double, microseconds_each};

type Ends = (IpcSender<u64>, IpcReceiver<u64>);

/// Round trips of a number.
pub fn round_trip(pair: Pair, pace: Pace) -> Sample {
    let (server, name) = IpcOneShotServer::<Ends>::new().map_err(|error| error.to_string())?;
    let peer = Peer::start("ipc", pair, &[&name]);
    let (_, (ask, replied)) = server.accept().map_err(|error| error.to_string())?;
    let nanoseconds = pace.measure(pair, |number| {
        ask.send(number).expect("the other process is there");
        replied.recv().expect("the other process is there")
    });
    drop(ask);
    peer.join();
    Ok(nanoseconds)
}

/// Microseconds for a batch there and back, sent as bytes.
pub fn hand_over(pair: Pair, len: usize, turns: usize) -> Sample {
    let failed = |error: &dyn core::fmt::Display| error.to_string();
    let (server, name) = IpcOneShotServer::<ByteEnds>::new().map_err(|error| failed(&error))?;
    let peer = Peer::start("ipc", pair, &[&name, "bytes"]);
    let (_, (ask, replied)) = server.accept().map_err(|error| failed(&error))?;
    let mut values = vec![0.0f64; len];
    let sample = pair.with_caller(|| {
        microseconds_each(turns, &mut values, |values| {
            ask.send(bytemuck::cast_slice(values)).expect("the other process is there");
            let bytes = replied.recv().expect("the other process is there");
            // Bytes that came through a channel lie at no particular address.
            bytemuck::cast_slice_mut(values).copy_from_slice(&bytes);
        })
    });
    drop(ask);
    peer.join();
    Ok(sample)
}

type ByteEnds = (IpcBytesSender, IpcBytesReceiver);

fn play_bytes(name: &str) -> Result<(), Box<dyn core::error::Error>> {
    let ((ask, asked), (reply, replied)) = (ipc::bytes_channel()?, ipc::bytes_channel()?);
    peer::is_ready();
    IpcSender::<ByteEnds>::connect(name.to_owned())?.send((ask, replied))?;
    let mut values = Vec::new();
    while let Ok(bytes) = asked.recv() {
        values.resize(bytes.len() / size_of::<f64>(), 0.0);
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(&bytes);
        double(&mut values);
        reply.send(bytemuck::cast_slice(&values))?;
    }
    Ok(())
}

/// The other process; ends when nobody can ask any more.
pub fn play(arguments: &[String]) -> Result<(), Box<dyn core::error::Error>> {
    if arguments.len() > 1 {
        return play_bytes(&arguments[0]);
    }
    let ((ask, asked), (reply, replied)) = (ipc::channel::<u64>()?, ipc::channel::<u64>()?);
    // The peer counts as ready when it can be asked for its ends.
    peer::is_ready();
    IpcSender::<Ends>::connect(arguments[0].clone())?.send((ask, replied))?;
    while let Ok(number) = asked.recv() {
        reply.send(number + 1)?;
    }
    Ok(())
}
