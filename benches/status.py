#!/usr/bin/env python3
"""Measures what it costs to know: `mlvault status` on many snapshots, and a drill, part by part.

    status.py                       400 snapshots (about 10 minutes)
    status.py --snapshots 50

A deployment with PostgreSQL, an S3 server (moto) and MLflow works for a day. It is backed up into a bucket of the same
server again and again; every tenth time a check is recorded. Then `status`, `metrics` and `report` are timed and their
requests counted, with the cache that the backups made and without one. Then a drill restores the deployment into a
private PostgreSQL server, or into the one that is there if this runs as root.

Needs what `scripts/setup.sh test` installs.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no cache of the next import in the source tree
import deployment as bench

COMMANDS = [["status"], ["metrics"], ["report", "--out"]]


def environment_of(deployment, folder):
    environment = bench.for_mlvault(deployment, folder)
    environment["MLVAULT_REPO"] = "s3://mlflow/repository"
    environment["MLVAULT_S3_ENDPOINT"] = deployment.endpoint
    environment["TMPDIR"] = str(folder)
    return environment


def back_up(deployment, arguments, environment):
    """Makes the snapshots, and returns the median seconds of the last fifty backups."""
    took = []
    for number in range(arguments.snapshots):
        took.append(bench.timed(deployment, [arguments.mlvault, "backup", "--quiet"], environment)[0])
        if number % 10 == 0:
            bench.timed(deployment, [arguments.mlvault, "check", "--record", "--quiet"], environment)
    return sorted(took[-50:])[len(took[-50:]) // 2]


def look(deployment, folder, arguments, environment, rows):
    for cache in ["warm", "cold"]:
        for command in COMMANDS:
            if cache == "cold":
                shutil.rmtree(folder / ".cache", ignore_errors=True)
            # A deployment that is not in a file is expected, and an alarm is an answer.
            line = [arguments.mlvault, *command, *([folder / "report.html"] if "--out" in command else [])]
            seconds, requests, _, _ = bench.timed(deployment, line, environment, codes=(0, 1))
            rows.append((command[0], cache, seconds, requests))


def drill(deployment, arguments, environment):
    command = [str(arguments.mlvault), "drill", "--json", "--scratch-database", deployment.database]
    begun = time.monotonic()
    done = subprocess.run(command, env={**bench.os.environ, **bench.KEYS, **environment}, capture_output=True, text=True)
    seconds = time.monotonic() - begun
    if done.returncode not in (0, 3):
        sys.exit(f"the drill failed:\n{done.stdout}{done.stderr}")
    return seconds, json.loads(done.stdout)["drill"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlvault", default=bench.TARGET / "release/mlvault", type=Path)
    parser.add_argument("--snapshots", default=400, type=int)
    parser.add_argument("--scale", default=1.0, type=float, help="size of the models")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlvault-bench-"))
    folder.chmod(0o755)
    deployment = bench.Deployment(folder)
    rows = []
    try:
        deployment.start_mlflow()
        deployment.log_day(1, arguments.scale)
        environment = environment_of(deployment, folder)
        bench.timed(deployment, [arguments.mlvault, "init"], environment)
        backup = back_up(deployment, arguments, environment)
        look(deployment, folder, arguments, environment, rows)
        seconds, drilled = drill(deployment, arguments, environment)
    finally:
        deployment.end()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{arguments.snapshots} snapshots; an unchanged backup takes {backup:.2f} s\n")
    print("| | cache | wall s | S3 requests |\n|---|---|---|---|")
    for command, cache, took, requests in rows:
        print(f"| {command} | {cache} | {took:.2f} | {requests} |")
    compared = f"{len(drilled['tables'])} tables, {drilled['files']['version_files']} files of versions"
    print(f"\nA drill took {seconds:.2f} s ({drilled['result']}; {compared}).\n\n| part | s |\n|---|---|")
    for part in drilled["times"]:
        print(f"| {part['part']} | {part['milliseconds'] / 1000:.2f} |")


if __name__ == "__main__":
    main()
