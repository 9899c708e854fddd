//! Memory that any process of an engine may read and write at any time: segments of equally large atomic words.
//!
//! A segment is a mapping of its own, as long as it can ever become, so that nothing moves when it grows and no access can fail; its
//! pages come on first touch. What the words mean is the matter of the views above it: `shared/array.rs` is one. The bytes
//! are described in `docs/layout.md`, "Shared segments".
//!
//! Laws of this file:
//! 1. The bytes of a segment are reached through references to atomics only: [`SharedHeader`] at the front, then words of the one
//!    element size of the segment, then sequence words of 32 bits. No two of these parts overlap, so there is neither a data race nor
//!    an access of another size to the same bytes, whatever others write.
//! 2. Where the parts lie follows from a [`Shape`] in private memory, checked against the mapping, whose length cannot change.
//! 3. Every reference borrows the segment, which owns the mapping.
//! 4. [`SharedHandle`] has no padding, and every bit pattern of it is a value: what it names is looked up, never followed.
#![allow(unsafe_code)]

pub(crate) mod array;
pub(crate) mod element;
#[cfg(target_os = "linux")]
pub(crate) mod pool;
pub(crate) mod table;
pub(crate) mod wait;
pub(crate) mod wait_async;

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, Weak};

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::layout::records::SharedHeader;
use crate::os::map::Mapping;
use crate::sync::lock;

/// First word of every shared segment.
const MAGIC: u64 = u64::from_le_bytes(*b"wr-share");
/// Bytes before the first element.
const HEADER_LEN: usize = size_of::<SharedHeader>();
/// Bits of the header's flags.
const GROWABLE: u64 = 1;
const SEQUENCES: u64 = 2;

/// An atomic word that segments can consist of.
///
/// # Safety
/// The type is an atomic integer of `core`: any bytes are a value, its alignment is at most its size, and it may be shared with other
/// processes.
pub(crate) unsafe trait Word: Sized + Send + Sync + 'static {}

// SAFETY: an atomic of `core`, aligned to its size.
unsafe impl Word for AtomicU8 {}
// SAFETY: as above.
unsafe impl Word for AtomicU16 {}
// SAFETY: as above.
unsafe impl Word for AtomicU32 {}
// SAFETY: as above.
unsafe impl Word for AtomicU64 {}
// SAFETY: as above; with this feature the crate's atomics are transparent wrappers of them.
#[cfg(workring_fuzzing)]
unsafe impl Word for crate::sync::AtomicU32 {}
// SAFETY: as above.
#[cfg(workring_fuzzing)]
unsafe impl Word for crate::sync::AtomicU64 {}

/// What a segment consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// What the elements are, for the views above; any number.
    pub(crate) kind: u32,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub(crate) element_size: usize,
    /// Elements there is room for.
    pub(crate) max_len: usize,
    /// Whether the length may change after creation.
    pub(crate) growable: bool,
    /// Whether there is a sequence word for each element.
    pub(crate) sequences: bool,
}

impl Shape {
    /// Where the sequence words begin, and the length of the segment; `None` for an element size that does not exist, or one
    /// beyond the address space.
    fn plan(&self) -> Option<(usize, usize)> {
        if !matches!(self.element_size, 1 | 2 | 4 | 8) {
            return None;
        }
        let elements = self.max_len.checked_mul(self.element_size)?;
        let sequences = HEADER_LEN.checked_add(elements)?.checked_next_multiple_of(64)?;
        let len = if self.sequences { sequences.checked_add(self.max_len.checked_mul(4)?)? } else { sequences };
        (len <= isize::MAX as usize).then_some((sequences, len))
    }
}

/// Whether the system refuses memory that others can map, and not memory: a filter of system calls (seccomp), a kernel without memory files, or a
/// limit on the length of files.
fn is_refused_to_share(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, PermissionDenied, Unsupported};
    matches!(error.kind(), FileTooLarge | PermissionDenied | Unsupported)
}

/// The error of a handle whose array is not known, or no longer.
pub(super) const GONE: Error = Error::UnknownArray { reason: "it is of another engine, or the array is gone" };

/// What gives numbers to segments, and is told when one with a number ends.
pub(super) trait Registrar: Send + Sync {
    /// The segment of this number is gone.
    fn forget(&self, number: u32);
}

/// A number of a segment, given up with the segment that has it.
pub(super) struct Registration {
    registrar: Weak<dyn Registrar>,
    number: u32,
    generation: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(registrar) = self.registrar.upgrade() {
            registrar.forget(self.number);
        }
    }
}

/// A segment, mapped into this process. Unmapped with the last reference to it; its memory is given back when no process
/// has it mapped any more.
pub(crate) struct SharedSegment {
    mapping: Mapping,
    shape: Shape,
    /// Where the sequence words begin (law 2).
    sequences_at: usize,
    /// Under which numbers engines of this process know it.
    registrations: Mutex<Vec<Registration>>,
}

impl SharedSegment {
    /// A new segment of zeros with `len` elements, which other processes can map where there are worker processes. Where the system refuses memory that
    /// others can map, because it forbids memory files or limits the length of files, it is this process's own.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it exceeds the address space, [`Error::Io`] when the system refuses.
    pub(crate) fn create(shape: Shape, len: usize) -> Result<Self> {
        let too_long =
            || Error::invalid(format!("a shared array of {} elements exceeds the address space", shape.max_len));
        if len > shape.max_len {
            let max_len = shape.max_len;
            return Err(Error::invalid(format!("a shared array of {len} elements cannot have a maximum of {max_len}")));
        }
        let (sequences_at, total) = shape.plan().ok_or_else(too_long)?;
        let mapping = match Mapping::shared_memory("workring-shared", total) {
            Err(Error::Io { source, .. }) if is_refused_to_share(&source) => Mapping::anonymous(total)?,
            mapping => mapping?,
        };
        let segment = Self { mapping, shape, sequences_at, registrations: Mutex::default() };
        let header = segment.header();
        let growable = if shape.growable { GROWABLE } else { 0 };
        let flags = growable | if shape.sequences { SEQUENCES } else { 0 };
        // Relaxed, all: every other process gets the segment by way of a handle, which orders these stores before.
        header.magic.store(MAGIC, Ordering::Relaxed);
        header.kind.store(shape.kind, Ordering::Relaxed);
        header.element_size.store(shape.element_size as u32, Ordering::Relaxed);
        header.max_len.store(shape.max_len as u64, Ordering::Relaxed);
        header.flags.store(flags, Ordering::Relaxed);
        header.len.store(len as u64, Ordering::Relaxed);
        Ok(segment)
    }

    /// The segment in memory that another process sent. Its header is read once and must fit the memory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it does not.
    #[cfg(target_os = "linux")]
    pub(crate) fn attach(mapping: Mapping) -> Result<Self> {
        let corrupt = |what, expected, found| Error::Corrupt { what, offset: 0, expected, found };
        let len = mapping.len();
        if len < HEADER_LEN || !mapping.is_writable() {
            return Err(corrupt("length of a shared segment", HEADER_LEN as u64, len as u64));
        }
        // The header alone, until the shape is known.
        let shape = Shape { kind: 0, element_size: 1, max_len: 0, growable: false, sequences: false };
        let mut segment = Self { mapping, shape, sequences_at: HEADER_LEN, registrations: Mutex::default() };
        let header = segment.header();
        let magic = header.magic.load(Ordering::Relaxed);
        let flags = header.flags.load(Ordering::Relaxed);
        let max_len = header.max_len.load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(corrupt("first word of a shared segment", MAGIC, magic));
        }
        let shape = Shape {
            kind: header.kind.load(Ordering::Relaxed),
            element_size: header.element_size.load(Ordering::Relaxed) as usize,
            max_len: usize::try_from(max_len).map_err(|_| corrupt("room of a shared segment", len as u64, max_len))?,
            growable: flags & GROWABLE != 0,
            sequences: flags & SEQUENCES != 0,
        };
        match shape.plan() {
            Some((sequences_at, total)) if total == len => {
                (segment.shape, segment.sequences_at) = (shape, sequences_at);
                Ok(segment)
            }
            _ => Err(corrupt("room of a shared segment", len as u64, max_len)),
        }
    }

    /// Number and generation that `registrar` knows this segment by; those that `register` gives where it knows it by none yet.
    ///
    /// # Errors
    /// Those of `register`.
    pub(super) fn registered_by(
        &self,
        registrar: Weak<dyn Registrar>,
        register: impl FnOnce() -> Result<(u32, u64)>,
    ) -> Result<(u32, u64)> {
        let mut registrations = lock(&self.registrations);
        registrations.retain(|registration| registration.registrar.strong_count() > 0);
        let known = registrations.iter().find(|known| core::ptr::addr_eq(known.registrar.as_ptr(), registrar.as_ptr()));
        if let Some(known) = known {
            return Ok((known.number, known.generation));
        }
        let (number, generation) = register()?;
        registrations.push(Registration { registrar, number, generation });
        Ok((number, generation))
    }

    /// Where an element of 8 bytes lies among the bytes of a segment.
    pub(crate) fn offset_of(element: usize) -> u64 {
        (HEADER_LEN as u64).saturating_add((element as u64).saturating_mul(8))
    }

    /// What it consists of.
    #[inline]
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The mapping, to be handed to other processes.
    #[cfg(target_os = "linux")]
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Flips a bit of the header, counted through the words that say something, for the project's own tests; `false` beyond them.
    #[cfg(all(feature = "fault", target_os = "linux"))]
    pub(crate) fn flip_header(&self, bit: usize) -> bool {
        let SharedHeader { magic, kind, element_size, max_len, flags, len, .. } = self.header();
        let narrow = |word: &crate::sync::AtomicU32| word.fetch_xor(1 << (bit % 32), Ordering::Relaxed).into();
        let wide = |word: &crate::sync::AtomicU64| word.fetch_xor(1 << (bit % 64), Ordering::Relaxed);
        let _before: u64 = match bit / 32 {
            0 | 1 => wide(magic),
            2 => narrow(kind),
            3 => narrow(element_size),
            4 | 5 => wide(max_len),
            6 | 7 => wide(flags),
            8 | 9 => wide(len),
            _ => return false,
        };
        true
    }

    fn header(&self) -> &SharedHeader {
        // SAFETY: the mapping is page-aligned and longer than the header, which consists of atomics (laws 1 to 3).
        unsafe { self.mapping.base().cast::<SharedHeader>().as_ref() }
    }

    /// All elements there is room for; none if the elements have another size than `W`.
    #[inline]
    pub(crate) fn words<W: Word>(&self) -> &[W] {
        if size_of::<W>() != self.shape.element_size {
            return &[];
        }
        // SAFETY: so many words of this size lie behind the header, inside the mapping and before the sequence words, which `plan`
        // computed and `create` or `attach` held against the mapping (law 2); the header's length is a multiple of every word's
        // alignment; nobody reaches them otherwise (law 1); the slice borrows the segment (law 3).
        unsafe {
            let first = self.mapping.base().add(HEADER_LEN).cast::<W>();
            core::slice::from_raw_parts(first.as_ptr(), self.shape.max_len)
        }
    }

    /// The sequence word of each element there is room for, if the segment has such words.
    #[inline]
    pub(crate) fn sequences(&self) -> &[AtomicU32] {
        self.sequences_as()
    }

    /// The same as whichever atomic of 32 bits.
    #[inline]
    pub(crate) fn sequences_as<W: Word>(&self) -> &[W] {
        if !self.shape.sequences || size_of::<W>() != 4 {
            return &[];
        }
        // SAFETY: as in `words`; they begin at a multiple of 64 behind the last element.
        unsafe {
            let first = self.mapping.base().add(self.sequences_at).cast::<W>();
            core::slice::from_raw_parts(first.as_ptr(), self.shape.max_len)
        }
    }

    /// Elements there are. What the shared word says beyond the room is not believed.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        if !self.shape.growable {
            return self.shape.max_len;
        }
        // Acquire: pairs with `grow`, so that a thread that sees the new length sees what was done before.
        usize::try_from(self.header().len.load(Ordering::Acquire)).unwrap_or(usize::MAX).min(self.shape.max_len)
    }

    /// Makes the length `len` unless it is more already; gives the one it was, in one step.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when there is no room for so many, the length cannot change, or it would become less.
    pub(crate) fn grow(&self, len: usize) -> Result<usize> {
        let Shape { max_len, growable, .. } = self.shape;
        if !growable {
            return Err(Error::invalid(format!("a shared array of {max_len} elements was made without room to grow")));
        }
        if len > max_len {
            return Err(Error::invalid(format!("a shared array with room for {max_len} elements cannot have {len}")));
        }
        // Release: as in `len`. A maximum, so that two calls at the same time never make it less.
        let old = self.header().len.fetch_max(len as u64, Ordering::AcqRel);
        let old = usize::try_from(old).unwrap_or(usize::MAX).min(max_len);
        if old > len {
            return Err(Error::invalid(format!("a shared array of {old} elements cannot shrink to {len}")));
        }
        Ok(old)
    }
}

impl fmt::Debug for SharedSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSegment").field("shape", &self.shape).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Names a shared array to the kernels of one engine: made by [`Engine::share`](crate::Engine::share), used by
/// [`Context::shared`](crate::Context::shared). Plain data, so that it travels in a kernel's parameter or in a batch.
///
/// A handle keeps nothing alive. One that was made up, damaged, given to another engine, or whose array is gone is an
/// [`Error::UnknownArray`].
///
/// # Examples
/// ```
/// use workring::{bytemuck, shared::SharedHandle};
///
/// #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
/// #[repr(C)]
/// struct Param {
///     counters: SharedHandle<u64>,
///     rounds: u64,
/// }
/// assert_eq!(size_of::<Param>(), 24); // fits beside the job
/// ```
#[repr(C)]
pub struct SharedHandle<T> {
    /// Drawn for each array that is shared; 0 names none.
    pub(super) generation: u64,
    pub(super) number: u32,
    pub(super) kind: u32,
    element: PhantomData<fn() -> T>,
}

impl<T> SharedHandle<T> {
    pub(super) fn new(number: u32, generation: u64, kind: u32) -> Self {
        Self { generation, number, kind, element: PhantomData }
    }
}

impl<T> Clone for SharedHandle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedHandle<T> {}

impl<T> PartialEq for SharedHandle<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.generation, self.number, self.kind) == (other.generation, other.number, other.kind)
    }
}

impl<T> Eq for SharedHandle<T> {}

impl<T> fmt::Debug for SharedHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedHandle").field("number", &self.number).finish_non_exhaustive()
    }
}

const _: () = assert!(size_of::<SharedHandle<u8>>() == 16 && align_of::<SharedHandle<u8>>() == 8);

// SAFETY: integers, for which zeros are a value, and a type without bytes (law 4).
unsafe impl<T: 'static> Zeroable for SharedHandle<T> {}
// SAFETY: `repr(C)`, integers of 8, 4 and 4 bytes and a type without bytes: no padding, and every bit pattern is a value (law 4).
unsafe impl<T: 'static> Pod for SharedHandle<T> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(element_size: usize, max_len: usize) -> Shape {
        Shape { kind: 77, element_size, max_len, growable: true, sequences: element_size == 8 }
    }

    #[test]
    fn the_parts_of_a_segment_do_not_overlap_and_lie_inside() {
        for (size, max_len) in [(1, 0), (1, 1), (2, 63), (4, 1000), (8, 0), (8, 1), (8, 77)] {
            let segment = SharedSegment::create(shape(size, max_len), 0).unwrap();
            let base = segment.mapping.base().as_ptr().addr();
            let elements = match size {
                1 => segment.words::<AtomicU8>().as_ptr_range().end.addr(),
                2 => segment.words::<AtomicU16>().as_ptr_range().end.addr(),
                4 => segment.words::<AtomicU32>().as_ptr_range().end.addr(),
                _ => segment.words::<AtomicU64>().as_ptr_range().end.addr(),
            };
            assert_eq!(elements, base + 128 + size * max_len);
            let sequences = segment.sequences().as_ptr_range();
            if size == 8 {
                assert!(sequences.start.addr() >= elements && sequences.start.addr().is_multiple_of(64));
                assert!(sequences.end.addr() <= base + segment.mapping.len());
                assert_eq!(segment.sequences().len(), max_len);
            } else {
                assert!(segment.sequences().is_empty() && elements <= base + segment.mapping.len());
            }
            // Words of another size are not to be had.
            let other = if size == 4 { segment.words::<AtomicU64>().len() } else { segment.words::<AtomicU32>().len() };
            assert_eq!(other, 0);
        }
    }

    #[test]
    fn what_exceeds_the_address_space_is_refused() {
        for (size, max_len) in
            [(8, usize::MAX / 8), (1, usize::MAX), (8, usize::MAX / 12 + 1), (1, isize::MAX as usize)]
        {
            let refused = SharedSegment::create(shape(size, max_len), 0);
            assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
        }
        let refused = SharedSegment::create(shape(1, 5), 6);
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    }

    #[test]
    fn a_scribbled_length_is_cut_to_the_room() {
        let segment = SharedSegment::create(shape(8, 100), 10).unwrap();
        for (scribbled, len) in [(u64::MAX, 100), (101, 100), (99, 99), (0, 0)] {
            segment.header().len.store(scribbled, Ordering::Relaxed);
            assert_eq!(segment.len(), len);
        }
        segment.header().len.store(u64::MAX, Ordering::Relaxed);
        assert!(segment.grow(50).is_err());
        assert_eq!(segment.grow(100).unwrap_or(100), 100);
    }

    #[cfg(target_os = "linux")]
    proptest! {
        #[test]
        fn a_segment_with_any_header_is_refused_or_stays_inside_its_memory(
            max_len in 0usize..5000, size in 0usize..4, at in 0usize..64, change in 1u8.., room: u64, use_room: bool,
        ) {
            let segment = SharedSegment::create(shape(1 << size, max_len), 0).unwrap();
            let len = segment.mapping.len();
            let fd = segment.mapping.fd().unwrap().try_clone_to_owned().unwrap();
            let original = SharedSegment::attach(Mapping::attach(fd, len, true).unwrap()).unwrap();
            prop_assert_eq!(original.shape(), segment.shape());
            // SAFETY: the first line is written by nobody else meanwhile, and the bytes are those of atomics.
            unsafe { segment.mapping.base().add(at).as_ptr().cast::<AtomicU8>().as_ref() }.unwrap()
                .fetch_xor(change, Ordering::Relaxed);
            if use_room {
                segment.header().max_len.store(room, Ordering::Relaxed);
            }
            let fd = segment.mapping.fd().unwrap().try_clone_to_owned().unwrap();
            if let Ok(found) = SharedSegment::attach(Mapping::attach(fd, len, true).unwrap()) {
                let (sequences, total) = found.shape().plan().unwrap();
                prop_assert!(total == len && HEADER_LEN + found.shape().max_len * found.shape().element_size <= sequences);
            }
        }
    }
}
