//! The four operators of MG over parts of periodic cubic grids: residual, smoother, restriction, prolongation.
//!
//! Source: Bailey and others, "The NAS Parallel Benchmarks", NASA report RNR-94-007, section 2.2.2. Each operator weighs a point and its 26 neighbours by how
//! many axes they differ in. Planes lie one after another, rows in them likewise; point `2 c + 1` of a grid lies where point `c` of the coarser one does.

/// Weights of the point itself, and of neighbours across a face, an edge and a corner.
type Weights = [f64; 4];

/// The operator of the problem.
const LAPLACIAN: Weights = [-8.0 / 3.0, 0.0, 1.0 / 6.0, 1.0 / 12.0];
/// The smoother of classes S, W and A.
const SMOOTHER: Weights = [-3.0 / 8.0, 1.0 / 32.0, -1.0 / 64.0, 0.0];
const RESTRICTION: Weights = [0.5, 0.25, 0.125, 0.0625];

/// A cubic grid of `width` points along each axis.
#[derive(Clone, Copy)]
struct Grid<'a> {
    width: usize,
    points: &'a [f64],
}

impl Grid<'_> {
    /// A row; planes and rows beyond the last one are the first ones again.
    fn row(&self, plane: usize, row: usize) -> &[f64] {
        let width = self.width;
        &self.points[(plane % width * width + row % width) * width..][..width]
    }

    /// Sums of the rows around a row: those that share a face with it, and those that share an edge, each point in a place one further on, with the last point
    /// before the first and the first after the last.
    fn sums_around(&self, plane: usize, row: usize, faces: &mut [f64], edges: &mut [f64]) {
        let (below, above) = (plane + self.width - 1, plane + 1);
        let (before, after) = (row + self.width - 1, row + 1);
        sum_into(faces, [self.row(plane, before), self.row(plane, after), self.row(below, row), self.row(above, row)]);
        let corners = [(below, before), (below, after), (above, before), (above, after)];
        sum_into(edges, corners.map(|(plane, row)| self.row(plane, row)));
    }
}

fn sum_into(sums: &mut [f64], [one, two, three, four]: [&[f64]; 4]) {
    let width = sums.len() - 2;
    let (one, two, three, four) = (&one[..width], &two[..width], &three[..width], &four[..width]);
    for (at, sum) in sums[1..=width].iter_mut().enumerate() {
        *sum = one[at] + two[at] + (three[at] + four[at]);
    }
    wrap(sums);
}

fn wrap(row: &mut [f64]) {
    let width = row.len() - 2;
    (row[0], row[width + 1]) = (row[width], row[1]);
}

/// Rows with the sums of what is around them.
struct Around {
    centre: Vec<f64>,
    faces: Vec<f64>,
    edges: Vec<f64>,
}

impl Around {
    fn new(width: usize) -> Self {
        let row = || vec![0.0; width + 2];
        Self { centre: row(), faces: row(), edges: row() }
    }

    fn load(&mut self, grid: Grid<'_>, plane: usize, row: usize) {
        self.centre[1..=grid.width].copy_from_slice(grid.row(plane, row));
        wrap(&mut self.centre);
        grid.sums_around(plane, row, &mut self.faces, &mut self.edges);
    }

    /// Adds to each point of a row what the weights make of the points around it, times `sign`.
    fn add_weighed(&self, weights: Weights, sign: f64, to: &mut [f64]) {
        let len = to.len();
        let (centre, faces, edges) = (&self.centre[..len + 2], &self.faces[..len + 2], &self.edges[..len + 2]);
        let weights = weights.map(|weight| sign * weight);
        for at in 0..len {
            to[at] += weights[0] * centre[at + 1]
                + weights[1] * (centre[at] + centre[at + 2] + faces[at + 1])
                + weights[2] * (edges[at + 1] + (faces[at] + faces[at + 2]))
                + weights[3] * (edges[at] + edges[at + 2]);
        }
    }
}

/// The rows of a part of planes: plane, row, points.
fn rows(width: usize, first_plane: usize, part: &mut [f64]) -> impl Iterator<Item = (usize, usize, &mut [f64])> {
    let places = part.chunks_exact_mut(width).enumerate();
    places.map(move |(at, points)| (first_plane + at / width, at % width, points))
}

/// r = v - A u in planes from `first_plane` on; r -= A u without v, which is all of it.
pub fn residual(width: usize, u: &[f64], v: Option<&[f64]>, first_plane: usize, r: &mut [f64]) {
    let mut around = Around::new(width);
    for (plane, row, r) in rows(width, first_plane, r) {
        if let Some(v) = v {
            r.copy_from_slice(Grid { width, points: v }.row(plane, row));
        }
        around.load(Grid { width, points: u }, plane, row);
        around.add_weighed(LAPLACIAN, -1.0, r);
    }
}

/// u += S r in planes from `first_plane` on.
pub fn smooth(width: usize, r: &[f64], first_plane: usize, u: &mut [f64]) {
    let mut around = Around::new(width);
    for (plane, row, u) in rows(width, first_plane, u) {
        around.load(Grid { width, points: r }, plane, row);
        around.add_weighed(SMOOTHER, 1.0, u);
    }
}

/// The planes from `first_plane` on of a coarse grid, from one of `width` points.
pub fn restrict(width: usize, fine: &[f64], first_plane: usize, coarse: &mut [f64]) {
    let mut around = Around::new(width);
    let mut weighed = vec![0.0; width];
    for (plane, row, coarse) in rows(width / 2, first_plane, coarse) {
        around.load(Grid { width, points: fine }, 2 * plane + 1, 2 * row + 1);
        weighed.fill(0.0);
        around.add_weighed(RESTRICTION, 1.0, &mut weighed);
        coarse.iter_mut().zip(weighed.chunks_exact(2)).for_each(|(coarse, pair)| *coarse = pair[1]);
    }
}

/// Adds to the planes from `first_plane` on of a grid of `width` points what lies between the points of a coarse one.
pub fn prolong(width: usize, coarse: &[f64], first_plane: usize, fine: &mut [f64]) {
    let grid = Grid { width: width / 2, points: coarse };
    let mut sums = vec![0.0; grid.width + 2];
    for (plane, row, fine) in rows(width, first_plane, fine) {
        // An odd number lies on one point of the coarse grid, an even one between two.
        let around = |at: usize| [(at + width - 1) / 2, at / 2];
        let ([below, above], [before, after]) = (around(plane), around(row));
        let four = [(below, before), (below, after), (above, before), (above, after)];
        sum_into(&mut sums, four.map(|(plane, row)| grid.row(plane, row)));
        for (at, fine) in fine.chunks_exact_mut(2).enumerate() {
            fine[0] += 0.125 * (sums[at] + sums[at + 1]);
            fine[1] += 0.25 * sums[at + 1];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: every neighbour by itself.
    fn weighed(width: usize, points: &[f64], weights: Weights, [z, y, x]: [usize; 3]) -> f64 {
        let near = [width - 1, 0, 1];
        let mut sum = 0.0;
        for [dz, dy, dx] in (0..27).map(|at| [near[at / 9], near[at / 3 % 3], near[at % 3]]) {
            let axes = [dz, dy, dx].into_iter().filter(|&step| step != 0).count();
            let at = [(z + dz) % width, (y + dy) % width, (x + dx) % width];
            sum += weights[axes] * points[(at[0] * width + at[1]) * width + at[2]];
        }
        sum
    }

    fn noise(len: usize, seed: u64) -> Vec<f64> {
        let mut random = super::super::random::Random::new(seed);
        (0..len).map(|_| random.next() - 0.5).collect()
    }

    fn places(width: usize) -> impl Iterator<Item = [usize; 3]> {
        (0..width.pow(3)).map(move |at| [at / width / width, at / width % width, at % width])
    }

    fn assert_near(found: &[f64], expected: impl Iterator<Item = f64>) {
        let expected: Vec<f64> = expected.collect();
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-13));
    }

    #[test]
    fn operators_are_those_of_the_definition_in_every_part() {
        for width in [2_usize, 4, 8] {
            let (u, v) = (noise(width.pow(3), 1), noise(width.pow(3), 3));
            let parts = |out: &mut [f64], body: &dyn Fn(usize, &mut [f64])| {
                let halves = out.chunks_mut(width.pow(3) / 2).enumerate();
                halves.for_each(|(half, out)| body(half * width / 2, out));
            };
            let mut r = vec![f64::NAN; u.len()];
            parts(&mut r, &|first, r| residual(width, &u, Some(&v), first, r));
            assert_near(&r, places(width).zip(&v).map(|(at, v)| v - weighed(width, &u, LAPLACIAN, at)));
            let mut r = v.clone();
            parts(&mut r, &|first, r| residual(width, &u, None, first, r));
            assert_near(&r, places(width).zip(&v).map(|(at, v)| v - weighed(width, &u, LAPLACIAN, at)));
            let mut smoothed = v.clone();
            parts(&mut smoothed, &|first, v| smooth(width, &u, first, v));
            assert_near(&smoothed, places(width).zip(&v).map(|(at, v)| v + weighed(width, &u, SMOOTHER, at)));
            let mut coarse = vec![f64::NAN; u.len() / 8];
            for (plane, coarse) in coarse.chunks_mut(width * width / 4).enumerate() {
                restrict(width, &u, plane, coarse);
            }
            let above = |at: [usize; 3]| weighed(width, &u, RESTRICTION, at.map(|at| 2 * at + 1));
            assert_near(&coarse, places(width / 2).map(above));
        }
    }

    /// Prolongation is eight times the transposed of the restriction over eight: their inner products agree.
    #[test]
    fn prolongation_is_adjoint_to_restriction() {
        for width in [4_usize, 8, 16] {
            let (fine, coarse) = (noise(width.pow(3), 5), noise(width.pow(3) / 8, 7));
            let (mut down, mut up) = (vec![0.0; coarse.len()], vec![0.0; fine.len()]);
            restrict(width, &fine, 0, &mut down);
            let (low, high) = up.split_at_mut(fine.len() / 2);
            prolong(width, &coarse, 0, low);
            prolong(width, &coarse, width / 2, high);
            let product =
                |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f64>();
            assert!((2.0 * product(&down, &coarse) - product(&fine, &up)).abs() < 1e-12);
        }
    }
}
