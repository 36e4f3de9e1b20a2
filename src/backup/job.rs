//! What every stage of a backup needs.

use std::sync::Arc;

use crate::backup::problems::Problems;
use crate::chunks::writer::ChunkWriter;
use crate::format::BlobKind;
use crate::hears::Hears;
use crate::repository::Repository;

/// A backup under way.
pub struct Job<'a> {
    /// Where to.
    pub repository: &'a Arc<Repository>,
    /// Stores chunks.
    pub chunks: &'a ChunkWriter,
    /// Collects what goes wrong with single files.
    pub problems: &'a Problems,
    /// Who follows the backup.
    pub hears: &'a Hears,
    /// Kind of the chunks that files are stored as.
    pub kind: BlobKind,
}
