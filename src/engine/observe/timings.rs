//! How long jobs waited and ran: [`Engine::timings`](crate::Engine::timings).

use core::fmt;
use std::time::Duration;

use crate::engine::runtime::Core;
use crate::layout::records::{HISTOGRAM_BUCKETS, Histogram as Record, Timing};
use crate::layout::words::histogram_bound;
use crate::sync::Ordering;

/// How many jobs took how long: counts in buckets of which none is wider than an eighth of the times it counts.
///
/// Times of more than 73 minutes are counted as such.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; HISTOGRAM_BUCKETS]>,
    sum_ns: u64,
    longest_ns: u64,
}

impl Default for Histogram {
    /// Nothing was counted.
    fn default() -> Self {
        Self { counts: Box::new([0; HISTOGRAM_BUCKETS]), sum_ns: 0, longest_ns: 0 }
    }
}

impl Histogram {
    fn add(&mut self, record: &Record) {
        // Relaxed, all: figures for people, read while they change. Worker processes may have written anything: sums saturate.
        for (count, bucket) in self.counts.iter_mut().zip(&record.buckets) {
            *count = count.saturating_add(bucket.load(Ordering::Relaxed));
        }
        self.sum_ns = self.sum_ns.saturating_add(record.sum_ns.load(Ordering::Relaxed));
        self.longest_ns = self.longest_ns.max(record.longest_ns.load(Ordering::Relaxed));
    }

    fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts.clone();
        for (count, before) in counts.iter_mut().zip(earlier.counts.iter()) {
            *count = count.saturating_sub(*before);
        }
        let highest = counts.iter().rposition(|&count| count > 0).map_or(0, histogram_bound);
        Self { counts, sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns), longest_ns: self.longest_ns.min(highest) }
    }

    /// Jobs that were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// All their times together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The mean; zero when nothing was counted.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.checked_div(self.count()).unwrap_or(0))
    }

    /// The longest time; of a [difference](Timings::since) to an eighth above.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns)
    }

    /// The time that so large a part of the jobs did not exceed, `0.5` for the median and `0.99` for the 99th percentile: at most an
    /// eighth too long, and no longer than [`Histogram::longest`]. Zero when nothing was counted.
    ///
    /// # Panics
    /// When `part` is not from 0 to 1.
    pub fn quantile(&self, part: f64) -> Duration {
        assert!((0.0..=1.0).contains(&part), "a quantile is of a part from 0 to 1, not {part}");
        let rank = ((self.count() as f64 * part).ceil() as u64).max(1);
        let mut below = 0_u64;
        let bucket = self.counts.iter().position(|&count| {
            below = below.saturating_add(count);
            below >= rank
        });
        Duration::from_nanos(bucket.map_or(0, histogram_bound).min(self.longest_ns))
    }

    /// The buckets that counted something, from the shortest on: the longest time each counts, and how many it has.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(at, &count)| (Duration::from_nanos(histogram_bound(at)), count))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("mean", &self.mean())
            .field("median", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("longest", &self.longest())
            .finish()
    }
}

/// How long jobs waited and ran.
///
/// # Examples
/// ```
/// use workring::{Engine, stats::Timing};
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).timing(Timing::All).build()?;
/// let before = engine.timings();
/// for _ in 0..100 {
///     engine.run(|| 6 * 7)?.wait()?;
/// }
/// let timings = engine.timings().since(&before);
/// assert_eq!((timings.wait.count(), timings.run.count()), (100, 100));
/// println!("99 of 100 waited for at most {:?}", timings.wait.quantile(0.99));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Timings {
    /// From submission to start, of each job that was started.
    pub wait: Histogram,
    /// From start to end, of each job that was run to its end, however it ended.
    pub run: Histogram,
}

impl Timings {
    /// What was counted since `earlier` was taken of the same engine.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self { wait: self.wait.since(&earlier.wait), run: self.run.since(&earlier.run) }
    }
}

/// How long jobs waited and ran since the engine began.
pub(crate) fn timings(core: &Core) -> Timings {
    let mut timings = Timings::default();
    for Timing { wait, run } in core.control.timings() {
        timings.wait.add(wait);
        timings.run.add(run);
    }
    timings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::words::histogram_bucket;
    use proptest::prelude::*;

    fn histogram_of(times: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for &time in times {
            histogram.counts[histogram_bucket(time)] += 1;
            histogram.sum_ns += time;
            histogram.longest_ns = histogram.longest_ns.max(time);
        }
        histogram
    }

    proptest! {
        #[test]
        fn quantiles_are_at_most_an_eighth_above_those_of_the_times(
            mut times in proptest::collection::vec(0u64..1 << 41, 1..200), part in 0.0f64..=1.0,
        ) {
            let histogram = histogram_of(&times);
            times.sort_unstable();
            let rank = ((times.len() as f64 * part).ceil() as usize).max(1);
            let (exact, found) = (times[rank - 1], histogram.quantile(part).as_nanos() as u64);
            prop_assert!(exact <= found && found <= exact + exact / 8, "{} {}", exact, found);
            prop_assert_eq!(histogram.count(), times.len() as u64);
            prop_assert_eq!(histogram.mean().as_nanos() as u64, times.iter().sum::<u64>() / times.len() as u64);
            prop_assert_eq!(histogram.buckets().map(|(_, count)| count).sum::<u64>(), times.len() as u64);
        }

        #[test]
        fn a_difference_is_what_came_after(
            before in proptest::collection::vec(0u64..1 << 41, 0..50), after in proptest::collection::vec(0u64..1 << 41, 0..50),
        ) {
            let all: Vec<u64> = before.iter().chain(&after).copied().collect();
            let (difference, exact) = (histogram_of(&all).since(&histogram_of(&before)), histogram_of(&after));
            prop_assert_eq!(&difference.counts, &exact.counts);
            prop_assert_eq!(difference.sum(), exact.sum());
            prop_assert!(difference.longest() >= exact.longest());
            prop_assert!(difference.longest_ns <= exact.longest_ns + exact.longest_ns / 8);
        }
    }

    #[test]
    fn nothing_counted_is_nothing() {
        let histogram = Histogram::default();
        assert_eq!(
            (histogram.mean(), histogram.quantile(0.99), histogram.count()),
            (Duration::ZERO, Duration::ZERO, 0)
        );
        assert_eq!(histogram.buckets().count(), 0);
    }
}
