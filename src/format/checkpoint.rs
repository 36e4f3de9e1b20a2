//! A checkpoint of the log: what it held at one moment, as a signed note of C2SP (`tlog-checkpoint` in a `signed-note`).
//!
//! ```text
//! mlvault/log/<repository id>
//! <number of entries>
//! <root of the tree, base64>
//!
//! — mlvault/log/<repository id> <base64 of key hash (4), Ed25519 signature (64)>
//! ```
//!
//! What must stay true: its text begins as no signature domain does ([`crate::crypto::sign`]), so that none of the two passes
//! for the other. A checkpoint is kept by whoever wants to compare the log with it later, so what it is worth rests on where
//! it was kept; the signature tells third parties who made it.
//!
//! Also read is the short form that backups print: `<number of entries> <root, hexadecimal>`, which nobody signed.

use data_encoding::BASE64;

use crate::crypto::file_digests::sha256;
use crate::crypto::keys::Secret;
use crate::crypto::sign::{self, SIGNATURE_LEN};
use crate::format_error::FormatError;
use crate::id::{RepositoryId, SignerKey, TreeHash};

/// Longest checkpoint that is read, in bytes.
pub const CHECKPOINT_LEN_MAX: u64 = 64 << 10;
/// Most signatures that are looked at.
const SIGNATURES_MAX: usize = 64;
/// Signature type of C2SP's signed notes: plain Ed25519.
const ED25519: u8 = 1;
const KEY_HASH_LEN: usize = 4;
/// What a line of a signature begins with.
const DASH: &str = "\u{2014} ";

/// What the log held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// How many entries.
    pub size: u64,
    /// The root of their tree.
    pub root: TreeHash,
}

/// A checkpoint that was read, and what stands below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// The text that was signed; empty in the short form.
    text: String,
    signatures: Vec<([u8; KEY_HASH_LEN], [u8; SIGNATURE_LEN])>,
}

/// Returns the name of a repository's log.
pub fn origin(repository: RepositoryId) -> String {
    format!("mlvault/log/{repository}")
}

/// Returns what tells a key from others with its name.
fn key_hash(repository: RepositoryId, signer: &SignerKey) -> [u8; KEY_HASH_LEN] {
    let hash = sha256(&[origin(repository).as_bytes(), b"\n", &[ED25519], signer.as_bytes()].concat());
    std::array::from_fn(|at| hash.as_bytes()[at])
}

/// Returns a key in the form that tools for signed notes take.
pub fn verifier_key(repository: RepositoryId, signer: &SignerKey) -> String {
    let hash = data_encoding::HEXLOWER.encode(&key_hash(repository, signer));
    format!("{}+{hash}+{}", origin(repository), BASE64.encode(&[&[ED25519][..], signer.as_bytes()].concat()))
}

impl Checkpoint {
    /// Returns the short form.
    pub fn short(&self) -> String {
        format!("{} {}", self.size, self.root)
    }

    /// Returns the signed note.
    pub fn sign(&self, repository: RepositoryId, seed: &Secret) -> String {
        let name = origin(repository);
        let text = format!("{name}\n{}\n{}\n", self.size, BASE64.encode(self.root.as_bytes()));
        let hash = key_hash(repository, &sign::signer_key(seed));
        let signature = BASE64.encode(&[&hash[..], &sign::sign_text(seed, &text)].concat());
        format!("{text}\n{DASH}{name} {signature}\n")
    }
}

impl Note {
    /// Reads a checkpoint of a repository, in either form.
    pub fn parse(repository: RepositoryId, bytes: &[u8]) -> Result<Self, FormatError> {
        let text = std::str::from_utf8(bytes).map_err(|_| FormatError::new("it is not text"))?;
        match text.trim().lines().count() {
            0 | 1 => Self::parse_short(text.trim()),
            _ => Self::parse_signed(repository, text),
        }
    }

    fn parse_short(line: &str) -> Result<Self, FormatError> {
        // As a log of a backup has it.
        let line = line.rsplit_once("Checkpoint: ").map_or(line, |(_, rest)| rest);
        let (size, root) = line.split_once(' ').ok_or_else(no_checkpoint)?;
        let (size, root) = (number(size)?, root.parse().map_err(|_| no_checkpoint())?);
        Ok(Self { checkpoint: Checkpoint { size, root }, text: String::new(), signatures: Vec::new() })
    }

    fn parse_signed(repository: RepositoryId, text: &str) -> Result<Self, FormatError> {
        let (body, below) = text.split_once("\n\n").ok_or_else(|| FormatError::new("it has no signature"))?;
        let mut lines = body.lines();
        let (name, size, root) = (lines.next(), lines.next(), lines.next());
        let name = name.unwrap_or_default();
        if name != origin(repository) {
            return Err(FormatError::new(format!("it is one of {name:?}, and this is {:?}", origin(repository))));
        }
        let size = number(size.unwrap_or_default())?;
        let root = BASE64.decode(root.unwrap_or_default().as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let checkpoint = Checkpoint { size, root: TreeHash::from_bytes(root.ok_or_else(no_checkpoint)?) };
        let signatures = below.lines().take(SIGNATURES_MAX).filter_map(signature).collect();
        Ok(Self { checkpoint, text: format!("{body}\n"), signatures })
    }

    /// Returns whether anybody signed it.
    pub fn is_signed(&self) -> bool {
        !self.signatures.is_empty()
    }

    /// Returns whether this key signed it.
    pub fn is_signed_by(&self, repository: RepositoryId, signer: &SignerKey) -> bool {
        let hash = key_hash(repository, signer);
        let is_right = |(of, signature): &(_, _)| *of == hash && sign::verify_text(signer, &self.text, signature);
        self.signatures.iter().any(is_right)
    }
}

fn no_checkpoint() -> FormatError {
    FormatError::new("it is no checkpoint: it needs a number of entries and a root")
}

fn number(text: &str) -> Result<u64, FormatError> {
    let is_plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    text.parse().ok().filter(|_| is_plain).ok_or_else(no_checkpoint)
}

/// Reads a line below the text. Those of other types are for others.
fn signature(line: &str) -> Option<([u8; KEY_HASH_LEN], [u8; SIGNATURE_LEN])> {
    let (_, encoded) = line.strip_prefix(DASH)?.rsplit_once(' ')?;
    let bytes = BASE64.decode(encoded.as_bytes()).ok()?;
    let (hash, signature) = bytes.split_first_chunk()?;
    Some((*hash, signature.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);

    #[test]
    fn a_checkpoint_is_read_again_in_both_forms_and_tells_who_signed_it() {
        let checkpoint = Checkpoint { size: 13, root: TreeHash::from_bytes([7; 32]) };
        let (seed, other) = (Zeroizing::new([3; 32]), Zeroizing::new([4; 32]));
        let text = checkpoint.sign(REPOSITORY, &seed);
        let note = Note::parse(REPOSITORY, text.as_bytes()).unwrap();
        assert_eq!(note.checkpoint, checkpoint);
        assert!(note.is_signed_by(REPOSITORY, &sign::signer_key(&seed)));
        assert!(!note.is_signed_by(REPOSITORY, &sign::signer_key(&other)));
        let forged = Note::parse(REPOSITORY, text.replacen("13", "12", 1).as_bytes()).unwrap();
        assert!(forged.is_signed() && !forged.is_signed_by(REPOSITORY, &sign::signer_key(&seed)));
        for line in [checkpoint.short(), format!("Checkpoint: {}\n", checkpoint.short())] {
            let short = Note::parse(REPOSITORY, line.as_bytes()).unwrap();
            assert!(short.checkpoint == checkpoint && !short.is_signed());
        }
        assert!(Note::parse(RepositoryId::from_bytes([2; 16]), text.as_bytes()).is_err());
    }

    /// Computed with Python's `hashlib` and `cryptography`.
    #[test]
    fn a_note_is_the_one_that_other_implementations_make() {
        let checkpoint = Checkpoint { size: 1, root: crate::crypto::merkle::leaf(b"") };
        let seed = Zeroizing::new([3; 32]);
        assert_eq!(checkpoint.sign(REPOSITORY, &seed), NOTE);
        assert_eq!(verifier_key(REPOSITORY, &sign::signer_key(&seed)), VERIFIER);
    }

    const VERIFIER: &str =
        "mlvault/log/01010101010101010101010101010101+c40899ce+Ae1JKMYo0cLG6ukDOJBZlWEpWSc6XGP5NjbBRhSshzfR";
    const NOTE: &str = "\
mlvault/log/01010101010101010101010101010101
1
bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=

\u{2014} mlvault/log/01010101010101010101010101010101 xAiZztfuMChiY9GnVDufBP3V4EZc3+sN65FpMViBZgOn4S73+NEMdVvqjas5UJtkw6nyajuPpZDANeD7lZzEh2XkYQc=
";

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let name = origin(REPOSITORY);
        let root = BASE64.encode(&[7; 32]);
        let hash = TreeHash::from_bytes([7; 32]);
        let bad = ["", "x", "1", "1 x", "\u{0}", &format!("01 {hash}"), &format!("+1 {hash}"), &format!("-1 {hash}")];
        for text in bad.into_iter().map(str::to_owned).chain([
            format!("{name}\n1\n{root}\n"),
            format!("{name}\n1\n\n"),
            format!("other\n1\n{root}\n\n\u{2014} other AAAA\n"),
        ]) {
            assert!(Note::parse(REPOSITORY, text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Note::parse(REPOSITORY, &[0xFF]).is_err());
    }
}
