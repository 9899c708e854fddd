//! Calls of an engine that fork: two closures at once, and scopes that closures are spawned in.

use super::Engine;
use crate::engine::fork_join::{self, JoinScope};

impl Engine {
    /// Runs two closures, at the same time if a worker thread is free, and gives back what both return.
    ///
    /// They may borrow, and may call `join`, [`scope`](Engine::scope) and every other call of this engine, at any depth: that is what it is for.
    /// `a` is run by this thread. `b` is offered to worker threads that have nothing to do, and is run by this thread, too, when none has come
    /// for it meanwhile: then it costs some nanoseconds and no allocation. It needs no place in the queue.
    ///
    /// Blocks until both have ended. While it waits this thread runs what `b` forks, and nothing else. Any thread may call it, inside
    /// kernels and closures too. Where nobody can help, this thread runs one after the other: without worker threads (worker
    /// processes cannot run closures), while they all are at other jobs, after the engine was closed, in a forked child.
    ///
    /// # Panics
    /// When one of them does: its panic goes on when both have ended; that of `a` if both panicked.
    ///
    /// # Examples
    /// ```
    /// use workring::Engine;
    ///
    /// fn sum(engine: &Engine, numbers: &[u64]) -> u64 {
    ///     if numbers.len() <= 1000 {
    ///         return numbers.iter().sum();
    ///     }
    ///     let (left, right) = numbers.split_at(numbers.len() / 2);
    ///     let (left, right) = engine.join(|| sum(engine, left), || sum(engine, right));
    ///     left + right
    /// }
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(2).build()?;
    /// let numbers: Vec<u64> = (0..100_000).collect();
    /// assert_eq!(sum(&engine, &numbers), 4_999_950_000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn join<A, B, RA, RB>(&self, a: A, b: B) -> (RA, RB)
    where
        A: FnOnce() -> RA + Send,
        B: FnOnce() -> RB + Send,
        RA: Send,
        RB: Send,
    {
        fork_join::join(&self.core, a, b)
    }

    /// Runs a closure that may spawn others, which may borrow what lies outside of it and spawn more, and returns when all of them are over.
    ///
    /// `body` is run by this thread; what it spawns by worker threads that have nothing to do, and by this thread when `body` has ended. Blocks
    /// until then, and runs nothing but what this call, or one that it is part of, has forked. As [`Engine::join`] it works on every thread and on every
    /// engine. Each [`spawn`](JoinScope::spawn) makes one allocation: two halves are had for less by `join`.
    ///
    /// # Panics
    /// When `body` or a closure of the scope does: the first panic goes on when all of them are over.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let (mut rows, mut words) = ([0_u32; 4], Vec::new());
    /// engine.scope(|scope| {
    ///     for (index, row) in (1..).zip(&mut rows) {
    ///         scope.spawn(move |_| *row = index * index);
    ///     }
    ///     scope.spawn(|_| words.push("borrowed"));
    /// });
    /// assert_eq!((rows, words), ([1, 4, 9, 16], vec!["borrowed"]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn scope<'scope, R>(&self, body: impl FnOnce(&JoinScope<'scope>) -> R) -> R {
        fork_join::scope(&self.core, body)
    }
}
