//! What users call snapshots: an id, or words whose meaning moves, such as `latest` or a day.
//!
//! What must stay true:
//! - An id means one snapshot, wherever it is from. All else means one of a single source: where several come into question
//!   and none is named, that is an error that lists them, never the newest of all.
//! - What cannot be read may be what is meant. Whoever is answered learns that.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::error::{Error, Result};
use crate::format::snapshot::SourceRecord;
use crate::id::SessionId;
use crate::moment::DayOrTime;
use crate::repository::snapshots::{Snapshot, SnapshotList};
use crate::repository::{Repository, layout};
use crate::units;

/// Least digits of an id prefix.
const ID_PREFIX_LEN_MIN: usize = 4;
/// Sources that an error names.
const SOURCES_NAMED_MAX: usize = 20;

/// Which sources' snapshots come into question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those of any one source.
    #[default]
    Any,
    /// Those of any one MLflow deployment.
    AnyDeployment,
    /// Those of the MLflow deployment of this name.
    Deployment(String),
    /// Those of this source, in the words of [`SourceRecord::group`].
    Group(String),
}

impl Scope {
    /// Returns whether snapshots of a source come into question.
    pub fn has(&self, source: &SourceRecord) -> bool {
        match (self, source) {
            (Self::Any, _) | (Self::AnyDeployment, SourceRecord::Deployment { .. }) => true,
            (Self::Deployment(wanted), SourceRecord::Deployment { name }) => wanted == name,
            (Self::Group(wanted), source) => *wanted == source.group(),
            _ => false,
        }
    }

    /// Describes what is looked for, as in "a snapshot of …".
    fn of(&self) -> String {
        match self {
            Self::Any => "anything".to_owned(),
            Self::AnyDeployment => "an MLflow deployment".to_owned(),
            Self::Deployment(name) => format!("the deployment {name:?}"),
            Self::Group(group) => format!("{group:?}"),
        }
    }
}

/// A word for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// The beginning of an id, in lower case.
    Id(String),
    /// The newest, or so many before it.
    Latest(usize),
    /// The last one of a day (UTC).
    Of(Date),
    /// The last one that was made before the end of a day, or not after a time.
    AsOf(DayOrTime),
}

impl Word {
    fn parse(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("latest") {
            let back =
                if rest.is_empty() { Some(0) } else { rest.strip_prefix('~').and_then(|back| back.parse().ok()) };
            return back.map(Self::Latest).ok_or_else(|| Error::Invalid(format!("{text:?} is not latest or latest~N")));
        }
        // Eight digits are a day too, but more likely the beginning of an id.
        if text.len() >= ID_PREFIX_LEN_MIN && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self::Id(text.to_ascii_lowercase()));
        }
        match text.parse() {
            Ok(DayOrTime::Day(day)) => Ok(Self::Of(day)),
            Ok(time) => Ok(Self::AsOf(time)),
            Err(_) => Err(Error::Invalid(format!(
                "{text:?} is not a snapshot: give an id, latest, latest~N, a day (2026-11-21) or a time \
                 (2026-11-21T03:00Z)"
            ))),
        }
    }

    /// Returns the first moment that is too late to be meant, if there is one.
    fn until(&self) -> Result<Option<Timestamp>> {
        match self {
            Self::Id(_) | Self::Latest(_) => Ok(None),
            Self::Of(day) => DayOrTime::Day(*day).after().map(Some),
            Self::AsOf(moment) => moment.after().map(Some),
        }
    }

    /// Returns the moment that the answer is to be close to, if there is one.
    fn moment(&self) -> Result<Option<Timestamp>> {
        match self {
            Self::AsOf(moment) => moment.begin().map(Some),
            _ => Ok(None),
        }
    }
}

/// A snapshot that was asked for, and what speaks against it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Why another one may be meant: something that cannot be read may be newer.
    pub doubt: Option<String>,
    /// That something which cannot be read may say that this one was forgotten.
    pub note: Option<String>,
    /// The moment that was asked for, if one was: the snapshot was made before or at it, or in the course of that day.
    pub moment: Option<Timestamp>,
    /// The last complete snapshot of the same source that is not newer, or else the first that is, if this one is incomplete.
    pub complete: Option<Snapshot>,
}

impl Found {
    /// Returns the snapshot if nothing may be newer than it.
    fn certain(self) -> Result<Snapshot> {
        match self.doubt {
            None => Ok(self.snapshot),
            Some(doubt) => Err(Error::damaged(layout::SNAPSHOTS, doubt)),
        }
    }
}

impl Repository {
    /// Finds the snapshot that `name` means: an id or a prefix of it, `latest`, `latest~2`, a day (`2026-11-21`, UTC:
    /// the last one of that day) or a time (`2026-11-21T03:00Z`: the last one not after it). All but an id fail with
    /// [`Error::Invalid`] if there are snapshots of several sources.
    ///
    /// If damage hides what `latest` would be, that is an error, not an older snapshot. [`Repository::find`] leaves this
    /// to the caller.
    pub fn find_snapshot(&self, name: &str) -> Result<Snapshot> {
        self.find(name, &Scope::Any)?.certain()
    }

    /// Finds the snapshot that `name` means among those that can be read and are of one source, and tells what speaks
    /// against it. An id means what it means in any scope.
    pub fn find(&self, name: &str, scope: &Scope) -> Result<Found> {
        self.find_word(&Word::parse(name)?, name, scope)
    }

    /// Finds the last snapshot that was made before the end of this day (UTC) or not after this time, as
    /// [`Repository::find`] does.
    pub fn find_as_of(&self, moment: &str, scope: &Scope) -> Result<Found> {
        self.find_word(&Word::AsOf(moment.parse()?), moment, scope)
    }

    fn find_word(&self, word: &Word, text: &str, scope: &Scope) -> Result<Found> {
        let list = self.list_snapshots()?;
        if let Word::Id(prefix) = word {
            return self.find_id(&list, prefix, text);
        }
        let until = word.until()?;
        match (choose(&list.snapshots, (word, text), scope), list.damaged.first()) {
            (Ok(at), _) => {
                let (snapshot, moment) = (list.snapshots[at].clone(), word.moment()?);
                let made = snapshot.made();
                let may_be_meant = |time| time >= made && until.is_none_or(|until| time < until);
                Ok(Found { moment, ..found(&list, snapshot, may_be_meant) })
            }
            (Err(Error::NotFound(_)), Some(damage)) => Err(damage.clone()),
            (Err(error), _) => Err(error),
        }
    }

    fn find_id(&self, list: &SnapshotList, prefix: &str, text: &str) -> Result<Found> {
        let hidden = list.damaged_ids.iter().find(|id| id.to_string().starts_with(prefix));
        match (choose_id(&list.snapshots, prefix, text), hidden) {
            (Ok(at), _) => Ok(found(list, list.snapshots[at].clone(), |_| false)),
            // What it is hidden by says more than that it is not there.
            (Err(missing), Some(id)) => Err(self.read_outcome(id, None).err().unwrap_or(missing)),
            (Err(error), None) => Err(error),
        }
    }
}

/// Snapshots by their names, which are all looked up in one listing: so `latest` means the same for all of them.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// The names, as [`Repository::find`] takes them.
    pub names: Vec<String>,
    /// Whose snapshots come into question.
    pub scope: Scope,
}

impl Named {
    /// Returns where the snapshots that are meant stand in a list that is sorted by time.
    pub fn among(&self, snapshots: &[Snapshot]) -> Result<Vec<usize>> {
        self.names.iter().map(|name| choose(snapshots, (&Word::parse(name)?, name), &self.scope)).collect()
    }
}

impl From<SessionId> for Named {
    fn from(id: SessionId) -> Self {
        Self { names: vec![id.to_string()], scope: Scope::Any }
    }
}

/// Returns where the snapshot that is meant stands in a list that is sorted by time.
fn choose(snapshots: &[Snapshot], (word, text): (&Word, &str), scope: &Scope) -> Result<usize> {
    if let Word::Id(prefix) = word {
        return choose_id(snapshots, prefix, text);
    }
    let of_scope: Vec<usize> = (0..snapshots.len()).filter(|at| scope.has(&snapshots[*at].record.source)).collect();
    let candidates: Vec<&Snapshot> = of_scope.iter().map(|at| &snapshots[*at]).collect();
    refuse_several(&candidates, text)?;
    let selected = select(&candidates, word).map(|at| of_scope[at]);
    selected.ok_or_else(|| Error::NotFound(nothing(snapshots, &candidates, (word, text), scope)))
}

fn choose_id(snapshots: &[Snapshot], prefix: &str, text: &str) -> Result<usize> {
    let mut matches = (0..snapshots.len()).filter(|at| snapshots[*at].id.to_string().starts_with(prefix));
    match (matches.next(), matches.next()) {
        (Some(at), None) => Ok(at),
        (None, _) => Err(Error::NotFound(format!("There is no snapshot {text}"))),
        (Some(_), Some(_)) => Err(Error::NotFound(format!("Several snapshots begin with {text}; give more digits"))),
    }
}

/// Returns what a word means among snapshots of one source, which are sorted by time.
fn select(snapshots: &[&Snapshot], word: &Word) -> Option<usize> {
    let day_of = |snapshot: &&Snapshot| TimeZone::UTC.to_datetime(snapshot.made()).date();
    match word {
        Word::Id(_) => None,
        Word::Latest(back) => snapshots.len().checked_sub(1).and_then(|last| last.checked_sub(*back)),
        Word::Of(day) => snapshots.iter().rposition(|snapshot| day_of(snapshot) == *day),
        Word::AsOf(moment) => {
            let until = moment.after().ok()?;
            snapshots.iter().rposition(|snapshot| snapshot.made() < until)
        }
    }
}

/// Fails unless all snapshots are of one source.
fn refuse_several(candidates: &[&Snapshot], text: &str) -> Result<()> {
    let sources = sources(candidates.iter().copied());
    if sources.len() <= 1 {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{text:?} could be of any of {}: name one with --deployment or --group, or give an id. There are {}",
        units::count(sources.len(), "source"),
        named(&sources)
    )))
}

/// Returns the newest snapshot of each source, and how many there are.
fn sources<'a>(snapshots: impl Iterator<Item = &'a Snapshot>) -> BTreeMap<String, (&'a Snapshot, usize)> {
    let mut sources: BTreeMap<String, (&Snapshot, usize)> = BTreeMap::new();
    for snapshot in snapshots {
        let entry = sources.entry(snapshot.record.source.group()).or_insert((snapshot, 0));
        *entry = (snapshot, entry.1 + 1);
    }
    sources
}

fn named(sources: &BTreeMap<String, (&Snapshot, usize)>) -> String {
    let one = |(group, (newest, count)): (&String, &(&Snapshot, usize))| {
        format!("{group:?} ({}, the last {})", units::count(*count, "snapshot"), told(newest))
    };
    let mut all: Vec<String> = sources.iter().take(SOURCES_NAMED_MAX).map(one).collect();
    if sources.len() > all.len() {
        all.push(format!("{} more", sources.len() - all.len()));
    }
    all.join("; ")
}

/// Names a snapshot by id and time.
fn told(snapshot: &Snapshot) -> String {
    format!("{} of {}", snapshot.id.short(), snapshot.made().strftime("%F %R UTC"))
}

/// Says that nothing was found, and what there is instead.
fn nothing(all: &[Snapshot], candidates: &[&Snapshot], (word, text): (&Word, &str), scope: &Scope) -> String {
    let Some(newest) = candidates.last() else {
        let others = sources(all.iter());
        let hint = match others.is_empty() {
            true => String::new(),
            false => format!("; there are those of {}", named(&others)),
        };
        return format!("There is no snapshot of {}{hint}", scope.of());
    };
    let group = newest.record.source.group();
    match word {
        Word::Latest(_) => {
            format!("There is no snapshot {text:?}: of {group:?} there are {}", candidates.len())
        }
        Word::Of(day) => {
            let before = select(candidates, &Word::AsOf(DayOrTime::Day(*day)));
            let hint =
                before.map_or_else(String::new, |at| format!("; the last one before is {}", told(candidates[at])));
            format!("There is no snapshot of {group:?} of {day} (UTC){hint}")
        }
        _ => format!("There is no snapshot of {group:?} from {text} or earlier"),
    }
}

/// Returns a snapshot with what speaks against it; `may_be_meant` tells that of one that began at a time.
fn found(list: &SnapshotList, snapshot: Snapshot, may_be_meant: impl Fn(Timestamp) -> bool) -> Found {
    let time_of = |id: &SessionId| {
        let milliseconds = i64::try_from(id.unix_milliseconds()).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
    };
    let hidden = |id: &&SessionId| may_be_meant(time_of(id));
    let count = list.damaged_ids.iter().filter(hidden).count();
    let doubt = list.damaged_ids.iter().rfind(hidden).map(|id| {
        format!(
            "{} under names of newer snapshots than {} cannot be read, such as {:?}",
            units::count(count, "object"),
            snapshot.id.short(),
            layout::snapshot(id)
        )
    });
    let note = list.doubtful.contains(&snapshot.id).then(|| {
        let record = layout::forgotten(&snapshot.id);
        format!("The snapshot {} may have been forgotten: {record:?} cannot be read", snapshot.id.short())
    });
    let complete = if snapshot.is_incomplete() { complete_instead(list, &snapshot) } else { None };
    Found { snapshot, doubt, note, moment: None, complete }
}

/// Returns the complete snapshot that is the closest to an incomplete one: the last one before it, else the first after it.
fn complete_instead(list: &SnapshotList, of: &Snapshot) -> Option<Snapshot> {
    let is_meant = |other: &&Snapshot| other.record.source == of.record.source && !other.is_incomplete();
    let before = list.snapshots.iter().filter(|other| other.order() < of.order()).rfind(is_meant);
    before.or_else(|| list.snapshots.iter().filter(|other| other.order() > of.order()).find(is_meant)).cloned()
}
