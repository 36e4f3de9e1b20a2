//! The image of `deploy/Dockerfile`, built with buildah on a Debian that setup has made, with the program that is tested in place
//! of the one that its first stage would compile.
//!
//! Only where the tests run as root, which buildah needs without a range of user ids; and it takes packages from Debian's servers.

use std::fs;
use std::process::Command;

use rustix::process::geteuid;
use tempfile::TempDir;

use crate::support::cli::finish;
use crate::support::kubernetes::helm::deploy;
use crate::support::tools;

/// buildah with a storage of its own.
struct Buildah(TempDir);

impl Buildah {
    /// Runs a command, which must succeed, and returns what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("buildah");
        let path = |name: &str| self.0.path().join(name);
        command.arg("--root").arg(path("storage")).arg("--runroot").arg(path("run")).args(arguments);
        // Namespaces and overlays are not needed, and not there in every place where tests run.
        command.env("STORAGE_DRIVER", "vfs").env("BUILDAH_ISOLATION", "chroot").env("TMPDIR", self.0.path());
        finish(&mut command).expect(0).text().trim().to_owned()
    }
}

#[test]
fn the_image_runs_the_program_and_postgresqls_tools_as_nobody_special() {
    if !geteuid().is_root() {
        return;
    }
    let buildah = Buildah(TempDir::new().unwrap());
    let base = buildah.run(&["from", "scratch"]);
    buildah.run(&["add", &base, tools().join("kubernetes/debian.tar").to_str().unwrap(), "/"]);
    buildah.run(&["commit", "--rm", &base, "localhost/debian"]);
    let program = buildah.0.path().join("program");
    fs::create_dir(&program).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_mlvault"), program.join("mlvault")).unwrap();
    let stage = format!("build={}", program.display());
    let (file, source) = (deploy("Dockerfile"), env!("CARGO_MANIFEST_DIR"));
    let base =
        ["--build-arg", "DEBIAN_IMAGE=localhost/debian", "--build-context", &stage, "--tag", "localhost/mlvault"];
    buildah.run(&[&["build", "--file", file.to_str().unwrap()], &base[..], &[source]].concat());
    let image = buildah.run(&["from", "localhost/mlvault"]);
    let inside = |command: &[&str]| buildah.run(&[&["run", &image, "--"], command].concat());
    assert_eq!(inside(&["id", "-u"]), "65532");
    assert!(inside(&["mlvault", "-V"]).starts_with("mlvault "));
    assert!(inside(&["pg_dump", "--version"]).starts_with("pg_dump (PostgreSQL) 1"));
    let configured =
        buildah.run(&["inspect", "--format", "{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.User}}", &image]);
    assert_eq!(configured, "[mlvault] 65532:65532");
}
