//! What follows for a payment through the gateway from what was learned of it.

use onsale_domain::settlement::order::{
    ALREADY_PAID, GATEWAY_UNAVAILABLE, HOLD_EXPIRED, Learned, MARGIN_MS, Order, PAYMENT_DECLINED,
    Purpose, Reserved, SALE_CLOSED, Step, World, last_look, pause_ms, step,
};
use onsale_schema::message::Fingerprint;
use onsale_schema::status::{FailCode, OrderStatus, ReservationStatus};
use onsale_schema::{
    CommandId, Money, PaymentOrderId, ReservationId, ScheduleId, Timestamp, UserId,
};
use uuid::Uuid;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);
const REHELD: ReservationId = ReservationId(Uuid::from_u128(9));
const HELD: ReservationId = ReservationId(Uuid::from_u128(2));

const LEARNED: [Learned; 7] = [
    Learned::Nothing,
    Learned::Captured,
    Learned::Declined,
    Learned::NotCaptured,
    Learned::Unknown,
    Learned::Unavailable,
    Learned::Odd,
];

fn order(status: OrderStatus) -> Order {
    Order {
        order_id: PaymentOrderId(Uuid::from_u128(1)),
        purpose: Purpose::Reservation(Reserved {
            reservation_id: HELD,
            schedule_id: ScheduleId(Uuid::from_u128(3)),
        }),
        user_id: UserId(Uuid::from_u128(4)),
        command_id: CommandId(Uuid::from_u128(5)),
        fingerprint: Fingerprint(Uuid::nil()),
        amount: Money::won(100),
        status,
        step_no: 1,
        attempts: 1,
        payment_key: Some("key".to_owned()),
        confirmed_by: Some((CommandId(Uuid::from_u128(6)), Fingerprint(Uuid::nil()))),
        notice_id: None,
        rehold_id: (status == OrderStatus::Reholding).then_some(REHELD),
        fail_code: None,
        captured: Money::ZERO,
        created_at: NOW,
    }
}

fn held() -> World {
    World {
        reservation_id: HELD,
        reservation: ReservationStatus::Held,
        expires_at: NOW.plus_ms(60_000),
        settles_at: NOW.plus_ms(70_000),
        is_secured: true,
        is_told: true,
        is_reheld: false,
        has_rival: false,
        show_cancelled: false,
    }
}

fn lapsed() -> World {
    World {
        expires_at: NOW,
        settles_at: NOW,
        ..held()
    }
}

#[test]
fn each_status_goes_on_as_the_table_says() {
    use Learned as L;
    use OrderStatus as S;
    let unheard = World {
        is_told: false,
        ..held()
    };
    let stolen = World {
        is_secured: false,
        ..held()
    };
    let late = World {
        settles_at: NOW.plus_ms(1),
        ..lapsed()
    };
    let short = World {
        expires_at: NOW.plus_ms(MARGIN_MS),
        ..held()
    };
    let paid = World {
        reservation: ReservationStatus::Paid,
        is_secured: false,
        ..held()
    };
    let rival = World {
        has_rival: true,
        ..held()
    };
    let cancelled = World {
        show_cancelled: true,
        ..held()
    };
    let released = World {
        reservation: ReservationStatus::Released,
        ..lapsed()
    };
    let given_up = World {
        reservation: ReservationStatus::Cancelled,
        ..lapsed()
    };
    let reheld = World {
        is_reheld: true,
        ..lapsed()
    };
    for (status, world, learned, expected) in [
        (S::Securing, unheard, L::Nothing, Step::Wait),
        (S::Securing, held(), L::Nothing, Step::Capture),
        (S::Securing, stolen, L::Nothing, Step::Fail(HOLD_EXPIRED)),
        (S::Securing, short, L::Nothing, Step::Fail(HOLD_EXPIRED)),
        (S::Securing, paid, L::Nothing, Step::Fail(ALREADY_PAID)),
        (S::Capturing, held(), L::Captured, Step::Captured),
        (
            S::Capturing,
            held(),
            L::Declined,
            Step::Fail(PAYMENT_DECLINED),
        ),
        (S::Capturing, held(), L::Unknown, Step::Doubt),
        (S::Capturing, lapsed(), L::Unavailable, Step::Wait),
        (S::Unknown, held(), L::NotCaptured, Step::Wait),
        (S::Unknown, late, L::NotCaptured, Step::Wait),
        (S::Unknown, held(), L::Odd, Step::Puzzle),
        (S::Failed, lapsed(), L::Odd, Step::Puzzle),
        (S::Ready, held(), L::Odd, Step::Puzzle),
        (
            S::Unknown,
            lapsed(),
            L::NotCaptured,
            Step::Fail(GATEWAY_UNAVAILABLE),
        ),
        (S::Unknown, lapsed(), L::Unknown, Step::Doubt),
        (S::Unknown, lapsed(), L::Captured, Step::Captured),
        (S::Captured, held(), L::Nothing, Step::Sell(HELD)),
        (S::Captured, lapsed(), L::Nothing, Step::Rehold),
        (
            S::Captured,
            released,
            L::Nothing,
            Step::Refund(HOLD_EXPIRED),
        ),
        (
            S::Captured,
            given_up,
            L::Nothing,
            Step::Refund(HOLD_EXPIRED),
        ),
        (S::Captured, rival, L::Nothing, Step::Refund(ALREADY_PAID)),
        (S::Captured, paid, L::Nothing, Step::Refund(ALREADY_PAID)),
        (
            S::Captured,
            cancelled,
            L::Nothing,
            Step::Refund(SALE_CLOSED),
        ),
        (S::Securing, cancelled, L::Nothing, Step::Fail(SALE_CLOSED)),
        (S::Reholding, unheard, L::Nothing, Step::Wait),
        (S::Reholding, reheld, L::Nothing, Step::Sell(REHELD)),
        (
            S::Reholding,
            lapsed(),
            L::Nothing,
            Step::Refund(HOLD_EXPIRED),
        ),
        (S::Ready, held(), L::NotCaptured, Step::Rest),
        (S::Failed, held(), L::Captured, Step::Captured),
        // The gateway has told of what was captured and sold, or given back.
        (S::Paid, paid, L::Captured, Step::Rest),
        (S::Paid, paid, L::Odd, Step::Puzzle),
        (S::Paid, paid, L::Unavailable, Step::Wait),
        (S::Paid, paid, L::Nothing, Step::Rest),
        (S::Refunding, lapsed(), L::Odd, Step::Puzzle),
        (S::Refunded, lapsed(), L::Odd, Step::Puzzle),
        (S::Refunded, lapsed(), L::Captured, Step::Rest),
    ] {
        let made = step(&order(status), &world, learned, NOW);
        assert_eq!(made, expected, "{status:?} {world:?} {learned:?}");
    }
}

#[test]
fn nothing_fails_that_may_be_captured_and_nothing_is_sold_that_is_not() {
    for status in OrderStatus::ALL {
        for reservation in ReservationStatus::ALL {
            for learned in LEARNED {
                for bits in 0..128 {
                    let bit = |n: u32| bits & (1 << n) != 0;
                    let world = World {
                        reservation_id: HELD,
                        reservation,
                        expires_at: NOW.plus_ms(if bit(0) { 60_000 } else { 0 }),
                        settles_at: NOW.plus_ms(if bit(5) { 70_000 } else { 0 }),
                        is_secured: bit(1),
                        is_told: bit(2),
                        is_reheld: bit(3),
                        has_rival: bit(4),
                        show_cancelled: bit(6),
                    };
                    check(status, &world, learned);
                }
            }
        }
    }
}

fn check(status: OrderStatus, world: &World, learned: Learned) {
    let made = step(&order(status), world, learned, NOW);
    let case = format!("{status:?} {world:?} {learned:?} {made:?}");
    let is_asked = matches!(status, OrderStatus::Capturing | OrderStatus::Unknown);
    let is_looked_up = matches!(status, OrderStatus::Ready | OrderStatus::Failed);
    let is_taken = matches!(status, OrderStatus::Captured | OrderStatus::Reholding);
    let is_held = world.reservation == ReservationStatus::Held && world.expires_at > NOW;
    match made {
        Step::Fail(_) => {
            let is_certain = match learned {
                Learned::Declined => true,
                Learned::NotCaptured => world.settles_at <= NOW,
                Learned::Nothing
                | Learned::Captured
                | Learned::Odd
                | Learned::Unknown
                | Learned::Unavailable => false,
            };
            assert!(
                status == OrderStatus::Securing || is_asked && is_certain,
                "{case}"
            );
        }
        Step::Capture => {
            assert_eq!(status, OrderStatus::Securing, "{case}");
            assert!(
                is_held && world.is_secured && !world.show_cancelled,
                "{case}"
            );
        }
        Step::Captured => assert_eq!(learned, Learned::Captured, "{case}"),
        // What nobody else has paid, is held, or is held again by its owner.
        Step::Sell(HELD) => {
            assert_eq!(status, OrderStatus::Captured, "{case}");
            assert!(
                is_held && !world.has_rival && !world.show_cancelled,
                "{case}"
            );
        }
        Step::Sell(reservation_id) => {
            assert_eq!(
                (status, reservation_id),
                (OrderStatus::Reholding, REHELD),
                "{case}"
            );
            assert!(world.is_told && world.is_reheld, "{case}");
        }
        // Who has given the seats back, or has them, gets none for money that came late.
        Step::Rehold => {
            assert_eq!(status, OrderStatus::Captured, "{case}");
            let lapsed = match world.reservation {
                ReservationStatus::Held => world.expires_at <= NOW,
                ReservationStatus::Expired => true,
                ReservationStatus::Paid
                | ReservationStatus::Released
                | ReservationStatus::Cancelled => false,
            };
            assert!(
                lapsed && !world.has_rival && !world.show_cancelled,
                "{case}"
            );
        }
        Step::Refund(_) => {
            let is_good = is_held && !world.has_rival && !world.show_cancelled;
            let is_had = status == OrderStatus::Reholding && world.is_reheld;
            assert!(is_taken && !is_had, "{case}");
            assert!(status == OrderStatus::Reholding || !is_good, "{case}");
        }
        Step::Doubt => assert!(is_asked, "{case}"),
        Step::Puzzle => {
            assert_eq!(learned, Learned::Odd, "{case}");
            assert!(!is_taken && status != OrderStatus::Securing, "{case}");
        }
        // What was captured is never left as it is: only the owner's answer is waited for.
        Step::Wait => {
            let waits = status == OrderStatus::Reholding && !world.is_told;
            assert!(!is_taken || waits, "{case}");
        }
        Step::Rest => {
            let is_done = matches!(
                status,
                OrderStatus::Paid | OrderStatus::Refunding | OrderStatus::Refunded
            );
            let is_news = learned == Learned::Captured && !is_done
                || (is_looked_up || is_done) && learned == Learned::Odd;
            assert!(!is_taken && !is_asked && !is_news, "{case}");
        }
    }
}

#[test]
fn what_failed_without_a_word_of_the_gateway_is_looked_up_once_more() {
    for code in FailCode::ALL {
        let look = last_look(code.as_str(), NOW);
        let is_declined = code == FailCode::PaymentDeclined;
        assert_eq!(look.is_none(), is_declined, "{code:?}");
        assert!(look.is_none_or(|at| at > NOW), "{code:?}");
    }
}

#[test]
fn pauses_are_bounded() {
    for attempts in [-1, 0, 1, 5, 10, 1000, i32::MAX] {
        for roll in [-1.0, 0.0, 0.5, 1.0, 2.0] {
            let pause = pause_ms(attempts, roll);
            assert!((50..=10_000).contains(&pause), "{attempts} {roll}: {pause}");
        }
    }
}
