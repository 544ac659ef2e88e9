//! What an ingress tells the owner of a room of who was heard.

use super::by_arrival;
use super::line::Line;
use crate::hall::{PARTITIONS, PATIENCE};
use async_nats::Subscriber;
use futures_util::StreamExt;
use onsale_platform::nats;
use onsale_schema::admission::Kind;
use onsale_schema::message::{CommandMessage, decode};
use onsale_schema::subjects::Subjects;
use onsale_schema::{ArrivalNo, Lane, ScheduleId, partition};
use onsale_testkit::SystemOptions;

/// What is said to the owner of the room.
async fn said_to_its_owner(line: &Line) -> Subscriber {
    let system = &line.hall.system;
    let client = nats::connect(&system.nats_url, "test").await.expect("NATS");
    let subjects = Subjects::new(&system.prefix).expect("a prefix");
    let no = partition::of_schedule(ScheduleId(line.date), PARTITIONS);
    let subject = subjects.partition(Lane::Admission, no);
    let said = client.subscribe(subject).await.expect("a subscription");
    client.flush().await.expect("NATS");
    said
}

/// Reads on until a report says this of who was heard.
async fn reported(said: &mut Subscriber, heard: &[u32], of_others: bool) {
    let wanted: Vec<ArrivalNo> = heard.iter().copied().map(ArrivalNo).collect();
    let mut last = None;
    let reported = async {
        while let Some(message) = said.next().await {
            let message: CommandMessage<Kind> = decode(&message.payload).expect("commands");
            for command in message.commands {
                if let Kind::Seen {
                    tickets, others, ..
                } = command.kind
                {
                    if (&tickets, others) == (&wanted, of_others) {
                        return;
                    }
                    last = Some((tickets, others));
                }
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reported).await;
    assert!(in_time.is_ok(), "{last:?}, not {heard:?} {of_others}");
}

/// Of whom there is nothing to know, the owner hears only that there is somebody: by that it tells a
/// silence from an outage.
#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_reports_who_may_be_let_in_and_whether_others_are_there() {
    let line = Line::start(SystemOptions::default(), by_arrival(1)).await;
    let api = line.hall.api.clone();
    let (all, tickets) = line.behind_the_first(&api, 3).await;
    let mut said = said_to_its_owner(&line).await;
    // Nobody asks.
    reported(&mut said, &[], false).await;
    let poll = async |no: usize| {
        let told = line.poll(&api, &all[no], Some(&tickets[no])).await;
        told.expect(200);
    };
    // Who has a pass is heard, and does not have to be.
    poll(0).await;
    reported(&mut said, &[], true).await;
    reported(&mut said, &[], false).await;
    poll(2).await;
    poll(2).await;
    reported(&mut said, &[2], false).await;
    reported(&mut said, &[], false).await;
    let mut said = said_to_its_owner(&line).await;
    line.leave(&api, &all[2], None).await.expect(204);
    line.becomes(&api, &all[2], &tickets[2], "LEFT").await;
    reported(&mut said, &[], true).await;
}
