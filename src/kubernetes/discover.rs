//! What looks like MLflow in a namespace: the containers that run it, with what they are told.
//!
//! What must stay true: no Secret is read. What comes from one is a reference ([`Piece::Secret`]), wherever it ends up in a text.
//! What cannot be known without reading one is named.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, PodSpec, Service};
use kube::api::ListParams;
use serde_json::Value;

use super::{Cluster, Workload, WorkloadKind};
use crate::error::{Fault, Result};

/// Variables that only a tracking server is given.
const SERVER_VARIABLES: [&str; 2] = ["MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"];
/// How often a variable may name another: those that name each other in a circle end there.
const EXPANSIONS_MAX: usize = 8;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// It is known.
    Plain(String),
    /// It is in a Secret.
    Secret {
        /// The Secret's name.
        name: String,
        /// The key in it.
        key: String,
    },
    /// A variable that nobody sets here.
    Unknown(String),
}

/// A text that may have parts which are in Secrets.
pub type Text = Vec<Piece>;

/// Returns a text if all of it is known.
pub fn plain(text: &Text) -> Option<String> {
    let known = text.iter().map(|piece| match piece {
        Piece::Plain(plain) => Some(plain.as_str()),
        Piece::Secret { .. } | Piece::Unknown(_) => None,
    });
    known.collect()
}

/// Something that is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub path: String,
    /// The PersistentVolumeClaim, if it is one.
    pub claim: Option<String>,
    /// Which directory of it; all of it if there is none.
    pub sub_path: Option<String>,
}

/// A container that runs MLflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundServer {
    /// What runs it.
    pub workload: Workload,
    /// The words of its command line; of a shell's script, its words.
    pub words: Vec<Text>,
    /// Its variables.
    pub variables: BTreeMap<String, Text>,
    /// Secrets and ConfigMaps that give variables whose names are not known.
    pub unread: Vec<String>,
    /// Its working directory, if that is said.
    pub directory: Option<String>,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// Services that lead to its pods, each with its ports.
    pub services: Vec<(String, Vec<u16>)>,
}

impl Cluster {
    /// Finds what runs MLflow in the namespace.
    pub fn find_servers(&self) -> Result<Vec<FoundServer>> {
        let (all, api) = (ListParams::default(), self.api::<Service>());
        let services = self.ask("list", "Services", || api.list(&all))?;
        let mut found = Vec::new();
        for kind in WorkloadKind::ALL {
            let api = self.workloads(kind);
            for object in self.ask("list", kind.name(), || api.list(&all))?.items {
                let name = object.metadata.name.clone().unwrap_or_default();
                let spec = &object.data["spec"];
                let Ok(pod) = serde_json::from_value::<PodSpec>(spec["template"]["spec"].clone()) else { continue };
                let labels = strings(&spec["template"]["metadata"]["labels"]);
                let leading: Vec<_> = services.items.iter().filter_map(|it| leads_to(it, &labels)).collect();
                for container in &pod.containers {
                    let workload = Workload { kind, name: name.clone() };
                    let server = self.read_container(container, &pod, workload)?;
                    found.extend(server.map(|server| FoundServer { services: leading.clone(), ..server }));
                }
            }
        }
        Ok(found)
    }

    fn read_container(&self, container: &Container, pod: &PodSpec, workload: Workload) -> Result<Option<FoundServer>> {
        let words: Vec<&String> = container.command.iter().chain(&container.args).flatten().collect();
        let named: BTreeSet<&str> = container.env.iter().flatten().map(|variable| variable.name.as_str()).collect();
        if !looks_like_a_server(&words, &named, container.image.as_deref().unwrap_or_default()) {
            return Ok(None);
        }
        let (variables, unread) = self.variables(container)?;
        let words = words.iter().flat_map(|word| split(word)).map(|word| expand(&word, &variables)).collect();
        Ok(Some(FoundServer {
            workload,
            words,
            variables,
            unread,
            directory: container.working_dir.clone(),
            mounts: mounts(container, pod),
            services: Vec::new(),
        }))
    }

    /// Returns the variables of a container, and what gives it others that are not known.
    fn variables(&self, container: &Container) -> Result<(BTreeMap<String, Text>, Vec<String>)> {
        let (mut variables, mut unread) = (BTreeMap::new(), Vec::new());
        for source in container.env_from.iter().flatten() {
            let prefix = source.prefix.clone().unwrap_or_default();
            if let Some(secret) = &source.secret_ref {
                unread.push(format!("Secret {}", secret.name));
            }
            let Some(map) = &source.config_map_ref else { continue };
            match self.config_map(&map.name)? {
                None => unread.push(format!("ConfigMap {}", map.name)),
                Some(data) => {
                    let known =
                        data.into_iter().map(|(key, value)| (format!("{prefix}{key}"), vec![Piece::Plain(value)]));
                    variables.extend(known);
                }
            }
        }
        for variable in container.env.iter().flatten() {
            let text = self.variable(variable, &variables)?;
            variables.insert(variable.name.clone(), text);
        }
        Ok((variables, unread))
    }

    fn variable(&self, variable: &EnvVar, before: &BTreeMap<String, Text>) -> Result<Text> {
        if let Some(value) = &variable.value {
            return Ok(expand(value, before));
        }
        let Some(source) = &variable.value_from else { return Ok(Vec::new()) };
        if let Some(secret) = &source.secret_key_ref {
            return Ok(vec![Piece::Secret { name: secret.name.clone(), key: secret.key.clone() }]);
        }
        if let Some(map) = &source.config_map_key_ref {
            let found = self.config_map(&map.name)?.and_then(|mut data| data.remove(&map.key));
            return Ok(vec![found.map_or_else(|| Piece::Unknown(variable.name.clone()), Piece::Plain)]);
        }
        Ok(vec![Piece::Unknown(variable.name.clone())])
    }

    /// Returns what is in a ConfigMap; nothing if it is not there or may not be read.
    fn config_map(&self, name: &str) -> Result<Option<BTreeMap<String, String>>> {
        let api = self.api::<ConfigMap>();
        match self.ask("read", &format!("the ConfigMap {name}"), || api.get(name)) {
            Ok(map) => Ok(Some(map.data.unwrap_or_default())),
            Err(error) if matches!(error.fault(), Some(Fault::NotFound | Fault::Denied)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns whether a container runs a tracking server: by its command line; by a variable; or by its image, if it has no command
/// line.
fn looks_like_a_server(words: &[&String], variables: &BTreeSet<&str>, image: &str) -> bool {
    let line = words.iter().flat_map(|word| split(word)).collect::<Vec<_>>();
    let is_mlflow = |word: &String| word == "mlflow" || word.ends_with("/mlflow") || word.starts_with("mlflow.server");
    let serves = |word: &String| word == "server" || word == "ui" || word.starts_with("mlflow.server");
    let is_by_line = line.iter().any(is_mlflow) && line.iter().any(serves);
    let repository = image.rsplit('/').next().unwrap_or_default().split([':', '@']).next().unwrap_or_default();
    // An image's own entry point is not known here; its options are.
    let is_by_image =
        repository.contains("mlflow") && line.iter().all(|word| word.starts_with('-') || word == "server");
    is_by_line || is_by_image || SERVER_VARIABLES.iter().any(|name| variables.contains(name))
}

/// Splits a word that is a script of a shell, as far as white space and quotes go.
fn split(word: &str) -> Vec<String> {
    if !word.contains(char::is_whitespace) {
        return vec![word.to_owned()];
    }
    let unquoted = |part: &str| part.trim_matches(['"', '\'', '\\', ';']).to_owned();
    word.split_whitespace().map(unquoted).filter(|part| !part.is_empty()).collect()
}

/// Puts variables in: `$(NAME)` as Kubernetes does, `$NAME` and `${NAME}` as a shell does.
fn expand(text: &str, variables: &BTreeMap<String, Text>) -> Text {
    let mut expanded = expand_once(text, variables);
    for _ in 0..EXPANSIONS_MAX {
        let is_open = |piece: &Piece| matches!(piece, Piece::Plain(text) if text.contains('$'));
        if !expanded.iter().any(is_open) {
            break;
        }
        let again = |piece: Piece| match piece {
            Piece::Plain(text) => expand_once(&text, variables),
            other => vec![other],
        };
        expanded = expanded.into_iter().flat_map(again).collect();
    }
    merged(expanded)
}

fn expand_once(text: &str, variables: &BTreeMap<String, Text>) -> Text {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        let Some((name, len)) = variable_at(from) else {
            pieces.push(Piece::Plain(rest[..=at].to_owned()));
            rest = &rest[at + 1..];
            continue;
        };
        pieces.push(Piece::Plain(before.to_owned()));
        match variables.get(name) {
            Some(text) => pieces.extend(text.iter().cloned()),
            None => pieces.push(Piece::Unknown(name.to_owned())),
        }
        rest = &from[len..];
    }
    pieces.push(Piece::Plain(rest.to_owned()));
    pieces
}

/// Returns the name of the variable that a text begins with, and how many bytes name it.
fn variable_at(text: &str) -> Option<(&str, usize)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let after = &text[1..];
    for (open, close) in [('(', ')'), ('{', '}')] {
        if let Some(inner) = after.strip_prefix(open) {
            let name = &inner[..inner.find(close)?];
            return (!name.is_empty() && name.chars().all(is_part)).then_some((name, name.len() + 3));
        }
    }
    let len = after.find(|c| !is_part(c)).unwrap_or(after.len());
    (len > 0).then_some((&after[..len], len + 1))
}

/// Puts neighbours that are known together.
fn merged(pieces: Text) -> Text {
    let mut merged: Text = Vec::new();
    for piece in pieces {
        match (merged.last_mut(), piece) {
            (_, Piece::Plain(text)) if text.is_empty() => {}
            (Some(Piece::Plain(last)), Piece::Plain(text)) => last.push_str(&text),
            (_, piece) => merged.push(piece),
        }
    }
    merged
}

fn mounts(container: &Container, pod: &PodSpec) -> Vec<Mount> {
    let claim_of = |volume: &str| {
        let found = pod.volumes.iter().flatten().find(|it| it.name == volume)?;
        found.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone())
    };
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .map(|mount| Mount {
            path: mount.mount_path.clone(),
            claim: claim_of(&mount.name),
            sub_path: mount.sub_path.clone().filter(|path| !path.is_empty()),
        })
        .collect()
}

/// Returns a Service's name and ports if it leads to pods with these labels.
fn leads_to(service: &Service, labels: &BTreeMap<String, String>) -> Option<(String, Vec<u16>)> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    if !selector.iter().all(|(name, value)| labels.get(name) == Some(value)) {
        return None;
    }
    let ports = spec.ports.iter().flatten().filter_map(|port| u16::try_from(port.port).ok());
    Some((service.metadata.name.clone()?, ports.collect()))
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, Text)]) -> BTreeMap<String, Text> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect()
    }

    fn secret() -> Piece {
        Piece::Secret { name: "db".into(), key: "password".into() }
    }

    #[test]
    fn variables_are_put_in_and_secrets_stay_references() {
        let known = texts(&[
            ("USER", vec![Piece::Plain("mlflow".into())]),
            ("PASSWORD", vec![secret()]),
            ("LOOP", vec![Piece::Plain("$(LOOP)".into())]),
        ]);
        let expected = vec![
            Piece::Plain("postgresql://mlflow:".into()),
            secret(),
            Piece::Plain("@".into()),
            Piece::Unknown("HOST".into()),
            Piece::Plain("/db$".into()),
        ];
        assert_eq!(expand("postgresql://$(USER):${PASSWORD}@$HOST/db$", &known), expected);
        assert_eq!(plain(&expand("$USER", &known)).as_deref(), Some("mlflow"));
        assert_eq!(plain(&expand("$(LOOP)x", &known)).as_deref(), Some("$(LOOP)x"));
        for odd in ["$", "$$", "${", "$()", "$(a b)", "${é}", "é$é"] {
            assert_eq!(plain(&expand(odd, &known)).as_deref(), Some(odd));
        }
    }

    #[test]
    fn servers_are_told_from_what_only_uses_mlflow() {
        let is_server = |words: &[&str], variables: &[&str], image: &str| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            looks_like_a_server(&words.iter().collect::<Vec<_>>(), &variables.iter().copied().collect(), image)
        };
        assert!(is_server(&["mlflow", "server", "--port", "5000"], &[], "x"));
        assert!(is_server(&["/bin/sh", "-c", "pip install x && exec mlflow server --host 0.0.0.0"], &[], "python:3"));
        assert!(is_server(&["gunicorn", "mlflow.server:app"], &[], "x"));
        assert!(is_server(&[], &[], "ghcr.io/mlflow/mlflow:v3"));
        assert!(is_server(&["--host=0.0.0.0"], &[], "docker.io/bitnami/mlflow:3"));
        assert!(is_server(&["run"], &["MLFLOW_BACKEND_STORE_URI"], "x"));
        assert!(!is_server(&["python", "train.py"], &["MLFLOW_TRACKING_URI"], "x"));
        assert!(!is_server(&["mlvault", "backup"], &[], "mlvault:1"));
        assert!(!is_server(&["mlflow", "gc"], &[], "ghcr.io/mlflow/mlflow:v3"));
    }

    #[test]
    fn a_service_leads_to_pods_that_have_all_its_labels() {
        let service = |selector: Value| {
            let value = serde_json::json!({ "metadata": { "name": "s" }, "spec": { "selector": selector, "ports": [{ "port": 80 }] } });
            serde_json::from_value::<Service>(value).unwrap()
        };
        let labels = strings(&serde_json::json!({ "app": "mlflow", "tier": "x" }));
        assert_eq!(leads_to(&service(serde_json::json!({ "app": "mlflow" })), &labels), Some(("s".into(), vec![80])));
        assert_eq!(leads_to(&service(serde_json::json!({ "app": "other" })), &labels), None);
        assert_eq!(leads_to(&service(serde_json::json!({})), &labels), None);
    }
}
