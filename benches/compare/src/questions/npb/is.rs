//! IS, "integer sort": the ranks of small whole numbers, ten times, two of which change in between.
//!
//! Source: Bailey and others, "The NAS Parallel Benchmarks", NASA report RNR-94-007, section 2.2.5; the places that are verified as in NPB 3.
//! Fewer lines than with rayon on threads: `histogram` is there. On processes an array of counts per chunk (`PerChunk`), which the caller adds up.

use core::ops::DerefMut;

use rayon::prelude::*;
use workring::batch::PerChunk;
use workring::{Chunking, Engine, kernel};

use super::random::{Random, SEED};
use crate::questions::suite::{CORES, Program, Timed, timed};

const ITERATIONS: usize = 10;
const PLACES: usize = 5;

/// How many keys there are of each value. The keys are in bounds.
fn count(keys: &[u32], counts: &mut [u32]) {
    counts.fill(0);
    for &key in keys {
        counts[key as usize] += 1;
    }
}

/// [`count`] for worker processes: the counts of a chunk.
#[kernel]
pub fn count_kernel(keys: &[u32], counts: &mut [u32]) {
    count(keys, counts);
}

/// A class, its keys, and the ranks of some of them.
pub struct Is {
    class: char,
    keys: Vec<u32>,
    bins: usize,
    places: [usize; PLACES],
    ranks: [u32; PLACES],
    /// What the ranks of the iterations differ by: the first places move up, the others down.
    moves: fn(place: usize, iteration: i64) -> i64,
}

impl Is {
    fn new(class: char, log_keys: u32, log_bins: u32, places: [usize; PLACES], ranks: [u32; PLACES]) -> Self {
        let (mut random, bins) = (Random::new(SEED), 1_usize << log_bins);
        let mut key = || {
            let sum = random.next() + random.next() + random.next() + random.next();
            ((bins / 4) as f64 * sum) as u32
        };
        let keys = (0..1_usize << log_keys).map(|_| key()).collect();
        let moves: fn(usize, i64) -> i64 = match class {
            'S' => |place, iteration| if place <= 2 { iteration } else { -iteration },
            'W' => |place, iteration| if place < 2 { iteration - 2 } else { -iteration },
            _ => |place, iteration| if place <= 2 { iteration - 1 } else { 1 - iteration },
        };
        Self { class, keys, bins, places, ranks, moves }
    }

    pub fn s() -> Self {
        Self::new('S', 16, 11, [48_427, 17_148, 23_627, 62_548, 4_431], [0, 18, 346, 64_917, 65_463])
    }

    pub fn w() -> Self {
        let places = [357_773, 934_767, 875_723, 898_999, 404_505];
        Self::new('W', 20, 16, places, [1_249, 11_698, 1_039_987, 1_043_896, 1_048_018])
    }

    pub fn a() -> Self {
        let places = [2_112_377, 662_041, 5_336_171, 3_642_833, 4_250_760];
        Self::new('A', 23, 19, places, [104, 17_523, 123_928, 8_288_932, 8_388_264])
    }

    /// All iterations, with what gives the first place of each value after all places of lower ones.
    fn rank<K: DerefMut<Target = [u32]>>(
        &self,
        mut keys: K,
        mut starts_of: impl FnMut(&K) -> workring::Result<Vec<u32>>,
    ) -> Timed<Ranked> {
        let mut ranked = Ranked { ranks: Vec::with_capacity(ITERATIONS), starts: Vec::new(), keys: Vec::new() };
        let (milliseconds, ()) = timed(|| {
            for iteration in 1..=ITERATIONS {
                keys[iteration] = iteration as u32;
                keys[iteration + ITERATIONS] = (self.bins - iteration) as u32;
                ranked.starts = starts_of(&keys)?;
                ranked.ranks.push(self.places.map(|place| ranked.starts[keys[place] as usize]));
            }
            Ok(())
        })?;
        Ok((milliseconds, Ranked { keys: keys.to_vec(), ..ranked }))
    }
}

/// Ranks of the places in each iteration, the first rank of each value in the last one, and its keys.
pub struct Ranked {
    ranks: Vec<[u32; PLACES]>,
    starts: Vec<u32>,
    keys: Vec<u32>,
}

/// The sums of all counts before each.
fn starts(counts: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let next = |sum: &mut u32, count| Some(core::mem::replace(sum, *sum + count));
    counts.into_iter().scan(0, next).collect()
}

impl Program for Is {
    type Answer = Ranked;

    fn title(&self) -> String {
        format!("IS, class {}", self.class)
    }

    fn on_threads(&self, engine: &Engine) -> Timed<Ranked> {
        self.rank(self.keys.clone(), |keys| {
            let counts = engine.histogram(keys, self.bins, |&key| Some(key as usize))?;
            Ok(starts(counts.into_iter().map(|count| count as u32)))
        })
    }

    fn on_processes(&self, engine: &Engine) -> Timed<Ranked> {
        let mut counts = engine.batch::<u32>(self.bins * CORES)?;
        let halves = Chunking::of(self.keys.len() / CORES);
        self.rank(engine.batch_from_slice(&self.keys)?, |keys| {
            engine.map_chunks(count_kernel, keys, PerChunk(&mut counts), &(), halves)?;
            let (left, right) = counts.split_at(self.bins);
            Ok(starts(left.iter().zip(right).map(|(left, right)| left + right)))
        })
    }

    fn on_rayon(&self) -> Timed<Ranked> {
        self.rank(self.keys.clone(), |keys| {
            let counted = keys.par_chunks(keys.len() / CORES).map(|keys| {
                let mut counts = vec![0; self.bins];
                count(keys, &mut counts);
                counts
            });
            let counts = counted.reduce_with(|mut left, right| {
                left.iter_mut().zip(&right).for_each(|(left, right)| *left += right);
                left
            });
            Ok(starts(counts.expect("there are keys")))
        })
    }

    fn on_one_thread(&self) -> Timed<Ranked> {
        let mut counts = vec![0; self.bins];
        self.rank(self.keys.clone(), |keys| {
            count(keys, &mut counts);
            Ok(starts(counts.iter().copied()))
        })
    }

    fn check(&self, ranked: &Ranked) -> Result<(), String> {
        for (iteration, ranks) in (1..).zip(&ranked.ranks) {
            for (place, (&found, &published)) in ranks.iter().zip(&self.ranks).enumerate() {
                let expected = i64::from(published) + (self.moves)(place, iteration);
                if i64::from(found) != expected {
                    return Err(format!("iteration {iteration}: rank {found} and not {expected} at place {place}"));
                }
            }
        }
        if ranked.ranks.len() != ITERATIONS {
            return Err(format!("{} iterations and not {ITERATIONS}", ranked.ranks.len()));
        }
        is_sorted_by_rank(ranked)
    }
}

/// Full verification: keys that are put where their ranks say are in order.
fn is_sorted_by_rank(ranked: &Ranked) -> Result<(), String> {
    let mut next = ranked.starts.clone();
    let mut sorted = vec![None; ranked.keys.len()];
    for &key in &ranked.keys {
        let place = &mut next[key as usize];
        *sorted.get_mut(*place as usize).ok_or("a rank beyond the last place")? = Some(key);
        *place += 1;
    }
    match sorted.is_sorted() && sorted.iter().all(Option::is_some) {
        true => Ok(()),
        false => Err("keys at the places of their ranks are not in order".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Is::s(), &[|ranked| ranked.starts[700] += 1, |ranked| ranked.ranks[9][4] -= 1]);
        let places = [Is::w(), Is::a()];
        for class in &places {
            let (_, ranked) = class.on_one_thread().expect("no library is asked");
            assert_eq!(class.check(&ranked), Ok(()), "{}", class.title());
        }
    }
}
