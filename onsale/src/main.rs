//! The `onsale` program: reads the command line and hands over.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use onsale::{
    audit, bench, config, crowd, demo, doctor, down, events, gateway, migrate, nats_users, openapi,
    partitions, repartition, restored, seed, up, verify_draw,
};
use onsale_platform::settings::without_credentials;

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
    Gateway(Box<gateway::Args>),
    Migrate(Box<migrate::Args>),
    NatsUsers(nats_users::Args),
    Seed(seed::Args),
    Audit(audit::Args),
    Events(events::Args),
    Config(config::Args),
    Openapi(openapi::Args),
    Partitions(partitions::Args),
    Repartition(repartition::Args),
    Restored(restored::Args),
    VerifyDraw(verify_draw::Args),
    Crowd(Box<crowd::Args>),
    Bench(bench::Args),
    #[command(hide = true)]
    BenchDirect(Box<bench::direct::Args>),
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return refused(&error),
    };
    let done = match command {
        Command::Up(args) => up::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Down(args) => down::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Gateway(args) => gateway::run(*args).await,
        Command::Migrate(args) => migrate::run(*args).await,
        Command::NatsUsers(args) => nats_users::run(&args),
        Command::Seed(args) => seed::run(args).await,
        Command::Audit(args) => audit::run(args).await,
        Command::Events(args) => events::run(args).await,
        Command::Config(args) => config::run(&args),
        Command::Openapi(args) => openapi::run(&args),
        Command::Partitions(args) => partitions::run(args).await,
        Command::Repartition(args) => repartition::run(args).await,
        Command::Restored(args) => restored::run(args).await,
        Command::VerifyDraw(args) => verify_draw::run(args).await,
        Command::Crowd(args) => crowd::run(*args).await,
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

/// Says what is wrong with the command line, as clap does; but not what is secret in an address that
/// stands in a wrong place: that would be read in the log of a pipeline.
fn refused(error: &clap::Error) -> ExitCode {
    let (said, mut shown) = (error.to_string(), error.to_string());
    for argument in std::env::args() {
        let value = match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with('-') => value,
            _ => &argument,
        };
        if let Some(address) = without_credentials(value) {
            shown = shown.replace(value, &address);
        }
    }
    if shown == said {
        // With colours. Nothing can be done when nobody reads.
        drop(error.print());
    } else {
        eprint!("{shown}");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Whoever read our output has enough of it, as `head` does.
fn is_closed_output(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
