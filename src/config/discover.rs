//! Makes a configuration of what was found to run MLflow in a cluster.
//!
//! What must stay true: what is proposed can be read as a configuration file, and holds no secret. A secret becomes a file, and it
//! is said which key of which Secret belongs there. What could not be found out is said, and stands in the file as a comment,
//! never as a guess.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::kubernetes::discover::{FoundServer, Mount, Piece, Text, plain};

/// Where a pod of mlvault is to find what is in Secrets: below their names, as the chart puts them there by `secretFiles`.
const SECRETS_DIRECTORY: &str = "/run/secrets";
/// Where MLflow keeps what it serves, if it is not told.
const DESTINATION_DEFAULT: &str = "./mlartifacts";
/// The root that servers keep artifacts below, for clients that have no credentials of the store.
const PROXIED_ROOT: &str = "mlflow-artifacts:/";
/// What databases mlvault can read.
const ENGINES: [&str; 2] = ["postgresql", "sqlite"];
/// Schemes of artifact places that it can read.
const STORES: [&str; 2] = ["s3", "file"];

/// A key of a Secret, and the file that it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretFile {
    /// The file.
    pub file: String,
    /// The Secret.
    pub secret: String,
    /// Its key.
    pub key: String,
}

/// What a server's configuration may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// What runs it.
    pub workload: String,
    /// What the deployment is called.
    pub name: String,
    /// The table of the configuration file.
    pub configuration: String,
    /// What is to be mounted.
    pub secrets: Vec<SecretFile>,
    /// What could not be found out, or cannot be backed up.
    pub gaps: Vec<String>,
}

/// Makes a proposal for each server that was found. Of several with one name, the later ones get a number.
pub fn propose(servers: &[FoundServer], namespace: &str) -> Vec<Proposal> {
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut proposals = Vec::new();
    for server in servers {
        let count = names.entry(server.workload.name.clone()).or_default();
        *count += 1;
        let name = if *count == 1 { server.workload.name.clone() } else { format!("{}-{count}", server.workload.name) };
        proposals.push(Draft::new(server, name, namespace).finish());
    }
    proposals
}

/// A proposal under way.
struct Draft<'a> {
    server: &'a FoundServer,
    name: String,
    namespace: &'a str,
    lines: Vec<String>,
    artifacts: Vec<String>,
    /// Claims that hold data, and where their root is to be found if MLflow has all of it.
    claims: Vec<(String, Option<String>)>,
    uses_s3: bool,
    secrets: Vec<SecretFile>,
    gaps: Vec<String>,
}

impl<'a> Draft<'a> {
    fn new(server: &'a FoundServer, name: String, namespace: &'a str) -> Self {
        let (lines, artifacts, claims) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            server,
            name,
            namespace,
            lines,
            artifacts,
            claims,
            uses_s3: false,
            secrets: Vec::new(),
            gaps: Vec::new(),
        }
    }

    fn finish(mut self) -> Proposal {
        let backend = self.setting("backend-store-uri", "MLFLOW_BACKEND_STORE_URI");
        match &backend {
            Some(uri) => self.database("backend-store", uri),
            None => self.gap(
                "backend-store-uri",
                "it is not told to the server: MLflow then uses a file in its working directory",
            ),
        }
        if let Some(uri) = self.setting("registry-store-uri", "MLFLOW_REGISTRY_STORE_URI") {
            self.database("registry-store", &uri);
        }
        self.users();
        self.tracking();
        self.roots();
        for unread in &self.server.unread {
            self.gaps
                .push(format!("{unread} gives it variables that were not read: it may say more, or something else"));
        }
        let configuration = self.configuration();
        let Self { name, secrets, gaps, server, .. } = self;
        Proposal { workload: server.workload.to_string(), name, configuration, secrets, gaps }
    }

    fn configuration(&mut self) -> String {
        let mut text = vec![format!("[deployment.{}]", quoted_key(&self.name))];
        text.append(&mut self.lines);
        if !self.artifacts.is_empty() {
            text.extend([String::new(), format!("[deployment.{}.artifacts]", quoted_key(&self.name))]);
            text.append(&mut self.artifacts);
        }
        if self.uses_s3 {
            self.s3();
            if !self.lines.is_empty() {
                text.extend([String::new(), format!("[deployment.{}.s3]", quoted_key(&self.name))]);
                text.append(&mut self.lines);
            }
        }
        text.extend([String::new(), format!("[deployment.{}.kubernetes]", quoted_key(&self.name))]);
        text.push(format!("namespace = {}", quoted(self.namespace)));
        text.push(format!("workload = {}", quoted(&self.server.workload.to_string())));
        if let Some((claim, mount)) = self.claims.first() {
            text.push(format!("claim = {}", quoted(claim)));
            text.extend(mount.as_ref().map(|mount| format!("claim-mount = {}", quoted(mount))));
        }
        text.join("\n") + "\n"
    }

    /// Returns what an option of the command line says, or else a variable.
    fn setting(&self, option: &str, variable: &str) -> Option<Text> {
        let words = &self.server.words;
        let (alone, with_value) = (format!("--{option}"), format!("--{option}="));
        for (at, word) in words.iter().enumerate() {
            match word.first() {
                Some(Piece::Plain(text)) if word.len() == 1 && *text == alone => return words.get(at + 1).cloned(),
                Some(Piece::Plain(text)) if text.starts_with(&with_value) => {
                    let rest = Piece::Plain(text[with_value.len()..].to_owned());
                    return Some(std::iter::once(rest).chain(word[1..].iter().cloned()).collect());
                }
                _ => {}
            }
        }
        self.server.variables.get(variable).filter(|text| !text.is_empty()).cloned()
    }

    fn has_word(&self, wanted: &str) -> bool {
        self.server.words.iter().any(|word| plain(word).is_some_and(|word| word == wanted))
    }

    fn known(&self, variable: &str) -> Option<String> {
        self.server.variables.get(variable).and_then(plain).filter(|text| !text.is_empty())
    }

    fn gap(&mut self, key: &str, why: &str) {
        let text = format!("{key}: {why}");
        self.comment(&text);
        self.gaps.push(text);
    }

    /// What others have written may not end the line.
    fn comment(&mut self, text: &str) {
        self.lines.push(format!("# {}", text.replace(char::is_control, " ")));
    }

    /// Notes that a key of a Secret is to be a file, and returns the file.
    fn secret_file(&mut self, secret: &str, key: &str) -> String {
        let file = format!("{SECRETS_DIRECTORY}/{secret}/{key}");
        let wanted = SecretFile { file: file.clone(), secret: secret.to_owned(), key: key.to_owned() };
        if !self.secrets.contains(&wanted) {
            self.secrets.push(wanted);
        }
        file
    }

    fn database(&mut self, store: &str, uri: &Text) {
        let key = format!("{store}-uri");
        if let [Piece::Secret { name, key: of }] = uri.as_slice() {
            let variable = format!("MLVAULT_{}_URI", store.replace('-', "_").to_uppercase());
            let why = format!(
                "all of it is in the key {of} of the Secret {name}: give that to mlvault as the variable {variable}"
            );
            return self.gap(&key, &why);
        }
        let Some((scheme, rest)) = first_split(uri, "://") else {
            return self.gap(&key, "what the server is told is no URI");
        };
        let engine = scheme.split('+').next().unwrap_or_default().replace("postgres", "postgresql");
        let engine = if engine.starts_with("postgresql") { "postgresql".to_owned() } else { engine };
        match engine.as_str() {
            "sqlite" => self.sqlite(&key, &rest),
            "postgresql" => self.postgresql(store, &rest),
            _ => self.gap(
                &key,
                &format!("{engine} is none of the databases that mlvault backs up ({})", ENGINES.join(", ")),
            ),
        }
    }

    fn sqlite(&mut self, key: &str, rest: &Text) {
        let Some(path) = plain(rest) else { return self.gap(key, "a part of its path is not known") };
        let path = path.split('?').next().unwrap_or_default();
        // Three slashes begin a path that is relative.
        let path = path.strip_prefix('/').unwrap_or(path).to_owned();
        let Some(path) = self.absolute(&path) else {
            return self.gap(key, &format!("the file {path:?} is relative to a directory that is not known"));
        };
        self.lines.push(format!("{key} = {}", quoted(&format!("sqlite:///{path}"))));
        self.claim_of(key, &path);
    }

    fn postgresql(&mut self, store: &str, rest: &Text) {
        let key = format!("{store}-uri");
        let Some(parts) = UriParts::of(rest) else {
            return self.gap(&key, "what the server is told is no URI of PostgreSQL");
        };
        let mut shown = Vec::new();
        // Where the URI says nothing, libpq asks these variables.
        for (what, said, variable, default) in [
            ("user", &parts.user, "PGUSER", None),
            ("host", &parts.host, "PGHOST", None),
            ("database", &parts.database, "PGDATABASE", None),
            ("port", &parts.port, "PGPORT", Some("5432")),
        ] {
            let of_variable = || self.server.variables.get(variable).cloned().unwrap_or_default();
            let text = if said.is_empty() { of_variable() } else { said.clone() };
            match (plain(&text).filter(|text| !text.is_empty()), default) {
                (Some(known), _) => shown.push(known),
                (None, Some(default)) if text.is_empty() => shown.push(default.to_owned()),
                (None, _) => return self.gap(&key, &format!("its {what} is not known{}", where_it_is(&text))),
            }
        }
        let [user, host, database, port] = shown.as_slice() else { return };
        let query = plain(&parts.query).filter(|query| !query.is_empty()).map(|query| format!("?{query}"));
        let uri = format!("postgresql://{user}@{host}:{port}/{database}{}", query.unwrap_or_default());
        self.lines.push(format!("{key} = {}", quoted(&uri)));
        let of_variable = || self.server.variables.get("PGPASSWORD").cloned().unwrap_or_default();
        let password = if parts.password.is_empty() { of_variable() } else { parts.password };
        self.password(&format!("{store}-password-file"), &password);
    }

    fn password(&mut self, key: &str, password: &Text) {
        match password.as_slice() {
            [] => self.gap(key, "the server is told none"),
            [Piece::Secret { name, key: of }] => {
                let file = self.secret_file(name, of);
                self.lines.push(format!("{key} = {}", quoted(&file)));
            }
            [Piece::Plain(_)] => self.gap(key, "it stands in the open where MLflow is described: put it into a Secret"),
            _ => self.gap(key, "it is put together of several parts: put it into a Secret of its own"),
        }
    }

    /// With its app `basic-auth`, MLflow has a database of users, which a file of its own names.
    fn users(&mut self) {
        let is_on = self.setting("app-name", "MLFLOW_APP_NAME").and_then(|text| plain(&text));
        if is_on.as_deref() == Some("basic-auth") {
            let file = self.known("MLFLOW_AUTH_CONFIG_PATH").unwrap_or_else(|| "basic_auth.ini".to_owned());
            self.gap("auth-database-uri", &format!("the server keeps users in a database that its file {file} names"));
        }
    }

    fn tracking(&mut self) {
        let prefix =
            self.setting("static-prefix", "MLFLOW_STATIC_PREFIX").and_then(|text| plain(&text)).unwrap_or_default();
        let wanted =
            self.setting("port", "MLFLOW_PORT").and_then(|text| plain(&text)).and_then(|port| port.parse().ok());
        let wanted: u16 = wanted.unwrap_or(5000);
        let services = &self.server.services;
        let found = services.iter().find(|(_, ports)| ports.contains(&wanted)).or(services.first()).cloned();
        match found {
            Some((service, ports)) => {
                let port = ports.iter().find(|port| **port == wanted).or(ports.first()).copied().unwrap_or(wanted);
                let uri = format!("http://{service}.{}.svc:{port}{}", self.namespace, prefix.trim_end_matches('/'));
                self.lines.push(format!("tracking-uri = {}", quoted(&uri)));
            }
            None => self.gap("tracking-uri", "no Service leads to its pods"),
        }
    }

    fn roots(&mut self) {
        let is_off = |text: Option<String>| text.is_some_and(|text| text.eq_ignore_ascii_case("false") || text == "0");
        let serves = !self.has_word("--no-serve-artifacts") && !is_off(self.known("MLFLOW_SERVE_ARTIFACTS"));
        let given = self.setting("default-artifact-root", "MLFLOW_DEFAULT_ARTIFACT_ROOT");
        if serves {
            let destination = self.setting("artifacts-destination", "MLFLOW_ARTIFACTS_DESTINATION");
            let destination = destination.unwrap_or_else(|| vec![Piece::Plain(DESTINATION_DEFAULT.to_owned())]);
            self.root(PROXIED_ROOT, &destination);
        }
        match given {
            Some(root) => match plain(&root) {
                Some(uri) if uri.starts_with("mlflow-artifacts:") => {}
                Some(uri) => self.root(&uri, &root),
                None => self.gap("artifacts", &format!("the default artifact root is not known{}", where_it_is(&root))),
            },
            None if !serves => {
                self.gap("artifacts", "the server is told no artifact root: MLflow then uses its working directory")
            }
            None => {}
        }
    }

    fn root(&mut self, root: &str, place: &Text) {
        let Some(text) = plain(place) else {
            return self.gap("artifacts", &format!("where {root} is stored is not known{}", where_it_is(place)));
        };
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_owned());
        match scheme.as_deref() {
            Some("s3") => {
                self.uses_s3 = true;
                self.artifacts.push(format!("{} = {}", quoted(root), quoted(text.trim_end_matches('/'))));
            }
            None | Some("file") => {
                let path = text.strip_prefix("file://").unwrap_or(&text).to_owned();
                let Some(path) = self.absolute(&path) else {
                    return self.gap(
                        "artifacts",
                        &format!("{root} is stored in {path:?}, below a directory that is not known"),
                    );
                };
                self.artifacts.push(format!("{} = {}", quoted(root), quoted(&path)));
                self.claim_of(root, &path);
            }
            Some(other) => {
                let why = format!("{root} is stored in {other}, and mlvault reads {}", STORES.join(" and "));
                self.gap("artifacts", &why);
            }
        }
    }

    fn s3(&mut self) {
        let endpoint = self.known("MLFLOW_S3_ENDPOINT_URL").or_else(|| self.known("AWS_ENDPOINT_URL_S3"));
        let region = self.known("AWS_REGION").or_else(|| self.known("AWS_DEFAULT_REGION"));
        if let Some(endpoint) = endpoint {
            self.lines.push(format!("endpoint = {}", quoted(&endpoint)));
            self.lines.extend(endpoint.starts_with("http://").then(|| "insecure-http = true".to_owned()));
        }
        self.lines.extend(region.map(|region| format!("region = {}", quoted(&region))));
        let variables = &self.server.variables;
        let id = variables.get("AWS_ACCESS_KEY_ID").cloned().unwrap_or_default();
        let secret = variables.get("AWS_SECRET_ACCESS_KEY").cloned().unwrap_or_default();
        match (id.as_slice(), secret.as_slice()) {
            ([], []) => self.gap("access-key-id", "the server is told no key pair: its ServiceAccount may have a role of AWS, or a Secret that was not read"),
            ([Piece::Plain(id)], [Piece::Secret { name, key }]) => {
                let file = self.secret_file(name, key);
                self.lines.push(format!("access-key-id = {}", quoted(id)));
                self.lines.push(format!("secret-access-key-file = {}", quoted(&file)));
            }
            ([Piece::Secret { name, key }], [Piece::Secret { .. }]) => {
                let why = format!("it is in the key {key} of the Secret {name}: give mlvault AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY as MLflow has them");
                self.gap("access-key-id", &why);
            }
            _ => self.gap("access-key-id", "the key pair does not come from a Secret: put it into one"),
        }
    }

    fn absolute(&self, path: &str) -> Option<String> {
        if path.starts_with('/') {
            return Some(path.to_owned());
        }
        let directory = self.server.directory.as_ref()?;
        Some(format!("{}/{}", directory.trim_end_matches('/'), path.trim_start_matches("./")))
    }

    /// Notes which claim a path of the container is in.
    fn claim_of(&mut self, what: &str, path: &str) {
        let holds = |mount: &&Mount| {
            let inner = path.strip_prefix(mount.path.trim_end_matches('/'));
            inner.is_some_and(|inner| inner.is_empty() || inner.starts_with('/'))
        };
        match self.server.mounts.iter().filter(holds).max_by_key(|mount| mount.path.len()) {
            Some(mount) => match &mount.claim {
                Some(claim) => {
                    let below =
                        mount.sub_path.as_ref().map(|path| format!(", its directory {path}")).unwrap_or_default();
                    let text = format!("{what}: mount the claim {claim}{below} at {}", mount.path);
                    self.claims.push((claim.clone(), mount.sub_path.is_none().then(|| mount.path.clone())));
                    self.comment(&text);
                }
                None => self.gap(what, &format!("{} is no PersistentVolumeClaim: mount the same there", mount.path)),
            },
            None => self.gap(what, &format!("{path} is in the container itself: it is lost with the pod")),
        }
    }
}

/// A URI of a database, after its scheme.
struct UriParts {
    user: Text,
    password: Text,
    host: Text,
    port: Text,
    database: Text,
    query: Text,
}

impl UriParts {
    fn of(rest: &Text) -> Option<Self> {
        let (authority, path) = first_split_text(rest, '/').unwrap_or_else(|| (rest.clone(), Vec::new()));
        let (database, query) = first_split_text(&path, '?').unwrap_or((path, Vec::new()));
        let (login, server) = last_split_text(&authority, '@').unwrap_or_else(|| (Vec::new(), authority));
        let (user, password) = first_split_text(&login, ':').unwrap_or((login, Vec::new()));
        let is_address = matches!(server.first(), Some(Piece::Plain(text)) if text.starts_with('['));
        let (host, port) = match is_address {
            // An address of IPv6, in brackets, has colons of its own.
            true => {
                let (address, port) = last_split_text(&server, ']')?;
                let port = first_split_text(&port, ':').map(|(_, port)| port).unwrap_or_default();
                (address.into_iter().chain([Piece::Plain("]".to_owned())]).collect(), port)
            }
            false => first_split_text(&server, ':').unwrap_or((server, Vec::new())),
        };
        Some(Self { user, password, host, port, database, query })
    }
}

/// Splits a text at the first place where a word stands in it, if all before is known.
fn first_split(text: &Text, at: &str) -> Option<(String, Text)> {
    let Some(Piece::Plain(first)) = text.first() else { return None };
    let (before, after) = first.split_once(at)?;
    let rest = std::iter::once(Piece::Plain(after.to_owned())).chain(text[1..].iter().cloned());
    Some((before.to_owned(), cleaned(rest)))
}

fn first_split_text(text: &Text, at: char) -> Option<(Text, Text)> {
    let index = text.iter().position(|piece| matches!(piece, Piece::Plain(plain) if plain.contains(at)))?;
    split_piece(text, index, |plain| plain.split_once(at))
}

fn last_split_text(text: &Text, at: char) -> Option<(Text, Text)> {
    let index = text.iter().rposition(|piece| matches!(piece, Piece::Plain(plain) if plain.contains(at)))?;
    split_piece(text, index, |plain| plain.rsplit_once(at))
}

fn split_piece(text: &Text, index: usize, split: impl Fn(&str) -> Option<(&str, &str)>) -> Option<(Text, Text)> {
    let Piece::Plain(plain) = &text[index] else { return None };
    let (before, after) = split(plain)?;
    let head = text[..index].iter().cloned().chain([Piece::Plain(before.to_owned())]);
    let tail = std::iter::once(Piece::Plain(after.to_owned())).chain(text[index + 1..].iter().cloned());
    Some((cleaned(head), cleaned(tail)))
}

fn cleaned(pieces: impl Iterator<Item = Piece>) -> Text {
    pieces.filter(|piece| !matches!(piece, Piece::Plain(text) if text.is_empty())).collect()
}

/// Says which Secrets a text is in.
fn where_it_is(text: &Text) -> String {
    let names: Vec<_> = text
        .iter()
        .filter_map(|piece| match piece {
            Piece::Plain(_) => None,
            Piece::Secret { name, key } => Some(format!("the key {key} of the Secret {name}")),
            Piece::Unknown(variable) => Some(format!("the variable {variable}, which nobody sets here")),
        })
        .collect();
    if names.is_empty() { String::new() } else { format!(": it is in {}", names.join(" and ")) }
}

/// Quotes a text for TOML. A JSON string is one, too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Names of objects may have dots, which separate keys.
fn quoted_key(name: &str) -> String {
    let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if is_bare { name.to_owned() } else { quoted(name) }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;
    use crate::config::file::ConfigFile;
    use crate::kubernetes::Workload;

    fn server(words: &[&str], variables: &[(&str, Text)]) -> FoundServer {
        FoundServer {
            workload: Workload::from_str("deployment/mlflow").unwrap(),
            words: words.iter().map(|word| vec![Piece::Plain((*word).to_owned())]).collect(),
            variables: variables.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect(),
            unread: Vec::new(),
            directory: Some("/mlflow".into()),
            mounts: vec![Mount { path: "/mlflow/data".into(), claim: Some("data".into()), sub_path: None }],
            services: vec![("mlflow".into(), vec![80])],
        }
    }

    fn words(text: &str) -> Text {
        vec![Piece::Plain(text.to_owned())]
    }

    fn secret(key: &str) -> Piece {
        Piece::Secret { name: "db".into(), key: key.into() }
    }

    /// Proposes, and reads what was proposed as mlvault reads its configuration.
    fn proposed(server: &FoundServer) -> (Proposal, ConfigFile) {
        let proposal = propose(std::slice::from_ref(server), "ml").remove(0);
        let file = ConfigFile::parse(&proposal.configuration)
            .unwrap_or_else(|error| panic!("{error}\n{}", proposal.configuration));
        (proposal, file)
    }

    #[test]
    fn a_password_of_a_secret_becomes_a_file() {
        let mut found = server(
            &["mlflow", "server", "--artifacts-destination=s3://mlflow/a/"],
            &[
                ("AWS_ACCESS_KEY_ID", words("mlflow")),
                ("AWS_SECRET_ACCESS_KEY", vec![secret("s3")]),
                ("MLFLOW_S3_ENDPOINT_URL", words("http://minio:9000")),
            ],
        );
        let uri = [
            words("--backend-store-uri=postgresql+psycopg2://ml:"),
            vec![secret("password")],
            words("@db/mlflow?sslmode=require"),
        ];
        found.words.push(uri.concat());
        let (proposal, file) = proposed(&found);
        let section = &file.deployment["mlflow"];
        assert_eq!(section.backend_store_uri.as_deref(), Some("postgresql://ml@db:5432/mlflow?sslmode=require"));
        assert_eq!(section.backend_store_password_file.as_deref().unwrap(), "/run/secrets/db/password");
        assert_eq!(section.artifacts["mlflow-artifacts:/"], "s3://mlflow/a");
        assert_eq!((section.s3.access_key_id.as_deref(), section.s3.insecure_http), (Some("mlflow"), Some(true)));
        assert_eq!(section.tracking_uri.as_deref(), Some("http://mlflow.ml.svc:80"));
        assert_eq!(section.kubernetes.workload.as_deref(), Some("deployment/mlflow"));
        assert_eq!(proposal.secrets.len(), 2);
        assert!(proposal.gaps.is_empty(), "{:?}", proposal.gaps);
    }

    #[test]
    fn what_libpq_reads_from_variables_is_read_there() {
        let found = server(
            &["mlflow", "server", "--backend-store-uri", "postgresql://", "--no-serve-artifacts"],
            &[
                ("PGHOST", words("db.ml")),
                ("PGUSER", words("ml")),
                ("PGDATABASE", words("mlflow")),
                ("PGPASSWORD", vec![secret("password")]),
                ("MLFLOW_DEFAULT_ARTIFACT_ROOT", words("s3://models")),
            ],
        );
        let (_, file) = proposed(&found);
        let section = &file.deployment["mlflow"];
        assert_eq!(section.backend_store_uri.as_deref(), Some("postgresql://ml@db.ml:5432/mlflow"));
        assert_eq!(section.artifacts.keys().collect::<Vec<_>>(), ["s3://models"]);
    }

    #[test]
    fn files_are_found_on_their_claims_and_those_that_die_with_the_pod_are_told() {
        let (proposal, file) = proposed(&server(
            &[
                "mlflow",
                "server",
                "--backend-store-uri",
                "sqlite:///data/mlflow.db",
                "--artifacts-destination",
                "/mlflow/data/artifacts",
            ],
            &[],
        ));
        let section = &file.deployment["mlflow"];
        assert_eq!(section.backend_store_uri.as_deref(), Some("sqlite:////mlflow/data/mlflow.db"));
        assert_eq!(section.artifacts["mlflow-artifacts:/"], "/mlflow/data/artifacts");
        assert_eq!(section.kubernetes.claim.as_deref(), Some("data"));
        assert_eq!(section.kubernetes.claim_mount.as_deref(), Some("/mlflow/data"));
        assert!(proposal.gaps.is_empty(), "{:?}", proposal.gaps);
        let (proposal, _) = proposed(&server(&["mlflow", "server"], &[]));
        for gap in ["backend-store-uri: it is not told", "/mlflow/mlartifacts is in the container itself"] {
            assert!(proposal.gaps.iter().any(|found| found.contains(gap)), "{gap}: {:?}", proposal.gaps);
        }
    }

    #[test]
    fn what_is_hidden_or_odd_is_told_and_never_guessed() {
        let odd = "x\n[deployment.evil]\nbackend-store-uri = 'sqlite:///x'";
        for uri in
            [vec![secret("uri")], words("mysql://a@b/c"), words("nonsense"), words(&format!("{odd}://a")), words(odd)]
        {
            let mut found =
                server(&["mlflow", "server", "--app-name", "basic-auth"], &[("MLFLOW_BACKEND_STORE_URI", uri)]);
            found.unread = vec!["Secret more".into()];
            found.variables.insert("MLFLOW_ARTIFACTS_DESTINATION".into(), words(&format!("gs://{odd}")));
            let (proposal, file) = proposed(&found);
            assert_eq!(file.deployment.len(), 1, "{}", proposal.configuration);
            assert_eq!(file.deployment["mlflow"].backend_store_uri, None);
            for gap in ["backend-store-uri", "auth-database-uri", "Secret more", "artifacts"] {
                assert!(proposal.gaps.iter().any(|found| found.contains(gap)), "{gap}: {:?}", proposal.gaps);
            }
        }
        let open =
            server(&["mlflow", "server", "--backend-store-uri", "postgresql://ml:hunter2@[::1]:5433/mlflow"], &[]);
        let (proposal, file) = proposed(&open);
        assert_eq!(file.deployment["mlflow"].backend_store_uri.as_deref(), Some("postgresql://ml@[::1]:5433/mlflow"));
        assert!(!format!("{proposal:?}").contains("hunter2"), "{proposal:?}");
    }
}
