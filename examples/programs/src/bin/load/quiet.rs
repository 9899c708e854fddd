//! Whether other programs disturb a measurement.

use std::path::Path;
use std::time::Instant;
use std::{fs, io, thread};

/// Clock ticks that all cores were not idle, and those of them that went to this session: to this program and the servers.
fn ticks() -> io::Result<[f64; 2]> {
    let numbers = |text: &str, first: usize| -> Vec<f64> {
        text.split_whitespace().skip(first).map_while(|word| word.parse().ok()).collect()
    };
    let all = numbers(&fs::read_to_string("/proc/stat")?, 1);
    // After the name, which may have spaces: the state, then the parent, the group, the session; ten further on, the times.
    let stat = |process: &Path| -> Option<Vec<f64>> {
        let text = fs::read_to_string(process.join("stat")).ok()?;
        Some(numbers(text.rsplit_once(')')?.1, 1))
    };
    let session = stat(Path::new("/proc/self")).ok_or(io::ErrorKind::NotFound)?[2];
    let processes = fs::read_dir("/proc")?.filter_map(|entry| stat(&entry.ok()?.path()));
    let own = processes.filter(|stat| stat[2] == session).map(|stat| stat[10] + stat[11]).sum();
    // Without the columns for idle cores and for waiting ones; with those that the host took.
    Ok([all[0] + all[1] + all[2] + all[5] + all[6] + all[7], own])
}

/// The least disturbed of some measurements, and whether other programs took no more than so many percent of the cores meanwhile.
pub(crate) fn undisturbed<T>(limit: f64, again: usize, measure: impl Fn() -> io::Result<T>) -> io::Result<(T, bool)> {
    let cores = thread::available_parallelism()?.get() as f64;
    let mut best: Option<(f64, T)> = None;
    for _ in 0..=again {
        let (start, before) = (Instant::now(), ticks()?);
        let result = measure()?;
        let (took, after) = (start.elapsed().as_secs_f64(), ticks()?);
        // A tick is a hundredth of a second, and so a percent of a core's second.
        let others = ((after[0] - before[0]) - (after[1] - before[1])) / (cores * took);
        if best.as_ref().is_none_or(|(least, _)| others < *least) {
            best = Some((others, result));
        }
        if others <= limit {
            break;
        }
    }
    let (others, result) = best.expect("there was a measurement");
    Ok((result, others <= limit))
}
