//! A store that several processes use at once, one operation at a time in an order that a seed decides.
//!
//! What must stay true: a step is one operation of one process, applied by the scheduler while every other process
//! either waits for an answer of its own or computes; after each step that changed the store the oracle looks at it.
//! What the seed decides: who is next, which operations fail, are lost, late or repeated, who crashes, and the time.
//! What it cannot decide is the random ids that the program itself draws.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use mlvault::backend::memory::MemoryBackend;
use mlvault::backend::{Backend, Listed};
use mlvault::clock::Clock;
use mlvault::error::{Error, Fault, Result};

use crate::simulator::mutation::Mutation;
use crate::simulator::oracle::Oracle;

/// Numbers that follow from a seed (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Returns true in so many of a thousand cases.
    pub fn is(&mut self, per_mille: u64) -> bool {
        self.next() % 1000 < per_mille
    }
}

/// One request to the store.
#[derive(Debug, Clone)]
pub enum Operation {
    Create(String, Bytes),
    Overwrite(String, Bytes),
    Read(String),
    ReadRange(String, Range<u64>),
    List(String),
    Remove(String),
    Sleep(Duration),
}

impl Operation {
    fn key(&self) -> &str {
        match self {
            Self::Create(key, _) | Self::Overwrite(key, _) | Self::Read(key) | Self::ReadRange(key, _) => key,
            Self::List(key) | Self::Remove(key) => key,
            Self::Sleep(_) => "",
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Create(..) => "create",
            Self::Overwrite(..) => "overwrite",
            Self::Read(_) => "read",
            Self::ReadRange(..) => "read a range of",
            Self::List(_) => "list",
            Self::Remove(_) => "remove",
            Self::Sleep(_) => "sleep",
        }
    }

    fn writes(&self) -> bool {
        matches!(self, Self::Create(..) | Self::Overwrite(..) | Self::Remove(_))
    }
}

/// What the store says.
#[derive(Debug)]
pub enum Answer {
    Done,
    Bytes(Bytes),
    Listing(Vec<Listed>),
}

enum Message {
    Request(usize, Operation, Sender<Result<Answer>>),
    Ended(usize),
}

/// The store, its time, and what is under way.
pub struct World {
    pub store: Arc<MemoryBackend>,
    time: Arc<TrueTime>,
    /// Whether the store tells its time.
    tells_time: bool,
    sender: Mutex<Sender<Message>>,
    receiver: Mutex<Receiver<Message>>,
    /// Every pack that ever was, for programs that do not look which are there.
    pub packs_ever: Mutex<BTreeMap<String, u64>>,
    /// Packs that segments name, for programs that take all others for garbage.
    pub packs_named: Mutex<BTreeSet<String>>,
    ended: AtomicUsize,
}

/// What time it is where the store is, in milliseconds since 1970.
pub struct TrueTime(AtomicU64);

impl Default for TrueTime {
    fn default() -> Self {
        Self(AtomicU64::new(START_MILLISECONDS))
    }
}

impl Clock for TrueTime {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst) as i64).unwrap()
    }
}

/// 2026-01-01T00:00:00Z.
pub const START_MILLISECONDS: u64 = 1_767_225_600_000;
/// Steps after which a history is taken for one that never ends.
const STEPS_MAX: usize = 20_000;

impl World {
    pub fn new(store: Arc<MemoryBackend>, time: Arc<TrueTime>, tells_time: bool) -> Arc<Self> {
        let (sender, receiver) = channel();
        Arc::new(Self {
            store,
            time,
            tells_time,
            sender: Mutex::new(sender),
            receiver: Mutex::new(receiver),
            packs_ever: Mutex::default(),
            packs_named: Mutex::default(),
            ended: AtomicUsize::new(0),
        })
    }

    /// Fails whatever is asked until all processes have ended: after a history that was broken off.
    pub fn break_off(&self, processes: usize) {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        while self.ended.load(Ordering::SeqCst) < processes {
            if let Ok(Message::Request(_, operation, reply)) = receiver.recv_timeout(Duration::from_millis(5)) {
                let _ = reply.send(Err(unavailable(&operation)));
            }
        }
    }

    pub fn advance(&self, milliseconds: u64) {
        self.time.0.fetch_add(milliseconds, Ordering::SeqCst);
    }

    /// Lets processes run until all have ended. Returns what happened, for people.
    pub fn run(&self, processes: usize, dice: &mut Dice, faults: Faults, oracle: &mut Oracle) -> Vec<String> {
        let mut run = Run {
            world: self,
            waiting: (0..processes).map(|_| VecDeque::new()).collect(),
            live: (0..processes).collect(),
            crashed: BTreeSet::new(),
            torn: BTreeSet::new(),
            late: Vec::new(),
            trace: Vec::new(),
            faults,
        };
        let stickiness = [0, 500, 850, 950][dice.below(4)];
        let mut last = 0;
        for _ in 0..STEPS_MAX {
            run.wait_for_all();
            if run.live.is_empty() {
                run.apply_late(oracle, usize::MAX, dice);
                return run.trace;
            }
            let live: Vec<usize> = run.live.iter().copied().collect();
            if !run.live.contains(&last) || !dice.is(stickiness) {
                last = live[dice.below(live.len())];
            }
            run.step(last, dice, oracle);
        }
        panic!("the history does not end:\n{}", run.trace.join("\n"));
    }
}

/// How much goes wrong, in thousandths of all operations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub failing: u64,
    pub crashing: u64,
    pub repeated: u64,
}

struct Run<'a> {
    world: &'a World,
    waiting: Vec<VecDeque<(Operation, Sender<Result<Answer>>)>>,
    live: BTreeSet<usize>,
    crashed: BTreeSet<usize>,
    /// What was torn on its way to whom; a second time would be damage.
    torn: BTreeSet<(usize, String)>,
    /// Writes that were sent and arrive some time.
    late: Vec<Operation>,
    trace: Vec<String>,
    faults: Faults,
}

impl Run<'_> {
    /// Waits until every process that lives waits for an answer.
    fn wait_for_all(&mut self) {
        let receiver = self.world.receiver.lock().unwrap();
        while self.live.iter().any(|process| self.waiting[*process].is_empty()) {
            match receiver.recv().unwrap() {
                Message::Request(process, operation, reply) => self.waiting[process].push_back((operation, reply)),
                Message::Ended(process) => drop(self.live.remove(&process)),
            }
        }
    }

    fn step(&mut self, process: usize, dice: &mut Dice, oracle: &mut Oracle) {
        let (operation, reply) = self.waiting[process].pop_front().unwrap();
        self.pass_time(&operation, dice);
        if self.crashed.contains(&process) {
            let _ = reply.send(Err(unavailable(&operation)));
            return;
        }
        self.apply_late(oracle, usize::from(dice.is(150)), dice);
        let mut fate = self.fate(&operation, dice);
        if matches!(fate, Fate::Torn) && !self.torn.insert((process, operation.key().to_owned())) {
            fate = Fate::Served;
        }
        self.trace.push(format!("  {process}: {} {} {fate:?}", operation.name(), operation.key()));
        let answer = match fate {
            Fate::Served => self.apply(&operation, oracle),
            Fate::Repeated => {
                self.late.push(operation.clone());
                self.apply(&operation, oracle)
            }
            Fate::Refused => Err(unavailable(&operation)),
            Fate::Torn => Err(Error::backend(Fault::BadAnswer, operation.name(), operation.key(), "simulated")),
            Fate::AnswerLost => {
                let _ = self.apply(&operation, oracle);
                Err(unavailable(&operation))
            }
            Fate::Late => {
                self.late.push(operation.clone());
                Err(unavailable(&operation))
            }
            Fate::Crash => {
                self.crashed.insert(process);
                Err(unavailable(&operation))
            }
            Fate::CrashAfter => {
                let _ = self.apply(&operation, oracle);
                self.crashed.insert(process);
                Err(unavailable(&operation))
            }
        };
        let _ = reply.send(answer);
    }

    fn pass_time(&self, operation: &Operation, dice: &mut Dice) {
        let jump = if dice.is(10) { 3_600_000 * dice.below(30) as u64 } else { dice.below(2000) as u64 };
        let slept = if let Operation::Sleep(time) = operation { time.as_millis() as u64 } else { 0 };
        self.world.advance(jump + slept);
    }

    fn fate(&self, operation: &Operation, dice: &mut Dice) -> Fate {
        let writes = operation.writes();
        if dice.is(self.faults.crashing) {
            return if dice.is(500) { Fate::Crash } else { Fate::CrashAfter };
        }
        if dice.is(self.faults.failing) {
            return match (writes, dice.below(3)) {
                (true, 0) => Fate::AnswerLost,
                (true, 1) => Fate::Late,
                (false, 0 | 1) if !matches!(operation, Operation::List(_)) => Fate::Torn,
                _ => Fate::Refused,
            };
        }
        if writes && dice.is(self.faults.repeated) { Fate::Repeated } else { Fate::Served }
    }

    /// Lets some of the writes arrive that were sent before.
    fn apply_late(&mut self, oracle: &mut Oracle, count: usize, dice: &mut Dice) {
        for _ in 0..count.min(self.late.len()) {
            let operation = self.late.swap_remove(dice.below(self.late.len()));
            self.trace.push(format!("  late: {} {}", operation.name(), operation.key()));
            let _ = self.apply(&operation, oracle);
        }
    }

    fn apply(&mut self, operation: &Operation, oracle: &mut Oracle) -> Result<Answer> {
        let store = &self.world.store;
        let answer = match operation {
            Operation::Create(key, bytes) => create(store, key, bytes),
            Operation::Overwrite(key, bytes) => {
                store.overwrite(key, bytes.clone());
                Ok(Answer::Done)
            }
            Operation::Read(key) => store.read(key).map(Answer::Bytes),
            Operation::ReadRange(key, range) => store.read_range(key, range.clone()).map(Answer::Bytes),
            Operation::List(prefix) => store.list(prefix).map(Answer::Listing),
            Operation::Remove(key) => store.remove(key).map(|()| Answer::Done),
            Operation::Sleep(_) => Ok(Answer::Done),
        };
        if let Operation::Create(key, bytes) = operation
            && key.starts_with("packs/")
        {
            self.world.packs_ever.lock().unwrap().insert(key.clone(), bytes.len() as u64);
        }
        if operation.writes() && answer.is_ok() {
            oracle.look(operation.key(), &self.trace);
            *self.world.packs_named.lock().unwrap() = oracle.named_packs();
        }
        answer
    }
}

/// As an S3 backend does: where the very same bytes are there already, it was this write that made them.
fn create(store: &MemoryBackend, key: &str, bytes: &Bytes) -> Result<Answer> {
    match store.create(key, bytes.clone()) {
        Err(_) if store.read(key).is_ok_and(|found| found == *bytes) => Ok(Answer::Done),
        result => result.map(|()| Answer::Done),
    }
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Served,
    Repeated,
    Refused,
    Torn,
    AnswerLost,
    Late,
    Crash,
    CrashAfter,
}

fn unavailable(operation: &Operation) -> Error {
    Error::backend(Fault::Unavailable, operation.name(), operation.key(), "simulated")
}

/// The store as one process sees it. Until it is armed, requests are served at once.
pub struct Process {
    number: usize,
    world: Arc<World>,
    armed: AtomicBool,
    skew_milliseconds: i64,
    mutation: Mutation,
}

impl Process {
    pub fn new(number: usize, world: Arc<World>, skew_milliseconds: i64, mutation: Mutation) -> Arc<Self> {
        Arc::new(Self { number, world, armed: AtomicBool::new(false), skew_milliseconds, mutation })
    }

    /// Leaves what comes to the scheduler.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Says that nothing more comes.
    pub fn end(&self) {
        self.world.ended.fetch_add(1, Ordering::SeqCst);
        self.world.sender.lock().unwrap().send(Message::Ended(self.number)).unwrap();
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// Sends a request and waits for the answer.
    pub fn send(&self, operation: Operation) -> Result<Answer> {
        let (reply, answer) = channel();
        let sender = self.world.sender.lock().unwrap().clone();
        sender.send(Message::Request(self.number, operation.clone(), reply)).unwrap();
        answer.recv().unwrap_or_else(|_| Err(unavailable(&operation)))
    }

    fn call(&self, operation: Operation) -> Result<Answer> {
        if self.armed.load(Ordering::SeqCst) {
            return self.mutation.call(self, operation);
        }
        let store = &self.world.store;
        match operation {
            Operation::Create(key, bytes) => create(store, &key, &bytes),
            Operation::Read(key) => store.read(&key).map(Answer::Bytes),
            Operation::ReadRange(key, range) => store.read_range(&key, range).map(Answer::Bytes),
            Operation::List(prefix) => store.list(&prefix).map(Answer::Listing),
            Operation::Remove(key) => store.remove(&key).map(|()| Answer::Done),
            Operation::Overwrite(..) | Operation::Sleep(_) => Ok(Answer::Done),
        }
    }

    fn bytes(&self, operation: Operation) -> Result<Bytes> {
        match self.call(operation)? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => panic!("{other:?}"),
        }
    }
}

impl Backend for Process {
    fn location(&self) -> String {
        "simulated:".to_owned()
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.call(Operation::Create(key.to_owned(), bytes)).map(drop)
    }

    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes> {
        let bytes = self.bytes(Operation::Read(key.to_owned()))?;
        assert!(bytes.len() as u64 <= bytes_max, "{key}");
        Ok(bytes)
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.bytes(Operation::ReadRange(key.to_owned(), range))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        match self.call(Operation::List(prefix.to_owned()))? {
            Answer::Listing(listing) => Ok(listing),
            other => panic!("{other:?}"),
        }
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.call(Operation::Remove(key.to_owned())).map(drop)
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        Ok(self.world.tells_time.then(|| self.world.time.now()))
    }

    /// One request at a time, so that a process has one order of its own.
    fn concurrency(&self) -> usize {
        1
    }
}

/// A process's own clock.
pub struct SkewedClock(pub Arc<Process>);

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        let now = self.0.world.time.now().as_millisecond() + self.0.skew_milliseconds;
        Timestamp::from_millisecond(now).unwrap()
    }

    fn sleep(&self, time: Duration) {
        let _ = self.0.call(Operation::Sleep(time));
    }
}
