//! Waiters for something, in the order in which they came. Each may leave at any time: a future that is dropped does.
//!
//! Coming, leaving and being called take a time that grows with the logarithm of how many wait, and with nothing else.

use std::collections::BTreeMap;

/// A place among the waiters for `of`; never given twice by the same [`Waiters`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket<S = ()> {
    of: S,
    number: u64,
}

impl<S: Ord> PartialEq for Ticket<S> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<S: Ord> Eq for Ticket<S> {}

impl<S: Ord> PartialOrd for Ticket<S> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<S: Ord> Ord for Ticket<S> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        #[cfg(all(test, not(workring_loom)))]
        tests::COMPARISONS.with(|comparisons| comparisons.set(comparisons.get() + 1));
        self.of.cmp(&other.of).then(self.number.cmp(&other.number))
    }
}

/// Waiters by what they wait for, and then oldest first. The caller has a lock around it.
#[derive(Debug)]
pub(crate) struct Waiters<T, S = ()> {
    list: BTreeMap<Ticket<S>, T>,
    next: u64,
}

impl<T, S> Default for Waiters<T, S> {
    fn default() -> Self {
        Self { list: BTreeMap::new(), next: 0 }
    }
}

impl<T, S: Ord + Copy> Waiters<T, S> {
    /// Puts one behind all others that wait for the same.
    pub(crate) fn add(&mut self, of: S, waiter: T) -> Ticket<S> {
        let ticket = self.ticket(of);
        self.list.insert(ticket, waiter);
        ticket
    }

    /// A ticket that nobody has, nor will have.
    pub(crate) fn ticket(&mut self, of: S) -> Ticket<S> {
        let number = self.next;
        // 2^64 of them do not come.
        self.next += 1;
        Ticket { of, number }
    }

    /// The one with this ticket, unless it was taken out.
    pub(crate) fn get_mut(&mut self, ticket: Ticket<S>) -> Option<&mut T> {
        self.list.get_mut(&ticket)
    }

    /// Takes one out; `None` when it was taken out before.
    pub(crate) fn remove(&mut self, ticket: Ticket<S>) -> Option<T> {
        self.list.remove(&ticket)
    }

    /// Takes the oldest out.
    pub(crate) fn take_first(&mut self) -> Option<T> {
        self.list.pop_first().map(|(_, waiter)| waiter)
    }

    /// Takes all out, oldest first. Later waiters get other tickets.
    pub(crate) fn take_all(&mut self) -> impl ExactSizeIterator<Item = T> + use<T, S> {
        core::mem::take(&mut self.list).into_values()
    }

    /// Takes those out that wait for `of`, oldest first.
    #[cfg_attr(workring_loom, allow(dead_code, reason = "the models need it not"))]
    pub(crate) fn take_of(&mut self, of: S) -> Vec<T> {
        let meant = Ticket { of, number: 0 }..=Ticket { of, number: u64::MAX };
        let meant: Vec<Ticket<S>> = self.list.range(meant).map(|(ticket, _)| *ticket).collect();
        meant.into_iter().filter_map(|ticket| self.list.remove(&ticket)).collect()
    }

    /// Takes out those of which `is_meant` is true, oldest first.
    #[cfg_attr(workring_loom, allow(dead_code, reason = "the models need it not"))]
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "for channels between processes"))]
    pub(crate) fn take_if(&mut self, mut is_meant: impl FnMut(&T) -> bool) -> Vec<T> {
        let meant: Vec<Ticket<S>> =
            self.list.iter().filter(|(_, waiter)| is_meant(waiter)).map(|(ticket, _)| *ticket).collect();
        meant.into_iter().filter_map(|ticket| self.list.remove(&ticket)).collect()
    }

    /// The first that came.
    #[cfg_attr(workring_loom, allow(dead_code, reason = "the models need it not"))]
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "for channels between processes"))]
    pub(crate) fn first(&self) -> Option<&T> {
        self.list.first_key_value().map(|(_, waiter)| waiter)
    }

    /// The last that came.
    #[cfg_attr(workring_loom, allow(dead_code, reason = "the models need it not"))]
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "for channels between processes"))]
    pub(crate) fn last(&self) -> Option<&T> {
        self.list.last_key_value().map(|(_, waiter)| waiter)
    }

    /// How many wait.
    #[cfg(all(test, not(workring_loom)))]
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use core::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        /// Comparisons of tickets that this thread made: what coming and leaving cost.
        pub(super) static COMPARISONS: Cell<u64> = const { Cell::new(0) };
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add(u8),
        Remove(usize),
        TakeFirst,
        TakeAll,
        TakeOf(u8),
        TakeEven,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_u8).prop_map(Step::Add),
            3 => any::<usize>().prop_map(Step::Remove),
            2 => Just(Step::TakeFirst),
            1 => Just(Step::TakeAll),
            1 => (0..3_u8).prop_map(Step::TakeOf),
            1 => Just(Step::TakeEven),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_of_those_who_are_there(steps in proptest::collection::vec(step(), 0..200)) {
            // Sorted by what is waited for, and then by age.
            let (mut waiters, mut twin) = (Waiters::default(), Vec::<(u8, u32)>::new());
            let mut given = Vec::new();
            let take = |twin: &mut Vec<(u8, u32)>, is_meant: &dyn Fn(u8, u32) -> bool| -> Vec<u32> {
                let (taken, left): (Vec<_>, Vec<_>) = twin.iter().copied().partition(|&(of, number)| is_meant(of, number));
                *twin = left;
                taken.into_iter().map(|(_, number)| number).collect()
            };
            for (number, step) in (0_u32..).zip(steps) {
                match step {
                    Step::Add(of) => {
                        given.push((waiters.add(of, number), number));
                        twin.push((of, number));
                        twin.sort_unstable();
                    }
                    Step::Remove(at) if !given.is_empty() => {
                        // Tickets of waiters that are gone, too.
                        let (ticket, number) = given[at % given.len()];
                        let expected = take(&mut twin, &|_, other| other == number).pop();
                        prop_assert_eq!(waiters.get_mut(ticket).copied(), expected);
                        prop_assert_eq!(waiters.remove(ticket), expected);
                    }
                    Step::Remove(_) => {}
                    Step::TakeFirst => {
                        let first = twin.first().map(|&(_, number)| number);
                        prop_assert_eq!(waiters.take_first(), first);
                        twin.drain(..twin.len().min(1));
                    }
                    Step::TakeAll => {
                        prop_assert_eq!(waiters.take_all().collect::<Vec<_>>(), take(&mut twin, &|_, _| true));
                    }
                    Step::TakeOf(of) => {
                        prop_assert_eq!(waiters.take_of(of), take(&mut twin, &|other, _| other == of));
                    }
                    Step::TakeEven => {
                        let expected = take(&mut twin, &|_, number| number % 2 == 0);
                        prop_assert_eq!(waiters.take_if(|number| number % 2 == 0), expected);
                    }
                }
                prop_assert_eq!((waiters.len(), waiters.is_empty()), (twin.len(), twin.is_empty()));
                prop_assert_eq!(waiters.last().copied(), twin.last().map(|(_, number)| *number));
            }
        }
    }

    /// A walk along the list at each step makes ten thousand waiters take seconds, and more with every ten thousand.
    #[test]
    fn coming_and_leaving_costs_no_walk_along_those_who_wait() {
        let turn = |waiters: &mut Waiters<u32>| {
            let before = COMPARISONS.get();
            let ticket = waiters.add((), 0);
            assert!(waiters.get_mut(ticket).is_some());
            assert_eq!(waiters.remove(ticket), Some(0));
            COMPARISONS.get() - before
        };
        let mut waiters = Waiters::default();
        let alone: u64 = (0..100).map(|_| turn(&mut waiters)).max().unwrap();
        let kept: Vec<Ticket> = (0..10_000).map(|number| waiters.add((), number)).collect();
        let among_many: u64 = (0..100).map(|_| turn(&mut waiters)).max().unwrap();
        // Three walks down a tree whose nodes hold eleven at most, and five at least.
        assert!(alone <= 3 && among_many <= 3 * 11 * 6, "{alone}, {among_many}");
        // From the middle as from the ends.
        let before = COMPARISONS.get();
        assert!(kept.iter().skip(5_000).chain(kept.iter().take(5_000)).all(|&ticket| waiters.remove(ticket).is_some()));
        assert!(COMPARISONS.get() - before <= 10_000 * 11 * 6);
        assert!(waiters.is_empty());
    }
}
