//! The random numbers of the NAS Parallel Benchmarks: x[k+1] = 5^13 x[k] modulo 2^46, as fractions of 2^46.
//!
//! Source: Bailey and others, "The NAS Parallel Benchmarks", NASA report RNR-94-007, section 2.3.

/// 5^13.
const FACTOR: u64 = 1_220_703_125;
const BITS: u32 = 46;
const MASK: u64 = (1 << BITS) - 1;
/// The seed of most programs.
pub const SEED: u64 = 314_159_265;

/// A place in the sequence.
#[derive(Clone, Copy)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, above 0 and below 1.
    #[inline]
    pub fn next(&mut self) -> f64 {
        // 2^46 divides 2^64: what wraps around is no part of the rest.
        self.0 = self.0.wrapping_mul(FACTOR) & MASK;
        self.0 as f64 * (1.0 / (1_u64 << BITS) as f64)
    }

    /// The place so many numbers on, in as many steps as their count has bits.
    pub fn skip(self, mut count: u64) -> Self {
        let (mut state, mut factor) = (self.0, FACTOR);
        while count > 0 {
            if count & 1 == 1 {
                state = state.wrapping_mul(factor) & MASK;
            }
            factor = factor.wrapping_mul(factor) & MASK;
            count >>= 1;
        }
        Self(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in numbers that cannot overflow.
    fn naive(seed: u64, count: usize) -> u64 {
        (0..count).fold(seed, |state, _| (u128::from(state) * u128::from(FACTOR) % (1 << BITS)) as u64)
    }

    #[test]
    fn steps_and_skips_are_those_of_the_definition() {
        for seed in [1, SEED, 271_828_183, MASK] {
            let mut random = Random::new(seed);
            for count in 1..200 {
                let number = random.next();
                assert_eq!(number, naive(seed, count) as f64 / 2_f64.powi(46));
                assert_eq!(Random::new(seed).skip(count as u64).0, naive(seed, count));
            }
        }
    }
}
