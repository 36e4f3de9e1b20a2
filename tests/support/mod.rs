//! What several test files share.

pub mod fault_server;
pub mod s3_server;
