//! A file with evidence for people without a key: some named parts in a ZIP archive, so that anybody can open it.
//!
//! What must stay true: what is read is exactly what is written here: nothing is compressed, names are plain and each is there
//! once, and nothing stands before, between or behind the parts. So no archive unfolds to more than it is, leaves its
//! directory, or shows one thing to one reader and another to the next.

use std::collections::BTreeMap;

use crate::format::Cursor;
use crate::format_error::FormatError;

/// Longest bundle that is read, in bytes.
pub const BUNDLE_LEN_MAX: u64 = 256 << 20;
/// Most parts.
const PARTS_MAX: usize = 32;
/// Longest name of a part.
const NAME_LEN_MAX: usize = 64;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
/// The version of ZIP that a reader must know; no flags; stored as it is; midnight; the first of January 1980.
const HOW: [u16; 5] = [20, 0, 0, 0, 0x21];

/// The parts by name.
pub type Parts = BTreeMap<String, Vec<u8>>;

/// Puts parts together. Fails if there are too many, or one has a name that a reader refuses.
pub fn encode(parts: &Parts) -> Result<Vec<u8>, FormatError> {
    if parts.len() > PARTS_MAX || !parts.keys().all(|name| is_plain(name)) {
        return Err(FormatError::new("it has too many parts, or one with another name than a plain one"));
    }
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in parts {
        let at = u32::try_from(bytes.len()).map_err(|_| FormatError::new("it is too long"))?;
        put(&mut bytes, &LOCAL.to_le_bytes());
        put_entry(&mut bytes, name, content)?;
        put(&mut bytes, name.as_bytes());
        put(&mut bytes, content);
        put(&mut directory, &CENTRAL.to_le_bytes());
        put(&mut directory, &HOW[0].to_le_bytes());
        put_entry(&mut directory, name, content)?;
        // No comment, the only disk, no attributes.
        put(&mut directory, &[0; 10]);
        put(&mut directory, &at.to_le_bytes());
        put(&mut directory, name.as_bytes());
    }
    let at = u32::try_from(bytes.len()).map_err(|_| FormatError::new("it is too long"))?;
    let count = (parts.len() as u16).to_le_bytes();
    put(&mut bytes, &directory);
    put(&mut bytes, &END.to_le_bytes());
    put(&mut bytes, &[0; 4]);
    put(&mut bytes, &count);
    put(&mut bytes, &count);
    put(&mut bytes, &(directory.len() as u32).to_le_bytes());
    put(&mut bytes, &at.to_le_bytes());
    put(&mut bytes, &[0; 2]);
    Ok(bytes)
}

fn put(bytes: &mut Vec<u8>, more: &[u8]) {
    bytes.extend_from_slice(more);
}

/// What stands of a part both before it and in the directory.
fn put_entry(bytes: &mut Vec<u8>, name: &str, content: &[u8]) -> Result<(), FormatError> {
    let len = u32::try_from(content.len()).map_err(|_| FormatError::new(format!("{name} is too long")))?;
    HOW.iter().for_each(|field| put(bytes, &field.to_le_bytes()));
    put(bytes, &crc32fast::hash(content).to_le_bytes());
    put(bytes, &len.to_le_bytes());
    put(bytes, &len.to_le_bytes());
    put(bytes, &(name.len() as u16).to_le_bytes());
    put(bytes, &[0; 2]);
    Ok(())
}

fn is_plain(name: &str) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(byte);
    !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.starts_with('.') && name.as_bytes().iter().all(is_plain)
}

/// Takes a bundle apart.
pub fn decode(bytes: &[u8]) -> Result<Parts, FormatError> {
    let mut cursor = Cursor::new(bytes);
    let mut parts = Parts::new();
    while cursor.u32()? == LOCAL {
        // Version, flags, method, time, day; the two sums and lengths are compared with what they speak of below.
        cursor.bytes(2 * HOW.len() + 4 + 4)?;
        let (content_len, name_len) = (cursor.u32()? as usize, usize::from(cursor.u16()?));
        cursor.bytes(2)?;
        let name = std::str::from_utf8(cursor.bytes(name_len)?).unwrap_or_default();
        if !is_plain(name) {
            return Err(FormatError::new("a part has no plain name"));
        }
        let content = cursor.bytes(content_len).map_err(|_| FormatError::new(format!("{name} is cut off")))?;
        if parts.len() == PARTS_MAX {
            return Err(FormatError::new("it has too many parts"));
        }
        if parts.insert(name.to_owned(), content.to_vec()).is_some() {
            return Err(FormatError::new(format!("{name} is there twice")));
        }
    }
    match encode(&parts)? == bytes {
        true => Ok(parts),
        false => Err(FormatError::new(
            "it is not as mlvault writes it: compressed, altered, or with more in it than its parts",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let parts = [("b.json", "{}"), ("a.sig", "signature"), ("empty", "")];
        parts.map(|(name, content)| (name.to_owned(), content.as_bytes().to_vec())).into()
    }

    #[test]
    fn what_was_put_together_comes_apart_again() {
        assert_eq!(decode(&encode(&parts()).unwrap()).unwrap(), parts());
        assert_eq!(decode(&encode(&Parts::new()).unwrap()).unwrap(), Parts::new());
        assert!(encode(&Parts::from([("../a".to_owned(), Vec::new())])).is_err());
    }

    #[test]
    fn nothing_else_is_read() {
        let bytes = encode(&parts()).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(decode(&altered).is_err(), "{at}");
            assert!(decode(&bytes[..at]).is_err(), "{at}");
        }
        assert!(decode(&[&bytes[..], b"x"].concat()).is_err());
    }
}
