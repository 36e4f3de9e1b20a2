//! What each role can do and what it cannot, whoever wrote the program that it uses.

use mlvault::chunks::pack_reader;
use mlvault::chunks::reader::ChunkReader;
use mlvault::crypto::keys::MetaKeys;
use mlvault::error::Error;
use mlvault::format::BlobKind;
use mlvault::format::chunk::{ChunkContext, ChunkHeader};
use mlvault::format::key_slot::Role;
use mlvault::format::pack::PackHeader;
use mlvault::id::ChunkId;
use mlvault::restore::RestoreOptions;
use tempfile::TempDir;

use crate::support::repo::{Vault, backup_with, check_with, fill, id_of, key_file, tree};
use mlvault::check::ReadData;

struct Scene {
    vault: Vault,
    directory: TempDir,
}

impl Scene {
    /// A repository with a snapshot by a maintainer.
    fn new() -> Self {
        let (vault, _) = Vault::in_memory();
        let directory = TempDir::new().unwrap();
        fill(directory.path(), "roles");
        vault.backup(directory.path()).unwrap();
        Self { vault, directory }
    }

    fn open_as(&self, role: Role) -> std::sync::Arc<mlvault::repository::Repository> {
        let (_, credential) = key_file();
        self.vault.open().unwrap().add_key(role.name(), role, &credential).unwrap();
        self.vault.open_with(&credential).unwrap()
    }

    fn data_chunks(&self) -> Vec<ChunkId> {
        let mut chunks = Vec::new();
        let repository = self.vault.open().unwrap();
        let visit = &mut |_: &_, _, chunk: &ChunkHeader| {
            chunks.push(chunk.id);
            Ok(())
        };
        repository.index().for_each_chunk(BlobKind::Data, visit).unwrap();
        chunks
    }
}

#[test]
fn a_writer_backs_up_and_deduplicates_and_its_snapshots_restore() {
    let scene = Scene::new();
    let writer = scene.open_as(Role::Writer);
    let chunks_before = scene.data_chunks().len();
    std::fs::write(scene.directory.path().join("new"), b"by the writer").unwrap();
    let summary = backup_with(&writer, scene.directory.path()).unwrap();
    assert_eq!(scene.data_chunks().len(), chunks_before + 1);
    let id = summary.snapshot.unwrap();
    scene.vault.assert_restores(id, scene.directory.path(), &tree(scene.directory.path()));
    let signer = scene.vault.open().unwrap().find_snapshot(&id.to_string()).unwrap().signer;
    assert_eq!((signer.label.as_str(), signer.role), ("writer", Role::Writer));
    scene.vault.assert_clean();
}

#[test]
fn a_writer_and_an_auditor_list_and_check_but_neither_restore_nor_make_keys() {
    let scene = Scene::new();
    for role in [Role::Writer, Role::Auditor] {
        let repository = scene.open_as(role);
        let list = repository.list_snapshots().unwrap();
        assert_eq!(list.snapshots.len(), 1);
        assert!(check_with(&repository, ReadData::All).is_clean());
        let target = TempDir::new().unwrap();
        let options = RestoreOptions::into_directory(target.path());
        let hears = mlvault::hears::Hears::nobody();
        let restored = mlvault::restore::run(&repository, &list.snapshots[0], &options, &hears);
        assert!(matches!(restored, Err(Error::Role { .. })), "{role:?}");
        assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
        let added = repository.add_key("more", Role::Maintainer, &key_file().1);
        assert!(matches!(added, Err(Error::Role { .. })), "{role:?}");
        assert!(matches!(repository.remove_key("recovery"), Err(Error::Role { .. })), "{role:?}");
    }
}

#[test]
fn neither_writer_nor_auditor_can_read_any_chunk_of_content() {
    let scene = Scene::new();
    for role in [Role::Writer, Role::Auditor] {
        let repository = scene.open_as(role);
        let reader = ChunkReader::new(std::sync::Arc::clone(&repository));
        let chunks = scene.data_chunks();
        assert!(chunks.len() > 100);
        for chunk in &chunks {
            let read = reader.read(BlobKind::Data, chunk, &String::new);
            assert!(matches!(read, Err(Error::Role { .. })), "{role:?}");
        }
    }
}

/// Goal: a writer's secrets open no content even in other hands than this program's. Method: take everything that the key
/// slot gave the writer, and try every way that there is from it to a chunk.
#[test]
fn the_secrets_of_a_writer_open_no_content() {
    let scene = Scene::new();
    let maintainer = scene.vault.open().unwrap();
    let writer = scene.open_as(Role::Writer);
    let access = writer.access();
    assert!(access.data.is_none() && access.root_seed.is_none());
    let held = [writer.keys().secret().clone(), access.signing_seed.clone()];
    let data_secret = maintainer.access().data.clone().unwrap();
    assert!(held.iter().all(|secret| **secret != *data_secret));
    for object in scene.vault.backend.list("packs/data/").unwrap() {
        let bytes = scene.vault.backend.read(&object.key).unwrap();
        let session = PackHeader::decode(&bytes).unwrap().session;
        for secret in &held {
            assert!(session.data_key(writer.id(), writer.keys(), secret).is_err());
            let wrong_keys = MetaKeys::new(secret.clone());
            assert!(session.data_key(writer.id(), &wrong_keys, secret).is_err());
        }
        // The session's other key opens the directory of the pack, but none of its chunks.
        let id = id_of(&object.key).unwrap();
        let pack = pack_reader::directory_of(&writer, BlobKind::Data, &id, &bytes).unwrap();
        let meta = session.meta_key(writer.keys());
        let data = session.data_key(maintainer.id(), maintainer.keys(), &data_secret).unwrap();
        for (offset, header) in pack.located_chunks() {
            let stored = &bytes[offset as usize..offset as usize + header.stored_len as usize];
            let open = |key| {
                let context = ChunkContext { key, kind: BlobKind::Data, repository: writer.id() };
                context.open(header, writer.keys(), stored)
            };
            assert!(open(&meta).is_err());
            assert!(open(&data).is_ok());
        }
    }
}
