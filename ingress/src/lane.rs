//! The lanes that the ingress sends to, as types: what goes in, what comes back.

use onsale_schema::seats::Places;
use onsale_schema::{Lane, admission, ledger, seats, settlement};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One lane's commands and outcomes.
pub trait Commands: Send + Sync + 'static {
    /// What may be asked.
    type Kind: Serialize + Send + Sync + 'static;
    /// What may become of it.
    type Outcome: DeserializeOwned + Send + Sync + 'static;
    /// The lane.
    const LANE: Lane;

    /// The most bytes that a command's kind takes on the wire.
    fn kind_bytes_max(kind: &Self::Kind) -> usize;
}

/// Room for the names and ids of any kind.
const KIND_BYTES: usize = 224;
/// Room for one seat number.
const SEAT_BYTES: usize = 5;
/// Room for one amount of money.
const AMOUNT_BYTES: usize = 9;
/// Room for one id in a list.
const ID_BYTES: usize = 18;
/// Room for the number of one ticket.
const ARRIVAL_BYTES: usize = 5;
/// Room for an entry pass.
const PASS_BYTES: usize = 192;
/// Room for places of one section, besides its name.
const PLACES_BYTES: usize = 32;

fn places_bytes_max(places: &[Places]) -> usize {
    let names = places.iter().map(|places| places.section.len());
    PLACES_BYTES * places.len() + names.sum::<usize>()
}

/// See [`Lane::Seats`].
pub enum Seats {}

impl Commands for Seats {
    type Kind = seats::Kind;
    type Outcome = seats::Outcome;
    const LANE: Lane = Lane::Seats;

    fn kind_bytes_max(kind: &seats::Kind) -> usize {
        match kind {
            seats::Kind::Hold {
                seats,
                places,
                pass,
                ..
            } => {
                let pass = pass.map_or(0, |_| PASS_BYTES);
                KIND_BYTES + SEAT_BYTES * seats.len() + places_bytes_max(places) + pass
            }
            seats::Kind::HoldBest {
                section,
                grade,
                pass,
                ..
            } => {
                let names = section.iter().chain(grade).map(String::len);
                KIND_BYTES + names.sum::<usize>() + pass.map_or(0, |_| PASS_BYTES)
            }
            seats::Kind::Block { seats, reason, .. } => {
                KIND_BYTES + SEAT_BYTES * seats.len() + reason.len()
            }
            seats::Kind::Unblock { seats, reason, .. } => {
                let seats = seats.as_ref().map_or(0, Vec::len);
                KIND_BYTES + SEAT_BYTES * seats + reason.as_ref().map_or(0, String::len)
            }
            seats::Kind::Release { .. }
            | seats::Kind::Extend { .. }
            | seats::Kind::Expire { .. }
            | seats::Kind::Paid { .. }
            | seats::Kind::Secure { .. }
            | seats::Kind::Unsecure { .. }
            | seats::Kind::Room { .. } => KIND_BYTES,
            seats::Kind::PassesOver { tickets, .. } => KIND_BYTES + ARRIVAL_BYTES * tickets.len(),
            seats::Kind::PaidAll {
                reservation_ids, ..
            } => KIND_BYTES + ID_BYTES * reservation_ids.len(),
            seats::Kind::Cancelled { seats, .. } => KIND_BYTES + SEAT_BYTES * seats.len(),
            seats::Kind::Rehold { seats, .. } => 2 * KIND_BYTES + SEAT_BYTES * seats.len(),
            seats::Kind::Policy { .. } => 2 * KIND_BYTES,
        }
    }
}

/// See [`Lane::Admission`].
pub enum Admission {}

impl Commands for Admission {
    type Kind = admission::Kind;
    type Outcome = admission::Outcome;
    const LANE: Lane = Lane::Admission;

    fn kind_bytes_max(kind: &admission::Kind) -> usize {
        match kind {
            admission::Kind::Leave { .. } => KIND_BYTES,
            admission::Kind::Join { code, .. } => KIND_BYTES * (1 + usize::from(code.is_some())),
            admission::Kind::RevokeCode { .. } | admission::Kind::Sale { .. } => KIND_BYTES,
            admission::Kind::Policy { .. } => 2 * KIND_BYTES,
            admission::Kind::Seen { tickets, .. } => KIND_BYTES + ARRIVAL_BYTES * tickets.len(),
            admission::Kind::Holds { changes, .. } => KIND_BYTES * (1 + changes.len()),
            admission::Kind::NameBeacon { name, .. } => KIND_BYTES + name.len(),
            admission::Kind::RevealBeacon { value, .. } => KIND_BYTES + value.len(),
        }
    }
}

/// See [`Lane::Ledger`].
pub enum Ledger {}

impl Commands for Ledger {
    type Kind = ledger::Kind;
    type Outcome = ledger::Outcome;
    const LANE: Lane = Lane::Ledger;

    fn kind_bytes_max(kind: &ledger::Kind) -> usize {
        match kind {
            ledger::Kind::Charge { .. } => KIND_BYTES,
        }
    }
}

/// See [`Lane::Settlement`].
pub enum Settlement {}

impl Commands for Settlement {
    type Kind = settlement::Kind;
    type Outcome = settlement::Outcome;
    const LANE: Lane = Lane::Settlement;

    fn kind_bytes_max(kind: &settlement::Kind) -> usize {
        match kind {
            settlement::Kind::Pay { .. }
            | settlement::Kind::Order { .. }
            | settlement::Kind::RetryRefund { .. } => KIND_BYTES,
            settlement::Kind::ResolveRefund { note, .. }
            | settlement::Kind::CompareRefund { note, .. } => KIND_BYTES + note.len(),
            settlement::Kind::WriteOff { amounts, note, .. } => {
                KIND_BYTES + note.len() + AMOUNT_BYTES * amounts.len()
            }
            settlement::Kind::Confirm { payment_key, .. } => KIND_BYTES + payment_key.len(),
            settlement::Kind::GatewayEvent { event_id, .. } => KIND_BYTES + event_id.len(),
            settlement::Kind::Cancel { seats, .. } => {
                KIND_BYTES + SEAT_BYTES * seats.as_ref().map_or(0, Vec::len)
            }
            settlement::Kind::CancelPlaces { seats, places, .. } => {
                KIND_BYTES + SEAT_BYTES * seats.len() + places_bytes_max(places)
            }
        }
    }
}
