//! Batches that a job holds while it runs and hands back at its end.

use bytemuck::Pod;

use super::job::{Job, Payload};
use crate::arena::any_batch::AnyBatch;
use crate::arena::batch::{Batch, SharedBatch};
use crate::engine::handle::Finished;
use crate::engine::kernel::KernelInfo;
use crate::error::{Failed, Result};
use sealed::Sealed;

pub(in crate::front) mod sealed {
    /// Keeps the traits of batches in calls closed: their implementations are part of the engine's soundness.
    pub trait Sealed {}
}

/// What a job holds while it runs and hands back at its end.
pub trait HeldBatches: Sealed + Send + 'static {
    /// Shortens the batch at a place of the tuple; nothing happens where there is none.
    #[doc(hidden)]
    fn truncate_at(&mut self, at: usize, len: usize);
}

/// The batches of a submitted kernel job. [`Job::wait`] gives them back.
#[derive(Debug)]
pub struct Held<B> {
    batches: B,
    kernel: &'static KernelInfo,
    /// A parameter too large for the descriptor; kept until the job is read.
    _param: Option<Batch<u8>>,
}

impl<B> Held<B> {
    #[inline]
    pub(in crate::front) fn new(batches: B, kernel: &'static KernelInfo, param: Option<Batch<u8>>) -> Self {
        Self { batches, kernel, _param: param }
    }

    /// The batches of a job that was not handed over.
    pub(in crate::front) fn into_batches(self) -> B {
        self.batches
    }
}

/// A job over whole batches: from [`Engine::submit`](crate::Engine::submit), with the batches as a tuple or a single one.
pub type BatchJob<B> = Job<Held<B>>;

impl<B: HeldBatches> Payload for Held<B> {
    type Output = B;
    type Returned = B;

    fn finish(mut self, mut finished: Finished<'_>) -> Result<B, Failed<B>> {
        if let Some(error) = finished.take_error() {
            return Err(Failed::new(error, self.batches));
        }
        match finished.output_lens() {
            Ok(None) => Ok(self.batches),
            Ok(Some(lens)) => {
                let inputs = self.kernel.inputs().len();
                for (output, len) in lens.into_iter().enumerate() {
                    len.into_iter().for_each(|len| self.batches.truncate_at(inputs + output, len));
                }
                Ok(self.batches)
            }
            Err(error) => Err(Failed::new(error, self.batches)),
        }
    }
}

impl Sealed for () {}
impl<T: Pod> Sealed for Batch<T> {}
impl<T: Pod> Sealed for SharedBatch<T> {}
impl Sealed for Vec<AnyBatch> {}

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

impl HeldBatches for Vec<AnyBatch> {
    fn truncate_at(&mut self, at: usize, len: usize) {
        if let Some(batch) = self.get_mut(at) {
            batch.truncate(len);
        }
    }
}

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
