//! Publishes facts to the events stream, at least once and in order per aggregate.

use super::pace::{Found, Pace};
use super::system::{Outgoing, publish};
use crate::compete::patience::Patience;
use crate::context::Context;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Binary, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use onsale_platform::sql::statement;
use onsale_platform::{db, metric};
use std::convert::Infallible;
use tokio::time::Instant;
use uuid::Uuid;

/// Facts that one look publishes.
const SEND_MAX: usize = 512;

/// Why a look failed; always transient.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Nats(#[from] super::system::Error),
}

/// Publishes for ever.
pub async fn run(ctx: &Context) -> Infallible {
    let mut patience = Patience::new("outbox facts");
    let mut pace = Pace::new(None);
    loop {
        let started = Instant::now();
        match look(ctx).await {
            Ok(found) => {
                patience.healed();
                pace.wait(started, found).await;
            }
            Err(error) => patience.wait(error).await,
        }
    }
}

async fn look(ctx: &Context) -> Result<Found, Error> {
    let open = fact_list_open(ctx).await?;
    if open.is_empty() {
        return Ok(Found::Nothing);
    }
    let found = if open.len() < SEND_MAX {
        Found::Some
    } else {
        Found::More
    };
    let (keys, messages): (Vec<_>, Vec<_>) = open.into_iter().map(|row| row.split(ctx)).unzip();
    let stored = publish(ctx, messages).await;
    let mut failed = None;
    let mut published = Vec::with_capacity(keys.len());
    for (key, stored) in keys.into_iter().zip(stored) {
        match stored {
            Ok(()) => published.push(key),
            Err(error) => failed = Some(error),
        }
    }
    metrics::counter!(metric::OUTBOX_PUBLISHED, "kind" => "fact").increment(published.len() as u64);
    fact_set_published(ctx, published).await?;
    failed.map_or(Ok(found), |error| Err(error.into()))
}

#[derive(QueryableByName)]
struct FactRow {
    #[diesel(sql_type = Text)]
    topic: String,
    #[diesel(sql_type = SqlUuid)]
    aggregate_id: Uuid,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Binary)]
    payload: Vec<u8>,
}

type Key = (String, Uuid, i64);

impl FactRow {
    fn split(self, ctx: &Context) -> (Key, Outgoing) {
        let aggregate = self.aggregate_id.to_string();
        let message = Outgoing {
            subject: ctx.subjects.event(&self.topic, &aggregate),
            id: format!("{}-{aggregate}-{}", self.topic, self.seq),
            payload: self.payload.into(),
        };
        ((self.topic, self.aggregate_id, self.seq), message)
    }
}

/// The oldest open facts. Sequence and time of an aggregate's facts are both taken under its lock,
/// so the order of time is the order of sequences; where a clock stepped, the sequence decides.
async fn fact_list_open(ctx: &Context) -> Result<Vec<FactRow>, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let mut rows: Vec<FactRow> = statement(
        "SELECT topic, aggregate_id, seq, payload FROM outbox WHERE published_at IS NULL \
         ORDER BY created_at LIMIT $1",
    )
    .bind::<BigInt, _>(SEND_MAX as i64)
    .load(&mut conn)
    .await?;
    rows.sort_by(|a, b| (&a.topic, a.aggregate_id, a.seq).cmp(&(&b.topic, b.aggregate_id, b.seq)));
    Ok(rows)
}

async fn fact_set_published(ctx: &Context, keys: Vec<Key>) -> Result<(), db::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut conn = ctx.pool.get().await?;
    statement(
        "UPDATE outbox o SET published_at = clock_timestamp() \
         FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS x(topic, aggregate_id, seq) \
         WHERE o.topic = x.topic AND o.aggregate_id = x.aggregate_id AND o.seq = x.seq",
    )
    .bind::<Array<Text>, _>(keys.iter().map(|k| &k.0[..]).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(keys.iter().map(|k| k.1).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(keys.iter().map(|k| k.2).collect::<Vec<_>>())
    .execute(&mut conn)
    .await?;
    Ok(())
}
