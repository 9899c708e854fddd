//! Numbers that are never copied: a mapped input file, batches that move into jobs and back, a result file filled in place.
//!
//! Run with `cargo run --release --example zero_copy`.

use workring::{Engine, kernel};

/// Minutes to hours; NaN (a cancelled flight) stays NaN.
#[kernel]
pub fn to_hours(minutes: &[f64], hours: &mut [f64]) {
    for (hours, minutes) in hours.iter_mut().zip(minutes) {
        *hours = minutes / 60.0;
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("delay_hours.npy");

    // The pages of the file are the batch.
    let delays = engine.map_file::<f64>("examples/data/flights_arr_delay.npy")?;
    assert_eq!(delays.len(), 336_776);

    // Two halves of one batch move into two jobs and come back by value. Whatever their size, a job carries only handles.
    let half = delays.len() / 2;
    let (left, right) = engine.batch::<f64>(delays.len())?.into_split_at(half);
    let address = left.as_ptr();
    let first = engine.submit(to_hours, (delays.slice(..half), left), ())?;
    let second = engine.submit(to_hours, (delays.slice(half..), right), ())?;
    let ((_, left), (_, right)) = (first.wait()?, second.wait()?);
    assert_eq!(left.as_ptr(), address, "the same memory came back");

    // A result file: the kernel writes into its pages, and the file appears under its name with `commit`.
    let mut file = engine.create_file::<f64>(&path, delays.len())?;
    engine.map(to_hours, &delays, &mut file, &())?;
    assert!(!path.exists());
    file.commit()?;

    let written = engine.map_file::<f64>(&path)?;
    let expected = left.iter().chain(right.iter());
    assert!(written.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()));
    println!("{} delays in hours; the first flight was {:.2} hours late", written.len(), written[0]);
    Ok(())
}
