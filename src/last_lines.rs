//! What a child process says, line by line, and the end of it for the message that tells of its failure.

use std::collections::VecDeque;
use std::io::{BufRead, Read};

/// Lines of standard error that an error message repeats.
const LINES_MAX: usize = 10;
/// Longest such line in bytes.
const LINE_LEN_MAX: usize = 400;

/// Reads to the end, and keeps the last lines.
pub fn last_lines(errors: impl BufRead) -> VecDeque<String> {
    last_lines_of(errors, |_| {})
}

/// As [`last_lines`], and hands on every line.
pub fn last_lines_of(mut errors: impl BufRead, mut each: impl FnMut(&str)) -> VecDeque<String> {
    let mut lines = VecDeque::new();
    let mut bytes = Vec::new();
    while matches!(errors.by_ref().take(LINE_LEN_MAX as u64).read_until(b'\n', &mut bytes), Ok(len) if len > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if !line.is_empty() {
            each(&line);
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(line);
        }
        bytes.clear();
    }
    lines
}
