//! What the commands do, on an engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use workring::numeric::{self, Accumulator, IntegerSum};
use workring::{
    Engine, JobBuilder, SharedBatch,
    files::{ElementType, NpyElement, inspect_npy},
    stats::HostInfo,
};

use super::args::{Arguments, Command, ElementName, Function, Generator, GlobalOptions, Reduction, is_stdout};
use super::arrays::{Drawn, Mapped, write};
use super::failure::{Failure, Outcome, complain, give_up_if_interrupted};
use super::kernels::{self, FloatKernels, Kernels, RETRY};
use super::output::{
    Described, OutputFormat, Reduced, Report, reduce_pair_report, reduce_report, render, render_several, stats_report,
};
use super::progress::with_progress;
use super::signals::{is_interrupted, on_signal};
use super::stdio::{check_stdout, check_stdout_takes_data, write_stdout};
use super::units::format_size;

/// Runs one command and prints its result.
///
/// # Errors
/// Whatever went wrong; nothing is printed to standard output then, but what of several files could be had.
pub(crate) fn run(arguments: &Arguments) -> Outcome<()> {
    match run_to_the_end(arguments) {
        // Whatever else failed, failed because of that, or does not matter any more.
        Err(_) if is_interrupted() => Err(Failure::Interrupted),
        outcome => outcome,
    }
}

fn run_to_the_end(arguments: &Arguments) -> Outcome<()> {
    let global = &arguments.global;
    let output = arguments.output();
    let is_data = output.is_some_and(is_stdout);
    let prints = !is_data && (output.is_none() || !global.quiet || global.json);
    if is_data {
        check_stdout_takes_data()?;
    } else if prints {
        check_stdout()?;
    }
    let engine = engine(global)?;
    let format = if global.json { OutputFormat::Json } else { OutputFormat::Human };
    let report = match &arguments.command {
        Command::Stats(files) if files.files.len() > 1 => return stats_of_each(&engine, global, &files.files, format),
        Command::Stats(files) => stats(&engine, global, &files.files[0])?,
        Command::Reduce(reduction) => reduce(&engine, global, reduction)?,
        Command::Map(function) => map(&engine, global, function)?,
        Command::Generate(generator) => generate(&engine, global, generator)?,
        Command::Info => info(&engine, global),
    };
    if prints { write_stdout(render(&[report], format).as_bytes()) } else { Ok(()) }
}

/// Describes each file that can be read, tells of each that cannot, and fails if there was one.
fn stats_of_each(engine: &Engine, global: &GlobalOptions, files: &[PathBuf], format: OutputFormat) -> Outcome<()> {
    let mut reports = Vec::new();
    for file in files {
        match stats(engine, global, file) {
            Ok(report) => reports.push(report),
            Err(_) if is_interrupted() => return Err(Failure::Interrupted),
            Err(failure) => complain(failure),
        }
    }
    if !reports.is_empty() {
        write_stdout(render_several(&reports, format).as_bytes())?;
    }
    if reports.len() == files.len() { Ok(()) } else { Err(Failure::Told) }
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
    on_signal(move || {
        // Kernels in other processes do not look whether the user asked for the end: the engine tells them. Not waited for here,
        // but where the calls are made, which fail now.
        if let Some(engine) = running.upgrade() {
            let _ = engine.close_now(Duration::ZERO);
        }
    });
    Ok(engine)
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
fn fold<T: NpyElement, A: Send + Sync>(
    engine: &Engine,
    global: &GlobalOptions,
    label: &str,
    elements: &SharedBatch<T>,
    kernel: impl FnOnce(JobBuilder<'_>, &SharedBatch<T>) -> workring::Result<A>,
    fold: impl Fn(&[T]) -> A + Sync,
    combine: impl Fn(A, A) -> A,
) -> Outcome<A> {
    let bytes = size_of_val::<[T]>(elements) as u64;
    let folded = with_progress(label, bytes, global.quiet, |progress| {
        if global.processes.is_some() {
            // Worker processes know `kernel` but no closures.
            return progress.call(bytes, |meter| kernel(engine.job().retry(RETRY).meter(meter), elements));
        }
        engine.reduce_with(
            elements,
            // An interrupted chunk folds nothing; the result is not used.
            |chunk| progress.chunk(size_of_val(chunk), || fold(chunk)).unwrap_or_else(|| fold(&[])),
            combine,
        )
    })?;
    give_up_if_interrupted()?;
    Ok(folded)
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

fn stats_of<T>(engine: &Engine, global: &GlobalOptions, file: &Path) -> Outcome<Described>
where
    T: Kernels + numeric::Element<Stats: Into<Described>>,
{
    let elements = engine.map_file::<T>(file)?;
    Ok(fold(engine, global, &label("stats", file), &elements, T::stats, numeric::stats, Accumulator::combine)?.into())
}

fn reduce(engine: &Engine, global: &GlobalOptions, reduction: &Reduction) -> Outcome<Report> {
    match reduction {
        Reduction::Dot { left, right } => {
            let (element, other) = match (inspect_npy(left), inspect_npy(right)) {
                (Ok(left), Ok(right)) => (left.element, right.element),
                (Err(first), Err(second)) if left != right => {
                    complain(Failure::from(first));
                    return Err(second.into());
                }
                (Err(error), _) | (_, Err(error)) => return Err(error.into()),
            };
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
    let kernel = |call: JobBuilder<'_>, x: &SharedBatch<T>| T::dot(call, x, &y);
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

fn map_of<T: FloatKernels>(engine: &Engine, global: &GlobalOptions, function: &Function) -> Outcome<u64> {
    let files = function.files();
    let elementwise = function.elementwise::<T>().map_err(|error| {
        let (file, element) = (files.input.display(), T::NAME);
        Failure::Message(format!("{file} holds {element} elements: {error}"))
    })?;
    let (x, info) = engine.map_npy::<T>(&files.input)?;
    let label = label(function.name(), &files.input);
    let (len, shape) = (x.len(), info.shape);
    write(engine, global, &label, &files.output, &shape, len, &Mapped { function: elementwise, x })?;
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
    let distribution = generator.distribution::<T>().map_err(|error| Failure::Message(error.to_string()))?;
    let len = usize::try_from(file.len).map_err(|_| Failure::Message(format!("{} elements are too many", file.len)))?;
    let label = label(generator.name(), &file.output);
    let generated = Drawn { distribution, seed: file.seed };
    write::<T>(engine, global, &label, &file.output, &[file.len], len, &generated)?;
    Ok(file.len)
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
        .text("large_pages_shared_memory", host.large_pages_shared_memory)
        .text("large_pages_on_demand", if host.large_pages_on_demand { "yes" } else { "no" });
    if let Some((reserved, free)) = host.large_pages_reserved {
        report = report.integer("large_pages_reserved", reserved).integer("large_pages_reserved_free", free);
    }
    for (name, key) in [
        ("cache_level_1_data", "level_1_data"),
        ("cache_level_2", "level_2"),
        ("cache_level_3", "level_3"),
        ("cache_line", "line"),
    ] {
        report = size(report, name, host.caches.get(key).copied());
    }
    report = report.integer("memory_nodes", host.memory_nodes.len() as u64);
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
