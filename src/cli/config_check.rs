//! `mlvault config check`
//!
//! What must stay true: no server is asked and nothing is written; no value is shown that [`masked`] has not seen; one setting
//! that is wrong does not keep the others from being looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use jiff::SignedDuration;
use serde::Serialize;
use serde_json::{Value, json};

use mlvault::backend::location::RepositoryLocation;
use mlvault::config::credential::CredentialSource;
use mlvault::config::file::{self, DrillSection};
use mlvault::config::masked;
use mlvault::config::origins::{self, Origin};
use mlvault::database::DatabaseUri;
use mlvault::environment;
use mlvault::error::Result;
use mlvault::format::snapshot::{ARTIFACTS, DATABASE, METADATA};
use mlvault::globs::Globs;
use mlvault::hooks::When;
use mlvault::mlflow::schema::Store;
use mlvault::objectives::Objectives;
use mlvault::procedures::drill::settings::SAMPLES_DEFAULT;
use mlvault::s3;
use mlvault::source::deployment::{ArtifactPlace, Deployment};
use mlvault::units::{count, format_age};

use crate::cli::context::{self, Context};
use crate::cli::deployment::DeploymentArgs;
use crate::cli::exit;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::progress::printable;

/// Beginnings of the names of variables that settings may come from.
const VARIABLE_PREFIXES: [&str; 4] = ["MLVAULT_", "MLFLOW_", "AWS_", "PG"];
/// Variables of mlvault that are no arguments.
const SECRET_VARIABLES: [&str; 3] = ["PASSPHRASE", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"];
/// Permission to read for everybody, and to write for others than the owner.
const TOO_OPEN: u32 = 0o026;

/// Arguments of the command.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    deployment: DeploymentArgs,
}

/// What is wrong with the settings.
#[derive(Default)]
struct Findings {
    /// What cannot be used, or cannot work.
    problems: Vec<(String, String)>,
    /// What should be looked at.
    warnings: Vec<(String, String)>,
}

impl Findings {
    fn problem(&mut self, subject: &str, message: impl ToString) {
        self.problems.push((subject.to_owned(), message.to_string()));
    }

    fn warning(&mut self, subject: &str, message: impl ToString) {
        self.warnings.push((subject.to_owned(), message.to_string()));
    }

    /// Takes the value of a result; an error is a problem.
    fn take<T>(&mut self, subject: &str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.problem(subject, error)).ok()
    }

    fn code(&self) -> exit::Code {
        match (self.problems.is_empty(), self.warnings.is_empty()) {
            (false, _) => exit::USAGE,
            (true, false) => exit::INCOMPLETE,
            (true, true) => exit::COMPLETE,
        }
    }
}

/// A setting that counts.
struct Setting {
    key: String,
    value: String,
    from: String,
}

/// What the settings come to.
struct Report {
    settings: Vec<Setting>,
    variables: Vec<String>,
    repository: Plan,
    policies: Plan,
    deployments: Vec<(String, Plan)>,
    notifications: Plan,
    findings: Findings,
}

/// What will be done, as pairs of what and how.
type Plan = Vec<(String, String)>;

impl Setting {
    /// Returns the value as it may be shown.
    fn shown(&self) -> String {
        masked::value(&self.key, &self.value)
    }
}

/// Runs the command.
pub fn run(context: &Context, args: &Args) -> Result<Outcome> {
    let mut findings = Findings::default();
    let settings = settings(context, args);
    settings.iter().for_each(|setting| look_at_file(setting, &mut findings));
    let report = Report {
        settings,
        repository: repository(context, &mut findings),
        policies: policies(context, &mut findings),
        deployments: deployments(context, args, &mut findings),
        notifications: notifications(context, &mut findings),
        variables: variables(&mut findings),
        findings: look_at_copies(context, findings),
    };
    let file = context.origins().file.as_deref();
    Ok(Outcome::new(report.findings.code(), report.document(file), report.text(file)))
}

impl Report {
    fn text(&self, file: Option<&Path>) -> Text {
        let mut text = Text::from(match file {
            Some(path) => printable(&format!("Configuration file: {}", path.display())),
            None => printable(&format!("Configuration file: none of {}", searched().join(", "))),
        });
        let settings = self.settings.iter();
        let settings = settings.map(|it| vec![it.key.clone(), it.shown(), it.from.clone()]).collect();
        add_rows(&mut text, "Settings", settings);
        if !self.variables.is_empty() {
            text.line(printable(&format!("Variables that are set: {}", self.variables.join(", "))));
        }
        for (title, plan) in [("Repository", &self.repository), ("Policies", &self.policies)] {
            add_plan(&mut text, title, plan);
        }
        self.deployments.iter().for_each(|(name, plan)| add_plan(&mut text, &format!("Deployment {name}"), plan));
        add_plan(&mut text, "Notifications", &self.notifications);
        for (kind, found) in [("Problem", &self.findings.problems), ("Warning", &self.findings.warnings)] {
            let line = |(subject, message): &(String, String)| printable(&format!("{kind}: {subject}: {message}"));
            text.extend(found.iter().map(line));
        }
        if self.findings.code() == exit::COMPLETE {
            text.line("Nothing is wrong with the settings");
        }
        text
    }

    fn document(&self, file: Option<&Path>) -> Value {
        let setting = |it: &Setting| json!({ "key": it.key, "value": it.shown(), "from": it.from });
        let deployment = |(name, plan): &(String, Plan)| json!({ "name": name, "plan": plan_json(plan) });
        json!({
            "file": file,
            "searched": searched(),
            "settings": self.settings.iter().map(setting).collect::<Vec<_>>(),
            "variables": self.variables,
            "repository": plan_json(&self.repository),
            "policies": plan_json(&self.policies),
            "deployments": self.deployments.iter().map(deployment).collect::<Vec<_>>(),
            "notifications": plan_json(&self.notifications),
            "problems": findings_json(&self.findings.problems),
            "warnings": findings_json(&self.findings.warnings),
        })
    }
}

fn searched() -> Vec<String> {
    file::usual_places().iter().map(|path| path.display().to_string()).collect()
}

fn add_plan(text: &mut Text, title: &str, plan: &Plan) {
    add_rows(text, title, plan.iter().map(|(what, how)| vec![what.clone(), how.clone()]).collect());
}

/// Adds rows in columns, below a title.
fn add_rows(text: &mut Text, title: &str, rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    text.line(printable(&format!("{title}:")));
    // The empty cell makes the indentation.
    let indented = |row: Vec<String>| [vec![String::new()], row.iter().map(|cell| printable(cell)).collect()].concat();
    text.extend(Text::from(rows.into_iter().map(indented).collect::<Vec<_>>()));
}

fn plan_json(plan: &Plan) -> Value {
    plan.iter().map(|(what, how)| json!({ "what": what, "how": how })).collect()
}

fn findings_json(found: &[(String, String)]) -> Value {
    found.iter().map(|(subject, message)| json!({ "subject": subject, "message": message })).collect()
}

/// Returns every setting that counts: what is given over what the file says, and the defaults that depend on this machine.
fn settings(context: &Context, args: &Args) -> Vec<Setting> {
    let mut found: BTreeMap<String, (String, String)> = BTreeMap::new();
    found.extend(defaults(context).into_iter().map(|(key, value)| (key, (value, "default".to_owned()))));
    for (key, value, origin) in context.origins().keys() {
        let from = match origin {
            Origin::File => "file",
            Origin::Settings => "--set",
        };
        found.insert(key.to_owned(), (value.to_owned(), from.to_owned()));
    }
    for given in context.given().values() {
        if let Some(key) = key_of(&given.name, args) {
            found.insert(key, (given.value.clone(), given.by.clone()));
        }
    }
    for (name, key) in [("PASSPHRASE", "passphrase"), ("S3_ACCESS_KEY_ID", "s3.access-key-id")] {
        let name = format!("MLVAULT_{name}");
        if let Some(value) = environment::variable(&name) {
            found.insert(key.to_owned(), (value, name));
        }
    }
    // Of other deployments nothing is asked.
    let meant = args.deployment.deployment.as_ref().map(|name| origins::join("deployment", name) + ".");
    let is_meant = |key: &str| !key.starts_with("deployment.") || meant.as_ref().is_none_or(|it| key.starts_with(it));
    found.retain(|key, _| is_meant(key));
    found.into_iter().map(|(key, (value, from))| Setting { key, value, from }).collect()
}

fn defaults(context: &Context) -> Vec<(String, String)> {
    let cache = context.cache_root().map(|path| ("cache-dir", path.display().to_string()));
    let memory = context.memory_limit().ok().map(|bytes| ("memory-limit", format!("{}M", bytes >> 20)));
    cache.into_iter().chain(memory).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Returns the key that an argument stands for: options are named like keys.
fn key_of(name: &str, args: &Args) -> Option<String> {
    match name {
        "repo" => Some("repository".to_owned()),
        "config" | "set" | "json" | "quiet" | "verbose" | "log-format" | "expect-snapshot" => None,
        "deployment" => None,
        "key-file" | "passphrase-file" | "passphrase-command" | "pin" | "cache-dir" | "history-file"
        | "memory-limit" | "limit-upload" | "limit-download" => Some(name.to_owned()),
        _ => match (name.strip_prefix("s3-"), &args.deployment.deployment) {
            (Some(of_s3), _) => Some(format!("s3.{of_s3}")),
            (None, Some(deployment)) => Some(origins::join(&origins::join("deployment", deployment), &in_file(name))),
            (None, None) => Some(in_file(name)),
        },
    }
}

/// Options that can be given several times are in the singular.
fn in_file(name: &str) -> String {
    if name == "exclude-root" { "exclude-roots".to_owned() } else { name.to_owned() }
}

/// Looks at a file that a setting names: whether it can be read, and by whom if it holds a secret.
fn look_at_file(setting: &Setting, findings: &mut Findings) {
    let name = setting.key.rsplit('.').next().unwrap_or(&setting.key);
    if name == "history-file" || !(name.ends_with("-file") || name == "ca-bundle") {
        return;
    }
    let path = Path::new(&setting.value);
    match File::open(path).and_then(|file| file.metadata()) {
        Err(error) => findings.problem(&setting.key, format!("Cannot read {path:?}: {error}")),
        Ok(metadata) if !metadata.is_file() => findings.problem(&setting.key, format!("{path:?} is not a file")),
        Ok(metadata) if name != "ca-bundle" && metadata.permissions().mode() & TOO_OPEN != 0 => findings.warning(
            &setting.key,
            format!(
                "{path:?} has the mode {:04o}: others than its owner and group can read it, or than its owner write it",
                metadata.permissions().mode() & 0o7777
            ),
        ),
        Ok(_) => {}
    }
}

fn repository(context: &Context, findings: &mut Findings) -> Plan {
    let mut plan = Plan::new();
    if let Some(location) = findings.take("repository", context.location()) {
        if let RepositoryLocation::Local(path) = &location
            && !path.join("config").exists()
        {
            findings.warning("repository", format!("There is no repository at {path:?} yet: `mlvault init` makes one"));
        }
        plan.push(("location".to_owned(), location.to_string()));
    }
    findings.take("memory-limit", context.memory_limit());
    findings.take("pin", context.pins());
    let key = match context.credential_source() {
        // Who calls this at a terminal may not be who runs the backups.
        Ok(CredentialSource::Prompt) => {
            findings.warning("key", "No key is given: commands ask on the terminal, and a job fails");
            None
        }
        source => findings.take("key", source),
    };
    plan.extend(key.map(|source| ("key".to_owned(), describe_key(&source))));
    if let Some(options) = findings.take("s3", context.backend_options())
        && let Some(endpoint) = &options.endpoint
    {
        findings.take("s3.endpoint", s3::check_endpoint(endpoint, options.insecure_http));
        plan.push(("server".to_owned(), masked::value("endpoint", endpoint)));
    }
    plan
}

fn describe_key(source: &CredentialSource) -> String {
    match source {
        CredentialSource::KeyFile(path) => format!("key file {path:?}"),
        CredentialSource::Passphrase(_) => "passphrase of MLVAULT_PASSPHRASE".to_owned(),
        CredentialSource::PassphraseFile(path) => format!("passphrase in {path:?}"),
        CredentialSource::PassphraseCommand(line) => {
            format!("passphrase that a command prints: {}", masked::value("passphrase-command", line))
        }
        CredentialSource::Prompt => "asked for on the terminal".to_owned(),
    }
}

/// Looks at the repository that copies go to.
fn look_at_copies(context: &Context, mut findings: Findings) -> Findings {
    let to = &context.file().to;
    findings.take("to.s3", to.s3.credentials());
    if let Some(endpoint) = &to.s3.endpoint {
        findings.take("to.s3.endpoint", s3::check_endpoint(endpoint, to.s3.insecure_http.unwrap_or(false)));
    }
    let given = context::sources(&to.key_file, &to.passphrase_file, &to.passphrase_command);
    if given.len() > 1 {
        findings.problem("to", "Several keys are given; give one");
    }
    findings.take("to.pin", context::stated_pins(&None, "", &to.pin, "`pin` in [to]"));
    let location = to.repository.as_ref().map(|text| text.parse::<RepositoryLocation>());
    if let Some(location) = location.and_then(|location| findings.take("to.repository", location))
        && context.location().is_ok_and(|own| own.to_string() == location.to_string())
        && context.file().s3.endpoint == to.s3.endpoint
    {
        findings.problem("to.repository", "Copies would go to the repository that they are made from");
    }
    findings
}

fn policies(context: &Context, findings: &mut Findings) -> Plan {
    let described = context.file().policy.iter().filter_map(|(name, spec)| {
        let policy = findings.take(&origins::join("policy", name), spec.policy())?;
        Some((name.clone(), policy.to_string()))
    });
    described.collect()
}

/// Returns what is known of each deployment: of the one that is meant, or else of all that the file has.
fn deployments(context: &Context, args: &Args, findings: &mut Findings) -> Vec<(String, Plan)> {
    findings.take("hooks", context.file().hooks(None));
    let one = args.deployment.is_meant().then(|| args.deployment.deployment.clone());
    let all = || context.file().deployment.keys().cloned().map(Some).collect();
    let names: Vec<Option<String>> = one.map_or_else(all, |name| vec![name]);
    names.into_iter().map(|name| deployment(context, args, name, findings)).collect()
}

fn deployment(context: &Context, args: &Args, name: Option<String>, findings: &mut Findings) -> (String, Plan) {
    let key = name.as_deref().map_or_else(|| "deployment".to_owned(), |name| origins::join("deployment", name));
    let Some(found) = findings.take(&key, args.deployment.resolve_named(context, name.clone())) else {
        return (name.unwrap_or_default(), Plan::new());
    };
    let mut plan = databases(&key, &found, findings);
    plan.extend(places(&key, &found, findings));
    findings.take(&key, found.layout());
    if let Some(tracking) = &found.tracking {
        let need = if found.metadata_optional { "optional" } else { "required" };
        plan.push(("tracking server".to_owned(), format!("{} (metadata {need})", tracking.uri)));
    }
    if let Some(section) = context.file().deployment.get(&found.name) {
        findings.take(&key, Globs::new(&section.exclude, "exclude pattern"));
        plan.extend(section.exclude.iter().map(|pattern| ("leaves out".to_owned(), pattern.clone())));
        let retention = findings.take(&format!("{key}.retention"), context.file().retention(&found.name)).flatten();
        plan.extend(retention.map(|(name, policy)| ("retention".to_owned(), format!("policy {name}: {policy}"))));
        plan.extend(expectations(&section.objectives));
        plan.push(("drill".to_owned(), drill(&section.drill)));
    }
    plan.extend(hooks(context, &found.name, findings));
    plan.extend(found.keys.iter().map(|key| ("fingerprint of".to_owned(), key.name.clone())));
    (found.name, plan)
}

/// Returns what is judged, with what holds where nothing is said.
fn expectations(objectives: &Objectives) -> Plan {
    let all = [
        ("last good snapshot", "old", objectives.rpo()),
        ("restore", "long", objectives.rto()),
        ("restore of databases", "long", objectives.rto_of(DATABASE)),
        ("restore of artifacts", "long", objectives.rto_of(ARTIFACTS)),
        ("restore of metadata", "long", objectives.rto_of(METADATA)),
        ("last clean check", "ago", objectives.check()),
        ("last drill", "ago", objectives.drill()),
    ];
    let said = |(what, how, limit): (&str, &str, Option<SignedDuration>)| {
        Some(("expects".to_owned(), format!("{what}: at most {} {how}", format_age(limit?.as_secs()))))
    };
    all.into_iter().filter_map(said).collect()
}

/// Says where a drill restores to, and what it does there.
fn drill(section: &DrillSection) -> String {
    let place = section.scratch_dir.as_ref().map_or_else(std::env::temp_dir, PathBuf::clone);
    let samples = section.samples.unwrap_or(SAMPLES_DEFAULT);
    let started = if section.mlflow_command.is_some() { ", starts MLflow" } else { "" };
    format!("into {}, compares {}{started}", place.display(), count(samples as u64, "random file"))
}

/// Returns which commands of the user run around commands that are about a deployment.
fn hooks(context: &Context, deployment: &str, findings: &mut Findings) -> Plan {
    let key = origins::join(&origins::join("deployment", deployment), "hooks");
    let Some(hooks) = findings.take(&key, context.file().hooks(Some(deployment))) else { return Plan::new() };
    let of = list(&hooks.on);
    let line = |when: When| Some((when.name(), masked::value(when.name(), hooks.line(when)?)));
    let lines = [When::Before, When::After, When::Failed].into_iter().filter_map(line);
    lines.map(|(name, line)| (format!("hook {name}"), format!("{line} (of {of})"))).collect()
}

/// Returns who is told what.
fn notifications(context: &Context, findings: &mut Findings) -> Plan {
    let file = context.file();
    let (places, faults) = file.places();
    for (name, error) in faults {
        findings.problem(&origins::join("notify", &name), error);
    }
    let unknown = |name: &&String| !file.deployment.contains_key(*name);
    let described = places.iter().map(|place| {
        let key = origins::join("notify", &place.name);
        for name in place.deployments.iter().filter(unknown) {
            findings.warning(&key, format!("The file has no deployment {name:?}"));
        }
        let of =
            if place.deployments.is_empty() { String::new() } else { format!(" of {}", place.deployments.join(", ")) };
        let (on, commands) = (list(&place.on), list(&place.commands));
        (place.name.clone(), format!("{} to {}: {on} of {commands}{of}", place.kind(), place.shown()))
    });
    described.collect()
}

/// Returns words of the configuration as a list.
fn list(words: &impl Serialize) -> String {
    let words = serde_json::to_value(words).unwrap_or_default();
    let words = words.as_array().into_iter().flatten().filter_map(Value::as_str);
    words.collect::<Vec<_>>().join(", ")
}

fn databases(key: &str, found: &Deployment, findings: &mut Findings) -> Plan {
    let look = |(store, uri): &(Store, DatabaseUri)| {
        if let DatabaseUri::Sqlite(path) = uri
            && !path.is_file()
        {
            findings.warning(key, format!("There is no database at {path:?} on this machine"));
        }
        (format!("database {}", store.name()), uri.to_string())
    };
    found.databases.iter().map(look).collect()
}

fn places(key: &str, found: &Deployment, findings: &mut Findings) -> Plan {
    let mut plan = Plan::new();
    for root in &found.artifacts {
        let mut how = format!("{} = {}", root.uri, root.place);
        match &root.place {
            ArtifactPlace::Directory(path) if !path.is_dir() => {
                findings.warning(key, format!("There is no directory {path:?} on this machine"));
            }
            ArtifactPlace::Directory(_) => {}
            ArtifactPlace::Bucket(_, options) => {
                if let Some(endpoint) = &options.endpoint {
                    findings.take(key, s3::check_endpoint(endpoint, options.insecure_http));
                    how += &format!(" at {}", masked::value("endpoint", endpoint));
                }
            }
        }
        plan.push(("artifacts".to_owned(), how));
    }
    plan.extend(found.excluded.iter().map(|root| ("leaves out root".to_owned(), root.clone())));
    plan
}

/// Returns the names of variables that settings may come from and that are set. One of mlvault that nothing reads is probably
/// misspelt.
fn variables(findings: &mut Findings) -> Vec<String> {
    let program = crate::cli::program();
    let mut known = Vec::new();
    collect_variables(&program, &mut known);
    for prefix in ["MLVAULT", "MLVAULT_TO"] {
        known.extend(SECRET_VARIABLES.map(|name| format!("{prefix}_{name}")));
    }
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut set: Vec<String> = names.filter(|name| VARIABLE_PREFIXES.iter().any(|it| name.starts_with(it))).collect();
    set.sort();
    let is_unknown = |name: &&String| name.starts_with("MLVAULT_") && !known.contains(name) && !is_of_kubernetes(name);
    for name in set.iter().filter(is_unknown) {
        findings.warning(name, "Nothing reads this variable: is it misspelt?");
    }
    set
}

/// Kubernetes names services to all pods of a namespace, also one that is called mlvault.
fn is_of_kubernetes(name: &str) -> bool {
    name.contains("_SERVICE_") || name.contains("_PORT")
}

fn collect_variables(command: &clap::Command, known: &mut Vec<String>) {
    known.extend(command.get_arguments().filter_map(|it| Some(it.get_env()?.to_string_lossy().into_owned())));
    command.get_subcommands().for_each(|below| collect_variables(below, known));
}
