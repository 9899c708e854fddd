//! How far something is.

use core::fmt;

use crate::lockfree::progress::Reported;

/// How far a job says it is; see [`Context::progress`](crate::Context::progress).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct Progress {
    /// What is done: in the kernel's unit, in rows of a job of rows, or in elements of calls that are [metered](crate::JobBuilder::meter).
    pub done: u64,
    /// Of how much; 0 if the kernel does not know.
    pub total: u64,
}

impl Progress {
    /// The part that is done, from 0 to 1; `None` when the kernel does not know of how much.
    pub fn fraction(&self) -> Option<f64> {
        (self.total > 0).then(|| (self.done as f64 / self.total as f64).min(1.0))
    }
}

impl From<Reported> for Progress {
    fn from(Reported { done, total }: Reported) -> Self {
        Self { done, total }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fraction() {
            Some(fraction) => write!(f, "{:.0} %", fraction * 100.0),
            None => write!(f, "{}", self.done),
        }
    }
}
