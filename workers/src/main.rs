//! The worker process.

use clap::Parser;
use onsale_platform::{shutdown, telemetry};
use onsale_workers::{Config, Context, process};
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Config::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onsale-workers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.telemetry)?;
    let stop = CancellationToken::new();
    let signals = tokio::task::JoinSet::from_iter([shutdown::on_signal(stop.clone())]);
    let ctx = Context::connect(config).await?;
    process::run(ctx, stop).await?;
    drop(signals);
    Ok(())
}
