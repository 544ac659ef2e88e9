//! The Postgres pool, migrations, and facts about this installation.

use crate::address;
use crate::clock::Clock;
use crate::sql::statement;
use crate::tls;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{Integer, Text, Timestamptz};
use diesel::{ConnectionError, ConnectionResult, ExpressionMethods, QueryDsl, QueryableByName};
use diesel_async::{
    AsyncConnection, AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use onsale_schema::{Timestamp, tables};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Socket};

pub use crate::pool::{Connection, Pool};

/// The migrations, built in.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

/// Bounds of a session, in milliseconds, and in seconds where they are TCP's.
///
/// A session that is idle in a transaction, or waits for a lock, ends within the lease of a
/// partition's owner (3 s), so that an owner that was paused can't block its successor for longer.
/// A statement that runs may take longer: it is not the owner's pause that makes it slow. A client
/// whose host is gone is noticed after about 20 s, and never by bytes that are late to be
/// acknowledged: that has ended sessions of hosts that were only busy.
///
/// Whatever is asked for is found by a key. A statement may be planned while its tables are empty and
/// run when they are large, so that a plan must not read a whole table where an index has the rows.
/// Who does read whole tables says [`WHOLE_TABLES`].
const SESSION_OPTIONS: &str = "-c idle_in_transaction_session_timeout=2000 -c lock_timeout=2000 \
     -c statement_timeout=20000 -c timezone=UTC -c enable_seqscan=off -c jit=off \
     -c tcp_keepalives_idle=10 \
     -c tcp_keepalives_interval=3 -c tcp_keepalives_count=3";
/// How long unacknowledged bytes may stay unacknowledged before the connection counts as dead.
const TCP_USER_TIMEOUT: Duration = Duration::from_millis(2000);
/// Plans are made once: to make one for each batch costs more than to run it, and one that is made for
/// its values may be much worse where little is known of a table that grows.
const GENERIC_PLANS: &str = "-c plan_cache_mode=force_generic_plan";
/// For a session that reads whole tables, as an audit does.
pub const WHOLE_TABLES: &str = "SET enable_seqscan = on";
/// A server that has gone without a word is noticed within three of these, also while we only wait.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// How long a process waits for a connection from its pool.
pub(crate) const POOL_WAIT: Duration = Duration::from_secs(5);

/// What can go wrong with the database, by what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Away, restarting or out of connections; it heals by itself. Whether a commit that was under
    /// way took place is unknown.
    #[error("Postgres is unavailable: {0}")]
    Unavailable(String),
    /// Another transaction was in the way (deadlock, serialization failure, lock time-out):
    /// nothing was changed, again is fine.
    #[error("another transaction was in the way: {0}")]
    Contended(String),
    /// A unique key, foreign key or check said no.
    #[error("constraint {constraint} was violated: {message}")]
    Constraint {
        /// Its name.
        constraint: String,
        /// What Postgres said.
        message: String,
    },
    /// A unique key that was free when it was looked for is not any more. The transaction as a whole
    /// may look again a few times ([`crate::tx::run`]); if that doesn't help it is as good as
    /// [`Self::Constraint`].
    #[error("{0} was taken meanwhile")]
    Taken(String),
    /// No row where one was asked for.
    #[error("not found")]
    NotFound,
    /// Another statement of the transaction has failed before, and says why; see [`both`].
    #[error("the transaction has failed before: {0}")]
    Aborted(String),
    /// Anything else; again would fail again.
    #[error("the database refused: {0}")]
    Refused(String),
}

/// What two statements have come to that were sent in one go, in either order: of two errors the one that
/// is the cause of the other.
///
/// # Errors
/// That of either, or the cause.
pub fn both<A, B>(one: Result<A, Error>, other: Result<B, Error>) -> Result<(A, B), Error> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(Error::Aborted(_)), Err(cause)) => Err(cause),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

impl Error {
    /// Whether trying again may help without anything else changing.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Contended(_) => true,
            Self::Constraint { .. }
            | Self::Taken(_)
            | Self::NotFound
            | Self::Aborted(_)
            | Self::Refused(_) => false,
        }
    }
}

impl From<DieselError> for Error {
    fn from(error: DieselError) -> Self {
        use DatabaseErrorKind as Kind;
        match error {
            DieselError::NotFound => Self::NotFound,
            DieselError::BrokenTransactionManager => Self::Unavailable("connection lost".into()),
            DieselError::DatabaseError(kind, info) => {
                let message = info.message().to_owned();
                match kind {
                    Kind::UnableToSendCommand | Kind::ClosedConnection => {
                        Self::Unavailable(message)
                    }
                    Kind::SerializationFailure => Self::Contended(message),
                    Kind::UniqueViolation
                    | Kind::ForeignKeyViolation
                    | Kind::NotNullViolation
                    | Kind::CheckViolation
                    | Kind::RestrictViolation
                    | Kind::ExclusionViolation => Self::Constraint {
                        constraint: info.constraint_name().unwrap_or_default().to_owned(),
                        message,
                    },
                    _ => by_message(message),
                }
            }
            other => Self::Refused(other.to_string()),
        }
    }
}

/// Diesel keeps no SQLSTATE for these, so they are told by their text.
fn by_message(message: String) -> Error {
    const CONTENDED: &[&str] = &["deadlock detected", "due to lock timeout"];
    const ABORTED: &str = "current transaction is aborted";
    const AWAY: &[&str] = &[
        "terminating connection",
        "the database system is",
        "too many clients",
        "connection slots are reserved",
        "due to statement timeout",
        "due to user request",
        "cannot execute",
        "could not ",
        "No space left",
        "out of memory",
        "out of shared memory",
    ];
    let has = |list: &[&str]| list.iter().any(|part| message.contains(part));
    if has(CONTENDED) {
        Error::Contended(message)
    } else if has(AWAY) {
        Error::Unavailable(message)
    } else if message.contains(ABORTED) {
        Error::Aborted(message)
    } else {
        Error::Refused(message)
    }
}

/// A pool of at most `size` connections; they are made when first needed.
///
/// # Errors
/// When the URL is malformed, or trusts nobody.
pub fn pool(database_url: &str, size: usize) -> Result<Pool, Error> {
    Pool::new(Address::parse(database_url)?, size)
}

/// A pool for statements whose plans are the same whatever the values are that they are given. They name
/// themselves the states that an index of rows in one state is for: what is compared with a parameter
/// is never looked for by such an index, of whose rows there may be many more than when the plan was
/// made.
///
/// # Errors
/// When the URL is malformed, or trusts nobody.
pub fn pool_with_generic_plans(database_url: &str, size: usize) -> Result<Pool, Error> {
    let address = Address::parse(database_url)?;
    Pool::new(address.with_options(GENERIC_PLANS), size)
}

/// Where Postgres is, and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Address {
    config: tokio_postgres::Config,
    tls: tls::Postgres,
}

impl Address {
    /// Reads an address. With `sslmode=verify-full` the connection is encrypted and the server
    /// verified, by the authorities in `sslrootcert` or else by those of the system; without it, or
    /// with `disable`, it is in plain text. There is nothing between: what encrypts without
    /// looking who answers protects from nobody who could read along.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let refused = |why: String| Error::Refused(format!("DATABASE_URL {why}"));
        let (rest, mode) = address::take_parameter(url, "sslmode");
        let (rest, ca) = address::take_parameter(&rest, "sslrootcert");
        let parsed: Result<tokio_postgres::Config, _> = rest.parse();
        // The error would name what it could not read, and that may be the password.
        let mut config = parsed.map_err(|_| refused("is malformed".into()))?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(refused("asks for TLS: write it as postgres://…".into()));
        }
        let tls = match mode.as_deref() {
            Some("verify-full") => {
                let config = tls::client_config(ca.as_deref().map(Path::new));
                Some(Arc::new(
                    config.map_err(|error| refused(error.to_string()))?,
                ))
            }
            Some("disable") | None if ca.is_some() => {
                let why = "names a certificate authority but encrypts nothing; add \
                           sslmode=verify-full";
                return Err(refused(why.into()));
            }
            Some("disable") | None => None,
            Some(other) => {
                return Err(refused(format!(
                    "has sslmode={other}; take verify-full (encrypted and verified) or disable"
                )));
            }
        };
        let options = config.get_options().map_or_else(
            || SESSION_OPTIONS.to_owned(),
            |own| format!("{SESSION_OPTIONS} {own}"),
        );
        config
            .ssl_mode(if tls.is_some() {
                SslMode::Require
            } else {
                SslMode::Disable
            })
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(KEEPALIVE)
            .keepalives_retries(2)
            .options(options)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .connect_timeout(POOL_WAIT);
        if config.get_application_name().is_none() {
            config.application_name("onsale");
        }
        Ok(Self {
            config,
            tls: tls::Postgres(tls),
        })
    }

    /// The same with more of the session's options.
    fn with_options(mut self, more: &str) -> Self {
        let options = self.config.get_options().unwrap_or_default();
        let options = format!("{options} {more}");
        self.config.options(options);
        self
    }

    /// A session with our bounds, and what moves its bytes.
    pub(crate) async fn open(
        &self,
    ) -> Result<(Client, tokio_postgres::Connection<Socket, TlsStream>), tokio_postgres::Error>
    {
        self.config.connect(self.tls.clone()).await
    }
}

/// The encrypted kind of a connection.
pub(crate) type TlsStream = tls::Stream<Socket>;

/// What is wrong with an address of Postgres, if something is.
///
/// # Errors
/// When it can't be used.
pub fn check_url(url: &str) -> Result<(), Error> {
    Address::parse(url).map(drop)
}

/// One connection of its own, with the bounds that the pool's have.
///
/// # Errors
/// When Postgres can't be reached or refuses.
pub async fn connect(database_url: &str) -> ConnectionResult<AsyncPgConnection> {
    match Address::parse(database_url) {
        Ok(address) => connect_to(&address).await,
        Err(error) => Err(failed(error.to_string())),
    }
}

fn failed(reason: String) -> ConnectionError {
    let error =
        DieselError::DatabaseError(DatabaseErrorKind::UnableToSendCommand, Box::new(reason));
    ConnectionError::CouldntSetupConfiguration(error)
}

/// The same at an address that was read.
pub(crate) async fn connect_to(address: &Address) -> ConnectionResult<AsyncPgConnection> {
    // The driver's own limit ends when the socket is there.
    let connecting = async {
        let opened = address.open().await;
        let (client, connection) = opened.map_err(|e| failed(explained(&e)))?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    };
    tokio::time::timeout(POOL_WAIT, connecting)
        .await
        .unwrap_or_else(|_| Err(failed("Postgres does not answer".to_owned())))
}

/// An error with its causes: the driver's own words say no more than what was tried.
pub(crate) fn explained(error: &tokio_postgres::Error) -> String {
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(first), |error| error.source());
    let words: Vec<String> = causes.map(ToString::to_string).collect();
    words.join(": ")
}

/// Brings the database to the newest version. Needs the multi-thread runtime.
///
/// # Errors
/// When Postgres can't be reached or a migration fails; what was applied stays.
pub async fn migrate(database_url: &str) -> Result<Vec<String>, Error> {
    let mut conn = connect(database_url)
        .await
        .map_err(|e| Error::Unavailable(e.to_string()))?;
    // Migrations may take long, and two processes that start at once must not migrate at once.
    conn.batch_execute(
        "SET lock_timeout = 0; SET statement_timeout = 0; SELECT pg_advisory_lock(7091, 1)",
    )
    .await?;
    conn.batch_execute(WHOLE_TABLES).await?;
    // The harness blocks its thread, and would take the wake-ups of what else its task awaits.
    let migrated = tokio::task::spawn_blocking(move || {
        AsyncMigrationHarness::new(conn)
            .run_pending_migrations(MIGRATIONS)
            .map(|versions| versions.iter().map(ToString::to_string).collect())
            .map_err(|e| Error::Refused(e.to_string()))
    });
    migrated
        .await
        .unwrap_or_else(|e| Err(Error::Refused(e.to_string())))
}

/// Stores the partition count at the first start and refuses another one later. A change of the
/// count that is under way is waited for, so that nobody goes on with the one before.
///
/// # Errors
/// `Refused` when the stored count differs.
pub async fn agree_on_partitions(pool: &Pool, partitions: u16) -> Result<(), Error> {
    use tables::system::dsl;
    let mut conn = pool.get().await?;
    let stored: i32 = conn
        .transaction(async |conn| {
            statement("SELECT pg_advisory_xact_lock_shared(7091, 4)")
                .execute(conn)
                .await?;
            diesel::insert_into(dsl::system)
                .values(dsl::partitions.eq(i32::from(partitions)))
                .on_conflict_do_nothing()
                .execute(conn)
                .await?;
            dsl::system.select(dsl::partitions).first(conn).await
        })
        .await?;
    if stored == i32::from(partitions) {
        Ok(())
    } else {
        Err(Error::Refused(format!(
            "this database was set up with {stored} partitions, but ONSALE_PARTITIONS is \
             {partitions}"
        )))
    }
}

/// Asks Postgres for its time and corrects `clock` by it.
///
/// # Errors
/// When Postgres can't be asked.
pub async fn measure_clock(conn: &mut AsyncPgConnection, clock: &Clock) -> Result<(), Error> {
    #[derive(QueryableByName)]
    struct Now {
        #[diesel(sql_type = Timestamptz)]
        now: Timestamp,
    }
    let asked = clock.local();
    let answer: Now = statement("SELECT clock_timestamp() AS now")
        .get_result(conn)
        .await?;
    clock.observe(asked, answer.now, clock.local());
    metrics::gauge!(crate::metric::CLOCK_OFFSET).set(clock.host_offset_us() as f64 / 1e6);
    Ok(())
}

/// Whether Postgres answers.
///
/// # Errors
/// When it doesn't.
pub async fn ping(pool: &Pool) -> Result<(), Error> {
    #[derive(QueryableByName)]
    struct One {
        #[diesel(sql_type = Integer)]
        #[allow(dead_code, reason = "only that it arrives counts")]
        one: i32,
    }
    let mut conn = pool.get().await?;
    let _: One = statement("SELECT 1 AS one").get_result(&mut conn).await?;
    Ok(())
}

/// Refuses a Postgres that words its errors in another language: those that Diesel keeps no code for
/// are told by their English text, and a deadlock that is not recognised would become a dead letter.
///
/// # Errors
/// `Refused`, with the mend; or when Postgres can't be asked.
pub async fn require_english(pool: &Pool) -> Result<(), Error> {
    #[derive(QueryableByName)]
    struct Setting {
        #[diesel(sql_type = Text)]
        lc_messages: String,
    }
    let mut conn = pool.get().await?;
    let Setting { lc_messages } = statement("SELECT current_setting('lc_messages') AS lc_messages")
        .get_result(&mut conn)
        .await?;
    if is_english(&lc_messages) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "lc_messages is {lc_messages}, but its errors must be worded in English; {ENGLISH_MEND}"
    )))
}

/// What makes Postgres word its errors in English.
pub const ENGLISH_MEND: &str = "ALTER SYSTEM SET lc_messages = 'C'; SELECT pg_reload_conf()";

/// Whether errors are worded in English under this `lc_messages`. An empty one is the server's own
/// environment, of which nothing is known.
#[must_use]
pub fn is_english(lc_messages: &str) -> bool {
    let language = lc_messages.split(['_', '.', '@']).next().unwrap_or("");
    ["", "C", "POSIX", "en", "English"].contains(&language)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_encrypted_and_verified_or_plain() {
        let why = |url: &str| Address::parse(url).err().map(|error| error.to_string());
        for fine in [
            "postgres://u:p@h/d",
            "postgres://u:p@h/d?sslmode=disable&application_name=x",
            "host=h user=u",
        ] {
            assert_eq!(why(fine), None, "{fine}");
        }
        for (wrong, part) in [
            ("postgres://canary@h:port", "malformed"),
            ("postgres://h/d?sslmode=require", "take verify-full"),
            ("postgres://h/d?sslmode=prefer", "take verify-full"),
            ("host=h sslmode=require", "postgres://"),
            (
                "postgres://h/d?sslrootcert=/ca.pem",
                "add sslmode=verify-full",
            ),
            (
                "postgres://h/d?sslmode=verify-full&sslrootcert=/none.pem",
                "/none.pem",
            ),
        ] {
            let why = why(wrong).unwrap_or_default();
            assert!(
                why.contains(part) && !why.contains("canary"),
                "{wrong}: {why}"
            );
        }
    }

    #[test]
    fn of_two_errors_the_cause_is_kept() {
        let aborted = || by_message("current transaction is aborted, commands ignored".into());
        let deadlock = || by_message("deadlock detected".into());
        let refused = || by_message("division by zero".into());
        for (one, other) in [(deadlock(), aborted()), (aborted(), deadlock())] {
            let why = both::<(), ()>(Err(one), Err(other));
            assert!(matches!(why, Err(Error::Contended(_))), "{why:?}");
        }
        let first = both::<(), ()>(Err(refused()), Err(deadlock()));
        assert!(matches!(first, Err(Error::Refused(_))), "{first:?}");
        assert!(matches!(
            both(Err::<(), _>(aborted()), Ok(())),
            Err(Error::Aborted(_))
        ));
        assert!(matches!(
            both(Ok(()), Err::<(), _>(aborted())),
            Err(Error::Aborted(_))
        ));
        assert!(matches!(both(Ok(1), Ok("two")), Ok((1, "two"))));
    }

    #[test]
    fn languages() {
        for english in ["", "C", "C.UTF-8", "POSIX", "en_US.UTF-8", "en_GB@euro"] {
            assert!(is_english(english), "{english}");
        }
        for other in ["ko_KR.UTF-8", "de_DE", "ca_ES", "eno", "Chinese_China"] {
            assert!(!is_english(other), "{other}");
        }
    }
}
