//! What nobody in the system knows: everything that was sent and committed. It judges each commit
//! just before it becomes visible.

mod blocks;
mod payments;

use crate::rows::{ReservationRow, Rows, Staged};
use crate::sim::Violation;
use onsale_schema::invariant::Invariant;
use onsale_schema::message::{Command, CommandMessage, Fingerprint};
use onsale_schema::seats::{
    Fact, Hold, Kind, MapChange, Outcome, Places, Policy, PolicyChange, Refusal,
};
use onsale_schema::status::{ClaimState, ReservationStatus, SaleState};
use onsale_schema::{
    CommandId, MessageId, Money, PartitionNo, PaymentOrderId, ReservationId, ScheduleId, SeatNo,
    Timestamp,
};
use onsale_workers::runtime::core::Fence;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What nobody in the system knows: everything that was sent and committed, in order.
#[derive(Default)]
pub struct Ghost {
    /// By message id; a message of the system is sent again with less in it.
    messages: BTreeMap<MessageId, Vec<Arc<CommandMessage<Kind>>>>,
    /// The attempt that would make a reservation.
    attempts: BTreeMap<ReservationId, Attempt>,
    /// Keys that have a reservation.
    accepted: BTreeMap<CommandId, ReservationId>,
    pub paid: BTreeSet<ReservationId>,
    /// Orders whose money went back for want of seats.
    pub refunded: BTreeSet<PaymentOrderId>,
    late: payments::Late,
    /// Commands of which somebody was told that nothing will come of them.
    given_up: BTreeSet<(MessageId, usize)>,
    /// The last commit of each partition.
    last: BTreeMap<PartitionNo, Fence>,
    /// Seats that were freed since the partition's cursor moved.
    freed: BTreeMap<PartitionNo, BTreeSet<(ScheduleId, SeatNo)>>,
    /// Policies that were in force since the partition's cursor moved and are no more.
    former: BTreeMap<PartitionNo, Vec<(ScheduleId, Policy)>>,
    /// The maps of those who follow the broadcasts.
    shown: BTreeMap<(ScheduleId, SeatNo), ClaimState>,
    versions: BTreeMap<(ScheduleId, i64), MapChange>,
    /// What each key was answered at a schedule, once it was accepted there.
    held: BTreeMap<(CommandId, ScheduleId), (Fingerprint, Hold)>,
    blocks: blocks::Blocks,
}

#[derive(Clone, Copy)]
struct Attempt {
    key: CommandId,
    deadline: Timestamp,
    layout_no: Option<i64>,
    /// So many seats and places.
    wanted: usize,
}

fn wanted(seats: &[SeatNo], places: &[Places]) -> usize {
    let counts = places.iter().map(|places| places.count as usize);
    seats.len() + counts.sum::<usize>()
}

impl Ghost {
    /// Something is about to be published.
    pub fn send(&mut self, message: &Arc<CommandMessage<Kind>>) {
        for command in &message.commands {
            self.blocks.send(command);
            self.late.send(command);
            let (reservation_id, layout_no, wanted) = match &command.kind {
                Kind::Hold {
                    reservation_id,
                    seats,
                    places,
                    layout_no,
                    ..
                } => (*reservation_id, *layout_no, wanted(seats, places)),
                Kind::HoldBest {
                    reservation_id,
                    count,
                    layout_no,
                    ..
                } => (*reservation_id, *layout_no, *count as usize),
                _ => continue,
            };
            let attempt = Attempt {
                key: command.id,
                deadline: command.deadline,
                layout_no,
                wanted,
            };
            self.attempts.insert(reservation_id, attempt);
        }
        self.messages
            .entry(message.id)
            .or_default()
            .push(message.clone());
    }

    /// Somebody is told that a command, which has no outcome, has expired.
    pub fn give_up(&mut self, id: MessageId, index: usize) {
        self.given_up.insert((id, index));
    }

    /// What was first sent with this id.
    pub fn message(&self, id: MessageId) -> Option<Arc<CommandMessage<Kind>>> {
        self.messages
            .get(&id)
            .and_then(|sent| sent.first().cloned())
    }

    /// Looks at a commit just before it becomes visible.
    pub fn before_commit(
        &mut self,
        rows: &Rows,
        p: &Staged,
        latest: Timestamp,
        found: &mut Vec<Violation>,
    ) {
        self.check_fence(p, found);
        self.check_reservations(rows, p, found);
        check_times(rows, p, latest, found);
        self.blocks.check_rows(rows, p, latest, found);
        for decided in &p.decided {
            let sent = self.messages.get(&decided.message_id);
            let sent = sent.into_iter().flatten();
            let Some(message) = sent
                .into_iter()
                .find(|message| message.commands.len() == decided.outcomes.len())
            else {
                let text = format!("outcomes of what was not sent: {decided:?}");
                found.push(Violation::of(Invariant::F2, text));
                continue;
            };
            let message = message.clone();
            if message.reply_to.is_some() {
                let asked = message.commands.iter().enumerate();
                for ((index, command), outcome) in asked.zip(&decided.outcomes) {
                    if self.given_up.contains(&(message.id, index)) {
                        check_given_up(rows, p, command, outcome, found);
                    }
                    self.check_outcome(rows, p, command, outcome, found);
                }
            }
        }
        self.follow(p, found);
        let freed = self.freed.entry(p.partition).or_default();
        if !p.decided.is_empty() {
            freed.clear();
        }
        let net = p.changes.claims.net();
        freed.extend(net.deletes.iter().map(|c| (c.schedule_id, c.seat_no)));
        let former = self.former.entry(p.partition).or_default();
        if !p.decided.is_empty() {
            former.clear();
        }
        for update in &p.changes.policies {
            if p.decided.is_empty() {
                former.push((update.schedule_id, update.before));
            }
            if rows.sales[&update.schedule_id].policy != update.before {
                let text = format!("{update:?}");
                found.push(Violation::promise("no policy is lost", text));
            }
        }
    }

    /// The policies that may have decided a command of this batch.
    fn policies(&self, rows: &Rows, p: &Staged, schedule: ScheduleId) -> Vec<Policy> {
        let mut all = vec![rows.sales[&schedule].policy];
        let former = self.former.get(&p.partition).into_iter().flatten();
        let former = former.filter(|(of, _)| *of == schedule);
        all.extend(former.map(|(_, policy)| *policy));
        let facts = p.changes.facts.iter();
        let facts = facts.filter(|facts| facts.schedule_id == schedule);
        all.extend(
            facts
                .flat_map(|facts| &facts.facts)
                .filter_map(|fact| match fact {
                    Fact::Policy { policy, .. } => Some(*policy),
                    Fact::Held { .. }
                    | Fact::Extended { .. }
                    | Fact::GivenBack { .. }
                    | Fact::Ended { .. }
                    | Fact::Sold { .. }
                    | Fact::Cancelled { .. }
                    | Fact::Reheld { .. }
                    | Fact::Blocked { .. }
                    | Fact::Unblocked { .. } => None,
                }),
        );
        all
    }

    fn check_fence(&mut self, p: &Staged, found: &mut Vec<Violation>) {
        let now = Fence {
            epoch: p.expect.epoch,
            commit_no: p.expect.commit_no + 1,
        };
        let last = self.last.insert(p.partition, now);
        if last.is_some_and(|last| now.epoch < last.epoch || now.commit_no <= last.commit_no) {
            let text = format!("partition {}: {now:?} after {last:?}", p.partition);
            found.push(Violation::of(Invariant::F1, text));
        }
    }

    fn check_reservations(&mut self, rows: &Rows, p: &Staged, found: &mut Vec<Violation>) {
        for ended in &p.changes.ended {
            let is_end = matches!(
                ended.to,
                ReservationStatus::Expired | ReservationStatus::Released
            );
            if ended.from != ReservationStatus::Held || !is_end {
                found.push(Violation::of(Invariant::S4, format!("{ended:?}")));
            }
        }
        for new in &p.changes.reservations {
            let r = &new.reservation;
            if r.rehold_order.is_some() {
                self.late.check(r, found);
                continue;
            }
            let Some(&attempt) = self.attempts.get(&r.reservation_id) else {
                found.push(Violation::promise("only what is asked", format!("{r:?}")));
                continue;
            };
            let Attempt { key, deadline, .. } = attempt;
            let layout = &rows.sales[&new.schedule_id].layout;
            let prices = r
                .seats
                .iter()
                .filter_map(|seat| layout.prices().get(seat.index()?));
            let is_meant = attempt.layout_no.is_none_or(|no| no == layout.no)
                && attempt.wanted == r.seats.len();
            if !is_meant || prices.copied().sum::<Money>() != r.total {
                let text = format!("layout {}: {r:?}", layout.no);
                found.push(Violation::promise("the seats that were meant", text));
            }
            let policies = self.policies(rows, p, new.schedule_id);
            let hold_ms = r.term.expires_at.ms_since(r.held_at);
            let is_new = r.term.extended_by.is_empty() && r.term.ends_as.is_none();
            let is_by = |policy: &Policy| {
                policy.seats_per_user == r.seat_limit
                    && (policy.hold_ms == hold_ms || !is_new)
                    && policy.state == SaleState::Open
            };
            if !policies.iter().any(is_by) {
                let text = format!("{policies:?}: {r:?}");
                found.push(Violation::promise("holds go by the policy", text));
            }
            if p.decided_at > deadline {
                let text = format!("{} decided at {}: {r:?}", deadline, p.decided_at);
                found.push(Violation::promise("no hold past its deadline", text));
            }
            let before = self.accepted.insert(key, r.reservation_id);
            if before.is_some() {
                let text = format!("key {key} has {before:?} and {r:?}");
                found.push(Violation::of(Invariant::I1, text));
            }
        }
    }

    /// Whether an answer to a buyer is right.
    fn check_outcome(
        &mut self,
        rows: &Rows,
        p: &Staged,
        command: &Command<Kind>,
        outcome: &Outcome,
        found: &mut Vec<Violation>,
    ) {
        let schedule = command.kind.schedule_id();
        if let Kind::Block { .. } | Kind::Unblock { .. } = command.kind {
            self.blocks.check_answer(command, outcome, found);
        }
        if let Kind::Hold { .. } | Kind::HoldBest { .. } = command.kind
            && let Some((fingerprint, hold)) = self.held.get(&(command.id, schedule))
        {
            let is_same = match outcome {
                Outcome::Held(again) => again == hold && *fingerprint == command.fingerprint,
                Outcome::Refused(Refusal::KeyReused) => *fingerprint != command.fingerprint,
                _ => false,
            };
            if !is_same {
                let text = format!("accepted as {hold:?}, then {outcome:?}: {command:?}");
                found.push(Violation::promise("one key, one answer", text));
            }
            return;
        }
        match outcome {
            Outcome::Held(hold) => {
                let held = (command.fingerprint, hold.clone());
                self.held.insert((command.id, schedule), held);
            }
            Outcome::Refused(refusal) => {
                if let Some(why) = self.is_wrong(rows, p, command, refusal) {
                    let text = format!("{refusal:?}, but {why}: {command:?}");
                    found.push(Violation::promise("refusals have a reason", text));
                }
            }
            Outcome::Released { .. } => {}
            Outcome::Extended { expires_at, .. } => {
                self.check_extended(rows, p, command, *expires_at, found);
            }
            Outcome::Policy(policy) => {
                let is_asked = match &command.kind {
                    Kind::Policy { change, .. } => is_so(policy, change),
                    _ => false,
                };
                if !is_asked {
                    let text = format!("{policy:?} for {command:?}");
                    found.push(Violation::promise("every command is answered", text));
                }
            }
            Outcome::Blocked { .. } | Outcome::Unblocked { .. } => {}
            Outcome::Applied | Outcome::DeadLettered => {
                let text = format!("{outcome:?} for {command:?}");
                found.push(Violation::promise("every command is answered", text));
            }
        }
    }

    /// Who was told that a hold lasts longer finds it so in the rows, unless it ended meanwhile.
    fn check_extended(
        &self,
        rows: &Rows,
        p: &Staged,
        command: &Command<Kind>,
        expires_at: Timestamp,
        found: &mut Vec<Violation>,
    ) {
        let Kind::Extend { reservation_id, .. } = command.kind else {
            let text = format!("extended: {command:?}");
            found.push(Violation::promise("every command is answered", text));
            return;
        };
        let made = p.changes.reservations.iter().map(|new| &new.reservation);
        let mut made = made.filter(|r| r.reservation_id == reservation_id);
        let mut terms = p.changes.terms.iter();
        let written = terms.find(|update| update.reservation_id == reservation_id);
        let row = rows.reservations.get(&reservation_id);
        let term = (written.map(|update| &update.after))
            .or_else(|| made.next().map(|r| &r.term))
            .or_else(|| row.map(|row| &row.reservation.term));
        let is_so = term.is_some_and(|term| {
            term.extended_by.contains(&command.id)
                && (term.expires_at >= expires_at || term.ends_as.is_some())
        });
        if !is_so {
            let text = format!("until {expires_at}, but {term:?}: {command:?}");
            found.push(Violation::promise("what lasts longer, lasts", text));
        }
    }

    /// Why a hold's refusal has no reason in the rows before the batch, nor in the batch.
    fn is_wrong(
        &self,
        rows: &Rows,
        p: &Staged,
        command: &Command<Kind>,
        refusal: &Refusal,
    ) -> Option<String> {
        let (schedule_id, wanted, layout_no) = match &command.kind {
            Kind::Hold {
                schedule_id,
                seats,
                places,
                layout_no,
                ..
            } => (schedule_id, wanted(seats, places), layout_no),
            Kind::HoldBest {
                schedule_id,
                count,
                layout_no,
                ..
            } => (schedule_id, *count as usize, layout_no),
            Kind::Block {
                schedule_id,
                seats,
                layout_no,
                ..
            } => match refusal {
                Refusal::SaleNotOpen | Refusal::SeatLimitExceeded { .. } => {
                    return Some("blocks don't mind".to_owned());
                }
                _ => (schedule_id, seats.len(), layout_no),
            },
            _ => return None,
        };
        let blocks = p.changes.blocks.iter();
        let blocked = blocks.filter(|row| row.schedule_id == *schedule_id && !row.lifts);
        let made = p.changes.reservations.iter();
        let mut made = made.filter(|new| new.schedule_id == *schedule_id);
        match refusal {
            Refusal::SeatUnavailable { seats, places } => {
                let freed = self.freed.get(&p.partition);
                let was_free = |seat: &SeatNo| {
                    let key = (*schedule_id, *seat);
                    !rows.claims.contains_key(&key)
                        && !made.clone().any(|new| new.reservation.seats.contains(seat))
                        && !blocked.clone().any(|row| row.seats.contains(seat))
                        && !freed.is_some_and(|freed| freed.contains(&key))
                };
                let sale = &rows.sales[schedule_id];
                if let Kind::HoldBest { .. } = command.kind {
                    let all = (0..sale.seats).map(SeatNo);
                    let free = all.filter(was_free).count();
                    return (free >= wanted).then(|| format!("{free} were free"));
                }
                if let Kind::Hold { places: of, .. } = &command.kind
                    && let (Some(left), Some(of)) = (places.first(), of.first())
                {
                    let all = (0..).take(sale.layout.prices().len()).map(SeatNo);
                    let places = all.filter(|seat| seat.0 >= sale.seats);
                    let free = places.filter(was_free).count();
                    let is_wrong = free >= of.count as usize || left.available >= of.count;
                    return is_wrong.then(|| format!("{free} places were free"));
                }
                let free = seats.iter().find(|seat| was_free(seat));
                free.map(|seat| format!("seat {} was free", seat.0))
            }
            Refusal::CommandExpired => {
                (p.decided_at <= command.deadline).then(|| format!("it was {} only", p.decided_at))
            }
            Refusal::SeatLimitExceeded { limit } => {
                let of_user = rows.reservations.values().filter(|row| {
                    row.schedule == *schedule_id && row.reservation.user_id == command.user
                });
                // Cancelled ones count until their owner has heard of it.
                let has_some = |row: &&ReservationRow| {
                    let mut seats = row.reservation.seats.iter();
                    seats.any(|seat| rows.is_claimed_by(row, *seat))
                };
                let live = of_user.filter(has_some);
                let live: usize = live.map(|row| row.reservation.seats.len()).sum();
                let made = made.filter(|new| new.reservation.user_id == command.user);
                let made: usize = made.map(|new| new.reservation.seats.len()).sum();
                let freed = self.freed.get(&p.partition).map_or(0, BTreeSet::len);
                let most = live + made + freed + wanted;
                (most <= *limit as usize).then(|| format!("there were {most} at most"))
            }
            Refusal::SaleNotOpen => {
                let policies = self.policies(rows, p, *schedule_id);
                let is_open = |policy: &Policy| {
                    policy.state == SaleState::Open && policy.booking_opens_at <= crate::sim::BASE
                };
                policies
                    .iter()
                    .all(is_open)
                    .then(|| "it was open".to_owned())
            }
            Refusal::LayoutChanged => {
                let now = rows.sales[schedule_id].layout.no;
                layout_no
                    .is_none_or(|meant| meant >= now)
                    .then(|| format!("it is {now}"))
            }
            Refusal::KeyReused => {
                let is_known = rows.commands.contains_key(&command.id)
                    || made.any(|new| new.reservation.command_id == command.id)
                    || self.accepted.contains_key(&command.id)
                    || rows.blocks.contains_key(&command.id)
                    || p.changes
                        .blocks
                        .iter()
                        .any(|row| row.command_id == command.id);
                (!is_known).then(|| "it was never accepted".to_owned())
            }
            Refusal::OrphanSeat { .. } => {
                let policies = self.policies(rows, p, *schedule_id);
                let any = policies.iter().any(|policy| policy.prevents_orphans);
                (!any).then(|| "nobody minds".to_owned())
            }
            Refusal::ExtensionLimitReached
            | Refusal::UnknownSchedule
            | Refusal::UnknownSeat
            | Refusal::SaleClosed
            | Refusal::PaymentInProgress
            | Refusal::NotFound
            | Refusal::StateConflict { .. }
            | Refusal::PolicyInvalid
            | Refusal::PassRequired
            | Refusal::PassInvalid
            | Refusal::PassExpired
            | Refusal::PassUsedUp
            | Refusal::NotDue => Some("that was never asked for".to_owned()),
        }
    }

    fn follow(&mut self, p: &Staged, found: &mut Vec<Violation>) {
        for map in &p.changes.maps {
            for &(seat, state) in &map.changes {
                let key = (map.schedule_id, seat);
                let before = match state {
                    Some(state) => self.shown.insert(key, state),
                    None => self.shown.remove(&key),
                };
                if before == state {
                    let text = format!("seat {} is said to be what it was", seat.0);
                    found.push(Violation::promise("map changes", text));
                }
            }
            self.versions
                .insert((map.schedule_id, map.version), map.clone());
        }
    }

    /// Whether a broadcast says what is committed.
    pub fn is_told_truly(&self, rows: &Rows, map: &MapChange) -> Result<(), String> {
        let version = rows.sales[&map.schedule_id].map_version;
        if map.version > version {
            return Err(format!("{map:?}, but the row has {version}"));
        }
        let is_beat = map.from_version == map.version;
        let committed = self.versions.get(&(map.schedule_id, map.version));
        if is_beat || committed == Some(map) {
            Ok(())
        } else {
            Err(format!("{map:?}, but committed was {committed:?}"))
        }
    }

    /// The followed maps are the claims.
    pub fn check_maps(&self, rows: &Rows, found: &mut Vec<Violation>) {
        let claims = rows.claims.iter().map(|(key, claim)| (*key, claim.state));
        if !claims.eq(self.shown.iter().map(|(key, state)| (*key, *state))) {
            let text = format!("shown {:?}, claimed {:?}", self.shown, rows.claims);
            found.push(Violation::promise("map changes", text));
        }
    }
}

/// Whether a policy has the values of a change.
fn is_so(policy: &Policy, change: &PolicyChange) -> bool {
    change.state.is_none_or(|state| state == policy.state)
        && change.hold_ms.is_none_or(|ms| ms == policy.hold_ms)
        && change
            .seats_per_user
            .is_none_or(|seats| seats == policy.seats_per_user)
        && change
            .release_jitter_ms
            .is_none_or(|ms| ms == policy.release_jitter_ms)
}

/// No hold ends before its end, nor is anything written that lies in the future, by more than the
/// clocks are tolerated to be wrong.
fn check_times(rows: &Rows, p: &Staged, latest: Timestamp, found: &mut Vec<Violation>) {
    for ended in &p.changes.ended {
        let row = rows.reservations.get(&ended.reservation_id);
        let changed = p.changes.terms.iter();
        let mut changed = changed.filter(|t| t.reservation_id == ended.reservation_id);
        let end = changed.next().map(|update| update.after.release_at);
        let end = end.or_else(|| row.map(|row| row.reservation.term.release_at));
        let is_early = ended.to == ReservationStatus::Expired && end.is_some_and(|at| at > latest);
        if is_early || ended.at > latest {
            let text = format!("{ended:?} of {end:?}, latest {latest}");
            found.push(Violation::promise("no hold ends early", text));
        }
    }
    for new in &p.changes.reservations {
        if new.reservation.held_at > latest {
            let text = format!("{:?}, latest {latest}", new.reservation);
            found.push(Violation::promise("no hold begins in the future", text));
        }
    }
}

/// Nothing comes of a command that somebody was told has expired; it may be answered by what came
/// of the same key before.
fn check_given_up(
    rows: &Rows,
    p: &Staged,
    command: &Command<Kind>,
    outcome: &Outcome,
    found: &mut Vec<Violation>,
) {
    let comes_to_nothing = match (&command.kind, outcome) {
        (_, Outcome::Refused(Refusal::CommandExpired)) => true,
        (
            Kind::Hold { reservation_id, .. } | Kind::HoldBest { reservation_id, .. },
            Outcome::Held(hold),
        ) => hold.reservation_id != *reservation_id,
        (Kind::Hold { .. } | Kind::HoldBest { .. }, outcome) => {
            *outcome == Outcome::Refused(Refusal::KeyReused)
        }
        (Kind::Block { .. } | Kind::Unblock { .. }, outcome) => {
            blocks::comes_to_nothing(rows, p, command, outcome)
        }
        (Kind::Extend { reservation_id, .. }, Outcome::Extended { .. }) => {
            let before = rows.reservations.get(reservation_id);
            let made = p.changes.reservations.iter().map(|new| &new.reservation);
            let mut terms = (p.changes.terms.iter().map(|update| &update.after))
                .chain(made.map(|r| &r.term))
                .chain(before.map(|row| &row.reservation.term));
            terms.any(|term| term.extended_by.contains(&command.id))
        }
        _ => false,
    };
    if !comes_to_nothing {
        let text = format!("{outcome:?} for {command:?}");
        found.push(Violation::promise("what has expired stays so", text));
    }
}
