//! Descriptions of kernels, and the registry by which a process numbers them.

use core::any::{TypeId, type_name};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use bytemuck::Pod;

use crate::engine::kernel::error::KernelError;
use crate::engine::kernel::frame::Frame;
use crate::error::{Error, Result};
use crate::process_host::WorkerStart;
use crate::sync::lock;

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

    /// Whether so many bytes are a whole number of elements.
    #[inline]
    pub(crate) fn fills(self, len_bytes: u64) -> bool {
        let size = u64::from(self.size).max(1);
        if size.is_power_of_two() { len_bytes & (size - 1) == 0 } else { len_bytes.is_multiple_of(size) }
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

/// A kernel's path, version, signature and entry point; one static per kernel, made by [`#[kernel]`](macro@crate::kernel).
///
/// Path, version and signature together are the kernel's *identity*: by these a worker process finds its own function. The path is the
/// module path of the declaration and the function's name, `my_crate::shapes::area`, unless the attribute says another one.
pub struct KernelInfo {
    path: &'static str,
    version: u32,
    signature_hash: u64,
    inputs: &'static [ElementLayout],
    /// Inputs that each chunk sees whole, by the bit of their number.
    whole: u8,
    outputs: &'static [ElementLayout],
    param: ElementLayout,
    run: fn(&mut Frame<'_, '_>) -> Result<(), KernelError>,
    /// Of the main function of a worker, which no engine runs.
    main: Option<MainFunction>,
    /// Index in the process's registry plus one; 0 before the first use.
    registered: AtomicU32,
}

/// What a worker in a process of its own runs.
pub(crate) type MainFunction = fn(WorkerStart) -> Result<(), KernelError>;

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
        let (main, registered) = (None, AtomicU32::new(0));
        Self { path, version, signature_hash: hash, inputs, whole: 0, outputs, param, run, main, registered }
    }

    /// Says which inputs each chunk, or row, sees whole, by the bit of their number; it is part of the signature's hash.
    #[doc(hidden)]
    pub const fn with_whole_inputs(self, whole: u8) -> Self {
        let Self { path, version, signature_hash, inputs, outputs, param, run, main, registered, .. } = self;
        let signature_hash = hash_bytes(signature_hash, &[whole]);
        Self { path, version, signature_hash, inputs, whole, outputs, param, run, main, registered }
    }

    /// Describes the main function of a worker, which is listed among the kernels and is none: a job of it fails. `types` are those of the
    /// messages it receives and posts, and of its data.
    #[doc(hidden)]
    pub const fn of_worker(
        path: &'static str,
        version: u32,
        signature: &'static str,
        types: &[ElementLayout; 3],
        main: fn(WorkerStart) -> Result<(), KernelError>,
    ) -> Self {
        let refuse: fn(&mut Frame<'_, '_>) -> Result<(), KernelError> = refuse_main;
        let hash = hash_layouts(hash_bytes(0xcbf2_9ce4_8422_2325, signature.as_bytes()), types);
        let info = Self::new(path, version, signature, &[], &[], ElementLayout::of::<()>(), refuse);
        let Self { path, version, inputs, whole, outputs, param, run, registered, .. } = info;
        Self { path, version, signature_hash: hash, inputs, whole, outputs, param, run, main: Some(main), registered }
    }

    /// The function that it is, of a worker in a process of its own.
    pub(crate) fn main(&self) -> Option<MainFunction> {
        self.main
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

    /// Inputs that each chunk, or row, sees whole, by the bit of their number.
    pub(crate) fn whole_inputs(&self) -> u8 {
        self.whole
    }

    /// Whether each chunk, or row, sees all of an input, whose length is then its own.
    #[inline]
    pub(crate) fn is_whole(&self, input: usize) -> bool {
        input < u8::BITS as usize && self.whole >> input & 1 != 0
    }

    /// Whether a chunk has a part of an input of its own.
    pub(crate) fn has_parted_inputs(&self) -> bool {
        (0..self.inputs.len()).any(|input| !self.is_whole(input))
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

/// A job of the main function of a worker.
fn refuse_main(_frame: &mut Frame<'_, '_>) -> Result<(), KernelError> {
    Err(KernelError::new("it runs in a process of its own: start it with WorkerBuilder::spawn_process"))
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
    let mut count = lock(&REGISTERED);
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
