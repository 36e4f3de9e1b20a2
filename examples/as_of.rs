//! Writes a file to standard output as it was on a day, verified against the digest that was signed then.
//!
//! ```text
//! MLVAULT_KEY=/secrets/key cargo run --release --example as_of -- /backups/mlvault 2025-11-29 srv/mlflow/model.pkl
//! ```

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use mlvault::config::credential::CredentialSource;
use mlvault::{Error, Hears, LocalBackend, Repository, Result, dump};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ([repository, day, path], Some(key)) = (arguments.as_slice(), std::env::var_os("MLVAULT_KEY")) else {
        return Err(Error::Invalid("usage: MLVAULT_KEY=<key file> as_of <repository> <day> <path>".to_owned()));
    };
    let key = CredentialSource::KeyFile(PathBuf::from(key)).read(&Default::default())?;
    let backend = Arc::new(LocalBackend::open(repository)?);
    let repository = Repository::open(backend, &key.credential, &key.open_options())?;
    let snapshot = repository.find_snapshot(day)?;
    eprintln!("from snapshot {} of {}, signed by {:?}", snapshot.id, snapshot.record.started, snapshot.signer.label);
    let mut out = io::stdout().lock();
    // Fails, after the bytes, if they do not have the file's digest: who sees no error has the file.
    dump::file(&repository, &snapshot, path.as_bytes(), &mut out, &Hears::nobody())?;
    out.flush().map_err(|error| Error::target("write", "standard output", error))
}
