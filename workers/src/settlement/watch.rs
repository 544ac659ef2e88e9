//! Says how long money is on its way: the oldest orders, and refunds that wait; and what of it somebody
//! has to see to. Every replica of settlement counts it, whether or not it knows a gateway.

use crate::context::Context;
use crate::counting;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Double, Integer};
use diesel_async::RunQueryDsl;
use onsale_platform::sql::statement;
use onsale_platform::{db, metric};
use onsale_schema::Timestamp;
use onsale_schema::status::OrderStatus;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Looks at an order that is not on its way, in a row and to no end, after which somebody has to see
/// to it: more than a gateway that is away for half a minute makes necessary.
const LOOKS_MAX: i32 = 10;

/// What is on its way. Ages are in seconds, by the database's clock; 0 where there is nothing.
#[derive(QueryableByName)]
struct OnItsWay {
    #[diesel(sql_type = Double)]
    open_s: f64,
    #[diesel(sql_type = Double)]
    unknown_s: f64,
    #[diesel(sql_type = BigInt)]
    pending: i64,
    #[diesel(sql_type = Double)]
    pending_s: f64,
    #[diesel(sql_type = BigInt)]
    stuck: i64,
    #[diesel(sql_type = Double)]
    stuck_s: f64,
    #[diesel(sql_type = BigInt)]
    twice: i64,
    #[diesel(sql_type = BigInt)]
    by_hand: i64,
    #[diesel(sql_type = BigInt)]
    odd: i64,
    #[diesel(sql_type = BigInt)]
    in_vain: i64,
    #[diesel(sql_type = BigInt)]
    aside: i64,
}

/// Counts until `shutdown`.
pub(super) async fn run(ctx: Context, shutdown: CancellationToken) {
    let count = async || {
        tell(&look(&ctx.pool).await?);
        Ok(())
    };
    counting::run(metric::MONEY_AGE, count, shutdown).await;
}

/// Each part reads an index of what is open, however much has ended.
async fn look(pool: &db::Pool) -> Result<OnItsWay, db::Error> {
    let mut conn = pool.get().await?;
    let found = statement(
        "SELECT o.open_s, o.unknown_s, p.pending, p.pending_s, s.stuck, s.stuck_s, \
                c.twice, c.by_hand, odd.odd, v.in_vain, a.aside \
         FROM (SELECT coalesce(extract(epoch FROM now() - min(coalesce(confirmed_at, created_at))), \
                               0)::float8 AS open_s, \
                      coalesce(extract(epoch FROM now() - min(coalesce(confirmed_at, created_at)) \
                                           FILTER (WHERE status = 'UNKNOWN')), \
                               0)::float8 AS unknown_s \
               FROM payment_order \
               WHERE status IN ('SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', 'REHOLDING')) AS o, \
              (SELECT count(*) AS pending, \
                      coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 \
                          AS pending_s \
               FROM refund WHERE next_at IS NOT NULL AND status = 'PENDING') AS p, \
              (SELECT count(*) AS stuck, \
                      coalesce(extract(epoch FROM now() - min(stuck_at)), 0)::float8 AS stuck_s \
               FROM refund WHERE status IN ('STUCK', 'RESOLVING')) AS s, \
              (SELECT count(*) FILTER (WHERE compare = 'TWICE') AS twice, \
                      count(*) FILTER (WHERE compare = 'BY_HAND') AS by_hand \
               FROM refund WHERE compare_at IS NOT NULL AND compared_at IS NULL) AS c, \
              (SELECT count(*) AS odd FROM payment_order WHERE odd_at IS NOT NULL) AS odd, \
              (SELECT count(*) AS in_vain FROM payment_order \
               WHERE next_at IS NOT NULL \
                 AND status IN ('READY', 'FAILED', 'PAID', 'REFUNDING', 'REFUNDED') \
                 AND odd_at IS NULL AND attempts >= $1) AS v, \
              (SELECT count(*) AS aside FROM show_aside AS x \
               WHERE (SELECT r.status FROM reservation AS r \
                      WHERE r.reservation_id = x.reservation_id) = 'PAID') AS a",
    )
    .bind::<Integer, _>(LOOKS_MAX)
    .get_result(&mut conn)
    .await?;
    Ok(found)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "there are never so many that it matters"
)]
fn tell(found: &OnItsWay) {
    metrics::gauge!(metric::ORDER_OLDEST, "kind" => "open").set(found.open_s);
    metrics::gauge!(metric::ORDER_OLDEST, "kind" => "unknown").set(found.unknown_s);
    metrics::gauge!(metric::REFUNDS_OPEN, "kind" => "pending").set(found.pending as f64);
    metrics::gauge!(metric::REFUNDS_OPEN, "kind" => "stuck").set(found.stuck as f64);
    metrics::gauge!(metric::REFUND_OLDEST, "kind" => "pending").set(found.pending_s);
    metrics::gauge!(metric::REFUND_OLDEST, "kind" => "stuck").set(found.stuck_s);
    metrics::gauge!(metric::REFUNDS_TO_COMPARE, "kind" => "twice").set(found.twice as f64);
    metrics::gauge!(metric::REFUNDS_TO_COMPARE, "kind" => "by-hand").set(found.by_hand as f64);
    metrics::gauge!(metric::ORDERS_UNCLEAR, "kind" => "odd").set(found.odd as f64);
    metrics::gauge!(metric::ORDERS_UNCLEAR, "kind" => "in-vain").set(found.in_vain as f64);
    metrics::gauge!(metric::SHOW_ASIDE).set(found.aside as f64);
}

/// Notes how long an order took that has come to an end for its buyer.
pub(super) fn note_end(status: OrderStatus, confirmed_at: Option<Timestamp>, now: Timestamp) {
    let has_ended = match status {
        OrderStatus::Paid | OrderStatus::Failed | OrderStatus::Refunding => true,
        // The way back is counted with refunds.
        OrderStatus::Refunded
        | OrderStatus::Ready
        | OrderStatus::Securing
        | OrderStatus::Capturing
        | OrderStatus::Unknown
        | OrderStatus::Captured
        | OrderStatus::Reholding => false,
    };
    if let (true, Some(confirmed_at)) = (has_ended, confirmed_at) {
        let took = u64::try_from(now.micros() - confirmed_at.micros()).unwrap_or(0);
        metrics::histogram!(metric::ORDER_DURATION, "outcome" => status.as_str())
            .record(Duration::from_micros(took));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diesel_async::SimpleAsyncConnection;
    use onsale_testkit::TestDb;

    #[derive(QueryableByName)]
    struct Read {
        #[diesel(sql_type = BigInt)]
        n: i64,
    }

    /// Every second: what is paid for good must cost nothing.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_has_ended_is_not_read() {
        let db = TestDb::create().await.unwrap();
        db::migrate(db.url()).await.unwrap();
        let pool = db::pool_with_generic_plans(db.url(), 1).unwrap();
        let read = async || {
            let mut conn = pool.get().await.unwrap();
            let flush = "SELECT pg_stat_force_next_flush()";
            conn.batch_execute(flush).await.unwrap();
            let read: Read = diesel::sql_query(
                "SELECT sum(idx_tup_read)::bigint AS n FROM pg_stat_user_indexes",
            )
            .get_result(&mut conn)
            .await
            .unwrap();
            read.n
        };
        let paid = "INSERT INTO reservation SELECT gen_random_uuid(), id, id, gen_random_uuid(), id, \
                        '{1}', 0, 4, 'PAID', now(), now() + interval '1 hour' \
                    FROM generate_series(1, 2000), gen_random_uuid() AS id";
        pool.get().await.unwrap().batch_execute(paid).await.unwrap();
        let before = read().await;
        let found = look(&pool).await.unwrap();
        assert_eq!((found.aside, found.open_s), (0, 0.0));
        assert!(read().await - before < 100, "rows of what has ended");
    }
}
