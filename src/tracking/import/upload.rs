//! Files on their way to the artifact store, through the server where it offers that.
//!
//! What must stay true: symlinks are not followed; a name that is no text is told of, not changed.

use std::fs;
use std::path::{Path, PathBuf};

use super::report::CopyNeeded;
use super::{Import, Owner};
use crate::error::{Error, Result};
use crate::monitor::Counter;

/// How URIs of artifacts begin that the server stores itself.
const PROXIED: &str = "mlflow-artifacts:/";

impl Import<'_> {
    /// Sends the files of a run or logged model to where they belong.
    pub(super) fn files(&mut self, owner: &Owner, uri: &str) -> Result<()> {
        let Some(root) = proxied_root(uri) else {
            let placed = self.source.place(owner, uri);
            if self.or_note(|| format!("files of {owner}"), placed)? == Some(false) {
                self.report.copies_needed.push(CopyNeeded { owner: owner.clone(), to: uri.to_owned() });
            }
            return Ok(());
        };
        let found = self.source.files(owner);
        let Some(Some(directory)) = self.or_note(|| format!("files of {owner}"), found)? else { return Ok(()) };
        for path in files_below(&directory)? {
            let relative = path.strip_prefix(&directory).unwrap_or(&path);
            let Some(name) = relative.to_str() else {
                self.report.left_out(format!("artifact {relative:?} of {owner}"), "its name is not UTF-8");
                continue;
            };
            let sent = self.client.upload(&format!("{root}/{name}"), &path);
            if self.or_note(|| format!("artifact {name:?} of {owner}"), sent)?.is_some() {
                self.report.files += 1;
                self.monitor.count(Counter::Entries, 1);
            }
            if is_decoded_again(name) {
                self.report.changed(format!("artifact {name:?} of {owner}"), "MLflow decodes its name once more");
            }
        }
        Ok(())
    }
}

/// Returns the path below `mlflow-artifacts:/`; none if artifacts do not go through the server.
fn proxied_root(uri: &str) -> Option<&str> {
    let path = uri.strip_prefix(PROXIED)?;
    // With two more slashes a host follows, which is another server perhaps.
    (!path.starts_with('/')).then(|| path.trim_end_matches('/'))
}

fn is_decoded_again(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.windows(3).any(|three| three[0] == b'%' && three[1..].iter().all(u8::is_ascii_hexdigit))
}

/// Returns all regular files, in the order of their paths.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::source("read", path, source)
    };
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(failed(&directory))? {
            let entry = entry.map_err(failed(&directory))?;
            let kind = entry.file_type().map_err(failed(&entry.path()))?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_stores_itself_goes_through_it() {
        assert_eq!(proxied_root("mlflow-artifacts:/1/a/artifacts/"), Some("1/a/artifacts"));
        for uri in ["s3://bucket/1", "mlflow-artifacts://other:5000/1", "/data/1", "file:///data/1"] {
            assert_eq!(proxied_root(uri), None, "{uri}");
        }
    }

    #[test]
    fn names_that_the_server_would_change_are_known() {
        assert!(is_decoded_again("a%41b") && is_decoded_again("ü%c3"));
        assert!(!is_decoded_again("100 %") && !is_decoded_again("%4") && !is_decoded_again("a%zzb"));
    }
}
