//! What a kernel sees of one call: typed slices cut from checked addresses.
//!
//! Laws of this file:
//! 1. A [`Frame`] is made only from addresses that were resolved against a mapping, with their exact lengths, and that stay
//!    valid and untouched by others (outputs) or unwritten (inputs) for the frame's lifetime.
//! 2. Each output is handed out at most once, so no two exclusive slices overlap.
//! 3. Every element type is `Pod`: a wrong type can give wrong numbers, never undefined behaviour.
#![allow(unsafe_code)]

use core::mem::{align_of, size_of};
use core::ptr::NonNull;

use bytemuck::Pod;

use crate::engine::kernel::context::Context;
use crate::engine::kernel::error::KernelError;

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
    #[inline]
    pub(crate) fn new(start: NonNull<u8>, len_bytes: usize) -> Self {
        Self { start, len_bytes }
    }

    /// All its bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.start(), self.len_bytes())
    }

    /// Address of the first byte.
    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Moves on by `stride` bytes.
    ///
    /// # Safety
    /// The address must stay inside, or one past, the bytes the slice was cut from.
    #[inline]
    pub(crate) unsafe fn step(&mut self, stride: usize) {
        // SAFETY: by the caller's promise.
        self.start = unsafe { self.start.add(stride) };
    }

    /// Length in bytes.
    #[inline]
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The bytes `begin..end` of these; beyond the end there is nothing.
    #[inline]
    pub(crate) fn part(&self, begin: usize, end: usize) -> Self {
        let end = end.min(self.len_bytes);
        let begin = begin.min(end);
        // SAFETY: `begin` is at most the length, so the address stays inside or one past the bytes.
        Self { start: unsafe { self.start.add(begin) }, len_bytes: end - begin }
    }
}

/// One call of a kernel: its inputs, outputs, parameter and context, taken in the order of the kernel's signature.
///
/// Kernels made by [`#[kernel]`](macro@crate::kernel) use it; user code has no reason to.
#[derive(Debug)]
pub struct Frame<'f, 'c> {
    /// Inputs, then outputs.
    inputs: &'f [RawSlice],
    outputs: &'f [RawSlice],
    next_input: usize,
    next_output: usize,
    param: RawSlice,
    context: &'f mut Context<'c>,
}

impl<'f, 'c> Frame<'f, 'c> {
    /// A frame for one call.
    ///
    /// # Safety
    /// For `'f`, all slices and `param` must be mapped; nobody else may access the outputs, nor write the inputs and the
    /// parameter; outputs must not overlap each other, the inputs or the parameter (law 1).
    #[inline]
    pub(crate) unsafe fn new(
        inputs: &'f [RawSlice],
        outputs: &'f [RawSlice],
        param: RawSlice,
        context: &'f mut Context<'c>,
    ) -> Self {
        Self { inputs, outputs, next_input: 0, next_output: 0, param, context }
    }

    /// The next input.
    ///
    /// # Errors
    /// When the kernel takes more inputs, or others, than the job has.
    #[doc(hidden)]
    #[inline]
    pub fn input<T: Pod>(&mut self) -> Result<&'f [T], KernelError> {
        let slice = self.inputs.get(self.next_input).ok_or_else(KernelError::mismatch)?;
        self.next_input += 1;
        let (start, len) = typed::<T>(*slice)?;
        // SAFETY: the bytes are mapped and unwritten for `'f` (law 1), aligned and whole elements (just checked), and any
        // bytes are values of `T` (law 3).
        Ok(unsafe { core::slice::from_raw_parts(start.as_ptr(), len) })
    }

    /// The next output.
    ///
    /// # Errors
    /// As [`Frame::input`].
    #[doc(hidden)]
    #[inline]
    pub fn output<T: Pod>(&mut self) -> Result<&'f mut [T], KernelError> {
        let slice = self.outputs.get(self.next_output).ok_or_else(KernelError::mismatch)?;
        self.next_output += 1;
        let (start, len) = typed::<T>(*slice)?;
        // SAFETY: as in `input`; nobody else accesses the output (law 1) and it is handed out this once (law 2).
        Ok(unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) })
    }

    /// The parameter.
    ///
    /// # Errors
    /// When the job carries a parameter of another size.
    #[doc(hidden)]
    #[inline]
    pub fn param<P: Pod>(&self) -> Result<&'f P, KernelError> {
        if size_of::<P>() == 0 {
            // SAFETY: a zero-sized `Pod` type has exactly one value, which needs no memory.
            return Ok(unsafe { NonNull::<P>::dangling().as_ref() });
        }
        match typed::<P>(self.param)? {
            // SAFETY: one aligned value, mapped and unwritten for `'f` (law 1).
            (start, 1) => Ok(unsafe { start.as_ref() }),
            _ => Err(KernelError::mismatch()),
        }
    }

    /// What the kernel may ask about the call.
    #[doc(hidden)]
    #[inline]
    pub fn context(&mut self) -> &mut Context<'c> {
        self.context
    }
}

#[inline]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A handle that is one byte off gives an address that no element can have. Without the check of alignment a kernel would be handed such a
    /// slice, which is undefined behaviour; a mutation that dropped it survived all tests.
    #[test]
    fn slices_are_given_where_their_elements_can_lie_and_nowhere_else() {
        fn check<T: Pod>(memory: &[u128]) {
            let start = NonNull::from(memory).cast::<u8>();
            let whole = RawSlice::new(start, size_of_val(memory));
            for begin in 0..=32 {
                for len in 0..=48 {
                    let slice = whole.part(begin, begin + len);
                    let fits = len % size_of::<T>() == 0 && (len == 0 || begin % align_of::<T>() == 0);
                    let given = typed::<T>(slice).map(|(address, len)| (address.as_ptr().addr(), len)).ok();
                    let address = if len == 0 { align_of::<T>() } else { start.as_ptr().addr() + begin };
                    let wanted = fits.then_some((address, len / size_of::<T>()));
                    assert_eq!(given, wanted, "{len} bytes at {begin} as {}", core::any::type_name::<T>());
                }
            }
        }
        let memory = [0_u128; 8];
        check::<u8>(&memory);
        check::<u16>(&memory);
        check::<[u16; 3]>(&memory);
        check::<f32>(&memory);
        check::<u64>(&memory);
        check::<[f64; 3]>(&memory);
        check::<u128>(&memory);
        // Elements without bytes have no number.
        assert!(typed::<()>(RawSlice::new(NonNull::from(&memory).cast(), 16)).is_err());
        assert!(typed::<[u64; 0]>(RawSlice::EMPTY).is_err());
    }
}
