//! Backs up a whole MLflow deployment into a content-addressed, deduplicating, encrypted repository, and gets it back.

pub mod backend;
pub mod budget;
pub mod cancel;
pub mod clock;
pub mod doctor;
pub mod error;
pub mod id;
pub mod monitor;
pub mod units;
