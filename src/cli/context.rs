//! What all commands share: global arguments, settings, the open repository, the monitor, the wish to stop.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use jiff::Timestamp;
use zeroize::Zeroizing;

use mlvault::backend::Backend;
use mlvault::backend::location::{self, RepositoryLocation};
use mlvault::cancel::Cancel;
use mlvault::config::credential::CredentialSource;
use mlvault::config::file::ConfigFile;
use mlvault::config::origins::Origins;
use mlvault::environment;
use mlvault::error::{Error, Fault, Result};
use mlvault::hears::Hears;
use mlvault::id::{Pin, SessionId};
use mlvault::monitor::Monitor;
use mlvault::objectives::Objectives;
use mlvault::repository::log::Appended;
use mlvault::repository::memory_plan::{MEMORY_LIMIT_DEFAULT, MEMORY_LIMIT_MIN};
use mlvault::repository::naming::{Found, Scope};
use mlvault::repository::notes::Notes;
use mlvault::repository::pins::{self, PinMemory, StatedPin};
use mlvault::repository::session::PROGRAM;
use mlvault::repository::{OpenOptions, Repository};
use mlvault::run_summary::Told;
use mlvault::s3::{Credentials, Lane, Limits, S3Options};
use mlvault::source::filter::OwnPlaces;
use mlvault::sync::lock;
use mlvault::units::{count, parse_bytes};

use crate::cli::answer::{About, Answer};
use crate::cli::exit;
use crate::cli::given::Given;
use crate::cli::progress::{Progress, Verbosity};
use crate::cli::stderr::{self, LogFormat};

/// Snapshots that a warning names.
const GONE_NAMED_MAX: usize = 20;

/// Arguments of every command.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Location of the repository: a path or s3://bucket/prefix
    #[arg(long, global = true, env = "MLVAULT_REPO", value_name = "LOCATION")]
    repo: Option<String>,
    /// Configuration file [default: the first of ./mlvault.toml, ~/.config/mlvault/mlvault.toml, /etc/mlvault/mlvault.toml]
    #[arg(long, global = true, env = "MLVAULT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override a key of the configuration file, as in deployment.production.s3.region=eu-central-1; can be given several
    /// times (in the variable: one per line)
    #[arg(long = "set", global = true, env = "MLVAULT_SET", value_name = "KEY=VALUE", value_delimiter = '\n')]
    settings: Vec<String>,
    /// File that holds a key (MLVK2-…)
    #[arg(long, global = true, env = "MLVAULT_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// File whose first line is the passphrase; MLVAULT_PASSPHRASE can hold the passphrase itself
    #[arg(long, global = true, env = "MLVAULT_PASSPHRASE_FILE", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Shell command that prints the passphrase; it gets the environment, but no variable that begins with MLVAULT_
    #[arg(long, global = true, env = "MLVAULT_PASSPHRASE_COMMAND", value_name = "COMMAND")]
    passphrase_command: Option<String>,
    /// Refuse any repository but the one with this pin, which `mlvault init` and `mlvault key list` print
    #[arg(long, global = true, env = "MLVAULT_PIN", value_name = "PIN")]
    pin: Option<String>,
    /// URL of the S3 server, if it is not AWS
    #[arg(long, global = true, env = "MLVAULT_S3_ENDPOINT", value_name = "URL")]
    s3_endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long, global = true, env = "MLVAULT_S3_REGION", value_name = "REGION")]
    s3_region: Option<String>,
    /// Put the bucket name into the path of the URL, not the host name [default: true with --s3-endpoint]
    #[arg(long, global = true, env = "MLVAULT_S3_PATH_STYLE", value_name = "BOOL")]
    s3_path_style: Option<bool>,
    /// Allow plain HTTP to an S3 server on another machine
    #[arg(
        long,
        global = true,
        env = "MLVAULT_S3_INSECURE_HTTP",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    s3_insecure_http: Option<bool>,
    /// Directory of the index cache; it can be deleted at any time
    #[arg(long, global = true, env = "MLVAULT_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// File that remembers which snapshots were seen, besides the cache directory: for machines that do not keep theirs
    #[arg(long, global = true, env = "MLVAULT_HISTORY_FILE", value_name = "FILE")]
    history_file: Option<PathBuf>,
    /// Refuse to work unless this snapshot is there or was forgotten by a maintainer; can be given several times (in the
    /// variable: separated by commas)
    #[arg(
        long = "expect-snapshot",
        global = true,
        env = "MLVAULT_EXPECT_SNAPSHOT",
        value_name = "ID",
        value_delimiter = ','
    )]
    expected: Vec<SessionId>,
    /// Memory limit, such as 512M [default: 90% of the container's limit, at most 1G]
    #[arg(long, global = true, env = "MLVAULT_MEMORY_LIMIT", value_name = "SIZE")]
    memory_limit: Option<String>,
    /// Send no more than this many bytes per second to S3 servers, such as 10M
    #[arg(long, global = true, env = "MLVAULT_LIMIT_UPLOAD", value_name = "RATE")]
    limit_upload: Option<String>,
    /// Receive no more than this many bytes per second from S3 servers, such as 10M
    #[arg(long, global = true, env = "MLVAULT_LIMIT_DOWNLOAD", value_name = "RATE")]
    limit_download: Option<String>,
    /// Print the result as one JSON document; progress and problems go to standard error as JSON lines
    #[arg(long, global = true)]
    pub json: bool,
    /// How lines on standard error look [default: json with --json, else plain]
    #[arg(long, global = true, env = exit::LOG_FORMAT_VARIABLE, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Print only errors, problems, warnings and results
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print a line for every file that is read or written
    #[arg(long, short, global = true)]
    verbose: bool,
}

impl GlobalArgs {
    /// From now on, standard error looks as the arguments say.
    pub fn choose_log_format(&self) {
        stderr::choose(self.log_format, self.json);
    }
}

/// What a command works with.
pub struct Context {
    args: GlobalArgs,
    given: Given,
    file: ConfigFile,
    origins: Origins,
    progress: Arc<Progress>,
    cancel: Cancel,
    limits: Limits,
    /// Repositories that were opened: when the command has ended, they tell what is gone.
    opened: Mutex<Vec<Arc<Repository>>>,
    /// Whether a snapshot was found that may not be the one that is meant.
    is_in_doubt: Cell<bool>,
    last_words: LastWords,
}

/// What is done before a process that hangs after a signal is ended.
type LastWords = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

impl Context {
    /// Reads the configuration file, starts progress output and listens for signals.
    pub fn new(args: GlobalArgs, given: Given) -> Result<Self> {
        let (file, origins) = ConfigFile::load(args.config.as_deref(), &args.settings)?;
        let verbosity = match (args.quiet, args.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        };
        let cancel = Cancel::default();
        let limits = limits(&args, &file, &cancel)?;
        listen_for_signals(&cancel);
        let last_words = LastWords::default();
        end_when_stuck(&cancel, &last_words);
        let opened = Mutex::default();
        Ok(Self {
            progress: Progress::start(verbosity),
            args,
            given,
            file,
            origins,
            cancel,
            limits,
            opened,
            is_in_doubt: Cell::new(false),
            last_words,
        })
    }

    /// Says in a log which run begins.
    pub fn begin(&self, command: &str) {
        self.progress.begun(&|| {
            let place = self.location().map_or_else(|_| "no repository".to_owned(), |it| format!("repository {it}"));
            format!("{PROGRAM}: {command}, {place}")
        });
    }

    /// Returns whether output is for programs.
    pub fn json(&self) -> bool {
        self.args.json
    }

    /// Returns who follows the command's operations.
    pub fn hears(&self) -> Hears {
        Hears::new(self.monitor(), self.cancel.clone())
    }

    /// Returns what hears of progress.
    pub fn monitor(&self) -> Arc<dyn Monitor> {
        Arc::clone(&self.progress) as Arc<dyn Monitor>
    }

    /// Returns the wish to stop.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Returns how fast bodies may go over the network.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Says what is to be done if the process hangs after a signal and is ended.
    pub fn leave_last_words(&self, words: Box<dyn FnOnce() + Send>) {
        *lock(&self.last_words) = Some(words);
    }

    /// Says that nothing is to be done any more: the command has come to its end.
    pub fn forget_last_words(&self) {
        lock(&self.last_words).take();
    }

    /// Returns the problems and warnings that were told so far.
    pub fn told(&self) -> Told {
        self.progress.told()
    }

    /// From now on, progress says how much time is left of what the restore may take.
    pub fn count_down(&self, objectives: &Objectives) {
        self.progress.count_down(objectives);
    }

    /// Ends progress output, before a result is printed.
    pub fn finish(&self) {
        self.progress.finish();
    }

    /// Returns the configuration file's content.
    pub fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// Returns which keys of the configuration are set, and by what.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Returns the arguments that were given.
    pub fn given(&self) -> &Given {
        &self.given
    }

    /// Returns whether a repository was named at all.
    pub fn has_location(&self) -> bool {
        self.args.repo.is_some() || self.file.repository.is_some()
    }

    /// Returns where the repository is.
    pub fn location(&self) -> Result<RepositoryLocation> {
        let text = self.args.repo.as_ref().or(self.file.repository.as_ref()).ok_or_else(|| {
            Error::Invalid(
                "No repository was given: set --repo, MLVAULT_REPO or `repository` in mlvault.toml".to_owned(),
            )
        })?;
        RepositoryLocation::from_str(text)
    }

    /// Returns how artifact buckets are reached for which nothing else is said. The repository's endpoint and key pair are
    /// its own.
    pub fn artifact_options(&self) -> S3Options {
        let insecure_http = self.args.s3_insecure_http.unwrap_or(false);
        S3Options { insecure_http, hears: self.hears(), limits: self.limits.clone(), ..S3Options::default() }
    }

    /// Returns how the repository's S3 is reached.
    pub fn backend_options(&self) -> Result<S3Options> {
        let (args, s3) = (&self.args, &self.file.s3);
        Ok(S3Options {
            endpoint: args.s3_endpoint.clone().or_else(|| s3.endpoint.clone()),
            region: args.s3_region.clone().or_else(|| s3.region.clone()),
            path_style: args.s3_path_style.or(s3.path_style),
            // An explicit `false` must count, so that a manifest can take back what a shared file allows.
            insecure_http: args.s3_insecure_http.or(s3.insecure_http).unwrap_or(false),
            credentials: match env_credentials("MLVAULT") {
                Some(credentials) => Some(credentials),
                None => s3.credentials()?,
            },
            ca_bundle: variable("AWS", "CA_BUNDLE").map(PathBuf::from).or_else(|| s3.ca_bundle.clone()),
            ignore_tls: false,
            hears: self.hears(),
            limits: self.limits.clone(),
        })
    }

    /// Opens the backend.
    pub fn backend(&self) -> Result<Arc<dyn Backend>> {
        location::open(&self.location()?, &self.backend_options()?)
    }

    /// Returns where the key comes from: flags and environment, else the configuration file.
    pub fn credential_source(&self) -> Result<CredentialSource> {
        let (args, file) = (&self.args, &self.file);
        let mut given = sources(&args.key_file, &args.passphrase_file, &args.passphrase_command);
        given.extend(env_passphrase("MLVAULT"));
        if given.is_empty() {
            given = sources(&file.key_file, &file.passphrase_file, &file.passphrase_command);
        }
        CredentialSource::choose(given)
    }

    /// Opens the repository.
    pub fn repository(&self) -> Result<Arc<Repository>> {
        self.open_repository(self.memory_limit()?)
    }

    /// Opens the repository with another memory limit than the process's, because another one is open too.
    pub fn open_repository(&self, memory_limit: u64) -> Result<Arc<Repository>> {
        let options = OpenOptions {
            history_file: self.args.history_file.clone().or_else(|| self.file.history_file.clone()),
            ..self.open_options(memory_limit)
        };
        let place = Place {
            location: self.location()?,
            s3: self.backend_options()?,
            credential: self.credential_source()?,
            pins: self.pins()?,
        };
        let repository = self.open(&place, options)?;
        self.args.expected.iter().try_for_each(|id| repository.expect_snapshot(id))?;
        Ok(repository)
    }

    /// Returns the pins that are stated.
    pub fn pins(&self) -> Result<Vec<StatedPin>> {
        stated_pins(&self.args.pin, "--pin or MLVAULT_PIN", &self.file.pin, "`pin` in mlvault.toml")
    }

    /// Opens another repository.
    pub fn open_at(&self, place: &Place, memory_limit: u64) -> Result<Arc<Repository>> {
        self.open(place, self.open_options(memory_limit))
    }

    fn open_options(&self, memory_limit: u64) -> OpenOptions {
        OpenOptions { cache_root: self.cache_root(), memory_limit, ..OpenOptions::default() }
    }

    /// Opens a repository, unless it is another one than its pin says.
    fn open(&self, place: &Place, options: OpenOptions) -> Result<Arc<Repository>> {
        let Place { location, s3, credential, pins } = place;
        let backend = location::open(location, s3).map_err(|error| match error.fault() {
            Some(Fault::NotFound) => Error::NoRepository { location: location.to_string() },
            _ => error,
        })?;
        let key = credential.read(&self.cancel)?;
        let of_key = key.hint.map(|hint| StatedPin { pin: hint.pin, by: "the key file".to_owned() });
        let stated = pins::agreed(&pins.iter().cloned().chain(of_key).collect::<Vec<_>>())?;
        let memory = self.pin_memory(location, s3);
        let remembered = memory.as_ref().and_then(|memory| self.remembered_pin(memory));
        let slot = key.hint.map(|hint| hint.slot);
        let options = OpenOptions { pin: stated.or(remembered), slot, ..options };
        let repository =
            Repository::open(backend, &key.credential, &options).map_err(|error| match (error, &memory) {
                (Error::NotPinned { location, pinned, found, .. }, Some(memory)) if stated.is_none() => {
                    Error::NotPinned { location, pinned, found, remembered: Some(memory.path().to_owned()) }
                }
                (error, _) => error,
            })?;
        if remembered != Some(repository.pin()) {
            self.remember_pin(location, s3, repository.pin());
        }
        lock(&self.opened).push(Arc::clone(&repository));
        Ok(repository)
    }

    /// Remembers, in the cache directory, which repository is at a location.
    pub fn remember_pin(&self, location: &RepositoryLocation, s3: &S3Options, pin: Pin) {
        if let Some(Err(error)) = self.pin_memory(location, s3).map(|memory| memory.write(pin)) {
            self.monitor().note(&format!("Which repository is at \"{location}\" is not remembered: {error}"));
        }
    }

    fn remembered_pin(&self, memory: &PinMemory) -> Option<Pin> {
        memory.read().unwrap_or_else(|error| {
            self.monitor().note(&format!("Which repository was there before is not known: {error}"));
            None
        })
    }

    fn pin_memory(&self, location: &RepositoryLocation, s3: &S3Options) -> Option<PinMemory> {
        let server = s3.endpoint.clone().or_else(|| variable("AWS", "ENDPOINT_URL_S3"));
        let server = server.or_else(|| variable("AWS", "ENDPOINT_URL")).unwrap_or_default();
        let (location, server) = match location {
            // The same directory must read the same from everywhere.
            RepositoryLocation::Local(path) => (format!("{:?}", path.canonicalize().as_ref().unwrap_or(path)), ""),
            RepositoryLocation::S3(location) => (location.to_string(), server.trim_end_matches('/')),
        };
        self.cache_root().map(|root| PinMemory::new(&root, location, server))
    }

    /// Enters into the logs of the repositories that were opened what this command wrote and is not in them yet.
    pub fn settle_logs(&self) {
        let opened = lock(&self.opened).clone();
        for repository in opened {
            self.settle_log(&repository);
        }
    }

    /// Enters into the log of a repository what was written. If that fails, what was written stands.
    pub fn settle_log(&self, repository: &Repository) -> Option<Appended> {
        repository.settle_log().unwrap_or_else(|error| {
            self.monitor().warning(&format!(
                "What was written stands, and could not be entered into the log: {error}. `mlvault audit log complete` enters it"
            ));
            None
        })
    }

    /// Says what this machine has seen of the repositories that were opened, and is gone; and why it could not keep its
    /// cache.
    pub fn tell_about_opened(&self) {
        let opened = lock(&self.opened).clone();
        for repository in opened {
            if let Some(fault) = repository.index().take_cache_fault() {
                self.monitor().warning(&format!(
                    "{fault}. Another one was used instead, and is gone: every command reads the whole index anew. See \
                     --cache-dir"
                ));
            }
            for fault in repository.history().take_faults() {
                self.monitor().note(&format!("What was seen of the repository is not remembered: {fault}"));
            }
            let gone = repository.history().gone();
            if !gone.is_empty() {
                self.monitor().problem(&repository.backend().location(), &gone_text(&repository, &gone));
            }
            if let Some(number) = repository.history().log_gone() {
                self.monitor().problem(&repository.backend().location(), &log_gone_text(&repository, number));
            }
        }
    }

    /// Reads the notes that can be read, and says which cannot. Such a command does not end as if all were well.
    pub fn read_notes(&self, repository: &Repository) -> Result<Notes> {
        let notes = repository.list_notes()?;
        for line in notes.damaged.lines() {
            self.monitor().problem("notes", &line);
            self.is_in_doubt.set(true);
        }
        Ok(notes)
    }

    /// Finds the snapshot that a name means among those of one source.
    pub fn find_snapshot(&self, repository: &Repository, name: &str, scope: &Scope) -> Result<Answer> {
        repository.find(name, scope).map(|found| self.take_found(found))
    }

    /// Takes what can be read, and says what may be missed by that. Such a command does not end as if all were well.
    pub fn take_found(&self, found: Found) -> Answer {
        found.note.iter().for_each(|note| self.monitor().note(note));
        if let Some(doubt) = &found.doubt {
            self.monitor().problem("snapshots", doubt);
            self.is_in_doubt.set(true);
        }
        let about = About::new(&found, Timestamp::now());
        about.warnings().iter().for_each(|warning| self.monitor().warning(warning));
        Answer { snapshot: found.snapshot, about }
    }

    /// Returns whether a snapshot was found that may not be the one that is meant.
    pub fn is_in_doubt(&self) -> bool {
        self.is_in_doubt.get()
    }

    /// Returns what mlvault itself writes: the repository, if it is a directory, and the cache.
    pub fn written_places(&self) -> OwnPlaces {
        let repository = match self.location() {
            Ok(RepositoryLocation::Local(path)) => Some((path, "the repository")),
            _ => None,
        };
        let cache = self.cache_root().map(|root| (root, "mlvault's cache"));
        repository.into_iter().chain(cache).collect()
    }

    /// Returns all that mlvault needs itself: what it writes, and the files that it is given.
    pub fn own_places(&self) -> OwnPlaces {
        let (args, file) = (&self.args, &self.file);
        let given = [
            (args.key_file.as_ref().or(file.key_file.as_ref()), "the key file"),
            (args.passphrase_file.as_ref().or(file.passphrase_file.as_ref()), "the file of the passphrase"),
            (args.history_file.as_ref().or(file.history_file.as_ref()), "the history file"),
        ];
        let given = given.into_iter().filter_map(|(path, what)| Some((path?.clone(), what)));
        let settings = ConfigFile::place(args.config.as_deref()).map(|path| (path, "the configuration file"));
        self.written_places().into_iter().chain(given).chain(settings).collect()
    }

    /// Returns the directory of the caches.
    pub fn cache_root(&self) -> Option<PathBuf> {
        let configured = self.args.cache_dir.clone().or_else(|| self.file.cache_dir.clone());
        let usual = || environment::base_directory("XDG_CACHE_HOME", ".cache").map(|base| base.join("mlvault"));
        configured.or_else(usual)
    }

    /// Returns the memory limit of the process in bytes.
    pub fn memory_limit(&self) -> Result<u64> {
        match self.args.memory_limit.as_ref().or(self.file.memory_limit.as_ref()) {
            Some(text) => {
                parse_bytes(text).ok_or_else(|| Error::Invalid(format!("{text:?} is not a memory size such as 512M")))
            }
            None => Ok(cgroup_limit().map_or(MEMORY_LIMIT_DEFAULT, |limit| {
                (limit - limit / 10).clamp(MEMORY_LIMIT_MIN, MEMORY_LIMIT_DEFAULT)
            })),
        }
    }
}

/// Returns how fast bodies may go over the network: one limit for whatever the process does.
fn limits(args: &GlobalArgs, file: &ConfigFile, cancel: &Cancel) -> Result<Limits> {
    let lane = |typed: &Option<String>, of_file: &Option<String>, by: &str| {
        let text = typed.as_ref().or(of_file.as_ref());
        text.map_or_else(|| Ok(Lane::default()), |text| Lane::parse(text, by, cancel))
    };
    Ok(Limits {
        upload: lane(&args.limit_upload, &file.limit_upload, "--limit-upload")?,
        download: lane(&args.limit_download, &file.limit_download, "--limit-download")?,
    })
}

/// Returns the files that remember what was seen, for people who decide that it is right that it is gone.
fn memories(repository: &Repository) -> String {
    let files: Vec<String> = repository.history().files().iter().map(|file| format!("{file:?}")).collect();
    files.join(" and ")
}

fn log_gone_text(repository: &Repository, number: u64) -> String {
    format!(
        "HISTORY WENT BACKWARDS: entry {number} of the log, which this machine has seen, is gone or is another one. \
         Somebody has removed entries, or has put back an older state of the repository; `mlvault audit log verify` tells \
         what does not fit. If you did, remove {}",
        memories(repository)
    )
}

fn gone_text(repository: &Repository, gone: &BTreeSet<SessionId>) -> String {
    let named: Vec<String> = gone.iter().rev().take(GONE_NAMED_MAX).map(SessionId::short).collect();
    let more = if gone.len() > named.len() { " and others" } else { "" };
    format!(
        "HISTORY WENT BACKWARDS: {} that this machine has seen, {}{more}, are gone though no maintainer has forgotten \
         them. Somebody has deleted them, or has put back an older state of the repository. If you did, remove {}",
        count(gone.len(), "snapshot"),
        named.join(" "),
        memories(repository),
    )
}

/// A repository, and what it takes to open it.
pub struct Place {
    /// Where it is.
    pub location: RepositoryLocation,
    /// How its S3 is reached.
    pub s3: S3Options,
    /// Where its key comes from.
    pub credential: CredentialSource,
    /// Which one it must be.
    pub pins: Vec<StatedPin>,
}

/// Returns the pins that flag or variable and the configuration file state, with their names.
pub fn stated_pins(given: &Option<String>, name: &str, in_file: &Option<String>, key: &str) -> Result<Vec<StatedPin>> {
    let stated = [(given, name), (in_file, key)].map(|(text, by)| StatedPin::parse(text.as_deref().unwrap_or(""), by));
    Ok(stated.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn variable(prefix: &str, name: &str) -> Option<String> {
    environment::variable(&format!("{prefix}_{name}"))
}

/// The repository's own key pair, where the AWS variables are those of MLflow's buckets.
pub fn env_credentials(prefix: &str) -> Option<Credentials> {
    Some(Credentials {
        access_key_id: variable(prefix, "S3_ACCESS_KEY_ID")?,
        secret_access_key: Zeroizing::new(variable(prefix, "S3_SECRET_ACCESS_KEY")?),
        session_token: None,
    })
}

/// The passphrase itself.
pub fn env_passphrase(prefix: &str) -> Option<CredentialSource> {
    // A secret that was made of a file has the end of its line.
    let words = Zeroizing::new(variable(prefix, "PASSPHRASE")?);
    let words = Zeroizing::new(words.trim_end_matches(['\r', '\n']).to_owned());
    (!words.is_empty()).then_some(CredentialSource::Passphrase(words))
}

/// Returns the ways to a key that are given.
pub fn sources(
    key_file: &Option<PathBuf>,
    passphrase_file: &Option<PathBuf>,
    passphrase_command: &Option<String>,
) -> Vec<CredentialSource> {
    let key_file = key_file.clone().map(CredentialSource::KeyFile);
    let passphrase_file = passphrase_file.clone().map(CredentialSource::PassphraseFile);
    let passphrase_command = passphrase_command.clone().map(CredentialSource::PassphraseCommand);
    [key_file, passphrase_file, passphrase_command].into_iter().flatten().collect()
}

/// The memory limit of the container, version 2 or 1 of cgroups.
fn cgroup_limit() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// Ends the process if it does not end by itself after a signal: a server, a disk or a command can hold up any thread.
/// Sessions have been closed by then, also those whose own thread is held up.
fn end_when_stuck(cancel: &Cancel, last_words: &LastWords) {
    /// How long after a signal. Kubernetes kills a pod after 30 seconds, and some run with less.
    const STOP_MAX: Duration = Duration::from_secs(17);
    /// How often the flag is looked at.
    const LOOK: Duration = Duration::from_millis(100);
    let (cancel, last_words) = (cancel.clone(), Arc::clone(last_words));
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while cancel.raised_for().is_none_or(|time| time < STOP_MAX) {
            std::thread::sleep(LOOK);
        }
        let _ = exit::report(&Error::Interrupted);
        let words = lock(&last_words).take();
        words.into_iter().for_each(|say| say());
        // Not the usual way out, which would wait for what hangs.
        signal_hook::low_level::exit(i32::from(exit::INTERRUPTED));
    });
}

/// The first signal asks to stop; a second one ends the process at once.
fn listen_for_signals(cancel: &Cancel) {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let flag = cancel.flag();
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag));
        let _ = signal_hook::flag::register(signal, flag);
    }
}
