//! The budget of each stage of a backup and a restore, one thread each: bytes (or chunks) per second.
//!
//! Run with `cargo bench --bench stages`. Compare figures of one run with each other, not of two machines.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mlvault::chunker::{Chunker, ContentClass};
use mlvault::compress::{self, Codec, Encoder};
use mlvault::crypto::keys::MetaKeys;
use mlvault::crypto::seal::MessageKey;
use mlvault::format::chunk::{ChunkContext, ChunkHeader};
use mlvault::format::config::ChunkProfiles;
use mlvault::format::segment::{IndexedPack, Segment};
use mlvault::format::session_header::SessionHeader;
use mlvault::format::tree::{self, ChunkRef, Entry, EntryKind, FileContent, Metadata};
use mlvault::format::{BlobKind, pack};
use mlvault::id::{ChunkId, Digest, PackId, RepositoryId, SegmentId, SessionId, SlotId};
use mlvault::index::ChunkIndex;
use mlvault::index::rocks::RocksIndex;
use zeroize::Zeroizing;

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);
/// Length of the chunks that are measured, in bytes.
const CHUNK_LEN: usize = 256 << 10;
/// Length of the streams that are cut, in bytes.
const STREAM_LEN: usize = 16 << 20;
/// Chunks of a measured index segment.
const SEGMENT_CHUNKS: usize = 16 << 10;
/// Entries of a measured tree node.
const NODE_ENTRIES: usize = 500;

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes that compress as float32 weights do: random mantissas, few exponents.
fn weights(len: usize) -> Vec<u8> {
    let mut bytes = noise(len);
    for word in bytes.chunks_exact_mut(4) {
        word[3] = 0x3C | (word[3] & 0x80);
        word[2] &= 0xBF;
    }
    bytes
}

fn text(len: usize) -> Vec<u8> {
    let line = |row: usize| {
        format!("loss\t0.{:06}\t{}\t{:08x}\t{row}\tf\n", row * 7919 % 999_983, 1_767_225_600 + row, row / 2500)
    };
    let mut text: Vec<u8> = (0..len / 30).flat_map(|row| line(row).into_bytes()).collect();
    text.resize(len, b'\n');
    text
}

fn keys() -> MetaKeys {
    MetaKeys::new(Zeroizing::new([7; 32]))
}

fn cut(criterion: &mut Criterion) {
    let chunker = Chunker::new(&keys().gear_seed(), ChunkProfiles::default());
    let mut group = criterion.benchmark_group("chunker");
    group.throughput(Throughput::Bytes(STREAM_LEN as u64));
    for (name, class, stream) in
        [("binary", ContentClass::Binary, noise(STREAM_LEN)), ("text", ContentClass::Text, text(STREAM_LEN))]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut rest = &stream[..];
                while !rest.is_empty() {
                    rest = &rest[chunker.cut(class, rest)..];
                }
            });
        });
    }
}

fn hash(criterion: &mut Criterion) {
    let (keys, chunk) = (keys(), noise(CHUNK_LEN));
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(CHUNK_LEN as u64));
    group.bench_function("chunk id", |bencher| bencher.iter(|| keys.chunk_id(BlobKind::Data as u8, black_box(&chunk))));
    group.bench_function("file digest", |bencher| bencher.iter(|| blake3::hash(black_box(&chunk))));
}

fn compression(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compress");
    group.throughput(Throughput::Bytes(CHUNK_LEN as u64));
    for (name, plain) in [("weights", weights(CHUNK_LEN)), ("text", text(CHUNK_LEN)), ("noise", noise(CHUNK_LEN))] {
        let mut encoder = Encoder::default();
        let mut out = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                encoder.encode(black_box(&plain), &mut out)
            });
        });
        out.clear();
        if encoder.encode(&plain, &mut out) == Codec::Zstd {
            group.bench_function(format!("{name}, back"), |bencher| {
                bencher.iter(|| compress::decode(Codec::Zstd, black_box(&out), CHUNK_LEN).unwrap());
            });
        }
    }
}

fn sealing(criterion: &mut Criterion) {
    let (keys, key) = (keys(), MessageKey::new(Zeroizing::new([8; 32])));
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Bytes(CHUNK_LEN as u64));
    let mut message = noise(CHUNK_LEN);
    group.bench_function("AES-256-GCM", |bencher| {
        bencher.iter(|| key.cipher(b"a name").seal_in_place(b"", black_box(&mut message)));
    });
    let plain = weights(CHUNK_LEN);
    let id = keys.chunk_id(BlobKind::Data as u8, &plain);
    let mut encoder = Encoder::default();
    let context = ChunkContext { key: &key, kind: BlobKind::Data, repository: REPOSITORY };
    let mut seal = || context.seal(&mut encoder, id, &plain).unwrap();
    let (header, sealed) = seal();
    group.bench_function("compress, seal, open again and compare", |bencher| bencher.iter(&mut seal));
    group.bench_function("open, decompress, hash", |bencher| {
        bencher.iter(|| context.open(&header, &keys, black_box(&sealed)).unwrap());
    });
}

/// Returns a made-up segment; `number` makes its ids differ from those of others.
fn segment(number: u64, chunks: usize) -> Segment {
    let id = |part: u64| *blake3::hash(&[number.to_le_bytes(), part.to_le_bytes()].concat()).as_bytes();
    let session = SessionHeader {
        session: SessionId::from_bytes([2; 16]),
        slot: SlotId::from_bytes([7; 8]),
        meta_salt: [3; 32],
        enc: [4; 32],
        sealed_key: [5; 48],
        commitment: [6; 32],
    };
    let chunks = (0..chunks as u64).map(|part| ChunkHeader {
        id: ChunkId::from_bytes(id(part)),
        plain_len: 1000,
        stored_len: 100,
        codec: Codec::Zstd,
        filter: 0,
    });
    let pack = IndexedPack {
        id: PackId::from_bytes(id(u64::MAX)),
        session,
        len: 100 << 20,
        is_vouched: true,
        chunks: chunks.collect(),
    };
    Segment { kind: BlobKind::Data, packs: vec![pack] }
}

fn index(criterion: &mut Criterion) {
    let made = segment(0, SEGMENT_CHUNKS);
    let body = made.encode();
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(SEGMENT_CHUNKS as u64));
    group.bench_function("encode a segment", |bencher| bencher.iter(|| made.encode()));
    group.bench_function("decode a segment", |bencher| bencher.iter(|| Segment::decode(black_box(&body)).unwrap()));
    let directory = tempfile::tempdir().unwrap();
    let rocks = RocksIndex::open(directory.path(), REPOSITORY).unwrap();
    let mut number = 1;
    group.bench_function("take in a segment", |bencher| {
        bencher.iter(|| {
            number += 1;
            rocks
                .add(
                    SegmentId::from_bytes(*blake3::hash(&u64::to_le_bytes(number)).as_bytes()),
                    &segment(number, SEGMENT_CHUNKS),
                )
                .unwrap();
        });
    });
    group.throughput(Throughput::Elements(1));
    rocks.add(SegmentId::from_bytes([0; 32]), &made).unwrap();
    let known: Vec<ChunkId> = made.packs[0].chunks.iter().map(|chunk| chunk.id).collect();
    let mut at = 0;
    group.bench_function("look up a known chunk", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % known.len();
            rocks.locate(&known[at]).unwrap()
        });
    });
    let mut absent = 0u64;
    group.bench_function("look up an absent chunk", |bencher| {
        bencher.iter(|| {
            absent += 1;
            rocks.locate(&ChunkId::from_bytes(*blake3::hash(&absent.to_be_bytes()).as_bytes())).unwrap()
        });
    });
}

fn trees(criterion: &mut Criterion) {
    let entry = |number: usize| Entry {
        path: format!("mlartifacts/1/{number:032x}/artifacts/model/model.safetensors").into_bytes(),
        metadata: Metadata::default(),
        kind: EntryKind::File(FileContent {
            size: 1000,
            digest: Digest::from_bytes([1; 32]),
            chunks: vec![ChunkRef { id: ChunkId::from_bytes([2; 32]), len: 1000 }],
            kind: BlobKind::Data,
            indirect: false,
            sparse: false,
            racy: false,
            hard_link: None,
        }),
        attributes: Vec::new(),
    };
    let entries: Vec<Entry> = (0..NODE_ENTRIES).map(entry).collect();
    let encode = || {
        let mut node = tree::node_header(0, entries.len() as u32).to_vec();
        entries.iter().for_each(|entry| tree::encode_entry(entry, &mut node));
        node
    };
    let node = encode();
    let mut group = criterion.benchmark_group("tree");
    group.throughput(Throughput::Elements(NODE_ENTRIES as u64));
    group.bench_function("encode a node", |bencher| bencher.iter(encode));
    group.bench_function("decode a node", |bencher| bencher.iter(|| tree::decode_node(black_box(&node)).unwrap()));
}

fn packs(criterion: &mut Criterion) {
    let made = segment(0, 128);
    let header = pack::PackHeader { kind: BlobKind::Data, repository: REPOSITORY, session: made.packs[0].session };
    let (key, sealed) = (MessageKey::new(Zeroizing::new([8; 32])), noise(CHUNK_LEN));
    let chunk = ChunkHeader { stored_len: CHUNK_LEN as u32, ..made.packs[0].chunks[0] };
    let mut group = criterion.benchmark_group("pack");
    group.throughput(Throughput::Bytes((128 * CHUNK_LEN) as u64));
    group.bench_function("fill, close and name", |bencher| {
        bencher.iter(|| {
            let mut builder = pack::PackBuilder::new(header, 129 * CHUNK_LEN);
            (0..128).for_each(|_| builder.push(chunk, &sealed));
            builder.finish(&key).id()
        });
    });
}

fn brief() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! {
    name = stages;
    config = brief();
    targets = cut, hash, compression, sealing, index, trees, packs
}
criterion_main!(stages);
