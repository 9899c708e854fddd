//! Free descriptor indices (`free_list.rs`).

use super::*;
use crate::lockfree::free_list::{FreeList, Returned, Returners};

struct Stock {
    free: FreeList,
    /// The memory of each index: a thread that takes an index comes after the thread that returned it (R6/A6).
    memory: [Shadow; 3],
    taken: [PlainU32; 3],
    /// What waiters sleep on, as the capacity waiters of `engine::job::table`.
    sequence: AtomicU32,
    waker: Shadow,
}

impl Stock {
    fn new(count: u32) -> Arc<Self> {
        Arc::new(Self {
            free: FreeList::full(count, Returners::Holders),
            memory: core::array::from_fn(|_| Shadow::new()),
            taken: core::array::from_fn(|_| PlainU32::new(0)),
            sequence: AtomicU32::new(0),
            waker: Shadow::new(),
        })
    }

    fn pop(&self) -> Option<DescriptorIndex> {
        let index = self.free.pop()?;
        self.memory[index.get() as usize].write();
        assert_eq!(self.taken[index.get() as usize].swap(1, Counted), 0, "an index was handed out twice");
        Some(index)
    }

    fn push(&self, index: DescriptorIndex) -> Returned {
        self.memory[index.get() as usize].write();
        self.taken[index.get() as usize].store(0, Counted);
        self.free.push(index)
    }

    /// All of `0..count` are there, each once.
    fn check_complete(&self, count: u32) {
        let mut all: Vec<u32> = core::iter::from_fn(|| self.pop()).map(DescriptorIndex::get).collect();
        all.sort_unstable();
        assert_eq!(all, (0..count).collect::<Vec<_>>());
    }

    /// `Core::return_index`.
    fn give_back(&self, index: DescriptorIndex) {
        if self.push(index) == Returned::WakeWaiters {
            self.sequence.fetch_add(1, Ordering::Release);
            futex::wake_all(&self.sequence, Scope::Private);
        }
    }

    /// `Core::reserve`.
    fn wait_for_one(&self, slept: &Seen) -> DescriptorIndex {
        if let Some(index) = self.pop() {
            return index;
        }
        loop {
            let sequence = self.sequence.load(Ordering::Acquire);
            if self.free.announce_waiter() {
                slept.mark();
                futex::wait(&self.sequence, sequence, Scope::Private);
            }
            if let Some(index) = self.pop() {
                return index;
            }
        }
    }
}

/// A head that was popped and pushed back while another thread was about to pop it: the tag tells the two apart.
#[test]
fn a_head_that_came_back_is_not_the_old_one() {
    explore(Some(3), || {
        let stock = Stock::new(3);
        let other = beside(&stock, move |stock| {
            let (first, second) = (stock.pop().unwrap(), stock.pop().unwrap());
            let _ = stock.push(first);
            second
        });
        let mine = stock.pop().unwrap();
        let second = other.join().unwrap();
        assert_eq!(stock.push(mine), Returned::Quietly);
        assert_eq!(stock.push(second), Returned::Quietly);
        stock.check_complete(3);
    });
}

/// R6/A6 with an index that goes through three hands.
#[test]
fn an_index_is_had_by_one_thread_at_a_time() {
    explore_reaching(Some(3), ["a thread finds the list empty", "a thread finds an index"], move |seen| {
        let stock = Stock::new(2);
        let threads = [1, 2].map(|_| {
            let (stock, seen) = (stock.clone(), seen.clone());
            thread::spawn(move || match stock.pop() {
                Some(index) => {
                    assert_eq!(stock.push(index), Returned::Quietly);
                    seen[1].mark();
                }
                None => seen[0].mark(),
            })
        });
        let held = stock.pop();
        join(threads);
        if let Some(index) = held {
            assert_eq!(stock.push(index), Returned::Quietly);
        }
        stock.check_complete(2);
    });
}

/// Two waiters and one index that is returned, used and returned again: both get it.
#[test]
fn waiters_hear_of_a_returned_index() {
    explore_reaching(Some(2), ["the first waiter sleeps", "the second waiter sleeps"], move |seen| {
        let stock = Stock::new(1);
        let index = stock.pop().unwrap();
        let other = thread::spawn({
            let (stock, slept) = (stock.clone(), seen[0].clone());
            move || {
                let index = stock.wait_for_one(&slept);
                stock.give_back(index);
            }
        });
        let returning = beside(&stock, move |stock| stock.give_back(index));
        let index = stock.wait_for_one(&seen[1]);
        stock.give_back(index);
        other.join().unwrap();
        returning.join().unwrap();
        stock.check_complete(1);
    });
}

/// A list is closed while indices are taken and returned, with or without quiet returns: each index ends in the list that the
/// closer clears, or with the holder that is told.
#[test]
fn a_closed_list_loses_no_index() {
    explore_reaching(Some(3), ["the index is returned before the list is closed", "a holder is told"], move |seen| {
        let stock = Stock::new(2);
        let index = stock.pop().unwrap();
        let returning = beside(&stock, move |stock| {
            // `local::return_engine_ref`, then `Core::return_index`.
            stock.memory[index.get() as usize].write();
            let is_told = !stock.free.push_quietly(index) && stock.free.push(index) == Returned::Closed;
            is_told.then_some(index)
        });
        let taking = beside(&stock, move |stock| {
            let index = stock.free.pop()?;
            stock.memory[index.get() as usize].write();
            (stock.free.push(index) == Returned::Closed).then_some(index)
        });
        let mut all: Vec<u32> = Vec::new();
        for index in stock.free.close() {
            stock.memory[index.get() as usize].write();
            all.push(index.get());
        }
        if all.contains(&index.get()) {
            seen[0].mark();
        }
        for thread in [returning, taking] {
            if let Some(index) = thread.join().unwrap() {
                seen[1].mark();
                all.push(index.get());
            }
        }
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
    });
}

/// What a waiter left before it announced itself is visible to the return that reports it; else it finds the index.
#[test]
fn a_reported_waiter_can_be_woken() {
    explore_reaching(None, ["the return reports the waiter", "the waiter finds the index"], move |seen| {
        let stock = Stock::new(1);
        let index = stock.pop().unwrap();
        let returning = beside(&stock, move |stock| {
            let returned = stock.push(index);
            if returned == Returned::WakeWaiters {
                stock.waker.read();
            }
            returned
        });
        stock.waker.write();
        let announced = stock.free.announce_waiter();
        if !announced {
            seen[1].mark();
            assert!(stock.pop().is_some());
        }
        let reported = returning.join().unwrap() == Returned::WakeWaiters;
        assert_eq!(announced, reported);
        if reported {
            seen[0].mark();
        }
    });
}
