//! Lists and pairs as they are written in one argument or variable: `A=B,C=D`.
//!
//! What must stay true: every text can be written. What separates is taken for itself after a backslash: `\=`, `\,` and `\\`;
//! before anything else a backslash is one.

use crate::error::{Error, Result};

/// What a backslash takes the meaning from.
const ESCAPED: [char; 3] = ['=', ',', '\\'];

/// Splits lists at their commas. Backslashes stay as they are.
pub fn list(given: &[String]) -> Vec<&str> {
    let mut items = Vec::new();
    for text in given {
        let mut rest = text.as_str();
        while let Some(at) = find(rest, ',') {
            items.push(&rest[..at]);
            rest = &rest[at + 1..];
        }
        items.push(rest);
    }
    items
}

/// Splits at the first `=`, and takes the backslashes out of both parts. Returns `None` in place of the second one if there is
/// no `=`.
pub fn pair(text: &str) -> (String, Option<String>) {
    match find(text, '=') {
        Some(at) => (plain(&text[..at]), Some(plain(&text[at + 1..]))),
        None => (plain(text), None),
    }
}

/// Splits `OLD=NEW`, neither of which may be empty.
pub fn old_and_new(text: &str) -> Result<(String, String)> {
    match pair(text) {
        (old, Some(new)) if !old.is_empty() && !new.is_empty() => Ok((old, new)),
        _ => Err(Error::Invalid(format!("{text:?} is not of the form OLD=NEW"))),
    }
}

/// Takes the backslashes out.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = characters.next_if(|next| character == '\\' && ESCAPED.contains(next));
        plain.push(escaped.unwrap_or(character));
    }
    plain
}

/// Returns where a separator stands for the first time without a backslash before it.
fn find(text: &str, separator: char) -> Option<usize> {
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let is_escaped = character == '\\' && characters.next_if(|(_, next)| ESCAPED.contains(next)).is_some();
        if !is_escaped && character == separator {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        text.chars().flat_map(|one| ESCAPED.contains(&one).then_some('\\').into_iter().chain([one])).collect()
    }

    #[test]
    fn the_first_bare_separator_separates() {
        for (text, first, second) in [
            ("a=b", "a", Some("b")),
            ("a", "a", None),
            ("a=b=c", "a", Some("b=c")),
            (r"s3://b/day\=1=/srv/x=y", "s3://b/day=1", Some("/srv/x=y")),
            (r"a\\=b", r"a\", Some("b")),
            (r"C:\dir=b\n", r"C:\dir", Some(r"b\n")),
            ("=", "", Some("")),
        ] {
            assert_eq!(pair(text), (first.to_owned(), second.map(str::to_owned)), "{text}");
        }
        let given = ["a=b,c", r"d\,e", ""].map(str::to_owned);
        assert_eq!(list(&given), ["a=b", "c", r"d\,e", ""]);
        assert!(old_and_new("a=").is_err() && old_and_new("=b").is_err() && old_and_new(r"a\=b").is_err());
    }

    proptest! {
        #[test]
        fn every_text_can_be_written(parts in prop::collection::vec((r"[a=,\\é]{0,6}", r"[a=,\\é]{0,6}"), 1..4)) {
            let items: Vec<String> = parts.iter().map(|(a, b)| format!("{}={}", escaped(a), escaped(b))).collect();
            let joined = [items.join(",")];
            let read: Vec<_> = list(&joined).into_iter().map(pair).collect();
            prop_assert_eq!(read, parts.into_iter().map(|(a, b)| (a, Some(b))).collect::<Vec<_>>());
        }
    }
}
