//! What goes on around a command that changes or proves something: hooks, notifications, and the summary of the run.
//!
//! What must stay true:
//! - How a command ended is decided by the command, and by the hook before it, which can keep it from beginning. What comes
//!   after it warns, and changes neither its result nor its exit code.
//! - After a signal all of this ends in time, and somebody is told all the same.
//! - A dry run changes nothing and proves nothing: nobody hears of it.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use mlvault::cancel::Cancel;
use mlvault::error::{Error, Result};
use mlvault::hooks::{self, Hooks, When};
use mlvault::notify::{self, Place};
use mlvault::run_summary::{Event, NotificationOutcome, RunSummary, RunVerdict, Watched};

use crate::cli::context::Context;
use crate::cli::exit::{self, Code};
use crate::cli::outcome::Outcome;
use crate::cli::stderr::{self, Kind};

/// How long after a signal hooks may run: what they leave is ended two seconds later.
const HOOKS_END: Duration = Duration::from_secs(12);
/// How long after a signal somebody may be told.
const CALLS_END: Duration = Duration::from_millis(16_500);
/// How long somebody may be told of a process that hangs after a signal, before it is ended.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);
/// How long it may take to say that a run begins.
const START_MAX: Duration = Duration::from_secs(5);

/// A run that somebody may want to hear of.
pub struct Run<'a> {
    context: &'a Context,
    hooks: Hooks,
    calls: Calls,
}

/// Whom to tell what.
#[derive(Clone)]
struct Calls {
    summary: RunSummary,
    places: Vec<Place>,
    /// Those who cannot be told.
    unusable: Vec<NotificationOutcome>,
}

impl<'a> Run<'a> {
    /// Begins the run of a command; there is none if nobody is to hear of it.
    pub fn begin(context: &'a Context, words: &[&str], deployment: Option<String>) -> Result<Option<Self>> {
        let command = Watched::called(words).filter(|_| !context.given().has("dry-run"));
        let Some(command) = command else { return Ok(None) };
        let mut hooks = context.file().hooks(deployment.as_deref())?;
        if !hooks.on.contains(&command) {
            hooks = Hooks { before: None, after: None, failed: None, ..hooks };
        }
        let mut summary = RunSummary::begun(Event::Start, Some(command), Timestamp::now());
        summary.deployment = deployment;
        summary.repository = context.location().ok().map(|location| location.to_string());
        let (places, faults) = context.file().places();
        let unusable = |(name, error): (String, Error)| NotificationOutcome {
            name,
            ok: false,
            answer: None,
            error: Some(error.to_string()),
        };
        let unusable = faults.into_iter().map(unusable).collect();
        Ok(Some(Self { context, hooks, calls: Calls { summary, places, unusable } }))
    }

    /// Tells those who wait for it that a run begins, and runs the hook before it.
    pub fn before(&mut self) -> Result<()> {
        let patience = self.context.cancel().until(Instant::now() + START_MAX);
        for failed in self.calls.tell(&patience).into_iter().filter(|outcome| !outcome.ok) {
            self.context.monitor().note(&untold(&failed));
        }
        let calls = self.calls.clone();
        self.context.leave_last_words(Box::new(move || calls.say_that_it_hangs()));
        if let Some(error) = self.run_hook(When::Before) {
            self.context.cancel().check()?;
            return Err(Error::Refused(format!("The hook before the command failed, so nothing was begun: {error}")));
        }
        Ok(())
    }

    /// Runs the hook after the command, tells those who want to hear of it, and says in a log what it came to.
    pub fn end(mut self, outcome: Option<&Outcome>, code: Code, error: Option<&Error>) {
        self.context.forget_last_words();
        let summary = &mut self.calls.summary;
        if let Some(outcome) = outcome {
            summary.take_result(&outcome.document, outcome.text.lines());
        }
        summary.told = self.context.told();
        let error = error.map(|error| (error.to_string(), exit::hint_of(error).map(str::to_owned)));
        summary.end(code.into(), error, Timestamp::now());
        let is_finished = matches!(summary.verdict, Some(RunVerdict::Success | RunVerdict::Incomplete));
        let when = if is_finished { When::After } else { When::Failed };
        if let Some(error) = self.run_hook(when) {
            self.context.monitor().warning(&format!("The hook {:?} failed: {error}", when.name()));
        }
        let mut told = self.calls.tell(&self.patience(CALLS_END));
        told.extend(std::mem::take(&mut self.calls.unusable));
        told.iter().filter(|outcome| !outcome.ok).for_each(|failed| self.context.monitor().warning(&untold(failed)));
        self.calls.summary.notifications = told;
        say(&self.calls.summary);
    }

    /// Runs a hook, if there is one. Returns why it failed.
    fn run_hook(&mut self, when: When) -> Option<String> {
        let line = self.hooks.line(when)?;
        let patience = self.patience(HOOKS_END).until(Instant::now() + self.hooks.timeout);
        let outcome = hooks::run(when, line, &self.calls.summary, self.context.monitor().as_ref(), &patience);
        let error = outcome.error.clone();
        self.calls.summary.hooks.push(outcome);
        error
    }

    /// Returns the wish to stop. Where it was there before, it is the time that is left after a signal.
    fn patience(&self, end: Duration) -> Cancel {
        match self.context.cancel().raised_for() {
            None => self.context.cancel().clone(),
            Some(since) => Cancel::default().until(Instant::now() + end.saturating_sub(since)),
        }
    }
}

impl Calls {
    fn tell(&self, patience: &Cancel) -> Vec<NotificationOutcome> {
        let places: Vec<_> = self.places.iter().filter(|place| place.wants(&self.summary)).collect();
        notify::tell(&places, &self.summary, patience)
    }

    /// What hangs after a signal is ended with the process, and cannot say so itself.
    fn say_that_it_hangs(mut self) {
        let error = (Error::Interrupted.to_string(), None);
        self.summary.end(exit::INTERRUPTED.into(), Some(error), Timestamp::now());
        self.summary.notifications = self.tell(&Cancel::default().until(Instant::now() + LAST_WORDS_MAX));
        say(&self.summary);
    }
}

/// Says the summary in a log for programs.
fn say(summary: &RunSummary) {
    if stderr::is_log() && stderr::format() == stderr::LogFormat::Json {
        let members = serde_json::to_value(summary).unwrap_or_default();
        stderr::tell_with(Kind::Summary, &summary.title(), members);
    }
}

fn untold(failed: &NotificationOutcome) -> String {
    format!("The notification {:?} was not sent: {}", failed.name, failed.error.as_deref().unwrap_or_default())
}
