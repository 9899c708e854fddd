//! Sorting and merging by the total order of an element type.

use super::element::Element;
use crate::error::{Error, Result};

/// Writes the elements of `x` to `y` in ascending order.
///
/// Floating point numbers by their total order (`f64::total_cmp`): -0.0 before 0.0, NaNs at both ends by their sign. Equal elements have the
/// same bits, so that there is one result.
///
/// # Errors
/// [`Error::LengthMismatch`].
pub fn sort<T: Element>(x: &[T], y: &mut [T]) -> Result<()> {
    if x.len() != y.len() {
        return Err(Error::LengthMismatch { what: "y".into(), found: y.len() as u64, expected: x.len() as u64 });
    }
    y.copy_from_slice(x);
    y.sort_unstable_by(T::total_order);
    Ok(())
}

/// Merges neighbouring sorted runs of `run_len` elements in pairs; `y` is the part from `first` on of what comes out.
///
/// The last run may be shorter, or lack. Of runs that are not sorted it is unspecified what comes out. Takes a time that grows with the
/// length of `y`, and with the logarithm of that of a run.
///
/// # Errors
/// [`Error::InvalidArgument`] when `first` and the length of `y` go beyond `x`, or a run has no elements.
pub fn merge_runs<T: Element>(x: &[T], run_len: usize, first: usize, y: &mut [T]) -> Result<()> {
    let end = first.checked_add(y.len()).filter(|&end| end <= x.len() && run_len > 0);
    let Some(end) = end else {
        return Err(Error::invalid("a part of merged runs lies inside of them, and runs have elements"));
    };
    let pair_len = run_len.saturating_mul(2);
    let (mut at, mut y) = (first, y);
    while at < end {
        let begin = at - at % pair_len;
        let pair = &x[begin..begin.saturating_add(pair_len).min(x.len())];
        let (left, right) = pair.split_at(run_len.min(pair.len()));
        let (part, behind) = y.split_at_mut((begin + pair.len()).min(end) - at);
        merge_part(left, right, at - begin, part);
        at += part.len();
        y = behind;
    }
    Ok(())
}

/// The part from `first` on of two sorted runs merged.
fn merge_part<T: Element>(left: &[T], right: &[T], first: usize, y: &mut [T]) {
    let (from_left, to_left) = (taken_from_left(left, right, first), taken_from_left(left, right, first + y.len()));
    // Of runs that are not sorted these may contradict each other.
    let to_left = to_left.clamp(from_left, from_left + y.len());
    let to_right = (first + y.len()) - to_left;
    let from_right = first - from_left;
    merge(&left[from_left..to_left], &right[from_right..to_right], y);
}

/// How many of the first `count` elements of the merged runs are of the left one (Odeh and others, "Merge Path", 2012).
fn taken_from_left<T: Element>(left: &[T], right: &[T], count: usize) -> usize {
    let (mut low, mut high) = (count.saturating_sub(right.len()), count.min(left.len()));
    while low < high {
        let middle = low.midpoint(high);
        if left[middle].total_order(&right[count - 1 - middle]).is_le() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Merges two runs, from both ends at once, as neither has to wait for the other.
fn merge<T: Element>(left: &[T], right: &[T], y: &mut [T]) {
    let (mut left, mut right, mut y) = (left, right, y);
    // Each end takes so many at most from each run.
    while let steps @ 16.. = left.len().min(right.len()) / 2 {
        let (front, back) = y.split_at_mut(steps);
        let behind = back.len() - steps;
        let (mut l, mut r) = (0, 0);
        let (mut l_end, mut r_end) = (left.len(), right.len());
        for (front, back) in front.iter_mut().zip(back[behind..].iter_mut().rev()) {
            let (a, b) = (left[l], right[r]);
            let takes_right = b.total_order(&a).is_lt();
            *front = if takes_right { b } else { a };
            r += usize::from(takes_right);
            l += usize::from(!takes_right);

            let (a, b) = (left[l_end - 1], right[r_end - 1]);
            let takes_left = b.total_order(&a).is_lt();
            *back = if takes_left { a } else { b };
            l_end -= usize::from(takes_left);
            r_end -= usize::from(!takes_left);
        }
        left = &left[l..l_end];
        right = &right[r..r_end];
        y = &mut back[..behind];
    }
    let (mut left, mut right) = (left.iter().copied().peekable(), right.iter().copied().peekable());
    for y in y {
        let takes_right = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) => b.total_order(a).is_lt(),
            (a, _) => a.is_none(),
        };
        let taken = if takes_right { right.next() } else { left.next() };
        *y = taken.unwrap_or(*y);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn floats() -> impl Strategy<Value = Vec<f64>> {
        let few = prop_oneof![Just(0.0), Just(-0.0), Just(f64::NAN), Just(-f64::NAN), Just(f64::INFINITY), Just(1.5)];
        proptest::collection::vec(prop_oneof![any::<u64>().prop_map(f64::from_bits), few], 0..400)
    }

    fn bits(x: &[f64]) -> Vec<u64> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn sorting_is_by_the_total_order(x in floats()) {
            let mut y = vec![0.0; x.len()];
            sort(&x, &mut y).unwrap();
            let mut twin = x.clone();
            twin.sort_by(f64::total_cmp);
            prop_assert_eq!(bits(&y), bits(&twin));
            prop_assert!(sort(&x, &mut vec![0.0; x.len() + 1]).is_err());
        }

        #[test]
        fn each_part_of_merged_runs_is_that_of_all(x in floats(), run_len in 1_usize..150, cuts in (0.0_f64..1.0, 0.0_f64..1.0)) {
            let mut x = x;
            x.chunks_mut(run_len).for_each(|run| run.sort_by(f64::total_cmp));
            let mut twin = x.clone();
            twin.chunks_mut(2 * run_len).for_each(|pair| pair.sort_by(f64::total_cmp));
            let [one, other] = [cuts.0, cuts.1].map(|cut| (cut * (x.len() + 1) as f64) as usize);
            let (from, to) = (one.min(other), one.max(other));
            let mut y = vec![7.0; to - from];
            merge_runs(&x, run_len, from, &mut y).unwrap();
            prop_assert_eq!(bits(&y), bits(&twin[from..to]));
        }

        /// What another process wrote meanwhile may be in no order.
        #[test]
        fn no_runs_make_it_panic(x in proptest::collection::vec(0_u8..5, 0..300), run_len: u16, first in 0_usize..400, len in 0_usize..400) {
            let run_len = usize::from(run_len % 200);
            let result = merge_runs(&x, run_len, first, &mut vec![0; len]);
            prop_assert_eq!(result.is_ok(), run_len > 0 && first + len <= x.len());
        }
    }
}
