//! Images are names: what is in them is the host's.
//!
//! What must stay true: `mlvault` is the program that is tested. Any other name is that of a program which setup installs for
//! the tests, or that the host has. A tag or digest says nothing.

use std::path::{Path, PathBuf};
use std::{env, fs};

use super::super::super::postgres_server::program;
use crate::support::tools;

/// Users that the images of mlvault and of PostgreSQL run as; what others run as is root, if nobody says otherwise.
const USER: i64 = 65532;
const POSTGRES_USER: i64 = 999;
/// Where the program that is tested is in every container.
const PLACE: &str = "/image/mlvault";
/// What makes PostgreSQL's directory if there is none, as its image does.
const POSTGRES: &str = "set -e; export PGDATA=${PGDATA:-/var/lib/postgresql/data}; \
    if [ ! -s \"$PGDATA/PG_VERSION\" ]; then umask 077; printf %s \"$POSTGRES_PASSWORD\" >/tmp/password; \
    initdb --no-sync --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --username=\"${POSTGRES_USER:-postgres}\" \
    --pwfile=/tmp/password; rm /tmp/password; [ -z \"$POSTGRES_DB\" ] || \
    echo \"CREATE DATABASE \\\"$POSTGRES_DB\\\"\" | postgres --single -D \"$PGDATA\" postgres; fi; exec postgres -k /tmp \"$@\"";

/// Returns the last part of an image's name, without tag and digest.
fn name(image: &str) -> &str {
    let path = image.split('@').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// Returns what an image runs if a container names no command.
pub fn entry_point(image: &str) -> Vec<String> {
    match name(image) {
        "postgres" => ["sh", "-c", POSTGRES, "postgres"].map(str::to_owned).to_vec(),
        name => vec![name.to_owned()],
    }
}

/// Returns the user that an image runs as.
pub fn user(image: &str) -> i64 {
    match name(image) {
        "mlvault" => USER,
        "postgres" => POSTGRES_USER,
        _ => 0,
    }
}

/// Returns what is mounted in every container, read-only: the host's file and the place.
pub fn mounts() -> Vec<(PathBuf, PathBuf)> {
    let same = |path: PathBuf| (path.clone(), path);
    let mut mounts = vec![(env!("CARGO_BIN_EXE_mlvault").into(), PLACE.into()), same(tools())];
    mounts.extend(["/usr", "/opt"].map(PathBuf::from).into_iter().filter(|path| path.is_dir()).map(same));
    mounts.extend(python().map(same));
    mounts.extend(of_etc().map(same));
    mounts
}

/// Returns where programs are looked for in a container.
pub fn path() -> String {
    let tools = tools().join("bin");
    let postgresql = program("postgres");
    let folders = [Path::new(PLACE).parent().unwrap(), &tools, postgresql.parent().unwrap()];
    let folders = folders.map(|folder| folder.display().to_string()).join(":");
    format!("{folders}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// Returns the Python that the tools' virtual environment was made from, if it is none of the system.
fn python() -> Option<PathBuf> {
    let told = fs::read_to_string(tools().join("pyvenv.cfg")).unwrap_or_default();
    let home = told.lines().find_map(|line| line.strip_prefix("home = ").map(PathBuf::from))?;
    home.parent().filter(|prefix| !prefix.starts_with("/usr")).map(Path::to_owned)
}

/// What programs need of `/etc`, where containers also mount things of their own.
fn of_etc() -> impl Iterator<Item = PathBuf> {
    let names = ["alternatives", "ca-certificates", "ld.so.cache", "localtime", "mime.types", "nsswitch.conf", "ssl"];
    names.into_iter().map(|name| Path::new("/etc").join(name)).filter(|path| path.exists())
}

/// Returns the users that there are in a container.
pub fn passwd() -> String {
    format!(
        "root:x:0:0::/root:/bin/sh\npostgres:x:{POSTGRES_USER}:{POSTGRES_USER}::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n\
         mlvault:x:{USER}:{USER}::/tmp:/bin/sh\n"
    )
}
