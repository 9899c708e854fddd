//! Results for people and for programs: the same fields as a table or as JSON.

use std::fmt::Write as _;
use std::path::Path;

use workring::numeric::{FloatStats, FloatSum, IntegerStats, IntegerSum};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// A table with aligned columns.
    Human,
    /// One JSON object on one line.
    Json,
}

/// A value of a report.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    /// Decimal digits of any length, with a sign if negative.
    Integer(String),
    Float(f64),
    /// The bits of a floating point number: for programs that compare exactly, not shown to people.
    Bits(u64),
}

/// A result as named values in a fixed order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    fields: Vec<(&'static str, Value)>,
}

impl Report {
    /// A report without fields.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a text.
    pub(crate) fn text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, Value::Text(value.into())));
        self
    }

    /// Adds the name of a file; what is not Unicode in it is replaced.
    pub(crate) fn path(self, name: &'static str, path: &Path) -> Self {
        self.text(name, path.to_string_lossy())
    }

    /// Adds a whole number.
    pub(crate) fn integer(mut self, name: &'static str, value: impl Into<i128>) -> Self {
        self.fields.push((name, Value::Integer(value.into().to_string())));
        self
    }

    /// Adds a floating point number. In JSON, NaN and the infinities are null.
    pub(crate) fn float(mut self, name: &'static str, value: f64) -> Self {
        self.fields.push((name, Value::Float(value)));
        self
    }

    /// Adds the bits of a floating point number as a text like `0x3ff0000000000000`, in JSON only.
    pub(crate) fn bits(mut self, name: &'static str, value: f64) -> Self {
        self.fields.push((name, Value::Bits(value.to_bits())));
        self
    }

    /// Adds a floating point number, or an integer of any size: in JSON too it has all its digits.
    fn reduced(mut self, name: &'static str, value: Reduced) -> Self {
        match value {
            Reduced::Float(value) => self.float(name, value),
            Reduced::Integer(digits) => {
                self.fields.push((name, Value::Integer(digits)));
                self
            }
        }
    }

    /// Adds the result of a reduction as `value`, and where it is a floating point number its bits as `value_bits`.
    pub(crate) fn result(self, value: impl Into<Reduced>) -> Self {
        match value.into() {
            Reduced::Float(value) => self.float("value", value).bits("value_bits", value),
            integer => self.reduced("value", integer),
        }
    }

    /// The report as one JSON object on one line, fields in order.
    fn to_json(&self) -> String {
        let mut json = String::from("{");
        for (at, (name, value)) in self.fields.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(json, "{comma}{}:{}", quoted(name), value.to_json());
        }
        json.push('}');
        json
    }

    fn shown(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.fields.iter().filter(|(_, value)| !matches!(value, Value::Bits(_))).map(|(name, value)| (*name, value))
    }
}

/// What a reduction gives: a floating point number, or an integer of any size.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reduced {
    /// A floating point number; `f32` results are widened, which is exact.
    Float(f64),
    /// Decimal digits, with a sign if negative.
    Integer(String),
}

impl From<f64> for Reduced {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<f32> for Reduced {
    fn from(value: f32) -> Self {
        Self::Float(f64::from(value))
    }
}

impl From<i128> for Reduced {
    fn from(value: i128) -> Self {
        Self::Integer(value.to_string())
    }
}

impl From<FloatSum> for Reduced {
    fn from(sum: FloatSum) -> Self {
        Self::Float(sum.value())
    }
}

impl From<IntegerSum> for Reduced {
    fn from(sum: IntegerSum) -> Self {
        Self::Integer(sum.to_string())
    }
}

/// What `stats` finds in a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Described {
    len: u64,
    nan: u64,
    min: Reduced,
    max: Reduced,
    mean: f64,
    standard_deviation: f64,
    sum: Reduced,
}

impl From<FloatStats> for Described {
    fn from(stats: FloatStats) -> Self {
        Self {
            len: stats.len(),
            nan: stats.nan(),
            min: stats.min().into(),
            max: stats.max().into(),
            mean: stats.mean(),
            standard_deviation: stats.standard_deviation(),
            sum: stats.sum().into(),
        }
    }
}

impl From<IntegerStats> for Described {
    fn from(stats: IntegerStats) -> Self {
        // Nothing has no extrema, whatever it is nothing of.
        let extremum = |value: Option<i128>| value.map_or(Reduced::Float(f64::NAN), Reduced::from);
        Self {
            len: stats.len(),
            nan: 0,
            min: extremum(stats.min()),
            max: extremum(stats.max()),
            mean: stats.mean(),
            standard_deviation: stats.standard_deviation(),
            sum: stats.sum().into(),
        }
    }
}

/// The report of `stats` on one file.
pub(crate) fn stats_report(file: &Path, dtype: &str, stats: impl Into<Described>) -> Report {
    let stats = stats.into();
    let report = Report::new()
        .path("file", file)
        .text("dtype", dtype)
        .integer("len", stats.len)
        .integer("nan", stats.nan)
        .reduced("min", stats.min)
        .reduced("max", stats.max)
        .float("mean", stats.mean)
        .float("std", stats.standard_deviation)
        .reduced("sum", stats.sum.clone());
    match stats.sum {
        Reduced::Float(sum) => report.bits("sum_bits", sum),
        Reduced::Integer(_) => report,
    }
}

/// The report of `reduce` on one file.
pub(crate) fn reduce_report(operation: &str, file: &Path, dtype: &str, len: u64, value: impl Into<Reduced>) -> Report {
    let report = Report::new().text("operation", operation).path("file", file);
    report.text("dtype", dtype).integer("len", len).result(value)
}

/// The report of `reduce` on two files.
pub(crate) fn reduce_pair_report(
    operation: &str,
    [file, file2]: [&Path; 2],
    dtype: &str,
    len: u64,
    value: impl Into<Reduced>,
) -> Report {
    let report = Report::new().text("operation", operation).path("file", file).path("file2", file2);
    report.text("dtype", dtype).integer("len", len).result(value)
}

/// Reports as text that ends with a newline.
///
/// For people: one report with a line per field, several as a table with a row per report. JSON: one report as one
/// object, several as `{"files":[...]}`, always one line. Reports shown together must have the same fields.
pub(crate) fn render(reports: &[Report], format: OutputFormat) -> String {
    match (format, reports) {
        (OutputFormat::Json, [report]) => report.to_json() + "\n",
        (OutputFormat::Human, [report]) => list(report),
        _ => render_several(reports, format),
    }
}

/// As [`render`] where several reports were asked for, however many there are.
pub(crate) fn render_several(reports: &[Report], format: OutputFormat) -> String {
    match format {
        OutputFormat::Json => {
            let objects: Vec<String> = reports.iter().map(Report::to_json).collect();
            format!("{{\"files\":[{}]}}\n", objects.join(","))
        }
        OutputFormat::Human => table(reports),
    }
}

/// One line per field: name, two spaces, value.
fn list(report: &Report) -> String {
    let width = report.shown().map(|(name, _)| name.len()).max().unwrap_or(0);
    report.shown().map(|(name, value)| format!("{name:width$}  {}\n", value.to_human())).collect()
}

/// A line of names and one line per report; texts to the left, numbers to the right.
fn table(reports: &[Report]) -> String {
    let Some(first) = reports.first() else { return String::new() };
    let is_text: Vec<bool> = first.shown().map(|(_, value)| matches!(value, Value::Text(_))).collect();
    let mut rows = vec![first.shown().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()];
    rows.extend(reports.iter().map(|report| report.shown().map(|(_, value)| value.to_human()).collect()));
    // Width in characters: wide and combining ones may shift a row, but no name is cut.
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..is_text.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, &width), &is_text) in row.iter().zip(&widths).zip(&is_text) {
            let gap = if line.is_empty() { "" } else { "  " };
            let _ = if is_text { write!(line, "{gap}{cell:<width$}") } else { write!(line, "{gap}{cell:>width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

impl Value {
    fn to_json(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Integer(digits) => digits.clone(),
            // NaN and infinities become null; the shortest digits that read back as the same number otherwise.
            Self::Float(value) => serde_json::Value::from(*value).to_string(),
            Self::Bits(bits) => format!("\"{bits:#018x}\""),
        }
    }

    fn to_human(&self) -> String {
        match self {
            Self::Text(text) => printable(text),
            Self::Integer(digits) => digits.clone(),
            Self::Float(value) => format_number(*value),
            Self::Bits(bits) => format!("{bits:#018x}"),
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The text with control characters escaped: a file name must not drive the terminal or break a line.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// The shortest digits that read back as the same number, with an exponent where there would be many zeros.
pub(crate) fn format_number(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() || (1e-5..1e16).contains(&magnitude) {
        value.to_string()
    } else {
        format!("{value:e}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use workring::numeric;

    use super::*;

    fn parse(json: &str) -> serde_json::Value {
        assert_eq!(json.lines().count(), 1, "{json}");
        assert!(json.ends_with('\n'));
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn stats_have_exactly_the_documented_keys() {
        let report = stats_report(Path::new("a \"b\".npy"), "float64", numeric::stats(&[1.5, f64::NAN, 3.0]));
        let json = render(core::slice::from_ref(&report), OutputFormat::Json);
        assert_eq!(
            json,
            "{\"file\":\"a \\\"b\\\".npy\",\"dtype\":\"float64\",\"len\":3,\"nan\":1,\"min\":1.5,\"max\":3.0,\"mean\":2.25,\
             \"std\":1.0606601717798212,\"sum\":4.5,\"sum_bits\":\"0x4012000000000000\"}\n"
        );
        let parsed = parse(&json);
        assert_eq!(parsed["sum"], 4.5);
        assert_eq!(
            render(&[report], OutputFormat::Human),
            "file   a \"b\".npy\ndtype  float64\nlen    3\nnan    1\nmin    1.5\nmax    3\nmean   2.25\n\
             std    1.0606601717798212\nsum    4.5\n"
        );
    }

    #[test]
    fn what_json_cannot_say_is_null() {
        let report = stats_report(Path::new("x"), "float32", numeric::stats::<f32>(&[]));
        let parsed = parse(&render(&[report], OutputFormat::Json));
        assert!(["min", "max", "mean", "std"].iter().all(|key| parsed[key].is_null()));
        assert_eq!((&parsed["len"], &parsed["sum"]), (&0.into(), &0.0.into()));
        assert_eq!(parsed["sum_bits"], "0x0000000000000000");
        let report = stats_report(Path::new("x"), "float64", numeric::stats(&[f64::INFINITY]));
        let parsed = parse(&render(&[report], OutputFormat::Json));
        assert!(parsed["sum"].is_null());
        assert_eq!(parsed["sum_bits"], "0x7ff0000000000000");
    }

    /// Extrema and sums of integers were rounded to `f64` without a word.
    #[test]
    fn stats_of_integers_have_all_digits() {
        let report = stats_report(Path::new("x"), "uint64", numeric::stats(&[u64::MAX, u64::MAX, (1 << 53) + 1]));
        assert_eq!(
            render(core::slice::from_ref(&report), OutputFormat::Json),
            "{\"file\":\"x\",\"dtype\":\"uint64\",\"len\":3,\"nan\":0,\"min\":9007199254740993,\"max\":18446744073709551615,\
             \"mean\":1.2300831782224615e+19,\"std\":1.0645032347713974e+19,\"sum\":36902495346673844223}\n"
        );
        let text = render(&[report], OutputFormat::Human);
        assert!(
            text.contains("\nmax    18446744073709551615\n") && text.contains("\nsum    36902495346673844223\n"),
            "{text}"
        );
        let nothing = stats_report(Path::new("x"), "int64", numeric::stats::<i64>(&[]));
        let parsed = parse(&render(&[nothing], OutputFormat::Json));
        assert!(["min", "max", "mean", "std"].iter().all(|key| parsed[key].is_null()));
        assert_eq!(parsed["sum"], 0);
    }

    #[test]
    fn several_files_are_still_one_object() {
        let reports = [("one.npy", 1.0), ("another.npy", -12.25)]
            .map(|(file, value)| stats_report(Path::new(file), "float64", numeric::stats(&[value, value])));
        let parsed = parse(&render(&reports, OutputFormat::Json));
        assert_eq!(parsed.as_object().unwrap().len(), 1);
        assert_eq!(parsed["files"][1]["file"], "another.npy");
        assert_eq!(parsed["files"][1]["sum"], -24.5);
        assert_eq!(
            render(&reports, OutputFormat::Human),
            "file         dtype    len  nan     min     max    mean  std    sum\n\
             one.npy      float64    2    0       1       1       1    0      2\n\
             another.npy  float64    2    0  -12.25  -12.25  -12.25    0  -24.5\n"
        );
        assert_eq!(render(&[], OutputFormat::Json), "{\"files\":[]}\n");
        assert_eq!(render(&[], OutputFormat::Human), "");
    }

    #[test]
    fn integers_keep_every_digit() {
        let sum = numeric::dot(&[u64::MAX; 9], &[u64::MAX; 9]).unwrap();
        let report = reduce_pair_report("dot", [Path::new("x"), Path::new("y")], "uint64", 9, sum);
        assert_eq!(
            render(&[report], OutputFormat::Json),
            "{\"operation\":\"dot\",\"file\":\"x\",\"file2\":\"y\",\"dtype\":\"uint64\",\"len\":9,\
             \"value\":3062541302288446170838330073559141974025}\n"
        );
        let report = reduce_report("min", Path::new("x"), "int8", 4, i128::from(-128_i8));
        assert_eq!(
            render(&[report], OutputFormat::Human),
            "operation  min\nfile       x\ndtype      int8\nlen        4\nvalue      -128\n"
        );
        let report = reduce_report("max", Path::new("x"), "float32", 4, 0.1_f32);
        let parsed = parse(&render(&[report], OutputFormat::Json));
        assert_eq!(parsed["value"], f64::from(0.1_f32));
        assert_eq!(parsed["value_bits"], "0x3fb99999a0000000");
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        let report = Report::new().text("file", "a\x1b[2J\nb\u{85}c");
        assert_eq!(render(core::slice::from_ref(&report), OutputFormat::Human), "file  a\\u{1b}[2J\\nb\\u{85}c\n");
        let parsed = parse(&render(&[report], OutputFormat::Json));
        assert_eq!(parsed["file"], "a\x1b[2J\nb\u{85}c");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (20.0, "20"),
            (150.68646019807787, "150.68646019807787"),
            (1e15, "1000000000000000"),
            (1e16, "1e16"),
            (1e-5, "0.00001"),
            (1.5e-6, "1.5e-6"),
            (-1.7976931348623157e308, "-1.7976931348623157e308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(format_number(value), text);
        }
    }

    proptest! {
        #[test]
        fn numbers_and_texts_read_back(value: f64, text in "\\PC*|[\\x00-\\x1f\"\\\\]*", integer: i64) {
            let report = Report::new().float("float", value).text("text", &text).integer("integer", integer);
            let parsed = parse(&render(&[report], OutputFormat::Json));
            if value.is_finite() {
                // The parser of serde_json rounds in its own way; that of std is exact.
                prop_assert_eq!(Value::Float(value).to_json().parse::<f64>().unwrap().to_bits(), value.to_bits());
                prop_assert!(parsed["float"].is_f64());
                prop_assert_eq!(format_number(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
            } else {
                prop_assert!(parsed["float"].is_null());
            }
            prop_assert_eq!(&parsed["text"], &text);
            prop_assert_eq!(&parsed["integer"], integer);
        }
    }
}
