//! Which packs of a repository a partial check reads.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::str::FromStr;

use crate::check::memory::Memory;
use crate::check::{Aged, ReadData};
use crate::crypto::random;
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::units::parse_bytes;

/// A share of the packs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// A random sample of so many percent of the packs.
    Percent(f64),
    /// One of `of` parts, told by the packs' names: as many runs with another part each read every pack.
    Part {
        /// Which part, from 1.
        part: u64,
        /// Of how many.
        of: u64,
    },
    /// Random packs of at most so many bytes in all, but at least one.
    Bytes(u64),
}

impl FromStr for Subset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = if let Some(number) = text.strip_suffix('%') {
            number.trim().parse().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0).map(Self::Percent)
        } else if let Some((part, of)) = text.split_once('/') {
            part.trim().parse().ok().zip(of.trim().parse().ok()).map(|(part, of)| Self::Part { part, of })
        } else {
            parse_bytes(text).map(Self::Bytes)
        };
        parsed.filter(Self::is_sound).ok_or_else(|| {
            Error::Invalid(format!("{text:?} is no subset: give a share (10%), a part (3/7) or a size (1G)"))
        })
    }
}

impl Subset {
    fn is_sound(&self) -> bool {
        match self {
            Self::Percent(_) => true,
            Self::Part { part, of } => (1..=*of).contains(part),
            Self::Bytes(bytes) => *bytes > 0,
        }
    }
}

/// The packs that are read.
#[derive(Debug)]
pub enum PackSelection {
    /// None.
    Nothing,
    /// All.
    All,
    /// Those of a part.
    Part {
        /// Which part, from 1.
        part: u64,
        /// Of how many.
        of: u64,
    },
    /// Those drawn.
    Drawn(HashSet<PackId>),
}

impl PackSelection {
    /// Chooses among packs, given with their sizes.
    pub fn choose(read: ReadData, packs: impl Iterator<Item = (PackId, u64)>, memory: &Memory) -> Self {
        match read {
            ReadData::Nothing => Self::Nothing,
            ReadData::All => Self::All,
            ReadData::Subset(Subset::Part { part, of }) => Self::Part { part, of },
            ReadData::Subset(Subset::Percent(percent)) => {
                let packs = shuffled(packs);
                let count = (packs.len() as f64 * percent / 100.0).ceil() as usize;
                Self::Drawn(packs.into_iter().take(count).map(|(id, _)| id).collect())
            }
            ReadData::Subset(Subset::Bytes(limit)) => Self::Drawn(fill(&shuffled(packs), limit)),
            ReadData::Aged(aged) => Self::Drawn(due(packs, aged, memory)),
        }
    }

    /// Returns whether a pack is read.
    pub fn contains(&self, id: &PackId) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Part { part, of } => number_of(id) % of == part - 1,
            Self::Drawn(drawn) => drawn.contains(id),
        }
    }
}

/// Pack names are hashes, so their leading bytes are spread evenly.
fn number_of(id: &PackId) -> u64 {
    id.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn shuffled(packs: impl Iterator<Item = (PackId, u64)>) -> Vec<(PackId, u64)> {
    let draw: [u8; 32] = random();
    let mut packs: Vec<_> = packs.collect();
    packs.sort_by_cached_key(|(id, _)| *blake3::keyed_hash(&draw, id.as_bytes()).as_bytes());
    packs
}

/// Returns the packs that are due and fit the budget: first those that were never verified, then the oldest.
fn due(packs: impl Iterator<Item = (PackId, u64)>, aged: Aged, memory: &Memory) -> HashSet<PackId> {
    let age = |id: &PackId| memory.age_seconds(id).unwrap_or(u64::MAX);
    let mut due: Vec<_> = packs.filter(|(id, _)| age(id) > aged.age_seconds_max).collect();
    due.sort_by_cached_key(|(id, _)| (Reverse(age(id)), *id));
    fill(&due, aged.budget_bytes.unwrap_or(u64::MAX))
}

fn fill(packs: &[(PackId, u64)], limit: u64) -> HashSet<PackId> {
    let mut total = 0;
    let fits = |(at, (_, size)): &(usize, &(PackId, u64))| {
        total += size;
        *at == 0 || total <= limit
    };
    packs.iter().enumerate().take_while(fits).map(|(_, (id, _))| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::verified::Verified;

    fn packs() -> Vec<(PackId, u64)> {
        (0..200u8).map(|byte| (PackId::from_bytes(*blake3::hash(&[byte]).as_bytes()), 10)).collect()
    }

    fn chosen(subset: &str) -> Vec<PackId> {
        let read = ReadData::Subset(subset.parse().unwrap());
        let selection = PackSelection::choose(read, packs().into_iter(), &Memory::default());
        packs().into_iter().map(|(id, _)| id).filter(|id| selection.contains(id)).collect()
    }

    #[test]
    fn parts_together_are_everything_and_share_nothing() {
        let mut all: Vec<_> = (1..=7).flat_map(|part| chosen(&format!("{part}/7"))).collect();
        assert_eq!(all.len(), 200);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 200);
        assert_eq!(chosen("3/7"), chosen("3/7"));
    }

    #[test]
    fn percent_and_sizes_limit_a_random_choice() {
        assert_eq!(chosen("10%").len(), 20);
        assert_eq!(chosen("0.1%").len(), 1);
        assert_eq!(chosen("100%").len(), 200);
        assert_eq!(chosen("105").len(), 10);
        assert_eq!(chosen("1").len(), 1);
        assert_eq!(chosen("1G").len(), 200);
        assert_ne!(chosen("50%"), chosen("50%"));
    }

    #[test]
    fn what_is_due_comes_in_the_order_of_age_and_fits_the_budget() {
        let ids: Vec<PackId> = packs().into_iter().map(|(id, _)| id).collect();
        // The first pack was never verified, the second ten seconds ago, the third twenty, and so on.
        let at = |number: usize| 10_000 - 10 * number as i64;
        let known = (1..ids.len()).map(|number| (ids[number], Verified { named: at(number), opened: at(number) }));
        let memory = Memory::of(10_000, true, known);
        let chosen = |age_seconds_max, budget_bytes| {
            let read = ReadData::Aged(Aged { age_seconds_max, budget_bytes });
            let selection = PackSelection::choose(read, packs().into_iter(), &memory);
            (0..ids.len()).filter(|number| selection.contains(&ids[*number])).collect::<Vec<_>>()
        };
        assert_eq!(chosen(1960, None), [0, 197, 198, 199]);
        assert_eq!(chosen(1960, Some(25)), [0, 199]);
        assert_eq!(chosen(1960, Some(1)), [0]);
        assert_eq!(chosen(5000, None), [0]);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "0%", "101%", "-1%", "NaN%", "0/3", "4/3", "1/0", "x/y", "0", "ten"] {
            let error = text.parse::<Subset>().unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{text}");
        }
    }
}
