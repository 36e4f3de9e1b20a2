#!/usr/bin/env python3
"""Measures a backup by 1 to 8 shards beside one by one process: time, memory, and requests to the artifact store.

    shards.py [--mlvault BINARY] [--runs 5000] [--weights 256K] [--shards 1,2,4,8] [--bucket]

A deployment of MLflow's layout is made: a SQLite database with so many runs, and for each run five small files and one of
weights that do not compress. Each number of shards gets a repository of its own in a directory, and makes two backups: the
first, and one of which a hundredth has changed. All shards of a backup run at once on this machine, so they share its cores
and its disk: what this shows is what sharding costs, and that nothing waits for anything else. What it gains shows on as many
machines. With --bucket the artifacts are on an S3 server (moto) on the same machine, whose requests are counted; moto itself
then takes most of the time.

Needs what `scripts/setup.sh test` installs.
"""

import argparse
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no cache of the next import in the source tree
import deployment as bench

BUCKET = "artifacts"
MIB = 1 << 20


def size(text):
    return int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]] if text[-1] in "KM" else int(text)


def make_database(path, runs):
    """Rows for the runs, each in one of ten experiments, and a version for the model of each tenth."""
    subprocess.run(
        [bench.TOOLS / "python", "-m", "mlflow", "db", "upgrade", f"sqlite:///{path}"], check=True, capture_output=True
    )
    database = sqlite3.connect(path)
    database.execute("INSERT INTO registered_models (name) VALUES ('detector')")
    for number in range(1, 11):
        row = (number, f"experiment {number}", f"mlflow-artifacts:/{number}", "active")
        database.execute("INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (?,?,?,?)", row)
    for number, (experiment, run) in enumerate(runs):
        place = f"mlflow-artifacts:/{experiment}/{run}/artifacts"
        row = (run, "r", experiment, place, "active", "FINISHED")
        database.execute(
            "INSERT INTO runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status) VALUES (?,?,?,?,?,?)", row
        )
        if number % 10 == 0:
            row = ("detector", number + 1, f"{place}/model", run, "READY", "None")
            database.execute(
                "INSERT INTO model_versions (name, version, source, run_id, status, current_stage) VALUES (?,?,?,?,?,?)", row
            )
    database.commit()


def files_of(run, weights, rng):
    small = {name: rng.randbytes(300).hex().encode() for name in ("MLmodel", "conda.yaml", "requirements.txt", "input.json")}
    return {**{f"model/{name}": data for name, data in small.items()}, "plot.svg": rng.randbytes(2000).hex().encode(),
            "model/weights.bin": rng.randbytes(weights)}


def timed(command, environment):
    """Starts a command; returns how to wait for it: seconds, peak MiB, its JSON."""
    begun = time.monotonic()
    output = tempfile.TemporaryFile()
    process = subprocess.Popen([str(part) for part in command], env=environment, stdout=output, stderr=subprocess.PIPE)

    def wait():
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{command} ended with {process.returncode}:\n{said.decode()}")
        output.seek(0)
        return seconds, usage.ru_maxrss / 1024, json.loads(output.read() or b"{}")

    return wait


class Scene:
    def __init__(self, folder, arguments):
        self.folder, self.arguments, self.server = folder, arguments, None
        rng = random.Random(1)
        self.runs = [(rng.randint(1, 10), rng.randbytes(16).hex()) for _ in range(arguments.runs)]
        make_database(folder / "mlflow.db", self.runs)
        self.environment = {**os.environ, **bench.KEYS, "TMPDIR": str(folder)}
        self.artifacts = str(folder / "artifacts")
        if arguments.bucket:
            self.start_server()
        for experiment, run in self.runs:
            self.write_run(experiment, run, rng)

    def start_server(self):
        port = bench.free_port()
        endpoint = f"http://127.0.0.1:{port}"

        def ready():
            try:
                request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
                return urllib.request.urlopen(request, timeout=2).status == 200
            except OSError:
                return False

        self.server = bench.Server(self.folder, "s3", [bench.TOOLS / "moto_server", "-H", "127.0.0.1", "-p", port], ready)
        import boto3  # only where there is a bucket

        names = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=endpoint, **names)
        self.artifacts = f"s3://{BUCKET}"
        self.environment["MLFLOW_S3_ENDPOINT_URL"] = endpoint

    def write_run(self, experiment, run, rng):
        for name, data in files_of(run, self.arguments.weights, rng).items():
            key = f"{experiment}/{run}/artifacts/{name}"
            if self.server:
                self.client.put_object(Bucket=BUCKET, Key=key, Body=data)
                continue
            path = Path(self.artifacts) / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def change(self):
        rng = random.Random(time.time_ns())
        for experiment, run in rng.sample(self.runs, max(1, len(self.runs) // 100)):
            self.write_run(experiment, run, rng)

    def requests(self):
        """Returns how many listings and other requests the S3 server has had so far."""
        if not self.server:
            return 0, 0
        lines = [line for line in self.server.log.read_text().splitlines() if "HTTP/1.1\"" in line]
        listings = sum("list-type=2" in line for line in lines)
        return listings, len(lines) - listings

    def command(self, *arguments):
        root = f"mlflow-artifacts:/={self.artifacts}"
        uri = f"sqlite:///{self.folder / 'mlflow.db'}"
        return timed(
            [self.arguments.mlvault, "backup", "--json", "--quiet", "--deployment", "bench", "--artifacts", root, *arguments],
            {**self.environment, "MLVAULT_BACKEND_STORE_URI": uri},
        )

    def use_repository(self, name):
        """Makes a repository, and a writer's key for it, as the nightly job has one."""
        self.environment["MLVAULT_REPO"] = str(self.folder / name)
        maker = {**self.environment, "MLVAULT_PASSPHRASE": "only for this benchmark"}
        maker.pop("MLVAULT_KEY_FILE", None)
        key = str(self.folder / f"{name}.key")
        add = ["key", "add", "--label", "nightly", "--role", "writer", "--new-key-file", key]
        for command in [["init"], add]:
            subprocess.run([str(self.arguments.mlvault), *command], env=maker, check=True, capture_output=True)
        self.environment["MLVAULT_KEY_FILE"] = key

    def back_up(self, shards, plan):
        """Returns seconds of each step, peak MiB of a shard and of the end, and requests."""
        before = self.requests()
        # Each process has an index cache of its own, as pods have.
        caches = [tempfile.mkdtemp(dir=self.folder) for _ in range(shards + 2)]
        cache = lambda number: ("--cache-dir", caches[number])
        if shards == 0:
            seconds, peak, _ = self.command(*cache(0))()
            row = [0.0, seconds, 0.0, seconds, peak, peak]
        else:
            planned, _, _ = self.command("--plan", plan, "--shards", str(shards), *cache(0))()
            begun = time.monotonic()
            waits = [self.command("--plan", plan, "--shard", str(at), *cache(at + 1)) for at in range(shards)]
            peaks = [wait()[1] for wait in waits]
            stored = time.monotonic() - begun
            closed, peak, _ = self.command("--plan", plan, "--close", *cache(shards + 1))()
            row = [planned, stored, closed, planned + stored + closed, max(peaks), peak]
        for path in caches:
            shutil.rmtree(path)
        after = self.requests()
        return row + [after[0] - before[0], after[1] - before[1]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlvault", default=bench.TARGET / "release/mlvault", type=Path)
    parser.add_argument("--runs", default=5000, type=int)
    parser.add_argument("--weights", default=size("256K"), type=size)
    parser.add_argument("--shards", default="1,2,4,8")
    parser.add_argument("--bucket", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlvault-bench-"))
    scene, rows = None, []
    try:
        scene = Scene(folder, arguments)
        for shards in [0, *map(int, arguments.shards.split(","))]:
            scene.use_repository(f"repository-{shards}")
            for backup in ["first", "1 % changed"]:
                rows.append((shards or "one process", backup, *scene.back_up(shards, backup)))
                scene.change()
            shutil.rmtree(folder / f"repository-{shards}")
    finally:
        if scene and scene.server:
            scene.server.end()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{arguments.runs} runs with 6 files each, {arguments.runs * arguments.weights / MIB:.0f} MiB of weights\n")
    print("| shards | backup | plan s | shards s | close s | all s | MiB of a shard | MiB of the end | listings | other requests |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for shards, backup, planned, stored, closed, total, peak, end, listings, others in rows:
        times = f"{planned:.1f} | {stored:.1f} | {closed:.1f} | {total:.1f}"
        print(f"| {shards} | {backup} | {times} | {peak:.0f} | {end:.0f} | {listings} | {others} |")


if __name__ == "__main__":
    main()
