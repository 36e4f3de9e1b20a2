//! `doctor` tells good backends from bad ones, and leaves none of them as it should not be.

use std::ops::Range;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use mlvault::backend::local::LocalBackend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::backend::{Backend, Listed};
use mlvault::clock::{Clock, SystemClock};
use mlvault::doctor::{DoctorCheck, DoctorReport, Status, honours_create_only, probe};
use mlvault::error::{Error, Fault, Result};
use mlvault::hears::Hears;
use tempfile::TempDir;

use crate::support::s3_server::{Program, S3Server};

/// A way in which a backend breaks a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vice {
    Overwrites,
    LosesSecondWriteQuietly,
    LetsAllRivalsWin,
    ListsLate,
    ListsInDisorder,
    ShortensRanges,
    AltersReads,
    CannotRemove,
    CannotWrite,
    DeniesEverything,
    IsUnreachableAfterTheFirstWrites,
    IsTenMinutesAhead,
    IsKeptInACache,
}

/// A memory backend with one vice.
struct Vicious(MemoryBackend, Vice);

impl Backend for Vicious {
    fn location(&self) -> String {
        "vicious:".to_owned()
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        let is_taken = self.0.read(key).is_ok();
        match self.1 {
            Vice::Overwrites => self.0.overwrite(key, bytes),
            Vice::LosesSecondWriteQuietly if is_taken => {}
            Vice::LetsAllRivalsWin if key.ends_with("/rivals") => self.0.overwrite(key, bytes),
            Vice::CannotWrite | Vice::DeniesEverything => {
                return Err(Error::backend(Fault::Denied, "create", key, "not allowed"));
            }
            Vice::IsUnreachableAfterTheFirstWrites if key.contains("create-only") => {
                return Err(Error::backend(Fault::Unavailable, "create", key, "no answer"));
            }
            _ => return self.0.create(key, bytes),
        }
        Ok(())
    }

    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes> {
        let bytes = self.0.read_up_to(key, bytes_max)?;
        let is_altered = self.1 == Vice::AltersReads && bytes.len() > 1024 * 1024;
        Ok(if is_altered { bytes.iter().map(|byte| !byte).collect() } else { bytes })
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let end =
            if self.1 == Vice::ShortensRanges { range.end.min(self.0.read(key)?.len() as u64) } else { range.end };
        self.0.read_range(key, range.start.min(end)..end)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut listed = self.0.list(prefix)?;
        if self.1 == Vice::DeniesEverything {
            return Err(Error::backend(Fault::Denied, "list", prefix, "not allowed"));
        }
        match self.1 {
            Vice::ListsLate if listed.len() > 10 => drop(listed.pop()),
            Vice::ListsInDisorder => listed.reverse(),
            _ => {}
        }
        Ok(listed)
    }

    fn remove(&self, key: &str) -> Result<()> {
        match self.1 {
            Vice::CannotRemove => Err(Error::backend(Fault::Denied, "remove", key, "not allowed")),
            _ => self.0.remove(key),
        }
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        let ahead = SignedDuration::from_mins(if self.1 == Vice::IsTenMinutesAhead { 10 } else { 0 });
        Ok(Some(SystemClock.now() + ahead))
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn stale_listing(&self) -> Option<&str> {
        (self.1 == Vice::IsKeptInACache).then_some("it is kept in a cache")
    }
}

fn report(backend: &dyn Backend) -> DoctorReport {
    probe(backend, &SystemClock, &Hears::nobody()).unwrap()
}

fn complaints(report: &DoctorReport) -> Vec<(DoctorCheck, Status)> {
    let is_complaint = |status: &Status| *status != Status::Ok;
    report
        .findings
        .iter()
        .map(|finding| (finding.check, finding.status))
        .filter(|(_, status)| is_complaint(status))
        .collect()
}

#[test]
fn good_backends_are_found_good_and_left_clean() {
    let directory = TempDir::new().unwrap();
    let local = LocalBackend::open(directory.path()).unwrap();
    let memory = MemoryBackend::default();
    for backend in [&local as &dyn Backend, &memory] {
        let report = report(backend);
        assert_eq!(complaints(&report), [], "{report:#?}");
        assert_eq!(report.findings.len(), 10);
        assert!(report.findings.iter().all(|finding| finding.consequence.is_none()));
        assert_eq!(backend.list("").unwrap(), []);
    }
}

#[test]
fn moto_is_found_good_and_left_clean() {
    let server = S3Server::start(Program::Moto);
    let backend = server.backend("vault");
    let report = report(&backend);
    assert_eq!(complaints(&report), [], "{report:#?}");
    assert_eq!(backend.list("").unwrap(), []);
}

#[test]
fn rclone_is_found_to_ignore_create_only() {
    let server = S3Server::start(Program::Rclone);
    let backend = server.backend("vault");
    let report = report(&backend);
    let expected = [(DoctorCheck::CreateOnly, Status::Failed), (DoctorCheck::ConcurrentCreates, Status::Failed)];
    assert_eq!(complaints(&report), expected, "{report:#?}");
    let consequence = report.finding(DoctorCheck::CreateOnly).unwrap().consequence.as_deref().unwrap();
    assert!(consequence.contains("do not run prune beside backups"), "{consequence}");
    assert_eq!(backend.list("").unwrap(), []);
}

#[test]
fn each_vice_is_found_and_only_that() {
    use DoctorCheck::{
        CleanUp, Clock, ConcurrentCreates, CreateOnly, Listing, RangeReads, Removal, Throughput, WriteAndRead,
    };
    use Status::{Failed, Warning};
    let cases: [(Vice, &[(DoctorCheck, Status)]); 13] = [
        (Vice::Overwrites, &[(CreateOnly, Failed), (ConcurrentCreates, Failed)]),
        (Vice::LosesSecondWriteQuietly, &[(CreateOnly, Failed), (ConcurrentCreates, Failed)]),
        (Vice::LetsAllRivalsWin, &[(ConcurrentCreates, Failed)]),
        (Vice::ListsLate, &[(Listing, Failed)]),
        (Vice::ListsInDisorder, &[(Listing, Failed)]),
        (Vice::ShortensRanges, &[(RangeReads, Failed)]),
        (Vice::AltersReads, &[(Throughput, Failed)]),
        (Vice::CannotRemove, &[(Removal, Warning), (CleanUp, Warning)]),
        (Vice::CannotWrite, &[(WriteAndRead, Warning)]),
        (Vice::DeniesEverything, &[(WriteAndRead, Failed)]),
        (Vice::IsUnreachableAfterTheFirstWrites, &[(CreateOnly, Failed), (ConcurrentCreates, Failed)]),
        (Vice::IsTenMinutesAhead, &[(Clock, Warning)]),
        (Vice::IsKeptInACache, &[(Listing, Warning)]),
    ];
    for (vice, expected) in cases {
        let backend = Vicious(MemoryBackend::default(), vice);
        let report = report(&backend);
        assert_eq!(complaints(&report), expected, "{vice:?}: {report:#?}");
        let is_clean = backend.0.list("").unwrap().is_empty();
        assert_eq!(is_clean, vice != Vice::CannotRemove, "{vice:?}");
    }
}

#[test]
fn credentials_that_only_read_are_told_as_such_and_what_is_there_is_looked_at() {
    let backend = Vicious(MemoryBackend::default(), Vice::CannotWrite);
    backend.0.create("packs/one", vec![7; 5000].into()).unwrap();
    let report = report(&backend);
    let told = |check| report.finding(check).unwrap();
    assert_eq!(complaints(&report), [(DoctorCheck::WriteAndRead, Status::Warning)], "{report:#?}");
    let consequence = told(DoctorCheck::WriteAndRead).consequence.as_deref().unwrap();
    assert!(consequence.contains("Restores, checks and listings work"), "{consequence}");
    assert_eq!(told(DoctorCheck::Listing).measured.as_deref(), Some("1 objects, which others wrote"));
    assert_eq!(told(DoctorCheck::RangeReads).status, Status::Ok);
    assert_eq!(backend.0.list("").unwrap().len(), 1);
}

#[test]
fn init_learns_whether_create_only_is_honoured() {
    let honours = |vice| honours_create_only(&Vicious(MemoryBackend::default(), vice));
    assert!(!honours(Vice::Overwrites).unwrap());
    assert!(!honours(Vice::LosesSecondWriteQuietly).unwrap());
    assert!(honours(Vice::CannotRemove).unwrap());
    assert_eq!(honours(Vice::CannotWrite).unwrap_err().fault(), Some(Fault::Denied));
}
