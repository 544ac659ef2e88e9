//! Blocks in Postgres: stored with their claims in one commit, read by the next owner, and in the
//! way of nothing that they don't touch.

use crate::rig::Rig;
use crate::{held, number};
use onsale_schema::message::Command;
use onsale_schema::seats::{Kind, Outcome, Refusal};
use onsale_schema::{BlockId, CommandId, ScheduleId, SeatNo, UserId};
use uuid::Uuid;

fn seat_nos(seats: &[i32]) -> Vec<SeatNo> {
    seats.iter().copied().map(SeatNo).collect()
}

fn block(rig: &Rig, schedule_id: ScheduleId, seats: &[i32]) -> (BlockId, Command<Kind>) {
    let block_id = BlockId(Uuid::now_v7());
    let kind = Kind::Block {
        block_id,
        schedule_id,
        seats: seat_nos(seats),
        reason: "it's \"broken\", {\\}".to_owned(),
        layout_no: None,
    };
    (block_id, rig.command(UserId(Uuid::now_v7()), kind))
}

fn lift(
    rig: &Rig,
    schedule_id: ScheduleId,
    block_id: BlockId,
    seats: Option<&[i32]>,
) -> Command<Kind> {
    let kind = Kind::Unblock {
        block_id,
        schedule_id,
        seats: seats.map(seat_nos),
        reason: None,
    };
    rig.command(UserId(Uuid::now_v7()), kind)
}

fn unblocked(block_id: BlockId, command_id: CommandId) -> Outcome {
    Outcome::Unblocked {
        block_id,
        command_id,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_and_lifts_of_one_batch_are_rows_and_the_next_owner_knows_them() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    let other = rig.schedule(10, 60_000, 4).await;
    let worker = rig.worker().await;
    let (id, first) = block(&rig, schedule, &[3, 1, 2]);
    let part = lift(&rig, schedule, id, Some(&[2]));
    let (late_id, late) = block(&rig, schedule, &[5]);
    let mut late = late;
    late.deadline = rig.in_the_past();
    let (hold, taken) = (rig.hold(schedule, &[2]), rig.hold(schedule, &[3]));
    let batch = vec![first.clone(), part.clone(), hold, taken, late];
    let message = rig.send(batch).await;
    let outcomes = rig.outcomes(message).await;
    assert_eq!(outcomes[0], Outcome::Blocked { block_id: id });
    assert_eq!(outcomes[1], unblocked(id, part.id));
    held(outcomes[2].clone());
    let seats = seat_nos(&[3]);
    let unavailable = Outcome::Refused(Refusal::SeatUnavailable {
        seats,
        places: vec![],
    });
    assert_eq!(outcomes[3], unavailable);
    assert_eq!(outcomes[4], Outcome::Refused(Refusal::CommandExpired));

    let rows = "SELECT count(*) AS n FROM seat_block \
                WHERE seat_nos = CASE WHEN lifts THEN '{2}'::int[] ELSE '{3,1,2}' END \
                  AND (reason = 'it''s \"broken\", {\\}') IS DISTINCT FROM lifts";
    assert_eq!(number(&mut rig, rows).await, 2);
    let claims = format!(
        "SELECT count(*) AS n FROM seat_claim WHERE schedule_id = '{schedule}' \
         AND state = 'B' AND reservation_id IS NULL AND seat_no IN (1, 3)"
    );
    assert_eq!(number(&mut rig, &claims).await, 2);

    worker.stop().await;
    let worker = rig.worker().await;
    // The same commands again, also past their deadlines, and a key for something else.
    let mut again = first.clone();
    again.deadline = rig.in_the_past();
    assert_eq!(rig.ask(again).await, Outcome::Blocked { block_id: id });
    assert_eq!(rig.ask(part.clone()).await, unblocked(id, part.id));
    let mut reused = first;
    reused.fingerprint.0 = Uuid::max();
    let key_reused = Outcome::Refused(Refusal::KeyReused);
    assert_eq!(rig.ask(reused).await, key_reused);
    let never = lift(&rig, schedule, late_id, None);
    assert_eq!(rig.ask(never).await, Outcome::Refused(Refusal::NotFound));
    let elsewhere = lift(&rig, other, id, None);
    let not_found = Outcome::Refused(Refusal::NotFound);
    assert_eq!(rig.ask(elsewhere).await, not_found);

    let rest = lift(&rig, schedule, id, None);
    assert_eq!(rig.ask(rest.clone()).await, unblocked(id, rest.id));
    assert_eq!(number(&mut rig, &claims).await, 0);
    let hold = rig.hold(schedule, &[1, 3]);
    held(rig.ask(hold).await);
    assert_eq!(
        number(&mut rig, "SELECT count(*) AS n FROM dead_letter").await,
        0
    );
    worker.stop().await;
}

/// What one message has room for.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_seats_as_fit_into_a_message_are_blocked_at_once() {
    let mut rig = Rig::new().await;
    let count = i32::try_from(onsale_schema::seats::BLOCK_SEATS_MAX).expect("not so many");
    let seats = u32::try_from(count).expect("not negative");
    let schedule = rig.schedule(seats, 60_000, 4).await;
    let worker = rig.worker().await;
    let all: Vec<i32> = (0..count).collect();
    let (id, command) = block(&rig, schedule, &all);
    assert_eq!(rig.ask(command).await, Outcome::Blocked { block_id: id });
    let sql = "SELECT count(*) AS n FROM seat_claim WHERE state = 'B'";
    assert_eq!(number(&mut rig, sql).await, i64::from(count));
    let all = lift(&rig, schedule, id, None);
    assert_eq!(rig.ask(all.clone()).await, unblocked(id, all.id));
    assert_eq!(number(&mut rig, sql).await, 0);
    worker.stop().await;
}
