//! Speaks to workers as an ingress does, by messages: what has to be sent to the millisecond, or in
//! bulk, does not go through HTTP.

use crate::hall::{Hall, PATIENCE};
use async_nats::{Subscriber, jetstream};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use onsale_platform::nats;
use onsale_schema::message::{Command, CommandMessage, Fingerprint, Reply, decode, encode};
use onsale_schema::subjects::Subjects;
use onsale_schema::{CommandId, IngressId, MessageId, Timestamp, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use uuid::Uuid;

/// How long a worker may take until a command is refused for its age.
const DEADLINE_MS: i64 = 120_000;

/// An ingress without HTTP, whose commands all have outcomes of one kind.
pub struct Bus {
    pub subjects: Subjects,
    jetstream: jetstream::Context,
    ingress: IngressId,
    replies: Subscriber,
}

/// Where a message is on its way to the stream.
pub type Sent = jetstream::context::PublishAckFuture;

impl Bus {
    pub async fn connect(hall: &Hall) -> Self {
        let client = nats::connect(&hall.system.nats_url, "test")
            .await
            .expect("NATS");
        let subjects = Subjects::new(&hall.system.prefix).expect("a prefix");
        let ingress = IngressId(Uuid::now_v7());
        let replies = client.subscribe(subjects.replies(ingress)).await;
        let replies = replies.expect("a subscription");
        client.flush().await.expect("NATS");
        Self {
            subjects,
            jetstream: nats::jetstream(client),
            ingress,
            replies,
        }
    }

    /// Sends commands as one message; it is in the stream when the second value says so.
    pub async fn send<K: Serialize>(
        &self,
        subject: &str,
        commands: Vec<Command<K>>,
    ) -> (MessageId, Sent) {
        let message = CommandMessage {
            id: MessageId(Uuid::now_v7()),
            reply_to: Some(self.ingress),
            commands,
        };
        let payload = encode(&message).into();
        let sent = self.jetstream.publish(subject.to_owned(), payload).await;
        (message.id, sent.expect("NATS"))
    }

    /// Waits until these messages are in the stream and their outcomes are there.
    pub async fn outcomes<O: DeserializeOwned>(
        &mut self,
        messages: Vec<(MessageId, Sent)>,
    ) -> HashMap<MessageId, Vec<O>> {
        let (mut open, sent): (Vec<MessageId>, Vec<Sent>) = messages.into_iter().unzip();
        let mut outcomes = HashMap::new();
        let heard = async {
            try_join_all(sent.into_iter().map(IntoFuture::into_future))
                .await
                .expect("every message is in the stream");
            while !open.is_empty() {
                let reply = self.replies.next().await.expect("a reply");
                let reply: Reply<O> = decode(&reply.payload).expect("outcomes");
                for message in reply.messages {
                    open.retain(|id| *id != message.message_id);
                    outcomes.insert(message.message_id, message.outcomes);
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard)
            .await
            .expect("outcomes in time");
        outcomes
    }
}

/// A new command of a user.
pub fn command<K>(user: UserId, now: Timestamp, kind: K) -> Command<K> {
    Command {
        id: CommandId(Uuid::now_v7()),
        user,
        fingerprint: Fingerprint(Uuid::now_v7()),
        deadline: now.plus_ms(DEADLINE_MS),
        trace: None,
        kind,
    }
}
