//! A Postgres and a nats-server for tests, shared by as many tests as possible.

use tokio::sync::OnceCell;

use crate::server::{Error, io_error};
use crate::{NatsOptions, NatsServer, PostgresOptions, PostgresServer, Scratch, Tools};

/// Names a Postgres that tests may create databases on.
pub const DATABASE_URL_VARIABLE: &str = "ONSALE_TEST_DATABASE_URL";
/// Names a nats-server that tests may create streams on.
pub const NATS_URL_VARIABLE: &str = "ONSALE_TEST_NATS_URL";

/// A pair of servers in a temporary folder. Dropping it stops them and removes the folder.
#[derive(Debug)]
pub struct Servers {
    /// The Postgres.
    pub postgres: PostgresServer,
    /// The nats-server.
    pub nats: NatsServer,
    // After the servers: fields are dropped in this order.
    _scratch: Scratch,
}

impl Servers {
    /// Starts a pair on free ports: durable, as in production.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(name: &str) -> Result<Self, Error> {
        Self::start_with(&Tools::locate()?, name).await
    }

    /// The same, with these programs.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_with(tools: &Tools, name: &str) -> Result<Self, Error> {
        Self::start_adjusted(tools, name, |nats| nats).await
    }

    /// The same, with other options of NATS.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_adjusted(
        tools: &Tools,
        name: &str,
        nats: impl FnOnce(NatsOptions) -> NatsOptions,
    ) -> Result<Self, Error> {
        let mut scratch = Scratch::new(name).map_err(io_error("making a temporary folder"))?;
        let postgres_dir = scratch.path().join("postgres");
        let mut postgres = PostgresOptions::new(&postgres_dir);
        // Small, because nobody keeps it; as durable as the real one, because tests measure truth.
        postgres.settings = ["max_wal_size=512MB", "min_wal_size=80MB"]
            .map(str::to_owned)
            .to_vec();
        let nats = nats(NatsOptions::new(scratch.path().join("nats")));
        let (postgres, nats) = tokio::try_join!(
            PostgresServer::start(tools, postgres),
            NatsServer::start(tools, nats)
        )?;

        let lost = || io_error("telling the janitor of a temporary folder");
        if postgres.location().dir != postgres_dir {
            scratch
                .also_remove(&postgres.location().dir)
                .map_err(lost())?;
        }
        for pid in [postgres.pid(), nats.pid()] {
            scratch.outlive(pid).map_err(lost())?;
        }
        Ok(Self {
            postgres,
            nats,
            _scratch: scratch,
        })
    }

    /// Stops both in good order.
    pub async fn stop(mut self) {
        tokio::join!(
            self.postgres.stop(crate::postgres::Stop::Fast),
            self.nats.stop()
        );
    }
}

/// The servers that all tests of a process share.
#[derive(Debug)]
pub struct Shared {
    /// The address of a database that may create others.
    pub database_url: String,
    /// The address of the nats-server.
    pub nats_url: String,
    /// Ours, unless the environment named others.
    _own: Option<Servers>,
}

impl Shared {
    async fn find() -> Result<Self, Error> {
        let named = |variable| {
            std::env::var(variable)
                .ok()
                .filter(|value| !value.is_empty())
        };
        if let (Some(database_url), Some(nats_url)) =
            (named(DATABASE_URL_VARIABLE), named(NATS_URL_VARIABLE))
        {
            return Ok(Self {
                database_url,
                nats_url,
                _own: None,
            });
        }
        let servers = Servers::start("test").await?;
        Ok(Self {
            database_url: servers.postgres.url("postgres"),
            nats_url: servers.nats.url(),
            _own: Some(servers),
        })
    }
}

/// The address of another database on the same Postgres.
pub(crate) fn beside(database_url: &str, database: &str) -> String {
    let (address, parameters) = match database_url.split_once('?') {
        Some((address, parameters)) => (address, format!("?{parameters}")),
        None => (database_url, String::new()),
    };
    let server = match address.rsplit_once('/') {
        // The slashes of "postgres://host".
        Some((scheme, _)) if scheme.ends_with('/') => address,
        Some((server, _)) => server,
        None => address,
    };
    format!("{server}/{database}{parameters}")
}

/// The shared servers: those that the environment names, as under `with-servers`, else a pair that
/// is started once and ends with this process.
///
/// # Errors
/// When they don't start.
pub async fn shared() -> Result<&'static Shared, Error> {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED.get_or_try_init(Shared::find).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_on_the_same_server() {
        for (given, expected) in [
            ("postgres://a:b@h:1/postgres", "postgres://a:b@h:1/x"),
            (
                "postgres://a:b@h:1/postgres?sslmode=disable",
                "postgres://a:b@h:1/x?sslmode=disable",
            ),
            ("postgres://h", "postgres://h/x"),
            ("postgres://h/", "postgres://h/x"),
        ] {
            assert_eq!(beside(given, "x"), expected);
        }
    }
}
