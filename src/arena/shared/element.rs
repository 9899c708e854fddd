//! Element types of shared arrays, and what can be done to one element in one step.
//!
//! Accesses are sequentially consistent, unlike everywhere else in this crate: ECMA-262 says so of `Atomics`, and programs that come
//! from there rely on it, for example where two threads each store to one element and then look at the other's. On x86-64 it costs
//! something for stores only. The model checker would treat these accesses as acquire and release; nothing here is modelled by it.
//! `load_relaxed` and `store_relaxed` ask for less.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use bytemuck::Pod;

use super::{SharedSegment, Word};

pub(crate) mod sealed {
    use super::Ordering;

    /// How the elements lie in a segment, as words of their size.
    pub trait Stored: Copy {
        /// What is written into the segment's header.
        const KIND: u32;
        /// The word that holds one.
        type Word: OneStep;
        /// The value as the bits of a word.
        fn to_word(self) -> <Self::Word as OneStep>::Bits;
        /// The value of a word.
        fn of_word(bits: <Self::Word as OneStep>::Bits) -> Self;
    }

    /// The operations of a word.
    #[expect(private_bounds, reason = "the trait cannot be named from outside")]
    pub trait OneStep: super::Word {
        type Bits: Copy + Eq + Into<u64>;
        fn load(&self, ordering: Ordering) -> Self::Bits;
        fn store(&self, bits: Self::Bits, ordering: Ordering);
        fn swap(&self, bits: Self::Bits) -> Self::Bits;
        fn compare_exchange(&self, expected: Self::Bits, new: Self::Bits) -> Result<Self::Bits, Self::Bits>;
        fn add(&self, bits: Self::Bits) -> Self::Bits;
        fn sub(&self, bits: Self::Bits) -> Self::Bits;
        fn and(&self, bits: Self::Bits) -> Self::Bits;
        fn or(&self, bits: Self::Bits) -> Self::Bits;
        fn xor(&self, bits: Self::Bits) -> Self::Bits;
    }
}

use sealed::OneStep;

macro_rules! words {
    ($($word:ty => $bits:ty),* $(,)?) => {
        $(
            impl OneStep for $word {
                type Bits = $bits;
                #[inline]
                fn load(&self, ordering: Ordering) -> $bits { <$word>::load(self, ordering) }
                #[inline]
                fn store(&self, bits: $bits, ordering: Ordering) { <$word>::store(self, bits, ordering) }
                #[inline]
                fn swap(&self, bits: $bits) -> $bits { self.swap(bits, Ordering::SeqCst) }
                #[inline]
                fn compare_exchange(&self, expected: $bits, new: $bits) -> Result<$bits, $bits> {
                    <$word>::compare_exchange(self, expected, new, Ordering::SeqCst, Ordering::SeqCst)
                }
                #[inline]
                fn add(&self, bits: $bits) -> $bits { self.fetch_add(bits, Ordering::SeqCst) }
                #[inline]
                fn sub(&self, bits: $bits) -> $bits { self.fetch_sub(bits, Ordering::SeqCst) }
                #[inline]
                fn and(&self, bits: $bits) -> $bits { self.fetch_and(bits, Ordering::SeqCst) }
                #[inline]
                fn or(&self, bits: $bits) -> $bits { self.fetch_or(bits, Ordering::SeqCst) }
                #[inline]
                fn xor(&self, bits: $bits) -> $bits { self.fetch_xor(bits, Ordering::SeqCst) }
            }
        )*
    };
}

words! { AtomicU8 => u8, AtomicU16 => u16, AtomicU32 => u32, AtomicU64 => u64 }

/// A type that [`SharedArray`](crate::SharedArray) can have as its elements: signed and unsigned integers of 8 to 64 bits, `f32` and
/// `f64`.
pub trait SharedElement: Pod + PartialEq + fmt::Debug + Send + Sync + sealed::Stored {}

/// Elements that can be added to and masked in one step: the integers.
pub trait SharedInteger: SharedElement {}

/// Elements that can be waited for: the integers of 32 and 64 bits.
pub trait SharedWaitable: SharedInteger {}

macro_rules! elements {
    ($($ty:ty as $word:ty, $bits:ty, $kind:literal, $to:expr, $of:expr;)*) => {
        $(
            impl sealed::Stored for $ty {
                const KIND: u32 = $kind;
                type Word = $word;
                #[inline]
                fn to_word(self) -> $bits { ($to)(self) }
                #[inline]
                fn of_word(bits: $bits) -> Self { ($of)(bits) }
            }
            impl SharedElement for $ty {}
        )*
    };
}

elements! {
    i8 as AtomicU8, u8, 1, |value| value as u8, |bits| bits as i8;
    u8 as AtomicU8, u8, 2, |value| value, |bits| bits;
    i16 as AtomicU16, u16, 3, |value| value as u16, |bits| bits as i16;
    u16 as AtomicU16, u16, 4, |value| value, |bits| bits;
    i32 as AtomicU32, u32, 5, |value| value as u32, |bits| bits as i32;
    u32 as AtomicU32, u32, 6, |value| value, |bits| bits;
    i64 as AtomicU64, u64, 7, |value| value as u64, |bits| bits as i64;
    u64 as AtomicU64, u64, 8, |value| value, |bits| bits;
    f32 as AtomicU32, u32, 9, f32::to_bits, f32::from_bits;
    f64 as AtomicU64, u64, 10, f64::to_bits, f64::from_bits;
}

macro_rules! mark {
    ($trait:ident: $($ty:ty),*) => { $(impl $trait for $ty {})* };
}

mark!(SharedInteger: i8, u8, i16, u16, i32, u32, i64, u64);
mark!(SharedWaitable: i32, u32, i64, u64);

/// One element of a [`SharedArray`](crate::SharedArray): its index was checked once, so what follows cannot fail. Made by
/// [`SharedArray::at`](crate::SharedArray::at).
///
/// Every operation is one step for all threads and processes, in one order that all of them agree on (sequentially consistent).
///
/// # Examples
/// ```
/// # fn main() -> workring::Result<()> {
/// let array = workring::SharedArray::<u32>::new(8)?;
/// let counter = array.at(3).unwrap();
/// for _ in 0..1000 {
///     counter.fetch_add(2);
/// }
/// assert_eq!(counter.load(), 2000);
/// assert_eq!(counter.compare_exchange(2000, 7), Ok(2000)); // it was, so it is 7 now
/// assert_eq!(array.load(3)?, 7);
/// # Ok(())
/// # }
/// ```
pub struct SharedCell<'a, T: SharedElement> {
    pub(super) word: &'a T::Word,
    pub(super) segment: &'a SharedSegment,
    pub(super) index: usize,
}

impl<T: SharedElement> Clone for SharedCell<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: SharedElement> Copy for SharedCell<'_, T> {}

impl<T: SharedElement> SharedCell<'_, T> {
    /// Its index in the array.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The value.
    #[inline]
    pub fn load(&self) -> T {
        T::of_word(self.word.load(Ordering::SeqCst))
    }

    /// Stores `value`.
    #[inline]
    pub fn store(&self, value: T) {
        self.word.store(value.to_word(), Ordering::SeqCst);
    }

    /// The value, in no order with accesses of other elements.
    #[inline]
    pub fn load_relaxed(&self) -> T {
        T::of_word(self.word.load(Ordering::Relaxed))
    }

    /// Stores `value`, in no order with accesses of other elements: much cheaper than [`SharedCell::store`] on x86-64.
    #[inline]
    pub fn store_relaxed(&self, value: T) {
        self.word.store(value.to_word(), Ordering::Relaxed);
    }

    /// Stores `value` and gives the one before.
    #[inline]
    pub fn swap(&self, value: T) -> T {
        T::of_word(self.word.swap(value.to_word()))
    }

    /// Stores `new` if the value is `expected`, and gives the value before, as the atomics of the standard library do. Floating point
    /// values are compared by their bits.
    ///
    /// # Errors
    /// The value, when it is another than `expected`; nothing was stored.
    #[inline]
    pub fn compare_exchange(&self, expected: T, new: T) -> Result<T, T> {
        self.word.compare_exchange(expected.to_word(), new.to_word()).map(T::of_word).map_err(T::of_word)
    }
}

impl<T: SharedInteger> SharedCell<'_, T> {
    /// Adds `value`, wrapping around, and gives the value before.
    #[inline]
    pub fn fetch_add(&self, value: T) -> T {
        T::of_word(self.word.add(value.to_word()))
    }

    /// Subtracts `value`, wrapping around, and gives the value before.
    #[inline]
    pub fn fetch_sub(&self, value: T) -> T {
        T::of_word(self.word.sub(value.to_word()))
    }

    /// Keeps the bits that `value` has too, and gives the value before.
    #[inline]
    pub fn fetch_and(&self, value: T) -> T {
        T::of_word(self.word.and(value.to_word()))
    }

    /// Sets the bits of `value`, and gives the value before.
    #[inline]
    pub fn fetch_or(&self, value: T) -> T {
        T::of_word(self.word.or(value.to_word()))
    }

    /// Flips the bits of `value`, and gives the value before.
    #[inline]
    pub fn fetch_xor(&self, value: T) -> T {
        T::of_word(self.word.xor(value.to_word()))
    }
}

impl<T: SharedElement> fmt::Debug for SharedCell<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCell").field("index", &self.index).field("value", &self.load()).finish()
    }
}
