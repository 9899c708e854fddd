//! Names of jobs.

use crate::ids::DescriptorIndex;

/// The name of a job: a descriptor in one of its generations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JobReference {
    pub(crate) index: DescriptorIndex,
    pub(crate) generation: u32,
}
