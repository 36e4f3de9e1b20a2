#!/usr/bin/env python3
"""Measures mlvault beside `pg_dump` and `rclone sync` on a real MLflow deployment: PostgreSQL, S3, a running server.

    deployment.py [--mlvault BINARY] [--scale F] [--metrics N]

Starts PostgreSQL, an S3 server (moto) and MLflow on free ports, logs a day of work with tests/make_deployment.py, adds N
metric points by SQL, and backs up four times: first, unchanged, after a second day, unchanged. After each, what was done
by hand before mlvault: `pg_dump` into a file of its own, as the nightly job keeps one, and `rclone sync` of the bucket into
one folder. Requests are those that the S3 server logged. Everything is deleted at the end.

Needs what `scripts/setup.sh test` installs.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(os.environ.get("MLVAULT_TEST_TOOLS", Path.home() / ".cache/mlvault-tools")) / "bin"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", Path.home() / ".cache/mlvault-target"))
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
MIB = 1 << 20
START_SECONDS_MAX = 120


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def size_of(path):
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


class Server:
    """A program that serves until it is ended, with its log."""

    def __init__(self, folder, name, arguments, ready, user=None, environment=None):
        self.log = folder / f"{name}.log"
        self.process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            user=user,
            cwd=folder,
        )
        for _ in range(START_SECONDS_MAX * 4):
            if self.process.poll() is not None:
                break
            if ready():
                return
            time.sleep(0.25)
        self.end()
        sys.exit(f"{name} does not start:\n{self.log.read_text()}")

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait()


class Deployment:
    """PostgreSQL, S3 and MLflow."""

    def __init__(self, folder):
        self.folder, self.servers = folder, []
        self.start_postgresql()
        self.start_s3()
        self.start_mlflow()

    def start_postgresql(self):
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        user = "postgres" if os.geteuid() == 0 else None
        data = self.folder / "postgresql"
        data.mkdir()
        if user:
            shutil.chown(data, user)
        init = [programs / "initdb", "-D", data, "-A", "trust", "-U", "mlflow", "--no-sync", "-E", "UTF8"]
        subprocess.run(init, check=True, user=user, stdout=subprocess.DEVNULL, cwd=self.folder)
        port = free_port()
        self.database = f"postgresql://mlflow@127.0.0.1:{port}/postgres"
        ready = lambda: subprocess.run([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0
        command = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-k", data, "-F"]
        self.servers.append(Server(self.folder, "postgresql", command, ready, user))

    def start_s3(self):
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"

        def ready():
            try:
                request = urllib.request.Request(f"{self.endpoint}/mlflow", method="PUT")
                return urllib.request.urlopen(request, timeout=2).status == 200
            except OSError:
                return False

        self.s3 = Server(self.folder, "s3", [TOOLS / "moto_server", "-H", "127.0.0.1", "-p", port], ready)
        self.servers.append(self.s3)

    def start_mlflow(self):
        port = free_port()
        self.tracking = f"http://127.0.0.1:{port}"

        def ready():
            try:
                return urllib.request.urlopen(f"{self.tracking}/health", timeout=2).status == 200
            except OSError:
                return False

        command = [TOOLS / "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
        command += ["--backend-store-uri", self.database.replace("postgresql:", "postgresql+psycopg2:")]
        command += ["--artifacts-destination", "s3://mlflow/artifacts"]
        environment = {**KEYS, "MLFLOW_S3_ENDPOINT_URL": self.endpoint, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        environment["PATH"] = f"{TOOLS}:{os.environ['PATH']}"
        self.servers.append(Server(self.folder, "mlflow", command, ready, environment=environment))

    def log_day(self, day, scale):
        command = [TOOLS / "python", ROOT / "tests/make_deployment.py", "log", "--day", str(day), "--scale", str(scale)]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.tracking}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def add_metrics(self, points):
        """Gives points to the runs that there are, in the order in which a run would log them."""
        sql = f"""INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
            SELECT 'extra' || (n % 7), random(), 1790000000000 + n, run_uuid, n, false
            FROM (SELECT run_uuid, row_number() OVER (ORDER BY run_uuid) AS number, count(*) OVER () AS runs FROM runs) r,
                 generate_series(1, {points} / GREATEST((SELECT count(*) FROM runs), 1)) AS n
            ON CONFLICT DO NOTHING"""
        subprocess.run(["psql", "-q", "-X", "-d", self.database, "-c", sql], check=True)

    def requests(self):
        """Returns how many requests the S3 server has logged so far."""
        return sum('" 2' in line or '" 4' in line for line in self.s3.log.read_text().splitlines())

    def end(self):
        for server in reversed(self.servers):
            server.end()


def timed(deployment, command, environment):
    before, begun = deployment.requests(), time.monotonic()
    done = subprocess.run(command, env={**os.environ, **KEYS, **environment}, capture_output=True, text=True)
    seconds = time.monotonic() - begun
    if done.returncode != 0:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return seconds, deployment.requests() - before, done.stdout


def back_up(deployment, folder, mlvault, phase, rows):
    environment = {
        "MLVAULT_REPO": str(folder / "repository"),
        "MLVAULT_PASSPHRASE": "only for this benchmark",
        "HOME": str(folder),
        "MLFLOW_S3_ENDPOINT_URL": deployment.endpoint,
        "MLVAULT_BACKEND_STORE_URI": deployment.database,
        "MLVAULT_ARTIFACTS": "mlflow-artifacts:/=s3://mlflow/artifacts",
        "MLVAULT_DEPLOYMENT": "benchmark",
    }
    repository = folder / "repository"
    if not repository.exists():
        timed(deployment, [mlvault, "init"], environment)
    before = size_of(repository)
    seconds, requests, _ = timed(deployment, [mlvault, "backup"], environment)
    rows.append((phase, "mlvault", seconds, requests, size_of(repository) - before))

    dump = folder / "by-hand" / f"{phase.replace(' ', '-')}.sql"
    mirror = folder / "by-hand" / "artifacts"
    dump.parent.mkdir(exist_ok=True)
    before = size_of(dump.parent)
    dumped = timed(deployment, ["pg_dump", "-d", deployment.database, "-f", str(dump)], {})
    remote = {
        "RCLONE_CONFIG_S3_TYPE": "s3",
        "RCLONE_CONFIG_S3_PROVIDER": "Other",
        "RCLONE_CONFIG_S3_ENV_AUTH": "true",
        "RCLONE_CONFIG_S3_ENDPOINT": deployment.endpoint,
    }
    sync = [TOOLS / "rclone", "--config", "/dev/null", "sync", "s3:mlflow/artifacts", str(mirror)]
    synced = timed(deployment, sync, remote)
    rows.append((phase, "pg_dump, rclone", dumped[0] + synced[0], dumped[1] + synced[1], size_of(dump.parent) - before))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlvault", default=TARGET / "release/mlvault", type=Path)
    parser.add_argument("--scale", default=5.0, type=float, help="size of the models")
    parser.add_argument("--metrics", default=500_000, type=int, help="metric points added by SQL")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlvault-bench-"))
    folder.chmod(0o755)
    deployment = Deployment(folder)
    rows = []
    try:
        deployment.log_day(1, arguments.scale)
        deployment.add_metrics(arguments.metrics)
        for phase in ["first", "unchanged"]:
            back_up(deployment, folder, arguments.mlvault, phase, rows)
        deployment.log_day(2, arguments.scale)
        for phase in ["day 2", "unchanged again"]:
            back_up(deployment, folder, arguments.mlvault, phase, rows)
    finally:
        deployment.end()
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        names = ["phase", "tool", "seconds", "requests", "bytes"]
        print(json.dumps([dict(zip(names, row)) for row in rows], indent=1))
        return
    print("| | | wall s | S3 requests | MiB stored |\n|---|---|---|---|---|")
    for phase, tool, seconds, requests, size in rows:
        print(f"| {phase} | {tool} | {seconds:.2f} | {requests} | {size / MIB:.1f} |")


if __name__ == "__main__":
    main()
