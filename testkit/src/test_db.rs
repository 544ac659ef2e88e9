//! A database, and a nats-server, of a test's own.

use std::sync::atomic::{AtomicU32, Ordering};

use onsale_platform::address;
use onsale_platform::rights::{self, Role};

use crate::server::{Error, io_error};
use crate::shared::beside;
use crate::{NatsOptions, NatsServer, Scratch, Tools, postgres, shared};

/// The password of the roles of test databases.
const ROLE_PASSWORD: &str = "role-password";

/// An empty database. Dropping it drops the database too, with its roles and the sessions
/// that are left on it.
#[derive(Debug)]
pub struct TestDb {
    url: String,
    name: String,
    admin_url: String,
}

impl TestDb {
    /// Creates a database with a name of its own on the shared Postgres.
    ///
    /// # Errors
    /// When the shared servers don't start, or refuse.
    pub async fn create() -> Result<Self, Error> {
        Self::create_on(&shared().await?.database_url).await
    }

    /// The same on another Postgres: `admin_url` is the address of a database there.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn create_on(admin_url: &str) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "test_{}_{number}_{:08x}",
            std::process::id(),
            rand::random::<u32>()
        );
        postgres::create_database(admin_url, &name).await?;
        Ok(Self {
            url: beside(admin_url, &name),
            name,
            admin_url: admin_url.to_owned(),
        })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes the roles of its processes, and gives them their rights. It must be migrated.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn make_roles(&self) -> Result<(), rights::Refused> {
        rights::apply(&self.url, |_| Some(ROLE_PASSWORD.to_owned())).await?;
        Ok(())
    }

    /// Its address for a role that [`Self::make_roles`] has made.
    #[must_use]
    pub fn url_of(&self, role: Role) -> String {
        address::with_user(&self.url, &role.name(&self.name), ROLE_PASSWORD)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (url, name) = (self.admin_url.clone(), self.name.clone());
        // A thread, because a runtime may already be around us. What can't be dropped goes away
        // with the server.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime
                && let Err(error) = runtime.block_on(drop_with_roles(&url, &name))
            {
                tracing::debug!(%error, name, "a test's database stays");
            }
        });
        drop(dropper.join());
    }
}

async fn drop_with_roles(url: &str, name: &str) -> Result<(), Error> {
    postgres::drop_database(url, name).await?;
    for role in Role::ALL {
        postgres::drop_role(url, &role.name(name)).await?;
    }
    Ok(())
}

/// A nats-server of a test's own, in a temporary folder: streams have fixed names, so that tests
/// which run at once can't share them. It starts in a few hundredths of a second.
#[derive(Debug)]
pub struct TestNats {
    /// The server, to be killed and restarted at will.
    pub server: NatsServer,
    _scratch: Scratch,
}

impl TestNats {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with(|options| options).await
    }

    /// The same with other options.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_with(
        adjust: impl FnOnce(NatsOptions) -> NatsOptions,
    ) -> Result<Self, Error> {
        let mut scratch = Scratch::new("nats").map_err(io_error("making a temporary folder"))?;
        let options = adjust(NatsOptions::new(scratch.path()));
        let server = NatsServer::start(&Tools::locate()?, options).await?;
        scratch
            .outlive(server.pid())
            .map_err(io_error("telling the janitor of a temporary folder"))?;
        Ok(Self {
            server,
            _scratch: scratch,
        })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }
}
