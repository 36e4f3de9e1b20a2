//! How the memory limit is divided. Every buffer that matters is charged to one of these parts.

use crate::error::{Error, Result};
use crate::index::rocks;
use crate::units::{GIB, MIB, format_bytes};

/// Least memory limit that can be set: two packs in flight and a little for the rest.
pub const MEMORY_LIMIT_MIN: u64 = 256 * MIB;
/// Memory limit where neither the user nor a cgroup sets one.
pub const MEMORY_LIMIT_DEFAULT: u64 = GIB;
/// What the process needs beside the buffers counted here: code, stacks, allocator, tree nodes, problems.
const BASE_BYTES: u64 = 80 * MIB;
/// Most uploads that run at once.
const UPLOADS_MAX: u64 = 8;

/// Returns the limit with which each of some repositories is to be opened, one to be written and the others to be read, so
/// that all keep within `limit_bytes`: they share all but the index cache, since one uses no chunks to restore, and the others
/// no packs, one at a time.
pub fn limit_of_each(limit_bytes: u64, repositories: usize) -> Result<u64> {
    let more = (repositories as u64).saturating_sub(1) * rocks::MEMORY_BYTES;
    let limit = limit_bytes.saturating_sub(more);
    MemoryPlan::new(limit).map(|_| limit).map_err(|_| {
        Error::Invalid(format!(
            "{repositories} repositories at once need a memory limit of at least {}",
            format_bytes(MEMORY_LIMIT_MIN + more)
        ))
    })
}

/// The parts of a memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes of chunks on their way from the source to a pack, or from a pack to the target.
    pub chunk_bytes: u64,
    /// Bytes of small objects that are being opened, and again as many of records that are kept.
    pub object_bytes: u64,
    /// Packs that may be uploading at once.
    pub uploads: usize,
    /// Largest pack that fits the plan, in bytes.
    pub pack_bytes_max: u64,
}

impl MemoryPlan {
    /// Divides `limit_bytes`: the base and the index first; half of the rest for packs, an eighth for small objects that are
    /// being opened, an eighth for records that are kept, a quarter for chunks.
    pub fn new(limit_bytes: u64) -> Result<Self> {
        if limit_bytes < MEMORY_LIMIT_MIN {
            return Err(Error::Invalid(format!(
                "The memory limit {} is below the least possible {}",
                format_bytes(limit_bytes),
                format_bytes(MEMORY_LIMIT_MIN)
            )));
        }
        let rest = limit_bytes - BASE_BYTES - rocks::MEMORY_BYTES;
        let pack_memory = rest / 2;
        // Two data packs and one meta pack are being filled, one waits, `uploads` are under way.
        let pack_bytes_max = (pack_memory / 6).min(64 * MIB).next_power_of_two()
            / if (pack_memory / 6).is_power_of_two() { 1 } else { 2 };
        let uploads = (pack_memory / pack_bytes_max.max(1)).saturating_sub(4).clamp(1, UPLOADS_MAX);
        let object_bytes = rest / 8;
        let chunk_bytes = rest - pack_memory - 2 * object_bytes;
        Ok(Self { chunk_bytes, object_bytes, uploads: uploads as usize, pack_bytes_max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_never_exceed_the_limit() {
        for limit in [256 * MIB, 300 * MIB, 512 * MIB, GIB, 8 * GIB] {
            let plan = MemoryPlan::new(limit).unwrap();
            let packs = (plan.uploads as u64 + 4) * plan.pack_bytes_max;
            assert!(
                packs + plan.chunk_bytes + 2 * plan.object_bytes + BASE_BYTES + rocks::MEMORY_BYTES <= limit,
                "{limit}: {plan:?}"
            );
            assert!(plan.pack_bytes_max >= 8 * MIB);
        }
        assert!(MemoryPlan::new(10 * MIB).is_err());
        assert!(limit_of_each(MEMORY_LIMIT_MIN, 2).is_err() && limit_of_each(512 * MIB, 2).is_ok());
    }
}
