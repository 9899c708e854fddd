//! The NAS Parallel Benchmarks: kernels of fluid dynamics that people compare machines and languages by, with the official values checked.
//!
//! Sources: Bailey and others, "The NAS Parallel Benchmarks", NASA report RNR-94-007, 1994; classes and verification values as in NPB 3. Written from
//! the descriptions.

mod cg;
mod ep;
mod grid;
mod is;
mod matrix;
mod mg;
mod random;

use workring::{kernels, kernels::KernelInfo};

use super::Effort;
use super::suite::{self, table};
use crate::measure::Measured;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    suite::ask(effort, |sides, measure| {
        measure(table(sides, ep::Ep::s()))?;
        measure(table(sides, is::Is::s()))?;
        measure(table(sides, cg::Cg::s()))?;
        measure(table(sides, mg::Mg::s()))?;
        if !effort.is_quick {
            measure(table(sides, ep::Ep::w()))?;
            measure(table(sides, is::Is::w()))?;
            measure(table(sides, is::Is::a()))?;
            measure(table(sides, cg::Cg::w()))?;
            measure(table(sides, cg::Cg::a()))?;
            measure(table(sides, mg::Mg::w()))?;
            measure(table(sides, mg::Mg::a()))?;
        }
        Ok(())
    })
}

/// What worker processes know of these programs.
pub fn known() -> Vec<&'static KernelInfo> {
    let of_cg = kernels![cg::dot_kernel, cg::axpy_kernel, cg::xpby_kernel, cg::times_kernel];
    let grids = kernels![mg::residual_kernel, mg::subtract_kernel, mg::smooth_kernel, mg::restrict_kernel];
    let others = kernels![mg::prolong_kernel, mg::square_kernel, ep::tally_kernel, is::count_kernel];
    [&of_cg[..], grids, others].concat()
}
