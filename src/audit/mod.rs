//! Answers for auditors: what was when, and what proves it.
//!
//! What must stay true: what is said comes from signed records and from content that was compared with them, and what is not
//! known is said as well.

pub mod evidence;
pub mod history;
