//! How an arena is made, and what it says about itself.

/// Where the pages of an arena come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Backing {
    /// Anonymous memory with large pages for engines of threads: its first touch costs a third of a memfd's. Memory that
    /// other processes can map as soon as an engine has process workers.
    #[default]
    Automatic,
    /// A sealed memfd on Linux, which other processes can map; anonymous memory elsewhere.
    SharedMemory,
    /// Anonymous memory, private to the process, advised to use large pages.
    Anonymous,
}

/// On which memory nodes the pages of an arena lie. It matters on machines with several (NUMA), where a core reaches the memory of
/// its own node faster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Placement {
    /// Each page on the node of the core that touches it first, unless the program was started with another policy (numactl(8)). What
    /// workers write first lies near them; what the caller fills, near the caller.
    #[default]
    Local,
    /// Page by page in turn on all nodes with memory, whichever worker touches them first: the same speed for all workers, and the bandwidth of all
    /// nodes together for batches that the caller fills or that change hands.
    Interleave,
}

/// How an arena is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArenaConfig {
    pub(crate) placement: Placement,
    pub(crate) capacity: u64,
    pub(crate) retain: u64,
    pub(crate) backing: Backing,
    pub(crate) large_pages: bool,
    pub(crate) prefault: bool,
}

/// What an arena holds at one moment. All sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ArenaStatistics {
    /// What the arena was built with.
    pub capacity: u64,
    /// In live batches and running calls, padding included.
    pub in_use: u64,
    /// The most that was ever in use.
    pub peak_in_use: u64,
    /// Live blocks.
    pub blocks: u64,
    /// Bytes from the start that were handed out at least once; beyond, no page was ever touched.
    pub high_water: u64,
    /// Blocks handed out since the start.
    pub allocations: u64,
    /// Large pages of shared memory that this process took, pages and not bytes: while it filled batches, or at the start with
    /// `prefault`. What worker processes took is not in it, nor large pages of private memory, which the system gives by itself.
    pub large_pages: u64,
    /// Large pages of shared memory that the system refused this process, or gave so slowly that the next ones were left small.
    pub large_pages_refused: u64,
}

/// What is to be done with resolved bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
}
