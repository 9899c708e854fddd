//! Which shared arrays the handles of an engine name: numbers, their generations, and how worker processes get them.
//!
//! The process that built the engine has a table of weak references, so that an array lives as long as its user's last clone and not
//! longer. Each number has a record in shared memory with the generation of the array it stands for at the moment; a worker process
//! believes a handle only if it bears that generation, so a handle is stale everywhere at once.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
#[cfg(target_os = "linux")]
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::{SharedHandle, SharedSegment};
use crate::arena::Arena;
#[cfg(target_os = "linux")]
use crate::arena::attached::SegmentFile;
use crate::error::{Error, Result};
use crate::layout::records::MAX_SHARED;
#[cfg(target_os = "linux")]
use crate::os::map::Mapping;
use crate::sync::lock;

/// What is added to the number of a shared array where those of mapped files may stand. Handles of batches with such a number are
/// refused: there is no file of it.
pub(crate) const FIRST_NUMBER: u16 = 0x8000;

/// The arrays that the engine of this arena knows, in the process that built it.
#[derive(Debug)]
pub(crate) struct SharedTable(Mutex<BTreeMap<u32, Entry>>);

#[derive(Debug)]
struct Entry {
    generation: u64,
    segment: Weak<SharedSegment>,
}

impl SharedTable {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }
}

/// A place in the table of an engine, given up with the segment that has it.
#[derive(Debug)]
pub(crate) struct Registration {
    arena: Weak<Arena>,
    pub(crate) number: u32,
    pub(crate) generation: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // A forked child has a copy of the table, and the parent's records.
        if let Some(arena) = self.arena.upgrade().filter(|arena| arena.check_process().is_ok()) {
            let mut table = lock(&arena.shared.0);
            table.remove(&self.number);
            if let Some(record) = arena.shared_records().get(self.number as usize) {
                // Relaxed, here and below: who goes by a record has its handle by a way that orders these stores.
                record.generation.store(0, Ordering::Relaxed);
            }
        }
    }
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

const GONE: Error = Error::UnknownArray { reason: "it is of another engine, or the array is gone" };

impl SharedSegment {
    /// The number and generation under which the engine of `arena` knows this segment, which it does from the first call on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it knows too many, in a worker process, or when worker processes could not be given this process's own memory; [`Error::Forked`] in a forked child.
    pub(crate) fn register(self: &Arc<Self>, arena: &Arc<Arena>) -> Result<(u32, u64)> {
        arena.check_process()?;
        #[cfg(target_os = "linux")]
        if arena.mapping().fd().is_some() && self.mapping().fd().is_none() {
            // Worker processes could be told of it and not be given it.
            return Err(crate::arena::attached::unshared());
        }
        let mut registrations = lock(&self.registrations);
        registrations.retain(|registration| registration.arena.strong_count() > 0);
        if let Some(known) = registrations.iter().find(|known| core::ptr::eq(known.arena.as_ptr(), &raw const **arena))
        {
            return Ok((known.number, known.generation));
        }
        let mut table = lock(&arena.shared.0);
        // The lowest one, so that worker processes keep as few arrays as were ever shared at the same time.
        let free = (0..MAX_SHARED as u32).find(|number| !table.contains_key(number));
        let number = free.ok_or_else(|| Error::Unsupported {
            what: format!("more than {MAX_SHARED} shared arrays known to one engine at the same time"),
        })?;
        let generation = new_generation();
        table.insert(number, Entry { generation, segment: Arc::downgrade(self) });
        if let Some(record) = arena.shared_records().get(number as usize) {
            #[cfg(target_os = "linux")]
            record.len.store(self.mapping().len() as u64, Ordering::Relaxed);
            record.generation.store(generation, Ordering::Relaxed);
        }
        registrations.push(Registration { arena: Arc::downgrade(arena), number, generation });
        Ok((number, generation))
    }
}

impl SharedSegment {
    /// The handle under which the engine of `arena` knows this segment, whatever it is.
    ///
    /// # Errors
    /// As [`SharedSegment::register`].
    pub(crate) fn handle<T>(self: &Arc<Self>, arena: &Arc<Arena>) -> Result<SharedHandle<T>> {
        let (number, generation) = self.register(arena)?;
        Ok(SharedHandle { generation, number, kind: self.shape().kind, element: PhantomData })
    }
}

impl Arena {
    /// The segment of a number in its generation.
    ///
    /// # Errors
    /// [`Error::UnknownArray`]; in a worker process also the errors of fetching it.
    pub(crate) fn shared_segment(&self, number: u32, generation: u64) -> Result<Arc<SharedSegment>> {
        self.check_process()?;
        let record = self.shared_records().get(number as usize);
        if record.is_none() || generation == 0 {
            return Err(Error::UnknownArray { reason: "it is no handle that an engine made" });
        }
        #[cfg(target_os = "linux")]
        if let (Some(attached), Some(record)) = (&self.attached, record) {
            if record.generation.load(Ordering::Relaxed) != generation {
                self.let_go(&mut lock(&attached.shared));
                return Err(GONE);
            }
            return self.fetch_shared(number as u16, generation);
        }
        let table = lock(&self.shared.0);
        let entry = table.get(&number).filter(|entry| entry.generation == generation).ok_or(GONE)?;
        entry.segment.upgrade().ok_or(GONE)
    }

    /// As [`Arena::shared_segment`] in a worker process, from the engine if need be.
    #[cfg(target_os = "linux")]
    fn fetch_shared(&self, number: u16, generation: u64) -> Result<Arc<SharedSegment>> {
        let attached = self.attached.as_ref().ok_or(GONE)?;
        let mut known = lock(&attached.shared);
        if let Some((_, segment)) = known.get(&number).filter(|(known, _)| *known == generation) {
            return Ok(Arc::clone(segment));
        }
        self.let_go(&mut known);
        let file = (attached.fetch)(FIRST_NUMBER + number)?;
        if file.generation != generation {
            return Err(GONE);
        }
        let len = usize::try_from(file.len).map_err(|_| {
            Error::invalid(format!("{} bytes of a shared array do not fit the address space", file.len))
        })?;
        let segment = Arc::new(SharedSegment::attach(Mapping::attach(file.fd, len, true)?)?);
        known.insert(number, (generation, Arc::clone(&segment)));
        Ok(segment)
    }

    /// Unmaps what a worker process has of arrays that are gone: their numbers stand for others, or for none.
    #[cfg(target_os = "linux")]
    fn let_go(&self, known: &mut HashMap<u16, (u64, Arc<SharedSegment>)>) {
        let records = self.shared_records();
        known.retain(|&number, (known, _)| {
            records.get(usize::from(number)).is_some_and(|record| record.generation.load(Ordering::Relaxed) == *known)
        });
    }

    /// What a worker process needs to map a shared array.
    ///
    /// # Errors
    /// [`Error::UnknownArray`]; those of [`SegmentFile::of`].
    #[cfg(target_os = "linux")]
    pub(crate) fn shared_file_of(&self, number: u16) -> Result<SegmentFile> {
        let (generation, segment) = {
            let table = lock(&self.shared.0);
            let entry = table.get(&u32::from(number)).ok_or(GONE)?;
            (entry.generation, entry.segment.upgrade().ok_or(GONE)?)
        };
        // Beyond the lock: this may turn out to be the last reference, whose end takes the lock.
        SegmentFile::of(segment.mapping(), generation)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use core::sync::atomic::AtomicU32;
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::arena::attached::Attached;
    use crate::arena::shared::Shape;
    use crate::arena::{Access, ArenaConfig, Backing};

    fn origin() -> Arc<Arena> {
        let backing = Backing::SharedMemory;
        let config = ArenaConfig { capacity: 4096, retain: 0, backing, large_pages: false, prefault: false };
        Arena::create(&config).unwrap()
    }

    fn descriptor(mapping: &Mapping) -> OwnedFd {
        mapping.fd().unwrap().try_clone_to_owned().unwrap()
    }

    fn attach(origin: &Arc<Arena>, fetch: impl Fn(u16) -> Result<SegmentFile> + Send + Sync + 'static) -> Arc<Arena> {
        let mapping = Mapping::attach(descriptor(origin.mapping()), origin.mapping().len(), true).unwrap();
        let attached = Attached::new(mapping.second_view().unwrap(), Box::new(fetch));
        Arena::attach(mapping, attached).unwrap()
    }

    fn segment() -> Arc<SharedSegment> {
        let shape = Shape { kind: 6, element_size: 4, max_len: 100, growable: false, sequences: false };
        Arc::new(SharedSegment::create(shape, 100).unwrap())
    }

    #[test]
    fn batches_cannot_name_shared_arrays_and_arrays_cannot_name_files() {
        let origin = origin();
        let files = Arc::clone(&origin);
        let worker = attach(&origin, move |segment| files.file_of(segment));
        let segment = segment();
        let (number, generation) = segment.register(&origin).unwrap();
        segment.words::<AtomicU32>()[7].store(8, Ordering::Relaxed);
        for _ in 0..2 {
            let there = worker.shared_segment(number, generation).unwrap();
            assert_eq!(there.words::<AtomicU32>()[7].load(Ordering::Relaxed), 8);
            assert!(!Arc::ptr_eq(&there, &segment));
        }
        for arena in [&origin, &worker] {
            for named in [FIRST_NUMBER + number as u16, FIRST_NUMBER - 1, MAX_SHARED as u16 + 1, u16::MAX] {
                let refused = arena.resolve_for(u64::from(named) << 48, 4, Access::Read);
                assert!(matches!(refused, Err(Error::Corrupt { .. })), "{named:#x} {refused:?}");
            }
            for (number, generation) in
                [(1024, generation), (u32::MAX, generation), (0, generation ^ 1), (1, 0), (5, 5)]
            {
                let refused = arena.shared_segment(number, generation);
                assert!(matches!(refused, Err(Error::UnknownArray { .. })), "{number} {refused:?}");
            }
        }
    }

    /// A worker process believes neither the table, which others can write, nor the answer, nor the memory that came with it.
    #[test]
    fn what_does_not_fit_the_handle_is_refused() {
        let origin = origin();
        let (known, other) = (segment(), segment());
        let (number, generation) = known.register(&origin).unwrap();
        let (_, other_generation) = other.register(&origin).unwrap();
        let len = known.mapping().len();
        type Answer = Box<dyn Fn() -> (OwnedFd, u64, u64) + Send + Sync>;
        let memory = |len| descriptor(&Mapping::shared_memory("other", len).unwrap());
        let whole = len as u64;
        let answers: Vec<(Answer, &str)> = vec![
            (
                {
                    let fd = descriptor(known.mapping());
                    Box::new(move || (fd.try_clone().unwrap(), whole, other_generation))
                },
                "gone",
            ),
            (
                {
                    let fd = memory(len);
                    Box::new(move || (fd.try_clone().unwrap(), whole, generation))
                },
                "first word",
            ),
            (
                {
                    let fd = descriptor(known.mapping());
                    Box::new(move || (fd.try_clone().unwrap(), whole + 1, generation))
                },
                "at least",
            ),
            (
                {
                    let fd = descriptor(known.mapping());
                    Box::new(move || (fd.try_clone().unwrap(), 0, generation))
                },
                "at least 1 byte",
            ),
            (Box::new(move || (std::fs::File::open("/dev/zero").unwrap().into(), whole, generation)), "regular file"),
        ];
        for (answer, says) in answers {
            let worker = attach(&origin, move |_| {
                let (fd, len, generation) = answer();
                Ok(SegmentFile::received(fd, len, generation, true))
            });
            let text = worker.shared_segment(number, generation).unwrap_err().to_string();
            assert!(text.contains(says), "{text}");
        }
        // A table that says otherwise than the origin.
        let record = &origin.shared_records()[number as usize];
        record.generation.store(77, Ordering::Relaxed);
        let files = Arc::clone(&origin);
        let worker = attach(&origin, move |segment| files.file_of(segment));
        assert!(worker.shared_segment(number, generation).is_err() && worker.shared_segment(number, 77).is_err());
        assert!(origin.shared_segment(number, generation).is_ok());
    }
}
