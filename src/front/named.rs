//! Kernels by name, with batches whose types are known at run time: for programs that are told what to run.

use super::arguments::{Collector, HeldBatches, sealed};
use super::call::Call;
use super::engine::Engine;
use super::job::{Held, Job};
use crate::arena::any_batch::AnyBatch;
use crate::engine::core::Draft;
use crate::engine::kernel::{ElementLayout, KernelInfo};
use crate::error::{Error, Failed, Result};
use crate::layout::records::kind;

impl sealed::Sealed for Vec<AnyBatch> {}

impl HeldBatches for Vec<AnyBatch> {
    fn truncate_at(&mut self, at: usize, len: usize) {
        if let Some(batch) = self.get_mut(at) {
            batch.truncate(len);
        }
    }
}

/// Checks one batch against what a kernel takes there.
fn check(batch: &AnyBatch, wanted: ElementLayout, is_output: bool, place: impl Fn() -> String) -> Result<()> {
    if is_output && !batch.is_writable() {
        return Err(Error::invalid(format!(
            "{} must be a Batch, which the kernel can write, not a SharedBatch",
            place()
        )));
    }
    let (size, align) = batch.element_layout();
    if (size, align) == (wanted.size_bytes(), wanted.align_bytes()) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} has elements of {} bytes, aligned to {}; the batch has {}, of {size} bytes, aligned to {align}",
        place(),
        wanted.size_bytes(),
        wanted.align_bytes(),
        batch.element_name()
    )))
}

/// Checks what comes for a kernel against what it takes.
fn check_all(info: &KernelInfo, batches: &[AnyBatch], param: &[u8]) -> Result<()> {
    let (inputs, outputs) = (info.inputs(), info.outputs());
    if batches.len() != inputs.len() + outputs.len() {
        return Err(Error::invalid(format!(
            "kernel {} takes {} inputs and {} outputs, not {} batches",
            info.name(),
            inputs.len(),
            outputs.len(),
            batches.len()
        )));
    }
    for (at, (batch, wanted)) in batches.iter().zip(inputs.iter().chain(outputs)).enumerate() {
        let is_output = at >= inputs.len();
        check(batch, *wanted, is_output, || match is_output {
            true => format!("output {} of kernel {}", at - inputs.len(), info.name()),
            false => format!("input {at} of kernel {}", info.name()),
        })?;
    }
    if param.len() != info.param().size_bytes() {
        let (name, wanted) = (info.name(), info.param().size_bytes());
        return Err(Error::invalid(format!("kernel {name} takes a parameter of {wanted} bytes, not {}", param.len())));
    }
    Ok(())
}

impl Engine {
    /// The kernels that can be called by name: those given to [`Builder::kernels`](crate::Builder::kernels).
    pub fn kernels(&self) -> &[&'static KernelInfo] {
        self.core.named()
    }

    /// As [`Engine::submit`], for a kernel that is known by name only: the batches in the order of its arguments, inputs before
    /// outputs, and the bytes of its parameter.
    ///
    /// Names, numbers, and sizes and alignments of elements are checked, here and not by the compiler. Types that have the same size and
    /// alignment are not told apart: the kernel sees the same bytes.
    ///
    /// # Errors
    /// Every error hands the batches back. [`Error::InvalidArgument`] that says what does not fit; else as [`Engine::submit`].
    ///
    /// # Examples
    /// ```
    /// use workring::{Engine, bytemuck, kernel, kernels};
    ///
    /// kernel! {
    ///     pub fn scale(x: &[f64], y: &mut [f64], factor: &f64) {
    ///         for (y, x) in y.iter_mut().zip(x) {
    ///             *y = factor * x;
    ///         }
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

impl Call<'_> {
    /// See [`Engine::submit_named`].
    ///
    /// # Errors
    /// As there.
    pub fn submit_named(
        self,
        kernel: &str,
        batches: Vec<AnyBatch>,
        param: &[u8],
    ) -> Result<Job<Held<Vec<AnyBatch>>>, Failed<Vec<AnyBatch>>> {
        let reserved = self.find(kernel).and_then(|info| {
            check_all(info, &batches, param)?;
            Ok((info, self.reserve()?))
        });
        let filled = reserved.and_then(|(info, draft)| {
            let block = self.fill_named(&draft, info, &batches, param)?;
            Ok((draft, info, block))
        });
        match filled {
            Ok((draft, kernel, block)) => self
                .hand_over(draft, Held { batches, kernel, _param: block })
                .map_err(|failed| failed.map(|held| held.batches)),
            Err(error) => Err(Failed::new(error, batches)),
        }
    }

    fn find(&self, kernel: &str) -> Result<&'static KernelInfo> {
        let named = self.core.named();
        named.iter().copied().find(|info| info.name() == kernel).ok_or_else(|| {
            let known: Vec<&str> = named.iter().map(|info| info.name()).collect();
            Error::invalid(format!(
                "the engine knows no kernel of the name {kernel:?}; those given to Builder::kernels are: {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ))
        })
    }

    fn fill_named(
        &self,
        draft: &Draft<'_>,
        info: &'static KernelInfo,
        batches: &[AnyBatch],
        param: &[u8],
    ) -> Result<Option<crate::arena::batch::Batch<u8>>> {
        let mut collector = Collector::new(&self.core.arena);
        batches.iter().for_each(|batch| collector.add_any(batch));
        let (references, _) = collector.finish()?;
        let packed = self.pack_bytes(param)?;
        let id = self.core.kernel_id(info)?;
        draft.set_call(kind::WHOLE, id, references.as_slice(), &packed.param);
        self.stamp(draft, 0);
        Ok(packed.block)
    }
}
