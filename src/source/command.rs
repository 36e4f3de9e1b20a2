//! The output of a command as a stream.
//!
//! What must stay true: a command that fails, in whatever way and however late, makes the whole stream an error.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::process::ChildStdout;
use std::thread::JoinHandle;

use crate::cancel::Cancel;
use crate::child::WatchedChild;
use crate::child_environment;
use crate::error::{Error, Result};
use crate::last_lines::last_lines;
use crate::source::stream::Stream;

/// A running command whose standard output is read.
pub struct CommandStream {
    line: String,
    child: WatchedChild,
    cancel: Cancel,
    output: ChildStdout,
    errors: Option<JoinHandle<VecDeque<String>>>,
}

impl CommandStream {
    /// Starts `sh -c line`. Its standard error is passed through, and its end is kept for a message.
    pub fn start(line: &str, cancel: &Cancel) -> Result<Self> {
        let started = WatchedChild::start(&mut child_environment::shell(line), cancel);
        let (child, output, errors) = started.map_err(|source| Error::source("run", line, source))?;
        // Read all along: a command whose standard error nobody takes would block on a full pipe.
        let errors = std::thread::spawn(move || last_lines(BufReader::new(errors)));
        Ok(Self { line: line.to_owned(), child, cancel: cancel.clone(), output, errors: Some(errors) })
    }

    fn wait(mut self) -> Result<()> {
        let fault = |source| Error::source("wait for", self.line.clone(), source);
        let status = self.child.wait().map_err(fault)?;
        // It was ended because somebody wants to stop, which is no failure of the command.
        self.cancel.check()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> (String, Result<()>) {
        let mut stream = CommandStream::start(line, &Cancel::default()).unwrap();
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
