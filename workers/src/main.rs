//! The worker process.

use onsale_platform::{settings, shutdown, telemetry};
use onsale_workers::{Config, Context, process};
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let config = match settings::read() {
        Ok(config) => config,
        Err(status) => return status,
    };
    match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onsale-workers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.telemetry)?;
    settings::log::<Config>();
    let stop = CancellationToken::new();
    let signals = tokio::task::JoinSet::from_iter([shutdown::on_signal(stop.clone())]);
    let ctx = Context::connect(config).await?;
    process::run(ctx, stop).await?;
    drop(signals);
    Ok(())
}
