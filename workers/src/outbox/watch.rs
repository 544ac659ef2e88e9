//! Says what is open and since when, and how subscribers are. Every replica counts it, also when none
//! publishes, as while NATS is away.

use super::webhooks::store as subscribers;
use crate::context::Context;
use crate::counting;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Double, Text};
use diesel_async::RunQueryDsl;
use onsale_platform::sql::statement;
use onsale_platform::{db, metric};
use onsale_schema::Lane;
use onsale_schema::status::WebhookState;
use tokio_util::sync::CancellationToken;

/// More rows than that are not counted: whoever reads the number knows enough.
const COUNTED_MAX: i64 = 100_000;

/// What is open. Ages are in seconds, by the database's clock; 0 where there is nothing.
#[derive(QueryableByName)]
struct Open {
    #[diesel(sql_type = BigInt)]
    notices: i64,
    #[diesel(sql_type = Double)]
    notice_age_s: f64,
    #[diesel(sql_type = BigInt)]
    facts: i64,
    #[diesel(sql_type = Double)]
    fact_age_s: f64,
    #[diesel(sql_type = BigInt)]
    untried: i64,
}

/// Counts until `shutdown`.
pub(super) async fn run(ctx: &Context, shutdown: CancellationToken) {
    let count = async || {
        tell(&open(&ctx.pool).await?);
        tell_of_subscribers(&subscribers::webhook_list_standing(&ctx.pool).await?);
        Ok(())
    };
    counting::run(metric::OUTBOX_AGE, count, shutdown).await;
}

/// Each part reads an index of what is open, from its beginning.
async fn open(pool: &db::Pool) -> Result<Open, db::Error> {
    let mut conn = pool.get().await?;
    let open = statement(
        "SELECT (SELECT count(*) FROM (SELECT FROM notice WHERE done_at IS NULL LIMIT $1) AS n) \
                    AS notices, \
                coalesce(extract(epoch FROM clock_timestamp() - \
                    (SELECT min(n.created_at) FROM unnest($2::text[]) AS l (lane), LATERAL \
                         (SELECT created_at FROM notice WHERE lane = l.lane AND done_at IS NULL \
                          ORDER BY created_at LIMIT 1) AS n)), 0)::float8 AS notice_age_s, \
                (SELECT count(*) FROM (SELECT FROM outbox WHERE published_at IS NULL LIMIT $1) AS f) \
                    AS facts, \
                coalesce(extract(epoch FROM clock_timestamp() - \
                    (SELECT min(created_at) FROM outbox WHERE published_at IS NULL)), 0)::float8 \
                    AS fact_age_s, \
                (SELECT count(*) FROM (SELECT FROM dead_letter WHERE command_index >= 0 \
                                       AND retried_at IS NULL LIMIT $1) AS d) AS untried",
    )
    .bind::<BigInt, _>(COUNTED_MAX)
    .bind::<Array<Text>, _>(Lane::ALL.map(Lane::as_str).to_vec());
    Ok(open.get_result(&mut conn).await?)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "there are never so many that it matters"
)]
fn tell(open: &Open) {
    let kinds = [
        ("notice", open.notices, open.notice_age_s),
        ("fact", open.facts, open.fact_age_s),
    ];
    for (kind, count, age_s) in kinds {
        metrics::gauge!(metric::OUTBOX_OPEN, "kind" => kind).set(count as f64);
        metrics::gauge!(metric::OUTBOX_OLDEST, "kind" => kind).set(age_s);
    }
    metrics::gauge!(metric::DEAD_LETTERS_UNTRIED).set(open.untried as f64);
}

fn tell_of_subscribers(all: &[subscribers::Standing]) {
    let (mut active, mut dead, mut oldest_s) = (0, 0, 0.0_f64);
    for subscriber in all {
        match subscriber.state {
            WebhookState::Active => {
                active += 1;
                oldest_s = oldest_s.max(subscriber.age_s);
            }
            WebhookState::Dead => dead += 1,
        }
    }
    metrics::gauge!(metric::WEBHOOKS, "kind" => "active").set(active);
    metrics::gauge!(metric::WEBHOOKS, "kind" => "dead").set(dead);
    metrics::gauge!(metric::WEBHOOK_OLDEST).set(oldest_s);
}
