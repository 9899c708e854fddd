//! An engine with a job of every kind in its queue and no worker: what a fuzz target damages before somebody reads it.

use crate::engine::exec::distributed_rows;
use crate::engine::job::closure_slot;
use crate::engine::schedule::queue;
use core::num::NonZero;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use super::patch::{Ground, Patch, PublishedJob};
use super::watch::{self, Region};
use crate::arena::attached::Attached;
use crate::arena::{Access, Arena, ArenaConfig, Backing, FileSegment};
use crate::engine::exec::execute::row_block_len;
use crate::engine::job::JobReference;
use crate::engine::job::call::{self, Param, References};
use crate::engine::kernel::Kernel;
use crate::engine::kernel::KernelInfo;
use crate::engine::options::{
    Backpressure, EngineConfig, IdleStrategy, Priority, RecyclePolicy, ThreadOptions, Timing, WaitPolicy,
};
use crate::engine::runtime::Core;
use crate::engine::runtime::WorkerRole;
use crate::error::Result;
use crate::ids::{DescriptorIndex, ParticipantSlot, ParticipantSlots};
use crate::layout::geometry::Geometry;
use crate::layout::records::{fan_out_mode, kind};
use crate::layout::view::Control;
use crate::layout::words::{
    DescriptorWord, FLAG_DETACHED, FLAG_OUTCOME, FLAG_PORT, FLAG_WAITER, FLAG_WAKER, RangeWord, State,
};
use crate::lockfree::job;
use crate::os::claim::{Claim, Use};
use crate::os::map::Mapping;
use crate::sync::Ordering;
use crate::sync::watched;
use std::time::Duration;

/// Without batches and parameter.
#[crate::kernel]
fn bare() -> Result<(), &'static str> {
    watch::enter(&[], &[], None).map(drop)
}

/// With a parameter that travels in the descriptor.
#[crate::kernel]
fn line(x: &[f64], y: &mut [f64], p: &[u64; 2]) -> Result<(), &'static str> {
    if watch::enter(&[watch::span(x)], &[watch::span(y)], Some(watch::span(p)))? {
        watch::read(x);
        watch::read(p);
        watch::write(y);
    }
    Ok(())
}

/// With as many batches as there can be, and a parameter that lies in the arena.
#[crate::kernel]
fn wide(
    a: &[u8],
    b: &[u16],
    c: &[u32],
    d: &[u64],
    e: &[i32],
    f: &[i64],
    g: &[f32],
    h: &[f64],
    w: &mut [u8],
    x: &mut [u16],
    y: &mut [u32],
    z: &mut [[u64; 2]],
    p: &[u64; 8],
) -> Result<(), &'static str> {
    let inputs = [
        watch::span(a),
        watch::span(b),
        watch::span(c),
        watch::span(d),
        watch::span(e),
        watch::span(f),
        watch::span(g),
        watch::span(h),
    ];
    let outputs = [watch::span(w), watch::span(x), watch::span(y), watch::span(z)];
    if watch::enter(&inputs, &outputs, Some(watch::span(p)))? {
        watch::read(a);
        watch::read(b);
        watch::read(c);
        watch::read(d);
        watch::read(e);
        watch::read(f);
        watch::read(g);
        watch::read(h);
        watch::read(p);
        watch::write(w);
        watch::write(x);
        watch::write(y);
        watch::write(z);
    }
    Ok(())
}

/// Rows of the worker that reads, in the thread's and the process's place.
pub(super) const THREAD: ParticipantSlot = ParticipantSlot::new(1);
pub(super) const PROCESS: ParticipantSlot = ParticipantSlot::new(2);
/// The life of the process.
pub(super) const INCARNATION: u16 = 1;
/// Elements of the usual batch.
const LEN: u64 = 64;
/// Rows of the jobs of rows.
const ROWS: u64 = 8;
/// Handle of the mapped file.
const FILE: u64 = 1 << 48;
/// Its length in bytes.
const FILE_LEN: usize = 8192;

const CONFIG: EngineConfig = EngineConfig {
    threads: 1,
    processes: 2,
    jobs_per_process: 1,
    external_workers: 0,
    queue_capacity: 64,
    backpressure: Backpressure::Reject,
    idle: IdleStrategy::Park,
    help: WaitPolicy::AnyJob,
    timing: Timing::All,
    ageing: 3,
    cores: 2,
    recycle: RecyclePolicy { jobs: 0, bytes: 0 },
    own: ThreadOptions { pin: false, nice: None, least: None, idle_timeout: Duration::ZERO },
};

/// The kinds of job that are published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seed {
    Wide,
    /// Reads the mapped file.
    OverFile,
    Bare,
    PartitionOfMap,
    PartitionOfRows,
    Rows,
    Detached,
    /// On a thread of the engine only.
    Closure,
    /// The first partition of a job of rows that was spread over all workers.
    DistributedRows,
}

pub(super) const SEEDS: [Seed; 9] = [
    Seed::Wide,
    Seed::OverFile,
    Seed::Bare,
    Seed::PartitionOfMap,
    Seed::PartitionOfRows,
    Seed::Rows,
    Seed::Detached,
    Seed::Closure,
    Seed::DistributedRows,
];

pub(super) struct World {
    pub(super) core: Core,
    pub(super) ground: Rc<Ground>,
    pub(super) jobs: Vec<JobReference>,
    ticket: Option<(usize, closure_slot::Ticket<u64>)>,
    file: FileSegment,
}

/// A file that can only be read, without a name.
fn file() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("workring-fuzz-{}", std::process::id()));
        std::fs::write(&path, [7; FILE_LEN]).expect("the temporary folder can be written");
        let file = File::open(&path).expect("the file was just made");
        let _ = std::fs::remove_file(&path);
        file
    })
}

/// A descriptor of its own of a mapping's memory.
pub(super) fn duplicate(mapping: &Mapping) -> OwnedFd {
    let fd = mapping.fd().expect("shared memory has a descriptor");
    fd.try_clone_to_owned().expect("there are descriptors left")
}

/// What kernels may see of a mapping.
pub(super) fn region(memory: u32, mapping: &Mapping, writable: bool) -> Region {
    Region { memory, start: mapping.base().as_ptr().addr(), len: mapping.len(), writable }
}

impl World {
    /// An engine in whose queue lie jobs of these kinds, in the first descriptors.
    ///
    /// # Panics
    /// When the machine has no memory or descriptors left.
    pub(super) fn new(seeds: &[Seed]) -> Self {
        let config = ArenaConfig {
            placement: Default::default(),
            capacity: 64 << 10,
            retain: 0,
            backing: Backing::SharedMemory,
            large_pages: false,
            prefault: false,
        };
        let arena = Arena::create(&config).expect("an arena can be made");
        let claim = Claim::to(file(), Use::Frozen).expect("nobody writes it");
        let mapped = Mapping::file_read_only(file(), "a nameless file".as_ref()).expect("a file can be mapped");
        let file = FileSegment::new(&arena, mapped, claim).expect("a segment is free");
        let core = Core::new(CONFIG, Arc::clone(&arena)).expect("an engine can be made");
        core.set_supervisor_notifier(Box::new(|_| ()));
        let geometry =
            Geometry::plan(CONFIG.queue_capacity, CONFIG.workers() as u32 + 1).expect("the limits are right");
        let arena_len = arena.mapping().len() as u64;
        let mut world = Self {
            jobs: Vec::new(),
            ticket: None,
            file,
            ground: Rc::new(Ground {
                control: duplicate(core.control.mapping()).into(),
                arena: duplicate(arena.mapping()).into(),
                geometry,
                arena_len,
                jobs: Vec::new(),
                handles: vec![FILE, FILE + FILE_LEN as u64, arena_len, arena_len - (16 << 10), 2 << 48, u64::MAX],
                numbers: vec![0, 1, 32, 64, LEN, LEN * 8, ROWS, u64::MAX, u32::MAX.into(), 1 << 31, 1 << 63, arena_len],
                states: Vec::new(),
            }),
            core,
        };
        for &seed in seeds {
            let (job, handles) = world.publish(seed);
            let ground = world.ground_mut();
            ground.handles.extend(handles);
            ground.handles.push(job.block);
            ground.jobs.push(job);
        }
        // Words of descriptors: each state, held by the worker, and with each flag when it is done.
        let word = |state: State| DescriptorWord::from_bits(1 << 40).with_state(state).with_owner(PROCESS, INCARNATION);
        let states = [State::Free, State::Reserved, State::Queued, State::Running, State::Done].map(word);
        let flags = [FLAG_DETACHED, FLAG_WAITER, FLAG_PORT, FLAG_WAKER, FLAG_OUTCOME];
        let done = flags.map(|flag| word(State::Done).with_flag(flag));
        world.ground_mut().states = states.into_iter().chain(done).map(DescriptorWord::bits).collect();
        world
    }

    fn ground_mut(&mut self) -> &mut Ground {
        Rc::get_mut(&mut self.ground).expect("nobody damages it yet")
    }

    /// A block of the arena.
    fn block(&self, len: u64) -> u64 {
        self.core.arena.allocate(len).expect("the arena is large enough").block.offset
    }

    /// Publishes one job. Gives the handles in it as well.
    fn publish(&mut self, seed: Seed) -> (PublishedJob, Vec<u64>) {
        let core = &self.core;
        let batch = |len: u64| (self.block(len), len);
        let two_words = Param::inline(&[3u64, 4]);
        let doubles = || batch(LEN * 8);
        let mut block = 0;
        let reservation = core.jobs.try_reserve(&core.control).expect("the table has room");
        let fill = |kind, info: &'static KernelInfo, batches: &[(u64, u64)], param: &Param| {
            let id = core.kernel_id(info).expect("few kernels are known");
            let (inputs, outputs) = batches.split_at(info.inputs().len());
            reservation.set_call(kind, id, &References::of(inputs, outputs), param);
            batches.iter().map(|&(handle, _)| handle).collect::<Vec<u64>>()
        };
        let mut handles = match seed {
            Seed::Wide => {
                let sizes = [1, 2, 4, 8, 4, 8, 4, 8, 1, 2, 4, 16];
                let param = Param::Block { handle: self.block(64), len: 64 };
                fill(kind::CALL, wide.info(), &sizes.map(|size| batch(size * LEN)), &param)
            }
            Seed::OverFile => fill(kind::CALL, line.info(), &[(FILE | 64, LEN * 8), doubles()], &two_words),
            Seed::Bare | Seed::Detached => {
                fill(kind::CALL, bare.info(), &[], &Param::Inline(call::ParamBytes::zeroed(), 0))
            }
            Seed::PartitionOfMap => {
                block = self.fan_out(LEN, 8, 3, None);
                fill(kind::PARTITION, line.info(), &[doubles(), doubles()], &two_words)
            }
            Seed::PartitionOfRows => {
                block = self.fan_out(ROWS, 2, 0, Some(self.rows()));
                fill(kind::PARTITION, line.info(), &[doubles(), doubles()], &two_words)
            }
            Seed::Rows | Seed::DistributedRows => {
                let (params, statuses) = self.rows();
                fill(kind::ROWS, line.info(), &[doubles(), doubles()], &Param::Rows { params, statuses, len: 16 })
            }
            Seed::Closure => {
                reservation.set_closure();
                let closure = || watch::enter(&[], &[], None).map_or(0, u64::from);
                self.ticket = Some((self.jobs.len(), closure_slot::keep(reservation.slot().closure(), closure)));
                Vec::new()
            }
        };
        let batches = handles.len() as u64;
        handles.push(reservation.descriptor.param.load(Ordering::Relaxed));
        let fan_out = if matches!(seed, Seed::Rows | Seed::DistributedRows) { ROWS } else { block };
        reservation.set_part(fan_out, 0, 1);
        let priority = if seed == Seed::Bare { Priority::High } else { Priority::Normal };
        let reference = if seed == Seed::DistributedRows {
            distributed_rows::publish_rows(core, reservation, ROWS as usize, priority)
        } else {
            queue::publish(core, reservation, priority)
        };
        let mut reference = reference.expect("the ring has room");
        if seed == Seed::DistributedRows {
            // The descriptors of the partitions follow that of the parent.
            reference.index = DescriptorIndex::new(reference.index.get() + 1);
            let partition = core.control.descriptor(reference.index).expect("the table has room");
            reference.generation = job::snapshot(&partition.word).generation();
            block = partition.fan_out.load(Ordering::Relaxed);
            assert!(call::kind_of(partition) == kind::PARTITION && block != 0, "the rows were spread");
        }
        if seed == Seed::Detached
            && let (Some(slot), Some(descriptor)) =
                (core.jobs.slot(reference.index), core.control.descriptor(reference.index))
        {
            slot.hold(Box::new([0u8; 64]));
            let _ = job::set_flag(&descriptor.word, FLAG_DETACHED);
        }
        self.jobs.push(reference);
        (PublishedJob { index: reference.index.get(), batches, block }, handles)
    }

    /// Handles of the parameters and of the statuses of rows.
    fn rows(&self) -> (u64, u64) {
        let statuses = row_block_len(ROWS as usize).expect("few rows") as u64;
        (self.block(ROWS * 16), self.block(statuses))
    }

    /// A fan-out block of two partitions.
    fn fan_out(&self, len: u64, chunk_len: u64, halo: u32, rows: Option<(u64, u64)>) -> u64 {
        let handle = self.block(64 * 3);
        let (header, ranges) = self.core.arena.fan_out(handle, 2).expect("the block was just made");
        let chunks = len.div_ceil(chunk_len) as u32;
        header.chunks.store(chunks, Ordering::Relaxed);
        header.partitions.store(2, Ordering::Relaxed);
        header.chunk_len.store(chunk_len, Ordering::Relaxed);
        header.total_len.store(len, Ordering::Relaxed);
        header.halo.store(halo, Ordering::Relaxed);
        header.mode.store(fan_out_mode::chunks(0), Ordering::Relaxed);
        if let Some((params, statuses)) = rows {
            header.mode.store(fan_out_mode::ROWS, Ordering::Relaxed);
            header.param_rows.store(params, Ordering::Relaxed);
            header.row_status.store(statuses, Ordering::Relaxed);
        }
        for (partition, own) in (0..).zip(ranges) {
            let half = RangeWord::new(chunks * partition / 2, chunks * (partition + 1) / 2);
            own.range.store(half.bits(), Ordering::Relaxed);
        }
        handle
    }

    /// The engine as a worker process sees it that maps so many bytes of the segments.
    ///
    /// # Errors
    /// Those of attaching.
    pub(super) fn attach(&self, control_len: usize, arena_len: usize) -> Result<(Core, Vec<Region>)> {
        let control_memory = Mapping::attach(duplicate(self.core.control.mapping()), control_len, true)?;
        let control = Control::over(control_memory, CONFIG.queue_capacity, CONFIG.rows() as u32 + 1)?;
        let writable = Mapping::attach(duplicate(self.core.arena.mapping()), arena_len, true)?;
        let read_only = writable.second_view()?;
        let mut regions = vec![region(0, &writable, true), region(0, &read_only, false)];
        let origin = Arc::clone(&self.core.arena);
        let fetch = move |segment| origin.file_of(segment);
        let arena = Arena::attach(writable, Attached::new(read_only, Box::new(fetch)), false)?;
        if let Ok(start) = arena.resolve_for(FILE, 0, Access::Read) {
            regions.push(Region { memory: 1, start: start.as_ptr().addr(), len: FILE_LEN, writable: false });
        }
        let infos = [bare.info(), line.info(), wide.info()];
        let mut kernels = vec![None; 16];
        for info in infos {
            if let Some(place) = kernels.get_mut(info.id()? as usize) {
                *place = Some(info);
            }
        }
        let role = WorkerRole::new(ParticipantSlots::new(PROCESS, 1), INCARNATION, kernels);
        let core = Core::attached(CONFIG, control, arena, role);
        core.set_supervisor_notifier(Box::new(|_| ()));
        Ok((core, regions))
    }

    /// The mappings that kernels may see on a thread of the engine.
    pub(super) fn regions(&self) -> Vec<Region> {
        let (start, len) = self.file.bytes();
        let file = Region { memory: 1, start: start.as_ptr().addr(), len, writable: false };
        vec![region(0, self.core.arena.mapping(), true), file]
    }

    /// Makes the patches that come first, and runs `body` with the others made before so many loads each.
    pub(super) fn damaged<R>(&self, patches: &[Patch], body: impl FnOnce() -> R) -> R {
        let mut late: Vec<(NonZero<u8>, Patch)> = Vec::new();
        for patch in patches {
            match NonZero::new(patch.when) {
                None => self.ground.apply(patch),
                Some(when) => late.push((when, *patch)),
            }
        }
        if late.is_empty() {
            return body();
        }
        let ground = Rc::clone(&self.ground);
        let mut loads = 0u8;
        let hook = move || {
            loads = loads.saturating_add(1);
            if loads < u8::MAX {
                late.iter().filter(|(when, _)| when.get() == loads).for_each(|(_, patch)| ground.apply(patch));
            }
        };
        watched::with_hook(Box::new(hook), body)
    }

    /// What the holder of the closure does when its job is done.
    pub(super) fn redeem(&mut self, job: usize) {
        if let Some((_, ticket)) = self.ticket.take_if(|(of, _)| *of == job)
            && let Some(slot) = self.core.jobs.slot(self.jobs[job].index)
        {
            let _ = ticket.redeem(slot.closure());
        }
    }
}

/// The length of a mapping as an input wants it: mostly the right one.
pub(super) fn length(len: usize, wish: u8) -> usize {
    let page = 4096;
    match wish {
        0..200 => len,
        200..220 => len.saturating_sub(usize::from(wish - 199) * page),
        220..240 => len + usize::from(wish - 219) * 8,
        _ => usize::from(wish - 240) * 1024,
    }
}
