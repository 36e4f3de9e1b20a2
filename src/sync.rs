//! What threads of one operation share: a lock that survives panics, and the first failure.
//!
//! What must stay true: a thread that panicked while it held a lock does not take the others with it: its panic is passed
//! on where it is joined, and what it guarded is a value that is whole after every statement.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Locks a mutex, also one whose holder panicked.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the value out of a mutex that nobody else holds any more.
pub fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The first failure of an operation with many threads, and the signal to the others to stop.
#[derive(Debug, Default)]
pub struct FirstFailure {
    first: Mutex<Option<Error>>,
    is_set: AtomicBool,
}

impl FirstFailure {
    /// Keeps an error, unless another one came before.
    pub fn set(&self, error: Error) {
        lock(&self.first).get_or_insert(error);
        // After the error, so that who sees the signal finds it.
        self.is_set.store(true, Ordering::Release);
    }

    /// Returns whether there was a failure. Costs next to nothing: loops ask at every step.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Fails with the first failure, if there was one.
    pub fn check(&self) -> Result<()> {
        if !self.is_set() {
            return Ok(());
        }
        lock(&self.first).clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_what_everybody_gets() {
        let failure = FirstFailure::default();
        assert!(failure.check().is_ok() && !failure.is_set());
        failure.set(Error::Interrupted);
        failure.set(Error::Busy("later".to_owned()));
        assert!(failure.is_set());
        for _ in 0..2 {
            assert!(matches!(failure.check(), Err(Error::Interrupted)));
        }
    }

    #[test]
    fn a_lock_survives_a_panic_of_its_holder() {
        let mutex = Mutex::new(1);
        let panicked = std::thread::scope(|scope| {
            let holder = scope.spawn(|| {
                let _held = lock(&mutex);
                panic!("as intended");
            });
            holder.join().is_err()
        });
        assert!(panicked && *lock(&mutex) == 1 && into_inner(mutex) == 1);
    }
}
