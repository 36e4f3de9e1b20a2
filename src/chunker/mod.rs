//! Content-defined chunking: FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking", IEEE TPDS 2020),
//! with a secret gear table.
//!
//! What must stay true: the same content, class, sizes and table give the same cuts for ever (golden vectors below):
//! a change of cuts breaks deduplication against every older snapshot. The crate is pinned exactly for that reason.
//! The table is drawn from the meta secret, not from a 64-bit seed: four known cut points are enough to find a seed.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use crate::format::config::{ChunkProfiles, ChunkSizes};

/// Classes of content with chunk sizes of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentClass {
    /// Dumps, tables, JSON, source code.
    Text,
    /// Everything else.
    Binary,
}

/// How many leading bytes decide on the class.
pub const CLASS_SAMPLE_LEN: usize = 4096;

impl ContentClass {
    /// Tells the class from the first bytes of a stream.
    ///
    /// Text is what has no control characters but those of text files. Only deduplication depends on the answer.
    pub fn of(first_bytes: &[u8]) -> Self {
        let sample = &first_bytes[..first_bytes.len().min(CLASS_SAMPLE_LEN)];
        let is_control = |byte: &u8| *byte < 0x20 && !matches!(*byte, b'\t' | b'\n' | 0x0C | b'\r' | 0x1B);
        if sample.iter().any(is_control) { Self::Binary } else { Self::Text }
    }
}

/// Cuts streams into chunks. Cheap to share between threads.
pub struct Chunker {
    gear: [u64; 256],
    gear_shifted: [u64; 256],
    profiles: ChunkProfiles,
}

impl Chunker {
    /// Reads the gear table from 2,048 secret bytes.
    pub fn new(gear_seed: &[u8; 2048], profiles: ChunkProfiles) -> Self {
        let mut gear = [0; 256];
        for (entry, bytes) in gear.iter_mut().zip(gear_seed.chunks_exact(8)) {
            *entry = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
        }
        Self { gear, gear_shifted: gear.map(|entry| entry << 1), profiles }
    }

    /// Returns the chunk sizes of a class.
    pub fn sizes(&self, class: ContentClass) -> ChunkSizes {
        match class {
            ContentClass::Text => self.profiles.text,
            ContentClass::Binary => self.profiles.binary,
        }
    }

    /// Returns the length of the chunk at the front of `window`.
    ///
    /// The window must hold at least the maximal chunk size, or all that is left of the stream.
    pub fn cut(&self, class: ContentClass, window: &[u8]) -> usize {
        let sizes = self.sizes(class);
        let (mask_small, mask_large) = select_masks(sizes.average as usize, Normalization::Level1);
        let (_, len) = cut_gear(
            window,
            sizes.min as usize,
            sizes.average as usize,
            sizes.max as usize,
            mask_small,
            mask_large,
            mask_small << 1,
            mask_large << 1,
            &self.gear,
            &self.gear_shifted,
        );
        len
    }
}

impl Drop for Chunker {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.gear);
        zeroize::Zeroize::zeroize(&mut self.gear_shifted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that any language can reproduce: BLAKE3's extendable output of the empty input.
    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn chunker(seed: u8) -> Chunker {
        let keys = crate::crypto::keys::MetaKeys::new(zeroize::Zeroizing::new([seed; 32]));
        Chunker::new(&keys.gear_seed(), ChunkProfiles::default())
    }

    fn cuts(chunker: &Chunker, class: ContentClass, mut bytes: &[u8]) -> Vec<usize> {
        let mut lens = Vec::new();
        while !bytes.is_empty() {
            let len = chunker.cut(class, bytes);
            lens.push(len);
            bytes = &bytes[len..];
        }
        lens
    }

    /// Computed independently, with a plain transcription of the algorithm into Python.
    #[test]
    fn cuts_agree_with_the_golden_vectors() {
        let noise = noise(4 << 20);
        assert_eq!(
            cuts(&chunker(0x42), ContentClass::Binary, &noise)[..6],
            [114314, 515333, 389983, 289640, 295599, 385469]
        );
        assert_eq!(cuts(&chunker(0x42), ContentClass::Text, &noise)[..6], [89831, 24483, 100647, 70609, 39944, 189933]);
    }

    #[test]
    fn lengths_stay_within_the_sizes_and_the_average_is_near() {
        let (chunker, noise) = (chunker(1), noise(16 << 20));
        let sizes = chunker.sizes(ContentClass::Binary);
        let lens = cuts(&chunker, ContentClass::Binary, &noise);
        assert_eq!(lens.iter().sum::<usize>(), noise.len());
        assert!(lens[..lens.len() - 1].iter().all(|len| (sizes.min as usize..=sizes.max as usize).contains(len)));
        let average = noise.len() / lens.len();
        assert!((sizes.average as usize / 2..sizes.average as usize * 2).contains(&average), "{average}");
    }

    #[test]
    fn another_secret_cuts_elsewhere() {
        let noise = noise(4 << 20);
        assert_ne!(cuts(&chunker(1), ContentClass::Binary, &noise), cuts(&chunker(2), ContentClass::Binary, &noise));
    }

    #[test]
    fn an_insertion_moves_only_the_cuts_around_it() {
        let (chunker, noise) = (chunker(1), noise(16 << 20));
        let mut longer = noise.clone();
        longer.splice(5_000_000..5_000_000, *b"inserted");
        let before = cuts(&chunker, ContentClass::Binary, &noise);
        let after = cuts(&chunker, ContentClass::Binary, &longer);
        let same_end = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        let same_start = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
        assert!(same_start + same_end + 4 >= before.len());
    }

    #[test]
    fn text_and_binary_are_told_apart_by_control_characters() {
        assert_eq!(ContentClass::of("COPY public.metrics — größer\n\t1".as_bytes()), ContentClass::Text);
        assert_eq!(ContentClass::of(b"\x89PNG\r\n\x1a\n\0"), ContentClass::Binary);
        assert_eq!(ContentClass::of(b""), ContentClass::Text);
    }
}
