//! A status as metrics, in the text format of OpenMetrics, which Prometheus, its push gateway and node_exporter read.
//!
//! What must stay true:
//! - Times are points in time, not ages: an alert that compares them with the clock of Prometheus fires even if nobody has made
//!   new metrics since.
//! - What is not known has no sample. Nothing is 0 for want of better knowledge.
//! - Names and labels are stable: people's alerts rest on them (docs/cli.md lists them, `deploy/prometheus/` uses them).

use std::fmt;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::error::{Error, Result};
use crate::format::deployment::{Verdict, Verdicts};
use crate::format::evidence::DrillResult;
use crate::status::{CheckStatus, DrillStatus, SnapshotStatus, SourceStatus, Status};

/// The media type of what [`encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Name and value of each label.
type Labels = Vec<(&'static str, String)>;

/// Collects samples under the names of metrics.
#[derive(Default)]
struct Metrics(Registry);

impl Metrics {
    /// Adds a metric with the samples that there are.
    fn add(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(format!("mlvault_{name}"), help, family);
    }

    /// Adds a metric of the repository.
    fn one(&mut self, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value);
            self.0.register(format!("mlvault_{name}"), help, gauge);
        }
    }

    /// Adds a metric with a sample for each source of which something is known.
    fn each(&mut self, sources: &[SourceStatus], name: &str, help: &str, value: impl Fn(&SourceStatus) -> Option<f64>) {
        self.add(name, help, sources.iter().filter_map(|source| Some((of(source), value(source)?))));
    }
}

/// Whether the last look at the repository succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    /// It did, and this is what it saw.
    Yes,
    /// It did not, and this is what an earlier one saw.
    No,
}

/// Writes a status as metrics. Without one there is only to say that no look has succeeded yet.
pub fn encode(status: Option<&Status>, up: Up) -> Result<String> {
    let mut metrics = Metrics::default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    metrics.add("build_info", "Version of mlvault", [(vec![("version", version)], 1.0)]);
    metrics.one("up", "Whether the last look at the repository succeeded", Some(number(up == Up::Yes)));
    if let Some(status) = status {
        repository(&mut metrics, status);
        snapshots(&mut metrics, &status.sources);
        proofs(&mut metrics, &status.sources);
        rules(&mut metrics, &status.sources);
    }
    let mut encoded = String::new();
    let fault = |error: fmt::Error| Error::Internal(format!("metrics cannot be written: {error}"));
    text::encode(&mut encoded, &metrics.0).map_err(fault)?;
    Ok(encoded)
}

fn number(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

fn of(source: &SourceStatus) -> Labels {
    let deployment = source.deployment.clone().unwrap_or_default();
    vec![("source", source.source.clone()), ("deployment", deployment)]
}

fn repository(metrics: &mut Metrics, status: &Status) {
    metrics.one("status_timestamp_seconds", "When this was looked at", Some(seconds(status.at)));
    let off = status.clock_off_seconds.unwrap_or_default() as f64;
    metrics.one("clock_off_seconds", "How far this machine's clock is ahead of the repository's", Some(off));
    metrics.one("stored_bytes", "Bytes of all packs", Some(status.stored.pack_bytes as f64));
    metrics.one("packs", "Packs", Some(status.stored.packs as f64));
    let newest = status.checks.newest.as_ref();
    let value = |value: fn(&CheckStatus) -> f64| newest.map(value);
    metrics.one(
        "check_timestamp_seconds",
        "When the last check on record ended",
        value(|check| seconds(check.evidence.at)),
    );
    metrics.one("check_clean", "Whether the last check on record found no damage", value(|check| number(check.clean)));
    metrics.one("check_problems", "Problems that the last check on record found", value(|check| check.problems as f64));
    let clean = status.checks.good.as_ref().map(|check| seconds(check.evidence.at));
    metrics.one("check_clean_timestamp_seconds", "When the last clean check on record ended", clean);
    let alarms = status.alarms.iter().map(|alarm| {
        let source = alarm.source.clone().unwrap_or_default();
        (vec![("kind", alarm.kind.name().to_owned()), ("source", source)], 1.0)
    });
    metrics.add("alarm", "Why somebody should look", alarms);
}

fn snapshots(metrics: &mut Metrics, sources: &[SourceStatus]) {
    metrics.each(sources, "snapshots", "Snapshots", |source| Some(source.snapshots as f64));
    metrics.each(sources, "snapshots_incomplete", "Incomplete snapshots", |source| {
        Some(source.snapshots_incomplete as f64)
    });
    metrics.each(sources, "incomplete_in_a_row", "Incomplete snapshots since the last good one", |source| {
        Some(source.incomplete_in_a_row as f64)
    });
    let good = |value: fn(&SnapshotStatus) -> f64| move |source: &SourceStatus| source.last_good.as_ref().map(value);
    metrics.each(
        sources,
        "last_good_timestamp_seconds",
        "When what is in the last good snapshot was there",
        good(|good| seconds(good.as_of)),
    );
    metrics.each(sources, "last_good_bytes", "Bytes of its files", good(|good| good.size.bytes as f64));
    metrics.each(sources, "last_good_entries", "Its entries", good(|good| good.size.entries as f64));
    metrics.each(sources, "last_good_rows", "Rows of its databases", good(|good| good.size.rows as f64));
    metrics.each(sources, "last_good_stored_bytes", "Bytes that it added", good(|good| good.bytes_stored as f64));
    metrics.each(sources, "last_good_duration_seconds", "How long its backup took", good(|good| good.seconds as f64));
    let latest = |value: fn(&SnapshotStatus) -> f64| move |source: &SourceStatus| source.latest.as_ref().map(value);
    metrics.each(
        sources,
        "latest_timestamp_seconds",
        "When the newest snapshot was made",
        latest(|it| seconds(it.made)),
    );
    metrics.each(sources, "latest_complete", "Whether it is complete", latest(|it| number(it.is_complete)));
    metrics.each(sources, "latest_problems", "Its problems", latest(|it| it.problems as f64));
    metrics.each(sources, "accepted_losses", "Accepted losses of the newest snapshot", |source| {
        source.latest.as_ref().map(|_| source.accepted.count as f64)
    });
    metrics.each(sources, "acceptance_end_timestamp_seconds", "When the first acceptance ends", |source| {
        source.accepted.first_end.map(seconds)
    });
    let verdicts = sources.iter().flat_map(|source| {
        let verdicts = source.latest.as_ref().and_then(|latest| latest.verdicts);
        verdicts.into_iter().flat_map(|verdicts| verdict_samples(source, &verdicts))
    });
    metrics.add("latest_verdict_ok", "Whether a part of the newest snapshot is as it should be", verdicts);
}

fn verdict_samples(source: &SourceStatus, verdicts: &Verdicts) -> Vec<(Labels, f64)> {
    let sample = |(part, verdict): (&'static str, Verdict)| {
        let mut labels = of(source);
        labels.push(("part", part.to_owned()));
        (labels, number(verdict != Verdict::NotOk))
    };
    verdicts.parts().into_iter().filter(|(_, verdict)| *verdict != Verdict::Absent).map(sample).collect()
}

fn proofs(metrics: &mut Metrics, sources: &[SourceStatus]) {
    let newest = |value: fn(&DrillStatus) -> f64| move |source: &SourceStatus| source.drills.newest.as_ref().map(value);
    metrics.each(sources, "drill_timestamp_seconds", "When the last drill ended", newest(|it| seconds(it.evidence.at)));
    metrics.each(
        sources,
        "drill_passed",
        "Whether it found everything as it should be, in time or not",
        newest(|it| number(it.result != DrillResult::Failed)),
    );
    metrics.each(
        sources,
        "drill_late",
        "Whether it took longer than it may",
        newest(|it| number(it.result == DrillResult::Late)),
    );
    metrics.each(sources, "drill_exceptions", "What it could not compare", newest(|it| it.exceptions as f64));
    metrics.each(sources, "drill_good_timestamp_seconds", "When the last drill ended that did not fail", |source| {
        source.drills.good.as_ref().map(|drill| seconds(drill.evidence.at))
    });
    let times = sources.iter().flat_map(|source| {
        let times = source.drills.newest.iter().flat_map(|drill| &drill.times);
        times.map(|time| {
            let mut labels = of(source);
            labels.push(("part", time.part.clone()));
            (labels, time.milliseconds as f64 / 1000.0)
        })
    });
    metrics.add("drill_duration_seconds", "How long the last drill took to restore a part", times.collect::<Vec<_>>());
}

fn rules(metrics: &mut Metrics, sources: &[SourceStatus]) {
    metrics.each(sources, "rpo_seconds", "How old the last good snapshot may be", |source| {
        source.objectives.rpo_seconds.map(|limit| limit as f64)
    });
    metrics.each(sources, "rto_seconds", "How long a restore may take", |source| {
        source.objectives.rto_seconds.map(|limit| limit as f64)
    });
    metrics.each(sources, "drill_age_max_seconds", "How long ago the last drill may be", |source| {
        source.objectives.drill_seconds.map(|limit| limit as f64)
    });
    metrics.each(sources, "check_age_max_seconds", "How long ago the last clean check may be", |source| {
        source.objectives.check_seconds.map(|limit| limit as f64)
    });
    metrics.each(sources, "snapshots_due", "Snapshots that the policy would let go now", |source| {
        source.retention.as_ref().map(|outlook| outlook.due.len() as f64)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_first_look_there_is_only_to_say_that_it_failed() {
        let encoded = encode(None, Up::No).unwrap();
        assert!(encoded.contains("\nmlvault_up 0.0\n") && encoded.ends_with("# EOF\n"), "{encoded}");
        assert!(!encoded.contains("snapshots"), "{encoded}");
    }
}
