//! Models of the lock-free floor.
