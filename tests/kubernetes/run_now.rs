//! `k8s run`: a Job of a CronJob now, with its words and its exit code.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::docs::json_fields::assert_documented;
use crate::support::cli::{Outcome, Runner, finish};
use crate::support::kubernetes::{Cluster, Namespace};

/// A CronJob with the labels of the chart, whose shell runs some lines.
fn cron_job(name: &str, component: &str, deployment: &str, lines: &str) -> String {
    format!(
        "apiVersion: batch/v1
kind: CronJob
metadata: {{name: {name}, labels: {{app.kubernetes.io/name: mlvault, app.kubernetes.io/component: {component}, mlvault/deployment: {deployment}}}}}
spec:
  schedule: 0 0 1 1 *
  suspend: true
  jobTemplate:
    metadata: {{labels: {{kept: 'yes'}}}}
    spec:
      backoffLimit: 0
      template:
        spec: {{restartPolicy: Never, containers: [{{name: mlvault, image: sh, args: [-c, {lines:?}]}}]}}
"
    )
}

fn command(runner: &Runner, namespace: &Namespace, more: &[&str]) -> Command {
    let mut command = runner.command([&["k8s", "run"], more].concat());
    command.env("KUBECONFIG", namespace.kubeconfig());
    command
}

fn run(runner: &Runner, namespace: &Namespace, more: &[&str]) -> Outcome {
    finish(&mut command(runner, namespace, more))
}

#[test]
fn a_job_runs_now_says_what_it_says_and_ends_as_it_ends() {
    let (runner, namespace) = (Runner::without_repository(), Cluster::shared().namespace("run"));
    namespace.apply(&cron_job("a", "backup", "production", "echo one; sleep 1; echo two; exit 3"));
    namespace.apply(&cron_job("b", "backup", "staging", "echo other"));
    namespace.apply(&cron_job("c", "check", "none", "echo all"));
    let done = run(&runner, &namespace, &["backup", "--deployment", "production"]).expect(3);
    assert_eq!(done.text(), "one\ntwo\n");
    let jobs = namespace.list::<Job>("kept=yes");
    assert_eq!(jobs.len(), 1);
    let owner = &jobs[0].owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("CronJob", "a"));
    let done = run(&runner, &namespace, &["backup", "--cron-job", "b", "--json"]).expect(0);
    assert_documented("k8s run", &done.json());
    assert_eq!(done.json()["exit_code"], 0);
    assert!(done.stderr.contains("other"), "{}", done.stderr);
    assert_eq!(run(&runner, &namespace, &["check", "--deployment", "production"]).expect(0).text(), "all\n");
    // What is not clear is not guessed.
    let several = run(&runner, &namespace, &["backup"]).expect(1);
    assert!(several.stderr.contains("a, b"), "{}", several.stderr);
    for missing in [&["drill", "--deployment", "production"][..], &["backup", "--cron-job", "nobody"]] {
        run(&runner, &namespace, missing).expect(1);
    }
}

#[test]
fn a_pod_that_is_killed_has_no_word_for_success() {
    let (runner, namespace) = (Runner::without_repository(), Cluster::shared().namespace("killed"));
    namespace.apply(&cron_job("a", "drill", "production", "echo begun; sh -c 'kill -9 $$$$'; exit $?"));
    let done = run(&runner, &namespace, &["drill", "--deployment", "production"]);
    assert!(done.code == Some(137) && done.text().starts_with("begun\n"), "{done:?}");
}

#[test]
fn who_stops_listening_stops_nothing() {
    let (runner, namespace) = (Runner::without_repository(), Cluster::shared().namespace("listen"));
    namespace.apply(&cron_job("a", "backup", "production", "echo begun; sleep 6; echo done"));
    let mut child = command(&runner, &namespace, &["backup", "--cron-job", "a"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let job = namespace.list::<Job>("kept=yes").remove(0).name_any();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains(&format!("kubectl logs --follow job/{job}")),
        "{output:?}"
    );
    let ended = namespace.wait_job(&job);
    assert!(ended[0].code == 0 && ended[0].log.ends_with("done\n"), "{ended:?}");
}
