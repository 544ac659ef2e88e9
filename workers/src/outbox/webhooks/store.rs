//! What the workers read and write of subscribers, and the facts that they get.

use diesel::prelude::QueryableByName;
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Double, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::status::WebhookState;
use onsale_schema::{Timestamp, WebhookId};
use uuid::Uuid;

/// How a subscriber is, in one look at all.
#[derive(QueryableByName)]
pub struct Standing {
    #[diesel(sql_type = SqlUuid)]
    pub webhook_id: WebhookId,
    #[diesel(sql_type = Text)]
    pub state: WebhookState,
    /// Whether something may be delivered now.
    #[diesel(sql_type = Bool)]
    pub is_due: bool,
    /// Of the oldest fact that it has not got, in seconds; 0 if it has all, or is dead.
    #[diesel(sql_type = Double)]
    pub age_s: f64,
}

/// All of them.
pub async fn webhook_list_standing(pool: &Pool) -> Result<Vec<Standing>, Error> {
    let mut conn = pool.get().await?;
    let rows = statement(
        "SELECT w.webhook_id, w.state, \
                w.state = 'ACTIVE' AND next.created_at IS NOT NULL \
                    AND w.next_at <= clock_timestamp() AS is_due, \
                coalesce(extract(epoch FROM clock_timestamp() - next.created_at), 0)::float8 \
                    AS age_s \
         FROM webhook w LEFT JOIN LATERAL \
              (SELECT o.created_at FROM outbox o \
               WHERE w.state = 'ACTIVE' AND o.feed_no > w.cursor_no \
                 AND (w.topics IS NULL OR o.topic = ANY (w.topics)) \
               ORDER BY o.feed_no LIMIT 1) next ON true",
    );
    Ok(rows.load(&mut conn).await?)
}

/// Who is moved to the end of the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Whoever is active: so a look goes over little that nobody wants.
    Active,
    /// The dead, too: what is purged behind them has not been missed.
    All,
}

/// Moves those who have all of what they want to the end of the feed.
pub async fn webhook_advance_idle(pool: &Pool, whom: Whom) -> Result<usize, Error> {
    let mut conn = pool.get().await?;
    let advanced = statement(
        "UPDATE webhook w SET cursor_no = f.last_no FROM fact_feed f \
         WHERE w.cursor_no < f.last_no AND w.cursor_no >= f.purged_no \
           AND ($1 OR w.state = 'ACTIVE') AND NOT EXISTS \
               (SELECT FROM outbox o WHERE o.feed_no > w.cursor_no \
                AND (w.topics IS NULL OR o.topic = ANY (w.topics)))",
    )
    .bind::<Bool, _>(whom == Whom::All);
    Ok(advanced.execute(&mut conn).await?)
}

/// An active subscriber, as it is served.
#[derive(QueryableByName)]
pub struct Subscriber {
    #[diesel(sql_type = Text)]
    pub url: String,
    #[diesel(sql_type = Nullable<Array<Text>>)]
    pub topics: Option<Vec<String>>,
    #[diesel(sql_type = Binary)]
    pub secret: Vec<u8>,
    /// Only while it still signs.
    #[diesel(sql_type = Nullable<Binary>)]
    pub previous_secret: Option<Vec<u8>>,
    #[diesel(sql_type = BigInt)]
    pub cursor_no: i64,
    #[diesel(sql_type = BigInt)]
    pub sequence: i64,
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub failing_since: Option<Timestamp>,
    /// JSON of the last attempts.
    #[diesel(sql_type = Text)]
    pub recent: String,
    /// Up to this number facts are purged.
    #[diesel(sql_type = BigInt)]
    pub purged_no: i64,
    /// Another one says that its address, its state or its secret was changed.
    #[diesel(sql_type = BigInt)]
    pub generation: i64,
}

/// A subscriber that is active and may be served now.
pub async fn webhook_find_due(pool: &Pool, id: WebhookId) -> Result<Option<Subscriber>, Error> {
    let mut conn = pool.get().await?;
    let row: Vec<Subscriber> = statement(
        "SELECT w.url, w.topics, w.secret, w.cursor_no, w.sequence, w.attempts, w.failing_since, \
                w.recent, w.generation, f.purged_no, CASE WHEN w.previous_secret_until > clock_timestamp() \
                                            THEN w.previous_secret END AS previous_secret \
         FROM webhook w, fact_feed f \
         WHERE w.webhook_id = $1 AND w.state = 'ACTIVE' AND w.next_at <= clock_timestamp()",
    )
    .bind::<SqlUuid, _>(id)
    .load(&mut conn)
    .await?;
    Ok(row.into_iter().next())
}

#[derive(QueryableByName)]
struct GenerationRow {
    #[diesel(sql_type = BigInt)]
    generation: i64,
}

/// Whether nothing was changed on a subscriber since this generation of it was read.
pub async fn webhook_is_unchanged(
    pool: &Pool,
    id: WebhookId,
    generation: i64,
) -> Result<bool, Error> {
    let mut conn = pool.get().await?;
    let rows: Vec<GenerationRow> =
        statement("SELECT generation FROM webhook WHERE webhook_id = $1")
            .bind::<SqlUuid, _>(id)
            .load(&mut conn)
            .await?;
    Ok(rows.iter().any(|row| row.generation == generation))
}

/// A fact, as it was written.
#[derive(QueryableByName)]
pub struct FactRow {
    #[diesel(sql_type = BigInt)]
    pub feed_no: i64,
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = SqlUuid)]
    pub aggregate_id: Uuid,
    #[diesel(sql_type = BigInt)]
    pub seq: i64,
    #[diesel(sql_type = Binary)]
    pub payload: Vec<u8>,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: Timestamp,
}

/// The next facts of these topics behind a cursor, in the order of their numbers.
pub async fn fact_list_after(
    pool: &Pool,
    cursor_no: i64,
    topics: Option<&[String]>,
    max: i64,
) -> Result<Vec<FactRow>, Error> {
    let mut conn = pool.get().await?;
    let rows = statement(
        "SELECT feed_no, topic, aggregate_id, seq, payload, created_at FROM outbox \
         WHERE feed_no > $1 AND ($2 IS NULL OR topic = ANY ($2)) ORDER BY feed_no LIMIT $3",
    )
    .bind::<BigInt, _>(cursor_no)
    .bind::<Nullable<Array<Text>>, _>(topics)
    .bind::<BigInt, _>(max);
    Ok(rows.load(&mut conn).await?)
}

/// How far a subscriber was when it was read or written last: who finds it elsewhere has been
/// replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub cursor_no: i64,
    pub sequence: i64,
}

/// How far it is now.
#[derive(Clone, Debug)]
pub struct Progress {
    pub place: Place,
    pub state: WebhookState,
    pub attempts: i32,
    pub failing_since: Option<Timestamp>,
    /// The pause before the next attempt, in milliseconds.
    pub pause_ms: i64,
    /// Whether a fact was delivered.
    pub has_delivered: bool,
    /// Whether facts were found purged.
    pub has_missed: bool,
    /// JSON of the last attempts.
    pub recent: String,
}

/// What became of writing progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// All of it.
    Whole,
    /// Only how far it is: the subscriber was changed meanwhile, and what was found out about the one
    /// before says nothing of this one.
    Place,
    /// Nothing: somebody else serves this subscriber, or it was removed, or given up meanwhile.
    Nothing,
}

/// Writes progress over the place and the generation that were read.
pub async fn webhook_set_progress(
    pool: &Pool,
    id: WebhookId,
    before: Place,
    generation: i64,
    now: &Progress,
) -> Result<Written, Error> {
    let mut conn = pool.get().await?;
    let written: Vec<GenerationRow> = statement(
        "UPDATE webhook SET cursor_no = $4, sequence = $5, recent = $10, \
             state = CASE WHEN generation = $13 THEN $6 ELSE state END, \
             attempts = CASE WHEN generation = $13 THEN $7 ELSE attempts END, \
             failing_since = CASE WHEN generation = $13 THEN $8 ELSE failing_since END, \
             next_at = CASE WHEN generation = $13 \
                 THEN clock_timestamp() + $9 * interval '1 millisecond' ELSE next_at END, \
             delivered_at = CASE WHEN $11 THEN clock_timestamp() ELSE delivered_at END, \
             missed_at = CASE WHEN $12 THEN clock_timestamp() ELSE missed_at END \
         WHERE webhook_id = $1 AND cursor_no = $2 AND sequence = $3 AND state = 'ACTIVE' \
         RETURNING generation",
    )
    .bind::<SqlUuid, _>(id)
    .bind::<BigInt, _>(before.cursor_no)
    .bind::<BigInt, _>(before.sequence)
    .bind::<BigInt, _>(now.place.cursor_no)
    .bind::<BigInt, _>(now.place.sequence)
    .bind::<Text, _>(now.state)
    .bind::<Integer, _>(now.attempts)
    .bind::<Nullable<Timestamptz>, _>(now.failing_since)
    .bind::<BigInt, _>(now.pause_ms)
    .bind::<Text, _>(&now.recent)
    .bind::<Bool, _>(now.has_delivered)
    .bind::<Bool, _>(now.has_missed)
    .bind::<BigInt, _>(generation)
    .load(&mut conn)
    .await?;
    Ok(match written.into_iter().next() {
        Some(row) if row.generation == generation => Written::Whole,
        Some(_) => Written::Place,
        None => Written::Nothing,
    })
}
