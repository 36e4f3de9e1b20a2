//! Backs up a directory as a nightly job would: shows progress, forgets by a policy, and fails loudly.
//!
//! Run it with a repository, which it makes if there is none, and a directory:
//!
//! ```text
//! MLVAULT_KEY=/secrets/key cargo run --release --example nightly -- /backups/mlvault /srv/mlflow
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use mlvault::backend::Backend;
use mlvault::cancel::Cancel;
use mlvault::clock::SystemClock;
use mlvault::config::credential::CredentialSource;
use mlvault::monitor::{Counter, Monitor, Totals};
use mlvault::retention::policy::PolicySpec;
use mlvault::retention::{self, ForgetChoice};
use mlvault::{BackupOptions, CreateOptions, Fault, Hears, LocalBackend, Repository, Result, backup};

/// Prints phases and problems, and counts what was done.
#[derive(Default)]
struct Log(Totals);

impl Monitor for Log {
    fn phase(&self, name: &'static str, entries_total: Option<u64>, _: Option<u64>) {
        println!("{name}: {} entries", entries_total.map_or("?".to_owned(), |total| total.to_string()));
    }

    fn count(&self, counter: Counter, amount: u64) {
        self.0.add(counter, amount);
    }

    fn problem(&self, subject: &str, message: &str) {
        eprintln!("PROBLEM {subject}: {message}");
    }

    fn note(&self, message: &str) {
        println!("note: {message}");
    }
}

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let ([repository, directory], Some(key)) = (arguments.as_slice(), std::env::var_os("MLVAULT_KEY")) else {
        eprintln!("usage: MLVAULT_KEY=<key file> nightly <repository> <directory>");
        return ExitCode::from(2);
    };
    match run(repository, directory, key.into()) {
        Ok(0) => ExitCode::SUCCESS,
        // Finished, but something could not be read: mlvault's own exit code for that.
        Ok(_) => ExitCode::from(3),
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many problems there were.
fn run(location: &PathBuf, directory: &PathBuf, key: PathBuf) -> Result<u64> {
    let key = CredentialSource::KeyFile(key).read(&Default::default())?;
    // A key file says of which repository it is: no other is opened, whoever put it there.
    let (credential, options) = (&key.credential, key.open_options());
    let backend: Arc<dyn Backend> = Arc::new(LocalBackend::create_root(location)?);
    let repository = match Repository::open(Arc::clone(&backend), credential, &options) {
        Err(mlvault::Error::NoRepository { .. }) => {
            Repository::create(backend.as_ref(), credential, &CreateOptions::default(), &SystemClock)?;
            Repository::open(backend, credential, &options)?
        }
        // Branch on kinds, never on text.
        Err(error) if error.fault() == Some(Fault::Full) => return Err(error),
        repository => repository?,
    };
    let log = Arc::new(Log::default());
    // A real job would raise this flag when it is told to stop; `Cancel::flag` is made for signal handlers.
    let hears = Hears::new(Arc::clone(&log) as Arc<dyn Monitor>, Cancel::default());
    let done = backup::run(&repository, &BackupOptions::of_paths([directory]), &hears)?;
    println!("{} bytes read, {} stored", log.0.get(Counter::Bytes), done.record.statistics.bytes_stored);

    let policy = PolicySpec { keep_daily: Some(30), keep_monthly: Some(12), ..PolicySpec::default() }.policy()?;
    let what = ForgetChoice::Policy { policy, name: "nightly".to_owned(), zone: jiff::tz::TimeZone::UTC, group: None };
    // At most half of the snapshots may go at once: a wrong clock or policy makes somebody look.
    let plan = retention::plan(&repository, &what, 50)?;
    let forgotten = retention::execute(&repository, &plan, false, &hears)?;
    println!("{forgotten} snapshots forgotten");
    Ok(done.record.problem_count)
}
