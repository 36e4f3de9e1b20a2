//! The chart's objects before the API server: each field is known, each pod is admitted by the strictest standard, and each
//! account may do what its job does and nothing else, which its own token shows.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::chart::pods;
use crate::support::cli::Outcome;
use crate::support::kubernetes::cluster::documents;
use crate::support::kubernetes::helm::{example, template};
use crate::support::kubernetes::{Cluster, Namespace};

/// A namespace that admits only pods of the strictest standard.
fn strict() -> Namespace {
    Cluster::shared().namespace_with("admission", &[("pod-security.kubernetes.io/enforce", "restricted")])
}

/// Renders the chart into a namespace, with all that it has and some values more.
fn render(namespace: &Namespace, more: &[&str]) -> String {
    let here = format!("mlflowNamespaces=[{:?}]", namespace.name());
    let all = ["--values", &example(), "--set-json", &here, "--set", "metrics.serviceMonitor.enabled=true"];
    let output: Outcome = template("mlvault", namespace.name(), &[&all, more].concat()).expect(0);
    output.text()
}

#[test]
fn the_api_server_knows_every_field_and_admits_every_pod() {
    for kind in ["podmonitors", "prometheusrules", "servicemonitors"] {
        Cluster::shared().define("monitoring.coreos.com", kind);
    }
    let namespace = strict();
    let objects = documents(&render(&namespace, &[]));
    assert!(objects.len() > 20, "{}", objects.len());
    for object in &objects {
        let text = serde_json::to_string(object).unwrap();
        if let Err(error) = namespace.dry_run(&text) {
            panic!("{error}\n{text}");
        }
        // Pods need their accounts.
        if object.types.as_ref().unwrap().kind == "ServiceAccount" {
            namespace.apply(&text);
        }
    }
    for (name, mut pod) in pods(&objects) {
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(name);
        namespace.dry_run(&pod.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn an_account_may_do_what_its_job_does_and_nothing_else() {
    let namespace = with_accounts(&[]);
    let of_restore = [
        "get apps/deployments",
        "patch apps/deployments",
        "patch apps/statefulsets",
        "list /pods",
        "create coordination.k8s.io/leases",
        "update coordination.k8s.io/leases",
    ];
    let of_nobody = [
        "get /secrets",
        "list /secrets",
        "get /configmaps",
        "create /pods",
        "delete /pods",
        "create /pods/exec",
        "delete apps/deployments",
        "delete coordination.k8s.io/leases",
        "create batch/jobs",
        "patch batch/cronjobs",
        "create /serviceaccounts/token",
        "delete /persistentvolumeclaims",
        "patch rbac.authorization.k8s.io/roles",
    ];
    for account in ["backup", "forget", "prune", "check", "drill", "metrics", "restore"] {
        let may = Asker::new(&namespace, &format!("mlvault-{account}"));
        for what in of_restore {
            assert_eq!(may.ask(what, namespace.name()), account == "restore", "{account}: {what}");
            assert!(!may.ask(what, "default"), "{account} in another namespace: {what}");
        }
        for what in of_nobody {
            assert!(!may.ask(what, namespace.name()), "{account}: {what}");
        }
    }
}

#[test]
fn a_backup_from_a_copy_of_a_claim_may_make_one_and_remove_no_claim() {
    let namespace = with_accounts(&["--set", "jobs.backup.viaVolumeSnapshot=true"]);
    let may = Asker::new(&namespace, "mlvault-backup");
    let needed = [
        "get /persistentvolumeclaims",
        "create /persistentvolumeclaims",
        "list snapshot.storage.k8s.io/volumesnapshots",
        "delete snapshot.storage.k8s.io/volumesnapshots",
        "create batch/jobs",
        "get /pods/log",
        "update coordination.k8s.io/leases",
    ];
    for what in needed {
        assert!(may.ask(what, namespace.name()) && !may.ask(what, "default"), "{what}");
    }
    for what in [
        "delete /persistentvolumeclaims",
        "delete batch/jobs",
        "get /secrets",
        "create /pods",
        "patch apps/deployments",
    ] {
        assert!(!may.ask(what, namespace.name()), "{what}");
    }
}

/// Returns a namespace with the accounts of the chart, installed with some values more.
fn with_accounts(more: &[&str]) -> Namespace {
    let namespace = strict();
    for object in documents(&render(&namespace, more)) {
        if matches!(object.types.as_ref().unwrap().kind.as_str(), "ServiceAccount" | "Role" | "RoleBinding") {
            namespace.apply(&serde_json::to_string(&object).unwrap());
        }
    }
    namespace
}

/// Asks the API server what an account may do, with the account's own token.
struct Asker(Api<SelfSubjectAccessReview>);

impl Asker {
    fn new(namespace: &Namespace, account: &str) -> Self {
        Self(Api::all(namespace.client_of(account)))
    }

    /// Asks for what is written as `VERB GROUP/RESOURCE` or `VERB GROUP/RESOURCE/SUBRESOURCE`.
    fn ask(&self, what: &str, namespace: &str) -> bool {
        let (verb, rest) = what.split_once(' ').unwrap();
        let parts: Vec<&str> = rest.split('/').collect();
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            group: Some(parts[0].to_owned()),
            resource: Some(parts[1].to_owned()),
            subresource: parts.get(2).map(|part| (*part).to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let asked = SelfSubjectAccessReview { spec, ..Default::default() };
        Cluster::shared().wait(self.0.create(&PostParams::default(), &asked)).unwrap().status.unwrap().allowed
    }
}
