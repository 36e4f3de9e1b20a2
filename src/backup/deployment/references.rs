//! Compares what rows claim with the files of an artifact component, while its tree is being written.
//!
//! Claims and entries are both in byte order of their paths, so one pass over both tells which claim has which files, and
//! which files nobody claims. A claim without the files that it must have is looked up again in the live database: if
//! its row was deleted meanwhile, what the parent snapshot had is put into the tree in its place.
//!
//! What must stay true: entries come out in path order; a missing file is called harmless only if the live database says
//! that its row is gone; what is carried over is only what the repository still has.

use std::io::Write;

use crate::backup::deployment::inventory::Claim;
use crate::backup::pipeline::{Replacement, Review};
use crate::error::Result;
use crate::format::deployment::ReferenceCounts;
use crate::format::tree::{Entry, EntryKind};
use crate::id::Digest;
use crate::mlflow::catalogue::{Orphan, Reference, ReferenceKind, ReferenceState};
use crate::repository::tree_reader::TreeReader;

/// What the check asks of its surroundings.
pub trait Surroundings {
    /// Returns whether the row of a claim is gone from the live database; `None` if that cannot be found out.
    fn is_gone(&mut self, claim: &Claim) -> Option<bool>;
    /// Returns what the parent snapshot has whose path begins with `prefix`, as far as it can be relied on.
    fn parent_entries(&mut self, prefix: &[u8]) -> Result<Vec<Entry>>;
}

/// A claim on its way through the tree.
struct Open {
    claim: Claim,
    key: Vec<u8>,
    files: u64,
    bytes: u64,
    carried: u64,
    digest: Option<blake3::Hasher>,
}

/// The comparison for one component.
pub struct CrossCheck<'a> {
    component: String,
    /// Claims not reached yet, the next one last.
    waiting: Vec<Open>,
    open: Vec<Open>,
    surroundings: Box<dyn Surroundings + 'a>,
    /// Goes through the parent's tree forward, to tell whether it had files where there are none now.
    parent: Option<TreeReader<'a>>,
    orphans: Box<dyn Write + 'a>,
    references: Vec<Reference>,
    counts: ReferenceCounts,
}

/// Returns what all paths below a claimed place begin with.
fn key_of(path: &str) -> Vec<u8> {
    if path.is_empty() { Vec::new() } else { [path.as_bytes(), b"/"].concat() }
}

/// Returns a path so that that of a file equals the place of a claim that means just this file.
fn place_of(path: &[u8]) -> Vec<u8> {
    if path.ends_with(b"/") { path.to_vec() } else { [path, b"/"].concat() }
}

impl<'a> CrossCheck<'a> {
    /// Begins with the claims on one component. Orphans are written to `orphans`, a JSON line each.
    pub fn new(
        component: &str,
        claims: Vec<Claim>,
        parent: Option<TreeReader<'a>>,
        surroundings: Box<dyn Surroundings + 'a>,
        orphans: Box<dyn Write + 'a>,
    ) -> Self {
        let mut waiting: Vec<_> = claims.into_iter().map(Open::new).collect();
        waiting.sort_by(|a, b| (&b.key, &b.claim.id).cmp(&(&a.key, &a.claim.id)));
        Self {
            component: component.to_owned(),
            waiting,
            open: Vec::new(),
            surroundings,
            parent,
            orphans,
            references: Vec::new(),
            counts: ReferenceCounts::default(),
        }
    }

    fn go_on(&mut self, next: Option<&[u8]>) -> Result<Vec<Entry>> {
        let mut carried = Vec::new();
        let place = next.map(place_of);
        self.close(place.as_deref())?;
        while let Some(claim) = self.waiting.pop_if(|claim| place.as_ref().is_none_or(|place| claim.key <= *place)) {
            if place.as_ref().is_some_and(|place| place.starts_with(&claim.key)) {
                self.open.push(claim);
            } else {
                self.without_files(claim, &mut carried)?;
            }
        }
        Ok(carried)
    }

    /// Ends the comparison.
    pub fn finish(mut self) -> Result<(Vec<Reference>, ReferenceCounts)> {
        self.close(None)?;
        self.orphans.flush().map_err(|source| crate::error::Error::Target {
            action: "write",
            path: "the list of orphans".into(),
            source,
        })?;
        Ok((self.references, self.counts))
    }

    /// Ends the claims that the next entry is not part of.
    fn close(&mut self, next: Option<&[u8]>) -> Result<()> {
        while let Some(done) = self.open.pop_if(|open| next.is_none_or(|next| !next.starts_with(&open.key))) {
            let state = match (done.files, done.carried) {
                (0, _) if done.claim.must_exist => self.state_without_files(&done.claim),
                (0, _) => ReferenceState::Empty,
                (_, 0) => ReferenceState::Present,
                _ => ReferenceState::CarriedOver,
            };
            self.record(done, state);
        }
        Ok(())
    }

    fn count(&mut self, entry: &Entry, is_carried: bool) -> Result<()> {
        let EntryKind::File(file) = &entry.kind else { return Ok(()) };
        for open in &mut self.open {
            open.files += 1;
            open.bytes += file.size;
            open.carried += u64::from(is_carried);
            if let Some(digest) = &mut open.digest {
                let relative = entry.path.get(open.key.len()..).unwrap_or_default();
                digest.update(&(relative.len() as u64).to_le_bytes());
                digest.update(relative);
                digest.update(&file.size.to_le_bytes());
                digest.update(file.digest.as_bytes());
            }
        }
        if self.open.is_empty() && !is_carried { self.orphan(entry, file.size) } else { Ok(()) }
    }

    fn orphan(&mut self, entry: &Entry, bytes: u64) -> Result<()> {
        self.counts.orphans += 1;
        self.counts.orphan_bytes += bytes;
        let orphan = Orphan { component: self.component.clone(), path: entry.path_text(), bytes };
        let mut line = serde_json::to_vec(&orphan).expect("an orphan is always representable as JSON");
        line.push(b'\n');
        self.orphans.write_all(&line).map_err(|source| crate::error::Error::Target {
            action: "write",
            path: "the list of orphans".into(),
            source,
        })
    }

    /// Decides on a claim whose place has no entry at all.
    fn without_files(&mut self, claim: Open, carried: &mut Vec<Entry>) -> Result<()> {
        let had_files = claim.claim.is_settled && self.parent_had(&claim.key);
        if !claim.claim.must_exist && !had_files {
            self.record(claim, ReferenceState::Empty);
            return Ok(());
        }
        let state = self.state_without_files(&claim.claim);
        if state != ReferenceState::DeletedMeanwhile {
            self.record(claim, state);
            return Ok(());
        }
        let key = claim.key.clone();
        let entries = self.surroundings.parent_entries(&key)?;
        self.open.push(claim);
        self.open_inner(&key);
        for entry in entries {
            self.count(&entry, true)?;
            // An outer claim may have brought it already.
            if carried.last().is_none_or(|last| last.path < entry.path) {
                carried.push(entry);
            }
        }
        while let Some(done) = self.open.pop_if(|open| open.key.starts_with(&key)) {
            let state = if done.carried > 0 { ReferenceState::CarriedOver } else { ReferenceState::DeletedMeanwhile };
            self.record(done, state);
        }
        Ok(())
    }

    /// Opens the claims on exactly the same place: they share its files.
    fn open_inner(&mut self, key: &[u8]) {
        while let Some(same) = self.waiting.pop_if(|claim| claim.key == key) {
            self.open.push(same);
        }
    }

    fn parent_had(&mut self, key: &[u8]) -> bool {
        let Some(parent) = &mut self.parent else { return false };
        parent.skip_to(key);
        matches!(parent.peek(), Some(Ok(entry)) if entry.path.starts_with(key))
    }

    fn state_without_files(&mut self, claim: &Claim) -> ReferenceState {
        match self.surroundings.is_gone(claim) {
            Some(true) => ReferenceState::DeletedMeanwhile,
            Some(false) | None => ReferenceState::Missing,
        }
    }

    fn record(&mut self, done: Open, state: ReferenceState) {
        let digest = done.digest.filter(|_| done.files > 0);
        self.references.push(Reference {
            kind: done.claim.kind,
            id: done.claim.id,
            uri: done.claim.uri,
            component: Some(self.component.clone()),
            path: done.claim.place.map(|(_, path)| path),
            files: done.files,
            bytes: done.bytes,
            digest: digest.map(|digest| Digest::from_bytes(*digest.finalize().as_bytes())),
            state,
        });
    }
}

impl Review for CrossCheck<'_> {
    fn advance(&mut self, next: Option<&[u8]>) -> Result<Vec<Entry>> {
        self.go_on(next)
    }

    fn take_note(&mut self, entry: &Entry) -> Result<()> {
        self.count(entry, false)
    }

    /// What was listed and could not be read is harmless if its row was deleted meanwhile.
    fn replace(&mut self, path: &[u8]) -> Result<Replacement> {
        let Some(owner) = self.open.last() else { return Ok(Replacement::Problem) };
        let claim = owner.claim.clone();
        if self.surroundings.is_gone(&claim) != Some(true) {
            return Ok(Replacement::Problem);
        }
        let found = self.surroundings.parent_entries(path)?.into_iter().find(|entry| entry.path == path);
        if let Some(entry) = &found {
            self.count(entry, true)?;
        }
        Ok(Replacement::By(found.map(Box::new)))
    }

    fn may_change(&self, _: &[u8]) -> bool {
        self.open.last().is_some_and(|open| !open.claim.is_settled)
    }
}

impl Open {
    fn new(claim: Claim) -> Self {
        let key = claim.place.as_ref().map_or_else(Vec::new, |(_, path)| key_of(path));
        let is_model = matches!(claim.kind, ReferenceKind::LoggedModel | ReferenceKind::ModelVersion);
        Self { key, claim, files: 0, bytes: 0, carried: 0, digest: is_model.then(blake3::Hasher::new) }
    }
}

/// Adds references to the counts of their states.
pub fn count_states(counts: &mut ReferenceCounts, references: &[Reference]) {
    for reference in references {
        let counter = match reference.state {
            ReferenceState::Present => &mut counts.present,
            ReferenceState::Empty => &mut counts.empty,
            ReferenceState::CarriedOver => &mut counts.carried_over,
            ReferenceState::DeletedMeanwhile => &mut counts.deleted_meanwhile,
            ReferenceState::Excluded => &mut counts.excluded,
            ReferenceState::Missing => &mut counts.missing,
        };
        *counter += 1;
    }
}
