//! Backups of a deployment that is in use: whatever is logged and deleted meanwhile, no reference is left unexplained.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::cli::Runner;
use crate::support::deployment::{Place, ROOT, ThreeDays, assert_whole};
use crate::support::mlflow_server::MlflowServer;
use crate::support::postgres_server::{OWNER, PASSWORD, PostgresServer};
use crate::support::recording_proxy::RecordingProxy;
use crate::support::s3_server::{Program, S3Server};

/// Backups while others write and delete.
const BACKUPS: usize = 4;

/// Logs runs with files, models and versions until the file `stop` is there; what is complete is registered.
const WRITER: &str = "
import os, sys, tempfile
folder = tempfile.mkdtemp()
mlflow.pyfunc.save_model(folder + '/model', python_model=lambda model_input: model_input, pip_requirements=[])
experiment = client.create_experiment('in use')
client.create_registered_model('in-use')
number = 0
while not os.path.exists(STOP):
    run = client.create_run(experiment, run_name=str(number)).info.run_id
    client.log_text(run, str(number) * 1000, 'notes.txt')
    client.log_metric(run, 'm', number)
    model = client.create_logged_model(experiment, name='model', source_run_id=run)
    client.log_model_artifacts(model.model_id, folder + '/model')
    client.finalize_logged_model(model.model_id, 'READY')
    mlflow.register_model(f'models:/{model.model_id}', 'in-use')
    client.set_terminated(run)
    number += 1
print(number)
";

/// Waits until the writer has come far enough for the deleter to have something to do.
const UNTIL_IN_USE: &str = "
import time
for _ in range(600):
    if len(client.search_model_versions(\"name = 'in-use'\")) >= 5:
        break
    time.sleep(0.2)
else:
    raise Exception('the writer came to nothing')
";

/// Deletes the oldest runs for good until the file `stop` is there, as `mlflow gc` does: files first, the row after them.
const DELETER: &str = "
import os, time
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
store = SqlAlchemyStore(DATABASE, 'mlflow-artifacts:/')
number = 0
while not os.path.exists(STOP):
    experiment = client.get_experiment_by_name('in use')
    runs = client.search_runs([experiment.experiment_id], order_by=['start_time ASC']) if experiment else []
    for run in [run.info for run in runs[:-3] if run.info.status == 'FINISHED']:
        client.delete_run(run.run_id)
        get_artifact_repository(run.artifact_uri).delete_artifacts()
        store._hard_delete_run(run.run_id)
        number += 1
    time.sleep(0.05)
print(number)
";

#[test]
fn backups_beside_a_writer_and_a_deleter_explain_every_reference() {
    let postgres = PostgresServer::start();
    postgres.create("mlflow");
    let runner = Runner::with_repository();
    let folder = runner.path("server");
    fs::create_dir(&folder).unwrap();
    let at =
        |database: &str| format!("postgresql+psycopg2://{OWNER}:{PASSWORD}@127.0.0.1:{}/{database}", postgres.port());
    let place = Place { database: at("mlflow"), ..Place::in_folder(&folder) };
    let server = place.serve(&folder);
    let records = back_up_in_use(&runner, &place, &server);
    drop(server);

    let explained: BTreeSet<_> = ["present", "empty", "carried_over", "deleted_meanwhile"].into_iter().collect();
    for (number, (id, record)) in records.iter().enumerate() {
        assert_whole(record);
        for state in states(&runner, id) {
            assert!(explained.contains(state.as_str()), "{state}: {record:#}");
        }
        let database = format!("restored_{number}");
        postgres.create(&database);
        let restored = runner.path(&database);
        let new = Place { database: at(&database), ..Place::in_folder(&restored) };
        new.run(&runner, &["restore", "--snapshot", id, "--yes"]).expect(0);
        if number + 1 == records.len() {
            assert_opens(&new.serve(&restored));
        }
    }
}

/// Backs up several times while a writer and a deleter are at work. Returns the snapshots.
fn back_up_in_use(runner: &Runner, place: &Place, server: &MlflowServer) -> Vec<(String, Value)> {
    let stop = runner.path("stop");
    let preface = format!("STOP = {stop:?}\nDATABASE = {:?}\n", place.database);
    // The count is the last line; MLflow's client prints others.
    let run =
        |program: &str| server.run(&format!("{preface}{program}")).lines().last().unwrap().parse::<u64>().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers = [WRITER, DELETER].map(|program| {
            let (run, is_over) = (&run, &is_over);
            scope.spawn(move || {
                let done = run(program);
                assert!(is_over.load(Ordering::Relaxed) && done > 0, "it ended after {done} rounds");
            })
        });
        let backed_up = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            server.run(UNTIL_IN_USE);
            (0..BACKUPS).map(|_| place.backup(runner)).collect::<Vec<_>>()
        }));
        is_over.store(true, Ordering::Relaxed);
        fs::write(&stop, "").unwrap();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        backed_up.unwrap()
    })
}

/// Returns the states of all references to files in a snapshot.
fn states(runner: &Runner, snapshot: &str) -> Vec<String> {
    let lines = runner.run(["cat", snapshot, "catalogue/references.jsonl"]).expect(0).text();
    let state = |line: &str| serde_json::from_str::<Value>(line).unwrap()["state"].as_str().unwrap().to_owned();
    lines.lines().map(state).collect()
}

/// Fails unless every finished run has its file, and every version can be loaded.
fn assert_opens(server: &MlflowServer) {
    server.run(
        "experiment = client.get_experiment_by_name('in use').experiment_id\n\
         for run in client.search_runs([experiment]):\n\
         \x20   if run.info.status == 'FINISHED':\n\
         \x20       assert [f.path for f in client.list_artifacts(run.info.run_id)] == ['notes.txt'], run\n\
         versions = client.search_model_versions(\"name = 'in-use'\")\nassert len(versions) >= 5\n\
         for version in versions[:2] + versions[-2:]:\n\
         \x20   mlflow.pyfunc.load_model(f'models:/in-use/{version.version}').predict(['a'])",
    );
}

/// What a deleter may do at the worst moment: when the database was read, and the artifacts were not yet.
#[test]
fn what_is_deleted_between_database_and_artifacts_is_carried_over_from_the_snapshot_before() {
    let lived = ThreeDays::unpack();
    let victims = Victims::find(&lived);
    let (record, restored) = back_up_while_deleting(&lived, &victims, &lived.runner);
    assert_eq!(record["deployment"]["references"]["carried_over"], 2, "{record:#}");
    victims.keys.iter().for_each(|key| {
        assert_eq!(fs::read(restored.join(key)).unwrap(), fs::read(victims.artifacts.join(key)).unwrap(), "{key}");
    });
}

#[test]
fn what_is_half_deleted_when_it_is_listed_is_completed_from_the_snapshot_before() {
    let lived = ThreeDays::unpack();
    let all = Victims::find(&lived);
    let half = Victims { keys: all.keys.iter().step_by(2).cloned().collect(), ..all.clone() };
    let (record, restored) = back_up_while_deleting(&lived, &half, &lived.runner);
    assert!(record["deployment"]["references"]["carried_over"].as_u64() >= Some(1), "{record:#}");
    all.keys.iter().for_each(|key| {
        assert_eq!(fs::read(restored.join(key)).unwrap(), fs::read(all.artifacts.join(key)).unwrap(), "{key}");
    });
}

#[test]
fn what_is_deleted_before_any_snapshot_had_it_is_said_to_be_gone() {
    let lived = ThreeDays::unpack();
    let victims = Victims::find(&lived);
    let (record, restored) = back_up_while_deleting(&lived, &victims, &Runner::with_repository());
    let references = &record["deployment"]["references"];
    assert_eq!((&references["carried_over"], &references["deleted_meanwhile"]), (&0.into(), &1.into()), "{record:#}");
    assert!(victims.keys.iter().all(|key| !restored.join(key).exists()));
}

/// A run and a logged model that no version is made of, and the keys of their files.
#[derive(Clone)]
struct Victims {
    run: String,
    model: String,
    artifacts: PathBuf,
    keys: Vec<String>,
}

impl Victims {
    fn find(lived: &ThreeDays) -> Self {
        let database = Connection::open(lived.folder().join("mlflow.db")).unwrap();
        let find = |sql: &str| -> (String, String) {
            database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
        };
        let run = "SELECT run_uuid, artifact_uri FROM runs JOIN experiments USING (experiment_id) \
                   WHERE experiments.name = 'demand' AND runs.name = 'day2-0'";
        let model = "SELECT model_id, artifact_location FROM logged_models JOIN logged_model_tags USING (model_id) \
                     WHERE tag_key = 'purpose'";
        let ((run, run_root), (model, model_root)) = (find(run), find(model));
        let artifacts = lived.folder().join("artifacts");
        let roots = [run_root, model_root].map(|uri| uri.trim_start_matches(ROOT).to_owned());
        let keys = keys_below(lived).into_iter().filter(|key| roots.iter().any(|root| key.starts_with(root.as_str())));
        let victims = Self { run, model, artifacts, keys: keys.collect() };
        assert!(victims.keys.len() > 4, "{:?}", victims.keys);
        victims
    }

    /// Deletes files and rows, as `mlflow gc` does.
    fn delete(&self, database: &Path, bucket: &Path) {
        self.keys.iter().for_each(|key| fs::remove_file(bucket.join(key)).unwrap());
        let rows = format!(
            "DELETE FROM runs WHERE run_uuid = '{}'; UPDATE logged_models SET lifecycle_stage = 'deleted' WHERE model_id = '{}'",
            self.run, self.model
        );
        Connection::open(database).unwrap().execute_batch(&format!("PRAGMA foreign_keys = OFF; {rows}")).unwrap();
    }
}

fn keys_below(lived: &ThreeDays) -> Vec<String> {
    let artifacts = lived.folder().join("artifacts");
    let files = lived.runner.files("production/artifacts").into_iter();
    files.map(|file| file.strip_prefix(&artifacts).unwrap().to_str().unwrap().to_owned()).collect()
}

/// Backs up with the artifacts in a bucket, from which they are deleted as soon as somebody begins to list it. Returns
/// the snapshot's record and where its artifacts were restored to.
fn back_up_while_deleting(lived: &ThreeDays, victims: &Victims, runner: &Runner) -> (Value, PathBuf) {
    let rclone = S3Server::start(Program::Rclone);
    lived.copy_artifacts_to(&rclone);
    let (database, is_deleted) = (lived.folder().join("mlflow.db"), AtomicBool::new(false));
    let (bucket, victims) = (rclone.bucket_directory(), victims.clone());
    let proxy = RecordingProxy::start_with(&rclone, move |request| {
        // Whether it can be listed at all is asked before the databases are read.
        let asks = |what: &str| request.target.split(['?', '&']).any(|part| part == what);
        let is_listing = asks("list-type=2") && !asks("max-keys=1");
        if is_listing && !is_deleted.swap(true, Ordering::Relaxed) {
            victims.delete(&database, &bucket);
        }
        None
    });
    let place = lived.place().in_bucket(&proxy.options());
    let (id, record) = place.backup(runner);
    assert_whole(&record);
    let restored = Place::in_folder(&runner.path("restored"));
    restored.run(runner, &["restore", "--snapshot", &id, "--yes"]).expect(0);
    (record, restored.artifacts.into())
}
