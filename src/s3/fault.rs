//! What the answers of S3 servers mean, and how they are told to people.
//!
//! What must stay true: a description is one line of bounded length, and repeats nothing of the request but what the
//! server chose to repeat in its message.

use std::error::Error;
use std::{io, iter};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;

use crate::error::Fault;

/// Length of a description, in characters, from which it is cut.
const DESCRIPTION_CHARS_MAX: usize = 400;

/// What the SDK's wrappers call themselves, which helps no one.
const GENERIC: [&str; 5] = ["dispatch failure", "request has timed out", "io error", "other", "unhandled error"];

/// Causes of causes that are looked at.
const CAUSES_MAX: usize = 16;

/// Returns what a failed request means to the caller.
pub fn of<E: ProvideErrorMetadata + Error + 'static>(error: &SdkError<E>) -> Fault {
    match error {
        SdkError::ServiceError(answer) => of_answer(answer.raw().status().as_u16(), answer.err().code()),
        SdkError::ResponseError(answer) if answer.raw().status().is_server_error() => Fault::Unavailable,
        SdkError::ResponseError(_) => Fault::BadAnswer,
        _ if lacks_credentials(error) => Fault::Denied,
        _ if is_untrusted(error) => Fault::Other,
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => Fault::Unavailable,
        _ => Fault::Other,
    }
}

/// Returns whether a write was refused because another one for the same key was in progress.
pub fn is_conflict<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.raw_response().is_some_and(|answer| answer.status().as_u16() == 409)
        && matches!(error.code(), Some("ConditionalRequestConflict" | "OperationAborted"))
}

/// Returns whether a connection failed because the server's certificate is not trusted, which no retry mends.
pub fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<rustls::Error>())
        .any(|cause| matches!(cause, rustls::Error::InvalidCertificate(_)))
}

/// Describes a failed request in one line: the server's own words, or the chain of causes.
pub fn describe<E: ProvideErrorMetadata + Error + 'static>(error: &SdkError<E>) -> String {
    let answer = match error {
        SdkError::ServiceError(answer) => answer,
        _ if lacks_credentials(error) => return clean(&format!("No usable AWS credentials: {}", one_line(error))),
        _ => return one_line(error),
    };
    let mut text = answer.err().code().unwrap_or("the server refused").to_owned();
    if let Some(message) = answer.err().message() {
        text = format!("{text}: {message}");
    }
    let id = answer.err().meta().request_id().map(|id| format!(", request {id}")).unwrap_or_default();
    format!("{} (HTTP {}{})", clean(&text), answer.raw().status().as_u16(), clean(&id))
}

/// Joins an error and its causes into one line.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let part = cause.to_string();
        // Many wrappers repeat the text of what they wrap, or tell only its kind.
        if !GENERIC.contains(&part.as_str()) && !parts.iter().any(|told| told.contains(&part)) {
            parts.push(part);
        }
    }
    clean(&parts.join(": "))
}

fn of_answer(status: u16, code: Option<&str>) -> Fault {
    match (code.unwrap_or(""), status) {
        ("QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded", _)
        | (_, 507) => Fault::Full,
        ("RequestTimeout" | "SlowDown" | "ConditionalRequestConflict" | "OperationAborted", _) | (_, 408 | 429) => {
            Fault::Unavailable
        }
        ("NoSuchKey" | "NoSuchBucket", _) | (_, 404) => Fault::NotFound,
        ("PreconditionFailed", _) | (_, 412) => Fault::AlreadyExists,
        ("InvalidRange", _) | (_, 416) => Fault::BadAnswer,
        ("ExpiredToken" | "InvalidToken" | "AuthorizationHeaderMalformed" | "RequestTimeTooSkewed", _)
        | (_, 401 | 403) => Fault::Denied,
        // Trying again would not help.
        ("NotImplemented", _) | (_, 501) => Fault::Unsupported,
        (_, 500..) => Fault::Unavailable,
        (_, 200..300) => Fault::BadAnswer,
        _ => Fault::Other,
    }
}

fn lacks_credentials(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<CredentialsError>())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| {
        // An I/O error made of another error names that one's cause as its own, and skips it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
    .take(CAUSES_MAX)
}

/// Makes a foreign text fit into a message: no control characters, bounded.
fn clean(text: &str) -> String {
    let text = text.split(|character: char| character.is_control()).map(str::trim).filter(|line| !line.is_empty());
    let text = text.collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(DESCRIPTION_CHARS_MAX) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_code_first_and_status_second() {
        let cases = [
            (404, Some("NoSuchKey"), Fault::NotFound),
            (404, None, Fault::NotFound),
            (412, Some("PreconditionFailed"), Fault::AlreadyExists),
            (403, Some("AccessDenied"), Fault::Denied),
            (400, Some("ExpiredToken"), Fault::Denied),
            (403, Some("QuotaExceeded"), Fault::Full),
            (507, Some("XMinioStorageFull"), Fault::Full),
            (503, Some("SlowDown"), Fault::Unavailable),
            (400, Some("RequestTimeout"), Fault::Unavailable),
            (409, Some("ConditionalRequestConflict"), Fault::Unavailable),
            (416, Some("InvalidRange"), Fault::BadAnswer),
            (501, Some("NotImplemented"), Fault::Unsupported),
            (400, Some("InvalidArgument"), Fault::Other),
        ];
        for (status, code, fault) in cases {
            assert_eq!(of_answer(status, code), fault, "{status} {code:?}");
        }
    }

    #[test]
    fn a_foreign_text_is_made_one_bounded_line() {
        assert_eq!(clean("one\r\n  two\u{1b}[31m\n"), "one two [31m");
        assert_eq!(clean(&"é".repeat(1000)).chars().count(), DESCRIPTION_CHARS_MAX + 1);
    }
}
