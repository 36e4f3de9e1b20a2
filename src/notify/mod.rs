//! Tells people and programs how a run ended: webhooks, chats, mail, and services that wait for a sign of life.
//!
//! What must stay true:
//! - Nobody who is told holds up a run: each place has a time in all, attempts are bounded, and what still hangs then is left.
//! - Nothing here decides how a run ended: what failed is returned, and told by whoever asked.
//! - Addresses are secrets. No message has more of one than its host, and none is sent on to where a server redirects.

mod call;
mod smtp;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::run_summary::{Event, NotificationOutcome, RunSummary, RunVerdict, Watched};
use crate::units::format_duration;

pub use call::{Call, Sends};
pub use smtp::{Mail, MailTls};

/// How long telling one place may take in all, where nothing else is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Most attempts for one place.
const ATTEMPTS_MAX: u32 = 4;
/// Time before the second attempt; it doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// How often a wait looks whether it is still wanted.
const WAIT_STEP: Duration = Duration::from_millis(50);

/// Somebody who wants to be told.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name in the configuration.
    pub name: String,
    /// How it is told.
    pub way: Way,
    /// What it wants to be told.
    pub on: Vec<RunVerdict>,
    /// Of which commands.
    pub commands: Vec<Watched>,
    /// Of which deployments; of all runs if there are none.
    pub deployments: Vec<String>,
    /// How long telling it may take.
    pub timeout: Duration,
}

/// How somebody is told.
#[derive(Debug, Clone)]
pub enum Way {
    /// By a request to a URL.
    Call(Call),
    /// By mail.
    Mail(Mail),
}

/// Why one attempt came to nothing.
#[derive(Debug)]
struct Failure {
    text: String,
    /// Whether another attempt may help.
    is_passing: bool,
}

impl Failure {
    fn lasting(text: impl ToString) -> Self {
        Self { text: text.to_string(), is_passing: false }
    }

    fn passing(text: impl ToString) -> Self {
        Self { text: text.to_string(), is_passing: true }
    }
}

impl Place {
    /// Returns whether it wants to be told of a summary.
    pub fn wants(&self, summary: &RunSummary) -> bool {
        let is_meant = match (summary.event, summary.verdict) {
            (Event::Test, _) => return true,
            (Event::Start, _) => self.waits_for_signs(),
            (Event::Summary, verdict) => verdict.is_some_and(|verdict| self.on.contains(&verdict)),
        };
        let is_of = |name: &String| self.deployments.contains(name);
        is_meant
            && summary.command.is_some_and(|command| self.commands.contains(&command))
            && (self.deployments.is_empty() || summary.deployment.as_ref().is_some_and(is_of))
    }

    /// Returns where it is, as far as may be shown.
    pub fn shown(&self) -> String {
        match &self.way {
            Way::Call(call) => call.shown(),
            Way::Mail(mail) => mail.shown(),
        }
    }

    /// Returns how it is told, in the configuration's word.
    pub fn kind(&self) -> &'static str {
        match &self.way {
            Way::Call(call) => call.sends.name(),
            Way::Mail(_) => "smtp",
        }
    }

    fn waits_for_signs(&self) -> bool {
        matches!(&self.way, Way::Call(call) if call.sends == Sends::Ping)
    }

    /// Tells it, with as much patience as there is. Returns what it answered.
    fn tell(&self, summary: &RunSummary, patience: &Cancel, end: Instant) -> Result<String, String> {
        let mut wait = WAIT_FIRST;
        for attempt in 1.. {
            let left = end.saturating_duration_since(Instant::now());
            let told = match &self.way {
                Way::Call(call) => call.send(summary, left),
                Way::Mail(mail) => mail.send(summary, left),
            };
            match told {
                Ok(answer) => return Ok(answer),
                Err(failure) if !failure.is_passing || attempt >= ATTEMPTS_MAX || !pause(wait, patience) => {
                    let attempts = if attempt == 1 { String::new() } else { format!(" ({attempt} attempts)") };
                    return Err(format!("{}{attempts}", failure.text));
                }
                Err(_) => wait *= 2,
            }
        }
        unreachable!("attempts are counted without end")
    }
}

/// Tells everybody at once. Returns what came of it, in their order, when all have answered or `patience` has ended.
pub fn tell(places: &[&Place], summary: &RunSummary, patience: &Cancel) -> Vec<NotificationOutcome> {
    let waiting: Vec<_> = places.iter().map(|place| begin((*place).clone(), summary.clone(), patience)).collect();
    waiting.into_iter().zip(places).map(|(answer, place)| outcome(place, &answer, patience)).collect()
}

type Answer = mpsc::Receiver<Result<String, String>>;

/// Tells one place in a thread of its own, which is left if it hangs: resolving a name, for one, cannot be stopped.
fn begin(place: Place, summary: RunSummary, patience: &Cancel) -> (Answer, Instant) {
    let (sender, receiver) = mpsc::channel();
    let end = Instant::now() + place.timeout;
    let patience = patience.until(end);
    thread::spawn(move || {
        let _ = sender.send(place.tell(&summary, &patience, end));
    });
    (receiver, end)
}

fn outcome(place: &Place, (answer, end): &(Answer, Instant), patience: &Cancel) -> NotificationOutcome {
    let patience = patience.until(*end);
    let told = loop {
        match answer.recv_timeout(WAIT_STEP) {
            Ok(told) => break told,
            Err(mpsc::RecvTimeoutError::Disconnected) => break Err("it could not be tried".to_owned()),
            Err(mpsc::RecvTimeoutError::Timeout) if patience.is_raised() => {
                let seconds = place.timeout.as_secs_f64();
                let late = end.saturating_duration_since(Instant::now());
                break Err(match late.is_zero() {
                    true => format!("no answer within {}", format_duration(seconds)),
                    false => "the run was asked to stop, and it had not answered".to_owned(),
                });
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    };
    let (answer, error) = match told {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(format!("{}: {error}", place.shown()))),
    };
    NotificationOutcome { name: place.name.clone(), ok: error.is_none(), answer, error }
}

/// Waits; returns whether there is still patience afterwards.
fn pause(time: Duration, patience: &Cancel) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end && !patience.is_raised() {
        thread::sleep(WAIT_STEP);
    }
    !patience.is_raised()
}
