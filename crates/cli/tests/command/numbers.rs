//! The command's numbers: exact wherever a type can hold them, refused where it cannot, one sum for all commands.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use crate::support::{doubles, json, npy, path, run, succeed, text};

/// The data of a `.npy` file.
fn data(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).expect("the file is there");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[header..].to_vec()
}

/// What `gen` makes, as the bytes of the elements.
fn generated(arguments: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "out.npy");
    let arguments: Vec<&str> = ["gen"].into_iter().chain(arguments.split(' ')).chain(["-q", "-o", &file]).collect();
    assert_eq!(succeed(&arguments), "");
    data(Path::new(&file))
}

fn longs(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()
}

/// `gen` refuses, as wrong usage, before there is a file.
fn refused(arguments: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "out.npy");
    let arguments: Vec<&str> = ["gen"].into_iter().chain(arguments.split(' ')).chain(["-o", &file]).collect();
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "{arguments:?} left a file");
    text(&output.stderr).lines().next().unwrap_or_default().to_owned()
}

/// Integers went through `f64`: this gave 992, 992, 994, 996 at the end.
#[test]
fn generated_integers_are_exact() {
    let values = longs(&generated("sequence -n 4 --start 9007199254740992 --dtype int64"));
    assert_eq!(values, [9007199254740992, 9007199254740993, 9007199254740994, 9007199254740995]);
    let values =
        longs(&generated("sequence -n 3 --start -9223372036854775808 --step 9223372036854775807 --dtype int64"));
    assert_eq!(values, [i64::MIN, -1, i64::MAX - 1]);
    let values = longs(&generated("sequence -n 2 --start 18446744073709551614 --dtype uint64"));
    assert_eq!(values, [-2, -1]);
    assert_eq!(longs(&generated("constant -n 1 --value 1.8446744073709551615e19 --dtype uint64")), [-1]);
    assert_eq!(generated("constant -n 2 --value -128 --dtype int8"), [128; 2]);
    // Worker processes are told the same.
    if cfg!(target_os = "linux") {
        let far = "sequence -n 50000 --start 9223372036854725808 --dtype int64";
        let values = longs(&generated(far));
        assert_eq!((values[0], values[49_999]), (9_223_372_036_854_725_808, i64::MAX));
        assert_eq!(longs(&generated(&format!("{far} --processes 1"))), values);
        for (distribution, dtype) in [
            ("uniform --low -9223372036854775808 --high 9223372036854775808", "int64"),
            ("normal --mean 9007199254740993.5 --std 3", "int64"),
            ("constant --value nan", "float32"),
            ("exponential", "float32"),
        ] {
            let arguments = format!("{distribution} -n 20000 --seed 3 --dtype {dtype}");
            assert!(generated(&arguments) == generated(&format!("{arguments} --processes 1")), "{arguments}");
        }
    }
}

/// Each of these became another value without a word: the nearest limit, zero for NaN, infinity.
#[test]
fn what_a_type_does_not_have_is_refused() {
    for (arguments, reason) in [
        ("constant -n 1 --value nan --dtype int32", "--value must be a whole number for int32, got nan"),
        ("constant -n 1 --value -inf --dtype int32", "--value must be a whole number for int32, got -inf"),
        ("constant -n 1 --value 1.5 --dtype uint8", "--value must be a whole number for uint8, got 1.5"),
        ("constant -n 1 --value 256 --dtype uint8", "--value must lie between 0 and 255 for uint8, got 256"),
        (
            "constant -n 1 --value 1e39 --dtype float32",
            "--value must lie between -3.4028235e38 and 3.4028235e38 for float32, got 1e39",
        ),
        (
            "constant -n 1 --value 1e400",
            "--value must lie between -1.7976931348623157e308 and 1.7976931348623157e308 for float64, got 1e400",
        ),
        (
            "sequence -n 129 --dtype int8",
            "element 128 of the sequence would be 128, beyond the range of int8, -128 to 127",
        ),
        (
            "sequence -n 3 --start 9223372036854775806 --dtype int64",
            "element 2 of the sequence would be 9223372036854775808, beyond the range of int64, -9223372036854775808 to \
             9223372036854775807",
        ),
        (
            "sequence -n 2 --step -1 --dtype uint64",
            "element 1 of the sequence would be -1, beyond the range of uint64, 0 to 18446744073709551615",
        ),
        ("sequence -n 2 --step 0.5 --dtype int64", "--step must be a whole number for int64, got 0.5"),
        ("sequence -n 3 --step 1e308", "element 2 of the sequence would be inf, beyond the range of float64"),
        (
            "sequence -n 3 --step 2e38 --dtype float32",
            "element 2 of the sequence would be 4e38, beyond the range of float32",
        ),
        ("uniform -n 1 --high 1.5 --dtype int16", "--high must be a whole number for int16, got 1.5"),
        ("uniform -n 1 --low -1 --high 4 --dtype uint16", "--low must lie between 0 and 65535 for uint16, got -1"),
        ("uniform -n 1 --low 1 --high 1.00000001 --dtype float32", "--low must lie below --high, got 1 and 1"),
        ("normal -n 1 --mean 300 --dtype uint8", "--mean must lie between 0 and 255 for uint8, got 300"),
        (
            "normal -n 1 --mean 1e39 --dtype float32",
            "--mean must lie between -3.4028235e38 and 3.4028235e38 for float32, got 1e39",
        ),
        (
            "exponential -n 1 --rate 1e-3 --dtype int8",
            "the mean, one divided by --rate, must be within the range of int8, got a --rate of 0.001",
        ),
    ] {
        assert_eq!(refused(arguments), format!("error: {reason}"), "{arguments}");
    }
}

/// `--a 1e39` gave a float32 file of infinities without a word, `--lower 1e400` clamped to infinity, and a parameter was rounded twice on its
/// way to float32: to float64 first.
#[test]
fn parameters_of_functions_are_those_of_the_type_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (path(folder.path(), "x.npy"), path(folder.path(), "y.npy"));
    fs::write(&input, npy("<f4", "(1,)", &1.0_f32.to_le_bytes())).unwrap();
    let map = |arguments: &str, workers: &str| {
        let mut words = vec!["map"];
        words.extend(arguments.split(' '));
        run(&[&words[..], &[&input, "-o", &output, "-q", workers, "1"]].concat())
    };
    let workers = ["--threads", "--processes"];
    for workers in &workers[..if cfg!(target_os = "linux") { 2 } else { 1 }] {
        for (arguments, option) in [
            ("affine --a 1e39", "--a"),
            ("affine --b -1e39", "--b"),
            ("affine --a 3.4028236e38", "--a"),
            ("clamp --lower 1e39", "--lower"),
            ("clamp --upper -1e300", "--upper"),
        ] {
            let refused = map(arguments, workers);
            let value = arguments.rsplit(' ').next().unwrap();
            let range = "-3.4028235e38 and 3.4028235e38 for float32";
            let reason =
                format!("workring: {input} holds float32 elements: {option} must lie between {range}, got {value}\n");
            assert_eq!((refused.status.code(), text(&refused.stderr)), (Some(1), &*reason), "{arguments}");
            assert!(!fs::exists(&output).unwrap(), "{arguments}");
        }
        for (arguments, value) in [
            ("affine --a 3.4028235e38", f32::MAX),
            ("affine --a 1.000000059604644775390625000000001", 1.0 + f32::EPSILON),
            ("clamp --lower 1.000000059604644775390625000000001", 1.0 + f32::EPSILON),
            ("clamp --lower inf", f32::INFINITY),
            ("clamp --lower -inf --upper 1e-50", 0.0),
        ] {
            let done = map(arguments, workers);
            assert!(done.status.success(), "{arguments}: {}", text(&done.stderr));
            let written = fs::read(&output).unwrap();
            assert_eq!(written[written.len() - 4..], value.to_le_bytes(), "{arguments} {workers}");
            fs::remove_file(&output).unwrap();
        }
        // No type has these, whatever the file holds.
        for (arguments, option) in [("affine --b 1e400", "--b"), ("clamp --upper -1e400", "--upper")] {
            let refused = map(arguments, workers);
            let range = "-1.7976931348623157e308 and 1.7976931348623157e308 for float64";
            let value = arguments.rsplit(' ').next().unwrap();
            let reason = format!("error: {option} must lie between {range}, got {value}\n");
            assert_eq!(refused.status.code(), Some(2), "{arguments}");
            assert!(text(&refused.stderr).starts_with(&reason), "{}", text(&refused.stderr));
        }
    }
}

/// In `[1, 1 + 2^-23)` of float32 there is one number, and rounding made the excluded one of every second.
#[test]
fn uniform_numbers_do_not_reach_the_upper_bound() {
    let ones = generated("uniform -n 10000 --low 1 --high 1.00000011920928955078125 --dtype float32");
    assert!(ones.as_chunks::<4>().0.iter().all(|&bytes| f32::from_le_bytes(bytes) == 1.0));
    let all = generated("uniform -n 10000 --high 256 --dtype uint8");
    assert!((0..=255).all(|byte| all.contains(&byte)));
}

fn write_longs(folder: &Path, name: &str, descr: &str, values: &[i64]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let file = path(folder, name);
    fs::write(&file, npy(descr, &format!("({},)", values.len()), &bytes)).unwrap();
    file
}

/// Extrema and sums of 64-bit integers were rounded to `f64` without a word, in text and in JSON.
#[test]
fn integers_are_described_with_all_their_digits() {
    let folder = tempfile::tempdir().unwrap();
    let signed =
        write_longs(folder.path(), "signed.npy", "<i8", &[i64::MIN, i64::MIN, i64::MAX, 9_007_199_254_740_993]);
    let unsigned = write_longs(folder.path(), "unsigned.npy", "<u8", &[-1, -2, -1]);
    for more in [&[][..], &["--threads", "3"], &["--processes", "1"]] {
        if !cfg!(target_os = "linux") && more.contains(&"--processes") {
            continue;
        }
        let with = |arguments: &[&str]| succeed(&[arguments, more].concat());
        let printed = with(&["stats", "--json", &signed]);
        assert!(printed.contains(r#""min":-9223372036854775808,"max":9223372036854775807,"#), "{printed}");
        assert!(printed.contains(r#""sum":-9214364837600034816}"#), "{printed}");
        let printed = with(&["stats", "--json", &unsigned]);
        // Three times 2^64, less four: 66 bits.
        assert!(printed.contains(r#""min":18446744073709551614,"max":18446744073709551615,"#), "{printed}");
        assert!(printed.contains(r#""sum":55340232221128654844}"#), "{printed}");
        let printed = with(&["stats", &unsigned]);
        assert!(printed.contains("min    18446744073709551614\nmax    18446744073709551615\n"), "{printed}");
        assert!(printed.contains("sum    55340232221128654844\n"), "{printed}");
        // Nearer to each other than neighbouring f64: their deviation is the square root of a third all the same.
        assert!(printed.contains("std    0.577350269189625"), "{printed}");
        for (operation, value) in
            [("sum", "55340232221128654844"), ("min", "18446744073709551614"), ("max", "18446744073709551615")]
        {
            assert!(with(&["reduce", operation, &unsigned]).ends_with(&format!("value      {value}\n")), "{operation}");
            let printed = with(&["reduce", operation, &unsigned, "--json"]);
            assert!(printed.ends_with(&format!("\"value\":{value}}}\n")), "{printed}");
        }
    }
}

fn sums(file: &str, more: &[&str]) -> [Value; 2] {
    let stats = json(&[&["stats", "--json", file], more].concat());
    let reduced = json(&[&["reduce", "sum", "--json", file], more].concat());
    [stats["sum_bits"].clone(), reduced["value_bits"].clone()]
}

fn bits(value: f64) -> Value {
    format!("{:#018x}", value.to_bits()).into()
}

/// `stats` said 1 and `reduce sum` 0.
#[test]
fn stats_and_reduce_have_one_sum() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "x.npy");
    // What numpy 2.4 says too, but for the first, and for the finite sum that plain addition takes for infinity.
    for (values, sum) in [
        (&[1.0, 1e16, -1e16][..], 1.0),
        (&[1e308, 1e308, -1e308], 1e308),
        (&[-0.0, -0.0], 0.0),
        (&[], 0.0),
        (&[f64::MAX, f64::MAX], f64::INFINITY),
        (&[f64::NEG_INFINITY, 1.0], f64::NEG_INFINITY),
        (&[f64::NEG_INFINITY, f64::INFINITY], f64::NAN),
    ] {
        fs::write(&file, doubles(values)).unwrap();
        assert_eq!(sums(&file, &[]), [bits(sum), bits(sum)], "{values:?}");
        if !values.is_empty() {
            let mean = json(&["reduce", "mean", "--json", &file]);
            let stats = json(&["stats", "--json", &file]);
            assert_eq!(mean["value"], stats["mean"], "{values:?}");
        }
    }
    let ones = path(folder.path(), "ones.npy");
    fs::write(&ones, doubles(&[1.0; 3])).unwrap();
    fs::write(&file, doubles(&[1.0, 1e16, -1e16])).unwrap();
    assert_eq!(json(&["reduce", "dot", &ones, &file, "--json"])["value"], 1.0);
    assert_eq!(json(&["reduce", "mean", &file, "--json"])["value"], 1.0 / 3.0);
    // NaN is missing for the one, and the result for the other.
    fs::write(&file, doubles(&[1.0, f64::NAN])).unwrap();
    assert_eq!(sums(&file, &[]), [bits(1.0), bits(f64::NAN)]);
}

/// The correctly rounded sum, as `math.fsum` of Python has it: of multiples of 2^-1000 by wide integers.
fn exact_sum(values: &[i128]) -> f64 {
    // The conversion rounds once, the scaling not at all.
    values.iter().sum::<i128>() as f64 * 2_f64.powi(-500) * 2_f64.powi(-500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn sums_are_exact_for_any_number_of_workers(
        parts in vec((any::<i64>(), 0..56_u32), 1..20_000),
        repeated in 1..10_usize,
    ) {
        // 53 bits at any of 56 places, and as many of each as to make several chunks.
        let parts = parts.repeat(repeated);
        let whole: Vec<i128> = parts.iter().map(|&(mantissa, shift)| i128::from(mantissa >> 11) << shift).collect();
        let values: Vec<f64> = whole.iter().map(|&value| value as f64 * 2_f64.powi(-500) * 2_f64.powi(-500)).collect();
        let folder = tempfile::tempdir().unwrap();
        let file = path(folder.path(), "x.npy");
        fs::write(&file, doubles(&values)).unwrap();
        let expected = [bits(exact_sum(&whole)), bits(exact_sum(&whole))];
        for threads in ["1", "2", "5"] {
            prop_assert_eq!(sums(&file, &["--threads", threads]), expected.clone());
        }
        if cfg!(target_os = "linux") {
            prop_assert_eq!(sums(&file, &["--processes", "2"]), expected);
        }
    }
}
