//! One container of a pod, from its start to its last end.
//!
//! What must stay true: it is started again as the pod's restart policy says, and never after the pod was asked to end.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container as Specification;

use super::probe::Readiness;
use super::sandbox::Process;

/// Time before a container that ended is started again; it doubles with each time.
const RESTART_FIRST: Duration = Duration::from_millis(500);
/// Doublings at most.
const RESTART_DOUBLINGS_MAX: u32 = 4;
/// Time before what a container lacks is looked for again.
const LACK_LOOK: Duration = Duration::from_millis(500);

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    Never,
    OnFailure,
    Always,
}

/// What a container does now.
pub enum State {
    Waiting { reason: &'static str, message: String, until: Instant },
    Running { process: Process, since: Timestamp },
    Ended(End),
}

/// How a container ended.
#[derive(Debug, Clone)]
pub struct End {
    pub code: i32,
    pub since: Timestamp,
    pub until: Timestamp,
}

/// A container of a pod that runs.
pub struct Container {
    pub spec: Specification,
    pub state: State,
    pub restarts: u32,
    /// How it ended before it was started again.
    pub last: Option<End>,
    pub is_ready: bool,
    readiness: Readiness,
    restart: Restart,
}

/// Starts a container with a number of restarts behind it, or tells what keeps it from starting.
pub type Starter<'a> = &'a dyn Fn(&Specification, u32) -> Result<Process, String>;

impl Container {
    pub fn new(spec: &Specification, restart: Restart) -> Self {
        let state = State::Waiting { reason: "PodInitializing", message: String::new(), until: Instant::now() };
        let (spec, readiness) = (spec.clone(), Readiness::default());
        Self { spec, state, restarts: 0, last: None, is_ready: false, readiness, restart }
    }

    /// Returns how it ended, if it will not be started again.
    pub fn end(&self) -> Option<&End> {
        if let State::Ended(end) = &self.state { Some(end) } else { None }
    }

    /// Does what is due, and returns whether something changed that is to be seen.
    pub fn step(&mut self, start: Starter, stop: Option<Duration>) -> bool {
        match &mut self.state {
            State::Ended(_) => false,
            State::Waiting { .. } if stop.is_some() => {
                // What never ran has no exit code of its own; a kubelet tells this one.
                let now = Timestamp::now();
                self.state = State::Ended(self.last.clone().unwrap_or(End { code: 137, since: now, until: now }));
                true
            }
            State::Waiting { until, .. } => Instant::now() >= *until && self.start(start),
            State::Running { process, since } => {
                if let Some(code) = process.ended() {
                    let end = End { code, since: *since, until: Timestamp::now() };
                    self.ended(end, stop.is_some());
                    return true;
                }
                stop.inspect(|grace| process.end(*grace));
                let is_ready = stop.is_none() && self.readiness.look(&self.spec);
                std::mem::replace(&mut self.is_ready, is_ready) != is_ready
            }
        }
    }

    fn start(&mut self, start: Starter) -> bool {
        let (was, next) = match start(&self.spec, self.restarts) {
            Ok(process) => (String::new(), State::Running { process, since: Timestamp::now() }),
            Err(message) => {
                let until = Instant::now() + LACK_LOOK;
                (message.clone(), State::Waiting { reason: "CreateContainerConfigError", message, until })
            }
        };
        let is_news = !matches!(&self.state, State::Waiting { message, .. } if *message == was && !was.is_empty());
        self.state = next;
        is_news
    }

    fn ended(&mut self, end: End, is_stopping: bool) {
        self.is_ready = false;
        self.readiness = Readiness::default();
        let is_again = match self.restart {
            Restart::Never => false,
            Restart::OnFailure => end.code != 0,
            Restart::Always => true,
        };
        if is_stopping || !is_again {
            self.state = State::Ended(end);
            return;
        }
        let until = Instant::now() + RESTART_FIRST * 2_u32.pow(self.restarts.min(RESTART_DOUBLINGS_MAX));
        let message = format!("the container ended with {}", end.code);
        self.state = State::Waiting { reason: "CrashLoopBackOff", message, until };
        self.last = Some(end);
        self.restarts += 1;
    }
}
