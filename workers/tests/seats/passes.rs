//! Entry passes on real rows: what the owner of seats writes where a date has a waiting room, and what
//! the next owner knows of it.

use crate::payments::tell;
use crate::rig::Rig;
use crate::{held, number};
use diesel::sql_types::Bytea;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use onsale_schema::admission::{self, HoldState, Pass, Ticketed};
use onsale_schema::message::{Command, decode};
use onsale_schema::seats::{Kind, Outcome, Refusal};
use onsale_schema::{
    ArrivalNo, Generation, NoticeId, ReservationId, ScheduleId, TicketId, Timestamp, UserId,
};
use uuid::Uuid;

/// Somebody who was let in, whose pass is good for two holds.
async fn admit(rig: &mut Rig, schedule_id: ScheduleId, no: u32) -> (UserId, Pass) {
    let (user_id, ticket_id) = (UserId(Uuid::now_v7()), TicketId(Uuid::now_v7()));
    rig.sql(&format!(
        "INSERT INTO ticket (ticket_id, schedule_id, arrival_no, user_id, fingerprint, status,
                             joined_at, admission_no, admitted_at, place, active_before,
                             was_passed, pass_until)
         VALUES ('{ticket_id}', '{schedule_id}', {no}, '{user_id}', '{ticket_id}', 'ADMITTED',
                 now(), {no}, now(), {no}, 0, false, now() + interval '1 min')"
    ))
    .await;
    let pass = Pass {
        ticket: Ticketed {
            user_id,
            schedule_id,
            ticket_id,
            arrival_no: ArrivalNo(no),
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        },
        expires_at: rig.clock.now().plus_ms(60_000),
        holds_max: 2,
    };
    (user_id, pass)
}

fn with(rig: &Rig, user: UserId, seat: i32, shown: Option<Pass>, at: ScheduleId) -> Command<Kind> {
    let mut command = rig.hold_by(user, at, &[seat]);
    if let Kind::Hold { pass, .. } = &mut command.kind {
        *pass = shown;
    }
    command
}

async fn turn(rig: &mut Rig, schedule_id: ScheduleId, pass_required: bool, version: i64) {
    tell(rig, |notice_id| Kind::Room {
        notice_id,
        schedule_id,
        pass_required,
        version,
    })
    .await;
}

/// What the owner of the room is told of holds, each notice by itself.
async fn told(rig: &mut Rig) -> Vec<Vec<(u32, ReservationId, HoldState)>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bytea)]
        payload: Vec<u8>,
    }
    let sql = "SELECT payload FROM notice WHERE lane = 'admission' ORDER BY created_at";
    let rows: Vec<Row> = sql_query(sql).load(&mut rig.conn).await.expect(sql);
    let notices = rows.iter().filter_map(|row| {
        let command: Command<admission::Kind> = decode(&row.payload).expect("a command");
        let changes = match command.kind {
            admission::Kind::Holds { changes, .. } => changes,
            // That a room was turned on.
            admission::Kind::Sale { .. } => return None,
            other => panic!("{other:?}"),
        };
        let changes = changes.iter();
        let told = changes.map(|hold| (hold.arrival_no.0, hold.reservation_id, hold.state));
        Some(told.collect())
    });
    notices.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_takes_a_good_pass_and_the_next_owner_knows_how_many_were_made() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(20, 60_000, 10).await;
    let worker = rig.worker().await;
    turn(&mut rig, schedule, true, 3).await;
    let (buyer, pass) = admit(&mut rig, schedule, 0).await;
    let (other, others) = admit(&mut rig, schedule, 1).await;
    let old = Pass {
        expires_at: Timestamp::from_micros(rig.clock.now().micros() - 1),
        ..pass
    };
    for (shown, expected) in [
        (None, Refusal::PassRequired),
        (Some(others), Refusal::PassInvalid),
        (Some(old), Refusal::PassExpired),
    ] {
        let command = with(&rig, buyer, 1, shown, schedule);
        assert_eq!(rig.ask(command).await, Outcome::Refused(expected));
    }
    let first = with(&rig, buyer, 1, Some(pass), schedule);
    let id = held(rig.ask(first).await);
    let made = with(&rig, other, 2, Some(others), schedule);
    let others_id = held(rig.ask(made).await);
    let by_ticket = |id, pass: Pass| {
        format!(
            "SELECT count(*) AS n FROM reservation WHERE reservation_id = '{id}' \
             AND ticket_id = '{}'",
            pass.ticket.ticket_id
        )
    };
    assert_eq!(number(&mut rig, &by_ticket(id, pass)).await, 1);
    assert_eq!(number(&mut rig, &by_ticket(others_id, others)).await, 1);
    worker.stop().await;

    // One that ended a while ago is not loaded any more, but counts.
    rig.sql(&format!(
        "DELETE FROM seat_claim WHERE reservation_id = '{id}'; \
         UPDATE reservation SET status = 'RELEASED', held_at = held_at - interval '3 days', \
             expires_at = expires_at - interval '3 days', ended_at = now() - interval '2 days' \
         WHERE reservation_id = '{id}'"
    ))
    .await;
    let worker = rig.worker().await;
    let again = with(&rig, buyer, 1, Some(pass), schedule);
    let second = held(rig.ask(again.clone()).await);
    let third = with(&rig, buyer, 3, Some(pass), schedule);
    let used_up = Outcome::Refused(Refusal::PassUsedUp);
    assert_eq!(rig.ask(third).await, used_up);
    let release = rig.command(
        buyer,
        Kind::Release {
            reservation_id: second,
            schedule_id: schedule,
        },
    );
    rig.ask(release).await;
    let fourth = with(&rig, buyer, 3, Some(pass), schedule);
    assert_eq!(rig.ask(fourth).await, used_up);
    // A retry gets its answer, however old its pass is.
    let mut retry = again;
    if let Kind::Hold { pass, .. } = &mut retry.kind {
        *pass = Some(old);
    }
    assert_eq!(held(rig.ask(retry).await), second);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_gets_one_notice_of_a_batch() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(20, 60_000, 10).await;
    let worker = rig.worker().await;
    turn(&mut rig, schedule, true, 1).await;
    let mut buyers = Vec::new();
    for no in 0..3 {
        buyers.push(admit(&mut rig, schedule, no).await);
    }
    let holds = buyers.iter().zip(0..);
    let holds = holds.map(|((user, pass), seat)| with(&rig, *user, seat, Some(*pass), schedule));
    let message = rig.send(holds.collect()).await;
    let outcomes = rig.outcomes(message).await;
    let ids: Vec<ReservationId> = outcomes.into_iter().map(held).collect();
    let notices = told(&mut rig).await;
    let [batch] = notices.as_slice() else {
        panic!("{notices:?}");
    };
    let holds: Vec<(u32, ReservationId)> = batch.iter().map(|(no, id, _)| (*no, *id)).collect();
    assert_eq!(holds, [(0, ids[0]), (1, ids[1]), (2, ids[2])]);
    let lasts = |state: &HoldState| matches!(state, HoldState::Until(at) if *at > rig.clock.now());
    assert!(batch.iter().all(|(_, _, state)| lasts(state)), "{batch:?}");

    rig.sql(&format!(
        "UPDATE reservation SET status = 'PAID' WHERE reservation_id = '{}'",
        ids[1]
    ))
    .await;
    let paid = ids[1];
    tell(&mut rig, |notice_id| Kind::PaidAll {
        notice_id,
        reservation_ids: vec![paid],
        schedule_id: schedule,
    })
    .await;
    let release = rig.command(
        buyers[0].0,
        Kind::Release {
            reservation_id: ids[0],
            schedule_id: schedule,
        },
    );
    rig.ask(release).await;
    let notices = told(&mut rig).await;
    assert_eq!(notices[1], [(1, ids[1], HoldState::Paid)]);
    assert_eq!(notices[2], [(0, ids[0], HoldState::Over)]);
    assert_eq!(notices.len(), 3);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_stays_on_or_off_over_a_takeover_and_its_older_word_is_void() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(20, 60_000, 10).await;
    let mut worker = rig.worker().await;
    let since = "SELECT count(*) AS n FROM sale WHERE pass_required AND room_version = 5 \
                 AND pass_required_since <= clock_timestamp()";
    let required = Outcome::Refused(Refusal::PassRequired);
    turn(&mut rig, schedule, true, 5).await;
    for (pass_required, version) in [(true, 5), (false, 4), (true, 3)] {
        turn(&mut rig, schedule, pass_required, version).await;
        assert_eq!(number(&mut rig, since).await, 1);
        let hold = rig.hold(schedule, &[1]);
        assert_eq!(rig.ask(hold).await, required);
        worker.stop().await;
        worker = rig.worker().await;
    }
    turn(&mut rig, schedule, false, 6).await;
    let hold = rig.hold(schedule, &[1]);
    held(rig.ask(hold).await);
    worker.stop().await;
    let worker = rig.worker().await;
    let hold = rig.hold(schedule, &[2]);
    held(rig.ask(hold).await);
    assert_eq!(
        told(&mut rig).await.len(),
        0,
        "of these the room knows nothing"
    );
    worker.stop().await;
}

/// The streams are not set back with Postgres. What a room said after the state that was restored comes
/// again, but no notice of it is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_room_said_before_a_restore_of_postgres_is_void() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule(20, 60_000, 10).await;
    let worker = rig.worker().await;
    turn(&mut rig, schedule_id, true, 3).await;
    let (buyer, pass) = admit(&mut rig, schedule_id, 0).await;
    let notice_id = || NoticeId(Uuid::now_v7());
    let off = Kind::Room {
        notice_id: notice_id(),
        schedule_id,
        pass_required: false,
        version: 9,
    };
    let over = Kind::PassesOver {
        notice_id: notice_id(),
        schedule_id,
        tickets: vec![pass.ticket.arrival_no],
    };
    // In a batch with what it would change.
    let commands = vec![
        rig.command(UserId(Uuid::nil()), off),
        rig.command(UserId(Uuid::nil()), over),
        with(&rig, buyer, 1, None, schedule_id),
        with(&rig, buyer, 1, Some(pass), schedule_id),
    ];
    let message = rig.send(commands).await;
    let outcomes = rig.outcomes(message).await;
    assert_eq!(outcomes[..2], [Outcome::Applied, Outcome::Applied]);
    assert_eq!(outcomes[2], Outcome::Refused(Refusal::PassRequired));
    held(outcomes[3].clone());
    // The room goes on from its older version.
    turn(&mut rig, schedule_id, false, 5).await;
    let hold = rig.hold(schedule_id, &[2]);
    held(rig.ask(hold).await);
    worker.stop().await;
}

/// Only a command that no ingress of ours has made could say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_by_a_ticket_that_is_not_there_is_put_aside_and_hinders_nobody() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(20, 60_000, 10).await;
    let worker = rig.worker().await;
    turn(&mut rig, schedule, true, 1).await;
    let (buyer, pass) = admit(&mut rig, schedule, 0).await;
    let made_up = Pass {
        ticket: Ticketed {
            ticket_id: TicketId(Uuid::now_v7()),
            ..pass.ticket
        },
        ..pass
    };
    let holds = vec![
        with(&rig, buyer, 1, Some(made_up), schedule),
        with(&rig, buyer, 2, Some(pass), schedule),
    ];
    let message = rig.send(holds).await;
    let outcomes = rig.outcomes(message).await;
    assert_eq!(outcomes[0], Outcome::DeadLettered);
    held(outcomes[1].clone());
    assert_eq!(
        number(&mut rig, "SELECT count(*) AS n FROM dead_letter").await,
        1
    );
    worker.stop().await;
}
