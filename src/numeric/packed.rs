//! Loops with the vector instructions that the processor has.
//!
//! For loops alone whose result is exact: it does not depend on the instructions by which it was made, so that a machine with
//! narrower ones gets the same bits.
//!
//! Laws of this file:
//! 1. A value of [`Wide`] exists only where the processor was asked and has AVX2.
//! 2. A [`Loop`] is safe code: compiled for more instructions, it needs a processor that has them and nothing else.
#![allow(unsafe_code)]

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
}

/// What every processor of the architecture has: 128 bits on x86-64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Narrow;

impl Instructions for Narrow {
    #[inline(never)]
    fn run<L: Loop>(self, body: L) -> L::Output {
        body.run()
    }
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
}
