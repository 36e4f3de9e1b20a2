#!/usr/bin/env python3
"""Measures mlvault beside `pg_dump` and `rclone sync` on a real MLflow deployment: PostgreSQL, S3, a running server.

    deployment.py [--mlvault BINARY] [--scale F] [--metrics N] [--bring-back] [--export-import PYTHON]

Starts PostgreSQL, an S3 server (moto) and MLflow on free ports, logs a day of work with tests/make_deployment.py, adds N
metric points by SQL, and backs up four times: first, unchanged, after a second day, unchanged. After each, what was done
by hand before mlvault: `pg_dump` into a file of its own, as the nightly job keeps one, and `rclone sync` of the bucket into
one folder. Requests are those that the S3 server and MLflow logged. Everything is deleted at the end.

--bring-back restores what the last backup holds into new, empty deployments, each tool into its own, and counts what
MLflow's client finds there of what it found in the first one: records of each kind, and which of their fields are the same.

--export-import names a Python that has mlflow-export-import beside MLflow (and tabulate, which it imports but does not
require). It exports into a folder of its own for each phase, by way of the tracking server; with --bring-back it imports.

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
RCLONE = [TOOLS / "rclone", "--config", "/dev/null"]
PHASES = ["first", "unchanged", "day 2", "unchanged again"]

# Places, and ids of other things, which are counted there.
NOT_COUNTED = {"location", "source", "run", "model_id", "parent"}
# Tags that hold ids.
IDS_IN_TAGS = ("mlflow.parentRunId", "mlflow.modelVersions")


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
    """PostgreSQL, S3 and MLflow, which is started later where an empty database is wanted."""

    def __init__(self, folder):
        self.folder, self.servers, self.mlflow = folder, [], None
        self.start_postgresql()
        self.start_s3()

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
        self.mlflow = Server(self.folder, "mlflow", command, ready, environment=environment)
        self.servers.append(self.mlflow)

    def make(self, *arguments):
        command = [TOOLS / "python", ROOT / "tests/make_deployment.py", *map(str, arguments)]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.tracking}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def log_day(self, day, scale):
        self.make("log", "--day", day, "--scale", scale)

    def record(self):
        """Returns what MLflow's client finds."""
        file = self.folder / "record.json"
        self.make("record", file)
        return json.loads(file.read_text())

    def add_metrics(self, points):
        """Gives points to the runs that there are, in the order in which a run would log them."""
        # Without its row in latest_metrics, a client does not see a metric at all.
        sql = f"""INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
            SELECT 'extra' || (n % 7), random(), 1790000000000 + n, run_uuid, n, false
            FROM (SELECT run_uuid, row_number() OVER (ORDER BY run_uuid) AS number, count(*) OVER () AS runs FROM runs) r,
                 generate_series(1, {points} / GREATEST((SELECT count(*) FROM runs), 1)) AS n
            ON CONFLICT DO NOTHING;
            INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
            SELECT DISTINCT ON (run_uuid, key) key, value, timestamp, step, is_nan, run_uuid FROM metrics
            WHERE key LIKE 'extra%' ORDER BY run_uuid, key, step DESC
            ON CONFLICT DO NOTHING"""
        subprocess.run(["psql", "-q", "-X", "-d", self.database, "-c", sql], check=True)

    def requests(self):
        """Returns how many requests the S3 server and MLflow have logged so far."""
        s3 = sum('" 2' in line or '" 4' in line for line in self.s3.log.read_text().splitlines())
        return s3, self.mlflow.log.read_text().count(' HTTP/1.1" ') if self.mlflow else 0

    def end(self):
        for server in reversed(self.servers):
            server.end()


def timed(deployment, command, environment, codes=(0,)):
    """Runs a command. Returns its seconds, its requests to the S3 server and to MLflow, and its exit code."""
    before, begun = deployment.requests(), time.monotonic()
    done = subprocess.run(command, env={**os.environ, **KEYS, **environment}, capture_output=True, text=True)
    seconds = time.monotonic() - begun
    if done.returncode not in codes:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    if done.returncode != 0:
        print(f"{Path(command[0]).name} {command[1]}: exit code {done.returncode}\n{last_words(done)}", file=sys.stderr)
    return seconds, *(after - early for after, early in zip(deployment.requests(), before)), done.returncode


def last_words(done):
    return "\n".join((done.stdout + done.stderr).splitlines()[-8:])


def added(first, second):
    """What two commands one after the other took."""
    return tuple(one + other for one, other in zip(first, second))


def for_mlvault(deployment, folder):
    return {
        "MLVAULT_REPO": str(folder / "repository"),
        "MLVAULT_PASSPHRASE": "only for this benchmark",
        "HOME": str(folder),
        "MLFLOW_S3_ENDPOINT_URL": deployment.endpoint,
        "MLVAULT_BACKEND_STORE_URI": deployment.database,
        "MLVAULT_ARTIFACTS": "mlflow-artifacts:/=s3://mlflow/artifacts",
        "MLVAULT_DEPLOYMENT": "benchmark",
    }


def for_rclone(deployment):
    return {
        "RCLONE_CONFIG_S3_TYPE": "s3",
        "RCLONE_CONFIG_S3_PROVIDER": "Other",
        "RCLONE_CONFIG_S3_ENV_AUTH": "true",
        "RCLONE_CONFIG_S3_ENDPOINT": deployment.endpoint,
    }


def export_import(python, command, deployment, option, folder, codes=(0,)):
    environment = {"MLFLOW_TRACKING_URI": deployment.tracking, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return timed(deployment, [python.parent / command, option, str(folder)], environment, codes)


def back_up(deployment, folder, arguments, phase, rows):
    environment = for_mlvault(deployment, folder)
    repository = folder / "repository"
    if not repository.exists():
        timed(deployment, [arguments.mlvault, "init"], environment)
    before = size_of(repository)
    taken = timed(deployment, [arguments.mlvault, "backup"], environment)
    rows.append((phase, "mlvault", *taken, size_of(repository) - before))

    dump, mirror = folder / "by-hand" / f"{phase.replace(' ', '-')}.sql", folder / "by-hand" / "artifacts"
    dump.parent.mkdir(exist_ok=True)
    before = size_of(dump.parent)
    dumped = timed(deployment, ["pg_dump", "-d", deployment.database, "-f", str(dump)], {})
    synced = timed(deployment, [*RCLONE, "sync", "s3:mlflow/artifacts", str(mirror)], for_rclone(deployment))
    rows.append((phase, "pg_dump, rclone", *added(dumped, synced), size_of(dump.parent) - before))

    if arguments.export_import:
        export = folder / "export" / phase.replace(" ", "-")
        taken = export_import(arguments.export_import, "export-all", deployment, "--output-dir", export)
        rows.append((phase, "mlflow-export-import", *taken, size_of(export)))


def restore(new, folder, arguments):
    command = [arguments.mlvault, "restore", "--snapshot", "latest", "--yes"]
    taken = timed(new, command, for_mlvault(new, folder))
    new.start_mlflow()
    return taken


def restore_via_rest(new, folder, arguments):
    new.start_mlflow()
    environment = for_mlvault(new, folder)
    # The server is all that this way may use.
    del environment["MLVAULT_BACKEND_STORE_URI"], environment["MLVAULT_ARTIFACTS"], environment["MLFLOW_S3_ENDPOINT_URL"]
    command = [arguments.mlvault, "restore", "--via-rest", "--tracking-uri", new.tracking, "--yes"]
    return timed(new, command, environment, codes=(0, 3))  # 3: it names what it did not bring back


def restore_by_hand(new, folder, arguments):
    dump, mirror = folder / "by-hand" / f"{PHASES[-1].replace(' ', '-')}.sql", folder / "by-hand" / "artifacts"
    loaded = timed(new, ["psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", new.database, "-f", str(dump)], {})
    copied = timed(new, [*RCLONE, "copy", str(mirror), "s3:mlflow/artifacts"], for_rclone(new))
    new.start_mlflow()
    return added(loaded, copied)


def restore_export(new, folder, arguments):
    new.start_mlflow()
    export = folder / "export" / PHASES[-1].replace(" ", "-")
    return export_import(arguments.export_import, "import-all", new, "--input-dir", export, codes=(0, 1))


def bring_back(expected, folder, arguments, rows):
    """Restores with each tool. Returns, for each, how many records of each kind and field are as they were."""
    ways = {"mlvault": restore, "mlvault via-rest": restore_via_rest, "pg_dump, rclone": restore_by_hand}
    if arguments.export_import:
        ways["mlflow-export-import"] = restore_export
    counts = {"before": came_back(expected, expected)}
    for tool, way in ways.items():
        place = folder / "new"
        place.mkdir()
        place.chmod(0o755)
        new = Deployment(place)
        try:
            rows.append(("bring back", tool, *way(new, folder, arguments), None))
            counts[tool] = came_back(expected, new.record())
        finally:
            new.end()
            shutil.rmtree(place)
    return counts


def came_back(expected, found):
    """Counts the records that are there, and for each field those that had something in it and have the same again."""
    counts = {}
    for kind, records in expected.items():
        counts[kind] = sum(key in found[kind] for key in records)
        for key, record in records.items():
            there = found[kind].get(key, {})
            if not isinstance(record, dict):
                record, there = {"content": record}, {"content": there}
            for field, value in record.items():
                if value and field not in NOT_COUNTED:
                    row = f"{kind}: {field}"
                    counts[row] = counts.get(row, 0) + same_field(field, value, there.get(field))
    return counts


def same_field(field, before, after):
    """Whether a field is the same. Tags may have been added to."""
    if field == "tags":
        kept = {key: value for key, value in before.items() if not key.startswith(IDS_IN_TAGS)}
        return after is not None and kept.items() <= after.items()
    return before == after


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlvault", default=TARGET / "release/mlvault", type=Path)
    parser.add_argument("--scale", default=5.0, type=float, help="size of the models")
    parser.add_argument("--metrics", default=500_000, type=int, help="metric points added by SQL")
    parser.add_argument("--bring-back", action="store_true", help="restore too, and count what comes back")
    parser.add_argument("--export-import", metavar="PYTHON", type=Path, help="measure mlflow-export-import too")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlvault-bench-"))
    folder.chmod(0o755)
    deployment = Deployment(folder)
    rows, counts = [], {}
    try:
        deployment.start_mlflow()
        deployment.log_day(1, arguments.scale)
        deployment.add_metrics(arguments.metrics)
        for phase in PHASES[:2]:
            back_up(deployment, folder, arguments, phase, rows)
        deployment.log_day(2, arguments.scale)
        for phase in PHASES[2:]:
            back_up(deployment, folder, arguments, phase, rows)
        if arguments.bring_back:
            counts = bring_back(deployment.record(), folder, arguments, rows)
    finally:
        deployment.end()
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        names = ["phase", "tool", "seconds", "s3_requests", "rest_requests", "exit_code", "bytes"]
        print(json.dumps({"rows": [dict(zip(names, row)) for row in rows], "came_back": counts}, indent=1))
        return
    print("| | | wall s | S3 requests | REST requests | exit code | MiB stored |\n|---|---|---|---|---|---|---|")
    for phase, tool, seconds, s3, rest, code, size in rows:
        stored = "" if size is None else f"{size / MIB:.1f}"
        print(f"| {phase} | {tool} | {seconds:.2f} | {s3} | {rest} | {code} | {stored} |")
    if counts:
        print(f"\n| | {' | '.join(counts)} |\n|---|{'---|' * len(counts)}")
        for row in sorted(counts["before"]):
            print(f"| {row} | {' | '.join(str(count[row]) for count in counts.values())} |")


if __name__ == "__main__":
    main()
