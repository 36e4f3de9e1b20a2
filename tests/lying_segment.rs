//! An index segment that lies about where chunks are costs no reader anything that another place still gives.
//!
//! Method: beside honest packs, a segment is planted that claims every data chunk for a pack of its own: one that is not
//! there, with the right lengths or with wrong ones, or an honest pack in which something else stands at that place. Then
//! everything that reads content reads it all. Its name sorts before and after every honest pack, so that whoever takes the
//! first place that it finds, or the last, meets it.

use std::sync::Arc;

use mlvault::copy;
use mlvault::dump;
use mlvault::format::BlobKind;
use mlvault::format::chunk::ChunkHeader;
use mlvault::format::segment::{IndexedPack, Segment};
use mlvault::hears::Hears;
use mlvault::id::{PackId, SessionId};
use mlvault::index::PackRecord;
use mlvault::repository::{Repository, layout};
use tempfile::TempDir;

use crate::support::repo::{Vault, fill, stored_path, tree};

/// What a planted segment says.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// The chunks are in a pack that is not there.
    NoSuchPack,
    /// The same, and their lengths are others.
    WrongLengths,
    /// They are in an honest pack, where other bytes stand.
    WrongPlaces,
}

/// Returns all data chunks and one of their packs.
fn honest(repository: &Repository) -> (Vec<ChunkHeader>, Arc<PackRecord>) {
    let (mut chunks, mut packs) = (Vec::new(), Vec::new());
    let visit = &mut |pack: &Arc<PackRecord>, _, chunk: &ChunkHeader| {
        chunks.push(*chunk);
        packs.push(Arc::clone(pack));
        Ok(())
    };
    repository.index().for_each_chunk(BlobKind::Data, visit).unwrap();
    (chunks, packs.swap_remove(0))
}

fn plant(vault: &Vault, lie: Lie, pack_byte: u8) {
    let repository = vault.open().unwrap();
    let (mut chunks, pack) = honest(&repository);
    if matches!(lie, Lie::WrongLengths) {
        chunks.iter_mut().for_each(|chunk| chunk.plain_len += 1);
    }
    // Reversed, so that no chunk is where it is said to be.
    chunks.reverse();
    let id = if matches!(lie, Lie::WrongPlaces) { pack.id } else { PackId::from_bytes([pack_byte; 32]) };
    let planted = IndexedPack { id, session: pack.session, len: pack.len, is_vouched: true, chunks };
    let segment = Segment { kind: BlobKind::Data, packs: vec![planted] };
    let (id, bytes) = repository.seal_segment(&segment);
    vault.backend.create(&layout::segment(BlobKind::Data, &id), bytes).unwrap();
}

fn assert_all_readers_succeed(vault: &Vault, directory: &TempDir, snapshot: SessionId) {
    let expected = tree(directory.path());
    vault.assert_restores(snapshot, directory.path(), &expected);
    let repository = vault.open().unwrap();
    let found = repository.find_snapshot(&snapshot.to_string()).unwrap();
    dump::archive(&repository, &found, &dump::ArchiveOptions::default(), &mut std::io::sink(), &Hears::nobody())
        .unwrap();
    for path in expected.keys().filter(|path| directory.path().join(path).symlink_metadata().unwrap().is_file()) {
        let stored = stored_path(directory.path(), path);
        dump::file(&repository, &found, stored.as_bytes(), &mut std::io::sink(), &Hears::nobody()).unwrap();
    }
    let (target, _) = Vault::in_memory();
    let copied = copy::run(&repository, &target.open().unwrap(), &[found], &Hears::nobody()).unwrap();
    assert!(copied.failed.is_empty(), "{copied:?}");
}

#[test]
fn a_segment_that_lies_hides_nothing_from_any_reader() {
    for lie in [Lie::NoSuchPack, Lie::WrongLengths, Lie::WrongPlaces] {
        for pack_byte in [0x00, 0xFF] {
            let (vault, _) = Vault::in_memory();
            let directory = TempDir::new().unwrap();
            fill(directory.path(), "one");
            let snapshot = vault.backup(directory.path()).unwrap();
            plant(&vault, lie, pack_byte);
            println!("{lie:?} {pack_byte:#x}");
            assert_all_readers_succeed(&vault, &directory, snapshot);
        }
    }
}
