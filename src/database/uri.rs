//! Where a database is, as MLflow's `--backend-store-uri` says it: SQLAlchemy's URIs of PostgreSQL and SQLite.
//!
//! What must stay true: neither `Display` nor `Debug` nor an error shows a password. What is not understood is refused
//! rather than passed over: a setting that is left out could mean another database, or a connection without TLS.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::pgpass;
use crate::database::Engine;
use crate::environment;
use crate::error::{Error, Result};

/// Port of PostgreSQL where none is named.
const PORT: u16 = 5432;
/// Where Debian's PostgreSQL has its sockets.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";
/// Settings of libpq and psycopg that change neither what is connected to nor how safely.
const PASSED_OVER: [&str; 10] = [
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "prepare_threshold",
    "tcp_user_timeout",
    "executemany_mode",
];

/// How much TLS a connection needs, as libpq means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// None.
    Disable,
    /// None, unless the server insists on it.
    Allow,
    /// TLS, unless the server has none.
    Prefer,
    /// TLS with whatever certificate; with a root certificate given, as [`SslMode::VerifyCa`].
    Require,
    /// TLS, and a certificate that a trusted root vouches for.
    VerifyCa,
    /// The same, and it is for the host's name.
    VerifyFull,
}

impl SslMode {
    /// Returns libpq's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        use SslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
        let modes = [Disable, Allow, Prefer, Require, VerifyCa, VerifyFull];
        let mode = modes.into_iter().find(|mode| mode.name() == text);
        mode.ok_or_else(|| Error::Invalid(format!("Unknown sslmode {text:?} in the database URI")))
    }
}

/// Whether a login is bound to the TLS connection that it is made through, as libpq means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server can.
    Prefer,
    /// Always: whoever stands between has no use for the login.
    Require,
}

impl ChannelBinding {
    /// Returns libpq's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let found = [Self::Disable, Self::Prefer, Self::Require].into_iter().find(|binding| binding.name() == text);
        found.ok_or_else(|| Error::Invalid(format!("Unknown channel_binding {text:?} in the database URI")))
    }
}

/// What a server must be for a session to be of use, as libpq means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// Sessions may write.
    ReadWrite,
    /// Sessions may only read.
    ReadOnly,
    /// It is no standby.
    Primary,
    /// It is a standby.
    Standby,
}

impl SessionKind {
    /// Reads `target_session_attrs`; none if any server will do.
    fn parse(text: &str) -> Result<Option<Self>> {
        Ok(Some(match text {
            "any" | "prefer-standby" => return Ok(None),
            "read-write" => Self::ReadWrite,
            "read-only" => Self::ReadOnly,
            "primary" => Self::Primary,
            "standby" => Self::Standby,
            _ => return Err(Error::Invalid(format!("Unknown target_session_attrs {text:?} in the database URI"))),
        }))
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2, the oldest that is spoken here.
    V1_2,
    /// 1.3.
    V1_3,
}

impl TlsVersion {
    /// Returns libpq's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "TLSv1.2",
            Self::V1_3 => "TLSv1.3",
        }
    }
}

/// Where a PostgreSQL database is, and how to connect.
#[derive(Clone)]
pub struct PostgresqlUri {
    /// Role to connect as.
    pub user: String,
    /// Its password, if one is known.
    pub password: Option<Zeroizing<String>>,
    /// Host name, address, or the directory of a Unix socket.
    pub host: String,
    /// Port; also part of a socket's name.
    pub port: u16,
    /// Name of the database.
    pub database: String,
    /// How much TLS is needed.
    pub ssl_mode: SslMode,
    /// File of trusted roots, instead of the system's.
    pub ssl_root_certificate: Option<PathBuf>,
    /// File of the client's certificate.
    pub ssl_certificate: Option<PathBuf>,
    /// File of its key.
    pub ssl_key: Option<PathBuf>,
    /// File of revoked certificates.
    pub ssl_revoked: Option<PathBuf>,
    /// Oldest version of TLS that will do.
    pub ssl_version_min: TlsVersion,
    /// Newest version of TLS that is spoken.
    pub ssl_version_max: TlsVersion,
    /// Whether the login is bound to the connection.
    pub channel_binding: ChannelBinding,
    /// What the server must be.
    pub session_kind: Option<SessionKind>,
    /// Name that the server's logs show.
    pub application_name: Option<String>,
    /// Seconds to wait for a connection; 0 or none for as long as it takes.
    pub connect_timeout_seconds: Option<u64>,
    /// Settings of the session, as `-c name=value`.
    pub options: Option<String>,
}

impl PostgresqlUri {
    /// Returns whether the host is the directory of a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

/// Where a database is.
#[derive(Clone)]
pub enum DatabaseUri {
    /// In a PostgreSQL server.
    Postgresql(Box<PostgresqlUri>),
    /// In a file of SQLite.
    Sqlite(PathBuf),
}

impl DatabaseUri {
    /// Reads an SQLAlchemy URI.
    ///
    /// The password is the URI's, else the one given, else that of `PGPASSWORD` or the password file, as libpq has it.
    pub fn parse(text: &str, password: Option<Zeroizing<String>>) -> Result<Self> {
        let invalid = |reason: &str| Error::Invalid(format!("Cannot use the database URI: {reason}"));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            let reason = if text.starts_with("file:") { "URIs of SQLite (file:) are" } else { "anything else is" };
            invalid(&format!("it must begin with postgresql:// or sqlite:///; {reason} not supported"))
        })?;
        match scheme.split('+').next().unwrap_or_default() {
            "postgresql" | "postgres" => Ok(Self::Postgresql(Box::new(parse_postgresql(rest, password)?))),
            "sqlite" => Ok(Self::Sqlite(parse_sqlite(rest)?)),
            other => Err(invalid(&format!("{other:?} is not supported; PostgreSQL and SQLite are"))),
        }
    }
}

impl DatabaseUri {
    /// Returns which program the database belongs to.
    pub fn engine(&self) -> Engine {
        match self {
            Self::Postgresql(_) => Engine::Postgresql,
            Self::Sqlite(_) => Engine::Sqlite,
        }
    }
}

impl fmt::Display for DatabaseUri {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgresql(uri) => uri.fmt(out),
            Self::Sqlite(path) => write!(out, "sqlite:///{}", path.display()),
        }
    }
}

impl fmt::Display for PostgresqlUri {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, host, port, database, .. } = self;
        match host {
            host if self.is_socket() => write!(out, "postgresql://{user}@/{database}?host={host}&port={port}"),
            host if host.contains(':') => write!(out, "postgresql://{user}@[{host}]:{port}/{database}"),
            host => write!(out, "postgresql://{user}@{host}:{port}/{database}"),
        }
    }
}

impl fmt::Debug for DatabaseUri {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DatabaseUri({self})")
    }
}

impl fmt::Debug for PostgresqlUri {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PostgresqlUri({self})")
    }
}

/// SQLAlchemy takes the path as it stands: nothing in it is percent-encoded.
fn parse_sqlite(rest: &str) -> Result<PathBuf> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = match path.strip_prefix('/') {
        Some(path) => path,
        None if path.is_empty() => "",
        None => return Err(Error::Invalid(format!("Unusable SQLite URI: {path:?} would be a host; use sqlite:///"))),
    };
    if path.is_empty() || path == ":memory:" {
        return Err(Error::Invalid("A SQLite database in memory cannot be backed up: name a file".to_owned()));
    }
    if path.starts_with("file:") || parameters(query)?.iter().any(|(name, _)| name == "uri") {
        return Err(Error::Invalid("SQLite URIs with file: are not supported: name the file itself".to_owned()));
    }
    Ok(PathBuf::from(path))
}

/// What SQLAlchemy makes of the text behind `postgresql://`: the user ends at the first colon, the password at an `@`.
fn parse_postgresql(rest: &str, given: Option<Zeroizing<String>>) -> Result<PostgresqlUri> {
    let (user, password, rest) = split_credentials(rest);
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (host, port) = split_port(authority)?;
    let user = match user {
        Some(user) => decode(user)?,
        None => from_environment("PGUSER").or_else(|| from_environment("USER")).unwrap_or_else(|| "root".to_owned()),
    };
    let database = Some(database.to_owned()).filter(|name| !name.is_empty()).or_else(|| from_environment("PGDATABASE"));
    let mut uri = PostgresqlUri {
        database: database.unwrap_or_else(|| user.clone()),
        user,
        password: password.map(decode).transpose()?.map(Zeroizing::new),
        host: host.to_owned(),
        port: port.or_else(|| from_environment("PGPORT")?.parse().ok()).unwrap_or(PORT),
        ssl_mode: from_environment("PGSSLMODE").map_or(Ok(SslMode::Prefer), |mode| SslMode::parse(&mode))?,
        ssl_root_certificate: from_environment("PGSSLROOTCERT").map(PathBuf::from),
        ssl_certificate: from_environment("PGSSLCERT").map(PathBuf::from),
        ssl_key: from_environment("PGSSLKEY").map(PathBuf::from),
        ssl_revoked: from_environment("PGSSLCRL").map(PathBuf::from),
        ssl_version_min: TlsVersion::V1_2,
        ssl_version_max: TlsVersion::V1_3,
        channel_binding: from_environment("PGCHANNELBINDING")
            .map_or(Ok(ChannelBinding::Prefer), |text| ChannelBinding::parse(&text))?,
        session_kind: None,
        application_name: None,
        connect_timeout_seconds: None,
        options: None,
    };
    let (mut inline_password, mut password_file) = (None, None);
    let parameters = parameters(query)?;
    refuse_repeated(&parameters)?;
    for (name, value) in parameters {
        match name.as_str() {
            "password" => inline_password = Some(Zeroizing::new(value)),
            "passfile" => password_file = Some(PathBuf::from(value)),
            name => apply_parameter(&mut uri, name, value)?,
        }
    }
    if uri.ssl_version_min > uri.ssl_version_max {
        return Err(Error::Invalid("The database URI allows no version of TLS".to_owned()));
    }
    complete(&mut uri, inline_password.or(given), password_file.as_deref())?;
    Ok(uri)
}

/// Which of two values counts differs from program to program; SQLAlchemy takes repeated hosts for several.
fn refuse_repeated(parameters: &[(String, String)]) -> Result<()> {
    let repeated =
        parameters.iter().enumerate().find(|(at, (name, _))| parameters[..*at].iter().any(|(other, _)| other == name));
    match repeated {
        None => Ok(()),
        Some((_, (name, _))) if name == "host" => Err(several_hosts()),
        Some((_, (name, _))) => Err(Error::Invalid(format!("The database URI has the setting {name:?} twice"))),
    }
}

fn several_hosts() -> Error {
    Error::Invalid(
        "Several hosts in one database URI are not supported: name the one to read from, or to restore into".to_owned(),
    )
}

/// SQLAlchemy takes `host=name:port`, too.
fn apply_host(uri: &mut PostgresqlUri, value: String) -> Result<()> {
    match value.split_once(':') {
        Some((host, port)) if !host.is_empty() && !port.contains(':') => {
            (uri.host, uri.port) = (host.to_owned(), number("port", port)?);
        }
        _ => uri.host = value,
    }
    Ok(())
}

/// Older versions of TLS than 1.2 are not spoken, so that they may be allowed changes nothing.
fn version_min(text: &str) -> Result<TlsVersion> {
    match text {
        "" | "TLSv1" | "TLSv1.1" | "TLSv1.2" => Ok(TlsVersion::V1_2),
        "TLSv1.3" => Ok(TlsVersion::V1_3),
        _ => Err(Error::Invalid(format!("Unknown ssl_min_protocol_version {text:?} in the database URI"))),
    }
}

fn version_max(text: &str) -> Result<TlsVersion> {
    match text {
        "" | "TLSv1.3" => Ok(TlsVersion::V1_3),
        "TLSv1.2" => Ok(TlsVersion::V1_2),
        _ => Err(Error::Invalid(format!(
            "Unusable ssl_max_protocol_version {text:?} in the database URI: TLS 1.2 is the oldest"
        ))),
    }
}

fn apply_parameter(uri: &mut PostgresqlUri, name: &str, value: String) -> Result<()> {
    match name {
        "host" => apply_host(uri, value)?,
        "port" => uri.port = number("port", &value)?,
        "user" => uri.user = value,
        "dbname" => uri.database = value,
        "sslmode" => uri.ssl_mode = SslMode::parse(&value)?,
        "sslrootcert" => uri.ssl_root_certificate = Some(value.into()),
        "sslcert" => uri.ssl_certificate = Some(value.into()),
        "sslkey" => uri.ssl_key = Some(value.into()),
        "sslcrl" => uri.ssl_revoked = Some(value.into()),
        "ssl_min_protocol_version" => uri.ssl_version_min = version_min(&value)?,
        "ssl_max_protocol_version" => uri.ssl_version_max = version_max(&value)?,
        "channel_binding" => uri.channel_binding = ChannelBinding::parse(&value)?,
        "target_session_attrs" => uri.session_kind = SessionKind::parse(&value)?,
        "application_name" => uri.application_name = Some(value),
        "connect_timeout" => uri.connect_timeout_seconds = Some(number("connect_timeout", &value)?),
        "options" => uri.options = Some(value),
        name if PASSED_OVER.contains(&name) => {}
        name => return Err(Error::Invalid(format!("Unknown setting {name:?} in the database URI"))),
    }
    Ok(())
}

/// Fills in what the URI leaves open, as libpq does.
fn complete(uri: &mut PostgresqlUri, given: Option<Zeroizing<String>>, password_file: Option<&Path>) -> Result<()> {
    if uri.host.is_empty() {
        uri.host = from_environment("PGHOST").unwrap_or_else(|| {
            if Path::new(SOCKET_DIRECTORY).is_dir() { SOCKET_DIRECTORY } else { "localhost" }.to_owned()
        });
    }
    if uri.host.contains(',') {
        return Err(several_hosts());
    }
    uri.password = uri.password.take().or(given).or_else(|| from_environment("PGPASSWORD").map(Zeroizing::new));
    if uri.password.is_none() {
        let host = if uri.is_socket() { "localhost" } else { &uri.host };
        uri.password = pgpass::find(password_file, &[host, &uri.port.to_string(), &uri.database, &uri.user]);
    }
    Ok(())
}

/// Returns user, password and the rest.
fn split_credentials(rest: &str) -> (Option<&str>, Option<&str>, &str) {
    let Some((credentials, after)) = rest.split_once('@') else { return (None, None, rest) };
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };
    if user.contains(['/', '?']) {
        return (None, None, rest);
    }
    (Some(user).filter(|user| !user.is_empty()), password, after)
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.filter(|port| !port.is_empty()).map(|port| number("port", port)).transpose()?;
    Ok((host, port))
}

fn number<N: FromStr>(name: &str, text: &str) -> Result<N> {
    text.parse().map_err(|_| Error::Invalid(format!("The {name} of the database URI is not a number that it can be")))
}

fn parameters(query: &str) -> Result<Vec<(String, String)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(&value.replace('+', " "))?))
        })
        .collect()
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| Error::Invalid("The database URI is not UTF-8".to_owned()))
}

fn from_environment(name: &str) -> Option<String> {
    environment::variable(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgresql(text: &str) -> PostgresqlUri {
        match DatabaseUri::parse(text, None).unwrap() {
            DatabaseUri::Postgresql(uri) => *uri,
            DatabaseUri::Sqlite(path) => panic!("{path:?}"),
        }
    }

    fn refusal(text: &str) -> String {
        DatabaseUri::parse(text, None).unwrap_err().to_string()
    }

    #[test]
    fn every_form_of_sqlalchemy_is_read() {
        for scheme in ["postgresql", "postgres", "postgresql+psycopg2", "postgresql+psycopg"] {
            let uri = postgresql(&format!("{scheme}://ml%40flow:p%2F:w@db.example:6432/mlflow?sslmode=require"));
            assert_eq!((uri.user.as_str(), uri.host.as_str(), uri.port), ("ml@flow", "db.example", 6432));
            assert_eq!((uri.database.as_str(), uri.ssl_mode), ("mlflow", SslMode::Require));
            assert_eq!(uri.password.unwrap().as_str(), "p/:w");
        }
    }

    #[test]
    fn addresses_sockets_and_settings_are_read() {
        let uri =
            postgresql("postgresql://u@[::1]:5433/d?application_name=ml+flow&connect_timeout=7&options=-c%20a%3Db");
        assert_eq!((uri.host.as_str(), uri.port), ("::1", 5433));
        assert_eq!(uri.application_name.as_deref(), Some("ml flow"));
        assert_eq!((uri.connect_timeout_seconds, uri.options.as_deref()), (Some(7), Some("-c a=b")));
        let uri = postgresql("postgresql://u@/d?host=/run/pg&sslrootcert=/ca.pem&sslcert=c&sslkey=k");
        assert!(uri.is_socket() && uri.ssl_root_certificate == Some("/ca.pem".into()));
        assert_eq!(uri.to_string(), "postgresql://u@/d?host=/run/pg&port=5432");
    }

    #[test]
    fn paths_of_sqlite_are_relative_with_three_slashes_and_absolute_with_four() {
        let path = |text| match DatabaseUri::parse(text, None).unwrap() {
            DatabaseUri::Sqlite(path) => path,
            DatabaseUri::Postgresql(uri) => panic!("{uri}"),
        };
        assert_eq!(path("sqlite:///mlflow.db"), Path::new("mlflow.db"));
        assert_eq!(path("sqlite:////srv/a%20b.db?timeout=20"), Path::new("/srv/a%20b.db"));
    }

    #[test]
    fn what_cannot_be_backed_up_is_refused_by_name() {
        assert!(
            refusal("mysql+pymysql://u:secret@h/d").contains("\"mysql\" is not supported; PostgreSQL and SQLite are")
        );
        assert!(refusal("mssql://h/d").contains("mssql") && refusal("oracle://h/d").contains("oracle"));
        assert!(refusal("sqlite:///:memory:").contains("memory") && refusal("sqlite://").contains("memory"));
        assert!(refusal("sqlite:///file:x.db?uri=true").contains("file:"));
        assert!(refusal("file:x.db").contains("file:"));
        assert!(refusal("postgresql://u:secret@h1,h2/d").contains("Several hosts"));
        assert!(refusal("postgresql://u:secret@/d?host=h1:1&host=h2:2").contains("Several hosts"));
        assert!(refusal("postgresql://h/d?port=1&port=2").contains("\"port\" twice"));
        assert!(refusal("postgresql://h/d?sslmod=require").contains("sslmod"));
        assert!(refusal("postgresql://h/d?channel_binding=maybe").contains("channel_binding"));
        assert!(refusal("postgresql://h/d?ssl_max_protocol_version=TLSv1.1").contains("TLSv1.1"));
        let none_left = "postgresql://h/d?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2";
        assert!(refusal(none_left).contains("no version of TLS"));
    }

    #[test]
    fn what_providers_put_into_their_uris_is_read() {
        let uri = postgresql(
            "postgresql://u:p@/d?host=db.example:6432&sslmode=require&channel_binding=require&sslcrl=/crl.pem&\
             target_session_attrs=read-write&ssl_min_protocol_version=TLSv1.3",
        );
        assert_eq!((uri.host.as_str(), uri.port), ("db.example", 6432));
        assert_eq!((uri.channel_binding, uri.session_kind), (ChannelBinding::Require, Some(SessionKind::ReadWrite)));
        assert_eq!((uri.ssl_version_min, uri.ssl_version_max), (TlsVersion::V1_3, TlsVersion::V1_3));
        assert_eq!(uri.ssl_revoked, Some("/crl.pem".into()));
        assert_eq!(postgresql("postgresql://u@h/d?target_session_attrs=any").session_kind, None);
    }

    #[test]
    fn the_password_file_that_a_uri_names_is_read_and_needs_to_be_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwords");
        std::fs::write(&path, "h:5432:d:u:out-of-the-file\n").unwrap();
        let text = format!("postgresql://u@h/d?passfile={}", path.display());
        for (mode, found) in [(0o600, true), (0o644, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let is_found = postgresql(&text).password.is_some_and(|password| *password == "out-of-the-file");
            assert_eq!(is_found, found, "{mode:o}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let text = "postgresql://u:secret@h/d?password=secret";
        let uri = DatabaseUri::parse(text, Some(Zeroizing::new("secret".into()))).unwrap();
        assert!(!format!("{uri} {uri:?} {:?}", postgresql(text)).contains("secret"));
        for text in ["mysql://u:secret@h/d", "postgresql://u:secret@h:port/d", "postgresql://u:secret@h/d?x=secret"] {
            assert!(!refusal(text).contains("secret"), "{}", refusal(text));
        }
    }
}
