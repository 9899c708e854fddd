//! The operating-system floor: memory mappings, futexes, what the host has, fork detection, and worker processes.
//!
//! This floor knows no layout and no policy. It says what the system can do, does exactly what it is told, and turns
//! the system's answers into [`crate::error::Error`]. It imports only the error type, `std` and the crates that wrap
//! system calls. Linux is the full platform; on other systems every item exists unless its page says otherwise, and
//! what cannot be done there is an [`Error::Unsupported`](crate::error::Error::Unsupported) or a `None`, never a silent
//! difference.
//!
//! | module | promises | does not promise |
//! | --- | --- | --- |
//! | [`map`], over `region` (unsafe) | a [`Mapping`](map::Mapping) owns its address range until it is dropped; new memory reads as zero; sealed shared memory never changes length; what was received is checked before it is mapped (`attach`) | never hands out a reference to mapped bytes; no protection against other writers of the same memory; no protection against a file that is cut while it is mapped |
//! | [`mod@file`] | a regular file is opened, and anything else refused, without waiting for its other end; a file without a name gets one at once or not at all; a file that replaces another is not more open | on systems other than Linux: not if what is opened is replaced at that moment; no files without a name |
//! | [`claim`] | this process maps no file for reading that it writes, whatever name it is opened by | nothing about other processes, or about writes by other means than mappings |
//! | [`futex`] | a wait returns when the word is woken, no longer holds the expected value, or the deadline passed | no memory ordering; no one-to-one match of wakes and returns: every wait may return spuriously |
//! | [`barrier`] | of a light fence and a heavy one, one thread sees what the other stored before | nothing about two light ones; not when the light ones begin to cost nothing |
//! | [`futex_queue`] | a wait says exactly why it ended, a wake counts the threads it woke; first come, first woken | not the place in the queue of a thread that a signal interrupted |
//! | [`host`] | figures read from the system at the time of the call, `None` where the system does not tell; a monotonic [`Deadline`](host::Deadline) | figures stay true only as long as nobody changes cgroups, affinity or limits |
//! | [`large_pages`] | no large page is asked for twice, and few where the system has none or is slow to make them | not that any page is large |
//! | [`topology`] | the memory nodes and their cores as the system describes them | not where a page lies |
//! | [`memory`] | what the machine and its control groups had to give when asked; takes no page beyond that | others may take it in the meantime |
//! | [`fork`] (unsafe) | [`ForkGuard`](fork::ForkGuard) tells a forked child from the process that built it, without a system call | does not make anything else work after a fork |
//! | [`process`] (Linux only) | a [`WorkerProcess`](process::WorkerProcess) names one process for good; dropped, it leaves neither a process nor a zombie, nor what the process had started in its group | not that a killed process ends at once; no control of programs that left the group of a process that died by itself; no limit on what a worker does but those put on it |
//! | [`pidfd`] (Linux only) | a [`ProcessHandle`](pidfd::ProcessHandle) names one process for good, and is ready when it has ended | not how a process ended that is no child |
//! | [`listener`] (Linux only) | only this user's processes connect; a socket without an answering process is replaced | the file stays when the process is killed |
//! | [`channel`] (Linux only) | messages arrive whole, in order, with their descriptors; the end of the other side is seen | nothing about what the messages say |
//! | [`credentials`] (Linux only) | the sender of a message is the system's word | not that the process lives still |
//! | [`events`] (Linux only) | a wait returns when a descriptor is ready or the deadline passed | no order among descriptors that are ready |
//!
//! Blocking: [`futex::wait`], [`futex::wait_until`] and the waits of [`futex_queue`] sleep; so do [`events::wait_for_events`],
//! [`events::wait_until_readable`], what `channel` does at an end that blocks or until a deadline, and reaping a process
//! that has not ended. Creating, populating and giving back mappings may
//! take long, as the system needs to clear or free pages, but wait for nobody.

#[cfg(target_os = "linux")]
pub(crate) mod attach;
pub(crate) mod barrier;
#[cfg(target_os = "linux")]
pub(crate) mod channel;
pub(crate) mod claim;
#[cfg(target_os = "linux")]
pub(crate) mod credentials;
#[cfg(target_os = "linux")]
mod descendants;
#[cfg(target_os = "linux")]
pub(crate) mod events;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod futex_queue;
pub(crate) mod host;
pub(crate) mod large_pages;
#[cfg(target_os = "linux")]
pub(crate) mod listener;
pub(crate) mod map;
pub(crate) mod memory;
#[cfg(target_os = "linux")]
pub(crate) mod pidfd;
#[cfg(target_os = "linux")]
pub(crate) mod process;
mod region;
pub(crate) mod topology;
