//! `mlvault metrics`, the alerts and the dashboard that rest on it.
//!
//! What must stay true: Prometheus's own tools read all of it; what an alert or the dashboard names, mlvault tells; each kind of
//! alarm has an alert; the server stays up whoever asks it what, and says when what it knows is old.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mlvault::format::evidence::{DrillTime, Says};
use mlvault::status::AlarmKind;
use rustix::process::{Pid, Signal, kill_process};

use crate::status::{backup, configure, create, run};
use crate::support::cli::{Runner, finish};
use crate::support::mlflow_rows::VERSION_AT_M;
use crate::support::repo::{clean_check, passed_drill};
use crate::support::tool;

const WAIT_MAX: Duration = Duration::from_secs(30);

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// A repository in which something of everything is there that metrics tell.
fn everything() -> Runner {
    let runner = Runner::with_repository();
    create(&runner, "production", 3);
    configure(&runner, &[("production", "rto = '90m'\ndrill = '35d'\ncheck = '8d'"), ("staging", "")]);
    let database = rusqlite::Connection::open(runner.path("production/mlflow.db")).unwrap();
    database.execute_batch(VERSION_AT_M).unwrap();
    backup(&runner, "production").expect(3);
    let accept =
        ["accept", "add", "--all", "--deployment", "production", "--reason", "disk 7", "--until", "2199-12-31"];
    run(&runner, &accept).expect(0);
    backup(&runner, "production").expect(0);
    let repository = runner.open();
    let mut drill = passed_drill("production");
    drill.times = vec![DrillTime { part: DrillTime::WHOLE.to_owned(), milliseconds: 65_000, target_seconds: None }];
    repository.write_evidence(Says::Drill(Box::new(drill))).unwrap();
    repository.write_evidence(clean_check()).unwrap();
    runner
}

/// Returns the names of all metrics that a text names.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_lowercase() || character == '_' || character.is_ascii_digit();
    let begins = text.match_indices("mlvault_").map(|(at, _)| &text[at..]);
    begins.map(|rest| rest.chars().take_while(|character| is_part(*character)).collect()).collect()
}

fn promtool(args: &[&str], input: &str) {
    let mut child = Command::new(tool("promtool"));
    child.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
}

#[test]
fn prometheus_reads_the_metrics_and_every_name_that_is_used_is_told() {
    let runner = everything();
    let metrics = run(&runner, &["metrics"]).expect(0).text();
    promtool(&["check", "metrics"], &metrics);
    let told = names(&metrics);
    for file in ["prometheus/mlvault.rules.yml", "prometheus/mlvault.tests.yml", "grafana/mlvault.json"] {
        let unknown: Vec<_> = names(&fs::read_to_string(deploy(file)).unwrap()).difference(&told).cloned().collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md")).unwrap();
    let documented = names(&page);
    let undocumented: Vec<_> = told.difference(&documented).collect();
    assert!(undocumented.is_empty(), "not in docs/cli.md: {undocumented:?}");
    assert!(metrics.contains("mlvault_alarm{kind=\"never_backed_up\",source=\"deployment staging\"} 1.0"), "{metrics}");
    assert_eq!(
        run(&runner, &["metrics", "--json"]).expect(0).json()["metrics"].as_str().unwrap().lines().count(),
        metrics.lines().count()
    );
}

#[test]
fn the_alerts_are_sound_and_each_kind_of_alarm_has_one() {
    let (rules, tests) = (deploy("prometheus/mlvault.rules.yml"), deploy("prometheus/mlvault.tests.yml"));
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    promtool(&["test", "rules", tests.to_str().unwrap()], "");
    let rules = fs::read_to_string(rules).unwrap();
    for kind in AlarmKind::ALL {
        let has_metric = match kind {
            AlarmKind::Overdue => rules.contains("mlvault_last_good_timestamp_seconds"),
            AlarmKind::Incomplete => rules.contains("mlvault_incomplete_in_a_row"),
            _ => rules.contains(kind.name()),
        };
        assert!(has_metric, "{kind:?}");
    }
    let dashboard: serde_json::Value =
        serde_json::from_slice(&fs::read(deploy("grafana/mlvault.json")).unwrap()).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
}

#[test]
fn a_textfile_is_replaced_whole_and_others_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let runner = everything();
    let file = runner.path("mlvault.prom");
    fs::write(&file, "old").unwrap();
    run(&runner, &["metrics", "--textfile", file.to_str().unwrap()]).expect(0);
    promtool(&["check", "metrics"], &fs::read_to_string(&file).unwrap());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    run(&runner, &["metrics", "--textfile", "/nowhere/mlvault.prom"]).expect(1);
    // Without a look nothing is written.
    fs::rename(runner.path("repo"), runner.path("away")).unwrap();
    let before = fs::read(&file).unwrap();
    run(&runner, &["metrics", "--textfile", file.to_str().unwrap()]).expect(10);
    assert_eq!(fs::read(&file).unwrap(), before);
}

/// A server that runs.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(runner: &Runner) -> Self {
        let mut command = runner.command(["metrics", "--listen", "127.0.0.1:0", "--interval", "1s"]);
        command.arg("--config").arg(runner.path("mlvault.toml")).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = said.next().unwrap().unwrap();
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.trim_end_matches("/metrics").to_owned();
            }
        };
        // Nobody reads the rest: a server that has to say something must not wait for it.
        std::thread::spawn(move || said.for_each(drop));
        Self { child, address }
    }

    /// Starts one of Prometheus's own servers, and waits until it can be reached.
    fn of_prometheus(command: &mut Command) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        command.arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().unwrap(), address };
        let begun = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            assert!(begun.elapsed() < WAIT_MAX);
            sleep(Duration::from_millis(50));
        }
        server
    }

    /// Returns head and body of an answer.
    fn ask(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn get(&self, path: &str) -> (String, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    /// Asks until the answer is as expected.
    fn wait_for(&self, path: &str, is_right: impl Fn(&str, &str) -> bool) -> (String, String) {
        let begun = Instant::now();
        loop {
            let (head, body) = self.get(path);
            if is_right(&head, &body) {
                return (head, body);
            }
            assert!(begun.elapsed() < WAIT_MAX, "{head}\n{body}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as systemd and Kubernetes do.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let begun = Instant::now();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}

/// A test that fails leaves no server behind.
impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_server_tells_what_it_knows_says_when_that_is_old_and_ends_in_time() {
    let runner = everything();
    let server = Server::start(&runner);
    let (head, body) = server.wait_for("/metrics", |_, body| body.contains("mlvault_up 1.0"));
    assert!(head.contains("200 OK") && head.contains("application/openmetrics-text"), "{head}");
    promtool(&["check", "metrics"], &body);
    assert_eq!(server.get("/healthz").1, "ok\n");
    assert!(server.get("/elsewhere").0.contains("404"));
    assert!(server.ask("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").0.contains("405"));
    // Clients that send nothing, or nonsense, keep nobody else waiting.
    let idle: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    (&idle[0]).write_all(b"\x16\x03\x01\x00").unwrap();
    assert!(server.get("/metrics").0.contains("200 OK"));
    // What is known stays, with its time, when the repository goes away.
    fs::rename(runner.path("repo"), runner.path("away")).unwrap();
    let (_, body) = server.wait_for("/metrics", |_, body| body.contains("mlvault_up 0.0"));
    assert!(body.contains("mlvault_last_good_timestamp_seconds{"), "{body}");
    server.wait_for("/healthz", |head, _| head.contains("503"));
    fs::rename(runner.path("away"), runner.path("repo")).unwrap();
    server.wait_for("/metrics", |_, body| body.contains("mlvault_up 1.0"));
    server.end();
    drop(idle);
}

#[test]
fn a_push_gateway_is_told_whole_and_what_it_says_is_repeated() {
    let runner = everything();
    let gateway = Server::of_prometheus(&mut Command::new(tool("prometheus-pushgateway")));
    let url = format!("http://{}/metrics/job/mlvault", gateway.address);
    run(&runner, &["metrics", "--push", &url]).expect(0);
    let (_, body) = gateway.get("/metrics");
    assert!(body.contains("mlvault_snapshots{deployment=\"production\",instance=\"\",job=\"mlvault\""), "{body}");
    // What is not there any more goes.
    run(&runner, &["metrics", "--group", "deployment production", "--push", &url]).expect(0);
    assert!(!gateway.get("/metrics").1.contains("staging"));
    let refused = run(&runner, &["metrics", "--push", &format!("http://{}/elsewhere", gateway.address)]).expect(1);
    assert!(refused.stderr.contains("404"), "{}", refused.stderr);
    drop(gateway);
    run(&runner, &["metrics", "--push", &url]).expect(1);
    run(&runner, &["metrics", "--push", "http://192.0.2.1/metrics/job/mlvault"]).expect(2);
}

#[test]
fn a_prometheus_that_scrapes_raises_the_alert_and_takes_it_back() {
    let runner = everything();
    let metrics = Server::start(&runner);
    let rules = deploy("prometheus/mlvault.rules.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules:?}]\nscrape_configs:\n\
         - {{job_name: mlvault, static_configs: [{{targets: [{:?}]}}]}}\n",
        metrics.address
    );
    fs::write(runner.path("prometheus.yml"), text).unwrap();
    let mut command = Command::new(tool("promtool").canonicalize().unwrap().with_file_name("prometheus"));
    command.arg("--config.file").arg(runner.path("prometheus.yml"));
    let prometheus = Server::of_prometheus(command.arg("--storage.tsdb.path").arg(runner.path("tsdb")));
    let is_raised = |body: &str| {
        let found: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        found["data"]["alerts"].as_array().is_some_and(|alerts| {
            let is_it = |labels: &serde_json::Value| {
                labels["alertname"] == "MlvaultNoGoodBackup" && labels["source"] == "deployment staging"
            };
            alerts.iter().any(|alert| alert["state"] == "firing" && is_it(&alert["labels"]))
        })
    };
    prometheus.wait_for("/api/v1/alerts", |_, body| is_raised(body));
    create(&runner, "staging", 3);
    backup(&runner, "staging").expect(0);
    prometheus.wait_for("/api/v1/alerts", |head, body| head.contains("200 OK") && !is_raised(body));
}

#[test]
fn an_address_that_cannot_be_had_is_refused() {
    let runner = everything();
    for address in ["nonsense", "192.0.2.1:1", "127.0.0.1"] {
        let refused = finish(&mut runner.command(["metrics", "--listen", address])).expect(1);
        assert!(refused.stderr.contains(address), "{}", refused.stderr);
    }
    run(&runner, &["metrics", "--listen", "127.0.0.1:0", "--interval", "0s"]).expect(2);
}
