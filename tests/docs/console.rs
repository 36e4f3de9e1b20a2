//! Runs what a page shows as typed at a terminal, and compares what is printed.
//!
//! A block that begins with ```` ```console ```` holds commands, in lines that begin with `$ `, each followed by what it
//! prints. All blocks of a page run in order, in one shell. `/srv` on a page stands for a folder of the run's own. What
//! differs between two runs (ids, times, sizes, counts above nine) is not compared; a line `…` stands for lines left out,
//! and `…` in a line for a part of it. Besides, a page can have
//!
//! - `<!-- setup`, and commands up to `-->`: they run there, and no reader sees them;
//! - `<!-- deployment -->`: there is an MLflow deployment in `/srv/production`, and its repository in `/srv/repo`, whose
//!   key is in `/srv/key`;
//! - blocks of `console no-run`, below a comment that says why they cannot be run.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use super::page::{Page, is_blessing};
use crate::support::cli::Runner;
use crate::support::deployment::ThreeDays;

/// What a page calls the folder of the run.
const PLACE: &str = "/srv";
/// Longest time that a page may run, in seconds.
const SECONDS_MAX: &str = "600";
/// Units behind a number that differs between runs.
const UNITS: [&str; 15] =
    ["B", "KiB", "MiB", "GiB", "B/s", "KiB/s", "MiB/s", "GiB/s", "ms", "s", "min", "h", "d", "chunks", "chunk"];

/// Something that a page has the shell do.
struct Step {
    script: String,
    /// Lines of the page that hold the output; none for what the reader does not see.
    output: Option<Range<usize>>,
}

/// Runs a page; returns its lines as they should be, and the differences found.
pub fn run(page: &Page) -> (Vec<String>, Vec<String>) {
    let mut lines: Vec<String> = page.text.lines().map(str::to_owned).collect();
    let steps = steps(page, &lines);
    if steps.is_empty() {
        return (lines, Vec::new());
    }
    let mut offences = Vec::new();
    // From the end, so that lines that come or go do not move those that are still to be compared.
    for (step, printed) in steps.iter().zip(execute(page, &steps)).rev() {
        let Some(range) = step.output.clone() else { continue };
        if !is_same(&lines[range.clone()], &printed) {
            offences.push(format!(
                "{}:{}: `{}` prints\n{}\nand the page has\n{}\n",
                page.name,
                range.start,
                step.script,
                printed.join("\n"),
                lines[range.clone()].join("\n")
            ));
            let kept = |line: String| like(&lines[range.clone()], &line).cloned().unwrap_or(line);
            let fresh: Vec<_> = printed.into_iter().map(kept).collect();
            lines.splice(range, fresh);
        }
    }
    offences.reverse();
    (lines, offences)
}

/// Returns the commands in a block, each with the lines of its output.
pub fn commands(lines: &[String], block: Range<usize>) -> Vec<(String, Range<usize>)> {
    let mut commands: Vec<(String, Range<usize>)> = Vec::new();
    let mut index = block.start;
    while index < block.end {
        let Some(typed) = lines[index].strip_prefix("$ ") else {
            let last = commands.last_mut().unwrap_or_else(|| panic!("{:?}: output without a command", lines[index]));
            // A blank line before the next command, or at the end, is for the reader.
            let is_blank = |index: &usize| lines[*index].is_empty();
            let next = (index..block.end).find(|index| !is_blank(index));
            if next.is_some_and(|next| !lines[next].starts_with("$ ")) {
                last.1.end = index + 1;
            }
            index += 1;
            continue;
        };
        let mut script = typed.to_owned();
        while script.ends_with('\\') {
            index += 1;
            script = format!("{script}\n{}", lines[index]);
        }
        index += 1;
        commands.push((script, index..index));
    }
    commands
}

fn steps(page: &Page, lines: &[String]) -> Vec<Step> {
    let mut steps: Vec<(usize, Step)> = Vec::new();
    for block in page.blocks().into_iter().filter(|block| block.info == "console") {
        let of_block = commands(lines, block.lines).into_iter();
        steps.extend(of_block.map(|(script, output)| (output.start, Step { script, output: Some(output) })));
    }
    let mut setup: Option<(usize, String)> = None;
    for (index, line) in lines.iter().enumerate() {
        match &mut setup {
            None if line == "<!-- setup" => setup = Some((index, String::new())),
            Some((first, script)) if line == "-->" => {
                steps.push((*first, Step { script: std::mem::take(script), output: None }));
                setup = None;
            }
            Some((_, script)) => *script += &format!("{line}\n"),
            None => {}
        }
    }
    steps.sort_by_key(|(line, _)| *line);
    steps.into_iter().map(|(_, step)| step).collect()
}

/// Runs the steps in one shell, and returns the lines that each of them printed.
fn execute(page: &Page, steps: &[Step]) -> Vec<Vec<String>> {
    let runner = match page.text.contains("<!-- deployment -->") {
        true => ThreeDays::unpack().runner,
        false => Runner::without_repository(),
    };
    let folder = runner.path("");
    let folder = folder.to_str().unwrap().trim_end_matches('/');
    let mut script = String::from("exec 2>&1\numask 022\n");
    for step in steps {
        script += &step.script.replace(&format!("{PLACE}/"), &format!("{folder}/"));
        script += "\nprintf '\\n\\001%d\\n' $?\n";
    }
    let path = runner.path("script.sh");
    fs::write(&path, script).unwrap();
    let output = shell(&runner, &path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).replace(folder, PLACE);
    let mut printed = Vec::new();
    let mut rest = text.as_str();
    for step in steps {
        let end = rest.split_once("\n\u{1}").and_then(|(own, rest)| Some((own, rest.split_once('\n')?)));
        let Some((own, (code, behind))) = end else {
            panic!("{}: `{}` ends the shell: {rest}", page.name, step.script);
        };
        assert!(step.output.is_some() || code == "0", "{}: setup fails: {}{own}", page.name, step.script);
        printed.push(own.trim_end_matches('\n').lines().map(|line| line.trim_end().to_owned()).collect());
        rest = behind;
    }
    printed
}

fn shell(runner: &Runner, script: &Path) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_mlvault")).parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("timeout");
    command.args([SECONDS_MAX, "bash", "--norc"]).arg(script).current_dir(runner.path("")).stdin(Stdio::null());
    command.env_clear().env("PATH", format!("{program}:{path}")).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command.env("HOME", runner.path("home")).env("TMPDIR", runner.path("tmp"));
    command
}

/// Returns whether a page has what was printed, but for what differs between runs and what it leaves out.
fn is_same(page: &[String], printed: &[String]) -> bool {
    match page.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "…" => {
            (0..=printed.len()).any(|skipped| is_same(rest, &printed[skipped..]))
        }
        Some((line, rest)) => {
            let is_first = |found: &String| is_like(&masked(line), &masked(found));
            printed.split_first().is_some_and(|(found, behind)| is_first(found) && is_same(rest, behind))
        }
    }
}

/// Returns the line of a page that says in short what was printed.
fn like<'a>(page: &'a [String], printed: &str) -> Option<&'a String> {
    let is_short = |line: &&String| line.contains('…') && line.trim() != "…";
    page.iter().filter(is_short).find(|line| is_like(&masked(line), &masked(printed)))
}

/// Returns whether a line is like a pattern in which `…` stands for anything.
fn is_like(pattern: &str, line: &str) -> bool {
    match pattern.split_once('…') {
        None => pattern == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|behind| {
            let places = behind.char_indices().map(|(place, _)| place).chain([behind.len()]);
            places.into_iter().any(|place| is_like(rest, &behind[place..]))
        }),
    }
}

/// Returns a line with names for what differs between runs, and with single spaces.
fn masked(line: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | ':' | '…' | '/' | '%' | '_' | '+');
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let mut out = String::new();
        let mut rest = word;
        while !rest.is_empty() {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            out += &masked_word(&rest[..end]);
            let next = rest[end..].chars().next().map_or(end, |c| end + c.len_utf8());
            out += &rest[end..next];
            rest = &rest[next..];
        }
        let unit = out.trim_end_matches([',', ';', ')', '.', '"']);
        let is_unit = UNITS.contains(&unit) || matches!(unit, "different" | "tree" | "with" | "without");
        match words.last_mut() {
            Some(last) if is_unit && is_number(last.trim_start_matches(['(', '"'])) => {
                *last = format!("SIZE{}", &out[unit.len()..]);
            }
            _ => words.push(out),
        }
    }
    words.join(" ")
}

fn masked_word(word: &str) -> String {
    let core = word.trim_end_matches([':', '.', ',']);
    let tail = &word[core.len()..];
    let name = core.rsplit(['/', ':']).next().unwrap_or(core);
    let id = name.strip_prefix("m-").unwrap_or(name);
    let is_id = |text: &str| {
        text.chars().all(|c| c.is_ascii_hexdigit() || c == '…' || c == '-') && text.chars().count() >= 12
            || text.contains('…') && text.chars().count() > 8 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '…')
    };
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).count();
    let is_time = core.starts_with(|c: char| c.is_ascii_digit())
        && (core.matches('-').count() == 2 && digits(core) >= 8 || core.contains(':') && digits(core) >= 4)
        && core.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | ':' | '.' | 'T' | 'Z'));
    if core.starts_with("MLVK2-") {
        return format!("KEY{tail}");
    }
    if is_time {
        return format!("TIME{tail}");
    }
    if is_id(id) {
        let start = if core.contains("packs/") { "packs/" } else { &core[..core.len() - name.len()] };
        return format!("{start}ID{tail}");
    }
    if core.contains('/') {
        let parts = core.split('/').map(|part| if is_id(part.trim_start_matches("m-")) { "ID" } else { part });
        return format!("{}{tail}", parts.collect::<Vec<_>>().join("/"));
    }
    // Large counts: how many chunks there are is drawn, and not every trace that MLflow was given reaches a file.
    if is_number(core) && core.len() > 1 { format!("N{tail}") } else { word.to_owned() }
}

fn is_number(text: &str) -> bool {
    text == "N" || !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// Compares the pages, or writes into them what their commands print.
pub fn check(pages: &[Page]) {
    let mut offences = Vec::new();
    for page in pages {
        let (lines, found) = run(page);
        if is_blessing() && !found.is_empty() {
            page.write(&lines);
        } else {
            offences.extend(found);
        }
    }
    assert!(offences.is_empty(), "run the test with MLVAULT_BLESS=1 if this is right:\n{}", offences.join("\n"));
}

#[test]
fn what_differs_between_runs_is_not_compared_and_all_else_is() {
    let same = [
        ("Snapshot 01a20e5c31ec saved", "Snapshot 02b31f6d42fd saved"),
        ("Read 121.9 MiB, stored 7.0 MiB, in 0 s", "Read 1 B, stored 17.0 KiB, in 12 s"),
        ("a  2026-11-24 16:20:48 UTC", "a 2027-01-02 01:02:03 UTC"),
        ("DAMAGED packs/data/25/25044a02…c0b203: x", "DAMAGED packs/data/ff/ffffffffffffffffff: x"),
        ("  MLVK2-ABAZSF-ESKQPG", "  MLVK2-QQQQQQ-ESKQPG"),
        ("Deduplication  3.79", "Deduplication 1.00"),
        ("Snapshot 01a20e5c31ec (4 min ago), complete", "Snapshot 02b31f6d42fd (10 s ago), complete"),
        (
            "into /a/1/03d136be6afd401db16c812a7fae55e0/artifacts",
            "into /a/1/05754e188990460289b2d620345b23d0/artifacts",
        ),
        ("1 experiments … done", "1 experiments and 2 runs done"),
        ("References: ok (70 with files, 10 without)", "References: ok (71 with files, 9 without)"),
    ];
    for (page, printed) in same {
        assert!(is_like(&masked(page), &masked(printed)), "{} {}", masked(page), masked(printed));
    }
    let others = [("4 new, 2 changed", "4 new, 3 changed"), ("No damage found", "Damage found"), ("v1", "v2")];
    for (page, printed) in others {
        assert!(!is_like(&masked(page), &masked(printed)), "{page}");
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(is_same(&lines("a\n…\nd"), &lines("a\nb\nc\nd")));
    assert!(!is_same(&lines("a\n…\nd"), &lines("a\nb\nc")));
}
