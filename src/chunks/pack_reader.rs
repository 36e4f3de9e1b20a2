//! What a pack says of itself: its session and its chunks, read by a few small requests.
//!
//! What must stay true: the meta secret is enough, for packs of both kinds; what the directory says is authenticated
//! together with the header; ranges inside a pack are rounded, as in [`crate::chunks::reader`].

use std::ops::Range;

use bytes::Bytes;

use crate::chunks::reader::READ_ALIGN;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::pack::{self, FOOTER_LEN, Footer, HEADER_LEN, PACK_LEN_MAX, PackHeader};
use crate::format::segment::IndexedPack;
use crate::format_error::FormatError;
use crate::id::PackId;
use crate::repository::{Repository, layout};

/// Shortest pack: header, empty directory, footer.
const PACK_LEN_MIN: u64 = (HEADER_LEN + FOOTER_LEN) as u64;

/// Reads the directory of a stored pack of `len` bytes: one request for a small pack, two or three for others.
pub fn read_directory(repository: &Repository, kind: BlobKind, id: &PackId, len: u64) -> Result<IndexedPack> {
    let key = layout::pack(kind, id);
    let fetch = |range: Range<u64>| repository.backend().read_range(&key, range);
    directory(repository, kind, id, len, &fetch)
}

/// Reads the directory of a pack that is in memory. The bytes are not compared with the name.
pub fn directory_of(repository: &Repository, kind: BlobKind, id: &PackId, bytes: &Bytes) -> Result<IndexedPack> {
    let fetch = |range: Range<u64>| Ok(bytes.slice(range.start as usize..range.end as usize));
    directory(repository, kind, id, bytes.len() as u64, &fetch)
}

/// Returns whether a pack's bytes are those that its name tells. Needs no key.
pub fn is_named_after(id: &PackId, bytes: &[u8]) -> bool {
    blake3::hash(bytes).as_bytes() == id.as_bytes()
}

fn directory(
    repository: &Repository,
    kind: BlobKind,
    id: &PackId,
    len: u64,
    fetch: &dyn Fn(Range<u64>) -> Result<Bytes>,
) -> Result<IndexedPack> {
    let damaged = |error: FormatError| Error::damaged(layout::pack(kind, id), error);
    if !(PACK_LEN_MIN..=PACK_LEN_MAX).contains(&len) {
        return Err(damaged(FormatError::new(format!("a pack cannot have {len} bytes"))));
    }
    let tail_start = (len - FOOTER_LEN as u64) / READ_ALIGN * READ_ALIGN;
    let tail = fetch(tail_start..len)?;
    let header = if tail_start == 0 { tail.clone() } else { fetch(0..HEADER_LEN as u64)? };
    let header = read_header(repository, kind, &header).map_err(damaged)?;
    let key = header.session.meta_key(repository.keys());
    let footer = pack::open_footer(&header, &key, len, &tail[tail.len() - FOOTER_LEN..]).map_err(damaged)?;
    let sealed = sealed_directory(&footer, len, tail_start, &tail, fetch)?;
    let chunks = pack::open_directory(&header, &key, &footer, &sealed).map_err(damaged)?;
    // It says of itself whose it is, which anyone can say who holds the meta secret.
    Ok(IndexedPack { id: *id, session: header.session, len, is_vouched: false, chunks })
}

fn read_header(repository: &Repository, kind: BlobKind, bytes: &[u8]) -> Result<PackHeader, FormatError> {
    let header = PackHeader::decode(bytes.get(..HEADER_LEN).unwrap_or(bytes))?;
    if header.repository != repository.id() {
        return Err(FormatError::new("it belongs to another repository"));
    }
    if header.kind != kind {
        return Err(FormatError::new("it is a pack of the other kind"));
    }
    Ok(header)
}

/// Takes the directory out of the tail, or fetches it where it begins before that. The footer is known to fit `len`.
fn sealed_directory(
    footer: &Footer,
    len: u64,
    tail_start: u64,
    tail: &Bytes,
    fetch: &dyn Fn(Range<u64>) -> Result<Bytes>,
) -> Result<Bytes> {
    let Footer { directory_offset: start, directory_len, .. } = *footer;
    let (block_start, block) = if start >= tail_start {
        (tail_start, tail.clone())
    } else {
        let block_start = start / READ_ALIGN * READ_ALIGN;
        (block_start, fetch(block_start..(start + directory_len).next_multiple_of(READ_ALIGN).min(len))?)
    };
    let at = (start - block_start) as usize;
    Ok(block.slice(at..at + directory_len as usize))
}
