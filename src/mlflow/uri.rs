//! Artifact locations in the forms in which MLflow writes them, brought to one form each.
//!
//! What must stay true: two spellings of one place become equal; two places never do.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Beginning of a location that the tracking server resolves below its `--artifacts-destination`.
pub const PROXIED: &str = "mlflow-artifacts:";
/// Where the artifact proxy stands below the URL of a tracking server.
const PROXY_PATHS: [&str; 2] = ["/api/2.0/mlflow-artifacts/artifacts", "/ajax-api/2.0/mlflow-artifacts/artifacts"];

/// Source of a model version that has no files: a prompt.
pub const PROMPT_SOURCE: &str = "dummy-source";
/// Source of a deleted model version; its storage location still tells where the files are.
pub const REDACTED_SOURCE: &str = "REDACTED-SOURCE-PATH";

/// Brings an artifact location to its one form, without a `/` at the end.
///
/// `mlflow-artifacts://host/1/a`, the URL of the artifact proxy and `mlflow-artifacts:/1/a` are the same place, and so are
/// `file:///srv/a` and `/srv/a`. Other schemes stay as they are.
pub fn normalize(text: &str) -> String {
    let canonical = proxied(text).or_else(|| local(text)).unwrap_or_else(|| text.to_owned());
    let trimmed = canonical.trim_end_matches('/');
    match trimmed {
        "" if !canonical.is_empty() => "/".to_owned(),
        PROXIED => format!("{PROXIED}/"),
        _ => trimmed.to_owned(),
    }
}

fn proxied(text: &str) -> Option<String> {
    let path = match text.strip_prefix(PROXIED) {
        Some(rest) => match rest.strip_prefix("//") {
            Some(authority_and_path) => authority_and_path.find('/').map_or("", |at| &authority_and_path[at..]),
            None => rest,
        },
        None => {
            let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
            let at = PROXY_PATHS.iter().find_map(|path| rest.find(path).map(|at| at + path.len()))?;
            &rest[at..]
        }
    };
    if !(path.is_empty() || path.starts_with('/')) {
        return None;
    }
    Some(format!("{PROXIED}/{}", path.trim_start_matches('/')))
}

fn local(text: &str) -> Option<String> {
    let rest = text.strip_prefix("file:")?;
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => rest,
    };
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    path.starts_with('/').then(|| format!("/{}", decoded.trim_start_matches('/')))
}

/// Returns how `location` spells the beginning that is `root`, which is in its one form; `None` outside of it.
///
/// `file:///srv/a/1` spells `/srv/a` as `file:///srv/a`, and `mlflow-artifacts://host/1` spells `mlflow-artifacts:/` as
/// `mlflow-artifacts://host`.
pub fn spelling_of<'a>(location: &'a str, root: &str) -> Option<&'a str> {
    below(&normalize(location), root)?;
    let borders = location.char_indices().filter(|(_, character)| *character == '/').map(|(at, _)| at);
    let borders: Vec<_> = borders.chain([location.len()]).collect();
    let prefixes = borders.into_iter().rev().map(|at| location[..at].trim_end_matches('/'));
    let mut spellings = prefixes.filter(|prefix| normalize(prefix) == root || root == "/" && prefix.is_empty());
    spellings.next()
}

/// Spells the new beginning of a location as the old one was: what was a `file:` URI, with its percent signs, stays one.
/// `None` if the rest of the location would mean something else behind the new beginning.
pub fn respell(old: &str, new: &str, rest: &str) -> Option<String> {
    /// What a path cannot have in a URI as it stands.
    const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'#').add(b'?');
    let is_local = |text: &str| text.starts_with('/') || local(text).is_some();
    let new = new.trim_end_matches('/');
    match (old.starts_with("file:"), is_local(new) || new.is_empty()) {
        (true, true) if new.starts_with("file:") => Some(new.to_owned()),
        (true, true) => Some(format!("file://{}", utf8_percent_encode(new, ENCODED))),
        (true, false) => (!rest.contains('%')).then(|| new.to_owned()),
        (false, true) if old.starts_with('/') || old.is_empty() => Some(local(new).unwrap_or_else(|| new.to_owned())),
        (false, _) => Some(new.to_owned()),
    }
}

/// Joins a relative path to a location.
pub fn join(location: &str, path: &str) -> String {
    match path.trim_matches('/') {
        "" => location.to_owned(),
        path => format!("{}/{path}", location.trim_end_matches('/')),
    }
}

/// Returns what follows `root` in `location`, both in their one form: empty for the root itself, `None` outside it.
pub fn below<'a>(location: &'a str, root: &str) -> Option<&'a str> {
    let rest = location.strip_prefix(root)?;
    if rest.is_empty() || root.ends_with('/') { Some(rest) } else { rest.strip_prefix('/') }
}

/// Returns the part of a location that an operator would name: its scheme with bucket or server, or the first two
/// components of a path.
pub fn root_of(location: &str) -> String {
    if location.strip_prefix(PROXIED).is_some_and(|path| path.starts_with('/')) {
        return format!("{PROXIED}/");
    }
    if let Some((scheme, rest)) = location.split_once("://") {
        return format!("{scheme}://{}", rest.split('/').next().unwrap_or_default());
    }
    location.split('/').take(3).collect::<Vec<_>>().join("/")
}

/// What the source of a model version refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionSource<'a> {
    /// A logged model by its id: `models:/m-…`.
    LoggedModel(&'a str),
    /// Another version of a registered model: `models:/name/version`.
    Version {
        /// The registered model.
        name: &'a str,
        /// Its version.
        version: &'a str,
    },
    /// A path in the artifacts of a run, or the run's logged model of that name: `runs:/run/path`.
    Run {
        /// The run.
        run: &'a str,
        /// The path.
        path: &'a str,
    },
    /// No files: a prompt.
    Prompt,
    /// Taken out because the version was deleted.
    Redacted,
    /// An artifact location.
    Location(&'a str),
}

/// Reads the source of a model version.
pub fn version_source(text: &str) -> VersionSource<'_> {
    if text == PROMPT_SOURCE {
        return VersionSource::Prompt;
    }
    if text == REDACTED_SOURCE {
        return VersionSource::Redacted;
    }
    if let Some(rest) = text.strip_prefix("models:") {
        let rest = rest.trim_matches('/');
        return match rest.rsplit_once('/') {
            Some((name, version)) => VersionSource::Version { name, version },
            None => VersionSource::LoggedModel(rest),
        };
    }
    if let Some(rest) = text.strip_prefix("runs:") {
        let (run, path) = rest.trim_start_matches('/').split_once('/').unwrap_or((rest.trim_matches('/'), ""));
        return VersionSource::Run { run, path: path.trim_matches('/') };
    }
    VersionSource::Location(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_found_and_moved_in_whatever_spelling() {
        for (location, root, spelling) in [
            ("/srv/a/1", "/srv/a", Some("/srv/a")),
            ("file:///srv/a/1", "/srv/a", Some("file:///srv/a")),
            ("file:/srv/a", "/srv/a", Some("file:/srv/a")),
            ("file://localhost/srv/a%20b/1", "/srv/a b", Some("file://localhost/srv/a%20b")),
            ("/srv/a//1", "/srv/a", Some("/srv/a")),
            ("/srv/ab", "/srv/a", None),
            ("mlflow-artifacts:/1/r", "mlflow-artifacts:/", Some("mlflow-artifacts:")),
            ("mlflow-artifacts://h:5000/1/r", "mlflow-artifacts:/", Some("mlflow-artifacts://h:5000")),
            ("mlflow-artifacts://h/1/r", "mlflow-artifacts:/1", Some("mlflow-artifacts://h/1")),
            (
                "https://h/p/api/2.0/mlflow-artifacts/artifacts/1/r",
                "mlflow-artifacts:/",
                Some("https://h/p/api/2.0/mlflow-artifacts/artifacts"),
            ),
            ("s3://b/x/y", "s3://b/x", Some("s3://b/x")),
            ("s3://b", "s3://b/x", None),
            ("/srv", "/", Some("")),
        ] {
            assert_eq!(spelling_of(location, root), spelling, "{location} {root}");
        }
        assert_eq!(respell("file:///old", "/new a", "/x%20y").as_deref(), Some("file:///new%20a"));
        assert_eq!(respell("/old", "file:///new%20a", "/x").as_deref(), Some("/new a"));
        assert_eq!(respell("file:///old", "s3://b/", "/x").as_deref(), Some("s3://b"));
        assert_eq!(respell("file:///old", "s3://b", "/x%20y"), None);
        assert_eq!(respell("s3://b", "/new", "/x").as_deref(), Some("/new"));
        assert_eq!(
            respell("mlflow-artifacts://h", "mlflow-artifacts:/p/", "/1").as_deref(),
            Some("mlflow-artifacts:/p")
        );
    }

    #[test]
    fn spellings_of_one_place_become_equal() {
        for text in [
            "mlflow-artifacts:/1/abc/artifacts",
            "mlflow-artifacts:///1/abc/artifacts/",
            "mlflow-artifacts://mlflow:5000/1/abc/artifacts",
            "http://mlflow:5000/api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts",
            "https://host/base/ajax-api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts",
        ] {
            assert_eq!(normalize(text), "mlflow-artifacts:/1/abc/artifacts", "{text}");
        }
        for text in ["/srv/ml runs", "file:///srv/ml%20runs", "file:/srv/ml%20runs/", "file://localhost/srv/ml%20runs"]
        {
            assert_eq!(normalize(text), "/srv/ml runs", "{text}");
        }
        assert_eq!(normalize("mlflow-artifacts:/"), "mlflow-artifacts:/");
        assert_eq!(normalize("mlflow-artifacts:"), "mlflow-artifacts:/");
        assert_eq!(normalize("/"), "/");
        assert_eq!(normalize("s3://bucket/a%41/"), "s3://bucket/a%41");
        assert_eq!(normalize("http://elsewhere/x"), "http://elsewhere/x");
        assert_eq!(normalize("mlflow-artifactsish:/1"), "mlflow-artifactsish:/1");
    }

    #[test]
    fn a_root_covers_whole_components_only() {
        assert_eq!(below("s3://b/p/x/y", "s3://b/p"), Some("x/y"));
        assert_eq!(below("s3://b/p", "s3://b/p"), Some(""));
        assert_eq!(below("s3://b/prefix", "s3://b/p"), None);
        assert_eq!(below("mlflow-artifacts:/1/a", "mlflow-artifacts:/"), Some("1/a"));
        assert_eq!(root_of("s3://b/p/q"), "s3://b");
        assert_eq!(root_of("/srv/mlruns/0/x"), "/srv/mlruns");
    }

    #[test]
    fn version_sources_are_told_apart() {
        use VersionSource::*;
        assert_eq!(version_source("models:/m-0a1b"), LoggedModel("m-0a1b"));
        assert_eq!(version_source("models:/fraud/7"), Version { name: "fraud", version: "7" });
        assert_eq!(version_source("models:/a/b/7"), Version { name: "a/b", version: "7" });
        assert_eq!(version_source("runs:/abc/model/x"), Run { run: "abc", path: "model/x" });
        assert_eq!(version_source("runs:/abc"), Run { run: "abc", path: "" });
        assert_eq!(version_source("dummy-source"), Prompt);
        assert_eq!(version_source("s3://b/x"), Location("s3://b/x"));
    }

    proptest::proptest! {
        #[test]
        fn normal_forms_are_stable(text in "(mlflow-artifacts:|file:|http://h/api/2.0/mlflow-artifacts/artifacts|s3:)?[/a%0-9]{0,12}") {
            let once = normalize(&text);
            // A decoded file path may look like another escape; it is never decoded twice, because no scheme is left.
            proptest::prop_assert_eq!(normalize(&once), once.clone());
            let _ = (root_of(&once), version_source(&once));
        }
    }
}
