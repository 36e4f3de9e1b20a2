//! Evidence of damage: nothing is taken for damaged that was asked for once only.

use crate::error::{Fault, Result};

/// Reads something again if it looks damaged: a bad answer can be the fault of the way. What is not there is not asked
/// for again.
pub fn asked_twice<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    match read() {
        Err(error) if error.is_damage() && error.fault() != Some(Fault::NotFound) => read(),
        result => result,
    }
}
