//! The admission lane on a real nats-server and a real Postgres.

#![allow(clippy::unwrap_used, reason = "a test")]

mod codes;
mod rig;
mod stored;

use onsale_schema::admission::{
    HoldChange, HoldState, Kind, Order, Outcome, Policy, PolicyChange, Refusal, Watermark,
};
use onsale_schema::draw::{Digest, Draw};
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, NoticeId, ReservationId, ScheduleId, UserId};
use rig::{Rig, ticket};
use uuid::Uuid;

async fn amend(rig: &mut Rig, schedule_id: ScheduleId, change: PolicyChange) -> Policy {
    let operator = UserId(Uuid::now_v7());
    let command = rig.command(
        operator,
        Kind::Policy {
            schedule_id,
            change,
        },
    );
    match rig.ask(command).await {
        Outcome::Policy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

/// A room that lets in so many at once, in the order of arrival, or drawn.
fn rules(mode: QueueMode, capacity: u32) -> PolicyChange {
    PolicyChange {
        mode: Some(mode),
        capacity: Some(capacity),
        rate_per_second: Some(1000),
        ..PolicyChange::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_made_by_the_first_word_about_it_and_lets_people_in_by_its_rules() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule().await;
    let worker = rig.worker().await;

    // Nobody has said anything: there is no room, and nothing is written.
    let early = rig.join(schedule_id);
    assert_eq!(
        rig.ask(early).await,
        Outcome::Refused(Refusal::RoomOff),
        "off"
    );
    let nowhere = rig.join(ScheduleId(Uuid::now_v7()));
    assert_eq!(
        rig.ask(nowhere).await,
        Outcome::Refused(Refusal::UnknownSchedule)
    );
    assert_eq!(
        rig.number("SELECT count(*) AS n FROM waiting_room").await,
        0
    );

    let policy = amend(&mut rig, schedule_id, rules(QueueMode::Fifo, 2)).await;
    assert_eq!((policy.capacity, policy.mode), (2, QueueMode::Fifo));
    let joins: Vec<_> = (0..5).map(|_| rig.join(schedule_id)).collect();
    let message = rig.send(joins.clone()).await;
    let tickets: Vec<_> = rig
        .outcomes(message)
        .await
        .into_iter()
        .map(ticket)
        .collect();
    let numbers: Vec<u32> = tickets.iter().map(|ticket| ticket.arrival_no.0).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);

    let told = rig.told(schedule_id, |told| told.active == 2).await;
    assert_eq!((told.front.0, told.arrivals), (2, 5));
    // The same key is the same ticket; and so is another one while the ticket lives.
    let again = rig.ticket(joins[0].clone()).await;
    assert_eq!(again.ticket_id, tickets[0].ticket_id);
    assert_eq!(again.status, TicketStatus::Admitted);
    let other = rig.command(
        joins[4].user,
        Kind::Join {
            schedule_id,
            code: None,
        },
    );
    let other = rig.ticket(other).await;
    assert_eq!(
        (other.ticket_id, other.is_new, other.status),
        (tickets[4].ticket_id, false, TicketStatus::Waiting)
    );
    // Who leaves makes room for the next.
    let leave = rig.command(
        joins[0].user,
        Kind::Leave {
            schedule_id,
            ticket_id: None,
        },
    );
    let left = Outcome::Left {
        ticket_id: tickets[0].ticket_id,
    };
    assert_eq!(rig.ask(leave.clone()).await, left);
    rig.told(schedule_id, |told| told.front.0 == 3).await;
    // A retry of the first command is known, also when its owner has had a newer ticket.
    let newer = rig.command(
        joins[0].user,
        Kind::Join {
            schedule_id,
            code: None,
        },
    );
    assert_eq!(rig.ticket(newer).await.arrival_no, ArrivalNo(5));
    let live = rig.ticket(joins[0].clone()).await;
    assert_eq!((live.arrival_no, live.is_new), (ArrivalNo(5), false));
    let leave = rig.command(joins[0].user, leave.kind);
    rig.ask(leave).await;
    let retried = rig.ticket(joins[0].clone()).await;
    assert_eq!(
        (retried.ticket_id, retried.status),
        (tickets[0].ticket_id, TicketStatus::Left)
    );
    worker.stop().await;
    assert_eq!(
        rig.number("SELECT count(*) AS n FROM ticket WHERE admission_no IS NOT NULL")
            .await,
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_owner_goes_on_where_the_last_one_was() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule().await;
    let worker = rig.worker().await;
    let opens_at = rig.clock.now().plus_ms(3_600_000);
    let change = PolicyChange {
        opens_at: Some(opens_at),
        ..rules(QueueMode::Draw, 3)
    };
    amend(&mut rig, schedule_id, change).await;
    let joins: Vec<_> = (0..40).map(|_| rig.join(schedule_id)).collect();
    let message = rig.send(joins.clone()).await;
    let outcomes = rig.outcomes(message).await;
    let tickets: Vec<_> = outcomes.into_iter().map(ticket).collect();
    assert!(
        tickets
            .iter()
            .all(|ticket| ticket.status == TicketStatus::Lobby)
    );
    worker.stop().await;
    assert_eq!(
        rig.number(
            "SELECT count(*) AS n FROM waiting_room WHERE revealed IS NULL AND commitment IS NOT NULL"
        )
        .await,
        1
    );

    let worker = rig.worker().await;
    for (join, known) in joins.iter().zip(&tickets).take(3) {
        assert_eq!(rig.ticket(join.clone()).await.arrival_no, known.arrival_no);
    }
    // Opened: one row is written, and whoever recomputes the order from what is public agrees.
    let change = PolicyChange {
        opens_at: Some(rig.clock.now().plus_ms(-1000)),
        ..PolicyChange::default()
    };
    amend(&mut rig, schedule_id, change).await;
    let told = rig.told(schedule_id, |told| told.active == 3).await;
    worker.stop().await;
    let lobby = told.lobby.expect("it is closed");
    let mut digest = Digest::of_room(schedule_id);
    for known in &tickets {
        digest = digest.with(known.arrival_no, known.ticket_id);
    }
    assert_eq!((lobby.size, lobby.digest), (40, digest));
    let Some(Order::Drawn { seed }) = lobby.order else {
        panic!("it is drawn");
    };
    let draw = Draw::new(seed, 40);
    let first: Vec<u32> = draw.order().iter().take(3).map(|no| no.0).collect();
    let first = first
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let admitted = format!(
        "SELECT count(*) AS n FROM ticket JOIN waiting_room USING (schedule_id)
         WHERE status = 'ADMITTED' AND arrival_no IN ({first}) AND revealed = secret"
    );
    assert_eq!(rig.number(&admitted).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_holds_are_marked_done_and_a_payment_frees_the_slot() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule().await;
    let worker = rig.worker().await;
    amend(&mut rig, schedule_id, rules(QueueMode::Fifo, 1)).await;
    let (first, second) = (rig.join(schedule_id), rig.join(schedule_id));
    let message = rig.send(vec![first, second]).await;
    let tickets: Vec<_> = rig
        .outcomes(message)
        .await
        .into_iter()
        .map(ticket)
        .collect();
    rig.told(schedule_id, |told| told.active == 1).await;

    // The stream tells of a payment that is not, since Postgres was restored.
    let change = |state| HoldChange {
        ticket_id: tickets[0].ticket_id,
        arrival_no: tickets[0].arrival_no,
        reservation_id: ReservationId(Uuid::from_u128(1)),
        state,
    };
    let restored = rig.command(
        UserId(Uuid::nil()),
        Kind::Holds {
            notice_id: NoticeId(Uuid::now_v7()),
            schedule_id,
            changes: vec![change(HoldState::Paid)],
        },
    );
    assert_eq!(rig.ask(restored).await, Outcome::Applied);
    let admitted = "SELECT count(*) AS n FROM ticket WHERE arrival_no = 0 AND status = 'ADMITTED'";
    assert_eq!(rig.number(admitted).await, 1);

    for (state, expected) in [
        (
            HoldState::Until(rig.clock.now().plus_ms(3_600_000)),
            TicketStatus::Admitted,
        ),
        (HoldState::Paid, TicketStatus::Done),
    ] {
        let notice_id = NoticeId(Uuid::now_v7());
        rig.sql(&format!(
            "INSERT INTO notice (notice_id, lane, schedule_id, payload)
                 VALUES ('{notice_id}', 'admission', '{schedule_id}', '')"
        ))
        .await;
        let told = rig.command(
            UserId(Uuid::nil()),
            Kind::Holds {
                notice_id,
                schedule_id,
                changes: vec![change(state)],
            },
        );
        assert_eq!(rig.ask(told).await, Outcome::Applied);
        let done = format!(
            "SELECT count(*) AS n FROM notice, ticket WHERE notice_id = '{notice_id}'
             AND done_at IS NOT NULL AND arrival_no = 0 AND status = '{expected}'"
        );
        assert_eq!(rig.number(&done).await, 1, "{expected}");
    }
    let told = rig.told(schedule_id, |told| told.front.0 == 2).await;
    assert_eq!(told.active, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_heard_writes_nothing_and_what_is_no_command_is_put_aside() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule().await;
    let worker = rig.worker().await;
    let change = PolicyChange {
        opens_at: Some(rig.clock.now().plus_ms(3_600_000)),
        ..rules(QueueMode::Fifo, 1)
    };
    amend(&mut rig, schedule_id, change).await;
    let joins: Vec<_> = (0..3).map(|_| rig.join(schedule_id)).collect();
    let message = rig.send(joins).await;
    rig.outcomes(message).await;
    const WRITTEN: &str = "SELECT (SELECT sum(version) FROM waiting_room)::bigint
         + (SELECT sum(xmin::text::bigint) FROM ticket)::bigint AS n";
    let before = rig.number(WRITTEN).await;

    rig.send_bytes(schedule_id, b"no message".to_vec()).await;
    let seen = Kind::Seen {
        schedule_id,
        tickets: (0..3).map(ArrivalNo).collect(),
        others: true,
    };
    for _ in 0..3 {
        let seen = rig.command(UserId(Uuid::nil()), seen.clone());
        assert_eq!(rig.ask(seen).await, Outcome::Applied);
    }
    assert_eq!(rig.number(WRITTEN).await, before);
    assert_eq!(
        rig.number("SELECT count(*) AS n FROM dead_letter WHERE lane = 'admission'")
            .await,
        1
    );
    // Everybody is told each second what the owner knows, also while nothing changes.
    let beat = |told: &Watermark| told.from_version == told.version && told.arrivals == 3;
    let (once, again) = (
        rig.told(schedule_id, beat).await,
        rig.told(schedule_id, beat).await,
    );
    assert_eq!(once.version, again.version);
    assert!(again.at > once.at);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_for_two_rooms_gets_one_ticket() {
    let mut rig = Rig::new().await;
    let worker = rig.worker().await;
    let mut rooms = Vec::new();
    // Some of them share a partition, and some don't.
    for _ in 0..6 {
        let schedule_id = rig.schedule().await;
        amend(&mut rig, schedule_id, rules(QueueMode::Fifo, 10)).await;
        rooms.push(schedule_id);
    }
    let join = rig.join(rooms[0]);
    let mut messages = Vec::new();
    for schedule_id in &rooms {
        let mut join = join.clone();
        join.kind = Kind::Join {
            schedule_id: *schedule_id,
            code: None,
        };
        messages.push(rig.send(vec![join]).await);
    }
    let (mut joined, mut refused) = (0, 0);
    for message in messages {
        match rig.outcomes(message).await.remove(0) {
            Outcome::Joined(_) => joined += 1,
            Outcome::Refused(Refusal::KeyReused) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((joined, refused), (1, 5));
    worker.stop().await;
    assert_eq!(rig.number("SELECT count(*) AS n FROM ticket").await, 1);
    assert_eq!(rig.number("SELECT count(*) AS n FROM dead_letter").await, 0);
}

/// The audit has to know it: a pass lasts longer than the rule by which it was signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_remembers_how_many_holds_a_pass_was_good_for() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule().await;
    let worker = rig.worker().await;
    // It begins with ten, of which nobody has ever had one.
    for (holds, before) in [(7, 0), (3, 7), (5, 7), (9, 7), (2, 9)] {
        let change = PolicyChange {
            mode: Some(QueueMode::Fifo),
            holds_per_pass: Some(holds),
            ..PolicyChange::default()
        };
        amend(&mut rig, schedule_id, change).await;
        let known = "SELECT holds_per_pass_before::bigint AS n FROM waiting_room";
        assert_eq!(rig.number(known).await, before, "{holds}");
    }
    worker.stop().await;
}
