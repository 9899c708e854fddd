//! Which files this process reads as bytes that do not change, and which it writes: never one file as both.
//!
//! A file can have several names: its own, those of links, and one for each open descriptor (`/proc/self/fd/3`), which leads even to
//! memory that has no other. So a file is known by device and number, and a claim to it lasts as long as the mapping that it is for,
//! during which no other file can get that number. Other processes, and writes by way of `std::fs`, claim nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::{Mutex, MutexGuard};

use crate::sync::lock;

/// Device and number of a file.
type FileId = (u64, u64);

/// What a claim is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// Slices are made of the bytes, which nobody may write meanwhile.
    Frozen,
    /// The bytes are written: by engines, which order their reads and writes among themselves.
    Written,
}

/// How many claims of one kind there are to each file.
static CLAIMS: Mutex<Option<HashMap<FileId, (Use, usize)>>> = Mutex::new(None);

/// A claim to a file, which ends when it is dropped: after the mapping that it is for.
#[must_use = "a claim ends when it is dropped"]
#[derive(Debug)]
pub(crate) struct Claim {
    /// `None` where the system does not say which file it is.
    file: Option<FileId>,
}

impl Claim {
    /// A claim to what `descriptor` leads to.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] when this process has claimed it for the other use; those of fstat(2).
    #[cfg(target_os = "linux")]
    pub(crate) fn to(descriptor: impl std::os::fd::AsFd, wanted: Use) -> io::Result<Self> {
        let status = rustix::fs::fstat(descriptor)?;
        Self::to_file((status.st_dev, status.st_ino), wanted)
    }

    /// As above.
    #[cfg(all(unix, not(target_os = "linux")))]
    pub(crate) fn to(file: &std::fs::File, wanted: Use) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;

        let metadata = file.metadata()?;
        Self::to_file((metadata.dev(), metadata.ino()), wanted)
    }

    /// On this system files have no numbers that last: nothing is claimed.
    #[cfg(not(unix))]
    pub(crate) fn to(_: &std::fs::File, _: Use) -> io::Result<Self> {
        Ok(Self { file: None })
    }

    #[cfg_attr(not(unix), expect(dead_code, reason = "there are no numbers"))]
    fn to_file(file: FileId, wanted: Use) -> io::Result<Self> {
        match claims().get_or_insert_default().entry(file) {
            Entry::Vacant(free) => {
                free.insert((wanted, 1));
            }
            Entry::Occupied(mut taken) => match taken.get_mut() {
                (held, count) if *held == wanted => *count += 1,
                (Use::Frozen, _) => return Err(busy("this process has it mapped as a file that nobody writes")),
                (Use::Written, _) => return Err(busy("this process writes it: commit the result file, or drop it")),
            },
        }
        Ok(Self { file: Some(file) })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = claims();
        let (Some(file), Some(claims)) = (self.file, claims.as_mut()) else { return };
        if let Entry::Occupied(mut taken) = claims.entry(file) {
            taken.get_mut().1 -= 1;
            if taken.get().1 == 0 {
                taken.remove();
            }
        }
    }
}

fn claims() -> MutexGuard<'static, Option<HashMap<FileId, (Use, usize)>>> {
    lock(&CLAIMS)
}

fn busy(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_claimed_for_one_use_as_often_as_asked() {
        // No file of this machine has such a device.
        let to = |number, wanted| Claim::to_file((u64::MAX, number), wanted);
        for (first, second) in [(Use::Frozen, Use::Written), (Use::Written, Use::Frozen)] {
            let (one, two) = (to(1, first).unwrap(), to(1, first).unwrap());
            assert_eq!(to(1, second).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
            drop(to(2, second).unwrap());
            drop(one);
            // A refusal took nothing away, and neither did an end too many.
            assert_eq!(to(1, second).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
            drop(two);
            drop(to(1, second).unwrap());
        }
        assert!(claims().as_ref().is_some_and(|claims| !claims.keys().any(|(device, _)| *device == u64::MAX)));
    }

    #[cfg(unix)]
    #[test]
    fn every_name_of_a_file_leads_to_its_claim() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        let file = std::fs::File::create_new(&first).unwrap();
        std::fs::hard_link(&first, &second).unwrap();
        let claim = Claim::to(&file, Use::Written).unwrap();
        drop(file);
        let again = std::fs::File::open(&second).unwrap();
        assert_eq!(Claim::to(&again, Use::Frozen).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(claim);
        drop(Claim::to(&again, Use::Frozen).unwrap());
    }
}
