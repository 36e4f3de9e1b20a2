//! Refuses passwords among the arguments: every user of the machine can see the arguments of a process.
//!
//! What must stay true: all arguments of all commands are looked at, whatever they mean, so that no new option can be
//! forgotten; a message names the option and repeats nothing of its value. What comes from a file or from the environment
//! is not looked at: only the same user can read it.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use mlvault::error::{Error, Result};

/// Parameters of a URI that are passwords.
const PASSWORD_PARAMETERS: [&str; 2] = ["password", "sslpassword"];

/// Fails if an argument that was typed holds a URI with a password.
pub fn refuse(command: &Command, matches: &ArgMatches) -> Result<()> {
    for id in matches.ids().filter(|id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine)) {
        // A group has an id too, and no values of its own.
        let values = matches.try_get_raw(id.as_str()).ok().flatten().into_iter().flatten();
        if values.into_iter().any(|value| holds_password(&value.to_string_lossy())) {
            return Err(refusal(command.get_arguments().find(|argument| argument.get_id() == id)));
        }
    }
    match matches.subcommand() {
        Some((name, below)) => refuse(command.find_subcommand(name).unwrap_or(command), below),
        None => Ok(()),
    }
}

fn refusal(argument: Option<&Arg>) -> Error {
    let name = argument.and_then(Arg::get_long).map_or_else(|| "An argument".to_owned(), |long| format!("--{long}"));
    let variable = argument.and_then(Arg::get_env).map(|variable| variable.to_string_lossy().into_owned());
    let instead = variable.map_or_else(
        || "Use a file or a variable of the environment".to_owned(),
        |variable| format!("Set {variable}, or use the configuration file"),
    );
    Error::Invalid(format!(
        "{name} holds a password, which every user of this machine could see in the list of processes. {instead}; a \
         password of PostgreSQL can also be in a password file, in PGPASSWORD or in ~/.pgpass"
    ))
}

/// Returns whether a text has a URI with a password in it.
fn holds_password(text: &str) -> bool {
    text.match_indices("://").any(|(at, separator)| {
        let rest = &text[at + separator.len()..];
        let uri = rest.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '"')).next().unwrap_or_default();
        has_password_of_user(uri) || has_password_parameter(uri)
    })
}

/// As SQLAlchemy reads a URI: the user ends at the first colon, and the password, which may hold a `/`, at an `@`.
fn has_password_of_user(uri: &str) -> bool {
    let Some((user, rest)) = uri.split_once(':') else { return false };
    let Some((password, _)) = rest.split_once('@') else { return false };
    // Without a user, this is the port of a host, and the `@` belongs to its path.
    let is_port = password.split(['/', '?', '#']).next().is_some_and(|port| {
        port.len() < password.len() && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
    !user.contains(['/', '?', '#', '@']) && !is_port && is_secret(password)
}

fn has_password_parameter(uri: &str) -> bool {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    query
        .split(['&', '#'])
        .filter_map(|pair| pair.split_once('='))
        .any(|(name, value)| PASSWORD_PARAMETERS.contains(&name.to_ascii_lowercase().as_str()) && is_secret(value))
}

/// A name that a shell is still to replace (`$PASSWORD`) is no secret, nor is an empty text.
fn is_secret(password: &str) -> bool {
    !password.is_empty() && !password.starts_with('$')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_uri_is_seen_wherever_it_stands() {
        for text in [
            "postgresql://u:hunter2@h/d",
            "postgresql+psycopg2://u:p%40:w@h:5432/d?sslmode=require",
            "postgresql://u:hun/ter2@h/d",
            "postgresql://u:123456@h/d",
            "postgresql://:hunter2@h/d",
            "postgresql://u@h/d?sslmode=require&password=hunter2",
            "https://ann:hunter2@mlflow.example.org",
            "deployment.p.backend-store-uri=postgresql://u:hunter2@h/d",
            "deployment.p.backend-store-uri=\"postgresql://u:hunter2@h/d\"",
            "pg_dump 'postgresql://u:hunter2@h/d' | gzip",
            "mlflow-artifacts:/=s3://key:hunter2@bucket",
        ] {
            assert!(holds_password(text), "{text}");
        }
    }

    #[test]
    fn what_has_no_password_is_left_alone() {
        for text in [
            "postgresql://u@h:5432/d?application_name=a@b",
            "postgresql://h:5432/d?application_name=a@b",
            "postgresql://u:@h/d",
            "postgresql://u@/d?host=/run/pg&port=5433",
            "postgresql://u@h/d?password=",
            "sqlite:////srv/a:b@c.db",
            "http://localhost:9000",
            "https://mlflow.example.org:8443/team/a@b",
            "s3://bucket/a:b@c",
            "pg_dump postgresql://u:$PASSWORD@h/d",
            "mlflow-artifacts:/=s3://mlflow/artifacts",
            "a:b@c",
        ] {
            assert!(!holds_password(text), "{text}");
        }
    }
}
