//! What the engine sees of the machine it runs on.

use std::collections::BTreeMap;

use crate::os::topology::{MemoryNode, Topology};
use crate::os::{host, large_pages, memory};

/// The machine as the engine sees it. Reading it makes a few dozen system calls.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HostInfo {
    /// The processor's name for itself.
    pub cpu_model: Option<String>,
    /// Cores the process may use, the CPU quota of its control group counted: the default number of worker threads.
    pub available_cores: usize,
    /// Numbers of the cores the process may run on.
    pub allowed_cores: Vec<usize>,
    /// Release of the operating system's kernel.
    pub kernel_release: Option<String>,
    /// Bytes of a page.
    pub page_size: usize,
    /// Bytes of a large page, where there are any.
    pub large_page_size: Option<usize>,
    /// When anonymous memory gets large pages, in the kernel's word: `always`, `madvise` and so on.
    pub large_pages_anonymous: &'static str,
    /// When shared memory gets large pages without being asked for each.
    pub large_pages_shared_memory: &'static str,
    /// Whether shared memory gets large pages on demand (Linux 6.1 and later, unless the setting is `deny`): found out by taking one.
    /// [`Builder::large_pages`](crate::Builder::large_pages) says what engines make of it.
    pub large_pages_on_demand: bool,
    /// Large pages that an administrator has set aside, and those of them that are free; engines do not use them.
    pub large_pages_reserved: Option<(u64, u64)>,
    /// Cache sizes and the length of a line in bytes, by name.
    pub caches: BTreeMap<&'static str, u64>,
    /// Memory nodes, and the cores beside each; none where the system does not tell.
    pub memory_nodes: Vec<MemoryNode>,
    /// Memory in bytes, that of the control group where it has less.
    pub memory_total: Option<u64>,
    /// Memory in bytes that is probably to be had now.
    pub memory_available: Option<u64>,
    /// Limits of the process by name; one that is not there is unlimited or unknown.
    pub limits: BTreeMap<&'static str, u64>,
}

impl HostInfo {
    /// Looks at the machine.
    pub fn read() -> Self {
        let caches = host::cache_sizes().unwrap_or_default();
        let limits = host::limits();
        let modes = host::transparent_large_pages();
        let known = |entries: [(&'static str, Option<u64>); 4]| {
            entries.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
        };
        Self {
            cpu_model: host::cpu_model(),
            available_cores: host::available_cores(),
            allowed_cores: host::allowed_cores(),
            kernel_release: host::kernel_release(),
            page_size: host::page_size(),
            large_page_size: host::large_page_size(),
            large_pages_anonymous: modes.anonymous.name(),
            large_pages_shared_memory: modes.shared_memory.name(),
            large_pages_on_demand: large_pages::on_demand(),
            large_pages_reserved: memory::reserved_large_pages(),
            caches: known([
                ("level_1_data", caches.level_1_data),
                ("level_2", caches.level_2),
                ("level_3", caches.level_3),
                ("line", caches.line),
            ]),
            memory_nodes: Topology::read().into_nodes(),
            memory_total: memory::memory_total(),
            memory_available: memory::memory_available(),
            limits: known([
                ("address_space", limits.address_space),
                ("data", limits.data),
                ("locked_memory", limits.locked_memory),
                ("open_files", limits.open_files),
            ]),
        }
    }
}
