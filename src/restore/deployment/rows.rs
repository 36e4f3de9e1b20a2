//! Puts one experiment, run or model back into a deployment that is in use: its rows with their ids, and its files.
//!
//! What must stay true:
//! - Files come first: a row never says that something is there that is not there yet.
//! - What is there and differs is a conflict: it is shown, and touched only if the user says so.
//! - Doing it twice does nothing the second time.

use std::collections::HashSet;
use std::io::BufReader;

use serde::Serialize;

use super::{DeploymentRestore, moved_root, rewrites};
use crate::database::rewrite::rewrite_row;
use crate::database::{self, DatabaseWriter, Merge, MergeTable, Need, OnConflict, Rewrite, TableMerge};
use crate::error::{Error, Result};
use crate::mlflow::catalogue::Reference;
use crate::mlflow::names::{STAGE_DELETED, table as table_names};
use crate::mlflow::roots::Resolved;
use crate::mlflow::schema::{self, RowPlace, Store};
use crate::restore::deployment::Lack;
use crate::restore::deployment::experiments::{ExperimentMove, Moved, find_moves, renumber};
use crate::restore::deployment::selection::{DeploymentPart, Selected};
use crate::restore::{Overwrite, RestoreSummary};
use crate::source::deployment::{ArtifactPlace, Deployment, Layout};
use crate::sql::Value;
use crate::sql::scanner::TableHead;
use crate::sql::script::{Piece, ScriptReader};

/// How to merge.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// What to do with rows that are there and differ.
    pub on_conflict: OnConflict,
    /// Artifact roots as the snapshot has them, and as the deployment has them now.
    pub map_roots: Vec<(String, String)>,
    /// Only tell what would be done.
    pub dry_run: bool,
}

/// Files that go with the rows.
#[derive(Debug, Clone, Serialize)]
pub struct MergePlan {
    /// What they belong to.
    pub id: String,
    /// Where they go.
    pub to: String,
    /// How many there are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether their row is in the deployment: then files that are there stay as they are.
    pub is_known: bool,
}

/// What a merge did, or would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MergeSummary {
    /// Experiments that have another id in the deployment than in the snapshot.
    pub experiments: Vec<ExperimentMove>,
    /// Table by table.
    pub tables: Vec<TableMerge>,
    /// The files.
    pub files: Vec<MergePlan>,
    /// What was done to them.
    pub artifacts: RestoreSummary,
    /// Rows whose files the snapshot lacks.
    pub lacking: Vec<Lack>,
}

impl MergeSummary {
    /// Returns how many rows are there and differ.
    pub fn conflicts(&self) -> u64 {
        self.tables.iter().map(|table| table.conflicts).sum()
    }
}

/// Files on their way to their place.
struct FileTransfer<'s> {
    reference: &'s Reference,
    place: ArtifactPlace,
    overwrite: Overwrite,
}

/// Merges what is wanted into a deployment. With conflicts that are to be refused nothing is changed: the summary tells
/// them.
pub fn merge(
    restore: &DeploymentRestore<'_>,
    target: &Deployment,
    part: &DeploymentPart,
    options: &MergeOptions,
) -> Result<MergeSummary> {
    let selected = Selected::find(&restore.reader, restore.snapshot, part, &restore.hears)?;
    let mut writers = open_writers(restore, target)?;
    let layout = target.layout()?;
    let mut summary = MergeSummary { lacking: selected.lacks(), ..MergeSummary::default() };
    let mut transfers = Vec::new();
    for reference in distinct(&selected.files) {
        let transfer = plan_transfer(reference, &layout, &mut writers, options)?;
        summary.files.push(MergePlan {
            id: reference.id.clone(),
            to: transfer.place.to_string(),
            files: reference.files,
            bytes: reference.bytes,
            is_known: transfer.overwrite == Overwrite::Never,
        });
        transfers.push(transfer);
    }
    for (store, writer) in &mut writers {
        if *store == Store::Backend {
            summary.experiments = find_moves(restore, &selected, writer.as_mut())?;
        }
    }
    let order = schema::TABLES.map(|table| MergeTable { name: table.name, remnant: table.remnant() });
    let experiments = summary.experiments.clone();
    let staging = Staging {
        restore,
        target,
        selected: &selected,
        moves: rewrites(&options.map_roots),
        experiments: &experiments,
    };
    let mut merges = Vec::new();
    for (store, writer) in &mut writers {
        let mut merge = writer.merge(&order)?;
        staging.stage(*store, merge.as_mut())?;
        summary.tables.extend(merge.report()?.into_iter().filter(|table| !table.is_empty()));
        merges.push(merge);
    }
    let is_refused = options.on_conflict == OnConflict::Refuse && summary.conflicts() > 0;
    if !is_refused {
        let places = transfers.iter().map(|transfer| Ok((restore.files_of(transfer.reference)?, &transfer.place)));
        restore.refuse_overfull(&places.collect::<Result<Vec<_>>>()?)?;
    }
    if options.dry_run || is_refused {
        return Ok(summary);
    }
    // Files before rows, as MLflow itself writes them: who sees a row finds its files.
    for transfer in &transfers {
        let selection = restore.files_of(transfer.reference)?;
        let done = restore.restore_artifacts(&selection, &transfer.place, transfer.overwrite)?;
        summary.artifacts.add(&done);
    }
    restore.sync(transfers.iter().map(|transfer| &transfer.place))?;
    if summary.artifacts.problems > 0 {
        return Err(Error::Refused(format!(
            "{} files could not be restored, so no row was: rows must not promise files that are not there",
            summary.artifacts.problems
        )));
    }
    // Rows may have come while files were restored, so what is applied is counted anew.
    summary.tables.clear();
    for merge in merges {
        summary.tables.extend(merge.apply(options.on_conflict)?.into_iter().filter(|table| !table.is_empty()));
    }
    Ok(summary)
}

/// Leaves out a version whose files are those of a logged model that is restored too.
fn distinct(files: &[Reference]) -> impl Iterator<Item = &Reference> {
    let mut seen = HashSet::new();
    files.iter().filter(move |reference| seen.insert((&reference.component, &reference.path)))
}

type Writers = Vec<(Store, Box<dyn DatabaseWriter>)>;

/// Opens the databases, and makes sure that rows of the snapshot fit them.
fn open_writers(restore: &DeploymentRestore<'_>, target: &Deployment) -> Result<Writers> {
    let mut writers: Writers = Vec::new();
    for record in restore.record.databases.iter().filter(|record| record.store != Store::Auth) {
        let uri = target
            .database(record.store)
            .or_else(|| target.database(Store::Backend))
            .ok_or_else(|| Error::Invalid("No database was given to restore into".to_owned()))?;
        if uri.engine().name() != record.engine {
            return Err(Error::Refused(format!(
                "Rows of a {} database cannot be merged into one of {}",
                record.engine,
                uri.engine().name()
            )));
        }
        let mut writer = database::open_writer(uri)?;
        let mut revisions = Vec::new();
        writer.query(&format!("SELECT version_num FROM {}", record.store.version_table()), &mut |row| {
            revisions.extend(row.first().and_then(Value::as_text).map(str::to_owned));
            Ok(())
        })?;
        if revisions != record.revisions {
            return Err(Error::Refused(format!(
                "The schema of {uri} is {}, that of the snapshot {}: rows can only be merged into the same schema. \
                 Restore the snapshot into an empty database, or what is wanted as files",
                revisions.join(", "),
                record.revisions.join(", ")
            )));
        }
        writers.push((record.store, writer));
    }
    Ok(writers)
}

/// Decides where the files of a row go, by what the deployment maps its location to.
fn plan_transfer<'s>(
    reference: &'s Reference,
    layout: &Layout,
    writers: &mut Writers,
    options: &MergeOptions,
) -> Result<FileTransfer<'s>> {
    let location = moved_root(&crate::mlflow::uri::normalize(&reference.uri), &options.map_roots);
    let Resolved::At { component, path } = layout.map.resolve(&location) else {
        return Err(Error::Refused(format!(
            "The deployment maps no place for {location}, where the files of {} belong",
            reference.id
        )));
    };
    let place = match &layout.components[component].place {
        ArtifactPlace::Directory(directory) => ArtifactPlace::Directory(directory.join(path)),
        ArtifactPlace::Bucket(bucket, settings) => ArtifactPlace::Bucket(bucket.below(&path), settings.clone()),
    };
    let is_known = is_known(reference, writers)?;
    let overwrite =
        if is_known && options.on_conflict != OnConflict::Replace { Overwrite::Never } else { Overwrite::Always };
    Ok(FileTransfer { reference, place, overwrite })
}

/// Returns whether the row that files belong to is in the deployment, and more than what is left of a deleted one.
fn is_known(reference: &Reference, writers: &mut Writers) -> Result<bool> {
    let Some(RowPlace { is_registry, table, stage, condition }) = schema::row_of(reference.kind, &reference.id) else {
        return Ok(false);
    };
    let own = writers.iter().position(|(store, _)| (*store == Store::Registry) == is_registry).unwrap_or(0);
    let Some((_, writer)) = writers.get_mut(own) else { return Ok(false) };
    let mut found = false;
    writer.query(&format!("SELECT {stage} FROM {table} WHERE {condition}"), &mut |row| {
        found = row.first().and_then(Value::as_text) != Some(STAGE_DELETED);
        Ok(())
    })?;
    Ok(found)
}

/// Sets aside the rows that belong to what is wanted.
struct Staging<'a> {
    restore: &'a DeploymentRestore<'a>,
    target: &'a Deployment,
    selected: &'a Selected,
    moves: Vec<Rewrite>,
    experiments: &'a [ExperimentMove],
}

impl Staging<'_> {
    /// Reads the dump of a database once.
    fn stage(&self, store: Store, merge: &mut dyn Merge) -> Result<()> {
        let uri = self.target.database(store).or_else(|| self.target.database(Store::Backend));
        let Some(uri) = uri else { return Ok(()) };
        let mut script = ScriptReader::new(BufReader::new(self.restore.open_dump(store)?), uri.engine().dialect());
        let mut open: Option<(TableHead, &schema::Table)> = None;
        while let Some(piece) = script.next_piece()? {
            self.restore.hears.check()?;
            match piece {
                Piece::Table(head) => {
                    let table = schema::TABLES.iter().find(|table| table.name == head.name);
                    open = table.map(|table| (head, table));
                }
                Piece::Row(mut row) => {
                    let Some((head, table)) = &open else { continue };
                    self.stage_row(head, table, &mut row, merge)?;
                }
                Piece::Statement(_) | Piece::TableEnd => {}
            }
        }
        Ok(())
    }

    fn stage_row(
        &self,
        head: &TableHead,
        table: &schema::Table,
        row: &mut [Value],
        merge: &mut dyn Merge,
    ) -> Result<()> {
        let key_at = |column: &&str| head.columns.iter().position(|known| known == column);
        let keys: Option<Vec<&str>> =
            table.columns.iter().map(|column| row.get(key_at(column)?).and_then(Value::as_text)).collect();
        let Some(need) = keys.and_then(|keys| self.selected.need(table.owner, &keys)) else { return Ok(()) };
        // One that gets a new id is not there yet: if somebody takes the id meanwhile, that is a conflict.
        let need = match renumber(self.experiments, head, row) {
            Moved::There => return Ok(()),
            Moved::Renumbered if head.name == table_names::EXPERIMENTS => Need::Selected,
            Moved::Renumbered | Moved::Not => need,
        };
        rewrite_row(&self.moves, head, row);
        merge.stage(&head.name, &head.columns, row, need)
    }
}
