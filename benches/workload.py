#!/usr/bin/env python3
"""Makes the files of an MLflow deployment, day by day, for benchmarks: the same bytes for the same arguments.

    workload.py OUT --day 1              about 1 GiB
    workload.py OUT --day 2              what the same deployment looks like a day later, complete, not as a difference
    workload.py OUT --day 1 --scale 0.1  a tenth of the bytes of every big file

What it holds, because a benchmark's result depends on little else than the mix:

    weights      safetensors in float32, bfloat16 and float16; new versions differ from the one before in their head,
                 everywhere by a little, or in a few scattered weights
    checkpoint   weights with both Adam moments, three times the size of the weights, all new at every step
    tables       CSV of predictions, gradient-boosted trees as text, PNG plots
    database     a dump in the form of pg_dump, mostly metric histories, new rows at the end of each table
    metadata     experiments, runs and models as the REST API gives them, and the small YAML files of every model

Numbers in the weights are normally distributed, as trained weights roughly are. A file that did not change keeps its
modification time from day to day. Needs numpy only; another numpy may draw other numbers, so compare under one version.
"""

import argparse
import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MIB = 1 << 20
DAY_SECONDS = 86_400
EPOCH_SECONDS = 1_790_000_000  # day 0
ELEMENT_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
LAYER_ELEMENTS = 256 * 1024
LAYERS_MIN, LAYERS_MAX = 4, 48


@dataclass(frozen=True)
class Model:
    """A registered model; two versions exist on day 1, later ones appear every `days_between_versions`."""

    name: str
    mebibytes: int
    dtype: str
    tuning: str
    days_between_versions: int

    def versions(self, day):
        return 2 + (day - 1) // self.days_between_versions

    def born(self, version):
        """The day on which a version was trained."""
        return 1 + max(0, version - 2) * self.days_between_versions


MODELS = [
    Model("ticket-encoder", 90, "F32", "head", 1),
    Model("search-ranker", 60, "F32", "everywhere", 2),
    Model("assistant-merged", 120, "BF16", "scattered", 1),
    Model("image-backbone", 80, "F16", "head", 3),
    Model("keyword-spotter", 40, "BF16", "everywhere", 3),
]
CHECKPOINTED = "search-ranker"
TREES, TABLES = "fraud-trees", "churn-tables"
EXPERIMENTS = [model.name for model in MODELS] + [TREES, TABLES]
TABULAR_RUNS, TABULAR_RUNS_PER_DAY = 20, 4


class Deployment:
    """One day's state, written below `out`. Every piece draws from its own generator, named by what it is."""

    def __init__(self, out, day, scale, seed):
        self.out, self.day, self.scale, self.seed = Path(out), day, scale, seed
        self.runs = []  # (experiment, run id, name, day)
        self.versions = []  # (model, version, run id, source, day)

    def generator(self, *key):
        return np.random.default_rng([self.seed, *(zlib.crc32(str(part).encode()) for part in key)])

    def hex_id(self, *key):
        return self.generator("id", *key).bytes(16).hex()

    def scaled(self, count, at_least):
        return max(at_least, int(count * self.scale))

    def write(self, path, parts, day):
        """Writes one file from pieces, dated on the day when it last changed."""
        path = self.out / path
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for part in [parts] if isinstance(parts, (str, bytes)) else parts:
                file.write(part.encode() if isinstance(part, str) else part)
        os.utime(path, (EPOCH_SECONDS + day * DAY_SECONDS,) * 2)

    def new_run(self, experiment, name, day):
        """Registers a run and returns its id and its artifact folder."""
        run_id = self.hex_id("run", experiment, name)
        self.runs.append((experiment, run_id, name, day))
        return run_id, f"mlartifacts/{EXPERIMENTS.index(experiment) + 1}/{run_id}/artifacts"

    def write_model(self, model, version, run_id, flavor, file_name, parts, day):
        """A logged model as MLflow 3 lays it out: beside the runs, in a folder of its own."""
        model_id = "m-" + self.hex_id("model", model, version)
        folder = f"mlartifacts/{EXPERIMENTS.index(model) + 1}/models/{model_id}/artifacts"
        self.versions.append((model, version, run_id, f"models:/{model_id}", day))
        small = {
            "MLmodel": f"artifact_path: mlflow-artifacts:/{folder}\nflavors:\n  {flavor}:\n    data: {file_name}\n"
            f"  python_function:\n    loader_module: mlflow.{flavor}\n    python_version: 3.11.7\n"
            f"mlflow_version: 3.17.2\nmodel_id: {model_id}\nrun_id: {run_id}\n",
            "conda.yaml": "channels:\n- conda-forge\ndependencies:\n- python=3.11.7\n- pip\n- pip:\n"
            "  - mlflow==3.17.2\nname: mlflow-env\n",
            "python_env.yaml": "python: 3.11.7\nbuild_dependencies:\n- pip\n- setuptools\n"
            "dependencies:\n- -r requirements.txt\n",
            "requirements.txt": "mlflow==3.17.2\nnumpy==2.4.6\nsafetensors==0.8.0\n",
        }
        for name, text in small.items():
            self.write(f"{folder}/{name}", text, day)
        self.write(f"{folder}/{file_name}", parts, day)

    # ---- the parts of a deployment

    def write_all(self):
        for model in MODELS:
            for version in range(1, model.versions(self.day) + 1):
                self.write_weights(model, version)
        for number in range(TABULAR_RUNS + TABULAR_RUNS_PER_DAY * (self.day - 1)):
            day = 1 if number < TABULAR_RUNS else 2 + (number - TABULAR_RUNS) // TABULAR_RUNS_PER_DAY
            self.write_trees(number, day)
            self.write_table(number, day)
        self.write_database()
        self.write_metadata()

    def write_weights(self, model, version):
        day = model.born(version)
        run_id, folder = self.new_run(model.name, f"v{version}", day)
        tensors = self.tuned(model, version)
        self.write_model(
            model.name, version, run_id, "pytorch", "model.safetensors", safetensors(tensors, model.dtype), day
        )
        for plot, side in (("loss", 480), ("confusion", 320)):
            self.write(f"{folder}/plots/{plot}.png", png(self.generator(model.name, plot, version), side), day)
        if model.name == CHECKPOINTED and version == model.versions(self.day):
            some = tensors[: max(1, len(tensors) // 3)]
            self.write(f"{folder}/checkpoints/last.ckpt", self.checkpoint(some, version), day)

    def write_trees(self, number, day):
        run_id, folder = self.new_run(TREES, f"run-{number}", day)
        text = trees_text(self.generator(TREES, number), self.scaled(300, 2))
        self.write_model(TREES, number + 1, run_id, "lightgbm", "model.lgb", text, day)
        self.write(f"{folder}/plots/roc.png", png(self.generator(TREES, "roc", number), 320), day)

    def write_table(self, number, day):
        _, folder = self.new_run(TABLES, f"run-{number}", day)
        self.write(
            f"{folder}/eval/predictions.csv", table_csv(self.generator(TABLES, number), self.scaled(20_000, 50)), day
        )
        self.write(f"{folder}/plots/roc.png", png(self.generator(TABLES, "roc", number), 320), day)

    def tuned(self, model, version):
        """The named float32 tensors of one version, each version made from the one before."""
        elements = int(model.mebibytes * self.scale * MIB / ELEMENT_BYTES[model.dtype])
        layers = min(LAYERS_MAX, max(LAYERS_MIN, elements // LAYER_ELEMENTS))
        tensors = []
        for layer in range(layers):
            rng = self.generator(model.name, "layer", layer)
            spread = np.float32(0.01 + 0.02 * rng.random())
            tensors.append(
                (f"layers.{layer}.weight", rng.standard_normal(elements // layers, dtype=np.float32) * spread)
            )
        for step in range(2, version + 1):
            tensors = [
                (name, tune(weights, model.tuning, layer, layers, self.generator(model.name, "tuning", step, layer)))
                for layer, (name, weights) in enumerate(tensors)
            ]
        return tensors

    def checkpoint(self, tensors, step):
        """Weights, then the first and second moment of each: no format in particular, as frameworks' own ones are."""
        yield b"CKPT" + struct.pack("<II", 1, step)
        for name, weights in tensors:
            moment = self.generator("moments", step, name).standard_normal(weights.size, dtype=np.float32) * np.float32(
                1e-3
            )
            for values in (weights, moment, np.square(moment)):
                yield values.astype("<f4").tobytes()

    def write_database(self):
        """Rows stand in physical order, as pg_dump leaves them: in each table yesterday's first, today's after them."""
        run_rows = [
            f"{run_id}\t{experiment}-{name}\tFINISHED\t{milliseconds(day)}\t{milliseconds(day) + 3_600_000}\t"
            f"mlflow-artifacts:/{EXPERIMENTS.index(experiment) + 1}/{run_id}/artifacts\t"
            f"{EXPERIMENTS.index(experiment) + 1}\n"
            for experiment, run_id, name, day in by_day(self.runs)
        ]
        experiment_rows = [
            f"{i + 1}\t{name}\tmlflow-artifacts:/{i + 1}\tactive\n" for i, name in enumerate(EXPERIMENTS)
        ]
        param_rows = [
            f"{param}\t{self.generator('param', run_id, param).random():.6f}\t{run_id}\n"
            for _, run_id, _, _ in by_day(self.runs)
            for param in ("learning_rate", "dropout", "weight_decay", "seed", "depth")
        ]
        version_rows = [
            f"{name}\t{version}\tNone\t{source}\t{run_id}\tREADY\n"
            for name, version, run_id, source, _ in by_day(self.versions)
        ]

        def tables():
            yield "--\n-- PostgreSQL database dump\n--\n\nSET statement_timeout = 0;\nSET client_encoding = 'UTF8';\n"
            yield from copy("experiments", "experiment_id name artifact_location lifecycle_stage", experiment_rows)
            yield from copy("runs", "run_uuid name status start_time end_time artifact_uri experiment_id", run_rows)
            yield from copy("params", "key value run_uuid", param_rows)
            yield from copy("metrics", "key value timestamp run_uuid step is_nan", self.metric_rows())
            yield from copy("model_versions", "name version current_stage source run_id status", version_rows)

        self.write("db/mlflow.sql", tables(), self.day)

    def metric_rows(self):
        steps = self.scaled(2500, 10)
        for _, run_id, _, day in by_day(self.runs):
            for metric in ("loss", "accuracy", "val_loss", "val_accuracy"):
                noise = self.generator("metric", run_id, metric).standard_normal(steps) * 0.01
                values = np.exp(-np.linspace(0, 3, steps)) + noise
                start = milliseconds(day)
                yield "".join(
                    f"{metric}\t{v:.16g}\t{start + 1000 * s}\t{run_id}\t{s}\tf\n" for s, v in enumerate(values)
                )

    def write_metadata(self):
        documents = {
            "experiments": [
                {
                    "experiment_id": str(i + 1),
                    "name": name,
                    "artifact_location": f"mlflow-artifacts:/{i + 1}",
                    "lifecycle_stage": "active",
                }
                for i, name in enumerate(EXPERIMENTS)
            ],
            "runs": [
                {
                    "info": {
                        "run_id": run_id,
                        "run_name": f"{experiment}-{name}",
                        "status": "FINISHED",
                        "start_time": milliseconds(day),
                    }
                }
                for experiment, run_id, name, day in by_day(self.runs)
            ],
            "model_versions": [
                {"name": name, "version": str(version), "run_id": run_id, "source": source}
                for name, version, run_id, source, _ in by_day(self.versions)
            ],
        }
        for name, content in documents.items():
            self.write(f"metadata/{name}.json", json.dumps({name: content}, indent=1), self.day)


# ---- single files: pure functions ----------------------------------------------------------------------------------


def by_day(records):
    return sorted(records, key=lambda record: record[-1])


def milliseconds(day):
    return (EPOCH_SECONDS + day * DAY_SECONDS) * 1000


def tune(weights, tuning, layer, layers, rng):
    """One layer of the next version: the last tenth of all layers, every weight, or 2 % of every fourth layer."""
    if tuning == "head" and layer >= layers * 9 // 10:
        return weights + rng.standard_normal(weights.size, dtype=np.float32) * np.float32(0.01)
    if tuning == "everywhere":
        return weights + rng.standard_normal(weights.size, dtype=np.float32) * np.float32(2e-4)
    if tuning == "scattered" and layer % 4 == 0:
        changed = weights.copy()
        changed[rng.integers(0, weights.size, weights.size // 50)] += np.float32(0.005)
        return changed
    return weights


def encode(weights, dtype):
    if dtype == "F32":
        return weights.astype("<f4").tobytes()
    if dtype == "F16":
        return weights.astype("<f2").tobytes()
    bits = weights.astype("<f4").view("<u4")
    rounded_to_even = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded_to_even >> 16).astype("<u2").tobytes()


def safetensors(tensors, dtype):
    """Header length, JSON header padded to 8 bytes, then the tensors one after another."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, weights in tensors:
        end = at + weights.size * ELEMENT_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": [weights.size], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for _, weights in tensors:
        yield encode(weights, dtype)


def png(rng, side):
    """A grey image of smooth noise, compressed about as well as a plot."""
    pixels = rng.integers(0, 40, (side, side), dtype=np.uint8).cumsum(1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 6)) + chunk(b"IEND", b"")


def table_csv(rng, rows):
    values, segments = rng.standard_normal((rows, 6)).round(4), rng.integers(0, 50, rows)
    yield "id,segment,a,b,c,d,e,f\n"
    for row in range(rows):
        yield f"{row},segment_{segments[row]}," + ",".join(map(str, values[row])) + "\n"


def trees_text(rng, trees, leaves=31):
    yield "tree\nversion=v4\nnum_class=1\n"
    for tree in range(trees):
        yield f"Tree={tree}\nnum_leaves={leaves}\nsplit_feature=" + " ".join(map(str, rng.integers(0, 40, leaves - 1)))
        for name, values in (
            ("threshold", rng.standard_normal(leaves - 1)),
            ("leaf_value", rng.standard_normal(leaves) * 0.01),
        ):
            yield f"\n{name}=" + " ".join(f"{value:.17g}" for value in values)
        yield "\n\n"


def copy(table, columns, rows):
    """One table as pg_dump writes it."""
    yield f"\nCOPY public.{table} ({', '.join(columns.split())}) FROM stdin;\n"
    yield from rows
    yield "\\.\n\n"


def make_day(out, day, scale=1.0, seed=1):
    """Writes the deployment of one day into the empty folder `out`."""
    Deployment(out, day, scale, seed).write_all()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--day", type=int, default=1, help="1, 2, 3, … (1)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the big files; 1 is about 1 GiB on day 1 (1)")
    parser.add_argument("--seed", type=int, default=1, help="another seed is another deployment of the same mix (1)")
    arguments = parser.parse_args()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"'{arguments.out}' is not empty")
    make_day(arguments.out, arguments.day, arguments.scale, arguments.seed)
    files = [path for path in arguments.out.rglob("*") if path.is_file()]
    print(f"day {arguments.day}: {len(files)} files, {sum(path.stat().st_size for path in files) / MIB:.0f} MiB")


if __name__ == "__main__":
    main()
