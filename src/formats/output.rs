//! Result files that appear whole or not at all.
//!
//! The data goes to a file without a name on the file system of the target (`O_TMPFILE`, Linux), which
//! [`OutputFile::commit`] gives its name: whatever ends the process before, `kill -9` or a loss of power, nothing is left.
//! Where the file system or the system has no such files, it goes to a temporary file in the directory of the target,
//! which is renamed. A program that opens the target sees the old file or the new one, never a part.
//!
//! Decisions:
//! - linkat(2) gives a new name in one step but replaces nothing. In the place of an existing file the new one gets a
//!   temporary name first, and rename(2) replaces the target atomically. Between the two calls, and only there, a kill
//!   leaves that name, with a whole file.
//! - An existing regular file may be replaced; anything else at the target (a directory, `/dev/null`, a pipe) is
//!   refused, because renaming over a device would replace the device.
//! - A symbolic link is followed, as writing to it would: the file it points to is replaced and the link stays.
//! - A file that replaces another takes over its permissions, access list and group, and its owner where this process may
//!   give files away. A new file has the mode of any new file (0666 without the umask). Further hard links of a replaced
//!   file keep the old contents.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Seek};
use std::path::{Path, PathBuf, is_separator};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::error::{Error, Failed, Result};
use crate::os::file;
use crate::sync::lock;

/// How many temporary names are tried. A name is taken only if a killed process with the same id left it behind.
const NAMES_MAX: u32 = 128;

/// What a result survives once [`OutputFile::commit`] has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, however violent. After a crash of the machine the target may be the old file, the new
    /// one, or (on file systems that do not order data before a rename) a damaged one.
    Process,
    /// A crash of the machine or a loss of power too: the data and the rename are on the disk. Takes as long as the
    /// disk needs to write all that is not yet written.
    Machine,
}

/// A result file in the making: it takes its place when it is committed, and leaves nothing behind when it is dropped.
///
/// Nor does it when the process is killed, where the file system has files without names: those of Linux for disks and
/// memory do. Elsewhere a process that is killed leaves a temporary file (`.workring-<process id>-<number>.tmp`) in the
/// directory of the target, and so does one that calls `std::process::exit` without [`discard_unfinished`]; the target
/// itself is untouched. Of several commits to one target the last one wins.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    /// `None` for a file without a name.
    temporary: Option<TemporaryName>,
    target: PathBuf,
}

impl OutputFile {
    /// Creates a zero-filled file of `len_bytes` that will be `target`.
    ///
    /// On Linux the disk space is reserved, so that a full disk is an error here and not a SIGBUS when the mapped file
    /// is written. This is not promised where the file system cannot reserve (e.g. NFS before 4.2), and file systems
    /// that copy on write may run out later all the same. Blocks for as long as the file system takes. A relative
    /// `target` is resolved now: changing the working directory later does not move it.
    ///
    /// # Errors
    /// [`Error::Io`] with the path if the directory does not exist or cannot be written, if `target` is a directory or
    /// anything else but a regular file, if it is a symbolic link to nothing, or if there is no space for `len_bytes`.
    /// Nothing is left behind.
    pub fn create(target: impl AsRef<Path>, len_bytes: u64) -> Result<Self> {
        Self::create_with(target.as_ref(), len_bytes, file::create_unnamed)
    }

    /// As [`create`](Self::create), with the way to make a file without a name. Whatever it fails with, a named one is
    /// tried: what that fails with is the error.
    fn create_with(
        target: &Path,
        len_bytes: u64,
        create_unnamed: impl FnOnce(&Path) -> io::Result<File>,
    ) -> Result<Self> {
        let target = resolve(target)?;
        let (file, temporary) = match create_unnamed(directory_of(&target)) {
            Ok(file) => (file, None),
            Err(_) => {
                let (file, name) = create_named(&target)?;
                (file, Some(name))
            }
        };
        // From here on dropping removes the temporary file, so every error leaves nothing behind.
        let output = Self { file, temporary, target };
        reserve(&output.file, len_bytes)
            .map_err(|error| Error::io(format!("reserve {len_bytes} bytes for {}", output.target.display()), error))?;
        Ok(output)
    }

    /// The file, open for reading and writing, e.g. to be mapped.
    ///
    /// It may be shortened before [`commit`](Self::commit) if the result is shorter than expected, as long as nobody
    /// touches a mapping of the part cut off.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the file will appear: an absolute path without a symbolic link at its end.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Puts the file in its place, replacing what was there.
    ///
    /// What was written through shared mappings of [`file`](Self::file) before the call is part of the file; with
    /// [`Durability::Machine`] it is also on the disk. Blocks for the disk with [`Durability::Machine`] only; where the
    /// system makes files without names and yet gives them none, the file is copied.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, and the file itself: the old target is untouched, and what was written is not lost. It can
    /// be committed again when the reason is gone, or read and put elsewhere. With one exception nothing comes back
    /// (`None`): if the directory cannot be synced (the operation is `sync directory ...`), the new file is in place but may
    /// not survive a crash of the machine.
    pub fn commit(mut self, durability: Durability) -> Result<(), Failed<Option<Box<Self>>>> {
        if let Err(error) = self.put_in_place(durability) {
            return Err(Failed::new(error, Some(Box::new(self))));
        }
        self.sync_place(durability).map_err(|error| Failed::new(error, None))
    }

    /// The first half of [`commit`](Self::commit), up to the moment when the file has its name.
    ///
    /// # Errors
    /// As there. The file is as it was then, and this may be called again.
    pub(crate) fn put_in_place(&mut self, durability: Durability) -> Result<()> {
        self.put_in_place_with(durability, file::give_name)
    }

    /// The second half: with [`Durability::Machine`] the name is on the disk, too.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub(crate) fn sync_place(&self, durability: Durability) -> Result<()> {
        if durability == Durability::Machine {
            let directory = directory_of(&self.target);
            sync_directory(directory)
                .map_err(|error| Error::io(format!("sync directory {}", directory.display()), error))?;
        }
        Ok(())
    }

    /// As [`put_in_place`](Self::put_in_place), with the way to name a file that has no name.
    fn put_in_place_with(
        &mut self,
        durability: Durability,
        mut give_name: impl FnMut(&File, &Path) -> io::Result<()>,
    ) -> Result<()> {
        sync_data(&self.file, &self.target, durability)?;
        let is_new = !adopt_access_of(&self.target, &self.file)?;
        if let Some(name) = &self.temporary {
            name.replace(&self.target)?;
            self.temporary = None;
        } else if !(is_new && give_name(&self.file, &self.target).is_ok()) {
            // When this fails the temporary name goes; the file stays without one.
            self.name_temporarily(durability, give_name)?.replace(&self.target)?;
        }
        Ok(())
    }

    /// Gives a file without a name a temporary one. Where it cannot have one, a copy of it gets it: what was computed is
    /// not lost to a rule about links.
    fn name_temporarily(
        &self,
        durability: Durability,
        mut give_name: impl FnMut(&File, &Path) -> io::Result<()>,
    ) -> Result<TemporaryName> {
        // The target may have come into being since it was looked at.
        adopt_access_of(&self.target, &self.file)?;
        if let Ok(((), name)) = TemporaryName::take(&UNFINISHED, &self.target, |path| give_name(&self.file, path)) {
            return Ok(name);
        }
        let (mut copy, name) = create_named(&self.target)?;
        let mut file = &self.file;
        file.rewind()
            .and_then(|()| io::copy(&mut file, &mut copy))
            .map_err(|error| Error::io(format!("write {}", self.target.display()), error))?;
        sync_data(&copy, &self.target, durability)?;
        adopt_access_of(&self.target, &copy)?;
        Ok(name)
    }
}

/// Removes the temporary files of all results that this process has not committed, and lets it make no more of them. To be
/// called last of all by a process that ends without dropping what it has, as by `std::process::exit`; commits fail afterwards.
///
/// Files without names need nothing of the kind. Waits for what other threads are doing to the names at the moment: a call
/// to the file system.
pub fn discard_unfinished() {
    UNFINISHED.discard();
}

/// The temporary names of this process.
static UNFINISHED: NameList = NameList::new();

/// Temporary names, to be removed when the process ends in between.
#[derive(Debug)]
struct NameList {
    /// `None` when there are to be no more.
    names: Mutex<Option<Vec<PathBuf>>>,
    next_number: AtomicU64,
}

impl NameList {
    const fn new() -> Self {
        Self { names: Mutex::new(Some(Vec::new())), next_number: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<PathBuf>>> {
        lock(&self.names)
    }

    fn discard(&self) {
        // A name that cannot be removed stays as that of a killed process would.
        self.lock().take().into_iter().flatten().for_each(|name| drop(fs::remove_file(name)));
    }
}

/// A temporary file's name, which is removed on drop.
#[derive(Debug)]
struct TemporaryName {
    path: PathBuf,
    list: &'static NameList,
}

impl TemporaryName {
    /// Has `make` make a file with a name of its own in the directory of `target`.
    ///
    /// The name does not contain that of the target, which may already be as long as the file system allows.
    fn take<T>(
        list: &'static NameList,
        target: &Path,
        mut make: impl FnMut(&Path) -> io::Result<T>,
    ) -> Result<(T, Self)> {
        let directory = directory_of(target);
        let process = std::process::id();
        let mut outcome = Err(io::Error::from(io::ErrorKind::AlreadyExists));
        // Held while the file is made: it is either on the list or not there.
        let mut listed = list.lock();
        for _ in 0..NAMES_MAX {
            let Some(names) = listed.as_mut() else {
                outcome = Err(io::Error::other("the process is ending"));
                break;
            };
            // Relaxed: only the number matters, nothing is published with it; two threads never get the same one.
            let number = list.next_number.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!(".workring-{process}-{number}.tmp"));
            outcome = make(&path).map(|made| {
                names.push(path.clone());
                (made, Self { path, list })
            });
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                _ => break,
            }
        }
        outcome.map_err(|error| {
            let operation =
                format!("create a temporary file in directory {} for {}", directory.display(), target.display());
            Error::io(operation, error)
        })
    }

    /// Renames the file to `target`, replacing what is there.
    fn replace(&self, target: &Path) -> Result<()> {
        // Dropping it after that finds no file of the name any more.
        fs::rename(&self.path, target)
            .map_err(|error| Error::io(format!("rename {} to {}", self.path.display(), target.display()), error))
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        let mut listed = self.list.lock();
        // There is nobody to tell; what cannot be removed now stays as a file of a killed process would.
        let _ = fs::remove_file(&self.path);
        if let Some(names) = listed.as_mut() {
            names.retain(|name| *name != self.path);
        }
    }
}

/// Makes `file` as open to others as the regular file at `target`; `false` if there is none.
fn adopt_access_of(target: &Path, file: &File) -> Result<bool> {
    let failed = |error| Error::io(format!("take over the permissions of {}", target.display()), error);
    let old = match fs::symlink_metadata(target) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    // Somebody may have put something else there since the file was created. A link is replaced by the file: where it
    // leads was not looked at.
    if old.is_file() {
        file::adopt_access(file, target, &old).map_err(failed)?;
    } else if !old.is_symlink() {
        return Err(refusal(target, io::ErrorKind::InvalidInput, &not_a_file(&old)));
    }
    Ok(true)
}

fn refusal(target: &Path, kind: io::ErrorKind, reason: &str) -> Error {
    Error::io(format!("create {}", target.display()), io::Error::new(kind, reason))
}

fn not_a_file(metadata: &Metadata) -> String {
    let kind = file::kind_of(metadata.file_type());
    format!("there is {kind} of that name, not a regular file; choose another name")
}

/// The absolute path of a regular file that exists or of one that could be created; symbolic links at its end are
/// followed.
fn resolve(target: &Path) -> Result<PathBuf> {
    let refuse = |kind: io::ErrorKind, reason: &str| Err(refusal(target, kind, reason));
    let fail = |error: io::Error| Error::io(format!("create {}", target.display()), error);
    match fs::metadata(target) {
        Ok(metadata) if metadata.is_dir() => {
            refuse(io::ErrorKind::IsADirectory, "it is a directory; name a file in it")
        }
        Ok(metadata) if !metadata.is_file() => refuse(io::ErrorKind::InvalidInput, &not_a_file(&metadata)),
        Ok(_) => fs::canonicalize(target).map_err(fail),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(target).is_ok() {
                return refuse(io::ErrorKind::NotFound, "it is a symbolic link to nothing; remove the link");
            }
            if target.file_name().is_none() || names_directory(target) {
                return refuse(io::ErrorKind::InvalidInput, "it does not end in the name of a file");
            }
            std::path::absolute(target).map_err(fail)
        }
        Err(error) => Err(fail(error)),
    }
}

/// Whether a path ends in a separator, or in `.` after one, which [`Path::file_name`] would drop in silence.
fn names_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    let name = bytes.strip_suffix(b".").unwrap_or(bytes);
    name.last().is_some_and(|&byte| byte.is_ascii() && is_separator(char::from(byte)))
}

/// The directory of an absolute path that ends in a file name.
fn directory_of(target: &Path) -> &Path {
    target.parent().unwrap_or(target)
}

/// Creates a temporary file beside `target`, open for reading and writing.
fn create_named(target: &Path) -> Result<(File, TemporaryName)> {
    let mut options = OpenOptions::new();
    // O_EXCL: never opens a file, or follows a link, that somebody else put there.
    options.read(true).write(true).create_new(true);
    // What will be private is so from the beginning.
    #[cfg(unix)]
    if target.exists() {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    TemporaryName::take(&UNFINISHED, target, |path| options.open(path))
}

/// Puts what was written to a file on the disk, if it has to be there.
fn sync_data(file: &File, target: &Path, durability: Durability) -> Result<()> {
    match durability {
        Durability::Process => Ok(()),
        Durability::Machine => {
            file.sync_all().map_err(|error| Error::io(format!("sync the data of {}", target.display()), error))
        }
    }
}

/// Gives an empty file its length in zeros, and its disk space where that can be had.
fn reserve(file: &File, len_bytes: u64) -> io::Result<()> {
    // Beyond this limit the system sends SIGXFSZ, which ends a process that does not expect it.
    #[cfg(target_os = "linux")]
    if rustix::process::getrlimit(rustix::process::Resource::Fsize).current.is_some_and(|limit| len_bytes > limit) {
        return Err(rustix::io::Errno::FBIG.into());
    }
    file.set_len(len_bytes)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match allocate_in_pieces(len_bytes, |offset, length| fallocate(file, FallocateFlags::empty(), offset, length)) {
            // The file system cannot reserve: the file stays sparse.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Calls `allocate(offset, length)` for consecutive pieces of `len_bytes`, repeating what a signal interrupts.
///
/// tmpfs undoes an interrupted fallocate(2), so that one call for a large file would never end in a process with a
/// profiling timer. A piece takes a few milliseconds at most.
#[cfg(target_os = "linux")]
fn allocate_in_pieces(
    len_bytes: u64,
    mut allocate: impl FnMut(u64, u64) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    use rustix::io::Errno;

    const PIECE_BYTES: u64 = 4 << 20;
    const INTERRUPTIONS_MAX: u32 = 100;
    let mut offset = 0;
    let mut interruptions = 0;
    while offset < len_bytes {
        let length = PIECE_BYTES.min(len_bytes - offset);
        match allocate(offset, length) {
            Ok(()) => (offset, interruptions) = (offset + length, 0),
            Err(Errno::INTR) if interruptions < INTERRUPTIONS_MAX => interruptions += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes the entries of a directory durable, where the platform can.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match file::open_directory(directory)?.sync_all() {
        // fsync(2): EINVAL where the file system does not support syncing this kind of file. There is nothing else to
        // try.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tempfile::TempDir;

    use super::*;

    fn names_in(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The error of a call that must fail, with operation and source as one text.
    fn failure<T>(result: Result<T, impl Into<Error>>) -> (String, io::ErrorKind) {
        match result.map_err(Into::into) {
            Err(Error::Io { operation, source }) => (format!("{operation}: {source}"), source.kind()),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("must fail"),
        }
    }

    /// Both kinds of file in the making: without a name, where the file system has such files, and with a temporary one.
    const KINDS: [fn(&Path) -> io::Result<File>; 2] =
        [file::create_unnamed, |_| Err(io::ErrorKind::Unsupported.into())];

    /// Whether the file system of a directory has files without names.
    fn has_unnamed(directory: &Path) -> bool {
        file::create_unnamed(directory).is_ok()
    }

    #[test]
    fn a_committed_file_takes_its_place() {
        for (durability, kind) in [Durability::Process, Durability::Machine].into_iter().zip(KINDS) {
            let directory = TempDir::new().unwrap();
            let target = directory.path().join("result.npy");
            let output = OutputFile::create_with(&target, 10_000, kind).unwrap();
            assert!(!target.exists());
            let names = usize::from(output.temporary.is_some());
            assert_eq!(names_in(directory.path()).len(), names);
            assert_eq!(output.target(), target);
            output.file().write_all(b"result").unwrap();
            output.commit(durability).unwrap();
            assert_eq!(names_in(directory.path()), ["result.npy"]);
            let mut expected = b"result".to_vec();
            expected.resize(10_000, 0);
            assert_eq!(fs::read(&target).unwrap(), expected);
        }
    }

    #[test]
    fn a_dropped_file_leaves_nothing_and_the_old_target_untouched() {
        for kind in KINDS {
            let directory = TempDir::new().unwrap();
            drop(OutputFile::create_with(&directory.path().join("new"), 100, kind).unwrap());
            assert!(names_in(directory.path()).is_empty());

            let target = directory.path().join("old");
            fs::write(&target, "old").unwrap();
            let output = OutputFile::create_with(&target, 100, kind).unwrap();
            output.file().write_all(b"new").unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"old");
            drop(output);
            assert_eq!(names_in(directory.path()), ["old"]);
            assert_eq!(fs::read(&target).unwrap(), b"old");
        }
    }

    #[test]
    fn a_panic_leaves_nothing() {
        for kind in KINDS {
            let directory = TempDir::new().unwrap();
            let target = directory.path().join("result");
            let outcome = std::panic::catch_unwind(|| {
                let _output = OutputFile::create_with(&target, 100, kind).unwrap();
                std::panic::resume_unwind(Box::new("kernel"));
            });
            assert!(outcome.is_err());
            assert!(names_in(directory.path()).is_empty());
        }
    }

    #[test]
    fn an_existing_target_is_replaced_and_its_readers_keep_the_old_one() {
        for kind in KINDS {
            let directory = TempDir::new().unwrap();
            let target = directory.path().join("result");
            fs::write(&target, "the old result").unwrap();
            let mut reader = File::open(&target).unwrap();
            let output = OutputFile::create_with(&target, 3, kind).unwrap();
            output.file().write_all(b"new").unwrap();
            output.commit(Durability::Process).unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"new");
            assert_eq!(names_in(directory.path()), ["result"]);
            let mut old = String::new();
            reader.read_to_string(&mut old).unwrap();
            assert_eq!(old, "the old result");
        }
    }

    #[test]
    fn an_empty_result_and_a_shortened_one_have_their_lengths() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        OutputFile::create(&target, 0).unwrap().commit(Durability::Process).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().len(), 0);
        let output = OutputFile::create(&target, 5000).unwrap();
        output.file().set_len(17).unwrap();
        output.commit(Durability::Process).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().len(), 17);
    }

    #[test]
    fn the_last_of_several_commits_wins() {
        for kind in KINDS {
            let directory = TempDir::new().unwrap();
            let target = directory.path().join("result");
            let first = OutputFile::create_with(&target, 0, kind).unwrap();
            let second = OutputFile::create_with(&target, 0, kind).unwrap();
            first.file().write_all(b"first").unwrap();
            second.file().write_all(b"second").unwrap();
            second.commit(Durability::Process).unwrap();
            first.commit(Durability::Process).unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"first");
            assert_eq!(names_in(directory.path()), ["result"]);
        }
    }

    #[test]
    fn readers_see_whole_files_while_writers_replace_them() {
        const LENGTH: usize = 4096;
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        fs::write(&target, [b'0'; LENGTH]).unwrap();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (b'1'..=b'2')
                .zip(KINDS)
                .map(|(content, kind)| {
                    let target = &target;
                    scope.spawn(move || {
                        for _ in 0..100 {
                            let output = OutputFile::create_with(target, LENGTH as u64, kind).unwrap();
                            for part in [content; LENGTH].chunks(LENGTH / 4) {
                                output.file().write_all(part).unwrap();
                            }
                            output.commit(Durability::Process).unwrap();
                        }
                    })
                })
                .collect();
            loop {
                let finished = writers.iter().all(|writer| writer.is_finished());
                let bytes = fs::read(&target).unwrap();
                assert_eq!(bytes.len(), LENGTH);
                assert!(bytes.iter().all(|&byte| byte == bytes[0]));
                if finished {
                    break;
                }
            }
        });
        assert_eq!(names_in(directory.path()), ["result"]);
    }

    #[test]
    fn a_directory_is_refused() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("inner");
        fs::create_dir(&target).unwrap();
        for path in [target.clone(), target.join(""), target.join("."), target.join("..")] {
            let (message, kind) = failure(OutputFile::create(&path, 10));
            assert_eq!(kind, io::ErrorKind::IsADirectory, "{message}");
            assert!(message.starts_with(&format!("create {}: it is a directory", path.display())), "{message}");
        }
        assert_eq!(names_in(directory.path()), ["inner"]);
        assert!(names_in(&target).is_empty());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let directory = TempDir::new().unwrap();
        let missing = directory.path().join("missing");
        let target = missing.join("result");
        let (message, kind) = failure(OutputFile::create(&target, 10));
        assert_eq!(kind, io::ErrorKind::NotFound);
        let expected = format!("create a temporary file in directory {} for {}", missing.display(), target.display());
        assert!(message.starts_with(&expected), "{message}");
        assert!(names_in(directory.path()).is_empty());
    }

    #[test]
    fn a_path_that_names_no_file_is_refused() {
        let directory = TempDir::new().unwrap();
        for path in ["", "new/", "new/.", "new/.."] {
            let path = if path.is_empty() { PathBuf::new() } else { directory.path().join(path) };
            let (message, kind) = failure(OutputFile::create(&path, 10));
            assert_eq!(kind, io::ErrorKind::InvalidInput, "{message}");
            assert_eq!(message, format!("create {}: it does not end in the name of a file", path.display()));
        }
        assert!(names_in(directory.path()).is_empty());
        // Names that only look like it.
        for name in ["...", "new.", ".new"] {
            OutputFile::create(directory.path().join(name), 10).unwrap();
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_an_error() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "kept").unwrap();
        let (message, _) = failure(OutputFile::create(file.join("result"), 10));
        assert!(message.contains(&file.join("result").display().to_string()), "{message}");
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn an_impossible_length_is_an_error_and_leaves_nothing() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        let (message, _) = failure(OutputFile::create(&target, u64::MAX));
        assert!(message.starts_with(&format!("reserve {} bytes for {}: ", u64::MAX, target.display())), "{message}");
        assert!(names_in(directory.path()).is_empty());
    }

    #[test]
    fn a_failed_commit_leaves_nothing() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        let output = OutputFile::create(&target, 10).unwrap();
        // Somebody puts a directory there in the meantime.
        fs::create_dir(&target).unwrap();
        fs::write(target.join("inside"), "kept").unwrap();
        let (message, _) = failure(output.commit(Durability::Machine));
        let expected = format!("create {}: there is a directory of that name", target.display());
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(names_in(directory.path()), ["result"]);
        assert_eq!(names_in(&target), ["inside"]);
    }

    /// A commit that failed dropped the file with hours of work in it.
    #[test]
    fn a_file_whose_commit_failed_comes_back_and_can_be_committed_again() {
        for kind in KINDS {
            for durability in [Durability::Process, Durability::Machine] {
                let directory = TempDir::new().unwrap();
                let target = directory.path().join("result");
                let output = OutputFile::create_with(&target, 0, kind).unwrap();
                output.file().write_all(b"result").unwrap();
                // Twice: no attempt uses up what the next one needs.
                fs::create_dir(&target).unwrap();
                let output = output.commit(durability).unwrap_err().returned.unwrap();
                let mut output = output.commit(durability).unwrap_err().returned.unwrap();
                fs::remove_dir(&target).unwrap();
                if output.temporary.is_none() {
                    // Here after it was looked at.
                    let appear = |_: &File, _: &Path| {
                        fs::create_dir(&target).unwrap();
                        Err(io::ErrorKind::AlreadyExists.into())
                    };
                    output.put_in_place_with(durability, appear).unwrap_err();
                    fs::remove_dir(&target).unwrap();
                }
                output.commit(durability).unwrap();
                assert_eq!(fs::read(&target).unwrap(), b"result");
                assert_eq!(names_in(directory.path()), ["result"]);
            }
        }
    }

    #[test]
    fn a_relative_target_is_made_absolute() {
        let name = "result that no test creates";
        assert_eq!(resolve(Path::new(name)).unwrap(), std::env::current_dir().unwrap().join(name));
    }

    #[test]
    fn a_target_with_the_longest_name_can_be_written() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("n".repeat(255));
        OutputFile::create(&target, 10).unwrap().commit(Durability::Process).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().len(), 10);
    }

    #[test]
    fn names_left_behind_are_skipped_until_there_are_too_many() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        let name = |number: u64| format!(".workring-{}-{number}.tmp", std::process::id());
        for number in 0..3 {
            fs::write(directory.path().join(name(number)), "left").unwrap();
        }
        let take = |first| {
            let list: &NameList = Box::leak(Box::new(NameList::new()));
            list.next_number.store(first, Ordering::Relaxed);
            TemporaryName::take(list, &target, |path| File::create_new(path))
        };
        let (_, temporary) = take(0).unwrap();
        assert_eq!(temporary.path, directory.path().join(name(3)));
        assert_eq!(fs::read(directory.path().join(name(0))).unwrap(), b"left");

        drop(temporary);
        for number in 3..u64::from(NAMES_MAX) {
            fs::write(directory.path().join(name(number)), "left").unwrap();
        }
        let (message, kind) = failure(take(0));
        assert_eq!(kind, io::ErrorKind::AlreadyExists, "{message}");
        assert!(take(1).is_ok());
    }

    /// A process that ends without dropping what it has left its temporary files behind.
    #[test]
    fn discarded_names_are_gone_and_no_more_are_taken() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        let list: &NameList = Box::leak(Box::new(NameList::new()));
        let take = || TemporaryName::take(list, &target, |path| File::create_new(path));
        let (first, second) = (take().unwrap(), take().unwrap());
        drop(first);
        assert_eq!(list.lock().as_deref(), Some(&[second.1.path.clone()][..]), "what is gone is not removed again");
        list.discard();
        assert!(names_in(directory.path()).is_empty());
        let (message, _) = failure(take());
        assert!(message.contains("the process is ending"), "{message}");
        let (message, kind) = failure(second.1.replace(&target));
        assert_eq!(kind, io::ErrorKind::NotFound, "{message}");
        assert!(names_in(directory.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_are_followed() {
        use std::os::unix::fs::symlink;

        let directory = TempDir::new().unwrap();
        let elsewhere = TempDir::new().unwrap();
        let (real, link) = (elsewhere.path().join("real"), directory.path().join("link"));
        fs::write(&real, "old").unwrap();
        symlink(&real, &link).unwrap();
        let output = OutputFile::create_with(&link, 3, KINDS[1]).unwrap();
        assert_eq!(names_in(elsewhere.path()).len(), 2);
        output.file().write_all(b"new").unwrap();
        output.commit(Durability::Process).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");

        fs::remove_file(&real).unwrap();
        let (message, kind) = failure(OutputFile::create(&link, 3));
        assert_eq!(kind, io::ErrorKind::NotFound);
        assert!(message.contains("symbolic link to nothing"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_refused() {
        let directory = TempDir::new().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [Path::new("/dev/null"), &link] {
            let (message, kind) = failure(OutputFile::create(path, 3));
            assert_eq!(kind, io::ErrorKind::InvalidInput);
            assert!(message.contains("not a regular file"), "{message}");
        }
    }

    #[cfg(unix)]
    fn mode_of(path: &Path) -> u32 {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o7777
    }

    #[cfg(unix)]
    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }

    /// A result that takes the place of a private file stays as private.
    #[cfg(unix)]
    #[test]
    fn a_replaced_file_keeps_its_mode_and_a_new_one_has_that_of_any() {
        for kind in KINDS {
            let directory = TempDir::new().unwrap();
            let (usual, target) = (directory.path().join("usual"), directory.path().join("result"));
            File::create(&usual).unwrap();
            OutputFile::create_with(&target, 3, kind).unwrap().commit(Durability::Process).unwrap();
            assert_eq!(mode_of(&target), mode_of(&usual));
            for mode in [0o600, 0o640, 0o444, 0o755] {
                set_mode(&target, mode);
                let output = OutputFile::create_with(&target, 3, kind).unwrap();
                if let Some(name) = &output.temporary {
                    assert_eq!(mode_of(&name.path), 0o600, "private from the beginning");
                }
                output.commit(Durability::Process).unwrap();
                assert_eq!(mode_of(&target), mode);
            }
            // What counts is the file that is replaced, not the one that was there in the beginning.
            let output = OutputFile::create_with(&target, 3, kind).unwrap();
            set_mode(&target, 0o604);
            output.commit(Durability::Process).unwrap();
            assert_eq!(mode_of(&target), 0o604);
            assert_eq!(names_in(directory.path()), ["result", "usual"]);
        }
    }

    /// Somebody makes the target while the result is computed: linkat(2) replaces nothing.
    #[cfg(unix)]
    #[test]
    fn a_target_that_came_into_being_meanwhile_is_replaced() {
        for kind in KINDS {
            let directory = TempDir::new().unwrap();
            let target = directory.path().join("result");
            let mut output = OutputFile::create_with(&target, 0, kind).unwrap();
            output.file().write_all(b"new").unwrap();
            // Between the look at the target and the link.
            let appear = |file: &File, path: &Path| {
                if !target.exists() {
                    fs::write(&target, "other").unwrap();
                    set_mode(&target, 0o600);
                }
                file::give_name(file, path)
            };
            if output.temporary.is_some() {
                fs::write(&target, "other").unwrap();
                set_mode(&target, 0o600);
            }
            output.put_in_place_with(Durability::Process, appear).unwrap();
            assert_eq!((fs::read(&target).unwrap(), mode_of(&target)), (b"new".to_vec(), 0o600));
            assert_eq!(names_in(directory.path()), ["result"]);
        }
    }

    /// Rules about links (of a security module, say) are known only when the result is there: it must not be lost to them.
    #[cfg(unix)]
    #[test]
    fn a_file_that_can_have_no_name_is_copied() {
        let directory = TempDir::new().unwrap();
        if !has_unnamed(directory.path()) {
            return;
        }
        let target = directory.path().join("result");
        for (durability, mode) in [(Durability::Process, None), (Durability::Machine, Some(0o600))] {
            mode.into_iter().for_each(|mode| set_mode(&target, mode));
            let mut output = OutputFile::create(&target, 5 << 20).unwrap();
            output.file().write_all(b"result").unwrap();
            let refuse = |_: &File, _: &Path| Err(io::ErrorKind::PermissionDenied.into());
            output.put_in_place_with(durability, refuse).unwrap();
            let mut expected = b"result".to_vec();
            expected.resize(5 << 20, 0);
            assert!(fs::read(&target).unwrap() == expected);
            assert_eq!(mode.unwrap_or(mode_of(&target)), mode_of(&target));
            assert_eq!(names_in(directory.path()), ["result"]);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_that_took_the_place_of_the_target_is_not_replaced() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        for kind in KINDS {
            let output = OutputFile::create_with(&target, 3, kind).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, &target, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
                .unwrap();
            let (message, _) = failure(output.commit(Durability::Process));
            assert!(message.contains("there is a FIFO"), "{message}");
            assert_eq!(names_in(directory.path()), ["result"]);
            fs::remove_file(&target).unwrap();
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn space_is_reserved_where_the_file_system_can() {
        use std::os::unix::fs::MetadataExt;

        const LENGTH: u64 = (9 << 20) + 5;
        let directory = TempDir::new().unwrap();
        let probe = File::create(directory.path().join("probe")).unwrap();
        let can = rustix::fs::fallocate(&probe, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).is_ok()
            && probe.metadata().unwrap().blocks() * 512 >= 1 << 20;
        let output = OutputFile::create(directory.path().join("result"), LENGTH).unwrap();
        let metadata = output.file().metadata().unwrap();
        assert_eq!(metadata.len(), LENGTH);
        assert!(!can || metadata.blocks() * 512 >= LENGTH, "{} blocks", metadata.blocks());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pieces_cover_the_length_once_and_interruptions_are_repeated() {
        use rustix::io::Errno;

        for len_bytes in [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (12 << 20) + 7] {
            let (mut covered, mut calls) = (0, 0_u64);
            let result = allocate_in_pieces(len_bytes, |offset, length| {
                calls += 1;
                if calls % 3 != 0 {
                    return Err(Errno::INTR);
                }
                assert_eq!(offset, covered);
                assert!(length > 0);
                covered += length;
                Ok(())
            });
            assert_eq!((result, covered), (Ok(()), len_bytes));
        }
        let mut calls = 0;
        let result = allocate_in_pieces(1, |_, _| {
            calls += 1;
            Err(Errno::INTR)
        });
        assert_eq!((result, calls), (Err(Errno::INTR), 101));
        assert_eq!(allocate_in_pieces(1, |_, _| Err(Errno::NOSPC)), Err(Errno::NOSPC));
    }
}
