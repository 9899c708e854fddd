//! Writing a job into the place that was reserved for it.

use crate::engine::job::call::{Param, References};
use crate::engine::options::{JobOptions, Retry};
use crate::engine::runtime::{Core, Reservation};
use crate::layout::records::kind;
use crate::os::host::Deadline;

/// The job is a call of a kernel for each row of its batches.
pub(crate) fn set_rows(reservation: &Reservation<'_>, kernel: u32, references: &References, param: &Param) {
    reservation.set_call(kind::ROWS, kernel, references, param);
}

/// Writes what the options say, after what the job is to run; `rows` of a job of rows, else 0. Its deadline begins now.
#[inline]
pub(crate) fn stamp(core: &Core, reservation: &Reservation<'_>, options: &JobOptions, rows: u64) {
    let deadline = options.deadline.and_then(Deadline::of_limit);
    reservation.set_deadline(deadline);
    reservation.set_part(rows, 0, options.retry.map_or(0, Retry::limit));
    reservation.write_meta(core.config.timing, options, deadline);
}
