//! Compares the files of every model version with the tree of the snapshot, by reading them.
//!
//! What must stay true: a file that is missing, altered, or there and not in the snapshot is named; so is a version whose files
//! the snapshot does not have.

use std::collections::HashSet;
use std::io::Read;

use super::places;
use super::work::Work;
use crate::catalogue::reader::for_each;
use crate::error::{Error, Result};
use crate::format::evidence::DrilledFiles;
use crate::format::tree::{Entry, FileContent};
use crate::mlflow::catalogue::{REFERENCES, Reference};
use crate::mlflow::schema::ReferenceKind;
use crate::monitor::Counter;
use crate::source::{Found, Item, Source};
use crate::trees::contents::{Selection, entries};

/// Bytes that are read at a time.
const BUFFER_LEN: usize = 256 << 10;

/// Compares the files of all versions.
pub fn compare_versions(work: &Work<'_>, seed: u64) -> Result<DrilledFiles> {
    work.hears.monitor.phase("compare model versions", None, None);
    let mut versions = Vec::new();
    for_each(&work.reader, work.snapshot, REFERENCES, work.hears, &mut |reference: Reference| {
        if reference.kind == ReferenceKind::ModelVersion {
            versions.push(reference);
        }
        Ok(())
    })?;
    let mut drilled = DrilledFiles { seed, ..DrilledFiles::default() };
    // Several versions may share their files.
    let mut compared = HashSet::new();
    for version in &versions {
        let subject = format!("{} {}", version.kind.words(), version.id);
        if let Some(lack) = version.state.lack() {
            work.findings.exception(&subject, &format!("its files are not all in the snapshot: {lack}"));
        }
        let (Some(component), Some(path)) = (&version.component, &version.path) else { continue };
        drilled.versions += 1;
        if compared.insert((component.clone(), path.clone())) {
            let files = work.findings.check(&subject, || compare_below(work, component, path))?;
            drilled.version_files += files.unwrap_or(0);
        }
    }
    Ok(drilled)
}

/// Compares what is at a path of a component and below it. Returns how many files were compared.
fn compare_below(work: &Work<'_>, component: &str, path: &str) -> Result<u64> {
    let place = work.restored_place(component);
    let place = place.ok_or_else(|| Error::NotFound(format!("{component} was restored nowhere")))?;
    let selection = Selection { component: work.component(component)?, path: path.as_bytes().to_vec() };
    let mut tree = entries(&work.reader, &selection)?.filter(|entry| match entry {
        Ok(entry) => entry.file().is_some() && !entry.path.ends_with(b"/"),
        Err(_) => true,
    });
    let source = places::below(place, path)?;
    let mut there = source.iter().flat_map(|source| source.walk());
    let prefix_len = if path.is_empty() { 0 } else { path.len() + 1 };
    let (mut next_entry, mut next_item) = (tree.next().transpose()?, next_file(work, &mut there)?);
    let mut files = 0;
    loop {
        work.hears.check()?;
        let order = match (&next_entry, &next_item) {
            (None, None) => return Ok(files),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(entry), Some(item)) => entry.path.get(prefix_len..).unwrap_or_default().cmp(item.path.as_slice()),
        };
        if order.is_le()
            && let Some(entry) = &next_entry
        {
            files += 1;
            let subject = format!("{component}/{}", entry.path_text());
            match (order.is_eq(), &source, &next_item) {
                (true, Some(source), Some(item)) => compare_file(work, &subject, (entry, item), source.as_ref()),
                _ => work.findings.failure(&subject, "it was not restored"),
            }
        } else if let Some(item) = &next_item {
            let name = String::from_utf8_lossy(&item.path);
            work.findings.failure(&format!("{component}/{path}/{name}"), "it is there, and not in the snapshot");
        }
        if order.is_le() {
            next_entry = tree.next().transpose()?;
        }
        if order.is_ge() {
            next_item = next_file(work, &mut there)?;
        }
    }
}

/// Returns the next file of a walk. What cannot be read is a failure.
fn next_file(work: &Work<'_>, walk: &mut dyn Iterator<Item = Found>) -> Result<Option<Item>> {
    for found in walk {
        match found {
            Found::Item(item) if item.size().is_some() && !item.path.ends_with(b"/") => return Ok(Some(item)),
            Found::Unreadable { path, message, .. } => work.findings.failure(&path, &message),
            Found::Failed(error) => return Err(error),
            Found::Item(_) | Found::Skipped { .. } | Found::LeftOut { .. } => {}
        }
    }
    Ok(None)
}

fn compare_file(work: &Work<'_>, subject: &str, (entry, item): (&Entry, &Item), source: &dyn Source) {
    let Some(expected) = entry.file() else { return };
    match digest_of(item, source) {
        Err(error) => work.findings.failure(subject, &format!("it cannot be read: {error}")),
        Ok((size, digest)) if !is_same(expected, size, &digest) => {
            work.findings.failure(subject, "it has another content than in the snapshot");
        }
        Ok((size, _)) => {
            work.hears.monitor.count(Counter::Entries, 1);
            work.hears.monitor.count(Counter::Bytes, size);
        }
    }
}

fn is_same(expected: &FileContent, size: u64, digest: &blake3::Hash) -> bool {
    expected.size == size && expected.digest.as_bytes() == digest.as_bytes()
}

fn digest_of(item: &Item, source: &dyn Source) -> std::io::Result<(u64, blake3::Hash)> {
    let mut content = source.open(item)?;
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let len = content.read(&mut buffer)?;
        if len == 0 {
            return Ok((size, hasher.finalize()));
        }
        hasher.update(&buffer[..len]);
        size += len as u64;
    }
}
