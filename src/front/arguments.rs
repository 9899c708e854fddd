//! Typed batches on their way into a call: which tuples fit which kernel, checked by the compiler.

use bytemuck::Pod;

use crate::arena::Arena;
use crate::arena::any_batch::AnyBatch;
use crate::arena::batch::{Batch, SharedBatch};
use crate::engine::call::References;
use crate::error::{Error, Result};
use std::sync::Arc;

pub(super) mod sealed {
    /// Keeps the traits of this module closed: their implementations are part of the engine's soundness.
    pub trait Sealed {}
}
use sealed::Sealed;

/// Collects the references of a call's batches, checking that they belong to the engine.
#[derive(Debug)]
pub struct Collector<'a> {
    arena: &'a Arc<Arena>,
    references: References,
    /// Length in elements of the first batch, which the others are measured against.
    first_len: Option<usize>,
    /// A batch of another engine was among them.
    is_foreign: bool,
}

impl<'a> Collector<'a> {
    #[inline]
    pub(crate) fn new(arena: &'a Arc<Arena>) -> Self {
        Self { arena, references: References::new(), first_len: None, is_foreign: false }
    }

    pub(crate) fn owns(&self, arena: &Arc<Arena>) -> bool {
        Arc::ptr_eq(arena, self.arena)
    }

    #[inline]
    fn add(&mut self, arena: &Arc<Arena>, reference: Option<(u64, u64)>, len: usize) {
        match reference {
            Some(reference) if self.owns(arena) => {
                self.references.push(reference);
                self.first_len.get_or_insert(len);
            }
            _ => self.is_foreign = true,
        }
    }

    /// Adds a batch whose type is known at run time.
    pub(super) fn add_any(&mut self, batch: &AnyBatch) {
        let (arena, reference, len) = batch.place();
        self.add(arena, reference, len);
    }

    /// The references, and the length of the first batch if there is one.
    #[inline]
    pub(crate) fn finish(&self) -> Result<(&References, Option<usize>)> {
        if self.is_foreign { Err(Error::ForeignBatch) } else { Ok((&self.references, self.first_len)) }
    }
}

/// A batch a kernel can read: `&Batch<T>`, `&SharedBatch<T>`, or either by value for [`submit`](crate::Engine::submit).
pub trait Input<T: Pod>: Sealed {
    #[doc(hidden)]
    fn collect(&self, collector: &mut Collector<'_>);
}

/// A batch a kernel can write: `&mut Batch<T>`, or a `Batch<T>` by value for [`submit`](crate::Engine::submit).
pub trait Output<T: Pod>: Sealed {
    #[doc(hidden)]
    fn collect(&self, collector: &mut Collector<'_>);
}

impl<T: Pod> Sealed for Batch<T> {}
impl<T: Pod> Sealed for SharedBatch<T> {}
impl<T: Pod> Sealed for &Batch<T> {}
impl<T: Pod> Sealed for &SharedBatch<T> {}
impl<T: Pod> Sealed for &mut Batch<T> {}

impl<T: Pod> Input<T> for Batch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        collector.add(self.arena(), self.reference(), self.len());
    }
}

impl<T: Pod> Input<T> for SharedBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        collector.add(self.arena(), self.reference(), self.len());
    }
}

impl<T: Pod> Input<T> for &Batch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(*self, collector);
    }
}

impl<T: Pod> Input<T> for &SharedBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(*self, collector);
    }
}

impl<T: Pod> Output<T> for Batch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        collector.add(self.arena(), self.reference(), self.len());
    }
}

impl<T: Pod> Output<T> for &mut Batch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Output::collect(&**self, collector);
    }
}

/// The inputs of a blocking call: one batch, a tuple of up to eight, or `()`; `Types` is the kernel's tuple of element types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not fit the kernel's inputs `{Types}`",
    note = "pass `()`, one `&Batch<T>` or `&SharedBatch<T>`, or a tuple of them in the order of the kernel's arguments"
)]
pub trait Inputs<Types>: Sealed {
    #[doc(hidden)]
    fn collect(&self, collector: &mut Collector<'_>);
}

/// The outputs of a blocking call: one `&mut Batch`, a tuple of up to four, or `()`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not fit the kernel's outputs `{Types}`",
    note = "pass `()`, one `&mut Batch<T>`, or a tuple of them in the order of the kernel's arguments"
)]
pub trait Outputs<Types>: Sealed {
    #[doc(hidden)]
    fn collect(&self, collector: &mut Collector<'_>);
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
    fn collect(&self, collector: &mut Collector<'_>);
}

/// What a job holds while it runs and hands back at its end.
pub trait HeldBatches: Sealed + Send + 'static {
    /// Shortens the batch at a place of the tuple; nothing happens where there is none.
    #[doc(hidden)]
    fn truncate_at(&mut self, at: usize, len: usize);
}

impl Sealed for () {}

impl Inputs<()> for () {
    fn collect(&self, _: &mut Collector<'_>) {}
}

impl Outputs<()> for () {
    fn collect(&self, _: &mut Collector<'_>) {}
}

impl<T: Pod> Inputs<(T,)> for &Batch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(*self, collector);
    }
}

impl<T: Pod> Inputs<(T,)> for &SharedBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(*self, collector);
    }
}

impl<T: Pod> Outputs<(T,)> for &mut Batch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Output::collect(&**self, collector);
    }
}

impl HeldBatches for () {
    fn truncate_at(&mut self, _: usize, _: usize) {}
}
impl<T: Pod + Send + Sync> HeldBatches for Batch<T> {
    fn truncate_at(&mut self, at: usize, len: usize) {
        if at == 0 {
            self.truncate(len);
        }
    }
}
impl<T: Pod + Send + Sync> HeldBatches for SharedBatch<T> {
    // Never an output.
    fn truncate_at(&mut self, _: usize, _: usize) {}
}

impl Batches<(), ()> for () {
    fn collect(&self, _: &mut Collector<'_>) {}
}

impl<T: Pod + Send + Sync> Batches<(T,), ()> for Batch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(self, collector);
    }
}

impl<T: Pod + Send + Sync> Batches<(T,), ()> for SharedBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(self, collector);
    }
}

impl<T: Pod + Send + Sync> Batches<(), (T,)> for Batch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Output::collect(self, collector);
    }
}

macro_rules! borrowed {
    ($all:ident $one:ident: $($name:ident $ty:ident),+) => {
        impl<$($name: $one<$ty>, $ty: Pod),+> $all<($($ty,)+)> for ($($name,)+) {
            #[allow(non_snake_case, reason = "the places of a tuple are named after their types")]
            fn collect(&self, collector: &mut Collector<'_>) {
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

macro_rules! tuple_of_batches {
    ($($name:ident),+) => {
        impl<$($name: Sealed),+> Sealed for ($($name,)+) {}
        impl<$($name: HeldBatches),+> HeldBatches for ($($name,)+) {
            #[allow(non_snake_case, reason = "the places of a tuple are named after their types")]
            fn truncate_at(&mut self, at: usize, len: usize) {
                let ($($name,)+) = self;
                let mut place = 0;
                $(
                    if place == at {
                        $name.truncate_at(0, len);
                    }
                    place += 1;
                )+
                let _ = place;
            }
        }
    };
}

tuple_of_batches!(A);
tuple_of_batches!(A, B);
tuple_of_batches!(A, B, C);
tuple_of_batches!(A, B, C, D);
tuple_of_batches!(A, B, C, D, E);
tuple_of_batches!(A, B, C, D, E, F);
tuple_of_batches!(A, B, C, D, E, F, G);
tuple_of_batches!(A, B, C, D, E, F, G, H);
tuple_of_batches!(A, B, C, D, E, F, G, H, I);
tuple_of_batches!(A, B, C, D, E, F, G, H, I, J);
tuple_of_batches!(A, B, C, D, E, F, G, H, I, J, K);
tuple_of_batches!(A, B, C, D, E, F, G, H, I, J, K, L);

macro_rules! owned {
    ($($input:ident $in_ty:ident),* ; $($output:ident $out_ty:ident),*) => {
        impl<
            $($input: Input<$in_ty> + HeldBatches, $in_ty: Pod,)*
            $($output: Output<$out_ty> + HeldBatches, $out_ty: Pod),*
        > Batches<($($in_ty,)*), ($($out_ty,)*)> for ($($input,)* $($output,)*) {
            #[allow(non_snake_case, reason = "the places of a tuple are named after their types")]
            fn collect(&self, collector: &mut Collector<'_>) {
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
