//! Ready-made kernels for [`Engine::map`](crate::Engine::map), [`Engine::reduce`](crate::Engine::reduce) and the other calls:
//! one module per element type.
//!
//! They run the functions of [`numeric`](crate::numeric) chunk by chunk, and promise what is promised there. Reducers give
//! the same bits for any number of workers.
//!
//! # Examples
//! ```
//! use workring::{Engine, kernels};
//!
//! # fn main() -> workring::Result<()> {
//! let engine = Engine::builder().threads(2).build()?;
//! let x = engine.batch_from_slice(&[1.0, 4.0, 9.0])?;
//! let mut y = engine.batch::<f64>(3)?;
//! engine.map(kernels::f64::sqrt, &x, &mut y, &())?;
//! assert_eq!(*y, [1.0, 2.0, 3.0]);
//! assert_eq!(engine.reduce(kernels::f64::sum, &y)?.value(), 6.0);
//! assert_eq!(engine.reduce(kernels::f64::dot, (&x, &y))?.value(), 36.0);
//! assert_eq!(engine.reduce(kernels::f64::stats, &x)?.max(), 9.0);
//! # Ok(())
//! # }
//! ```

use crate::engine::kernel::KernelInfo;

/// Declares reducers and kernels, and with them `list`, which names every one of them: none can be left out.
macro_rules! listed {
    (
        reducers {
            $(
                $(#[$reducer_meta:meta])*
                pub fn $reducer:ident ($($reducer_args:tt)*) -> $accumulator:ty $fold:block
                combine($left:ident, $right:ident) $combine:block
            )*
        }
        kernels {
            $($(#[$kernel_meta:meta])* pub fn $kernel:ident ($($kernel_args:tt)*) -> $returned:ty $body:block)*
        }
    ) => {
        crate::reducer! {
            $(
                $(#[$reducer_meta])*
                pub fn $reducer($($reducer_args)*) -> $accumulator $fold
                combine($left, $right) $combine
            )*
        }

        crate::kernel! {
            $($(#[$kernel_meta])* pub fn $kernel($($kernel_args)*) -> $returned $body)*
        }

        /// The kernels of this module.
        pub(super) fn list() -> Vec<&'static super::KernelInfo> {
            use crate::engine::kernel::Kernel;
            vec![$(Kernel::info($reducer),)* $(Kernel::info($kernel)),*]
        }
    };
}

/// The kernels that exist for every element type, and those in `kernels`.
macro_rules! items {
    ($ty:ident kernels $kernels:tt) => {
        use crate::numeric::{self, Accumulator as _, Element, Stats};

        listed! { reducers {
            /// The sum: see [`numeric::sum`].
            pub fn sum(x: &[$ty]) -> <$ty as Element>::Sum { numeric::sum(x) }
            combine(left, right) { left.combine(right) }

            /// The sum of products: see [`numeric::dot`].
            pub fn dot(x: &[$ty], y: &[$ty]) -> <$ty as Element>::Sum { <$ty as Element>::fold_dot(x, y) }
            combine(left, right) { left.combine(right) }

            /// The smallest element: see [`numeric::min`].
            pub fn min(x: &[$ty]) -> $ty { numeric::min(x) }
            combine(left, right) { Element::smaller(left, right) }

            /// The largest element: see [`numeric::max`].
            pub fn max(x: &[$ty]) -> $ty { numeric::max(x) }
            combine(left, right) { Element::larger(left, right) }

            /// Count, missing values, extrema, sum, mean and spread: see [`numeric::stats`].
            pub fn stats(x: &[$ty]) -> Stats { numeric::stats(x) }
            combine(left, right) { left.combine(right) }
        } kernels $kernels }
    };
}

macro_rules! integers {
    ($($ty:ident $name:literal)*) => {
        $(
            #[doc = concat!("Kernels over `", $name, "`.")]
            pub mod $ty {
                items!($ty kernels {});
            }
        )*
    };
}

macro_rules! floats {
    ($($ty:ident $name:literal)*) => {
        $(
            #[doc = concat!("Kernels over `", $name, "`.")]
            pub mod $ty {
                use crate::error::Error;

                /// The parameter of [`affine`].
                #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
                #[repr(C)]
                pub struct Affine {
                    /// Factor.
                    pub a: $ty,
                    /// Summand.
                    pub b: $ty,
                }

                /// The parameter of [`clamp`].
                #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
                #[repr(C)]
                pub struct Bounds {
                    /// Smaller elements become this.
                    pub lower: $ty,
                    /// Larger elements become this.
                    pub upper: $ty,
                }

                items! { $ty kernels {
                    /// `y[i] = a * x[i] + b`: see [`numeric::affine`].
                    pub fn affine(x: &[$ty], y: &mut [$ty], p: &Affine) -> Result<(), Error> { numeric::affine(x, y, p.a, p.b) }

                    /// `y[i] = sqrt(x[i])`: see [`numeric::sqrt`].
                    pub fn sqrt(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::sqrt(x, y) }

                    /// `y[i] = exp(x[i])`: see [`numeric::exp`].
                    pub fn exp(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::exp(x, y) }

                    /// `y[i] = ln(x[i])`: see [`numeric::ln`].
                    pub fn ln(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::ln(x, y) }

                    /// `y[i] = |x[i]|`: see [`numeric::abs`].
                    pub fn abs(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::abs(x, y) }

                    /// `y[i] = x[i] * x[i]`: see [`numeric::square`].
                    pub fn square(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::square(x, y) }

                    /// `y[i] = -x[i]`: see [`numeric::negate`].
                    pub fn negate(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::negate(x, y) }

                    /// `y[i] = 1 / x[i]`: see [`numeric::reciprocal`].
                    pub fn reciprocal(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::reciprocal(x, y) }

                    /// `y[i]` is `x[i]` within the bounds: see [`numeric::clamp`].
                    pub fn clamp(x: &[$ty], y: &mut [$ty], p: &Bounds) -> Result<(), Error> {
                        numeric::clamp(x, y, p.lower, p.upper)
                    }
                } }
            }
        )*
    };
}

/// The modules, and with them the list of all their kernels.
macro_rules! modules {
    (integers { $($integer:ident $integer_name:literal)* } floats { $($float:ident $float_name:literal)* }) => {
        integers! { $($integer $integer_name)* }
        floats! { $($float $float_name)* }

        /// Every ready-made kernel of every element type: for [`worker_entry`](crate::worker_entry) and
        /// [`Builder::kernels`](crate::Builder::kernels) of programs that use many of them.
        ///
        /// # Examples
        /// ```
        /// use workring::{kernel, kernels};
        ///
        /// kernel! {
        ///     /// Doubles in place.
        ///     pub fn double(y: &mut [f64]) { for value in y { *value *= 2.0; } }
        /// }
        ///
        /// fn main() {
        ///     // The program's own kernels and all ready-made ones.
        ///     let known = [&kernels![double][..], &kernels::all()].concat();
        ///     workring::worker_entry(&known);
        ///     assert!(known.iter().any(|kernel| kernel.name() == "sqrt"));
        /// }
        /// ```
        pub fn all() -> Vec<&'static KernelInfo> {
            [$($integer::list(),)* $($float::list()),*].concat()
        }
    };
}

modules! {
    integers { i8 "i8" i16 "i16" i32 "i32" i64 "i64" u8 "u8" u16 "u16" u32 "u32" u64 "u64" }
    floats { f32 "f32" f64 "f64" }
}

/// Lists kernels and reducers for [`worker_entry`](crate::worker_entry) and [`Builder::kernels`](crate::Builder::kernels).
///
/// # Examples
/// ```
/// use workring::{kernel, kernels};
///
/// kernel! {
///     /// Doubles in place.
///     pub fn double(y: &mut [f64]) { for value in y { *value *= 2.0; } }
/// }
///
/// let listed = kernels![double, workring::kernels::f64::sum];
/// assert_eq!(listed[0].name(), "double");
/// ```
#[macro_export]
macro_rules! kernels {
    ($($kernel:expr),* $(,)?) => {
        &[$($crate::Kernel::info($kernel)),*]
    };
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::engine::kernel::Kernel;

    #[test]
    fn the_list_has_every_kernel_of_every_type_once() {
        let all = all();
        // Five folds over ten types, nine functions over two.
        assert_eq!(all.len(), 5 * 10 + 9 * 2);
        let distinct: HashSet<_> = all.iter().map(|info| (info.name(), info.signature_hash())).collect();
        assert_eq!(distinct.len(), all.len(), "two kernels cannot be told apart");
        for wanted in [i8::sum.info(), u64::stats.info(), f32::clamp.info(), f64::affine.info()] {
            assert!(all.iter().any(|info| core::ptr::eq(*info, wanted)), "{wanted:?} is missing");
        }
    }
}
