//! Runs a command with a Postgres and a nats-server of its own, in a temporary folder.
//!
//! `with-servers -- cargo test --workspace` lets all test programs share one pair, instead of each
//! starting its own. The command's exit code is ours.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use onsale_testkit::spawn::{self, Child, Signal, Tie};
use onsale_testkit::{DATABASE_URL_VARIABLE, NATS_URL_VARIABLE, Servers};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run().await.unwrap_or_else(|error| {
        eprintln!("with-servers: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.peek().is_some_and(|word| word == "--") {
        words.next();
    }
    let program = words
        .next()
        .context("usage: with-servers -- <command> [arguments]")?;

    let servers = Servers::start("with-servers").await?;
    // In our process group: what the terminal sends to us, it sends to the command as well.
    let tie = Tie {
        own_group: false,
        ..Tie::new(Signal::SIGTERM)
    };
    let mut command = tie.command(&program);
    command.args(words);
    command.env(DATABASE_URL_VARIABLE, servers.postgres.url("postgres"));
    command.env(NATS_URL_VARIABLE, servers.nats.url());
    let child = spawn::spawn(command)
        .await
        .with_context(|| format!("starting {}", program.display()))?;
    let status = end_of(&child).await?;
    drop(child);
    servers.stop().await;
    Ok(ExitCode::from(code_of(status)))
}

/// Waits for the command, passing on what would end us; a second request ends it for good.
async fn end_of(child: &Child) -> anyhow::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut asked = false;
    loop {
        let wish = tokio::select! {
            status = child.wait() => return Ok(status),
            _ = interrupt.recv() => Signal::SIGINT,
            _ = terminate.recv() => Signal::SIGTERM,
        };
        // A terminal has sent its SIGINT to the command already.
        if asked || wish == Signal::SIGTERM {
            child.signal(if asked { Signal::SIGKILL } else { wish });
        }
        asked = true;
    }
}

/// As a shell would say it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
