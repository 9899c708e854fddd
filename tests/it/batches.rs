//! Batches hold what they were given, end where they end, and give their memory back.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use bytemuck::{AnyBitPattern, Pod, Zeroable};
use proptest::prelude::*;
use workring::{
    Batch, Engine, Error, SharedBatch,
    batch::{ALIGNMENT, Backing},
};

use crate::support::{Checked, cases, watched};

/// One thing done to a set of batches. Indices and lengths are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Zeroed(usize),
    FromSlice(Vec<u32>),
    FromFn(usize, u32),
    Fill(usize, u32),
    FillWith(usize, u32),
    AssumeFilled(usize),
    Write(usize, usize, u32),
    DivideAt(usize, usize),
    DivideEvery(usize, usize),
    /// One part with another one.
    Unsplit(usize, usize),
    /// All parts of a block, the first that many left out, from another one on.
    FromParts(usize, usize, usize),
    Truncate(usize, usize),
    Freeze(usize),
    Clone(usize),
    Slice(usize, usize, usize),
    IntoBatch(usize),
    Drop(usize),
    Trim,
}

fn length() -> impl Strategy<Value = usize> {
    // Sizes of every kind of block: of the size classes, around a page, and beyond 1 MiB, which is given back when freed.
    prop_oneof![
        6 => 0..20usize,
        6 => 0..3000usize,
        2 => 1020..1030usize,
        2 => 3000..40_000usize,
        1 => 250_000..600_000usize,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..1000usize;
    prop_oneof![
        4 => length().prop_map(Step::Zeroed),
        1 => proptest::collection::vec(any::<u32>(), 0..200).prop_map(Step::FromSlice),
        1 => (length(), any::<u32>()).prop_map(|(len, salt)| Step::FromFn(len, salt)),
        2 => (length(), any::<u32>()).prop_map(|(len, value)| Step::Fill(len, value)),
        1 => (length(), any::<u32>()).prop_map(|(len, salt)| Step::FillWith(len, salt)),
        1 => length().prop_map(Step::AssumeFilled),
        2 => (at.clone(), any::<usize>(), any::<u32>()).prop_map(|(at, place, value)| Step::Write(at, place, value)),
        2 => (at.clone(), any::<usize>()).prop_map(|(at, mid)| Step::DivideAt(at, mid)),
        1 => (at.clone(), 1..5usize).prop_map(|(at, parts)| Step::DivideEvery(at, parts)),
        4 => (at.clone(), any::<usize>()).prop_map(|(at, other)| Step::Unsplit(at, other)),
        2 => (at.clone(), 0..2usize, any::<usize>()).prop_map(|(at, less, turn)| Step::FromParts(at, less, turn)),
        1 => (at.clone(), any::<usize>()).prop_map(|(at, len)| Step::Truncate(at, len)),
        2 => at.clone().prop_map(Step::Freeze),
        2 => at.clone().prop_map(Step::Clone),
        2 => (at.clone(), any::<usize>(), any::<usize>()).prop_map(|(at, from, to)| Step::Slice(at, from, to)),
        2 => at.clone().prop_map(Step::IntoBatch),
        5 => at.prop_map(Step::Drop),
        1 => Just(Step::Trim),
    ]
}

#[derive(Debug)]
enum Handle {
    Unique(Batch<u32>),
    Shared(SharedBatch<u32>),
}

/// A batch and what it must hold.
#[derive(Debug)]
struct Held {
    handle: Handle,
    twin: Vec<u32>,
    /// Where in its block it begins.
    from: usize,
    /// One clone for each handle of the same block.
    block: Rc<Block>,
}

#[derive(Debug)]
struct Block {
    /// Elements it was allocated with.
    len: usize,
}

impl Held {
    fn elements(&self) -> &[u32] {
        match &self.handle {
            Handle::Unique(batch) => batch,
            Handle::Shared(batch) => batch,
        }
    }
}

#[derive(Default, Debug)]
struct World(Vec<Held>);

fn mixed(index: usize, salt: u32) -> u32 {
    (index as u32).wrapping_mul(0x9e37_79b9) ^ salt
}

impl World {
    fn new_block(&mut self, batch: Batch<u32>, twin: Vec<u32>) -> Result<(), TestCaseError> {
        prop_assert_eq!(batch.as_ptr().addr() % ALIGNMENT, 0);
        prop_assert_eq!(&*batch, &*twin);
        let block = Rc::new(Block { len: twin.len() });
        self.0.push(Held { handle: Handle::Unique(batch), twin, from: 0, block });
        Ok(())
    }

    /// The place of a handle; `None` when there is none at all.
    fn place(&self, at: usize) -> Option<usize> {
        at.checked_rem(self.0.len())
    }

    fn step(&mut self, engine: &Engine, step: Step) -> Result<(), TestCaseError> {
        let (Step::Write(at, ..)
        | Step::DivideAt(at, _)
        | Step::DivideEvery(at, _)
        | Step::Unsplit(at, _)
        | Step::FromParts(at, ..)
        | Step::Truncate(at, _)
        | Step::Freeze(at)
        | Step::Clone(at)
        | Step::Slice(at, ..)
        | Step::IntoBatch(at)
        | Step::Drop(at)) = step
        else {
            return self.make(engine, step);
        };
        let Some(at) = self.place(at) else { return Ok(()) };
        match step {
            Step::Unsplit(_, other) => return self.unsplit(at, other),
            Step::FromParts(_, less, turn) => return self.unsplit_all(at, less, turn),
            _ => {}
        }
        let Held { handle, mut twin, from, block } = self.0.swap_remove(at);
        let mut put_at = |handle, twin, from| self.0.push(Held { handle, twin, from, block: Rc::clone(&block) });
        let mut put = |handle, twin| put_at(handle, twin, from);
        match (step, handle) {
            (Step::Write(_, place, value), Handle::Unique(mut batch)) => {
                if let Some(place) = place.checked_rem(twin.len()) {
                    (batch[place], twin[place]) = (value, value);
                }
                put(Handle::Unique(batch), twin);
            }
            (Step::DivideAt(_, mid), Handle::Unique(batch)) => {
                let mid = mid % (twin.len() + 1);
                let tail = twin.split_off(mid);
                let (left, right) = batch.into_split_at(mid);
                put(Handle::Unique(left), twin);
                put_at(Handle::Unique(right), tail, from + mid);
            }
            (Step::DivideEvery(_, parts), Handle::Unique(batch)) => {
                let part_len = twin.len().div_ceil(parts).max(1);
                let divided = batch.into_chunks(part_len);
                // A batch of no elements is one part, too.
                prop_assert_eq!(divided.len(), twin.len().div_ceil(part_len).max(1));
                let mut twins = twin.chunks(part_len);
                for (number, part) in divided.into_iter().enumerate() {
                    let twin = twins.next().unwrap_or_default().to_vec();
                    put_at(Handle::Unique(part), twin, from + number * part_len);
                }
            }
            (Step::Truncate(_, len), Handle::Unique(mut batch)) => {
                let len = len % (2 * twin.len() + 1);
                batch.truncate(len);
                twin.truncate(len);
                put(Handle::Unique(batch), twin);
            }
            (Step::Freeze(_), Handle::Unique(batch)) => put(Handle::Shared(batch.freeze()), twin),
            (Step::Clone(_), Handle::Shared(batch)) => {
                put(Handle::Shared(batch.clone()), twin.clone());
                put(Handle::Shared(batch), twin);
            }
            (Step::Slice(_, begin, end), Handle::Shared(batch)) => {
                let begin = begin % (twin.len() + 1);
                let end = begin + end % (twin.len() - begin + 1);
                let (slice, slice_twin) = (batch.slice(begin..end), twin[begin..end].to_vec());
                put(Handle::Shared(batch), twin);
                put_at(Handle::Shared(slice), slice_twin, from + begin);
            }
            (Step::IntoBatch(_), Handle::Shared(batch)) => {
                let is_only_handle = Rc::strong_count(&block) == 1;
                match batch.try_into_batch() {
                    Ok(batch) => {
                        prop_assert!(is_only_handle, "a batch with other handles became writable");
                        put(Handle::Unique(batch), twin);
                    }
                    Err(failed) => {
                        prop_assert!(!is_only_handle, "{}", failed.error);
                        let is_right = matches!(failed.error, Error::InvalidArgument { .. });
                        prop_assert!(is_right, "{:?}", failed.error);
                        put(Handle::Shared(failed.returned), twin);
                    }
                }
            }
            (Step::Drop(_), handle) => drop(handle),
            (_, handle) => put(handle, twin),
        }
        Ok(())
    }

    /// Joins two handles, if both own what they have.
    fn unsplit(&mut self, at: usize, other: usize) -> Result<(), TestCaseError> {
        let first = self.0.swap_remove(at);
        let Some(other) = self.place(other) else {
            self.0.push(first);
            return Ok(());
        };
        let second = self.0.swap_remove(other);
        let is_one = Rc::ptr_eq(&first.block, &second.block) && first.from + first.twin.len() == second.from;
        let (first_handle, second_handle) = match (first.handle, second.handle) {
            (Handle::Unique(batch), Handle::Unique(next)) => match batch.try_unsplit(next) {
                Ok(batch) => {
                    prop_assert!(is_one, "parts that are not adjacent became one");
                    let twin = [first.twin, second.twin].concat();
                    self.0.push(Held { handle: Handle::Unique(batch), twin, from: first.from, block: first.block });
                    return Ok(());
                }
                Err(failed) => {
                    prop_assert!(!is_one && matches!(failed.error, Error::InvalidArgument { .. }), "{}", failed.error);
                    let (batch, next) = failed.returned;
                    (Handle::Unique(batch), Handle::Unique(next))
                }
            },
            handles => handles,
        };
        self.0.push(Held { handle: first_handle, ..first });
        self.0.push(Held { handle: second_handle, ..second });
        Ok(())
    }

    /// Joins all that own a part of the block of one handle, but for the first `less`, in some order.
    fn unsplit_all(&mut self, at: usize, less: usize, turn: usize) -> Result<(), TestCaseError> {
        let block = Rc::clone(&self.0[at].block);
        let is_part = |held: &mut Held| matches!(held.handle, Handle::Unique(_)) && Rc::ptr_eq(&held.block, &block);
        let mut parts: Vec<Held> = self.0.extract_if(.., is_part).skip(less).collect();
        let turn = turn.checked_rem(parts.len()).unwrap_or(0);
        parts.rotate_left(turn);
        let mut sorted: Vec<&Held> = parts.iter().collect();
        sorted.sort_by_key(|held| (held.from, held.twin.len()));
        let is_one =
            !sorted.is_empty() && sorted.windows(2).all(|pair| pair[0].from + pair[0].twin.len() == pair[1].from);
        let from = sorted.first().map_or(0, |held| held.from);
        let twin: Vec<u32> = sorted.iter().flat_map(|held| held.twin.clone()).collect();
        let (mut batches, mut rest) = (Vec::new(), Vec::new());
        for Held { handle, twin, from, block } in parts {
            if let Handle::Unique(batch) = handle {
                batches.push(batch);
            }
            rest.push((twin, from, block));
        }
        match Batch::try_from_parts(batches) {
            Ok(batch) => {
                prop_assert!(is_one, "parts that are not adjacent became one");
                self.0.push(Held { handle: Handle::Unique(batch), twin, from, block });
            }
            Err(failed) => {
                prop_assert!(!is_one && matches!(failed.error, Error::InvalidArgument { .. }), "{}", failed.error);
                prop_assert_eq!(failed.returned.len(), rest.len());
                for (batch, (twin, from, block)) in failed.returned.into_iter().zip(rest) {
                    self.0.push(Held { handle: Handle::Unique(batch), twin, from, block });
                }
            }
        }
        Ok(())
    }

    fn make(&mut self, engine: &Engine, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Zeroed(len) => self.new_block(engine.batch(len).unwrap(), vec![0; len]),
            Step::FromSlice(values) => self.new_block(engine.batch_from_slice(&values).unwrap(), values),
            Step::FromFn(len, salt) => {
                let batch = engine.batch_from_fn(len, |index| mixed(index, salt)).unwrap();
                self.new_block(batch, (0..len).map(|index| mixed(index, salt)).collect())
            }
            Step::Fill(len, value) => self.new_block(engine.batch_uninit(len).unwrap().fill(value), vec![value; len]),
            Step::FillWith(len, salt) => {
                let batch = engine.batch_uninit(len).unwrap().fill_with(|index| mixed(index, salt));
                self.new_block(batch, (0..len).map(|index| mixed(index, salt)).collect())
            }
            Step::AssumeFilled(len) => {
                let uninit = engine.batch_uninit::<u32>(len).unwrap();
                prop_assert_eq!((uninit.len(), uninit.is_empty()), (len, len == 0));
                let batch = uninit.assume_filled();
                let twin = batch.to_vec();
                self.new_block(batch, twin)
            }
            Step::Trim => {
                engine.trim().unwrap();
                Ok(())
            }
            _ => unreachable!("the other steps need a batch"),
        }
    }

    fn check(&self, engine: &Engine) -> Result<(), TestCaseError> {
        for held in &self.0 {
            prop_assert_eq!(held.elements(), &*held.twin);
        }
        let blocks: HashMap<*const Block, usize> =
            self.0.iter().map(|held| (Rc::as_ptr(&held.block), held.block.len)).collect();
        let arena = engine.statistics().arena;
        prop_assert_eq!(arena.blocks, blocks.len() as u64);
        let least: usize = blocks.values().map(|len| (len * size_of::<u32>()).max(1).next_multiple_of(ALIGNMENT)).sum();
        let (least, in_use) = (least as u64, arena.in_use);
        prop_assert!(least <= in_use && in_use <= least + least / 4, "{in_use} in use for {least}");
        prop_assert!(in_use <= arena.peak_in_use && arena.peak_in_use <= arena.high_water);
        Ok(())
    }
}

#[test]
fn batches_do_as_their_twins_do() {
    watched(|| {
        let engines = [
            Checked::new(|builder| builder.threads(1)),
            Checked::new(|builder| builder.threads(1).retain(0)),
            Checked::new(|builder| builder.threads(1).backing(Backing::SharedMemory).retain(1 << 20)),
            Checked::new(|builder| builder.threads(1).backing(Backing::Anonymous).large_pages(false).retain(0)),
        ];
        proptest!(cases(60), |(which in 0..engines.len(), steps in proptest::collection::vec(step(), 0..40))| {
            let engine = &engines[which];
            let mut world = World::default();
            for step in steps {
                world.step(engine, step)?;
                world.check(engine)?;
            }
            drop(world);
            prop_assert_eq!(engine.statistics().arena.in_use, 0);
        });
    });
}

#[test]
fn reused_memory_reads_as_zero_whatever_was_there() {
    let engine = Checked::new(|builder| builder.threads(1).retain(4 << 20));
    // Lengths in bytes, each made dirty and then used again by requests of the same and of other lengths.
    for len in [1, 64, 100, 4096, 5000, 65_536, 1 << 20, (3 << 20) + 64, 16 << 20] {
        for next in [len, len / 2 + 1, len * 2] {
            let mut dirty = engine.batch::<u8>(len).unwrap();
            dirty.fill(0xFF);
            drop(dirty);
            let clean = engine.batch::<u8>(next).unwrap();
            assert!(clean.iter().all(|&byte| byte == 0), "{next} bytes after {len} dirty ones");
        }
    }
}

/// A pod with padding-free fields and an alignment of its own.
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C)]
struct Point {
    x: f64,
    id: u32,
    weight: f32,
}

/// The strongest alignment that batches allow.
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

fn bits<T: Pod>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// Every way to make a batch of `T`, against the same bytes in a `Vec`.
fn round_trip<T: Pod + AnyBitPattern>(engine: &Engine, bytes: &[u8]) -> Result<(), TestCaseError> {
    let values: Vec<T> = bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
    let len = values.len();
    let zeroed = engine.batch::<T>(len).unwrap();
    prop_assert!(bits(&zeroed).iter().all(|&byte| byte == 0));
    let copied = engine.batch_from_slice(&values).unwrap();
    let made = engine.batch_from_fn(len, |index| values[index]).unwrap();
    let filled = engine.batch_uninit(len).unwrap().copy_from_slice(&values);
    // Bits, not values: NaN is not equal to itself, and its payload must come through.
    for batch in [&zeroed, &copied, &made, &filled] {
        prop_assert_eq!(batch.as_ptr().addr() % ALIGNMENT, 0);
        prop_assert_eq!(batch.len(), len);
    }
    for batch in [&copied, &made, &filled] {
        prop_assert_eq!(bits(batch), bits(&values));
    }
    let shared = copied.freeze();
    let (tail, head) = (shared.slice(len / 3..), shared.slice(..len / 2));
    prop_assert_eq!(bits(&tail), bits(&values[len / 3..]));
    prop_assert_eq!(bits(&head), bits(&values[..len / 2]));
    let (left, right) = made.into_split_at(len / 2);
    prop_assert_eq!(bits(&left), bits(&values[..len / 2]));
    prop_assert_eq!(bits(&right), bits(&values[len / 2..]));
    Ok(())
}

#[test]
fn every_element_type_keeps_its_bits() {
    let engine = Checked::threads(1);
    proptest!(cases(24), |(bytes in proptest::collection::vec(any::<u8>(), 0..2000))| {
        round_trip::<u8>(&engine, &bytes)?;
        round_trip::<i8>(&engine, &bytes)?;
        round_trip::<u16>(&engine, &bytes)?;
        round_trip::<i16>(&engine, &bytes)?;
        round_trip::<u32>(&engine, &bytes)?;
        round_trip::<i32>(&engine, &bytes)?;
        round_trip::<u64>(&engine, &bytes)?;
        round_trip::<i64>(&engine, &bytes)?;
        round_trip::<f32>(&engine, &bytes)?;
        round_trip::<f64>(&engine, &bytes)?;
        round_trip::<[f32; 3]>(&engine, &bytes)?;
        round_trip::<Point>(&engine, &bytes)?;
        round_trip::<Line>(&engine, &bytes)?;
        prop_assert_eq!(engine.statistics().arena.in_use, 0);
    });
}

#[test]
fn slices_take_every_kind_of_range() {
    use std::ops::Bound::{Excluded, Unbounded};
    let engine = Checked::threads(1);
    let shared = engine.batch_from_slice(&[10, 11, 12, 13]).unwrap().freeze();
    assert_eq!(*shared.slice(..), [10, 11, 12, 13]);
    assert_eq!(*shared.slice(1..=2), [11, 12]);
    assert_eq!(*shared.slice(..=0), [10]);
    assert_eq!(*shared.slice((Excluded(1), Unbounded)), [12, 13]);
    assert!(shared.slice(4..).is_empty());
    assert_eq!(*shared.slice(1..3).slice(1..), [12], "a slice of a slice");
}

fn message_of(body: impl FnOnce()) -> String {
    let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).expect_err("this must panic");
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast::<&str>().map_or_else(|_| String::new(), |text| (*text).to_owned()),
    }
}

#[test]
fn positions_beyond_the_end_panic_and_say_so() {
    let engine = Checked::threads(1);
    let make = || engine.batch::<u16>(4).unwrap();
    assert!(message_of(|| drop(make().into_split_at(5))).contains("a batch of 4 elements at 5"));
    assert!(message_of(|| drop(make().into_chunks(0))).contains("must not be empty"));
    assert!(message_of(|| drop(make().freeze().slice(2..5))).contains("range 2..5 of a batch of 4"));
    assert!(message_of(|| drop(make().freeze().slice(..=usize::MAX))).contains("of a batch of 4"));
    let inverted = (std::ops::Bound::Included(3), std::ops::Bound::Excluded(2));
    assert!(message_of(|| drop(make().freeze().slice(inverted))).contains("range 3..2"));
    assert!(message_of(|| drop(engine.batch_uninit::<u16>(4).unwrap().copy_from_slice(&[1]))).contains("length"));
    // The batches went with the panics: see the check of the arena at the end.
}

#[workring::kernel]
fn fill_or_fail(y: &mut [u64], p: &u64) {
    y.fill(*p);
    assert!(p % 3 != 1, "one of three");
}

/// Jobs that write a part each; of those which fail the parts come back, too, and all are one batch again.
#[test]
fn parts_of_jobs_are_one_batch_again_whatever_became_of_the_jobs() {
    watched(|| {
        let engine = Checked::threads(2);
        proptest!(cases(40), |(len in 0..5000usize, part_len in 1..1000usize)| {
            let mut jobs = engine.job_set().unwrap();
            for (number, part) in (0..).zip(engine.batch::<u64>(len).unwrap().into_chunks(part_len)) {
                jobs.insert(number, engine.submit(fill_or_fail, part, number).unwrap());
            }
            let mut failures = 0;
            let parts: Vec<Batch<u64>> = jobs.map(|(number, result)| {
                assert_eq!(result.is_err(), number % 3 == 1);
                result.unwrap_or_else(|failed| { failures += 1; failed.returned })
            }).collect();
            prop_assert_eq!(failures, (len.div_ceil(part_len).max(1) + 1) / 3);
            let batch = Batch::try_from_parts(parts).unwrap();
            let twin: Vec<u64> = (0..len).map(|at| (at / part_len) as u64).collect();
            prop_assert_eq!(&*batch, &*twin);
            // One owner: it can be cut and lent again as any other.
            prop_assert_eq!(&*batch.freeze().try_into_batch().unwrap(), &*twin);
        });
    });
}

#[test]
fn parts_of_other_batches_do_not_join() {
    let engine = Checked::threads(1);
    let make = || engine.batch_from_fn(64, |index| index as u32).unwrap();
    // Neighbours in the arena are not parts of one batch.
    let (mut one, mut two) = (make(), make());
    if one.as_ptr() > two.as_ptr() {
        std::mem::swap(&mut one, &mut two);
    }
    let (error, (one, two)) = one.try_unsplit(two).unwrap_err().into_parts();
    assert!(error.to_string().contains("not those of one batch"), "{error}");
    let ((low, high), (other, _)) = (one.into_split_at(0), two.into_split_at(64));
    let (_, (high, other)) = high.try_unsplit(other).unwrap_err().into_parts();
    let (error, mut parts) = Batch::try_from_parts(vec![other, high, low]).unwrap_err().into_parts();
    assert!(matches!(error, Error::InvalidArgument { .. }));
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [64, 64, 0], "as they were given");
    parts.remove(0);
    let whole = Batch::try_from_parts(parts).unwrap();
    assert!(whole.iter().enumerate().all(|(index, &value)| value == index as u32));
    // A part that was shortened does not reach the next one.
    let (mut left, right) = whole.into_split_at(10);
    left.truncate(9);
    assert!(left.try_unsplit(right).is_err());
    assert!(Batch::<u32>::try_from_parts(Vec::new()).is_err());
}

#[test]
fn the_block_goes_with_its_last_part_in_any_order() {
    let engine = Checked::threads(1);
    proptest!(cases(40), |(len in 1..5000usize, part_len in 1..1000usize, order in any::<u64>())| {
        let parts = engine.batch_from_fn(len, |index| index as u32).unwrap().into_chunks(part_len);
        let mut parts: Vec<_> = parts.into_iter().enumerate().collect();
        let held = engine.statistics().arena;
        prop_assert_eq!(held.blocks, 1);
        let mut random = order;
        while !parts.is_empty() {
            prop_assert_eq!(engine.statistics().arena.in_use, held.in_use, "part of the block was given back early");
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (number, part) = parts.swap_remove((random >> 33) as usize % parts.len());
            // Reading what is left while others are gone shows that it is still there.
            prop_assert_eq!(part[0], (number * part_len) as u32);
        }
        prop_assert_eq!(engine.statistics().arena.in_use, 0);
    });
}

#[test]
fn out_of_memory_has_the_right_numbers_and_leaves_everything_usable() {
    const CAPACITY: u64 = 8 << 20;
    let engine = Checked::new(|builder| builder.threads(1).capacity(CAPACITY));
    let held = engine.batch_from_fn(1 << 20, |index| index as u8).unwrap();
    let in_use = engine.statistics().arena.in_use;
    assert_eq!(in_use, 1 << 20);
    for len in [CAPACITY as usize + 1, CAPACITY as usize * 2, (CAPACITY as usize) * 100 + 1, 1 << 46] {
        let before = engine.statistics().arena;
        let error = engine.batch::<u8>(len).unwrap_err();
        let Error::OutOfMemory { requested, free, capacity } = error else { panic!("{error:?}") };
        assert_eq!(requested, (len as u64).next_multiple_of(64));
        assert_eq!((free, capacity), (CAPACITY - in_use, CAPACITY), "{len} bytes asked for");
        assert_eq!(engine.statistics().arena, before, "a refused request changes nothing");
    }
    assert!(held.iter().enumerate().all(|(index, &value)| value == index as u8));
    drop(held);
    // All of it, in one piece, can be had.
    let whole = engine.batch::<u8>(CAPACITY as usize).unwrap();
    assert!(whole.iter().all(|&value| value == 0));
}

#[test]
fn a_full_arena_is_usable_again_after_any_drop() {
    let engine = Checked::new(|builder| builder.threads(1).capacity(4 << 20));
    let mut random = 1_u64;
    let mut held: Vec<Batch<u32>> = Vec::new();
    let (mut refused, mut made) = (0, 0);
    for round in 0..3000_u32 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let len = (random >> 40) as usize % 60_000;
        match engine.batch_uninit::<u32>(len) {
            Ok(batch) => {
                held.push(batch.fill(round));
                made += 1;
            }
            Err(Error::OutOfMemory { .. }) => {
                refused += 1;
                for _ in 0..held.len().div_ceil(3) {
                    let gone = held.swap_remove((random >> 20) as usize % held.len());
                    assert!(gone.windows(2).all(|pair| pair[0] == pair[1]), "batches overlap");
                }
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(refused > 50 && made > 1000, "{refused} refused, {made} made");
}

#[test]
fn lengths_beyond_the_address_space_are_errors() {
    let engine = Checked::threads(1);
    let invalid = |error: Error| {
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
        assert!(error.to_string().contains("exceeds the address space"), "{error}");
    };
    invalid(engine.batch::<u8>(usize::MAX).unwrap_err());
    invalid(engine.batch::<f64>(usize::MAX).unwrap_err());
    invalid(engine.batch::<f64>(usize::MAX / 8 + 1).unwrap_err());
    invalid(engine.batch::<f64>(isize::MAX as usize / 8 + 1).unwrap_err());
    invalid(engine.batch_uninit::<u16>(usize::MAX / 2 + 1).unwrap_err());
    invalid(engine.batch_from_fn(usize::MAX, |_| -> u64 { unreachable!("there is no element") }).unwrap_err());
    for len in [isize::MAX as usize, isize::MAX as usize - 63, 1 << 60] {
        let error = engine.batch::<u8>(len).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { requested, .. } if requested >= len as u64), "{error:?}");
    }
    assert_eq!(engine.batch::<u8>(1).unwrap().len(), 1);
}

#[test]
fn batches_outlive_their_engine() {
    watched(|| {
        let engine = Engine::builder().threads(1).capacity(1 << 24).build().unwrap();
        let mut batch = engine.batch::<u64>(100_000).unwrap();
        let shared = engine.batch_from_slice(&[1, 2, 3]).unwrap().freeze();
        drop(engine);
        batch.fill(7);
        assert!(batch.iter().all(|&value| value == 7));
        let (left, right) = batch.into_split_at(99_999);
        drop(left);
        assert_eq!(*right, [7]);
        let moved = std::thread::spawn(move || shared.slice(1..).to_vec()).join().unwrap();
        assert_eq!(moved, [2, 3]);
        assert_eq!(*right.freeze().try_into_batch().unwrap(), [7]);
    });
}

/// Bytes of the pages under `batch` that are in memory (proc(5): bit 63 of a pagemap entry). Exact, whatever other tests do.
fn resident(address: usize, len: usize) -> usize {
    let page = rustix::param::page_size();
    let (first, last) = (address / page, (address + len).div_ceil(page));
    let mut entries = vec![0_u8; (last - first) * 8];
    let pagemap = File::open("/proc/self/pagemap").expect("Linux has a pagemap");
    pagemap.read_exact_at(&mut entries, first as u64 * 8).expect("the batch is mapped");
    entries.chunks_exact(8).filter(|entry| entry[7] & 0x80 != 0).count() * page
}

fn span(batch: &[u8]) -> (usize, usize) {
    (batch.as_ptr().addr(), batch.len())
}

#[test]
#[cfg(target_os = "linux")]
fn batches_filled_in_one_call_ask_for_large_pages_of_shared_memory() {
    const LEN: usize = 1 << 20;
    let builder = |wanted| Engine::builder().threads(1).backing(Backing::SharedMemory).large_pages(wanted).retain(0);
    for wanted in [false, true] {
        let engine = builder(wanted).build().unwrap();
        let asked = || {
            let arena = engine.statistics().arena;
            arena.large_pages + arena.large_pages_refused
        };
        // Nothing is known of what will be written here.
        let untouched = engine.batch::<u64>(LEN).unwrap();
        assert_eq!(asked(), 0);
        let numbers = engine.batch_from_fn(LEN, |index| index as u64).unwrap();
        assert_eq!(asked() > 0, wanted);
        let copy = engine.batch_from_slice(&numbers).unwrap();
        assert!(copy.iter().enumerate().all(|(index, &number)| number == index as u64));
        assert!(untouched.iter().all(|&number| number == 0));
    }
}

#[test]
fn large_frees_give_memory_back_to_the_system() {
    const LEN: usize = 16 << 20;
    for backing in [Backing::Automatic, Backing::SharedMemory] {
        let engine = Checked::new(|builder| builder.threads(1).retain(0).backing(backing));
        let keep = engine.batch_uninit::<u8>(LEN).unwrap().fill(3);
        let gone = engine.batch_uninit::<u8>(LEN).unwrap().fill(1);
        let after = engine.batch_uninit::<u8>(LEN).unwrap().fill(4);
        let (address, len) = span(&gone);
        assert_eq!(resident(address, len), LEN, "{backing:?}: written pages are in memory");
        drop(gone);
        let left = resident(address, len);
        assert!(left <= 4 << 20, "{backing:?}: {left} bytes of {LEN} freed ones stay in memory");
        assert!(
            keep.iter().all(|&value| value == 3) && after.iter().all(|&value| value == 4),
            "{backing:?}: neighbours"
        );
        let again = engine.batch::<u8>(LEN).unwrap();
        assert!(again.iter().all(|&value| value == 0), "{backing:?}");
    }
}

#[test]
fn fresh_memory_is_not_touched_before_it_is_used() {
    const LEN: usize = 64 << 20;
    let engine = Checked::new(|builder| builder.threads(1).large_pages(false));
    let batch = engine.batch::<u8>(LEN).unwrap();
    let (address, len) = span(&batch);
    assert!(resident(address, len) <= 1 << 20, "zeroing touched pages that were zero already");
}

#[test]
fn what_may_be_retained_stays_until_it_is_trimmed() {
    const LEN: usize = 16 << 20;
    for backing in [Backing::Automatic, Backing::SharedMemory] {
        let engine = Checked::new(|builder| builder.threads(1).retain(64 << 20).backing(backing));
        let small = engine.batch_uninit::<u8>(100).unwrap().fill(9);
        let batch = engine.batch_uninit::<u8>(LEN).unwrap().fill(1);
        let (address, len) = span(&batch);
        drop(batch);
        assert!(resident(address, len) >= LEN / 2, "{backing:?}: warm pages were given back");
        engine.trim().unwrap();
        assert!(resident(address, len) <= 1 << 20, "{backing:?}: trim left free pages in memory");
        assert!(small.iter().all(|&value| value == 9));
        assert!(engine.batch::<u8>(LEN).unwrap().iter().all(|&value| value == 0), "{backing:?}");
    }
}

#[test]
fn prefault_takes_the_memory_at_once() {
    let engine = Checked::new(|builder| builder.threads(1).capacity(8 << 20).prefault(true));
    let batch = engine.batch_uninit::<u8>(6 << 20).unwrap().assume_filled();
    let (address, len) = span(&batch);
    assert_eq!(resident(address, len), len);
    let error = Engine::builder().threads(1).prefault(true).build().unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
}

#[test]
fn batches_and_engines_can_go_to_other_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Engine>();
    is_send_and_sync::<Batch<f64>>();
    is_send_and_sync::<SharedBatch<f64>>();
}
