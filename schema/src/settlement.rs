//! What is said about payments and cancellations: commands, outcomes, and facts.

use crate::ids::{
    CancellationId, PaymentId, PaymentOrderId, RefundId, ReservationId, ScheduleId, SeatNo, UserId,
};
use crate::money::Money;
use crate::seats::Places;
use crate::status::{OrderStatus, PaymentMethod, RefundStatus, ReservationStatus};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The topic of facts about money.
pub const TOPIC: &str = "payments";

/// A command to settlement. The command's user pays, or has paid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// Pay a held reservation.
    Pay {
        /// The id that the payment gets if this is accepted.
        payment_id: PaymentId,
        /// What.
        reservation_id: ReservationId,
        /// How.
        method: PaymentMethod,
    },
    /// Give up seats of a paid reservation.
    Cancel {
        /// The id that the cancellation gets if this is accepted.
        cancellation_id: CancellationId,
        /// What.
        reservation_id: ReservationId,
        /// Which of its seats, each once; all that are left if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seats: Option<Vec<SeatNo>>,
    },
    /// Give up seats and places of a paid reservation. Which of its places, is chosen when it is
    /// decided: so the same command again means the same ones.
    CancelPlaces {
        /// The id that the cancellation gets if this is accepted.
        cancellation_id: CancellationId,
        /// What.
        reservation_id: ReservationId,
        /// Which of its seats, each once.
        seats: Vec<SeatNo>,
        /// How many places of which sections, each section once; not empty.
        places: Vec<Places>,
    },
    /// Pay a held reservation through the gateway, in a while.
    Order {
        /// The id that the order gets if this is accepted.
        order_id: PaymentOrderId,
        /// What.
        reservation_id: ReservationId,
    },
    /// The buyer has agreed to an order at the gateway: capture it.
    Confirm {
        /// Which order.
        order_id: PaymentOrderId,
        /// What the gateway calls the payment.
        payment_key: String,
        /// What the buyer agreed to.
        amount: Money,
    },
    /// The gateway says that something about an order is new: look it up. Nothing else that a
    /// notification says is believed.
    GatewayEvent {
        /// The notification's id; each has an effect once.
        event_id: String,
        /// Which order.
        order_id: PaymentOrderId,
        /// Whether it says that money was captured: nobody may lose that silently, if there is no
        /// such order.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_captured: bool,
        /// Whether it says something else than that money was captured and is all there: an order
        /// that has ended with the money captured is looked up only then.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        may_be_back: bool,
    },
    /// Somebody who administers wants the gateway asked again for a refund that is stuck.
    RetryRefund {
        /// Which.
        refund_id: RefundId,
    },
    /// Somebody who administers has paid a refund that is stuck by other means.
    ResolveRefund {
        /// Which.
        refund_id: RefundId,
        /// By which means, for whoever asks later.
        note: String,
    },
    /// Somebody who administers has compared what the gateway has given back with what was paid by other
    /// means.
    CompareRefund {
        /// Of which refund.
        refund_id: RefundId,
        /// What was found, and done about it, for whoever asks later.
        note: String,
    },
    /// Somebody who administers says what of a sold payment went back at the gateway apart from its refunds,
    /// and is to stay so.
    WriteOff {
        /// Of which order.
        order_id: PaymentOrderId,
        /// Each amount as the gateway has it, in place of what was said before.
        amounts: Vec<Money>,
        /// Why, for whoever asks later.
        note: String,
    },
}

/// The most amounts of a [`Kind::WriteOff`].
pub const AMOUNTS_MAX: usize = 100;

/// How many characters the note of a [`Kind::ResolveRefund`], a [`Kind::CompareRefund`] or a
/// [`Kind::WriteOff`] has.
pub const NOTE_CHARS: std::ops::RangeInclusive<usize> = 1..=500;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Paid; the reservation is sold.
    Paid(Payment),
    /// Cancelled; the money is back or on its way.
    Cancelled(Cancellation),
    /// Ordered; it may be confirmed.
    Ordered(Order),
    /// Confirmed; its row says how far it is.
    Confirmed(Order),
    /// The order is looked up, if there is such a one; or this was known.
    Noted,
    /// Somebody has seen to a refund that was stuck, or that had to be compared.
    Attended(RefundTask),
    /// Something of a payment was written off; it is looked up next.
    WrittenOff(WrittenOff),
    /// No, and why. No money moved.
    Refused(Refusal),
    /// It could not be processed and lies among the dead letters.
    DeadLettered,
}

/// An accepted payment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    /// The payment.
    pub payment_id: PaymentId,
    /// What was paid.
    pub reservation_id: ReservationId,
    /// How much.
    pub amount: Money,
    /// When.
    pub paid_at: Timestamp,
}

/// What is to be paid through the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The order.
    pub order_id: PaymentOrderId,
    /// What is paid by it.
    pub reservation_id: ReservationId,
    /// How much.
    pub amount: Money,
}

/// An accepted cancellation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cancellation {
    /// The cancellation.
    pub cancellation_id: CancellationId,
    /// What was cancelled.
    pub reservation_id: ReservationId,
    /// Where.
    pub schedule_id: ScheduleId,
    /// Which seats.
    pub seats: Vec<SeatNo>,
    /// What stays with the seller.
    pub fee: Money,
    /// What goes back: their price but for the fee.
    pub refunded: Money,
    /// The way back; none where nothing goes back.
    pub refund: Option<Refund>,
    /// When.
    pub at: Timestamp,
}

/// A refund that was stuck, or had to be compared, after somebody has seen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundTask {
    /// Which.
    pub refund_id: RefundId,
    /// How far it is now.
    pub status: RefundStatus,
    /// Since when.
    pub at: Timestamp,
}

/// What was written off of a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenOff {
    /// Of which order.
    pub order_id: PaymentOrderId,
    /// What.
    pub amounts: Vec<Money>,
    /// When.
    pub at: Timestamp,
}

/// How money goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// As it was paid.
    pub method: PaymentMethod,
    /// How far it is.
    pub status: RefundStatus,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its deadline had passed when it was decided.
    CommandExpired,
    /// The key was used for another request.
    KeyReused,
    /// No such reservation of that user.
    NotFound,
    /// Another command paid it.
    AlreadyPaid,
    /// The hold lapsed.
    HoldExpired,
    /// The reservation's state doesn't allow it.
    StateConflict {
        /// That state.
        status: ReservationStatus,
    },
    /// Too few points.
    InsufficientPoints,
    /// Too late, or never allowed.
    CancellationClosed,
    /// The reservation has no such seat.
    UnknownSeat,
    /// The show was cancelled: nothing is sold any more.
    ShowCancelled,
    /// A payment of the reservation through the gateway is on its way.
    PaymentInProgress,
    /// The amount is not the order's.
    AmountMismatch,
    /// There is nothing to pay.
    NothingToPay,
    /// The order's state doesn't allow it, or its payment is another one.
    OrderConflict {
        /// That state.
        status: OrderStatus,
    },
    /// The payment serves another order.
    PaymentKeyUsed,
    /// There is no gateway to pay through.
    GatewayNotConfigured,
    /// The refund is not stuck, or need not be compared.
    RefundConflict {
        /// But that.
        status: RefundStatus,
    },
    /// Money of the same payment has to be compared first: it went back twice, or has perhaps.
    RefundToCompare,
}

/// Facts about money that was paid for one date and is of one batch, for other systems.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The date.
    pub schedule_id: ScheduleId,
    /// In the order in which they became true.
    pub facts: Vec<Fact>,
}

/// Something that became true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fact {
    /// A reservation was paid.
    Paid {
        /// Of which reservation.
        reservation_id: ReservationId,
        /// Whose that is.
        user_id: UserId,
        /// The payment.
        payment_id: PaymentId,
        /// How.
        method: PaymentMethod,
        /// How much.
        amount: Money,
        /// When.
        at: Timestamp,
    },
    /// Seats of one were given up.
    Cancelled {
        /// Of which reservation.
        reservation_id: ReservationId,
        /// Whose that is.
        user_id: UserId,
        /// The cancellation.
        cancellation_id: CancellationId,
        /// By whom: its owner, or who cancelled the show.
        by: UserId,
        /// Whether the show was cancelled.
        of_show: bool,
        /// Which of its seats.
        seats: Vec<SeatNo>,
        /// Whether these were the last ones.
        is_whole: bool,
        /// What stays with the seller.
        fee: Money,
        /// What goes back.
        refunded: Money,
        /// The way back; none where nothing goes back.
        refund: Option<Refund>,
        /// When.
        at: Timestamp,
    },
    /// A refund that was pending is done, through the gateway or by other means.
    Refunded {
        /// Of which reservation.
        reservation_id: ReservationId,
        /// Whose that is.
        user_id: UserId,
        /// What it is for; none for a capture that came too late.
        cancellation_id: Option<CancellationId>,
        /// How much.
        amount: Money,
        /// When.
        at: Timestamp,
    },
}
