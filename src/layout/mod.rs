//! Floor 2, what the bytes of the control segment mean: sizes, offsets, words and records, without any policy.
//!
//! The control segment is one mapping that every participant shares. `docs/layout.md` has the byte tables; the asserts in
//! [`records`] and [`geometry`] hold the code to them.
//!
//! | part | unit | count |
//! |---|---|---|
//! | header | 4096 B | 1 |
//! | participants | 128 B | up to 256 |
//! | idle line (idle and searching bitmaps) | 64 B | 1 |
//! | rings, one per priority | 128 B head and tail lines + 8 B per cell | 3 |
//! | descriptors | 128 B | a power of two |
//! | further arguments | 192 B | one per descriptor |
//! | failure texts | 512 B | one per descriptor |
//! | completion ports | 64 B + one bit per descriptor | 64 |
//! | redelivery bitmap | one bit per descriptor | 1 |
//!
//! Invariant: nothing in it is a pointer, `usize`, `bool`, `char`, enum or `Option`; every word is an atomic of one fixed size.

#[cfg(all(target_os = "linux", not(workring_loom)))]
pub(crate) mod channel;
#[cfg(not(workring_loom))]
pub(crate) mod geometry;
pub(crate) mod records;
#[cfg(not(workring_loom))]
pub(crate) mod view;
pub(crate) mod words;
