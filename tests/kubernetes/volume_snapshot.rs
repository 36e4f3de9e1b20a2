//! `backup --via-volume-snapshot`: a nightly Job has the claim of the artifacts copied, another one reads the copy, and nothing of
//! either stays. The snapshots are bound by the real snapshot-controller, and made by the stand-in for a driver.

use std::fs;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::support::cli::{Outcome, finish};
use crate::support::deployment::ThreeDays;
use crate::support::kubernetes::node::snapshots::{self, CLASS, GROUP, STUCK_CLASS};
use crate::support::kubernetes::{Cluster, Namespace};

/// The claim, and the CronJob with the labels and the rights that the chart gives it.
const MANIFEST: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: backup}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: backup}
rules:
- {apiGroups: [''], resources: [persistentvolumeclaims], verbs: [get, create]}
- {apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshots], verbs: [get, list, create, delete]}
- {apiGroups: [batch], resources: [cronjobs], verbs: [get, list]}
- {apiGroups: [batch], resources: [jobs], verbs: [get, create]}
- {apiGroups: [''], resources: [pods], verbs: [list]}
- {apiGroups: [''], resources: [pods/log], verbs: [get]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: backup}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: backup}
subjects: [{kind: ServiceAccount, name: backup}]
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: backup
  labels: {app.kubernetes.io/name: mlvault, app.kubernetes.io/component: backup, mlvault/deployment: production}
spec:
  schedule: 0 0 1 1 *
  suspend: true
  jobTemplate:
    metadata: {labels: {kept: 'yes'}}
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          serviceAccountName: backup
          containers:
          - name: mlvault
            image: mlvault
            securityContext: {runAsUser: 0}
            args: [backup, --deployment, production, --via-volume-snapshot, --volume-wait, WAIT]
            env:
            - {name: MLVAULT_REPO, value: /scene/repo}
            - {name: MLVAULT_KEY_FILE, value: /scene/key}
            - {name: MLVAULT_CONFIG, value: /scene/cluster.toml}
            - {name: MLVAULT_CACHE_DIR, value: /tmp/cache}
            volumeMounts: [{name: work, mountPath: /scene}, {name: tmp, mountPath: /tmp}]
          volumes: [{name: work, hostPath: {path: WORK}}, {name: tmp, emptyDir: {}}]
";

struct Scene {
    days: ThreeDays,
    namespace: Namespace,
}

impl Scene {
    /// A deployment whose artifacts are on a claim, of which copies are made by a class and found at a place.
    fn start(mount: &str, class: &str) -> Self {
        let (days, namespace) = (ThreeDays::unpack(), Cluster::shared().with_snapshots().namespace("volume"));
        let text = format!(
            "[deployment.production]\nbackend-store-uri = 'sqlite:////scene/production/mlflow.db'\n\
             [deployment.production.artifacts]\n'mlflow-artifacts:/' = '/data/artifacts'\n\
             [deployment.production.kubernetes]\nclaim = 'data'\nclaim-mount = '{mount}'\n\
             volume-snapshot-class = '{class}'\n"
        );
        fs::write(days.runner.path("cluster.toml"), text).unwrap();
        let wait = if class == STUCK_CLASS { "20s" } else { "5m" };
        let work = days.runner.path("").display().to_string();
        namespace.apply(&MANIFEST.replace("WORK", &work).replace("WAIT", wait));
        let scene = Self { days, namespace };
        let claimed = scene.namespace.directory_of("data");
        let artifacts = scene.days.folder().join("artifacts");
        let claimed = claimed.join("artifacts");
        fs::create_dir(&claimed).unwrap();
        snapshots::copy(&artifacts, &claimed).unwrap();
        fs::remove_dir_all(artifacts).unwrap();
        scene
    }

    /// Runs the nightly Job now.
    fn back_up(&self) -> Outcome {
        let mut command = self.days.runner.command(["k8s", "run", "backup", "--deployment", "production"]);
        finish(command.env("KUBECONFIG", self.namespace.kubeconfig()))
    }

    fn newest(&self) -> Value {
        let listed = self.days.runner.run(["snapshots", "--json"]).expect(0).json();
        listed["snapshots"].as_array().unwrap().last().unwrap().clone()
    }

    /// Nothing but the claim, the CronJob and the nightly Jobs is left.
    fn assert_nothing_left(&self, nightly: usize) {
        self.namespace.until("copies that are gone", || {
            let counts = (self.namespace.list::<PersistentVolumeClaim>("").len(), self.namespace.list::<Job>("").len());
            (counts == (1, nightly) && self.snapshots().is_empty()).then_some(())
        });
        let lease: Lease = self.namespace.get("mlvault-claim-data");
        assert_eq!(lease.spec.unwrap().holder_identity, None);
    }

    fn snapshots(&self) -> Vec<DynamicObject> {
        let cluster = Cluster::shared();
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", "VolumeSnapshot"));
        let api = Api::<DynamicObject>::namespaced_with(cluster.client(), self.namespace.name(), &kind);
        cluster.wait(api.list(&ListParams::default())).unwrap().items
    }
}

#[test]
fn a_copy_of_the_claim_is_backed_up_and_goes_again() {
    let scene = Scene::start("/data", CLASS);
    let before = scene.days.snapshots.len();
    // What a killed backup has left.
    let claim: PersistentVolumeClaim = scene.namespace.get("data");
    scene.namespace.apply(&format!(
        "{{apiVersion: {GROUP}/v1, kind: VolumeSnapshot, metadata: {{name: left, labels: {{mlvault/copy-of: {}}}}}, \
         spec: {{volumeSnapshotClassName: {CLASS}, source: {{persistentVolumeClaimName: data}}}}}}",
        claim.uid().unwrap()
    ));
    let done = scene.back_up().expect(0);
    assert!(done.text().contains("Artifacts: ok") && done.text().contains("References: ok"), "{done:?}");
    let listed = scene.days.runner.run(["snapshots", "--json"]).expect(0).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), before + 1);
    assert_eq!(scene.newest()["record"]["completeness"], "complete", "{:#}", scene.newest());
    scene.assert_nothing_left(1);
    scene.days.runner.run(["check", "--read-data"]).expect(0);
    // The template was not touched.
    let cron_job: CronJob = scene.namespace.get("backup");
    let pod = cron_job.spec.unwrap().job_template.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.volumes.unwrap().len(), 2);
}

#[test]
fn a_copy_that_cannot_be_read_ends_the_backup_and_is_removed() {
    // Nothing is where the configuration has the artifacts.
    let scene = Scene::start("/elsewhere", CLASS);
    let before = scene.newest();
    let failed = scene.back_up();
    assert!(!matches!(failed.code, None | Some(0)), "{failed:?}");
    assert!(failed.text().contains("/data/artifacts"), "{failed:?}");
    assert_eq!(scene.newest(), before);
    scene.assert_nothing_left(1);
}

#[test]
fn a_copy_that_cannot_be_made_ends_the_backup_and_is_removed() {
    let scene = Scene::start("/data", STUCK_CLASS);
    let before = scene.newest();
    let failed = scene.back_up().expect(1);
    assert!(failed.text().contains("could not be used within 20 s: no driver has taken it up"), "{failed:?}");
    assert_eq!(scene.newest(), before);
    scene.assert_nothing_left(1);
}
