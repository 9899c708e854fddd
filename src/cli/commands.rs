//! What the commands do, on an engine.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use workring::numeric::{self, Accumulator, Float, IntegerSum, Stats};
use workring::{Call, Element, ElementType, Engine, Error, HostInfo, Retry, SharedBatch, inspect_npy};

use super::args::{Arguments, Command, ElementName, Function, Generator, GlobalOptions, Reduction};
use super::distributions::{self, Recipe};
use super::kernels::{self, FloatKernels, GENERATED, Kernels};
use super::output::{OutputFormat, Reduced, Report, reduce_pair_report, reduce_report, render, stats_report};
use super::progress::{Progress, is_interrupted, on_interrupt, with_meter, with_progress};
use super::units::format_size;

/// Why a command failed; `Display` prints the one line the user sees.
#[derive(Debug)]
pub(crate) enum Failure {
    Engine(Error),
    Interrupted,
    Message(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => {
                write!(f, "{error}")?;
                match std::error::Error::source(error) {
                    Some(cause) => write!(f, ": {cause}"),
                    None => Ok(()),
                }
            }
            Self::Interrupted => f.write_str("interrupted"),
            Self::Message(message) => f.write_str(message),
        }
    }
}

type Outcome<T> = Result<T, Failure>;

/// Runs one command and prints its result.
///
/// # Errors
/// Whatever went wrong; nothing is printed to standard output then.
pub(crate) fn run(arguments: &Arguments) -> Outcome<()> {
    match run_to_the_end(arguments) {
        // Whatever else failed, failed because of that, or does not matter any more.
        Err(_) if is_interrupted() => Err(Failure::Interrupted),
        outcome => outcome,
    }
}

fn run_to_the_end(arguments: &Arguments) -> Outcome<()> {
    let global = &arguments.global;
    let engine = engine(global)?;
    let reports = match &arguments.command {
        Command::Stats(files) => {
            files.files.iter().map(|file| stats(&engine, global, file)).collect::<Outcome<Vec<_>>>()?
        }
        Command::Reduce(reduction) => vec![reduce(&engine, global, reduction)?],
        Command::Map(function) => vec![map(&engine, global, function)?],
        Command::Generate(generator) => vec![generate(&engine, global, generator)?],
        Command::Info => vec![info(&engine, global)],
    };
    let writes_file = matches!(arguments.command, Command::Map(_) | Command::Generate(_));
    if writes_file && global.quiet && !global.json {
        return Ok(());
    }
    let format = if global.json { OutputFormat::Json } else { OutputFormat::Human };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(render(&reports, format).as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever read the output has had enough of it.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Message(format!("could not write the result: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// The engine the options ask for.
fn engine(global: &GlobalOptions) -> Outcome<Arc<Engine>> {
    let mut builder = Engine::builder();
    if let Some(threads) = global.threads {
        builder = builder.threads(usize::from(threads));
    }
    if let Some(capacity) = global.capacity {
        builder = builder.capacity(capacity);
    }
    let Some(processes) = global.processes else { return Ok(Arc::new(builder.build()?)) };
    let engine = Arc::new(builder.processes(usize::from(processes)).kernels(&kernels::known()).build()?);
    let running = Arc::downgrade(&engine);
    on_interrupt(move || {
        // Kernels in other processes do not look whether the user asked for the end: the engine tells them. Not waited for here,
        // but where the calls are made, which fail now.
        if let Some(engine) = running.upgrade() {
            let _ = engine.close_now(Duration::ZERO);
        }
    });
    Ok(engine)
}

/// How often a share of a call is run again after the death of its worker process. Right for every kernel of the commands: each
/// writes all of its outputs and reads none of them.
const RETRY: Retry = Retry::up_to(3);

/// Makes a call on worker processes, which know `kernel` but no closures.
fn on_processes<R>(
    engine: &Engine,
    global: &GlobalOptions,
    label: &str,
    bytes: u64,
    kernel: impl FnOnce(Call<'_>) -> workring::Result<R>,
) -> Outcome<R> {
    Ok(with_meter(label, bytes, global.quiet, |meter| kernel(engine.job().retry(RETRY).meter(meter)))?)
}

/// Calls a generic function with the Rust type of an element type.
macro_rules! for_element {
    ($element:expr, $function:ident::<T>($($argument:expr),*)) => {
        match $element {
            ElementType::I8 => $function::<i8>($($argument),*),
            ElementType::I16 => $function::<i16>($($argument),*),
            ElementType::I32 => $function::<i32>($($argument),*),
            ElementType::I64 => $function::<i64>($($argument),*),
            ElementType::U8 => $function::<u8>($($argument),*),
            ElementType::U16 => $function::<u16>($($argument),*),
            ElementType::U32 => $function::<u32>($($argument),*),
            ElementType::U64 => $function::<u64>($($argument),*),
            ElementType::F32 => $function::<f32>($($argument),*),
            ElementType::F64 => $function::<f64>($($argument),*),
        }
    };
}

/// Folds a whole array, chunk by chunk, with progress and interruption: by `kernel` on processes, by the others on threads.
fn fold<T: Element, A: Send + Sync>(
    engine: &Engine,
    global: &GlobalOptions,
    label: &str,
    elements: &SharedBatch<T>,
    kernel: impl FnOnce(Call<'_>, &SharedBatch<T>) -> workring::Result<A>,
    fold: impl Fn(&[T]) -> A + Sync,
    combine: impl Fn(A, A) -> A,
) -> Outcome<A> {
    let bytes = size_of_val::<[T]>(elements) as u64;
    if global.processes.is_some() {
        return on_processes(engine, global, label, bytes, |call| kernel(call, elements));
    }
    let folded = with_progress(label, bytes, global.quiet, |progress| {
        engine.reduce_with(
            elements,
            // An interrupted chunk folds nothing; the result is not used.
            |chunk| if progress.begin(size_of_val(chunk)) { fold(chunk) } else { fold(&[]) },
            combine,
        )
    })?;
    if is_interrupted() { Err(Failure::Interrupted) } else { Ok(folded) }
}

fn label(operation: &str, file: &Path) -> String {
    let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    format!("{operation} {}", name.escape_debug())
}

fn stats(engine: &Engine, global: &GlobalOptions, file: &Path) -> Outcome<Report> {
    let element = inspect_npy(file)?.element;
    let stats = for_element!(element, stats_of::<T>(engine, global, file))?;
    Ok(stats_report(file, element.name(), stats))
}

fn stats_of<T: Kernels>(engine: &Engine, global: &GlobalOptions, file: &Path) -> Outcome<Stats> {
    let elements = engine.map_file::<T>(file)?;
    fold(engine, global, &label("stats", file), &elements, T::stats, numeric::stats, Stats::combine)
}

fn reduce(engine: &Engine, global: &GlobalOptions, reduction: &Reduction) -> Outcome<Report> {
    match reduction {
        Reduction::Dot { left, right } => {
            let (element, other) = (inspect_npy(left)?.element, inspect_npy(right)?.element);
            if element != other {
                let (left, right) = (left.display(), right.display());
                return Err(Failure::Message(format!("{left} holds {element} elements but {right} holds {other}")));
            }
            let (len, value) = for_element!(element, dot_of::<T>(engine, global, left, right))?;
            Ok(reduce_pair_report(reduction.name(), [left, right], element.name(), len, value))
        }
        Reduction::Sum(one) | Reduction::Min(one) | Reduction::Max(one) | Reduction::Mean(one) => {
            let element = inspect_npy(&one.file)?.element;
            let (len, value) = for_element!(element, reduce_of::<T>(engine, global, reduction, &one.file))?;
            Ok(reduce_report(reduction.name(), &one.file, element.name(), len, value))
        }
    }
}

/// What sums of either kind have in common.
trait Sum: Accumulator + Into<Reduced> {
    fn mean(self) -> f64;
}

impl Sum for numeric::FloatSum {
    fn mean(self) -> f64 {
        numeric::FloatSum::mean(self)
    }
}

impl Sum for IntegerSum {
    fn mean(self) -> f64 {
        IntegerSum::mean(self)
    }
}

/// An element as the result of a reduction.
trait Shown {
    fn shown(self) -> Reduced;
}

macro_rules! shown {
    ($($integer:ty),*) => {
        $(impl Shown for $integer {
            fn shown(self) -> Reduced {
                Reduced::from(i128::from(self))
            }
        })*
    };
}

shown!(i8, i16, i32, i64, u8, u16, u32, u64);

impl Shown for f32 {
    fn shown(self) -> Reduced {
        self.into()
    }
}

impl Shown for f64 {
    fn shown(self) -> Reduced {
        self.into()
    }
}

fn reduce_of<T>(engine: &Engine, global: &GlobalOptions, reduction: &Reduction, file: &Path) -> Outcome<(u64, Reduced)>
where
    T: Kernels + numeric::Element<Sum: Sum> + Shown,
{
    let elements = engine.map_file::<T>(file)?;
    let label = label(reduction.name(), file);
    let no_elements = || Failure::Message(format!("{}: an empty array has no {}", file.display(), reduction.name()));
    let value = match reduction {
        Reduction::Min(_) | Reduction::Max(_) if elements.is_empty() => return Err(no_elements()),
        Reduction::Min(_) => fold(engine, global, &label, &elements, T::min, numeric::min, T::smaller)?.shown(),
        Reduction::Max(_) => fold(engine, global, &label, &elements, T::max, numeric::max, T::larger)?.shown(),
        Reduction::Mean(_) => {
            fold(engine, global, &label, &elements, T::sum, numeric::sum, Accumulator::combine)?.mean().into()
        }
        Reduction::Sum(_) | Reduction::Dot { .. } => {
            fold(engine, global, &label, &elements, T::sum, numeric::sum, Accumulator::combine)?.into()
        }
    };
    Ok((elements.len() as u64, value))
}

fn dot_of<T>(engine: &Engine, global: &GlobalOptions, left: &Path, right: &Path) -> Outcome<(u64, Reduced)>
where
    T: Kernels + numeric::Element<Sum: Sum>,
{
    let (x, y) = (engine.map_file::<T>(left)?, engine.map_file::<T>(right)?);
    if x.len() != y.len() {
        let (left, right) = (left.display(), right.display());
        return Err(Failure::Message(format!("{left} has {} elements but {right} has {}", x.len(), y.len())));
    }
    // The chunks are cut from the first array; its address says where the second one's begin.
    let begin = x.as_ptr() as usize;
    let chunk_dot = |chunk: &[T]| {
        let at = if chunk.is_empty() { 0 } else { (chunk.as_ptr() as usize - begin) / size_of::<T>() };
        numeric::dot(chunk, &y[at..at + chunk.len()]).unwrap_or_else(|_| Accumulator::identity())
    };
    let kernel = |call: Call<'_>, x: &SharedBatch<T>| T::dot(call, x, &y);
    let dot: T::Sum = fold(engine, global, &label("dot", left), &x, kernel, chunk_dot, Accumulator::combine)?;
    Ok((x.len() as u64, dot.into()))
}

fn map(engine: &Engine, global: &GlobalOptions, function: &Function) -> Outcome<Report> {
    let files = function.files();
    let element = inspect_npy(&files.input)?.element;
    let len = match element {
        ElementType::F32 => map_of::<f32>(engine, global, function)?,
        ElementType::F64 => map_of::<f64>(engine, global, function)?,
        other => {
            let file = files.input.display();
            return Err(Failure::Message(format!("{file} holds {other} elements; map works on float32 and float64")));
        }
    };
    let report = Report::new().text("function", function.name()).path("input", &files.input);
    Ok(report.path("output", &files.output).text("dtype", element.name()).integer("len", len))
}

/// A floating point type that the parameters of the command line, given as `f64`, can be rounded to.
trait Parameter: Float {
    fn of(value: f64) -> Self;
}

impl Parameter for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }
}

impl Parameter for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

fn map_of<T: FloatKernels + Parameter>(engine: &Engine, global: &GlobalOptions, function: &Function) -> Outcome<u64> {
    let files = function.files();
    let x = engine.map_file::<T>(&files.input)?;
    let mut y = engine.create_file::<T>(&files.output, x.len())?;
    let (label, bytes) = (label(function.name(), &files.input), size_of_val::<[T]>(&x) as u64);
    if global.processes.is_some() {
        on_processes(engine, global, &label, bytes, |call| T::map(call, function, &x, y.batch()))?;
        return commit(y, x.len());
    }
    let apply = |x: &[T], y: &mut [T]| {
        let applied = match function {
            Function::Affine { a, b, .. } => numeric::affine(x, y, T::of(*a), T::of(*b)),
            Function::Sqrt(_) => numeric::sqrt(x, y),
            Function::Exp(_) => numeric::exp(x, y),
            Function::Ln(_) => numeric::ln(x, y),
            Function::Abs(_) => numeric::abs(x, y),
            Function::Square(_) => numeric::square(x, y),
            Function::Negate(_) => numeric::negate(x, y),
            Function::Reciprocal(_) => numeric::reciprocal(x, y),
            Function::Clamp { lower, upper, .. } => {
                let lower = lower.map_or(T::SMALLEST, T::of);
                numeric::clamp(x, y, lower, upper.map_or(T::LARGEST, T::of))
            }
        };
        // Only a clamp with a NaN or inverted bound, or slices of different lengths, can fail; the arguments were checked.
        if let Err(error) = applied {
            panic!("{error}");
        }
    };
    with_progress(&label, bytes, global.quiet, |progress| {
        engine.map_with(&x, &mut y, |x, y| {
            if progress.begin(size_of_val(x)) {
                apply(x, y);
            }
        })
    })?;
    commit(y, x.len())
}

fn commit<T: Element>(file: workring::OutputBatch<T>, len: usize) -> Outcome<u64> {
    if is_interrupted() {
        // Dropping the file leaves nothing behind.
        return Err(Failure::Interrupted);
    }
    file.commit()?;
    Ok(len as u64)
}

fn element_type(name: ElementName) -> ElementType {
    match name {
        ElementName::Int8 => ElementType::I8,
        ElementName::Int16 => ElementType::I16,
        ElementName::Int32 => ElementType::I32,
        ElementName::Int64 => ElementType::I64,
        ElementName::Uint8 => ElementType::U8,
        ElementName::Uint16 => ElementType::U16,
        ElementName::Uint32 => ElementType::U32,
        ElementName::Uint64 => ElementType::U64,
        ElementName::Float32 => ElementType::F32,
        ElementName::Float64 => ElementType::F64,
    }
}

fn generate(engine: &Engine, global: &GlobalOptions, generator: &Generator) -> Outcome<Report> {
    let file = generator.file();
    let element = element_type(file.dtype);
    let len = for_element!(element, generate_of::<T>(engine, global, generator))?;
    let report = Report::new().text("distribution", generator.name()).path("output", &file.output);
    Ok(report.text("dtype", element.name()).integer("len", len).integer("seed", file.seed))
}

fn generate_of<T: Kernels>(engine: &Engine, global: &GlobalOptions, generator: &Generator) -> Outcome<u64> {
    let file = generator.file();
    let distribution = generator.distribution().map_err(|error| Failure::Message(error.to_string()))?;
    let len = usize::try_from(file.len).map_err(|_| Failure::Message(format!("{} elements are too many", file.len)))?;
    let mut elements = engine.create_file::<T>(&file.output, len)?;
    let (label, bytes) = (label(generator.name(), &file.output), len as u64 * size_of::<T>() as u64);
    if global.processes.is_some() {
        let recipe = Recipe::new(distribution, file.seed);
        on_processes(engine, global, &label, bytes, |call| T::generate(call, elements.batch(), &recipe))?;
        return commit(elements, len);
    }
    let fill = |progress: &Progress, first: usize, chunk: &mut [T]| {
        if progress.begin(size_of_val(chunk)) {
            distributions::fill(chunk, distribution, file.seed, first as u64);
        }
    };
    with_progress(&label, bytes, global.quiet, |progress| {
        engine.for_each_chunk(&mut elements, GENERATED, |first, chunk| fill(progress, first, chunk))
    })?;
    commit(elements, len)
}

fn info(engine: &Engine, global: &GlobalOptions) -> Report {
    let host = HostInfo::read();
    let size = |report: Report, name: &'static str, bytes: Option<u64>| match bytes {
        None => report.text(name, "none"),
        Some(bytes) if global.json => report.integer(name, bytes),
        Some(bytes) => report.text(name, format_size(bytes)),
    };
    let statistics = engine.statistics();
    let text = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
    let cores = host.allowed_cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut report = Report::new()
        .text("version", env!("CARGO_PKG_VERSION"))
        .text("cpu", text(host.cpu_model.clone()))
        .integer("cores", host.available_cores as u64)
        .text("allowed_cores", cores)
        .text("kernel", text(host.kernel_release.clone()))
        .integer("threads", statistics.threads as u64);
    if let Some(processes) = global.processes {
        report = report.integer("processes", processes);
    }
    report = report.integer("queue_capacity", statistics.queue_capacity);
    report = size(report, "arena_capacity", Some(statistics.arena.capacity));
    report = size(report, "page_size", Some(host.page_size as u64));
    report = size(report, "large_page_size", host.large_page_size.map(|bytes| bytes as u64));
    report = report
        .text("large_pages_anonymous", host.large_pages_anonymous)
        .text("large_pages_shared_memory", host.large_pages_shared_memory);
    for (name, key) in [
        ("cache_level_1_data", "level_1_data"),
        ("cache_level_2", "level_2"),
        ("cache_level_3", "level_3"),
        ("cache_line", "line"),
    ] {
        report = size(report, name, host.caches.get(key).copied());
    }
    report = size(report, "memory_total", host.memory_total);
    report = size(report, "memory_available", host.memory_available);
    for (name, key) in
        [("limit_address_space", "address_space"), ("limit_data", "data"), ("limit_locked_memory", "locked_memory")]
    {
        report = size(report, name, host.limits.get(key).copied());
    }
    match host.limits.get("open_files") {
        Some(&files) => report.integer("limit_open_files", files),
        None => report.text("limit_open_files", "none"),
    }
}
