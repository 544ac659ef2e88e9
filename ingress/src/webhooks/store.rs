//! What the ingress reads and writes of webhook subscribers. How far one is, the workers write.

use crate::page::PageStart;
use diesel::QueryableByName;
use diesel::sql_types::{
    Array, BigInt, Binary, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::facts::SUBSCRIBERS_MAX;
use onsale_schema::message::Fingerprint;
use onsale_schema::status::WebhookState;
use onsale_schema::{Timestamp, UserId, WebhookId};
use uuid::Uuid;

/// A subscriber, as stored.
#[derive(QueryableByName)]
pub struct Row {
    #[diesel(sql_type = SqlUuid)]
    pub webhook_id: WebhookId,
    #[diesel(sql_type = Text)]
    pub url: String,
    #[diesel(sql_type = Nullable<Array<Text>>)]
    pub topics: Option<Vec<String>>,
    #[diesel(sql_type = SqlUuid)]
    pub fingerprint: Uuid,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: Timestamp,
    #[diesel(sql_type = SqlUuid)]
    pub created_by: UserId,
    #[diesel(sql_type = Binary)]
    pub secret: Vec<u8>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub previous_secret_until: Option<Timestamp>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub rotation_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub rotation_print: Option<Uuid>,
    #[diesel(sql_type = Text)]
    pub state: WebhookState,
    #[diesel(sql_type = BigInt)]
    pub sequence: i64,
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub failing_since: Option<Timestamp>,
    #[diesel(sql_type = Timestamptz)]
    pub next_at: Timestamp,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub delivered_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub missed_at: Option<Timestamp>,
    #[diesel(sql_type = Text)]
    pub recent: String,
    /// When the oldest fact was written that it has not got.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub oldest_pending_at: Option<Timestamp>,
}

macro_rules! select {
    ($rest:literal) => {
        statement(concat!(
            "SELECT w.webhook_id, w.url, w.topics, w.fingerprint, w.created_at, w.created_by, \
                    w.secret, CASE WHEN w.previous_secret_until > clock_timestamp() \
                                   THEN w.previous_secret_until END AS previous_secret_until, \
                    w.rotation_id, w.rotation_print, w.state, w.sequence, w.attempts, w.failing_since, w.next_at, \
                    w.delivered_at, w.missed_at, w.recent, \
                    (SELECT o.created_at FROM outbox o WHERE o.feed_no > w.cursor_no \
                        AND (w.topics IS NULL OR o.topic = ANY (w.topics)) \
                     ORDER BY o.feed_no LIMIT 1) AS oldest_pending_at \
             FROM webhook w ",
            $rest
        ))
    };
}

/// The newest first.
pub async fn list(pool: &Pool, start: &PageStart) -> Result<Vec<Row>, Error> {
    let mut conn = pool.get().await?;
    let (at, id) = start.after.map(|after| (after.at(), after.id)).unzip();
    let rows = select!(
        "WHERE $1 IS NULL OR (w.created_at, w.webhook_id) < ($1, $2) \
         ORDER BY w.created_at DESC, w.webhook_id DESC LIMIT $3"
    )
    .bind::<Nullable<Timestamptz>, _>(at)
    .bind::<Nullable<SqlUuid>, _>(id)
    .bind::<BigInt, _>(start.rows());
    Ok(rows.load(&mut conn).await?)
}

pub async fn find(pool: &Pool, id: WebhookId) -> Result<Option<Row>, Error> {
    let mut conn = pool.get().await?;
    let rows: Vec<Row> = select!("WHERE w.webhook_id = $1")
        .bind::<SqlUuid, _>(id)
        .load(&mut conn)
        .await?;
    Ok(rows.into_iter().next())
}

/// A new subscriber.
pub struct New<'a> {
    pub id: WebhookId,
    pub url: &'a str,
    pub topics: Option<&'a [String]>,
    pub fingerprint: Fingerprint,
    pub by: UserId,
    pub secret: &'a [u8],
}

/// Makes a subscriber that gets what is published from now on; not if it is there, or if there are
/// as many as may be. Returns whether it was made.
pub async fn insert(pool: &Pool, new: &New<'_>) -> Result<bool, Error> {
    let mut conn = pool.get().await?;
    let most = i64::try_from(SUBSCRIBERS_MAX).unwrap_or(i64::MAX);
    let made = statement(
        "INSERT INTO webhook (webhook_id, url, topics, fingerprint, created_by, secret, cursor_no) \
         SELECT $1, $2, $3, $4, $5, $6, last_no FROM fact_feed \
         WHERE (SELECT count(*) FROM webhook) < $7 ON CONFLICT DO NOTHING",
    )
    .bind::<SqlUuid, _>(new.id)
    .bind::<Text, _>(new.url)
    .bind::<Nullable<Array<Text>>, _>(new.topics)
    .bind::<SqlUuid, _>(new.fingerprint.0)
    .bind::<SqlUuid, _>(new.by)
    .bind::<Binary, _>(new.secret)
    .bind::<BigInt, _>(most)
    .execute(&mut conn)
    .await?;
    Ok(made == 1)
}

/// Changes the address, raises the dead; from where it stopped, and at once. What comes of an attempt
/// that is on its way says nothing of the next generation.
pub async fn edit(
    pool: &Pool,
    id: WebhookId,
    url: Option<&str>,
    state: Option<WebhookState>,
) -> Result<(), Error> {
    let mut conn = pool.get().await?;
    statement(
        "UPDATE webhook SET url = coalesce($2, url), state = coalesce($3, state), attempts = 0, \
             failing_since = NULL, next_at = clock_timestamp(), generation = generation + 1 \
         WHERE webhook_id = $1",
    )
    .bind::<SqlUuid, _>(id)
    .bind::<Nullable<Text>, _>(url)
    .bind::<Nullable<Text>, _>(state)
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// Another secret.
pub struct Rotation<'a> {
    /// Which request has asked for it.
    pub id: Uuid,
    pub fingerprint: Fingerprint,
    pub secret: &'a [u8],
    /// For so long the one before signs, too; with 0 it signs nothing more.
    pub overlap_s: i64,
}

/// Signs by another secret from now on. Once per rotation, also when a request is repeated after
/// others: the last 16 are known.
pub async fn rotate(pool: &Pool, id: WebhookId, rotation: &Rotation<'_>) -> Result<(), Error> {
    let mut conn = pool.get().await?;
    statement(
        "UPDATE webhook SET secret = $3, rotation_id = $2, rotation_print = $5, \
             previous_secret = CASE WHEN $4 > 0 THEN secret END, \
             previous_secret_until = \
                 CASE WHEN $4 > 0 THEN clock_timestamp() + $4 * interval '1 second' END, \
             earlier_rotations = (array_remove(rotation_id || earlier_rotations, NULL))[1:16], \
             generation = generation + 1 \
         WHERE webhook_id = $1 AND rotation_id IS DISTINCT FROM $2 \
           AND $2 <> ALL (earlier_rotations)",
    )
    .bind::<SqlUuid, _>(id)
    .bind::<SqlUuid, _>(rotation.id)
    .bind::<Binary, _>(rotation.secret)
    .bind::<BigInt, _>(rotation.overlap_s)
    .bind::<SqlUuid, _>(rotation.fingerprint.0)
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// Whether it was there.
pub async fn delete(pool: &Pool, id: WebhookId) -> Result<bool, Error> {
    let mut conn = pool.get().await?;
    let deleted = statement("DELETE FROM webhook WHERE webhook_id = $1")
        .bind::<SqlUuid, _>(id)
        .execute(&mut conn)
        .await?;
    Ok(deleted == 1)
}
