//! Features for a model from a column of real data: normalised values and buckets of equal counts, with missing values kept apart.
//!
//! Run with `cargo run --release --example features`.

use workring::bytemuck::{Pod, Zeroable};
use workring::{Engine, kernel, kernels, reducer};

/// Edges between buckets; those of equal counts are found by looking at a histogram that is finer.
const BUCKETS: usize = 10;
/// Whole minutes from -100 on are counted by themselves, what lies beyond in the first and the last.
const FINE: usize = 512;
const FIRST: f64 = -100.0;
/// The bucket of a missing value.
const MISSING: u8 = u8::MAX;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Histogram([u64; FINE]);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Scale {
    mean: f64,
    deviation: f64,
    edges: [f64; BUCKETS - 1],
}

/// How often each minute occurs.
#[reducer(combine = |left, right| Histogram(std::array::from_fn(|minute| left.0[minute] + right.0[minute])))]
fn histogram(x: &[f64]) -> Histogram {
    let mut counts = [0; FINE];
    for x in x.iter().filter(|x| !x.is_nan()) {
        counts[((x - FIRST) as usize).min(FINE - 1)] += 1;
    }
    Histogram(counts)
}

/// Each value as standard deviations from the mean, and the bucket it falls into.
#[kernel]
fn features(x: &[f64], normal: &mut [f64], bucket: &mut [u8], scale: &Scale) {
    for ((x, normal), bucket) in x.iter().zip(normal).zip(bucket) {
        *normal = (x - scale.mean) / scale.deviation;
        *bucket = match x.is_nan() {
            true => MISSING,
            false => scale.edges.iter().filter(|edge| x >= *edge).count() as u8,
        };
    }
}

/// The first minute at which the next bucket begins, for each bucket but the last.
fn edges_of(counts: &Histogram) -> [f64; BUCKETS - 1] {
    let total: u64 = counts.0.iter().sum();
    let (mut edges, mut found, mut seen) = ([f64::INFINITY; BUCKETS - 1], 0, 0);
    for (minute, count) in counts.0.iter().enumerate() {
        while found < edges.len() && seen >= total * (found as u64 + 1) / BUCKETS as u64 {
            edges[found] = FIRST + minute as f64;
            found += 1;
        }
        seen += count;
    }
    edges
}

fn main() -> workring::Result<()> {
    workring::worker_entry(kernels![features, histogram, kernels::f64::stats]);

    // The file's pages are the batch: nothing is read before a worker looks at it. Both engines map the same pages.
    let path = "examples/data/flights_arr_delay.npy";
    let known = kernels![features, histogram, kernels::f64::stats];
    let threads = Engine::builder().threads(2).build()?;
    let processes = Engine::builder().processes(2).kernels(known).build();
    let engines = match processes {
        Ok(processes) => vec![("threads", threads), ("processes", processes)],
        Err(reason) => {
            println!("no worker processes here: {reason}");
            vec![("threads", threads)]
        }
    };
    let mut bits = Vec::new();
    for (name, engine) in &engines {
        let delays = engine.map_file::<f64>(path)?;
        let stats = engine.reduce(kernels::f64::stats, &delays)?;
        let edges = edges_of(&engine.reduce(histogram, &delays)?);
        let scale = Scale { mean: stats.mean(), deviation: stats.standard_deviation(), edges };
        let (mut normal, mut bucket) = (engine.batch::<f64>(delays.len())?, engine.batch::<u8>(delays.len())?);
        engine.map(features, &delays, (&mut normal, &mut bucket), &scale)?;

        let check = engine.reduce(kernels::f64::stats, &normal)?;
        assert!(check.mean().abs() < 1e-12 && (check.standard_deviation() - 1.0).abs() < 1e-12);
        let mut counts = [0_u64; BUCKETS];
        bucket.iter().filter(|bucket| **bucket != MISSING).for_each(|bucket| counts[usize::from(*bucket)] += 1);
        assert_eq!(counts.iter().sum::<u64>(), stats.count());
        assert_eq!(bucket.iter().filter(|bucket| **bucket == MISSING).count() as u64, stats.nan());
        // As equal as whole minutes allow: a minute is in one bucket.
        assert!(counts.iter().all(|count| count.abs_diff(stats.count() / BUCKETS as u64) < 11_000), "{counts:?}");
        println!(
            "{name}: {} delays, {} missing, mean {:.2} min, edges {edges:?}",
            stats.len(),
            stats.nan(),
            scale.mean
        );
        bits.push(check.sum().to_bits());
    }
    assert!(bits.windows(2).all(|two| two[0] == two[1]), "the same bits from threads and processes");
    Ok(())
}
