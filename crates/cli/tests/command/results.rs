//! The command: its results, its errors, its exit codes, and that it leaves nothing half-written behind.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{ARRIVALS, DISTANCES, doubles, fail, json, npy, path, run, succeed, text};

fn read_doubles(file: &Path) -> Vec<f64> {
    let bytes = fs::read(file).expect("the file is there");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[header..].chunks_exact(8).map(|chunk| f64::from_le_bytes(chunk.try_into().expect("eight bytes"))).collect()
}

/// Figures of numpy 2 and of exact sums (Python's math.fsum) over the same files.
#[test]
fn stats_of_real_flights_are_right_with_any_number_of_threads() {
    let one = json(&["stats", DISTANCES, "--json", "--threads", "1"]);
    let keys: Vec<&str> = one.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut wanted = ["file", "dtype", "len", "nan", "min", "max", "mean", "std", "sum", "sum_bits"];
    wanted.sort_unstable();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, wanted);
    assert_eq!(one["len"], 336_776);
    assert_eq!(one["nan"], 0);
    assert_eq!(one["min"], 17.0);
    assert_eq!(one["max"], 4983.0);
    assert_eq!(one["sum"], 350_217_607.0);
    assert_eq!(one["sum_bits"], format!("{:#018x}", 350_217_607.0_f64.to_bits()));
    let mean = one["mean"].as_f64().expect("a number");
    assert!((mean - 350_217_607.0 / 336_776.0).abs() < 1e-12 * mean);
    for file in [ARRIVALS, DISTANCES] {
        let one = json(&["stats", file, "--json", "--threads", "1"]);
        for threads in ["2", "3", "7", "16"] {
            assert_eq!(json(&["stats", file, "--json", "--threads", threads]), one);
        }
    }
    let arrivals = json(&["--json", "stats", ARRIVALS]);
    assert_eq!((&arrivals["len"], &arrivals["nan"]), (&Value::from(336_776), &Value::from(9430)));
}

#[test]
fn several_files_are_one_object_or_one_table() {
    let both = json(&["stats", ARRIVALS, DISTANCES, "--json"]);
    let files = both["files"].as_array().expect("an array");
    assert_eq!(files.len(), 2);
    assert_eq!(files[1], json(&["stats", DISTANCES, "--json"]));
    let table = succeed(&["stats", ARRIVALS, DISTANCES]);
    assert_eq!(table.lines().count(), 3);
    assert!(table.lines().nth(2).is_some_and(|line| line.contains("350217607")), "{table}");
}

#[test]
fn reductions_agree_with_serial_loops() {
    let folder = tempfile::tempdir().expect("a folder");
    let (x, y) = (path(folder.path(), "x.npy"), path(folder.path(), "y.npy"));
    let xs: Vec<f64> = (0..10_000).map(|index| f64::from(index) * 0.5 - 100.0).collect();
    let ys: Vec<f64> = (0..10_000).map(|index| f64::from(index % 7)).collect();
    fs::write(&x, doubles(&xs)).expect("written");
    fs::write(&y, doubles(&ys)).expect("written");
    let value = |arguments: &[&str]| json(arguments)["value"].clone();
    assert_eq!(value(&["reduce", "sum", &x, "--json"]), xs.iter().sum::<f64>());
    assert_eq!(value(&["reduce", "min", &x, "--json"]), -100.0);
    assert_eq!(value(&["reduce", "max", &x, "--json"]), 9999.0 * 0.5 - 100.0);
    assert_eq!(value(&["reduce", "mean", &x, "--json"]), xs.iter().sum::<f64>() / 10_000.0);
    // Every product and partial sum is a multiple of 1/2 below 2^53: exact in any order.
    let dot: f64 = xs.iter().zip(&ys).map(|(x, y)| x * y).sum();
    assert_eq!(value(&["reduce", "dot", &x, &y, "--json"]), dot);
    let integers = path(folder.path(), "i.npy");
    let data: Vec<u8> = [i64::MAX, i64::MAX, -1].iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(&integers, npy("<i8", "(3,)", &data)).expect("written");
    assert!(succeed(&["reduce", "sum", &integers]).contains("18446744073709551613"), "integer sums are exact");
}

#[test]
fn map_writes_what_the_function_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (path(folder.path(), "in.npy"), path(folder.path(), "out.npy"));
    let xs: Vec<f64> = (0..70_000).map(|index| f64::from(index) / 8.0 - 10.0).collect();
    fs::write(&input, doubles(&xs)).expect("written");
    let check = |arguments: &[&str], function: &dyn Fn(f64) -> f64| {
        let mut all = vec!["map", arguments[0], &input, "-o", &output, "--quiet"];
        all.extend(&arguments[1..]);
        assert_eq!(succeed(&all), "");
        for (x, y) in xs.iter().zip(read_doubles(Path::new(&output))) {
            assert_eq!(function(*x).to_bits(), y.to_bits(), "{arguments:?} of {x}");
        }
    };
    check(&["affine", "--a", "2", "--b", "-1"], &|x| 2.0 * x - 1.0);
    check(&["abs"], &f64::abs);
    check(&["square"], &|x| x * x);
    check(&["negate"], &|x| -x);
    check(&["clamp", "--lower", "-3", "--upper", "50"], &|x| x.clamp(-3.0, 50.0));
    // In place: the output replaces the input only when it is complete.
    assert_eq!(succeed(&["map", "abs", &input, "-o", &input, "-q"]), "");
    assert!(read_doubles(Path::new(&input)).iter().all(|value| *value >= 0.0));
    let names: Vec<_> =
        fs::read_dir(folder.path()).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names.len(), 2, "no temporary file is left: {names:?}");
}

#[test]
fn generated_files_do_not_depend_on_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = Vec::new();
    for threads in ["1", "2", "5"] {
        let file = path(folder.path(), &format!("{threads}.npy"));
        succeed(&["gen", "normal", "-n", "300000", "-o", &file, "--seed", "7", "--threads", threads]);
        files.push(fs::read(&file).expect("written"));
    }
    assert!(files[0] == files[1] && files[0] == files[2]);
    let other = path(folder.path(), "other.npy");
    succeed(&["gen", "normal", "-n", "300000", "-o", &other, "--seed", "8"]);
    assert!(fs::read(&other).expect("written") != files[0]);
    let stats = json(&["stats", &other, "--json"]);
    assert!(stats["mean"].as_f64().is_some_and(|mean| mean.abs() < 0.01));
    assert!(stats["std"].as_f64().is_some_and(|std| (std - 1.0).abs() < 0.01));
}

#[test]
fn empty_and_single_arrays_have_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let (empty, single) = (path(folder.path(), "empty.npy"), path(folder.path(), "single.npy"));
    fs::write(&empty, doubles(&[])).expect("written");
    fs::write(&single, npy("<f8", "()", &2.5_f64.to_le_bytes())).expect("written");
    let stats = json(&["stats", &empty, "--json"]);
    assert_eq!((&stats["len"], &stats["sum"], &stats["mean"]), (&Value::from(0), &Value::from(0.0), &Value::Null));
    assert_eq!(json(&["stats", &single, "--json"])["max"], 2.5);
    assert!(fail(&["reduce", "max", &empty]).contains("empty"));
    let out = path(folder.path(), "out.npy");
    succeed(&["map", "sqrt", &empty, "-o", &out]);
    assert_eq!(json(&["stats", &out, "--json"])["len"], 0);
}

#[test]
fn bad_files_are_one_line_that_names_the_file_and_the_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let eight = 1.0_f64.to_le_bytes();
    let mut truncated = doubles(&[1.0, 2.0]);
    truncated.truncate(truncated.len() - 3);
    let mut fortran = npy("<f8", "(2, 2)", &eight.repeat(4));
    let at = fortran.windows(5).position(|window| window == b"False").expect("in the header");
    fortran.splice(at..at + 5, *b"True ");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("magic", b"not an array at all".to_vec(), "magic"),
        ("nothing", Vec::new(), ""),
        ("big", npy(">f8", "(1,)", &eight), "byte order"),
        ("bools", npy("|b1", "(1,)", &[1]), "b1"),
        ("truncated", truncated, "cut short"),
        ("fortran", fortran, "ortran"),
        ("huge", npy("<f8", "(99999999999999999999,)", &eight), ""),
        ("negative", npy("<f8", "(-1,)", &eight), ""),
    ];
    for (name, bytes, said) in cases {
        let file = path(folder.path(), &format!("{name}.npy"));
        fs::write(&file, bytes).expect("written");
        let reason = fail(&["stats", &file]);
        assert!(reason.contains(name) && reason.to_lowercase().contains(said), "{name}: {reason}");
        let output = path(folder.path(), "out.npy");
        fail(&["map", "sqrt", &file, "-o", &output]);
        assert!(!PathBuf::from(&output).exists(), "{name}");
    }
    assert!(fail(&["stats", "no/such/file.npy"]).contains("no/such/file.npy"));
    assert!(fail(&["stats", "."]).contains("regular file"));
    assert!(fail(&["gen", "uniform", "-n", "10", "-o", "no/such/folder/x.npy"]).contains("no/such/folder"));
}

#[test]
fn wrong_usage_is_status_2_and_help_is_status_0() {
    for arguments in [
        &["stats"][..],
        &["frobnicate"],
        &["stats", ARRIVALS, "--threads", "0"],
        &["stats", ARRIVALS, "--threads", "many"],
        &["stats", ARRIVALS, "--processes", "many"],
        &["reduce", "dot", ARRIVALS],
        &["map", "sqrt", ARRIVALS],
        &["gen", "uniform", "-n", "10", "-o", "x.npy", "--low", "2", "--high", "1"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
    let help = succeed(&["--help"]);
    for word in ["stats", "reduce", "map", "gen", "info", "--threads", "--processes", "--json", "--quiet"] {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
    assert!(succeed(&["--version"]).starts_with("workring "));
}

#[test]
fn info_says_what_the_engine_sees() {
    let info = json(&["info", "--json", "--threads", "3", "--capacity", "64MiB"]);
    assert_eq!(info["threads"], 3);
    assert_eq!(info["arena_capacity"], 64 << 20);
    assert!(info["cores"].as_u64().is_some_and(|cores| cores >= 1));
    assert!(info["page_size"].as_u64().is_some_and(u64::is_power_of_two));
    assert!(info["memory_nodes"].is_u64(), "{info}");
    assert!(["yes", "no"].iter().any(|&answer| info["large_pages_on_demand"] == answer), "{info}");
    assert!(succeed(&["info"]).contains("cores"));
}

/// A (2, 3) array became one of (6,).
#[test]
fn shapes_are_kept_and_fortran_order_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (path(folder.path(), "in.npy"), path(folder.path(), "out.npy"));
    for (shape, len) in
        [("(2, 3)", 6), ("()", 1), ("(6,)", 6), ("(0, 4)", 0), ("(5, 1, 1)", 5), ("(2, 1, 3)", 6), ("(3, 0, 2)", 0)]
    {
        for (descr, size) in [("<f4", 4), ("<f8", 8)] {
            // Zeros, which `square` leaves as they are: the whole file has to be the same.
            let file = npy(descr, shape, &vec![0; len * size]);
            fs::write(&input, &file).expect("written");
            let workers = if cfg!(target_os = "linux") { &["--threads", "--processes"][..] } else { &["--threads"] };
            for workers in workers {
                succeed(&["map", "square", &input, "-o", &output, "-q", workers, "1"]);
                assert_eq!(
                    header_of(&fs::read(&output).expect("written")),
                    header_of(&file),
                    "{descr} {shape} {workers}"
                );
                let piped = run(&["map", "square", &input, "-o", "-", workers, "1"]).stdout;
                assert!(piped == fs::read(&output).expect("written"), "{descr} {shape} {workers}");
            }
        }
    }
    // Of one axis both orders are the same; of two, an array in the other order would be another one.
    for (shape, accepted) in [("(1, 6)", true), ("(2, 3)", false)] {
        let mut fortran = npy("<f8", shape, &[0; 48]);
        let at = fortran.windows(5).position(|window| window == b"False").expect("in the header");
        fortran.splice(at..at + 5, *b"True ");
        fs::write(&input, fortran).expect("written");
        if accepted {
            succeed(&["map", "square", &input, "-o", &output, "-q"]);
            assert_eq!(header_of(&fs::read(&output).expect("written")), header_of(&npy("<f8", shape, &[])));
        } else {
            assert!(fail(&["map", "square", &input, "-o", &output]).contains("Fortran order"));
        }
    }
    // Whatever its name, a result is a file that can be read.
    let unnamed = path(folder.path(), "unnamed");
    succeed(&["gen", "sequence", "-n", "5", "-o", &unnamed, "-q"]);
    assert_eq!(json(&["stats", &unnamed, "--json"])["sum"], 10.0);
}

/// The dictionary of a file's header, without its padding.
fn header_of(file: &[u8]) -> String {
    let len = usize::from(u16::from_le_bytes([file[8], file[9]]));
    text(&file[10..10 + len]).trim_end().to_owned()
}

/// The error ended in the middle of the first field.
#[test]
fn a_structured_type_is_named_as_a_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = path(folder.path(), "table.npy");
    let descr = "[('time', '<i8'), ('value, raw', '<f8', (2,))]";
    let header = text(&npy("DESCR", "(1,)", &[])[10..]).trim_end().replace("'DESCR'", descr) + "\n";
    let prefix = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes()].concat();
    fs::write(&file, [prefix.as_slice(), header.as_bytes(), &[0; 24]].concat()).expect("written");
    let reason = fail(&["stats", &file]);
    assert!(reason.contains(&format!("elements of type structured {descr} cannot be mapped")), "{reason}");
}
