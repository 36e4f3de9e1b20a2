//! Which repository is meant: pins that somebody states, and the one that the cache directory remembers.
//!
//! What must stay true: a stated pin is never overruled, and two that disagree are an error, because nobody could tell which
//! one counts. What is remembered is trust on first use: it counts where no pin is stated, can be lost at any time, and is
//! only ever replaced by a pin that was stated, or by `init`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use crate::error::{Error, Result};
use crate::id::Pin;

/// Directory of the memories, in the cache directory.
const DIRECTORY: &str = "pins";
/// Bytes of the hash that names a memory.
const NAME_LEN: usize = 16;
/// Longest memory that is read, in bytes: a pin and a location.
const MEMORY_LEN_MAX: u64 = 64 << 10;

/// A pin that somebody stated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatedPin {
    /// The pin.
    pub pin: Pin,
    /// Who says so, as in "the key file".
    pub by: String,
}

impl StatedPin {
    /// Reads what a setting says; an empty one states nothing.
    pub fn parse(text: &str, by: &str) -> Result<Option<Self>> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let invalid =
            |_| Error::Invalid(format!("The pin {text:?} ({by}) is not one: a pin has 32 hexadecimal digits"));
        text.trim().parse().map_err(invalid).map(|pin| Some(Self { pin, by: by.to_owned() }))
    }
}

/// Returns the one pin that is stated, if any is.
pub fn agreed(stated: &[StatedPin]) -> Result<Option<Pin>> {
    let Some(first) = stated.first() else { return Ok(None) };
    match stated.iter().find(|other| other.pin != first.pin) {
        None => Ok(Some(first.pin)),
        Some(other) => Err(Error::Invalid(format!(
            "Two pins are stated that differ: {} ({}) and {} ({})",
            first.pin, first.by, other.pin, other.by
        ))),
    }
}

/// What a cache directory remembers of the repository at one place.
#[derive(Debug, Clone)]
pub struct PinMemory {
    path: PathBuf,
    location: String,
}

impl PinMemory {
    /// Returns the memory of a location on a server. Both must read the same whenever the place is the same; only the
    /// location is written down, because the server's URL may hold a password.
    pub fn new(cache_root: &Path, location: String, server: &str) -> Self {
        let hash = blake3::hash(format!("{location}\n{server}").as_bytes());
        let name = HEXLOWER.encode(&hash.as_bytes()[..NAME_LEN]);
        Self { path: cache_root.join(DIRECTORY).join(name), location }
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the pin of the repository that was there; nothing if none is known.
    pub fn read(&self) -> Result<Option<Pin>> {
        let fault = |source| Error::source("read", self.path.clone(), source);
        let length = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(fault)?.len(),
        };
        let damaged = |reason: &str| Error::damaged(self.path.display().to_string(), reason);
        if length > MEMORY_LEN_MAX {
            return Err(damaged("it is too large to remember a pin"));
        }
        let text = fs::read_to_string(&self.path).map_err(fault)?;
        let (pin, _) = text.split_once('\n').ok_or_else(|| damaged("it ends early"))?;
        pin.parse().map(Some).map_err(|_| damaged("it does not begin with a pin"))
    }

    /// Remembers a pin, in one step.
    pub fn write(&self, pin: Pin) -> Result<()> {
        let fresh = self.path.with_extension(std::process::id().to_string());
        // The location is for people who wonder what the file is.
        let text = format!("{pin}\n{}\n", self.location);
        let write = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(self.path.parent().unwrap_or(Path::new("")))?;
            let mut file = File::create(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&fresh);
            Error::target("write", self.path.clone(), source)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Pin = Pin::from_bytes([1; 16]);
    const TWO: Pin = Pin::from_bytes([2; 16]);

    #[test]
    fn pins_that_disagree_are_an_error_that_names_both() {
        let stated = |pin, by: &str| StatedPin { pin, by: by.to_owned() };
        assert_eq!(agreed(&[]).unwrap(), None);
        assert_eq!(agreed(&[stated(ONE, "--pin"), stated(ONE, "the key file")]).unwrap(), Some(ONE));
        let error = agreed(&[stated(ONE, "--pin"), stated(ONE, "x"), stated(TWO, "the key file")]).unwrap_err();
        for part in [&ONE.to_string(), &TWO.to_string(), "--pin", "the key file"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn an_empty_setting_states_no_pin_and_nonsense_is_refused() {
        assert_eq!(StatedPin::parse(" ", "--pin").unwrap(), None);
        let stated = StatedPin::parse(&format!("{ONE}\n"), "--pin").unwrap().unwrap();
        assert_eq!((stated.pin, stated.by.as_str()), (ONE, "--pin"));
        for text in ["12", "zz", &"0".repeat(33)] {
            assert!(StatedPin::parse(text, "--pin").unwrap_err().to_string().contains("--pin"));
        }
    }

    #[test]
    fn each_place_has_a_memory_of_its_own_and_nonsense_in_it_is_an_error() {
        let cache = tempfile::tempdir().unwrap();
        let memory = |location: &str| PinMemory::new(cache.path(), location.to_owned(), "");
        assert_eq!(memory("/a").read().unwrap(), None);
        memory("/a").write(ONE).unwrap();
        memory("/b").write(ONE).unwrap();
        memory("/b").write(TWO).unwrap();
        assert_eq!(memory("/a").read().unwrap(), Some(ONE));
        assert_eq!(memory("/b").read().unwrap(), Some(TWO));
        assert_eq!(PinMemory::new(cache.path(), "/b".to_owned(), "http://h").read().unwrap(), None);
        for nonsense in ["", "\n", "0101", "zz\n/a\n"] {
            fs::write(memory("/a").path(), nonsense).unwrap();
            assert!(memory("/a").read().unwrap_err().is_damage(), "{nonsense:?}");
        }
        fs::write(memory("/a").path(), vec![b'0'; MEMORY_LEN_MAX as usize + 1]).unwrap();
        assert!(memory("/a").read().unwrap_err().is_damage());
    }
}
