//! The one way to standard error: progress, problems, notes, errors; and how its lines look.
//!
//! What must stay true:
//! - Nobody is stopped by what cannot be told. A standard error that is closed or full (a pipe whose reader is gone, a log on
//!   a full disk) costs the message and never the backup.
//! - Where lines are stamped or JSON, each line is one thing that was said, whatever is in its text.

use std::io::{self, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Value, json};

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people who look on
    Plain,
    /// For logs: each line begins with time and level
    Stamped,
    /// For programs: each line is a JSON object
    Json,
}

/// What kind of thing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What a run is about, in logs only.
    Start,
    /// How far it is.
    Progress,
    /// What was done to one item.
    Detail,
    /// Something worth saying.
    Note,
    /// Something that whoever uses the result has to know.
    Warning,
    /// Something that went wrong with one item.
    Problem,
    /// Why the command failed.
    Error,
    /// What can be done about that.
    Hint,
    /// What the run came to, for programs only.
    Summary,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Progress => "progress",
            Self::Detail => "detail",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Error => "error",
            Self::Hint => "hint",
            Self::Summary => "summary",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Start | Self::Progress | Self::Detail | Self::Summary => "",
            Self::Note => "Note: ",
            Self::Warning => "Warning: ",
            Self::Problem => "Problem: ",
            Self::Error => "Error: ",
            Self::Hint => "Hint: ",
        }
    }

    /// The snapshot lacks what a problem is about, so that counts as much as an error.
    fn level(self) -> &'static str {
        match self {
            Self::Start | Self::Progress | Self::Detail | Self::Note | Self::Hint | Self::Summary => "INFO",
            Self::Warning => "WARN",
            Self::Problem | Self::Error => "ERROR",
        }
    }
}

/// The format, and whether it was asked for by its name.
static CHOSEN: OnceLock<(LogFormat, bool)> = OnceLock::new();

/// Chooses how lines look from now on. With `--json` they are JSON unless something else is asked for.
pub fn choose(asked: Option<LogFormat>, is_json: bool) {
    let usual = if is_json { LogFormat::Json } else { LogFormat::Plain };
    let _ = CHOSEN.set((asked.unwrap_or(usual), asked.is_some()));
}

/// Returns how lines look.
pub fn format() -> LogFormat {
    CHOSEN.get().map_or(LogFormat::Plain, |(format, _)| *format)
}

/// Returns whether somebody keeps a log, who wants to know what a run was about.
pub fn is_log() -> bool {
    CHOSEN.get().is_some_and(|(format, is_asked)| *is_asked && *format != LogFormat::Plain)
}

/// Says something.
pub fn tell(kind: Kind, message: &str) {
    tell_with(kind, message, json!({}));
}

/// Says something that has further members as JSON; a `message` among them is instead of the one for people.
pub fn tell_with(kind: Kind, message: &str, members: Value) {
    let _ = writeln!(io::stderr().lock(), "{}", line(format(), Timestamp::now(), kind, (message, members)));
}

fn line(format: LogFormat, now: Timestamp, kind: Kind, (message, mut members): (&str, Value)) -> String {
    let time = now.strftime("%FT%TZ");
    match format {
        LogFormat::Plain => format!("{}{message}", kind.prefix()),
        LogFormat::Stamped => {
            let prefix = if kind == Kind::Hint { kind.prefix() } else { "" };
            format!("{time} {:5} {prefix}{}", kind.level(), message.trim_end().replace('\n', " "))
        }
        LogFormat::Json => {
            if members.get("message").is_none() {
                members["message"] = message.into();
            }
            members["time"] = time.to_string().into();
            members["level"] = kind.level().into();
            members["type"] = kind.name().into();
            members.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_says_the_same_in_its_own_way() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let members = || json!({ "subject": "a", "message": "gone\nfor good" });
        let said = |format| line(format, now, Kind::Problem, ("a: gone\nfor good", members()));
        assert_eq!(said(LogFormat::Plain), "Problem: a: gone\nfor good");
        assert_eq!(said(LogFormat::Stamped), "2023-11-14T22:13:20Z ERROR a: gone for good");
        let told: Value = serde_json::from_str(&said(LogFormat::Json)).unwrap();
        let expected = json!({
            "time": "2023-11-14T22:13:20Z", "level": "ERROR", "type": "problem", "subject": "a", "message": "gone\nfor good",
        });
        assert_eq!(told, expected);
        let hint = line(LogFormat::Stamped, now, Kind::Hint, ("do it", json!({})));
        assert_eq!(hint, "2023-11-14T22:13:20Z INFO  Hint: do it");
    }
}
