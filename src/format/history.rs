//! Which snapshots of a repository a machine has seen. It is kept in the cache directory, or where the user wants it, and
//! never in a repository.
//!
//! The body inside its object envelope (named `history`) is one snapshot id (16 bytes) after another, in ascending order,
//! each once.

use std::collections::BTreeSet;

use crate::format_error::FormatError;
use crate::id::SessionId;

/// Length of one record.
const RECORD_LEN: usize = 16;
/// Most snapshots that are remembered: far more than a repository lists.
pub const HISTORY_MAX: usize = 1 << 16;

/// Returns the stored form of the body: the newest ones, if they are too many.
pub fn encode(seen: &BTreeSet<SessionId>) -> Vec<u8> {
    let kept = seen.iter().skip(seen.len().saturating_sub(HISTORY_MAX));
    kept.flat_map(|id| *id.as_bytes()).collect()
}

/// Reads the stored form of the body.
pub fn decode(body: &[u8]) -> Result<BTreeSet<SessionId>, FormatError> {
    let (records, rest) = body.as_chunks::<RECORD_LEN>();
    if !rest.is_empty() {
        return Err(FormatError::new("its last record ends early"));
    }
    if records.len() > HISTORY_MAX {
        return Err(FormatError::new(format!("it has {} records, more than {HISTORY_MAX}", records.len())));
    }
    if !records.is_sorted_by(|one, next| one < next) {
        return Err(FormatError::new("its records are not in order"));
    }
    Ok(records.iter().map(|record| SessionId::from_bytes(*record)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_seen_is_read_again(ids: Vec<[u8; 16]>) {
            let seen: BTreeSet<SessionId> = ids.into_iter().map(SessionId::from_bytes).collect();
            prop_assert_eq!(decode(&encode(&seen)).unwrap(), seen);
        }

        #[test]
        fn any_bytes_are_refused_or_encode_to_themselves(bytes: Vec<u8>) {
            if let Ok(seen) = decode(&bytes) {
                prop_assert_eq!(encode(&seen), bytes);
            }
        }
    }

    #[test]
    fn of_too_many_the_newest_are_kept() {
        let id = |number: usize| SessionId::new(number as u64, [0; 10]);
        let seen: BTreeSet<SessionId> = (0..HISTORY_MAX + 3).map(id).collect();
        let kept = decode(&encode(&seen)).unwrap();
        assert_eq!((kept.len(), kept.first()), (HISTORY_MAX, Some(&id(3))));
    }
}
