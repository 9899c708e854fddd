//! What the commands do, as kernels: worker processes know functions by name, not closures.

use workring::bytemuck::{Pod, Zeroable};
use workring::numeric::{self, Float};
use workring::{
    Chunking, JobBuilder, Result, Retry, SharedBatch,
    batch::{ChunkOutputs, Outputs},
    files::NpyElement,
    kernels::KernelInfo,
};

use super::distributions::{BLOCK_LEN, Generated, Recipe};
use super::functions::Elementwise;

/// Every kernel a command may use.
pub(crate) fn known() -> Vec<&'static KernelInfo> {
    let mut known = workring::kernels::all();
    known.extend(generators());
    known
}

/// How often a share of a call is run again after the death of its worker process. Right for every kernel of the commands: each
/// writes all of its outputs and reads none of them.
pub(crate) const RETRY: Retry = Retry::up_to(3);

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
    fn map(
        call: JobBuilder<'_>,
        function: Elementwise<Self>,
        x: &SharedBatch<Self>,
        y: impl Outputs<(Self,)>,
    ) -> Result<()>;
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
                    function: Elementwise<Self>,
                    x: &SharedBatch<Self>,
                    y: impl Outputs<(Self,)>,
                ) -> Result<()> {
                    use workring::kernels::$ty::{self as ready, Affine, Bounds};
                    match function {
                        Elementwise::Affine { a, b } => call.map(ready::affine, x, y, &Affine { a, b }),
                        Elementwise::Sqrt => call.map(ready::sqrt, x, y, &()),
                        Elementwise::Exp => call.map(ready::exp, x, y, &()),
                        Elementwise::Ln => call.map(ready::ln, x, y, &()),
                        Elementwise::Abs => call.map(ready::abs, x, y, &()),
                        Elementwise::Square => call.map(ready::square, x, y, &()),
                        Elementwise::Negate => call.map(ready::negate, x, y, &()),
                        Elementwise::Reciprocal => call.map(ready::reciprocal, x, y, &()),
                        Elementwise::Clamp { lower, upper } => call.map(ready::clamp, x, y, &Bounds { lower, upper }),
                    }
                }
            }
        )*
    };
}

float_kernels! { f32 f64 }
