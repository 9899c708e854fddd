//! The Parallel Research Kernels: small loops, each of which shows one thing that parallel programs do, with their own verification.
//!
//! Sources: <https://github.com/ParRes/Kernels>; Van der Wijngaart and Mattson, "The Parallel Research Kernels", IEEE HPEC 2014. Written from the descriptions.

mod nstream;
mod sparse;
mod stencil;
mod transpose;
mod wavefront;

use workring::{kernels, kernels::KernelInfo};

use super::Effort;
use super::suite::{self, table};
use crate::measure::Measured;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let iterations = effort.pick(10, 2);
    suite::ask(effort, |sides, measure| {
        measure(table(sides, nstream::Nstream { len: effort.pick(1 << 23, 1 << 18), iterations }))?;
        measure(table(sides, stencil::Stencil { width: effort.pick(2000, 200), iterations }))?;
        measure(table(sides, transpose::Transpose { width: effort.pick(2000, 200), iterations }))?;
        measure(table(sides, wavefront::Wavefront { width: effort.pick(1000, 100), iterations }))?;
        measure(table(sides, sparse::Sparse::new(effort.pick(10, 6), iterations)))
    })
}

/// What worker processes know of these programs.
pub fn known() -> Vec<&'static KernelInfo> {
    let star = kernels![stencil::star_kernel, stencil::one_more_kernel, transpose::transposed_kernel];
    let others = kernels![nstream::triad_kernel, sparse::product_kernel, sparse::grow_kernel, wavefront::sweep_kernel];
    [&star[..], others].concat()
}
