//! Jobs that are started again after a death: bits, their summary, and the words (`docs/protocol.md`, "Death of a worker").

use super::*;
use crate::layout::words::RangeWord;
use crate::lockfree::range;
use crate::lockfree::redelivery::Redelivery;

/// The worker that is dead before the model begins. It had claimed the job.
const DEAD: u16 = 9;

struct Board {
    desk: Desk,
    summary: AtomicU64,
    bits: [AtomicU64; 1],
}

/// What a searcher leaves out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Omit {
    Nothing,
    SecondLook,
}

impl Board {
    fn new() -> Self {
        let desk = Desk::new();
        desk.submit_claimed(worker(DEAD));
        Self { desk, summary: AtomicU64::new(0), bits: [AtomicU64::new(0)] }
    }

    fn redelivery(&self) -> Redelivery<'_> {
        Redelivery::new(&self.summary, &self.bits)
    }

    /// The sweep: what it repairs is visible to the thread that claims the job next.
    fn sweep(&self) {
        self.desk.input.write();
        assert!(job::requeue(&self.desk.word, worker(DEAD), 0).is_some());
        self.redelivery().mark(DescriptorIndex::new(0));
    }

    fn take(&self, who: u16, omit: Omit) -> bool {
        let is_queued = |_| omit == Omit::Nothing && job::snapshot(&self.desk.word).is(State::Queued);
        self.redelivery().take(|_| self.desk.claim(worker(who)), is_queued).is_some()
    }

    /// After everybody has looked once: the job was taken, or the summary says that there is something.
    fn check(&self, taken: bool) {
        if !taken {
            assert!(self.redelivery().is_on(), "the job is queued and nobody is told");
            assert!(self.take(7, Omit::Nothing), "the summary is odd and no bit leads to the job");
        }
        assert_eq!(self.desk.claimed.get(), 2);
        let word = job::snapshot(&self.desk.word);
        assert_eq!(word.attempt(), 1);
        self.desk.finish();
        self.desk.read_and_retire();
    }
}

fn sweep_beside_searchers(searchers: u16, stale_bit: bool, omit: Omit) {
    explore_reaching(Some(3), ["a searcher takes the job", "the searchers come too early"], move |seen| {
        let board = Arc::new(Board::new());
        if stale_bit {
            // The dead worker had been given the job by this very bit and was killed before it cleared it.
            board.redelivery().mark(DescriptorIndex::new(0));
        }
        let threads: Vec<_> = (1..=searchers)
            .map(|who| {
                let board = board.clone();
                thread::spawn(move || board.take(who, omit))
            })
            .collect();
        board.sweep();
        let taken = threads.into_iter().map(|thread| thread.join().unwrap());
        let taken = taken.filter(|&taken| taken).count();
        assert!(taken <= 1);
        if taken == 1 {
            seen[0].mark()
        } else {
            seen[1].mark()
        }
        board.check(taken == 1);
    });
}

#[test]
fn a_job_of_a_dead_worker_is_taken_once() {
    sweep_beside_searchers(2, false, Omit::Nothing);
}

#[test]
fn a_stale_bit_does_not_lose_the_next_redelivery() {
    sweep_beside_searchers(1, true, Omit::Nothing);
}

#[test]
fn two_searchers_and_a_stale_bit_lose_nothing() {
    sweep_beside_searchers(2, true, Omit::Nothing);
}

#[test]
#[should_panic(expected = "no bit leads to the job")]
fn without_a_second_look_a_redelivery_is_lost() {
    sweep_beside_searchers(1, true, Omit::SecondLook);
}

/// The chunk a dead partition was at goes back into its range while thieves cut from it: every chunk is handed out once more.
#[test]
fn a_chunk_goes_back_while_thieves_steal() {
    explore_reaching(None, ["the thief gets some", "the thief gets nothing"], move |seen| {
        // The dead owner had taken chunk 0 of 0..3.
        let range = Arc::new(AtomicU64::new(RangeWord::new(1, 3).bits()));
        let handed: Arc<[Tally; 3]> = Arc::default();
        let thief = thread::spawn({
            let (range, handed) = (range.clone(), handed.clone());
            move || {
                let own = AtomicU64::new(RangeWord::new(0, 0).bits());
                let mut next = range::steal(&own, &range);
                while let Some(chunk) = next {
                    handed[chunk as usize].add();
                    next = range::take_front(&own, |_| {}).or_else(|| range::steal(&own, &range));
                }
            }
        });
        assert!(range::put_back(&range, 0));
        let mut left = 0;
        while let Some(chunk) = range::take_front(&range, |_| {}) {
            handed[chunk as usize].add();
            left += 1;
        }
        thief.join().unwrap();
        assert!(handed.iter().all(|handed| handed.get() == 1));
        if left < 3 { seen[0].mark() } else { seen[1].mark() }
    });
}
