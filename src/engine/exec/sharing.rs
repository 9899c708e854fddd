//! Whether a blocking call is shared with workers, and how coarse its chunks are then, by what it is known to cost.

use std::time::Duration;

use crate::engine::exec::fan_out::MAX_PARTITIONS;
use crate::engine::job::Plan;
use crate::engine::runtime::{CallCost, CallKey, Core, Measured};

/// The time of one thread from which a call is worth handing to a worker that is awake: what handing over and ending together cost, a few
/// crossings of a line and some hundred instructions, and as much again.
const WORTH_HANDING_OVER: Duration = Duration::from_micros(4);
/// The time from which one is worth waking a worker, which takes about as long. In a series of calls it is worth it sooner: a worker that was woken
/// for one is awake for the next.
const WORTH_A_WAKE_UP: Duration = Duration::from_micros(30);
/// The same where the calling thread takes no part: all that a woken worker does not do then is done by one that is awake, and of idle workers one
/// stays awake.
const WORTH_A_SECOND: Duration = Duration::from_micros(60);
/// The time that a chunk of cheap elements should take: long beside what a chunk costs, and short enough to even out workers that are held up.
const CHUNK_TIME: Duration = Duration::from_micros(5);

/// What the borders of a call's chunks depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Borders {
    /// The caller: it said a length.
    Said,
    /// The call's length alone: what chunks come to depends on them.
    OfLength(CallKey),
    /// What an element costs, too: each is computed by itself.
    OfCost(CallKey),
}

/// How a call is run.
pub(super) struct Sharing<'a> {
    pub(super) plan: Plan,
    /// Whether others take part.
    pub(super) is_shared: bool,
    /// How many may: one where the calling thread must not, and two would be in each other's way.
    pub(super) partitions_max: u32,
    measured: Option<Measured<'a>>,
}

impl<'a> Sharing<'a> {
    /// Decides how to run a call that is cut as `plan` says if nothing is known of its cost. One that must not run on the calling thread is
    /// shared.
    pub(super) fn decide(core: &'a Core, plan: Plan, borders: Borders, may_run_here: bool) -> Self {
        let (Borders::OfLength(key) | Borders::OfCost(key)) = borders else {
            let is_shared = plan.chunks > 1 || !may_run_here;
            return Self { plan, is_shared, partitions_max: MAX_PARTITIONS, measured: None };
        };
        let cost = core.costs.of(key, plan.total_len);
        let measured = cost.measure();
        let partitions_max = if may_run_here {
            let is_worth_it = plan.chunks > 1 && is_worth_sharing(core, &cost, measured.as_ref());
            if is_worth_it { MAX_PARTITIONS } else { 1 }
        } else {
            workers_worth_calling(core, &cost)
        };
        let plan = match borders {
            Borders::OfCost(_) if partitions_max == 1 => plan.with_chunks_of(plan.total_len),
            Borders::OfCost(_) => cost.elements_in(CHUNK_TIME).map_or(plan, |cheap| plan.with_chunks_up_to(cheap)),
            _ => plan,
        };
        Self { plan, is_shared: partitions_max > 1 || !may_run_here, partitions_max, measured }
    }

    /// Learns from a call that has just been run by this thread alone.
    pub(super) fn learn_here(self) {
        self.measured.into_iter().for_each(Measured::learn);
    }

    /// Learns from a call that took all partitions together so long.
    pub(super) fn learn(self, busy: Duration) {
        self.measured.into_iter().for_each(|measured| measured.learn_of(busy));
    }
}

/// How many workers are worth calling for a call that the calling thread must not run: those that are awake, if it is short.
fn workers_worth_calling(core: &Core, cost: &CallCost<'_>) -> u32 {
    match cost.nanoseconds() {
        Some(nanoseconds) if u128::from(nanoseconds) < WORTH_A_SECOND.as_nanos() => core.sleepers().searching().max(1),
        _ => MAX_PARTITIONS,
    }
}

fn is_worth_sharing(core: &Core, cost: &CallCost<'_>, measured: Option<&Measured<'_>>) -> bool {
    let Some(nanoseconds) = cost.nanoseconds() else { return true };
    let takes = |duration: Duration| u128::from(nanoseconds) >= duration.as_nanos();
    takes(WORTH_A_WAKE_UP)
        || (takes(WORTH_HANDING_OVER)
            && (core.sleepers().searching() > 0 || measured.is_some_and(Measured::is_one_of_a_series)))
}
