//! What the project's fuzz targets call (`fuzz/`): one function for each reader of bytes that somebody else wrote.
//!
//! Each takes any bytes and returns, or panics with what it found. The targets over shared memory build an engine with jobs of
//! every kind, change words of it as the bytes say, before it is read and between two reads, and let a worker process, a thread
//! of the engine, or the supervisor read it. Without changes everything is valid, so the readers are reached behind their checks.
//!
//! The tests of this module replay the corpus of `fuzz/` and go on at random, on stable Rust.

mod channel;
mod patch;
mod watch;
mod world;

use crate::engine::schedule::completion;
use crate::engine::schedule::health;
use crate::engine::schedule::queue;
use crate::engine::schedule::wakeup;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

pub use self::channel::channel;
use self::patch::Input;
use self::world::{INCARNATION, PROCESS, SEEDS, Seed, THREAD, World, length};
use crate::engine::exec::execute::execute;
use crate::engine::exec::outcome::outcome_of;
use crate::engine::job::call;
use crate::engine::job::failure_text;
use crate::engine::kernel::KernelName;
use crate::engine::process::{Death, Hello, Join, ToExternalWorker, sweep};
use crate::engine::runtime::Core;
use crate::error::{Error, WorkerExit};
use crate::formats::npy;
use crate::front::engine::Engine;
use crate::front::files::{NpyElement, inspect_npy};
use crate::ids::{DescriptorIndex, ParticipantSlot, ParticipantSlots};
use crate::layout::records::kind;
use crate::layout::words::{DescriptorWord, FLAG_OUTCOME, State};
use crate::lockfree::job::{self, Claim};
use crate::lockfree::port;
use crate::process_host::{FileAnswer, FromWorker, Start};
use crate::sync::Ordering;

/// The front byte of an input beyond which something unusual is done.
const UNUSUAL: u8 = 200;

/// What the holders of jobs read when they are done.
fn read_results(core: &Core) {
    for at in 0..core.config.queue_capacity {
        let index = DescriptorIndex::new(at);
        if let Some(error) = outcome_of(core, index) {
            std::hint::black_box(error.to_string());
        }
        std::hint::black_box(call::shortened(&core.control, index).is_ok());
        if let Some(record) = core.control.failure(index) {
            std::hint::black_box((failure_text::read(record), failure_text::read_death(record)));
        }
    }
}

/// A worker process that attaches to damaged segments and, if it can, runs everything it finds.
///
/// # Panics
/// With what it found.
pub fn attach(data: &[u8]) {
    let mut input = Input::new(data);
    let (control_wish, arena_wish) = (input.byte(), input.byte());
    let patches = input.patches();
    let jobs = SEEDS.iter().copied().filter(|&seed| seed != Seed::Closure).collect::<Vec<_>>();
    let world = World::new(&jobs);
    let control_len = length(world.core.control.mapping().len(), control_wish);
    let arena_len = length(world.core.arena.mapping().len(), arena_wish);
    world.damaged(&patches, || match world.attach(control_len, arena_len) {
        Ok((worker, regions)) => {
            // The bytes behind a mapping often are another one's: reading them would not be noticed.
            assert!(control_len >= world.core.control.mapping().len(), "a segment that was cut short was attached to");
            watch::begin(regions);
            // As many turns as there are cells: whatever the rings say, a worker comes to its end.
            for _ in 0..2 * worker.config.queue_capacity {
                let Some(index) = queue::take(&worker, PROCESS) else { break };
                execute(&worker, PROCESS, index);
            }
            watch::calls();
            let _ = (worker.has_work(), worker.queued_hint(), worker.is_open());
            read_results(&worker);
        }
        Err(Error::Corrupt { .. } | Error::InvalidArgument { .. }) => {}
        Err(other) => panic!("attaching failed for a reason that is not in the bytes: {other}"),
    });
    if patches.is_empty() && control_wish < UNUSUAL && arena_wish < UNUSUAL {
        for reference in &world.jobs {
            let word = state_of(&world.core, reference.index);
            assert!(word.is(State::Done) && !word.has(FLAG_OUTCOME), "an undamaged job failed: {word:?}");
        }
    }
}

fn state_of(core: &Core, index: DescriptorIndex) -> DescriptorWord {
    core.control.descriptor(index).map_or(DescriptorWord::from_bits(0), |descriptor| job::snapshot(&descriptor.word))
}

/// One damaged job, run by a worker process or by a thread of the engine, with kernels that check where their slices lie.
///
/// # Panics
/// With what it found.
pub fn descriptor(data: &[u8]) {
    let mut input = Input::new(data);
    let (front, mut patches) = (input.byte(), input.patches());
    let seed = SEEDS[usize::from(front >> 1) % SEEDS.len()];
    let on_thread = front & 1 == 1 || seed == Seed::Closure;
    if on_thread {
        // A thread that spreads rows waits for partitions that are told to be running.
        patches.retain(|patch| patch.when == 0 || !patch.hits_a_descriptor_word());
    }
    let mut world = World::new(&[seed]);
    let reference = world.jobs[0];
    let Some(descriptor) = world.core.control.descriptor(reference.index) else { return };
    let (who, incarnation) = if on_thread { (THREAD, 0) } else { (PROCESS, INCARNATION) };
    let attached = if on_thread {
        None
    } else {
        let (control_len, arena_len) = (world.core.control.mapping().len(), world.core.arena.mapping().len());
        Some(world.attach(control_len, arena_len).expect("undamaged segments are attached to"))
    };
    let Claim::Claimed(_) = job::claim(&descriptor.word, who, incarnation) else { return };
    let core = attached.as_ref().map_or(&world.core, |(core, _)| core);
    watch::begin(attached.as_ref().map_or_else(|| world.regions(), |(_, regions)| regions.clone()));
    let (mut shape, mut was_running) = (0, false);
    world.damaged(&patches, || {
        shape = descriptor.shape.load(Ordering::Relaxed);
        was_running = job::snapshot(&descriptor.word).is(State::Running);
        execute(core, who, reference.index);
    });
    let calls = watch::calls();
    let done = job::snapshot(&descriptor.word);
    let is_success = done.is(State::Done) && !done.has(FLAG_OUTCOME);
    if patches.is_empty() {
        assert!(is_success || !done.is(State::Done), "an undamaged job failed: {done:?}");
    }
    // A word that already says "done" was a lie before anybody read the job.
    let runs_whole = was_running && matches!(shape & 0xFF, kind::CALL | kind::CLOSURE);
    if is_success && runs_whole && patches.iter().all(|patch| patch.when == 0) {
        assert!(calls == 1, "a job that made {calls} kernel calls is a success: {done:?}");
    }
    if let Some((core, _)) = &attached {
        read_results(core);
    }
    read_results(&world.core);
    drop(attached);
    world.redeem(0);
}

/// What a thread and the supervisor of an engine do with control words that a worker process left.
///
/// # Panics
/// With what it found.
pub fn recovery(data: &[u8]) {
    let mut input = Input::new(data);
    let (running, finished) = (input.byte(), input.byte());
    let (steps, patches) = ([input.byte(), input.byte(), input.byte(), input.byte()], input.patches());
    let mut world = World::new(&SEEDS);
    let core = &world.core;
    for (at, reference) in world.jobs.iter().enumerate() {
        let Some(descriptor) = core.control.descriptor(reference.index) else { continue };
        let is_in = |set: u8| set.rotate_right(at as u32) & 1 == 1;
        if is_in(running) && SEEDS[at] != Seed::Closure {
            let _ = job::claim(&descriptor.word, PROCESS, INCARNATION);
        }
        if is_in(finished) {
            let _ = job::finish(&descriptor.word, false);
        }
    }
    world.damaged(&patches, || steps.iter().for_each(|&step| supervise(&world, step)));
    read_results(&world.core);
    // Whatever was said of the jobs, no descriptor is handed out twice and the list of free ones has an end.
    let mut reservations = Vec::new();
    while let Some(reservation) = world.core.jobs.try_reserve(&world.core.control) {
        reservations.push(reservation);
        assert!(reservations.len() <= world.core.config.queue_capacity as usize, "a descriptor is free twice");
    }
    drop(reservations);
    for job in 0..world.jobs.len() {
        world.redeem(job);
    }
}

/// One step of the supervisor or a worker of an engine.
fn supervise(world: &World, step: u8) {
    let core = &world.core;
    let death = Death {
        slots: ParticipantSlots::new(PROCESS, 1),
        incarnation: u32::from(INCARNATION),
        pid: 1,
        exit: WorkerExit::Signal(9),
        killed: step & 0x80 != 0,
    };
    let index = DescriptorIndex::new(u32::from(step >> 4));
    match step % 12 {
        0 | 1 => sweep(core, &death),
        2 => completion::complete_deferred(core),
        3 => {
            while let Some(index) = queue::take(core, THREAD) {
                if let Some(descriptor) = core.control.descriptor(index)
                    && let Ok(done) = job::finish(&descriptor.word, false)
                {
                    completion::complete(core, index, done);
                }
            }
        }
        4 => {
            if let Some(reference) = world.jobs.get(index.get() as usize) {
                let _ = queue::claim_own(core, *reference, ParticipantSlot::HOST);
            }
        }
        5 => completion::fail_queued(core),
        6 => completion::start_closing_now(core),
        7 => {
            if let Some((_, bits)) = core.control.port(index.get()) {
                port::collect(bits, |index| {
                    std::hint::black_box(state_of(core, index));
                });
            }
        }
        8 => health::set_quiescent(core),
        9 => completion::complete_private(core, index),
        10 => wakeup::notify(core, u32::from(step >> 4)),
        _ => {
            // The holder lets go of a job that is done.
            if let Some(reference) = world.jobs.get(index.get() as usize) {
                let done = state_of(core, reference.index);
                if done.is(State::Done) && done.generation() == reference.generation {
                    completion::drop_detached(core, reference.index, done);
                }
            }
        }
    }
    let _ = (core.has_work(), core.queued_hint(), core.taken_hint(), health::missed_wakeups(core));
}

/// The messages of the handshake and after it: what is accepted is written again and read back.
///
/// # Panics
/// With what it found.
pub fn handshake(data: &[u8]) {
    let _ = Join::check(data);
    // What says that both sides are of one build is put right, or no chance would come behind it.
    let mut greeting = data.to_vec();
    let build = Join::to_bytes();
    if let (Some(magic), Some(build)) = (build.get(..8), build.get(8..)) {
        let at = magic.len()..magic.len() + build.len();
        if let Some(place) = greeting.get_mut(at) {
            place.copy_from_slice(build);
        }
    }
    if let Ok(hello) = Hello::from_bytes(&greeting) {
        let again = Hello::from_bytes(&hello.to_bytes()).expect("what was read can be written");
        assert_eq!(format!("{again:?}"), format!("{hello:?}"));
    }
    if let Ok(names) = KernelName::read_table(data) {
        assert_eq!(KernelName::read_table(&KernelName::table(&names)).ok(), Some(names));
    }
    if let Some(said) = FromWorker::from_bytes(data) {
        // A text may have been cut inside a character.
        let again = FromWorker::from_bytes(&said.to_bytes());
        let is_text = matches!(
            (&again, &said),
            (Some(FromWorker::Refused(_)), FromWorker::Refused(_)) | (Some(FromWorker::Ended(_)), FromWorker::Ended(_))
        );
        assert!(is_text || again.as_ref() == Some(&said), "{said:?} became {again:?}");
    }
    if let Ok(start) = Start::from_bytes(&greeting) {
        assert!(Start::is_one(&greeting));
        assert_eq!(Start::from_bytes(&start.to_bytes()).ok(), Some(start));
    }
    if let Some(said) = ToExternalWorker::from_bytes(data) {
        let again = ToExternalWorker::from_bytes(&said.to_bytes());
        let is_text = matches!((&again, &said), (Some(ToExternalWorker::Refused(_)), ToExternalWorker::Refused(_)));
        assert!(is_text || again.as_ref() == Some(&said), "{said:?} became {again:?}");
    }
    if let Some(Ok(answer)) = FileAnswer::from_bytes(data) {
        assert_eq!(FileAnswer::from_bytes(&FileAnswer::to_bytes(Ok(&answer))), Some(Ok(answer)));
    }
}

/// Bytes as a `.npy` file: its header, and the file through the engine. The first byte says whether the name does, too.
///
/// # Panics
/// With what it found.
pub fn npy(data: &[u8]) {
    let Some((&front, bytes)) = data.split_first() else { return };
    let parsed = npy::parse(bytes, bytes.len() as u64);
    if let Ok(header) = &parsed {
        let data_len = header.len.checked_mul(header.element.size_bytes()).expect("the length fits");
        let end = header.data_offset.checked_add(data_len).expect("the end fits");
        assert!(end <= bytes.len() as u64, "the data ends behind the file: {header:?}");
        assert_eq!(header.shape.iter().product::<u64>(), header.len);
        let written = npy::header(header.element, &header.shape).expect("a shape that was read can be written");
        let again = npy::parse(&written, written.len() as u64 + data_len).expect("what was written can be read");
        assert_eq!((again.element, &again.shape, again.len), (header.element, &header.shape, header.len));
        assert!(again.aligned);
    }
    let path = scratch_file(front & 1 == 1);
    if fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).is_err() {
        return;
    }
    if let Ok(info) = inspect_npy(&path) {
        let header = parsed.as_ref().expect("a file that is inspected can be parsed");
        assert_eq!((info.element, &info.shape, info.len), (header.element, &header.shape, header.len));
    }
    map_as::<f64>(&path, bytes, parsed.as_ref().ok());
    map_as::<u16>(&path, bytes, parsed.as_ref().ok());
    map_as::<i8>(&path, bytes, parsed.as_ref().ok());
}

/// A file's bytes as a batch, if they are one.
fn map_as<T: NpyElement>(path: &PathBuf, bytes: &[u8], header: Option<&npy::NpyHeader>) {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| Engine::builder().threads(1).build().expect("an engine can be built"));
    let Ok(batch) = engine.map_file::<T>(path) else { return };
    let found = bytemuck::cast_slice::<T, u8>(&batch);
    match header {
        Some(header) => {
            assert_eq!(header.element, T::TYPE);
            let offset = header.data_offset as usize;
            assert!(found == &bytes[offset..offset + found.len()] && batch.len() as u64 == header.len);
        }
        None => assert!(found == bytes, "a file without a header is its own bytes"),
    }
}

/// One file for each thread, with and without the name of a `.npy` file.
fn scratch_file(is_npy: bool) -> PathBuf {
    thread_local! {
        static FOLDER: PathBuf = {
            let name = format!("workring-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(&folder).expect("the temporary folder can be written");
            folder
        };
    }
    FOLDER.with(|folder| folder.join(if is_npy { "input.npy" } else { "input" }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    /// How long one target may take for everything: so long only where something hangs.
    const PATIENCE: Duration = Duration::from_secs(3600);

    /// Bytes of a patch, most of them small changes.
    pub(super) fn patch(when: impl Strategy<Value = u8>) -> impl Strategy<Value = Vec<u8>> {
        let value = prop_oneof![
            4 => (0u64..300).prop_map(u64::to_le_bytes),
            2 => any::<[u8; 8]>(),
            1 => (0u32..64).prop_map(|bit| (1u64 << bit).to_le_bytes()),
        ];
        (any::<u8>(), 0u8..32, any::<u8>(), when, value)
            .prop_map(|(place, record, field, when, value)| [[place, record, field, when].as_slice(), &value].concat())
    }

    /// Inputs like those of the targets over the memory of an engine: a front, then patches.
    fn patched() -> BoxedStrategy<Vec<u8>> {
        let when = prop_oneof![2 => Just(0u8), 1 => 1u8..60];
        (prop::collection::vec(any::<u8>(), 6), 1usize..=6, prop::collection::vec(patch(when), 0..6))
            .prop_map(|(front, len, patches)| [&front[..len], &patches.concat()].concat())
            .boxed()
    }

    pub(super) fn files_of(target: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Runs a target over its corpus and then over random inputs, on a thread of its own, so that one that hangs is noticed.
    pub(super) fn replay(target: &'static str, run: fn(&[u8]), random: u32, inputs: fn() -> BoxedStrategy<Vec<u8>>) {
        let (done, ended) = mpsc::channel();
        let (say, at) = mpsc::channel();
        let runner = std::thread::spawn(move || {
            let files = files_of(target);
            assert!(files.len() >= 5, "the corpus of {target} has only {} files", files.len());
            for file in files {
                let _ = say.send(file.display().to_string());
                run(&fs::read(&file).unwrap());
            }
            let _ = say.send("a random input".to_owned());
            let mut config = Config::with_cases(random);
            config.failure_persistence = None;
            let result = TestRunner::new(config).run(&inputs(), |input| {
                run(&input);
                Ok(())
            });
            let _ = done.send(());
            result.unwrap_or_else(|error| panic!("{target}: {error}"));
        });
        match ended.recv_timeout(PATIENCE) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{target} hangs at {:?}", at.try_iter().last()),
            // It ended, or panicked before it could say so.
            _ => runner.join().unwrap_or_else(|panic| {
                eprintln!("{target} failed at {:?}", at.try_iter().last());
                std::panic::resume_unwind(panic)
            }),
        }
    }

    #[test]
    fn attaching_survives_the_corpus_and_chance() {
        replay("attach", attach, 2000, patched);
    }

    #[test]
    fn descriptors_are_survived() {
        replay("descriptor", descriptor, 4000, patched);
    }

    #[test]
    fn recovery_is_survived() {
        replay("recovery", recovery, 4000, patched);
    }

    #[test]
    fn messages_are_survived() {
        replay("handshake", handshake, 4000, || prop::collection::vec(any::<u8>(), 0..200).boxed());
    }

    /// Files that look like `.npy` files, and others.
    fn files() -> BoxedStrategy<Vec<u8>> {
        let header = r"(?s-u)[01]\x93NUMPY[\x01-\x03]\x00[v-\x7f]\x00\{'descr': '[<|>][fiu][1248]', 'fortran_order': (True|False), 'shape': \([0-9]{0,3},?( [0-9]{1,20})?\), \} {0,60}\n.{0,100}";
        let like_a_file = prop::string::bytes_regex(header).unwrap();
        prop_oneof![3 => like_a_file, 1 => prop::collection::vec(any::<u8>(), 0..300)].boxed()
    }

    #[test]
    fn files_are_survived() {
        replay("npy", npy, 1000, files);
    }

    /// Nothing is found without damage, and every kind of job is run.
    #[test]
    fn undamaged_segments_are_read_in_every_role() {
        attach(&[]);
        for front in 0..2 * SEEDS.len() as u8 {
            descriptor(&[front]);
        }
        for step in 0..12 {
            recovery(&[0, 0, step]);
            recovery(&[0x7F, 0x55, step]);
        }
    }
}
