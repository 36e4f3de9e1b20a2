//! Backs up a whole MLflow deployment into a content-addressed, deduplicating, encrypted repository, and gets it back.
//!
//! A byte's way: source → FastCDC chunk → keyed BLAKE3 id → known already? stop : zstd → AES-256-GCM → pack → backend.
//!
//! Layers, each importing only from those above it (`tests/tidy.rs` enforces it):
//!
//! | layer | modules |
//! |---|---|
//! | 0 vocabulary | [`id`] [`units`] [`clock`] [`moment`] [`cancel`] [`budget`] [`monitor`] [`hears`] [`sync`] [`parallel`] [`globs`] [`last_lines`] [`error`] [`format_error`] |
//! | 1 transforms | [`chunker`] [`compress`] [`crypto`] [`mod@format`] [`sql`] [`mlflow`] [`tls`]: plain functions on bytes |
//! | 2 clients | [`database`] [`s3`] [`tracking`]: what talks to other programs, for the ports |
//! | 3 ports | [`backend`] [`index`] [`source`] [`target`]: traits at the borders, and what implements them |
//! | 4 repository | [`repository`]: the records of a repository, and who may write them when |
//! | 5 chunks | [`chunks`]: content on its way into packs and back |
//! | 6 trees | [`trees`]: the entries of a component |
//! | 7 catalogue | [`catalogue`]: what a snapshot knows of MLflow |
//! | 8 operations | [`backup`] [`restore`] [`check`] [`repair`] [`list`] [`find`] [`diff`] [`dump`] [`stats`] [`doctor`] [`retention`] [`prune`] [`copy`] |
//! | 9 procedures | [`procedures`]: operations in a row, with a plan that somebody agrees to |
//! | 10 edges | [`config`] |

pub mod backend;
pub mod backup;
pub mod budget;
pub mod cancel;
pub mod catalogue;
pub mod check;
pub mod chunker;
pub mod chunks;
pub mod clock;
pub mod compress;
pub mod config;
pub mod copy;
pub mod crypto;
pub mod database;
pub mod diff;
pub mod doctor;
pub mod dump;
pub mod error;
pub mod find;
pub mod format;
pub mod format_error;
pub mod globs;
pub mod hears;
pub mod id;
pub mod index;
pub mod last_lines;
pub mod list;
pub mod mlflow;
pub mod moment;
pub mod monitor;
pub mod parallel;
pub mod procedures;
pub mod prune;
pub mod repair;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod s3;
pub mod source;
pub mod sql;
pub mod stats;
pub mod sync;
pub mod target;
pub mod tls;
pub mod tracking;
pub mod trees;
pub mod units;
