//! Slices that are written, cut into chunks of which each is given out once.
//!
//! Laws of this file:
//! 1. A slice is borrowed exclusively for `'a`, and after [`OnceParts::new`] it is reached by its chunks alone.
//! 2. All chunks are of one plan, that of the first, and so have no element in common; a chunk is given out once, whatever numbers come:
//!    private memory says which were.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, Ordering};

use std::sync::OnceLock;

use crate::engine::job::Plan;

/// A slice whose chunks several threads take, each as an exclusive slice.
pub(crate) struct OnceParts<'a, T> {
    start: *mut T,
    len: usize,
    /// The plan by which the first chunk was taken, and the chunks of it that were.
    taken: OnceLock<(Plan, Box<[AtomicBool]>)>,
    elements: PhantomData<&'a mut [T]>,
}

// SAFETY: what threads get by a shared reference are exclusive slices of disjoint elements (law 2), as if they had been sent.
unsafe impl<T: Send> Sync for OnceParts<'_, T> {}

impl<'a, T> OnceParts<'a, T> {
    /// The chunks of a slice by the plan that its call will have.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), taken: OnceLock::new(), elements: PhantomData }
    }

    /// A chunk, for the first that asks for it; nothing for others, for numbers beyond, and for another plan than the first.
    pub(crate) fn take(&self, plan: &Plan, chunk: u32) -> Option<&'a mut [T]> {
        let none_taken = || (*plan, (0..plan.chunks).map(|_| AtomicBool::new(false)).collect());
        let (first_plan, taken) = self.taken.get_or_init(none_taken);
        // Relaxed: one exchange finds it false, and nothing else is told by it.
        if first_plan != plan || taken.get(chunk as usize)?.swap(true, Ordering::Relaxed) {
            return None;
        }
        let range = plan.range(chunk);
        let end = range.end.min(self.len);
        let begin = range.start.min(end);
        // SAFETY: the elements lie inside the slice, which is borrowed for `'a` and used by its chunks alone (law 1); no other chunk has one
        // of them, and this one is given out here for the only time (law 2).
        Some(unsafe { core::slice::from_raw_parts_mut(self.start.add(begin), end - begin) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_is_given_out_once() {
        for (len, chunk_len) in [(0, 1), (1, 5), (10, 3), (12, 4), (7, usize::MAX)] {
            let mut slice: Vec<usize> = vec![0; len];
            let plan = Plan::new(len, Some(chunk_len), 0).unwrap();
            let parts = OnceParts::new(&mut slice);
            let mut kept: Vec<&mut [usize]> = Vec::new();
            let mut given = std::collections::HashSet::new();
            for chunk in [0, 2, 1, 0, 3, 2, 4, u32::MAX] {
                let part = parts.take(&plan, chunk);
                assert_eq!(
                    part.is_some(),
                    chunk < plan.chunks && given.insert(chunk),
                    "chunk {chunk} of {len} elements"
                );
                kept.extend(part);
                let other = Plan::new(len, Some(chunk_len.saturating_add(1).min(len + 1)), 0).unwrap();
                assert!(other == plan || parts.take(&other, chunk).is_none(), "chunks of two plans overlap");
            }
            // All at once, behind the parts themselves.
            drop(parts);
            kept.iter_mut().for_each(|part| part.iter_mut().for_each(|element| *element += 1));
            assert_eq!(slice, vec![1; len]);
        }
    }
}
