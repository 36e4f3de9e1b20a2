//! The Merkle tree of the log: that of RFC 6962 and RFC 9162 over SHA-256, so that any tool for transparency logs verifies
//! its proofs.
//!
//! What must stay true: the hash of a leaf and that of a node differ in their first byte, so that no node passes for a leaf;
//! the root follows from the leaves and their order alone; and whoever has the [`Frontier`] of a tree can append to it
//! without the leaves.
//!
//! Ours, because the crates that have it bring along a client for logs, a store of tiles or a server.

use sha2::{Digest, Sha256};

use crate::id::TreeHash;

const LEAF: u8 = 0;
const NODE: u8 = 1;

/// Returns the hash of a leaf.
pub fn leaf(data: &[u8]) -> TreeHash {
    TreeHash::from_bytes(Sha256::new().chain_update([LEAF]).chain_update(data).finalize().into())
}

fn node(left: &TreeHash, right: &TreeHash) -> TreeHash {
    let hash = Sha256::new().chain_update([NODE]).chain_update(left.as_bytes()).chain_update(right.as_bytes());
    TreeHash::from_bytes(hash.finalize().into())
}

/// The roots of the full subtrees that a tree consists of, the largest first: one for each bit of its size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<TreeHash>,
}

impl Frontier {
    /// Puts one together; nothing if a tree of this size has another number of such subtrees.
    pub fn new(size: u64, peaks: Vec<TreeHash>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// Returns how many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the roots of the subtrees.
    pub fn peaks(&self) -> &[TreeHash] {
        &self.peaks
    }

    /// Appends a leaf, by its hash.
    pub fn push(&mut self, leaf: TreeHash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("a tree has a subtree for each bit of its size");
            hash = node(&left, &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// Returns the root of the tree: of an empty one, the hash of nothing.
    pub fn root(&self) -> TreeHash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return TreeHash::from_bytes(Sha256::digest([]).into()) };
        peaks.fold(*last, |right, left| node(left, &right))
    }
}

/// Returns the root over leaves, by their hashes.
pub fn root(leaves: &[TreeHash]) -> TreeHash {
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    frontier.root()
}

/// Returns how many leaves the left part of a tree has: the largest power of two below its size, which is above 1.
fn left_len(size: usize) -> usize {
    1 << (size - 1).ilog2()
}

/// Returns the proof that the leaf `index` is in the tree over these leaves; nothing if there is no such leaf.
pub fn inclusion(leaves: &[TreeHash], index: usize) -> Option<Vec<TreeHash>> {
    let (_, mut proofs) = inclusions(leaves, &[index])?;
    proofs.pop()
}

/// Returns the root over these leaves, and the proofs for some of them, whose places ascend; nothing if one is not there. Each
/// hash is computed once, however many proofs it is in.
pub fn inclusions(leaves: &[TreeHash], indices: &[usize]) -> Option<(TreeHash, Vec<Vec<TreeHash>>)> {
    let ascend = indices.is_sorted_by(|one, next| one < next);
    if !ascend || indices.last().is_some_and(|last| *last >= leaves.len()) {
        return None;
    }
    let mut proofs = vec![Vec::new(); indices.len()];
    let root = prove(leaves, 0, indices, &mut proofs);
    Some((root, proofs))
}

/// Returns the root of a subtree whose first leaf has this place, and adds its part to the proofs of those that are in it.
fn prove(leaves: &[TreeHash], first: usize, indices: &[usize], proofs: &mut [Vec<TreeHash>]) -> TreeHash {
    if indices.is_empty() || leaves.len() == 1 {
        return root(leaves);
    }
    let (left, right) = leaves.split_at(left_len(leaves.len()));
    let middle = first + left.len();
    let in_left = indices.partition_point(|index| *index < middle);
    let (left_proofs, right_proofs) = proofs.split_at_mut(in_left);
    let left_root = prove(left, first, &indices[..in_left], left_proofs);
    let right_root = prove(right, middle, &indices[in_left..], right_proofs);
    left_proofs.iter_mut().for_each(|proof| proof.push(right_root));
    right_proofs.iter_mut().for_each(|proof| proof.push(left_root));
    node(&left_root, &right_root)
}

/// Returns the proof that the tree over the first `old` of these leaves grew to that over all; nothing if there are fewer.
pub fn consistency(leaves: &[TreeHash], old: usize) -> Option<Vec<TreeHash>> {
    if old > leaves.len() {
        return None;
    }
    let (mut rest, mut old, mut is_whole, mut proof) = (leaves, old, true, Vec::new());
    if old == 0 {
        return Some(proof);
    }
    while old < rest.len() {
        let (left, right) = rest.split_at(left_len(rest.len()));
        if old <= left.len() {
            proof.push(root(right));
            rest = left;
        } else {
            proof.push(root(left));
            (rest, old, is_whole) = (right, old - left.len(), false);
        }
    }
    if !is_whole {
        proof.push(root(rest));
    }
    proof.reverse();
    Some(proof)
}

/// Returns whether a proof shows that the leaf `index` is in the tree of this size and root (RFC 9162, 2.1.3.2).
pub fn is_included(leaf: &TreeHash, index: u64, size: u64, proof: &[TreeHash], root: &TreeHash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            let up = if at & 1 == 1 { 0 } else { at.trailing_zeros() };
            (at, last) = (at >> up, last >> up);
        } else {
            hash = node(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Returns whether a proof shows that one tree grew to another (RFC 9162, 2.1.4.2).
pub fn is_consistent(old: (u64, &TreeHash), new: (u64, &TreeHash), proof: &[TreeHash]) -> bool {
    let ((old, old_root), (size, root)) = (old, new);
    if old == 0 || old >= size {
        return proof.is_empty() && (old == 0 || (old == size && old_root == root));
    }
    let whole = old.is_power_of_two().then_some(old_root);
    let mut path = whole.into_iter().chain(proof);
    let Some(first) = path.next() else { return false };
    let up = (old - 1).trailing_ones();
    let (mut at, mut last) = ((old - 1) >> up, (size - 1) >> up);
    let (mut of_old, mut of_new) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            of_old = node(sibling, &of_old);
            of_new = node(sibling, &of_new);
            let up = if at & 1 == 1 || at == 0 { 0 } else { at.trailing_zeros() };
            (at, last) = (at >> up, last >> up);
        } else {
            of_new = node(&of_new, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && of_old == *old_root && of_new == *root
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The eight leaves of the tests of RFC 6962's authors, and the roots over the first ones.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaves(count: usize) -> Vec<TreeHash> {
        (0..count).map(|number| leaf(&(number as u64).to_le_bytes())).collect()
    }

    #[test]
    fn roots_are_those_of_rfc_6962() {
        assert_eq!(root(&[]).to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let decode = |text: &&str| leaf(&data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap());
        let leaves: Vec<TreeHash> = LEAVES.iter().map(decode).collect();
        for (count, expected) in ROOTS.iter().enumerate() {
            assert_eq!(root(&leaves[..=count]).to_string(), *expected);
        }
    }

    #[test]
    fn proofs_hold_for_their_own_leaf_and_trees_and_for_no_others() {
        let all = leaves(33);
        for size in 1..=all.len() {
            let root_now = root(&all[..size]);
            let (of_proofs, proofs) = inclusions(&all[..size], &(0..size).collect::<Vec<_>>()).unwrap();
            assert_eq!(of_proofs, root_now);
            for index in 0..size {
                let proof = inclusion(&all[..size], index).unwrap();
                assert_eq!(proofs[index], proof);
                let holds = |at: usize, root: &TreeHash| is_included(&all[index], at as u64, size as u64, &proof, root);
                assert!(holds(index, &root_now), "{index} of {size}");
                assert!(!holds(index + 1, &root_now) && (size == 1 || !holds(index, &root(&all[..size - 1]))));
            }
            for old in 0..=size {
                let proof = consistency(&all[..size], old).unwrap();
                let (before, after) = (root(&all[..old]), root_now);
                let holds = |before: &TreeHash, after: &TreeHash, proof: &[TreeHash]| {
                    is_consistent((old as u64, before), (size as u64, after), proof)
                };
                assert!(holds(&before, &after, &proof), "{old} of {size}");
                if old > 0 {
                    let other = leaf(b"x");
                    assert!(!holds(&other, &after, &proof) && !holds(&before, &other, &proof));
                    assert!(!holds(&before, &after, &[&proof[..], &[other]].concat()));
                }
            }
        }
        assert!(inclusions(&all, &[1, 1]).is_none() && inclusions(&all, &[2, 1]).is_none());
        assert!(inclusion(&all, all.len()).is_none() && consistency(&all, all.len() + 1).is_none());
    }

    #[test]
    fn a_frontier_has_as_many_peaks_as_its_size_has_bits() {
        let mut frontier = Frontier::default();
        for (count, leaf) in leaves(40).into_iter().enumerate() {
            frontier.push(leaf);
            assert_eq!(frontier.size(), count as u64 + 1);
            let again = Frontier::new(frontier.size(), frontier.peaks().to_vec()).unwrap();
            assert_eq!(again, frontier);
            assert!(Frontier::new(frontier.size() + 1, frontier.peaks().to_vec()).is_none_or(|other| {
                (frontier.size() + 1).count_ones() == frontier.size().count_ones() && other.size() != frontier.size()
            }));
        }
    }
}
