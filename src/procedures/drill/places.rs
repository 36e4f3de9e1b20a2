//! Reads files where a deployment has them: in a directory, or in a part of a bucket.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::tree::{FileTime, Metadata};
use crate::source::bucket::BucketSource;
use crate::source::deployment::ArtifactPlace;
use crate::source::directory::DirectorySource;
use crate::source::filter::Filter;
use crate::source::{Item, ItemKind, Source};
use crate::units::MIB;

/// Memory for reading one place ahead.
const READ_AHEAD_BYTES: u64 = 32 * MIB;
/// How a file is opened: no symlink is followed, and a named pipe does not block.
const FLAGS: rustix::fs::OFlags = rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK);

/// A place whose files can be opened by their paths.
pub enum OpenPlace {
    /// A directory.
    Directory(PathBuf),
    /// A part of a bucket.
    Bucket(Box<BucketSource>),
}

/// An open file, and what its place says of it.
pub struct OpenFile<'a> {
    /// Its content.
    pub content: Box<dyn Read + 'a>,
    /// Its length.
    pub size: u64,
    /// When it was changed.
    pub modified: FileTime,
}

impl OpenPlace {
    /// Opens a place; fails if it cannot be reached.
    pub fn open(place: &ArtifactPlace) -> Result<Self> {
        Ok(match place {
            ArtifactPlace::Directory(path) => {
                fs::read_dir(path).map_err(|source| Error::source("list", path.clone(), source))?;
                Self::Directory(path.clone())
            }
            ArtifactPlace::Bucket(location, options) => {
                let source = BucketSource::connect(location, options, Filter::default(), READ_AHEAD_BYTES)?;
                Self::Bucket(Box::new(source))
            }
        })
    }

    /// Opens a file.
    pub fn file(&self, path: &[u8]) -> io::Result<OpenFile<'_>> {
        match self {
            Self::Directory(root) => {
                let location = root.join(Path::new(std::ffi::OsStr::from_bytes(path)));
                let file = OpenOptions::new().read(true).custom_flags(FLAGS.bits() as i32).open(location)?;
                let found = file.metadata()?;
                if !found.is_file() {
                    return Err(io::Error::other("it is no file"));
                }
                let modified = FileTime { seconds: found.mtime(), nanoseconds: found.mtime_nsec() as u32 };
                Ok(OpenFile { content: Box::new(file), size: found.len(), modified })
            }
            Self::Bucket(source) => {
                // How large it is is not known yet: it is asked for as a large one is.
                let kind = ItemKind::Object { size: u64::MAX, etag: None, storage_class: None };
                let item = Item { path: path.to_vec(), metadata: Metadata::default(), kind, location: PathBuf::new() };
                let content = source.open(&item)?;
                let (size, modified) = (content.size().unwrap_or(0), content.metadata().mtime);
                Ok(OpenFile { content, size, modified })
            }
        }
    }
}

/// Prepares a walk of what is below a path of a place; nothing if nothing is there.
pub fn below(place: &ArtifactPlace, path: &str) -> Result<Option<Box<dyn Source>>> {
    Ok(match place {
        ArtifactPlace::Directory(root) => {
            let directory = root.join(path);
            match directory.is_dir() {
                true => Some(Box::new(DirectorySource::content_of(&directory)?)),
                false => None,
            }
        }
        ArtifactPlace::Bucket(location, options) => {
            let location = location.below(path);
            Some(Box::new(BucketSource::connect(&location, options, Filter::default(), READ_AHEAD_BYTES)?))
        }
    })
}
