//! What can be wrong with a `.npy` or raw file.

use core::fmt;

use super::element::ElementType;

/// The longest header that is read or written, in bytes, counted from the start of the file to the start of the data.
pub const MAX_HEADER_BYTES: u64 = 1 << 20;

/// The most bytes of a file that an error quotes.
const EXCERPT_BYTES_MAX: usize = 32;

/// The most bytes that it quotes of a type of several fields.
const FIELDS_BYTES_MAX: usize = 200;

/// The most axes of a shape that an error prints.
const AXES_PRINTED_MAX: usize = 8;

/// Why a `.npy` or raw file cannot be mapped, or a header not be written.
///
/// `Display` prints one line of ASCII that says what is wrong and what to do; it does not name the file. What it quotes
/// of the file is escaped and cut at 32 bytes, types of several fields between two fields at 200. Offsets are in bytes from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NpyError {
    /// The file does not start with the magic string `\x93NUMPY`.
    BadMagic {
        /// The first bytes of the file, as many as the magic string has, or all there are.
        found: Vec<u8>,
    },
    /// The format version is not 1.0, 2.0 or 3.0.
    UnsupportedVersion {
        /// The major version.
        major: u8,
        /// The minor version.
        minor: u8,
    },
    /// The header, with all before it, is longer than [`MAX_HEADER_BYTES`].
    HeaderTooLong {
        /// Its length in bytes.
        bytes: u64,
    },
    /// The file ends within its header.
    HeaderTruncated {
        /// Bytes the file needs to hold its header, as far as that is known.
        expected: u64,
        /// Bytes the file has.
        found: u64,
    },
    /// The caller gave fewer bytes of the file than its header has. The file itself is long enough.
    HeadTooShort {
        /// Bytes needed from the start of the file, as far as that is known.
        needed: u64,
        /// Bytes given.
        given: u64,
    },
    /// The header of a version 3.0 file is not UTF-8.
    NotUtf8 {
        /// Where the first byte lies that is not part of a character.
        offset: u64,
    },
    /// The header is not a Python dictionary literal.
    Syntax {
        /// Where.
        offset: u64,
        /// What had to be there.
        expected: &'static str,
        /// What was there, escaped; empty at the end of the header.
        found: String,
    },
    /// Something other than white space follows the dictionary.
    TrailingText {
        /// Where.
        offset: u64,
        /// What was there, escaped.
        found: String,
    },
    /// The dictionary has a key other than `descr`, `fortran_order` and `shape`.
    UnknownKey {
        /// The key, escaped.
        key: String,
    },
    /// The dictionary has a key twice.
    DuplicateKey {
        /// The key.
        key: &'static str,
    },
    /// The dictionary lacks a key.
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// The value of a key has the wrong type.
    WrongValue {
        /// The key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// Where the value starts, or the part of it that is wrong.
        offset: u64,
        /// What was there, escaped; empty at the end of the header.
        found: String,
    },
    /// The length of an axis is negative.
    NegativeAxis {
        /// The number.
        found: String,
    },
    /// The length of an axis does not fit into 64 bits.
    AxisTooLong {
        /// The first digits of the number.
        found: String,
    },
    /// The elements are of a type that cannot be mapped.
    UnsupportedType {
        /// The value of `descr`, escaped.
        descr: String,
        /// The numpy name of the type, or `unknown`.
        name: &'static str,
        /// How to save the data so that it can be mapped.
        advice: &'static str,
    },
    /// The elements are stored in the byte order of other machines.
    ByteOrder {
        /// The value of `descr`.
        descr: String,
        /// The element type.
        element: ElementType,
    },
    /// The elements are stored column by column, which for this shape is not the order of rows.
    FortranOrder {
        /// The lengths of the axes.
        shape: Vec<u64>,
    },
    /// The number of elements or of their bytes does not fit into 64 bits.
    TooManyElements {
        /// The lengths of the axes.
        shape: Vec<u64>,
        /// The element type.
        element: ElementType,
    },
    /// The file holds less data than its header says.
    DataTruncated {
        /// Bytes of data the header announces.
        expected: u64,
        /// Bytes the file has after its header.
        found: u64,
    },
    /// The length of a raw file is not a multiple of the element size.
    PartialElement {
        /// Bytes the file has.
        file_len: u64,
        /// The element type it was read as.
        element: ElementType,
    },
}

impl fmt::Display for NpyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_problem(f)?;
        f.write_str("; ")?;
        self.write_advice(f)
    }
}

impl core::error::Error for NpyError {}

impl NpyError {
    /// Says what is wrong.
    fn write_problem(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic { found } if found.is_empty() => f.write_str("the file is empty, not a .npy file"),
            Self::BadMagic { found } if is_zip(found) => {
                f.write_str("the file is a zip archive (.npz), not a .npy file")
            }
            Self::BadMagic { found } => match compressor(found) {
                Some(program) => write!(f, "the file is compressed by {program}, not a .npy file"),
                None => write!(f, "not a .npy file: it starts with \"{}\"", excerpt(found)),
            },
            Self::UnsupportedVersion { major, minor } => {
                write!(f, "version {major}.{minor} of the .npy format is unknown")
            }
            Self::HeaderTooLong { bytes } => {
                write!(f, "the header takes {bytes} bytes where at most {MAX_HEADER_BYTES} are allowed")
            }
            Self::HeaderTruncated { expected, found } => {
                write!(f, "the header needs {expected} bytes, the file has {found}: it is cut short or damaged")
            }
            Self::HeadTooShort { needed, given } => {
                write!(f, "the header needs the first {needed} bytes of the file, {given} were given")
            }
            Self::NotUtf8 { offset } => {
                write!(f, "the version 3.0 header is not UTF-8 at offset {offset}: the file is damaged")
            }
            Self::Syntax { offset, expected, found } => {
                write_mismatch(f, "the header is not a Python dictionary", expected, *offset, found)
            }
            Self::TrailingText { offset, found } => {
                write_mismatch(f, "text follows the header's dictionary", "only white space", *offset, found)
            }
            Self::UnknownKey { key } => {
                write!(f, "the header has the unknown key '{key}' beside 'descr', 'fortran_order' and 'shape'")
            }
            Self::DuplicateKey { key } => write!(f, "the header has the key '{key}' twice"),
            Self::MissingKey { key } => write!(f, "the header lacks the key '{key}'"),
            Self::WrongValue { key, expected, offset, found } => {
                write_mismatch(f, format_args!("the value of '{key}' is wrong"), expected, *offset, found)
            }
            Self::NegativeAxis { found } => write!(f, "an axis has the negative length {found}"),
            Self::AxisTooLong { found } => write!(f, "the axis length {found} does not fit into 64 bits"),
            // A list or tuple is no string: it is shown as it stands in the header.
            Self::UnsupportedType { descr, name, .. } if descr.starts_with(['[', '(']) => {
                write!(f, "elements of type {name} {descr} cannot be mapped")
            }
            Self::UnsupportedType { descr, name, .. } => {
                write!(f, "elements of type {name} ('{descr}') cannot be mapped")
            }
            Self::ByteOrder { descr, element } => {
                write!(f, "'{descr}' is {element} in the byte order of other machines")
            }
            Self::FortranOrder { shape } => {
                write!(f, "shape {} is stored in Fortran order (by columns)", PrintedShape(shape))
            }
            Self::TooManyElements { shape, element } => {
                write!(f, "shape {} of {element} takes more bytes than 64 bits can count", PrintedShape(shape))
            }
            Self::DataTruncated { expected, found } => {
                write!(f, "the header announces {expected} bytes of data, {found} follow it: the file is cut short")
            }
            Self::PartialElement { file_len, element } => {
                let size_bytes = element.size_bytes();
                write!(f, "{file_len} bytes are not a whole number of {element} ({size_bytes} bytes each)")
            }
        }
    }

    /// Says what to do about it.
    fn write_advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadMagic { found } if found.is_empty() => "write it again",
            Self::BadMagic { found } if is_zip(found) => "unpack it and use one of the .npy files in it",
            Self::BadMagic { found } if compressor(found).is_some() => "unpack it first",
            Self::BadMagic { .. } => "write it with numpy.save",
            Self::UnsupportedVersion { .. } => "save it as version 1.0, 2.0 or 3.0",
            Self::HeaderTooLong { .. } => "save the array with a plain type and fewer axes",
            Self::HeaderTruncated { .. } | Self::DataTruncated { .. } => "copy or write it again",
            Self::HeadTooShort { .. } => "pass more of it",
            Self::UnsupportedType { advice, .. } => advice,
            Self::ByteOrder { element, .. } => return write!(f, "save array.astype('{}')", element.descr()),
            Self::FortranOrder { .. } => "save numpy.ascontiguousarray(array)",
            Self::PartialElement { .. } => "check the element type",
            Self::TooManyElements { .. } | Self::NegativeAxis { .. } | Self::AxisTooLong { .. } => "correct the shape",
            Self::NotUtf8 { .. }
            | Self::Syntax { .. }
            | Self::TrailingText { .. }
            | Self::UnknownKey { .. }
            | Self::DuplicateKey { .. }
            | Self::MissingKey { .. }
            | Self::WrongValue { .. } => "save the array again with numpy.save",
        })
    }
}

/// Whether a file that starts like this is a zip archive, as numpy's `.npz` files are.
fn is_zip(found: &[u8]) -> bool {
    found.starts_with(b"PK\x03\x04")
}

/// The program that compresses files which start like this.
fn compressor(found: &[u8]) -> Option<&'static str> {
    let starts: [(&[u8], _); 4] =
        [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz"), (b"BZh", "bzip2")];
    starts.into_iter().find(|(start, _)| found.starts_with(start)).map(|(_, program)| program)
}

/// Says what had to be at an offset and what was.
fn write_mismatch(
    f: &mut fmt::Formatter<'_>,
    what: impl fmt::Display,
    expected: &str,
    offset: u64,
    found: &str,
) -> fmt::Result {
    write!(f, "{what}: expected {expected} at offset {offset}, found ")?;
    if found.is_empty() { f.write_str("its end") } else { write!(f, "`{found}`") }
}

/// The start of `bytes` as printable ASCII without line breaks, with `...` where it was cut.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let shown = bytes.get(..EXCERPT_BYTES_MAX).unwrap_or(bytes);
    printed(shown, bytes)
}

/// As [`excerpt`] for a list of fields, which is cut after a field.
pub(super) fn excerpt_of_fields(bytes: &[u8]) -> String {
    let Some(shown) = bytes.get(..FIELDS_BYTES_MAX) else { return printed(bytes, bytes) };
    let end = shown.windows(2).rposition(|pair| matches!(pair, b")," | b"],")).map_or(shown.len(), |at| at + 2);
    let mut text = printed(shown.get(..end).unwrap_or(shown), bytes);
    // Behind a comma there is a space in what numpy writes.
    if text.ends_with(",...") {
        text.insert(text.len() - 3, ' ');
    }
    text
}

/// `shown`, which is the start of `bytes`.
fn printed(shown: &[u8], bytes: &[u8]) -> String {
    // Quotes stay as they are: text is escaped to be harmless and to stay on one line, not to be read back.
    let mut text = String::with_capacity(shown.len());
    for &byte in shown {
        match byte {
            b'\'' | b'"' => text.push(char::from(byte)),
            _ => text.extend(core::ascii::escape_default(byte).map(char::from)),
        }
    }
    if bytes.len() > shown.len() {
        text.push_str("...");
    }
    text
}

/// Prints a shape as Python does, cut after [`AXES_PRINTED_MAX`] axes.
struct PrintedShape<'a>(&'a [u64]);

impl fmt::Display for PrintedShape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (index, axis) in self.0.iter().take(AXES_PRINTED_MAX).enumerate() {
            write!(f, "{}{axis}", if index == 0 { "" } else { ", " })?;
        }
        match self.0.len() {
            1 => f.write_str(",)"),
            length if length > AXES_PRINTED_MAX => write!(f, ", ... {length} axes)"),
            _ => f.write_str(")"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_printable_and_on_one_line() {
        assert_eq!(excerpt(b"a\n\t\x1b[31m\xff'\"\\"), r#"a\n\t\x1b[31m\xff'"\\"#);
        assert_eq!(excerpt(&[b'x'; 32]), "x".repeat(32));
        assert_eq!(excerpt(&[b'x'; 33]), format!("{}...", "x".repeat(32)));
        assert_eq!(excerpt(b""), "");
    }

    #[test]
    fn types_of_many_fields_are_cut_between_fields() {
        let fields: Vec<String> = (0..9).map(|at| format!("('field{at}', '<f8')")).collect();
        let whole = format!("[{}]", fields.join(", "));
        assert_eq!(excerpt_of_fields(whole.as_bytes()), whole);
        let fields: Vec<String> = (0..30).map(|at| format!("('field{at}', '<f8')")).collect();
        let cut = excerpt_of_fields(format!("[{}]", fields.join(", ")).as_bytes());
        assert_eq!(cut, format!("[{}, ...", fields[..10].join(", ")));
        assert_eq!(excerpt_of_fields(&[b'x'; 300]), format!("{}...", "x".repeat(200)));
        let fits = format!("[{}]", "x".repeat(198));
        assert_eq!(excerpt_of_fields(fits.as_bytes()), fits);
    }

    #[test]
    fn shapes_print_as_python_does() {
        assert_eq!(PrintedShape(&[]).to_string(), "()");
        assert_eq!(PrintedShape(&[3]).to_string(), "(3,)");
        assert_eq!(PrintedShape(&[3, 4]).to_string(), "(3, 4)");
        assert_eq!(PrintedShape(&[1; 8]).to_string(), "(1, 1, 1, 1, 1, 1, 1, 1)");
        assert_eq!(PrintedShape(&[1; 9]).to_string(), "(1, 1, 1, 1, 1, 1, 1, 1, ... 9 axes)");
    }

    #[test]
    fn messages_say_what_is_wrong_and_what_to_do() {
        let cases = [
            (NpyError::BadMagic { found: vec![] }, "the file is empty, not a .npy file; write it again"),
            (
                NpyError::BadMagic { found: b"PK\x03\x04\x14\x00".to_vec() },
                "the file is a zip archive (.npz), not a .npy file; unpack it and use one of the .npy files in it",
            ),
            (
                NpyError::BadMagic { found: b"\x89HDF\r\n".to_vec() },
                r#"not a .npy file: it starts with "\x89HDF\r\n"; write it with numpy.save"#,
            ),
            (
                NpyError::BadMagic { found: b"\x1f\x8b\x08\x00\x00\x00".to_vec() },
                "the file is compressed by gzip, not a .npy file; unpack it first",
            ),
            (
                NpyError::BadMagic { found: b"BZh91A".to_vec() },
                "the file is compressed by bzip2, not a .npy file; unpack it first",
            ),
            (
                NpyError::FortranOrder { shape: vec![2, 3] },
                "shape (2, 3) is stored in Fortran order (by columns); save numpy.ascontiguousarray(array)",
            ),
            (
                NpyError::DataTruncated { expected: 24, found: 17 },
                "the header announces 24 bytes of data, 17 follow it: the file is cut short; copy or write it again",
            ),
            (
                NpyError::PartialElement { file_len: 17, element: ElementType::F64 },
                "17 bytes are not a whole number of float64 (8 bytes each); check the element type",
            ),
            (
                NpyError::Syntax { offset: 10, expected: "'{'", found: String::new() },
                "the header is not a Python dictionary: expected '{' at offset 10, found its end; save the array again with numpy.save",
            ),
            (
                NpyError::WrongValue {
                    key: "fortran_order",
                    expected: "True or False",
                    offset: 44,
                    found: "0".to_string(),
                },
                "the value of 'fortran_order' is wrong: expected True or False at offset 44, found `0`; save the array again with numpy.save",
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(error.to_string(), expected);
        }
    }
}
