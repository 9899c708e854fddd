//! Both ends of a channel whose segment is damaged, the worker's over mappings of its own, and what their owners know of it.

use core::mem::take;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32 as PlainU32;
use std::task::{Wake, Waker};
use std::time::Duration;

use super::ground::Ground;
use crate::arena::any_batch::AnyBatch;
use crate::arena::attached::Attached;
use crate::arena::batch::{Batch, SharedBatch};
use crate::arena::shared::SharedSegment;
use crate::arena::{Arena, ArenaConfig, Backing};
use crate::channel::{For, ProcessChannel, Ticket, VALUE_WORDS_MAX};
use crate::error::Error;
use crate::fuzzing::watch;
use crate::fuzzing::world::{duplicate, region};
use crate::layout::channel::{ChannelPlan, at};
use crate::os::fork::ForkGuard;
use crate::os::host::Deadline;
use crate::os::map::Mapping;
use crate::sync::{AtomicU64, Ordering};

/// What an input led to, so that the tests of `channel.rs` can tell that inputs come behind the checks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Reached {
    Posted,
    Lent,
    Full,
    LoansUsedUp,
    Taken,
    GivenBack,
    Shortened,
    Heard,
    CameBack,
    WaitedInVain,
    TaskCalled,
    Undelivered,
    Reclaimed,
    Vanished,
    WorkerRefused,
    AttachRefused,
    /// The engine's end broke the channel off for this; whether it found it when it posted.
    Damage(&'static str, bool),
    /// Batches were lent when it did so. They came back.
    LentAtDamage,
}

/// Bytes of a value in each direction.
const VALUE_LENS: [[usize; 2]; 4] = [[16, 8], [8, 64], [0, 8], [24, 0]];

/// A batch that is at the other end, as far as this end knows.
pub(super) struct Lent {
    message: u64,
    len_bytes: usize,
    writable: bool,
}

/// A task that waits.
#[derive(Default)]
pub(super) struct Task(PlainU32);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Both ends, what they do, and what is held against it.
pub(super) struct Ends {
    pub(super) arena: Arc<Arena>,
    there: Arc<Arena>,
    fork: Arc<ForkGuard>,
    value_lens: [usize; 2],
    pub(super) engine: Arc<ProcessChannel>,
    pub(super) worker: Arc<ProcessChannel>,
    pub(super) ground: Rc<Ground>,
    /// Whether nothing is damaged at all.
    pub(super) sound: bool,
    /// How often the worker's process was ended.
    ended: Arc<PlainU32>,
    /// Messages posted so far, whose numbers their values are.
    messages: u64,
    /// By handle, which no two of them have in common.
    pub(super) lent: BTreeMap<u64, Lent>,
    /// What the worker has, with the handle that it was lent under.
    pub(super) held: VecDeque<AnyBatch>,
    pub(super) drops: usize,
    pub(super) vanished: usize,
    last_undelivered: Option<u64>,
    pub(super) worker_left: bool,
    pub(super) gone: bool,
    is_poisoned: bool,
    pub(super) tasks: Vec<(Arc<Task>, Ticket)>,
    /// Messages under way, with the handles of their batches, where nothing is damaged.
    queues: [VecDeque<(u64, Vec<u64>)>; 2],
    /// What can only be read, parts of which are lent as well, and how many of the last one were.
    pub(super) kept: Vec<SharedBatch<u8>>,
    parts: usize,
    pub(super) reached: BTreeSet<Reached>,
}

fn handles(batches: &[AnyBatch]) -> Vec<u64> {
    batches.iter().filter_map(|batch| Some(batch.reference()?.0)).collect()
}

/// The segment as the worker's process maps it.
fn segment_there(segment: &SharedSegment) -> Arc<SharedSegment> {
    let mapping = Mapping::attach(duplicate(segment.mapping()), segment.mapping().len(), true);
    Arc::new(SharedSegment::attach(mapping.expect("a segment is mapped again")).expect("its header is undamaged"))
}

impl Ends {
    /// # Panics
    /// When the machine has no memory or descriptors left.
    pub(super) fn new(shape: u8, sound: bool) -> Self {
        let backing = Backing::SharedMemory;
        let config = ArenaConfig {
            placement: Default::default(),
            capacity: 256 << 10,
            retain: 0,
            backing,
            large_pages: false,
            prefault: false,
        };
        let arena = Arena::create(&config).expect("an arena can be made");
        let len = arena.mapping().len();
        let writable = Mapping::attach(duplicate(arena.mapping()), len, true).expect("an arena is mapped again");
        let read_only = writable.second_view().expect("an arena is mapped again");
        watch::begin(vec![region(0, &writable, true), region(0, &read_only, false)]);
        let files = Arc::clone(&arena);
        let fetch = move |segment| files.file_of(segment);
        let attached = Attached::new(read_only, Box::new(fetch));
        let there = Arena::attach(writable, attached, false).expect("an undamaged arena is attached to");
        let fork = Arc::new(ForkGuard::new().expect("there is memory left"));
        let cells = 2 << (shape % 3);
        let value_lens = VALUE_LENS[usize::from(shape >> 2) % VALUE_LENS.len()];
        let engine = ProcessChannel::create(Some(&arena), &fork, cells, value_lens).expect("there is memory left");
        let segment = Arc::clone(engine.segment());
        let worker = ProcessChannel::attach(Some(&there), &fork, segment_there(&segment), value_lens);
        let worker = worker.expect("it is undamaged");
        let words = segment.words::<AtomicU64>();
        let plan =
            ChannelPlan::new(cells as u64, value_lens.map(|len| len as u64), words[at::LOANS].load(Ordering::Relaxed))
                .expect("the numbers are right");
        let ground = Ground::new(segment, plan, len as u64);
        let ended = Arc::new(PlainU32::new(0));
        let told = Arc::clone(&ended);
        engine.set_end_peer(Box::new(move || {
            told.fetch_add(1, Ordering::Relaxed);
        }));
        Self {
            arena,
            there,
            fork,
            value_lens,
            engine: Arc::new(engine),
            worker: Arc::new(worker),
            ground: Rc::new(ground),
            sound,
            ended,
            messages: 0,
            lent: BTreeMap::new(),
            held: VecDeque::new(),
            drops: 0,
            vanished: 0,
            last_undelivered: None,
            worker_left: false,
            gone: false,
            is_poisoned: false,
            tasks: Vec::new(),
            queues: Default::default(),
            kept: Vec::new(),
            parts: 0,
            reached: BTreeSet::new(),
        }
    }

    pub(super) fn reach(&mut self, what: Reached) {
        self.reached.insert(what);
    }

    /// A batch to be lent, of one kind or another.
    fn batch(&mut self, kind: u64) -> Option<AnyBatch> {
        let batch = match kind % 4 {
            0 | 1 => Batch::<u64>::allocate(&self.arena, 4 + kind as usize % 2 * 9, true).ok()?.into(),
            2 => {
                let shared = Batch::<u8>::allocate(&self.arena, 64, true).ok()?.freeze();
                self.kept.push(shared.clone());
                self.parts = 0;
                AnyBatch::from(shared)
            }
            _ => {
                self.parts += 1;
                let whole = self.kept.last().filter(|whole| self.parts < whole.len())?;
                whole.slice(self.parts..).into()
            }
        };
        let handle = batch.reference().expect("it lies in the arena").0;
        if self.lent.remove(&handle).is_some() {
            // Memory that is in use is not given out, so what lay there before was dropped.
            self.vanish(1);
        }
        Some(batch)
    }

    pub(super) fn vanish(&mut self, count: usize) {
        self.vanished += count;
        self.reach(Reached::Vanished);
    }

    /// What is wrong at the engine's end was written into the segment, is told as damage, and for ever.
    fn broke_off(&mut self, error: &Error, posting: bool) {
        let &Error::Corrupt { what, offset, .. } = error else { panic!("no error of a damaged channel: {error}") };
        assert!(!self.sound, "an undamaged channel is damaged: {error}");
        assert!(offset < self.ground.segment.mapping().len() as u64, "{error}");
        let known = self.engine.damage().expect("the channel is broken off");
        assert_eq!(known.to_string(), error.to_string());
        assert!(self.ended.load(Ordering::Relaxed) > 0, "the worker was not ended");
        if !self.is_poisoned {
            self.reach(Reached::Damage(what, posting));
            if !self.lent.is_empty() {
                self.reach(Reached::LentAtDamage);
            }
        }
        self.is_poisoned = true;
    }

    /// A step of the engine's process: it posts a message with so many batches, unless the segment says that nobody takes it.
    pub(super) fn post(&mut self, count: u64, first_kind: u64) {
        if self.engine.is_gone() {
            return;
        }
        let mut batches: Vec<AnyBatch> = (0..count).filter_map(|number| self.batch(first_kind + number)).collect();
        self.engine.check_batches(&batches).expect("they lie in the arena");
        let (before, number) = (handles(&batches), self.messages);
        let records: Vec<(u64, Lent)> = batches
            .iter()
            .map(|batch| {
                let (handle, len_bytes) = batch.reference().expect("it lies in the arena");
                let len_bytes = len_bytes as usize;
                (handle, Lent { message: number, len_bytes, writable: batch.is_writable() })
            })
            .collect();
        let had_room = self.queues[0].len() < self.engine.capacity();
        let is_posted = self.engine.try_send(&[number; VALUE_WORDS_MAX], &mut batches);
        match is_posted {
            Ok(true) => {
                assert!(batches.is_empty(), "a batch was neither posted nor handed back");
                self.messages += 1;
                self.reach(Reached::Posted);
                if !records.is_empty() {
                    self.reach(Reached::Lent);
                }
                self.lent.extend(records);
                self.queues[0].push_back((number, before));
                assert!(had_room || !self.sound, "more messages than cells");
                return;
            }
            Ok(false) => {
                self.reach(if had_room { Reached::LoansUsedUp } else { Reached::Full });
                assert!(
                    !self.sound || !had_room || self.lent.len() + before.len() > self.ground.plan.loans,
                    "there was room"
                );
            }
            Err(error) => self.broke_off(&error, true),
        }
        assert_eq!(handles(&batches), before, "the message is the caller's");
    }

    /// Batches that the engine's end gives out are those that it was given. The numbers of the messages they were in.
    fn come_back(&mut self, batches: Vec<AnyBatch>) -> Vec<u64> {
        let mut of = Vec::new();
        for batch in batches {
            let (handle, len_bytes) = batch.reference().expect("it lies in the arena");
            let entry = self.lent.remove(&handle);
            let lent = entry.unwrap_or_else(|| panic!("the batch at {handle:#x} was not lent, or comes back twice"));
            let len_bytes = len_bytes as usize;
            assert!(batch.is_writable() == lent.writable && len_bytes <= lent.len_bytes, "{batch:?}");
            if len_bytes < lent.len_bytes {
                self.reach(Reached::Shortened);
            }
            if lent.writable {
                let mut batch = batch.into_batch::<u64>().expect("it is the one that was lent");
                assert_eq!(batch.len() * 8, len_bytes);
                watch::write(&mut batch);
            } else {
                let batch = batch.into_shared::<u8>().expect("it is the one that was lent");
                assert_eq!(batch.len(), lent.len_bytes, "what can only be read was shortened");
                watch::read(&batch);
            }
            of.push(lent.message);
        }
        of
    }

    /// A step of the engine's process: it takes a message, waiting for it or not.
    pub(super) fn hear(&mut self, waits: bool) -> bool {
        let (mut value, mut batches) = ([0; VALUE_WORDS_MAX], Vec::new());
        let heard = if waits {
            let deadline = Deadline::after(Duration::from_micros(20));
            let look = || match self.engine.try_take(&mut value, &mut batches) {
                Ok(false) => None,
                heard => Some(heard),
            };
            self.engine.wait(For::Message, Some(deadline), look).unwrap_or(Ok(false))
        } else {
            self.engine.try_take(&mut value, &mut batches)
        };
        match heard {
            Ok(true) => {
                let found = handles(&batches);
                self.reach(if found.is_empty() { Reached::Heard } else { Reached::CameBack });
                let expected = self.queues[1].pop_front();
                if self.sound {
                    let number =
                        if self.value_lens[1] == 0 { expected.as_ref().map_or(0, |sent| sent.0) } else { value[0] };
                    assert_eq!(Some((number, found)), expected);
                }
                self.come_back(batches);
                true
            }
            Ok(false) => {
                assert!(!self.sound || self.queues[1].is_empty(), "a message was not found");
                if waits {
                    self.reach(Reached::WaitedInVain);
                }
                false
            }
            Err(error) => {
                assert!(batches.is_empty());
                self.broke_off(&error, false);
                false
            }
        }
    }

    /// A batch that the worker was given: it lies in its mappings, in the one that it may use.
    fn accept(&mut self, batch: AnyBatch) {
        let touch = |bytes: &[u8], writable: bool| {
            let span = watch::span(bytes);
            let (inputs, outputs) = if writable { (vec![], vec![span]) } else { (vec![span], vec![]) };
            if watch::enter(&inputs, &outputs, None).is_ok_and(|may_touch| may_touch) {
                let ends = bytes.iter().take(64).chain(bytes.iter().rev().take(64));
                std::hint::black_box(ends.fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
            }
        };
        let batch = match batch.into_batch::<u64>() {
            Ok(batch) => {
                touch(bytemuck::cast_slice(&batch), true);
                batch.into()
            }
            Err(batch) => match batch.into_shared::<u8>() {
                Ok(batch) => {
                    touch(&batch, false);
                    batch.into()
                }
                // Of a type that nobody here has: it can be dropped, or posted back.
                Err(batch) => batch,
            },
        };
        self.held.push_back(batch);
    }

    pub(super) fn take(&mut self) {
        let (mut value, mut batches) = ([0; VALUE_WORDS_MAX], Vec::new());
        match self.worker.try_take(&mut value, &mut batches) {
            Ok(true) => {
                self.reach(Reached::Taken);
                let expected = self.queues[0].pop_front();
                if self.sound {
                    let (number, lent) = expected.expect("a message was posted");
                    assert!(self.value_lens[0] == 0 || value[0] == number, "{number} became {}", value[0]);
                    let found: Vec<u64> =
                        batches.iter().filter_map(|batch| Some(batch.loan()?.terms().handle)).collect();
                    assert_eq!(found, lent);
                }
                batches.into_iter().for_each(|batch| self.accept(batch));
            }
            Ok(false) => assert!(!self.sound || self.queues[0].is_empty(), "a message was not found"),
            Err(error) => self.refused(&error),
        }
    }

    pub(super) fn refused(&mut self, error: &Error) {
        let is_typed = matches!(error, Error::Corrupt { .. } | Error::InvalidArgument { .. });
        assert!(!self.sound && is_typed, "{error}");
        self.reach(Reached::WorkerRefused);
    }

    /// The worker posts so many of the batches that it has, the first of them made shorter or not.
    pub(super) fn give_back(&mut self, count: usize, shortens: bool) {
        let mut batches: Vec<AnyBatch> = self.held.drain(..count.min(self.held.len())).collect();
        if shortens && let Some(first) = batches.first_mut() {
            first.truncate(2);
        }
        // One that was accepted twice may not go back twice; nor may one that is of no length and begins nowhere.
        if let Err(error) = self.worker.check_batches(&batches) {
            self.refused(&error);
            self.drop_held(batches);
            return;
        }
        let lent: Vec<u64> = batches.iter().filter_map(|batch| Some(batch.loan()?.terms().handle)).collect();
        let had_room = self.queues[1].len() < self.worker.capacity();
        match self.worker.try_send(&[self.messages; VALUE_WORDS_MAX], &mut batches) {
            Ok(true) => {
                assert!(batches.is_empty() && (had_room || !self.sound));
                self.reach(Reached::GivenBack);
                self.queues[1].push_back((self.messages, lent));
                self.messages += 1;
                if self.sound {
                    self.tasks_are_called();
                }
            }
            Ok(false) => {
                assert!(!had_room || !self.sound, "there was room");
                batches.into_iter().rev().for_each(|batch| self.held.push_front(batch));
            }
            Err(error) => {
                self.refused(&error);
                self.drop_held(batches);
            }
        }
    }

    pub(super) fn drop_held(&mut self, batches: Vec<AnyBatch>) {
        self.drops += batches.len();
        drop(batches);
    }

    /// Every task that waits is called, and has nothing more to take back.
    pub(super) fn tasks_are_called(&mut self) {
        for (task, ticket) in take(&mut self.tasks) {
            while task.0.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            assert!(!self.engine.drop_waker(&ticket), "a task that was called still waits");
            self.reach(Reached::TaskCalled);
        }
    }

    pub(super) fn keep_task(&mut self) {
        let task = Arc::new(Task::default());
        let ticket = self.engine.keep_waker(For::Message, &Waker::from(Arc::clone(&task)));
        self.tasks.push((task, ticket));
    }

    pub(super) fn undelivered(&mut self) -> bool {
        let (mut value, mut batches) = ([0; VALUE_WORDS_MAX], Vec::new());
        if !self.engine.try_take_back(&mut value, &mut batches) {
            assert!(!self.sound || self.queues[0].is_empty(), "a message did not come back");
            return false;
        }
        self.reach(Reached::Undelivered);
        let found = handles(&batches);
        let of: BTreeSet<u64> = self.come_back(batches).into_iter().collect();
        // A message has its own batches or, where the worker has dropped them, less.
        assert!(of.len() <= 1, "the batches of several messages came back with one");
        if let Some(number) = of.first() {
            assert!(self.last_undelivered < Some(*number), "the batches of one message came back with several");
            self.last_undelivered = Some(*number);
        }
        let expected = self.queues[0].pop_front();
        if self.sound {
            let (number, lent) = expected.expect("a message was posted");
            assert!(self.value_lens[0] == 0 || value[0] == number, "{number} became {}", value[0]);
            assert_eq!(found, lent);
        }
        true
    }

    pub(super) fn reclaim(&mut self) {
        let batches = self.engine.reclaim();
        assert!(self.gone || batches.is_empty(), "batches of a worker that lives");
        if !batches.is_empty() {
            self.reach(Reached::Reclaimed);
        }
        self.come_back(batches);
    }

    /// Another worker process attaches, and if there is damage takes a message.
    pub(super) fn attach(&mut self) {
        let segment = segment_there(&self.ground.segment);
        match ProcessChannel::attach(Some(&self.there), &self.fork, segment, self.value_lens) {
            Ok(_) if self.sound => {}
            Ok(worker) => {
                let (mut value, mut batches) = ([0; VALUE_WORDS_MAX], Vec::new());
                if let Err(error) = Arc::new(worker).try_take(&mut value, &mut batches) {
                    self.refused(&error);
                }
                self.drop_held(batches);
            }
            Err(error) => {
                assert!(!self.sound && matches!(error, Error::Corrupt { .. }), "{error}");
                self.reach(Reached::AttachRefused);
            }
        }
    }
}
