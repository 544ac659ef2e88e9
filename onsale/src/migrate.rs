//! `onsale migrate`: brings the database to the version that these programs need.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args as ClapArgs;
use diesel_async::AsyncMigrationHarness;
use diesel_migrations::MigrationHarness;
use onsale_platform::db;

use crate::target::Database;

/// Brings the database to the newest version, step by step; what is there already is left alone.
///
/// Safe to run at any time and from several places at once: one migrates, the others wait and find
/// nothing left to do. A step that fails is undone as a whole, and those before it stay.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub database: Database,

    /// Only tell what is missing: exit status 1 if something is.
    #[arg(long)]
    pub check: bool,
}

/// Runs the command.
///
/// # Errors
/// When Postgres can't be reached or a migration fails.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let database_url = args.database.url()?;
    if args.check {
        let missing = pending(&database_url).await?;
        for version in &missing {
            println!("missing  {version}");
        }
        return Ok(if missing.is_empty() {
            println!("the database is up to date");
            ExitCode::SUCCESS
        } else {
            println!("{} to apply: `onsale migrate`", missing.len());
            ExitCode::FAILURE
        });
    }
    let applied = db::migrate(&database_url).await?;
    for version in &applied {
        println!("applied  {version}");
    }
    if applied.is_empty() {
        println!("nothing to do: the database is up to date");
    }
    Ok(ExitCode::SUCCESS)
}

/// The migrations that the database does not have, oldest first. Changes nothing but that it makes
/// Diesel's own table of versions where there is none.
///
/// # Errors
/// When Postgres can't be reached.
pub async fn pending(database_url: &str) -> anyhow::Result<Vec<String>> {
    let conn = db::connect(database_url)
        .await
        .context("connecting to Postgres")?;
    // The harness blocks its thread, and would take the wake-ups of what else its task awaits.
    let pending = tokio::task::spawn_blocking(move || {
        let missing = AsyncMigrationHarness::new(conn)
            .pending_migrations(db::MIGRATIONS)
            .map_err(|error| anyhow::anyhow!("reading the versions: {error}"))?;
        let names = missing.iter().map(|migration| migration.name().to_string());
        Ok(names.collect())
    });
    pending.await.context("reading the versions")?
}
