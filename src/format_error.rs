//! What a decoder says of bytes that are not what the format says.
//!
//! What must stay true: the phrase says what is wrong with the bytes, and not which object they are of: whoever knows
//! that puts it in front.

use std::borrow::Cow;

/// Bytes are not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(Cow<'static, str>);

impl FormatError {
    /// Makes an error from a phrase that fits behind "Damaged <object>: ".
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(reason.into())
    }
}
