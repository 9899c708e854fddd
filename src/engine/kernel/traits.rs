//! Kernels: named functions over typed slices, known to every process by path, version and signature hash.
//!
//! Laws of this file:
//! 1. Implementing [`Kernel`] is a promise, so that no safe program makes a kernel but by the attributes.
//! 2. No proof leans on that promise alone. Batches are given as inputs and outputs by types that are closed, and every call compares the number
//!    on each side with the description (`References::check`); a frame compares what an entry point takes with what there is.
#![allow(unsafe_code)]

use bytemuck::Pod;

use crate::engine::kernel::info::KernelInfo;

/// A function over typed slices that an engine can run anywhere: declared with [`#[kernel]`](macro@crate::kernel), called by value.
///
/// # Safety
/// The attributes implement it; there is no reason to do so by hand. An implementation promises that
/// - `Inputs`, `Outputs` and `Param` are the types, in their order, that the entry point of `info` takes from its frame as inputs, outputs and
///   parameter, and that it describes them so;
/// - `info` gives the same description at every call.
///
/// An engine also checks what it is told: a call whose types and description have not the same number of inputs and of outputs is
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument), and an entry point that takes something else fails its job.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a kernel",
    note = "declare it with `#[workring::kernel] pub fn name(x: &[f64], y: &mut [f64], p: &Param) {{ .. }}`",
    note = "closures go to `map_with`, `reduce_with` and `run`"
)]
pub unsafe trait Kernel: Copy + Send + Sync + 'static {
    /// Element types of the inputs, as a tuple.
    type Inputs;
    /// Element types of the outputs, as a tuple.
    type Outputs;
    /// The parameter; `()` when there is none.
    type Param: Pod;

    /// Path, version, signature and entry point.
    fn info(self) -> &'static KernelInfo;
}

/// A kernel that folds a chunk to one value, with a way to combine two: declared with [`#[reducer]`](macro@crate::reducer).
///
/// Safe to implement, for a [`Kernel`] with one output: whatever `combine` does, it does to values.
pub trait Reducer: Kernel<Outputs = (Self::Accumulator,)> {
    /// What a chunk folds to.
    type Accumulator: Pod;

    /// Combines the values of two neighbouring parts, the left one first. Must be associative up to rounding; the order of
    /// combinations depends on the length of the input alone.
    fn combine(self, left: Self::Accumulator, right: Self::Accumulator) -> Self::Accumulator;
}

/// Turns a function over typed slices into a kernel, which an engine runs on its workers.
///
/// Arguments, each kind in any number up to its limit and in any order: `name: &[T]` an input (0 to 8), `name: &mut [T]` an
/// output (0 to 4), at most one `name: &P` the parameter, at most one `name: &mut Context` the [`Context`](crate::Context).
/// Where a call is cut into chunks or rows, the kernel gets its part of each input, and all of an input that is declared as `#[whole] name: &[T]`, whose length
/// is its own: tables, vectors that are read at places which the other inputs say.
/// `T` and `P` implement [`Pod`](https://docs.rs/bytemuck/latest/bytemuck/trait.Pod.html). Return nothing, or
/// `Result<(), E>` where `E: Display`. A kernel is not generic: other processes find it by its name.
///
/// The function becomes a unit struct of its name, which is the value to pass to [`Engine::map`](crate::Engine::map) and the other
/// calls. It can still be called like a function, `add(&a, &b, &mut y)`, on this thread; `add::call` is the function itself. As with any
/// unit struct, a local variable or an argument cannot have the same name where the kernel is in scope. Attributes of the function stay
/// with it: `#[cfg(..)]` counts for all of it, `#[inline]` and the like for the function.
///
/// In the parentheses of the attribute:
///
/// | option | says |
/// |---|---|
/// | `version = 2` | that its meaning has changed though its arguments have not; 1 unless said |
/// | `path = "shapes::area"` | its path, by which worker processes find it, instead of module path and name |
/// | `crate = my::workring` | where this crate is, if it is not `::workring` |
///
/// # Which kernel
///
/// A kernel is known by its path, its version and its arguments. The path begins with the name of the crate that declares it, so that two
/// kernels of one name in different modules are two kernels, and copies of one program agree. *Two* programs
/// ([`WorkerProgram::at`](crate::process::WorkerProgram::at), [`attach`](crate::process::attach)) agree on the kernels of a library that both use; kernels that
/// each of them has in its own `main.rs`, or includes from a common file, need a `path` that does not name the program. Two kernels of one
/// identity in one list are refused when an engine is built, and by the worker.
///
/// # Examples
/// ```
/// use workring::{Engine, kernel};
///
/// /// y[i] = a[i] + b[i]
/// #[kernel]
/// pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
///     for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
///         *y = a + b;
///     }
/// }
///
/// /// Fails on negative numbers.
/// #[kernel(version = 2)]
/// pub fn root(y: &mut [f64], limit: &f64) -> Result<(), String> {
///     for value in y {
///         if *value < *limit {
///             return Err(format!("{value} is below {limit}"));
///         }
///         *value = value.sqrt();
///     }
///     Ok(())
/// }
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(2).build()?;
/// let a = engine.batch_from_slice(&[1.0_f32, 2.0])?;
/// let mut y = engine.batch::<f32>(2)?;
/// engine.map(add, (&a, &a), &mut y, &())?;
/// assert_eq!(*y, [2.0, 4.0]);
/// add(&[1.0], &[2.0], &mut y[..1]); // a plain function all the same
/// assert_eq!(*y, [3.0, 4.0]);
///
/// let job = engine.submit(root, engine.batch_from_slice(&[4.0, -1.0])?, 0.0)?;
/// let failed = job.wait().unwrap_err();
/// assert_eq!(failed.error.to_string(), "kernel root failed: -1 is below 0");
/// assert_eq!(failed.returned.len(), 2);
/// # Ok(())
/// # }
/// ```
///
/// A kernel that looks up what its elements choose from a table of any length:
/// ```
/// use workring::{Engine, kernel};
///
/// /// y[i] = table[x[i]]
/// #[kernel]
/// pub fn look_up(x: &[u32], #[whole] table: &[f64], y: &mut [f64]) {
///     for (y, x) in y.iter_mut().zip(x) {
///         *y = table[*x as usize];
///     }
/// }
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(2).build()?;
/// let x = engine.batch_from_fn(100_000, |index| index as u32 % 3)?;
/// let table = engine.batch_from_slice(&[0.5, 1.5, 2.5])?;
/// let mut y = engine.batch::<f64>(x.len())?;
/// engine.map(look_up, (&x, &table), &mut y, &())?;
/// assert_eq!(y[99_998], 2.5);
/// # Ok(())
/// # }
/// ```
///
/// A crate that forbids unsafe code has kernels all the same:
/// ```
/// #![forbid(unsafe_code)]
///
/// #[workring::kernel]
/// fn fill(y: &mut [u64], p: &u64) {
///     y.fill(*p);
/// }
///
/// #[workring::reducer(combine = |left, right| left + right)]
/// fn total(x: &[u64]) -> u64 {
///     x.iter().sum()
/// }
///
/// #[workring::worker_main]
/// fn echo(scope: &workring::message::WorkerScope<u64, u64>) -> Result<(), workring::Error> {
///     scope.send(scope.recv()?.value).map_err(|failed| failed.error)
/// }
///
/// let engine = workring::Engine::builder().threads(1).build().unwrap();
/// let mut y = engine.batch::<u64>(10).unwrap();
/// engine.map(fill, (), &mut y, &7).unwrap();
/// assert_eq!(engine.reduce(total, &y).unwrap(), 70);
/// # let _ = echo;
/// ```
///
/// A kernel by hand is a promise that safe code cannot make:
/// ```compile_fail,E0200
/// use workring::{Kernel, kernel, kernels::KernelInfo};
///
/// #[kernel]
/// fn writer(y: &mut [u64]) {
///     y.fill(8);
/// }
///
/// #[derive(Clone, Copy)]
/// struct Evil;
///
/// impl Kernel for Evil {
///     type Inputs = (u64,); // `writer` takes an output
///     type Outputs = ();
///     type Param = ();
///     fn info(self) -> &'static KernelInfo {
///         writer.info()
///     }
/// }
/// ```
pub use workring_macros::kernel;
/// Turns a function that folds a chunk of its inputs to one value into a reducer, with a rule to combine two values.
///
/// The function takes inputs, whole ones among them, a parameter and a context like a [`#[kernel]`](macro@crate::kernel) and returns its accumulator, a `Pod`
/// value; an empty input is folded once. `combine` is a closure or the name of a function from the values of two neighbouring parts, the
/// left one first, to that of both; it must be associative up to rounding. The other options are those of a kernel.
///
/// # Examples
/// ```
/// use workring::{Engine, reducer};
///
/// /// The largest absolute value.
/// #[reducer(combine = f64::max)]
/// pub fn largest(x: &[f64]) -> f64 {
///     x.iter().fold(0.0, |so_far: f64, value| so_far.max(value.abs()))
/// }
///
/// /// How many are negative.
/// #[reducer(combine = |left, right| left + right)]
/// pub fn negatives(x: &[f64]) -> u64 {
///     x.iter().filter(|value| **value < 0.0).count() as u64
/// }
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(2).build()?;
/// let x = engine.batch_from_slice(&[1.0, -3.0, 2.0])?;
/// assert_eq!(engine.reduce(largest, &x)?, 3.0);
/// assert_eq!(engine.reduce(negatives, &x)?, 1);
/// # Ok(())
/// # }
/// ```
pub use workring_macros::reducer;
