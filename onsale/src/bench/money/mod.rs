//! `onsale bench money`: charges and payments by the pipeline against a transaction with row locks per
//! request, beside a yardstick, alternating, on one machine, in one run.

mod case;
mod rows;

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::contest::{self, Plan};
use super::direct::Rival;
pub use case::Case;

/// Measures charges and payments by points, decided and durable, against the row lock.
///
/// Starts a Postgres and a nats-server of its own (fsync and synchronous_commit on), an ingress and
/// workers with all features, and the rival: per request a transaction that locks and reads the account,
/// or the reservation and the account, by SELECT … FOR UPDATE, decides, and writes all by one statement,
/// behind the same HTTP stack, pool and settings. Runs alternate; the median counts. What is to be
/// paid is held, and its payers have charged, through the pipeline, before the clock starts. Every
/// answer is checked against Postgres afterwards, and the whole database by `onsale audit`. Beside
/// the rival runs a yardstick, `lean-cte`: a bare statement that writes the same rows, two for a charge
/// and five for a payment, unless there is too little on the account, and looks at nothing else. What
/// it and the row lock are held to comes from holds, measured before on a machine of 2 cores with
/// Postgres 18: a like yardstick, of two rows, did 10.5k holds/s and a row lock of the same rows 4.6k,
/// where a plain echo of the same stack did 74k answers/s. A figure is void when an answer was not the
/// right one, when the yardstick is below half of that share of what the echo does now (0.07 of the
/// echo; charges on one account are not held to it, as each waits for the commit of another), or when
/// the row lock is below half of that share of what the yardstick does now (0.22 of the yardstick). Use
/// a release build, on a machine that has nothing else to do.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub plan: Plan,

    /// What is wanted.
    #[arg(long, value_enum, value_delimiter = ',',
          default_values_t = [Case::Charges, Case::HotAccount, Case::Payments])]
    pub cases: Vec<Case>,
}

/// Runs the command.
///
/// # Errors
/// When something does not start or breaks.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let rivals = BTreeSet::from([Rival::RowLock, Rival::LeanCte]);
    contest::run(args.plan, args.cases, rivals).await
}
