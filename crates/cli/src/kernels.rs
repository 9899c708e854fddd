//! What the commands do, as kernels: worker processes know functions by name, not closures.

use workring::bytemuck::{Pod, Zeroable};
use workring::numeric::{self, Float};
use workring::{
    Chunking, JobBuilder, Result, SharedBatch,
    batch::{ChunkOutputs, Outputs},
    files::NpyElement,
    kernels::KernelInfo,
};

use super::args::Function;
use super::distributions::{BLOCK_LEN, Generated, Recipe};

/// Every kernel a command may use.
pub(crate) fn known() -> Vec<&'static KernelInfo> {
    let mut known = workring::kernels::all();
    known.extend(generators());
    known
}

/// The folds and generators of an element type. Each blocks until the call is done and gives the same bits as the closures of
/// worker threads.
pub(crate) trait Kernels: NpyElement + numeric::Element + Generated {
    fn stats(call: JobBuilder<'_>, x: &SharedBatch<Self>) -> Result<Self::Stats>;
    fn sum(call: JobBuilder<'_>, x: &SharedBatch<Self>) -> Result<Self::Sum>;
    fn min(call: JobBuilder<'_>, x: &SharedBatch<Self>) -> Result<Self>;
    fn max(call: JobBuilder<'_>, x: &SharedBatch<Self>) -> Result<Self>;
    fn dot(call: JobBuilder<'_>, x: &SharedBatch<Self>, y: &SharedBatch<Self>) -> Result<Self::Sum>;
    fn generate(call: JobBuilder<'_>, y: impl ChunkOutputs<(Self,)>, from: &Placed) -> Result<()>;
}

/// The element-wise functions of a floating point type.
pub(crate) trait FloatKernels: Kernels + Float {
    fn map(call: JobBuilder<'_>, function: &Function, x: &SharedBatch<Self>, y: impl Outputs<(Self,)>) -> Result<()>;
}

/// How generated arrays are cut: into whole blocks of the generator, so that none is begun twice.
pub(crate) const GENERATED: Chunking = Chunking::of(BLOCK_LEN as usize * 8);

/// What generated elements come from, and the place of a call's first one in the whole array.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[bytemuck(crate = "workring::bytemuck")]
#[repr(C)]
pub(crate) struct Placed {
    pub(crate) recipe: Recipe,
    pub(crate) first: u64,
}

macro_rules! kernels {
    ($($ty:ident)*) => {
        /// One generator for each element type.
        mod generator {
            use workring::{Context, kernel};

            use super::super::distributions::ParameterError;
            use super::Placed;

            $(
                pub(super) mod $ty {
                    use super::{Context, ParameterError, Placed, kernel};

                    /// Fills a chunk with what the recipe gives at its place in the whole array.
                    #[kernel]
                    pub(in super::super) fn generate(y: &mut [$ty], from: &Placed, context: &mut Context)
                        -> Result<(), ParameterError> {
                        from.recipe.fill(y, from.first + context.range().start as u64)
                    }
                }
            )*
        }

        fn generators() -> Vec<&'static KernelInfo> {
            vec![$(workring::Kernel::info(generator::$ty::generate)),*]
        }

        $(
            impl Kernels for $ty {
                fn stats(call: JobBuilder<'_>, x: &SharedBatch<Self>) -> Result<Self::Stats> {
                    call.reduce(workring::kernels::$ty::stats, x, &())
                }

                fn sum(call: JobBuilder<'_>, x: &SharedBatch<Self>) -> Result<Self::Sum> {
                    call.reduce(workring::kernels::$ty::sum, x, &())
                }

                fn min(call: JobBuilder<'_>, x: &SharedBatch<Self>) -> Result<Self> {
                    call.reduce(workring::kernels::$ty::min, x, &())
                }

                fn max(call: JobBuilder<'_>, x: &SharedBatch<Self>) -> Result<Self> {
                    call.reduce(workring::kernels::$ty::max, x, &())
                }

                fn dot(call: JobBuilder<'_>, x: &SharedBatch<Self>, y: &SharedBatch<Self>) -> Result<Self::Sum> {
                    call.reduce(workring::kernels::$ty::dot, (x, y), &())
                }

                fn generate(call: JobBuilder<'_>, y: impl ChunkOutputs<(Self,)>, from: &Placed) -> Result<()> {
                    call.map_chunks(generator::$ty::generate, (), y, from, GENERATED)
                }
            }
        )*
    };
}

kernels! { i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 }

macro_rules! float_kernels {
    ($($ty:ident)*) => {
        $(
            impl FloatKernels for $ty {
                fn map(
                    call: JobBuilder<'_>,
                    function: &Function,
                    x: &SharedBatch<Self>,
                    y: impl Outputs<(Self,)>,
                ) -> Result<()> {
                    use workring::kernels::$ty::{self as ready, Affine, Bounds};
                    match *function {
                        Function::Affine { a, b, .. } => {
                            call.map(ready::affine, x, y, &Affine { a: a as $ty, b: b as $ty })
                        }
                        Function::Sqrt(_) => call.map(ready::sqrt, x, y, &()),
                        Function::Exp(_) => call.map(ready::exp, x, y, &()),
                        Function::Ln(_) => call.map(ready::ln, x, y, &()),
                        Function::Abs(_) => call.map(ready::abs, x, y, &()),
                        Function::Square(_) => call.map(ready::square, x, y, &()),
                        Function::Negate(_) => call.map(ready::negate, x, y, &()),
                        Function::Reciprocal(_) => call.map(ready::reciprocal, x, y, &()),
                        Function::Clamp { lower, upper, .. } => {
                            let lower = lower.map_or(<Self as numeric::Element>::SMALLEST, |lower| lower as $ty);
                            let upper = upper.map_or(<Self as numeric::Element>::LARGEST, |upper| upper as $ty);
                            call.map(ready::clamp, x, y, &Bounds { lower, upper })
                        }
                    }
                }
            }
        )*
    };
}

float_kernels! { f32 f64 }
