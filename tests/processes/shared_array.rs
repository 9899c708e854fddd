//! Shared arrays between the engine's process and its workers.

use std::time::Duration;

use workring::bytemuck::{self, Pod, Zeroable};
use workring::{
    Context, Error, SharedArray, kernel, kernels,
    kernels::KernelInfo,
    shared::{SharedHandle, WaitOutcome},
};

use crate::support::{Checked, Tests, eventually, is_alive, kill};

pub(crate) fn tests() -> Tests {
    vec![
        ("shared_array::processes_count_exactly", processes_count_exactly),
        ("shared_array::a_producer_and_a_consumer_take_turns", a_producer_and_a_consumer_take_turns),
        ("shared_array::growth_is_seen_by_everybody", growth_is_seen_by_everybody),
        ("shared_array::workers_refuse_what_is_no_handle", workers_refuse_what_is_no_handle),
        ("shared_array::workers_let_go_of_arrays_that_are_gone", workers_let_go_of_arrays_that_are_gone),
        ("shared_array::only_the_living_are_woken", only_the_living_are_woken),
        ("shared_array::an_asynchronous_wait_hears_of_another_process", an_asynchronous_wait_hears_of_another_process),
        ("shared_array::a_store_to_one_is_not_missed_by_the_other", a_store_to_one_is_not_missed_by_the_other),
    ]
}

/// An array, and a number for kernels that need one.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Param<T> {
    array: SharedHandle<T>,
    number: u64,
}

// SAFETY: a handle of 16 bytes and a number of 8, both plain data: no padding.
unsafe impl<T: 'static> Zeroable for Param<T> {}
// SAFETY: as above.
unsafe impl<T: Copy + 'static> Pod for Param<T> {}

/// So long nothing here takes; a wait that was lost is found then.
const PATIENCE: Duration = crate::support::STEP;

const TURN: usize = 0;
const PLACE: usize = 1;

/// Takes turns with another thread or process: 0 in `TURN` is the producer's, 1 the consumer's.
fn await_turn(array: &SharedArray<i64>, other: i64) -> Result<(), Error> {
    while array.load(TURN)? == other {
        if array.wait(TURN, other, PATIENCE)? == WaitOutcome::TimedOut {
            return Err(Error::Cancelled);
        }
    }
    Ok(())
}

/// Adds one so often, by element 0.
#[kernel]
pub(crate) fn count_up(y: &mut [u64], p: &Param<u64>, ctx: &mut Context) -> Result<(), Error> {
    let array = ctx.shared(&p.array)?;
    let counter = array.at(0).ok_or(Error::Closed)?;
    // All begin at about the same time.
    array.fetch_add(1, 1)?;
    while array.load(1)? < y[0] {
        std::hint::spin_loop();
    }
    for _ in 0..p.number {
        counter.fetch_add(1);
    }
    Ok(())
}

/// Takes so many numbers from the producer, and gives their sum.
#[kernel]
pub(crate) fn consume(y: &mut [i64], p: &Param<i64>, ctx: &mut Context) -> Result<(), Error> {
    let array = ctx.shared(&p.array)?;
    for _ in 0..p.number {
        await_turn(&array, 0)?;
        y[0] += array.load(PLACE)?;
        array.store(TURN, 0)?;
        array.notify(TURN, 1)?;
    }
    Ok(())
}

/// What it sees of the array: its length, how far it can grow and its last element, which it then adds 1 to; then it makes the
/// array as long as the number says, if that is more than 0.
#[kernel]
pub(crate) fn look_at(y: &mut [u64], p: &Param<u32>, ctx: &mut Context) -> Result<(), Error> {
    let array = ctx.shared(&p.array)?;
    let len = array.len();
    (y[0], y[1], y[2]) = (len as u64, array.max_len() as u64, u64::from(array.fetch_add(len - 1, 1)?));
    if p.number > 0 {
        array.grow(p.number as usize)?;
    }
    Ok(())
}

/// Mappings of shared arrays in this process.
#[kernel]
pub(crate) fn count_mappings(y: &mut [u64]) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    y[0] = maps.lines().filter(|line| line.contains("workring-shared")).count() as u64;
}

/// Says its process by element 1 and waits for element 0 while that is 0; then it says how that ended.
#[kernel]
pub(crate) fn wait_there(y: &mut [u32], p: &Param<i32>, ctx: &mut Context) -> Result<(), Error> {
    let array = ctx.shared(&p.array)?;
    array.fetch_add(1, 1)?;
    y[0] = match array.wait(0, 0, PATIENCE)? {
        WaitOutcome::Ok => 1,
        WaitOutcome::NotEqual => 2,
        _ => 3,
    };
    Ok(())
}

/// Notifies element 0 once somebody waits for it.
#[kernel]
pub(crate) fn notify_there(y: &mut [u32], p: &Param<i32>, ctx: &mut Context) -> Result<(), Error> {
    let array = ctx.shared(&p.array)?;
    while y[0] == 0 {
        y[0] = array.notify(0, p.number as u32)? as u32;
    }
    Ok(())
}

/// As the thread of the host process does in the test: its own element, then the other's, so often, with a meeting around each round.
#[kernel]
pub(crate) fn store_and_look(y: &mut [u32], p: &Param<u32>, ctx: &mut Context) -> Result<(), Error> {
    y[0] = play_rounds(&ctx.shared(&p.array)?, 1, p.number as u32)?;
    Ok(())
}

pub(crate) fn listed() -> Vec<&'static KernelInfo> {
    kernels![count_up, consume, look_at, count_mappings, wait_there, notify_there, store_and_look].to_vec()
}

fn processes_count_exactly() {
    const ROUNDS: u64 = 100_000;
    let engine = Checked::new(2);
    let array = SharedArray::<u64>::new(2).unwrap();
    let param = Param { array: engine.share(&array).unwrap(), number: ROUNDS };
    let jobs = [(); 2].map(|()| engine.submit(count_up, engine.batch_from_slice(&[3]).unwrap(), param).unwrap());
    array.fetch_add(1, 1).unwrap();
    eventually("both are at it", || array.load(1).unwrap() == 3);
    for _ in 0..ROUNDS {
        array.fetch_add(0, 1).unwrap();
    }
    for job in jobs {
        job.wait().unwrap();
    }
    assert_eq!(array.load(0).unwrap(), 3 * ROUNDS);
}

fn a_producer_and_a_consumer_take_turns() {
    const NUMBERS: i64 = 10_000;
    let engine = Checked::new(1);
    let array = SharedArray::<i64>::new(2).unwrap();
    let param = Param { array: engine.share(&array).unwrap(), number: NUMBERS as u64 };
    let consumer = engine.submit(consume, engine.batch(1).unwrap(), param).unwrap();
    for number in 1..=NUMBERS {
        await_turn(&array, 1).unwrap();
        array.store(PLACE, number).unwrap();
        array.store(TURN, 1).unwrap();
        array.notify(TURN, 1).unwrap();
    }
    assert_eq!(consumer.wait().unwrap()[0], NUMBERS * (NUMBERS + 1) / 2);
}

fn growth_is_seen_by_everybody() {
    let engine = Checked::new(2);
    let array = SharedArray::<u32>::with_max_len(1, 3_000_000).unwrap();
    let handle = engine.share(&array).unwrap();
    let look = |number| {
        let y = engine.batch::<u64>(3).unwrap();
        let seen = engine.submit(look_at, y, Param { array: handle, number }).unwrap().wait().unwrap();
        (seen[0], seen[1], seen[2])
    };
    array.store(0, 7).unwrap();
    assert_eq!(look(0), (1, 3_000_000, 7));
    array.grow(2_000_000).unwrap();
    array.store(1_999_999, 9).unwrap();
    assert_eq!(look(3_000_000), (2_000_000, 3_000_000, 9));
    assert_eq!((array.len(), array.load(1_999_999).unwrap(), array.load(2_999_999).unwrap()), (3_000_000, 10, 0));
    assert_eq!(look(0), (3_000_000, 3_000_000, 0));
    // Shrinking is refused there as well.
    let failed = engine.submit(look_at, engine.batch(3).unwrap(), Param { array: handle, number: 5 }).unwrap().wait();
    assert!(failed.unwrap_err().error.to_string().contains("cannot shrink"));
}

fn workers_refuse_what_is_no_handle() {
    let (engine, other) = (Checked::new(1), Checked::new(1));
    let (array, foreign) = (SharedArray::<u32>::new(1).unwrap(), SharedArray::<u32>::new(1).unwrap());
    let handle = engine.share(&array).unwrap();
    let try_it = |array| engine.submit(look_at, engine.batch(3).unwrap(), Param { array, number: 0 }).unwrap().wait();
    let refusal = |array| match try_it(array) {
        Err(failed) => failed.error.to_string(),
        Ok(_) => panic!("a refusal is due"),
    };
    assert!(refusal(other.share(&foreign).unwrap()).contains("names no shared array of this engine"));
    try_it(handle).unwrap();
    assert!(refusal(other.share(&foreign).unwrap()).contains("names no shared array of this engine"));
    let [generation, word]: [u64; 2] = bytemuck::cast(handle);
    let mut random = 1_u64;
    for _ in 0..200 {
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        let text = refusal(bytemuck::cast([random, word]));
        assert!(text.contains("names no shared array of this engine"), "{text}");
        let text = refusal(bytemuck::cast([generation, random]));
        assert!(text.contains("names no shared array") || text.contains("elements of type"), "{text}");
    }
    // An array of another type by its number and generation.
    let signed = SharedArray::<i32>::new(1).unwrap();
    let [generation, word]: [u64; 2] = bytemuck::cast(engine.share(&signed).unwrap());
    let text = refusal(bytemuck::cast([generation, word & 0xFFFF_FFFF | 6 << 32]));
    assert!(text.contains("elements of type 5, not 6"), "{text}");
    // Gone, although the worker has it mapped; then its number is that of another.
    drop(array);
    assert!(refusal(handle).contains("gone"));
    let next = SharedArray::<u32>::from_slice(&[55]).unwrap();
    let next_handle = engine.share(&next).unwrap();
    assert!(refusal(handle).contains("gone"));
    assert_eq!(try_it(next_handle).unwrap()[2], 55);
    assert_eq!(next.load(0).unwrap(), 56);
}

fn workers_let_go_of_arrays_that_are_gone() {
    let engine = Checked::new(1);
    let mappings = || engine.submit(count_mappings, engine.batch(1).unwrap(), ()).unwrap().wait().unwrap()[0];
    let use_it = |array: &SharedArray<u32>| {
        let param = Param { array: engine.share(array).unwrap(), number: 0 };
        engine.submit(look_at, engine.batch(3).unwrap(), param).unwrap().wait().unwrap();
    };
    let kept = SharedArray::<u32>::new(1).unwrap();
    use_it(&kept);
    let many: Vec<_> = (0..20).map(|_| SharedArray::<u32>::new(1000).unwrap()).collect();
    many.iter().for_each(use_it);
    assert_eq!(mappings(), 21);
    drop(many);
    for _ in 0..30 {
        use_it(&SharedArray::<u32>::new(1).unwrap());
        assert_eq!(mappings(), 2, "the one that is kept, and the last one");
    }
    use_it(&kept);
}

fn only_the_living_are_woken() {
    let engine = Checked::new(2);
    let array = SharedArray::<i32>::new(2).unwrap();
    let param = Param { array: engine.share(&array).unwrap(), number: 0 };
    let mut jobs: Vec<_> =
        (0..2).map(|_| engine.submit(wait_there, engine.batch(1).unwrap(), param).unwrap()).collect();
    eventually("both are there", || array.load(1).unwrap() == 2);
    let pids = engine.pids();
    let waits = |pid: &u32| {
        // futex(2) is call 202 on x86-64 and 98 on AArch64; a process that runs has none.
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        call.starts_with("202 ") || call.starts_with("98 ")
    };
    eventually("both wait", || pids.iter().all(waits));
    kill(pids[0]);
    eventually("one is dead", || !is_alive(pids[0]));
    assert_eq!(array.notify(0, u32::MAX).unwrap(), 1, "the one that lives");
    let outcomes = [jobs.pop().unwrap().wait(), jobs.pop().unwrap().wait()];
    let died = |failed: &workring::Failed<_>| matches!(failed.error, Error::WorkerDied { .. });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(died)).count(), 1);
    assert_eq!(outcomes.iter().flatten().map(|y| y[0]).collect::<Vec<_>>(), [1], "woken");
    assert_eq!(array.notify(0, u32::MAX).unwrap(), 0);
}

fn an_asynchronous_wait_hears_of_another_process() {
    let engine = Checked::new(1);
    let array = SharedArray::<i32>::new(2).unwrap();
    let array_handle = engine.share(&array).unwrap();
    for number in [1, u64::from(u32::MAX)] {
        let waits = [(); 3].map(|()| array.wait_async(0, 0, Duration::MAX));
        let param = Param { array: array_handle, number };
        let woken = engine.submit(notify_there, engine.batch(1).unwrap(), param).unwrap().wait().unwrap()[0];
        assert_eq!(u64::from(woken), number.min(3));
        for wait in waits.into_iter().take(woken as usize) {
            assert_eq!(pollster::block_on(wait).unwrap(), WaitOutcome::Ok);
        }
        assert_eq!(array.notify(0, u32::MAX).unwrap(), 0, "the others were dropped");
    }
}

/// Stores the round to the own element and then loads the other's, so often; gives the rounds in which neither side saw the other's
/// store, as far as side 0 knows.
fn play_rounds(array: &SharedArray<u32>, side: usize, rounds: u32) -> Result<u32, Error> {
    const LINE: usize = 32;
    let cell = |place: usize| array.at(place * LINE).ok_or(Error::Closed);
    let (own, other, found, others_found, turn) =
        (cell(side)?, cell(1 - side)?, cell(2 + side)?, cell(3 - side)?, cell(4)?);
    let meet = |at: u32| {
        turn.fetch_add(1);
        while turn.load() < at {
            std::hint::spin_loop();
        }
    };
    let mut missed = 0;
    for round in 1..=rounds {
        meet(4 * round - 2);
        own.store(round);
        let seen = other.load();
        found.store_relaxed(seen);
        meet(4 * round);
        missed += u32::from(seen < round && others_found.load() < round);
    }
    Ok(missed)
}

fn a_store_to_one_is_not_missed_by_the_other() {
    const ROUNDS: u32 = 20_000;
    let engine = Checked::new(1);
    let array = SharedArray::<u32>::new(5 * 32).unwrap();
    let param = Param { array: engine.share(&array).unwrap(), number: u64::from(ROUNDS) };
    let other = engine.submit(store_and_look, engine.batch(1).unwrap(), param).unwrap();
    assert_eq!(play_rounds(&array, 0, ROUNDS).unwrap(), 0);
    assert_eq!(other.wait().unwrap()[0], 0);
}
