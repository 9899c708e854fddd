//! Choosing elements: filters, partitions, quantiles.

use bytemuck::Pod;

use super::Engine;
use crate::arena::batch::Batch;
use crate::engine::job::Plan;
use crate::error::{Error, Result};
use crate::front::algorithms::select_ranks;
use crate::front::submit::Chunking;
use crate::numeric::Element;

/// Elements that a word of a mask stands for.
const WORD: usize = 64;

impl Engine {
    /// A batch of those elements that `keep` wants, in their order.
    ///
    /// `keep` is called once for each, on all worker threads and this one. The batch is as long as need be. Blocks.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the arena has no room for the result; else as [`Engine::map_with`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let readings = [20.5, f64::NAN, 19.0, 22.5];
    /// let known = engine.filter(&readings, |reading| !reading.is_nan())?;
    /// assert_eq!(*known, [20.5, 19.0, 22.5]);
    /// let (warm, cold) = engine.partition(&known, |&reading| reading > 20.0)?;
    /// assert_eq!((&*warm, &*cold), (&[20.5, 22.5][..], &[19.0][..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn filter<T: Pod + Send + Sync>(&self, input: &[T], keep: impl Fn(&T) -> bool + Sync) -> Result<Batch<T>> {
        let (plan, mask) = self.mask(input, keep)?;
        self.pack(input, plan, &mask)
    }

    /// Two batches: those elements of which `is_first` is true, and the others, both in their order. Else as [`Engine::filter`].
    ///
    /// # Errors
    /// As [`Engine::filter`].
    pub fn partition<T: Pod + Send + Sync>(
        &self,
        input: &[T],
        is_first: impl Fn(&T) -> bool + Sync,
    ) -> Result<(Batch<T>, Batch<T>)> {
        let (plan, mut mask) = self.mask(input, is_first)?;
        let first = self.pack(input, plan, &mask)?;
        mask.iter_mut().for_each(|word| *word = !*word);
        if let (Some(last), rest @ 1..) = (mask.last_mut(), input.len() % WORD) {
            *last &= (1 << rest) - 1;
        }
        Ok((first, self.pack(input, plan, &mask)?))
    }

    /// A bit for each element.
    fn mask<T: Sync>(&self, input: &[T], is_set: impl Fn(&T) -> bool + Sync) -> Result<(Plan, Vec<u64>)> {
        let chunk_len = Plan::new(input.len(), None, 0)?.chunk_len.next_multiple_of(WORD);
        let plan = Plan::new(input.len(), Some(chunk_len), 0)?;
        let mut mask = vec![0_u64; input.len().div_ceil(WORD)];
        self.job().for_each_chunk(&mut mask, Chunking::of(plan.chunk_len / WORD), |first, words| {
            for (word, elements) in words.iter_mut().zip(input[first * WORD..].chunks(WORD)) {
                *word = elements.iter().rev().fold(0, |word, element| word << 1 | u64::from(is_set(element)));
            }
        })?;
        Ok((plan, mask))
    }

    /// The elements whose bits are set.
    fn pack<T: Pod + Send + Sync>(&self, input: &[T], plan: Plan, mask: &[u64]) -> Result<Batch<T>> {
        let chunks = mask.chunks(plan.chunk_len / WORD);
        let counts: Vec<usize> =
            chunks.clone().map(|words| words.iter().map(|word| word.count_ones() as usize).sum()).collect();
        let mut packed = Batch::allocate(&self.core.arena, counts.iter().sum(), false)?;
        let mut rest = &mut packed[..];
        let mut parts: Vec<(&mut [T], &[u64])> = Vec::with_capacity(counts.len());
        for (count, words) in counts.into_iter().zip(chunks) {
            let (part, behind) = rest.split_at_mut(count);
            rest = behind;
            parts.push((part, words));
        }
        self.job().for_each_chunk(&mut parts, Chunking::of(1), |chunk, part| {
            let (part, words) = &mut part[0];
            let mut places = part.iter_mut();
            for (word, elements) in words.iter().zip(input[chunk * plan.chunk_len..].chunks(WORD)) {
                let mut bits = *word;
                while bits != 0 {
                    if let Some(place) = places.next() {
                        *place = elements[bits.trailing_zeros() as usize];
                    }
                    bits &= bits - 1;
                }
            }
        })?;
        Ok(packed)
    }

    /// The quantiles of some numbers, each for a fraction from 0, the smallest, to 1, the largest; between two numbers by the line through them, as numpy
    /// does it unless told otherwise.
    ///
    /// NaN for every fraction if there is one among the numbers. Works on a copy of them, on all worker threads and this one, in a time that grows with their number; the
    /// result does not depend on the number of workers. Blocks.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no numbers, and for a fraction that is none.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let latencies = [7_u32, 1, 3, 9, 5];
    /// assert_eq!(engine.quantiles(&latencies, &[0.5, 1.0, 0.125])?, [5.0, 9.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn quantiles<T: Element>(&self, numbers: &[T], fractions: &[f64]) -> Result<Vec<f64>> {
        if numbers.is_empty() || !fractions.iter().all(|fraction| (0.0..=1.0).contains(fraction)) {
            return Err(Error::invalid("quantiles are of at least one number, and for fractions from 0 to 1"));
        }
        let mut numbers = numbers.to_vec();
        let last = numbers.len() - 1;
        let place = |fraction: f64| {
            let place = fraction * last as f64;
            ((place as usize).min(last), place.fract())
        };
        let mut ranks: Vec<usize> =
            fractions.iter().flat_map(|&fraction| [place(fraction).0, place(fraction).0 + 1]).collect();
        // NaNs are at the ends of the order.
        ranks.extend([0, last]);
        ranks.retain(|&rank| rank <= last);
        ranks.sort_unstable();
        ranks.dedup();
        select_ranks(&self.core, &mut numbers, &ranks, &T::total_order);
        let value = |rank: usize| numbers[rank.min(last)].to_f64();
        let has_nan = value(0).is_nan() || value(last).is_nan();
        let quantile = |&fraction: &f64| match place(fraction) {
            _ if has_nan => f64::NAN,
            // Without the line's arithmetic, which knows no infinities.
            (rank, 0.0) => value(rank),
            (rank, _) if value(rank) == value(rank + 1) => value(rank),
            (rank, share) => value(rank) * (1.0 - share) + value(rank + 1) * share,
        };
        Ok(fractions.iter().map(quantile).collect())
    }
}
