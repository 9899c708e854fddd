//! Ready-made kernels for [`Engine::map`](crate::Engine::map), [`Engine::reduce`](crate::Engine::reduce) and the other calls:
//! one module per element type.
//!
//! They run the functions of [`numeric`](crate::numeric) chunk by chunk, and promise what is promised there. Reducers give
//! the same bits for any number of workers.
//!
//! On x86-64, `affine`, `sqrt`, `abs`, `square`, `negate`, `reciprocal` and `clamp` write outputs that are larger than all
//! last-level caches of the machine past these, which gains a third where only memory is waited for. The bits are the same.
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

use std::sync::OnceLock;

use bytemuck::Pod;

use crate::engine::kernel::{Context, Kernel};
use crate::error::Error;
use crate::numeric::{ArrayIndex, Element, ScatterPlan, ScatterRule, SortedScatter, Stores};
use crate::os::host;

pub use crate::engine::kernel::KernelError;
/// Kernels as they are registered: their names, the types of their batches, and what their functions may return.
pub use crate::engine::kernel::{ElementLayout, KernelInfo};

/// The shortest part of an output, in bytes, that is streamed: at its end the loop waits until memory has it all. Measured over
/// lengths of parts, half as much gained nothing and a quarter was slower.
const STREAMED_PART_MIN: usize = 16 << 10;
/// Bytes of last-level cache where the system tells nothing.
const CACHE_ASSUMED: u64 = 32 << 20;
/// Bounds of what the system is believed. Virtual machines are told odd sizes: one had 32 MiB by /sys and 384 MiB by sysconf(3).
const CACHE_MIN: u64 = 16 << 20;
const CACHE_MAX: u64 = 512 << 20;

/// How a kernel writes `y`, its part of a call of `call_len` elements: past the caches if the output of the whole call is larger
/// than all last-level caches together, so that they could hold neither all of it nor the input it came from.
fn stores<T>(call_len: usize, y: &[T]) -> Stores {
    static CACHE: OnceLock<usize> = OnceLock::new();

    let written = call_len.max(y.len()).saturating_mul(size_of::<T>());
    // The system is asked where it matters.
    if size_of_val(y) < STREAMED_PART_MIN || written <= CACHE_MIN as usize {
        return Stores::Cached;
    }
    let cache = *CACHE.get_or_init(|| believed(host::last_level_cache_bytes()));
    if written > cache { Stores::Streaming } else { Stores::Cached }
}

/// What is taken for the bytes of cache when the system says so many.
fn believed(told: Option<u64>) -> usize {
    told.unwrap_or(CACHE_ASSUMED).clamp(CACHE_MIN, CACHE_MAX) as usize
}

/// An element type with kernels that sort: the ten of this module.
///
/// Sealed, as [`Element`] is.
pub trait SortElement: Element {
    /// The kernel `sort` of the type.
    type Sort: Kernel<Inputs = (Self,), Outputs = (Self,), Param = ()>;
    /// The kernel `merge_runs` of the type.
    type MergeRuns: Kernel<Inputs = (Self,), Outputs = (Self,), Param = u64>;

    #[doc(hidden)]
    const SORT: Self::Sort;
    #[doc(hidden)]
    const MERGE_RUNS: Self::MergeRuns;
}

/// An element type with kernels that gather and scatter by indices of a type: the ten of this module, with `u32` and `u64`.
///
/// Sealed, as [`Element`] is.
pub trait IndexedElement<I>: Element {
    /// The kernel `gather` of the element type, or `gather_u64`.
    type Gather: Kernel<Inputs = (I, Self), Outputs = (Self, u64), Param = ()>;
    /// The kernel `scatter` of the element type, or `scatter_u64`.
    type Scatter: Kernel<Inputs = (Self, I, u32, u32), Outputs = (Self,), Param = [u64; 4]>;

    #[doc(hidden)]
    const GATHER: Self::Gather;
    #[doc(hidden)]
    const SCATTER: Self::Scatter;
}

/// An index type with a kernel that sorts the places of a scatter: `u32` and `u64`.
///
/// Sealed, as [`ArrayIndex`] is.
pub trait IndexType: ArrayIndex + Pod {
    /// The kernel `sort_places` of the type.
    type SortPlaces: Kernel<Inputs = (Self,), Outputs = (u32, u32, u64), Param = [u64; 3]>;

    #[doc(hidden)]
    const SORT_PLACES: Self::SortPlaces;
}

/// What a chunk says in its word of the output about its first bad index: the place in the call, plus one, or 0.
fn say_first(said: &mut [u64], first: Option<usize>, context: &Context<'_>) {
    let place = first.map_or(0, |first| (context.range().start + first) as u64 + 1);
    said.iter_mut().for_each(|said| *said = place);
}

/// Writes the block of an output that is the chunk of a call.
fn scatter_block<T: Element, I: ArrayIndex>(
    sorted: [&[u32]; 2],
    values: &[T],
    indices: &[I],
    y: &mut [T],
    p: &[u64; 4],
    context: &Context<'_>,
) -> Result<(), Error> {
    let [output_len, shift, chunk_len, rule] = *p;
    let plan = ScatterPlan::from_words([output_len, shift, chunk_len]).zip(ScatterRule::from_word(rule));
    let written = plan.and_then(|(plan, rule)| {
        let [places, bounds] = sorted;
        let block = context.range().start / plan.block_len();
        let scatter = SortedScatter { plan, values, indices, places, bounds };
        scatter.write_block(block, y, |element, value| rule.combine(element, value))
    });
    written.ok_or_else(|| Error::invalid("the places of a scatter are those that sort_places gives for its indices"))
}

/// The length of runs, for a chunk that sees all of the input.
fn run_len(run_len: u64, context: &Context<'_>, input_len: usize) -> Result<usize, Error> {
    if context.halo_before() != context.range().start || input_len != context.call_len() {
        return Err(Error::invalid(
            "a chunk of merged runs must see all of them: its halo must be as long as the input",
        ));
    }
    Ok(usize::try_from(run_len).unwrap_or(usize::MAX))
}

/// Declares reducers and kernels, and with them `list`, which names every one of them: none can be left out. Their paths are those by which
/// others name them, wherever this file lies.
macro_rules! listed {
    (
        $ty:ident
        reducers {
            $(
                $(#[$reducer_meta:meta])*
                pub fn $reducer:ident ($($reducer_args:tt)*) -> $accumulator:ty $fold:block
                combine $combine:expr;
            )*
        }
        kernels {
            $($(#[$kernel_meta:meta])* pub fn $kernel:ident ($($kernel_args:tt)*) -> $returned:ty $body:block)*
        }
    ) => {
        $(
            $(#[$reducer_meta])*
            #[crate::reducer(
                combine = $combine,
                path = concat!("workring::kernels::", stringify!($ty), "::", stringify!($reducer))
            )]
            pub fn $reducer($($reducer_args)*) -> $accumulator $fold
        )*

        $(
            $(#[$kernel_meta])*
            #[crate::kernel(path = concat!("workring::kernels::", stringify!($ty), "::", stringify!($kernel)))]
            pub fn $kernel($($kernel_args)*) -> $returned $body
        )*

        /// The kernels of this module.
        pub(super) fn list() -> Vec<&'static super::KernelInfo> {
            use crate::engine::kernel::Kernel;
            vec![$(Kernel::info($reducer),)* $(Kernel::info($kernel)),*]
        }
    };
}

/// The kernels that exist for every element type, and those in `kernels`.
macro_rules! items {
    ($ty:ident kernels { $($kernels:tt)* }) => {
        use crate::engine::kernel::Context;
        use crate::error::Error;
        use crate::numeric::{self, Accumulator as _, Element};

        listed! { $ty reducers {
            /// The sum: see [`numeric::sum`].
            pub fn sum(x: &[$ty]) -> <$ty as Element>::Sum { numeric::sum(x) }
            combine |left, right| left.combine(right);

            /// The sum of products: see [`numeric::dot`].
            pub fn dot(x: &[$ty], y: &[$ty]) -> <$ty as Element>::Sum { <$ty as Element>::fold_dot(x, y) }
            combine |left, right| left.combine(right);

            /// The smallest element: see [`numeric::min`].
            pub fn min(x: &[$ty]) -> $ty { numeric::min(x) }
            combine Element::smaller;

            /// The largest element: see [`numeric::max`].
            pub fn max(x: &[$ty]) -> $ty { numeric::max(x) }
            combine Element::larger;

            /// Count, missing values, extrema, sum, mean and spread: see [`numeric::stats`].
            pub fn stats(x: &[$ty]) -> <$ty as Element>::Stats { numeric::stats(x) }
            combine |left, right| left.combine(right);
        } kernels {
            /// The elements of `x` in ascending order: see [`numeric::sort`]. Of a call with chunks each is sorted for itself.
            pub fn sort(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::sort(x, y) }

            /// Neighbouring sorted runs of `run_len` elements merged in pairs: see [`numeric::merge_runs`]. In a call with chunks each chunk must see all
            /// of the input, by a [`halo`](crate::Chunking::halo) as long as it.
            pub fn merge_runs(x: &[$ty], y: &mut [$ty], run_len: &u64, context: &mut Context) -> Result<(), Error> {
                numeric::merge_runs(x, super::run_len(*run_len, context, x.len())?, context.range().start, y)
            }

            /// `y[i] = source[indices[i]]`, by [`Engine::gather_batch`](crate::Engine::gather_batch); what is beyond the source leaves its place as it was, and
            /// each chunk says in `beyond`, one word of it, the first such place plus one, or 0.
            pub fn gather(indices: &[u32], #[whole] source: &[$ty], y: &mut [$ty], beyond: &mut [u64], context: &mut Context) -> Result<(), Error> {
                super::say_first(beyond, numeric::gather(source, indices, y), context);
                Ok(())
            }

            /// As [`gather`], with indices of 64 bits.
            pub fn gather_u64(indices: &[u64], #[whole] source: &[$ty], y: &mut [$ty], beyond: &mut [u64], context: &mut Context) -> Result<(), Error> {
                super::say_first(beyond, numeric::gather(source, indices, y), context);
                Ok(())
            }

            /// Combines elements with the values that are for them, a chunk a block of them, by [`Engine::scatter_batch`](crate::Engine::scatter_batch); `places`
            /// and `bounds` are what `sort_places` of the index type gives.
            pub fn scatter(
                #[whole] values: &[$ty], #[whole] indices: &[u32], #[whole] places: &[u32], #[whole] bounds: &[u32], y: &mut [$ty], p: &[u64; 4],
                context: &mut Context
            ) -> Result<(), Error> {
                super::scatter_block([places, bounds], values, indices, y, p, context)
            }

            /// As [`scatter`], with indices of 64 bits.
            pub fn scatter_u64(
                #[whole] values: &[$ty], #[whole] indices: &[u64], #[whole] places: &[u32], #[whole] bounds: &[u32], y: &mut [$ty], p: &[u64; 4],
                context: &mut Context
            ) -> Result<(), Error> {
                super::scatter_block([places, bounds], values, indices, y, p, context)
            }

            $($kernels)*
        } }

        impl super::IndexedElement<u32> for $ty {
            type Gather = gather;
            type Scatter = scatter;

            const GATHER: gather = gather;
            const SCATTER: scatter = scatter;
        }

        impl super::IndexedElement<u64> for $ty {
            type Gather = gather_u64;
            type Scatter = scatter_u64;

            const GATHER: gather_u64 = gather_u64;
            const SCATTER: scatter_u64 = scatter_u64;
        }

        impl super::SortElement for $ty {
            type Sort = sort;
            type MergeRuns = merge_runs;

            const SORT: sort = sort;
            const MERGE_RUNS: merge_runs = merge_runs;
        }
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

macro_rules! indices {
    ($($ty:ident $name:literal)*) => {
        $(
            #[doc = concat!("Kernels over `", $name, "`.")]
            pub mod $ty {
                use crate::numeric::ScatterPlan;

                items! { $ty kernels {
                    /// The places of a chunk of indices sorted by the block of an output that each is for, where the run of each block begins, and in `beyond`, a
                    /// word of each chunk, the first place whose index is beyond the output plus one, or 0: the first half of
                    /// [`Engine::scatter_batch`](crate::Engine::scatter_batch), which has `p` from the lengths.
                    pub fn sort_places(
                        indices: &[$ty], places: &mut [u32], bounds: &mut [u32], beyond: &mut [u64], p: &[u64; 3], context: &mut Context
                    ) -> Result<(), Error> {
                        let plan = ScatterPlan::from_words(*p).filter(|plan| plan.bounds_per_chunk() == bounds.len());
                        let plan = plan.ok_or_else(|| Error::invalid("a chunk has a bound for each block of the output, and one more"))?;
                        super::say_first(beyond, plan.sort_places(indices, places, bounds), context);
                        Ok(())
                    }
                } }

                impl super::IndexType for $ty {
                    type SortPlaces = sort_places;

                    const SORT_PLACES: sort_places = sort_places;
                }
            }
        )*
    };
}

macro_rules! floats {
    ($($ty:ident $name:literal)*) => {
        $(
            #[doc = concat!("Kernels over `", $name, "`.")]
            pub mod $ty {
                use super::stores;

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
                    /// `y[i] = exp(x[i])`: see [`numeric::exp`].
                    pub fn exp(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::exp(x, y) }

                    /// `y[i] = ln(x[i])`: see [`numeric::ln`].
                    pub fn ln(x: &[$ty], y: &mut [$ty]) -> Result<(), Error> { numeric::ln(x, y) }

                    /// `y[i] = a * x[i] + b`: see [`numeric::affine`].
                    pub fn affine(x: &[$ty], y: &mut [$ty], p: &Affine, context: &mut Context) -> Result<(), Error> {
                        numeric::affine_by(stores(context.call_len(), y), x, y, p.a, p.b)
                    }

                    /// `y[i] = sqrt(x[i])`: see [`numeric::sqrt`].
                    pub fn sqrt(x: &[$ty], y: &mut [$ty], context: &mut Context) -> Result<(), Error> { numeric::sqrt_by(stores(context.call_len(), y), x, y) }

                    /// `y[i] = |x[i]|`: see [`numeric::abs`].
                    pub fn abs(x: &[$ty], y: &mut [$ty], context: &mut Context) -> Result<(), Error> { numeric::abs_by(stores(context.call_len(), y), x, y) }

                    /// `y[i] = x[i] * x[i]`: see [`numeric::square`].
                    pub fn square(x: &[$ty], y: &mut [$ty], context: &mut Context) -> Result<(), Error> { numeric::square_by(stores(context.call_len(), y), x, y) }

                    /// `y[i] = -x[i]`: see [`numeric::negate`].
                    pub fn negate(x: &[$ty], y: &mut [$ty], context: &mut Context) -> Result<(), Error> { numeric::negate_by(stores(context.call_len(), y), x, y) }

                    /// `y[i] = 1 / x[i]`: see [`numeric::reciprocal`].
                    pub fn reciprocal(x: &[$ty], y: &mut [$ty], context: &mut Context) -> Result<(), Error> { numeric::reciprocal_by(stores(context.call_len(), y), x, y) }

                    /// `y[i]` is `x[i]` within the bounds: see [`numeric::clamp`].
                    pub fn clamp(x: &[$ty], y: &mut [$ty], p: &Bounds, context: &mut Context) -> Result<(), Error> {
                        numeric::clamp_by(stores(context.call_len(), y), x, y, p.lower, p.upper)
                    }
                } }
            }
        )*
    };
}

/// The modules, and with them the list of all their kernels.
macro_rules! modules {
    (integers { $($integer:ident $integer_name:literal)* } indices { $($index:ident $index_name:literal)* } floats { $($float:ident $float_name:literal)* }) => {
        integers! { $($integer $integer_name)* }
        indices! { $($index $index_name)* }
        floats! { $($float $float_name)* }

        /// Every ready-made kernel of every element type: for [`worker_entry`](crate::worker_entry) and
        /// [`Builder::kernels`](crate::Builder::kernels) of programs that use many of them.
        ///
        /// # Examples
        /// ```
        /// use workring::{kernel, kernels};
        ///
        /// /// Doubles in place.
        /// #[kernel]
        /// pub fn double(y: &mut [f64]) { for value in y { *value *= 2.0; } }
        ///
        /// fn main() {
        ///     // The program's own kernels and all ready-made ones.
        ///     let known = [&kernels![double][..], &kernels::all()].concat();
        ///     workring::worker_entry(&known);
        ///     assert!(known.iter().any(|kernel| kernel.name() == "sqrt"));
        /// }
        /// ```
        pub fn all() -> Vec<&'static KernelInfo> {
            [$($integer::list(),)* $($index::list(),)* $($float::list()),*].concat()
        }
    };
}

modules! {
    integers { i8 "i8" i16 "i16" i32 "i32" i64 "i64" u8 "u8" u16 "u16" }
    indices { u32 "u32" u64 "u64" }
    floats { f32 "f32" f64 "f64" }
}

/// Lists kernels and reducers for [`worker_entry`](crate::worker_entry) and [`Builder::kernels`](crate::Builder::kernels).
///
/// # Examples
/// ```
/// use workring::{kernel, kernels};
///
/// /// Doubles in place.
/// #[kernel]
/// pub fn double(y: &mut [f64]) { for value in y { *value *= 2.0; } }
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
    use crate::front::engine::Engine;

    /// What a kernel knows of the length of its call.
    #[crate::kernel]
    fn call_len(y: &mut [u64], context: &mut Context) {
        y.fill(context.call_len() as u64);
    }

    #[test]
    fn kernels_know_how_long_the_whole_call_is() {
        let engine = Engine::builder().threads(2).capacity(1 << 24).build().unwrap();
        let mut y = engine.batch::<u64>(100_001).unwrap();
        engine.map(call_len, (), &mut y, &()).unwrap();
        assert!(y.iter().all(|&len| len == 100_001), "each chunk of a call");
        let mut y = engine.submit(call_len, y, ()).unwrap().wait().unwrap();
        assert!(y.iter().all(|&len| len == 100_001), "a job");
        y.fill(0);
        let y = engine.submit_many(call_len, y, 100_001).unwrap().wait().unwrap().batches;
        assert!(y.iter().all(|&len| len == 1), "a row");
    }

    #[test]
    fn outputs_that_the_caches_cannot_hold_are_streamed() {
        let cache = believed(host::last_level_cache_bytes());
        let y = vec![0_u8; STREAMED_PART_MIN];
        assert_eq!(stores(cache, &y), Stores::Cached);
        assert_eq!(stores(cache + 1, &y), Stores::Streaming);
        assert_eq!(stores(cache + 1, &y[1..]), Stores::Cached, "a short part");
        assert_eq!(stores(0, &y), Stores::Cached);
        // Elements are counted by their bytes, and a call is at least as long as its part.
        let y = vec![0_u64; cache / 8 + 1];
        assert_eq!(stores(cache / 8 + 1, &y[..STREAMED_PART_MIN / 8]), Stores::Streaming);
        assert_eq!(stores(cache / 8, &y[..STREAMED_PART_MIN / 8]), Stores::Cached);
        assert_eq!(stores(1, &y), Stores::Streaming);
        assert_eq!(stores(usize::MAX, &y), Stores::Streaming);
    }

    #[test]
    fn odd_cache_sizes_are_not_believed() {
        assert_eq!(believed(Some(0)), 16 << 20);
        assert_eq!(believed(Some(33 << 20)), 33 << 20);
        assert_eq!(believed(Some(u64::MAX)), 512 << 20);
        assert_eq!(believed(None), 32 << 20);
    }

    #[test]
    fn the_list_has_every_kernel_of_every_type_once() {
        let all = all();
        // Five folds, two that sort and four that gather and scatter over ten types, nine functions over two, and one of indices over two.
        assert_eq!(all.len(), 11 * 10 + 9 * 2 + 2);
        let distinct: HashSet<_> = all.iter().map(|info| (info.name(), info.signature_hash())).collect();
        assert_eq!(distinct.len(), all.len(), "two kernels cannot be told apart");
        for wanted in [i8::sum.info(), u64::stats.info(), f32::clamp.info(), f64::affine.info()] {
            assert!(all.iter().any(|info| core::ptr::eq(*info, wanted)), "{wanted:?} is missing");
        }
    }
}
