//! A real race: the built program against a real S3 server, three that back up and two that forget and prune, each killed
//! again and again.
//!
//! `MLVAULT_RACE_SECONDS=60` lets it run for longer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use mlvault::check::ReadData;
use mlvault::crypto::passphrase::KeyFile;
use tempfile::TempDir;

use crate::support::repo::{self, Vault, key_file, noise, tree};
use crate::support::s3_server::{ACCESS_KEY_ID, BUCKET, Program, S3Server, SECRET_ACCESS_KEY};

/// How long it runs where nothing else is said.
const SECONDS: u64 = 15;
/// Processes that back up, each its own directory.
const WRITERS: usize = 3;
/// Processes that forget and prune.
const PRUNERS: usize = 2;

/// What the program needs to know.
struct Place {
    home: TempDir,
    endpoint: String,
}

impl Place {
    fn program(&self, arguments: &[&str], cache: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlvault"));
        command.args(arguments).current_dir(self.home.path()).stdin(Stdio::null()).env_clear();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.env("MLVAULT_REPO", format!("s3://{BUCKET}/race")).env("MLVAULT_S3_ENDPOINT", &self.endpoint);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        command.env("MLVAULT_KEY_FILE", self.home.path().join("key")).env("HOME", self.home.path());
        command.env("MLVAULT_CACHE_DIR", self.home.path().join(format!("cache {cache}")));
        command
    }

    /// Runs the program, and kills it after `patience` if it has not ended. Returns whether it ended well.
    fn run(&self, arguments: &[&str], cache: usize, patience: Duration) -> bool {
        let mut child = self.program(arguments, cache).spawn().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        false
    }
}

/// Time until a kill that differs from round to round: some runs come to their end.
fn patience(round: u64, seed: usize) -> Duration {
    let drawn = noise(&format!("{seed} {round}"), 2);
    Duration::from_millis(u64::from(u16::from_le_bytes([drawn[0], drawn[1]])) / 16)
}

fn write(directory: &Path, round: u64) {
    let number = round % 5;
    fs::write(directory.join(format!("weights {number}")), noise(&format!("{directory:?} {round}"), 150_000)).unwrap();
    fs::write(directory.join("shared"), noise(&format!("shared {}", round / 3), 100_000)).unwrap();
}

#[test]
fn killed_writers_and_pruners_on_a_real_server_lose_nothing() {
    let server = S3Server::start(Program::Moto);
    let (secret, credential) = key_file();
    let mut vault = Vault::create(std::sync::Arc::new(server.backend("race")));
    // The program opens the repository with the same key file.
    vault.open().unwrap().add_key("race", mlvault::format::key_slot::Role::Maintainer, &credential).unwrap();
    vault.credential = credential;
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("key"), KeyFile::new(secret).encode().as_bytes()).unwrap();
    let place = Place { home, endpoint: server.options().endpoint.unwrap() };
    let directories: Vec<PathBuf> =
        (0..WRITERS).map(|number| place.home.path().join(format!("source {number}"))).collect();
    let seconds = std::env::var("MLVAULT_RACE_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    scope(|threads| {
        for (number, directory) in directories.iter().enumerate() {
            let place = &place;
            threads.spawn(move || write_and_back_up(place, directory, number, until));
        }
        for number in 0..PRUNERS {
            let place = &place;
            threads.spawn(move || forget_and_prune(place, WRITERS + number, until));
        }
    });
    vault.assert_clean();
    finish(&vault, &place, &directories);
}

fn write_and_back_up(place: &Place, directory: &Path, number: usize, until: Instant) {
    fs::create_dir(directory).unwrap();
    for round in 0.. {
        if Instant::now() > until {
            return;
        }
        write(directory, round);
        place.run(&["backup", directory.to_str().unwrap()], number, patience(round, number));
    }
}

fn forget_and_prune(place: &Place, number: usize, until: Instant) {
    for round in 0.. {
        if Instant::now() > until {
            return;
        }
        place.run(&["forget", "--keep-last", "2", "--max-forget", "100%"], number, patience(round, number));
        // Sessions of killed writers are not old: some prunes have no patience with those that run either.
        let age = if round % 2 == 0 { "0s" } else { "3s" };
        let prune = ["prune", "--max-unused", "0%", "--wait", "0s", "--session-age", age];
        place.run(&prune, number, patience(round, number) * 2);
    }
}

/// Everything that is listed is whole; a last backup restores; a last prune leaves nothing over.
fn finish(vault: &Vault, place: &Place, directories: &[PathBuf]) {
    let calm = Duration::from_secs(300);
    for (number, directory) in directories.iter().enumerate() {
        let id = vault.backup(directory).unwrap();
        vault.assert_restores(id, directory, &tree(directory));
        assert!(place.run(&["backup", directory.to_str().unwrap()], number, calm));
    }
    for _ in 0..3 {
        assert!(place.run(&["prune", "--max-unused", "0%", "--session-age", "0s", "--wait", "0s"], 0, calm));
    }
    vault.assert_clean();
    assert_eq!(vault.keys_under("tombstones/").len() + vault.keys_under("sessions/").len(), 0);
    let repository = vault.open().unwrap();
    assert!(repository.list_snapshots().unwrap().snapshots.len() >= 2 * directories.len());
    assert!(repo::check_with(&repository, ReadData::Nothing).is_clean());
}
