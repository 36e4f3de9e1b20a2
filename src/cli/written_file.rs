//! Files that a command writes beside its result, for other programs to read.
//!
//! What must stay true: such a file appears, or is replaced, whole and at the end; after an error what was there is as it was.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use mlvault::error::{Error, Result};

/// Whoever reads such a file is often another user.
const MODE: u32 = 0o644;

/// A file that is to be there in the end.
pub struct WrittenFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl WrittenFile {
    /// Fails now if the file could not be written later.
    pub fn begin(path: &Path) -> Result<Self> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = NamedTempFile::new_in(directory).map_err(|source| fault(path, source))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Puts it in its place. Whoever reads it meanwhile sees the old or the new one.
    pub fn finish(mut self, content: &[u8]) -> Result<()> {
        let write = self.file.write_all(content);
        write.map_err(|source| fault(&self.path, source))?;
        let set = self.file.as_file().set_permissions(Permissions::from_mode(MODE));
        set.map_err(|source| fault(&self.path, source))?;
        self.file.persist(&self.path).map_err(|error| fault(&self.path, error.error))?;
        Ok(())
    }
}

/// Writes a file, or replaces it.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    WrittenFile::begin(path)?.finish(content)
}

fn fault(path: &Path, source: std::io::Error) -> Error {
    Error::target("write", path.to_owned(), source)
}
