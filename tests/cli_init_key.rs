//! `init` and `key` as users meet them: what is refused, with which exit code, and what each role may do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use mlvault::crypto::keys::new_secret;
use mlvault::crypto::passphrase::KeyFile;

use crate::support::cli::{Runner, finish, noise};

#[test]
fn init_makes_a_repository_once_and_refuses_what_is_there() {
    let runner = Runner::without_repository();
    let made = runner.run(["init", "--json"]).expect(0).json();
    assert!(made["recovery_key"].as_str().unwrap().starts_with("MLVK2-"));
    assert_eq!(made["create_only"], true);
    let before = runner.files("repo");
    let again = runner.run(["init"]).expect(1);
    assert!(again.stderr.contains("there is a repository already"), "{}", again.stderr);
    assert_eq!(runner.files("repo"), before);
    let other = runner.path("other");
    fs::create_dir(&other).unwrap();
    for name in ["letter", "Letter.pdf"] {
        fs::write(other.join(name), "x").unwrap();
        let refused = finish(runner.command(["init"]).env("MLVAULT_REPO", &other)).expect(1);
        assert!(refused.stderr.contains("not empty") && refused.stderr.contains(name), "{}", refused.stderr);
        assert_eq!(runner.files("other"), [other.join(name)]);
        fs::remove_file(other.join(name)).unwrap();
    }
}

#[test]
fn the_recovery_key_opens_the_repository() {
    let runner = Runner::without_repository();
    let made = runner.run(["init", "--json"]).expect(0).json();
    fs::write(runner.path("recovery"), made["recovery_key"].as_str().unwrap()).unwrap();
    finish(runner.command(["snapshots"]).env("MLVAULT_KEY_FILE", runner.path("recovery"))).expect(0);
}

#[test]
fn failures_have_their_own_exit_codes() {
    let runner = Runner::with_repository();
    fs::write(runner.path("foreign"), KeyFile::new(new_secret()).encode().as_bytes()).unwrap();
    let foreign = finish(runner.command(["snapshots"]).env("MLVAULT_KEY_FILE", runner.path("foreign"))).expect(12);
    assert!(foreign.stderr.contains("Wrong key"), "{}", foreign.stderr);
    fs::create_dir(runner.path("empty")).unwrap();
    for place in ["empty", "nowhere"] {
        finish(runner.command(["snapshots"]).env("MLVAULT_REPO", runner.path(place))).expect(10);
    }
    runner.run(["no-such-command"]).expect(2);
    runner.run(["restore"]).expect(2);
    runner.run(["ls", "not a snapshot"]).expect(2);
    runner.run(["ls", "latest"]).expect(1);
    finish(runner.command(["snapshots"]).env_remove("MLVAULT_KEY_FILE")).expect(2);
    for variable in ["MLVAULT_KEY_FILE", "MLVAULT_PASSPHRASE_FILE"] {
        let mut command = runner.command(["snapshots"]);
        let missing = finish(command.env_remove("MLVAULT_KEY_FILE").env(variable, runner.path("gone"))).expect(2);
        assert!(missing.stderr.contains("gone\": No such file"), "{}", missing.stderr);
    }
    finish(runner.command(["snapshots"]).env("MLVAULT_PASSPHRASE", "correct horse battery")).expect(2);
}

#[test]
fn errors_are_json_lines_if_output_is() {
    let runner = Runner::with_repository();
    let failed = runner.run(["ls", "latest", "--json"]).expect(1);
    let line: serde_json::Value = serde_json::from_str(failed.stderr.trim()).unwrap();
    assert_eq!((&line["type"], &line["exit_code"]), (&"error".into(), &1.into()));
    assert!(failed.stdout.is_empty());
}

#[test]
fn a_passphrase_opens_what_it_closed_and_another_does_not() {
    let runner = Runner::without_repository();
    let with = |passphrase: &str, args: &[&str]| {
        finish(runner.command(args).env_remove("MLVAULT_KEY_FILE").env("MLVAULT_PASSPHRASE", passphrase))
    };
    let short = with("short", &["init"]).expect(2);
    assert!(short.stderr.contains("shorter"), "{}", short.stderr);
    with("correct horse battery", &["init"]).expect(0);
    with("correct horse battery", &["snapshots"]).expect(0);
    with("incorrect horse battery", &["snapshots"]).expect(12);
}

#[test]
fn keys_are_added_listed_and_removed_but_never_the_last_maintainer() {
    let runner = Runner::with_repository();
    let new_key = runner.path("cron.key").display().to_string();
    runner.run(["key", "add", "--label", "cron", "--role", "writer", "--new-key-file", &new_key]).expect(0);
    let mode = fs::metadata(&new_key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    runner.run(["key", "add", "--label", "x", "--role", "writer", "--new-key-file", &new_key]).expect(1);
    let keys = runner.run(["key", "list", "--json"]).expect(0).json();
    let mut labels: Vec<_> =
        keys["keys"].as_array().unwrap().iter().map(|key| key["label"].as_str().unwrap()).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["cron", "first", "recovery"]);
    let cron = KeyFile::decode(&fs::read_to_string(&new_key).unwrap()).unwrap().hint.unwrap();
    assert_eq!(cron.pin.to_string(), keys["pin"].as_str().unwrap());
    runner.run(["key", "remove", "cron"]).expect(0);
    let keys = runner.run(["key", "list", "--json"]).expect(0).json();
    let removed = keys["keys"].as_array().unwrap().iter().find(|key| key["label"] == "cron").unwrap().clone();
    assert_eq!(removed["id"], cron.slot.to_string());
    assert!(removed["removed"].is_string() && removed["role"].is_null(), "{removed}");
    let text = runner.run(["key", "list"]).expect(0).text();
    assert!(text.lines().any(|line| line.contains("cron") && line.contains("removed")), "{text}");
    finish(runner.command(["snapshots"]).env("MLVAULT_KEY_FILE", &new_key)).expect(12);
    runner.run(["key", "remove", "recovery"]).expect(0);
    let last = runner.run(["key", "remove", "first"]).expect(2);
    assert!(last.stderr.contains("last maintainer"), "{}", last.stderr);
    runner.run(["key", "remove", "cron"]).expect(1);
}

#[test]
fn a_passphrase_is_changed_and_the_old_one_opens_nothing_any_more() {
    let runner = Runner::without_repository();
    let with = |passphrase: &str, args: &[&str]| {
        finish(runner.command(args).env_remove("MLVAULT_KEY_FILE").env("MLVAULT_PASSPHRASE", passphrase))
    };
    let (old, new) = ("correct horse battery", "another horse battery");
    with(old, &["init"]).expect(0);
    fs::write(runner.path("new"), new).unwrap();
    let file = runner.path("new").display().to_string();
    let changed = with(old, &["key", "passwd", "--new-passphrase-file", &file, "--json"]).expect(0).json();
    assert_eq!((&changed["changed"]["label"], &changed["changed"]["role"]), (&"first".into(), &"maintainer".into()));
    with(old, &["snapshots"]).expect(12);
    let keys = with(new, &["key", "list", "--json"]).expect(0).json();
    let removed = keys["keys"].as_array().unwrap().iter().find(|key| key["id"] == changed["removed"]).unwrap().clone();
    assert!(removed["removed"].is_string(), "{removed}");
    // The last maintainer's can be changed, too.
    with(new, &["key", "remove", "recovery"]).expect(0);
    let key = runner.path("made.key").display().to_string();
    with(new, &["key", "passwd", "first", "--new-key-file", &key]).expect(0);
    finish(runner.command(["snapshots"]).env("MLVAULT_KEY_FILE", &key)).expect(0);
    with(new, &["snapshots"]).expect(12);
}

#[test]
fn only_a_maintainer_changes_keys_and_trust_is_handed_on() {
    let runner = Runner::with_repository();
    for label in ["cron", "host"] {
        let file = runner.path(label).display().to_string();
        runner.run(["key", "add", "--label", label, "--role", "writer", "--new-key-file", &file]).expect(0);
    }
    runner.run(["key", "trust", "cron", "host"]).expect(0);
    let changed = |file: &str| ["key", "passwd", "cron", "--new-key-file", file].map(str::to_owned);
    let file = runner.path("cron-2").display().to_string();
    finish(runner.command(changed(&file)).env("MLVAULT_KEY_FILE", runner.path("cron"))).expect(12);
    assert!(!runner.path("cron-2").exists());
    runner.run(changed(&file)).expect(0);
    finish(runner.command(["snapshots"]).env("MLVAULT_KEY_FILE", runner.path("cron"))).expect(12);
    finish(runner.command(["snapshots"]).env("MLVAULT_KEY_FILE", &file)).expect(0);
    let keys = runner.run(["key", "list"]).expect(0).text();
    assert!(keys.lines().any(|line| line.contains("cron") && line.ends_with("host")), "{keys}");
}

#[test]
fn a_key_that_cannot_be_added_leaves_neither_a_file_nor_a_slot() {
    let runner = Runner::with_repository();
    let slots = runner.files("repo/keys");
    let file = runner.path("new.key").display().to_string();
    let add =
        |label: &str| ["key", "add", "--label", label, "--role", "writer", "--new-key-file", &file].map(str::to_owned);
    runner.run(add("")).expect(2);
    assert!(!runner.path("new.key").exists());
    let permit = |mode| fs::set_permissions(runner.path("repo/keys"), fs::Permissions::from_mode(mode)).unwrap();
    permit(0o500);
    finish(&mut runner.command_without_privileges(add("cron"))).expect(1);
    permit(0o700);
    assert!(!runner.path("new.key").exists());
    runner.run(["key", "add", "--label", "x", "--role", "writer", "--new-key-file", "/nowhere/key"]).expect(1);
    assert_eq!(runner.files("repo/keys"), slots);
    runner.run(add("cron")).expect(0);
}

#[test]
fn writers_that_are_trusted_are_listed_and_deduplicate() {
    let runner = Runner::with_repository();
    runner.write("model", noise(1, 300_000));
    for label in ["cron", "host"] {
        let file = runner.path(label).display().to_string();
        runner.run(["key", "add", "--label", label, "--role", "writer", "--new-key-file", &file]).expect(0);
    }
    let stored = |key: &str| {
        let args = ["backup", ".", "--force", "--json"];
        let done = finish(runner.command(args).env("MLVAULT_KEY_FILE", runner.path(key))).expect(0).json();
        done["record"]["statistics"]["bytes_new"].as_u64().unwrap()
    };
    let trusts = || {
        let keys = runner.run(["key", "list", "--json"]).expect(0).json();
        let find = |label: &str| keys["keys"].as_array().unwrap().iter().find(|key| key["label"] == label).unwrap();
        let ids = ["cron", "host"].map(|label| find(label)["id"].clone());
        assert_eq!(find("first")["trusts"], serde_json::json!([]));
        (["host", "cron"].map(|label| find(label)["trusts"].clone()), ids.map(|id| serde_json::json!([id])))
    };
    assert!(stored("cron") >= 300_000);
    let told = runner.run(["key", "trust", "cron", "host"]).expect(0).text();
    assert!(told.contains("\"cron\", \"host\""), "{told}");
    let (found, expected) = trusts();
    assert_eq!(found, expected);
    let text = runner.run(["key", "list"]).expect(0).text();
    assert!(text.lines().any(|line| line.contains("  cron") && line.ends_with("  host")), "{text}");
    assert_eq!(stored("host"), 0);
    let distrusted = runner.run(["key", "distrust", "host", "--json"]).expect(0).json();
    assert_eq!(distrusted["distrusted"][0]["label"], "host");
    assert_eq!(trusts().0, [(); 2].map(|()| serde_json::json!([])));
    assert!(stored("host") >= 300_000);
    runner.run(["key", "trust", "cron"]).expect(2);
    runner.run(["key", "trust", "cron", "nobody"]).expect(1);
    runner.run(["key", "trust", "cron", "first"]).expect(2);
    let refused = finish(runner.command(["key", "trust", "cron", "host"]).env("MLVAULT_KEY_FILE", runner.path("cron")));
    let refused = refused.expect(12);
    assert!(refused.stderr.contains("cannot say which keys"), "{}", refused.stderr);
}

#[test]
fn an_exported_key_can_be_put_back() {
    let runner = Runner::with_repository();
    let copy = runner.path("slot").display().to_string();
    runner.run(["key", "export", "recovery", "--output", &copy]).expect(0);
    runner.run(["key", "import", &copy]).expect(2);
    runner.run(["key", "remove", "recovery"]).expect(0);
    runner.run(["key", "import", &copy]).expect(0);
    assert_eq!(runner.run(["key", "list", "--json"]).expect(0).json()["keys"].as_array().unwrap().len(), 2);
    fs::write(&copy, noise(1, 500)).unwrap();
    runner.run(["key", "import", &copy]).expect(1);
}

#[test]
fn a_writer_and_an_auditor_read_no_content_but_do_their_work() {
    let runner = Runner::with_repository();
    runner.write("secret", "the content");
    for role in ["writer", "auditor", "reader"] {
        let file = runner.path(role).display().to_string();
        runner.run(["key", "add", "--label", role, "--role", role, "--new-key-file", &file]).expect(0);
    }
    let target = runner.path("out").display().to_string();
    let with = |role: &str, args: &[&str]| finish(runner.command(args).env("MLVAULT_KEY_FILE", runner.path(role)));
    runner.settle();
    with("writer", &["backup", "."]).expect(0);
    let again = with("writer", &["backup", ".", "--json"]).expect(0).json();
    assert_eq!(again["record"]["statistics"]["files_unchanged"], 1);
    for role in ["writer", "auditor"] {
        for args in [
            &["cat", "latest", "secret"][..],
            &["dump", "latest"],
            &["restore", "--snapshot", "latest", "--target", &target],
        ] {
            let refused = with(role, args).expect(12);
            assert!(refused.stdout.is_empty() && refused.stderr.contains("cannot read stored content"), "{args:?}");
        }
        assert!(!runner.path("out").exists());
        with(role, &["ls", "latest"]).expect(0);
        with(role, &["find", "secret"]).expect(0);
        with(role, &["diff", "latest~1", "latest"]).expect(0);
        with(role, &["diff", "latest", "--dir", "."]).expect(0);
        with(role, &["stats", "latest", "--exclusive"]).expect(0);
        let key = runner.path("more").display().to_string();
        with(role, &["key", "add", "--label", "x", "--role", "auditor", "--new-key-file", &key]).expect(12);
    }
    assert_eq!(with("reader", &["cat", "latest", "secret"]).expect(0).text(), "the content");
}
