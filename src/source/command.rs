//! The output of a command as a stream.
//!
//! What must stay true: a command that fails, in whatever way and however late, makes the whole stream an error.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::thread::JoinHandle;

use crate::child_environment;
use crate::error::{Error, Result};
use crate::last_lines::last_lines;
use crate::source::stream::Stream;

/// A running command whose standard output is read.
pub struct CommandStream {
    line: String,
    child: Child,
    output: ChildStdout,
    errors: Option<JoinHandle<VecDeque<String>>>,
}

impl CommandStream {
    /// Starts `sh -c line`. Its standard error is passed through, and its end is kept for a message.
    pub fn start(line: &str) -> Result<Self> {
        let fault = |source| Error::source("run", line, source);
        let mut child = child_environment::shell(line)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(fault)?;
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::Internal("a child process has no pipes".to_owned()));
        };
        // Read all along: a command whose standard error nobody takes would block on a full pipe.
        let errors = std::thread::spawn(move || last_lines(BufReader::new(errors)));
        Ok(Self { line: line.to_owned(), child, output, errors: Some(errors) })
    }

    fn wait(mut self) -> Result<()> {
        let fault = |source| Error::source("wait for", self.line.clone(), source);
        let status = self.child.wait().map_err(fault)?;
        let lines = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        let mut text = status.to_string();
        for line in lines {
            text.push_str("; ");
            text.push_str(&line);
        }
        Err(Error::Command { command: self.line.clone(), status: text })
    }
}

impl Read for CommandStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.output.read(buffer)
    }
}

impl Stream for CommandStream {
    /// Waits for the command's end; fails unless it exited with 0.
    fn finish(self: Box<Self>) -> Result<()> {
        self.wait()
    }
}

impl Drop for CommandStream {
    /// A command whose output is no longer wanted is ended.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> (String, Result<()>) {
        let mut stream = CommandStream::start(line).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        (text, stream.wait())
    }

    #[test]
    fn a_command_that_fails_after_its_output_is_an_error_with_its_last_words() {
        let (text, result) = run("echo data; echo 'server closed the connection' >&2; exit 3");
        assert_eq!(text, "data\n");
        let message = result.unwrap_err().to_string();
        assert!(message.contains("exit status: 3") && message.contains("server closed"), "{message}");
    }

    #[test]
    fn a_command_that_is_killed_is_an_error() {
        assert!(run("kill -9 $$").1.is_err());
        assert!(run("exit 0").1.is_ok());
    }
}
