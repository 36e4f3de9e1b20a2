//! The files that evidence is about, each with a proof that the snapshot's record covers it.
//!
//! What must stay true: the leaves are computed from the tree that the record names, and come to the root that it commits to, or
//! nothing is proved; with a key that reads content, each file is read to its end and has the digest that the tree says.

use crate::chunks::reader::ChunkReader;
use crate::crypto::{file_digests, merkle};
use crate::error::{Error, Result};
use crate::format::commitment::{self, Commitment};
use crate::format::snapshot::Component;
use crate::format::statement::FileProof;
use crate::format::tree::Entry;
use crate::hears::Hears;
use crate::id::{CommitmentNonce, Digest, Sha256Digest, TreeHash};
use crate::monitor::Counter;
use crate::repository::snapshots::Snapshot;
use crate::trees::contents::{is_selected, select};
use crate::trees::file_reader::FileReader;
use crate::trees::reader::TreeReader;
use crate::units::MIB;

/// Entries of a component whose leaves are in memory at once, 32 bytes each.
const LEAVES_MAX: usize = (256 * MIB / 32) as usize;
/// Files that one bundle is about.
const FILES_MAX: usize = 4096;

/// A file with its proof.
pub(super) struct ProvedFile {
    pub proof: FileProof,
    pub blake3: Digest,
    /// From a key that reads content.
    pub sha256: Option<Sha256Digest>,
}

/// What was found.
pub(super) struct Found {
    pub component: String,
    pub files: Vec<ProvedFile>,
}

/// An entry, and which leaf it is.
type Numbered = (u64, Entry);

/// Finds the files at a path, as users know it, and below it.
pub(super) fn find_files(reader: &ChunkReader, snapshot: &Snapshot, path: &str, hears: &Hears) -> Result<Found> {
    let selected = select(snapshot, path.as_bytes());
    let [selection] = &selected[..] else {
        return Err(Error::Refused(format!("{path:?} is in several parts of the snapshot, or in none")));
    };
    let component = selection.component;
    let commitment = component.commitment.ok_or_else(|| {
        Error::Refused(format!(
            "The record of the snapshot {} does not commit to single files: a version of mlvault made it that did not do so",
            snapshot.id.short()
        ))
    })?;
    let (leaves, entries) = leaves(reader, component, &commitment, &selection.path, hears)?;
    let proofs = proofs(&leaves, &entries, component, &commitment)?;
    hears.monitor.phase("prove", Some(entries.len() as u64), None);
    let proving = Proving { reader, nonce: commitment.nonce, path: &selection.path, hears };
    let files = entries.iter().zip(proofs).map(|((index, entry), proof)| proving.file((*index, proof), entry));
    let files = files.collect::<Result<Vec<_>>>()?;
    Ok(Found { component: component.name.clone(), files })
}

/// Returns the leaves of a component, and the files that are asked for with their places among them.
fn leaves(
    reader: &ChunkReader,
    component: &Component,
    commitment: &Commitment,
    path: &[u8],
    hears: &Hears,
) -> Result<(Vec<TreeHash>, Vec<Numbered>)> {
    hears.monitor.phase("leaves", Some(component.entries), None);
    let keys = reader.repository().keys();
    let (mut leaves, mut files) = (Vec::new(), Vec::new());
    for entry in TreeReader::open(reader, &component.name, &component.root)? {
        hears.check()?;
        let (entry, index) = (entry?, leaves.len() as u64);
        leaves.push(commitment::leaf(&keys.leaf_salt(&commitment.nonce, index), &commitment::content(&entry)));
        hears.monitor.count(Counter::Entries, 1);
        if entry.file().is_some() && is_selected(&entry.path, path) {
            files.push((index, entry));
        }
        if leaves.len() > LEAVES_MAX || files.len() > FILES_MAX {
            return Err(Error::Refused(format!("{} has more files than one bundle can be about", component.name)));
        }
    }
    Ok((leaves, files))
}

/// Returns a proof for each file, if the leaves are those that the record commits to.
fn proofs(
    leaves: &[TreeHash],
    files: &[Numbered],
    component: &Component,
    commitment: &Commitment,
) -> Result<Vec<Vec<TreeHash>>> {
    let indices: Vec<usize> = files.iter().map(|(index, _)| *index as usize).collect();
    match merkle::inclusions(leaves, &indices) {
        Some((root, proofs)) if root == commitment.root => Ok(proofs),
        _ => {
            let reason = "its entries are not those that the snapshot's record commits to";
            Err(Error::damaged(format!("tree of {}", component.name), reason))
        }
    }
}

/// What proofs are made with.
struct Proving<'a> {
    reader: &'a ChunkReader,
    nonce: CommitmentNonce,
    /// The path in the component that was asked for.
    path: &'a [u8],
    hears: &'a Hears,
}

impl Proving<'_> {
    fn file(&self, (index, proof): (u64, Vec<TreeHash>), entry: &Entry) -> Result<ProvedFile> {
        let repository = self.reader.repository();
        self.hears.monitor.count(Counter::Entries, 1);
        let content = entry.file().ok_or_else(|| Error::Internal("a proof of what is no file".to_owned()))?;
        let reads = repository.access().data_secret().is_ok();
        let sha256 = if reads { Some(read(self.reader, entry, self.hears)?) } else { None };
        let proof = FileProof {
            name: text(self.name_of(entry))?,
            path: text(&entry.path)?,
            bytes: entry.size(),
            index,
            salt: repository.keys().leaf_salt(&self.nonce, index),
            proof,
        };
        Ok(ProvedFile { proof, blake3: content.digest, sha256 })
    }

    /// Returns the path below the one that was asked for; of a file that was asked for itself, its name.
    fn name_of<'e>(&self, entry: &'e Entry) -> &'e [u8] {
        match entry.path.get(self.path.len() + 1..) {
            Some(name) if !name.is_empty() => name,
            _ => entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default(),
        }
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    let text = String::from_utf8(bytes.to_vec());
    text.map_err(|_| Error::Refused(format!("The name of {:?} is no text", String::from_utf8_lossy(bytes))))
}

/// Reads a file to its end, where it has the digest that its entry says.
fn read(reader: &ChunkReader, entry: &Entry, hears: &Hears) -> Result<Sha256Digest> {
    let digests = file_digests::of(FileReader::open(reader, entry, hears)?);
    let (sha256, _) = digests.map_err(|error| Error::damaged(format!("the file {:?}", entry.path_text()), error))?;
    Ok(sha256)
}
