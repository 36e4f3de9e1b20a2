//! Compares what rows claim with the files of an artifact component, while its tree is being written.
//!
//! Claims, entries and the parent snapshot's entries are all in byte order of their paths, so one pass over them tells which
//! claim has which files, which files nobody claims, and which are gone. What a claim has lost, or must have and has not, is
//! looked up again in the live database: if its row was deleted meanwhile, what the parent had is put into the tree in its
//! place.
//!
//! What must stay true: entries come out in path order; a missing file is called harmless only if the live database says
//! that its row is gone; what is carried over is only what the repository still has.

use std::io::Write;
use std::iter::Peekable;

use crate::backup::review::{Replacement, Review};
use crate::error::{Error, Result};
use crate::format::deployment::ReferenceCounts;
use crate::format::tree::{Entry, EntryKind};
use crate::id::Digest;
use crate::mlflow::catalogue::{FILES_NAMED_MAX, Orphan, Reference, ReferenceState, json_line};
use crate::mlflow::schema::ReferenceKind;
use crate::source::inventory::Claim;

/// What MLflow's server calls a file until its upload is complete: the parent may have seen one.
const UPLOAD: &[u8] = b".artifact.uploading.";

fn is_upload(path: &[u8]) -> bool {
    path.rsplit(|byte| *byte == b'/').next().is_some_and(|name| name.starts_with(UPLOAD))
}

/// What the check asks of its surroundings.
pub trait Surroundings {
    /// Returns whether the row of a claim is gone from the live database; `None` if that cannot be found out.
    fn is_gone(&mut self, claim: &Claim) -> Option<bool>;
    /// Returns whether the repository still has everything of an entry of the parent snapshot.
    fn is_reliable(&mut self, entry: &Entry) -> Result<bool>;
    /// Returns whether what a symlink leads to is backed up, too: here, or as a place of its own.
    fn is_backed_up(&self, path: &[u8], target: &[u8]) -> bool;
}

/// A claim on its way through the tree.
struct OpenClaim {
    claim: Claim,
    key: Vec<u8>,
    files: u64,
    bytes: u64,
    carried: u64,
    /// Whether the parent had files that are gone.
    has_lost: bool,
    /// Some of them, where none may be.
    lost: Vec<String>,
    /// Whether its row is gone, once that was asked.
    is_gone: Option<bool>,
    digest: Option<blake3::Hasher>,
}

/// Entries of the parent snapshot, in the order of their paths.
pub type ParentEntries<'a> = Box<dyn Iterator<Item = Result<Entry>> + 'a>;

/// The comparison for one component.
pub struct CrossCheck<'a> {
    component: String,
    /// Claims not reached yet, the next one last.
    waiting: Vec<OpenClaim>,
    /// Claims that the path gone on to is part of, the innermost last.
    open: Vec<OpenClaim>,
    surroundings: Box<dyn Surroundings + 'a>,
    parent: Peekable<ParentEntries<'a>>,
    /// What the parent has at the path gone on to.
    before: Option<Entry>,
    orphans: Box<dyn Write + 'a>,
    references: Vec<Reference>,
    counts: ReferenceCounts,
    links: Vec<LinkOut>,
}

/// A symlink that leads out of what is backed up. MLflow follows it, and a backup does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkOut {
    /// Its path in the component.
    pub path: String,
    /// Where it leads.
    pub target: String,
    /// Rows whose files are behind it.
    pub rows: u64,
}

/// What a comparison found.
pub struct CrossChecked {
    /// What each claim leads to.
    pub references: Vec<Reference>,
    /// Files that nobody claims.
    pub counts: ReferenceCounts,
    /// Symlinks behind which files are not backed up.
    pub links: Vec<LinkOut>,
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
        parent: ParentEntries<'a>,
        surroundings: Box<dyn Surroundings + 'a>,
        orphans: Box<dyn Write + 'a>,
    ) -> Self {
        let mut waiting: Vec<_> = claims.into_iter().map(OpenClaim::new).collect();
        waiting.sort_by(|a, b| (&b.key, &b.claim.id).cmp(&(&a.key, &a.claim.id)));
        Self {
            component: component.to_owned(),
            waiting,
            open: Vec::new(),
            surroundings,
            parent: parent.peekable(),
            before: None,
            orphans,
            references: Vec::new(),
            counts: ReferenceCounts::default(),
            links: Vec::new(),
        }
    }

    /// Ends the comparison.
    pub fn finish(mut self) -> Result<CrossChecked> {
        self.go_to(None);
        self.orphans.flush().map_err(orphans_fault)?;
        Ok(CrossChecked { references: self.references, counts: self.counts, links: self.links })
    }

    /// Closes the claims that a path is not part of, and opens those that it is part of.
    fn go_to(&mut self, path: Option<&[u8]>) {
        let place = path.map(place_of);
        let is_part = |open: &OpenClaim| place.as_ref().is_some_and(|place| place.starts_with(&open.key));
        while let Some(done) = self.open.pop_if(|open| !is_part(open)) {
            self.close(done);
        }
        while let Some(claim) = self.waiting.pop_if(|claim| place.as_ref().is_none_or(|place| claim.key <= *place)) {
            if is_part(&claim) { self.open.push(claim) } else { self.close(claim) }
        }
    }

    fn close(&mut self, mut done: OpenClaim) {
        let must_have = done.claim.must_exist || done.has_lost || self.is_behind_link(&done);
        let state = match (done.files, done.carried) {
            (0, _) if !must_have => ReferenceState::Empty,
            // Asked of the live database, after the listing: only a row that is gone by now excuses files that are not there.
            (0, _) if done.is_gone(self.surroundings.as_mut()) => ReferenceState::DeletedMeanwhile,
            (0, _) => ReferenceState::Missing,
            _ if !done.lost.is_empty() => ReferenceState::Partial,
            (_, 0) => ReferenceState::Present,
            _ => ReferenceState::CarriedOver,
        };
        self.record(done, state);
    }

    /// Returns whether the files of a claim are behind a symlink that leads out. Claims close in the order of their keys, so
    /// only the last link can be before one.
    fn is_behind_link(&mut self, claim: &OpenClaim) -> bool {
        let Some(link) = self.links.last_mut().filter(|link| claim.key.starts_with(key_of(&link.path).as_slice()))
        else {
            return false;
        };
        link.rows += 1;
        true
    }

    /// Decides on an entry of the parent that is gone. Returns it if its row went with it, to be carried over.
    fn decide(&mut self, entry: Entry) -> Result<Option<Entry>> {
        let is_file = !is_upload(&entry.path);
        let Some(innermost) = self.open.last().filter(|open| open.is_settled() && is_file) else { return Ok(None) };
        let key = innermost.key.clone();
        let mut is_gone = true;
        for owner in self.open.iter_mut().filter(|open| open.key == key) {
            is_gone &= owner.is_gone(self.surroundings.as_mut());
        }
        if is_gone {
            // A prune may have taken its chunks: the tree must name only what the repository still has.
            if !self.surroundings.is_reliable(&entry)? {
                return Ok(None);
            }
            self.count(&entry, true)?;
            return Ok(Some(entry));
        }
        if entry.file().is_some() {
            self.open.iter_mut().for_each(|open| open.lose(&entry));
        }
        Ok(None)
    }

    /// Takes the parent's next entry if it is before `next`. Where its tree is damaged nothing can be compared.
    fn parent_before(&mut self, next: Option<&[u8]>) -> Result<Option<Entry>> {
        loop {
            let is_before = |entry: &Entry| next.is_none_or(|next| entry.path.as_slice() < next);
            match self.parent.next_if(|entry| entry.as_ref().map_or(true, is_before)) {
                Some(Err(error)) if error.is_damage() => {}
                other => return other.transpose(),
            }
        }
    }

    fn count(&mut self, entry: &Entry, is_carried: bool) -> Result<()> {
        let EntryKind::File(file) = &entry.kind else { return Ok(()) };
        for open in &mut self.open {
            open.files += 1;
            open.bytes = open.bytes.saturating_add(file.size);
            open.carried += u64::from(is_carried);
            if let Some(digest) = &mut open.digest {
                let relative = entry.path.get(open.key.len()..).unwrap_or_default();
                // With its length before it, so that no two lists of files have the same bytes.
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

    fn record(&mut self, done: OpenClaim, state: ReferenceState) {
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
            lost: done.lost,
            state,
        });
    }
}

fn orphans_fault(source: std::io::Error) -> Error {
    Error::target("write", "the list of orphans", source)
}

impl Review for CrossCheck<'_> {
    fn advance(&mut self, next: Option<&[u8]>) -> Result<Vec<Entry>> {
        let mut carried = Vec::new();
        while let Some(gone) = self.parent_before(next)? {
            self.go_to(Some(&gone.path));
            carried.extend(self.decide(gone)?);
        }
        self.go_to(next);
        let is_next = |entry: &Result<Entry>| entry.as_ref().is_ok_and(|entry| next == Some(&entry.path));
        self.before = self.parent.next_if(is_next).transpose()?;
        Ok(carried)
    }

    fn take_note(&mut self, entry: &Entry) -> Result<()> {
        if let EntryKind::Symlink { target } = &entry.kind
            && !self.surroundings.is_backed_up(&entry.path, target)
        {
            let target = String::from_utf8_lossy(target).into_owned();
            self.links.push(LinkOut { path: entry.path_text(), target, rows: 0 });
        }
        self.count(entry, false)
    }

    /// What was listed and could not be read is harmless if its row was deleted meanwhile.
    fn replace(&mut self, path: &[u8]) -> Result<Replacement> {
        // Renamed or given up since it was listed. It was never a file of a row: what is complete was so before the
        // databases were read, and the rest comes with the next backup.
        if is_upload(path) {
            return Ok(Replacement::Unfinished);
        }
        let surroundings = self.surroundings.as_mut();
        if !self.open.last_mut().is_some_and(|owner| owner.is_gone(surroundings)) {
            return Ok(Replacement::Problem);
        }
        let Some(entry) = self.before.take() else { return Ok(Replacement::By(None)) };
        if !self.surroundings.is_reliable(&entry)? {
            return Ok(Replacement::By(None));
        }
        self.count(&entry, true)?;
        Ok(Replacement::By(Some(Box::new(entry))))
    }

    /// What nobody claims may be of a run that is newer than the database, and still being written.
    fn may_change(&self, _: &[u8]) -> bool {
        self.open.last().is_none_or(|open| !open.claim.is_settled)
    }
}

impl OpenClaim {
    fn new(claim: Claim) -> Self {
        let key = claim.place.as_ref().map_or_else(Vec::new, |(_, path)| key_of(path));
        let is_model = matches!(claim.kind, ReferenceKind::LoggedModel | ReferenceKind::ModelVersion);
        Self {
            key,
            claim,
            files: 0,
            bytes: 0,
            carried: 0,
            has_lost: false,
            lost: Vec::new(),
            is_gone: None,
            digest: is_model.then(blake3::Hasher::new),
        }
    }

    /// Returns whether files that it had must still be there.
    fn is_settled(&self) -> bool {
        self.claim.is_settled || self.claim.must_exist
    }

    /// Returns whether the live database says that its row is gone; it is asked once.
    fn is_gone(&mut self, surroundings: &mut (dyn Surroundings + '_)) -> bool {
        *self.is_gone.get_or_insert_with(|| surroundings.is_gone(&self.claim) == Some(true))
    }

    /// Takes note of a file that is gone. Those of a run may be deleted one by one, those of a model never are.
    fn lose(&mut self, entry: &Entry) {
        self.has_lost |= self.is_settled();
        let is_model = self.digest.is_some();
        if is_model && self.claim.must_exist && self.is_gone != Some(true) && self.lost.len() < FILES_NAMED_MAX {
            self.lost.push(entry.path_text());
        }
    }
}

/// Adds references to the counts of their states.
pub fn count_states(counts: &mut ReferenceCounts, references: &[Reference]) {
    for reference in references {
        *counts.of(reference.state) += 1;
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
    #[derive(Default, Clone)]
    struct Fake {
        gone: HashSet<String>,
        is_silent: bool,
        parent: Vec<Entry>,
    }

    impl Fake {
        fn parent(&self) -> ParentEntries<'static> {
            Box::new(self.parent.clone().into_iter().map(Ok))
        }
    }

    impl Surroundings for Fake {
        fn is_gone(&mut self, claim: &Claim) -> Option<bool> {
            (!self.is_silent).then(|| self.gone.contains(&claim.id))
        }

        fn is_reliable(&mut self, _: &Entry) -> Result<bool> {
            Ok(true)
        }

        fn is_backed_up(&self, _: &[u8], target: &[u8]) -> bool {
            target != b"/out"
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
        let mut check = CrossCheck::new("artifacts/a", claims, fake.parent(), Box::new(fake), Box::new(sink.clone()));
        let mut tree = Vec::new();
        for path in entries {
            let entry = entry(path);
            tree.extend(check.advance(Some(&entry.path)).unwrap());
            check.take_note(&entry).unwrap();
            tree.push(entry);
        }
        tree.extend(check.advance(None).unwrap());
        let references = check.finish().unwrap().references;
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
    fn what_is_behind_a_symlink_that_leads_out_is_missing_and_counted() {
        let claims = vec![
            claim(ReferenceKind::Run, "r1", "1/r1/artifacts", false),
            claim(ReferenceKind::Run, "r2", "1/r2/artifacts", false),
            claim(ReferenceKind::Run, "r3", "2/r3/artifacts", false),
            claim(ReferenceKind::Run, "r4", "3/r4/artifacts", false),
        ];
        let fake = Fake::default();
        let mut check =
            CrossCheck::new("artifacts/a", claims, fake.parent(), Box::new(fake), Box::new(Sink::default()));
        for (path, target) in [("1", "/out"), ("2", "moved/2")] {
            let kind = EntryKind::Symlink { target: target.into() };
            let entry = Entry { kind, ..entry(path) };
            check.advance(Some(&entry.path)).unwrap();
            check.take_note(&entry).unwrap();
        }
        check.advance(None).unwrap();
        let found = check.finish().unwrap();
        assert_eq!(found.links, [LinkOut { path: "1".into(), target: "/out".into(), rows: 2 }]);
        let states: Vec<_> = found.references.iter().map(|it| it.state).collect();
        use ReferenceState::{Empty, Missing};
        assert_eq!(states, [Missing, Missing, Empty, Empty]);
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
    fn files_that_are_gone_while_others_are_there_are_lost_or_went_with_their_row() {
        let claims = vec![
            claim(ReferenceKind::Run, "gone", "1/gone/artifacts", false),
            claim(ReferenceKind::LoggedModel, "m", "1/models/m/artifacts", true),
            claim(ReferenceKind::ModelVersion, "v/1", "1/models/m/artifacts", true),
            claim(ReferenceKind::LoggedModel, "n", "1/models/n/artifacts", true),
            claim(ReferenceKind::Run, "run", "1/run/artifacts", false),
            claim(ReferenceKind::ModelVersion, "v/2", "1/run/artifacts/model", true),
            claim(ReferenceKind::Run, "tidied", "1/tidied/artifacts", false),
        ];
        let had = [
            "1/gone/artifacts/a",
            "1/gone/artifacts/b",
            "1/models/m/artifacts/MLmodel",
            "1/models/m/artifacts/z",
            "1/models/n/artifacts/.artifact.uploading.x3j6iqsx",
            "1/models/n/artifacts/MLmodel",
            "1/run/artifacts/model/MLmodel",
            "1/run/artifacts/model/z",
            "1/tidied/artifacts/a",
            "1/tidied/artifacts/b",
        ];
        let fake = Fake { gone: ["gone".to_owned()].into(), is_silent: false, parent: had.map(entry).into() };
        let has = [
            "1/gone/artifacts/b",
            "1/models/m/artifacts/z",
            "1/models/n/artifacts/MLmodel",
            "1/run/artifacts/model/z",
            "1/tidied/artifacts/b",
        ];
        let (tree, states, _) = check(claims, &has, fake);
        assert_eq!(tree, ["1/gone/artifacts/a"].iter().chain(&has).copied().collect::<Vec<_>>());
        use ReferenceState::{CarriedOver, Partial, Present};
        assert_eq!(
            states,
            [
                state("gone", CarriedOver),
                state("m", Partial),
                state("n", Present),
                state("run", Present),
                state("tidied", Present),
                state("v/1", Partial),
                state("v/2", Partial)
            ]
        );
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
        let mut check = CrossCheck::new("artifacts/a", claims, fake.parent(), Box::new(fake), Box::new(sink));
        assert!(check.advance(Some(b"1/gone/artifacts/a")).unwrap().is_empty());
        assert!(matches!(check.replace(b"1/gone/artifacts/a").unwrap(), Replacement::By(Some(_))));
        assert!(check.advance(Some(b"1/gone/artifacts/b")).unwrap().is_empty());
        assert!(matches!(check.replace(b"1/gone/artifacts/b").unwrap(), Replacement::By(None)));
        assert!(check.advance(Some(b"1/kept/artifacts/c")).unwrap().is_empty());
        assert!(matches!(check.replace(b"1/kept/artifacts/c").unwrap(), Replacement::Problem));
        let upload = b"1/kept/artifacts/.artifact.uploading.x3j6iqsx";
        assert!(matches!(check.replace(upload).unwrap(), Replacement::Unfinished));
    }
}
