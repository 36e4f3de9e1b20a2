//! `k8s discover`: what runs MLflow is found in manifests as charts and people write them, and no Secret is read.

use std::fs;

use serde_json::Value;

use crate::docs::json_fields::assert_documented;
use crate::support::cli::{Runner, finish};
use crate::support::kubernetes::{Cluster, Namespace};

/// What the command needs, and no more: an account that may read no Secret.
const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: looker}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: looker}
rules:
- {apiGroups: [apps], resources: [deployments, statefulsets], verbs: [list]}
- {apiGroups: [''], resources: [services], verbs: [list]}
- {apiGroups: [''], resources: [configmaps], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: looker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: looker}
subjects: [{kind: ServiceAccount, name: looker}]
---
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: hunter2, key: hunter2}
";

/// As the chart of Bitnami writes it: the password is a variable in an argument.
const BITNAMI: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: ml-tracking}
spec:
  replicas: 0
  selector: {matchLabels: {app.kubernetes.io/component: tracking}}
  template:
    metadata: {labels: {app.kubernetes.io/component: tracking, app.kubernetes.io/instance: ml}}
    spec:
      containers:
      - name: mlflow
        image: docker.io/bitnami/mlflow:3
        command: [mlflow]
        args: [server, '--backend-store-uri=postgresql://bn_mlflow:$(MLFLOW_DATABASE_PASSWORD)@ml-postgresql:5432/bitnami_mlflow',
          --artifacts-destination=s3://mlflow, --serve-artifacts, --host=0.0.0.0, --port=5000, --app-name=basic-auth]
        env:
        - {name: MLFLOW_DATABASE_PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}
        - {name: AWS_ACCESS_KEY_ID, value: mlflow}
        - {name: AWS_SECRET_ACCESS_KEY, valueFrom: {secretKeyRef: {name: db, key: key}}}
        - {name: MLFLOW_S3_ENDPOINT_URL, value: 'http://ml-minio:9000'}
---
apiVersion: v1
kind: Service
metadata: {name: ml-tracking}
spec: {selector: {app.kubernetes.io/component: tracking}, ports: [{port: 80}]}
";

/// As the chart of community-charts writes it: libpq reads variables, some from a ConfigMap and some from a Secret.
const COMMUNITY: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: mlflow-env}
data: {PGHOST: db.ml, PGPORT: '5433', PGDATABASE: mlflow, PGUSER: ml, MLFLOW_S3_ENDPOINT_URL: 'https://minio.example.org'}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mlflow}
spec:
  replicas: 0
  selector: {matchLabels: {app: mlflow}}
  template:
    metadata: {labels: {app: mlflow}}
    spec:
      containers:
      - name: mlflow
        image: burakince/mlflow:3
        command: [mlflow]
        args: [server, --host=0.0.0.0, --port=5000, '--backend-store-uri=postgresql://', '--default-artifact-root=s3://models/mlflow',
          --no-serve-artifacts]
        envFrom: [{configMapRef: {name: mlflow-env}}, {secretRef: {name: db}}]
---
apiVersion: v1
kind: Service
metadata: {name: mlflow}
spec: {selector: {app: mlflow}, ports: [{port: 5000}]}
";

/// By hand: a script, SQLite and files on a claim, and a sidecar that is none.
const BY_HAND: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: tracking-old}
spec:
  replicas: 0
  serviceName: tracking
  selector: {matchLabels: {app: old}}
  template:
    metadata: {labels: {app: old}}
    spec:
      containers:
      - {name: logs, image: busybox, command: [tail, -f, /dev/null]}
      - name: server
        image: python:3.12
        workingDir: /srv
        command: [sh, -c, 'pip install mlflow && exec mlflow server --backend-store-uri sqlite:///$DB --artifacts-destination ./files']
        env: [{name: DB, value: /srv/db/mlflow.db}]
        volumeMounts: [{name: data, mountPath: /srv}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: old-data}}]
";

fn discover(runner: &Runner, namespace: &Namespace, code: i32) -> Value {
    let mut command = runner.command(["k8s", "discover", "--json", "--namespace", namespace.name()]);
    let found = finish(command.env("KUBECONFIG", namespace.kubeconfig_of("looker"))).expect(code);
    assert!(!found.stdout.windows(7).any(|part| part == b"hunter2") && !found.stderr.contains("hunter2"), "{found:?}");
    if code == 1 { Value::Null } else { found.json() }
}

#[test]
fn what_runs_mlflow_is_found_however_it_is_written_and_no_secret_is_read() {
    let (runner, namespace) = (Runner::without_repository(), Cluster::shared().namespace("discover"));
    namespace.apply(ACCOUNT);
    discover(&runner, &namespace, 1);
    for manifest in [BITNAMI, COMMUNITY, BY_HAND] {
        namespace.apply(manifest);
    }
    let found = discover(&runner, &namespace, 3);
    assert_documented("k8s discover", &found);
    let of = |name: &str| {
        let all = found["deployments"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}: {found:#}")).clone()
    };
    let has = |one: &Value, texts: &[&str]| {
        let text = one["configuration"].as_str().unwrap();
        texts.iter().for_each(|wanted| assert!(text.contains(wanted), "{wanted}: {text}"));
    };
    let bitnami = of("ml-tracking");
    has(
        &bitnami,
        &[
            "\"postgresql://bn_mlflow@ml-postgresql:5432/bitnami_mlflow\"",
            "backend-store-password-file = \"/run/secrets/db/password\"",
            "\"mlflow-artifacts:/\" = \"s3://mlflow\"",
            "endpoint = \"http://ml-minio:9000\"",
            "workload = \"deployment/ml-tracking\"",
        ],
    );
    assert_eq!(bitnami["secrets"].as_array().unwrap().len(), 2, "{bitnami:#}");
    assert!(bitnami["gaps"][0].as_str().unwrap().starts_with("auth-database-uri"), "{bitnami:#}");
    let community = of("mlflow");
    has(&community, &["\"postgresql://ml@db.ml:5433/mlflow\"", "\"s3://models/mlflow\" = \"s3://models/mlflow\""]);
    assert!(community["gaps"].to_string().contains("Secret db"), "{community:#}");
    let by_hand = of("tracking-old");
    has(
        &by_hand,
        &[
            "\"sqlite:////srv/db/mlflow.db\"",
            "\"mlflow-artifacts:/\" = \"/srv/files\"",
            "claim = \"old-data\"",
            "claim-mount = \"/srv\"",
            "workload = \"statefulset/tracking-old\"",
            "[deployment.tracking-old]",
        ],
    );
    // What is printed is a configuration that mlvault reads.
    let mut command = runner.command(["k8s", "discover", "--namespace", namespace.name()]);
    let printed = finish(command.env("KUBECONFIG", namespace.kubeconfig_of("looker"))).expect(3).text();
    fs::write(runner.path("mlvault.toml"), format!("repository = '/nowhere'\n{printed}")).unwrap();
    let mut check = runner.command(["config", "check", "--json"]);
    let checked = finish(check.arg("--config").arg(runner.path("mlvault.toml")));
    assert!(checked.json()["deployments"].as_array().unwrap().len() == 3, "{checked:?}");
}

#[test]
fn a_cluster_that_is_not_there_or_lets_nobody_in_is_named() {
    let (runner, namespace) = (Runner::without_repository(), Cluster::shared().namespace("denied"));
    namespace.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: nobody}\n");
    let mut command = runner.command(["k8s", "discover"]);
    let denied = finish(command.env("KUBECONFIG", namespace.kubeconfig_of("nobody"))).expect(1);
    for said in ["Cannot list Services", namespace.name(), "forbidden"] {
        assert!(denied.stderr.contains(said), "{said}: {}", denied.stderr);
    }
    finish(runner.command(["k8s", "discover"]).env("KUBECONFIG", "/nonexistent")).expect(2);
    let garbage = runner.write("garbage", "{[");
    finish(runner.command(["k8s", "discover", "--kubeconfig"]).arg(garbage)).expect(2);
    let mut unknown = runner.command(["k8s", "discover", "--context", "nowhere"]);
    finish(unknown.env("KUBECONFIG", namespace.kubeconfig())).expect(2);
}
