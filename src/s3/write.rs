//! Writes objects by one request each, and removes them.
//!
//! What must stay true: everything that is written carries a checksum. A write that another one for the same key gets in
//! the way of is sent again; whether the key was taken before, only the condition tells.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;

use crate::error::{Error, Fault, Result};
use crate::s3::bucket::Bucket;
use crate::s3::headers::{ObjectHeaders, with_headers};
use crate::s3::interruption::Kind;
use crate::s3::{body, conflict, fault};

/// Objects that one request removes, by the protocol at most.
pub const REMOVALS_MAX: usize = 1000;

impl Bucket {
    /// Writes an object in one request. With `create_only`, fails with [`Fault::AlreadyExists`] if the key is taken, on
    /// servers that honour the condition.
    ///
    /// A request that is repeated underway is refused as well: who gets that fault looks at what is there.
    pub fn put(&self, key: &str, bytes: &Bytes, headers: &ObjectHeaders, create_only: bool) -> Result<()> {
        self.write_once(create_only, |has_condition| {
            let put = || async {
                let _turn = self.limits().upload.turn().await;
                conflict::outlast(self.patience(), || self.put_once(key, bytes, headers, has_condition)).await
            };
            self.ask(Kind::of_write(bytes.len()), put)?.map_err(|error| self.failed("create", key, error))
        })
    }

    async fn put_once(
        &self,
        key: &str,
        bytes: &Bytes,
        headers: &ObjectHeaders,
        create_only: bool,
    ) -> Result<(), SdkError<PutObjectError>> {
        let timeouts = self.patience().timeouts(bytes.len() as u64);
        with_headers!(self.client().put_object(), headers)
            .bucket(self.name())
            .key(key)
            .set_if_none_match(create_only.then(|| "*".to_owned()))
            .checksum_crc32(body::checksum(bytes))
            .body(body::in_pieces(bytes, &self.limits().upload))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts))
            .send()
            .await
            .map(drop)
    }

    /// Removes an object. That it is not there is no error; that the bucket is not there is one.
    pub fn remove(&self, key: &str) -> Result<()> {
        let request = self.client().delete_object().bucket(self.name()).key(key);
        match self.ask(Kind::Write, || request.clone().send())? {
            Err(error) if error.code() != Some("NoSuchBucket") && fault::of(&error) == Fault::NotFound => Ok(()),
            answer => answer.map(drop).map_err(|error| self.failed("remove", key, error)),
        }
    }

    /// Removes up to [`REMOVALS_MAX`] objects by one request, and returns the keys of those that the server says it did
    /// not remove. Some servers know no such request, or want another checksum with it, and refuse all of it.
    pub fn remove_together(&self, keys: Vec<String>) -> Result<Vec<String>> {
        let unusable = |error| Error::backend(Fault::Other, "remove objects from", self.place(""), error);
        let identify = |key| ObjectIdentifier::builder().key(key).build();
        let objects = keys.into_iter().map(identify).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
        let delete = Delete::builder().quiet(true).set_objects(Some(objects)).build().map_err(unusable)?;
        let request = self.client().delete_objects().bucket(self.name()).delete(delete);
        let answer = self.ask(Kind::Write, || request.clone().send())?;
        let answer = answer.map_err(|error| self.failed("remove objects from", "", error))?;
        let named = |failure: &aws_sdk_s3::types::Error| failure.key().map(str::to_owned);
        let failed = answer.errors().iter().map(named).collect::<Option<Vec<_>>>();
        failed.ok_or_else(|| {
            self.fault(Fault::BadAnswer, "remove objects from", "", "a failure does not name its object")
        })
    }
}
