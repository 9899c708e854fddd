//! A large file of JSON lines, parsed into columns by worker processes that read it where it lies.
//!
//! What `JSON.parse` in a pool of workers is in the Node world, where the text is copied to the worker and the objects are copied back.
//! Here a job is handed a part of one shared batch, and what comes back are columns of numbers, ready to be computed with. What
//! strangers send is parsed in processes: whatever it does to the parser, the program goes on.
//!
//! Run with `cargo run --release --bin json`.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Instant;

use serde::Deserialize;
use workring::{Batch, Context, Engine, Error, Result, SharedBatch, kernel, kernels};

/// Bytes of text that a job gets, up to the end of a line.
const PART: usize = 1 << 20;

/// What is wanted of a line; whatever else it has is skipped.
#[derive(Deserialize)]
struct Trade<'a> {
    time: u64,
    #[serde(borrow)]
    symbol: Cow<'a, str>,
    price: f64,
    size: u32,
}

/// A symbol as a number: its first eight bytes.
fn code(symbol: &str) -> u64 {
    symbol.bytes().take(8).fold(0, |code, byte| code << 8 | u64::from(byte))
}

/// Columns of the lines of a text; blank lines are skipped. A line that is not as it should be fails the part, and is named.
#[kernel]
fn parse(
    text: &[u8],
    time: &mut [u64],
    symbol: &mut [u64],
    price: &mut [f64],
    size: &mut [u32],
    ctx: &mut Context,
) -> Result<(), String> {
    let mut rows = 0;
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let trade: Trade<'_> = serde_json::from_slice(line).map_err(|error| format!("line {}: {error}", number + 1))?;
        (time[rows], symbol[rows], price[rows], size[rows]) =
            (trade.time, code(&trade.symbol), trade.price, trade.size);
        rows += 1;
    }
    (0..4).for_each(|output| ctx.set_output_len(output, rows));
    Ok(())
}

/// The columns of a part.
type Columns = (Batch<u64>, Batch<u64>, Batch<f64>, Batch<u32>);

/// Parts of about equal length that end where lines do.
fn parts(text: &SharedBatch<u8>) -> Vec<SharedBatch<u8>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    while start < text.len() {
        let least = (start + PART).min(text.len());
        let rest = text[least..].iter().position(|&byte| byte == b'\n').map_or(text.len() - least, |at| at + 1);
        parts.push(text.slice(start..least + rest));
        start = least + rest;
    }
    parts
}

/// Parses all parts at once. Each has its columns or its error.
fn columns(engine: &Engine, text: &SharedBatch<u8>) -> Result<Vec<Result<Columns>>> {
    let jobs = parts(text).into_iter().map(|part| {
        // As many rows as there may be; the kernel says how many there are.
        let rows = part.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let columns = (engine.batch(rows)?, engine.batch(rows)?, engine.batch(rows)?, engine.batch(rows)?);
        Ok(engine.submit(parse, (part, columns.0, columns.1, columns.2, columns.3), ())?)
    });
    let jobs = jobs.collect::<Result<Vec<_>>>()?;
    let wait = |job: workring::Job<_>| {
        let (_, time, symbol, price, size) = job.wait()?;
        Ok((time, symbol, price, size))
    };
    Ok(jobs.into_iter().map(wait).collect())
}

/// Lines as an exchange might write them, the same every time.
fn lines(count: u64) -> String {
    let mut text = String::new();
    for number in 0..count {
        let random = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let (symbol, price, size) =
            (["ABC", "XY\\u005A", "Q"][random as usize % 3], 10.0 + (random % 9973) as f64 / 64.0, random % 500);
        let time = 1_700_000_000_000 + number;
        writeln!(
            text,
            r#"{{"time":{time},"symbol":"{symbol}","price":{price},"size":{size},"flags":["a",{{"b":null}}]}}"#
        )
        .expect("a string takes everything");
    }
    text
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    workring::worker_entry(kernels![parse]);
    let engine = Engine::builder().processes(2).kernels(kernels![parse]).build()?;
    let text = lines(200_000);
    let shared = engine.batch_from_slice(text.as_bytes())?.freeze();

    let start = Instant::now();
    let found = columns(&engine, &shared)?.into_iter().collect::<Result<Vec<_>>>()?;
    println!("{} bytes in {} parts parsed in {:?}", text.len(), found.len(), start.elapsed());

    // The same as a tree of values, one line after the other.
    let start = Instant::now();
    let mut rows = found.iter().flat_map(|(time, symbol, price, size)| {
        time.iter().zip(&symbol[..]).zip(&price[..]).zip(&size[..]).map(|(((t, c), p), s)| (*t, *c, p.to_bits(), *s))
    });
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line)?;
        let number = |name: &str| value[name].as_u64().expect("a number");
        let price = value["price"].as_f64().expect("a number").to_bits();
        let symbol = code(value["symbol"].as_str().expect("a text"));
        assert_eq!(rows.next(), Some((number("time"), symbol, price, number("size") as u32)));
    }
    assert_eq!(rows.next(), None);
    println!("one thread, tree by tree: {:?}", start.elapsed());

    // What is damaged fails its own part, with its line; so does what is nested a hundred thousand times. The other parts are fine.
    for damage in [r#"{"time":1,"price":"#.to_owned(), format!(r#"{{"time":1,"note":{}"#, "[".repeat(100_000))] {
        let (before, after) = text.split_at(text.len() / 2 + text[text.len() / 2..].find('\n').expect("a line") + 1);
        let damaged = engine.batch_from_slice([before, &damage, "\n", after].concat().as_bytes())?;
        let found = columns(&engine, &damaged.freeze())?;
        let failed: Vec<&Error> = found.iter().filter_map(|part| part.as_ref().err()).collect();
        assert!(
            matches!(failed[..], [Error::KernelFailed { message, .. }] if message.starts_with("line ")),
            "{failed:?}"
        );
        println!("{}", failed[0]);
    }
    Ok(())
}
