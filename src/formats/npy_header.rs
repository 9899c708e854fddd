//! The text of a `.npy` header: a Python dictionary literal with the keys `descr`, `fortran_order` and `shape`.
//!
//! The grammar is the part of Python that writers of the format use: single- or double-quoted strings without escapes,
//! `True` and `False`, tuples of decimal integers, white space and trailing commas where Python allows them, keys in
//! any order. In versions 1.0 and 2.0 an integer may end in `L`, as Python 2 wrote long integers (numpy reads those
//! too). Nothing nests, so nothing recurses; each step consumes a byte, so the time is linear in the length of the
//! text.

use super::element::ElementType;
use super::npy_descr;
use super::npy_error::{NpyError, excerpt, excerpt_of_fields};

const DESCR: &str = "descr";
const FORTRAN_ORDER: &str = "fortran_order";
const SHAPE: &str = "shape";

const TRUE_OR_FALSE: &str = "True or False";
const TUPLE: &str = "a tuple of lengths such as (3,) or (3, 4)";
const AXIS: &str = "the length of an axis in decimal digits";

/// What the dictionary says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeaderFields {
    /// The type that `descr` names.
    pub(super) element: ElementType,
    /// Whether the first axis varies fastest.
    pub(super) fortran_order: bool,
    /// The lengths of the axes.
    pub(super) shape: Vec<u64>,
}

/// Reads the dictionary in `text`, which starts `text_offset` bytes into the file.
///
/// `long_suffix` allows `L` after integers. An axis takes at least two bytes of text and eight of memory,
/// so that the growing shape takes at most twelve times the length of `text`.
///
/// # Errors
/// The first thing found wrong, from left to right; a missing key comes last.
pub(super) fn parse_fields(text: &[u8], text_offset: u64, long_suffix: bool) -> Result<HeaderFields, NpyError> {
    let mut cursor = TextCursor { text, text_offset, position: 0, long_suffix };
    let (mut element, mut fortran_order, mut shape) = (None, None, None);
    cursor.skip_space();
    cursor.expect(b'{', "'{'")?;
    loop {
        cursor.skip_space();
        if cursor.eat(b'}') {
            break;
        }
        let key = cursor.string("a quoted key or '}'")?;
        cursor.skip_space();
        cursor.expect(b':', "':'")?;
        cursor.skip_space();
        match key {
            b"descr" => set_once(&mut element, DESCR, || cursor.descr())?,
            b"fortran_order" => set_once(&mut fortran_order, FORTRAN_ORDER, || cursor.boolean(FORTRAN_ORDER))?,
            b"shape" => set_once(&mut shape, SHAPE, || cursor.shape())?,
            _ => return Err(NpyError::UnknownKey { key: excerpt(key) }),
        }
        cursor.skip_space();
        if !cursor.eat(b',') {
            cursor.expect(b'}', "',' or '}'")?;
            break;
        }
    }
    cursor.skip_space();
    if cursor.position < text.len() {
        return Err(NpyError::TrailingText { offset: cursor.offset(), found: cursor.found() });
    }
    Ok(HeaderFields {
        element: element.ok_or(NpyError::MissingKey { key: DESCR })?,
        fortran_order: fortran_order.ok_or(NpyError::MissingKey { key: FORTRAN_ORDER })?,
        shape: shape.ok_or(NpyError::MissingKey { key: SHAPE })?,
    })
}

/// Fills an empty `field` with what `read` finds; a filled one is a duplicate key.
fn set_once<T>(
    field: &mut Option<T>,
    key: &'static str,
    read: impl FnOnce() -> Result<T, NpyError>,
) -> Result<(), NpyError> {
    if field.is_some() {
        return Err(NpyError::DuplicateKey { key });
    }
    *field = Some(read()?);
    Ok(())
}

/// A place in the text. Invariant: `position <= text.len()`.
struct TextCursor<'a> {
    text: &'a [u8],
    text_offset: u64,
    position: usize,
    long_suffix: bool,
}

impl<'a> TextCursor<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.get(self.position..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    /// The offset in the file. The text lies in the first [`MAX_HEADER_BYTES`](super::npy::MAX_HEADER_BYTES), so the
    /// sum cannot overflow.
    fn offset(&self) -> u64 {
        self.text_offset + self.position as u64
    }

    /// What is here, for an error: up to the end of the value, without the padding that follows it.
    fn found(&self) -> String {
        excerpt(self.value())
    }

    /// The bytes of the value that begins here: up to a comma, the end of the dictionary or of the line, none of which ends it
    /// within brackets or quotes. One whose brackets are not closed has all that is left.
    fn value(&self) -> &'a [u8] {
        let rest = self.rest();
        let (mut depth, mut quote, mut escaped) = (0_usize, None, false);
        let mut end = rest.len();
        for (at, &byte) in rest.iter().enumerate() {
            match (quote, byte) {
                _ if escaped => escaped = false,
                (_, b'\n') if depth == 0 && at > 0 => end = at,
                (Some(_), b'\\') => escaped = true,
                (Some(open), _) if byte == open => quote = None,
                (Some(_), _) => {}
                (None, b'\'' | b'"') => quote = Some(byte),
                (None, b'(' | b'[' | b'{') => depth += 1,
                (None, b',' | b'}') if depth == 0 && at > 0 => end = at,
                (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
                _ => {}
            }
            if end < rest.len() {
                break;
            }
        }
        rest.get(..end).unwrap_or(rest).trim_ascii_end()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')) {
            self.position += 1;
        }
    }

    /// Steps over `byte` if it is here.
    fn eat(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.position += usize::from(here);
        here
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), NpyError> {
        if self.eat(byte) { Ok(()) } else { Err(self.syntax(expected)) }
    }

    fn syntax(&self, expected: &'static str) -> NpyError {
        NpyError::Syntax { offset: self.offset(), expected, found: self.found() }
    }

    fn wrong_value(&self, key: &'static str, expected: &'static str) -> NpyError {
        NpyError::WrongValue { key, expected, offset: self.offset(), found: self.found() }
    }

    /// Steps over bytes while `belongs` holds and returns them.
    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().position(|&byte| !belongs(byte)).unwrap_or(rest.len());
        self.position += length;
        rest.get(..length).unwrap_or(rest)
    }

    /// A quoted string without escapes or line breaks.
    fn string(&mut self, expected: &'static str) -> Result<&'a [u8], NpyError> {
        let quote = match self.peek() {
            Some(quote @ (b'\'' | b'"')) => quote,
            _ => return Err(self.syntax(expected)),
        };
        self.position += 1;
        let content = self.take_while(|byte| byte != quote && byte != b'\\' && byte != b'\n' && byte != b'\r');
        self.expect(quote, "the closing quote of a string without escapes")?;
        Ok(content)
    }

    /// `descr`: a type string. Lists and tuples are types of several fields and need no closer look.
    fn descr(&mut self) -> Result<ElementType, NpyError> {
        let (name, advice) = match self.peek() {
            Some(b'\'' | b'"') => return npy_descr::element_of(self.string("a type string")?),
            Some(b'[') => ("structured", "save each field as an array of its own, array['field']"),
            Some(b'(') => ("sub-array", "save it as a plain array with more axes"),
            _ => return Err(self.wrong_value(DESCR, "a type string such as '<f8'")),
        };
        Err(NpyError::UnsupportedType { descr: excerpt_of_fields(self.value()), name, advice })
    }

    fn boolean(&mut self, key: &'static str) -> Result<bool, NpyError> {
        let error = self.wrong_value(key, TRUE_OR_FALSE);
        match self.take_while(is_word) {
            b"True" => Ok(true),
            b"False" => Ok(false),
            _ => Err(error),
        }
    }

    /// `shape`: a tuple. As in Python `(3)` is a number in parentheses and not a tuple.
    fn shape(&mut self) -> Result<Vec<u64>, NpyError> {
        let not_a_tuple = self.wrong_value(SHAPE, TUPLE);
        if !self.eat(b'(') {
            return Err(not_a_tuple);
        }
        let mut axes = Vec::new();
        loop {
            self.skip_space();
            if self.eat(b')') {
                return Ok(axes);
            }
            axes.push(self.axis()?);
            self.skip_space();
            if !self.eat(b',') {
                self.expect(b')', "',' or ')'")?;
                return if axes.len() == 1 { Err(not_a_tuple) } else { Ok(axes) };
            }
        }
    }

    /// The length of one axis.
    fn axis(&mut self) -> Result<u64, NpyError> {
        let start = self.offset();
        let negative = self.eat(b'-');
        let word = self.take_while(is_word);
        let digits = match word {
            [digits @ .., b'L'] if self.long_suffix => digits,
            digits => digits,
        };
        let leading_zero = digits.len() > 1 && digits.first() == Some(&b'0');
        if digits.is_empty() || leading_zero || !digits.iter().all(u8::is_ascii_digit) {
            let sign: &[u8] = if negative { b"-" } else { b"" };
            let found = if word.is_empty() { self.found() } else { excerpt(&[sign, word].concat()) };
            return Err(NpyError::WrongValue { key: SHAPE, expected: AXIS, offset: start, found });
        }
        if negative {
            return Err(NpyError::NegativeAxis { found: format!("-{}", excerpt(digits)) });
        }
        digits
            .iter()
            .try_fold(0_u64, |length, digit| length.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .ok_or_else(|| NpyError::AxisTooLong { found: excerpt(digits) })
    }
}

/// Whether a byte belongs to a word or number: what Python would read as one token, and the point of a fraction.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')
}
