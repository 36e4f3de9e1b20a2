//! Procedures: what people do in several steps, with the decisions that stand between the steps.
//!
//! What must stay true:
//! - A procedure makes its plan first, and writes nothing before somebody agreed to exactly this plan ([`Consent`]).
//! - It neither prints nor asks. Who runs it says how; so a program, a schedule and a test can run the same procedure.

pub mod accept;
pub mod consent;
pub mod copied_backup;
pub mod copy_snapshots;
pub mod drill;
pub mod forget_and_prune;
pub mod quiesce;
pub mod repair_objects;
pub mod repair_packs;
pub mod repair_snapshots;
pub mod restore_deployment;
pub mod restore_files;
pub mod rewrite_snapshots;
pub mod served;
pub mod switch_claim;

pub use consent::{Confirm, Consent};
