//! What somebody can do who holds a writer's key file, writes their own program, and may overwrite: put another repository
//! under the same name in the place of ours, so that later backups go to a key of theirs.
//!
//! Method: the thief keeps the repository's id and meta secret, and makes `config` and slots under a root key of their own.
//! Whoever has a pin (in the key file, the settings, or the cache directory) must refuse before anything is written, and
//! nobody must be locked out by a slot that is not honest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use mlvault::backend::Backend;
use mlvault::backend::local::LocalBackend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::crypto::keys::{Secret, new_data_key_pair, new_secret};
use mlvault::crypto::passphrase::{Argon2Cost, Credential, KeyFile};
use mlvault::crypto::sign;
use mlvault::error::Error;
use mlvault::format::config::RepositoryConfig;
use mlvault::format::key_slot::{self, Certificate, Grant, Role, RoleSecrets, SLOTS_MAX};
use mlvault::format::object::{self, ObjectKind};
use mlvault::id::{SignerKey, SlotId};
use mlvault::repository::{OpenOptions, Repository, layout};
use zeroize::Zeroizing;

use crate::support::cli::{Runner, finish};
use crate::support::repo::{self, Vault, copy_of, key_file};

/// Somebody who would be the root.
struct Usurper {
    root_seed: Secret,
}

impl Usurper {
    fn new() -> Self {
        Self { root_seed: new_secret() }
    }

    fn root_key(&self) -> SignerKey {
        sign::signer_key(&self.root_seed)
    }

    /// Makes a writer's slot that opens with a key and names a root key; the usurper certifies it.
    fn slot(&self, victim: &Repository, slot: SlotId, credential: &Credential, root_key: SignerKey) -> Bytes {
        let signing_seed = new_secret();
        let grant = Grant {
            slot,
            label: "nightly",
            role: Role::Writer,
            created: Timestamp::UNIX_EPOCH,
            signer: sign::signer_key(&signing_seed),
        };
        let certificate = Certificate::issue(victim.id(), &self.root_seed, grant);
        sealed(victim, credential, &certificate, writer_secrets(victim, signing_seed, root_key))
    }

    /// Makes a `config` under which backups are sealed to the usurper.
    fn config(&self, victim: &Repository) -> Bytes {
        let (_, data_public_key) = new_data_key_pair();
        let config = RepositoryConfig { root_key: self.root_key(), data_public_key, ..victim.config().clone() };
        let body = config.sign(&self.root_seed);
        Bytes::from(object::seal(victim.keys(), victim.id(), ObjectKind::Config, layout::CONFIG, &body))
    }
}

fn writer_secrets(victim: &Repository, signing_seed: Secret, root_key: SignerKey) -> RoleSecrets {
    let meta = victim.keys().secret().clone();
    RoleSecrets { role: Role::Writer, meta, signing_seed, data: None, root_seed: None, root_key }
}

fn sealed(victim: &Repository, credential: &Credential, certificate: &Certificate, secrets: RoleSecrets) -> Bytes {
    let cost = Argon2Cost::default();
    Bytes::from(key_slot::seal(victim.id(), credential, &cost, &secrets, certificate).unwrap())
}

/// A repository for the program, with a writer's key: `writer` as `key add` wrote it, `plain` the same without a hint.
struct Scene {
    runner: Runner,
    pin: String,
}

impl Scene {
    fn new() -> Self {
        let runner = Runner::with_repository();
        runner.write("model", "weights");
        let file = runner.path("writer").display().to_string();
        runner.run(["key", "add", "--label", "nightly", "--role", "writer", "--new-key-file", &file]).expect(0);
        let secret = KeyFile::decode(&fs::read_to_string(&file).unwrap()).unwrap().secret;
        fs::write(runner.path("plain"), KeyFile::new(secret).encode().as_bytes()).unwrap();
        let pin = runner.run(["key", "list", "--json"]).expect(0).json()["pin"].as_str().unwrap().to_owned();
        Self { runner, pin }
    }

    /// The program as on a machine with this key file and this cache directory.
    fn command(&self, args: &[&str], key: &str, cache: &str) -> Command {
        let mut command = self.runner.command(args);
        command.env("MLVAULT_KEY_FILE", self.runner.path(key)).env("MLVAULT_CACHE_DIR", self.runner.path(cache));
        command
    }

    fn objects(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.runner.files("repo").into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// Puts back an earlier state of the repository.
    fn put_back(&self, objects: &BTreeMap<PathBuf, Vec<u8>>) {
        self.runner.files("repo").iter().for_each(|path| fs::remove_file(path).unwrap());
        objects.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }

    /// Replaces `config` and all slots, as who holds the writer's key file can.
    fn usurp(&self) {
        let secret = KeyFile::decode(&fs::read_to_string(self.runner.path("plain")).unwrap()).unwrap().secret;
        let credential = Credential::KeyFile(secret);
        let backend = Arc::new(LocalBackend::open(self.runner.path("repo")).unwrap());
        let victim = Repository::open(backend, &credential, &OpenOptions::default()).unwrap();
        let usurper = Usurper::new();
        overwrite(&self.runner.path("repo"), layout::CONFIG, &usurper.config(&victim));
        for path in self.runner.files("repo/keys") {
            fs::remove_file(path).unwrap();
        }
        // Under the slot's own name, too: who tries first what the key file names finds it.
        let slot = victim.access().certificate.slot;
        let forged = usurper.slot(&victim, slot, &credential, usurper.root_key());
        overwrite(&self.runner.path("repo"), &layout::key_slot(&slot), &forged);
    }
}

fn overwrite(root: &Path, key: &str, bytes: &[u8]) {
    let path = root.join(key);
    let _ = fs::remove_file(&path);
    fs::write(path, bytes).unwrap();
}

#[test]
fn who_has_a_pin_writes_into_no_repository_that_took_the_place_of_theirs() {
    let scene = Scene::new();
    let pin_file = scene.runner.path("mlvault.toml");
    fs::write(&pin_file, format!("pin = '{}'\n", scene.pin)).unwrap();
    finish(&mut scene.command(&["snapshots"], "plain", "remembering")).expect(0);
    let honest = scene.objects();
    scene.usurp();
    let usurped = scene.objects();
    for args in [&["backup", "."][..], &["snapshots"], &["doctor"], &["prune"]] {
        let mut with_variable = scene.command(args, "plain", "cache 2");
        with_variable.env("MLVAULT_PIN", &scene.pin);
        let mut with_setting = scene.command(args, "plain", "cache 3");
        with_setting.env("MLVAULT_CONFIG", &pin_file);
        let clients = [
            ("key file", scene.command(args, "writer", "cache 1")),
            ("variable", with_variable),
            ("setting", with_setting),
            ("memory", scene.command(args, "plain", "remembering")),
        ];
        for (name, mut client) in clients {
            let refused = finish(&mut client).expect(12);
            assert!(refused.stderr.contains("is not the one that was pinned"), "{name}: {}", refused.stderr);
            assert!(
                refused.stderr.contains(&scene.pin) && refused.stderr.contains("Hint"),
                "{name}: {}",
                refused.stderr
            );
            assert_eq!(refused.stderr.contains("remembering/pins/"), name == "memory", "{}", refused.stderr);
        }
    }
    assert!(scene.objects() == usurped, "something was written");

    // Who has none of these cannot know (docs/threat-model.md), and remembers the thief's repository.
    finish(&mut scene.command(&["backup", "."], "plain", "first use")).expect(0);
    scene.put_back(&honest);
    finish(&mut scene.command(&["backup", "."], "writer", "cache 1")).expect(0);
    finish(&mut scene.command(&["snapshots"], "plain", "remembering")).expect(0);
    finish(&mut scene.command(&["snapshots"], "plain", "first use")).expect(12);
}

/// A repository in memory and a writer's key.
struct Stage {
    vault: Vault,
    memory: Arc<MemoryBackend>,
    writer: Credential,
}

impl Stage {
    fn new() -> Self {
        let (vault, memory) = Vault::in_memory();
        let (_, writer) = key_file();
        vault.open().unwrap().add_key("nightly", Role::Writer, &writer).unwrap();
        Self { vault, memory, writer }
    }
}

fn slot_number(number: u8) -> SlotId {
    SlotId::from_bytes([0, 0, 0, 0, 0, 0, 0, number])
}

fn open(backend: &Arc<MemoryBackend>, key: &Credential, options: &OpenOptions) -> Result<Arc<Repository>, Error> {
    Repository::open(Arc::clone(backend) as Arc<dyn Backend>, key, options)
}

#[test]
fn a_forged_slot_in_front_of_the_honest_one_locks_nobody_out() {
    let stage = Stage::new();
    let victim = stage.vault.open_with(&stage.writer).unwrap();
    let usurper = Usurper::new();
    for root_key in [usurper.root_key(), victim.config().root_key] {
        let memory = copy_of(&stage.memory);
        let forged = usurper.slot(&victim, slot_number(0), &stage.writer, root_key);
        memory.overwrite(&layout::key_slot(&slot_number(0)), forged);
        for pin in [None, Some(victim.pin())] {
            let opened = open(&memory, &stage.writer, &OpenOptions { pin, ..OpenOptions::default() }).unwrap();
            assert_eq!(opened.access().certificate, victim.access().certificate);
        }
    }
}

#[test]
fn slots_that_crowd_out_the_honest_one_do_not_keep_a_key_file_from_its_own() {
    let stage = Stage::new();
    let victim = stage.vault.open_with(&stage.writer).unwrap();
    let usurper = Usurper::new();
    for number in 0..SLOTS_MAX as u8 {
        let forged = usurper.slot(&victim, slot_number(number), &key_file().1, usurper.root_key());
        stage.memory.overwrite(&layout::key_slot(&slot_number(number)), forged);
    }
    let lost = open(&stage.memory, &stage.writer, &OpenOptions::default());
    assert!(matches!(lost, Err(Error::WrongKey { .. })));
    let slot = Some(victim.access().certificate.slot);
    let opened = open(&stage.memory, &stage.writer, &OpenOptions { slot, ..OpenOptions::default() }).unwrap();
    assert_eq!(opened.access().certificate, victim.access().certificate);
}

#[test]
fn a_slot_that_keeps_its_certificate_but_not_its_secrets_is_damaged() {
    let stage = Stage::new();
    let victim = stage.vault.open_with(&stage.writer).unwrap();
    let certificate = &victim.access().certificate;
    let secrets = writer_secrets(&victim, new_secret(), victim.config().root_key);
    let key = layout::key_slot(&certificate.slot);
    stage.memory.overwrite(&key, sealed(&victim, &stage.writer, certificate, secrets));
    match open(&stage.memory, &stage.writer, &OpenOptions::default()).map(drop) {
        Err(Error::Damaged { object, reason }) => {
            assert!(object == key && reason.contains("do not belong to its certificate"), "{object}: {reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn slots_that_ask_for_much_work_are_tried_last_and_not_at_all_costs() {
    let memory = Arc::new(MemoryBackend::default());
    let words = |text: &str| Credential::Passphrase(Zeroizing::new(text.as_bytes().to_vec()));
    let right = words("correct horse battery");
    repo::create(memory.as_ref(), &right).unwrap();
    let slots: Vec<_> = memory.list(layout::KEYS).unwrap().iter().map(|slot| memory.read(&slot.key).unwrap()).collect();
    let honest = slots.iter().find(|slot| slot[9] == 1).unwrap();
    for number in 0..3 {
        let mut costly = honest.to_vec();
        costly[32..40].copy_from_slice(slot_number(number).as_bytes());
        costly[56..60].copy_from_slice(&Argon2Cost::MEMORY_KIB_MAX.to_le_bytes());
        costly[60..64].copy_from_slice(&Argon2Cost::PASSES_MAX.to_le_bytes());
        let end = costly.len() - 32;
        let checksum = blake3::hash(&costly[..end]);
        costly[end..].copy_from_slice(checksum.as_bytes());
        memory.overwrite(&layout::key_slot(&slot_number(number)), Bytes::from(costly));
    }
    open(&memory, &right, &OpenOptions::default()).unwrap();
    let refused = open(&memory, &words("incorrect horse battery"), &OpenOptions::default()).map(drop);
    assert!(matches!(&refused, Err(Error::Damaged { reason, .. }) if reason.contains("more work")), "{refused:?}");
}
