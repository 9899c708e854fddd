//! EP, "embarrassingly parallel": pairs of random numbers that are normally distributed, their sums, and how many lie in each square ring.
//!
//! Source: Bailey and others, "The NAS Parallel Benchmarks", NASA report RNR-94-007, section 2.2.1; sums and classes as in the verification of NPB 3.
//! More lines than with rayon: `chunk_len(1)`, because the 256 numbers of blocks would be one chunk; a function with an attribute for processes.

use workring::{Engine, reducer};

use super::random::Random;
use crate::questions::suite::{ByClosures, Closures, Timed, near, timed};

const SEED: u64 = 271_828_183;
/// Pairs that are made from one place of the sequence.
const BLOCK: u64 = 1 << 16;

/// Counts of the ten rings, then both sums.
type Tally = [f64; 12];

/// What blocks with these numbers come to.
fn tally(blocks: &[u64]) -> Tally {
    blocks.iter().fold([0.0; 12], |sum, &block| add(sum, tally_block(block)))
}

fn tally_block(block: u64) -> Tally {
    let mut random = Random::new(SEED).skip(2 * BLOCK * block);
    let mut tally = [0.0; 12];
    for _ in 0..BLOCK {
        let (x, y) = (2.0 * random.next() - 1.0, 2.0 * random.next() - 1.0);
        let square = x * x + y * y;
        if square <= 1.0 {
            let factor = (-2.0 * square.ln() / square).sqrt();
            let (x, y) = (x * factor, y * factor);
            tally[x.abs().max(y.abs()) as usize] += 1.0;
            tally[10] += x;
            tally[11] += y;
        }
    }
    tally
}

fn add(left: Tally, right: Tally) -> Tally {
    core::array::from_fn(|at| left[at] + right[at])
}

/// [`tally`] for worker processes.
#[reducer(combine = add)]
pub fn tally_kernel(blocks: &[u64]) -> Tally {
    tally(blocks)
}

/// A class: 2^log_pairs pairs, and what they come to.
pub struct Ep {
    class: char,
    blocks: Vec<u64>,
    sums: [f64; 2],
    /// How many pairs are used.
    used: f64,
}

impl Ep {
    fn new(class: char, log_pairs: u32, sums: [f64; 2], used: f64) -> Self {
        Self { class, blocks: (0..(1 << log_pairs) / BLOCK).collect(), sums, used }
    }

    pub fn s() -> Self {
        Self::new('S', 24, [-3.247_834_652_034_74e3, -6.958_407_078_382_297e3], 13_176_389.0)
    }

    pub fn w() -> Self {
        Self::new('W', 25, [-2.863_319_731_645_753e3, -6.320_053_679_109_499e3], 26_354_769.0)
    }
}

impl ByClosures for Ep {
    type Answer = Tally;

    fn title(&self) -> String {
        format!("EP, class {}", self.class)
    }

    fn run(&self, by: &impl Closures) -> Timed<Tally> {
        timed(|| by.fold(&self.blocks, 1, tally, add))
    }

    fn on_processes(&self, engine: &Engine) -> Timed<Tally> {
        let blocks = engine.batch_from_slice(&self.blocks)?;
        timed(|| engine.job().chunk_len(1).reduce(tally_kernel, &blocks, &()))
    }

    fn check(&self, tally: &Tally) -> Result<(), String> {
        near("the sum of x", tally[10], self.sums[0], 1e-8)?;
        near("the sum of y", tally[11], self.sums[1], 1e-8)?;
        near("the count of pairs", tally[..10].iter().sum(), self.used, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(
            &Ep::s(),
            &[|tally| tally[3] += 1.0, |tally| tally[10] *= 1.0 + 1e-7, |tally| tally[11] = f64::NAN],
        );
    }
}
