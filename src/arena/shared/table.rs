//! Which shared arrays the handles of an engine name: numbers and their generations.
//!
//! The process that built the engine has a table of weak references, so that an array lives as long as its user's last clone and not
//! longer. Each number has a record in shared memory with the generation of the array it stands for at the moment; a worker process
//! believes a handle only if it bears that generation, so a handle is stale everywhere at once.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::{GONE, SharedSegment};
#[cfg(target_os = "linux")]
use crate::arena::attached::SegmentFile;
use crate::error::{Error, Result};
use crate::layout::records::{MAX_SHARED, Segment as SegmentRecord};
use crate::sync::lock;

/// The arrays that an engine knows, in the process that built it.
#[derive(Debug)]
pub(in crate::arena) struct SharedTable(Mutex<BTreeMap<u32, SharedEntry>>);

#[derive(Debug)]
struct SharedEntry {
    generation: u64,
    segment: Weak<SharedSegment>,
}

/// A number that no other array has had, in this process or, but for a chance of 2^-40, in another: handles of one engine are not
/// taken for those of another one, and made-up ones hit nothing.
fn new_generation() -> u64 {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU64::new(RandomState::new().hash_one(std::process::id())));
    loop {
        // Relaxed: the numbers only have to differ.
        match next.fetch_add(1, Ordering::Relaxed) {
            0 => {}
            generation => return generation,
        }
    }
}

impl SharedTable {
    pub(in crate::arena) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Enters a segment, also into `records`, the table in shared memory; gives its number and generation.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there are too many.
    pub(in crate::arena) fn enter(
        &self,
        segment: &Arc<SharedSegment>,
        records: &[SegmentRecord],
    ) -> Result<(u32, u64)> {
        let mut table = lock(&self.0);
        // The lowest one, so that worker processes keep as few arrays as were ever shared at the same time.
        let free = (0..MAX_SHARED as u32).find(|number| !table.contains_key(number));
        let number = free.ok_or_else(|| Error::Unsupported {
            what: format!("more than {MAX_SHARED} shared arrays known to one engine at the same time"),
        })?;
        let generation = new_generation();
        table.insert(number, SharedEntry { generation, segment: Arc::downgrade(segment) });
        if let Some(record) = records.get(number as usize) {
            // Relaxed, both and in `remove`: a reader of a record has its handle by a way that orders these stores.
            #[cfg(target_os = "linux")]
            record.len.store(segment.mapping().len() as u64, Ordering::Relaxed);
            record.generation.store(generation, Ordering::Relaxed);
        }
        Ok((number, generation))
    }

    /// Takes a number out of the table and of `records`.
    pub(in crate::arena) fn remove(&self, number: u32, records: &[SegmentRecord]) {
        let mut table = lock(&self.0);
        table.remove(&number);
        if let Some(record) = records.get(number as usize) {
            record.generation.store(0, Ordering::Relaxed);
        }
    }

    /// The segment of a number in its generation.
    ///
    /// # Errors
    /// [`Error::UnknownArray`].
    pub(in crate::arena) fn segment(&self, number: u32, generation: u64) -> Result<Arc<SharedSegment>> {
        let table = lock(&self.0);
        let entry = table.get(&number).filter(|entry| entry.generation == generation).ok_or(GONE)?;
        entry.segment.upgrade().ok_or(GONE)
    }

    /// What a worker process needs to map a shared array.
    ///
    /// # Errors
    /// [`Error::UnknownArray`]; those of [`SegmentFile::of`].
    #[cfg(target_os = "linux")]
    pub(in crate::arena) fn file_of(&self, number: u16) -> Result<SegmentFile> {
        let (generation, segment) = {
            let table = lock(&self.0);
            let entry = table.get(&u32::from(number)).ok_or(GONE)?;
            (entry.generation, entry.segment.upgrade().ok_or(GONE)?)
        };
        // Beyond the lock: this may turn out to be the last reference, whose end takes the lock.
        SegmentFile::of(segment.mapping(), generation)
    }
}
