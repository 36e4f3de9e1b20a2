//! What the other tests rely on of the cluster: the real control plane, and the stand-in for a node.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::AsyncBufReadExt;
use futures_util::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, EvictParams, LogParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::support::child;
use crate::support::kubernetes::cluster::documents;
use crate::support::kubernetes::control_plane::free_ports;
use crate::support::kubernetes::namespace::statuses;
use crate::support::kubernetes::node::snapshots::{CLASS, STUCK_CLASS};
use crate::support::kubernetes::{Cluster, Namespace};

/// Returns a Job of one container, whose shell runs some lines. `pod` are more fields of its pod, `container` of its container.
fn job(name: &str, lines: &str, pod: &str, container: &str) -> String {
    let lines = serde_json::to_string(lines).unwrap();
    format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  backoffLimit: 0
  template:
    spec: {{restartPolicy: Never, {pod} containers: [{{name: main, image: sh, args: [-c, {lines}], {container}}}]}}
"
    )
}

/// Runs a Job to its end, and returns the exit code of its one pod and what it wrote.
#[track_caller]
fn run(namespace: &Namespace, manifest: &str) -> (i32, String) {
    let name = namespace.apply(manifest).last().unwrap().name_any();
    let mut ended = namespace.wait_job(&name);
    assert_eq!(ended.len(), 1, "{ended:?}");
    let ended = ended.remove(0);
    (ended.code, ended.log)
}

#[test]
fn a_job_ends_with_the_exit_code_of_its_process_and_its_output_is_its_log() {
    let namespace = Cluster::shared().namespace("job");
    assert_eq!(run(&namespace, &job("good", "echo out; echo err >&2", "", "")), (0, "out\nerr\n".to_owned()));
    assert_eq!(run(&namespace, &job("bad", "echo broken; exit 12", "", "")), (12, "broken\n".to_owned()));
    let failed: Job = namespace.get("bad");
    assert_eq!(failed.status.unwrap().failed, Some(1));
}

#[test]
fn a_misspelt_field_is_refused() {
    let namespace = Cluster::shared().namespace("strict");
    let error = namespace.try_apply(&job("typo", "true", "restartPolicyy: Never,", "")).unwrap_err().to_string();
    assert!(error.contains("restartPolicyy") && error.contains("not declared in schema"), "{error}");
    assert!(namespace.list::<Job>("").is_empty());
}

#[test]
fn a_log_that_is_followed_comes_as_it_is_written_and_ends_with_the_container() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("follow");
    // It goes on only once somebody has seen its first line.
    let wait = "echo first; until [ -e /shared/seen ]; do sleep 0.1; done; echo last";
    let folder = tempfile::tempdir().unwrap();
    let volume = format!("volumes: [{{name: shared, hostPath: {{path: {}}}}}],", folder.path().display());
    namespace.apply(&job("talker", wait, &volume, "volumeMounts: [{name: shared, mountPath: /shared}]"));
    let pod = namespace.until("a running pod", || {
        let pod = namespace.list::<Pod>("job-name=talker").pop()?;
        (pod.status.as_ref()?.phase.as_deref() == Some("Running")).then(|| pod.name_any())
    });
    let api: Api<Pod> = namespace.api();
    let lines: Vec<String> = cluster
        .wait(async {
            let params = LogParams { follow: true, ..LogParams::default() };
            let mut lines = api.log_stream(&pod, &params).await?.lines();
            let mut seen = Vec::new();
            while let Some(line) = lines.try_next().await.unwrap() {
                std::fs::write(folder.path().join("seen"), "").unwrap();
                seen.push(line);
            }
            Ok(seen)
        })
        .unwrap();
    assert_eq!(lines, ["first", "last"]);
}

#[test]
fn a_deployment_scaled_to_none_has_its_pods_go_after_their_grace() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("scale");
    let folder = tempfile::tempdir().unwrap();
    let lines = "trap 'echo asked >>/shared/log; exit 0' TERM; echo up >>/shared/log; while :; do sleep 0.1; done";
    namespace.apply(&format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: server}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: server}}}}
  template:
    metadata: {{labels: {{app: server}}}}
    spec:
      containers:
      - {{name: main, image: sh, args: [-c, {lines}], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
      volumes: [{{name: shared, hostPath: {{path: {folder}}}}}]
",
        lines = serde_json::to_string(lines).unwrap(),
        folder = folder.path().display()
    ));
    let ready = |deployment: &Deployment| deployment.status.as_ref().and_then(|status| status.ready_replicas);
    namespace.wait_for::<Deployment>("server", |it| ready(it) == Some(1));
    let none = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
    cluster.wait(namespace.api::<Deployment>().patch_scale("server", &PatchParams::default(), &none)).unwrap();
    namespace.until("no pod", || namespace.list::<Pod>("app=server").is_empty().then_some(()));
    assert_eq!(std::fs::read_to_string(folder.path().join("log")).unwrap(), "up\nasked\n");
}

#[test]
fn what_a_pod_is_given_is_where_its_manifest_says() {
    let namespace = Cluster::shared().namespace("given");
    namespace.apply(
        "apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {file.toml: 'a = 1', LEVEL: high}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {key: secret-content, PASSWORD: hunter2}
",
    );
    let given = "
apiVersion: v1
kind: Pod
metadata: {name: given, labels: {team: blue}}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 65532, runAsNonRoot: true, fsGroup: 65532}
  initContainers:
  - name: first
    image: sh
    args: [-c, 'echo from init >/scene/init']
    volumeMounts: [{name: work, mountPath: /scene}]
  containers:
  - name: main
    image: sh
    command: [sh, -ec]
    args:
    - |
      id -u; cat /etc/app/file.toml /keys/renamed /scene/init; echo
      stat -c %a /keys/renamed
      echo $LEVEL $X_PASSWORD $OWN $NAME $TEAM '$(OWN)' '$$(OWN)' $(pwd)
      touch /scene/x && ! touch /x 2>/dev/null && ! touch /keys/x 2>/dev/null && ! touch /tmp/x 2>/dev/null
      echo $KUBERNETES_SERVICE_HOST; cut -c1-2 /var/run/secrets/kubernetes.io/serviceaccount/token
      head -c 27 /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
      grep -c 'server\\.'\"$NAMESPACE\" /etc/hosts
    workingDir: /scene
    securityContext: {readOnlyRootFilesystem: true}
    envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: keys}, prefix: X_}]
    env:
    - {name: OWN, value: me-$(X_PASSWORD)}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: TEAM, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['team']\"}}}
    volumeMounts:
    - {name: settings, mountPath: /etc/app}
    - {name: keys, mountPath: /keys}
    - {name: work, mountPath: /scene}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 256, items: [{key: key, path: renamed}]}}
  - {name: work, emptyDir: {}}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {ports: [{port: 80}]}
";
    // The Service comes first: names are looked up when a container starts.
    let (pod, service) = given.split_once("---\n").unwrap();
    namespace.apply(service);
    namespace.apply(pod);
    let ended = namespace
        .wait_for::<Pod>("given", |pod| statuses(pod).any(|it| it.state.as_ref().unwrap().terminated.is_some()));
    let log = namespace.logs("given");
    assert_eq!(
        statuses(&ended).next().unwrap().state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code,
        0,
        "{log}"
    );
    let expected = "65532\na = 1secret-contentfrom init\n\n440\nhigh hunter2 me-hunter2 given blue me-hunter2 $(OWN) /scene\n\
                    127.0.0.1\ney\n-----BEGIN CERTIFICATE-----1\n";
    assert_eq!(log, expected);
}

#[test]
fn a_pod_waits_for_what_it_is_to_be_given() {
    let namespace = Cluster::shared().namespace("waits");
    let volume = "volumes: [{name: keys, secret: {secretName: late}}],";
    let mount = "volumeMounts: [{name: keys, mountPath: /keys}]";
    namespace.apply(&job("waiting", "cat /keys/key", volume, mount));
    namespace.until("a pod that says what it lacks", || {
        let pod = namespace.list::<Pod>("").pop()?;
        pod.status?.message.filter(|message| message.contains("secret \"late\" not found"))
    });
    namespace.apply("{apiVersion: v1, kind: Secret, metadata: {name: late}, stringData: {key: here}}");
    let ended = namespace.wait_job("waiting");
    assert_eq!((ended[0].code, ended[0].log.as_str()), (0, "here"));
}

#[test]
fn a_claim_is_a_directory_that_outlives_pods_and_goes_with_the_claim() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("claim");
    namespace.apply(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], \
         resources: {requests: {storage: 1Gi}}}}",
    );
    let volume = "volumes: [{name: data, persistentVolumeClaim: {claimName: data}}],";
    let mount = "volumeMounts: [{name: data, mountPath: /data}]";
    assert_eq!(run(&namespace, &job("writes", "echo kept >/data/file", volume, mount)).0, 0);
    assert_eq!(run(&namespace, &job("reads", "cat /data/file", volume, mount)), (0, "kept\n".to_owned()));
    let claim: PersistentVolumeClaim = namespace.get("data");
    let volumes: Api<PersistentVolume> = Api::all(cluster.client());
    let volume = claim.spec.unwrap().volume_name.unwrap();
    for name in ["writes", "reads"] {
        namespace.delete::<Job>(name);
    }
    namespace.delete::<PersistentVolumeClaim>("data");
    namespace.wait_gone::<PersistentVolumeClaim>("data");
    namespace.until("no volume", || cluster.wait(volumes.get_opt(&volume)).unwrap().is_none().then_some(()));
}

#[test]
fn a_claim_can_be_made_from_a_snapshot_of_another() {
    let namespace = Cluster::shared().with_snapshots().namespace("snapshot");
    let claim = |name: &str, source: &str| {
        namespace.apply(&format!(
            "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {name}}}, spec: {{accessModes: [ReadWriteOnce], \
             resources: {{requests: {{storage: 1Gi}}}}{source}}}}}"
        ))
    };
    let snapshot = |name: &str, class: &str| {
        namespace
            .apply(&format!(
                "{{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {{name: {name}}}, spec: \
             {{volumeSnapshotClassName: {class}, source: {{persistentVolumeClaimName: data}}}}}}"
            ))
            .remove(0)
    };
    let on = |claim: &str, name: &str, lines: &str| {
        let volume = format!("volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}],");
        run(&namespace, &job(name, lines, &volume, "volumeMounts: [{name: data, mountPath: /data}]"))
    };
    claim("data", "");
    assert_eq!(on("data", "first", "echo one >/data/file").0, 0);
    let stuck = snapshot("never", STUCK_CLASS);
    let made = snapshot("soon", CLASS);
    let api = Cluster::shared().api_of(&made, namespace.name()).unwrap();
    let find = |name: &str| Cluster::shared().wait(api.get_opt(name)).unwrap();
    let status = |name: &str| find(name).map(|found| found.data["status"].clone()).unwrap_or_default();
    namespace.until("a snapshot that is ready", || (status("soon")["readyToUse"] == true).then_some(()));
    assert_eq!(on("data", "second", "echo two >/data/file").0, 0);
    claim("copy", ", dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: soon}");
    assert_eq!(on("copy", "third", "cat /data/file"), (0, "one\n".to_owned()));
    assert_ne!(status(&stuck.name_any())["readyToUse"], true);
    for name in ["soon", "never"] {
        Cluster::shared().wait(api.delete(name, &DeleteParams::default())).unwrap();
        namespace.until("no snapshot", || find(name).is_none().then_some(()));
    }
}

#[test]
fn mlflow_and_its_database_serve_from_pods() {
    let namespace = Cluster::shared().namespace("mlflow");
    let [database, server] = free_ports();
    namespace.apply(&format!(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: database}}
spec: {{selector: {{app: database}}, ports: [{{port: {database}}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: database}}
spec:
  selector: {{matchLabels: {{app: database}}}}
  template:
    metadata: {{labels: {{app: database}}}}
    spec:
      containers:
      - name: postgres
        image: docker.io/library/postgres:17
        args: [-p, '{database}']
        env: [{{name: POSTGRES_PASSWORD, value: secret}}, {{name: POSTGRES_DB, value: mlflow}}]
        readinessProbe: {{tcpSocket: {{port: {database}}}}}
        volumeMounts: [{{name: data, mountPath: /var/lib/postgresql/data, subPath: cluster}}]
      volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: mlflow}}
spec:
  selector: {{matchLabels: {{app: mlflow}}}}
  template:
    metadata: {{labels: {{app: mlflow}}}}
    spec:
      containers:
      - name: mlflow
        image: ghcr.io/mlflow/mlflow:v3.4.0
        args:
        - server
        - --host=127.0.0.1
        - --port={server}
        - --workers=1
        - --backend-store-uri=postgresql+psycopg2://postgres:secret@database:$(PORT)/mlflow
        env: [{{name: PORT, value: '{database}'}}, {{name: MLFLOW_SERVER_ENABLE_JOB_EXECUTION, value: 'false'}}]
        ports: [{{name: http, containerPort: {server}}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, timeoutSeconds: 5}}
"
    ));
    namespace.wait_ready("mlflow");
    let pod = namespace.list::<Pod>("app=database").remove(0);
    assert!(statuses(&pod).all(|it| it.ready), "{pod:?}");
}

#[test]
fn a_cron_job_makes_jobs_when_their_time_has_come() {
    let namespace = Cluster::shared().namespace("cron");
    let template = documents(&job("unused", "echo tick", "", "")).remove(0).data;
    let cron = json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": { "name": "ticks" },
        "spec": { "schedule": "* * * * *", "jobTemplate": { "spec": template["spec"] } },
    });
    namespace.apply(&cron.to_string());
    let made = namespace.until("a Job", || namespace.list::<Job>("").pop());
    assert_eq!(made.owner_references()[0].name, "ticks");
    let ended = namespace.wait_job(&made.name_any());
    assert_eq!((ended[0].code, ended[0].log.as_str()), (0, "tick\n"));
    assert!(namespace.get::<CronJob>("ticks").status.unwrap().last_schedule_time.is_some());
}

#[test]
fn a_pod_that_fails_for_what_will_not_pass_is_not_tried_again() {
    let namespace = Cluster::shared().namespace("policy");
    let policy = "podFailurePolicy:
    rules:
    - {action: FailJob, onExitCodes: {containerName: main, operator: In, values: [2]}}
";
    let with_policy = |name: &str, code: u8| {
        let manifest = job(name, &format!("exit {code}"), "", "").replace("backoffLimit: 0", "backoffLimit: 1");
        manifest.replace("  template:", &format!("  {policy}  template:"))
    };
    namespace.apply(&with_policy("lasting", 2));
    namespace.apply(&with_policy("passing", 11));
    assert_eq!(namespace.wait_job("lasting").len(), 1);
    assert_eq!(namespace.wait_job("passing").len(), 2);
}

#[test]
fn a_pod_that_is_moved_away_counts_as_no_attempt() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("drain");
    let folder = tempfile::tempdir().unwrap();
    let lines =
        "[ -e /shared/again ] && exit 0; touch /shared/again; trap 'exit 130' TERM; while :; do sleep 0.1; done";
    let volume = format!("volumes: [{{name: shared, hostPath: {{path: {}}}}}],", folder.path().display());
    let manifest = job("drained", lines, &volume, "volumeMounts: [{name: shared, mountPath: /shared}]");
    let policy = "podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}";
    namespace.apply(&manifest.replace("  template:", &format!("  {policy}\n  template:")));
    namespace.until("a pod at work", || folder.path().join("again").exists().then_some(()));
    let pod = namespace.list::<Pod>("job-name=drained").remove(0).name_any();
    cluster.wait(namespace.api::<Pod>().evict(&pod, &EvictParams::default())).unwrap();
    let ended = namespace.wait_job("drained");
    assert_eq!(ended.last().map(|ended| ended.code), Some(0), "{ended:?}");
    assert_eq!(namespace.get::<Job>("drained").status.unwrap().failed, None);
}

#[test]
fn a_token_of_an_account_may_do_what_its_role_says_and_no_more() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("rbac");
    namespace.apply(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: looker}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: looker}
rules: [{apiGroups: [''], resources: [pods], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: looker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: looker}
subjects: [{kind: ServiceAccount, name: looker}]
",
    );
    let client = namespace.client_of("looker");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace.name());
    cluster.wait(pods.list(&kube::api::ListParams::default())).unwrap();
    let error = cluster.wait(pods.delete("any", &DeleteParams::default())).unwrap_err().to_string();
    assert!(error.contains("forbidden") && error.contains(":looker"), "{error}");
}

/// What a test starts a cluster in, and then kills.
#[test]
#[ignore = "run by nothing_outlives_the_process_of_the_tests"]
fn child_with_a_cluster() {
    let namespace = Cluster::shared().namespace("outlived");
    namespace.apply(&job("long", "sleep 1000", "", ""));
    namespace.until("a running pod", || {
        let pod = namespace.list::<Pod>("").pop()?;
        (pod.status?.phase? == "Running").then_some(())
    });
    println!("directory {}", Cluster::shared().plane.kubeconfig().parent().unwrap().display());
    println!("directory {}", Cluster::shared().node.directory().display());
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn nothing_outlives_the_process_of_the_tests() {
    let mut command = child("kubernetes::stand_in::child_with_a_cluster", "");
    let mut killed = command.arg("--nocapture").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(killed.stdout.take().unwrap()).lines().map_while(Result::ok);
    let named = lines.filter_map(|line| Some(line.split_once("directory ")?.1.to_owned()));
    let directories: Vec<String> = named.take(2).collect();
    let users = || users_of(&directories);
    let before = users();
    assert!(before.len() >= 4, "{before:?}");
    killed.kill().unwrap();
    killed.wait().unwrap();
    let begun = Instant::now();
    while !users().is_empty() || directories.iter().any(|directory| Path::new(directory).exists()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", users());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Returns the processes that work in one of some directories, or are told of it.
fn users_of(directories: &[String]) -> Vec<String> {
    let told = |found: std::io::Result<std::fs::DirEntry>| {
        let process = found.unwrap().path();
        let cwd = std::fs::read_link(process.join("cwd")).map(|path| path.display().to_string()).unwrap_or_default();
        let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let told = format!("{cwd} {}", String::from_utf8_lossy(&command).replace('\0', " "));
        let is_sweeper = told.contains("rm -rf");
        (!is_sweeper && directories.iter().any(|directory| told.contains(directory))).then_some(told)
    };
    std::fs::read_dir("/proc").unwrap().filter_map(told).collect()
}

/// Where tests ask for it, nothing runs that the strictest of Kubernetes' standards would not admit.
#[test]
fn a_namespace_can_refuse_pods_with_privileges() {
    let namespace = Cluster::shared().namespace_with("strict", &[("pod-security.kubernetes.io/enforce", "restricted")]);
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: free}, spec: {containers: [{name: main, image: sh}]}}";
    let error = namespace.try_apply(pod).unwrap_err().to_string();
    assert!(error.contains("violates PodSecurity \"restricted"), "{error}");
}
