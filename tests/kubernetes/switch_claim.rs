//! `k8s run restore --switch-claim`: a Job restores into a new claim, and MLflow uses it from then on; the old one stays.

use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::json;

use crate::docs::json_fields::assert_documented;
use crate::support::cli::finish;
use crate::support::deployment::ThreeDays;
use crate::support::kubernetes::{Cluster, Namespace};

/// MLflow, which serves nothing here, on its claim; and the CronJob that restores, with the labels of the chart.
const MANIFEST: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mlflow}
spec:
  replicas: 1
  selector: {matchLabels: {app: mlflow}}
  template:
    metadata: {labels: {app: mlflow}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: mlflow, image: sh, args: [-c, 'exec sleep 3600'], volumeMounts: [{name: data, mountPath: /data}]}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}, {name: tmp, emptyDir: {}}]
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: restore
  labels: {app.kubernetes.io/name: mlvault, app.kubernetes.io/component: restore, mlvault/deployment: production}
spec:
  schedule: 0 0 1 1 *
  suspend: true
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          containers:
          - name: mlvault
            image: mlvault
            securityContext: {runAsUser: 0}
            args: [restore, --deployment, production, --snapshot, latest, --yes]
            env:
            - {name: MLVAULT_REPO, value: /scene/repo}
            - {name: MLVAULT_KEY_FILE, value: /scene/key}
            - {name: MLVAULT_BACKEND_STORE_URI, value: 'sqlite:////data/mlflow.db'}
            - {name: MLVAULT_ARTIFACTS, value: 'mlflow-artifacts:/=/data/artifacts'}
            volumeMounts: [{name: work, mountPath: /scene}, {name: data, mountPath: /data}, {name: tmp, mountPath: /tmp}]
          volumes: [{name: work, hostPath: {path: WORK}}, {name: data, emptyDir: {}}, {name: tmp, emptyDir: {}}]
";

struct Scene {
    days: ThreeDays,
    namespace: Namespace,
}

impl Scene {
    fn start() -> Self {
        let (days, namespace) = (ThreeDays::unpack(), Cluster::shared().namespace("switch"));
        namespace.apply(&MANIFEST.replace("WORK", &days.runner.path("").display().to_string()));
        namespace.wait_ready("mlflow");
        Self { days, namespace }
    }

    fn restore(&self, claim: &str, more: &[&str]) -> Command {
        let said = [
            "[deployment.production]\nbackend-store-uri = 'sqlite:////data/mlflow.db'\n",
            "[deployment.production.kubernetes]\nworkload = 'deployment/mlflow'\nclaim = 'data'\nclaim-mount = '/data'\n",
        ];
        let file = self.days.runner.write("mlvault.toml", said.concat());
        let run = ["k8s", "run", "restore", "--deployment", "production", "--switch-claim", claim, "--json"];
        let mut command = self.days.runner.command([&run, more].concat());
        command.env("MLVAULT_CONFIG", file).env("KUBECONFIG", self.namespace.kubeconfig());
        command
    }

    /// Returns how many pods MLflow wants, and the claim that it uses.
    fn state(&self) -> (Option<i32>, String) {
        let spec = self.namespace.get::<Deployment>("mlflow").spec.unwrap();
        let volumes = spec.template.spec.unwrap().volumes.unwrap();
        (spec.replicas, volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name.clone())
    }
}

#[test]
fn mlflow_goes_on_with_a_new_claim_and_the_old_one_stays() {
    let scene = Scene::start();
    std::fs::write(scene.namespace.directory_of("data").join("old"), "as it was").unwrap();
    let done = finish(&mut scene.restore("data-2", &[])).expect(0).json();
    assert_documented("k8s run", &done);
    assert_eq!(done["resumed"], json!({ "workload": "deployment/mlflow", "replicas": 1, "healthy": null }));
    assert_eq!(scene.state(), (Some(1), "data-2".to_owned()));
    assert!(scene.namespace.directory_of("data-2").join("mlflow.db").exists());
    assert!(
        scene.namespace.directory_of("data").join("old").exists()
            && !scene.namespace.directory_of("data").join("mlflow.db").exists()
    );
    // What it does not use cannot be switched, and a claim that is there is not taken.
    let refused = finish(&mut scene.restore("data-3", &[])).expect(2);
    assert!(refused.stderr.contains("No volume of deployment/mlflow"), "{}", refused.stderr);
    assert_eq!(scene.state(), (Some(1), "data-2".to_owned()));
}

#[test]
fn a_restore_that_fails_leaves_mlflow_stopped_with_its_old_claim() {
    let scene = Scene::start();
    let failed = finish(&mut scene.restore("data-2", &["--", "--mlflow-version", "2.3.0"])).expect(1);
    for said in ["ended with exit code", "mlvault k8s resume"] {
        assert!(failed.stderr.contains(said), "{said}: {}", failed.stderr);
    }
    assert_eq!(scene.state(), (Some(0), "data".to_owned()));
    assert!(scene.namespace.get::<Deployment>("mlflow").annotations().len() > 1);
    let again = finish(&mut scene.restore("data-2", &[])).expect(1);
    assert!(again.stderr.contains("data-2") && again.stderr.contains("already exists"), "{}", again.stderr);
    finish(&mut scene.restore("data-3", &[])).expect(0);
    assert_eq!(scene.state(), (Some(1), "data-3".to_owned()));
}
