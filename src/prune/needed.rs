//! The chunks that snapshots need, in little memory.
//!
//! What must stay true: what was added is contained. The reverse may fail: of data chunks eight bytes of the id are
//! kept, so that one in some 10^12 unneeded chunks counts as needed, which costs its space and nothing else. Meta
//! chunks are kept exactly: one that counts as seen is not looked into.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::BlobKind;
use crate::hears::Hears;
use crate::id::{ChunkId, SessionId};
use crate::monitor::Counter;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::trees::reachable::{self, Use};

/// Ids that are added before they are sorted in; more where the set is large.
const UNSORTED_MIN: usize = 1 << 16;

/// A growing set of needed chunks: it never forgets one.
pub struct Needed {
    reader: ChunkReader,
    snapshots: HashSet<SessionId>,
    /// Meta chunks, and as what they were met.
    meta: HashMap<ChunkId, Uses>,
    data: Prefixes,
}

impl Needed {
    /// Makes an empty set.
    pub fn new(repository: Arc<Repository>) -> Self {
        let reader = ChunkReader::new(repository);
        Self { reader, snapshots: HashSet::new(), meta: HashMap::new(), data: Prefixes::default() }
    }

    /// Adds what snapshots need that were not added before. Fails where that cannot be found out.
    pub fn add<'a>(&mut self, snapshots: impl IntoIterator<Item = &'a Snapshot>, hears: &Hears) -> Result<()> {
        for snapshot in snapshots {
            if !self.snapshots.contains(&snapshot.id) {
                let (meta, data) = (&mut self.meta, &mut self.data);
                reachable::for_each_chunk(&self.reader, &snapshot.record, &mut |role, id| match role.kind() {
                    BlobKind::Meta => {
                        hears.check()?;
                        Ok(meta.entry(*id).or_default().add(role))
                    }
                    BlobKind::Data => {
                        data.add(prefix(id));
                        Ok(true)
                    }
                })?;
                self.snapshots.insert(snapshot.id);
                hears.monitor.count(Counter::Entries, 1);
            }
        }
        self.data.sort();
        Ok(())
    }

    /// Returns whether a chunk is needed.
    pub fn contains(&self, kind: BlobKind, id: &ChunkId) -> bool {
        match kind {
            BlobKind::Meta => self.meta.contains_key(id),
            BlobKind::Data => self.data.sorted.binary_search(&prefix(id)).is_ok(),
        }
    }

    /// Returns how many different ids of a kind are needed, as [`Needed::name`] tells them apart.
    pub fn count(&self, kind: BlobKind) -> u64 {
        match kind {
            BlobKind::Meta => self.meta.len() as u64,
            BlobKind::Data => self.data.sorted.len() as u64,
        }
    }

    /// Returns what of an id is told apart.
    pub fn name(kind: BlobKind, id: &ChunkId) -> ChunkId {
        let mut bytes = *id.as_bytes();
        if kind == BlobKind::Data {
            bytes[size_of::<u64>()..].fill(0);
        }
        ChunkId::from_bytes(bytes)
    }
}

/// As what a chunk was met: a set in the bits of a byte.
#[derive(Debug, Clone, Copy, Default)]
struct Uses(u8);

impl Uses {
    /// Adds a use; returns whether it is new.
    fn add(&mut self, role: Use) -> bool {
        let bit = match role {
            Use::Node => 1,
            Use::List(BlobKind::Data) => 2,
            Use::List(BlobKind::Meta) => 4,
            Use::Content(_) => 8,
        };
        let is_new = self.0 & bit == 0;
        self.0 |= bit;
        is_new
    }
}

/// Eight bytes of an id. Ids are keyed hashes: nobody without the key can make two alike.
fn prefix(id: &ChunkId) -> u64 {
    let [prefix @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *id.as_bytes();
    u64::from_be_bytes(prefix)
}

/// A set of numbers: sorted ones, and newer ones that are not sorted in yet.
#[derive(Default)]
struct Prefixes {
    sorted: Vec<u64>,
    unsorted: Vec<u64>,
}

impl Prefixes {
    fn add(&mut self, prefix: u64) {
        self.unsorted.push(prefix);
        if self.unsorted.len() >= UNSORTED_MIN.max(self.sorted.len() / 4) {
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.unsorted.sort_unstable();
        self.unsorted.dedup();
        self.unsorted.retain(|prefix| self.sorted.binary_search(prefix).is_err());
        self.sorted.reserve_exact(self.unsorted.len());
        self.sorted.append(&mut self.unsorted);
        // Two sorted runs: this sort finds and merges them.
        self.sorted.sort();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_prefixes_is_a_set(numbers in proptest::collection::vec(0u64..500, 0..900), every in 1usize..50) {
            let mut set = Prefixes::default();
            for (at, number) in numbers.iter().enumerate() {
                set.add(*number);
                if at % every == 0 {
                    set.sort();
                }
            }
            set.sort();
            prop_assert_eq!(set.sorted, numbers.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
        }
    }
}
