//! Programs that demonstrate parallel libraries: many bodies, life, a sieve, a matrix product, quicksort, Fibonacci numbers.

mod bodies;
mod life;
mod matmul;
mod sieve;

use workring::{kernels, kernels::KernelInfo};

use super::suite::{self, table};
use super::{Effort, fork_join};
use crate::measure::Measured;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    suite::ask(effort, |sides, measure| {
        let (bodies, steps) = effort.pick((2000, 10), (200, 2));
        measure(table(sides, bodies::Bodies::new(bodies, steps)))?;
        measure(table(sides, life::Life::new(effort.pick(1024, 640))))?;
        measure(table(sides, sieve::Sieve::new(effort.pick(8, 6))))?;
        measure(table(sides, matmul::Matmul::new(effort.pick(768, 96))))?;
        measure(fork_join::quick_sort(&sides.threads, &sides.pool, effort.pick(1 << 20, 1 << 14)))?;
        measure(fork_join::fib(&sides.threads, &sides.pool, effort.pick(27, 20)))
    })
}

/// What worker processes know of these programs.
pub fn known() -> Vec<&'static KernelInfo> {
    kernels![bodies::draw_kernel, life::next_rows_kernel, sieve::primes_kernel, matmul::multiply_kernel].to_vec()
}
