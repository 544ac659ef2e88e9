//! The ingresses and the buyers behind them: they ask for seats, several things in one message,
//! ask again with the same key when no answer comes or when a refusal may have become untrue,
//! reuse keys, give seats back, pay, and remember every answer. Some of them are operators.

mod blocks;

use crate::lookers::Looker;
use crate::rows::PLACES;
use crate::settlement::{pay_by_order, settle};
use crate::sim::{Sim, lock};
use crate::stream::{Body, publish};
use onsale_schema::message::{Command, CommandMessage, Fingerprint, Reply};
use onsale_schema::seats::{Hold, Kind, Outcome, Places, PolicyChange, Refusal};
use onsale_schema::status::SaleState;
use onsale_schema::{
    BlockId, CommandId, IngressId, MessageId, ReservationId, ScheduleId, SeatNo, UserId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::time::Instant;
use uuid::Uuid;

/// What everybody remembers.
#[derive(Default)]
pub struct People {
    answers: BTreeMap<MessageId, Vec<Outcome>>,
    /// Commands of which somebody was told that nothing will come of them.
    pub expired: BTreeSet<(MessageId, usize)>,
    /// Every answer that somebody got, with what was asked.
    pub acknowledged: Vec<(Command<Kind>, Outcome)>,
    /// Holds that were accepted, for things to ask about.
    holds: Vec<(UserId, Hold)>,
    /// What was asked before.
    asked: Vec<Request>,
    /// Blocks that were accepted, with what was asked.
    blocks: Vec<(Request, BlockId)>,
    /// Payments through the gateway that are on their way.
    pub orders: usize,
    /// Ingresses that have no open request, and are done.
    pub done: usize,
    /// What is still open, to be told when it stays so.
    pub open: BTreeMap<CommandId, String>,
}

impl People {
    /// What is known of a command.
    pub fn answer(&self, id: MessageId, index: usize) -> Option<Outcome> {
        let outcomes = self.answers.get(&id);
        let outcome = outcomes.map(|outcomes| outcomes[index].clone());
        let is_expired = self.expired.contains(&(id, index));
        outcome.or_else(|| is_expired.then_some(Outcome::Refused(Refusal::CommandExpired)))
    }
}

/// What somebody wants; the same for all attempts.
#[derive(Clone, Debug)]
struct Request {
    key: CommandId,
    fingerprint: Fingerprint,
    user: UserId,
    want: Want,
    /// Of one who had an answer and asks again.
    is_again: bool,
}

#[derive(Clone, Debug)]
enum Want {
    Hold(ScheduleId, Vec<SeatNo>, Vec<Places>),
    Best(ScheduleId, u32),
    Release(ScheduleId, ReservationId),
    Extend(ScheduleId, ReservationId),
    Policy(ScheduleId, PolicyChange),
    Block(ScheduleId, Vec<SeatNo>),
    Unblock(ScheduleId, BlockId, Option<Vec<SeatNo>>),
}

impl Want {
    fn schedule(&self) -> ScheduleId {
        match self {
            Self::Hold(schedule, _, _)
            | Self::Best(schedule, _)
            | Self::Release(schedule, _)
            | Self::Extend(schedule, _)
            | Self::Policy(schedule, _)
            | Self::Block(schedule, _)
            | Self::Unblock(schedule, ..) => *schedule,
        }
    }
}

/// One ingress.
pub struct Ingress {
    sim: Arc<Sim>,
    id: IngressId,
    open: Vec<Request>,
    clock_offset_ms: i64,
    schedules: Vec<ScheduleId>,
}

/// A reply on its way to its ingress; it may be lost or late.
pub async fn deliver(sim: Arc<Sim>, reply: Reply<Outcome>) {
    if !sim.is_calm() && sim.percent(sim.plan.lost_replies) {
        sim.note("reply lost", || {
            format!("{} messages", reply.messages.len())
        });
        return;
    }
    sim.travel().await;
    for message in reply.messages {
        learn(&sim, message.message_id, message.outcomes);
    }
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Held(_) => "held",
        Outcome::Released { .. } => "released",
        Outcome::Extended { .. } => "extended",
        Outcome::Applied => "applied",
        Outcome::Policy(_) => "policy",
        Outcome::Blocked { .. } => "blocked",
        Outcome::Unblocked { .. } => "unblocked",
        Outcome::DeadLettered => "dead-lettered",
        Outcome::Refused(refusal) => match refusal {
            Refusal::CommandExpired => "command expired",
            Refusal::KeyReused => "key reused",
            Refusal::SaleNotOpen => "sale not open",
            Refusal::SeatLimitExceeded { .. } => "seat limit exceeded",
            Refusal::SeatUnavailable { places, .. } if !places.is_empty() => "too few places",
            Refusal::SeatUnavailable { .. } => "seat unavailable",
            Refusal::NotFound => "not found",
            Refusal::StateConflict { .. } => "state conflict",
            Refusal::LayoutChanged => "layout changed",
            Refusal::OrphanSeat { .. } => "orphan seat",
            Refusal::ExtensionLimitReached => "extension limit reached",
            Refusal::PaymentInProgress => "payment in progress",
            Refusal::UnknownSchedule
            | Refusal::UnknownSeat
            | Refusal::SaleClosed
            | Refusal::PolicyInvalid
            | Refusal::PassRequired
            | Refusal::PassInvalid
            | Refusal::PassExpired
            | Refusal::PassUsedUp
            | Refusal::NotDue => "never asked for",
        },
    }
}

/// The begin of an id, for the trace.
pub fn short(id: Uuid) -> String {
    format!("{:.6}", id.simple().to_string())
}

/// Commands, for the trace.
pub fn shown(commands: &[Command<Kind>]) -> String {
    let mut text = String::new();
    for command in commands {
        let key = short(command.id.0);
        let kind = match &command.kind {
            Kind::Hold {
                reservation_id: id,
                schedule_id,
                seats,
                places,
                layout_no,
                pass: _,
            } => {
                let (id, schedule) = (short(id.0), short(schedule_id.0));
                let places: u32 = places.iter().map(|places| places.count).sum();
                format!(
                    "hold {id} of {schedule}{seats:?} and {places} places by {layout_no:?} until {}",
                    command.deadline
                )
            }
            Kind::HoldBest {
                reservation_id: id,
                schedule_id,
                count,
                layout_no,
                ..
            } => {
                let (id, schedule) = (short(id.0), short(schedule_id.0));
                format!(
                    "hold {id}, the best {count} of {schedule} by {layout_no:?} until {}",
                    command.deadline
                )
            }
            Kind::Release { reservation_id, .. } => format!("release {}", short(reservation_id.0)),
            Kind::Extend { reservation_id, .. } => format!("extend {}", short(reservation_id.0)),
            Kind::Expire { reservation_id, .. } => format!("expire {}", short(reservation_id.0)),
            Kind::Paid { reservation_id, .. } => format!("paid {}", short(reservation_id.0)),
            Kind::PaidAll {
                reservation_ids, ..
            } => {
                let ids: Vec<_> = reservation_ids.iter().map(|id| short(id.0)).collect();
                format!("paid {}", ids.join(", "))
            }
            Kind::Secure {
                reservation_id,
                order_id,
                until,
                ..
            } => {
                let (id, order) = (short(reservation_id.0), short(order_id.0));
                format!("secure {id} for {order} until {until}")
            }
            Kind::Unsecure {
                reservation_id,
                order_id,
                ..
            } => {
                let (id, order) = (short(reservation_id.0), short(order_id.0));
                format!("let {order} go of {id}")
            }
            Kind::Rehold {
                reservation_id,
                lapsed_id,
                order_id,
                seats,
                ..
            } => {
                let (id, lapsed) = (short(reservation_id.0), short(lapsed_id.0));
                let order = short(order_id.0);
                format!("rehold {lapsed} as {id} for {order}: {seats:?}")
            }
            Kind::Cancelled {
                reservation_id,
                seats,
                at,
                ..
            } => format!("cancelled {seats:?} of {} at {at}", short(reservation_id.0)),
            Kind::PassesOver {
                schedule_id,
                tickets,
                ..
            } => format!("passes of {}: {tickets:?} are over", short(schedule_id.0)),
            Kind::Room {
                schedule_id,
                pass_required,
                version,
                ..
            } => format!(
                "room of {}: {pass_required} by {version}",
                short(schedule_id.0)
            ),
            Kind::Policy {
                schedule_id,
                change,
            } => format!("policy of {} {change:?}", short(schedule_id.0)),
            Kind::Block {
                block_id,
                schedule_id,
                seats,
                layout_no,
                ..
            } => {
                let (id, schedule) = (short(block_id.0), short(schedule_id.0));
                format!("block {id} of {schedule}{seats:?} by {layout_no:?}")
            }
            Kind::Unblock {
                block_id, seats, ..
            } => format!("unblock {} {seats:?}", short(block_id.0)),
        };
        text.push_str(&format!(" <{key} {kind}>"));
    }
    text
}

/// Takes in an answer, however it came.
pub fn learn(sim: &Sim, id: MessageId, outcomes: Vec<Outcome>) {
    let asked = lock(&sim.database).ghost.message(id);
    let asked = asked.expect("only what was asked is answered");
    sim.note("answer", || format!("{}: {outcomes:?}", short(id.0)));
    let mut people = lock(&sim.people);
    for (command, outcome) in asked.commands.iter().zip(&outcomes) {
        people.acknowledged.push((command.clone(), outcome.clone()));
    }
    for outcome in &outcomes {
        sim.note(name(outcome), String::new);
    }
    people.answers.insert(id, outcomes);
    drop(people);
    sim.answered.notify_waiters();
}

impl Ingress {
    pub fn start(sim: &Arc<Sim>) {
        let schedules = lock(&sim.database).rows.sales.keys().copied().collect();
        let ingress = Self {
            sim: sim.clone(),
            id: IngressId(sim.uuid()),
            open: Vec::new(),
            clock_offset_ms: sim.range(-20, 20),
            schedules,
        };
        sim.spawn(ingress.run());
    }

    async fn run(mut self) {
        let chaos_ms = u128::from(self.sim.plan.chaos_ms);
        loop {
            if self.sim.elapsed().as_millis() < chaos_ms {
                let burst_ms = if self.sim.percent(30) { 50 } else { 900 };
                self.sim.sleep(0, burst_ms).await;
                for _ in 0..self.sim.range(1, 4) {
                    let request = self.invent();
                    self.open.push(request);
                }
            } else if self.open.is_empty() {
                break;
            }
            self.round().await;
        }
        lock(&self.sim.people).done += 1;
    }

    /// Asks for all that is open, and waits for answers for a while.
    async fn round(&mut self) {
        let requests = std::mem::take(&mut self.open);
        let patience_ms = self.sim.range(300, 2500);
        let mut sent: Vec<(Request, MessageId, usize)> = Vec::new();
        let mut messages: BTreeMap<_, Vec<Command<Kind>>> = BTreeMap::new();
        let mut in_message: BTreeMap<_, MessageId> = BTreeMap::new();
        for request in requests {
            let schedule = request.want.schedule();
            let partition = lock(&self.sim.database).rows.partition_of(schedule);
            let command = self.command(&request, patience_ms);
            let id = match in_message.get(&partition) {
                Some(id) if self.sim.percent(70) => *id,
                Some(_) | None => MessageId(self.sim.uuid()),
            };
            in_message.insert(partition, id);
            let commands = messages.entry((partition, id)).or_default();
            commands.push(command);
            let index = commands.len() - 1;
            lock(&self.sim.people)
                .open
                .insert(request.key, format!("{request:?} in {id}"));
            sent.push((request, id, index));
        }
        for ((partition, id), commands) in messages {
            self.send(partition, id, commands);
        }
        for (_, id, index) in &sent {
            if self.sim.percent(self.sim.plan.async_clients) {
                let looker = self.looker(*id, *index);
                self.sim.spawn(looker.look_until_answered(patience_ms));
            }
        }
        self.wait(&sent, patience_ms).await;
        for (request, id, index) in sent {
            self.judge(request, id, index).await;
        }
    }

    fn command(&self, request: &Request, patience_ms: i64) -> Command<Kind> {
        let kind = match &request.want {
            Want::Hold(schedule_id, seats, places) => Kind::Hold {
                reservation_id: ReservationId(self.sim.uuid()),
                schedule_id: *schedule_id,
                seats: seats.clone(),
                places: places.clone(),
                layout_no: self.layout_no(*schedule_id),
                pass: None,
            },
            Want::Best(schedule_id, count) => Kind::HoldBest {
                reservation_id: ReservationId(self.sim.uuid()),
                schedule_id: *schedule_id,
                count: *count,
                section: None,
                grade: None,
                max_price: None,
                layout_no: self.layout_no(*schedule_id),
                pass: None,
            },
            Want::Release(schedule_id, reservation_id) => Kind::Release {
                reservation_id: *reservation_id,
                schedule_id: *schedule_id,
            },
            Want::Extend(schedule_id, reservation_id) => Kind::Extend {
                reservation_id: *reservation_id,
                schedule_id: *schedule_id,
            },
            Want::Policy(schedule_id, change) => Kind::Policy {
                schedule_id: *schedule_id,
                change: *change,
            },
            Want::Block(schedule_id, seats) => self.block(*schedule_id, seats),
            Want::Unblock(schedule_id, block_id, seats) => Kind::Unblock {
                block_id: *block_id,
                schedule_id: *schedule_id,
                seats: seats.clone(),
                reason: None,
            },
        };
        let now = self.sim.now().plus_ms(self.clock_offset_ms);
        Command {
            id: request.key,
            user: request.user,
            fingerprint: request.fingerprint,
            deadline: now.plus_ms(patience_ms + self.sim.range(0, 1000)),
            trace: None,
            kind,
        }
    }

    /// What this ingress believes a schedule's layout to be: mostly the truth, sometimes what was
    /// so before. Older ones don't say.
    fn layout_no(&self, schedule: ScheduleId) -> Option<i64> {
        let now = lock(&self.sim.database).rows.sales[&schedule].layout.no;
        match self.sim.range(1, 10) {
            1 => None,
            2..=3 => Some((now - 1).max(0)),
            _ => Some(now),
        }
    }

    fn send(
        &self,
        partition: onsale_schema::PartitionNo,
        id: MessageId,
        commands: Vec<Command<Kind>>,
    ) {
        let sim = self.sim.clone();
        sim.note("send", || {
            format!("p{partition} {}: {}", short(id.0), shown(&commands))
        });
        let message = Arc::new(CommandMessage {
            id,
            reply_to: Some(self.id),
            commands,
        });
        lock(&sim.database).ghost.send(&message);
        let copies = if sim.percent(sim.plan.duplicates) {
            2
        } else {
            1
        };
        for copy in 0..copies {
            let sim = sim.clone();
            let body = Body::Commands(message.clone());
            let late_ms = match copy {
                0 if sim.percent(sim.plan.late) => sim.range(50, 3000),
                0 => 0,
                _ => sim.range(0, 5000),
            };
            self.sim.spawn(async move {
                sim.sleep(late_ms, late_ms).await;
                publish(&sim, partition, id, body).await;
            });
        }
        if !sim.is_calm() && sim.percent(1) {
            let body = Body::Junk(vec![0xc1]);
            let id = MessageId(sim.uuid());
            self.sim.spawn(async move {
                publish(&sim, partition, id, body).await;
            });
        }
    }

    async fn wait(&self, sent: &[(Request, MessageId, usize)], patience_ms: i64) {
        let until = Instant::now() + self.sim.millis(patience_ms, patience_ms);
        loop {
            let answered = self.sim.answered.notified();
            {
                let people = lock(&self.sim.people);
                let mut ids = sent.iter().map(|(_, id, _)| id);
                if ids.all(|id| people.answers.contains_key(id)) {
                    return;
                }
            }
            if tokio::time::timeout_at(until, answered).await.is_err() {
                return;
            }
        }
    }

    fn looker(&self, id: MessageId, index: usize) -> Looker {
        Looker::new(&self.sim, self.clock_offset_ms, id, index)
    }

    /// What a request's answer, or none, leads to.
    async fn judge(&mut self, request: Request, id: MessageId, index: usize) {
        let mut answer = lock(&self.sim.people).answer(id, index);
        if answer.is_none() && self.sim.percent(30) {
            answer = self.looker(id, index).look().await;
        }
        let Some(outcome) = answer else {
            // Ask again, with the same key.
            self.open.push(request);
            return;
        };
        let is_ending = self.sim.elapsed().as_millis() >= u128::from(self.sim.plan.chaos_ms);
        match outcome {
            Outcome::Refused(
                Refusal::SeatUnavailable { .. }
                | Refusal::CommandExpired
                | Refusal::SaleNotOpen
                | Refusal::SeatLimitExceeded { .. },
            ) if !is_ending && self.sim.percent(40) => self.open.push(request),
            Outcome::Held(hold) => {
                lock(&self.sim.people).open.remove(&request.key);
                if !request.is_again {
                    self.held(&request, hold);
                }
                if !is_ending && self.sim.percent(10) {
                    self.open.push(Request {
                        is_again: true,
                        ..request
                    });
                }
            }
            // The ingress looks its seats up again by itself.
            Outcome::Refused(Refusal::LayoutChanged) if !is_ending => self.open.push(request),
            Outcome::Blocked { block_id } => {
                lock(&self.sim.people).open.remove(&request.key);
                self.blocked(&request, block_id);
            }
            Outcome::Released { .. }
            | Outcome::Extended { .. }
            | Outcome::Applied
            | Outcome::Policy(_)
            | Outcome::Unblocked { .. }
            | Outcome::DeadLettered
            | Outcome::Refused(_) => {
                lock(&self.sim.people).open.remove(&request.key);
            }
        }
    }

    fn held(&mut self, request: &Request, hold: Hold) {
        let (sim, user) = (self.sim.clone(), request.user);
        match self.sim.range(1, 10) {
            1..=3 => self.sim.spawn(settle(sim, hold.clone())),
            4..=6 => self.sim.spawn(pay_by_order(sim, user, hold.clone())),
            _ => {}
        }
        if self.sim.percent(40) {
            lock(&self.sim.people).holds.push((request.user, hold));
        } else {
            lock(&self.sim.people).asked.push(request.clone());
        }
    }

    /// Something to ask for.
    fn invent(&self) -> Request {
        let sim = &self.sim;
        let users = sim.plan.users;
        let user = UserId(Uuid::from_u128(sim.range(1, users).unsigned_abs().into()));
        match sim.range(1, 100) {
            1..=20 => {
                let holds = lock(&sim.people).holds.clone();
                if let Some((owner, hold)) = sim.pick(&holds) {
                    let user = if sim.percent(90) { owner } else { user };
                    let (schedule, id) = (hold.schedule_id, hold.reservation_id);
                    let want = match sim.percent(60) {
                        true => Want::Release(schedule, id),
                        false => Want::Extend(schedule, id),
                    };
                    return self.request(CommandId(sim.uuid()), user, want);
                }
            }
            21..=28 => {
                let asked = lock(&sim.people).asked.clone();
                if let Some(before) = sim.pick(&asked) {
                    // The same key for something else, maybe elsewhere.
                    return self.request(before.key, before.user, self.want());
                }
            }
            29..=34 => {
                let asked = lock(&sim.people).asked.clone();
                if let Some(before) = sim.pick(&asked) {
                    return Request {
                        is_again: true,
                        ..before
                    };
                }
            }
            35..=38 => return self.request(CommandId(sim.uuid()), user, self.policy()),
            39..=44 => return self.block_or_lift(),
            _ => {}
        }
        self.request(CommandId(sim.uuid()), user, self.want())
    }

    fn request(&self, key: CommandId, user: UserId, want: Want) -> Request {
        Request {
            key,
            fingerprint: Fingerprint(self.sim.uuid()),
            user,
            want,
            is_again: false,
        }
    }

    /// Other rules; a pause is a short one, or nothing else would happen.
    fn policy(&self) -> Want {
        let sim = &self.sim;
        let schedule = sim.pick(&self.schedules).expect("there are schedules");
        let mut change = PolicyChange {
            state: Some(SaleState::Open),
            ..PolicyChange::default()
        };
        if sim.percent(25) {
            change.state = Some(SaleState::Paused);
        }
        if sim.percent(50) {
            change.seats_per_user = u32::try_from(sim.range(1, 5)).ok();
        }
        if sim.percent(50) {
            change.hold_ms = Some(sim.range(3, 35) * 100);
        }
        if sim.percent(20) {
            change.release_jitter_ms = Some(sim.range(0, 2) * 400);
        }
        Want::Policy(schedule, change)
    }

    fn want(&self) -> Want {
        let schedule = self.some_schedule();
        if self.sim.percent(20) {
            let count = u32::try_from(self.sim.range(1, 4)).expect("a few");
            return Want::Best(schedule, count);
        }
        let places = match self.sim.percent(25) {
            true => self.places(),
            false => Vec::new(),
        };
        if !places.is_empty() && self.sim.percent(60) {
            return Want::Hold(schedule, Vec::new(), places);
        }
        Want::Hold(schedule, self.some_seats(), places)
    }

    fn places(&self) -> Vec<Places> {
        let count = u32::try_from(self.sim.range(1, 2)).expect("a few");
        let section = PLACES.to_owned();
        vec![Places { section, count }]
    }

    fn some_schedule(&self) -> ScheduleId {
        self.sim.pick(&self.schedules).expect("there are schedules")
    }

    fn some_seats(&self) -> Vec<SeatNo> {
        let sim = &self.sim;
        let last = sim.plan.seats - 1;
        let mut seats: Vec<SeatNo> = (0..sim.range(1, 3))
            .map(|_| sim.range(0, last.into()))
            .map(|no| SeatNo(i32::try_from(no).expect("few seats")))
            .collect();
        seats.sort_unstable();
        seats.dedup();
        seats
    }
}
