//! Those who send commands: people who come, leave, come again and repeat themselves, reports of who
//! was heard, words of holds, and an operator who changes the rules. Messages come twice and late.

use crate::tables::Sim;
use onsale_schema::admission::{Code, HoldChange, HoldState, Kind, PolicyChange};
use onsale_schema::message::{Command, CommandMessage, Fingerprint};
use onsale_schema::status::QueueMode;
use onsale_schema::{
    ArrivalNo, CommandId, IngressId, MessageId, NoticeId, ReservationId, ScheduleId, UserId,
};
use std::sync::Arc;
use uuid::Uuid;

/// People of a history.
const PEOPLE: i64 = 12;
/// Messages and commands that are remembered, to be sent again.
const REMEMBERED: usize = 50;

type Message = (ScheduleId, CommandMessage<Kind>);

pub struct Crowd {
    sim: Arc<Sim>,
    rooms: Vec<ScheduleId>,
    sent: Vec<Message>,
    late: Vec<Message>,
    commands: Vec<Command<Kind>>,
}

impl Crowd {
    pub fn new(sim: Arc<Sim>) -> Self {
        Self {
            rooms: sim.rooms(),
            sim,
            sent: Vec::new(),
            late: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Somebody sends something.
    pub fn act(&mut self) {
        let room = self.sim.pick(&self.rooms).unwrap();
        match self.sim.range(0, 99) {
            0..=2 => self.sim.publish(room, None),
            3..=9 => self.again(),
            10..=19 => self.deliver(),
            _ => {
                let count = self.sim.range(1, 6);
                let commands = (0..count).map(|_| self.command(room)).collect();
                let message = (room, self.message(commands));
                if self.sim.percent(15) {
                    self.sim.note("late");
                    self.late.push(message);
                } else {
                    self.publish(message);
                }
            }
        }
    }

    /// What was held back arrives.
    pub fn hand_in(&mut self) {
        while !self.late.is_empty() {
            self.deliver();
        }
    }

    /// Everybody is let in at once.
    pub fn open_all(&mut self) {
        for room in self.rooms.clone() {
            let change = PolicyChange {
                mode: Some(QueueMode::Open),
                paused: Some(false),
                opens_at: Some(self.sim.now().plus_ms(-1000)),
                presence_ms: Some(3_600_000),
                ..PolicyChange::default()
            };
            let policy = Kind::Policy {
                schedule_id: room,
                change,
            };
            self.say(room, policy);
        }
    }

    /// Everybody is heard.
    pub fn report(&mut self) {
        for room in self.rooms.clone() {
            let tickets = self.sim.tables().rooms[&room].room.arrivals;
            let seen = Kind::Seen {
                schedule_id: room,
                tickets: (0..tickets).map(ArrivalNo).collect(),
                others: false,
            };
            self.say(room, seen);
        }
    }

    fn say(&mut self, room: ScheduleId, kind: Kind) {
        let command = self.of(UserId(Uuid::nil()), kind);
        let message = self.message(vec![command]);
        self.publish((room, message));
    }

    fn message(&self, commands: Vec<Command<Kind>>) -> CommandMessage<Kind> {
        CommandMessage {
            id: MessageId(self.sim.uuid()),
            reply_to: Some(IngressId(Uuid::nil())),
            commands,
        }
    }

    fn publish(&mut self, message: Message) {
        self.sim.publish(message.0, Some(message.1.clone()));
        self.sent.push(message);
        if self.sent.len() > REMEMBERED {
            self.sent.remove(0);
        }
    }

    /// A message is stored twice.
    fn again(&mut self) {
        if let Some((room, message)) = self.sim.pick(&self.sent) {
            self.sim.note("duplicate");
            self.sim.publish(room, Some(message));
        }
    }

    fn deliver(&mut self) {
        if !self.late.is_empty() {
            let last = i64::try_from(self.late.len()).unwrap() - 1;
            let at = usize::try_from(self.sim.range(0, last)).unwrap();
            let message = self.late.swap_remove(at);
            self.publish(message);
        }
    }

    fn of(&self, user: UserId, kind: Kind) -> Command<Kind> {
        Command {
            id: CommandId(self.sim.uuid()),
            user,
            fingerprint: Fingerprint(Uuid::nil()),
            deadline: self.sim.now().plus_ms(10_000),
            trace: None,
            kind,
        }
    }

    fn command(&mut self, room: ScheduleId) -> Command<Kind> {
        if self.sim.percent(15)
            && let Some(mut known) = self.sim.pick(&self.commands)
        {
            // Sent again, perhaps to another room with the same key.
            if let Kind::Join { schedule_id, .. } = &mut known.kind {
                *schedule_id = room;
            }
            if known.kind.schedule_id() == room {
                return known;
            }
        }
        let user = u128::try_from(self.sim.range(1, PEOPLE)).unwrap();
        let kind = self.kind(room);
        let command = self.of(UserId(Uuid::from_u128(user)), kind);
        self.commands.push(command.clone());
        if self.commands.len() > REMEMBERED {
            self.commands.remove(0);
        }
        command
    }

    fn kind(&self, room: ScheduleId) -> Kind {
        let sim = &self.sim;
        let schedule_id = room;
        let at = sim.range(0, 1000);
        let ticket = sim.tables().ticket(room, at);
        match sim.range(0, 99) {
            0..=49 => Kind::Join {
                schedule_id,
                code: sim.percent(30).then(|| self.code(room)),
            },
            50..=59 => Kind::Leave {
                schedule_id,
                ticket_id: None,
            },
            60..=71 => Kind::Seen {
                schedule_id,
                tickets: ticket.iter().map(|(no, _)| *no).collect(),
                others: sim.percent(50),
            },
            72..=84 => {
                let until = sim.now().plus_ms(sim.range(-1000, 5000));
                let states = [HoldState::Until(until), HoldState::Over, HoldState::Paid];
                let changes = ticket.iter().map(|(arrival_no, ticket_id)| HoldChange {
                    ticket_id: *ticket_id,
                    arrival_no: *arrival_no,
                    reservation_id: ReservationId(Uuid::from_u128(1)),
                    state: sim.pick(&states).unwrap(),
                });
                Kind::Holds {
                    notice_id: NoticeId(sim.uuid()),
                    schedule_id,
                    changes: changes.collect(),
                }
            }
            85 => Kind::RevokeCode {
                schedule_id,
                code_id: self.code(room).code_id,
            },
            _ => Kind::Policy {
                schedule_id,
                change: self.change(),
            },
        }
    }

    fn code(&self, room: ScheduleId) -> Code {
        let codes = self.sim.tables().rooms[&room].codes.clone();
        self.sim.pick(&codes).unwrap()
    }

    fn change(&self) -> PolicyChange {
        let sim = &self.sim;
        let modes = [
            QueueMode::Fifo,
            QueueMode::Draw,
            QueueMode::Draw,
            QueueMode::Open,
            QueueMode::Off,
        ];
        let opens_at = sim.now().plus_ms(sim.range(-2000, 8000));
        PolicyChange {
            mode: sim.pick(&modes),
            paused: Some(sim.percent(10)),
            opens_at: sim.percent(40).then_some(opens_at),
            capacity: Some(u32::try_from(sim.range(0, 4)).unwrap()),
            rate_per_second: Some(u32::try_from(sim.range(1, 10)).unwrap()),
            pass_ms: Some(sim.range(1, 4) * 1000),
            presence_ms: Some(15_000),
            holds_per_pass: None,
            cancelled: false,
        }
    }
}
