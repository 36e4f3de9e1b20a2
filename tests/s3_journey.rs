//! The whole journey on real S3 servers: init, backups, check, restore, and a repair of what a vandal did.
//!
//! The two servers differ in what matters here: one honours create-only writes, the other ignores them.

use std::fs;
use std::sync::Arc;

use mlvault::backend::Backend;
use mlvault::check::ReadData;
use mlvault::doctor;
use mlvault::repair;
use tempfile::TempDir;

use crate::support::repo::{Vault, fill, tree};
use crate::support::s3_server::{Program, S3Server};

#[test]
fn a_server_that_honours_create_only_writes_serves_a_repository() {
    journey(Program::Moto, true);
}

#[test]
fn a_server_that_ignores_create_only_writes_serves_a_repository() {
    journey(Program::Rclone, false);
}

fn journey(program: Program, create_only: bool) {
    let server = S3Server::start(program);
    let backend: Arc<dyn Backend> = Arc::new(server.backend("deployments/production"));
    assert_eq!(doctor::honours_create_only(backend.as_ref()).unwrap(), create_only);
    let vault = Vault::create(Arc::clone(&backend));
    let source = TempDir::new().unwrap();
    fill(source.path(), "first day");
    let (first, first_tree) = (vault.backup(source.path()).unwrap(), tree(source.path()));
    fs::write(source.path().join("added"), b"on the second day").unwrap();
    let (second, second_tree) = (vault.backup(source.path()).unwrap(), tree(source.path()));
    vault.assert_clean();
    vault.assert_restores(first, source.path(), &first_tree);
    vault.assert_restores(second, source.path(), &second_tree);

    vault.keys_under("index/").iter().for_each(|key| backend.remove(key).unwrap());
    assert!(!vault.check(ReadData::Nothing).is_clean());
    let options = repair::index::RepairIndexOptions { dry_run: false };
    let repository = vault.open().unwrap();
    repair::index::run(&repository, &options, &mlvault::hears::Hears::nobody()).unwrap();
    vault.assert_clean();
    vault.assert_restores(first, source.path(), &first_tree);
}
