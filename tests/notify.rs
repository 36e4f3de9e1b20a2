//! Notifications: who is told how a run ended, how, and that nothing of it changes how it ended. The servers are fakes that
//! fail on purpose, or keep what they are sent.

use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::docs::json_fields::assert_documented;
use super::support::cli::{Outcome, Runner, finish};
use super::support::fault_server::{Answer, FaultServer, Request};
use super::support::smtp_server::{self, PLAIN, Protection, SmtpServer};

/// What a server was sent: method, target and body.
type Kept = Arc<Mutex<Vec<(String, String, String)>>>;

/// Starts a server that keeps what it is sent and answers like this.
fn keeping(answer: impl Fn(usize) -> Answer + Send + 'static) -> (FaultServer, Kept) {
    let kept = Kept::default();
    let keep = Arc::clone(&kept);
    let server = FaultServer::start(move |number, request: &Request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        keep.lock().unwrap().push((request.method.clone(), request.target.clone(), body));
        answer(number)
    });
    (server, kept)
}

fn targets(kept: &Kept) -> Vec<String> {
    kept.lock().unwrap().iter().map(|(_, target, _)| target.clone()).collect()
}

fn with_file(runner: &Runner, text: &str, args: &[&str]) -> Command {
    let file = runner.path("mlvault.toml");
    fs::write(&file, text).unwrap();
    let mut command = runner.command(args);
    command.arg("--config").arg(file);
    command
}

/// Returns the last line of standard error.
fn summary(outcome: &Outcome) -> Value {
    let last = outcome.stderr.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", outcome.stderr))
}

#[test]
fn a_webhook_gets_the_summary_of_what_it_wants_to_hear_of() {
    let runner = Runner::with_repository();
    runner.write("file", "content");
    let (server, kept) = keeping(|_| Answer::with(200, "thanks"));
    let url = format!("http://127.0.0.1:{}/hunter2?hunter2", server.port());
    fs::write(runner.path("url"), format!("{url}\n")).unwrap();
    let text = format!(
        "[notify.default]\nkind = 'webhook'\nurl = '{url}'\n\
         [notify.all]\nkind = 'webhook'\nurl-file = '{}'\non = ['success']\ncommands = ['check']\n\
         [notify.other]\nkind = 'webhook'\nurl = '{url}'\non = ['success']\ndeployments = ['production']\n",
        runner.path("url").display()
    );
    let outcome = finish(with_file(&runner, &text, &["backup", "."]).args(["--log-format", "json"])).expect(0);
    let told = summary(&outcome);
    assert_eq!(
        (&told["type"], &told["event"], &told["verdict"]),
        (&"summary".into(), &"summary".into(), &"success".into())
    );
    assert_eq!(server.requests(), 0);
    // What fails, and what a check proves.
    let outcome = finish(&mut with_file(&runner, &text, &["backup", "missing"])).expect(1);
    assert!(!outcome.stderr.contains("hunter2") && !outcome.stderr.contains("\"summary\""), "{}", outcome.stderr);
    finish(&mut with_file(&runner, &text, &["check"])).expect(0);
    finish(&mut with_file(&runner, &text, &["snapshots"])).expect(0);
    let kept = kept.lock().unwrap();
    let bodies: Vec<Value> = kept.iter().map(|(.., body)| serde_json::from_str(body).unwrap()).collect();
    bodies.iter().for_each(|body| assert_documented("The summary of a run", body));
    assert_eq!(bodies.iter().map(|body| body["command"].as_str().unwrap()).collect::<Vec<_>>(), ["backup", "check"]);
    assert_eq!((&bodies[0]["exit_code"], &bodies[0]["verdict"]), (&1.into(), &"failure".into()));
    assert!(bodies[0]["error"].as_str().unwrap().contains("missing"), "{}", bodies[0]);
    assert_eq!((kept[0].0.as_str(), kept[0].1.as_str()), ("POST", "/hunter2?hunter2"));
}

#[test]
fn an_incomplete_backup_is_told_with_its_problems() {
    let runner = Runner::with_repository();
    let (server, kept) = keeping(|_| Answer::with(200, ""));
    let text = format!("[notify.chat]\nkind = 'slack'\nurl = 'http://127.0.0.1:{}/x'\n", server.port());
    let secret = runner.write("a<b>&c", "content");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let file = runner.path("mlvault.toml");
    fs::write(&file, &text).unwrap();
    let mut backup = runner.command_without_privileges(["backup", ".", "--log-format", "json", "--config"]);
    let told = summary(&finish(backup.arg(&file)).expect(3));
    assert_eq!((&told["verdict"], &told["problem_count"]), (&"incomplete".into(), &1.into()));
    assert!(told["problems"][0]["subject"].as_str().unwrap().ends_with("/a<b>&c"), "{told}");
    assert_eq!((&told["notifications"][0]["name"], &told["notifications"][0]["ok"]), (&"chat".into(), &true.into()));
    let body: Value = serde_json::from_str(&kept.lock().unwrap()[0].2).unwrap();
    let said = body["text"].as_str().unwrap();
    assert!(said.contains("INCOMPLETE") && said.contains("a&lt;b&gt;&amp;c: it cannot be read"), "{said}");
}

#[test]
fn a_ping_hears_that_a_run_begins_and_how_it_ends() {
    let runner = Runner::with_repository();
    runner.write("file", "content");
    let (server, kept) = keeping(|_| Answer::with(200, "OK"));
    let text = format!("[notify.alive]\nkind = 'ping'\nurl = 'http://127.0.0.1:{}/ping/id'\n", server.port());
    finish(&mut with_file(&runner, &text, &["backup", "."])).expect(0);
    finish(&mut with_file(&runner, &text, &["backup", "missing"])).expect(1);
    finish(&mut with_file(&runner, &text, &["check"])).expect(0);
    finish(&mut with_file(&runner, &text, &["backup", ".", "--dry-run"])).expect(0);
    assert_eq!(targets(&kept), ["/ping/id/start", "/ping/id", "/ping/id/start", "/ping/id/1"]);
    let kept = kept.lock().unwrap();
    assert!(kept[1].2.contains("saved") && kept[3].2.contains("FAILURE"), "{kept:?}");
}

#[test]
fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
    let runner = Runner::with_repository();
    let (busy, _) = keeping(|number| Answer::with(if number == 0 { 503 } else { 200 }, ""));
    let (other, _) = keeping(|_| Answer::with(200, ""));
    let elsewhere = format!("http://127.0.0.1:{}/hunter2", other.port());
    let (redirecting, _) = keeping(move |_| Answer::Full(302, vec![("Location", elsewhere.clone())], Vec::new()));
    let (refusing, _) = keeping(|_| Answer::with(403, "invalid_token"));
    let tls = SmtpServer::start(Protection::FromTheFirstByte);
    let mut text = String::new();
    for (name, scheme, port) in [
        ("busy", "http", busy.port()),
        ("redirecting", "http", redirecting.port()),
        ("refusing", "http", refusing.port()),
        ("untrusted", "https", tls.port()),
    ] {
        text += &format!(
            "[notify.{name}]\nkind = 'webhook'\nurl = '{scheme}://127.0.0.1:{port}/hunter2'\non = ['success']\n"
        );
    }
    let outcome = finish(with_file(&runner, &text, &["backup", "."]).args(["--log-format", "json"])).expect(0);
    assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    let told = summary(&outcome);
    let of = |name: &str| {
        let all = told["notifications"].as_array().unwrap();
        let one = all.iter().find(|it| it["name"] == name).unwrap();
        (one["ok"].as_bool().unwrap(), one["error"].as_str().unwrap_or_default().to_owned())
    };
    assert!(of("busy").0 && busy.requests() == 2, "{told}");
    assert!(of("redirecting").1.contains("it redirects, which is not followed"), "{told}");
    assert_eq!((redirecting.requests(), other.requests(), refusing.requests()), (1, 0, 1));
    assert!(of("refusing").1.contains("403 (invalid_token)"), "{told}");
    assert!(of("untrusted").1.contains("certificate") && !of("untrusted").1.contains("attempts"), "{told}");
}

#[test]
fn a_server_that_says_nothing_delays_a_run_by_no_more_than_its_time() {
    let runner = Runner::with_repository();
    let (silent, _) = keeping(|_| Answer::Silent(Duration::from_secs(60)));
    let (broken, _) = keeping(|_| Answer::with(500, ""));
    let place = |name: &str, port: u16| {
        format!(
            "[notify.{name}]\nkind = 'webhook'\nurl = 'http://127.0.0.1:{port}/x'\non = ['success']\ntimeout = '2s'\n"
        )
    };
    let text = place("silent", silent.port()) + &place("broken", broken.port());
    let begun = Instant::now();
    let outcome = finish(&mut with_file(&runner, &text, &["backup", "."])).expect(0);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for name in ["silent", "broken"] {
        assert!(
            outcome.stderr.contains(&format!("Warning: The notification \"{name}\" was not sent")),
            "{}",
            outcome.stderr
        );
    }
    assert!(
        outcome.stderr.contains("status 500") || outcome.stderr.contains("no answer within 2 s"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn one_who_cannot_be_told_is_warned_of_and_plain_http_elsewhere_is_refused() {
    let runner = Runner::with_repository();
    let text = "[notify.a]\nkind = 'webhook'\nurl = 'http://192.0.2.1/hunter2'\n[notify.b]\nkind = 'ping'\nurl-file = '/none'\n";
    let outcome = finish(&mut with_file(&runner, text, &["backup", "."])).expect(0);
    for said in ["\"a\" was not sent: The URL cannot be used: plain http://", "\"b\" was not sent: Cannot read"] {
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    let checked = finish(&mut with_file(&runner, text, &["config", "check"])).expect(2).text();
    assert!(checked.contains("Problem: notify.a: The URL cannot be used") && !checked.contains("hunter2"), "{checked}");
}

#[test]
fn mail_is_sent_with_tls_and_without_to_those_who_are_trusted() {
    let runner = Runner::with_repository();
    fs::write(runner.path("password"), "hunter2\n").unwrap();
    let (plain, tls) = (SmtpServer::start(Protection::Never), SmtpServer::start(Protection::FromTheFirstByte));
    let upgraded = SmtpServer::start(Protection::WhenAsked);
    let mail = |name: &str, port: u16, more: &str| {
        format!(
            "[notify.{name}]\nkind = 'smtp'\nserver = '127.0.0.1:{port}'\nfrom = 'mlvault <vault@example.org>'\n\
             to = ['ops@example.org', 'boss@example.org']\n{more}\n"
        )
    };
    let login = format!("username = 'vault'\npassword-file = '{}'", runner.path("password").display());
    let trusted = format!("tls = 'implicit'\nca-bundle = '{}'", smtp_server::certificate().display());
    let text = mail("plain", plain.port(), &format!("tls = 'none'\n{login}"))
        + &mail("tls", tls.port(), &trusted)
        + &mail("untrusted", tls.port(), "tls = 'implicit'")
        // What does not offer TLS gets no mail.
        + &mail("starttls", plain.port(), "")
        + &mail("upgraded", upgraded.port(), &format!("ca-bundle = '{}'\n{login}", smtp_server::certificate().display()))
        + &mail("upgraded-untrusted", upgraded.port(), &login);
    let outcome = finish(with_file(&runner, &text, &["backup", "missing"]).args(["--log-format", "json"])).expect(1);
    let told = summary(&outcome)["notifications"].clone();
    let ok: Vec<_> =
        told.as_array().unwrap().iter().map(|it| (it["name"].as_str().unwrap(), it["ok"].as_bool().unwrap())).collect();
    let expected = [
        ("plain", true),
        ("starttls", false),
        ("tls", true),
        ("untrusted", false),
        ("upgraded", true),
        ("upgraded-untrusted", false),
    ];
    assert_eq!(ok, expected, "{told}");
    assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    for said in [plain.said(), tls.said(), upgraded.said()] {
        assert!(said.contains("RCPT TO:<ops@example.org>") && said.contains("RCPT TO:<boss@example.org>"), "{said}");
        assert!(said.contains("Subject: mlvault backup on ") && said.contains("FAILURE"), "{said}");
        assert!(said.contains("Exit code 1"), "{said}");
    }
    assert_eq!(tls.said().matches("DATA").count(), 1);
    // In the clear a server that can more hears that TLS is wanted, and nothing else.
    let clear = |line: &&str| line.starts_with(PLAIN) && !line.contains("EHLO") && !line.contains("STARTTLS");
    assert_eq!(upgraded.said().lines().filter(clear).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(upgraded.said().matches("DATA").count(), 1);
}

#[test]
fn a_test_message_says_what_everybody_answers() {
    let runner = Runner::without_repository();
    let (server, kept) = keeping(|_| Answer::with(200, "OK"));
    let port = server.port();
    let text = format!(
        "[notify.a]\nkind = 'ping'\nurl = 'http://127.0.0.1:{port}/ping/id'\n\
         [notify.b]\nkind = 'slack'\nurl = 'http://127.0.0.1:{port}/chat'\n[notify.c]\nkind = 'webhook'\n"
    );
    let outcome = finish(&mut with_file(&runner, &text, &["notify", "test"])).expect(1);
    assert!(
        outcome.text().contains("status 200 (OK)") && outcome.text().contains("FAILED: It cannot be used"),
        "{outcome:?}"
    );
    assert_eq!(kept.lock().unwrap().len(), 2);
    assert!(targets(&kept).contains(&"/ping/id/log".to_owned()));
    let document = finish(with_file(&runner, &text, &["notify", "test", "b"]).arg("--json")).expect(0).json();
    assert_documented("notify test", &document);
    finish(&mut with_file(&runner, &text, &["notify", "test", "d"])).expect(2);
    finish(&mut with_file(&runner, "", &["notify", "test"])).expect(2);
}
