//! What is expected of the backups of a deployment: how old its last good snapshot may be (RPO), how long a restore may take
//! (RTO), how long ago somebody may have looked.
//!
//! What must stay true: nothing that was said is left out silently. What cannot be read as a time is refused, and only the word
//! `none` means that something is not judged.

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::units::parse_duration;

/// The age that the last good snapshot of a deployment may have where nothing is said: a backup each night, and two hours for
/// it to run.
const RPO_DEFAULT: SignedDuration = SignedDuration::from_hours(26);

/// How long something may take, or how long ago it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// At most this.
    Within(SignedDuration),
    /// It is not judged.
    Unlimited,
}

impl Objective {
    /// Returns the limit, if there is one.
    pub fn limit(self) -> Option<SignedDuration> {
        match self {
            Self::Within(limit) => Some(limit),
            Self::Unlimited => None,
        }
    }
}

impl<'de> Deserialize<'de> for Objective {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "none" {
            return Ok(Self::Unlimited);
        }
        let limit = parse_duration(&text).filter(|limit| limit.is_positive());
        limit
            .map(Self::Within)
            .ok_or_else(|| de::Error::custom("it is neither a time such as 10m, 26h or 8d, nor \"none\""))
    }
}

/// As seconds; null where there is no limit.
impl Serialize for Objective {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.limit().map(|limit| limit.as_secs()).serialize(serializer)
    }
}

/// The table `[deployment.NAME.objectives]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Objectives {
    /// Age of the last good snapshot. See [`Objectives::rpo`].
    pub rpo: Option<Objective>,
    /// Time that a restore of everything takes.
    pub rto: Option<Objective>,
    /// Of its databases.
    pub rto_database: Option<Objective>,
    /// Of its artifacts.
    pub rto_artifacts: Option<Objective>,
    /// Of the export through the REST API.
    pub rto_metadata: Option<Objective>,
    /// Age of the last check of the repository that is on record.
    pub check: Option<Objective>,
    /// Age of the last drill.
    pub drill: Option<Objective>,
}

impl Objectives {
    /// Returns how old the last good snapshot may be: 26 hours where nothing is said.
    pub fn rpo(&self) -> Option<SignedDuration> {
        self.rpo.unwrap_or(Objective::Within(RPO_DEFAULT)).limit()
    }

    /// Returns how long a restore of everything may take.
    pub fn rto(&self) -> Option<SignedDuration> {
        self.rto.and_then(Objective::limit)
    }

    /// Returns how long the restore of a component may take, by its name in a snapshot.
    pub fn rto_of(&self, component: &str) -> Option<SignedDuration> {
        let said = match component.split('/').next() {
            Some("database") => self.rto_database,
            Some("artifacts") => self.rto_artifacts,
            Some("metadata") => self.rto_metadata,
            _ => None,
        };
        said.and_then(Objective::limit)
    }

    /// Returns whether there is a limit for what a restore into MLflow's storage does.
    pub fn limit_a_restore(&self) -> bool {
        [self.rto(), self.rto_of("database"), self.rto_of("artifacts")].iter().any(Option::is_some)
    }

    /// Returns how long ago the last check may be.
    pub fn check(&self) -> Option<SignedDuration> {
        self.check.and_then(Objective::limit)
    }

    /// Returns how long ago the last drill may be.
    pub fn drill(&self) -> Option<SignedDuration> {
        self.drill.and_then(Objective::limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(said: &[(&str, &str)]) -> Result<Objectives, serde_json::Error> {
        let table: serde_json::Map<_, _> =
            said.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        serde_json::from_value(table.into())
    }

    #[test]
    fn only_the_word_none_takes_a_limit_away() {
        assert_eq!(parse(&[]).unwrap().rpo(), Some(SignedDuration::from_hours(26)));
        assert_eq!(parse(&[("rpo", "none")]).unwrap().rpo(), None);
        assert_eq!(parse(&[("rpo", "8d")]).unwrap().rpo(), Some(SignedDuration::from_hours(192)));
        for nonsense in ["", "0s", "-1h", "soon", "None", "6m 3"] {
            assert!(parse(&[("rpo", nonsense)]).is_err(), "{nonsense:?}");
        }
        assert!(parse(&[("rto-databse", "1h")]).is_err());
    }

    #[test]
    fn components_have_times_of_their_own() {
        let objectives = parse(&[("rto", "90m"), ("rto-artifacts", "60m")]).unwrap();
        assert_eq!(objectives.rto(), Some(SignedDuration::from_mins(90)));
        assert_eq!(objectives.rto_of("artifacts/s3-models"), Some(SignedDuration::from_mins(60)));
        assert_eq!((objectives.rto_of("database"), objectives.rto_of("catalogue")), (None, None));
    }
}
