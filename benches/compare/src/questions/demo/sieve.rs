//! How many primes there are below a number, by a sieve in segments that fit into a cache.
//!
//! More lines than with rayon: on processes the small primes are an input that each kernel sees whole, which must be as long as the list of segments.

use workring::{Chunking, Context, Engine, kernel};

use crate::questions::suite::{ByClosures, Closures, Timed, timed};

/// Numbers in a segment, every second of which is looked at.
const SEGMENT: u64 = 1 << 16;

/// The odd primes up to the root of `below`.
fn small_primes(below: u64) -> Vec<u32> {
    let is_prime =
        |number: &u32| (3..).step_by(2).take_while(|by| by * by <= *number).all(|by| !number.is_multiple_of(by));
    (3..=below.isqrt() as u32).step_by(2).filter(is_prime).collect()
}

/// Odd primes in a segment, 1 being taken for one, in place of 2: each segment begins with an even number.
fn primes_in(segment: u64, below: u64, primes: &[u32]) -> u64 {
    let (first, end) = (segment * SEGMENT, ((segment + 1) * SEGMENT).min(below));
    let mut is_prime = [true; SEGMENT as usize / 2];
    for prime in primes.iter().map(|&prime| u64::from(prime)).take_while(|prime| prime * prime < end) {
        // Multiples by less than the prime itself have a smaller divisor; by even numbers they are even.
        let multiple = first.div_ceil(prime).max(prime) | 1;
        let mut at = ((multiple * prime - first) / 2) as usize;
        while at < is_prime.len() {
            is_prime[at] = false;
            at += prime as usize;
        }
    }
    let len = end.saturating_sub(first) / 2;
    is_prime[..len as usize].iter().map(|&is_prime| u64::from(is_prime)).sum()
}

/// The primes of segments for worker processes; the halo is everything, zeros at the end of the primes stand for none.
#[kernel]
pub fn primes_kernel(primes: &[u32], counts: &mut [u64], below: &u64, ctx: &mut Context) {
    let len = primes.iter().position(|&prime| prime == 0).unwrap_or(primes.len());
    for (segment, count) in (ctx.range().start..).zip(counts) {
        *count = primes_in(segment as u64, *below, &primes[..len]);
    }
}

/// Numbers below 10^log.
pub struct Sieve {
    log: u32,
}

impl Sieve {
    /// # Panics
    /// For another power than the sixth or the eighth, of which nothing is published here.
    pub fn new(log: u32) -> Self {
        assert!([6, 8].contains(&log), "10^{log} is not in the list");
        Self { log }
    }

    fn below(&self) -> u64 {
        10_u64.pow(self.log)
    }

    fn segments(&self) -> u64 {
        self.below().div_ceil(SEGMENT)
    }
}

impl ByClosures for Sieve {
    type Answer = u64;

    fn title(&self) -> String {
        format!("sieve, primes below 10^{}", self.log)
    }

    fn run(&self, by: &impl Closures) -> Timed<u64> {
        timed(|| {
            let (primes, segments) = (small_primes(self.below()), (0..self.segments()).collect::<Vec<_>>());
            let of = |part: &[u64]| part.iter().map(|&segment| primes_in(segment, self.below(), &primes)).sum();
            by.fold(&segments, 1, of, |left: u64, right| left + right)
        })
    }

    fn on_processes(&self, engine: &Engine) -> Timed<u64> {
        timed(|| {
            let mut primes = small_primes(self.below());
            // Segments beyond the end have no primes.
            primes.resize(primes.len().max(self.segments() as usize), 0);
            let primes = engine.batch_from_slice(&primes)?;
            let mut counts = engine.batch::<u64>(primes.len())?;
            let parts = Chunking::of(1).halo(primes.len());
            engine.map_chunks(primes_kernel, &primes, &mut counts, &self.below(), parts)?;
            Ok(counts.iter().sum())
        })
    }

    /// The known values of the prime-counting function.
    fn check(&self, &count: &u64) -> Result<(), String> {
        let expected = if self.log == 8 { 5_761_455 } else { 78_498 };
        if count == expected { Ok(()) } else { Err(format!("{count} primes and not {expected}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Sieve::new(6), &[|count| *count += 1]);
    }
}
