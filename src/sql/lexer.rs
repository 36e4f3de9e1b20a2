//! Takes SQL text apart into lexemes, and knows where a statement ends.
//!
//! What must stay true: what stands inside quotes, comments and dollar quotes never counts as the end of a statement or
//! as the beginning of one. PostgreSQL's strings must follow the standard (`standard_conforming_strings`).

use std::ops::Range;

use super::Dialect;

/// First words of statements that end a transaction.
const TRANSACTION_ENDS: [&str; 5] = ["ABORT", "COMMIT", "END", "PREPARE", "ROLLBACK"];

/// What a lexeme is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// White space.
    Space,
    /// A comment of either form.
    Comment,
    /// A name without quotes, or a keyword.
    Word,
    /// What begins with a digit.
    Number,
    /// `'…'`
    Text,
    /// `E'…'`, where a backslash takes the next character.
    EscapedText,
    /// A name between quotes.
    Name,
    /// A text between dollar quotes.
    Dollar,
    /// The end of a statement, or of one within a routine.
    Semicolon,
    /// One byte of anything else.
    Symbol,
}

/// A piece of text, or the part of it that the text at hand has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lexeme {
    /// What it is.
    pub kind: Kind,
    /// Bytes that it takes.
    pub len: usize,
    /// It goes on beyond the text.
    pub is_open: bool,
}

/// What the text is inside of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Code,
    /// Between quotes that are doubled to stand for themselves.
    Quoted(u8, Kind),
    /// In `E'…'`.
    Escaped,
    /// Between dollar quotes with this tag, `$` included at both ends.
    Dollar(Vec<u8>),
    /// In a block comment of this depth.
    Comment(usize),
}

/// How far the first words of a statement say that it makes a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    Start,
    Create,
    Trigger,
    Other,
}

/// Where in a text we are.
#[derive(Debug, Clone)]
pub struct Lexer {
    dialect: Dialect,
    state: State,
    /// Code was seen since the last semicolon.
    is_open: bool,
    /// A body of several statements was begun, whose END is not the transaction's.
    is_in_body: bool,
    head: Head,
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
            is_in_body: false,
            head: Head::Start,
            is_after_begin: false,
            ends_transaction: false,
        }
    }

    /// Returns whether all statements so far are complete.
    pub fn is_between_statements(&self) -> bool {
        self.state == State::Code && !self.is_open && !self.is_in_body
    }

    /// Returns whether a statement was seen that ends the transaction it runs in.
    pub fn ends_transaction(&self) -> bool {
        self.ends_transaction
    }

    /// Goes on by a line, which ends with its line break.
    pub fn line(&mut self, line: &[u8]) {
        let mut at = 0;
        while at < line.len() {
            at += self.next(&line[at..]).len;
        }
    }

    /// Takes the next lexeme from the front of a text that is not empty. A lexeme is at least one byte long.
    pub fn next(&mut self, rest: &[u8]) -> Lexeme {
        match self.state.clone() {
            State::Code => self.code(rest),
            State::Quoted(quote, kind) => self.quoted(rest, 0, quote, kind),
            State::Escaped => self.escaped(rest, 0),
            State::Dollar(tag) => self.dollar(rest, 0, &tag),
            State::Comment(depth) => self.comment(rest, 0, depth),
        }
    }

    fn code(&mut self, rest: &[u8]) -> Lexeme {
        let whole = |kind, len| Lexeme { kind, len, is_open: false };
        let is_postgresql = self.dialect == Dialect::Postgresql;
        if rest.starts_with(b"--") {
            // A carriage return ends PostgreSQL's comments, too: what follows it is code.
            let is_end = |byte: &u8| *byte == b'\n' || is_postgresql && *byte == b'\r';
            return whole(Kind::Comment, rest.iter().position(is_end).unwrap_or(rest.len()));
        }
        if rest.starts_with(b"/*") {
            return self.comment(rest, 2, 1);
        }
        if rest[0].is_ascii_whitespace() {
            let end = rest.iter().position(|byte| !byte.is_ascii_whitespace());
            return whole(Kind::Space, end.unwrap_or(rest.len()));
        }
        let is_first = !std::mem::replace(&mut self.is_open, true);
        match rest[0] {
            b';' => {
                (self.is_open, self.head) = (false, Head::Start);
                whole(Kind::Semicolon, 1)
            }
            b'\'' => self.quoted(rest, 1, b'\'', Kind::Text),
            b'"' => self.quoted(rest, 1, b'"', Kind::Name),
            b'[' if !is_postgresql => self.quoted(rest, 1, b']', Kind::Name),
            b'`' if !is_postgresql => self.quoted(rest, 1, b'`', Kind::Name),
            b'e' | b'E' if is_postgresql && rest.get(1) == Some(&b'\'') => self.escaped(rest, 2),
            b'$' if is_postgresql => match dollar_tag(rest) {
                Some(tag) => self.dollar(rest, tag.len(), tag),
                None => whole(Kind::Symbol, 1),
            },
            byte if byte.is_ascii_digit() => {
                let end = rest.iter().position(|byte| !(is_word(*byte) || matches!(byte, b'$' | b'.')));
                whole(Kind::Number, end.unwrap_or(rest.len()))
            }
            byte if is_word(byte) => {
                let end = rest.iter().position(|byte| !(is_word(*byte) || *byte == b'$')).unwrap_or(rest.len());
                self.word(&rest[..end], is_first);
                whole(Kind::Word, end)
            }
            _ => whole(Kind::Symbol, 1),
        }
    }

    fn word(&mut self, word: &[u8], is_first: bool) {
        let is = |known: &&str| word.eq_ignore_ascii_case(known.as_bytes());
        self.head = match self.head {
            Head::Start if is_first && is(&"CREATE") => Head::Create,
            Head::Create if is(&"TEMP") || is(&"TEMPORARY") => Head::Create,
            Head::Create if is(&"TRIGGER") => Head::Trigger,
            Head::Trigger => Head::Trigger,
            _ => Head::Other,
        };
        let is_begin = is(&"BEGIN");
        let was_after_begin = std::mem::replace(&mut self.is_after_begin, is_begin);
        let begins_trigger = self.dialect == Dialect::Sqlite && self.head == Head::Trigger && is_begin;
        if was_after_begin && is(&"ATOMIC") || begins_trigger {
            self.is_in_body = true;
        } else if is_first && is(&"END") && self.is_in_body {
            self.is_in_body = false;
        } else {
            self.ends_transaction |= is_first && TRANSACTION_ENDS.iter().any(is);
        }
    }

    /// A doubled quote closes and opens again.
    fn quoted(&mut self, rest: &[u8], from: usize, quote: u8, kind: Kind) -> Lexeme {
        let mut at = from;
        while let Some(end) = rest[at..].iter().position(|byte| *byte == quote) {
            at += end + 1;
            // SQLite's brackets are not doubled.
            if quote == b']' || rest.get(at) != Some(&quote) {
                return self.ended(kind, at);
            }
            at += 1;
        }
        self.unended(State::Quoted(quote, kind), kind, rest)
    }

    fn escaped(&mut self, rest: &[u8], from: usize) -> Lexeme {
        let mut at = from;
        while at < rest.len() {
            at += match &rest[at..] {
                [b'\\', _, ..] | [b'\'', b'\'', ..] => 2,
                [b'\'', ..] => return self.ended(Kind::EscapedText, at + 1),
                _ => 1,
            };
        }
        self.unended(State::Escaped, Kind::EscapedText, rest)
    }

    fn dollar(&mut self, rest: &[u8], from: usize, tag: &[u8]) -> Lexeme {
        match (from..rest.len()).find(|at| rest[*at..].starts_with(tag)) {
            Some(end) => self.ended(Kind::Dollar, end + tag.len()),
            None => self.unended(State::Dollar(tag.to_vec()), Kind::Dollar, rest),
        }
    }

    fn comment(&mut self, rest: &[u8], from: usize, depth: usize) -> Lexeme {
        let (mut at, mut depth) = (from, depth);
        while at < rest.len() {
            if rest[at..].starts_with(b"*/") {
                at += 2;
                depth -= 1;
                if depth == 0 {
                    return self.ended(Kind::Comment, at);
                }
            } else if rest[at..].starts_with(b"/*") && self.dialect == Dialect::Postgresql {
                at += 2;
                depth += 1;
            } else {
                at += 1;
            }
        }
        self.unended(State::Comment(depth), Kind::Comment, rest)
    }

    fn ended(&mut self, kind: Kind, len: usize) -> Lexeme {
        self.state = State::Code;
        Lexeme { kind, len, is_open: false }
    }

    fn unended(&mut self, state: State, kind: Kind, rest: &[u8]) -> Lexeme {
        self.state = state;
        Lexeme { kind, len: rest.len(), is_open: true }
    }
}

/// Finds the statements of a text, from their first lexeme to the last one before the semicolon.
pub fn statements(dialect: Dialect, text: &[u8]) -> Vec<Range<usize>> {
    let mut lexer = Lexer::new(dialect);
    let (mut found, mut at) = (Vec::new(), 0);
    let mut open: Option<Range<usize>> = None;
    while at < text.len() {
        let lexeme = lexer.next(&text[at..]);
        let end = at + lexeme.len;
        match lexeme.kind {
            Kind::Space | Kind::Comment => {}
            Kind::Semicolon if lexer.is_between_statements() => found.extend(open.take()),
            _ => open.get_or_insert(at..end).end = end,
        }
        at = end;
    }
    found.extend(open);
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
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
    fn statements_are_found_without_what_stands_between_them() {
        let found = |dialect, text: &'static str| {
            let ranges = statements(dialect, text.as_bytes());
            ranges.into_iter().map(|range| &text[range]).collect::<Vec<_>>()
        };
        let text = "-- a;\rDROP TABLE x; /* ; */SELECT ';'\n;;CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END; c";
        let function = "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END";
        assert_eq!(found(Dialect::Postgresql, text), ["DROP TABLE x", "SELECT ';'", function, "c"]);
        let trigger = "CREATE TRIGGER t UPDATE ON x BEGIN SELECT CASE WHEN 1 THEN 2 END; SELECT 3; END";
        let text = "-- a;\rb\nCREATE TRIGGER t UPDATE ON x BEGIN SELECT CASE WHEN 1 THEN 2 END; SELECT 3; END;\nBEGIN;";
        assert_eq!(found(Dialect::Sqlite, text), [trigger, "BEGIN"]);
    }

    #[test]
    fn names_between_brackets_and_flat_comments_are_sqlites() {
        assert!(ends(Dialect::Sqlite, "SELECT [a'b], `c\"d`, 'e\\';\n"));
        assert!(ends(Dialect::Sqlite, "/* /* */ SELECT 1;\n"));
        assert!(!ends(Dialect::Sqlite, "SELECT [a;\n"));
    }
}
