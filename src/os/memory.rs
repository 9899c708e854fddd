//! What memory the host has to give, and taking it.
//!
//! Sources: proc(5), cgroups(7), and the kernel's documentation of both versions of the memory control group.

use std::io;

use super::host::read;
use super::large_pages::LargePages;
use super::map::Mapping;
use crate::error::{Error, Result};

/// Bytes that are taken from the system between two looks at what it has.
const PREFAULT_STEP: usize = 256 << 20;

/// Takes the pages of a new mapping, as far as the machine and its control groups have memory for them. Beyond that the system
/// would swap or end a process of its choice, perhaps this one, instead of saying no. Pages are large where `large_pages` gets them.
///
/// # Errors
/// [`Error::Io`] with [`io::ErrorKind::OutOfMemory`] when there is too little, or as [`Mapping::populate`].
pub(crate) fn prefault(mapping: &Mapping, large_pages: Option<&LargePages>) -> Result<()> {
    let len = mapping.len();
    for start in (0..len).step_by(PREFAULT_STEP) {
        let missing = len - start;
        // Looked at again at every step: others take memory as well.
        if let Some(available) = memory_available().filter(|&available| available < missing as u64) {
            let what = format!("{missing} bytes more were to be taken, and the system has {available} to give");
            return Err(Error::io("prefault the arena", io::Error::new(io::ErrorKind::OutOfMemory, what)));
        }
        let step = missing.min(PREFAULT_STEP);
        if let Some(large_pages) = large_pages {
            large_pages.take(mapping, 0..len, start..start + step);
        }
        mapping.populate(start, step)?;
    }
    Ok(())
}

/// The memory in bytes this process could have were it alone: the machine's, or the smallest cgroup limit above it.
pub(crate) fn memory_total() -> Option<u64> {
    let machine = meminfo_field(&read("/proc/meminfo")?, "MemTotal")?;
    Some(memory_groups().iter().map(|group| group.limit).fold(machine, u64::min))
}

/// The memory in bytes this process can probably take now without swapping.
///
/// The kernel's estimate for the machine, or what is left below a cgroup limit, whichever is less. Pages of files count as
/// free, as the kernel drops them when memory is needed. It is no promise that an allocation succeeds.
pub(crate) fn memory_available() -> Option<u64> {
    let machine = meminfo_field(&read("/proc/meminfo")?, "MemAvailable")?;
    Some(memory_groups().iter().map(|group| group.limit.saturating_sub(group.used)).fold(machine, u64::min))
}

/// The limit of one cgroup and what its processes use beside the pages of files, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MemoryGroup {
    limit: u64,
    used: u64,
}

/// Every memory limit that holds for this process: those of its cgroup and of all groups above it that can be seen.
fn memory_groups() -> Vec<MemoryGroup> {
    let (Some(memberships), Some(mounts)) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo")) else {
        return Vec::new();
    };
    let mut groups = Vec::new();
    for (version, folders) in memory_group_folders(&memberships, &mounts) {
        let (limit_name, used_name) = match version {
            1 => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => ("memory.max", "memory.current"),
        };
        for folder in folders {
            let figure = |name: &str| read(&format!("{folder}/{name}"))?.trim().parse::<u64>().ok();
            // A missing file is the root group; `max` is no limit. Neither parses.
            if let Some(limit) = figure(limit_name) {
                let files = read(&format!("{folder}/memory.stat")).map_or(0, |text| file_pages(version, &text));
                groups.push(MemoryGroup { limit, used: figure(used_name).unwrap_or(0).saturating_sub(files) });
            }
        }
    }
    groups
}

/// Bytes of a memory.stat that the kernel can take from the pages of files. Shared memory is not among them.
fn file_pages(version: u32, statistics: &str) -> u64 {
    let names = match version {
        1 => ["total_active_file", "total_inactive_file"],
        _ => ["active_file", "inactive_file"],
    };
    let fields = statistics.lines().filter_map(|line| line.split_once(' '));
    let sizes = fields.filter(|(name, _)| names.contains(name)).filter_map(|(_, size)| size.trim().parse::<u64>().ok());
    sizes.fold(0, u64::saturating_add)
}

/// For every hierarchy that may control memory its version and the folders of this process' group and all above it.
///
/// Takes the texts of /proc/self/cgroup and /proc/self/mountinfo. A mount that shows only part of a hierarchy, as in a
/// container, is followed from where it starts. Mount points with blanks, which mountinfo escapes, are not followed.
fn memory_group_folders(memberships: &str, mounts: &str) -> Vec<(u32, Vec<String>)> {
    let mut hierarchies = Vec::new();
    for membership in memberships.lines() {
        let mut fields = membership.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let version = match controllers {
            "" => 2,
            _ if controllers.split(',').any(|controller| controller == "memory") => 1,
            _ => continue,
        };
        for mount in mounts.lines() {
            let Some((root, point)) = memory_mount(mount, version) else { continue };
            let below_root = if root == "/" { Some(path) } else { path.strip_prefix(root) };
            // In a container without a cgroup namespace the path may lie outside the mount, whose root then is the
            // group.
            let below_root = below_root.filter(|rest| rest.is_empty() || rest.starts_with('/'));
            let mut below = below_root.unwrap_or("").trim_end_matches('/');
            let mut folders = Vec::new();
            while let Some((above, _)) = below.rsplit_once('/') {
                folders.push(format!("{point}{below}"));
                below = above;
            }
            folders.push(point.to_owned());
            hierarchies.push((version, folders));
            break;
        }
    }
    hierarchies
}

/// The root and the mount point of a line of mountinfo, if it mounts the cgroup hierarchy of that version with memory.
fn memory_mount(line: &str, version: u32) -> Option<(&str, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let (kind, options) = (file_system.next()?, file_system.nth(1)?);
    let fits = match version {
        1 => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        _ => kind == "cgroup2",
    };
    fits.then_some((root, point))
}

/// The large pages of the usual length that an administrator has set aside (hugetlbfs), and the free ones of them.
///
/// They are counted for people only. Taking some needs all of an arena at once: a hole in memory made of them gives its reservation
/// back, so that touching it again may end the process.
pub(crate) fn reserved_large_pages() -> Option<(u64, u64)> {
    let meminfo = read("/proc/meminfo")?;
    Some((meminfo_value(&meminfo, "HugePages_Total")?, meminfo_value(&meminfo, "HugePages_Free")?))
}

/// A field of /proc/meminfo that has no unit.
fn meminfo_value(meminfo: &str, name: &str) -> Option<u64> {
    meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim().parse().ok()
}

/// A field of /proc/meminfo in bytes; the file counts in kibibytes.
fn meminfo_field(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "[a-z0-9:/, \\[\\]\\n-]{0,200}", other in "[a-z0-9:/, \\n-]{0,200}") {
            let _ = (meminfo_field(&text, "m"), meminfo_value(&text, "m"), memory_group_folders(&text, &other), file_pages(2, &text));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_tells_about_its_memory() {
        let (total, available) = (memory_total().unwrap(), memory_available().unwrap());
        assert!(available <= total && total > 1 << 20, "{available} of {total}");
    }

    #[test]
    fn meminfo_counts_in_kibibytes() {
        let text = "MemTotal:       24684092 kB\nMemFree:  7 kB\nMemAvailable:   24367944 kB\nHugePages_Total:  3\n";
        assert_eq!(meminfo_field(text, "MemTotal"), Some(24_684_092 * 1024));
        assert_eq!(meminfo_field(text, "MemAvailable"), Some(24_367_944 * 1024));
        for missing in ["Mem", "Swap", "HugePages_Total", "emTotal"] {
            assert_eq!(meminfo_field(text, missing), None, "{missing}");
        }
        assert_eq!(meminfo_field("X: 18446744073709551615 kB", "X"), None);
        assert_eq!(meminfo_value(text, "HugePages_Total"), Some(3));
        for missing in ["HugePages_Free", "HugePages", "MemFree"] {
            assert_eq!(meminfo_value(text, missing), None, "{missing}");
        }
    }

    #[test]
    fn memory_groups_are_found_up_to_the_top_of_their_mount() {
        const V2: &str = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        const V1: &str = "34 31 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                          35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";
        const PART: &str = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro master:1 - cgroup cgroup rw,memory\n";
        let folders = |memberships, mounts| memory_group_folders(memberships, mounts);
        let owned = |list: &[&str]| list.iter().map(|&folder| folder.to_owned()).collect::<Vec<_>>();

        assert_eq!(
            folders("0::/user.slice/run.scope\n", V2),
            [(2, owned(&["/sys/fs/cgroup/user.slice/run.scope", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup"]))]
        );
        assert_eq!(folders("0::/\n", V2), [(2, owned(&["/sys/fs/cgroup"]))]);
        assert_eq!(
            folders("9:cpu:/x\n4:hugetlb,memory:/jobs/7\n", V1),
            [(1, owned(&["/sys/fs/cgroup/memory/jobs/7", "/sys/fs/cgroup/memory/jobs", "/sys/fs/cgroup/memory"]))]
        );
        assert_eq!(
            folders("4:memory:/docker/abc/inner\n", PART),
            [(1, owned(&["/sys/fs/cgroup/memory/inner", "/sys/fs/cgroup/memory"]))]
        );
        for outside in ["4:memory:/docker/abcd/x\n", "4:memory:/docker/abc\n", "4:memory:/\n"] {
            assert_eq!(folders(outside, PART), [(1, owned(&["/sys/fs/cgroup/memory"]))], "{outside}");
        }
        assert_eq!(folders("4:memory:/a\n0::/b\n", V2), [(2, owned(&["/sys/fs/cgroup/b", "/sys/fs/cgroup"]))]);
        for nothing in ["", "\n", "0:", "9:cpu:/x", "::"] {
            assert!(folders(nothing, V1).is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn pages_of_files_are_no_use_of_memory() {
        let second = "anon 4096\nfile 9999\nshmem 7777\ninactive_anon 5\nactive_file 300\ninactive_file 21\n";
        assert_eq!(file_pages(2, second), 321);
        let first = "cache 9999\ninactive_file 5\nactive_file 6\ntotal_inactive_file 40\ntotal_active_file 2\n";
        assert_eq!(file_pages(1, first), 42);
        assert_eq!(file_pages(2, ""), 0);
        assert_eq!(file_pages(2, "active_file 18446744073709551615\ninactive_file x\ninactive_file 9\n"), u64::MAX);
    }
}
