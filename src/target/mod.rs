//! Where a component is restored to.

pub mod bucket;
pub mod directory;
pub mod xattrs;
