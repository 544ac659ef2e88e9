//! `onsale audit`: proves from the tables that everything which must always be true is true.
//!
//! It reads one snapshot and needs nobody's cooperation, so it may run at any moment: under load,
//! after a crash, against a backup. It changes nothing. What else it is told to hold the tables
//! against, the stream and the payment gateway's book, may be away: then it says so, and never that
//! everything holds.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Args as ClapArgs;
use onsale_platform::audit::{
    self as tables, Check, EXAMPLES_MAX, Limits, OPEN_LIMIT_MS, REFUND_LIMIT_MS,
};
use onsale_platform::db;
use onsale_schema::Timestamp;
use onsale_schema::invariant::Invariant;
use onsale_workers::config;

mod gateway;
mod report;
mod stream;

pub use report::{NotCompared, Report};
pub use stream::Nats;

use crate::target::Target;
use crate::when;

/// The exit status when nothing is violated, as far as could be seen, but something that the tables
/// should have been held against could not be read.
pub const NOT_COMPARED: u8 = 3;

/// Checks every invariant and shows what breaks it.
///
/// The exit status is 0 when everything holds, 1 when something does not or the database can't be read,
/// and 3 when the tables are in order, but the stream or the payment gateway's book could not be
/// compared with them.
///
/// It reads one snapshot of the database, so that it is right also while the system runs under
/// load, and changes nothing. With NATS it also compares the decided commands with the stream, and
/// with the payment gateway's address and secret (those of the running `onsale up` are found) what was
/// captured and given back with its book.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub target: Target,

    /// Prefix of all subjects and streams of the system.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    /// How long a notice or a fact may be open (O1), in milliseconds.
    #[arg(long, default_value_t = OPEN_LIMIT_MS, value_name = "MS")]
    pub open_limit_ms: u32,

    /// How long captured money may be without a sale or a refund on its way, and what was paid for a show
    /// that is cancelled not given back (P2), in milliseconds.
    #[arg(long, default_value_t = REFUND_LIMIT_MS, value_name = "MS")]
    pub refund_limit_ms: u32,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub gateway: config::Gateway,

    /// The payment gateway's book is read from then on: a time as `2027-05-01T10:00:00Z`, or how long
    /// ago, as `2h` or `90d`. Without it since 31 days ago, or since our oldest order if that is later.
    /// What is in the book must be in our rows of that time, however old the order is, unless it was
    /// captured without us and given back in full; what our rows have from before is not looked for in
    /// it, and the table says so. Of older orders only those are read that the book names, that had a
    /// refund made in that time or that are odd. An earlier time compares more: a million orders and a
    /// million entries at most, all of them in memory.
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub gateway_since: Option<Timestamp>,

    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// What to audit.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database.
    pub database_url: String,
    /// The stream; without it F2 is checked by the tables alone.
    pub nats: Option<Nats>,
    /// How long a notice or fact may be open, in milliseconds.
    pub open_limit_ms: u32,
    /// How long a refund may take, in milliseconds.
    pub refund_limit_ms: u32,
    /// The payment gateway; without it P2 is checked by the tables alone.
    pub gateway: Option<config::Gateway>,
    /// Since when the gateway's book is compared; since a month ago if nothing is said.
    pub gateway_since: Option<Timestamp>,
}

impl Options {
    /// A database, without its stream, with the usual limit.
    #[must_use]
    pub fn new(database_url: impl Into<String>) -> Self {
        Self {
            database_url: database_url.into(),
            nats: None,
            open_limit_ms: OPEN_LIMIT_MS,
            refund_limit_ms: REFUND_LIMIT_MS,
            gateway: None,
            gateway_since: None,
        }
    }

    /// The database and stream of a target.
    ///
    /// # Errors
    /// When no database is named and no `onsale up` runs.
    pub fn of(target: &Target, subject_prefix: &str) -> anyhow::Result<Self> {
        let options = Self::new(target.reader_url()?);
        // A database that was named comes with the stream that was named, not with that of
        // whatever else runs here.
        let nats_url = match (&target.nats_url, &target.database_url) {
            (None, Some(_)) => None,
            (Some(_), _) | (None, None) => Some(target.nats_url()?),
        };
        Ok(match nats_url {
            Some(url) => options.with_nats(url, subject_prefix),
            None => options,
        })
    }

    /// And the payment gateway's book, where the settings name a gateway.
    #[must_use]
    pub fn with_gateway(self, gateway: config::Gateway) -> Self {
        let gateway = gateway.url.is_some().then_some(gateway);
        Self { gateway, ..self }
    }

    /// And its stream.
    #[must_use]
    pub fn with_nats(self, url: impl Into<String>, subject_prefix: impl Into<String>) -> Self {
        let nats = Nats {
            url: url.into(),
            subject_prefix: subject_prefix.into(),
        };
        Self {
            nats: Some(nats),
            ..self
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When Postgres can't be reached.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let gateway = args.target.gateway(args.gateway)?;
    let options = Options {
        open_limit_ms: args.open_limit_ms,
        refund_limit_ms: args.refund_limit_ms,
        gateway_since: args.gateway_since,
        ..Options::of(&args.target, &args.subject_prefix)?.with_gateway(gateway)
    };
    let report = audit(&options).await?;
    if args.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(match report.violated().is_empty() {
        true if report.ok() => ExitCode::SUCCESS,
        true => ExitCode::from(NOT_COMPARED),
        false => ExitCode::FAILURE,
    })
}

/// What came of holding the tables against something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Comparison {
    /// What one side does not say of the other.
    differences: Vec<String>,
    /// What was compared, for a person.
    what: String,
}

/// Checks everything.
///
/// # Errors
/// When Postgres can't be reached, or the database is not migrated. That NATS or the payment gateway
/// can't be asked is said in the report.
pub async fn audit(options: &Options) -> anyhow::Result<Report> {
    let started = Instant::now();
    let mut conn = db::connect(&options.database_url)
        .await
        .context("connecting to Postgres")?;
    tables::prepare(&mut conn)
        .await
        .context("preparing the session")?;
    let (with_stream, with_gateway) = (options.nats.is_some(), options.gateway.is_some());
    let limits = Limits {
        open_ms: options.open_limit_ms,
        refund_ms: options.refund_limit_ms,
    };
    let (mut checks, decided, ours) = conn
        .build_transaction()
        .read_only()
        .repeatable_read()
        .run(async |conn| {
            let checks = tables::check_all(conn, limits).await?;
            let decided = if with_stream {
                Some(stream::Decided::load(conn).await?)
            } else {
                None
            };
            let ours = if with_gateway {
                Some(gateway::Ours::load(conn, options.gateway_since).await?)
            } else {
                None
            };
            Ok::<_, db::Error>((checks, decided, ours))
        })
        .await
        .context("auditing (is the database migrated? `onsale migrate`)")?;
    drop(conn);

    let mut not_compared = Vec::new();
    let f2 = of(&mut checks, Invariant::F2);
    match (&options.nats, decided) {
        (Some(nats), Some(decided)) => {
            let compared = decided.compare(nats).await;
            not_compared.extend(add(f2, "the stream", compared));
        }
        _ => f2.note = Some("not compared with the stream: no NATS was named".into()),
    }
    let p2 = of(&mut checks, Invariant::P2);
    match (&options.gateway, ours) {
        (Some(gateway), Some(ours)) => {
            let compared = ours.compare(gateway, &options.database_url).await;
            not_compared.extend(add(p2, "the gateway's book", compared));
        }
        _ => p2.note = Some("not compared with the gateway's book: no gateway was named".into()),
    }
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Report {
        checks,
        not_compared,
        duration_ms,
    })
}

fn of(checks: &mut [Check], invariant: Invariant) -> &mut Check {
    let mut all = checks.iter_mut();
    let found = all.find(|check| check.invariant == invariant);
    found.expect("every invariant is checked")
}

/// Adds what was found elsewhere than in the tables, or why nothing could be.
fn add(
    check: &mut Check,
    with: &'static str,
    compared: anyhow::Result<Comparison>,
) -> Option<NotCompared> {
    let Comparison { differences, what } = match compared {
        Ok(comparison) => comparison,
        Err(error) => {
            return Some(NotCompared {
                invariant: check.invariant,
                with,
                why: format!("{error:#}"),
            });
        }
    };
    check.violations += differences.len() as u64;
    let room = EXAMPLES_MAX.saturating_sub(check.examples.len());
    check.examples.extend(differences.into_iter().take(room));
    check.note = Some(what);
    None
}
