//! Files in an arena's address book.

use core::ptr::NonNull;
use std::sync::Arc;

use super::{Arena, OFFSET_BITS};
use crate::error::Result;
use crate::os::claim::Claim;
use crate::os::map::Mapping;

/// A file mapped into an arena's address book; removed from it when the last batch over it is gone.
pub(crate) struct FileSegment {
    pub(super) arena: Arc<Arena>,
    mapping: Mapping,
    segment: u16,
    /// To the file: it ends after the mapping. `None` where the owner of the only batch has it.
    _claim: Option<Claim>,
}

impl FileSegment {
    /// Registers a mapping with `arena`. The claim to its file was made before the mapping, and says as what.
    pub(crate) fn new(arena: &Arc<Arena>, mapping: Mapping, claim: Claim) -> Result<Self> {
        Self::register(arena, mapping, Some(claim))
    }

    /// As [`FileSegment::new`], for a caller that keeps the claim beside the only batch there will be over it: the claim may be given up
    /// while nothing can get at the batch, and made again before anything can.
    pub(crate) fn with_claim_elsewhere(arena: &Arc<Arena>, mapping: Mapping) -> Result<Self> {
        Self::register(arena, mapping, None)
    }

    fn register(arena: &Arc<Arena>, mapping: Mapping, claim: Option<Claim>) -> Result<Self> {
        let segment = arena.register(&mapping)?;
        Ok(Self { arena: Arc::clone(arena), mapping, segment, _claim: claim })
    }

    pub(super) fn handle_of(&self, address: NonNull<u8>) -> Option<u64> {
        let offset = (address.as_ptr() as usize).checked_sub(self.mapping.base().as_ptr() as usize)?;
        (offset <= self.mapping.len()).then(|| (u64::from(self.segment) << OFFSET_BITS) | offset as u64)
    }

    /// The mapped bytes' address and length.
    pub(crate) fn bytes(&self) -> (NonNull<u8>, usize) {
        (self.mapping.base(), self.mapping.len())
    }
}

impl Drop for FileSegment {
    fn drop(&mut self) {
        self.arena.unregister(self.segment);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::arena::attached::Attached;
    use crate::arena::{Access, ArenaConfig, Backing};
    use crate::error::Error;
    use crate::os::claim::Use;

    /// A handle that is moved to a file which can only be read is refused: a kernel that wrote there would end its process with
    /// SIGSEGV, a worker's or the engine's own.
    #[test]
    fn outputs_are_not_resolved_to_a_file_that_can_only_be_read() {
        let backing = Backing::SharedMemory;
        let config = ArenaConfig {
            placement: Default::default(),
            capacity: 4096,
            retain: 0,
            backing,
            large_pages: false,
            prefault: false,
        };
        let origin = Arena::create(&config).unwrap();
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(named.path(), [7; 4096]).unwrap();
        let file = File::open(named.path()).unwrap();
        let claim = Claim::to(&file, Use::Frozen).unwrap();
        let mapping = Mapping::file_read_only(&file, named.path()).unwrap();
        let read_only = FileSegment::new(&origin, mapping, claim).unwrap();
        let other = tempfile::tempfile().unwrap();
        let claim = Claim::to(&other, Use::Written).unwrap();
        let mapping = Mapping::file_read_write(&other, 4096, named.path()).unwrap();
        let writable = FileSegment::new(&origin, mapping, claim).unwrap();
        let read_only_at = read_only.handle_of(read_only.bytes().0).unwrap();
        let writable_at = writable.handle_of(writable.bytes().0).unwrap();

        let fd = origin.mapping().fd().unwrap().try_clone_to_owned().unwrap();
        let mapping = Mapping::attach(fd, origin.mapping().len(), true).unwrap();
        let files = Arc::clone(&origin);
        let fetch = move |segment| files.file_of(segment);
        let attached = Attached::new(mapping.second_view().unwrap(), Box::new(fetch));
        let worker = Arena::attach(mapping, attached, false).unwrap();
        for arena in [&origin, &worker] {
            for handle in [0, read_only_at, writable_at] {
                assert!(arena.resolve_for(handle, 4096, Access::Read).is_ok());
            }
            assert!(arena.resolve_for(0, 64, Access::Write).is_ok());
            assert!(arena.resolve_for(writable_at, 4096, Access::Write).is_ok());
            let refused = arena.resolve_for(read_only_at, 64, Access::Write);
            assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        }
    }
}
