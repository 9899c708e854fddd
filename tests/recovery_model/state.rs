//! What the participants share, and what each of them remembers between two steps.
//!
//! Everything is small and copied; two states are equal when every byte is. A step that ends a part of the protocol forgets
//! its registers, so that states which differ only in what nobody will read again are one state.

/// Descriptors of the table.
pub(crate) const DESCRIPTORS: usize = 2;
/// Cells of the ring: twice as many as descriptors, as in the engine.
pub(crate) const CELLS: usize = 2 * DESCRIPTORS;
/// The most submitting threads of the host process.
pub(crate) const SUBMITTERS_MAX: usize = 2;
/// The most workers.
pub(crate) const WORKERS_MAX: usize = 3;
/// The most jobs of one submitter.
pub(crate) const JOBS_MAX: usize = 2;
/// No descriptor, or no worker.
pub(crate) const NONE: u8 = u8::MAX;

/// The state in a descriptor word. Reserved is left out: to all but the submitter it means what Free means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum JobState {
    #[default]
    Free,
    Queued,
    Running,
    Done,
}

/// A descriptor word. The generation is left out: no step of this model compares it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Word {
    pub(crate) state: JobState,
    /// Slot and incarnation of the claimer, while Running.
    pub(crate) owner: u8,
    pub(crate) incarnation: u8,
    /// How often the job was put back into the queue.
    pub(crate) attempt: u8,
    pub(crate) waiter: bool,
    pub(crate) detached: bool,
}

/// A park word or a wait word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Park {
    #[default]
    Running,
    Parked,
    Pending,
    Notified,
}

/// The outcome of a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Status {
    #[default]
    Unwritten,
    Computed,
    WorkerDied,
}

/// A descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Descriptor {
    pub(crate) word: Word,
    pub(crate) wait: Park,
    pub(crate) status: Status,
}

/// A cell of the ring: empty, or full with an index, in a lap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Cell {
    pub(crate) turn: u8,
    /// [`NONE`] in an empty cell.
    pub(crate) index: u8,
}

/// The ring. Positions count entries since the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ring {
    pub(crate) head: u8,
    pub(crate) tail: u8,
    pub(crate) cells: [Cell; CELLS],
}

/// What a participant does next. Each is one operation on shared memory, or a wait for something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Step {
    /// Nothing any more: a submitter that has all its results, a worker that is dead or never was.
    #[default]
    Over,

    // A submitter.
    Publish,
    WaitParks,
    WaitSetsFlag,
    WaitSleeps,
    WaitAsleep,
    WaitLooks,
    Retire,

    // Steps of a push.
    Push,

    // Steps of a notification.
    CountSearchers,
    ReadIdle,
    ReadPark,
    TakeParked,
    CallParked,
    MarkNotified,

    // A worker that takes.
    ReadSummary,
    ScanBit,
    ClaimByBit,
    ClearBit,
    LookAgain,
    SetBitAgain,
    BumpAgain,
    SwitchOff,
    ReadEntry,
    ClaimByEntry,
    EmptyCell,
    HelpHead,

    // A worker between jobs.
    StartSearching,
    StopSearching,
    MoreInSummary,
    MoreInRing,
    StorePark,
    ClearSearching,
    SecondSummary,
    SecondRing,
    Sleep,
    Asleep,
    ResumeSearching,
    ResumePark,

    // A worker with a job.
    Run,
    NotifyWaiter,
    CallWaiter,
    SetCollector,
    LookAtSupervisor,
    NotifySupervisor,
    CallSupervisor,

    // The supervisor.
    Watch,
    TakeCollector,
    FreeDetached,
    SupervisorParks,
    SupervisorSecondLook,
    SupervisorSleeps,
    SupervisorAsleep,
    SweepDescriptor,
    SweepSetsBit,
    SweepBumps,
    SweepNotifiesWaiter,
    SweepCallsWaiter,
    SweepClearsSearching,
    SweepClearsPark,
    BroadcastMarks,
    BroadcastCalls,
    SweepEnds,
}

/// The registers of a participant: lost when it is killed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Actor {
    pub(crate) step: Step,
    /// The descriptor it deals with.
    pub(crate) index: u8,
    /// Whether its claim of that descriptor succeeded.
    pub(crate) claimed: bool,
    /// Whether it owes the supervisor a bit for that descriptor.
    pub(crate) owes_collector: bool,
    /// A position of the ring, read before.
    pub(crate) position: u8,
    /// The redelivery summary, read before.
    pub(crate) summary: u8,
    /// How far a loop has come.
    pub(crate) at: u8,
    /// Workers it wants to look at the rings, and those it counted.
    pub(crate) wanted: u8,
    pub(crate) looking: u8,
    /// Bits of a bitmap, read before.
    pub(crate) bits: u8,
}

impl Actor {
    /// A participant at a step, with nothing to remember.
    pub(crate) const fn at(step: Step) -> Self {
        Self {
            step,
            index: NONE,
            claimed: false,
            owes_collector: false,
            position: 0,
            summary: 0,
            at: 0,
            wanted: 0,
            looking: 0,
            bits: 0,
        }
    }

    /// The same with its registers, at another step.
    pub(crate) const fn then(self, step: Step) -> Self {
        Self { step, ..self }
    }
}

/// A thread of the host process that submits jobs and reads their results.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Submitter {
    pub(crate) actor: Actor,
    /// The descriptors of its jobs that it has handles of, by the number of the job.
    pub(crate) held: [u8; JOBS_MAX],
    pub(crate) submitted: u8,
    pub(crate) read: u8,
}

/// Whether a worker lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Life {
    Alive,
    /// Killed, and not swept for.
    Dead,
    /// There is no process in this slot.
    Gone,
}

/// A worker process and its row of the participant table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Worker {
    pub(crate) actor: Actor,
    pub(crate) life: Life,
    pub(crate) incarnation: u8,
    pub(crate) park: Park,
}

/// Everything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) descriptors: [Descriptor; DESCRIPTORS],
    pub(crate) ring: Ring,
    pub(crate) searching: u8,
    pub(crate) idle: u8,
    pub(crate) redelivery: u8,
    /// Odd while a redelivery bit may be set.
    pub(crate) summary: u8,
    /// Detached jobs that are done, for the supervisor.
    pub(crate) collector: u8,
    pub(crate) supervisor_park: Park,
    pub(crate) submitters: [Submitter; SUBMITTERS_MAX],
    pub(crate) workers: [Worker; WORKERS_MAX],
    pub(crate) supervisor: Actor,
    /// A worker that the supervisor takes for dead although it lives, or [`NONE`].
    pub(crate) mistaken: u8,
    pub(crate) deaths_left: u8,
    pub(crate) replacements_left: u8,
    pub(crate) idle_returns_left: u8,
    pub(crate) mistakes_left: u8,
}

impl State {
    /// The descriptor of an index.
    pub(crate) fn descriptor(&mut self, index: u8) -> &mut Descriptor {
        &mut self.descriptors[usize::from(index)]
    }

    /// The word of a descriptor.
    pub(crate) fn word(&self, index: u8) -> Word {
        self.descriptors[usize::from(index)].word
    }

    /// Queued to Running, if it is queued: a loop of compare-and-swaps that fails only for flags set meanwhile.
    pub(crate) fn claim(&mut self, index: u8, owner: u8) -> bool {
        let incarnation = self.workers[usize::from(owner)].incarnation;
        let word = &mut self.descriptor(index).word;
        let is_queued = word.state == JobState::Queued;
        if is_queued {
            *word = Word { state: JobState::Running, owner, incarnation, ..*word };
        }
        is_queued
    }

    /// Cell and lap of a position.
    pub(crate) fn cell(&mut self, position: u8) -> (&mut Cell, u8) {
        (&mut self.ring.cells[usize::from(position) % CELLS], position / CELLS as u8)
    }

    /// Whether an entry waits at the head.
    pub(crate) fn has_entry(&self) -> bool {
        let cell = self.ring.cells[usize::from(self.ring.head) % CELLS];
        cell.turn != self.ring.head / CELLS as u8 || cell.index != NONE
    }

    /// The system's wake call on the wait word of a descriptor.
    pub(crate) fn call_waiter(&mut self, index: u8) {
        for submitter in &mut self.submitters {
            if submitter.actor.step == Step::WaitAsleep && submitter.held[usize::from(submitter.read)] == index {
                submitter.actor.step = Step::WaitLooks;
            }
        }
    }

    /// The system's wake call on the park word of a worker.
    pub(crate) fn call_worker(&mut self, slot: u8) {
        let actor = &mut self.workers[usize::from(slot)].actor;
        if actor.step == Step::Asleep {
            actor.step = Step::ResumeSearching;
        }
    }

    /// The system's wake call on the park word of the supervisor; the end of a process that it watches does the same.
    pub(crate) fn call_supervisor(&mut self) {
        if self.supervisor.step == Step::SupervisorAsleep {
            self.supervisor.step = Step::Watch;
        }
    }
}

/// The bit of a slot or an index in a bitmap.
pub(crate) const fn bit(of: u8) -> u8 {
    1 << of
}
