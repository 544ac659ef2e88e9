//! `onsale partitions`: who owns what, how far each owner is, and how much lies before it.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, stream::Stream};
use clap::Args as ClapArgs;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::{db, nats};
use onsale_schema::subjects::Subjects;
use onsale_schema::{Lane, PartitionNo, Timestamp, WorkerId};
use onsale_workers::runtime::servers::LIFE_CLASS;
use serde::Serialize;

use crate::target::Target;

/// As by default.
const LEASE_MS: u32 = 3000;

/// Shows who owns which partition, with epoch, cursor and lag; exit status 1 when one has no owner
/// that is alive.
///
/// Without NATS it shows what Postgres knows, and not what lies behind the cursors.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub target: Target,

    /// Prefix of all subjects and streams of the system.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    /// The lease of the workers, in milliseconds: who was silent for longer is dead.
    #[arg(long, env = "ONSALE_LEASE_MS", default_value_t = LEASE_MS, value_name = "MS")]
    pub lease_ms: u32,

    /// Print one JSON array instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// A partition, as Postgres and the stream show it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Partition {
    /// The lane.
    pub lane: Lane,
    /// The partition.
    pub partition: u16,
    /// The worker that owns it.
    pub owner: Option<WorkerId>,
    /// Whether that worker gives signs of life.
    pub alive: bool,
    /// Ownerships so far.
    pub epoch: i64,
    /// Commits so far.
    pub commit_no: i64,
    /// Times that the stream lost applied messages, or was cut anew.
    pub incarnation: i32,
    /// Sequence of the last applied message.
    pub applied_seq: i64,
    /// That message's time on the stream.
    pub applied_at: Timestamp,
    /// Messages behind it; nothing when NATS was not asked.
    pub undecided: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// When a server can't be reached.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut partitions = owned(&args.target.reader_url()?, args.lease_ms).await?;
    let counted = async {
        let nats_url = args.target.nats_url()?;
        count(&mut partitions, &nats_url, &args.subject_prefix).await
    };
    // Who looks at a system that is broken is helped by what can be seen.
    if let Err(error) = counted.await {
        eprintln!("what lies behind the cursors is not known: {error:#}");
    }
    if args.json {
        println!("{}", serde_json::to_string(&partitions)?);
    } else {
        print!("{}", table(&partitions));
    }
    let owned = partitions.iter().all(|partition| partition.alive);
    Ok(if owned && !partitions.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Integer)]
    partition_no: i32,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    owner: Option<WorkerId>,
    #[diesel(sql_type = Bool)]
    alive: bool,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = BigInt)]
    commit_no: i64,
    #[diesel(sql_type = Integer)]
    incarnation: i32,
    #[diesel(sql_type = BigInt)]
    applied_seq: i64,
    #[diesel(sql_type = Timestamptz)]
    applied_at: Timestamp,
}

/// All partitions of the lanes that have some, in order.
///
/// # Errors
/// When a server can't be reached.
pub async fn list(
    database_url: &str,
    nats_url: &str,
    subject_prefix: &str,
) -> anyhow::Result<Vec<Partition>> {
    let mut partitions = owned(database_url, LEASE_MS).await?;
    count(&mut partitions, nats_url, subject_prefix).await?;
    Ok(partitions)
}

/// What Postgres knows of them.
async fn owned(database_url: &str, lease_ms: u32) -> anyhow::Result<Vec<Partition>> {
    let mut conn = db::connect(database_url)
        .await
        .context("connecting to Postgres")?;
    let mut all = Vec::new();
    for lane in Lane::partitioned() {
        let rows = rows(&mut conn, lane, lease_ms).await;
        for row in rows.context("reading the partitions")? {
            all.push(Partition {
                lane,
                partition: u16::try_from(row.partition_no).context("a partition's number")?,
                owner: row.owner,
                alive: row.alive,
                epoch: row.epoch,
                commit_no: row.commit_no,
                incarnation: row.incarnation,
                applied_seq: row.applied_seq,
                applied_at: row.applied_at,
                undecided: None,
            });
        }
    }
    Ok(all)
}

/// Asks the stream how much lies behind each.
async fn count(
    partitions: &mut [Partition],
    nats_url: &str,
    subject_prefix: &str,
) -> anyhow::Result<()> {
    let client = nats::connect(nats_url, "onsale-partitions").await?;
    let subjects = Subjects::new(subject_prefix)?;
    let jetstream = nats::jetstream(client);
    for of_lane in partitions.chunk_by_mut(|a, b| a.lane == b.lane) {
        let lane = of_lane[0].lane;
        let stream = jetstream.get_stream(subjects.stream(lane)).await;
        let stream = stream.context("looking at the stream")?;
        for known in of_lane {
            let subject = subjects.partition(lane, PartitionNo(known.partition));
            known.undecided = Some(behind(&stream, subject, known).await?);
        }
    }
    Ok(())
}

async fn rows(
    conn: &mut AsyncPgConnection,
    lane: Lane,
    lease_ms: u32,
) -> Result<Vec<Row>, db::Error> {
    let rows = sql_query(
        "SELECT partition_no, owner, epoch, commit_no, incarnation, applied_seq, applied_at, \
                EXISTS (SELECT FROM worker w JOIN pg_locks l \
                            ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 \
                           AND l.classid = $2::int::oid \
                           AND l.objid = (w.life_key::bigint & 4294967295)::oid \
                        JOIN pg_database d ON d.oid = l.database \
                        WHERE w.worker_id = p.owner AND d.datname = current_database() \
                          AND w.heartbeat_at > clock_timestamp() - $3 * interval '1 millisecond') AS alive \
         FROM partition p, system s WHERE lane = $1 AND partition_no < s.partitions \
         ORDER BY partition_no",
    )
    .bind::<Text, _>(lane.as_str())
    .bind::<Integer, _>(LIFE_CLASS)
    .bind::<BigInt, _>(i64::from(lease_ms))
    .load(conn)
    .await?;
    Ok(rows)
}

/// Messages on a subject behind a cursor, as a throw-away consumer would find them.
async fn behind(stream: &Stream, filter_subject: String, known: &Partition) -> anyhow::Result<u64> {
    let deliver_policy = match u64::try_from(known.applied_seq) {
        Ok(seq @ 1..) => DeliverPolicy::ByStartSequence {
            start_sequence: seq + 1,
        },
        _ if known.incarnation > 0 => DeliverPolicy::ByStartTime {
            start_time: Timestamp::from_micros(known.applied_at.micros() + 1).into(),
        },
        _ => DeliverPolicy::All,
    };
    let config = pull::Config {
        filter_subject,
        deliver_policy,
        ack_policy: AckPolicy::None,
        inactive_threshold: std::time::Duration::from_secs(5),
        memory_storage: true,
        ..Default::default()
    };
    let consumer: jetstream::consumer::PullConsumer = stream
        .create_consumer(config)
        .await
        .context("looking at the stream")?;
    Ok(consumer.cached_info().num_pending)
}

fn table(partitions: &[Partition]) -> String {
    let mut text = String::from(
        "PARTITION  OWNER                                 EPOCH   COMMITS   CURSOR  UNDECIDED  \
         APPLIED UP TO\n",
    );
    for p in partitions {
        let owner = match (p.owner, p.alive) {
            (Some(owner), true) => owner.to_string(),
            (Some(owner), false) => format!("{owner} (dead)"),
            (None, _) => "nobody".to_owned(),
        };
        let cursor = match p.incarnation {
            0 => p.applied_seq.to_string(),
            incarnation => format!("{incarnation}:{}", p.applied_seq),
        };
        let applied = if p.applied_at == Timestamp::EPOCH {
            "-".to_owned()
        } else {
            p.applied_at.to_string()
        };
        writeln!(
            text,
            "{:<9}  {owner:<36}  {:>5}  {:>8}  {cursor:>7}  {:>9}  {applied}",
            format!("{} {}", p.lane, p.partition),
            p.epoch,
            p.commit_no,
            p.undecided
                .map_or("?".to_owned(), |count| count.to_string())
        )
        .expect("writing to a string can't fail");
    }
    text
}
