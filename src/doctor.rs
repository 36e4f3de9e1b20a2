//! Finds out what a backend really does: whether it keeps the promises of [`Backend`], and how fast it is.
//!
//! What must stay true: a probe writes only below `probe/<random>/`, removes what it wrote however it ends, and reports
//! what it finds wrong instead of failing.

pub mod deployment;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Barrier, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::backend::{Backend, Listed};
use crate::clock::Clock;
use crate::error::{Error, Fault, Result};
use crate::hears::Hears;
use crate::monitor::Counter;
use crate::repository::layout;
use crate::repository::time::CLOCK_OFF_MAX;
use crate::sync::lock;
use crate::units::{KIB, MIB, format_bytes};

/// Random bytes in the name of a probe's directory.
const PROBE_NAME_BYTES: usize = 8;
/// Threads that create one key at the same time.
const RIVALS: usize = 8;
/// Objects that are listed.
const LISTED_OBJECTS: usize = 48;
/// Small objects of which the median time is taken.
const LATENCY_SAMPLES: usize = 9;
/// Size of a small object.
const SMALL_BYTES: u64 = KIB;
/// Size of the object that ranges are read from.
const RANGED_BYTES: u64 = 64 * KIB;
/// Size of the object that throughput is measured with.
const LARGE_BYTES: u64 = 16 * MIB;
/// Median time of a small request from which there is a warning.
const LATENCY_MAX: Duration = Duration::from_millis(1000);

/// What it means that nothing may be written.
const READ_ONLY: &str = "Restores, checks and listings work with these credentials; backups and prune do not. What the \
                         server does with writes was not tried.";

/// One of the things that a probe looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoctorCheck {
    /// An object can be written, and read back at once, unaltered.
    WriteAndRead,
    /// A key that is taken stays as it is.
    CreateOnly,
    /// Of several creates of one key at the same time, one wins.
    ConcurrentCreates,
    /// Parts of an object can be read, exactly.
    RangeReads,
    /// A listing shows all that was written, in order, at once.
    Listing,
    /// An object can be removed, and then is gone.
    Removal,
    /// The backend's clock agrees with ours.
    Clock,
    /// How long a small request takes.
    Latency,
    /// How fast a large object is moved.
    Throughput,
    /// The probe left nothing behind.
    CleanUp,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Usable, with the consequence that the finding tells.
    Warning,
    /// A promise is not kept.
    Failed,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: DoctorCheck,
    /// How it came out.
    pub status: Status,
    /// What was seen or measured, in words.
    pub measured: Option<String>,
    /// What follows for the user, in one sentence, unless all is well.
    pub consequence: Option<String>,
}

/// What a probe found out about a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The backend's location.
    pub location: String,
    /// One finding for each check that was made, in the order in which they were made.
    pub findings: Vec<Finding>,
}

impl DoctorReport {
    /// Returns the worst status of all findings.
    pub fn status(&self) -> Status {
        self.findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok)
    }

    /// Returns the finding of one check, if it was made.
    pub fn finding(&self, check: DoctorCheck) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.check == check)
    }
}

impl fmt::Display for DoctorCheck {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::WriteAndRead => "write and read",
            Self::CreateOnly => "create only",
            Self::ConcurrentCreates => "concurrent creates",
            Self::RangeReads => "range reads",
            Self::Listing => "listing",
            Self::Removal => "removal",
            Self::Clock => "clock",
            Self::Latency => "latency",
            Self::Throughput => "throughput",
            Self::CleanUp => "clean-up",
        })
    }
}

impl DoctorCheck {
    /// Returns what it means for the user when this check does not come out well.
    fn consequence(self) -> &'static str {
        match self {
            Self::WriteAndRead => "No backup can be stored here.",
            Self::CreateOnly => {
                "Two prunes or a voided session cannot be told apart: do not run prune beside backups on this backend, \
                 and never two prunes at once."
            }
            Self::ConcurrentCreates => {
                "Two processes can both believe that they hold the same name: do not run prune beside backups on this \
                 backend, and never two prunes at once."
            }
            Self::RangeReads => "Single files cannot be restored, and a check may fail, although the packs are whole.",
            Self::Listing => "Snapshots or packs can be overlooked: a prune could delete what is needed.",
            Self::Removal => "Prune cannot free space with these credentials or on this backend.",
            Self::Clock => {
                "Times of snapshots are off, signed requests may be refused, and sessions may be taken for abandoned \
                 too early or too late."
            }
            Self::Latency => "Work on many small objects, such as opening a large repository, will be slow.",
            Self::Throughput => "Large objects cannot be moved reliably.",
            Self::CleanUp => "Some probe objects are left below probe/; they do no harm and may be removed by hand.",
        }
    }

    fn ok(self, measured: impl Into<Option<String>>) -> Finding {
        Finding { check: self, status: Status::Ok, measured: measured.into(), consequence: None }
    }

    fn warning(self, measured: impl Into<String>) -> Finding {
        self.bad(Status::Warning, measured)
    }

    fn failed(self, measured: impl Into<String>) -> Finding {
        self.bad(Status::Failed, measured)
    }

    fn bad(self, status: Status, measured: impl Into<String>) -> Finding {
        let consequence = Some(self.consequence().to_owned());
        Finding { check: self, status, measured: Some(measured.into()), consequence }
    }
}

/// Looks at a backend from all sides. Writes some 20 MB below `probe/` and removes them again.
///
/// Fails only if no random name can be drawn, or on request; what is wrong with the backend is in the report. Where not even a small
/// object can be written and read, the other checks are left out.
pub fn probe(backend: &dyn Backend, clock: &dyn Clock, hears: &Hears) -> Result<DoctorReport> {
    type Look = fn(&Probe<'_>, &dyn Clock) -> Result<Finding>;
    const LOOKS: [(DoctorCheck, Look); 9] = [
        (DoctorCheck::WriteAndRead, |probe, _| probe.write_and_read()),
        (DoctorCheck::CreateOnly, |probe, _| probe.create_only()),
        (DoctorCheck::ConcurrentCreates, |probe, _| probe.concurrent_creates()),
        (DoctorCheck::RangeReads, |probe, _| probe.range_reads()),
        (DoctorCheck::Listing, |probe, _| probe.listing()),
        (DoctorCheck::Removal, |probe, _| probe.removal()),
        (DoctorCheck::Clock, |probe, clock| probe.clock(clock)),
        (DoctorCheck::Latency, |probe, _| probe.latency()),
        (DoctorCheck::Throughput, |probe, _| probe.throughput()),
    ];
    let probe = Probe::new(backend)?;
    hears.monitor.phase("Probing the backend", Some(LOOKS.len() as u64 + 1), None);
    let mut findings = Vec::new();
    for (check, look) in LOOKS {
        hears.check()?;
        let finding = look(&probe, clock).unwrap_or_else(|error| check.failed(error.to_string()));
        // Nothing else can be tried without an object of the probe's own.
        let is_last = check == DoctorCheck::WriteAndRead && finding.status != Status::Ok;
        let reads_only = is_last && finding.status == Status::Warning;
        findings.push(finding);
        hears.monitor.count(Counter::Entries, 1);
        if reads_only {
            findings.extend(probe.read_only(clock));
        }
        if is_last {
            return Ok(DoctorReport { location: backend.location(), findings });
        }
    }
    findings.push(probe.clean_up());
    hears.monitor.count(Counter::Entries, 1);
    Ok(DoctorReport { location: backend.location(), findings })
}

/// Returns whether the backend refuses to create a key that is taken, with the object that is there left as it was.
///
/// Fails if it cannot be found out. Where removing is not allowed, a small object stays below `probe/`.
pub fn honours_create_only(backend: &dyn Backend) -> Result<bool> {
    let probe = Probe::new(backend)?;
    Ok(probe.create_only()?.status == Status::Ok)
}

/// Judges a listing of what others wrote.
fn listing_of(listed: &[Listed]) -> Finding {
    let check = DoctorCheck::Listing;
    match listed.is_sorted_by(|one, other| one.key < other.key) {
        true => check.ok(format!("{} objects, which others wrote", listed.len())),
        false => check.failed(format!("a listing of {} objects is out of order", listed.len())),
    }
}

/// A corner of a backend to try things in. What it created is removed when it is dropped, as far as that works.
struct Probe<'a> {
    backend: &'a dyn Backend,
    prefix: String,
    created: Mutex<BTreeSet<String>>,
}

impl<'a> Probe<'a> {
    fn new(backend: &'a dyn Backend) -> Result<Self> {
        let name = HEXLOWER.encode(&random_bytes(PROBE_NAME_BYTES)?);
        Ok(Self { backend, prefix: format!("{}{name}/", layout::PROBE), created: Mutex::default() })
    }

    fn created(&self) -> MutexGuard<'_, BTreeSet<String>> {
        lock(&self.created)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn create(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        // Noted first: after a failure the object may be there all the same.
        self.created().insert(name.to_owned());
        self.backend.create(&self.key(name), bytes.into())
    }

    fn read(&self, name: &str) -> Result<Bytes> {
        self.backend.read(&self.key(name))
    }

    fn write_and_read(&self) -> Result<Finding> {
        let check = DoctorCheck::WriteAndRead;
        let bytes = random_bytes(SMALL_BYTES as usize)?;
        match self.create("first", bytes.clone()) {
            // Credentials that cannot write are right for who restores or audits, and say nothing against the server.
            Err(error) if matches!(error.fault(), Some(Fault::Denied | Fault::ReadOnly)) => {
                return Ok(self.finding_without_writes(error));
            }
            other => other?,
        }
        self.create("empty", Bytes::new())?;
        if self.read("first")? != bytes || !self.read("empty")?.is_empty() {
            return Ok(check.failed("what was read is not what was written"));
        }
        match self.read("missing") {
            Err(error) if error.fault() == Some(Fault::NotFound) => Ok(check.ok(None)),
            Err(error) => Ok(check.failed(format!("an object that is not there is not said to be missing: {error}"))),
            Ok(_) => Ok(check.failed("an object that was never written can be read")),
        }
    }

    /// Tells credentials that may read only from those that may do nothing.
    fn finding_without_writes(&self, error: Error) -> Finding {
        let check = DoctorCheck::WriteAndRead;
        match self.backend.list("") {
            Ok(_) => Finding {
                consequence: Some(READ_ONLY.to_owned()),
                ..check.warning(format!("these credentials can read and not write: {error}"))
            },
            Err(_) => check.failed(error.to_string()),
        }
    }

    /// Looks at what is there already, where nothing can be written.
    fn read_only(&self, clock: &dyn Clock) -> Vec<Finding> {
        let look =
            |check: DoctorCheck, found: Result<Finding>| found.unwrap_or_else(|error| check.failed(error.to_string()));
        let clock = look(DoctorCheck::Clock, self.clock(clock));
        let listed = match self.backend.list("") {
            Ok(listed) => listed,
            Err(error) => return vec![DoctorCheck::Listing.failed(error.to_string()), clock],
        };
        vec![look(DoctorCheck::RangeReads, self.ranges_of(&listed)), listing_of(&listed), clock]
    }

    fn ranges_of(&self, listed: &[Listed]) -> Result<Finding> {
        let check = DoctorCheck::RangeReads;
        let Some(object) = listed
            .iter()
            .filter(|object| (SMALL_BYTES..=LARGE_BYTES).contains(&object.size))
            .min_by_key(|object| object.size)
        else {
            return Ok(check.ok("there is no object to try it on".to_owned()));
        };
        let whole = self.backend.read_up_to(&object.key, object.size)?;
        let (start, end) = (object.size / 4, object.size / 2);
        let part = self.backend.read_range(&object.key, start..end)?;
        // The server may have given less than it listed.
        Ok(match whole.get(start as usize..end as usize) == Some(&part[..]) {
            true => check.ok(None),
            false => check.failed(format!("bytes {start}..{end} of {} came back wrong", object.key)),
        })
    }

    fn create_only(&self) -> Result<Finding> {
        self.create_only_on("create-only")
    }

    fn create_only_on(&self, name: &str) -> Result<Finding> {
        let check = DoctorCheck::CreateOnly;
        self.create(name, &b"first"[..])?;
        let second = self.create(name, &b"second"[..]);
        let is_unharmed = self.read(name)? == b"first"[..];
        match second {
            Err(error) if error.fault() != Some(Fault::AlreadyExists) => Err(error),
            Err(_) if is_unharmed => Ok(check.ok(None)),
            Err(_) => Ok(check.failed("a second write of the same key was refused, yet replaced the object")),
            Ok(()) if is_unharmed => Ok(check.failed("a second write of the same key was lost, yet not refused")),
            Ok(()) => Ok(check.failed("a second write of the same key replaced the object")),
        }
    }

    /// Lets several threads create one key, unless create-only is ignored: then all of them would succeed, and some
    /// servers list such an object twice, or for ever (`rclone serve s3` 1.75).
    fn concurrent_creates(&self) -> Result<Finding> {
        let check = DoctorCheck::ConcurrentCreates;
        if self.create_only_on("create-only-again")?.status != Status::Ok {
            return Ok(check.failed("not tried, because a second write of a key is not refused"));
        }
        let start = Barrier::new(RIVALS);
        let rival = |number: usize| {
            start.wait();
            self.create("rivals", vec![number as u8; SMALL_BYTES as usize])
        };
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let rivals: Vec<_> = (0..RIVALS).map(|number| scope.spawn(move || rival(number))).collect();
            rivals.into_iter().map(join).collect()
        });
        let winners: Vec<usize> = (0..RIVALS).filter(|&number| results[number].is_ok()).collect();
        let other = |error: &Error| error.fault() != Some(Fault::AlreadyExists);
        if let Some(error) = results.into_iter().filter_map(Result::err).find(other) {
            return Err(error);
        }
        let stored = self.read("rivals")?;
        match winners[..] {
            [winner] if stored.iter().all(|&byte| byte == winner as u8) => Ok(check.ok(format!("1 of {RIVALS} won"))),
            [_] => Ok(check.failed("the object that is there is not the one of the create that succeeded")),
            _ => Ok(check.failed(format!("{} of {RIVALS} succeeded", winners.len()))),
        }
    }

    fn range_reads(&self) -> Result<Finding> {
        let check = DoctorCheck::RangeReads;
        let bytes = random_bytes(RANGED_BYTES as usize)?;
        self.create("ranges", bytes.clone())?;
        let key = self.key("ranges");
        for range in [0..1, 0..100, 1000..5096, RANGED_BYTES - 10..RANGED_BYTES, 0..RANGED_BYTES] {
            let part = self.backend.read_range(&key, range.clone())?;
            if part != bytes[range.start as usize..range.end as usize] {
                return Ok(check.failed(format!("bytes {}..{} came back wrong", range.start, range.end)));
            }
        }
        for range in [RANGED_BYTES - 10..RANGED_BYTES + 1, RANGED_BYTES..RANGED_BYTES + 10] {
            if self.backend.read_range(&key, range).is_ok() {
                return Ok(check.failed("a range past the end is not refused"));
            }
        }
        Ok(check.ok(None))
    }

    fn listing(&self) -> Result<Finding> {
        let check = DoctorCheck::Listing;
        let mut expected = Vec::new();
        // Written in an order that is not the one of the keys, in directories whose names begin alike.
        for number in (0..LISTED_OBJECTS).map(|number| number * 29 % LISTED_OBJECTS) {
            let name = format!("list/{}/{number:02}", ["a", "a-b", "b/c"][number % 3]);
            self.create(&name, vec![0; number])?;
            expected.push((self.key(&name), number as u64));
        }
        expected.sort_unstable();
        for directory in ["list/", "list/a/", "list/b/c/", "list/none/"] {
            let prefix = self.key(directory);
            let listed = self.backend.list(&prefix)?;
            let found = listed.iter().map(|object| (&object.key, object.size));
            let wanted = expected.iter().filter(|(key, _)| key.starts_with(&prefix));
            if !found.eq(wanted.map(|(key, size)| (key, *size))) {
                let measured = format!("a listing of {} objects is incomplete or out of order", listed.len());
                return Ok(check.failed(measured));
            }
        }
        // No probe from one machine alone could see it.
        if let Some(reason) = self.backend.stale_listing() {
            return Ok(check.warning(reason));
        }
        Ok(check.ok(format!("{LISTED_OBJECTS} objects")))
    }

    fn removal(&self) -> Result<Finding> {
        let check = DoctorCheck::Removal;
        self.create("removed", &b"short-lived"[..])?;
        let key = self.key("removed");
        match self.backend.remove(&key) {
            // Credentials that cannot delete are right for a backup job.
            Err(error) if matches!(error.fault(), Some(Fault::Denied | Fault::ReadOnly)) => {
                return Ok(check.warning(error.to_string()));
            }
            other => other?,
        }
        let is_gone = matches!(self.read("removed"), Err(error) if error.fault() == Some(Fault::NotFound));
        if !is_gone || self.backend.list(&self.prefix)?.iter().any(|object| object.key == key) {
            return Ok(check.failed("a removed object is still there"));
        }
        if let Err(error) = self.backend.remove(&key) {
            return Ok(check.failed(format!("removing what is not there fails: {error}")));
        }
        Ok(check.ok(None))
    }

    fn clock(&self, clock: &dyn Clock) -> Result<Finding> {
        let check = DoctorCheck::Clock;
        let Some(theirs) = self.backend.server_time()? else {
            return Ok(check.ok("the backend has no clock of its own".to_owned()));
        };
        let skew = theirs.duration_since(clock.now());
        let measured = match skew.as_secs() {
            0 => "less than a second apart".to_owned(),
            seconds if seconds > 0 => format!("the backend's clock is {seconds} s ahead"),
            seconds => format!("the backend's clock is {} s behind", seconds.unsigned_abs()),
        };
        let is_off = skew.abs() > CLOCK_OFF_MAX;
        Ok(if is_off { check.warning(measured) } else { check.ok(measured) })
    }

    fn latency(&self) -> Result<Finding> {
        let check = DoctorCheck::Latency;
        let mut writes = Vec::new();
        let mut reads = Vec::new();
        for number in 0..LATENCY_SAMPLES {
            let name = format!("latency/{number}");
            let bytes = random_bytes(SMALL_BYTES as usize)?;
            writes.push(timed(|| self.create(&name, bytes))?.1);
            reads.push(timed(|| self.read(&name))?.1);
        }
        let (write, read) = (median(writes), median(reads));
        let measured = format!("write {}, read {}", format_milliseconds(write), format_milliseconds(read));
        Ok(if write.max(read) > LATENCY_MAX { check.warning(measured) } else { check.ok(measured) })
    }

    fn throughput(&self) -> Result<Finding> {
        let check = DoctorCheck::Throughput;
        let bytes = Bytes::from(random_bytes(LARGE_BYTES as usize)?);
        let ((), write) = timed(|| self.create("large", bytes.clone()))?;
        let (stored, read) = timed(|| self.read("large"))?;
        if stored != bytes {
            return Ok(check.failed("a large object came back altered"));
        }
        Ok(check.ok(format!("write {}/s, read {}/s", format_pace(write), format_pace(read))))
    }

    /// Removes all that was created, and what else is listed below the prefix.
    fn clean_up(&self) -> Finding {
        let check = DoctorCheck::CleanUp;
        let first_error = self.remove_created().err();
        let left = self.backend.list(&self.prefix).unwrap_or_default();
        for object in &left {
            // What cannot be removed is counted below.
            let _ = self.backend.remove(&object.key);
        }
        match (self.backend.list(&self.prefix), first_error) {
            (Ok(left), _) if left.is_empty() => check.ok(None),
            (Ok(left), Some(error)) => check.warning(format!("{} objects are left: {error}", left.len())),
            (Ok(left), None) => check.warning(format!("{} objects are left", left.len())),
            (Err(error), _) => check.warning(error.to_string()),
        }
    }

    /// Removes what was created, all that can be, and returns the first error.
    fn remove_created(&self) -> Result<()> {
        let names = std::mem::take(&mut *self.created());
        let mut first = Ok(());
        for name in names {
            first = first.and(self.backend.remove(&self.key(&name)));
        }
        first
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        // Whoever wants to know whether it worked calls `clean_up`.
        let _ = self.remove_created();
    }
}

fn random_bytes(len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).map_err(|error| Error::Internal(format!("No random numbers: {error}")))?;
    Ok(bytes)
}

fn join(thread: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(Error::Internal("A thread of the probe panicked".to_owned())))
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let value = work()?;
    Ok((value, start.elapsed()))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn format_milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Formats how many bytes a second [`LARGE_BYTES`] in this time are.
fn format_pace(time: Duration) -> String {
    format_bytes((LARGE_BYTES as f64 / time.as_secs_f64().max(1e-9)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_as_bad_as_its_worst_finding() {
        let findings =
            vec![DoctorCheck::Listing.ok(None), DoctorCheck::Clock.warning("late"), DoctorCheck::Latency.ok(None)];
        let report = DoctorReport { location: "memory:".to_owned(), findings };
        assert_eq!(report.status(), Status::Warning);
        assert_eq!(report.finding(DoctorCheck::Clock).map(|finding| finding.status), Some(Status::Warning));
        assert_eq!(report.finding(DoctorCheck::Removal), None);
    }

    #[test]
    fn a_report_has_stable_names_for_machines() {
        let finding = DoctorCheck::CreateOnly.failed("replaced");
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!(json["check"], "create-only");
        assert_eq!(json["status"], "failed");
        assert_eq!(json["measured"], "replaced");
        assert!(json["consequence"].as_str().unwrap().contains("prune"));
    }
}
