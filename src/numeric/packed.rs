//! Loops with the vector instructions that the processor has.
//!
//! For loops alone whose result is exact: it does not depend on the instructions by which it was made, so that a machine with
//! narrower ones gets the same bits.
//!
//! Laws of this file:
//! 1. A value of [`Wide`] exists only where the processor was asked and has AVX2.
//! 2. A [`Loop`] is safe code, and so is [`split_wide`]: compiled for more instructions, it needs a processor that has them and
//!    nothing else.
//! 3. A prefetch is a hint: it does not access memory as the program sees it, and any address will do.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64;

/// A loop that can be compiled for several kinds of processors.
pub(super) trait Loop {
    type Output;

    /// Must be `#[inline(always)]`, with all it calls: what is not inlined is compiled for the x86-64 of every machine.
    fn run(self) -> Self::Output;
}

/// Instructions for loops, and the type of packed numbers they work on.
pub(super) trait Instructions: Copy {
    /// Runs a loop. Never inlined: beside code that takes the lanes apart the compiler does not keep them in vectors.
    fn run<L: Loop>(self, body: L) -> L::Output;

    /// Each number as its leading bits and the rest, as [`split`] does it. For use in loops that these instructions run.
    fn split(self, values: [f64; 4]) -> [[f64; 2]; 4];
}

/// What every processor of the architecture has: 128 bits on x86-64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Narrow;

impl Instructions for Narrow {
    #[inline(never)]
    fn run<L: Loop>(self, body: L) -> L::Output {
        body.run()
    }

    #[inline(always)]
    fn split(self, values: [f64; 4]) -> [[f64; 2]; 4] {
        values.map(split)
    }
}

/// Clears the lower 26 bits of a fraction.
const LEADING: u64 = !((1 << 26) - 1);

/// A number as its leading 27 bits and the rest.
#[inline(always)]
pub(super) fn split(value: f64) -> [f64; 2] {
    let leading = f64::from_bits(value.to_bits() & LEADING);
    [leading, value - leading]
}

/// 256 bits.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide(());

#[cfg(target_arch = "x86_64")]
impl Wide {
    /// If the processor has them; asked once in a process.
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Instructions for Wide {
    #[inline(always)]
    fn run<L: Loop>(self, body: L) -> L::Output {
        #[target_feature(enable = "avx2")]
        #[inline(never)]
        fn with_avx2<L: Loop>(body: L) -> L::Output {
            body.run()
        }

        // SAFETY: the processor has AVX2 (law 1), and the function has no other condition (law 2).
        unsafe { with_avx2(body) }
    }

    #[inline(always)]
    fn split(self, values: [f64; 4]) -> [[f64; 2]; 4] {
        // SAFETY: the processor has AVX2 (law 1), and the function has no other condition (law 2).
        unsafe { split_wide(values) }
    }
}

/// [`split`] of four numbers at once. Spelled out: of a loop that also takes the numbers apart for their bins, the compiler makes one
/// for single numbers, which takes twice as long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn split_wide([a, b, c, d]: [f64; 4]) -> [[f64; 2]; 4] {
    let values = x86_64::_mm256_setr_pd(a, b, c, d);
    let leading = x86_64::_mm256_and_pd(values, x86_64::_mm256_set1_pd(f64::from_bits(LEADING)));
    let rest = x86_64::_mm256_sub_pd(values, leading);
    let even = bytemuck::cast::<_, [[f64; 2]; 2]>(x86_64::_mm256_unpacklo_pd(leading, rest));
    let odd = bytemuck::cast::<_, [[f64; 2]; 2]>(x86_64::_mm256_unpackhi_pd(leading, rest));
    [even[0], odd[0], even[1], odd[1]]
}

/// Asks memory for the element at a place, and for what is in its line of the cache. Nothing if there is none.
#[inline(always)]
pub(super) fn prefetch<T>(values: &[T], at: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let address = values.as_ptr().wrapping_add(at);
        // SAFETY: any address will do (law 3), and every x86-64 has the instruction.
        unsafe { x86_64::_mm_prefetch::<{ x86_64::_MM_HINT_T1 }>(address.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (values, at);
}
