//! Digests over the rows of tables that do not depend on their order, and the records made of them.
//!
//! Each row's bytes, in the form of its dump, are hashed with BLAKE3; the hashes are added modulo 2^256. So a table that
//! was loaded can be compared with the one that was dumped, wherever its rows lie now.
//!
//! What must stay true: this compares, it does not prove. Someone who can choose many rows can find others with the same
//! sum. What proves a dump is the digest of its bytes in the snapshot's tree.

use super::TableRecord;
use crate::id::Digest;

/// The sum of the hashes of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableDigest {
    rows: u64,
    /// Little-endian words of the sum.
    sum: [u64; 4],
}

impl TableDigest {
    /// Counts a row in.
    pub fn add(&mut self, row: &[u8]) {
        self.rows += 1;
        let hash = blake3::hash(row);
        let mut carry = false;
        for (word, bytes) in self.sum.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            let added = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
            let (sum, over) = word.overflowing_add(added);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            *word = sum;
            carry = over || over_again;
        }
    }

    /// Returns the record of a table of that name with these rows.
    pub fn record(&self, name: &str) -> TableRecord {
        let mut bytes = [0; 32];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.sum) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        TableRecord { name: name.to_owned(), rows: self.rows, digest: Digest::from_bytes(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(rows: &[&str]) -> TableRecord {
        let mut digest = TableDigest::default();
        rows.iter().for_each(|row| digest.add(row.as_bytes()));
        digest.record("t")
    }

    #[test]
    fn order_does_not_matter_and_content_and_number_do() {
        assert_eq!(digest(&["a", "b", "c"]), digest(&["c", "a", "b"]));
        for other in [&["a", "b"][..], &["a", "b", "d"], &["a", "b", "c", "c"], &["ab", "", "c"]] {
            assert_ne!(digest(&["a", "b", "c"]).digest, digest(other).digest);
        }
    }

    #[test]
    fn the_sum_carries_into_all_of_its_words() {
        let rows: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let mut digest = TableDigest::default();
        let mut expected = [0_u32; 33];
        for row in &rows {
            digest.add(row.as_bytes());
            for (sum, byte) in expected.iter_mut().zip(blake3::hash(row.as_bytes()).as_bytes()) {
                *sum += u32::from(*byte);
            }
        }
        for place in 0..32 {
            expected[place + 1] += expected[place] >> 8;
            expected[place] &= 0xFF;
        }
        let bytes: Vec<u8> = expected[..32].iter().map(|byte| *byte as u8).collect();
        assert_eq!(digest.record("t").digest.as_bytes().as_slice(), bytes);
        assert_eq!(digest.record("t").rows, 1000);
    }
}
