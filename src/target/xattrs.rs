//! Sets the extended attributes of something restored.
//!
//! What must stay true: names and values come from a repository and are not trusted: what gives rights or steers the system
//! is set only together with the owner, like set-user-id, and what is of no known kind never. What cannot be set is named,
//! and the rest is set.

use rustix::io::Errno;

use crate::xattrs::{Class, Place, Xattrs, class_of, name_text};

/// What could not be set or removed, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Refusal {
    fn new(name: &[u8], reason: impl std::fmt::Display) -> Self {
        Self(format!("its extended attribute {:?} is not restored: {reason}", name_text(name)))
    }
}

/// Gives something the attributes that it is to have. Those of its owner and ACLs that it has besides are removed.
pub fn make_equal(place: &Place<'_>, wanted: &Xattrs, ownership: bool) -> Vec<Refusal> {
    let (there, mut refused) = match place.read() {
        Ok(there) => (there.unwrap_or_default(), Vec::new()),
        Err(error) => {
            let reason = Refusal(format!("which extended attributes it has cannot be read: {error}"));
            (Xattrs::new(), vec![reason])
        }
    };
    // First what is too much: an ACL of the directory that a file was made in gives rights that the file is not to give.
    for name in there.keys().filter(|name| !wanted.contains_key(*name) && class_of(name) != Some(Class::Privileged)) {
        match place.remove(name) {
            Err(error) if error.raw_os_error() != Some(Errno::NODATA.raw_os_error()) => {
                refused.push(Refusal::new(name, error));
            }
            _ => {}
        }
    }
    for (name, value) in wanted.iter().filter(|(name, value)| there.get(*name) != Some(value)) {
        match class_of(name) {
            None => refused.push(Refusal::new(name, "it is of no kind that a backup stores")),
            Some(Class::Privileged) if !ownership => {}
            Some(_) => refused.extend(place.set(name, value).err().map(|error| Refusal::new(name, error))),
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn xattrs(pairs: &[(&str, &str)]) -> Xattrs {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn only_what_is_wanted_and_allowed_is_set() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("file")).unwrap();
        let place = Place::open(&file);
        if place.read().unwrap().is_none() {
            return;
        }
        place.set(b"user.old", b"x").unwrap();
        place.set(b"user.same", b"x").unwrap();
        let wanted = xattrs(&[
            ("security.capability", "no capability"),
            ("system.sockprotoname", "x"),
            ("trusted.overlay.opaque", "y"),
            ("user.new", "x"),
            ("user.same", "y"),
        ]);
        let refused = make_equal(&place, &wanted, false);
        let mut there = place.read().unwrap().unwrap();
        there.retain(|name, _| name.starts_with(b"user.") || wanted.contains_key(name));
        assert_eq!(there, xattrs(&[("user.new", "x"), ("user.same", "y")]));
        let said: Vec<String> = refused.iter().map(Refusal::to_string).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("system.sockprotoname"), "{said:?}");
        // A symlink can have none of its owner's.
        std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
        let link = Place::Named(directory.path().join("link"));
        assert_eq!(make_equal(&link, &xattrs(&[("user.new", "x")]), false).len(), 1);
        // With the owner they are tried, and what the system refuses is named.
        let refused = make_equal(&place, &xattrs(&[("security.capability", "no capability")]), true);
        assert!(refused.len() == 1 && refused[0].to_string().contains("security.capability"), "{refused:?}");
    }
}
