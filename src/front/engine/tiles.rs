//! Closures over the tiles of grids.
//!
//! Laws of this file:
//! 1. A call over indices calls its body with each index once, and returns when all of these calls are over.
//! 2. A tile is made of its number in such a call, and is given to the closure there.
#![allow(unsafe_code)]

use core::ops::Range;

use super::{Engine, Phases};
use crate::error::{Error, Result};
use crate::front::grid::{Grid, GridMut, Tiles, Tiling};

impl Engine {
    /// Calls a closure with every tile of a grid, and with what lies around that tile in another grid: for stencils in two and three dimensions.
    ///
    /// The tiles of `output` are disjoint and cover it; each is written by one call, on any worker thread or this one. With it comes the part of `input` at the
    /// same place, with the halo of the tiling: fewer cells at the ends of `input`. What a closure needs of further grids it can capture, and ask for by [`Grid::around`]. Where a cell without
    /// all of its neighbours is another case, let `output` be the [`inner`](GridMut::inner) of a grid: then each tile has its whole halo. Blocks.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the place of `output` does not lie in `input`, and for tiles without cells; else as [`Engine::for_each_index`], with the contents of `output`
    /// undefined.
    ///
    /// # Examples
    /// ```
    /// use workring::{Engine, grid::{Grid, GridMut, Tiling}};
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(2).build()?;
    /// let old: Vec<f64> = (0..100 * 80).map(f64::from).collect();
    /// let mut new = vec![0.0; old.len()];
    /// let inner = GridMut::new(&mut new, [100, 80])?.inner([1, 1]);
    /// let tiling = Tiling::default().halo([1, 1]);
    /// engine.map_tiles(Grid::new(&old, [100, 80])?, inner, tiling, |old, mut new| {
    ///     for (row, new) in (1..).zip(new.rows_mut()) {
    ///         let (above, here, below) = (old.row(row - 1), old.row(row), old.row(row + 1));
    ///         for (at, new) in (1..).zip(new) {
    ///             *new = (above[at] + here[at - 1] + here[at + 1] + below[at]) / 4.0;
    ///         }
    ///     }
    /// })?;
    /// assert_eq!((new[81], new[80]), (81.0, 0.0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_tiles<T: Sync, U: Send, const D: usize>(
        &self,
        input: Grid<'_, T, D>,
        output: GridMut<'_, U, D>,
        tiling: Tiling<D>,
        body: impl Fn(Grid<'_, T, D>, GridMut<'_, U, D>) + Sync,
    ) -> Result<()> {
        let (tiling, body) = with_input(input, &output, tiling, body)?;
        self.for_each_tile(output, tiling, body)
    }

    /// Calls a closure with every tile of a grid: as [`Engine::map_tiles`], without an input.
    ///
    /// # Errors
    /// As there; [`Error::InvalidArgument`] for a tiling with a halo: tiles that are written would overlap.
    pub fn for_each_tile<U: Send, const D: usize>(
        &self,
        output: GridMut<'_, U, D>,
        tiling: Tiling<D>,
        body: impl Fn(GridMut<'_, U, D>) + Sync,
    ) -> Result<()> {
        each_tile(output, &tiling, body, |numbers, run| self.for_each_index(numbers, run))
    }
}

impl Phases<'_> {
    /// As [`Engine::map_tiles`], as a phase.
    ///
    /// # Errors
    /// As there and [`Phases::for_each_index`].
    ///
    /// # Panics
    /// When `body` does: see [`Engine::phases`].
    pub fn map_tiles<T: Sync, U: Send, const D: usize>(
        &self,
        input: Grid<'_, T, D>,
        output: GridMut<'_, U, D>,
        tiling: Tiling<D>,
        body: impl Fn(Grid<'_, T, D>, GridMut<'_, U, D>) + Sync,
    ) -> Result<()> {
        let (tiling, body) = with_input(input, &output, tiling, body)?;
        self.for_each_tile(output, tiling, body)
    }

    /// As [`Engine::for_each_tile`], as a phase.
    ///
    /// # Errors
    /// As there and [`Phases::for_each_index`].
    ///
    /// # Panics
    /// When `body` does: see [`Engine::phases`].
    pub fn for_each_tile<U: Send, const D: usize>(
        &self,
        output: GridMut<'_, U, D>,
        tiling: Tiling<D>,
        body: impl Fn(GridMut<'_, U, D>) + Sync,
    ) -> Result<()> {
        each_tile(output, &tiling, body, |numbers, run| self.for_each_index(numbers, run))
    }
}

/// Calls `body` with every tile; `each` calls what it is given with every number of a range once, and returns when all of these calls are over (law 1).
fn each_tile<U: Send, const D: usize>(
    output: GridMut<'_, U, D>,
    tiling: &Tiling<D>,
    body: impl Fn(GridMut<'_, U, D>) + Sync,
    each: impl FnOnce(Range<usize>, &(dyn Fn(usize) + Sync)) -> Result<()>,
) -> Result<()> {
    let tiles = Tiles::new(output, tiling)?;
    // SAFETY: each number comes once (law 1).
    each(0..tiles.count(), &|number| body(unsafe { tiles.tile(number) }))
}

/// The tiling without its halo, and the body for tiles of the output alone.
fn with_input<'g, T: Sync, U, const D: usize>(
    input: Grid<'g, T, D>,
    output: &GridMut<'_, U, D>,
    tiling: Tiling<D>,
    body: impl Fn(Grid<'_, T, D>, GridMut<'_, U, D>) + Sync + 'g,
) -> Result<(Tiling<D>, impl Fn(GridMut<'_, U, D>) + Sync + 'g)>
where
    U: 'g,
{
    check_place(&input, output)?;
    let (halo, tiling) = tiling.take_halo();
    Ok((tiling, move |output: GridMut<'_, U, D>| body(input.around(&output.ranges(), halo), output)))
}

fn check_place<T, U, const D: usize>(input: &Grid<'_, T, D>, output: &GridMut<'_, U, D>) -> Result<()> {
    let (from, to) = (input.ranges(), output.ranges());
    if from.iter().zip(&to).all(|(from, to)| from.start <= to.start && to.end <= from.end) {
        return Ok(());
    }
    Err(Error::invalid(format!("an output at {to:?} does not lie in an input at {from:?}")))
}
