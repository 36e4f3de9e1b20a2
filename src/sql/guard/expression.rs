//! Expressions of defaults, checks, generated columns and indexes, which the database computes when rows come in.
//!
//! They are not parsed, which the database does anyway; each token is looked at with those beside it. That is enough,
//! because what an expression can do is decided by the functions that it calls: by name, by a cast, by an operator, or
//! by a literal that a type's name stands before.
//!
//! What must stay true:
//! - Whatever stands before a bracket is a keyword or one of [`FUNCTIONS`].
//! - There is no dot: no function, operator or type of a schema that a dump could have filled, and no `row.function`.
//! - No literal has a type's name before it, and each cast is to a type that PostgreSQL has built in.

use super::super::Dialect;
use super::cursor::{Cursor, Token};
use super::types::type_name;

/// Functions of both databases that compute something of their arguments and do nothing else.
pub const FUNCTIONS: [&str; 5] = ["coalesce", "length", "lower", "now", "upper"];
/// Keywords that a bracket may follow.
const BEFORE_BRACKET: [&str; 13] =
    ["all", "and", "any", "between", "case", "else", "in", "is", "like", "not", "or", "then", "when"];
/// Keywords that a text may follow. Any other word before a text could be a type, whose input function it is given to.
const BEFORE_TEXT: [&str; 12] =
    ["and", "between", "case", "else", "escape", "from", "ilike", "in", "like", "or", "then", "when"];
/// Words that begin what is more than an expression, or name a function in another way.
const REFUSED: [&str; 11] =
    ["cast", "exists", "glob", "match", "operator", "over", "raise", "regexp", "select", "values", "with"];
/// Operators of both databases.
const OPERATORS: [&str; 24] = [
    "!=", "!~", "!~*", "!~~", "!~~*", "%", "*", "+", "-", "->", "->>", "/", "<", "<=", "<>", "=", ">", ">=", "?", "@>",
    "||", "~", "~*", "~~",
];

/// Takes an expression, up to a comma or bracket that is not in it, to one of these keywords outside of brackets, or to
/// the end.
pub fn expression(cursor: &mut Cursor<'_>, dialect: Dialect, stops: &[&str]) -> Result<(), String> {
    let (mut depth, mut is_first) = (0_usize, true);
    while let Some(token) = cursor.peek() {
        match token {
            Token::Sign(")" | ",") if depth == 0 => break,
            Token::Word(_) if depth == 0 && !is_first && stops.iter().any(|stop| cursor.is_at(stop)) => break,
            Token::Sign("(") => depth += 1,
            Token::Sign(")") => depth -= 1,
            _ => {}
        }
        look_at(cursor, dialect, is_first)?;
        is_first = false;
    }
    if depth > 0 || is_first { Err(cursor.unexpected()) } else { Ok(()) }
}

/// Takes an expression with the brackets around it.
pub fn in_brackets(cursor: &mut Cursor<'_>, dialect: Dialect) -> Result<(), String> {
    cursor.expect_sign("(")?;
    expression(cursor, dialect, &[])?;
    cursor.expect_sign(")")
}

/// Takes the next token, if it may stand there.
fn look_at(cursor: &mut Cursor<'_>, dialect: Dialect, is_first: bool) -> Result<(), String> {
    let is_called = cursor.peek_second() == Some(Token::Sign("("));
    match cursor.peek() {
        Some(Token::Word(word)) if is_called => {
            let may_be = is_one_of(word, &FUNCTIONS) || is_one_of(word, &BEFORE_BRACKET);
            may_be.then_some(()).ok_or_else(|| format!("it calls {word:?}"))?;
        }
        Some(Token::Name(name)) if is_called => return Err(format!("it calls {name:?}")),
        Some(Token::Number(_) | Token::Text(_)) if is_called => return Err(cursor.unexpected()),
        Some(Token::Word(word)) if is_one_of(word, &REFUSED) => return Err(cursor.unexpected()),
        Some(Token::Text(_)) if !is_first && !may_come_before_text(cursor.last()) => return Err(cursor.unexpected()),
        Some(Token::Word(_) | Token::Name(_) | Token::Text(_) | Token::Number(_)) => {}
        Some(Token::Sign("::")) if dialect == Dialect::Postgresql => {
            cursor.take();
            return type_name(cursor);
        }
        Some(Token::Sign("(" | ")" | "," | "[" | "]")) => {}
        Some(Token::Sign(sign)) if OPERATORS.contains(&sign) => {}
        _ => return Err(cursor.unexpected()),
    }
    let is_collation = cursor.words("COLLATE");
    if is_collation {
        return collation(cursor);
    }
    cursor.take();
    Ok(())
}

/// Takes the name of a collation behind `COLLATE`.
pub fn collation(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.words("pg_catalog") {
        cursor.expect_sign(".")?;
    }
    cursor.name().map(drop)
}

fn may_come_before_text(token: Option<Token<'_>>) -> bool {
    match token {
        Some(Token::Word(word)) => is_one_of(word, &BEFORE_TEXT),
        Some(Token::Sign(_)) => true,
        _ => false,
    }
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|known| word.eq_ignore_ascii_case(known))
}
