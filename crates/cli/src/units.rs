//! Sizes, counts and times as people write and read them.

use std::time::Duration;

use parse_size::{ByteSuffix, Config, Error};

/// Reads a size in bytes: a whole number as [`parse_count`] reads it, and a suffix such as `KiB`, `MiB`, `GiB` or `GB`.
///
/// Case does not matter; a space before the suffix is allowed. A bare `K`, `M` or `G` is refused, because half the
/// world means 1000 by it and the other half 1024.
///
/// # Errors
/// A sentence saying what is wrong, for the message of a usage error. Zero is not a size.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    // Nothing may stand behind the digits, or the whole of a suffix.
    let suffix = if ends_with_digit(text) { ByteSuffix::Deny } else { ByteSuffix::Require };
    let bytes = parse_whole(text, suffix).map_err(|error| match error {
        Error::Empty => "expected a whole number".to_owned(),
        Error::PosOverflow => "more than 2^64 - 1 bytes".to_owned(),
        _ => "the suffix must be B, KiB, MiB, GiB, TiB, kB, MB, GB or TB".to_owned(),
    })?;
    if bytes == 0 { Err("must be at least one byte".to_owned()) } else { Ok(bytes) }
}

/// Reads a number of elements: a whole number, with underscores if wanted, or with a power of ten as in `2e9`.
///
/// # Errors
/// A sentence saying what is wrong, for the message of a usage error.
pub(crate) fn parse_count(text: &str) -> Result<u64, String> {
    let count = if ends_with_digit(text) { parse_whole(text, ByteSuffix::Deny) } else { Err(Error::InvalidDigit) };
    count.map_err(|error| match error {
        Error::PosOverflow => "more than 2^64 - 1".to_owned(),
        _ => "expected a whole number".to_owned(),
    })
}

fn ends_with_digit(text: &str) -> bool {
    text.ends_with(|last: char| last.is_ascii_digit())
}

/// A text that does not begin with a digit is empty; one with a fraction, which the parser would round, has a wrong suffix.
fn parse_whole(text: &str, suffix: ByteSuffix) -> Result<u64, Error> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(Error::Empty);
    }
    if text.contains(['.', '-', '+']) {
        return Err(Error::InvalidDigit);
    }
    Config::new().with_byte_suffix(suffix).parse_size(text)
}

/// A size with three significant digits and a binary unit: `999 B`, `1.50 KiB`, `16.0 EiB`.
pub(crate) fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 { format!("{bytes} B") } else { with_unit(bytes as f64 / 1024.0, 1024.0, &UNITS) }
}

/// How much was worked on, in the units of [`format_rate`]: `999 B`, `1.50 kB`, `18.4 EB`.
pub(crate) fn format_volume(bytes: u64) -> String {
    if bytes < 1000 { format!("{bytes} B") } else { format_decimal(bytes as f64) }
}

/// A speed in decimal units, as memory bandwidth is quoted: `12.3 GB/s`. Empty time gives a dash.
pub(crate) fn format_rate(bytes: u64, elapsed: Duration) -> String {
    if elapsed.is_zero() { "-".to_owned() } else { format_decimal(bytes as f64 / elapsed.as_secs_f64()) + "/s" }
}

/// Bytes with three significant digits and a decimal unit.
fn format_decimal(bytes: f64) -> String {
    with_unit(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// A value with three significant digits in the unit that suits it, each of which is `base` times the one before.
fn with_unit(value: f64, base: f64, units: &[&str]) -> String {
    let (mut scaled, mut unit) = (value, 0);
    // From half a last digit below on, rounding would print the base.
    while scaled >= base - 0.5 && unit + 1 < units.len() {
        scaled /= base;
        unit += 1;
    }
    format!("{} {}", three_digits(scaled), units[unit])
}

/// A time with about three digits: `85 ns`, `1.23 ms`, `42.0 s`, `2 min 05 s`, `3 h 07 min`.
pub(crate) fn format_duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if elapsed.as_nanos() < 1_000 {
        return format!("{} ns", elapsed.as_nanos());
    }
    for (unit, per_second) in [("us", 1e6), ("ms", 1e3)] {
        // From half a last digit below on, rounding would print 1000.
        if seconds * per_second < 999.5 {
            return format!("{} {unit}", three_digits(seconds * per_second));
        }
    }
    if seconds < 59.95 {
        return format!("{} s", three_digits(seconds));
    }
    let whole = elapsed.as_secs() + u64::from(elapsed.subsec_nanos() >= 500_000_000);
    if whole < 3600 {
        return format!("{} min {:02} s", whole / 60, whole % 60);
    }
    let minutes = whole / 60;
    format!("{} h {:02} min", minutes / 60, minutes % 60)
}

fn three_digits(value: f64) -> String {
    // The bounds lie half a last digit below the powers of ten, where rounding gains a digit.
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Suffixes of sizes and what they multiply by: those of IEC 80000-13 and the decimal ones of the SI.
    const SIZE_SUFFIXES: [(&str, u64); 9] = [
        ("b", 1),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
    ];

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("1_000_000", 1_000_000),
            ("512KiB", 512 << 10),
            ("2 mib", 2 << 20),
            ("3GIB", 3 << 30),
            ("1TiB", 1 << 40),
            ("5kB", 5_000),
            ("2GB", 2_000_000_000),
            ("7 B", 7),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, message) in [
            ("", "whole number"),
            ("MiB", "whole number"),
            ("-1", "whole number"),
            ("1.5GiB", "suffix"),
            ("1G", "suffix"),
            ("1 GiB x", "suffix"),
            ("1Gi", "suffix"),
            ("15e-1", "suffix"),
            ("_1", "whole number"),
            ("0", "at least one"),
            ("0GiB", "at least one"),
            ("16777216TiB", "2^64"),
            ("18446744073709551616", "2^64"),
        ] {
            assert!(parse_size(text).unwrap_err().contains(message), "{text}");
        }
    }

    #[test]
    fn counts_are_read() {
        for (text, count) in [("0", 0), ("1_000", 1_000), ("2e9", 2_000_000_000), ("1E0", 1), ("0e5", 0)] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for text in [
            "",
            "e3",
            "1e",
            "1k",
            "1kB",
            "15e-1",
            "1_",
            " 1",
            "1.5e3",
            "-1",
            "1e20",
            "2e19",
            "1e99999999999",
            "1e-3",
            "x",
            "1e2e3",
        ] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (100 << 20, "100 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (2_694_336, "2.57 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn times_and_rates_are_written() {
        for (nanoseconds, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (12_340_000, "12.3 ms"),
            (1_000_000_000, "1.00 s"),
            (59_940_000_000, "59.9 s"),
            (59_960_000_000, "1 min 00 s"),
            (125_000_000_000, "2 min 05 s"),
            (3_599_600_000_000, "1 h 00 min"),
            (11_220_000_000_000, "3 h 07 min"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(nanoseconds)), text);
        }
        assert_eq!(format_rate(12_340_000_000, Duration::from_secs(1)), "12.3 GB/s");
        assert_eq!(format_rate(10, Duration::from_secs(20)), "0.50 B/s");
        assert_eq!(format_rate(999_999, Duration::from_secs(1)), "1.00 MB/s");
        assert_eq!(format_rate(1, Duration::ZERO), "-");
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1_600_000_000, "1.60 GB"), (u64::MAX, "18.4 EB")]
        {
            assert_eq!(format_volume(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", digits in "[0-9_eEkKmMgGiIbB ]*") {
            let _ = (parse_size(&text), parse_count(&text), parse_size(&digits), parse_count(&digits));
        }

        #[test]
        fn what_is_read_is_what_was_meant(number in 1..1_000_000_u64, suffix in 0..SIZE_SUFFIXES.len()) {
            let (name, unit) = SIZE_SUFFIXES[suffix];
            prop_assert_eq!(parse_size(&format!("{number}{name}")), Ok(number * unit));
        }
    }
}
