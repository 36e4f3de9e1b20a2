//! The trees of all snapshots: every node can be read and says what its parent says, every chunk of every file is
//! where it can be had.
//!
//! What must stay true: a node that was found clean is not looked at again where it is referred to in the same way (same
//! first path, totals, level, and following path), in whatever snapshot; one that is not is, because there it hurts
//! other files. So the cost is that of the distinct nodes, and damage is named for every snapshot.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::check::Check;
use crate::check::findings::{Hurt, Loss, ProblemKind, Subject};
use crate::error::{Error, Fault, Result};
use crate::format::BlobKind;
use crate::format::snapshot::Component;
use crate::format::tree::{self, Child, ChunkRef, Entry, FileContent, LEVEL_MAX, Node};
use crate::id::{ChunkId, PackId, SessionId};
use crate::monitor::Counter;
use crate::parallel;
use crate::repository::index_sync::Place;
use crate::repository::layout;
use crate::repository::snapshots::Snapshot;
use crate::sync::lock;
use crate::units::sum_of_claims;

/// Clean nodes that are remembered, at some 40 bytes each; beyond, nodes that snapshots share are read again.
pub const NODES_REMEMBERED_MAX: usize = 1 << 20;
/// Nodes of one tree that are looked at in parallel; each takes a few MiB.
const THREADS_MAX: usize = 8;

/// Which tree is looked at, for what is reported.
struct Tree<'a> {
    snapshot: SessionId,
    component: &'a Component,
}

/// How a node is referred to: all that the checks of the node depend on.
#[derive(Clone, Copy)]
struct NodeReference<'a> {
    node: ChunkId,
    /// `None` for the root, which nobody says the first path of.
    first_path: Option<&'a [u8]>,
    entries: u64,
    bytes: u64,
    /// `None` for the root.
    level: Option<u8>,
    /// Every path below must be less.
    bound: Option<&'a [u8]>,
}

impl NodeReference<'_> {
    fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.node.as_bytes());
        hasher.update(&self.entries.to_le_bytes());
        hasher.update(&self.bytes.to_le_bytes());
        hasher.update(&[self.level.map_or(u8::MAX, |level| level)]);
        for path in [self.first_path, self.bound] {
            hasher.update(&path.map_or(u64::MAX, |path| path.len() as u64).to_le_bytes());
            hasher.update(path.unwrap_or_default());
        }
        *hasher.finalize().as_bytes()
    }
}

/// References found clean.
#[derive(Default)]
struct Clean(Mutex<HashSet<[u8; 32]>>);

impl Clean {
    fn contains(&self, digest: &[u8; 32]) -> bool {
        lock(&self.0).contains(digest)
    }

    fn insert(&self, digest: [u8; 32]) {
        let mut clean = lock(&self.0);
        if clean.len() < NODES_REMEMBERED_MAX {
            clean.insert(digest);
        }
    }
}

impl Check<'_> {
    /// Looks at the trees of all snapshots.
    pub(super) fn check_trees(&self, snapshots: &[Snapshot]) -> Result<()> {
        let components = || snapshots.iter().flat_map(|snapshot| &snapshot.record.components);
        let entries = sum_of_claims(components().map(|component| component.entries));
        let bytes = sum_of_claims(components().map(|component| component.bytes));
        self.hears.monitor.phase("check trees", Some(entries), Some(bytes));
        let walk = Walk { check: self, clean: Clean::default() };
        for snapshot in snapshots {
            for component in &snapshot.record.components {
                let root = NodeReference {
                    node: component.root,
                    first_path: None,
                    entries: component.entries,
                    bytes: component.bytes,
                    level: None,
                    bound: None,
                };
                let threads = self.repository.backend().concurrency().min(THREADS_MAX);
                walk.visit(&Tree { snapshot: snapshot.id, component }, root, threads)?;
            }
        }
        Ok(())
    }
}

struct Walk<'a> {
    check: &'a Check<'a>,
    clean: Clean,
}

impl Walk<'_> {
    /// Returns whether everything from this node down is sound.
    fn visit(&self, tree: &Tree<'_>, reference: NodeReference<'_>, threads: usize) -> Result<bool> {
        self.check.hears.check()?;
        let digest = reference.digest();
        if self.clean.contains(&digest) {
            self.progress(reference.entries, reference.bytes);
            return Ok(true);
        }
        let mut subjects = HashSet::new();
        let Some(node) = self.read_node(tree, &reference, &mut subjects)? else {
            self.hurt(tree, &reference, &subjects);
            return Ok(false);
        };
        self.check.findings.count(|counts| counts.tree_nodes += 1);
        let sound = self.check_totals(tree, &reference, &node);
        let below = match node {
            Node::Leaf(entries) => self.visit_entries(tree, &reference, &entries)?,
            Node::Inner { level, children } => self.visit_children(tree, &reference, level, &children, threads)?,
        };
        if sound && below {
            self.clean.insert(digest);
        }
        Ok(sound && below)
    }

    fn visit_children(
        &self,
        tree: &Tree<'_>,
        reference: &NodeReference<'_>,
        level: u8,
        children: &[Child],
        threads: usize,
    ) -> Result<bool> {
        let bounds = children.iter().skip(1).map(|next| Some(next.first_path.as_slice())).chain([reference.bound]);
        let references: Vec<NodeReference<'_>> = children
            .iter()
            .zip(bounds)
            .map(|(child, bound)| NodeReference {
                node: child.node,
                first_path: Some(&child.first_path),
                entries: child.entries,
                bytes: child.bytes,
                level: Some(level - 1),
                bound,
            })
            .collect();
        let visited = parallel::map(&references, threads, |child| self.check.guarded(|| self.visit(tree, *child, 1)));
        visited.into_iter().try_fold(true, |all, clean| Ok(all & clean?))
    }

    fn visit_entries(&self, tree: &Tree<'_>, reference: &NodeReference<'_>, entries: &[Entry]) -> Result<bool> {
        let mut clean = true;
        for entry in entries {
            if let Some(file) = entry.file() {
                let mut subjects = HashSet::new();
                self.check_file(reference, entry, file, &mut subjects)?;
                if !subjects.is_empty() {
                    clean = false;
                    let (snapshot, component) = (tree.snapshot, tree.component.name.clone());
                    let hurt = Hurt { snapshot, component, path: entry.path_text(), entries: 1 };
                    self.check.findings.hurt(&subjects, &hurt);
                }
            }
            self.progress(1, entry.size());
        }
        Ok(clean)
    }

    fn progress(&self, entries: u64, bytes: u64) {
        self.check.hears.monitor.count(Counter::Entries, entries);
        self.check.hears.monitor.count(Counter::Bytes, bytes);
    }

    /// Reads a node and checks what a restore relies on. Without one, `subjects` says whose fault that is.
    fn read_node(
        &self,
        tree: &Tree<'_>,
        reference: &NodeReference<'_>,
        subjects: &mut HashSet<Subject>,
    ) -> Result<Option<Node>> {
        let Some(bytes) = self.read_meta(&reference.node, subjects)? else { return Ok(None) };
        let fault = match tree::decode_node(&bytes) {
            Err(error) => error.to_string(),
            Ok(node) => match fault_of(&node, reference) {
                None => return Ok(Some(node)),
                Some(fault) => fault.to_owned(),
            },
        };
        self.blame_node(tree, &reference.node, &fault);
        subjects.insert(Subject::Node(reference.node));
        Ok(None)
    }

    fn blame_node(&self, tree: &Tree<'_>, node: &ChunkId, fault: &str) {
        let object = format!("tree node {node} of {} in snapshot {}", tree.component.name, tree.snapshot.short());
        self.check.findings.problem_of(Subject::Node(*node), ProblemKind::Tree, &object, fault);
    }

    /// Wrong totals mislead a person and nothing else: what is below is still looked at, and not lost.
    fn check_totals(&self, tree: &Tree<'_>, reference: &NodeReference<'_>, node: &Node) -> bool {
        let found = match node {
            Node::Leaf(entries) => {
                (entries.len() as u64, entries.iter().fold(0, |sum: u64, entry| sum.saturating_add(entry.size())))
            }
            Node::Inner { children, .. } => children.iter().fold((0u64, 0u64), |(entries, bytes), child| {
                (entries.saturating_add(child.entries), bytes.saturating_add(child.bytes))
            }),
        };
        if found == (reference.entries, reference.bytes) {
            return true;
        }
        let fault = format!(
            "it holds {} entries and {} bytes, but {} and {} are said to be there",
            found.0, found.1, reference.entries, reference.bytes
        );
        self.blame_node(tree, &reference.node, &fault);
        false
    }

    fn hurt(&self, tree: &Tree<'_>, reference: &NodeReference<'_>, subjects: &HashSet<Subject>) {
        self.check.findings.hurt(
            subjects,
            &Hurt {
                snapshot: tree.snapshot,
                component: tree.component.name.clone(),
                path: String::from_utf8_lossy(reference.first_path.unwrap_or_default()).into_owned(),
                entries: reference.entries.max(1),
            },
        );
        self.progress(reference.entries, reference.bytes);
    }

    /// Looks up every chunk of a file; `subjects` takes whose fault it is if one cannot be had.
    fn check_file(
        &self,
        reference: &NodeReference<'_>,
        entry: &Entry,
        file: &FileContent,
        subjects: &mut HashSet<Subject>,
    ) -> Result<()> {
        if !file.indirect {
            return self.check_chunks(&reference.node, file.kind, &file.chunks, subjects).map(drop);
        }
        let mut size = 0u64;
        for list in &file.chunks {
            let Some(bytes) = self.read_meta(&list.id, subjects)? else { return Ok(()) };
            match tree::decode_chunk_refs(&bytes) {
                Ok(chunks) => size = size.saturating_add(self.check_chunks(&list.id, file.kind, &chunks, subjects)?),
                Err(error) => self.blame_list(&list.id, entry, &error.to_string(), subjects),
            }
        }
        if size != file.size && subjects.is_empty() {
            self.blame_list(&reference.node, entry, "its chunks do not add up to the file's size", subjects);
        }
        Ok(())
    }

    fn blame_list(&self, chunk: &ChunkId, entry: &Entry, fault: &str, subjects: &mut HashSet<Subject>) {
        let object = format!("chunk list {chunk} of {:?}", entry.path_text());
        self.check.findings.problem_of(Subject::Node(*chunk), ProblemKind::Tree, &object, fault);
        subjects.insert(Subject::Node(*chunk));
    }

    /// Returns the length of the chunks together. `list` is the node or list that names them.
    fn check_chunks(
        &self,
        list: &ChunkId,
        kind: BlobKind,
        chunks: &[ChunkRef],
        subjects: &mut HashSet<Subject>,
    ) -> Result<u64> {
        let findings = &self.check.findings;
        findings.count(|counts| counts.chunk_references += chunks.len() as u64);
        let mut size = 0u64;
        for chunk in chunks {
            size = size.saturating_add(u64::from(chunk.len));
            let places = self.places(kind, &chunk.id)?;
            let mut sound = places.iter().filter(|place| !findings.is_lost(&place.pack.id, &chunk.id)).peekable();
            if sound.peek().is_none() {
                self.blame_packs(&chunk.id, &places, subjects);
            } else if let Some(place) = sound.find(|place| place.header.plain_len != chunk.len) {
                let fault =
                    format!("it says {} bytes for chunk {}, of {}", chunk.len, chunk.id, place.header.plain_len);
                findings.problem_of(Subject::Node(*list), ProblemKind::Tree, &format!("tree node {list}"), &fault);
                subjects.insert(Subject::Node(*list));
            }
        }
        Ok(size)
    }

    /// Returns where a chunk stands. If all of that is lost, a prune may just have moved it: then the index is read again,
    /// and packs that are new in it are looked at.
    fn places(&self, kind: BlobKind, id: &ChunkId) -> Result<Vec<Place>> {
        let Check { repository, findings, reader, .. } = self.check;
        let mut tried = Vec::new();
        loop {
            let places = repository.index().locate(kind, id)?;
            places.iter().try_for_each(|place| self.check.check_new_pack(&place.pack))?;
            let packs: Vec<PackId> = places.iter().map(|place| place.pack.id).collect();
            if packs == tried || !packs.iter().all(|pack| findings.is_lost(pack, id)) {
                return Ok(places);
            }
            reader.look_again(kind, packs.iter().copied())?;
            tried = packs;
        }
    }

    /// Lays a lost chunk to the packs that should have it, or, without any, to the index.
    fn blame_packs(&self, chunk: &ChunkId, places: &[Place], subjects: &mut HashSet<Subject>) {
        subjects.extend(places.iter().map(|place| Subject::Pack(place.pack.id)));
        if places.is_empty() {
            let reason = format!("trees refer to chunks that no index segment names; the first is {chunk}");
            self.check.findings.suspect(Subject::MissingChunks, ProblemKind::MissingChunks, layout::INDEX, &reason);
            subjects.insert(Subject::MissingChunks);
        }
    }

    /// Reads a meta chunk from whatever pack has it. Without one, the packs that should have had it are bad.
    fn read_meta(&self, id: &ChunkId, subjects: &mut HashSet<Subject>) -> Result<Option<Vec<u8>>> {
        let error = match self.check.reader.read(BlobKind::Meta, id, &String::new) {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) if error.is_damage() => error,
            Err(error) => return Err(error),
        };
        let places = self.check.repository.index().locate(BlobKind::Meta, id)?;
        if !matches!(error, Error::MissingChunk { .. }) {
            for place in &places {
                let (pack, key) = (place.pack.id, layout::pack(BlobKind::Meta, &place.pack.id));
                match error.fault() {
                    Some(Fault::NotFound) => self.check.findings.missing_pack(pack, &key),
                    _ => self.check.findings.bad_pack(pack, &key, &error.reason(), Loss::Chunks([*id].into())),
                }
            }
        }
        self.blame_packs(id, &places, subjects);
        Ok(None)
    }
}

/// Returns what is wrong with a node where it stands: a restore would stop there.
fn fault_of(node: &Node, reference: &NodeReference<'_>) -> Option<&'static str> {
    let (level, first, last) = match node {
        Node::Leaf(entries) => (0, entries.first().map(|entry| &entry.path), entries.last().map(|entry| &entry.path)),
        Node::Inner { level, children } => {
            (*level, children.first().map(|child| &child.first_path), children.last().map(|child| &child.first_path))
        }
    };
    if reference.level.is_some_and(|expected| expected != level) || level > LEVEL_MAX {
        return Some("it is not of the level below its parent");
    }
    if first.is_none() && (level > 0 || reference.level.is_some()) {
        return Some("it is empty");
    }
    if reference.first_path.is_some() && first.map(Vec::as_slice) != reference.first_path {
        return Some("it does not begin where its parent says");
    }
    if let (Some(bound), Some(last)) = (reference.bound, last)
        && last.as_slice() >= bound
    {
        return Some("its paths are not in order");
    }
    None
}
