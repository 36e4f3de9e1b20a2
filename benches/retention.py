#!/usr/bin/env python3
"""Measures forget and prune beside restic and rustic: the same sixty days of a deployment, fourteen of them kept.

    retention.py                     60 days, about 20 MiB of new files a day (about 10 minutes)
    retention.py --days 20 --scale 0.02

A deployment lives for the given days: each adds models, runs, metrics and plots, and what is older than two weeks is
deleted, as `mlflow gc` does. Each day every tool backs it up into a local repository of its own. Then each repository is
copied into a bucket of an S3 server (moto), and on both copies the tool forgets all but the last fourteen snapshots and
reclaims what they alone needed. Then it checks the repository, reading all of it, and restores the last day, which is
compared with the source.

Fair by these rules: tools take turns; all keep at most 5 % of unused bytes; rustic deletes at once, as the others do,
instead of a day later; every tool has a home folder of its own, with the cache that its backups made. Bytes and requests
are counted on the wire, between the tool and the S3 server.

Needs what `scripts/setup.sh test bench rustic` installs.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no cache of the next imports in the source tree
import deployment
import peers
import workload

BUCKET = "retention"
MIB = 1 << 20
LIVE_DAYS = 14
KEPT = 14
UNUSED = "5%"
RELAY_BYTES = 1 << 16


class Days(workload.Deployment):
    """A deployment that lives on: each day adds to what is there, and deletes what is old."""

    def __init__(self, out, scale, seed=1):
        super().__init__(out, 1, scale, seed)
        self.latest = {}

    def live(self, day):
        self.day = day
        for model in workload.MODELS:
            for version in range(1, model.versions(day) + 1):
                if model.born(version) == day:
                    self.write_weights(model, version)
        count = workload.TABULAR_RUNS_PER_DAY if day > 1 else workload.TABULAR_RUNS
        for number in range(count):
            self.write_trees(day * workload.TABULAR_RUNS + number, day)
            self.write_table(day * workload.TABULAR_RUNS + number, day)
        self.write_database()
        self.write_metadata()
        oldest = workload.EPOCH_SECONDS + (day - LIVE_DAYS) * workload.DAY_SECONDS
        for path in peers.files_below(self.out / "mlartifacts").values():
            if path.stat().st_mtime < oldest:
                path.unlink()

    def tuned(self, model, version):
        """As the other days have it, but each version from the one before, which is remembered."""
        if version == 1:
            self.latest[model] = super().tuned(model, 1)
        elif version > 1:
            layers = len(self.latest[model])
            tune = lambda layer, weights: workload.tune(
                weights, model.tuning, layer, layers, self.generator(model.name, "tuning", version, layer)
            )
            tensors = self.latest[model]
            self.latest[model] = [(name, tune(layer, weights)) for layer, (name, weights) in enumerate(tensors)]
        return self.latest[model]


# ---- tools: as for the other comparison, and what they call forgetting ---------------------------------------------


class Mlvault(peers.Mlvault):
    def use_bucket(self, endpoint):
        self.repository = f"s3://{BUCKET}/{self.name}"
        self.more = {"MLVAULT_S3_ENDPOINT": endpoint}

    def forget(self):
        run = [self.program, "--repo", self.repository, "--quiet"]
        return [*run, "forget", "--keep-last", str(KEPT), "--force", "--prune"]

    def check(self):
        return [self.program, "--repo", self.repository, "--quiet", "check", "--read-data"]


class Restic(peers.Restic):
    def use_bucket(self, endpoint):
        self.repository = f"s3:{endpoint}/{BUCKET}/{self.name}"
        self.more = {}

    def forget(self):
        run = [self.program, "--repo", self.repository, "--quiet"]
        return [*run, "forget", "--group-by", "", "--keep-last", str(KEPT), "--prune", "--max-unused", UNUSED]

    def check(self):
        return [self.program, "--repo", self.repository, "--quiet", "check", "--read-data"]


class Rustic(peers.Rustic):
    def use_bucket(self, endpoint):
        """rustic reads the options of a bucket from a profile only."""
        self.repository = "opendal:s3"
        self.more = {}
        profile = self.home / "config/rustic/rustic.toml"
        profile.parent.mkdir(parents=True, exist_ok=True)
        profile.write_text(
            f'[repository.options]\nbucket = "{BUCKET}"\nroot = "/{self.name}"\nendpoint = "{endpoint}"\n'
            f'region = "us-east-1"\naccess_key_id = "{deployment.KEYS["AWS_ACCESS_KEY_ID"]}"\n'
            f'secret_access_key = "{deployment.KEYS["AWS_SECRET_ACCESS_KEY"]}"\n'
        )

    def forget(self):
        run = [self.program, "--repository", self.repository, "--no-progress"]
        forget = ["forget", "--group-by", "", "--keep-last", str(KEPT), "--prune"]
        return [*run, *forget, "--max-unused", UNUSED, "--instant-delete", "--keep-pack", "0s"]

    def check(self):
        return [self.program, "--repository", self.repository, "--no-progress", "check", "--read-data"]


TOOLS = {"mlvault": Mlvault, "restic": Restic, "rustic": Rustic}


def environment_of(tool):
    return tool.environment() | deployment.KEYS | getattr(tool, "more", {})


# ---- counting ------------------------------------------------------------------------------------------------------


class Relay:
    """Passes connections on to a server, and counts the bytes of both directions."""

    def __init__(self, port):
        self.port_behind, self.up, self.down = port, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.port_behind))
            threading.Thread(target=self.pump, args=(client, server, "up"), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, "down"), daemon=True).start()

    def pump(self, source, sink, direction):
        try:
            while block := source.recv(RELAY_BYTES):
                sink.sendall(block)
                setattr(self, direction, getattr(self, direction) + len(block))
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Bucket:
    """An S3 server with one bucket, behind a relay."""

    def __init__(self, folder):
        port = deployment.free_port()
        probe = lambda: subprocess.run(
            [deployment.TOOLS / "python", "-c", CREATE, f"http://127.0.0.1:{port}"],
            env=os.environ | deployment.KEYS,
            capture_output=True,
        ).returncode == 0
        self.server = deployment.Server(folder, "s3", [deployment.TOOLS / "moto_server", "-H", "127.0.0.1", "-p", port], probe)
        self.relay = Relay(port)

    def requests(self):
        return sum('" 2' in line or '" 4' in line for line in self.server.log.read_text().splitlines())

    def take(self, folder, prefix):
        command = [deployment.TOOLS / "python", "-c", UPLOAD, self.relay.endpoint, folder, prefix]
        subprocess.run(command, env=os.environ | deployment.KEYS, check=True)

    def size(self, prefix):
        command = [deployment.TOOLS / "python", "-c", SIZE, self.relay.endpoint, prefix]
        return int(subprocess.run(command, env=os.environ | deployment.KEYS, check=True, capture_output=True).stdout)


CLIENT = "import boto3, pathlib, sys\ns3 = boto3.client('s3', endpoint_url=sys.argv[1])\n"
CREATE = CLIENT + f"s3.create_bucket(Bucket='{BUCKET}')"
UPLOAD = CLIENT + (
    "for file in sorted(pathlib.Path(sys.argv[2]).rglob('*')):\n"
    "    if file.is_file():\n"
    f"        s3.put_object(Bucket='{BUCKET}', Key=f'{{sys.argv[3]}}/{{file.relative_to(sys.argv[2])}}', "
    "Body=file.read_bytes())"
)
SIZE = CLIENT + (
    f"pages = s3.get_paginator('list_objects_v2').paginate(Bucket='{BUCKET}', Prefix=sys.argv[2] + '/')\n"
    "print(sum(item['Size'] for page in pages for item in page.get('Contents', [])))"
)


def back_up(tools, source, days, scale):
    life = Days(source, scale)
    for day in range(1, days + 1):
        life.live(day)
        for tool in peers.turned(tools, day):
            peers.run_command(tool.backup(), source, environment_of(tool))
        peers.log(f"day {day:3}: {peers.bytes_below(source) / MIB:.0f} MiB live")


def forget_locally(tool, folder):
    peers.read_everything(tool.repository)
    os.sync()
    before = peers.bytes_below(tool.repository)
    wall, cpu, memory = peers.run_command(tool.forget(), folder, environment_of(tool))
    return f"{wall:.2f} | {cpu:.2f} | {memory / MIB:.0f} | {before / MIB:.0f} | {peers.bytes_below(tool.repository) / MIB:.0f}"


def forget_in_bucket(tool, folder, bucket):
    tool.use_bucket(bucket.relay.endpoint)
    relay, requests = bucket.relay, bucket.requests()
    up, down = relay.up, relay.down
    wall, _, _ = peers.run_command(tool.forget(), folder, environment_of(tool))
    up, down, requests = relay.up - up, relay.down - down, bucket.requests() - requests
    return f"{wall:.2f} | {requests} | {down / MIB:.1f} | {up / MIB:.1f} | {bucket.size(tool.name) / MIB:.0f}"


def prove(tool, source, folder):
    """Checks a repository and compares what it restores with the source."""
    peers.run_command(tool.check(), folder, environment_of(tool))
    target = folder / f"restored-{tool.name}"
    target.mkdir()
    peers.run_command(tool.restore(target), target, environment_of(tool))
    wrong = list(peers.differences(target, source))
    shutil.rmtree(target)
    if wrong:
        sys.exit(f"retention: {tool.name} does not restore what was backed up: {wrong[:5]}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlvault", type=Path, default=deployment.TARGET / "release/mlvault", help="(%(default)s)")
    parser.add_argument("--tools", help=f"comma-separated, of {','.join(TOOLS)} (all that are installed)")
    parser.add_argument("--days", type=int, default=60, help="(%(default)s)")
    parser.add_argument("--scale", type=float, default=0.05, help="of the files' sizes (%(default)s)")
    parser.add_argument("--work", type=Path, default=peers.CACHE_FOLDER, help="(%(default)s)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    peers.TOOLS = TOOLS
    tools = peers.find_tools(arguments)
    work = Path(tempfile.mkdtemp(prefix="mlvault-retention-", dir=arguments.work))
    source, bucket = work / "source", None
    source.mkdir()
    try:
        bucket = Bucket(work)
        for tool in tools:
            tool.place(work / tool.name)
            peers.run_command(tool.init(), source, environment_of(tool))
        back_up(tools, source, arguments.days, arguments.scale)
        for tool in tools:
            bucket.take(tool.repository, tool.name)
        print("| tool | local: wall s | CPU s | peak MiB | MiB before | after "
              "| S3: wall s | requests | MiB read | MiB written | after |\n" + "|---" * 11 + "|")
        for tool in tools:
            home = shutil.copytree(tool.home, work / f"home-{tool.name}")
            cells = forget_locally(tool, source)
            prove(tool, source, work)
            tool.home = home
            cells += " | " + forget_in_bucket(tool, source, bucket)
            prove(tool, source, work)
            print(f"| {tool.name} | {cells} |", flush=True)
        print("\nVersions: " + "; ".join(tool.version() for tool in tools)
              + f". {arguments.days} days at scale {arguments.scale:g}, {KEPT} snapshots kept; "
              f"load after {os.getloadavg()[0]:.1f}.")
    finally:
        if bucket:
            bucket.server.end()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
