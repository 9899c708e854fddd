//! Views of slices as grids: shared, exclusive, and the tiles of one, which several threads have at the same time.
//!
//! Laws of this file:
//! 1. The cells of a view are those that its shape finds from its first cell on. They lie in one slice, which `'a` borrows; of a shape without cells the address is not used.
//!    A row of a shape is as many cells one behind the other as its last extent says.
//! 2. The cells of a [`Grid`] are not written while it is there. Those of a [`GridMut`] are reached by it alone: two that are there at the same time, cut from one, have no cell in common,
//!    because shapes that are cut along disjoint ranges have none.
//! 3. A tile is made of [`Tiles`] by one participant, once: its caller vouches for that.
#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Index, IndexMut, Range};
use core::ptr::NonNull;

use super::Tiling;
use super::shape::GridShape;
use crate::error::Result;

/// A slice seen as a grid of `D` axes, or a part of one: to read. The last axis is contiguous, and its runs are *rows*.
///
/// A part knows where in the grid it lies ([`origin`](Grid::origin)), whose cells it borrows without a copy; indices are counted from its own first cell.
///
/// # Examples
/// ```
/// use workring::grid::Grid;
///
/// # fn main() -> workring::Result<()> {
/// let cells: Vec<u32> = (0..12).collect();
/// let grid = Grid::new(&cells, [3, 4])?; // three rows of four
/// assert_eq!(grid.row(1), [4, 5, 6, 7]);
/// assert_eq!(grid[[2, 3]], 11);
/// let part = grid.view([1..3, 1..3]);
/// assert_eq!(part.rows().collect::<Vec<_>>(), [[5, 6], [9, 10]]);
/// assert_eq!(part.origin(), [1, 1]);
/// # Ok(())
/// # }
/// ```
pub struct Grid<'a, T, const D: usize> {
    start: NonNull<T>,
    shape: GridShape<D>,
    cells: PhantomData<&'a [T]>,
}

// SAFETY: it gives `&T` only (law 2).
unsafe impl<T: Sync, const D: usize> Send for Grid<'_, T, D> {}
// SAFETY: as above.
unsafe impl<T: Sync, const D: usize> Sync for Grid<'_, T, D> {}

impl<T, const D: usize> Clone for Grid<'_, T, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, const D: usize> Copy for Grid<'_, T, D> {}

/// The row of a shape by its number, as an address and a length.
#[inline]
fn row_of<T, const D: usize>(start: NonNull<T>, shape: &GridShape<D>, row: usize) -> Option<(NonNull<T>, usize)> {
    let offset = shape.row_offset(row)?;
    // SAFETY: the row has cells, which lie in the slice (law 1).
    Some((unsafe { start.add(offset) }, shape.row_len()))
}

/// The number of the row that has these indices along the axes before the last.
#[inline]
fn row_number<const D: usize>(shape: &GridShape<D>, index: &[usize]) -> usize {
    let mut row = 0;
    for (&at, extent) in index.iter().zip(shape.extents()) {
        assert!(at < extent, "row {index:?} of a grid of {:?} cells", shape.extents());
        row = row * extent + at;
    }
    row
}

/// A part of a shape, with the address of its first cell.
fn cut<T, const D: usize>(
    start: NonNull<T>,
    shape: &GridShape<D>,
    ranges: &[Range<usize>; D],
) -> (NonNull<T>, GridShape<D>) {
    let Some((offset, part)) = shape.cut(ranges) else {
        panic!("ranges {ranges:?} of a grid of {:?} cells", shape.extents());
    };
    // SAFETY: the first cell of the part is one of the slice; without cells the offset is 0 (law 1).
    (unsafe { start.add(offset) }, part)
}

impl<'a, T, const D: usize> Grid<'a, T, D> {
    /// All of a slice, in the order of its elements: the last axis runs fastest.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`](crate::Error::LengthMismatch) when it has not one element for each cell, [`Error::InvalidArgument`](crate::Error::InvalidArgument) for
    /// more cells than there are numbers.
    pub fn new(cells: &'a [T], extents: [usize; D]) -> Result<Self> {
        let shape = GridShape::of_slice(cells.len(), extents)?;
        Ok(Self { start: NonNull::from(cells).cast(), shape, cells: PhantomData })
    }

    /// How many cells there are along each axis.
    pub fn extents(&self) -> [usize; D] {
        self.shape.extents()
    }

    /// The index of the first cell in the grid that this is a part of.
    pub fn origin(&self) -> [usize; D] {
        self.shape.origin()
    }

    /// Where it lies in the grid that it is a part of.
    pub fn ranges(&self) -> [Range<usize>; D] {
        self.shape.ranges()
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A cell; `None` beyond the end of an axis.
    #[inline]
    pub fn get(&self, index: [usize; D]) -> Option<&'a T> {
        let offset = self.shape.offset(index)?;
        // SAFETY: the cell lies in the slice (law 1), and is not written (law 2).
        Some(unsafe { self.start.add(offset).as_ref() })
    }

    /// A part, by ranges that are counted from this one's first cell.
    ///
    /// # Panics
    /// When a range is inverted or beyond the end.
    pub fn view(&self, ranges: [Range<usize>; D]) -> Self {
        let (start, shape) = cut(self.start, &self.shape, &ranges);
        Self { start, shape, cells: PhantomData }
    }

    /// The part without so many cells at both ends of each axis.
    pub fn inner(&self, margins: [usize; D]) -> Self {
        self.view(self.shape.inner(margins))
    }

    /// What lies where a part of another grid does ([`GridMut::ranges`]), and up to `halo` cells further at each end: fewer at the ends of this one. The difference of the two origins says
    /// how many come before.
    ///
    /// # Panics
    /// When the ranges do not lie in this one.
    pub fn around(&self, ranges: &[Range<usize>; D], halo: [usize; D]) -> Self {
        match self.shape.around(ranges, halo) {
            Some(ranges) => self.view(ranges),
            None => panic!("ranges {ranges:?} lie outside of a grid at {:?}", self.ranges()),
        }
    }

    /// All rows, in the order of the slice.
    pub fn rows(&self) -> GridRows<'a, T, D> {
        GridRows { grid: *self, next: 0 }
    }

    #[inline]
    fn row_at(&self, row: usize) -> Option<&'a [T]> {
        let (start, len) = row_of(self.start, &self.shape, row)?;
        // SAFETY: a row is so many cells of the slice (law 1), which are not written (law 2).
        Some(unsafe { core::slice::from_raw_parts(start.as_ptr(), len) })
    }
}

impl<'a, T> Grid<'a, T, 1> {
    /// All cells.
    pub fn row(&self) -> &'a [T] {
        self.row_at(0).unwrap_or_default()
    }
}

impl<'a, T> Grid<'a, T, 2> {
    /// The cells of a row; none in a grid without columns.
    ///
    /// # Panics
    /// When there is no such row.
    #[inline]
    pub fn row(&self, row: usize) -> &'a [T] {
        self.row_at(row_number(&self.shape, &[row])).unwrap_or_default()
    }
}

impl<'a, T> Grid<'a, T, 3> {
    /// The cells of a row of a plane; none in a grid without columns.
    ///
    /// # Panics
    /// When there is no such plane or row.
    #[inline]
    pub fn row(&self, plane: usize, row: usize) -> &'a [T] {
        self.row_at(row_number(&self.shape, &[plane, row])).unwrap_or_default()
    }
}

impl<T, const D: usize> Index<[usize; D]> for Grid<'_, T, D> {
    type Output = T;

    #[inline]
    fn index(&self, index: [usize; D]) -> &T {
        self.get(index).unwrap_or_else(|| beyond(index, self.extents()))
    }
}

#[cold]
fn beyond<const D: usize>(index: [usize; D], extents: [usize; D]) -> ! {
    panic!("cell {index:?} of a grid of {extents:?} cells")
}

impl<T, const D: usize> fmt::Debug for Grid<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grid").field("ranges", &self.ranges()).finish_non_exhaustive()
    }
}

/// The rows of a [`Grid`], in the order of the slice.
#[derive(Clone, Debug)]
pub struct GridRows<'a, T, const D: usize> {
    grid: Grid<'a, T, D>,
    next: usize,
}

impl<'a, T, const D: usize> Iterator for GridRows<'a, T, D> {
    type Item = &'a [T];

    #[inline]
    fn next(&mut self) -> Option<&'a [T]> {
        let row = self.grid.row_at(self.next)?;
        self.next += 1;
        Some(row)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.grid.shape.rows() - self.next;
        (left, Some(left))
    }
}

impl<T, const D: usize> ExactSizeIterator for GridRows<'_, T, D> {}

/// A slice seen as a grid, or a part of one, to read and write: else as [`Grid`]. Parts that have no cell in common can be had at the same time, and by several threads.
///
/// # Examples
/// ```
/// use workring::grid::GridMut;
///
/// # fn main() -> workring::Result<()> {
/// let mut cells = [0; 12];
/// let grid = GridMut::new(&mut cells, [3, 4])?;
/// let (mut left, mut right) = grid.split_at(1, 2); // two columns each
/// left.rows_mut().for_each(|row| row.fill(1));
/// right.row_mut(1).fill(2);
/// right[[2, 0]] = 3;
/// assert_eq!(cells, [1, 1, 0, 0, 1, 1, 2, 2, 1, 1, 3, 0]);
/// # Ok(())
/// # }
/// ```
pub struct GridMut<'a, T, const D: usize> {
    start: NonNull<T>,
    shape: GridShape<D>,
    cells: PhantomData<&'a mut [T]>,
}

// SAFETY: it is the only way to its cells, as `&mut [T]` is (law 2).
unsafe impl<T: Send, const D: usize> Send for GridMut<'_, T, D> {}
// SAFETY: a shared reference to it gives `&T` only.
unsafe impl<T: Sync, const D: usize> Sync for GridMut<'_, T, D> {}

impl<'a, T, const D: usize> GridMut<'a, T, D> {
    /// All of a slice, in the order of its elements: the last axis runs fastest.
    ///
    /// # Errors
    /// As [`Grid::new`].
    pub fn new(cells: &'a mut [T], extents: [usize; D]) -> Result<Self> {
        let shape = GridShape::of_slice(cells.len(), extents)?;
        Ok(Self { start: NonNull::from(cells).cast(), shape, cells: PhantomData })
    }

    /// How many cells there are along each axis.
    pub fn extents(&self) -> [usize; D] {
        self.shape.extents()
    }

    /// The index of the first cell in the grid that this is a part of.
    pub fn origin(&self) -> [usize; D] {
        self.shape.origin()
    }

    /// Where it lies in the grid that it is a part of.
    pub fn ranges(&self) -> [Range<usize>; D] {
        self.shape.ranges()
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same cells, to read.
    pub fn as_grid(&self) -> Grid<'_, T, D> {
        // The borrow of `self` keeps them from being written (law 2).
        Grid { start: self.start, shape: self.shape, cells: PhantomData }
    }

    /// The same cells for a shorter time: what takes a grid by value leaves this one to its owner.
    pub fn reborrow(&mut self) -> GridMut<'_, T, D> {
        // The borrow of `self` keeps it from being used meanwhile (law 2).
        GridMut { start: self.start, shape: self.shape, cells: PhantomData }
    }

    /// A part, by ranges that are counted from this one's first cell.
    ///
    /// # Panics
    /// When a range is inverted or beyond the end.
    #[must_use = "it changes nothing of the value it is called on"]
    pub fn view(self, ranges: [Range<usize>; D]) -> Self {
        let (start, shape) = cut(self.start, &self.shape, &ranges);
        Self { start, shape, cells: PhantomData }
    }

    /// The part without so many cells at both ends of each axis: the cells of which a stencil finds all neighbours.
    #[must_use = "it changes nothing of the value it is called on"]
    pub fn inner(self, margins: [usize; D]) -> Self {
        let ranges = self.shape.inner(margins);
        self.view(ranges)
    }

    /// The two parts before and from index `mid` of an axis on.
    ///
    /// # Panics
    /// When there is no such axis, or `mid` is beyond its end.
    pub fn split_at(self, axis: usize, mid: usize) -> (Self, Self) {
        let mut first = self.extents().map(|extent| 0..extent);
        let mut second = first.clone();
        (first[axis].end, second[axis].start) = (mid, mid);
        // The ranges of that axis are disjoint (law 2).
        let part = |ranges| {
            let (start, shape) = cut(self.start, &self.shape, &ranges);
            Self { start, shape, cells: PhantomData }
        };
        (part(first), part(second))
    }

    /// A cell; `None` beyond the end of an axis.
    #[inline]
    pub fn get_mut(&mut self, index: [usize; D]) -> Option<&mut T> {
        let offset = self.shape.offset(index)?;
        // SAFETY: the cell lies in the slice (law 1), and is reached by this view alone, which is borrowed (law 2).
        Some(unsafe { self.start.add(offset).as_mut() })
    }

    /// All rows, in the order of the slice.
    pub fn rows(&self) -> GridRows<'_, T, D> {
        self.as_grid().rows()
    }

    /// All rows, in the order of the slice, to read and write.
    pub fn rows_mut(&mut self) -> GridRowsMut<'_, T, D> {
        GridRowsMut { grid: self.reborrow(), next: 0 }
    }

    #[inline]
    fn row_at_mut(&mut self, row: usize) -> Option<&mut [T]> {
        let (start, len) = row_of(self.start, &self.shape, row)?;
        // SAFETY: a row is so many cells of the slice (law 1), which are reached by this view alone, which is borrowed (law 2).
        Some(unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) })
    }
}

impl<T> GridMut<'_, T, 1> {
    /// All cells.
    pub fn row_mut(&mut self) -> &mut [T] {
        self.row_at_mut(0).unwrap_or_default()
    }
}

impl<T> GridMut<'_, T, 2> {
    /// As [`Grid::row`].
    ///
    /// # Panics
    /// As there.
    #[inline]
    pub fn row(&self, row: usize) -> &[T] {
        self.as_grid().row(row)
    }

    /// As [`Grid::row`], to read and write.
    ///
    /// # Panics
    /// As there.
    #[inline]
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        self.row_at_mut(row_number(&self.shape, &[row])).unwrap_or_default()
    }
}

impl<T> GridMut<'_, T, 3> {
    /// As [`Grid::row`].
    ///
    /// # Panics
    /// As there.
    #[inline]
    pub fn row(&self, plane: usize, row: usize) -> &[T] {
        self.as_grid().row(plane, row)
    }

    /// As [`Grid::row`], to read and write.
    ///
    /// # Panics
    /// As there.
    #[inline]
    pub fn row_mut(&mut self, plane: usize, row: usize) -> &mut [T] {
        self.row_at_mut(row_number(&self.shape, &[plane, row])).unwrap_or_default()
    }
}

impl<T, const D: usize> Index<[usize; D]> for GridMut<'_, T, D> {
    type Output = T;

    #[inline]
    fn index(&self, index: [usize; D]) -> &T {
        self.as_grid().get(index).unwrap_or_else(|| beyond(index, self.extents()))
    }
}

impl<T, const D: usize> IndexMut<[usize; D]> for GridMut<'_, T, D> {
    #[inline]
    fn index_mut(&mut self, index: [usize; D]) -> &mut T {
        let extents = self.extents();
        self.get_mut(index).unwrap_or_else(|| beyond(index, extents))
    }
}

impl<T, const D: usize> fmt::Debug for GridMut<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GridMut").field("ranges", &self.ranges()).finish_non_exhaustive()
    }
}

/// The rows of a [`GridMut`], in the order of the slice.
#[derive(Debug)]
pub struct GridRowsMut<'a, T, const D: usize> {
    grid: GridMut<'a, T, D>,
    next: usize,
}

impl<'a, T, const D: usize> Iterator for GridRowsMut<'a, T, D> {
    type Item = &'a mut [T];

    #[inline]
    fn next(&mut self) -> Option<&'a mut [T]> {
        let (start, len) = row_of(self.grid.start, &self.grid.shape, self.next)?;
        self.next += 1;
        // SAFETY: a row is so many cells of the slice (law 1); the iterator has the view for `'a`, and gives each row once (law 2).
        Some(unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.grid.shape.rows() - self.next;
        (left, Some(left))
    }
}

impl<T, const D: usize> ExactSizeIterator for GridRowsMut<'_, T, D> {}

/// The tiles of a grid, for participants of which each takes other ones.
pub(in crate::front) struct Tiles<'a, T, const D: usize> {
    start: NonNull<T>,
    shape: GridShape<D>,
    /// The extents of a tile.
    tile: [usize; D],
    count: usize,
    cells: PhantomData<&'a mut [T]>,
}

// SAFETY: tiles are exclusive views of disjoint cells (law 3), so sharing the splitter is sending `GridMut`s.
unsafe impl<T: Send, const D: usize> Sync for Tiles<'_, T, D> {}

impl<'a, T, const D: usize> Tiles<'a, T, D> {
    /// Cuts a grid.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for tiles without cells, and for a halo.
    pub(in crate::front) fn new(grid: GridMut<'a, T, D>, tiling: &Tiling<D>) -> Result<Self> {
        let tile = tiling.extents_of_written(grid.extents())?;
        let count = grid.shape.tiles(tile);
        Ok(Self { start: grid.start, shape: grid.shape, tile, count, cells: PhantomData })
    }

    /// How many there are.
    pub(in crate::front) fn count(&self) -> usize {
        self.count
    }

    /// The tile of a number below the count.
    ///
    /// # Safety
    /// No two tiles of one number are there at the same time (law 3).
    pub(in crate::front) unsafe fn tile(&self, number: usize) -> GridMut<'_, T, D> {
        // Tiles of other numbers lie in other ranges (law 2).
        let (start, shape) = cut(self.start, &self.shape, &self.shape.tile(self.tile, number));
        GridMut { start, shape, cells: PhantomData }
    }
}
