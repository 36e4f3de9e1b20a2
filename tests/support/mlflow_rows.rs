//! Rows for MLflow's tables, in texts that dumps stumble over; the same SQL for both engines.

use rusqlite::Connection;

/// Parts of odd texts: what COPY, psql, SQLite's shell and our own readers could take for something else.
const PARTS: [&str; 18] = [
    "a",
    "é",
    "🦀",
    "\t",
    "\n",
    "\r",
    "\\",
    "\\N",
    "\n\\.\n",
    "'",
    "''",
    "\"",
    ";\n",
    "--",
    "\n-- end of rows\n",
    "\nCOPY public.runs (run_uuid) FROM stdin;\n",
    "$$",
    "/*",
];

/// A sequence of numbers that looks random, the same for the same seed.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn odd_text(&mut self) -> String {
        (0..self.next() % 8).map(|_| PARTS[self.next() as usize % PARTS.len()]).collect()
    }
}

pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An experiment, two runs, and a version of a model that one of them made.
pub const ONE_MODEL: &str = "
    INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)
        VALUES (7, 'fraud', 'mlflow-artifacts:/7', 'active');
    INSERT INTO runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status)
        VALUES ('abc', 'a', 7, 'mlflow-artifacts:/7/abc/artifacts', 'active', 'FINISHED'),
               ('def', 'b', 7, 'mlflow-artifacts:/7/def/artifacts', 'active', 'FINISHED');
    INSERT INTO registered_models (name) VALUES ('detector');
    INSERT INTO model_versions (name, version, source, run_id, status, current_stage)
        VALUES ('detector', 1, 'mlflow-artifacts:/7/abc/artifacts/model', 'abc', 'READY', 'None');
";

/// A model with one version, whose files must be at this place. It needs nothing else.
pub const VERSION_AT_M: &str = "
    INSERT INTO registered_models (name, creation_time, last_updated_time) VALUES ('fraud', 1, 1);
    INSERT INTO model_versions (name, version, creation_time, current_stage, source, storage_location, status)
        VALUES ('fraud', 1, 1, 'None', 'mlflow-artifacts:/1/m', 'mlflow-artifacts:/1/m', 'READY');
";

/// An experiment for [`insert_runs`].
pub const EXPERIMENT: &str = "
    INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)
        VALUES (1, 'one', 'mlflow-artifacts:/1', 'active');
";

/// Inserts so many runs of [`EXPERIMENT`], which have no files.
pub fn insert_runs(database: &Connection, runs: u32) {
    for run in 0..runs {
        let insert = "INSERT INTO runs (run_uuid, name, source_type, entry_point_name, user_id, status, lifecycle_stage, experiment_id)
                      VALUES (?1, ?1, 'LOCAL', '', 'user', 'FINISHED', 'active', 1)";
        database.execute(insert, [format!("{run:032x}")]).unwrap();
    }
}

/// Returns statements that insert an experiment and runs with metrics, params and tags.
pub fn inserts(experiment: u64, runs: u64) -> String {
    let mut numbers = Numbers(experiment);
    let mut sql = format!(
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) \
         VALUES ({experiment}, {}, 's3://models/{experiment}', 'active');\n",
        literal(&format!("{experiment} {}", numbers.odd_text()))
    );
    for run in 0..runs {
        let id = format!("{experiment:08x}{run:024x}");
        sql.push_str(&format!(
            "INSERT INTO runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status) \
             VALUES ('{id}', {}, {experiment}, 's3://models/{experiment}/{id}/artifacts', 'active', 'FINISHED');\n",
            literal(&numbers.odd_text())
        ));
        sql.push_str(&format!(
            "INSERT INTO params (key, value, run_uuid) VALUES ('p', {}, '{id}');\n\
             INSERT INTO tags (key, value, run_uuid) VALUES ('t', {}, '{id}');\n",
            literal(&numbers.odd_text()),
            literal(&numbers.odd_text())
        ));
        for step in 0..3 {
            let value = f64::from_bits(numbers.next() << 32 ^ numbers.next());
            let (value, is_nan) = if value.is_finite() { (value, false) } else { (0.0, true) };
            sql.push_str(&format!(
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) \
                 VALUES ('loss', {value:?}, {step}, '{id}', {step}, {is_nan});\n"
            ));
        }
    }
    sql
}
