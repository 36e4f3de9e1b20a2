//! `mlvault status`

use clap::{Args as Group, Parser};
use jiff::SignedDuration;
use serde_json::json;

use mlvault::config::file::DeploymentSection;
use mlvault::error::{Error, Result};
use mlvault::format::deployment::{Verdict, Verdicts};
use mlvault::format::evidence::{DrillResult, DrillTime, ReadScope};
use mlvault::repository::Repository;
use mlvault::repository::naming::Scope;
use mlvault::retention::outlook::{NIGHTS, Outlook};
use mlvault::status::{self, CheckStatus, DrillStatus, Expected, SnapshotStatus, SourceStatus, Status, StatusOptions};
use mlvault::units::{count, format_age, format_bytes, format_duration};

use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::progress::printable;
use crate::cli::{exit, output, values};

/// Say whether every deployment has a good snapshot that is young enough, and what else somebody should look at
///
/// Everything is read from the repository itself: a nightly job that did not run is seen, too. Deployments of the
/// configuration file that were never backed up are named. A good snapshot is a complete one.
///
/// Exit code 1 if there is an alarm.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault status
  mlvault status --deployment production --max-age 26h")]
pub struct Args {
    #[command(flatten)]
    judge: JudgeArgs,
}

/// What to look at, and by what to judge.
#[derive(Group)]
pub struct JudgeArgs {
    /// Look only at this deployment
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
    /// Look only at this source, as listed in the SOURCE column
    #[arg(long, value_name = "SOURCE")]
    group: Option<String>,
    /// Age from which on the last good snapshot is too old, such as 26h, for every source and whatever the objectives say
    /// [default: what the objectives say; 26h for deployments without any]
    #[arg(long, value_name = "AGE", value_parser = values::duration)]
    max_age: Option<SignedDuration>,
    /// Time zone in which days begin, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
}

impl JudgeArgs {
    /// Returns what to look at.
    pub fn options(&self, context: &Context) -> Result<StatusOptions> {
        let scope = match (&self.group, &self.deployment) {
            (Some(group), _) => Scope::Group(group.clone()),
            (None, Some(name)) => Scope::Deployment(name.clone()),
            (None, None) => Scope::Any,
        };
        Ok(StatusOptions {
            scope,
            expected: self.expected(context)?,
            age_max: self.max_age,
            zone: values::time_zone(&self.time_zone)?,
        })
    }

    /// Returns what is known from elsewhere: the deployments of the file, and the one that is asked for, which should have
    /// snapshots even if the file does not name it.
    fn expected(&self, context: &Context) -> Result<Vec<Expected>> {
        let file = context.file();
        let expected = |(name, section): (&String, &DeploymentSection)| {
            let (deployment, objectives) = (name.clone(), section.objectives.clone());
            Ok(Expected { deployment, objectives, policy: file.retention(name)? })
        };
        let configured = &file.deployment;
        let mut all = configured.iter().map(expected).collect::<Result<Vec<_>>>()?;
        if let Some(name) = self.deployment.as_ref().filter(|name| !configured.contains_key(*name)) {
            all.push(Expected { deployment: name.clone(), objectives: Default::default(), policy: None });
        }
        Ok(all)
    }
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let options = args.judge.options(context)?;
    let repository = context.repository()?;
    let status = look(context, &repository, &options)?;
    let code = if status.is_well() { exit::COMPLETE } else { exit::FAILED };
    Ok(Outcome::new(code, json!({ "is_well": status.is_well(), "status": status }), text(&status)))
}

/// Looks at a repository. Fails with [`Error::NotFound`] for a source that nobody has heard of.
pub fn look(context: &Context, repository: &Repository, options: &StatusOptions) -> Result<Status> {
    let status = status::look(repository, options, &context.hears())?;
    match (&options.scope, status.sources.is_empty()) {
        (Scope::Group(group), true) => Err(Error::NotFound(format!("No snapshot belongs to {group:?}"))),
        _ => Ok(status),
    }
}

fn text(status: &Status) -> Text {
    let mut text = Text::from(format!(
        "{} at {}: {} in {}",
        printable(&status.location),
        output::format_time(&status.at),
        format_bytes(status.stored.pack_bytes),
        count(status.stored.packs, "pack"),
    ));
    text.line(format!(
        "Last check: {}",
        status.checks.newest.as_ref().map_or_else(|| "none is on record".to_owned(), check)
    ));
    for source in &status.sources {
        text.line(String::new());
        text.line(format!(
            "{}{}",
            printable(&source.source),
            if source.is_configured { "" } else { " (not configured)" }
        ));
        text.extend(Text::from(source_rows(source)));
    }
    text.line(String::new());
    text.extend(status.alarms.iter().map(|alarm| {
        let of = alarm.source.as_ref().map_or_else(String::new, |source| format!("{}: ", printable(source)));
        format!("ALARM {} {of}{}", alarm.kind.name(), printable(&alarm.message))
    }));
    text.line(match (status.alarms.len(), status.sources.is_empty()) {
        (0, true) => "Nothing is backed up here, and nothing is expected".to_owned(),
        (0, false) => "All is well".to_owned(),
        (alarms, _) => count(alarms, "alarm"),
    });
    text
}

fn source_rows(source: &SourceStatus) -> Vec<Vec<String>> {
    let rows = [
        Some(("last good", last_good(source))),
        latest(source).map(|text| ("latest", text)),
        source.last_good.as_ref().and_then(|good| good.verdicts).map(|verdicts| ("verdicts", verdicts_text(&verdicts))),
        source.last_good.as_ref().map(|good| ("holds", size(good))),
        Some(("growth", growth(source))),
        Some(("snapshots", snapshots(source))),
        source.drills.newest.as_ref().map(|newest| ("drill", drill(source, newest))),
        source.retention.as_ref().map(|outlook| ("retention", retention(source, outlook))),
        (source.accepted.count > 0).then(|| ("accepted", accepted(source))),
    ];
    rows.into_iter().flatten().map(|(name, text)| vec![format!("  {name}"), text]).collect()
}

fn last_good(source: &SourceStatus) -> String {
    let limit =
        source.objectives.rpo_seconds.map_or_else(String::new, |limit| format!(", at most {}", format_age(limit)));
    match &source.last_good {
        None => format!("none{limit}"),
        Some(good) => format!(
            "{} made {} ({} ago{limit}) by {}",
            good.id.short(),
            output::format_word(&good.made, good.time_doubtful),
            format_age(good.age_seconds),
            printable(&good.by),
        ),
    }
}

fn latest(source: &SourceStatus) -> Option<String> {
    let latest = source.latest.as_ref().filter(|latest| !latest.is_complete)?;
    let (id, made) = (latest.id.short(), output::format_time(&latest.made));
    Some(format!("{id} made {made}, INCOMPLETE, {}", count(latest.problems, "problem")))
}

fn verdicts_text(verdicts: &Verdicts) -> String {
    let said = verdicts.parts().into_iter().filter(|(_, verdict)| *verdict != Verdict::Absent);
    said.map(|(part, verdict)| format!("{part} {}", verdict_word(verdict))).collect::<Vec<_>>().join(", ")
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::NotOk => "NOT OK",
        Verdict::Accepted => "accepted",
        Verdict::Absent => "absent",
    }
}

fn check(check: &CheckStatus) -> String {
    let found = if check.clean { "no damage".to_owned() } else { count(check.problems, "problem") };
    let read = match check.read.what {
        ReadScope::Nothing => "read no packs".to_owned(),
        _ => format!("read {} of {}", check.read.packs, count(check.read.packs_total, "pack")),
    };
    let (ago, by) = (format_age(check.evidence.age_seconds), printable(&check.evidence.by));
    format!("{found}, {read}, {ago} ago by {by}")
}

fn drill(source: &SourceStatus, newest: &DrillStatus) -> String {
    let result = match newest.result {
        DrillResult::Passed => "passed",
        DrillResult::Failed => "FAILED",
        DrillResult::Late => "passed, but LATE",
    };
    let all = newest.times.iter().find(|time| time.part == DrillTime::WHOLE);
    let target =
        source.objectives.rto_seconds.map_or_else(String::new, |limit| format!(", at most {}", format_age(limit)));
    let took = all.map_or_else(String::new, |time| {
        format!("; a restore took {}{target}", format_duration(time.milliseconds as f64 / 1000.0))
    });
    let exceptions = match newest.exceptions {
        0 => String::new(),
        exceptions => format!("; {}", count(exceptions, "exception")),
    };
    let (ago, by) = (format_age(newest.evidence.age_seconds), printable(&newest.evidence.by));
    format!("{result} {ago} ago with {} by {by}{took}{exceptions}", newest.snapshot.short())
}

fn size(good: &SnapshotStatus) -> String {
    let rows = if good.size.rows > 0 { format!(", {}", count(good.size.rows, "row")) } else { String::new() };
    format!("{} in {}{rows}", format_bytes(good.size.bytes), count(good.size.entries, "entry"))
}

fn growth(source: &SourceStatus) -> String {
    let days = |bytes, days| format!("{} stored in {days} days", format_bytes(bytes));
    format!("{}, {}", days(source.growth.bytes_7_days, 7), days(source.growth.bytes_30_days, 30))
}

fn snapshots(source: &SourceStatus) -> String {
    let (incomplete, trash) = (source.snapshots_incomplete, source.trash);
    let more = [(incomplete, "incomplete"), (trash, "in the trash")];
    let more = more.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!(", {number} {what}"));
    format!("{}{}", source.snapshots, more.collect::<String>())
}

fn retention(source: &SourceStatus, outlook: &Outlook) -> String {
    let policy = printable(source.policy.as_deref().unwrap_or_default());
    let due = match outlook.due.len() {
        0 => String::new(),
        due => format!(", {} would be forgotten now", count(due, "snapshot")),
    };
    let next = match outlook.next.first() {
        None => format!("nothing goes within {NIGHTS} days"),
        Some(next) => format!(
            "the next to go is {} of {}, on {}",
            next.snapshot.short(),
            next.made.strftime("%F"),
            next.on.strftime("%F")
        ),
    };
    format!("policy {policy} keeps {}{due}; {next}", outlook.kept)
}

fn accepted(source: &SourceStatus) -> String {
    let lost = match source.accepted.count {
        1 => "1 loss".to_owned(),
        losses => format!("{losses} losses"),
    };
    match source.accepted.first_end {
        None => format!("{lost}; the acceptances have ended"),
        Some(end) => format!("{lost}; the first acceptance ends {}", output::format_time(&end)),
    }
}
