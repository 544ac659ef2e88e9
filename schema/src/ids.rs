//! Newtypes for identifiers, so that a user can't be passed where a seat is meant.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! uuid_id {
    ($($(#[doc = $doc:literal])* $name:ident;)*) => {$(
        $(#[doc = $doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, AsExpression,
            FromSqlRow,
        )]
        #[diesel(sql_type = sql_types::Uuid)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(s).map(Self)
            }
        }
        impl FromSql<sql_types::Uuid, Pg> for $name {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                <Uuid as FromSql<sql_types::Uuid, Pg>>::from_sql(value).map(Self)
            }
        }
        impl ToSql<sql_types::Uuid, Pg> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                <Uuid as ToSql<sql_types::Uuid, Pg>>::to_sql(&self.0, &mut out.reborrow())
            }
        }
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                crate::openapi::uuid(concat!($($doc),*))
            }
        }
        impl utoipa::ToSchema for $name {}
    )*};
}

uuid_id! {
    /// A user, buyer or admin.
    UserId;
    /// A signed-in session of a user.
    SessionId;
    /// A concert.
    ConcertId;
    /// One date of a concert; the unit of sale and the partition key.
    ScheduleId;
    /// A reservation: seats held, paid or ended.
    ReservationId;
    /// Seats that were taken off sale together.
    BlockId;
    /// A ticket of a waiting room: the id of the command that made it, so that the same key is the
    /// same ticket.
    TicketId;
    /// A code that makes its user a guest of a waiting room.
    AccessCodeId;
    /// A payment of a reservation.
    PaymentId;
    /// What is to be paid through the gateway.
    PaymentOrderId;
    /// What was given up of a paid reservation.
    CancellationId;
    /// Money on its way back.
    RefundId;
    /// A ledger transfer.
    TransferId;
    /// A ledger account; a user's account has the user's id.
    AccountId;
    /// A command: UUIDv5 of user, route template and idempotency key.
    CommandId;
    /// A message on a stream: one to 256 commands. Also its `Nats-Msg-Id`.
    MessageId;
    /// Something that could not be processed.
    DeadLetterId;
    /// A notice from one worker to another, done when its receiver says so.
    NoticeId;
    /// Somebody who gets facts over HTTP.
    WebhookId;
    /// One start of a worker process.
    WorkerId;
    /// One start of an ingress process.
    IngressId;
}

impl AccountId {
    /// The account of a user.
    #[must_use]
    pub fn of_user(user: UserId) -> Self {
        Self(user.0)
    }
}

impl PaymentOrderId {
    /// The order of a charge by card: it has the id of the transfer that it ends as.
    #[must_use]
    pub fn of_charge(transfer: TransferId) -> Self {
        Self(transfer.0)
    }

    /// The transfer that a charge by card ends as.
    #[must_use]
    pub fn charged_by(self) -> TransferId {
        TransferId(self.0)
    }
}

impl CommandId {
    /// Derives the id of a client's command. The same key from the same user on the same route is
    /// the same command, whichever ingress it reaches and after any crash.
    #[must_use]
    pub fn derive(user: UserId, route_template: &str, idempotency_key: &str) -> Self {
        let mut name = Vec::with_capacity(16 + route_template.len() + idempotency_key.len() + 1);
        name.extend_from_slice(user.0.as_bytes());
        name.extend_from_slice(route_template.as_bytes());
        name.push(0);
        name.extend_from_slice(idempotency_key.as_bytes());
        Self(Uuid::new_v5(&COMMAND_NAMESPACE, &name))
    }

    /// Derives the id of a command that the system itself sends: the same cause (for example
    /// `"expire"`, the reservation and its end) is the same command.
    #[must_use]
    pub fn of_system(kind: &str, subject: Uuid, discriminator: i64) -> Self {
        let mut name = Vec::with_capacity(kind.len() + 24);
        name.extend_from_slice(kind.as_bytes());
        name.extend_from_slice(subject.as_bytes());
        name.extend_from_slice(&discriminator.to_be_bytes());
        Self(Uuid::new_v5(&SYSTEM_NAMESPACE, &name))
    }
}

/// Name space of client command ids (a fixed random UUID).
const COMMAND_NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_2a34_8c5b_4e0f_9a37_51c0_7be2_d4a1);
/// Name space of system command ids (a fixed random UUID).
const SYSTEM_NAMESPACE: Uuid = Uuid::from_u128(0x0b82_c9d7_3f64_4d1a_8e15_a6f0_29c3_7b5e);

/// The dense index of a seat in its schedule's layout, from 0.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    AsExpression,
    FromSqlRow,
)]
#[diesel(sql_type = sql_types::Integer)]
#[serde(transparent)]
pub struct SeatNo(pub i32);

impl SeatNo {
    /// The seat's place in a dense vector, if it is not negative.
    #[must_use]
    pub fn index(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }
}

impl fmt::Debug for SeatNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromSql<sql_types::Integer, Pg> for SeatNo {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        <i32 as FromSql<sql_types::Integer, Pg>>::from_sql(value).map(Self)
    }
}
impl ToSql<sql_types::Integer, Pg> for SeatNo {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <i32 as ToSql<sql_types::Integer, Pg>>::to_sql(&self.0, &mut out.reborrow())
    }
}

/// The number of a ticket in its waiting room, in the order of arrival, from 0 and without a gap.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    AsExpression,
    FromSqlRow,
)]
#[diesel(sql_type = sql_types::Integer)]
#[serde(transparent)]
pub struct ArrivalNo(pub u32);

impl ArrivalNo {
    /// The ticket's place in a vector of all tickets.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for ArrivalNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromSql<sql_types::Integer, Pg> for ArrivalNo {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let number = <i32 as FromSql<sql_types::Integer, Pg>>::from_sql(value)?;
        Ok(Self(u32::try_from(number)?))
    }
}
impl ToSql<sql_types::Integer, Pg> for ArrivalNo {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let number = i32::try_from(self.0)?;
        <i32 as ToSql<sql_types::Integer, Pg>>::to_sql(&number, &mut out.reborrow())
    }
}

/// Between which restores of Postgres from a backup something was told. Numbers that its rows count are given
/// again after one; so a number means what it did only within a generation. 0 before the first restore,
/// then the time of the last one in microseconds: no generation comes twice, whichever backup was restored.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    AsExpression,
    FromSqlRow,
)]
#[diesel(sql_type = sql_types::BigInt)]
#[serde(transparent)]
pub struct Generation(pub i64);

impl Generation {
    /// Whether nothing was ever restored.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.0 == 0
    }
}

impl FromSql<sql_types::BigInt, Pg> for Generation {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        <i64 as FromSql<sql_types::BigInt, Pg>>::from_sql(value).map(Self)
    }
}
impl ToSql<sql_types::BigInt, Pg> for Generation {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <i64 as ToSql<sql_types::BigInt, Pg>>::to_sql(&self.0, &mut out.reborrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_ids_depend_on_user_route_and_key() {
        let (a, b) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let id = CommandId::derive(a, "/reservations", "k1");
        assert_eq!(id, CommandId::derive(a, "/reservations", "k1"));
        assert_ne!(id, CommandId::derive(b, "/reservations", "k1"));
        assert_ne!(id, CommandId::derive(a, "/payments", "k1"));
        assert_ne!(id, CommandId::derive(a, "/reservations", "k2"));
        // The separator keeps route and key apart.
        assert_ne!(
            CommandId::derive(a, "/a", "bc"),
            CommandId::derive(a, "/ab", "c")
        );
    }
}
