//! Every way by which kernels and closures come to the memory of batches, on few elements: small enough for Miri, which follows each
//! access of the unsafe code behind them (`.ci/run miri`).

use std::sync::atomic::{AtomicU64, Ordering};

use workring::{
    Batch, Chunking, Context, Engine, Error, IdleStrategy, MessagePort, SharedArray, WaitPolicy,
    batch::AnyBatch,
    grid::{Grid, GridMut, Tiling},
    kernel, reducer,
    shared::SharedHandle,
};

use crate::support::{Checked, watched};

#[kernel]
fn line(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = p[0] * x + p[1];
    }
}

#[kernel]
fn two_out(x: &[u32], odd: &mut [u8], next: &mut [u64]) {
    for ((x, odd), next) in x.iter().zip(odd).zip(next) {
        (*odd, *next) = ((x % 2) as u8, u64::from(*x) + 1);
    }
}

/// Sums of neighbours, by way of scratch memory and of what the worker keeps.
#[kernel]
fn neighbours(x: &[i64], y: &mut [i64], ctx: &mut Context) {
    *ctx.state(|| 0_u64) += 1;
    let before = ctx.halo_before();
    let scratch = ctx.scratch::<i64>(x.len());
    scratch.copy_from_slice(x);
    for (at, y) in y.iter_mut().enumerate() {
        let at = at + before;
        *y = scratch[at.saturating_sub(1)..(at + 2).min(scratch.len())].iter().sum();
    }
}

#[kernel]
fn fails(y: &mut [u32], how: &u32) -> Result<(), String> {
    y[0] = 1;
    match how {
        0 => Err("on purpose".to_owned()),
        _ => panic!("on purpose"),
    }
}

#[kernel]
fn count(y: &mut [i64], counter: &SharedHandle<i64>, ctx: &mut Context) -> Result<(), Error> {
    y[0] = ctx.shared(counter)?.fetch_add(0, 1)?;
    Ok(())
}

#[reducer(combine = |left, right| left + right)]
fn total(x: &[u64]) -> u64 {
    x.iter().sum()
}

fn engines() -> impl Iterator<Item = Checked> {
    [(1, WaitPolicy::AnyJob, IdleStrategy::Park), (2, WaitPolicy::Never, IdleStrategy::Adaptive)].into_iter().map(
        |(threads, help, idle)| {
            Checked::new(|builder| {
                builder.threads(threads).capacity(1 << 16).queue_capacity(64).wait_policy(help).idle_strategy(idle)
            })
        },
    )
}

#[test]
fn calls_over_chunks_reach_their_parts() {
    watched(|| {
        for engine in engines() {
            let x = engine.batch_from_fn(100, |at| at as f64).unwrap();
            let mut y = engine.batch::<f64>(100).unwrap();
            engine.job().chunk_len(7).map(line, &x, &mut y, &[2.0, 1.0]).unwrap();
            assert!(y.iter().enumerate().all(|(at, y)| *y == 2.0 * at as f64 + 1.0));
            let x = engine.batch_from_fn(50, |at| at as u32).unwrap().freeze();
            let (mut odd, mut next) =
                (engine.batch::<u8>(50).unwrap(), engine.batch_uninit::<u64>(50).unwrap().fill(0));
            engine.job().chunk_len(11).map(two_out, (&x,), (&mut odd, &mut next), &()).unwrap();
            assert!((0..50).all(|at| (odd[at], next[at]) == ((at % 2) as u8, at as u64 + 1)));
            let x = engine.batch_from_fn(20, |at| at as i64).unwrap();
            let mut y = engine.batch::<i64>(20).unwrap();
            engine.map_chunks(neighbours, &x, &mut y, &(), Chunking::of(3).halo(1)).unwrap();
            assert!((1..19).all(|at| y[at] == 3 * at as i64) && (y[0], y[19]) == (1, 37));
            assert_eq!(engine.job().chunk_len(9).reduce(total, &next, &()).unwrap(), 1275);
        }
    });
}

#[test]
fn closures_reach_what_they_borrow() {
    watched(|| {
        for engine in engines() {
            let (x, mut y, sum) = ((0..60_u32).collect::<Vec<_>>(), vec![0_u64; 60], AtomicU64::new(0));
            let twice = |x: &[u32], y: &mut [u64]| y.iter_mut().zip(x).for_each(|(y, x)| *y = 2 * u64::from(*x));
            engine.job().chunk_len(7).map_with(&x, &mut y, twice).unwrap();
            let add = |first: usize, part: &mut [u64]| {
                part.iter_mut().enumerate().for_each(|(at, y)| *y += (first + at) as u64);
                sum.fetch_add(part.iter().sum(), Ordering::Relaxed);
            };
            engine.for_each_chunk(&mut y, Chunking::of(13), add).unwrap();
            assert!(y.iter().enumerate().all(|(at, y)| *y == 3 * at as u64));
            assert_eq!(sum.into_inner(), 5310);
            let texts =
                engine.job().chunk_len(20).reduce_with(&x, |x| format!("{}", x.len()), |left, right| left + &right);
            assert_eq!(texts.unwrap(), "202020");
            // A closure and a result that fit their place, and ones that do not.
            let batch = engine.batch_from_slice(&[1_u16, 2, 3]).unwrap();
            assert_eq!(engine.run(move || batch.len()).unwrap().wait().unwrap(), 3);
            let large = [7_u64; 32];
            assert_eq!(engine.run(move || large).unwrap().wait().unwrap(), large);
            assert!(engine.run(|| panic!("on purpose")).unwrap().wait().is_err());
            drop(engine.run(move || vec![large]).unwrap());
        }
    });
}

#[test]
fn jobs_and_rows_give_back_what_they_hold() {
    watched(|| {
        for engine in engines() {
            let (left, right) = engine.batch_from_fn(33, |at| at as f64).unwrap().into_split_at(17);
            let parts = [left, right].map(|x| {
                let y = engine.batch::<f64>(x.len()).unwrap();
                engine.submit(line, (x.freeze(), y), [1.0, 0.5]).unwrap()
            });
            let [first, second] = parts.map(|job| job.wait().unwrap());
            assert!(first.1.iter().chain(second.1.iter()).enumerate().all(|(at, y)| *y == at as f64 + 0.5));
            // Once the other part of its block is gone it can be written again.
            let x = first.0.try_into_batch().unwrap_err().returned;
            drop(second);
            let x = x.try_into_batch().unwrap();
            let params = engine.batch_from_fn(17, |row| [row as f64, 0.0]).unwrap();
            let many = engine.submit_many(line, (x, engine.batch::<f64>(17).unwrap()), params).unwrap().wait().unwrap();
            assert!(many.failures.is_empty());
            assert!(many.batches.1.iter().enumerate().all(|(row, y)| *y == (row * row) as f64));
            for how in [0, 1] {
                let failed = engine.submit(fails, engine.batch::<u32>(2).unwrap(), how).unwrap().wait().unwrap_err();
                assert!(failed.error.to_string().contains("on purpose"));
                assert_eq!(*failed.returned, [1, 0]);
            }
            drop(engine.submit(fails, engine.batch::<u32>(2).unwrap(), 0).unwrap());
            let job = engine.submit(fails, engine.batch::<u32>(2).unwrap(), 0).unwrap();
            assert!(pollster::block_on(job).is_err());
        }
    });
}

#[test]
fn tiles_and_parts_reach_their_own_cells_alone() {
    watched(|| {
        for engine in engines() {
            let mut parts = engine.batch_from_fn(30, |at| at as u32).unwrap().into_chunks(7);
            parts.iter_mut().for_each(|part| part[0] += 100);
            parts.reverse();
            let mut old = Batch::try_from_parts(parts).unwrap();
            let (left, right) = old.into_split_at(12);
            old = left.try_unsplit(right).unwrap();
            let mut new = engine.batch::<u32>(30).unwrap();
            let (input, output) = (Grid::new(&old, [5, 6]).unwrap(), GridMut::new(&mut new, [5, 6]).unwrap());
            let tiling = Tiling::of([2, 3]).halo([1, 0]);
            let above = |old: Grid<'_, u32, 2>, mut new: GridMut<'_, u32, 2>| {
                let rows = old.rows().map(<[u32]>::to_vec).collect::<Vec<_>>();
                for (row, new) in rows.iter().zip(new.rows_mut()) {
                    new.copy_from_slice(row);
                }
                new[[0, 2]] += 1000;
            };
            engine.map_tiles(input, output, tiling, above).unwrap();
            let twin = |at: usize| {
                let (row, column) = (at / 6, at % 6);
                // A tile begins with the row above it, but for the first one.
                let from = if row < 2 { at } else { at - 6 };
                let is_marked = row % 2 == 0 && column % 3 == 2;
                from as u32 + if from % 7 == 0 { 100 } else { 0 } + if is_marked { 1000 } else { 0 }
            };
            assert!(new.iter().enumerate().all(|(at, &new)| new == twin(at)), "{new:?}");
        }
    });
}

#[test]
fn batches_travel_in_messages() {
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(1).capacity(1 << 16).queue_capacity(64));
        let (here, there) = MessagePort::<u32, u64>::pair(2).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while let Ok(message) = there.recv() {
                    let numbers = message.batches.into_iter().map(|batch| batch.into_batch::<u64>().expect("of u64"));
                    there
                        .send(numbers.map(|batch| batch.iter().sum::<u64>()).sum::<u64>() * u64::from(message.value))
                        .unwrap();
                }
            });
            for value in 1..6 {
                let batch = engine.batch_from_slice(&[1_u64, 2, 3]).unwrap();
                here.send_with(value, vec![AnyBatch::from(batch)]).unwrap();
                assert_eq!(here.recv().unwrap().value, 6 * u64::from(value));
            }
            drop(here);
        });
    });
}

#[test]
fn elements_of_shared_arrays_are_reached_by_all() {
    watched(|| {
        for engine in engines() {
            let array = SharedArray::<i64>::from_slice(&[0, 7, -3]).unwrap();
            let handle = engine.share(&array).unwrap();
            let jobs: Vec<_> =
                (0..5).map(|_| engine.submit(count, engine.batch::<i64>(1).unwrap(), handle).unwrap()).collect();
            array.fetch_add(2, 1).unwrap();
            let mut seen: Vec<i64> = jobs.into_iter().map(|job| job.wait().unwrap()[0]).collect();
            seen.sort_unstable();
            assert_eq!((seen, array.to_vec()), (vec![0, 1, 2, 3, 4], vec![5, 7, -2]));
        }
    });
}

/// Memory is handed out, given back and handed out again while other threads do the same.
#[test]
fn blocks_are_used_again() {
    fn churn(engine: &Engine, seed: usize) {
        let mut kept: Vec<Batch<u32>> = Vec::new();
        for turn in 0..20 {
            let len = (turn * 37 + seed * 11) % 90 + 1;
            let batch = engine.batch::<u32>(len).unwrap();
            assert!(batch.iter().all(|&element| element == 0));
            let mut parts = batch.into_chunks(len.div_ceil(3));
            parts.iter_mut().for_each(|part| part.fill(turn as u32));
            kept.extend(parts.pop());
            assert!(kept.iter().all(|part| part.iter().all(|element| *element == part[0])));
            if turn % 4 == 3 {
                kept.clear();
            }
        }
    }
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(1).capacity(1 << 16).queue_capacity(64));
        std::thread::scope(|scope| {
            (0..2).for_each(|seed| {
                drop(scope.spawn({
                    let engine = &engine;
                    move || churn(engine, seed)
                }))
            })
        });
    });
}
