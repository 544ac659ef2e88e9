//! What the gateway writes, read into what we know. Whatever is not as it should be is not read at
//! all: amounts are whole won, and no floats.

use super::super::{
    Movement, OrderId, Page, Payment, PaymentKey, Refunded, Status, Transaction, TransactionKey,
};
use onsale_schema::{Money, RefundId, Timestamp};
use serde::Deserialize;
use uuid::Uuid;

const CURRENCY: &str = "KRW";
/// The status of money that was given back.
const GIVEN: &str = "DONE";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PaymentWire {
    payment_key: String,
    order_id: String,
    status: StatusWire,
    currency: String,
    total_amount: i64,
    balance_amount: i64,
    approved_at: Option<Timestamp>,
    cancels: Option<Vec<CancelWire>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum StatusWire {
    Ready,
    InProgress,
    WaitingForDeposit,
    Done,
    Canceled,
    PartialCanceled,
    Aborted,
    Expired,
}

impl From<StatusWire> for Status {
    fn from(status: StatusWire) -> Self {
        match status {
            StatusWire::Ready => Self::Ready,
            StatusWire::InProgress => Self::InProgress,
            StatusWire::WaitingForDeposit => Self::WaitingForDeposit,
            StatusWire::Done => Self::Done,
            StatusWire::Canceled => Self::Canceled,
            StatusWire::PartialCanceled => Self::PartialCanceled,
            StatusWire::Aborted => Self::Aborted,
            StatusWire::Expired => Self::Expired,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CancelWire {
    transaction_key: String,
    cancel_amount: i64,
    canceled_at: Timestamp,
    cancel_reason: Option<String>,
    cancel_status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransactionWire {
    transaction_key: String,
    payment_key: String,
    order_id: String,
    status: StatusWire,
    currency: String,
    amount: i64,
    transaction_at: Timestamp,
}

/// A payment.
pub fn payment(body: &[u8]) -> Option<Payment> {
    let wire: PaymentWire = serde_json::from_slice(body).ok()?;
    let status = Status::from(wire.status);
    let total = money(&wire.currency, wire.total_amount)?;
    let balance = Money::won(wire.balance_amount);
    if balance < Money::ZERO || balance > total {
        return None;
    }
    let cancels = wire.cancels.unwrap_or_default().into_iter().map(|cancel| {
        // Of payments that are given back later there are other ones; we make none of that kind.
        if cancel.cancel_status.is_some_and(|status| status != GIVEN) {
            return None;
        }
        Some(Refunded {
            refund_id: cancel.cancel_reason.as_deref().and_then(named),
            transaction_key: cancel.transaction_key.parse::<TransactionKey>().ok()?,
            amount: money(CURRENCY, cancel.cancel_amount)?,
            at: cancel.canceled_at,
        })
    });
    Some(Payment {
        payment_key: wire.payment_key.parse::<PaymentKey>().ok()?,
        order_id: wire.order_id.parse::<OrderId>().ok()?,
        status,
        total,
        balance: if status.is_captured() {
            balance
        } else {
            Money::ZERO
        },
        cancels: cancels.collect::<Option<_>>()?,
        approved_at: wire.approved_at,
    })
}

/// A page of the book that was asked for with at most so many entries.
pub fn page(body: &[u8], asked: usize) -> Option<Page> {
    let wire: Vec<TransactionWire> = serde_json::from_slice(body).ok()?;
    let is_full = wire.len() >= asked;
    let transactions = wire
        .into_iter()
        .map(transaction)
        .collect::<Option<Vec<_>>>()?;
    let last = transactions.last().map(|last| last.transaction_key.clone());
    Some(Page {
        next: last.filter(|_| is_full),
        transactions,
    })
}

fn transaction(wire: TransactionWire) -> Option<Transaction> {
    let movement = match Status::from(wire.status) {
        Status::Done => Movement::Capture,
        Status::Canceled | Status::PartialCanceled => Movement::Refund,
        Status::Ready
        | Status::InProgress
        | Status::WaitingForDeposit
        | Status::Aborted
        | Status::Expired => return None,
    };
    Some(Transaction {
        transaction_key: wire.transaction_key.parse().ok()?,
        payment_key: wire.payment_key.parse().ok()?,
        order_id: wire.order_id.parse().ok()?,
        movement,
        amount: money(&wire.currency, wire.amount)?,
        at: wire.transaction_at,
    })
}

/// A reason that names a refund of ours. There is no other place for its name: what the gateway keeps
/// of a wish is amount, time and reason.
pub fn reason(why: &str, refund_id: RefundId) -> String {
    format!("{why} ({refund_id})")
}

/// The refund that a reason names.
fn named(reason: &str) -> Option<RefundId> {
    let (_, name) = reason.strip_suffix(')')?.rsplit_once('(')?;
    name.parse::<Uuid>().ok().map(RefundId)
}

fn money(currency: &str, won: i64) -> Option<Money> {
    (currency == CURRENCY && won > 0).then(|| Money::won(won))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYMENT: &str = r#"{"version":"2022-11-16","paymentKey":"5zJ4xY7m0kODnyRpQWGrN2xqGlNvLrKw",
        "type":"NORMAL","orderId":"a4CWyWY5m89PNh7xJwhk1","orderName":"A concert","mId":"tosspayments",
        "currency":"KRW","method":"카드","totalAmount":15000,"balanceAmount":5000,
        "status":"PARTIAL_CANCELED","requestedAt":"2022-06-08T15:40:09+09:00",
        "approvedAt":"2022-06-08T15:40:49+09:00","useEscrow":false,"cancels":[{"cancelReason":"x",
        "canceledAt":"2022-06-09T15:40:09+09:00","cancelAmount":10000,"transactionKey":"AB12",
        "cancelStatus":"DONE"}],"card":{"amount":15000}}"#;

    #[test]
    fn a_payment_is_read_whole_or_not() {
        let found = payment(PAYMENT.as_bytes()).unwrap();
        assert_eq!(
            (found.total, found.balance),
            (Money::won(15_000), Money::won(5000))
        );
        assert_eq!(found.status, Status::PartialCanceled);
        assert_eq!(found.cancels[0].amount, Money::won(10_000));
        let approved = found.approved_at.unwrap().to_string();
        assert_eq!(approved, "2022-06-08T06:40:49.000Z");
        for (from, to) in [
            ("KRW", "USD"),
            ("15000,\"balance", "15000.5,\"balance"),
            (":5000", ":15001"),
            (":5000", ":-1"),
            ("PARTIAL_CANCELED", "PARTIALLY_CANCELED"),
            (":10000", ":0"),
            ("AB12", "A/B"),
            ("}}", "}"),
        ] {
            let changed = PAYMENT.replacen(from, to, 1);
            assert_ne!(changed, PAYMENT, "{from}");
            assert_eq!(payment(changed.as_bytes()), None, "{to}");
        }
    }

    #[test]
    fn a_refund_is_known_by_its_reason() {
        let id = RefundId(Uuid::from_u128(7));
        let told = reason("cancelled", id);
        assert_eq!(named(&told), Some(id), "{told}");
        for other in ["x", "", ")", "()", "by hand (Kim)", "(", "a) b (c"] {
            assert_eq!(named(other), None, "{other}");
        }
        let of = |text: &str| payment(text.as_bytes()).map(|found| found.cancels[0].refund_id);
        assert_eq!(of(PAYMENT), Some(None));
        let ours = PAYMENT.replace(
            r#""cancelReason":"x""#,
            &format!(r#""cancelReason":"{told}""#),
        );
        assert_eq!(of(&ours), Some(Some(id)));
        let later = PAYMENT.replace(r#"cancelStatus":"DONE""#, r#"cancelStatus":"IN_PROGRESS""#);
        assert_ne!(later, PAYMENT);
        assert_eq!(of(&later), None);
    }

    #[test]
    fn a_full_page_may_have_a_next() {
        let one = r#"{"mId":"m","transactionKey":"T1","paymentKey":"P1","orderId":"order-1",
            "method":"카드","status":"CANCELED","transactionAt":"2022-06-08T15:40:49+09:00",
            "currency":"KRW","amount":100}"#;
        let body = format!("[{one}]");
        let found = page(body.as_bytes(), 1).unwrap();
        assert_eq!(found.transactions[0].movement, Movement::Refund);
        assert_eq!(found.next, "T1".parse().ok());
        assert_eq!(page(body.as_bytes(), 2).unwrap().next, None);
        assert_eq!(page(b"[]", 2).unwrap().transactions, []);
        assert_eq!(page(b"{}", 2), None);
    }
}
