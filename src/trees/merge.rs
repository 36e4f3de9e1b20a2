//! Reads several trees side by side in path order, so that a node that some of them share is read once for all.
//!
//! A tree that is not inside a leaf stands before a child that it has not opened. The smallest path decides what
//! comes next. All trees that stand before the same node there open it together and go through it as one *track*; so
//! sixty snapshots of one tree cost as much as one. Higher nodes are opened first, so that trees of different
//! height meet.
//!
//! What must stay true:
//! - A node is read once, however many of the trees have it at the same place; memory holds one node per level and
//!   *different* tree.
//! - Trees come from outside: levels fall by one with each step down and paths ascend, so no tree can loop.
//! - A node that cannot be read is reported with the trees that need it, and the rest goes on.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::tree::{Child, Entry, LEVEL_MAX, Node};
use crate::id::ChunkId;
use crate::trees::reader::{damaged_node, read_node};

/// What a root's level is taken for before it is read: above all.
const LEVEL_UNKNOWN: u8 = LEVEL_MAX + 1;

/// Numbers of trees, as given to [`TreeMerge::open`].
pub type Trees = Arc<[usize]>;

/// What comes next in path order.
#[derive(Debug)]
pub enum Merged {
    /// All entries of one path, each with the trees that have it; other trees have none there.
    Entries(Vec<(Trees, Entry)>),
    /// A node could not be read; what these trees have below it is left out.
    Unreadable(Trees, Error),
}

/// Whether nodes that all trees share are of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// They are read, once.
    Read,
    /// They are passed over unread.
    Skip,
}

/// Iterates over several trees at once.
pub struct TreeMerge<'a> {
    chunks: &'a ChunkReader,
    component: String,
    prefix: Vec<u8>,
    shared: Shared,
    trees: Vec<Tree>,
    tracks: Vec<Track>,
}

/// Where one tree stands.
struct Tree {
    /// Children not opened yet, deepest last.
    pending: Vec<Pending>,
    /// Whether it is inside a leaf, that is, on a track.
    on_track: bool,
    last_path: Arc<[u8]>,
}

/// The children of an open node.
struct Pending {
    children: Arc<Vec<Child>>,
    at: usize,
    level: u8,
}

/// Trees that go through the same leaf.
struct Track {
    trees: Trees,
    entries: VecDeque<Entry>,
}

impl Tree {
    fn next_child(&self) -> Option<(&Child, u8)> {
        let pending = self.pending.last().filter(|_| !self.on_track)?;
        pending.children.get(pending.at).map(|child| (child, pending.level))
    }

    /// Steps over the next child, and out of nodes that are done.
    fn take_child(&mut self) {
        if let Some(pending) = self.pending.last_mut() {
            pending.at += 1;
        }
        while self.pending.last().is_some_and(|pending| pending.at >= pending.children.len()) {
            self.pending.pop();
        }
    }
}

impl<'a> TreeMerge<'a> {
    /// Stands before the roots, of which nothing is read yet; `component` names the trees in messages. Only entries
    /// whose path begins with `prefix` come.
    pub fn open(chunks: &'a ChunkReader, component: &str, roots: &[ChunkId], prefix: &[u8], shared: Shared) -> Self {
        let tree = |root: &ChunkId| {
            let root = Child { first_path: Vec::new(), node: *root, entries: 0, bytes: 0 };
            let pending = vec![Pending { children: Arc::new(vec![root]), at: 0, level: LEVEL_UNKNOWN }];
            Tree { pending, on_track: false, last_path: Arc::from(&b""[..]) }
        };
        Self {
            chunks,
            component: component.to_owned(),
            prefix: prefix.to_vec(),
            shared,
            trees: roots.iter().map(tree).collect(),
            tracks: Vec::new(),
        }
    }

    fn advance(&mut self) -> Result<Option<Merged>> {
        loop {
            let Some(path) = self.first_path().map(<[u8]>::to_vec) else { return Ok(None) };
            if path > self.prefix && !path.starts_with(&self.prefix) {
                return Ok(None);
            }
            let Some((node, level, trees)) = self.node_at(&path) else {
                return Ok(Some(Merged::Entries(self.take_entries(&path))));
            };
            trees.iter().for_each(|tree| self.trees[*tree].take_child());
            if self.shared == Shared::Skip && trees.len() == self.trees.len() {
                continue;
            }
            match self.enter(&path, &node, level, &trees) {
                Ok(()) => {}
                Err(error) if error.is_damage() => return Ok(Some(Merged::Unreadable(trees, error))),
                Err(error) => return Err(error),
            }
        }
    }

    fn first_path(&self) -> Option<&[u8]> {
        let children = self.trees.iter().filter_map(Tree::next_child).map(|(child, _)| child.first_path.as_slice());
        let entries = self.tracks.iter().filter_map(|track| track.entries.front()).map(|entry| entry.path.as_slice());
        children.chain(entries).min()
    }

    /// Returns the highest unopened node that begins at `path`, and the trees that stand before it.
    fn node_at(&self, path: &[u8]) -> Option<(ChunkId, u8, Trees)> {
        let here = || {
            self.trees.iter().enumerate().filter_map(|(number, tree)| {
                let (child, level) = tree.next_child().filter(|(child, _)| child.first_path == path)?;
                Some((number, child.node, level))
            })
        };
        let (_, node, level) = here().max_by_key(|(_, _, level)| *level)?;
        let trees = here().filter(|found| (found.1, found.2) == (node, level)).map(|found| found.0).collect();
        Some((node, level, trees))
    }

    fn take_entries(&mut self, path: &[u8]) -> Vec<(Trees, Entry)> {
        let mut found = Vec::new();
        for track in &mut self.tracks {
            if track.entries.front().is_some_and(|entry| entry.path == path)
                && let Some(entry) = track.entries.pop_front()
            {
                found.push((Arc::clone(&track.trees), entry));
            }
        }
        self.close_finished_tracks();
        found
    }

    fn close_finished_tracks(&mut self) {
        for track in self.tracks.iter().filter(|track| track.entries.is_empty()) {
            track.trees.iter().for_each(|tree| self.trees[*tree].on_track = false);
        }
        self.tracks.retain(|track| !track.entries.is_empty());
    }

    /// Opens a node for all trees that stand before it.
    fn enter(&mut self, first_path: &[u8], node: &ChunkId, level: u8, trees: &Trees) -> Result<()> {
        let decoded = read_node(self.chunks, &self.component, node)?;
        self.check(first_path, node, level, trees, &decoded)?;
        match decoded {
            Node::Leaf(entries) => self.enter_leaf(entries, trees),
            Node::Inner { level, children } => self.enter_inner(level, children, trees),
        }
        Ok(())
    }

    fn check(&self, first_path: &[u8], node: &ChunkId, level: u8, trees: &Trees, decoded: &Node) -> Result<()> {
        let damaged = |reason: &str| Err(damaged_node(&self.component, node, reason));
        let (found_level, first) = match decoded {
            Node::Leaf(entries) => (0, entries.first().map(|entry| &entry.path)),
            Node::Inner { level, children } => (*level, children.first().map(|child| &child.first_path)),
        };
        if level != LEVEL_UNKNOWN && found_level != level {
            return damaged("it is not of the level that its parent says");
        }
        if level != LEVEL_UNKNOWN && first.is_none_or(|path| path != first_path) {
            return damaged("it does not begin where its parent says");
        }
        let is_behind = |tree: &usize| first.is_some_and(|path| **path <= *self.trees[*tree].last_path);
        if trees.iter().any(|tree| !self.trees[*tree].last_path.is_empty() && is_behind(tree)) {
            return damaged("its paths are not in order");
        }
        Ok(())
    }

    fn enter_leaf(&mut self, entries: Vec<Entry>, trees: &Trees) {
        if let Some(last) = entries.last() {
            let last_path: Arc<[u8]> = Arc::from(last.path.as_slice());
            trees.iter().for_each(|tree| self.trees[*tree].last_path = Arc::clone(&last_path));
        }
        let mut entries = VecDeque::from(entries);
        while entries.front().is_some_and(|entry| entry.path < self.prefix) {
            entries.pop_front();
        }
        if !entries.is_empty() {
            trees.iter().for_each(|tree| self.trees[*tree].on_track = true);
            self.tracks.push(Track { trees: Arc::clone(trees), entries });
        }
    }

    /// Passes over children that end before the prefix: those whose successor still begins at or before it.
    fn enter_inner(&mut self, level: u8, children: Vec<Child>, trees: &Trees) {
        let at = children.windows(2).take_while(|pair| pair[1].first_path <= self.prefix).count();
        let children = Arc::new(children);
        for tree in trees.iter().filter(|_| at < children.len()) {
            let pending = Pending { children: Arc::clone(&children), at, level: level - 1 };
            self.trees[*tree].pending.push(pending);
        }
    }
}

impl Iterator for TreeMerge<'_> {
    type Item = Result<Merged>;

    /// After an error nothing more is to be expected.
    fn next(&mut self) -> Option<Result<Merged>> {
        self.advance().transpose()
    }
}
