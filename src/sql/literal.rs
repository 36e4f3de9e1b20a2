//! SQLite's literals: one row of a table as the list behind `VALUES`.
//!
//! What must stay true: a list that decodes encodes to the same bytes; every value that SQLite can hold has one form,
//! which SQLite's own shell reads as the same value. The shell drops a carriage return before a line break and ends a
//! text at a zero byte: such texts, and those that are not UTF-8, are written as bytes and cast.

use data_encoding::HEXLOWER;

use super::Value;

const CAST: &[u8] = b"CAST(X'";
const CAST_END: &[u8] = b" AS TEXT)";

/// Returns the literal of a real number: the shortest one that is read as the same number.
pub fn real_literal(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "9e999" } else { "-9e999" }.to_owned();
    }
    format!("{number:?}")
}

/// Returns whether a text can be written between quotes.
fn is_plain(text: &[u8]) -> bool {
    !text.iter().any(|byte| matches!(byte, 0 | b'\r')) && std::str::from_utf8(text).is_ok()
}

/// Appends the values, with commas between them.
pub fn encode_values(values: &[Value], list: &mut Vec<u8>) {
    for (number, value) in values.iter().enumerate() {
        if number > 0 {
            list.push(b',');
        }
        match value {
            Value::Null => list.extend_from_slice(b"NULL"),
            Value::Number(text) => list.extend_from_slice(text.as_bytes()),
            Value::Blob(bytes) => encode_bytes(b"X'", bytes, list),
            Value::Text(text) if is_plain(text) => encode_text(text, list),
            Value::Text(text) => {
                encode_bytes(CAST, text, list);
                list.extend_from_slice(CAST_END);
            }
        }
    }
}

fn encode_bytes(start: &[u8], bytes: &[u8], list: &mut Vec<u8>) {
    list.extend_from_slice(start);
    list.extend_from_slice(HEXLOWER.encode(bytes).as_bytes());
    list.push(b'\'');
}

fn encode_text(text: &[u8], list: &mut Vec<u8>) {
    list.push(b'\'');
    for (number, part) in text.split(|byte| *byte == b'\'').enumerate() {
        if number > 0 {
            list.extend_from_slice(b"''");
        }
        list.extend_from_slice(part);
    }
    list.push(b'\'');
}

/// Decodes a list of `columns` values; the reason if it is not such a list.
pub fn decode_values(list: &[u8], columns: usize) -> Result<Vec<Value>, String> {
    let mut values = Vec::new();
    let mut rest = list;
    while values.len() < columns {
        if !values.is_empty() {
            rest = rest.strip_prefix(b",").ok_or("a row has too few values")?;
        }
        let (value, after) = decode_value(rest)?;
        values.push(value);
        rest = after;
    }
    if rest.is_empty() { Ok(values) } else { Err(format!("a row has more than {columns} values")) }
}

fn decode_value(list: &[u8]) -> Result<(Value, &[u8]), String> {
    if let Some(rest) = list.strip_prefix(b"NULL") {
        return Ok((Value::Null, rest));
    }
    if let Some(rest) = list.strip_prefix(b"'") {
        let (text, rest) = decode_text(rest)?;
        return if is_plain(&text) { Ok((Value::Text(text), rest)) } else { Err("a text must be cast".into()) };
    }
    if let Some(rest) = list.strip_prefix(b"X'") {
        let (bytes, rest) = decode_bytes(rest)?;
        return Ok((Value::Blob(bytes), rest));
    }
    if let Some(rest) = list.strip_prefix(CAST) {
        let (bytes, rest) = decode_bytes(rest)?;
        let rest = rest.strip_prefix(CAST_END).ok_or("a cast has no end")?;
        return if is_plain(&bytes) {
            Err("a text is cast without need".into())
        } else {
            Ok((Value::Text(bytes), rest))
        };
    }
    decode_number(list)
}

fn decode_text(list: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut text = Vec::new();
    let mut rest = list;
    loop {
        let quote = rest.iter().position(|byte| *byte == b'\'').ok_or("a text has no end")?;
        text.extend_from_slice(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.strip_prefix(b"'") {
            Some(after) => {
                text.push(b'\'');
                rest = after;
            }
            None => return Ok((text, rest)),
        }
    }
}

fn decode_bytes(list: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let end = list.iter().position(|byte| *byte == b'\'').ok_or("a blob has no end")?;
    let bytes = HEXLOWER.decode(&list[..end]).map_err(|error| format!("a blob is not hexadecimal: {error}"))?;
    Ok((bytes, &list[end + 1..]))
}

fn decode_number(list: &[u8]) -> Result<(Value, &[u8]), String> {
    let is_part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e');
    let end = list.iter().position(|byte| !is_part(byte)).unwrap_or(list.len());
    let text = String::from_utf8_lossy(&list[..end]).into_owned();
    if text.parse::<f64>().is_err() {
        return Err(format!("{:?} is no value", text.chars().take(20).collect::<String>()));
    }
    Ok((Value::Number(text), &list[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(|number| Value::Number(number.to_string())),
            any::<f64>().prop_filter("no NaN", |n| !n.is_nan()).prop_map(|n| Value::Number(real_literal(n))),
            "[a'\n\r\0\t\\\\é,()]{0,8}".prop_map(|text| Value::Text(text.into_bytes())),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn rows_come_back_from_their_lists(row in prop::collection::vec(value(), 1..6)) {
            let mut list = Vec::new();
            encode_values(&row, &mut list);
            prop_assert_eq!(decode_values(&list, row.len()), Ok(row));
        }

        #[test]
        fn reals_come_back_to_the_last_bit(bits in any::<u64>()) {
            let number = f64::from_bits(bits);
            prop_assume!(!number.is_nan());
            prop_assert_eq!(real_literal(number).parse::<f64>().unwrap().to_bits(), number.to_bits());
        }

        #[test]
        fn a_list_that_decodes_encodes_to_itself(list in "[NULX'0a,1e.\\- \r]{0,14}|CAST\\(X'[0-9a-f]{0,4}' AS TEXT\\)") {
            for columns in 1..4 {
                if let Ok(row) = decode_values(list.as_bytes(), columns) {
                    let mut again = Vec::new();
                    encode_values(&row, &mut again);
                    prop_assert_eq!(&again, list.as_bytes());
                }
            }
        }
    }

    #[test]
    fn damaged_lists_are_refused() {
        for list in ["", "1,", "'a", "X'0", "X'0g'", "CAST(X'00'", "1 2", "1e", "nan", "inf", "CAST(X'61' AS TEXT)"] {
            assert!(decode_values(list.as_bytes(), 1).is_err(), "{list}");
        }
    }
}
