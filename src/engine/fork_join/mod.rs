//! Calls that fork: two closures at once, scopes that closures are spawned in, and loops that follow each other, at any depth.
//!
//! The thread that makes the outermost call takes a *team* (`runtime/team.rs`) and is its first member; workers of the engine are *recruited*, by a
//! job each, while there is something to steal, and leave when there is not. A fork puts the address of a job (`forked_job`) into the deque of
//! its member; what nobody has stolen is taken back and run in place, without an atomic exchange but that of the deque. A member that waits
//! runs jobs of its own team and no others.
//!
//! Every engine and every moment will do: without threads, closed, broken or in a forked child the team has no helper, and its caller runs everything.

mod forked_job;
mod join;
mod member;
mod phase;
mod scope;

pub(crate) use join::join;
pub(crate) use phase::{LoopEnd, PhaseTeam, phases};
pub use scope::JoinScope;
pub(crate) use scope::scope;
