//! What is asked of a payment gateway, whoever runs it: capture what the buyer agreed to at the
//! gateway, charge the card that it has on file, give money back, and say what it knows.
//!
//! An answer is one of five kinds, and callers must not mix them up: it was done; it was refused for
//! good; it certainly was not done; nobody knows; or we asked wrongly. Only what certainly was not
//! done may be asked for anew. What nobody knows is looked up, or asked again with the *same*
//! idempotency key; never with another one.
//!
//! A gateway is never called inside a transaction, and nothing here writes a table.

pub mod breaker;
mod error;
mod key;
mod retry;
pub mod toss;

use futures_util::future::BoxFuture;
use onsale_schema::{Money, RefundId, Timestamp};

pub use error::Error;
pub use key::{CustomerKey, IdempotencyKey, Invalid, OrderId, PaymentKey, TransactionKey};

/// A gateway. Every call has an end: it takes no longer than the time limits of the settings allow,
/// its repetitions included.
pub trait Gateway: Send + Sync {
    /// Captures a payment that the buyer has agreed to at the gateway. Asked again with the same key
    /// it says what it said before, and captures nothing twice.
    ///
    /// # Errors
    /// [`Error::Declined`] when nothing was captured and nothing will be; [`Error::Unknown`] when it
    /// may have been.
    fn confirm<'a>(&'a self, confirm: &'a Confirm) -> BoxFuture<'a, Result<Payment, Error>>;

    /// Captures from the card that the gateway has on file for a customer, without asking them once
    /// more. Asked again with the same key it says what it said before, and captures nothing twice.
    ///
    /// # Errors
    /// As [`Self::confirm`].
    fn charge<'a>(&'a self, charge: &'a Charge) -> BoxFuture<'a, Result<Payment, Error>>;

    /// Gives back some or all of what was captured. Asked again with the same key it says what it
    /// said before, and gives nothing back twice.
    ///
    /// # Errors
    /// [`Error::Declined`] when nothing was given back and nothing will be; [`Error::Unknown`] when
    /// it may have been.
    fn cancel<'a>(&'a self, cancel: &'a Cancel) -> BoxFuture<'a, Result<Refunded, Error>>;

    /// What the gateway knows about a payment.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no such payment; never [`Error::Declined`] or
    /// [`Error::Unknown`]: nothing is changed.
    fn find_by_key<'a>(&'a self, key: &'a PaymentKey) -> BoxFuture<'a, Result<Payment, Error>>;

    /// What the gateway knows about the payment of an order. Which it shows of several attempts to agree
    /// to it is not promised ([`find`]).
    ///
    /// # Errors
    /// As [`Self::find_by_key`].
    fn find_by_order<'a>(&'a self, order: &'a OrderId) -> BoxFuture<'a, Result<Payment, Error>>;

    /// A page of the gateway's book, oldest first: all that was captured and given back from `since`
    /// (inclusive, to the second) until `until` (exclusive), after the entry `after`, if one is given.
    ///
    /// # Errors
    /// As [`Self::find_by_key`].
    fn transactions<'a>(
        &'a self,
        since: Timestamp,
        until: Timestamp,
        after: Option<&'a TransactionKey>,
    ) -> BoxFuture<'a, Result<Page, Error>>;
}

/// What the gateway knows about the payment of an order. If it shows an attempt that keeps no money, and
/// `ours` is the key of another one, then what it knows about that.
///
/// # Errors
/// As [`Gateway::find_by_key`].
pub async fn find(
    gateway: &dyn Gateway,
    order: &OrderId,
    ours: Option<&PaymentKey>,
) -> Result<Payment, Error> {
    let shown = gateway.find_by_order(order).await?;
    let keeps = shown.status.is_captured() && shown.balance.is_positive();
    let Some(key) = ours.filter(|key| !keeps && **key != shown.payment_key) else {
        return Ok(shown);
    };
    match gateway.find_by_key(key).await {
        Ok(payment) if payment.order_id == *order => Ok(payment),
        // It may be the key of another order's payment: whoever confirms names it.
        Ok(_) | Err(Error::NotFound) => Ok(shown),
        Err(error) => Err(error),
    }
}

/// A wish to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// Which payment, as the gateway told the buyer.
    pub payment_key: PaymentKey,
    /// Which order of ours it is for.
    pub order_id: OrderId,
    /// How much, exactly: the gateway compares it with what the buyer agreed to.
    pub amount: Money,
    /// The same for each repetition of this wish.
    pub idempotency_key: IdempotencyKey,
}

/// A wish to capture from a card on file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Whose card.
    pub customer: CustomerKey,
    /// Which order of ours it is for; it has no other payment.
    pub order_id: OrderId,
    /// What for, as the buyer's statement says it; no personal data.
    pub order_name: &'static str,
    /// How much, exactly.
    pub amount: Money,
    /// The same for each repetition of this wish.
    pub idempotency_key: IdempotencyKey,
}

/// A wish to give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// Which payment.
    pub payment_key: PaymentKey,
    /// Which refund of ours it is: the gateway's book says so, for as long as it has it.
    pub refund_id: RefundId,
    /// How much of it.
    pub amount: Money,
    /// Why, for the gateway's records and the buyer's statement; no personal data.
    pub reason: &'static str,
    /// The same for each repetition of this wish.
    pub idempotency_key: IdempotencyKey,
}

/// How far a payment is at the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The buyer has not agreed yet.
    Ready,
    /// The buyer has agreed; nothing is captured.
    InProgress,
    /// An account was given to the buyer, who has not paid into it yet; nothing is captured.
    WaitingForDeposit,
    /// Captured.
    Done,
    /// Captured, and all of it given back.
    Canceled,
    /// Captured, and some of it given back.
    PartialCanceled,
    /// Refused; nothing was captured.
    Aborted,
    /// Not confirmed in time; nothing was captured.
    Expired,
}

impl Status {
    /// Whether money was taken, be it given back since or not.
    #[must_use]
    pub fn is_captured(self) -> bool {
        match self {
            Self::Done | Self::Canceled | Self::PartialCanceled => true,
            Self::Ready
            | Self::InProgress
            | Self::WaitingForDeposit
            | Self::Aborted
            | Self::Expired => false,
        }
    }

    /// Whether a confirmation can still capture it.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self {
            Self::Ready | Self::InProgress | Self::WaitingForDeposit => true,
            Self::Done | Self::Canceled | Self::PartialCanceled | Self::Aborted | Self::Expired => {
                false
            }
        }
    }

    /// Its name at the gateway.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::InProgress => "IN_PROGRESS",
            Self::WaitingForDeposit => "WAITING_FOR_DEPOSIT",
            Self::Done => "DONE",
            Self::Canceled => "CANCELED",
            Self::PartialCanceled => "PARTIAL_CANCELED",
            Self::Aborted => "ABORTED",
            Self::Expired => "EXPIRED",
        }
    }
}

/// What the gateway says about a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Which.
    pub payment_key: PaymentKey,
    /// The order that it is for.
    pub order_id: OrderId,
    /// How far it is.
    pub status: Status,
    /// What the buyer agreed to.
    pub total: Money,
    /// What of it is captured and not given back; nothing before it is captured.
    pub balance: Money,
    /// What was given back, oldest first.
    pub cancels: Vec<Refunded>,
    /// When it was captured.
    pub approved_at: Option<Timestamp>,
}

/// Money that was given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refunded {
    /// The entry of the gateway's book.
    pub transaction_key: TransactionKey,
    /// Which refund it names; none where somebody gave it back without us.
    pub refund_id: Option<RefundId>,
    /// How much, by this entry.
    pub amount: Money,
    /// When.
    pub at: Timestamp,
}

/// What an entry of the gateway's book says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Movement {
    /// Money was taken.
    Capture,
    /// Money was given back.
    Refund,
}

/// An entry of the gateway's book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Which.
    pub transaction_key: TransactionKey,
    /// Of which payment.
    pub payment_key: PaymentKey,
    /// The order that the payment is for.
    pub order_id: OrderId,
    /// Which way the money went.
    pub movement: Movement,
    /// How much; always more than nothing.
    pub amount: Money,
    /// When.
    pub at: Timestamp,
}

/// A page of the gateway's book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its entries, oldest first.
    pub transactions: Vec<Transaction>,
    /// After which entry the next page begins; none when there is no more at present.
    pub next: Option<TransactionKey>,
}
