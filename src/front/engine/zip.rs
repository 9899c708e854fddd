//! Calls of closures over several slices that are cut at the same places.

use super::Engine;
use crate::error::Result;
use crate::front::submit::{Chunking, Zip};

impl Engine {
    /// Runs a closure over the chunks of several equally long slices, on all worker threads and this one: of `&x` it gets a part to read, of `&mut y`
    /// one to write.
    ///
    /// Up to eight slices, as references of slices, vectors, arrays or batches, in any mixture; what the closure needs whole it borrows. Where the
    /// slices are cut is not promised, as with [`Engine::map`]. Engines with worker threads only. Blocks like [`Engine::map`].
    ///
    /// # Errors
    /// [`Error::LengthMismatch`](crate::Error::LengthMismatch) before anything runs, for the first slice whose length is not that of slice 0; else as
    /// [`Engine::map_with`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let (mass, force) = (vec![2.0; 10_000], engine.batch_from_fn(10_000, |at| at as f64)?);
    /// let (mut speed, mut place) = (vec![0.0; 10_000], vec![1.0; 10_000]);
    /// let step = 0.5;
    /// engine.map_zip_with((&mass, &force, &mut speed, &mut place), |(mass, force, speed, place)| {
    ///     for at in 0..mass.len() {
    ///         speed[at] += step * force[at] / mass[at];
    ///         place[at] += step * speed[at];
    ///     }
    /// })?;
    /// assert_eq!((speed[8], place[8]), (2.0, 2.0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_zip_with<S: Zip>(&self, slices: S, body: impl Fn(S::Part) + Sync) -> Result<()> {
        self.job().map_zip_with(slices, body)
    }

    /// As [`Engine::map_zip_with`], but the caller says how long chunks are, and the closure is told the index of its chunk's first element.
    ///
    /// # Errors
    /// As [`Engine::map_zip_with`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a halo, and for chunks of no elements.
    ///
    /// # Examples
    /// A stencil, whose halo is what the closure borrows:
    /// ```
    /// use workring::Chunking;
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let x: Vec<i32> = (0..100).map(|at| at * at).collect();
    /// let (mut slope, mut rises) = (vec![0; 100], vec![false; 100]);
    /// engine.for_each_zip_chunk((&mut slope, &mut rises), Chunking::of(10), |first, (slope, rises)| {
    ///     for (at, slope) in slope.iter_mut().enumerate() {
    ///         *slope = x.get(first + at + 1).unwrap_or(&0) - x[first + at];
    ///         rises[at] = *slope > 0;
    ///     }
    /// })?;
    /// assert_eq!((slope[49], rises[49], rises[99]), (99, true, false));
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_each_zip_chunk<S: Zip>(
        &self,
        slices: S,
        chunking: Chunking,
        body: impl Fn(usize, S::Part) + Sync,
    ) -> Result<()> {
        self.job().for_each_zip_chunk(slices, chunking, body)
    }

    /// Folds the chunks of several equally long slices with a closure and combines the partial results in the same fixed tree as
    /// [`Engine::reduce`]. It may write to slices that are given as `&mut`. Empty slices are folded once.
    ///
    /// # Errors
    /// As [`Engine::map_zip_with`].
    ///
    /// # Examples
    /// A step of a solver, and how far it still is from the solution, in one pass:
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let q = vec![1.0; 5_000];
    /// let mut rest = vec![3.0; 5_000];
    /// let square: f64 = engine.reduce_zip_with(
    ///     (&q, &mut rest),
    ///     |(q, rest)| {
    ///         rest.iter_mut().zip(q).for_each(|(rest, q)| *rest -= 2.0 * q);
    ///         rest.iter().map(|rest| rest * rest).sum()
    ///     },
    ///     |left, right| left + right,
    /// )?;
    /// assert_eq!((square, rest[4_999]), (5_000.0, 1.0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn reduce_zip_with<S: Zip, A: Send + Sync>(
        &self,
        slices: S,
        fold: impl Fn(S::Part) -> A + Sync,
        combine: impl Fn(A, A) -> A,
    ) -> Result<A> {
        self.job().reduce_zip_with(slices, fold, combine)
    }
}
