//! Kernels that see inputs whole beside their chunk, and what calls of them give beside a naive twin: for engines of threads and of processes.

use proptest::prelude::*;
use workring::{
    Chunking, Context, Engine, Error, JobBuilder, batch::PerChunk, kernel, kernels, kernels::KernelInfo, reducer,
};

/// y = A x, the rows of A as parts of its columns and values.
#[kernel]
fn sparse_product(
    rows: &[[u32; 2]],
    #[whole] columns: &[u32],
    #[whole] values: &[f64],
    #[whole] x: &[f64],
    y: &mut [f64],
) {
    for (y, [begin, end]) in y.iter_mut().zip(rows) {
        let row = *begin as usize..*end as usize;
        let product = |(&column, value): (&u32, &f64)| value * x[column as usize];
        *y = columns[row.clone()].iter().zip(&values[row]).map(product).fold(0.0, |sum, product| sum + product);
    }
}

/// Looks up what an element and its neighbours come to, and counts per chunk what it saw of the inputs.
#[kernel]
fn look_up(
    #[whole] table: &[u64],
    x: &[u32],
    #[whole] more: &[u16],
    y: &mut [u64],
    seen: &mut [u64],
    ctx: &mut Context,
) {
    for (offset, y) in y.iter_mut().enumerate() {
        let at = offset + ctx.halo_before();
        let near = &x[at.saturating_sub(1)..(at + 2).min(x.len())];
        let sum: usize = near.iter().map(|&x| x as usize).sum();
        *y = table[sum % table.len()] ^ u64::from(more[sum % more.len()]);
    }
    seen.copy_from_slice(&[table.len() as u64, x.len() as u64, more.len() as u64]);
}

/// The sum of what the elements choose from a table.
#[reducer(combine = |left, right| left.wrapping_add(right))]
fn sum_of_chosen(#[whole] table: &[u64], x: &[u32]) -> u64 {
    x.iter().fold(0, |sum, &x| sum.wrapping_add(table[x as usize % table.len()]))
}

/// Has nothing of its own to read.
#[kernel]
fn from_table(#[whole] table: &[u64], y: &mut [u64], ctx: &mut Context) {
    for (y, index) in y.iter_mut().zip(ctx.range()) {
        *y = table[index % table.len()];
    }
}

/// How long a table is.
#[reducer(combine = u64::max)]
fn len_of_table(#[whole] table: &[u64]) -> u64 {
    table.len() as u64
}

pub(crate) fn listed() -> Vec<&'static KernelInfo> {
    kernels![sparse_product, look_up, sum_of_chosen, from_table, len_of_table].to_vec()
}

/// One call of each.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    len: usize,
    table_len: usize,
    chunk_len: Option<usize>,
    halo: usize,
    seed: u64,
}

pub(crate) fn cases_of_calls() -> impl Strategy<Value = Case> {
    let len = prop_oneof![0..3_usize, 0..300_usize, 4090..4100_usize, 0..30_000_usize];
    let table_len = prop_oneof![1..3_usize, 1..20_000_usize];
    let chunk_len = prop_oneof![Just(None), (1..3000_usize).prop_map(Some), Just(Some(usize::MAX))];
    (len, table_len, chunk_len, 1..4_usize, any::<u64>()).prop_map(|(len, table_len, chunk_len, halo, seed)| Case {
        len,
        table_len,
        chunk_len,
        halo,
        seed,
    })
}

impl Case {
    fn number(&self, at: usize) -> u64 {
        let z = (at as u64).wrapping_add(self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (z ^ z >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(31)
    }

    fn call<'e>(&self, engine: &'e Engine) -> JobBuilder<'e> {
        self.chunk_len.map_or(engine.job(), |len| engine.job().chunk_len(len))
    }

    /// Makes the calls, and compares them with serial loops.
    pub(crate) fn check(&self, engine: &Engine) -> Result<(), TestCaseError> {
        self.check_product(engine)?;
        self.check_tables(engine)
    }

    fn check_product(&self, engine: &Engine) -> Result<(), TestCaseError> {
        let mut rows: Vec<[u32; 2]> = Vec::new();
        let mut end = 0;
        for row in 0..self.len {
            let begin = end;
            end += (self.number(row) % 5) as u32;
            rows.push([begin, end]);
        }
        let columns: Vec<u32> =
            (0..end as usize).map(|at| (self.number(at + 7) % self.table_len as u64) as u32).collect();
        let values: Vec<f64> = (0..columns.len()).map(|at| self.number(at + 9) as f64 * 1e-18 - 4.0).collect();
        let x: Vec<f64> = (0..self.table_len).map(|at| self.number(at) as f64 * 1e-17).collect();
        let mut twin = vec![0.0; self.len];
        for (y, [begin, end]) in twin.iter_mut().zip(&rows) {
            *y = 0.0;
            for at in *begin as usize..*end as usize {
                *y += values[at] * x[columns[at] as usize];
            }
        }
        let same = |y: &[f64]| y.iter().map(|y| y.to_bits()).eq(twin.iter().map(|y| y.to_bits()));

        let (rows, x) = (engine.batch_from_slice(&rows).unwrap(), engine.batch_from_slice(&x).unwrap());
        let (columns, values) =
            (engine.batch_from_slice(&columns).unwrap(), engine.batch_from_slice(&values).unwrap().freeze());
        let mut y = engine.batch_uninit::<f64>(self.len).unwrap().fill(f64::NAN);
        self.call(engine).map(sparse_product, (&rows, &columns, &values, &x), &mut y, &()).unwrap();
        prop_assert!(same(&y), "map");

        // A job sees all of every batch, a row of many its own element of those that are not whole.
        y.fill(f64::NAN);
        let job = engine.submit(sparse_product, (rows, columns, values, x, y), ()).unwrap();
        let (rows, columns, values, x, mut y) = job.wait().unwrap();
        prop_assert!(same(&y), "submit");
        y.fill(f64::NAN);
        let job = engine.submit_many(sparse_product, (rows, columns, values, x, y), self.len).unwrap();
        let results = job.wait().unwrap();
        prop_assert!(results.failures.is_empty(), "{:?}", results.failures.first());
        let (mut rows, columns, values, x, mut y) = results.batches;
        prop_assert!(same(&y), "submit_many");

        // What is wrong with the others is still seen, before anything runs.
        y.fill(7.0);
        rows = engine.batch_from_fn(rows.len() + 1, |_| [0, 0]).unwrap();
        let error = self.call(engine).map(sparse_product, (&rows, &columns, &values, &x), &mut y, &()).unwrap_err();
        prop_assert!(matches!(&error, Error::LengthMismatch { what, .. } if what == "output 0"), "{}", error);
        prop_assert!(y.iter().all(|&y| y == 7.0));
        Ok(())
    }

    fn check_tables(&self, engine: &Engine) -> Result<(), TestCaseError> {
        let table: Vec<u64> = (0..self.table_len).map(|at| self.number(at + 3)).collect();
        let more: Vec<u16> = (0..1 + self.seed as usize % 50).map(|at| self.number(at) as u16).collect();
        let x: Vec<u32> = (0..self.len).map(|at| (self.number(at) >> 40) as u32).collect();
        let (tables, mores, xs) = (
            engine.batch_from_slice(&table).unwrap(),
            engine.batch_from_slice(&more).unwrap(),
            engine.batch_from_slice(&x).unwrap(),
        );

        let chunk_len = self.chunk_len.unwrap_or(1000);
        let chunks = self.len.div_ceil(chunk_len);
        let mut y = engine.batch::<u64>(self.len).unwrap();
        let mut seen = engine.batch::<u64>(3 * chunks).unwrap();
        let chunking = Chunking::of(chunk_len).halo(self.halo);
        engine.map_chunks(look_up, (&tables, &xs, &mores), (&mut y, PerChunk(&mut seen)), &(), chunking).unwrap();
        for (at, &y) in y.iter().enumerate() {
            let near = at.saturating_sub(1)..(at + 2).min(self.len);
            let sum: usize = x[near].iter().map(|&x| x as usize).sum();
            prop_assert_eq!(y, table[sum % table.len()] ^ u64::from(more[sum % more.len()]), "element {}", at);
        }
        for (chunk, seen) in seen.chunks_exact(3).enumerate() {
            let begin = (chunk * chunk_len).saturating_sub(self.halo);
            let end = (chunk * chunk_len).saturating_add(chunk_len).saturating_add(self.halo).min(self.len);
            prop_assert_eq!(seen, [table.len() as u64, (end - begin) as u64, more.len() as u64], "chunk {}", chunk);
        }

        let chosen = x.iter().fold(0_u64, |sum, &x| sum.wrapping_add(table[x as usize % table.len()]));
        prop_assert_eq!(self.call(engine).reduce(sum_of_chosen, (&tables, &xs), &()).unwrap(), chosen);
        y.fill(0);
        self.call(engine).map(from_table, &tables, &mut y, &()).unwrap();
        prop_assert!(
            y.iter().enumerate().all(|(at, &y)| y == table[at % table.len()]),
            "the output says how long the call is"
        );

        // One batch on both sides of the border: whole, and in chunks.
        let numbers = engine.batch_from_fn(self.table_len, |at| self.number(at) as u32 % 9).unwrap();
        let wide = engine.batch_from_fn(self.table_len, |at| u64::from(numbers[at])).unwrap();
        let twice = numbers.iter().map(|&x| wide[x as usize % wide.len()]).sum::<u64>();
        prop_assert_eq!(engine.reduce(sum_of_chosen, (&wide, &numbers)).unwrap(), twice);

        let refused = engine.reduce(len_of_table, &tables).unwrap_err();
        prop_assert!(matches!(refused, Error::InvalidArgument { .. }), "nothing says how long it is: {}", refused);
        prop_assert!(refused.to_string().contains("#[whole]"), "{}", refused);
        Ok(())
    }
}
