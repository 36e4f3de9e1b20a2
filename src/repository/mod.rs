//! A repository: objects in a backend, opened with a key.
//!
//! What must stay true: every object is written once; what refers to something is written after it; the order of
//! writing is packs, index segment, snapshot.

pub mod caches;
pub mod evidence;
pub mod examine;
pub mod history;
pub mod index_sync;
pub mod keys;
pub mod layout;
pub mod log;
pub mod memory_file;
pub mod memory_plan;
pub mod naming;
pub mod notes;
pub mod objects;
pub mod pins;
mod plans;
pub mod session;
pub mod snapshots;
pub mod thread_plan;
pub mod time;
pub mod trust;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::backend::Backend;
use crate::chunker::Chunker;
use crate::clock::{Clock, SystemClock};
use crate::crypto::keys::{MetaKeys, new_data_key_pair, new_secret};
use crate::crypto::passphrase::{Credential, KeyFile, KeyHint};
use crate::crypto::{random, sign};
use crate::error::{Error, Fault, Result};
use crate::format::FORMAT_VERSION;
use crate::format::config::{ChunkProfiles, RepositoryConfig};
use crate::format::forgotten::ForgottenRecord;
use crate::format::key_slot::{Certificate, Role, RoleSecrets};
use crate::format::log::LoggedObject;
use crate::format::object::{self, ObjectKind};
use crate::id::{Pin, RepositoryId, SessionId, SlotId};
use crate::repository::history::History;
use crate::repository::index_sync::{Index, IndexHome, SegmentOpener};
use crate::repository::keys::{Access, Door, NewSlot, Unlocked};
use crate::repository::memory_plan::{MEMORY_LIMIT_DEFAULT, MemoryPlan};
use crate::repository::objects::ObjectReader;
use crate::repository::snapshots::{Outcome, Remembered};
use crate::repository::thread_plan::ThreadPlan;

/// How a repository is opened.
#[derive(Clone)]
pub struct OpenOptions {
    /// Directory under which the index cache lives; a temporary one without.
    pub cache_root: Option<PathBuf>,
    /// Memory limit of the whole process in bytes.
    pub memory_limit: u64,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// A file that remembers which snapshots were seen, besides the one in the cache directory.
    pub history_file: Option<PathBuf>,
    /// What the repository must have if it is the right one; without, any repository that the key opens will do.
    pub pin: Option<Pin>,
    /// The slot that the key is said to open: it is tried first.
    pub slot: Option<SlotId>,
}

impl Default for OpenOptions {
    /// A temporary index cache, the default memory limit, the system's clock, no pin.
    fn default() -> Self {
        Self {
            cache_root: None,
            memory_limit: MEMORY_LIMIT_DEFAULT,
            clock: Arc::new(SystemClock),
            history_file: None,
            pin: None,
            slot: None,
        }
    }
}

/// An open repository.
pub struct Repository {
    backend: Arc<dyn Backend>,
    config: RepositoryConfig,
    keys: Arc<MetaKeys>,
    access: Access,
    chunker: Chunker,
    index: Index,
    memory_plan: MemoryPlan,
    clock: Arc<dyn Clock>,
    objects: ObjectReader,
    outcomes: Remembered<Outcome>,
    forgotten: Remembered<(ForgottenRecord, Certificate)>,
    history: History,
    /// What was written and is not in the log yet.
    unlogged: Mutex<Vec<LoggedObject>>,
    /// Snapshots that others saw, as far as they were read through this handle.
    seen: Mutex<BTreeSet<SessionId>>,
}

/// How a repository is made.
pub struct CreateOptions {
    /// Label of the first key slot.
    pub label: String,
    /// Where content is cut.
    pub chunk_profiles: ChunkProfiles,
    /// Least size of a data pack in bytes.
    pub pack_bytes: u32,
    /// Whether a probe found create-only writes honoured.
    pub create_only: bool,
}

impl Default for CreateOptions {
    /// The sizes that suit MLflow deployments, on a backend that honours create-only writes.
    fn default() -> Self {
        Self {
            label: "maintainer".to_owned(),
            chunk_profiles: ChunkProfiles::default(),
            pack_bytes: RepositoryConfig::PACK_BYTES,
            create_only: true,
        }
    }
}

/// What `init` made.
pub struct Created {
    /// The repository's name.
    pub repository: RepositoryId,
    /// What tells it from one that somebody puts in its place.
    pub pin: Pin,
    /// Opens the repository as a maintainer if all else is lost. To be shown once and kept elsewhere.
    pub recovery_key: zeroize::Zeroizing<String>,
}

impl Repository {
    /// Makes a repository in an empty place, with one slot for `credential` and one for a new recovery key.
    ///
    /// `config` is written last: an interrupted call leaves no repository.
    pub fn create(
        backend: &dyn Backend,
        credential: &Credential,
        options: &CreateOptions,
        clock: &dyn Clock,
    ) -> Result<Created> {
        Self::refuse_used_place(backend)?;
        let repository = RepositoryId::from_bytes(random());
        let (data_secret, data_public_key) = new_data_key_pair();
        let (meta, root_seed) = (new_secret(), new_secret());
        let created = clock.now();
        let recovery = new_secret();
        let add_slot = |label: &str, credential: &Credential| {
            let secrets = RoleSecrets {
                role: Role::Maintainer,
                meta: meta.clone(),
                signing_seed: new_secret(),
                data: Some(data_secret.clone()),
                root_seed: Some(root_seed.clone()),
                root_key: sign::signer_key(&root_seed),
            };
            let slot = NewSlot { label, credential, secrets };
            let (certificate, bytes) = keys::new_slot(repository, &root_seed, created, slot)?;
            backend.create(&layout::key_slot(&certificate.slot), bytes).map(|()| certificate.slot)
        };
        add_slot(&options.label, credential)?;
        let recovery_slot = add_slot("recovery", &Credential::KeyFile(recovery.clone()))?;
        let config = RepositoryConfig {
            format: FORMAT_VERSION,
            repository,
            created,
            data_public_key,
            root_key: sign::signer_key(&root_seed),
            chunk_profiles: options.chunk_profiles,
            pack_bytes: options.pack_bytes,
            create_only: options.create_only,
        };
        let keys = MetaKeys::new(meta.clone());
        let sealed = object::seal(&keys, repository, ObjectKind::Config, layout::CONFIG, &config.sign(&root_seed));
        backend.create(layout::CONFIG, Bytes::from(sealed))?;
        let hint = KeyHint { slot: recovery_slot, pin: config.pin() };
        let recovery_key = KeyFile { secret: recovery, hint: Some(hint) }.encode();
        Ok(Created { repository, pin: config.pin(), recovery_key })
    }

    /// Refuses a place that holds anything.
    pub fn refuse_used_place(backend: &dyn Backend) -> Result<()> {
        let listed = backend.list("")?;
        // Credentials that cannot delete leave what `init` itself has just tried the backend with.
        let keys: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        let keys: Vec<&str> = keys.into_iter().filter(|key| !key.starts_with(layout::PROBE)).collect();
        let reason = match keys.first() {
            None => match backend.stranger()? {
                None => return Ok(()),
                Some(stranger) => format!("the place is not empty: it holds {stranger:?}"),
            },
            Some(_) if keys.contains(&layout::CONFIG) => "there is a repository already".to_owned(),
            Some(_) if keys.iter().all(|key| layout::key_slot_of(key).is_some()) => {
                "an earlier init was interrupted there; remove what it left (keys/) and run init again".to_owned()
            }
            Some(first) => format!("the place is not empty: it holds {first:?}"),
        };
        Err(Error::NotEmpty { location: backend.location(), reason })
    }

    /// Opens a repository.
    ///
    /// Fails with [`Error::NoRepository`], [`Error::FormatVersion`], [`Error::WrongKey`], [`Error::NotPinned`], or
    /// [`Error::Damaged`].
    pub fn open(backend: Arc<dyn Backend>, credential: &Credential, options: &OpenOptions) -> Result<Arc<Self>> {
        let home = options.cache_root.clone().map_or(IndexHome::Temporary, IndexHome::Directory);
        Self::open_with_index(backend, credential, options, home)
    }

    /// As [`Repository::open`], with the index cache where `home` says.
    pub fn open_with_index(
        backend: Arc<dyn Backend>,
        credential: &Credential,
        options: &OpenOptions,
        home: IndexHome,
    ) -> Result<Arc<Self>> {
        let memory_plan = MemoryPlan::new(options.memory_limit)?;
        let location = backend.location();
        let bytes = read_config(backend.as_ref())?;
        let damaged = |error| Error::damaged(layout::CONFIG, error);
        let found = object::peek_version(&bytes).map_err(damaged)?;
        if found != FORMAT_VERSION {
            let (found, supported) = (u16::from(found), u16::from(FORMAT_VERSION));
            return Err(Error::FormatVersion { location, found, supported });
        }
        let id = object::peek_repository(&bytes).map_err(damaged)?;
        let door = Door { backend: backend.as_ref(), config: &bytes, repository: id, credential, pin: options.pin };
        let Unlocked { keys, config, access } = door.unlock(options.slot)?;
        let keys = Arc::new(keys);
        let opener = SegmentOpener { keys: Arc::clone(&keys), repository: id, root_key: config.root_key };
        let index = Index::new(Arc::clone(&backend), opener, home);
        let objects = ObjectReader::new(Arc::clone(&backend), Arc::clone(&keys), id, memory_plan.object_bytes);
        Ok(Arc::new(Self {
            chunker: Chunker::new(&keys.gear_seed(), config.chunk_profiles),
            access,
            clock: Arc::clone(&options.clock),
            backend,
            config,
            keys,
            index,
            memory_plan,
            objects,
            outcomes: Remembered::default(),
            forgotten: Remembered::default(),
            history: History::new(options.history_file.clone()),
            unlogged: Mutex::default(),
            seen: Mutex::default(),
        }))
    }

    /// Returns the repository's name.
    pub fn id(&self) -> RepositoryId {
        self.config.repository
    }

    /// Returns what tells it from one that somebody puts in its place.
    pub fn pin(&self) -> Pin {
        self.config.pin()
    }

    /// Returns where its objects live.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Returns its parameters.
    pub fn config(&self) -> &RepositoryConfig {
        &self.config
    }

    /// Returns its symmetric keys.
    pub fn keys(&self) -> &MetaKeys {
        &self.keys
    }

    /// Returns what the key in use allows.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Returns what opens its small objects.
    pub fn objects(&self) -> &ObjectReader {
        &self.objects
    }

    /// Returns its chunker.
    pub fn chunker(&self) -> &Chunker {
        &self.chunker
    }

    /// Returns its index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns how memory is divided.
    pub fn memory_plan(&self) -> &MemoryPlan {
        &self.memory_plan
    }

    /// Returns how many threads an operation uses.
    pub fn thread_plan(&self) -> ThreadPlan {
        ThreadPlan::new(self.backend.concurrency())
    }

    /// Fails as [`Repository::open`] does if it is not there any more. A handle that is old would take a place that is empty by
    /// now for a repository without snapshots.
    pub fn confirm_there(&self) -> Result<()> {
        read_config(self.backend.as_ref()).map(drop)
    }

    /// Returns what this machine has seen of it.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Returns the clock in use.
    pub fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }
}

fn read_config(backend: &dyn Backend) -> Result<Bytes> {
    objects::read(backend, layout::Object::Config, None).map_err(|error| match error.fault() {
        Some(Fault::NotFound) => explain_missing_config(backend),
        _ => error,
    })
}

/// `config` is written last by `init` and before any session: sessions or snapshots without it mean that it was lost.
fn explain_missing_config(backend: &dyn Backend) -> Error {
    let holds = |prefix| backend.list(prefix).is_ok_and(|objects| !objects.is_empty());
    match holds(layout::SESSIONS) || holds(layout::SNAPSHOTS) {
        true => Error::damaged(layout::CONFIG, "it is missing, though backups were made here"),
        false => Error::NoRepository { location: backend.location() },
    }
}
