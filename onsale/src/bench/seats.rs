//! `onsale bench seats`: the pipeline against the direct designs, alternating, on one machine, in one
//! run.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::case::Case;
use super::contest::{self, Plan};
use super::direct::Rival;

/// Measures holds, decided and durable, against the direct designs.
///
/// Starts a Postgres and a nats-server of its own (fsync and synchronous_commit on), an ingress and
/// workers with all features, and the rivals: one CTE statement per request, or a transaction with
/// row locks, behind the same HTTP stack, pool and settings. Runs alternate between the designs; the
/// median counts. Every answer is checked against Postgres afterwards, and the whole database by
/// `onsale audit`. Beside the rivals runs a yardstick, `lean-cte`: a bare statement that writes two
/// rows and checks nothing. Measured before on a machine of 2 cores with Postgres 18, where a plain
/// echo of the same stack did 74k answers/s, it did 10.2k to 10.5k holds/s when all win, and 21.6k
/// decisions/s when 256 connections want hot seats. A figure is void when an answer was not the
/// right one, when the yardstick is below 0.6 of that share of what the echo does now, or when the
/// rival `cte` is below 0.4 of the yardstick. Use a release build, on a machine that has nothing
/// else to do.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub plan: Plan,

    /// What is wanted.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Case::AllWin, Case::Hot])]
    pub cases: Vec<Case>,

    /// Against whom.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Rival::Cte])]
    pub rivals: Vec<Rival>,
}

/// Runs the command.
///
/// # Errors
/// When something does not start or breaks.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut rivals = BTreeSet::from_iter(args.rivals);
    rivals.insert(Rival::LeanCte);
    contest::run(args.plan, args.cases, rivals).await
}
