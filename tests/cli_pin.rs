//! Pins as users meet them: where they are told, stated and remembered, and what is refused because of them.

use std::fs;

use crate::support::cli::{Runner, finish};

/// A pin that no repository has.
const OTHER: &str = "00112233445566778899aabbccddeeff";

fn pin_of(runner: &Runner) -> String {
    runner.run(["key", "list", "--json"]).expect(0).json()["pin"].as_str().unwrap().to_owned()
}

#[test]
fn init_key_list_and_doctor_tell_the_same_pin() {
    let runner = Runner::without_repository();
    let made = runner.run(["init", "--json"]).expect(0).json();
    let pin = made["pin"].as_str().unwrap();
    assert_eq!(pin.len(), 32);
    let listed = runner.run(["key", "list", "--json"]).expect(0).json();
    assert_eq!((listed["pin"].as_str(), &listed["repository"]), (Some(pin), &made["repository"]));
    assert_eq!(runner.run(["doctor", "--json"]).expect(0).json()["repository_pin"], pin);
    for args in [["key", "list"].as_slice(), &["doctor"]] {
        assert!(runner.run(args).expect(0).text().contains(pin));
    }
    fs::remove_dir_all(runner.path("repo")).unwrap();
    let text = runner.run(["init"]).expect(0).text();
    assert!(text.contains(&format!("Pin: {}", pin_of(&runner))) && text.contains("MLVAULT_PIN"), "{text}");
}

#[test]
fn a_pin_is_stated_in_many_places_which_must_agree() {
    let runner = Runner::with_repository();
    let pin = pin_of(&runner);
    let key = runner.path("hinted").display().to_string();
    runner.run(["key", "add", "--label", "x", "--role", "auditor", "--new-key-file", &key]).expect(0);
    let file = runner.path("mlvault.toml");
    fs::write(&file, format!("pin = '{pin}'\n")).unwrap();
    let hinted =
        |args: &[&str]| finish(runner.command(args).env("MLVAULT_KEY_FILE", &key).env("MLVAULT_CONFIG", &file));
    hinted(&["snapshots", "--pin", &pin]).expect(0);
    hinted(&["snapshots", "--pin", &pin.to_uppercase()]).expect(0);
    for (args, by) in [
        (["snapshots", "--pin", OTHER], ["--pin", "mlvault.toml"]),
        (["snapshots", "--set", &format!("pin='{OTHER}'")], ["mlvault.toml", "the key file"]),
    ] {
        let refused = hinted(&args).expect(2);
        for part in [pin.as_str(), OTHER, by[0], by[1]] {
            assert!(refused.stderr.contains(part), "{}", refused.stderr);
        }
    }
    // An empty one is how manifests leave it out.
    finish(runner.command(["snapshots"]).env("MLVAULT_PIN", "")).expect(0);
    let refused = runner.run(["snapshots", "--pin", "1234"]).expect(2);
    assert!(refused.stderr.contains("32 hexadecimal digits"), "{}", refused.stderr);
    let wrong = runner.run(["snapshots", "--pin", OTHER, "--json"]).expect(12);
    assert!(wrong.stderr.contains(&pin) && wrong.stderr.contains(OTHER), "{}", wrong.stderr);
    // A key that belongs to a repository makes no other: it would not open it.
    let elsewhere = runner.path("elsewhere");
    let refused =
        finish(runner.command(["init"]).env("MLVAULT_KEY_FILE", &key).env("MLVAULT_REPO", &elsewhere)).expect(2);
    assert!(refused.stderr.contains(&pin) && !elsewhere.exists(), "{}", refused.stderr);
}

#[test]
fn a_repository_made_anew_is_refused_where_the_old_one_is_remembered() {
    let runner = Runner::with_repository();
    let before = pin_of(&runner);
    // Somebody makes it anew on another machine.
    fs::remove_dir_all(runner.path("repo")).unwrap();
    finish(runner.command(["init"]).env("MLVAULT_CACHE_DIR", runner.path("elsewhere"))).expect(0);
    let refused = runner.run(["snapshots"]).expect(12);
    let memories = runner.files("cache/pins");
    assert_eq!(memories.len(), 1);
    assert!(refused.stderr.contains(memories[0].to_str().unwrap()), "{}", refused.stderr);
    assert!(refused.stderr.contains(&before), "{}", refused.stderr);
    let now = finish(runner.command(["key", "list", "--json"]).env("MLVAULT_CACHE_DIR", runner.path("elsewhere")));
    let now = now.json()["pin"].as_str().unwrap().to_owned();
    // A stated pin counts for more, and is remembered from then on.
    runner.run(["snapshots", "--pin", &now]).expect(0);
    runner.run(["snapshots"]).expect(0);
    // The same directory under another name is the same place.
    std::os::unix::fs::symlink(runner.path("repo"), runner.path("link")).unwrap();
    finish(runner.command(["snapshots"]).env("MLVAULT_REPO", runner.path("link"))).expect(0);
    assert_eq!(runner.files("cache/pins").len(), 1);
    // On the machine of `init` nothing is in the way, and nothing after the memory is gone.
    fs::remove_dir_all(runner.path("repo")).unwrap();
    runner.run(["init"]).expect(0);
    runner.run(["snapshots"]).expect(0);
    finish(runner.command(["snapshots"]).env("MLVAULT_CACHE_DIR", runner.path("elsewhere"))).expect(12);
    fs::remove_file(&runner.files("elsewhere/pins")[0]).unwrap();
    finish(runner.command(["snapshots"]).env("MLVAULT_CACHE_DIR", runner.path("elsewhere"))).expect(0);
}

#[test]
fn a_memory_that_cannot_be_read_is_noted_and_made_anew() {
    let runner = Runner::with_repository();
    let memory = runner.files("cache/pins").remove(0);
    let text = fs::read_to_string(&memory).unwrap();
    fs::write(&memory, "?").unwrap();
    let noted = runner.run(["snapshots"]).expect(0);
    assert!(noted.stderr.contains("is not known") && noted.stderr.contains("pins/"), "{}", noted.stderr);
    assert_eq!(fs::read_to_string(&memory).unwrap(), text);
    assert!(!runner.run(["snapshots"]).expect(0).stderr.contains("is not known"));
}

#[test]
fn the_other_repository_of_copy_and_repair_has_a_pin_of_its_own() {
    let (runner, other) = (Runner::with_repository(), Runner::with_repository());
    runner.write("model", "weights");
    runner.backup();
    let pin = pin_of(&other);
    let with_target = |args: &[&str]| {
        let mut command = runner.command(args);
        finish(command.env("MLVAULT_TO", other.path("repo")).env("MLVAULT_TO_KEY_FILE", other.path("key")))
    };
    let refused = with_target(&["copy", "--all", "--to-pin", OTHER]).expect(12);
    assert!(refused.stderr.contains(&pin), "{}", refused.stderr);
    let own = pin_of(&runner);
    with_target(&["copy", "--all", "--to-pin", &pin, "--pin", &own]).expect(0);
    let setting = format!("to.pin='{OTHER}'");
    with_target(&["copy", "--all", "--set", &setting]).expect(12);
    with_target(&["copy", "--all", "--set", &setting, "--to-pin", &pin]).expect(2);
    let (from, key) = (other.path("repo").display().to_string(), other.path("key").display().to_string());
    let repair = ["repair", "packs", "--from", &from, "--from-key-file", &key];
    let with_pins = |pins: &[&str]| runner.run(repair.iter().chain(pins));
    with_pins(&["--from-pin", &pin]).expect(0);
    with_pins(&["--from-pin", OTHER]).expect(12);
    with_pins(&["--from-pin", &pin, "--from-pin", &pin]).expect(2);
}
