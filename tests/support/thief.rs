//! Somebody who stole a key and writes a program of their own, over credentials that may create objects and no more.
//!
//! What must stay true: a forgery is as good as a thief can make it: sealed, signed with the stolen key, and bound to the
//! names that it is put under.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use mlvault::chunks::reader::ChunkReader;
use mlvault::chunks::writer::ChunkWriter;
use mlvault::compress::Codec;
use mlvault::crypto::random;
use mlvault::format::BlobKind;
use mlvault::format::chunk::{ChunkHeader, OVERHEAD};
use mlvault::format::countersignature::{Countersignature, SoundPack};
use mlvault::format::evidence::{self, EvidenceRecord, Says};
use mlvault::format::forgotten::{self, ForgottenRecord};
use mlvault::format::log::{self, LogRecord, LoggedObject, What};
use mlvault::format::object::{self, ObjectKind};
use mlvault::format::pack::{PackBuilder, PackHeader, directory_hash};
use mlvault::format::segment::{IndexedPack, Segment};
use mlvault::format::session_keys::{SessionKeys, SessionName};
use mlvault::format::snapshot::{Completeness, Component, SnapshotRecord, SourceRecord, Statistics};
use mlvault::format::tombstone::Tombstone;
use mlvault::format::tree::EntryKind;
use mlvault::hears::Hears;
use mlvault::id::{CountersignatureId, EvidenceId, ObjectHash, PackId, SessionId, TombstoneId, TreeHash};
use mlvault::repository::layout::Object;
use mlvault::repository::{Repository, layout, session};
use mlvault::trees::reader::TreeReader;
use mlvault::trees::writer::TreeWriter;
use std::sync::Arc;

/// What is forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgery {
    /// A pack of garbage under the names of all data chunks, larger than any other, and a segment that names it.
    GarbagePack,
    /// The same for trees.
    GarbageMetaPack,
    /// A segment that says that all chunks are in a pack that is not there.
    SegmentWithoutPack,
    /// A segment that says of honest packs that they hold other chunks.
    SegmentOfHonestPacks,
    /// Garbage under the names of chunks that an honest writer will want to store.
    PoisonedChunks,
    /// The same, and a countersignature of it.
    PoisonedAndCountersigned,
    /// A snapshot of the honest source in which an unchanged file has other content.
    PlantedSnapshot,
    /// A tombstone of long ago for all packs.
    Tombstone,
    /// Records that every snapshot is forgotten.
    Forgotten,
    /// A byte under `forgotten/` for every session.
    ForgottenByte,
    /// Announcements of sessions of 1970 and 2106.
    Sessions,
    /// Entries of the log at its end, far ahead and at the last number, about objects that are not there and with a history
    /// that never was; and a byte in between.
    LogEntries,
}

/// All of them.
pub const FORGERIES: [Forgery; 12] = [
    Forgery::GarbagePack,
    Forgery::GarbageMetaPack,
    Forgery::SegmentWithoutPack,
    Forgery::SegmentOfHonestPacks,
    Forgery::PoisonedChunks,
    Forgery::PoisonedAndCountersigned,
    Forgery::PlantedSnapshot,
    Forgery::Tombstone,
    Forgery::Forgotten,
    Forgery::ForgottenByte,
    Forgery::Sessions,
    Forgery::LogEntries,
];

/// Returns the record of a snapshot of one component that nobody backed up.
pub fn forged_record(started: Timestamp, component: Component) -> SnapshotRecord {
    SnapshotRecord {
        started,
        finished: started,
        host: "evil".to_owned(),
        program: "evil".to_owned(),
        source: SourceRecord::Paths { paths: vec!["/".to_owned()] },
        tags: Vec::new(),
        parent: None,
        seen: Vec::new(),
        components: vec![component],
        completeness: Completeness::Complete,
        statistics: Statistics::default(),
        problems: Vec::new(),
        problem_count: 0,
        accepted: Vec::new(),
        deployment: None,
        copied_from: None,
        rewritten_from: None,
        coverage: None,
        more: BTreeMap::new(),
    }
}

/// Somebody with a stolen key and a program of their own.
pub struct Thief {
    repository: Arc<Repository>,
    session: SessionKeys,
}

impl Thief {
    /// Begins with a repository that is open with the stolen key.
    pub fn new(repository: Arc<Repository>) -> Self {
        let id = SessionId::new(Timestamp::now().as_millisecond() as u64, random());
        let name = SessionName { repository: repository.id(), session: id, slot: repository.access().certificate.slot };
        let session = SessionKeys::create(name, repository.keys(), &repository.config().data_public_key);
        Self { repository, session }
    }

    fn create(&self, key: &str, bytes: impl Into<Bytes>) {
        // What is there stays: the thief's credentials may only create.
        let _ = self.repository.backend().create(key, bytes.into());
    }

    fn honest_chunks(&self, kind: BlobKind) -> Vec<ChunkHeader> {
        let mut chunks = Vec::new();
        let visit = &mut |_: &_, _, chunk: &ChunkHeader| {
            chunks.push(*chunk);
            Ok(())
        };
        self.repository.index().for_each_chunk(kind, visit).unwrap();
        chunks
    }

    /// Stores garbage under the names of chunks. Returns the pack.
    fn garbage_pack(&self, kind: BlobKind, chunks: &[ChunkHeader]) -> IndexedPack {
        let header = PackHeader { kind, repository: self.repository.id(), session: self.session.header };
        let mut builder = PackBuilder::new(header, 0);
        // Larger than what is honest, in case somebody prefers that.
        for chunk in chunks {
            let stored_len = chunk.stored_len + 100;
            builder.push(ChunkHeader { stored_len, ..*chunk }, &vec![0xEE; stored_len as usize]);
        }
        let pack = builder.finish(&self.session.meta);
        let id = pack.id();
        let len = pack.bytes.len() as u64;
        self.create(&layout::pack(kind, &id), pack.bytes);
        IndexedPack { id, session: self.session.header, len, is_vouched: true, chunks: pack.chunks }
    }

    fn name(&self, kind: BlobKind, packs: Vec<IndexedPack>) {
        let (id, bytes) = self.repository.seal_segment(&Segment { kind, packs });
        self.create(&layout::segment(kind, &id), bytes);
    }

    fn poison(&self, content: &[u8]) -> IndexedPack {
        let chunker = self.repository.chunker();
        let class = mlvault::chunker::ContentClass::Binary;
        let (mut rest, mut chunks) = (content, Vec::new());
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunker.cut(class, rest));
            let id = self.repository.keys().chunk_id(BlobKind::Data as u8, chunk);
            let stored_len = (chunk.len() + OVERHEAD) as u32;
            let plain_len = chunk.len() as u32;
            chunks.push(ChunkHeader { id, plain_len, stored_len, codec: Codec::Raw, filter: 0 });
            rest = after;
        }
        let pack = self.garbage_pack(BlobKind::Data, &chunks);
        self.name(BlobKind::Data, vec![pack.clone()]);
        pack
    }

    fn countersign(&self, packs: &[&IndexedPack]) {
        let packs = packs.iter().map(|pack| SoundPack { pack: pack.id, directory: directory_hash(&pack.chunks) });
        let id = CountersignatureId::new(0, random());
        let record = Countersignature { at: Timestamp::UNIX_EPOCH, packs: packs.collect() };
        let body = record.sign(self.repository.id(), id, &self.repository.access().signer());
        self.seal(ObjectKind::Countersignature, &layout::countersignature(&id), &body);
    }

    fn seal(&self, kind: ObjectKind, key: &str, body: &[u8]) {
        let name = key.rsplit('/').next().unwrap();
        let sealed = object::seal(self.repository.keys(), self.repository.id(), kind, name, body);
        self.create(key, sealed);
    }

    /// Says of honest packs that their chunks are those of others.
    fn lie_about_packs(&self) {
        for kind in BlobKind::ALL {
            let mut chunks = self.honest_chunks(kind);
            chunks.reverse();
            let lies = self.repository.index().packs(kind).unwrap().into_iter().map(|pack| {
                let mut room = pack.len.saturating_sub(2000);
                let fits = |chunk: &&ChunkHeader| {
                    let fits = room >= u64::from(chunk.stored_len);
                    room -= if fits { u64::from(chunk.stored_len) } else { 0 };
                    fits
                };
                let chunks = chunks.iter().filter(fits).copied().collect();
                IndexedPack { id: pack.id, session: pack.session, len: pack.len, is_vouched: true, chunks }
            });
            self.name(kind, lies.collect());
        }
    }

    /// Plants a snapshot of the honest source in which a large file has the content of another one.
    fn plant_snapshot(&self) {
        let list = self.repository.list_snapshots().unwrap();
        let mut record = list.snapshots.last().unwrap().record.clone();
        let reader = ChunkReader::new(Arc::clone(&self.repository));
        let component = &record.components[0];
        let entries: Vec<_> =
            TreeReader::open(&reader, &component.name, &component.root).unwrap().map(Result::unwrap).collect();
        let contents = entries.iter().filter_map(|entry| match &entry.kind {
            EntryKind::File(content) if content.hard_link.is_none() && content.size > 0 => Some(content.clone()),
            _ => None,
        });
        let evil = contents.max_by_key(|content| content.size).unwrap();
        let Ok(begun) = session::Session::begin(&self.repository, "backup") else { return };
        let begun = Arc::new(begun);
        let writer = ChunkWriter::new(Arc::clone(&self.repository), Arc::clone(&begun), &Hears::nobody());
        let mut planted = TreeWriter::new(&writer);
        for mut entry in entries {
            if let EntryKind::File(content) = &mut entry.kind
                && content.hard_link.is_none()
                && content.size == evil.size
            {
                // The size stays, so that the file looks unchanged.
                (content.chunks, content.digest, content.indirect) = (evil.chunks.clone(), evil.digest, evil.indirect);
            }
            planted.push(&entry).unwrap();
        }
        let summary = planted.finish().unwrap();
        writer.finish().unwrap();
        record.components[0].root = summary.root;
        (record.started, record.finished) = (Timestamp::now(), Timestamp::now());
        let _ = begun.commit(&self.repository, record);
    }

    fn lie_in_log(&self) {
        let end = self.repository.read_log().unwrap().size();
        self.create(&Object::LogEntry(end + 1).key(), &b"x"[..]);
        for number in [end, end + 2, end + 1000, u64::MAX] {
            let peaks = (0..number.count_ones()).map(|peak| TreeHash::from_bytes([peak as u8; 32]));
            forge_log_entry(&self.repository, number, peaks.collect(), Timestamp::UNIX_EPOCH);
        }
    }

    fn bury_everything(&self) {
        let packs: Vec<PackId> = BlobKind::ALL
            .into_iter()
            .flat_map(|kind| session::stored_packs(&self.repository, kind).unwrap().into_keys())
            .collect();
        let id = TombstoneId::new(0, random());
        let body = Tombstone { packs }.sign(self.repository.id(), id, &self.repository.access().signer());
        self.seal(ObjectKind::Tombstone, &layout::tombstone(&id), &body);
    }

    fn forget_everything(&self) {
        let record =
            ForgottenRecord { at: Timestamp::UNIX_EPOCH, reason: "a thief".to_owned(), program: String::new() };
        for snapshot in self.repository.list_snapshots().unwrap().snapshots {
            let body =
                forgotten::encode(self.repository.id(), snapshot.id, &record, &self.repository.access().signer());
            self.seal(ObjectKind::Forgotten, &layout::forgotten(&snapshot.id), &body);
        }
    }

    /// Forges one thing; `known_later` is content that somebody honest will store.
    pub fn forge(&self, forgery: Forgery, known_later: &[u8]) {
        match forgery {
            Forgery::GarbagePack | Forgery::GarbageMetaPack => {
                let kind = if forgery == Forgery::GarbagePack { BlobKind::Data } else { BlobKind::Meta };
                let pack = self.garbage_pack(kind, &self.honest_chunks(kind));
                self.name(kind, vec![pack]);
            }
            Forgery::SegmentWithoutPack => {
                for kind in BlobKind::ALL {
                    let (id, chunks) = (PackId::from_bytes(random()), self.honest_chunks(kind));
                    let session = self.session.header;
                    self.name(kind, vec![IndexedPack { id, session, len: 100 << 20, is_vouched: true, chunks }]);
                }
            }
            Forgery::SegmentOfHonestPacks => self.lie_about_packs(),
            Forgery::PoisonedChunks => drop(self.poison(known_later)),
            Forgery::PoisonedAndCountersigned => {
                let pack = self.poison(known_later);
                self.countersign(&[&pack]);
            }
            Forgery::PlantedSnapshot => self.plant_snapshot(),
            Forgery::Tombstone => self.bury_everything(),
            Forgery::Forgotten => self.forget_everything(),
            Forgery::ForgottenByte => {
                for object in self.repository.backend().list(layout::SNAPSHOTS).unwrap() {
                    let id = layout::snapshot_of(&object.key).unwrap();
                    self.create(&layout::forgotten(&id), &b"x"[..]);
                }
            }
            Forgery::LogEntries => self.lie_in_log(),
            Forgery::Sessions => {
                for milliseconds in [0, 4_291_747_200_000] {
                    let id = SessionId::new(milliseconds, random());
                    self.create(&layout::session(&id), &b"no record"[..]);
                }
            }
        }
    }
}

/// Writes evidence that nobody should believe, as whoever holds the repository's key could.
pub fn forge_evidence(repository: &Repository, at: Timestamp, says: Says) -> EvidenceId {
    let id = EvidenceId::new(at.as_millisecond() as u64, random());
    let record = EvidenceRecord { at, host: "thief".to_owned(), program: String::new(), says };
    let body = evidence::encode(repository.id(), id, &record, &repository.access().signer());
    let sealed = object::seal(repository.keys(), repository.id(), ObjectKind::Evidence, &id.to_string(), &body);
    repository.backend().create(&layout::evidence(&id), sealed.into()).unwrap();
    id
}

/// Appends an entry as whoever holds the repository's key could who writes a program of their own: about a snapshot that was
/// never there, and its record of forgetting.
pub fn forge_log_entry(repository: &Repository, number: u64, before: Vec<TreeHash>, at: Timestamp) {
    let id = SessionId::new(0, random());
    let object = |what, key| LoggedObject { what, key, hash: ObjectHash::from_bytes([7; 32]), about: None };
    let objects = vec![object(What::Snapshot, layout::snapshot(&id)), object(What::Forgotten, layout::forgotten(&id))];
    put_log_entry(repository, number, &LogRecord { at, program: String::new(), before, late: false, objects });
}

/// Appends an entry that is as long as one can be.
pub fn forge_long_log_entry(repository: &Repository, number: u64) {
    let program = " ".repeat(ObjectKind::LogEntry.body_len_max() - 2000);
    let record = LogRecord { at: Timestamp::UNIX_EPOCH, program, before: Vec::new(), late: false, objects: Vec::new() };
    put_log_entry(repository, number, &record);
}

fn put_log_entry(repository: &Repository, number: u64, record: &LogRecord) {
    let body = log::encode(repository.id(), number, record, &repository.access().signer());
    let key = Object::LogEntry(number).key();
    let name = key.rsplit('/').next().unwrap();
    let sealed = object::seal(repository.keys(), repository.id(), ObjectKind::LogEntry, name, &body);
    let _ = repository.backend().create(&key, sealed.into());
}
