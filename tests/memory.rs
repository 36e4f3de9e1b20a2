//! Memory stays below the limit, whatever the source and the target: one large file or object, or very many small ones.
//!
//! Method: the real program runs with the least limit that can be set, and its own high-water mark is read from
//! `/proc` until it ends.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use mlvault::id::SessionId;
use mlvault::repository::layout::Object;
use mlvault::repository::memory_plan::MEMORY_LIMIT_MIN;
use mlvault::units::{GIB, KIB, MIB};

use crate::support::cli::Runner;
use crate::support::s3_server::{ACCESS_KEY_ID, Program, S3Server, SECRET_ACCESS_KEY};

/// Twice the limit, so that buffering it whole would show.
const LARGE_FILE_BYTES: u64 = 2 * MEMORY_LIMIT_MIN + 13 * MIB;
const SMALL_FILES: usize = 20_000;
const SMALL_OBJECTS: usize = 3_000;

fn write_noise(path: &Path, len: u64) {
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut block = vec![0; MIB as usize];
    let mut file = File::create(path).unwrap();
    let mut left = len;
    while left > 0 {
        noise.fill(&mut block);
        let part = left.min(MIB);
        file.write_all(&block[..part as usize]).unwrap();
        left -= part;
    }
}

/// Runs a command that must succeed, and returns the largest resident set that was seen, in bytes.
fn peak_of(command: Command) -> u64 {
    let (peak, status) = run(command);
    assert!(status.success());
    peak
}

/// Runs a command to its end. Returns the largest resident set that was seen, in bytes, and how it ended.
fn run(mut command: Command) -> (u64, ExitStatus) {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let seen = fs::read_to_string(&status).ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        peak = peak.max(seen.unwrap_or(0) * 1024);
        if let Some(ended) = child.try_wait().unwrap() {
            return (peak, ended);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_large_file_and_many_small_ones_stay_below_the_memory_limit() {
    let runner = Runner::with_repository();
    let source = runner.path("source");
    fs::create_dir_all(source.join("small")).unwrap();
    write_noise(&source.join("large"), LARGE_FILE_BYTES);
    for number in 0..SMALL_FILES {
        fs::write(source.join(format!("small/{number}")), format!("{number} ").repeat(number % 40)).unwrap();
    }
    let limit = (MEMORY_LIMIT_MIN / MIB).to_string() + "M";
    let mut backup = runner.command(["--quiet", "--memory-limit", &limit, "backup", "source"]);
    backup.current_dir(runner.path("."));
    let backup_peak = peak_of(backup);
    let target = runner.path("target");
    let restore = ["--quiet", "--memory-limit", &limit, "restore", "--snapshot", "latest", "--target"];
    let mut command = runner.command(restore);
    command.arg(&target);
    let restore_peak = peak_of(command);
    let dump_peak = peak_of(runner.command(["--quiet", "--memory-limit", &limit, "dump", "latest"]));
    assert!(backup_peak < MEMORY_LIMIT_MIN, "backup: {} MiB", backup_peak / MIB);
    assert!(restore_peak < MEMORY_LIMIT_MIN, "restore: {} MiB", restore_peak / MIB);
    assert!(dump_peak < MEMORY_LIMIT_MIN, "dump: {} MiB", dump_peak / MIB);
    assert_eq!(fs::read_dir(target.join("source/small")).unwrap().count(), SMALL_FILES);
}

#[test]
fn buckets_stay_below_the_memory_limit() {
    let (runner, server) = (Runner::with_repository(), S3Server::start(Program::Rclone));
    let source = server.bucket_directory().join("from");
    fs::create_dir_all(source.join("small")).unwrap();
    write_noise(&source.join("large"), LARGE_FILE_BYTES);
    for number in 0..SMALL_OBJECTS {
        fs::write(source.join(format!("small/{number}")), format!("{number} ").repeat(number % 40)).unwrap();
    }
    let limit = (MEMORY_LIMIT_MIN / MIB).to_string() + "M";
    let peak = |arguments: &[&str]| {
        let mut command = runner.command(["--quiet", "--memory-limit", &limit]);
        command.args(arguments).env("MLVAULT_S3_ENDPOINT", server.options().endpoint.unwrap());
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        peak_of(command)
    };
    let backup_peak = peak(&["backup", "s3://vault/from"]);
    let restore = ["restore", "--snapshot", "latest", "--target", "s3://vault/to"];
    let restore_peak = peak(&restore);
    // What is there is read to be compared.
    let compare_peak = peak(&restore);
    assert!(backup_peak < MEMORY_LIMIT_MIN, "backup: {} MiB", backup_peak / MIB);
    assert!(restore_peak < MEMORY_LIMIT_MIN, "restore: {} MiB", restore_peak / MIB);
    assert!(compare_peak < MEMORY_LIMIT_MIN, "compare: {} MiB", compare_peak / MIB);
    println!("MiB: backup {}, restore {}, compare {}", backup_peak / MIB, restore_peak / MIB, compare_peak / MIB);
    let target = server.bucket_directory().join("to");
    assert_eq!(fs::metadata(target.join("large")).unwrap().len(), LARGE_FILE_BYTES);
    assert_eq!(fs::read_dir(target.join("small")).unwrap().count(), SMALL_OBJECTS);
}

/// Objects of each kind that somebody puts into the bucket: as large as one can be, and larger.
const LARGE_JUNK: u64 = 6;
const SMALL_JUNK: u64 = 200;

#[test]
fn junk_as_large_as_can_be_under_every_prefix_stays_below_the_memory_limit() {
    let runner = Runner::with_repository();
    runner.write("file", "content");
    let snapshot = runner.backup();
    let repo = runner.path("repo");
    // What is in the clear is right, so that it is found out as late as can be. Holes cost no disk, and are read like any
    // other bytes.
    let mut header = fs::read(repo.join(format!("snapshots/{snapshot}"))).unwrap()[..64].to_vec();
    let mut plant = |key: String, bytes: u64| {
        header[8] = Object::parse(&key).and_then(Object::envelope).map_or(0, |(kind, _)| kind as u8);
        let path = repo.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::create(path).unwrap();
        file.write_all(&header).unwrap();
        file.set_len(bytes).unwrap();
    };
    let id = |number: u64| format!("{number:032x}");
    let limit_of = |key: &str| Object::parse(key).unwrap().bytes_max();
    for number in 0..LARGE_JUNK {
        let outcome = format!("snapshots/{}", id(number));
        plant(outcome.clone(), limit_of(&outcome));
        for kind in ["data", "meta"] {
            let segment = format!("index/{kind}/{number:064x}");
            plant(segment.clone(), limit_of(&segment));
            plant(format!("packs/{kind}/00/{number:064x}"), 128 * MIB);
            plant(format!("packs/{kind}/readme-{number}"), 4 * GIB);
        }
        plant(format!("snapshots/{}", id(1000 + number)), 4 * GIB);
        plant(format!("sessions/{}", id(number)), 4 * GIB);
        plant(format!("readme-{number}"), 4 * GIB);
    }
    let session: SessionId = snapshot.parse().unwrap();
    plant(Object::Forgotten(session).key(), limit_of(&Object::Forgotten(session).key()));
    for number in 0..SMALL_JUNK {
        let note = format!("notes/{}", id(number));
        plant(note.clone(), limit_of(&note));
        plant(format!("keys/{number:016x}"), 8 * KIB);
    }
    let limit = (MEMORY_LIMIT_MIN / MIB).to_string() + "M";
    let target = runner.path("target");
    let commands: [(&[&str], i32); 8] = [
        (&["snapshots"], 3),
        (&["backup", "."], 0),
        (&["restore", "--snapshot", &snapshot, "--target", target.to_str().unwrap()], 0),
        (&["forget", &snapshot], 1),
        (&["prune"], 1),
        (&["check"], 1),
        (&["key", "list"], 3),
        (&["repair", "objects", "--dry-run"], 0),
    ];
    for (arguments, code) in commands {
        let mut command = runner.command(["--quiet", "--memory-limit", &limit]);
        command.args(arguments);
        let (peak, status) = run(command);
        println!("{arguments:?}: {} MiB", peak / MIB);
        assert_eq!(status.code(), Some(code), "{arguments:?}");
        assert!(peak < MEMORY_LIMIT_MIN, "{arguments:?}: {} MiB", peak / MIB);
    }
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "content");
}
