//! A page of the documentation, as the tests read it: headings, sections, tables, blocks of code, links.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A Markdown file of the project.
pub struct Page {
    /// Path from the package's folder.
    pub name: String,
    pub text: String,
}

/// A fenced block of code.
pub struct Block {
    /// What stands behind the fence: the language, and perhaps more.
    pub info: String,
    /// Its lines, without the fences, as indices into those of the page.
    pub lines: Range<usize>,
}

pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every page: those at the top of the project, and those in `docs`.
pub fn pages() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = [package().to_owned(), package().join("docs")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|found| found.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.sort();
    paths.iter().map(|path| Page::read(&path.strip_prefix(package()).unwrap().display().to_string())).collect()
}

/// Returns whether the tests are to write into the pages what they find, instead of comparing it.
pub fn is_blessing() -> bool {
    std::env::var_os("MLVAULT_BLESS").is_some_and(|value| value == "1")
}

impl Page {
    pub fn read(name: &str) -> Self {
        Self { name: name.to_owned(), text: fs::read_to_string(package().join(name)).unwrap() }
    }

    /// Replaces the page.
    pub fn write(&self, lines: &[String]) {
        fs::write(package().join(&self.name), lines.join("\n") + "\n").unwrap();
    }

    /// Returns the fenced blocks, in order.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(String, usize)> = None;
        for (index, line) in self.text.lines().enumerate() {
            let Some(info) = line.trim_start().strip_prefix("```") else { continue };
            match open.take() {
                None => open = Some((info.to_owned(), index + 1)),
                Some((info, first)) => blocks.push(Block { info, lines: first..index }),
            }
        }
        assert!(open.is_none(), "{}: a block of code does not end", self.name);
        blocks
    }

    /// Returns the lines that are no code, with their numbers from 1.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let blocks = self.blocks();
        let is_code =
            |index: usize| blocks.iter().any(|block| block.lines.start - 1 <= index && index <= block.lines.end);
        let lines = self.text.lines().enumerate().filter(|(index, _)| !is_code(*index));
        lines.map(|(index, line)| (index + 1, line)).collect()
    }

    /// Returns the headings with their levels.
    pub fn headings(&self) -> Vec<(usize, &str)> {
        let level = |line: &str| line.bytes().take_while(|byte| *byte == b'#').count();
        let lines = self.prose().into_iter().filter(|(_, line)| line.starts_with('#'));
        lines.map(|(_, line)| (level(line), line.trim_start_matches('#').trim())).collect()
    }

    /// Returns the text below the heading whose title begins so, up to the next one of the same level or above.
    pub fn section(&self, title: &str) -> &str {
        let mut level = 0;
        let (mut first, mut offset, mut end) = (None, 0, self.text.len());
        for line in self.text.split_inclusive('\n') {
            let found = line.bytes().take_while(|byte| *byte == b'#').count();
            if first.is_some() && (1..=level).contains(&found) {
                end = offset;
                break;
            }
            if first.is_none() && found > 0 && line[found..].trim().starts_with(title) {
                (first, level) = (Some(offset + line.len()), found);
            }
            offset += line.len();
        }
        let first = first.unwrap_or_else(|| panic!("{} has no heading {title:?}", self.name));
        &self.text[first..end]
    }

    /// Returns the targets of the links, with the numbers of their lines.
    pub fn links(&self) -> Vec<(usize, &str)> {
        let targets = |line| -> Vec<&str> {
            let behind = str::split(line, "](").skip(1);
            behind.filter_map(|rest| rest.split_once(')').map(|(target, _)| target)).collect()
        };
        self.prose()
            .into_iter()
            .flat_map(|(number, line)| targets(line).into_iter().map(move |to| (number, to)))
            .collect()
    }

    /// Returns the anchors that its headings give, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        let anchor = |title: &str| {
            let kept = title
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .collect::<String>();
            kept.replace(' ', "-")
        };
        self.headings().into_iter().map(|(_, title)| anchor(title)).collect()
    }
}

/// Returns the cells of the rows of all tables in a text, without heads and rulers.
pub fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<_> = text.lines().collect();
    let is_ruler = |line: &str| line.starts_with("|-") || line.starts_with("|:") || line.starts_with("| -");
    let is_head = |index: usize| lines.get(index + 1).is_some_and(|next| is_ruler(next));
    let of_tables =
        (0..lines.len()).filter(|index| lines[*index].starts_with('|') && !is_ruler(lines[*index]) && !is_head(*index));
    of_tables.map(|index| lines[index].trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// Returns what stands between backquotes.
pub fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}
