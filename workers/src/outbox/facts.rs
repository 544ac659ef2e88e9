//! Publishes facts to the events stream, at least once and in order per aggregate, and numbers those
//! that are published: by this number webhook subscribers go through them.
//!
//! A consumer skips what is not higher than the last it has counted. So the next fact of an aggregate
//! must not be sent before the one before it is known to be stored: were they sent together and the
//! first one failed, the stream would have it behind the second, and it would count for nobody. Each
//! aggregate is a [`chain`], and all chains go at the same time.

use super::events::Care;
use super::pace::{Found, Pace};
use super::rest::{Aggregate, Resting};
use super::system::{self, Outgoing, publish_one, remake};
use crate::compete::patience::Patience;
use crate::context::Context;
use bytes::Bytes;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;
use onsale_platform::sql::statement;
use onsale_platform::{db, metric, nats};
use onsale_schema::facts;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

/// Facts that one look publishes.
const SEND_MAX: usize = 512;
/// After so long a look sends nothing more, so that a long chain holds up no other; what is left is
/// for the next one.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Why a look failed; always transient.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of Postgres.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// Of NATS.
    #[error(transparent)]
    Nats(#[from] system::Error),
}

/// Publishes for ever; says so when facts have a number.
pub async fn run(ctx: &Context, numbered: &Notify) -> Infallible {
    let mut patience = Patience::new("outbox facts");
    let mut pace = Pace::new(None);
    let (mut resting, mut care) = (Resting::default(), Care::default());
    loop {
        let started = Instant::now();
        match look(ctx, &mut resting, &mut care).await {
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

async fn look(ctx: &Context, resting: &mut Resting, care: &mut Care) -> Result<Found, Error> {
    let started = Instant::now();
    let link = care.assure(ctx).await?;
    let open = fact_list_open(ctx, resting.left_out(started)).await?;
    if open.is_empty() {
        return Ok(Found::Nothing);
    }
    let count = open.len();
    let until = started + LOOK_MAX;
    let chains: Vec<_> = chains(open)
        .into_iter()
        .map(|facts| chain((ctx, &link), facts, Some(until)))
        .collect();
    let (mut done, mut failed, mut is_gone) = (Vec::with_capacity(count), None, false);
    for link in join_all(chains).await {
        for one in &link.done {
            resting.healed(&one.fact.aggregate());
        }
        done.extend(link.done);
        if let Some((aggregate, error)) = link.failed {
            is_gone |= matches!(error, system::Error::NoStream);
            resting.failed(aggregate, Instant::now());
            failed = Some(error);
        }
    }
    if is_gone {
        remake(ctx).await;
        care.distrust();
    }
    tell(&done);
    fact_set_published(ctx, &done).await?;
    match failed {
        // Where others get through, those that don't are left out for a while.
        Some(error) if !done.is_empty() => {
            tracing::warn!(%error, aggregates = resting.count(), "facts of some aggregates are stuck");
        }
        Some(error) => return Err(error.into()),
        None => {}
    }
    Ok(match count >= SEND_MAX || done.len() < count {
        true => Found::More,
        false => Found::Some,
    })
}

fn tell(done: &[Done]) {
    let refused = done.iter().filter(|one| one.stored.is_err());
    for one in refused.clone() {
        tracing::error!(
            id = one.fact.id(),
            error = one.refused(),
            "a fact can't be on the stream, which has a gap in its place"
        );
    }
    let refused = refused.count();
    metrics::counter!(metric::FACTS_REFUSED).increment(refused as u64);
    let published = done.len() - refused;
    metrics::counter!(metric::OUTBOX_PUBLISHED, "kind" => "fact").increment(published as u64);
}

/// A fact that is to be published.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
pub(super) struct Fact {
    #[diesel(sql_type = Text)]
    topic: String,
    #[diesel(sql_type = SqlUuid)]
    aggregate_id: Uuid,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Binary)]
    payload: Vec<u8>,
}

impl Fact {
    /// Each aggregate's in the order of their numbers.
    pub(super) fn in_order(a: &Self, b: &Self) -> std::cmp::Ordering {
        (&a.topic, a.aggregate_id, a.seq).cmp(&(&b.topic, b.aggregate_id, b.seq))
    }

    fn aggregate(&self) -> Aggregate {
        (self.topic.clone(), self.aggregate_id)
    }

    fn id(&self) -> String {
        facts::id(&self.topic, self.aggregate_id, self.seq)
    }

    fn outgoing(&self, ctx: &Context) -> Outgoing {
        Outgoing {
            subject: ctx
                .subjects
                .event(&self.topic, &self.aggregate_id.to_string()),
            id: self.id(),
            payload: Bytes::from(self.payload.clone()),
        }
    }
}

/// Where facts are published to.
pub(super) trait Stream: Copy + Sync {
    /// Returns when the fact is stored; where.
    fn store(self, fact: &Fact) -> impl Future<Output = Result<u64, system::Error>> + Send;
}

impl Stream for (&Context, &nats::Link) {
    async fn store(self, fact: &Fact) -> Result<u64, system::Error> {
        let (ctx, link) = self;
        publish_one(ctx, link, fact.outgoing(ctx)).await
    }
}

/// Nothing more is to be done for a fact than to number it.
#[derive(Debug, PartialEq)]
pub(super) struct Done {
    fact: Fact,
    /// Its place on the stream, or why it can't be there.
    stored: Result<u64, String>,
}

impl Done {
    pub(super) fn place(&self) -> Option<u64> {
        self.stored.as_ref().ok().copied()
    }

    fn refused(&self) -> Option<&str> {
        self.stored.as_ref().err().map(String::as_str)
    }
}

/// What became of a chain.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) done: Vec<Done>,
    pub(super) failed: Option<(Aggregate, system::Error)>,
}

/// The facts of each aggregate, in order. They come sorted.
pub(super) fn chains(facts: Vec<Fact>) -> Vec<Vec<Fact>> {
    let mut chains: Vec<Vec<Fact>> = Vec::new();
    for fact in facts {
        match chains.last_mut() {
            Some(chain) if chain[0].aggregate() == fact.aggregate() => chain.push(fact),
            Some(_) | None => chains.push(vec![fact]),
        }
    }
    chains
}

/// Publishes the facts of an aggregate one after the other, until one is not known to be stored. One
/// that can never be is passed by: its readers see a gap, and those behind it are not held up. Nothing
/// more is sent after `until`, if there is one.
pub(super) async fn chain(stream: impl Stream, facts: Vec<Fact>, until: Option<Instant>) -> Sent {
    let mut done = Vec::with_capacity(facts.len());
    for fact in facts {
        if !done.is_empty() && until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        let stored = match stream.store(&fact).await {
            Ok(place) => Ok(place),
            Err(system::Error::TooLarge(reason)) => Err(reason),
            Err(error @ (system::Error::Lost(_) | system::Error::NoStream)) => {
                let failed = Some((fact.aggregate(), error));
                return Sent { done, failed };
            }
        };
        done.push(Done { fact, stored });
    }
    Sent { done, failed: None }
}

/// The oldest open facts, but those of these aggregates; of each aggregate those, too, that are open and come
/// before one of them. Sequence and time of an aggregate's facts are both taken under its lock, so the order of
/// time is the order of sequences; where a clock stepped, the sequence decides.
async fn fact_list_open(
    ctx: &Context,
    left_out: impl Iterator<Item = &Aggregate>,
) -> Result<Vec<Fact>, db::Error> {
    let (topics, ids): (Vec<&str>, Vec<Uuid>) =
        left_out.map(|(topic, id)| (&topic[..], *id)).unzip();
    let mut conn = ctx.pool.get().await?;
    let mut rows: Vec<Fact> = statement(
        "WITH oldest AS ( \
             SELECT topic, aggregate_id, seq FROM outbox o WHERE published_at IS NULL \
               AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::uuid[]) AS x(topic, aggregate_id) \
                               WHERE x.topic = o.topic AND x.aggregate_id = o.aggregate_id) \
             ORDER BY created_at LIMIT $1), \
         span AS (SELECT topic, aggregate_id, min(seq) AS first, max(seq) AS last \
                  FROM oldest GROUP BY topic, aggregate_id) \
         SELECT o.topic, o.aggregate_id, o.seq, o.payload \
         FROM span CROSS JOIN LATERAL ( \
             SELECT max(b.seq) AS seq FROM outbox b \
             WHERE b.topic = span.topic AND b.aggregate_id = span.aggregate_id \
               AND b.seq < span.first AND b.published_at IS NOT NULL) AS gone \
         CROSS JOIN LATERAL ( \
             SELECT i.* FROM outbox i \
             WHERE i.topic = span.topic AND i.aggregate_id = span.aggregate_id \
               AND i.seq > coalesce(gone.seq, 0) AND i.seq <= span.last OFFSET 0) AS o \
         WHERE o.published_at IS NULL",
    )
    .bind::<BigInt, _>(SEND_MAX as i64)
    .bind::<Array<Text>, _>(topics)
    .bind::<Array<SqlUuid>, _>(ids)
    .load(&mut conn)
    .await?;
    rows.sort_by(Fact::in_order);
    Ok(rows)
}

/// Numbers them in this order. Whoever numbers has the lock of the counter's row until the commit, so
/// no number becomes visible after a higher one. What another publisher has numbered keeps its number.
async fn fact_set_published(ctx: &Context, done: &[Done]) -> Result<(), db::Error> {
    if done.is_empty() {
        return Ok(());
    }
    let place = done
        .iter()
        .filter_map(Done::place)
        .max()
        .unwrap_or_default();
    let mut conn = ctx.pool.get().await?;
    statement(
        "WITH counter AS (UPDATE fact_feed SET last_no = last_no + cardinality($1::text[]), \
                              stream_seq = greatest(stream_seq, $5) \
                          RETURNING last_no - cardinality($1::text[]) AS before) \
         UPDATE outbox o SET published_at = clock_timestamp(), refused = x.refused, \
                             feed_no = counter.before + x.place \
         FROM counter, unnest($1::text[], $2::uuid[], $3::bigint[], $4::text[]) \
              WITH ORDINALITY AS x(topic, aggregate_id, seq, refused, place) \
         WHERE o.topic = x.topic AND o.aggregate_id = x.aggregate_id AND o.seq = x.seq \
           AND o.published_at IS NULL",
    )
    .bind::<Array<Text>, _>(done.iter().map(|d| &d.fact.topic[..]).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(done.iter().map(|d| d.fact.aggregate_id).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(done.iter().map(|d| d.fact.seq).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(done.iter().map(Done::refused).collect::<Vec<_>>())
    .bind::<BigInt, _>(i64::try_from(place).unwrap_or(i64::MAX))
    .execute(&mut conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn fact(aggregate: u128, seq: i64) -> Fact {
        Fact {
            topic: facts::SEATS.to_owned(),
            aggregate_id: Uuid::from_u128(aggregate),
            seq,
            payload: Vec::new(),
        }
    }

    /// A stream that says of each fact whether it takes it.
    struct Picky<F>(F, Mutex<Vec<Fact>>);

    impl<F: Fn(&Fact) -> Result<(), system::Error> + Sync> Stream for &Picky<F> {
        async fn store(self, fact: &Fact) -> Result<u64, system::Error> {
            // All chains get their turn at the same time.
            tokio::task::yield_now().await;
            (self.0)(fact)?;
            let mut stream = self.1.lock().unwrap();
            stream.push(fact.clone());
            Ok(stream.len() as u64)
        }
    }

    /// What is on the stream after one look, what is done, and how many chains failed.
    async fn sent(
        facts: Vec<Fact>,
        until: Instant,
        says: impl Fn(&Fact) -> Result<(), system::Error> + Sync,
    ) -> (Vec<Fact>, Vec<Done>, usize) {
        let stream = Picky(says, Mutex::default());
        let chains = chains(facts).into_iter();
        let all = join_all(chains.map(|facts| chain(&stream, facts, Some(until)))).await;
        let failed = all.iter().filter(|one| one.failed.is_some()).count();
        let done = all.into_iter().flat_map(|one| one.done).collect();
        (stream.1.into_inner().unwrap(), done, failed)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[tokio::test]
    async fn nothing_is_on_the_stream_before_what_comes_first_in_its_aggregate() {
        let facts = vec![fact(1, 1), fact(1, 2), fact(1, 3), fact(2, 7), fact(2, 8)];
        let lost = |fact: &Fact| match (fact.aggregate_id.as_u128(), fact.seq) {
            (1, 2) => Err(system::Error::Lost("in the middle".into())),
            _ => Ok(()),
        };
        let (stream, done, failed) = sent(facts.clone(), later(), lost).await;
        assert_eq!(stream, [fact(1, 1), fact(2, 7), fact(2, 8)]);
        let done: Vec<Fact> = done.into_iter().map(|one| one.fact).collect();
        assert_eq!((done, failed), (stream.clone(), 1));
        // The next look has the rest.
        let (rest, ..) = sent(vec![fact(1, 2), fact(1, 3)], later(), |_| Ok(())).await;
        assert_eq!([stream, rest].concat().len(), facts.len());
    }

    #[tokio::test]
    async fn what_can_never_be_published_is_set_aside_and_holds_up_nothing() {
        let facts = vec![fact(1, 1), fact(1, 2), fact(1, 3), fact(2, 1)];
        let large = |fact: &Fact| match fact.seq {
            2 => Err(system::Error::TooLarge("too large".into())),
            _ => Ok(()),
        };
        let (stream, done, failed) = sent(facts.clone(), later(), large).await;
        assert_eq!((stream.len(), failed), (3, 0));
        let refused: Vec<&Fact> = done
            .iter()
            .filter(|one| one.refused() == Some("too large"))
            .map(|one| &one.fact)
            .collect();
        assert_eq!((done.len(), refused), (4, vec![&facts[1]]));
    }

    #[tokio::test]
    async fn a_look_that_takes_too_long_leaves_the_rest_to_the_next_one() {
        let facts = vec![fact(1, 1), fact(1, 2), fact(2, 1)];
        let (stream, ..) = sent(facts, Instant::now(), |_| Ok(())).await;
        assert_eq!(stream, [fact(1, 1), fact(2, 1)]);
    }
}
