//! Grids, their tiles, and closures over those.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use workring::{
    Chunking, Context, Engine, Error,
    grid::{Grid, GridMut, Tiling},
    kernel,
};

use crate::support::{Checked, cases, various_engines, watched};

fn tiling<const D: usize>(tile: Option<[usize; D]>) -> Tiling<D> {
    tile.map_or_else(Tiling::default, Tiling::of)
}

/// What a cell becomes: of all cells around it, up to the halo, in their order, those that are not there left out.
fn twin(old: &[u64], extents: [usize; 3], halo: [usize; 3], at: [usize; 3]) -> u64 {
    let range = |axis: usize| at[axis].saturating_sub(halo[axis])..(at[axis] + halo[axis] + 1).min(extents[axis]);
    let mut sum = 0_u64;
    for i in range(0) {
        for j in range(1) {
            for k in range(2) {
                sum = sum.wrapping_mul(31).wrapping_add(old[(i * extents[1] + j) * extents[2] + k]);
            }
        }
    }
    sum
}

/// The same from what a closure is given.
fn of_around(old: &Grid<'_, u64, 3>, place: [usize; 3], halo: [usize; 3]) -> u64 {
    let local: [usize; 3] = std::array::from_fn(|axis| place[axis] - old.origin()[axis]);
    let range =
        |axis: usize| local[axis].saturating_sub(halo[axis])..(local[axis] + halo[axis] + 1).min(old.extents()[axis]);
    let mut sum = 0_u64;
    for i in range(0) {
        for j in range(1) {
            for old in &old.row(i, j)[range(2)] {
                sum = sum.wrapping_mul(31).wrapping_add(*old);
            }
        }
    }
    sum
}

fn stencil(halo: [usize; 3]) -> impl Fn(Grid<'_, u64, 3>, GridMut<'_, u64, 3>) + Sync {
    move |old, mut new| {
        let ([planes, rows, _], origin) = (new.extents(), new.origin());
        for (i, j) in (0..planes).flat_map(|i| (0..rows).map(move |j| (i, j))) {
            for (k, new) in new.row_mut(i, j).iter_mut().enumerate() {
                *new = of_around(&old, [origin[0] + i, origin[1] + j, origin[2] + k], halo);
            }
        }
    }
}

/// Every cell is written once, of its own neighbours, whatever the extents; those outside of the output stay.
#[test]
fn stencils_over_tiles_give_what_they_give_cell_by_cell() {
    watched(|| {
        for engine in various_engines() {
            let strategy = (
                [0..12_usize, 0..12, 0..40],
                proptest::option::of([1..6_usize, 1..6, 1..30]),
                [0..3_usize, 0..3, 0..3],
                [0..3_usize, 0..3, 0..3],
                any::<bool>(),
            );
            let mut runner = proptest::test_runner::TestRunner::new(cases(60));
            runner
                .run(&strategy, |(extents, tile, halo, margins, is_phase)| {
                    let len = extents.iter().product();
                    let old: Vec<u64> = (0..len).map(|at| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
                    let mut new = vec![7; len];
                    let input = Grid::new(&old, extents).unwrap();
                    let output = GridMut::new(&mut new, extents).unwrap().inner(margins);
                    let tiling = tiling(tile).halo(halo);
                    match is_phase {
                        false => engine.map_tiles(input, output, tiling, stencil(halo)).unwrap(),
                        true => {
                            engine.phases(|phases| phases.map_tiles(input, output, tiling, stencil(halo))).unwrap();
                        }
                    }
                    for (at, new) in new.iter().enumerate() {
                        let row = at / extents[2];
                        let place = [row / extents[1], row % extents[1], at % extents[2]];
                        let is_inside = (0..3)
                            .all(|axis| margins[axis] <= place[axis] && place[axis] + margins[axis] < extents[axis]);
                        let expected = if is_inside { twin(&old, extents, halo, place) } else { 7 };
                        prop_assert_eq!(*new, expected, "{:?}", place);
                    }
                    Ok(())
                })
                .unwrap();
        }
    });
}

/// Parts of a grid in two axes against a list of lists.
#[test]
fn views_have_the_cells_of_their_ranges() {
    proptest!(cases(300), |(extents in [0..9_usize, 0..9], cuts in [(0..9_usize, 0..9_usize), (0..9_usize, 0..9_usize)], axis in 0..2_usize, mid in any::<usize>())| {
        let len = extents[0] * extents[1];
        let mut cells: Vec<String> = (0..len).map(|at| at.to_string()).collect();
        let lists: Vec<Vec<String>> = (0..extents[0]).map(|row| cells[row * extents[1]..][..extents[1]].to_vec()).collect();
        let ranges: [_; 2] = std::array::from_fn(|axis| {
            let begin = cuts[axis].0 % (extents[axis] + 1);
            begin..begin + cuts[axis].1 % (extents[axis] - begin + 1)
        });
        let twin = |ranges: &[std::ops::Range<usize>; 2]| -> Vec<Vec<String>> {
            if ranges[1].is_empty() { return Vec::new(); }
            lists[ranges[0].clone()].iter().map(|row| row[ranges[1].clone()].to_vec()).collect()
        };
        let part = Grid::new(&cells, extents).unwrap().view(ranges.clone());
        prop_assert_eq!(part.rows().map(<[String]>::to_vec).collect::<Vec<_>>(), twin(&ranges));
        prop_assert_eq!((part.ranges(), part.rows().len()), (ranges.clone(), twin(&ranges).len()));
        prop_assert_eq!(part.len(), ranges[0].len() * ranges[1].len());
        for (i, j) in (0..10).flat_map(|i| (0..10).map(move |j| (i, j))) {
            let expected = lists.get(ranges[0].start + i).and_then(|row| row.get(ranges[1].start + j));
            prop_assert_eq!(part.get([i, j]), expected.filter(|_| i < ranges[0].len() && j < ranges[1].len()));
        }
        // Two parts, written at the same time.
        let mid = mid % (ranges[axis].len() + 1);
        let (mut first, mut second) = GridMut::new(&mut cells, extents).unwrap().view(ranges.clone()).split_at(axis, mid);
        prop_assert_eq!((first.ranges()[axis].end, second.ranges()[axis].start), (ranges[axis].start + mid, ranges[axis].start + mid));
        std::thread::scope(|scope| {
            scope.spawn(|| first.rows_mut().flatten().for_each(|cell| cell.push('a')));
            scope.spawn(|| second.rows_mut().flatten().for_each(|cell| cell.push('b')));
        });
        prop_assert!(first.rows().flatten().all(|cell| cell.ends_with('a')));
        for (at, cell) in cells.iter().enumerate() {
            let place = [at / extents[1], at % extents[1]];
            let is_inside = (0..2).all(|axis| ranges[axis].contains(&place[axis]));
            let mark = match () { () if !is_inside => "", () if place[axis] < ranges[axis].start + mid => "a", () => "b" };
            prop_assert_eq!(cell, &format!("{at}{mark}"));
        }
    });
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    watched(|| {
        let engine = Checked::threads(2);
        let cells = [0_u8; 12];
        let error = Grid::new(&cells, [5, 3]).unwrap_err();
        assert!(matches!(error, Error::LengthMismatch { found: 12, expected: 15, .. }), "{error}");
        assert!(matches!(Grid::new(&cells, [usize::MAX, 2]), Err(Error::InvalidArgument { .. })));
        assert!(Grid::new(&cells, [12]).is_ok() && Grid::new(&cells[..0], [usize::MAX, 0, usize::MAX]).is_ok());
        let mut output = [0_u8; 12];
        let mut map = |input: Grid<'_, u8, 2>, tiling| {
            engine.map_tiles(input, GridMut::new(&mut output, [3, 4]).unwrap(), tiling, |_, _| {
                unreachable!("it is refused")
            })
        };
        let smaller = Grid::new(&cells[..9], [3, 3]).unwrap();
        let error = map(smaller, Tiling::default()).unwrap_err();
        assert!(error.to_string().contains("[0..3, 0..4] does not lie in an input at [0..3, 0..3]"), "{error}");
        let fits = Grid::new(&cells, [3, 4]).unwrap();
        assert!(map(fits.view([1..3, 0..4]), Tiling::default()).is_err(), "a part lies elsewhere");
        assert!(matches!(map(fits, Tiling::of([0, 1])), Err(Error::InvalidArgument { .. })));
        let halo =
            engine.for_each_tile(GridMut::new(&mut output, [3, 4]).unwrap(), Tiling::default().halo([0, 1]), |_| ());
        assert!(halo.unwrap_err().to_string().contains("would overlap"));
    });
}

#[test]
fn indices_beyond_the_end_panic_and_say_so() {
    let cells = [0_u8; 12];
    let grid = Grid::new(&cells, [3, 4]).unwrap();
    let message = |body: &dyn Fn()| match catch_unwind(AssertUnwindSafe(body)).unwrap_err().downcast::<String>() {
        Ok(message) => *message,
        Err(_) => panic!("a panic without text"),
    };
    assert!(message(&|| drop(grid.row(3).to_vec())).contains("row [3] of a grid of [3, 4]"));
    assert!(message(&|| assert_eq!(grid[[0, 4]], 0)).contains("cell [0, 4] of a grid of [3, 4]"));
    assert!(message(&|| assert!(grid.view([0..2, 2..5]).is_empty())).contains("[0..2, 2..5]"));
    assert!(message(&|| assert!(grid.view([1..2, 1..3]).around(&[0..1, 1..2], [1, 1]).is_empty())).contains("outside"));
    let cube = Grid::new(&cells, [3, 2, 2]).unwrap();
    assert!(message(&|| drop(cube.row(1, 2).to_vec())).contains("row [1, 2]"));
}

/// The panic of a tile is the error of the call, as of any closure over chunks; no cell is lost or had twice.
#[test]
fn tiles_that_panic_fail_their_call() {
    watched(|| {
        let engine = Checked::threads(3);
        let mut cells: Vec<String> = vec![String::new(); 400];
        for tile in [[1, 1], [3, 7], [20, 20]] {
            let grid = GridMut::new(&mut cells, [20, 20]).unwrap();
            let result = engine.for_each_tile(grid, Tiling::of(tile), |mut tile| {
                tile.rows_mut().flatten().for_each(|cell| cell.push('x'));
                assert!(!tile.ranges()[0].contains(&9), "the row of tiles in the middle");
            });
            match result.unwrap_err() {
                Error::KernelPanicked { message, location, .. } => {
                    assert!(message.contains("in the middle") && location.contains("grids.rs"), "{message} {location}");
                }
                other => panic!("{other}"),
            }
        }
        assert!(cells.iter().all(|cell| cell.len() <= 3));
    });
}

/// Every cell is in one tile of many more than there are chunks of a call.
#[test]
fn many_tiles_have_every_cell_once() {
    watched(|| {
        let engine = Checked::threads(2);
        let mut cells = vec![(); 1 << 20];
        let (tiles, len) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let grid = GridMut::new(&mut cells, [1 << 10, 1 << 10]).unwrap();
        let count = |tile: GridMut<'_, (), 2>| {
            tiles.fetch_add(1, Ordering::Relaxed);
            len.fetch_add(tile.len(), Ordering::Relaxed);
        };
        engine.for_each_tile(grid, Tiling::of([3, 2]), count).unwrap();
        assert_eq!((tiles.into_inner(), len.into_inner()), (342 << 9, 1 << 20));
    });
}

/// The mean of the cells above and below, with the rows of a chunk and one more on each side; at the ends of the grid the cell itself.
#[kernel]
fn between_rows(old: &[f64], new: &mut [f64], columns: &u64, ctx: &mut Context) {
    let columns = *columns as usize;
    let old = Grid::new(old, [old.len() / columns, columns]).unwrap();
    let before = ctx.halo_before() / columns;
    for (row, new) in (before..).zip(new.chunks_mut(columns)) {
        let here = old.row(row);
        let above = if row == 0 { here } else { old.row(row - 1) };
        let below = if row + 1 == old.extents()[0] { here } else { old.row(row + 1) };
        new.iter_mut().zip(above.iter().zip(below)).for_each(|(new, (above, below))| *new = (above + below) / 2.0);
    }
}

/// Kernels, which worker processes run too, have rows as chunks, and rows as halo.
#[test]
fn kernels_have_rows_and_rows_beside_them() {
    watched(|| {
        let engine = Checked::threads(2);
        proptest!(cases(40), |(rows in 1..60_usize, columns in 1..50_usize, at_a_time in 1..20_usize)| {
            let old = engine.batch_from_fn(rows * columns, |at| (at as f64).sqrt()).unwrap();
            let mut new = engine.batch::<f64>(old.len()).unwrap();
            let chunks = Chunking::of(at_a_time * columns).halo(columns);
            engine.map_chunks(between_rows, &old, &mut new, &(columns as u64), chunks).unwrap();
            for (at, new) in new.iter().enumerate() {
                let above = if at < columns { old[at] } else { old[at - columns] };
                let below = old.get(at + columns).unwrap_or(&old[at]);
                prop_assert_eq!(*new, (above + below) / 2.0);
            }
        });
    });
}

/// Steps of a simulation as phases, of two grids that are swapped.
#[test]
fn tiles_of_phases_see_what_the_phase_before_wrote() {
    watched(|| {
        let extents = [3, 40, 60];
        let start: Vec<u64> = (0..3 * 40 * 60).map(|at| at * at).collect();
        let mut expected = start.clone();
        for _ in 0..5 {
            let places = (0..3).flat_map(|i| (0..40).flat_map(move |j| (0..60).map(move |k| [i, j, k])));
            expected = places.map(|at| twin(&expected, extents, [1, 1, 1], at)).collect();
        }
        for threads in [1, 2, 3] {
            let engine = Checked::threads(threads);
            let steps = |engine: &Engine, tile| {
                let (mut old, mut new) = (start.clone(), vec![0; start.len()]);
                let stepped = engine.phases(|phases| {
                    (0..5).try_for_each(|_| {
                        let (input, output) = (Grid::new(&old, extents)?, GridMut::new(&mut new, extents)?);
                        phases.map_tiles(input, output, tiling(tile).halo([1, 1, 1]), stencil([1, 1, 1]))?;
                        std::mem::swap(&mut old, &mut new);
                        Ok::<(), Error>(())
                    })
                });
                stepped.unwrap();
                old
            };
            for tile in [None, Some([1, 7, 13]), Some([3, 1, 60])] {
                assert_eq!(steps(&engine, tile), expected);
            }
        }
    });
}
