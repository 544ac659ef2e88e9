//! What a refusal by an owner is called over HTTP.

use crate::problem::{Code, FieldError, PlacesLeft, Problem};
use onsale_schema::status::FailCode;
use onsale_schema::{SeatNo, admission, ledger, seats, settlement};

/// What a refused seat command is told; `label` names a seat of the schedule that was asked.
#[must_use]
pub fn of_seats(refusal: &seats::Refusal, label: impl Fn(SeatNo) -> Box<str>) -> Problem {
    use seats::Refusal as R;
    match refusal {
        R::CommandExpired => Problem::new(Code::CommandExpired),
        R::KeyReused => Problem::new(Code::IdempotencyKeyReused),
        R::UnknownSchedule | R::NotFound => Problem::new(Code::NotFound),
        R::UnknownSeat => Problem::new(Code::UnknownSeat),
        R::LayoutChanged => Problem::new(Code::LayoutChanged),
        R::SaleNotOpen => Problem::new(Code::SaleNotOpen),
        R::SaleClosed => Problem::new(Code::SaleClosed),
        R::SeatLimitExceeded { limit } => Problem::seat_limit(*limit),
        R::SeatUnavailable { seats, places } => {
            let places = places.iter().map(|left| PlacesLeft {
                section: left.section.as_str().into(),
                available: left.available,
            });
            let labels = seats.iter().map(|&seat| label(seat));
            Problem::seats_taken(labels.collect(), places.collect())
        }
        R::OrphanSeat { seats } => {
            Problem::orphans(seats.iter().map(|&seat| label(seat)).collect())
        }
        R::PassRequired => Problem::new(Code::QueuePassRequired),
        R::PassInvalid => Problem::new(Code::QueuePassInvalid),
        R::PassExpired => Problem::new(Code::QueuePassExpired),
        R::PassUsedUp => Problem::new(Code::QueuePassUsedUp),
        R::PaymentInProgress => Problem::new(Code::PaymentInProgress),
        R::ExtensionLimitReached => Problem::new(Code::ExtensionLimitReached),
        R::StateConflict { status } => Problem::state_conflict(*status),
        // Its parts were looked at before; only together with what is there they make no sense.
        R::PolicyInvalid => Problem::validation(vec![FieldError::at(
            "/bookingClosesAt",
            "not-after-opening",
        )]),
        R::NotDue => {
            tracing::error!("a client's command was answered as a system's");
            Problem::internal()
        }
    }
}

/// What a refused command to a waiting room is told.
#[must_use]
pub fn of_room(refusal: admission::Refusal) -> Problem {
    use admission::Refusal as R;
    Problem::new(match refusal {
        // Its parts were looked at before.
        R::PolicyInvalid => {
            return Problem::validation(vec![FieldError::at("", "invalid-value")]);
        }
        R::CommandExpired => Code::CommandExpired,
        R::KeyReused => Code::IdempotencyKeyReused,
        R::RoomOff => Code::RoomOff,
        R::RoomFull => Code::RoomFull,
        R::TicketsUsedUp => Code::QueueTicketsUsedUp,
        R::BeaconFixed => Code::BeaconFixed,
        R::NotDue => Code::BeaconNotDue,
        R::ShowCancelled => Code::SaleClosed,
        R::CodeInvalid => Code::AccessCodeInvalid,
        R::CodeRevoked => Code::AccessCodeRevoked,
        R::CodeNotYet => Code::AccessCodeNotYet,
        R::CodeExpired => Code::AccessCodeExpired,
        R::CodeUsedUp => Code::AccessCodeUsedUp,
        // What was meant is not there, or not any more.
        R::UnknownSchedule | R::NotFound => Code::NotFound,
    })
}

/// What a refused charge is told.
impl From<&ledger::Refusal> for Problem {
    fn from(refusal: &ledger::Refusal) -> Self {
        use ledger::Refusal as R;
        match refusal {
            R::CommandExpired => Self::new(Code::CommandExpired),
            R::KeyReused => Self::new(Code::IdempotencyKeyReused),
            R::AmountInvalid => Self::new(Code::AmountInvalid),
            R::BalanceCapExceeded { cap } => Self::balance_cap(*cap),
            R::CardsNotConfigured => Self::new(Code::CardsNotConfigured),
            R::CashNotConfigured => Self::new(Code::CashNotConfigured),
            R::TooManyOpenCharges { limit } => Self::open_charges(*limit),
        }
    }
}

/// What a refused payment is told.
impl From<&settlement::Refusal> for Problem {
    fn from(refusal: &settlement::Refusal) -> Self {
        use settlement::Refusal as R;
        match refusal {
            R::CommandExpired => Self::new(Code::CommandExpired),
            R::KeyReused => Self::new(Code::IdempotencyKeyReused),
            R::NotFound => Self::new(Code::NotFound),
            R::AlreadyPaid => Self::new(Code::AlreadyPaid),
            R::HoldExpired => Self::new(Code::HoldExpired),
            R::StateConflict { status } => Self::state_conflict(*status),
            R::InsufficientPoints => Self::new(Code::InsufficientPoints),
            R::CancellationClosed => Self::new(Code::CancellationClosed),
            R::UnknownSeat => Self::new(Code::UnknownSeat),
            R::ShowCancelled => Self::new(Code::SaleClosed),
            R::PaymentInProgress => Self::new(Code::PaymentInProgress),
            R::AmountMismatch => Self::new(Code::AmountMismatch),
            R::NothingToPay => Self::new(Code::AmountInvalid),
            R::OrderConflict { .. } => Self::new(Code::OrderStateConflict),
            R::RefundConflict { .. } | R::RefundToCompare => Self::new(Code::RefundStateConflict),
            R::PaymentKeyUsed => Self::new(Code::PaymentKeyUsed),
            R::GatewayNotConfigured => Self::new(Code::GatewayNotConfigured),
        }
    }
}

/// What a payment that failed after it was accepted is told.
impl From<FailCode> for Code {
    fn from(code: FailCode) -> Self {
        match code {
            FailCode::InsufficientPoints => Self::InsufficientPoints,
            FailCode::PaymentDeclined => Self::PaymentDeclined,
            FailCode::GatewayUnavailable => Self::PaymentGatewayUnavailable,
            FailCode::HoldExpired => Self::HoldExpired,
            FailCode::AlreadyPaid => Self::AlreadyPaid,
            FailCode::SaleClosed => Self::SaleClosed,
            FailCode::BalanceCapExceeded => Self::BalanceCapExceeded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_name_of_its_problem() {
        for code in FailCode::ALL {
            assert_eq!(Code::from(code).as_str(), code.as_str());
        }
    }
}
