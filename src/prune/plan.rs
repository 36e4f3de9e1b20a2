//! What a prune would do: a pure function of what each pack holds.
//!
//! What must stay true: every pack that was looked at is in exactly one list. A plan may be clumsy, and is never
//! dangerous: what it marks is looked at again before anything is deleted.

use std::time::Duration;

use serde::Serialize;

use crate::format::{BlobKind, PerKind};
use crate::id::PackId;
use crate::units::sum_of_claims;

/// Packs that are smaller than this share of a full one are merged. What a day adds is often more than that, and to move it
/// costs more than some hundred objects a year.
const SMALL_SHARE: u64 = 16;
/// So many small packs of one kind may stay.
const SMALL_PACKS_MAX: usize = 8;

/// How far a prune goes.
#[derive(Debug, Clone, PartialEq)]
pub struct PruneLimits {
    /// Unused bytes that may stay, in percent of the used ones.
    pub unused_percent_max: f64,
    /// Most bytes of packs that are moved.
    pub repack_bytes_max: u64,
    /// Time after which no further pack is moved; without, there is no end to it.
    pub duration_max: Option<Duration>,
}

impl Default for PruneLimits {
    fn default() -> Self {
        Self { unused_percent_max: 5.0, repack_bytes_max: u64::MAX, duration_max: None }
    }
}

/// What is known of a pack that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackUse {
    /// The pack.
    pub id: PackId,
    /// What it holds.
    pub kind: BlobKind,
    /// Its length in bytes.
    pub len: u64,
    /// Stored bytes of its chunks, as far as they are known.
    pub content: u64,
    /// Stored bytes of those that are needed and that no other pack is to provide.
    pub used: u64,
    /// Who knows it.
    pub standing: Standing,
}

impl PackUse {
    /// Returns the stored bytes of chunks that nothing needs.
    fn waste(&self) -> u64 {
        self.content.saturating_sub(self.used)
    }
}

/// Who knows a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Segments name it.
    Live,
    /// A tombstone of another prune names it, so that no session relies on it.
    Tombstoned,
    /// No segment names it: a session that has ended left it, or one that runs.
    Unnamed,
}

/// Packs and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PackSum {
    /// How many packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl PackSum {
    fn add(&mut self, pack: &PackUse) {
        self.packs += 1;
        self.bytes = self.bytes.saturating_add(pack.len);
    }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PrunePlan {
    /// Packs that stay as they are.
    pub kept: PackSum,
    /// Packs that nothing needs.
    pub deleted: PackSum,
    /// Packs whose needed chunks are to be moved before they are deleted.
    pub repacked: PackSum,
    /// Packs that no segment names and that are left, because a session that is open may still name them.
    pub left: PackSum,
    /// Stored bytes of chunks that are to be moved.
    pub moved_bytes: u64,
    /// Bytes of all packs now.
    pub bytes_before: u64,
    /// Bytes of all packs afterwards, nearly.
    pub bytes_after: u64,
    /// Bytes in kept packs that nothing needs.
    pub unused_bytes_after: u64,
    /// Which are to be deleted.
    #[serde(skip)]
    pub delete: Vec<PackUse>,
    /// Which are to be moved, those with the least use first.
    #[serde(skip)]
    pub repack: Vec<PackUse>,
}

/// Makes a plan. `full_pack_bytes` is the size of new packs of each kind; `sessions_open` says whether packs that no
/// segment names may be on their way into the index.
pub fn plan(packs: &[PackUse], limits: &PruneLimits, full_pack_bytes: PerKind<u64>, sessions_open: bool) -> PrunePlan {
    let mut plan = PrunePlan { bytes_before: sum_of_claims(packs.iter().map(|pack| pack.len)), ..PrunePlan::default() };
    let (mut delete, mut repack, mut candidates) = (Vec::new(), Vec::new(), Vec::new());
    for pack in packs {
        match pack.standing {
            Standing::Unnamed if sessions_open => plan.left.add(pack),
            Standing::Tombstoned if pack.used > 0 => repack.push(*pack),
            _ if pack.used == 0 => delete.push(*pack),
            _ => candidates.push(*pack),
        }
    }
    let small = too_many_small_packs(&candidates, full_pack_bytes);
    let used: u64 = candidates.iter().map(|pack| pack.used).sum();
    let mut unused: u64 = candidates.iter().map(PackUse::waste).sum();
    let unused_max = (used as f64 * limits.unused_percent_max / 100.0) as u64;
    let mut budget = limits.repack_bytes_max.saturating_sub(sum_of_claims(repack.iter().map(|pack| pack.len)));
    candidates.sort_by_key(|pack| (pack.used * 1000 / pack.content.max(1), pack.id));
    for pack in candidates {
        let is_wasteful = unused > unused_max && pack.waste() > 0;
        if (is_wasteful || small.contains(&pack.id)) && pack.len <= budget {
            budget -= pack.len;
            unused -= pack.waste();
            repack.push(pack);
        } else {
            plan.kept.add(&pack);
        }
    }
    delete.iter().for_each(|pack| plan.deleted.add(pack));
    repack.iter().for_each(|pack| plan.repacked.add(pack));
    plan.moved_bytes = repack.iter().map(|pack| pack.used).sum();
    plan.unused_bytes_after = unused;
    plan.bytes_after = sum_of_claims([plan.kept.bytes, plan.left.bytes, plan.moved_bytes]);
    (plan.delete, plan.repack) = (delete, repack);
    plan
}

/// Returns the small packs of a kind, if there are so many that merging them pays.
fn too_many_small_packs(packs: &[PackUse], full_pack_bytes: PerKind<u64>) -> Vec<PackId> {
    let mut merged = Vec::new();
    for kind in BlobKind::ALL {
        let small_max = full_pack_bytes[kind] / SMALL_SHARE;
        let small: Vec<PackId> =
            packs.iter().filter(|pack| pack.kind == kind && pack.len < small_max).map(|pack| pack.id).collect();
        if small.len() > SMALL_PACKS_MAX {
            merged.extend(small);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FULL: PerKind<u64> = PerKind { data: 1000, meta: 1000 };

    fn pack(number: u8, used: u64) -> PackUse {
        let id = PackId::from_bytes([number; 32]);
        PackUse { id, kind: BlobKind::Data, len: 1010, content: 1000, used, standing: Standing::Live }
    }

    fn numbers(packs: &[PackUse]) -> Vec<u8> {
        packs.iter().map(|pack| pack.id.as_bytes()[0]).collect()
    }

    #[test]
    fn the_emptiest_packs_are_moved_until_little_enough_is_unused() {
        let packs = [pack(1, 990), pack(2, 100), pack(3, 500), pack(4, 0), pack(5, 900)];
        let of = |percent| {
            let limits = PruneLimits { unused_percent_max: percent, ..PruneLimits::default() };
            let plan = plan(&packs, &limits, FULL, false);
            (numbers(&plan.delete), numbers(&plan.repack))
        };
        assert_eq!(of(0.0), (vec![4], vec![2, 3, 5, 1]));
        assert_eq!(of(30.0), (vec![4], vec![2]));
        assert_eq!(of(100.0), (vec![4], vec![]));
    }

    #[test]
    fn no_more_is_moved_than_allowed() {
        let packs = [pack(1, 100), pack(2, 200), pack(3, 300)];
        let limits = PruneLimits { repack_bytes_max: 2100, ..PruneLimits::default() };
        assert_eq!(numbers(&plan(&packs, &limits, FULL, false).repack), [1, 2]);
    }

    #[test]
    fn many_small_packs_are_merged_and_few_are_not() {
        let small = |count: u8| {
            (1..=count).map(|number| PackUse { len: 60, content: 50, ..pack(number, 50) }).collect::<Vec<_>>()
        };
        assert!(plan(&small(8), &PruneLimits::default(), FULL, false).repack.is_empty());
        assert_eq!(plan(&small(9), &PruneLimits::default(), FULL, false).repack.len(), 9);
    }

    #[test]
    fn what_another_prune_left_is_finished_and_what_a_session_may_name_is_left() {
        let packs = [
            PackUse { standing: Standing::Tombstoned, ..pack(1, 10) },
            PackUse { standing: Standing::Tombstoned, ..pack(2, 0) },
            PackUse { standing: Standing::Unnamed, ..pack(3, 0) },
        ];
        let limits = PruneLimits { repack_bytes_max: 0, ..PruneLimits::default() };
        let open = plan(&packs, &limits, FULL, true);
        assert_eq!((numbers(&open.delete), numbers(&open.repack), open.left.packs), (vec![2], vec![1], 1));
        assert_eq!(numbers(&plan(&packs, &limits, FULL, false).delete), [2, 3]);
    }

    proptest! {
        #[test]
        fn every_pack_is_in_one_list(
            packs in proptest::collection::vec((0u64..=1000, 1000u64..2000, 0..3u8, any::<bool>()), 0..60),
            percent in 0.0..100f64, budget in 0u64..100_000, open in any::<bool>(),
        ) {
            let packs: Vec<PackUse> = packs.into_iter().enumerate().map(|(number, (used, len, standing, meta))| PackUse {
                id: PackId::from_bytes([number as u8; 32]),
                kind: if meta { BlobKind::Meta } else { BlobKind::Data },
                len,
                content: len,
                used: if standing == 2 { 0 } else { used },
                standing: [Standing::Live, Standing::Tombstoned, Standing::Unnamed][usize::from(standing)],
            }).collect();
            let limits = PruneLimits { unused_percent_max: percent, repack_bytes_max: budget, duration_max: None };
            let plan = plan(&packs, &limits, FULL, open);
            let sums = [plan.kept, plan.deleted, plan.repacked, plan.left];
            prop_assert_eq!(sums.iter().map(|sum| sum.packs).sum::<u64>(), packs.len() as u64);
            prop_assert_eq!(sums.iter().map(|sum| sum.bytes).sum::<u64>(), plan.bytes_before);
            prop_assert!(plan.delete.iter().all(|pack| pack.used == 0));
            prop_assert!(plan.repack.iter().all(|pack| pack.used > 0));
        }
    }
}
