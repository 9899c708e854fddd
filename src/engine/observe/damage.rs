//! Damage to the control segment, as a fault of the hardware or a stray write would do it: for the project's own tests.

use crate::engine::runtime::Core;
use crate::layout::geometry::PRIORITIES;
use crate::layout::words::State;
use crate::lockfree::job;
use crate::sync::Ordering;

/// Writes a lap that never was into every cell of the shared rings: a thread that takes jobs finds it.
pub(crate) fn spoil_rings(core: &Core) {
    for priority in 0..PRIORITIES {
        let (_, cells) = core.control.ring(priority);
        cells.iter().for_each(|cell| cell.store(0x7777_0000_0000, Ordering::Relaxed));
    }
}

/// Takes every entry out of the rings, as if their cells had been overwritten: the jobs stay queued, and nothing leads to them.
pub(crate) fn lose_entries(core: &Core) {
    core.all_rings().for_each(|ring| {
        let _ = ring.compact(|_| false);
    });
}

/// Clears the word by which a worker that ends a job learns that a task waits until nothing is left.
pub(crate) fn forget_who_waits_for_all(core: &Core) {
    core.control.engine_line().drain_watched.store(0, Ordering::Relaxed);
}

/// Flips bits in the word of every running job; how many there were.
pub(crate) fn flip_running(core: &Core, bits: u64) -> usize {
    let mut flipped = 0;
    for descriptor in core.control.descriptors() {
        if job::snapshot(&descriptor.word).is(State::Running) {
            descriptor.word.fetch_xor(bits, Ordering::Relaxed);
            flipped += 1;
        }
    }
    flipped
}

/// Flips one of the bits by which sleepers are found and called: of the bitmaps of sleepers and searchers, of the park words of every row
/// and of the first completion ports, and of the summary of redelivered jobs. Says which word it was, or nothing when there are no more.
pub(crate) fn flip_waking(core: &Core, bit: usize) -> Option<String> {
    let control = &core.control;
    let line = control.idle_line();
    let maps = line.idle.iter().map(|word| ("idle", word)).chain(line.searching.iter().map(|word| ("searching", word)));
    let words: Vec<_> = maps.chain([("redelivery", &control.engine_line().redelivery)]).collect();
    if let Some((name, word)) = words.get(bit / 64) {
        let before = word.fetch_xor(1 << (bit % 64), Ordering::Relaxed);
        return Some(format!("bit {} of word {} ({name}), {before:#x}", bit % 64, bit / 64));
    }
    let bit = bit - 64 * words.len();
    let rows = control.participants().iter().map(|row| ("park word of row", &row.park));
    let ports = (0..2).filter_map(|port| Some(("park word of port", &control.port(port)?.0.park)));
    let (name, word) = rows.chain(ports).nth(bit / 32)?;
    let before = word.fetch_xor(1 << (bit % 32), Ordering::Relaxed);
    Some(format!("bit {} of the {name} {}, {before:#x}", bit % 32, bit / 32))
}
