//! What the host has and allows, and the monotonic clock.
//!
//! Figures are read from the system at every call (the page size apart) and may change between two calls; what a system
//! does not tell is `None`. Nothing here panics on a file of an unexpected form. None of it is meant for a hot path
//! except [`page_size`] and [`Deadline`].
//!
//! Sources: sched_setaffinity(2), getrlimit(2), clock_gettime(2), proc(5), and the kernel's documentation of transparent large
//! pages (admin-guide/mm/transhuge) and of `/sys/devices/system/cpu`.

use core::time::Duration;
use std::collections::BTreeSet;
use std::num::NonZero;

use crate::error::{Error, Result};

/// A point in time on the monotonic clock, in nanoseconds.
///
/// On Linux the clock is `CLOCK_MONOTONIC`, the same in every process of a time namespace (time_namespaces(7)); it
/// stands still while the machine is suspended. Elsewhere it counts from the first use in this process and means
/// nothing to others. [`u64::MAX`] nanoseconds, 584 years, is never reached and serves as "no deadline".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Deadline(u64);

impl Deadline {
    /// The present time. Does not block; on Linux usually without a system call.
    #[inline]
    pub(crate) fn now() -> Self {
        #[cfg(target_os = "linux")]
        {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            // The monotonic clock does not go below 0, and its nanoseconds are below 1e9.
            let (seconds, nanoseconds) = (time.tv_sec as u64, time.tv_nsec as u64);
            Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
        }
        #[cfg(not(target_os = "linux"))]
        {
            use std::sync::OnceLock;
            use std::time::Instant;
            static ORIGIN: OnceLock<Instant> = OnceLock::new();
            Self(saturating_nanoseconds(ORIGIN.get_or_init(Instant::now).elapsed()))
        }
    }

    /// The point `duration` from now, or the last representable one.
    #[inline]
    pub(crate) fn after(duration: Duration) -> Self {
        Self(Self::now().0.saturating_add(saturating_nanoseconds(duration)))
    }

    /// The point with this count of nanoseconds, as [`nanoseconds`](Self::nanoseconds) gave it.
    #[inline]
    pub(crate) const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds on the monotonic clock.
    #[inline]
    pub(crate) const fn nanoseconds(self) -> u64 {
        self.0
    }

    /// Whether the point has been reached.
    #[inline]
    pub(crate) fn is_past(self) -> bool {
        self.remaining().is_none()
    }

    /// The point `duration` after this one, or the last representable one.
    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanoseconds(duration)))
    }

    /// The point at which a limit is over that begins now; `None` for [`Duration::MAX`], which is no limit.
    pub(crate) fn of_limit(limit: Duration) -> Option<Self> {
        (limit != Duration::MAX).then(|| Self::after(limit))
    }

    /// How long ago the point was; zero for one to come.
    #[cfg(target_os = "linux")]
    pub(crate) fn elapsed(self) -> Duration {
        Duration::from_nanos(Self::now().0.saturating_sub(self.0))
    }

    /// The time left, never zero; `None` once the point has been reached.
    #[inline]
    pub(crate) fn remaining(self) -> Option<Duration> {
        match self.0.saturating_sub(Self::now().0) {
            0 => None,
            nanoseconds => Some(Duration::from_nanos(nanoseconds)),
        }
    }
}

fn saturating_nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How many cores' worth of time this process gets, at least 1.
///
/// The smaller of the cores the calling thread may run on and the cgroup (v1 or v2) CPU quota, both taken from
/// [`std::thread::available_parallelism`]. The standard library rounds a quota that is not whole **down**: 2.5 cores
/// count as 2, so that workers counted by this are not throttled by it.
pub(crate) fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The cores the calling thread may run on, in ascending order, by the system's numbers, which may have gaps.
///
/// A CPU quota does not show here. Where the system does not tell, or has more cores than the affinity call can name
/// (1024), these are the numbers below [`available_cores`].
pub(crate) fn allowed_cores() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    if let Some(cores) = cores_of(None) {
        return cores;
    }
    (0..available_cores()).collect()
}

/// The cores a thread may run on: the calling one, or the first one of a process; `None` if the system does not tell.
#[cfg(target_os = "linux")]
fn cores_of(process: Option<rustix::process::Pid>) -> Option<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(process).ok()?;
    Some((0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// The cores that the first thread of a process may run on, in ascending order; `None` if there is no such process or the system does
/// not tell.
pub(crate) fn cores_of_process(pid: u32) -> Option<Vec<usize>> {
    #[cfg(target_os = "linux")]
    {
        // The system takes 0 for the calling thread.
        cores_of(Some(rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// Lets the calling thread run on `core` only; threads it starts later inherit that.
///
/// # Errors
/// Those of [`pin_current_thread_to`].
pub(crate) fn pin_current_thread(core: usize) -> Result<()> {
    pin_current_thread_to(&[core])
}

/// Lets the calling thread run on those of these cores that it may run on. Where that is none, or the system refuses, it runs where it
/// did before.
pub(crate) fn run_on_any_of(cores: &[usize]) {
    #[cfg(target_os = "linux")]
    {
        let mut set = rustix::thread::CpuSet::new();
        cores.iter().filter(|&&core| core < rustix::thread::CpuSet::MAX_CPU).for_each(|&core| set.set(core));
        // The system leaves out what is not allowed.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cores;
}

/// Lets the calling thread run on these cores only, by the system's numbers; threads it starts later inherit that.
///
/// # Errors
/// [`Error::InvalidArgument`] if there is no core in the list, or one that does not exist or that the thread may not
/// run on: then it runs where it did before. [`Error::Unsupported`] on systems other than Linux; [`Error::Io`] if the
/// system refuses for another reason.
pub(crate) fn pin_current_thread_to(cores: &[usize]) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::Errno;
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let not_allowed =
            || Error::invalid(format!("of the cores {cores:?} one does not exist or is not allowed for this process"));
        let mut set = CpuSet::new();
        for &core in cores {
            if core >= CpuSet::MAX_CPU {
                return Err(not_allowed());
            }
            set.set(core);
        }
        let before = sched_getaffinity(None);
        sched_setaffinity(None, &set).map_err(|error| match error {
            Errno::INVAL => not_allowed(),
            _ => Error::io(format!("pin a thread to the cores {cores:?}"), error),
        })?;
        // The system leaves out what is not allowed as long as one core is left.
        if let (Ok(before), Ok(after)) = (before, sched_getaffinity(None))
            && after != set
        {
            // Best effort: what was allowed a moment ago is allowed still, unless somebody changes that.
            let _ = sched_setaffinity(None, &before);
            return Err(not_allowed());
        }
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    {
        Err(Error::Unsupported { what: format!("pinning a thread to the cores {cores:?} on this system") })
    }
}

/// The size of a page in bytes, a power of two.
///
/// On systems other than Linux this is 64 KiB, a multiple of the page size of all of them, which rounds lengths as
/// well.
#[inline]
pub(crate) fn page_size() -> usize {
    #[cfg(target_os = "linux")]
    {
        rustix::param::page_size()
    }
    #[cfg(not(target_os = "linux"))]
    {
        64 << 10
    }
}

/// Bytes of a large page as mappings are aligned for it: that of x86-64, and of AArch64 with pages of 4 KiB.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// The size in bytes of the large pages the kernel uses by itself; `None` if it has none.
pub(crate) fn large_page_size() -> Option<usize> {
    read("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")?.trim().parse().ok()
}

/// When the kernel uses large pages for a kind of memory (admin-guide/mm/transhuge).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LargePageMode {
    /// For all memory.
    Always,
    /// For shared memory as far as it lies within the length of its file, and where advised.
    WithinSize,
    /// Where advised.
    Advise,
    /// Not at all.
    Never,
    /// Not for any shared memory, whatever a mount says.
    Deny,
    /// For all shared memory, whatever a mount says.
    Force,
    /// The system has no such setting, or one this program does not know.
    Unknown,
}

impl LargePageMode {
    /// The kernel's word for the mode.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::WithinSize => "within_size",
            Self::Advise => "advise",
            Self::Never => "never",
            Self::Deny => "deny",
            Self::Force => "force",
            Self::Unknown => "unknown",
        }
    }

    /// Whether advised memory can get large pages.
    pub(crate) fn allows_advice(self) -> bool {
        matches!(self, Self::Always | Self::WithinSize | Self::Advise | Self::Force)
    }

    /// The mode in brackets in a setting such as `always [madvise] never`; `None` for `inherit`.
    fn parse(setting: &str) -> Option<Self> {
        let chosen = setting.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(chosen, _)| chosen);
        match chosen {
            Some("always") => Some(Self::Always),
            Some("within_size") => Some(Self::WithinSize),
            Some("madvise" | "advise") => Some(Self::Advise),
            Some("never") => Some(Self::Never),
            Some("deny") => Some(Self::Deny),
            Some("force") => Some(Self::Force),
            Some("inherit") => None,
            _ => Some(Self::Unknown),
        }
    }

    /// The mode that holds for one size of page: its own (Linux 6.8), unless that inherits the general one or the
    /// general one overrules it.
    fn in_force(general: Option<&str>, sized: Option<&str>) -> Self {
        let general = general.and_then(Self::parse).unwrap_or(Self::Unknown);
        match general {
            Self::Deny | Self::Force => general,
            _ => sized.and_then(Self::parse).unwrap_or(general),
        }
    }
}

/// The modes of the two kinds of memory, for pages of [`large_page_size`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LargePageModes {
    /// Private anonymous memory.
    pub(crate) anonymous: LargePageMode,
    /// memfds; mounted tmpfs file systems have settings of their own.
    pub(crate) shared_memory: LargePageMode,
}

/// When the kernel uses large pages; [`LargePageMode::Unknown`] on systems other than Linux.
pub(crate) fn transparent_large_pages() -> LargePageModes {
    let folder = "/sys/kernel/mm/transparent_hugepage";
    let kibibytes = large_page_size().unwrap_or(0) >> 10;
    let mode = |file: &str| {
        let general = read(&format!("{folder}/{file}"));
        let sized = read(&format!("{folder}/hugepages-{kibibytes}kB/{file}"));
        LargePageMode::in_force(general.as_deref(), sized.as_deref())
    };
    LargePageModes { anonymous: mode("enabled"), shared_memory: mode("shmem_enabled") }
}

/// The caches a core sees, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CacheSizes {
    /// First level, data or unified.
    pub(crate) level_1_data: Option<u64>,
    /// Second level.
    pub(crate) level_2: Option<u64>,
    /// Third level, usually shared by several cores.
    pub(crate) level_3: Option<u64>,
    /// The unit of transfer between caches.
    pub(crate) line: Option<u64>,
}

/// More than any core has; ends the walk should the folder never end.
const CACHES_MAX: usize = 16;

/// The caches of core 0; other cores may differ. `None` if the system tells nothing.
pub(crate) fn cache_sizes() -> Option<CacheSizes> {
    let mut sizes = CacheSizes::default();
    for index in 0..CACHES_MAX {
        let field = |name: &str| read(&format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}"));
        let Some(level) = field("level") else { break };
        if field("type").is_none_or(|kind| kind.trim() == "Instruction") {
            continue;
        }
        let size = field("size").and_then(|size| parse_size(&size));
        match level.trim() {
            "1" => sizes.level_1_data = size,
            "2" => sizes.level_2 = size,
            "3" => sizes.level_3 = size,
            _ => {}
        }
        sizes.line = sizes.line.or_else(|| field("coherency_line_size").and_then(|line| parse_size(&line)));
    }
    (sizes != CacheSizes::default()).then_some(sizes)
}

/// Bytes of the last caches before memory, those of all cores the process may run on together; `None` if the system tells
/// nothing. In a virtual machine it tells what the host wants it to.
pub(crate) fn last_level_cache_bytes() -> Option<u64> {
    // The calling thread may be a worker that is pinned to one core; the first thread of a process rarely is.
    #[cfg(target_os = "linux")]
    let cores = cores_of(Some(rustix::process::getpid()))?;
    #[cfg(not(target_os = "linux"))]
    let cores = allowed_cores();
    sum_last_level(&cores, |core, index, name| {
        read(&format!("/sys/devices/system/cpu/cpu{core}/cache/index{index}/{name}"))
    })
}

/// Adds up the last caches of `cores`, each counted once however many share it. `field` reads a property of a core's cache.
fn sum_last_level(cores: &[usize], field: impl Fn(usize, usize, &str) -> Option<String>) -> Option<u64> {
    let mut counted = BTreeSet::new();
    let mut bytes = 0_u64;
    for &core in cores {
        let last = (0..CACHES_MAX).take_while(|&index| field(core, index, "level").is_some()).last()?;
        if counted.insert(field(core, last, "shared_cpu_list")?) {
            bytes = bytes.checked_add(parse_size(&field(core, last, "size")?)?)?;
        }
    }
    (bytes > 0).then_some(bytes)
}

/// The processor's name for itself; `None` where /proc/cpuinfo has none, as on many AArch64 machines.
pub(crate) fn cpu_model() -> Option<String> {
    let information = read("/proc/cpuinfo")?;
    information.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    })
}

/// The release of the running kernel, such as `6.18.0`; `None` on systems other than Linux.
pub(crate) fn kernel_release() -> Option<String> {
    Some(read("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// The limits of this process that bear on mappings and files; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SystemLimits {
    /// `RLIMIT_AS`: address space, in bytes.
    pub(crate) address_space: Option<u64>,
    /// `RLIMIT_DATA`: private writable memory, in bytes.
    pub(crate) data: Option<u64>,
    /// `RLIMIT_MEMLOCK`: memory that may be locked, in bytes.
    pub(crate) locked_memory: Option<u64>,
    /// `RLIMIT_NOFILE`: one more than the largest file descriptor.
    pub(crate) open_files: Option<u64>,
}

/// The soft limits of this process; all `None` on systems other than Linux.
pub(crate) fn limits() -> SystemLimits {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, getrlimit};
        SystemLimits {
            address_space: getrlimit(Resource::As).current,
            data: getrlimit(Resource::Data).current,
            locked_memory: getrlimit(Resource::Memlock).current,
            open_files: getrlimit(Resource::Nofile).current,
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        SystemLimits::default()
    }
}

/// The text of a small file of /proc or /sys; `None` on systems that have neither.
pub(super) fn read(path: &str) -> Option<String> {
    if cfg!(target_os = "linux") { std::fs::read_to_string(path).ok() } else { None }
}

/// A size such as `48K` or `64` in bytes.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 1 << 10),
        Some(digits) if text.ends_with('M') => (digits, 1 << 20),
        Some(digits) => (digits, 1 << 30),
        None => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Refuses what the system would refuse with SIGXFSZ, which ends a process that does not expect it: a file of more bytes than
/// `RLIMIT_FSIZE` allows.
///
/// # Errors
/// `EFBIG`.
#[cfg(target_os = "linux")]
pub(crate) fn check_file_size(len: u64) -> std::io::Result<()> {
    match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        Some(limit) if len > limit => Err(rustix::io::Errno::FBIG.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_clock_never_runs_backwards() {
        let mut last = Deadline::now();
        for _ in 0..10_000 {
            let now = Deadline::now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_deadline_passes() {
        let deadline = Deadline::after(Duration::from_millis(2));
        while !deadline.is_past() {
            assert!(deadline <= Deadline::after(Duration::from_millis(2)));
            std::thread::yield_now();
        }
        assert_eq!(deadline.remaining(), None);
        assert!(Deadline::now() >= deadline);
        assert!(Deadline::after(Duration::ZERO).is_past());
    }

    #[test]
    fn the_clock_advances_with_sleep() {
        let before = Deadline::now();
        std::thread::sleep(Duration::from_millis(20));
        assert!(Deadline::now().nanoseconds() - before.nanoseconds() >= 20_000_000);
    }

    #[test]
    fn deadlines_saturate() {
        for far in [Duration::MAX, Duration::from_nanos(u64::MAX), Duration::from_secs(u64::MAX)] {
            assert_eq!(Deadline::after(far), Deadline::from_nanoseconds(u64::MAX));
        }
        let never = Deadline::from_nanoseconds(u64::MAX);
        assert!(!never.is_past());
        assert!(never.remaining().is_some());
        assert!(Deadline::from_nanoseconds(0).is_past());
    }

    proptest! {
        #[test]
        fn a_deadline_lies_its_duration_away(nanoseconds in 0..u64::MAX / 2) {
            let duration = Duration::from_nanos(nanoseconds);
            let before = Deadline::now();
            let deadline = Deadline::after(duration);
            let after = Deadline::now();
            prop_assert!(deadline.nanoseconds() >= before.nanoseconds() + nanoseconds);
            prop_assert!(deadline.nanoseconds() <= after.nanoseconds() + nanoseconds);
            prop_assert!(deadline.remaining().is_none_or(|left| left <= duration && left > Duration::ZERO));
            prop_assert_eq!(Deadline::from_nanoseconds(deadline.nanoseconds()), deadline);
        }

        #[test]
        fn no_text_makes_a_reader_panic(text in "[a-z0-9:/, \\[\\]\\n-]{0,200}", other in "[a-z0-9:/, \\n-]{0,200}") {
            let _ = parse_size(&text);
            let _ = LargePageMode::in_force(Some(&text), Some(&other));
        }
    }

    #[test]
    fn cores_are_counted_and_named() {
        let (available, allowed) = (available_cores(), allowed_cores());
        assert!(available >= 1 && available <= allowed.len(), "{available} of {allowed:?}");
        assert!(allowed.is_sorted_by(|a, b| a < b));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_pinned_thread_may_run_on_its_core_only() {
        for core in allowed_cores() {
            let seen = std::thread::spawn(move || {
                pin_current_thread(core).unwrap();
                (allowed_cores(), available_cores(), rustix::thread::sched_getcpu())
            });
            assert_eq!(seen.join().unwrap(), (vec![core], 1, core));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pinning_to_a_core_that_is_not_there_is_refused() {
        let before = allowed_cores();
        let missing = (0..1024).rev().find(|core| !before.contains(core));
        for core in missing.into_iter().chain([1024, usize::MAX]) {
            assert!(matches!(pin_current_thread(core), Err(Error::InvalidArgument { .. })), "{core}");
            // The system would take the cores that are there and say nothing.
            for cores in [[before[0], core], [core, before[0]]] {
                assert!(matches!(pin_current_thread_to(&cores), Err(Error::InvalidArgument { .. })), "{cores:?}");
                assert_eq!(allowed_cores(), before);
            }
        }
        assert!(matches!(pin_current_thread_to(&[]), Err(Error::InvalidArgument { .. })));
        assert_eq!(allowed_cores(), before);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_pinned_to_several_cores_may_run_on_all_of_them() {
        let cores = allowed_cores();
        let seen = std::thread::spawn(|| {
            let few: Vec<usize> = allowed_cores().into_iter().step_by(2).collect();
            pin_current_thread_to(&few).unwrap();
            assert_eq!(allowed_cores(), few);
            // The order and how often a core is named do not matter, and a set may grow again.
            let all: Vec<usize> = cores.iter().chain(&few).rev().copied().collect();
            pin_current_thread_to(&all).unwrap();
            (allowed_cores(), cores)
        });
        let (seen, cores) = seen.join().unwrap();
        assert_eq!(seen, cores);
    }

    #[test]
    fn page_sizes_are_powers_of_two() {
        assert!(page_size().is_power_of_two() && page_size() >= 4096);
        if let Some(large) = large_page_size() {
            assert!(large.is_power_of_two() && large > page_size());
        }
    }

    #[test]
    fn the_mode_in_brackets_is_the_one_in_force() {
        use LargePageMode::*;
        let mode = |general, sized| LargePageMode::in_force(general, sized);
        assert_eq!(mode(Some("always [madvise] never\n"), None), Advise);
        assert_eq!(mode(Some("[always] madvise never\n"), None), Always);
        assert_eq!(mode(Some("always within_size advise [never] deny force\n"), None), Never);
        assert_eq!(mode(Some("always [within_size] advise never deny force\n"), None), WithinSize);
        assert_eq!(mode(Some("always madvise [never]"), Some("[always] inherit madvise never")), Always);
        assert_eq!(mode(Some("[always] madvise never"), Some("always inherit madvise [never]")), Never);
        assert_eq!(mode(Some("always [madvise] never"), Some("always [inherit] madvise never")), Advise);
        assert_eq!(mode(Some("always within_size advise never [deny] force"), Some("[always] inherit never")), Deny);
        assert_eq!(mode(Some("always within_size advise never deny [force]"), Some("always inherit [never]")), Force);
        assert_eq!(mode(Some("[sometimes]"), None), Unknown);
        assert_eq!(mode(Some("always"), None), Unknown);
        assert_eq!(mode(None, None), Unknown);
        for mode in [Always, WithinSize, Advise, Never, Deny, Force, Unknown] {
            if mode != Unknown {
                assert_eq!(LargePageMode::parse(&format!("[{}]", mode.name())), Some(mode));
            }
            assert_eq!(mode.allows_advice(), !matches!(mode, Never | Deny | Unknown));
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64\n"), Some(64));
        assert_eq!(parse_size("48K\n"), Some(48 << 10));
        assert_eq!(parse_size("2M"), Some(2 << 20));
        assert_eq!(parse_size("1G"), Some(1 << 30));
        for wrong in ["", "K", "48k", "-1K", "18446744073709551615K"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn last_caches_count_once_whoever_shares_them() {
        // Two cores share a third level, a third core has one of its own, the last one ends at its second level.
        let field = |core: usize, index: usize, name: &str| {
            let levels: &[(&str, &str)] = match core {
                0 | 1 => &[("32K", "own"), ("1M", "own"), ("16M", "0-1")],
                2 => &[("32K", "2"), ("1M", "2"), ("8M", "2")],
                3 => &[("32K", "3"), ("2M", "3")],
                _ => &[],
            };
            let (size, shared) = levels.get(index)?;
            Some(match name {
                "level" => (index + 1).to_string(),
                "size" => (*size).to_owned(),
                _ => (*shared).to_owned(),
            })
        };
        assert_eq!(sum_last_level(&[0, 1], field), Some(16 << 20));
        assert_eq!(sum_last_level(&[0, 1, 2, 3], field), Some((16 + 8 + 2) << 20));
        assert_eq!(sum_last_level(&[], field), None);
        assert_eq!(sum_last_level(&[0, 4], field), None, "a core that nothing is known of");
        assert_eq!(sum_last_level(&[0], |_, _, _| Some("1".to_owned())), Some(1), "a folder that does not end");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_tells_about_itself() {
        assert!(kernel_release().unwrap().starts_with(|first: char| first.is_ascii_digit()));
        assert!(cpu_model().is_none_or(|model| !model.is_empty()));
        if let Some(caches) = cache_sizes() {
            assert!(caches.line.is_none_or(u64::is_power_of_two), "{caches:?}");
            assert!(caches.level_1_data.is_none_or(|size| size >= 4096), "{caches:?}");
            assert!(last_level_cache_bytes().is_none_or(|size| size >= 4096));
        }
        let text = std::fs::read_to_string("/proc/self/limits").unwrap();
        for (name, limit) in [
            ("Max address space", limits().address_space),
            ("Max data size", limits().data),
            ("Max locked memory", limits().locked_memory),
            ("Max open files", limits().open_files),
        ] {
            let soft =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_whitespace().next().unwrap();
            assert_eq!(limit.map_or("unlimited".into(), |limit| limit.to_string()), soft, "{name}");
        }
    }
}
