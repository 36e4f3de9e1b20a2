//! How results are printed.

use std::io::{self, Write};

use serde::Serialize;

use mlvault::error::{Error, Result};

/// Prints a result as one JSON document.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Internal(error.to_string()))?;
    print_line(&text)
}

/// Prints a line; a reader that went away (`| head`) is no error.
pub fn print_line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Target { action: "write", path: "standard output".into(), source: error })
        }
        _ => Ok(()),
    }
}

/// Prints rows in columns; the first row is the heading. Numbers are for the caller to align.
pub fn print_table(rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        print_line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Formats a time for people, to the second, in UTC.
pub fn format_time(time: &jiff::Timestamp) -> String {
    time.strftime("%F %T UTC").to_string()
}
