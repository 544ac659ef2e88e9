//! A room that takes nobody any more. Millions of tickets are too many for a test, so somebody says so
//! in place of the owner, which is at rest meanwhile.

use crate::hall::{Hall, PARTITIONS, PATIENCE};
use futures_util::StreamExt;
use onsale_platform::nats;
use onsale_schema::admission::{Kind, Outcome, Refusal};
use onsale_schema::message::{CommandMessage, MessageOutcomes, Reply, decode, encode};
use onsale_schema::subjects::Subjects;
use onsale_schema::{Lane, ScheduleId, partition};
use onsale_testkit::spawn::Signal;
use onsale_testkit::{Answer, Buyer};
use serde_json::Value;
use uuid::Uuid;

/// The answer to who joins such a room.
pub async fn join(hall: &mut Hall, buyer: &Buyer, date: Uuid) -> Answer {
    let client = nats::connect(&hall.system.nats_url, "test").await;
    let client = client.expect("NATS");
    let subjects = Subjects::new(&hall.system.prefix).expect("a prefix");
    let no = partition::of_schedule(ScheduleId(date), PARTITIONS);
    let subject = subjects.partition(Lane::Admission, no);
    let mut commands = client.subscribe(subject).await.expect("a subscription");
    client.flush().await.expect("NATS");
    hall.system.workers[0].signal(Signal::SIGSTOP);
    let owner = async {
        loop {
            let message = commands.next().await.expect("a message");
            let message: CommandMessage<Kind> = decode(&message.payload).expect("commands");
            let Some(ingress) = message.reply_to else {
                continue;
            };
            let full = Outcome::Refused(Refusal::RoomFull);
            let reply = Reply {
                messages: vec![MessageOutcomes {
                    message_id: message.id,
                    outcomes: vec![full; message.commands.len()],
                }],
            };
            let subject = subjects.reply(ingress, Lane::Admission);
            let told = client.publish(subject, encode(&reply).into()).await;
            told.expect("told");
            client.flush().await.expect("told");
            return;
        }
    };
    let path = format!("/schedules/{date}/queue");
    let joined = hall.api.post(buyer, &path, "one-too-many", &Value::Null);
    let both = async { tokio::join!(owner, joined) };
    let ((), answer) = tokio::time::timeout(PATIENCE, both)
        .await
        .expect("an answer");
    hall.system.workers[0].signal(Signal::SIGCONT);
    answer
}
