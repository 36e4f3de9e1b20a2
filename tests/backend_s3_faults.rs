//! What the S3 backend makes of servers that fail: it tries again where that can help, ends in bounded time with the
//! right fault where it cannot, and never passes on a part of an object.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlvault::backend::Backend;
use mlvault::backend::s3::S3Backend;
use mlvault::cancel::Cancel;
use mlvault::error::{Error, Fault, Result};
use mlvault::hears::Hears;
use mlvault::s3::{Bucket, ObjectHeaders, Patience, S3Options, Upload};

use crate::support::fault_server::{Answer, FaultServer, Request};
use crate::support::repo::Notes;
use crate::support::s3_server::{BUCKET, SECRET_ACCESS_KEY, options_for};

/// Attempts of [`IMPATIENT`].
const ATTEMPTS: usize = 3;
/// How often a read begins anew because of its body.
const BODY_ATTEMPTS: usize = 4;
/// Time within which everything must have ended, with plenty to spare.
const BOUND: Duration = Duration::from_secs(20);
/// Longer than any patience here.
const FOR_EVER: Duration = Duration::from_secs(60);

const IMPATIENT: Patience = Patience {
    attempts_max: ATTEMPTS as u32,
    wait_first: Duration::from_millis(10),
    wait_max: Duration::from_millis(20),
    connect: Duration::from_secs(1),
    answer: Duration::from_millis(700),
    stall: Duration::from_millis(700),
    bytes_per_second_min: 1024 * 1024,
};

fn connect(port: u16) -> S3Backend {
    S3Backend::connect(BUCKET, "prefix", &options_for(port), IMPATIENT).unwrap()
}

/// Starts a server, does something with it, and returns what came of it and how many requests it took.
fn with_server<T>(
    answer: impl FnMut(usize, &Request) -> Answer + Send + 'static,
    work: impl FnOnce(&dyn Backend) -> Result<T>,
) -> (Result<T>, usize) {
    let server = FaultServer::start(answer);
    let begun = Instant::now();
    let result = work(&connect(server.port()));
    assert!(begun.elapsed() < BOUND, "it took {:?}", begun.elapsed());
    if let Err(error) = &result {
        assert_is_fit_to_print(error);
    }
    (result, server.requests())
}

fn assert_is_fit_to_print(error: &Error) {
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 700, "{message}");
    for secret in [SECRET_ACCESS_KEY, "Signature", "X-Amz", "x-id=", "list-type"] {
        assert!(!message.contains(secret), "{message}");
    }
}

fn fault<T: std::fmt::Debug>(result: &Result<T>) -> Fault {
    result.as_ref().unwrap_err().fault().unwrap()
}

fn listing(keys: &[&str], truncated: bool, token: Option<&str>) -> Answer {
    let contents = |key: &&str| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
    let contents: String = keys.iter().map(contents).collect();
    let token =
        token.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>")).unwrap_or_default();
    Answer::with(
        200,
        format!("<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{token}{contents}</ListBucketResult>"),
    )
}

#[test]
fn a_server_that_recovers_is_tried_again() {
    let answer = |number, _: &Request| match number {
        0 => Answer::error(500, "InternalError"),
        1 => Answer::error(503, "SlowDown"),
        _ => Answer::with(200, "content"),
    };
    let (read, requests) = with_server(answer, |backend| backend.read("object"));
    assert_eq!(read.unwrap(), "content");
    assert_eq!(requests, 3);
    let (created, requests) = with_server(answer, |backend| backend.create("object", Bytes::from_static(b"content")));
    created.unwrap();
    assert_eq!(requests, 3);
}

#[test]
fn each_attempt_after_a_failure_is_told_with_its_reason_its_number_and_the_wait() {
    let server = FaultServer::start(|number, _| match number {
        0 => Answer::error(503, "SlowDown"),
        1 => Answer::Silent(FOR_EVER),
        _ => Answer::with(200, "content"),
    });
    let notes = Arc::new(Notes::default());
    let options =
        S3Options { hears: Hears::new(Arc::clone(&notes) as _, Cancel::default()), ..options_for(server.port()) };
    S3Backend::connect(BUCKET, "prefix", &options, IMPATIENT).unwrap().read("object").unwrap();
    let told = notes.0.lock().unwrap().clone();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("HTTP 503") && told[0].contains("attempt 2 of 3"), "{told:?}");
    assert!(told[1].contains("timeout") && told[1].contains("attempt 3 of 3"), "{told:?}");
    assert!(told.iter().all(|line| line.contains(" s: ") && line.contains("127.0.0.1")), "{told:?}");
    // What is no failure of the server is not told.
    let server = FaultServer::start(|_, _| Answer::error(404, "NoSuchKey"));
    let notes = Arc::new(Notes::default());
    let options =
        S3Options { hears: Hears::new(Arc::clone(&notes) as _, Cancel::default()), ..options_for(server.port()) };
    assert!(S3Backend::connect(BUCKET, "prefix", &options, IMPATIENT).unwrap().read("object").is_err());
    assert!(notes.0.lock().unwrap().is_empty());
}

#[test]
fn a_server_that_has_no_conditional_writes_is_written_to_without_and_asked_once_only() {
    let refusing = |_, request: &Request| match (request.headers.contains_key("if-none-match"), request.method.as_str())
    {
        (true, _) => Answer::error(501, "NotImplemented"),
        (false, "PUT") => Answer::with(200, ""),
        _ => Answer::error(404, "NoSuchKey"),
    };
    let server = FaultServer::start(refusing);
    let backend = connect(server.port());
    backend.create("one", Bytes::from_static(b"content")).unwrap();
    assert_eq!(server.requests(), 2);
    backend.create("two", Bytes::from_static(b"content")).unwrap();
    assert_eq!(server.requests(), 3);
    // Refused for another reason, a write is not tried in vain for ever, and the first answer is told.
    let without_writes = |_, _: &Request| Answer::error(501, "NotImplemented");
    let (created, requests) =
        with_server(without_writes, |backend| backend.create("one", Bytes::from_static(b"content")));
    assert_eq!((fault(&created), requests), (Fault::Unsupported, 2));
}

#[test]
fn an_upload_in_parts_outlasts_a_conflict_as_other_writes_do() {
    let of_upload = |conflicts: usize| {
        move |number: usize, request: &Request| match (request.method.as_str(), number) {
            ("POST", 0) => Answer::with(
                200,
                "<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>",
            ),
            ("PUT", _) => Answer::Full(200, vec![("ETag", "\"part\"".to_owned())], Vec::new()),
            ("POST", number) if number < 2 + conflicts => Answer::error(409, "ConditionalRequestConflict"),
            ("POST", _) => {
                Answer::with(200, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
            }
            _ => Answer::with(204, ""),
        }
    };
    let write = |port: u16| -> Result<()> {
        let bucket = Bucket::connect(BUCKET, &options_for(port), IMPATIENT)?;
        let upload = Upload::begin(&bucket, "object", &ObjectHeaders::default())?;
        let part = upload.put_later(1, Bytes::from_static(b"content")).wait()?;
        upload.complete(vec![part], true)
    };
    let server = FaultServer::start(of_upload(3));
    write(server.port()).unwrap();
    assert_eq!(server.requests(), 2 + 3 + 1);
    let server = FaultServer::start(of_upload(usize::MAX - 2));
    assert_eq!(fault(&write(server.port())), Fault::Unavailable, "attempts are bounded");
}

#[test]
fn a_server_that_stays_overloaded_is_unavailable() {
    for status in [500, 502, 503, 504] {
        let answer = move |_, _: &Request| Answer::error(status, "SlowDown");
        let (read, requests) = with_server(answer, |backend| backend.read("object"));
        assert_eq!(fault(&read), Fault::Unavailable);
        assert_eq!(requests, ATTEMPTS);
        let message = read.unwrap_err().to_string();
        let expected = format!("SlowDown: because of this (HTTP {status})");
        assert_eq!(message, format!("Cannot read \"s3://{BUCKET}/prefix/object\": {expected}"));
    }
    let (listed, _) = with_server(|_, _| Answer::with(503, "<html>Bad gateway</html>"), |backend| backend.list(""));
    assert_eq!(fault(&listed), Fault::Unavailable);
}

#[test]
fn a_server_that_is_not_there_is_unavailable() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let read = connect(port).read("object");
    assert_eq!(fault(&read), Fault::Unavailable);
    assert_is_fit_to_print(read.as_ref().unwrap_err());
    let message = read.unwrap_err().to_string();
    assert!(message.to_lowercase().contains("connection refused"), "{message}");
}

#[test]
fn a_body_that_breaks_off_is_read_again_from_its_beginning() {
    let answer = |number, _: &Request| match number {
        0 => Answer::CutOff(1000, vec![1; 500]),
        1 => Answer::CutOff(1000, vec![1; 999]),
        _ => Answer::with(200, vec![2; 1000]),
    };
    let (read, requests) = with_server(answer, |backend| backend.read("object"));
    assert_eq!(read.unwrap(), vec![2; 1000]);
    assert_eq!(requests, 3);
}

#[test]
fn a_body_that_always_breaks_off_is_never_returned_in_part() {
    for len in [0, 1, 500, 999] {
        let answer = move |_, _: &Request| Answer::CutOff(1000, vec![1; len]);
        let (read, requests) = with_server(answer, |backend| backend.read("object"));
        assert_eq!(fault(&read), Fault::Unavailable);
        assert_eq!(requests, BODY_ATTEMPTS);
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let silent = |_, _: &Request| Answer::Silent(FOR_EVER);
    let (read, requests) = with_server(silent, |backend| backend.read("object"));
    assert_eq!((fault(&read), requests), (Fault::Unavailable, ATTEMPTS));
    let (created, _) = with_server(silent, |backend| backend.create("object", vec![0; 100_000].into()));
    assert_eq!(fault(&created), Fault::Unavailable);
    let (listed, _) = with_server(silent, |backend| backend.list(""));
    assert_eq!(fault(&listed), Fault::Unavailable);
}

#[test]
fn a_server_that_does_not_take_the_body_is_given_up() {
    // It accepts connections, by the kernel's grace, and never reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let bytes = vec![0; 16 * 1024 * 1024];
    let created = connect(listener.local_addr().unwrap().port()).create("object", bytes.into());
    assert_eq!(fault(&created), Fault::Unavailable);
    assert!(begun.elapsed() < BOUND, "the wait is for progress, not for the whole body: {:?}", begun.elapsed());
}

#[test]
fn a_body_that_stands_still_is_given_up() {
    let stalled = |_, _: &Request| Answer::Stalled(1000, vec![1; 500], FOR_EVER);
    let (read, requests) = with_server(stalled, |backend| backend.read("object"));
    assert_eq!((fault(&read), requests), (Fault::Unavailable, BODY_ATTEMPTS));
    let (listed, _) = with_server(stalled, |backend| backend.list(""));
    assert_eq!(fault(&listed), Fault::Unavailable);
}

#[test]
fn what_is_forbidden_is_not_tried_again() {
    let forbidden = |_, _: &Request| Answer::error(403, "AccessDenied");
    let (read, requests) = with_server(forbidden, |backend| backend.read("object"));
    assert_eq!((fault(&read), requests), (Fault::Denied, 1));
    assert!(read.unwrap_err().to_string().contains("AccessDenied: because of this (HTTP 403)"));
    let (created, _) = with_server(forbidden, |backend| backend.create("object", Bytes::new()));
    assert_eq!(fault(&created), Fault::Denied);
    let (removed, _) = with_server(forbidden, |backend| backend.remove("object"));
    assert_eq!(fault(&removed), Fault::Denied);
}

#[test]
fn a_server_that_does_not_remove_many_at_once_is_asked_one_by_one() {
    let keys = ["a", "b", "c"].map(str::to_owned);
    let answer = |_, request: &Request| match request.method.as_str() {
        "POST" => Answer::error(400, "MissingContentMD5"),
        _ => Answer::with(204, ""),
    };
    let (removed, requests) = with_server(answer, |backend| {
        backend.remove_all(&keys)?;
        backend.remove_all(&keys)
    });
    assert_eq!((removed.is_ok(), requests), (true, 1 + 3 + 3));

    // One that does, but not this object: what is wrong with it is told by name.
    let answer = |_, request: &Request| match (request.method.as_str(), request.target.contains("/prefix/b")) {
        ("POST", _) => Answer::with(
            200,
            "<DeleteResult><Error><Key>prefix/b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>",
        ),
        (_, true) => Answer::error(403, "AccessDenied"),
        _ => Answer::with(204, ""),
    };
    let (removed, _) = with_server(answer, |backend| backend.remove_all(&keys));
    assert_eq!(fault(&removed), Fault::Denied);
    assert!(removed.unwrap_err().to_string().contains("prefix/b"));
}

#[test]
fn a_missing_bucket_is_named() {
    let answer = |_, _: &Request| Answer::error(404, "NoSuchBucket");
    let (listed, _) = with_server(answer, |backend| backend.list(""));
    assert_eq!(fault(&listed), Fault::NotFound);
    let message = listed.unwrap_err().to_string();
    assert!(message.contains("NoSuchBucket") && message.contains(BUCKET), "{message}");
    let (removed, _) = with_server(answer, |backend| backend.remove("object"));
    assert_eq!(fault(&removed), Fault::NotFound);
}

#[test]
fn a_full_server_is_full() {
    for (status, code) in [(507, "XMinioStorageFull"), (403, "QuotaExceeded"), (507, "Whatever")] {
        let answer = move |_, _: &Request| Answer::error(status, code);
        let (created, _) = with_server(answer, |backend| backend.create("object", Bytes::from_static(b"content")));
        assert_eq!(fault(&created), Fault::Full);
    }
}

#[test]
fn an_answer_that_is_no_listing_does_not_pass_for_an_empty_one() {
    let listing = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>prefix/a</Key>";
    let bodies = ["", "<html><body>Please log in</body></html>", "{}", "<ListBucketResult/>", "\u{0}\u{1}", listing];
    for body in bodies {
        let (listed, _) = with_server(move |_, _| Answer::with(200, body), |backend| backend.list(""));
        assert_eq!(fault(&listed), Fault::BadAnswer, "{body:?}");
    }
}

#[test]
fn a_listing_of_several_pages_is_put_together() {
    let answer = |number, request: &Request| match number {
        0 => listing(&["prefix/a", "prefix/directory/"], true, Some("t1")),
        1 if request.target.contains("continuation-token=t1") => listing(&[], true, Some("t2")),
        2 if request.target.contains("continuation-token=t2") => listing(&["prefix/b"], false, None),
        _ => Answer::error(400, "InvalidArgument"),
    };
    let (listed, _) = with_server(answer, |backend| backend.list(""));
    let keys: Vec<String> = listed.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["a", "b"]);
}

#[test]
fn a_listing_that_does_not_advance_is_refused() {
    let same_token = |number, _: &Request| listing(&[&format!("prefix/{number}")], true, Some("token"));
    let same_page = |number, _: &Request| listing(&["prefix/a", "prefix/b"], true, Some(&format!("t{number}")));
    let no_token = |_, _: &Request| listing(&["prefix/a"], true, None);
    let circle = |number, _: &Request| listing(&[&format!("prefix/{number}")], true, Some(["a", "b", "c"][number % 3]));
    let (result, requests) = with_server(circle, |backend| backend.list(""));
    assert_eq!(fault(&result), Fault::BadAnswer);
    assert!(result.unwrap_err().to_string().contains("goes in circles"));
    assert_eq!(requests, 4);
    for (result, requests) in [
        with_server(same_token, |backend| backend.list("")),
        with_server(same_page, |backend| backend.list("")),
        with_server(no_token, |backend| backend.list("")),
    ] {
        assert_eq!(fault(&result), Fault::BadAnswer);
        assert!(requests <= 2, "{requests}");
    }
}

#[test]
fn an_object_that_is_listed_twice_counts_once() {
    let overlap = |number, _: &Request| match number {
        0 => listing(&["prefix/a", "prefix/b"], true, Some("t")),
        _ => listing(&["prefix/b", "prefix/c", "prefix/c"], false, None),
    };
    let (listed, _) = with_server(overlap, |backend| backend.list(""));
    let keys: Vec<String> = listed.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    let torn = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>prefix/a</Key><Size>1</Size></Contents>\
                <Contents><Key>prefix/a</Key><Size>2</Size></Contents></ListBucketResult>";
    let (listed, _) = with_server(move |_, _| Answer::with(200, torn), |backend| backend.list(""));
    assert_eq!(fault(&listed), Fault::BadAnswer);
}

#[test]
fn a_listing_of_what_was_not_asked_for_is_refused() {
    let (listed, _) = with_server(|_, _| listing(&["other/a"], false, None), |backend| backend.list(""));
    assert_eq!(fault(&listed), Fault::BadAnswer);
}

#[test]
fn a_server_that_ignores_ranges_is_found_out() {
    let whole = |_, _: &Request| Answer::with(200, vec![1; 1000]);
    for range in [0..10, 10..20, 500..1000, 500..1500] {
        let (read, requests) = with_server(whole, |backend| backend.read_range("object", range.clone()));
        assert_eq!((fault(&read), requests), (Fault::BadAnswer, 1), "{range:?}");
    }
    let (read, _) = with_server(whole, |backend| backend.read_range("object", 0..1000));
    assert_eq!(read.unwrap().len(), 1000, "that range is the whole object");
    let shifted = |_, _: &Request| Answer::Full(206, vec![("Content-Range", "bytes 0-9/1000".to_owned())], vec![1; 10]);
    let (read, _) = with_server(shifted, |backend| backend.read_range("object", 10..20));
    assert_eq!(fault(&read), Fault::BadAnswer);
}

#[test]
fn an_object_of_absurd_size_is_refused_before_it_is_read() {
    let huge = |_, _: &Request| Answer::CutOff(1 << 40, vec![1; 10]);
    let (read, requests) = with_server(huge, |backend| backend.read("object"));
    assert_eq!((fault(&read), requests), (Fault::BadAnswer, 1));
}

#[test]
fn an_object_is_refused_before_it_is_read_if_its_answer_is_longer_than_it_may_be() {
    let (read, requests) =
        with_server(|_, _| Answer::CutOff(1001, vec![1; 10]), |backend| backend.read_up_to("object", 1000));
    assert_eq!((fault(&read), requests), (Fault::BadAnswer, 1));
    // Nor is one taken whose length is not told.
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (read, _) = with_server(|_, _| Answer::Relayed(chunked.into()), |backend| backend.read_up_to("object", 1000));
    assert_eq!(fault(&read), Fault::BadAnswer);
}

#[test]
fn every_write_is_conditional_and_carries_a_checksum() {
    let answer = |_, request: &Request| {
        let header = |name: &str| request.headers.get(name).map(String::as_str);
        let is_right = header("if-none-match") == Some("*")
            && header("x-amz-checksum-crc32") == Some("/sUwqQ==")
            && header("content-length") == Some("7")
            && request.method == "PUT"
            && request.target.starts_with("/vault/prefix/a/b?")
            && request.body == b"content";
        if is_right { Answer::with(200, "") } else { Answer::error(400, "BadRequest") }
    };
    with_server(answer, |backend| backend.create("a/b", Bytes::from_static(b"content"))).0.unwrap();
}

/// A store of one object that honours create-only. What it does with the first PUT, beyond storing it, is `first`.
fn store(first: impl Fn() -> Answer + Send + 'static, may_read: bool) -> impl FnMut(usize, &Request) -> Answer + Send {
    let mut stored: Option<Vec<u8>> = None;
    move |_, request| match (request.method.as_str(), &stored) {
        ("PUT", None) => {
            stored = Some(request.body.clone());
            first()
        }
        ("PUT", Some(_)) => Answer::error(412, "PreconditionFailed"),
        (_, Some(_)) if !may_read => Answer::error(403, "AccessDenied"),
        (_, Some(bytes)) => Answer::with(200, bytes.clone()),
        (_, None) => Answer::error(404, "NoSuchKey"),
    }
}

#[test]
fn a_write_whose_answer_was_lost_is_recognised_as_its_own() {
    let content = || Bytes::from_static(b"content");
    for first in [|| Answer::Dropped, || Answer::Silent(FOR_EVER), || Answer::error(500, "InternalError")] {
        let (created, _) = with_server(store(first, true), |backend| backend.create("object", content()));
        created.unwrap();
    }
    // A proxy may have repeated the request, so that the first answer seen here is the refusal already.
    let (created, _) = with_server(store(|| Answer::error(412, "PreconditionFailed"), true), |backend| {
        backend.create("object", content())
    });
    created.unwrap();
}

#[test]
fn a_write_that_finds_other_bytes_is_refused() {
    for other in [&b"altered"[..], b"content and more", b""] {
        let (created, _) = with_server(store(|| Answer::with(200, ""), true), |backend| {
            backend.create("object", Bytes::from_static(b"content"))?;
            backend.create("object", Bytes::from_static(other))
        });
        assert_eq!(fault(&created), Fault::AlreadyExists);
    }
}

#[test]
fn a_refused_write_stays_refused_where_reading_is_forbidden() {
    let (created, _) = with_server(store(|| Answer::Dropped, false), |backend| {
        backend.create("object", Bytes::from_static(b"content"))
    });
    assert_eq!(fault(&created), Fault::AlreadyExists);
}

#[test]
fn a_refused_write_that_cannot_be_looked_at_is_no_refusal() {
    let answer = |_, request: &Request| match request.method.as_str() {
        "PUT" => Answer::error(412, "PreconditionFailed"),
        _ => Answer::error(503, "SlowDown"),
    };
    let (created, _) = with_server(answer, |backend| backend.create("object", Bytes::from_static(b"content")));
    assert_eq!(fault(&created), Fault::Unavailable);
}

#[test]
fn a_conflict_of_writes_is_tried_again_a_few_times() {
    let passing = |number, _: &Request| match number {
        0 | 1 => Answer::error(409, "ConditionalRequestConflict"),
        _ => Answer::with(200, ""),
    };
    let (created, requests) = with_server(passing, |backend| backend.create("object", Bytes::new()));
    created.unwrap();
    assert_eq!(requests, 3);
    let lasting = |_, _: &Request| Answer::error(409, "ConditionalRequestConflict");
    let (created, requests) = with_server(lasting, |backend| backend.create("object", Bytes::new()));
    assert_eq!(fault(&created), Fault::Unavailable);
    assert_eq!(requests, 6);
}

#[test]
fn the_time_of_the_server_is_read_even_from_a_refusal() {
    for status in [200, 403] {
        let date = || vec![("Date", "Tue, 03 Nov 2026 08:09:10 GMT".to_owned())];
        let (time, _) =
            with_server(move |_, _| Answer::Full(status, date(), Vec::new()), |backend| backend.server_time());
        assert_eq!(time.unwrap().unwrap().to_string(), "2026-11-03T08:09:10Z");
    }
    let (time, _) = with_server(|_, _| Answer::with(200, ""), |backend| backend.server_time());
    assert_eq!(time.unwrap(), None);
}
