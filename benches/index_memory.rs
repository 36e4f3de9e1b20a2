//! Shows that the index's memory does not grow with the repository: fills it with ten million chunks and prints the
//! process's resident memory, the rate, the size on disk and the time of look-ups on the way.
//!
//! Run with `cargo bench --bench index_memory` (about a minute). Fewer millions: `-- 2`.

use std::path::Path;
use std::time::Instant;

use mlvault::compress::Codec;
use mlvault::format::BlobKind;
use mlvault::format::chunk::ChunkHeader;
use mlvault::format::segment::{IndexedPack, Segment};
use mlvault::format::session_header::SessionHeader;
use mlvault::id::{ChunkId, PackId, RepositoryId, SegmentId, SessionId, SlotId};
use mlvault::index::ChunkIndex;
use mlvault::index::rocks::{self, RocksIndex};

const MILLIONS: u64 = 10;
/// Chunks of a pack: 32 MiB of 256 KiB each.
const CHUNKS_PER_PACK: u64 = 128;
/// Packs of a segment.
const PACKS_PER_SEGMENT: u64 = 512;
/// Look-ups that are timed.
const LOOKUPS: u64 = 20_000;

fn hash(domain: &[u8], number: u64) -> [u8; 32] {
    *blake3::hash(&[domain, &number.to_le_bytes()].concat()).as_bytes()
}

fn segment(first_pack: u64) -> Segment {
    let session = SessionHeader {
        session: SessionId::from_bytes([2; 16]),
        slot: SlotId::from_bytes([7; 8]),
        meta_salt: [3; 32],
        enc: [4; 32],
        sealed_key: [5; 48],
        commitment: [6; 32],
    };
    let chunk = |number| ChunkHeader {
        id: ChunkId::from_bytes(hash(b"chunk", number)),
        plain_len: 256 << 10,
        stored_len: 200 << 10,
        codec: Codec::Zstd,
        filter: 0,
    };
    let pack = |number| IndexedPack {
        id: PackId::from_bytes(hash(b"pack", number)),
        session,
        len: 32 << 20,
        is_vouched: true,
        chunks: (number * CHUNKS_PER_PACK..(number + 1) * CHUNKS_PER_PACK).map(chunk).collect(),
    };
    Segment { kind: BlobKind::Data, packs: (first_pack..first_pack + PACKS_PER_SEGMENT).map(pack).collect() }
}

/// Returns a line of `/proc/self/status` in MiB.
fn memory_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn size_mib(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|found| found.len()).sum::<u64>() >> 20
}

/// Returns microseconds per look-up of chunks spread over `domain`'s numbers.
fn lookup_microseconds(index: &RocksIndex, domain: &[u8], chunks: u64, expected: usize) -> f64 {
    let begun = Instant::now();
    for number in 0..LOOKUPS {
        let id = ChunkId::from_bytes(hash(domain, number * 7919 % chunks));
        assert_eq!(index.locate(&id).unwrap().len(), expected);
    }
    begun.elapsed().as_secs_f64() * 1e6 / LOOKUPS as f64
}

fn main() {
    let millions = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(MILLIONS);
    let directory = tempfile::tempdir().unwrap();
    let index = RocksIndex::open(directory.path(), RepositoryId::from_bytes([1; 16])).unwrap();
    println!("the index's budget is {} MiB", rocks::MEMORY_BYTES >> 20);
    println!(
        "| chunks | resident now, MiB | peak, MiB | on disk, MiB | taken in per second | known, µs | absent, µs |"
    );
    println!("|---|---|---|---|---|---|---|");
    let (mut packs, mut next_report, mut begun, mut since) = (0, 1_000_000, Instant::now(), 0);
    while packs * CHUNKS_PER_PACK < millions * 1_000_000 {
        index.add(SegmentId::from_bytes(hash(b"segment", packs)), &segment(packs)).unwrap();
        packs += PACKS_PER_SEGMENT;
        let chunks = packs * CHUNKS_PER_PACK;
        if chunks >= next_report {
            let rate = (chunks - since) as f64 / begun.elapsed().as_secs_f64();
            let known = lookup_microseconds(&index, b"chunk", chunks, 1);
            let absent = lookup_microseconds(&index, b"absent", chunks, 0);
            println!(
                "| {chunks} | {} | {} | {} | {rate:.0} | {known:.1} | {absent:.1} |",
                memory_mib("VmRSS"),
                memory_mib("VmHWM"),
                size_mib(directory.path()),
            );
            next_report = match next_report {
                1_000_000 => 2_000_000,
                2_000_000 => 5_000_000,
                other => other + 5_000_000,
            };
            (begun, since) = (Instant::now(), chunks);
        }
    }
}
