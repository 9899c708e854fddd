//! Bits of the control segment that the project's own tests flip, as a fault of the hardware or a stray write would.

use super::engine::Engine;

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
