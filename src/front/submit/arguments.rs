//! Typed batches on their way into a call: which tuples fit which kernel, checked by the compiler.

use std::sync::Arc;

use bytemuck::Pod;

use crate::arena::Arena;
use crate::arena::any_batch::AnyBatch;
use crate::arena::batch::{Batch, SharedBatch};
use crate::engine::job::call::{BatchSink, References, check_sides};
use crate::engine::kernel::KernelInfo;
use crate::error::{Error, Result};
use crate::front::job::{HeldBatches, Sealed};

/// Which side of a call a batch is on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    Output,
    /// An output with a fixed number of elements for each chunk.
    PerChunk,
}

/// Collects the references of a call's batches, checking that they belong to the engine.
///
/// Nobody outside can name it, and therefore nobody can write the `collect` of the traits here: an implementation for a type of this module
/// with element types of somebody else is what the rules for foreign traits would allow.
#[derive(Debug)]
pub struct Collector<'a, Sink = References> {
    arena: &'a Arc<Arena>,
    /// Where they go: into a list, or straight into the descriptor of the job.
    sink: Sink,
    /// Length in elements of the first batch that is cut into chunks, which the others are measured against.
    first_len: Option<usize>,
    /// Inputs that chunks see whole, by the bit of their number.
    whole: u8,
    /// Outputs with a number of elements per chunk, by the bit of their number.
    per_chunk: u8,
    /// A batch of another engine was among them.
    is_foreign: bool,
}

impl<'a> Collector<'a> {
    /// A collector of a list.
    #[inline]
    pub(crate) fn new(arena: &'a Arc<Arena>) -> Self {
        Self::into(arena, References::new())
    }

    /// A collector for a call of a kernel that is cut into chunks.
    pub(super) fn for_chunks(arena: &'a Arc<Arena>, info: &KernelInfo) -> Self {
        Self { whole: info.whole_inputs(), ..Self::new(arena) }
    }

    /// The references, as many on each side as the kernel takes.
    ///
    /// # Errors
    /// As [`Collector::check`].
    pub(crate) fn finish(&self, info: &KernelInfo) -> Result<&References> {
        self.check(info)?;
        Ok(&self.sink)
    }
}

impl<'a, Sink: BatchSink> Collector<'a, Sink> {
    /// A collector that hands each reference on.
    #[inline]
    pub(crate) fn into(arena: &'a Arc<Arena>, sink: Sink) -> Self {
        Self { arena, sink, first_len: None, whole: 0, per_chunk: 0, is_foreign: false }
    }

    #[inline]
    pub(crate) fn owns(&self, arena: &Arc<Arena>) -> bool {
        Arc::ptr_eq(arena, self.arena)
    }

    #[inline]
    pub(super) fn add(&mut self, side: Side, arena: &Arc<Arena>, reference: Option<(u64, u64)>, len: usize) {
        match reference {
            Some(reference) if self.owns(arena) => {
                match side {
                    Side::Input => {
                        let is_whole =
                            1_u8.checked_shl(self.sink.sides().0 as u32).is_some_and(|bit| self.whole & bit != 0);
                        self.sink.push_input(reference);
                        if is_whole {
                            return;
                        }
                    }
                    Side::Output => self.sink.push_output(reference),
                    Side::PerChunk => {
                        self.per_chunk |= 1_u8.checked_shl(self.sink.sides().1 as u32).unwrap_or(0);
                        self.sink.push_output(reference);
                        return;
                    }
                }
                self.first_len.get_or_insert(len);
            }
            _ => self.is_foreign = true,
        }
    }

    /// Adds an output with a fixed number of elements for each chunk.
    pub(in crate::front) fn add_per_chunk<T: Pod>(&mut self, batch: &Batch<T>) {
        self.add(Side::PerChunk, batch.arena(), batch.reference(), batch.len());
    }

    /// Adds a batch whose type is known at run time.
    pub(super) fn add_any(&mut self, side: Side, batch: &AnyBatch) {
        let (arena, reference, len) = batch.place();
        self.add(side, arena, reference, len);
    }

    /// Length of the call in elements: that of the first batch with an element for each of its elements, if there is one.
    ///
    /// # Errors
    /// [`Error::ForeignBatch`]; [`Error::InvalidArgument`] when all there is are whole inputs and outputs per chunk, which do not say how many
    /// chunks.
    pub(super) fn call_len(&self) -> Result<usize> {
        if self.is_foreign {
            return Err(Error::ForeignBatch);
        }
        match self.first_len {
            None if self.per_chunk != 0 || self.whole != 0 => Err(Error::invalid(
                "how many chunks a call has is said by an input that is not #[whole], or by an output that is not PerChunk: there is none",
            )),
            len => Ok(len.unwrap_or(0)),
        }
    }

    /// Outputs with a number of elements per chunk.
    pub(super) fn per_chunk(&self) -> u8 {
        self.per_chunk
    }

    /// Checks that all batches are the engine's own, and as many on each side as the kernel takes.
    ///
    /// # Errors
    /// [`Error::ForeignBatch`]; [`Error::InvalidArgument`] when the kernel's description says something else than its types.
    #[inline]
    pub(super) fn check(&self, info: &KernelInfo) -> Result<()> {
        if self.is_foreign {
            return Err(Error::ForeignBatch);
        }
        check_sides(self.sink.sides(), info)
    }

    /// Where the references went.
    #[inline]
    pub(super) fn into_sink(self) -> Sink {
        self.sink
    }
}

/// A batch a kernel can read: `&Batch<T>`, `&SharedBatch<T>`, or either by value for [`submit`](crate::Engine::submit).
pub trait Input<T: Pod>: Sealed {
    #[doc(hidden)]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>);
}

/// A batch a kernel can write: `&mut Batch<T>`, or a `Batch<T>` by value for [`submit`](crate::Engine::submit).
pub trait Output<T: Pod>: Sealed {
    #[doc(hidden)]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>);
}

impl<T: Pod> Sealed for &Batch<T> {}
impl<T: Pod> Sealed for &SharedBatch<T> {}
impl<T: Pod> Sealed for &mut Batch<T> {}

impl<T: Pod> Input<T> for Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        collector.add(Side::Input, self.arena(), self.reference(), self.len());
    }
}

impl<T: Pod> Input<T> for SharedBatch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        collector.add(Side::Input, self.arena(), self.reference(), self.len());
    }
}

impl<T: Pod> Input<T> for &Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(*self, collector);
    }
}

impl<T: Pod> Input<T> for &SharedBatch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(*self, collector);
    }
}

impl<T: Pod> Output<T> for Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        collector.add(Side::Output, self.arena(), self.reference(), self.len());
    }
}

impl<T: Pod> Output<T> for &mut Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Output::collect(&**self, collector);
    }
}

/// An output of [`map_chunks`](crate::Engine::map_chunks) that has a fixed number of elements for each chunk, whatever its length: so many
/// counts, a sum. The batch is cut into as many equal parts as there are chunks. Without it an output has one element for each element of the
/// call.
///
/// # Examples
/// ```
/// use workring::{Chunking, Engine, kernel, batch::PerChunk};
///
/// /// The smallest and the largest of a chunk.
/// #[kernel]
/// fn extrema(x: &[i32], found: &mut [i32]) {
///     found[0] = *x.iter().min().unwrap();
///     found[1] = *x.iter().max().unwrap();
/// }
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(2).build()?;
/// let x = engine.batch_from_slice(&[3, 1, 2, 9, 7])?;
/// let mut found = engine.batch::<i32>(3 * 2)?; // three chunks: of two, two and one element
/// engine.map_chunks(extrema, &x, PerChunk(&mut found), &(), Chunking::of(2))?;
/// assert_eq!(*found, [1, 3, 2, 9, 7, 7]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PerChunk<B>(pub B);

/// An output of [`map_chunks`](crate::Engine::map_chunks): `&mut Batch<T>` with one element for each element of the call, or
/// [`PerChunk`]`(&mut Batch<T>)` with a fixed number for each chunk.
pub trait ChunkOutput<T: Pod>: Sealed {
    #[doc(hidden)]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>);
}

impl<B: Sealed> Sealed for PerChunk<B> {}

impl<T: Pod> ChunkOutput<T> for &mut Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Output::collect(&**self, collector);
    }
}

impl<T: Pod> ChunkOutput<T> for PerChunk<&mut Batch<T>> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        collector.add_per_chunk(self.0);
    }
}

/// The outputs of [`map_chunks`](crate::Engine::map_chunks): one [`ChunkOutput`], a tuple of up to four, or `()`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not fit the kernel's outputs `{Types}`",
    note = "pass `()`, one `&mut Batch<T>` or `PerChunk(&mut Batch<T>)`, or a tuple of them in the order of the kernel's arguments"
)]
pub trait ChunkOutputs<Types>: Sealed {
    #[doc(hidden)]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>);
}

impl ChunkOutputs<()> for () {
    #[inline]
    fn collect<Sink: BatchSink>(&self, _: &mut Collector<'_, Sink>) {}
}

impl<T: Pod> ChunkOutputs<(T,)> for &mut Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        ChunkOutput::collect(self, collector);
    }
}

impl<T: Pod> ChunkOutputs<(T,)> for PerChunk<&mut Batch<T>> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        ChunkOutput::collect(self, collector);
    }
}

/// The inputs of a blocking call: one batch, a tuple of up to eight, or `()`; `Types` is the kernel's tuple of element types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not fit the kernel's inputs `{Types}`",
    note = "pass `()`, one `&Batch<T>` or `&SharedBatch<T>`, or a tuple of them in the order of the kernel's arguments"
)]
pub trait Inputs<Types>: Sealed {
    #[doc(hidden)]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>);
}

/// The outputs of a blocking call: one `&mut Batch`, a tuple of up to four, or `()`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not fit the kernel's outputs `{Types}`",
    note = "pass `()`, one `&mut Batch<T>`, or a tuple of them in the order of the kernel's arguments",
    note = "`PerChunk` is for `map_chunks`, whose caller knows the chunks"
)]
pub trait Outputs<Types>: Sealed {
    #[doc(hidden)]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>);
}

/// The batches of a submitted job, by value: inputs, then outputs, as one tuple; a single batch may stand for itself.
///
/// Inputs are `Batch<T>` or `SharedBatch<T>`, outputs `Batch<T>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not fit a kernel with inputs `{In}` and outputs `{Out}`",
    note = "pass a tuple by value: first the inputs (`Batch<T>` or `SharedBatch<T>`), then the outputs (`Batch<T>`)"
)]
pub trait Batches<In, Out>: HeldBatches {
    #[doc(hidden)]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>);
}

impl Inputs<()> for () {
    #[inline]
    fn collect<Sink: BatchSink>(&self, _: &mut Collector<'_, Sink>) {}
}

impl Outputs<()> for () {
    #[inline]
    fn collect<Sink: BatchSink>(&self, _: &mut Collector<'_, Sink>) {}
}

impl<T: Pod> Inputs<(T,)> for &Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(*self, collector);
    }
}

impl<T: Pod> Inputs<(T,)> for &SharedBatch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(*self, collector);
    }
}

impl<T: Pod> Outputs<(T,)> for &mut Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Output::collect(&**self, collector);
    }
}

impl Batches<(), ()> for () {
    #[inline]
    fn collect<Sink: BatchSink>(&self, _: &mut Collector<'_, Sink>) {}
}

impl<T: Pod + Send + Sync> Batches<(T,), ()> for Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(self, collector);
    }
}

impl<T: Pod + Send + Sync> Batches<(T,), ()> for SharedBatch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(self, collector);
    }
}

impl<T: Pod + Send + Sync> Batches<(), (T,)> for Batch<T> {
    #[inline]
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Output::collect(self, collector);
    }
}

macro_rules! borrowed {
    ($all:ident $one:ident: $($name:ident $ty:ident),+) => {
        impl<$($name: $one<$ty>, $ty: Pod),+> $all<($($ty,)+)> for ($($name,)+) {
            #[allow(non_snake_case, reason = "the places of a tuple are named after their types")]
            #[inline]
            fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
                let ($($name,)+) = self;
                $($one::<$ty>::collect($name, collector);)+
            }
        }
    };
}

borrowed!(Inputs Input: A T);
borrowed!(Inputs Input: A T, B U);
borrowed!(Inputs Input: A T, B U, C V);
borrowed!(Inputs Input: A T, B U, C V, D W);
borrowed!(Inputs Input: A T, B U, C V, D W, E X);
borrowed!(Inputs Input: A T, B U, C V, D W, E X, F Y);
borrowed!(Inputs Input: A T, B U, C V, D W, E X, F Y, G Z);
borrowed!(Inputs Input: A T, B U, C V, D W, E X, F Y, G Z, H Q);
borrowed!(Outputs Output: A T);
borrowed!(Outputs Output: A T, B U);
borrowed!(Outputs Output: A T, B U, C V);
borrowed!(Outputs Output: A T, B U, C V, D W);

borrowed!(ChunkOutputs ChunkOutput: A T);
borrowed!(ChunkOutputs ChunkOutput: A T, B U);
borrowed!(ChunkOutputs ChunkOutput: A T, B U, C V);
borrowed!(ChunkOutputs ChunkOutput: A T, B U, C V, D W);

macro_rules! owned {
    ($($input:ident $in_ty:ident),* ; $($output:ident $out_ty:ident),*) => {
        impl<
            $($input: Input<$in_ty> + HeldBatches, $in_ty: Pod,)*
            $($output: Output<$out_ty> + HeldBatches, $out_ty: Pod),*
        > Batches<($($in_ty,)*), ($($out_ty,)*)> for ($($input,)* $($output,)*) {
            #[allow(non_snake_case, reason = "the places of a tuple are named after their types")]
            #[inline]
            fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
                let ($($input,)* $($output,)*) = self;
                $(Input::<$in_ty>::collect($input, collector);)*
                $(Output::<$out_ty>::collect($output, collector);)*
            }
        }
    };
}

macro_rules! with_outputs {
    ($($input:ident $in_ty:ident),+) => {
        owned!($($input $in_ty),+ ;);
        owned!($($input $in_ty),+ ; I S);
        owned!($($input $in_ty),+ ; I S, J R);
        owned!($($input $in_ty),+ ; I S, J R, K P);
        owned!($($input $in_ty),+ ; I S, J R, K P, L O);
    };
}

owned!(; I S);
owned!(; I S, J R);
owned!(; I S, J R, K P);
owned!(; I S, J R, K P, L O);
with_outputs!(A T);
with_outputs!(A T, B U);
with_outputs!(A T, B U, C V);
with_outputs!(A T, B U, C V, D W);
with_outputs!(A T, B U, C V, D W, E X);
with_outputs!(A T, B U, C V, D W, E X, F Y);
with_outputs!(A T, B U, C V, D W, E X, F Y, G Z);
with_outputs!(A T, B U, C V, D W, E X, F Y, G Z, H Q);

/// Which batches fit which kernel is said here alone. The rules for foreign traits allow an implementation for a batch with element types of
/// somebody else; that one cannot write `collect`, whose argument has no name outside:
/// ```compile_fail,E0603
/// use workring::{Batch, batch::Inputs};
///
/// struct Mine;
///
/// impl Inputs<Mine> for &Batch<f64> {
///     fn collect(&self, _: &mut workring::front::submit::arguments::Collector<'_>) {}
/// }
/// ```
/// A type of somebody else lacks the supertrait as well:
/// ```compile_fail,E0603
/// struct Mine;
///
/// impl workring::front::job::held::sealed::Sealed for Mine {}
/// ```
/// And what is for `map_chunks` is not taken by `map`, which makes the chunks itself:
/// ```compile_fail,E0277
/// use workring::{Engine, kernels, batch::PerChunk};
///
/// let engine = Engine::new().unwrap();
/// let (x, mut y) = (engine.batch::<f64>(1).unwrap(), engine.batch::<f64>(1).unwrap());
/// let _ = engine.map(kernels::f64::sqrt, &x, PerChunk(&mut y), &());
/// ```
#[cfg(doctest)]
mod closed {}
