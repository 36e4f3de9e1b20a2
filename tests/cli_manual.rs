//! What the program says of itself: version, completions, manual pages. Shells and `man` read them where they are installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::docs::help;
use super::support::cli::Runner;

#[test]
fn the_version_names_commit_target_and_format() {
    let runner = Runner::without_repository();
    let short = runner.run(["-V"]).expect(0).text();
    assert_eq!(short.trim_end(), concat!("mlvault ", env!("CARGO_PKG_VERSION")));
    let long = runner.run(["--version"]).expect(0).text();
    let lines: Vec<_> = long.lines().collect();
    assert!(lines[0].starts_with(&format!("{} (commit ", short.trim_end())), "{long}");
    assert!(lines[1].starts_with("target ") && lines[1].contains("linux"), "{long}");
    assert_eq!(lines[2..], ["repository format 2"]);
}

#[test]
fn completions_are_made_for_each_shell_without_any_setting() {
    let runner = Runner::without_repository();
    fs::write(runner.path("broken.toml"), "no settings").unwrap();
    let broken = runner.path("broken.toml").display().to_string();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = runner.run(["completions", shell, "--config", &broken]).expect(0).text();
        assert!(script.contains("snapshots") && script.contains("read-data"), "{shell}: {script}");
        let document = runner.run(["completions", shell, "--json"]).expect(0).json();
        assert_eq!(document["script"].as_str().unwrap().trim_end(), script.trim_end());
        // Only what is there can be asked; bash always is.
        let can_read = ["bash", "zsh", "fish"].contains(&shell) && find(shell);
        if can_read {
            fs::write(runner.path(shell), &script).unwrap();
            let read = Command::new(shell).arg("-n").arg(runner.path(shell)).output().unwrap();
            assert!(read.status.success() && read.stderr.is_empty(), "{shell}: {read:?}");
        }
    }
    runner.run(["completions", "no-shell"]).expect(2);
}

#[test]
fn every_command_has_a_manual_page_that_can_be_read() {
    let runner = Runner::without_repository();
    let directory = runner.path("made/man1");
    let made = runner.run(["man", "--out", &directory.display().to_string(), "--json"]).expect(0).json();
    let names = help::all().into_iter().map(|help| format!("mlvault {}", help.name).trim().replace(' ', "-"));
    let expected: BTreeSet<_> = names.map(|name| directory.join(name + ".1").display().to_string()).collect();
    let pages: BTreeSet<_> =
        made["pages"].as_array().unwrap().iter().map(|page| page.as_str().unwrap().to_owned()).collect();
    assert_eq!(pages, expected);
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for head in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
            assert!(text.contains(head), "{page} has no {head}:\n{text}");
        }
        let source = concat!("\"mlvault ", env!("CARGO_PKG_VERSION"), "\"");
        let title = text.lines().find(|line| line.starts_with(".TH ")).unwrap();
        assert!(title.contains(source), "{title}");
        assert_no_complaints(Path::new(page));
    }
    let alone = runner.run(["man", "repair", "packs"]).expect(0).text();
    let written = fs::read_to_string(directory.join("mlvault-repair-packs.1")).unwrap();
    assert_eq!(alone.trim_end(), written.trim_end());
    runner.run(["man", "repair", "nothing"]).expect(2);
}

/// Lets groff, which `man` uses, read a page, where it is there.
fn assert_no_complaints(page: &Path) {
    if find("groff") {
        let read = Command::new("groff").args(["-man", "-ww", "-Tutf8", "-z", "-k"]).arg(page).output().unwrap();
        assert!(read.status.success() && read.stderr.is_empty(), "{page:?}: {}", String::from_utf8_lossy(&read.stderr));
    }
}

fn find(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
