//! A small deployment that was logged and backed up on three days, for tests that wreck it and get it back.
//!
//! It is made once, by a real MLflow server on SQLite and a directory, and kept in memory; each test unpacks its own copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use mlvault::s3::S3Options;
use serde_json::Value;

use super::cli::{Outcome, Runner, finish};
use super::mlflow_server::{MlflowOptions, MlflowServer};
use super::s3_server::{ACCESS_KEY_ID, BUCKET, S3Server, SECRET_ACCESS_KEY};

/// What the deployment is called in snapshots.
pub const NAME: &str = "production";
/// Its artifact root, as its database has it.
pub const ROOT: &str = "mlflow-artifacts:/";

/// Parts of the runner's directory that are kept: the key, the repository, the records of two days, the deployment.
const KEPT: [&str; 5] = ["key", "repo", "day1.json", "day3.json", NAME];

/// Where a deployment has its data, as MLflow and mlvault are told.
#[derive(Debug, Clone)]
pub struct Place {
    /// URI of the database.
    pub database: String,
    /// Where its artifacts are: a directory, or a part of a bucket.
    pub artifacts: String,
    /// What else mlvault is told, such as further roots.
    pub more: Vec<String>,
    /// What MLflow and mlvault need in their environment.
    pub environment: Vec<(String, String)>,
}

impl Place {
    /// A deployment whose data is in one folder, as [`MlflowServer`] keeps it.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            database: format!("sqlite:///{}", folder.join("mlflow.db").display()),
            artifacts: folder.join("artifacts").display().to_string(),
            more: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The same deployment with its artifacts in the servers' one bucket.
    pub fn in_bucket(mut self, options: &S3Options) -> Self {
        self.artifacts = format!("s3://{BUCKET}");
        self.environment = s3_environment(options.endpoint.as_deref().unwrap());
        self
    }

    /// Adds to what else mlvault is told.
    pub fn with(mut self, more: &[&str]) -> Self {
        self.more.extend(more.iter().map(|text| (*text).to_owned()));
        self
    }

    /// Runs a command of mlvault about the deployment, with JSON as its output.
    pub fn run(&self, runner: &Runner, command: &[&str]) -> Outcome {
        finish(&mut self.command(runner, command))
    }

    /// Prepares a command of mlvault about the deployment, with JSON as its output.
    pub fn command(&self, runner: &Runner, command: &[&str]) -> Command {
        let mut prepared = runner.command(command);
        prepared.args(["--json", "--deployment", NAME]).env("MLVAULT_BACKEND_STORE_URI", &self.database);
        prepared.args(["--artifacts", &format!("{ROOT}={}", self.artifacts)]).args(&self.more);
        prepared.envs(self.environment.iter().cloned());
        prepared
    }

    /// Backs the deployment up, completely, and returns the snapshot's id and record.
    #[track_caller]
    pub fn backup(&self, runner: &Runner) -> (String, Value) {
        snapshot_of(&self.run(runner, &["backup"]).expect(0))
    }

    /// Starts MLflow on the data; its log goes into `folder`, which is made.
    pub fn serve(&self, folder: &Path) -> MlflowServer {
        fs::create_dir_all(folder).unwrap();
        MlflowServer::start_with(&MlflowOptions {
            backend_store_uri: Some(self.database.clone()),
            artifacts_destination: Some(self.artifacts.clone()),
            folder: Some(folder.to_owned()),
            environment: self.environment.clone(),
            ..MlflowOptions::default()
        })
    }

    /// Deletes for good what is named, as an administrator does: arguments of `mlflow gc`.
    pub fn collect_garbage(&self, server: &MlflowServer, arguments: &[&str]) {
        let stores = ["--backend-store-uri", &self.database, "--artifacts-destination", &self.artifacts];
        let all: Vec<_> = ["gc"].iter().chain(&stores).chain(arguments).map(|text| format!("{text:?}")).collect();
        server.run(&format!(
            "from click.testing import CliRunner\nfrom mlflow.cli import cli\n\
             found = CliRunner().invoke(cli, [{}], catch_exceptions=False)\nassert found.exit_code == 0, found.output",
            all.join(", ")
        ));
    }
}

/// Returns what MLflow and mlvault need in their environment to reach an S3 server.
pub fn s3_environment(endpoint: &str) -> Vec<(String, String)> {
    let variables = [
        ("MLFLOW_S3_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// Returns the id and the record that a backup printed.
#[track_caller]
pub fn snapshot_of(outcome: &Outcome) -> (String, Value) {
    let mut json = outcome.json();
    (json["snapshot"].as_str().unwrap().to_owned(), json["record"].take())
}

/// Fails unless a record says that a backup was whole, and that every reference of its database leads to files.
#[track_caller]
pub fn assert_whole(record: &Value) {
    let deployment = &record["deployment"];
    assert_eq!(record["completeness"], "complete", "{record:#}");
    for part in ["database", "artifacts", "references"] {
        assert_eq!(deployment["verdicts"][part], "ok", "{record:#}");
    }
    assert_eq!(deployment["references"]["missing"], 0, "{record:#}");
}

/// Returns how many bytes a backup added to the repository.
pub fn bytes_stored(record: &Value) -> u64 {
    record["statistics"]["bytes_stored"].as_u64().unwrap()
}

/// The deployment after three days, with its repository: a snapshot of each day, and one more of the third.
pub struct ThreeDays {
    pub runner: Runner,
    /// Ids and records of the four snapshots.
    pub snapshots: Vec<(String, Value)>,
}

/// The deployment as it is kept in memory.
struct Kept {
    /// Files by path; directories have no content.
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
    snapshots: Vec<(String, Value)>,
}

static KEPT_DEPLOYMENT: OnceLock<Kept> = OnceLock::new();

impl ThreeDays {
    /// Returns a copy of the deployment in a directory of its own. No server runs on it.
    pub fn unpack() -> Self {
        let kept = KEPT_DEPLOYMENT.get_or_init(make);
        let runner = Runner::without_repository();
        for (path, content) in &kept.files {
            match content {
                None => fs::create_dir_all(runner.path(path)).unwrap(),
                Some(content) => fs::write(runner.path(path), content).unwrap(),
            }
        }
        Self { runner, snapshots: kept.snapshots.clone() }
    }

    /// The folder of the deployment.
    pub fn folder(&self) -> PathBuf {
        self.runner.path(NAME)
    }

    pub fn place(&self) -> Place {
        Place::in_folder(&self.folder())
    }

    /// Copies the artifacts into the bucket of a server that keeps objects as files, and that nobody has asked yet.
    pub fn copy_artifacts_to(&self, server: &S3Server) {
        let mut copy = Command::new("cp");
        let copied = copy.arg("-R").arg(self.folder().join("artifacts/.")).arg(server.bucket_directory()).status();
        assert!(copied.unwrap().success());
    }

    /// Returns what was written down on day 1 or 3.
    pub fn record(&self, day: u32) -> PathBuf {
        self.runner.path(format!("day{day}.json"))
    }
}

fn make() -> Kept {
    let runner = Runner::with_repository();
    let folder = runner.path(NAME);
    let place = Place::in_folder(&folder);
    let mut snapshots = Vec::new();
    let server = place.serve(&folder);
    for day in 1..=3 {
        server.log_day(day);
        snapshots.push(place.backup(&runner));
        if day != 2 {
            server.record(&runner.path(format!("day{day}.json")));
        }
    }
    snapshots.push(place.backup(&runner));
    drop(server);
    let mut files = Vec::new();
    KEPT.iter().for_each(|name| collect(&runner.path(""), Path::new(name), &mut files));
    Kept { files, snapshots }
}

fn collect(base: &Path, path: &Path, files: &mut Vec<(PathBuf, Option<Vec<u8>>)>) {
    let full = base.join(path);
    if !full.is_dir() {
        return files.push((path.to_owned(), Some(fs::read(full).unwrap())));
    }
    files.push((path.to_owned(), None));
    for found in fs::read_dir(&full).unwrap() {
        collect(base, &path.join(found.unwrap().file_name()), files);
    }
}
