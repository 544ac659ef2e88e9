//! Tells the owner of a room which of its tickets were heard: each second, also when none was, so that a
//! new owner loads the room. A silence counts only while reports come that somebody was heard, be it of
//! others than the owner wants to know of.
//!
//! A report is a command of the system's own: nobody waits for its outcome, and back-pressure does not
//! hold it up.

use crate::ids;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, connection, jetstream};
use futures_util::future::join_all;
use onsale_platform::{Clock, nats};
use onsale_schema::admission::{Kind, SEEN_MAX};
use onsale_schema::message::{Command, CommandMessage, Fingerprint, MESSAGE_BYTES_MAX, encode};
use onsale_schema::subjects::Subjects;
use onsale_schema::{ArrivalNo, CommandId, Lane, MessageId, ScheduleId, UserId, partition};
use std::future::IntoFuture;
use std::time::Duration;
use uuid::Uuid;

/// How long an acknowledgement is waited for; the next report is due then.
const ACK_MAX: Duration = Duration::from_secs(1);

/// Sends the reports of this ingress.
pub struct Reporter {
    client: Client,
    jetstream: jetstream::Context,
    subjects: Subjects,
    clock: Clock,
    partitions: u16,
}

impl Reporter {
    /// Sends over this connection.
    #[must_use]
    pub fn new(client: Client, subjects: Subjects, clock: Clock, partitions: u16) -> Self {
        Self {
            jetstream: nats::jetstream(client.clone()),
            client,
            subjects,
            clock,
            partitions,
        }
    }

    /// Tells the owner of a room that these tickets were heard, and whether others were; at most
    /// [`SEEN_MAX`] in one report.
    ///
    /// # Errors
    /// Those of which it is not sure that they are on the stream.
    pub(super) async fn tell(
        &self,
        schedule: ScheduleId,
        heard: Vec<ArrivalNo>,
        others: bool,
    ) -> Result<(), Vec<ArrivalNo>> {
        if self.client.connection_state() != connection::State::Connected {
            // Else it would be kept, and leave when it is not true any more.
            return Err(heard);
        }
        let reports: Vec<&[ArrivalNo]> = match heard.is_empty() {
            true => vec![&[]],
            false => heard.chunks(SEEN_MAX).collect(),
        };
        let sent = reports.into_iter().map(async |tickets| {
            let sent = tokio::time::timeout(ACK_MAX, self.send(schedule, tickets, others)).await;
            match sent.is_ok_and(|sent| sent.is_ok()) {
                true => Vec::new(),
                false => tickets.to_vec(),
            }
        });
        let untold = join_all(sent).await.concat();
        if untold.is_empty() {
            Ok(())
        } else {
            Err(untold)
        }
    }

    async fn send(
        &self,
        schedule: ScheduleId,
        tickets: &[ArrivalNo],
        others: bool,
    ) -> Result<(), jetstream::context::PublishError> {
        let now = self.clock.now();
        let message = CommandMessage {
            id: MessageId(ids::new_v7(now)),
            reply_to: None,
            commands: vec![Command {
                id: CommandId(ids::new_v7(now)),
                user: UserId(Uuid::nil()),
                fingerprint: Fingerprint(Uuid::nil()),
                deadline: now,
                trace: None,
                kind: Kind::Seen {
                    schedule_id: schedule,
                    tickets: tickets.to_vec(),
                    others,
                },
            }],
        };
        let payload = encode(&message);
        debug_assert!(payload.len() <= MESSAGE_BYTES_MAX, "{}", payload.len());
        let partition = partition::of_schedule(schedule, self.partitions);
        let subject = self.subjects.partition(Lane::Admission, partition);
        let message = PublishMessage::build()
            .payload(payload.into())
            .message_id(message.id.to_string());
        let ack = self.jetstream.send_publish(subject, message).await?;
        ack.into_future().await.map(drop)
    }
}
