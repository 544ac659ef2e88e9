//! `onsale migrate`: brings the database, its roles and the streams to what these programs need.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args as ClapArgs;
use diesel_async::AsyncMigrationHarness;
use diesel_migrations::MigrationHarness;
use onsale_platform::rights::{self, Applied, Role};
use onsale_platform::{config, db, nats};
use onsale_schema::subjects::Subjects;

use crate::target::Target;

/// Brings the database to the newest version, step by step, gives its roles their rights, and brings
/// the streams up to date.
///
/// Safe to run at any time and from several places at once: one migrates, the others wait and find
/// nothing left to do. A step that fails is undone as a whole, and those before it stay. Roles are
/// named after the database: `onsale_ingress`, `onsale_workers` and `onsale_reader` for `onsale`.
/// The user must own the tables, and may make roles; exit status 1 and the SQL that is missing, where
/// it may not.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub target: Target,

    /// Only tell which migrations are missing: exit status 1 if one is.
    #[arg(long)]
    pub check: bool,

    /// Make no roles and leave all rights as they are.
    #[arg(long)]
    pub no_roles: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub passwords: Passwords,

    /// Prefix of all subjects and streams of the system.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub streams: config::Streams,
}

/// The passwords that the roles get. They are better given as variables: a command line is seen by
/// everybody on the machine.
#[derive(ClapArgs)]
pub struct Passwords {
    /// New password of the ingress' role; without it, the one that it has stays.
    #[arg(long, env = "ONSALE_INGRESS_ROLE_PASSWORD", hide_env_values = true)]
    ingress_role_password: Option<String>,

    /// New password of the workers' role; without it, the one that it has stays.
    #[arg(long, env = "ONSALE_WORKERS_ROLE_PASSWORD", hide_env_values = true)]
    workers_role_password: Option<String>,

    /// New password of the reader's role; without it, the one that it has stays.
    #[arg(long, env = "ONSALE_READER_ROLE_PASSWORD", hide_env_values = true)]
    reader_role_password: Option<String>,
}

impl Passwords {
    fn of(&self, role: Role) -> Option<String> {
        match role {
            Role::Ingress => self.ingress_role_password.clone(),
            Role::Workers => self.workers_role_password.clone(),
            Role::Reader => self.reader_role_password.clone(),
        }
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords")
    }
}

/// Runs the command.
///
/// # Errors
/// When Postgres can't be reached or a migration fails.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let database_url = args.target.database_url()?;
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
    if !args.no_roles {
        let applied = rights::apply(&database_url, |role| args.passwords.of(role)).await?;
        tell_roles(&applied, &args.passwords);
    }
    keep_streams(&args).await?;
    Ok(ExitCode::SUCCESS)
}

fn tell_roles(applied: &Applied, passwords: &Passwords) {
    for role in Role::ALL {
        let name = role.name(&applied.database);
        let made = match applied.made.contains(&name) {
            true => "made",
            false => "is there",
        };
        println!("role     {name} {made} and has its rights");
        if passwords.of(role).is_some() && !applied.has_set_passwords {
            println!("         it keeps its password: to set one takes a user who may make roles");
        }
        if made == "made" && passwords.of(role).is_none() {
            println!("         it has no password yet: set one with psql's \\password {name}");
        }
    }
}

/// Brings the streams up to date where NATS is named, or runs here.
async fn keep_streams(args: &Args) -> anyhow::Result<()> {
    if args.target.nats_url.is_none() && args.target.database_url.is_some() {
        println!("streams  not looked at: NATS_URL names no server; workers make missing ones");
        return Ok(());
    }
    let client = nats::connect(&args.target.nats_url()?, "onsale-migrate").await?;
    let subjects = Subjects::new(&args.subject_prefix)?;
    nats::update_streams(&nats::jetstream(client), &subjects, &args.streams).await?;
    println!("streams  are as the settings say");
    Ok(())
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
