//! Kernels: named functions over typed slices, known to every process by name, version and signature hash.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use bytemuck::Pod;

use super::frame::Frame;
use crate::error::{Error, Result};

/// Kernels a process can know.
const MAX_KERNELS: usize = 4096;

/// Size and alignment of an element type, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ElementLayout {
    size: u32,
    align: u32,
}

impl ElementLayout {
    /// The layout of `T`.
    pub const fn of<T: Pod>() -> Self {
        Self { size: size_of::<T>() as u32, align: align_of::<T>() as u32 }
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

/// A kernel's name, version, signature and entry point; one static per kernel, made by [`kernel!`](crate::kernel).
pub struct KernelInfo {
    name: &'static str,
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
    pub const fn new(
        name: &'static str,
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
        Self { name, version, signature_hash: hash, inputs, outputs, param, run, registered: AtomicU32::new(0) }
    }

    /// The name it was declared with.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The version it was declared with; 1 unless stated.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A hash (FNV-1a) of the argument list and the sizes and alignments of its types: equal in every build of the same kernel.
    pub fn signature_hash(&self) -> u64 {
        self.signature_hash
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
        write!(f, "{} version {} (signature {:#018x})", self.name, self.version, self.signature_hash)
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

/// A function over typed slices that an engine can run anywhere: declared with [`kernel!`](crate::kernel), called by value.
///
/// Implemented by the macro. A hand-written implementation whose types do not match its `info` gives failed jobs, never
/// undefined behaviour.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a kernel",
    note = "declare it with `workring::kernel! {{ pub fn name(x: &[f64], y: &mut [f64], p: &Param) {{ .. }} }}`",
    note = "closures go to `map_with`, `reduce_with` and `run`"
)]
pub trait Kernel: Copy + Send + Sync + 'static {
    /// Element types of the inputs, as a tuple.
    type Inputs;
    /// Element types of the outputs, as a tuple.
    type Outputs;
    /// The parameter; `()` when there is none.
    type Param: Pod;

    /// Name, version, signature and entry point.
    fn info(self) -> &'static KernelInfo;
}

/// A kernel that folds a chunk to one value, with a way to combine two: declared with [`reducer!`](crate::reducer).
pub trait Reducer: Kernel<Outputs = (Self::Accumulator,)> {
    /// What a chunk folds to.
    type Accumulator: Pod;

    /// Combines the values of two neighbouring parts, the left one first. Must be associative up to rounding; the order of
    /// combinations depends on the length of the input alone.
    fn combine(self, left: Self::Accumulator, right: Self::Accumulator) -> Self::Accumulator;
}

/// Declares kernels: named functions over typed slices which an engine runs on its workers.
///
/// Arguments, each kind in any number up to its limit and in any order: `name: &[T]` an input (0 to 8), `name: &mut [T]` an
/// output (0 to 4), at most one `name: &P` the parameter, at most one `name: &mut Context` the [`Context`](crate::Context).
/// `T` and `P` implement [`Pod`](https://docs.rs/bytemuck/latest/bytemuck/trait.Pod.html). Return nothing, or
/// `Result<(), E>` where `E: Display`.
///
/// Each becomes a unit struct of that name, which is the value to pass to [`Engine::map`](crate::Engine::map) and the other
/// calls, with an associated function `call` that runs the body directly. As with any unit struct, a local variable cannot
/// have the same name where the kernel is in scope. `version = N;` at the start gives all kernels of
/// the block that version (1 otherwise): increase it when the meaning of a kernel changes but its arguments do not.
///
/// # Examples
/// ```
/// use workring::{Engine, kernel};
///
/// kernel! {
///     /// y[i] = a[i] + b[i]
///     pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
///         for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
///             *y = a + b;
///         }
///     }
///
///     /// Fails on negative numbers.
///     pub fn root(y: &mut [f64], limit: &f64) -> Result<(), String> {
///         for value in y {
///             if *value < *limit {
///                 return Err(format!("{value} is below {limit}"));
///             }
///             *value = value.sqrt();
///         }
///         Ok(())
///     }
/// }
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(2).build()?;
/// let a = engine.batch_from_slice(&[1.0_f32, 2.0])?;
/// let mut y = engine.batch::<f32>(2)?;
/// engine.map(add, (&a, &a), &mut y, &())?;
/// assert_eq!(*y, [2.0, 4.0]);
///
/// let job = engine.submit(root, engine.batch_from_slice(&[4.0, -1.0])?, 0.0)?;
/// let failed = job.wait().unwrap_err();
/// assert_eq!(failed.error.to_string(), "kernel root failed: -1 is below 0");
/// assert_eq!(failed.returned.len(), 2);
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! kernel {
    (version = $version:literal; $($rest:tt)*) => {
        $crate::__kernels!{ $version $($rest)* }
    };
    ($($rest:tt)*) => {
        $crate::__kernels!{ 1 $($rest)* }
    };
}

/// Declares reducers: kernels that fold a chunk of their inputs to one value, with a rule to combine two values.
///
/// The fold takes inputs, a parameter and a context like a [`kernel!`](crate::kernel) and returns its accumulator, a `Pod`
/// value; an empty input is folded once. `combine(left, right)` must be associative up to rounding.
///
/// # Examples
/// ```
/// use workring::{Engine, reducer};
///
/// reducer! {
///     /// The largest absolute value.
///     pub fn largest(x: &[f64]) -> f64 {
///         x.iter().fold(0.0, |so_far: f64, value| so_far.max(value.abs()))
///     }
///     combine(left, right) { left.max(right) }
/// }
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(2).build()?;
/// let x = engine.batch_from_slice(&[1.0, -3.0, 2.0])?;
/// assert_eq!(engine.reduce(largest, &x)?, 3.0);
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! reducer {
    (version = $version:literal; $($rest:tt)*) => {
        $crate::__reducers!{ $version $($rest)* }
    };
    ($($rest:tt)*) => {
        $crate::__reducers!{ 1 $($rest)* }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __kernels {
    ($version:literal) => {};
    ($version:literal $(#[$meta:meta])* $vis:vis fn $name:ident ( $($args:tt)* ) -> $ret:ty $body:block $($rest:tt)*) => {
        $crate::__kernel_args!{
            { kernel $version [$(#[$meta])*] [$vis] $name ($($args)*) [$ret] $body }
            [] [] [] [] [] $($args)* ,
        }
        $crate::__kernels!{ $version $($rest)* }
    };
    ($version:literal $(#[$meta:meta])* $vis:vis fn $name:ident ( $($args:tt)* ) $body:block $($rest:tt)*) => {
        $crate::__kernel_args!{
            { kernel $version [$(#[$meta])*] [$vis] $name ($($args)*) [()] $body }
            [] [] [] [] [] $($args)* ,
        }
        $crate::__kernels!{ $version $($rest)* }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __reducers {
    ($version:literal) => {};
    ($version:literal $(#[$meta:meta])* $vis:vis fn $name:ident ( $($args:tt)* ) -> $ret:ty $body:block
     combine ( $left:ident , $right:ident ) $combine:block $($rest:tt)*) => {
        $crate::__kernel_args!{
            { reducer($left, $right, $combine) $version [$(#[$meta])*] [$vis] $name ($($args)*) [$ret] $body }
            [] [] [] [] [] $($args)* ,
        }
        $crate::__reducers!{ $version $($rest)* }
    };
}

// Sorts the arguments into inputs, outputs, parameter, context and the order of all names.
#[doc(hidden)]
#[macro_export]
macro_rules! __kernel_args {
    ($head:tt [$($i:tt)*] [$($o:tt)*] [$($p:tt)*] [$($c:tt)*] [$($all:tt)*] $name:ident : & mut [ $ty:ty ] , $($rest:tt)*) => {
        $crate::__kernel_args!{ $head [$($i)*] [$($o)* ($name $ty)] [$($p)*] [$($c)*] [$($all)* $name] $($rest)* }
    };
    ($head:tt [$($i:tt)*] [$($o:tt)*] [$($p:tt)*] [$($c:tt)*] [$($all:tt)*] $name:ident : & [ $ty:ty ] , $($rest:tt)*) => {
        $crate::__kernel_args!{ $head [$($i)* ($name $ty)] [$($o)*] [$($p)*] [$($c)*] [$($all)* $name] $($rest)* }
    };
    ($head:tt [$($i:tt)*] [$($o:tt)*] [$($p:tt)*] [] [$($all:tt)*] $name:ident : & mut $ty:ty , $($rest:tt)*) => {
        $crate::__kernel_args!{ $head [$($i)*] [$($o)*] [$($p)*] [($name $ty)] [$($all)* $name] $($rest)* }
    };
    ($head:tt [$($i:tt)*] [$($o:tt)*] [] [$($c:tt)*] [$($all:tt)*] $name:ident : & $ty:ty , $($rest:tt)*) => {
        $crate::__kernel_args!{ $head [$($i)*] [$($o)*] [($name $ty)] [$($c)*] [$($all)* $name] $($rest)* }
    };
    ($head:tt $i:tt $o:tt $p:tt $c:tt $all:tt ,) => {
        $crate::__kernel_args!{ $head $i $o $p $c $all }
    };
    ($head:tt [$($i:tt)*] [$($o:tt)*] [] [$($c:tt)*] [$($all:tt)*]) => {
        $crate::__kernel_item!{ $head [$($i)*] [$($o)*] [(param ())] [$($c)*] [$($all)*] }
    };
    ($head:tt [$($i:tt)*] [$($o:tt)*] [$($p:tt)+] [$($c:tt)*] [$($all:tt)*]) => {
        $crate::__kernel_item!{ $head [$($i)*] [$($o)*] [$($p)*] [$($c)*] [$($all)*] }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __kernel_item {
    ({ kernel $version:literal [$(#[$meta:meta])*] [$vis:vis] $name:ident ($($args:tt)*) [$ret:ty] $body:block }
     [$(($i:ident $it:ty))*] [$(($o:ident $ot:ty))*] [($p:ident $pt:ty)] [$(($c:ident $ct:ty))?] [$($all:ident)*]) => {
        $(#[$meta])*
        #[allow(non_camel_case_types, reason = "a kernel is named as a function is")]
        #[derive(Clone, Copy, Debug)]
        $vis struct $name;

        impl $name {
            /// Runs the kernel's body on plain slices, on this thread.
            #[allow(dead_code, clippy::too_many_arguments, clippy::allow_attributes, reason = "made for every kernel")]
            $vis fn call($($args)*) -> $ret $body
        }

        impl $crate::Kernel for $name {
            type Inputs = ($($it,)*);
            type Outputs = ($($ot,)*);
            type Param = $pt;

            fn info(self) -> &'static $crate::KernelInfo {
                fn run(frame: &mut $crate::__private::Frame<'_, '_>) -> ::core::result::Result<(), $crate::KernelError> {
                    $(let $i = frame.input::<$it>()?;)*
                    $(let $o = frame.output::<$ot>()?;)*
                    #[allow(unused_variables)]
                    let $p = frame.param::<$pt>()?;
                    $(let $c: &mut $ct = frame.context();)?
                    $crate::__private::KernelOutcome::into_outcome($name::call($($all),*))
                }
                static INFO: $crate::KernelInfo = $crate::KernelInfo::new(
                    stringify!($name),
                    $version,
                    stringify!($($args)*),
                    &[$($crate::ElementLayout::of::<$it>()),*],
                    &[$($crate::ElementLayout::of::<$ot>()),*],
                    $crate::ElementLayout::of::<$pt>(),
                    run,
                );
                &INFO
            }
        }
    };
    ({ reducer($left:ident, $right:ident, $combine:block) $version:literal [$(#[$meta:meta])*] [$vis:vis] $name:ident
       ($($args:tt)*) [$ret:ty] $body:block }
     [$(($i:ident $it:ty))*] [] [($p:ident $pt:ty)] [$(($c:ident $ct:ty))?] [$($all:ident)*]) => {
        $(#[$meta])*
        #[allow(non_camel_case_types, reason = "a kernel is named as a function is")]
        #[derive(Clone, Copy, Debug)]
        $vis struct $name;

        impl $name {
            /// Folds one chunk, on this thread.
            #[allow(dead_code, clippy::too_many_arguments, clippy::allow_attributes, reason = "made for every kernel")]
            $vis fn call($($args)*) -> $ret $body
        }

        impl $crate::Kernel for $name {
            type Inputs = ($($it,)*);
            type Outputs = ($ret,);
            type Param = $pt;

            fn info(self) -> &'static $crate::KernelInfo {
                fn run(frame: &mut $crate::__private::Frame<'_, '_>) -> ::core::result::Result<(), $crate::KernelError> {
                    $(let $i = frame.input::<$it>()?;)*
                    let accumulator = frame.output::<$ret>()?;
                    #[allow(unused_variables)]
                    let $p = frame.param::<$pt>()?;
                    $(let $c: &mut $ct = frame.context();)?
                    accumulator[0] = $name::call($($all),*);
                    ::core::result::Result::Ok(())
                }
                static INFO: $crate::KernelInfo = $crate::KernelInfo::new(
                    stringify!($name),
                    $version,
                    stringify!($($args)* -> $ret),
                    &[$($crate::ElementLayout::of::<$it>()),*],
                    &[$crate::ElementLayout::of::<$ret>()],
                    $crate::ElementLayout::of::<$pt>(),
                    run,
                );
                &INFO
            }
        }

        impl $crate::Reducer for $name {
            type Accumulator = $ret;

            fn combine(self, $left: $ret, $right: $ret) -> $ret $combine
        }
    };
}
