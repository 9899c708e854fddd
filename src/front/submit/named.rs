//! Kernels by name, with batches whose types are known at run time: for programs that are told what to run.

use super::arguments::{Collector, Side};
use super::call_options::Terminal;
use super::job_builder::{JobBuilder, hand_over};
use crate::arena::any_batch::AnyBatch;
use crate::engine::kernel::{ElementLayout, KernelInfo};
use crate::engine::runtime::Reservation;
use crate::error::{Error, Failed, Result};
use crate::front::job::{Held, Job};

/// Checks one batch against what a kernel takes there.
fn check(batch: &AnyBatch, wanted: ElementLayout, is_output: bool, place: impl Fn() -> String) -> Result<()> {
    if is_output && !batch.is_writable() {
        return Err(Error::invalid(format!(
            "{} must be a Batch, which the kernel can write, not a SharedBatch",
            place()
        )));
    }
    // By type and not by size: another type of the same size gives wrong numbers without a word.
    if batch.element_id() == Some(wanted.type_id()) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} has elements of {}; the batch has {}",
        place(),
        wanted.type_name(),
        batch.element_name()
    )))
}

/// Checks what comes for a kernel against what it takes.
fn check_all(info: &KernelInfo, batches: &[AnyBatch], param: &[u8]) -> Result<()> {
    let (inputs, outputs) = (info.inputs(), info.outputs());
    if batches.len() != inputs.len() + outputs.len() {
        return Err(Error::invalid(format!(
            "kernel {} takes {} inputs and {} outputs, not {} batches",
            info.path(),
            inputs.len(),
            outputs.len(),
            batches.len()
        )));
    }
    for (at, (batch, wanted)) in batches.iter().zip(inputs.iter().chain(outputs)).enumerate() {
        let is_output = at >= inputs.len();
        check(batch, *wanted, is_output, || match is_output {
            true => format!("output {} of kernel {}", at - inputs.len(), info.path()),
            false => format!("input {at} of kernel {}", info.path()),
        })?;
    }
    if param.len() != info.param().size_bytes() {
        let (name, wanted) = (info.path(), info.param().size_bytes());
        return Err(Error::invalid(format!("kernel {name} takes a parameter of {wanted} bytes, not {}", param.len())));
    }
    Ok(())
}

/// The most candidates of a name that an error lists.
const LISTED_MAX: usize = 12;

/// What is said of several kernels, a few of them if they are many.
fn listed(said: &[String]) -> String {
    match said.len().checked_sub(LISTED_MAX) {
        None | Some(0) => said.join("; "),
        Some(more) => format!("{}; and {more} more", said[..LISTED_MAX].join("; ")),
    }
}

/// The one kernel that has this name, or this end of its path, and takes what comes for it.
///
/// # Errors
/// [`Error::InvalidArgument`] when there is none, with the reason for each that has the name, and when there are several, with their paths.
fn resolve(
    known: &[&'static KernelInfo],
    asked: &str,
    batches: &[AnyBatch],
    param: &[u8],
) -> Result<&'static KernelInfo> {
    let mut candidates: Vec<&'static KernelInfo> = Vec::new();
    for &info in known.iter().filter(|info| info.is_called(asked)) {
        if !candidates.iter().any(|known| core::ptr::eq(*known, info)) {
            candidates.push(info);
        }
    }
    if candidates.is_empty() {
        let mut names: Vec<&str> = Vec::new();
        for info in known {
            if !names.contains(&info.name()) {
                names.push(info.name());
            }
        }
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(Error::invalid(format!(
            "the engine knows no kernel of the name {asked:?}; those given to Builder::kernels are: {names}"
        )));
    }
    if let [one] = candidates[..] {
        return check_all(one, batches, param).map(|()| one);
    }
    let checked: Vec<_> = candidates.iter().map(|info| check_all(info, batches, param)).collect();
    let fitting: Vec<_> =
        candidates.iter().zip(&checked).filter(|(_, check)| check.is_ok()).map(|(info, _)| *info).collect();
    match fitting[..] {
        [one] => Ok(one),
        [] => {
            let reasons: Vec<String> =
                checked.iter().filter_map(|check| Some(check.as_ref().err()?.to_string())).collect();
            Err(Error::invalid(format!(
                "of the {} kernels of the name {asked:?} none fits: {}",
                reasons.len(),
                listed(&reasons)
            )))
        }
        _ => {
            let paths: Vec<String> =
                fitting.iter().map(|info| format!("{} version {}", info.path(), info.version())).collect();
            Err(Error::invalid(format!(
                "the name {asked:?} is that of {} kernels that fit: {}; ask for one by more of its path",
                paths.len(),
                listed(&paths)
            )))
        }
    }
}

impl JobBuilder<'_> {
    /// See [`Engine::submit_named`](crate::Engine::submit_named).
    ///
    /// # Errors
    /// As there.
    pub fn submit_named(
        self,
        kernel: &str,
        batches: Vec<AnyBatch>,
        param: &[u8],
    ) -> Result<Job<Held<Vec<AnyBatch>>>, Failed<Vec<AnyBatch>>> {
        let found = resolve(self.core.named(), kernel, &batches, param);
        let reserved = found.and_then(|info| Ok((info, self.reserve(Terminal::SubmitNamed)?)));
        let filled = reserved.and_then(|(info, reservation)| {
            let block = self.fill_named(&reservation, info, &batches, param)?;
            Ok((reservation, info, block))
        });
        match filled {
            Ok((reservation, kernel, block)) => {
                hand_over(self.core, reservation, self.options.priority, Held::new(batches, kernel, block))
            }
            Err(error) => Err(Failed::new(error, batches)),
        }
    }

    fn fill_named(
        &self,
        reservation: &Reservation<'_>,
        info: &'static KernelInfo,
        batches: &[AnyBatch],
        param: &[u8],
    ) -> Result<Option<crate::arena::batch::Batch<u8>>> {
        let mut collector = Collector::into(&self.core.arena, reservation.call_writer());
        for (at, batch) in batches.iter().enumerate() {
            let side = if at < info.inputs().len() { Side::Input } else { Side::Output };
            collector.add_any(side, batch);
        }
        collector.check(info)?;
        let packed = self.pack_bytes(param)?;
        collector.into_sink().finish_call(self.core.kernel_id(info)?, &packed.param);
        reservation.write_options(self.core.config.timing, &self.options, 0);
        Ok(packed.block)
    }
}
