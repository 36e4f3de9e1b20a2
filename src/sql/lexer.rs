//! Follows SQL text line by line, just far enough to know where a statement ends.
//!
//! What must stay true: what stands inside quotes, comments and dollar quotes never counts as the end of a statement or
//! as the beginning of one. PostgreSQL's strings must follow the standard (`standard_conforming_strings`).

use super::Dialect;

/// First words of statements that end a transaction.
const TRANSACTION_ENDS: [&str; 5] = ["ABORT", "COMMIT", "END", "PREPARE", "ROLLBACK"];

/// What the text is inside of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Code,
    /// Between quotes that are doubled to stand for themselves.
    Quoted(u8),
    /// In `E'…'`, where a backslash takes the next character.
    Escaped,
    /// Between dollar quotes with this tag, `$` included at both ends.
    Dollar(Vec<u8>),
    /// In a block comment of this depth.
    Comment(usize),
}

/// Where in a text we are.
#[derive(Debug, Clone)]
pub struct Lexer {
    dialect: Dialect,
    state: State,
    /// Code was seen since the last semicolon.
    is_open: bool,
    /// A routine's body of several statements was begun, whose END is not the transaction's.
    is_atomic: bool,
    /// The last word was BEGIN.
    is_after_begin: bool,
    ends_transaction: bool,
}

impl Lexer {
    /// Begins before a statement.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            state: State::Code,
            is_open: false,
            is_atomic: false,
            is_after_begin: false,
            ends_transaction: false,
        }
    }

    /// Returns whether all statements so far are complete.
    pub fn is_between_statements(&self) -> bool {
        self.state == State::Code && !self.is_open && !self.is_atomic
    }

    /// Returns whether a statement was seen that ends the transaction it runs in.
    pub fn ends_transaction(&self) -> bool {
        self.ends_transaction
    }

    /// Goes on by a line, which ends with its line break.
    pub fn line(&mut self, line: &[u8]) {
        let mut at = 0;
        while at < line.len() {
            at += match self.state.clone() {
                State::Code => self.code(line, at),
                State::Quoted(quote) => self.quoted(&line[at..], quote),
                State::Escaped => self.escaped(&line[at..]),
                State::Dollar(tag) => self.dollar(&line[at..], &tag),
                State::Comment(depth) => self.comment(&line[at..], depth),
            };
        }
    }

    /// Takes one token of code; returns its length.
    fn code(&mut self, line: &[u8], at: usize) -> usize {
        let rest = &line[at..];
        if rest.starts_with(b"--") {
            return rest.len();
        }
        if rest.starts_with(b"/*") {
            self.state = State::Comment(1);
            return 2;
        }
        if rest[0].is_ascii_whitespace() {
            return 1;
        }
        if is_word(rest[0]) && !follows_word(line, at) {
            self.word(rest, !self.is_open);
        }
        self.is_open = rest[0] != b';';
        match rest[0] {
            b'\'' if self.dialect == Dialect::Postgresql && follows_escape_prefix(line, at) => {
                self.state = State::Escaped
            }
            b'[' if self.dialect == Dialect::Sqlite => self.state = State::Quoted(b']'),
            b'`' if self.dialect == Dialect::Sqlite => self.state = State::Quoted(b'`'),
            quote @ (b'\'' | b'"') => self.state = State::Quoted(quote),
            b'$' if self.dialect == Dialect::Postgresql && !follows_word(line, at) => {
                if let Some(tag) = dollar_tag(rest) {
                    self.state = State::Dollar(tag.to_vec());
                    return tag.len();
                }
            }
            _ => {}
        }
        1
    }

    fn word(&mut self, rest: &[u8], is_first: bool) {
        let len = rest.iter().position(|byte| !is_word(*byte)).unwrap_or(rest.len());
        let is = |word: &&str| rest[..len].eq_ignore_ascii_case(word.as_bytes());
        let was_after_begin = std::mem::replace(&mut self.is_after_begin, is(&"BEGIN"));
        if was_after_begin && is(&"ATOMIC") {
            self.is_atomic = true;
        } else if is_first && is(&"END") && self.is_atomic {
            self.is_atomic = false;
        } else {
            self.ends_transaction |= is_first && TRANSACTION_ENDS.iter().any(is);
        }
    }

    /// A doubled quote closes and opens again, which comes to the same.
    fn quoted(&mut self, rest: &[u8], quote: u8) -> usize {
        match rest.iter().position(|byte| *byte == quote) {
            Some(end) => {
                self.state = State::Code;
                end + 1
            }
            None => rest.len(),
        }
    }

    fn escaped(&mut self, rest: &[u8]) -> usize {
        match rest {
            [b'\\', _, ..] | [b'\'', b'\'', ..] => 2,
            [b'\'', ..] => {
                self.state = State::Code;
                1
            }
            _ => 1,
        }
    }

    fn dollar(&mut self, rest: &[u8], tag: &[u8]) -> usize {
        if rest.starts_with(tag) {
            self.state = State::Code;
            return tag.len();
        }
        1 + rest[1..].iter().position(|byte| *byte == b'$').unwrap_or(rest.len() - 1)
    }

    fn comment(&mut self, rest: &[u8], depth: usize) -> usize {
        if rest.starts_with(b"*/") {
            self.state = if depth == 1 { State::Code } else { State::Comment(depth - 1) };
            return 2;
        }
        if rest.starts_with(b"/*") && self.dialect == Dialect::Postgresql {
            self.state = State::Comment(depth + 1);
            return 2;
        }
        1
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn follows_word(line: &[u8], at: usize) -> bool {
    at > 0 && (is_word(line[at - 1]) || line[at - 1] == b'$')
}

fn follows_escape_prefix(line: &[u8], at: usize) -> bool {
    at > 0 && line[at - 1].eq_ignore_ascii_case(&b'e') && !follows_word(line, at - 1)
}

/// Returns the opening dollar quote at the front of the text.
fn dollar_tag(rest: &[u8]) -> Option<&[u8]> {
    let len = 1 + rest[1..].iter().position(|byte| *byte == b'$')?;
    let tag = &rest[1..len];
    let is_tag = tag.iter().all(|byte| is_word(*byte)) && !tag.first().is_some_and(u8::is_ascii_digit);
    is_tag.then_some(&rest[..=len])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(dialect: Dialect, text: &str) -> bool {
        let mut lexer = Lexer::new(dialect);
        text.split_inclusive('\n').for_each(|line| lexer.line(line.as_bytes()));
        lexer.is_between_statements()
    }

    #[test]
    fn statements_end_at_semicolons_of_code_only() {
        for text in [
            "SELECT 1;\n",
            "-- only a comment\n\n",
            "SELECT 'a;''b';\n",
            "SELECT \"a;\"\"b\" /* ' */;\n-- '\n",
            "SELECT $x$ ' $$ ; $y$ $x$;\n",
            "SELECT E'\\';' , E'''';\n",
            "SELECT a$1, $1;\n",
            "/* a /* b */ c ' */ SELECT 1;\n",
            "CREATE TABLE t (atomic int);\n",
            "CREATE FUNCTION f() BEGIN ATOMIC\n SELECT 1;\nEND;\n",
        ] {
            assert!(ends(Dialect::Postgresql, text), "{text}");
        }
        for text in [
            "BEGIN ATOMIC\n SELECT 1;\n",
            "SELECT 1\n",
            "SELECT ';\n",
            "SELECT $$;\n",
            "/* ;\n",
            "SELECT E'\\';\n",
            "/* /* */ ;\n",
            "SELECT $a$ $b$;\n",
        ] {
            assert!(!ends(Dialect::Postgresql, text), "{text}");
        }
    }

    #[test]
    fn statements_that_end_a_transaction_are_seen() {
        for (text, expected) in [
            ("SELECT 1; commit;\n", true),
            ("/* x */ END;\n", true),
            ("BEGIN;\nSELECT 'COMMIT;', \"ROLLBACK\", t.commit;\n", false),
            ("CREATE FUNCTION f() BEGIN ATOMIC\n SELECT 1;\nEND;\n", false),
            ("CREATE FUNCTION f() BEGIN ATOMIC\n SELECT 1;\nEND;\nEND;\n", true),
        ] {
            let mut lexer = Lexer::new(Dialect::Postgresql);
            text.split_inclusive('\n').for_each(|line| lexer.line(line.as_bytes()));
            assert_eq!(lexer.ends_transaction(), expected, "{text}");
        }
    }

    #[test]
    fn names_between_brackets_and_flat_comments_are_sqlites() {
        assert!(ends(Dialect::Sqlite, "SELECT [a'b], `c\"d`, 'e\\';\n"));
        assert!(ends(Dialect::Sqlite, "/* /* */ SELECT 1;\n"));
        assert!(!ends(Dialect::Sqlite, "SELECT [a;\n"));
    }
}
