//! Ranges of chunks: how the participants of one call divide its chunks among themselves (`docs/protocol.md`, "Ranges").
//!
//! Each partition starts with an equal part of the chunks, takes them from the front, and when it has none left steals half of another partition's
//! rest from the back.

use crate::engine::job::chunk_plan::Plan;
use crate::fault::{self, Point};
use crate::layout::records::{FanOutHeader, RangeLine, fan_out_mode};
use crate::layout::words::{ProgressWord, RangeWord};
use crate::lockfree::range;
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Why no further chunk is started; values of the header's stop word.
pub(crate) mod stop {
    pub(crate) const CANCELLED: u32 = 1;
    pub(crate) const FAILED: u32 = 2;
    pub(crate) const DEADLINE: u32 = 3;
    /// A range named a chunk that the call does not have.
    pub(crate) const CORRUPT: u32 = 4;
}

/// What a chunk says when it is over.
pub(crate) enum ChunkEnd {
    Done,
    /// Start no further chunk; one of the values of [`stop`].
    Stop(u32),
}

/// Runs chunks of a fan-out until none is left or somebody says stop, and notes how long that took. Returns the chunk in which this partition
/// failed.
pub(crate) fn run_partition(
    header: &FanOutHeader,
    ranges: &[RangeLine],
    partition: u32,
    chunks: u32,
    body: impl FnMut(u32) -> ChunkEnd,
) -> Option<u32> {
    let own = ranges.get(partition as usize)?;
    let begun = Deadline::now().nanoseconds();
    let failed = run_chunks(header, ranges, partition, chunks, body);
    let took = Deadline::now().nanoseconds().saturating_sub(begun);
    // Relaxed: only this partition writes it, and its end publishes it (R3).
    own.busy_ns.store(own.busy_ns.load(Ordering::Relaxed).saturating_add(took), Ordering::Relaxed);
    failed
}

fn run_chunks(
    header: &FanOutHeader,
    ranges: &[RangeLine],
    partition: u32,
    chunks: u32,
    mut body: impl FnMut(u32) -> ChunkEnd,
) -> Option<u32> {
    let own = ranges.get(partition as usize)?;
    // Relaxed loads: only this partition writes the word. Release stores: the outputs of the chunks it counts come before.
    let progress = || ProgressWord::from_bits(own.progress.load(Ordering::Relaxed));
    let set_progress = |word: ProgressWord| own.progress.store(word.bits(), Ordering::Release);
    loop {
        let Some(chunk) = next_chunk(ranges, partition, |chunk| set_progress(progress().at(chunk))) else {
            set_progress(progress().between_chunks());
            return None;
        };
        fault::point(Point::F38_taken);
        // Relaxed: the word carries no data; a stop seen late costs a chunk.
        if header.stop.load(Ordering::Relaxed) != 0 {
            return None;
        }
        if chunk >= chunks {
            header.stop.store(stop::CORRUPT, Ordering::Relaxed);
            return None;
        }
        match body(chunk) {
            ChunkEnd::Done => {
                fault::point(Point::F41_run);
                set_progress(progress().finished());
                fault::point(Point::F42_counted);
            }
            ChunkEnd::Stop(reason) => {
                // The first reason stands.
                let _ = header.stop.compare_exchange(0, reason, Ordering::Relaxed, Ordering::Relaxed);
                if reason == stop::FAILED {
                    own.failed.store(u64::from(chunk) + 1, Ordering::Relaxed);
                    return Some(chunk);
                }
                return None;
            }
        }
    }
}

/// The next chunk of the partition's own range, or the first one stolen from another's; `None` when all ranges are empty.
///
/// `announce` is told of the chunk: before it is taken from the own range, after it was stolen. A partition that dies between a theft
/// and its announcement loses chunks that nobody can name; the call notices that some were never finished.
fn next_chunk(ranges: &[RangeLine], partition: u32, announce: impl Fn(u32)) -> Option<u32> {
    let own = ranges.get(partition as usize)?;
    range::take_front(&own.range, &announce).or_else(|| {
        let stolen = (1..ranges.len()).find_map(|step| {
            let victim = &ranges[(partition as usize + step) % ranges.len()];
            range::steal(&own.range, &victim.range)
        })?;
        announce(stolen);
        Some(stolen)
    })
}

/// Makes a partition that died with its worker ready to be run again: the chunk it was at goes back into its range.
pub(crate) fn repair_partition(line: &RangeLine) {
    // Acquire: pairs with the release stores in `run_partition`.
    let progress = ProgressWord::from_bits(line.progress.load(Ordering::Acquire));
    if let Some(chunk) = progress.current() {
        range::put_back(&line.range, chunk);
        line.progress.store(progress.between_chunks().bits(), Ordering::Release);
    }
}

/// Chunks that were finished.
pub(in crate::engine) fn finished_chunks(ranges: &[RangeLine]) -> u64 {
    // Acquire: pairs with the release stores in `run_partition`.
    ranges.iter().map(|line| u64::from(ProgressWord::from_bits(line.progress.load(Ordering::Acquire)).done())).sum()
}

/// Nanoseconds that the chunks took, of all partitions together.
pub(in crate::engine) fn busy_nanoseconds(ranges: &[RangeLine]) -> u64 {
    ranges.iter().fold(0, |sum, line| sum.saturating_add(line.busy_ns.load(Ordering::Relaxed)))
}

/// Chunks that wait in a range.
pub(in crate::engine) fn waiting_chunks(ranges: &[RangeLine]) -> u64 {
    ranges.iter().map(|line| u64::from(range::remaining(&line.range))).sum()
}

/// Handles of a job of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowHandles {
    pub(crate) params: u64,
    pub(crate) statuses: u64,
}

/// Fills a fan-out block: every chunk waits in a range.
pub(crate) fn prepare(header: &FanOutHeader, ranges: &[RangeLine], plan: &Plan, rows: Option<RowHandles>, mode: u64) {
    // Relaxed, all of them: the publication of the partitions (R1) makes them visible.
    let partitions = ranges.len() as u32;
    header.chunks.store(plan.chunks, Ordering::Relaxed);
    header.partitions.store(partitions, Ordering::Relaxed);
    header.chunk_len.store(plan.chunk_len as u64, Ordering::Relaxed);
    header.total_len.store(plan.total_len as u64, Ordering::Relaxed);
    header.halo.store(plan.halo as u32, Ordering::Relaxed);
    header.stop.store(0, Ordering::Relaxed);
    header.mode.store(mode, Ordering::Relaxed);
    let rows = rows.unwrap_or(RowHandles { params: 0, statuses: 0 });
    header.param_rows.store(rows.params, Ordering::Relaxed);
    header.row_status.store(rows.statuses, Ordering::Relaxed);
    header.failed_rows.store(0, Ordering::Relaxed);
    for (partition, line) in ranges.iter().enumerate() {
        let part: RangeWord = range::initial(plan.chunks, partition as u32, partitions);
        line.range.store(part.bits(), Ordering::Relaxed);
        line.progress.store(0, Ordering::Relaxed);
        line.failed.store(0, Ordering::Relaxed);
        line.busy_ns.store(0, Ordering::Relaxed);
    }
}

/// A fan-out of rows with a single partition, in memory of its own.
pub(crate) fn single_partition(plan: &Plan, rows: RowHandles) -> (FanOutHeader, RangeLine) {
    let header = FanOutHeader {
        chunks: AtomicU32::new(plan.chunks),
        partitions: AtomicU32::new(1),
        chunk_len: AtomicU64::new(plan.chunk_len as u64),
        total_len: AtomicU64::new(plan.total_len as u64),
        halo: AtomicU32::new(0),
        stop: AtomicU32::new(0),
        param_rows: AtomicU64::new(rows.params),
        row_status: AtomicU64::new(rows.statuses),
        failed_rows: AtomicU64::new(0),
        mode: AtomicU64::new(fan_out_mode::ROWS),
    };
    let range = RangeLine {
        range: AtomicU64::new(range::initial(plan.chunks, 0, 1).bits()),
        progress: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        busy_ns: AtomicU64::new(0),
        zero: [const { AtomicU64::new(0) }; 4],
    };
    (header, range)
}
