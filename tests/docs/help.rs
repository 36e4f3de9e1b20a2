//! What the program itself says of its commands and options.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Groups of options that several commands share, and that are described once.
pub const SHARED_GROUPS: [&str; 2] = ["Global options", "MLflow deployment"];

/// A command's help, in short.
pub struct Help {
    /// Words of the command, such as `repair packs`; empty for the program itself.
    pub name: String,
    /// What stands below each head, in order; the first one is the usage.
    groups: Vec<(String, String)>,
}

/// Returns the help of the program and of every command below it, parents first.
pub fn all() -> Vec<Help> {
    let mut found = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(name) = waiting.pop() {
        let help = Help::ask(name);
        waiting
            .extend(help.commands().iter().rev().map(|command| format!("{} {command}", help.name).trim().to_owned()));
        found.push(help);
    }
    found
}

impl Help {
    fn ask(name: String) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlvault"));
        let output = command.args(name.split_whitespace()).arg("-h").env_clear().output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let mut groups: Vec<(String, String)> = Vec::new();
        for line in text.lines() {
            match line.strip_suffix(':').filter(|head| !head.starts_with(' ')) {
                _ if line.starts_with("Usage:") => groups.push(("Usage".to_owned(), format!("{line}\n"))),
                Some(head) => groups.push((head.to_owned(), String::new())),
                None => groups.iter_mut().last().into_iter().for_each(|(_, text)| *text += &format!("{line}\n")),
            }
        }
        Self { name, groups }
    }

    /// Returns the text of one group.
    pub fn group(&self, head: &str) -> Option<&str> {
        self.groups.iter().find(|(name, _)| name == head).map(|(_, text)| text.trim_end())
    }

    /// Returns the names of the commands below this one.
    pub fn commands(&self) -> Vec<&str> {
        let lines = self.group("Commands").unwrap_or_default().lines();
        let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect()
    }

    /// Returns whether it does something by itself, and not only by the commands below it.
    pub fn is_run(&self) -> bool {
        let usage = self.group("Usage").unwrap_or_default();
        usage.lines().next().is_some_and(|line| !line.contains("<COMMAND>"))
    }

    /// Returns what a page has of it: all but the groups that are described once, and `--help` itself.
    pub fn for_page(&self) -> String {
        let mut page = String::new();
        for (head, text) in self.groups.iter().filter(|(head, _)| !SHARED_GROUPS.contains(&head.as_str())) {
            let options = entries(text).into_iter().filter(|entry| !entry.contains("--help"));
            let text = if head == "Options" { options.collect() } else { text.clone() };
            match (head.as_str(), text.trim_end()) {
                (_, "") => {}
                ("Usage", text) => page += &format!("{text}\n"),
                (_, text) => page += &format!("\n{head}:\n{text}\n"),
            }
        }
        page
    }

    /// Returns the long options, with the variable of each that has one, and their other names.
    pub fn options(&self) -> BTreeMap<String, Option<String>> {
        let is_of_options = |head: &str| !matches!(head, "Usage" | "Commands" | "Arguments" | "Examples");
        let mut found = BTreeMap::new();
        for (_, text) in self.groups.iter().filter(|(head, _)| is_of_options(head)) {
            found.extend(options(text));
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let others = words.split("[alias: ").skip(1).filter_map(|rest| rest.split(']').next());
            found.extend(others.map(|name| (name.to_owned(), None)));
        }
        found
    }

    /// Returns the short options.
    pub fn short_options(&self) -> BTreeSet<String> {
        let entries = self.groups.iter().flat_map(|(_, text)| entries(text));
        let shorts = entries.filter_map(|entry| entry.split([' ', ',']).find(|word| is_short(word)).map(str::to_owned));
        shorts.collect()
    }
}

/// Returns the long options of a group, with the variable of each that has one.
pub fn options(group: &str) -> BTreeMap<String, Option<String>> {
    let long = |entry: &str| {
        let word = entry.split([' ', '=', '[', ',', '\n']).find(|word| word.starts_with("--"))?.to_owned();
        let words = entry.split_whitespace().collect::<Vec<_>>().join(" ");
        let variable =
            words.split_once("[env: ").and_then(|(_, rest)| rest.split(['=', ']']).next()).map(str::to_owned);
        Some((word, variable))
    };
    entries(group).iter().filter_map(|entry| long(entry)).collect()
}

/// Returns the options of a group, each with its description.
fn entries(group: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for line in group.lines() {
        let indentation = line.len() - line.trim_start().len();
        let begins = indentation <= 6 && line.trim_start().starts_with('-');
        match entries.last_mut() {
            Some(entry) if !begins => *entry += &format!("{line}\n"),
            _ if begins => entries.push(format!("{line}\n")),
            _ => {}
        }
    }
    entries
}

fn is_short(word: &str) -> bool {
    word.len() == 2 && word.starts_with('-') && word != "--"
}
