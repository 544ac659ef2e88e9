//! A room, its rows and its model, and what happens to them.

use crate::common::{
    Rng, at_s, command_id, fingerprint, notice_id, reservation_id, schedule_id, user,
};
use crate::guests::codes;
use crate::model::Model;
use crate::rows::{Rows, SECRET};
use crate::{Seen, name};
use onsale_domain::admission::{BURST_MS, Changes, Known, NewTicket, Policy, Room, RoomRow, Times};
use onsale_schema::admission::{
    GuestLine, HoldChange, HoldState, Kind, Order, Outcome, PolicyChange, Watermark,
};
use onsale_schema::draw::Place;
use onsale_schema::message::Command;
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, TicketId, Timestamp, UserId};
use std::collections::BTreeMap;

/// A part of a batch: commands or one tick, as the runtime makes them.
#[derive(Clone, Debug)]
enum Step {
    Command(Command<Kind>, Times),
    Tick(Timestamp),
}

pub struct World {
    pub rng: Rng,
    now: Timestamp,
    pub rows: Rows,
    room: Room,
    model: Model,
    /// Joins that were asked for, to be asked for again.
    asked: Vec<Command<Kind>>,
    /// Notices that were sent, to be sent again.
    notices: Vec<Kind>,
    /// Places as they were first seen.
    places: BTreeMap<ArrivalNo, Place>,
    /// Statuses as somebody knows them who follows the broadcasts.
    followed: BTreeMap<ArrivalNo, (TicketStatus, Option<Timestamp>)>,
    version: i64,
    next_id: u128,
    /// Whether no owner dies: who was heard when is known for longer.
    is_calm: bool,
    /// How far the line of the guests was told to be.
    guests_front: u32,
    /// When the last tick was that was stored.
    ticked_at: Timestamp,
    /// Tickets of these remainders by three are not heard for now.
    silent: u32,
}

/// The clocks of these histories are apart by no more, in milliseconds.
const CLOCKS_MS: i64 = 60;

const MODES: [QueueMode; 8] = [
    QueueMode::Draw,
    QueueMode::Draw,
    QueueMode::Draw,
    QueueMode::Draw,
    QueueMode::Fifo,
    QueueMode::Fifo,
    QueueMode::Open,
    QueueMode::Off,
];

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let now = at_s(1_000_000);
        let schedule = schedule_id(1);
        let policy = Policy {
            mode: *rng.pick(&MODES).unwrap(),
            paused: rng.percent(5),
            opens_at: now.plus_ms(rng.range(-5, 30) * 1000),
            capacity: u32::try_from(rng.range(0, 5)).unwrap(),
            rate_per_second: u32::try_from(rng.range(1, 5)).unwrap(),
            pass_ms: rng.range(1, 15) * 1000,
            presence_ms: rng.range(5, 10) * 1000,
            holds_per_pass: 4,
        };
        let elsewhere = TicketId(command_id(7).0);
        let rows = Rows {
            room: RoomRow::new(schedule, policy),
            tickets: Vec::new(),
            codes: codes(&mut rng, now),
            revoked: BTreeMap::new(),
            used: BTreeMap::new(),
            elsewhere: [elsewhere].into(),
        };
        let is_calm = rng.percent(60);
        let mut model = Model::new(schedule, policy, SECRET);
        model.elsewhere.insert(elsewhere);
        Self {
            room: rows.load(),
            rng,
            now,
            rows,
            model,
            asked: Vec::new(),
            notices: Vec::new(),
            places: BTreeMap::new(),
            followed: BTreeMap::new(),
            version: 0,
            next_id: 1000,
            is_calm,
            guests_front: 0,
            ticked_at: now,
            silent: 0,
        }
    }

    /// Decides one batch and stores it, whatever comes between.
    pub fn batch(&mut self, seen: &mut Seen) {
        self.now = self.now.plus_ms(match self.rng.range(1, 20) {
            1 => self.rng.range(0, 20_000),
            2..=12 => self.rng.range(500, 3000),
            _ => self.rng.range(0, 200),
        });
        if !self.is_calm && self.rng.percent(5) {
            self.load(seen, "loaded");
        }
        let steps = match self.rng.range(1, 100) {
            1..=50 => vec![Step::Tick(self.now.plus_ms(self.rng.range(0, 50)))],
            51..=60 => self.reports(),
            _ => (0..self.rng.range(1, 6)).map(|_| self.command()).collect(),
        };
        self.settle(&steps, seen);
    }

    fn settle(&mut self, steps: &[Step], seen: &mut Seen) {
        loop {
            let before = self.model.clone();
            self.model.batch_from = self.model.entries.len();
            self.model.has_missed = false;
            let mut changes = Changes::default();
            let (ours, theirs) = self.run(steps, &mut changes);
            match self.rng.range(1, 20) {
                1 if !self.is_calm => {
                    self.model = before;
                    self.load(seen, "died");
                    continue;
                }
                2 => {
                    self.model.take_back(before);
                    self.room.undo(&changes);
                    *seen.entry("taken back").or_default() += 1;
                    continue;
                }
                _ => {}
            }
            let stored = self.rows.commit(self.model.schedule, &changes);
            assert_eq!(stored.is_err(), self.model.has_missed, "{steps:#?}");
            let Err(taken) = stored else {
                assert_eq!(ours, theirs, "{steps:#?}");
                for outcome in &ours {
                    *seen.entry(name(outcome)).or_default() += 1;
                }
                self.compare(&changes, seen);
                self.compare_still(steps);
                return;
            };
            *seen.entry("missed").or_default() += 1;
            self.model.take_back(before);
            self.room.undo(&changes);
            for id in taken {
                let known = self.rows.number(id).map_or(Known::Elsewhere, Known::Here);
                self.room.load_known(id, known);
                self.model.told.insert(id);
            }
        }
    }

    fn run(&mut self, steps: &[Step], changes: &mut Changes) -> (Vec<Outcome>, Vec<Outcome>) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Command(command, times) => {
                    ours.push(self.room.decide(command, *times, changes));
                    let Times { business, clock } = *times;
                    theirs.push(self.model.decide(command, business, clock));
                }
                Step::Tick(now) => {
                    let is_more = self.room.tick(*now, *now, changes);
                    assert!(!is_more, "these rooms are small");
                    self.model.tick(*now);
                }
            }
        }
        self.room.seal(self.now, changes);
        (ours, theirs)
    }

    /// Another owner takes over.
    fn load(&mut self, seen: &mut Seen, why: &'static str) {
        self.room = self.rows.load();
        self.model.forget_presence();
        *seen.entry(why).or_default() += 1;
    }

    fn compare(&mut self, changes: &Changes, seen: &mut Seen) {
        if self.rng.percent(20) {
            self.rows.check();
        }
        let row = self.room.row();
        assert_eq!(*row, self.rows.room);
        assert_eq!(row.front.0 as usize, self.model.turned);
        assert_eq!(row.guest_front.index(), self.model.guests_turned);
        assert_eq!(row.policy, self.model.policy);
        assert_eq!(row.is_cancelled, self.model.is_cancelled);
        assert_eq!(self.room.active() as usize, self.model.active());
        let told = self.room.watermark(self.now);
        assert_eq!(told.guests as usize, self.model.guests_waiting());
        self.compare_guests(told.guest_line);
        if let Some(mine) = changes.rooms.get(&self.model.schedule) {
            let told = mine.watermark.as_ref().unwrap();
            self.follow(told);
        }
        for no in 0..self.model.entries.len() {
            let number = ArrivalNo(u32::try_from(no).unwrap());
            let status = self.model.status(no);
            assert_eq!(self.room.status(number), Some(status), "{number:?}");
            self.compare_place(number);
            let known = self.followed.get(&number).map(|(status, _)| *status);
            let is_told = !matches!(status, TicketStatus::Waiting | TicketStatus::Lobby);
            assert_eq!(known, is_told.then_some(status), "as was broadcast");
            let until = self.followed.get(&number).and_then(|(_, until)| *until);
            let slot = self.room.slot(number);
            assert_eq!(until, slot.map(|slot| slot.expires_at()));
            let was_passed = slot.map(|slot| slot.admission.was_passed);
            let expected = self.model.entries[no].was_passed;
            assert!(was_passed.is_none_or(|it| it == expected), "{number:?}");
        }
        self.count(changes, seen);
    }

    /// No line stands still for longer than the lowest rate lets somebody wait, from tick to tick.
    fn compare_still(&mut self, steps: &[Step]) {
        let since = self.room.still_since();
        let still_ms = since.map_or(0, |since| self.now.ms_since(since));
        let untold_ms = self.now.ms_since(self.ticked_at).max(0);
        assert!(
            still_ms <= BURST_MS + untold_ms + CLOCKS_MS,
            "{still_ms} ms"
        );
        for step in steps {
            if let Step::Tick(at) = step {
                self.ticked_at = *at;
            }
        }
        let counts = self.room.counts();
        let waiting = counts.line + counts.guests + counts.passed;
        let all = (0..self.model.entries.len()).map(|no| self.model.status(no));
        let waits = |it: &TicketStatus| matches!(it, TicketStatus::Lobby | TicketStatus::Waiting);
        assert_eq!(waiting as usize, all.filter(waits).count());
        assert_eq!(counts.guests as usize, self.model.guests_waiting());
    }

    /// How far the guests' line is never goes back, and nobody is behind it who was not called.
    fn compare_guests(&mut self, line: Option<GuestLine>) {
        let all = self.model.guests_before(self.model.entries.len());
        assert_eq!(line.map_or(0, |line| line.arrivals), all);
        let front = line.map_or(0, |line| line.front);
        assert!(front >= self.guests_front, "it goes back");
        assert!(front <= self.model.guests_before(self.model.guests_turned));
        self.guests_front = front;
    }

    /// The place is that of the model, and stays. It takes some hashes, so not each is looked at.
    fn compare_place(&mut self, no: ArrivalNo) {
        let is_known = self.places.contains_key(&no);
        if is_known == self.model.line.is_some() && !self.rng.percent(5) {
            return;
        }
        let place = self.room.place(no);
        let line = self.model.line.as_ref();
        let expected = line.map(|line| line.iter().position(|at| *at == no.index()).unwrap());
        assert_eq!(place.map(|place| place.0 as usize), expected);
        if let Some(place) = place {
            let first = *self.places.entry(no).or_insert(place);
            assert_eq!(place, first, "a place never changes");
        }
    }

    /// What somebody knows who hears all broadcasts.
    fn follow(&mut self, told: &Watermark) {
        assert_eq!(
            (told.from_version, told.version),
            (self.version, self.version + 1)
        );
        self.version = told.version;
        for (no, status, until) in &told.changes {
            self.followed.insert(*no, (*status, *until));
        }
        let still = self.room.watermark(told.at);
        assert_eq!((told.front, told.active), (still.front, still.active));
    }

    /// Whether who left did so by joining with a code.
    fn left_for_a_code(&self, no: ArrivalNo, joined: &[NewTicket]) -> bool {
        let row = &self.rows.tickets[no.index()];
        let mut later = joined.iter().filter(|new| new.user_id == row.user_id);
        later.any(|new| new.access_code_id.is_some() && Some(new.joined_at) == row.ended_at)
    }

    fn count(&self, changes: &Changes, seen: &mut Seen) {
        let Some(mine) = changes.rooms.get(&self.model.schedule) else {
            return;
        };
        let mut count = |what| *seen.entry(what).or_default() += 1;
        for (no, update) in &mine.updates {
            if update.to == TicketStatus::Left && self.left_for_a_code(*no, &mine.joined) {
                count("a guest who was in line");
            }
            match (update.to, &update.slot) {
                (TicketStatus::Admitted, Some(slot)) if update.from == TicketStatus::Waiting => {
                    count("admitted");
                    if slot.admission.was_passed {
                        count("admitted after it was passed over");
                    }
                    if slot.admission.place.is_none() {
                        count("admitted as a guest");
                        if self.model.line.is_none() {
                            count("admitted in a presale");
                        }
                        if self.model.entries[no.index()].was_early {
                            count("admitted after it was called early");
                        }
                    }
                    if slot.admission.capacity.is_none() {
                        count("admitted to an open room");
                    }
                }
                (TicketStatus::Expired, _) => count("expired"),
                (TicketStatus::Done, _) => count("done"),
                _ => {}
            }
        }
        let update = mine.room.as_ref().unwrap();
        let order = |row: &RoomRow| row.lobby.as_ref().and_then(|lobby| lobby.order);
        if let (None, Some(Order::Drawn { .. })) = (order(&update.before), order(&update.after)) {
            count("drawn");
            if update
                .after
                .lobby
                .as_ref()
                .is_some_and(|l| l.beacon.is_some())
            {
                count("drawn with a beacon");
            }
        }
        let before = update.before.front.0;
        for place in before..update.after.front.0 {
            let line = self.model.line.as_ref().unwrap();
            if self.model.entries[line[place as usize]].status == TicketStatus::Waiting {
                count("passed over");
            }
        }
    }

    /// The rules become generous and everybody is heard: everybody who waits must get in, and the
    /// rate have been kept all along.
    pub fn finish(&mut self, seen: &mut Seen) {
        let generous = PolicyChange {
            mode: Some(if self.rng.percent(50) {
                QueueMode::Fifo
            } else {
                QueueMode::Draw
            }),
            paused: Some(false),
            opens_at: Some(self.now),
            capacity: Some(1000),
            rate_per_second: Some(5),
            ..PolicyChange::default()
        };
        let schedule_id = self.model.schedule;
        let policy = self.to(
            UserId(uuid::Uuid::nil()),
            Kind::Policy {
                schedule_id,
                change: generous,
            },
        );
        let beacon = self.reveal();
        let beacon = self.to(UserId(uuid::Uuid::nil()), beacon);
        self.settle(&[Step::Command(policy, self.times())], seen);
        for _ in 0..20 {
            self.now = self.now.plus_ms(1500);
            let all = (0..self.rows.room.arrivals).map(ArrivalNo).collect();
            let seen_all = Kind::Seen {
                schedule_id,
                tickets: all,
                others: false,
            };
            let seen_all = self.to(UserId(uuid::Uuid::nil()), seen_all);
            let times = self.times();
            let steps = [seen_all, beacon.clone()].map(|command| Step::Command(command, times));
            self.settle(&steps, seen);
            self.settle(&[Step::Tick(self.now)], seen);
        }
        self.rows.check();
        for row in &self.rows.tickets {
            let is_waiting = row.status == TicketStatus::Waiting;
            assert!(
                !is_waiting || self.model.is_cancelled,
                "nobody waits for ever"
            );
        }
        let admitted = &self.model.admitted;
        for (from, (start, rate)) in admitted.iter().enumerate() {
            let same = admitted[from..]
                .iter()
                .take_while(|(_, other)| other == rate);
            for (count, (end, _)) in (1..).zip(same) {
                let us = end.micros() - start.micros() + 1_000_000;
                assert!(count * 1_000_000 <= us * i64::from(*rate), "the rate");
            }
        }
    }

    fn times(&self) -> Times {
        Times {
            business: self.now,
            clock: self.now.plus_ms(3),
        }
    }

    fn to(&mut self, user: UserId, kind: Kind) -> Command<Kind> {
        self.next_id += 1;
        Command {
            id: command_id(self.next_id),
            user,
            fingerprint: fingerprint(u128::MAX),
            deadline: self.now.plus_ms(5000),
            trace: None,
            kind,
        }
    }

    fn command(&mut self) -> Step {
        let schedule_id = self.model.schedule;
        let who = user(u128::try_from(self.rng.range(1, 12)).unwrap());
        let system = UserId(uuid::Uuid::nil());
        let mut command = match self.rng.range(1, 100) {
            1..=35 => self.join(who),
            36..=45 => {
                let ticket_id = self
                    .some_ticket()
                    .filter(|_| self.next_id.is_multiple_of(3));
                let ticket_id = ticket_id.map(|(id, _)| id);
                self.to(
                    who,
                    Kind::Leave {
                        schedule_id,
                        ticket_id,
                    },
                )
            }
            46..=70 => self.seen(),
            71..=85 => {
                let kind = self.holds();
                self.to(system, kind)
            }
            86..=94 => {
                let change = self.change();
                self.to(
                    system,
                    Kind::Policy {
                        schedule_id,
                        change,
                    },
                )
            }
            95 => {
                let code_id = self.rng.pick(&self.rows.codes).unwrap().code_id;
                self.to(
                    system,
                    Kind::RevokeCode {
                        schedule_id,
                        code_id,
                    },
                )
            }
            96..=97 => {
                let name = "a beacon".to_owned();
                self.to(system, Kind::NameBeacon { schedule_id, name })
            }
            _ => {
                let kind = self.reveal();
                self.to(system, kind)
            }
        };
        if self.rng.percent(3) && !self.asked.iter().any(|asked| asked.id == command.id) {
            command.deadline = self.now;
        }
        Step::Command(command, self.times())
    }

    /// A report of who was heard: of nobody now and then, or of somebody who waits elsewhere.
    fn seen(&mut self) -> Command<Kind> {
        if self.rng.percent(10) {
            self.silent = u32::try_from(self.rng.range(0, 3)).unwrap();
        }
        let all = (0..=self.rows.room.arrivals).map(ArrivalNo);
        let is_empty = self.rng.percent(20);
        let tickets = all.filter(|no| !is_empty && no.0 % 3 != self.silent);
        let seen = Kind::Seen {
            schedule_id: self.model.schedule,
            tickets: tickets.collect(),
            others: self.rng.percent(25),
        };
        self.to(UserId(uuid::Uuid::nil()), seen)
    }

    /// Some reports, one after the other.
    fn reports(&mut self) -> Vec<Step> {
        let count = self.rng.range(4, 12);
        let report = |_| {
            self.now = self.now.plus_ms(self.rng.range(500, 2000));
            Step::Command(self.seen(), self.times())
        };
        (0..count).map(report).collect()
    }

    /// A join, or one that was asked before, perhaps with another body or for another room.
    fn join(&mut self, who: UserId) -> Command<Kind> {
        let schedule_id = self.model.schedule;
        match self.rng.range(1, 10) {
            1..=2 if !self.asked.is_empty() => {
                let mut again = self.rng.pick(&self.asked).unwrap().clone();
                again.deadline = self.now.plus_ms(5000);
                if self.rng.percent(20) {
                    again.fingerprint = fingerprint(1 << 100);
                }
                again
            }
            3 => Command {
                id: command_id(7),
                ..self.to(
                    user(7),
                    Kind::Join {
                        schedule_id,
                        code: None,
                    },
                )
            },
            _ => {
                let code = self.code(who);
                let command = self.to(who, Kind::Join { schedule_id, code });
                self.asked.push(command.clone());
                command
            }
        }
    }

    fn some_ticket(&mut self) -> Option<(TicketId, ArrivalNo)> {
        let last = i64::from(self.rows.room.arrivals) - 1;
        let no = (last >= 0).then(|| self.rng.range(0, last))?;
        let no = ArrivalNo(u32::try_from(no).unwrap());
        Some((self.rows.tickets[no.index()].ticket_id, no))
    }

    /// Word of holds, of those above all who can have some; or one that was sent before.
    fn holds(&mut self) -> Kind {
        if self.rng.percent(20)
            && let Some(again) = self.rng.pick(&self.notices)
        {
            return again.clone();
        }
        let rows = (0..).map(ArrivalNo).zip(&self.rows.tickets);
        let admitted = rows.filter(|(_, row)| row.status == TicketStatus::Admitted);
        let admitted: Vec<_> = admitted.map(|(no, row)| (row.ticket_id, no)).collect();
        let mut changes = Vec::new();
        for _ in 0..self.rng.range(1, 3) {
            let any = self.some_ticket();
            let Some((ticket_id, arrival_no)) = self.rng.pick(&admitted).copied().or(any) else {
                continue;
            };
            let hold = self.rng.range(1, 3) + i64::from(arrival_no.0) * 10;
            changes.push(HoldChange {
                ticket_id,
                arrival_no,
                reservation_id: reservation_id(u128::try_from(hold).unwrap()),
                state: match self.rng.range(1, 10) {
                    1..=6 => HoldState::Until(self.now.plus_ms(self.rng.range(-2, 12) * 1000)),
                    7..=8 => HoldState::Over,
                    _ => HoldState::Paid,
                },
            });
        }
        let kind = Kind::Holds {
            notice_id: notice_id(self.next_id),
            schedule_id: self.model.schedule,
            changes,
        };
        self.notices.push(kind.clone());
        kind
    }

    fn reveal(&mut self) -> Kind {
        Kind::RevealBeacon {
            schedule_id: self.model.schedule,
            value: vec![u8::try_from(self.rng.range(1, 2)).unwrap(); 8],
        }
    }

    fn change(&mut self) -> PolicyChange {
        let mut change = PolicyChange::default();
        match self.rng.range(1, 9) {
            1..=2 => change.mode = self.rng.pick(&MODES).copied(),
            3..=4 => change.paused = Some(self.rng.percent(30)),
            5 => change.opens_at = Some(self.now.plus_ms(self.rng.range(-5, 5) * 1000)),
            6 => change.capacity = Some(u32::try_from(self.rng.range(0, 5)).unwrap()),
            7 => change.rate_per_second = Some(u32::try_from(self.rng.range(0, 5)).unwrap()),
            8 => change.pass_ms = Some(self.rng.range(0, 15) * 1000),
            _ if self.rng.percent(8) => change.cancelled = true,
            _ => change.presence_ms = Some(self.rng.range(14, 25) * 1000),
        }
        change
    }
}
