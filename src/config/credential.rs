//! Where the key comes from. Secrets come from files, the environment or a command, never from an argument.

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::cancel::Cancel;
use crate::child::WatchedChild;
use crate::child_environment;
use crate::crypto::passphrase::{Credential, KeyFile, KeyHint, PASSPHRASE_LEN_MIN};
use crate::error::{Error, Result};
use crate::repository::OpenOptions;

/// Largest key or passphrase file that is read, in bytes.
const SECRET_LEN_MAX: u64 = 64 << 10;

/// A way to a key.
#[derive(Clone)]
pub enum CredentialSource {
    /// A key file, as `key add --new-key-file` wrote it, or a recovery key in a file.
    KeyFile(PathBuf),
    /// The passphrase itself, from the environment.
    Passphrase(Zeroizing<String>),
    /// A file whose first line is the passphrase.
    PassphraseFile(PathBuf),
    /// A command that prints the passphrase.
    PassphraseCommand(String),
    /// Ask on the terminal.
    Prompt,
}

/// A key as it was given.
pub struct GivenKey {
    /// What opens a slot.
    pub credential: Credential,
    /// Which slot, and of which repository, if the key says so.
    pub hint: Option<KeyHint>,
}

impl GivenKey {
    /// Returns options that open no other repository than the one that the key says it is for.
    pub fn open_options(&self) -> OpenOptions {
        let hint = self.hint.as_ref();
        OpenOptions { pin: hint.map(|hint| hint.pin), slot: hint.map(|hint| hint.slot), ..OpenOptions::default() }
    }
}

impl From<Credential> for GivenKey {
    fn from(credential: Credential) -> Self {
        Self { credential, hint: None }
    }
}

impl CredentialSource {
    /// Chooses the only one given; asks on the terminal if none is. Several at one level are refused: it would not be
    /// clear which one counts.
    pub fn choose(given: Vec<Self>) -> Result<Self> {
        match <[Self; 1]>::try_from(given) {
            Ok([source]) => Ok(source),
            Err(given) if given.is_empty() && io::stdin().is_terminal() => Ok(Self::Prompt),
            Err(given) if given.is_empty() => Err(Error::Invalid(
                "No key was given: set MLVAULT_KEY_FILE, MLVAULT_PASSPHRASE_FILE, MLVAULT_PASSPHRASE_COMMAND or \
                 MLVAULT_PASSPHRASE"
                    .to_owned(),
            )),
            Err(_) => Err(Error::Invalid("Several keys were given; give one".to_owned())),
        }
    }

    /// Reads the key. A command that is asked for it ends once somebody asks to stop.
    pub fn read(&self, cancel: &Cancel) -> Result<GivenKey> {
        match self {
            Self::KeyFile(path) => read_key_file(path),
            Self::Passphrase(words) => Ok(passphrase(words.as_bytes()).into()),
            Self::PassphraseFile(path) => Ok(passphrase(&read_secret_file(path)?).into()),
            Self::PassphraseCommand(line) => Ok(passphrase(&command_output(line, cancel)?).into()),
            Self::Prompt => prompt("Passphrase: ").map(|words| passphrase(words.as_bytes()).into()),
        }
    }

    /// Reads a key for a new slot: a prompt asks twice, and short passphrases are refused. So are key files that say of
    /// which repository they are: they would open no other.
    pub fn read_new(&self, cancel: &Cancel) -> Result<Credential> {
        let GivenKey { credential, hint } = self.read(cancel)?;
        if let Some(hint) = hint {
            return Err(Error::Invalid(format!(
                "The key file belongs to the repository with the pin {}; a new repository needs a key of its own",
                hint.pin
            )));
        }
        if let Credential::Passphrase(words) = &credential
            && words.len() < PASSPHRASE_LEN_MIN
        {
            return Err(Error::Invalid(format!("The passphrase is shorter than {PASSPHRASE_LEN_MIN} bytes")));
        }
        if let (Self::Prompt, Credential::Passphrase(words)) = (self, &credential)
            && prompt("The same again: ")?.as_bytes() != words.as_slice()
        {
            return Err(Error::Invalid("The two passphrases differ".to_owned()));
        }
        Ok(credential)
    }
}

fn passphrase(bytes: &[u8]) -> Credential {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Credential::Passphrase(Zeroizing::new(line.to_vec()))
}

fn read_key_file(path: &Path) -> Result<GivenKey> {
    let bytes = read_secret_file(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::Invalid(format!("The key file {path:?} is not text")))?;
    let key = KeyFile::decode(text).map_err(|error| Error::Invalid(format!("The key file {path:?}: {error}")))?;
    Ok(GivenKey { credential: Credential::KeyFile(key.secret), hint: key.hint })
}

fn read_secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    // A setting that cannot be used, whatever the reason.
    let fault = |source| Error::Invalid(format!("Cannot read the key or password in {path:?}: {source}"));
    let mut bytes = Zeroizing::new(Vec::new());
    let file = std::fs::File::open(path).map_err(fault)?;
    file.take(SECRET_LEN_MAX + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > SECRET_LEN_MAX {
        return Err(Error::Invalid(format!("{path:?} is too large to hold a key")));
    }
    Ok(bytes)
}

/// Reads the first line of a file that holds a secret.
pub fn read_secret_line(path: &Path) -> Result<Zeroizing<String>> {
    let bytes = read_secret_file(path)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| Error::Invalid(format!("The secret in {path:?} is not text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn command_output(line: &str, cancel: &Cancel) -> Result<Zeroizing<Vec<u8>>> {
    let fault = |source| Error::source("run", line, source);
    let (mut child, output) = WatchedChild::start_asking(&mut child_environment::shell(line), cancel).map_err(fault)?;
    let mut bytes = Zeroizing::new(Vec::new());
    output.take(SECRET_LEN_MAX).read_to_end(&mut bytes).map_err(fault)?;
    let status = child.wait().map_err(fault)?;
    cancel.check()?;
    if !status.success() {
        return Err(Error::Command { command: line.to_owned(), status: status.to_string() });
    }
    Ok(bytes)
}

fn prompt(text: &str) -> Result<Zeroizing<String>> {
    rpassword::prompt_password(text).map(Zeroizing::new).map_err(|source| Error::source("read", "the terminal", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_line_of_a_passphrase_file_counts() {
        let Credential::Passphrase(words) = passphrase(b"correct horse\r\nignored\n") else { panic!() };
        assert_eq!(&words[..], b"correct horse");
    }

    #[test]
    fn two_keys_at_once_are_refused() {
        let given = vec![CredentialSource::KeyFile("/a".into()), CredentialSource::PassphraseFile("/b".into())];
        assert!(CredentialSource::choose(given).is_err());
    }

    #[test]
    fn a_passphrase_command_that_fails_is_an_error() {
        let cancel = Cancel::default();
        assert!(matches!(
            CredentialSource::PassphraseCommand("false".into()).read(&cancel),
            Err(Error::Command { .. })
        ));
        assert!(CredentialSource::PassphraseCommand("echo correct horse".into()).read_new(&cancel).is_ok());
        assert!(CredentialSource::PassphraseCommand("echo short".into()).read_new(&cancel).is_err());
    }

    #[test]
    fn a_passphrase_command_that_says_nothing_ends_once_somebody_asks_to_stop() {
        let (cancel, begun) = (Cancel::default(), std::time::Instant::now());
        cancel.flag().store(true, std::sync::atomic::Ordering::Relaxed);
        let read = CredentialSource::PassphraseCommand("sleep 100; echo correct horse".into()).read(&cancel);
        assert!(matches!(read, Err(Error::Interrupted)));
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    }
}
