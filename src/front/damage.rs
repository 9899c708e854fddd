//! What the project's own tests do to the control segment, as a fault of the hardware or a stray write would.

use super::engine::Engine;
use super::message::MessagePort;
use crate::arena::shared::SharedSegment;
use crate::arena::shared::array::SharedArray;
use crate::arena::shared::element::SharedElement;
use crate::engine::observe::damage;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

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

/// Flips one of the bits by which sleepers are found and called: of the bitmaps of sleepers and searchers, of the park words of every row
/// and of the first completion ports, and of the summary of redelivered jobs. Says which word it was, or nothing when there are no more.
pub fn flip_waking(engine: &Engine, bit: usize) -> Option<String> {
    damage::flip_waking(engine.core(), bit)
}

/// Flips one bit of the segment by which two processes talk, counted through its words and then through its sequence words, and says
/// what the word was; nothing happens beyond them, and at a port of threads. Bits of words that are 0 flip only if `any` says so.
pub fn flip_message<S, R>(port: &MessagePort<S, R>, bit: usize, any: bool) -> Option<u64> {
    let segment = port.channel().process()?.segment();
    let (words, sequences) = (segment.words::<AtomicU64>(), segment.sequences_as::<AtomicU32>());
    if let Some(word) = words.get(bit / 64) {
        return (any || word.load(Ordering::Relaxed) != 0).then(|| word.fetch_xor(1 << (bit % 64), Ordering::Relaxed));
    }
    let bit = bit - 64 * words.len();
    let word = sequences.get(bit / 32)?;
    (any || word.load(Ordering::Relaxed) != 0).then(|| word.fetch_xor(1 << (bit % 32), Ordering::Relaxed).into())
}

/// Bits that [`flip_message`] can flip.
pub fn message_bits<S, R>(port: &MessagePort<S, R>) -> usize {
    let bits = |segment: &SharedSegment| {
        64 * segment.words::<AtomicU64>().len() + 32 * segment.sequences_as::<AtomicU32>().len()
    };
    port.channel().process().map_or(0, |process| bits(process.segment()))
}

/// Flips one bit of an array's header, counted through the words that say something; `false` beyond them.
pub fn flip_header_of_array<T: SharedElement>(array: &SharedArray<T>, bit: usize) -> bool {
    array.segment().flip_header(bit)
}

/// Flips one bit of the word at which waiters for an element of 64 bits stand.
pub fn flip_sequence_word<T: SharedElement>(array: &SharedArray<T>, element: usize, bit: usize) {
    if let Some(word) = array.segment().sequences_as::<AtomicU32>().get(element) {
        word.fetch_xor(1 << (bit % 32), Ordering::Relaxed);
    }
}

/// Writes a lap that never was into every cell of the engine's shared rings: a worker that takes jobs finds it.
pub fn spoil_rings(engine: &Engine) {
    damage::spoil_rings(engine.core());
}

/// Takes every entry out of the engine's rings: the jobs stay queued, and nothing leads to them.
pub fn lose_entries(engine: &Engine) {
    damage::lose_entries(engine.core());
}

/// Clears the word by which a worker that ends a job learns that a task waits until nothing is left.
pub fn forget_who_waits_for_all(engine: &Engine) {
    damage::forget_who_waits_for_all(engine.core());
}

/// Flips bits in the word of every running job; how many there were.
pub fn flip_running(engine: &Engine, bits: u64) -> usize {
    damage::flip_running(engine.core(), bits)
}
