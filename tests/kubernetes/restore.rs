//! `restore --quiesce`: MLflow is stopped in its cluster, restored, and started as it was, with no more rights than the chart gives.
//!
//! MLflow is a real server in a pod, whose data is a directory that the restore writes to from outside. What is gone is made so
//! while it runs.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::docs::json_fields::assert_documented;
use crate::support::cli::{Outcome, finish};
use crate::support::deployment::ThreeDays;
use crate::support::kubernetes::helm::{example, template};
use crate::support::kubernetes::{Cluster, Namespace};

const NOTE: &str = "mlvault/replicas-before-restore";
/// The account that the chart makes for restores.
const ACCOUNT: &str = "mlvault-restore";

/// A deployment that runs in a cluster.
struct Scene {
    days: ThreeDays,
    namespace: Namespace,
    kubeconfig: PathBuf,
    port: u16,
}

impl Scene {
    /// Starts a pod. One that is `stubborn` serves nothing, and does not end when it is asked to.
    fn start(is_stubborn: bool) -> Self {
        let (days, namespace) = (ThreeDays::unpack(), Cluster::shared().namespace("quiesce"));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let values = example();
        let only = ["--show-only", "templates/restore-role.yaml", "--show-only", "templates/accounts.yaml"];
        let more = ["--values", &values, "--set-json", "mlflowNamespaces=[]"];
        namespace.apply(&template("mlvault", namespace.name(), &[only, more].concat()).expect(0).text());
        let kubeconfig = namespace.kubeconfig_of(ACCOUNT);
        let scene = Self { days, namespace, kubeconfig, port };
        let container = match is_stubborn {
            true => json!({ "image": "sh", "args": ["-c", "trap '' TERM; while :; do sleep 0.2; done"] }),
            false => json!({
                "image": "mlflow",
                "args": ["server", "--host", "127.0.0.1", "--port", port.to_string(), "--workers", "1",
                    "--backend-store-uri", "sqlite:////data/mlflow.db", "--artifacts-destination", "/data/artifacts"],
                // What it does by itself would make tables anew in a database that is gone.
                "env": [{ "name": "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "value": "false" }],
                "readinessProbe": { "httpGet": { "path": "/health", "port": port }, "periodSeconds": 1 },
            }),
        };
        scene.deploy(container);
        scene
    }

    fn deploy(&self, mut container: Value) {
        container["name"] = "mlflow".into();
        container["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
        let labels = json!({ "app": "mlflow" });
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "mlflow" },
            "spec": {
                "replicas": 1, "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": {
                    "terminationGracePeriodSeconds": 15, "containers": [container],
                    "volumes": [{ "name": "data", "hostPath": { "path": self.days.folder() } }],
                } },
            },
        });
        self.namespace.apply(&object.to_string());
        self.wait_ready();
    }

    fn wait_ready(&self) {
        self.namespace.wait_ready("mlflow");
    }

    /// Takes database and artifacts away from under MLflow.
    fn lose_everything(&self) {
        fs::remove_dir_all(self.days.folder().join("artifacts")).unwrap();
        fs::remove_file(self.days.folder().join("mlflow.db")).unwrap();
    }

    fn command(&self, command: &[&str]) -> Command {
        let namespace = format!("deployment.production.kubernetes.namespace={}", self.namespace.name());
        let mut prepared = self.days.place().command(&self.days.runner, command);
        prepared.args(["--set", &namespace, "--set", "deployment.production.kubernetes.workload=deployment/mlflow"]);
        prepared
            .env("KUBECONFIG", &self.kubeconfig)
            .env("MLFLOW_TRACKING_URI", format!("http://127.0.0.1:{}", self.port));
        prepared
    }

    fn restore(&self) -> Command {
        self.command(&["restore", "--snapshot", "latest", "--yes", "--quiesce"])
    }

    fn resume(&self) -> Outcome {
        finish(self.command(&["k8s", "resume"]).env_remove("MLFLOW_TRACKING_URI"))
    }

    /// Starts a restore, and waits until it has asked MLflow to stop.
    fn start_restore(&self) -> Child {
        let child = self.restore().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.namespace.wait_for::<Deployment>("mlflow", |it| it.annotations().contains_key(NOTE));
        child
    }

    /// Returns how many pods MLflow wants, and what is noted on it.
    fn state(&self) -> (i32, Option<String>) {
        let found: Deployment = self.namespace.get("mlflow");
        (found.spec.as_ref().unwrap().replicas.unwrap(), found.annotations().get(NOTE).cloned())
    }

    /// Lets the time of a Lease run out whose holder is gone.
    fn age_lease(&self) {
        let patch = Patch::Merge(json!({ "spec": { "renewTime": "2026-01-01T00:00:00.000000Z" } }));
        let (api, params) = (self.namespace.api::<Lease>(), PatchParams::default());
        Cluster::shared().wait(api.patch("mlvault-deployment-mlflow", &params, &patch)).unwrap();
    }
}

#[test]
fn mlflow_is_stopped_restored_and_started_as_it_was() {
    let scene = Scene::start(false);
    let pod = scene.namespace.list::<Pod>("app=mlflow").remove(0).name_any();
    scene.lose_everything();
    let done = finish(&mut scene.restore()).expect(0).json();
    assert_documented("restore", &done);
    assert_eq!(done["resumed"], json!({ "workload": "deployment/mlflow", "replicas": 1, "healthy": true }));
    assert!(done["listed"]["models"].as_u64().unwrap() > 0 && done["listed"]["differences"] == json!([]), "{done:#}");
    assert!(done["times"].as_array().unwrap().iter().any(|time| time["part"] == "everything"), "{done:#}");
    assert_eq!(scene.state(), (1, None));
    // Another pod serves it, and the Lease is free.
    assert_ne!(scene.namespace.list::<Pod>("app=mlflow").remove(0).name_any(), pod);
    let lease: Lease = scene.namespace.get("mlvault-deployment-mlflow");
    assert_eq!(lease.spec.unwrap().holder_identity, None);
    // Now nothing is empty: what would be refused stops nobody.
    let refused = finish(&mut scene.restore()).expect(1);
    assert!(refused.stderr.contains("empty"), "{}", refused.stderr);
    assert_eq!(scene.state(), (1, None));
    let nothing = scene.resume().expect(0).json();
    assert_documented("k8s resume", &nothing);
    assert_eq!(nothing["resumed"], Value::Null);
}

#[test]
fn a_dry_run_and_a_part_stop_nobody() {
    let scene = Scene::start(true);
    scene.lose_everything();
    finish(&mut scene.command(&["restore", "--snapshot", "latest", "--dry-run", "--quiesce"])).expect(0);
    let part = ["restore", "--model", "fraud-detector", "--yes", "--quiesce"];
    assert!(finish(&mut scene.command(&part)).expect(2).stderr.contains("a whole deployment"));
    let unknown = ["restore", "--snapshot", "latest", "--yes", "--quiesce=deployment/other"];
    let refused = finish(&mut scene.command(&unknown)).expect(1);
    assert!(refused.stderr.contains("deployment/other") && refused.stderr.contains("not found"), "{}", refused.stderr);
    finish(&mut scene.command(&["restore", "--snapshot", "latest", "--yes", "--quiesce=mlflow"])).expect(2);
    assert_eq!(scene.state(), (1, None));
    assert!(!scene.days.folder().join("mlflow.db").exists());
}

#[test]
fn a_killed_restore_leaves_what_resume_needs_and_keeps_others_out_for_a_while() {
    let scene = Scene::start(true);
    scene.lose_everything();
    let mut child = scene.start_restore();
    // While it is at work, nobody else is.
    let busy = finish(&mut scene.restore()).expect(11);
    assert!(busy.stderr.contains("mlvault-deployment-mlflow"), "{}", busy.stderr);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(scene.state(), (0, Some("1".to_owned())));
    scene.resume().expect(11);
    scene.age_lease();
    let resumed = scene.resume().expect(0).json();
    assert_eq!(resumed["resumed"], json!({ "workload": "deployment/mlflow", "replicas": 1, "healthy": null }));
    assert_eq!(scene.state(), (1, None));
    scene.wait_ready();
}

#[test]
fn who_is_asked_to_stop_before_anything_is_restored_starts_mlflow_again() {
    let scene = Scene::start(true);
    scene.lose_everything();
    let mut child = scene.start_restore();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(scene.state(), (1, None));
    let lease: Lease = scene.namespace.get("mlvault-deployment-mlflow");
    assert_eq!(lease.spec.unwrap().holder_identity, None);
}

#[test]
fn one_whom_somebody_starts_meanwhile_is_not_restored() {
    let scene = Scene::start(true);
    scene.lose_everything();
    let child = scene.restore().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    scene.namespace.wait_for::<Deployment>("mlflow", |it| it.annotations().contains_key(NOTE));
    let api = scene.namespace.api::<Deployment>();
    let patch = Patch::Merge(json!({ "spec": { "replicas": 2 } }));
    Cluster::shared().wait(api.patch("mlflow", &PatchParams::default(), &patch)).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Somebody has started"), "{output:?}");
    // Their word counts.
    assert_eq!(scene.state(), (2, None));
    assert!(!scene.days.folder().join("mlflow.db").exists());
}
