//! The chart and the plain manifests: what Helm and the API server say of them, and what each job may do.

use std::collections::BTreeSet;
use std::fs;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::deploy::{assert_commands_exist, lasting_exit_codes};
use crate::docs::page::is_blessing;
use crate::support::cli::finish;
use crate::support::kubernetes::cluster::documents;
use crate::support::kubernetes::helm::{chart, deploy, example, helm, template};

/// Renders the chart with the example's values.
fn rendered() -> String {
    template("mlvault", "mlvault", &["--values", &example()]).expect(0).text()
}

/// Returns the objects of the example, with every job that there is.
fn objects() -> Vec<DynamicObject> {
    let all = ["--values", &example(), "--set", "jobs.copy.enabled=true"];
    documents(&template("mlvault", "mlvault", &all).expect(0).text())
}

fn kind(object: &DynamicObject) -> &str {
    &object.types.as_ref().unwrap().kind
}

/// Returns what makes pods, with the template of these.
pub fn pods(objects: &[DynamicObject]) -> Vec<(String, Value)> {
    let template = |object: &DynamicObject| {
        let path = match kind(object) {
            "CronJob" => "/spec/jobTemplate/spec/template",
            "Deployment" => "/spec/template",
            _ => return None,
        };
        Some((object.name_any(), object.data.pointer(path).unwrap().clone()))
    };
    objects.iter().filter_map(template).collect()
}

/// Returns the job that a pod is of, such as `backup`.
fn component(pod: &Value) -> String {
    pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap().to_owned()
}

#[test]
fn the_linter_finds_nothing_to_say() {
    let output = finish(&mut helm(&["lint", "--strict", &chart(), "--values", &example()])).expect(0);
    assert!(!output.text().contains("[WARNING]") && !output.text().contains("[ERROR]"), "{}", output.text());
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let refused = |set: &str, why: &str| {
        let output = template("mlvault", "mlvault", &["--values", &example(), "--set-json", set]);
        assert!(output.code != Some(0) && output.stderr.contains(why), "{set}: {}", output.stderr);
    };
    refused("job.backup.schedule=\"daily\"", "additional properties 'job' not allowed");
    refused("jobs.backup.shedule=\"0 1 * * *\"", "additional properties 'shedule' not allowed");
    refused("jobs.backup.schedule=\"daily\"", "/jobs/backup/schedule");
    refused("jobs.backup.key=\"owner\"", "/jobs/backup/key");
    refused("jobs.backup.retries=-1", "/jobs/backup/retries");
    refused("jobs.backup.resources={\"limits\": {\"memory\": \"1 GB\"}}", "/jobs/backup/resources/limits/memory");
    refused("deployments={\"Production\": {}}", "Production");
    refused("deployments={\"production\": {\"prune\": {}}}", "additional properties 'prune' not allowed");
    refused("image.digest=\"latest\"", "/image/digest");
    refused("metrics.port=80", "/metrics/port");
    refused("config=\"\"", "config is needed");
    refused(
        "deployments={\"a-name-that-is-longer-than-what-kubernetes-allows\": {}}",
        "is longer than 52 characters: shorten",
    );
}

#[test]
fn the_plain_manifests_are_what_the_chart_makes() {
    let path = deploy("kubernetes/mlvault.yaml");
    let head = "# Made by `make manifests` from deploy/helm/mlvault and values.yaml beside this: change those.\n";
    let fresh = format!("{head}{}", rendered());
    if is_blessing() {
        fs::write(&path, &fresh).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), fresh, "{path:?} is old: run `make manifests`");
}

#[test]
fn alerts_and_dashboard_are_those_of_prometheus_and_grafana() {
    let objects = objects();
    let rules = objects.iter().find(|object| kind(object) == "PrometheusRule").unwrap();
    let text = fs::read_to_string(deploy("prometheus/mlvault.rules.yml")).unwrap();
    assert_eq!(rules.data["spec"], serde_saphyr::from_str::<Value>(&text).unwrap());
    let dashboard = objects.iter().find(|object| object.name_any() == "mlvault-dashboard").unwrap();
    let text = fs::read_to_string(deploy("grafana/mlvault.json")).unwrap();
    assert_eq!(dashboard.data["data"]["mlvault.json"].as_str().unwrap().trim(), text.trim());
}

#[test]
fn jobs_call_commands_that_there_are() {
    let words = |pod: &Value| {
        let arguments = pod["spec"]["containers"][0]["args"].as_array().unwrap();
        arguments.iter().map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let calls: Vec<String> = pods(&objects()).iter().map(|(_, pod)| words(pod)).collect();
    assert_eq!(calls.len(), 8, "{calls:?}");
    assert_commands_exist(&calls);
}

#[test]
fn jobs_try_again_what_may_pass_and_wait_for_mlvault_to_end() {
    let lasting: BTreeSet<u64> = lasting_exit_codes().iter().map(|code| code.parse().unwrap()).collect();
    let mut seen = 0;
    for object in objects().iter().filter(|object| kind(object) == "CronJob") {
        let job = &object.data["spec"]["jobTemplate"]["spec"];
        let rules = job["podFailurePolicy"]["rules"].as_array().unwrap();
        assert_eq!(rules[0]["onPodConditions"][0]["type"], "DisruptionTarget");
        assert_eq!((&rules[0]["action"], &rules[1]["action"]), (&json!("Ignore"), &json!("FailJob")));
        let codes = rules[1]["onExitCodes"]["values"].as_array().unwrap().iter().map(|code| code.as_u64().unwrap());
        assert_eq!(codes.collect::<BTreeSet<_>>(), lasting, "{}", object.name_any());
        // A check or a drill that failed has told something; whoever restores decides what comes next.
        let is_result = ["check", "drill", "restore"].iter().any(|name| object.name_any().contains(name));
        assert_eq!(job["backoffLimit"] == 0, is_result, "{}", object.name_any());
        assert!(job["template"]["spec"]["terminationGracePeriodSeconds"].as_u64() > Some(20));
        assert_eq!(object.data["spec"]["suspend"] == true, object.name_any().contains("restore"));
        seen += 1;
    }
    assert_eq!(seen, 7);
}

#[test]
fn a_backup_by_shards_is_one_indexed_job_and_one_of_a_claim_may_copy_it() {
    let more = ["--values", &example(), "--set", "jobs.backup.shards=4"];
    let objects = documents(&template("mlvault", "mlvault", &more).expect(0).text());
    let cron_job = objects.iter().find(|it| kind(it) == "CronJob" && it.name_any() == "mlvault-backup-production");
    let cron_job = cron_job.unwrap();
    let job = &cron_job.data["spec"]["jobTemplate"]["spec"];
    assert_eq!((&job["completionMode"], &job["completions"]), (&"Indexed".into(), &5.into()));
    assert_eq!(
        (&job["parallelism"], &job["maxFailedIndexes"], &job["backoffLimit"]),
        (&5.into(), &0.into(), &Value::Null)
    );
    assert_eq!(job["podFailurePolicy"]["rules"][1]["action"], "FailIndex");
    let args = job["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(args.contains("\"--plan\",\"$(MLVAULT_PLAN)\",\"--indexed\",\"4\""), "{args}");
    // A copy is read by one shard.
    let copy = ["--values", &example(), "--set", "jobs.backup.viaVolumeSnapshot=true"];
    template("mlvault", "mlvault", &[&copy[..], &more[2..]].concat()).expect(1);
    let objects = documents(&template("mlvault", "mlvault", &copy).expect(0).text());
    assert!(objects.iter().any(|it| kind(it) == "Role" && it.name_any() == "mlvault-backup"));
    let of_backup = pods(&objects).into_iter().find(|(_, pod)| component(pod) == "backup").unwrap().1;
    assert_eq!(of_backup["spec"]["automountServiceAccountToken"], true);
    assert!(of_backup["spec"]["containers"][0]["args"].to_string().contains("--via-volume-snapshot"));
}

#[test]
fn each_job_has_the_key_of_its_role_and_no_other_and_only_the_restore_has_a_token() {
    let objects = objects();
    let roles = [
        ("backup", "writer"),
        ("forget", "maintainer"),
        ("prune", "maintainer"),
        ("check", "auditor"),
        ("metrics", "auditor"),
        ("drill", "reader"),
        ("copy", "reader"),
        ("restore", "reader"),
    ];
    let pods = pods(&objects);
    assert_eq!(pods.len(), roles.len());
    for (job, role) in roles {
        let (name, pod) = pods.iter().find(|(_, pod)| component(pod) == job).unwrap();
        let spec = &pod["spec"];
        let of_key =
            |volume: &&Value| volume["secret"]["secretName"].as_str().is_some_and(|it| it.starts_with("mlvault-"));
        let keys: Vec<_> = spec["volumes"].as_array().unwrap().iter().filter(of_key).collect();
        assert_eq!(keys.len(), 1, "{name}");
        assert_eq!(keys[0]["secret"]["secretName"], format!("mlvault-{role}"), "{name}");
        assert_eq!(spec["automountServiceAccountToken"], job == "restore", "{name}");
        assert_eq!(spec["serviceAccountName"], format!("mlvault-{job}"), "{name}");
        assert!(objects.iter().any(|it| kind(it) == "ServiceAccount" && it.name_any() == format!("mlvault-{job}")));
    }
}
