//! Buckets as sources, on real servers: every key and every byte comes into the snapshot, what is unchanged costs no
//! request of its own, and what changes or vanishes meanwhile is never stored torn and never passed over in silence.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mlvault::error::Fault;
use mlvault::format::attributes;
use mlvault::format::snapshot::{Completeness, SourceRecord};
use mlvault::s3::{Bucket, BucketLocation, Extent, ObjectHeaders, Patience};
use mlvault::source::bucket::BucketSource;
use mlvault::source::filter::Filter;
use mlvault::source::{Found, Interruption, Source};
use mlvault::units::MIB;

use crate::support::buckets::{ODD_KEYS, assert_content, backup, backup_prefix, entries, put};
use crate::support::fault_server::{Answer, Request};
use crate::support::recording_proxy::RecordingProxy;
use crate::support::repo::{Vault, noise};
use crate::support::s3_server::{BUCKET, Program, S3Server};

#[test]
fn every_key_of_a_bucket_comes_into_the_snapshot_as_it_is() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    for key in ODD_KEYS {
        put(&bucket, &format!("p/{key}"), key.as_bytes().to_vec());
    }
    for (key, content) in
        [("p/empty", ""), ("p/marker/", ""), ("p/", ""), ("p/left.tmp", "x"), ("p.x", "outside"), ("q", "x")]
    {
        put(&bucket, key, content);
    }
    let summary = backup_prefix(&vault, "p", server.options()).unwrap();
    assert_eq!(summary.record.problems, []);
    assert_eq!(summary.record.source, SourceRecord::Paths { paths: vec![format!("s3://{BUCKET}/p")] });
    let found = entries(&vault, summary.snapshot.unwrap());
    let mut expected: Vec<&str> = ODD_KEYS.iter().copied().chain(["empty", "marker/"]).collect();
    expected.sort();
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    ODD_KEYS.iter().for_each(|key| assert_content(&found[*key], key.as_bytes()));
    assert_content(&found["empty"], b"");
    vault.assert_clean();
}

/// Keys whose order by bytes and by directories differ as much as can be, in a bucket of many pages.
#[test]
fn a_large_bucket_of_a_server_that_lists_by_directories_is_backed_up_whole() {
    const DEEP: usize = 9_000;
    const FLAT: usize = 1_000;
    let server = S3Server::start(Program::SeaweedFs);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    let deep = (0..DEEP).map(|number| format!("p/m/{}/{number}", number % 7));
    let flat = (0..FLAT).map(|number| format!("p/m{}{number}", ['-', '.', '!', '0'][number % 4]));
    let keys: Vec<String> = deep.chain(flat).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    put(&bucket, key, key.clone().into_bytes());
                }
            });
        }
    });
    let listed: Vec<_> = bucket.pages("p/").flat_map(|page| page.unwrap()).map(|object| object.key).collect();
    assert!(!listed.is_sorted() && listed.len() == keys.len(), "{} keys: not what this test is about", listed.len());
    let summary = backup_prefix(&vault, "p", server.options()).unwrap();
    assert_eq!(summary.record.problems, []);
    let found = entries(&vault, summary.snapshot.unwrap());
    let mut expected: Vec<&str> = keys.iter().map(|key| key.strip_prefix("p/").unwrap()).collect();
    expected.sort_unstable();
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    vault.assert_clean();
}

#[test]
fn what_a_writer_set_beside_the_content_is_kept() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    let map = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let headers = ObjectHeaders {
        content_type: Some("application/x-model".to_owned()),
        content_encoding: Some("gzip".to_owned()),
        cache_control: Some("max-age=60".to_owned()),
        content_disposition: Some("attachment".to_owned()),
        content_language: Some("ga".to_owned()),
        user_metadata: map("run-id", "a b+c"),
        tags: map("owner", "team a+b=c / x@y"),
    };
    bucket.put("model", &Bytes::from_static(b"weights"), &headers, true).unwrap();
    for _ in 0..2 {
        // The second time, it is the parent's entry that is taken over.
        let summary = backup_prefix(&vault, "", server.options()).unwrap();
        let entry = &entries(&vault, summary.snapshot.unwrap())["model"];
        assert_eq!(ObjectHeaders::from_attributes(&entry.attributes), (headers.clone(), vec![]));
        let etag = bucket.get("model", &Extent::Whole(100), None).unwrap().facts.etag.unwrap();
        assert_eq!(attributes::get(&entry.attributes, attributes::ETAG), Some(etag.as_bytes()));
    }
}

#[test]
fn an_unchanged_bucket_costs_its_listing_and_nothing_else_on_moto() {
    unchanged_costs_its_listing(Program::Moto, 2_100);
}

#[test]
fn an_unchanged_bucket_costs_its_listing_and_nothing_else_on_rclone() {
    unchanged_costs_its_listing(Program::Rclone, 30);
}

fn unchanged_costs_its_listing(program: Program, objects: usize) {
    let server = S3Server::start(program);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    for number in 0..objects {
        put(&bucket, &format!("run/{}/m{number}", number % 7), format!("object {number}"));
    }
    let proxy = RecordingProxy::start(&server);
    let first = backup_prefix(&vault, "run", proxy.options()).unwrap();
    // One request sees whether the bucket can be listed at all.
    let listings = objects.div_ceil(1000) + 1;
    assert_eq!(proxy.take_counts(), (listings, objects));
    let second = backup_prefix(&vault, "run", proxy.options()).unwrap();
    assert_eq!(proxy.take_counts(), (listings, 0));
    assert_eq!(second.record.statistics.files_unchanged, objects as u64);
    assert_eq!(second.record.components[0].root, first.record.components[0].root);

    // The same size, in the same second: only the ETag can tell.
    put(&bucket, "run/3/m3", "object X");
    let third = backup_prefix(&vault, "run", proxy.options()).unwrap();
    assert_eq!(proxy.take_counts(), (listings, 1));
    assert_eq!((third.record.statistics.files_changed, third.record.statistics.files_new), (1, 0));
    assert_content(&entries(&vault, third.snapshot.unwrap())["3/m3"], b"object X");
}

#[test]
fn a_large_object_is_read_in_parts_of_one_version() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    let content = noise("large", 100 * MIB as usize + 12_345);
    put(&bucket, "large", content.clone());
    put(&bucket, "exactly one part", content[..8 * MIB as usize].to_vec());
    let proxy = RecordingProxy::start(&server);
    let summary = backup_prefix(&vault, "", proxy.options()).unwrap();
    let found = entries(&vault, summary.snapshot.unwrap());
    assert_content(&found["large"], &content);
    assert_content(&found["exactly one part"], &content[..8 * MIB as usize]);
    let requests = proxy.take_requests();
    assert_eq!(requests.iter().filter(|(_, target)| target.starts_with("/vault/large")).count(), 13);
    assert_eq!(requests.iter().filter(|(_, target)| target.starts_with("/vault/exactly")).count(), 1);
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_is_stored_as_its_new_version_on_moto() {
    replaced_while_read(Program::Moto);
}

/// This server ignores the condition and gives whatever is there.
#[test]
fn an_object_that_is_replaced_while_it_is_read_is_stored_as_its_new_version_on_rclone() {
    replaced_while_read(Program::Rclone);
}

fn replaced_while_read(program: Program) {
    let server = S3Server::start(program);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    let (before, after) = (noise("before", 30 * MIB as usize), noise("after", 30 * MIB as usize));
    put(&bucket, "weights", before);
    let (replaced, new) = (AtomicUsize::new(0), after.clone());
    let proxy = RecordingProxy::start_with(&server, move |request| {
        if is_part(request, 16 * MIB) && replaced.fetch_add(1, Ordering::Relaxed) == 0 {
            put(&bucket, "weights", new.clone());
        }
        None
    });
    let summary = backup_prefix(&vault, "", proxy.options()).unwrap();
    assert_eq!(summary.record.problems, []);
    assert_content(&entries(&vault, summary.snapshot.unwrap())["weights"], &after);
    vault.assert_clean();
}

#[test]
fn an_object_that_never_comes_to_rest_is_a_problem_and_not_a_mixture() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    put(&bucket, "restless", noise("0", 30 * MIB as usize));
    put(&bucket, "still", "still");
    let version = AtomicUsize::new(1);
    let proxy = RecordingProxy::start_with(&server, move |request| {
        if is_part(request, 24 * MIB) {
            let number = version.fetch_add(1, Ordering::Relaxed);
            put(&bucket, "restless", noise(&number.to_string(), 30 * MIB as usize));
        }
        None
    });
    let summary = backup_prefix(&vault, "", proxy.options()).unwrap();
    assert_eq!(summary.record.completeness, Completeness::Incomplete);
    assert_eq!(summary.record.problems[0].path, format!("s3://{BUCKET}/restless"));
    assert!(summary.record.problems[0].message.contains("changed"), "{:?}", summary.record.problems);
    assert_eq!(entries(&vault, summary.snapshot.unwrap()).keys().collect::<Vec<_>>(), ["still"]);
}

fn is_part(request: &Request, start: u64) -> bool {
    request.method == "GET"
        && request.headers.get("range").is_some_and(|range| range.starts_with(&format!("bytes={start}-")))
}

#[test]
fn an_object_that_vanishes_is_a_problem_and_the_others_are_stored() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    ["a", "b", "c"].iter().for_each(|key| put(&bucket, key, *key));
    let proxy = RecordingProxy::start_with(&server, |request| {
        let is_gone = request.method == "GET" && request.target.starts_with("/vault/b");
        is_gone.then(|| Answer::error(404, "NoSuchKey"))
    });
    let summary = backup_prefix(&vault, "", proxy.options()).unwrap();
    assert_eq!(summary.record.problem_count, 1);
    assert_eq!(summary.record.problems[0].path, format!("s3://{BUCKET}/b"));
    assert!(summary.record.problems[0].message.contains("vanished"));
    assert_eq!(entries(&vault, summary.snapshot.unwrap()).keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn an_object_in_an_archive_is_a_problem_that_says_so() {
    let server = S3Server::start(Program::Moto);
    let (vault, _) = Vault::in_memory();
    put(&server.bucket(), "at hand", "x");
    let proxy = RecordingProxy::start_with(&server, archived);
    let summary = backup_prefix(&vault, "", proxy.options()).unwrap();
    assert_eq!(summary.record.problem_count, 1);
    let message = &summary.record.problems[0].message;
    assert!(message.contains("DEEP_ARCHIVE") && message.contains("restored there first"), "{message}");
}

/// Plays a bucket of one object that has to be restored before it can be read.
fn archived(request: &Request) -> Option<Answer> {
    let listing = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>cold</Key><Size>5</Size>\
         <ETag>\"x\"</ETag><StorageClass>DEEP_ARCHIVE</StorageClass></Contents></ListBucketResult>";
    Some(match request.target.contains("list-type=2") {
        true => Answer::with(200, listing),
        false => Answer::error(403, "InvalidObjectState"),
    })
}

#[test]
fn a_listing_that_breaks_off_makes_no_snapshot() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    (0..1_200).for_each(|number| put(&bucket, &format!("{number:04}"), "x"));
    let proxy = RecordingProxy::start_with(&server, |request| {
        request.target.contains("continuation-token").then(|| Answer::error(403, "AccessDenied"))
    });
    let error = backup_prefix(&vault, "", proxy.options()).unwrap_err();
    assert_eq!(error.fault(), Some(Fault::Denied));
    assert!(vault.open().unwrap().list_snapshots().unwrap().snapshots.is_empty());
}

#[test]
fn a_missing_bucket_and_a_wrong_key_are_errors_and_no_empty_backups() {
    let server = S3Server::start(Program::Rclone);
    let (vault, _) = Vault::in_memory();
    let mut options = server.options();
    let mut credentials = options.credentials.take().unwrap();
    let missing = backup(&vault, "s3://no-such-bucket", server.options()).unwrap_err();
    assert_eq!(missing.fault(), Some(Fault::NotFound), "{missing}");
    credentials.secret_access_key = "wrong".to_owned().into();
    options.credentials = Some(credentials);
    let denied = backup_prefix(&vault, "", options).unwrap_err();
    assert_eq!(denied.fault(), Some(Fault::Denied), "{denied}");
    assert!(vault.open().unwrap().list_snapshots().unwrap().snapshots.is_empty());
}

#[test]
fn a_server_that_is_gone_ends_the_backup_and_not_one_object_after_the_other() {
    let server = S3Server::start(Program::Moto);
    let impatient = Patience { attempts_max: 2, wait_first: Duration::from_millis(10), ..Patience::default() };
    let bucket = Bucket::connect(BUCKET, &server.options(), impatient).unwrap();
    put(&bucket, "a", "x");
    let location: BucketLocation = format!("s3://{BUCKET}").parse().unwrap();
    let source = BucketSource::new(bucket, &location, Filter::default(), MIB).unwrap();
    let Some(Found::Item(item)) = source.walk().next() else { panic!("nothing was found") };
    drop(server);
    assert!(matches!(source.walk().next(), Some(Found::Failed(error)) if error.fault() == Some(Fault::Unavailable)));
    let error = source.open(&item).err().unwrap();
    assert!(matches!(error.downcast(), Ok(Interruption::Lost(error)) if error.fault() == Some(Fault::Unavailable)));
}
