//! `.npy` files: where the data of an array lies, and the header to write in front of a result.
//!
//! The format is that of NEP 1 and `numpy.lib.format`, versions 1.0, 2.0 and 3.0: the magic string `\x93NUMPY`, two
//! bytes of version, the length of the header (little-endian, two bytes in version 1.0, four since), the header, the
//! data.
//!
//! Decisions, where the format or its readers leave room:
//! - Data in Fortran order is refused, except where both orders are the same: no element, or at most one axis longer
//!   than 1.
//! - Bytes after the data are accepted, as numpy does (`numpy.save` can append several arrays to one file); they are
//!   ignored.
//! - The header may end anywhere: data that is not aligned for its type is reported in [`NpyHeader::aligned`], not
//!   refused.
//! - Of two equal keys numpy takes the last; here they are an error, since no writer makes them and damaged headers do.
//!
//! The header is read by a strict parser of this crate and not by the `npyz` crate: in its version 0.9.1 a shape whose
//! product overflows panics, or gives a wrong length in release builds; the announced length of the header, up to 4
//! GiB, is allocated before anything is read; a number of a million digits takes a second to read; duplicate and
//! unknown keys are accepted in silence. All of it happens behind one call, so that checking first would mean parsing
//! first.

use super::element::ElementType;
pub use super::npy_error::MAX_HEADER_BYTES;
use super::npy_error::NpyError;
use super::npy_header::{self, HeaderFields};

/// What every file starts with.
pub(crate) const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Headers are padded so that the data starts at a multiple of this many bytes, as numpy does: enough for every element
/// type, for vector loads and for a cache line.
const DATA_ALIGNMENT_BYTES: usize = 64;

/// The width that numpy leaves for the first axis, so that a file can grow and its header be rewritten in place.
const GROWING_AXIS_DIGITS: usize = 21;

/// What a `.npy` file holds and where.
///
/// From [`parse`] it is consistent: `data_offset + len * element.size_bytes()` does not overflow and lies within the
/// file. The elements are in C order (the last axis varies fastest) and in the byte order of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHeader {
    /// The type of each element.
    pub element: ElementType,
    /// The lengths of the axes, outermost first; empty for a zero-dimensional array.
    pub shape: Vec<u64>,
    /// The number of elements: the product of `shape`, which is 1 for a zero-dimensional array.
    pub len: u64,
    /// Where the data starts, in bytes from the start of the file.
    pub data_offset: u64,
    /// Whether `data_offset` is a multiple of the element size. If not, the data cannot be used in place as a slice of
    /// elements, however the file is mapped: it must be copied.
    pub aligned: bool,
}

/// A version of the format. Version 3.0 differs from 2.0 in the encoding of the header, which is UTF-8 and not Latin-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
    Three,
}

impl Version {
    fn from_bytes(major: u8, minor: u8) -> Result<Self, NpyError> {
        match (major, minor) {
            (1, 0) => Ok(Self::One),
            (2, 0) => Ok(Self::Two),
            (3, 0) => Ok(Self::Three),
            _ => Err(NpyError::UnsupportedVersion { major, minor }),
        }
    }

    const fn major(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }

    /// Bytes of the magic string, the version and the header length.
    const fn prefix_bytes(self) -> usize {
        match self {
            Self::One => MAGIC.len() + 2 + 2,
            Self::Two | Self::Three => MAGIC.len() + 2 + 4,
        }
    }
}

/// Reads the header of a `.npy` file from its first bytes.
///
/// `head` is the start of the file: [`MAX_HEADER_BYTES`] of it, or all of a shorter file, are always enough. Fewer may
/// do. `file_len` is the length of the whole file in bytes. Does no input or output, does not block, and looks at
/// nothing after the header.
///
/// # Errors
/// What is wrong with the file, see [`NpyError`]. No bytes make it panic, or take time or memory out of proportion to
/// the header: the most memory is that of the shape, at most twelve times [`MAX_HEADER_BYTES`] while it is read.
pub fn parse(head: &[u8], file_len: u64) -> Result<NpyHeader, NpyError> {
    let (version, data_offset) = parse_prefix(head, file_len)?;
    let header = require(head, file_len, data_offset)?;
    let text = header.get(version.prefix_bytes()..).unwrap_or_default();
    let text_offset = version.prefix_bytes() as u64;
    if version == Version::Three
        && let Err(error) = core::str::from_utf8(text)
    {
        return Err(NpyError::NotUtf8 { offset: text_offset + error.valid_up_to() as u64 });
    }
    let HeaderFields { element, fortran_order, shape } =
        npy_header::parse_fields(text, text_offset, version != Version::Three)?;
    let Some((len, data_bytes)) = count_elements(&shape, element) else {
        return Err(NpyError::TooManyElements { shape, element });
    };
    if fortran_order && len != 0 && shape.iter().filter(|&&axis| axis > 1).count() > 1 {
        return Err(NpyError::FortranOrder { shape });
    }
    let available_bytes = file_len.saturating_sub(data_offset);
    if available_bytes < data_bytes {
        return Err(NpyError::DataTruncated { expected: data_bytes, found: available_bytes });
    }
    let aligned = data_offset.is_multiple_of(element.size_bytes());
    Ok(NpyHeader { element, shape, len, data_offset, aligned })
}

/// Reads what precedes the header: the version and the offset of the data, at most [`MAX_HEADER_BYTES`].
fn parse_prefix(head: &[u8], file_len: u64) -> Result<(Version, u64), NpyError> {
    let magic_bytes = file_len.min(MAGIC.len() as u64);
    let found = require(head, file_len, magic_bytes)?;
    if found != MAGIC {
        return Err(NpyError::BadMagic { found: found.to_vec() });
    }
    // `require` gives exactly as many bytes as asked for, so both indices are in range.
    let version_bytes = require(head, file_len, MAGIC.len() as u64 + 2)?;
    let version = Version::from_bytes(version_bytes[MAGIC.len()], version_bytes[MAGIC.len() + 1])?;
    let prefix_bytes = version.prefix_bytes() as u64;
    let prefix = require(head, file_len, prefix_bytes)?;
    // The bytes after magic string and version are the little-endian length, whatever its width.
    let text_bytes = prefix.iter().skip(MAGIC.len() + 2).rev().fold(0, |length, &byte| length << 8 | u64::from(byte));
    // At most 12 + u32::MAX: no overflow.
    let data_offset = prefix_bytes + text_bytes;
    if data_offset > file_len {
        return Err(NpyError::HeaderTruncated { expected: data_offset, found: file_len });
    }
    if data_offset > MAX_HEADER_BYTES {
        return Err(NpyError::HeaderTooLong { bytes: data_offset });
    }
    Ok((version, data_offset))
}

/// The first `needed` bytes of the file.
fn require(head: &[u8], file_len: u64, needed: u64) -> Result<&[u8], NpyError> {
    if needed > file_len {
        return Err(NpyError::HeaderTruncated { expected: needed, found: file_len });
    }
    usize::try_from(needed)
        .ok()
        .and_then(|needed| head.get(..needed))
        .ok_or(NpyError::HeadTooShort { needed, given: head.len() as u64 })
}

/// The number of elements of a shape and of their bytes, unless one does not fit into 64 bits.
///
/// An axis of length 0 makes the array empty, however long the others are.
fn count_elements(shape: &[u64], element: ElementType) -> Option<(u64, u64)> {
    if shape.contains(&0) {
        return Some((0, 0));
    }
    let len = shape.iter().try_fold(1_u64, |len, &axis| len.checked_mul(axis))?;
    Some((len, len.checked_mul(element.size_bytes())?))
}

/// The bytes to write in front of the data of an array in C order: a `.npy` header.
///
/// The same bytes as `numpy.save` writes for such an array. Version 1.0, or 2.0 where the header is longer than 65535
/// bytes (thousands of axes); the element types never need version 3.0. The length is a multiple of 64, so that mapped
/// data is aligned. Numpy itself reads arrays of at most 64 axes, 32 before its version 2.
///
/// # Errors
/// [`NpyError::TooManyElements`] and [`NpyError::HeaderTooLong`] for shapes that [`parse`] would refuse.
pub fn header(element: ElementType, shape: &[u64]) -> Result<Vec<u8>, NpyError> {
    if count_elements(shape, element).is_none() {
        return Err(NpyError::TooManyElements { shape: shape.to_vec(), element });
    }
    let text = header_text(element, shape);
    let fits_version_one = padded_bytes(Version::One, &text) <= Version::One.prefix_bytes() + usize::from(u16::MAX);
    frame(if fits_version_one { Version::One } else { Version::Two }, &text)
}

/// The dictionary, spelled as numpy spells it, with the room it leaves for the first axis to grow.
fn header_text(element: ElementType, shape: &[u64]) -> String {
    let axes: Vec<String> = shape.iter().map(u64::to_string).collect();
    let comma_of_one = if axes.len() == 1 { "," } else { "" };
    let growth = axes.first().map_or(0, |axis| GROWING_AXIS_DIGITS.saturating_sub(axis.len()));
    format!(
        "{{'descr': '{}', 'fortran_order': False, 'shape': ({}{comma_of_one}), }}{:growth$}",
        element.descr(),
        axes.join(", "),
        ""
    )
}

/// Bytes of prefix, `text`, padding of 1 to 64 spaces and the final newline: a multiple of [`DATA_ALIGNMENT_BYTES`].
fn padded_bytes(version: Version, text: &str) -> usize {
    let unpadded = version.prefix_bytes() + text.len() + 1;
    (unpadded / DATA_ALIGNMENT_BYTES + 1) * DATA_ALIGNMENT_BYTES
}

/// Puts the prefix before `text` and the padding behind it.
fn frame(version: Version, text: &str) -> Result<Vec<u8>, NpyError> {
    let bytes = padded_bytes(version, text);
    let too_long = NpyError::HeaderTooLong { bytes: bytes as u64 };
    if bytes as u64 > MAX_HEADER_BYTES {
        return Err(too_long);
    }
    let text_bytes = bytes - version.prefix_bytes();
    let mut header = Vec::with_capacity(bytes);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&[version.major(), 0]);
    match version {
        Version::One => header.extend_from_slice(&u16::try_from(text_bytes).map_err(|_| too_long)?.to_le_bytes()),
        _ => header.extend_from_slice(&u32::try_from(text_bytes).map_err(|_| too_long)?.to_le_bytes()),
    }
    header.extend_from_slice(text.as_bytes());
    header.resize(bytes - 1, b' ');
    header.push(b'\n');
    Ok(header)
}

/// The number of elements in a headerless little-endian file of `file_len` bytes.
///
/// An empty file has none. The file starts with its first element, so a mapping of it is aligned.
///
/// # Errors
/// [`NpyError::PartialElement`] if the length is not a multiple of the element size; [`NpyError::ByteOrder`] on
/// big-endian machines for elements of more than one byte.
pub fn check_raw(file_len: u64, element: ElementType) -> Result<u64, NpyError> {
    let size_bytes = element.size_bytes();
    if cfg!(target_endian = "big") && size_bytes > 1 {
        return Err(NpyError::ByteOrder { descr: element.descr().replace('>', "<"), element });
    }
    if !file_len.is_multiple_of(size_bytes) {
        return Err(NpyError::PartialElement { file_len, element });
    }
    Ok(file_len / size_bytes)
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::sync::repetitions;

    const VERSIONS: [Version; 3] = [Version::One, Version::Two, Version::Three];

    /// A file with the given text as its header, without any padding, and `data_bytes` of data.
    fn file_with(version: Version, text: impl AsRef<[u8]>, data_bytes: usize) -> Vec<u8> {
        let text = text.as_ref();
        let mut file = [MAGIC.as_slice(), &[version.major(), 0]].concat();
        match version {
            Version::One => file.extend_from_slice(&u16::try_from(text.len()).unwrap().to_le_bytes()),
            _ => file.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes()),
        }
        file.extend_from_slice(text);
        file.resize(file.len() + data_bytes, 0);
        file
    }

    fn parse_whole(file: &[u8]) -> Result<NpyHeader, NpyError> {
        parse(file, file.len() as u64)
    }

    fn parse_text(text: impl AsRef<[u8]>) -> Result<NpyHeader, NpyError> {
        parse_whole(&file_with(Version::One, text, 1000))
    }

    fn text_of(descr: &str, order: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n")
    }

    fn shape_of(shape: &str) -> Result<Vec<u64>, NpyError> {
        parse_text(text_of("|u1", "False", shape)).map(|header| header.shape)
    }

    /// What numpy 2.4 wrote with `numpy.lib.format.write_array`: element type, shape, text of the header in all
    /// versions. Each header was padded to 128 bytes.
    const WRITTEN_BY_NUMPY: [(ElementType, &[u64], &str); 10] = [
        (ElementType::I8, &[], "{'descr': '|i1', 'fortran_order': False, 'shape': (), }"),
        (ElementType::I16, &[0], "{'descr': '<i2', 'fortran_order': False, 'shape': (0,), }"),
        (ElementType::I32, &[3], "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }"),
        (ElementType::I64, &[2, 3], "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }"),
        (ElementType::U8, &[5, 1, 1], "{'descr': '|u1', 'fortran_order': False, 'shape': (5, 1, 1), }"),
        (ElementType::U16, &[4, 0, 2], "{'descr': '<u2', 'fortran_order': False, 'shape': (4, 0, 2), }"),
        (ElementType::U32, &[1], "{'descr': '<u4', 'fortran_order': False, 'shape': (1,), }"),
        (ElementType::U64, &[2, 2, 2], "{'descr': '<u8', 'fortran_order': False, 'shape': (2, 2, 2), }"),
        (ElementType::F32, &[7], "{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }"),
        (ElementType::F64, &[3], "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"),
    ];

    /// The first bytes of those files, up to the text, for each version.
    const PREFIXES_BY_NUMPY: [(Version, &[u8]); 3] = [
        (Version::One, b"\x93NUMPY\x01\x00\x76\x00"),
        (Version::Two, b"\x93NUMPY\x02\x00\x74\x00\x00\x00"),
        (Version::Three, b"\x93NUMPY\x03\x00\x74\x00\x00\x00"),
    ];

    #[test]
    fn headers_written_by_numpy_are_read_and_written_alike() {
        for (element, shape, text) in WRITTEN_BY_NUMPY {
            for (version, prefix) in PREFIXES_BY_NUMPY {
                let mut file = [prefix, text.as_bytes()].concat();
                file.resize(127, b' ');
                file.push(b'\n');
                assert_eq!(frame(version, &header_text(element, shape)).unwrap(), file);
                if version == Version::One {
                    assert_eq!(header(element, shape).unwrap(), file);
                }
                let len: u64 = shape.iter().product();
                file.resize(128 + (len * element.size_bytes()) as usize, 0);
                let expected = NpyHeader { element, shape: shape.to_vec(), len, data_offset: 128, aligned: true };
                assert_eq!(parse_whole(&file), Ok(expected));
            }
        }
    }

    #[test]
    fn room_to_grow_is_left_as_numpy_does() {
        // Numpy pads the first axis to 21 digits before it pads the header: here that is what crosses a multiple of 64.
        let shape = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(header(ElementType::U8, &shape).unwrap().len(), 192);
        // Without axes there is nothing to grow; the dictionary and the newline alone decide.
        assert_eq!(padded_bytes(Version::One, &"x".repeat(53)), 128);
        assert_eq!(padded_bytes(Version::One, &"x".repeat(52)), 64);
    }

    #[test]
    fn magic_string_is_checked() {
        assert_eq!(parse(b"", 0), Err(NpyError::BadMagic { found: vec![] }));
        assert_eq!(parse(b"\x93NUMP", 5), Err(NpyError::BadMagic { found: b"\x93NUMP".to_vec() }));
        assert_eq!(parse(b"PK\x03\x04\x14\0rest", 10), Err(NpyError::BadMagic { found: b"PK\x03\x04\x14\0".to_vec() }));
        let mut file = header(ElementType::F64, &[0]).unwrap();
        file[5] = b'y';
        assert_eq!(parse_whole(&file), Err(NpyError::BadMagic { found: b"\x93NUMPy".to_vec() }));
    }

    #[test]
    fn versions_other_than_three_are_refused() {
        let mut file = header(ElementType::F64, &[0]).unwrap();
        for (major, minor) in [(0, 0), (0, 1), (1, 1), (2, 1), (3, 1), (4, 0), (255, 255)] {
            (file[6], file[7]) = (major, minor);
            assert_eq!(parse_whole(&file), Err(NpyError::UnsupportedVersion { major, minor }));
        }
    }

    #[test]
    fn every_cut_of_a_file_is_reported_with_its_lengths() {
        for version in VERSIONS {
            let file = file_with(version, text_of("<f8", "False", "(3,)"), 24);
            let data_offset = file.len() - 24;
            for length in 0..file.len() {
                let found = length as u64;
                let expected = match length {
                    0..6 => NpyError::BadMagic { found: file[..length].to_vec() },
                    6..8 => NpyError::HeaderTruncated { expected: 8, found },
                    _ if length < version.prefix_bytes() => {
                        NpyError::HeaderTruncated { expected: version.prefix_bytes() as u64, found }
                    }
                    _ if length < data_offset => NpyError::HeaderTruncated { expected: data_offset as u64, found },
                    _ => NpyError::DataTruncated { expected: 24, found: found - data_offset as u64 },
                };
                assert_eq!(parse_whole(&file[..length]), Err(expected), "cut at {length}");
            }
        }
    }

    #[test]
    fn too_few_bytes_of_a_whole_file_are_the_callers_mistake() {
        let file = file_with(Version::Two, text_of("<f8", "False", "(3,)"), 24);
        let (file_len, data_offset) = (file.len() as u64, file.len() as u64 - 24);
        for given in 0..data_offset {
            let needed = match given {
                0..6 => 6,
                6..8 => 8,
                8..12 => 12,
                _ => data_offset,
            };
            assert_eq!(parse(&file[..given as usize], file_len), Err(NpyError::HeadTooShort { needed, given }));
        }
        assert_eq!(parse(&file[..data_offset as usize], file_len), parse_whole(&file));
    }

    #[test]
    fn bytes_given_beyond_the_end_of_the_file_are_not_looked_at() {
        let file = file_with(Version::One, text_of("<f8", "False", "(3,)"), 24);
        assert_eq!(parse(&file, 20), Err(NpyError::HeaderTruncated { expected: file.len() as u64 - 24, found: 20 }));
        assert_eq!(parse(&file, 3), Err(NpyError::BadMagic { found: b"\x93NU".to_vec() }));
    }

    #[test]
    fn the_header_length_has_a_limit() {
        let longest = MAX_HEADER_BYTES as usize - Version::Two.prefix_bytes();
        let mut text = text_of("<f8", "False", "(3,)").into_bytes();
        text.resize(longest, b' ');
        let file = file_with(Version::Two, &text, 24);
        assert_eq!(parse(&file[..1 << 20], file.len() as u64).unwrap().data_offset, MAX_HEADER_BYTES);
        text.push(b' ');
        let file = file_with(Version::Two, &text, 24);
        assert_eq!(parse_whole(&file), Err(NpyError::HeaderTooLong { bytes: MAX_HEADER_BYTES + 1 }));

        let hostile = b"\x93NUMPY\x02\x00\xff\xff\xff\xff";
        assert_eq!(parse(hostile, u64::MAX), Err(NpyError::HeaderTooLong { bytes: 12 + u64::from(u32::MAX) }));
        let expected = 12 + u64::from(u32::MAX);
        assert_eq!(parse(hostile, 12), Err(NpyError::HeaderTruncated { expected, found: 12 }));
    }

    #[test]
    fn version_three_must_be_utf8_and_the_others_need_not() {
        // 0xE9 is a letter in Latin-1 and no character in UTF-8.
        let latin = b"{'descr': [('\xe9', '<f8')], 'fortran_order': False, 'shape': (2,), }";
        let structured = |result| matches!(result, Err(NpyError::UnsupportedType { name: "structured", .. }));
        assert!(structured(parse_whole(&file_with(Version::One, latin, 16))));
        assert!(structured(parse_whole(&file_with(Version::Two, latin, 16))));
        assert_eq!(parse_whole(&file_with(Version::Three, latin, 16)), Err(NpyError::NotUtf8 { offset: 12 + 13 }));

        let chinese = "{'descr': [('\u{4e2d}', '<f8')], 'fortran_order': False, 'shape': (2,), }";
        assert!(structured(parse_whole(&file_with(Version::Three, chinese, 16))));

        let key = "{'\u{4e2d}': 1}";
        assert_eq!(
            parse_whole(&file_with(Version::Three, key, 0)),
            Err(NpyError::UnknownKey { key: r"\xe4\xb8\xad".to_string() })
        );
    }

    #[test]
    fn keys_are_needed_once_each_and_no_others() {
        let (descr, order, shape) = ("'descr': '<f8'", "'fortran_order': False", "'shape': (3,)");
        for (present, key) in [([order, shape], "descr"), ([descr, shape], "fortran_order"), ([descr, order], "shape")]
        {
            assert_eq!(parse_text(format!("{{{}}}", present.join(", "))), Err(NpyError::MissingKey { key }));
        }
        assert_eq!(parse_text("{}"), Err(NpyError::MissingKey { key: "descr" }));
        for (twice, key) in [(descr, "descr"), (order, "fortran_order"), (shape, "shape")] {
            let text = format!("{{{}}}", [descr, order, shape, twice].join(", "));
            assert_eq!(parse_text(text), Err(NpyError::DuplicateKey { key }));
        }
        for key in ["offset", "Descr", "shape ", ""] {
            let text = format!("{{{descr}, '{key}': 1, {order}, {shape}}}");
            assert_eq!(parse_text(text), Err(NpyError::UnknownKey { key: key.to_string() }));
        }
    }

    #[test]
    fn values_of_the_wrong_type_are_named() {
        for descr in ["8", "None", "b'<f8'", "{}", ""] {
            let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (3,)}}");
            assert!(matches!(parse_text(&text), Err(NpyError::WrongValue { key: "descr", offset: 20, .. })), "{text}");
        }
        for order in ["0", "1", "None", "'False'", "false", "TRUE", "Falsehood", "False.", "True_", ""] {
            let error = parse_text(text_of("<f8", order, "(3,)")).unwrap_err();
            assert!(matches!(error, NpyError::WrongValue { key: "fortran_order", offset: 44, .. }), "{order}: {error}");
        }
        for shape in ["3", "[3]", "(3)", "(0)", "'(3,)'", "None", "{3}", "", "((3),)", "(3.0,)", "(1e3,)", "(0x10,)"] {
            let error = parse_text(text_of("<f8", "False", shape)).unwrap_err();
            assert!(matches!(error, NpyError::WrongValue { key: "shape", .. }), "{shape}: {error}");
        }
        let error = shape_of("(1, -3.5)").unwrap_err();
        assert!(matches!(&error, NpyError::WrongValue { found, .. } if found == "-3.5"), "{error}");
        for axis in ["'3'", "True", "None", "03", "00", "+3", "1_000", "3l", "3LL", "L", "-", "--3", "-L", "-3.5", ","]
        {
            let error = parse_text(text_of("<f8", "False", &format!("({axis},)"))).unwrap_err();
            assert!(matches!(error, NpyError::WrongValue { key: "shape", offset: 61, .. }), "{axis}: {error}");
        }
    }

    #[test]
    fn broken_dictionaries_are_syntax_errors() {
        let cases = [
            ("", 10),
            ("   ", 13),
            ("[]", 10),
            ("{", 11),
            ("{descr: 1}", 11),
            ("{,}", 11),
            ("{'descr'", 18),
            ("{'descr' '<f8'}", 19),
            ("{'descr': '<f8'", 25),
            ("{'descr': '<f8',", 26),
            ("{'descr': '<f8',,", 26),
            ("{'descr': '<f8' 'shape': (3,)}", 26),
            ("{'descr': '<f8", 24),
            ("{'descr': '<f8\"}", 26),
            ("{'descr': '<f\\x38'}", 23),
            ("{'descr': '<f\n8'}", 23),
            ("{'descr': '''<f8'''}", 0),
            ("{'shape': (3 4)}", 23),
            ("{'shape': (3,", 0),
            ("{'shape': (3", 22),
            ("{'shape': (3,4}", 24),
        ];
        for (text, expected) in cases {
            match parse_text(text.as_bytes()).map(|_| ()) {
                // 1000 bytes of data follow, but the text ends where its length says: errors lie within it.
                Err(NpyError::Syntax { offset, .. }) if expected != 0 => assert_eq!(offset, expected, "{text}"),
                Err(NpyError::WrongValue { .. } | NpyError::UnsupportedType { .. }) if expected == 0 => {}
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn only_white_space_may_follow_the_dictionary() {
        let text = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}";
        for tail in ["", "\n", "   ", "\n\n \t\r\x0c"] {
            assert_eq!(parse_text(format!("{text}{tail}")).unwrap().len, 3);
        }
        for tail in ["}", ",", "#", "\0", "x", "{}", "\\"] {
            let error = parse_text(format!("{text} {tail}\n")).unwrap_err();
            assert!(matches!(error, NpyError::TrailingText { offset: 66, .. }), "{tail}: {error}");
        }
    }

    #[test]
    fn spellings_of_other_writers_are_read() {
        let texts = [
            "{'shape':(3,),'fortran_order':False,'descr':'<f8'}",
            "  {\"descr\": \"<f8\", \"fortran_order\": False, \"shape\": (3,)}\n",
            "\n{\n'descr' :\t'<f8' ,\r\n'fortran_order' : False , 'shape' : ( 3 , ) , }  ",
            "{'descr': '=f8', 'fortran_order': True, 'shape': (3L,), }",
        ];
        for text in texts {
            let header = parse_text(text).unwrap();
            assert_eq!(
                (header.element, header.shape.as_slice(), header.len),
                (ElementType::F64, &[3][..], 3),
                "{text}"
            );
        }
    }

    #[test]
    fn long_integers_of_python_2_end_with_version_two() {
        let text = text_of("<f8", "False", "(1L, 3L)");
        for version in [Version::One, Version::Two] {
            assert_eq!(parse_whole(&file_with(version, &text, 24)).unwrap().shape, [1, 3]);
        }
        let error = parse_whole(&file_with(Version::Three, &text, 24)).unwrap_err();
        assert!(matches!(error, NpyError::WrongValue { key: "shape", offset: 63, .. }), "{error}");
    }

    #[test]
    fn types_that_cannot_be_mapped_are_refused_by_name() {
        for (descr, expected) in [
            ("'|O'", "object"),
            ("'<U5'", "str"),
            ("'|b1'", "bool"),
            ("'<c16'", "complex128"),
            ("'<M8[ns]'", "datetime64"),
            ("'<f2'", "float16"),
            ("[('x', '<f8'), ('y', '<f8', (2, 3))]", "structured"),
            ("('<f8', (3,))", "sub-array"),
        ] {
            let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (3,), }}");
            match parse_text(text) {
                Err(NpyError::UnsupportedType { name, .. }) => assert_eq!(name, expected),
                other => panic!("{descr}: {other:?}"),
            }
        }
        let error = parse_text(text_of(">f8", "False", "(3,)")).unwrap_err();
        assert_eq!(error, NpyError::ByteOrder { descr: ">f8".to_string(), element: ElementType::F64 });
        assert!(error.to_string().contains("array.astype('<f8')"), "{error}");
        assert_eq!(parse_text(text_of(">i1", "False", "(3,)")).unwrap().element, ElementType::I8);
    }

    /// The error ended at the first comma, in the middle of the first field: `('[('x'')`.
    #[test]
    fn a_type_of_several_fields_and_any_other_value_is_quoted_as_a_whole() {
        for (descr, quoted) in [
            ("[('x', '<f8'), ('y', '<f8', (2, 3))]", "type structured [('x', '<f8'), ('y', '<f8', (2, 3))] cannot"),
            ("[('a,b', '<f8'), ('c]', '<i4')]", "[('a,b', '<f8'), ('c]', '<i4')] cannot"),
            (r"[('it\'s, so', '<f8')]", r"[('it\\'s, so', '<f8')] cannot"),
            ("('<f8', (3,))", "type sub-array ('<f8', (3,)) cannot"),
            ("['<f8', '<f4']", "['<f8', '<f4'] cannot"),
            ("{'a': 1, 'b': 2}", "found `{'a': 1, 'b': 2}`"),
        ] {
            let error = parse_text(format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (3,), }}\n"));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(quoted), "{error}");
        }
        let error = shape_of("[3, 4]").unwrap_err().to_string();
        assert!(error.contains("found `[3, 4]`"), "{error}");
        // What is not closed goes on to the end, which is not more than an error quotes.
        let error = parse_text("{'descr': [('x', '<f8'), 'fortran_order': False, 'shape': (3,), }   \n").unwrap_err();
        assert!(error.to_string().contains("[('x', '<f8'), 'fortran_order': False"), "{error}");
    }

    #[test]
    fn fortran_order_is_accepted_where_it_is_also_c_order() {
        for shape in ["()", "(1,)", "(7,)", "(0,)", "(7, 1)", "(1, 7)", "(1, 1, 7, 1)", "(2, 0, 3)", "(0, 5, 9)"] {
            let c_order = parse_text(text_of("<f8", "False", shape)).unwrap();
            let fortran_order = parse_text(text_of("<f8", "True", shape)).unwrap();
            assert_eq!(c_order.shape, fortran_order.shape);
            assert_eq!(c_order.len, fortran_order.len);
        }
        for (shape, axes) in [("(2, 3)", vec![2, 3]), ("(2, 1, 2)", vec![2, 1, 2])] {
            assert_eq!(parse_text(text_of("<f8", "True", shape)), Err(NpyError::FortranOrder { shape: axes }));
        }
    }

    #[test]
    fn shapes_that_overflow_are_refused() {
        let element = ElementType::U8;
        for (shape, axes) in [
            ("(4294967296, 4294967296)", vec![1 << 32, 1 << 32]),
            ("(18446744073709551615, 2)", vec![u64::MAX, 2]),
            ("(3, 6148914691236517206)", vec![3, u64::MAX / 3 + 1]),
        ] {
            assert_eq!(shape_of(shape), Err(NpyError::TooManyElements { shape: axes.clone(), element }));
            assert_eq!(header(element, &axes), Err(NpyError::TooManyElements { shape: axes, element }));
        }
        // The elements can be counted and their bytes cannot.
        let shape = vec![1 << 61];
        assert_eq!(
            parse_text(text_of("<f8", "False", "(2305843009213693952,)")),
            Err(NpyError::TooManyElements { shape, element: ElementType::F64 })
        );
        // The longest that can be counted is merely not there.
        let expected = u64::MAX;
        assert_eq!(shape_of("(18446744073709551615,)"), Err(NpyError::DataTruncated { expected, found: 1000 }));
        // Empty, on whichever side the zero stands.
        assert_eq!(shape_of("(0, 4294967296, 4294967296)"), Ok(vec![0, 1 << 32, 1 << 32]));
        assert_eq!(shape_of("(4294967296, 4294967296, 0)"), Ok(vec![1 << 32, 1 << 32, 0]));
    }

    #[test]
    fn axes_must_be_natural_numbers_of_64_bits() {
        assert_eq!(shape_of("(-1,)"), Err(NpyError::NegativeAxis { found: "-1".to_string() }));
        assert_eq!(shape_of("(2, -9L)"), Err(NpyError::NegativeAxis { found: "-9".to_string() }));
        let found = "18446744073709551616".to_string();
        assert_eq!(shape_of("(18446744073709551616,)"), Err(NpyError::AxisTooLong { found }));
        let found = format!("{}...", "9".repeat(32));
        assert_eq!(shape_of(&format!("({},)", "9".repeat(60_000))), Err(NpyError::AxisTooLong { found }));
    }

    #[test]
    fn empty_and_zero_dimensional_arrays_are_read() {
        let empty = parse_whole(&file_with(Version::One, text_of("<f8", "False", "(0,)"), 0)).unwrap();
        assert_eq!((empty.len, empty.shape), (0, vec![0]));
        let scalar = parse_whole(&file_with(Version::One, text_of("<f8", "False", "()"), 8)).unwrap();
        assert_eq!((scalar.len, scalar.shape), (1, vec![]));
        let cut = parse_whole(&file_with(Version::One, text_of("<f8", "False", "()"), 7));
        assert_eq!(cut, Err(NpyError::DataTruncated { expected: 8, found: 7 }));
    }

    #[test]
    fn bytes_after_the_data_are_ignored() {
        let exact = parse_whole(&file_with(Version::One, text_of("<f8", "False", "(3,)"), 24)).unwrap();
        let longer = parse_whole(&file_with(Version::One, text_of("<f8", "False", "(3,)"), 24 + 13)).unwrap();
        assert_eq!(exact, longer);
    }

    #[test]
    fn misaligned_data_is_reported() {
        for padding in 0..16 {
            for element in ElementType::ALL {
                let text = text_of(element.descr(), "False", "(3,)") + &" ".repeat(padding);
                let header = parse_text(&text).unwrap();
                assert_eq!(header.data_offset, 10 + text.len() as u64);
                assert_eq!(header.aligned, header.data_offset.is_multiple_of(element.size_bytes()));
            }
        }
    }

    #[test]
    fn thousands_of_axes_take_version_two_and_millions_are_refused() {
        for (axes, major) in [(21_800, 1), (21_900, 2), (300_000, 2)] {
            let shape = vec![1; axes];
            let mut file = header(ElementType::U8, &shape).unwrap();
            assert_eq!((file[6], file.len() % 64), (major, 0));
            file.push(0);
            assert_eq!(parse_whole(&file).unwrap().shape, shape);
        }
        let error = header(ElementType::U8, &vec![1; 400_000]).unwrap_err();
        assert!(matches!(error, NpyError::HeaderTooLong { bytes } if bytes > MAX_HEADER_BYTES));
    }

    #[test]
    fn the_switch_to_version_two_loses_no_byte_of_version_one() {
        // The header of version 1.0 can be 10 + 65535 bytes long; padded to 64 that is 65536.
        let (mut last_of_one, mut first_of_two) = (0, usize::MAX);
        for axes in 21_700..21_900 {
            let file = header(ElementType::U8, &vec![1; axes]).unwrap();
            match file[6] {
                1 => last_of_one = last_of_one.max(file.len()),
                _ => first_of_two = first_of_two.min(file.len()),
            }
        }
        assert_eq!((last_of_one, first_of_two), (65_536, 65_600));
    }

    #[test]
    fn raw_files_hold_whole_elements() {
        for element in ElementType::ALL {
            let size = element.size_bytes();
            for file_len in 0..33 {
                let expected = match file_len % size {
                    0 => Ok(file_len / size),
                    _ => Err(NpyError::PartialElement { file_len, element }),
                };
                assert_eq!(check_raw(file_len, element), expected);
            }
        }
        assert_eq!(check_raw(u64::MAX, ElementType::U8), Ok(u64::MAX));
        assert!(check_raw(u64::MAX, ElementType::U16).is_err());
    }

    fn any_element() -> impl Strategy<Value = ElementType> {
        proptest::sample::select(ElementType::ALL.to_vec())
    }

    fn any_shape() -> impl Strategy<Value = Vec<u64>> {
        let axis = prop_oneof![4 => 0_u64..5, 2 => 0_u64..100_000, 1 => any::<u64>(), 1 => Just(1_u64 << 32)];
        proptest::collection::vec(axis, 0..7)
    }

    /// Elements and bytes counted in 128 bits, where saturation keeps what is too large too large and a zero wins
    /// wherever it stands: the naive twin of `count_elements`.
    fn naive_count(shape: &[u64], element: ElementType) -> Option<(u64, u64)> {
        let size = element.size_bytes();
        let bytes = shape.iter().fold(u128::from(size), |product, &axis| product.saturating_mul(u128::from(axis)));
        u64::try_from(bytes).ok().map(|bytes| (bytes / size, bytes))
    }

    /// What [`parse`] promises of every header it accepts.
    fn assert_consistent(header: &NpyHeader, file_len: u64) -> Result<(), TestCaseError> {
        let (len, data_bytes) = naive_count(&header.shape, header.element).unwrap();
        prop_assert_eq!(header.len, len);
        prop_assert!(header.data_offset <= MAX_HEADER_BYTES);
        prop_assert!(header.data_offset.checked_add(data_bytes).unwrap() <= file_len);
        prop_assert_eq!(header.aligned, header.data_offset.is_multiple_of(header.element.size_bytes()));
        Ok(())
    }

    fn assert_printable(error: &NpyError) -> Result<(), TestCaseError> {
        let message = error.to_string();
        prop_assert!(message.len() < 500, "{}", message);
        prop_assert!(message.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{:?}", message);
        Ok(())
    }

    /// One damage to a file.
    #[derive(Debug, Clone)]
    enum Damage {
        Replace(Index, u8),
        Insert(Index, &'static str),
        Remove(Index, usize),
        Repeat(Index, usize),
        Truncate(Index),
        TextLength(u32),
    }

    const FRAGMENTS: [&str; 32] = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        "'",
        "\"",
        " ",
        "\n",
        "-",
        "0",
        "1",
        "18446744073709551615",
        "9999999999",
        "L",
        "True",
        "False",
        "'descr'",
        "'shape'",
        "'fortran_order'",
        "'<f8'",
        "'|u1'",
        "'>i4'",
        "(3,)",
        "(3, 4)",
        "()",
        "\\",
        "\0",
        "\u{e9}",
    ];

    fn fragment() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(FRAGMENTS.to_vec())
    }

    fn any_damage() -> impl Strategy<Value = Damage> {
        prop_oneof![
            4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
            4 => (any::<Index>(), fragment()).prop_map(|(at, text)| Damage::Insert(at, text)),
            3 => (any::<Index>(), 1_usize..12).prop_map(|(at, length)| Damage::Remove(at, length)),
            2 => (any::<Index>(), 1_usize..40).prop_map(|(at, length)| Damage::Repeat(at, length)),
            1 => any::<Index>().prop_map(Damage::Truncate),
            1 => prop_oneof![any::<u32>(), 0_u32..300].prop_map(Damage::TextLength),
        ]
    }

    fn apply(damage: &Damage, file: &mut Vec<u8>) {
        if file.len() < 12 {
            return;
        }
        // Most damage should get past the prefix, so what moves bytes starts at the text.
        let place = |at: &Index, length: usize| if length > 10 { 10 + at.index(length - 10) } else { at.index(length) };
        match damage {
            Damage::Replace(at, byte) => {
                let at = at.index(file.len());
                file[at] = *byte;
            }
            Damage::Insert(at, text) => {
                let at = place(at, file.len());
                file.splice(at..at, text.bytes());
            }
            Damage::Remove(at, length) => {
                let at = place(at, file.len());
                file.drain(at..file.len().min(at + length));
            }
            Damage::Repeat(at, length) => {
                let at = place(at, file.len());
                let piece = file[at..file.len().min(at + length)].to_vec();
                file.splice(at..at, piece);
            }
            Damage::Truncate(at) => file.truncate(at.index(file.len())),
            Damage::TextLength(length) => file[8..12].copy_from_slice(&length.to_le_bytes()),
        }
    }

    /// A header as another writer might spell it.
    #[derive(Debug, Clone)]
    struct Spelling {
        version: Version,
        key_order: [usize; 3],
        spaces: Vec<&'static str>,
        quote: char,
        order_character: &'static str,
        comma_after_last_key: bool,
        comma_after_last_axis: bool,
        long_suffix: bool,
    }

    fn any_spelling() -> impl Strategy<Value = Spelling> {
        (
            proptest::sample::select(VERSIONS.to_vec()),
            Just([0, 1, 2]).prop_shuffle(),
            proptest::collection::vec(proptest::sample::select(vec!["", " ", "  ", "\t", "\n", "\r\n", "\x0c"]), 1..8),
            proptest::sample::select(vec!['\'', '"']),
            proptest::sample::select(vec!["<", "=", "|", ""]),
            any::<[bool; 3]>(),
        )
            .prop_map(|(version, key_order, spaces, quote, order_character, flags)| Spelling {
                version,
                key_order,
                spaces,
                quote,
                order_character,
                comma_after_last_key: flags[0],
                comma_after_last_axis: flags[1],
                long_suffix: flags[2] && version != Version::Three,
            })
    }

    impl Spelling {
        fn text(&self, element: ElementType, fortran_order: bool, shape: &[u64]) -> String {
            let quote = self.quote;
            let quoted = |text: &str| format!("{quote}{text}{quote}");
            let suffix = if self.long_suffix { "L" } else { "" };
            let mut value_of_shape = vec!["(".to_string()];
            for (index, axis) in shape.iter().enumerate() {
                value_of_shape.push(format!("{axis}{suffix}"));
                if index + 1 < shape.len() || shape.len() == 1 || self.comma_after_last_axis {
                    value_of_shape.push(",".to_string());
                }
            }
            value_of_shape.push(")".to_string());
            let order = if fortran_order { "True" } else { "False" };
            let values = [
                ("descr", vec![quoted(&format!("{}{}", self.order_character, &element.descr()[1..]))]),
                ("fortran_order", vec![order.to_string()]),
                ("shape", value_of_shape),
            ];
            let mut tokens = vec!["{".to_string()];
            for (index, key) in self.key_order.iter().enumerate() {
                let (name, value) = &values[*key];
                tokens.extend([quoted(name), ":".to_string()]);
                tokens.extend(value.iter().cloned());
                if index < 2 || self.comma_after_last_key {
                    tokens.push(",".to_string());
                }
            }
            tokens.push("}".to_string());
            let mut text = String::new();
            for (token, space) in tokens.iter().zip(self.spaces.iter().cycle()) {
                text += space;
                text += token;
            }
            text + self.spaces[0]
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(repetitions(3_000)))]

        #[test]
        fn counting_agrees_with_unbounded_arithmetic(element in any_element(), shape in any_shape()) {
            prop_assert_eq!(count_elements(&shape, element), naive_count(&shape, element));
        }

        #[test]
        fn written_headers_are_read_back(
            element in any_element(),
            shape in any_shape(),
            version in proptest::sample::select(VERSIONS.to_vec()),
            trailing_bytes in 0_u64..100,
        ) {
            let Some((len, data_bytes)) = naive_count(&shape, element) else {
                prop_assert_eq!(header(element, &shape), Err(NpyError::TooManyElements { shape, element }));
                return Ok(());
            };
            for bytes in [header(element, &shape).unwrap(), frame(version, &header_text(element, &shape)).unwrap()] {
                prop_assert_eq!(bytes.len() % 64, 0);
                prop_assert_eq!(bytes.last(), Some(&b'\n'));
                let data_offset = bytes.len() as u64;
                let expected = NpyHeader { element, shape: shape.clone(), len, data_offset, aligned: true };
                // Header and data together may be longer than any file.
                let Some(file_len) = data_offset.checked_add(data_bytes) else { continue };
                prop_assert_eq!(parse(&bytes, file_len.saturating_add(trailing_bytes)), Ok(expected));
                if data_bytes > 0 {
                    let cut = parse(&bytes, data_offset + (data_bytes - 1));
                    prop_assert_eq!(cut, Err(NpyError::DataTruncated { expected: data_bytes, found: data_bytes - 1 }));
                }
            }
        }

        #[test]
        fn every_spelling_of_a_header_is_read(
            spelling in any_spelling(),
            element in any_element(),
            fortran_order in any::<bool>(),
            shape in proptest::collection::vec(0_u64..50, 0..5),
        ) {
            let text = spelling.text(element, fortran_order, &shape);
            let (len, data_bytes) = naive_count(&shape, element).unwrap();
            let head = file_with(spelling.version, &text, 0);
            let data_offset = (spelling.version.prefix_bytes() + text.len()) as u64;
            // Both orders visit the elements alike if the strides of all axes longer than 1 are the same.
            let strides = |axes: Vec<u64>| -> Vec<u64> {
                axes.iter().scan(1, |stride, axis| { let this = *stride; *stride *= axis; Some(this) }).collect()
            };
            let fortran_strides = strides(shape.clone());
            let mut c_strides = strides(shape.iter().rev().copied().collect());
            c_strides.reverse();
            let same_stride = |axis: usize| shape[axis] == 1 || c_strides[axis] == fortran_strides[axis];
            let same = len == 0 || (0..shape.len()).all(same_stride);
            let expected = if fortran_order && !same {
                Err(NpyError::FortranOrder { shape })
            } else {
                let aligned = data_offset.is_multiple_of(element.size_bytes());
                Ok(NpyHeader { element, shape, len, data_offset, aligned })
            };
            // The data itself, which may be long, is not looked at.
            prop_assert_eq!(parse(&head, data_offset + data_bytes), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(repetitions(12_000)))]

        #[test]
        fn random_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            with_prefix in any::<bool>(),
            version in 0_u8..5,
            file_len in prop_oneof![any::<u64>(), 0_u64..300],
        ) {
            let file = if with_prefix {
                let length = u8::try_from(bytes.len()).unwrap();
                let width: &[u8] = if version == 1 { &[length, 0] } else { &[length, 0, 0, 0] };
                [MAGIC.as_slice(), &[version, 0], width, &bytes].concat()
            } else {
                bytes
            };
            for file_len in [file_len, file.len() as u64] {
                match parse(&file, file_len) {
                    Ok(header) => assert_consistent(&header, file_len)?,
                    Err(error) => assert_printable(&error)?,
                }
            }
        }

        #[test]
        fn damaged_headers_never_panic(
            element in any_element(),
            shape in proptest::collection::vec(prop_oneof![0_u64..5, any::<u32>().prop_map(u64::from)], 0..4),
            version in proptest::sample::select(VERSIONS.to_vec()),
            damages in proptest::collection::vec(any_damage(), 0..5),
            fix_length in prop::bool::weighted(0.7),
        ) {
            let mut file = frame(version, &header_text(element, &shape)).unwrap();
            for damage in &damages {
                apply(damage, &mut file);
            }
            // With its length right again the damaged text reaches the parser whole.
            if fix_length && file.len() >= 12 {
                let length = (file.len() - version.prefix_bytes()) as u32;
                let width = version.prefix_bytes() - 8;
                file[8..8 + width].copy_from_slice(&length.to_le_bytes()[..width]);
            }
            for file_len in [file.len() as u64, 1 << 40] {
                match parse(&file, file_len) {
                    Ok(header) => assert_consistent(&header, file_len)?,
                    Err(error) => assert_printable(&error)?,
                }
            }
        }

        #[test]
        fn random_fragments_never_panic(
            fragments in proptest::collection::vec(fragment(), 0..30),
            version in proptest::sample::select(VERSIONS.to_vec()),
        ) {
            let text = format!("{{'shape': {}", fragments.concat());
            for text in [&text, &text[1..]] {
                match parse(&file_with(version, text, 0), 1 << 40) {
                    Ok(header) => assert_consistent(&header, 1 << 40)?,
                    Err(error) => assert_printable(&error)?,
                }
            }
        }
    }
}
