#!/usr/bin/env python3
"""Measures mlvault beside restic, rustic, Borg and `cp -r`, on the same files, in one run.

    peers.py                                     everything, 1 GiB, three runs (about 15 minutes)
    peers.py --scale 0.1 --runs 1                a quick look
    peers.py --tools mlvault,restic --data DIR   chosen tools, own data: DIR/day1 and DIR/day2

Each run works through four phases, and in each phase through all tools, in an order that turns from run to run:

    first      a backup of day 1 into an empty local repository
    unchanged  the same again
    day 2      a backup after the folder became that of day 2: files that stayed the same were not touched
    restore    the newest snapshot, into an empty folder

Fair by these rules: one file system for source, repositories and restores; before each measurement the source (or the
repository) is read once, so that caches are warm for everybody, and `sync` has returned; every tool has a home folder
of its own, so that no cache or setting of the user takes part; the defaults of each tool, but for Borg's compression,
which is set to zstd 3 as the others have it. All but cp encrypt. Every restore is compared with the source byte by
byte, after the clock stopped. CPU and memory are those of the tool's processes as the kernel accounts for them; memory
never shows less than the 8 MiB of the process that starts the tool. The numbers are medians.

Peers that are not installed are left out: `scripts/setup.sh bench` installs restic and Borg, `scripts/setup.sh rustic`
compiles rustic.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no cache of the next import in the source tree
import workload

MIB = 1 << 20
PHASES = ["first", "unchanged", "day 2", "restore"]
READ_BYTES = 4 * MIB
PEERS_FOLDER = Path(os.environ.get("MLVAULT_PEERS", Path.home() / ".cache/mlvault-peers"))
CACHE_FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
SECRET = "correct horse battery staple"
SECRET_VARIABLES = ["MLVAULT_PASSPHRASE", "RESTIC_PASSWORD", "RUSTIC_PASSWORD", "BORG_PASSPHRASE"]


@dataclass
class Measurement:
    """One timed command. `repository_bytes` is the size of the repository when it had ended."""

    tool: str
    run: int
    phase: str
    wall_seconds: float
    cpu_seconds: float
    rss_bytes_max: int
    repository_bytes: int


class Tool:
    """A backup tool: its command lines, and where its repository and home folder stand in one run."""

    version_arguments = ["--version"]

    def __init__(self, name, program):
        self.name, self.program = name, program

    def place(self, folder):
        """Gives the tool empty surroundings for one run."""
        self.repository, self.home = folder / "repository", folder / "home"
        self.home.mkdir(parents=True)

    def environment(self):
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLVAULT_", "RESTIC_", "RUSTIC_", "BORG_"))
        }
        own = {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
        }
        return kept | own | dict.fromkeys(SECRET_VARIABLES, SECRET)

    def version(self):
        return (
            subprocess.run([self.program, *self.version_arguments], capture_output=True, text=True)
            .stdout.split("\n")[0]
            .strip()
        )

    def prepare_backup(self):
        """What must happen before a backup, untimed."""


class Mlvault(Tool):
    def init(self):
        return [self.program, "--repo", self.repository, "--quiet", "init"]

    def backup(self):
        return [self.program, "--repo", self.repository, "--quiet", "backup", "."]

    def restore(self, target):
        return [
            self.program,
            "--repo",
            self.repository,
            "--quiet",
            "restore",
            "--snapshot",
            "latest",
            "--target",
            target,
        ]


class Restic(Tool):
    version_arguments = ["version"]

    def init(self):
        return [self.program, "--repo", self.repository, "--quiet", "init"]

    def backup(self):
        return [self.program, "--repo", self.repository, "--quiet", "backup", "."]

    def restore(self, target):
        return [self.program, "--repo", self.repository, "--quiet", "restore", "latest", "--target", target]


class Rustic(Tool):
    def init(self):
        return [self.program, "--repository", self.repository, "--no-progress", "init"]

    def backup(self):
        return [self.program, "--repository", self.repository, "--no-progress", "backup", "."]

    def restore(self, target):
        return [self.program, "--repository", self.repository, "--no-progress", "restore", "latest", target]


class Borg(Tool):
    def init(self):
        return [self.program, "init", "--encryption", "repokey-blake2", self.repository]

    def backup(self):
        return [self.program, "create", "--compression", "zstd,3", f"{self.repository}::{{now:%Y%m%d-%H%M%S.%f}}", "."]

    def restore(self, target):
        """Borg restores into the working directory, and has no word for the newest archive."""
        listing = [self.program, "list", "--short", "--last", "1", self.repository]
        archive = subprocess.run(
            listing, env=self.environment(), capture_output=True, text=True, check=True
        ).stdout.strip()
        return [self.program, "extract", f"{self.repository}::{archive}"]


class Copy(Tool):
    """The floor: what the disk and the file system need for the bytes alone. Holds one state, not a history."""

    def init(self):
        return ["true"]

    def prepare_backup(self):
        shutil.rmtree(self.repository, ignore_errors=True)

    def backup(self):
        return [self.program, "-r", ".", self.repository]

    def restore(self, target):
        return [self.program, "-r", f"{self.repository}/.", target]


TOOLS = {"mlvault": Mlvault, "restic": Restic, "rustic": Rustic, "borg": Borg, "cp": Copy}
HOW_TO_INSTALL = {
    "mlvault": "cargo build --release",
    "restic": "scripts/setup.sh bench",
    "borg": "scripts/setup.sh bench",
    "rustic": "scripts/setup.sh rustic",
}

# ---- files ---------------------------------------------------------------------------------------------------------


def files_below(folder):
    """Relative path → absolute path of every file."""
    return {
        path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()
    }


def bytes_below(folder):
    return sum(path.stat().st_size for path in files_below(folder).values())


def read_everything(folder):
    for path in files_below(folder).values():
        with open(path, "rb") as file:
            while file.read(READ_BYTES):
                pass


def same_content(one, other):
    if one.stat().st_size != other.stat().st_size:
        return False
    with open(one, "rb") as first, open(other, "rb") as second:
        while block := first.read(READ_BYTES):
            if block != second.read(READ_BYTES):
                return False
    return True


def unchanged(one, other):
    """Whether a file of one day is that of another, by what a backup tool can see without reading."""
    first, second = one.stat(), other.stat()
    return (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns)


def become(folder, day):
    """Turns a folder into the state of a day, as a deployment would: unchanged files keep their inode and times."""
    have, want = files_below(folder), files_below(day)
    for path in have.keys() - want.keys():
        have[path].unlink()
    for path, source in want.items():
        if path not in have or not unchanged(have[path], source):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).unlink(missing_ok=True)
            shutil.copy2(source, folder / path)


def differences(restored, source):
    """What is wrong with a restore: paths that are missing, surplus or different."""
    got, want = files_below(restored), files_below(source)
    yield from (f"missing: {path}" for path in want.keys() - got.keys())
    yield from (f"surplus: {path}" for path in got.keys() - want.keys())
    yield from (f"different: {path}" for path in want.keys() & got.keys() if not same_content(got[path], want[path]))


# ---- measuring -----------------------------------------------------------------------------------------------------


# Runs in a small interpreter of its own: the kernel counts the memory of a process from before it becomes the tool, so
# the smaller the parent, the smaller the error. Writes one line: exit code, wall seconds, CPU seconds, peak RSS in KiB.
TIMER = """
import os, sys, time
start = time.monotonic()
process = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
status, usage = os.wait4(process, 0)[1:]
wall_seconds = time.monotonic() - start
line = f"{os.waitstatus_to_exitcode(status)} {wall_seconds} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}"
os.write(int(sys.argv[1]), line.encode())
"""


def run_command(command, folder, environment):
    """Runs a command to its end and returns (wall seconds, CPU seconds, peak RSS in bytes); exits if it fails."""
    command = [str(word) for word in command]
    with tempfile.TemporaryFile() as messages, tempfile.TemporaryFile() as result:
        timer = [sys.executable, "-I", "-S", "-c", TIMER, str(result.fileno()), *command]
        inherited = {"pass_fds": [result.fileno()], "stdin": subprocess.DEVNULL, "stdout": messages, "stderr": messages}
        subprocess.run(timer, cwd=folder, env=environment, **inherited)
        result.seek(0)
        exit_code, wall_seconds, cpu_seconds, rss_kib = result.read().split() or [b"127", b"0", b"0", b"0"]
        if int(exit_code) != 0:
            messages.seek(0)
            tail = messages.read()[-4000:].decode(errors="replace")
            sys.exit(f"peers: '{' '.join(command)}' ended with exit code {int(exit_code)}:\n{tail}")
    return float(wall_seconds), float(cpu_seconds), int(rss_kib) * 1024


def measure(tool, run, phase, source, target):
    """One phase of one tool, with warm caches and nothing left to write from before."""
    if phase == "restore":
        target.mkdir()
        command, folder, read = tool.restore(target), target, tool.repository
    else:
        tool.prepare_backup()
        command, folder, read = tool.backup(), source, source
    read_everything(read)
    os.sync()
    cost = run_command(command, folder, tool.environment())
    return Measurement(tool.name, run, phase, *cost, bytes_below(tool.repository))


def turned(tools, by):
    by %= len(tools)
    return tools[by:] + tools[:by]


def one_run(run, tools, data, work):
    """All phases of all tools; returns the measurements and a list of complaints about restores."""
    source, measurements, complaints = work / "source", [], []
    source.mkdir()
    become(source, data / "day1")
    for tool in tools:
        tool.place(work / tool.name)
        run_command(tool.init(), source, tool.environment())
    for phase in PHASES:
        if phase == "day 2":
            become(source, data / "day2")
        for tool in turned(tools, run):
            target = work / tool.name / "restored"
            measurements.append(measure(tool, run, phase, source, target))
            log(f"run {run + 1}  {phase:9}  {tool.name:8} {measurements[-1].wall_seconds:7.2f} s")
            if phase == "restore":
                complaints += [f"{tool.name}: {line}" for line in differences(target, source)]
                shutil.rmtree(target)
    return measurements, complaints


# ---- reporting -----------------------------------------------------------------------------------------------------


def log(message):
    print(message, file=sys.stderr, flush=True)


def describe_machine(work):
    """What numbers depend on besides the tools."""
    cpu = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    system = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    file_system = subprocess.run(["df", "--output=fstype", work], capture_output=True, text=True).stdout.split()[-1]
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory.split()[1]) / MIB, 1),
        "system": system.get("PRETTY_NAME", "").strip('"'),
        "kernel": platform.release(),
        "file_system": file_system,
        "load_before": round(os.getloadavg()[0], 2),
    }


def cell(measurements):
    """Median wall time with its range, CPU time and peak memory of one phase."""
    wall = [m.wall_seconds for m in measurements]
    spread = f" ({min(wall):.2f}–{max(wall):.2f})" if len(wall) > 1 else ""
    cpu = statistics.median(m.cpu_seconds for m in measurements)
    memory = statistics.median(m.rss_bytes_max for m in measurements) / MIB
    return f"{statistics.median(wall):.2f} s{spread}, {cpu:.1f} s CPU, {memory:.0f} MiB"


def repository_size(measurements):
    return f"{statistics.median(m.repository_bytes for m in measurements) / MIB:.0f} MiB"


def markdown(report, measurements):
    machine, data = report["machine"], report["data"]
    lines = [
        "| tool | first backup | unchanged | day 2 | restore | repository, day 1 | repository, day 2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in report["tools"]:
        by_phase = {phase: [m for m in measurements if (m.tool, m.phase) == (name, phase)] for phase in PHASES}
        cells = [cell(by_phase[phase]) for phase in PHASES]
        sizes = [repository_size(by_phase[phase]) for phase in ("first", "day 2")]
        lines.append(f"| {name} | " + " | ".join(cells + sizes) + " |")
    lines += [
        "",
        ("One run" if report["runs"] == 1 else f"Median of {report['runs']} runs (fastest–slowest)")
        + ", CPU time, peak memory. Every restore was compared with the source: "
        + ("all identical." if not report["complaints"] else f"{len(report['complaints'])} DIFFERENCES.")
        + (" `cp -r` neither encrypts nor keeps a history." if "cp" in report["tools"] else ""),
        "",
        f"Data: day 1 {data['day1_files']} files, {data['day1_bytes'] / MIB:.0f} MiB; "
        f"day 2 {data['day2_files']} files, {data['day2_bytes'] / MIB:.0f} MiB ({data['made_by']}).",
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, "
        f"Linux {machine['kernel']}, {machine['file_system']}; "
        f"load before {machine['load_before']}, after {machine['load_after']}.",
        "",
        "Versions: " + "; ".join(f"{name}: {version}" for name, version in report["tools"].items()) + ".",
    ]
    return "\n".join(lines)


# ---- arguments -----------------------------------------------------------------------------------------------------


def find_program(name, mlvault):
    if name == "mlvault":
        return mlvault if mlvault.is_file() else None
    return shutil.which(name, path=f"{os.environ['PATH']}:{PEERS_FOLDER / 'bin'}")


def find_tools(arguments):
    """The tools to measure; one that was asked for by name must be there, others are left out."""
    tools = []
    for name in arguments.tools.split(",") if arguments.tools else TOOLS:
        if name not in TOOLS:
            sys.exit(f"peers: unknown tool '{name}': expected {', '.join(TOOLS)}")
        program = find_program(name, arguments.mlvault)
        if program:
            tools.append(TOOLS[name](name, str(program)))
        elif arguments.tools or name == "mlvault":
            sys.exit(f"peers: {name} is not installed: {HOW_TO_INSTALL.get(name)}")
        else:
            log(f"{name} is not installed and left out ({HOW_TO_INSTALL[name]})")
    return tools


def make_data(scale, seed):
    """The generated deployment of two days, made once and kept in the cache folder."""
    folder = CACHE_FOLDER / f"mlvault-workload/scale-{scale:g}-seed-{seed}"
    for day in (1, 2):
        if not (folder / f"day{day}").is_dir():
            log(f"making the deployment of day {day} in {folder}")
            unfinished = folder / f"unfinished-{os.getpid()}"
            workload.make_day(unfinished, day, scale, seed)
            unfinished.rename(folder / f"day{day}")
    return folder


def describe_data(data, made_by):
    described = {"made_by": made_by}
    for day in ("day1", "day2"):
        described[f"{day}_files"], described[f"{day}_bytes"] = len(files_below(data / day)), bytes_below(data / day)
    return described


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path.home() / ".cache/mlvault-target"))
    parser.add_argument("--tools", help=f"comma-separated, of {','.join(TOOLS)} (all that are installed)")
    parser.add_argument(
        "--mlvault", type=Path, default=target / "release/mlvault", help="the binary to measure (%(default)s)"
    )
    parser.add_argument("--runs", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--data", type=Path, help="a folder with day1/ and day2/, instead of generated data")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="size of the generated data, 1 is about 1 GiB (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the generated data (%(default)s)")
    parser.add_argument(
        "--work",
        type=Path,
        default=CACHE_FOLDER,
        help="where repositories and restores stand while it runs (%(default)s)",
    )
    parser.add_argument("--json", type=Path, help="also write every single measurement to this file")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    tools = find_tools(arguments)
    data = (arguments.data or make_data(arguments.scale, arguments.seed)).resolve()
    made_by = (
        f"workload.py --scale {arguments.scale:g} --seed {arguments.seed}"
        if not arguments.data
        else "given by the caller"
    )
    arguments.work.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(arguments.work)
    measurements, complaints = [], []
    for run in range(arguments.runs):
        with tempfile.TemporaryDirectory(prefix="mlvault-peers-", dir=arguments.work) as work:
            measured, complained = one_run(run, tools, data, Path(work))
        measurements += measured
        complaints += complained
    machine["load_after"] = round(os.getloadavg()[0], 2)
    report = {
        "machine": machine,
        "data": describe_data(data, made_by),
        "runs": arguments.runs,
        "tools": {tool.name: tool.version() for tool in tools},
        "complaints": complaints,
    }
    print(markdown(report, measurements))
    if arguments.json:
        arguments.json.write_text(json.dumps(report | {"measurements": [asdict(m) for m in measurements]}, indent=1))
    if complaints:
        sys.exit("peers: restores differ from their source:\n" + "\n".join(complaints[:20]))


if __name__ == "__main__":
    main()
