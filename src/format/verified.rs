//! What a check remembers: which packs were read whole and found sound, and when. It is kept in the cache directory alone.
//!
//! The body inside its object envelope (named `verified`) is one record after another:
//!
//! ```text
//!   0  32  pack id
//!  32   8  time at which its bytes were last found to hash to its name: seconds since 1970
//!  40   8  time at which every chunk in it was last opened; 0 if never
//! ```

use std::collections::BTreeMap;

use crate::format::Cursor;
use crate::format::object::BODY_LEN_MAX;
use crate::format_error::FormatError;
use crate::id::PackId;

/// Length of one record.
const RECORD_LEN: usize = 48;
/// Most packs that can be remembered.
pub const VERIFIED_MAX: usize = BODY_LEN_MAX / RECORD_LEN;

/// When a pack was last found sound, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Its bytes hashed to its name.
    pub named: i64,
    /// Every chunk in it was opened as well; 0 if never.
    pub opened: i64,
}

/// Returns the stored form of the body.
pub fn encode(packs: &BTreeMap<PackId, Verified>) -> Vec<u8> {
    let mut body = Vec::with_capacity(packs.len() * RECORD_LEN);
    for (id, verified) in packs {
        body.extend_from_slice(id.as_bytes());
        body.extend_from_slice(&verified.named.to_le_bytes());
        body.extend_from_slice(&verified.opened.to_le_bytes());
    }
    body
}

/// Reads the stored form of the body.
pub fn decode(body: &[u8]) -> Result<BTreeMap<PackId, Verified>, FormatError> {
    if !body.len().is_multiple_of(RECORD_LEN) {
        return Err(FormatError::new("its last record ends early"));
    }
    let mut cursor = Cursor::new(body);
    let mut record =
        || Ok((PackId::from_bytes(cursor.array()?), Verified { named: cursor.i64()?, opened: cursor.i64()? }));
    (0..body.len() / RECORD_LEN).map(|_| record()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_remembered_is_read_again(packs: Vec<([u8; 32], i64, i64)>) {
            let record = |(id, named, opened)| (PackId::from_bytes(id), Verified { named, opened });
            let packs: BTreeMap<_, _> = packs.into_iter().map(record).collect();
            prop_assert_eq!(decode(&encode(&packs)).unwrap(), packs);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&bytes).is_ok(), bytes.len() % RECORD_LEN == 0);
        }
    }
}
