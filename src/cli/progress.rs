//! Progress for people (a bar on a terminal, a line now and then in a log) and for programs (JSON lines).

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use mlvault::monitor::{Counter, Monitor, Totals};
use mlvault::objectives::Objectives;
use mlvault::run_summary::Told;
use mlvault::sync::lock;

use crate::cli::countdown::Countdown;
use crate::cli::standing::Standing;
use crate::cli::stderr::{self, Kind, LogFormat};

/// Time between updates of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Time between lines in a log.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Time between JSON lines.
const JSON_INTERVAL: Duration = Duration::from_secs(5);

/// Columns of a line where the terminal does not say how many it has.
const COLUMNS_DEFAULT: usize = 79;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors and problems only.
    Quiet,
    /// Progress and notes too.
    Normal,
    /// A line for each file too.
    Verbose,
}

/// Where progress goes.
enum Style {
    Silent,
    Bar(ProgressBar),
    Log,
    Json,
}

/// A monitor that shows what it hears.
pub struct Progress {
    shown: Arc<Shown>,
    ticker: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread that shows progress looks at.
struct Shown {
    verbosity: Verbosity,
    style: Style,
    totals: Totals,
    entries_total: AtomicU64,
    bytes_total: AtomicU64,
    phase: Mutex<Option<(&'static str, Instant)>>,
    countdown: Mutex<Option<Countdown>>,
    told: Mutex<Told>,
    stopped: AtomicBool,
}

impl Progress {
    /// Starts showing; the first thing shown is that of the first phase.
    pub fn start(verbosity: Verbosity) -> Arc<Self> {
        let style = match verbosity {
            Verbosity::Quiet => Style::Silent,
            _ if stderr::format() == LogFormat::Json => Style::Json,
            _ if stderr::format() == LogFormat::Plain && std::io::stderr().is_terminal() => Style::Bar(new_bar()),
            _ => Style::Log,
        };
        let shown = Arc::new(Shown {
            verbosity,
            style,
            totals: Totals::default(),
            entries_total: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            phase: Mutex::default(),
            countdown: Mutex::default(),
            told: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        Arc::new(Self { shown, ticker: Mutex::default() })
    }

    /// From now on, says how much time is left.
    pub fn count_down(&self, objectives: &Objectives) {
        *lock(&self.shown.countdown) = Countdown::begin(objectives);
    }

    /// Returns the problems and warnings that were told so far.
    pub fn told(&self) -> Told {
        lock(&self.shown.told).clone()
    }

    /// Stops showing and clears the line.
    pub fn finish(&self) {
        self.shown.stopped.store(true, Ordering::Relaxed);
        if let Some(ticker) = lock(&self.ticker).take() {
            ticker.thread().unpark();
            let _ = ticker.join();
        }
        if let Style::Bar(bar) = &self.shown.style {
            bar.finish_and_clear();
        }
    }
}

impl Shown {
    fn interval(&self) -> Option<Duration> {
        match self.style {
            Style::Silent => None,
            Style::Bar(_) => Some(BAR_INTERVAL),
            Style::Log => Some(LOG_INTERVAL),
            Style::Json => Some(JSON_INTERVAL),
        }
    }

    fn show(&self) {
        let Some(standing) = self.standing() else { return };
        let left = lock(&self.countdown).as_ref().map(|it| format!("; {}", it.line())).unwrap_or_default();
        match &self.style {
            Style::Silent => {}
            Style::Json => stderr::tell_with(Kind::Progress, &standing.whole(), self.members(&standing)),
            Style::Log => stderr::tell(Kind::Progress, &(standing.whole() + &left)),
            Style::Bar(bar) => {
                bar.set_message(standing.line(columns().saturating_sub(left.chars().count())) + &left);
            }
        }
    }

    /// Returns how far the phase is, if there is one.
    fn standing(&self) -> Option<Standing> {
        let (phase, begun) = (*lock(&self.phase))?;
        Some(Standing {
            phase,
            seconds: begun.elapsed().as_secs_f64(),
            entries: self.totals.get(Counter::Entries),
            entries_total: self.entries_total.load(Ordering::Relaxed),
            bytes: self.totals.get(Counter::Bytes),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
            known: self.totals.get(Counter::BytesDeduplicated),
        })
    }

    fn members(&self, standing: &Standing) -> Value {
        json!({
            "phase": standing.phase, "seconds": standing.seconds,
            "entries": standing.entries, "entries_total": standing.entries_total,
            "bytes": standing.bytes, "bytes_total": standing.bytes_total, "bytes_deduplicated": standing.known,
            "bytes_transferred": self.totals.get(Counter::BytesTransferred), "seconds_remaining": standing.remaining(),
            "objectives": lock(&self.countdown).as_ref().map(Countdown::members),
        })
    }

    fn say(&self, kind: Kind, text: &str, members: Value) {
        match &self.style {
            Style::Bar(bar) => bar.suspend(|| stderr::tell_with(kind, text, members)),
            _ => stderr::tell_with(kind, text, members),
        }
    }
}

impl Monitor for Progress {
    fn phase(&self, name: &'static str, entries_total: Option<u64>, bytes_total: Option<u64>) {
        self.shown.totals.reset();
        self.shown.entries_total.store(entries_total.unwrap_or(0), Ordering::Relaxed);
        self.shown.bytes_total.store(bytes_total.unwrap_or(0), Ordering::Relaxed);
        *lock(&self.shown.phase) = Some((name, Instant::now()));
        lock(&self.shown.countdown).iter().for_each(|countdown| countdown.phase(name));
        let mut ticker = lock(&self.ticker);
        if let (None, Some(interval)) = (ticker.as_ref(), self.shown.interval()) {
            let shown = Arc::clone(&self.shown);
            *ticker = Some(std::thread::spawn(move || {
                loop {
                    std::thread::park_timeout(interval);
                    if shown.stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    shown.show();
                }
            }));
        }
    }

    fn wants_totals(&self) -> bool {
        matches!(self.shown.style, Style::Bar(_))
    }

    fn totals(&self, entries: u64, bytes: u64) {
        self.shown.entries_total.store(entries, Ordering::Relaxed);
        self.shown.bytes_total.store(bytes, Ordering::Relaxed);
    }

    fn count(&self, counter: Counter, amount: u64) {
        self.shown.totals.add(counter, amount);
    }

    fn problem(&self, subject: &str, message: &str) {
        lock(&self.shown.told).problem(subject, message);
        let text = format!("{}: {message}", printable(subject));
        self.shown.say(Kind::Problem, &text, json!({ "subject": subject, "message": message }));
    }

    fn warning(&self, message: &str) {
        lock(&self.shown.told).warning(message);
        self.shown.say(Kind::Warning, &printable(message), json!({ "message": message }));
    }

    fn note(&self, message: &str) {
        if self.shown.verbosity != Verbosity::Quiet {
            self.shown.say(Kind::Note, &printable(message), json!({ "message": message }));
        }
    }

    fn begun(&self, text: &dyn Fn() -> String) {
        if stderr::is_log() && self.shown.verbosity != Verbosity::Quiet {
            self.shown.say(Kind::Start, &printable(&text()), json!({}));
        }
    }

    fn detail(&self, text: &dyn Fn() -> String) {
        if self.shown.verbosity == Verbosity::Verbose {
            let text = text();
            self.shown.say(Kind::Detail, &printable(&text), json!({ "message": text }));
        }
    }
}

/// Lines are laid out by [`Standing`], which knows what may be left out; indicatif draws them over each other.
fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Returns how many columns a line may have. The last one stays free: after it some terminals begin a new line.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).map_or(COLUMNS_DEFAULT, |it| it - 1)
}

/// Makes characters visible that would not be seen or would move others, so that a file name cannot forge output.
pub fn printable(text: &str) -> String {
    let show = |c: char| if is_treacherous(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// Control characters, line separators, and what turns the direction of writing or takes no space.
fn is_treacherous(c: char) -> bool {
    let is_invisible =
        matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}');
    c.is_control() || is_invisible
}
