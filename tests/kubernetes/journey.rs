//! The whole of docs/kubernetes.md in a cluster: MLflow is found, the chart is installed with what was found, a CronJob backs up by
//! itself, a drill proves it, MLflow is lost, and one command brings back the same models.
//!
//! Once with artifacts in a bucket, and once on a claim that is copied for the backup and replaced by the restore. PostgreSQL,
//! MLflow, the object store and the control plane are real; pods run through the stand-in for a kubelet, and volumes are made by
//! the stand-in for a driver. `make demo-kubernetes` shows what these tests print.

use std::fs;
use std::process::Command;

use data_encoding::BASE64;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::support::cli::{Outcome, Runner, finish};
use crate::support::deployment::s3_environment;
use crate::support::kubernetes::control_plane::free_ports;
use crate::support::kubernetes::helm::{chart, helm};
use crate::support::kubernetes::node::snapshots::CLASS;
use crate::support::kubernetes::{Cluster, Namespace};
use crate::support::mlflow_server::{SCALE, make_at};
use crate::support::s3_server::{BUCKET, Program, S3Server};
use crate::support::tool;

/// PostgreSQL on a claim, and MLflow.
const MANIFEST: &str = "
apiVersion: v1
kind: Secret
metadata: {name: database}
stringData: {password: only-for-this-test}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: database}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: mlflow}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: database}
spec: {selector: {app: database}, ports: [{port: DATABASE}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: database}
spec:
  serviceName: database
  selector: {matchLabels: {app: database}}
  template:
    metadata: {labels: {app: database}}
    spec:
      containers:
      - name: postgres
        image: docker.io/library/postgres:17
        args: [-p, 'DATABASE']
        env:
        - {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: database, key: password}}}
        - {name: POSTGRES_DB, value: mlflow}
        readinessProbe: {tcpSocket: {port: DATABASE}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data, subPath: cluster}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: database}}]
---
apiVersion: v1
kind: Service
metadata: {name: mlflow}
spec: {selector: {app: mlflow}, ports: [{port: SERVER}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mlflow}
spec:
  selector: {matchLabels: {app: mlflow}}
  template:
    metadata: {labels: {app: mlflow}}
    spec:
      containers:
      - name: mlflow
        image: ghcr.io/mlflow/mlflow:v3
        args:
        - server
        - --host=0.0.0.0
        - --port=SERVER
        - --workers=1
        - --allowed-hosts=*
        - --backend-store-uri=postgresql+psycopg2://postgres:$(PASSWORD)@database:DATABASE/mlflow
        - --artifacts-destination=ARTIFACTS
        envFrom: [{secretRef: {name: store}}]
        env:
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: database, key: password}}}
        - {name: MLFLOW_SERVER_ENABLE_JOB_EXECUTION, value: 'false'}
        readinessProbe: {httpGet: {path: /health, port: SERVER}, periodSeconds: 1, timeoutSeconds: 5}
        volumeMounts: [{name: data, mountPath: /mlflow}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: mlflow}}]
";

/// What the jobs need to reach database, store and repository. The CronJob of the backup comes every minute until it has come.
const VALUES: &str = "
deployments: {mlflow: {}}
envFrom: [{secretRef: {name: store}}]
jobs:
  backup: &database
    schedule: '* * * * *'
    secretFiles: {database: {secret: database}}
  restore:
    secretFiles: {database: {secret: database}}
";

/// A cluster in which somebody installs mlvault.
struct Journey {
    runner: Runner,
    namespace: Namespace,
    store: S3Server,
    manifest: String,
    /// Where the machine of this test finds MLflow.
    uri: String,
}

impl Journey {
    /// MLflow is at work in a cluster, with artifacts at a place.
    fn begin(title: &str, artifacts: &str) -> Self {
        println!("\n== {title}");
        let (runner, namespace) =
            (Runner::without_repository(), Cluster::shared().with_snapshots().namespace("journey"));
        let store = S3Server::start(Program::SeaweedFs);
        let [database, server] = free_ports();
        let manifest = MANIFEST.replace("DATABASE", &database.to_string()).replace("SERVER", &server.to_string());
        let manifest = manifest.replace("ARTIFACTS", artifacts);
        let journey = Self { runner, namespace, store, manifest, uri: format!("http://127.0.0.1:{server}") };
        step("PostgreSQL and MLflow run in the cluster, and two days of work are logged.");
        journey.secret("store", journey.environment());
        journey.apply();
        for day in ["1", "2"] {
            make_at(&journey.uri, &["log", "--day", day, "--scale", SCALE]);
        }
        make_at(&journey.uri, &["record", &journey.record()]);
        journey
    }

    /// Applies what describes MLflow, and waits until it serves.
    fn apply(&self) {
        self.namespace.apply(&self.manifest);
        self.namespace.wait_ready("mlflow");
    }

    fn environment(&self) -> Vec<(String, String)> {
        s3_environment(self.store.options().endpoint.as_deref().unwrap())
    }

    fn record(&self) -> String {
        self.runner.path("record.json").display().to_string()
    }

    fn secret(&self, name: &str, data: Vec<(String, String)>) {
        let encoded: Value =
            data.into_iter().map(|(key, value)| (key, json!(BASE64.encode(value.as_bytes())))).collect();
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "data": encoded });
        self.namespace.apply(&secret.to_string());
    }

    /// Runs a command as the operator types it on a machine of theirs, and shows it.
    #[track_caller]
    fn mlvault(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.runner.command(arguments);
        command
            .envs(self.environment())
            .env("MLVAULT_REPO", format!("s3://{BUCKET}/backups"))
            .env("MLVAULT_CONFIG", self.runner.path("mlvault.toml"))
            .env("KUBECONFIG", self.namespace.kubeconfig());
        show("mlvault", arguments, &mut command)
    }

    /// Makes the repository, with a key for each role in a Secret.
    fn make_repository(&self) {
        step("The repository is made in a bucket, with a key for each role.");
        let endpoint = self.store.options().endpoint.unwrap();
        let text =
            format!("repository = \"s3://{BUCKET}/backups\"\n[s3]\nendpoint = \"{endpoint}\"\ninsecure-http = true\n");
        fs::write(self.runner.path("mlvault.toml"), text).unwrap();
        self.mlvault(&["init"]).expect(0);
        for role in ["writer", "auditor", "reader", "maintainer"] {
            let file = self.runner.path(role).display().to_string();
            self.mlvault(&["key", "add", "--label", role, "--role", role, "--new-key-file", &file]).expect(0);
            self.secret(&format!("mlvault-{role}"), vec![("key".to_owned(), fs::read_to_string(file).unwrap())]);
        }
    }

    /// Finds MLflow, and adds what is found to the configuration, changed by the caller.
    fn discover(&self, change: impl Fn(String) -> String) {
        step("mlvault finds MLflow, without reading a Secret.");
        let found = self.mlvault(&["k8s", "discover", "--namespace", self.namespace.name()]);
        assert!(matches!(found.code, Some(0 | 3)), "{found:?}");
        let file = self.runner.path("mlvault.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{text}\n{}", change(found.text()))).unwrap();
    }

    /// Installs the chart with the configuration, or changes what is installed.
    fn helm(&self, verb: &str, more: &[&str]) {
        let values = self.runner.path("values.yaml");
        let config = fs::read_to_string(self.runner.path("mlvault.toml")).unwrap();
        let config: String = config.lines().map(|line| format!("  {line}\n")).collect();
        fs::write(&values, format!("config: |\n{config}{VALUES}")).unwrap();
        let (chart, values) = (chart(), values.display().to_string());
        let shown = [verb, "mlvault", &chart, "--namespace", self.namespace.name(), "--values", &values];
        let shown = [&shown[..], more].concat();
        let mut command = helm(&shown);
        command.env("KUBECONFIG", self.namespace.kubeconfig()).env("HOME", self.runner.path("home"));
        show("helm", &shown, &mut command).expect(0);
    }

    /// Waits until the CronJob has backed up by itself, and lets it rest.
    fn wait_for_the_night(&self, more: &[&str]) {
        step("The time of the backup comes, and its CronJob makes a Job.");
        let is_of_backup = |job: &Job| job.name_any().starts_with("mlvault-backup-mlflow-");
        let job = self.namespace.until("a Job", || self.namespace.list::<Job>("").into_iter().find(is_of_backup));
        let ended = self.namespace.wait_job(&job.name_any());
        assert!(ended.last().is_some_and(|pod| pod.code == 0), "{ended:#?}");
        let status = self.namespace.get::<Job>(&job.name_any()).status.unwrap();
        let (from, to) = (status.start_time.unwrap().0, status.completion_time.unwrap().0);
        println!("  From its start to its end, with the snapshot in between, it took {} s.", (to - from).get_seconds());
        self.helm("upgrade", &[&["--set", "jobs.backup.schedule=0 2 * * *"], more].concat());
        assert_eq!(self.namespace.get::<CronJob>("mlvault-backup-mlflow").spec.unwrap().schedule, "0 2 * * *");
        let listed = self.mlvault(&["snapshots", "--deployment", "mlflow"]).expect(0);
        assert!(listed.text().contains("complete") && !listed.text().contains("INCOMPLETE"), "{listed:?}");
    }

    fn prove(&self) {
        step("A drill restores the snapshot into a scratch place, under a real MLflow, and leaves its record.");
        let namespace = self.namespace.name();
        self.mlvault(&["k8s", "run", "drill", "--namespace", namespace, "--deployment", "mlflow"]).expect(0);
        let listed = self.mlvault(&["drill", "list"]).expect(0);
        assert!(listed.text().contains("passed"), "{listed:?}");
    }

    /// Takes the database away with its claim, as a cluster that is lost does, and lets what describes the cluster make a new one.
    fn lose_the_database(&self) {
        self.namespace.delete::<StatefulSet>("database");
        self.namespace
            .until("a database that is gone", || self.namespace.list::<Pod>("app=database").is_empty().then_some(()));
        self.namespace.delete::<PersistentVolumeClaim>("database");
        self.namespace.wait_gone::<PersistentVolumeClaim>("database");
        self.namespace.apply(&self.manifest);
        self.namespace.wait_for::<StatefulSet>("database", |it| {
            it.status.as_ref().is_some_and(|status| status.ready_replicas == Some(1))
        });
    }

    /// Removes all of MLflow's objects from the bucket.
    fn lose_the_objects(&self) {
        let lines = format!(
            "import boto3, os\nstore = boto3.resource('s3', endpoint_url=os.environ['MLFLOW_S3_ENDPOINT_URL'])\n\
             found = store.Bucket('{BUCKET}').objects.filter(Prefix='mlflow/')\nassert found.delete()"
        );
        let removed = Command::new(tool("python")).args(["-c", &lines]).envs(self.environment()).status();
        assert!(removed.unwrap().success());
    }

    fn verify(&self) {
        step("MLflow serves the same runs and models, with the same files.");
        self.namespace.wait_ready("mlflow");
        make_at(&self.uri, &["verify", &self.record()]);
    }
}

#[test]
fn an_mlflow_with_postgresql_and_a_bucket_is_backed_up_lost_and_brought_back() {
    let journey = Journey::begin("MLflow with PostgreSQL and a bucket", &format!("s3://{BUCKET}/mlflow"));
    journey.make_repository();
    journey.discover(|found| found);
    journey.helm("install", &[]);
    journey.wait_for_the_night(&[]);
    journey.prove();
    step("The database and all artifacts are lost.");
    journey.lose_the_database();
    journey.lose_the_objects();
    step("One command stops MLflow, restores, starts MLflow, and asks it.");
    let namespace = journey.namespace.name();
    let run = ["k8s", "run", "restore", "--namespace", namespace, "--deployment", "mlflow", "--", "--quiesce"];
    journey.mlvault(&run).expect(0);
    journey.verify();
}

#[test]
fn an_mlflow_with_postgresql_and_a_claim_is_backed_up_from_a_copy_and_gets_a_new_claim() {
    let journey = Journey::begin("MLflow with PostgreSQL and a claim", "/mlflow/artifacts");
    journey.make_repository();
    let table = "[deployment.mlflow.kubernetes]\n";
    journey.discover(|found| found.replace(table, &format!("{table}volume-snapshot-class = {CLASS:?}\n")));
    // The drill compares with the source, which it may only read.
    let drill = json!({
        "volumes": [{ "name": "mlflow", "persistentVolumeClaim": { "claimName": "mlflow" } }],
        "volumeMounts": [{ "name": "mlflow", "mountPath": "/mlflow", "readOnly": true }],
    });
    let drill = format!("jobs.drill={drill}");
    let by_copy = ["--set", "jobs.backup.viaVolumeSnapshot=true", "--set-json", &drill];
    journey.helm("install", &by_copy);
    journey.wait_for_the_night(&by_copy);
    journey.prove();
    step("The database and all artifacts are lost.");
    journey.lose_the_database();
    fs::remove_dir_all(journey.namespace.directory_of("mlflow").join("artifacts")).unwrap();
    step("One command restores into a new claim, and lets MLflow use that one; the old claim stays.");
    let run = ["k8s", "run", "restore", "--deployment", "mlflow", "--switch-claim", "mlflow-2"];
    journey.mlvault(&run).expect(0);
    journey.verify();
    assert!(journey.namespace.directory_of("mlflow-2").join("artifacts").is_dir());
    assert!(journey.namespace.directory_of("mlflow").is_dir());
}

/// Says what happens next.
fn step(text: &str) {
    println!("\n{text}");
}

/// Runs a command, and shows it with what it prints.
fn show(program: &str, arguments: &[&str], command: &mut Command) -> Outcome {
    println!("  $ {program} {}", arguments.join(" "));
    let outcome = finish(command);
    for line in outcome.text().lines().chain(outcome.stderr.lines()) {
        println!("    {line}");
    }
    outcome
}
