//! Reads from the sources which file imports which, and what functions take.

use std::collections::{BTreeMap, BTreeSet};

use super::SourceFile;

/// Returns a text without comments, and with nothing in its string literals.
fn bare(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            '"' => skip_string(&mut rest),
            '\'' if skip_character(&mut rest) => {}
            _ => code.push(c),
        }
    }
    code
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_string(rest: &mut Characters<'_>) {
    while let Some(c) = rest.next() {
        match c {
            '\\' => drop(rest.next()),
            '"' => return,
            _ => {}
        }
    }
}

/// Skips the rest of a character's literal; what stands behind the quote of a lifetime is none.
fn skip_character(rest: &mut Characters<'_>) -> bool {
    let mut ahead = rest.clone();
    let len = if ahead.next() == Some('\\') { 2 } else { 1 };
    if len == 2 {
        ahead.next();
    }
    let is_one = ahead.next() == Some('\'');
    if is_one {
        rest.nth(len);
    }
    is_one
}

/// Returns the code without the unit tests at its end.
fn code_of(file: &SourceFile) -> String {
    let code = bare(&file.text);
    code.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

/// Returns the module that a file is, as `a::b`.
fn module_path(name: &str) -> Vec<&str> {
    let inner = name.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').filter(|part| *part != "mod").collect()
}

/// Returns the paths that a text names from `crate` or `super` on, as parts from the crate's root.
fn named_paths(code: &str, module: &[&str]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            let mut rest = &code[at + root.len()..];
            let mut base: Vec<String> = match root {
                "crate::" => Vec::new(),
                _ => module[..module.len().saturating_sub(1)].iter().map(|part| (*part).to_owned()).collect(),
            };
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            tree(rest, base, &mut paths);
        }
    }
    paths
}

/// Reads a tree of paths, such as `a::{b, c::d}`, and returns what follows it.
fn tree<'a>(text: &'a str, mut base: Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = text;
    loop {
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner.trim_start();
            while !rest.is_empty() && !rest.starts_with('}') {
                let after = tree(rest, base.clone(), paths).trim_start_matches([',', ' ', '\n']);
                // What is no path, as in a macro, ends the tree.
                if after.len() == rest.len() {
                    return "";
                }
                rest = after;
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        base.push(rest[..len].to_owned());
        rest = &rest[len..];
        match rest.strip_prefix("::") {
            Some(after) => rest = after,
            None => break,
        }
    }
    paths.push(base);
    rest
}

/// Returns each circle of imports among what lies in one folder: files, and folders as one.
pub fn circles(files: &[SourceFile]) -> Vec<String> {
    let modules: BTreeSet<String> = files.iter().map(|file| module_path(&file.name).join("::")).collect();
    let mut edges: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in files {
        let from = module_path(&file.name);
        for path in named_paths(&code_of(file), &from) {
            let known = (1..=path.len()).rev().find(|len| modules.contains(&path[..*len].join("::")));
            let to = &path[..known.unwrap_or(0)];
            let common = from.iter().zip(to).take_while(|(one, other)| **one == other.as_str()).count();
            if common < from.len() && common < to.len() {
                let folder = edges.entry(from[..common].join("::")).or_default();
                folder.entry(from[common].to_owned()).or_default().insert(to[common].clone());
            }
        }
    }
    edges.iter().flat_map(|(folder, edges)| circles_of(folder, edges)).collect()
}

fn circles_of(folder: &str, edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        edges.keys().map(|from| (from, reachable(from, edges))).collect();
    let mut circles = BTreeSet::new();
    for (from, reached_from) in &reached {
        let members: Vec<&str> = reached_from
            .iter()
            .filter(|to| reached.get(**to).is_some_and(|back| back.contains(from)))
            .map(|member| member.as_str())
            .collect();
        if members.len() > 1 {
            circles.insert(format!("{folder}: {}", members.join(", ")));
        }
    }
    circles.into_iter().collect()
}

fn reachable<'a>(from: &'a String, edges: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![from];
    while let Some(next) = waiting.pop() {
        for to in edges.get(next).into_iter().flatten() {
            if reached.insert(to) {
                waiting.push(to);
            }
        }
    }
    reached
}

/// Returns the functions of a file with the number of their arguments: without `self`, and with the members of a tuple
/// each for itself.
pub fn functions(file: &SourceFile) -> Vec<(String, usize)> {
    let code = bare(&file.text);
    let mut functions = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let is_word = code[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let rest = &code[at + 3..];
        let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(len);
        if !is_word || name.is_empty() {
            continue;
        }
        let rest = match rest.starts_with('<') {
            true => &rest[1 + up_to_end(&rest[1..]).len() + 1..],
            false => rest,
        };
        if let Some(inner) = rest.strip_prefix('(') {
            let count = parts(up_to_end(inner)).iter().map(|argument| count(argument)).sum();
            functions.push((name.to_owned(), count));
        }
    }
    functions
}

/// Returns a text up to the bracket that closes it.
fn up_to_end(text: &str) -> &str {
    let mut depth = 0usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            '>' if before == '-' => {}
            ')' | ']' | '}' | '>' if depth == 0 => return &text[..at],
            ')' | ']' | '}' | '>' => depth -= 1,
            _ => {}
        }
        before = c;
    }
    text
}

/// Returns what stands between the outer commas.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut start = 0;
    while let Some(offset) = rest[start..].find(['(', '[', '{', '<', ',']) {
        let at = start + offset;
        if rest.as_bytes()[at] == b',' {
            parts.push(rest[..at].trim());
            (rest, start) = (&rest[at + 1..], 0);
        } else {
            start = (at + 1 + up_to_end(&rest[at + 1..]).len() + 1).min(rest.len());
        }
    }
    parts.push(rest.trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// Returns how many arguments one stands for.
fn count(argument: &str) -> usize {
    let pattern_len = argument.strip_prefix('(').map_or(0, |inner| up_to_end(inner).len() + 2);
    let (name, kind) = argument[pattern_len..].split_once(": ").unwrap_or((argument, ""));
    if name.split([' ', '&']).next_back() == Some("self") {
        return 0;
    }
    let kind = kind.trim_start_matches('&');
    let kind = if kind.starts_with('\'') { kind.split_once(' ').map_or(kind, |(_, kind)| kind) } else { kind };
    match kind.trim_start_matches("mut ").strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(members) => parts(members).len().max(1),
        None => 1,
    }
}

#[test]
fn what_is_read_from_sources_is_what_they_say() {
    let file = |name: &str, text: &str| SourceFile { name: name.to_owned(), text: text.to_owned() };
    let text =
        "fn a<F: Fn(u8) -> u8>(&self, (x, y): (u8, Vec<(u8, u8)>), f: F) {} // fn c(a: u8)\nfn b(\n  a: u8,\n) {}";
    assert_eq!(functions(&file("src/a.rs", text)), [("a".to_owned(), 3), ("b".to_owned(), 1)]);
    assert_eq!(bare("a('\\'', \"b\\\" c\", '\"', &'a x) // d"), "a(, , , &'a x) ");
    let files = [
        file("src/a/b.rs", "use super::{c::X, d};"),
        file("src/a/c.rs", "use crate::{e::Y, a::d::Z};"),
        file("src/a/d.rs", "fn f() { crate::a::b::g() }"),
        file("src/e.rs", "use crate::a;"),
        file("src/a/mod.rs", "mod b;"),
    ];
    assert_eq!(circles(&files), [": a, e", "a: b, c, d"]);
}
