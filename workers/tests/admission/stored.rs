//! What a batch writes and what is read again are the same: random histories of a room, each batch
//! stored and the room loaded anew; and rooms that are larger than a page.

use crate::rig::Rig;
use diesel_async::AsyncPgConnection;
use onsale_domain::admission::{Changes, Known, Room, RoomRow, Slot, Times};
use onsale_platform::{db, tx};
use onsale_schema::admission::{Code, HoldChange, HoldState, Kind, Outcome, PolicyChange, Refusal};
use onsale_schema::draw::Place;
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::status::{AccessGrant, QueueMode, TicketStatus};
use onsale_schema::{
    AccessCodeId, ArrivalNo, CommandId, NoticeId, ReservationId, ScheduleId, TicketId, Timestamp,
    UserId,
};
use onsale_workers::Context;
use onsale_workers::admission::{Admission, Rows};
use onsale_workers::runtime::lane::Persistent;
use std::collections::BTreeMap;
use uuid::Uuid;

#[path = "../simulation/rng.rs"]
mod rng;
use rng::Rng;

/// When every history begins.
const START: Timestamp = Timestamp(1_800_000_000_000_000);
const HISTORIES: u64 = 12;
const BATCHES: u32 = 60;

/// All that rows say of a room.
type Picture = (
    RoomRow,
    u32,
    Vec<(TicketStatus, Option<Place>, Option<Slot>)>,
);

fn picture(room: &Room) -> Picture {
    let ticket = |no| {
        let no = ArrivalNo(no);
        let status = room.status(no).unwrap();
        (status, room.place(no), room.slot(no).cloned())
    };
    let tickets = (0..room.row().arrivals).map(ticket).collect();
    (room.row().clone(), room.active(), tickets)
}

/// One code of each kind, with its row.
async fn codes(rig: &mut Rig, schedule_id: ScheduleId) -> Vec<Code> {
    let code = |grant| Code {
        code_id: AccessCodeId(Uuid::now_v7()),
        schedule_id,
        grant,
        uses: 2,
        from: START,
        until: START.plus_ms(60_000),
    };
    let codes = AccessGrant::ALL.map(code);
    for code in &codes {
        rig.access_code(code).await;
    }
    codes.to_vec()
}

/// Stores a batch, or takes it back because a command has made a ticket before.
async fn store(conn: &mut AsyncPgConnection, changes: &Changes) -> bool {
    tx::begin(conn).await.unwrap();
    let stored = Admission::store(conn, &[changes]).await.unwrap();
    if stored.missed.is_empty() {
        tx::commit(conn).await.unwrap();
        true
    } else {
        tx::rollback(conn).await;
        false
    }
}

struct History {
    rng: Rng,
    schedule_id: ScheduleId,
    now: Timestamp,
    joins: Vec<Command<Kind>>,
    /// One of them, to be asked for next.
    again: Option<Command<Kind>>,
    codes: Vec<Code>,
    /// The ticket that has a number, as it was told last.
    ids: BTreeMap<ArrivalNo, TicketId>,
    seen: BTreeMap<&'static str, u32>,
}

impl History {
    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn pick_ticket(&mut self, room: &Room) -> Option<ArrivalNo> {
        let arrivals = i64::from(room.row().arrivals);
        (arrivals > 0).then(|| ArrivalNo(u32::try_from(self.rng.range(0, arrivals - 1)).unwrap()))
    }

    fn kind(&mut self, room: &Room) -> (UserId, Kind) {
        let schedule_id = self.schedule_id;
        let user = UserId(Uuid::from_u128(u128::from(self.rng.next() % 8 + 1)));
        let kind = match self.rng.range(0, 99) {
            0..=39 => Kind::Join {
                schedule_id,
                code: self.rng.percent(30).then(|| self.code()),
            },
            40 => Kind::RevokeCode {
                schedule_id,
                code_id: self.code().code_id,
            },
            41..=49 => Kind::Leave {
                schedule_id,
                ticket_id: None,
            },
            50..=64 => Kind::Seen {
                schedule_id,
                tickets: self.pick_ticket(room).into_iter().collect(),
                others: self.rng.percent(50),
            },
            65..=84 => self.holds(room),
            85..=94 => Kind::Policy {
                schedule_id,
                change: self.change(room),
            },
            95..=96 => Kind::NameBeacon {
                schedule_id,
                name: "a beacon".to_owned(),
            },
            _ => Kind::RevealBeacon {
                schedule_id,
                value: vec![1, 2, 3],
            },
        };
        (user, kind)
    }

    fn code(&mut self) -> Code {
        *self.rng.pick(&self.codes).unwrap()
    }

    fn holds(&mut self, room: &Room) -> Kind {
        let no = self.pick_ticket(room).unwrap_or_default();
        let until = self.now.plus_ms(self.rng.range(-5000, 20_000));
        let states = [HoldState::Until(until), HoldState::Over, HoldState::Paid];
        let state = *self.rng.pick(&states).unwrap();
        let known = self.ids.get(&no).copied();
        let ticket_id = known.unwrap_or(TicketId(Uuid::nil()));
        Kind::Holds {
            notice_id: NoticeId(self.rng.uuid()),
            schedule_id: self.schedule_id,
            changes: vec![HoldChange {
                ticket_id,
                arrival_no: no,
                reservation_id: ReservationId(Uuid::from_u128(u128::from(self.rng.next() % 4))),
                state,
            }],
        }
    }

    /// Other rules; the first ones leave time for a lobby.
    fn change(&mut self, room: &Room) -> PolicyChange {
        let is_first = room.row().version == 0;
        let modes = [
            QueueMode::Fifo,
            QueueMode::Draw,
            QueueMode::Draw,
            QueueMode::Open,
            QueueMode::Off,
        ];
        PolicyChange {
            mode: self.rng.pick(&modes).copied(),
            paused: Some(self.rng.percent(10)),
            opens_at: (is_first || self.rng.percent(50)).then(|| {
                let soonest = if is_first { 10_000 } else { -20_000 };
                self.now.plus_ms(self.rng.range(soonest, 20_000))
            }),
            capacity: Some(u32::try_from(self.rng.range(0, 5)).unwrap()),
            rate_per_second: Some(u32::try_from(self.rng.range(1, 5)).unwrap()),
            pass_ms: Some(self.rng.range(1, 10) * 1000),
            presence_ms: Some(15_000),
            holds_per_pass: None,
            cancelled: self.rng.percent(2),
        }
    }

    fn command(&mut self, room: &Room) -> Command<Kind> {
        if let Some(join) = self.again.take() {
            return join;
        }
        let (mut user, mut kind) = self.kind(room);
        if self.rng.percent(15)
            && let Some(join) = self.rng.pick(&self.joins).cloned()
        {
            self.note("retried");
            if self.rng.percent(50) {
                return join;
            }
            // Who has left is asked about what was made before.
            user = join.user;
            kind = Kind::Leave {
                schedule_id: self.schedule_id,
                ticket_id: None,
            };
            self.again = Some(join);
        }
        let command = Command {
            id: CommandId(self.rng.uuid()),
            user,
            fingerprint: Fingerprint(self.rng.uuid()),
            deadline: self.now.plus_ms(1_000_000),
            trace: None,
            kind,
        };
        if let Kind::Join { .. } = command.kind {
            self.joins.push(command.clone());
        }
        command
    }

    /// Decides a batch of commands, or a tick.
    fn batch(&mut self, room: &mut Room) -> (Vec<Command<Kind>>, Changes) {
        self.now = self.now.plus_ms(self.rng.range(0, 2500));
        let mut changes = Changes::default();
        if self.rng.percent(40) {
            room.tick(self.now, self.now, &mut changes);
            room.seal(self.now, &mut changes);
            return (Vec::new(), changes);
        }
        let count = self.rng.range(1, 8);
        let commands: Vec<_> = (0..count).map(|_| self.command(room)).collect();
        self.decide(room, &commands, &mut changes);
        (commands, changes)
    }

    fn decide(&mut self, room: &mut Room, commands: &[Command<Kind>], changes: &mut Changes) {
        let times = Times {
            business: self.now,
            clock: self.now,
        };
        for command in commands {
            match room.decide(command, times, changes) {
                Outcome::Joined(ticket) => {
                    self.ids.insert(ticket.arrival_no, ticket.ticket_id);
                }
                Outcome::Refused(Refusal::CodeUsedUp) => self.note("code used up"),
                Outcome::Refused(Refusal::CodeRevoked) => self.note("code revoked"),
                _ => {}
            }
        }
        room.seal(self.now, changes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_loaded_again() {
    let mut rig = Rig::new().await;
    let ctx = rig.context().await;
    let mut seen: BTreeMap<&'static str, u32> = BTreeMap::new();
    for seed in 0..HISTORIES {
        let schedule_id = rig.schedule().await;
        let mut history = History {
            rng: Rng::new(seed),
            schedule_id,
            now: START,
            codes: codes(&mut rig, schedule_id).await,
            joins: Vec::new(),
            again: None,
            ids: BTreeMap::new(),
            seen: std::mem::take(&mut seen),
        };
        println!("seed {seed}");
        run(&ctx, &mut history).await;
        seen = history.seen;
    }
    println!("{seen:?}");
    for what in [
        "retried",
        "missed",
        "taken back",
        "drawn",
        "admitted",
        "admitted as a guest",
        "code used up",
        "code revoked",
        "held",
        "ended",
    ] {
        let count = seen.get(what).copied().unwrap_or_default();
        assert!(count >= 3, "{what}: {count} times only: {seen:?}");
    }
}

async fn run(ctx: &Context, history: &mut History) {
    let schedule_id = history.schedule_id;
    let mut conn = db::connect(&ctx.config.common.servers.database_url())
        .await
        .unwrap();
    let mut room = ctx.room(schedule_id).await.unwrap().expect("it is on sale");
    for _ in 0..BATCHES {
        let (commands, mut changes) = history.batch(&mut room);
        if history.rng.percent(10) {
            room.undo(&changes);
            history.note("taken back");
        } else {
            while !store(&mut conn, &changes).await {
                history.note("missed");
                room.undo(&changes);
                let ids: Vec<TicketId> = commands.iter().map(|c| TicketId(c.id.0)).collect();
                for (id, whose, no) in ctx.tickets(&ids).await.unwrap() {
                    assert_eq!(whose, schedule_id);
                    room.load_known(id, Known::Here(no));
                }
                changes = Changes::default();
                history.decide(&mut room, &commands, &mut changes);
            }
        }
        let loaded = ctx.room(schedule_id).await.unwrap().expect("it is on sale");
        if room.row().version == 0 {
            // No row was made, and another secret is drawn each time.
            continue;
        }
        assert_eq!(picture(&loaded), picture(&room));
        let (_, _, tickets) = picture(&loaded);
        let slots = tickets.iter().filter_map(|(.., slot)| slot.as_ref());
        for slot in slots {
            history.note("admitted");
            if slot.admission.place.is_none() {
                history.note("admitted as a guest");
            }
            if !slot.holds.is_empty() {
                history.note("held");
            }
        }
        if tickets.iter().any(|(status, ..)| !status.is_live()) {
            history.note("ended");
        }
        if room
            .place(ArrivalNo(0))
            .is_some_and(|place| place != Place(0))
        {
            history.note("drawn");
        }
        if history.rng.percent(20) {
            room = loaded;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_read_in_pages_and_one_that_lacks_tickets_is_not_taken() {
    const TICKETS: u32 = 25_001;
    let mut rig = Rig::new().await;
    let ctx = rig.context().await;
    let schedule_id = rig.schedule().await;
    rig.sql(&format!(
        "INSERT INTO waiting_room (schedule_id, secret, mode, paused, opens_at, capacity,
             rate_per_second, pass_ms, presence_ms, holds_per_pass, version, arrivals, digest, front,
             admissions, rate_used, latest)
         VALUES ('{schedule_id}', decode(repeat('07', 32), 'hex'), 'FIFO', false, '2030-01-01', 1, 1,
             1000, 5000, 1, 3, {TICKETS}, decode(repeat('00', 32), 'hex'), 0, 0, 'epoch', 'epoch');
         INSERT INTO ticket (ticket_id, schedule_id, arrival_no, user_id, fingerprint, status,
             joined_at, ended_at)
         SELECT gen_random_uuid(), '{schedule_id}', n, gen_random_uuid(), gen_random_uuid(),
                CASE n WHEN 25000 THEN 'LEFT' ELSE 'WAITING' END, now(),
                CASE n WHEN 25000 THEN now() END
         FROM generate_series(0, {TICKETS} - 1) n"
    ))
    .await;
    let room = ctx.room(schedule_id).await.unwrap().expect("it is there");
    let status = |no| room.status(ArrivalNo(no));
    assert_eq!(
        [status(0), status(24_999), status(25_000), status(25_001)],
        [
            Some(TicketStatus::Lobby),
            Some(TicketStatus::Lobby),
            Some(TicketStatus::Left),
            None
        ]
    );
    rig.sql("DELETE FROM ticket WHERE arrival_no = 20000").await;
    let refused = ctx.room(schedule_id).await.expect_err("it is not whole");
    assert!(
        !refused.retryable() && refused.to_string().contains("1 tickets are missing"),
        "{refused}"
    );
}
