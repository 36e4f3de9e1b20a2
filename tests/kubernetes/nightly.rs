//! The chart on a cluster: installed by Helm, its CronJobs run, and what they leave is in the repository.
//!
//! The namespace admits only pods of the strictest standard. MLflow's data and the repository are claims, whose volumes are the
//! directories of a deployment that has three days of history.

use std::fs;
use std::path::Path;

use data_encoding::BASE64;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::json;

use crate::support::cli::finish;
use crate::support::deployment::ThreeDays;
use crate::support::kubernetes::control_plane::free_ports;
use crate::support::kubernetes::helm::{chart, helm};
use crate::support::kubernetes::namespace::Ended;
use crate::support::kubernetes::{Cluster, Namespace};

/// What the chart is installed with: all jobs, and MLflow on a claim.
const VALUES: &str = r#"
config: |
  repository = "/vault"
  [deployment.production]
  backend-store-uri = "sqlite:////mlflow/mlflow.db"
  retention = "production"
  [deployment.production.artifacts]
  "mlflow-artifacts:/" = "/mlflow/artifacts"
deployments: {production: {}}
jobs:
  backup: &both
    volumes:
    - {name: vault, persistentVolumeClaim: {claimName: vault}}
    - {name: mlflow, persistentVolumeClaim: {claimName: mlflow}}
    volumeMounts: [{name: vault, mountPath: /vault}, {name: mlflow, mountPath: /mlflow}]
    cache: {size: 1Gi}
  drill: *both
  restore: *both
  forget: &vault
    volumes: [{name: vault, persistentVolumeClaim: {claimName: vault}}]
    volumeMounts: [{name: vault, mountPath: /vault}]
  prune: *vault
  check: *vault
metrics: *vault
"#;

/// A release of the chart in a namespace of its own.
struct Release {
    days: ThreeDays,
    namespace: Namespace,
}

impl Release {
    fn install(more: &[&str]) -> Self {
        let restricted = [("pod-security.kubernetes.io/enforce", "restricted")];
        let release =
            Self { days: ThreeDays::unpack(), namespace: Cluster::shared().namespace_with("nightly", &restricted) };
        release.claim("vault", &release.days.runner.path("repo"));
        release.claim("mlflow", &release.days.folder());
        for role in ["writer", "auditor", "reader", "maintainer"] {
            release.make_key(role);
        }
        let values = release.days.runner.path("values.yaml");
        fs::write(&values, VALUES).unwrap();
        let (kubeconfig, values) = (release.namespace.kubeconfig(), values.display().to_string());
        let kubeconfig = kubeconfig.display().to_string();
        let place =
            ["install", "mlvault", &chart(), "--kubeconfig", &kubeconfig, "--namespace", release.namespace.name()];
        let mut command = helm(&[&place[..], &["--values", &values], more].concat());
        finish(command.env("HOME", release.days.runner.path("home"))).expect(0);
        release
    }

    /// Makes a claim whose volume is a directory.
    fn claim(&self, name: &str, directory: &Path) {
        let namespace = self.namespace.name();
        self.namespace.apply(&format!(
            "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}-{namespace}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  hostPath: {{path: {}}}
  claimRef: {{namespace: {namespace}, name: {name}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  volumeName: {name}-{namespace}
  resources: {{requests: {{storage: 1Gi}}}}
",
            directory.display()
        ));
    }

    /// Adds a key to the repository, and makes the Secret that the chart expects it in.
    fn make_key(&self, role: &str) {
        let file = self.days.runner.path(role).display().to_string();
        self.days.runner.run(["key", "add", "--label", role, "--role", role, "--new-key-file", &file]).expect(0);
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": format!("mlvault-{role}") },
            "data": { "key": BASE64.encode(&fs::read(file).unwrap()) },
        });
        self.namespace.apply(&secret.to_string());
    }

    /// Runs the Job of a CronJob now, as `kubectl create job --from` does, and returns how its pods ended.
    #[track_caller]
    fn run(&self, cron: &str) -> Vec<Ended> {
        let template = self.namespace.get::<CronJob>(cron).spec.unwrap().job_template;
        let metadata = ObjectMeta { name: Some(format!("{cron}-now")), ..template.metadata.unwrap_or_default() };
        let job = self.namespace.create(&Job { metadata, spec: template.spec, status: None });
        self.namespace.wait_job(&job.name_any())
    }

    /// As [`Release::run`], for a Job whose only pod must succeed.
    #[track_caller]
    fn run_well(&self, cron: &str) {
        let ended = self.run(cron);
        assert!(ended.len() == 1 && ended[0].code == 0, "{cron}: {ended:#?}");
    }

    fn json(&self, command: &[&str]) -> serde_json::Value {
        self.days.runner.run([command, &["--json"]].concat()).expect(0).json()
    }
}

#[test]
fn the_jobs_of_the_chart_back_up_check_forget_prune_drill_and_restore() {
    let [port] = free_ports();
    let metrics = format!("metrics.port={port}");
    let release = Release::install(&["--set", "metrics.enabled=true", "--set", &metrics]);
    release.run_well("mlvault-backup-production");
    let snapshots = release.json(&["snapshots"])["snapshots"].as_array().unwrap().len();
    assert_eq!(snapshots, release.days.snapshots.len() + 1);
    release.run_well("mlvault-check");
    release.run_well("mlvault-drill-production");
    let drills = release.json(&["drill", "list"]);
    assert_eq!(
        (&drills["drills"][0]["drill"]["result"], &drills["drills"][0]["by"]["label"]),
        (&json!("passed"), &json!("reader"))
    );
    release.run_well("mlvault-forget-production");
    release.run_well("mlvault-prune");
    // It is ready once it answers, which it does only if it could look at the repository.
    release.namespace.wait_ready("mlvault-metrics");
    fs::remove_file(release.days.folder().join("mlflow.db")).unwrap();
    fs::remove_dir_all(release.days.folder().join("artifacts")).unwrap();
    release.run_well("mlvault-restore-production");
    let server = release.days.place().serve(&release.days.runner.path("served"));
    server.verify(&release.days.record(3), &[]);
}

#[test]
fn several_pods_of_an_indexed_job_make_one_snapshot() {
    let release = Release::install(&["--set", "jobs.backup.shards=2", "--set", "jobs.backup.cache.size="]);
    let ended = release.run("mlvault-backup-production");
    assert!(ended.len() == 3 && ended.iter().all(|pod| pod.code == 0), "{ended:#?}");
    let snapshots = release.json(&["snapshots"])["snapshots"].as_array().unwrap().clone();
    assert_eq!(snapshots.len(), release.days.snapshots.len() + 1);
    assert_eq!(snapshots.last().unwrap()["record"]["completeness"], "complete", "{snapshots:#?}");
    release.run_well("mlvault-check");
}

#[test]
fn a_job_with_a_key_that_may_not_do_it_fails_once() {
    let release = Release::install(&["--set", "jobs.backup.key=auditor"]);
    let ended = release.run("mlvault-backup-production");
    assert!(ended.len() == 1 && ended[0].code == 12, "{ended:#?}");
    let job: Job = release.namespace.get("mlvault-backup-production-now");
    let conditions = job.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|it| it.type_ == "Failed" && it.reason.as_deref() == Some("PodFailurePolicy")));
}
