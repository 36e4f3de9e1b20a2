#!/usr/bin/env python3
"""Fills a running MLflow server with a small real deployment, and says what it holds.

    make_mlflow.py log --day N      logs the work of one day (days in order: 1, then 2)
    make_mlflow.py record FILE      writes what the server knows and what each model version predicts
    make_mlflow.py verify FILE      records again, compares with FILE, exits 1 if anything differs

The server is the one that MLFLOW_TRACKING_URI names; everything goes through MLflow's public client, as in a real team.
Day 1: three scikit-learn sweeps and a text encoder, two versions of each model, aliases, plots, tables, traces.
Day 2: two more runs and a new version in each sweep, a tuned head for the encoder, moved aliases, one deleted run.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

# Before mlflow is imported: it reads these when it loads.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
    GIT_PYTHON_REFRESH="quiet",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",  # models this small gain nothing from more, and threads that wait burn a busy machine
)
warnings.filterwarnings("ignore")

import logging

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.models import infer_signature

logging.getLogger("mlflow").setLevel(logging.ERROR)

FEATURES = [f"f{i:02d}" for i in range(12)]
VOCABULARY, WIDTH, CLASSES = 20_000, 256, 8  # 20 MiB of float32 weights


def generator(*key):
    return np.random.default_rng([sum(map(ord, str(part))) for part in key])


def table(name, rows):
    """Features with something to learn in them; the same rows on every call."""
    rng = generator(name, "table")
    frame = pd.DataFrame(rng.standard_normal((rows, len(FEATURES))), columns=FEATURES)
    signal = frame.f00 + 0.5 * frame.f01 * frame.f02 + 0.3 * rng.standard_normal(rows)
    return frame, signal


# ---- the models ----------------------------------------------------------------------------------------------------


def fraud_detector(setting):
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=60, learning_rate=setting, random_state=1)


def churn_classifier(setting):
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(int(setting), random_state=1)


def demand_forecaster(setting):
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge(alpha=setting))


# experiment: (registered model, constructor, classification?, settings of day 1, settings of day 2)
SWEEPS = {
    "fraud": ("fraud-detector", fraud_detector, True, [0.02, 0.05, 0.1, 0.2], [0.15, 0.3]),
    "churn": ("churn-classifier", churn_classifier, True, [10, 20, 30, 40], [60, 80]),
    "demand": ("demand-forecaster", demand_forecaster, False, [0.01, 0.1, 1.0, 10.0], [3.0, 5.0]),
}


class TextEncoder(mlflow.pyfunc.PythonModel):
    """Scores texts with an embedding table and a linear head, both read from a safetensors file."""

    def load_context(self, context):
        from safetensors.numpy import load_file

        self.weights = load_file(context.artifacts["weights"])

    def predict(self, context, model_input, params=None):
        import zlib

        import numpy

        embedding, head = self.weights["embedding.weight"], self.weights["head.weight"]
        rows = [[zlib.crc32(word.encode()) % len(embedding) for word in text.split()] for text in model_input["text"]]
        return numpy.stack([embedding[row].mean(0) @ head for row in rows]).argmax(1)


def encoder_weights(version):
    """Version 1 is trained from nothing; each later version tunes the head and the last rows of the embedding."""
    weights = {
        "embedding.weight": generator("embedding").standard_normal((VOCABULARY, WIDTH), dtype=np.float32)
        * np.float32(0.02),
        "head.weight": generator("head").standard_normal((WIDTH, CLASSES), dtype=np.float32),
    }
    for tuned in range(2, version + 1):
        rng = generator("tuning", tuned)
        weights["head.weight"] += rng.standard_normal((WIDTH, CLASSES), dtype=np.float32) * np.float32(0.1)
        weights["embedding.weight"][-500:] += rng.standard_normal((500, WIDTH), dtype=np.float32) * np.float32(0.01)
    return weights


# ---- logging -------------------------------------------------------------------------------------------------------


def log_curve(run_id, steps=200):
    """A whole training curve in one request, and its plot."""
    import matplotlib.pyplot as plt

    loss = np.exp(-np.linspace(0, 3, steps)) + generator(run_id, "curve").standard_normal(steps) * 0.01
    start = 1_790_000_000_000
    MlflowClient().log_batch(
        run_id, metrics=[Metric("loss", float(v), start + 1000 * s, s) for s, v in enumerate(loss)]
    )
    figure, axes = plt.subplots()
    axes.plot(loss)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    mlflow.log_figure(figure, "plots/loss.png")
    plt.close(figure)


def log_sweep(experiment, day):
    """One run for each setting; the last two runs of day 1, and the last of every later day, register their model."""
    model_name, construct, classify, *settings = SWEEPS[experiment]
    frame, signal = table(experiment, 2000)
    target = (signal > 0).astype(int) if classify else signal
    todo = settings[day - 1]
    register_from = len(todo) - (2 if day == 1 else 1)
    mlflow.set_experiment(experiment)
    for number, setting in enumerate(todo):
        with mlflow.start_run(run_name=f"day{day}-{number}", tags={"team": "demo", "day": str(day)}) as run:
            model = construct(setting).fit(frame, target)
            predicted = model.predict(frame)
            mlflow.log_params({"setting": setting, "rows": len(frame), "features": len(FEATURES)})
            mlflow.log_metric("score", model.score(frame, target))
            log_curve(run.info.run_id)
            mlflow.log_text(pd.DataFrame({"actual": target, "predicted": predicted}).to_csv(), "tables/predictions.csv")
            mlflow.log_table({"feature": FEATURES, "mean": frame.mean().tolist()}, "tables/features.json")
            if number >= register_from:
                mlflow.sklearn.log_model(
                    model,
                    name="model",
                    serialization_format="cloudpickle",
                    signature=infer_signature(frame, predicted),
                    pip_requirements=["scikit-learn"],
                    registered_model_name=model_name,
                )


def log_encoder(version, day):
    from safetensors.numpy import save_file

    mlflow.set_experiment("support-texts")
    with mlflow.start_run(run_name=f"day{day}-v{version}", tags={"team": "demo", "day": str(day)}) as run:
        mlflow.log_params({"vocabulary": VOCABULARY, "width": WIDTH, "tuned": "head" if version > 1 else "all"})
        log_curve(run.info.run_id)
        with tempfile.TemporaryDirectory() as folder:
            weights = os.path.join(folder, "model.safetensors")
            save_file(encoder_weights(version), weights, metadata={"format": "np"})
            mlflow.pyfunc.log_model(
                name="model",
                python_model=TextEncoder(),
                artifacts={"weights": weights},
                signature=infer_signature(pd.DataFrame({"text": ["a b"]}), np.array([0])),
                pip_requirements=["numpy", "safetensors"],
                registered_model_name="support-encoder",
            )


def log_traces(day):
    @mlflow.trace
    def look_up(question):
        return [f"document {n} on {question}" for n in range(3)]

    @mlflow.trace
    def answer(question):
        return f"As {look_up(question)[0]} says …"

    mlflow.set_experiment("support-texts")
    for number in range(5):
        answer(f"question {number} of day {day}")
    mlflow.flush_trace_async_logging()


def log_day(day):
    client = MlflowClient()
    for experiment in SWEEPS:
        log_sweep(experiment, day)
    for version in [1, 2] if day == 1 else [day + 1]:
        log_encoder(version, day)
    log_traces(day)
    for model in client.search_registered_models():
        latest = newest_version(client, model.name)
        client.set_registered_model_tag(model.name, "owner", "demo-team")
        client.set_registered_model_alias(model.name, "challenger", latest)
        client.set_registered_model_alias(model.name, "champion", latest - 1)
    if day > 1:
        experiment = client.get_experiment_by_name("churn")
        oldest = client.search_runs(
            [experiment.experiment_id], "tags.day = '1'", order_by=["start_time"], max_results=1
        )
        client.delete_run(oldest[0].info.run_id)


def newest_version(client, name):
    return max(int(version.version) for version in client.search_model_versions(f"name = '{name}'"))


# ---- what the deployment holds -------------------------------------------------------------------------------------


def describe_run(client, run):
    return {
        "experiment": run.info.experiment_id,
        "lifecycle": run.info.lifecycle_stage,
        "params": run.data.params,
        "metrics": run.data.metrics,
        "tags": run.data.tags,
        "history": {
            key: [point.value for point in client.get_metric_history(run.info.run_id, key)] for key in run.data.metrics
        },
    }


def describe_version(version):
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    if version.name == "support-encoder":
        inputs = pd.DataFrame(
            {"text": [f"my parcel {n} is late again and nobody of team {n % 7} answers" for n in range(50)]}
        )
    else:
        inputs = table("unseen", 50)[0]
    return {"run": version.run_id, "source": version.source, "predictions": np.asarray(model.predict(inputs)).tolist()}


def describe():
    """Everything that the demo compares: runs with histories, models, versions with predictions, aliases, traces."""
    client = MlflowClient()
    experiments = {e.experiment_id: e.name for e in client.search_experiments()}
    runs = client.search_runs(list(experiments), run_view_type=mlflow.entities.ViewType.ALL, max_results=1000)
    versions = client.search_model_versions(max_results=1000)
    traces = mlflow.search_traces(locations=list(experiments), return_type="list")
    return {
        "experiments": experiments,
        "runs": {run.info.run_id: describe_run(client, run) for run in runs},
        "models": {
            model.name: {"aliases": {k: str(v) for k, v in model.aliases.items()}, "tags": model.tags}
            for model in client.search_registered_models()
        },
        "versions": {f"{version.name}/{version.version}": describe_version(version) for version in versions},
        "traces": {trace.info.trace_id: [span.name for span in trace.data.spans] for trace in traces},
    }


def count(client):
    experiments = client.search_experiments()
    runs = client.search_runs([experiment.experiment_id for experiment in experiments], max_results=1000)
    models, versions = client.search_registered_models(), client.search_model_versions()
    return f"{len(experiments)} experiments, {len(runs)} active runs, {len(models)} models, {len(versions)} versions"


def summary(state):
    return ", ".join(f"{len(state[kind])} {kind}" for kind in ("experiments", "runs", "models", "versions", "traces"))


def differences(expected, found):
    """One line for each record that is missing, new or different."""
    for kind in expected:
        for key in sorted(expected[kind].keys() | found[kind].keys()):
            if expected[kind].get(key) != found[kind].get(key):
                before, after = (str(state[kind].get(key))[:200] for state in (expected, found))
                yield f"{kind}: {key}: expected {before}, found {after}"


def verify(path):
    # Through JSON on both sides, so that both have the types that JSON knows.
    expected, found = json.loads(path.read_text()), json.loads(json.dumps(describe()))
    different = list(differences(expected, found))
    for line in different:
        print(line, file=sys.stderr)
    if different or not found["versions"]:
        sys.exit(f"{len(different)} records differ from {path}")
    print(f"{summary(found)}: all as recorded, and every model version predicts the same")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("log").add_argument("--day", type=int, choices=[1, 2], required=True)
    commands.add_parser("record").add_argument("file", type=Path)
    commands.add_parser("verify").add_argument("file", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "log":
        log_day(arguments.day)
        print(f"{count(MlflowClient())} after day {arguments.day}")
    elif arguments.command == "record":
        state = describe()
        arguments.file.write_text(json.dumps(state, indent=1))
        print(summary(state))
    else:
        verify(arguments.file)


if __name__ == "__main__":
    main()
