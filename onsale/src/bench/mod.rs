//! `onsale bench`: how fast it is, on real servers, next to designs that do the same job directly.
//!
//! The ratio is the figure that counts: both sides run in one go on one machine, through the same
//! HTTP stack, with the same Postgres settings, and every answer is held against the rows.

mod case;
mod contest;
mod cpu;
pub mod direct;
pub mod failover;
mod histogram;
mod load;
mod machine;
pub mod money;
mod process;
mod progress;
pub mod queue;
mod report;
mod rig;
mod run;
mod scrape;
pub mod seats;
pub mod steady;
pub mod streams;
mod verify;

use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};

/// Measures this system, on servers of its own, against direct designs.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Seats(seats::Args),
    Money(money::Args),
    Failover(failover::Args),
    Streams(streams::Args),
    Queue(queue::Args),
}

/// Runs the command.
///
/// # Errors
/// When something does not start or breaks.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Seats(args) => seats::run(args).await,
        What::Money(args) => money::run(args).await,
        What::Failover(args) => failover::run(args).await,
        What::Streams(args) => streams::run(args).await,
        What::Queue(args) => queue::run(args).await,
    }
}
