//! Puts back what the events stream has lost, before anything new is sent to it.
//!
//! A NATS server that loses power has lost what it had not written yet, though it has acknowledged it; a
//! stream may be deleted. Postgres still has the facts, as long as they are kept. The row of the feed says
//! which stream they were published to and how far that reached; one that is another, or ends before,
//! gets them again. Those of an aggregate must all be there before its next one is: consumers skip what is
//! not higher than the last that they know. What is there twice they know by its number.

use super::facts::{Done, Error, Fact, chain, chains};
use super::system::{self, remake};
use crate::context::Context;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;
use onsale_platform::sql::statement;
use onsale_platform::{db, metric, nats};
use onsale_schema::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked on one connection: somebody may delete the stream.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon it is looked again where that is refused.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// Facts that are put back at once.
const PAGE: i64 = 512;
/// What was published so long before the stream's last message is put back, too, in milliseconds: its clock is
/// another one than that of Postgres.
const MARGIN_MS: i64 = 5 * 60 * 1000;

/// The stream as it is, or as it was when facts were published to it last.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
struct Reach {
    #[diesel(sql_type = Nullable<Text>)]
    stream_created: Option<String>,
    #[diesel(sql_type = BigInt)]
    stream_seq: i64,
}

/// The stream now.
struct Now {
    reach: Reach,
    /// When its last message was stored; none if it has none.
    last_at: Option<Timestamp>,
}

/// What is to be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Nothing,
    /// What was published since.
    Since(Timestamp),
    Everything,
}

fn lost(before: &Reach, now: &Now) -> Lost {
    if before.stream_created.is_none() {
        // Nobody has ever noted one.
        return Lost::Nothing;
    }
    let is_another = before.stream_created != now.reach.stream_created;
    if !is_another && before.stream_seq <= now.reach.stream_seq {
        return Lost::Nothing;
    }
    match now.last_at.filter(|_| !is_another) {
        Some(at) => Lost::Since(at.plus_ms(-MARGIN_MS)),
        None => Lost::Everything,
    }
}

/// Looks after the stream for one publisher.
#[derive(Default)]
pub struct Care {
    looked: Option<(nats::Link, Instant)>,
}

impl Care {
    /// Makes sure that the stream has all that was published; returns the connection on which it has. What is
    /// sent on another one may be sent to a server that has lost something.
    ///
    /// # Errors
    /// When the stream can't be reached, or what it lacks can't be put back now.
    pub async fn assure(&mut self, ctx: &Context) -> Result<nats::Link, Error> {
        if let Some((link, until)) = &self.looked
            && link.is_same()
            && Instant::now() < *until
        {
            return Ok(link.clone());
        }
        let link = nats::Link::of(&ctx.nats);
        let again = match look(ctx).await {
            Ok(now) => {
                mend(ctx, &link, now).await?;
                LOOK_EVERY
            }
            // An older server's rights may not allow it: better unwatched than unpublished.
            Err(system::Error::Lost(error)) if link.is_same() => {
                tracing::warn!(
                    error,
                    "the events stream can't be looked at; what it loses is not put back"
                );
                REFUSED_WAIT
            }
            Err(error) => return Err(error.into()),
        };
        self.looked = Some((link.clone(), Instant::now() + again));
        Ok(link)
    }

    /// The stream is gone: it is looked at before anything else is sent.
    pub fn distrust(&mut self) {
        self.looked = None;
    }
}

async fn look(ctx: &Context) -> Result<Now, system::Error> {
    let name = ctx.subjects.events_stream();
    let stream = match ctx.jetstream.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) => {
            let is_gone = matches!(error.kind(), GetStreamErrorKind::JetStream(ref error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND);
            if !is_gone {
                return Err(system::Error::Lost(error.to_string()));
            }
            remake(ctx).await;
            let made = ctx.jetstream.get_stream(&name).await;
            made.map_err(|error| system::Error::Lost(error.to_string()))?
        }
    };
    let info = stream.cached_info();
    let last_at = Timestamp::from(info.state.last_timestamp);
    Ok(Now {
        reach: Reach {
            stream_created: Some(info.created.to_string()),
            stream_seq: i64::try_from(info.state.last_sequence).unwrap_or(i64::MAX),
        },
        last_at: (info.state.messages > 0).then_some(last_at),
    })
}

async fn mend(ctx: &Context, link: &nats::Link, now: Now) -> Result<(), Error> {
    let before = reach_find(ctx).await?;
    let since = match lost(&before, &now) {
        Lost::Nothing if before.stream_created.is_some() => return Ok(()),
        Lost::Nothing => return Ok(reach_set(ctx, &now.reach).await?),
        Lost::Since(at) => Some(at),
        Lost::Everything => None,
    };
    tracing::error!(
        ?before,
        now = ?now.reach,
        since = since.map(|at| at.to_string()),
        "the events stream has lost facts; those that are still kept are put back"
    );
    let (count, last) = put_back(ctx, link, since).await?;
    tracing::warn!(
        count,
        "the events stream has the facts again that are still kept"
    );
    let reach = Reach {
        stream_seq: now.reach.stream_seq.max(last),
        ..now.reach
    };
    Ok(reach_set(ctx, &reach).await?)
}

/// Sends everything that was published since, in the order of the feed; how much it was, and the last place that
/// any of it has. What fails, fails all of it: it is begun again.
async fn put_back(
    ctx: &Context,
    link: &nats::Link,
    since: Option<Timestamp>,
) -> Result<(u64, i64), Error> {
    let (mut after, mut count, mut place) = (i64::MIN, 0, 0);
    loop {
        let page = fact_list_published(ctx, after, since).await?;
        let Some(last) = page.iter().map(|one| one.feed_no).max() else {
            return Ok((count, i64::try_from(place).unwrap_or(i64::MAX)));
        };
        after = last;
        let mut facts: Vec<Fact> = page.into_iter().map(Published::fact).collect();
        facts.sort_by(Fact::in_order);
        let chains = chains(facts).into_iter();
        let all = chains.map(|facts| chain((ctx, link), facts, None));
        for sent in join_all(all).await {
            if let Some((_, error)) = sent.failed {
                return Err(error.into());
            }
            let put_back = sent.done.len() as u64;
            metrics::counter!(metric::FACTS_PUT_BACK).increment(put_back);
            count += put_back;
            let places = sent.done.iter().filter_map(Done::place);
            place = places.fold(place, u64::max);
        }
    }
}

#[derive(QueryableByName)]
struct Published {
    #[diesel(embed)]
    fact: Fact,
    #[diesel(sql_type = BigInt)]
    feed_no: i64,
}

impl Published {
    fn fact(self) -> Fact {
        self.fact
    }
}

/// Facts that are on the stream, or were, behind a number of the feed.
async fn fact_list_published(
    ctx: &Context,
    after: i64,
    since: Option<Timestamp>,
) -> Result<Vec<Published>, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let rows = statement(
        "SELECT topic, aggregate_id, seq, payload, feed_no FROM outbox \
         WHERE feed_no > $1 AND refused IS NULL \
           AND ($2::timestamptz IS NULL OR published_at >= $2) \
         ORDER BY feed_no LIMIT $3",
    )
    .bind::<BigInt, _>(after)
    .bind::<Nullable<Timestamptz>, _>(since)
    .bind::<BigInt, _>(PAGE)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

async fn reach_find(ctx: &Context) -> Result<Reach, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let row = statement("SELECT stream_created, stream_seq FROM fact_feed")
        .get_result(&mut conn)
        .await?;
    Ok(row)
}

async fn reach_set(ctx: &Context, reach: &Reach) -> Result<(), db::Error> {
    let mut conn = ctx.pool.get().await?;
    statement("UPDATE fact_feed SET stream_created = $1, stream_seq = $2")
        .bind::<Nullable<Text>, _>(&reach.stream_created)
        .bind::<BigInt, _>(reach.stream_seq)
        .execute(&mut conn)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_another_or_ends_before_has_lost_facts() {
        let at = Timestamp::from_micros(1_000_000_000_000_000);
        let reach = |created: &str, stream_seq| Reach {
            stream_created: Some(created.to_owned()),
            stream_seq,
        };
        let now = |reach, last_at| Now { reach, last_at };
        let never = Reach {
            stream_created: None,
            stream_seq: 0,
        };
        let since = Lost::Since(at.plus_ms(-MARGIN_MS));
        for (before, after, expected) in [
            (never, now(reach("a", 7), Some(at)), Lost::Nothing),
            (reach("a", 7), now(reach("a", 7), Some(at)), Lost::Nothing),
            (reach("a", 7), now(reach("a", 9), Some(at)), Lost::Nothing),
            (reach("a", 7), now(reach("a", 6), Some(at)), since),
            // Whatever it had is gone with its end.
            (reach("a", 7), now(reach("a", 6), None), Lost::Everything),
            (reach("a", 7), now(reach("b", 0), None), Lost::Everything),
            // Others may have made it, and what was published since.
            (
                reach("a", 7),
                now(reach("b", 9), Some(at)),
                Lost::Everything,
            ),
        ] {
            assert_eq!(lost(&before, &after), expected, "{before:?}");
        }
    }
}
