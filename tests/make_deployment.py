#!/usr/bin/env python3
"""Fills a running MLflow server with a small real deployment, and says what it holds. Demo and tests use it.

    make_deployment.py log --day N [--scale F] [--direct URI]
                                    logs the work of one day (days in order, from 1)
    make_deployment.py record FILE  writes what the server knows and what each model version predicts
    make_deployment.py verify FILE  records again, compares with FILE, exits 1 if anything differs

    --only NAME/VERSION   record or verify just this version and its model, repeatable
    --new-ids             verify everything but what a server assigns anew: ids, locations, times
    --skip KIND           verify without one kind of thing, repeatable

The server is the one that MLFLOW_TRACKING_URI names; everything goes through MLflow's public client, as in a real team.

Day 1: scikit-learn sweeps and a text encoder with registered versions, aliases, tags, plots, tables, data sets, nested and
failed runs, odd file names, a model that nobody registered, prompts, traces with assessments, an evaluation data set.
Every later day: more runs, a new version of each model that keeps most of its weights, moved aliases, a deleted run.
Day 2 also deletes an experiment; day 3 deletes a version and overwrites an artifact in place.

Weights, tables and plots of the same day and scale have the same bytes on every call; ids and some times are the server's.
"""

import argparse
import hashlib
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
    OMP_NUM_THREADS="1",  # models this small gain nothing from more, and threads that wait burn a busy machine
)
warnings.filterwarnings("ignore")

import logging

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, InputTag, Metric, Param, ViewType
from mlflow.models import infer_signature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

logging.getLogger("mlflow").setLevel(logging.ERROR)

FEATURES = [f"f{i:02d}" for i in range(12)]
VOCABULARY, WIDTH, CLASSES = 20_000, 256, 8  # 20 MiB of float32 weights at scale 1
DAY_1 = 1_790_000_000_000  # when the first day began, in milliseconds of the epoch
DAY = 86_400_000
ENCODER = "support-encoder"
EVALUATION_SET = "support-questions"
SCRATCH = "scratch"  # the experiment that day 2 deletes


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

    return HistGradientBoostingClassifier(max_iter=int(20 + setting), random_state=1)


def churn_classifier(setting):
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(int(setting), random_state=1)


def demand_forecaster(setting):
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge(alpha=setting))


# experiment: (registered model, constructor, whether it classifies)
SWEEPS = {
    "fraud": ("fraud-detector", fraud_detector, True),
    "churn": ("churn-classifier", churn_classifier, True),
    "demand": ("demand-forecaster", demand_forecaster, False),
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


def encoder_weights(version, scale):
    """Version 1 is trained from nothing; each later version tunes the head and the last rows of the embedding."""
    vocabulary = max(1000, int(VOCABULARY * scale))
    weights = {
        "embedding.weight": generator("embedding").standard_normal((vocabulary, WIDTH), dtype=np.float32)
        * np.float32(0.02),
        "head.weight": generator("head").standard_normal((WIDTH, CLASSES), dtype=np.float32),
    }
    for tuned in range(2, version + 1):
        rng = generator("tuning", tuned)
        rows = vocabulary // 40
        weights["head.weight"] += rng.standard_normal((WIDTH, CLASSES), dtype=np.float32) * np.float32(0.1)
        weights["embedding.weight"][-rows:] += rng.standard_normal((rows, WIDTH), dtype=np.float32) * np.float32(0.01)
    return weights


# ---- logging -------------------------------------------------------------------------------------------------------


def begin_run(experiment, name, day, **tags):
    """A run that begins at a time of its day, whatever the clock says."""
    mlflow.set_experiment(experiment)
    client = MlflowClient()
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    start = DAY_1 + (day - 1) * DAY + int(generator(experiment, name).integers(DAY // 2))
    tags = {"team": "ml-platform", "day": str(day), **tags}
    run = client.create_run(experiment_id, start_time=start, run_name=name, tags=tags)
    return run.info.run_id, start


def end_run(run_id, start, status="FINISHED"):
    MlflowClient().set_terminated(run_id, status, end_time=start + 3_600_000)


def log_curve(run_id, name, start, scale):
    """A whole training curve in one request, and its plot."""
    from PIL import Image, ImageDraw

    steps = max(30, int(200 * scale))
    loss = np.exp(-np.linspace(0, 3, steps)) + generator(name, "curve").standard_normal(steps) * 0.01
    points = [Metric("loss", float(v), start + 1000 * s, s) for s, v in enumerate(loss)]
    MlflowClient().log_batch(run_id, metrics=points)
    with tempfile.TemporaryDirectory() as folder:
        image = Image.new("RGB", (640, 400), "white")
        ImageDraw.Draw(image).line([(s * 640 / steps, 380 - v * 300) for s, v in enumerate(loss)], fill="blue", width=2)
        image.save(os.path.join(folder, "loss.png"))
        MlflowClient().log_artifacts(run_id, folder, "plots")


def log_dataset(run_id, experiment, frame, day):
    source = f"s3://datalake/{experiment}/{day:04d}.parquet"
    dataset = mlflow.data.from_pandas(frame.head(50), source=source, name=f"{experiment}-train")
    tag = InputTag("mlflow.data.context", "training")
    MlflowClient().log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), [tag])])


def log_sweep(experiment, day, scale):
    """One run for each setting below one parent; the last two of day 1, and the last of every later day, register."""
    model_name, construct, classifies = SWEEPS[experiment]
    rows = max(200, int(2000 * scale))
    frame, signal = table(experiment, rows)
    target = (signal > 0).astype(int) if classifies else signal
    settings = [2.0, 4.0, 8.0] if day == 1 else [8.0 + day, 9.0 + day]
    register_from = len(settings) - (2 if day == 1 else 1)
    parent, parent_start = begin_run(experiment, f"day{day}-sweep", day)
    client = MlflowClient()
    for number, setting in enumerate(settings):
        name = f"day{day}-{number}"
        run_id, start = begin_run(experiment, name, day, **{"mlflow.parentRunId": parent})
        model = construct(setting).fit(frame, target)
        predicted = model.predict(frame)
        params = {"setting": setting, "rows": rows, "features": len(FEATURES)}
        client.log_batch(
            run_id,
            params=[Param(key, str(value)) for key, value in params.items()],
            metrics=[Metric("score", float(model.score(frame, target)), start, 0)],
        )
        log_curve(run_id, experiment + name, start, scale)
        log_dataset(run_id, experiment, frame, day)
        answers = pd.DataFrame({"actual": target, "predicted": predicted}).to_csv()
        client.log_text(run_id, answers, "tables/predictions.csv")
        if number >= register_from:
            with mlflow.start_run(run_id):
                log_sklearn(model, frame, predicted, registered_model_name=model_name)
        end_run(run_id, start)
    end_run(parent, parent_start)


def log_sklearn(model, frame, predicted, **options):
    return mlflow.sklearn.log_model(
        model,
        name="model",
        serialization_format="cloudpickle",
        signature=infer_signature(frame, predicted),
        pip_requirements=["scikit-learn"],
        **options,
    )


def log_encoder(version, day, scale):
    from safetensors.numpy import save_file

    run_id, start = begin_run("support-texts", f"day{day}-v{version}", day)
    client = MlflowClient()
    client.log_param(run_id, "tuned", "head" if version > 1 else "all")
    log_curve(run_id, f"encoder{version}", start, scale)
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id):
        weights = os.path.join(folder, "model.safetensors")
        save_file(encoder_weights(version, scale), weights, metadata={"format": "np"})
        mlflow.pyfunc.log_model(
            name="model",
            python_model=TextEncoder(),
            artifacts={"weights": weights},
            signature=infer_signature(pd.DataFrame({"text": ["a b"]}), np.array([0])),
            pip_requirements=["numpy", "safetensors"],
            registered_model_name=ENCODER,
        )
    end_run(run_id, start)


def log_odd_things(direct):
    """What a deployment has beside its sweeps: failures, strange names and values, versions that point elsewhere."""
    client = MlflowClient()
    run_id, start = begin_run("support-texts", "day1-odd", 1, **{"mlflow.note.content": "# notes\nünïcödé ✓"})
    client.log_batch(
        run_id,
        metrics=[Metric("not-a-number", float("nan"), start, 0), Metric("infinite", float("-inf"), start, 0)],
        params=[Param("long", "x" * 500), Param("ünï köde/a.b", "ß")],
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"ünï köde.txt": "ü", "a%41b.txt": "percent", "empty.txt": "", "a+b &c.txt": "plus"}.items():
            Path(folder, name).write_text(text)
        client.log_artifacts(run_id, folder, "odd names")
    client.log_text(run_id, "as logged on day 1\n", "notes.txt")
    frame, signal = table("demand", 100)
    model = demand_forecaster(1.0).fit(frame, signal)
    with mlflow.start_run(run_id):
        unregistered = log_sklearn(model, frame, model.predict(frame))
    client.set_logged_model_tags(unregistered.model_id, {"purpose": "nobody registered it"})
    client.create_registered_model("odd-sources", description="Versions whose files are not where one would look first")
    with tempfile.TemporaryDirectory() as folder:
        saved = save_sklearn(model, folder)
        client.log_artifacts(run_id, saved, "as in mlflow 2")
        client.create_model_version("odd-sources", f"runs:/{run_id}/as in mlflow 2", run_id=run_id)
        if direct:
            get_artifact_repository(direct).log_artifacts(saved)
            client.create_model_version("odd-sources", direct)
    end_run(run_id, start)
    failed, start = begin_run("support-texts", "day1-failed", 1)
    end_run(failed, start, "FAILED")
    scratch, start = begin_run(SCRATCH, "day1-scratch", 1)
    client.log_text(scratch, "to be thrown away\n", "scratch.txt")
    end_run(scratch, start)


def save_sklearn(model, folder):
    """The folder of a saved model, as logging one made it before models had ids of their own."""
    saved = os.path.join(folder, "model")
    mlflow.sklearn.save_model(model, saved, serialization_format="cloudpickle", pip_requirements=["scikit-learn"])
    return saved


def log_genai(day):
    import mlflow.genai
    import mlflow.genai.datasets as evaluation_sets
    from mlflow.entities import AssessmentSource

    text = f"You are a helpful agent (revision {day}). Answer: {{{{question}}}}"
    prompt = mlflow.genai.register_prompt("support-answer", text, commit_message=f"day {day}")
    mlflow.genai.set_prompt_alias("support-answer", "production", prompt.version)

    @mlflow.trace
    def look_up(question):
        return [f"document {n} on {question}" for n in range(3)]

    @mlflow.trace
    def answer(question):
        return f"As {look_up(question)[0]} says …"

    experiment = mlflow.set_experiment("support-texts")
    for number in range(3):
        answer(f"question {number} of day {day}")
    mlflow.flush_trace_async_logging()
    source = AssessmentSource(source_type="HUMAN", source_id="ann")
    traces = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list", max_results=1)
    mlflow.log_feedback(trace_id=traces[0].info.trace_id, name="right", value=True, rationale="Read it", source=source)
    mlflow.log_expectation(trace_id=traces[0].info.trace_id, name="answer", value=f"A{day}", source=source)
    if day == 1:
        questions = evaluation_sets.create_dataset(name=EVALUATION_SET, experiment_id=[experiment.experiment_id])
    else:
        questions = evaluation_sets.get_dataset(name=EVALUATION_SET)
    records = [{"inputs": {"question": f"q{day}-{k}"}, "expectations": {"answer": f"a{k}"}} for k in range(3)]
    questions.merge_records(records)


def versions_of(client, name):
    return sorted(int(version.version) for version in client.search_model_versions(f"name = '{name}'"))


def move_aliases(client, day):
    for model in client.search_registered_models():
        latest = versions_of(client, model.name)[-1]
        client.set_registered_model_tag(model.name, "owner", "ml-platform")
        client.set_registered_model_alias(model.name, "challenger", latest)
        client.set_registered_model_alias(model.name, "champion", max(1, latest - 1))
        client.set_model_version_tag(model.name, str(latest), "approved", f"on day {day}")


def find_run(client, experiment, name):
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id], f"tags.mlflow.runName = '{name}'")[0].info.run_id


def log_day(day, scale, direct):
    client = MlflowClient()
    for experiment in SWEEPS:
        log_sweep(experiment, day, scale)
    for version in [1, 2] if day == 1 else [day + 1]:
        log_encoder(version, day, scale)
    log_genai(day)
    if day == 1:
        log_odd_things(direct)
    else:
        client.delete_run(find_run(client, "churn", f"day{day - 1}-0"))
    if day == 2:
        client.delete_experiment(client.get_experiment_by_name(SCRATCH).experiment_id)
    if day == 3:
        client.delete_model_version("demand-forecaster", "1")
        client.log_text(find_run(client, "support-texts", "day1-odd"), "overwritten on day 3\n", "notes.txt")
    move_aliases(client, day)


# ---- what the deployment holds -------------------------------------------------------------------------------------

# What a server assigns anew when things are logged again, wherever it stands in the description.
ASSIGNED = {"id", "run", "model_id", "source", "location", "parent"}
# Tags that mirror ids, or that an import leaves.
MIRRORS = ("mlvault.", "mlflow.parentRunId", "mlflow.modelVersions")


def file_digests(folder):
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def describe_files(download):
    """The digests of what `download` puts into the folder that it is given."""
    with tempfile.TemporaryDirectory() as folder:
        return file_digests(download(folder))


def as_text(value):
    return value if np.isfinite(value) else str(value)


def describe_run(client, run):
    info, data, inputs = run.info, run.data, run.inputs
    return {
        "id": info.run_id,
        "parent": data.tags.get("mlflow.parentRunId"),
        "location": info.artifact_uri,
        "lifecycle": info.lifecycle_stage,
        "status": info.status,
        "times": [info.start_time, info.end_time],
        "params": data.params,
        "tags": data.tags,
        "metrics": {
            key: [[as_text(p.value), p.step, p.timestamp] for p in client.get_metric_history(info.run_id, key)]
            for key in sorted(data.metrics)
        },
        "datasets": sorted([i.dataset.name, i.dataset.digest, i.dataset.source] for i in inputs.dataset_inputs),
        "models": len(run.outputs.model_outputs if run.outputs else []),
        "files": describe_files(lambda folder: client.download_artifacts(info.run_id, "", folder)),
    }


def describe_runs(client, experiments):
    names = {experiment.experiment_id: experiment.name for experiment in experiments}
    runs = client.search_runs(list(names), run_view_type=ViewType.ALL, max_results=1000)
    return {f"{names[run.info.experiment_id]}/{run.info.run_name}": describe_run(client, run) for run in runs}


def describe_experiments(experiments):
    return {
        experiment.name: {
            "id": experiment.experiment_id,
            "location": experiment.artifact_location,
            "lifecycle": experiment.lifecycle_stage,
            "tags": experiment.tags,
        }
        for experiment in experiments
    }


def fixed_input(name):
    if name == ENCODER:
        return pd.DataFrame(
            {"text": [f"my parcel {n} is late again and nobody of team {n % 7} answers" for n in range(50)]}
        )
    return table("unseen", 50)[0]


def describe_version(version):
    with tempfile.TemporaryDirectory() as folder:
        model = mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}", dst_path=folder)
        predicted = mlflow.pyfunc.load_model(model).predict(fixed_input(version.name))
        files = file_digests(model)
    # What the client adds to the copy that it downloads, with this server's numbers in it.
    files.pop("registered_model_meta", None)
    return {
        "run": version.run_id,
        "source": version.source,
        "model_id": version.model_id,
        "status": version.status,
        "description": version.description,
        "tags": version.tags,
        "files": files,
        "predictions": np.asarray(predicted).tolist(),
    }


def describe_model(model):
    aliases = {alias: str(version) for alias, version in sorted(model.aliases.items())}
    return {"aliases": aliases, "tags": model.tags, "description": model.description}


def describe_logged_models(client, experiments):
    names = {experiment.experiment_id: experiment.name for experiment in experiments}
    models = client.search_logged_models(list(names), max_results=1000)
    described = {}
    for model in sorted(models, key=lambda model: (model.source_run_id, model.creation_timestamp)):
        run = client.get_run(model.source_run_id)
        described[f"{names[model.experiment_id]}/{run.info.run_name}/{model.name}"] = {
            "id": model.model_id,
            "run": model.source_run_id,
            "location": model.artifact_location,
            "status": str(model.status),
            "params": model.params,
            "tags": model.tags,
        }
    return described


def describe_prompts(client):
    is_prompt = "tags.`mlflow.prompt.is_prompt` = 'true'"
    prompts = client.search_registered_models(is_prompt)
    versions = client.search_model_versions(is_prompt.replace("tags.", "tag."))
    texts = {f"{v.name}/{v.version}": [v.tags["mlflow.prompt.text"], v.description] for v in versions}
    return texts | {prompt.name: describe_model(prompt) for prompt in prompts}


def describe_traces(experiments):
    traces = mlflow.search_traces(locations=[e.experiment_id for e in experiments], return_type="list")
    return {
        trace.info.trace_id: {
            "spans": [[span.name, span.inputs, span.outputs] for span in trace.data.spans],
            "assessments": sorted([a.name, str(a.value)] for a in trace.info.assessments),
        }
        for trace in traces
    }


def describe_evaluation_sets():
    import mlflow.genai.datasets as evaluation_sets

    found = evaluation_sets.search_datasets()
    return {d.name: sorted(json.dumps([r["inputs"], r["expectations"]]) for r in d.to_df().to_dict("records")) for d in found}


def describe(only):
    """Everything that is compared. `only` leaves just these versions and their models, without their aliases."""
    client = MlflowClient()
    found = client.search_model_versions(max_results=1000)
    versions = {f"{version.name}/{version.version}": version for version in found}
    if only:
        missing = sorted(set(only) - versions.keys())
        if missing:
            sys.exit(f"no such version: {', '.join(missing)}")
        return {"versions": {name: describe_version(versions[name]) for name in only}}
    experiments = client.search_experiments(view_type=ViewType.ALL)
    return {
        "experiments": describe_experiments(experiments),
        "runs": describe_runs(client, experiments),
        "logged_models": describe_logged_models(client, experiments),
        "models": {model.name: describe_model(model) for model in client.search_registered_models()},
        "versions": {name: describe_version(version) for name, version in versions.items()},
        "prompts": describe_prompts(client),
        "traces": describe_traces(experiments),
        "evaluation_sets": describe_evaluation_sets(),
    }


def without_assigned(value):
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if key not in ASSIGNED and not key.startswith(MIRRORS)}
        return {key: without_assigned(inner) for key, inner in kept.items()}
    return value


def differences(expected, found):
    """One line for each record that is missing, new or different."""
    for kind in found:
        for key in sorted(expected[kind].keys() | found[kind].keys()):
            before, after = expected[kind].get(key), found[kind].get(key)
            if isinstance(before, dict) and isinstance(after, dict):
                for field in sorted(before.keys() | after.keys()):
                    if before.get(field) != after.get(field):
                        yield f"{kind}: {key}: {field}: expected {before.get(field)!s:.300}, found {after.get(field)!s:.300}"
            elif before != after:
                yield f"{kind}: {key}: expected {before!s:.300}, found {after!s:.300}"


def summary(state):
    return ", ".join(f"{len(records)} {kind.replace('_', ' ')}" for kind, records in state.items())


def verify(file, only, new_ids, skip):
    # Through JSON on both sides, so that both have the types that JSON knows.
    expected, found = json.loads(file.read_text()), json.loads(json.dumps(describe(only)))
    if only:
        expected["versions"] = {name: expected["versions"].get(name) for name in only}
    if new_ids:
        expected, found = without_assigned(expected), without_assigned(found)
    found = {kind: records for kind, records in found.items() if kind not in skip}
    different = list(differences(expected, found))
    for line in different:
        print(line, file=sys.stderr)
    if different or not found["versions"]:
        sys.exit(f"{len(different)} differences from {file}")
    print(f"{summary(found)}: all as recorded, and every model version predicts the same")


def record(file, only):
    state = describe(only)
    file.write_text(json.dumps(state, indent=1, sort_keys=True, ensure_ascii=False))
    print(summary(state))


def log(day, scale, direct):
    log_day(day, scale, direct)
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs, versions = client.search_runs(experiments, max_results=1000), client.search_model_versions()
    print(f"{len(experiments)} experiments, {len(runs)} active runs, {len(versions)} versions after day {day}")


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("days are counted from 1")
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    logging_day = commands.add_parser("log")
    logging_day.add_argument("--day", type=positive, required=True)
    logging_day.add_argument("--scale", type=float, default=1.0, help="size of weights and tables")
    logging_day.add_argument("--direct", metavar="URI", help="day 1: register a version whose files are there")
    recording, verifying = commands.add_parser("record"), commands.add_parser("verify")
    for command in (recording, verifying):
        command.add_argument("file", type=Path)
        command.add_argument("--only", action="append", default=[], metavar="NAME/VERSION")
    verifying.add_argument("--new-ids", action="store_true")
    verifying.add_argument("--skip", action="append", default=[], metavar="KIND")
    arguments = vars(parser.parse_args())
    {"log": log, "record": record, "verify": verify}[arguments.pop("command")](**arguments)


if __name__ == "__main__":
    main()
