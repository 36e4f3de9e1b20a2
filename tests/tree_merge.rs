//! Trees are read side by side without reading anything twice, and give what each gives alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use mlvault::backend::memory::MemoryBackend;
use mlvault::chunks::reader::ChunkReader;
use mlvault::chunks::writer::ChunkWriter;
use mlvault::clock::SystemClock;
use mlvault::crypto::keys::new_secret;
use mlvault::crypto::passphrase::Credential;
use mlvault::format::config::{ChunkProfiles, RepositoryConfig};
use mlvault::format::tree::{Entry, EntryKind, FileContent, Metadata};
use mlvault::hears::Hears;
use mlvault::id::{ChunkId, Digest};
use mlvault::repository::session::Session;
use mlvault::repository::{CreateOptions, OpenOptions, Repository};
use mlvault::trees::merge::{Merged, Shared, TreeMerge};
use mlvault::trees::reader::TreeReader;
use mlvault::trees::writer::TreeWriter;

const FILES: usize = 20_000;
const DIRECTORIES: usize = 40;
/// Nodes that one changed file costs, counted generously: its leaf, those above, and one more where a leaf's border moved.
const NODES_PER_CHANGE: u64 = 5;

/// What a tree says: path and digest.
type Content = BTreeMap<Vec<u8>, Digest>;

struct Fixture {
    repository: Arc<Repository>,
}

fn path(number: usize) -> Vec<u8> {
    format!("directory-{:02}/file-{number:05}", number % DIRECTORIES).into_bytes()
}

fn digest(text: &str) -> Digest {
    Digest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes())
}

impl Fixture {
    fn new() -> Self {
        let backend = Arc::new(MemoryBackend::default());
        let credential = Credential::KeyFile(new_secret());
        let options = CreateOptions {
            label: "test".to_owned(),
            chunk_profiles: ChunkProfiles::default(),
            pack_bytes: RepositoryConfig::PACK_BYTES,
            create_only: true,
        };
        Repository::create(backend.as_ref(), &credential, &options, &SystemClock).unwrap();
        let options = OpenOptions::default();
        Self { repository: Repository::open(backend, &credential, &options).unwrap() }
    }

    /// Writes a tree with these files, none of which has any content.
    fn write(&self, content: &Content) -> ChunkId {
        let session = Arc::new(Session::begin(&self.repository, "test").unwrap());
        let chunks = ChunkWriter::new(Arc::clone(&self.repository), session, &Hears::nobody());
        let mut tree = TreeWriter::new(&chunks);
        for (path, digest) in content {
            let file = FileContent {
                size: 0,
                digest: *digest,
                chunks: Vec::new(),
                kind: mlvault::format::BlobKind::Data,
                indirect: false,
                sparse: false,
                racy: false,
                hard_link: None,
            };
            let (metadata, attributes) = (Metadata::default(), Vec::new());
            tree.push(&Entry { path: path.clone(), metadata, kind: EntryKind::File(file), attributes }).unwrap();
        }
        let root = tree.finish().unwrap().root;
        chunks.finish().unwrap();
        root
    }

    fn reader(&self) -> ChunkReader {
        ChunkReader::new(Arc::clone(&self.repository))
    }

    /// Reads several side by side; returns what each has, and how many nodes were read.
    fn merge(&self, roots: &[ChunkId], prefix: &[u8], shared: Shared) -> (Vec<Content>, u64) {
        let reader = self.reader();
        let mut contents = vec![Content::new(); roots.len()];
        let mut last = Vec::new();
        for merged in TreeMerge::open(&reader, "files", roots, prefix, shared) {
            let Merged::Entries(entries) = merged.unwrap() else { panic!("a node cannot be read") };
            assert!(entries[0].1.path > last, "out of order");
            last.clone_from(&entries[0].1.path);
            for (trees, entry) in entries {
                assert_eq!(entry.path, last);
                for tree in trees.iter() {
                    assert_eq!(contents[*tree].insert(entry.path.clone(), digest_of(&entry)), None);
                }
            }
        }
        (contents, reader.opened())
    }
}

fn digest_of(entry: &Entry) -> Digest {
    entry.file().unwrap().digest
}

/// A tree of many nodes, and two versions of it with few changes.
fn versions() -> [Content; 3] {
    let first: Content = (0..FILES).map(|number| (path(number), digest(&number.to_string()))).collect();
    let mut second = first.clone();
    second.insert(path(1234), digest("another content"));
    let mut third = second.clone();
    third.remove(&path(77));
    third.insert(path(FILES + 5), digest("a new file"));
    [first, second, third]
}

#[test]
fn trees_side_by_side_say_what_each_says_alone_and_shared_nodes_are_read_once() {
    let fixture = Fixture::new();
    let alone = versions();
    let roots = alone.each_ref().map(|content| fixture.write(content));
    let (one, nodes) = fixture.merge(&roots[..1], b"", Shared::Read);
    assert_eq!(one, alone[..1]);
    assert!(nodes > 10, "the tree is too small to tell: {nodes} nodes");
    // Twenty snapshots of the first version, and one each of the others, mixed.
    let many: Vec<_> = (0..22).map(|number| roots[if number % 10 == 5 { number / 10 + 1 } else { 0 }]).collect();
    let (contents, nodes_of_many) = fixture.merge(&many, b"", Shared::Read);
    for (root, content) in many.iter().zip(&contents) {
        let version = roots.iter().position(|version| version == root).unwrap();
        assert!(*content == alone[version], "version {version} differs");
    }
    assert!(nodes_of_many <= nodes + 3 * NODES_PER_CHANGE, "{nodes_of_many} nodes instead of {nodes}");
}

#[test]
fn only_nodes_that_differ_are_read_where_shared_ones_are_skipped() {
    let fixture = Fixture::new();
    let alone = versions();
    let roots = alone.each_ref().map(|content| fixture.write(content));
    let (_, nothing) = fixture.merge(&[roots[0], roots[0]], b"", Shared::Skip);
    assert_eq!(nothing, 0);
    for (old, new, changes) in [(0, 1, 1), (1, 2, 2), (0, 2, 3)] {
        let (contents, nodes) = fixture.merge(&[roots[old], roots[new]], b"", Shared::Skip);
        assert!(nodes <= 2 * changes * NODES_PER_CHANGE, "{old} and {new}: {nodes} nodes");
        let differs = |path: &&Vec<u8>| alone[old].get(*path) != alone[new].get(*path);
        let paths: Vec<_> = alone[old].keys().chain(alone[new].keys()).filter(differs).collect();
        assert!(!paths.is_empty());
        for path in paths {
            assert_eq!(contents[0].get(path), alone[old].get(path));
            assert_eq!(contents[1].get(path), alone[new].get(path));
        }
    }
}

#[test]
fn below_a_prefix_the_rest_is_not_read() {
    let fixture = Fixture::new();
    let alone = versions();
    let roots = alone.each_ref().map(|content| fixture.write(content));
    let (_, nodes_of_all) = fixture.merge(&roots, b"", Shared::Read);
    let prefix = b"directory-17/";
    let (contents, nodes) = fixture.merge(&roots, prefix, Shared::Read);
    for (content, all) in contents.iter().zip(&alone) {
        let mut expected = all.clone();
        expected.retain(|path, _| path.starts_with(prefix));
        assert!(expected.len() >= FILES / DIRECTORIES - 1);
        assert_eq!(*content, expected);
    }
    assert!(nodes < nodes_of_all / 3, "{nodes} of {nodes_of_all} nodes");
    let (nothing, _) = fixture.merge(&roots, b"zzz", Shared::Read);
    assert!(nothing.iter().all(Content::is_empty));
}

#[test]
fn a_reader_that_skips_ahead_leaves_out_what_it_passes_over() {
    let fixture = Fixture::new();
    let [content, ..] = versions();
    let root = fixture.write(&content);
    let reader = fixture.reader();
    let whole = TreeReader::open(&reader, "files", &root).unwrap();
    assert!(whole.map(|entry| entry.unwrap().path).eq(content.keys().cloned()));
    let nodes_of_all = reader.opened();
    let reader = fixture.reader();
    let mut tree = TreeReader::open(&reader, "files", &root).unwrap();
    let target = path(35);
    assert_eq!(tree.next().unwrap().unwrap().path, path(0));
    tree.skip_to(&target);
    assert_eq!(tree.next().unwrap().unwrap().path, target);
    assert!(reader.opened() < nodes_of_all / 3, "{} of {nodes_of_all} nodes", reader.opened());
    tree.skip_to(b"zzz");
    assert!(tree.next().is_none());
}
