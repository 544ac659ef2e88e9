//! The `onsale` program: reads the command line and hands over.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use onsale::{
    audit, bench, config, demo, doctor, down, migrate, nats_users, openapi, partitions,
    repartition, seed, up,
};

/// A concert on-sale engine: seat engine, point ledger and payment settlement.
///
/// `onsale up` runs everything on this machine; the other commands work on that system, or on one
/// that DATABASE_URL and NATS_URL name.
#[derive(Parser)]
#[command(
    name = "onsale",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Args),
    Demo(demo::Args),
    Down(down::Args),
    Doctor(doctor::Args),
    Migrate(Box<migrate::Args>),
    NatsUsers(nats_users::Args),
    Seed(seed::Args),
    Audit(audit::Args),
    Config(config::Args),
    Openapi(openapi::Args),
    Partitions(partitions::Args),
    Repartition(repartition::Args),
    Bench(bench::Args),
    #[command(hide = true)]
    BenchDirect(Box<bench::direct::Args>),
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up(args) => up::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Down(args) => down::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Migrate(args) => migrate::run(*args).await,
        Command::NatsUsers(args) => nats_users::run(&args),
        Command::Seed(args) => seed::run(args).await,
        Command::Audit(args) => audit::run(args).await,
        Command::Config(args) => config::run(&args),
        Command::Openapi(args) => openapi::run(&args),
        Command::Partitions(args) => partitions::run(args).await,
        Command::Repartition(args) => repartition::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::BenchDirect(args) => bench::direct::run(*args).await,
    };
    done.unwrap_or_else(|error| {
        if is_closed_output(&error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("\nonsale: {error:#}");
        ExitCode::FAILURE
    })
}

/// Whoever read our output has enough of it, as `head` does.
fn is_closed_output(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
