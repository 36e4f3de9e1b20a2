//! Who agrees to a plan before it is carried out, and how.

use crate::error::Result;

/// Shows a plan to somebody and asks whether to go on.
pub trait Confirm<P> {
    /// Returns if the answer is yes. Any other answer is an error, and the procedure ends with it.
    fn confirm(&self, plan: &P) -> Result<()>;
}

impl<P, F: Fn(&P) -> Result<()>> Confirm<P> for F {
    fn confirm(&self, plan: &P) -> Result<()> {
        self(plan)
    }
}

/// Whether a plan may be carried out.
#[derive(Clone, Copy)]
pub enum Consent<'a, P> {
    /// It may not: the plan is all that is wanted.
    DryRun,
    /// It may, if this says yes.
    Ask(&'a dyn Confirm<P>),
    /// It may: somebody agreed beforehand to whatever the plan is.
    Given,
}

impl<P> Consent<'_, P> {
    /// Returns whether to carry the plan out. Fails if somebody was asked and did not agree.
    pub fn allows(&self, plan: &P) -> Result<bool> {
        match self {
            Self::DryRun => Ok(false),
            Self::Ask(who) => who.confirm(plan).map(|()| true),
            Self::Given => Ok(true),
        }
    }

    /// Returns whether anybody will look at the plan. Where a plan is costly, it is only made for them.
    pub fn wants_plan(&self) -> bool {
        !matches!(self, Self::Given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn only_a_yes_or_an_earlier_consent_carries_a_plan_out() {
        let yes = |_: &u8| Ok(());
        let no = |_: &u8| Err(Error::Refused("no".to_owned()));
        assert!(!Consent::DryRun.allows(&1_u8).unwrap());
        assert!(Consent::Given.allows(&1_u8).unwrap());
        assert!(Consent::Ask(&yes).allows(&1).unwrap());
        assert!(Consent::Ask(&no).allows(&1).is_err());
    }
}
