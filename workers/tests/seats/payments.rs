//! What settlement tells the owner of seats, applied to real rows; its part is played by hand.

use crate::rig::Rig;
use crate::{held, number, paused};
use onsale_schema::message::{Command, encode};
use onsale_schema::seats::{Kind, Outcome, Refusal};
use onsale_schema::{
    Money, NoticeId, PaymentOrderId, ReservationId, ScheduleId, SeatNo, Timestamp, UserId,
};
use uuid::Uuid;

/// Writes a notice and sends it, as settlement and the outbox do.
pub async fn tell(rig: &mut Rig, kind: impl FnOnce(NoticeId) -> Kind) -> Command<Kind> {
    let notice = NoticeId(Uuid::now_v7());
    let kind = kind(notice);
    let schedule = kind.schedule_id();
    let payload: String = encode(&kind).iter().map(|b| format!("{b:02x}")).collect();
    rig.sql(&format!(
        "INSERT INTO notice (notice_id, lane, schedule_id, payload) \
         VALUES ('{notice}', 'seats', '{schedule}', decode('{payload}', 'hex'))"
    ))
    .await;
    let command = rig.command(UserId(Uuid::nil()), kind);
    assert_eq!(rig.ask(command.clone()).await, Outcome::Applied);
    let open = "SELECT count(*) AS n FROM notice WHERE lane = 'seats' AND done_at IS NULL";
    assert_eq!(number(rig, open).await, 0, "it is done");
    command
}

/// As it is shown.
fn whole_ms(at: Timestamp) -> Timestamp {
    Timestamp(at.0 / 1000 * 1000)
}

async fn claims(rig: &mut Rig, id: ReservationId, state: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) AS n FROM seat_claim WHERE reservation_id = '{id}' AND state = '{state}'"
    );
    number(rig, &sql).await
}

async fn is_so(rig: &mut Rig, id: ReservationId, condition: &str) -> bool {
    let sql = format!(
        "SELECT count(*) AS n FROM reservation WHERE reservation_id = '{id}' AND {condition}"
    );
    number(rig, &sql).await == 1
}

async fn hold(rig: &mut Rig, schedule: ScheduleId, seats: &[i32]) -> (UserId, ReservationId) {
    let buyer = UserId(Uuid::now_v7());
    let hold = rig.hold_by(buyer, schedule, seats);
    (buyer, held(rig.ask(hold).await))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_being_paid_lasts_and_is_not_given_back() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule(10, 60_000, 4).await;
    let worker = rig.worker().await;
    let (buyer, reservation_id) = hold(&mut rig, schedule_id, &[1, 2]).await;
    let order_id = PaymentOrderId(Uuid::now_v7());
    let until = whole_ms(rig.clock.now().plus_ms(100_000));
    let secure = |notice_id| Kind::Secure {
        notice_id,
        order_id,
        reservation_id,
        schedule_id,
        until,
    };
    let secured = tell(&mut rig, secure).await;
    let is_secured = format!("paying_order = '{order_id}' AND expires_at = '{until}'");
    assert!(is_so(&mut rig, reservation_id, &is_secured).await);
    let give_back = Kind::Release {
        reservation_id,
        schedule_id,
    };
    let release = rig.command(buyer, give_back.clone());
    let in_progress = Outcome::Refused(Refusal::PaymentInProgress);
    assert_eq!(rig.ask(release).await, in_progress);
    worker.stop().await;

    // The next owner knows it; another order's end is no reason to let go.
    let worker = rig.worker().await;
    let other = PaymentOrderId(Uuid::now_v7());
    let unsecure = |order_id| {
        move |notice_id| Kind::Unsecure {
            notice_id,
            order_id,
            reservation_id,
            schedule_id,
        }
    };
    tell(&mut rig, unsecure(other)).await;
    assert!(is_so(&mut rig, reservation_id, &is_secured).await);
    tell(&mut rig, unsecure(order_id)).await;
    let is_free = format!("paying_order IS NULL AND expires_at = '{until}'");
    assert!(is_so(&mut rig, reservation_id, &is_free).await);
    // What was decided comes once more: nothing comes of it.
    assert_eq!(rig.ask(secured).await, Outcome::Applied);
    assert!(is_so(&mut rig, reservation_id, &is_free).await);
    let release = rig.command(buyer, give_back);
    assert_eq!(rig.ask(release).await, Outcome::Released { reservation_id });
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_that_are_cancelled_are_on_sale_again_and_held_later() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule(10, 60_000, 4).await;
    let worker = rig.worker().await;
    let (_, reservation_id) = hold(&mut rig, schedule_id, &[1, 2, 3]).await;
    rig.sql("UPDATE reservation SET status = 'PAID'").await;
    tell(&mut rig, |notice_id| Kind::Paid {
        notice_id,
        reservation_id,
        schedule_id,
    })
    .await;
    assert_eq!(claims(&mut rig, reservation_id, "S").await, 3);

    // Settlement's clock may be ahead of the stream's.
    let at = whole_ms(rig.clock.now().plus_ms(3000));
    let cancel = |seats: &[i32], at: Timestamp| {
        let seats: Vec<SeatNo> = seats.iter().copied().map(SeatNo).collect();
        move |notice_id| Kind::Cancelled {
            notice_id,
            reservation_id,
            schedule_id,
            seats,
            at,
        }
    };
    let cancellation = |seat_nos: &str, at: Timestamp| {
        format!(
            "INSERT INTO cancellation VALUES (gen_random_uuid(), '{reservation_id}', \
             '{schedule_id}', gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), \
             '{seat_nos}', 0, 0, 0, '{at}');"
        )
    };
    let row = cancellation("{2}", at);
    rig.sql(&format!(
        "{row} UPDATE reservation SET cancelled_seat_nos = '{{2}}'"
    ))
    .await;
    let cancelled = tell(&mut rig, cancel(&[2], at)).await;
    assert_eq!(claims(&mut rig, reservation_id, "S").await, 2);
    worker.stop().await;

    let worker = rig.worker().await;
    let (_, next_id) = hold(&mut rig, schedule_id, &[2]).await;
    assert!(is_so(&mut rig, next_id, &format!("held_at >= '{at}'")).await);
    // Late, once more: it is somebody else's now.
    assert_eq!(rig.ask(cancelled).await, Outcome::Applied);
    assert_eq!(claims(&mut rig, next_id, "H").await, 1);

    let (row, later) = (cancellation("{1,3}", at.plus_ms(1)), at.plus_ms(1));
    rig.sql(&format!(
        "{row} UPDATE reservation SET status = 'CANCELLED', ended_at = '{later}' \
         WHERE reservation_id = '{reservation_id}'"
    ))
    .await;
    tell(&mut rig, cancel(&[1, 3], later)).await;
    assert_eq!(claims(&mut rig, reservation_id, "S").await, 0);
    hold(&mut rig, schedule_id, &[1, 3]).await;
    worker.stop().await;
}

/// The streams are not set back with Postgres. What settlement said after the state that was restored comes
/// again: nobody has paid by the rows, nor cancelled, nor has a payment ended.
#[tokio::test(flavor = "multi_thread")]
async fn what_settlement_said_before_a_restore_of_postgres_is_void() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule(10, 60_000, 4).await;
    let worker = rig.worker().await;
    let (buyer, reservation_id) = hold(&mut rig, schedule_id, &[1, 2]).await;
    let order_id = PaymentOrderId(Uuid::now_v7());
    let until = whole_ms(rig.clock.now().plus_ms(100_000));
    tell(&mut rig, |notice_id| Kind::Secure {
        notice_id,
        order_id,
        reservation_id,
        schedule_id,
        until,
    })
    .await;
    let notice_id = || NoticeId(Uuid::now_v7());
    let paid = || Kind::Paid {
        notice_id: notice_id(),
        reservation_id,
        schedule_id,
    };
    let paid_all = || Kind::PaidAll {
        notice_id: notice_id(),
        reservation_ids: vec![reservation_id],
        schedule_id,
    };
    let unsecure = Kind::Unsecure {
        notice_id: notice_id(),
        order_id,
        reservation_id,
        schedule_id,
    };
    let at = rig.clock.now();
    let cancelled = || Kind::Cancelled {
        notice_id: notice_id(),
        reservation_id,
        schedule_id,
        seats: vec![SeatNo(1)],
        at,
    };
    let again = vec![paid(), paid_all(), cancelled(), unsecure];
    let again = again.into_iter();
    let again: Vec<_> = again
        .map(|kind| rig.command(UserId(Uuid::nil()), kind))
        .collect();
    let message = rig.send(again).await;
    assert_eq!(rig.outcomes(message).await, vec![Outcome::Applied; 4]);
    assert_eq!(claims(&mut rig, reservation_id, "H").await, 2);
    let is_secured = format!("status = 'HELD' AND paying_order = '{order_id}'");
    assert!(is_so(&mut rig, reservation_id, &is_secured).await);
    let give_back = Kind::Release {
        reservation_id,
        schedule_id,
    };
    let release = rig.command(buyer, give_back);
    let in_progress = Outcome::Refused(Refusal::PaymentInProgress);
    assert_eq!(rig.ask(release).await, in_progress);

    // It is paid by the rows now, and somebody had cancelled it before the restore.
    rig.sql("UPDATE reservation SET status = 'PAID'").await;
    tell(&mut rig, |notice_id| Kind::Paid {
        notice_id,
        reservation_id,
        schedule_id,
    })
    .await;
    let again = rig.command(UserId(Uuid::nil()), cancelled());
    assert_eq!(rig.ask(again).await, Outcome::Applied);
    assert_eq!(claims(&mut rig, reservation_id, "S").await, 2);
    let taken = rig.hold(schedule_id, &[1]);
    let taken = rig.ask(taken).await;
    assert!(matches!(taken, Outcome::Refused(_)), "{taken:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_capture_is_given_the_seats_once_if_they_are_free() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule(10, 300, 4).await;
    let worker = rig.worker().await;
    let (buyer, lapsed_id) = hold(&mut rig, schedule_id, &[5, 4]).await;
    let expired = "SELECT count(*) AS n FROM reservation WHERE status = 'EXPIRED'";
    paused::wait_for(&mut rig, 1, expired).await;
    // It sells no more, which is nothing to who has paid.
    rig.sql("UPDATE sale SET state = 'CLOSED'").await;
    let rehold = |order_id: PaymentOrderId, reservation_id: ReservationId| {
        move |notice_id| Kind::Rehold {
            notice_id,
            order_id,
            reservation_id,
            lapsed_id,
            schedule_id,
            user_id: buyer,
            seats: vec![SeatNo(5), SeatNo(4)],
            total: Money::won(2000),
        }
    };
    let (order, sold) = (
        PaymentOrderId(Uuid::now_v7()),
        ReservationId(Uuid::now_v7()),
    );
    let told = tell(&mut rig, rehold(order, sold)).await;
    let is_sold = format!(
        "status = 'PAID' AND rehold_order = '{order}' AND user_id = '{buyer}' AND total = 2000 \
         AND seat_nos = '{{5,4}}' AND held_at = expires_at AND command_id = '{}'",
        told.id
    );
    assert!(is_so(&mut rig, sold, &is_sold).await);
    assert_eq!(claims(&mut rig, sold, "S").await, 2);
    assert_eq!(rig.ask(told.clone()).await, Outcome::Applied);

    // Another order has no luck, and has none either when the seats are free later.
    let (order, other) = (
        PaymentOrderId(Uuid::now_v7()),
        ReservationId(Uuid::now_v7()),
    );
    let in_vain = tell(&mut rig, rehold(order, other)).await;
    rig.sql(&format!(
        "INSERT INTO cancellation VALUES (gen_random_uuid(), '{sold}', '{schedule_id}', \
             gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), '{{4,5}}', 0, 0, 0, now()); \
         UPDATE reservation SET status = 'CANCELLED', ended_at = now() \
         WHERE reservation_id = '{sold}'"
    ))
    .await;
    let at = rig.clock.now();
    tell(&mut rig, |notice_id| Kind::Cancelled {
        notice_id,
        reservation_id: sold,
        schedule_id,
        seats: vec![SeatNo(4), SeatNo(5)],
        at,
    })
    .await;
    for again in [in_vain, told] {
        assert_eq!(rig.ask(again).await, Outcome::Applied);
    }
    let rows = "SELECT count(*) AS n FROM reservation";
    assert_eq!(number(&mut rig, rows).await, 2);
    let claimed = "SELECT count(*) AS n FROM seat_claim";
    assert_eq!(number(&mut rig, claimed).await, 0);
    worker.stop().await;
}
