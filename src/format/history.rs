//! What a machine has seen of a repository: its snapshots, and how far its log reached. It is kept in the cache directory, or where the user wants it, and
//! never in a repository.
//!
//! The body inside its object envelope (named `history`) is one snapshot id (16 bytes) after another, in ascending order,
//! each once. If a log was seen, there follow the roots of the full subtrees of its tree (32 bytes each, the largest first),
//! the hash of its last leaf (32), and how many entries it had (8), which makes the length no multiple of 16.

use std::collections::BTreeSet;

use crate::crypto::merkle::Frontier;
use crate::format_error::FormatError;
use crate::id::{SessionId, TreeHash};

/// Length of one record.
const RECORD_LEN: usize = 16;
/// Most snapshots that are remembered: far more than a repository lists.
pub const HISTORY_MAX: usize = 1 << 16;

/// Length of a hash of the tree.
const HASH_LEN: usize = 32;
/// Length of the size of a log.
const SIZE_LEN: usize = 8;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Snapshots.
    pub snapshots: BTreeSet<SessionId>,
    /// How far the log reached.
    pub log: Option<LogPosition>,
}

impl Seen {
    /// Takes in what was seen elsewhere. Of a log the longer one counts: it never gets shorter.
    pub fn take_in(&mut self, other: Self) {
        self.snapshots.extend(other.snapshots);
        let size = |log: &Option<LogPosition>| log.as_ref().map_or(0, |log| log.frontier.size());
        if size(&other.log) > size(&self.log) {
            self.log = other.log;
        }
    }
}

/// How far a log reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPosition {
    /// Its tree: never an empty one.
    pub frontier: Frontier,
    /// The hash of its last leaf.
    pub last: TreeHash,
}

/// Returns the stored form of the body: the newest snapshots, if they are too many.
pub fn encode(seen: &Seen) -> Vec<u8> {
    let kept = seen.snapshots.iter().skip(seen.snapshots.len().saturating_sub(HISTORY_MAX));
    let mut body: Vec<u8> = kept.flat_map(|id| *id.as_bytes()).collect();
    if let Some(log) = &seen.log {
        log.frontier.peaks().iter().chain([&log.last]).for_each(|hash| body.extend_from_slice(hash.as_bytes()));
        body.extend_from_slice(&log.frontier.size().to_le_bytes());
    }
    body
}

/// Reads the stored form of the body.
pub fn decode(body: &[u8]) -> Result<Seen, FormatError> {
    let (snapshots, log) = match body.len() % RECORD_LEN {
        SIZE_LEN => split_log(body)?,
        _ => (body, None),
    };
    Ok(Seen { snapshots: decode_snapshots(snapshots)?, log })
}

fn split_log(body: &[u8]) -> Result<(&[u8], Option<LogPosition>), FormatError> {
    let short = || FormatError::new("what it says of the log ends early");
    let (rest, size) = body.split_last_chunk::<SIZE_LEN>().ok_or_else(short)?;
    let size = u64::from_le_bytes(*size);
    let hashes_len = (size.count_ones() as usize + 1) * HASH_LEN;
    let (snapshots, hashes) = rest.split_at(rest.len().checked_sub(hashes_len).ok_or_else(short)?);
    let mut hashes: Vec<TreeHash> =
        hashes.as_chunks::<HASH_LEN>().0.iter().map(|hash| TreeHash::from_bytes(*hash)).collect();
    let last = hashes.pop().ok_or_else(short)?;
    let frontier = Frontier::new(size, hashes).filter(|frontier| frontier.size() > 0);
    let frontier = frontier.ok_or_else(|| FormatError::new("it tells of a log without entries"))?;
    Ok((snapshots, Some(LogPosition { frontier, last })))
}

fn decode_snapshots(body: &[u8]) -> Result<BTreeSet<SessionId>, FormatError> {
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

    fn position(size: u8) -> Option<LogPosition> {
        let mut frontier = Frontier::default();
        (0..size).for_each(|number| frontier.push(TreeHash::from_bytes([number; 32])));
        (size > 0).then_some(LogPosition { frontier, last: TreeHash::from_bytes([size; 32]) })
    }

    proptest! {
        #[test]
        fn what_was_seen_is_read_again(ids: Vec<[u8; 16]>, size: u8) {
            let snapshots = ids.into_iter().map(SessionId::from_bytes).collect();
            let seen = Seen { snapshots, log: position(size) };
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
        let snapshots: BTreeSet<SessionId> = (0..HISTORY_MAX + 3).map(id).collect();
        let kept = decode(&encode(&Seen { snapshots, log: None })).unwrap().snapshots;
        assert_eq!((kept.len(), kept.first()), (HISTORY_MAX, Some(&id(3))));
    }
}
