//! The statements that our own dumps of SQLite have for MLflow's databases, of every version of their schema.
//!
//! What must stay true: no rule takes the name of one of SQLite's own tables, except to set its counters, or an
//! expression that [`expression`] has not looked at.

use super::super::Dialect;
use super::cursor::{Cursor, Token};
use super::expression::{expression, in_brackets};

const DIALECT: Dialect = Dialect::Sqlite;

/// What follows the type of a column.
const AFTER_TYPE: [&str; 11] =
    ["AS", "CHECK", "COLLATE", "CONSTRAINT", "DEFAULT", "GENERATED", "NOT", "NULL", "PRIMARY", "REFERENCES", "UNIQUE"];
/// What begins a constraint of a table.
const TABLE_CONSTRAINTS: [&str; 5] = ["CHECK", "CONSTRAINT", "FOREIGN", "PRIMARY", "UNIQUE"];

/// The one trigger that MLflow's schema has.
const MLFLOW_TRIGGER: &str = "CREATE TRIGGER prevent_secrets_aad_mutation
BEFORE UPDATE ON secrets
FOR EACH ROW
WHEN OLD.secret_id != NEW.secret_id OR OLD.secret_name != NEW.secret_name
BEGIN
    SELECT RAISE(ABORT, 'secret_id and secret_name are immutable (used as AAD in encryption)');
END";

/// Returns whether a name belongs to SQLite itself.
pub fn is_system_name(name: &str) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"))
}

/// Returns whether a statement makes MLflow's own trigger.
pub fn is_known_trigger(text: &str) -> bool {
    text == MLFLOW_TRIGGER
}

/// Fails unless a statement is one of those that may be run.
pub fn check(tokens: &[Token<'_>]) -> Result<(), String> {
    let mut cursor = Cursor::new(tokens);
    statement(&mut cursor)?;
    cursor.end()
}

fn statement(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.words("CREATE TABLE") {
        table(cursor)
    } else if cursor.words("CREATE INDEX") || cursor.words("CREATE UNIQUE INDEX") {
        index(cursor)
    } else if cursor.words("INSERT INTO sqlite_sequence VALUES") {
        cursor.expect_sign("(")?;
        cursor.text()?;
        cursor.expect_sign(",")?;
        cursor.number()?;
        cursor.expect_sign(")")
    } else if cursor.words("DELETE FROM sqlite_sequence") {
        Ok(())
    } else if cursor.words("PRAGMA foreign_keys") {
        cursor.expect_sign("=")?;
        cursor.expect("OFF")
    } else if cursor.one_of(&["PRAGMA user_version", "PRAGMA application_id"]) {
        cursor.expect_sign("=")?;
        cursor.number()
    } else {
        Err("dumps of MLflow's databases have no such statement".to_owned())
    }
}

/// Takes the name of something of the user's.
fn own_name(cursor: &mut Cursor<'_>) -> Result<(), String> {
    let name = cursor.name()?;
    if is_system_name(name) { Err(format!("{name:?} is a name of the system")) } else { Ok(()) }
}

fn table(cursor: &mut Cursor<'_>) -> Result<(), String> {
    own_name(cursor)?;
    cursor.list(|cursor| {
        let is_constraint = TABLE_CONSTRAINTS.iter().any(|word| cursor.is_at(word));
        if is_constraint { table_constraint(cursor) } else { column(cursor) }
    })?;
    let _ = cursor.words("WITHOUT ROWID");
    let _ = cursor.sign(",");
    let _ = cursor.words("STRICT");
    Ok(())
}

fn column(cursor: &mut Cursor<'_>) -> Result<(), String> {
    cursor.name()?;
    while matches!(cursor.peek(), Some(Token::Word(_) | Token::Name(_)))
        && !AFTER_TYPE.iter().any(|word| cursor.is_at(word))
    {
        cursor.take();
    }
    if cursor.peek() == Some(Token::Sign("(")) {
        cursor.list(Cursor::number)?;
    }
    while column_constraint(cursor)? {}
    Ok(())
}

/// Takes one constraint, and returns whether there was one.
fn column_constraint(cursor: &mut Cursor<'_>) -> Result<bool, String> {
    if cursor.one_of(&["CONSTRAINT", "COLLATE"]) {
        cursor.name()?;
    } else if cursor.words("PRIMARY KEY") {
        let _ = cursor.one_of(&["ASC", "DESC"]);
        on_conflict(cursor)?;
        let _ = cursor.words("AUTOINCREMENT");
    } else if cursor.one_of(&["NOT NULL", "UNIQUE", "NULL"]) {
        on_conflict(cursor)?;
    } else if cursor.words("CHECK") {
        in_brackets(cursor, DIALECT)?;
    } else if cursor.words("DEFAULT") {
        default_value(cursor)?;
    } else if cursor.one_of(&["GENERATED ALWAYS AS", "AS"]) {
        in_brackets(cursor, DIALECT)?;
        let _ = cursor.one_of(&["STORED", "VIRTUAL"]);
    } else if cursor.words("REFERENCES") {
        references(cursor)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn default_value(cursor: &mut Cursor<'_>) -> Result<(), String> {
    match cursor.peek() {
        Some(Token::Sign("(")) => in_brackets(cursor, DIALECT),
        Some(Token::Text(_) | Token::Word(_) | Token::Name(_)) => {
            cursor.take();
            Ok(())
        }
        _ => cursor.number(),
    }
}

fn on_conflict(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if !cursor.words("ON CONFLICT") || cursor.one_of(&["ROLLBACK", "ABORT", "FAIL", "IGNORE", "REPLACE"]) {
        return Ok(());
    }
    Err(cursor.unexpected())
}

fn references(cursor: &mut Cursor<'_>) -> Result<(), String> {
    own_name(cursor)?;
    if cursor.peek() == Some(Token::Sign("(")) {
        cursor.names()?;
    }
    while cursor.one_of(&["ON DELETE", "ON UPDATE"]) {
        if !cursor.one_of(&["CASCADE", "RESTRICT", "NO ACTION", "SET NULL", "SET DEFAULT"]) {
            return Err(cursor.unexpected());
        }
    }
    let _ = cursor.one_of(&["NOT DEFERRABLE", "DEFERRABLE"]);
    let _ = cursor.one_of(&["INITIALLY DEFERRED", "INITIALLY IMMEDIATE"]);
    Ok(())
}

fn table_constraint(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.words("CONSTRAINT") {
        cursor.name()?;
    }
    if cursor.one_of(&["PRIMARY KEY", "UNIQUE"]) {
        cursor.list(index_element)?;
        on_conflict(cursor)
    } else if cursor.words("CHECK") {
        in_brackets(cursor, DIALECT)
    } else if cursor.words("FOREIGN KEY") {
        cursor.names()?;
        cursor.expect("REFERENCES")?;
        references(cursor)
    } else {
        Err(cursor.unexpected())
    }
}

fn index(cursor: &mut Cursor<'_>) -> Result<(), String> {
    own_name(cursor)?;
    cursor.expect("ON")?;
    own_name(cursor)?;
    cursor.list(index_element)?;
    if cursor.words("WHERE") { expression(cursor, DIALECT, &[]) } else { Ok(()) }
}

/// Takes a column or an expression. Its collation and order are words of the expression.
fn index_element(cursor: &mut Cursor<'_>) -> Result<(), String> {
    expression(cursor, DIALECT, &[])
}
