//! Between a decision and its owner's taking note of it, tables may differ for a moment.

use diesel_async::SimpleAsyncConnection;
use onsale_schema::message::encode;
use onsale_schema::seats::Kind;
use onsale_schema::{CommandId, NoticeId, ReservationId, SeatNo, Timestamp};
use onsale_testkit::TestDb;
use onsale_workers::outbox::system::command;
use uuid::Uuid;

use crate::rig::{SCHEDULE, healthy, report};

/// Notices are found by the names of their kinds.
#[test]
fn a_notice_says_its_kind_by_its_name() {
    let (notice_id, schedule_id) = (NoticeId(Uuid::nil()), SCHEDULE);
    let room = Kind::Room {
        notice_id,
        schedule_id,
        pass_required: true,
        version: 1,
    };
    let passes_over = Kind::PassesOver {
        notice_id,
        schedule_id,
        tickets: Vec::new(),
    };
    for (kind, expected) in [
        (room, ["Room"].as_slice()),
        (passes_over, ["PassesOver"].as_slice()),
    ] {
        let payload = encode(&command(CommandId(notice_id.0), kind));
        let has = |name: &&str| payload.windows(name.len()).any(|it| it == name.as_bytes());
        let found: Vec<&str> = ["Room", "PassesOver"].into_iter().filter(has).collect();
        assert_eq!(found, expected);
    }
}

/// Between a payment and its owner's taking note of it, the map may still say H.
#[tokio::test(flavor = "multi_thread")]
async fn a_paid_seat_may_look_held_while_its_owner_is_being_told() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    let notice = encode(&Kind::Paid {
        notice_id: NoticeId(Uuid::from_u128(9)),
        reservation_id: ReservationId(Uuid::from_u128(1001)),
        schedule_id: SCHEDULE,
    });
    let payload: String = notice.iter().map(|byte| format!("{byte:02x}")).collect();
    conn.batch_execute(&format!(
        "INSERT INTO notice (notice_id, lane, schedule_id, payload)
         VALUES (id(9), 'seats', id(16), decode('{payload}', 'hex'));
         UPDATE seat_claim SET state = 'H' WHERE state = 'S';
         INSERT INTO seat_claim VALUES (id(16), 5, id(1010), 'S');
         SELECT reserve(1010, 1, '{{5}}', 'CANCELLED', 10, 20, 30);
         SELECT cancel(922, 1010, '{{5}}', 30);
         INSERT INTO payment VALUES (id(403), id(1010), id(1), id(503), id(0), 'POINTS', 0, 'PAID',
             NULL, NULL, at(15));
         UPDATE reservation SET total = 0 WHERE reservation_id = id(1010)"
    ))
    .await
    .unwrap();
    let cancelled_without_notice = report(&url).await;
    assert_eq!(cancelled_without_notice.violated(), ["S3"]);
    assert_eq!(
        cancelled_without_notice.checks[2].violations, 1,
        "{cancelled_without_notice}"
    );
    conn.batch_execute("DELETE FROM seat_claim WHERE seat_no = 5")
        .await
        .unwrap();
    assert!(report(&url).await.ok());
    conn.batch_execute("UPDATE notice SET done_at = now()")
        .await
        .unwrap();
    assert_eq!(report(&url).await.violated(), ["S3"]);
}

/// Between a cancellation and its owner's taking note of it, the seats may still be claimed.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_seat_may_be_claimed_while_its_owner_is_being_told() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    let notice = encode(&Kind::Cancelled {
        notice_id: NoticeId(Uuid::from_u128(9)),
        reservation_id: ReservationId(Uuid::from_u128(0x1010)),
        schedule_id: SCHEDULE,
        seats: vec![SeatNo(5)],
        at: Timestamp::from_micros(1_767_225_630_000_000),
    });
    let payload: String = notice.iter().map(|byte| format!("{byte:02x}")).collect();
    conn.batch_execute(&format!(
        "SELECT reserve(4112, 1, '{{5,6}}', 'PAID', 10, 310, NULL);
         SELECT pay_nothing(404, 4112, 1, 20);
         SELECT cancel(921, 4112, '{{5}}', 30);
         UPDATE reservation SET cancelled_seat_nos = '{{5}}' WHERE reservation_id = id(4112);
         INSERT INTO notice (notice_id, lane, schedule_id, payload)
         VALUES (id(9), 'seats', id(16), decode('{payload}', 'hex'));"
    ))
    .await
    .unwrap();
    let told = report(&url).await;
    assert!(told.ok(), "{told}");
    // Then the other one, too.
    conn.batch_execute(
        "SELECT cancel(922, 4112, '{6}', 31);
         UPDATE reservation SET status = 'CANCELLED', ended_at = at(31)
         WHERE reservation_id = id(4112)",
    )
    .await
    .unwrap();
    let told = report(&url).await;
    assert!(told.ok(), "{told}");
    conn.batch_execute("UPDATE notice SET done_at = now()")
        .await
        .unwrap();
    let heard = report(&url).await;
    assert_eq!(heard.violated(), ["S3"], "{heard}");
}
