//! Writes a large object in parts. It becomes visible when it is completed, whole, or never.
//!
//! What must stay true: an upload that is not completed is aborted, also when it is dropped because of an error: parts
//! that are left behind cost money and show in no listing.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use crate::error::{Error, Fault, Result};
use crate::s3::bucket::{Bucket, Later};
use crate::s3::headers::{ObjectHeaders, with_headers};
use crate::s3::interruption::Kind;
use crate::s3::{body, conflict};
use crate::units::MIB;

/// Least size of a part, but for the last one, in bytes.
pub const PART_BYTES_MIN: u64 = 5 * MIB;
/// Most parts of an object.
pub const PARTS_MAX: u64 = 10_000;

/// An upload that has begun.
pub struct Upload {
    bucket: Bucket,
    key: String,
    id: String,
    is_completed: bool,
}

/// A part that was uploaded.
pub struct UploadedPart(CompletedPart);

impl Upload {
    /// Begins to write an object.
    pub fn begin(bucket: &Bucket, key: &str, headers: &ObjectHeaders) -> Result<Self> {
        let request = with_headers!(bucket.client().create_multipart_upload(), headers)
            .bucket(bucket.name())
            .key(key)
            .checksum_algorithm(ChecksumAlgorithm::Crc32);
        let id = match bucket.ask(Kind::Write, || request.clone().send())? {
            Ok(answer) => answer.upload_id().map(str::to_owned),
            Err(error) => match id_in_odd_answer(&error) {
                None => return Err(bucket.failed("create", key, error)),
                id => id,
            },
        };
        let nameless = || bucket.fault(Fault::BadAnswer, "create", key, "the upload was given no id");
        let id = id.ok_or_else(nameless)?;
        Ok(Self { bucket: bucket.clone(), key: key.to_owned(), id, is_completed: false })
    }

    /// Begins to send a part; numbers count from 1.
    pub fn put_later(&self, number: u64, bytes: Bytes) -> Later<UploadedPart> {
        let (bucket, key) = (self.bucket.clone(), self.key.clone());
        let (checksum, number) = (body::checksum(&bytes), number as i32);
        let timeouts = bucket.patience().timeouts(bytes.len() as u64);
        let request = bucket
            .client()
            .upload_part()
            .bucket(bucket.name())
            .key(&key)
            .upload_id(&self.id)
            .part_number(number)
            .checksum_crc32(&checksum)
            .body(body::in_pieces(&bytes, &bucket.limits().upload))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts));
        self.bucket.later(async move {
            let _turn = bucket.limits().upload.turn().await;
            let answer = request.send().await.map_err(|error| bucket.failed("write a part of", &key, error))?;
            let part = CompletedPart::builder().part_number(number).checksum_crc32(checksum);
            Ok(UploadedPart(part.set_e_tag(answer.e_tag().map(str::to_owned)).build()))
        })
    }

    /// Makes the object visible. With `create_only`, fails with [`Fault::AlreadyExists`] if the key is taken, on
    /// servers that honour the condition.
    ///
    /// A request that is repeated underway ends in [`Fault::NotFound`], because the upload is over: who gets that fault
    /// looks at what is there.
    pub fn complete(mut self, parts: Vec<UploadedPart>, create_only: bool) -> Result<()> {
        let parts = parts.into_iter().map(|UploadedPart(part)| part).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self
            .bucket
            .client()
            .complete_multipart_upload()
            .bucket(self.bucket.name())
            .key(&self.key)
            .upload_id(&self.id)
            .multipart_upload(parts);
        self.bucket.write_once(create_only, |has_condition| {
            let request = request.clone().set_if_none_match(has_condition.then(|| "*".to_owned()));
            let complete = || conflict::outlast(self.bucket.patience(), || request.clone().send());
            let answer = self.bucket.ask(Kind::Write, complete)?;
            answer.map(drop).map_err(|error| self.bucket.failed("create", &self.key, error))
        })?;
        self.is_completed = true;
        Ok(())
    }

    fn abort(&self) -> Result<(), Error> {
        let request = self.bucket.client().abort_multipart_upload().bucket(self.bucket.name());
        let request = request.key(&self.key).upload_id(&self.id);
        let answer = self.bucket.ask(Kind::Write, || request.clone().send())?;
        answer.map(drop).map_err(|error| self.bucket.failed("give up", &self.key, error))
    }
}

/// Reads the id out of an answer that the SDK does not accept: `rclone serve s3` gives its root element another name.
fn id_in_odd_answer<E>(error: &SdkError<E>) -> Option<String> {
    let answer = error.raw_response().filter(|answer| answer.status().as_u16() == 200)?;
    let text = std::str::from_utf8(answer.body().bytes()?).ok()?;
    let (_, rest) = text.split_once("<UploadId>")?;
    rest.split_once("</UploadId>").map(|(id, _)| id.to_owned())
}

impl Drop for Upload {
    /// What cannot be aborted now is removed by the bucket's own rules for unfinished uploads, if it has any.
    fn drop(&mut self) {
        if !self.is_completed {
            let _ = self.abort();
        }
    }
}
