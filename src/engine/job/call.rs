//! One kernel call as it travels: gathered from typed batches, written into a descriptor, read back and resolved.

use core::ptr::NonNull;

use bytemuck::Pod;

use crate::arena::{Access, Arena};
use crate::engine::job::table::Reservation;
use crate::engine::kernel::KernelInfo;
use crate::engine::kernel::RawSlice;
use crate::error::{Error, Result};
use crate::ids::DescriptorIndex;
use crate::layout::records::{
    BatchReference, Descriptor, INLINE_BATCHES, INLINE_PARAM_LEN, MAX_BATCHES, MAX_OUTPUTS, kind,
};
use crate::layout::view::Control;
use crate::layout::words::{JobShape, LEN_NOT_SAID, check, opened_len, sealed_len};
use crate::os::host::Deadline;
use crate::sync::{AtomicU64, Ordering};

/// Handles and lengths in bytes of a call's batches, at most `N`: inputs first, then outputs, and how many of each. What was collected as an
/// input is only read, and only what was collected as an output is written: a thread that runs the call compares both numbers with what the
/// kernel says.
#[derive(Clone, Copy, Debug)]
pub struct References<const N: usize = MAX_BATCHES> {
    entries: [(u64, u64); N],
    inputs: usize,
    outputs: usize,
}

impl<const N: usize> References<N> {
    /// No batch yet.
    #[inline]
    pub(crate) const fn new() -> Self {
        Self { entries: [(0, 0); N], inputs: 0, outputs: 0 }
    }

    /// The batches: inputs, then outputs.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[(u64, u64)] {
        &self.entries[..self.inputs + self.outputs]
    }
}

/// What takes the handles and lengths of a call's batches, inputs before outputs; the attributes of kernels and the implementations for
/// tuples keep within the limits, and what is beyond them is not taken.
pub trait BatchSink {
    /// Takes an input.
    fn push_input(&mut self, reference: (u64, u64));

    /// Takes an output.
    fn push_output(&mut self, reference: (u64, u64));

    /// How many inputs and outputs were taken.
    fn sides(&self) -> (usize, usize);
}

impl<const N: usize> BatchSink for References<N> {
    #[inline]
    fn push_input(&mut self, reference: (u64, u64)) {
        debug_assert!(self.outputs == 0, "inputs come first");
        if let Some(place) = self.entries.get_mut(self.inputs) {
            *place = reference;
            self.inputs += 1;
        }
    }

    #[inline]
    fn push_output(&mut self, reference: (u64, u64)) {
        if let Some(place) = self.entries.get_mut(self.inputs + self.outputs) {
            *place = reference;
            self.outputs += 1;
        }
    }

    #[inline]
    fn sides(&self) -> (usize, usize) {
        (self.inputs, self.outputs)
    }
}

/// Checks that a call has as many inputs, and as many outputs, as the kernel says that it takes.
///
/// # Errors
/// [`Error::InvalidArgument`] when its description says something else than its types.
#[inline]
pub(crate) fn check_sides(sides: (usize, usize), info: &KernelInfo) -> Result<()> {
    if sides == (info.inputs().len(), info.outputs().len()) { Ok(()) } else { Err(unfit(sides, info)) }
}

#[cold]
fn unfit((inputs, outputs): (usize, usize), info: &KernelInfo) -> Error {
    Error::invalid(format!(
        "kernel {} takes {} inputs and {} outputs and was given {inputs} and {outputs}: its description contradicts its types",
        info.name(),
        info.inputs().len(),
        info.outputs().len(),
    ))
}

impl References {
    /// These batches.
    #[cfg(any(test, workring_fuzzing))]
    pub(crate) fn of(inputs: &[(u64, u64)], outputs: &[(u64, u64)]) -> Self {
        let mut references = Self::new();
        inputs.iter().for_each(|input| references.push_input(*input));
        outputs.iter().for_each(|output| references.push_output(*output));
        references
    }
}

/// The parameter's bytes, aligned for any `Pod` type that fits: no type is aligned beyond its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(32))]
pub(crate) struct ParamBytes([u8; INLINE_PARAM_LEN]);

impl ParamBytes {
    /// No parameter.
    pub(crate) const fn zeroed() -> Self {
        Self([0; INLINE_PARAM_LEN])
    }
}

/// A parameter on its way: inline where it fits, else in a block of the arena that the job's holder keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Param {
    Inline(ParamBytes, u32),
    Block {
        handle: u64,
        len: u32,
    },
    /// Those of a job of rows: a batch of parameters, of `len` bytes each, and the statuses of the rows.
    Rows {
        params: u64,
        statuses: u64,
        len: u32,
    },
}

impl Param {
    /// Whether a parameter of type `P` travels inside the descriptor.
    pub(crate) const fn is_inline<P>() -> bool {
        size_of::<P>() <= INLINE_PARAM_LEN && align_of::<P>() <= 64
    }

    /// A parameter that fits into the descriptor.
    pub(crate) fn inline<P: Pod>(value: &P) -> Self {
        let bytes = bytemuck::bytes_of(value);
        let mut packed = [0; INLINE_PARAM_LEN];
        packed[..bytes.len()].copy_from_slice(bytes);
        Self::Inline(ParamBytes(packed), bytes.len() as u32)
    }

    /// As [`Param::inline`], for bytes; `None` when they do not fit.
    pub(crate) fn inline_bytes(bytes: &[u8]) -> Option<Self> {
        let mut packed = [0; INLINE_PARAM_LEN];
        packed.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self::Inline(ParamBytes(packed), bytes.len() as u32))
    }
}

/// A call of at most `N` batches, which were found in memory.
pub(crate) struct KernelCall<const N: usize = MAX_BATCHES> {
    pub(crate) info: &'static KernelInfo,
    slices: [RawSlice; N],
    count: usize,
    param: Param,
    param_block: RawSlice,
}

#[cold]
fn corrupt(what: &'static str, expected: u64, found: u64) -> Error {
    Error::Corrupt { what, offset: 0, expected, found }
}

/// Numbers of inputs and outputs as one, for messages.
fn sides(inputs: usize, outputs: usize) -> u64 {
    inputs as u64 | (outputs as u64) << 4
}

/// Whether two resolved pieces of memory, each a handle and a length in bytes, have a byte in common.
#[inline]
fn overlap((first, first_len): (u64, u64), (second, second_len): (u64, u64)) -> bool {
    // Resolved, so neither sum leaves its segment. Pieces of different segments are apart by their numbers.
    first_len > 0 && second_len > 0 && first < second + second_len && second < first + first_len
}

impl<const N: usize> KernelCall<N> {
    /// A call whose batches are yet to be found.
    #[inline]
    fn unresolved(info: &'static KernelInfo, param: Param) -> Self {
        Self { info, slices: [RawSlice::EMPTY; N], count: 0, param, param_block: RawSlice::EMPTY }
    }

    /// Finds the batches of a call, checking counts and element sizes against the kernel's signature.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they do not fit: typed calls always do, a damaged descriptor may not.
    pub(crate) fn resolve(
        arena: &Arena,
        info: &'static KernelInfo,
        references: &References<N>,
        param: Param,
    ) -> Result<Self> {
        let mut call = Self::unresolved(info, param);
        call.find_batches(arena, references)?;
        Ok(call)
    }

    // In place: a call is a few hundred bytes, and small ones are resolved millions of times a second.
    #[inline]
    fn find_batches(&mut self, arena: &Arena, references: &References<N>) -> Result<()> {
        let (inputs, outputs) = (self.info.inputs(), self.info.outputs());
        // By side: what was handed over to be read would be written otherwise.
        if references.sides() != (inputs.len(), outputs.len()) {
            let (wanted, (inputs, outputs)) = (sides(inputs.len(), outputs.len()), references.sides());
            return Err(corrupt("number of inputs, and of outputs times 16", wanted, sides(inputs, outputs)));
        }
        let named = references.as_slice();
        self.count = named.len();
        for (at, &(handle, len)) in named.iter().enumerate() {
            let (layout, access) = match inputs.get(at) {
                Some(layout) => (layout, Access::Read),
                None => (&outputs[at - inputs.len()], Access::Write),
            };
            if !layout.fills(len) {
                return Err(corrupt("length of a batch", layout.size_bytes() as u64, len));
            }
            self.slices[at] = RawSlice::new(arena.resolve_for(handle, len, access)?, len as usize);
            // By handle: a worker process sees inputs and outputs at different addresses.
            if access == Access::Write && named[..at].iter().any(|other| overlap(*other, (handle, len))) {
                return Err(corrupt("an output that overlaps another batch", 0, handle));
            }
        }
        let param_len = match self.param {
            // Those of rows are looked at row by row.
            Param::Inline(_, len) | Param::Rows { len, .. } => len,
            Param::Block { handle, len } => {
                self.param_block = RawSlice::new(arena.resolve(handle, u64::from(len))?, len as usize);
                if named[inputs.len()..].iter().any(|output| overlap(*output, (handle, u64::from(len)))) {
                    return Err(corrupt("an output that overlaps the parameter", 0, handle));
                }
                len
            }
        };
        let expected = self.info.param().size_bytes() as u64;
        if u64::from(param_len) == expected {
            Ok(())
        } else {
            Err(corrupt("length of the parameter", expected, u64::from(param_len)))
        }
    }

    /// The batches: inputs, then outputs.
    #[inline]
    pub(crate) fn slices(&self) -> &[RawSlice] {
        &self.slices[..self.count]
    }

    /// Whether an output has a byte in common with these, which were resolved for writing.
    pub(crate) fn writes_to(&self, bytes: RawSlice) -> bool {
        let place = |slice: &RawSlice| (slice.start().as_ptr() as u64, slice.len_bytes() as u64);
        let outputs = self.slices().iter().skip(self.info.inputs().len());
        outputs.map(place).any(|output| overlap(output, place(&bytes)))
    }

    /// Where the parameter lies; inside `self` when it travelled in the descriptor.
    #[inline]
    pub(crate) fn param(&self) -> RawSlice {
        match &self.param {
            Param::Inline(bytes, len) => RawSlice::new(NonNull::from(&bytes.0).cast(), *len as usize),
            Param::Block { .. } | Param::Rows { .. } => self.param_block,
        }
    }

    /// Elements of the first output, or when there is no output of the first input that chunks have parts of.
    #[inline]
    pub(crate) fn first_len(&self) -> usize {
        let (inputs, outputs) = (self.info.inputs(), self.info.outputs());
        let (at, layout) = match outputs.first() {
            Some(layout) => (inputs.len(), Some(layout)),
            None => {
                let at = (0..inputs.len()).find(|&at| !self.info.is_whole(at)).unwrap_or(inputs.len());
                (at, inputs.get(at))
            }
        };
        match (self.slices().get(at), layout) {
            // No more than the length in bytes, which is a `usize`.
            (Some(slice), Some(layout)) => layout.elements_in(slice.len_bytes() as u64) as usize,
            _ => 0,
        }
    }

    /// Whether batch `at` is an input that each chunk, or row, sees whole.
    #[inline]
    pub(crate) fn is_whole(&self, at: usize) -> bool {
        at < self.info.inputs().len() && self.info.is_whole(at)
    }

    /// Element size of batch `at`, in bytes.
    #[inline]
    pub(crate) fn element_size(&self, at: usize) -> usize {
        let inputs = self.info.inputs();
        let layout = inputs.get(at).or_else(|| self.info.outputs().get(at.wrapping_sub(inputs.len())));
        layout.map_or(1, |layout| layout.size_bytes().max(1))
    }
}

#[inline]
fn place<'a>(
    control: &'a Control,
    index: DescriptorIndex,
    descriptor: &'a Descriptor,
    at: usize,
) -> Option<&'a BatchReference> {
    match at.checked_sub(INLINE_BATCHES) {
        None => descriptor.batches.get(at),
        Some(further) => control.arguments(index)?.batches.get(further),
    }
}

/// Fields of a job as its submitter wrote them, copied into private memory and checked; with room for `N` batches.
#[derive(Clone, Copy)]
pub(crate) struct Fields<const N: usize = MAX_BATCHES> {
    /// One of `records::kind`.
    pub(crate) kind: u32,
    /// The number of its kernel, which no submitter names in a damaged descriptor.
    pub(in crate::engine) kernel: u32,
    param: Param,
    references: References<N>,
    /// In a partition the handle of its fan-out block, in a job of rows their number.
    pub(crate) fan_out: u64,
    /// Which range of the fan-out is the claimer's.
    pub(crate) partition: u32,
    /// How often the job may be started again.
    pub(crate) retries: u32,
}

/// The check over the fields of a job as its submitter wrote it, and over what was found.
pub(in crate::engine) struct Check {
    written: u32,
    found: u32,
}

impl Check {
    /// # Errors
    /// [`Error::Corrupt`] when the fields are not what the submitter wrote.
    #[inline]
    pub(in crate::engine) fn confirm(&self) -> Result<()> {
        // Fuzz targets look at what lies behind the check, which somebody could make fit.
        if self.written == self.found || cfg!(workring_fuzzing) {
            Ok(())
        } else {
            Err(corrupt("fields of a job", self.written.into(), self.found.into()))
        }
    }
}

/// The words of a parameter, zero where there are none, and its length.
#[inline]
fn param_words(param: &Param) -> ([u64; INLINE_PARAM_LEN / 8], u32) {
    let mut words = [0; INLINE_PARAM_LEN / 8];
    match param {
        Param::Inline(bytes, len) => {
            for (word, bytes) in words.iter_mut().zip(bytes.0.chunks_exact(8)) {
                *word = bytes.try_into().map_or(0, u64::from_le_bytes);
            }
            (words, *len)
        }
        Param::Block { handle, len } => {
            words[0] = *handle;
            (words, *len)
        }
        Param::Rows { params, statuses, len } => {
            words[0] = *params;
            words[1] = *statuses;
            (words, *len)
        }
    }
}

/// What a call without its batches adds to the check of its job, whose shape adds itself.
#[inline]
fn check_of_call(kernel: u32, param: &Param) -> u64 {
    use crate::layout::words::check::{KERNEL, PARAM, PARAM_LEN, field};
    let (words, len) = param_words(param);
    let mut sum = field(KERNEL, u64::from(kernel));
    if !matches!(param, Param::Inline(..)) {
        sum ^= field(PARAM_LEN, u64::from(len));
    }
    // Those that are not in use are zero, and add nothing.
    for (at, &word) in words.iter().enumerate() {
        sum ^= field(PARAM + at as u32, word);
    }
    sum
}

/// What a batch adds, by its place.
#[inline]
fn check_of_batch(at: usize, (handle, len_bytes): (u64, u64)) -> u64 {
    use crate::layout::words::check::{BATCHES, field};
    let place = BATCHES + 2 * at as u32;
    field(place, handle) ^ field(place + 1, len_bytes)
}

impl<E> Reservation<'_, E> {
    /// Writes the call into the descriptor; once.
    pub(crate) fn set_call(&self, kind: u32, kernel: u32, references: &References, param: &Param) {
        let mut writer = self.call_writer();
        for (at, &reference) in references.as_slice().iter().enumerate() {
            if at < references.inputs { writer.push_input(reference) } else { writer.push_output(reference) }
        }
        writer.finish(kind, kernel, param);
    }

    /// Makes the job a call of a kernel for each row of its batches; once.
    pub(crate) fn set_rows(&self, kernel: u32, references: &References, param: &Param) {
        self.set_call(kind::ROWS, kernel, references, param);
    }

    /// Writes the call into the descriptor batch by batch; once.
    #[inline]
    pub(crate) fn call_writer(&self) -> CallWriter<'_, E> {
        CallWriter { reservation: self, inputs: 0, outputs: 0 }
    }

    /// Makes the job a closure, which lies in the private slot; once.
    #[inline]
    pub(crate) fn set_closure(&self) {
        self.shape.set(self.shape.get().with(kind::CLOSURE));
    }

    /// Writes which part of which fan-out the job is, or how many rows it has, and how often it may be started again; at most once.
    #[inline]
    pub(crate) fn set_part(&self, fan_out: u64, partition: u32, retries: u32) {
        let part = pack_part(partition, retries);
        if fan_out == 0 && part == 0 {
            return;
        }
        self.descriptor.fan_out.store(fan_out, Ordering::Relaxed);
        self.descriptor.part.store(part, Ordering::Relaxed);
        self.shape.set(self.shape.get().with(JobShape::PART));
        self.add_to_check(check::field(check::FAN_OUT, fan_out) ^ check::field(check::PART, u64::from(part)));
    }

    /// Writes when the job is late, if it has a deadline; at most once.
    #[inline]
    pub(in crate::engine) fn set_deadline(&self, deadline: Option<Deadline>) {
        if let Some(deadline) = deadline {
            // No part of the check: it changes when a job whose time begins with its start is started.
            self.descriptor.deadline_ns.store(deadline.nanoseconds(), Ordering::Relaxed);
            self.shape.set(self.shape.get().with(JobShape::DEADLINE));
        }
    }

    /// Says that the metadata has something about the job.
    pub(super) fn set_has_meta(&self) {
        self.shape.set(self.shape.get().with(JobShape::META));
    }

    /// Says that the job's deadline begins with its start.
    pub(super) fn set_starts_deadline(&self) {
        if !self.shape.get().has(JobShape::DEADLINE) {
            self.descriptor.deadline_ns.store(0, Ordering::Relaxed);
            self.shape.set(self.shape.get().with(JobShape::DEADLINE));
        }
    }

    /// Writes the shape, and the check over all fields written so far; `ring` is the number of the one that the job comes into.
    #[inline]
    pub(in crate::engine) fn seal(&self, ring: usize) {
        let shape = self.shape.get().with_priority(ring).bits();
        let sum = self.check.get() ^ check::field(check::SHAPE, u64::from(shape));
        self.descriptor.shape.store(shape, Ordering::Relaxed);
        self.descriptor.check.store(check::folded(sum), Ordering::Relaxed);
    }

    #[inline]
    fn add_to_check(&self, sum: u64) {
        self.check.set(self.check.get() ^ sum);
    }
}

/// Writes the batches of a call where they travel, and then the call.
pub(crate) struct CallWriter<'r, E> {
    reservation: &'r Reservation<'r, E>,
    inputs: usize,
    outputs: usize,
}

impl<E> CallWriter<'_, E> {
    /// Writes a batch; whether there is a place for it.
    #[inline]
    fn write(&self, (handle, len_bytes): (u64, u64)) -> bool {
        let Reservation { control, index, descriptor, .. } = *self.reservation;
        let at = self.inputs + self.outputs;
        let Some(place) = place(control, index, descriptor, at) else { return false };
        // Relaxed, both, and all in `finish`: the publication (R1) makes them visible.
        place.handle.store(handle, Ordering::Relaxed);
        place.len_bytes.store(len_bytes, Ordering::Relaxed);
        self.reservation.add_to_check(check_of_batch(at, (handle, len_bytes)));
        true
    }

    /// Makes the job one call of a kernel on the batches as a whole.
    #[inline]
    pub(crate) fn finish_call(self, kernel: u32, param: &Param) {
        self.finish(kind::CALL, kernel, param);
    }

    /// Writes what is called with the batches.
    #[inline]
    fn finish(self, kind: u32, kernel: u32, param: &Param) {
        let Self { reservation, inputs, outputs } = self;
        let descriptor = reservation.descriptor;
        descriptor.kernel.store(kernel, Ordering::Relaxed);
        let (words, len) = param_words(param);
        let [first, further @ ..] = words;
        descriptor.param.store(first, Ordering::Relaxed);
        let inline_len = matches!(param, Param::Inline(..)).then_some(len);
        if inline_len.is_none_or(|len| len > 8) {
            for (place, word) in descriptor.further_param.iter().zip(further) {
                place.store(word, Ordering::Relaxed);
            }
        }
        if inline_len.is_none() {
            descriptor.param_len.store(len, Ordering::Relaxed);
        }
        let shape = JobShape::of_kind(kind).with_sides(inputs, outputs).with_param(inline_len);
        reservation.shape.set(reservation.shape.get().with(shape.bits()));
        reservation.add_to_check(check_of_call(kernel, param));
    }
}

impl<E> BatchSink for CallWriter<'_, E> {
    #[inline]
    fn push_input(&mut self, reference: (u64, u64)) {
        debug_assert!(self.outputs == 0, "inputs come first");
        self.inputs += usize::from(self.write(reference));
    }

    #[inline]
    fn push_output(&mut self, reference: (u64, u64)) {
        self.outputs += usize::from(self.write(reference));
    }

    #[inline]
    fn sides(&self) -> (usize, usize) {
        (self.inputs, self.outputs)
    }
}

fn pack_part(partition: u32, retries: u32) -> u32 {
    partition & 0xFFFF | retries.min(0xFFFF) << 16
}

impl<const N: usize> Fields<N> {
    /// The fields of a published job, each read once. `shape` was read from it, and names at most `N` batches; that of a closure has no fields.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they are not what the submitter wrote.
    pub(crate) fn read(
        control: &Control,
        index: DescriptorIndex,
        descriptor: &Descriptor,
        shape: JobShape,
    ) -> Result<Self> {
        let (fields, check) = Self::read_unchecked(control, index, descriptor, shape);
        check.confirm()?;
        Ok(fields)
    }

    /// As [`Fields::read`], but what the check says comes beside the fields, which are to be used only if it [holds](Check::confirm): small
    /// jobs are read millions of times a second, and a result of their size would be moved about.
    #[inline]
    pub(in crate::engine) fn read_unchecked(
        control: &Control,
        index: DescriptorIndex,
        descriptor: &Descriptor,
        shape: JobShape,
    ) -> (Self, Check) {
        // Relaxed, all: acquired with the word (A1).
        let kernel = descriptor.kernel.load(Ordering::Relaxed);
        let param = param_of(shape, descriptor);
        let (inputs, outputs) = shape.sides();
        let shape_sum = check::field(check::SHAPE, u64::from(shape.bits()));
        let mut sum = check::EMPTY ^ shape_sum ^ check_of_call(kernel, &param);
        let mut references = References::new();
        for at in 0..(inputs + outputs).min(N) {
            let Some(place) = place(control, index, descriptor, at) else { break };
            let reference = (place.handle.load(Ordering::Relaxed), place.len_bytes.load(Ordering::Relaxed));
            sum ^= check_of_batch(at, reference);
            if at < inputs { references.push_input(reference) } else { references.push_output(reference) }
        }
        let (mut fan_out, mut part) = (0, 0);
        if shape.has(JobShape::PART) {
            fan_out = descriptor.fan_out.load(Ordering::Relaxed);
            part = descriptor.part.load(Ordering::Relaxed);
            sum ^= check::field(check::FAN_OUT, fan_out) ^ check::field(check::PART, u64::from(part));
        }
        let check = Check { written: descriptor.check.load(Ordering::Relaxed), found: check::folded(sum) };
        let (partition, retries) = (part & 0xFFFF, part >> 16);
        (Self { kind: shape.kind(), kernel, param, references, fan_out, partition, retries }, check)
    }

    /// The call, its batches yet to be found.
    #[inline]
    pub(in crate::engine) fn unresolved(&self, info: &'static KernelInfo) -> KernelCall<N> {
        KernelCall::unresolved(info, self.param)
    }

    /// Finds the batches of the call in memory, and checks them against the kernel's signature.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for whatever does not fit it.
    #[inline]
    pub(in crate::engine) fn resolve(&self, call: &mut KernelCall<N>, arena: &Arena) -> Result<()> {
        call.find_batches(arena, &self.references)
    }
}

impl Fields {
    /// The handles of a job of rows.
    pub(crate) fn rows(&self) -> Option<(u64, u64)> {
        match self.param {
            Param::Rows { params, statuses, .. } => Some((params, statuses)),
            _ => None,
        }
    }

    /// Writes the call into a partition of the job.
    pub(in crate::engine) fn copy_call_to<E>(&self, partition: &Reservation<'_, E>) {
        let param = match self.param {
            // Partitions find their parameters by the block of the fan-out; here only the length counts.
            Param::Rows { len, .. } if len as usize <= INLINE_PARAM_LEN => Param::Inline(ParamBytes::zeroed(), len),
            Param::Rows { params, len, .. } => Param::Block { handle: params, len },
            param => param,
        };
        partition.set_call(kind::PARTITION, self.kernel, &self.references, &param);
    }
}

/// Keeps what a kernel said about the lengths of its outputs, for the holder of the job.
#[cold]
pub(crate) fn write_output_lens(control: &Control, index: DescriptorIndex, lens: [usize; MAX_OUTPUTS]) {
    let Some(arguments) = control.arguments(index) else { return };
    // Relaxed: published by the finish (R3).
    for (place, len) in arguments.output_lens.iter().zip(lens) {
        place.store(if len == usize::MAX { LEN_NOT_SAID } else { sealed_len(len as u64) }, Ordering::Relaxed);
    }
}

/// The lengths, in elements, of the outputs that the kernel of a finished job shortened, by their number.
///
/// # Errors
/// [`Error::Corrupt`] when they are not what the worker wrote.
pub(crate) fn shortened(control: &Control, index: DescriptorIndex) -> Result<[Option<usize>; MAX_OUTPUTS]> {
    let mut lens = [None; MAX_OUTPUTS];
    let Some(arguments) = control.arguments(index) else { return Ok(lens) };
    for (len, word) in lens.iter_mut().zip(&arguments.output_lens) {
        // Relaxed: acquired with the word that says Done (A3).
        let word = word.load(Ordering::Relaxed);
        let found = opened_len(word).ok_or_else(|| corrupt("length of an output", 0, word))?;
        *len = (word != LEN_NOT_SAID).then(|| usize::try_from(found).unwrap_or(usize::MAX));
    }
    Ok(lens)
}

/// What the job in a descriptor is; anything in a damaged one.
#[inline]
pub(crate) fn shape_of(descriptor: &Descriptor) -> JobShape {
    JobShape::from_bits(descriptor.shape.load(Ordering::Relaxed))
}

/// Kind of the job in a descriptor: one of `records::kind`, or anything in a damaged one.
#[inline]
pub(crate) fn kind_of(descriptor: &Descriptor) -> u32 {
    shape_of(descriptor).kind()
}

/// How many rows the job in a descriptor has, if it is one of rows.
pub(crate) fn rows_of(descriptor: &Descriptor) -> u64 {
    if shape_of(descriptor).has(JobShape::PART) { descriptor.fan_out.load(Ordering::Relaxed) } else { 0 }
}

/// The parameter of a descriptor, each word read once.
#[inline]
fn param_of(shape: JobShape, descriptor: &Descriptor) -> Param {
    let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let Some(len) = shape.inline_param_len() else {
        let (first, len) = (word(&descriptor.param), descriptor.param_len.load(Ordering::Relaxed));
        return if shape.kind() == kind::ROWS {
            Param::Rows { params: first, statuses: word(&descriptor.further_param[0]), len }
        } else {
            Param::Block { handle: first, len }
        };
    };
    let mut bytes = [0u8; INLINE_PARAM_LEN];
    bytes[..8].copy_from_slice(&word(&descriptor.param).to_le_bytes());
    if len > 8 {
        for (place, bytes) in descriptor.further_param.iter().zip(bytes[8..].chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word(place).to_le_bytes());
        }
    }
    Param::Inline(ParamBytes(bytes), len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arena::{ArenaConfig, Backing};
    use crate::engine::job::table::JobTable;
    use crate::engine::kernel::Kernel;
    use crate::layout::records::Arguments;
    use crate::sync::AtomicU32;

    #[crate::kernel]
    fn copy(x: &[u64], y: &mut [u64], z: &mut [u64], p: &[u64; 8]) {
        y.copy_from_slice(x);
        z.fill(p[0]);
    }

    #[crate::kernel]
    fn fill(y: &mut [u64], p: &u64) {
        y.fill(*p);
    }

    fn arena() -> std::sync::Arc<Arena> {
        let backing = Backing::Anonymous;
        Arena::create(&ArenaConfig {
            placement: Default::default(),
            capacity: 4096,
            retain: 0,
            backing,
            large_pages: false,
            prefault: false,
        })
        .unwrap()
    }

    /// A descriptor whose output is moved over its input must not give the kernel an exclusive slice and a shared one of the same bytes:
    /// undefined behaviour in the engine's own threads, by way of words that a worker process can write.
    #[test]
    fn an_output_that_overlaps_another_argument_is_refused() {
        let arena = arena();
        let resolve = |x, y, z, param| {
            let param = Param::Block { handle: param, len: 64 };
            let references = References::of(&[(x, 64)], &[(y, 64), (z, 64)]);
            let call = KernelCall::resolve(&arena, copy.info(), &references, param);
            call.map(|_| ()).map_err(|error| matches!(error, Error::Corrupt { .. }))
        };
        assert_eq!(resolve(0, 64, 128, 192), Ok(()));
        assert_eq!(resolve(192, 128, 64, 0), Ok(()));
        for (x, y, z, param) in [
            (0, 0, 128, 192),
            (0, 56, 128, 192),
            (8, 64, 128, 192),
            (0, 64, 120, 192),
            (0, 64, 128, 184),
            (0, 64, 128, 72),
        ] {
            assert_eq!(resolve(x, y, z, param), Err(true), "{x} {y} {z} {param}");
        }
    }

    /// A descriptor says on which side its batches are: else a batch that was handed over to be read would be written under the number of
    /// another kernel, as one damaged word gives it.
    #[test]
    fn batches_of_another_side_are_refused() {
        let arena = arena();
        let batches = [(0, 64), (64, 64), (128, 64)];
        let param = Param::Block { handle: 192, len: 64 };
        for inputs in 0..=3 {
            let references = References::of(&batches[..inputs], &batches[inputs..]);
            let call = KernelCall::resolve(&arena, copy.info(), &references, param);
            assert_eq!(call.is_ok(), inputs == 1, "{inputs} inputs");
            assert_eq!(check_sides(references.sides(), copy.info()).is_ok(), inputs == 1, "{inputs} inputs");
        }
    }

    /// A parameter of another length is noticed by `resolve`, before the kernel's frame.
    #[test]
    fn a_parameter_of_another_length_is_refused() {
        let arena = arena();
        let references = References::of(&[(0, 64)], &[(64, 64), (128, 64)]);
        for len in 0..=128 {
            let param = Param::Block { handle: 192, len };
            let found =
                KernelCall::resolve(&arena, copy.info(), &references, param).map(|call| call.param().len_bytes());
            assert_eq!(found.ok(), (len == 64).then_some(64), "{len} bytes in a block");
        }
        let references = References::of(&[], &[(64, 64)]);
        for len in 0..=INLINE_PARAM_LEN as u32 {
            let param = Param::Inline(ParamBytes::zeroed(), len);
            let found =
                KernelCall::resolve(&arena, fill.info(), &references, param).map(|call| call.param().len_bytes());
            assert_eq!(found.ok(), (len == 8).then_some(8), "{len} bytes inside the descriptor");
        }
    }

    /// A length that is no whole number of elements is refused before the kernel's frame, which would tell of the kernel and not of the damage, and
    /// before the length in elements is taken, which would lose the bytes behind the last one.
    #[test]
    fn parts_of_elements_are_refused() {
        let arena = arena();
        for len in 0..=72 {
            for (at, other) in [(64, len), (len, 64)] {
                let references = References::of(&[(0, at)], &[(128, other), (256, 64)]);
                let call = KernelCall::resolve(&arena, copy.info(), &references, Param::Block { handle: 384, len: 64 });
                assert_eq!(
                    call.ok().map(|call| call.first_len() as u64),
                    (len % 8 == 0).then_some(other / 8),
                    "{len} bytes"
                );
            }
        }
    }

    /// Where the arena ends a parameter in a block does too, as batches do.
    #[test]
    fn a_parameter_that_ends_beyond_the_arena_is_refused() {
        let arena = arena();
        // The last handle of a byte, and the first of none.
        let (mut inside, mut beyond) = (0, 1 << 40);
        while beyond - inside > 1 {
            let middle = (inside + beyond) / 2;
            if arena.resolve(middle, 1).is_ok() { inside = middle } else { beyond = middle }
        }
        let references = References::of(&[(0, 64)], &[(64, 64), (128, 64)]);
        for handle in beyond - 128..beyond + 2 {
            let param = Param::Block { handle, len: 64 };
            let call = KernelCall::resolve(&arena, copy.info(), &references, param);
            assert_eq!(call.is_ok(), handle + 64 <= beyond, "{handle} of {beyond}");
        }
    }

    /// A table of descriptors that one process alone uses, and one call of any kind and size after the other in one of them.
    struct Written {
        control: Control,
        table: JobTable<()>,
    }

    impl Written {
        fn new() -> Self {
            Self { control: Control::create(64, 2, false).unwrap(), table: JobTable::new(64, true) }
        }

        /// Writes a call, changes what lies in memory, and reads it back.
        fn read(&self, call: &AnyCall, change: impl FnOnce(&Descriptor, &Arguments)) -> Result<Fields> {
            let reservation = self.table.try_reserve(&self.control).unwrap();
            reservation.set_call(call.kind, call.kernel, &call.references(), &call.param);
            reservation.set_part(call.fan_out, call.partition, call.retries);
            reservation.seal(1);
            change(reservation.descriptor, self.control.arguments(reservation.index).unwrap());
            let descriptor = reservation.descriptor;
            Fields::read(&self.control, reservation.index, descriptor, shape_of(descriptor))
        }
    }

    #[derive(Clone, Debug)]
    struct AnyCall {
        kind: u32,
        kernel: u32,
        inputs: Vec<(u64, u64)>,
        outputs: Vec<(u64, u64)>,
        param: Param,
        fan_out: u64,
        partition: u32,
        retries: u32,
    }

    impl AnyCall {
        fn references(&self) -> References {
            References::of(&self.inputs, &self.outputs)
        }
    }

    fn params() -> impl Strategy<Value = (u32, Param)> {
        let bytes = prop::collection::vec(any::<u8>(), 0..=INLINE_PARAM_LEN);
        let beyond = INLINE_PARAM_LEN as u32 + 1;
        prop_oneof![
            4 => bytes.prop_map(|bytes| (kind::CALL, Param::inline_bytes(&bytes).unwrap())),
            1 => (any::<u64>(), beyond..beyond + 20).prop_map(|(handle, len)| (kind::PARTITION, Param::Block { handle, len })),
            1 => (any::<u64>(), beyond..=u32::MAX).prop_map(|(handle, len)| (kind::CALL, Param::Block { handle, len })),
            1 => any::<(u64, u64, u32)>()
                .prop_map(|(params, statuses, len)| (kind::ROWS, Param::Rows { params, statuses, len })),
        ]
    }

    fn calls() -> impl Strategy<Value = AnyCall> {
        let batches = |most| prop::collection::vec(any::<(u64, u64)>(), 0..=most);
        let part = (any::<u64>(), any::<u16>(), any::<u32>());
        (params(), any::<u32>(), batches(MAX_BATCHES - MAX_OUTPUTS), batches(MAX_OUTPUTS), part).prop_map(
            |((kind, param), kernel, inputs, outputs, (fan_out, partition, retries))| AnyCall {
                kind,
                kernel,
                inputs,
                outputs,
                param,
                fan_out,
                partition: partition.into(),
                retries,
            },
        )
    }

    proptest! {
        /// What an earlier call left in the descriptor is in the way of none that comes later, however much longer it was.
        #[test]
        fn a_call_is_read_as_it_was_written(calls in prop::collection::vec(calls(), 1..5)) {
            let written = Written::new();
            for call in &calls {
                let fields = written.read(call, |_, _| {}).unwrap();
                prop_assert_eq!((fields.kind, fields.kernel, fields.fan_out), (call.kind, call.kernel, call.fan_out));
                prop_assert_eq!((fields.partition, fields.retries), (call.partition, call.retries.min(0xFFFF)));
                prop_assert_eq!(fields.references.sides(), (call.inputs.len(), call.outputs.len()));
                prop_assert_eq!(fields.references.as_slice().to_vec(), [&call.inputs[..], &call.outputs].concat());
                prop_assert_eq!(&fields.param, &call.param);
            }
        }

        /// Every word of a call that a reader believes is under its check.
        #[test]
        fn a_flipped_bit_of_a_call_is_noticed(call in calls(), bit in 0..64_u32) {
            let written = Written::new();
            let flip_half = |word: &AtomicU32| {
                word.fetch_xor(1 << (bit % 32), Ordering::Relaxed);
            };
            let flip_whole = |word: &AtomicU64| {
                word.fetch_xor(1 << bit, Ordering::Relaxed);
            };
            let batches = call.references().as_slice().len();
            for at in 0..batches {
                let flip = |descriptor: &Descriptor, arguments: &Arguments| {
                    let mut all = descriptor.batches.iter().chain(&arguments.batches);
                    let place = all.nth(at).expect("as many as a call can have");
                    let word = if bit % 2 == 0 { &place.handle } else { &place.len_bytes };
                    flip_whole(word);
                };
                prop_assert!(written.read(&call, flip).is_err(), "batch {}", at);
            }
            let (words, is_inline) = match call.param {
                Param::Inline(_, len) => (len.div_ceil(8), true),
                Param::Block { .. } => (1, false),
                Param::Rows { .. } => (2, false),
            };
            for at in 0..words as usize {
                let flip = |descriptor: &Descriptor, _: &Arguments| {
                    let mut all = core::iter::once(&descriptor.param).chain(&descriptor.further_param);
                    flip_whole(all.nth(at).expect("as many as a parameter can have"));
                };
                prop_assert!(written.read(&call, flip).is_err(), "word {} of the parameter", at);
            }
            let has_part = call.fan_out != 0 || call.partition != 0 || call.retries != 0;
            for (what, is_read, word) in [
                ("kernel", true, (|it| &it.kernel) as fn(&Descriptor) -> &AtomicU32),
                ("length of the parameter", !is_inline, |it| &it.param_len),
                ("part", has_part, |it| &it.part),
                ("check", true, |it| &it.check),
                ("shape", true, |it| &it.shape),
            ] {
                let found = written.read(&call, |descriptor, _| flip_half(word(descriptor)));
                prop_assert_eq!(found.is_err(), is_read, "{}", what);
            }
            let found = written.read(&call, |descriptor, _| flip_whole(&descriptor.fan_out));
            prop_assert_eq!(found.is_err(), has_part, "fan-out");
        }
    }

    #[test]
    fn the_same_input_twice_and_empty_outputs_are_no_overlap() {
        assert!(!overlap((0, 0), (0, 64)) && !overlap((32, 0), (0, 64)) && !overlap((0, 64), (64, 1)));
        assert!(overlap((0, 64), (63, 1)) && overlap((63, 1), (0, 64)) && overlap((0, 8), (0, 8)));
        assert!(!overlap((0, 64), (1 << 48, 64)));
    }
}
