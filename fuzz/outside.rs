//! Targets of what comes from outside a repository, or lies beside it: databases, servers, listings, settings, and files of
//! mlvault's own that somebody may have changed.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object};
use mlvault::config::file::{ConfigFile, parse_setting};
use mlvault::database::pgpass;
use mlvault::format::deployment::DeploymentRecord;
use mlvault::format::verified;
use mlvault::mlflow::catalogue::{
    Alias, Experiment, LoggedModel, ModelVersion, Orphan, Pair, Reference, RegisteredModel, Run, StoredTable,
};
use mlvault::mlflow::uri;
use mlvault::restore::deployment::row_spool::RowSpool;
use mlvault::retention::decide::{Candidate, decide};
use mlvault::s3::listing::Progress;
use mlvault::s3::sorted::SortedObjects;
use mlvault::tracking::json;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a check remembers, as the holder of the keys could have written it.
pub fn verified(data: &[u8]) {
    let Ok(packs) = verified::decode(data) else { return };
    let again = verified::encode(&packs);
    assert_eq!(verified::decode(&again).as_ref(), Ok(&packs));
    assert!(again.len() <= data.len(), "it grew");
}

pub fn deployment_record(data: &[u8]) {
    decodes_again::<DeploymentRecord>(data);
}

/// The first byte tells which file the line is from.
pub fn catalogue_line(data: &[u8]) {
    let Some((file, line)) = data.split_first() else { return };
    match file % 10 {
        0 => decodes_again::<Reference>(line),
        1 => decodes_again::<Orphan>(line),
        2 => decodes_again::<StoredTable>(line),
        3 => decodes_again::<Experiment>(line),
        4 => decodes_again::<Run>(line),
        5 => decodes_again::<LoggedModel>(line),
        6 => decodes_again::<RegisteredModel>(line),
        7 => decodes_again::<ModelVersion>(line),
        8 => decodes_again::<Alias>(line),
        _ => decodes_again::<Pair>(line),
    }
}

fn decodes_again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(decoded) = serde_json::from_slice::<T>(data) else { return };
    let again = serde_json::to_vec(&decoded).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&again).expect("what was written can be read"), decoded);
}

/// Each line is a row, and its first letter the owner.
pub fn row_spool(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let rows: Vec<(String, &str)> = text.split('\n').map(|line| (line.chars().take(1).collect(), line)).collect();
    let mut spool = RowSpool::create(&std::env::temp_dir()).expect("a scratch file");
    for (number, (owner, row)) in rows.iter().enumerate() {
        spool.put(owner, row).expect("a row is set aside");
        if number % 3 == 2 {
            spool.flush().expect("rows are written");
        }
    }
    spool.flush().expect("rows are written");
    let owners: std::collections::BTreeSet<&String> = rows.iter().map(|(owner, _)| owner).collect();
    for owner in owners {
        let mut found = Vec::<String>::new();
        let read = spool.read(owner, &mut |row| {
            found.push(row);
            Ok(())
        });
        read.expect("rows come back");
        let mine: Vec<&str> = rows.iter().filter(|(of, _)| of == owner).map(|(_, row)| *row).collect();
        assert_eq!(found, mine);
    }
}

/// A location has one form, and what is below it stays below it.
pub fn mlflow_uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let normal = uri::normalize(text);
    assert_eq!(uri::normalize(&normal), normal, "the one form has another one");
    assert!(normal.is_empty() == text.is_empty());
    let root = uri::root_of(&normal);
    assert!(normal.starts_with(&root) || normal == root.trim_end_matches('/'), "{normal:?} is not below {root:?}");
    let joined = uri::join(&normal, "a/b");
    assert!(uri::below(&joined, &normal).is_some_and(|below| below.trim_start_matches('/') == "a/b"), "{joined:?}");
    assert_eq!(uri::below(&normal, &normal), Some(""));
    let _ = (uri::version_source(text), uri::version_source(&normal));
}

/// The same facts have the same bytes, and putting them in order changes no fact.
pub fn tracking_answer(data: &[u8]) {
    let Ok(mut value) = json::parse(data) else { return };
    let count = values_in(&value);
    json::put_in_order(&mut value);
    assert_eq!(values_in(&value), count);
    let ordered = value.to_string();
    let mut again = json::parse(ordered.as_bytes()).expect("what is written is JSON");
    json::put_in_order(&mut again);
    assert_eq!(again.to_string(), ordered);
}

fn values_in(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(values_in).sum::<usize>(),
        serde_json::Value::Object(fields) => 1 + fields.values().map(values_in).sum::<usize>(),
        _ => 1,
    }
}

/// A line gives a password only to what it names, and never more than stands behind its fourth colon.
pub fn pgpass(data: &[u8]) {
    let Ok(line) = std::str::from_utf8(data) else { return };
    for wanted in [["h", "5432", "d", "u"], ["", "", "", ""], ["a:b", "\\", "d", "u"]] {
        let Some(password) = pgpass::password_of(line, &wanted) else { continue };
        assert!(!line.starts_with('#') && line.matches(':').count() >= 4);
        assert!(password.len() <= line.len());
        assert!(pgpass::password_of(&format!("x{line}"), &wanted).is_none(), "another host has it too");
    }
}

/// Each line is an object, as `key TAB size TAB etag`; `--token` ends a page, and names the next one.
pub fn listing(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (prefix, text) = text.split_once('\n').unwrap_or(("", text));
    let (mut progress, mut sorted, mut objects) =
        (Progress::new(prefix.to_owned()), SortedObjects::default(), Vec::new());
    for line in text.split('\n').chain(["--"]) {
        let Some(token) = line.strip_prefix("--") else {
            objects.push(listed_object(line));
            continue;
        };
        let page = page(std::mem::take(&mut objects), token);
        if !progress.has_more() {
            break;
        }
        let Ok(found) = progress.take(&page) else { return };
        found.into_iter().try_for_each(|object| sorted.take_in(object)).expect("the scratch directory can be used");
    }
    sorted.sort().expect("nothing is wrong with what was written");
    let listed: Vec<_> = std::iter::from_fn(|| sorted.take_first().expect("it can be read again")).collect();
    assert!(listed.is_sorted_by(|a, b| a.key < b.key), "keys do not ascend");
    assert!(listed.iter().all(|object| object.key.starts_with(prefix.as_bytes())));
}

fn listed_object(line: &str) -> Object {
    let mut fields = line.split('\t');
    let key = fields.next().map(str::to_owned);
    let size = fields.next().and_then(|size| size.parse().ok());
    let etag = fields.next().map(str::to_owned);
    Object::builder().set_key(key).set_size(size).set_e_tag(etag).build()
}

fn page(objects: Vec<Object>, token: &str) -> ListObjectsV2Output {
    let page = ListObjectsV2Output::builder().set_contents(Some(objects)).is_truncated(!token.is_empty());
    let page = if token.starts_with('%') { page.encoding_type(EncodingType::Url) } else { page };
    if token == "?" { page.build() } else { page.next_continuation_token(token).build() }
}

/// A policy in TOML. Whatever it says, the newest complete snapshot stays, and each rule by itself keeps no more than all.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(file) = ConfigFile::parse(&format!("[policy.a]\n{text}")) else { return };
    let Some(spec) = file.policy.get("a") else { return };
    let Ok(policy) = spec.policy() else { return };
    assert!(!policy.rules().is_empty() && !policy.to_string().is_empty());
    let candidates: Vec<Candidate> = (0..12).map(candidate).collect();
    let (now, zone) = (candidates[10].started, jiff::tz::TimeZone::UTC);
    let kept = decide(&candidates, &policy, now, &zone);
    assert_eq!(kept.len(), candidates.len());
    assert!(kept.iter().all(|decision| !decision.reasons.is_empty()));
    let stays = |number: usize| kept.iter().any(|decision| decision.id == candidates[number].id && decision.keep);
    assert!(stays(10), "the newest complete snapshot goes");
    assert!(stays(11), "one from the future goes");
    assert!(stays(3), "one that is held goes");
}

/// The last one is from the future, the fourth is held, and every fifth is incomplete.
fn candidate(number: u8) -> Candidate {
    let started = jiff::Timestamp::from_second(1_767_225_600 + 40_000 * i64::from(number)).expect("a valid time");
    Candidate {
        id: super::snapshot_of_day(number).id,
        started,
        arrived: started,
        is_doubtful: false,
        signer: super::SLOT,
        by: "cron".to_owned(),
        group: "g".to_owned(),
        tags: if number.is_multiple_of(2) { vec!["a".to_owned()] } else { Vec::new() },
        is_complete: number % 5 != 1,
        hold: (number == 3).then(|| "audit".to_owned()),
        is_released: number.is_multiple_of(4),
    }
}

/// `--set KEY=VALUE`.
pub fn setting(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(table) = parse_setting(text) else { return };
    // A text that is no TOML stands for itself; as a text in quotes it says the same.
    if let Some((key, value)) = text.split_once('=')
        && table.values().any(|found| found.as_str() == Some(value.trim()))
    {
        let quoted = format!("{key}={}", serde_json::Value::from(value.trim()));
        assert!(parse_setting(&quoted).is_some_and(|again| again == table), "{quoted:?}");
    }
    let _ = table.try_into::<ConfigFile>();
}
