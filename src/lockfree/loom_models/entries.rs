//! The ring of entries (`ring.rs`), with descriptor words as the truth about jobs.

use super::*;
use crate::layout::records::RingHeader;
use crate::layout::words::CellWord;
use crate::lockfree::ring::{Full, Ring, Taken};

struct Board {
    header: RingHeader,
    cells: Vec<AtomicU64>,
    desks: Vec<Desk>,
}

impl Board {
    /// A ring with so many cells, positioned on `lap`, and so many free descriptors.
    fn new(cells: usize, jobs: usize, lap: u32) -> Arc<Self> {
        let header = RingHeader::new();
        let start = u64::from(lap) * cells as u64;
        header.head.store(start, Ordering::Relaxed);
        header.tail.store(start, Ordering::Relaxed);
        Arc::new(Self {
            header,
            cells: (0..cells).map(|_| AtomicU64::new(CellWord::empty(lap).bits())).collect(),
            desks: (0..jobs).map(|_| Desk::new()).collect(),
        })
    }

    fn ring(&self) -> Ring<'_> {
        Ring::new(&self.header, &self.cells)
    }

    /// Fills, publishes and pushes a job; takes it back when the ring is full.
    fn submit(&self, at: usize) -> Result<(), Full> {
        let queued = self.desks[at].submit();
        self.ring().push(DescriptorIndex::new(at as u32)).inspect_err(|_| {
            assert!(matches!(job::request_cancel(&self.desks[at].word, queued.generation()), Cancel::Ended(_)));
        })
    }

    fn take(&self, who: ParticipantSlot) -> Option<usize> {
        match self.ring().take(|index| self.desks[index.get() as usize].claim(who)) {
            Taken::Claimed(index) => Some(index.get() as usize),
            Taken::Empty => None,
            Taken::Bad(bad) => panic!("a ring nobody scribbled on is called bad: {bad:?}"),
        }
    }

    /// Takes what is left, alone; every accepted job was then claimed exactly once.
    fn drain_and_check(&self, accepted: &[bool]) {
        while self.take(HOLDER).is_some() {}
        assert!(!self.ring().has_entries());
        assert_eq!(self.ring().len_hint(), 0);
        for (desk, &accepted) in self.desks.iter().zip(accepted) {
            assert_eq!(desk.claimed.get(), u32::from(accepted));
        }
    }
}

fn pusher(board: &Arc<Board>, jobs: core::ops::Range<usize>) -> thread::JoinHandle<Vec<Result<(), Full>>> {
    let board = board.clone();
    thread::spawn(move || jobs.map(|at| board.submit(at)).collect())
}

fn taker(board: &Arc<Board>, number: u16, times: usize, seen: &Seen) -> thread::JoinHandle<()> {
    let (board, seen) = (board.clone(), seen.clone());
    thread::spawn(move || {
        for _ in 0..times {
            if board.take(worker(number)).is_some() {
                seen.mark();
            }
        }
    })
}

/// R2/A2: an entry that is seen belongs to a job that is seen, with all that it needs.
#[test]
fn one_pusher_and_two_takers() {
    explore_reaching(Some(3), ["the first worker takes a job", "the second worker takes a job"], move |seen| {
        let board = Board::new(2, 2, 0);
        let takers = [taker(&board, 1, 1, &seen[0]), taker(&board, 2, 1, &seen[1])];
        for at in 0..2 {
            assert_eq!(board.submit(at), Ok(()));
        }
        join(takers);
        board.drain_and_check(&[true, true]);
    });
}

#[test]
fn two_pushers_and_one_taker() {
    explore_reaching(Some(3), ["the worker takes a job while others are pushed"], move |seen| {
        let board = Board::new(2, 2, 0);
        let pushers = [pusher(&board, 0..1), pusher(&board, 1..2)];
        for _ in 0..2 {
            if board.take(worker(1)).is_some() {
                seen[0].mark();
            }
        }
        for pusher in pushers {
            assert_eq!(pusher.join().unwrap(), [Ok(())]);
        }
        board.drain_and_check(&[true, true]);
    });
}

#[test]
fn two_pushers_and_two_takers() {
    explore_reaching(Some(2), ["the first worker takes a job", "the second worker takes a job"], move |seen| {
        let board = Board::new(2, 2, 0);
        let pushing = pusher(&board, 0..1);
        let takers = [taker(&board, 1, 1, &seen[0]), taker(&board, 2, 1, &seen[1])];
        assert_eq!(board.submit(1), Ok(()));
        assert_eq!(pushing.join().unwrap(), [Ok(())]);
        join(takers);
        board.drain_and_check(&[true, true]);
    });
}

/// A ring of one cell over three laps, at the place where the number of laps wraps.
#[test]
fn laps_follow_each_other_and_wrap() {
    explore_reaching(Some(5), ["the cell is still taken", "the cell is used in three laps"], move |seen| {
        let board = Board::new(1, 3, u32::MAX);
        let taking = taker(&board, 1, 2, &Seen::default());
        let mut accepted = [false; 3];
        for (at, accepted) in accepted.iter_mut().enumerate() {
            *accepted = board.submit(at).is_ok();
            if !*accepted {
                seen[0].mark();
            }
        }
        if accepted == [true; 3] {
            seen[1].mark();
        }
        taking.join().unwrap();
        board.drain_and_check(&accepted);
    });
}

/// As above with a taker that may fall behind by more than one lap while another goes on.
#[test]
fn a_taker_that_falls_laps_behind_goes_on() {
    explore_reaching(Some(3), ["the slow taker takes a job", "the other takes a job"], move |seen| {
        let board = Board::new(1, 2, u32::MAX);
        let slow = taker(&board, 1, 1, &seen[0]);
        let accepted = [0, 1].map(|at| {
            let accepted = board.submit(at).is_ok();
            if board.take(HOLDER).is_some() {
                seen[1].mark();
            }
            accepted
        });
        assert_eq!(accepted, [true; 2]);
        slow.join().unwrap();
        board.drain_and_check(&accepted);
    });
}

/// Two submitters that race for one cell: one has it, the other's job comes back.
#[test]
fn a_full_ring_refuses() {
    explore_reaching(None, ["the first submitter has the cell", "the second submitter has the cell"], move |seen| {
        let board = Board::new(1, 2, 7);
        let pushing = pusher(&board, 0..1);
        let second = board.submit(1).is_ok();
        let first = pushing.join().unwrap()[0].is_ok();
        assert!(first != second);
        seen[usize::from(second)].mark();
        board.drain_and_check(&[first, second]);
    });
}

/// An entry outlives its job: the job is run by its waiting holder, and the descriptor queued again, while a worker still
/// looks at the old entry. The second job has two entries then and is run once.
#[test]
fn a_stale_entry_gives_no_job_twice() {
    explore_reaching(
        Some(3),
        ["the worker finds no job behind the entry", "the worker runs the second job"],
        move |seen| {
            let board = Board::new(2, 1, u32::MAX);
            let desk = &board.desks[0];
            assert_eq!(board.submit(0), Ok(()));
            let taking = thread::spawn({
                let (board, seen) = (board.clone(), seen.clone());
                move || {
                    if board.take(worker(1)).is_some() {
                        if board.desks[0].finish().generation() == 2 {
                            seen[1].mark();
                        }
                    } else {
                        seen[0].mark();
                    }
                }
            });
            let mut again = false;
            if desk.claim(HOLDER) {
                desk.finish();
                board.ring().drop_stale(2, |_| !job::snapshot(&desk.word).is(State::Queued));
                desk.read_and_retire();
                assert_eq!(board.submit(0), Ok(()));
                again = true;
            }
            taking.join().unwrap();
            while board.take(HOLDER).is_some() {}
            assert!(!board.ring().has_entries());
            assert_eq!(desk.claimed.get(), 1 + u32::from(again));
        },
    );
}

/// Two participants that remove the same stale entry, and a job behind it that must not be lost.
#[test]
fn stale_entries_are_removed_without_the_next_one() {
    explore(Some(3), || {
        let board = Board::new(2, 2, 0);
        let gone = board.desks[0].submit();
        assert!(board.ring().push(DescriptorIndex::new(0)).is_ok());
        assert!(matches!(job::request_cancel(&board.desks[0].word, gone.generation()), Cancel::Ended(_)));
        let is_stale = |board: &Board, index: DescriptorIndex| {
            !job::snapshot(&board.desks[index.get() as usize].word).is(State::Queued)
        };
        let taking = taker(&board, 1, 1, &Seen::default());
        let dropping = beside(&board, move |board| board.ring().drop_stale(2, |index| is_stale(&board, index)));
        assert_eq!(board.submit(1), Ok(()));
        taking.join().unwrap();
        dropping.join().unwrap();
        board.drain_and_check(&[false, true]);
    });
}

/// A full ring with a queued job at its head and a gone one behind it is cleared by a submitter, while a worker takes.
#[test]
fn clearing_a_full_ring_keeps_what_is_queued() {
    explore_reaching(
        Some(3),
        ["the worker takes the job", "the job is out of the ring while the worker looks, and in it afterwards"],
        move |seen| {
            let board = Board::new(2, 2, u32::MAX);
            assert_eq!(board.submit(0), Ok(()));
            let gone = board.desks[1].submit();
            assert!(board.ring().push(DescriptorIndex::new(1)).is_ok());
            assert!(matches!(job::request_cancel(&board.desks[1].word, gone.generation()), Cancel::Ended(_)));
            let compact = |board: &Board| {
                let is_kept =
                    |index: DescriptorIndex| job::snapshot(&board.desks[index.get() as usize].word).is(State::Queued);
                assert_eq!(board.ring().compact(is_kept), None);
            };
            let taking = taker(&board, 1, 1, &seen[0]);
            compact(&board);
            taking.join().unwrap();
            if job::snapshot(&board.desks[0].word).is(State::Queued) {
                seen[1].mark();
            }
            board.drain_and_check(&[true, false]);
        },
    );
}
