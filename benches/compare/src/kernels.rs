//! The kernels of large arrays, the same code for everybody, and as workring's kernels.

use workring::{Context, kernel, kernels, kernels::KernelInfo, reducer};

/// Additions that do not wait for each other.
const LANES: usize = 16;

/// The sum of the square roots.
pub fn roots(x: &[f64]) -> f64 {
    let (rows, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for row in rows {
        for lane in 0..LANES {
            lanes[lane] += row[lane].sqrt();
        }
    }
    lanes.into_iter().chain(rest.iter().map(|value| value.sqrt())).sum()
}

pub const BINS: usize = 256;
pub type Bins = [u64; BINS];

/// How many numbers of 0 to 1 lie in each of equally wide bins.
pub fn histogram(x: &[f64]) -> Bins {
    // Apart, because a count that was just written can be read again only some cycles later.
    let mut apart = [[0; BINS]; 4];
    let (rows, rest) = x.as_chunks::<4>();
    for row in rows {
        for at in 0..4 {
            apart[at][bin(row[at])] += 1;
        }
    }
    rest.iter().for_each(|&value| apart[0][bin(value)] += 1);
    core::array::from_fn(|at| apart.iter().map(|bins| bins[at]).sum())
}

fn bin(value: f64) -> usize {
    usize::from((value * BINS as f64) as u8)
}

pub fn add_bins(left: &Bins, right: &Bins) -> Bins {
    core::array::from_fn(|at| left[at] + right[at])
}

/// Rows of `width` numbers: each becomes the mean of itself and its four neighbours, those at the border stay as they are. `x` begins
/// `before` numbers before `y` and has a row after it, unless there is none.
pub fn stencil(width: usize, x: &[f64], before: usize, y: &mut [f64]) {
    for (row, y) in y.chunks_exact_mut(width).enumerate() {
        let at = before + row * width;
        let here = &x[at..at + width];
        match (at.checked_sub(width), x.get(at + width..at + 2 * width)) {
            (Some(above), Some(below)) => mean_row(&x[above..at], here, below, y),
            _ => y.copy_from_slice(here),
        }
    }
}

fn mean_row(above: &[f64], here: &[f64], below: &[f64], y: &mut [f64]) {
    let last = y.len() - 1;
    (y[0], y[last]) = (here[0], here[last]);
    let (left, right) = (&here[..last - 1], &here[2..]);
    let (above, here, below, y) = (&above[1..last], &here[1..last], &below[1..last], &mut y[1..last]);
    // One length for all, known to the compiler.
    let len = y.len();
    let (above, below, left, right, here) = (&above[..len], &below[..len], &left[..len], &right[..len], &here[..len]);
    for at in 0..len {
        y[at] = mean_of_five(here[at], above[at], below[at], left[at], right[at]);
    }
}

pub fn mean_of_five(here: f64, above: f64, below: f64, left: f64, right: f64) -> f64 {
    0.2 * (here + (above + below) + (left + right))
}

/// A line of cache, in numbers.
const TILE: usize = 8;

/// The rows from `first_row` on of the transposed of `x`, a square of `width`, which is a multiple of eight.
///
/// Tiles of eight by eight: whole lines of cache are read and written, and lines that lie a power of two apart, which compete for the
/// same few places in the cache, are no more than it has places.
pub fn transpose(width: usize, x: &[f64], first_row: usize, y: &mut [f64]) {
    let rows = y.len() / width;
    for column in (0..width).step_by(TILE) {
        for row in (0..rows).step_by(TILE) {
            let tile: [[f64; TILE]; TILE] = core::array::from_fn(|at| {
                let begin = (column + at) * width + first_row + row;
                *x[begin..].first_chunk().expect("a multiple of eight")
            });
            for (at, y) in y[row * width..].chunks_mut(width).take(TILE).enumerate() {
                y[column..column + TILE].copy_from_slice(&core::array::from_fn::<f64, TILE, _>(|line| tile[line][at]));
            }
        }
    }
}

/// Sorts by the total order.
pub fn sort_run(y: &mut [f64]) {
    y.sort_unstable_by(f64::total_cmp);
}

/// The part from `first` on, as long as `y`, of what two sorted runs, each half of `x`, are when merged. The left run is the longer
/// one if they differ.
pub fn merge(x: &[f64], first: usize, y: &mut [f64]) {
    let (left, right) = x.split_at(x.len().div_ceil(2));
    let from_left = taken_from_left(left, right, first);
    let (mut left, mut right) = (&left[from_left..], &right[first - from_left..]);
    for y in y {
        // Selected, not jumped to: the jump could not be foreseen.
        *y = match (left.first(), right.first()) {
            (Some(&one), Some(&other)) => {
                let is_left = one.total_cmp(&other).is_le();
                left = &left[usize::from(is_left)..];
                right = &right[usize::from(!is_left)..];
                if is_left { one } else { other }
            }
            (Some(&one), None) => {
                left = &left[1..];
                one
            }
            (None, other) => {
                let other = *other.expect("as many as there are places");
                right = &right[1..];
                other
            }
        };
    }
}

/// How many of the first `count` numbers of the merged runs are of the left one (Odeh and others, "Merge Path", 2012).
fn taken_from_left(left: &[f64], right: &[f64], count: usize) -> usize {
    let (mut low, mut high) = (count.saturating_sub(right.len()), count.min(left.len()));
    while low < high {
        let middle = low.midpoint(high);
        if left[middle].total_cmp(&right[count - 1 - middle]).is_le() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The sum of the square roots.
#[reducer(combine = |left, right| left + right)]
pub fn roots_kernel(x: &[f64]) -> f64 {
    roots(x)
}

/// The histogram.
#[reducer(combine = |left, right| add_bins(&left, &right))]
pub fn histogram_kernel(x: &[f64]) -> Bins {
    histogram(x)
}

/// Some rows of the stencil, with a halo of a row.
#[kernel]
pub fn stencil_kernel(x: &[f64], y: &mut [f64], width: &u64, ctx: &mut Context) {
    stencil(*width as usize, x, ctx.halo_before(), y);
}

/// Some rows of the transposed; the halo is everything.
#[kernel]
pub fn transpose_kernel(x: &[f64], y: &mut [f64], width: &u64, ctx: &mut Context) {
    let width = *width as usize;
    transpose(width, x, ctx.range().start / width, y);
}

/// Sorts a run.
#[kernel]
pub fn sort_run_kernel(y: &mut [f64]) {
    sort_run(y);
}

/// A part of the merged runs; the halo is everything.
#[kernel]
pub fn merge_kernel(x: &[f64], y: &mut [f64], ctx: &mut Context) {
    merge(x, ctx.range().start, y);
}

/// What worker processes know of this file, and of workring's own kernels.
pub fn known() -> Vec<&'static KernelInfo> {
    let own = kernels![
        roots_kernel,
        histogram_kernel,
        stencil_kernel,
        transpose_kernel,
        sort_run_kernel,
        merge_kernel,
        workring::kernels::f64::sum,
        workring::kernels::f64::dot,
        workring::kernels::f64::affine,
        workring::kernels::u64::sort,
        workring::kernels::u64::merge_runs
    ];
    own.to_vec()
}
