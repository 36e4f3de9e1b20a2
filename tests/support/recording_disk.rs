//! A disk that notes every step, and what a disk may hold after a loss of power in between.
//!
//! What must stay true: [`Books`] promises no more than POSIX does. The content of a file is safe once the file was
//! synced after it was written; a name, or that it is gone, is safe once its directory was synced. All else may be there,
//! not be there, or be there without what came before it. A rename is two changes, in two directories: the new name may be
//! safe while the old one comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mlvault::backend::local::disk::{Disk, RealDisk};
use rustix::io::Errno;

use crate::simulator::world::Dice;

/// One step, with paths below the directory that is watched.
#[derive(Debug, Clone)]
pub enum Step<P> {
    MakeDirectory(PathBuf),
    CreateFile(PathBuf),
    Write(PathBuf, Bytes),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    RemoveFile(PathBuf),
    SyncDirectory(PathBuf),
    /// Somebody was told something.
    Told(P),
}

/// A real disk below one directory, and what was done to it.
#[derive(Debug)]
pub struct RecordingDisk<P> {
    base: PathBuf,
    renames: bool,
    steps: Mutex<Vec<Step<P>>>,
}

impl<P: std::fmt::Debug + Clone + Send + 'static> RecordingDisk<P> {
    /// Watches what happens below `base`. Without `renames` it is one that cannot rename without replacing.
    pub fn new(base: &Path, renames: bool) -> Arc<Self> {
        Arc::new(Self { base: base.to_owned(), renames, steps: Mutex::default() })
    }

    /// Notes that somebody was told something.
    pub fn tell(&self, what: P) {
        self.steps.lock().unwrap().push(Step::Told(what));
    }

    /// Returns what happened.
    pub fn steps(&self) -> Vec<Step<P>> {
        self.steps.lock().unwrap().clone()
    }

    fn below(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.base).expect("everything happens below the base").to_owned()
    }

    /// Does a step and notes it if it was done. One at a time, so that the order of the notes is that of the steps.
    fn step<T>(&self, step: Step<P>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut steps = self.steps.lock().unwrap();
        let done = act()?;
        steps.push(step);
        Ok(done)
    }
}

impl<P: std::fmt::Debug + Clone + Send + 'static> Disk for RecordingDisk<P> {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.step(Step::MakeDirectory(self.below(path)), || RealDisk.make_directory(path))
    }

    fn create_file(&self, path: &Path) -> io::Result<File> {
        self.step(Step::CreateFile(self.below(path)), || RealDisk.create_file(path))
    }

    fn write(&self, path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let step = Step::Write(self.below(path), Bytes::copy_from_slice(bytes));
        self.step(step, || RealDisk.write(path, file, bytes))
    }

    fn sync_file(&self, path: &Path, _: &File) -> io::Result<()> {
        // What it promises counts only in the books, so the tests need not wait for a real disk.
        self.step(Step::SyncFile(self.below(path)), || Ok(()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.renames {
            return Err(Errno::INVAL.into());
        }
        self.step(Step::Rename(self.below(from), self.below(to)), || RealDisk.rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Step::Link(self.below(from), self.below(to)), || RealDisk.link(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step(Step::RemoveFile(self.below(path)), || RealDisk.remove_file(path))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.step(Step::SyncDirectory(self.below(path)), || Ok(()))
    }
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Directory,
    File(usize),
}

/// A file's content: all of it, and how much of it is safe.
#[derive(Debug, Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    safe_len: usize,
}

/// What became of content that was not safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tear {
    Whole,
    Nothing,
    Half,
    Zeros,
    Garbage,
}

const TEARS: [Tear; 5] = [Tear::Whole, Tear::Nothing, Tear::Half, Tear::Zeros, Tear::Garbage];

/// What a disk may hold at some moment.
#[derive(Debug, Default)]
pub struct Books {
    /// What each name led to since its directory was synced, from the oldest to the newest; none where it led to nothing.
    names: BTreeMap<PathBuf, Vec<Option<Entry>>>,
    contents: Vec<Content>,
}

/// One outcome of a loss of power: what each name leads to, and what is left of each file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome(BTreeMap<PathBuf, (Entry, Tear)>);

impl Books {
    /// Enters a step.
    pub fn enter<P>(&mut self, step: &Step<P>) {
        match step {
            Step::MakeDirectory(path) => self.name(path, Some(Entry::Directory)),
            Step::CreateFile(path) => {
                self.contents.push(Content::default());
                self.name(path, Some(Entry::File(self.contents.len() - 1)));
            }
            Step::Write(path, bytes) => self.content(path).bytes.extend_from_slice(bytes),
            Step::SyncFile(path) => {
                let content = self.content(path);
                content.safe_len = content.bytes.len();
            }
            Step::Rename(from, to) => {
                let entry = self.newest(from);
                self.name(to, entry);
                self.name(from, None);
            }
            Step::Link(from, to) => {
                let entry = self.newest(from);
                self.name(to, entry);
            }
            Step::RemoveFile(path) => self.name(path, None),
            Step::SyncDirectory(directory) => {
                let within = self.names.iter_mut().filter(|(path, _)| path.parent() == Some(directory));
                within.for_each(|(_, entries)| drop(entries.drain(..entries.len() - 1)));
            }
            Step::Told(_) => {}
        }
    }

    fn name(&mut self, path: &Path, entry: Option<Entry>) {
        self.names.entry(path.to_owned()).or_insert_with(|| vec![None]).push(entry);
    }

    fn newest(&self, path: &Path) -> Option<Entry> {
        *self.names[path].last().unwrap()
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        match self.newest(path) {
            Some(Entry::File(number)) => &mut self.contents[number],
            other => panic!("{path:?} is {other:?}"),
        }
    }

    /// Returns outcomes of a loss of power now: the extreme ones, those where just one change came through or just one did
    /// not, and some that dice decide.
    pub fn outcomes(&self, dice: &mut Dice, rolls: usize) -> BTreeSet<Outcome> {
        let open: Vec<&PathBuf> = self.names.iter().filter(|(_, all)| all.len() > 1).map(|(path, _)| path).collect();
        let mut outcomes = BTreeSet::new();
        for tear in TEARS {
            outcomes.insert(self.outcome(tear, |_, all| all.len() - 1));
        }
        outcomes.insert(self.outcome(Tear::Nothing, |_, _| 0));
        // Everything that was made and nothing that was removed, and the other way round.
        for gone in [false, true] {
            outcomes.insert(self.outcome(Tear::Whole, |_, all| {
                if all.last().is_some_and(|last| last.is_none() == gone) { all.len() - 1 } else { 0 }
            }));
        }
        for one in &open {
            for tear in [Tear::Whole, Tear::Nothing] {
                outcomes.insert(self.outcome(tear, |path, all| if path == *one { all.len() - 1 } else { 0 }));
                outcomes.insert(self.outcome(tear, |path, all| if path == *one { 0 } else { all.len() - 1 }));
            }
        }
        for _ in 0..rolls {
            let tear = TEARS[dice.below(TEARS.len())];
            outcomes.insert(self.outcome(tear, |_, all| dice.below(all.len())));
        }
        outcomes
    }

    /// Returns the outcome in which each name leads to the one of its entries that `chosen` says.
    fn outcome(&self, tear: Tear, mut chosen: impl FnMut(&PathBuf, &[Option<Entry>]) -> usize) -> Outcome {
        let mut outcome: BTreeMap<PathBuf, (Entry, Tear)> = BTreeMap::new();
        // Parents come first: what is in a directory that is not there is nowhere.
        for (path, all) in &self.names {
            let index = if all.len() > 1 { chosen(path, all) } else { 0 };
            let is_reachable = |parent: &Path| parent == Path::new("") || outcome.contains_key(parent);
            let Some(entry) = all[index].filter(|_| path.parent().is_none_or(is_reachable)) else { continue };
            let is_safe = match entry {
                Entry::Directory => true,
                Entry::File(number) => self.contents[number].safe_len == self.contents[number].bytes.len(),
            };
            outcome.insert(path.clone(), (entry, if is_safe { Tear::Whole } else { tear }));
        }
        Outcome(outcome)
    }

    /// Returns the content of a file that is there in an outcome.
    pub fn read(&self, outcome: &Outcome, path: &Path) -> Option<Vec<u8>> {
        match outcome.0.get(path)? {
            (Entry::File(number), tear) => Some(self.contents[*number].after(*tear)),
            (Entry::Directory, _) => None,
        }
    }

    /// Makes an outcome real below a directory.
    pub fn make(&self, outcome: &Outcome, base: &Path) {
        for (path, (entry, tear)) in &outcome.0 {
            match entry {
                Entry::Directory => fs::create_dir(base.join(path)).unwrap(),
                Entry::File(number) => fs::write(base.join(path), self.contents[*number].after(*tear)).unwrap(),
            }
        }
    }
}

impl Outcome {
    /// Returns the outcome without what is in directories of this name, for telling outcomes apart that look the same.
    pub fn without(&self, name: &str) -> Self {
        let is_in = |path: &Path| path.parent().is_some_and(|parent| parent.ends_with(name));
        Self(self.0.iter().filter(|(path, _)| !is_in(path)).map(|(path, found)| (path.clone(), *found)).collect())
    }
}

impl Content {
    fn after(&self, tear: Tear) -> Vec<u8> {
        let (safe, rest) = self.bytes.split_at(self.safe_len);
        let rest = match tear {
            Tear::Whole => rest.to_vec(),
            Tear::Nothing => Vec::new(),
            Tear::Half => rest[..rest.len() / 2].to_vec(),
            Tear::Zeros => vec![0; rest.len()],
            Tear::Garbage => rest.iter().map(|byte| byte ^ 0x5A).collect(),
        };
        [safe, &rest].concat()
    }
}
