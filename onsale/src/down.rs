//! `onsale down`: stops a running `onsale up`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::running::{self, DEFAULT_DATA_DIR};

/// Requests that are under way, the last checkpoint of Postgres.
const STOP_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Stops the `onsale up` that runs on a data directory, and waits until it has stopped.
///
/// Requests under way are answered, commands under way are decided, and the data stays. Where
/// nothing runs there is nothing to do, and that is a success.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Data directory of the running `onsale up`.
    #[arg(long, env = "ONSALE_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,

    /// Kill it. Nothing that was acknowledged is lost: the next `up` recovers it.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// When there is one that does not stop.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = args.data_dir.display();
    let Some(pid) = running::holder(&args.data_dir)? else {
        eprintln!("nothing runs on {dir}");
        return Ok(ExitCode::SUCCESS);
    };
    // The lock is held, so that whoever wrote the number lives; still, look before shooting.
    let exe = std::fs::read_link(format!("/proc/{pid}/exe"))
        .with_context(|| format!("{dir} is in use by process {pid}, which can't be looked at"))?;
    let name = exe
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if !name.starts_with("onsale") {
        bail!(
            "{dir} is in use by process {pid}, but that is {}: not stopped",
            exe.display()
        );
    }
    let signal = if args.force {
        Signal::SIGKILL
    } else {
        Signal::SIGTERM
    };
    let number = i32::try_from(pid).context("no process has such a number")?;
    kill(Pid::from_raw(number), signal).with_context(|| format!("stopping process {pid}"))?;

    let started = Instant::now();
    while running::holder(&args.data_dir)? == Some(pid) {
        if started.elapsed() > STOP_LIMIT {
            bail!(
                "process {pid} was asked to stop, but still runs; `onsale down --force` kills it"
            );
        }
        tokio::time::sleep(POLL).await;
    }
    eprintln!("stopped (process {pid}, {dir})");
    Ok(ExitCode::SUCCESS)
}
