//! What a claimed job turns into: a kernel call, a partition of a fan-out, a fan-out of rows, or a closure.

use crate::engine::exec::fan_out::{FanOutEnd, MAX_PARTITIONS, ParallelCall};
use crate::engine::exec::outcome::write_outcome;
use crate::engine::exec::runner::{ChunkRunner, RowRunner, mark_row, run_call};
use crate::engine::job::JobReference;
use crate::engine::job::LocalSlot;
use crate::engine::job::RunError;
use crate::engine::job::call::{self, Fields, KernelCall};
use crate::engine::job::failure_text;
use crate::engine::job::meta::{self, deadline_of};
use crate::engine::job::partitions;
use crate::engine::job::{ChunkEnd, RowHandles, finished_chunks, run_partition, single_partition, stop};
use crate::engine::job::{Plan, rows_plan};
use crate::engine::kernel::{JobProbe, StopSignals};
use crate::engine::kernel::{KernelInfo, RawSlice};
use crate::engine::options::Priority;
use crate::engine::runtime::Core;
use crate::engine::runtime::nesting;
use crate::engine::schedule::{completion, health, progress};
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::records::{
    Descriptor, FailureText, FanOutHeader, INLINE_BATCHES, MAX_BATCHES, MAX_OUTPUTS, RangeLine, fan_out_mode, kind,
    status,
};
use crate::layout::words::JobShape;
use crate::lockfree::job::{self, BadState};
use crate::lockfree::progress::Reported;
use crate::os::host::Deadline;
use crate::sync::Ordering;

/// Rows whose failure texts are kept; of further ones only the kind is.
pub(crate) const ROW_TEXTS: usize = 32;
/// Status byte of a row that returned an error.
pub(crate) const ROW_FAILED: u8 = 1;
/// Status byte of a row that panicked.
pub(crate) const ROW_PANICKED: u8 = 2;

/// How a job succeeded.
enum Ran {
    Plain,
    /// Its kernel said how long its outputs are.
    Shortened,
}

/// A job that the calling thread has claimed and runs.
#[derive(Clone, Copy)]
struct ClaimedJob<'a> {
    core: &'a Core,
    /// The row it was claimed for.
    worker: ParticipantSlot,
    index: DescriptorIndex,
    descriptor: &'a Descriptor,
    deadline: Option<Deadline>,
}

impl<'a> ClaimedJob<'a> {
    /// What tells its kernel to stop.
    #[inline]
    fn signals(&self) -> StopSignals<'a> {
        StopSignals { word: Some(&self.descriptor.word), fan_out: None, deadline: self.deadline }
    }

    /// The kernel of a number in its fields.
    #[inline]
    fn kernel(&self, id: u32) -> Result<&'static KernelInfo, RunError> {
        // No submitter names any other.
        self.core.kernel(id).ok_or(RunError::Corrupt)
    }

    /// The call of its fields, whose batches were found in memory.
    fn resolve(&self, fields: &Fields) -> Result<KernelCall, RunError> {
        let mut call = fields.unresolved(self.kernel(fields.kernel)?);
        fields.resolve(&mut call, &self.core.arena).map_err(unresolved)?;
        Ok(call)
    }

    fn partition_call(&self, call: &'a KernelCall, plan: Plan, watch: RowWatch) -> PartitionCall<'a> {
        let (core, worker, signals) = (self.core, u32::from(self.worker.get()), self.signals());
        PartitionCall { core, call, plan, worker, signals, watch }
    }
}

impl JobProbe for ClaimedJob<'_> {
    fn report_progress(&self, reported: Reported) {
        progress::report_progress(self.core, self.index, reported);
    }

    fn tag(&self) -> u64 {
        meta::tag_of(&self.core.control, self.index)
    }
}

/// Runs a claimed job and finishes it.
pub(crate) fn execute(core: &Core, who: ParticipantSlot, index: DescriptorIndex) {
    let Some(descriptor) = core.control.descriptor(index) else { return };
    let started = meta::start(&core.control, who, index, descriptor);
    let deadline = deadline_of(descriptor);
    let result = if deadline.is_some_and(|deadline| deadline.is_past()) {
        Err(RunError::Deadline)
    } else {
        let job = JobReference { index, generation: job::snapshot(&descriptor.word).generation() };
        nesting::run(core, Some(job), || run(&ClaimedJob { core, worker: who, index, descriptor, deadline }))
    };
    let result = match result {
        Ok(_) | Err(RunError::Cancelled) if deadline.is_some_and(|deadline| deadline.is_past()) => {
            Err(RunError::Deadline)
        }
        result => result,
    };
    let has_outcome = match result {
        Ok(Ran::Plain) => false,
        Ok(Ran::Shortened) => {
            // Relaxed: published by the finish (R3).
            descriptor.status.store(status::SHORTENED, Ordering::Relaxed);
            true
        }
        Err(run_error) => {
            write_outcome(core, index, descriptor, &run_error);
            true
        }
    };
    if let Some(participant) = core.control.participant(who) {
        // Relaxed: a counter for people. Row 0 is shared by helping threads, whose counts may be lost.
        let finished = participant.finished.load(Ordering::Relaxed);
        participant.finished.store(finished.wrapping_add(1), Ordering::Relaxed);
    }
    if core.check_process().is_err() {
        // A kernel forked, and this is the child: the job is its parent's to finish.
        end_forked_worker(who);
        return;
    }
    if let Some(started) = started {
        started.end(&core.control, who);
    }
    fault::point(Point::F22_status_written);
    match job::finish(&descriptor.word, has_outcome) {
        Ok(done) => {
            fault::point(Point::F23_done);
            completion::left(core, who, index);
            completion::complete(core, index, done);
        }
        Err(BadState(word)) => {
            // Nobody but the claimer ends a running job.
            completion::left(core, who, index);
            health::found_corrupt(core, index, word);
        }
    }
}

/// Ends the child of a worker, thread or process, whose kernel forked and came back: it would be a second worker under the same
/// name. The child of a thread that only helps is the user's, and is told by its next call.
#[cold]
fn end_forked_worker(who: ParticipantSlot) {
    if who != ParticipantSlot::HOST {
        #[cfg(target_os = "linux")]
        crate::os::process::end_at_once();
        #[cfg(not(target_os = "linux"))]
        std::process::abort();
    }
}

fn run(job: &ClaimedJob<'_>) -> Result<Ran, RunError> {
    let ClaimedJob { core, index, descriptor, .. } = *job;
    let shape = call::shape_of(descriptor);
    if shape.kind() == kind::CLOSURE {
        // A closure has no fields but its kind.
        let closure = core.jobs.slot(index).map(LocalSlot::closure);
        return match closure.and_then(|closure| Some((closure, closure.run()?))) {
            // As of a kernel, its result is that of a job that was stopped.
            Some((closure, Ok(()))) if closure.saw_stop() => Err(RunError::Cancelled),
            Some((_, result)) => result.map(|()| Ran::Plain).map_err(RunError::Panicked),
            // Nobody left a closure: the kind was scribbled on, and success would say that a kernel was run.
            None => Err(RunError::Corrupt),
        };
    }
    if shape.kind() == kind::CALL {
        let (inputs, outputs) = shape.sides();
        return if inputs + outputs <= INLINE_BATCHES {
            call_job::<INLINE_BATCHES>(job, shape)
        } else {
            call_job::<MAX_BATCHES>(job, shape)
        };
    }
    let fields = Fields::read(&core.control, index, descriptor, shape).map_err(unresolved)?;
    match fields.kind {
        kind::PARTITION => partition_job(job, &fields).map(|()| Ran::Plain),
        kind::ROWS => rows_job(job, &fields).map(|()| Ran::Plain),
        _ => Err(RunError::Corrupt),
    }
}

/// A job of one call on whole batches, `N` at most.
// What it needs is filled in place: small jobs are run millions of times a second.
#[inline]
fn call_job<const N: usize>(job: &ClaimedJob<'_>, shape: JobShape) -> Result<Ran, RunError> {
    let ClaimedJob { core, index, descriptor, .. } = *job;
    let (fields, check) = Fields::<N>::read_unchecked(&core.control, index, descriptor, shape);
    if let Err(error) = check.confirm() {
        return Err(unresolved(error));
    }
    let mut call = fields.unresolved(job.kernel(fields.kernel)?);
    if let Err(error) = fields.resolve(&mut call, &core.arena) {
        return Err(unresolved(error));
    }
    let mut lens = [usize::MAX; MAX_OUTPUTS];
    run_call(job, &call, job.worker, job.signals(), &core.arena, &mut lens)?;
    if lens == [usize::MAX; MAX_OUTPUTS] {
        return Ok(Ran::Plain);
    }
    call::write_output_lens(&core.control, index, lens);
    Ok(Ran::Shortened)
}

/// Why a call cannot be resolved: its descriptor is damaged, or this process cannot map a file that the call names, because it was
/// cut short meanwhile or the system refuses.
#[cold]
fn unresolved(error: Error) -> RunError {
    match error {
        Error::Corrupt { .. } => RunError::Corrupt,
        Error::Io { operation, source } => RunError::Failed(format!("its worker could not {operation}: {source}")),
        other => RunError::Failed(format!("its worker could not map a file: {other}")),
    }
}

/// What one partition of a fan-out runs: chunks of a kernel, or rows of it.
pub(crate) struct PartitionCall<'a> {
    pub(crate) core: &'a Core,
    pub(crate) call: &'a KernelCall,
    pub(crate) plan: Plan,
    pub(crate) worker: u32,
    pub(crate) signals: StopSignals<'a>,
    pub(crate) watch: RowWatch,
}

/// How the watchers of a job of rows hear of finished rows.
#[derive(Clone, Copy)]
pub(crate) enum RowWatch {
    /// Nobody can watch.
    Nobody,
    /// They count in the ranges, and are called.
    Ranges(DescriptorIndex),
    /// This participant runs all rows and says how many are done.
    SinglePartition(DescriptorIndex),
}

/// How often a participant that runs all rows of a job says at least how many are done.
const ROW_REPORTS: u32 = 64;

impl<'a> PartitionCall<'a> {
    /// Runs chunks until none is left; the trouble of the chunk that failed, if one did.
    pub(crate) fn run(&self, header: &'a FanOutHeader, ranges: &[RangeLine], partition: u32) -> Result<(), RunError> {
        let signals = StopSignals { fan_out: Some(&header.stop), ..self.signals };
        if header.mode.load(Ordering::Relaxed) & 0xFF != fan_out_mode::CHUNKS {
            return self.run_rows(header, ranges, partition, signals);
        }
        let mut runner = ChunkRunner::new(self.call, self.plan, self.worker, signals, &self.core.arena)
            .map_err(|_| RunError::Corrupt)?;
        let mut run_error = None;
        run_partition(header, ranges, partition, self.plan.chunks, |chunk| {
            if let Some(reason) = self.stop_reason() {
                return ChunkEnd::Stop(reason);
            }
            let result = runner.run(chunk, &self.core.arena);
            if self.core.check_process().is_err() {
                // As in `execute`: the chunks are the parent's to count.
                end_forked_worker(ParticipantSlot::new(self.worker as u16));
            }
            match result {
                // The kernel may have returned early, so the chunk does not count; it may have been the last one.
                Ok(()) if runner.saw_stop() => ChunkEnd::Stop(self.stop_reason().unwrap_or(stop::CANCELLED)),
                Ok(()) => ChunkEnd::Done,
                Err(error) => {
                    run_error = Some(error);
                    ChunkEnd::Stop(stop::FAILED)
                }
            }
        });
        run_error.map_or(Ok(()), Err)
    }

    fn stop_reason(&self) -> Option<u32> {
        if self.signals.word.is_some_and(job::is_cancel_requested) {
            Some(stop::CANCELLED)
        } else if self.signals.deadline.is_some_and(|deadline| deadline.is_past()) {
            Some(stop::DEADLINE)
        } else {
            None
        }
    }

    fn run_rows(
        &self,
        header: &FanOutHeader,
        ranges: &[RangeLine],
        partition: u32,
        signals: StopSignals<'_>,
    ) -> Result<(), RunError> {
        let rows = RowBlock::of(self.core, self.call, header, &self.plan).map_err(|_| RunError::Corrupt)?;
        let mut runner =
            RowRunner::new(self.call, self.plan.total_len, rows.params, self.worker, signals, &self.core.arena)
                .map_err(|_| RunError::Corrupt)?;
        run_partition(header, ranges, partition, self.plan.chunks, |chunk| {
            // The one before has been counted.
            self.tell_of_counted_rows();
            if let Some(reason) = self.stop_reason() {
                return ChunkEnd::Stop(reason);
            }
            runner.run(self.plan.range(chunk), |row, run_error| rows.record(self.core, header, row, &run_error));
            // As in `run`.
            if runner.saw_stop() {
                return ChunkEnd::Stop(self.stop_reason().unwrap_or(stop::CANCELLED));
            }
            self.say_rows(chunk);
            ChunkEnd::Done
        });
        self.tell_of_counted_rows();
        Ok(())
    }
}

impl PartitionCall<'_> {
    /// Calls the watchers that count finished rows in the ranges.
    fn tell_of_counted_rows(&self) {
        if let RowWatch::Ranges(job) = self.watch {
            progress::tell_of_rows(self.core, job);
        }
    }

    /// Says that the rows of a chunk are done, and those before it: a thread that runs all chunks runs them in their order.
    fn say_rows(&self, chunk: u32) {
        if let RowWatch::SinglePartition(job) = self.watch
            && (chunk + 1).is_multiple_of(self.plan.chunks.div_ceil(ROW_REPORTS))
        {
            let (done, total) = (self.plan.range(chunk).end as u64, self.plan.total_len as u64);
            progress::report_progress(self.core, job, Reported { done, total });
        }
    }
}

/// Parameters and statuses of a job of rows: one status byte per row, padded, then the failure texts.
struct RowBlock {
    params: RawSlice,
    status: RawSlice,
    texts: u64,
}

/// Bytes of the status block of `rows` rows.
pub(crate) fn row_block_len(rows: usize) -> Option<usize> {
    rows.checked_next_multiple_of(64)?.checked_add(ROW_TEXTS * size_of::<FailureText>())
}

impl RowBlock {
    fn of(core: &Core, call: &KernelCall, header: &FanOutHeader, plan: &Plan) -> Result<Self> {
        let rows = plan.total_len as u64;
        let params_len = rows.saturating_mul(call.info.param().size_bytes() as u64);
        let params = match header.param_rows.load(Ordering::Relaxed) {
            _ if params_len == 0 => RawSlice::EMPTY,
            handle => RawSlice::new(core.arena.resolve(handle, params_len)?, params_len as usize),
        };
        if call.writes_to(params) {
            return Err(Error::Corrupt {
                what: "an output that overlaps the parameters",
                offset: 0,
                expected: 0,
                found: 0,
            });
        }
        let handle = header.row_status.load(Ordering::Relaxed);
        let status = RawSlice::new(core.arena.resolve(handle, rows)?, plan.total_len);
        Ok(Self { params, status, texts: handle.saturating_add(rows.next_multiple_of(64)) })
    }

    /// Keeps what a row said when it failed.
    fn record(&self, core: &Core, header: &FanOutHeader, row: usize, run_error: &RunError) {
        let (kind, message, location) = match run_error {
            RunError::Panicked(panicked) => (ROW_PANICKED, panicked.message.as_str(), panicked.location.as_str()),
            RunError::Failed(message) => (ROW_FAILED, message.as_str(), ""),
            _ => (ROW_FAILED, "the kernel does not fit the job", ""),
        };
        mark_row(self.status, row, kind);
        // Relaxed: a ticket for a text; everything is published by the partition's finish (R3).
        let ticket = header.failed_rows.fetch_add(1, Ordering::Relaxed);
        if ticket < ROW_TEXTS as u64
            && let Ok(text) = core.arena.failure_text(self.texts + ticket * size_of::<FailureText>() as u64)
        {
            failure_text::write(text, message, location);
            text.detail[0].store(row as u64, Ordering::Relaxed);
        }
    }
}

fn partition_job(job: &ClaimedJob<'_>, fields: &Fields) -> Result<(), RunError> {
    let ClaimedJob { core, .. } = *job;
    let handle = fields.fan_out;
    let corrupt = |_: Error| RunError::Corrupt;
    let (header, _) = core.arena.fan_out(handle, 0).map_err(corrupt)?;
    let (header, ranges) = core.arena.fan_out(handle, header.partitions.load(Ordering::Relaxed)).map_err(corrupt)?;
    let plan = Plan::read(header).map_err(corrupt)?;
    let call = job.resolve(fields)?;
    let watch = partitions::parent_of(header).map_or(RowWatch::Nobody, |parent| RowWatch::Ranges(parent.index));
    job.partition_call(&call, plan, watch).run(header, ranges, fields.partition)?;
    completion::end_if_complete(core, header, ranges);
    Ok(())
}

/// A job of many rows: a thread that claims it fans it out, takes part, and finishes it when all partitions are over.
fn rows_job(job: &ClaimedJob<'_>, fields: &Fields) -> Result<(), RunError> {
    let call = job.resolve(fields)?;
    let rows = usize::try_from(fields.fan_out).map_err(|_| RunError::Corrupt)?;
    let (params, statuses) = fields.rows().ok_or(RunError::Corrupt)?;
    let rows_at = RowHandles { params, statuses };
    let plan = rows_plan(rows).map_err(|_| RunError::Corrupt)?;
    if plan.chunks == 0 {
        return Ok(());
    }
    if job.core.config.is_shared() {
        run_single_partition(job, &call, plan, rows_at)
    } else {
        rows_in_parallel(job, fields, &call, plan, rows_at)
    }
}

/// Runs all rows on this thread. Where other processes take part the submitter has distributed the rows (`distributed_rows.rs`), and what
/// comes here is run by one worker: partitions could die, and a job that waits for partitions could not be started again by their deaths.
fn run_single_partition(
    job: &ClaimedJob<'_>,
    call: &KernelCall,
    plan: Plan,
    rows_at: RowHandles,
) -> Result<(), RunError> {
    let (header, range) = single_partition(&plan, rows_at);
    let ranges = [range];
    job.partition_call(call, plan, RowWatch::SinglePartition(job.index)).run(&header, &ranges, 0)?;
    match header.stop.load(Ordering::Relaxed) {
        0 if finished_chunks(&ranges) == u64::from(plan.chunks) => Ok(()),
        stop::CANCELLED => Err(RunError::Cancelled),
        stop::DEADLINE => Err(RunError::Deadline),
        _ => Err(RunError::Corrupt),
    }
}

/// Spreads the rows over the threads of this process, this one among them.
fn rows_in_parallel(
    job: &ClaimedJob<'_>,
    fields: &Fields,
    call: &KernelCall,
    plan: Plan,
    rows_at: RowHandles,
) -> Result<(), RunError> {
    let ClaimedJob { core, index, .. } = *job;
    let partition = job.partition_call(call, plan, RowWatch::Ranges(index));
    let slot = core.jobs.slot(index);
    let progress = slot.map(LocalSlot::rows);
    progress.into_iter().for_each(|progress| progress.serve(meta::progress_name(&core.control, index)));
    let parallel_call = ParallelCall {
        core,
        plan,
        priority: slot.map_or(Priority::Normal, LocalSlot::priority),
        caller: job.worker,
        closures: false,
        retries: 0,
        backpressure: core.config.backpressure,
        rows: Some(rows_at),
        partitions_max: MAX_PARTITIONS,
        progress,
    };
    let end = parallel_call
        .run(
            |reservation, _, _, _| {
                fields.copy_call_to(reservation);
                reservation.set_deadline(job.deadline);
            },
            |header, ranges| {
                let _ = partition.run(header, ranges, 0);
                None
            },
        )
        .map_err(|error| match error {
            Error::OutOfMemory { .. } => RunError::OutOfMemory,
            _ => RunError::Corrupt,
        })?;
    match end {
        FanOutEnd::Complete { .. } => Ok(()),
        FanOutEnd::Stopped(stopped) => Err(match stopped.stop {
            stop::CANCELLED => RunError::Cancelled,
            stop::DEADLINE => RunError::Deadline,
            // Rows that fail say so for themselves: a partition does not.
            _ => RunError::Corrupt,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exec::outcome::outcome_of;
    use crate::engine::job::call::{Param, References};
    use crate::engine::kernel::Kernel;
    use crate::engine::runtime::Reservation;
    use crate::engine::schedule::queue;

    /// Runs a published reservation on worker 1 and gives the error of its outcome.
    fn outcome(core: &Core, reservation: Reservation<'_>) -> Option<Error> {
        let reference = queue::publish(core, reservation, Priority::Normal).unwrap();
        let worker = ParticipantSlot::new(1);
        assert_eq!(queue::take(core, worker), Some(reference.index));
        execute(core, worker, reference.index);
        let done = job::snapshot(&core.control.descriptor(reference.index).unwrap().word);
        let error = done.has(crate::layout::words::FLAG_OUTCOME).then(|| outcome_of(core, reference.index).unwrap());
        completion::release(core, reference.index, done);
        error
    }

    static RUNS: crate::sync::AtomicU32 = crate::sync::AtomicU32::new(0);

    /// Looks at all it is given.
    #[crate::kernel]
    fn copy(x: &[u64], y: &mut [u64], p: &[u64; 2]) {
        RUNS.fetch_add(1, Ordering::Relaxed);
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x + p[0] + p[1]);
    }

    /// Handles that are a byte off, and parameters of another length, are damage that a worker notices before it runs the kernel: checks
    /// that no test had missed.
    #[test]
    fn a_kernel_is_not_run_over_what_does_not_fit_it() {
        let core = Core::without_workers(1, 0);
        let run = |x: u64, y: u64, param_len: u32| {
            let reservation = core.jobs.try_reserve(&core.control).unwrap();
            let param = match Param::inline(&[1_u64, 2]) {
                Param::Inline(bytes, _) => Param::Inline(bytes, param_len),
                block => block,
            };
            let id = core.kernel_id(Kernel::info(copy)).unwrap();
            reservation.set_call(kind::CALL, id, &References::of(&[(x, 64)], &[(y, 64)]), &param);
            reservation.set_part(0, 0, 0);
            let before = RUNS.load(Ordering::Relaxed);
            (outcome(&core, reservation), RUNS.load(Ordering::Relaxed) - before)
        };
        let handle = |bytes| core.arena.allocate(bytes).unwrap().block.offset;
        let (x, y) = (handle(128), handle(128));
        assert!(matches!(run(x, y, 16), (None, 1)));
        for off in 1..=16 {
            let aligned = off % 8 == 0;
            for (error, runs) in [run(x + off, y, 16), run(x, y + off, 16)] {
                assert_eq!((error.is_none(), runs), (aligned, u32::from(aligned)), "{off} bytes off: {error:?}");
                assert!(aligned || matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
            }
        }
        for len in (0..=32).filter(|len| *len != 16) {
            let (error, runs) = run(x, y, len);
            assert!(matches!(error, Some(Error::Corrupt { .. })) && runs == 0, "a parameter of {len} bytes: {error:?}");
        }
    }

    /// A job whose kind is changed to "closure" in shared memory must not succeed without its kernel having run.
    #[test]
    fn a_closure_that_is_not_there_is_no_success() {
        let core = Core::without_workers(1, 0);
        let reservation = core.jobs.try_reserve(&core.control).unwrap();
        reservation.set_closure();
        let error = outcome(&core, reservation).expect("it is none");
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
}
