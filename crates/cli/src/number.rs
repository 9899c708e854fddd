//! Numbers as they were typed: what they are depends on the element type they are for.

use core::fmt;

/// A decimal number, an infinity or NaN, kept as its text so that nothing of it is rounded before the type is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Number {
    text: String,
}

/// A number that is finite and has a fraction: `whole + fraction`, both of its sign.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Split {
    pub(crate) whole: i128,
    /// Nearer to zero than one; rounded.
    pub(crate) fraction: f64,
}

impl Number {
    /// Reads a number like `-1`, `2.5`, `1e-3`, `inf` or `nan`.
    ///
    /// # Errors
    /// What was expected, for the message of a usage error.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(_) => Ok(Self { text: text.to_owned() }),
            Err(_) => Err("expected a number".to_owned()),
        }
    }

    /// The nearest `f64`; none for a finite number beyond the largest.
    pub(crate) fn to_f64(&self) -> Option<f64> {
        let value: f64 = self.text.parse().unwrap_or(f64::NAN);
        (value.is_finite() || self.digits().is_none()).then_some(value)
    }

    /// The nearest `f32`, rounded once; none for a finite number beyond the largest.
    pub(crate) fn to_f32(&self) -> Option<f32> {
        let value: f32 = self.text.parse().unwrap_or(f32::NAN);
        (value.is_finite() || self.digits().is_none()).then_some(value)
    }

    /// The number in two parts, the first of which is exact; none for what is not finite or beyond 38 digits.
    pub(crate) fn split(&self) -> Option<Split> {
        let Digits { is_negative, digits, scale } = self.digits()?;
        let point = i64::try_from(digits.len()).ok()?.checked_add(scale)?;
        let before = usize::try_from(point.max(0)).ok()?;
        if before > 38 {
            return None;
        }
        let (whole, behind) = digits.split_at(before.min(digits.len()));
        let whole: i128 = format!("0{whole}{}", "0".repeat(before - whole.len())).parse().ok()?;
        let exponent = point.min(0);
        let fraction: f64 = format!("0.{behind}e{exponent}").parse().ok()?;
        // Digits without end are rounded up to one; the number is less.
        let fraction = fraction.min(1.0_f64.next_down());
        Some(if is_negative { Split { whole: -whole, fraction: -fraction } } else { Split { whole, fraction } })
    }

    /// Whether it is neither an infinity nor NaN, even beyond all types.
    pub(crate) fn is_finite(&self) -> bool {
        self.digits().is_some()
    }

    /// Whether it is no number at all.
    pub(crate) fn is_nan(&self) -> bool {
        !self.is_finite() && self.to_f64().is_some_and(f64::is_nan)
    }

    /// Whether the number has no fraction: those beyond all types neither, but infinities and NaN are no numbers.
    pub(crate) fn is_whole(&self) -> bool {
        self.digits().is_some_and(|digits| digits.scale >= 0)
    }

    /// The number, if it is whole; none for fractions, for what is not finite and beyond 38 digits.
    pub(crate) fn to_whole(&self) -> Option<i128> {
        let Digits { scale, .. } = self.digits()?;
        // No digit is behind the point.
        if scale >= 0 { self.split().map(|split| split.whole) } else { None }
    }

    /// The digits; none for infinities and NaN.
    fn digits(&self) -> Option<Digits> {
        let (is_negative, unsigned) = match self.text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, self.text.strip_prefix('+').unwrap_or(&self.text)),
        };
        if !unsigned.bytes().any(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        // An exponent of so many digits says no more than that it is beyond all bounds.
        let beyond = if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 };
        let exponent = exponent.parse::<i64>().ok().filter(|value| value.abs() < i64::MAX / 2).unwrap_or(beyond);
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let significant = all.trim_end_matches('0');
        let digits = significant.trim_start_matches('0').to_owned();
        let scale = exponent - fraction.len() as i64 + (all.len() - significant.len()) as i64;
        Some(Digits { is_negative, scale: if digits.is_empty() { 0 } else { scale }, digits })
    }
}

/// `digits * 10^scale`; the first and the last digit are not zeros.
struct Digits {
    is_negative: bool,
    digits: String,
    scale: i64,
}

/// As typed.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn whole_numbers_are_exact_however_they_are_written() {
        for (text, value) in [
            ("0", 0),
            ("-0.000", 0),
            ("0e999999999999999999999", 0),
            ("9007199254740993", 9_007_199_254_740_993),
            ("-9223372036854775808", i128::from(i64::MIN)),
            ("18446744073709551616", 1 << 64),
            ("1e18", 1_000_000_000_000_000_000),
            ("+1.50e1", 15),
            ("150e-1", 15),
            (".5E1", 5),
            ("007.", 7),
        ] {
            assert_eq!(number(text).to_whole(), Some(value), "{text}");
        }
        for text in
            ["0.5", "1e-1", "1e-99999999999999999999", "1e39", "1e99999999999999999999", "nan", "-inf", "infinity"]
        {
            assert_eq!(number(text).to_whole(), None, "{text}");
        }
        for text in ["", "-", "one", "0x10", "1_000", "1e", "e5", "--1"] {
            assert!(Number::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fractions_are_split_off() {
        let split = |text: &str| number(text).split().map(|Split { whole, fraction }| (whole, fraction));
        assert_eq!(split("-2.25"), Some((-2, -0.25)));
        assert_eq!(split("9007199254740993.5"), Some((9_007_199_254_740_993, 0.5)));
        assert_eq!(split("1e-3"), Some((0, 0.001)));
        assert_eq!(split("12e20"), Some((1_200_000_000_000_000_000_000, 0.0)));
        assert_eq!(split("1e-400"), Some((0, 0.0)));
        assert_eq!(split("0.99999999999999999999999"), Some((0, 1.0_f64.next_down())));
        assert_eq!(split("1e38"), None);
        assert_eq!(split("nan"), None);
    }

    #[test]
    fn what_is_beyond_a_type_is_not_an_infinity_of_it() {
        assert_eq!(number("1e400").to_f64(), None);
        assert_eq!(number("1e39").to_f32(), None);
        assert_eq!(number("1e39").to_f64(), Some(1e39));
        assert_eq!(number("-inf").to_f32(), Some(f32::NEG_INFINITY));
        assert!(number("nan").to_f64().unwrap().is_nan());
        // Just above the middle of two neighbours of f32, which f64 cannot tell from the middle.
        assert_eq!(number("1.000000059604644775390625000000001").to_f32(), Some(1.0 + f32::EPSILON));
    }

    proptest! {
        #[test]
        fn every_integer_is_read_back(value in -(10_i128.pow(38) - 1)..10_i128.pow(38), zeros in 0..20_usize) {
            prop_assert_eq!(number(&value.to_string()).to_whole(), Some(value));
            prop_assert_eq!(number(&format!("{value}.{}", "0".repeat(zeros))).to_whole(), Some(value));
            let shifted = format!("{value}{}e-{zeros}", "0".repeat(zeros));
            prop_assert_eq!(number(&shifted).to_whole(), Some(value));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+]?[0-9]{0,50}[.]?[0-9]{0,50}([eE][-+]?[0-9]{0,25})?|\\PC*") {
            if let Ok(number) = Number::parse(&text) {
                let _ = (number.to_f64(), number.to_f32(), number.split(), number.to_whole());
            }
        }
    }
}
