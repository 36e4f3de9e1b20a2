//! What a run of a command came to, in one object: for the log, for hooks, and for whoever is notified.
//!
//! What must stay true: the object is the same for all of them, and a reader of one version can read it later: fields may be
//! added, and none changes its meaning without another [`VERSION`]. It has a bound, however much went wrong. It holds no secret
//! that standard error would not show.

use std::fmt::Write;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::units::{count, format_duration};

/// Version of the object.
pub const VERSION: u32 = 1;
/// Problems, and warnings, that are repeated.
const REPEATED_MAX: usize = 20;
/// Lines of the result that are repeated.
const LINES_MAX: usize = 20;
/// Longest text that is repeated, in characters.
const TEXT_LEN_MAX: usize = 500;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A run begins: what is known only at its end is null.
    Start,
    /// A run has ended.
    Summary,
    /// Somebody tries whether telling works.
    Test,
}

/// Commands that change or prove something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watched {
    /// `backup`
    Backup,
    /// `copy`
    Copy,
    /// `forget`
    Forget,
    /// `prune`
    Prune,
    /// `check`
    Check,
    /// `drill`
    Drill,
    /// `restore`
    Restore,
    /// `rewrite`
    Rewrite,
    /// `repair`
    Repair,
    /// `undelete`
    Undelete,
}

impl Watched {
    /// Those that a schedule runs.
    pub const SCHEDULED: [Self; 6] = [Self::Backup, Self::Copy, Self::Forget, Self::Prune, Self::Check, Self::Drill];

    /// Returns what is called by a command and those below it, if it is one of these: `drill list`, for one, is a look.
    pub fn called(words: &[&str]) -> Option<Self> {
        match words {
            [name] | [name @ "repair", _] => serde_json::from_value(Value::from(*name)).ok(),
            _ => None,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunVerdict {
    /// Everything was done (exit code 0).
    Success,
    /// It finished, and something is missing or damaged (3).
    Incomplete,
    /// Somebody asked it to stop (130).
    Interrupted,
    /// Anything else.
    Failure,
}

impl RunVerdict {
    /// Returns the verdict for an exit code.
    pub fn of(exit_code: i32) -> Self {
        match exit_code {
            0 => Self::Success,
            3 => Self::Incomplete,
            130 => Self::Interrupted,
            _ => Self::Failure,
        }
    }

    /// Returns the word in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Incomplete => "incomplete",
            Self::Interrupted => "interrupted",
            Self::Failure => "failure",
        }
    }
}

/// Something that went wrong with one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToldProblem {
    /// The item.
    pub subject: String,
    /// What went wrong.
    pub message: String,
}

/// What was told while a run went on: the first of each kind, and how many there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The first problems.
    pub problems: Vec<ToldProblem>,
    /// How many there were.
    pub problem_count: u64,
    /// The first warnings.
    pub warnings: Vec<String>,
    /// How many there were.
    pub warning_count: u64,
}

impl Told {
    /// Adds a problem.
    pub fn problem(&mut self, subject: &str, message: &str) {
        self.problem_count += 1;
        if self.problems.len() < REPEATED_MAX {
            self.problems.push(ToldProblem { subject: cut(subject), message: cut(message) });
        }
    }

    /// Adds a warning.
    pub fn warning(&mut self, message: &str) {
        self.warning_count += 1;
        if self.warnings.len() < REPEATED_MAX {
            self.warnings.push(cut(message));
        }
    }
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HookOutcome {
    /// Which one: `before`, `after` or `failed`.
    pub hook: &'static str,
    /// Whether it did what it was to do.
    pub ok: bool,
    /// How its command ended, if by itself.
    pub exit_code: Option<i32>,
    /// How long it took.
    pub seconds: f64,
    /// What went wrong.
    pub error: Option<String>,
}

/// What came of telling one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotificationOutcome {
    /// Its name in the configuration.
    pub name: String,
    /// Whether it was told.
    pub ok: bool,
    /// What it answered, if that is known.
    pub answer: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
pub struct RunSummary {
    /// Version of this object.
    pub version: u32,
    /// What is told.
    pub event: Event,
    /// Name and version of the program.
    pub program: String,
    /// Name of the machine.
    pub host: String,
    /// The command.
    pub command: Option<Watched>,
    /// The deployment that was named.
    pub deployment: Option<String>,
    /// Where the repository is.
    pub repository: Option<String>,
    /// When the run began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How long it took.
    pub seconds: Option<f64>,
    /// How it ended.
    pub verdict: Option<RunVerdict>,
    /// The program's exit code.
    pub exit_code: Option<i32>,
    /// Why it failed.
    pub error: Option<String>,
    /// What can be done about that.
    pub hint: Option<String>,
    /// The snapshot that it made.
    pub snapshot: Value,
    /// How each part of the deployment stands.
    pub verdicts: Value,
    /// Numbers of the snapshot's record.
    pub statistics: Value,
    /// The last lines of the result for people.
    pub lines: Vec<String>,
    /// What was told meanwhile.
    #[serde(flatten)]
    pub told: Told,
    /// How hooks ended.
    pub hooks: Vec<HookOutcome>,
    /// What came of telling others; empty where these are told.
    pub notifications: Vec<NotificationOutcome>,
}

impl RunSummary {
    /// Describes a run that begins now.
    pub fn begun(event: Event, command: Option<Watched>, began: Timestamp) -> Self {
        Self {
            version: VERSION,
            event,
            program: concat!("mlvault ", env!("CARGO_PKG_VERSION")).to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            command,
            deployment: None,
            repository: None,
            began,
            ended: None,
            seconds: None,
            verdict: None,
            exit_code: None,
            error: None,
            hint: None,
            snapshot: Value::Null,
            verdicts: Value::Null,
            statistics: Value::Null,
            lines: Vec::new(),
            told: Told::default(),
            hooks: Vec::new(),
            notifications: Vec::new(),
        }
    }

    /// Takes over what the document of a result says of a snapshot, and the last lines for people.
    pub fn take_result(&mut self, document: &Value, lines: &[String]) {
        self.snapshot = document["snapshot"].clone();
        let record = &document["record"];
        self.verdicts = record["deployment"]["verdicts"].clone();
        self.statistics = record["statistics"].clone();
        let rest = lines.len().saturating_sub(LINES_MAX);
        self.lines = lines[rest..].iter().map(|line| cut(line)).collect();
    }

    /// Says that the run has ended.
    pub fn end(&mut self, exit_code: i32, error: Option<(String, Option<String>)>, ended: Timestamp) {
        self.event = Event::Summary;
        self.ended = Some(ended);
        self.seconds = Some(ended.duration_since(self.began).as_secs_f64().max(0.0));
        self.verdict = Some(RunVerdict::of(exit_code));
        self.exit_code = Some(exit_code);
        (self.error, self.hint) = error.map_or((None, None), |(error, hint)| (Some(cut(&error)), hint));
    }

    /// Says it in a line: what ran, and how it ended.
    pub fn title(&self) -> String {
        let name = |command: Watched| serde_json::to_value(command).ok()?.as_str().map(str::to_owned);
        let command = self.command.and_then(name).unwrap_or_default();
        let of = self.deployment.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
        let how = match (self.event, self.verdict) {
            (Event::Test, _) => return format!("mlvault on {}: a test message", self.host),
            (_, None) => "has begun".to_owned(),
            (_, Some(RunVerdict::Success)) => "success".to_owned(),
            (_, Some(verdict)) => verdict.name().to_uppercase(),
        };
        format!("mlvault {command}{of} on {}: {how}", self.host)
    }

    /// Says it for people, in lines.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.title());
        let mut line = |line: &str| {
            let _ = writeln!(text, "{line}");
        };
        if let (Some(code), Some(seconds)) = (self.exit_code, self.seconds) {
            line(&format!(
                "Exit code {code} after {}, at {}",
                format_duration(seconds),
                self.ended.unwrap_or(self.began)
            ));
        }
        self.repository.iter().for_each(|repository| line(&format!("Repository: {repository}")));
        self.error.iter().for_each(|error| line(&format!("Error: {error}")));
        self.hint.iter().for_each(|hint| line(&format!("Hint: {hint}")));
        let Told { problems, problem_count, warnings, warning_count } = &self.told;
        problems.iter().for_each(|it| line(&format!("Problem: {}: {}", it.subject, it.message)));
        if *problem_count > problems.len() as u64 {
            line(&format!("{} in all", count(*problem_count, "problem")));
        }
        warnings.iter().for_each(|warning| line(&format!("Warning: {warning}")));
        if *warning_count > warnings.len() as u64 {
            line(&format!("{} in all", count(*warning_count, "warning")));
        }
        self.lines.iter().for_each(|said| line(said));
        text
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_a_bound_however_much_went_wrong() {
        let mut summary = RunSummary::begun(Event::Start, Some(Watched::Backup), Timestamp::UNIX_EPOCH);
        for _ in 0..1000 {
            summary.told.problem(&"p".repeat(5000), &"m".repeat(5000));
            summary.told.warning(&"w".repeat(5000));
        }
        summary.take_result(&Value::Null, &vec!["l".repeat(5000); 1000]);
        summary.end(3, Some(("e".repeat(5000), None)), Timestamp::UNIX_EPOCH);
        let json = serde_json::to_string(&summary).unwrap();
        assert!(json.len() < 64 << 10, "{}", json.len());
        assert!(summary.text().contains("1000 problems in all") && summary.text().contains("INCOMPLETE"));
        assert_eq!(summary.told.problem_count, 1000);
    }

    #[test]
    fn every_exit_code_has_a_verdict() {
        let verdicts = [0, 3, 130, 1, 2, 12].map(RunVerdict::of);
        let names = verdicts.map(RunVerdict::name);
        assert_eq!(names, ["success", "incomplete", "interrupted", "failure", "failure", "failure"]);
    }

    #[test]
    fn what_only_looks_is_not_watched() {
        assert_eq!(Watched::called(&["backup"]), Some(Watched::Backup));
        assert_eq!(Watched::called(&["repair", "packs"]), Some(Watched::Repair));
        for words in [&["snapshots"][..], &["drill", "list"], &["key", "list"], &[]] {
            assert_eq!(Watched::called(words), None);
        }
    }
}
