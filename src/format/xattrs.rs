//! Extended attributes of an entry, as its attribute [`crate::format::attributes::XATTRS`] holds them.
//!
//! What must stay true: names ascend, so that equal attributes have equal bytes; what is longer than the limits is refused
//! before anything is taken from it, when it is written and when it is read.
//!
//! ```text
//! count (2), count × (name length (1), name, value length (4), value)
//! ```

use crate::format::Cursor;
use crate::format_error::FormatError;
use crate::xattrs::{NAME_LEN_MAX, VALUE_LEN_MAX, Xattrs};

/// Most bytes that the attributes of one entry have together. Most file systems allow for no more than 64 KiB.
pub const XATTRS_LEN_MAX: usize = 128 << 10;

/// Returns the stored form; fails for what is above the limits.
pub fn encode(xattrs: &Xattrs) -> Result<Vec<u8>, FormatError> {
    let total: usize = xattrs.iter().map(|(name, value)| 1 + name.len() + 4 + value.len()).sum();
    if 2 + total > XATTRS_LEN_MAX {
        return Err(FormatError::new("they are longer than 128 KiB together"));
    }
    let mut out = (xattrs.len() as u16).to_le_bytes().to_vec();
    for (name, value) in xattrs {
        check(name, value.len())?;
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
    Ok(out)
}

/// Reads the stored form.
pub fn decode(bytes: &[u8]) -> Result<Xattrs, FormatError> {
    if bytes.len() > XATTRS_LEN_MAX {
        return Err(FormatError::new("an entry has too many extended attributes"));
    }
    let mut cursor = Cursor::new(bytes);
    let count = cursor.u16()?;
    let mut xattrs = Xattrs::new();
    for _ in 0..count {
        let name_len = cursor.u8()? as usize;
        let name = cursor.bytes(name_len)?.to_vec();
        let value_len = cursor.u32()? as usize;
        check(&name, value_len)?;
        if xattrs.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err(FormatError::new("an entry's extended attributes are not in order"));
        }
        xattrs.insert(name, cursor.bytes(value_len)?.to_vec());
    }
    cursor.finish()?;
    Ok(xattrs)
}

fn check(name: &[u8], value_len: usize) -> Result<(), FormatError> {
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(&0) {
        return Err(FormatError::new("an extended attribute has no name that it can have"));
    }
    if value_len > VALUE_LEN_MAX {
        return Err(FormatError::new("an extended attribute is longer than 64 KiB"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&[u8], usize)]) -> Xattrs {
        pairs.iter().map(|(name, len)| (name.to_vec(), vec![7; *len])).collect()
    }

    #[test]
    fn attributes_decode_to_what_they_were() {
        let odd = of(&[(b"user.b", 3), (b"user.a\xFF\n", 0), (&[b'x'; NAME_LEN_MAX], VALUE_LEN_MAX)]);
        for xattrs in [Xattrs::new(), odd] {
            assert_eq!(decode(&encode(&xattrs).unwrap()).unwrap(), xattrs);
        }
        // Part of the format.
        assert_eq!(encode(&of(&[(b"user.b", 1), (b"a", 0)])).unwrap(), b"\x02\0\x01a\0\0\0\0\x06user.b\x01\0\0\0\x07");
    }

    #[test]
    fn what_is_above_the_limits_is_not_written() {
        let long = VALUE_LEN_MAX;
        for xattrs in [
            of(&[(b"", 0)]),
            of(&[(b"user.\0", 0)]),
            of(&[(&[b'x'; NAME_LEN_MAX + 1], 0)]),
            of(&[(b"user.a", long + 1)]),
            of(&[(b"user.a", long), (b"user.b", long)]),
        ] {
            assert!(encode(&xattrs).is_err());
        }
    }

    #[test]
    fn hostile_attributes_are_refused() {
        let value_above_the_limit = [&b"\x01\0\x01a\x01\0\x01\0"[..], &[0; VALUE_LEN_MAX + 1]].concat();
        for bytes in [
            &b""[..],
            b"\x01\0",
            b"\x00\0x",
            b"\x01\0\0\0\0\0\0",
            b"\x01\0\x02a\0\0\0\0\0",
            b"\x01\0\x01a\xFF\xFF\xFF\xFF",
            b"\x02\0\x01b\0\0\0\0\x01a\0\0\0\0",
            b"\x02\0\x01a\0\0\0\0\x01a\0\0\0\0",
            &value_above_the_limit,
            &[0; XATTRS_LEN_MAX + 1],
        ] {
            assert!(decode(bytes).is_err(), "{:?}", &bytes[..bytes.len().min(20)]);
        }
    }
}
