//! `mlvault audit evidence` and `mlvault audit verify`: what a bundle proves, and to whom.
//!
//! What must stay true: a bundle is verified without repository and key, by mlvault, by a script that shares no code with it, and
//! the signature in it by OpenSSF's own tool; whatever was altered in a bundle is refused; nothing of other files is in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mlvault::audit::evidence::{ENVELOPE, MODEL_KEY, MODEL_SIGNATURE, RECORD, REPORT, STATEMENT, TIMESTAMP, verify};
use mlvault::format::bundle::{self, Parts};
use serde_json::Value;

use crate::audit_history::Registry;
use crate::report::browse;
use crate::status::run;
use crate::support::cli::{Outcome, Runner, finish};
use crate::support::tool;

const WEIGHTS: &str = "weights of the first version";

/// A registry with a snapshot, and a bundle about a version in it.
struct Case {
    registry: Registry,
    bundle: PathBuf,
    pin: String,
}

impl Case {
    fn create() -> Self {
        let registry = Registry::create(&["production"]);
        fs::write(
            registry.file("production", "secret-neighbour.txt").parent().unwrap().join("../secret-of-others"),
            "x",
        )
        .unwrap();
        registry.backup("production");
        let bundle = registry.runner.path("evidence.zip");
        let made = evidence(&registry.runner, &bundle, &[]).expect(0).json();
        let pin = made["pin"].as_str().unwrap().to_owned();
        Self { registry, bundle, pin }
    }

    fn runner(&self) -> &Runner {
        &self.registry.runner
    }

    /// Restores the version the way a user does.
    fn restored(&self) -> PathBuf {
        let target = self.runner().path("restored");
        let arguments = ["restore", "--model", "fraud", "--version", "1", "--target", target.to_str().unwrap()];
        run(self.runner(), &arguments).expect(0);
        target
    }

    fn parts(&self) -> Parts {
        bundle::decode(&fs::read(&self.bundle).unwrap()).unwrap()
    }

    /// Writes a bundle with one part altered, and returns what mlvault and the script say of it.
    fn altered(&self, name: &str, alter: impl Fn(Vec<u8>) -> Vec<u8>) -> [String; 2] {
        let mut parts = self.parts();
        let part = alter(parts.remove(name).unwrap_or_default());
        parts.insert(name.to_owned(), part);
        let path = self.runner().path("altered.zip");
        fs::write(&path, bundle::encode(&parts).unwrap()).unwrap();
        [
            verify_with(&path, &["--pin", &self.pin]).expect(1).stderr,
            script(&path, &["--pin", &self.pin]).expect(1).stderr,
        ]
    }
}

fn evidence(runner: &Runner, out: &Path, more: &[&str]) -> Outcome {
    let arguments =
        ["audit", "evidence", "--model", "fraud", "--version", "1", "--json", "--out", out.to_str().unwrap()];
    run(runner, &[&arguments[..], more].concat())
}

/// Runs the program where there is neither a repository nor a key, nor a network.
fn verify_with(bundle: &Path, more: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlvault"));
    command.env_clear().current_dir("/").args(["audit", "verify"]).arg(bundle).args(more);
    finish(&mut command)
}

fn script(bundle: &Path, more: &[&str]) -> Outcome {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/verify_evidence.py");
    finish(Command::new(tool("python")).arg("-B").arg(script).arg(bundle).args(more))
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn a_bundle_is_verified_by_mlvault_and_by_a_script_without_repository_and_key() {
    let case = Case::create();
    let restored = case.restored();
    fs::rename(case.runner().path("repo"), case.runner().path("gone")).unwrap();
    let (pin, target) = (["--pin", case.pin.as_str()], ["--target", restored.to_str().unwrap()]);
    let told = verify_with(&case.bundle, &[&pin[..], &target, &["--json"]].concat()).expect(0).json();
    assert_eq!((told["pinned"].as_bool(), told["files"].as_array().unwrap().len()), (Some(true), 2), "{told:#}");
    assert_eq!(told["facts"]["aliases"], serde_json::json!(["champion"]), "{told:#}");
    let text = verify_with(&case.bundle, &target).expect(3).text();
    assert!(text.contains("NOT COMPARED") && text.contains("All files are there"), "{text}");
    assert!(script(&case.bundle, &[&pin[..], &target].concat()).expect(0).text().contains("Proved"));
    let root = json(&case.parts()[STATEMENT])["predicate"]["root_key"].as_str().unwrap().to_owned();
    script(&case.bundle, &["--root-key", &root]).expect(0);
    script(&case.bundle, &["--root-key", &"0".repeat(64)]).expect(1);

    fs::write(restored.join("model.bin"), "other weights").unwrap();
    fs::write(restored.join("more.py"), "import os").unwrap();
    fs::remove_file(restored.join("MLmodel")).unwrap();
    let told = verify_with(&case.bundle, &[&pin[..], &target, &["--json"]].concat()).expect(4).json();
    let expected = serde_json::json!({"altered": ["model.bin"], "missing": ["MLmodel"], "more": ["more.py"]});
    assert_eq!(told["differences"], expected, "{told:#}");
    script(&case.bundle, &[&pin[..], &target].concat()).expect(1);
    assert!(
        verify_with(&case.bundle, &["--pin", &"0".repeat(32)]).expect(1).stderr.contains("not of that with the pin")
    );
}

#[test]
fn openssf_model_signing_verifies_the_signature_in_a_bundle() {
    let case = Case::create();
    let restored = case.restored();
    for (name, content) in case.parts() {
        if [MODEL_SIGNATURE, MODEL_KEY].contains(&name.as_str()) {
            fs::write(case.runner().path(&name), content).unwrap();
        }
    }
    let check = || {
        let mut command = Command::new(tool("model_signing"));
        command.args(["verify", "key"]).arg(&restored).arg("--signature").arg(case.runner().path(MODEL_SIGNATURE));
        command.arg("--public_key").arg(case.runner().path(MODEL_KEY)).env("HOME", case.runner().path("home"));
        finish(&mut command)
    };
    let verified = check().expect(0);
    assert!((verified.text() + &verified.stderr).contains("Verification succeeded"), "{verified:?}");
    fs::write(restored.join("model.bin"), "other weights").unwrap();
    let refused = check();
    assert!(refused.code != Some(0) && (refused.text() + &refused.stderr).contains("model.bin"), "{refused:?}");
}

#[test]
fn whatever_is_altered_in_a_bundle_is_refused() {
    let case = Case::create();
    let flip = |at: usize| {
        move |mut part: Vec<u8>| {
            let at = at.min(part.len() - 1);
            part[at] ^= 1;
            part
        }
    };
    for part in [ENVELOPE, STATEMENT, RECORD] {
        for at in [10, 400, usize::MAX] {
            let [mlvault, script] = case.altered(part, flip(at));
            assert!(
                mlvault.contains("It proves nothing") && script.contains("It proves nothing"),
                "{part} {at}: {mlvault} {script}"
            );
        }
    }
    let mut parts = case.parts();
    parts.insert(MODEL_SIGNATURE.to_owned(), b"{}".to_vec());
    assert!(verify::open_parts(&parts).err().unwrap().to_string().contains("model.sig"));
    parts.remove(MODEL_SIGNATURE);
    assert!(verify::open_parts(&parts).is_err());

    // Truncated, prolonged, compressed, with a part twice, and with names that lead out.
    let bytes = fs::read(&case.bundle).unwrap();
    let path = case.runner().path("hostile.zip");
    let refused = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let said = verify_with(&path, &["--pin", &case.pin]).expect(1).stderr;
        assert!(said.contains("It proves nothing: the bundle"), "{said}");
    };
    refused(&bytes[..bytes.len() / 2]);
    refused(&[&bytes[..], b"x"].concat());
    refused(b"");
    let hostile = "import sys, warnings, zipfile
warnings.simplefilter('ignore')
source, out, how = sys.argv[1:]
parts = {info.filename: zipfile.ZipFile(source).read(info) for info in zipfile.ZipFile(source).infolist()}
with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED if how == 'bomb' else zipfile.ZIP_STORED) as bundle:
    for name, content in parts.items():
        bundle.writestr(zipfile.ZipInfo(name), content)
    if how == 'bomb':
        bundle.writestr('bomb', bytes(1 << 28))
    if how == 'twice':
        bundle.writestr(zipfile.ZipInfo('statement.json'), b'{}')
    if how == 'path':
        bundle.writestr(zipfile.ZipInfo('../../etc/passwd'), b'x')
";
    for how in ["bomb", "twice", "path"] {
        let arguments = ["-c", hostile, case.bundle.to_str().unwrap(), path.to_str().unwrap(), how];
        finish(Command::new(tool("python")).args(arguments)).expect(0);
        refused(&fs::read(&path).unwrap());
    }
}

#[test]
fn a_bundle_of_another_root_key_or_another_snapshot_is_told_apart() {
    let (case, other) = (Case::create(), Case::create());
    let said = verify_with(&other.bundle, &["--pin", &case.pin]).expect(1).stderr;
    assert!(said.contains("not of that with the pin"), "{said}");
    script(&other.bundle, &["--pin", &case.pin]).expect(1);

    // The record of another snapshot, signed by the same key, does not cover what this statement says.
    case.registry.write("production", "weights of another day");
    case.registry.backup("production");
    let later = case.runner().path("later.zip");
    evidence(case.runner(), &later, &[]).expect(0);
    let record = bundle::decode(&fs::read(later).unwrap()).unwrap()[RECORD].clone();
    let [mlvault, script] = case.altered(RECORD, |_| record.clone());
    assert!(mlvault.contains("signature is wrong") && script.contains("signature"), "{mlvault} {script}");
}

#[test]
fn an_auditor_gets_evidence_without_reading_content_and_nobody_learns_of_other_files() {
    let case = Case::create();
    let runner = case.runner();
    let key = runner.path("auditor");
    let add = ["key", "add", "--label", "auditor", "--role", "auditor", "--new-key-file", key.to_str().unwrap()];
    run(runner, &add).expect(0);
    fs::remove_dir_all(runner.path("repo/packs/data")).unwrap();
    let bundle = runner.path("auditor.zip");
    let made = evidence(runner, &bundle, &["--key-file", key.to_str().unwrap()]).expect(0).json();
    assert_eq!(
        (made["has_sha256"].as_bool(), &made["files"][0]["digest"]["sha256"]),
        (Some(false), &Value::Null),
        "{made:#}"
    );
    let told = verify_with(&bundle, &["--pin", &case.pin]).expect(0).text();
    assert!(told.contains("the content was not read"), "{told}");
    script(&bundle, &["--pin", &case.pin]).expect(0);
    // With the content gone, a reader's key cannot vouch for it.
    evidence(runner, &runner.path("none.zip"), &[]).expect(1);

    let all: Vec<u8> = case.parts().into_values().flatten().collect();
    let neighbour = b"secret-of-others";
    assert!(!all.windows(neighbour.len()).any(|window| window == neighbour));
    let statement = json(&case.parts()[STATEMENT]);
    let digest = blake3::hash(WEIGHTS.as_bytes()).to_string();
    let subjects: BTreeMap<_, _> = statement["subject"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["name"].as_str().unwrap(), &it["digest"]))
        .collect();
    assert_eq!(subjects["model.bin"]["blake3"], digest.as_str(), "{statement:#}");
}

#[test]
fn a_run_has_evidence_too_and_the_report_inside_is_a_page() {
    let case = Case::create();
    let runner = case.runner();
    let bundle = runner.path("run.zip");
    let arguments = ["audit", "evidence", "--run", "abc", "--out", bundle.to_str().unwrap()];
    run(runner, &arguments).expect(0);
    assert!(verify_with(&bundle, &["--pin", &case.pin]).expect(0).text().contains("run abc"));
    let page = runner.path("report.html");
    fs::write(&page, &case.parts()[REPORT]).unwrap();
    let dom = browse(&page, &["--dump-dom"]);
    assert!(dom.contains("What is not proved") && dom.contains("model fraud, version 1"), "{dom}");
    run(runner, &["audit", "evidence", "--model", "fraud", "--version", "9", "--out", "x"]).expect(1);
    run(runner, &["audit", "evidence", "--model", "fraud", "--out", "x"]).expect(2);
}

#[test]
fn an_old_version_is_restored_and_proved_after_a_prune_a_copy_and_the_removal_of_its_key() {
    let registry = Registry::create(&["production"]);
    let runner = &registry.runner;
    let path = |name: &str| runner.path(name).display().to_string();
    let add = ["key", "add", "--label", "cron", "--role", "writer", "--new-key-file", &path("cron")];
    run(runner, &add).expect(0);
    runner.settle();
    let backup = ["backup", "--deployment", "production", "--key-file", &path("cron"), "--json"];
    let old = run(runner, &backup).expect(0).json()["snapshot"].as_str().unwrap().to_owned();
    let after = jiff::Timestamp::now().to_string();
    registry.write("production", "weights of another day");
    let middle = registry.backup("production");
    registry.sql("production", "UPDATE model_versions SET current_stage = 'Archived';");
    registry.backup("production");
    run(runner, &["forget", &middle, "--prune"]).expect(0);
    run(runner, &["key", "remove", "cron"]).expect(0);
    let asked = ["--model", "fraud", "--version", "1", "--as-of", &after];
    let is_right = |place: &str, more: &[&str]| {
        let (target, bundle) = (path(&format!("{place}-restored")), path(&format!("{place}.zip")));
        run(runner, &[&["restore", "--target", &target][..], &asked, more].concat()).expect(0);
        assert_eq!(fs::read_to_string(Path::new(&target).join("model.bin")).unwrap(), WEIGHTS);
        let arguments = [&["audit", "evidence", "--out", &bundle, "--json"][..], &asked, more].concat();
        let made = run(runner, &arguments).expect(0).json();
        let pin = made["pin"].as_str().unwrap();
        let told = verify_with(Path::new(&bundle), &["--pin", pin, "--target", &target, "--json"]).expect(0).json();
        script(Path::new(&bundle), &["--pin", pin, "--target", &target]).expect(0);
        told
    };
    let told = is_right("here", &[]);
    assert_eq!((&told["snapshot"], &told["signed_by"]["label"]), (&old.into(), &"cron".into()), "{told:#}");
    run(runner, &["init", "--repo", &path("copy")]).expect(0);
    run(runner, &["copy", "--all", "--to", &path("copy"), "--to-key-file", &path("key")]).expect(0);
    let told = is_right("copy", &["--repo", &path("copy")]);
    assert_eq!(told["signed_by"]["role"], "maintainer", "{told:#}");
}

/// A time stamp authority: what `openssl ts` answers, through a server of one request after the other.
const AUTHORITY: &str = "import http.server, subprocess, sys
folder = sys.argv[1]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        open(folder + '/query.tsq', 'wb').write(body)
        command = ['openssl', 'ts', '-reply', '-queryfile', 'query.tsq', '-config', 'ts.cnf', '-out', 'answer.tsr']
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        answer = open(folder + '/answer.tsr', 'rb').read()
        self.send_response(200)
        self.send_header('Content-Type', 'application/timestamp-reply')
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
";
const AUTHORITY_CONFIG: &str = "[tsa]
default_tsa = one
[one]
serial = serial
crypto_device = builtin
signer_cert = authority.pem
certs = authority.pem
signer_key = key.pem
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
[usage]
extendedKeyUsage = critical,timeStamping
";

/// A running authority in a folder, which ends with it.
struct Authority {
    process: std::process::Child,
    url: String,
    folder: PathBuf,
}

impl Authority {
    fn start(folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("ts.cnf"), AUTHORITY_CONFIG).unwrap();
        fs::write(folder.join("serial"), "01\n").unwrap();
        let make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out authority.pem -days 2 -subj /CN=authority \
                    -addext extendedKeyUsage=critical,timeStamping";
        finish(Command::new("sh").args(["-c", make]).current_dir(folder)).expect(0);
        let mut command = Command::new(tool("python"));
        command
            .args(["-c", AUTHORITY])
            .arg(folder)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut port = String::new();
        let out = process.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut port).unwrap();
        let url = format!("http://127.0.0.1:{}/", port.trim());
        Self { process, url, folder: folder.to_owned() }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_time_stamp_of_an_authority_is_verified_by_openssl() {
    let case = Case::create();
    let authority = Authority::start(&case.runner().path("authority"));
    let bundle = case.runner().path("stamped.zip");
    evidence(case.runner(), &bundle, &["--timestamp-url", &authority.url]).expect(0);
    let told = verify_with(&bundle, &["--pin", &case.pin, "--json"]).expect(0).json();
    assert!(told["stamped"].is_string(), "{told:#}");
    script(&bundle, &["--pin", &case.pin]).expect(0);
    let parts = bundle::decode(&fs::read(&bundle).unwrap()).unwrap();
    for name in [TIMESTAMP, ENVELOPE] {
        fs::write(authority.folder.join(name), &parts[name]).unwrap();
    }
    let check = || {
        let arguments = ["ts", "-verify", "-in", TIMESTAMP, "-data", ENVELOPE, "-CAfile", "authority.pem"];
        finish(Command::new("openssl").args(arguments).current_dir(&authority.folder))
    };
    let verified = check().expect(0);
    assert!((verified.text() + &verified.stderr).contains("Verification: OK"), "{verified:?}");
    fs::write(authority.folder.join(ENVELOPE), "{}").unwrap();
    assert_ne!(check().code, Some(0));

    // The stamp of another bundle, and one that nobody can read.
    let mut parts = case.parts();
    parts.insert(TIMESTAMP.to_owned(), bundle::decode(&fs::read(&bundle).unwrap()).unwrap()[TIMESTAMP].clone());
    assert!(verify::open_parts(&parts).err().unwrap().to_string().contains("it is of something else"));
    parts.insert(TIMESTAMP.to_owned(), b"junk".to_vec());
    assert!(verify::open_parts(&parts).is_err());
    let nobody = evidence(case.runner(), &bundle, &["--timestamp-url", "http://127.0.0.1:1/"]).expect(1);
    assert!(nobody.stderr.contains("gave no time stamp"), "{}", nobody.stderr);
}
