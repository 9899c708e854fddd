//! Kernels: named functions over typed slices, known to every process by path, version and signature hash.
//!
//! Laws of this file:
//! 1. Implementing [`Kernel`] is a promise, so that no safe program makes a kernel but by the attributes.
//! 2. No proof leans on that promise alone. Batches are given as inputs and outputs by types that are closed, and every call compares the number
//!    on each side with the description (`References::check`); a frame compares what an entry point takes with what there is.
#![allow(unsafe_code)]

use core::any::{TypeId, type_name};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use bytemuck::Pod;

use crate::engine::kernel::frame::Frame;
use crate::error::{Error, Result};

/// Kernels a process can know.
const MAX_KERNELS: usize = 4096;

/// An element type as a kernel's description names it: size and alignment in bytes, and which type it is.
#[derive(Clone, Copy)]
pub struct ElementLayout {
    size: u32,
    align: u32,
    // Functions, because the numbers and names of types are no constants yet.
    type_id: fn() -> TypeId,
    type_name: fn() -> &'static str,
}

impl ElementLayout {
    /// The layout of `T`.
    pub const fn of<T: Pod>() -> Self {
        Self {
            size: size_of::<T>() as u32,
            align: align_of::<T>() as u32,
            type_id: TypeId::of::<T>,
            type_name: type_name::<T>,
        }
    }

    /// Name of the type, for people.
    pub fn type_name(self) -> &'static str {
        (self.type_name)()
    }

    /// Which type it is, in this process.
    pub(crate) fn type_id(self) -> TypeId {
        (self.type_id)()
    }

    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        self.size as usize
    }

    /// Alignment of an element, in bytes.
    pub const fn align_bytes(self) -> usize {
        self.align as usize
    }

    /// Whole elements in so many bytes; elements without bytes count as bytes. Most sizes are powers of two, and a division would take
    /// longer than the rest of a small job's checks.
    #[inline]
    pub(crate) fn elements_in(self, len_bytes: u64) -> u64 {
        let size = u64::from(self.size).max(1);
        if size.is_power_of_two() { len_bytes >> size.trailing_zeros() } else { len_bytes / size }
    }
}

impl PartialEq for ElementLayout {
    fn eq(&self, other: &Self) -> bool {
        self.type_id() == other.type_id()
    }
}

impl Eq for ElementLayout {}

impl fmt::Debug for ElementLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes, aligned to {})", self.type_name(), self.size, self.align)
    }
}

/// Why a kernel did not succeed: what it returned as its error, as text.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelError {
    message: Option<String>,
}

impl KernelError {
    /// An error with a message.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: Some(message.to_string()) }
    }

    /// The job's batches do not have the types the kernel takes: the descriptor was damaged.
    pub(crate) fn mismatch() -> Self {
        Self { message: None }
    }

    /// The message, or `None` for a damaged descriptor.
    pub(crate) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }
}

/// What a kernel may return: nothing, or a `Result` whose error can be displayed.
#[diagnostic::on_unimplemented(
    message = "a kernel cannot return `{Self}`",
    note = "it returns nothing, or `Result<(), E>` where `E: Display`"
)]
pub trait KernelOutcome {
    /// As the engine sees it.
    ///
    /// # Errors
    /// When the kernel returned one.
    fn into_outcome(self) -> Result<(), KernelError>;
}

impl KernelOutcome for () {
    fn into_outcome(self) -> Result<(), KernelError> {
        Ok(())
    }
}

impl<E: fmt::Display> KernelOutcome for Result<(), E> {
    fn into_outcome(self) -> Result<(), KernelError> {
        self.map_err(KernelError::new)
    }
}

/// A kernel's path, version, signature and entry point; one static per kernel, made by [`#[kernel]`](macro@crate::kernel).
///
/// Path, version and signature together are the kernel's *identity*: by these a worker process finds its own function. The path is the
/// module path of the declaration and the function's name, `my_crate::shapes::area`, unless the attribute says another one.
pub struct KernelInfo {
    path: &'static str,
    version: u32,
    signature_hash: u64,
    inputs: &'static [ElementLayout],
    outputs: &'static [ElementLayout],
    param: ElementLayout,
    run: fn(&mut Frame<'_, '_>) -> Result<(), KernelError>,
    /// Index in the process's registry plus one; 0 before the first use.
    registered: AtomicU32,
}

impl KernelInfo {
    /// Describes a kernel. `signature` is its argument list as written.
    ///
    /// What it says is believed by nobody: a call compares the batches it was given, side by side, with `inputs` and `outputs`, and the frame
    /// compares what `run` takes with what there is.
    #[doc(hidden)]
    pub const fn new(
        path: &'static str,
        version: u32,
        signature: &'static str,
        inputs: &'static [ElementLayout],
        outputs: &'static [ElementLayout],
        param: ElementLayout,
        run: fn(&mut Frame<'_, '_>) -> Result<(), KernelError>,
    ) -> Self {
        let mut hash = hash_bytes(0xcbf2_9ce4_8422_2325, signature.as_bytes());
        hash = hash_layouts(hash, inputs);
        hash = hash_layouts(hash, outputs);
        hash = hash_layouts(hash, &[param]);
        Self { path, version, signature_hash: hash, inputs, outputs, param, run, registered: AtomicU32::new(0) }
    }

    /// The name it was declared with: the last word of its path.
    pub fn name(&self) -> &'static str {
        self.path.rsplit("::").next().unwrap_or(self.path)
    }

    /// Module path and name, or what its attribute says instead: `my_crate::shapes::area`. Unlike the name it belongs to one kernel of a
    /// program.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// The version it was declared with; 1 unless stated.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A hash (FNV-1a) of the argument list and the sizes and alignments of its types: equal in every build of the same kernel.
    pub fn signature_hash(&self) -> u64 {
        self.signature_hash
    }

    /// Whether it can be asked for by these words: its name, or its name with the end of its module path, `area` or `shapes::area`.
    pub(crate) fn is_called(&self, asked: &str) -> bool {
        self.path
            .strip_suffix(asked)
            .is_some_and(|before| !asked.is_empty() && (before.is_empty() || before.ends_with("::")))
    }

    pub(crate) fn inputs(&self) -> &'static [ElementLayout] {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> &'static [ElementLayout] {
        self.outputs
    }

    pub(crate) fn param(&self) -> ElementLayout {
        self.param
    }

    pub(crate) fn run(&self, frame: &mut Frame<'_, '_>) -> Result<(), KernelError> {
        (self.run)(frame)
    }

    /// Index of this kernel in the process's registry, entering it at the first use.
    #[inline]
    pub(crate) fn id(&'static self) -> Result<u32> {
        // Relaxed: the number is followed to the registry, whose cells synchronise themselves.
        match self.registered.load(Ordering::Relaxed) {
            0 => register(self),
            known => Ok(known - 1),
        }
    }
}

impl fmt::Debug for KernelInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {} (signature {:#018x})", self.path, self.version, self.signature_hash)
    }
}

const fn hash_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

const fn hash_layouts(mut hash: u64, layouts: &[ElementLayout]) -> u64 {
    let mut at = 0;
    while at < layouts.len() {
        hash = (hash ^ ((layouts[at].size as u64) << 8 | layouts[at].align as u64)).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash_bytes(hash, &[0xFF])
}

/// All kernels of this process, in order of first use. Cells are written once and never change.
static REGISTRY: [OnceLock<&'static KernelInfo>; MAX_KERNELS] = [const { OnceLock::new() }; MAX_KERNELS];
/// How many cells are taken; the lock serialises registration only.
static REGISTERED: Mutex<usize> = Mutex::new(0);

#[cold]
fn register(info: &'static KernelInfo) -> Result<u32> {
    let mut count = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    match info.registered.load(Ordering::Relaxed) {
        0 => {}
        // Another thread entered it meanwhile.
        known => return Ok(known - 1),
    }
    let cell = REGISTRY
        .get(*count)
        .ok_or_else(|| Error::Unsupported { what: format!("more than {MAX_KERNELS} kernels in one process") })?;
    // The cell is empty: the lock is held and the count names the first unused one.
    let _ = cell.set(info);
    let id = *count as u32;
    *count += 1;
    info.registered.store(id + 1, Ordering::Relaxed);
    Ok(id)
}

/// The kernel of an index read from a descriptor.
pub(crate) fn registered(id: u32) -> Option<&'static KernelInfo> {
    REGISTRY.get(id as usize)?.get().copied()
}

/// Checks that no two of these kernels have one identity: a worker process could not tell which of them is meant. The same kernel may be
/// listed twice.
///
/// # Errors
/// [`Error::InvalidArgument`] that names them.
pub(crate) fn check_identities(kernels: &[&'static KernelInfo]) -> Result<()> {
    let mut known = HashMap::new();
    for &info in kernels {
        let identity = (info.path, info.version, info.signature_hash);
        let other = *known.entry(identity).or_insert(info);
        if !core::ptr::eq(other, info) {
            return Err(Error::invalid(format!(
                "two different kernels are both {}, version {}, with the same arguments: rename one of them, or give it a path of its own \
                 with #[kernel(path = \"..\")]",
                info.path, info.version
            )));
        }
    }
    Ok(())
}

/// A function over typed slices that an engine can run anywhere: declared with [`#[kernel]`](macro@crate::kernel), called by value.
///
/// # Safety
/// The attributes implement it; there is no reason to do so by hand. Whoever does promises that
/// - `Inputs`, `Outputs` and `Param` are the types, in their order, that the entry point of `info` takes from its frame as inputs, outputs and
///   parameter, and that it describes them so;
/// - `info` gives the same description at every call.
///
/// An engine also checks what it is told: a call whose types and description have not the same number of inputs and of outputs is
/// [`Error::InvalidArgument`], and an entry point that takes something else fails its job.
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
/// use workring::{Kernel, kernel, traits::KernelInfo};
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
/// The function takes inputs, a parameter and a context like a [`#[kernel]`](macro@crate::kernel) and returns its accumulator, a `Pod`
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
