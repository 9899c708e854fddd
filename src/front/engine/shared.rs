//! Shared arrays and the engine: handles for its kernels.

use crate::arena::shared::SharedHandle;
use crate::arena::shared::array::SharedArray;
use crate::arena::shared::element::SharedElement;
use crate::error::Result;
use crate::front::engine::Engine;

impl Engine {
    /// Makes a shared array known to this engine, and gives the handle by which its kernels find it
    /// ([`Context::shared`](crate::Context::shared)). The same array has the same handle every time.
    ///
    /// Neither engine nor handle keeps the array alive: it is known until the last clone in this process is dropped, which unmaps it
    /// here and closes its memory. A worker process that used it unmaps it when it is asked for an array the next time that it has
    /// not mapped, or at its end. Kernels that are at it at that moment keep what they have.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) when the engine knows 1024 arrays, or has worker processes and the array is memory of this process alone;
    /// [`Error::Forked`](crate::Error::Forked).
    ///
    /// # Examples
    /// As [`Context::shared`](crate::Context::shared).
    pub fn share<T: SharedElement>(&self, array: &SharedArray<T>) -> Result<SharedHandle<T>> {
        array.handle(&self.core().arena)
    }

    /// The array of a handle, for code that has only that: closures, tests.
    ///
    /// # Errors
    /// As [`Context::shared`](crate::Context::shared).
    pub fn shared<T: SharedElement>(&self, handle: &SharedHandle<T>) -> Result<SharedArray<T>> {
        SharedArray::of_handle(&self.core().arena, handle)
    }
}
