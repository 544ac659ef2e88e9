//! What is edited while its owner has it in memory: layouts, which the ingress replaces in a
//! transaction of its own, and policies, which are commands.

use crate::rig::Rig;
use crate::{held, number};
use diesel_async::SimpleAsyncConnection;
use onsale_platform::db;
use onsale_schema::message::decode;
use onsale_schema::seats::{Fact, Facts, Kind, Outcome, PolicyChange, Refusal};
use onsale_schema::status::SaleState;
use onsale_schema::{Money, ScheduleId, UserId};
use std::time::Duration;
use uuid::Uuid;

/// The statements of the ingress: six seats at another price.
fn replacement(schedule: ScheduleId) -> String {
    format!(
        "SELECT layout_no FROM sale WHERE schedule_id = '{schedule}' FOR UPDATE;
         DELETE FROM seat WHERE schedule_id = '{schedule}';
         INSERT INTO seat SELECT '{schedule}', n, 'B', '1', n, 'R', 7000, n, 0
             FROM generate_series(0, 5) n;
         UPDATE sale SET layout_no = layout_no + 1 WHERE schedule_id = '{schedule}';"
    )
}

/// Makes the owner load a schedule, without writing anything about it.
async fn load(rig: &mut Rig, schedule: ScheduleId) {
    let nothing = rig.hold(schedule, &[99]);
    let refused = Outcome::Refused(Refusal::UnknownSeat);
    assert_eq!(rig.ask(nothing).await, refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_layout_is_noticed_by_the_first_write() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    let worker = rig.worker().await;
    load(&mut rig, schedule).await;
    rig.sql(&format!("BEGIN; {} COMMIT", replacement(schedule)))
        .await;

    // By the layout in memory the seat is there; there is no such row any more.
    let gone = rig.hold(schedule, &[7]);
    assert_eq!(
        rig.ask(gone).await,
        Outcome::Refused(Refusal::UnknownSeat),
        "it has looked again"
    );
    let old = rig.hold_by_layout(schedule, &[1], 0);
    let changed = Outcome::Refused(Refusal::LayoutChanged);
    assert_eq!(rig.ask(old.clone()).await, changed);
    // The same command again, by the seats as they are.
    let mut new = rig.hold_by_layout(schedule, &[1], 1);
    new.id = old.id;
    match rig.ask(new).await {
        Outcome::Held(hold) => assert_eq!(hold.total, Money::won(7000)),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        number(&mut rig, "SELECT count(*) AS n FROM dead_letter").await,
        0
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_means_the_new_layout_makes_its_owner_look() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(3, 60_000, 4).await;
    let worker = rig.worker().await;
    load(&mut rig, schedule).await;
    rig.sql(&format!("BEGIN; {} COMMIT", replacement(schedule)))
        .await;
    // By the layout in memory there is no such seat, and a refusal would never be noticed.
    let new = rig.hold_by_layout(schedule, &[5], 1);
    held(rig.ask(new).await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_waits_for_a_layout_that_is_being_replaced() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    let other = rig.schedule(10, 60_000, 4).await;
    let worker = rig.worker().await;
    load(&mut rig, schedule).await;
    let mut ingress = db::connect(rig.db.url()).await.expect("a connection");
    let begin = format!("BEGIN; {}", replacement(schedule));
    ingress.batch_execute(&begin).await.expect(&begin);

    // Seat 1 is there in both layouts; it is not the same seat.
    let old = rig.hold_by_layout(schedule, &[1], 0);
    let message = rig.send(vec![old]).await;
    let wait = async {
        let sql = "SELECT count(*) AS n FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while number(&mut rig, sql).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.expect("the owner waits for the row");
    ingress.batch_execute("COMMIT").await.expect("committed");

    let changed = Outcome::Refused(Refusal::LayoutChanged);
    assert_eq!(rig.outcomes(message).await, [changed]);
    let new = rig.hold_by_layout(schedule, &[1], 1);
    held(rig.ask(new).await);
    // Others are as they were.
    let elsewhere = rig.hold_by_layout(other, &[1], 0);
    held(rig.ask(elsewhere).await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_stored_and_told_and_the_next_owner_goes_by_it() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    let other = rig.schedule(10, 60_000, 4).await;
    let worker = rig.worker().await;
    let admin = UserId(Uuid::now_v7());
    let change = PolicyChange {
        state: Some(SaleState::Paused),
        hold_ms: Some(1234),
        seats_per_user: Some(2),
        ..PolicyChange::default()
    };
    let command = rig.command(
        admin,
        Kind::Policy {
            schedule_id: schedule,
            change,
        },
    );
    // Held before it, refused after it, in one batch.
    let (before, after) = (rig.hold(schedule, &[0]), rig.hold(schedule, &[1]));
    let message = rig.send(vec![before, command, after]).await;
    let outcomes = rig.outcomes(message).await;
    let [Outcome::Held(_), Outcome::Policy(policy), refused] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    assert_eq!(refused, &Outcome::Refused(Refusal::SaleNotOpen));
    assert_eq!((policy.hold_ms, policy.seats_per_user), (1234, 2));
    let rows = "SELECT count(*) AS n FROM sale WHERE state = 'PAUSED' AND hold_ms = 1234 \
                AND seats_per_user = 2 AND map_version = 1";
    assert_eq!(number(&mut rig, rows).await, 1, "of one schedule only");
    assert!(matches!(
        &facts(&mut rig, schedule).await[..],
        [Fact::Held { .. }, Fact::Policy { user_id, .. }] if *user_id == admin
    ));

    worker.stop().await;
    let worker = rig.worker().await;
    let refused = rig.hold(schedule, &[1]);
    let not_open = Outcome::Refused(Refusal::SaleNotOpen);
    assert_eq!(rig.ask(refused).await, not_open);
    let elsewhere = rig.hold(other, &[1]);
    held(rig.ask(elsewhere).await);
    // What contradicts itself is refused, and stops nothing.
    let opens = PolicyChange {
        booking_opens_at: Some(rig.clock.now().plus_ms(100 * 365 * 24 * 3_600_000)),
        ..PolicyChange::default()
    };
    let nonsense = rig.command(
        admin,
        Kind::Policy {
            schedule_id: schedule,
            change: opens,
        },
    );
    let invalid = Outcome::Refused(Refusal::PolicyInvalid);
    assert_eq!(rig.ask(nonsense).await, invalid);
    worker.stop().await;
}

async fn facts(rig: &mut Rig, schedule: ScheduleId) -> Vec<Fact> {
    use diesel::sql_types::Binary;
    use diesel_async::RunQueryDsl;
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = Binary)]
        payload: Vec<u8>,
    }
    let sql = format!("SELECT payload FROM outbox WHERE aggregate_id = '{schedule}' ORDER BY seq");
    let rows: Vec<Row> = diesel::sql_query(sql)
        .load(&mut rig.conn)
        .await
        .expect("facts");
    let facts = rows
        .iter()
        .map(|row| decode::<Facts>(&row.payload).expect("facts"));
    facts.flat_map(|facts| facts.facts).collect()
}
