//! A long line, live changes of its rules, and people who ask exactly when they are told to: none of
//! them is ever passed over. Where an ingress would not report them, they are not reported here.

use crate::common::{Rng, at_s, command_id, fingerprint, for_seeds, schedule_id, user};
use onsale_domain::admission::{Changes, Policy, Room, RoomRow, StoredTicket, Times};
use onsale_schema::admission::{Kind, Line, PolicyChange, SEEN_MAX, Watermark};
use onsale_schema::draw::{Place, Secret};
use onsale_schema::message::Command;
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, TicketId, Timestamp};
use std::collections::BTreeMap;

const SECRET: Secret = Secret([5; 32]);
/// Ticks in a second.
const TICKS: i64 = 5;
const HISTORIES: u64 = 10;

/// A room and everybody in its line.
struct Crowd {
    rng: Rng,
    room: Room,
    now: Timestamp,
    /// Who stands where; as long as there is no order, nobody.
    order: Vec<ArrivalNo>,
    places: Vec<Place>,
    /// Who stops asking, by number.
    is_gone: Vec<bool>,
    /// Who asks next, by the second.
    next: BTreeMap<i64, Vec<ArrivalNo>>,
    /// What the ingress knows.
    told: Watermark,
    commands: u128,
    /// Those who are gone and were passed over, and those who were let in.
    passed: u32,
    admitted: u32,
    /// How many of a hundred ticks are taken back.
    undone_percent: i64,
}

impl Crowd {
    /// A room that opens now, with so many in its lobby, of whom some have gone away by then.
    fn new(seed: u64, count: u32, gone_percent: i64, change: impl FnOnce(&mut Policy)) -> Self {
        let mut rng = Rng::new(seed);
        let now = at_s(1_000_000);
        let mut policy = Policy::new(QueueMode::Fifo, now);
        change(&mut policy);
        let row = RoomRow {
            arrivals: count,
            ..RoomRow::new(schedule_id(1), policy)
        };
        let tickets = (0..count).map(|no| StoredTicket {
            ticket_id: TicketId(command_id(1_000_000 + u128::from(no)).0),
            user_id: user(u128::from(no)),
            fingerprint: fingerprint(1),
            status: TicketStatus::Waiting,
            slot: None,
            access_code_id: None,
        });
        let room = Room::load(row, SECRET, tickets);
        let is_gone = (0..count).map(|_| rng.percent(gone_percent)).collect();
        let mut crowd = Self {
            rng,
            told: room.watermark(now),
            room,
            now,
            order: Vec::new(),
            places: Vec::new(),
            is_gone,
            next: BTreeMap::new(),
            commands: 0,
            passed: 0,
            admitted: 0,
            undone_percent: 0,
        };
        for no in (0..count).map(ArrivalNo) {
            // Neighbours differ, as they came at different times.
            crowd.ask_at(no, no.0 * 7919 % 15_000);
        }
        crowd
    }

    /// Somebody asks again after so many milliseconds; at the end of that second.
    fn ask_at(&mut self, no: ArrivalNo, after_ms: u32) {
        if !self.is_gone[no.index()] {
            let at = self.now.plus_ms(i64::from(after_ms)).micros() / 1_000_000 + 1;
            self.next.entry(at).or_default().push(no);
        }
    }

    fn send(&mut self, by: u128, kind: Kind) {
        self.commands += 1;
        let command = Command {
            id: command_id(self.commands),
            user: user(by),
            fingerprint: fingerprint(1),
            deadline: self.now.plus_ms(5000),
            trace: None,
            kind,
        };
        let times = Times {
            business: self.now,
            clock: self.now,
        };
        let mut changes = Changes::default();
        self.room.decide(&command, times, &mut changes);
        self.room.seal(self.now, &mut changes);
    }

    fn amend(&mut self, change: PolicyChange) {
        let schedule_id = schedule_id(1);
        self.send(
            0,
            Kind::Policy {
                schedule_id,
                change,
            },
        );
    }

    fn leave(&mut self, numbers: std::ops::Range<u32>) {
        for no in numbers {
            let kind = Kind::Leave {
                schedule_id: schedule_id(1),
                ticket_id: None,
            };
            self.send(u128::from(no), kind);
        }
    }

    /// Ticks until there is no more to do now, some of them in vain at first.
    fn tick(&mut self) {
        for _ in 0..10_000 {
            let mut changes = Changes::default();
            let before = self.room.row().front;
            let is_more = self.room.tick(self.now, self.now, &mut changes);
            self.room.seal(self.now, &mut changes);
            if self.rng.percent(self.undone_percent) {
                self.room.undo(&changes);
                continue;
            }
            self.look(before);
            if !is_more {
                return;
            }
        }
        panic!("a tick without an end");
    }

    /// Looks what became of those who had their turn.
    fn look(&mut self, before: Place) {
        self.settle_order();
        for place in before.0..self.room.row().front.0 {
            let no = self.order[place as usize];
            match self.room.status(no) {
                Some(TicketStatus::Waiting) => {
                    let room = self.room.row();
                    assert!(
                        self.is_gone[no.index()],
                        "{no:?} at {place} was passed over at {}: {room:?}",
                        self.now
                    );
                    self.passed += 1;
                }
                Some(TicketStatus::Admitted) => self.admitted += 1,
                _ => {}
            }
        }
    }

    fn settle_order(&mut self) {
        let row = self.room.row();
        let line = row.lobby.as_ref().and_then(Line::behind);
        if let Some(line) = line.filter(|_| self.order.is_empty()) {
            self.order = line.before(Place(row.arrivals)).collect();
            self.places = vec![Place(0); self.order.len()];
            for (place, no) in (0..).map(Place).zip(&self.order) {
                self.places[no.index()] = place;
            }
        }
    }

    /// A second goes by: ticks, and then those ask whose time it is. Their ingress knows how the line
    /// was a second ago.
    fn second(&mut self) {
        let known = std::mem::replace(&mut self.told, self.room.watermark(self.now));
        for _ in 0..TICKS {
            self.now = self.now.plus_ms(1000 / TICKS);
            self.tick();
        }
        let now_s = self.now.micros() / 1_000_000;
        let later = self.next.split_off(&(now_s + 1));
        let due = std::mem::replace(&mut self.next, later);
        let (mut tickets, mut others) = (Vec::new(), false);
        for no in due.into_values().flatten() {
            let status = self.room.status(no);
            if !matches!(status, Some(TicketStatus::Lobby | TicketStatus::Waiting)) {
                continue;
            }
            let has_order = known.lobby.as_ref().is_some_and(|it| it.order.is_some());
            let place = has_order.then(|| self.places[no.index()]);
            if known.wants_report(place) {
                tickets.push(no);
            } else {
                others = true;
            }
            let sight = known.sight(place, no, self.now);
            self.ask_at(no, sight.poll_after_ms);
        }
        let mut reports = tickets.chunks(SEEN_MAX).map(<[ArrivalNo]>::to_vec);
        let first = reports.next().unwrap_or_default();
        let rest: Vec<_> = reports.collect();
        for tickets in std::iter::once(first).chain(rest) {
            let schedule_id = schedule_id(1);
            self.send(
                0,
                Kind::Seen {
                    schedule_id,
                    tickets,
                    others,
                },
            );
        }
    }

    fn seconds(&mut self, count: i64) {
        (0..count).for_each(|_| self.second());
    }
}

const NONE: PolicyChange = PolicyChange {
    mode: None,
    paused: None,
    opens_at: None,
    capacity: None,
    rate_per_second: None,
    pass_ms: None,
    presence_ms: None,
    holds_per_pass: None,
    cancelled: false,
};

fn rate(rate: u32) -> PolicyChange {
    PolicyChange {
        rate_per_second: Some(rate),
        capacity: Some(10_000),
        ..NONE
    }
}

#[test]
fn a_higher_rate_passes_over_nobody_who_asks_as_told() {
    for faster in [500, 2000, 5000, 10_000] {
        let mut crowd = Crowd::new(1, 20_000, 0, |policy| policy.capacity = 10_000);
        crowd.seconds(150);
        assert!(
            (1490..=1520).contains(&crowd.admitted),
            "{}",
            crowd.admitted
        );
        crowd.amend(rate(faster));
        crowd.seconds(30);
        assert!(crowd.admitted >= 10_000, "{}", crowd.admitted);
    }
}

/// Who was far away when the time-out became shorter, and is soon near.
#[test]
fn a_shorter_time_out_passes_over_nobody_who_asks_as_told() {
    for (longer, shorter) in [(60_000, 15_000), (120_000, 15_000), (3_600_000, 20_000)] {
        let mut crowd = Crowd::new(1, 5000, 0, |policy| {
            (policy.capacity, policy.rate_per_second) = (10_000, 5);
            policy.presence_ms = longer;
        });
        crowd.seconds(150);
        crowd.amend(PolicyChange {
            presence_ms: Some(shorter),
            ..rate(100)
        });
        crowd.seconds(90);
        assert_eq!(crowd.admitted, 5000);
    }
}

#[test]
fn a_room_that_is_opened_to_all_passes_over_nobody_who_asks_as_told() {
    let mut crowd = Crowd::new(1, 30_000, 0, |_| {});
    crowd.seconds(150);
    crowd.amend(PolicyChange {
        mode: Some(QueueMode::Open),
        ..NONE
    });
    crowd.second();
    assert_eq!(crowd.admitted, 30_000);
}

#[test]
fn many_who_leave_let_nobody_be_passed_over_who_stands_behind_them() {
    let mut crowd = Crowd::new(1, 30_000, 0, |policy| policy.capacity = 10_000);
    crowd.seconds(150);
    let mut front = 1600;
    // More than are listened to.
    for left in (2900..3900).step_by(130) {
        crowd.leave(front..front + left);
        front += left + 50;
        crowd.seconds(15);
    }
    assert!(crowd.room.row().front.0 > 20_000);
}

#[test]
fn who_has_gone_away_is_still_passed_over() {
    for (presence_ms, rate_per_second) in [(60_000, 10), (60_000, 50), (15_000, 50)] {
        let mut crowd = Crowd::new(1, 15_000, 30, |policy| {
            policy.capacity = 100_000;
            (policy.presence_ms, policy.rate_per_second) = (presence_ms, rate_per_second);
        });
        // The first ones are not silent for long enough.
        crowd.seconds(100);
        (crowd.passed, crowd.admitted) = (0, 0);
        crowd.seconds(80);
        let Crowd {
            passed, admitted, ..
        } = crowd;
        assert!(passed * 100 > admitted * 38, "{passed} to {admitted}");
    }
}

#[test]
fn whatever_is_changed_live_nobody_is_passed_over_who_asks_as_told() {
    for_seeds(HISTORIES, |seed| {
        let mut rng = Rng::new(seed);
        let count = u32::try_from(rng.range(500, 6000)).unwrap();
        let gone_percent = rng.range(0, 3) * 15;
        let mode = [QueueMode::Fifo, QueueMode::Fifo, QueueMode::Draw];
        let mode = *rng.pick(&mode).unwrap();
        let mut crowd = Crowd::new(seed, count, gone_percent, |policy| {
            policy.mode = mode;
            policy.presence_ms = rng.range(15, 60) * 1000;
            policy.capacity = 2000;
            policy.rate_per_second = u32::try_from(rng.range(1, 20)).unwrap();
            policy.pass_ms = rng.range(1, 60) * 1000;
            policy.opens_at = policy.opens_at.plus_ms(rng.range(0, 20) * 1000);
        });
        crowd.undone_percent = rng.range(0, 2) * 10;
        for _ in 0..6 {
            crowd.seconds(rng.range(1, 40));
            for _ in 0..rng.range(1, 2) {
                match rng.range(1, 9) {
                    1..=4 => {
                        let rates = [1, 10, 100, 1000, 5000, 10_000];
                        crowd.amend(PolicyChange {
                            rate_per_second: rng.pick(&rates).copied(),
                            ..NONE
                        });
                    }
                    5..=6 => crowd.amend(PolicyChange {
                        capacity: rng.pick(&[0, 100, 2000, 10_000]).copied(),
                        ..NONE
                    }),
                    7 => {
                        let paused = Some(!crowd.room.row().policy.paused);
                        crowd.amend(PolicyChange { paused, ..NONE });
                    }
                    8 => crowd.amend(PolicyChange {
                        presence_ms: rng.pick(&[15_000, 40_000, 120_000]).copied(),
                        ..NONE
                    }),
                    _ => {
                        let from = u32::try_from(rng.range(0, i64::from(count))).unwrap();
                        crowd.leave(from..(from + 3000).min(count));
                    }
                }
            }
        }
    });
}
