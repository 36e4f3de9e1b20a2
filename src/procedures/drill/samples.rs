//! Chooses files at random, and compares each byte by byte with the file at its source, or else with the repository.
//!
//! What must stay true: the choice follows from the seed alone, so that it can be made again, and whoever made the backup could
//! not foresee it. A file is compared with its source only if it is unchanged since: by size and time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use super::places::{OpenFile, OpenPlace};
use super::work::Work;
use crate::error::Result;
use crate::format::evidence::{Against, Sample, shortened};
use crate::format::snapshot::ARTIFACTS;
use crate::format::tree::{Entry, FileContent};
use crate::trees::file_reader::FileReader;
use crate::trees::reader::TreeReader;

/// Bytes that are compared at a time.
const BUFFER_LEN: usize = 64 << 10;

/// A file that was chosen.
pub struct Chosen {
    /// The component.
    pub component: String,
    /// The file.
    pub entry: Entry,
}

/// Chooses so many files of all artifacts: those whose names, hashed with the seed, come first.
pub fn choose(work: &Work<'_>, seed: u64, count: usize) -> Result<Vec<Chosen>> {
    let mut chosen: BTreeMap<[u8; 32], Chosen> = BTreeMap::new();
    for component in work.snapshot.record.components.iter().filter(|it| it.name.starts_with(ARTIFACTS)) {
        for entry in TreeReader::open(&work.reader, &component.name, &component.root)? {
            work.hears.check()?;
            let entry = entry?;
            if entry.file().is_none() || entry.path.ends_with(b"/") {
                continue;
            }
            let rank = rank(seed, &component.name, &entry.path);
            if chosen.len() < count || chosen.last_key_value().is_some_and(|(last, _)| rank < *last) {
                chosen.insert(rank, Chosen { component: component.name.clone(), entry });
            }
            if chosen.len() > count {
                chosen.pop_last();
            }
        }
    }
    Ok(chosen.into_values().collect())
}

fn rank(seed: u64, component: &str, path: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(component.len() as u64).to_le_bytes());
    hasher.update(component.as_bytes()).update(path);
    *hasher.finalize().as_bytes()
}

/// Compares the chosen files. Returns those that are the same.
pub fn compare(work: &Work<'_>, chosen: &[Chosen]) -> Result<Vec<Sample>> {
    work.hears.monitor.phase("compare samples", Some(chosen.len() as u64), None);
    let mut samples = Vec::new();
    let components: BTreeSet<&str> = chosen.iter().map(|chosen| chosen.component.as_str()).collect();
    for component in components {
        let of_component = chosen.iter().filter(|chosen| chosen.component == component);
        let Some(place) = work.restored_place(component) else { continue };
        let Some(restored) = work.findings.check(component, || OpenPlace::open(place))? else { continue };
        let source = source_of(work, component)?;
        for chosen in of_component {
            work.hears.check()?;
            samples.extend(compare_one(work, chosen, &restored, source.as_ref())?);
        }
    }
    Ok(samples)
}

fn source_of(work: &Work<'_>, component: &str) -> Result<Option<OpenPlace>> {
    let Some(place) = work.source_place(component) else { return Ok(None) };
    match OpenPlace::open(place) {
        Ok(open) => Ok(Some(open)),
        Err(crate::error::Error::Interrupted) => Err(crate::error::Error::Interrupted),
        Err(error) => {
            let reason = format!("its source cannot be read, so its files were compared with the repository: {error}");
            work.findings.exception(component, &reason);
            Ok(None)
        }
    }
}

fn compare_one(
    work: &Work<'_>,
    chosen: &Chosen,
    restored: &OpenPlace,
    source: Option<&OpenPlace>,
) -> Result<Option<Sample>> {
    let Chosen { component, entry } = chosen;
    let Some(expected) = entry.file() else { return Ok(None) };
    let subject = format!("{component}/{}", entry.path_text());
    let mut file = match restored.file(&entry.path) {
        Ok(file) => file,
        Err(error) => {
            work.findings.failure(&subject, &format!("it cannot be read where it was restored: {error}"));
            return Ok(None);
        }
    };
    let unchanged = source.and_then(|source| unchanged(source, entry, expected));
    let against = if unchanged.is_some() { Against::Source } else { Against::Repository };
    let compared = match unchanged {
        Some(mut live) => are_same(&mut file.content, &mut live.content).map_err(|error| error.to_string()),
        None => FileReader::open(&work.reader, entry, work.hears)
            .map_err(|error| error.to_string())
            .and_then(|mut stored| are_same(&mut file.content, &mut stored).map_err(|error| error.to_string())),
    };
    work.hears.check()?;
    match compared {
        Ok(true) => Ok(Some(Sample {
            component: component.clone(),
            path: shortened(&entry.path_text()),
            bytes: expected.size,
            digest: expected.digest,
            against,
        })),
        Ok(false) => {
            let other = if against == Against::Source { "at its source" } else { "in the repository" };
            work.findings.failure(&subject, &format!("it is not what it is {other}"));
            Ok(None)
        }
        Err(error) => {
            work.findings.exception(&subject, &format!("it could not be compared: {error}"));
            Ok(None)
        }
    }
}

/// Opens a file at its source, if that has the size and time that it had when it was backed up.
fn unchanged<'s>(source: &'s OpenPlace, entry: &Entry, expected: &FileContent) -> Option<OpenFile<'s>> {
    let live = source.file(&entry.path).ok()?;
    (live.size == expected.size && live.modified == entry.metadata.mtime).then_some(live)
}

/// Compares two contents to their ends.
fn are_same(one: &mut dyn Read, other: &mut dyn Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; BUFFER_LEN], vec![0; BUFFER_LEN]);
    loop {
        let (left_len, right_len) = (fill(one, &mut left)?, fill(other, &mut right)?);
        if left[..left_len] != right[..right_len] {
            return Ok(false);
        }
        if left_len < BUFFER_LEN {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the content ends.
fn fill(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match content.read(&mut buffer[len..])? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_compared_to_their_ends() {
        let long = vec![7; BUFFER_LEN * 2];
        let same = |one: &[u8], other: &[u8]| are_same(&mut &*one, &mut &*other).unwrap();
        assert!(same(b"", b"") && same(&long, &long) && same(&long[1..], &long[1..]));
        let mut other = long.clone();
        *other.last_mut().unwrap() ^= 1;
        assert!(!same(&long, &other) && !same(&long, &long[1..]) && !same(&long[1..], &long) && !same(b"", b"x"));
    }

    #[test]
    fn the_choice_follows_from_the_seed() {
        assert_eq!(rank(1, "artifacts/a", b"x"), rank(1, "artifacts/a", b"x"));
        assert_ne!(rank(1, "artifacts/a", b"x"), rank(2, "artifacts/a", b"x"));
        assert_ne!(rank(1, "artifacts/a", b"bx"), rank(1, "artifacts/ab", b"x"));
    }
}
