//! The size of a model, what may go wrong in it, and which rule of the protocol it leaves out.

use super::state::{
    Actor, CELLS, Cell, DESCRIPTORS, Descriptor, JOBS_MAX, JobState, Life, NONE, Park, Ring, SUBMITTERS_MAX, State,
    Step, Submitter, WORKERS_MAX, Worker,
};
use super::{submitter, supervisor, worker};

/// A rule of the protocol that a model leaves out, to show that it is needed and that the search would find a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Omit {
    /// The protocol as it is.
    Nothing,
    /// A worker looks at rings and summary once more before it sleeps.
    SecondLook,
    /// The sweep ends with a broadcast.
    Broadcast,
    /// The broadcast calls a worker whose word is Pending: the dead one may have set it.
    CallOfPending,
    /// The broadcast calls a worker whose word is Notified: a waker that came late may have set it too early.
    CallOfNotified,
    /// The sweep serves finished jobs: the dead worker may have owed that.
    ServiceOfDone,
    /// The sweep calls a holder whose wait word is not Parked any more: the dead worker may have owed only the call.
    CallOfNotifiedHolder,
    /// The sweep calls the holders of unfinished jobs too: the dead worker may have changed the wait word late, for a job that
    /// the descriptor held before.
    CallOfUnfinishedHolder,
    /// A worker that cleared a bit without a claim looks at the word again and sets the bit again.
    SetAgain,
    /// The sweep sets the bits of all jobs in redelivery: the dead worker may have owed that.
    BitsOfQueued,
    /// The summary is switched off by a compare-and-swap.
    ComparedSwitch,
    /// A set bit changes the summary even if it is odd already.
    BumpOfOdd,
    /// The bit is set before the summary is bumped.
    BitFirst,
    /// Nobody is swept for before it is known to be dead.
    ProofOfDeath,
    /// Redelivery goes through bits, not through the ring.
    Bits,
    /// A job that has used up its attempts is finished by the sweep.
    AttemptLimit,
    /// The sweep takes the dead worker out of the searching bitmap before the broadcast.
    ClearOfSearching,
    /// The sweep takes the dead worker out of the idle bitmap and clears its park word.
    ClearOfPark,
    /// A whole scan without a bit switches the summary off.
    SwitchOff,
    /// The broadcast comes after the redelivery bits.
    BroadcastLast,
}

/// What must never happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// A live worker finishes a job that is not its own any more.
    TakenFromLiveWorker,
    /// Two live workers run one job.
    TwoRunners,
    /// A job was put back more often than allowed.
    TooManyAttempts,
    /// Somebody reserved, freed or read what was not theirs.
    NotTheHolder,
    /// A push found the ring full.
    RingFull,
    /// Nobody can take a step, and a submitter lacks a result.
    HolderNeverHears,
    /// Nobody can take a step, all results are read, and a descriptor is not Free.
    Leak,
    /// All awake workers run jobs, a job is queued, and a worker sleeps.
    SleeperWhileQueued,
    /// From some state on, no way leads to the end: participants are awake and get nowhere.
    NoWayToTheEnd,
}

/// The bounds of a search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) submitters: u8,
    /// Jobs of each submitter.
    pub(crate) jobs: u8,
    /// Whether a submitter submits all its jobs before it waits for the first.
    pub(crate) burst: bool,
    /// Whether a submitter may drop a handle instead of waiting.
    pub(crate) drops: bool,
    pub(crate) workers: u8,
    /// How many workers may be killed, at any moment each.
    pub(crate) deaths: u8,
    /// How many workers join in the slots of dead ones, each after the sweep.
    pub(crate) replacements: u8,
    /// How often a job may be put back.
    pub(crate) retries: u8,
    /// How many sleeps of workers and holders may end for no reason.
    pub(crate) idle_returns: u8,
    pub(crate) omit: Omit,
}

/// A step of a participant, or an accident.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Move {
    Submitter(u8),
    /// A submitter lets go of its job instead of waiting for it.
    Drop(u8),
    Worker(u8),
    Supervisor,
    Kill(u8),
    /// A worker's sleep ends for no reason.
    WorkerReturns(u8),
    /// A holder's sleep ends for no reason.
    HolderReturns(u8),
    /// The supervisor takes a live worker for dead.
    Mistake(u8),
}

impl Move {
    /// Every move there is.
    pub(crate) fn all() -> Vec<Self> {
        let submitters = (0..SUBMITTERS_MAX as u8).flat_map(|at| [Self::Submitter(at), Self::Drop(at)]);
        let workers = (0..WORKERS_MAX as u8).map(Self::Worker);
        let accidents =
            (0..WORKERS_MAX as u8).flat_map(|at| [Self::Kill(at), Self::WorkerReturns(at), Self::Mistake(at)]);
        let returns = (0..SUBMITTERS_MAX as u8).map(Self::HolderReturns);
        submitters.chain(workers).chain([Self::Supervisor]).chain(accidents).chain(returns).collect()
    }

    /// Whether somebody takes a step of its own accord. The others may happen, and nobody can rely on them.
    pub(crate) fn is_step(self) -> bool {
        matches!(self, Self::Submitter(_) | Self::Drop(_) | Self::Worker(_) | Self::Supervisor)
    }
}

/// What a move did, in words; `None` when it is not possible.
pub(crate) type Took = Result<Option<&'static str>, Violation>;

impl Model {
    /// The beginning: nothing submitted, all workers awake.
    pub(crate) fn start(&self) -> State {
        assert!(usize::from(self.workers) <= WORKERS_MAX && usize::from(self.submitters) <= SUBMITTERS_MAX);
        assert!(usize::from(self.jobs) <= JOBS_MAX && self.deaths < self.workers + self.replacements);
        let submitter = |at| Submitter {
            actor: Actor::at(if at < self.submitters { Step::Publish } else { Step::Over }),
            held: [NONE; JOBS_MAX],
            submitted: 0,
            read: 0,
        };
        let worker = |at| Worker {
            actor: Actor::at(if at < self.workers { Step::ReadSummary } else { Step::Over }),
            life: if at < self.workers { Life::Alive } else { Life::Gone },
            incarnation: 0,
            park: Park::Running,
        };
        State {
            descriptors: [Descriptor::default(); DESCRIPTORS],
            ring: Ring { head: 0, tail: 0, cells: [Cell { turn: 0, index: NONE }; CELLS] },
            searching: 0,
            idle: 0,
            redelivery: 0,
            summary: 0,
            collector: 0,
            supervisor_park: Park::Parked,
            submitters: std::array::from_fn(|at| submitter(at as u8)),
            workers: std::array::from_fn(|at| worker(at as u8)),
            supervisor: Actor::at(Step::SupervisorAsleep),
            mistaken: NONE,
            deaths_left: self.deaths,
            replacements_left: self.replacements,
            idle_returns_left: self.idle_returns,
            mistakes_left: u8::from(self.omit == Omit::ProofOfDeath),
        }
    }

    /// Makes a move in `state`.
    pub(crate) fn make(&self, state: &mut State, step: Move) -> Took {
        match step {
            Move::Submitter(at) => submitter::step(self, state, at),
            Move::Drop(at) if self.drops => Ok(submitter::drop_handle(self, state, at)),
            Move::Worker(at) => worker::step(self, state, at),
            Move::Supervisor => supervisor::step(self, state),
            Move::Kill(at) => Ok(kill(state, at)),
            Move::WorkerReturns(at) => Ok(worker_returns(state, at)),
            Move::HolderReturns(at) => Ok(holder_returns(state, at)),
            Move::Mistake(at) => Ok(mistake(state, at)),
            Move::Drop(_) => Ok(None),
        }
    }

    /// Whether `state` is allowed, whichever move comes next.
    pub(crate) fn check(&self, state: &State) -> Result<(), Violation> {
        let runs = |worker: &Worker| (worker.actor.step == Step::Run).then_some(worker.actor.index);
        for (at, worker) in state.workers.iter().enumerate() {
            if runs(worker).is_some() && state.workers[..at].iter().any(|other| runs(other) == runs(worker)) {
                return Err(Violation::TwoRunners);
            }
        }
        if state.descriptors.iter().any(|descriptor| descriptor.word.attempt > self.retries) {
            return Err(Violation::TooManyAttempts);
        }
        Ok(())
    }

    /// Whether `state` is allowed, given the steps that are possible in it.
    pub(crate) fn check_rest(&self, state: &State, steps: &[Move]) -> Result<(), Violation> {
        let runs =
            |step: &Move| matches!(step, Move::Worker(at) if state.workers[usize::from(*at)].actor.step == Step::Run);
        if !steps.iter().all(runs) {
            return Ok(());
        }
        let is_queued = |descriptor: &Descriptor| descriptor.word.state == JobState::Queued;
        let is_asleep = |worker: &Worker| worker.actor.step == Step::Asleep;
        if state.descriptors.iter().any(is_queued) && state.workers.iter().any(is_asleep) {
            return Err(Violation::SleeperWhileQueued);
        }
        if !steps.is_empty() {
            return Ok(());
        }
        if state.submitters.iter().any(|submitter| submitter.actor.step != Step::Over) {
            return Err(Violation::HolderNeverHears);
        }
        if state.descriptors.iter().any(|descriptor| descriptor.word.state != JobState::Free) {
            return Err(Violation::Leak);
        }
        Ok(())
    }
}

/// A process ends between two of its steps. What it remembered is gone, what it shared stays; the supervisor hears of it.
fn kill(state: &mut State, at: u8) -> Option<&'static str> {
    let worker = &mut state.workers[usize::from(at)];
    if state.deaths_left == 0 || worker.life != Life::Alive {
        return None;
    }
    state.deaths_left -= 1;
    (worker.life, worker.actor) = (Life::Dead, Actor::at(Step::Over));
    state.call_supervisor();
    Some("is killed")
}

fn worker_returns(state: &mut State, at: u8) -> Option<&'static str> {
    if state.idle_returns_left == 0 || state.workers[usize::from(at)].actor.step != Step::Asleep {
        return None;
    }
    state.idle_returns_left -= 1;
    state.call_worker(at);
    Some("returns from its sleep for no reason")
}

fn holder_returns(state: &mut State, at: u8) -> Option<&'static str> {
    let step = &mut state.submitters[usize::from(at)].actor.step;
    if state.idle_returns_left == 0 || *step != Step::WaitAsleep {
        return None;
    }
    state.idle_returns_left -= 1;
    *step = Step::WaitLooks;
    Some("returns from its sleep for no reason")
}

fn mistake(state: &mut State, at: u8) -> Option<&'static str> {
    if state.mistakes_left == 0 || state.workers[usize::from(at)].life != Life::Alive {
        return None;
    }
    state.mistakes_left -= 1;
    state.mistaken = at;
    state.call_supervisor();
    Some("is stopped, and taken for dead")
}
