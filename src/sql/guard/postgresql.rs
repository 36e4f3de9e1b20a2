//! The statements that pg_dump writes for MLflow's databases, of every version of their schema, and a little around it
//! that an administrator may have changed: indexes, comments, another schema, storage parameters.
//!
//! What must stay true: no rule takes a name of a schema of the system, an expression that [`expression`] has not looked
//! at, or a type that is not built in.

use super::super::Dialect;
use super::cursor::{Cursor, Token};
use super::expression::{FUNCTIONS, collation, expression, in_brackets};
use super::types::type_name;

const DIALECT: Dialect = Dialect::Postgresql;

/// What pg_dump sets, and to what. Any other `search_path`, encoding or way to read strings would change what the rest
/// of the dump means.
const SETTINGS: [(&str, &str); 13] = [
    ("check_function_bodies", "false"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "warning"),
    ("default_table_access_method", "heap"),
    ("default_tablespace", ""),
    ("default_with_oids", "false"),
    ("idle_in_transaction_session_timeout", "0"),
    ("lock_timeout", "0"),
    ("row_security", "off"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("transaction_timeout", "0"),
    ("xmloption", "content"),
];
/// Storage parameters, or beginnings of their names.
const PARAMETERS: [&str; 5] = ["autovacuum_", "deduplicate_items", "fillfactor", "parallel_workers", "toast_tuple_"];
/// Kinds of indexes that PostgreSQL has built in.
const METHODS: [&str; 6] = ["btree", "brin", "gin", "gist", "hash", "spgist"];
/// What ends a column's default.
const AFTER_DEFAULT: [&str; 5] = ["COLLATE", "CONSTRAINT", "GENERATED", "NOT", "NULL"];

/// The one function that MLflow's schema has, and the trigger that calls it.
const MLFLOW_FUNCTION: &str = "prevent_secrets_aad_mutation";
/// Its body, with the quotes around it.
const MLFLOW_FUNCTION_BODY: &str = "$$
BEGIN
    IF OLD.secret_id != NEW.secret_id OR OLD.secret_name != NEW.secret_name THEN
        RAISE EXCEPTION 'secret_id and secret_name are immutable (used as AAD in encryption)';
    END IF;
    RETURN NEW;
END;
$$";

/// Returns whether a schema is the system's.
pub fn is_system_schema(schema: &str) -> bool {
    let schema = schema.to_ascii_lowercase();
    schema.starts_with("pg_") || schema == "information_schema"
}

/// Fails unless a statement is one of those that may be run.
pub fn check(tokens: &[Token<'_>]) -> Result<(), String> {
    let mut cursor = Cursor::new(tokens);
    statement(&mut cursor)?;
    cursor.end()
}

/// Names the extension that a statement makes or describes, if it does nothing else. MLflow needs none: what is on a server
/// is its administrator's.
pub fn extension_of(tokens: &[Token<'_>]) -> Option<String> {
    let mut cursor = Cursor::new(tokens);
    let is_made = cursor.words("CREATE EXTENSION");
    if !is_made && !cursor.words("COMMENT ON EXTENSION") {
        return None;
    }
    let _ = is_made && cursor.words("IF NOT EXISTS");
    let name = cursor.name().ok()?.to_owned();
    if is_made {
        let _ = cursor.words("WITH SCHEMA") && cursor.name().is_ok();
    } else if !cursor.words("IS") || !cursor.words("NULL") && cursor.text().is_err() {
        return None;
    }
    cursor.end().ok().map(|()| name)
}

/// Names the schema that a statement makes or describes, and says whether it makes it.
pub fn schema_of(tokens: &[Token<'_>]) -> Option<(String, bool)> {
    let mut cursor = Cursor::new(tokens);
    let is_made = cursor.words("CREATE SCHEMA");
    (is_made || cursor.words("COMMENT ON SCHEMA")).then_some(())?;
    Some((cursor.name().ok()?.to_owned(), is_made))
}

fn statement(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.words("SET") {
        setting(cursor)
    } else if cursor.words("SELECT pg_catalog") {
        call(cursor)
    } else if cursor.words("CREATE SCHEMA") {
        schema(cursor).map(drop)
    } else if cursor.words("CREATE TABLE") {
        table(cursor)
    } else if cursor.words("CREATE SEQUENCE") {
        qualified(cursor)?;
        sequence_options(cursor)
    } else if cursor.words("ALTER SEQUENCE") {
        owned_by(cursor)
    } else if cursor.words("CREATE INDEX") || cursor.words("CREATE UNIQUE INDEX") {
        index(cursor)
    } else if cursor.words("ALTER TABLE ONLY") || cursor.words("ALTER TABLE") {
        alter_table(cursor)
    } else if cursor.words("COMMENT ON") {
        comment(cursor)
    } else if cursor.words("CREATE FUNCTION") {
        mlflow_function(cursor)
    } else if cursor.words("CREATE TRIGGER") {
        mlflow_trigger(cursor)
    } else {
        Err("dumps of MLflow's databases have no such statement".to_owned())
    }
}

fn setting(cursor: &mut Cursor<'_>) -> Result<(), String> {
    let name = cursor.name()?;
    cursor.expect_sign("=")?;
    let value = match cursor.take() {
        Some(Token::Word(value) | Token::Text(value) | Token::Number(value)) => value,
        _ => return Err(cursor.unexpected()),
    };
    let is_known = SETTINGS.iter().any(|(known, usual)| name == *known && value == *usual);
    is_known.then_some(()).ok_or_else(|| format!("a dump does not set {name:?} to this value"))
}

/// Takes what stands behind `SELECT pg_catalog`.
fn call(cursor: &mut Cursor<'_>) -> Result<(), String> {
    cursor.expect_sign(".")?;
    if cursor.words("set_config") {
        cursor.expect_sign("(")?;
        let is_empty = cursor.text()? == "search_path" && cursor.sign(",") && cursor.text()?.is_empty();
        if !is_empty {
            return Err("a dump sets nothing but an empty search_path so".to_owned());
        }
        cursor.expect_sign(",")?;
        cursor.expect("false")?;
    } else {
        cursor.expect("setval")?;
        cursor.expect_sign("(")?;
        cursor.text()?;
        cursor.expect_sign(",")?;
        cursor.number()?;
        cursor.expect_sign(",")?;
        let _ = cursor.words("true") || cursor.expect("false").map(|()| true)?;
    }
    cursor.expect_sign(")")
}

fn schema<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, String> {
    let schema = cursor.name()?;
    if is_system_schema(schema) { Err(format!("{schema:?} is a schema of the system")) } else { Ok(schema) }
}

/// Takes `schema.name`, and returns the name.
fn qualified<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, String> {
    schema(cursor)?;
    cursor.expect_sign(".")?;
    cursor.name()
}

fn table(cursor: &mut Cursor<'_>) -> Result<(), String> {
    qualified(cursor)?;
    if cursor.peek_second() == Some(Token::Sign(")")) {
        cursor.expect_sign("(")?;
        cursor.expect_sign(")")?;
    } else {
        cursor.list(|cursor| if cursor.words("CONSTRAINT") { constraint(cursor) } else { column(cursor) })?;
    }
    parameters(cursor)
}

fn column(cursor: &mut Cursor<'_>) -> Result<(), String> {
    cursor.name()?;
    type_name(cursor)?;
    loop {
        if cursor.words("COLLATE") {
            collation(cursor)?;
        } else if cursor.words("DEFAULT") {
            default_value(cursor)?;
        } else if cursor.words("GENERATED ALWAYS AS") {
            in_brackets(cursor, DIALECT)?;
            let _ = cursor.one_of(&["STORED", "VIRTUAL"]);
        } else if cursor.words("CONSTRAINT") {
            cursor.name()?;
            cursor.expect("NOT NULL")?;
            let _ = cursor.words("NO INHERIT");
        } else if !cursor.one_of(&["NOT NULL", "NULL"]) {
            return Ok(());
        }
    }
}

fn default_value(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if !cursor.is_at("nextval") {
        return expression(cursor, DIALECT, &AFTER_DEFAULT);
    }
    cursor.take();
    cursor.expect_sign("(")?;
    cursor.text()?;
    cursor.expect_sign("::")?;
    cursor.expect("regclass")?;
    cursor.expect_sign(")")
}

/// Takes the name of a constraint, and what it demands.
fn constraint(cursor: &mut Cursor<'_>) -> Result<(), String> {
    cursor.name()?;
    if cursor.words("FOREIGN KEY") {
        cursor.names()?;
        cursor.expect("REFERENCES")?;
        qualified(cursor)?;
        cursor.names()?;
        while cursor.one_of(&["ON DELETE", "ON UPDATE"]) {
            action(cursor)?;
        }
    } else if cursor.words("CHECK") {
        in_brackets(cursor, DIALECT)?;
    } else if cursor.one_of(&["PRIMARY KEY", "UNIQUE NULLS NOT DISTINCT", "UNIQUE"]) {
        cursor.names()?;
        if cursor.words("INCLUDE") {
            cursor.names()?;
        }
        parameters(cursor)?;
    } else {
        return Err(cursor.unexpected());
    }
    while cursor.one_of(&["DEFERRABLE", "INITIALLY DEFERRED", "NO INHERIT", "NOT VALID"]) {}
    Ok(())
}

/// Takes what a foreign key does when the row that it refers to changes.
fn action(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.one_of(&["CASCADE", "RESTRICT", "NO ACTION", "SET NULL", "SET DEFAULT"]) {
        return Ok(());
    }
    Err(cursor.unexpected())
}

/// Takes storage parameters, if there are any.
fn parameters(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if !cursor.words("WITH") {
        return Ok(());
    }
    cursor.list(|cursor| {
        if cursor.words("toast") {
            cursor.expect_sign(".")?;
        }
        let name = cursor.name()?;
        if !PARAMETERS.iter().any(|known| name.starts_with(known)) {
            return Err(format!("it sets {name:?}"));
        }
        cursor.expect_sign("=")?;
        match cursor.take() {
            Some(Token::Word(_) | Token::Text(_) | Token::Number(_)) => Ok(()),
            _ => Err(cursor.unexpected()),
        }
    })
}

fn sequence_options(cursor: &mut Cursor<'_>) -> Result<(), String> {
    loop {
        if cursor.one_of(&["START WITH", "INCREMENT BY", "MINVALUE", "MAXVALUE", "CACHE"]) {
            cursor.number()?;
        } else if cursor.words("AS") {
            type_name(cursor)?;
        } else if !cursor.one_of(&["NO MINVALUE", "NO MAXVALUE", "NO CYCLE", "CYCLE"]) {
            return Ok(());
        }
    }
}

fn owned_by(cursor: &mut Cursor<'_>) -> Result<(), String> {
    qualified(cursor)?;
    cursor.expect("OWNED BY")?;
    qualified(cursor)?;
    cursor.expect_sign(".")?;
    cursor.name().map(drop)
}

fn alter_table(cursor: &mut Cursor<'_>) -> Result<(), String> {
    qualified(cursor)?;
    if cursor.words("ADD CONSTRAINT") {
        constraint(cursor)
    } else if cursor.words("ALTER COLUMN") {
        cursor.name()?;
        alter_column(cursor)
    } else if cursor.words("CLUSTER ON") || cursor.words("REPLICA IDENTITY USING INDEX") {
        cursor.name().map(drop)
    } else if cursor.one_of(&["REPLICA IDENTITY FULL", "REPLICA IDENTITY NOTHING"]) {
        Ok(())
    } else {
        Err(cursor.unexpected())
    }
}

fn alter_column(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.words("SET DEFAULT") {
        default_value(cursor)
    } else if cursor.words("SET STATISTICS") {
        cursor.number()
    } else if cursor.one_of(&["SET STORAGE", "SET COMPRESSION"]) {
        cursor.name().map(drop)
    } else if cursor.one_of(&["ADD GENERATED ALWAYS AS IDENTITY", "ADD GENERATED BY DEFAULT AS IDENTITY"]) {
        cursor.expect_sign("(")?;
        cursor.expect("SEQUENCE NAME")?;
        qualified(cursor)?;
        sequence_options(cursor)?;
        cursor.expect_sign(")")
    } else {
        Err(cursor.unexpected())
    }
}

fn index(cursor: &mut Cursor<'_>) -> Result<(), String> {
    cursor.name()?;
    cursor.expect("ON")?;
    let _ = cursor.words("ONLY");
    qualified(cursor)?;
    cursor.expect("USING")?;
    if !cursor.one_of(&METHODS) {
        return Err(cursor.unexpected());
    }
    cursor.list(index_element)?;
    if cursor.words("INCLUDE") {
        cursor.names()?;
    }
    let _ = cursor.words("NULLS NOT DISTINCT");
    parameters(cursor)?;
    if cursor.words("WHERE") { expression(cursor, DIALECT, &[]) } else { Ok(()) }
}

fn index_element(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.peek() == Some(Token::Sign("(")) {
        in_brackets(cursor, DIALECT)?;
    } else if cursor.peek_second() == Some(Token::Sign("(")) {
        if !cursor.one_of(&FUNCTIONS) {
            return Err(format!("it calls a function: {}", cursor.unexpected()));
        }
        in_brackets(cursor, DIALECT)?;
    } else {
        cursor.name()?;
    }
    if cursor.words("COLLATE") {
        collation(cursor)?;
    }
    // The class of operators. Those that are not built in have no place in a schema that is searched.
    if matches!(cursor.peek(), Some(Token::Word(class)) if class.ends_with("_ops")) {
        cursor.take();
    }
    let _ = cursor.one_of(&["ASC", "DESC"]);
    let _ = cursor.one_of(&["NULLS FIRST", "NULLS LAST"]);
    Ok(())
}

fn comment(cursor: &mut Cursor<'_>) -> Result<(), String> {
    if cursor.words("SCHEMA") {
        schema(cursor)?;
    } else if cursor.words("COLUMN") {
        qualified(cursor)?;
        cursor.expect_sign(".")?;
        cursor.name()?;
    } else if cursor.words("CONSTRAINT") {
        cursor.name()?;
        cursor.expect("ON")?;
        qualified(cursor)?;
    } else if cursor.one_of(&["TABLE", "INDEX", "SEQUENCE"]) {
        qualified(cursor)?;
    } else {
        return Err(cursor.unexpected());
    }
    cursor.expect("IS")?;
    if cursor.words("NULL") { Ok(()) } else { cursor.text().map(drop) }
}

fn mlflow_function(cursor: &mut Cursor<'_>) -> Result<(), String> {
    let is_it = qualified(cursor)? == MLFLOW_FUNCTION
        && cursor.sign("(")
        && cursor.sign(")")
        && cursor.words("RETURNS trigger LANGUAGE plpgsql AS")
        && cursor.take() == Some(Token::Dollar(MLFLOW_FUNCTION_BODY));
    is_it.then_some(()).ok_or_else(|| "it makes a function that is not MLflow's".to_owned())
}

fn mlflow_trigger(cursor: &mut Cursor<'_>) -> Result<(), String> {
    cursor.name()?;
    cursor.expect("BEFORE UPDATE ON")?;
    qualified(cursor)?;
    cursor.expect("FOR EACH ROW EXECUTE FUNCTION")?;
    let is_it = qualified(cursor)? == MLFLOW_FUNCTION && cursor.sign("(") && cursor.sign(")");
    is_it.then_some(()).ok_or_else(|| "it calls a function that is not MLflow's".to_owned())
}
