//! Compression of a large file by all cores: results whose size nobody knows before.
//!
//! What `zlib.gzip` on Node's thread pool, or in a pool of workers, is in the Node world, without the copy to the worker and back. The
//! file is cut into blocks; each becomes a member of a gzip file of its own, and members one after the other are a gzip file that
//! every `gunzip` reads. A job gets an output that is large enough for the worst case and says how much of it is the result.
//!
//! Run with `cargo run --release --bin compress`, with a file if you like.

use std::io::{self, Read, Write};
use std::time::Instant;

use flate2::Compression;
use flate2::read::{GzDecoder, MultiGzDecoder};
use flate2::write::GzEncoder;
use workring::{Batch, Context, Engine, Result, SharedBatch, kernel};

/// Bytes of a block: enough that the dictionary each begins without costs less than a percent.
const BLOCK: usize = 128 << 10;

/// The usual trade between size and time.
const LEVEL: u32 = 6;

/// One member of a gzip file.
#[kernel]
fn gzip(block: &[u8], member: &mut [u8], level: &u32, ctx: &mut Context) -> io::Result<()> {
    let room = member.len();
    let mut encoder = GzEncoder::new(member, Compression::new(*level));
    encoder.write_all(block)?;
    let unused = encoder.finish()?.len();
    ctx.set_output_len(0, room - unused);
    Ok(())
}

/// The block of a member. A member that holds more than there is room for is damaged.
#[kernel]
fn gunzip(member: &[u8], block: &mut [u8], ctx: &mut Context) -> io::Result<()> {
    let len = io::copy(&mut GzDecoder::new(member), &mut &mut *block)?;
    ctx.set_output_len(0, len as usize);
    Ok(())
}

/// Bytes that a member may take: what does not compress is stored, with a few bytes for each part of it, a head and a checksum.
fn most(len: usize) -> usize {
    len + len / 512 + 64
}

/// The members of all blocks, in order.
fn compress(engine: &Engine, data: &SharedBatch<u8>) -> Result<Vec<Batch<u8>>> {
    let starts = (0..data.len()).step_by(BLOCK);
    let jobs = starts.map(|start| {
        let block = data.slice(start..(start + BLOCK).min(data.len()));
        let member = engine.batch(most(block.len()))?;
        Ok(engine.submit(gzip, (block, member), LEVEL)?)
    });
    let jobs = jobs.collect::<Result<Vec<_>>>()?;
    jobs.into_iter().map(|job| Ok(job.wait()?.1)).collect()
}

/// What the members hold, block by block.
fn decompress(engine: &Engine, members: Vec<Batch<u8>>) -> Result<Vec<Batch<u8>>> {
    let jobs = members.into_iter().map(|member| Ok(engine.submit(gunzip, (member, engine.batch(BLOCK)?), ())?));
    let jobs = jobs.collect::<Result<Vec<_>>>()?;
    jobs.into_iter().map(|job| Ok(job.wait()?.1)).collect()
}

/// The contents of batches, one after the other.
fn joined(batches: &[Batch<u8>]) -> Vec<u8> {
    batches.iter().flat_map(|batch| batch.iter().copied()).collect()
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/flights_distance.npy");
    let path = std::env::args().nth(1).unwrap_or(usual.to_owned());
    let engine = Engine::new()?;
    // Read straight to where the workers find it.
    let mut file = std::fs::File::open(&path)?;
    let mut data = engine.batch(file.metadata()?.len().try_into()?)?;
    file.read_exact(&mut data)?;
    let data = data.freeze();

    let start = Instant::now();
    let members = compress(&engine, &data)?;
    let took = start.elapsed();
    let file = joined(&members);
    println!("{path}: {} bytes in {} members, {} as gzip, {took:?}", data.len(), members.len(), file.len());

    // The same bytes as one thread makes, one block after the other.
    let start = Instant::now();
    let mut alone = Vec::new();
    for block in data.chunks(BLOCK) {
        let mut encoder = GzEncoder::new(&mut alone, Compression::new(LEVEL));
        encoder.write_all(block)?;
        encoder.finish()?;
    }
    println!("one thread: {:?}", start.elapsed());
    assert!(file == alone);

    // Any reader of gzip files gets back what was put in, and so do the workers.
    let mut back = Vec::new();
    MultiGzDecoder::new(&file[..]).read_to_end(&mut back)?;
    assert!(back[..] == data[..]);
    assert!(joined(&decompress(&engine, members)?)[..] == data[..]);

    // What does not compress still has room; what is damaged is an error of that job, and the batches come back.
    let mut state = 1_u64;
    let noise = engine.batch_from_fn(BLOCK, |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })?;
    let mut members = compress(&engine, &noise.freeze())?;
    assert!(members[0].len() > BLOCK);
    members[0][BLOCK / 2] ^= 1;
    let failed = engine.submit(gunzip, (members.remove(0), engine.batch(BLOCK)?), ())?.wait().unwrap_err();
    println!("{}", failed.error);
    assert!(failed.error.to_string().starts_with("kernel gunzip failed"));
    Ok(())
}
