//! Where a component is restored to.

pub mod directory;
