//! The fields of JSON documents, as cli.md lists them, against what the commands print.
//!
//! In a paragraph that begins with `JSON`, each piece of code that begins with `{"` is the shape of a document: names in
//! quotes, with the shape of what they hold behind a colon. A name with a remark in parentheses may be left out; of names
//! with `or` in between there is one; what is not in quotes stands for anything. Null stands for anything, too.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::page::Page;
use crate::support::cli::{Runner, finish, noise};
use crate::support::deployment::ThreeDays;

/// Objects that only tests with servers or a cluster see ([`assert_documented`]), or that take damage which other tests make.
const SEEN_ELSEWHERE: [&str; 12] = [
    "k8s discover: ",
    "k8s discover: deployments[]",
    "k8s discover: deployments[].secrets[]",
    "k8s resume: ",
    "k8s resume: resumed",
    "k8s run: ",
    "k8s run: resumed",
    "repair index: report.unrepaired[]",
    "restore: listed",
    "restore: resumed",
    "restore: summary.experiments[]",
    "restore: summary.ids",
];

#[derive(Debug, PartialEq)]
enum Shape {
    Any,
    List(Box<Shape>),
    Fields(Vec<Field>),
}

#[derive(Debug, PartialEq)]
struct Field {
    names: Vec<String>,
    is_optional: bool,
    shape: Shape,
}

/// Reads a shape from the front of a text, and leaves what is behind it.
fn shape(text: &mut &str) -> Shape {
    *text = text.trim_start();
    if text.starts_with("{\"") {
        return fields(text);
    }
    match text.strip_prefix('[') {
        Some(rest) => {
            *text = rest;
            let inner = shape(text);
            *text = text.strip_prefix(']').unwrap_or_else(|| panic!("a list does not end: {text}"));
            Shape::List(Box::new(inner))
        }
        None => words(text),
    }
}

/// Words, or a map whose keys are ids, stand for anything. They reach to a comma or an end that is not theirs.
fn words(text: &mut &str) -> Shape {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            ',' | '}' | ']' if depth == 0 => {
                *text = &text[at..];
                return Shape::Any;
            }
            '}' | ']' => depth -= 1,
            _ => {}
        }
    }
    *text = "";
    Shape::Any
}

fn fields(text: &mut &str) -> Shape {
    let mut fields = Vec::new();
    *text = &text[1..];
    loop {
        fields.push(field(text));
        *text = text.trim_start();
        match text.strip_prefix(',') {
            Some(rest) => *text = rest,
            None => {
                *text = text.strip_prefix('}').unwrap_or_else(|| panic!("an object does not end: {text}"));
                return Shape::Fields(fields);
            }
        }
    }
}

fn field(text: &mut &str) -> Field {
    let mut names = Vec::new();
    loop {
        let (name, rest) = text.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"')).unwrap();
        names.push(name.to_owned());
        *text = rest;
        match rest.strip_prefix(" or ") {
            Some(more) => *text = more,
            None => break,
        }
    }
    let remark = text.strip_prefix(" (").and_then(|rest| rest.split_once(')'));
    if let Some((_, rest)) = remark {
        *text = rest;
    }
    let mut held = Shape::Any;
    if let Some(rest) = text.strip_prefix(':') {
        *text = rest;
        held = shape(text);
    }
    Field { names, is_optional: remark.is_some(), shape: held }
}

/// Returns the shapes of the documents of a command.
fn shapes(page: &Page, command: &str) -> Vec<Shape> {
    let paragraphs = page.section(command).split("\n\n").map(str::trim).filter(|text| text.starts_with("JSON"));
    let text: Vec<String> = paragraphs.map(|paragraph| paragraph.replace('\n', " ")).collect();
    let code = text.iter().flat_map(|text| text.split('`').skip(1).step_by(2));
    code.filter(|code| code.starts_with("{\"")).map(|mut code| shape(&mut code)).collect()
}

fn below(at: &str, name: &str) -> String {
    if at.ends_with(": ") { format!("{at}{name}") } else { format!("{at}.{name}") }
}

/// What came of a comparison: where the two differ, and the objects that were there to be compared.
#[derive(Default)]
struct Comparison {
    offences: Vec<String>,
    met: BTreeSet<String>,
}

impl Comparison {
    fn compare(&mut self, shape: &Shape, value: &Value, at: &str) {
        match (shape, value) {
            (Shape::Any, _) | (_, Value::Null) => {}
            (Shape::List(inner), Value::Array(items)) => {
                items.iter().for_each(|item| self.compare(inner, item, &format!("{at}[]")));
            }
            (Shape::Fields(fields), Value::Object(object)) => {
                self.met.insert(at.to_owned());
                for field in fields {
                    let found = field.names.iter().filter(|name| object.contains_key(*name)).count();
                    if found != 1 && !(found == 0 && field.is_optional) {
                        self.offences.push(format!("{at}: {:?} is listed, and not there", field.names));
                    }
                }
                for (name, inner) in object {
                    match fields.iter().find(|field| field.names.contains(name)) {
                        Some(field) => self.compare(&field.shape, inner, &below(at, name)),
                        None => self.offences.push(format!("{at}: {name:?} is there, and not listed")),
                    }
                }
            }
            _ => self.offences.push(format!("{at}: it is {value}, and {shape:?} is listed")),
        }
    }
}

/// Returns the places of all objects that a shape has.
fn objects(shape: &Shape, at: &str) -> Vec<String> {
    match shape {
        Shape::Any => Vec::new(),
        Shape::List(inner) => objects(inner, &format!("{at}[]")),
        Shape::Fields(fields) => {
            let inner = fields
                .iter()
                .flat_map(|field| field.names.iter().flat_map(|name| objects(&field.shape, &below(at, name))));
            [at.to_owned()].into_iter().chain(inner).collect()
        }
    }
}

/// Compares what a command printed with the shape that it fits best.
fn look_at(page: &Page, command: &str, document: &Value) -> Comparison {
    let items = document.as_array().map_or_else(|| vec![document], |items| items.iter().collect());
    let mut all = Comparison::default();
    for item in items {
        let compared = shapes(page, command).into_iter().map(|shape| {
            let mut comparison = Comparison::default();
            comparison.compare(&shape, item, &format!("{command}: "));
            comparison
        });
        let best = compared.min_by_key(|comparison| comparison.offences.len());
        let best = best.unwrap_or_else(|| panic!("the page lists no JSON of {command}"));
        all.offences.extend(best.offences);
        all.met.extend(best.met);
    }
    all
}

/// Fails unless the page lists exactly the fields that a document has.
#[track_caller]
pub fn assert_documented(command: &str, document: &Value) {
    let offences = look_at(&Page::read("docs/cli.md"), command, document).offences;
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// What commands printed, by the headings of the page.
struct Printed<'a>(&'a Runner, Vec<(&'static str, Value)>);

impl Printed<'_> {
    #[track_caller]
    fn run(&mut self, command: &'static str, more: &[&str], code: i32) -> Value {
        let words: Vec<&str> = command.split(' ').chain(more.iter().copied()).chain(["--json"]).collect();
        let document = self.0.run(words).expect(code).json();
        self.1.push((command, document.clone()));
        document
    }
}

#[test]
fn the_page_lists_exactly_the_fields_of_json_documents() {
    let page = Page::read("docs/cli.md");
    let mut printed = of_a_sound_repository();
    printed.extend(of_a_damaged_repository());
    printed.extend(of_a_deployment());
    printed.extend(of_a_log());
    let (mut offences, mut met) = (BTreeSet::new(), BTreeSet::new());
    for (command, document) in &printed {
        let found = look_at(&page, command, document);
        offences.extend(found.offences);
        met.extend(found.met);
    }
    let titles: Vec<_> = page.headings().into_iter().map(|(_, title)| title).collect();
    // The section of a command that has others below it has theirs.
    let has_below = |title: &str| titles.iter().any(|other| other.starts_with(&format!("{title} ")));
    let commands = titles.iter().filter(|title| title.starts_with(char::is_lowercase) && !has_below(title));
    let listed = commands.flat_map(|command| {
        shapes(&page, command).iter().flat_map(|shape| objects(shape, &format!("{command}: "))).collect::<Vec<_>>()
    });
    let unseen = listed.filter(|at| !met.contains(at) && !SEEN_ELSEWHERE.contains(&at.as_str()));
    offences.extend(unseen.map(|at| format!("{at}: no document of this test has it")));
    assert!(offences.is_empty(), "\n{}", offences.into_iter().collect::<Vec<_>>().join("\n"));
}

fn of_a_sound_repository() -> Vec<(&'static str, Value)> {
    let runner = Runner::without_repository();
    let path = |name: &str| runner.path(name).display().to_string();
    let mut printed = Printed(&runner, Vec::new());
    printed.run("init", &[], 0);
    let (key, slot) = (path("new-key"), path("slot"));
    printed.run("key add", &["--label", "second", "--role", "reader", "--new-key-file", &key], 0);
    printed.run("key export", &["second", "--output", &slot], 0);
    printed.run("key remove", &["second"], 0);
    printed.run("key import", &[&slot], 0);
    for label in ["cron", "host"] {
        printed.run("key add", &["--label", label, "--role", "writer", "--new-key-file", &path(label)], 0);
    }
    fs::write(runner.path("words"), "correct horse battery").unwrap();
    printed.run("key passwd", &["host", "--new-passphrase-file", &path("words")], 0);
    printed.run("key trust", &["cron", "host"], 0);
    printed.run("key list", &[], 0);
    printed.run("key distrust", &["cron"], 0);
    printed.run("key remove", &["cron"], 0);
    printed.run("key list", &[], 0);
    fs::write(runner.path("repo/keys").join("0".repeat(16)), "damaged").unwrap();
    printed.run("key list", &[], 3);
    fs::remove_file(runner.path("repo/keys").join("0".repeat(16))).unwrap();

    runner.write("a/file", noise(1, 100_000));
    std::os::unix::fs::symlink("file", runner.path("src/a/link")).unwrap();
    let first = printed.run("backup", &["."], 0)["snapshot"].as_str().unwrap().to_owned();
    printed.run("backup", &[".", "--dry-run"], 0);
    runner.write("a/file", noise(2, 90_000));
    printed.run("backup", &["."], 0);
    printed.run("ls", &["latest", "-R"], 0);
    printed.run("find", &["file"], 0);
    printed.run("diff", &[&first, "latest"], 1);
    printed.run("diff", &["latest", "--dir", "."], 0);
    printed.run("restore", &["--snapshot", "latest", "--target", &path("out"), "--delete"], 0);
    let hold = printed.run("hold add", &["latest", "--reason", "audit"], 0)["added"]["id"].as_str().unwrap().to_owned();
    printed.run("hold list", &[], 0);
    printed.run("snapshots", &[], 0);
    printed.run("hold remove", &[&hold], 0);
    printed.run("tag add", &["latest", "one"], 0);
    printed.run("tag remove", &["latest", "one"], 0);
    printed.run("tag add", &["latest", "pre-upgrade"], 0);
    printed.run("upgrade-done", &[], 0);
    printed.run("stats", &[], 0);
    printed.run("stats", &["latest"], 0);
    let toml = path("mlvault.toml");
    let of_file = "[to]\nkey-file = '/none'\n[deployment.p]\nbackend-store-uri = 'sqlite:////none.db'\n\
                   [notify.p]\nkind = 'ping'\nurl = 'http://127.0.0.1:1/p'\ntimeout = '1s'\n[policy.p]\nkeep-last = 1\n";
    fs::write(&toml, of_file).unwrap();
    printed.run("config check", &["--config", &toml], 2);
    printed.run("status", &["--config", &toml], 1);
    printed.run("metrics", &[], 0);
    printed.run("metrics", &["--textfile", &path("metrics.prom")], 0);
    printed.run("report", &["--config", &toml, "--out", &path("report.html")], 1);
    printed.run("check", &["--record"], 0);
    printed.run("status", &[], 0);
    printed.run("notify test", &["--config", &toml], 1);
    printed.run("check", &["--max-age", "7d"], 0);
    printed.run("repair index", &["--dry-run"], 0);
    printed.run("doctor", &[], 0);
    let cached = printed.run("cache", &[], 0)["caches"][0]["path"].as_str().unwrap().to_owned();
    let touched = std::process::Command::new("touch").args(["-d", "40 days ago"]).args(runner.files(&cached)).status();
    assert!(touched.unwrap().success());
    printed.run("cache", &["--cleanup"], 0);
    printed.run("completions", &["bash"], 0);
    printed.run("man", &[], 0);
    printed.run("man", &["--out", &path("man1")], 0);
    let (copy, key) = (path("copy"), path("key"));
    finish(runner.command(["init", "--repo", &copy]).env("MLVAULT_REPO", &copy)).expect(0);
    printed.run("copy", &["--all", "--to", &copy, "--to-key-file", &key], 0);
    printed.run("copy", &["--all", "--to", &copy, "--to-key-file", &key], 0);
    printed.run("rewrite", &["latest", &first, "--exclude", "file"], 0);
    printed.run("rewrite", &["latest", "--exclude", "link", "--dry-run"], 0);
    printed.run("forget", &["--keep-last", "1", "--dry-run"], 0);
    printed.run("forget", &["--keep-last", "1", "--max-forget", "10%"], 1);
    printed.run("forget", &[&first], 0);
    printed.run("snapshots", &["--trash"], 0);
    let back = printed.run("undelete", &[&first], 0)["snapshot"].as_str().unwrap().to_owned();
    printed.run("forget", &[&back, "--prune"], 0);
    printed.run("prune", &[], 0);
    fs::create_dir_all(runner.path("repo/notes")).unwrap();
    fs::write(runner.path("repo/notes").join("0".repeat(32)), "junk").unwrap();
    printed.run("repair objects", &["--yes"], 0);
    printed.1
}

fn of_a_log() -> Vec<(&'static str, Value)> {
    let runner = Runner::with_repository();
    let file = runner.path("checkpoint").display().to_string();
    let mut printed = Printed(&runner, Vec::new());
    runner.backup();
    printed.run("audit log show", &[], 0);
    printed.run("audit log checkpoint", &["--out", &file], 0);
    fs::remove_dir_all(runner.path("repo/log")).unwrap();
    printed.run("audit log verify", &["--checkpoint", &file], 1);
    fs::remove_dir_all(runner.path("cache")).unwrap();
    printed.run("audit log complete", &[], 0);
    printed.run("audit log complete", &[], 0);
    printed.1
}

fn of_a_damaged_repository() -> Vec<(&'static str, Value)> {
    let runner = Runner::with_repository();
    let path = |name: &str| runner.path(name).display().to_string();
    runner.write("file", noise(1, 100_000));
    runner.backup();
    runner.damage_data();
    let mut printed = Printed(&runner, Vec::new());
    printed.run("check", &["--read-data"], 1);
    let (copy, key) = (path("copy"), path("key"));
    finish(runner.command(["init"]).env("MLVAULT_REPO", &copy)).expect(0);
    printed.run("copy", &["--all", "--to", &copy, "--to-key-file", &key], 3);
    printed.run("repair packs", &[], 3);
    printed.run("repair snapshots", &["--yes"], 3);
    printed.1
}

fn of_a_deployment() -> Vec<(&'static str, Value)> {
    let lived = ThreeDays::unpack();
    let runner = &lived.runner;
    let mut printed = Printed(runner, Vec::new());
    printed.run("models", &["fraud-detector"], 0);
    printed.run("runs", &["--experiment", "demand"], 0);
    printed.run("experiments", &[], 0);
    printed.run("audit history", &["--model", "fraud-detector", "--version", "1"], 0);
    let bundle = runner.path("evidence.zip").display().to_string();
    printed.run("audit evidence", &["--model", "fraud-detector", "--version", "1", "--out", &bundle], 0);
    printed.run("audit verify", &[&bundle], 3);
    let target = runner.path("empty").display().to_string();
    fs::create_dir(&target).unwrap();
    printed.run("audit verify", &[&bundle, "--target", &target], 4);
    printed.run("diff", &[&lived.snapshots[0].0, "latest"], 1);
    let place = lived.place();
    let (database, artifacts) = (place.database.as_str(), format!("mlflow-artifacts:/={}", place.artifacts));
    let here = ["--deployment", "production", "--backend-store-uri", database, "--artifacts", &artifacts];
    printed.run("doctor", &here, 0);
    let plan = [&here[..], &["--plan", "p"]].concat();
    for step in [&["--shards", "2"][..], &["--shard", "0"], &["--shard", "1"], &["--close"]] {
        printed.run("backup", &[&plan[..], step].concat(), 0);
    }
    let mlflow = crate::support::tool("mlflow").display().to_string();
    printed.run("drill", &[&here[..], &["--mlflow-command", &mlflow]].concat(), 0);
    printed.run("drill list", &[], 0);
    printed.run("restore", &[&here[..], &["--model", "fraud-detector", "--dry-run"]].concat(), 0);
    let new = crate::support::deployment::Place::in_folder(&runner.path("new"));
    fs::create_dir_all(&new.artifacts).unwrap();
    let artifacts = format!("mlflow-artifacts:/={}", new.artifacts);
    let there = ["--deployment", "production", "--backend-store-uri", &new.database, "--artifacts", &artifacts];
    printed.run("restore", &[&there[..], &["--dry-run"]].concat(), 0);
    printed.run("restore", &[&there[..], &["--yes"]].concat(), 0);
    fs::remove_dir_all(&place.artifacts).unwrap();
    fs::create_dir_all(&place.artifacts).unwrap();
    printed.run("backup", &here, 3);
    let accept = ["--all", "--deployment", "production", "--reason", "disk 7", "--until", "2199-12-31"];
    let accepted = printed.run("accept add", &accept, 0);
    printed.run("accept list", &[], 0);
    printed.run("accept remove", &[accepted["added"][0]["id"].as_str().unwrap()], 0);
    runner.run(["forget", &lived.snapshots[1].0]).expect(0);
    fs::remove_file(runner.path("repo/snapshots").join(&lived.snapshots[2].0)).unwrap();
    printed.run("audit history", &["--model", "fraud-detector"], 4);
    printed.1
}

#[test]
fn the_reading_of_shapes_sees_what_it_looks_for() {
    let mut text = r#"{"a", "b" or "c": [{"d": how many, "e" (or null)}], "f": {id: [ids, x]}, "g": [text]} rest"#;
    let Shape::Fields(fields) = shape(&mut text) else { panic!() };
    assert_eq!(text, " rest");
    let names: Vec<_> = fields.iter().map(|field| field.names.join("/")).collect();
    assert_eq!(names, ["a", "b/c", "f", "g"]);
    let shape = Shape::Fields(fields);
    assert_eq!(objects(&shape, "x: "), ["x: ", "x: b[]", "x: c[]"]);
    let compared = |value: Value| {
        let mut comparison = Comparison::default();
        comparison.compare(&shape, &value, "x: ");
        comparison.offences
    };
    use serde_json::json;
    assert_eq!(compared(json!({ "a": 1, "c": [{ "d": 1 }], "f": null, "g": [] })), [""; 0]);
    assert_eq!(compared(json!({ "a": 1, "b": [{ "d": 1, "h": 2 }], "f": {}, "g": [] })).len(), 1);
    assert_eq!(compared(json!({ "b": [], "c": [], "f": {}, "g": [] })).len(), 2);
}
