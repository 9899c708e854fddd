//! Conway's Game of Life on a torus: the R-pentomino, which comes to rest after 1103 generations with 116 cells, six gliders among them.
//!
//! Source of the figures: Gardner, "Mathematical Games", Scientific American 223/4, 1970; the count is that of an endless plane, and the torus is so wide that no
//! glider gets around it. More lines than with rayon: on processes, a kernel that gets the width as its parameter.

use workring::{Chunking, Context, Engine, kernel};

use crate::questions::suite::{ByClosures, Closures, Timed, timed};

const GENERATIONS: usize = 1103;
const CELLS_AT_REST: usize = 116;
const ROWS: usize = 64;

/// The rows of the next generation from `first_row` on.
fn next_rows(width: usize, cells: &[u8], first_row: usize, next: &mut [u8]) {
    let height = cells.len() / width;
    let row = |at: usize| &cells[at % height * width..][..width];
    for (at, next) in (first_row..).zip(next.chunks_exact_mut(width)) {
        next_row([row(at + height - 1), row(at), row(at + 1)], next);
    }
}

fn next_row([above, here, below]: [&[u8]; 3], next: &mut [u8]) {
    let last = next.len() - 1;
    let column = |at: usize| above[at] + here[at] + below[at];
    for (at, left, right) in [(0, last, 1), (last, last - 1, 0)] {
        next[at] = lives(here[at], column(left) + column(at) + column(right));
    }
    // One length for all, known to the compiler.
    let len = last - 1;
    let (above, here, below) = (&above[..len + 2], &here[..len + 2], &below[..len + 2]);
    let (column, next) = (|at: usize| above[at] + here[at] + below[at], &mut next[1..=len]);
    for at in 0..len {
        next[at] = lives(here[at + 1], column(at) + column(at + 1) + column(at + 2));
    }
}

/// Of a cell and how many live around it, itself included.
fn lives(cell: u8, around: u8) -> u8 {
    u8::from(around == 3) | (cell & u8::from(around == 4))
}

/// [`next_rows`] for worker processes; the halo is everything.
#[kernel]
pub fn next_rows_kernel(cells: &[u8], next: &mut [u8], width: &u64, ctx: &mut Context) {
    let width = *width as usize;
    next_rows(width, cells, ctx.range().start / width, next);
}

/// A square torus.
pub struct Life {
    width: usize,
}

impl Life {
    /// # Panics
    /// Below 640 cells, where gliders would meet.
    pub fn new(width: usize) -> Self {
        assert!(width >= 640, "gliders get around a torus of {width} cells");
        Self { width }
    }

    fn begin(&self) -> Vec<u8> {
        let mut cells = vec![0; self.width * self.width];
        let middle = self.width / 2 * (self.width + 1);
        for [down, right] in [[0, 1], [0, 2], [1, 0], [1, 1], [2, 1]] {
            cells[middle + down * self.width + right] = 1;
        }
        cells
    }
}

fn living(cells: &[u8]) -> usize {
    cells.iter().map(|&cell| usize::from(cell)).sum()
}

impl ByClosures for Life {
    type Answer = usize;

    fn title(&self) -> String {
        format!("life, {0} x {0} cells, {GENERATIONS} generations", self.width)
    }

    fn run(&self, by: &impl Closures) -> Timed<usize> {
        let mut cells = self.begin();
        let mut next = cells.clone();
        let (milliseconds, ()) = timed(|| {
            for _ in 0..GENERATIONS {
                by.each(&mut next, ROWS * self.width, |first, next| {
                    next_rows(self.width, &cells, first / self.width, next);
                })?;
                core::mem::swap(&mut cells, &mut next);
            }
            Ok(())
        })?;
        Ok((milliseconds, living(&cells)))
    }

    fn on_processes(&self, engine: &Engine) -> Timed<usize> {
        let mut cells = engine.batch_from_slice(&self.begin())?;
        let mut next = engine.batch(cells.len())?;
        let parts = Chunking::of(ROWS * self.width).halo(cells.len());
        let (milliseconds, ()) = timed(|| {
            for _ in 0..GENERATIONS {
                engine.map_chunks(next_rows_kernel, &cells, &mut next, &(self.width as u64), parts)?;
                core::mem::swap(&mut cells, &mut next);
            }
            Ok(())
        })?;
        Ok((milliseconds, living(&cells)))
    }

    fn check(&self, &cells: &usize) -> Result<(), String> {
        if cells == CELLS_AT_REST { Ok(()) } else { Err(format!("{cells} cells and not {CELLS_AT_REST}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Life::new(640), &[|cells| *cells -= 1]);
    }
}
