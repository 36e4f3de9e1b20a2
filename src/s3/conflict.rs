//! Writes that a server refuses because another one for the same key is in progress (HTTP 409).
//!
//! What must stay true: such a refusal says nothing of what is at the key, so it is no answer: the write is sent again, with
//! waits between and within a bound, until the server says who was first.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::s3::fault;
use crate::s3::patience::{Attempts, CONFLICT_ATTEMPTS_MAX, Patience};

/// Sends a write until its answer is another one than a conflict, or no attempt is left.
pub async fn outlast<T, E, Sent>(patience: &Patience, mut send: impl FnMut() -> Sent) -> Result<T, SdkError<E>>
where
    E: ProvideErrorMetadata,
    Sent: Future<Output = Result<T, SdkError<E>>>,
{
    let mut attempts = Attempts::new(CONFLICT_ATTEMPTS_MAX, patience);
    loop {
        match send().await {
            Err(error) if fault::is_conflict(&error) && attempts.another().await => {}
            answer => return answer,
        }
    }
}
