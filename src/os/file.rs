//! Files by name: opened without waiting, made without a name, named in one step, and as open to others as the file whose place they
//! take.
//!
//! Opening a FIFO waits for a writer, opening a device can do something to it. So [`open_regular`] looks at what is there before it
//! opens anything, opens in a way that does not wait, and looks again at what it has opened: what was put in the file's place between
//! the two looks is refused without having been waited for.
//!
//! Sources: open(2) (`O_NONBLOCK`, `O_TMPFILE`), linkat(2), fcntl(2) (leases), chown(2), acl(5).

use std::fs::{self, File, FileType, Metadata};
use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// How often a file is tried that another program holds a lease on, and how long is waited in between: longer together than the
/// 45 s after which the kernel breaks a lease (/proc/sys/fs/lease-break-time).
#[cfg(target_os = "linux")]
const LEASE_TRIES: u32 = 6000;
#[cfg(target_os = "linux")]
const LEASE_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Opens a regular file for reading. Waits for nobody but a program that holds a lease on it (fcntl(2)), for a minute at most.
///
/// # Errors
/// [`Error::Format`] if it is anything but a regular file, saying what it is; [`Error::Io`] if the system refuses.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    let failed = |error| Error::io(format!("open {}", path.display()), error);
    check_regular(path, &fs::metadata(path).map_err(failed)?)?;
    let file = open_at_once(path).map_err(failed)?;
    check_regular(path, &file.metadata().map_err(failed)?)?;
    Ok(file)
}

/// Refuses anything but a regular file.
fn check_regular(path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let advice = if metadata.is_dir() { "name a file in it" } else { "write what it gives to a file first" };
    let reason = format!("it is {}, not a regular file; {advice}", kind_of(metadata.file_type()));
    Err(Error::Format { path: path.display().to_string(), reason })
}

/// What a file is, in words.
pub(crate) fn kind_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kinds = [
            (kind.is_fifo(), "a FIFO (named pipe)"),
            (kind.is_socket(), "a socket"),
            (kind.is_char_device(), "a character device"),
            (kind.is_block_device(), "a block device"),
        ];
        if let Some((_, words)) = kinds.into_iter().find(|(is, _)| *is) {
            return words;
        }
    }
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_file() => "a regular file",
        kind if kind.is_symlink() => "a symbolic link",
        _ => "something else",
    }
}

/// Opens what is there for reading, without waiting should it have become a FIFO or a device.
#[cfg(target_os = "linux")]
fn open_at_once(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};

    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let open = || rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
    let file = File::from(open_beside_leases(open, || std::thread::sleep(LEASE_PAUSE))?);
    // Of regular files the flag says nothing, but file systems of others may see it: reading is to be as usual.
    rustix::fs::fcntl_setfl(&file, OFlags::RDONLY)?;
    Ok(file)
}

/// Here the look before is all there is.
#[cfg(not(target_os = "linux"))]
fn open_at_once(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Calls `open` until no lease is in its way. An open that does not wait asks the holder to give the lease up and fails
/// (`EWOULDBLOCK`); it can fail like that for nothing else.
#[cfg(target_os = "linux")]
fn open_beside_leases<F>(mut open: impl FnMut() -> rustix::io::Result<F>, mut pause: impl FnMut()) -> io::Result<F> {
    for _ in 0..LEASE_TRIES {
        match open() {
            Err(rustix::io::Errno::WOULDBLOCK) => pause(),
            outcome => return Ok(outcome?),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "another program holds a lease on it and does not give it up"))
}

/// Opens a directory, to be synced. What is none is not opened.
#[cfg(target_os = "linux")]
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};

    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
    Ok(File::from(rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?))
}

/// Opens a directory, to be synced.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Creates a file for reading and writing that has no name, on the file system of `directory`: when nobody has it open or mapped
/// any more, it is gone. Its mode is that of any new file (0666 without the umask).
///
/// # Errors
/// The system's, where the file system cannot do that, or where [`give_name`] could not find the file again (no /proc).
#[cfg(target_os = "linux")]
pub(crate) fn create_unnamed(directory: &Path) -> io::Result<File> {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{Mode, OFlags};

    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
    let file = File::from(rustix::io::retry_on_intr(|| rustix::fs::open(directory, flags, mode))?);
    let (here, there) = (file.metadata()?, fs::metadata(path_of(&file))?);
    if (here.dev(), here.ino()) != (there.dev(), there.ino()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(file)
}

/// Systems other than Linux have no such files.
#[cfg(not(target_os = "linux"))]
pub(crate) fn create_unnamed(_directory: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a file of [`create_unnamed`] the name `path`, which nobody may have yet: all at once, or not at all.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if somebody has it; whatever else the system says.
#[cfg(target_os = "linux")]
pub(crate) fn give_name(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD};

    // AT_EMPTY_PATH, which needs no /proc, needs a capability in its place before Linux 6.10.
    Ok(rustix::fs::linkat(CWD, path_of(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Systems other than Linux have no files without a name.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_name(_file: &File, _path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The path at which this process finds a file that it has open.
#[cfg(target_os = "linux")]
fn path_of(file: &File) -> String {
    use std::os::fd::AsRawFd;

    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Makes `new` as open to others as the file at `old`, whose metadata is given: permissions, access list, group and, where this
/// process may do that, owner.
///
/// Where the group or the access list cannot be carried over, the group `new` has instead may do what everybody may: a file is
/// never more open than the one whose place it takes. Bits beyond the permissions (set-user-ID and the like) are dropped, as a write
/// to the file would drop them.
///
/// # Errors
/// The system's, if it does not let the mode be changed.
#[cfg(unix)]
pub(crate) fn adopt_access(new: &File, old: &Path, metadata: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

    let before = new.metadata()?;
    if (before.uid(), before.gid()) != (metadata.uid(), metadata.gid()) {
        // Only root gives files away; a member of the old group can keep that.
        if fchown(new, Some(metadata.uid()), Some(metadata.gid())).is_err() {
            let _ = fchown(new, None, Some(metadata.gid()));
        }
    }
    let group_is_kept = new.metadata()?.gid() == metadata.gid();
    let mode = metadata.mode() & 0o777;
    let list = access_list::read(old);
    access_list::clear(new);
    let everybody = (mode & 0o007) << 3;
    let is_exact = group_is_kept && list.is_none();
    let granted = if is_exact { mode } else { mode & (0o707 | everybody) };
    new.set_permissions(fs::Permissions::from_mode(granted))?;
    if let (true, Some(list)) = (group_is_kept, list) {
        access_list::write(new, &list);
    }
    Ok(())
}

/// What files are open to is not a matter of modes here: a new file has what its folder gives it.
#[cfg(not(unix))]
pub(crate) fn adopt_access(_new: &File, _old: &Path, _metadata: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Access lists (acl(5)) as the kernel stores them.
#[cfg(target_os = "linux")]
mod access_list {
    use std::fs::File;
    use std::path::Path;

    use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, getxattr};
    use rustix::io::Errno;

    const NAME: &str = "system.posix_acl_access";
    /// The longest value the kernel stores (XATTR_SIZE_MAX).
    const BYTES_MAX: usize = 64 << 10;

    /// The list of a file beside its mode; `None` if it has none. Where it cannot be read, an empty one, which grants nothing.
    pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
        let mut list = vec![0; BYTES_MAX];
        match getxattr(path, NAME, &mut list) {
            Ok(len) => list.truncate(len),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return None,
            Err(_) => list.clear(),
        }
        Some(list)
    }

    /// Takes away what a new file was given by its directory.
    pub(super) fn clear(file: &File) {
        // There is nothing to take away, as a rule.
        let _ = fremovexattr(file, NAME);
    }

    /// Gives a file a list, and with it the group's part of its mode. A list that the system does not take leaves the mode as it is.
    pub(super) fn write(file: &File, list: &[u8]) {
        if !list.is_empty() {
            let _ = fsetxattr(file, NAME, list, XattrFlags::empty());
        }
    }
}

/// Elsewhere lists stay with the files they were made for.
#[cfg(all(unix, not(target_os = "linux")))]
mod access_list {
    use std::fs::File;
    use std::path::Path;

    pub(super) fn read(_path: &Path) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn clear(_file: &File) {}

    pub(super) fn write(_file: &File, _list: &[u8]) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType as NodeType, Mode, mknodat};
    use rustix::io::Errno;
    use tempfile::TempDir;

    use super::*;

    fn make_fifo(path: &Path) {
        mknodat(CWD, path, NodeType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    /// Opening a FIFO blocked until somebody wrote to it, and a signal did not end that: the standard library repeats what a
    /// signal interrupts.
    #[test]
    fn what_is_no_regular_file_is_named_and_not_opened() {
        let directory = TempDir::new().unwrap();
        let (fifo, socket) = (directory.path().join("fifo"), directory.path().join("socket"));
        make_fifo(&fifo);
        let _listener = UnixListener::bind(&socket).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for (path, kind) in [
            (fifo.as_path(), "a FIFO"),
            (&link, "a FIFO"),
            (&socket, "a socket"),
            (Path::new("/dev/null"), "a character device"),
            (directory.path(), "a directory"),
        ] {
            let error = open_regular(path).unwrap_err();
            let Error::Format { path: named, reason } = &error else { panic!("{error:?}") };
            assert_eq!(named, &path.display().to_string());
            assert!(reason.starts_with(&format!("it is {kind}")) && reason.contains("not a regular file"), "{reason}");
        }
        assert!(matches!(open_regular(&directory.path().join("nothing")), Err(Error::Io { .. })));
    }

    /// The look before is not enough: what is there may be replaced before it is opened.
    #[test]
    fn a_fifo_that_takes_the_place_of_a_file_is_not_waited_for() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("fifo");
        make_fifo(&path);
        let opened = open_at_once(&path).unwrap();
        assert!(opened.metadata().unwrap().file_type().is_fifo());
    }

    /// The same by chance: one thread exchanges a file and a FIFO, another opens what is there.
    #[test]
    fn an_open_beside_exchanges_gives_a_regular_file_or_an_error() {
        let directory = TempDir::new().unwrap();
        let (path, other) = (directory.path().join("path"), directory.path().join("other"));
        fs::write(&path, "x").unwrap();
        make_fifo(&other);
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| {
                let opened: Vec<_> = (0..500).map(|_| open_regular(&path)).collect();
                for outcome in opened {
                    match outcome {
                        Ok(file) => assert!(file.metadata().unwrap().is_file()),
                        Err(error) => assert!(matches!(error, Error::Format { .. }), "{error:?}"),
                    }
                }
            });
            while !opening.is_finished() {
                rustix::fs::renameat_with(CWD, &path, CWD, &other, rustix::fs::RenameFlags::EXCHANGE).unwrap();
            }
            opening.join().unwrap();
        });
    }

    #[test]
    fn an_opened_file_is_read_as_usual() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "contents").unwrap();
        let file = open_regular(&path).unwrap();
        assert_eq!(io::read_to_string(&file).unwrap(), "contents");
        let flags = rustix::fs::fcntl_getfl(&file).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "{flags:?}");
    }

    #[test]
    fn a_fifo_in_the_place_of_a_directory_is_not_waited_for() {
        let directory = TempDir::new().unwrap();
        let fifo = directory.path().join("fifo");
        make_fifo(&fifo);
        assert_eq!(open_directory(&fifo).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        open_directory(directory.path()).unwrap().sync_all().unwrap();
    }

    #[test]
    fn leases_are_waited_for_within_bounds() {
        let (mut tries, mut pauses) = (0, 0);
        let open = || {
            tries += 1;
            if tries < 5 { Err(Errno::WOULDBLOCK) } else { Ok(tries) }
        };
        assert_eq!(open_beside_leases(open, || pauses += 1).unwrap(), 5);
        assert_eq!(pauses, 4);
        let refused = open_beside_leases(|| Err::<(), _>(Errno::WOULDBLOCK), || {}).unwrap_err();
        assert!(refused.to_string().contains("lease"), "{refused}");
        let refused = open_beside_leases(|| Err::<(), _>(Errno::ACCESS), || panic!("no pause")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_file_without_a_name_gets_one_at_once_and_takes_nobody_elses() {
        let directory = TempDir::new().unwrap();
        let file = match create_unnamed(directory.path()) {
            Ok(file) => file,
            // The file system of temporary files has none; `formats::output` is tested without them.
            Err(error) => return assert_eq!(error.raw_os_error(), Some(Errno::OPNOTSUPP.raw_os_error())),
        };
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let name = directory.path().join("name");
        give_name(&file, &name).unwrap();
        assert_eq!(fs::metadata(&name).unwrap().ino(), file.metadata().unwrap().ino());
        let other = create_unnamed(directory.path()).unwrap();
        assert_eq!(give_name(&other, &name).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::metadata(&name).unwrap().ino(), file.metadata().unwrap().ino());
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn every_mode_is_adopted_without_the_bits_beyond_permissions() {
        let directory = TempDir::new().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        fs::write(&old, "").unwrap();
        let file = File::create(&new).unwrap();
        for mode in [0o600, 0o640, 0o604, 0o444, 0o755, 0o000, 0o4755, 0o2644] {
            fs::set_permissions(&old, fs::Permissions::from_mode(mode)).unwrap();
            adopt_access(&file, &old, &fs::metadata(&old).unwrap()).unwrap();
            assert_eq!(mode_of(&new), mode & 0o777, "{mode:o}");
        }
    }

    /// An access list of the kernel's form: version 2, then tag, permissions and id of each entry.
    fn list_of(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    /// With a list, the group's part of the mode is what anybody on it may have at most: taken for the group's own part, the
    /// new file would be open to people the old one was closed to.
    #[test]
    fn an_access_list_is_adopted_with_its_mode() {
        const NOBODY: u32 = u32::MAX;
        let directory = TempDir::new().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        fs::write(&old, "").unwrap();
        let file = File::create(&new).unwrap();
        // The owner reads and writes, user 12345 reads, the group and others do nothing.
        let list = list_of(&[(1, 6, NOBODY), (2, 4, 12345), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]);
        let name = "system.posix_acl_access";
        if rustix::fs::setxattr(&old, name, &list, rustix::fs::XattrFlags::empty()).is_err() {
            // The file system of temporary files has no lists.
            return;
        }
        assert_eq!(mode_of(&old), 0o640);
        adopt_access(&file, &old, &fs::metadata(&old).unwrap()).unwrap();
        assert_eq!((mode_of(&new), access_list::read(&new)), (0o640, Some(list.clone())));
        // And a file that has one, from its directory, loses it in the place of a file without.
        rustix::fs::removexattr(&old, name).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        adopt_access(&file, &old, &fs::metadata(&old).unwrap()).unwrap();
        assert_eq!((mode_of(&new), access_list::read(&new)), (0o640, None));
    }
}
