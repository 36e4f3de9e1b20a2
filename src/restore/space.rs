//! Finds out before a restore whether the target has room for what it will write.
//!
//! What must stay true: nothing is written where it has not. A size counts as the chunks of a file add up to it, which no
//! entry can hide; of a file with holes, the chunks count that are not all zeros, whatever its size says. Sums do not
//! overflow. What is there already, and is written over, counts as room.

use std::collections::BTreeMap;
use std::path::Path;

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::file_system::{self, Room};
use crate::format::tree::{Entry, FileContent};
use crate::hears::Hears;
use crate::id::ChunkId;
use crate::restore::{DirectoryRestore, Job, Part, RestoreOptions, look_at_target};
use crate::target::directory::{Existing, ExistingKind};
use crate::trees::reader::for_each_chunk_of;
use crate::units::format_bytes;

/// Fails if a file system has too little room for what will be written to it. A dry run only says so.
pub fn refuse_overfull(
    reader: &ChunkReader,
    parts: &[Part<'_>],
    options: &RestoreOptions,
    hears: &Hears,
) -> Result<()> {
    if options.ignore_free_space {
        return Ok(());
    }
    hears.monitor.phase("look at the target", None, None);
    let job = Job::new(reader, options, hears);
    let mut file_systems = BTreeMap::new();
    for part in parts {
        let fault = |source| Error::target("look at", part.root.clone(), source);
        let room = file_system::room_at(&part.root).map_err(fault)?;
        let bytes = job.restore_of(part, &look_at_target(&part.root)?).bytes_needed(&room)?;
        let (_, _, needed) = file_systems.entry(room.device).or_insert((room, &part.root, 0_u64));
        *needed = needed.saturating_add(bytes);
    }
    match file_systems.into_values().find(|(room, _, needed)| *needed > room.free_bytes) {
        None => Ok(()),
        Some((room, root, needed)) => {
            let reason = refusal(&room, root, needed);
            match options.dry_run {
                true => hears.monitor.note(&reason),
                false => return Err(Error::Refused(reason)),
            }
            Ok(())
        }
    }
}

fn refusal(room: &Room, root: &Path, needed: u64) -> String {
    format!(
        "The restore needs {} of disk space at {root:?}, and there are {}. If the file system compresses, it may fit all the \
         same: --ignore-free-space tries it",
        format_bytes(needed),
        format_bytes(room.free_bytes)
    )
}

impl DirectoryRestore<'_> {
    fn bytes_needed(&self, room: &Room) -> Result<u64> {
        let mut zeros = ZeroChunks::default();
        let mut needed: u64 = 0;
        for entry in self.restorable_entries()? {
            self.hears.check()?;
            let entry = entry?;
            let Some(file) = entry.file().filter(|file| !self.is_linked(file)) else { continue };
            let existing = self.target.look(&entry.path).ok().flatten();
            let is_done = |it: &Existing| self.is_left(&entry, it) || self.is_taken_for_same(&entry, file, it);
            if existing.as_ref().is_some_and(is_done) {
                continue;
            }
            // What cannot be read is not written either; the restore reports it.
            let bytes = self.stored_len(&entry, file, &mut zeros).unwrap_or(0);
            let bytes = bytes.div_ceil(room.block_bytes).saturating_mul(room.block_bytes);
            let reused = existing.filter(|it| it.kind == ExistingKind::File && it.links == 1);
            needed = needed.saturating_add(bytes.saturating_sub(reused.map_or(0, |it| it.stored_bytes)));
        }
        Ok(needed)
    }

    /// Returns whether a file becomes another name of one that is restored too.
    fn is_linked(&self, file: &FileContent) -> bool {
        file.hard_link.as_ref().is_some_and(|first| self.is_first_selected(first))
    }

    /// Returns how many bytes of a file are written.
    fn stored_len(&self, entry: &Entry, file: &FileContent, zeros: &mut ZeroChunks) -> Result<u64> {
        // The list of a large file is read here too: only then is its size known to be true.
        if !file.sparse && !file.indirect {
            return Ok(file.size);
        }
        let keys = self.reader.repository().keys();
        let mut bytes: u64 = 0;
        for_each_chunk_of(self.reader, &entry.path_text(), file, &mut |chunk| {
            let is_hole =
                file.sparse && zeros.id_of(chunk.len, |zeros| keys.chunk_id(file.kind as u8, zeros)) == Some(chunk.id);
            bytes = bytes.saturating_add(if is_hole { 0 } else { u64::from(chunk.len) });
            Ok(())
        })?;
        Ok(bytes)
    }
}

/// The ids of chunks that are all zeros, by their length.
#[derive(Default)]
struct ZeroChunks(BTreeMap<u32, ChunkId>);

impl ZeroChunks {
    /// Lengths that are tried. A hole is cut into chunks of one length, and what is left of it.
    const LENGTHS_MAX: usize = 1024;

    fn id_of(&mut self, len: u32, id: impl FnOnce(&[u8]) -> ChunkId) -> Option<ChunkId> {
        if !self.0.contains_key(&len) && self.0.len() < Self::LENGTHS_MAX {
            self.0.insert(len, id(&vec![0; len as usize]));
        }
        self.0.get(&len).copied()
    }
}
