//! The kernels of an engine as they are named to a worker process: a table in shared memory, in which the worker finds its own.

use bytemuck::{Pod, Zeroable};

use crate::engine::kernel::info::KernelInfo;
use crate::error::{Error, Result};

/// The longest path of a kernel.
const NAME_LEN_MAX: usize = 1024;
/// Kernels an engine can name.
pub(crate) const KERNELS_MAX: u32 = 4096;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelHead {
    id: u32,
    version: u32,
    name_len: u32,
    zero: u32,
    signature_hash: u64,
}

/// A kernel as it is named to a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KernelName {
    /// Its number in the engine's process.
    pub(crate) id: u32,
    pub(crate) version: u32,
    pub(crate) signature_hash: u64,
    /// Its path: two kernels of one name are two.
    pub(crate) path: String,
}

impl KernelName {
    /// As the engine's process knows it.
    pub(crate) fn of(info: &'static KernelInfo) -> Result<Self> {
        if info.path().len() > NAME_LEN_MAX {
            return Err(Error::invalid(format!(
                "the path of a kernel must have at most {NAME_LEN_MAX} bytes, and that of {} has {}: give it another with \
                 #[kernel(path = \"..\")]",
                info.name(),
                info.path().len()
            )));
        }
        let (version, signature_hash) = (info.version(), info.signature_hash());
        Ok(Self { id: info.id()?, version, signature_hash, path: info.path().to_owned() })
    }

    /// The bytes of the table of these kernels.
    pub(crate) fn table(kernels: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for kernel in kernels {
            let head = KernelHead {
                id: kernel.id,
                version: kernel.version,
                name_len: kernel.path.len() as u32,
                zero: 0,
                signature_hash: kernel.signature_hash,
            };
            bytes.extend_from_slice(bytemuck::bytes_of(&head));
            bytes.extend_from_slice(kernel.path.as_bytes());
        }
        bytes
    }

    /// Reads a table back.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] when the bytes are none.
    pub(crate) fn read_table(mut bytes: &[u8]) -> Result<Vec<Self>> {
        let wrong = || Error::worker_start("the engine sent something else where its kernels were expected");
        let mut kernels = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(size_of::<KernelHead>()).ok_or_else(wrong)?;
            let head: KernelHead = bytemuck::pod_read_unaligned(head);
            let (path, rest) = rest.split_at_checked(head.name_len as usize).ok_or_else(wrong)?;
            let path = core::str::from_utf8(path).map_err(|_| wrong())?.to_owned();
            if path.len() > NAME_LEN_MAX || head.id >= KERNELS_MAX {
                return Err(wrong());
            }
            let KernelHead { id, version, signature_hash, .. } = head;
            kernels.push(Self { id, version, signature_hash, path });
            bytes = rest;
        }
        Ok(kernels)
    }

    /// This kernel among those of the worker's program.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] that names what differs.
    pub(crate) fn find(&self, known: &[&'static KernelInfo]) -> Result<&'static KernelInfo> {
        let same_path: Vec<_> = known.iter().copied().filter(|info| info.path() == self.path).collect();
        let exact = |info: &&&'static KernelInfo| {
            info.version() == self.version && info.signature_hash() == self.signature_hash
        };
        if let Some(found) = same_path.iter().find(exact) {
            return Ok(found);
        }
        let path = &self.path;
        Err(Error::worker_start(match same_path.first() {
            None => {
                let name = path.rsplit("::").next().unwrap_or(path);
                // Not taken for it: that there is only one of the name may be an accident.
                let others: Vec<&str> =
                    known.iter().filter(|info| info.name() == name).map(|info| info.path()).take(3).collect();
                let others = match others[..] {
                    [] => String::new(),
                    _ => format!(
                        "; it lists {}. Two programs agree on the kernels of a library that both use, or on a path that both say, \
                         #[kernel(path = \"..\")]",
                        others.join(", ")
                    ),
                };
                format!("the worker's program does not list kernel {path} in worker_entry(kernels![..]){others}")
            }
            Some(other) if other.version() != self.version => format!(
                "kernel {path} has version {} in the engine and version {} in the worker's program",
                self.version,
                other.version()
            ),
            Some(_) => format!("kernel {path} has other arguments in the engine than in the worker's program"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..250), at in 0usize..250, change: u8) {
            let _ = KernelName::read_table(&bytes);
            let kernel = KernelName { id: 1, version: 2, signature_hash: 3, path: "a::kernel".into() };
            let mut poisoned = KernelName::table(&[kernel.clone(), kernel]);
            let len = poisoned.len();
            poisoned[at % len] ^= change;
            let _ = KernelName::read_table(&poisoned);
            poisoned.truncate(at);
            let _ = KernelName::read_table(&poisoned);
        }

        #[test]
        fn kernels_arrive_as_they_were_sent(
            id in 0..KERNELS_MAX, version: u32, signature_hash: u64, paths in proptest::collection::vec("[a-z:]{0,40}", 0..5),
        ) {
            let kernels: Vec<_> =
                paths.into_iter().map(|path| KernelName { id, version, signature_hash, path }).collect();
            prop_assert_eq!(KernelName::read_table(&KernelName::table(&kernels)).unwrap(), kernels);
        }
    }
}
