//! Element-wise loops whose stores go past the caches.
//!
//! An ordinary store reads the line it changes into the cache first, and pushes another one out. A line that is written as a
//! whole and not read again soon needs neither: non-temporal stores send it to memory, and a loop that only waits for memory
//! moves two thirds of the bytes. Where the caches would have held the output they cost the reader what they save the writer,
//! so the caller decides.
//!
//! Laws of this file:
//! 1. A non-temporal store goes to 16 aligned bytes inside an exclusive slice, which nobody else reads or writes before it is
//!    given back.
//! 2. No call of [`map`] ends, not even by a panic, before a store fence: non-temporal stores are not ordered by the release
//!    stores that tell others of the result, nor by locks, but only by that fence.
//! 3. The numbers are computed by the function of the ordinary loop, element by element. Only the stores differ, so the bits do
//!    not.
#![allow(unsafe_code)]

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) use x86_64::map;

use super::element::Float;

/// The ordinary loop, for what is no whole line and for processors whose streaming stores are not known here.
#[inline(always)]
pub(super) fn map_cached<T: Float>(x: &[T], y: &mut [T], function: impl Fn(T) -> T) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = function(x);
    }
}

/// The ordinary loop: nothing is known here of this processor's streaming stores.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
pub(super) fn map<T: Float>(x: &[T], y: &mut [T], function: impl Fn(T) -> T) {
    map_cached(x, y, function);
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64 {
    use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    use super::{Float, map_cached};

    /// Bytes of a cache line.
    const LINE: usize = 64;
    /// Bytes of one store.
    const STORE: usize = size_of::<__m128i>();
    /// Elements computed before they are stored: one line of `f32`, two of `f64`, eight of the sixteen registers at most.
    const BLOCK: usize = 16;

    /// Ends the reach of the stores above it when it is dropped (law 2).
    struct Fence;

    impl Drop for Fence {
        #[inline(always)]
        fn drop(&mut self) {
            // SAFETY: every x86-64 processor has SSE. The fence has no other condition.
            unsafe { _mm_sfence() };
        }
    }

    /// `y[i] = function(x[i])`, as far as both slices go, with stores that leave no trace in the caches.
    ///
    /// The functions of this crate do not panic. The fence does not depend on that: a panic would leave the outputs to
    /// the caller, and the message that the job failed may reach it over another core.
    #[inline(always)]
    pub(in crate::numeric) fn map<T: Float>(x: &[T], y: &mut [T], function: impl Fn(T) -> T) {
        const { assert!((BLOCK * size_of::<T>()).is_multiple_of(LINE) && LINE.is_multiple_of(STORE)) };
        let len = x.len().min(y.len());
        // Up to the first line that begins in `y`; everything where it has none.
        let head = y.as_ptr().align_offset(LINE).min(len);
        let ((x_head, x), (y_head, y)) = (x[..len].split_at(head), y[..len].split_at_mut(head));
        map_cached(x_head, y_head, &function);
        let (x_blocks, x_rest) = x.as_chunks::<BLOCK>();
        let (y_blocks, y_rest) = y.as_chunks_mut::<BLOCK>();
        let fence = Fence;
        for (y, x) in y_blocks.iter_mut().zip(x_blocks) {
            let mut values = *x;
            for value in &mut values {
                *value = function(*value);
            }
            // SAFETY: a block of `y` begins at a line: the first behind `head`, where `align_offset` found one (or there is no
            // block), and each is whole lines long. `fence` is dropped after it, before `y` is given back.
            unsafe { stream(y, &values) };
        }
        drop(fence);
        map_cached(x_rest, y_rest, &function);
    }

    /// Copies `values` to `y` past the caches.
    ///
    /// # Safety
    /// `y` must be aligned to [`STORE`] bytes, and a [`Fence`] must be dropped before anybody else may access it.
    #[inline(always)]
    unsafe fn stream<T: Float>(y: &mut [T; BLOCK], values: &[T; BLOCK]) {
        let (to, from) = (y.as_mut_ptr().cast::<__m128i>(), values.as_ptr().cast::<__m128i>());
        for at in 0..BLOCK * size_of::<T>() / STORE {
            // SAFETY: `at` stays inside both blocks, `to` is aligned (the caller vouches), the load need not be. The elements
            // are plain data, so any bytes may be read and written as integers; `y` is exclusive (law 1), and the fence that
            // follows is the caller's (law 2).
            unsafe { _mm_stream_si128(to.add(at), _mm_loadu_si128(from.add(at))) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// Elements of `x` and `y` that the compared parts may begin at.
    const OFFSETS: usize = 9;
    const LENGTHS: usize = 201;

    fn same<T: Float>(found: T, expected: T) -> bool {
        // The bits of a computed NaN are not fixed.
        let both_nan = found.partial_cmp(&found).is_none() && expected.partial_cmp(&expected).is_none();
        found.bits() == expected.bits() || both_nan
    }

    /// Runs `function` over every length at every offset of both slices, and compares each element, and those around.
    fn check<T: Float>(value: impl Fn(usize) -> T, function: impl Fn(T) -> T + Copy) {
        // A place in `x` tells its value, so that a lane that went astray shows.
        let x: Vec<T> = (0..LENGTHS + OFFSETS).map(value).collect();
        let expected: Vec<T> = x.iter().map(|&x| function(x)).collect();
        let untouched = T::LARGEST;
        let mut y = [untouched; LENGTHS + 2 * OFFSETS];
        for len in 0..LENGTHS {
            for (x_at, y_at) in (0..OFFSETS).flat_map(|x_at| (0..OFFSETS).map(move |y_at| (x_at, y_at))) {
                y.fill(untouched);
                map(&x[x_at..x_at + len], &mut y[y_at..y_at + len], function);
                let case = format!("{len} elements from {x_at} to {y_at}");
                let right = y[y_at..].iter().zip(&expected[x_at..]).take(len).all(|(&y, &wanted)| same(y, wanted));
                assert!(right, "{case}");
                let around = y[..y_at].iter().chain(&y[y_at + len..]);
                assert!(around.into_iter().all(|y| y.bits() == untouched.bits()), "{case}: written beyond the end");
            }
        }
    }

    const SPECIAL: [f64; 11] =
        [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 5e-324, f64::MAX, f64::MIN, 1e-40];

    #[test]
    fn every_length_and_offset_has_the_bits_of_the_ordinary_loop() {
        let number = |at: usize| at as f64 * 1.25 - 77.5;
        check(number, |x: f64| 3.0 * x + 0.1);
        check(|at| number(at) as f32, |x: f32| 3.0 * x + 0.1);
        // Each special value comes to each place of a block.
        let special = |at: usize| SPECIAL[at % SPECIAL.len()];
        check(special, |x: f64| 1.0 / x);
        check(|at| special(at) as f32, |x: f32| 1.0 / x);
        check(special, |x: f64| -x);
        check(|at| special(at) as f32, |x: f32| x.abs());
        // Bits that are only moved keep even the payload of a NaN.
        let x: Vec<f64> = (0..100).map(|at| f64::from_bits(0x7ff8_0000_0000_0000 | at)).collect();
        let mut y = vec![0.0; 100];
        map(&x, &mut y, f64::abs);
        assert!(x.iter().zip(&y).all(|(x, y)| x.to_bits() == y.to_bits()));
    }

    #[test]
    fn the_shorter_slice_says_how_far_it_goes() {
        let mut y = [7.0; 64];
        map(&[1.0; 40], &mut y, |x: f64| x);
        assert!(y[..40].iter().all(|&y| y == 1.0) && y[40..].iter().all(|&y| y == 7.0));
        map(&[2.0; 64], &mut y[..33], |x: f64| x);
        assert!(y[..33].iter().all(|&y| y == 2.0) && y[33..40].iter().all(|&y| y == 1.0));
    }

    #[test]
    fn a_panic_leaves_what_was_written() {
        let x: Vec<f64> = (0..1000).map(f64::from).collect();
        let mut y = vec![-1.0; 1000];
        let result = catch_unwind(AssertUnwindSafe(|| {
            map(&x, &mut y, |x| if x < 500.0 { x } else { panic!("{x} is too large") });
        }));
        assert!(result.is_err());
        // The block that the panic is in is not stored, nor what lies behind it.
        let written = y.iter().position(|&y| y == -1.0).unwrap();
        assert!((500 - 16..=500).contains(&written), "{written}");
        assert!(y[..written].iter().enumerate().all(|(at, &y)| y == at as f64));
        assert!(y[written..].iter().all(|&y| y == -1.0));
    }
}
