//! Stable sorting: runs that the standard library sorts, and merges in parallel.
//!
//! Laws of this file:
//! 1. Each part of the slice has, whenever it is returned or unwound from, all of its elements once. What lies in the buffer are their bytes, which
//!    nobody drops; while a merge writes to the slice they are all there, and a panic has them copied back.
//! 2. Threads have disjoint parts of slice and buffer, by exclusive borrows. An element is compared where it lies by the thread that has its part, and
//!    its bytes are copied after the last comparison.
#![allow(unsafe_code)]

use core::cmp::Ordering;
use core::mem::MaybeUninit;
use core::ptr;
use std::sync::Arc;

use crate::engine::fork_join::join;
use crate::engine::runtime::Core;

/// What is no longer than this is sorted, or merged, by one thread.
const SERIAL_MAX: usize = 8192;
/// Runs for each thread that may take part, so that they come out even.
const RUNS_PER_THREAD: usize = 2;
/// Elements that a round of a merge takes from each end without looking whether a run is at its end.
const ROUND_MIN: usize = 16;

/// Sorts on all threads of the engine that have time, and keeps equal elements in their order. Takes as much memory again.
pub(in crate::front) fn merge_sort<T: Send>(
    core: &Arc<Core>,
    v: &mut [T],
    compare: &(impl Fn(&T, &T) -> Ordering + Sync),
) {
    let threads = core.config.helpers() + 1;
    if threads == 1 || v.len() <= 2 * SERIAL_MAX || size_of::<T>() == 0 {
        return v.sort_by(compare);
    }
    let run_len = v.len().div_ceil((threads * RUNS_PER_THREAD).next_power_of_two()).max(SERIAL_MAX);
    let mut buffer = Box::new_uninit_slice(v.len());
    sort_part(core, v, &mut buffer, run_len, false, compare);
}

/// Sorts `v`, of which a copy comes to lie in the buffer if it is asked for; the elements are then in some order in `v`.
fn sort_part<T: Send>(
    core: &Arc<Core>,
    v: &mut [T],
    buffer: &mut [MaybeUninit<T>],
    run_len: usize,
    into_buffer: bool,
    compare: &(impl Fn(&T, &T) -> Ordering + Sync),
) {
    if v.len() <= run_len {
        v.sort_by(compare);
        if into_buffer {
            // SAFETY: both have one length, and a buffer may hold any bytes.
            unsafe { ptr::copy_nonoverlapping(v.as_ptr(), buffer.as_mut_ptr().cast(), v.len().min(buffer.len())) };
        }
        return;
    }
    let middle = v.len() / 2;
    let (low, high) = v.split_at_mut(middle);
    let (low_buffer, high_buffer) = buffer.split_at_mut(middle);
    join(
        core,
        || sort_part(core, low, low_buffer, run_len, !into_buffer, compare),
        || sort_part(core, high, high_buffer, run_len, !into_buffer, compare),
    );
    if into_buffer {
        return merge(core, low, high, buffer, compare);
    }
    /// Copies all elements back if a comparison panics.
    struct CopyBack<'b, T>(&'b mut [MaybeUninit<T>], *mut T);
    impl<T> Drop for CopyBack<'_, T> {
        fn drop(&mut self) {
            // SAFETY: both halves have put all of their elements into the buffer, and the slice is as long (law 1).
            unsafe { ptr::copy_nonoverlapping(self.0.as_ptr().cast(), self.1, self.0.len()) };
        }
    }
    let (len, start) = (v.len(), v.as_mut_ptr());
    let copy_back = CopyBack(buffer, start);
    let (low, high) = copy_back.0.split_at_mut(middle);
    // SAFETY: both halves have put all of their elements into the buffer; the slice is written as bytes, and whole, or copied back, before
    // anybody looks at it (law 1). It has no other reference meanwhile than the pointer of `copy_back`, which is used when this one is gone.
    unsafe {
        let slice = core::slice::from_raw_parts_mut(start.cast::<MaybeUninit<T>>(), len);
        let low = core::slice::from_raw_parts_mut(low.as_mut_ptr().cast::<T>(), low.len());
        let high = core::slice::from_raw_parts_mut(high.as_mut_ptr().cast::<T>(), high.len());
        merge(core, low, high, slice, compare);
    }
    core::mem::forget(copy_back);
}

/// Writes the bytes of two sorted runs to `merged`, which is as long as both, in order; equal ones of the left before those of the right.
fn merge<T: Send>(
    core: &Arc<Core>,
    left: &mut [T],
    right: &mut [T],
    merged: &mut [MaybeUninit<T>],
    compare: &(impl Fn(&T, &T) -> Ordering + Sync),
) {
    if merged.len() <= 2 * SERIAL_MAX {
        return merge_here(left, right, merged, compare);
    }
    // The longer one is cut in its middle, the other one where that element belongs.
    let (left_at, right_at) = if left.len() >= right.len() {
        let at = left.len() / 2;
        (at, right.partition_point(|element| compare(element, &left[at]) == Ordering::Less))
    } else {
        let at = right.len() / 2;
        (left.partition_point(|element| compare(&right[at], element) != Ordering::Less), at)
    };
    let (left_low, left_high) = left.split_at_mut(left_at);
    let (right_low, right_high) = right.split_at_mut(right_at);
    let (low, high) = merged.split_at_mut(left_at + right_at);
    join(core, || merge(core, left_low, right_low, low, compare), || merge(core, left_high, right_high, high, compare));
}

/// As [`merge`], by this thread: from both ends at once, as neither has to wait for the other.
fn merge_here<T>(left: &[T], right: &[T], merged: &mut [MaybeUninit<T>], compare: &impl Fn(&T, &T) -> Ordering) {
    assert_eq!(left.len() + right.len(), merged.len());
    let is_less = |a: &T, b: &T| compare(a, b) == Ordering::Less;
    let (mut left, mut right, mut merged) = (left, right, merged);
    loop {
        let steps = left.len().min(right.len()) / 2;
        if steps < ROUND_MIN {
            break;
        }
        let (mut from_left, mut from_right, mut back_left, mut back_right) = (0, 0, left.len(), right.len());
        let (mut front, mut back) = (0, merged.len());
        for _ in 0..steps {
            // SAFETY: each end takes `steps` elements, so at most that many from a run, which has twice as many: the ends do not meet, and stay
            // inside. `merged` is as long as both runs. An element is taken once, as one end goes up and the other one down.
            unsafe {
                let (a, b) = (left.get_unchecked(from_left), right.get_unchecked(from_right));
                let takes_right = is_less(b, a);
                let taken = if takes_right { b } else { a };
                merged.get_unchecked_mut(front).as_mut_ptr().copy_from_nonoverlapping(taken, 1);
                from_right += usize::from(takes_right);
                from_left += usize::from(!takes_right);
                front += 1;

                let (a, b) = (left.get_unchecked(back_left - 1), right.get_unchecked(back_right - 1));
                let takes_left = is_less(b, a);
                let taken = if takes_left { a } else { b };
                back -= 1;
                merged.get_unchecked_mut(back).as_mut_ptr().copy_from_nonoverlapping(taken, 1);
                back_left -= usize::from(takes_left);
                back_right -= usize::from(!takes_left);
            }
        }
        left = &left[from_left..back_left];
        right = &right[from_right..back_right];
        merged = &mut merged[front..back];
    }
    let (mut from_left, mut from_right) = (left.iter(), right.iter());
    let (mut a, mut b) = (from_left.next(), from_right.next());
    for place in merged {
        let takes_right = match (a, b) {
            (Some(a), Some(b)) => is_less(b, a),
            (None, _) => true,
            (_, None) => false,
        };
        let taken = if takes_right { &mut b } else { &mut a };
        let Some(element) = *taken else { return };
        // SAFETY: the bytes of an element, into a place for one.
        unsafe { place.as_mut_ptr().copy_from_nonoverlapping(element, 1) };
        *taken = if takes_right { from_right.next() } else { from_left.next() };
    }
}
