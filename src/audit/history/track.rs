//! One item through all snapshots of its source: since when it is there, and what of it changed.
//!
//! What must stay true: what was made anew under the same name is another item; files of a version that are not what they
//! were are an alteration, also if snapshots in between do not tell its digest.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::audit::history::facts::{FILES_DIGEST, FILES_STATE, Facts, STAGE, Seen, Sight, changes};
use crate::audit::history::{Change, Item, ItemHistory, ItemKind};
use crate::id::SessionId;
use crate::mlflow::names::STAGE_DELETED;

/// All items of one source.
#[derive(Default)]
pub(super) struct Tracks {
    /// By item and when it was made.
    tracks: BTreeMap<(Item, Option<i64>), Track>,
    /// Snapshots that were looked at, in their order.
    looked_at: Vec<SessionId>,
}

struct Track {
    history: ItemHistory,
    last: Seen,
    /// The last digest over its files that a snapshot told.
    digest: Option<String>,
}

impl Tracks {
    /// Takes in what the next snapshot says.
    pub(super) fn see(&mut self, snapshot: SessionId, sight: Sight) {
        self.looked_at.push(snapshot);
        for (item, seen) in sight {
            let name = (item, seen.born());
            match self.tracks.get_mut(&name) {
                Some(track) => track.go_on(snapshot, seen),
                None => {
                    let track = Track::begin(&name, snapshot, seen);
                    self.tracks.insert(name, track);
                }
            }
        }
    }

    /// Returns what came of them.
    pub(super) fn finish(self) -> Vec<ItemHistory> {
        let end = |track: Track| ItemHistory {
            facts: track.last.facts(),
            absent: absent(&self.looked_at, &track.history.snapshots),
            ..track.history
        };
        self.tracks.into_values().map(end).collect()
    }
}

/// Returns the snapshots after the first one with an item that do not have it.
fn absent(looked_at: &[SessionId], with: &[SessionId]) -> Vec<SessionId> {
    let from = with.first().and_then(|first| looked_at.iter().position(|id| id == first)).unwrap_or_default();
    let with: BTreeSet<_> = with.iter().collect();
    looked_at.iter().skip(from).filter(|id| !with.contains(id)).copied().collect()
}

impl Track {
    fn begin((item, born): &(Item, Option<i64>), snapshot: SessionId, seen: Seen) -> Self {
        let facts = seen.facts();
        let digest = digest_of(&facts);
        let history = ItemHistory {
            kind: item.kind,
            id: item.to_string(),
            born: *born,
            snapshots: vec![snapshot],
            at_first: facts,
            ..ItemHistory::default()
        };
        Self { history, last: seen, digest }
    }

    fn go_on(&mut self, snapshot: SessionId, seen: Seen) {
        if seen != self.last {
            let (old, new) = (self.last.facts(), seen.facts());
            let mut changes = changes(&old, &new);
            changes.retain(|change| change.what != FILES_DIGEST);
            changes.extend(self.content_change(&new));
            changes.iter_mut().for_each(|change| change.snapshot = snapshot);
            self.history.changes.append(&mut changes);
            self.digest = digest_of(&new).or(self.digest.take());
            self.last = seen;
        }
        self.history.snapshots.push(snapshot);
    }

    /// Compares the files with what they were when their digest was last known.
    fn content_change(&self, new: &Facts) -> Option<Change> {
        let (old, digest) = (self.digest.clone()?, digest_of(new));
        let is_lost = matches!(new.get(FILES_STATE).and_then(Json::as_str), Some("missing" | "partial"));
        let is_other = digest.as_ref().map_or(is_lost, |digest| *digest != old);
        let is_version = self.history.kind == ItemKind::Version;
        let is_deleted = new.get(STAGE).and_then(Json::as_str) == Some(STAGE_DELETED);
        is_other.then(|| Change {
            what: FILES_DIGEST.to_owned(),
            old: Json::from(old),
            new: digest.map_or(Json::Null, Json::from),
            alters: is_version && !is_deleted,
            ..Change::default()
        })
    }
}

fn digest_of(facts: &Facts) -> Option<String> {
    facts.get(FILES_DIGEST)?.as_str().map(str::to_owned)
}
