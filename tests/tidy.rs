//! Checks on the code itself: who may import whom, where each third-party crate is at home, and how files look.

mod structure;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Third-party crates with few homes: the files, or folders, that may name them.
const HOMES: [(&str, &[&str]); 46] = [
    ("aes_gcm", &["src/crypto/seal.rs"]),
    ("argon2", &["src/crypto/passphrase.rs"]),
    ("aws_config", &["src/s3/"]),
    ("aws_credential_types", &["src/s3/"]),
    ("aws_lc_rs", &["src/crypto/model_key.rs", "src/database/", "src/http.rs", "src/s3/"]),
    ("aws_sdk_s3", &["src/s3/"]),
    ("aws_smithy_http_client", &["src/s3/"]),
    ("aws_smithy_runtime_api", &["src/s3/"]),
    ("aws_smithy_types", &["src/s3/"]),
    ("aws_types", &["src/s3/"]),
    (
        "blake3",
        &[
            "src/crypto/",
            "src/format/",
            "src/chunker/",
            "src/repository/",
            "src/chunks/",
            "src/trees/",
            "src/backup/",
            "src/restore/",
            "src/target/bucket.rs",
            "src/check/",
            "src/repair/objects.rs",
            "src/diff/live.rs",
            "src/procedures/drill/",
            "src/dump.rs",
            "src/sql/",
        ],
    ),
    ("clap", &["src/cli/"]),
    ("clap_complete", &["src/cli/completions.rs"]),
    ("clap_mangen", &["src/cli/man.rs"]),
    ("crossbeam_channel", &["src/backup/file_under_way.rs", "src/backup/pipeline.rs", "src/chunks/", "src/trees/"]),
    ("ed25519_dalek", &["src/crypto/sign.rs"]),
    ("fastcdc", &["src/chunker/"]),
    ("futures_util", &["src/kubernetes/"]),
    ("globset", &["src/globs.rs"]),
    ("hpke", &["src/crypto/keys.rs"]),
    ("http_body_util", &["src/http_server.rs"]),
    ("hyper", &["src/http_server.rs"]),
    ("hyper_rustls", &["src/s3/"]),
    ("hyper_util", &["src/s3/", "src/http_server.rs"]),
    ("indicatif", &["src/cli/progress.rs"]),
    ("k8s_openapi", &["src/kubernetes/"]),
    ("kube", &["src/kubernetes/"]),
    ("lettre", &["src/notify/smtp.rs"]),
    ("prometheus_client", &["src/status/metrics.rs"]),
    ("maud", &["src/page/", "src/audit/", "src/status/report/"]),
    ("rocksdb", &["src/index/rocks.rs"]),
    ("percent_encoding", &["src/database/", "src/mlflow/", "src/s3/", "src/tracking/"]),
    ("postgres", &["src/database/"]),
    ("rpassword", &["src/config/credential.rs"]),
    ("rusqlite", &["src/database/"]),
    ("rustls", &["src/s3/", "src/database/", "src/tls.rs", "src/http.rs"]),
    ("rustls_native_certs", &["src/database/", "src/http.rs"]),
    ("sha2", &["src/crypto/"]),
    ("signal_hook", &["src/cli/context.rs"]),
    ("tar", &["src/dump.rs"]),
    ("tokio", &["src/s3/", "src/http_server.rs", "src/kubernetes/", "src/runtime.rs"]),
    ("tokio_postgres_rustls", &["src/database/"]),
    ("toml", &["src/config/file.rs", "src/config/origins.rs"]),
    ("ureq", &["src/http.rs", "src/notify/call.rs", "src/tracking/"]),
    ("url", &["src/config/", "src/database/", "src/http.rs", "src/mlflow/", "src/notify/call.rs", "src/tracking/"]),
    ("zstd", &["src/compress.rs"]),
];
/// Layers whose modules may import each other: vocabulary and transforms.
const LAYERS_WITHOUT_INNER_ORDER: u8 = 1;
/// Longest source file, in lines.
const LINES_MAX: usize = 700;
/// What must not be left in the code.
const UNFINISHED: [&str; 5] = ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("];
/// What writes to standard output, and the only file that may. Printing macros are for clippy to find.
const STANDARD_OUTPUT: &str = "io::stdout";
const STANDARD_OUTPUT_HOME: &str = "src/cli/output.rs";

/// Most arguments of a function; `self` is none, and the members of a tuple are one each.
const ARGUMENTS_MAX: usize = 5;

struct SourceFile {
    /// Path from the package's folder.
    name: String,
    text: String,
}

impl SourceFile {
    /// Returns the lines without comments, and without what is in string literals.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.text.lines().enumerate().map(|(number, line)| (number + 1, without_strings_and_comments(line)))
    }

    /// Returns the top module that the file belongs to; none for `lib.rs` and `main.rs`.
    fn module(&self) -> Option<&str> {
        let inner = self.name.strip_prefix("src/")?;
        let module = inner.split('/').next()?.trim_end_matches(".rs");
        (!matches!(module, "lib" | "main")).then_some(module)
    }
}

fn without_strings_and_comments(line: &str) -> String {
    let mut code = String::new();
    let mut rest = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = rest.next() {
        match c {
            '\\' if in_string => drop(rest.next()),
            '"' => in_string = !in_string,
            '/' if !in_string && rest.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(c),
        }
    }
    code
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str) -> Vec<SourceFile> {
    let mut files = Vec::new();
    let mut folders = vec![package().join(folder)];
    while let Some(folder) = folders.pop() {
        for found in fs::read_dir(folder).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(read(path));
            }
        }
    }
    assert!(!files.is_empty());
    files
}

fn read(path: PathBuf) -> SourceFile {
    let name = path.strip_prefix(package()).unwrap().display().to_string();
    SourceFile { name, text: fs::read_to_string(path).unwrap() }
}

/// Reads the table of layers in the head of `src/lib.rs`.
fn layers() -> BTreeMap<String, u8> {
    let head = fs::read_to_string(package().join("src/lib.rs")).unwrap();
    let mut layers = BTreeMap::new();
    for row in head.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let Some(layer) = row.split(' ').next().and_then(|number| number.parse().ok()) else { continue };
        let names = row.split("[`").skip(1).filter_map(|rest| rest.split("`]").next());
        layers.extend(names.map(|name| (name.trim_start_matches("mod@").to_owned(), layer)));
    }
    layers
}

/// Returns the modules that a line names as `crate::module`.
fn named_modules(code: &str) -> impl Iterator<Item = &str> {
    code.split("crate::").skip(1).filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
}

fn names_crate(code: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let is_path_root = before.is_none_or(|c| !is_word(c) && c != ':');
        is_path_root && (after.starts_with("::") || (code.trim_start().starts_with("use ") && after.starts_with(';')))
    })
}

fn assert_none(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

/// The targets are compiled with the tests, too, where they find every crate of ours; cargo-fuzz gives them only their own.
#[test]
fn the_crate_of_fuzz_targets_names_what_they_use() {
    let read = |name: &str| fs::read_to_string(package().join(name)).unwrap();
    let crates = |manifest: &str| -> Vec<String> {
        let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
        let own = rest.lines().take_while(|line| !line.starts_with('['));
        own.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_")).collect()
    };
    let named = crates(&read("fuzz/Cargo.toml"));
    let code: String = ["fuzz/targets.rs", "fuzz/seeds.rs", "fuzz/outside.rs"].map(read).concat();
    let is_used = |name: &String| {
        let path = format!("{name}::");
        code.match_indices(&path)
            .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
    };
    let missing: Vec<_> =
        crates(&read("Cargo.toml")).into_iter().filter(|name| is_used(name) && !named.contains(name)).collect();
    assert!(missing.is_empty(), "not in fuzz/Cargo.toml: {missing:?}");
}

#[test]
fn every_module_of_the_library_has_a_layer() {
    let layers = layers();
    let lib = fs::read_to_string(package().join("src/lib.rs")).unwrap();
    let declared: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let without_layer: Vec<_> = declared.iter().filter(|module| !layers.contains_key(**module)).collect();
    assert!(without_layer.is_empty(), "not in the table of src/lib.rs: {without_layer:?}");
    assert_eq!(layers.len(), declared.len());
}

#[test]
fn modules_import_only_from_the_layers_below_them() {
    let layers = layers();
    let mut offences = Vec::new();
    for file in files("src") {
        let Some((module, layer)) = file.module().and_then(|module| Some((module, *layers.get(module)?))) else {
            continue;
        };
        for (number, code) in file.code() {
            for other in named_modules(&code).filter(|other| *other != module) {
                let is_below = layers.get(other).is_none_or(|other| *other < layer);
                let is_beside = layers.get(other) == Some(&layer) && layer <= LAYERS_WITHOUT_INNER_ORDER;
                if !is_below && !is_beside {
                    offences.push(format!("{}:{number}: {module} may not import {other}", file.name));
                }
            }
        }
    }
    assert_none(offences);
}

#[test]
fn no_two_files_of_a_folder_need_each_other() {
    let circles = structure::circles(&files("src"));
    assert_none(circles.into_iter().map(|circle| format!("a circle of imports in {circle}")).collect());
}

#[test]
fn functions_take_few_arguments() {
    let mut offences = Vec::new();
    for file in files("src") {
        let above = structure::functions(&file).into_iter().filter(|(_, count)| *count > ARGUMENTS_MAX);
        offences.extend(above.map(|(function, count)| format!("{}:{function} takes {count} arguments", file.name)));
    }
    assert_none(offences);
}

#[test]
fn third_party_crates_stay_at_home() {
    let mut offences = Vec::new();
    for file in files("src") {
        for (number, code) in file.code() {
            for (name, homes) in HOMES {
                let is_at_home = homes.iter().any(|home| file.name.starts_with(home));
                if !is_at_home && names_crate(&code, name) {
                    offences.push(format!("{}:{number}: {name} is at home in {}", file.name, homes.join(", ")));
                }
            }
        }
    }
    assert_none(offences);
}

#[test]
fn every_file_says_what_it_is_and_is_not_too_long() {
    let mut offences = Vec::new();
    for file in files("src").into_iter().chain(files("tests")) {
        if !file.text.starts_with("//! ") {
            offences.push(format!("{}: its first line is not //!", file.name));
        }
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            offences.push(format!("{}: it has {lines} lines, more than {LINES_MAX}", file.name));
        }
    }
    assert_none(offences);
}

#[test]
fn nothing_unfinished_is_left() {
    let mut offences = Vec::new();
    let this_file = file!();
    for file in files("src").into_iter().chain(files("tests")).filter(|file| file.name != this_file) {
        for (number, line) in file.text.lines().enumerate() {
            if UNFINISHED.iter().any(|word| line.contains(word)) {
                offences.push(format!("{}:{}: {}", file.name, number + 1, line.trim()));
            }
        }
    }
    assert_none(offences);
}

#[test]
fn the_program_writes_to_standard_output_in_one_place() {
    let mut offences = Vec::new();
    for file in files("src").into_iter().filter(|file| file.name != STANDARD_OUTPUT_HOME) {
        for (number, code) in file.code() {
            if code.contains(STANDARD_OUTPUT) {
                offences.push(format!("{}:{number}: it writes to standard output", file.name));
            }
        }
    }
    assert_none(offences);
}

#[test]
fn no_test_file_is_forgotten() {
    let suite = fs::read_to_string(package().join("tests/suite.rs")).unwrap();
    for file in files("tests").into_iter().filter(|file| file.name.matches('/').count() == 1) {
        let module = file.name.trim_start_matches("tests/").trim_end_matches(".rs");
        let is_declared = suite.lines().any(|line| line == format!("mod {module};"));
        assert!(is_declared || module == "suite", "tests/suite.rs does not declare {module}");
    }
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(
        named_modules("use crate::backup::{FILES}; crate::restore::run()").collect::<Vec<_>>(),
        ["backup", "restore"]
    );
    assert!(
        names_crate("use tar::Builder;", "tar") && names_crate("use tar;", "tar") && names_crate("x(tar::a)", "tar")
    );
    assert!(
        !names_crate("crate::tar::x", "tar") && !names_crate("start::x", "tar") && !names_crate("target::x", "tar")
    );
    assert_eq!(without_strings_and_comments(r#"a("crate::x \" y") // crate::z"#), "a() ");
    assert_eq!(layers().get("repository"), Some(&4));
}
