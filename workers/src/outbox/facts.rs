//! Publishes facts to the events stream, at least once and in order per aggregate, and numbers those
//! that are published: by this number webhook subscribers go through them.

use super::pace::{Found, Pace};
use super::system::{Outgoing, publish};
use crate::compete::patience::Patience;
use crate::context::Context;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Binary, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use onsale_platform::sql::statement;
use onsale_platform::{db, metric};
use onsale_schema::facts;
use std::convert::Infallible;
use tokio::sync::Notify;
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

/// Publishes for ever; says so when facts have a number.
pub async fn run(ctx: &Context, numbered: &Notify) -> Infallible {
    let mut patience = Patience::new("outbox facts");
    let mut pace = Pace::new(None);
    loop {
        let started = Instant::now();
        match look(ctx).await {
            Ok(found) => {
                if found != Found::Nothing {
                    numbered.notify_one();
                }
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
    let (published, failed) = in_order(keys, stored);
    metrics::counter!(metric::OUTBOX_PUBLISHED, "kind" => "fact").increment(published.len() as u64);
    fact_set_published(ctx, published).await?;
    failed.map_or(Ok(found), |error| Err(error.into()))
}

/// Those that are published, and the last failure. What comes after one of its aggregate that is not
/// known to be published is published again with it, so that numbers are in the aggregate's order.
fn in_order<E>(keys: Vec<Key>, stored: Vec<Result<(), E>>) -> (Vec<Key>, Option<E>) {
    let mut failed = None;
    let mut stuck: Option<(String, Uuid)> = None;
    let mut published = Vec::with_capacity(keys.len());
    for (key, stored) in keys.into_iter().zip(stored) {
        let is_stuck = |(topic, aggregate): &(String, Uuid)| (topic, aggregate) == (&key.0, &key.1);
        match stored {
            Ok(()) if stuck.as_ref().is_some_and(is_stuck) => {}
            Ok(()) => published.push(key),
            Err(error) => {
                failed = Some(error);
                stuck = Some((key.0, key.1));
            }
        }
    }
    (published, failed)
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
            id: facts::id(&self.topic, self.aggregate_id, self.seq),
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

/// Numbers them in this order. Whoever numbers has the lock of the counter's row until the commit, so
/// no number becomes visible after a higher one. What another publisher has numbered keeps its number.
async fn fact_set_published(ctx: &Context, keys: Vec<Key>) -> Result<(), db::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut conn = ctx.pool.get().await?;
    statement(
        "WITH counter AS (UPDATE fact_feed SET last_no = last_no + cardinality($1::text[]) \
                          RETURNING last_no - cardinality($1::text[]) AS before) \
         UPDATE outbox o SET published_at = clock_timestamp(), feed_no = counter.before + x.place \
         FROM counter, unnest($1::text[], $2::uuid[], $3::bigint[]) \
              WITH ORDINALITY AS x(topic, aggregate_id, seq, place) \
         WHERE o.topic = x.topic AND o.aggregate_id = x.aggregate_id AND o.seq = x.seq \
           AND o.published_at IS NULL",
    )
    .bind::<Array<Text>, _>(keys.iter().map(|k| &k.0[..]).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(keys.iter().map(|k| k.1).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(keys.iter().map(|k| k.2).collect::<Vec<_>>())
    .execute(&mut conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_numbered_before_what_comes_first_in_its_aggregate() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let key = |topic: &str, id, seq| (topic.to_owned(), id, seq);
        let keys = vec![
            key("seats", a, 1),
            key("seats", a, 2),
            key("seats", a, 3),
            key("seats", b, 7),
        ];
        let stored = vec![Ok(()), Err("lost"), Ok(()), Ok(())];
        let (published, failed) = in_order(keys, stored);
        assert_eq!(published, [key("seats", a, 1), key("seats", b, 7)]);
        assert_eq!(failed, Some("lost"));
    }
}
