//! A part of a source: the paths, or keys, that lie between two others.
//!
//! What must stay true: ranges that meet share no path and leave none out; every directory above a path of a range meets it.

/// Paths after one, up to and with another, in byte order. The default is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathRange {
    /// Paths up to this one are before the range; without it nothing is.
    pub after: Option<Vec<u8>>,
    /// The last path that may be in it; without it there is no last one.
    pub up_to: Option<Vec<u8>>,
}

impl PathRange {
    /// Returns the ranges that cuts divide all paths into: one more than there are cuts, which must not descend.
    pub fn between(cuts: &[Vec<u8>]) -> Vec<Self> {
        let after = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
        let up_to = cuts.iter().cloned().map(Some).chain([None]);
        after.zip(up_to).map(|(after, up_to)| Self { after, up_to }).collect()
    }

    /// Returns whether a path is in the range.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.after.as_deref().is_none_or(|after| path > after) && !self.is_beyond(path)
    }

    /// Returns whether a path, and so every path after it, comes after the range.
    pub fn is_beyond(&self, path: &[u8]) -> bool {
        self.up_to.as_deref().is_some_and(|up_to| path > up_to)
    }

    /// Returns whether a path below a directory may be in the range; the directory's path ends in `/`, or is empty.
    pub fn meets_below(&self, directory: &[u8]) -> bool {
        let ends_after = |after: &[u8]| after < directory || after.starts_with(directory);
        self.after.as_deref().is_none_or(ends_after) && !self.is_beyond(directory)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path() -> impl Strategy<Value = Vec<u8>> {
        "[a-c/-]{0,6}".prop_map(String::into_bytes)
    }

    proptest! {
        #[test]
        fn each_path_is_in_one_range_and_every_directory_above_leads_to_it(
            mut cuts in prop::collection::vec(path(), 0..5), path in path(),
        ) {
            cuts.sort();
            let ranges = PathRange::between(&cuts);
            prop_assert_eq!(ranges.len(), cuts.len() + 1);
            let holders: Vec<_> = ranges.iter().filter(|range| range.contains(&path)).collect();
            prop_assert_eq!(holders.len(), 1, "{:?} {:?}", path, ranges);
            for at in (0..path.len()).filter(|at| *at == 0 || path[at - 1] == b'/') {
                prop_assert!(holders[0].meets_below(&path[..at]), "{:?} {:?}", path, holders);
            }
        }
    }
}
