//! Puts back what the events stream has lost, before anything new is sent to it.
//!
//! A NATS server that loses power has lost what it had not written yet, though it has acknowledged it; a
//! stream may be deleted. Postgres still has the facts, as long as they are kept. The row of the feed says
//! which stream they were published to and how far that reached; one that is another, or ends before,
//! gets them again. Those of an aggregate must all be there before its next one is: consumers skip what is
//! not higher than the last that they know. What is there twice they know by its number.
//!
//! How far that is stands in the row, too: what is put back makes the stream longer, so that whoever begins
//! anew would find nothing missing.

use super::facts::{Done, Error, Fact, chain, chains};
use super::system::{self, remake};
use crate::context::Context;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{
    GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind,
};
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
/// How soon it is looked again where nobody answers.
const UNANSWERED_WAIT: Duration = Duration::from_secs(30);
/// So many questions in a row without an answer are a right that is missing.
const UNANSWERED_MAX: u32 = 3;
/// Facts that are put back at once.
const PAGE: i64 = 512;
/// What was published so long before the stream's last message is put back, too, in milliseconds: its clock is
/// another one than that of Postgres.
const MARGIN_MS: i64 = 5 * 60 * 1000;

/// The stream when facts were published to it last, as the row of the feed says.
#[derive(Clone, Debug, Default, QueryableByName)]
struct Known {
    #[diesel(sql_type = Nullable<Text>)]
    stream_created: Option<String>,
    #[diesel(sql_type = BigInt)]
    stream_seq: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    put_back_no: Option<i64>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    put_back_at: Option<Timestamp>,
}

/// The stream now.
#[derive(Debug)]
struct Now {
    created: String,
    last_seq: i64,
    /// When its last message was stored; none if it has none.
    last_at: Option<Timestamp>,
}

/// What the stream has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Nothing,
    /// What was published since.
    Since(Timestamp),
    Everything,
}

fn lost(before: &Known, now: &Now) -> Lost {
    let Some(created) = &before.stream_created else {
        // Nobody has ever noted one.
        return Lost::Nothing;
    };
    let is_another = *created != now.created;
    if !is_another && before.stream_seq <= now.last_seq {
        return Lost::Nothing;
    }
    let since = now.last_at.map(|at| at.plus_ms(-MARGIN_MS));
    // What was put back was published long before its messages were stored.
    let is_told = |at: &Timestamp| before.put_back_no.is_none() && before.put_back_at < Some(*at);
    match since.filter(|at| !is_another && is_told(at)) {
        Some(at) => Lost::Since(at),
        None => Lost::Everything,
    }
}

/// Why it can't be looked at the stream.
enum Unseen {
    /// Nobody has answered.
    Unanswered,
    Error(system::Error),
}

/// Looks after the stream for one publisher.
#[derive(Default)]
pub struct Care {
    looked: Option<(nats::Link, Instant)>,
    unanswered: u32,
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
                self.unanswered = 0;
                mend(ctx, &link, now).await?;
                LOOK_EVERY
            }
            Err(Unseen::Unanswered) if link.is_same() => {
                self.unanswered += 1;
                if self.unanswered < UNANSWERED_MAX {
                    return Err(system::Error::Lost("nobody tells of the stream".into()).into());
                }
                // A server answers what it does not allow to nobody. Better unwatched than unpublished.
                tracing::warn!(
                    "the events stream can't be looked at, and what it loses is not put back: has the user of \
                     the workers all rights that `onsale nats-users` prints?"
                );
                UNANSWERED_WAIT
            }
            Err(Unseen::Unanswered) => {
                // The connection was lost meanwhile, which says nothing of a right.
                self.unanswered = 0;
                return Err(system::Error::Lost("no answer".into()).into());
            }
            Err(Unseen::Error(error)) => return Err(error.into()),
        };
        self.looked = Some((link.clone(), Instant::now() + again));
        Ok(link)
    }

    /// The stream is gone: it is looked at before anything else is sent.
    pub fn distrust(&mut self) {
        self.looked = None;
    }
}

async fn look(ctx: &Context) -> Result<Now, Unseen> {
    let name = ctx.subjects.events_stream();
    let stream = match ctx.jetstream.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(why)
                if why.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                remake(ctx).await;
                let made = ctx.jetstream.get_stream(&name).await;
                made.map_err(|error| Unseen::Error(system::Error::Lost(error.to_string())))?
            }
            GetStreamErrorKind::Request if is_timeout(&error) => return Err(Unseen::Unanswered),
            GetStreamErrorKind::Request
            | GetStreamErrorKind::JetStream(_)
            | GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::InvalidStreamName => {
                return Err(Unseen::Error(system::Error::Lost(error.to_string())));
            }
        },
    };
    let info = stream.cached_info();
    let last_at = Timestamp::from(info.state.last_timestamp);
    Ok(Now {
        created: info.created.to_string(),
        last_seq: i64::try_from(info.state.last_sequence).unwrap_or(i64::MAX),
        last_at: (info.state.messages > 0).then_some(last_at),
    })
}

fn is_timeout(error: &GetStreamError) -> bool {
    let source = std::error::Error::source(error);
    let request = source.and_then(|source| source.downcast_ref::<RequestError>());
    request.is_some_and(|error| error.kind() == RequestErrorKind::TimedOut)
}

/// Puts back what is missing, or goes on with that.
async fn mend(ctx: &Context, link: &nats::Link, now: Now) -> Result<(), Error> {
    let before = known_find(ctx).await?;
    let begin = match lost(&before, &now) {
        Lost::Nothing if before.stream_created.is_none() => None,
        Lost::Nothing => match before.put_back_no {
            Some(no) => Some(no),
            None => return Ok(()),
        },
        Lost::Since(at) => Some(feed_no_before(ctx, at).await?),
        Lost::Everything => Some(BEGINNING),
    };
    known_set(ctx, &now, begin).await?;
    let Some(begin) = begin else {
        return Ok(());
    };
    tracing::error!(
        ?before,
        ?now,
        behind = begin,
        "the events stream has lost facts; those that are still kept are put back"
    );
    let count = put_back(ctx, link, begin).await?;
    put_back_end(ctx).await?;
    tracing::warn!(
        count,
        "the events stream has the facts again that are still kept"
    );
    Ok(())
}

/// No number of the feed is lower.
const BEGINNING: i64 = i64::MIN;

/// Sends everything that was published behind a number of the feed, in its order; how much it was.
async fn put_back(ctx: &Context, link: &nats::Link, begin: i64) -> Result<u64, Error> {
    let (mut after, mut count) = (begin, 0);
    loop {
        let page = fact_list_published(ctx, after).await?;
        let Some(last) = page.iter().map(|one| one.feed_no).max() else {
            return Ok(count);
        };
        after = last;
        let mut facts: Vec<Fact> = page.into_iter().map(|one| one.fact).collect();
        facts.sort_by(Fact::in_order);
        let chains = chains(facts).into_iter();
        let all = chains.map(|facts| chain((ctx, link), facts, None));
        let mut place = 0;
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
        put_back_advance(ctx, after, place).await?;
    }
}

#[derive(QueryableByName)]
struct Published {
    #[diesel(embed)]
    fact: Fact,
    #[diesel(sql_type = BigInt)]
    feed_no: i64,
}

/// Facts that are on the stream, or were, behind a number of the feed.
async fn fact_list_published(ctx: &Context, after: i64) -> Result<Vec<Published>, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let rows = statement(
        "SELECT topic, aggregate_id, seq, payload, feed_no FROM outbox \
         WHERE feed_no > $1 AND refused IS NULL ORDER BY feed_no LIMIT $2",
    )
    .bind::<BigInt, _>(after)
    .bind::<BigInt, _>(PAGE)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

#[derive(QueryableByName)]
struct FeedNo {
    #[diesel(sql_type = Nullable<BigInt>)]
    no: Option<i64>,
}

/// The last number of the feed that was given before. It is looked for from the end: that is near.
async fn feed_no_before(ctx: &Context, at: Timestamp) -> Result<i64, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let row: FeedNo = statement(
        "SELECT (SELECT feed_no FROM outbox WHERE feed_no IS NOT NULL AND published_at < $1 \
                 ORDER BY feed_no DESC LIMIT 1) AS no",
    )
    .bind::<Timestamptz, _>(at)
    .get_result(&mut conn)
    .await?;
    Ok(row.no.unwrap_or(BEGINNING))
}

async fn known_find(ctx: &Context) -> Result<Known, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let row =
        statement("SELECT stream_created, stream_seq, put_back_no, put_back_at FROM fact_feed")
            .get_result(&mut conn)
            .await?;
    Ok(row)
}

/// This is the stream from now on; what is behind a number of the feed is yet to be put back.
async fn known_set(ctx: &Context, now: &Now, begin: Option<i64>) -> Result<(), db::Error> {
    let mut conn = ctx.pool.get().await?;
    statement("UPDATE fact_feed SET stream_created = $1, stream_seq = $2, put_back_no = $3")
        .bind::<Text, _>(&now.created)
        .bind::<BigInt, _>(now.last_seq)
        .bind::<Nullable<BigInt>, _>(begin)
        .execute(&mut conn)
        .await?;
    Ok(())
}

async fn put_back_advance(ctx: &Context, no: i64, place: u64) -> Result<(), db::Error> {
    let mut conn = ctx.pool.get().await?;
    statement("UPDATE fact_feed SET put_back_no = $1, stream_seq = greatest(stream_seq, $2)")
        .bind::<BigInt, _>(no)
        .bind::<BigInt, _>(i64::try_from(place).unwrap_or(i64::MAX))
        .execute(&mut conn)
        .await?;
    Ok(())
}

async fn put_back_end(ctx: &Context) -> Result<(), db::Error> {
    let mut conn = ctx.pool.get().await?;
    statement("UPDATE fact_feed SET put_back_no = NULL, put_back_at = clock_timestamp()")
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
        let noted = |created: &str, stream_seq| Known {
            stream_created: Some(created.to_owned()),
            stream_seq,
            ..Known::default()
        };
        let now = |created: &str, last_seq, last_at| Now {
            created: created.to_owned(),
            last_seq,
            last_at,
        };
        let put_back = |no, before_ms: i64| Known {
            put_back_no: no,
            put_back_at: Some(at.plus_ms(-before_ms)),
            ..noted("a", 7)
        };
        let since = Lost::Since(at.plus_ms(-MARGIN_MS));
        for (before, after, expected) in [
            (Known::default(), now("a", 7, Some(at)), Lost::Nothing),
            (noted("a", 7), now("a", 7, Some(at)), Lost::Nothing),
            (noted("a", 7), now("a", 9, Some(at)), Lost::Nothing),
            (noted("a", 7), now("a", 6, Some(at)), since),
            // Whatever it had is gone with its end.
            (noted("a", 7), now("a", 6, None), Lost::Everything),
            (noted("a", 7), now("b", 0, None), Lost::Everything),
            // Others may have made it, and what was published since.
            (noted("a", 7), now("b", 9, Some(at)), Lost::Everything),
            // The times of what was put back say nothing of when it was published.
            (put_back(None, MARGIN_MS + 1), now("a", 6, Some(at)), since),
            (
                put_back(None, MARGIN_MS),
                now("a", 6, Some(at)),
                Lost::Everything,
            ),
            (
                put_back(Some(3), 2 * MARGIN_MS),
                now("a", 6, Some(at)),
                Lost::Everything,
            ),
            (put_back(Some(3), 0), now("a", 7, Some(at)), Lost::Nothing),
        ] {
            assert_eq!(lost(&before, &after), expected, "{before:?}");
        }
    }
}
