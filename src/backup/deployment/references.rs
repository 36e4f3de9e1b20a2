//! Compares what rows claim with the files of an artifact component, while its tree is being written.
//!
//! Claims and entries are both in byte order of their paths, so one pass over both tells which claim has which files, and
//! which files nobody claims. A claim without the files that it must have is looked up again in the live database: if
//! its row was deleted meanwhile, what the parent snapshot had is put into the tree in its place.
//!
//! What must stay true: entries come out in path order; a missing file is called harmless only if the live database says
//! that its row is gone; what is carried over is only what the repository still has.

use std::io::Write;

use crate::backup::pipeline::{Replacement, Review};
use crate::error::{Error, Result};
use crate::format::deployment::ReferenceCounts;
use crate::format::tree::{Entry, EntryKind};
use crate::id::Digest;
use crate::mlflow::catalogue::{Orphan, Reference, ReferenceKind, ReferenceState, json_line};
use crate::repository::tree_reader::TreeReader;
use crate::source::inventory::Claim;

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

    /// Ends the comparison.
    pub fn finish(mut self) -> Result<(Vec<Reference>, ReferenceCounts)> {
        self.close(None)?;
        self.orphans.flush().map_err(orphans_fault)?;
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
        self.orphans.write_all(&json_line(&orphan)?).map_err(orphans_fault)
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

fn orphans_fault(source: std::io::Error) -> Error {
    Error::Target { action: "write", path: "the list of orphans".into(), source }
}

impl Review for CrossCheck<'_> {
    fn advance(&mut self, next: Option<&[u8]>) -> Result<Vec<Entry>> {
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;
    use std::rc::Rc;

    use super::*;
    use crate::format::BlobKind;
    use crate::format::tree::{FileContent, Metadata};

    /// A deployment whose live database lacks some rows, and a parent snapshot with some files.
    #[derive(Default)]
    struct Fake {
        gone: HashSet<String>,
        is_silent: bool,
        parent: Vec<Entry>,
    }

    impl Surroundings for Fake {
        fn is_gone(&mut self, claim: &Claim) -> Option<bool> {
            (!self.is_silent).then(|| self.gone.contains(&claim.id))
        }

        fn parent_entries(&mut self, prefix: &[u8]) -> Result<Vec<Entry>> {
            Ok(self.parent.iter().filter(|entry| entry.path.starts_with(prefix)).cloned().collect())
        }
    }

    /// A place for orphans that can be looked at afterwards.
    #[derive(Clone, Default)]
    struct Sink(Rc<RefCell<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn entry(path: &str) -> Entry {
        let content = FileContent {
            size: 10,
            digest: Digest::from_bytes([1; 32]),
            chunks: Vec::new(),
            kind: BlobKind::Data,
            indirect: false,
            sparse: false,
            racy: false,
            hard_link: None,
        };
        let kind = if path.ends_with('/') { EntryKind::Directory } else { EntryKind::File(content) };
        Entry { path: path.into(), metadata: Metadata::default(), kind, attributes: Vec::new() }
    }

    fn claim(kind: ReferenceKind, id: &str, path: &str, must_exist: bool) -> Claim {
        let place = Some((0, path.to_owned()));
        Claim { kind, id: id.into(), uri: format!("mlflow-artifacts:/{path}"), place, must_exist, is_settled: true }
    }

    /// Goes through the entries; returns what the tree came to hold, the state of each claim, and the orphans.
    fn check(claims: Vec<Claim>, entries: &[&str], fake: Fake) -> (Vec<String>, Vec<(String, ReferenceState)>, String) {
        let sink = Sink::default();
        let mut check = CrossCheck::new("artifacts/a", claims, None, Box::new(fake), Box::new(sink.clone()));
        let mut tree = Vec::new();
        for path in entries {
            let entry = entry(path);
            tree.extend(check.advance(Some(&entry.path)).unwrap());
            check.take_note(&entry).unwrap();
            tree.push(entry);
        }
        tree.extend(check.advance(None).unwrap());
        let (references, _) = check.finish().unwrap();
        let mut states: Vec<_> = references.into_iter().map(|it| (it.id, it.state)).collect();
        states.sort_by(|a, b| a.0.cmp(&b.0));
        let paths: Vec<_> = tree.iter().map(Entry::path_text).collect();
        assert!(paths.is_sorted(), "{paths:?}");
        let orphans = String::from_utf8(sink.0.borrow().clone()).unwrap();
        (paths, states, orphans)
    }

    fn state(id: &str, state: ReferenceState) -> (String, ReferenceState) {
        (id.to_owned(), state)
    }

    #[test]
    fn each_claim_finds_its_files_and_the_rest_are_orphans() {
        let claims = vec![
            claim(ReferenceKind::Run, "r1", "1/r1/artifacts", false),
            claim(ReferenceKind::Run, "r2", "1/r2/artifacts", false),
            claim(ReferenceKind::LoggedModel, "m", "1/models/m/artifacts", true),
            claim(ReferenceKind::ModelVersion, "v/1", "1/models/m/artifacts", true),
            claim(ReferenceKind::ModelVersion, "v/2", "1/r1/artifacts/model", true),
            claim(ReferenceKind::ModelVersion, "v/3", "single.pkl", true),
        ];
        let entries = [
            "1/",
            "1/models/m/artifacts/MLmodel",
            "1/r1/artifacts/model/MLmodel",
            "1/r1/artifacts/plot.png",
            "1/r1/artifacts!odd",
            "1/r3/artifacts/left.txt",
            "single.pkl",
        ];
        let mut sorted = entries;
        sorted.sort_unstable();
        let (tree, states, orphans) = check(claims, &sorted, Fake::default());
        assert_eq!(tree.len(), entries.len());
        use ReferenceState::{Empty, Present};
        assert_eq!(
            states,
            [
                state("m", Present),
                state("r1", Present),
                state("r2", Empty),
                state("v/1", Present),
                state("v/2", Present),
                state("v/3", Present)
            ]
        );
        assert_eq!(orphans.lines().count(), 2, "{orphans}");
        assert!(orphans.contains("artifacts!odd") && orphans.contains("left.txt"), "{orphans}");
    }

    #[test]
    fn what_was_deleted_meanwhile_is_carried_over_and_what_was_not_is_missing() {
        let claims = || {
            vec![
                claim(ReferenceKind::LoggedModel, "gone", "1/models/gone/artifacts", true),
                claim(ReferenceKind::ModelVersion, "v/1", "1/models/gone/artifacts", true),
                claim(ReferenceKind::LoggedModel, "lost", "1/models/lost/artifacts", true),
                claim(ReferenceKind::LoggedModel, "never", "1/models/never/artifacts", true),
            ]
        };
        let fake = |is_silent| Fake {
            gone: ["gone", "v/1", "never"].map(str::to_owned).into(),
            is_silent,
            parent: vec![entry("1/models/gone/artifacts/MLmodel"), entry("1/models/gone/artifacts/model.pkl")],
        };
        let (tree, states, _) = check(claims(), &["0/x", "9/y"], fake(false));
        assert_eq!(tree, ["0/x", "1/models/gone/artifacts/MLmodel", "1/models/gone/artifacts/model.pkl", "9/y"]);
        use ReferenceState::{CarriedOver, DeletedMeanwhile, Missing};
        assert_eq!(
            states,
            [
                state("gone", CarriedOver),
                state("lost", Missing),
                state("never", DeletedMeanwhile),
                state("v/1", CarriedOver)
            ]
        );
        // Without an answer from the database nothing is called harmless.
        let (tree, states, _) = check(claims(), &["0/x", "9/y"], fake(true));
        assert_eq!(tree, ["0/x", "9/y"]);
        assert!(states.iter().all(|(_, state)| *state == Missing), "{states:?}");
    }

    #[test]
    fn a_place_inside_one_that_is_carried_over_shares_its_files() {
        let claims = vec![
            claim(ReferenceKind::Run, "run", "1/run/artifacts", true),
            claim(ReferenceKind::ModelVersion, "v/1", "1/run/artifacts/model", true),
        ];
        let fake = Fake {
            gone: ["run", "v/1"].map(str::to_owned).into(),
            is_silent: false,
            parent: vec![entry("1/run/artifacts/model/MLmodel"), entry("1/run/artifacts/plot.png")],
        };
        let (tree, states, _) = check(claims, &[], fake);
        assert_eq!(tree, ["1/run/artifacts/model/MLmodel", "1/run/artifacts/plot.png"]);
        let carried = ReferenceState::CarriedOver;
        assert_eq!(states, [state("run", carried), state("v/1", carried)]);
    }

    #[test]
    fn a_file_that_vanished_is_replaced_only_if_its_row_is_gone() {
        let sink = Sink::default();
        let fake =
            Fake { gone: ["gone".to_owned()].into(), is_silent: false, parent: vec![entry("1/gone/artifacts/a")] };
        let claims = vec![
            claim(ReferenceKind::Run, "gone", "1/gone/artifacts", false),
            claim(ReferenceKind::Run, "kept", "1/kept/artifacts", false),
        ];
        let mut check = CrossCheck::new("artifacts/a", claims, None, Box::new(fake), Box::new(sink));
        assert!(check.advance(Some(b"1/gone/artifacts/a")).unwrap().is_empty());
        assert!(matches!(check.replace(b"1/gone/artifacts/a").unwrap(), Replacement::By(Some(_))));
        assert!(check.advance(Some(b"1/gone/artifacts/b")).unwrap().is_empty());
        assert!(matches!(check.replace(b"1/gone/artifacts/b").unwrap(), Replacement::By(None)));
        assert!(check.advance(Some(b"1/kept/artifacts/c")).unwrap().is_empty());
        assert!(matches!(check.replace(b"1/kept/artifacts/c").unwrap(), Replacement::Problem));
    }
}
