//! Kernels by name.

use super::engine::Engine;
use crate::arena::any_batch::AnyBatch;
use crate::engine::kernel::KernelInfo;
use crate::error::{Failed, Result};
use crate::front::job::{Held, Job};

impl Engine {
    /// The kernels that can be called by name: those given to [`Builder::kernels`](crate::Builder::kernels).
    pub fn kernels(&self) -> &[&'static KernelInfo] {
        self.core.named()
    }

    /// As [`Engine::submit`], for a kernel that is known by name only: the batches in the order of its arguments, inputs before
    /// outputs, and the bytes of its parameter.
    ///
    /// `kernel` is a name, or a name with as much of the path before it as it takes to tell kernels apart: `sqrt`, `f64::sqrt`,
    /// `workring::kernels::f64::sqrt`. Of several kernels of one name it is the one that takes these batches: numbers, kinds and element types
    /// are compared, and the length of the parameter, here and not by the compiler. What still fits several is an error that lists them.
    ///
    /// # Errors
    /// Every error hands the batches back. [`Error::InvalidArgument`](crate::Error::InvalidArgument) that says what does not fit, or which kernels do; else as [`Engine::submit`].
    ///
    /// # Examples
    /// ```
    /// use workring::{Engine, bytemuck, kernel, kernels};
    ///
    /// #[kernel]
    /// pub fn scale(x: &[f64], y: &mut [f64], factor: &f64) {
    ///     for (y, x) in y.iter_mut().zip(x) {
    ///         *y = factor * x;
    ///     }
    /// }
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(1).kernels(kernels![scale]).build()?;
    /// let name = "scale"; // from a configuration, say
    /// let batches = vec![engine.batch_from_slice(&[1.0, 2.0])?.into(), engine.batch::<f64>(2)?.into()];
    /// let mut batches = engine.submit_named(name, batches, bytemuck::bytes_of(&3.0))?.wait()?;
    /// let y = batches.pop().unwrap().into_batch::<f64>().unwrap();
    /// assert_eq!(*y, [3.0, 6.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn submit_named(
        &self,
        kernel: &str,
        batches: Vec<AnyBatch>,
        param: &[u8],
    ) -> Result<Job<Held<Vec<AnyBatch>>>, Failed<Vec<AnyBatch>>> {
        self.job().submit_named(kernel, batches, param)
    }
}
