//! The command line: what can be asked for, and the help that says so.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, value_parser};
use workring::numeric::Float;

use super::distributions::{Distribution, Generated, ParameterError};
use super::functions::Elementwise;
use super::number::Number;
use super::units::{parse_count, parse_size};

/// What `-` means in the place of an output.
const STDOUT: &str = "-";

/// Whether an output is standard output and no file.
pub(crate) fn is_stdout(output: &Path) -> bool {
    output == Path::new(STDOUT)
}

/// The most workers that can be asked for, threads or processes.
pub(crate) const WORKERS_MAX: u16 = workring::MAX_THREADS as u16;

const EXAMPLES: &str = "\
Examples:
  workring stats prices.npy                           count, extrema, mean and deviation
  workring stats --json *.npy | jq '.files[].mean'    the same for other programs
  workring reduce dot weights.npy prices.npy          one number from two files
  workring map affine in.npy -o out.npy --a 2 --b 1   out[i] = 2 * in[i] + 1
  workring gen normal -n 1e8 -o noise.npy --seed 7    a hundred million random numbers
  workring --threads 2 reduce sum noise.npy           the same bits with any number of threads
  workring --processes 2 reduce sum noise.npy         and of processes, even if some of them crash

Files are numpy's .npy, whatever their names. Those to read are mapped, so a pipe or - cannot be
one: save it first (zcat x.npy.gz > x.npy). Exit status: 0 done, 1 failed, even if only for one of
several files, 2 wrong usage. Ctrl-C, SIGTERM and SIGHUP leave no file behind; a second one does
not wait for the work under way.";

/// Parallel computation over large numeric arrays.
///
/// Reads and writes numpy's .npy files without copying them and spreads the work over all processors. Results do not
/// depend on the number of threads or processes.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(name = "workring", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Options every command takes.
    #[command(flatten)]
    pub(crate) global: GlobalOptions,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options every command takes, before or after its name.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalOptions {
    /// Number of worker threads [default: one for each processor]
    #[arg(long, global = true, value_name = "N", value_parser = value_parser!(u16).range(1..=i64::from(WORKERS_MAX)))]
    pub(crate) threads: Option<u16>,
    /// Use N worker processes instead of threads, where a crash must not end the command (Linux only)
    #[arg(long, global = true, value_name = "N", value_parser = value_parser!(u16).range(1..=i64::from(WORKERS_MAX)))]
    pub(crate) processes: Option<u16>,
    /// Memory for batches, e.g. 512MiB or 8GiB [default: as much as the command needs]
    #[arg(long, global = true, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) capacity: Option<u64>,
    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print no progress and no remarks, only results and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub(crate) enum Command {
    /// Describe the contents of files: count, missing values, extrema, mean, deviation, sum
    ///
    /// NaN counts as missing and is left out of everything but the length. The deviation is that of a sample (n - 1). Extrema and
    /// sums of integers are exact; sums of floating point numbers are those of reduce, exact until they are rounded once.
    #[command(after_help = "\
Examples:
  workring stats prices.npy
  workring stats --json prices.npy volumes.npy

A file that cannot be read is reported, the others are described all the same.
With --json, one file gives one object with the keys file, dtype, len, nan, min, max, mean, std and
sum, and sum_bits for floating point; several give {\"files\": [...]}. What JSON cannot express (NaN,
infinities) is null. Min, max and sum of integers are JSON integers with all their digits, which may
be more than 64 bits hold.")]
    Stats(StatsArguments),
    /// Fold a file, or two, to one number
    ///
    /// NaN anywhere makes the result NaN, as in numpy. Sums are exact, whatever the size of the numbers and of the file: integers
    /// are printed with all their digits, and floating point sums and means are rounded once, at the end.
    #[command(subcommand_value_name = "OPERATION", subcommand_help_heading = "Operations")]
    #[command(after_help = "\
Examples:
  workring reduce max prices.npy
  workring reduce dot weights.npy prices.npy --json")]
    #[command(subcommand)]
    Reduce(Reduction),
    /// Compute a new file element by element
    #[command(subcommand_value_name = "FUNCTION", subcommand_help_heading = "Functions")]
    #[command(after_help = "\
Examples:
  workring map sqrt variances.npy -o deviations.npy
  workring map affine celsius.npy -o fahrenheit.npy --a 1.8 --b 32
  workring map clamp raw.npy -o limited.npy --lower 0
  workring map exp logs.npy -o - | gzip > values.npy.gz

Works on float32 and float64 and keeps type and shape; arrays in Fortran order are refused.
The output file appears whole or not at all, and one that is replaced keeps its mode. With -o -
the array goes to standard output, as it is made.")]
    #[command(subcommand)]
    Map(Function),
    /// Generate a file of random or regular numbers
    ///
    /// Each number depends on the seed and its index alone: the same command gives the same file with any number of
    /// workers. Integers are exact: uniform ones are whole numbers from --low up to, but not including, --high, which may be
    /// one above the largest of the type, and a sequence that would leave the type is refused. So is every parameter that
    /// the type does not have. Normal and exponential numbers are rounded to the nearest in integer files; those that
    /// the type cannot hold become the closest it can, never an infinity.
    #[command(name = "gen", subcommand_value_name = "DISTRIBUTION", subcommand_help_heading = "Distributions")]
    #[command(after_help = "\
Examples:
  workring gen uniform -n 1_000_000 -o u.npy --low -1 --high 1
  workring gen normal -n 1e8 -o noise.npy --std 0.5 --seed 7 --dtype float32
  workring gen sequence -n 100 -o index.npy --dtype int64")]
    #[command(subcommand)]
    Generate(Generator),
    /// Show what the engine sees of this machine
    Info,
}

/// Arguments of `stats`.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct StatsArguments {
    /// The files to describe (no pipe and no -, as they are mapped)
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// The file of a `reduce` operation on one file.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct OneFile {
    /// The file to read (no pipe and no -, as it is mapped)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// Operations of `reduce`.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub(crate) enum Reduction {
    /// The sum: exact, and for floating point rounded once to float64
    Sum(OneFile),
    /// The smallest element
    Min(OneFile),
    /// The largest element
    Max(OneFile),
    /// The arithmetic mean
    Mean(OneFile),
    /// The sum of the products of the elements of two files of the same type and length
    ///
    /// Products of float64 elements are rounded to float64; the sum of the products is exact until it is rounded once.
    Dot {
        /// The first file (no pipe and no -, as it is mapped)
        #[arg(value_name = "FILE")]
        left: PathBuf,
        /// The second file
        #[arg(value_name = "FILE2")]
        right: PathBuf,
    },
}

impl Reduction {
    /// The name of the operation, as typed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sum(_) => "sum",
            Self::Min(_) => "min",
            Self::Max(_) => "max",
            Self::Mean(_) => "mean",
            Self::Dot { .. } => "dot",
        }
    }
}

/// The files of `map`.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct MapFiles {
    /// The file to read (no pipe and no -, as it is mapped)
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The file to write, replaced if it exists; - for standard output
    #[arg(long, short, value_name = "OUT")]
    pub(crate) output: PathBuf,
}

/// Functions of `map`.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub(crate) enum Function {
    /// A * x + B
    Affine {
        #[command(flatten)]
        files: MapFiles,
        /// The factor
        #[arg(long, value_name = "A", default_value = "1")]
        #[arg(allow_negative_numbers = true, value_parser = parse_finite)]
        a: Number,
        /// The addend
        #[arg(long, value_name = "B", default_value = "0")]
        #[arg(allow_negative_numbers = true, value_parser = parse_finite)]
        b: Number,
    },
    /// The square root; NaN below zero
    Sqrt(MapFiles),
    /// e to the power of x
    Exp(MapFiles),
    /// The natural logarithm; NaN below zero
    Ln(MapFiles),
    /// The absolute value
    Abs(MapFiles),
    /// x * x
    Square(MapFiles),
    /// -x
    Negate(MapFiles),
    /// 1 / x
    Reciprocal(MapFiles),
    /// x, or the bound it lies beyond; NaN stays NaN
    #[command(group(clap::ArgGroup::new("bounds").required(true).multiple(true).args(["lower", "upper"])))]
    Clamp {
        #[command(flatten)]
        files: MapFiles,
        /// The smallest value to keep
        #[arg(long, value_name = "LOWER", allow_hyphen_values = true, value_parser = parse_number)]
        lower: Option<Number>,
        /// The largest value to keep
        #[arg(long, value_name = "UPPER", allow_hyphen_values = true, value_parser = parse_number)]
        upper: Option<Number>,
    },
}

impl Function {
    /// The name of the function, as typed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Affine { .. } => "affine",
            Self::Sqrt(_) => "sqrt",
            Self::Exp(_) => "exp",
            Self::Ln(_) => "ln",
            Self::Abs(_) => "abs",
            Self::Square(_) => "square",
            Self::Negate(_) => "negate",
            Self::Reciprocal(_) => "reciprocal",
            Self::Clamp { .. } => "clamp",
        }
    }

    /// The function with its parameters, for elements of type `T`.
    ///
    /// # Errors
    /// If a parameter is beyond the range of this type; never for `f64` in arguments from [`Arguments::try_parse_checked`].
    pub(crate) fn elementwise<T: Float + Generated>(&self) -> Result<Elementwise<T>, ParameterError> {
        Ok(match self {
            Self::Affine { a, b, .. } => Elementwise::affine(a, b)?,
            Self::Sqrt(_) => Elementwise::Sqrt,
            Self::Exp(_) => Elementwise::Exp,
            Self::Ln(_) => Elementwise::Ln,
            Self::Abs(_) => Elementwise::Abs,
            Self::Square(_) => Elementwise::Square,
            Self::Negate(_) => Elementwise::Negate,
            Self::Reciprocal(_) => Elementwise::Reciprocal,
            Self::Clamp { lower, upper, .. } => Elementwise::clamp(lower.as_ref(), upper.as_ref())?,
        })
    }

    /// What to read and write.
    pub(crate) fn files(&self) -> &MapFiles {
        match self {
            Self::Affine { files, .. } | Self::Clamp { files, .. } => files,
            Self::Sqrt(files)
            | Self::Exp(files)
            | Self::Ln(files)
            | Self::Abs(files)
            | Self::Square(files)
            | Self::Negate(files)
            | Self::Reciprocal(files) => files,
        }
    }
}

/// What every distribution of `gen` takes.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct GeneratedFile {
    /// Number of elements, e.g. 1_000_000 or 1e8
    #[arg(long, short = 'n', value_name = "LEN", value_parser = parse_count)]
    pub(crate) len: u64,
    /// The file to write, replaced if it exists; - for standard output
    #[arg(long, short, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Seed of the random numbers; regular sequences do not need one
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// NpyElement type: float32, float64, int8 to int64 or uint8 to uint64
    #[arg(long, value_name = "DTYPE", value_enum, default_value_t = ElementName::Float64, hide_possible_values = true)]
    pub(crate) dtype: ElementName,
}

/// Distributions of `gen`.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub(crate) enum Generator {
    /// Evenly distributed from --low up to, but not including, --high
    Uniform {
        #[command(flatten)]
        file: GeneratedFile,
        /// The smallest value
        #[arg(long, value_name = "LOW", default_value = "0", allow_hyphen_values = true, value_parser = Number::parse)]
        low: Number,
        /// The bound all values lie below
        #[arg(long, value_name = "HIGH", default_value = "1", allow_hyphen_values = true, value_parser = Number::parse)]
        high: Number,
    },
    /// Normally distributed
    Normal {
        #[command(flatten)]
        file: GeneratedFile,
        /// The mean
        #[arg(long, value_name = "MEAN", default_value = "0", allow_hyphen_values = true, value_parser = Number::parse)]
        mean: Number,
        /// The standard deviation
        #[arg(long = "std", value_name = "STD", default_value = "1", allow_hyphen_values = true, value_parser = Number::parse)]
        standard_deviation: Number,
    },
    /// Exponentially distributed
    Exponential {
        #[command(flatten)]
        file: GeneratedFile,
        /// The rate: one divided by the mean
        #[arg(long, value_name = "RATE", default_value = "1", allow_hyphen_values = true, value_parser = Number::parse)]
        rate: Number,
    },
    /// START, START + STEP, START + 2 * STEP, ...
    #[command(visible_alias = "arange")]
    Sequence {
        #[command(flatten)]
        file: GeneratedFile,
        /// The first element
        #[arg(long, value_name = "START", default_value = "0", allow_hyphen_values = true, value_parser = Number::parse)]
        start: Number,
        /// The distance from one element to the next
        #[arg(long, value_name = "STEP", default_value = "1", allow_hyphen_values = true, value_parser = Number::parse)]
        step: Number,
    },
    /// The same value everywhere
    Constant {
        #[command(flatten)]
        file: GeneratedFile,
        /// The value
        #[arg(long, value_name = "VALUE", allow_hyphen_values = true, value_parser = Number::parse)]
        value: Number,
    },
}

impl Generator {
    /// The name of the distribution, as typed without its alias.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Uniform { .. } => "uniform",
            Self::Normal { .. } => "normal",
            Self::Exponential { .. } => "exponential",
            Self::Sequence { .. } => "sequence",
            Self::Constant { .. } => "constant",
        }
    }

    /// What to write.
    pub(crate) fn file(&self) -> &GeneratedFile {
        match self {
            Self::Uniform { file, .. }
            | Self::Normal { file, .. }
            | Self::Exponential { file, .. }
            | Self::Sequence { file, .. }
            | Self::Constant { file, .. } => file,
        }
    }

    /// The distribution with its parameters, for elements of type `T`.
    ///
    /// # Errors
    /// If a parameter is outside its range for this type; never for the type that arguments from [`Arguments::try_parse_checked`] ask
    /// for.
    pub(crate) fn distribution<T: Generated>(&self) -> Result<Distribution, ParameterError> {
        match self {
            Self::Uniform { low, high, .. } => Distribution::uniform::<T>(low, high),
            Self::Normal { mean, standard_deviation, .. } => Distribution::normal::<T>(mean, standard_deviation),
            Self::Exponential { rate, .. } => Distribution::exponential::<T>(rate),
            Self::Sequence { file, start, step } => Distribution::sequence::<T>(start, step, file.len),
            Self::Constant { value, .. } => Distribution::constant::<T>(value),
        }
    }

    /// Whether the parameters are right for the type that is asked for.
    fn check(&self) -> Result<(), ParameterError> {
        match self.file().dtype {
            ElementName::Int8 => self.distribution::<i8>(),
            ElementName::Int16 => self.distribution::<i16>(),
            ElementName::Int32 => self.distribution::<i32>(),
            ElementName::Int64 => self.distribution::<i64>(),
            ElementName::Uint8 => self.distribution::<u8>(),
            ElementName::Uint16 => self.distribution::<u16>(),
            ElementName::Uint32 => self.distribution::<u32>(),
            ElementName::Uint64 => self.distribution::<u64>(),
            ElementName::Float32 => self.distribution::<f32>(),
            ElementName::Float64 => self.distribution::<f64>(),
        }
        .map(drop)
    }
}

/// NpyElement types by their numpy names; the short names of Rust are understood too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElementName {
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Float32,
    Float64,
}

impl ValueEnum for ElementName {
    fn value_variants<'a>() -> &'a [Self] {
        use ElementName::*;
        &[Float64, Float32, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, alias) = match self {
            Self::Int8 => ("int8", "i8"),
            Self::Int16 => ("int16", "i16"),
            Self::Int32 => ("int32", "i32"),
            Self::Int64 => ("int64", "i64"),
            Self::Uint8 => ("uint8", "u8"),
            Self::Uint16 => ("uint16", "u16"),
            Self::Uint32 => ("uint32", "u32"),
            Self::Uint64 => ("uint64", "u64"),
            Self::Float32 => ("float32", "f32"),
            Self::Float64 => ("float64", "f64"),
        };
        Some(PossibleValue::new(name).alias(alias))
    }
}

impl Arguments {
    /// Reads the arguments of this process.
    ///
    /// # Errors
    /// As [`Arguments::try_parse_checked`].
    pub(crate) fn parse_checked() -> Result<Self, clap::Error> {
        Self::try_parse_checked(std::env::args_os())
    }

    /// Reads arguments, the program's name first, and checks what clap cannot: parameters that must fit together.
    ///
    /// # Errors
    /// A usage error, or the help that was asked for.
    pub(crate) fn try_parse_checked<I>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<std::ffi::OsString> + Clone,
    {
        let parsed = Self::try_parse_from(arguments)?;
        parsed.check().map_err(|message| Self::command().error(ErrorKind::ValueValidation, message))?;
        Ok(parsed)
    }

    fn check(&self) -> Result<(), String> {
        if self.inputs().contains(&Path::new("-")) {
            return Err("- is no input: files are mapped, not read. Save what comes through a pipe to a file first and name that; \
                 /dev/stdin will do if it is redirected from a file, and ./- is a file called -".to_owned());
        }
        if self.output().is_some_and(is_stdout) && self.global.json {
            return Err("--json cannot go with --output -: both want standard output".to_owned());
        }
        match &self.command {
            // What the widest type does not have, none has.
            Command::Map(function) => function.elementwise::<f64>().map(drop).map_err(|error| error.to_string()),
            Command::Generate(generator) => generator.check().map_err(|error| error.to_string()),
            _ => Ok(()),
        }
    }
}

impl Arguments {
    /// The files to read.
    fn inputs(&self) -> Vec<&Path> {
        match &self.command {
            Command::Stats(stats) => stats.files.iter().map(PathBuf::as_path).collect(),
            Command::Reduce(Reduction::Dot { left, right }) => vec![left, right],
            Command::Reduce(Reduction::Sum(one) | Reduction::Min(one) | Reduction::Max(one) | Reduction::Mean(one)) => {
                vec![&one.file]
            }
            Command::Map(function) => vec![&function.files().input],
            Command::Generate(_) | Command::Info => Vec::new(),
        }
    }

    /// The file to write.
    pub(crate) fn output(&self) -> Option<&Path> {
        match &self.command {
            Command::Map(function) => Some(&function.files().output),
            Command::Generate(generator) => Some(&generator.file().output),
            Command::Stats(_) | Command::Reduce(_) | Command::Info => None,
        }
    }
}

fn parse_number(text: &str) -> Result<Number, String> {
    Number::parse(text).ok().filter(|number| !number.is_nan()).ok_or_else(|| "expected a number".to_owned())
}

fn parse_finite(text: &str) -> Result<Number, String> {
    Number::parse(text).ok().filter(Number::is_finite).ok_or_else(|| "expected a finite number".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_checked(core::iter::once("workring").chain(line.split_whitespace()))
    }

    #[track_caller]
    fn assert_usage_error(line: &str, message: &str) {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.use_stderr(), "{line}");
        let text = error.to_string();
        assert!(text.contains(message), "{line}: {text}");
    }

    #[test]
    fn definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn commands_are_read() {
        let arguments = parse("stats a.npy b.npy --json --threads 3").unwrap();
        assert!(arguments.global.json && !arguments.global.quiet);
        assert_eq!((arguments.global.threads, arguments.global.capacity), (Some(3), None));
        let files = vec![PathBuf::from("a.npy"), PathBuf::from("b.npy")];
        assert_eq!(arguments.command, Command::Stats(StatsArguments { files }));

        let arguments = parse("--capacity 2GiB -q reduce dot x.npy y.npy").unwrap();
        assert_eq!((arguments.global.capacity, arguments.global.quiet), (Some(2 << 30), true));
        let Command::Reduce(reduction) = arguments.command else { panic!("not reduce") };
        assert_eq!(reduction.name(), "dot");
        assert_eq!(reduction, Reduction::Dot { left: "x.npy".into(), right: "y.npy".into() });

        let Command::Map(function) = parse("map affine in.npy -o out.npy --a -2.5 --b 1e-3").unwrap().command else {
            panic!("not map")
        };
        assert_eq!(function.files().output, Path::new("out.npy"));
        assert_eq!(function.elementwise::<f64>().unwrap(), Elementwise::Affine { a: -2.5, b: 0.001 });
        assert_eq!(parse("info").unwrap().command, Command::Info);
        assert_eq!(parse("--processes 3 info").unwrap().global.processes, Some(3));
        assert_eq!(parse("stats a.npy --processes 255").unwrap().global.processes, Some(255));
        let both = parse("stats a.npy --processes 2 --threads 1").unwrap().global;
        assert_eq!((both.processes, both.threads), (Some(2), Some(1)));
    }

    #[test]
    fn every_operation_is_known_by_its_name() {
        for name in ["sum", "min", "max", "mean"] {
            let Command::Reduce(reduction) = parse(&format!("reduce {name} x")).unwrap().command else {
                panic!("{name}")
            };
            assert_eq!(reduction.name(), name);
        }
        for name in ["affine", "sqrt", "exp", "ln", "abs", "square", "negate", "reciprocal", "clamp"] {
            let bounds = if name == "clamp" { "--upper -inf" } else { "" };
            let line = format!("map {name} x -o y {bounds}");
            let Command::Map(function) = parse(&line).unwrap().command else { panic!("{name}") };
            assert_eq!(function.name(), name);
            assert_eq!(function.files(), &MapFiles { input: "x".into(), output: "y".into() });
        }
        for name in ["uniform", "normal", "exponential", "sequence", "constant"] {
            let value = if name == "constant" { "--value nan" } else { "" };
            let line = format!("gen {name} -n 2e3 -o y --seed 9 {value}");
            let Command::Generate(generator) = parse(&line).unwrap().command else { panic!("{name}") };
            assert_eq!(generator.name(), name);
            let GeneratedFile { len, output, seed, dtype } = generator.file();
            assert_eq!((*len, &**output, *seed, *dtype), (2000, Path::new("y"), 9, ElementName::Float64));
        }
    }

    #[test]
    fn distributions_take_their_parameters() {
        let distribution = |line: &str| match parse(line).unwrap().command {
            Command::Generate(generator) => generator.distribution::<f64>().unwrap(),
            _ => panic!("{line}"),
        };
        let number = |text: &str| Number::parse(text).unwrap();
        let uniform = distribution("gen uniform -n 1 -o y --low -2 --high -1");
        assert_eq!(uniform, Distribution::uniform::<f64>(&number("-2"), &number("-1")).unwrap());
        let normal = distribution("gen normal -n 1 -o y --mean 3 --std 0.5");
        assert_eq!(normal, Distribution::normal::<f64>(&number("3"), &number("0.5")).unwrap());
        let exponential = distribution("gen exponential -n 1 -o y --rate 2");
        assert_eq!(exponential, Distribution::exponential::<f64>(&number("2")).unwrap());
        let sequence = distribution("gen arange -n 1 -o y --start 1 --step -1");
        assert_eq!(sequence, Distribution::sequence::<f64>(&number("1"), &number("-1"), 1).unwrap());
        let constant = distribution("gen constant -n 1 -o y --value -7");
        assert_eq!(constant, Distribution::constant::<f64>(&number("-7")).unwrap());
    }

    #[test]
    fn element_types_have_two_names() {
        for (long, short) in
            [("float32", "f32"), ("float64", "f64"), ("int8", "i8"), ("uint16", "u16"), ("int64", "i64")]
        {
            let read = |name: &str| match parse(&format!("gen normal -n 1 -o y --dtype {name}")).unwrap().command {
                Command::Generate(generator) => generator.file().dtype,
                _ => panic!("{name}"),
            };
            assert_eq!(read(long), read(short));
            assert_eq!(read(long).to_possible_value().unwrap().get_name(), long);
        }
    }

    #[test]
    fn wrong_usage_says_what_is_wrong() {
        assert_usage_error("", "Usage");
        assert_usage_error("nothing", "unrecognized subcommand");
        assert_usage_error("stats", "<FILE>...");
        assert_usage_error("stats x --threads 0", "1..=255");
        assert_usage_error("stats x --threads 256", "1..=255");
        assert_usage_error("stats x --processes 0", "1..=255");
        assert_usage_error("stats x --processes 256", "1..=255");
        assert_usage_error("stats x --capacity 1G", "KiB, MiB, GiB");
        assert_usage_error("reduce dot x", "<FILE2>");
        assert_usage_error("reduce sum x y", "unexpected argument 'y'");
        assert_usage_error("map sqrt x", "--output <OUT>");
        assert_usage_error("map sqrt x -o y --a 1", "unexpected argument '--a'");
        assert_usage_error("map affine x -o y --a nan", "finite number");
        assert_usage_error("map affine x -o y --b inf", "finite number");
        assert_usage_error("map clamp x -o y", "--lower <LOWER>");
        assert_usage_error("map clamp x -o y --lower nan", "expected a number");
        assert_usage_error("map clamp x -o y --lower 2 --upper 1", "--lower must not lie above --upper, got 2 and 1");
        assert_usage_error("gen uniform -o y", "--len <LEN>");
        assert_usage_error("gen uniform -n 1.5 -o y", "whole number");
        assert_usage_error("gen uniform -n 1 -o y --low 1", "--low must lie below --high, got 1 and 1");
        assert_usage_error("gen normal -n 1 -o y --std -1", "--std must be finite and not negative");
        assert_usage_error("gen exponential -n 1 -o y --rate 0", "--rate must be positive");
        assert_usage_error("gen normal -n 1 -o y --dtype float16", "float32");
        assert_usage_error("gen normal -n 1 -o y --mean one", "expected a number");
        assert_usage_error("gen sequence -n 129 -o y --dtype int8", "element 128 of the sequence would be 128");
        assert_usage_error(
            "gen constant -n 1 -o y --dtype u8 --value -1",
            "--value must lie between 0 and 255 for uint8",
        );
        assert_usage_error("gen uniform -n 1 -o y --dtype i64 --low 0.5", "--low must be a whole number for int64");
        assert_usage_error("gen normal -n 1 -o y --seed -1", "unexpected argument '-1'");
    }

    #[test]
    fn help_and_version_are_not_errors() {
        for line in ["--help", "-h", "--version", "stats --help", "gen uniform --help", "help map"] {
            let shown = parse(line).unwrap_err();
            assert_eq!(shown.exit_code(), 0, "{line}");
            assert!(!shown.use_stderr(), "{line}");
        }
    }
}
