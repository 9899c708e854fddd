//! What the machine gives to any program: the floor under every other question of the same run.

use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::File;
use std::ptr::NonNull;
use std::thread;
use std::time::Instant;

use rustix::fs::MemfdFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::Effort;
use crate::bare::{self, Waiting};
use crate::measure::{Better, Measured, Table};
use crate::pace::Pace;
use crate::place::Pair;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let mut measured = vec![effort.run(hand_offs(effort))?];
    measured.push(effort.run(bandwidth(effort.pick(1 << 25, 1 << 16)))?);
    measured.push(effort.run(first_touch(effort.pick(64 << 20, 1 << 20)))?);
    Ok(measured)
}

/// One word, or two, that go from core to core; threads and processes that sleep until they do.
fn hand_offs(effort: Effort) -> Table<'static> {
    let mut table = Table::new("a word there and back", "ns", Better::Lower);
    let (fast, slow) =
        (Pace::BackToBack(effort.pick(200_000, 50)), move |full| Pace::BackToBack(effort.pick(full, 20)));
    if let Some(split) = Pair::split() {
        table.limit("one cache line, two cores", move || Ok(one_line(split, effort.pick(200_000, 50))));
        table.limit("two cache lines, two cores", move || Ok(bare::between_threads(split, fast, Waiting::Spin)));
        table.limit("private futex, two cores", move || Ok(bare::between_threads(split, slow(2_000), Waiting::Sleep)));
        table.limit("shared futex, two cores", move || Ok(bare::between_processes(split, slow(2_000), Waiting::Sleep)));
    }
    let same = Pair::same();
    table.limit("private futex, one core", move || Ok(bare::between_threads(same, slow(20_000), Waiting::Sleep)));
    table.limit("shared futex, one core", move || Ok(bare::between_processes(same, slow(20_000), Waiting::Sleep)));
    table
}

/// What every exchange between cores is made of, for questions that have nothing else to measure it by.
pub fn line_crossing(effort: Effort, pair: Pair) -> Table<'static> {
    let mut table = Table::new("a word there and back", "ns", Better::Lower);
    table.limit("one cache line, two cores", move || Ok(one_line(pair, effort.pick(200_000, 50))));
    table
}

/// Two threads that count one word up in turn.
fn one_line(pair: Pair, trips: u64) -> f64 {
    let word = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            pair.pin_worker();
            count_every_second(&word, 1, trips);
        });
        pair.with_caller(|| {
            let start = Instant::now();
            count_every_second(&word, 0, trips);
            start.elapsed().as_secs_f64() * 1e9 / trips as f64
        })
    })
}

fn count_every_second(word: &AtomicU64, first: u64, trips: u64) {
    for trip in 0..trips {
        let expected = 2 * trip + first;
        while word.load(Ordering::Acquire) != expected {
            spin_loop();
        }
        word.store(expected + 1, Ordering::Release);
    }
}

/// One pass over the shares of a thread in three arrays.
type Pass = fn(&mut [f64], &[f64], &[f64]);

/// Bytes read and written a second by one thread and by one on each core, each over its share of arrays of `len` f64.
fn bandwidth(len: usize) -> Table<'static> {
    let mut table = Table::new(format!("memory bandwidth, arrays of {} MiB", (len * 8) >> 20), "GB/s", Better::Higher);
    let cores = crate::place::allowed().len();
    let ways: [(&str, usize, Pass); 4] = [
        ("read", 1, |_, b, _| {
            black_box(sum(b));
        }),
        ("fill", 1, |a, _, _| a.fill(1.5)),
        ("copy", 2, |a, b, _| a.copy_from_slice(b)),
        ("triad", 3, |a, b, c| a.iter_mut().zip(b).zip(c).for_each(|((a, b), c)| *a = b + 3.0 * c)),
    ];
    for threads in [1, cores] {
        for (name, arrays, work) in ways {
            let (mut a, b, c) = (vec![0.5; len], vec![1.0; len], vec![2.0; len]);
            let name = format!("{name}, {threads} thread{}", if threads == 1 { "" } else { "s" });
            table.limit(name, move || {
                let share = len.div_ceil(threads);
                // The fastest of three passes: a core that is taken away for a moment is not the memory's doing.
                let pass = |_| {
                    let start = Instant::now();
                    thread::scope(|scope| {
                        for ((a, b), c) in a.chunks_mut(share).zip(b.chunks(share)).zip(c.chunks(share)) {
                            scope.spawn(move || work(a, b, c));
                        }
                    });
                    start.elapsed().as_secs_f64()
                };
                let seconds = (0..3).map(pass).fold(f64::INFINITY, f64::min);
                Ok((arrays * len * 8) as f64 / 1e9 / seconds)
            });
        }
    }
    table
}

/// In independent lanes, so that no addition waits for the one before it.
fn sum(values: &[f64]) -> f64 {
    let mut lanes = [0.0; 32];
    for part in values.chunks_exact(lanes.len()) {
        lanes.iter_mut().zip(part).for_each(|(lane, value)| *lane += value);
    }
    lanes.iter().sum()
}

/// A mapping of its own, unmapped when it is dropped.
struct Memory {
    start: NonNull<u8>,
    len: usize,
}

impl Memory {
    fn anonymous(len: usize) -> Self {
        // SAFETY: a new mapping takes nobody's memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                core::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        Self::of(start.expect("memory").cast(), len)
    }

    fn shared(len: usize) -> Self {
        let file = File::from(rustix::fs::memfd_create("touch", MemfdFlags::CLOEXEC).expect("a memfd"));
        file.set_len(len as u64).expect("a length");
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as above.
        let start = unsafe { rustix::mm::mmap(core::ptr::null_mut(), len, protection, MapFlags::SHARED, &file, 0) };
        Self::of(start.expect("memory").cast(), len)
    }

    fn of(start: *mut u8, len: usize) -> Self {
        Self { start: NonNull::new(start).expect("nothing lies at zero"), len }
    }

    fn advise(self, advice: Advice) -> Self {
        // SAFETY: the advice concerns a mapping of our own and changes no byte that was written.
        let _ = unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.len, advice) };
        self
    }

    /// Writes a byte of every page.
    fn touch(&mut self) {
        for at in (0..self.len).step_by(4096) {
            // SAFETY: inside the mapping, which this alone uses.
            unsafe { self.start.as_ptr().add(at).write_volatile(1) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: nobody refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

type Map = fn(usize) -> Memory;

/// What it costs to write to memory for the first time.
fn first_touch(len: usize) -> Table<'static> {
    let mut table = Table::new(format!("first touch of {} MiB", len >> 20), "ms", Better::Lower);
    let ways: [(&str, Map); 4] = [
        ("anonymous, small pages", |len| Memory::anonymous(len).advise(Advice::LinuxNoHugepage)),
        ("anonymous, large pages", |len| Memory::anonymous(len).advise(Advice::LinuxHugepage)),
        ("memfd", Memory::shared),
        ("memfd, populated in one call", |len| Memory::shared(len).advise(Advice::LinuxPopulateWrite)),
    ];
    for (name, map) in ways {
        table.limit(name, move || {
            let start = Instant::now();
            let mut memory = map(len);
            memory.touch();
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            drop(memory);
            Ok(milliseconds)
        });
    }
    table
}
