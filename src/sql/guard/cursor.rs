//! The tokens of one statement, and a place among them.
//!
//! What must stay true: tokens are what the database's own lexer makes of the text. Whatever the two might read
//! differently is no token, and refused.

use super::super::Dialect;
use super::super::lexer::{Kind, Lexer};

/// Signs that make up operators, in PostgreSQL as many in a row as there are.
const OPERATOR_SIGNS: &[u8] = b"+-*/<>=~!@#%^&|`?:";

/// Keywords that no database takes for a name unless they are quoted; dumps quote them.
const NEVER_NAMES: [&str; 7] = ["from", "into", "select", "union", "values", "where", "with"];

/// A token of a statement that may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword, or a name without quotes.
    Word(&'a str),
    /// A name between quotes; what is between them.
    Name(&'a str),
    /// A text between quotes; what is between them.
    Text(&'a str),
    /// A number without a sign.
    Number(&'a str),
    /// An operator, bracket or comma.
    Sign(&'a str),
    /// A text between dollar quotes; all of it.
    Dollar(&'a str),
}

/// Takes a statement apart; the reason if it holds what no allowed statement does.
pub fn tokens(dialect: Dialect, text: &str) -> Result<Vec<Token<'_>>, String> {
    if text.contains('\0') {
        return Err("it holds a zero byte".to_owned());
    }
    let mut lexer = Lexer::new(dialect);
    let (mut found, mut at, mut last) = (Vec::new(), 0, Kind::Space);
    while at < text.len() {
        let mut lexeme = lexer.next(&text.as_bytes()[at..]);
        if lexeme.kind == Kind::Symbol {
            lexeme.len = sign_len(&text.as_bytes()[at..]);
        }
        let part = text.get(at..at + lexeme.len).ok_or("it holds a sign that is not ASCII")?;
        let inner = part.get(1..part.len().saturating_sub(1)).unwrap_or_default();
        if lexeme.is_open {
            return Err("a quote in it has no end".to_owned());
        }
        found.extend(match lexeme.kind {
            Kind::Space => None,
            Kind::Word if is_plain_word(part) => Some(Token::Word(part)),
            // Dumps quote such names, and databases do not agree on what is a part of them.
            Kind::Word => return Err(format!("{part:?} is not quoted")),
            Kind::Number if is_number(part) => Some(Token::Number(part)),
            Kind::Number => return Err(format!("{part:?} is not a plain number")),
            // What stands right before a quote changes what the text means.
            Kind::Text | Kind::Name if matches!(last, Kind::Word | Kind::Number) => {
                return Err("it holds a quote with a prefix".to_owned());
            }
            Kind::Text => Some(Token::Text(inner)),
            Kind::Name => Some(Token::Name(inner)),
            Kind::Dollar => Some(Token::Dollar(part)),
            Kind::Symbol => Some(Token::Sign(part)),
            Kind::Comment => return Err("it holds a comment".to_owned()),
            Kind::EscapedText => return Err("it holds a text with escapes".to_owned()),
            Kind::Semicolon => return Err("it holds several statements".to_owned()),
        });
        last = lexeme.kind;
        at += lexeme.len;
    }
    Ok(found)
}

/// Returns the length of the sign at the front of a text: of an operator, all of its signs.
fn sign_len(rest: &[u8]) -> usize {
    let is_sign = |at: &usize| {
        let is_comment = rest[*at..].starts_with(b"--") || rest[*at..].starts_with(b"/*");
        OPERATOR_SIGNS.contains(&rest[*at]) && !is_comment
    };
    (0..rest.len()).take_while(is_sign).count().max(1)
}

fn is_plain_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_number(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    [whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A place among the tokens of a statement.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Begins before the first token.
    pub fn new(tokens: &'a [Token<'a>]) -> Self {
        Self { tokens, at: 0 }
    }

    /// Returns the next token.
    pub fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    /// Returns the token after the next one.
    pub fn peek_second(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at + 1).copied()
    }

    /// Returns the token before the next one.
    pub fn last(&self) -> Option<Token<'a>> {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).copied()
    }

    /// Takes the next token.
    pub fn take(&mut self) -> Option<Token<'a>> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }

    /// Returns whether the next token is this keyword.
    pub fn is_at(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word))
    }

    /// Takes these keywords, all or none, and returns whether they were there.
    pub fn words(&mut self, words: &str) -> bool {
        let before = self.at;
        for word in words.split(' ') {
            if !self.is_at(word) {
                self.at = before;
                return false;
            }
            self.at += 1;
        }
        true
    }

    /// Takes a sign, and returns whether it was there.
    pub fn sign(&mut self, sign: &str) -> bool {
        let is_there = self.peek() == Some(Token::Sign(sign));
        self.at += usize::from(is_there);
        is_there
    }

    /// Takes one of several keywords, and returns whether one was there.
    pub fn one_of(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.words(word))
    }

    /// Takes keywords that must be there.
    pub fn expect(&mut self, words: &str) -> Result<(), String> {
        if self.words(words) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Takes a sign that must be there.
    pub fn expect_sign(&mut self, sign: &str) -> Result<(), String> {
        if self.sign(sign) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Takes a name, in quotes or as a word; returns it as it stands there.
    pub fn name(&mut self) -> Result<&'a str, String> {
        match self.peek() {
            Some(Token::Word(word)) if NEVER_NAMES.iter().any(|never| word.eq_ignore_ascii_case(never)) => {
                Err(self.unexpected())
            }
            Some(Token::Word(name) | Token::Name(name)) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Takes a whole number, with or without a sign.
    pub fn number(&mut self) -> Result<(), String> {
        let _ = self.sign("-") || self.sign("+");
        match self.take() {
            Some(Token::Number(_)) => Ok(()),
            _ => Err(self.unexpected_before()),
        }
    }

    /// Takes a text.
    pub fn text(&mut self) -> Result<&'a str, String> {
        match self.take() {
            Some(Token::Text(text)) => Ok(text),
            _ => Err(self.unexpected_before()),
        }
    }

    /// Takes a list between brackets, each item by `item`.
    pub fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        self.expect_sign("(")?;
        loop {
            item(self)?;
            if self.sign(")") {
                return Ok(());
            }
            self.expect_sign(",")?;
        }
    }

    /// Takes a list of names between brackets.
    pub fn names(&mut self) -> Result<(), String> {
        self.list(|cursor| cursor.name().map(drop))
    }

    /// Fails unless all tokens were taken.
    pub fn end(&self) -> Result<(), String> {
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Says that the next token has no place there.
    pub fn unexpected(&self) -> String {
        match self.peek() {
            None => "it ends early".to_owned(),
            Some(Token::Word(text) | Token::Name(text) | Token::Number(text) | Token::Sign(text)) => {
                format!("{:?} has no place in it", text.chars().take(40).collect::<String>())
            }
            Some(Token::Text(_) | Token::Dollar(_)) => "a text in it has no place there".to_owned(),
        }
    }

    fn unexpected_before(&self) -> String {
        Self { tokens: self.tokens, at: self.at.saturating_sub(1) }.unexpected()
    }
}
