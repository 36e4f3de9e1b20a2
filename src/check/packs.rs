//! Index segments and packs: each segment is what its name says, each pack that it names is there and agrees with it.
//!
//! Unread, a pack costs two or three small requests: header, directory and footer, which authenticate each other and
//! must list what the index lists. A pack that is wrong in any way is read whole, to tell which of its chunks are lost.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::backend::Listed;
use crate::check::findings::{Coverage, Loss, ProblemKind};
use crate::check::subset::PackSelection;
use crate::check::{Aged, Check, ReadData};
use crate::chunks::pack_reader;
use crate::chunks::verify::{self, PackFault, PackFindings, PackVerifier};
use crate::error::{Error, Fault, Result};
use crate::format::BlobKind;
use crate::format::chunk::ChunkHeader;
use crate::format::countersignature::SoundPack;
use crate::format::key_slot::Role;
use crate::format::segment::{IndexedPack, Segment};
use crate::id::{ChunkId, DirectoryHash, PackId, SegmentId};
use crate::index::PackRecord;
use crate::monitor::Counter;
use crate::parallel;
use crate::repository::layout::{self, Object};
use crate::repository::objects;
use crate::sync::lock;
use crate::units::{count, format_bytes, sum_of_claims};

/// Chunks of packs that are looked at together; each costs 44 bytes.
const BATCH_CHUNKS_MAX: usize = 256 << 10;
/// Packs that are looked at together.
const BATCH_PACKS_MAX: usize = 1024;
/// Unknown objects that are named one by one.
const UNKNOWN_NAMED_MAX: usize = 20;

/// A pack to look at, as somebody says that it is.
struct Job {
    kind: BlobKind,
    pack: IndexedPack,
    told_by: Arc<str>,
}

/// What segments say, and what packs say of themselves.
#[derive(Default)]
struct Claims {
    /// Each pack with what is said that it holds; nobody's word is looked at twice.
    told: HashSet<(PackId, DirectoryHash)>,
    /// Words on sound packs that are not what these say, with what they say.
    lies: Vec<(Job, IndexedPack)>,
}

/// What is stored, and what of it is to be read.
struct Packs<'a> {
    stored: HashMap<PackId, (BlobKind, u64)>,
    selection: PackSelection,
    verifier: PackVerifier<'a>,
    claims: Mutex<Claims>,
}

impl Check<'_> {
    /// Looks at every segment and every pack.
    pub(super) fn check_packs(&self) -> Result<()> {
        let backend = self.repository.backend();
        // Segments before packs: a pack is written before it is named, so one that is named and not there is missing.
        let segments =
            [backend.list(&layout::segments(BlobKind::Data))?, backend.list(&layout::segments(BlobKind::Meta))?];
        let stored = self.stored_packs(&backend.list("")?);
        let sizes = stored.iter().map(|(id, (_, size))| (*id, *size));
        let selection = PackSelection::choose(self.options.read_data, sizes, &self.memory);
        let selected = stored.iter().filter(|(id, _)| selection.contains(id));
        let bytes = sum_of_claims(selected.map(|(_, (_, size))| *size));
        self.hears.monitor.phase("check packs", Some(stored.len() as u64), Some(bytes));
        self.begin_read_report(stored.len());
        let packs = Packs { stored, selection, verifier: PackVerifier::new(&self.reader), claims: Mutex::default() };
        let looked = self.look_at_all(&segments, &packs);
        // Also what a check verified that was stopped need not be read again.
        self.remember(&packs);
        looked
    }

    fn look_at_all(&self, segments: &[Vec<Listed>; 2], packs: &Packs<'_>) -> Result<()> {
        let mut seen = HashSet::new();
        for (kind, segments) in BlobKind::ALL.into_iter().zip(segments) {
            self.check_segments(kind, segments, packs, &mut seen)?;
        }
        self.expose(packs);
        self.findings.count(|counts| counts.packs = seen.len() as u64);
        self.check_unreferenced(packs, &seen)?;
        *self.packs_seen() = seen;
        Ok(())
    }

    /// Looks at a pack that the index did not name when packs were looked at.
    pub(super) fn check_new_pack(&self, pack: &PackRecord) -> Result<()> {
        if !self.packs_seen().insert(pack.id) {
            return Ok(());
        }
        match pack_reader::read_directory(self.repository, pack.kind, &pack.id, pack.len) {
            Ok(_) => Ok(()),
            Err(error) => self.unreadable(pack.id, &layout::pack(pack.kind, &pack.id), error),
        }
    }

    fn packs_seen(&self) -> MutexGuard<'_, HashSet<PackId>> {
        lock(&self.packs_seen)
    }

    fn remember(&self, packs: &Packs<'_>) {
        if self.options.read_data == ReadData::Nothing {
            return;
        }
        if let Err(error) = self.memory.save(self.repository, &packs.stored) {
            self.findings.note(&format!("What was verified cannot be remembered: {error}"));
        }
        self.countersign();
        if let ReadData::Aged(aged) = self.options.read_data {
            let coverage = self.coverage(packs, aged);
            self.findings.count_read(|read| read.coverage = Some(coverage));
        }
    }

    /// Says to those who cannot open content which packs they can rely on. Whoever may only read leaves it.
    fn countersign(&self) {
        if self.repository.access().data.is_none() {
            return;
        }
        let countersign = || {
            let known = self.repository.countersigned_packs()?.packs;
            let mut fresh: Vec<SoundPack> =
                lock(&self.sound).iter().filter(|pack| !known.contains(pack)).copied().collect();
            fresh.sort();
            self.repository.countersign(&fresh).map(|()| fresh.len() as u64)
        };
        match countersign() {
            Ok(packs) => self.findings.count_read(|read| read.packs_countersigned = packs),
            Err(error) => self.findings.note(&format!("Sound packs could not be countersigned: {error}")),
        }
    }

    fn coverage(&self, packs: &Packs<'_>, aged: Aged) -> Coverage {
        let mut coverage = Coverage { age_seconds_max: aged.age_seconds_max, ..Coverage::default() };
        for (id, (_, bytes)) in &packs.stored {
            coverage.bytes_total += bytes;
            let Some(age) = self.memory.age_seconds(id) else {
                coverage.packs_never += 1;
                continue;
            };
            coverage.oldest_seconds = coverage.oldest_seconds.max(Some(age));
            if age <= aged.age_seconds_max {
                coverage.packs_within += 1;
                coverage.bytes_within += bytes;
            }
        }
        coverage
    }

    fn begin_read_report(&self, packs_total: usize) {
        if self.options.read_data == ReadData::Nothing {
            return;
        }
        let access = self.repository.access();
        self.findings.count_read(|read| {
            read.packs_total = packs_total as u64;
            read.content_opened = access.data.is_some();
        });
        if access.data.is_none() {
            let role: Role = access.certificate.role;
            self.findings.note(&format!(
                "Data packs were compared with their names only: a key with the role {} cannot open their chunks",
                role.name()
            ));
        }
    }

    /// Sorts the listing of the whole repository; what mlvault did not make is noted.
    fn stored_packs(&self, objects: &[Listed]) -> HashMap<PackId, (BlobKind, u64)> {
        let (mut stored, mut unknown, mut probes) = (HashMap::new(), Vec::new(), 0);
        let (mut quarantined, mut quarantined_bytes) = (0, 0);
        for Listed { key, size, .. } in objects {
            match Object::parse(key) {
                Some(Object::Pack(kind, id)) => drop(stored.insert(id, (kind, *size))),
                // Read for themselves, each kind before what it rests on: see the order in `check`.
                Some(
                    Object::Config
                    | Object::KeySlot(_)
                    | Object::Segment(..)
                    | Object::Session(_)
                    | Object::Snapshot(_)
                    | Object::Forgotten(_)
                    | Object::Note(_)
                    | Object::Tombstone(_)
                    | Object::Countersignature(_)
                    | Object::Evidence(_)
                    | Object::Plan(_)
                    | Object::Shard(..)
                    | Object::LogEntry(_),
                ) => {}
                Some(Object::QuarantineRecord(_)) => quarantined += 1,
                Some(Object::Quarantined(..)) => quarantined_bytes += size,
                None if key.starts_with(layout::PROBE) => probes += 1,
                None => unknown.push(key),
            }
        }
        self.note_foreign(&unknown, probes);
        if quarantined > 0 {
            self.findings.note(&format!(
                "{} in quarantine ({}): {} says what each was",
                count(quarantined, "object"),
                format_bytes(quarantined_bytes),
                format_args!("{}*/record", layout::QUARANTINE)
            ));
        }
        stored
    }

    /// Names what stands between the objects of the repository. However much that is, it leaves room for other notes.
    fn note_foreign(&self, unknown: &[&String], probes: usize) {
        unknown.iter().take(UNKNOWN_NAMED_MAX).for_each(|key| self.findings.note(&format!("Unknown object {key}")));
        if let Some(more) = unknown.len().checked_sub(UNKNOWN_NAMED_MAX).filter(|more| *more > 0) {
            self.findings.note(&format!("{more} more unknown objects"));
        }
        if probes > 0 {
            self.findings.note(&format!(
                "{probes} objects below {} are left of a probe of the backend; they do no harm and may be removed",
                layout::PROBE
            ));
        }
    }

    fn check_segments(
        &self,
        kind: BlobKind,
        segments: &[Listed],
        packs: &Packs<'_>,
        seen: &mut HashSet<PackId>,
    ) -> Result<()> {
        let mut jobs = Vec::new();
        for batch in objects::batches(segments) {
            let fetched = parallel::map(batch, self.repository.backend().concurrency(), |listed| {
                self.guarded(|| self.fetch_segment(kind, listed))
            });
            for fetched in fetched {
                // Opened one after the other: what a segment unfolds to is not known before.
                let opened = fetched?.and_then(|(id, bytes)| self.open_segment(kind, id, &bytes));
                let Some((segment, told_by)) = opened else { continue };
                seen.extend(segment.packs.iter().map(|pack| pack.id));
                let is_new = |pack: &IndexedPack| lock(&packs.claims).told.insert((pack.id, pack.directory_hash()));
                let fresh = segment.packs.into_iter().filter(is_new);
                jobs.extend(fresh.map(|pack| Job { kind, pack, told_by: Arc::clone(&told_by) }));
                self.check_jobs(&mut jobs, packs, false)?;
            }
        }
        self.check_jobs(&mut jobs, packs, true)
    }

    /// Returns nothing for a segment that cannot be read, and for one that was replaced since it was listed.
    fn fetch_segment(&self, kind: BlobKind, listed: &Listed) -> Result<Option<(SegmentId, Bytes)>> {
        let Some(id) = layout::segment_of(kind, &listed.key) else { return Ok(None) };
        match objects::read(self.repository.backend(), Object::Segment(kind, id), Some(listed.size)) {
            Ok(bytes) => Ok(Some((id, bytes))),
            Err(error) if error.fault() == Some(Fault::NotFound) => Ok(None),
            Err(error) if error.is_damage() => {
                self.findings.problem(ProblemKind::Segment, &listed.key, &error.reason());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns a segment and who told it; nothing for one that is damaged.
    fn open_segment(&self, kind: BlobKind, id: SegmentId, bytes: &[u8]) -> Option<(Segment, Arc<str>)> {
        let key = layout::segment(kind, &id);
        match self.repository.open_segment(kind, &id, bytes) {
            Ok((segment, signer)) => {
                self.findings.count(|counts| counts.segments += 1);
                let told_by = format!("{key}, signed by the key {} ({})", signer.label, signer.slot);
                Some((segment, told_by.into()))
            }
            Err(error) => {
                self.findings.problem(ProblemKind::Segment, &key, &error.to_string());
                None
            }
        }
    }

    /// Looks at the packs collected so far, if there are enough of them or no more will come.
    fn check_jobs(&self, jobs: &mut Vec<Job>, packs: &Packs<'_>, are_last: bool) -> Result<()> {
        let chunks: usize = jobs.iter().map(|job| job.pack.chunks.len()).sum();
        if !are_last && jobs.len() < BATCH_PACKS_MAX && chunks < BATCH_CHUNKS_MAX {
            return Ok(());
        }
        let threads = self.repository.thread_plan().fetching;
        let checked = parallel::map(jobs, threads, |job| self.guarded(|| self.check_pack(job, packs)));
        jobs.clear();
        checked.into_iter().collect()
    }

    fn check_pack(&self, job: &Job, packs: &Packs<'_>) -> Result<()> {
        let Job { kind, pack, .. } = job;
        let key = layout::pack(*kind, &pack.id);
        self.hears.monitor.count(Counter::Entries, 1);
        let Some((_, size)) = packs.stored.get(&pack.id).filter(|(stored_kind, _)| stored_kind == kind) else {
            self.missing(pack.id, &key);
            return Ok(());
        };
        if *size == pack.len && packs.selection.contains(&pack.id) {
            return self.read_pack(job, None, packs);
        }
        let directory = pack_reader::read_directory(self.repository, *kind, &pack.id, *size);
        let fault = match *size == pack.len {
            true => verify::directory_fault(pack, directory)?,
            false => Some(PackFault::Length { found: *size, indexed: pack.len }),
        };
        if fault.is_none() { Ok(()) } else { self.read_pack(job, fault, packs) }
    }

    /// Returns whether a pack is sound in itself, and says something else of itself than the segment.
    fn is_lie(&self, job: &Job, directory: &Result<IndexedPack>, packs: &Packs<'_>) -> bool {
        let Ok(own) = directory else { return false };
        let is_lie = (own.session, &own.chunks, own.len) != (job.pack.session, &job.pack.chunks, job.pack.len);
        if is_lie {
            let told = Job { kind: job.kind, pack: job.pack.clone(), told_by: Arc::clone(&job.told_by) };
            lock(&packs.claims).lies.push((told, own.clone()));
        }
        is_lie
    }

    /// Names who says of sound packs what is not so. Once every segment was read: what an honest one says of the same pack
    /// is not lost by a lie.
    fn expose(&self, packs: &Packs<'_>) {
        let Claims { told, lies } = std::mem::take(&mut *lock(&packs.claims));
        for (Job { kind, pack, told_by }, own) in &lies {
            let is_told = told.contains(&(own.id, own.directory_hash()));
            let there: HashSet<(u64, &ChunkHeader)> = own.located_chunks().collect();
            let ids: HashSet<&ChunkId> = own.chunks.iter().map(|chunk| &chunk.id).collect();
            let is_lost = |(offset, chunk): &(u64, &ChunkHeader)| match is_told {
                true => !ids.contains(&chunk.id),
                false => !there.contains(&(*offset, chunk)),
            };
            let lost = pack.located_chunks().filter(is_lost).map(|(_, chunk)| chunk.id).collect();
            let key = layout::pack(*kind, &pack.id);
            let reason = format!("what it says of {key} is not what this pack says of itself");
            self.findings.false_word(pack.id, told_by, &reason, Loss::Chunks(lost));
        }
    }

    /// A prune may have removed the pack, and its name may outlive it: that is damage only if it is needed.
    fn missing(&self, id: PackId, key: &str) {
        self.memory.forget(&id);
        self.findings.missing_pack(id, key);
    }

    /// Takes note of a pack that is missing or damaged. Only a backend that cannot be reached ends the check.
    fn unreadable(&self, id: PackId, key: &str, error: Error) -> Result<()> {
        if error.fault() == Some(Fault::NotFound) {
            self.missing(id, key);
        } else if error.is_damage() {
            self.memory.forget(&id);
            self.findings.bad_pack(id, key, &error.reason(), Loss::All);
        } else {
            return Err(error);
        }
        Ok(())
    }

    /// Reads a pack whole and adds it to the bad ones if anything is wrong; `fault` is what is known already.
    fn read_pack(&self, job: &Job, fault: Option<PackFault>, packs: &Packs<'_>) -> Result<()> {
        let Job { kind, pack, .. } = job;
        let key = layout::pack(*kind, &pack.id);
        let size = packs.stored.get(&pack.id).map_or(pack.len, |(_, size)| *size);
        let (read, mut findings) = match packs.verifier.read(*kind, pack, size) {
            Err(error) => return self.unreadable(pack.id, &key, error),
            Ok(found) => found,
        };
        self.count_read_pack(read);
        if findings.fault.as_ref().is_some_and(|fault| !fault.is_of_bytes()) {
            let directory = pack_reader::read_directory(self.repository, *kind, &pack.id, size);
            if self.is_lie(job, &directory, packs) {
                return Ok(());
            }
        }
        // What the bytes tell weighs more than what was known before they were read.
        findings.fault = match findings.fault {
            Some(found) if found.is_of_bytes() => Some(found),
            found => fault.or(found),
        };
        let Some(reason) = findings.reason() else {
            self.memory.verified(pack.id, findings.opened);
            if findings.opened {
                lock(&self.sound).push(SoundPack { pack: pack.id, directory: pack.directory_hash() });
            }
            return Ok(());
        };
        self.memory.forget(&pack.id);
        self.findings.bad_pack(pack.id, &key, &reason, loss_of(pack, findings));
        Ok(())
    }

    fn count_read_pack(&self, bytes: u64) {
        self.hears.monitor.count(Counter::Bytes, bytes);
        self.hears.monitor.count(Counter::BytesTransferred, bytes);
        if self.options.read_data != ReadData::Nothing {
            self.findings.count_read(|read| {
                read.packs += 1;
                read.bytes += bytes;
            });
        }
    }

    /// Packs that no segment names are no damage; those that are to be read must still be what their names say.
    fn check_unreferenced(&self, packs: &Packs<'_>, seen: &HashSet<PackId>) -> Result<()> {
        let mut unreferenced: Vec<_> = packs.stored.iter().filter(|(id, _)| !seen.contains(id)).collect();
        unreferenced.sort();
        let bytes = sum_of_claims(unreferenced.iter().map(|(_, (_, size))| *size));
        if !unreferenced.is_empty() {
            self.findings.count(|counts| {
                (counts.unreferenced_packs, counts.unreferenced_bytes) = (unreferenced.len() as u64, bytes);
            });
            self.findings.note(&format!(
                "{} packs ({}) are in no index segment, as an interrupted backup leaves them; `mlvault repair index` \
                 makes their chunks known",
                unreferenced.len(),
                format_bytes(bytes)
            ));
        }
        unreferenced.retain(|(id, _)| packs.selection.contains(id));
        let threads = self.repository.backend().concurrency();
        let read = parallel::map(&unreferenced, threads, |(id, (kind, size))| {
            self.guarded(|| self.read_unreferenced(*kind, **id, *size, packs))
        });
        read.into_iter().collect()
    }

    fn read_unreferenced(&self, kind: BlobKind, id: PackId, size: u64, packs: &Packs<'_>) -> Result<()> {
        self.hears.monitor.count(Counter::Entries, 1);
        match pack_reader::read_directory(self.repository, kind, &id, size) {
            Ok(pack) => self.read_pack(&Job { kind, pack, told_by: "itself".into() }, None, packs),
            Err(error) if error.fault() == Some(Fault::NotFound) => Ok(()),
            Err(error) => self.unreadable(id, &layout::pack(kind, &id), error),
        }
    }
}

/// Returns what a bad pack costs. Chunks that were not opened are lost if the bytes are not what the pack's name says.
fn loss_of(pack: &IndexedPack, findings: PackFindings) -> Loss {
    let bytes_are_wrong = findings.fault.as_ref().is_some_and(PackFault::is_of_bytes);
    if !findings.opened {
        return if bytes_are_wrong { Loss::All } else { Loss::Chunks(HashSet::new()) };
    }
    let different = pack.chunks.iter().map(|chunk| chunk.id).collect::<HashSet<ChunkId>>().len();
    let all = !findings.unreadable.is_empty() && findings.unreadable.len() == different;
    if all { Loss::All } else { Loss::Chunks(findings.unreadable) }
}
