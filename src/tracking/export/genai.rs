//! What evaluates answers: evaluation data sets and their records, scorers, review queues, issues.

use serde_json::{Value, json};

use super::{Export, files};
use crate::error::Result;
use crate::tracking::client::encode;
use crate::tracking::json;
use crate::tracking::list::List;

impl Export<'_> {
    /// Writes the evaluation data sets with their experiments, and the records of each.
    pub(super) fn evaluation_sets(&mut self) -> Result<()> {
        let path = "/api/3.0/mlflow/datasets/search";
        let list = List::search("evaluation data sets", path, "datasets", &["dataset_id"]).paged(1000);
        let mut sets = self.optional(&list)?;
        for set in &mut sets {
            let id = json::text(set, "dataset_id").to_owned();
            let path = format!("/api/3.0/mlflow/datasets/{}/experiment-ids", encode(&id));
            let list = List::get(format!("experiments of data set {id}"), &path, "experiment_ids", &[]);
            json::set(set, "experiment_ids", json!(self.optional(&list)?));
            self.records(&id)?;
        }
        self.count("evaluation_sets", sets.len());
        self.files.write_all("evaluation_sets.json", &sets)
    }

    fn records(&mut self, id: &str) -> Result<()> {
        let path = format!("/api/3.0/mlflow/datasets/{}/records", encode(id));
        let list = List::get(format!("records of data set {id}"), &path, "records", &["dataset_record_id"]).paged(1000);
        let mut records = self.files.lines(&format!("evaluation_sets/{}.jsonl", files::name(id)))?;
        self.stream(&list, &mut |_, found| found.iter().try_for_each(|record| records.push(record)))?;
        let records = records.finish()?;
        self.count("evaluation_records", records as usize);
        Ok(())
    }

    /// Writes scorers, review queues and issues. Those of deleted experiments are not given.
    pub(super) fn reviews(&mut self, experiments: &[Value]) -> Result<()> {
        let active = experiments.iter().filter(|experiment| json::text(experiment, "lifecycle_stage") == "active");
        let active: Vec<&str> = active.map(|experiment| json::text(experiment, "experiment_id")).collect();
        let (mut scorers, mut queues, mut issues) = (Vec::new(), Vec::new(), Vec::new());
        for id in active {
            scorers.extend(self.scorers(id)?);
            queues.extend(self.review_queues(id)?);
            let path = "/api/3.0/mlflow/issues/search";
            let list = List::search(format!("issues of experiment {id}"), path, "issues", &["issue_id"]);
            issues.extend(self.optional(&list.with("experiment_id", id).paged(1000))?);
        }
        for (file, kind, items) in [
            ("scorers.json", "scorer_versions", scorers),
            ("review_queues.json", "review_queues", queues),
            ("issues.json", "issues", issues),
        ] {
            self.count(kind, items.len());
            self.files.write_all(file, &items)?;
        }
        Ok(())
    }

    /// Returns all versions of the scorers of an experiment.
    fn scorers(&mut self, experiment: &str) -> Result<Vec<Value>> {
        let what = format!("scorers of experiment {experiment}");
        let list = List::get(what.clone(), "/api/3.0/mlflow/scorers/list", "scorers", &["scorer_name"])
            .with("experiment_id", experiment);
        let mut versions = Vec::new();
        for scorer in self.optional(&list)? {
            let list = List::get(what.clone(), "/api/3.0/mlflow/scorers/versions", "scorers", &["scorer_version"])
                .with("experiment_id", experiment)
                .with("name", json::text(&scorer, "scorer_name"));
            versions.extend(self.optional(&list)?);
        }
        Ok(versions)
    }

    /// Returns the review queues of an experiment with their items.
    fn review_queues(&mut self, experiment: &str) -> Result<Vec<Value>> {
        let what = format!("review queues of experiment {experiment}");
        let list = List::get(what.clone(), "/api/3.0/mlflow/review-queues/list", "review_queues", &["queue_id"])
            .with("experiment_id", experiment)
            .paged(1000);
        let mut queues = self.optional(&list)?;
        for queue in &mut queues {
            let list = List::get(what.clone(), "/api/3.0/mlflow/review-queues/items/list", "items", &[])
                .with("queue_id", json::text(queue, "queue_id"))
                .paged(1000);
            json::set(queue, "items", json!(self.optional(&list)?));
        }
        Ok(queues)
    }
}
