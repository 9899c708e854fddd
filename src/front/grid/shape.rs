//! Where the cells of a grid, or of a part of one, lie in a slice: arithmetic alone.

use core::ops::Range;

use crate::error::{Error, Result};

/// A part of a grid whose last axis is contiguous.
///
/// Strides and extents are such that two indices have two cells, and that all cells lie in the slice which the grid was made of, counted from the first cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GridShape<const D: usize> {
    extents: [usize; D],
    /// How far neighbours along each axis are apart; 1 for the last one.
    strides: [usize; D],
    /// The index of the first cell in the grid that this is part of.
    origin: [usize; D],
}

impl<const D: usize> GridShape<D> {
    /// All of a slice of `len` elements.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] when it has not one element for each cell, [`Error::InvalidArgument`] when the extents have more cells than there are numbers.
    pub(super) fn of_slice(len: usize, extents: [usize; D]) -> Result<Self> {
        const { assert!(D > 0, "a grid has at least one axis") }
        let cells = match extents.contains(&0) {
            true => Some(0),
            false => extents.iter().try_fold(1_usize, |cells, &extent| cells.checked_mul(extent)),
        };
        let cells =
            cells.ok_or_else(|| Error::invalid(format!("a grid of {extents:?} cells exceeds the address space")))?;
        if cells != len {
            return Err(Error::LengthMismatch {
                what: "slice of a grid".into(),
                found: len as u64,
                expected: cells as u64,
            });
        }
        let mut strides = [1_usize; D];
        for axis in (1..D).rev() {
            // Saturated only where there are no cells.
            strides[axis - 1] = strides[axis].saturating_mul(extents[axis]);
        }
        Ok(Self { extents, strides, origin: [0; D] })
    }

    pub(super) fn extents(&self) -> [usize; D] {
        self.extents
    }

    pub(super) fn origin(&self) -> [usize; D] {
        self.origin
    }

    /// How many cells there are.
    pub(super) fn len(&self) -> usize {
        if self.extents.contains(&0) { 0 } else { self.extents.iter().product() }
    }

    /// Where it lies in the grid that it is part of.
    pub(super) fn ranges(&self) -> [Range<usize>; D] {
        core::array::from_fn(|axis| self.origin[axis]..self.origin[axis] + self.extents[axis])
    }

    /// How far behind the first cell that of an index is.
    #[inline]
    pub(super) fn offset(&self, index: [usize; D]) -> Option<usize> {
        let is_inside = index.iter().zip(&self.extents).all(|(at, extent)| at < extent);
        is_inside.then(|| index.iter().zip(&self.strides).map(|(at, stride)| at * stride).sum())
    }

    /// Cells in a row: the extent of the last axis.
    #[inline]
    pub(super) fn row_len(&self) -> usize {
        self.extents[D - 1]
    }

    /// How many rows there are that have cells.
    pub(super) fn rows(&self) -> usize {
        self.len().checked_div(self.row_len()).unwrap_or(0)
    }

    /// How far behind the first cell a row begins, by its number in the order of the slice.
    #[inline]
    pub(super) fn row_offset(&self, row: usize) -> Option<usize> {
        if row >= self.rows() {
            return None;
        }
        let (mut rest, mut offset) = (row, 0);
        for axis in (0..D - 1).rev() {
            offset += rest % self.extents[axis] * self.strides[axis];
            rest /= self.extents[axis];
        }
        Some(offset)
    }

    /// The part in some ranges, counted from this one's first cell, and how far behind that its own is; `None` where a range is inverted or beyond the end.
    pub(super) fn cut(&self, ranges: &[Range<usize>; D]) -> Option<(usize, Self)> {
        let fits =
            ranges.iter().zip(&self.extents).all(|(range, &extent)| range.start <= range.end && range.end <= extent);
        if !fits {
            return None;
        }
        let part = Self {
            extents: core::array::from_fn(|axis| ranges[axis].end - ranges[axis].start),
            strides: self.strides,
            origin: core::array::from_fn(|axis| self.origin[axis] + ranges[axis].start),
        };
        // The place of a part without cells means nothing, and could lie outside of the slice.
        let offset = match part.len() {
            0 => 0,
            _ => ranges.iter().zip(&self.strides).map(|(range, stride)| range.start * stride).sum(),
        };
        Some((offset, part))
    }

    /// The part without so many cells at both ends of each axis; without any where they are more than there are.
    pub(super) fn inner(&self, margins: [usize; D]) -> [Range<usize>; D] {
        core::array::from_fn(|axis| {
            let extent = self.extents[axis];
            let begin = margins[axis].min(extent);
            begin..extent.saturating_sub(margins[axis]).max(begin)
        })
    }

    /// What lies at some ranges of the whole grid, and up to `halo` cells further at each end: counted from this one's first cell, and clipped. `None` when the ranges
    /// themselves do not lie in it.
    pub(super) fn around(&self, ranges: &[Range<usize>; D], halo: [usize; D]) -> Option<[Range<usize>; D]> {
        let is_inside = ranges
            .iter()
            .zip(self.ranges())
            .all(|(range, own)| own.start <= range.start && range.start <= range.end && range.end <= own.end);
        is_inside.then(|| {
            core::array::from_fn(|axis| {
                let (origin, extent) = (self.origin[axis], self.extents[axis]);
                let (begin, end) = (ranges[axis].start - origin, ranges[axis].end - origin);
                begin.saturating_sub(halo[axis])..end.saturating_add(halo[axis]).min(extent)
            })
        })
    }

    /// How many tiles of these extents, none of which is zero, cover it: no more than it has cells.
    pub(super) fn tiles(&self, tile: [usize; D]) -> usize {
        if self.len() == 0 {
            0
        } else {
            self.extents.iter().zip(tile).map(|(extent, tile)| extent.div_ceil(tile)).product()
        }
    }

    /// The ranges of a tile by its number, in the order of the slice.
    pub(super) fn tile(&self, tile: [usize; D], number: usize) -> [Range<usize>; D] {
        let mut rest = number;
        let mut ranges = [const { 0..0 }; D];
        for axis in (0..D).rev() {
            let along = self.extents[axis].div_ceil(tile[axis]).max(1);
            let begin = (rest % along).saturating_mul(tile[axis]).min(self.extents[axis]);
            ranges[axis] = begin..begin.saturating_add(tile[axis]).min(self.extents[axis]);
            rest /= along;
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every cell of a shape with the index that it has in the whole grid.
    fn cells(shape: &GridShape<3>, start: usize) -> Vec<([usize; 3], usize)> {
        let [planes, rows, columns] = shape.extents();
        let indices = (0..planes).flat_map(|i| (0..rows).flat_map(move |j| (0..columns).map(move |k| [i, j, k])));
        let place = |index: [usize; 3]| core::array::from_fn(|axis| shape.origin()[axis] + index[axis]);
        indices.map(|index| (place(index), start + shape.offset(index).unwrap())).collect()
    }

    proptest! {
        #[test]
        fn tiles_have_every_cell_once_and_know_where_it_lies(
            extents in [0..9_usize, 0..9, 0..9],
            tile in [1..6_usize, 1..6, 1..20],
            margins in [0..3_usize, 0..3, 0..3],
            halo in [0..4_usize, 0..4, 0..4],
        ) {
            let whole = GridShape::of_slice(extents.iter().product(), extents).unwrap();
            let (start, shape) = whole.cut(&whole.inner(margins)).unwrap();
            let mut found: Vec<([usize; 3], usize)> = Vec::new();
            for number in 0..shape.tiles(tile) {
                let (offset, part) = shape.cut(&shape.tile(tile, number)).unwrap();
                prop_assert!(part.len() > 0 && part.extents().iter().zip(tile).all(|(part, tile)| *part <= tile));
                found.extend(cells(&part, start + offset));
                let rows: Vec<usize> = (0..part.rows()).map(|row| part.row_offset(row).unwrap()).collect();
                let twin: Vec<usize> = cells(&part, 0).chunks(part.row_len()).map(|row| row[0].1).collect();
                prop_assert_eq!(rows, twin);
                prop_assert_eq!(part.row_offset(part.rows()), None);
                // The halo, from the whole grid.
                let around = whole.around(&part.ranges(), halo).unwrap();
                for axis in 0..3 {
                    let (own, with_halo) = (&part.ranges()[axis], &around[axis]);
                    prop_assert_eq!(with_halo.start as isize, (own.start as isize - halo[axis] as isize).max(0));
                    prop_assert_eq!(with_halo.end, (own.end + halo[axis]).min(extents[axis]));
                }
            }
            found.sort_unstable();
            let mut twin = Vec::new();
            for (i, j) in (margins[0]..extents[0].saturating_sub(margins[0])).flat_map(|i| (margins[1]..extents[1].saturating_sub(margins[1])).map(move |j| (i, j))) {
                twin.extend((margins[2]..extents[2].saturating_sub(margins[2])).map(|k| ([i, j, k], (i * extents[1] + j) * extents[2] + k)));
            }
            prop_assert_eq!(found, twin);
        }

        #[test]
        fn what_lies_outside_is_refused(extents in [0..5_usize, 0..5], ranges in [(0..7_usize, 0..7_usize), (0..7_usize, 0..7_usize)], len in 0..30_usize) {
            prop_assert_eq!(GridShape::of_slice(len, extents).is_ok(), len == extents[0] * extents[1]);
            let shape = GridShape::of_slice(extents[0] * extents[1], extents).unwrap();
            let ranges = ranges.map(|(begin, end)| begin..end);
            let fits = (0..2).all(|axis| ranges[axis].start <= ranges[axis].end && ranges[axis].end <= extents[axis]);
            prop_assert_eq!(shape.cut(&ranges).is_some(), fits);
            prop_assert_eq!(shape.around(&ranges, [1, usize::MAX]).is_some(), fits);
            if let Some((offset, part)) = shape.cut(&ranges) {
                prop_assert!(offset + part.len().min(1) <= extents[0] * extents[1]);
            }
        }

        #[test]
        fn no_extents_make_it_panic(extents: [usize; 3], tile: [usize; 3], number: usize) {
            prop_assert!(GridShape::of_slice(7, extents).is_err() || extents.iter().product::<usize>() == 7);
            let [planes, rows, _] = extents;
            let none = GridShape::of_slice(0, [planes, rows, 0]).unwrap();
            let tile = tile.map(|extent| extent.max(1));
            prop_assert_eq!((none.len(), none.rows(), none.tiles(tile)), (0, 0, 0));
            let _ = (none.tile(tile, number), none.inner(tile), none.ranges());
        }
    }
}
