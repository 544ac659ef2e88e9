//! The decisions on commands: checks in their fixed order, and what follows from them.

use super::changes::Step;
use super::tickets::State;
use super::{Changes, Known, NewTicket, Room, RoomUpdate, Slot, TicketUpdate, Times};
use onsale_schema::admission::{
    Code, HoldChange, HoldState, Kind, Outcome, Refusal, SEEN_MAX, TICKETS_MAX, TICKETS_PER_USER,
    Ticket, Watermark,
};
use onsale_schema::message::Command;
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, TicketId, Timestamp};

impl Room {
    /// Decides one command, applies its effects to this state and appends them to `changes`.
    ///
    /// # Panics
    /// When the command is for another schedule.
    pub fn decide(
        &mut self,
        command: &Command<Kind>,
        times: Times,
        changes: &mut Changes,
    ) -> Outcome {
        assert_eq!(command.kind.schedule_id(), self.row.schedule_id);
        let now = times.business.max(self.row.latest);
        // All that was sent before is decided by now: who joined in time is in the lobby.
        self.open(times.business >= self.row.policy.opens_at, now, changes);
        let is_late = times.clock > command.deadline;
        match &command.kind {
            Kind::Join { code, .. } => {
                self.join(command, code.as_ref(), is_late, times.business, changes)
            }
            Kind::Seen {
                tickets, others, ..
            } => {
                let is_heard = *others || !tickets.is_empty();
                let presence_ms = self.row.policy.presence_ms;
                self.presence.report(times.business, is_heard, presence_ms);
                for no in tickets.iter().take(SEEN_MAX) {
                    self.hear(*no, changes);
                }
                Outcome::Applied
            }
            Kind::Holds {
                notice_id,
                changes: holds,
                ..
            } => {
                let is_again = changes.notices_done.contains(notice_id);
                changes.notices_done.push(*notice_id);
                if !self.told.remove(notice_id) && !is_again {
                    for hold in holds {
                        self.hold(hold, now, changes);
                    }
                }
                Outcome::Applied
            }
            // What it tells of was read before.
            Kind::Sale { notice_id, .. } => {
                changes.notices_done.push(*notice_id);
                Outcome::Applied
            }
            // Who was told that nothing came of it must not lose its place afterwards. A code is revoked however
            // late: nobody has said it to lose it.
            Kind::Leave { .. }
            | Kind::Policy { .. }
            | Kind::NameBeacon { .. }
            | Kind::RevealBeacon { .. }
                if is_late =>
            {
                Outcome::Refused(Refusal::CommandExpired)
            }
            Kind::Leave { ticket_id, .. } => self.leave(command, *ticket_id, now, changes),
            Kind::Policy { change, .. } => self.amend(change, now, changes),
            Kind::NameBeacon { name, .. } => self.name_beacon(name, now, changes),
            Kind::RevealBeacon { value, .. } => self.reveal_beacon(value, now, changes),
            Kind::RevokeCode { code_id, .. } => self.revoke(*code_id, now, changes),
        }
    }

    /// Ends a batch: if it changed the room, the version grows by one, and the row and what everybody
    /// is to be told are appended to `changes`. To be called once for each room that a batch touched,
    /// with the changes of that batch.
    ///
    /// # Panics
    /// When it is called twice.
    pub fn seal(&mut self, business: Timestamp, changes: &mut Changes) {
        let id = self.row.schedule_id;
        let Some(mine) = changes.rooms.get_mut(&id) else {
            return;
        };
        assert!(mine.room.is_none(), "a batch is sealed once");
        if mine.before == self.row && mine.updates.is_empty() && mine.revoked.is_empty() {
            changes.rooms.remove(&id);
            return;
        }
        let from_version = self.row.version;
        self.row.version += 1;
        mine.room = Some(RoomUpdate {
            secret: self.secret,
            before: mine.before.clone(),
            after: self.row.clone(),
        });
        let told = mine.told();
        mine.watermark = Some(Watermark {
            from_version,
            changes: told,
            ..self.watermark(business.max(self.row.latest))
        });
    }

    fn join(
        &mut self,
        command: &Command<Kind>,
        code: Option<&Code>,
        is_late: bool,
        business: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let ticket_id = TicketId(command.id.0);
        let newest = self.tickets.newest(command.user);
        if let Some(no) = newest.filter(|no| self.tickets.is(*no, ticket_id)) {
            return self.joined_before(command, no);
        }
        let used = code.and_then(|code| self.guests.ticket(code.code_id, command.user));
        if let Some(no) = used.filter(|no| self.tickets.is(*no, ticket_id)) {
            return self.joined_before(command, no);
        }
        let live = newest.filter(|no| self.is_live(*no));
        if let Some(no) = live {
            self.hear(no, changes);
            if code.is_none() || !self.is_in_line(no) {
                return Outcome::Joined(self.ticket(no, false));
            }
        }
        let known = self.known.get(&ticket_id).copied();
        let in_batch = || changes.made(self.row.schedule_id, ticket_id);
        match known.or_else(|| newest.and_then(|_| in_batch()).map(Known::Here)) {
            Some(Known::Here(no)) => return self.joined_before(command, no),
            Some(Known::Elsewhere) => return Outcome::Refused(Refusal::KeyReused),
            None => {}
        }
        if is_late {
            return Outcome::Refused(Refusal::CommandExpired);
        }
        if self.row.policy.mode == QueueMode::Off {
            return Outcome::Refused(Refusal::RoomOff);
        }
        if self.row.is_cancelled {
            return Outcome::Refused(Refusal::ShowCancelled);
        }
        if self.row.arrivals >= TICKETS_MAX {
            return Outcome::Refused(Refusal::RoomFull);
        }
        if self.tickets.given(command.user) >= TICKETS_PER_USER {
            return Outcome::Refused(Refusal::TicketsUsedUp);
        }
        let room = self.row.schedule_id;
        let may_use = |code| self.guests.may_use(code, command.user, room, business);
        if let Some(Err(why)) = code.map(may_use) {
            return Outcome::Refused(why);
        }
        let now = business.max(self.row.latest);
        // Who was in line becomes a guest: the place there is given up for the new ticket.
        if let Some(no) = live {
            self.end(no, State::Left, now, changes);
        }
        let mine = changes.of(&self.row);
        let no = self
            .tickets
            .push(ticket_id, command.user, command.fingerprint, State::Waiting);
        self.presence.hear(no);
        assert_eq!(no.0, self.row.arrivals, "Q1: numbers are dense");
        self.row.arrivals += 1;
        self.row.digest = self.row.digest.with(no, ticket_id);
        self.row.latest = now;
        mine.journal.push(Step::Joined(newest));
        mine.joined.push(NewTicket {
            arrival_no: no,
            ticket_id,
            user_id: command.user,
            fingerprint: command.fingerprint,
            status: TicketStatus::Waiting,
            joined_at: now,
            ended_at: None,
            access_code_id: code.map(|code| code.code_id),
        });
        if let Some(code) = code {
            self.invite(no, command.user, code, changes);
        }
        Outcome::Joined(self.ticket(no, true))
    }

    /// The answer to a command that made a ticket before, whatever has become of that.
    fn joined_before(&self, command: &Command<Kind>, no: ArrivalNo) -> Outcome {
        if self.tickets.asked(no, command.fingerprint) {
            Outcome::Joined(self.ticket(no, true))
        } else {
            Outcome::Refused(Refusal::KeyReused)
        }
    }

    fn leave(
        &mut self,
        command: &Command<Kind>,
        only: Option<TicketId>,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let newest = self.tickets.newest(command.user);
        let no = newest.filter(|no| only.is_none_or(|id| self.tickets.is(*no, id)));
        let Some(no) = no else {
            return Outcome::Refused(Refusal::NotFound);
        };
        if self.is_live(no) {
            self.end(no, State::Left, now, changes);
        }
        match self.tickets.state(no) {
            State::Left => Outcome::Left {
                ticket_id: self.tickets.id(no),
            },
            State::Waiting
            | State::Passed
            | State::Back
            | State::Early
            | State::Admitted
            | State::Expired
            | State::Done => Outcome::Refused(Refusal::NotFound),
        }
    }

    /// A ticket was heard. Who was passed over is next.
    fn hear(&mut self, no: ArrivalNo, changes: &mut Changes) {
        let Some(state) = self.tickets.get(no) else {
            return;
        };
        self.presence.hear(no);
        if state == State::Passed {
            self.turn(no, State::Back, changes);
            self.queue_back(no);
        }
    }

    /// Puts a ticket among those of its line that are let in before all others.
    pub(super) fn queue_back(&mut self, no: ArrivalNo) {
        if self.guests.is_one(no) {
            self.guests.queue_back(no);
            return;
        }
        let line = self.line.as_ref();
        let line = line.expect("nobody is passed over before there is an order");
        self.back.insert((line.place(no), no));
    }

    /// What became of a hold. Who has no pass any more has nothing to keep or to lose.
    fn hold(&mut self, hold: &HoldChange, now: Timestamp, changes: &mut Changes) {
        let no = hold.arrival_no;
        let is_it = self.tickets.is(no, hold.ticket_id);
        let Some(slot) = self.slots.get(no).filter(|_| is_it) else {
            return;
        };
        let told = slot.told(hold.reservation_id, hold.state);
        if told != *slot {
            self.keep(no, told, changes);
        }
        match hold.state {
            HoldState::Paid => self.end(no, State::Done, now, changes),
            HoldState::Until(_) | HoldState::Over => {}
        }
    }

    /// Changes what an admitted ticket has.
    fn keep(&mut self, no: ArrivalNo, slot: Slot, changes: &mut Changes) {
        let mine = changes.of(&self.row);
        let before = self.slots.set(no, Some(slot.clone()));
        mine.journal.push(Step::Slot(no, before));
        let admitted = TicketStatus::Admitted;
        mine.update(
            no,
            TicketUpdate {
                from: admitted,
                to: admitted,
                slot: Some(slot),
                ended_at: None,
            },
        );
    }

    /// Ends a live ticket, and frees its slot if it has one.
    pub(super) fn end(&mut self, no: ArrivalNo, to: State, now: Timestamp, changes: &mut Changes) {
        assert!(
            self.is_live(no) && !to.stored().is_live(),
            "a ticket ends once"
        );
        let mine = changes.of(&self.row);
        let before = self.set_state(no, to);
        let slot = self.slots.set(no, None);
        assert_eq!(slot.is_some(), before == State::Admitted);
        mine.journal.push(Step::State(no, before));
        mine.journal.push(Step::Slot(no, slot.clone()));
        mine.update(
            no,
            TicketUpdate {
                from: before.stored(),
                to: to.stored(),
                slot,
                ended_at: Some(now),
            },
        );
        self.row.latest = now;
    }

    /// Changes a state that is in no row.
    pub(super) fn turn(&mut self, no: ArrivalNo, to: State, changes: &mut Changes) {
        let before = self.set_state(no, to);
        assert_eq!(before.stored(), to.stored(), "the row says the same");
        changes.of(&self.row).journal.push(Step::State(no, before));
    }

    /// Changes how far a ticket is, in whatever line; returns how far it was.
    pub(super) fn set_state(&mut self, no: ArrivalNo, to: State) -> State {
        let before = self.tickets.set_state(no, to);
        if self.guests.is_one(no) {
            self.guests.turned(no, before, to);
        }
        before
    }

    /// Whether a ticket waits in the line, or will when it has an order, and is no guest's.
    fn is_in_line(&self, no: ArrivalNo) -> bool {
        let waits = self.tickets.state(no).stored() == TicketStatus::Waiting;
        waits && !self.guests.is_one(no)
    }

    fn is_live(&self, no: ArrivalNo) -> bool {
        self.tickets.state(no).stored().is_live()
    }

    fn ticket(&self, no: ArrivalNo, is_new: bool) -> Ticket {
        Ticket {
            ticket_id: self.tickets.id(no),
            schedule_id: self.row.schedule_id,
            arrival_no: no,
            is_new,
            status: self.status(no).expect("the ticket is known"),
            pass_expires_at: self.slots.get(no).map(Slot::expires_at),
            is_guest: self.guests.is_one(no),
            guest_no: self.guests.nth(no),
            generation: self.row.generation,
        }
    }
}
