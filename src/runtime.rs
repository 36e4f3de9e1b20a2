//! The process's one async runtime, for the clients whose libraries need one: S3 and the Kubernetes API.
//!
//! What must stay true: nothing that is public outside of these clients is `async`. Their calls block, and must not come from
//! within a runtime.

use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// Threads of the runtime. They move bytes; chunking, hashing and sealing have threads of their own.
const WORKERS: usize = 2;
/// How often a wait looks whether it is still wanted.
pub const LOOK: Duration = Duration::from_millis(50);

/// Returns the runtime, and starts it when it is first needed.
pub fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let fresh = Builder::new_multi_thread().worker_threads(WORKERS).thread_name("network").enable_all().build();
    let fresh = fresh.map_err(|error| Error::Internal(format!("Cannot start threads for the network: {error}")))?;
    Ok(RUNTIME.get_or_init(|| fresh))
}

/// Waits for something until somebody asks to stop: then it is dropped, and the answer is [`Error::Interrupted`].
pub async fn unless_raised<T>(cancel: &Cancel, future: impl Future<Output = T>) -> Result<T> {
    let mut future = pin!(future);
    loop {
        if let Ok(done) = timeout(LOOK, &mut future).await {
            return Ok(done);
        }
        cancel.check()?;
    }
}
