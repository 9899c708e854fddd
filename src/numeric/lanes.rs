//! The fixed shapes in which values are folded: lanes inside a block, blocks inside a chunk.
//!
//! Floating point addition is not associative, so a fold is only reproducible when its shape is. Here the shape is a
//! function of the number of elements alone: element `i` of a block goes to lane `i % LANES`, the lanes are joined in a
//! binary tree, and the blocks of a chunk start at multiples of a constant. Independent lanes are also what lets the
//! compiler keep several vector additions in flight without being allowed to reorder any of them.

/// Joins lanes in a binary tree: lane `i` with lane `i + N / 2`, then the halves of that, until one is left.
///
/// `N` must be a power of two; every call in this crate uses a constant that is.
#[inline]
pub(super) fn join<A: Copy, const N: usize>(mut lanes: [A; N], combine: impl Fn(A, A) -> A) -> A {
    const { assert!(N.is_power_of_two()) };
    let mut width = N / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = combine(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Folds a sequence in a binary tree whose shape depends only on the number of items; `None` for an empty sequence.
///
/// The pending partial results are the set bits of a binary counter: slot `k` holds the result of `2^k` items. The
/// depth of the tree, and with it the growth of rounding errors, is logarithmic (Higham, "The Accuracy of Floating
/// Point Summation", 1993), and no memory is allocated.
#[inline]
pub(super) fn fold_pairwise<A: Copy>(items: impl Iterator<Item = A>, combine: impl Fn(A, A) -> A) -> Option<A> {
    // A `usize` counter cannot have more bits set than this.
    let mut pending = [None; usize::BITS as usize];
    for item in items {
        let mut carry = item;
        for slot in &mut pending {
            match slot.take() {
                // The item in the slot came earlier, so it goes on the left.
                Some(earlier) => carry = combine(earlier, carry),
                None => {
                    *slot = Some(carry);
                    break;
                }
            }
        }
    }
    pending.into_iter().flatten().reduce(|later, earlier| combine(earlier, later))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn joins_every_lane_once_and_in_the_documented_tree() {
        let lanes: [u64; 8] = core::array::from_fn(|lane| 1 << lane);
        assert_eq!(join(lanes, |a, b| a + b), 0xff);

        // With a combination that is not associative the shape shows: ((0-4)-(2-6)) - ((1-5)-(3-7)).
        let lanes = [0_i64, 10, 200, 3_000, 4, 50, 600, 7_000];
        let (a, b, c, d) = (-4, 10 - 50, 200 - 600, 3_000 - 7_000);
        assert_eq!(join(lanes, |a, b| a - b), (a - c) - (b - d));
        assert_eq!(join([7], |_, _| unreachable!()), 7);
    }

    #[test]
    fn pairs_grow_like_a_binary_counter() {
        // Depth of the tree: combining adds one level to the deeper side.
        let depth = |items: usize| fold_pairwise((0..items).map(|_| 0_u32), |a, b| a.max(b) + 1);
        assert_eq!(depth(0), None);
        assert_eq!(depth(1), Some(0));
        assert_eq!(depth(2), Some(1));
        assert_eq!(depth(1024), Some(10));
        assert!(depth(1023) <= Some(18));
    }

    proptest! {
        #[test]
        fn keeps_the_order_of_the_items(items in 0_usize..300) {
            // Concatenation of ranges is associative but not commutative: any swap or loss would break a range.
            let ranges = (0..items).map(|at| (at, at + 1));
            let whole = fold_pairwise(ranges, |left, right| {
                assert_eq!(left.1, right.0);
                (left.0, right.1)
            });
            prop_assert_eq!(whole, (items > 0).then_some((0, items)));
        }
    }
}
