//! How many orders are taken at once, on a real database.

use super::*;
use diesel_async::SimpleAsyncConnection;
use onsale_testkit::TestDb;

/// Charges by card, as they need nothing else; all are due.
const ROWS: &str = "
    INSERT INTO payment_order (order_id, user_id, command_id, fingerprint, amount, status, next_at,
                               created_at, updated_at)
    SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 500, status,
           now(), now(), now()
    FROM unnest(ARRAY['UNKNOWN', 'FAILED']) AS status, generate_series(1, 5)";

/// A planner that repeats whatever it may repeat: what it prefers depends on what it believes of the
/// tables, and the bound may not.
const REPEATS: &str = "?options=-c%20enable_hashagg%3Doff%20-c%20enable_hashjoin%3Doff\
     %20-c%20enable_mergejoin%3Doff%20-c%20enable_sort%3Doff%20-c%20enable_material%3Doff";

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_taken_than_are_asked_for() {
    let limits = Limits {
        request_ms: 1000,
        lease_ms: 60_000,
        refund_lease_ms: 60_000,
        balance_cap: Money::won(1_000_000),
    };
    let db = TestDb::create().await.unwrap();
    db::migrate(db.url()).await.unwrap();
    let mut conn = db::connect(db.url()).await.unwrap();
    conn.batch_execute(ROWS).await.unwrap();
    let pool = db::pool(&format!("{}{REPEATS}", db.url()), 1).unwrap();
    for due in [Due::Waited, Due::Ended] {
        for (most, expected) in [(1, 1), (3, 3), (3, 1), (3, 0)] {
            let taken = order_claim(&pool, due, most, limits).await.unwrap();
            assert_eq!(taken.len(), expected, "{most} of {due:?}");
        }
    }
}
