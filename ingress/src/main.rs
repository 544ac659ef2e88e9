//! The ingress process.

use anyhow::Context;
use onsale_ingress::Config;
use onsale_platform::{settings, shutdown, telemetry};
use std::process::ExitCode;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let config: Config = match settings::read() {
        Ok(config) => config,
        Err(status) => return status,
    };
    let served = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(config.http.threads))
        .enable_all()
        .build()
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(run(config)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onsale-ingress: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.telemetry)?;
    settings::log::<Config>();
    let stop = CancellationToken::new();
    let mut signals = JoinSet::new();
    signals.spawn(shutdown::on_signal(stop.clone()));
    onsale_ingress::run(config, stop).await?;
    signals.shutdown().await;
    Ok(())
}
