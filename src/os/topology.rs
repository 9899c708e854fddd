//! The memory nodes of the machine, and which cores are near which of them.
//!
//! A node is memory with the cores that reach it fastest. Most machines have one; servers with several sockets, or several dies in one,
//! have more (NUMA). Sources: the kernel's documentation of /sys/devices/system/node; numa(7).

use std::path::Path;

/// Where Linux describes the nodes.
const FOLDER: &str = "/sys/devices/system/node";

/// More numbers than a machine has cores or nodes: what a list may hold at most.
const NUMBERS_MAX: usize = 1 << 13;

/// Memory and the cores beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MemoryNode {
    /// The system's number for it; numbers may have gaps.
    pub number: usize,
    /// Cores for which this memory is the nearest, by the system's numbers, in ascending order. Nodes of memory alone have none.
    pub cores: Vec<usize>,
    /// Bytes of memory, if the system tells; nodes of cores alone have 0.
    pub memory: Option<u64>,
    /// How far it is to each node, in the order of the nodes: 10 to itself, and in relation to that. Empty if the system does not tell.
    pub distances: Vec<u32>,
}

/// The nodes of a machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Topology {
    nodes: Vec<MemoryNode>,
}

impl Topology {
    /// That of this machine; without nodes where the system does not tell.
    pub(crate) fn read() -> Self {
        if cfg!(target_os = "linux") { Self::from_folder(Path::new(FOLDER)) } else { Self::default() }
    }

    /// That which a folder describes as /sys/devices/system/node does. What cannot be read is left out.
    pub(crate) fn from_folder(folder: &Path) -> Self {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let numbers = text("online").and_then(|list| numbers_of(&list)).unwrap_or_default();
        let node = |number| {
            let of_node = |name: &str| text(&format!("node{number}/{name}"));
            let distances = of_node("distance").unwrap_or_default();
            Some(MemoryNode {
                number,
                cores: numbers_of(&of_node("cpulist")?)?,
                memory: of_node("meminfo").and_then(|meminfo| memory_of(&meminfo)),
                distances: distances.split_whitespace().map_while(|distance| distance.parse().ok()).collect(),
            })
        };
        Self { nodes: numbers.into_iter().filter_map(node).collect() }
    }

    /// The nodes, in ascending order of their numbers.
    pub(crate) fn into_nodes(self) -> Vec<MemoryNode> {
        self.nodes
    }

    /// The numbers of the nodes that have memory, or may have it.
    pub(crate) fn with_memory(&self) -> Vec<usize> {
        self.nodes.iter().filter(|node| node.memory != Some(0)).map(|node| node.number).collect()
    }

    /// The node that all of these cores belong to; `None` if there is none, or no core.
    pub(crate) fn node_of(&self, cores: &[usize]) -> Option<usize> {
        let holds_all = |node: &&MemoryNode| cores.iter().all(|core| node.cores.binary_search(core).is_ok());
        self.nodes.iter().find(holds_all).filter(|_| !cores.is_empty()).map(|node| node.number)
    }
}

/// The numbers of a list such as `0-3,8`, in ascending order; `None` if it is none, or has too many.
fn numbers_of(list: &str) -> Option<Vec<usize>> {
    let list = list.trim();
    let mut numbers = Vec::new();
    for range in list.split(',').filter(|_| !list.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        let ascends = numbers.last().is_none_or(|&before| before < first) && first <= last;
        if !ascends || last - first >= NUMBERS_MAX - numbers.len() {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Bytes of memory, from the meminfo of a node: `Node 0 MemTotal:  24683652 kB`.
fn memory_of(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    total.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// A folder as the system's, for nodes by number, with their cores, kibibytes and distances.
    fn folder(online: &str, nodes: &[(usize, &str, Option<u64>, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("online"), online).unwrap();
        for (number, cores, kibibytes, distances) in nodes {
            let node = folder.path().join(format!("node{number}"));
            fs::create_dir(&node).unwrap();
            fs::write(node.join("cpulist"), format!("{cores}\n")).unwrap();
            fs::write(node.join("distance"), format!("{distances}\n")).unwrap();
            if let Some(kibibytes) = kibibytes {
                let text = format!("Node {number} MemTotal:   {kibibytes} kB\nNode {number} MemFree:   1 kB\n");
                fs::write(node.join("meminfo"), text).unwrap();
            }
        }
        folder
    }

    #[test]
    fn two_sockets_and_memory_without_cores_are_three_nodes() {
        let nodes = [
            (0, "0-3,8-11", Some(1024), "10 21 30"),
            (1, "4-7,12-15", Some(2048), "21 10 30"),
            (4, "", None, "30 30 10"),
        ];
        let described = folder("0-1,4\n", &nodes);
        let topology = Topology::from_folder(described.path());
        assert_eq!(topology.with_memory(), [0, 1, 4]);
        let own = |cores: &[usize]| topology.node_of(cores);
        assert_eq!([own(&[0]), own(&[3, 8]), own(&[7]), own(&[12, 15])], [Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!([own(&[]), own(&[3, 4]), own(&[16])], [None; 3]);
        let nodes = topology.into_nodes();
        assert_eq!(nodes[1].cores, [4, 5, 6, 7, 12, 13, 14, 15]);
        assert_eq!((nodes[0].memory, nodes[1].memory, nodes[2].memory), (Some(1 << 20), Some(2 << 20), None));
        assert_eq!(nodes[2].distances, [30, 30, 10]);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(Topology::from_folder(Path::new("/nowhere/at/all")), Topology::default());
        let described = folder("0-2", &[(0, "0-1", Some(0), "x 10"), (2, "3-2", Some(1), "")]);
        let topology = Topology::from_folder(described.path());
        assert_eq!(topology.with_memory(), [] as [usize; 0], "node 0 has cores alone");
        assert_eq!(topology.node_of(&[1]), Some(0));
        let nodes = topology.into_nodes();
        assert_eq!((nodes.len(), nodes[0].distances.as_slice()), (1, [].as_slice()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn every_core_this_process_may_use_has_a_node_of_this_machine() {
        let topology = Topology::read();
        // Kernels without NUMA have no such folder.
        for core in crate::os::host::allowed_cores().into_iter().filter(|_| topology != Topology::default()) {
            assert!(topology.node_of(&[core]).is_some(), "core {core} of {topology:?}");
        }
    }

    proptest! {
        #[test]
        fn lists_are_read_as_they_were_written(numbers in prop::collection::btree_set(0_usize..300, 0..80), single: bool) {
            let numbers: Vec<usize> = numbers.into_iter().collect();
            let mut ranges: Vec<(usize, usize)> = Vec::new();
            for &number in &numbers {
                match ranges.last_mut().filter(|(_, last)| !single && last + 1 == number) {
                    Some((_, last)) => *last = number,
                    None => ranges.push((number, number)),
                }
            }
            let text = |&(first, last): &(usize, usize)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
            let list = ranges.iter().map(text).collect::<Vec<_>>().join(",");
            prop_assert_eq!(numbers_of(&format!("{list}\n")), Some(numbers));
        }

        #[test]
        fn no_text_is_read_as_numbers_out_of_order_or_without_end(text in "[0-9,-]{0,30}", other in "[a-zA-Z0-9: \n]{0,60}") {
            if let Some(numbers) = numbers_of(&text) {
                prop_assert!(numbers.len() <= NUMBERS_MAX && numbers.is_sorted());
            }
            let _ = memory_of(&other);
        }
    }
}
