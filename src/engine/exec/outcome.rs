//! How a job ended: written by the thread that ran it, read by the thread that holds it.

use crate::engine::job::RunError;
use crate::engine::job::call;
use crate::engine::job::failure_text;
use crate::engine::job::meta::deadline_of;
use crate::engine::job::status_of;
use crate::engine::runtime::Core;
use crate::error::Error;
use crate::ids::DescriptorIndex;
use crate::layout::records::{Descriptor, kind, status};
use crate::lockfree::job;
use crate::sync::Ordering;

/// Writes why a job did not succeed, before it is finished.
pub(super) fn write_outcome(core: &Core, index: DescriptorIndex, descriptor: &Descriptor, run_error: &RunError) {
    let (code, message, location) = match run_error {
        RunError::Failed(message) => (status::KERNEL_FAILED, message.as_str(), ""),
        RunError::Panicked(panicked) => {
            (status::KERNEL_PANICKED, panicked.message.as_str(), panicked.location.as_str())
        }
        RunError::Corrupt => (status::CORRUPT, "", ""),
        RunError::Cancelled => (status::CANCELLED, "", ""),
        RunError::Deadline => (status::DEADLINE, "", ""),
        RunError::OutOfMemory => (status::OUT_OF_MEMORY, "", ""),
    };
    if code <= status::KERNEL_PANICKED
        && let Some(record) = core.control.failure(index)
    {
        failure_text::write(record, message, location);
    }
    descriptor.status.store(code, Ordering::Relaxed);
}

/// Name of the kernel in a descriptor, for messages.
fn kernel_name(core: &Core, descriptor: &Descriptor) -> String {
    if call::kind_of(descriptor) == kind::CLOSURE {
        return "closure".to_owned();
    }
    core.kernel(descriptor.kernel.load(Ordering::Relaxed))
        .map_or_else(|| "unknown".to_owned(), |info| info.name().to_owned())
}

/// The error of a finished job whose word has the outcome flag.
pub(crate) fn outcome_of(core: &Core, index: DescriptorIndex) -> Option<Error> {
    let descriptor = core.control.descriptor(index)?;
    let code = status_of(descriptor, job::snapshot(&descriptor.word));
    let text = || core.control.failure(index).map(failure_text::read);
    Some(match code {
        status::KERNEL_FAILED => {
            Error::KernelFailed { kernel: kernel_name(core, descriptor), message: text()?.message }
        }
        status::KERNEL_PANICKED => {
            let text = text()?;
            Error::KernelPanicked {
                kernel: kernel_name(core, descriptor),
                message: text.message,
                location: text.location,
            }
        }
        // A job that was taken back at its deadline, before anybody began it.
        status::CANCELLED if deadline_of(descriptor).is_some_and(|deadline| deadline.is_past()) => {
            core.shortage().unwrap_or(Error::DeadlineExceeded)
        }
        status::CANCELLED => core.health.error().unwrap_or(Error::Cancelled),
        status::SHORTENED => return None,
        status::DEADLINE => Error::DeadlineExceeded,
        status::WORKER_DIED if core.health.error().is_some() => core.health.error()?,
        status::WORKER_DIED => {
            let (pid, exit, attempt) = failure_text::read_death(core.control.failure(index)?);
            Error::WorkerDied { pid, exit, kernel: kernel_name(core, descriptor), attempt }
        }
        status::OUT_OF_MEMORY => {
            let statistics = core.arena.statistics();
            let free = statistics.capacity - statistics.in_use;
            Error::OutOfMemory { requested: 0, free, capacity: statistics.capacity }
        }
        code => Error::Corrupt { what: "descriptor", offset: 0, expected: 0, found: u64::from(code) },
    })
}
