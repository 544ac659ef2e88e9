//! What must be true: of each commit when it becomes visible, of the tables at any moment, and of
//! the whole when all is quiet.

use crate::rows::{Rows, Staged};
use crate::sim::{Sim, Violation, lock};
use onsale_domain::invariants::Invariant;
use onsale_schema::message::{Command, CommandMessage, Fingerprint};
use onsale_schema::seats::{Fact, Hold, Kind, MapChange, Outcome, Policy, PolicyChange, Refusal};
use onsale_schema::status::{ClaimState, ReservationStatus, SaleState};
use onsale_schema::{
    CommandId, MessageId, Money, PartitionNo, ReservationId, ScheduleId, SeatNo, Timestamp,
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
}

#[derive(Clone, Copy)]
struct Attempt {
    key: CommandId,
    deadline: Timestamp,
    layout_no: Option<i64>,
}

impl Ghost {
    /// Something is about to be published.
    pub fn send(&mut self, message: &Arc<CommandMessage<Kind>>) {
        for command in &message.commands {
            if let Kind::Hold {
                reservation_id,
                layout_no,
                ..
            } = command.kind
            {
                let attempt = Attempt {
                    key: command.id,
                    deadline: command.deadline,
                    layout_no,
                };
                self.attempts.insert(reservation_id, attempt);
            }
        }
        self.messages
            .entry(message.id)
            .or_default()
            .push(message.clone());
    }

    /// What was first sent with this id.
    pub fn message(&self, id: MessageId) -> Option<Arc<CommandMessage<Kind>>> {
        self.messages
            .get(&id)
            .and_then(|sent| sent.first().cloned())
    }

    /// Looks at a commit just before it becomes visible.
    pub fn before_commit(&mut self, rows: &Rows, p: &Staged, found: &mut Vec<Violation>) {
        self.check_fence(p, found);
        self.check_reservations(rows, p, found);
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
                for (command, outcome) in message.commands.iter().zip(&decided.outcomes) {
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
                    Fact::Held { .. } | Fact::Ended { .. } | Fact::Sold { .. } => None,
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
            let Some(&attempt) = self.attempts.get(&r.reservation_id) else {
                found.push(Violation::promise("only what is asked", format!("{r:?}")));
                continue;
            };
            let Attempt { key, deadline, .. } = attempt;
            let layout = &rows.sales[&new.schedule_id].layout;
            let prices = r
                .seats
                .iter()
                .filter_map(|seat| layout.prices.get(seat.index()?));
            let is_meant = attempt.layout_no.is_none_or(|no| no == layout.no);
            if !is_meant || prices.copied().sum::<Money>() != r.total {
                let text = format!("layout {}: {r:?}", layout.no);
                found.push(Violation::promise("the seats that were meant", text));
            }
            let policies = self.policies(rows, p, new.schedule_id);
            let hold_ms = r.expires_at.ms_since(r.held_at);
            let is_by = |policy: &Policy| {
                (policy.seats_per_user, policy.hold_ms) == (r.seat_limit, hold_ms)
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
        if let Kind::Hold { .. } = command.kind
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
            Outcome::Applied | Outcome::DeadLettered => {
                let text = format!("{outcome:?} for {command:?}");
                found.push(Violation::promise("every command is answered", text));
            }
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
        let Kind::Hold {
            schedule_id,
            seats,
            layout_no,
            ..
        } = &command.kind
        else {
            return None;
        };
        let made = p.changes.reservations.iter();
        let mut made = made.filter(|new| new.schedule_id == *schedule_id);
        match refusal {
            Refusal::SeatUnavailable { seats } => {
                let freed = self.freed.get(&p.partition);
                let free = seats.iter().find(|seat| {
                    let key = (*schedule_id, **seat);
                    !rows.claims.contains_key(&key)
                        && !made.clone().any(|new| new.reservation.seats.contains(seat))
                        && !freed.is_some_and(|freed| freed.contains(&key))
                });
                free.map(|seat| format!("seat {} was free", seat.0))
            }
            Refusal::CommandExpired => {
                (p.decided_at <= command.deadline).then(|| format!("it was {} only", p.decided_at))
            }
            Refusal::SeatLimitExceeded { limit } => {
                let of_user = rows.reservations.values().filter(|row| {
                    row.schedule == *schedule_id && row.reservation.user_id == command.user
                });
                let live = of_user.filter(|row| row.reservation.status.is_live());
                let live: usize = live.map(|row| row.reservation.seats.len()).sum();
                let made = made.filter(|new| new.reservation.user_id == command.user);
                let made: usize = made.map(|new| new.reservation.seats.len()).sum();
                let freed = self.freed.get(&p.partition).map_or(0, BTreeSet::len);
                let most = live + made + freed + seats.len();
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
                    || self.accepted.contains_key(&command.id);
                (!is_known).then(|| "it was never accepted".to_owned())
            }
            Refusal::UnknownSchedule
            | Refusal::UnknownSeat
            | Refusal::SaleClosed
            | Refusal::NotFound
            | Refusal::StateConflict { .. }
            | Refusal::PolicyInvalid
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
    fn check_maps(&self, rows: &Rows, found: &mut Vec<Violation>) {
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
}

/// What is true of the tables at any moment.
pub fn now(sim: &Sim) {
    let mut found = Vec::new();
    {
        let database = lock(&sim.database);
        check_tables(&database.rows, &mut found);
        database.ghost.check_maps(&database.rows, &mut found);
    }
    for violation in found {
        sim.fail(violation);
    }
}

fn check_tables(rows: &Rows, found: &mut Vec<Violation>) {
    check_owners_never_overlapped(rows, found);
    check_claims_agree(rows, found);
    check_limits_were_kept(rows, found);
    for (key, error) in &rows.dead {
        if error != "junk" {
            let text = format!("{key:?}: {error}");
            found.push(Violation::promise("no command is given up", text));
        }
    }
}

/// S2. An owner who came and went at one moment never was one.
fn check_owners_never_overlapped(rows: &Rows, found: &mut Vec<Violation>) {
    let mut spans = Vec::new();
    for row in rows.reservations.values() {
        let r = &row.reservation;
        let end = r.ended_at.map_or(i64::MAX, Timestamp::micros);
        if r.held_at.micros() > end {
            found.push(Violation::of(Invariant::S2, format!("{r:?}")));
        } else if r.held_at.micros() < end {
            let span = |seat: &SeatNo| ((row.schedule, *seat), r.held_at.micros(), end);
            spans.extend(r.seats.iter().map(span));
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        let ((seat, _, end), (next_seat, start, _)) = (pair[0], pair[1]);
        if seat == next_seat && end > start {
            found.push(Violation::of(Invariant::S2, format!("{seat:?}")));
        }
    }
}

/// S1 and S3. Each seat of a live reservation is claimed by it, and nothing else is claimed.
fn check_claims_agree(rows: &Rows, found: &mut Vec<Violation>) {
    let mut claimed = 0;
    for row in rows.reservations.values() {
        let r = &row.reservation;
        if !r.status.is_live() {
            continue;
        }
        for seat in &r.seats {
            claimed += 1;
            let claim = rows.claims.get(&(row.schedule, *seat));
            let agrees = claim.is_some_and(|claim| {
                claim.reservation == Some(r.reservation_id)
                    && (claim.state == ClaimState::Held || r.status == ReservationStatus::Paid)
            });
            if !agrees {
                let text = format!("{claim:?}, but {r:?}");
                found.push(Violation::of(Invariant::S3, text));
            }
        }
    }
    if rows.claims.len() != claimed {
        found.push(Violation::of(Invariant::S3, "nobody's claims"));
    }
}

/// S5.
fn check_limits_were_kept(rows: &Rows, found: &mut Vec<Violation>) {
    for row in rows.reservations.values() {
        let (r, at) = (&row.reservation, row.reservation.held_at);
        let others = rows.reservations.values().filter(|other| {
            let o = &other.reservation;
            o.user_id == r.user_id
                && other.schedule == row.schedule
                && o.held_at <= at
                && o.ended_at.is_none_or(|ended_at| at < ended_at)
        });
        let seats: usize = others.map(|other| other.reservation.seats.len()).sum();
        if seats > r.seat_limit as usize {
            found.push(Violation::of(Invariant::S5, format!("{seats}: {r:?}")));
        }
    }
}

/// What is still to come; none when all is quiet.
pub fn unfinished(sim: &Sim, ingresses: usize) -> Option<Violation> {
    let (done, open) = {
        let people = lock(&sim.people);
        (people.done, people.open.values().next().cloned())
    };
    let stream = lock(&sim.stream);
    let database = lock(&sim.database);
    let rows = &database.rows;
    let mut messages = stream.messages.iter().rev();
    if let Some(message) = messages.find(|message| rows.outcomes_of_stored(message) == 0) {
        let row = &rows.partitions[usize::from(message.partition.0)];
        let text = format!(
            "{message:?} is undecided; the cursor is {:?}, the owner {:?}",
            row.cursor, row.owner
        );
        return Some(Violation::of(Invariant::F2, text));
    }
    if done < ingresses {
        let text = format!("requests are open: {open:?}");
        return Some(Violation::promise("every request is answered", text));
    }
    let open = rows.notices.iter().find(|(_, row)| !row.is_done);
    if let Some((id, row)) = open {
        let text = format!("notice {id} for {}", row.reservation);
        return Some(Violation::of(Invariant::O1, text));
    }
    let mut reservations = rows.reservations.values();
    let held = reservations.find(|row| row.reservation.status == ReservationStatus::Held);
    held.map(|row| Violation::promise("holds end", format!("{:?}", row.reservation)))
}

/// What is true when all is quiet.
pub fn at_the_end(sim: &Sim) {
    now(sim);
    let mut found = Vec::new();
    check_every_message_has_its_outcome(sim, &mut found);
    check_answers_are_true(sim, &mut found);
    {
        let database = lock(&sim.database);
        for id in &database.ghost.paid {
            let row = &database.rows.reservations[id];
            let sold = row.reservation.seats.iter().all(|seat| {
                let claim = database.rows.claims.get(&(row.schedule, *seat));
                claim.is_some_and(|claim| claim.state == ClaimState::Sold)
            });
            if row.reservation.status != ReservationStatus::Paid || !sold {
                let text = format!("paid, but not sold: {:?}", row.reservation);
                found.push(Violation::of(Invariant::S3, text));
            }
        }
        for (schedule, sale) in &database.rows.sales {
            let facts = database
                .rows
                .facts
                .range((*schedule, i64::MIN)..=(*schedule, i64::MAX));
            if !facts.map(|(_, version)| *version).eq(1..=sale.map_version) {
                found.push(Violation::promise(
                    "facts have no gap",
                    format!("{schedule}"),
                ));
            }
        }
    }
    for violation in found {
        sim.fail(violation);
    }
}

/// F2. What is on the stream has one outcome under its sequence, or is a dead letter.
fn check_every_message_has_its_outcome(sim: &Sim, found: &mut Vec<Violation>) {
    let stream = lock(&sim.stream);
    let database = lock(&sim.database);
    let rows = &database.rows;
    for message in &stream.messages {
        let incarnation = rows.partitions[usize::from(message.partition.0)]
            .cursor
            .incarnation;
        let count = rows.outcomes_of_stored(message);
        let is_good = if incarnation == 0 {
            count == 1
        } else {
            count >= 1
        };
        if !is_good {
            let text = format!("{count} outcomes of {message:?}");
            found.push(Violation::of(Invariant::F2, text));
        }
    }
}

/// Whatever somebody was told is still so.
fn check_answers_are_true(sim: &Sim, found: &mut Vec<Violation>) {
    let people = lock(&sim.people);
    let database = lock(&sim.database);
    let rows = &database.rows;
    for (command, outcome) in &people.acknowledged {
        let is_true = match outcome {
            Outcome::Held(hold) => {
                let row = rows.reservations.get(&hold.reservation_id);
                row.is_some_and(|row| {
                    row.hold() == *hold && row.reservation.user_id == command.user
                })
            }
            Outcome::Released { reservation_id } => {
                let row = rows.reservations.get(reservation_id);
                row.is_some_and(|row| row.reservation.status == ReservationStatus::Released)
            }
            Outcome::Applied | Outcome::Policy(_) | Outcome::Refused(_) | Outcome::DeadLettered => {
                true
            }
        };
        if !is_true {
            let text = format!("{outcome:?} for {command:?}");
            found.push(Violation::promise("answers stay true", text));
        }
    }
}
