//! A time stamp of an authority (RFC 3161): the request for one, and what an answer says.
//!
//! What must stay true: an answer comes from anybody. Its signature is not verified here: that takes the authority's certificate,
//! which whoever trusts it has, and a tool for it, such as `openssl ts`. What is read is what the stamp is of, and when.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::format::Cursor;
use crate::format_error::FormatError;
use crate::id::Sha256Digest;

/// Media type of a request.
pub const QUERY_TYPE: &str = "application/timestamp-query";

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const NULL: u8 = 0x05;
const OBJECT: u8 = 0x06;
const TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const TAGGED_0: u8 = 0xA0;
/// SHA-256 (2.16.840.1.101.3.4.2.1).
const SHA256: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// Signed data (1.2.840.113549.1.7.2).
const SIGNED_DATA: [u8; 9] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x02];
/// What is signed of a time stamp (1.2.840.113549.1.9.16.1.4).
const STAMP_INFO: [u8; 11] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x09, 0x10, 0x01, 0x04];

/// What a time stamp says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// What it is of.
    pub digest: Sha256Digest,
    /// When, by the authority's clock, to the second.
    pub at: Timestamp,
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    // All that is written here is shorter than 128 bytes.
    [&[tag, content.len() as u8][..], &content].concat()
}

/// Makes a request for a time stamp, with the authority's certificate.
pub fn request(digest: &Sha256Digest, nonce: [u8; 8]) -> Vec<u8> {
    let algorithm = der(SEQUENCE, &[&der(OBJECT, &[&SHA256]), &der(NULL, &[])]);
    let imprint = der(SEQUENCE, &[&algorithm, &der(OCTETS, &[digest.as_bytes()])]);
    // A number is positive if its first bit is zero, and begins with no byte that says nothing.
    let mut number = nonce;
    number[0] = number[0] & 0x3F | 0x40;
    let nonce = der(INTEGER, &[&number]);
    der(SEQUENCE, &[&der(INTEGER, &[&[1]]), &imprint, &nonce, &der(BOOLEAN, &[&[0xFF]])])
}

/// Takes the next value, which must have this tag.
fn value<'a>(cursor: &mut Cursor<'a>, tag: u8) -> Result<&'a [u8], FormatError> {
    if cursor.u8()? != tag {
        return Err(FormatError::new("it is not as a time stamp should be"));
    }
    let short = cursor.u8()?;
    let len = match short {
        0..=0x7F => usize::from(short),
        0x81..=0x83 => {
            let bytes = cursor.bytes(usize::from(short - 0x80))?;
            bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte))
        }
        _ => return Err(FormatError::new("a value of it is too long")),
    };
    cursor.bytes(len)
}

fn inside<'a>(cursor: &mut Cursor<'a>, tag: u8) -> Result<Cursor<'a>, FormatError> {
    value(cursor, tag).map(Cursor::new)
}

fn expect(cursor: &mut Cursor<'_>, object: &[u8]) -> Result<(), FormatError> {
    match value(cursor, OBJECT)? == object {
        true => Ok(()),
        false => Err(FormatError::new("it is of another kind than a time stamp over SHA-256")),
    }
}

/// Reads an answer. One that is no time stamp is refused with the authority's status.
pub fn decode(bytes: &[u8]) -> Result<Stamp, FormatError> {
    let mut answer = inside(&mut Cursor::new(bytes), SEQUENCE)?;
    let status = value(&mut inside(&mut answer, SEQUENCE)?, INTEGER)?;
    if !matches!(status, [0 | 1]) {
        return Err(FormatError::new(format!("the authority refused it (status {status:?})")));
    }
    let mut content = inside(&mut answer, SEQUENCE)?;
    expect(&mut content, &SIGNED_DATA)?;
    let mut signed = inside(&mut inside(&mut content, TAGGED_0)?, SEQUENCE)?;
    value(&mut signed, INTEGER)?;
    value(&mut signed, SET)?;
    let mut info = inside(&mut signed, SEQUENCE)?;
    expect(&mut info, &STAMP_INFO)?;
    let mut octets = inside(&mut inside(&mut info, TAGGED_0)?, OCTETS)?;
    stamp(&mut inside(&mut octets, SEQUENCE)?)
}

fn stamp(info: &mut Cursor<'_>) -> Result<Stamp, FormatError> {
    value(info, INTEGER)?;
    value(info, OBJECT)?;
    let mut imprint = inside(info, SEQUENCE)?;
    expect(&mut inside(&mut imprint, SEQUENCE)?, &SHA256)?;
    let digest = value(&mut imprint, OCTETS)?.try_into();
    let digest = digest.map_err(|_| FormatError::new("its digest has another length than SHA-256"))?;
    value(info, INTEGER)?;
    Ok(Stamp { digest: Sha256Digest::from_bytes(digest), at: time(value(info, TIME)?)? })
}

/// Reads `20261130195959Z`, perhaps with a fraction, which is left out.
fn time(text: &[u8]) -> Result<Timestamp, FormatError> {
    let wrong = || FormatError::new("its time cannot be read");
    let text = std::str::from_utf8(text).ok().and_then(|text| text.strip_suffix('Z')).ok_or_else(wrong)?;
    let whole = text.split('.').next().unwrap_or_default();
    let time = DateTime::strptime("%Y%m%d%H%M%S", whole).map_err(|_| wrong())?;
    TimeZone::UTC.to_timestamp(time).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_openssl_makes() {
        let request = request(&Sha256Digest::from_bytes([7; 32]), [0xFF, 2, 3, 4, 5, 6, 7, 8]);
        let expected = "30430201013031300d060960864801650304020105000420".to_owned()
            + &"07".repeat(32)
            + "02087f020304050607080101ff";
        assert_eq!(data_encoding::HEXLOWER.encode(&request), expected);
    }

    #[test]
    fn what_is_no_time_stamp_is_refused() {
        assert!(decode(b"").is_err() && decode(&[0x30, 0x84, 1, 1, 1, 1]).is_err());
        let refusal = der(SEQUENCE, &[&der(SEQUENCE, &[&der(INTEGER, &[&[2]])])]);
        assert!(decode(&refusal).unwrap_err().to_string().contains("refused"));
        assert_eq!(time(b"20261130195959.25Z").unwrap().to_string(), "2026-11-30T19:59:59Z");
        assert!(time(b"20261130195959").is_err() && time(b"2026113019595\xFFZ").is_err());
    }
}
