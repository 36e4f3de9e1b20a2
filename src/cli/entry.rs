//! How entries look, for people and for programs.
//!
//! What must stay true: a name cannot forge output; in JSON nothing is lost: what is not UTF-8 comes as lossy text and,
//! beside it, whole in base 64 (`path_base64`, `target_base64`).

use data_encoding::BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use mlvault::diff::{Side, SideKind};
use mlvault::format::tree::{Entry, EntryKind, FileTime, Metadata};
use mlvault::id::Digest;
use mlvault::units::format_bytes;
use mlvault::xattrs::Xattrs;

use crate::cli::progress::printable;

/// What is shown of a file, directory or symlink.
pub struct Shown<'a> {
    kind: Kind<'a>,
    metadata: &'a Metadata,
    hard_link: Option<&'a [u8]>,
    xattrs: Option<Xattrs>,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Directory,
    File { size: u64, digest: Option<Digest> },
    Symlink { target: &'a [u8] },
}

impl<'a> From<&'a Entry> for Shown<'a> {
    fn from(entry: &'a Entry) -> Self {
        let kind = match &entry.kind {
            EntryKind::Directory => Kind::Directory,
            EntryKind::File(file) => Kind::File { size: file.size, digest: Some(file.digest) },
            EntryKind::Symlink { target } => Kind::Symlink { target },
        };
        let hard_link = entry.file().and_then(|file| file.hard_link.as_deref());
        Self { kind, metadata: &entry.metadata, hard_link, xattrs: entry.xattrs() }
    }
}

impl<'a> From<&'a Side> for Shown<'a> {
    fn from(side: &'a Side) -> Self {
        let kind = match &side.kind {
            SideKind::Directory => Kind::Directory,
            SideKind::File { size, digest } => Kind::File { size: *size, digest: *digest },
            SideKind::Symlink { target } => Kind::Symlink { target },
        };
        Self { kind, metadata: &side.metadata, hard_link: None, xattrs: side.xattrs.clone() }
    }
}

impl Shown<'_> {
    /// Returns all facts but the path as JSON.
    pub fn json(&self) -> Map<String, Value> {
        let mut facts = Map::new();
        let mut put = |key: &str, value: Value| drop(facts.insert(key.to_owned(), value));
        put("kind", self.kind_name().into());
        put("mode", format!("{:04o}", self.metadata.mode).into());
        put("uid", self.metadata.uid.into());
        put("gid", self.metadata.gid.into());
        put("mtime", time_json(self.metadata.mtime));
        match self.kind {
            Kind::Directory => {}
            Kind::File { size, digest } => {
                put("size", size.into());
                put("digest", json!(digest));
            }
            Kind::Symlink { target } => put_bytes(&mut facts, "target", target),
        }
        if let Some(first) = self.hard_link {
            put_bytes(&mut facts, "hard_link", first);
        }
        if let Some(xattrs) = &self.xattrs {
            let list = xattrs.iter().map(|(name, value)| xattr_json(name, Some(value.len())));
            facts.insert("xattrs".to_owned(), list.collect());
        }
        facts
    }

    /// Returns the facts that come before the path on a line. A long line has owner and group, and the exact size.
    pub fn columns(&self, is_long: bool) -> String {
        let size = match self.kind {
            Kind::File { size, .. } if is_long => size.to_string(),
            Kind::File { size, .. } => format_bytes(size),
            _ => String::new(),
        };
        let (mode, time) = (self.mode_text(), format_time(self.metadata.mtime));
        if is_long {
            format!("{mode}  {:>6} {:>6}  {size:>14}  {time}", self.metadata.uid, self.metadata.gid)
        } else {
            format!("{mode}  {size:>10}  {time}")
        }
    }

    /// Returns the size of a file for people; nothing for other kinds.
    pub fn size_text(&self) -> Option<String> {
        if let Kind::File { size, .. } = self.kind { Some(format_bytes(size)) } else { None }
    }

    /// Returns when the content last changed, for people.
    pub fn time_text(&self) -> String {
        format_time(self.metadata.mtime)
    }

    /// Returns the digest of a file's content where it is known.
    pub fn digest(&self) -> Option<Digest> {
        if let Kind::File { digest, .. } = self.kind { digest } else { None }
    }

    /// Returns where a symlink points as it follows its path on a line; nothing for other kinds.
    pub fn arrow(&self) -> String {
        match self.kind {
            Kind::Symlink { target } => format!(" -> {}", path_text(target)),
            _ => String::new(),
        }
    }

    /// Returns the name of the kind.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Directory => "directory",
            Kind::File { .. } => "file",
            Kind::Symlink { .. } => "symlink",
        }
    }

    /// Returns type and permissions as `ls -l` shows them.
    fn mode_text(&self) -> String {
        let mode = self.metadata.mode;
        let mut text = String::from(match self.kind {
            Kind::Directory => "d",
            Kind::File { .. } => "-",
            Kind::Symlink { .. } => "l",
        });
        for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
            let bits = mode >> shift;
            text.push(if bits & 4 != 0 { 'r' } else { '-' });
            text.push(if bits & 2 != 0 { 'w' } else { '-' });
            text.push(match (mode & special != 0, bits & 1 != 0) {
                (false, false) => '-',
                (false, true) => 'x',
                (true, false) => letter.to_ascii_uppercase(),
                (true, true) => letter,
            });
        }
        text
    }
}

/// Returns a path for people; a directory's keeps its `/`.
pub fn path_text(path: &[u8]) -> String {
    printable(&String::from_utf8_lossy(path))
}

/// Returns an extended attribute as JSON: its name, and how many bytes its value has.
pub fn xattr_json(name: &[u8], value_len: Option<usize>) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "name", name);
    object.extend(value_len.map(|len| ("bytes".to_owned(), len.into())));
    Value::Object(object)
}

/// Adds bytes that are mostly text to an object: as text, and if that would lose something, in base 64 too.
pub fn put_bytes(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.to_owned(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{key}_base64"), BASE64.encode(bytes).into());
    }
}

fn format_time(time: FileTime) -> String {
    match Timestamp::new(time.seconds, 0) {
        Ok(time) => time.strftime("%F %T").to_string(),
        Err(_) => format!("@{}", time.seconds),
    }
}

/// RFC 3339 to the nanosecond; where the year has more than four digits, seconds since 1970.
fn time_json(time: FileTime) -> Value {
    let exact = Timestamp::new(time.seconds, 0)
        .and_then(|whole| whole.checked_add(jiff::SignedDuration::from_nanos(i64::from(time.nanoseconds))));
    exact.map_or_else(|_| json!(time.seconds), |time| json!(time.to_string()))
}
