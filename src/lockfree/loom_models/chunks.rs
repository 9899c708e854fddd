//! Ranges of chunks (`range.rs`), with the loop of `engine::fan_out::run_partition`.

use super::*;
use crate::lockfree::range;

struct FanOut {
    ranges: Vec<AtomicU64>,
    handed: Vec<Tally>,
}

impl FanOut {
    fn new(chunks: u32, partitions: u32) -> Arc<Self> {
        Arc::new(Self {
            ranges: (0..partitions)
                .map(|partition| AtomicU64::new(range::initial(chunks, partition, partitions).bits()))
                .collect(),
            handed: (0..chunks).map(|_| Tally::default()).collect(),
        })
    }

    fn run_partition(&self, partition: usize, stole: &Seen) {
        let (own, others) = (&self.ranges[partition], self.ranges.len());
        let next_chunk = || {
            range::take_front(own, |_| {}).or_else(|| {
                let victims = (1..others).map(|step| &self.ranges[(partition + step) % others]);
                victims.filter_map(|victim| range::steal(own, victim)).inspect(|_| stole.mark()).next()
            })
        };
        while let Some(chunk) = next_chunk() {
            self.handed[chunk as usize].add();
        }
    }

    fn check(&self) {
        for handed in &self.handed {
            assert_eq!(handed.get(), 1);
        }
    }
}

fn spread(bound: Option<usize>, chunks: u32, partitions: u32) {
    let seen: Vec<Seen> = (0..partitions).map(|_| Seen::default()).collect();
    let inner = seen.clone();
    explore(bound, move || {
        let fan_out = FanOut::new(chunks, partitions);
        let threads: Vec<_> = (1..partitions as usize)
            .map(|partition| {
                let (fan_out, seen) = (fan_out.clone(), inner[partition].clone());
                thread::spawn(move || fan_out.run_partition(partition, &seen))
            })
            .collect();
        fan_out.run_partition(0, &inner[0]);
        join(threads);
        fan_out.check();
    });
    for seen in seen {
        seen.expect("every share steals");
    }
}

#[test]
fn two_partitions_run_every_chunk_once() {
    spread(Some(4), 4, 2);
}

#[test]
fn three_partitions_run_every_chunk_once() {
    spread(Some(2), 3, 3);
}
