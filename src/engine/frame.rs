//! What a kernel sees of one call: typed slices cut from checked addresses.
//!
//! Laws of this file:
//! 1. A [`Frame`] is made only from addresses that were resolved against a mapping, with their exact lengths, and that stay
//!    valid and untouched by others (outputs) or unwritten (inputs) for the frame's lifetime.
//! 2. Each output is handed out at most once, so no two exclusive slices overlap.
//! 3. Every element type is `Pod`: a wrong type can give wrong numbers, never undefined behaviour.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;

use bytemuck::Pod;

use super::context::Context;
use super::kernel::KernelError;
use crate::layout::records::MAX_BATCHES;

/// Bytes of one batch, or of a part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawSlice {
    start: NonNull<u8>,
    len_bytes: usize,
}

impl RawSlice {
    /// No bytes at all.
    pub(crate) const EMPTY: Self = Self { start: NonNull::<u128>::dangling().cast(), len_bytes: 0 };

    /// `len_bytes` bytes at `start`.
    pub(crate) fn new(start: NonNull<u8>, len_bytes: usize) -> Self {
        Self { start, len_bytes }
    }

    /// Address of the first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The bytes `begin..end` of these; beyond the end there is nothing.
    pub(crate) fn part(&self, begin: usize, end: usize) -> Self {
        let end = end.min(self.len_bytes);
        let begin = begin.min(end);
        // SAFETY: `begin` is at most the length, so the address stays inside or one past the bytes.
        Self { start: unsafe { self.start.add(begin) }, len_bytes: end - begin }
    }
}

/// One call of a kernel: its inputs, outputs, parameter and context, taken in the order of the kernel's signature.
///
/// Kernels made by [`kernel!`](crate::kernel) use it; user code has no reason to.
#[derive(Debug)]
pub struct Frame<'a> {
    slices: [RawSlice; MAX_BATCHES],
    inputs: usize,
    outputs: usize,
    next_input: usize,
    next_output: usize,
    param: RawSlice,
    context: Context<'a>,
    bytes: PhantomData<&'a mut [u8]>,
}

impl<'a> Frame<'a> {
    /// A frame over `slices`: `inputs` inputs, then `outputs` outputs.
    ///
    /// # Safety
    /// For `'a`, all slices and `param` must be mapped; nobody else may access the outputs, nor write the inputs and the
    /// parameter; outputs must not overlap each other, the inputs or the parameter (law 1).
    pub(crate) unsafe fn new(
        slices: [RawSlice; MAX_BATCHES],
        inputs: usize,
        outputs: usize,
        param: RawSlice,
        context: Context<'a>,
    ) -> Self {
        assert!(inputs + outputs <= MAX_BATCHES);
        Self { slices, inputs, outputs, next_input: 0, next_output: 0, param, context, bytes: PhantomData }
    }

    /// Points the frame at the next call of the same kernel, keeping its context.
    ///
    /// # Safety
    /// As [`Frame::new`], and no slice of the call before is in use any more.
    pub(crate) unsafe fn set(&mut self, at: usize, slice: RawSlice) {
        self.slices[at] = slice;
        self.next_input = 0;
        self.next_output = 0;
    }

    /// Points the frame at another parameter.
    ///
    /// # Safety
    /// As [`Frame::new`].
    pub(crate) unsafe fn set_param(&mut self, param: RawSlice) {
        self.param = param;
    }

    /// Moves all batches and the parameter on by their strides, to the next row.
    ///
    /// # Safety
    /// As [`Frame::new`] for the bytes it points at afterwards, and no slice of the row before is in use any more.
    pub(crate) unsafe fn next_row(&mut self, strides: &[usize; MAX_BATCHES], param_stride: usize) {
        for (slice, stride) in self.slices.iter_mut().zip(strides).take(self.inputs + self.outputs) {
            // SAFETY: the caller vouches for the bytes after the move.
            slice.start = unsafe { slice.start.add(*stride) };
        }
        // SAFETY: as above.
        self.param.start = unsafe { self.param.start.add(param_stride) };
        self.next_input = 0;
        self.next_output = 0;
    }

    /// The next input.
    ///
    /// # Errors
    /// When the kernel takes more inputs, or others, than the job has.
    #[doc(hidden)]
    pub fn input<T: Pod>(&mut self) -> Result<&'a [T], KernelError> {
        let at = self.next_input;
        if at >= self.inputs {
            return Err(KernelError::mismatch());
        }
        self.next_input += 1;
        let (start, len) = typed::<T>(self.slices[at])?;
        // SAFETY: the bytes are mapped and unwritten for `'a` (law 1), aligned and whole elements (just checked), and any
        // bytes are values of `T` (law 3).
        Ok(unsafe { core::slice::from_raw_parts(start.as_ptr(), len) })
    }

    /// The next output.
    ///
    /// # Errors
    /// As [`Frame::input`].
    #[doc(hidden)]
    pub fn output<T: Pod>(&mut self) -> Result<&'a mut [T], KernelError> {
        let at = self.next_output;
        if at >= self.outputs {
            return Err(KernelError::mismatch());
        }
        self.next_output += 1;
        let (start, len) = typed::<T>(self.slices[self.inputs + at])?;
        // SAFETY: as in `input`; nobody else accesses the output (law 1) and it is handed out this once (law 2).
        Ok(unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) })
    }

    /// The parameter.
    ///
    /// # Errors
    /// When the job carries a parameter of another size.
    #[doc(hidden)]
    pub fn param<P: Pod>(&self) -> Result<&'a P, KernelError> {
        if size_of::<P>() == 0 {
            // SAFETY: a zero-sized `Pod` type has exactly one value, which needs no memory.
            return Ok(unsafe { NonNull::<P>::dangling().as_ref() });
        }
        match typed::<P>(self.param)? {
            // SAFETY: one aligned value, mapped and unwritten for `'a` (law 1).
            (start, 1) => Ok(unsafe { start.as_ref() }),
            _ => Err(KernelError::mismatch()),
        }
    }

    /// What the kernel may ask about the call.
    #[doc(hidden)]
    pub fn context(&mut self) -> &mut Context<'a> {
        &mut self.context
    }
}

fn typed<T: Pod>(slice: RawSlice) -> Result<(NonNull<T>, usize), KernelError> {
    if size_of::<T>() == 0 || !slice.len_bytes.is_multiple_of(size_of::<T>()) {
        return Err(KernelError::mismatch());
    }
    if slice.len_bytes == 0 {
        return Ok((NonNull::dangling(), 0));
    }
    if !(slice.start.as_ptr() as usize).is_multiple_of(align_of::<T>()) {
        return Err(KernelError::mismatch());
    }
    Ok((slice.start.cast(), slice.len_bytes / size_of::<T>()))
}
