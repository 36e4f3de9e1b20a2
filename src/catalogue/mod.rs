//! The catalogue of a snapshot: experiments, runs, models and versions, as the databases told them.
//!
//! What must stay true: every key holder can ask it, and it needs neither PostgreSQL nor MLflow.

pub mod browse;
pub mod reader;
pub mod rows;
