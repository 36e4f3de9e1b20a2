//! Bodies: those of requests, handed over piece by piece, and those of answers, which must be whole.
//!
//! Why requests have bodies of their own: the SDK takes a body that is in memory as one piece, and its watch over
//! stalled uploads then sees nothing between the beginning and the answer; a server that stops reading would be waited
//! for as long as the whole body could take. It would also hash the body for the signature, on top of the checksum.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::{Bytes, BytesMut};
use data_encoding::BASE64;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::s3::fault;
use crate::s3::pace::Lane;

/// Size of a piece: small against what a slow link moves in the time that it may stand still.
const PIECE_BYTES: usize = 64 * 1024;

/// Returns a body that can be sent as often as needed, without copying the bytes.
pub fn in_pieces(bytes: &Bytes, lane: &Lane) -> ByteStream {
    let (bytes, lane) = (bytes.clone(), lane.clone());
    let body = move || BodyInPieces { bytes: bytes.clone(), lane: lane.clone(), waiting: None };
    ByteStream::new(SdkBody::retryable(move || SdkBody::from_body_1_x(body())))
}

/// Returns the CRC-32 of a body, as the header `x-amz-checksum-crc32` has it.
pub fn checksum(bytes: &[u8]) -> String {
    BASE64.encode(&crc32fast::hash(bytes).to_be_bytes())
}

/// Collects a body that must have exactly `len` bytes.
pub async fn collect(mut body: ByteStream, len: u64, lane: &Lane) -> Result<Bytes, String> {
    let mut bytes = BytesMut::with_capacity(len as usize);
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| fault::one_line(&error))?;
        if part.len() as u64 > len - bytes.len() as u64 {
            return Err(format!("the body is longer than the {len} bytes announced"));
        }
        bytes.extend_from_slice(&part);
        lane.pass(part.len()).await;
    }
    if bytes.len() as u64 != len {
        return Err(format!("the body ended after {} of {len} bytes", bytes.len()));
    }
    Ok(bytes.freeze())
}

struct BodyInPieces {
    bytes: Bytes,
    lane: Lane,
    /// Until when the next piece has to wait.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Body for BodyInPieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let len = self.bytes.len().min(PIECE_BYTES);
        if self.waiting.is_none() && len > 0 {
            self.waiting = self.lane.reserve(len, Instant::now()).map(|wait| Box::pin(sleep(wait)));
        }
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(context));
            self.waiting = None;
        }
        let piece = self.bytes.split_to(len);
        Poll::Ready((len > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
