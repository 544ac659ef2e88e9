//! Postgres and nats-server for `onsale up`: ours, or those that the environment names.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use onsale_platform::nats_users::User;
use onsale_platform::rights::{self, Applied, Refused, Role};
use onsale_platform::{address, nats};
use onsale_schema::subjects::Subjects;
use onsale_testkit::postgres::Stop;
use onsale_testkit::{
    Error, NatsOptions, NatsServer, NatsUsers, PostgresOptions, PostgresServer, Tools,
};

use super::plan::Plan;
use super::secrets::Secrets;
use super::steps::say;
use super::supervisor::Board;
use super::{Args, DataDir};

const DATABASE: &str = "onsale";
/// The other way.
const WITHOUT_ROLES: &str = "or go on without (--no-roles): then every process connects as the same \
     user and may do anything";
const RETRY: Duration = Duration::from_secs(2);

/// The two servers.
#[derive(Debug)]
pub struct Servers {
    postgres: Option<PostgresServer>,
    nats: Option<NatsServer>,
    /// Address of the database, for its owner.
    pub database_url: String,
    /// Name of the database, when its processes have roles of their own.
    roles_of: Option<String>,
    /// Address of NATS, for its operator.
    pub nats_url: String,
}

/// Waits until the servers of a killed run are gone.
///
/// # Errors
/// When they stay, or data are to be removed that are not ours.
pub async fn settled(args: &Args, tools: Option<&Tools>, dir: &DataDir) -> anyhow::Result<()> {
    if args.fresh && (args.database_url.is_some() || args.nats_url.is_some()) {
        bail!("--fresh removes data, but DATABASE_URL or NATS_URL names servers that are not ours");
    }
    if let Some(tools) = tools {
        PostgresServer::settled(tools, &dir.postgres()).await?;
    }
    NatsServer::settled(&dir.nats()).await?;
    Ok(())
}

/// Removes what former runs have left.
///
/// # Errors
/// When it can't be removed.
pub fn remove_data(tools: Option<&Tools>, dir: &DataDir) -> anyhow::Result<()> {
    if let Some(tools) = tools {
        remove(&PostgresServer::place(tools, &dir.postgres())?.dir)?;
    }
    for path in dir.contents() {
        remove(&path)?;
    }
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let done = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Servers {
    /// Starts what is not given.
    ///
    /// # Errors
    /// With the end of a server's log, when it does not start.
    pub async fn start(
        args: &Args,
        tools: Option<&Tools>,
        plan: &Plan,
        dir: &DataDir,
        secrets: &Secrets,
    ) -> anyhow::Result<Self> {
        let subjects = Subjects::new(&args.subject_prefix)?;
        let ours = || tools.context("the tools were located, because a server is ours");
        let postgres = async {
            if args.database_url.is_some() {
                return Ok(None);
            }
            let mut options = PostgresOptions::new(dir.postgres());
            options.port = plan.postgres;
            options.log = Some(dir.log("postgres"));
            options.settings.push(format!(
                "max_connections={}",
                max_connections(args.ingresses + args.workers)
            ));
            let server = PostgresServer::start(ours()?, options)
                .await
                .map_err(with_way_out)?;
            server.create_database(DATABASE).await?;
            anyhow::Ok(Some(server))
        };
        let nats = async {
            if args.nats_url.is_some() {
                return Ok(None);
            }
            let mut options = NatsOptions::new(dir.nats());
            options.port = plan.nats;
            options.log = Some(dir.log("nats"));
            options.users = Some(NatsUsers {
                subjects,
                passwords: secrets.users.clone(),
                test_password: None,
            });
            anyhow::Ok(Some(NatsServer::start(ours()?, options).await?))
        };
        let (postgres, nats) = tokio::try_join!(postgres, nats)?;
        let url = |given: Option<String>, own: Option<String>| {
            given.or(own).context("a server is either given or ours")
        };
        Ok(Self {
            database_url: url(
                args.named_database(),
                postgres.as_ref().map(|server| server.url(DATABASE)),
            )?,
            roles_of: None,
            nats_url: url(args.named_nats(), nats.as_ref().map(NatsServer::url))?,
            postgres,
            nats,
        })
    }

    /// Gives each kind of process a role of its own, unless there shall be none; what came of it, in
    /// words.
    ///
    /// # Errors
    /// When the user of the database may not do it, with what mends that; when Postgres can't be
    /// reached or refuses for another reason.
    pub async fn make_roles(
        &mut self,
        args: &Args,
        secrets: &Secrets,
    ) -> anyhow::Result<&'static str> {
        if args.no_roles {
            return Ok(
                "NONE, as --no-roles says: every process connects as the same user and may do \
                 anything",
            );
        }
        let password = |role| Some(secrets.role(role).to_owned());
        match rights::apply(&self.database_url, password).await {
            Ok(applied) if applied.has_set_passwords => {
                self.roles_of = Some(applied.database);
                Ok("each kind of process has its own")
            }
            // Somebody else has made them, with passwords that are not known here.
            Ok(Applied { database, user, .. }) => {
                let names = Role::ALL.map(|role| format!("\"{}\"", role.name(&database)));
                bail!(
                    "user {user} may not give the roles of the processes passwords. Either let one \
                     that may, and start again:\n  ALTER ROLE \"{user}\" CREATEROLE;\n  GRANT {} \
                     TO \"{user}\" WITH ADMIN OPTION;\n{WITHOUT_ROLES}",
                    names.join(", ")
                )
            }
            Err(Refused::MayNotCreate { user, .. }) => bail!(
                "user {user} may not make roles, and each kind of process shall have one of its \
                 own. Either let one that may, and start again:\n  ALTER ROLE \"{user}\" \
                 CREATEROLE;\n{WITHOUT_ROLES}"
            ),
            Err(Refused::Db(error)) => Err(error.into()),
        }
    }

    /// Address of the database for a role, or for its owner when there are no roles.
    #[must_use]
    pub fn database_of(&self, role: Role, secrets: &Secrets) -> String {
        match &self.roles_of {
            Some(database) => {
                let password = secrets.role(role);
                address::with_user(&self.database_url, &role.name(database), password)
            }
            None => self.database_url.clone(),
        }
    }

    /// Whether there are roles.
    #[must_use]
    pub fn has_roles(&self) -> bool {
        self.roles_of.is_some()
    }

    /// Address of NATS for a user; the one that was named is for all.
    #[must_use]
    pub fn nats_of(&self, user: User) -> String {
        match &self.nats {
            Some(server) => server.url_of(user),
            None => self.nats_url.clone(),
        }
    }

    /// Makes the streams, or brings them up to date.
    ///
    /// # Errors
    /// When NATS can't be reached or refuses.
    pub async fn keep_streams(&self, args: &Args) -> anyhow::Result<()> {
        let client = nats::connect(&self.nats_url, "onsale-up").await?;
        let subjects = Subjects::new(&args.subject_prefix)?;
        nats::update_streams(&nats::jetstream(client), &subjects, &args.streams).await?;
        Ok(())
    }

    /// Our Postgres, if it is ours.
    #[must_use]
    pub fn postgres(&self) -> Option<&PostgresServer> {
        self.postgres.as_ref()
    }

    /// What runs, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let postgres = match &self.postgres {
            Some(server) => format!("Postgres {} on port {}", server.version(), server.port()),
            None => "Postgres of DATABASE_URL".to_owned(),
        };
        let nats = match &self.nats {
            Some(server) => format!("NATS on port {}", server.port()),
            None => "NATS of NATS_URL".to_owned(),
        };
        format!("{postgres}, {nats}")
    }

    /// Notes who runs.
    pub fn announce(&self, board: &Board) {
        if let Some(server) = &self.nats {
            board.set("nats", 0, server.pid());
        }
        if let Some(server) = &self.postgres {
            board.set("postgres", 0, server.pid());
        }
    }

    /// Keeps both running; never returns. Cancel it to stop them.
    pub async fn keep(&mut self, board: &Board) {
        loop {
            self.announce(board);
            tokio::select! {
                status = ended_postgres(&self.postgres) => {
                    say(format!("  Postgres ended with {status}; starting it again"));
                }
                status = ended_nats(&self.nats) => {
                    say(format!("  nats-server ended with {status}; starting it again"));
                }
            }
            while let Err(error) = self.restart_what_ended().await {
                say(format!("  {error:#}; again in {} s", RETRY.as_secs()));
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn restart_what_ended(&mut self) -> anyhow::Result<()> {
        if let Some(server) = &mut self.postgres
            && !server.is_running()
        {
            server.restart().await?;
        }
        if let Some(server) = &mut self.nats
            && !server.is_running()
        {
            server.restart().await?;
        }
        Ok(())
    }

    /// Stops ours.
    pub async fn stop(&mut self) {
        let postgres = async {
            if let Some(server) = &mut self.postgres {
                server.stop(Stop::Fast).await;
            }
        };
        let nats = async {
            if let Some(server) = &mut self.nats {
                server.stop().await;
            }
        };
        tokio::join!(postgres, nats);
    }
}

/// What our processes hold, and others beside. A worker has a pool (by default of 8) and up to 9 of
/// its own: of each lane that it owns partitions of the committer's and the life-sign's, 4 that read
/// schedules, and that of the one outbox that publishes.
fn max_connections(processes: u16) -> u16 {
    (100 + 17 * processes).max(200)
}

fn with_way_out(error: Error) -> anyhow::Error {
    match &error {
        Error::DataVersion { found, .. } => {
            let mend =
                format!("use Postgres {found} (ONSALE_POSTGRES_BIN), or start over (--fresh)");
            anyhow::Error::from(error).context(mend)
        }
        _ => error.into(),
    }
}

async fn ended_postgres(server: &Option<PostgresServer>) -> std::process::ExitStatus {
    match server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}

async fn ended_nats(server: &Option<NatsServer>) -> std::process::ExitStatus {
    match server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}
