//! The fixed-width element types.

use core::fmt;

/// Fixed-width element types that can be mapped without conversion.
///
/// Every bit pattern of each of them is a value, so any bytes of the right length are elements. `Display` prints the
/// numpy name, e.g. `float64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// Signed 8-bit integer, numpy's `int8`.
    I8,
    /// Signed 16-bit integer, numpy's `int16`.
    I16,
    /// Signed 32-bit integer, numpy's `int32`.
    I32,
    /// Signed 64-bit integer, numpy's `int64`.
    I64,
    /// Unsigned 8-bit integer, numpy's `uint8`.
    U8,
    /// Unsigned 16-bit integer, numpy's `uint16`.
    U16,
    /// Unsigned 32-bit integer, numpy's `uint32`.
    U32,
    /// Unsigned 64-bit integer, numpy's `uint64`.
    U64,
    /// IEEE 754 single precision, numpy's `float32`.
    F32,
    /// IEEE 754 double precision, numpy's `float64`.
    F64,
}

impl ElementType {
    /// All element types, in the order of their declaration.
    pub const ALL: [Self; 10] =
        [Self::I8, Self::I16, Self::I32, Self::I64, Self::U8, Self::U16, Self::U32, Self::U64, Self::F32, Self::F64];

    /// The numpy name, e.g. `float64`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// The size of one element in bytes: 1, 2, 4 or 8.
    ///
    /// Data at a multiple of this size is aligned for the element on every platform.
    pub const fn size_bytes(self) -> u64 {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// The type as a `.npy` header spells it for data in the byte order of this machine, e.g. `<f8` on a little-endian
    /// one.
    ///
    /// Single bytes have no byte order: `|i1` and `|u1`.
    pub const fn descr(self) -> &'static str {
        let (little_endian, big_endian) = match self {
            Self::I8 => ("|i1", "|i1"),
            Self::I16 => ("<i2", ">i2"),
            Self::I32 => ("<i4", ">i4"),
            Self::I64 => ("<i8", ">i8"),
            Self::U8 => ("|u1", "|u1"),
            Self::U16 => ("<u2", ">u2"),
            Self::U32 => ("<u4", ">u4"),
            Self::U64 => ("<u8", ">u8"),
            Self::F32 => ("<f4", ">f4"),
            Self::F64 => ("<f8", ">f8"),
        };
        if cfg!(target_endian = "little") { little_endian } else { big_endian }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_type_once() {
        let mut names: Vec<&str> = ElementType::ALL.iter().map(|element| element.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 10);
    }

    #[test]
    fn sizes_are_those_of_the_rust_types() {
        let sizes = ElementType::ALL.map(|element| element.size_bytes() as usize);
        let expected = [
            size_of::<i8>(),
            size_of::<i16>(),
            size_of::<i32>(),
            size_of::<i64>(),
            size_of::<u8>(),
            size_of::<u16>(),
            size_of::<u32>(),
            size_of::<u64>(),
            size_of::<f32>(),
            size_of::<f64>(),
        ];
        assert_eq!(sizes, expected);
    }

    #[test]
    fn name_and_descr_agree_on_kind_and_width() {
        for element in ElementType::ALL {
            let descr = element.descr();
            let kind = match &descr[1..2] {
                "i" => "int",
                "u" => "uint",
                "f" => "float",
                other => panic!("{other}"),
            };
            let size: u64 = descr[2..].parse().unwrap();
            assert_eq!(size, element.size_bytes());
            assert_eq!(element.name(), format!("{kind}{}", size * 8));
            assert_eq!(element.to_string(), element.name());
            assert_eq!(descr.starts_with('|'), size == 1);
        }
    }

    #[test]
    fn display_honours_the_width() {
        assert_eq!(format!("[{:>8}]", ElementType::I8), "[    int8]");
    }
}
