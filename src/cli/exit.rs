//! Exit codes, and what a user can do about an error.

use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::json;

use mlvault::environment;
use mlvault::error::{Error, Fault};

use crate::cli::stderr::{self, Kind, LogFormat};

/// Variable that says how lines on standard error look.
pub const LOG_FORMAT_VARIABLE: &str = "MLVAULT_LOG_FORMAT";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(u8);

/// Everything was done.
pub const COMPLETE: Code = Code(0);
/// The command failed.
pub const FAILED: Code = Code(1);
/// A comparison found differences.
pub const DIFFERENT: Code = Code(1);
/// The arguments are unusable.
pub const USAGE: Code = Code(2);
/// The command finished, but something is missing or damaged.
pub const INCOMPLETE: Code = Code(3);
/// Content is not what it was, and must never change.
pub const ALTERED: Code = Code(4);
/// There is no repository at the location.
pub const NO_REPOSITORY: Code = Code(10);
/// Something is in use, or was ended from outside.
pub const BUSY: Code = Code(11);
/// The key does not open the repository, or not for this, or the repository is not the one that was pinned.
pub const WRONG_KEY: Code = Code(12);
/// The user or the system asked to stop.
pub const INTERRUPTED: Code = Code(130);

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.0)
    }
}

impl From<Code> for i32 {
    fn from(code: Code) -> Self {
        code.0.into()
    }
}

/// Returns the exit code of another process; what is none is a failure.
pub fn of_process(code: i32) -> Code {
    u8::try_from(code).map_or(FAILED, Code)
}

/// Returns the exit code of an error.
pub fn code_of(error: &Error) -> Code {
    match error {
        Error::Invalid(_) => USAGE,
        Error::NoRepository { .. } => NO_REPOSITORY,
        Error::Busy(_) => BUSY,
        Error::WrongKey { .. } | Error::NotPinned { .. } | Error::Role { .. } => WRONG_KEY,
        Error::Interrupted => INTERRUPTED,
        _ => FAILED,
    }
}

/// Returns what a user can do about an error.
pub fn hint_of(error: &Error) -> Option<&'static str> {
    match error {
        Error::NoRepository { .. } => Some("check the location, or create a repository there with `mlvault init`"),
        Error::WrongKey { .. } => {
            Some("the recovery key that `mlvault init` printed opens the repository too: set MLVAULT_KEY_FILE")
        }
        Error::NotPinned { remembered: None, .. } => Some(
            "somebody may have put another repository in its place: find out before you back up there. If you made it anew, \
             state its new pin, and use a key that was made for it",
        ),
        Error::NotPinned { remembered: Some(_), .. } => Some(
            "somebody may have put another repository in its place: find out before you back up there. If you made it anew, \
             state its new pin (--pin), or remove the file that remembers the old one",
        ),
        Error::Role { .. } => Some("use a key with another role; `mlvault key list` shows the keys and their roles"),
        Error::MissingChunk { .. } => Some(
            "`mlvault check` shows what else is affected; `mlvault repair index` finds chunks that the index lacks, and \
             `mlvault repair packs` recovers chunks of damaged packs",
        ),
        Error::Damaged { .. } => {
            Some("`mlvault check` shows what else is affected, and which `mlvault repair` command helps")
        }
        Error::FormatVersion { .. } => Some("use the mlvault version that wrote the repository, or a newer one"),
        Error::Statements { .. } => Some(
            "read these statements: the dump is what `mlvault restore --component database --target -` prints; allow those \
             that you want to run with --allow-statement ID",
        ),
        Error::Backend { fault: Fault::Denied, .. } => Some("check the credentials and their permissions"),
        Error::Backend { fault: Fault::Full, .. } => {
            Some("free some space and run the command again; nothing half-written is visible")
        }
        Error::Backend { fault: Fault::Unavailable, .. } => {
            Some("`mlvault doctor` tests the storage of the repository")
        }
        _ => None,
    }
}

/// Prints help, or what is wrong with the arguments, and returns the exit code. Who asked for JSON gets that.
pub fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return COMPLETE.into();
    }
    let asked = environment::variable(LOG_FORMAT_VARIABLE).and_then(|name| LogFormat::from_str(&name, true).ok());
    stderr::choose(asked, std::env::args_os().any(|argument| argument == "--json"));
    if stderr::format() == LogFormat::Plain {
        let _ = error.print();
    } else {
        let text = error.to_string();
        tell_error(text.trim_start_matches("error: ").trim_end(), None, USAGE);
    }
    USAGE.into()
}

/// Prints an error with its hint and returns its exit code.
pub fn report(error: &Error) -> Code {
    let code = code_of(error);
    tell_error(&error.to_string(), hint_of(error), code);
    code
}

fn tell_error(message: &str, hint: Option<&str>, code: Code) {
    stderr::tell_with(Kind::Error, message, json!({ "hint": hint, "exit_code": code.0 }));
    if let (Some(hint), true) = (hint, stderr::format() != LogFormat::Json) {
        stderr::tell(Kind::Hint, hint);
    }
}
