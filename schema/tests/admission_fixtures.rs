//! Frozen samples of what is said about waiting rooms: see `fixtures/main.rs`, by whose rules they are
//! made and kept.

#[path = "frozen/mod.rs"]
mod frozen;

use frozen::{at, check, message, reply, uuid};
use onsale_schema::admission::{
    Broadcast, Code, GuestLine, HoldChange, HoldState, Kind, Lobby, Order, Outcome, Pass, Policy,
    PolicyChange, Refusal, Ticket, Ticketed, Watermark,
};
use onsale_schema::draw::{Digest, Place};
use onsale_schema::status::{AccessGrant, QueueMode, TicketStatus};
use onsale_schema::{
    AccessCodeId, ArrivalNo, Generation, NoticeId, ReservationId, ScheduleId, SeatNo, TicketId,
    Timestamp, UserId, seats,
};

fn schedule_id() -> ScheduleId {
    ScheduleId(uuid(7))
}

fn policy() -> Policy {
    Policy {
        mode: QueueMode::Draw,
        paused: true,
        opens_at: at(0),
        capacity: 100,
        rate_per_second: 10,
        pass_ms: 600_000,
        presence_ms: 60_000,
        holds_per_pass: 10,
    }
}

/// Since a restore.
fn restored() -> Generation {
    Generation(at(0).micros())
}

#[test]
fn commands() {
    let schedule_id = schedule_id();
    let hold = |no: u32, state| HoldChange {
        ticket_id: TicketId(uuid(8)),
        arrival_no: ArrivalNo(no),
        reservation_id: ReservationId(uuid(6)),
        state,
    };
    let all = PolicyChange {
        mode: Some(QueueMode::Open),
        paused: Some(false),
        opens_at: Some(at(1000)),
        capacity: Some(0),
        rate_per_second: Some(10_000),
        pass_ms: Some(1000),
        presence_ms: Some(5000),
        holds_per_pass: Some(1),
        cancelled: false,
    };
    let cancelled = PolicyChange {
        paused: Some(true),
        cancelled: true,
        ..PolicyChange::default()
    };
    let leave = |ticket_id| Kind::Leave {
        schedule_id,
        ticket_id,
    };
    let change = |change| Kind::Policy {
        schedule_id,
        change,
    };
    let kinds = [
        (
            "join",
            Kind::Join {
                schedule_id,
                code: None,
            },
        ),
        (
            "join-code",
            Kind::Join {
                schedule_id,
                code: Some(Code {
                    code_id: AccessCodeId(uuid(10)),
                    schedule_id,
                    grant: AccessGrant::Presale,
                    uses: 100_000,
                    from: at(0),
                    until: at(600_000),
                }),
            },
        ),
        (
            "sale",
            Kind::Sale {
                notice_id: NoticeId(uuid(9)),
                schedule_id,
            },
        ),
        (
            "revoke-code",
            Kind::RevokeCode {
                schedule_id,
                code_id: AccessCodeId(uuid(10)),
            },
        ),
        ("queue-policy-cancelled", change(cancelled)),
        ("leave", leave(None)),
        ("leave-ticket", leave(Some(TicketId(uuid(8))))),
        (
            "seen",
            Kind::Seen {
                schedule_id,
                tickets: [0, 1, 255, 65_536, 3_999_999].map(ArrivalNo).to_vec(),
                others: false,
            },
        ),
        (
            "seen-others",
            Kind::Seen {
                schedule_id,
                tickets: Vec::new(),
                others: true,
            },
        ),
        (
            "holds",
            Kind::Holds {
                notice_id: NoticeId(uuid(9)),
                schedule_id,
                changes: vec![
                    hold(0, HoldState::Until(at(300_000))),
                    hold(1, HoldState::Over),
                    hold(2, HoldState::Paid),
                ],
            },
        ),
        ("policy", change(all)),
        ("policy-empty", change(PolicyChange::default())),
        (
            "name-beacon",
            Kind::NameBeacon {
                schedule_id,
                name: "drand quicknet, round 20000000, randomness".to_owned(),
            },
        ),
        (
            "reveal-beacon",
            Kind::RevealBeacon {
                schedule_id,
                value: vec![0, 127, 128, 255],
            },
        ),
    ];
    for (name, kind) in kinds {
        assert_eq!(kind.schedule_id(), schedule_id);
        check(&format!("admission-{name}"), &message(kind));
    }
}

#[test]
fn outcomes() {
    let ticket = |status, pass_expires_at: Option<Timestamp>| {
        Outcome::Joined(Ticket {
            ticket_id: TicketId(uuid(8)),
            schedule_id: schedule_id(),
            arrival_no: ArrivalNo(999_999),
            is_new: pass_expires_at.is_none(),
            status,
            pass_expires_at,
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        })
    };
    let mut outcomes = vec![
        ticket(TicketStatus::Lobby, None),
        ticket(TicketStatus::Waiting, None),
        ticket(TicketStatus::Admitted, Some(at(600_000))),
        ticket(TicketStatus::Expired, None),
        ticket(TicketStatus::Left, None),
        ticket(TicketStatus::Done, None),
        Outcome::Left {
            ticket_id: TicketId(uuid(8)),
        },
        Outcome::Applied,
        Outcome::Policy(policy()),
        Outcome::DeadLettered,
    ];
    let refused = [
        Refusal::CommandExpired,
        Refusal::KeyReused,
        Refusal::UnknownSchedule,
        Refusal::RoomOff,
        Refusal::RoomFull,
        Refusal::NotFound,
        Refusal::PolicyInvalid,
        Refusal::BeaconFixed,
        Refusal::NotDue,
    ];
    outcomes.extend(refused.map(Outcome::Refused));
    check("admission-reply", &reply(outcomes));
    let used_up = Outcome::Refused(Refusal::TicketsUsedUp);
    check("admission-reply-tickets-used-up", &reply(vec![used_up]));
    let guest = Outcome::Joined(Ticket {
        ticket_id: TicketId(uuid(8)),
        schedule_id: schedule_id(),
        arrival_no: ArrivalNo(0),
        is_new: true,
        status: TicketStatus::Waiting,
        pass_expires_at: None,
        is_guest: true,
        guest_no: None,
        generation: Generation::default(),
    });
    let mut outcomes = vec![guest];
    let refused = [
        Refusal::CodeInvalid,
        Refusal::CodeRevoked,
        Refusal::CodeNotYet,
        Refusal::CodeExpired,
        Refusal::CodeUsedUp,
    ];
    outcomes.extend(refused.map(Outcome::Refused));
    check("admission-reply-codes", &reply(outcomes));
    let guest = Outcome::Joined(Ticket {
        ticket_id: TicketId(uuid(8)),
        schedule_id: schedule_id(),
        arrival_no: ArrivalNo(70),
        is_new: true,
        status: TicketStatus::Waiting,
        pass_expires_at: None,
        is_guest: true,
        guest_no: Some(7),
        generation: Generation::default(),
    });
    check("admission-reply-guest", &reply(vec![guest]));
    let joined = Outcome::Joined(Ticket {
        ticket_id: TicketId(uuid(8)),
        schedule_id: schedule_id(),
        arrival_no: ArrivalNo(70),
        is_new: true,
        status: TicketStatus::Waiting,
        pass_expires_at: None,
        is_guest: false,
        guest_no: None,
        generation: restored(),
    });
    check("admission-reply-restored", &reply(vec![joined]));
    let cancelled = Outcome::Refused(Refusal::ShowCancelled);
    check("admission-reply-show-cancelled", &reply(vec![cancelled]));
}

#[test]
fn broadcasts() {
    let lobby = |beacon, order| Lobby {
        closed_at: at(10),
        size: 500_000,
        digest: Digest([1; 32]),
        beacon,
        order,
    };
    let room = |lobby| Watermark {
        schedule_id: schedule_id(),
        from_version: 11,
        version: 12,
        at: at(20),
        policy: policy(),
        arrivals: 1_000_000,
        lobby,
        front: Place(1234),
        window: 1200,
        active: 99,
        guests: 0,
        guest_line: None,
        passed: None,
        moved: 600,
        measured_ms: 60_000,
        is_sale_stopped: false,
        is_cancelled: false,
        generation: Generation::default(),
        changes: vec![
            (ArrivalNo(3), TicketStatus::Admitted, Some(at(600_000))),
            (ArrivalNo(70_000), TicketStatus::Left, None),
        ],
    };
    let drawn = Order::Drawn {
        seed: Digest([2; 32]),
    };
    let broadcast = Broadcast {
        rooms: vec![
            room(None),
            room(Some(lobby(None, None))),
            room(Some(lobby(None, Some(Order::Arrival)))),
            room(Some(lobby(Some(vec![0, 255]), Some(drawn)))),
        ],
        sent_at: at(30),
    };
    check("admission-watermark", &broadcast);
    let guests = Watermark {
        guests: 20,
        guest_line: Some(GuestLine {
            front: 3,
            arrivals: 30,
        }),
        ..room(None)
    };
    let broadcast = Broadcast {
        rooms: vec![guests],
        sent_at: at(30),
    };
    check("admission-watermark-guests", &broadcast);
    let cancelled = Watermark {
        passed: Some(7),
        is_sale_stopped: true,
        is_cancelled: true,
        ..room(None)
    };
    let broadcast = Broadcast {
        rooms: vec![cancelled],
        sent_at: at(30),
    };
    check("admission-watermark-cancelled", &broadcast);
    let restored = Watermark {
        generation: restored(),
        ..room(None)
    };
    let broadcast = Broadcast {
        rooms: vec![restored],
        sent_at: at(30),
    };
    check("admission-watermark-restored", &broadcast);
}

/// What is said about rooms to the owner of seats, and by it.
#[test]
fn passes() {
    let (reservation_id, schedule_id) = (ReservationId(uuid(6)), schedule_id());
    let pass = Some(Pass {
        ticket: Ticketed {
            user_id: UserId(uuid(2)),
            schedule_id,
            ticket_id: TicketId(uuid(8)),
            arrival_no: ArrivalNo(999_999),
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        },
        expires_at: at(600_000),
        holds_max: 10,
    });
    let hold = seats::Kind::Hold {
        reservation_id,
        schedule_id,
        seats: vec![SeatNo(3)],
        places: vec![],
        layout_no: Some(2),
        pass,
    };
    check("seats-hold-pass", &message(hold));
    let guests = pass.map(|pass| Pass {
        ticket: Ticketed {
            is_guest: true,
            ..pass.ticket
        },
        ..pass
    });
    let hold = seats::Kind::Hold {
        reservation_id,
        schedule_id,
        seats: vec![SeatNo(3)],
        places: vec![],
        layout_no: Some(2),
        pass: guests,
    };
    check("seats-hold-guests-pass", &message(hold));
    let later = pass.map(|pass| Pass {
        ticket: Ticketed {
            generation: restored(),
            ..pass.ticket
        },
        ..pass
    });
    let hold = seats::Kind::Hold {
        reservation_id,
        schedule_id,
        seats: vec![SeatNo(3)],
        places: vec![],
        layout_no: Some(2),
        pass: later,
    };
    check("seats-hold-restored-pass", &message(hold));
    let best = seats::Kind::HoldBest {
        reservation_id,
        schedule_id,
        count: 3,
        section: None,
        grade: None,
        max_price: None,
        layout_no: Some(2),
        pass,
    };
    check("seats-hold-best-pass", &message(best));
    for pass_required in [true, false] {
        let room = seats::Kind::Room {
            notice_id: NoticeId(uuid(9)),
            schedule_id,
            pass_required,
            version: 7,
        };
        let name = if pass_required { "on" } else { "off" };
        check(&format!("seats-room-{name}"), &message(room));
    }
    let over = seats::Kind::PassesOver {
        notice_id: NoticeId(uuid(9)),
        schedule_id,
        tickets: [0, 999_999].map(ArrivalNo).to_vec(),
    };
    check("seats-passes-over", &message(over));
    let refused = [
        seats::Refusal::PassRequired,
        seats::Refusal::PassInvalid,
        seats::Refusal::PassExpired,
        seats::Refusal::PassUsedUp,
    ];
    let refused = refused.map(seats::Outcome::Refused).to_vec();
    check("seats-reply-passes", &reply(refused));
}
