//! Sorting in place: quicksort whose halves fork, over the standard library's sort of what is short.

use core::cmp::Ordering;
use std::sync::Arc;

use crate::engine::fork_join::join;
use crate::engine::runtime::Core;

/// What is no longer than this is sorted by one thread.
const SERIAL_MAX: usize = 4096;
/// Parts that are aimed at, so that they come out even: not a number of the workers, on which the order of equal elements would depend.
const PARTS: usize = 64;
/// Elements of which the middle one becomes the pivot.
const SAMPLE: usize = 63;
/// A part that leaves less than this fraction to the other is a bad one: the elements are equal, or mean harm.
const BAD_FRACTION: usize = 16;
/// Bad parts on the way to one element before the standard library's sort has to do, which is never quadratic.
const BAD_MAX: u32 = 8;

/// Sorts on all threads of the engine that have time. The order of equal elements depends on their places alone.
pub(in crate::front) fn quick_sort<T: Send>(
    core: &Arc<Core>,
    v: &mut [T],
    compare: &(impl Fn(&T, &T) -> Ordering + Sync),
) {
    let serial_len = (v.len() / PARTS).max(SERIAL_MAX);
    sort_part(core, v, None, serial_len, BAD_MAX, compare);
}

/// Brings the elements to the places of `ranks`, in ascending order, that they have when all are sorted.
pub(in crate::front) fn select_ranks<T: Send>(
    core: &Arc<Core>,
    v: &mut [T],
    ranks: &[usize],
    compare: &(impl Fn(&T, &T) -> Ordering + Sync),
) {
    let serial_len = (v.len() / PARTS).max(SERIAL_MAX);
    sort_part(core, v, Some(Ranks { ranks, first: 0 }), serial_len, BAD_MAX, compare);
}

/// The places of a part that matter; not in this part alone.
#[derive(Clone, Copy)]
struct Ranks<'r> {
    ranks: &'r [usize],
    /// The rank of the part's first element.
    first: usize,
}

impl<'r> Ranks<'r> {
    /// Those from `begin` on of the part, at most `len` of its places.
    fn part(self, begin: usize, len: usize) -> Self {
        let first = self.first + begin;
        let from = self.ranks.partition_point(|&rank| rank < first);
        let to = self.ranks.partition_point(|&rank| rank < first + len);
        Self { ranks: &self.ranks[from..to], first }
    }
}

fn sort_part<T: Send>(
    core: &Arc<Core>,
    v: &mut [T],
    wanted: Option<Ranks<'_>>,
    serial_len: usize,
    bad_left: u32,
    compare: &(impl Fn(&T, &T) -> Ordering + Sync),
) {
    if wanted.is_some_and(|wanted| wanted.ranks.is_empty()) {
        return;
    }
    if v.len() <= serial_len || bad_left == 0 {
        return v.sort_unstable_by(compare);
    }
    let len = v.len();
    let at = part_at_pivot(v, compare);
    let (low, high) = v.split_at_mut(at);
    let Some((pivot, mut high)) = high.split_first_mut() else { return };
    if low.len() < len / BAD_FRACTION {
        // Perhaps many are equal to the pivot, and need no more sorting.
        let equal = part(high, |element| compare(pivot, element) != Ordering::Less);
        high = &mut high[equal..];
    }
    let is_bad = low.len().max(high.len()) > len - len / BAD_FRACTION;
    let bad_left = bad_left - u32::from(is_bad);
    let wanted_low = wanted.map(|wanted| wanted.part(0, low.len()));
    let wanted_high = wanted.map(|wanted| wanted.part(len - high.len(), high.len()));
    join(
        core,
        || sort_part(core, low, wanted_low, serial_len, bad_left, compare),
        || sort_part(core, high, wanted_high, serial_len, bad_left, compare),
    );
}

/// Brings those less than some element before it and the others behind it; where that one is then.
fn part_at_pivot<T>(v: &mut [T], compare: &impl Fn(&T, &T) -> Ordering) -> usize {
    let step = v.len() / SAMPLE;
    let mut sample: [usize; SAMPLE] = core::array::from_fn(|number| number * step + step / 2);
    sample.sort_unstable_by(|&a, &b| compare(&v[a], &v[b]));
    v.swap(0, sample[SAMPLE / 2]);
    let (pivot, rest) = v.split_first_mut().expect("it is longer than the sample");
    let at = part(rest, |element| compare(element, pivot) == Ordering::Less);
    v.swap(0, at);
    at
}

/// Brings those that `is_low` before the others; how many there are. Without a branch that depends on the elements.
fn part<T>(v: &mut [T], is_low: impl Fn(&T) -> bool) -> usize {
    let mut lows = 0;
    for at in 0..v.len() {
        let low = is_low(&v[at]);
        v.swap(at, lows);
        lows += usize::from(low);
    }
    lows
}
