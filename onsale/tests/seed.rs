//! The demo is planted whole, and planting it again changes nothing.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use argon2::password_hash::{PasswordVerifier, phc::PasswordHash};
use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale::audit::{self, Options};
use onsale::migrate;
use onsale::seed::{self, Layout, catalogue};
use onsale_platform::db;
use onsale_testkit::TestDb;
use std::collections::BTreeSet;
use std::sync::Mutex;

#[derive(QueryableByName)]
struct One {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn ask(conn: &mut AsyncPgConnection, sql: &str) -> String {
    let one: One = sql_query(format!("SELECT ({sql})::text AS value"))
        .get_result(conn)
        .await
        .unwrap();
    one.value
}

/// Everything that a seed writes, as one digest.
async fn digest(conn: &mut AsyncPgConnection) -> String {
    let tables = [
        "concert",
        "schedule",
        "seat",
        "sale",
        "app_user",
        "account",
        "transfer",
        "reservation",
    ];
    let parts = tables.map(|table| {
        format!("(SELECT coalesce(md5(string_agg(t::text, ';' ORDER BY t::text)), '') FROM {table} AS t)")
    });
    ask(conn, &format!("SELECT {}", parts.join(" || "))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_whole_and_only_once() {
    let database = TestDb::create().await.unwrap();
    let url = database.url();
    assert!(!migrate::pending(url).await.unwrap().is_empty());
    assert!(!db::migrate(url).await.unwrap().is_empty());
    assert!(migrate::pending(url).await.unwrap().is_empty());
    assert!(db::migrate(url).await.unwrap().is_empty());

    let told = Mutex::new(Vec::new());
    let first = seed::seed(url, |what| told.lock().unwrap().push(what.to_owned()))
        .await
        .unwrap();
    assert_eq!((first.schedules_created, first.users_created), (5, 51));
    let told = told.into_inner().unwrap();
    assert!(
        told.iter().any(|what| what.contains("50,000 seats")),
        "{told:?}"
    );

    let mut conn = db::connect(url).await.unwrap();
    for (sql, expected) in [
        ("SELECT count(*) FROM seat", "52200"),
        (
            "SELECT string_agg(section, '' ORDER BY section) FROM
             (SELECT DISTINCT section FROM seat JOIN schedule USING (schedule_id)
              WHERE schedule_id = '01900000-0000-7000-8000-000000000010') AS s",
            "ABCDE",
        ),
        (
            "SELECT count(*) || ' ' || max(seat_no) FROM seat
             WHERE schedule_id = '01900000-0000-7000-8000-000000000010'",
            "1000 999",
        ),
        ("SELECT count(*) FROM account WHERE balance = 300000", "50"),
        (
            "SELECT sum(amount) FROM transfer WHERE kind = 'CHARGE'",
            "15000000",
        ),
        ("SELECT count(*) FROM app_user WHERE role = 'admin'", "1"),
        (
            "SELECT count(*) FROM sale WHERE booking_opens_at <= now() AND now() < booking_closes_at",
            "3",
        ),
        (
            "SELECT count(*) FROM sale WHERE booking_opens_at > now()",
            "1",
        ),
        (
            "SELECT count(*) FROM sale WHERE booking_closes_at <= now()",
            "1",
        ),
        ("SELECT count(*) FROM sale WHERE hold_ms = 5000", "1"),
    ] {
        assert_eq!(ask(&mut conn, sql).await, expected, "{sql}");
    }
    let stored = ask(
        &mut conn,
        &format!(
            "SELECT layout_hash FROM schedule WHERE schedule_id = '{}'",
            catalogue::HALL
        ),
    )
    .await;
    assert_eq!(stored, Layout::hall().hash());
    hash_can_be_recomputed_from_the_rows(&mut conn, &stored).await;
    let known = ask(
        &mut conn,
        "SELECT password_hash FROM app_user WHERE email = 'buyer50@example.com'",
    )
    .await;
    let password = first.accounts.buyers[49].password.as_bytes();
    argon2::Argon2::default()
        .verify_password(password, &PasswordHash::new(&known).unwrap())
        .unwrap();

    // What was sold and changed meanwhile stays as it is.
    conn.batch_execute(
        "UPDATE sale SET state = 'PAUSED', map_version = 7;
         UPDATE app_user SET name = 'Renamed' WHERE email = 'buyer01@example.com';
         DELETE FROM app_user WHERE email = 'buyer02@example.com'",
    )
    .await
    .unwrap();
    let before = digest(&mut conn).await;
    let deleted = seed::seed(url, |_| {}).await.unwrap();
    assert_eq!((deleted.schedules_created, deleted.users_created), (0, 1));
    assert_ne!(digest(&mut conn).await, before, "who is missing comes back");
    let before = digest(&mut conn).await;
    let again = seed::seed(url, |what| panic!("{what} was created again"))
        .await
        .unwrap();
    assert_eq!((again.schedules_created, again.users_created), (0, 0));
    assert_eq!(digest(&mut conn).await, before);
    assert_eq!(again.accounts, first.accounts);

    let report = audit::audit(&Options::new(url)).await.unwrap();
    assert!(report.ok(), "{report}");
}

/// Anybody can check a layout's name: the hash needs nothing but the rows.
async fn hash_can_be_recomputed_from_the_rows(conn: &mut AsyncPgConnection, stored: &str) {
    let recomputed = ask(
        conn,
        "SELECT encode(sha256(convert_to(string_agg(
             format(E'%s,%s,%s,%s,%s,%s,%s,%s\\n', seat_no, section, row_name, seat_number, grade,
                    price, x::numeric(8,2), y::numeric(8,2)), '' ORDER BY seat_no), 'UTF8')), 'hex')
         FROM seat WHERE schedule_id = '01900000-0000-7000-8000-000000000010'",
    )
    .await;
    assert_eq!(recomputed, stored);
}

/// Two installations that are seeded at the same moment, and one that is seeded by two at once.
#[tokio::test(flavor = "multi_thread")]
async fn two_seeds_at_once_are_one() {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let database = TestDb::create().await.unwrap();
    let url = database.url();
    let (a, b) = tokio::join!(db::migrate(url), db::migrate(url));
    let applied = [a.unwrap(), b.unwrap()].concat();
    let distinct: BTreeSet<&String> = applied.iter().collect();
    assert!(!applied.is_empty());
    assert_eq!(distinct.len(), applied.len(), "each is applied once");
    let (a, b) = tokio::join!(seed::seed(url, |_| {}), seed::seed(url, |_| {}));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.schedules_created + b.schedules_created, 5);
    let mut conn = db::connect(url).await.unwrap();
    let transfers: Count = sql_query("SELECT count(*) FROM transfer")
        .get_result(&mut conn)
        .await
        .unwrap();
    assert_eq!(transfers.count, 50);
    assert!(audit::audit(&Options::new(url)).await.unwrap().ok());
}
