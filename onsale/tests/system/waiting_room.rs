//! The owner of a waiting room dies in a rush: no ticket is lost, and nobody stands elsewhere.

use crate::bus::{Bus, Sent, command};
use crate::hall::{Hall, PARTITIONS};
use onsale_platform::clock::host_now;
use onsale_schema::admission::{Kind, Outcome, PolicyChange, Ticket};
use onsale_schema::message::Command;
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{
    ArrivalNo, Lane, MessageId, ScheduleId, TicketId, Timestamp, UserId, partition,
};
use onsale_testkit::SystemOptions;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Messages of a rush, and people in each.
const MESSAGES: usize = 40;
const PEOPLE: usize = 50;

type Joins = Vec<Command<Kind>>;

struct Room {
    hall: Hall,
    bus: Bus,
    subject: String,
    schedule_id: ScheduleId,
}

impl Room {
    async fn send(&self, messages: &[Joins]) -> Vec<(MessageId, Sent)> {
        let mut sent = Vec::with_capacity(messages.len());
        for joins in messages {
            sent.push(self.bus.send(&self.subject, joins.clone()).await);
        }
        sent
    }

    /// Sends joins and waits for the tickets of all.
    async fn tickets(&mut self, messages: &[Joins]) -> BTreeMap<TicketId, Ticket> {
        let sent = self.send(messages).await;
        let outcomes = self.bus.outcomes::<Outcome>(sent).await;
        let tickets = outcomes.into_values().flatten().map(|outcome| {
            let Outcome::Joined(ticket) = outcome else {
                panic!("{outcome:?}")
            };
            (ticket.ticket_id, ticket)
        });
        tickets.collect()
    }

    async fn amend(&mut self, change: PolicyChange) {
        let schedule_id = self.schedule_id;
        let kind = Kind::Policy {
            schedule_id,
            change,
        };
        let amend = command(UserId(Uuid::now_v7()), host_now(), kind);
        let sent = vec![self.bus.send(&self.subject, vec![amend]).await];
        let outcomes = self.bus.outcomes::<Outcome>(sent).await;
        let outcomes: Vec<Outcome> = outcomes.into_values().flatten().collect();
        assert!(matches!(outcomes[..], [Outcome::Policy(_)]), "{outcomes:?}");
    }

    async fn kill(&mut self) {
        self.hall.system.workers[0].kill9().await;
        let worker = &mut self.hall.system.workers[0];
        worker.restart().await.expect("a worker");
    }
}

fn numbers(tickets: &BTreeMap<TicketId, Ticket>) -> BTreeMap<TicketId, ArrivalNo> {
    let numbers = tickets.values().map(|t| (t.ticket_id, t.arrival_no));
    numbers.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_of_a_waiting_room_loses_no_ticket_and_changes_no_place() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(1)).await;
    let schedule_id = ScheduleId(hall.date(10).await);
    let bus = Bus::connect(&hall).await;
    let no = partition::of_schedule(schedule_id, PARTITIONS);
    let mut room = Room {
        subject: bus.subjects.partition(Lane::Admission, no),
        hall,
        bus,
        schedule_id,
    };
    room.amend(PolicyChange {
        mode: Some(QueueMode::Draw),
        opens_at: Some(Timestamp::from_micros(4_000_000_000_000_000)),
        capacity: Some(10_000),
        rate_per_second: Some(500),
        ..PolicyChange::default()
    })
    .await;
    let join = || {
        command(
            UserId(Uuid::now_v7()),
            host_now(),
            Kind::Join {
                schedule_id,
                code: None,
            },
        )
    };
    let message = || (0..PEOPLE).map(|_| join()).collect::<Joins>();
    let messages: Vec<Joins> = (0..MESSAGES).map(|_| message()).collect();

    let (early, rush) = messages.split_at(MESSAGES / 4);
    let told = room.tickets(early).await;
    // Of these nobody hears anything: some are decided before the owner dies, and some after it.
    room.send(rush).await;
    room.kill().await;
    let all = room.tickets(&messages).await;
    assert_eq!(all.len(), MESSAGES * PEOPLE);
    let mut dense: Vec<u32> = all.values().map(|ticket| ticket.arrival_no.0).collect();
    dense.sort_unstable();
    assert!(dense.iter().zip(0..).all(|(no, nth)| *no == nth), "dense");
    for (id, ticket) in &told {
        assert_eq!(all[id].arrival_no, ticket.arrival_no);
        assert_eq!(all[id].status, TicketStatus::Lobby);
    }

    // And once more, while people are let in.
    room.amend(PolicyChange {
        opens_at: Some(Timestamp::from_micros(0)),
        ..PolicyChange::default()
    })
    .await;
    room.kill().await;
    assert_eq!(numbers(&room.tickets(&messages).await), numbers(&all));
    room.hall.assert_sound().await;
    let waiting = "SELECT count(*) AS n FROM ticket WHERE status = 'WAITING'";
    room.hall.becomes(waiting, 0).await;
    let admitted = "SELECT count(*) AS n FROM ticket WHERE status = 'ADMITTED'";
    let people = i64::try_from(MESSAGES * PEOPLE).expect("few");
    room.hall.becomes(admitted, people).await;
    room.hall.assert_sound().await;
}
