//! Standard input, read by somebody who may be asked to stop.
//!
//! What must stay true: after a wish to stop, nobody is held up by whoever was to write or to type.

use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cancel::Cancel;
use crate::error::Result;

/// How often the flag is looked at, in nanoseconds.
const CANCEL_LOOK_NANOSECONDS: i64 = 50_000_000;

/// Reads standard input; it seems to end once somebody asks to stop. Nothing else may read it meanwhile.
pub struct StdinReader {
    cancel: Cancel,
}

impl StdinReader {
    /// Begins to read.
    pub fn new(cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone() }
    }

    /// Fails with [`crate::error::Error::Interrupted`] if what was read may have ended only because somebody asked to stop.
    pub fn into_result(self) -> Result<()> {
        self.cancel.check()
    }
}

impl Read for StdinReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        let look = Timespec { tv_sec: 0, tv_nsec: CANCEL_LOOK_NANOSECONDS };
        while !self.cancel.is_raised() {
            let mut waited = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
            match poll(&mut waited, Some(&look)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                // Not through the standard library's buffer: what is in there, poll does not see.
                Ok(_) => return Ok(rustix::io::read(&stdin, buffer)?),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(0)
    }
}
