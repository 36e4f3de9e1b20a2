//! How much time is left of what a restore may take, for whoever watches one at night.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use mlvault::format::evidence::DrillTime;
use mlvault::objectives::Objectives;
use mlvault::sync::lock;
use mlvault::units::format_duration;

/// Counts down the objectives of a restore.
pub struct Countdown {
    objectives: Objectives,
    begun: Instant,
    /// The component that is being restored, and since when.
    component: Mutex<Option<(&'static str, Instant)>>,
}

impl Countdown {
    /// Begins. Returns nothing if there is nothing to count.
    pub fn begin(objectives: &Objectives) -> Option<Self> {
        let begin = || Self { objectives: objectives.clone(), begun: Instant::now(), component: Mutex::default() };
        objectives.limit_a_restore().then(begin)
    }

    /// A phase has begun. Those that belong to a component change nothing.
    pub fn phase(&self, name: &str) {
        let component = match name {
            "databases" => Some("database"),
            "artifacts" => Some("artifacts"),
            "start MLflow" => None,
            _ => return,
        };
        *lock(&self.component) = component.map(|component| (component, Instant::now()));
    }

    /// Returns what is left of each limit that counts now, in seconds; below zero of one that was missed.
    fn left(&self) -> Vec<(&'static str, f64)> {
        let left = |limit: Duration, begun: Instant| limit.as_secs_f64() - begun.elapsed().as_secs_f64();
        let of_component = lock(&self.component).and_then(|(component, begun)| {
            Some((component, left(self.objectives.rto_of(component)?.unsigned_abs(), begun)))
        });
        let whole = self.objectives.rto().map(|limit| (DrillTime::WHOLE, left(limit.unsigned_abs(), self.begun)));
        of_component.into_iter().chain(whole).collect()
    }

    /// Returns the same in words.
    pub fn line(&self) -> String {
        let said = self.left().into_iter().map(|(part, seconds)| match seconds {
            0.0.. => format!("{} left for {part}", format_duration(seconds)),
            _ => format!("{part} LATE by {}", format_duration(-seconds)),
        });
        said.collect::<Vec<_>>().join(", ")
    }

    /// Returns the same for programs.
    pub fn members(&self) -> Value {
        self.left()
            .into_iter()
            .map(|(part, seconds)| json!({ "part": part, "seconds_left": seconds.round() }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_for_the_component_under_way_and_for_everything() {
        let table = json!({ "rto": "90m", "rto-database": "1s" });
        let countdown = Countdown::begin(&serde_json::from_value(table).unwrap()).unwrap();
        assert!(countdown.line().ends_with(" left for everything"), "{}", countdown.line());
        countdown.phase("databases");
        countdown.phase("restore");
        lock(&countdown.component).as_mut().unwrap().1 -= Duration::from_secs(301);
        assert!(countdown.line().starts_with("database LATE by 5 min"), "{}", countdown.line());
        countdown.phase("artifacts");
        assert_eq!(countdown.members().as_array().unwrap().len(), 1);
        assert!(Countdown::begin(&Objectives::default()).is_none());
    }
}
