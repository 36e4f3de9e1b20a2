//! PostgreSQL's COPY text format: one row of a table as one line.
//!
//! What must stay true: only what `COPY … TO` writes is accepted, so that a line that decodes encodes to the same bytes.
//! See "Text Format" under COPY in PostgreSQL's manual; the server escapes seven characters and writes `\N` for null.

use super::Value;

/// What stands for no value.
const NULL: &[u8] = br"\N";

/// Returns the letter that stands after the backslash for a character that is never written as it is.
fn escape_of(byte: u8) -> Option<u8> {
    Some(match byte {
        b'\\' => b'\\',
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0B => b'v',
        0x0C => b'f',
        b'\r' => b'r',
        _ => return None,
    })
}

fn escaped_by(letter: u8) -> Option<u8> {
    Some(match letter {
        b'\\' => b'\\',
        b'b' => 0x08,
        b't' => b'\t',
        b'n' => b'\n',
        b'v' => 0x0B,
        b'f' => 0x0C,
        b'r' => b'\r',
        _ => return None,
    })
}

/// Decodes a line, without its line break, into `columns` values; the reason if it is not such a line.
pub fn decode_row(line: &[u8], columns: usize) -> Result<Vec<Value>, String> {
    if columns == 0 {
        return if line.is_empty() { Ok(Vec::new()) } else { Err("a row of a table without columns has text".into()) };
    }
    let fields = line.iter().filter(|byte| **byte == b'\t').count() + 1;
    if fields != columns {
        return Err(format!("a row has {fields} values, and the table {columns} columns"));
    }
    line.split(|byte| *byte == b'\t').map(decode_field).collect()
}

fn decode_field(field: &[u8]) -> Result<Value, String> {
    if field == NULL {
        return Ok(Value::Null);
    }
    let mut text = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        let plain = match byte {
            b'\\' => bytes.next().and_then(|letter| escaped_by(*letter)),
            other => escape_of(*other).is_none().then_some(*other),
        };
        text.push(plain.ok_or("a row has an escape that PostgreSQL does not write")?);
    }
    Ok(Value::Text(text))
}

/// Appends the line of a row, without a line break.
///
/// Numbers are written as they are, bytes in PostgreSQL's hexadecimal notation for `bytea`.
pub fn encode_row(values: &[Value], line: &mut Vec<u8>) {
    for (number, value) in values.iter().enumerate() {
        if number > 0 {
            line.push(b'\t');
        }
        match value {
            Value::Null => line.extend_from_slice(NULL),
            Value::Text(text) => encode_text(text, line),
            Value::Number(text) => encode_text(text.as_bytes(), line),
            Value::Blob(bytes) => {
                line.extend_from_slice(br"\\x");
                line.extend_from_slice(data_encoding::HEXLOWER.encode(bytes).as_bytes());
            }
        }
    }
}

fn encode_text(text: &[u8], line: &mut Vec<u8>) {
    for byte in text {
        match escape_of(*byte) {
            Some(letter) => line.extend_from_slice(&[b'\\', letter]),
            None => line.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8]) -> Value {
        Value::Text(bytes.to_vec())
    }

    #[test]
    fn escapes_nulls_and_empty_texts_are_told_apart() {
        let row = decode_row(b"\\N\t\t\\\\N\ta\\tb\\nc\\\\\t\\\\.", 5).unwrap();
        assert_eq!(row, [Value::Null, text(b""), text(b"\\N"), text(b"a\tb\nc\\"), text(b"\\.")]);
    }

    #[test]
    fn what_the_server_never_writes_is_refused() {
        for line in [&b"\\"[..], b"\\q", b"a\rb", b"\\101", b"a\tb"] {
            assert!(decode_row(line, 1).is_err(), "{line:?}");
        }
        assert!(decode_row(b"", 0).is_ok() && decode_row(b"x", 0).is_err());
    }

    proptest! {
        #[test]
        fn rows_come_back_from_their_lines(
            row in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 1..8),
        ) {
            let row: Vec<Value> = row.into_iter().map(|text| text.map_or(Value::Null, Value::Text)).collect();
            let mut line = Vec::new();
            encode_row(&row, &mut line);
            prop_assert!(!line.contains(&b'\n') && line != b"\\.");
            prop_assert_eq!(decode_row(&line, row.len()), Ok(row));
        }

        #[test]
        fn a_line_that_decodes_encodes_to_itself(line in "[a\\\\Nbt\t\r.x0]{0,12}", columns in 0_usize..4) {
            if let Ok(row) = decode_row(line.as_bytes(), columns) {
                let mut again = Vec::new();
                encode_row(&row, &mut again);
                prop_assert_eq!(again, line.into_bytes());
            }
        }
    }
}
