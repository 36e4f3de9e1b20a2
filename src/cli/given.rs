//! Which arguments were given, and whether they were typed or came from the environment.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

/// An argument that was given.
pub struct GivenValue {
    /// Its long name, without the dashes.
    pub name: String,
    /// What was given.
    pub value: String,
    /// What it was given by: an option or a variable.
    pub by: String,
}

/// Arguments of a run that were given.
#[derive(Default)]
pub struct Given(Vec<GivenValue>);

impl Given {
    /// Collects them from the command that was called; the arguments of every command are among its own.
    pub fn new(command: &Command, matches: &ArgMatches) -> Self {
        if let Some((name, below)) = matches.subcommand() {
            return Self::new(command.find_subcommand(name).unwrap_or(command), below);
        }
        let values = command.get_arguments().filter_map(|argument| {
            let (id, name) = (argument.get_id().as_str(), argument.get_long()?);
            let by = match matches.value_source(id)? {
                ValueSource::CommandLine => format!("--{name}"),
                ValueSource::EnvVariable => argument.get_env()?.to_string_lossy().into_owned(),
                _ => return None,
            };
            let raw = matches.try_get_raw(id).ok().flatten()?;
            let value = raw.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
            Some(GivenValue { name: name.to_owned(), value, by })
        });
        Self(values.collect())
    }

    /// Returns whether an argument was given.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Returns what was given for an argument.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|given| given.name == name).map(|given| given.value.as_str())
    }

    /// Returns them all.
    pub fn values(&self) -> &[GivenValue] {
        &self.0
    }
}
