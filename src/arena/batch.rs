//! Batches: typed, owned parts of the arena or of a mapped file, which deref to slices.
//!
//! Laws of this file:
//! 1. A [`Batch`] is the only owner of its elements: no other batch, slice or job reaches them while it lives. Jobs that
//!    write take the batch by value or by exclusive borrow. A type that must outlast a batch, as a result file its name, lends slices
//!    of it and never the batch, which could be moved out of its place.
//! 2. The elements of a [`SharedBatch`] are not written while any clone of it lives. Those of a mapped file are claimed for that
//!    (`os/claim.rs`): this process maps no file for reading that it has mapped for writing, and the other way round. What writes to files
//!    by other ways is the user's matter, as `Engine::map_file` says.
//! 3. `T: Pod`: any bytes are a value, so stale or foreign bytes are never undefined behaviour. `T` is neither zero-sized nor
//!    aligned beyond 64 bytes (checked at compile time where a batch is made).
//! 4. A batch keeps what its elements lie in: the arena, or the mapped file.
//! 5. Elements that another process lends to this one are its own until it gives them back, and so laws 1 and 2 hold for batches over
//!    them: the lender keeps its batch in its loan table meanwhile, where nothing reaches the elements.
#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, align_of, size_of};
use core::ops::{Bound, Deref, DerefMut, RangeBounds};
use core::ptr::NonNull;
use std::sync::Arc;

use bytemuck::Pod;

use super::alloc::Block;
use super::loan::Loan;
use super::{ALIGNMENT, Arena, FileSegment};
use crate::error::{Error, Failed, Result};

/// What several batches keep together: the whole block or file their elements lie in, or what another process lent.
enum Whole {
    Block(Arc<Arena>, Block),
    File(FileSegment),
    Loan(Loan),
}

impl Whole {
    fn arena(&self) -> &Arc<Arena> {
        match self {
            Self::Block(arena, _) => arena,
            Self::File(file) => &file.arena,
            Self::Loan(loan) => loan.arena(),
        }
    }

    #[inline]
    fn handle_of(&self, address: NonNull<u8>) -> Option<u64> {
        match self {
            Self::Block(arena, _) => arena.handle_of(address),
            Self::File(file) => file.handle_of(address),
            // The process it is lent to submits no jobs over it.
            Self::Loan(_) => None,
        }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Self::Block(arena, block) = self {
            arena.free(*block);
        }
    }
}

/// What one batch keeps (law 4).
enum BatchMemory {
    /// The batch is the block: no reference count needed.
    Owned(Arc<Arena>, Block),
    Shared(Arc<Whole>),
}

impl BatchMemory {
    #[inline]
    fn arena(&self) -> &Arc<Arena> {
        match self {
            Self::Owned(arena, _) => arena,
            Self::Shared(whole) => whole.arena(),
        }
    }

    #[inline]
    fn handle_of(&self, address: NonNull<u8>) -> Option<u64> {
        match self {
            Self::Owned(arena, _) => arena.handle_of(address),
            Self::Shared(whole) => whole.handle_of(address),
        }
    }

    /// Turns an owned region into one that parts can share.
    fn into_shared(self) -> Arc<Whole> {
        let this = ManuallyDrop::new(self);
        match &*this {
            // SAFETY: `this` is never used or dropped again, so each field is moved out once.
            Self::Owned(arena, block) => Arc::new(Whole::Block(unsafe { core::ptr::read(arena) }, *block)),
            // SAFETY: as above.
            Self::Shared(whole) => unsafe { core::ptr::read(whole) },
        }
    }
}

impl Drop for BatchMemory {
    fn drop(&mut self) {
        if let Self::Owned(arena, block) = self {
            arena.free(*block);
        }
    }
}

fn bytes_of<T>(len: usize) -> Result<u64> {
    const {
        assert!(size_of::<T>() > 0, "the element type of a batch must not be zero-sized");
        assert!(align_of::<T>() <= ALIGNMENT, "the element type of a batch must not be aligned beyond 64 bytes");
    }
    len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize).map(|bytes| bytes as u64).ok_or_else(
        || Error::invalid(format!("a batch of {len} elements of {} bytes exceeds the address space", size_of::<T>())),
    )
}

/// Elements in the arena that belong to one owner: `&mut [T]` that can be handed to a job without copying.
///
/// It derefs to `[T]`. Its elements start at a multiple of 64 bytes unless it is a part made by [`Batch::into_split_at`]. Dropping
/// it gives the memory back to the arena; it may outlive its engine. It is `Send` and `Sync`.
///
/// # Examples
/// ```
/// use workring::Engine;
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).build()?;
/// let mut batch = engine.batch::<u32>(4)?;
/// batch[2] = 7;
/// assert_eq!(*batch, [0, 0, 7, 0]);
/// let (left, right) = batch.into_split_at(3);
/// assert_eq!((left.len(), right.len()), (3, 1));
/// # Ok(())
/// # }
/// ```
pub struct Batch<T: Pod> {
    start: NonNull<T>,
    len: usize,
    region: BatchMemory,
    elements: PhantomData<T>,
}

// SAFETY: a batch owns its elements (law 1), which are plain data; the arena behind it is `Sync`.
unsafe impl<T: Pod + Send> Send for Batch<T> {}
// SAFETY: a shared reference to a batch gives `&[T]` only.
unsafe impl<T: Pod + Sync> Sync for Batch<T> {}

impl<T: Pod> Batch<T> {
    /// `len` elements of a new block. With `zeroed` they read as zero, else they hold whatever was there before.
    pub(crate) fn allocate(arena: &Arc<Arena>, len: usize, zeroed: bool) -> Result<Self> {
        let bytes = bytes_of::<T>(len)?;
        let allocation = arena.allocate(bytes)?;
        let block = allocation.block;
        let start = arena.address(block);
        if zeroed {
            // Bytes that were never handed out are zero already; writing them would only touch their pages.
            let stale = allocation.fresh_from.clamp(block.offset, block.offset + bytes) - block.offset;
            arena.prepare_to_fill(Block { len: stale, ..block });
            // SAFETY: the block is at least `bytes` long and nobody else's.
            unsafe { start.as_ptr().write_bytes(0, stale as usize) };
        }
        Ok(Self {
            start: start.cast(),
            len,
            region: BatchMemory::Owned(Arc::clone(arena), block),
            elements: PhantomData,
        })
    }

    /// Takes large pages for elements that are about to be written from end to end, where the arena takes them on demand.
    pub(crate) fn prepare_to_fill(&self) {
        if let BatchMemory::Owned(arena, block) = &self.region {
            arena.prepare_to_fill(*block);
        }
    }

    /// The elements `len` long at byte `offset` of a writable mapped file that nobody else maps.
    pub(crate) fn over_file(file: FileSegment, offset: usize, len: usize) -> Result<Self> {
        let start = file_elements::<T>(&file, offset, len)?;
        Ok(Self { start, len, region: BatchMemory::Shared(Arc::new(Whole::File(file))), elements: PhantomData })
    }

    /// Makes the batch read-only; the result can be cloned and read by many jobs at once. No copy.
    pub fn freeze(self) -> SharedBatch<T> {
        SharedBatch { start: self.start, len: self.len, whole: self.region.into_shared(), elements: PhantomData }
    }

    /// Cuts the batch in two owned parts at element `mid`, without copying. (`split_at` is the slice's: it borrows.) The memory is given back when both parts are gone.
    ///
    /// The second part is aligned to 64 bytes only if `mid` elements are a multiple of that.
    ///
    /// # Panics
    /// When `mid` is beyond the end.
    pub fn into_split_at(self, mid: usize) -> (Self, Self) {
        assert!(mid <= self.len, "cannot split a batch of {} elements at {mid}", self.len);
        let Self { start, len, region, .. } = self;
        let whole = region.into_shared();
        let part = |start, len, whole| Self { start, len, region: BatchMemory::Shared(whole), elements: PhantomData };
        // SAFETY: `mid` is at most `len`, so the address stays inside the batch or one past its end.
        let second = unsafe { start.add(mid) };
        (part(start, mid, Arc::clone(&whole)), part(second, len - mid, whole))
    }

    /// Cuts the batch into parts of `part_len` elements, the last one shorter if need be, without copying.
    ///
    /// # Panics
    /// When `part_len` is zero.
    pub fn into_chunks(self, part_len: usize) -> Vec<Self> {
        assert!(part_len > 0, "the parts of a batch must not be empty");
        let mut parts = Vec::with_capacity(self.len.div_ceil(part_len));
        let mut rest = self;
        while rest.len > part_len {
            let (part, tail) = rest.into_split_at(part_len);
            parts.push(part);
            rest = tail;
        }
        parts.push(rest);
        parts
    }

    /// Joins this part of a batch and the one that follows it, as [`Batch::into_split_at`] made them, without copying.
    ///
    /// Never blocks. Jobs that write disjoint parts of one batch can have a part each, by value; their parts, of failed jobs too, are one batch
    /// again by this call or, in any order, by [`Batch::try_from_parts`]. Source: `BytesMut::unsplit` of the crate bytes, which copies where this gives an error.
    ///
    /// # Errors
    /// Hands both back with [`Error::InvalidArgument`] when `next` does not begin where this part ends, or is part of another batch. A part that
    /// was truncated, or to which its kernel gave a shorter length, does not end where the next one begins.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(1).build()?;
    /// let batch = engine.batch_from_fn(10, |index| index as u32)?;
    /// let (left, right) = batch.into_split_at(4);
    /// let failed = right.try_unsplit(left).unwrap_err(); // the wrong way round
    /// let (right, left) = failed.returned;
    /// assert_eq!(left.try_unsplit(right)?[9], 9);
    /// # Ok(())
    /// # }
    /// ```
    #[expect(clippy::result_large_err, reason = "both parts come back as they were, without an allocation")]
    pub fn try_unsplit(self, next: Self) -> core::result::Result<Self, Failed<(Self, Self)>> {
        match self.is_followed_by(&next) {
            // The memory of `next` is the same, and one reference of it is enough (law 4).
            true => {
                Ok(Self { start: self.start, len: self.len + next.len, region: self.region, elements: PhantomData })
            }
            false => Err(Failed::new(not_adjacent(), (self, next))),
        }
    }

    /// Joins parts of a batch, in any order, to the batch or the part of it that they are, without copying: [`Batch::into_chunks`] the other way.
    ///
    /// Never blocks. For parts that jobs give back in the order in which they finish.
    ///
    /// # Errors
    /// Hands all back as they were with [`Error::InvalidArgument`] when there is none, when one of them is missing in the middle or shorter than it
    /// was made, or when they are parts of more than one batch.
    ///
    /// # Examples
    /// ```
    /// use workring::{Batch, Engine, kernel};
    ///
    /// #[kernel]
    /// pub fn fill(y: &mut [u64], p: &u64) {
    ///     y.fill(*p);
    /// }
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(2).build()?;
    /// let mut jobs = engine.job_set()?;
    /// for (number, part) in (0..).zip(engine.batch::<u64>(1000)?.into_chunks(300)) {
    ///     jobs.insert(number, engine.submit(fill, part, number)?);
    /// }
    /// // In the order in which they end; one that fails gives its part back, too.
    /// let parts = jobs.map(|(_, result)| result.unwrap_or_else(|failed| failed.returned)).collect();
    /// let batch = Batch::try_from_parts(parts)?;
    /// assert_eq!((batch.len(), batch[0], batch[999]), (1000, 0, 3));
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_from_parts(parts: Vec<Self>) -> core::result::Result<Self, Failed<Vec<Self>>> {
        let mut order: Vec<usize> = (0..parts.len()).collect();
        // An empty part goes before the one that begins at the same place.
        order.sort_by_key(|&at| (parts[at].start, parts[at].len));
        if parts.is_empty() || order.windows(2).any(|pair| !parts[pair[0]].is_followed_by(&parts[pair[1]])) {
            return Err(Failed::new(not_adjacent(), parts));
        }
        let len = parts.iter().map(|part| part.len).sum();
        let first = parts.into_iter().nth(order[0]);
        // Law 1: the other parts, which are gone, were the only owners of the elements behind the first.
        first.map(|first| Self { len, ..first }).ok_or_else(|| Failed::new(not_adjacent(), Vec::new()))
    }

    fn is_followed_by(&self, next: &Self) -> bool {
        let is_one = match (&self.region, &next.region) {
            (BatchMemory::Shared(whole), BatchMemory::Shared(other)) => Arc::ptr_eq(whole, other),
            // A batch that was never cut has its memory alone.
            _ => false,
        };
        // SAFETY: the end of the elements lies inside their memory or one past its end.
        is_one && unsafe { self.start.add(self.len) } == next.start
    }

    /// Shortens the batch to `len` elements; has no effect when it is that short already. The memory stays with the batch.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(crate) fn arena(&self) -> &Arc<Arena> {
        self.region.arena()
    }

    /// The same memory from byte `offset` on as `len` elements of another type; the batch must be longer than that.
    pub(crate) fn reinterpret<U: Pod>(self, offset: usize, len: usize) -> Result<Batch<U>> {
        let bytes = bytes_of::<U>(len)? as usize;
        let available = self.len * size_of::<T>();
        if offset.checked_add(bytes).is_none_or(|end| end > available) {
            return Err(Error::invalid(format!("{bytes} bytes at {offset} exceed a batch of {available} bytes")));
        }
        // SAFETY: the offset lies inside the batch.
        let start = unsafe { self.start.cast::<u8>().add(offset) }.cast::<U>();
        if !start.is_aligned() {
            return Err(Error::invalid(format!("byte {offset} of a batch is not aligned for its type")));
        }
        Ok(Batch { start, len, region: self.region, elements: PhantomData })
    }

    /// The same memory as bytes.
    pub(crate) fn into_bytes(self) -> Batch<u8> {
        let len = self.len * size_of::<T>();
        Batch { start: self.start.cast(), len, region: self.region, elements: PhantomData }
    }

    /// Handle and length in bytes, for a descriptor.
    #[inline]
    pub(crate) fn reference(&self) -> Option<(u64, u64)> {
        Some((self.region.handle_of(self.start.cast())?, (self.len * size_of::<T>()) as u64))
    }
}

impl Batch<u8> {
    /// The bytes that another process lent to this one, for writing (law 5).
    pub(crate) fn lent(loan: Loan) -> Self {
        let (start, len) = loan.bytes();
        debug_assert!(loan.is_writable());
        Self { start, len, region: BatchMemory::Shared(Arc::new(Whole::Loan(loan))), elements: PhantomData }
    }

    /// The loan that these bytes are all of, or begin with, if nobody else in this process has a part of them.
    pub(crate) fn loan(&self) -> Option<&Loan> {
        match &self.region {
            BatchMemory::Shared(whole) => sole_loan(whole, self.start),
            BatchMemory::Owned(..) => None,
        }
    }

    /// The bytes of a batch of `T` as that batch again.
    ///
    /// # Errors
    /// The bytes themselves when their address or length is none of such a batch.
    pub(crate) fn into_elements<T: Pod>(self) -> core::result::Result<Batch<T>, Self> {
        let start = self.start.cast::<T>();
        if bytes_of::<T>(self.len / size_of::<T>()).ok() != Some(self.len as u64) || !start.is_aligned() {
            return Err(self);
        }
        Ok(Batch { start, len: self.len / size_of::<T>(), region: self.region, elements: PhantomData })
    }
}

fn not_adjacent() -> Error {
    Error::invalid("the parts are not those of one batch, each beginning where the one before ends")
}

fn sole_loan(whole: &Arc<Whole>, start: NonNull<u8>) -> Option<&Loan> {
    match &**whole {
        // No other reference is made meanwhile: this is the only one, and it is borrowed.
        Whole::Loan(loan) if Arc::strong_count(whole) == 1 && loan.bytes().0 == start => Some(loan),
        _ => None,
    }
}

fn file_elements<T: Pod>(file: &FileSegment, offset: usize, len: usize) -> Result<NonNull<T>> {
    let bytes = bytes_of::<T>(len)? as usize;
    let (base, mapped) = file.bytes();
    if offset.checked_add(bytes).is_none_or(|end| end > mapped) {
        return Err(Error::invalid(format!("{bytes} bytes at {offset} exceed the {mapped} bytes of the mapped file")));
    }
    // SAFETY: the offset was checked against the mapping.
    let start = unsafe { base.add(offset) }.cast::<T>();
    if !start.is_aligned() {
        return Err(Error::invalid(format!("element data at byte {offset} is not aligned for its type")));
    }
    Ok(start)
}

impl<T: Pod> Deref for Batch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements lie at `start` inside a mapping that `region` keeps (law 4); any bytes are values of `T`
        // (law 3); nobody writes them while `self` is borrowed (law 1).
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for Batch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the exclusive borrow makes this the only way to the elements (law 1).
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Read-only elements in the arena or in a mapped file, cheap to clone: many jobs can read them at once.
///
/// It derefs to `[T]`. Cloning counts a reference; the memory is given back when the last clone is gone. The elements of a
/// mapped file are the file's pages: if another program shortens the file while it is mapped, reading them ends the process
/// with SIGBUS, and if it writes to it, the elements change. Map files that nobody writes to.
///
/// # Examples
/// ```
/// use workring::Engine;
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).build()?;
/// let shared = engine.batch_from_slice(&[1.0, 2.0, 3.0])?.freeze();
/// let tail = shared.slice(1..);
/// assert_eq!(*tail, [2.0, 3.0]);
/// drop(tail);
/// let batch = shared.try_into_batch().unwrap();
/// assert_eq!(batch.len(), 3);
/// # Ok(())
/// # }
/// ```
pub struct SharedBatch<T: Pod> {
    start: NonNull<T>,
    len: usize,
    whole: Arc<Whole>,
    elements: PhantomData<T>,
}

// SAFETY: the elements are plain data that nobody writes (law 2).
unsafe impl<T: Pod + Send + Sync> Send for SharedBatch<T> {}
// SAFETY: as above.
unsafe impl<T: Pod + Send + Sync> Sync for SharedBatch<T> {}

impl<T: Pod> SharedBatch<T> {
    /// The elements `len` long at byte `offset` of a file mapped read-only.
    pub(crate) fn over_file(file: FileSegment, offset: usize, len: usize) -> Result<Self> {
        let start = file_elements::<T>(&file, offset, len)?;
        Ok(Self { start, len, whole: Arc::new(Whole::File(file)), elements: PhantomData })
    }

    /// A part of the batch, without copying.
    ///
    /// # Panics
    /// When the range is beyond the end or inverted.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let begin = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&at) => at.saturating_add(1),
            Bound::Excluded(&at) => at,
            Bound::Unbounded => self.len,
        };
        assert!(begin <= end && end <= self.len, "range {begin}..{end} of a batch of {} elements", self.len);
        Self {
            // SAFETY: `begin` is at most `len`.
            start: unsafe { self.start.add(begin) },
            len: end - begin,
            whole: Arc::clone(&self.whole),
            elements: PhantomData,
        }
    }

    /// Makes the batch writable again if this is its only clone and it lies in the arena. No copy.
    ///
    /// # Errors
    /// Hands the batch back: with [`Error::InvalidArgument`] when clones or slices of it live, or when it is a mapped file.
    pub fn try_into_batch(self) -> core::result::Result<Batch<T>, Failed<Self>> {
        let mut this = self;
        // `get_mut` proves that no other clone or slice exists (law 1 holds for the result).
        let reason = match Arc::get_mut(&mut this.whole) {
            Some(Whole::Block(..)) => None,
            Some(Whole::File(_)) => Some("a mapped file is read-only"),
            Some(Whole::Loan(loan)) => (!loan.is_writable()).then_some("it was lent for reading only"),
            None => Some("the batch has other clones"),
        };
        match reason {
            Some(reason) => Err(Failed::new(Error::invalid(reason), this)),
            None => Ok(Batch {
                start: this.start,
                len: this.len,
                region: BatchMemory::Shared(this.whole),
                elements: PhantomData,
            }),
        }
    }

    pub(crate) fn arena(&self) -> &Arc<Arena> {
        self.whole.arena()
    }

    /// The same memory as bytes.
    pub(crate) fn into_bytes(self) -> SharedBatch<u8> {
        let len = self.len * size_of::<T>();
        SharedBatch { start: self.start.cast(), len, whole: self.whole, elements: PhantomData }
    }

    /// Handle and length in bytes, for a descriptor.
    #[inline]
    pub(crate) fn reference(&self) -> Option<(u64, u64)> {
        Some((self.whole.handle_of(self.start.cast())?, (self.len * size_of::<T>()) as u64))
    }
}

impl SharedBatch<u8> {
    /// The bytes that another process lent to this one, for reading (law 5).
    pub(crate) fn lent(loan: Loan) -> Self {
        let (start, len) = loan.bytes();
        Self { start, len, whole: Arc::new(Whole::Loan(loan)), elements: PhantomData }
    }

    /// As [`Batch::loan`].
    pub(crate) fn loan(&self) -> Option<&Loan> {
        sole_loan(&self.whole, self.start)
    }

    /// As [`Batch::into_elements`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn into_elements<T: Pod>(self) -> core::result::Result<SharedBatch<T>, Self> {
        let start = self.start.cast::<T>();
        if bytes_of::<T>(self.len / size_of::<T>()).ok() != Some(self.len as u64) || !start.is_aligned() {
            return Err(self);
        }
        Ok(SharedBatch { start, len: self.len / size_of::<T>(), whole: self.whole, elements: PhantomData })
    }
}

impl<T: Pod> Clone for SharedBatch<T> {
    fn clone(&self) -> Self {
        Self { start: self.start, len: self.len, whole: Arc::clone(&self.whole), elements: PhantomData }
    }
}

impl<T: Pod> Deref for SharedBatch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements lie at `start` inside what `whole` keeps (law 4); any bytes are values (law 3); nobody writes
        // them (law 2).
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for SharedBatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBatch").field("len", &self.len).finish_non_exhaustive()
    }
}
