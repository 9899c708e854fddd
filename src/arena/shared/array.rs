//! [`SharedArray`]: the typed view of a shared segment.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;

use super::element::sealed::OneStep;
use super::element::{SharedCell, SharedElement, SharedInteger, SharedWaitable};
use super::wait::WaitOutcome;
use super::wait_async::WaitAsync;
use super::{Shape, SharedHandle, SharedSegment};
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::os::host::Deadline;

/// An array of numbers that threads and worker processes read and write at any time, one element in one step, and at whose
/// elements they wait for each other: what `SharedArrayBuffer`, typed arrays and `Atomics` are together.
///
/// It has memory of its own and needs no engine. Clones are the same array; it lives as long as one of them does. Threads take a clone
/// along. To take it to the kernels of an engine, in threads or worker processes, [`Engine::share`](crate::Engine::share) makes a
/// [`SharedHandle`] of it, which [`Context::shared`](crate::Context::shared) turns into the array again. A child of fork(2)
/// has the same array.
///
/// # What is promised
///
/// - Every operation on one element is one step for all threads, and all of them are in one order that all threads agree on
///   (sequentially consistent), as ECMA-262 has it for `Atomics`. Operations on many elements are many steps, in no order.
/// - An index or range that does not exist is an [`Error::OutOfRange`]; nothing panics.
/// - [`SharedArray::wait`] ends with [`WaitOutcome::Ok`] only if a notify counted this waiter: there are no spurious returns, not even
///   by signals. The waiters of one element are woken in the order they came (Linux: among threads of equal priority); those of
///   different elements never wake each other.
/// - A process that is killed leaves no waiter behind, and holds nothing.
///
/// # What is not
///
/// - An array keeps no process alive, nor does a pending wait: when `main` returns, the program ends.
/// - A wait blocks its thread. In a kernel that is a worker, and cancels and deadlines of its job do not end the wait: give it a
///   timeout, and look at [`Context::is_cancelled`](crate::Context::is_cancelled) between waits.
/// - On systems other than Linux an array is for the threads of one process, and there is no [`SharedArray::wait_async`].
///
/// # Examples
///
/// A producer and a consumer with one place between them:
/// ```
/// use std::{thread, time::Duration};
/// use workring::{SharedArray, shared::WaitOutcome};
///
/// const FULL: usize = 0; // 1 while there is something in the place
/// const PLACE: usize = 1;
///
/// # fn main() -> workring::Result<()> {
/// let array = SharedArray::<i32>::new(2)?;
/// let consumer = thread::spawn({
///     let array = array.clone();
///     move || -> workring::Result<i32> {
///         let mut sum = 0;
///         for _ in 0..100 {
///             while array.load(FULL)? == 0 {
///                 array.wait(FULL, 0, Duration::MAX)?; // returns at once if it is full by now
///             }
///             sum += array.load(PLACE)?;
///             array.store(FULL, 0)?;
///             array.notify(FULL, 1)?;
///         }
///         Ok(sum)
///     }
/// });
/// for number in 1..=100 {
///     while array.load(FULL)? == 1 {
///         array.wait(FULL, 1, Duration::MAX)?;
///     }
///     array.store(PLACE, number)?;
///     array.store(FULL, 1)?;
///     array.notify(FULL, 1)?;
/// }
/// assert_eq!(consumer.join().unwrap()?, 5050);
/// # Ok(())
/// # }
/// ```
pub struct SharedArray<T: SharedElement> {
    segment: Arc<SharedSegment>,
    element: PhantomData<fn() -> T>,
}

impl<T: SharedElement> Clone for SharedArray<T> {
    fn clone(&self) -> Self {
        Self { segment: Arc::clone(&self.segment), element: PhantomData }
    }
}

impl<T: SharedElement> SharedArray<T> {
    /// `len` zeros. Pages cost nothing until they are touched.
    ///
    /// The memory is one that worker processes can map, as long as the array can become. Where the system refuses that, because a filter
    /// forbids memfd_create(2) or by a limit on the length of files (`ulimit -f`), it is this process's own, and cannot be
    /// [shared](crate::Engine::share) with an engine of worker processes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the size exceeds the address space, [`Error::Io`] when the system refuses.
    pub fn new(len: usize) -> Result<Self> {
        Self::create(len, len, false)
    }

    /// `len` zeros, which may become `max_len` by [`SharedArray::grow`], for all holders of the array. Only address space is taken for
    /// what is not touched.
    ///
    /// # Errors
    /// As [`SharedArray::new`]; [`Error::InvalidArgument`] when `max_len` is less than `len`.
    pub fn with_max_len(len: usize, max_len: usize) -> Result<Self> {
        Self::create(len, max_len, true)
    }

    /// A copy of `source`.
    ///
    /// # Errors
    /// As [`SharedArray::new`].
    pub fn from_slice(source: &[T]) -> Result<Self> {
        let array = Self::new(source.len())?;
        array.copy_from_slice(0, source)?;
        Ok(array)
    }

    fn create(len: usize, max_len: usize, growable: bool) -> Result<Self> {
        // Elements of 64 bits are more than the system can wait for, so their waiters stand at a word beside.
        let (kind, element_size) = (T::KIND, size_of::<T>());
        let shape = Shape { kind, element_size, max_len, growable, sequences: element_size == 8 };
        Ok(Self { segment: Arc::new(SharedSegment::create(shape, len)?), element: PhantomData })
    }

    /// What it is a view of, for the project's own tests, which damage it.
    #[cfg(all(feature = "fault", target_os = "linux"))]
    pub(crate) fn segment(&self) -> &SharedSegment {
        &self.segment
    }

    /// The array of a handle, in whatever process of the engine.
    pub(crate) fn of_handle(arena: &Arena, handle: &SharedHandle<T>) -> Result<Self> {
        let mismatch = |found| Err(Error::ElementTypeMismatch { found, expected: T::KIND });
        if handle.kind != T::KIND && handle.generation != 0 {
            return mismatch(handle.kind);
        }
        let segment = arena.shared_segment(handle.number, handle.generation)?;
        let shape = segment.shape();
        if shape.kind != T::KIND || shape.element_size != size_of::<T>() {
            return mismatch(shape.kind);
        }
        Ok(Self { segment, element: PhantomData })
    }

    /// The handle under which the engine of `arena` knows the array.
    pub(crate) fn handle(&self, arena: &Arc<Arena>) -> Result<SharedHandle<T>> {
        arena.share(&self.segment)
    }

    /// Elements there are. Others may make it more at any time, never less.
    #[inline]
    pub fn len(&self) -> usize {
        self.segment.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements there can be.
    pub fn max_len(&self) -> usize {
        self.segment.shape().max_len
    }

    /// Whether it was made by [`SharedArray::with_max_len`].
    pub fn is_growable(&self) -> bool {
        self.segment.shape().growable
    }

    /// Makes the array `len` elements long, the new ones zero, and gives its length before. It never shrinks.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it would shrink, or is not growable, or not that far.
    pub fn grow(&self, len: usize) -> Result<usize> {
        self.segment.grow(len)
    }

    /// Whether both are the same array, in this process.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.segment, &other.segment)
    }

    /// Whether operations of this type are single instructions of the processor: always, on the systems workring runs on.
    pub const fn is_lock_free() -> bool {
        cfg!(target_has_atomic = "64")
    }

    /// One element, or `None` where there is none: for loops that check the index once.
    #[inline]
    pub fn at(&self, index: usize) -> Option<SharedCell<'_, T>> {
        if index >= self.segment.len() {
            return None;
        }
        let word = self.segment.words::<T::Word>().get(index)?;
        Some(SharedCell { word, segment: &self.segment, index })
    }

    #[inline]
    fn cell(&self, index: usize) -> Result<SharedCell<'_, T>> {
        self.at(index).ok_or_else(|| Error::OutOfRange { index, len: self.len() })
    }

    /// The value of an element.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], as for every method that takes an index.
    #[inline]
    pub fn load(&self, index: usize) -> Result<T> {
        Ok(self.cell(index)?.load())
    }

    /// Stores `value`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn store(&self, index: usize, value: T) -> Result<()> {
        self.cell(index)?.store(value);
        Ok(())
    }

    /// As [`SharedCell::load_relaxed`].
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn load_relaxed(&self, index: usize) -> Result<T> {
        Ok(self.cell(index)?.load_relaxed())
    }

    /// As [`SharedCell::store_relaxed`].
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn store_relaxed(&self, index: usize, value: T) -> Result<()> {
        self.cell(index)?.store_relaxed(value);
        Ok(())
    }

    /// Stores `value` and gives the one before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn swap(&self, index: usize, value: T) -> Result<T> {
        Ok(self.cell(index)?.swap(value))
    }

    /// Stores `new` if the value is `expected`, and gives the value before; see [`SharedCell::compare_exchange`]. The value before,
    /// either way, as `Atomics.compareExchange` gives it: `let (Ok(old) | Err(old)) = ..`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; inside, the value, when it is another than `expected`.
    #[inline]
    pub fn compare_exchange(&self, index: usize, expected: T, new: T) -> Result<core::result::Result<T, T>> {
        Ok(self.cell(index)?.compare_exchange(expected, new))
    }

    fn part(&self, begin: usize, len: usize) -> Result<&[T::Word]> {
        let out_of_range = |index| Error::OutOfRange { index, len: self.len() };
        let end = begin.checked_add(len).ok_or_else(|| out_of_range(usize::MAX))?;
        if end > self.len() {
            return Err(out_of_range(end));
        }
        self.segment.words::<T::Word>().get(Range { start: begin, end }).ok_or_else(|| out_of_range(end))
    }

    /// Stores the elements of `source` from `begin` on, each by itself: others may see some of them before others.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; nothing was stored then.
    pub fn copy_from_slice(&self, begin: usize, source: &[T]) -> Result<()> {
        for (word, value) in self.part(begin, source.len())?.iter().zip(source) {
            word.store(value.to_word(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Loads as many elements as `target` has, from `begin` on, each by itself: no snapshot while others write.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; nothing was loaded then.
    pub fn copy_to_slice(&self, begin: usize, target: &mut [T]) -> Result<()> {
        for (word, value) in self.part(begin, target.len())?.iter().zip(target) {
            *value = T::of_word(word.load(Ordering::Relaxed));
        }
        Ok(())
    }

    /// All elements there are, as [`SharedArray::copy_to_slice`] loads them.
    pub fn to_vec(&self) -> Vec<T> {
        let words = self.segment.words::<T::Word>().iter().take(self.len());
        words.map(|word| T::of_word(word.load(Ordering::Relaxed))).collect()
    }

    /// Stores `value` in all elements there are, as [`SharedArray::copy_from_slice`] does.
    pub fn fill(&self, value: T) {
        for word in self.segment.words::<T::Word>().iter().take(self.len()) {
            word.store(value.to_word(), Ordering::Relaxed);
        }
    }
}

impl<T: SharedInteger> SharedArray<T> {
    /// Adds `value`, wrapping around, and gives the value before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn fetch_add(&self, index: usize, value: T) -> Result<T> {
        Ok(self.cell(index)?.fetch_add(value))
    }

    /// Subtracts `value`, wrapping around, and gives the value before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn fetch_sub(&self, index: usize, value: T) -> Result<T> {
        Ok(self.cell(index)?.fetch_sub(value))
    }

    /// Keeps the bits that `value` has too, and gives the value before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn fetch_and(&self, index: usize, value: T) -> Result<T> {
        Ok(self.cell(index)?.fetch_and(value))
    }

    /// Sets the bits of `value`, and gives the value before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn fetch_or(&self, index: usize, value: T) -> Result<T> {
        Ok(self.cell(index)?.fetch_or(value))
    }

    /// Flips the bits of `value`, and gives the value before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn fetch_xor(&self, index: usize, value: T) -> Result<T> {
        Ok(self.cell(index)?.fetch_xor(value))
    }
}

fn bits<T: SharedWaitable>(value: T) -> u64 {
    value.to_word().into()
}

impl<T: SharedWaitable> SharedCell<'_, T> {
    /// As [`SharedArray::wait`].
    ///
    /// # Errors
    /// As there, but for the index.
    pub fn wait(&self, expected: T, limit: Duration) -> Result<WaitOutcome> {
        self.segment.wait(self.index, bits(expected), Deadline::of_limit(limit))
    }

    /// As [`SharedArray::notify`].
    ///
    /// # Errors
    /// As there, but for the index.
    pub fn notify(&self, count: u32) -> Result<usize> {
        self.segment.notify(self.index, count)
    }
}

/// Waiting works for elements of 32 and 64 bits:
/// ```compile_fail,E0599
/// # fn main() -> workring::Result<()> {
/// workring::SharedArray::<u16>::new(1)?.wait(0, 0, std::time::Duration::MAX)?;
/// # Ok(())
/// # }
/// ```
impl<T: SharedWaitable> SharedArray<T> {
    /// Blocks while the element holds `expected`, until a [`SharedArray::notify`] wakes this waiter or the time is up.
    /// [`Duration::MAX`] is no limit; a time of zero blocks never.
    ///
    /// The value is compared and the queue entered as one step: a notify that follows a change of the value is never missed. With
    /// another value it returns [`WaitOutcome::NotEqual`] at once, whatever the time. It may be called on any thread; inside a kernel
    /// it holds up the worker.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Io`] if the system refuses to let a thread wait.
    pub fn wait(&self, index: usize, expected: T, limit: Duration) -> Result<WaitOutcome> {
        self.cell(index)?.wait(expected, limit)
    }

    /// Wakes up to `count` waiters of the element, in all processes, those first that came first; [`u32::MAX`] is all. Says how many
    /// there were. It changes no value and is no message to later waiters.
    ///
    /// # Errors
    /// As [`SharedArray::wait`].
    pub fn notify(&self, index: usize, count: u32) -> Result<usize> {
        self.cell(index)?.notify(count)
    }

    /// As [`SharedArray::wait`], without blocking: the wait begins with this call, not with the first poll, and is in the element's queue
    /// when the call returns. The future belongs to no borrow and no runtime.
    ///
    /// Each pending wait has a thread of a pool of at most 256, so that notifications of other processes find it; the call takes as long as
    /// it takes to wake one. Where that thread handles a signal, the wait moves to the end of its queue. Like `Atomics.waitAsync` a
    /// pending wait does not keep the program alive: await it before `main` returns.
    ///
    /// # Errors
    /// Of the future: as [`SharedArray::wait`]; [`Error::TooManyWaits`]; [`Error::Io`] when no thread can be started;
    /// [`Error::Unsupported`] before Linux 5.16 and on other systems; [`Error::Forked`] in a child of a process that used it.
    ///
    /// # Examples
    /// ```
    /// # #[cfg(target_os = "linux")]
    /// # fn main() -> workring::Result<()> {
    /// use workring::{SharedArray, shared::WaitOutcome};
    ///
    /// let array = SharedArray::<i64>::new(1)?;
    /// let wait = array.wait_async(0, 0, std::time::Duration::MAX);
    /// assert_eq!(array.notify(0, u32::MAX)?, 1); // it is there
    /// assert_eq!(pollster::block_on(wait)?, WaitOutcome::Ok);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(target_os = "linux"))]
    /// # fn main() {}
    /// ```
    pub fn wait_async(&self, index: usize, expected: T, limit: Duration) -> WaitAsync {
        match self.cell(index) {
            Ok(_) => WaitAsync::begin(&self.segment, index, bits(expected), Deadline::of_limit(limit)),
            Err(error) => WaitAsync::decided(Err(error)),
        }
    }
}

impl<T: SharedElement> fmt::Debug for SharedArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedArray")
            .field("len", &self.len())
            .field("max_len", &self.max_len())
            .finish_non_exhaustive()
    }
}
