#!/usr/bin/env python3
"""Writes src/mlflow/releases.rs: which revision of the tracking schema each release of MLflow has as its head.

    scripts/mlflow_releases.py [FOLDER]

Asks PyPI for the releases, downloads each that FOLDER does not have yet (default ~/.cache/mlvault-releases; some 500 MB the
first time), and reads the migrations in it: nothing of it is run. Releases without migrations are left out. Run it when
MLflow has a new release, and look at what changed before you commit it.
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "src/mlflow/releases.rs"
MIGRATION = re.compile(r"^mlflow/store/db_migrations/versions/[^/]+\.py$")
REVISION = re.compile(r"""^revision(?:: str)? = ["']([0-9a-f]+)["']""", re.MULTILINE)
BEFORE = re.compile(r"""^down_revision(?:: [^=]+)? = (?:None|["']([0-9a-f]+)["'])""", re.MULTILINE)
HEAD = '''//! The revisions of MLflow's tracking schema, and which of them each release has: `scripts/mlflow_releases.py` writes this.

/// Alembic revisions of the tracking schema, in their order.
pub const REVISIONS: &[&str] = &[
{revisions}];

/// Releases with their head revision, in order.
pub const RELEASES: &[(&str, &str)] = &[
{releases}];
'''


def pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def releases() -> list[str]:
    listed = pip("index", "versions", "mlflow")
    versions = re.search(r"^Available versions: (.*)$", listed, re.MULTILINE).group(1).split(", ")
    return [version for version in reversed(versions) if not version.startswith("0.")]


def wheel(version: str, folder: Path) -> Path | None:
    """Returns the wheel of a release: the small one, where there is one."""
    for name in ["mlflow_skinny", "mlflow"]:
        found = list(folder.glob(f"{name}-{version}-*.whl"))
        if not found:
            requirement = f"{name.replace('_', '-')}=={version}"
            try:
                pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement)
            except subprocess.CalledProcessError:
                continue
            found = list(folder.glob(f"{name}-{version}*.whl"))
        if found:
            return found[0]
    print(f"{version}: PyPI has no wheel of it", file=sys.stderr)
    return None


def migrations(path: Path) -> dict[str, str | None]:
    """Returns the revisions in a wheel, each with the one before it."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in filter(MIGRATION.match, archive.namelist()):
            text = archive.read(name).decode()
            if revision := REVISION.search(text):
                found[revision.group(1)] = BEFORE.search(text).group(1)
    return found


def line(found: dict[str, str | None]) -> list[str]:
    """Returns the revisions in their order; fails if they are not one line."""
    after = {before: revision for revision, before in found.items()}
    ordered, at = [], None
    while at in after:
        at = after[at]
        ordered.append(at)
    if len(ordered) != len(found):
        raise SystemExit(f"the revisions are not one line: {sorted(set(found) - set(ordered))}")
    return ordered


def main() -> None:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlvault-releases"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)
    every, heads = [], []
    for version in releases():
        path = wheel(version, folder)
        ordered = line(migrations(path)) if path else []
        if not ordered:
            continue
        heads.append((version, ordered[-1]))
        if not set(ordered) <= set(every):
            if ordered[: len(every)] != every:
                raise SystemExit(f"{version} does not go on from the releases before it")
            every = ordered
        print(version, ordered[-1], file=sys.stderr)
    TABLE.write_text(
        HEAD.format(
            revisions="".join(f'    "{revision}",\n' for revision in every),
            releases="".join(f'    ("{version}", "{head}"),\n' for version, head in heads),
        )
    )


main()
