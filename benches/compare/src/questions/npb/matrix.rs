//! The sparse matrix of CG: symmetric, positive definite but for a shift, from random vectors of a few elements.
//!
//! Source: Bailey and others, "The NAS Parallel Benchmarks", NASA report RNR-94-007, section 2.2.3: the sum of weighted outer products of n sparse vectors, whose
//! weights fall from 1 to a tenth, and on the diagonal a tenth less the shift.

use super::random::{Random, SEED};

/// The smallest weight, and what is added on the diagonal.
const LEAST_WEIGHT: f64 = 0.1;

/// Rows of a matrix: those of row `i` lie from `starts[i]` to `starts[i + 1]`, in the order of their columns.
pub struct Matrix {
    pub starts: Vec<u32>,
    pub columns: Vec<u32>,
    pub values: Vec<f64>,
}

impl Matrix {
    /// Of `len` rows, from vectors of `nonzeros` random elements and a half on the diagonal.
    ///
    /// The generator has given one number before the first vector.
    pub fn new(len: usize, nonzeros: usize, shift: f64) -> Self {
        let mut random = Random::new(SEED).skip(1);
        let ratio = LEAST_WEIGHT.powf(1.0 / len as f64);
        let mut rows: Vec<Vec<(u32, f64)>> = vec![Vec::new(); len];
        let mut weight = 1.0;
        for at in 0..len {
            let vector = vector(&mut random, len, nonzeros, at);
            for &(row, left) in &vector {
                let scaled = weight * left;
                for &(column, right) in &vector {
                    let is_diagonal = row as usize == at && column as usize == at;
                    let shifted = if is_diagonal { LEAST_WEIGHT - shift } else { 0.0 };
                    rows[row as usize].push((column, right * scaled + shifted));
                }
            }
            weight *= ratio;
        }
        Self::of_rows(rows)
    }

    /// Elements of one place are added up in the order in which they were made.
    fn of_rows(rows: Vec<Vec<(u32, f64)>>) -> Self {
        let mut matrix = Self { starts: vec![0], columns: Vec::new(), values: Vec::new() };
        for mut row in rows {
            row.sort_by_key(|&(column, _)| column);
            for of_place in row.chunk_by(|left, right| left.0 == right.0) {
                matrix.columns.push(of_place[0].0);
                matrix.values.push(of_place.iter().map(|&(_, value)| value).sum());
            }
            matrix.starts.push(matrix.columns.len() as u32);
        }
        matrix
    }

    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }
}

/// A random sparse vector: `nonzeros` elements at places of their own, and a half at `at`, whatever was there.
fn vector(random: &mut Random, len: usize, nonzeros: usize, at: usize) -> Vec<(u32, f64)> {
    let power = len.next_power_of_two() as f64;
    let mut vector: Vec<(u32, f64)> = Vec::with_capacity(nonzeros + 1);
    while vector.len() < nonzeros {
        let (value, place) = (random.next(), (power * random.next()) as u32);
        if (place as usize) < len && vector.iter().all(|&(taken, _)| taken != place) {
            vector.push((place, value));
        }
    }
    match vector.iter_mut().find(|(place, _)| *place as usize == at) {
        Some((_, value)) => *value = 0.5,
        None => vector.push((at as u32, 0.5)),
    }
    vector
}

/// The product of rows with a vector: row `i` of them has the elements from `starts[i]`, counted from the first row's.
pub fn times(starts: &[u32], columns: &[u32], values: &[f64], x: &[f64], y: &mut [f64]) {
    let first = starts[0] as usize;
    for (range, y) in starts.windows(2).zip(y) {
        let range = range[0] as usize - first..range[1] as usize - first;
        let row = columns[range.clone()].iter().zip(&values[range]);
        *y = row.map(|(&column, value)| value * x[column as usize]).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_symmetric_and_multiplies_as_a_full_one() {
        let (matrix, len) = (Matrix::new(50, 4, 3.0), 50);
        let mut full = vec![0.0; len * len];
        for row in 0..len {
            for at in matrix.starts[row] as usize..matrix.starts[row + 1] as usize {
                full[row * len + matrix.columns[at] as usize] += matrix.values[at];
            }
        }
        let near = |one: f64, other: f64| (one - other).abs() <= 1e-12;
        assert!((0..len * len).all(|at| near(full[at], full[at % len * len + at / len])));
        let x: Vec<f64> = (0..len).map(|at| at as f64).collect();
        let mut y = vec![f64::NAN; len];
        times(&matrix.starts, &matrix.columns, &matrix.values, &x, &mut y);
        for (row, y) in full.chunks(len).zip(y) {
            assert!(near(y, row.iter().zip(&x).map(|(element, x)| element * x).sum()));
        }
    }
}
