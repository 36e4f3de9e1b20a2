//! Removes what the snapshot does not have (`--delete`).
//!
//! What must stay true: only what is below the restored path is looked at, and a path is removed only if the whole
//! tree was read without an error.

use crate::error::Result;
use crate::format::tree::Entry;
use crate::restore::{DirectoryRestore, add};
use crate::source::directory::DirectorySource;
use crate::source::{Found, Source};

impl DirectoryRestore<'_> {
    /// Walks the target beside the tree; both are in byte order.
    pub(super) fn sweep(&self) -> Result<()> {
        // The list is made whole before the first removal: where a part of the tree cannot be read, what it has would look
        // like something that the snapshot does not have.
        let doomed = match self.doomed() {
            Err(error) if error.is_damage() => {
                self.report(self.component.name.as_bytes(), "nothing is removed: a part of its tree is lost");
                return Ok(());
            }
            doomed => doomed?,
        };
        for path in &doomed {
            self.hears.check()?;
            add(&self.tally.removed, 1);
            if self.options.dry_run {
                self.hears.monitor.note(&format!("would remove {}", self.target.path_of(path).display()));
            } else if let Err(error) = self.target.remove(path) {
                self.report(path, &error.to_string());
            }
        }
        Ok(())
    }

    /// Returns the topmost paths of the target that are not in the tree.
    fn doomed(&self) -> Result<Vec<Vec<u8>>> {
        let base = self.target.path_of(self.prefix);
        if !base.is_dir() {
            return Ok(Vec::new());
        }
        let source = DirectorySource::content_of(&base)?;
        let mut tree = self.entries()?.peekable();
        let mut doomed: Vec<Vec<u8>> = Vec::new();
        for found in source.walk() {
            let Found::Item(item) = found else { continue };
            let mut path = self.prefix.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&item.path);
            while tree.next_if(|entry| entry.as_ref().is_ok_and(|entry| entry.path < path)).is_some() {}
            if let Some(Err(_)) = tree.peek() {
                tree.next().transpose()?;
            }
            // A directory that the snapshot only implies, by what is below it, belongs to it too.
            let is_known =
                |entry: &Entry| entry.path == path || (path.ends_with(b"/") && entry.path.starts_with(&path));
            let known = tree.peek().is_some_and(|entry| entry.as_ref().is_ok_and(is_known));
            let below_doomed = doomed.last().is_some_and(|last| last.ends_with(b"/") && path.starts_with(last));
            if !known && !below_doomed {
                doomed.push(path);
            }
        }
        Ok(doomed)
    }
}
