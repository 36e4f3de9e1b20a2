//! What a check leaves in the repository of what it found.

use std::time::Duration;

use crate::check::{CheckOptions, CheckReport, ReadData};
use crate::format::evidence::{CheckEvidence, Lines, ReadEvidence, ReadScope};

/// Puts together what is left of a check that took so long.
pub fn evidence(options: &CheckOptions, report: &CheckReport, took: Duration) -> CheckEvidence {
    let mut problems = Lines::default();
    report.problems.iter().for_each(|problem| problems.push(&format!("{}: {}", problem.object, problem.reason)));
    let read = report.read.unwrap_or_default();
    CheckEvidence {
        seconds: took.as_secs(),
        clean: report.is_clean(),
        problem_count: report.problem_count,
        problems: problems.first,
        read: ReadEvidence {
            what: scope(options.read_data),
            packs: read.packs,
            packs_total: if report.read.is_some() { read.packs_total } else { report.counts.packs },
            bytes: read.bytes,
            content_opened: read.content_opened,
        },
    }
}

fn scope(read: ReadData) -> ReadScope {
    match read {
        ReadData::Nothing => ReadScope::Nothing,
        ReadData::All => ReadScope::All,
        ReadData::Subset(_) => ReadScope::Subset,
        ReadData::Aged(_) => ReadScope::Aged,
    }
}
