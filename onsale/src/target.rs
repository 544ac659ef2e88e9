//! Which system a command means: the one that it is told, else the one that `onsale up` runs here.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use onsale_platform::config::{database_with_ca, nats_with_ca};
use onsale_workers::config;

use crate::running::{self, DEFAULT_DATA_DIR, Running};
use crate::up;

/// The system that a command works on.
#[derive(Args, Debug, Clone)]
pub struct Target {
    /// Postgres of the system, as `postgres://user:password@host:port/database`. Without it, that
    /// of the system which `onsale up` runs on the data directory.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// File with the certificate authorities (PEM) that Postgres is verified by, where the address
    /// has `sslmode=verify-full`; those of the system without it.
    #[arg(
        long,
        env = "ONSALE_DATABASE_CA",
        value_name = "FILE",
        requires = "database_url"
    )]
    pub database_ca: Option<PathBuf>,

    /// NATS of the system, as `nats://user:password@host:port`. Without it, that of the running
    /// `onsale up`.
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub nats_url: Option<String>,

    /// File with the certificate authorities (PEM) that NATS is verified by, where the address
    /// begins with `tls://`; those of the system without it.
    #[arg(
        long,
        env = "ONSALE_NATS_CA",
        value_name = "FILE",
        requires = "nats_url"
    )]
    pub nats_ca: Option<PathBuf>,

    /// Address of an ingress, as `http://host:port`. Without it, that of the running `onsale up`.
    #[arg(long, env = "ONSALE_API")]
    pub api: Option<String>,

    /// Data directory of the running `onsale up`.
    #[arg(long, env = "ONSALE_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// The database that a command works on, where nothing else is needed.
#[derive(Args, Debug, Clone)]
pub struct Database {
    /// Postgres of the system, as `postgres://user:password@host:port/database`. Without it, that
    /// of the system which `onsale up` runs on the data directory.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// File with the certificate authorities (PEM) that Postgres is verified by, where the address
    /// has `sslmode=verify-full`; those of the system without it.
    #[arg(
        long,
        env = "ONSALE_DATABASE_CA",
        value_name = "FILE",
        requires = "database_url"
    )]
    pub database_ca: Option<PathBuf>,

    /// Data directory of the running `onsale up`.
    #[arg(long, env = "ONSALE_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
}

impl Database {
    /// Its address.
    ///
    /// # Errors
    /// When none is given and no `onsale up` runs.
    pub fn url(self) -> anyhow::Result<String> {
        let target = Target {
            database_url: self.database_url,
            database_ca: self.database_ca,
            nats_url: None,
            nats_ca: None,
            api: None,
            data_dir: self.data_dir,
        };
        target.database_url()
    }
}

/// The ingress that a command asks, where nothing else is needed.
#[derive(Args, Debug, Clone)]
pub struct Api {
    /// Address of an ingress, as `http://host:port`. Without it, that of the running `onsale up`.
    #[arg(long, env = "ONSALE_API", value_name = "URL")]
    pub api: Option<String>,

    /// Data directory of the running `onsale up`.
    #[arg(long, env = "ONSALE_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
}

impl Api {
    /// Its address, without a slash at its end.
    ///
    /// # Errors
    /// When none is given and no `onsale up` runs.
    pub fn url(self) -> anyhow::Result<String> {
        let target = Target {
            database_url: None,
            database_ca: None,
            nats_url: None,
            nats_ca: None,
            api: self.api,
            data_dir: self.data_dir,
        };
        target.api()
    }
}

impl Target {
    /// What `onsale up` runs on the data directory.
    ///
    /// # Errors
    /// When it runs nothing there, with the command that changes it.
    pub fn running(&self) -> anyhow::Result<Running> {
        match running::find(&self.data_dir)? {
            Some(running) => Ok(running),
            None if running::holder(&self.data_dir)?.is_some() => {
                bail!(
                    "`onsale up` is starting on {}, but not ready yet",
                    self.data_dir.display()
                )
            }
            None => bail!(
                "no `onsale up` runs on {}; start one with `make up`",
                self.data_dir.display()
            ),
        }
    }

    /// The address of the database: that of its owner, where `onsale up` runs it.
    ///
    /// # Errors
    /// When none is given and no `onsale up` runs.
    pub fn database_url(&self) -> anyhow::Result<String> {
        self.database_or(|running| running.database)
    }

    /// The address of the database for who only reads.
    ///
    /// # Errors
    /// When none is given and no `onsale up` runs.
    pub fn reader_url(&self) -> anyhow::Result<String> {
        self.database_or(|running| running.reader.unwrap_or(running.database))
    }

    fn database_or(&self, of: impl FnOnce(Running) -> String) -> anyhow::Result<String> {
        let given = self.database_url.as_ref();
        let given = given.map(|url| database_with_ca(url, self.database_ca.as_deref()));
        self.given_or(given, "--database-url (or DATABASE_URL)", of)
    }

    /// The address of NATS.
    ///
    /// # Errors
    /// When none is given and no `onsale up` runs.
    pub fn nats_url(&self) -> anyhow::Result<String> {
        let given = self.nats_url.as_ref();
        let given = given.map(|url| nats_with_ca(url, self.nats_ca.as_deref()));
        self.given_or(given, "--nats-url (or NATS_URL)", |running| running.nats)
    }

    /// The address of an ingress, without a slash at its end.
    ///
    /// # Errors
    /// When none is given and no `onsale up` runs.
    pub fn api(&self) -> anyhow::Result<String> {
        let api = self.given_or(self.api.clone(), "--api (or ONSALE_API)", |running| {
            running.api
        })?;
        Ok(api.trim_end_matches('/').to_owned())
    }

    /// The payment gateway of the settings; where they name none, and no database either, the simulated
    /// one of the running `onsale up`.
    ///
    /// # Errors
    /// When what the running one keeps for its owner can't be read.
    pub fn gateway(&self, given: config::Gateway) -> anyhow::Result<config::Gateway> {
        // A database that was named has nothing to do with whatever else runs here.
        if given.url.is_some() || self.database_url.is_some() {
            return Ok(given);
        }
        let Some(running) = running::find(&self.data_dir)? else {
            return Ok(given);
        };
        let Some(url) = running.gateway else {
            return Ok(given);
        };
        let secret = up::gateway_key(&running.data_dir)?;
        Ok(config::Gateway {
            url: Some(url.parse().context("the gateway's address")?),
            secret: Some(secret.parse().context("the gateway's key")?),
            ..given
        })
    }

    fn given_or(
        &self,
        given: Option<String>,
        flag: &str,
        of: impl FnOnce(Running) -> String,
    ) -> anyhow::Result<String> {
        match given {
            Some(value) => Ok(value),
            None => Ok(of(self
                .running()
                .with_context(|| format!("{flag} is not given"))?)),
        }
    }
}
