//! Keeps the documentation true: what the pages say of commands, options, settings, exit codes and stored names is compared
//! with the program and its source, and what they show as typed is run.
//!
//! Run with `MLVAULT_BLESS=1`, the tests write into the pages what they find: the help of commands, and what is printed.

mod console;
pub mod help;
pub mod json_fields;
pub mod page;
pub mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;

use mlvault::config::file::ConfigFile;

use help::{Help, SHARED_GROUPS};
use page::{Page, is_blessing, package, pages, quoted, rows};

/// What begins and ends the help of a command on a page.
const HELP_START: &str = "<!-- help: ";
const HELP_END: &str = "<!-- end -->";
/// Pages that speak to users of mlvault: what looks like an option there is one of mlvault, or of [`OTHER_OPTIONS`].
const USER_PAGES: [&str; 5] = ["README.md", "docs/audit.md", "docs/cli.md", "docs/mlflow.md", "docs/operations.md"];
/// Options of other programs.
const OTHER_OPTIONS: [&str; 9] = [
    "--from-file",
    "--allowed-hosts",
    "--artifacts-destination",
    "--no-names",
    "--public",
    "--release",
    "--signature",
    "--version",
    "--help",
];
/// Beginnings of the names of variables that pages and source are compared by.
const VARIABLE_PREFIXES: [&str; 5] = ["MLVAULT_", "MLFLOW_", "AWS_", "PG", "XDG_"];
/// Variables that libraries read: the AWS SDK.
const READ_BY_LIBRARIES: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
];
/// Texts in the source that look like variables and are none: a kind of place in MLflow's API.
const NO_VARIABLES: [&str; 1] = ["MLFLOW_EXPERIMENT"];
/// Files that name variables of other programs, to set them or to see how they are set, and read none.
const SET_VARIABLES: [&str; 5] = [
    "src/config/discover.rs",
    "src/database/postgresql/pg_dump.rs",
    "src/database/postgresql/programs.rs",
    "src/kubernetes/discover.rs",
    "src/procedures/drill/server.rs",
];

/// Tests that write into a page do so one after the other.
static PAGES: Mutex<()> = Mutex::new(());

#[test]
fn what_the_pages_show_as_typed_prints_what_they_show() {
    let _turn = PAGES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    console::check(&pages());
}

#[test]
fn the_page_of_commands_has_the_help_of_each() {
    let _turn = PAGES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let page = cli_page();
    let helps: BTreeMap<_, _> = help::all().into_iter().map(|help| (help.name.clone(), help)).collect();
    let mut lines = Vec::new();
    let mut stale = BTreeSet::new();
    let mut missing: BTreeSet<_> = helps.values().filter(|help| help.is_run()).map(|help| &help.name).collect();
    let mut old = page.text.lines();
    while let Some(line) = old.next() {
        lines.push(line.to_owned());
        let Some(name) = line.strip_prefix(HELP_START).and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        let help = helps.get(name).unwrap_or_else(|| panic!("{}: there is no command {name:?}", page.name));
        missing.remove(&help.name);
        let fresh = format!("\n```text\n{}```\n", help.for_page());
        let had: Vec<_> = old.by_ref().take_while(|line| *line != HELP_END).collect();
        if !fresh.lines().eq(had.iter().copied()) {
            stale.insert(name.to_owned());
        }
        lines.extend(fresh.lines().chain([HELP_END]).map(str::to_owned));
    }
    assert!(missing.is_empty(), "{} has no help of {missing:?}", page.name);
    match is_blessing() {
        true if !stale.is_empty() => page.write(&lines),
        _ => assert!(stale.is_empty(), "{}: old help of {stale:?}: run this with MLVAULT_BLESS=1", page.name),
    }
}

#[test]
fn no_help_shows_what_is_in_a_variable() {
    let helps = help::all();
    let variables: BTreeSet<_> = helps.iter().flat_map(|help| help.options().into_values().flatten()).collect();
    assert!(variables.contains("MLVAULT_SET") && variables.len() > 20, "{variables:?}");
    for name in helps.iter().map(|help| &help.name) {
        for flag in ["-h", "--help"] {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mlvault"));
            command.args(name.split_whitespace()).arg(flag).env_clear();
            command.envs(variables.iter().map(|variable| (variable, "hunter2")));
            let output = command.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && text.contains("Usage:"), "{name} {flag}: {text}");
            assert!(!text.contains("hunter2"), "{name} {flag} shows what a variable holds:\n{text}");
        }
    }
}

#[test]
fn the_help_of_every_command_has_examples() {
    let helps = help::all();
    let leaves: Vec<_> = helps.iter().filter(|help| help.is_run()).collect();
    assert!(leaves.len() > 25, "{}", leaves.len());
    for help in leaves {
        let call = format!("mlvault {}", help.name);
        let examples = help.group("Examples").unwrap_or_default();
        assert!(examples.contains(&call), "the help of `{call}` has no example of it");
    }
}

#[test]
fn the_page_of_commands_has_a_heading_for_each_and_for_no_other() {
    let page = cli_page();
    let commands: BTreeSet<_> = help::all().into_iter().map(|help| help.name).filter(|name| !name.is_empty()).collect();
    // What is no command begins with a capital.
    let is_command = |title: &&str| title.starts_with(|c: char| c.is_lowercase());
    let headings: BTreeSet<_> =
        page.headings().into_iter().map(|(_, title)| title).filter(is_command).map(str::to_owned).collect();
    assert_eq!(headings, commands);
    let contents = page.text.split("\n## ").next().unwrap();
    for command in commands.iter().filter(|command| !command.contains(' ')) {
        assert!(contents.contains(&format!("](#{command})")), "the list at the top of {} lacks {command}", page.name);
    }
}

#[test]
fn the_tables_of_settings_have_every_shared_option_and_its_variable() {
    let helps = help::all();
    let mut said = BTreeMap::new();
    for head in SHARED_GROUPS {
        let groups: BTreeSet<_> = helps.iter().filter_map(|help| help.group(head)).map(help::options).collect();
        assert_eq!(groups.len(), 1, "{head:?} is not the same for all commands");
        said.extend(groups.into_iter().next().unwrap());
    }
    let page = cli_page();
    assert_eq!(settings(page.section("Settings")), said);
    let copy = helps.iter().find(|help| help.name == "copy").unwrap();
    let to: BTreeMap<_, _> = copy.options().into_iter().filter(|(name, _)| name.starts_with("--to")).collect();
    assert_eq!(settings(page.section("copy")), to);
}

/// Returns the options that tables of settings name, with their variables.
fn settings(section: &str) -> BTreeMap<String, Option<String>> {
    let option = |row: &Vec<&str>| {
        let name = quoted(row[0]).first()?.split(['=', ' ', '[']).next()?.to_owned();
        let variable = row.get(1).and_then(|cell| quoted(cell).first().map(|name| (*name).to_owned()));
        name.starts_with("--").then_some((name, variable))
    };
    rows(section).iter().filter_map(option).collect()
}

#[test]
fn options_on_the_pages_for_users_exist() {
    let helps = help::all();
    let known: BTreeSet<_> = helps.iter().flat_map(|help| help.options().into_keys()).collect();
    let mut offences = Vec::new();
    for page in USER_PAGES.map(Page::read) {
        for (number, line) in page.text.lines().enumerate() {
            let words = line
                .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-')
                .filter(|word| word.starts_with("--"));
            let is_option = |word: &&str| word.len() > 3 && word.as_bytes()[2] != b'-' && !word.ends_with('-');
            for word in words.filter(is_option) {
                if !known.contains(word) && !OTHER_OPTIONS.contains(&word) {
                    offences.push(format!("{}:{}: {word}", page.name, number + 1));
                }
            }
        }
    }
    assert!(offences.is_empty(), "no command has these options:\n{}", offences.join("\n"));
}

#[test]
fn commands_on_the_pages_have_the_options_that_they_are_given() {
    let helps: BTreeMap<_, _> = help::all().into_iter().map(|help| (help.name.clone(), help)).collect();
    let examples = helps.values().flat_map(|help| help.group("Examples").unwrap_or_default().lines());
    let mut offences: Vec<_> = examples.filter_map(|example| fault_of(&helps, example.trim())).collect();
    for page in pages() {
        let lines: Vec<_> = page.text.lines().map(str::to_owned).collect();
        for block in page.blocks() {
            let typed = match block.info.split(' ').next() {
                Some("console") => {
                    console::commands(&lines, block.lines.clone()).into_iter().map(|(typed, _)| typed).collect()
                }
                Some("sh") => {
                    lines[block.lines.clone()].join("\n").replace("\\\n", " ").lines().map(str::to_owned).collect()
                }
                _ => Vec::new(),
            };
            let found = typed.iter().filter_map(|typed| fault_of(&helps, &typed.replace("\\\n", " ")));
            offences.extend(found.map(|fault| format!("{}:{}: {fault}", page.name, block.lines.start)));
            let is_explained = || lines[..block.lines.start - 1].iter().rev().find(|line| !line.is_empty());
            if block.info == "console no-run" && !is_explained().is_some_and(|line| line.ends_with("-->")) {
                offences.push(format!("{}:{}: no comment says why it is not run", page.name, block.lines.start));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// Returns what is wrong with a line that calls mlvault, if it does.
fn fault_of(helps: &BTreeMap<String, Help>, line: &str) -> Option<String> {
    let words = words(line);
    let first = words.iter().position(|word| word == "mlvault")? + 1;
    if !words[..first - 1].iter().all(|word| word.contains('=')) {
        return None;
    }
    let mut name = String::new();
    for word in words[first..].iter().filter(|word| !word.starts_with('-')) {
        let longer = format!("{name} {word}").trim().to_owned();
        if !helps.contains_key(&longer) {
            break;
        }
        name = longer;
    }
    let help = helps.get(&name).filter(|help| !help.name.is_empty() && help.is_run());
    let Some(help) = help else { return Some(format!("no command: {line}")) };
    let (options, shorts) = (help.options(), help.short_options());
    let is_known = |word: &&String| {
        let option = word.split('=').next().unwrap_or(word);
        !option.starts_with('-') || option == "-" || options.contains_key(option) || shorts.contains(option)
    };
    // What stands behind `--` is for another program.
    let mut own = words[first..].iter().take_while(|word| *word != "--");
    own.find(|word| !is_known(word)).map(|word| format!("`mlvault {name}` has no {word}: {line}"))
}

/// Splits a line as a shell does, up to the end of its first command.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => words.last_mut().unwrap().push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '|' | ';' | '>' | '<' | '&') => break,
            (None, '#') if words.last().unwrap().is_empty() => break,
            (None, _) if c.is_whitespace() => words.push(String::new()),
            (None, _) => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn exit_codes_are_those_of_the_program() {
    let source = read("src/cli/exit.rs");
    let codes =
        source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split_once("Code(")?.1.split(')').next());
    let codes: BTreeSet<_> = codes.map(|code| code.parse::<u8>().unwrap()).collect();
    assert!(codes.len() > 5, "{codes:?}");
    let page = cli_page();
    let said = rows(page.section("Exit codes"));
    assert_eq!(said.iter().map(|row| row[0].trim_matches('`').parse().unwrap()).collect::<BTreeSet<u8>>(), codes);
}

#[test]
fn strings_that_keep_keys_and_signatures_apart_are_those_of_the_format() {
    let strings = |text: &str, quote: char| -> BTreeSet<String> {
        let start = format!("{quote}mlvault v1");
        let found = text.split(start.as_str()).skip(1);
        let ends = found.map(|rest| rest.split([quote, '\\', '`', '\n']).next().unwrap_or_default().to_owned());
        ends.map(|rest| format!("mlvault v1{rest}")).collect()
    };
    let used: BTreeSet<_> = sources().iter().flat_map(|(_, text)| strings(text, '"')).collect();
    assert!(used.len() > 10, "{used:?}");
    let page = Page::read("docs/format.md");
    let section = page.section("3. Secrets and derived keys");
    let said: BTreeSet<_> = strings(&page.text, '`').union(&strings(&page.text, '"')).cloned().collect();
    let listed: BTreeSet<_> = strings(section, '`').union(&strings(section, '"')).cloned().collect();
    assert_eq!(said.difference(&used).collect::<Vec<_>>(), [""; 0], "format.md names what no source has");
    assert_eq!(used.difference(&listed).collect::<Vec<_>>(), [""; 0], "section 3 of format.md lacks them");
}

#[test]
fn keys_of_objects_are_those_of_the_format() {
    let source = read("src/repository/layout.rs");
    let literals = source.split("#[cfg(test)]").next().unwrap().split('"').skip(1).step_by(2);
    let is_key = |text: &&str| *text == "config" || text.len() > 1 && text.ends_with('/') && !text.contains(['{', '}']);
    let used: BTreeSet<_> = literals.filter(is_key).collect();
    let page = Page::read("docs/format.md");
    let section = page.section("2. Objects and their keys");
    let keys = rows(section).into_iter().map(|row| quoted(row[0])[0]);
    let said: BTreeSet<_> = keys.map(|key| key.find('/').map_or(key, |slash| &key[..=slash])).collect();
    assert_eq!(said, used);
}

#[test]
fn variables_that_are_read_are_documented_and_the_others_are_not() {
    let used: BTreeSet<String> = sources().iter().flat_map(|(name, text)| variables_of(name, text)).collect();
    assert!(used.len() > 40, "{used:?}");
    let is_variable = |word: &&str| {
        VARIABLE_PREFIXES.iter().any(|prefix| word.starts_with(prefix) && word.len() > prefix.len())
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            && !word.ends_with('_')
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut offences = Vec::new();
    for page in pages() {
        for word in page.text.split(|c| !is_part(c)).filter(is_variable).collect::<BTreeSet<_>>() {
            if !used.contains(word) && !READ_BY_LIBRARIES.contains(&word) && !is_read_by_tools(word) {
                offences.push(format!("{}: nothing reads {word}", page.name));
            }
        }
    }
    let page = cli_page();
    let said: BTreeSet<_> = page.text.split(|c| !is_part(c)).collect();
    let missing = used.iter().filter(|name| !said.contains(name.as_str()));
    offences.extend(missing.map(|name| format!("{} lacks {name}", page.name)));
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// Returns the variables that a source file reads.
fn variables_of(name: &str, text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let literals = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split('"').skip(1).step_by(2));
    let literals: Vec<_> = if SET_VARIABLES.contains(&name) { Vec::new() } else { literals.collect() };
    let is_name = |text: &&str| {
        VARIABLE_PREFIXES.iter().any(|prefix| text.starts_with(prefix) && text.len() > prefix.len())
            && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            && !NO_VARIABLES.contains(text)
    };
    let mut found: Vec<_> = literals.into_iter().filter(is_name).map(str::to_owned).collect();
    // Those of both repositories are put together from the program's name and theirs.
    let suffixes = code.split("variable(prefix, \"").skip(1).filter_map(|rest| rest.split('"').next());
    found.extend(suffixes.flat_map(|suffix| [format!("MLVAULT_{suffix}"), format!("MLVAULT_TO_{suffix}")]));
    let others = code.split("variable(\"AWS\", \"").skip(1).filter_map(|rest| rest.split('"').next());
    found.extend(others.map(|suffix| format!("AWS_{suffix}")));
    found
}

/// Returns whether tests, benchmarks, scripts or the demo read a variable.
fn is_read_by_tools(variable: &str) -> bool {
    let folders = ["tests", "benches", "scripts", "demo", "docs", "fuzz"];
    let of_tools =
        |name: &str| (name.ends_with(".rs") || name.ends_with(".sh") || name.ends_with(".py")) && name != file!();
    let mut names: Vec<_> =
        folders.iter().flat_map(|folder| files_below(folder)).filter(|name| of_tools(name)).collect();
    names.push("Makefile".to_owned());
    names.iter().any(|name| read(name).contains(variable))
}

#[test]
fn configurations_on_the_pages_are_accepted_and_every_key_is_documented() {
    let mut offences = Vec::new();
    for page in pages() {
        let lines: Vec<_> = page.text.lines().collect();
        for block in page.blocks().into_iter().filter(|block| block.info == "toml") {
            let text = lines[block.lines.clone()].join("\n");
            if let Err(error) = ConfigFile::parse(&text) {
                offences.push(format!("{}:{}: {error}", page.name, block.lines.start));
            }
        }
    }
    let page = cli_page();
    let names = schema::keys().into_iter().filter_map(|key| {
        let name = key.rsplit('.').find(|part| *part != schema::ANY_NAME)?.to_owned();
        Some((key, name))
    });
    let missing = names.filter(|(_, name)| !page.text.contains(name));
    offences.extend(missing.map(|(key, _)| format!("{} lacks the key {key}", page.name)));
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn the_example_of_a_configuration_has_every_key() {
    let example = read("docs/mlvault.toml");
    ConfigFile::parse(&example).unwrap();
    let whole = schema::with_examples(&example);
    ConfigFile::parse(&whole).unwrap();
    let keys = schema::keys();
    assert!(keys.contains("deployment.*.artifacts.*") && keys.contains("policy.*.keep-last"), "{keys:?}");
    let has = schema::keys_in(&whole);
    let missing: Vec<_> = keys.difference(&has).collect();
    assert!(missing.is_empty(), "docs/mlvault.toml lacks {missing:?}");
    // What is set without taking a `#` away is read as it stands, so each key is there once at most.
    assert!(schema::keys_in(&example).is_subset(&has));
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let mut offences = Vec::new();
    for page in pages() {
        let folder = package().join(&page.name).parent().unwrap().to_owned();
        for (number, target) in page.links().into_iter().filter(|(_, target)| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { package().join(&page.name) } else { folder.join(path) };
            let has_anchor = || {
                let name = file.canonicalize().unwrap().strip_prefix(package()).unwrap().display().to_string();
                anchor.is_empty() || Page::read(&name).anchors().iter().any(|found| found == anchor)
            };
            if !file.exists() || !has_anchor() {
                offences.push(format!("{}:{number}: {target}", page.name));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// What the runbook says that mlvault says, it says; but for what the system says.
#[test]
fn what_mlvault_is_said_to_say_is_in_its_source() {
    const OF_THE_SYSTEM: &str = "No space left on device";
    let code: String =
        files_below("src").into_iter().filter(|name| name.ends_with(".rs")).map(|name| read(&name)).collect();
    let code = code.split_whitespace().collect::<Vec<_>>().join(" ").replace(" \\ ", " ");
    let page = Page::read("docs/operations.md");
    let table = rows(page.section("What mlvault says, and what to do"));
    let said: Vec<&str> = table.iter().flat_map(|row| quoted(row[0])).collect();
    assert!(said.len() > 8, "{said:?}");
    let unsaid: Vec<_> = said.iter().filter(|text| **text != OF_THE_SYSTEM && !code.contains(**text)).collect();
    assert!(unsaid.is_empty(), "{unsaid:?}");
}

/// A page that names a test promises that it is there.
#[test]
fn tests_that_the_pages_name_are_there() {
    let files = ["src", "tests"].iter().flat_map(|folder| files_below(folder));
    let code: String = files.filter(|name| name.ends_with(".rs")).map(|name| read(&name)).collect();
    let is_test = |name: &&str| {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        // Metrics have such names too, and a test of their own.
        let is_metric = name.starts_with("mlvault_");
        name.matches('_').count() > 3 && name.chars().all(is_name) && !is_metric
    };
    let mut offences = Vec::new();
    for page in pages() {
        let quoted = page.text.split('`').skip(1).step_by(2);
        let missing = quoted.filter(is_test).filter(|name| !code.contains(&format!("fn {name}(")));
        offences.extend(missing.map(|name| format!("{}: there is no test {name}", page.name)));
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn the_reading_of_pages_sees_what_it_looks_for() {
    assert_eq!(words("A=1 mlvault a 'b c' --x=\"y z\" # d"), ["A=1", "mlvault", "a", "b c", "--x=y z"]);
    assert_eq!(words("mlvault cat a b | c --d"), ["mlvault", "cat", "a", "b"]);
    let options = help::options(
        "  -q, --quiet  Print less\n      --set <A=B>  Override\n          [env:\n          MLVAULT_SET=]\n",
    );
    let expected = [("--quiet", None), ("--set", Some("MLVAULT_SET"))];
    assert!(options.iter().map(|(name, variable)| (name.as_str(), variable.as_deref())).eq(expected));
    let page = Page { name: "a".into(), text: "# A\n## B c\n| `x` | y |\n|---|---|\n| `--z` | `Z` |\n## D\n".into() };
    assert_eq!(page.anchors(), ["a", "b-c", "d"]);
    assert_eq!(rows(page.section("B")), [["`--z`", "`Z`"]]);
}

fn cli_page() -> Page {
    Page::read("docs/cli.md")
}

fn read(name: &str) -> String {
    fs::read_to_string(package().join(name)).unwrap()
}

/// Returns the files of the library and the program, with their text.
fn sources() -> Vec<(String, String)> {
    let names = files_below("src").into_iter().filter(|name| name.ends_with(".rs"));
    names.map(|name| (name.clone(), read(&name))).collect()
}

/// Returns the paths of all files in a folder of the package.
fn files_below(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![package().join(folder)];
    while let Some(folder) = folders.pop() {
        for found in fs::read_dir(folder).unwrap() {
            let path = found.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path.strip_prefix(package()).unwrap().display().to_string()),
            }
        }
    }
    files
}
