//! The variables of a container: from ConfigMaps, Secrets, the pod itself, and from each other.
//!
//! What must stay true: later ones win, `$(NAME)` stands for a variable that came before, and what is missing keeps the
//! container from starting unless it is optional.

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVarSource, Pod};
use kube::ResourceExt;

use super::stored::{self, Values};
use super::{Host, NAME};

/// Variables in the order in which they came.
type Variables = Vec<(String, String)>;

/// Returns the variables of a container, or what keeps it from having them.
pub fn of(host: &Host, pod: &Pod, container: &Container) -> Result<Variables, String> {
    let mut variables = api_server(host);
    for source in container.env_from.iter().flatten() {
        variables.extend(all_of(host, pod, source)?);
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &variables)),
            (None, Some(source)) => one_of(host, pod, source)?,
            (None, None) => Some(String::new()),
        };
        variables.extend(value.map(|value| (variable.name.clone(), value)));
    }
    Ok(variables)
}

/// Replaces `$(NAME)` by the last variable of that name; `$$` stands for `$`, and what is not known stays.
pub fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        let known = name.and_then(|(name, left)| {
            let (_, value) = variables.iter().rev().find(|(known, _)| known == name)?;
            Some((value, left))
        });
        match (known, after.strip_prefix('$')) {
            (Some((value, left)), _) => {
                expanded.push_str(value);
                rest = left;
            }
            (None, Some(left)) => {
                expanded.push('$');
                rest = left;
            }
            (None, None) => {
                expanded.push('$');
                rest = after;
            }
        }
    }
    expanded + rest
}

/// Returns where programs in a pod find the API server.
fn api_server(host: &Host) -> Variables {
    let port = host.port.to_string();
    let found = [("HOST", "127.0.0.1"), ("PORT", &port), ("PORT_HTTPS", &port)];
    found.into_iter().map(|(name, value)| (format!("KUBERNETES_SERVICE_{name}"), value.to_owned())).collect()
}

fn all_of(host: &Host, pod: &Pod, source: &EnvFromSource) -> Result<Variables, String> {
    let values = match (&source.config_map_ref, &source.secret_ref) {
        (Some(it), _) => stored::config_map(host, pod, &it.name, it.optional)?,
        (_, Some(it)) => stored::secret(host, pod, &it.name, it.optional)?,
        (None, None) => Values::new(),
    };
    let prefix = source.prefix.clone().unwrap_or_default();
    Ok(values.into_iter().map(|(name, value)| (format!("{prefix}{name}"), text(&value))).collect())
}

/// Returns the value of one variable; none for an optional one that is missing.
fn one_of(host: &Host, pod: &Pod, source: &EnvVarSource) -> Result<Option<String>, String> {
    let (values, what, key, optional) = if let Some(it) = &source.config_map_key_ref {
        (stored::config_map(host, pod, &it.name, it.optional)?, &it.name, &it.key, it.optional)
    } else if let Some(it) = &source.secret_key_ref {
        (stored::secret(host, pod, &it.name, it.optional)?, &it.name, &it.key, it.optional)
    } else if let Some(field) = &source.field_ref {
        return field_of(pod, &field.field_path).map(Some);
    } else {
        return Err(format!("this stand-in cannot tell {source:?}"));
    };
    match values.get(key) {
        Some(value) => Ok(Some(text(value))),
        None if optional == Some(true) => Ok(None),
        None => Err(format!("couldn't find key {key} in {what}")),
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Returns a field of the pod that the downward API offers.
pub fn field_of(pod: &Pod, path: &str) -> Result<String, String> {
    let spec = pod.spec.as_ref().unwrap();
    let keyed = |whole: &str| path.strip_prefix(whole)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned);
    let found = match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => NAME.to_owned(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" | "status.podIP" => "127.0.0.1".to_owned(),
        _ => {
            let label = keyed("metadata.labels").map(|key| pod.labels().get(&key).cloned());
            let annotation = keyed("metadata.annotations").map(|key| pod.annotations().get(&key).cloned());
            let found = label.or(annotation).ok_or_else(|| format!("this stand-in cannot tell the field {path}"))?;
            found.unwrap_or_default()
        }
    };
    Ok(found)
}
