//! Bodies: those of requests, handed over piece by piece, and those of answers, which must be whole.
//!
//! Why requests have bodies of their own: the SDK takes a body that is in memory as one piece, and its watch over
//! stalled uploads then sees nothing between the beginning and the answer; a server that stops reading would be waited
//! for as long as the whole body could take. It would also hash the body for the signature, on top of the checksum.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::{Bytes, BytesMut};
use data_encoding::BASE64;
use http_body::{Body, Frame, SizeHint};

use crate::s3::fault;

/// Size of a piece: small against what a slow link moves in the time that it may stand still.
const PIECE_BYTES: usize = 64 * 1024;

/// Returns a body that can be sent as often as needed, without copying the bytes.
pub fn in_pieces(bytes: &Bytes) -> ByteStream {
    let bytes = bytes.clone();
    ByteStream::new(SdkBody::retryable(move || SdkBody::from_body_1_x(BodyInPieces(bytes.clone()))))
}

/// Returns the CRC-32 of a body, as the header `x-amz-checksum-crc32` has it.
pub fn checksum(bytes: &[u8]) -> String {
    BASE64.encode(&crc32fast::hash(bytes).to_be_bytes())
}

/// Collects a body that must have exactly `len` bytes.
pub async fn collect(mut body: ByteStream, len: u64) -> Result<Bytes, String> {
    let mut bytes = BytesMut::with_capacity(len as usize);
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| fault::one_line(&error))?;
        if part.len() as u64 > len - bytes.len() as u64 {
            return Err(format!("the body is longer than the {len} bytes announced"));
        }
        bytes.extend_from_slice(&part);
    }
    if bytes.len() as u64 != len {
        return Err(format!("the body ended after {} of {len} bytes", bytes.len()));
    }
    Ok(bytes.freeze())
}

struct BodyInPieces(Bytes);

impl Body for BodyInPieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let len = self.0.len().min(PIECE_BYTES);
        let piece = self.0.split_to(len);
        Poll::Ready((len > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
