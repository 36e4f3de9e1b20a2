//! Bounded memory: a semaphore that counts bytes, not tasks.
//!
//! What must stay true: bytes in flight never exceed the capacity, but for one request larger than the whole
//! capacity, which is let through alone (else it would wait for ever).

use crate::sync::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A pool of bytes that buffers are charged to. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    capacity: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    pool: Arc<Pool>,
    bytes: u64,
}

impl Budget {
    /// Makes a pool of `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Self {
        Self(Arc::new(Pool { capacity: capacity_bytes.max(1), used: Mutex::new(0), freed: Condvar::new() }))
    }

    /// Waits until `bytes` fit, and takes them.
    pub fn take(&self, bytes: u64) -> Permit {
        let bytes = bytes.min(self.0.capacity);
        let mut used = lock(&self.0.used);
        while *used + bytes > self.0.capacity {
            used = self.0.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Permit { pool: Arc::clone(&self.0), bytes }
    }

    /// Takes `bytes` if they fit now.
    pub fn try_take(&self, bytes: u64) -> Option<Permit> {
        let mut used = lock(&self.0.used);
        if *used + bytes > self.0.capacity {
            return None;
        }
        *used += bytes;
        Some(Permit { pool: Arc::clone(&self.0), bytes })
    }
}

impl Permit {
    /// Returns how many bytes it stands for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` more if they fit now. It never waits: two that waited for each other would wait for ever.
    pub fn try_grow(&mut self, bytes: u64) -> bool {
        let mut used = lock(&self.pool.used);
        let fits = *used + bytes <= self.pool.capacity;
        if fits {
            *used += bytes;
            self.bytes += bytes;
        }
        fits
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *lock(&self.pool.used) -= self.bytes;
        self.pool.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taker_waits_until_bytes_are_given_back() {
        let budget = Budget::new(10);
        let first = budget.take(8);
        let other = budget.clone();
        let waiting = std::thread::spawn(move || drop(other.take(5)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(first);
        waiting.join().unwrap();
    }

    #[test]
    fn what_does_not_fit_is_not_taken_without_waiting() {
        let budget = Budget::new(10);
        let first = budget.try_take(8).unwrap();
        assert!(budget.try_take(3).is_none());
        drop(first);
        assert!(budget.try_take(10).is_some());
    }

    #[test]
    fn a_permit_grows_as_far_as_there_is_room() {
        let budget = Budget::new(10);
        let mut permit = budget.take(4);
        assert!(permit.try_grow(6) && !permit.try_grow(1));
        assert_eq!(permit.bytes(), 10);
        drop(permit);
        assert!(budget.try_take(10).is_some());
    }

    #[test]
    fn a_request_above_the_capacity_is_served_alone() {
        let budget = Budget::new(10);
        drop(budget.take(1000));
        drop(budget.take(10));
    }
}
