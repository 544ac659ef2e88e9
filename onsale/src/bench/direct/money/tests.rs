//! A rival decides as the pipeline does, or it is none. On a real database.

use diesel::sql_types::BigInt;
use diesel_async::SimpleAsyncConnection;
use onsale_testkit::TestDb;
use std::time::Duration;

use super::*;

/// A user with 500 won, and a reservation of 300.
const ROWS: &str = "
    CREATE FUNCTION id(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE
        AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$;
    INSERT INTO account VALUES (id(1), 500);
    INSERT INTO transfer VALUES (id(301), id(201), id(0), 'CHARGE',
        '00000000-0000-0000-0000-00000000ca54', id(1), 500, 500, now());
    INSERT INTO reservation (reservation_id, schedule_id, user_id, command_id, fingerprint, seat_nos,
                             total, seat_limit, status, held_at, expires_at)
    VALUES (id(10), id(16), id(1), id(20), id(0), '{0}', 300, 4, 'HELD', now(),
            now() + interval '5 minutes')";

struct World {
    db: TestDb,
    pool: Pool,
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

impl World {
    async fn new() -> Self {
        let db = TestDb::create().await.unwrap();
        db::migrate(db.url()).await.unwrap();
        let mut conn = db::connect(db.url()).await.unwrap();
        conn.batch_execute(ROWS).await.unwrap();
        let pool = db::pool(db.url(), 4).unwrap();
        Self { db, pool }
    }

    async fn charge(&self, key: u128, fingerprint: u128, won: i64) -> ledger::Outcome {
        let charge = Arc::new(Charge {
            account: AccountId(id(1)),
            command_id: CommandId(id(key)),
            fingerprint: Fingerprint(id(fingerprint)),
            transfer_id: TransferId(Uuid::now_v7()),
            amount: Money::won(won),
            debit: CASH_ACCOUNT,
        });
        charge.by_locks(&self.pool).await.unwrap()
    }

    async fn pay(&self, key: u128, user: u128) -> settlement::Outcome {
        let pay = Arc::new(Pay {
            reservation_id: ReservationId(id(10)),
            user_id: UserId(id(user)),
            command_id: CommandId(id(key)),
            fingerprint: Fingerprint(id(7)),
            payment_id: PaymentId(Uuid::now_v7()),
            transfer_id: TransferId(Uuid::now_v7()),
        });
        pay.by_locks(&self.pool).await.unwrap()
    }

    async fn sql(&self, sql: &str) {
        let mut conn = db::connect(self.db.url()).await.unwrap();
        conn.batch_execute(sql).await.unwrap();
    }

    /// Whatever both come to when both wait for their locks.
    async fn at_once<O>(
        &self,
        one: impl Future<Output = O>,
        other: impl Future<Output = O>,
    ) -> [O; 2] {
        let mut conn = db::connect(self.db.url()).await.unwrap();
        conn.batch_execute("BEGIN; SELECT FROM account FOR UPDATE")
            .await
            .unwrap();
        // Within a transaction one sees the same activity for ever.
        let mut watch = db::connect(self.db.url()).await.unwrap();
        let let_go = async {
            let both_wait = async {
                while waiting(&mut watch).await < 2 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let both_wait = tokio::time::timeout(Duration::from_secs(30), both_wait).await;
            both_wait.expect("both wait");
            conn.batch_execute("COMMIT").await.unwrap();
        };
        let (one, other, ()) = tokio::join!(one, other, let_go);
        [one, other]
    }
}

async fn waiting(conn: &mut AsyncPgConnection) -> i64 {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let row: Row = statement(
        "SELECT count(*) AS count FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .get_result(conn)
    .await
    .unwrap();
    row.count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_is_asked_for_twice_at_once_is_made_once_and_answered_alike() {
    let world = World::new().await;
    // There is room for two of them: the second one finds its key taken when it writes.
    let ask = || world.charge(29, 7, 1);
    let [one, other] = world.at_once(ask(), ask()).await;
    assert!(
        matches!(&one, ledger::Outcome::Charged { balance, .. } if *balance == Money::won(501)),
        "{one:?}"
    );
    assert_eq!(one, other);
    // There is not: it would be refused.
    let ask = || world.charge(30, 7, 999_499);
    let [one, other] = world.at_once(ask(), ask()).await;
    assert!(
        matches!(&one, ledger::Outcome::Charged { balance, .. } if *balance == Money::won(1_000_000)),
        "{one:?}"
    );
    assert_eq!(one, other);
    let refused = |refusal| ledger::Outcome::Refused(refusal);
    assert_eq!(
        world.charge(30, 8, 1).await,
        refused(ledger::Refusal::KeyReused)
    );
    let cap = Money::won(BALANCE_CAP);
    let full = ledger::Refusal::BalanceCapExceeded { cap };
    assert_eq!(world.charge(31, 7, 1).await, refused(full));
    assert_eq!(
        world.charge(32, 7, 0).await,
        refused(ledger::Refusal::AmountInvalid)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_asked_for_twice_at_once_is_made_once_and_answered_alike() {
    let world = World::new().await;
    let [one, other] = world.at_once(world.pay(30, 1), world.pay(30, 1)).await;
    assert!(matches!(one, settlement::Outcome::Paid(_)), "{one:?}");
    assert_eq!(one, other);
    let refused = |refusal| settlement::Outcome::Refused(refusal);
    let again = world.pay(31, 1).await;
    assert_eq!(again, refused(settlement::Refusal::AlreadyPaid));
    let foreign = world.pay(32, 2).await;
    assert_eq!(foreign, refused(settlement::Refusal::NotFound));
    let balance = world.charge(33, 7, 1).await;
    assert!(
        matches!(&balance, ledger::Outcome::Charged { balance, .. } if *balance == Money::won(201)),
        "{balance:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_paid_is_refused_as_the_pipeline_does() {
    use settlement::Refusal::{HoldExpired, InsufficientPoints, StateConflict};
    let world = World::new().await;
    let released = || StateConflict {
        status: ReservationStatus::Released,
    };
    for (key, changed, refusal) in [
        (40, "total = 501", InsufficientPoints),
        (
            41,
            "held_at = now() - interval '9 min', expires_at = now()",
            HoldExpired,
        ),
        (42, "ends_as = 'EXPIRED'", HoldExpired),
        (43, "status = 'EXPIRED', ended_at = now()", HoldExpired),
        (44, "ends_as = 'RELEASED'", released()),
        (45, "status = 'RELEASED', ended_at = now()", released()),
    ] {
        world
            .sql(&format!(
                "UPDATE reservation SET total = 300, status = 'HELD', ends_as = NULL, ended_at = NULL,
                     held_at = now(), expires_at = now() + interval '5 minutes';
                 UPDATE reservation SET {changed}"
            ))
            .await;
        let refused = settlement::Outcome::Refused(refusal);
        assert_eq!(world.pay(key, 1).await, refused, "{changed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_costs_nothing_is_paid_without_a_transfer() {
    let world = World::new().await;
    world.sql("UPDATE reservation SET total = 0").await;
    let paid = world.pay(50, 1).await;
    assert!(matches!(paid, settlement::Outcome::Paid(_)), "{paid:?}");
    world
        .sql("DO $$ BEGIN ASSERT 1 = (SELECT count(*) FROM transfer); END $$")
        .await;
}
