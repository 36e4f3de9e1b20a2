//! Buckets to back up and to restore into.

use std::collections::BTreeMap;

use bytes::Bytes;
use mlvault::backup::{self, BackupOptions, BackupSource, BackupSummary};
use mlvault::chunks::reader::ChunkReader;
use mlvault::error::Error;
use mlvault::format::tree::Entry;
use mlvault::hears::Hears;
use mlvault::id::SessionId;
use mlvault::s3::{Bucket, Extent, ObjectHeaders, S3Options};
use mlvault::source::filter::Exclusions;
use mlvault::trees::reader::TreeReader;

use crate::support::repo::Vault;
use crate::support::s3_server::BUCKET;

/// Keys that are awkward in some place: in XML, in URLs, in signatures, as file names.
pub const ODD_KEYS: [&str; 22] = [
    "/a",
    "a",
    "a b",
    "a%41",
    "a+b",
    "a-b",
    "a.b",
    "a/",
    "a/b",
    "a//b",
    "a/b/",
    "a/b/c",
    "é/ü",
    "e\u{301}",
    "quo\"te'<&>",
    "tab\tnl",
    "\u{1F600}",
    "?x=1#y",
    "~",
    "back\\slash",
    "..",
    "x/../y",
];

pub fn put(bucket: &Bucket, key: &str, content: impl Into<Bytes>) {
    bucket.put(key, &content.into(), &ObjectHeaders::default(), false).unwrap();
}

/// Backs up a part of the servers' one bucket, but for temporary files.
pub fn backup_prefix(vault: &Vault, prefix: &str, options: S3Options) -> Result<BackupSummary, Error> {
    backup(vault, &format!("s3://{BUCKET}/{prefix}"), options)
}

/// Backs up a part of a bucket as a new process would, but for temporary files.
pub fn backup(vault: &Vault, location: &str, options: S3Options) -> Result<BackupSummary, Error> {
    let what = BackupSource::Bucket { location: location.parse().unwrap(), options };
    let exclusions = Exclusions { patterns: vec!["*.tmp".to_owned()], ..Exclusions::default() };
    let options = BackupOptions { exclusions, ..BackupOptions::new(what) };
    backup::run(&vault.open().unwrap(), &options, &Hears::nobody())
}

/// Returns the entries of a snapshot, by path.
pub fn entries(vault: &Vault, snapshot: SessionId) -> BTreeMap<String, Entry> {
    let repository = vault.open().unwrap();
    let snapshot = repository.find_snapshot(&snapshot.to_string()).unwrap();
    let component = &snapshot.record.components[0];
    let reader = ChunkReader::new(repository);
    let tree = TreeReader::open(&reader, &component.name, &component.root).unwrap();
    tree.map(|entry| entry.map(|entry| (entry.path_text(), entry)).unwrap()).collect()
}

/// Asserts that an entry has this content, and its size, digest and chunks with it.
#[track_caller]
pub fn assert_content(entry: &Entry, content: &[u8]) {
    let file = entry.file().unwrap();
    assert_eq!(file.size, content.len() as u64, "{}", entry.path_text());
    assert_eq!(file.digest.as_bytes(), blake3::hash(content).as_bytes(), "{}", entry.path_text());
}

/// Returns everything below a prefix: content by key without the prefix.
pub fn contents(bucket: &Bucket, prefix: &str) -> BTreeMap<String, Bytes> {
    let objects = bucket.objects(prefix).map(Result::unwrap);
    let read = |key: &str| bucket.get(key, &Extent::Whole(1 << 30), None).unwrap().bytes;
    objects
        .map(|listed| String::from_utf8(listed.key).unwrap())
        .map(|key| (key[prefix.len()..].to_owned(), read(&key)))
        .collect()
}
