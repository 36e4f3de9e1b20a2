//! JSON as MLflow writes it, and as it is stored.
//!
//! What must stay true: the same facts give the same bytes, in whatever order a server lists them; no input panics.

use serde_json::Value;

/// Words that Python writes for floats and that JSON does not have. Longer ones first.
const BARE_WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// Lists whose order means nothing, and depends on how a database finds its rows.
const UNORDERED: [&str; 9] = [
    "tags",
    "params",
    "metrics",
    "aliases",
    "dataset_inputs",
    "model_inputs",
    "model_outputs",
    "assessments",
    "experiment_ids",
];

/// Parses an answer. Bare `NaN` and infinities, which are not JSON, become texts.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(bytes).or_else(|error| {
        let quoted = quote_bare_words(bytes);
        if quoted.len() == bytes.len() { Err(error) } else { serde_json::from_slice(&quoted) }
    })
}

fn quote_bare_words(bytes: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(bytes.len());
    let mut is_text = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let word = BARE_WORDS.iter().find(|word| !is_text && bytes[at..].starts_with(word));
        if let Some(word) = word {
            quoted.push(b'"');
            quoted.extend_from_slice(word);
            quoted.push(b'"');
            at += word.len();
            continue;
        }
        // A backslash and what it escapes stay together: `\"` does not end a text.
        let len = if is_text && byte == b'\\' { 2 } else { 1 };
        is_text ^= byte == b'"';
        quoted.extend_from_slice(&bytes[at..(at + len).min(bytes.len())]);
        at += len;
    }
    quoted
}

/// Puts lists whose order means nothing in order. The fields of objects are ordered by their names already.
pub fn put_in_order(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(put_in_order),
        Value::Object(fields) => {
            for (name, inner) in fields.iter_mut() {
                put_in_order(inner);
                if let Value::Array(items) = inner
                    && UNORDERED.contains(&name.as_str())
                {
                    items.sort_by_cached_key(Value::to_string);
                }
            }
        }
        _ => {}
    }
}

/// Returns a field as text; empty if it is missing or not text.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}

/// Returns the items of a list that a field holds; none if it is missing: MLflow leaves out empty lists.
pub(super) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Takes a field out of an object; null if there is none.
pub(super) fn take(value: &mut Value, field: &str) -> Value {
    value.get_mut(field).map(Value::take).unwrap_or_default()
}

/// Sets a field, unless the value is no object.
pub(super) fn set(value: &mut Value, field: &str, content: Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.insert(field.to_owned(), content);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn python_s_floats_are_read_as_texts_and_texts_are_left_alone() {
        let answer = br#"{"a": [NaN, -Infinity, 1.5], "NaN": "say \"NaN\" \\", "b": Infinity}"#;
        let expected = json!({"a": ["NaN", "-Infinity", 1.5], "NaN": "say \"NaN\" \\", "b": "Infinity"});
        assert_eq!(parse(answer).unwrap(), expected);
        assert!(parse(b"{NaN").is_err() && parse(b"").is_err() && parse(b"\"\\").is_err());
    }

    #[test]
    fn floats_keep_their_last_bit() {
        for number in [0.1 + 0.2, 1.0 / 3.0, 5e-324, 1.797_693_134_862_315_7e308, 54_775_807.000_000_01] {
            assert_eq!(parse(format!("{number:e}").as_bytes()).unwrap().as_f64(), Some(number));
        }
    }

    #[test]
    fn lists_without_meaning_in_their_order_are_sorted_at_every_depth() {
        let mut value = json!({"z": [2, 1], "run": {"tags": [{"key": "b"}, {"key": "a", "value": "1"}]}});
        put_in_order(&mut value);
        assert_eq!(value.to_string(), r#"{"run":{"tags":[{"key":"a","value":"1"},{"key":"b"}]},"z":[2,1]}"#);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn valid_json_is_taken_as_it_is(texts in proptest::collection::vec(".*", 0..5), number in any::<f64>()) {
            let value = json!({ "texts": texts, "number": number });
            prop_assert_eq!(parse(value.to_string().as_bytes()).unwrap(), value);
        }
    }
}
