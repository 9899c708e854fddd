//! Failure texts in shared memory: written by the thread that ran the kernel, read by the thread that holds the job.
//!
//! The record belongs to its descriptor and is published by the descriptor's finish (R3/A3). Its bytes are untrusted: lengths
//! are clamped to the record, broken UTF-8 is repaired, control characters are escaped.

use crate::error::WorkerExit;
use crate::layout::records::{FAILURE_TEXT_LEN, FailureText};
use crate::panics::Panicked;
use crate::sync::{AtomicU64, Ordering};

/// Bytes of the record that a location may take from the message.
const LOCATION_LEN: usize = 160;

/// The longest prefix of `text` of at most `len` bytes that ends at a character.
fn cut(text: &str, len: usize) -> &str {
    let mut end = len.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn store(words: &[AtomicU64], bytes: impl Iterator<Item = u8>) {
    let mut packed = [0u8; 8];
    let mut filled = 0;
    let mut words = words.iter();
    for byte in bytes {
        packed[filled] = byte;
        filled += 1;
        if filled == 8 {
            if let Some(word) = words.next() {
                word.store(u64::from_le_bytes(packed), Ordering::Relaxed);
            }
            (packed, filled) = ([0; 8], 0);
        }
    }
    if let Some(word) = words.next() {
        word.store(u64::from_le_bytes(packed), Ordering::Relaxed);
    }
}

/// Notes how the worker of a job died.
pub(crate) fn write_death(record: &FailureText, pid: u32, exit: WorkerExit, attempt: u32) {
    write(record, "", "");
    let [died, attempts, _] = &record.detail;
    died.store(u64::from(pid) | (u64::from(exit.to_bits()) << 32), Ordering::Relaxed);
    attempts.store(u64::from(attempt), Ordering::Relaxed);
}

/// Process id, end and attempt of a worker that died.
pub(crate) fn read_death(record: &FailureText) -> (u32, WorkerExit, u32) {
    let [died, attempts, _] = &record.detail;
    let died = died.load(Ordering::Relaxed);
    (died as u32, WorkerExit::from_bits((died >> 32) as u32), attempts.load(Ordering::Relaxed) as u32)
}

/// A copy of a record in private memory. Its methods check what it holds.
pub(crate) struct Record {
    lens: [u32; 2],
    detail: [u64; 3],
    text: Box<[u64]>,
}

impl Record {
    /// What a record holds now.
    pub(crate) fn of(record: &FailureText) -> Self {
        // Relaxed: the caller has seen that the job is done (A3).
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        Self {
            lens: [&record.message_len, &record.location_len].map(|len| len.load(Ordering::Relaxed)),
            detail: [0, 1, 2].map(|at| read(&record.detail[at])),
            text: record.text.iter().map(read).collect(),
        }
    }

    /// Writes it to another record.
    pub(crate) fn write(&self, record: &FailureText) {
        // Relaxed: published by the finish of the record's job (R3).
        let [message_len, location_len] = self.lens;
        record.message_len.store(message_len, Ordering::Relaxed);
        record.location_len.store(location_len, Ordering::Relaxed);
        for (word, &value) in record.detail.iter().zip(&self.detail).chain(record.text.iter().zip(&self.text)) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Writes what a job says about its failure, cut to the record.
pub(crate) fn write(record: &FailureText, message: &str, location: &str) {
    let location = cut(location, LOCATION_LEN);
    let message = cut(message, FAILURE_TEXT_LEN - location.len());
    store(&record.text, message.bytes().chain(location.bytes()));
    record.message_len.store(message.len() as u32, Ordering::Relaxed);
    record.location_len.store(location.len() as u32, Ordering::Relaxed);
}

fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() && character != '\n' && character != '\t' {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

/// Reads a failure record: message and location.
pub(crate) fn read(record: &FailureText) -> Panicked {
    let message_len = (record.message_len.load(Ordering::Relaxed) as usize).min(FAILURE_TEXT_LEN);
    let location_len = (record.location_len.load(Ordering::Relaxed) as usize).min(FAILURE_TEXT_LEN - message_len);
    let mut bytes = [0u8; FAILURE_TEXT_LEN];
    for (place, word) in bytes.chunks_exact_mut(8).zip(&record.text) {
        place.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    Panicked {
        message: printable(&bytes[..message_len]),
        location: printable(&bytes[message_len..message_len + location_len]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicU32;
    use proptest::prelude::*;

    fn record(words: impl Iterator<Item = u64>, message_len: u32, location_len: u32) -> FailureText {
        let mut words = words;
        FailureText {
            message_len: AtomicU32::new(message_len),
            location_len: AtomicU32::new(location_len),
            detail: core::array::from_fn(|_| AtomicU64::new(0)),
            text: core::array::from_fn(|_| AtomicU64::new(words.next().unwrap_or(0))),
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_up_to_the_cut(message in "[a-z\u{e9}\u{4e16} ]{0,700}", location in "[a-z/.:0-9]{0,300}") {
            let record = record(core::iter::empty(), 0, 0);
            write(&record, &message, &location);
            let read = read(&record);
            prop_assert!(message.starts_with(&read.message) && location.starts_with(&read.location));
            prop_assert!(read.location.len() == location.len() || read.location.len() > LOCATION_LEN - 4);
            prop_assert!(read.message == message || read.message.len() + read.location.len() > FAILURE_TEXT_LEN - 4);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(words in proptest::collection::vec(any::<u64>(), 60), message_len: u32, location_len: u32) {
            let read = read(&record(words.into_iter(), message_len, location_len));
            let escape = char::from(0x1b);
            prop_assert!(!read.message.contains(escape));
        }
    }
}
