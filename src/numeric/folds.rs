//! The loops of integer sums and dot products, and of extrema.

use core::iter::Sum;
use core::ops::Mul;

use super::element::Float;
use super::lanes::join;
use super::sums::IntegerSum;

/// Elements of integers summed in a machine word before their total is added to the wide sum. The tightest lanes are
/// `u32` sums of `u16` values and of products of `u8` values: 2^12 values below 2^16 stay below 2^28.
const INTEGER_BLOCK: usize = 1 << 12;

/// Sums integers of up to 32 bits; `Lane` must hold the sum of a block.
pub(super) fn sum_narrow<T: Copy, Lane: From<T> + Sum + Into<i128>>(chunk: &[T]) -> IntegerSum {
    let blocks = chunk.chunks(INTEGER_BLOCK);
    let total = blocks.map(|block| block.iter().map(|&value| Lane::from(value)).sum::<Lane>().into()).sum();
    IntegerSum::new(total, chunk.len())
}

/// Sums products of integers of up to 16 bits; `Product` must hold one product, `Lane` the sum of a block of them.
pub(super) fn dot_narrow<T, Product, Lane>(left: &[T], right: &[T]) -> IntegerSum
where
    T: Copy,
    Product: From<T> + Mul<Output = Product>,
    Lane: From<Product> + Sum + Into<i128>,
{
    let blocks = left.chunks(INTEGER_BLOCK).zip(right.chunks(INTEGER_BLOCK));
    let total = blocks
        .map(|(left, right)| {
            let products = left.iter().zip(right).map(|(&left, &right)| Product::from(left) * Product::from(right));
            products.map(Lane::from).sum::<Lane>().into()
        })
        .sum();
    IntegerSum::new(total, left.len())
}

/// The halves of each value are added apart, so that no addition needs a carry and two fit into a vector.
pub(super) fn sum_i64(chunk: &[i64]) -> IntegerSum {
    let blocks = chunk.chunks(INTEGER_BLOCK).map(|block| {
        let (mut low, mut high) = (0_u64, 0_i64);
        for &value in block {
            low += value as u64 & LOW_HALF;
            high += value >> 32;
        }
        (i128::from(high) << 32) + i128::from(low)
    });
    IntegerSum::new(blocks.sum(), chunk.len())
}

/// Halves as in [`sum_i64`].
pub(super) fn sum_u64(chunk: &[u64]) -> IntegerSum {
    let blocks = chunk.chunks(INTEGER_BLOCK).map(|block| {
        let (mut low, mut high) = (0_u64, 0_u64);
        for &value in block {
            low += value & LOW_HALF;
            high += value >> 32;
        }
        (i128::from(high) << 32) + i128::from(low)
    });
    IntegerSum::new(blocks.sum(), chunk.len())
}

/// The products fill 63 bits, so that only a wide sum can take two of them; 2^64 of them fit.
pub(super) fn dot_i32(left: &[i32], right: &[i32]) -> IntegerSum {
    let products = left.iter().zip(right).map(|(&left, &right)| i128::from(i64::from(left) * i64::from(right)));
    IntegerSum::new(products.sum(), left.len())
}

/// As [`dot_i32`], with products of 64 bits.
pub(super) fn dot_u32(left: &[u32], right: &[u32]) -> IntegerSum {
    let products = left.iter().zip(right).map(|(&left, &right)| i128::from(u64::from(left) * u64::from(right)));
    IntegerSum::new(products.sum(), left.len())
}

/// The products fill 127 bits: their halves are added apart.
pub(super) fn dot_i64(left: &[i64], right: &[i64]) -> IntegerSum {
    let (mut low, mut high) = (0_u128, 0_i128);
    for (&left, &right) in left.iter().zip(right) {
        let product = i128::from(left) * i128::from(right);
        low += u128::from(product as u64);
        high += product >> 64;
    }
    IntegerSum::from_halves(high, low, left.len())
}

/// As [`dot_i64`], with products of 128 bits.
pub(super) fn dot_u64(left: &[u64], right: &[u64]) -> IntegerSum {
    let (mut low, mut high) = (0_u128, 0_i128);
    for (&left, &right) in left.iter().zip(right) {
        let product = u128::from(left) * u128::from(right);
        low += u128::from(product as u64);
        high += i128::from((product >> 64) as u64);
    }
    IntegerSum::from_halves(high, low, left.len())
}

const LOW_HALF: u64 = 0xffff_ffff;

/// The minimum of what `orient` makes of the values: NaN if any is NaN, -0.0 rather than 0.0.
///
/// The comparison is the one instruction processors have for it, which skips NaN and takes the zeros for equal. Both
/// are put right after the loop from bits gathered on the way: whether there was a NaN, and whether there was a sign.
/// When the minimum is a zero, the only values with a sign are negative zeros.
pub(super) fn min_floats<T: Float, const N: usize>(chunk: &[T], orient: impl Fn(T) -> T) -> T {
    let (rows, rest) = chunk.as_chunks::<N>();
    let MinLanes { smallest, any_bits, any_nan } = min_rows(rows, &orient);
    if join(any_nan, |a, b| a | b) != T::Bits::default() {
        return T::NAN;
    }
    let mut smallest = join(smallest, |a, b| if b < a { b } else { a });
    if smallest == T::ZERO && T::has_sign(join(any_bits, |a, b| a | b)) {
        smallest = T::ZERO.negated();
    }
    rest.iter().fold(smallest, |smallest, &value| smallest.smaller(orient(value)))
}

/// What the loop of [`min_floats`] gathers in each lane.
struct MinLanes<T: Float, const N: usize> {
    /// The smallest value that is not NaN, with either sign if it is a zero.
    smallest: [T; N],
    /// Every bit set in any value.
    any_bits: [T::Bits; N],
    /// Not zero if any value was NaN.
    any_nan: [T::Bits; N],
}

/// Not inlined: beside code that takes the lanes apart the compiler does not keep them in vectors.
#[inline(never)]
fn min_rows<T: Float, const N: usize>(rows: &[[T; N]], orient: impl Fn(T) -> T) -> MinLanes<T, N> {
    let mut smallest = [T::LARGEST; N];
    let mut any_bits = [T::Bits::default(); N];
    let mut any_nan = [T::Bits::default(); N];
    for row in rows {
        for lane in 0..N {
            let value = orient(row[lane]);
            smallest[lane] = if value < smallest[lane] { value } else { smallest[lane] };
            any_bits[lane] = any_bits[lane] | value.bits();
            any_nan[lane] = any_nan[lane] | value.nan_mask();
        }
    }
    MinLanes { smallest, any_bits, any_nan }
}

/// The minimum or maximum of integers, as `choose` says; `identity` for an empty chunk.
///
/// Lanes although the order does not matter: without them the compiler picks a slower shape for 64-bit values.
pub(super) fn extremum_integers<T: Copy, const N: usize>(chunk: &[T], identity: T, choose: impl Fn(T, T) -> T) -> T {
    let mut lanes = [identity; N];
    let (rows, rest) = chunk.as_chunks::<N>();
    for row in rows {
        for lane in 0..N {
            lanes[lane] = choose(lanes[lane], row[lane]);
        }
    }
    rest.iter().fold(join(lanes, &choose), |extremum, &value| choose(extremum, value))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{Accumulator, Element, dot, max, min, sum};
    use super::*;

    /// Lengths around the lanes and the blocks, and several blocks.
    fn lengths() -> impl Strategy<Value = usize> {
        prop_oneof![0..70_usize, 250..260_usize, 1020..1030_usize, 4090..4100_usize, 2_000..9_000_usize]
    }

    #[test]
    fn known_sums() {
        assert_eq!(sum::<f64>(&[]).value().to_bits(), 0.0_f64.to_bits());
        assert_eq!(sum(&[-0.0_f64; 5]).value().to_bits(), 0.0_f64.to_bits());
        assert_eq!(sum(&[-0.0_f64; 5000]).value().to_bits(), 0.0_f64.to_bits());
        assert_eq!(sum(&[5e-324_f64; 4000]).value(), 4000.0 * 5e-324);
        assert_eq!(sum(&[f32::MAX; 3]).value(), 3.0 * f64::from(f32::MAX));
        assert_eq!(sum(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
        assert_eq!(sum(&[1.0, f64::NEG_INFINITY]).value(), f64::NEG_INFINITY);
        assert!(sum(&[f64::INFINITY, 1.0, f64::NEG_INFINITY]).value().is_nan());
        // A million tenths: plain addition from left to right gives 100000.00000133288.
        assert_eq!(sum(&vec![0.1_f64; 1_000_000]).value(), 100_000.0);
        assert_eq!(sum(&[u64::MAX; 5000]).value(), Some(5000 * i128::from(u64::MAX)));
        assert_eq!(sum(&[i64::MIN; 5000]).value(), Some(5000 * i128::from(i64::MIN)));
        // One full block of the largest values is what the lanes must hold.
        assert_eq!(sum(&[u16::MAX; INTEGER_BLOCK]).value(), Some((INTEGER_BLOCK * 65_535) as i128));
        assert_eq!(sum(&[i16::MIN; INTEGER_BLOCK]).value(), Some(-((INTEGER_BLOCK * 32_768) as i128)));
    }

    #[test]
    fn known_dots() {
        assert_eq!(dot(&[u8::MAX; 9000], &[u8::MAX; 9000]).unwrap().value(), Some(9000 * 255 * 255));
        assert_eq!(dot(&[i8::MIN; 9000], &[i8::MIN; 9000]).unwrap().value(), Some(9000 * 128 * 128));
        assert_eq!(dot(&[i16::MIN; 9000], &[i16::MIN; 9000]).unwrap().value(), Some(9000 << 30));
        assert_eq!(dot(&[u16::MAX; 9000], &[u16::MAX; 9000]).unwrap().value(), Some(9000 * 65_535 * 65_535));
        assert_eq!(dot(&[i32::MIN; 9000], &[i32::MIN; 9000]).unwrap().value(), Some(9000 << 62));
        let square = i128::from(u32::MAX) * i128::from(u32::MAX);
        assert_eq!(dot(&[u32::MAX; 9000], &[u32::MAX; 9000]).unwrap().value(), Some(9000 * square));
        // Beyond 128 bits; digits from Python's integers.
        let squares = dot(&[u64::MAX; 9], &[u64::MAX; 9]).unwrap();
        assert_eq!(squares.to_string(), "3062541302288446170838330073559141974025");
        let squares = dot(&[i64::MIN; 9], &[i64::MIN; 9]).unwrap();
        assert_eq!(squares.to_string(), "765635325572111542792592866721478475776");
        assert_eq!(dot(&[i64::MIN], &[i64::MAX]).unwrap().value(), Some(i128::from(i64::MIN) * i128::from(i64::MAX)));
        // The products of f32 values are exact.
        let third = 1.0_f32 / 3.0;
        assert_eq!(dot(&[third], &[third]).unwrap().value(), f64::from(third) * f64::from(third));
        assert_eq!(dot::<f64>(&[], &[]).unwrap().value(), 0.0);
        assert!(dot(&[f64::INFINITY], &[0.0]).unwrap().value().is_nan());
    }

    #[test]
    fn lengths_that_differ_are_an_error() {
        let error = dot(&[1.0, 2.0], &[1.0]).unwrap_err();
        assert_eq!(error.to_string(), "input 1 has 1 elements where 2 are needed");
    }

    #[test]
    fn known_extrema() {
        assert_eq!(min::<f64>(&[]), f64::INFINITY);
        assert_eq!(max::<f64>(&[]), f64::NEG_INFINITY);
        assert_eq!((min::<i8>(&[]), max::<i8>(&[])), (127, -128));
        assert_eq!((min(&[u64::MAX]), max(&[u64::MAX])), (u64::MAX, u64::MAX));
        assert_eq!(min(&[f64::INFINITY, 5e-324, 1.0]), 5e-324);
        assert_eq!(max(&[f64::NEG_INFINITY; 40]), f64::NEG_INFINITY);
    }

    #[test]
    fn zeros_are_ordered_and_nan_spreads_from_every_place() {
        for len in 1..40 {
            for place in 0..len {
                let mut values = vec![0.0_f64; len];
                values[place] = -0.0;
                assert!(min(&values).is_sign_negative(), "{len} {place}");
                assert_eq!(max(&values).is_sign_negative(), len == 1, "{len} {place}");
                let mut values = vec![-0.0_f32; len];
                values[place] = 0.0;
                assert!(max(&values).is_sign_positive(), "{len} {place}");
                assert_eq!(min(&values).is_sign_positive(), len == 1, "{len} {place}");
                values[place] = -f32::NAN;
                assert_eq!(min(&values).to_bits(), f32::NAN.to_bits(), "{len} {place}");
                assert_eq!(max(&values).to_bits(), f32::NAN.to_bits(), "{len} {place}");
            }
        }
    }

    /// The order of IEEE 754 totalOrder is that of minimum and maximum where no NaN is involved.
    fn check_float_extrema<T: Float>(values: &[T], total_order: impl Fn(&T, &T) -> core::cmp::Ordering) {
        let smallest = values.iter().copied().min_by(&total_order).unwrap_or(T::LARGEST);
        let largest = values.iter().copied().max_by(&total_order).unwrap_or(T::SMALLEST);
        assert!(min(values).bits() == smallest.bits(), "{:?} {smallest:?}", min(values));
        assert!(max(values).bits() == largest.bits(), "{:?} {largest:?}", max(values));
    }

    macro_rules! integers_agree_with_a_naive_twin {
        ($($name:ident: $integer:ty),*) => { proptest! { $(
            #[test]
            fn $name(pairs in lengths().prop_flat_map(|len| vec(any::<($integer, $integer)>(), len)), cut in 0.0..1.0) {
                let (left, right): (Vec<$integer>, Vec<$integer>) = pairs.into_iter().unzip();
                let exact: i128 = left.iter().map(|&value| i128::from(value)).sum();
                prop_assert_eq!(sum(&left).value(), Some(exact));
                prop_assert_eq!(sum(&left).count(), left.len() as u64);
                prop_assert_eq!(min(&left), left.iter().copied().min().unwrap_or(<$integer>::MAX));
                prop_assert_eq!(max(&left), left.iter().copied().max().unwrap_or(<$integer>::MIN));

                let product = |(&a, &b)| {
                    // Products that fill 128 bits go in as halves; the twin carries them one by one.
                    let (a, b) = (i128::from(a), i128::from(b));
                    let negative = (a < 0) != (b < 0);
                    let magnitude = a.unsigned_abs() * b.unsigned_abs();
                    let (high, low) = ((magnitude >> 64) as i128, u128::from(magnitude as u64));
                    let product = if negative && low != 0 {
                        (-high - 1, (1 << 64) - low)
                    } else if negative {
                        (-high, 0)
                    } else {
                        (high, low)
                    };
                    IntegerSum::from_halves(product.0, product.1, 1)
                };
                let exact = left.iter().zip(&right).map(product).fold(IntegerSum::identity(), Accumulator::combine);
                prop_assert_eq!(dot(&left, &right).unwrap(), exact);

                let cut = (cut * left.len() as f64) as usize;
                let halves = sum(&left[..cut]).combine(sum(&left[cut..]));
                prop_assert_eq!(halves, sum(&left));
                prop_assert_eq!(min(&left[..cut]).smaller(min(&left[cut..])), min(&left));
                prop_assert_eq!(max(&left[..cut]).larger(max(&left[cut..])), max(&left));
            }
        )* } };
    }

    integers_agree_with_a_naive_twin!(
        i8_folds: i8, i16_folds: i16, i32_folds: i32, i64_folds: i64,
        u8_folds: u8, u16_folds: u16, u32_folds: u32, u64_folds: u64
    );

    proptest! {
        #[test]
        fn float_extrema_agree_with_the_total_order(
            values in vec(prop_oneof![any::<f64>(), Just(0.0), Just(-0.0), Just(1.0)], 0..80)
                .prop_map(|values| values.into_iter().filter(|value| !value.is_nan()).collect::<Vec<_>>()),
        ) {
            check_float_extrema(&values, f64::total_cmp);
            let positive: Vec<f64> = values.iter().copied().filter(|&value| value >= 0.0).collect();
            check_float_extrema(&positive, f64::total_cmp);
            let negative: Vec<f32> = values.iter().map(|&value| value as f32).filter(|&value| value <= 0.0).collect();
            check_float_extrema(&negative, f32::total_cmp);
        }
    }
}
