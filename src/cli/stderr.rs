//! The one way to standard error: progress, problems, notes, errors.
//!
//! What must stay true: nobody is stopped by what cannot be told. A standard error that is closed or full (a pipe whose
//! reader is gone, a log on a full disk) costs the message and never the backup.

use std::io::{self, Write};

/// Prints a line.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
