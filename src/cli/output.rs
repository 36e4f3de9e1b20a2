//! Standard output: the only file that writes to it (`tests/tidy.rs` enforces it).
//!
//! A result is printed whole once it is known ([`print`]), or written while it is found where it has no bound
//! ([`Listing`], [`raw_stdout`]).

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use serde_json::Value;

use mlvault::error::{Error, Result};

use crate::cli::outcome::Outcome;

/// Buffer of standard output where much is written, in bytes.
const STDOUT_BUFFER_BYTES: usize = 256 << 10;

/// Prints what a command came to: for programs one JSON document, for people lines of text.
pub fn print(outcome: &Outcome, is_json: bool) -> Result<()> {
    if outcome.is_written || is_json && outcome.document.is_null() {
        return Ok(());
    }
    if !is_json {
        return outcome.text.lines().iter().try_for_each(|line| print_line(line));
    }
    let text = serde_json::to_string_pretty(&outcome.document).map_err(|error| Error::Internal(error.to_string()))?;
    print_line(&text)
}

/// Prints a line; a reader that went away (`| head`) is no error.
pub fn print_line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(fault(error)),
        _ => Ok(()),
    }
}

/// A result that is printed while it is found: lines for people, or one JSON document with one list in it.
pub struct Listing {
    out: BufWriter<File>,
    is_json: bool,
    items: u64,
    is_finished: bool,
}

/// A document that breaks off is a document all the same, and says that it is not whole.
impl Drop for Listing {
    fn drop(&mut self) {
        if self.is_json && !self.is_finished {
            let _ = self.write("\n],\n\"broken_off\": true}\n").and_then(|()| self.out.flush().map_err(fault));
        }
    }
}

impl Listing {
    /// Begins. `head` and `list` only matter for JSON: an object, and the name of the list to add to it.
    pub fn begin(is_json: bool, head: &Value, list: &str) -> Result<Self> {
        let mut listing = Self { out: raw_stdout()?, is_json, items: 0, is_finished: false };
        if is_json {
            let head = head.to_string();
            let comma = if head == "{}" { "" } else { "," };
            listing.write(&format!("{}{comma}\n{}: [", head.strip_suffix('}').unwrap_or(&head), Value::from(list)))?;
        }
        Ok(listing)
    }

    /// Returns how many items there were.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Prints one item. Fails if nobody reads any more: see [`is_closed`].
    pub fn item(&mut self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Result<()> {
        let line = match (self.is_json, self.items) {
            (false, _) => format!("{}\n", text()),
            (true, 0) => format!("\n  {}", json()),
            (true, _) => format!(",\n  {}", json()),
        };
        self.items += 1;
        self.write(&line)
    }

    /// Ends. `tail` is an object whose members end the JSON document; `text`, if not empty, is the last line for people.
    pub fn finish(mut self, text: &str, tail: &Value) -> Result<()> {
        self.is_finished = true;
        match (self.is_json, tail.to_string().strip_prefix('{')) {
            (true, Some(rest)) if rest != "}" => self.write(&format!("\n],\n{rest}\n"))?,
            (true, _) => self.write("\n]}\n")?,
            (false, _) if text.is_empty() => {}
            (false, _) => self.write(&format!("{text}\n"))?,
        }
        self.out.flush().map_err(fault)
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes()).map_err(fault)
    }
}

/// Returns standard output for bytes, without the standard library's search for line ends.
pub fn raw_stdout() -> Result<BufWriter<File>> {
    let handle = io::stdout().as_fd().try_clone_to_owned().map_err(fault)?;
    Ok(BufWriter::with_capacity(STDOUT_BUFFER_BYTES, File::from(handle)))
}

/// Returns whether standard output is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Returns whether an error says no more than that the reader of standard output went away (`| head`).
pub fn is_closed(error: &Error) -> bool {
    matches!(error, Error::Target { action: "write", source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

fn fault(source: io::Error) -> Error {
    Error::target("write", "standard output", source)
}

/// Formats a time for people, to the second, in UTC.
pub fn format_time(time: &jiff::Timestamp) -> String {
    time.strftime("%F %T UTC").to_string()
}

/// Formats what a snapshot says of its time, with a mark if that is in doubt.
pub fn format_word(time: &jiff::Timestamp, is_doubtful: bool) -> String {
    format!("{}{}", format_time(time), if is_doubtful { "?" } else { "" })
}
