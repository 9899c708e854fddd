//! How a grid is cut into tiles.

use crate::error::{Error, Result};

/// The fewest cells of a tile, unless the grid has fewer, and the most, that are chosen.
const CELLS_MIN: usize = 4096;
const CELLS_MAX: usize = 65_536;
/// Tiles that are aimed at, enough to even out workers that are held up.
const TILES_AIMED_AT: usize = 256;
/// Rows that a tile has at least, where the grid has them: neighbours of a row are read for fewer tiles then.
const ROWS_MIN: usize = 8;

/// How a grid is cut into tiles, and how far beyond its tile a closure may read.
///
/// Unless they are said, the extents of tiles are chosen from those of the grid alone: long rows, some tens of thousands of cells, some hundreds of tiles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tiling<const D: usize> {
    extents: Option<[usize; D]>,
    halo: [usize; D],
}

impl<const D: usize> Default for Tiling<D> {
    fn default() -> Self {
        Self { extents: None, halo: [0; D] }
    }
}

impl<const D: usize> Tiling<D> {
    /// Tiles of these extents, smaller ones at the ends of an axis if need be.
    pub const fn of(extents: [usize; D]) -> Self {
        Self { extents: Some(extents), halo: [0; D] }
    }

    /// Lets the closure see so many more cells of the input along each axis, before and behind its tile: fewer at the ends of the input.
    #[must_use = "it changes nothing of the value it is called on"]
    pub const fn halo(self, cells: [usize; D]) -> Self {
        Self { extents: self.extents, halo: cells }
    }

    /// The halo, and the tiles without it.
    pub(in crate::front) fn take_halo(self) -> ([usize; D], Self) {
        (self.halo, Self { extents: self.extents, halo: [0; D] })
    }

    /// The extents of the tiles of a grid.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for tiles without cells, and for a halo.
    pub(super) fn extents_of_written(&self, grid: [usize; D]) -> Result<[usize; D]> {
        if self.halo != [0; D] {
            return Err(Error::invalid("tiles that are written cannot have a halo: they would overlap"));
        }
        match self.extents {
            Some(extents) if extents.contains(&0) => {
                Err(Error::invalid(format!("tiles of {extents:?} cells have none")))
            }
            Some(extents) => Ok(extents),
            None => Ok(chosen(grid)),
        }
    }
}

fn chosen<const D: usize>(grid: [usize; D]) -> [usize; D] {
    let cells = grid.iter().fold(1_usize, |cells, &extent| cells.saturating_mul(extent));
    let mut left = cells.div_ceil(TILES_AIMED_AT).clamp(CELLS_MIN, CELLS_MAX);
    let mut extents = [1; D];
    for axis in (0..D).rev() {
        // Of a grid with rows the tiles have rows, too.
        let most = if axis == D - 1 && D > 1 { left / ROWS_MIN } else { left };
        // Equal tiles rather than whole ones and a rest.
        let along = grid[axis].div_ceil(most.max(1)).max(1);
        extents[axis] = grid[axis].div_ceil(along).max(1);
        left = (left / extents[axis]).max(1);
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chosen_tiles_are_neither_small_nor_large(grid in [0..100_000_usize, 0..100_000]) {
            let tile = Tiling::<2>::default().extents_of_written(grid).unwrap();
            prop_assert!((0..2).all(|axis| 1 <= tile[axis] && tile[axis] <= grid[axis].max(1)));
            prop_assert!(tile[0] * tile[1] <= CELLS_MAX);
            // Rows of some cells: a quarter of what was aimed at, for want of whole tiles.
            let cells = grid[0] * grid[1];
            if grid[0] >= 64 && grid[1] >= 64 {
                prop_assert!(tile[0] * tile[1] >= CELLS_MIN / 4, "{:?} of {:?}", tile, grid);
                prop_assert!(cells.div_ceil(tile[0] * tile[1]) <= 4 * TILES_AIMED_AT.max(cells / CELLS_MAX), "{:?} of {:?}", tile, grid);
            }
        }

        #[test]
        fn any_grid_is_cut(grid: [usize; 3], said: [usize; 3]) {
            prop_assert!(Tiling::default().extents_of_written(grid).unwrap().iter().all(|&extent| extent > 0));
            prop_assert_eq!(Tiling::of(said).extents_of_written(grid).is_ok(), !said.contains(&0));
        }
    }
}
