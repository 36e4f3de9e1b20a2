//! What a chunk is to whatever refers to it: node, list or content, and that none of these hides another.

use std::sync::Arc;

use mlvault::chunks::reader::ChunkReader;
use mlvault::chunks::writer::ChunkWriter;
use mlvault::format::BlobKind;
use mlvault::format::snapshot::SnapshotRecord;
use mlvault::format::tree::{self, ChunkRef, Entry, EntryKind, FileContent, Metadata};
use mlvault::hears::Hears;
use mlvault::id::{ChunkId, Digest, SessionId};
use mlvault::prune::{self, PruneLimits, PruneOptions};
use mlvault::repository::Repository;
use mlvault::repository::session::Session;
use mlvault::trees::earlier::is_held;
use mlvault::trees::writer::TreeWriter;
use tempfile::TempDir;

use crate::support::repo::{Vault, fill, tree};

fn meta_file(plain: &[u8], id: ChunkId) -> FileContent {
    FileContent {
        size: plain.len() as u64,
        digest: Digest::from_bytes(*blake3::hash(plain).as_bytes()),
        chunks: vec![ChunkRef { id, len: plain.len() as u32 }],
        kind: BlobKind::Meta,
        indirect: false,
        sparse: false,
        racy: false,
        hard_link: None,
    }
}

/// Commits a snapshot, older than any other, of one file whose content is what another snapshot has as a tree node.
fn commit_node_as_content(repository: &Arc<Repository>, like: &SnapshotRecord) -> SessionId {
    let root = like.components[0].root;
    let node = ChunkReader::new(Arc::clone(repository)).read(BlobKind::Meta, &root, &String::new).unwrap();
    let session = Arc::new(Session::begin(repository, "test").unwrap());
    let chunks = ChunkWriter::new(Arc::clone(repository), Arc::clone(&session), &Hears::nobody());
    let (id, _) = chunks.write(&mut Default::default(), BlobKind::Meta, &node).unwrap();
    assert_eq!(id, root);
    let kind = EntryKind::File(meta_file(&node, id));
    let mut tree = TreeWriter::new(&chunks);
    let metadata = Metadata { mode: 0o600, ..Metadata::default() };
    tree.push(&Entry { path: b"node".to_vec(), metadata, kind, attributes: Vec::new() }).unwrap();
    let summary = tree.finish().unwrap();
    chunks.finish().unwrap();
    let mut record = SnapshotRecord { started: jiff::Timestamp::UNIX_EPOCH, ..like.clone() };
    record.components[0].root = summary.root;
    (record.components[0].entries, record.components[0].bytes) = (summary.entries, summary.bytes);
    session.commit(repository, record).unwrap();
    session.id
}

#[test]
fn a_node_that_an_older_snapshot_holds_as_content_keeps_what_it_refers_to() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "content");
    let snapshot = vault.backup(directory.path()).unwrap();
    let repository = vault.open().unwrap();
    let record = repository.find_snapshot(&snapshot.to_string()).unwrap().record;
    commit_node_as_content(&repository, &record);

    let limits = PruneLimits { unused_percent_max: 0.0, ..PruneLimits::default() };
    let options = PruneOptions { limits, wait_max: std::time::Duration::ZERO, ..PruneOptions::default() };
    prune::run(&vault.open().unwrap(), &options, &Hears::nobody()).unwrap();
    vault.assert_clean();
    vault.assert_restores(snapshot, directory.path(), &tree(directory.path()));
}

#[test]
fn an_indirect_file_is_held_only_with_its_lists() {
    let (vault, _) = Vault::in_memory();
    let repository = vault.open().unwrap();
    let session = Arc::new(Session::begin(&repository, "test").unwrap());
    let chunks = ChunkWriter::new(Arc::clone(&repository), Arc::clone(&session), &Hears::nobody());
    let part = ChunkRef { id: ChunkId::from_bytes([7; 32]), len: 10 };
    let mut list = Vec::new();
    tree::encode_chunk_ref(&part, &mut list);
    let (id, _) = chunks.write(&mut Default::default(), BlobKind::Meta, &list).unwrap();
    chunks.finish().unwrap();
    let lists = vec![ChunkRef { id, len: list.len() as u32 }];
    let content = FileContent { size: 10, chunks: lists, kind: BlobKind::Data, indirect: true, ..meta_file(b"", id) };
    let reader = ChunkReader::new(repository);
    for (lists_held, parts_held) in [(true, true), (true, false), (false, true), (false, false)] {
        let held = is_held(&reader, "file", &content, &|kind, _| {
            Ok(if kind == BlobKind::Meta { lists_held } else { parts_held })
        });
        assert_eq!(held.unwrap(), lists_held && parts_held);
    }
}
