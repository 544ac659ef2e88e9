//! `onsale restored`: what has to be done once after Postgres was restored from a backup.
//!
//! The rows are those of the backup; what was told since is not taken back. So numbers that were told
//! would be given again to something else: those of facts, of what webhook subscribers get, and of
//! tickets. This moves all of them on, behind whatever was told. It decides nothing, and never makes up
//! for what was lost.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use async_nats::jetstream::stream;
use clap::Args as ClapArgs;
use diesel::sql_types::{Array, BigInt, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::StreamExt;
use onsale_platform::{db, nats, tx};
use onsale_schema::subjects::Subjects;
use onsale_schema::{Generation, Timestamp, facts, settlement};
use uuid::Uuid;

use crate::at_rest;
use crate::target::Target;

/// What it ends with where the stream says of a part of the time only what was told.
const IN_PART: u8 = 3;

/// Moves all numbers on that were told since the backup which Postgres was restored from.
///
/// Run it after the restore, before any ingress or worker is started: as long as one has a session it
/// changes nothing, and ends with exit status 1. Once more does no harm. Exit status 3 says that it is
/// done, but that the events stream does not reach back to the backup.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub target: Target,

    /// Prefix of all subjects and streams of the system.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// When a server can't be reached, the stream is not there, or an ingress or a worker has a session.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (database_url, nats_url) = (args.target.database_url()?, args.target.nats_url()?);
    let done = restore(&database_url, &nats_url, &args.subject_prefix, args.dry_run).await?;
    print!("{done}");
    if args.dry_run {
        println!("nothing was changed: this was a dry run");
    }
    Ok(match done.unknown {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::from(IN_PART),
    })
}

/// The facts of one aggregate.
type Aggregate = (String, Uuid);

/// What the events stream says was told.
#[derive(Debug)]
struct Told {
    /// The highest number of each aggregate.
    last: BTreeMap<Aggregate, i64>,
    /// All that was told since then is on it.
    since: Timestamp,
}

/// What was done, or would be.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// The aggregates that had fallen back behind what was told, and the last number that was.
    pub raised: Vec<(Aggregate, i64)>,
    /// Those that are not there any more, and the last number that was told of them.
    pub missing: Vec<(Aggregate, i64)>,
    /// So many subscribers get higher numbers from now on.
    pub subscribers: i64,
    /// So many rooms there are.
    pub rooms: i64,
    /// Within which tickets are signed from now on; subscribers' numbers are behind it.
    pub generation: Generation,
    /// The time of the backup, and since when the stream says what was told, if that is later.
    pub unknown: Option<(Timestamp, Timestamp)>,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} counters of facts go on behind:", self.raised.len())?;
        for ((topic, id), told) in &self.raised {
            writeln!(f, "  {topic} {id}: {told}")?;
        }
        if !self.missing.is_empty() {
            writeln!(f, "facts were told of dates that are not there any more:")?;
        }
        for ((topic, id), told) in &self.missing {
            writeln!(f, "  {topic} {id}: up to {told}")?;
        }
        let (Self { subscribers, .. }, Generation(generation)) = (self, self.generation);
        writeln!(
            f,
            "{subscribers} webhook subscribers go on behind {generation}"
        )?;
        let rooms = self.rooms;
        writeln!(
            f,
            "{rooms} waiting rooms look up each ticket once that is shown: generation {generation}"
        )?;
        if let Some((backup, since)) = self.unknown {
            writeln!(
                f,
                "NOT ALL IS KNOWN: the events stream was made or begins at {since}, the backup ends at {backup}; \
                 facts that were told in between may have numbers that are given again"
            )?;
        }
        Ok(())
    }
}

/// Moves the numbers on, in one transaction; with `dry_run` it is rolled back.
///
/// # Errors
/// When a server can't be reached, the stream is not there, or an ingress or a worker has a session.
pub async fn restore(
    database_url: &str,
    nats_url: &str,
    subject_prefix: &str,
    dry_run: bool,
) -> anyhow::Result<Done> {
    let mut conn = db::connect(database_url)
        .await
        .context("connecting to Postgres")?;
    // With nobody there who publishes, all is read.
    refuse(at_rest::sessions(&mut conn).await?)?;
    let subjects = Subjects::new(subject_prefix)?;
    let told = told(nats_url, &subjects).await?;
    tx::begin(&mut conn).await?;
    refuse(at_rest::sessions_with_nobody_starting(&mut conn).await?)?;
    let done = change(&mut conn, told).await?;
    if dry_run {
        tx::rollback(&mut conn).await;
    } else {
        tx::commit(&mut conn).await?;
    }
    Ok(done)
}

fn refuse(sessions: i64) -> anyhow::Result<()> {
    ensure!(
        sessions == 0,
        "nothing was changed: ingresses and workers hold {sessions} sessions; stop them first"
    );
    Ok(())
}

/// Reads the numbers of all facts that are on the stream. The last one of an aggregate need not have the
/// highest number: it does not where a system went on after a restore without this.
async fn told(nats_url: &str, subjects: &Subjects) -> anyhow::Result<Told> {
    let client = nats::connect(nats_url, "onsale-restored").await?;
    let name = subjects.events_stream();
    let mut stream = nats::jetstream(client)
        .get_stream(&name)
        .await
        .with_context(|| format!("looking for stream {name}"))?;
    let info = stream.info().await?.clone();
    let mut told = Told {
        last: BTreeMap::new(),
        since: begins(&info),
    };
    if info.state.messages == 0 {
        return Ok(told);
    }
    let config = OrderedConfig {
        description: Some("onsale restored".into()),
        deliver_policy: DeliverPolicy::All,
        headers_only: true,
        max_expires: Duration::from_secs(10),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message.context("reading the stream")?;
        if let Some((aggregate, seq)) = number(&message, subjects) {
            let last = told.last.entry(aggregate).or_default();
            *last = seq.max(*last);
        }
        let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
        if info.pending == 0 {
            break;
        }
    }
    Ok(told)
}

/// Since when nothing is missing on a stream.
fn begins(info: &stream::Info) -> Timestamp {
    match info.state.first_sequence {
        0 | 1 => info.created.into(),
        _ if info.state.messages == 0 => info.state.last_timestamp.into(),
        _ => info.state.first_timestamp.into(),
    }
}

/// Whose number a message has, if it is a fact.
fn number(message: &Message, subjects: &Subjects) -> Option<(Aggregate, i64)> {
    let headers = message.headers.as_ref()?;
    let id = headers.get(async_nats::header::NATS_MESSAGE_ID)?;
    let (topic, aggregate, seq) = facts::parts_of(id.as_str())?;
    // Whoever may reach the stream can put anything there.
    let is_one = message.subject.as_str() == subjects.event(topic, &aggregate.to_string());
    is_one.then(|| ((topic.to_owned(), aggregate), seq))
}

#[derive(QueryableByName)]
struct Restored {
    #[diesel(sql_type = BigInt)]
    generation: Generation,
    #[diesel(sql_type = Timestamptz)]
    backup_at: Timestamp,
    #[diesel(sql_type = BigInt)]
    rooms: i64,
}

/// Moves on what had fallen back, in the transaction that is open.
async fn change(conn: &mut AsyncPgConnection, told: Told) -> anyhow::Result<Done> {
    // A time: the next restore, of the same backup even, has another one.
    let restored: Restored = sql_query(
        "UPDATE system SET generation = greatest(generation + 1, \
             (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
         RETURNING generation, (SELECT count(*) FROM waiting_room) AS rooms, \
             greatest(created_at, (SELECT max(decided_at) FROM partition), \
                      (SELECT created_at FROM outbox WHERE feed_no IS NOT NULL \
                       ORDER BY feed_no DESC LIMIT 1), \
                      (SELECT max(created_at) FROM outbox WHERE published_at IS NULL)) AS backup_at",
    )
    .get_result(conn)
    .await
    .context("this database was never used")?;
    // A subscriber gets one at a time, over a connection: never as many as there are microseconds.
    let subscribers = sql_query("UPDATE webhook SET sequence = greatest(sequence, $1)")
        .bind::<BigInt, _>(restored.generation)
        .execute(conn)
        .await?;
    let of = |topic: &str| {
        let of = told.last.iter().filter(|((of, _), _)| of == topic);
        of.map(|((_, id), last)| (*id, *last)).unzip()
    };
    let dates = known(conn, &told).await?;
    let raised = [
        (
            facts::SEATS,
            raise(conn, RAISE_SEATS, of(facts::SEATS)).await?,
        ),
        (
            settlement::TOPIC,
            raise(conn, RAISE_PAYMENTS, of(settlement::TOPIC)).await?,
        ),
    ];
    let is_raised = |(topic, id): &Aggregate| {
        let mut raised = raised.iter();
        raised.any(|(of, ids)| of == topic && ids.contains(id))
    };
    let Told { last, since } = told;
    let (there, missing): (Vec<_>, _) = last
        .into_iter()
        .partition(|((_, id), _)| dates.contains(id));
    let backup_at = restored.backup_at;
    Ok(Done {
        raised: there.into_iter().filter(|(of, _)| is_raised(of)).collect(),
        missing,
        subscribers: i64::try_from(subscribers)?,
        rooms: restored.rooms,
        generation: restored.generation,
        unknown: (since > backup_at).then_some((backup_at, since)),
    })
}

/// A hundred thousand numbers are left out: by that whoever counts sees that facts are missing, and they may be
/// those of facts that were too large for the stream, or that it has lost with its end.
const RAISE_SEATS: &str = "UPDATE sale SET map_version = told.last + 100000 \
    FROM unnest($1::uuid[], $2::bigint[]) AS told (id, last) \
    WHERE schedule_id = told.id AND map_version < told.last RETURNING schedule_id";
/// The same where nothing was paid before the backup.
const RAISE_PAYMENTS: &str = "INSERT INTO payment_facts AS f (schedule_id, last_seq) \
    SELECT told.id, told.last + 100000 FROM unnest($1::uuid[], $2::bigint[]) AS told (id, last) \
    WHERE EXISTS (SELECT FROM sale WHERE sale.schedule_id = told.id) \
    ON CONFLICT (schedule_id) DO UPDATE SET last_seq = excluded.last_seq \
    WHERE f.last_seq < excluded.last_seq - 100000 RETURNING schedule_id";

#[derive(QueryableByName)]
struct Date {
    #[diesel(sql_type = SqlUuid)]
    schedule_id: Uuid,
}

/// Raises the counters that are behind; says which were.
async fn raise(
    conn: &mut AsyncPgConnection,
    sql: &str,
    (ids, last): (Vec<Uuid>, Vec<i64>),
) -> anyhow::Result<Vec<Uuid>> {
    let raised: Vec<Date> = sql_query(sql)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(last)
        .load(conn)
        .await?;
    Ok(raised.into_iter().map(|date| date.schedule_id).collect())
}

/// The dates of these facts that are there.
async fn known(conn: &mut AsyncPgConnection, told: &Told) -> anyhow::Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = told.last.keys().map(|(_, id)| *id).collect();
    let known: Vec<Date> = sql_query("SELECT schedule_id FROM sale WHERE schedule_id = ANY ($1)")
        .bind::<Array<SqlUuid>, _>(ids)
        .load(conn)
        .await?;
    Ok(known.into_iter().map(|date| date.schedule_id).collect())
}
