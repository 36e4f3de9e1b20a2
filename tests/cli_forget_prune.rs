//! `forget`, `undelete`, `hold`, `tag`, `upgrade-done` and `prune` as a user runs them.

use std::fs;

use serde_json::Value;

use crate::support::cli::{Runner, noise};

/// A repository with so many snapshots of a changing directory, and their ids.
fn with_snapshots(count: u64) -> (Runner, Vec<String>) {
    let runner = Runner::with_repository();
    let back_up = |number| {
        runner.write("weights.bin", noise(number, 300_000));
        runner.write("config.json", format!("{{\"version\": {number}}}"));
        runner.backup()
    };
    let ids = (0..count).map(back_up).collect();
    (runner, ids)
}

fn listed(runner: &Runner) -> Vec<String> {
    let json = runner.run(["snapshots", "--json"]).expect(0).json();
    json["snapshots"].as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

fn decisions(json: &Value) -> Vec<(bool, String)> {
    let decision = |decision: &Value| {
        let reasons: Vec<&str> =
            decision["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap()).collect();
        (decision["keep"].as_bool().unwrap(), reasons.join(", "))
    };
    json["plan"]["decisions"].as_array().unwrap().iter().map(decision).collect()
}

#[test]
fn a_policy_explains_itself_and_forgets_what_no_rule_keeps() {
    let (runner, ids) = with_snapshots(3);
    let dry = runner.run(["forget", "--keep-last", "2", "--dry-run", "--json"]).expect(0).json();
    let kept = |reason: &str| (true, reason.to_owned());
    assert_eq!(
        decisions(&dry),
        [(false, "no rule keeps it".to_owned()), kept("last 2"), kept("newest complete, last 2")]
    );
    let table = runner.run(["forget", "--keep-last", "2", "--explain"]).expect(0).text();
    assert!(table.contains("FORGET") && table.contains("no rule keeps it") && table.contains("1 of 3"), "{table}");
    assert_eq!(listed(&runner), ids);
    let done = runner.run(["forget", "--keep-last", "2", "--json"]).expect(0).json();
    assert_eq!(done["forgotten"], 1);
    assert_eq!(listed(&runner), ids[1..]);
    let trash = runner.run(["snapshots", "--trash", "--json"]).expect(0).json();
    assert_eq!(trash["trash"][0]["id"], ids[0].as_str());
    assert_eq!(trash["trash"][0]["forgotten"]["reason"], "policy of the command line: last 2");
}

#[test]
fn what_would_be_regretted_is_refused() {
    let (runner, ids) = with_snapshots(4);
    for arguments in [&["forget"][..], &["forget", "--keep-last", "0"], &["forget", "--policy", "none"]] {
        runner.run(arguments).expect(2);
    }
    runner.run(["forget", "--keep-within", "6m"]).expect(2);
    runner.run(["forget", "--keep-last", "1", "--time-zone", "Mars/Olympus"]).expect(2);
    let refused = runner.run(["forget", "--keep-last", "1"]).expect(1);
    assert!(refused.stderr.contains("3 of 4 snapshots") && refused.stderr.contains("--force"), "{}", refused.stderr);
    let refused = runner.run(["forget", "--keep-last", "1", "--json"]).expect(1).json();
    assert_eq!((&refused["forgotten"], &refused["dry_run"]), (&0.into(), &false.into()), "{refused:#}");
    assert!(refused["plan"]["objections"].to_string().contains("3 of 4 snapshots"), "{refused:#}");
    assert_eq!(refused["plan"]["decisions"].as_array().unwrap().len(), 4, "{refused:#}");
    let refused = runner.run(["forget", "latest"]).expect(1);
    assert!(refused.stderr.contains("newest complete"), "{}", refused.stderr);
    assert_eq!(listed(&runner), ids);
    runner.run(["forget", "--keep-last", "1", "--max-forget", "80%"]).expect(0);
    assert_eq!(listed(&runner), ids[3..]);
    runner.run(["forget", "latest", "--force"]).expect(0);
    assert_eq!(listed(&runner), Vec::<String>::new());
}

#[test]
fn what_is_forgotten_can_be_pruned_at_once() {
    let (runner, ids) = with_snapshots(3);
    runner.run(["forget", "--keep-last", "2", "--prune", "--dry-run"]).expect(2);
    let done = runner.run(["forget", "--keep-last", "2", "--prune", "--json"]).expect(0).json();
    assert_eq!((&done["forgotten"], &done["prune"]["snapshots_removed"]), (&1.into(), &1.into()), "{done:#}");
    runner.run(["undelete", &ids[0]]).expect(1);
    let text = runner.run(["forget", "--keep-last", "1", "--prune"]).expect(0).text();
    assert!(text.contains("1 of 2 snapshots forgotten") && text.contains("1 forgotten snapshot removed"), "{text}");
    assert_eq!(listed(&runner), ids[2..]);
    runner.run(["check", "--read-data"]).expect(0);
    // What forgets nothing prunes all the same.
    let again = runner.run(["forget", "--keep-last", "1", "--prune", "--json"]).expect(0).json();
    assert_eq!((&again["forgotten"], &again["prune"]["packs_deleted"]), (&0.into(), &0.into()), "{again:#}");
}

#[test]
fn policies_come_from_the_configuration_file_or_are_presets() {
    let (runner, ids) = with_snapshots(2);
    fs::write(runner.path("src/mlvault.toml"), "[policy.short]\nkeep-last = 1\n").unwrap();
    let short = runner.run(["forget", "--policy", "short", "--dry-run", "--json"]).expect(0).json();
    assert!(!decisions(&short)[0].0);
    for preset in ["production", "staging", "development"] {
        let all = runner.run(["forget", "--policy", preset, "--dry-run", "--json"]).expect(0).json();
        assert!(decisions(&all)[0].0, "{preset}: {all}");
    }
    let group = short["plan"]["decisions"][0]["group"].as_str().unwrap();
    runner.run(["forget", "--policy", "short", "--group", group]).expect(0);
    runner.run(["forget", "--policy", "short", "--group", "elsewhere"]).expect(1);
    assert_eq!(listed(&runner), ids[1..]);
}

#[test]
fn a_deployment_has_a_policy_of_its_own() {
    let (runner, ids) = with_snapshots(2);
    let file = "[deployment.production]\nretention = 'short'\n[policy.short]\nkeep-last = 1\n";
    fs::write(runner.path("src/mlvault.toml"), file).unwrap();
    // No snapshot is one of the deployment, and those of other sources are not looked at.
    let none = runner.run(["forget", "--deployment", "production"]).expect(1);
    assert!(none.stderr.contains("deployment production"), "{}", none.stderr);
    runner.run(["forget", "--deployment", "staging"]).expect(2);
    runner.run(["upgrade-done", "--deployment", "production"]).expect(1);
    assert_eq!(listed(&runner), ids);
}

#[test]
fn a_held_snapshot_stays_until_the_hold_is_removed() {
    let (runner, ids) = with_snapshots(2);
    runner.run(["hold", "add", &ids[0], "--reason", " "]).expect(2);
    runner.run(["hold", "add", &ids[0], "--reason", "audit", "--until", "2001-01-01"]).expect(2);
    let hold = runner.run(["hold", "add", &ids[0], "--reason", "audit", "--json"]).expect(0).json();
    let hold = hold["added"]["id"].as_str().unwrap();
    let listing = runner.run(["hold", "list"]).expect(0).text();
    assert!(listing.contains(hold) && listing.contains("audit"), "{listing}");
    assert!(runner.run(["snapshots"]).expect(0).text().contains(&format!("{}*", &ids[0][..12])));
    runner.run(["forget", &ids[0], "--force"]).expect(1);
    let plan = runner.run(["forget", "--keep-last", "1", "--json"]).expect(0).json();
    assert_eq!(decisions(&plan)[0], (true, "hold: audit".to_owned()));
    runner.run(["hold", "remove", hold]).expect(0);
    runner.run(["hold", "remove", hold]).expect(1);
    runner.run(["forget", &ids[0]]).expect(0);
    assert_eq!(listed(&runner), ids[1..]);
}

#[test]
fn tags_can_be_added_and_keep_and_be_removed() {
    let (runner, ids) = with_snapshots(2);
    runner.run(["tag", "add", &ids[0], "release", "v7"]).expect(0);
    runner.run(["tag", "remove", &ids[0], "v7"]).expect(0);
    let tagged = runner.run(["snapshots", "--tag", "release", "--json"]).expect(0).json();
    assert_eq!(tagged["snapshots"][0]["tags"], serde_json::json!(["release"]));
    assert_eq!(tagged["snapshots"].as_array().unwrap().len(), 1);
    runner.run(["forget", "--keep-last", "1", "--keep-tag", "release"]).expect(0);
    assert_eq!(listed(&runner), ids);
}

#[test]
fn an_upgrade_that_went_well_lets_earlier_snapshots_go() {
    let (runner, ids) = with_snapshots(3);
    runner.run(["upgrade-done"]).expect(1);
    for id in &ids[..2] {
        runner.run(["tag", "add", id, "pre-upgrade"]).expect(0);
    }
    let rules = ["forget", "--keep-last", "1", "--keep-pre-upgrade"];
    runner.run(rules).expect(0);
    assert_eq!(listed(&runner), ids);
    let released = runner.run(["upgrade-done", "--json"]).expect(0).json();
    assert_eq!(released["released"], serde_json::json!([ids[0]]));
    runner.run(rules).expect(0);
    assert_eq!(listed(&runner), ids[1..]);
}

#[test]
fn a_prune_frees_what_was_forgotten_and_until_then_it_comes_back() {
    let (runner, ids) = with_snapshots(3);
    runner.run(["forget", &ids[0], &ids[1]]).expect(0);
    let back = runner.run(["undelete", &ids[1], "--json"]).expect(0).json();
    let back = back["snapshot"].as_str().unwrap().to_owned();
    let dry = runner.run(["prune", "--dry-run", "--json"]).expect(0).json();
    let packs = |runner: &Runner| runner.files("repo/packs").len();
    let before = packs(&runner);
    let pruned = runner.run(["prune", "--json"]).expect(0).json();
    assert_eq!(pruned["report"]["plan"], dry["report"]["plan"]);
    assert_eq!(pruned["report"]["snapshots_removed"], 2);
    assert!(packs(&runner) < before);
    runner.run(["undelete", &ids[0]]).expect(1);
    assert_eq!(listed(&runner), [back.clone(), ids[2].clone()]);
    runner.run(["check", "--read-data"]).expect(0);
    let restored = runner.run(["cat", &back, "config.json"]).expect(0).text();
    assert_eq!(restored, "{\"version\": 1}");
    let again = runner.run(["prune"]).expect(0).text();
    assert!(again.contains("0 packs deleted"), "{again}");
    runner.run(["prune", "--max-unused", "-3%"]).expect(2);
    runner.run(["prune", "--keep-trash", "1mo"]).expect(2);
}

#[test]
fn only_maintainers_forget_and_prune() {
    let (runner, ids) = with_snapshots(1);
    let key = runner.path("writer");
    let add = ["key", "add", "--label", "cron", "--role", "writer", "--new-key-file"];
    runner.run(add.iter().map(|word| (*word).to_owned()).chain([key.display().to_string()])).expect(0);
    let as_writer = |arguments: &[&str]| {
        let mut command = runner.command(arguments);
        command.env("MLVAULT_KEY_FILE", &key);
        crate::support::cli::finish(&mut command)
    };
    as_writer(&["forget", &ids[0], "--force"]).expect(12);
    as_writer(&["prune"]).expect(12);
    as_writer(&["tag", "remove", &ids[0], "x"]).expect(12);
    as_writer(&["hold", "add", &ids[0], "--reason", "mine"]).expect(0);
    as_writer(&["hold", "remove", &ids[0]]).expect(12);
    assert_eq!(listed(&runner), ids);
}
