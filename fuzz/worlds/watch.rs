//! What the kernels of the fuzz targets do: they check where their slices lie, then read every input and write every output.
//!
//! A slice is checked against the mappings before it is touched, so that a handle that was resolved wrongly is a finding also
//! where the bytes it leads to happen to be mapped. The rules are those of `Frame::new`.

use core::cell::RefCell;

use bytemuck::Pod;

use crate::layout::records::INLINE_PARAM_LEN;

/// Kernel calls after which kernels fail, so that an input cannot ask for billions of them.
const CALLS_MAX: u64 = 4096;
/// Bytes that the kernels of one input touch at most.
const BYTES_MAX: usize = 4 << 20;

/// A mapping that slices may lie in. Two views of the same memory have the same `memory`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) memory: u32,
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) writable: bool,
}

#[derive(Default)]
struct Watch {
    regions: Vec<Region>,
    calls: u64,
    bytes: usize,
    violation: Option<String>,
}

thread_local! {
    static WATCH: RefCell<Watch> = RefCell::default();
}

/// Starts watching calls on this thread, whose slices must lie in `regions`.
pub(super) fn begin(regions: Vec<Region>) {
    WATCH.set(Watch { regions, ..Watch::default() });
}

/// Kernel calls since [`begin`].
///
/// # Panics
/// When a kernel was given slices that no kernel may see: a finding.
pub(super) fn calls() -> u64 {
    WATCH.with_borrow(|watch| {
        assert!(watch.violation.is_none(), "{}", watch.violation.as_deref().unwrap_or_default());
        watch.calls
    })
}

/// Where the bytes of an argument lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    start: usize,
    len: usize,
}

/// The bytes of a slice.
pub(super) fn span<T>(slice: &[T]) -> Span {
    Span { start: slice.as_ptr().addr(), len: size_of_val(slice) }
}

impl Watch {
    /// The memory that a span lies in, and its place there; `None` for a span of nothing.
    fn place(&self, span: Span, writable: bool) -> Result<Option<(u32, usize, usize)>, String> {
        if span.len == 0 {
            return Ok(None);
        }
        let home = self.regions.iter().find(|region| {
            span.start
                .checked_sub(region.start)
                .is_some_and(|offset| offset.checked_add(span.len).is_some_and(|end| end <= region.len))
        });
        match home {
            None => Err(format!("a kernel was given {span:x?}, which lies in no mapping: {:x?}", self.regions)),
            Some(home) if writable && !home.writable => {
                Err(format!("a kernel was given the output {span:x?}, which can only be read: {home:x?}"))
            }
            Some(home) => Ok(Some((home.memory, span.start - home.start, span.len))),
        }
    }

    fn check(&self, inputs: &[Span], outputs: &[Span], param: Option<Span>) -> Result<(), String> {
        let mut places = Vec::new();
        let arguments = outputs.iter().map(|span| (*span, true)).chain(inputs.iter().map(|span| (*span, false)));
        for (span, is_output) in arguments.chain(param.map(|span| (span, false))) {
            let place = self.place(span, is_output);
            // A short parameter travels in the descriptor and lies on the stack.
            if place.is_err() && param.is_some_and(|param| param == span && param.len <= INLINE_PARAM_LEN) {
                continue;
            }
            let Some((memory, start, len)) = place? else { continue };
            for &(other, other_start, other_len, other_is_output) in &places {
                let apart = other != memory || start + len <= other_start || other_start + other_len <= start;
                if !apart && (is_output || other_is_output) {
                    return Err(format!("an output overlaps another argument: {inputs:x?}, {outputs:x?}, {param:x?}"));
                }
            }
            places.push((memory, start, len, is_output));
        }
        Ok(())
    }
}

/// Counts a call, and says whether the kernel may touch its arguments.
///
/// # Errors
/// When the input has had its share of calls.
pub(super) fn enter(inputs: &[Span], outputs: &[Span], param: Option<Span>) -> Result<bool, &'static str> {
    WATCH.with_borrow_mut(|watch| {
        watch.calls += 1;
        if let Err(violation) = watch.check(inputs, outputs, param) {
            watch.violation.get_or_insert(violation);
            return Err("the arguments are not the kernel's");
        }
        watch.bytes += inputs.iter().chain(outputs).map(|span| span.len).sum::<usize>();
        if watch.calls > CALLS_MAX {
            return Err("enough calls were made");
        }
        Ok(watch.bytes <= BYTES_MAX)
    })
}

/// Reads a whole input.
pub(super) fn read<T: Pod>(slice: &[T]) {
    let sum = bytemuck::cast_slice::<T, u8>(slice).iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    std::hint::black_box(sum);
}

/// Writes a whole output.
pub(super) fn write<T: Pod>(slice: &mut [T]) {
    bytemuck::cast_slice_mut::<T, u8>(slice).fill(0x5A);
    std::hint::black_box(slice);
}

/// The bounds that the targets rely on are themselves right.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_no_kernel_may_see_are_found() {
        let read_write = Region { memory: 0, start: 4096, len: 4096, writable: true };
        let second_view = Region { memory: 0, start: 65536, len: 4096, writable: false };
        let watch = Watch { regions: vec![read_write, second_view], ..Watch::default() };
        let at = |start, len| Span { start, len };
        let check = |inputs: &[Span], outputs: &[Span]| watch.check(inputs, outputs, None).map_err(drop);
        assert_eq!(check(&[at(65536, 4096), at(65536, 8)], &[]), Ok(()), "inputs may be the same");
        assert_eq!(check(&[at(65536, 8)], &[at(4104, 4088)]), Ok(()));
        assert_eq!(check(&[at(1, 0)], &[at(1, 0)]), Ok(()), "nothing lies nowhere");
        assert_eq!(check(&[at(4095, 8)], &[]), Err(()));
        assert_eq!(check(&[], &[at(8184, 9)]), Err(()), "beyond the end");
        assert_eq!(check(&[], &[at(usize::MAX, 9)]), Err(()));
        assert_eq!(check(&[], &[at(65536, 8)]), Err(()), "not writable");
        assert_eq!(check(&[at(65536, 9)], &[at(4104, 8)]), Err(()), "the same memory in another view");
        assert_eq!(check(&[], &[at(4096, 9), at(4104, 8)]), Err(()));
        assert_eq!(watch.check(&[], &[at(4096, 8)], Some(at(1, 32))), Ok(()), "on the stack");
        assert!(watch.check(&[], &[at(4096, 8)], Some(at(4103, 32))).is_err());
        assert!(watch.check(&[], &[], Some(at(1, 64))).is_err());
    }
}
