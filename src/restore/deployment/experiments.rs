//! Which experiment of a deployment in use is the one of a snapshot: ids are given again, names are not.
//!
//! SQLite gives the id of a purged experiment to the next one, and an experiment that was purged and made again has its
//! old name under another id.
//!
//! What must stay true: an experiment is the same if it has the name, or, under the same id, a run that the snapshot has
//! in it. Rows never go into another one.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::DeploymentRestore;
use crate::catalogue::reader::{for_each, read_all};
use crate::database::DatabaseWriter;
use crate::error::{Error, Result};
use crate::mlflow::catalogue::{Experiment, Run};
use crate::mlflow::names::{file, table};
use crate::mlflow::schema::RowOwner;
use crate::restore::deployment::selection::Selected;
use crate::sql::scanner::TableHead;
use crate::sql::{Value, text_literal};

/// The column that rows name their experiment by.
const EXPERIMENT_ID: &str = "experiment_id";

/// An experiment that has another id in the deployment than in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExperimentMove {
    /// Its name.
    pub name: String,
    /// Its id in the snapshot.
    pub id: String,
    /// Its id in the deployment.
    pub new_id: String,
    /// The name of the experiment that has its old id now.
    pub id_taken_by: Option<String>,
    /// Whether the deployment has it already.
    pub is_there: bool,
}

/// An experiment of the deployment, by name and workspace.
struct LiveExperiment {
    id: String,
    name: String,
    workspace: Option<String>,
}

/// Finds out which of the selected experiments have another id in the deployment.
pub fn find_moves(
    restore: &DeploymentRestore<'_>,
    selected: &Selected,
    writer: &mut dyn DatabaseWriter,
) -> Result<Vec<ExperimentMove>> {
    let wanted = selected.ids(RowOwner::Experiment);
    let all: Vec<Experiment> = read_all(&restore.reader, restore.snapshot, file::EXPERIMENTS, &restore.hears)?;
    let live = live_experiments(writer, all.iter().any(|experiment| experiment.workspace.is_some()))?;
    let numbers = all.iter().map(|known| &known.experiment_id).chain(live.iter().map(|known| &known.id));
    let mut next_id = numbers.filter_map(|id| id.parse::<i64>().ok()).max().unwrap_or_default();
    let mut moves = Vec::new();
    for experiment in all.into_iter().filter(|known| wanted.contains(known.experiment_id.as_str())) {
        let is_named =
            |known: &&LiveExperiment| known.name == experiment.name && known.workspace == experiment.workspace;
        let named = live.iter().find(is_named);
        let occupant = live.iter().find(|known| known.id == experiment.experiment_id);
        let new_id = match (named, occupant) {
            (Some(named), _) if named.id == experiment.experiment_id => continue,
            (_, Some(_)) if shares_a_run(restore, writer, &experiment.experiment_id)? => continue,
            (Some(named), _) => named.id.clone(),
            (None, None) => continue,
            (None, Some(_)) => {
                next_id =
                    next_id.checked_add(1).ok_or_else(|| Error::Refused("There is no free experiment id".into()))?;
                next_id.to_string()
            }
        };
        moves.push(ExperimentMove {
            name: experiment.name,
            id: experiment.experiment_id,
            new_id,
            id_taken_by: occupant.map(|known| known.name.clone()),
            is_there: named.is_some(),
        });
    }
    Ok(moves)
}

fn live_experiments(writer: &mut dyn DatabaseWriter, has_workspaces: bool) -> Result<Vec<LiveExperiment>> {
    let mut live = Vec::new();
    let workspace = if has_workspaces { "workspace" } else { "NULL" };
    let sql = format!("SELECT {EXPERIMENT_ID}, name, {workspace} FROM {}", table::EXPERIMENTS);
    writer.query(&sql, &mut |row| {
        let text = |at: usize| row.get(at).and_then(Value::as_text).map(str::to_owned);
        let (id, name) = (text(0).unwrap_or_default(), text(1).unwrap_or_default());
        live.push(LiveExperiment { id, name, workspace: text(2) });
        Ok(())
    })?;
    Ok(live)
}

/// Returns whether the experiment of this id has, here and in the snapshot, one run in common: then it was renamed.
fn shares_a_run(restore: &DeploymentRestore<'_>, writer: &mut dyn DatabaseWriter, id: &str) -> Result<bool> {
    let mut live = HashSet::new();
    let literal = text_literal(id);
    let sql = format!("SELECT run_uuid FROM {} WHERE CAST({EXPERIMENT_ID} AS text) = {literal}", table::RUNS);
    writer.query(&sql, &mut |row| {
        live.extend(row.first().and_then(Value::as_text).map(str::to_owned));
        Ok(())
    })?;
    let mut shares = false;
    for_each(&restore.reader, restore.snapshot, file::RUNS, &restore.hears, &mut |run: Run| {
        shares |= run.experiment_id == id && live.contains(&run.run_id);
        Ok(())
    })?;
    Ok(shares)
}

/// What a row of an experiment that moves is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It belongs to no experiment that moves.
    Not,
    /// It got the new id.
    Renumbered,
    /// It describes an experiment that is there: that one stays as it is.
    There,
}

/// Gives a row the id that its experiment has in the deployment.
pub fn renumber(moves: &[ExperimentMove], head: &TableHead, row: &mut [Value]) -> Moved {
    let at = |name: &str| head.columns.iter().position(|column| column == name);
    let Some(id) = at(EXPERIMENT_ID).and_then(|at| row.get_mut(at)) else { return Moved::Not };
    let by_id: HashMap<_, _> = moves.iter().map(|moved| (moved.id.as_str(), moved)).collect();
    let Some(moved) = id.as_text().and_then(|id| by_id.get(id)) else { return Moved::Not };
    *id = match id {
        Value::Number(_) => Value::Number(moved.new_id.clone()),
        _ => Value::Text(moved.new_id.clone().into_bytes()),
    };
    let describes = head.name == table::EXPERIMENTS || head.name == table::EXPERIMENT_TAGS;
    if describes && moved.is_there {
        return Moved::There;
    }
    if head.name == table::EXPERIMENTS
        && let Some(location) = at("artifact_location").and_then(|at| row.get_mut(at))
        && let Some(text) = location.as_text().and_then(|text| text.strip_suffix(&format!("/{}", moved.id)))
    {
        // The old place is that of the experiment which has the id now.
        *location = Value::Text(format!("{text}/{}", moved.new_id).into_bytes());
    }
    Moved::Renumbered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str, columns: &[&str]) -> TableHead {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        TableHead { name: name.into(), schema: None, columns, target: name.into() }
    }

    #[test]
    fn rows_get_the_id_that_their_experiment_has_and_no_others_do() {
        let moved = |id: &str, new_id: &str, is_there| ExperimentMove {
            name: "e".into(),
            id: id.into(),
            new_id: new_id.into(),
            id_taken_by: None,
            is_there,
        };
        let moves = [moved("1", "7", true), moved("2", "8", false)];
        let runs = head("runs", &["run_uuid", EXPERIMENT_ID]);
        let mut row = [Value::Text(b"1".to_vec()), Value::Number("1".into())];
        assert_eq!(renumber(&moves, &runs, &mut row), Moved::Renumbered);
        assert_eq!(row, [Value::Text(b"1".to_vec()), Value::Number("7".into())]);
        let mut row = [Value::Text(b"r".to_vec()), Value::Text(b"3".to_vec())];
        assert_eq!(renumber(&moves, &runs, &mut row), Moved::Not);

        let experiments = head("experiments", &[EXPERIMENT_ID, "artifact_location"]);
        let row = |id: &str, location: &str| [Value::Number(id.into()), Value::Text(location.into())];
        assert_eq!(renumber(&moves, &experiments, &mut row("1", "s3://b/1")), Moved::There);
        for (location, expected) in [("s3://b/2", "s3://b/8"), ("s3://b/12", "s3://b/12"), ("s3://b/x", "s3://b/x")] {
            let mut found = row("2", location);
            assert_eq!(renumber(&moves, &experiments, &mut found), Moved::Renumbered);
            assert_eq!(found, row("8", expected));
        }
        assert_eq!(renumber(&moves, &head("params", &["key"]), &mut [Value::Null]), Moved::Not);
    }
}
