//! Closed sets of states, stored as text.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! text_enum {
    (
        $(#[doc = $doc:literal])*
        $name:ident { $($(#[doc = $vdoc:literal])* $variant:ident = $text:literal,)* }
    ) => {
        $(#[doc = $doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            AsExpression, FromSqlRow,
        )]
        #[diesel(sql_type = sql_types::Text)]
        pub enum $name { $($(#[doc = $vdoc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$variant),*];

            /// Its name on the wire and in tables.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl FromSql<sql_types::Text, Pg> for $name {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                match value.as_bytes() {
                    $(bytes if bytes == $text.as_bytes() => Ok(Self::$variant),)*
                    _ => Err(concat!("unknown ", stringify!($name)).into()),
                }
            }
        }
        impl ToSql<sql_types::Text, Pg> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                <str as ToSql<sql_types::Text, Pg>>::to_sql(self.as_str(), &mut out.reborrow())
            }
        }
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let known = &[$(($text, concat!($($vdoc),*))),*];
                crate::openapi::one_of(concat!($($doc),*), known)
            }
        }
        impl utoipa::ToSchema for $name {}
    };
}

text_enum! {
    /// Where commands go. `seats` and `admission` are partitioned and decided in order; `ledger` and
    /// `settlement` are work queues for competing consumers.
    Lane {
        /// Seat decisions, in order per partition.
        Seats = "seats",
        /// Waiting rooms, in order per partition.
        Admission = "admission",
        /// Point charges.
        Ledger = "ledger",
        /// Payments of reservations.
        Settlement = "settlement",
    }
}

impl Lane {
    /// Whether its commands are decided in order, each partition by its owner.
    #[must_use]
    pub fn is_partitioned(self) -> bool {
        match self {
            Self::Seats | Self::Admission => true,
            Self::Ledger | Self::Settlement => false,
        }
    }

    /// The lanes whose commands are decided in order.
    pub fn partitioned() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|lane| lane.is_partitioned())
    }
}

text_enum! {
    /// State of a reservation. It changes only HELD→PAID/EXPIRED/RELEASED and PAID→CANCELLED.
    ReservationStatus {
        /// Seats are held until `expires_at`.
        Held = "HELD",
        /// Paid; the seats are sold.
        Paid = "PAID",
        /// The hold lapsed.
        Expired = "EXPIRED",
        /// The buyer gave the hold back.
        Released = "RELEASED",
        /// A paid one was cancelled and refunded.
        Cancelled = "CANCELLED",
    }
}

impl ReservationStatus {
    /// Whether it keeps its seats from others.
    #[must_use]
    pub fn is_live(self) -> bool {
        match self {
            Self::Held | Self::Paid => true,
            Self::Expired | Self::Released | Self::Cancelled => false,
        }
    }
}

text_enum! {
    /// Whether a schedule sells, as its operator set it; the booking window applies besides.
    SaleState {
        /// Sells within its booking window.
        Open = "OPEN",
        /// Stopped for now.
        Paused = "PAUSED",
        /// Over.
        Closed = "CLOSED",
    }
}

text_enum! {
    /// State of a claimed seat. A seat without a claim is available.
    ClaimState {
        /// Held by a reservation.
        Held = "H",
        /// Sold.
        Sold = "S",
        /// Taken off sale.
        Blocked = "B",
    }
}

text_enum! {
    /// What became of a seat.
    SeatEvent {
        /// Somebody held it.
        Held = "HELD",
        /// The hold lapsed.
        Expired = "EXPIRED",
        /// The hold was given back.
        Released = "RELEASED",
        /// The hold was paid.
        Sold = "SOLD",
        /// What was paid was cancelled.
        Cancelled = "CANCELLED",
        /// It was taken off sale.
        Blocked = "BLOCKED",
        /// It was put on sale again.
        Unblocked = "UNBLOCKED",
    }
}

text_enum! {
    /// Why a payment failed, or why the money of one goes back: the codes of problems that say the same
    /// to clients.
    FailCode {
        /// Too few points.
        InsufficientPoints = "insufficient-points",
        /// What a gateway declined.
        PaymentDeclined = "payment-declined",
        /// Nothing was captured while there was time.
        GatewayUnavailable = "payment-gateway-unavailable",
        /// The hold had lapsed.
        HoldExpired = "hold-expired",
        /// The reservation was paid by other means.
        AlreadyPaid = "already-paid",
        /// The whole show is cancelled.
        SaleClosed = "sale-closed",
        /// The balance would be too high.
        BalanceCapExceeded = "balance-cap-exceeded",
    }
}

impl FailCode {
    /// The one that is written so.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }
}

text_enum! {
    /// How points were bought.
    ChargeMethod {
        /// By card.
        Card = "CARD",
        /// By cash.
        Cash = "CASH",
    }
}

text_enum! {
    /// How a reservation is paid.
    PaymentMethod {
        /// With points.
        Points = "POINTS",
        /// Through the payment gateway.
        Gateway = "GATEWAY",
    }
}

text_enum! {
    /// How far a payment through the gateway is.
    OrderStatus {
        /// The buyer may pay it at the gateway and then confirm it.
        Ready = "READY",
        /// Confirmed; the hold is being made to last until the money is captured.
        Securing = "SECURING",
        /// The gateway is being asked to capture.
        Capturing = "CAPTURING",
        /// The gateway may have captured; it is being asked whether it has.
        Unknown = "UNKNOWN",
        /// The money is captured; what it pays is not there yet.
        Captured = "CAPTURED",
        /// The hold lapsed before the money was captured; its seats are being asked for again.
        Reholding = "REHOLDING",
        /// Paid; the reservation is sold, or the points are charged.
        Paid = "PAID",
        /// Nothing was captured; `failCode` says why.
        Failed = "FAILED",
        /// What it was to pay can't be had any more; the money is on its way back.
        Refunding = "REFUNDING",
        /// What it was to pay can't be had any more; the money is back.
        Refunded = "REFUNDED",
    }
}

text_enum! {
    /// State of a refund.
    RefundStatus {
        /// The money is on its way.
        Pending = "PENDING",
        /// The money is back.
        Done = "DONE",
        /// The gateway would not take it back; somebody has to see to it.
        Stuck = "STUCK",
        /// The money is back; somebody has paid it by other means than the gateway.
        Resolved = "RESOLVED",
        /// Somebody says to have paid it by other means; it counts as soon as the gateway is known not
        /// to have made it, too.
        Resolving = "RESOLVING",
    }
}

text_enum! {
    /// What somebody has done about a refund that was stuck, or that has to be compared.
    RefundActionKind {
        /// Had the gateway asked again.
        Retry = "RETRY",
        /// Paid it back by other means.
        Resolution = "RESOLUTION",
        /// Compared what the gateway has given back with what was paid by other means.
        Comparison = "COMPARISON",
    }
}

text_enum! {
    /// Why somebody has to compare what the gateway has given back with what is owed.
    RefundCompare {
        /// The gateway has made a refund that somebody has paid back by other means as well.
        Twice = "TWICE",
        /// As much was given back in the gateway's own pages as somebody has paid by other means, or as the
        /// refund is: that may be one and the same.
        ByHand = "BY_HAND",
    }
}

text_enum! {
    /// State of a payment attempt.
    PaymentStatus {
        /// The money moved and the reservation is sold.
        Paid = "PAID",
        /// Nothing moved; `fail_code` says why.
        Failed = "FAILED",
    }
}

text_enum! {
    /// Why points moved.
    TransferKind {
        /// Bought by the user.
        Charge = "CHARGE",
        /// Spent on a reservation.
        Payment = "PAYMENT",
        /// Given back for what was cancelled.
        Refund = "REFUND",
    }
}

text_enum! {
    /// What a user may do.
    Role {
        /// Buys.
        Buyer = "buyer",
        /// Administers.
        Admin = "admin",
    }
}

text_enum! {
    /// State of a webhook subscriber.
    WebhookState {
        /// Facts are delivered.
        Active = "ACTIVE",
        /// Deliveries failed for too long; nothing is delivered until it is activated again.
        Dead = "DEAD",
    }
}

text_enum! {
    /// How a waiting room lets people in.
    QueueMode {
        /// There is no waiting room: holding needs no pass.
        Off = "OFF",
        /// In the order of arrival.
        Fifo = "FIFO",
        /// Who arrived before the opening in an order that is drawn then, all others behind them.
        Draw = "DRAW",
        /// Everybody at once, with a pass.
        Open = "OPEN",
    }
}

text_enum! {
    /// What an access code grants.
    AccessGrant {
        /// To be let in before the others, when the room opens.
        Vip = "VIP",
        /// The same, and while the code is good also before the room opens.
        Presale = "PRESALE",
    }
}

text_enum! {
    /// State of a ticket of a waiting room.
    TicketStatus {
        /// The line has no order yet. No row says so: it follows from the room's.
        Lobby = "LOBBY",
        /// In line.
        Waiting = "WAITING",
        /// May hold seats with its pass.
        Admitted = "ADMITTED",
        /// The pass ended without a payment.
        Expired = "EXPIRED",
        /// Its owner left.
        Left = "LEFT",
        /// Its owner paid.
        Done = "DONE",
    }
}

impl TicketStatus {
    /// Whether its owner gets no other ticket.
    #[must_use]
    pub fn is_live(self) -> bool {
        match self {
            Self::Lobby | Self::Waiting | Self::Admitted => true,
            Self::Expired | Self::Left | Self::Done => false,
        }
    }
}
