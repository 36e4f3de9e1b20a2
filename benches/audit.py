#!/usr/bin/env python3
"""Measures what it costs to answer an auditor: the history of a model, and evidence about a version.

    audit.py                       400 snapshots of 1,000 versions (about 15 minutes)
    audit.py --snapshots 50 --versions 100

A registry in SQLite has a model with many versions. Each night there is one more version, with a run, and the alias moves on. It is
backed up into a bucket of an S3 server (moto). Then the history of one version, that of the whole model, and evidence about a
version are timed and their requests counted, with the cache that the backups made and without one.

Needs what `scripts/setup.sh test` installs.
"""

import argparse
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no cache of the next import in the source tree
import deployment as bench

TIMES = 1_700_000_000_000


def add_version(database, artifacts, number):
    run = f"{number:032x}"
    folder = artifacts / "1" / run / "artifacts" / "model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text(f"flavors: {{}}\nrun_id: {run}\n")
    (folder / "model.bin").write_bytes(run.encode() * 32)
    location = f"mlflow-artifacts:/1/{run}/artifacts"
    database.execute(
        "INSERT INTO runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status, start_time) "
        "VALUES (?, ?, 1, ?, 'active', 'FINISHED', ?)",
        (run, f"night-{number}", location, TIMES + number),
    )
    for key in ["depth", "eta", "rounds"]:
        database.execute("INSERT INTO params (run_uuid, key, value) VALUES (?, ?, ?)", (run, key, str(number)))
    database.execute(
        "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, 'auc', ?, ?, 0, 0)",
        (run, number / 2000, TIMES + number),
    )
    database.execute(
        "INSERT INTO model_versions (name, version, creation_time, source, run_id, status, current_stage) "
        "VALUES ('fraud', ?, ?, ?, ?, 'READY', 'None')",
        (number, TIMES + number, f"{location}/model", run),
    )


def make(folder, versions):
    artifacts, file = folder / "artifacts", folder / "mlflow.db"
    mlflow = Path(sys.executable).parent / "mlflow"
    subprocess.run([mlflow, "db", "upgrade", f"sqlite:///{file}"], check=True, capture_output=True)
    database = sqlite3.connect(file)
    with database:
        database.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (1, 'cards', 'mlflow-artifacts:/1', 'active')"
        )
        database.execute(
            "INSERT INTO registered_models (name, creation_time, last_updated_time) VALUES ('fraud', ?, 1)", (TIMES,)
        )
        for number in range(1, versions + 1):
            add_version(database, artifacts, number)
        database.execute("INSERT INTO registered_model_aliases (name, alias, version) VALUES ('fraud', 'champion', 1)")
    return database, artifacts


def back_up(deployment, arguments, folder, environment):
    database, artifacts = make(folder, arguments.versions - arguments.snapshots)
    source = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts", f"mlflow-artifacts:/={artifacts}"]
    took = []
    for night in range(arguments.snapshots):
        number = arguments.versions - arguments.snapshots + night + 1
        with database:
            add_version(database, artifacts, number)
            database.execute("UPDATE registered_model_aliases SET version = ?", (number,))
        command = [arguments.mlvault, "backup", "--quiet", "--deployment", "benchmark", *source]
        took.append(bench.timed(deployment, command, environment)[0])
    return sorted(took)[len(took) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlvault", type=Path, required=True)
    parser.add_argument("--snapshots", type=int, default=400)
    parser.add_argument("--versions", type=int, default=1000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlvault-audit-"))
    deployment = bench.Deployment(folder)
    rows = []
    try:
        deployment.start_s3()
        environment = {
            "MLVAULT_REPO": "s3://mlflow/repository",
            "MLVAULT_S3_ENDPOINT": deployment.endpoint,
            "MLVAULT_PASSPHRASE": "only for this benchmark",
            "HOME": str(folder),
            "TMPDIR": str(folder),
        }
        bench.timed(deployment, [arguments.mlvault, "init"], environment)
        backup = back_up(deployment, arguments, folder, environment)
        out = folder / "evidence.zip"
        one = ["--model", "fraud", "--version", str(arguments.versions // 2)]
        commands = {
            "history of a version": ["audit", "history", *one],
            "history of the model": ["audit", "history", "--model", "fraud", "--html", folder / "history.html"],
            "evidence": ["audit", "evidence", *one, "--out", out],
        }
        for cache in ["warm", "cold"]:
            for name, command in commands.items():
                if cache == "cold":
                    shutil.rmtree(folder / ".cache", ignore_errors=True)
                seconds, requests, *_ = bench.timed(deployment, [arguments.mlvault, *command], environment)
                rows.append((name, cache, seconds, requests))
        size = out.stat().st_size
    finally:
        deployment.end()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{arguments.snapshots} snapshots of {arguments.versions} versions; a backup takes {backup:.2f} s (median)\n")
    print("| | cache | wall s | S3 requests |\n|---|---|---|---|")
    for name, cache, seconds, requests in rows:
        print(f"| {name} | {cache} | {seconds:.2f} | {requests} |")
    print(f"\nThe bundle has {size} bytes.")


if __name__ == "__main__":
    main()
