//! Buckets as targets, on real servers: what was backed up comes back byte for byte with what its writer set, nothing that
//! is there is replaced unasked, nothing that is not verified becomes visible, and no half of an upload is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bytes::Bytes;
use mlvault::cancel::Cancel;
use mlvault::error::{Error, Fault};
use mlvault::hears::Hears;
use mlvault::id::SessionId;
use mlvault::repository::Repository;
use mlvault::restore::bucket::{BucketRestoreOptions, IntoBucket, run_snapshot};
use mlvault::restore::{self, RestoreOptions, RestoreSummary};
use mlvault::s3::{Bucket, Extent, ObjectHeaders, S3Options};
use mlvault::target::bucket::BucketTarget;
use mlvault::units::MIB;
use tempfile::TempDir;

use crate::support::buckets::{ODD_KEYS, backup_prefix, contents, put};
use crate::support::cli::Runner;
use crate::support::fault_server::Answer;
use crate::support::recording_proxy::RecordingProxy;
use crate::support::repo::{Problems, Vault, noise, prose};
use crate::support::s3_server::{ACCESS_KEY_ID, BUCKET, Program, S3Server, SECRET_ACCESS_KEY, unsigned_request};

const REPLACE: BucketRestoreOptions<'static> =
    BucketRestoreOptions { replace: true, dry_run: false, strips_path: false, patterns: None };

/// Restores a path of a snapshot as a new process would. Returns what came of it, and the paths with problems.
fn restore(
    vault: &Vault,
    snapshot: SessionId,
    path: &str,
    (prefix, s3): (&str, &S3Options),
    options: BucketRestoreOptions,
) -> (Result<RestoreSummary, Error>, Vec<String>) {
    let repository: Arc<Repository> = vault.open().unwrap();
    let snapshot = repository.find_snapshot(&snapshot.to_string()).unwrap();
    let target = BucketTarget::connect(&format!("s3://{BUCKET}/{prefix}").parse().unwrap(), s3).unwrap();
    let problems = Arc::new(Problems::default());
    let hears = Hears::new(problems.clone(), Cancel::default());
    let restored =
        run_snapshot(&repository, &snapshot, path.as_bytes(), IntoBucket { target: &target, options }, &hears);
    (restored, problems.subjects())
}

/// Restores all of a snapshot, without problems.
fn restore_all(vault: &Vault, snapshot: SessionId, target: (&str, &S3Options)) -> RestoreSummary {
    let (summary, problems) = restore(vault, snapshot, "", target, BucketRestoreOptions::default());
    assert_eq!(problems, Vec::<String>::new());
    summary.unwrap()
}

fn headers() -> ObjectHeaders {
    let map = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    ObjectHeaders {
        content_type: Some("application/x-model".to_owned()),
        cache_control: Some("max-age=60".to_owned()),
        user_metadata: map("run-id", "a b+c"),
        tags: map("owner", "team a+b"),
        ..ObjectHeaders::default()
    }
}

fn headers_of(bucket: &Bucket, key: &str) -> ObjectHeaders {
    let facts = bucket.get(key, &Extent::Whole(1 << 30), None).unwrap().facts;
    let tags = if facts.tag_count > 0 { bucket.tags(key).unwrap() } else { BTreeMap::new() };
    ObjectHeaders { tags, ..facts.headers }
}

fn uploads_left(server: &S3Server) -> usize {
    let answer = unsigned_request(server.port(), "GET", &format!("/{BUCKET}?uploads"));
    assert!(answer.contains("ListMultipartUploadsResult"), "{answer}");
    answer.matches("<UploadId>").count()
}

#[test]
fn every_key_comes_back_with_its_content_and_what_its_writer_set() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    for key in ODD_KEYS.iter().chain(&["marker/"]) {
        bucket.put(&format!("from/{key}"), &Bytes::from(key.as_bytes().to_vec()), &headers(), true).unwrap();
    }
    let snapshot = backup_prefix(&vault, "from", server.options()).unwrap().snapshot.unwrap();
    let summary = restore_all(&vault, snapshot, ("to/here", &server.options()));
    assert_eq!(summary.files_written, ODD_KEYS.len() as u64 + 1);
    assert_eq!(contents(&bucket, "to/here/"), contents(&bucket, "from/"));
    ODD_KEYS.iter().for_each(|key| assert_eq!(headers_of(&bucket, &format!("to/here/{key}")), headers(), "{key}"));
}

#[test]
fn a_bucket_moves_from_one_server_to_another_and_back() {
    let (moto, rclone) = (S3Server::start(Program::Moto), S3Server::start(Program::Rclone));
    let (vault, _) = Vault::in_memory();
    for number in 0..40 {
        put(&moto.bucket(), &format!("p/{}/m {number}+", number % 3), prose(&number.to_string(), 1 + 997 * number));
    }
    put(&moto.bucket(), "p/large", noise("large", 20 * MIB as usize));
    put(&moto.bucket(), "p/empty", "");
    let there = backup_prefix(&vault, "p", moto.options()).unwrap().snapshot.unwrap();
    restore_all(&vault, there, ("", &rclone.options()));
    assert_eq!(contents(&rclone.bucket(), ""), contents(&moto.bucket(), "p/"));
    let back = backup_prefix(&vault, "", rclone.options()).unwrap().snapshot.unwrap();
    restore_all(&vault, back, ("q", &moto.options()));
    assert_eq!(contents(&moto.bucket(), "q/"), contents(&moto.bucket(), "p/"));
    vault.assert_clean();
}

#[test]
fn a_large_object_is_written_in_parts_with_what_its_writer_set() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    let content = Bytes::from(noise("large", 100 * MIB as usize + 1));
    bucket.put("a/large", &content, &headers(), true).unwrap();
    let snapshot = backup_prefix(&vault, "a", server.options()).unwrap().snapshot.unwrap();
    let proxy = RecordingProxy::start(&server);
    restore_all(&vault, snapshot, ("b", &proxy.options()));
    let parts = proxy.take_requests().iter().filter(|(_, target)| target.contains("partNumber=")).count();
    assert_eq!(parts, 13);
    assert!(contents(&bucket, "b/")["large"] == content);
    assert_eq!(headers_of(&bucket, "b/large"), headers());
    assert_eq!(uploads_left(&server), 0);
}

#[test]
fn a_part_of_a_snapshot_comes_below_the_target_under_its_own_path() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    for key in ["k", "k/", "k/x", "k//y", "k-z", "l/k"] {
        put(&bucket, &format!("from/{key}"), key.as_bytes().to_vec());
    }
    let snapshot = backup_prefix(&vault, "from", server.options()).unwrap().snapshot.unwrap();
    let (summary, problems) =
        restore(&vault, snapshot, "/k/", ("to", &server.options()), BucketRestoreOptions::default());
    assert_eq!((summary.unwrap().files_written, problems), (4, vec![]));
    let restored = contents(&bucket, "to/");
    assert_eq!(restored.keys().map(String::as_str).collect::<Vec<_>>(), ["k", "k/", "k//y", "k/x"]);
    restored.iter().for_each(|(key, content)| assert_eq!(key.as_bytes(), content));
    let (none, _) = restore(&vault, snapshot, "m", ("to", &server.options()), BucketRestoreOptions::default());
    assert!(matches!(none, Err(Error::NotFound(_))));
}

#[test]
fn a_second_restore_reads_what_is_there_and_writes_nothing() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    (0..30).for_each(|number| put(&bucket, &format!("from/{number}"), prose(&number.to_string(), 2000)));
    put(&bucket, "from/large", noise("large", 20 * MIB as usize));
    let snapshot = backup_prefix(&vault, "from", server.options()).unwrap().snapshot.unwrap();
    restore_all(&vault, snapshot, ("to", &server.options()));
    bucket.put("to/7", &Bytes::from_static(b"precious"), &headers(), false).unwrap();
    let proxy = RecordingProxy::start(&server);
    let (summary, problems) = restore(&vault, snapshot, "", ("to", &proxy.options()), BucketRestoreOptions::default());
    let summary = summary.unwrap();
    assert_eq!((summary.files_unchanged, summary.files_written, problems), (30, 0, vec!["7".to_owned()]));
    assert!(proxy.take_requests().iter().all(|(method, _)| method == "GET"));
    assert_eq!(contents(&bucket, "to/")["7"], b"precious"[..]);

    let (summary, problems) = restore(&vault, snapshot, "", ("to", &server.options()), REPLACE);
    let summary = summary.unwrap();
    assert_eq!((summary.files_unchanged, summary.files_written, problems), (30, 1, vec![]));
    assert_eq!(contents(&bucket, "to/"), contents(&bucket, "from/"));
}

#[test]
fn an_object_that_comes_between_looking_and_writing_is_not_replaced() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    put(&bucket, "from/small", "small");
    put(&bucket, "from/large", noise("large", 20 * MIB as usize));
    let snapshot = backup_prefix(&vault, "from", server.options()).unwrap().snapshot.unwrap();
    let proxy = RecordingProxy::start_with(&server, move |request| {
        // The requests that would make the objects visible.
        if request.headers.contains_key("if-none-match") {
            ["to/small", "to/large"].iter().for_each(|key| put(&bucket, key, "precious"));
        }
        None
    });
    let (summary, mut problems) =
        restore(&vault, snapshot, "", ("to", &proxy.options()), BucketRestoreOptions::default());
    problems.sort();
    assert_eq!((summary.unwrap().files_written, problems), (0, vec!["large".to_owned(), "small".to_owned()]));
    assert!(contents(&server.bucket(), "to/").values().all(|content| content == &b"precious"[..]));
    assert_eq!(uploads_left(&server), 0);
}

#[test]
fn an_object_whose_chunk_is_lost_never_becomes_visible_and_the_others_do() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    put(&bucket, "from/large", noise("large", 12 * MIB as usize));
    backup_prefix(&vault, "from", server.options()).unwrap();
    vault.keys_under("packs/data/").iter().for_each(|key| vault.backend.remove(key).unwrap());
    put(&bucket, "from/small", "small");
    let snapshot = backup_prefix(&vault, "from", server.options()).unwrap().snapshot.unwrap();
    let (summary, problems) = restore(&vault, snapshot, "", ("to", &server.options()), BucketRestoreOptions::default());
    let summary = summary.unwrap();
    assert_eq!((summary.files_written, summary.problems, problems), (1, 1, vec!["large".to_owned()]));
    assert_eq!(contents(&bucket, "to/").keys().collect::<Vec<_>>(), ["small"]);
    assert_eq!(uploads_left(&server), 0);
}

#[test]
fn a_target_that_refuses_ends_the_restore_and_keeps_no_parts() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    put(&bucket, "from/large", noise("large", 30 * MIB as usize));
    put(&bucket, "from/small", "small");
    let snapshot = backup_prefix(&vault, "from", server.options()).unwrap().snapshot.unwrap();
    let proxy = RecordingProxy::start_with(&server, |request| {
        request.target.contains("partNumber=3").then(|| Answer::error(403, "AccessDenied"))
    });
    let (summary, _) = restore(&vault, snapshot, "", ("to", &proxy.options()), BucketRestoreOptions::default());
    assert_eq!(summary.unwrap_err().fault(), Some(Fault::Denied));
    assert!(contents(&bucket, "to/").is_empty());
    assert_eq!(uploads_left(&server), 0);
    restore_all(&vault, snapshot, ("to", &server.options()));
    assert_eq!(contents(&bucket, "to/"), contents(&bucket, "from/"));
}

#[test]
fn a_restore_that_is_interrupted_keeps_no_parts() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    put(&bucket, "from/large", noise("large", 40 * MIB as usize));
    let snapshot = backup_prefix(&vault, "from", server.options()).unwrap().snapshot.unwrap();
    let cancel = Cancel::default();
    let flag = cancel.flag();
    let proxy = RecordingProxy::start_with(&server, move |request| {
        if request.target.contains("partNumber=2") {
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        None
    });
    let repository = vault.open().unwrap();
    let snapshot = repository.find_snapshot(&snapshot.to_string()).unwrap();
    let target = BucketTarget::connect(&format!("s3://{BUCKET}/to").parse().unwrap(), &proxy.options()).unwrap();
    let hears = Hears { cancel, ..Hears::nobody() };
    let into = IntoBucket { target: &target, options: BucketRestoreOptions::default() };
    let error = run_snapshot(&repository, &snapshot, b"", into, &hears).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert_eq!(uploads_left(&server), 0);
    assert!(target.is_empty().unwrap());
    put(&bucket, "to/x", "x");
    assert_eq!(target.look(5).unwrap(), ["to/x"]);
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    (0..5).for_each(|number| put(&bucket, &format!("from/{number}"), "x"));
    put(&bucket, "to/3", "x");
    let snapshot = backup_prefix(&vault, "from", server.options()).unwrap().snapshot.unwrap();
    let dry = BucketRestoreOptions { dry_run: true, ..BucketRestoreOptions::default() };
    let (summary, _) = restore(&vault, snapshot, "", ("to", &server.options()), dry);
    let summary = summary.unwrap();
    assert_eq!((summary.files_written, summary.files_unchanged), (4, 1));
    assert_eq!(contents(&bucket, "to/").len(), 1);
}

#[test]
fn a_bucket_is_restored_into_a_directory_as_far_as_names_allow() {
    let server = S3Server::start(Program::Moto);
    let (bucket, (vault, _)) = (server.bucket(), Vault::in_memory());
    for key in ["a/b", "a/c d", "k", "k/x", "k-y", "m//n", "/o", "full/", "é"] {
        put(&bucket, key, key.as_bytes().to_vec());
    }
    put(&bucket, "empty/", "");
    put(&bucket, "a/", "");
    put(&bucket, "k/", "");
    let snapshot = backup_prefix(&vault, "", server.options()).unwrap().snapshot.unwrap();
    let repository = vault.open().unwrap();
    let snapshot = repository.find_snapshot(&snapshot.to_string()).unwrap();
    let (directory, problems) = (TempDir::new().unwrap(), Arc::new(Problems::default()));
    let options = RestoreOptions::into_directory(directory.path());
    let summary =
        restore::run(&repository, &snapshot, &options, &Hears::new(problems.clone(), Cancel::default())).unwrap();
    let mut subjects = problems.subjects();
    subjects.sort();
    assert_eq!(subjects, ["/o", "full/", "k/", "k/x", "m//n"]);
    assert_eq!((summary.files_written, summary.directories), (5, 2));
    for key in ["a/b", "a/c d", "k", "k-y", "é"] {
        assert_eq!(fs::read(directory.path().join(key)).unwrap(), key.as_bytes());
    }
    assert!(directory.path().join("empty").is_dir());
    let mode = |name| fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("k"), mode("a"), mode("empty")), (0o644, 0o755, 0o755));
}

#[test]
fn a_directory_is_restored_into_a_bucket_as_far_as_objects_allow() {
    let server = S3Server::start(Program::Rclone);
    let (vault, _) = Vault::in_memory();
    let source = TempDir::new().unwrap();
    fs::create_dir_all(source.path().join("run/empty")).unwrap();
    fs::write(source.path().join("run/model"), prose("model", 300_000)).unwrap();
    fs::hard_link(source.path().join("run/model"), source.path().join("run/same")).unwrap();
    std::os::unix::fs::symlink("model", source.path().join("run/link")).unwrap();
    let snapshot = vault.backup(source.path()).unwrap();
    let base = source.path().strip_prefix("/").unwrap().to_str().unwrap();
    let (summary, problems) =
        restore(&vault, snapshot, base, ("to", &server.options()), BucketRestoreOptions::default());
    assert_eq!((summary.unwrap().files_written, problems), (2, vec![format!("{base}/run/link")]));
    let restored = contents(&server.bucket(), &format!("to/{base}/"));
    assert_eq!(restored.keys().collect::<Vec<_>>(), ["run/model", "run/same"]);
    assert!(restored.values().all(|content| content == &prose("model", 300_000)));
}

#[test]
fn the_program_backs_up_a_bucket_and_restores_into_one() {
    let server = S3Server::start(Program::Rclone);
    let (bucket, runner) = (server.bucket(), Runner::with_repository());
    ["p/a", "p/b/c", "q"].iter().for_each(|key| put(&bucket, key, *key));
    let run = |arguments: &[&str]| {
        let mut command = runner.command(arguments);
        command.env("MLVAULT_S3_ENDPOINT", server.options().endpoint.unwrap());
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        crate::support::cli::finish(&mut command)
    };
    let dry = run(&["backup", "s3://vault/p", "--dry-run"]).expect(0).text();
    assert!(dry.contains("2 new"), "{dry}");
    run(&["backup", "s3://vault/p"]).expect(0);
    assert!(run(&["backup", "s3://vault/p/"]).expect(0).text().contains("2 unchanged"));
    assert_eq!(run(&["cat", "latest", "b/c"]).expect(0).text(), "p/b/c");
    assert!(run(&["backup", "s3://vault/p", "."]).expect(2).stderr.contains("only path"));
    let listed = run(&["ls", "latest"]).expect(0).text();
    assert!(listed.contains("b/") && !listed.contains("b/c"), "{listed}");
    assert!(run(&["ls", "latest", "b"]).expect(0).text().contains("b/c"));
    run(&["restore", "--snapshot", "latest", "--target", "s3://vault/r"]).expect(0);
    assert_eq!(contents(&bucket, "r/"), contents(&bucket, "p/"));
    put(&bucket, "r/a", "other");
    let left = run(&["restore", "--snapshot", "latest", "--target", "s3://vault/r"]).expect(3);
    assert!(left.stderr.contains("left as it is"), "{}", left.stderr);
    run(&["restore", "--snapshot", "latest", "--target", "s3://vault/r", "--overwrite", "always"]).expect(0);
    assert_eq!(contents(&bucket, "r/"), contents(&bucket, "p/"));
    run(&["restore", "--snapshot", "latest", "--target", "s3://vault/r", "--delete"]).expect(2);
    run(&["restore", "--snapshot", "latest:b", "--target", "s3://vault/right"]).expect(0);
    assert_eq!(contents(&bucket, "right/"), contents(&bucket, "p/b/"));
    let exclude = ["restore", "--snapshot", "latest", "--exclude", "b", "--target", "s3://vault/chosen"];
    run(&exclude).expect(0);
    assert_eq!(contents(&bucket, "chosen/").into_keys().collect::<Vec<_>>(), ["a"]);
    let directory = runner.path("out");
    run(&["restore", "--snapshot", "latest", "--path", "b", "--target", directory.to_str().unwrap()]).expect(0);
    assert_eq!(fs::read(directory.join("b/c")).unwrap(), b"p/b/c");
}
