//! Result files that appear whole or not at all.
//!
//! The data goes to a temporary file in the directory of the target, which [`OutputFile::commit`] renames over the
//! target. rename(2) replaces the target atomically: whoever opens it sees the old file or the new one, never a part.
//!
//! Decisions:
//! - An existing regular file may be replaced; anything else at the target (a directory, `/dev/null`, a pipe) is
//!   refused, because renaming over a device would replace the device.
//! - A symbolic link is followed, as writing to it would: the file it points to is replaced and the link stays.
//! - The new file has the mode of any new file (0666 without the umask); owner, mode and further hard links of a
//!   replaced file are not carried over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf, is_separator};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

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
/// Not promised: a process that is killed, or that calls `std::process::exit`, leaves its temporary file
/// (`.workring-<process id>-<number>.tmp`) in the directory of the target; the target itself is untouched. Of several
/// commits to one target the last one wins.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    renamed: bool,
}

impl OutputFile {
    /// Creates a zero-filled temporary file of `len_bytes` beside `target`.
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
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);
        let target = resolve(target.as_ref())?;
        let (file, temporary) = create_temporary(&target, &NEXT_NUMBER)?;
        // From here on dropping removes the temporary file, so every error leaves nothing behind.
        let output = Self { file, temporary, target, renamed: false };
        reserve(&output.file, len_bytes)
            .map_err(|error| Error::io(format!("reserve {len_bytes} bytes for {}", output.target.display()), error))?;
        Ok(output)
    }

    /// The temporary file, open for reading and writing, e.g. to be mapped.
    ///
    /// It may be shortened before [`commit`](Self::commit) if the result is shorter than expected, as long as nobody
    /// touches a mapping of the part cut off. A mapping of it is a mapping of the target after the commit.
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
    /// [`Durability::Machine`] it is also on the disk. Blocks for the disk with [`Durability::Machine`] only.
    ///
    /// # Errors
    /// [`Error::Io`] with the path. The old target is untouched and the temporary file is gone, with one exception: if
    /// the directory cannot be synced (the operation is `sync directory ...`), the new file is in place but may not
    /// survive a crash of the machine.
    pub fn commit(mut self, durability: Durability) -> Result<()> {
        if durability == Durability::Machine {
            self.file
                .sync_all()
                .map_err(|error| Error::io(format!("sync the data of {}", self.target.display()), error))?;
        }
        fs::rename(&self.temporary, &self.target).map_err(|error| {
            Error::io(format!("rename {} to {}", self.temporary.display(), self.target.display()), error)
        })?;
        self.renamed = true;
        if durability == Durability::Machine {
            let directory = directory_of(&self.target);
            sync_directory(directory)
                .map_err(|error| Error::io(format!("sync directory {}", directory.display()), error))?;
        }
        Ok(())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.renamed {
            // There is nobody to tell; what cannot be removed now stays as a file of a killed process would.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// The absolute path of a regular file that exists or of one that could be created; symbolic links at its end are
/// followed.
fn resolve(target: &Path) -> Result<PathBuf> {
    let refuse = |kind: io::ErrorKind, reason: &'static str| {
        Err(Error::io(format!("create {}", target.display()), io::Error::new(kind, reason)))
    };
    let fail = |error: io::Error| Error::io(format!("create {}", target.display()), error);
    match fs::metadata(target) {
        Ok(metadata) if metadata.is_dir() => {
            refuse(io::ErrorKind::IsADirectory, "it is a directory; name a file in it")
        }
        Ok(metadata) if !metadata.is_file() => {
            refuse(io::ErrorKind::InvalidInput, "it exists and is not a regular file; choose another name")
        }
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

/// Creates a file with a name of its own in the directory of `target`, open for reading and writing.
///
/// The name does not contain that of the target, which may already be as long as the file system allows.
fn create_temporary(target: &Path, next_number: &AtomicU64) -> Result<(File, PathBuf)> {
    let directory = directory_of(target);
    let process = std::process::id();
    let mut outcome = Err(io::Error::from(io::ErrorKind::AlreadyExists));
    for _ in 0..NAMES_MAX {
        // Relaxed: only the number matters, nothing is published with it; two threads never get the same one.
        let number = next_number.fetch_add(1, Ordering::Relaxed);
        let temporary = directory.join(format!(".workring-{process}-{number}.tmp"));
        // O_EXCL: never opens a file, or follows a link, that somebody else put there.
        outcome =
            OpenOptions::new().read(true).write(true).create_new(true).open(&temporary).map(|file| (file, temporary));
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
    match File::open(directory)?.sync_all() {
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
    fn failure<T>(result: Result<T>) -> (String, io::ErrorKind) {
        match result {
            Err(Error::Io { operation, source }) => (format!("{operation}: {source}"), source.kind()),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("must fail"),
        }
    }

    #[test]
    fn a_committed_file_takes_its_place() {
        for durability in [Durability::Process, Durability::Machine] {
            let directory = TempDir::new().unwrap();
            let target = directory.path().join("result.npy");
            let output = OutputFile::create(&target, 10_000).unwrap();
            assert!(!target.exists());
            assert_eq!(names_in(directory.path()).len(), 1);
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
        let directory = TempDir::new().unwrap();
        drop(OutputFile::create(directory.path().join("new"), 100).unwrap());
        assert!(names_in(directory.path()).is_empty());

        let target = directory.path().join("old");
        fs::write(&target, "old").unwrap();
        let output = OutputFile::create(&target, 100).unwrap();
        output.file().write_all(b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        drop(output);
        assert_eq!(names_in(directory.path()), ["old"]);
        assert_eq!(fs::read(&target).unwrap(), b"old");
    }

    #[test]
    fn a_panic_leaves_nothing() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        let outcome = std::panic::catch_unwind(|| {
            let _output = OutputFile::create(&target, 100).unwrap();
            std::panic::resume_unwind(Box::new("kernel"));
        });
        assert!(outcome.is_err());
        assert!(names_in(directory.path()).is_empty());
    }

    #[test]
    fn an_existing_target_is_replaced_and_its_readers_keep_the_old_one() {
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        fs::write(&target, "the old result").unwrap();
        let mut reader = File::open(&target).unwrap();
        let output = OutputFile::create(&target, 3).unwrap();
        output.file().write_all(b"new").unwrap();
        output.commit(Durability::Process).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        let mut old = String::new();
        reader.read_to_string(&mut old).unwrap();
        assert_eq!(old, "the old result");
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
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        let first = OutputFile::create(&target, 0).unwrap();
        let second = OutputFile::create(&target, 0).unwrap();
        first.file().write_all(b"first").unwrap();
        second.file().write_all(b"second").unwrap();
        second.commit(Durability::Process).unwrap();
        first.commit(Durability::Process).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"first");
        assert_eq!(names_in(directory.path()), ["result"]);
    }

    #[test]
    fn readers_see_whole_files_while_writers_replace_them() {
        const LENGTH: usize = 4096;
        let directory = TempDir::new().unwrap();
        let target = directory.path().join("result");
        fs::write(&target, [b'0'; LENGTH]).unwrap();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (b'1'..=b'2')
                .map(|content| {
                    let target = &target;
                    scope.spawn(move || {
                        for _ in 0..100 {
                            let output = OutputFile::create(target, LENGTH as u64).unwrap();
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
        assert!(message.starts_with("rename ") && message.contains(&target.display().to_string()), "{message}");
        assert_eq!(names_in(directory.path()), ["result"]);
        assert_eq!(names_in(&target), ["inside"]);
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
        let (_, temporary) = create_temporary(&target, &AtomicU64::new(0)).unwrap();
        assert_eq!(temporary, directory.path().join(name(3)));
        assert_eq!(fs::read(directory.path().join(name(0))).unwrap(), b"left");

        for number in 3..u64::from(NAMES_MAX) {
            fs::write(directory.path().join(name(number)), "left").unwrap();
        }
        let (message, kind) = failure(create_temporary(&target, &AtomicU64::new(0)));
        assert_eq!(kind, io::ErrorKind::AlreadyExists, "{message}");
        assert!(create_temporary(&target, &AtomicU64::new(1)).is_ok());
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
        let output = OutputFile::create(&link, 3).unwrap();
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
    #[test]
    fn the_mode_is_that_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;

        let directory = TempDir::new().unwrap();
        let (usual, target) = (directory.path().join("usual"), directory.path().join("result"));
        File::create(&usual).unwrap();
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        OutputFile::create(&target, 3).unwrap().commit(Durability::Process).unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&usual));
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
