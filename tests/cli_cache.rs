//! `cache`: what is listed and removed, and what a cache says of itself to other backups.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::cli::{Runner, noise};

/// Returns the caches' directories.
fn caches(runner: &Runner) -> Vec<PathBuf> {
    let document = runner.run(["cache", "--json"]).expect(0).json();
    let paths = document["caches"].as_array().unwrap().iter().map(|cache| cache["path"].as_str().unwrap().into());
    paths.collect()
}

#[test]
fn a_cache_is_listed_and_says_that_it_is_one() {
    let runner = Runner::with_repository();
    assert!(caches(&runner).is_empty());
    runner.write("file", noise(1, 10_000));
    runner.backup();
    let found = caches(&runner);
    assert_eq!(found.len(), 1);
    let tag = fs::read(found[0].join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with(b"Signature: 8a477f597d28d172789f06886806bc55"));
    let text = runner.run(["cache"]).expect(0).text();
    let id = runner.run(["key", "list", "--json"]).expect(0).json()["repository"].as_str().unwrap().to_owned();
    assert!(text.contains(&id), "{text}");
}

#[test]
fn only_caches_that_were_not_used_for_long_are_removed_and_they_are_rebuilt() {
    let runner = Runner::with_repository();
    runner.write("file", noise(1, 10_000));
    runner.backup();
    let cache = caches(&runner).pop().unwrap();
    let kept = runner.run(["cache", "--cleanup", "--json"]).expect(0).json();
    assert_eq!(kept["removed"].as_array().unwrap().len(), 0);
    let others: Vec<_> = runner.files("cache").into_iter().filter(|file| !file.starts_with(&cache)).collect();
    assert!(!others.is_empty());
    let mut touch = Command::new("touch");
    assert!(
        touch
            .args(["-d", "40 days ago"])
            .args(fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()))
            .status()
            .unwrap()
            .success()
    );
    runner.run(["cache", "--cleanup", "--older-than", "60d"]).expect(0);
    assert!(cache.exists());
    let removed = runner.run(["cache", "--cleanup"]).expect(0).text();
    assert!(!cache.exists() && removed.contains("Removed 1 cache"), "{removed}");
    assert_eq!(runner.files("cache"), others);
    runner.run(["check", "--read-data"]).expect(0);
    assert_eq!(caches(&runner), [cache]);
    runner.run(["cache", "--older-than", "1d"]).expect(2);
}
