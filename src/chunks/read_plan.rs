//! Which bytes of which packs are needed, and where they go: a pure function from chunks to spans.
//!
//! What must stay true: every wanted chunk is in exactly one span; a span lies in one pack, is at most
//! [`SPAN_BYTES_MAX`] long (but for a single larger chunk), and skips no gap above [`GAP_BYTES_MAX`].

use std::ops::Range;
use std::sync::Arc;

use crate::index::PackRecord;
use crate::repository::index_sync::Place;
use crate::units::{KIB, MIB};

/// Longest range that is read at once, in bytes.
pub const SPAN_BYTES_MAX: u64 = 8 * MIB;
/// Longest gap that is read along rather than skipped, in bytes: a request costs more than that.
pub const GAP_BYTES_MAX: u64 = 256 * KIB;

/// Where a chunk's content goes: which file of those that are read together, at which offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Number of the file.
    pub file: u32,
    /// Offset in the file in bytes.
    pub offset: u64,
}

/// A chunk that is needed, and where it goes.
#[derive(Debug, Clone)]
pub struct Want {
    /// Where it stands.
    pub place: Place,
    /// Where it goes.
    pub to: Destination,
}

/// A range of a pack that is read at once, with the chunks to take from it, by offset.
#[derive(Debug, Clone)]
pub struct Span {
    /// The pack.
    pub pack: Arc<PackRecord>,
    /// The range in bytes.
    pub range: Range<u64>,
    /// Chunks in it; the wants of one stand together, and it is opened once.
    pub wants: Vec<Want>,
}

/// Groups wanted chunks into spans.
pub fn spans(mut wants: Vec<Want>) -> Vec<Span> {
    // By name too: a segment that lies may say that another chunk begins at the same place.
    wants.sort_unstable_by_key(|want| (want.place.pack.id, want.place.offset, want.place.header.id));
    let mut spans: Vec<Span> = Vec::new();
    for want in wants {
        let start = want.place.offset;
        let end = start + u64::from(want.place.header.stored_len);
        match spans.last_mut() {
            Some(span)
                if span.pack.id == want.place.pack.id
                    && start <= span.range.end + GAP_BYTES_MAX
                    && end.max(span.range.end) - span.range.start <= SPAN_BYTES_MAX =>
            {
                span.range.end = span.range.end.max(end);
                span.wants.push(want);
            }
            _ => spans.push(Span { pack: Arc::clone(&want.place.pack), range: start..end, wants: vec![want] }),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Codec;
    use crate::format::BlobKind;
    use crate::format::chunk::ChunkHeader;
    use crate::format::session_header::SessionHeader;
    use crate::id::{ChunkId, DirectoryHash, PackId, SessionId, SlotId};
    use proptest::prelude::*;

    fn want(pack: u8, offset: u64, stored_len: u32, file: u32) -> Want {
        let session = SessionHeader {
            session: SessionId::from_bytes([0; 16]),
            slot: SlotId::from_bytes([0; 8]),
            meta_salt: [0; 32],
            enc: [0; 32],
            sealed_key: [0; 48],
            commitment: [0; 32],
        };
        let record = PackRecord {
            id: PackId::from_bytes([pack; 32]),
            kind: BlobKind::Data,
            len: 1 << 26,
            session,
            is_vouched: true,
            directory: DirectoryHash::from_bytes([0; 16]),
        };
        let header =
            ChunkHeader { id: ChunkId::from_bytes([1; 32]), plain_len: 1, stored_len, codec: Codec::Raw, filter: 0 };
        Want { place: Place { pack: Arc::new(record), offset, header }, to: Destination { file, offset: 0 } }
    }

    #[test]
    fn neighbours_share_a_span_and_large_gaps_split_it() {
        let far = GAP_BYTES_MAX + 1000;
        let made = spans(vec![want(1, far + 300, 100, 3), want(1, 0, 100, 0), want(1, 150, 100, 1), want(2, 0, 9, 2)]);
        let ranges: Vec<_> = made.iter().map(|span| (span.range.clone(), span.wants.len())).collect();
        assert_eq!(ranges, [(0..250, 2), (far + 300..far + 400, 1), (0..9, 1)]);
    }

    proptest! {
        #[test]
        fn every_chunk_is_in_one_span_within_the_limits(
            chunks in prop::collection::vec((0u8..3, 0u64..(1 << 25), 1u32..(1 << 20)), 0..200)
        ) {
            let wants: Vec<_> =
                chunks.iter().enumerate().map(|(file, (pack, at, len))| want(*pack, *at, *len, file as u32)).collect();
            let made = spans(wants);
            let mut files: Vec<u32> = made.iter().flat_map(|span| &span.wants).map(|want| want.to.file).collect();
            files.sort_unstable();
            prop_assert_eq!(files, (0..chunks.len() as u32).collect::<Vec<_>>());
            for span in &made {
                prop_assert!(span.range.end - span.range.start <= SPAN_BYTES_MAX);
                for want in &span.wants {
                    let end = want.place.offset + u64::from(want.place.header.stored_len);
                    prop_assert!(span.range.start <= want.place.offset && end <= span.range.end);
                }
            }
        }
    }
}
