//! Algorithms over slices, made of calls that fork: see `Engine::join`.

mod merge_sort;
mod quick_sort;

pub(in crate::front) use merge_sort::merge_sort;
pub(in crate::front) use quick_sort::{quick_sort, select_ranks};
