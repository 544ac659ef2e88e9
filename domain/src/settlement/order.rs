//! How a payment through the gateway goes on: from what its row says, what was learned of the world
//! and the time follows what to do next. Whoever drives it only asks and writes.
//!
//! Two rules carry it. Nothing is said to have failed before it is certain that nothing was
//! captured, and nothing that was captured ends other than as a sale or as a refund.

use onsale_schema::message::Fingerprint;
use onsale_schema::status::{FailCode, OrderStatus, ReservationStatus};
use onsale_schema::{
    CommandId, Money, NoticeId, PaymentOrderId, ReservationId, ScheduleId, Timestamp, UserId,
};

/// How long a hold is asked to last for a capture, in milliseconds from its confirmation: as long as
/// the gateway may take, its repetitions included.
pub const SECURE_MS: i64 = 60_000;
/// With less left of the hold than this, in milliseconds, no capture is begun.
pub const MARGIN_MS: i64 = 3000;
/// The first pause before an order is looked at again, in milliseconds.
const PAUSE_MIN_MS: i64 = 100;
/// The longest such pause, in milliseconds: how late, at most, the return of the gateway is noticed.
const PAUSE_MAX_MS: i64 = 10_000;
/// The pause before a payment that is not what was ordered is looked at again, in milliseconds: only
/// a person at the gateway can change it.
pub const ODD_PAUSE_MS: i64 = 600_000;
/// When an order that failed without a word of the gateway is looked up for the last time, in
/// milliseconds after that. Toss Payments refuses confirmations ten minutes after the buyer agreed;
/// later than that nothing can come any more.
const LAST_LOOK_MS: i64 = 900_000;

/// What a gateway declined.
pub const PAYMENT_DECLINED: &str = FailCode::PaymentDeclined.as_str();
/// Nothing was captured while there was time.
pub const GATEWAY_UNAVAILABLE: &str = FailCode::GatewayUnavailable.as_str();
/// The hold had lapsed.
pub const HOLD_EXPIRED: &str = FailCode::HoldExpired.as_str();
/// The reservation was paid by other means.
pub const ALREADY_PAID: &str = FailCode::AlreadyPaid.as_str();
/// The whole show is cancelled.
pub const SALE_CLOSED: &str = FailCode::SaleClosed.as_str();

/// What an order pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A reservation.
    Reservation(Reserved),
    /// Points, by card: see [`super::charge`].
    Charge,
}

/// A reservation that is to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Which.
    pub reservation_id: ReservationId,
    /// Where its seats are.
    pub schedule_id: ScheduleId,
}

impl Purpose {
    /// The reservation, if it is one.
    #[must_use]
    pub fn reserved(self) -> Option<Reserved> {
        match self {
            Self::Reservation(reserved) => Some(reserved),
            Self::Charge => None,
        }
    }
}

/// The row of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub order_id: PaymentOrderId,
    /// What it pays.
    pub purpose: Purpose,
    /// Who pays.
    pub user_id: UserId,
    /// The command that made it.
    pub command_id: CommandId,
    /// What that asked, as a digest.
    pub fingerprint: Fingerprint,
    /// How much.
    pub amount: Money,
    /// How far it is.
    pub status: OrderStatus,
    /// Counts its changes.
    pub step_no: i32,
    /// How often it was looked at in this status.
    pub attempts: i32,
    /// The gateway's name of the payment, once confirmed.
    pub payment_key: Option<String>,
    /// The command that confirmed it, and what that asked.
    pub confirmed_by: Option<(CommandId, Fingerprint)>,
    /// The word to the owner of the seats whose answer is waited for.
    pub notice_id: Option<NoticeId>,
    /// The reservation that a late capture is to be given.
    pub rehold_id: Option<ReservationId>,
    /// Why nothing was captured.
    pub fail_code: Option<String>,
    /// What the gateway has taken.
    pub captured: Money,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What the tables say besides the order's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// What it pays.
    pub reservation_id: ReservationId,
    /// The state of that.
    pub reservation: ReservationStatus,
    /// When that lapses.
    pub expires_at: Timestamp,
    /// Until then a request to capture, begun while it was held, may still be on its way.
    pub settles_at: Timestamp,
    /// Whether its owner keeps it for this order.
    pub is_secured: bool,
    /// Whether the notice that the order waits for is done.
    pub is_told: bool,
    /// Whether the owner of the seats has given a late capture its seats.
    pub is_reheld: bool,
    /// Whether another order of the reservation is on its way, or has paid it.
    pub has_rival: bool,
    /// Whether the whole show is cancelled.
    pub show_cancelled: bool,
}

impl World {
    /// Whether a capture may be begun: the hold lasts long enough.
    #[must_use]
    pub fn may_capture(&self, now: Timestamp) -> bool {
        now < self.capture_until()
    }

    /// Until when one may be begun; the beginning of time when it may not.
    #[must_use]
    pub fn capture_until(&self) -> Timestamp {
        capture_until(self.reservation, self.is_secured, self.expires_at)
    }

    fn is_held(&self, at: Timestamp) -> bool {
        self.reservation == ReservationStatus::Held && self.expires_at > at
    }
}

/// Until when a capture may be begun for a reservation in this state; see [`World::capture_until`].
#[must_use]
pub fn capture_until(
    reservation: ReservationStatus,
    is_secured: bool,
    expires_at: Timestamp,
) -> Timestamp {
    if is_secured && reservation == ReservationStatus::Held {
        expires_at.plus_ms(-MARGIN_MS)
    } else {
        Timestamp::EPOCH
    }
}

/// What the gateway said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was not asked.
    Nothing,
    /// The money is captured.
    Captured,
    /// It was declined, for good.
    Declined,
    /// A look-up says that nothing is captured, and nobody has asked for it since.
    NotCaptured,
    /// There is a payment, but not the one that was ordered.
    Odd,
    /// It may have captured.
    Unknown,
    /// It was asked for nothing, or nothing came of it.
    Unavailable,
}

/// What to do with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again after a pause.
    Wait,
    /// Nothing more, unless somebody says something new.
    Rest,
    /// Have the gateway capture.
    Capture,
    /// It may have captured: look it up.
    Doubt,
    /// Somebody has to see to it: look again much later.
    Puzzle,
    /// The money is there.
    Captured,
    /// It ended without a capture.
    Fail(&'static str),
    /// The reservation is paid by it.
    Sell(ReservationId),
    /// Its hold has lapsed: its seats are asked for again.
    Rehold,
    /// Its seats are gone: the money goes back.
    Refund(&'static str),
}

/// What to do next with an order of a reservation.
#[must_use]
pub fn step(order: &Order, world: &World, learned: Learned, now: Timestamp) -> Step {
    match order.status {
        OrderStatus::Ready | OrderStatus::Failed => match learned {
            Learned::Captured => Step::Captured,
            Learned::Unknown | Learned::Unavailable => Step::Wait,
            Learned::Odd => Step::Puzzle,
            Learned::Declined | Learned::NotCaptured | Learned::Nothing => Step::Rest,
        },
        OrderStatus::Securing if !world.is_told => Step::Wait,
        OrderStatus::Securing if world.show_cancelled => Step::Fail(SALE_CLOSED),
        OrderStatus::Securing if world.may_capture(now) => Step::Capture,
        OrderStatus::Securing => Step::Fail(match world.reservation {
            ReservationStatus::Paid => ALREADY_PAID,
            ReservationStatus::Held
            | ReservationStatus::Expired
            | ReservationStatus::Released
            | ReservationStatus::Cancelled => HOLD_EXPIRED,
        }),
        OrderStatus::Capturing | OrderStatus::Unknown => match learned {
            Learned::Captured => Step::Captured,
            Learned::Declined => Step::Fail(PAYMENT_DECLINED),
            // As long as a request can be on its way, what a look-up doesn't find may still come.
            Learned::NotCaptured if now < world.settles_at => Step::Wait,
            Learned::NotCaptured => Step::Fail(GATEWAY_UNAVAILABLE),
            Learned::Unknown => Step::Doubt,
            Learned::Odd => Step::Puzzle,
            Learned::Unavailable | Learned::Nothing => Step::Wait,
        },
        OrderStatus::Captured if world.has_rival => Step::Refund(ALREADY_PAID),
        OrderStatus::Captured if world.show_cancelled => Step::Refund(SALE_CLOSED),
        OrderStatus::Captured if world.is_held(now) => Step::Sell(world.reservation_id),
        OrderStatus::Captured if world.reservation == ReservationStatus::Paid => {
            Step::Refund(ALREADY_PAID)
        }
        // Who gave the seats back does not get them again for money that came late.
        OrderStatus::Captured
            if matches!(
                world.reservation,
                ReservationStatus::Released | ReservationStatus::Cancelled
            ) =>
        {
            Step::Refund(HOLD_EXPIRED)
        }
        OrderStatus::Captured => Step::Rehold,
        OrderStatus::Reholding if !world.is_told => Step::Wait,
        OrderStatus::Reholding => match order.rehold_id {
            Some(reheld) if world.is_reheld => Step::Sell(reheld),
            Some(_) | None => Step::Refund(HOLD_EXPIRED),
        },
        OrderStatus::Paid | OrderStatus::Refunding | OrderStatus::Refunded => ended(learned),
    }
}

/// What to do with an order that has ended with the money captured: nothing but to look whether the
/// gateway keeps what it is to keep ([`super::kept`]).
fn ended(learned: Learned) -> Step {
    match learned {
        Learned::Odd => Step::Puzzle,
        Learned::Unknown | Learned::Unavailable => Step::Wait,
        Learned::Captured | Learned::Declined | Learned::NotCaptured | Learned::Nothing => {
            Step::Rest
        }
    }
}

/// When an order that has failed by this code is looked up for the last time; never after the gateway
/// has declined it, since that is its last word.
#[must_use]
pub fn last_look(code: &str, now: Timestamp) -> Option<Timestamp> {
    (code != PAYMENT_DECLINED).then(|| now.plus_ms(LAST_LOOK_MS))
}

/// How long to wait before the next look, in milliseconds: twice as long each time, up to a bound,
/// less up to a half by `roll` (0 to 1).
#[must_use]
pub fn pause_ms(attempts: i32, roll: f64) -> i64 {
    let doubled = PAUSE_MIN_MS << attempts.clamp(0, 10);
    let most = doubled.min(PAUSE_MAX_MS);
    // Whole milliseconds of a small number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let less = (most as f64 / 2.0 * roll.clamp(0.0, 1.0)) as i64;
    most - less
}
