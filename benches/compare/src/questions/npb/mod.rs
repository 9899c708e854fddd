//! The NAS Parallel Benchmarks: kernels of fluid dynamics that people compare machines and languages by, with the official values checked.
//!
//! Sources: Bailey and others, "The NAS Parallel Benchmarks", NASA report RNR-94-007, 1994; classes and verification values as in NPB 3. Written from
//! the descriptions.

mod ep;
mod is;
mod random;

use workring::{kernels, kernels::KernelInfo};

use super::Effort;
use super::suite::{self, table};
use crate::measure::Measured;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    suite::ask(effort, |sides, measure| {
        measure(table(sides, ep::Ep::s()))?;
        measure(table(sides, is::Is::s()))?;
        if !effort.is_quick {
            measure(table(sides, ep::Ep::w()))?;
            measure(table(sides, is::Is::w()))?;
            measure(table(sides, is::Is::a()))?;
        }
        Ok(())
    })
}

/// What worker processes know of these programs.
pub fn known() -> Vec<&'static KernelInfo> {
    kernels![ep::tally_kernel, is::count_kernel].to_vec()
}
