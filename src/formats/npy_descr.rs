//! The `descr` value of a `.npy` header: array-protocol type strings such as `<f8`.
//!
//! The strings are those of numpy's array interface (`__array_interface__`, key `typestr`): a byte-order character, a
//! kind character and a size in bytes. Like numpy, a missing byte order, `=` and `|` all mean the order of this
//! machine, and the order of single bytes means nothing.

use super::element::ElementType;
use super::npy_error::{NpyError, excerpt};

/// The byte-order character that this machine cannot map.
const FOREIGN_ORDER: u8 = if cfg!(target_endian = "little") { b'>' } else { b'<' };

/// The element type that a type string names.
///
/// # Errors
/// [`NpyError::UnsupportedType`] for everything but the ten types of [`ElementType`], [`NpyError::ByteOrder`] for those
/// in the other byte order.
pub(super) fn element_of(descr: &[u8]) -> Result<ElementType, NpyError> {
    let (order, code) = match descr {
        [order @ (b'<' | b'>' | b'=' | b'|'), code @ ..] => (*order, code),
        code => (b'=', code),
    };
    let element = match code {
        b"i1" => ElementType::I8,
        b"i2" => ElementType::I16,
        b"i4" => ElementType::I32,
        b"i8" => ElementType::I64,
        b"u1" => ElementType::U8,
        b"u2" => ElementType::U16,
        b"u4" => ElementType::U32,
        b"u8" => ElementType::U64,
        b"f4" => ElementType::F32,
        b"f8" => ElementType::F64,
        _ => return Err(unsupported(descr, code)),
    };
    if order == FOREIGN_ORDER && element.size_bytes() > 1 {
        return Err(NpyError::ByteOrder { descr: excerpt(descr), element });
    }
    Ok(element)
}

/// The error for a type that cannot be mapped, with its numpy name and the way out. `code` is `descr` without byte
/// order.
fn unsupported(descr: &[u8], code: &[u8]) -> NpyError {
    let (name, advice) = match code {
        b"?" | b"b1" => ("bool", "save array.view('uint8')"),
        b"f2" => ("float16", "save array.astype('float32')"),
        b"f12" => ("float96", "save array.astype('float64')"),
        b"f16" => ("float128", "save array.astype('float64')"),
        b"c8" => ("complex64", "save array.view('float32'), which alternates real and imaginary parts"),
        b"c16" => ("complex128", "save array.view('float64'), which alternates real and imaginary parts"),
        [b'c', ..] => ("complex", "save array.real and array.imag as float64"),
        [b'O', ..] => ("object", "save array.astype('float64')"),
        [b'S' | b'a', ..] => ("bytes", "save the numbers, not their text"),
        [b'U', ..] => ("str", "save the numbers, not their text"),
        [b'V', ..] => ("void", "save array.view('uint8')"),
        [b'M', ..] => ("datetime64", "save array.view('int64')"),
        [b'm', ..] => ("timedelta64", "save array.view('int64')"),
        _ => ("unknown", "save it as one of int8 to int64, uint8 to uint64, float32, float64"),
    };
    NpyError::UnsupportedType { descr: excerpt(descr), name, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descr_names_its_element() {
        for element in ElementType::ALL {
            assert_eq!(element_of(element.descr().as_bytes()), Ok(element));
        }
    }

    #[test]
    fn native_spellings_are_accepted() {
        for element in ElementType::ALL {
            let code = &element.descr()[1..];
            for order in ["", "=", "|"] {
                assert_eq!(element_of(format!("{order}{code}").as_bytes()), Ok(element), "{order}{code}");
            }
        }
    }

    #[test]
    fn the_other_byte_order_is_refused_except_for_single_bytes() {
        for element in ElementType::ALL {
            let descr = format!("{}{}", FOREIGN_ORDER as char, &element.descr()[1..]);
            let expected = match element {
                ElementType::I8 | ElementType::U8 => Ok(element),
                _ => Err(NpyError::ByteOrder { descr: descr.clone(), element }),
            };
            assert_eq!(element_of(descr.as_bytes()), expected);
        }
    }

    #[test]
    fn other_types_are_refused_by_name() {
        let cases = [
            ("|O", "object"),
            ("|S10", "bytes"),
            ("|a3", "bytes"),
            ("<U5", "str"),
            (">U5", "str"),
            ("|b1", "bool"),
            ("?", "bool"),
            ("<c8", "complex64"),
            (">c16", "complex128"),
            ("<c32", "complex"),
            ("<M8[ns]", "datetime64"),
            ("<m8[us]", "timedelta64"),
            ("<f2", "float16"),
            (">f2", "float16"),
            ("<f12", "float96"),
            ("<f16", "float128"),
            ("|V8", "void"),
            ("", "unknown"),
            ("<", "unknown"),
            ("<<f8", "unknown"),
            ("<f8 ", "unknown"),
            ("<f08", "unknown"),
            ("<i16", "unknown"),
            ("<f", "unknown"),
            ("float64", "unknown"),
        ];
        for (descr, expected) in cases {
            match element_of(descr.as_bytes()) {
                Err(NpyError::UnsupportedType { descr: found, name, advice }) => {
                    assert_eq!((found.as_str(), name), (descr, expected));
                    assert!(!advice.is_empty());
                }
                other => panic!("{descr}: {other:?}"),
            }
        }
    }
}
