//! `mlvault cache`

use clap::Parser;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use mlvault::error::{Error, Result};
use mlvault::repository::caches::{self, Cache};
use mlvault::retention::policy::Age;
use mlvault::units::{count, format_bytes};

use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::{exit, output};

/// How long a cache was not used that `--cleanup` removes.
const UNUSED_DEFAULT: &str = "30d";

/// List the index caches of this machine, and remove those that are not used any more
///
/// Needs no repository. A cache that is removed is rebuilt when it is needed again. Pins and histories stay: they notice that
/// somebody put another repository, or an older state of one, in its place.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault cache
  mlvault cache --cleanup --older-than 90d")]
pub struct Args {
    /// Remove caches that were not used for the time of --older-than
    #[arg(long)]
    cleanup: bool,
    /// How long a cache was not used that is removed
    #[arg(long, value_name = "AGE", default_value = UNUSED_DEFAULT, requires = "cleanup")]
    older_than: Age,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let none = || Error::Invalid("There is no cache directory: set --cache-dir or HOME".to_owned());
    let root = context.cache_root().ok_or_else(none)?;
    let found = caches::list(&root)?;
    let unused_since = args.older_than.before(Timestamp::now(), &TimeZone::UTC);
    let (mut rows, mut removed, mut problems) = (Vec::new(), Vec::new(), 0);
    for cache in found {
        let is_removed = args.cleanup && !cache.in_use && cache.used < unused_since && {
            caches::remove(&cache).unwrap_or_else(|error| {
                context.monitor().problem(&cache.path.display().to_string(), &error.to_string());
                problems += 1;
                false
            })
        };
        if is_removed { removed.push(cache) } else { rows.push(cache) }
    }
    let document = json!({ "directory": root, "caches": documents(&rows), "removed": documents(&removed) });
    let mut text = table(&rows);
    if args.cleanup {
        let bytes = removed.iter().map(|cache| cache.bytes).sum();
        text.line(format!("Removed {} ({})", count(removed.len(), "cache"), format_bytes(bytes)));
    }
    Ok(Outcome::new(if problems > 0 { exit::INCOMPLETE } else { exit::COMPLETE }, document, text))
}

fn documents(caches: &[Cache]) -> Vec<Value> {
    let document = |cache: &Cache| {
        let Cache { repository, path, bytes, used, in_use } = cache;
        json!({ "repository": repository, "path": path, "bytes": bytes, "used": used, "in_use": in_use })
    };
    caches.iter().map(document).collect()
}

fn table(caches: &[Cache]) -> Text {
    let mut rows = vec![["REPOSITORY", "SIZE", "LAST USED", ""].map(str::to_owned).to_vec()];
    rows.extend(caches.iter().map(|cache| {
        let in_use = if cache.in_use { "in use" } else { "" };
        let used = output::format_time(&cache.used);
        vec![cache.repository.to_string(), format_bytes(cache.bytes), used, in_use.to_owned()]
    }));
    Text::from(rows)
}
