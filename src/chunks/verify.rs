//! The one look at a pack: is it what its name says, what the index says, and do its chunks open?
//!
//! What must stay true: nothing here believes the index or the pack alone; whoever cannot open content is told so and gets
//! no word on chunks that were not opened. A backend that cannot be reached is an error, damage is a finding.

use std::collections::HashSet;

use bytes::Bytes;

use crate::budget::{Budget, Permit};
use crate::chunks::pack_reader;
use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::BlobKind;
use crate::format::segment::IndexedPack;
use crate::id::ChunkId;
use crate::repository::index_sync::Place;
use crate::repository::layout::Object;
use crate::repository::objects;

/// What is in memory beside a pack's own bytes while it is looked at: one sealed chunk and two open ones.
const CHUNK_COPIES: u64 = 3;

/// What is wrong with a pack as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackFault {
    /// It has another length, in bytes, than the index says.
    Length {
        /// What it has.
        found: u64,
        /// What the index says.
        indexed: u64,
    },
    /// Its bytes are not those that its name promises.
    Name,
    /// What it says of itself is damaged, or not what the index says.
    Directory(String),
}

impl PackFault {
    /// Returns whether the bytes themselves are at fault, and not perhaps the index.
    pub fn is_of_bytes(&self) -> bool {
        !matches!(self, Self::Directory(_))
    }
}

impl std::fmt::Display for PackFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length { found, indexed } => write!(f, "it has {found} bytes, the index says {indexed}"),
            Self::Name => write!(f, "its bytes do not hash to its name"),
            Self::Directory(reason) => write!(f, "{reason}"),
        }
    }
}

/// What a look at a pack found.
#[derive(Debug, Default)]
pub struct PackFindings {
    /// What is wrong with it as a whole, the gravest first.
    pub fault: Option<PackFault>,
    /// Those of its chunks that do not open from it.
    pub unreadable: HashSet<ChunkId>,
    /// Why the first of them does not.
    pub first_reason: Option<String>,
    /// How many chunks the index says are in it.
    pub chunks: usize,
    /// Whether its chunks were opened at all: that needs a key that reads content, or a meta pack.
    pub opened: bool,
}

impl PackFindings {
    /// Returns whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.fault.is_none() && self.unreadable.is_empty()
    }

    /// Returns what is wrong, in words that fit behind the pack's key; nothing if all is well.
    pub fn reason(&self) -> Option<String> {
        let told = self
            .first_reason
            .as_ref()
            .map(|first| format!("{} of its {} chunks cannot be read ({first})", self.unreadable.len(), self.chunks));
        match (self.fault.as_ref(), told) {
            (Some(fault), Some(told)) => Some(format!("{fault}; {told}")),
            (fault, told) => fault.map(ToString::to_string).or(told),
        }
    }
}

/// Looks at packs, as many at once as memory allows. Calls may come from many threads.
pub struct PackVerifier<'a> {
    reader: &'a ChunkReader,
    budget: Budget,
}

impl<'a> PackVerifier<'a> {
    /// Makes a verifier that uses the memory plan's part for chunks.
    pub fn new(reader: &'a ChunkReader) -> Self {
        Self { reader, budget: Budget::new(reader.repository().memory_plan().chunk_bytes) }
    }

    /// Reads a pack of `size` bytes whole and looks at it. Returns how many bytes were read, and what was found.
    ///
    /// Fails with what reading fails with, damage included: what cannot be read was not looked at.
    pub fn read(&self, kind: BlobKind, pack: &IndexedPack, size: u64) -> Result<(u64, PackFindings)> {
        let _permit = self.room_for(size);
        let bytes = objects::read(self.reader.repository().backend(), Object::Pack(kind, pack.id), Some(size))?;
        Ok((bytes.len() as u64, self.examine(kind, pack, &bytes)?))
    }

    /// Waits until there is memory for a pack of `size` bytes and what opening it takes.
    pub fn room_for(&self, size: u64) -> Permit {
        self.budget.take(size.saturating_add(CHUNK_COPIES * self.reader.repository().config().chunk_len_max()))
    }

    /// Looks at a pack whose bytes are here.
    pub fn examine(&self, kind: BlobKind, pack: &IndexedPack, bytes: &Bytes) -> Result<PackFindings> {
        let repository = self.reader.repository();
        let mut findings = PackFindings {
            fault: self.fault(kind, pack, bytes)?,
            chunks: pack.chunks.len(),
            opened: kind == BlobKind::Meta || repository.access().data.is_some(),
            ..PackFindings::default()
        };
        if !findings.opened {
            return Ok(findings);
        }
        // Each chunk by itself, also in a pack with a fault: what still opens is not lost.
        for place in Place::all_in(kind, pack) {
            match self.reader.open_in(&place, bytes) {
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    findings.unreadable.insert(place.header.id);
                    findings.first_reason.get_or_insert_with(|| error.reason());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(findings)
    }

    fn fault(&self, kind: BlobKind, pack: &IndexedPack, bytes: &Bytes) -> Result<Option<PackFault>> {
        let (found, indexed) = (bytes.len() as u64, pack.len);
        match (pack_reader::is_named_after(&pack.id, bytes), found == indexed) {
            (true, true) => {}
            // The pack is what its name says, so it is the index that errs.
            (true, false) => {
                let reason = format!("it has {found} bytes, and the index says {indexed}");
                return Ok(Some(PackFault::Directory(reason)));
            }
            (false, true) => return Ok(Some(PackFault::Name)),
            (false, false) => return Ok(Some(PackFault::Length { found, indexed })),
        }
        directory_fault(pack, pack_reader::directory_of(self.reader.repository(), kind, &pack.id, bytes))
    }
}

/// Compares what a pack says of itself with what the index says of it.
pub fn directory_fault(pack: &IndexedPack, directory: Result<IndexedPack>) -> Result<Option<PackFault>> {
    let fault = |reason: &str| Ok(Some(PackFault::Directory(reason.to_owned())));
    match directory {
        Ok(found) if found.session != pack.session => fault("it is of another session than the index says"),
        Ok(found) if found.chunks != pack.chunks => fault("it lists other chunks than the index"),
        Ok(_) => Ok(None),
        Err(error) if error.is_damage() => fault(&error.reason()),
        Err(error) => Err(error),
    }
}
