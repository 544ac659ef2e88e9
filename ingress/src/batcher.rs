//! Natural batching: while messages to a partition are on their way, commands for it gather for the
//! next. There is no fixed window, and a lone command leaves at once.
//!
//! A command gets its place in a message when it is handed in, so that its outcome can be looked up
//! later whatever becomes of the message.

use crate::flight::{Flight, NotSent, Ticket};
use crate::ids;
use crate::lag::InFlight;
use crate::lane::Commands;
use crate::replies::Waiting;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Subject, connection, jetstream};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use metrics::Histogram;
use onsale_platform::{Clock, metric, nats};
use onsale_schema::message::{
    COMMANDS_PER_MESSAGE_MAX, Command, CommandMessage, MESSAGE_BYTES_MAX, encode,
};
use onsale_schema::{IngressId, MessageId, Timestamp};
use std::collections::VecDeque;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Messages that may gather for one partition before commands are refused.
const QUEUED_MESSAGES_MAX: usize = 64;
/// Room for a message's own fields.
const MESSAGE_BYTES: usize = 128;
/// Room for a command's fields beside its kind and trace.
const COMMAND_BYTES: usize = 160;
/// How long after its last deadline a message's reply may still be of use, in milliseconds.
const LATE_MS: i64 = 1000;

/// Too many commands wait to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What all batchers of a process share.
#[derive(Clone)]
pub struct Link {
    /// JetStream.
    pub jetstream: jetstream::Context,
    /// The connection under it.
    pub client: async_nats::Client,
    /// Who waits for the outcomes.
    pub ingress_id: IngressId,
    /// The clock.
    pub clock: Clock,
    /// Messages to one partition that may be on their way at once.
    pub window: usize,
}

/// Gathers and publishes the commands for one partition, or one lane of competing consumers.
pub struct Batcher<L: Commands> {
    link: Link,
    subject: Subject,
    waiting: Arc<Waiting<L>>,
    gathered: Mutex<VecDeque<Gathering<L>>>,
    wake: Notify,
    batch_size: Histogram,
    ack_time: Histogram,
}

/// A message that takes further commands.
struct Gathering<L: Commands> {
    flight: Arc<Flight<L>>,
    commands: Vec<Command<L::Kind>>,
    bytes: usize,
    deadline: Timestamp,
}

impl<L: Commands> Gathering<L> {
    fn new(message_id: MessageId) -> Self {
        Self {
            flight: Flight::new(message_id),
            commands: Vec::new(),
            bytes: MESSAGE_BYTES,
            deadline: Timestamp::EPOCH,
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.commands.len() < COMMANDS_PER_MESSAGE_MAX && self.bytes + bytes <= MESSAGE_BYTES_MAX
    }

    fn push(&mut self, command: Command<L::Kind>, bytes: usize) -> Ticket<L> {
        let index = u16::try_from(self.commands.len()).expect("a message has at most 256 commands");
        self.bytes += bytes;
        self.deadline = self.deadline.max(command.deadline);
        self.commands.push(command);
        Ticket::new(Arc::clone(&self.flight), index)
    }
}

/// The most bytes that a command takes on the wire.
fn command_bytes_max<L: Commands>(command: &Command<L::Kind>) -> usize {
    let trace = command.trace.as_ref().map_or(0, |trace| trace.len() + 8);
    COMMAND_BYTES + trace + L::kind_bytes_max(&command.kind)
}

impl<L: Commands> Batcher<L> {
    /// A batcher for the commands on `subject`; [`Self::run`] publishes them.
    #[must_use]
    pub fn new(link: Link, subject: String, waiting: Arc<Waiting<L>>) -> Self {
        let lane = L::LANE.as_str();
        Self {
            link,
            subject: subject.into(),
            waiting,
            gathered: Mutex::default(),
            wake: Notify::new(),
            batch_size: metrics::histogram!(metric::INGRESS_BATCH, "lane" => lane),
            ack_time: metrics::histogram!(metric::INGRESS_PUBACK, "lane" => lane),
        }
    }

    /// Hands in a command; the next message takes it.
    ///
    /// # Errors
    /// [`Full`] when too many wait.
    pub fn submit(
        &self,
        command: Command<L::Kind>,
        in_flight: InFlight,
    ) -> Result<Ticket<L>, Full> {
        let bytes = command_bytes_max::<L>(&command);
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = gathered.back_mut()
            && last.has_room(bytes)
        {
            last.flight.count(in_flight);
            return Ok(last.push(command, bytes));
        }
        if gathered.len() >= QUEUED_MESSAGES_MAX {
            return Err(Full);
        }
        let mut next = Gathering::new(MessageId(ids::new_v7(self.link.clock.now())));
        next.flight.count(in_flight);
        let ticket = next.push(command, bytes);
        gathered.push_back(next);
        drop(gathered);
        self.wake.notify_one();
        Ok(ticket)
    }

    /// Publishes until `stop`; then what has gathered is refused.
    pub async fn run(&self, stop: CancellationToken) {
        let mut acks = FuturesUnordered::new();
        let mut connection = nats::Link::of(&self.link.client);
        let mut check = tokio::time::interval(nats::LINK_CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some((flight, ack)) = acks.next(), if !acks.is_empty() => {
                    if let Some(ack) = ack {
                        self.acknowledged(&flight, ack);
                    }
                }
                () = self.wake.notified(), if acks.len() < self.link.window => {}
                // What was on its way may be on the stream: its outcome is open. But no
                // acknowledgement will come, and what has gathered need not wait for it.
                _ = check.tick(), if !acks.is_empty() => if connection.was_lost() {
                    acks.clear();
                },
                () = stop.cancelled() => break,
            }
            while acks.len() < self.link.window
                && let Some(gathering) = self.take()
            {
                if acks.is_empty() {
                    // What was lost before harms nothing that leaves from here on.
                    connection.was_lost();
                }
                if let Some((flight, ack)) = self.publish(gathering).await {
                    let started = Instant::now();
                    let ack_time = self.ack_time.clone();
                    acks.push(async move {
                        let acknowledged = async {
                            let ack = ack.into_future().await;
                            ack_time.record(started.elapsed().as_secs_f64());
                            ack
                        };
                        // A reply says as much, and must not wait for an acknowledgement that was
                        // lost.
                        let ack = tokio::select! {
                            biased;
                            ack = acknowledged => Some(ack),
                            () = flight.ended() => None,
                        };
                        (flight, ack)
                    });
                }
            }
        }
        while let Some(gathering) = self.take() {
            gathering.flight.end(Err(NotSent));
        }
    }

    fn take(&self) -> Option<Gathering<L>> {
        self.gathered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// Publishes a message, unless that is of no use: everybody's deadline has passed, or the
    /// server is away.
    async fn publish(&self, gathering: Gathering<L>) -> Option<(Arc<Flight<L>>, PublishAckFuture)> {
        let Gathering {
            flight,
            commands,
            deadline,
            ..
        } = gathering;
        let connected = self.link.client.connection_state() == connection::State::Connected;
        if !connected || deadline <= self.link.clock.now() {
            flight.end(Err(NotSent));
            return None;
        }
        let message_id = flight.message_id();
        let count = commands.len();
        self.batch_size.record(count as f64);
        let payload = encode(&CommandMessage {
            id: message_id,
            reply_to: Some(self.link.ingress_id),
            commands,
        });
        debug_assert!(payload.len() <= MESSAGE_BYTES_MAX, "{}", payload.len());
        // Before it is published: its reply may be quicker than its acknowledgement.
        self.waiting
            .insert(Arc::clone(&flight), count, deadline.plus_ms(LATE_MS));
        let message = PublishMessage::build()
            .payload(payload.into())
            .message_id(message_id.to_string());
        let published = self
            .link
            .jetstream
            .send_publish(self.subject.clone(), message);
        match published.await {
            Ok(ack) => Some((flight, ack)),
            Err(error) => {
                tracing::warn!(%error, lane = %L::LANE, "a message could not be published");
                self.waiting.not_sent(message_id);
                None
            }
        }
    }

    fn acknowledged(
        &self,
        flight: &Arc<Flight<L>>,
        ack: Result<jetstream::publish::PublishAck, PublishError>,
    ) {
        let Err(error) = ack else {
            flight.stored();
            return;
        };
        match error.kind() {
            // It may be on the stream all the same: the outcome is open.
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                tracing::warn!(%error, lane = %L::LANE, "a message was not acknowledged");
            }
            PublishErrorKind::StreamNotFound
            | PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::WrongLastSequence
            | PublishErrorKind::MaxAckPending
            | PublishErrorKind::MaxPayloadExceeded
            | PublishErrorKind::Other => {
                tracing::error!(%error, lane = %L::LANE, "a message was refused");
                self.waiting.not_sent(flight.message_id());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{Admission, Ledger, Seats, Settlement};
    use onsale_schema::admission::{self, Code, Pass, Ticketed};
    use onsale_schema::message::Fingerprint;
    use onsale_schema::seats::{BLOCK_SEATS_MAX, REASON_CHARS};
    use onsale_schema::status::{
        AccessGrant, ChargeMethod, PaymentMethod, ReservationStatus, SaleState,
    };
    use onsale_schema::{
        AccessCodeId, ArrivalNo, BlockId, CancellationId, CommandId, Generation, Money, NoticeId,
        PaymentId, ReservationId, ScheduleId, SeatNo, TicketId, UserId, ledger, seats, settlement,
    };
    use uuid::Uuid;

    fn command<K>(kind: K) -> Command<K> {
        Command {
            id: CommandId(Uuid::max()),
            user: UserId(Uuid::max()),
            fingerprint: Fingerprint(Uuid::max()),
            deadline: Timestamp::from_micros(i64::MAX),
            trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            kind,
        }
    }

    fn assert_fits<L: Commands>(kind: L::Kind) {
        let command = command(kind);
        let real = encode(&command).len();
        let bound = command_bytes_max::<L>(&command);
        assert!(real <= bound, "{real} > {bound}");
    }

    #[test]
    fn the_bound_on_bytes_holds() {
        let (reservation_id, schedule_id) = (ReservationId(Uuid::max()), ScheduleId(Uuid::max()));
        let pass = Some(Pass {
            ticket: Ticketed {
                user_id: UserId(Uuid::max()),
                schedule_id,
                ticket_id: TicketId(Uuid::max()),
                arrival_no: ArrivalNo(u32::MAX),
                is_guest: true,
                guest_no: None,
                generation: Generation(i64::MAX),
            },
            expires_at: Timestamp::from_micros(i64::MAX),
            holds_max: u32::MAX,
        });
        for (count, pass) in [(1, None), (1, pass), (100, pass)] {
            let seats = vec![SeatNo(i32::MAX); count];
            assert_fits::<Seats>(seats::Kind::Hold {
                reservation_id,
                schedule_id,
                seats,
                places: vec![],
                layout_no: Some(i64::MAX),
                pass,
            });
        }
        let place = seats::Places {
            section: "s".repeat(128),
            count: u32::MAX,
        };
        assert_fits::<Seats>(seats::Kind::Hold {
            reservation_id,
            schedule_id,
            seats: vec![SeatNo(i32::MAX); 100],
            places: vec![place.clone(); 10],
            layout_no: Some(i64::MAX),
            pass,
        });
        let at = Some(Timestamp::from_micros(i64::MAX));
        assert_fits::<Seats>(seats::Kind::Policy {
            schedule_id,
            change: seats::PolicyChange {
                state: Some(SaleState::Paused),
                booking_opens_at: at,
                booking_closes_at: at,
                hold_ms: Some(i64::MAX),
                seats_per_user: Some(u32::MAX),
                extensions_max: Some(u32::MAX),
                hold_total_ms: Some(i64::MAX),
                prevents_orphans: Some(true),
                release_jitter_ms: Some(i64::MAX),
                cancelled: true,
            },
        });
        let (block_id, reason) = (BlockId(Uuid::max()), "가".repeat(*REASON_CHARS.end()));
        let all = vec![SeatNo(i32::MAX); BLOCK_SEATS_MAX];
        let block = seats::Kind::Block {
            block_id,
            schedule_id,
            seats: all.clone(),
            reason: reason.clone(),
            layout_no: Some(i64::MAX),
        };
        let bytes = command_bytes_max::<Seats>(&command(block.clone()));
        assert!(Gathering::<Seats>::new(MessageId(Uuid::nil())).has_room(bytes));
        assert_fits::<Seats>(block);
        assert_fits::<Seats>(seats::Kind::Unblock {
            block_id,
            schedule_id,
            seats: Some(all),
            reason: Some(reason),
        });
        assert_fits::<Seats>(seats::Kind::Release {
            reservation_id,
            schedule_id,
        });
        assert_fits::<Seats>(seats::Kind::Extend {
            reservation_id,
            schedule_id,
        });
        assert_fits::<Seats>(seats::Kind::Expire {
            reservation_id,
            schedule_id,
            expires_at: Timestamp::from_micros(i64::MAX),
        });
        assert_fits::<Seats>(seats::Kind::Paid {
            notice_id: NoticeId(Uuid::max()),
            reservation_id,
            schedule_id,
        });
        assert_fits::<Seats>(seats::Kind::PaidAll {
            notice_id: NoticeId(Uuid::max()),
            reservation_ids: vec![reservation_id; seats::PAID_MAX],
            schedule_id,
        });
        assert_fits::<Ledger>(ledger::Kind::Charge {
            amount: Money::won(i64::MAX),
            method: ChargeMethod::Card,
        });
        assert_fits::<Settlement>(settlement::Kind::Pay {
            payment_id: PaymentId(Uuid::max()),
            reservation_id,
            method: PaymentMethod::Points,
        });
        assert_fits::<Settlement>(settlement::Kind::Cancel {
            cancellation_id: CancellationId(Uuid::max()),
            reservation_id,
            seats: Some(vec![SeatNo(i32::MAX); 100]),
        });
        assert_fits::<Settlement>(settlement::Kind::CancelPlaces {
            cancellation_id: CancellationId(Uuid::max()),
            reservation_id,
            seats: vec![SeatNo(i32::MAX); 100],
            places: vec![place; 10],
        });
        let empty = encode(&CommandMessage::<seats::Kind> {
            id: MessageId(Uuid::max()),
            reply_to: Some(IngressId(Uuid::max())),
            commands: vec![],
        });
        assert!(empty.len() + 8 <= MESSAGE_BYTES);
        let _ = ReservationStatus::Held;
    }

    #[test]
    fn the_bound_on_bytes_holds_for_access_codes() {
        let (schedule_id, code_id) = (ScheduleId(Uuid::max()), AccessCodeId(Uuid::max()));
        let code = Code {
            code_id,
            schedule_id,
            grant: AccessGrant::Presale,
            uses: u32::MAX,
            from: Timestamp::from_micros(i64::MAX),
            until: Timestamp::from_micros(i64::MAX),
        };
        for code in [None, Some(code)] {
            assert_fits::<Admission>(admission::Kind::Join { schedule_id, code });
        }
        assert_fits::<Admission>(admission::Kind::RevokeCode {
            schedule_id,
            code_id,
        });
    }

    #[test]
    fn a_message_is_bounded_by_count_and_bytes() {
        let mut by_count = Gathering::<Ledger>::new(MessageId(Uuid::nil()));
        let charge = || {
            command(ledger::Kind::Charge {
                amount: Money::won(1),
                method: ChargeMethod::Card,
            })
        };
        let mut pushed = 0;
        while by_count.has_room(command_bytes_max::<Ledger>(&charge())) {
            assert_eq!(by_count.push(charge(), 1).index(), pushed);
            pushed += 1;
        }
        assert_eq!(usize::from(pushed), COMMANDS_PER_MESSAGE_MAX);

        let by_bytes = Gathering::<Ledger>::new(MessageId(Uuid::nil()));
        assert!(by_bytes.has_room(MESSAGE_BYTES_MAX - MESSAGE_BYTES));
        assert!(!by_bytes.has_room(MESSAGE_BYTES_MAX - MESSAGE_BYTES + 1));
    }
}
