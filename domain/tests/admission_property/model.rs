//! A naive waiting room: lists that are looked through from the beginning each time, nothing kept
//! that could be found out again.

use onsale_domain::admission::{LINGER_MS, OPENING_GRACE_MS, Policy};
use onsale_schema::admission::{
    CAPACITY, Code, FIRST_SILENT_MS, HOLDS_PER_PASS, HoldState, Kind, Outcome, PASS_MS,
    PRESENCE_MS, RATE_PER_SECOND, Refusal, TICKETS_PER_USER, Ticket,
};
use onsale_schema::draw::{Digest, Draw, Secret};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{
    AccessCodeId, ArrivalNo, Generation, ReservationId, ScheduleId, TicketId, Timestamp, UserId,
};
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub struct Entry {
    pub id: TicketId,
    pub user: UserId,
    pub fingerprint: Fingerprint,
    pub status: TicketStatus,
    /// With what it joined, if it is a guest's.
    pub code: Option<Code>,
    pub was_passed: bool,
    /// A guest's that was called before its time.
    pub was_early: bool,
    /// Was heard since it was passed over, or waits for the opening.
    pub is_back: bool,
    /// Of [`Model::flow`].
    heard: i64,
    pass_until: Timestamp,
    holds: Vec<(ReservationId, Timestamp, bool)>,
}

impl Entry {
    fn expires_at(&self) -> Timestamp {
        let live = self.holds.iter().filter(|(_, _, is_over)| !is_over);
        let until = live.map(|(_, until, _)| *until).max();
        self.pass_until.max(until.unwrap_or(Timestamp::EPOCH))
    }
}

#[derive(Clone, Debug)]
pub struct Model {
    pub schedule: ScheduleId,
    pub policy: Policy,
    pub is_cancelled: bool,
    pub secret: Secret,
    pub entries: Vec<Entry>,
    /// Ids of tickets that its owner was told of.
    pub told: BTreeSet<TicketId>,
    /// Ids of tickets of other rooms.
    pub elsewhere: BTreeSet<TicketId>,
    /// So many tickets were there before the batch.
    pub batch_from: usize,
    /// Whether a ticket was made that was there before.
    pub has_missed: bool,
    /// The tickets in their order, once there is one.
    pub line: Option<Vec<usize>>,
    /// How many of the line had their turn.
    pub turned: usize,
    /// All guests before had their turn.
    pub guests_turned: usize,
    pub revoked: BTreeSet<AccessCodeId>,
    /// Size and digest of the closed lobby.
    lobby: Option<(usize, Digest)>,
    beacon_name: Option<String>,
    beacon: Option<Vec<u8>>,
    /// Time in which there were reports of somebody.
    flow: i64,
    /// Time in which nobody was heard.
    quiet: i64,
    reported_at: Option<Timestamp>,
    /// When each was let in that the limits count, with the rate of then.
    pub admitted: Vec<(Timestamp, u32)>,
    /// Up to when the rate is used up, in microseconds.
    used: i64,
    pub latest: Timestamp,
}

impl Model {
    pub fn new(schedule: ScheduleId, policy: Policy, secret: Secret) -> Self {
        Self {
            schedule,
            policy,
            is_cancelled: false,
            secret,
            entries: Vec::new(),
            told: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            batch_from: 0,
            has_missed: false,
            line: None,
            turned: 0,
            guests_turned: 0,
            revoked: BTreeSet::new(),
            lobby: None,
            beacon_name: None,
            beacon: None,
            flow: 0,
            quiet: 0,
            reported_at: None,
            admitted: Vec::new(),
            used: 0,
            latest: Timestamp::EPOCH,
        }
    }

    /// A new owner knows nothing of who was heard, gives everybody the time that anybody may have been told, and
    /// calls guests again who were called.
    pub fn forget_presence(&mut self) {
        self.flow = 0;
        self.quiet = 0;
        self.reported_at = None;
        let heard = (FIRST_SILENT_MS - self.policy.presence_ms).max(0);
        for entry in &mut self.entries {
            entry.heard = heard;
            entry.is_back = false;
        }
        self.forget_calls();
        self.told.clear();
    }

    /// A batch was taken back: all is as before, but for who was heard when.
    pub fn take_back(&mut self, before: Self) {
        let after = std::mem::replace(self, before);
        self.flow = after.flow;
        self.quiet = after.quiet;
        self.reported_at = after.reported_at;
        for (entry, known) in self.entries.iter_mut().zip(after.entries) {
            entry.heard = known.heard;
        }
    }

    pub fn decide(
        &mut self,
        command: &Command<Kind>,
        business: Timestamp,
        clock: Timestamp,
    ) -> Outcome {
        let now = business.max(self.latest);
        if business >= self.policy.opens_at || self.lobby.is_some() {
            self.open(now);
        }
        let is_late = clock > command.deadline;
        let refused = Outcome::Refused;
        match &command.kind {
            Kind::Join { code, .. } => {
                let is_good =
                    code.map_or(Ok(()), |code| self.may_use(&code, command.user, business));
                self.join(command, code.as_ref(), is_good, is_late, now)
            }
            Kind::Seen {
                tickets, others, ..
            } => {
                let gap = self.reported_at.map_or(0, |at| business.ms_since(at));
                self.quiet += gap.clamp(0, 3000);
                if *others || !tickets.is_empty() {
                    self.flow += self.quiet.min(self.policy.presence_ms / 5);
                    self.quiet = 0;
                }
                self.reported_at = self.reported_at.max(Some(business));
                tickets.iter().for_each(|no| self.hear(no.index()));
                Outcome::Applied
            }
            Kind::Holds { changes, .. } => {
                for change in changes {
                    let no = change.arrival_no.index();
                    if self.entries.get(no).map(|entry| entry.id) == Some(change.ticket_id) {
                        self.held(no, change.reservation_id, change.state, now);
                    }
                }
                Outcome::Applied
            }
            Kind::Sale { .. } => Outcome::Applied,
            // What is taken from whoever has a code is never too late.
            kind if is_late && !matches!(kind, Kind::RevokeCode { .. }) => {
                refused(Refusal::CommandExpired)
            }
            Kind::Leave { ticket_id, .. } => {
                let newest = self.newest(command.user);
                let newest =
                    newest.filter(|no| ticket_id.is_none_or(|id| self.entries[*no].id == id));
                let Some(no) = newest else {
                    return refused(Refusal::NotFound);
                };
                if self.entries[no].status.is_live() {
                    self.entries[no].status = TicketStatus::Left;
                    self.latest = now;
                }
                if self.entries[no].status == TicketStatus::Left {
                    let ticket_id = self.entries[no].id;
                    Outcome::Left { ticket_id }
                } else {
                    refused(Refusal::NotFound)
                }
            }
            Kind::Policy { change, .. } => {
                let is_sound = change.capacity.is_none_or(|v| CAPACITY.contains(&v))
                    && change
                        .rate_per_second
                        .is_none_or(|v| RATE_PER_SECOND.contains(&v))
                    && change.pass_ms.is_none_or(|v| PASS_MS.contains(&v))
                    && change.presence_ms.is_none_or(|v| PRESENCE_MS.contains(&v))
                    && change
                        .holds_per_pass
                        .is_none_or(|v| HOLDS_PER_PASS.contains(&v));
                if !is_sound {
                    return refused(Refusal::PolicyInvalid);
                }
                if self.is_cancelled && change.paused == Some(false) {
                    return refused(Refusal::ShowCancelled);
                }
                let before = (self.policy, self.is_cancelled);
                self.is_cancelled |= change.cancelled;
                let policy = &mut self.policy;
                policy.mode = change.mode.unwrap_or(policy.mode);
                policy.paused = self.is_cancelled || change.paused.unwrap_or(policy.paused);
                policy.opens_at = change.opens_at.unwrap_or(policy.opens_at);
                policy.capacity = change.capacity.unwrap_or(policy.capacity);
                policy.rate_per_second = change.rate_per_second.unwrap_or(policy.rate_per_second);
                policy.pass_ms = change.pass_ms.unwrap_or(policy.pass_ms);
                policy.presence_ms = change.presence_ms.unwrap_or(policy.presence_ms);
                policy.holds_per_pass = change.holds_per_pass.unwrap_or(policy.holds_per_pass);
                if before != (self.policy, self.is_cancelled) {
                    self.latest = now;
                }
                Outcome::Policy(self.policy)
            }
            Kind::NameBeacon { name, .. } => {
                if self.beacon_name.as_ref() == Some(name) {
                    Outcome::Applied
                } else if !self.entries.is_empty() || self.lobby.is_some() {
                    refused(Refusal::BeaconFixed)
                } else {
                    self.beacon_name = Some(name.clone());
                    self.latest = now;
                    Outcome::Applied
                }
            }
            Kind::RevokeCode { code_id, .. } => {
                if self.revoked.insert(*code_id) {
                    self.latest = now;
                }
                Outcome::Applied
            }
            Kind::RevealBeacon { value, .. } => {
                if self.beacon.as_ref() == Some(value) {
                    return Outcome::Applied;
                }
                if self.beacon.is_some() {
                    return refused(Refusal::BeaconFixed);
                }
                if self.lobby.is_none() || self.beacon_name.is_none() || self.line.is_some() {
                    return refused(Refusal::NotDue);
                }
                self.beacon = Some(value.clone());
                self.latest = now;
                self.open(now);
                Outcome::Applied
            }
        }
    }

    fn newest(&self, user: UserId) -> Option<usize> {
        self.entries.iter().rposition(|entry| entry.user == user)
    }

    fn join(
        &mut self,
        command: &Command<Kind>,
        code: Option<&Code>,
        is_good: Result<(), Refusal>,
        is_late: bool,
        now: Timestamp,
    ) -> Outcome {
        let id = TicketId(command.id.0);
        let newest = self.newest(command.user);
        let made = self.entries.iter().position(|entry| entry.id == id);
        let again = |model: &Self, no: usize| {
            if model.entries[no].fingerprint == command.fingerprint {
                Outcome::Joined(model.ticket(no, true))
            } else {
                Outcome::Refused(Refusal::KeyReused)
            }
        };
        if let Some(no) = newest {
            if made == Some(no) {
                return again(self, no);
            }
            let with = |code: Option<&Code>| code.map(|code| code.code_id);
            let by_code = |no: &usize| with(self.entries[*no].code.as_ref()) == with(code);
            if let Some(no) = made.filter(by_code).filter(|_| code.is_some()) {
                return again(self, no);
            }
            if self.entries[no].status.is_live() {
                self.hear(no);
                let is_in_line = self.entries[no].status == TicketStatus::Waiting
                    && self.entries[no].code.is_none();
                if code.is_none() || !is_in_line {
                    return Outcome::Joined(self.ticket(no, false));
                }
            }
        }
        let is_told = self.told.contains(&id);
        if let Some(no) = made.filter(|no| is_told || *no >= self.batch_from) {
            return again(self, no);
        }
        if is_told {
            return Outcome::Refused(Refusal::KeyReused);
        }
        if is_late {
            return Outcome::Refused(Refusal::CommandExpired);
        }
        if self.policy.mode == QueueMode::Off {
            return Outcome::Refused(Refusal::RoomOff);
        }
        if self.is_cancelled {
            return Outcome::Refused(Refusal::ShowCancelled);
        }
        let mine = self.entries.iter().filter(|it| it.user == command.user);
        if mine.count() >= usize::from(TICKETS_PER_USER) {
            return Outcome::Refused(Refusal::TicketsUsedUp);
        }
        if let Err(why) = is_good {
            return Outcome::Refused(why);
        }
        for entry in &mut self.entries {
            if entry.user == command.user && entry.status == TicketStatus::Waiting {
                entry.status = TicketStatus::Left;
            }
        }
        self.has_missed |= made.is_some() || self.elsewhere.contains(&id);
        let no = self.entries.len();
        self.entries.push(Entry {
            id,
            user: command.user,
            fingerprint: command.fingerprint,
            status: TicketStatus::Waiting,
            code: code.copied(),
            was_passed: false,
            was_early: false,
            is_back: false,
            heard: self.flow,
            pass_until: Timestamp::EPOCH,
            holds: Vec::new(),
        });
        self.line.iter_mut().for_each(|line| line.push(no));
        self.latest = now;
        Outcome::Joined(self.ticket(no, true))
    }

    fn hear(&mut self, no: usize) {
        if let Some(entry) = self.entries.get_mut(no) {
            entry.heard = self.flow;
            entry.is_back = entry.was_passed || entry.was_early;
        }
    }

    fn held(&mut self, no: usize, reservation: ReservationId, state: HoldState, now: Timestamp) {
        let entry = &mut self.entries[no];
        if entry.status != TicketStatus::Admitted {
            return;
        }
        let known = entry.holds.iter().position(|(id, ..)| *id == reservation);
        let at = known.unwrap_or_else(|| {
            entry.holds.push((reservation, Timestamp::EPOCH, false));
            entry.holds.len() - 1
        });
        let (_, until, is_over) = &mut entry.holds[at];
        match state {
            HoldState::Until(at) => *until = at.max(*until),
            HoldState::Over => *is_over = true,
            HoldState::Paid => {
                *is_over = true;
                entry.status = TicketStatus::Done;
                self.latest = now;
            }
        }
    }

    /// Closes the lobby if that is not done, and orders it if that can be done.
    fn open(&mut self, now: Timestamp) {
        let mode = self.policy.mode;
        if mode == QueueMode::Off {
            return;
        }
        if self.lobby.is_none() {
            let numbered = (0..).map(ArrivalNo).zip(&self.entries);
            let digest = numbered.fold(Digest::of_room(self.schedule), |digest, (no, entry)| {
                digest.with(no, entry.id)
            });
            self.lobby = Some((self.entries.len(), digest));
            self.latest = now;
        }
        let waits = mode == QueueMode::Draw && self.beacon_name.is_some() && self.beacon.is_none();
        if self.line.is_some() || waits {
            return;
        }
        let (size, digest) = self.lobby.expect("it was closed");
        let mut line: Vec<usize> = (0..self.entries.len()).collect();
        if mode == QueueMode::Draw {
            let beacon = self.beacon.as_deref().unwrap_or_default();
            let seed = self.secret.seed(digest, beacon);
            let drawn = Draw::new(seed, u32::try_from(size).unwrap()).order();
            drawn
                .iter()
                .zip(&mut line)
                .for_each(|(no, at)| *at = no.index());
        }
        self.line = Some(line);
        self.latest = now;
    }

    pub fn active(&self) -> usize {
        let all = self.entries.iter();
        all.filter(|entry| entry.status == TicketStatus::Admitted)
            .count()
    }

    pub fn tick(&mut self, clock: Timestamp) {
        let now = clock.max(self.latest);
        if now >= self.policy.opens_at.plus_ms(OPENING_GRACE_MS) || self.lobby.is_some() {
            self.open(now);
        }
        for entry in &mut self.entries {
            let is_due = entry.expires_at().plus_ms(LINGER_MS) <= now;
            if entry.status == TicketStatus::Admitted && is_due {
                entry.status = TicketStatus::Expired;
                self.latest = now;
            }
        }
        let Policy {
            mode,
            paused,
            opens_at,
            ..
        } = self.policy;
        if mode == QueueMode::Off || paused {
            return;
        }
        let is_open = self.line.is_some() && now >= opens_at;
        while self.may_admit(now) {
            let next = self.next_guest(is_open, now);
            let Some(no) = next.or_else(|| is_open.then(|| self.next())?) else {
                return;
            };
            self.latest = now;
            let until = now.plus_ms(self.policy.pass_ms);
            let entry = &mut self.entries[no];
            entry.status = TicketStatus::Admitted;
            entry.pass_until = until;
            if mode != QueueMode::Open {
                self.admitted.push((now, self.policy.rate_per_second));
                let cost = 1_000_000_i64.div_euclid(i64::from(self.policy.rate_per_second));
                let exact = 1_000_000 % i64::from(self.policy.rate_per_second) == 0;
                self.used = self.used.max(now.plus_ms(-1000).micros()) + cost + i64::from(!exact);
            }
        }
    }

    fn may_admit(&self, now: Timestamp) -> bool {
        let Policy {
            mode,
            capacity,
            rate_per_second,
            ..
        } = self.policy;
        let used = self.used.max(now.plus_ms(-1000).micros());
        // So much of the time that is left is one admission.
        let has_rate = (now.micros() - used) * i64::from(rate_per_second) >= 1_000_000;
        mode == QueueMode::Open || self.active() < capacity as usize && has_rate
    }

    pub fn is_present(&self, no: usize) -> bool {
        self.flow - self.entries[no].heard <= self.policy.presence_ms
    }

    /// Who is next in line: the first who had its turn and is present now, else who has its turn.
    fn next(&mut self) -> Option<usize> {
        let line = self.line.clone().expect("there is an order");
        let is_waiting = |model: &Self, no: usize| {
            let entry = &model.entries[no];
            entry.status == TicketStatus::Waiting && entry.code.is_none()
        };
        for &no in &line[..self.turned] {
            if is_waiting(self, no) && self.entries[no].is_back {
                if self.is_present(no) {
                    return Some(no);
                }
                self.entries[no].is_back = false;
            }
        }
        while self.turned < line.len() {
            let no = line[self.turned];
            self.turned += 1;
            if is_waiting(self, no) {
                if self.is_present(no) {
                    return Some(no);
                }
                self.entries[no].was_passed = true;
            }
        }
        None
    }

    fn ticket(&self, no: usize, is_new: bool) -> Ticket {
        let entry = &self.entries[no];
        let is_admitted = entry.status == TicketStatus::Admitted;
        Ticket {
            ticket_id: entry.id,
            schedule_id: self.schedule,
            arrival_no: ArrivalNo(u32::try_from(no).unwrap()),
            is_new,
            status: self.status(no),
            pass_expires_at: is_admitted.then(|| entry.expires_at()),
            is_guest: entry.code.is_some(),
            guest_no: entry.code.is_some().then(|| self.guests_before(no)),
            generation: Generation::default(),
        }
    }

    /// So many guests have a lower number.
    pub fn guests_before(&self, no: usize) -> u32 {
        let guests = self.entries[..no].iter().filter(|it| it.code.is_some());
        u32::try_from(guests.count()).unwrap()
    }

    pub fn status(&self, no: usize) -> TicketStatus {
        match self.entries[no].status {
            TicketStatus::Waiting if self.entries[no].code.is_some() => TicketStatus::Waiting,
            TicketStatus::Waiting
                if self.line.is_none() && self.lobby.is_none_or(|(size, _)| no < size) =>
            {
                TicketStatus::Lobby
            }
            status => status,
        }
    }
}
