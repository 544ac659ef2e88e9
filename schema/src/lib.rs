//! Every shape that outlives a process: ids, money, times, commands, replies, events, subject
//! names, Diesel tables, and what is always true of them by name.
//!
//! This crate does no I/O and decides nothing. Changes to a message are additive: a field may be
//! added with a default, a new meaning is a new kind, and each kind has a frozen sample under
//! `schema/fixtures/` that must still decode.

pub mod admission;
pub mod cancellation;
pub mod draw;
pub mod facts;
pub mod ids;
pub mod invariant;
pub mod layout;
pub mod ledger;
pub mod message;
pub mod money;
mod openapi;
pub mod outcome;
pub mod partition;
pub mod seats;
pub mod settlement;
pub mod status;
pub mod subjects;
pub mod tables;
pub mod time;

pub use ids::{
    AccessCodeId, AccountId, ArrivalNo, BlockId, CancellationId, CommandId, ConcertId,
    DeadLetterId, Generation, IngressId, MessageId, NoticeId, PaymentId, PaymentOrderId, RefundId,
    ReservationId, ScheduleId, SeatNo, SessionId, TicketId, TransferId, UserId, WebhookId,
    WorkerId,
};
pub use money::Money;
pub use partition::PartitionNo;
pub use status::Lane;
pub use time::Timestamp;
