//! nstream: a += b + 3 c over long arrays, which measures the memory.
//!
//! Source: Parallel Research Kernels, README and the verification of `nstream` (Van der Wijngaart and Mattson, "The Parallel Research Kernels", HPEC 2014).
//! More lines than with rayon: a kernel for processes, and the word that a second try would add twice.

use workring::{Engine, Retry, kernel};

use crate::questions::suite::{ByClosures, Closures, Timed, near, timed};

const SCALAR: f64 = 3.0;
/// Of b and c.
const START: f64 = 2.0;
const PART: usize = 1 << 16;

fn triad(b: &[f64], c: &[f64], a: &mut [f64]) {
    a.iter_mut().zip(b).zip(c).for_each(|((a, b), c)| *a += b + SCALAR * c);
}

/// [`triad`] for worker processes.
#[kernel]
pub fn triad_kernel(b: &[f64], c: &[f64], a: &mut [f64]) {
    triad(b, c, a);
}

/// Arrays of so many numbers, so many times after one that is not timed.
pub struct Nstream {
    pub len: usize,
    pub iterations: usize,
}

impl ByClosures for Nstream {
    type Answer = f64;

    fn title(&self) -> String {
        format!("nstream, {} numbers, {} times", self.len, self.iterations)
    }

    fn run(&self, by: &impl Closures) -> Timed<f64> {
        let (mut a, b, c) = (vec![0.0; self.len], vec![START; self.len], vec![START; self.len]);
        let mut pass = || by.each(&mut a, PART, |first, a| triad(&b[first..], &c[first..], a));
        pass()?;
        let (milliseconds, ()) = timed(|| (0..self.iterations).try_for_each(|_| pass()))?;
        Ok((milliseconds, a.iter().sum()))
    }

    fn on_processes(&self, engine: &Engine) -> Timed<f64> {
        let start = |value| engine.batch_from_fn(self.len, |_| value);
        let (mut a, b, c) = (start(0.0)?, start(START)?, start(START)?);
        let mut pass = || engine.job().retry(Retry::never()).map(triad_kernel, (&b, &c), &mut a, &());
        pass()?;
        let (milliseconds, ()) = timed(|| (0..self.iterations).try_for_each(|_| pass()))?;
        Ok((milliseconds, a.iter().sum()))
    }

    fn check(&self, &sum: &f64) -> Result<(), String> {
        let each = (self.iterations + 1) as f64 * (START + SCALAR * START);
        near("the sum", sum, each * self.len as f64, 1e-8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Nstream { len: 70_001, iterations: 2 }, &[|sum| *sum += 8.0]);
    }
}
