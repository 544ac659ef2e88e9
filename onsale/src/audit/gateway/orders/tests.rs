//! Which orders are read, on a real database.

use std::collections::BTreeSet;

use diesel_async::SimpleAsyncConnection;
use onsale_platform::clock;
use onsale_testkit::TestDb;
use uuid::Uuid;

use super::*;

/// Charges by card, as they need nothing else; all are captured and older than the window, but for the
/// last, and what each is for says its number.
const ROWS: &str = "
    CREATE FUNCTION id(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE
        AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$;
    CREATE FUNCTION days(n integer) RETURNS timestamptz LANGUAGE sql
        AS $$ SELECT now() - n * interval '1 day' $$;
    CREATE FUNCTION ordered(n integer, at timestamptz) RETURNS void LANGUAGE sql AS $$
        INSERT INTO payment_order (order_id, user_id, command_id, fingerprint, amount, status, captured,
                                   created_at, updated_at)
        VALUES (id(n), id(0), id(1000 + n), id(0), 500, 'REFUNDING', 500, at, at) $$;
    CREATE FUNCTION refund(n integer, asked timestamptz, done timestamptz) RETURNS void LANGUAGE sql AS $$
        INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, created_at,
                            done_at)
        VALUES (id(2000 + n), id(n), id(0), id(n), 'GATEWAY', 500,
                CASE WHEN done IS NULL THEN 'PENDING' ELSE 'DONE' END, asked, done) $$;
    SELECT ordered(n, days(90)) FROM generate_series(1, 7) AS n;
    SELECT refund(2, days(80), days(79));
    SELECT refund(3, days(80), days(3));
    SELECT refund(4, days(3), days(2));
    SELECT refund(5, days(3), NULL);
    UPDATE payment_order SET odd_at = days(60) WHERE order_id = id(6);
    SELECT ordered(8, days(1))";

fn ids(orders: &[Order]) -> BTreeSet<u128> {
    orders
        .iter()
        .map(|order| order.order_id.0.as_u128())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_the_window_is_read_only_if_it_says_something_in_it() {
    let db = TestDb::create().await.unwrap();
    db::migrate(db.url()).await.unwrap();
    let mut conn = db::connect(db.url()).await.unwrap();
    conn.batch_execute(ROWS).await.unwrap();
    let since = clock::host_now().plus_ms(-30 * 86_400_000);
    let of_window = of_window(&mut conn, since, 100).await.unwrap();
    // Neither 1, of which there is nothing, nor 2, which had its money back before it, nor 5, whose
    // refund is not made, nor 7.
    assert_eq!(ids(&of_window), BTreeSet::from([3, 4, 6, 8]));
    assert_eq!(count_older(&mut conn, since).await.unwrap(), 7);
    let some = super::of_window(&mut conn, since, 3).await.unwrap();
    assert_eq!(some.len(), 3);

    let named = [1, 7, 9].map(|n| PaymentOrderId(Uuid::from_u128(n)));
    let named = with_ids(&mut conn, since, &named).await.unwrap();
    assert_eq!(ids(&named), BTreeSet::from([1, 7]));
    assert!(
        named
            .iter()
            .all(|order| order.is_captured_before && !order.is_whole)
    );
    assert!(with_ids(&mut conn, since, &[]).await.unwrap().is_empty());

    // The same by either way.
    let again: Vec<PaymentOrderId> = of_window.iter().map(|order| order.order_id).collect();
    let mut again = with_ids(&mut conn, since, &again).await.unwrap();
    let mut once = of_window;
    for orders in [&mut once, &mut again] {
        orders.sort_by_key(|order| order.order_id);
    }
    assert_eq!(once, again);
}
