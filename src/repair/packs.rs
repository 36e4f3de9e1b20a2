//! Saves what is good in damaged packs, replaces what is not from elsewhere, and takes the packs out of use.
//!
//! What must stay true:
//! - A damaged pack is marked by a tombstone, as a prune marks packs: from then on its chunks count as absent for backups.
//!   It is deleted by a prune, which does so only when every needed chunk of it stands elsewhere. Nothing is deleted
//!   here, so this can be stopped anywhere and makes nothing worse.
//! - It is marked before the session begins that saves its chunks, which therefore stores all of them anew.
//! - Every chunk that is saved is opened and compared with its id, and sealed anew.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::{ChunkWriter, Fate};
use crate::chunks::writing_session::WritingSession;
use crate::compress::Encoder;
use crate::error::Result;
use crate::hears::Hears;
use crate::id::PackId;
use crate::monitor::Counter;
use crate::repair::losses::{self, Losses, Lost};
use crate::repair::replace::{Replacer, Wanted};
use crate::repair::survey::{self, Chunk, DamagedPack, Survey};
use crate::repository::index_sync::Place;
use crate::repository::layout::Object;
use crate::repository::{Repository, objects, session};

/// How to repair.
#[derive(Clone, Default)]
pub struct RepairPacksOptions {
    /// Packs to look at; without any, all.
    pub packs: Vec<PackId>,
    /// Only tell what is damaged and what that costs.
    pub dry_run: bool,
    /// Other repositories that may have the same files.
    pub from: Vec<Arc<Repository>>,
    /// A directory that may have the same files under their paths.
    pub source: Option<PathBuf>,
}

/// A pack that was found damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its key.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// Its chunks.
    pub chunks: u64,
    /// Those of them that cannot be read from it.
    pub unreadable: u64,
}

impl From<&DamagedPack> for Damaged {
    fn from(damaged: &DamagedPack) -> Self {
        Self {
            object: damaged.key(),
            reason: damaged.reason.clone(),
            chunks: damaged.pack.chunks.len() as u64,
            unreadable: damaged.unreadable.len() as u64,
        }
    }
}

/// What a repair found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairPacksReport {
    /// Packs that were read.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Damaged ones.
    pub damaged: Vec<Damaged>,
    /// Packs that were marked: backups rely on them no more.
    pub packs_marked: u64,
    /// Chunks that were saved from damaged packs into new ones.
    pub chunks_saved: u64,
    /// Lost chunks that were stored again from elsewhere.
    pub chunks_replaced: u64,
    /// Bytes of packs and segments written.
    pub bytes_written: u64,
    /// Chunks of the damaged packs that can be had from nowhere; perhaps nothing needs them.
    pub chunks_lost: u64,
    /// What listed snapshots lack, at most `losses::LOSSES_NAMED_MAX` for each.
    pub lost: Vec<Lost>,
    /// How much that is.
    pub lost_count: u64,
}

/// Repairs packs. Needs a maintainer's key. Reads all packs that it is to look at.
///
/// Fails with [`crate::error::Error::Busy`] if a prune declared the session void: then it is to be run again.
pub fn run(repository: &Arc<Repository>, options: &RepairPacksOptions, hears: &Hears) -> Result<RepairPacksReport> {
    repository.access().require_maintainer("repair packs")?;
    let survey = survey::take(repository, &options.packs, hears)?;
    let mut report = RepairPacksReport {
        packs_read: survey.packs,
        bytes_read: survey.bytes,
        damaged: survey.damaged.iter().map(Damaged::from).collect(),
        ..RepairPacksReport::default()
    };
    let repair = Repair { repository, options, hears };
    let (losses, wanted) = repair.look_at_snapshots(&survey.lost)?;
    let is_needed = !survey.damaged.is_empty() || losses.count() > 0;
    let (losses, lost) = match options.dry_run || !is_needed {
        true => (losses, survey.lost),
        false => repair.mend(&survey, wanted, &mut report)?,
    };
    report.chunks_lost = lost.len() as u64;
    report.lost_count = losses.count();
    report.lost = losses.into_named();
    Ok(report)
}

struct Repair<'a> {
    repository: &'a Arc<Repository>,
    options: &'a RepairPacksOptions,
    hears: &'a Hears,
}

impl Repair<'_> {
    /// Finds out what lost chunks cost, and which files lack what.
    fn look_at_snapshots(&self, lost: &BTreeSet<Chunk>) -> Result<(Losses, Wanted)> {
        self.hears.monitor.phase("look at snapshots", None, None);
        let reader = ChunkReader::new(Arc::clone(self.repository));
        let snapshots = survey::snapshots(self.repository, self.hears)?;
        let mut wanted = Wanted::new(lost.clone());
        let losses = losses::find(&reader, &snapshots, lost, self.hears, &mut |component, entry, lacking| {
            wanted.add(component, entry, lacking);
        })?;
        Ok((losses, wanted))
    }

    /// Marks the damaged packs, then stores what can be had of them. Returns what is lost in the end.
    fn mend(
        &self,
        survey: &Survey,
        wanted: Wanted,
        report: &mut RepairPacksReport,
    ) -> Result<(Losses, BTreeSet<Chunk>)> {
        report.packs_marked = self.mark(&survey.damaged)?;
        let session = WritingSession::begin(self.repository, "repair", self.hears)?;
        self.store(&survey.damaged, session.writer(), wanted, report)?;
        let (session, written) = session.finish()?;
        report.bytes_written = written.stored_bytes;
        session.close("packs were repaired")?;
        let lost = survey::still_lost(self.repository, &survey.lost)?;
        Ok((self.look_at_snapshots(&lost)?.0, lost))
    }

    /// Marks the packs that no tombstone names yet. One that is missing too: so backups look up what they take over.
    fn mark(&self, damaged: &[DamagedPack]) -> Result<u64> {
        let marked = session::tombstones(self.repository)?.into_packs();
        let packs: Vec<PackId> = damaged.iter().map(|it| it.pack.id).filter(|pack| !marked.contains(pack)).collect();
        if !packs.is_empty() {
            session::bury(self.repository, &packs)?;
        }
        Ok(packs.len() as u64)
    }

    fn store(
        &self,
        damaged: &[DamagedPack],
        writer: &ChunkWriter,
        wanted: Wanted,
        report: &mut RepairPacksReport,
    ) -> Result<()> {
        self.hears.monitor.phase("save chunks", Some(damaged.len() as u64), None);
        let reader = ChunkReader::new(Arc::clone(self.repository));
        let mut encoder = Encoder::default();
        for pack in damaged {
            self.hears.check()?;
            report.chunks_saved += self.save(pack, &reader, writer, &mut encoder)?;
            self.hears.monitor.count(Counter::Entries, 1);
        }
        let mut replacer = Replacer::new(writer, wanted, self.hears);
        self.options.from.iter().try_for_each(|other| replacer.take_from(other))?;
        if let Some(directory) = &self.options.source {
            replacer.take_from_directory(directory)?;
        }
        report.chunks_replaced = replacer.replaced();
        Ok(())
    }

    /// Stores the readable chunks of a pack that the repository has nowhere else. Returns how many those are.
    fn save(
        &self,
        damaged: &DamagedPack,
        reader: &ChunkReader,
        writer: &ChunkWriter,
        encoder: &mut Encoder,
    ) -> Result<u64> {
        let kind = damaged.kind;
        let bytes = match objects::read(self.repository.backend(), Object::Pack(kind, damaged.pack.id), None) {
            Err(error) if error.is_damage() => return Ok(0),
            bytes => bytes?,
        };
        let mut saved = 0;
        for place in Place::all_in(kind, &damaged.pack) {
            if writer.holds(kind, &place.header.id)? {
                continue;
            }
            match reader.open_in(&place, &bytes) {
                Ok(plain) => saved += u64::from(writer.write(encoder, kind, &plain)?.1 == Fate::New),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(saved)
    }
}
