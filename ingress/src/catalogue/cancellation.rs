//! Rules of cancelling, as those who administer say them.

use crate::problem::FieldError;
use onsale_schema::cancellation::{Rounding, Rules, Step, Wrong};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::ToSchema;

/// Until when buyers may cancel, and what it costs; all of it anew. What is not said is as by default:
/// free of charge until the beginning.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WantedRules {
    /// Cancelling ends so long before the beginning; `null`: buyers can't cancel.
    #[serde(default = "until")]
    #[schema(minimum = 0, maximum = 315_360_000)]
    until_seconds_before: Option<i64>,
    /// What it costs, the step with the most days first and the last one from 0 days on.
    #[serde(default)]
    #[schema(max_items = 20)]
    fees: Vec<WantedStep>,
    #[serde(default = "rounding")]
    rounding: Rounding,
    /// To what the fee of a seat is rounded, in won: 1, 10, 100 or 1000.
    #[serde(default = "unit")]
    #[schema(minimum = 1, maximum = 1000)]
    unit: u32,
}

/// What cancelling costs from so many days before the beginning on.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WantedStep {
    /// As long as at least so many whole times of 24 hours are left; fewer than in the step before.
    #[schema(minimum = 0, maximum = 3650)]
    days_before: i64,
    /// Of the price of each seat that is cancelled; not less than in the step before.
    #[schema(minimum = 0, maximum = 100)]
    percent: u32,
}

fn until() -> Option<i64> {
    Rules::default().until_seconds_before
}

fn rounding() -> Rounding {
    Rules::default().rounding
}

fn unit() -> u32 {
    Rules::default().unit
}

impl WantedRules {
    /// The rules.
    pub(crate) fn rules(&self) -> Rules {
        let step = |step: &WantedStep| Step {
            days_before: step.days_before,
            percent: step.percent,
        };
        Rules {
            until_seconds_before: self.until_seconds_before,
            fees: self.fees.iter().map(step).collect(),
            rounding: self.rounding,
            unit: self.unit,
        }
    }

    /// Everything that is wrong with them.
    pub(crate) fn errors(&self) -> Vec<FieldError> {
        self.rules().check().into_iter().map(error).collect()
    }
}

fn error(wrong: Wrong) -> FieldError {
    let (place, code) = match wrong {
        Wrong::Until => ("untilSecondsBefore".to_owned(), "invalid-value"),
        Wrong::TooManySteps => ("fees".to_owned(), "too-many"),
        Wrong::Step(at) => (format!("fees/{at}"), "invalid-value"),
        Wrong::Order(at) => (format!("fees/{at}"), "not-in-order"),
        Wrong::NoLast => ("fees".to_owned(), "last-days-missing"),
        Wrong::Unit => ("unit".to_owned(), "invalid-value"),
    };
    FieldError {
        pointer: Cow::Owned(format!("/cancellation/{place}")),
        code,
    }
}
