//! What is said about payments.

use crate::ids::{PaymentId, ReservationId};
use crate::money::Money;
use crate::status::{PaymentMethod, ReservationStatus};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A command to settlement. The command's user pays.
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
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Paid; the reservation is sold.
    Paid(Payment),
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
}
