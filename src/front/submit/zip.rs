//! Slices that calls over closures cut at the same places.

use core::sync::atomic::{AtomicBool, Ordering};

use bytemuck::Pod;

use super::blocking::Chunking;
use super::call_options::Terminal;
use super::job_builder::JobBuilder;
use crate::arena::batch::{Batch, SharedBatch};
use crate::engine::exec::Borders;
use crate::engine::exec::once_parts::OnceParts;
use crate::engine::job::Plan;
use crate::engine::runtime::CallKey;
use crate::error::{Error, Result};
use crate::front::files::OutputBatch;

mod sealed {
    /// Keeps the trait of zipped slices closed.
    pub trait Sealed {}
}

use sealed::Sealed;

/// Slices of one length that a call cuts at the same places: `&[T]` and `&mut [T]`, also as references of vectors, arrays and batches, and tuples of up to
/// eight of them, in any mixture.
///
/// A closure gets for each the elements of its chunk: of `(&x, &y, &mut z)` a tuple `(&[T], &[U], &mut [V])`.
///
/// For [`map_zip_with`](crate::Engine::map_zip_with), [`for_each_zip_chunk`](crate::Engine::for_each_zip_chunk) and
/// [`reduce_zip_with`](crate::Engine::reduce_zip_with).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be cut into chunks",
    note = "pass references of slices, vectors, arrays or batches, `&x` or `&mut x`, or a tuple of up to eight of them; elements must be `Sync`, or `Send` \
            where they are written"
)]
pub trait Zip: Sealed + Sized {
    /// What a closure gets of a chunk.
    type Part;

    #[doc(hidden)]
    type Cut: Sync;

    #[doc(hidden)]
    fn measure(&self, lens: &mut Lens);

    #[doc(hidden)]
    fn cut(self) -> Self::Cut;

    #[doc(hidden)]
    fn part(cut: &Self::Cut, plan: &CutPlan, chunk: u32) -> Option<Self::Part>;
}

/// The lengths of slices, of which all have to be that of the first.
#[derive(Default, Debug)]
pub struct Lens {
    first: Option<usize>,
    count: usize,
    /// The number and the length of the first slice with another one.
    other: Option<(usize, usize)>,
}

impl Lens {
    fn add(&mut self, len: usize) {
        if *self.first.get_or_insert(len) != len {
            self.other.get_or_insert((self.count, len));
        }
        self.count += 1;
    }

    /// The length of all.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] for the first slice that differs.
    fn common(&self) -> Result<usize> {
        let expected = self.first.unwrap_or(0);
        match self.other {
            None => Ok(expected),
            Some((at, found)) => Err(Error::LengthMismatch {
                what: format!("slice {at}"),
                found: found as u64,
                expected: expected as u64,
            }),
        }
    }
}

/// Where slices are cut.
#[derive(Debug)]
pub struct CutPlan(Plan);

/// A slice that is read, in chunks.
#[expect(missing_debug_implementations, reason = "nobody outside can have one")]
pub struct SharedCut<'a, T>(&'a [T]);

/// A slice that is written, in chunks of which each is given out once.
#[expect(missing_debug_implementations, reason = "nobody outside can have one")]
pub struct ExclusiveCut<'a, T>(OnceParts<'a, T>);

macro_rules! read {
    ($($slice:ty, [$($generics:tt)*];)*) => {
        $(
            impl<'a, $($generics)*> Sealed for &'a $slice {}

            impl<'a, $($generics)*> Zip for &'a $slice where T: Sync {
                type Part = &'a [T];
                type Cut = SharedCut<'a, T>;

                fn measure(&self, lens: &mut Lens) {
                    lens.add(self.len());
                }

                fn cut(self) -> Self::Cut {
                    SharedCut(self)
                }

                fn part(cut: &Self::Cut, plan: &CutPlan, chunk: u32) -> Option<Self::Part> {
                    cut.0.get(plan.0.range(chunk))
                }
            }
        )*
    };
}

macro_rules! written {
    ($($slice:ty, [$($generics:tt)*];)*) => {
        $(
            impl<'a, $($generics)*> Sealed for &'a mut $slice {}

            impl<'a, $($generics)*> Zip for &'a mut $slice where T: Send {
                type Part = &'a mut [T];
                type Cut = ExclusiveCut<'a, T>;

                fn measure(&self, lens: &mut Lens) {
                    lens.add(self.len());
                }

                fn cut(self) -> Self::Cut {
                    ExclusiveCut(OnceParts::new(self))
                }

                fn part(cut: &Self::Cut, plan: &CutPlan, chunk: u32) -> Option<Self::Part> {
                    cut.0.take(&plan.0, chunk)
                }
            }
        )*
    };
}

read! {
    [T], [T];
    Vec<T>, [T];
    [T; N], [T, const N: usize];
    Batch<T>, [T: Pod];
    OutputBatch<T>, [T: Pod];
    SharedBatch<T>, [T: Pod];
}

written! {
    [T], [T];
    Vec<T>, [T];
    [T; N], [T, const N: usize];
    Batch<T>, [T: Pod];
    OutputBatch<T>, [T: Pod];
}

macro_rules! tuples {
    ($($($slice:ident)+;)*) => {
        $(
            impl<$($slice: Zip),+> Sealed for ($($slice,)+) {}

            #[allow(non_snake_case, reason = "the places of a tuple are named after their types")]
            impl<$($slice: Zip),+> Zip for ($($slice,)+) {
                type Part = ($($slice::Part,)+);
                type Cut = ($($slice::Cut,)+);

                fn measure(&self, lens: &mut Lens) {
                    let ($($slice,)+) = self;
                    $($slice.measure(lens);)+
                }

                fn cut(self) -> Self::Cut {
                    let ($($slice,)+) = self;
                    ($($slice.cut(),)+)
                }

                fn part(cut: &Self::Cut, plan: &CutPlan, chunk: u32) -> Option<Self::Part> {
                    let ($($slice,)+) = cut;
                    Some(($($slice::part($slice, plan, chunk)?,)+))
                }
            }
        )*
    };
}

tuples! {
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H;
}

/// Slices in chunks, of which each is taken once.
struct Chunks<S: Zip> {
    cut: S::Cut,
    /// A chunk was asked for twice.
    is_damaged: AtomicBool,
}

impl<S: Zip> Chunks<S> {
    fn new(slices: S) -> Self {
        Self { cut: slices.cut(), is_damaged: AtomicBool::new(false) }
    }

    /// A chunk; nothing where it was taken before, which the call then says.
    fn take(&self, plan: &Plan, chunk: u32) -> Option<S::Part> {
        let part = S::part(&self.cut, &CutPlan(*plan), chunk);
        if part.is_none() {
            // Relaxed: read when all threads are done.
            self.is_damaged.store(true, Ordering::Relaxed);
        }
        part
    }

    /// # Errors
    /// [`Error::Corrupt`] when the words by which chunks are shared out have named one twice.
    fn check(&self) -> Result<()> {
        match self.is_damaged.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::Corrupt { what: "range of chunks", offset: 0, expected: 1, found: 2 }),
        }
    }
}

fn len_of(slices: &impl Zip) -> Result<usize> {
    let mut lens = Lens::default();
    slices.measure(&mut lens);
    lens.common()
}

impl JobBuilder<'_> {
    /// See [`Engine::map_zip_with`](crate::Engine::map_zip_with).
    ///
    /// # Errors
    /// As there.
    pub fn map_zip_with<S: Zip>(self, slices: S, body: impl Fn(S::Part) + Sync) -> Result<()> {
        self.check(Terminal::MapZipWith)?;
        let plan = Plan::new(len_of(&slices)?, self.chunk_len_said(), 0)?;
        let chunks = Chunks::new(slices);
        let borders = self.borders(Borders::OfCost(CallKey::of_closure(&body)));
        self.each_chunk(plan, borders, &|plan, chunk| chunks.take(plan, chunk).into_iter().for_each(&body))?;
        chunks.check()
    }

    /// See [`Engine::for_each_zip_chunk`](crate::Engine::for_each_zip_chunk).
    ///
    /// # Errors
    /// As there.
    pub fn for_each_zip_chunk<S: Zip>(
        self,
        slices: S,
        chunking: Chunking,
        body: impl Fn(usize, S::Part) + Sync,
    ) -> Result<()> {
        self.check(Terminal::ForEachZipChunk)?;
        let plan = chunking.plan_of_written(len_of(&slices)?)?;
        let chunks = Chunks::new(slices);
        self.each_chunk(plan, Borders::Said, &|plan, chunk| {
            if let Some(part) = chunks.take(plan, chunk) {
                body(plan.range(chunk).start, part);
            }
        })?;
        chunks.check()
    }

    /// See [`Engine::reduce_zip_with`](crate::Engine::reduce_zip_with).
    ///
    /// # Errors
    /// As there.
    pub fn reduce_zip_with<S: Zip, A: Send + Sync>(
        self,
        slices: S,
        fold: impl Fn(S::Part) -> A + Sync,
        combine: impl Fn(A, A) -> A,
    ) -> Result<A> {
        self.check(Terminal::ReduceZipWith)?;
        let plan = Plan::of_fold(len_of(&slices)?, self.chunk_len_said())?;
        let chunks = Chunks::new(slices);
        let key = CallKey::of_closure(&fold);
        self.fold_chunks(plan, key, &|plan, chunk| chunks.take(plan, chunk).map(&fold), combine)
    }
}
