#!/usr/bin/env python3
"""Measures what a cold pod does over a bucket in which hardly anything changed, beside what it takes to list the bucket.

    cold.py [--mlvault BINARY] [--objects 1000000] [--bytes 200] [--changed 100]

So many small files are made, in directories of a thousand, and put into a bucket of a real S3 server (SeaweedFS) on this machine.
Then, each in a process with an empty cache, as a pod starts: a first backup of the bucket into a repository in a directory; one of
which nothing has changed; one of which a few objects have. Beside them stands the time of the listing alone: the same pages of
the same server, asked for one after the other and thrown away.

Needs what `scripts/setup.sh test` installs, and room for the objects twice.
"""

import argparse
import html
import http.client
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no cache of the next import in the source tree
import deployment as bench
from shards import timed

BUCKET = "artifacts"
FOLDER_LEN = 1000


def path_of(number):
    return f"run-{number // FOLDER_LEN:05d}/object-{number % FOLDER_LEN:03d}.json"


def write(folder, numbers, length, rng):
    for number in numbers:
        path = folder / path_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(length // 2).hex().encode())


def weed(folder, port):
    """All of SeaweedFS's servers in one process; without identities it takes any signature."""
    data = folder / "weed"
    data.mkdir()
    names = [f"{server}.port{kind}" for server in ("master", "volume", "filer") for kind in ("", ".grpc")]
    ports = [f"-{name}={bench.free_port()}" for name in [*names, "s3.port.grpc"]]
    fixed = ["-filer", "-s3", f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=100"]
    return [bench.TOOLS / "weed", "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *fixed, *ports]


class Scene:
    def __init__(self, folder, arguments):
        self.folder, self.arguments = folder, arguments
        self.rng = random.Random(1)
        self.port = bench.free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.environment = {**os.environ, **bench.KEYS, "TMPDIR": str(folder), "AWS_ENDPOINT_URL_S3": self.endpoint,
                            "MLVAULT_PASSPHRASE": "only for this benchmark"}
        self.environment.pop("MLVAULT_KEY_FILE", None)
        self.server = bench.Server(folder, "s3", weed(folder, self.port), self.ready)

    def ready(self):
        request = urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")
        try:
            return urllib.request.urlopen(request, timeout=5).status == 200
        except OSError as error:
            return getattr(error, "code", None) == 409  # a first attempt has made it

    def run(self, *arguments, repository):
        """Runs mlvault with an empty cache; returns seconds, peak MiB and its JSON."""
        cache = tempfile.mkdtemp(dir=self.folder)
        environment = {**self.environment, "MLVAULT_REPO": str(self.folder / repository), "MLVAULT_CACHE_DIR": cache}
        done = timed([self.arguments.mlvault, *arguments, "--json", "--quiet"], environment)()
        shutil.rmtree(cache)
        return done

    def put(self, folder):
        """Puts what is in a folder into the bucket: backed up from there, restored to the bucket."""
        repository = f"staging-{folder.name}"
        self.run("init", repository=repository)
        self.run("backup", str(folder), repository=repository)
        target = f"s3://{BUCKET}/"
        self.run("restore", "--snapshot", f"latest:{folder}", "--target", target, "--overwrite", "always", "--yes", repository=repository)
        shutil.rmtree(self.folder / repository)
        shutil.rmtree(folder)

    def list_alone(self):
        """Lists the bucket by pages of a thousand, and does no more with a page than to find the next; returns seconds and pages."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        begun, pages, token = time.monotonic(), 0, ""
        while True:
            after = f"&continuation-token={urllib.parse.quote(token, safe='')}" if token else ""
            connection.request("GET", f"/{BUCKET}?list-type=2&max-keys=1000{after}")
            answer = connection.getresponse()
            page = answer.read()
            if answer.status != 200:
                sys.exit(f"a listing failed: {answer.status} {page[:300]}")
            pages += 1
            found = re.search(b"<NextContinuationToken>([^<]*)<", page)
            if not found:
                return time.monotonic() - begun, pages
            token = html.unescape(found[1].decode())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlvault", default=bench.TARGET / "release/mlvault", type=Path)
    parser.add_argument("--objects", default=1_000_000, type=int)
    parser.add_argument("--bytes", default=200, type=int)
    parser.add_argument("--changed", default=100, type=int)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlvault-bench-"))
    scene, rows = None, []
    try:
        scene = Scene(folder, arguments)
        write(folder / "all", range(arguments.objects), arguments.bytes, scene.rng)
        scene.put(folder / "all")
        listed, pages = scene.list_alone()
        rows.append(("LIST alone", listed, None, None))
        scene.run("init", repository="repository")
        for backup in ["first", "unchanged", f"{arguments.changed} changed"]:
            if backup.endswith(" changed"):
                write(folder / "some", scene.rng.sample(range(arguments.objects), arguments.changed), arguments.bytes, scene.rng)
                scene.put(folder / "some")
            seconds, peak, told = scene.run("backup", f"s3://{BUCKET}", repository="repository")
            rows.append((backup, seconds, peak, told["record"]["statistics"]))
        listed, _ = scene.list_alone()
        rows.append(("LIST alone, again", listed, None, None))
    finally:
        if scene:
            scene.server.end()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{arguments.objects} objects of {arguments.bytes} bytes, {pages} pages\n")
    print("| | seconds | peak MiB | objects read |\n|---|---|---|---|")
    for name, seconds, peak, told in rows:
        read = told and told["files_new"] + told["files_changed"]
        print(f"| {name} | {seconds:.1f} | {f'{peak:.0f}' if peak else ''} | {'' if read is None else read} |")


if __name__ == "__main__":
    main()
