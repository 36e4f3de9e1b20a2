//! `mlvault report`: the page as a browser shows it.
//!
//! What must stay true: a real browser draws it, in light, in dark and on paper, without asking anybody for anything; names from
//! outside stay text; who does not see it can have it read out (axe finds nothing wrong).

use std::fs;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use mlvault::format::evidence::{DrillResult, DrillTime, Says};
use serde_json::Value;
use tempfile::TempDir;

use crate::status::{backup, configure, create, run};
use crate::support::cli::{Runner, finish};
use crate::support::repo::{clean_check, passed_drill};
use crate::support::tool;

/// A name that would be a script if it were not text.
const HOSTILE: &str = "<script>document.title='run'</script>";

/// A repository with good and bad in it, among other things a source with a hostile name, and its report.
fn report() -> (Runner, String) {
    let runner = Runner::with_repository();
    create(&runner, "production", 3);
    configure(&runner, &[("production", "rto = '90m'\ndrill = '35d'"), ("staging", "")]);
    (0..3).for_each(|_| drop(backup(&runner, "production").expect(0)));
    finish(&mut runner.shell(&format!("echo content | \"$MLVAULT\" backup --stdin --name \"{HOSTILE}\""))).expect(0);
    let repository = runner.open();
    for (result, seconds) in [(DrillResult::Passed, 65), (DrillResult::Failed, 70)] {
        let mut drill = passed_drill("production");
        drill.result = result;
        drill.times =
            vec![DrillTime { part: DrillTime::WHOLE.to_owned(), milliseconds: seconds * 1000, target_seconds: None }];
        if result == DrillResult::Failed {
            drill.failures.push(HOSTILE);
        }
        repository.write_evidence(Says::Drill(Box::new(drill))).unwrap();
    }
    repository.write_evidence(clean_check()).unwrap();
    let file = runner.path("report.html");
    let outcome = run(&runner, &["report", "--json", "--out", file.to_str().unwrap()]).expect(1);
    assert_eq!(outcome.json()["is_well"], false);
    let page = fs::read_to_string(file).unwrap();
    (runner, page)
}

/// Runs a browser without a network on a page, in a home of its own.
pub fn browse(page: &Path, arguments: &[&str]) -> String {
    let home = TempDir::new().unwrap();
    let profile = format!("--user-data-dir={}", home.path().display());
    let mut command = Command::new("chromium");
    command.env("HOME", home.path()).args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=20000",
        &profile,
    ]);
    let output = command.args(arguments).arg(format!("file://{}", page.display())).output();
    let output = output.expect("chromium runs: run scripts/setup.sh test first");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_page_is_self_contained_and_names_stay_text() {
    let (runner, page) = report();
    for from_elsewhere in ["http://", "https://", "<script", "<img", "<link", "@import", "url(h", "src="] {
        assert!(!page.contains(from_elsewhere), "{from_elsewhere}");
    }
    let today = Timestamp::now().strftime("%F").to_string();
    for said in
        ["2 alarms", "never backed up", "deployment staging", "drill failed", &today, "1 passed drill, 1 failed drill"]
    {
        assert!(page.contains(said), "{said}: {page}");
    }
    let dom = browse(&runner.path("report.html"), &["--dump-dom"]);
    assert!(dom.contains("<title>Backups: 2 alarms</title>"), "{dom}");
    assert!(dom.contains("&lt;script&gt;document.title"), "{dom}");
}

#[test]
fn a_browser_draws_it_in_light_in_dark_and_on_paper() {
    let (runner, _) = report();
    let page = runner.path("report.html");
    let mut pictures = Vec::new();
    for (name, more) in [("light", ""), ("dark", "--blink-settings=preferredColorScheme=0"), ("narrow", "")] {
        let picture = runner.path(format!("{name}.png"));
        let size = if name == "narrow" { "--window-size=420,1600" } else { "--window-size=1200,1600" };
        let screenshot = format!("--screenshot={}", picture.display());
        let arguments: Vec<&str> = [size, &screenshot, more].into_iter().filter(|it| !it.is_empty()).collect();
        browse(&page, &arguments);
        pictures.push(fs::read(&picture).unwrap());
    }
    assert!(
        pictures.iter().all(|picture| picture.len() > 20_000),
        "{:?}",
        pictures.iter().map(Vec::len).collect::<Vec<_>>()
    );
    assert_ne!(pictures[0], pictures[1]);
    let paper = runner.path("report.pdf");
    browse(&page, &[&format!("--print-to-pdf={}", paper.display())]);
    assert!(fs::read(paper).unwrap().starts_with(b"%PDF"));
}

/// Puts the tool for accessibility into a copy of a page, which then says what it finds.
fn with_axe(page: &str) -> String {
    let axe = tool("python").parent().unwrap().join("../lib");
    let python =
        fs::read_dir(axe).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.join("site-packages").is_dir());
    let axe = fs::read_to_string(python.unwrap().join("site-packages/axe_core_python/axe.min.js")).unwrap();
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    assert!(page.contains(policy), "the page says what may be loaded");
    let open = page.replace(policy, "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'");
    let run = "axe.run(document, {resultTypes: ['violations', 'passes']}).then(found => {
        const say = document.createElement('pre');
        say.id = 'found';
        say.textContent = JSON.stringify({passes: found.passes.length, violations: found.violations.map(it => [it.id, it.nodes.map(node => node.html)])});
        document.body.append(say);
    });";
    open.replace("</body>", &format!("<script>{axe}</script><script>{run}</script></body>"))
}

#[test]
fn who_does_not_see_the_page_can_have_it_read_out() {
    let (runner, page) = report();
    let copy = runner.path("axe.html");
    for (scheme, more) in [("light", ""), ("dark", "--blink-settings=preferredColorScheme=0")] {
        fs::write(&copy, with_axe(&page)).unwrap();
        let arguments: Vec<&str> = ["--dump-dom", more].into_iter().filter(|it| !it.is_empty()).collect();
        let dom = browse(&copy, &arguments);
        let (_, found) = dom.split_once("<pre id=\"found\">").unwrap_or_else(|| panic!("axe said nothing: {dom}"));
        let (found, _) = found.split_once("</pre>").unwrap();
        let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["violations"], Value::Array(Vec::new()), "{scheme}");
        assert!(found["passes"].as_u64().unwrap() > 10, "{found}");
    }
}
