//! The volumes of a pod, as directories of the host.
//!
//! What must stay true: what a volume names must be there before a container starts, unless it is optional. Files of
//! ConfigMaps, Secrets and tokens have the modes that a kubelet gives them. They are written once, when the pod starts: a
//! kubelet would also follow what changes.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, PersistentVolume, PersistentVolumeClaim, Pod,
    ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::stored::{self, Values};
use super::{Host, claims, environment};

/// Mode of files for which nobody chose one.
const MODE: i32 = 0o644;
/// What the group of a pod's volumes may do with files that nobody may write.
const GROUP_MODE: u32 = 0o440;
/// Mode of a token.
const TOKEN_MODE: u32 = 0o600;
/// How long a token lives if nobody chose.
const TOKEN_SECONDS: i64 = 3600;

/// A file of a volume.
struct Content {
    path: String,
    bytes: Vec<u8>,
    mode: u32,
}

type Contents = Result<Vec<Content>, String>;

/// Makes all volumes of a pod, and returns where they are, or what keeps one from being made.
pub fn make(host: &Host, pod: &Pod, directory: &Path) -> Result<HashMap<String, PathBuf>, String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.map(|volume| Ok((volume.name.clone(), place(host, pod, volume, &directory.join(&volume.name))?))).collect()
}

fn place(host: &Host, pod: &Pod, volume: &Volume, own: &Path) -> Result<PathBuf, String> {
    if let Some(host_path) = &volume.host_path {
        return of_host(host_path);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return claimed(host, pod, &claim.claim_name);
    }
    fs::create_dir_all(own).map_err(|error| error.to_string())?;
    if volume.empty_dir.is_none() {
        write(own, files(host, pod, volume)?).map_err(|error| error.to_string())?;
    }
    Ok(own.to_owned())
}

fn of_host(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => fs::create_dir_all(&path).map_err(|error| error.to_string())?,
        _ if path.exists() => {}
        _ => return Err(format!("hostPath {path:?} does not exist")),
    }
    Ok(path)
}

fn claimed(host: &Host, pod: &Pod, claim: &str) -> Result<PathBuf, String> {
    let claims = host.api::<PersistentVolumeClaim>(&pod.namespace().unwrap());
    let found = host.wait(claims.get(claim)).map_err(|error| error.to_string())?;
    let is_bound = found.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Bound");
    let volume = found.spec.and_then(|spec| spec.volume_name).filter(|_| is_bound);
    let volume = volume.ok_or_else(|| format!("pod has unbound PersistentVolumeClaim {claim}"))?;
    let volumes: Api<PersistentVolume> = Api::all(host.client.clone());
    claims::directory(host, &host.wait(volumes.get(&volume)).map_err(|error| error.to_string())?)
}

/// Returns the files of a volume that has some.
fn files(host: &Host, pod: &Pod, volume: &Volume) -> Contents {
    let mode = |chosen: Option<i32>| permitted(pod, chosen.unwrap_or(MODE));
    if let Some(it) = &volume.config_map {
        picked(stored::config_map(host, pod, &it.name, it.optional)?, it.items.as_deref(), mode(it.default_mode))
    } else if let Some(it) = &volume.secret {
        let name = it.secret_name.as_deref().unwrap_or_default();
        let values = stored::secret(host, pod, name, it.optional)?;
        picked(values, it.items.as_deref(), mode(it.default_mode))
    } else if let Some(it) = &volume.downward_api {
        told(pod, it.items.as_deref(), mode(it.default_mode))
    } else if let Some(it) = &volume.projected {
        let mode = mode(it.default_mode);
        let parts = it.sources.iter().flatten().map(|source| projected(host, pod, source, mode));
        Ok(parts.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    } else {
        Err(format!("this stand-in has no volumes such as {volume:?}"))
    }
}

fn projected(host: &Host, pod: &Pod, source: &VolumeProjection, mode: u32) -> Contents {
    if let Some(it) = &source.config_map {
        picked(stored::config_map(host, pod, &it.name, it.optional)?, it.items.as_deref(), mode)
    } else if let Some(it) = &source.secret {
        picked(stored::secret(host, pod, &it.name, it.optional)?, it.items.as_deref(), mode)
    } else if let Some(it) = &source.downward_api {
        told(pod, it.items.as_deref(), mode)
    } else if let Some(it) = &source.service_account_token {
        token(host, pod, it).map(|content| vec![content])
    } else {
        Err(format!("this stand-in projects nothing such as {source:?}"))
    }
}

/// Returns the chosen keys under their chosen paths; all of them if none are chosen.
fn picked(mut values: Values, items: Option<&[KeyToPath]>, mode: u32) -> Contents {
    let Some(items) = items else {
        return Ok(values.into_iter().map(|(path, bytes)| Content { path, bytes, mode }).collect());
    };
    let pick = |item: &KeyToPath| {
        let bytes = values.remove(&item.key).ok_or_else(|| format!("references non-existent key: {}", item.key))?;
        let mode = item.mode.map_or(mode, |mode| u32::try_from(mode).unwrap());
        Ok(Content { path: item.path.clone(), bytes, mode })
    };
    items.iter().map(pick).collect()
}

fn told(pod: &Pod, items: Option<&[DownwardAPIVolumeFile]>, mode: u32) -> Contents {
    let tell = |item: &DownwardAPIVolumeFile| {
        let field = item.field_ref.as_ref().ok_or("this stand-in tells no resources")?;
        let bytes = environment::field_of(pod, &field.field_path)?.into_bytes();
        Ok(Content { path: item.path.clone(), bytes, mode })
    };
    items.unwrap_or_default().iter().map(tell).collect()
}

/// Asks the API server for a token of the pod's ServiceAccount that ends with the pod.
fn token(host: &Host, pod: &Pod, wanted: &ServiceAccountTokenProjection) -> Result<Content, String> {
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
    };
    let spec = TokenRequestSpec {
        audiences: wanted.audience.clone().into_iter().collect(),
        bound_object_ref: Some(bound),
        expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(TOKEN_SECONDS)),
    };
    let asked = TokenRequest { spec, ..TokenRequest::default() };
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let accounts = host.api::<ServiceAccount>(&pod.namespace().unwrap());
    let given = host.wait(accounts.create_token_request(account, &PostParams::default(), &asked));
    let token = given.map_err(|error| error.to_string())?.status.map(|status| status.token).unwrap_or_default();
    Ok(Content { path: wanted.path.clone(), bytes: token.into_bytes(), mode: permitted(pod, TOKEN_MODE as i32) })
}

/// Returns the mode that files of a pod get: if it names a group for its volumes, that one may read them.
fn permitted(pod: &Pod, mode: i32) -> u32 {
    let security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let group = security.and_then(|security| security.fs_group).map_or(0, |_| GROUP_MODE);
    u32::try_from(mode).unwrap() | group
}

fn write(directory: &Path, files: Vec<Content>) -> std::io::Result<()> {
    for Content { path, bytes, mode } in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap())?;
        // What an earlier attempt wrote may not be writable.
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}
