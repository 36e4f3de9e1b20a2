//! Names that MLflow and the catalogue made of it give to things, each written here and nowhere else.
//!
//! What must stay true: a table's name is what MLflow calls it; a file's name is a part of the format, and stays.

/// Lifecycle stage of an experiment, run or logged model that was deleted and can be brought back.
pub const DELETED: &str = "deleted";
/// Stage of a model version that was deleted.
pub const STAGE_DELETED: &str = "Deleted_Internal";

/// Tables of MLflow's databases.
pub mod table {
    /// The table `experiments`.
    pub const EXPERIMENTS: &str = "experiments";
    /// The table `experiment_tags`.
    pub const EXPERIMENT_TAGS: &str = "experiment_tags";
    /// The table `runs`.
    pub const RUNS: &str = "runs";
    /// The table `params`.
    pub const PARAMS: &str = "params";
    /// The table `tags`.
    pub const TAGS: &str = "tags";
    /// The table `metrics`.
    pub const METRICS: &str = "metrics";
    /// The table `latest_metrics`.
    pub const LATEST_METRICS: &str = "latest_metrics";
    /// The table `datasets`.
    pub const DATASETS: &str = "datasets";
    /// The table `inputs`.
    pub const INPUTS: &str = "inputs";
    /// The table `input_tags`.
    pub const INPUT_TAGS: &str = "input_tags";
    /// The table `logged_models`.
    pub const LOGGED_MODELS: &str = "logged_models";
    /// The table `logged_model_params`.
    pub const LOGGED_MODEL_PARAMS: &str = "logged_model_params";
    /// The table `logged_model_tags`.
    pub const LOGGED_MODEL_TAGS: &str = "logged_model_tags";
    /// The table `logged_model_metrics`.
    pub const LOGGED_MODEL_METRICS: &str = "logged_model_metrics";
    /// The table `registered_models`.
    pub const REGISTERED_MODELS: &str = "registered_models";
    /// The table `registered_model_tags`.
    pub const REGISTERED_MODEL_TAGS: &str = "registered_model_tags";
    /// The table `model_versions`.
    pub const MODEL_VERSIONS: &str = "model_versions";
    /// The table `model_version_tags`.
    pub const MODEL_VERSION_TAGS: &str = "model_version_tags";
    /// The table `registered_model_aliases`.
    pub const REGISTERED_MODEL_ALIASES: &str = "registered_model_aliases";
    /// The table `trace_info`.
    pub const TRACE_INFO: &str = "trace_info";
    /// The table `trace_tags`.
    pub const TRACE_TAGS: &str = "trace_tags";
    /// The table `trace_request_metadata`.
    pub const TRACE_REQUEST_METADATA: &str = "trace_request_metadata";
    /// The table `trace_metrics`.
    pub const TRACE_METRICS: &str = "trace_metrics";
    /// The table `spans`.
    pub const SPANS: &str = "spans";
    /// The table `span_metrics`.
    pub const SPAN_METRICS: &str = "span_metrics";
    /// The table `assessments`.
    pub const ASSESSMENTS: &str = "assessments";
    /// The table `entity_associations`.
    pub const ENTITY_ASSOCIATIONS: &str = "entity_associations";
    /// The table `evaluation_datasets`.
    pub const EVALUATION_DATASETS: &str = "evaluation_datasets";
    /// The table `workspaces`.
    pub const WORKSPACES: &str = "workspaces";
}

/// Files of the catalogue that come from tables, without their ending. Most have their table's name. If MLflow renames a
/// table, the file keeps the name that it has here.
pub mod file {
    pub use super::table::{
        DATASETS, EVALUATION_DATASETS, EXPERIMENT_TAGS, EXPERIMENTS, INPUTS, LOGGED_MODEL_METRICS, LOGGED_MODEL_PARAMS,
        LOGGED_MODEL_TAGS, LOGGED_MODELS, MODEL_VERSION_TAGS, MODEL_VERSIONS, PARAMS, REGISTERED_MODEL_TAGS,
        REGISTERED_MODELS, RUNS, TRACE_TAGS, WORKSPACES,
    };

    /// The file `metrics.jsonl`, of the table `latest_metrics`.
    pub const METRICS: &str = "metrics";
    /// The file `run_tags.jsonl`, of the table `tags`.
    pub const RUN_TAGS: &str = "run_tags";
    /// The file `aliases.jsonl`, of the table `registered_model_aliases`.
    pub const ALIASES: &str = "aliases";
    /// The file `traces.jsonl`, of the table `trace_info`.
    pub const TRACES: &str = "traces";
}
