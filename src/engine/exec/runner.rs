//! Running kernels over resolved calls: whole batches, chunks, rows.
//!
//! Laws of this file:
//! 1. A call is run only by the thread that claimed its descriptor, or by the caller of a blocking call; its outputs were handed over
//!    exclusively (by value, or by the exclusive borrow of a call that does not return before everybody is done), its inputs
//!    are not written meanwhile.
//! 2. Two participants of one fan-out never run the same chunk, and the outputs of two chunks, or of two rows, do not overlap.
//!    What a call writes was collected as its outputs: both sides were compared with the kernel's (`call.rs`).
//! 3. A frame's slices are not used after its kernel returned or unwound.
#![allow(unsafe_code)]

use core::cell::Cell;
use core::marker::PhantomData;
use core::ops::Range;

use crate::arena::{Access, Arena};
use crate::engine::job::Plan;
use crate::engine::job::RunError;
use crate::engine::job::call::KernelCall;
use crate::engine::kernel::KernelError;
use crate::engine::kernel::{Context, JobProbe, StopSignals};
use crate::engine::kernel::{Frame, RawSlice};
use crate::error::{Error, Result};
use crate::ids::ParticipantSlot;
use crate::layout::records::{MAX_BATCHES, MAX_OUTPUTS};
use crate::panics::{Panicked, catch};

/// The longest whole input, in bytes, that a participant brings in before its first chunk. A kernel may read a few elements of a longer one,
/// whose pages then come on first touch.
const WHOLE_FAULTED_IN_MAX: usize = 64 << 20;

#[inline]
fn flatten(result: core::result::Result<core::result::Result<(), KernelError>, Box<Panicked>>) -> Result<(), RunError> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(panicked) => Err(RunError::Panicked(panicked)),
    }
}

/// Drops what the worker keeps if a kernel panicked, which may have left it half changed.
#[inline]
fn forget_after_panic(result: &Result<(), RunError>, context: &mut Context<'_>) {
    if matches!(result, Err(RunError::Panicked(_))) {
        context.forget_locals();
    }
}

/// Runs a kernel once over whole batches. What it said about the lengths of its outputs comes into `lens`.
#[inline]
pub(in crate::engine) fn run_call<'a, const N: usize>(
    job: &'a dyn JobProbe,
    call: &KernelCall<N>,
    worker: ParticipantSlot,
    signals: StopSignals<'a>,
    arena: &'a Arena,
    lens: &mut [usize; MAX_OUTPUTS],
) -> Result<(), RunError> {
    let info = call.info;
    let (inputs, outputs) = call.slices().split_at(info.inputs().len());
    let mut context = Context::of_job(job, u32::from(worker.get()), signals, arena);
    context.place(0, 0..call.first_len(), 0);
    // SAFETY: the slices were resolved against the mapping and belong to this call alone (law 1); `call`, and with it an
    // inline parameter, outlives the frame.
    let mut frame = unsafe { Frame::new(inputs, outputs, call.param(), &mut context) };
    let result = flatten(catch(|| info.run(&mut frame)));
    forget_after_panic(&result, &mut context);
    match result {
        Ok(()) if context.saw_stop() => Err(RunError::Cancelled),
        Ok(()) => {
            *lens = context.output_lens();
            Ok(())
        }
        Err(run_error) => Err(run_error),
    }
}

/// Runs a kernel over the chunks of a plan.
pub(crate) struct ChunkRunner<'a> {
    call: &'a KernelCall,
    plan: Plan,
    /// The parts of the batches that belong to the chunk at hand. Those of whole inputs are the same for all chunks.
    parts: [RawSlice; MAX_BATCHES],
    context: Context<'a>,
}

impl<'a> ChunkRunner<'a> {
    /// A runner for one participant.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the lengths of the batches do not fit the plan; [`check_lengths`] refuses such calls before.
    pub(crate) fn new(
        call: &'a KernelCall,
        plan: Plan,
        worker: u32,
        signals: StopSignals<'a>,
        arena: &'a Arena,
    ) -> Result<Self> {
        check_lengths(call, &plan).map_err(|_| Error::Corrupt {
            what: "batch lengths",
            offset: 0,
            expected: 0,
            found: 0,
        })?;
        let context = Context::in_call(worker, signals, arena, plan.total_len);
        let mut parts = [RawSlice::EMPTY; MAX_BATCHES];
        for (at, slice) in call.slices().iter().enumerate().filter(|(at, _)| call.is_whole(*at)) {
            if slice.len_bytes() <= WHOLE_FAULTED_IN_MAX {
                arena.fault_in(slice.bytes(), slice.bytes(), Access::Read);
            }
            parts[at] = *slice;
        }
        Ok(Self { call, plan, parts, context })
    }

    /// Runs one chunk of batches in `arena`.
    pub(crate) fn run(&mut self, chunk: u32, arena: &Arena) -> Result<(), RunError> {
        let (range, input_range) = (self.plan.range(chunk), self.plan.input_range(chunk));
        let info = self.call.info;
        let inputs = info.inputs().len();
        for (at, slice) in self.call.slices().iter().enumerate() {
            if self.call.is_whole(at) {
                continue;
            }
            let size = self.call.element_size(at);
            let elements = if at < inputs {
                input_range.clone()
            } else {
                self.plan.output_range(at - inputs, slice.len_bytes() / size, chunk)
            };
            let part = slice.part(elements.start.saturating_mul(size), elements.end.saturating_mul(size));
            arena.fault_in(slice.bytes(), part.bytes(), if at < inputs { Access::Read } else { Access::Write });
            self.parts[at] = part;
        }
        let halo_before = range.start - input_range.start;
        self.context.place(chunk as usize, range, halo_before);
        let (inputs, outputs) = self.parts[..self.call.slices().len()].split_at(inputs);
        // SAFETY: the parts lie inside slices of the call; this participant alone runs the chunk and no other chunk has an
        // output element in common with it (law 2).
        let mut frame = unsafe { Frame::new(inputs, outputs, self.call.param(), &mut self.context) };
        let result = flatten(catch(|| info.run(&mut frame)));
        forget_after_panic(&result, &mut self.context);
        result
    }

    /// Whether the kernel was told to stop: it may have returned early.
    pub(crate) fn saw_stop(&self) -> bool {
        self.context.saw_stop()
    }
}

/// Checks that every input that is not seen whole has the plan's length, and every output that length or, where the plan says so, a fixed number of elements per
/// chunk.
pub(crate) fn check_lengths(call: &KernelCall, plan: &Plan) -> Result<()> {
    let inputs = call.info.inputs().len();
    for (at, slice) in call.slices().iter().enumerate().filter(|(at, _)| !call.is_whole(*at)) {
        let len = slice.len_bytes() / call.element_size(at);
        let expected = if at < inputs { plan.total_len } else { plan.output_len(at - inputs, len) };
        if len != expected {
            let what = if at < inputs { format!("input {at}") } else { format!("output {}", at - inputs) };
            return Err(Error::LengthMismatch { what, found: len as u64, expected: expected as u64 });
        }
    }
    Ok(())
}

/// Runs a kernel once for each row: row `i` of every batch that is not seen whole, and parameter `i`.
pub(crate) struct RowRunner<'a> {
    call: &'a KernelCall,
    rows: usize,
    params: RawSlice,
    strides: [usize; MAX_BATCHES],
    param_stride: usize,
    context: Context<'a>,
}

impl<'a> RowRunner<'a> {
    /// A runner for one participant. `params` holds one parameter per row.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when a batch that is not seen whole, or the parameters, cannot be cut into `rows` equal parts.
    pub(crate) fn new(
        call: &'a KernelCall,
        rows: usize,
        params: RawSlice,
        worker: u32,
        signals: StopSignals<'a>,
        arena: &'a Arena,
    ) -> Result<Self> {
        let corrupt = |found: usize| Error::Corrupt {
            what: "length of a batch of rows",
            offset: 0,
            expected: rows as u64,
            found: found as u64,
        };
        let mut strides = [0; MAX_BATCHES];
        // A whole input moves on by nothing from row to row.
        for (at, slice) in call.slices().iter().enumerate().filter(|(at, _)| !call.is_whole(*at)) {
            let (len, size) = (slice.len_bytes(), call.element_size(at));
            if rows == 0 || !(len / size).is_multiple_of(rows) {
                return Err(corrupt(len));
            }
            strides[at] = len / rows;
        }
        let param_stride = call.info.param().size_bytes();
        if params.len_bytes() != param_stride * rows {
            return Err(corrupt(params.len_bytes()));
        }
        Ok(Self { call, rows, params, strides, param_stride, context: Context::new(worker, signals, arena) })
    }

    /// The slices of one row.
    fn row(&self, row: usize) -> [RawSlice; MAX_BATCHES] {
        let mut parts = [RawSlice::EMPTY; MAX_BATCHES];
        for (at, (slice, stride)) in self.call.slices().iter().zip(self.strides).enumerate() {
            let is_whole = self.call.is_whole(at);
            parts[at] = if is_whole { *slice } else { slice.part(row * stride, (row + 1) * stride) };
        }
        parts
    }

    /// Runs the rows of `range`; `failed` is told of each that fails or panics. The others run all the same.
    pub(crate) fn run(&mut self, range: Range<usize>, mut failed: impl FnMut(usize, RunError)) {
        let end = range.end.min(self.rows);
        let (info, count) = (self.call.info, self.call.slices().len());
        let inputs = info.inputs().len();
        let mut from = range.start;
        while from < end {
            let mut parts = self.row(from);
            let mut param = self.params.part(from * self.param_stride, (from + 1) * self.param_stride);
            let row = Cell::new(from);
            let context = &mut self.context;
            let result = catch(|| {
                loop {
                    let at = row.get();
                    context.place(at, at..at + 1, 0);
                    let (inputs, outputs) = parts[..count].split_at(inputs);
                    // SAFETY: the row lies inside the slices of the call and only this participant runs it (law 2); the
                    // parameter is one of a batch that is read only.
                    info.run(&mut unsafe { Frame::new(inputs, outputs, param, context) })?;
                    row.set(at + 1);
                    if at + 1 == end {
                        return Ok(());
                    }
                    for (part, stride) in parts[..count].iter_mut().zip(&self.strides) {
                        // SAFETY: row `at + 1` lies before `end`, so inside the batch.
                        unsafe { part.step(*stride) };
                    }
                    // SAFETY: as above, for the batch of parameters.
                    unsafe { param.step(self.param_stride) };
                }
            });
            let result = flatten(result);
            forget_after_panic(&result, &mut self.context);
            if let Err(run_error) = result {
                failed(row.get(), run_error);
            }
            from = row.get() + 1;
        }
    }

    /// Whether the kernel was told to stop: it may have returned early.
    pub(crate) fn saw_stop(&self) -> bool {
        self.context.saw_stop()
    }
}

/// An output slice that the participants of one call cut into disjoint parts.
pub(crate) struct DisjointParts<'a, T> {
    start: *mut T,
    len: usize,
    elements: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts are exclusive slices of disjoint elements (law 2), so sharing the splitter is sending `&mut [T]`s.
unsafe impl<T: Send> Sync for DisjointParts<'_, T> {}

impl<'a, T> DisjointParts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), elements: PhantomData }
    }

    /// The elements of `range`, clipped to the slice.
    ///
    /// # Safety
    /// No two parts in use at the same time may have an element in common.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for disjoint parts")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        let end = range.end.min(self.len);
        let begin = range.start.min(end);
        // SAFETY: the range lies inside the slice, which is borrowed exclusively for as long as `self` lives, and the caller
        // vouches that nobody else uses these elements.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(begin), end - begin) }
    }
}

impl<T> DisjointParts<'_, T> {
    /// The elements of one chunk, for the participant that took the chunk from a range: it is the only one (law 2).
    #[expect(clippy::mut_from_ref, reason = "every chunk is taken once")]
    pub(crate) fn chunk(&self, plan: &Plan, chunk: u32) -> &mut [T] {
        // SAFETY: ranges hand out every chunk once, and chunks of one plan are disjoint.
        unsafe { self.part(plan.range(chunk)) }
    }
}

/// Notes that a row failed, in its status byte.
pub(crate) fn mark_row(status: RawSlice, row: usize, kind: u8) {
    if row < status.len_bytes() {
        // SAFETY: the byte lies inside the status bytes, which only the participant that runs the row writes, and which are
        // read only after everybody is done (law 1).
        unsafe { status.start().add(row).write(kind) };
    }
}
