//! What a snapshot's record commits to: every single entry of a component, so that one can be shown to somebody who has no key,
//! and nothing of the others.
//!
//! The leaves of a Merkle tree (RFC 6962, SHA-256), one for each entry, in the order of paths:
//!
//! ```text
//!   salt (32) ‖ kind of the entry (1) ‖ length of path (8) ‖ path, and then
//!   file:     size (8) ‖ BLAKE3 of the content (32)
//!   symlink:  length of target (8) ‖ target
//! ```
//!
//! What must stay true: salts follow from the meta secret, so that whoever lacks it learns nothing from the hash of a leaf whose
//! salt he was not given, not even by guessing; and the same entry in another snapshot has another one.

use serde::{Deserialize, Serialize};

use crate::crypto::merkle;
use crate::format::tree::{Entry, EntryKind};
use crate::id::{CommitmentNonce, LeafSalt, TreeHash};

/// The commitment of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// Root over all leaves.
    pub root: TreeHash,
    /// What salts are derived with, besides the meta secret.
    pub nonce: CommitmentNonce,
}

/// Returns what of an entry is committed to.
pub fn content(entry: &Entry) -> Vec<u8> {
    let kind = match &entry.kind {
        EntryKind::Directory => 1,
        EntryKind::File(_) => 2,
        EntryKind::Symlink { .. } => 3,
    };
    let mut leaf = vec![kind];
    put(&mut leaf, &entry.path);
    match &entry.kind {
        EntryKind::Directory => {}
        EntryKind::File(file) => {
            leaf.extend_from_slice(&file.size.to_le_bytes());
            leaf.extend_from_slice(file.digest.as_bytes());
        }
        EntryKind::Symlink { target } => put(&mut leaf, target),
    }
    leaf
}

fn put(leaf: &mut Vec<u8>, text: &[u8]) {
    leaf.extend_from_slice(&(text.len() as u64).to_le_bytes());
    leaf.extend_from_slice(text);
}

/// Returns the hash of a leaf.
pub fn leaf(salt: &LeafSalt, content: &[u8]) -> TreeHash {
    merkle::leaf(&[salt.as_bytes(), content].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BlobKind;
    use crate::format::tree::{FileContent, Metadata};
    use crate::id::Digest;

    #[test]
    fn no_two_entries_commit_to_the_same_bytes() {
        let entry = |path: &[u8], kind| Entry {
            path: path.to_vec(),
            metadata: Metadata::default(),
            kind,
            attributes: Vec::new(),
        };
        let file = |size| {
            let (digest, kind) = (Digest::from_bytes([7; 32]), BlobKind::Data);
            let (chunks, hard_link) = (Vec::new(), None);
            EntryKind::File(FileContent {
                size,
                digest,
                chunks,
                kind,
                indirect: false,
                sparse: false,
                racy: false,
                hard_link,
            })
        };
        let link = |target: &[u8]| EntryKind::Symlink { target: target.to_vec() };
        let all = [
            entry(b"a", file(1)),
            entry(b"a", file(2)),
            entry(b"ab", file(1)),
            entry(b"a", link(b"bc")),
            entry(b"ab", link(b"c")),
            entry(b"a/", EntryKind::Directory),
        ];
        let mut contents: Vec<_> = all.iter().map(content).collect();
        contents.sort();
        contents.dedup();
        assert_eq!(contents.len(), all.len());
        let [a, b] = [1, 2].map(|byte| leaf(&LeafSalt::from_bytes([byte; 32]), &contents[0]));
        assert_ne!(a, b);
    }
}
