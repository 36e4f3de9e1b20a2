//! The contract of `Backend`, as sentences that hold for every implementation.
//!
//! The S3 backend is tried on three real servers. `rclone serve s3` accepts `If-None-Match` and ignores it: there the
//! sentences about create-only do not hold, `honours_create_only` must find that out, and all others must hold.

use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use mlvault::backend::local::LocalBackend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::backend::{Backend, Listed};
use mlvault::doctor::honours_create_only;
use mlvault::error::{Fault, Result};
use tempfile::TempDir;

use crate::support::s3_server::{Program, S3Server};

/// Threads in the sentences about many callers.
const THREADS: usize = 8;
/// More objects than one page of an S3 listing holds.
const MORE_THAN_A_PAGE: usize = 1_050;

type Sentence = fn(&dyn Backend);

/// What holds everywhere.
const SENTENCES: [Sentence; 16] = [
    an_object_is_read_back_as_it_was_written,
    an_object_longer_than_it_may_be_is_refused,
    creating_the_same_bytes_again_changes_nothing,
    a_missing_object_is_not_found,
    removing_removes_and_may_be_repeated,
    removing_many_removes_just_these,
    ranges_are_exact,
    a_range_past_the_end_is_refused,
    a_range_of_a_missing_object_is_not_found,
    a_listing_has_every_object_with_its_size_in_key_order,
    a_listing_says_when_each_object_was_written,
    a_prefix_ends_at_a_slash,
    a_listing_longer_than_a_page_is_complete,
    objects_created_by_many_threads_are_all_listed,
    names_that_are_no_keys_are_refused,
    the_time_of_the_server_is_about_ours,
];

/// What holds where create-only is honoured.
const CREATE_ONLY_SENTENCES: [Sentence; 3] = [
    a_key_that_is_taken_is_refused_and_keeps_its_bytes,
    of_many_creates_of_one_key_exactly_one_wins,
    what_is_refused_is_told_in_one_line_that_names_the_object,
];

fn contract(backend: &dyn Backend, has_create_only: bool) {
    assert_eq!(honours_create_only(backend).unwrap(), has_create_only);
    assert_eq!(backend.list("").unwrap(), [], "the probe for create-only left something behind");
    SENTENCES.iter().for_each(|sentence| sentence(backend));
    if has_create_only {
        CREATE_ONLY_SENTENCES.iter().for_each(|sentence| sentence(backend));
    }
}

#[test]
fn memory_keeps_the_contract() {
    contract(&MemoryBackend::default(), true);
}

#[test]
fn a_local_directory_keeps_the_contract() {
    let directory = TempDir::new().unwrap();
    contract(&LocalBackend::create_root(directory.path().join("new/root")).unwrap(), true);
}

#[test]
fn s3_on_moto_keeps_the_contract() {
    let server = S3Server::start(Program::Moto);
    contract(&server.backend("some/prefix"), true);
    // Without a prefix the bucket has what the first round wrote.
    assert!(server.backend("").list("some/prefix/").unwrap().len() > MORE_THAN_A_PAGE);
}

#[test]
fn s3_on_rclone_keeps_the_contract_but_for_create_only() {
    let server = S3Server::start(Program::Rclone);
    contract(&server.backend("prefix"), false);
}

#[test]
fn s3_on_seaweedfs_keeps_the_contract() {
    let server = S3Server::start(Program::SeaweedFs);
    contract(&server.backend("some/prefix"), true);
}

fn bytes_of(len: usize) -> Bytes {
    (0..len).map(|position| (position % 251) as u8).collect()
}

fn fault<T>(result: Result<T>) -> Option<Fault> {
    result.err().and_then(|error| error.fault())
}

fn keys(listed: &[Listed]) -> Vec<&str> {
    listed.iter().map(|object| object.key.as_str()).collect()
}

/// Runs `work` with the numbers below `count`, on several threads.
fn in_parallel(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&number| number < count) {
                    work(number);
                }
            });
        }
    });
}

fn an_object_is_read_back_as_it_was_written(backend: &dyn Backend) {
    for len in [0, 1, 100_000, 6 * 1024 * 1024 + 1] {
        let key = format!("written/{len}");
        backend.create(&key, bytes_of(len)).unwrap();
        assert!(backend.read(&key).unwrap() == bytes_of(len), "{len} bytes");
    }
}

fn an_object_longer_than_it_may_be_is_refused(backend: &dyn Backend) {
    backend.create("limited/object", bytes_of(1000)).unwrap();
    assert_eq!(backend.read_up_to("limited/object", 1000).unwrap(), bytes_of(1000));
    assert_eq!(fault(backend.read_up_to("limited/object", 999)), Some(Fault::BadAnswer));
}

fn creating_the_same_bytes_again_changes_nothing(backend: &dyn Backend) {
    backend.create("again/object", bytes_of(10)).unwrap();
    let again = backend.create("again/object", bytes_of(10));
    assert!(matches!(fault(again), None | Some(Fault::AlreadyExists)));
    assert_eq!(backend.read("again/object").unwrap(), bytes_of(10));
}

fn a_missing_object_is_not_found(backend: &dyn Backend) {
    assert_eq!(fault(backend.read("missing/object")), Some(Fault::NotFound));
    backend.create("missing", bytes_of(1)).unwrap();
    assert_eq!(fault(backend.read("missing/object")), Some(Fault::NotFound), "below the name of an object");
    assert_eq!(backend.list("missing/").unwrap(), []);
}

fn removing_removes_and_may_be_repeated(backend: &dyn Backend) {
    backend.create("removed/a", bytes_of(1)).unwrap();
    backend.create("removed/b", bytes_of(1)).unwrap();
    for _ in 0..2 {
        backend.remove("removed/a").unwrap();
        assert_eq!(fault(backend.read("removed/a")), Some(Fault::NotFound));
        assert_eq!(keys(&backend.list("removed/").unwrap()), ["removed/b"]);
    }
    backend.create("removed/a", bytes_of(2)).unwrap();
    assert_eq!(backend.read("removed/a").unwrap(), bytes_of(2));
    backend.remove("removed/never/there").unwrap();
}

fn removing_many_removes_just_these(backend: &dyn Backend) {
    let key = |number: usize| format!("many/{}/object-{number:02}", number % 2);
    in_parallel(30, |number| backend.create(&key(number), bytes_of(number)).unwrap());
    let doomed: Vec<String> = (0..28).chain([99]).map(key).collect();
    for _ in 0..2 {
        backend.remove_all(&doomed).unwrap();
        assert_eq!(keys(&backend.list("many/").unwrap()), [key(28), key(29)]);
    }
    backend.remove_all(&[key(28)]).unwrap();
    backend.remove_all(&[]).unwrap();
    assert_eq!(keys(&backend.list("many/").unwrap()), [key(29)]);
}

fn ranges_are_exact(backend: &dyn Backend) {
    let bytes = bytes_of(10_000);
    backend.create("ranges/object", bytes.clone()).unwrap();
    for Range { start, end } in
        [0..1, 0..10_000, 5_000..5_001, 4_321..8_765, 9_999..10_000, 0..0, 77..77, 10_000..10_000]
    {
        let part = backend.read_range("ranges/object", start..end).unwrap();
        assert!(part == bytes[start as usize..end as usize], "{start}..{end}");
    }
}

#[allow(clippy::reversed_empty_ranges)]
fn a_range_past_the_end_is_refused(backend: &dyn Backend) {
    backend.create("ends/object", bytes_of(100)).unwrap();
    for range in [0..101, 99..101, 100..101, 200..300, 101..101, 50..49, 0..u64::MAX] {
        assert_eq!(fault(backend.read_range("ends/object", range.clone())), Some(Fault::BadAnswer), "{range:?}");
    }
}

fn a_range_of_a_missing_object_is_not_found(backend: &dyn Backend) {
    for range in [0..10, 0..0] {
        assert_eq!(fault(backend.read_range("nowhere", range)), Some(Fault::NotFound));
    }
}

fn a_listing_has_every_object_with_its_size_in_key_order(backend: &dyn Backend) {
    assert_eq!(backend.list("listed/").unwrap(), []);
    // '-' sorts before '/', which a walk through directories gets wrong.
    let sorted = ["listed/a-b", "listed/a/b", "listed/a/c/d", "listed/a0", "listed/b", "listed/b_c/d/e/f"];
    for index in [3, 0, 5, 1, 4, 2] {
        backend.create(sorted[index], bytes_of(index)).unwrap();
    }
    let listed = backend.list("listed/").unwrap();
    assert_eq!(keys(&listed), sorted);
    assert_eq!(listed.iter().map(|object| object.size).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    let all = backend.list("").unwrap();
    assert!(all.is_sorted_by(|left, right| left.key < right.key));
    assert!(listed.iter().all(|object| all.contains(object)));
}

fn a_listing_says_when_each_object_was_written(backend: &dyn Backend) {
    let before = Timestamp::now();
    backend.create("dated/object", bytes_of(1)).unwrap();
    let after = Timestamp::now();
    let modified = backend.list("dated/").unwrap()[0].modified;
    // S3 rounds to seconds, and clocks of file systems tick slowly.
    let slack = SignedDuration::from_secs(2);
    assert!(before - slack <= modified && modified <= after + slack, "{before} {modified} {after}");
    assert_eq!(backend.list("dated/").unwrap()[0].modified, modified);
}

fn a_prefix_ends_at_a_slash(backend: &dyn Backend) {
    for key in ["prefixes/ab/1", "prefixes/ab/2/3", "prefixes/abc/1", "prefixes/a/1"] {
        backend.create(key, bytes_of(1)).unwrap();
    }
    assert_eq!(keys(&backend.list("prefixes/ab/").unwrap()), ["prefixes/ab/1", "prefixes/ab/2/3"]);
    assert_eq!(keys(&backend.list("prefixes/ab/2/").unwrap()), ["prefixes/ab/2/3"]);
    assert_eq!(backend.list("prefixes/x/y/").unwrap(), []);
}

fn a_listing_longer_than_a_page_is_complete(backend: &dyn Backend) {
    in_parallel(MORE_THAN_A_PAGE, |number| backend.create(&format!("pages/{number:05}"), bytes_of(1)).unwrap());
    let listed = backend.list("pages/").unwrap();
    assert_eq!(listed.len(), MORE_THAN_A_PAGE);
    assert!((0..).zip(&listed).all(|(number, object)| object.key == format!("pages/{number:05}")));
}

fn objects_created_by_many_threads_are_all_listed(backend: &dyn Backend) {
    in_parallel(64, |number| {
        let key = format!("threads/{:x}/{number}", number % 16);
        backend.create(&key, bytes_of(number * 1000)).unwrap();
        assert!(backend.list("threads/").unwrap().iter().any(|object| object.key == key), "{key} is not listed");
        assert!(backend.read(&key).unwrap() == bytes_of(number * 1000));
    });
    assert_eq!(backend.list("threads/").unwrap().len(), 64);
}

fn names_that_are_no_keys_are_refused(backend: &dyn Backend) {
    for name in ["", "/", "/etc/passwd", "a/", "a//b", "..", "a/../../b", "./a", "UPPER", "a b", "a\0b"] {
        assert_eq!(fault(backend.create(name, bytes_of(1))), Some(Fault::Other), "create {name:?}");
        assert_eq!(fault(backend.read(name)), Some(Fault::Other), "read {name:?}");
        assert_eq!(fault(backend.read_range(name, 0..1)), Some(Fault::Other), "read a range of {name:?}");
        assert_eq!(fault(backend.remove(name)), Some(Fault::Other), "remove {name:?}");
    }
    for prefix in ["a", "/", "../", "a/../", "a//"] {
        assert_eq!(fault(backend.list(prefix)), Some(Fault::Other), "list {prefix:?}");
    }
}

fn the_time_of_the_server_is_about_ours(backend: &dyn Backend) {
    if let Some(time) = backend.server_time().unwrap() {
        assert!(time.duration_since(Timestamp::now()).abs().as_secs() < 60, "{time}");
    }
}

fn a_key_that_is_taken_is_refused_and_keeps_its_bytes(backend: &dyn Backend) {
    backend.create("taken/object", bytes_of(100)).unwrap();
    for other in [bytes_of(99), Bytes::from(vec![1; 100]), Bytes::new()] {
        assert_eq!(fault(backend.create("taken/object", other)), Some(Fault::AlreadyExists));
    }
    assert_eq!(backend.read("taken/object").unwrap(), bytes_of(100));
}

fn of_many_creates_of_one_key_exactly_one_wins(backend: &dyn Backend) {
    for round in 0..5 {
        let key = format!("rivals/{round}");
        let start = Barrier::new(THREADS);
        let rival = |number: usize| {
            start.wait();
            backend.create(&key, vec![number as u8; 1000].into())
        };
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || rival(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..THREADS).filter(|&number| results[number].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(backend.read(&key).unwrap(), vec![winners[0] as u8; 1000]);
        assert!(results.into_iter().filter(Result::is_err).all(|result| fault(result) == Some(Fault::AlreadyExists)));
    }
}

fn what_is_refused_is_told_in_one_line_that_names_the_object(backend: &dyn Backend) {
    backend.create("told/object", bytes_of(1)).unwrap();
    let message = backend.create("told/object", bytes_of(2)).unwrap_err().to_string();
    assert!(message.starts_with("Cannot create") && message.contains("told/object"), "{message}");
    assert!(!message.contains('\n') && message.len() < 500, "{message}");
}
