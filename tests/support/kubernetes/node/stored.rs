//! What ConfigMaps and Secrets hold for a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;

use super::Host;

/// Values by their key.
pub type Values = BTreeMap<String, Vec<u8>>;

/// Returns what a ConfigMap holds; nothing for an optional one that is missing.
pub fn config_map(host: &Host, pod: &Pod, name: &str, optional: Option<bool>) -> Result<Values, String> {
    let found = host.wait(host.api::<ConfigMap>(&pod.namespace().unwrap()).get_opt(name));
    let values = |map: ConfigMap| {
        let texts = map.data.unwrap_or_default().into_iter().map(|(name, text)| (name, text.into_bytes()));
        let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0));
        texts.chain(bytes).collect()
    };
    needed(found, &format!("configmap \"{name}\" not found"), optional).map(|map| map.map(values).unwrap_or_default())
}

/// Returns what a Secret holds; nothing for an optional one that is missing.
pub fn secret(host: &Host, pod: &Pod, name: &str, optional: Option<bool>) -> Result<Values, String> {
    let found = host.wait(host.api::<Secret>(&pod.namespace().unwrap()).get_opt(name));
    let values =
        |secret: Secret| secret.data.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0)).collect();
    needed(found, &format!("secret \"{name}\" not found"), optional).map(|map| map.map(values).unwrap_or_default())
}

fn needed<T>(found: kube::Result<Option<T>>, missing: &str, optional: Option<bool>) -> Result<Option<T>, String> {
    match found {
        Ok(None) if optional != Some(true) => Err(missing.to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}
