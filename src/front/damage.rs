//! What the project's own tests do to the control segment, as a fault of the hardware or a stray write would.

use super::engine::Engine;
use crate::layout::geometry::PRIORITIES;
use crate::layout::words::State;
use crate::lockfree::job;
use crate::sync::Ordering;

/// Length of an engine's control segment in bits.
pub fn bits(engine: &Engine) -> u64 {
    engine.core().control.bits()
}

/// Flips one bit of an engine's control segment, in one step; what the word of 32 bits around it was before, or nothing outside
/// the segment.
pub fn flip(engine: &Engine, bit: u64) -> Option<u32> {
    engine.core().control.flip(bit)
}

/// The word of 32 bits around a bit.
pub fn peek(engine: &Engine, bit: u64) -> Option<u32> {
    engine.core().control.peek(bit)
}

/// Writes a lap that never was into every cell of the engine's shared rings: whoever takes jobs finds it.
pub fn spoil_rings(engine: &Engine) {
    for priority in 0..PRIORITIES {
        let (_, cells) = engine.core().control.ring(priority);
        cells.iter().for_each(|cell| cell.store(0x7777_0000_0000, Ordering::Relaxed));
    }
}

/// Flips bits in the word of every running job; how many there were.
pub fn flip_running(engine: &Engine, bits: u64) -> usize {
    let mut flipped = 0;
    for descriptor in engine.core().control.descriptors() {
        if job::snapshot(&descriptor.word).is(State::Running) {
            descriptor.word.fetch_xor(bits, Ordering::Relaxed);
            flipped += 1;
        }
    }
    flipped
}
