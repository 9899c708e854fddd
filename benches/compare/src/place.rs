//! Where threads and processes run.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores this process may use.
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// Lets the calling thread run on these cores only.
pub fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(None, &set).expect("the cores are allowed");
}

/// A core for the asking side and a core for the answering one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    pub caller: usize,
    pub worker: usize,
}

impl Pair {
    /// Two cores; `None` where the process may use only one.
    pub fn split() -> Option<Self> {
        match allowed()[..] {
            [caller, worker, ..] => Some(Self { caller, worker }),
            _ => None,
        }
    }

    /// Both on one core.
    pub fn same() -> Self {
        let core = allowed()[0];
        Self { caller: core, worker: core }
    }

    /// Runs `body` with the calling thread in its place, and lets the thread go everywhere again afterwards.
    pub fn with_caller<R>(self, body: impl FnOnce() -> R) -> R {
        let everywhere = allowed();
        pin(&[self.caller]);
        let result = body();
        pin(&everywhere);
        result
    }

    /// Pins the calling thread to the core of the answering side.
    pub fn pin_worker(self) {
        pin(&[self.worker]);
    }
}
