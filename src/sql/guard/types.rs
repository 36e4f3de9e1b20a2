//! Types of PostgreSQL that columns may have and values may be cast to.
//!
//! What must stay true: their input functions read their text and do nothing else. Those that look into the catalogue,
//! such as `regclass`, are not among them, and neither is any type that a dump could have made.

use super::cursor::{Cursor, Token};

/// Types of one word.
const TYPES: [&str; 18] = [
    "bigint", "boolean", "bpchar", "bytea", "cidr", "date", "inet", "integer", "interval", "json", "jsonb", "macaddr",
    "money", "numeric", "real", "smallint", "text", "uuid",
];
/// Types of one or two words; the longer before those that they begin with.
const LONG_TYPES: [&str; 5] = ["character varying", "character", "double precision", "bit varying", "bit"];

/// Takes a type that PostgreSQL has built in.
pub fn type_name(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.one_of(&["timestamp", "time"]) {
        modifier(cursor)?;
        let _ = cursor.one_of(&["with time zone", "without time zone"]);
    } else if cursor.one_of(&LONG_TYPES) || cursor.one_of(&TYPES) {
        modifier(cursor)?;
    } else {
        return Err(format!("it names a type that is not on the list: {}", cursor.unexpected()));
    }
    while cursor.sign("[") {
        cursor.expect_sign("]")?;
    }
    Ok(())
}

fn modifier(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.peek() == Some(Token::Sign("(")) { cursor.list(Cursor::number) } else { Ok(()) }
}
