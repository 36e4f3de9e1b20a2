//! Who follows an operation: a monitor that is told how it goes, and somebody who may ask it to stop.

use std::fmt;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::monitor::{Monitor, Silent};

/// What every long operation is given. Clones share both halves.
#[derive(Clone)]
pub struct Hears {
    /// Is told of progress and problems.
    pub monitor: Arc<dyn Monitor>,
    /// Asks to stop.
    pub cancel: Cancel,
}

impl Hears {
    /// Puts the two together.
    pub fn new(monitor: Arc<dyn Monitor>, cancel: Cancel) -> Self {
        Self { monitor, cancel }
    }

    /// Nobody listens, and nobody asks to stop.
    pub fn nobody() -> Self {
        Self::new(Arc::new(Silent), Cancel::default())
    }

    /// Fails with [`crate::error::Error::Interrupted`] once somebody has asked to stop.
    pub fn check(&self) -> Result<()> {
        self.cancel.check()
    }
}

impl fmt::Debug for Hears {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Hears").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

impl Default for Hears {
    fn default() -> Self {
        Self::nobody()
    }
}
