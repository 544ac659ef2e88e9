//! Access codes: what is known of them is in the rows, whoever owns the room.

use crate::rig::Rig;
use crate::{amend, rules};
use onsale_schema::admission::{Code, Kind, Outcome, PolicyChange, Refusal};
use onsale_schema::message::Command;
use onsale_schema::status::{AccessGrant, QueueMode, TicketStatus};
use onsale_schema::{AccessCodeId, ScheduleId, UserId};
use uuid::Uuid;

impl Rig {
    async fn presale(&mut self, schedule_id: ScheduleId, uses: u32) -> Code {
        let now = self.clock.now();
        let code = Code {
            code_id: AccessCodeId(Uuid::now_v7()),
            schedule_id,
            grant: AccessGrant::Presale,
            uses,
            from: now.plus_ms(-60_000),
            until: now.plus_ms(3_600_000),
        };
        self.access_code(&code).await;
        code
    }

    fn guest(&self, code: Code) -> Command<Kind> {
        let kind = Kind::Join {
            schedule_id: code.schedule_id,
            code: Some(code),
        };
        self.command(UserId(Uuid::now_v7()), kind)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_use_of_a_code_counts_once_and_the_next_owner_knows_of_it() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule().await;
    let (code, other) = (
        rig.presale(schedule_id, 3).await,
        rig.presale(schedule_id, 1).await,
    );
    let worker = rig.worker().await;
    let change = PolicyChange {
        opens_at: Some(rig.clock.now().plus_ms(3_600_000)),
        ..rules(QueueMode::Fifo, 10)
    };
    amend(&mut rig, schedule_id, change).await;
    let joins: Vec<_> = (0..5).map(|_| rig.guest(code)).collect();
    let message = rig.send(joins.clone()).await;
    let outcomes = rig.outcomes(message).await;
    let used_up = Outcome::Refused(Refusal::CodeUsedUp);
    assert_eq!(outcomes[3..], [used_up.clone(), used_up.clone()]);
    rig.told(schedule_id, |told| told.active == 3).await;
    worker.stop().await;

    let worker = rig.worker().await;
    for (join, known) in joins.iter().zip(&outcomes) {
        match (rig.ask(join.clone()).await, known) {
            (Outcome::Joined(ticket), Outcome::Joined(known)) => {
                assert_eq!(ticket.ticket_id, known.ticket_id);
                assert_eq!(ticket.status, TicketStatus::Admitted);
                assert!(ticket.is_guest && known.is_guest);
            }
            (again, known) => assert_eq!(again, *known),
        }
    }
    let one_more = rig.guest(code);
    assert_eq!(rig.ask(one_more).await, used_up);
    let code_id = other.code_id;
    for _ in 0..2 {
        let revoke = Kind::RevokeCode {
            schedule_id,
            code_id,
        };
        let revoke = rig.command(UserId(Uuid::now_v7()), revoke);
        assert_eq!(rig.ask(revoke).await, Outcome::Applied);
    }
    worker.stop().await;

    let worker = rig.worker().await;
    let revoked = rig.guest(other);
    let revoked = rig.ask(revoked).await;
    assert_eq!(revoked, Outcome::Refused(Refusal::CodeRevoked));
    worker.stop().await;
    let guests = "SELECT count(*) AS n FROM ticket JOIN access_code USING (access_code_id)
                  WHERE status = 'ADMITTED' AND place IS NULL AND revoked_at IS NULL";
    assert_eq!(rig.number(guests).await, 3);
    let codes = "SELECT count(*) AS n FROM access_code WHERE revoked_at IS NOT NULL";
    assert_eq!(rig.number(codes).await, 1);
    let used = "SELECT sum(used) AS n FROM access_code";
    assert_eq!(rig.number(used).await, 3);
    let nobody = "SELECT count(*) AS n FROM waiting_room WHERE front > 0 OR guest_front <> 3";
    assert_eq!(rig.number(nobody).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_uses_a_code_once_whoever_owns_the_room() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule().await;
    let code = rig.presale(schedule_id, 2).await;
    let worker = rig.worker().await;
    let change = PolicyChange {
        opens_at: Some(rig.clock.now().plus_ms(3_600_000)),
        ..rules(QueueMode::Fifo, 0)
    };
    amend(&mut rig, schedule_id, change).await;
    let first = rig.guest(code);
    let buyer = first.user;
    // It was in line before it had a code: one decision makes it a guest.
    let kind = Kind::Join {
        schedule_id,
        code: None,
    };
    let in_line = rig.command(buyer, kind.clone());
    let in_line = rig.ask(in_line).await;
    assert!(matches!(in_line, Outcome::Joined(ticket) if ticket.is_new && !ticket.is_guest));
    assert_joined(&rig.ask(first).await);
    let leave = Kind::Leave {
        schedule_id,
        ticket_id: None,
    };
    let kind = Kind::Join {
        schedule_id,
        code: Some(code),
    };
    let batch = [leave.clone(), kind.clone(), leave.clone(), kind.clone()];
    let batch: Vec<_> = batch
        .into_iter()
        .map(|kind| rig.command(buyer, kind))
        .collect();
    let message = rig.send(batch).await;
    let outcomes = rig.outcomes(message).await;
    let used_up = Outcome::Refused(Refusal::CodeUsedUp);
    assert_eq!([&outcomes[1], &outcomes[3]], [&used_up; 2]);
    worker.stop().await;

    let worker = rig.worker().await;
    let again = rig.command(buyer, kind);
    assert_eq!(rig.ask(again).await, used_up);
    let other = rig.guest(code);
    assert_joined(&rig.ask(other).await);
    let third = rig.guest(code);
    assert_eq!(rig.ask(third).await, used_up);
    worker.stop().await;
    let used = "SELECT sum(used) AS n FROM access_code";
    assert_eq!(rig.number(used).await, 2);
    let live =
        "SELECT count(*) AS n FROM ticket WHERE status = 'WAITING' AND access_code_id IS NOT NULL";
    assert_eq!(rig.number(live).await, 1);
    let left = "SELECT count(*) AS n FROM ticket WHERE status = 'LEFT' AND access_code_id IS NULL";
    assert_eq!(rig.number(left).await, 1);
}

fn assert_joined(outcome: &Outcome) {
    let is_joined = matches!(outcome, Outcome::Joined(ticket) if ticket.is_new && ticket.is_guest);
    assert!(is_joined, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_lets_no_code_be_used_more_often_than_it_says() {
    let mut rig = Rig::new().await;
    let schedule_id = rig.schedule().await;
    let code = rig.presale(schedule_id, 2).await;
    let worker = rig.worker().await;
    amend(&mut rig, schedule_id, rules(QueueMode::Fifo, 10)).await;
    let first = rig.guest(code);
    assert_joined(&rig.ask(first).await);
    // As if the owner had lost count.
    rig.sql("UPDATE access_code SET used = uses").await;
    let second = rig.guest(code);
    assert_eq!(rig.ask(second).await, Outcome::DeadLettered);
    let other = rig.presale(schedule_id, 1).await;
    let other = rig.guest(other);
    assert_joined(&rig.ask(other).await);
    worker.stop().await;
    let tickets = "SELECT count(*) AS n FROM ticket";
    assert_eq!(rig.number(tickets).await, 2);
}
