//! `rewrite`: snapshots without a file that should never have been in them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::cli::{Runner, noise};
use crate::support::{mlflow_rows, sqlite_file};

/// The bytes that leaked: so many that a repository without them is clearly smaller.
const LEAK_LEN: usize = 2_000_000;

/// A repository with three snapshots: the first two have a leak in two places, the third has it no longer.
fn with_leak() -> (Runner, Vec<String>) {
    let runner = Runner::with_repository();
    runner.write("app/secrets/key.pem", noise(1, LEAK_LEN));
    runner.write("app/KEY.PEM", "other");
    runner.write("app/main.py", noise(2, 50_000));
    fs::hard_link(runner.path("src/app/secrets/key.pem"), runner.path("src/app/tls.pem")).unwrap();
    let mut ids = vec![runner.backup()];
    runner.write("app/main.py", noise(3, 50_000));
    ids.push(runner.backup());
    fs::remove_dir_all(runner.path("src/app/secrets")).unwrap();
    fs::remove_file(runner.path("src/app/tls.pem")).unwrap();
    fs::remove_file(runner.path("src/app/KEY.PEM")).unwrap();
    ids.push(runner.backup());
    (runner, ids)
}

fn listed(runner: &Runner) -> Vec<Value> {
    let json = runner.run(["snapshots", "--json"]).expect(0).json();
    json["snapshots"].as_array().unwrap().clone()
}

/// Returns the paths of the files in a snapshot.
fn files(runner: &Runner, snapshot: &str) -> Vec<String> {
    let json = runner.run(["ls", snapshot, "-R", "--json"]).expect(0).json();
    let entries = json["entries"].as_array().unwrap().iter().filter(|entry| entry["kind"] == "file");
    let name = |entry: &Value| entry["path"].as_str().unwrap().to_owned();
    entries.map(name).collect()
}

fn pack_bytes(runner: &Runner) -> u64 {
    runner.files("repo/packs").iter().map(|pack| fs::metadata(pack).unwrap().len()).sum()
}

#[test]
fn a_rewritten_snapshot_has_everything_else_and_says_what_was_taken_out() {
    let (runner, ids) = with_leak();
    runner.run(["tag", "add", &ids[0], "release"]).expect(0);
    let before = runner.files("repo");
    let dry = runner.run(["rewrite", &ids[0], "--exclude", "key.pem", "--dry-run", "--json"]).expect(0).json();
    let plan = &dry["plan"];
    assert_eq!((&plan["matching"][0]["entries"], &plan["matching"][0]["bytes"]), (&json!(1), &json!(LEAK_LEN)));
    assert_eq!(plan["others"][0]["snapshot"], ids[1].as_str(), "{plan:#}");
    assert_eq!(plan["others"].as_array().unwrap().len(), 1);
    assert_eq!(runner.files("repo"), before);

    let text = runner.run(["rewrite", &ids[0], "--exclude", "key.pem"]).expect(0).text();
    assert!(text.contains("secrets/key.pem") && text.contains("1 other snapshot still has"), "{text}");
    assert!(text.contains(&ids[1][..12]) && text.contains("prune --max-unused 0%"), "{text}");
    let all = listed(&runner);
    assert_eq!(all.len(), 4);
    let (was, is) = (&all[0], all.iter().find(|it| !it["record"]["rewritten_from"].is_null()).unwrap());
    let id = is["id"].as_str().unwrap();
    for field in ["started", "source", "tags", "host", "completeness"] {
        assert_eq!(was["record"][field], is["record"][field], "{field}");
    }
    let from = &is["record"]["rewritten_from"];
    assert_eq!((&from["snapshot"], &from["excludes"]), (&json!(ids[0]), &json!(["key.pem"])));
    assert_eq!((&from["entries"], &from["bytes"]), (&json!(1), &json!(LEAK_LEN)));
    // A restore with --delete must not take it for deleted.
    assert_eq!(is["record"]["coverage"]["excludes"], json!(["key.pem"]));

    // The second name of the file stays, with its content.
    assert_eq!(files(&runner, id), ["app/KEY.PEM", "app/main.py", "app/tls.pem"]);
    let out = runner.path("out").display().to_string();
    let restored = runner.run(["restore", "--snapshot", &format!("{id}:app"), "--target", &out]);
    let restored = restored.expect(0);
    assert!(restored.stderr.contains("1 entry that matched key.pem"), "{}", restored.stderr);
    assert_eq!(fs::read(runner.path("out/tls.pem")).unwrap(), noise(1, LEAK_LEN));
    assert_eq!(fs::read(runner.path("out/main.py")).unwrap(), noise(2, 50_000));
    assert!(runner.run(["snapshots"]).expect(0).text().contains("complete, rewritten"));
    runner.run(["check", "--read-data"]).expect(0);

    // Once more changes nothing; with --forget only the original goes.
    let again = runner.run(["rewrite", &ids[0], "--exclude", "key.pem", "--json"]).expect(0).json();
    assert_eq!((&again["plan"]["matching"][0]["rewritten_as"], &again["rewritten"]), (&json!(id), &json!([])));
    let forget = runner.run(["rewrite", &ids[0], "--exclude", "key.pem", "--forget", "--json"]).expect(0).json();
    assert_eq!((&forget["rewritten"], &forget["forgotten"]), (&json!([]), &json!(1)));
    assert_eq!(listed(&runner).len(), 3);
}

#[test]
fn the_bytes_are_gone_once_every_snapshot_was_rewritten_and_a_prune_has_run() {
    let (runner, ids) = with_leak();
    let rewrite = ["rewrite", &ids[0], &ids[1], "--iexclude", "key.pem", "--exclude", "tls.*", "--forget", "--json"];
    let done = runner.run(rewrite).expect(0).json();
    assert_eq!((&done["forgotten"], &done["plan"]["others"]), (&json!(2), &json!([])), "{done:#}");
    assert_eq!(done["plan"]["matching"][0]["entries"], 3, "{done:#}");
    assert_eq!(listed(&runner).len(), 3);
    assert!(pack_bytes(&runner) > LEAK_LEN as u64);
    runner.run(["prune", "--max-unused", "0%"]).expect(0);
    assert!(pack_bytes(&runner) < LEAK_LEN as u64 / 4, "{}", pack_bytes(&runner));
    runner.run(["check", "--read-data"]).expect(0);
    for rewritten in done["rewritten"].as_array().unwrap() {
        assert_eq!(files(&runner, rewritten["is"].as_str().unwrap()), ["app/main.py"]);
    }
    // What was rewritten can be rewritten again, and remembers both.
    let id = done["rewritten"][0]["is"].as_str().unwrap();
    runner.run(["rewrite", id, "--exclude", "**/app/main.py", "--forget"]).expect(0);
    let twice = &listed(&runner)[0]["record"]["rewritten_from"];
    assert_eq!((&twice["snapshot"], &twice["before"]["snapshot"]), (&json!(id), &json!(ids[0])));
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_written() {
    let (runner, ids) = with_leak();
    let key = runner.path("cron").display().to_string();
    runner.run(["key", "add", "--label", "cron", "--role", "writer", "--new-key-file", &key]).expect(0);
    runner.run(["hold", "add", &ids[1], "--reason", "audit"]).expect(0);
    let before = runner.files("repo");
    runner.run(["rewrite", &ids[0]]).expect(2);
    runner.run(["rewrite", "--exclude", "x"]).expect(2);
    runner.run(["rewrite", &ids[0], "--exclude", "["]).expect(2);
    let nothing = runner.run(["rewrite", &ids[2], "--exclude", "key.pem", "--json"]).expect(1);
    assert_eq!(nothing.json()["plan"]["unmatched"], json!([ids[2]]));
    let held = runner.run(["rewrite", &ids[0], &ids[1], "--exclude", "key.pem", "--forget"]).expect(1);
    assert!(held.stderr.contains("is held (audit)"), "{}", held.stderr);
    let forget = ["rewrite", &ids[0], "--exclude", "key.pem", "--forget", "--key-file", &key];
    let refused = runner.run(forget).expect(12);
    assert!(refused.stderr.contains("forget snapshots"), "{}", refused.stderr);
    assert_eq!(runner.files("repo"), before);
    // Without --forget a hold does not matter.
    runner.run(["rewrite", &ids[1], "--exclude", "key.pem"]).expect(0);
}

#[test]
fn nothing_is_taken_out_of_a_stream() {
    let runner = Runner::with_repository();
    runner.run(["backup", "--command", "echo secret", "--name", "dump"]).expect(0);
    let refused = runner.run(["rewrite", "latest", "--exclude", "*"]).expect(1);
    assert!(refused.stderr.contains("streams"), "{}", refused.stderr);
}

#[test]
fn a_damaged_snapshot_is_repaired_before_it_is_rewritten() {
    let (runner, ids) = with_leak();
    runner.damage_data();
    for pack in runner.files("repo/packs/data") {
        fs::remove_file(pack).unwrap();
    }
    runner.run(["rewrite", &ids[0], "--exclude", "key.pem"]).expect(1);
    assert_eq!(listed(&runner).len(), 3);
}

/// Backs up a deployment with two runs, a logged file each, and a version of a model that the first run made.
fn with_deployment() -> Runner {
    let runner = Runner::with_repository();
    let database = runner.path("mlflow.db");
    sqlite_file::create_mlflow(&database).execute_batch(mlflow_rows::ONE_MODEL).unwrap();
    let write = |path: &str, content: &[u8]| {
        let path = runner.path("artifacts").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("7/abc/artifacts/model/weights.bin", &noise(1, 100_000));
    write("7/abc/artifacts/model/MLmodel", b"flavors: {}");
    write("7/def/artifacts/log.txt", b"hello");
    write("7/def/artifacts/.env", b"TOKEN=secret");
    write("stray/.env", b"TOKEN=secret");
    deployment(&runner, &["backup"], 0);
    runner
}

#[track_caller]
fn deployment(runner: &Runner, command: &[&str], code: i32) -> Value {
    let uri = format!("sqlite:///{}", runner.path("mlflow.db").display());
    let root = format!("mlflow-artifacts:/={}", runner.path("artifacts").display());
    let more = ["--deployment", "production", "--backend-store-uri", &uri, "--artifacts", &root, "--json"];
    runner.run(command.iter().copied().chain(more)).expect(code).json()
}

#[test]
fn files_of_runs_and_strays_leave_a_deployment_whole() {
    let runner = with_deployment();
    let done = runner.run(["rewrite", "latest", "--exclude", ".env", "--forget", "--json"]).expect(0).json();
    assert_eq!(
        (&done["plan"]["matching"][0]["entries"], &done["rewritten"][0]["is_lacking"]),
        (&json!(2), &json!(false))
    );
    let record = &listed(&runner)[0]["record"];
    assert_eq!(record["completeness"], "complete");
    let references = &record["deployment"]["references"];
    assert_eq!(
        (&references["taken_out"], &references["orphans"], &references["orphan_bytes"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert_eq!(record["deployment"]["verdicts"]["references"], "ok");
    // Who asks for the run learns that it is not all of it.
    let runs = runner.run(["runs", "--experiment", "fraud", "--json"]).expect(0).json();
    let files = |id: &str| {
        let run = runs["runs"].as_array().unwrap().iter().find(|run| run["run_id"] == id).unwrap();
        (run["files"]["state"].clone(), run["files"]["files"].clone())
    };
    assert_eq!(files("def"), (json!("taken_out"), json!(1)));
    assert_eq!(files("abc"), (json!("present"), json!(2)));
    let out = runner.path("out").display().to_string();
    let restored = runner.run(["restore", "--snapshot", "latest", "--run", "def", "--target", &out]).expect(3);
    assert!(restored.stderr.contains("a rewrite took some or all of them out"), "{}", restored.stderr);
    assert!(Path::new(&out).join("log.txt").exists() && !Path::new(&out).join(".env").exists());
    runner.run(["check", "--read-data"]).expect(0);
    // The next backup has the files again unless it leaves them out, and misses nothing.
    let next = deployment(&runner, &["backup", "--exclude", ".env"], 0);
    assert_eq!(next["record"]["deployment"]["verdicts"]["references"], "ok", "{next:#}");
}

#[test]
fn a_deployment_whose_model_lost_a_file_is_no_longer_complete_and_its_databases_are_untouched() {
    let runner = with_deployment();
    let dump = runner.run(["cat", "latest", "database/backend.sql"]).expect(0).stdout;
    // Databases and catalogue match nothing, whatever the pattern.
    runner.run(["rewrite", "latest", "--exclude", "*.sql", "--exclude", "*.jsonl"]).expect(1);
    let done = runner.run(["rewrite", "latest", "--exclude", "weights.bin", "--forget", "--json"]).expect(3).json();
    assert_eq!(done["rewritten"][0]["is_lacking"], true, "{done:#}");
    let record = &listed(&runner)[0]["record"];
    assert_eq!((&record["completeness"], &record["problem_count"]), (&json!("incomplete"), &json!(1)));
    assert_eq!(record["problems"][0]["path"], "model version detector/1");
    assert_eq!(record["deployment"]["verdicts"]["references"], "not_ok");
    assert_eq!(record["deployment"]["verdicts"]["database"], "ok");
    assert_eq!(record["deployment"]["references"]["taken_out"], 2, "{record:#}");
    assert!(runner.run(["cat", "latest", "database/backend.sql"]).expect(0).stdout == dump);
    let out = runner.path("out").display().to_string();
    let restored = runner.run(["restore", "--snapshot", "latest", "--model", "detector", "--target", &out]).expect(3);
    assert!(restored.stderr.contains("a rewrite took"), "{}", restored.stderr);
    assert!(runner.run(["models", "detector"]).expect(0).text().contains("TAKEN OUT"));
    runner.run(["check", "--read-data"]).expect(0);
}
