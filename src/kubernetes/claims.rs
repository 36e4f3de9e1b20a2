//! PersistentVolumeClaims: a new one like another.
//!
//! What must stay true: the claim that is the pattern is only ever read.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};

use super::{Cluster, posted};
use crate::error::Result;

impl Cluster {
    /// Makes a claim like another one: of the same class, size and access, and empty. Fails if there is one of that name.
    pub fn create_claim_like(&self, pattern: &str, name: &str) -> Result<()> {
        let api = self.api::<PersistentVolumeClaim>();
        let source = self.ask("read", &format!("the claim {pattern}"), || api.get(pattern))?;
        self.create_claim(&like(&source, name))
    }

    /// Makes a claim. Fails if there is one of that name.
    pub(super) fn create_claim(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        let (api, params) = (self.api::<PersistentVolumeClaim>(), posted());
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        self.ask("create", &format!("the claim {name}"), || api.create(&params, claim)).map(drop)
    }
}

/// Returns a claim that asks for what another one asks for, without its content.
pub(super) fn like(source: &PersistentVolumeClaim, name: &str) -> PersistentVolumeClaim {
    let spec = source.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests);
    let mut claim = PersistentVolumeClaim::default();
    claim.metadata.name = Some(name.to_owned());
    claim.spec = Some(PersistentVolumeClaimSpec {
        access_modes: spec.access_modes,
        storage_class_name: spec.storage_class_name,
        volume_mode: spec.volume_mode,
        resources: Some(VolumeResourceRequirements { requests, ..VolumeResourceRequirements::default() }),
        ..PersistentVolumeClaimSpec::default()
    });
    claim
}
