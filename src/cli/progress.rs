//! Progress for people (a bar on a terminal, a line now and then in a log) and for programs (JSON lines).

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use mlvault::monitor::{Counter, Monitor, Totals};
use mlvault::sync::lock;
use mlvault::units::{format_bytes, format_duration};

use crate::cli::stderr::{self, Kind, LogFormat};

/// Time between updates of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Time between lines in a log.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Time between JSON lines.
const JSON_INTERVAL: Duration = Duration::from_secs(5);

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
            stopped: AtomicBool::new(false),
        });
        Arc::new(Self { shown, ticker: Mutex::default() })
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
        let Some((phase, begun)) = *lock(&self.phase) else { return };
        let entries = self.totals.get(Counter::Entries);
        let bytes = self.totals.get(Counter::Bytes);
        let known = self.totals.get(Counter::BytesDeduplicated);
        let total = self.bytes_total.load(Ordering::Relaxed);
        let seconds = begun.elapsed().as_secs_f64();
        let rate = bytes as f64 / seconds.max(0.001);
        let remaining = (total > bytes && rate > 0.0).then(|| (total - bytes) as f64 / rate);
        let standing = Standing { entries, bytes, total, known, rate, remaining };
        match &self.style {
            Style::Silent => {}
            Style::Json => {
                let members = json!({
                    "phase": phase, "seconds": seconds,
                    "entries": entries, "entries_total": self.entries_total.load(Ordering::Relaxed),
                    "bytes": bytes, "bytes_total": total, "bytes_deduplicated": known,
                    "bytes_transferred": self.totals.get(Counter::BytesTransferred), "seconds_remaining": remaining,
                });
                stderr::tell_with(Kind::Progress, &standing.line(phase), members);
            }
            Style::Log => stderr::tell(Kind::Progress, &standing.line(phase)),
            Style::Bar(bar) => {
                bar.set_length(total.max(bytes).max(1));
                bar.set_position(bytes);
                bar.set_message(standing.line(phase));
            }
        }
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
        let text = format!("{}: {message}", printable(subject));
        self.shown.say(Kind::Problem, &text, json!({ "subject": subject, "message": message }));
    }

    fn warning(&self, message: &str) {
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

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:24} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar
}

/// How far a phase has come.
struct Standing {
    entries: u64,
    bytes: u64,
    /// Bytes that the phase has to handle; zero where that is not known.
    total: u64,
    /// Bytes that were there already.
    known: u64,
    /// Bytes a second.
    rate: f64,
    /// Seconds, where the total is known.
    remaining: Option<f64>,
}

impl Standing {
    fn line(&self, phase: &str) -> String {
        let mut text = format!("{phase}: {} entries, {}", self.entries, format_bytes(self.bytes));
        if self.total > 0 {
            text.push_str(&format!(" of {}", format_bytes(self.total)));
        }
        let rate = format_bytes(self.rate as u64);
        text.push_str(&format!(", {rate}/s, {} already there", format_bytes(self.known)));
        if let Some(seconds) = self.remaining {
            text.push_str(&format!(", {} left", format_duration(seconds)));
        }
        text
    }
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
