//! What a payment at the gateway says about the order that it is for.

use super::*;
use crate::gateway::{Refunded, Status};
use onsale_schema::message::Fingerprint;
use onsale_schema::{CommandId, PaymentOrderId, Timestamp, UserId};
use uuid::Uuid;

const AMOUNT: i64 = 10_000;

fn order(payment_key: Option<&str>) -> Order {
    Order {
        order_id: PaymentOrderId(Uuid::from_u128(1)),
        purpose: Purpose::Charge,
        user_id: UserId(Uuid::from_u128(2)),
        command_id: CommandId(Uuid::from_u128(3)),
        fingerprint: Fingerprint(Uuid::nil()),
        amount: Money::won(AMOUNT),
        status: OrderStatus::Unknown,
        step_no: 1,
        attempts: 1,
        payment_key: payment_key.map(str::to_owned),
        confirmed_by: None,
        notice_id: None,
        rehold_id: None,
        fail_code: None,
        captured: Money::ZERO,
        created_at: Timestamp(0),
    }
}

fn payment(of: u128, key: &str, status: Status, total: i64, balance: i64) -> Payment {
    Payment {
        payment_key: key.parse().unwrap(),
        order_id: OrderId::from(Uuid::from_u128(of)),
        status,
        total: Money::won(total),
        balance: Money::won(balance),
        cancels: Vec::new(),
        approved_at: None,
    }
}

#[test]
fn what_is_given_back_in_full_is_never_odd() {
    use Learned::{Captured, Declined, NotCaptured, Odd};
    use Status::{Aborted, Canceled, Done, InProgress, PartialCanceled};
    let (half, all, more) = (AMOUNT / 2, AMOUNT, AMOUNT * 2);
    for (of, key, status, total, balance, expected) in [
        (1, "ours", Done, all, all, Captured),
        (1, "ours", InProgress, all, 0, NotCaptured),
        (1, "ours", Aborted, all, 0, Declined),
        (1, "other", Aborted, all, 0, NotCaptured),
        // Not what was ordered, as long as money is there.
        (1, "ours", PartialCanceled, all, half, Odd),
        (1, "ours", Done, half, half, Odd),
        (1, "ours", Done, more, more, Odd),
        (1, "ours", PartialCanceled, more, all, Odd),
        (1, "other", Done, all, all, Odd),
        (1, "other", PartialCanceled, all, half, Odd),
        (1, "ours", Canceled, all, 0, Declined),
        (1, "ours", Canceled, half, 0, Declined),
        (1, "ours", Canceled, more, 0, Declined),
        (1, "other", Canceled, all, 0, NotCaptured),
        (1, "other", Canceled, half, 0, NotCaptured),
        // Another order's says nothing of this one.
        (9, "ours", Canceled, all, 0, Odd),
    ] {
        let payment = payment(of, key, status, total, balance);
        let told = judge(&order(Some("ours")), payment.clone());
        assert_eq!(told.learned, expected, "{payment:?}");
    }
    // Nobody has confirmed it: whatever the payment is called, it is the one.
    for total in [half, all, more] {
        let payment = payment(1, "any", Canceled, total, 0);
        assert_eq!(judge(&order(None), payment).learned, Declined, "{total}");
    }
}

#[test]
fn what_is_kept_of_a_payment_is_read_from_the_one_that_was_captured() {
    use Status::{Canceled, Done, InProgress, PartialCanceled};
    let (half, all, more) = (AMOUNT / 2, AMOUNT, AMOUNT * 2);
    let paid = Order {
        status: OrderStatus::Paid,
        captured: Money::won(AMOUNT),
        ..order(Some("ours"))
    };
    for (of, key, status, total, balance, given, is_sound) in [
        (1, "ours", Done, all, all, &[][..], true),
        (1, "ours", PartialCanceled, all, half, &[half], true),
        (1, "ours", Canceled, all, 0, &[half, half], true),
        // It says of itself what can't be.
        (1, "ours", Canceled, all, 0, &[half], false),
        (1, "ours", Done, all, all, &[half], false),
        (1, "ours", InProgress, all, all, &[], false),
        // Another one than was captured.
        (1, "ours", Done, more, more, &[], false),
        (1, "other", Done, all, all, &[], false),
        (9, "ours", Done, all, all, &[], false),
    ] {
        let mut payment = payment(of, key, status, total, balance);
        payment.cancels.extend(given.iter().map(|won| Refunded {
            transaction_key: "a-key".parse().unwrap(),
            refund_id: None,
            amount: Money::won(*won),
            at: Timestamp(0),
        }));
        let seen = kept::read(&paid, Some(&payment))
            .seen
            .expect("it was looked up");
        assert_eq!(seen.is_sound, is_sound, "{payment:?}");
        let amounts: Vec<Money> = seen.given.iter().map(|entry| entry.amount).collect();
        let given: Vec<Money> = given.iter().copied().map(Money::won).collect();
        assert_eq!(amounts, given);
    }
    let nothing = kept::read(&paid, None).seen.expect("it was looked up");
    assert!(!nothing.is_sound);
}
