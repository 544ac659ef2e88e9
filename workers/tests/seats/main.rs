//! The partition runtime with the seats lane, on a real nats-server and a real Postgres.

mod blocks;
mod catalogue;
mod clocks;
mod loads;
mod passes;
mod paused;
mod payments;
mod rig;

use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;
use onsale_schema::seats::{Kind, Outcome, Places, PlacesLeft, Refusal};
use onsale_schema::{ReservationId, UserId};
use rig::Rig;
use uuid::Uuid;

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

async fn number(rig: &mut Rig, sql: &str) -> i64 {
    let row: Number = sql_query(sql).get_result(&mut rig.conn).await.expect(sql);
    row.n
}

fn held(outcome: Outcome) -> ReservationId {
    match outcome {
        Outcome::Held(hold) => hold.reservation_id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_is_held_once_and_free_again_after_its_release() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    let worker = rig.worker().await;
    let buyer = UserId(Uuid::now_v7());

    let first = rig.hold_by(buyer, schedule, &[1, 2]);
    let reservation_id = held(rig.ask(first.clone()).await);
    // The same command again gets the same answer, and another's gets none of its seats.
    assert_eq!(held(rig.ask(first).await), reservation_id);
    let second = rig.hold(schedule, &[2, 3]);
    let refused = rig.ask(second).await;
    assert!(
        matches!(&refused, Outcome::Refused(Refusal::SeatUnavailable { seats, .. })
        if seats.len() == 1 && seats[0].0 == 2),
        "{refused:?}"
    );

    let release = rig.command(
        buyer,
        Kind::Release {
            reservation_id,
            schedule_id: schedule,
        },
    );
    assert_eq!(rig.ask(release).await, Outcome::Released { reservation_id });
    let third = rig.hold(schedule, &[2, 3]);
    held(rig.ask(third).await);
    worker.stop().await;
    assert_eq!(
        number(&mut rig, "SELECT count(*) AS n FROM seat_claim").await,
        2
    );
    assert_eq!(
        number(
            &mut rig,
            "SELECT count(*) AS n FROM partition WHERE owner IS NOT NULL"
        )
        .await,
        0,
        "a worker that stops gives everything back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_owner_gives_the_places_that_are_left() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(6, 60_000, 4).await;
    // Four places behind two seats, the last number first.
    rig.sql(&format!(
        "UPDATE seat SET section = 'F', row_name = '', seat_number = 6 - seat_no \
         WHERE schedule_id = '{schedule}' AND seat_no >= 2"
    ))
    .await;
    let mut seats_of = Vec::new();
    for (named, count) in [(&[0][..], 2), (&[], 1), (&[], 2)] {
        let worker = rig.worker().await;
        let mut hold = rig.hold(schedule, named);
        if let Kind::Hold { places, .. } = &mut hold.kind {
            let section = "F".to_owned();
            places.push(Places { section, count });
        }
        let outcome = rig.ask(hold.clone()).await;
        assert_eq!(rig.ask(hold).await, outcome);
        seats_of.push(match outcome {
            Outcome::Held(hold) => Ok(hold.seats.iter().map(|seat| seat.0).collect()),
            Outcome::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        });
        worker.stop().await;
    }
    let left = PlacesLeft {
        section: "F".to_owned(),
        available: 1,
    };
    let too_few = Refusal::SeatUnavailable {
        seats: vec![],
        places: vec![left],
    };
    assert_eq!(seats_of, [Ok(vec![0, 5, 4]), Ok(vec![3]), Err(too_few)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_queued_past_its_deadline_makes_no_ghost() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    let mut late = rig.hold(schedule, &[1]);
    late.deadline = rig.in_the_past();
    let queued = rig.send(vec![late]).await;
    let worker = rig.worker().await;
    assert_eq!(
        rig.outcomes(queued).await,
        [Outcome::Refused(Refusal::CommandExpired)]
    );
    let next = rig.hold(schedule, &[1]);
    held(rig.ask(next).await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undecodable_bytes_are_dead_lettered_and_the_partition_goes_on() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    let worker = rig.worker().await;
    rig.send_bytes(schedule, b"\xc1 no message".to_vec()).await;
    let next = rig.hold(schedule, &[1]);
    held(rig.ask(next).await);
    assert_eq!(
        number(&mut rig, "SELECT count(*) AS n FROM dead_letter").await,
        1
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_postgres_refuses_is_dead_lettered_alone() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    // A row of somebody else's with the id that one of the commands proposes.
    let stolen = ReservationId(Uuid::now_v7());
    rig.sql(&format!(
        "INSERT INTO reservation VALUES ('{stolen}', gen_random_uuid(), gen_random_uuid(), \
         gen_random_uuid(), gen_random_uuid(), '{{1}}', 1000, 4, 'HELD', now(), \
         now() + interval '1 hour')"
    ))
    .await;
    let worker = rig.worker().await;
    let poison = rig.command(
        UserId(Uuid::now_v7()),
        Kind::Hold {
            reservation_id: stolen,
            schedule_id: schedule,
            seats: vec![onsale_schema::SeatNo(5)],
            places: vec![],
            layout_no: None,
            pass: None,
        },
    );
    let (before, after) = (rig.hold(schedule, &[4]), rig.hold(schedule, &[5]));
    let message = rig.send(vec![before, poison, after]).await;
    let outcomes = rig.outcomes(message).await;
    assert!(matches!(outcomes[0], Outcome::Held(_)), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::DeadLettered);
    assert!(matches!(outcomes[2], Outcome::Held(_)), "{outcomes:?}");
    assert_eq!(
        number(&mut rig, "SELECT count(*) AS n FROM dead_letter").await,
        1
    );
    assert_eq!(
        number(&mut rig, "SELECT count(*) AS n FROM outcome").await,
        1
    );
    worker.stop().await;
}

/// Rows that contradict themselves, as no code of ours writes them: their schedule's commands are
/// dead-lettered, and the partition serves its other schedules.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_schedule_does_not_stop_its_partition() {
    let mut rig = Rig::new().await;
    let sound = rig.schedule(10, 60_000, 4).await;
    let (unreadable, impossible) = (
        rig.schedule(10, 60_000, 4).await,
        rig.schedule(10, 60_000, 4).await,
    );
    rig.sql(&format!(
        "ALTER TABLE sale DROP CONSTRAINT sale_state_check, DROP CONSTRAINT sale_hold_ms_check;
         UPDATE sale SET state = 'ODD' WHERE schedule_id = '{unreadable}';
         UPDATE sale SET hold_ms = 0 WHERE schedule_id = '{impossible}';"
    ))
    .await;
    let worker = rig.worker().await;
    for (seat, broken) in [(1, unreadable), (2, impossible)] {
        let commands = vec![rig.hold(broken, &[1]), rig.hold(sound, &[seat])];
        let message = rig.send(commands).await;
        let outcomes = rig.outcomes(message).await;
        assert_eq!(outcomes[0], Outcome::DeadLettered);
        assert!(matches!(outcomes[1], Outcome::Held(_)), "{outcomes:?}");
    }

    // A decision that finds its own state broken.
    let buyer = UserId(Uuid::now_v7());
    let torn = rig.schedule(10, 60_000, 4).await;
    let hold = rig.hold_by(buyer, torn, &[1]);
    let reservation_id = held(rig.ask(hold).await);
    worker.stop().await;
    rig.sql(&format!(
        "DELETE FROM seat_claim WHERE schedule_id = '{torn}'"
    ))
    .await;
    let worker = rig.worker().await;
    let release = Kind::Release {
        reservation_id,
        schedule_id: torn,
    };
    let commands = vec![rig.command(buyer, release), rig.hold(torn, &[2])];
    let message = rig.send(commands).await;
    let outcomes = rig.outcomes(message).await;
    assert_eq!(outcomes[0], Outcome::DeadLettered);
    assert!(matches!(outcomes[1], Outcome::Held(_)), "{outcomes:?}");
    assert_eq!(
        number(&mut rig, "SELECT count(*) AS n FROM dead_letter").await,
        3
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_lapse_by_the_owners_tick() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 300, 4).await;
    let worker = rig.worker().await;
    let hold = rig.hold(schedule, &[1]);
    held(rig.ask(hold).await);
    let mut lapsed = 0;
    for _ in 0..200 {
        let sql = "SELECT count(*) AS n FROM reservation WHERE status = 'EXPIRED'";
        lapsed = number(&mut rig, sql).await;
        if lapsed == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert_eq!(lapsed, 1);
    assert_eq!(
        number(&mut rig, "SELECT count(*) AS n FROM seat_claim").await,
        0
    );
    worker.stop().await;
}

/// After an outage thousands may be due at once. They don't wait for a tick each time, as every choice
/// of seats would have to look through them.
#[tokio::test(flavor = "multi_thread")]
async fn however_many_holds_are_due_they_lapse_one_tick_after_the_other_without_a_pause() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(2001, 300_000, 4).await;
    rig.sql(&format!(
        "INSERT INTO reservation (reservation_id, schedule_id, user_id, command_id, fingerprint, \
             seat_nos, total, seat_limit, status, held_at, expires_at) \
         SELECT gen_random_uuid(), '{schedule}', gen_random_uuid(), gen_random_uuid(), \
             gen_random_uuid(), ARRAY[n], 1000, 4, 'HELD', now() - interval '1 hour', \
             now() - interval '30 minutes' \
         FROM generate_series(0, 1999) n; \
         INSERT INTO seat_claim SELECT schedule_id, seat_nos[1], reservation_id, 'H' \
         FROM reservation;"
    ))
    .await;
    let worker = rig.worker_with(&["--tick-ms", "5000"]).await;
    // Its owner looks at it from now on.
    let hold = rig.hold(schedule, &[2000]);
    held(rig.ask(hold).await);
    let lapsed = "SELECT count(*) AS n FROM reservation WHERE status = 'EXPIRED'";
    paused::wait_for(&mut rig, 2000, lapsed).await;
    // 500 at a time, all within less than the time between two ticks.
    let took = "SELECT (extract(epoch FROM max(ended_at) - min(ended_at)) * 1000)::bigint AS n \
                FROM reservation WHERE status = 'EXPIRED'";
    let took_ms = number(&mut rig, took).await;
    assert!((0..5000).contains(&took_ms), "{took_ms} ms");
    let versions = "SELECT map_version AS n FROM sale";
    assert!(number(&mut rig, versions).await >= 4);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_for_two_schedules_is_accepted_once() {
    let mut rig = Rig::new().await;
    let worker = rig.worker().await;
    let user = UserId(Uuid::now_v7());
    // Many pairs: some on one partition, some on two whose commits meet.
    for _ in 0..30 {
        let (a, b) = (
            rig.schedule(10, 60_000, 4).await,
            rig.schedule(10, 60_000, 4).await,
        );
        let (first, mut second) = (rig.hold_by(user, a, &[1]), rig.hold_by(user, b, &[1]));
        second.id = first.id;
        second.fingerprint = onsale_schema::message::Fingerprint(Uuid::now_v7());
        let (x, y) = (rig.send(vec![first]).await, rig.send(vec![second]).await);
        let (x, y) = (
            rig.outcomes(x).await.remove(0),
            rig.outcomes(y).await.remove(0),
        );
        let reused = Outcome::Refused(Refusal::KeyReused);
        match (&x, &y) {
            (Outcome::Held(_), other) | (other, Outcome::Held(_)) => assert_eq!(*other, reused),
            _ => panic!("{x:?} and {y:?}"),
        }
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_holds_are_decided_in_few_transactions() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(600, 60_000, 4).await;
    let worker = rig.worker().await;
    let warm = rig.hold(schedule, &[599]);
    held(rig.ask(warm).await);

    // The partitions' rows are locked: the commit of the first batch is held back.
    let mut blocker = onsale_platform::db::connect(rig.db.url())
        .await
        .expect("a connection");
    sql_query("BEGIN")
        .execute(&mut blocker)
        .await
        .expect("begin");
    let lock = sql_query("SELECT count(*) AS n FROM (SELECT 1 FROM partition FOR UPDATE) x");
    lock.get_result::<Number>(&mut blocker)
        .await
        .expect("locked");
    let before = commits(&mut rig).await;
    let holds = (0..500).map(|seat| vec![rig.hold(schedule, &[seat])]);
    let messages = join_all(holds.map(|hold| rig.send(hold))).await;
    sql_query("COMMIT")
        .execute(&mut blocker)
        .await
        .expect("commit");
    for message in messages {
        held(rig.outcomes(message).await.remove(0));
    }
    let sql = "SELECT count(DISTINCT commit_no) AS n FROM outcome WHERE commit_no > \
               (SELECT min(commit_no) FROM outcome)";
    let transactions = number(&mut rig, sql).await;
    assert!(transactions <= 3, "{transactions} transactions");
    // Beside them only heartbeats and this test's own statements commit.
    let all = commits(&mut rig).await - before;
    assert!(all < 100, "{all} commits for 500 holds");
    worker.stop().await;
}

async fn commits(rig: &mut Rig) -> i64 {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        xact_commit: i64,
    }
    sql_query("SELECT pg_stat_force_next_flush()::text")
        .execute(&mut rig.conn)
        .await
        .expect("ok");
    let row: Row = sql_query("SELECT xact_commit FROM pg_stat_database WHERE datname = $1")
        .bind::<Text, _>(rig.db.name())
        .get_result(&mut rig.conn)
        .await
        .expect("statistics");
    row.xact_commit
}
