//! Backs up a whole MLflow deployment into a content-addressed, deduplicating, encrypted repository, and gets it back.
//!
//! This is the library behind the program `mlvault`. Everything that the program does can be done from here: the program
//! adds arguments, printing and exit codes. A byte's way: source → FastCDC chunk → keyed BLAKE3 id → known already? stop :
//! zstd → AES-256-GCM → pack → backend.
//!
//! # A first backup
//!
//! ```
//! use std::sync::Arc;
//!
//! use mlvault::{BackupOptions, CreateOptions, Credential, Hears, MemoryBackend, OpenOptions, Repository, RestoreOptions};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let (models, elsewhere) = (folder.path().join("models"), folder.path().join("elsewhere"));
//! # std::fs::create_dir(&models).unwrap();
//! std::fs::write(models.join("model.pkl"), b"weights")?;
//!
//! // A repository, and the key to it. With `LocalBackend`, or `backend::location::open`, it stays.
//! let backend = Arc::new(MemoryBackend::default());
//! let key = Credential::new_key_file();
//! Repository::create(backend.as_ref(), &key, &CreateOptions::default(), &mlvault::clock::SystemClock)?;
//! let repository = Repository::open(backend, &key, &OpenOptions::default())?;
//!
//! // `Hears` says who is told of progress, and who may ask to stop: here nobody.
//! let hears = Hears::nobody();
//! let backed_up = mlvault::backup::run(&repository, &BackupOptions::of_paths([&models]), &hears)?;
//! assert_eq!(backed_up.record.problem_count, 0);
//!
//! let snapshot = repository.find_snapshot("latest")?;
//! let restored = mlvault::restore::run(&repository, &snapshot, &RestoreOptions::into_directory(&elsewhere), &hears)?;
//! assert_eq!((restored.files_written, restored.problems), (1, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/` has programs that go further: one that backs up every night and forgets by a policy, one that reads a file as
//! it was on a day.
//!
//! # What is stable
//!
//! Until 1.0 nothing is promised, and the repository format may change too. From 1.0 on it will be the types that are
//! re-exported here, the functions `run` of the operations with their options and summaries, the traits [`Backend`],
//! [`Monitor`] and [`clock::Clock`], and the repository format (`docs/format.md`). Modules that only the program and the
//! tests need are hidden from this page, and may change in any version.
//!
//! # Map
//!
//! Layers, each importing only from those above it (`tests/tidy.rs` enforces it):
//!
//! | layer | modules |
//! |---|---|
//! | 0 vocabulary | [`id`] [`units`] [`clock`] [`moment`] [`cancel`] [`child`] [`budget`] [`monitor`] [`hears`] [`sync`] [`parallel`] [`globs`] [`last_lines`] [`environment`] [`child_environment`] [`page_tokens`] [`path_range`] [`run_summary`] [`stdin_reader`] [`file_system`] [`held_directory`] [`xattrs`] [`objectives`] [`runtime`] [`error`] [`format_error`] |
//! | 1 transforms | [`chunker`] [`compress`] [`crypto`] [`mod@format`] [`sql`] [`mlflow`] [`page`] [`tls`] [`http`]: plain functions on bytes |
//! | 2 clients | [`database`] [`hooks`] [`http_server`] [`kubernetes`] [`notify`] [`s3`] [`tracking`]: what talks to other programs |
//! | 3 ports | [`backend`] [`index`] [`source`] [`target`]: traits at the borders, and what implements them |
//! | 4 repository | [`repository`]: the records of a repository, and who may write them when |
//! | 5 chunks | [`chunks`]: content on its way into packs and back |
//! | 6 trees | [`trees`]: the entries of a component |
//! | 7 catalogue | [`catalogue`]: what a snapshot knows of MLflow |
//! | 8 operations | [`backup`] [`restore`] [`check`] [`repair`] [`list`] [`find`] [`diff`] [`dump`] [`stats`] [`doctor`] [`retention`] [`prune`] [`copy`] [`rewrite`] |
//! | 9 procedures | [`procedures`] [`status`] [`audit`]: operations in a row, with a plan that somebody agrees to; what many of them say together |
//! | 10 edges | [`config`] |

// It tells a monitor, and lets whoever uses it print.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

#[doc(hidden)]
pub mod audit;
pub mod backend;
pub mod backup;
#[doc(hidden)]
pub mod budget;
pub mod cancel;
#[doc(hidden)]
pub mod catalogue;
pub mod check;
#[doc(hidden)]
pub mod child;
#[doc(hidden)]
pub mod child_environment;
#[doc(hidden)]
pub mod chunker;
#[doc(hidden)]
pub mod chunks;
pub mod clock;
#[doc(hidden)]
pub mod compress;
pub mod config;
pub mod copy;
#[doc(hidden)]
pub mod crypto;
#[doc(hidden)]
pub mod database;
pub mod diff;
#[doc(hidden)]
pub mod doctor;
pub mod dump;
pub mod environment;
pub mod error;
#[doc(hidden)]
pub mod file_system;
pub mod find;
#[doc(hidden)]
pub mod format;
#[doc(hidden)]
pub mod format_error;
#[doc(hidden)]
pub mod globs;
pub mod hears;
#[doc(hidden)]
pub mod held_directory;
#[doc(hidden)]
pub mod hooks;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod http_server;
#[doc(hidden)]
pub mod id;
#[doc(hidden)]
pub mod index;
#[doc(hidden)]
pub mod kubernetes;
#[doc(hidden)]
pub mod last_lines;
pub mod list;
#[doc(hidden)]
pub mod mlflow;
#[doc(hidden)]
pub mod moment;
pub mod monitor;
#[doc(hidden)]
pub mod notify;
pub mod objectives;
#[doc(hidden)]
pub mod page;
#[doc(hidden)]
pub mod page_tokens;
#[doc(hidden)]
pub mod parallel;
pub mod path_range;
pub mod procedures;
pub mod prune;
pub mod repair;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod rewrite;
#[doc(hidden)]
pub mod run_summary;
#[doc(hidden)]
pub mod runtime;
#[doc(hidden)]
pub mod s3;
pub mod source;
#[doc(hidden)]
pub mod sql;
pub mod stats;
pub mod status;
#[doc(hidden)]
pub mod stdin_reader;
#[doc(hidden)]
pub mod sync;
#[doc(hidden)]
pub mod target;
#[doc(hidden)]
pub mod tls;
#[doc(hidden)]
pub mod tracking;
#[doc(hidden)]
pub mod trees;
#[doc(hidden)]
pub mod units;
#[doc(hidden)]
pub mod xattrs;

pub use crate::backend::Backend;
pub use crate::backend::local::LocalBackend;
pub use crate::backend::memory::MemoryBackend;
pub use crate::backup::{BackupOptions, BackupSource};
pub use crate::crypto::passphrase::Credential;
pub use crate::error::{Error, Fault, Result};
pub use crate::hears::Hears;
pub use crate::monitor::Monitor;
pub use crate::repository::snapshots::Snapshot;
pub use crate::repository::{CreateOptions, OpenOptions, Repository};
pub use crate::restore::RestoreOptions;
